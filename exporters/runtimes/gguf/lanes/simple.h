/* Formats with one scale to 32 weights, and plain float formats; included once a level. */

#define BLOCK 32
#define TILE (BLOCK * COLUMNS) /* weights of the blocks that are taken together: one a column */

/* The range of each of COLUMNS blocks. */
struct range { float low[COLUMNS], high[COLUMNS]; };

INLINE void ranges(const float *x, struct range *r) {
    float low[W * COLUMNS] ALIGNED, high[W * COLUMNS] ALIGNED, tile[W * COLUMNS] ALIGNED;
    for (int b = 0; b < COLUMNS; ++b) {
        vf min = load(x + b * BLOCK), max = min;
        for (int i = W; i < BLOCK; i += W) {
            vf value = load(x + b * BLOCK + i);
            min = smaller(value, min);
            max = larger(value, max);
        }
        store(low + b * W, min);
        store(high + b * W, max);
    }
    for (int v = 0; v < COLUMNS; v += W) {
        transpose_tile(low + v * W, W, tile);
        vf min = load(tile);
        for (int k = 1; k < W; ++k) min = smaller(load(tile + k * COLUMNS), min);
        store(r->low + v, min);
        transpose_tile(high + v * W, W, tile);
        vf max = load(tile);
        for (int k = 1; k < W; ++k) max = larger(load(tile + k * COLUMNS), max);
        store(r->high + v, max);
    }
}

struct tile {
    float x[TILE];                               /* the blocks, padded with zeros */
    float scale[COLUMNS], inverse[COLUMNS], low[COLUMNS];
    uint16_t d[COLUMNS], m[COLUMNS];
    int blocks;
    uint32_t left; /* blocks that ggml must do, one bit each */
};

/* Inverse scales; what is too small for its inverse is left to ggml. */
INLINE void invert(struct tile *t) {
    vf zero = all(0);
    for (int v = 0; v < COLUMNS; v += W) {
        vf scale = load(t->scale + v);
        vm none = equal(scale, zero);
        t->left |= (uint32_t)lanes(except(less(magnitude(scale), all(0x1p-100f)), none)) << v;
        store(t->inverse + v, clear(all(1) / scale, none));
    }
    narrow_half(t->scale, t->d, COLUMNS);
}

static void q8_0_tile(struct tile *t, struct q8_0 *to) {
    struct range r;
    ranges(t->x, &r);
    for (int v = 0; v < COLUMNS; v += W)
        store(t->scale + v, larger(magnitude(load(r.low + v)), magnitude(load(r.high + v))) / all(127));
    invert(t);
    for (int b = 0; b < t->blocks; ++b) {
        vf inverse = all(t->inverse[b]), a[BLOCK / W];
        for (int k = 0; k < BLOCK / W; ++k) {
            /* roundf: half away from zero; 0.49999997 lest what lies just below a half is rounded up */
            vf value = load(t->x + b * BLOCK + k * W) * inverse;
            a[k] = value + with_sign(all(0x1.fffffep-2f), value);
        }
        to[b].d = t->d[b];
        store_bytes((uint8_t *)to[b].qs, a);
        store_bytes((uint8_t *)to[b].qs + 16, a + 16 / W);
    }
}

/* Of a block's smallest and largest value the one of larger magnitude; the first in the block of two equal. */
INLINE float first_peak(const float *x, float low, float high) {
    if (-low != high) return -low > high ? low : high;
    if (high == 0) return 0;
    for (int i = 0; i < BLOCK; ++i)
        if (x[i] == low || x[i] == high) return x[i];
    return high;
}

/* Levels 0 to 2 * nmax - 1 of one block, in two halves, as ggml's casts give them. */
INLINE void half_levels(const float *x, vf inverse, vf minus, vf bias, vf top, vf *a, vf *b) {
    for (int k = 0; k < 16 / W; ++k) {
        a[k] = smaller(truncated((load(x + k * W) - minus) * inverse + bias), top);
        b[k] = smaller(truncated((load(x + 16 + k * W) - minus) * inverse + bias), top);
    }
}

