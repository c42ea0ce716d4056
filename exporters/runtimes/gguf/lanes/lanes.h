/* What the entry point, the levels and their kernels share: block layouts, the task, the report. */
#ifndef MODELPORT_LANES_H
#define MODELPORT_LANES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* ggml's numbers for its types; the names of the formats follow them. */
enum { F32 = 0, F16 = 1, Q4_0 = 2, Q4_1 = 3, Q5_0 = 6, Q5_1 = 7, Q8_0 = 8, Q2_K = 10, Q3_K = 11, Q4_K = 12,
       Q5_K = 13, Q6_K = 14, BF16 = 30 };

enum { FROM_F32 = 0, FROM_F16 = 1, FROM_BF16 = 2 };
enum { VIA_NOTHING = 0, VIA_F16 = 1, VIA_BF16 = 2 };

#define SUPER 256                /* weights of a K-quant block */
#define CHUNK 16                 /* K-quant blocks that are taken together: a full vector of blocks at every level */
#define COLUMNS 32               /* sub-blocks that are searched together */
#define WEIGHTS (CHUNK * SUPER)  /* weights of a chunk; 16 KB of float32 */

#define INLINE static inline __attribute__((always_inline))
#define ALIGNED __attribute__((aligned(64)))

/* The shape of ggml_quantize_chunk: (type, source, target, first, rows, width, importance). */
typedef size_t (*ggml_chunk)(int, const float *, void *, int64_t, int64_t, int64_t, const float *);

struct report {
    int64_t nonfinite; /* NaN or infinite source values */
    int64_t overflow;  /* finite values that float16 turns into infinity, where they go through or into it */
    int64_t first;     /* element index of the first of either, or -1 */
};

struct task {
    int type, from, via;
    const void *source;
    void *target;
    int64_t rows, width;
    const float *importance; /* one float32 a column, or NULL */
    ggml_chunk ggml;         /* takes the blocks whose numbers the lanes do not vouch for */
};

/* Each returns 0, -1 where it has no kernel for the type or for this importance, or -2 where memory is short. */
int modelport_plain(const struct task *, struct report *);
int modelport_avx2(const struct task *, struct report *);
int modelport_avx512(const struct task *, struct report *);

struct q4_k { uint16_t d, dmin; uint8_t scales[12], qs[128]; };
struct q5_k { uint16_t d, dmin; uint8_t scales[12], qh[32], qs[128]; };
struct q6_k { uint8_t ql[128], qh[64]; int8_t scales[16]; uint16_t d; };
struct q3_k { uint8_t hmask[32], qs[64], scales[12]; uint16_t d; };
struct q2_k { uint8_t scales[16], qs[64]; uint16_t d, dmin; };
struct q8_0 { uint16_t d; int8_t qs[32]; };
struct q4_0 { uint16_t d; uint8_t qs[16]; };
struct q4_1 { uint16_t d, m; uint8_t qs[16]; };
struct q5_0 { uint16_t d; uint8_t qh[4], qs[16]; };
struct q5_1 { uint16_t d, m; uint8_t qh[4], qs[16]; };

static inline float from_bits(uint32_t bits) { float value; memcpy(&value, &bits, 4); return value; }
static inline uint32_t to_bits(float value) { uint32_t bits; memcpy(&bits, &value, 4); return bits; }

#endif
