/* The kernels with 16 lanes, for x86 with AVX-512 F, BW, DQ and VL. */
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,f16c"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,f16c")
#endif
#include <immintrin.h>

#include "lanes.h"

#define LEVEL modelport_avx512
#define W 16
typedef float vf __attribute__((vector_size(64)));
typedef __mmask16 vm;

INLINE vf load(const float *p) { return _mm512_loadu_ps(p); }
INLINE void store(float *p, vf a) { _mm512_storeu_ps(p, a); }
INLINE vf all(float a) { return _mm512_set1_ps(a); }
INLINE vf smaller(vf a, vf b) { return _mm512_min_ps(a, b); }
INLINE vf larger(vf a, vf b) { return _mm512_max_ps(a, b); }
/* For numbers that are no NaN, and a positive top, as integers: those units have less to do than the floats'. */
INLINE vf at_least_zero(vf a) { return (vf)_mm512_max_epi32((__m512i)a, _mm512_setzero_si512()); }
INLINE vf at_most(vf a, vf top) { return (vf)_mm512_min_epi32((__m512i)a, (__m512i)top); }
INLINE vf magnitude(vf a) { return _mm512_abs_ps(a); }
INLINE vf root(vf a) { return _mm512_sqrt_ps(a); }
INLINE vf rounded(vf a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE vf truncated(vf a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC); }
INLINE vm less(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
INLINE vm equal(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
INLINE vf pick(vm m, vf a, vf b) { return _mm512_mask_blend_ps(m, b, a); }
INLINE vm everywhere(void) { return 0xffff; }
INLINE vm both(vm a, vm b) { return a & b; }
INLINE vm either(vm a, vm b) { return a | b; }
INLINE vm except(vm a, vm b) { return a & ~b; }
INLINE unsigned lanes(vm m) { return m; }

/* 16 rows of 16, `stride` apart, as 16 columns of a matrix. */
INLINE void transpose_tile(const float *from, int stride, float *to) {
    __m512 a[16], b[16];
    for (int i = 0; i < 16; ++i) a[i] = _mm512_loadu_ps(from + i * stride);
    for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int k = 0; k < 2; ++k) {
            __m512d low = _mm512_castps_pd(b[i + k]), high = _mm512_castps_pd(b[i + k + 2]);
            a[i + 2 * k] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
            a[i + 2 * k + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
        }
    for (int k = 0; k < 4; ++k) {
        __m512 c = _mm512_shuffle_f32x4(a[k], a[4 + k], 0x88), d = _mm512_shuffle_f32x4(a[8 + k], a[12 + k], 0x88);
        __m512 e = _mm512_shuffle_f32x4(a[k], a[4 + k], 0xdd), f = _mm512_shuffle_f32x4(a[8 + k], a[12 + k], 0xdd);
        _mm512_storeu_ps(to + COLUMNS * k, _mm512_shuffle_f32x4(c, d, 0x88));
        _mm512_storeu_ps(to + COLUMNS * (k + 8), _mm512_shuffle_f32x4(c, d, 0xdd));
        _mm512_storeu_ps(to + COLUMNS * (k + 4), _mm512_shuffle_f32x4(e, f, 0x88));
        _mm512_storeu_ps(to + COLUMNS * (k + 12), _mm512_shuffle_f32x4(e, f, 0xdd));
    }
}

/* 16 whole numbers, modulo 256. */
INLINE void store_bytes(uint8_t *to, const vf *a) {
    _mm_storeu_si128((__m128i *)to, _mm512_cvtepi32_epi8(_mm512_cvttps_epi32(a[0])));
}

INLINE uint16_t half(float a) { return _cvtss_sh(a, 0); }
INLINE float whole(uint16_t a) { return _cvtsh_ss(a); }
INLINE void widen_half(const uint16_t *from, float *to, int n) {
    int i = 0;
    for (; i + 16 <= n; i += 16) store(to + i, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(from + i))));
    for (; i < n; ++i) to[i] = whole(from[i]);
}
INLINE void narrow_half(const float *from, uint16_t *to, int n) {
    int i = 0;
    for (; i + 16 <= n; i += 16) _mm256_storeu_si256((__m256i *)(to + i), _mm512_cvtps_ph(load(from + i), 0));
    for (; i < n; ++i) to[i] = half(from[i]);
}

#include "kernels.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
