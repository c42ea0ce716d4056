/* The search of q3_K, q6_K, q4_0 and q5_0 for a sub-block's scale without a minimum; included once a level. */

struct span { float scale[COLUMNS], step[COLUMNS]; /* levels are clamp(round(step * x), -nmax, nmax - 1) */ };

/* round(step * x) within [-nmax, nmax - 1], as a float. */
INLINE vf signed_level(vf step, vf x, vf low, vf high) { return smaller(larger(rounded(step * x), low), high); }

/* make_qx_quants with rmse_type 1, one sub-block a lane. `importance` is NULL for x^2. Every operation is
 * ggml's, in its order; the caller keeps |x| under 2^20 so that none of them overflows. */
INLINE void span_vector(const float *x, const float *importance, int n, int nmax, struct span *out) {
    float weights[32 * W] ALIGNED, weighted[32 * W] ALIGNED;
    const float *w = importance ? importance : weights;
    const int across = importance ? COLUMNS : W;
    vf zero = all(0), amax = zero, max = zero, low = all(-nmax), high = all(nmax - 1);
    for (int i = 0; i < n; ++i) {
        vf value = load(x + i * COLUMNS), size = magnitude(value), square = value * value;
        vm larger_size = less(amax, size);
        amax = larger(size, amax);
        max = pick(larger_size, value, max);
        if (!importance) store(weights + i * W, square);
        store(weighted + i * W, (importance ? load(w + i * across) : square) * value);
    }
    vm empty = less(amax, all(1e-15f));
    vf step = all(-nmax) / max, best_step = step, scale = zero, best = zero;
    for (int k = 0; k < 19; ++k) { /* ggml's own order: 0, then -9 to 9 without 0 */
        int is = k == 0 ? 0 : k < 10 ? k - 10 : k - 9;
        if (k) step = all(-(nmax + 0.1f * is)) / max;
        vf products = zero, squares = zero;
        for (int i = 0; i < n; ++i) {
            vf level = signed_level(step, load(x + i * COLUMNS), low, high);
            products = products + load(weighted + i * W) * level;
            squares = squares + load(w + i * across) * level * level;
        }
        vm some = less(zero, squares);
        vm better = k ? both(some, less(best * squares, products * products)) : some;
        vf fitted = products / squares;
        scale = pick(better, fitted, scale);
        best = pick(better, fitted * products, best);
        best_step = pick(better, step, best_step);
    }
    store(out->scale, clear(scale, empty));
    store(out->step, clear(best_step, empty));
}
