/* The searches of q3_K, q6_K, q4_0 and q5_0 for a sub-block's scale without a minimum; included once a level.
 *
 * Every lane holds one sub-block and does ggml's float operations in ggml's order; a column of a matrix is a
 * sub-block, as in search.h.
 */

struct spans {
    float scale[FITS], step[FITS]; /* levels are clamp(round(step * x), -nmax, nmax - 1) */
    float weight[FITS];            /* sum of its weights, where they were given */
};

#define TRIES 2

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

struct try { vf step, products, squares; };

INLINE void add_signed(struct try *t, vf x, vf w, vf wx, int nmax, int below, int above) {
    vf level = rounded(t->step * x);
    if (below) level = larger(level, all(-nmax));
    if (above) level = at_most(level, all(nmax - 1));
    t->products = t->products + wx * level;
    t->squares = t->squares + w * level * level;
}

/* Sums of w x l and w l l over the levels of TRIES steps at once: the loads serve all. Levels are clamped below
 * or above only where they can lie there: |step * x| is at most nmax + 0.1 * is. */
INLINE void sum_signed(struct try *t, const float *x, const float *w, const float *wx, int across, int n, int nmax,
                       int below, int above) {
    struct try own[TRIES];
    for (int k = 0; k < TRIES; ++k) {
        own[k].step = t[k].step;
        own[k].products = own[k].squares = all(0);
    }
    for (int i = 0; i < n; ++i)
        for (int k = 0; k < TRIES; ++k)
            add_signed(&own[k], load(x + i * COLUMNS), load(w + i * across), load(wx + i * W), nmax, below, above);
    for (int k = 0; k < TRIES; ++k) t[k] = own[k];
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
    /* ggml's order: the plain step, then -9 to 9 tenths without 0. */
    static const int tenths[20] = {0, -9, -8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9};
    vf scale = zero, best = zero, best_step = zero;
    for (int k = 0; k < 20; k += TRIES) {
        struct try t[TRIES];
        int last = tenths[k + TRIES - 1];
        for (int j = 0; j < TRIES; ++j) t[j].step = all(-(nmax + 0.1f * tenths[k + j])) / peak.value;
        if (last > 4) sum_signed(t, x, w, wx, across, n, nmax, 1, 1);
        else if (last > -6 || k == 0) sum_signed(t, x, w, wx, across, n, nmax, 0, 1);
        else sum_signed(t, x, w, wx, across, n, nmax, 0, 0);
        for (int j = 0; j < TRIES; ++j) {
            vm better = both(less(zero, t[j].squares), less(best * t[j].squares, t[j].products * t[j].products));
            if (k + j == 0) better = except(everywhere(), equal(t[j].squares, zero));
            vf fitted = t[j].products / t[j].squares;
            scale = pick(better, fitted, scale);
            best = pick(better, fitted * t[j].products, best);
            best_step = pick(k + j ? better : everywhere(), t[j].step, best_step);
        }
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
            vf target = load(x + i * COLUMNS) * s, off = target - level * p;
            vm open = less(zero, p);
            /* Within 0.499 of its level, or beyond the last one but not so far that the rounding trick wraps, it
             * would round to the level that it has. */
            vm beyond = either(both(equal(level, high), less(zero, off)), both(equal(level, low), less(off, zero)));
            vm within = less(magnitude(off), all(0.499f) * p), near = less(magnitude(off), all(0x1p20f) * p);
            vm stays = either(within, both(beyond, near));
            if (!lanes(except(open, stays))) continue;
            vf wanted = target / p;
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
