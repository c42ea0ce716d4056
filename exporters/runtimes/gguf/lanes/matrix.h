/* Rounding as ggml rounds, and matrices of sub-blocks with their weights; included once a level. */

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

/* Values of 16 blocks, n each, as a matrix with one column a block. */
INLINE void block_columns(const float *values, int n, float *to) {
    for (int c = 0; c < CHUNK; c += W)
        for (int i = 0; i < n; i += W) transpose_tile(values + c * n + i, n, to + i * COLUMNS + c);
}