/* 16 bytes of low nibbles, and the fifth bits of 32 levels. */
INLINE uint32_t pack_halves(const vf *a, const vf *b, int fifth, uint8_t *to) {
    vf both_halves[16 / W];
    uint32_t bits = 0;
    for (int k = 0; k < 16 / W; ++k) {
        vf first = a[k], second = b[k];
        if (fifth) {
            vm one = less(all(15.5f), first), two = less(all(15.5f), second);
            bits |= (uint32_t)lanes(one) << k * W | (uint32_t)lanes(two) << (16 + k * W);
            first = first - clear(all(16), except(everywhere(), one));
            second = second - clear(all(16), except(everywhere(), two));
        }
        both_halves[k] = first + second * all(16);
    }
    store_bytes(to, both_halves);
    return bits;
}

/* q4_0 and q5_0: the peak becomes -nmax. */
INLINE void signed_tile(struct tile *t, int nmax, struct q4_0 *to4, struct q5_0 *to5) {
    struct range r;
    vf a[16 / W], b[16 / W];
    ranges(t->x, &r);
    for (int i = 0; i < COLUMNS; ++i) t->scale[i] = first_peak(t->x + i * BLOCK, r.low[i], r.high[i]);
    for (int v = 0; v < COLUMNS; v += W) store(t->scale + v, load(t->scale + v) / all(-nmax));
    invert(t);
    for (int i = 0; i < t->blocks; ++i) {
        half_levels(t->x + i * BLOCK, all(t->inverse[i]), all(0), all(nmax + 0.5f), all(2 * nmax - 1), a, b);
        if (to4) {
            to4[i].d = t->d[i];
            pack_halves(a, b, 0, to4[i].qs);
        } else {
            uint32_t bits = pack_halves(a, b, 1, to5[i].qs);
            to5[i].d = t->d[i];
            memcpy(to5[i].qh, &bits, 4);
        }
    }
}

/* q4_1 and q5_1: from the smallest to the largest. */
INLINE void ranged_tile(struct tile *t, int nmax, struct q4_1 *to4, struct q5_1 *to5) {
    struct range r;
    vf a[16 / W], b[16 / W];
    ranges(t->x, &r);
    for (int i = 0; i < COLUMNS; ++i)
        if (r.low[i] == 0) { /* of two zeros the first: their signs are stored */
            const float *x = t->x + i * BLOCK;
            while (*x != 0) ++x;
            r.high[i] = r.high[i] == 0 ? *x : r.high[i];
            r.low[i] = *x;
        }
    for (int v = 0; v < COLUMNS; v += W) store(t->scale + v, (load(r.high + v) - load(r.low + v)) / all(nmax));
    invert(t);
    narrow_half(r.low, t->m, COLUMNS);
    for (int i = 0; i < t->blocks; ++i) {
        half_levels(t->x + i * BLOCK, all(t->inverse[i]), all(r.low[i]), all(0.5f), all(nmax), a, b);
        if (to4) {
            to4[i].d = t->d[i];
            to4[i].m = t->m[i];
            pack_halves(a, b, 0, to4[i].qs);
        } else {
            uint32_t bits = pack_halves(a, b, 1, to5[i].qs);
            to5[i].d = t->d[i];
            to5[i].m = t->m[i];
            memcpy(to5[i].qh, &bits, 4);
        }
    }
}

static void q4_0_tile(struct tile *t, struct q4_0 *to) { signed_tile(t, 8, to, NULL); }
static void q5_0_tile(struct tile *t, struct q5_0 *to) { signed_tile(t, 16, NULL, to); }
static void q4_1_tile(struct tile *t, struct q4_1 *to) { ranged_tile(t, 15, to, NULL); }
static void q5_1_tile(struct tile *t, struct q5_1 *to) { ranged_tile(t, 31, NULL, to); }

INLINE int bytes_of(int type) {
    switch (type) {
    case Q4_0: return sizeof(struct q4_0);
    case Q4_1: return sizeof(struct q4_1);
    case Q5_0: return sizeof(struct q5_0);
    case Q5_1: return sizeof(struct q5_1);
    default: return sizeof(struct q8_0);
    }
}

