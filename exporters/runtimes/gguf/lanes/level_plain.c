/* The kernels with 4 lanes in the compiler's own vector types, for every other processor: SSE2, NEON, RISC-V. */
#include <math.h>

#include "lanes.h"

#define LEVEL modelport_plain
#define W 4
typedef float vf __attribute__((vector_size(16)));
typedef int32_t vm __attribute__((vector_size(16)));

INLINE vf load(const float *p) { vf a; memcpy(&a, p, sizeof a); return a; }
INLINE void store(float *p, vf a) { memcpy(p, &a, sizeof a); }
INLINE vf all(float a) { return (vf){a, a, a, a}; }
INLINE vm less(vf a, vf b) { return a < b; }
INLINE vm equal(vf a, vf b) { return a == b; }
INLINE vf pick(vm m, vf a, vf b) { return (vf)(((vm)a & m) | ((vm)b & ~m)); }
INLINE vm everywhere(void) { return (vm){-1, -1, -1, -1}; }
INLINE vm both(vm a, vm b) { return a & b; }
INLINE vm either(vm a, vm b) { return a | b; }
INLINE vm except(vm a, vm b) { return a & ~b; }
INLINE unsigned lanes(vm m) {
    return (m[0] & 1u) | (m[1] & 2u) | (m[2] & 4u) | (m[3] & 8u);
}
INLINE vf magnitude(vf a) { return (vf)((vm)a & 0x7fffffff); }
/* Like the processor's own instructions where it has them, the second where the two do not compare. */
#if defined(__SSE2__)
#include <emmintrin.h>
INLINE vf smaller(vf a, vf b) { return (vf)_mm_min_ps((__m128)a, (__m128)b); }
INLINE vf larger(vf a, vf b) { return (vf)_mm_max_ps((__m128)a, (__m128)b); }
INLINE vf root(vf a) { return (vf)_mm_sqrt_ps((__m128)a); }
#else
INLINE vf smaller(vf a, vf b) { return pick(a < b, a, b); }
INLINE vf larger(vf a, vf b) { return pick(a > b, a, b); }
INLINE vf root(vf a) { return (vf){sqrtf(a[0]), sqrtf(a[1]), sqrtf(a[2]), sqrtf(a[3])}; }
#endif
INLINE vf at_least_zero(vf a) { return larger(a, all(0)); }
INLINE vf at_most(vf a, vf top) { return smaller(a, top); }
#if defined(__aarch64__)
#include <arm_neon.h>
INLINE vf rounded(vf a) { return (vf)vrndnq_f32((float32x4_t)a); }
#else
/* To nearest, ties to even, for |a| < 2^22. */
INLINE vf rounded(vf a) { return (a + all(12582912.f)) - all(12582912.f); }
#endif

INLINE vf truncated(vf a) { return __builtin_convertvector(__builtin_convertvector(a, vm), vf); }

/* 16 whole numbers, modulo 256. */
INLINE void store_bytes(uint8_t *to, const vf *a) {
    for (int k = 0; k < 4; ++k) {
        vm whole = __builtin_convertvector(a[k], vm);
        for (int i = 0; i < 4; ++i) to[4 * k + i] = (uint8_t)whole[i];
    }
}

/* 4 rows of 4, `stride` apart, as 4 columns of a matrix. */
INLINE void transpose_tile(const float *from, int stride, float *to) {
    for (int i = 0; i < 4; ++i)
        for (int k = 0; k < 4; ++k) to[k * COLUMNS + i] = from[i * stride + k];
}

/* float16 by bits; for finite values these are IEEE 754's conversions, to nearest with ties to even. */
INLINE float whole(uint16_t a) {
    uint32_t sign = (uint32_t)(a & 0x8000) << 16, rest = a & 0x7fff;
    if (rest >= 0x7c00) return from_bits(sign | 0x7f800000 | (rest & 0x3ff) << 13);
    if (rest >= 0x0400) return from_bits(sign | ((rest << 13) + 0x38000000));
    return from_bits(sign | to_bits((float)rest * 0x1p-24f));
}
INLINE uint16_t half(float a) {
    uint32_t bits = to_bits(a), sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
    if (size > 0x7f800000) return sign | 0x7e00;
    if (size >= 0x477ff000) return sign | 0x7c00;
    if (size < 0x38800000) return sign | (to_bits(from_bits(size) + 0.5f) & 0xffff); /* subnormal: units of 2^-24 */
    return sign | ((size + 0xfff + (size >> 13 & 1) - 0x38000000) >> 13);
}
INLINE void widen_half(const uint16_t *from, float *to, int n) {
    for (int i = 0; i < n; ++i) to[i] = whole(from[i]);
}
INLINE void narrow_half(const float *from, uint16_t *to, int n) {
    for (int i = 0; i < n; ++i) to[i] = half(from[i]);
}

#include "kernels.h"
