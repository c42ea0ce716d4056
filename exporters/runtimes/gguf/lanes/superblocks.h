/* K-quants: chunks of 16 blocks of 256 weights to their bytes; included once a level. */

/* ggml's rounding, also where the value is far outside of what the lanes let in. */
INLINE int nearest(float value) { return (int)(to_bits(value + 12582912.f) & 0x007fffff) - 0x00400000; }
INLINE vf nearest_whole(vf value) {
    return __builtin_convertvector(((whole_lanes)(value + all(12582912.f)) & 0x007fffff) - 0x00400000, vf);
}
INLINE int clamp(int value, int low, int high) { return value < low ? low : value > high ? high : value; }

/* 16 levels as bytes: round((x + m) / d) from low to high, raised by -low. */
INLINE void store_levels(const float *x, float m, float d, int low, int high, uint8_t *to) {
    vf a[16 / W];
    for (int k = 0; k < 16 / W; ++k) {
        vf level = nearest_whole((load(x + k * W) + all(m)) / all(d));
        a[k] = smaller(larger(level, all(low)), all(high)) - all(low);
    }
    store_bytes(to, a);
}

struct chunk {
    float x[WEIGHTS];     /* the blocks, padded with zeros */
    float given[WEIGHTS]; /* importance of each value, where there is any */
    int blocks, important;
    unsigned left; /* blocks that ggml must do, one bit each */
};

/* COLUMNS rows of n elements, one after the other, as the columns of a matrix. */
INLINE void columns(const float *x, int n, float *to) {
    for (int c = 0; c < COLUMNS; c += W)
        for (int i = 0; i < n; i += W) transpose_tile(x + c * n + i, n, to + i * COLUMNS + c);
}

/* Sum of x^2 of each of 16 rows of n values, in the order of the values: one row a lane. */
INLINE void row_squares(const float *x, int n, int stride, float *sums) {
    float tile[W * COLUMNS] ALIGNED;
    for (int c = 0; c < 16; c += W) {
        vf sum = load(sums + c);
        for (int i = 0; i < n; i += W) {
            transpose_tile(x + c * stride + i, stride, tile);
            for (int k = 0; k < W; ++k) sum = sum + load(tile + k * COLUMNS) * load(tile + k * COLUMNS);
        }
        store(sums + c, sum);
    }
}

/* Without importance: |x|, plus the sub-block's root mean square where `spread`. */
INLINE void plain_weights(const float *x, float *w, int n, int spread) {
    for (int v = 0; v < COLUMNS; v += W) {
        vf sum = all(0);
        for (int i = 0; spread && i < n; ++i) sum = sum + load(x + i * COLUMNS + v) * load(x + i * COLUMNS + v);
        sum = root(sum / all(n));
        for (int i = 0; i < n; ++i) {
            vf size = magnitude(load(x + i * COLUMNS + v));
            store(w + i * COLUMNS + v, spread ? sum + size : size);
        }
    }
}

/* importance * sqrt(sigma2 + x^2), in place of the importance in w; sigma2 is one float a column. */
INLINE void important_weights(const float *x, float *w, int n, const float *sigma2) {
    for (int v = 0; v < COLUMNS; v += W)
        for (int i = 0; i < n; ++i) {
            vf value = load(x + i * COLUMNS + v), sum = load(sigma2 + v) + value * value;
            store(w + i * COLUMNS + v, load(w + i * COLUMNS + v) * root(sum));
        }
}

/* The columns of sub-blocks `at` to `at` + COLUMNS of n elements, and their weights by importance. */
INLINE void weigh(const struct chunk *c, int at, int n, const float *sigma2, float *x, float *w) {
    float spread[COLUMNS] ALIGNED;
    columns(c->given + at * n, n, w);
    for (int k = 0; k < COLUMNS; ++k) spread[k] = sigma2[(at + k) * n / SUPER];
    important_weights(x, w, n, spread);
}

/* `factor` * the mean square of every block, as q2_K to q5_K weigh by importance. */
INLINE void spread_of(const struct chunk *c, float factor, float *sigma2) {
    float sums[CHUNK] ALIGNED = {0};
    row_squares(c->x, SUPER, SUPER, sums);
    for (int b = 0; b < CHUNK; ++b) sigma2[b] = factor * sums[b] / SUPER;
}

INLINE void leave(struct chunk *c, uint32_t odd, int at, int n) {
    for (; odd; odd &= odd - 1) c->left |= 1u << ((at + __builtin_ctz(odd)) * n / SUPER);
}

