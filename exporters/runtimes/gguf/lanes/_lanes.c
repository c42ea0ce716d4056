/* The extension module: an empty Python module whose C functions are called by ctypes, without the GIL. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "lanes.h"

enum { PLAIN = 0, AVX2 = 1, AVX512 = 2 };

#if defined(_WIN32)
#define EXPORTED __declspec(dllexport)
#else
#define EXPORTED __attribute__((visibility("default")))
#endif

/* The highest level that this processor has. */
EXPORTED int modelport_level(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return AVX512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c")) return AVX2;
#endif
    return PLAIN;
}

/* `rows` rows of `width` values of the source's type to ggml blocks of `type`, by the kernels of `level`.
 * Returns 0; -1 where that level has no kernel for it and nothing was written; -2 where memory is short. */
EXPORTED int64_t modelport_quantize(int level, int type, int from, int via, const void *source, void *target,
                                    int64_t rows, int64_t width, const float *importance, ggml_chunk ggml,
                                    struct report *report) {
    struct task task = {type, from, via, source, target, rows, width, importance, ggml};
    report->nonfinite = report->overflow = 0;
    report->first = -1;
    switch (level) {
#if defined(__x86_64__)
    case AVX512: return modelport_avx512(&task, report);
    case AVX2: return modelport_avx2(&task, report);
#endif
    default: return modelport_plain(&task, report);
    }
}

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_lanes", NULL, 0, NULL, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__lanes(void) { return PyModuleDef_Init(&module); }
