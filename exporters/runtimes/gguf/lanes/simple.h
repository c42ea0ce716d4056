/* q8_0, q4_0, q4_1, q5_0 and q5_1, with one scale to 32 weights; included once a level. */

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
        memset(tile.x + tile.blocks * BLOCK, 0, (COLUMNS - tile.blocks) * BLOCK * sizeof(float));
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