/* The fits of every sub-block of n elements of a chunk of q2_K, q4_K or q5_K. */
INLINE void fit_chunk(struct chunk *c, int n, int nmax, float rmin, float rdelta, int nstep, int mad, float factor,
                      struct fits *f) {
    float x[32 * COLUMNS] ALIGNED, w[32 * COLUMNS] ALIGNED, sigma2[CHUNK] ALIGNED;
    if (c->important) spread_of(c, factor, sigma2);
    for (int at = 0; at * n < c->blocks * SUPER; at += COLUMNS) {
        columns(c->x + at * n, n, x);
        if (c->important) {
            weigh(c, at, n, sigma2, x, w);
            leave(c, search(x, w, n, nmax, -0.9f, 0.05f, 36, 0, f, at), at, n);
        } else {
            plain_weights(x, w, n, !mad);
            leave(c, search(x, w, n, nmax, rmin, rdelta, nstep, mad, f, at), at, n);
        }
    }
}

/* The levels of one sub-block of q2_K, q4_K or q5_K for its final scale d and minimum m; where d is 0, those
 * that the search left. */
INLINE void final_levels(const float *x, float d, float m, int n, int nmax, const struct fits *f, int at, uint8_t *to) {
    if (d == 0)
        for (int i = 0; i < n; ++i) to[i] = clamp(nearest(f->step[at] * (x[i] - f->base[at])), 0, nmax);
    else
        for (int i = 0; i < n; i += 16) store_levels(x + i, m, d, 0, nmax, to + i);
}

/* The n scales (or minima) of every block of a chunk: their unit, and each one's level. */
struct shares { float scale[CHUNK]; uint16_t unit[CHUNK]; uint8_t levels[FITS]; };

/* Values of 16 blocks, n each, as a matrix with one column a block. */
INLINE void block_columns(const float *values, int n, float *to) {
    for (int c = 0; c < CHUNK; c += W)
        for (int i = 0; i < n; i += W) transpose_tile(values + c * n + i, n, to + i * COLUMNS + c);
}

/* make_qp_quants over every block, one a lane. */
INLINE void share(struct chunk *c, const float *values, const float *weights, int n, int nmax, struct shares *out) {
    float x[16 * COLUMNS] ALIGNED, w[16 * COLUMNS] ALIGNED, levels[16 * COLUMNS] ALIGNED;
    block_columns(values, n, x);
    block_columns(weights, n, w);
    for (int v = 0; v < CHUNK; v += W) c->left |= share_vector(x + v, w + v, n, nmax, out->scale + v, levels + v) << v;
    for (int b = 0; b < CHUNK; ++b)
        for (int j = 0; j < n; ++j) out->levels[b * n + j] = (uint8_t)(int)levels[j * COLUMNS + b];
    narrow_half(out->scale, out->unit, CHUNK);
}

/* Without importance: in proportion to the largest, which becomes `top`. */
INLINE void proportion(const float *values, int n, float top, struct shares *out) {
    float x[16 * COLUMNS] ALIGNED, inverse[CHUNK] ALIGNED;
    block_columns(values, n, x);
    for (int v = 0; v < CHUNK; v += W) {
        vf max = all(0);
        for (int j = 0; j < n; ++j) max = larger(load(x + j * COLUMNS + v), max);
        vm some = less(all(0), max);
        store(inverse + v, pick(some, all(top) / max, all(0)));
        store(out->scale + v, max / all(top));
    }
    narrow_half(out->scale, out->unit, CHUNK);
    for (int i = 0; i < CHUNK * n; i += 16) {
        vf a[16 / W];
        for (int k = 0; k < 16 / W; ++k) {
            float spread[W];
            for (int j = 0; j < W; ++j) spread[j] = inverse[(i + k * W + j) / n];
            a[k] = nearest_whole(load(spread) * load(values + i + k * W));
        }
        store_bytes(out->levels + i, a);
    }
}

INLINE void share_out(struct chunk *c, const float *values, const float *weights, int n, int top, struct shares *out) {
    if (c->important) share(c, values, weights, n, top, out);
    else proportion(values, n, (float)top, out);
}

/* The 6-bit scales and minima of q4_K and q5_K, 8 of each, in their 12 bytes. */
INLINE void pack_scales(const uint8_t *scales, const uint8_t *lows, uint8_t *to) {
    uint32_t s[2], m[2];
    memcpy(s, scales, 8);
    memcpy(m, lows, 8);
    const uint32_t packed[3] = {s[0] | (s[1] & 0x30303030) << 2, m[0] | (m[1] & 0x30303030) << 2,
                                (s[1] & 0x0f0f0f0f) | (m[1] & 0x0f0f0f0f) << 4};
    memcpy(to, packed, 12);
}