/* Every row of the task, 32 blocks at a time, without importance (which q8_0 has no use for). */
static int simple(const struct task *t, struct report *r) {
    const int bytes = bytes_of(t->type);
    const int64_t blocks = t->rows * (t->width / BLOCK);
    struct tile tile ALIGNED;
    for (int64_t at = 0; at < blocks; at += COLUMNS) {
        tile.blocks = blocks - at < COLUMNS ? (int)(blocks - at) : COLUMNS;
        tile.left = 0;
        uint32_t top = convert(t, r, at * BLOCK, tile.x, tile.blocks * BLOCK);
        if (tile.blocks < COLUMNS) memset(tile.x + tile.blocks * BLOCK, 0, (COLUMNS - tile.blocks) * BLOCK * sizeof(float));
        void *to = (char *)t->target + at * bytes;
        switch (t->type) {
        case Q4_0: q4_0_tile(&tile, to); break;
        case Q4_1: q4_1_tile(&tile, to); break;
        case Q5_0: q5_0_tile(&tile, to); break;
        case Q5_1: q5_1_tile(&tile, to); break;
        default: q8_0_tile(&tile, to);
        }
        if (top > LARGEST) tile.left |= vast(tile.x, tile.blocks, BLOCK);
        if (tile.blocks < COLUMNS) tile.left &= (1u << tile.blocks) - 1;
        for (; tile.left; tile.left &= tile.left - 1) {
            int b = __builtin_ctz(tile.left);
            t->ggml(t->type, tile.x + b * BLOCK, (char *)to + b * bytes, 0, 1, BLOCK, NULL);
        }
    }
    return 0;
}

struct important {
    float x[TILE], given[TILE];
    struct fits fits;
    struct spans spans;
};

/* One tile of a row of q4_0 or q5_0 with importance. */
INLINE void important_signed(struct important *p, const float *x, const float *w, int blocks, int nmax, struct q4_0 *to4,
                             struct q5_0 *to5) {
    span(x, w, COLUMNS, BLOCK, nmax, &p->spans, 0);
    for (int b = 0; b < blocks; ++b) {
        float step = p->spans.step[b];
        uint8_t l[BLOCK], *qs = to4 ? to4[b].qs : to5[b].qs;
        uint32_t bits = 0;
        for (int i = 0; i < BLOCK; ++i)
            l[i] = (uint8_t)(step == 0 ? 0 : clamp(nearest(step * p->x[b * BLOCK + i]), -nmax, nmax - 1) + nmax);
        for (int i = 0; i < 16; ++i) qs[i] = (l[i] & 0xf) | (uint8_t)(l[i + 16] << 4);
        for (int i = 0; i < BLOCK; ++i) bits |= (uint32_t)(l[i] >> 4) << i;
        *(to4 ? &to4[b].d : &to5[b].d) = half(p->spans.scale[b]);
        if (to5) memcpy(to5[b].qh, &bits, 4);
    }
}

/* One tile of a row of q4_1 or q5_1 with importance. Returns the blocks that are left to ggml. */
INLINE uint32_t important_ranged(struct important *p, const float *x, const float *w, int blocks, int nmax,
                                 struct q4_1 *to4, struct q5_1 *to5) {
    const struct fits *f = &p->fits;
    uint32_t odd = search(x, w, BLOCK, nmax, -0.9f, 0.05f, 36, 0, &p->fits, 0);
    for (int b = 0; b < blocks; ++b) {
        uint8_t l[BLOCK], *qs = to4 ? to4[b].qs : to5[b].qs;
        uint32_t bits = 0;
        for (int i = 0; i < BLOCK; ++i)
            l[i] = (uint8_t)clamp(nearest(f->step[b] * (p->x[b * BLOCK + i] - f->base[b])), 0, nmax);
        for (int i = 0; i < 16; ++i) qs[i] = (l[i] & 0xf) | (uint8_t)(l[i + 16] << 4);
        for (int i = 0; i < BLOCK; ++i) bits |= (uint32_t)(l[i] >> 4) << i;
        *(to4 ? &to4[b].d : &to5[b].d) = half(f->scale[b]);
        *(to4 ? &to4[b].m : &to5[b].m) = half(-f->low[b]);
        if (to5) memcpy(to5[b].qh, &bits, 4);
    }
    return odd;
}

