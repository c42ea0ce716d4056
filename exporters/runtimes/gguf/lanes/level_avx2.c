/* The kernels with 8 lanes, for x86 with AVX2 and F16C. */
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,f16c")
#endif
#include <immintrin.h>

#include "lanes.h"

#define LEVEL modelport_avx2
#define W 8
typedef float vf __attribute__((vector_size(32)));
typedef vf vm;

INLINE vf load(const float *p) { return _mm256_loadu_ps(p); }
INLINE void store(float *p, vf a) { _mm256_storeu_ps(p, a); }
INLINE vf all(float a) { return _mm256_set1_ps(a); }
INLINE vf smaller(vf a, vf b) { return _mm256_min_ps(a, b); }
INLINE vf larger(vf a, vf b) { return _mm256_max_ps(a, b); }
/* For numbers that are no NaN, and a positive top, as integers: those units have less to do than the floats'. */
INLINE vf at_least_zero(vf a) { return (vf)_mm256_max_epi32((__m256i)a, _mm256_setzero_si256()); }
INLINE vf at_most(vf a, vf top) { return (vf)_mm256_min_epi32((__m256i)a, (__m256i)top); }
INLINE vf magnitude(vf a) { return _mm256_andnot_ps(all(-0.f), a); }
INLINE vf root(vf a) { return _mm256_sqrt_ps(a); }
INLINE vf rounded(vf a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE vf truncated(vf a) { return _mm256_round_ps(a, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC); }
INLINE vm less(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
INLINE vm equal(vf a, vf b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
INLINE vf pick(vm m, vf a, vf b) { return _mm256_blendv_ps(b, a, m); }
INLINE vm everywhere(void) { return _mm256_castsi256_ps(_mm256_set1_epi32(-1)); }
INLINE vm both(vm a, vm b) { return _mm256_and_ps(a, b); }
INLINE vm either(vm a, vm b) { return _mm256_or_ps(a, b); }
INLINE vm except(vm a, vm b) { return _mm256_andnot_ps(b, a); }
INLINE unsigned lanes(vm m) { return (unsigned)_mm256_movemask_ps(m); }

/* 8 rows of 8, `stride` apart, as 8 columns of a matrix. */
INLINE void transpose_tile(const float *from, int stride, float *to) {
    __m256 a[8], b[8];
    for (int i = 0; i < 8; ++i) a[i] = load(from + i * stride);
    for (int i = 0; i < 8; i += 2) {
        b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
    }
    for (int i = 0; i < 8; i += 4)
        for (int k = 0; k < 2; ++k) {
            a[i + 2 * k] = _mm256_shuffle_ps(b[i + k], b[i + k + 2], 0x44);
            a[i + 2 * k + 1] = _mm256_shuffle_ps(b[i + k], b[i + k + 2], 0xee);
        }
    for (int k = 0; k < 4; ++k) {
        store(to + COLUMNS * k, _mm256_permute2f128_ps(a[k], a[4 + k], 0x20));
        store(to + COLUMNS * (k + 4), _mm256_permute2f128_ps(a[k], a[4 + k], 0x31));
    }
}

/* 16 whole numbers, modulo 256. */
INLINE void store_bytes(uint8_t *to, const vf *a) {
    const __m256i low = _mm256_set1_epi32(0xff);
    __m256i first = _mm256_and_si256(_mm256_cvttps_epi32(a[0]), low);
    __m256i second = _mm256_and_si256(_mm256_cvttps_epi32(a[1]), low);
    __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(first, second), 0xd8);
    __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128((__m128i *)to, bytes);
}

INLINE uint16_t half(float a) { return _cvtss_sh(a, 0); }
INLINE float whole(uint16_t a) { return _cvtsh_ss(a); }
INLINE void widen_half(const uint16_t *from, float *to, int n) {
    int i = 0;
    for (; i + 8 <= n; i += 8) store(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from + i))));
    for (; i < n; ++i) to[i] = whole(from[i]);
}
INLINE void narrow_half(const float *from, uint16_t *to, int n) {
    int i = 0;
    for (; i + 8 <= n; i += 8) _mm_storeu_si128((__m128i *)(to + i), _mm256_cvtps_ph(load(from + i), 0));
    for (; i < n; ++i) to[i] = half(from[i]);
}

#include "kernels.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