INLINE void nibbles(const uint8_t *levels, uint8_t *to) {
    for (int j = 0; j < 4; ++j)
        for (int i = 0; i < 32; ++i)
            to[32 * j + i] = (levels[64 * j + i] & 0xf) | (uint8_t)(levels[64 * j + 32 + i] << 4);
}

/* Two bits of each of 256 levels, four to a byte, as q2_K, q3_K and q6_K lay them out. */
INLINE void quarters(const uint8_t *levels, int shift, uint8_t *to) {
    for (int h = 0; h < 2; ++h)
        for (int i = 0; i < 32; ++i) {
            const uint8_t *l = levels + 128 * h + i;
            to[32 * h + i] = (uint8_t)((l[0] >> shift & 3) | (l[32] >> shift & 3) << 2 | (l[64] >> shift & 3) << 4 |
                                       (l[96] >> shift & 3) << 6);
        }
}

/* q4_K and q5_K, whose blocks differ in the fifth bit. */
INLINE void affine_chunk(struct chunk *c, int nmax, float rmin, int nstep, struct q4_k *to4, struct q5_k *to5) {
    struct fits f;
    struct shares scales, lows;
    uint8_t levels[SUPER] ALIGNED;
    fit_chunk(c, 32, nmax, rmin, 0.1f, nstep, 0, 2, &f);
    share_out(c, f.scale, f.weight, 8, 63, &scales);
    share_out(c, f.low, f.weight, 8, 63, &lows);
    for (int i = 0; i < CHUNK * 8; ++i) {
        scales.levels[i] = scales.levels[i] < 63 ? scales.levels[i] : 63;
        lows.levels[i] = lows.levels[i] < 63 ? lows.levels[i] : 63;
    }
    for (int b = 0; b < c->blocks; ++b) {
        const uint8_t *s = scales.levels + 8 * b, *m = lows.levels + 8 * b;
        float d = whole(scales.unit[b]), dmin = whole(lows.unit[b]);
        for (int j = 0; j < 8; ++j)
            final_levels(c->x + b * SUPER + 32 * j, d * s[j], dmin * m[j], 32, nmax, &f, 8 * b + j, levels + 32 * j);
        if (to4) {
            to4[b].d = scales.unit[b];
            to4[b].dmin = lows.unit[b];
            pack_scales(s, m, to4[b].scales);
            nibbles(levels, to4[b].qs);
            continue;
        }
        to5[b].d = scales.unit[b];
        to5[b].dmin = lows.unit[b];
        pack_scales(s, m, to5[b].scales);
        nibbles(levels, to5[b].qs);
        for (int i = 0; i < 32; ++i) {
            unsigned bits = 0;
            for (int j = 0; j < 8; ++j) bits |= (levels[32 * j + i] >> 4 & 1u) << j;
            to5[b].qh[i] = (uint8_t)bits;
        }
    }
}

static void q4_k_chunk(struct chunk *c, struct q4_k *to) { affine_chunk(c, 15, -1.f, 20, to, NULL); }
static void q5_k_chunk(struct chunk *c, struct q5_k *to) { affine_chunk(c, 31, -0.5f, 15, NULL, to); }

static void q2_k_chunk(struct chunk *c, struct q2_k *to) {
    struct fits f;
    struct shares scales, lows;
    uint8_t levels[SUPER] ALIGNED;
    fit_chunk(c, 16, 3, -0.5f, 0.1f, 15, 1, 1, &f);
    share_out(c, f.scale, f.weight, 16, 15, &scales);
    share_out(c, f.low, f.weight, 16, 15, &lows);
    for (int b = 0; b < c->blocks; ++b) {
        to[b].d = scales.unit[b];
        to[b].dmin = lows.unit[b];
        float d = whole(to[b].d), dmin = whole(to[b].dmin);
        for (int j = 0; j < 16; ++j) {
            int at = 16 * b + j;
            uint8_t code = to[b].scales[j] = scales.levels[at] | (uint8_t)(lows.levels[at] << 4);
            final_levels(c->x + at * 16, d * (code & 0xf), dmin * (code >> 4), 16, 3, &f, at, levels + 16 * j);
        }
        quarters(levels, 0, to[b].qs);
    }
}