/* The mean square of each of up to 16 rows, in the order of the values; one row a lane. */
static void row_spreads(const struct task *t, int64_t row, int rows, float *p, float *sigma2) {
    struct report ignored = {0, 0, 0};
    memset(sigma2, 0, 16 * sizeof(float));
    memset(p, 0, TILE * sizeof(float));
    for (int64_t i = 0; i < t->width; i += BLOCK) {
        for (int k = 0; k < rows; ++k) convert(t, &ignored, (row + k) * t->width + i, p + k * BLOCK, BLOCK);
        row_squares(p, BLOCK, BLOCK, sigma2);
    }
    for (int k = 0; k < 16; ++k) sigma2[k] = sigma2[k] / t->width;
}

/* q4_0, q4_1, q5_0 and q5_1 with importance: sigma2 is a row's, so that rows are taken one by one. Returns
 * whether a number of this row is out of bounds, so that ggml must do it. */
static int important_row(const struct task *t, struct report *r, int64_t row, float sigma2, struct important *p) {
    float x[TILE] ALIGNED, w[TILE] ALIGNED, spread[COLUMNS] ALIGNED;
    const int bytes = bytes_of(t->type);
    int odd = 0;
    for (int k = 0; k < COLUMNS; ++k) spread[k] = sigma2;
    for (int64_t i = 0; i < t->width; i += TILE) {
        int n = t->width - i < TILE ? (int)(t->width - i) : TILE, blocks = n / BLOCK;
        odd |= convert(t, r, row * t->width + i, p->x, n) > LARGEST;
        memcpy(p->given, t->importance + i, n * sizeof(float));
        memset(p->x + n, 0, (TILE - n) * sizeof(float));
        memset(p->given + n, 0, (TILE - n) * sizeof(float));
        columns(p->x, BLOCK, x);
        columns(p->given, BLOCK, w);
        important_weights(x, w, BLOCK, spread);
        void *to = (char *)t->target + (row * t->width + i) / BLOCK * bytes;
        switch (t->type) {
        case Q4_0: important_signed(p, x, w, blocks, 8, to, NULL); break;
        case Q5_0: important_signed(p, x, w, blocks, 16, NULL, to); break;
        case Q4_1: odd |= important_ranged(p, x, w, blocks, 15, to, NULL) != 0; break;
        default: odd |= important_ranged(p, x, w, blocks, 31, NULL, to) != 0;
        }
    }
    return odd;
}

/* A row for ggml: as float32 on the heap, for it may be long. False where there is no memory. */
static int row_by_ggml(const struct task *t, int64_t row) {
    struct report ignored = {0, 0, 0};
    float *x = malloc(t->width * sizeof(float));
    if (!x) return 0;
    for (int64_t i = 0; i < t->width; i += TILE)
        convert(t, &ignored, row * t->width + i, x + i, t->width - i < TILE ? (int)(t->width - i) : TILE);
    t->ggml(t->type, x, (char *)t->target + row * t->width / BLOCK * bytes_of(t->type), 0, 1, t->width, t->importance);
    free(x);
    return 1;
}

static int important(const struct task *t, struct report *r) {
    float sigma2[16];
    struct important p ALIGNED;
    for (int64_t row = 0; row < t->rows; row += 16) {
        int rows = t->rows - row < 16 ? (int)(t->rows - row) : 16;
        row_spreads(t, row, rows, p.x, sigma2);
        for (int k = 0; k < rows; ++k)
            if (important_row(t, r, row + k, sigma2[k], &p) && !row_by_ggml(t, row + k)) return -2;
    }
    return 0;
}

/* float16, bfloat16 and float32. */
static int floats(const struct task *t, struct report *r) {
    float x[TILE] ALIGNED;
    const int64_t n = t->rows * t->width, size = t->type == F32 ? 4 : 2;
    const int from = t->type == F32 ? FROM_F32 : t->type == F16 ? FROM_F16 : FROM_BF16;
    const int via = t->type == F16 ? VIA_F16 : VIA_BF16;
    const int same = t->from == from && (t->via == VIA_NOTHING || (t->type != F32 && t->via == via));
    for (int64_t at = 0; at < n; at += TILE) {
        int count = n - at < TILE ? (int)(n - at) : TILE;
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
