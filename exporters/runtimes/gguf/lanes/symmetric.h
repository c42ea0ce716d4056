/* The searches of q3_K, q6_K, q4_0 and q5_0 for a sub-block's scale without a minimum; included once a level.
 *
 * Every lane holds one sub-block and does ggml's float operations in ggml's order; a column of a matrix is a
 * sub-block, as in search.h.
 */

struct spans {
    float scale[FITS], step[FITS]; /* levels are clamp(round(step * x), -nmax, nmax - 1) */
    float weight[FITS];            /* sum of its weights, where they were given */
};

struct peak { vf value; vm empty; };

/* The first value of the largest magnitude, and the columns that ggml takes for zero. */
INLINE struct peak find_peak(const float *x, int n) {
    vf amax = all(0), max = all(0);
    for (int i = 0; i < n; ++i) {
        vf value = load(x + i * COLUMNS), size = magnitude(value);
        max = pick(less(amax, size), value, max);
        amax = larger(size, amax);
    }
    struct peak p = {max, less(amax, all(1e-15f))};
    return p;
}

struct pair { vf products, squares; };

/* Sums of w x l and w l l over the levels of one step, which are clamped below or above only where they can
 * lie there: |step * x| is at most nmax + 0.1 * is. */
INLINE struct pair sum_levels(const float *x, const float *w, const float *wx, int across, int n, int nmax, vf step,
                              int below, int above) {
    struct pair s = {all(0), all(0)};
    for (int i = 0; i < n; ++i) {
        vf level = rounded(step * load(x + i * COLUMNS));
        if (below) level = larger(level, all(-nmax));
        if (above) level = smaller(level, all(nmax - 1));
        s.products = s.products + load(wx + i * W) * level;
        s.squares = s.squares + load(w + i * across) * level * level;
    }
    return s;
}

/* make_qx_quants with rmse_type 1 for one vector of columns: weights from `given`, or x^2 where that is NULL. */
INLINE void span_vector(const float *x, const float *given, int n, int nmax, struct spans *out, int at) {
    float square[32 * W] ALIGNED, wx[32 * W] ALIGNED;
    const float *w = given ? given : square;
    const int across = given ? COLUMNS : W;
    struct peak peak = find_peak(x, n);
    vf zero = all(0), sum = zero;
    for (int i = 0; i < n; ++i) {
        vf value = load(x + i * COLUMNS), weight = given ? load(given + i * COLUMNS) : value * value;
        if (given) sum = sum + weight;
        else store(square + i * W, weight);
        store(wx + i * W, weight * value);
    }
    vf step = all(-nmax) / peak.value, best_step = step;
    struct pair s = sum_levels(x, w, wx, across, n, nmax, step, 0, 1);
    vf scale = pick(equal(s.squares, zero), zero, s.products / s.squares), best = scale * s.products;
    for (int is = -9; is <= 9; ++is) {
        if (is == 0) continue;
        step = all(-(nmax + 0.1f * is)) / peak.value;
        if (is < -5) s = sum_levels(x, w, wx, across, n, nmax, step, 0, 0);
        else if (is < 5) s = sum_levels(x, w, wx, across, n, nmax, step, 0, 1);
        else s = sum_levels(x, w, wx, across, n, nmax, step, 1, 1);
        vm better = both(less(zero, s.squares), less(best * s.squares, s.products * s.products));
        vf fitted = s.products / s.squares;
        scale = pick(better, fitted, scale);
        best = pick(better, fitted * s.products, best);
        best_step = pick(better, step, best_step);
    }
    store(out->scale + at, clear(scale, peak.empty));
    store(out->step + at, clear(best_step, peak.empty));
    store(out->weight + at, sum);
}

/* The first `columns` columns of a matrix of n rows, into out[at...]. */
INLINE void span(const float *x, const float *given, int columns, int n, int nmax, struct spans *out, int at) {
    for (int v = 0; v < columns; v += W) span_vector(x + v, given ? given + v : NULL, n, nmax, out, at + v);
}

/* make_q3_quants for one vector of columns: least squares, then level by level while that helps. `levels` gets
 * what it leaves, as floats. Returns the lanes where its rounding trick wraps. */