/* The first scale of the largest magnitude of every block. */
INLINE void block_peaks(const struct spans *s, float *peaks) {
    float x[16 * COLUMNS] ALIGNED;
    block_columns(s->scale, 16, x);
    for (int v = 0; v < CHUNK; v += W) store(peaks + v, find_peak(x + v, 16).value);
}

/* The levels of one sub-block of q3_K or q6_K for its final scale d; where d is 0, those that the search left. */
INLINE void signed_levels(const float *x, float d, int nmax, float step, uint8_t *to) {
    if (d != 0) store_levels(x, -0.f, d, -nmax, nmax - 1, to);
    else
        for (int i = 0; i < 16; ++i)
            to[i] = (uint8_t)(step == 0 ? 0 : clamp(nearest(step * x[i]), -nmax, nmax - 1) + nmax);
}

static void q6_k_chunk(struct chunk *c, struct q6_k *to) {
    float x[16 * COLUMNS] ALIGNED, w[16 * COLUMNS] ALIGNED, peaks[CHUNK] ALIGNED;
    uint8_t levels[SUPER] ALIGNED;
    struct spans s;
    for (int at = 0; at < c->blocks * 16; at += COLUMNS) {
        columns(c->x + at * 16, 16, x);
        if (c->important) columns(c->given + at * 16, 16, w);
        if (c->important) span(x, w, COLUMNS, 16, 32, &s, at);
        else span(x, NULL, COLUMNS, 16, 32, &s, at);
    }
    block_peaks(&s, peaks);
    for (int b = 0; b < c->blocks; ++b) {
        struct q6_k *block = to + b;
        vf scales[16 / W], inverse = all(-128.f / peaks[b]);
        if ((peaks[b] < 0 ? -peaks[b] : peaks[b]) < 1e-15f) {
            memset(block, 0, sizeof *block);
            continue;
        }
        block->d = half(1 / (-128.f / peaks[b]));
        for (int k = 0; k < 16 / W; ++k)
            scales[k] = smaller(nearest_whole(inverse * load(s.scale + 16 * b + k * W)), all(127));
        store_bytes((uint8_t *)block->scales, scales);
        float d = whole(block->d);
        for (int j = 0; j < 16; ++j)
            signed_levels(c->x + (16 * b + j) * 16, d * block->scales[j], 32, s.step[16 * b + j], levels + 16 * j);
        for (int h = 0; h < 2; ++h)
            for (int i = 0; i < 32; ++i) {
                const uint8_t *l = levels + 128 * h + i;
                block->ql[64 * h + i] = (l[0] & 0xf) | (uint8_t)(l[64] << 4);
                block->ql[64 * h + 32 + i] = (l[32] & 0xf) | (uint8_t)(l[96] << 4);
            }
        quarters(levels, 4, block->qh);
    }
}

/* The 16 signed 6-bit scales of q3_K, as 0 to 63, in their 12 bytes. */
INLINE void pack_signed_scales(const uint8_t *codes, uint8_t *to) {
    memset(to, 0, 12);
    for (int j = 0; j < 16; ++j) {
        to[j & 7] |= (uint8_t)((codes[j] & 0xf) << (j < 8 ? 0 : 4));
        to[8 + (j & 3)] |= (uint8_t)(codes[j] >> 4 << 2 * (j / 4));
    }
}

/* The scale codes of every block of q3_K without importance: in proportion to the largest. */
INLINE void signed_proportion(const struct spans *s, struct shares *out) {
    float peaks[CHUNK] ALIGNED;
    block_peaks(s, peaks);
    memset(out->levels, 0, sizeof out->levels);
    for (int b = 0; b < CHUNK; ++b) {
        float inverse = -32.f / peaks[b];
        out->unit[b] = half(peaks[b] == 0 ? 0.f : 1 / inverse);
        for (int j = 0; peaks[b] != 0 && j < 16; ++j)
            out->levels[16 * b + j] = (uint8_t)(clamp((int8_t)nearest(inverse * s->scale[16 * b + j]), -32, 31) + 32);
    }
}

/* The same with importance: make_qx_quants over the scales, one block a lane. */
INLINE void signed_shares(const struct spans *s, struct shares *out) {
    float x[16 * COLUMNS] ALIGNED, w[16 * COLUMNS] ALIGNED;
    struct spans units;
    block_columns(s->scale, 16, x);
    block_columns(s->weight, 16, w);
    span(x, w, CHUNK, 16, 32, &units, 0);
    narrow_half(units.scale, out->unit, CHUNK);
    for (int b = 0; b < CHUNK; ++b)
        for (int j = 0; j < 16; ++j) {
            int level = clamp(nearest(units.step[b] * s->scale[16 * b + j]), -32, 31) + 32;
            out->levels[16 * b + j] = (uint8_t)(units.step[b] == 0 ? 0 : level);
        }
}

