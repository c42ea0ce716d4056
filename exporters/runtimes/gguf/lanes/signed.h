/* q3_K and q6_K: a signed scale to a sub-block; included once a level. */

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
