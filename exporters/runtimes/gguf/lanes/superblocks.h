/* K-quants: chunks of 16 blocks of 256 weights to their bytes; included once a level. */

/* ggml's rounding, also where the value is far outside of what the lanes let in. */
INLINE int nearest(float value) { return (int)(to_bits(value + 12582912.f) & 0x007fffff) - 0x00400000; }
INLINE int clamp(int value, int low, int high) { return value < low ? low : value > high ? high : value; }

struct chunk {
    float x[WEIGHTS];               /* the blocks, padded with zeros */
    const float *importance[CHUNK]; /* of each block, or NULL */
    int blocks;
    unsigned left; /* blocks that ggml must do, one bit each */
};

/* COLUMNS sub-blocks of n elements, as columns. */
INLINE void columns(const float *x, int n, float *to) {
    for (int c = 0; c < COLUMNS; c += W)
        for (int i = 0; i < n; i += W) transpose_tile(x + c * n + i, n, to + i * COLUMNS + c);
}

/* q4_K and q5_K without importance: weights are |x| plus the sub-block's root mean square. */
INLINE void plain_weights(const float *x, float *w, int n) {
    for (int v = 0; v < COLUMNS; v += W) {
        vf sum = all(0);
        for (int i = 0; i < n; ++i) sum = sum + load(x + i * COLUMNS + v) * load(x + i * COLUMNS + v);
        sum = root(sum / all(n));
        for (int i = 0; i < n; ++i) store(w + i * COLUMNS + v, sum + magnitude(load(x + i * COLUMNS + v)));
    }
}

/* The 6-bit scales and minima of q4_K and q5_K in their 12 bytes. */
INLINE void pack_scales(const uint8_t *ls, const uint8_t *lm, uint8_t *to) {
    for (int j = 0; j < 4; ++j) {
        to[j] = ls[j] | (ls[j + 4] >> 4 << 6);
        to[j + 4] = lm[j] | (lm[j + 4] >> 4 << 6);
        to[j + 8] = (ls[j + 4] & 0xf) | (uint8_t)(lm[j + 4] << 4);
    }
}

/* The levels of one sub-block of q4_K, q5_K or q2_K for its final scale d and minimum m. */
INLINE void final_levels(const float *x, float d, float m, int n, int nmax, float step, float base, uint8_t *to) {
    if (d == 0) { /* what the search left */
        for (int i = 0; i < n; ++i) to[i] = clamp(nearest(step * (x[i] - base)), 0, nmax);
        return;
    }
    for (int i = 0; i < n; ++i) to[i] = clamp(nearest((x[i] + m) / d), 0, nmax);
}

/* One block of q4_K or q5_K from the fits of its 8 sub-blocks. */
INLINE void finish_affine(const float *x, const struct fit *f, int at, int nmax, uint16_t *d_out, uint16_t *m_out,
                          uint8_t *scales, uint8_t *levels) {
    float max_scale = 0, max_low = 0;
    uint8_t ls[8], lm[8];
    for (int j = 0; j < 8; ++j) {
        max_scale = f->scale[at + j] > max_scale ? f->scale[at + j] : max_scale;
        max_low = f->low[at + j] > max_low ? f->low[at + j] : max_low;
    }
    float inverse_scale = max_scale > 0 ? 63.f / max_scale : 0.f, inverse_low = max_low > 0 ? 63.f / max_low : 0.f;
    for (int j = 0; j < 8; ++j) {
        uint8_t s = nearest(inverse_scale * f->scale[at + j]), m = nearest(inverse_low * f->low[at + j]);
        ls[j] = s < 63 ? s : 63;
        lm[j] = m < 63 ? m : 63;
    }
    pack_scales(ls, lm, scales);
    *d_out = half(max_scale / 63.f);
    *m_out = half(max_low / 63.f);
    float d = whole(*d_out), m = whole(*m_out);
    for (int j = 0; j < 8; ++j)
        final_levels(x + 32 * j, d * ls[j], m * lm[j], 32, nmax, f->step[at + j], f->base[at + j], levels + 32 * j);
}

INLINE void nibbles(const uint8_t *levels, uint8_t *to) {
    for (int j = 0; j < 4; ++j)
        for (int i = 0; i < 32; ++i)
            to[32 * j + i] = (levels[64 * j + i] & 0xf) | (uint8_t)(levels[64 * j + 32 + i] << 4);
}

static void q4_k_plain(struct chunk *c, struct q4_k *to) {
    float x[32 * COLUMNS] ALIGNED, w[32 * COLUMNS] ALIGNED;
    uint8_t levels[SUPER] ALIGNED;
    for (int b = 0; b < c->blocks; b += 4) {
        struct fit fit;
        columns(c->x + b * SUPER, 32, x);
        plain_weights(x, w, 32);
        uint32_t odd = search(x, w, 32, 15, -1.f, 0.1f, 20, 0, &fit);
        for (int k = 0; k < 4 && b + k < c->blocks; ++k) {
            if (odd >> 8 * k & 0xff) c->left |= 1u << (b + k);
            struct q4_k *block = to + b + k;
            finish_affine(c->x + (b + k) * SUPER, &fit, 8 * k, 15, &block->d, &block->dmin, block->scales, levels);
            nibbles(levels, block->qs);
        }
    }
}

static void q6_k_any(struct chunk *c, struct q6_k *to) {
    float x[16 * COLUMNS] ALIGNED;
    uint8_t levels[SUPER] ALIGNED;
    struct span spans;
    for (int b = 0; b < c->blocks; ++b) {
        const float *source = c->x + b * SUPER;
        struct q6_k *block = to + b;
        struct span s;
        if (b % 2 == 0) {
            columns(source, 16, x);
            for (int v = 0; v < COLUMNS; v += W) span_vector(x + v, NULL, 16, 32, (struct span *)((float *)&spans + v));
        }
        for (int j = 0; j < 16; ++j) s.scale[j] = spans.scale[b % 2 * 16 + j], s.step[j] = spans.step[b % 2 * 16 + j];
        float max = 0, amax = 0;
        for (int j = 0; j < 16; ++j) {
            float size = s.scale[j] < 0 ? -s.scale[j] : s.scale[j];
            max = size > amax ? s.scale[j] : max;
            amax = size > amax ? size : amax;
        }
        if (amax < 1e-15f) {
            memset(block, 0, sizeof *block);
            continue;
        }
        float inverse = -128.f / max;
        block->d = half(1 / inverse);
        float d = whole(block->d);
        for (int j = 0; j < 16; ++j) {
            int scale = nearest(inverse * s.scale[j]);
            block->scales[j] = scale < 127 ? scale : 127;
            float this_d = d * block->scales[j];
            uint8_t *l = levels + 16 * j;
            const float *from = source + 16 * j;
            if (this_d == 0)
                for (int i = 0; i < 16; ++i) l[i] = s.step[j] == 0 ? 0 : clamp(nearest(s.step[j] * from[i]), -32, 31) + 32;
            else
                for (int i = 0; i < 16; ++i) l[i] = clamp(nearest(from[i] / this_d), -32, 31) + 32;
        }
        for (int h = 0; h < 2; ++h)
            for (int i = 0; i < 32; ++i) {
                const uint8_t *l = levels + 128 * h + i;
                block->ql[64 * h + i] = (l[0] & 0xf) | (uint8_t)(l[64] << 4);
                block->ql[64 * h + 32 + i] = (l[32] & 0xf) | (uint8_t)(l[96] << 4);
                block->qh[32 * h + i] = l[0] >> 4 | l[32] >> 4 << 2 | l[64] >> 4 << 4 | l[96] >> 4 << 6;
            }
    }
}