static void q3_k_chunk(struct chunk *c, struct q3_k *to) {
    float x[16 * COLUMNS] ALIGNED, w[16 * COLUMNS] ALIGNED, kept[16 * COLUMNS] ALIGNED, sigma2[CHUNK] ALIGNED;
    uint8_t levels[SUPER] ALIGNED, left[WEIGHTS];
    struct spans s;
    struct shares shares;
    if (c->important) spread_of(c, 2, sigma2);
    for (int at = 0; at < c->blocks * 16; at += COLUMNS) {
        columns(c->x + at * 16, 16, x);
        if (c->important) {
            weigh(c, at, 16, sigma2, x, w);
            span(x, w, COLUMNS, 16, 4, &s, at);
            continue;
        }
        for (int v = 0; v < COLUMNS; v += W)
            leave(c, refine_vector(x + v, 16, 4, s.scale + at + v, kept + v), at + v, 16);
        for (int k = 0; k < COLUMNS; ++k)
            for (int i = 0; i < 16; ++i) left[(at + k) * 16 + i] = (uint8_t)(int)kept[i * COLUMNS + k];
    }
    if (c->important) signed_shares(&s, &shares);
    else signed_proportion(&s, &shares);
    for (int b = 0; b < c->blocks; ++b) {
        struct q3_k *block = to + b;
        block->d = shares.unit[b];
        pack_signed_scales(shares.levels + 16 * b, block->scales);
        for (int j = 0; j < 16; ++j) {
            int at = 16 * b + j;
            float d = whole(block->d) * (float)(shares.levels[at] - 32);
            if (d == 0 && !c->important) memcpy(levels + 16 * j, left + 16 * at, 16);
            else signed_levels(c->x + 16 * at, d, 4, s.step[at], levels + 16 * j);
        }
        for (int i = 0; i < 32; ++i) {
            unsigned bits = 0;
            for (int j = 0; j < 8; ++j) bits |= (levels[32 * j + i] >> 2 & 1u) << j;
            block->hmask[i] = (uint8_t)bits;
        }
        quarters(levels, 0, block->qs);
    }
}

/* Every row of the task, 16 blocks at a time; blocks of which a number is out of bounds go through ggml. */
static int super(const struct task *t, struct report *r) {
    const int bytes = t->type == Q2_K   ? sizeof(struct q2_k)
                      : t->type == Q3_K ? sizeof(struct q3_k)
                      : t->type == Q4_K ? sizeof(struct q4_k)
                      : t->type == Q5_K ? sizeof(struct q5_k)
                                        : sizeof(struct q6_k);
    const int64_t across = t->width / SUPER, blocks = t->rows * across;
    struct chunk c ALIGNED;
    c.important = t->importance != NULL;
    for (int64_t at = 0; at < blocks; at += CHUNK) {
        c.blocks = blocks - at < CHUNK ? (int)(blocks - at) : CHUNK;
        c.left = 0;
        uint32_t top = convert(t, r, at * SUPER, c.x, c.blocks * SUPER);
        for (int b = 0; c.important && b < c.blocks; ++b)
            memcpy(c.given + b * SUPER, t->importance + (at + b) % across * SUPER, SUPER * sizeof(float));
        if (c.blocks < CHUNK) {
            memset(c.x + c.blocks * SUPER, 0, (CHUNK - c.blocks) * SUPER * sizeof(float));
            if (c.important) memset(c.given + c.blocks * SUPER, 0, (CHUNK - c.blocks) * SUPER * sizeof(float));
        }
        void *to = (char *)t->target + at * bytes;
        switch (t->type) {
        case Q2_K: q2_k_chunk(&c, to); break;
        case Q3_K: q3_k_chunk(&c, to); break;
        case Q4_K: q4_k_chunk(&c, to); break;
        case Q5_K: q5_k_chunk(&c, to); break;
        default: q6_k_chunk(&c, to);
        }
        if (top > LARGEST) c.left |= vast(c.x, c.blocks, SUPER);
        for (c.left &= (1u << c.blocks) - 1; c.left; c.left &= c.left - 1) {
            int b = __builtin_ctz(c.left);
            t->ggml(t->type, c.x + b * SUPER, (char *)to + b * bytes, 0, 1, SUPER, c.important ? c.given + b * SUPER : NULL);
        }
    }
    return 0;
}
