/* Chunks of 16 blocks of 256 weights, and what the K-quants share; included once a level. */

struct chunk {
    float x[WEIGHTS];     /* the blocks, padded with zeros */
    float given[WEIGHTS]; /* importance of each value, where there is any */
    int blocks, important;
    unsigned left; /* blocks that ggml must do, one bit each */
};

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

/* The n scales (or minima) of every block of a chunk: their unit, and each one's level. */
struct shares { float scale[CHUNK]; uint16_t unit[CHUNK]; uint8_t levels[FITS]; };

/* Two bits of each of 256 levels, four to a byte, as q2_K, q3_K and q6_K lay them out. */
INLINE void quarters(const uint8_t *levels, int shift, uint8_t *to) {
    for (int h = 0; h < 2; ++h)
        for (int i = 0; i < 32; ++i) {
            const uint8_t *l = levels + 128 * h + i;
            to[32 * h + i] = (uint8_t)((l[0] >> shift & 3) | (l[32] >> shift & 3) << 2 | (l[64] >> shift & 3) << 4 |
                                       (l[96] >> shift & 3) << 6);
        }
}