INLINE unsigned refine_vector(const float *x, int n, int nmax, float *scale, float *levels) {
    float square[16 * W] ALIGNED, wx[16 * W] ALIGNED;
    struct peak peak = find_peak(x, n);
    vf zero = all(0), low = all(-nmax), high = all(nmax - 1), step = low / peak.value, products = zero, squares = zero;
    vm odd = less(zero, zero);
    for (int i = 0; i < n; ++i) {
        vf value = load(x + i * COLUMNS), weight = value * value, weighted = weight * value;
        vf level = smaller(rounded(step * value), high);
        store(levels + i * COLUMNS, level);
        store(square + i * W, weight);
        store(wx + i * W, weighted);
        products = products + weighted * level;
        squares = squares + weight * level * level;
    }
    for (int round = 0; round < 5; ++round) {
        unsigned changed = 0;
        for (int i = 0; i < n; ++i) {
            vf level = load(levels + i * COLUMNS), weight = load(square + i * W), weighted = load(wx + i * W);
            vf p = products - weighted * level, s = squares - weight * level * level;
            vm open = less(zero, p);
            vf wanted = load(x + i * COLUMNS) * s / p;
            odd = either(odd, except(open, less(magnitude(wanted), all(0x1p21f))));
            wanted = smaller(larger(rounded(wanted), low), high);
            open = except(open, equal(wanted, level));
            p = p + weighted * wanted;
            s = s + weight * wanted * wanted;
            open = both(open, both(less(zero, s), less(products * products * s, p * p * squares)));
            store(levels + i * COLUMNS, pick(open, wanted, level));
            products = pick(open, p, products);
            squares = pick(open, s, squares);
            changed |= lanes(open);
        }
        if (!changed) break;
    }
    for (int i = 0; i < n; ++i)
        store(levels + i * COLUMNS, clear(load(levels + i * COLUMNS) + all(nmax), peak.empty));
    store(scale, clear(pick(less(zero, squares), products / squares, zero), peak.empty));
    return lanes(except(odd, peak.empty));
}

/* make_qp_quants for one vector of columns, whose n values are 0 or more: the scales (or minima) of a block, to
 * levels 0 to nmax. Returns the lanes where a value is negative or the rounding trick wraps. */
INLINE unsigned share_vector(const float *x, const float *w, int n, int nmax, float *scale, float *levels) {
    vf zero = all(0), top = all(nmax), max = zero, min = zero;
    for (int i = 0; i < n; ++i) {
        max = larger(max, load(x + i * COLUMNS));
        min = smaller(min, load(x + i * COLUMNS));
    }
    vm empty = less(max, all(1e-15f)), odd = either(less(min, zero), less(all(0x1p100f), max));
    vf best_inverse = top / max, best = zero;
    for (int is = -5; is <= 4; ++is) { /* -5 stands for the 0 that ggml begins with */
        if (is == 0) continue;
        vf inverse = is < -4 ? best_inverse : all(0.1f * is + nmax) / max, error = zero, unit = all(1) / inverse;
        for (int i = 0; i < n; ++i) {
            vf level = smaller(rounded(inverse * load(x + i * COLUMNS)), top);
            vf diff = load(x + i * COLUMNS) - unit * level;
            error = error + load(w + i * COLUMNS) * diff * diff;
        }
        vm better = is < -4 ? everywhere() : less(error, best);
        best = pick(better, error, best);
        best_inverse = pick(better, inverse, best_inverse);
    }
    vf products = zero, squares = zero;
    for (int i = 0; i < n; ++i) {
        vf level = smaller(rounded(best_inverse * load(x + i * COLUMNS)), top), weight = load(w + i * COLUMNS);
        store(levels + i * COLUMNS, level);
        products = products + weight * load(x + i * COLUMNS) * level;
        squares = squares + weight * level * level;
    }
    for (int round = 0; round < 5; ++round) {
        unsigned changed = 0;
        for (int i = 0; i < n; ++i) {
            vf level = load(levels + i * COLUMNS), weight = load(w + i * COLUMNS), value = load(x + i * COLUMNS);
            vf weighted = weight * value, p = products - weighted * level, s = squares - weight * level * level;
            vm open = both(less(zero, p), less(zero, s));
            vf wanted = value * s / p;
            odd = either(odd, except(open, less(wanted, all(0x1p21f))));
            wanted = smaller(rounded(wanted), top);
            open = except(open, equal(wanted, level));
            p = p + weighted * wanted;
            s = s + weight * wanted * wanted;
            open = both(open, less(products * products * s, p * p * squares));
            store(levels + i * COLUMNS, pick(open, wanted, level));
            products = pick(open, p, products);
            squares = pick(open, s, squares);
            changed |= lanes(open);
        }
        if (!changed) break;
    }
    for (int i = 0; i < n; ++i) store(levels + i * COLUMNS, clear(load(levels + i * COLUMNS), empty));
    store(scale, clear(pick(less(zero, squares), products / squares, zero), empty));
    return lanes(except(odd, empty)) | lanes(less(min, zero));
}
