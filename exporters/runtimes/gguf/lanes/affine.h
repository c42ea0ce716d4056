/* q2_K, q4_K and q5_K: a scale and a minimum to a sub-block; included once a level. */

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
