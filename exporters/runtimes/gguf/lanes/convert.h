/* Source values to float32, with what is not finite counted on the way; included once a level. */

#define INFINITE 0x7f800000u
#define HALF_OVERFLOW 0x477ff000u /* 65520: from here on float16 rounds to infinity */

INLINE uint32_t bits_of(const struct task *t, int64_t at) {
    if (t->from == FROM_F32) return ((const uint32_t *)t->source)[at];
    if (t->from == FROM_BF16) return (uint32_t)((const uint16_t *)t->source)[at] << 16;
    return to_bits(whole(((const uint16_t *)t->source)[at]));
}

/* Rare: `n` values from `at` hold one that is not finite or does not fit float16. */
static void count_bad(const struct task *t, struct report *r, int64_t at, int64_t n) {
    int halves = t->via == VIA_F16 || t->type == F16;
    for (int64_t i = at; i < at + n; ++i) {
        uint32_t bits = bits_of(t, i) & 0x7fffffff;
        if (bits >= INFINITE) r->nonfinite++;
        else if (halves && bits >= HALF_OVERFLOW) r->overflow++;
        else continue;
        if (r->first < 0) r->first = i;
    }
}

INLINE uint16_t brain(uint32_t bits) {
    if ((bits & 0x7fffffff) > INFINITE) return (uint16_t)((bits >> 16) | 64);
    return (uint16_t)((bits + (0x7fff + ((bits >> 16) & 1))) >> 16);
}

/* `n` values from element `at`, as float32. Returns the bits of the largest magnitude. */
static uint32_t convert(const struct task *t, struct report *r, int64_t at, float *to, int n) {
    uint32_t top = 0;
    uint32_t *bits = (uint32_t *)to;
    if (t->from == FROM_F32) {
        const uint32_t *from = (const uint32_t *)t->source + at;
        for (int i = 0; i < n; ++i) {
            uint32_t value = from[i], size = value & 0x7fffffff;
            bits[i] = value;
            top = size > top ? size : top;
        }
    } else if (t->from == FROM_BF16) {
        const uint16_t *from = (const uint16_t *)t->source + at;
        for (int i = 0; i < n; ++i) {
            uint32_t value = (uint32_t)from[i] << 16, size = value & 0x7fffffff;
            bits[i] = value;
            top = size > top ? size : top;
        }
    } else {
        widen_half((const uint16_t *)t->source + at, to, n);
        for (int i = 0; i < n; ++i) {
            uint32_t size = bits[i] & 0x7fffffff;
            top = size > top ? size : top;
        }
    }
    if (top >= INFINITE || (top >= HALF_OVERFLOW && (t->via == VIA_F16 || t->type == F16))) count_bad(t, r, at, n);
    if (t->via == VIA_F16 && t->from != FROM_F16) {
        uint16_t narrow[WEIGHTS];
        narrow_half(to, narrow, n);
        widen_half(narrow, to, n);
    } else if (t->via == VIA_BF16 && t->from != FROM_BF16) {
        for (int i = 0; i < n; ++i) bits[i] = (uint32_t)brain(bits[i]) << 16;
    }
    return top;
}

/* Above this, or where a value is not finite, a block goes through ggml: squares might overflow. */
#define LARGEST 0x4e800000u /* 2^30 */

/* Which of up to 32 blocks of n values hold one that is larger, one bit each. */
static uint32_t vast(const float *x, int blocks, int n) {
    uint32_t found = 0;
    for (int i = 0; i < blocks * n; ++i)
        if ((to_bits(x[i]) & 0x7fffffff) > LARGEST) found |= 1u << i / n;
    return found;
}

/* float16, bfloat16 and float32. */
static int floats(const struct task *t, struct report *r) {
    float x[WEIGHTS] ALIGNED;
    const int64_t n = t->rows * t->width, size = t->type == F32 ? 4 : 2;
    const int from = t->type == F32 ? FROM_F32 : t->type == F16 ? FROM_F16 : FROM_BF16;
    const int via = t->type == F16 ? VIA_F16 : VIA_BF16;
    const int same = t->from == from && (t->via == VIA_NOTHING || (t->type != F32 && t->via == via));
    for (int64_t at = 0; at < n; at += WEIGHTS) {
        int count = n - at < WEIGHTS ? (int)(n - at) : WEIGHTS;
        char *to = (char *)t->target + at * size;
        if (convert(t, r, at, x, count) < INFINITE && same)
            memcpy(to, (const char *)t->source + at * size, count * size);
        else if (t->type == F16) narrow_half(x, (uint16_t *)to, count);
        else if (t->type == BF16)
            for (int i = 0; i < count; ++i) ((uint16_t *)to)[i] = brain(to_bits(x[i]));
        else memcpy(to, x, count * sizeof(float));
    }
    return 0;
}
