/* The search of q2_K, q4_K, q5_K, q4_1 and q5_1 for a sub-block's scale and minimum; included once a level.
 *
 * ggml (make_qkx2_quants, make_qkx3_quants) rounds a sub-block to nmax levels with each of some twenty step
 * sizes, fits scale and minimum to those levels by weighted least squares, and keeps the best fit, whose minimum
 * the next steps start from. A sub-block is one long chain of dependent additions; here every lane holds one and
 * does the same float operations in the same order.
 *
 * Matrices hold one row an element and one column a sub-block. Two vectors of columns go through the steps side
 * by side, so that one computes while the other waits for its divisions.
 */

struct fit { /* one float a sub-block */
    float scale[COLUMNS], low[COLUMNS]; /* what make_qkx*_quants returns: scale and -minimum */
    float step[COLUMNS], base[COLUMNS]; /* its levels are clamp(round(step * (x - base)), 0, nmax) */
};

struct walk {
    vf min, max, size, sum_w, sum_x;      /* min: the best fit's so far, which the next step starts from */
    vf scale, error, best_step, best_base; /* of the best fit so far */
    vf step, this_scale, this_min;        /* of the step under way */
    vm flat, solved, odd;                 /* odd: left to ggml */
};

INLINE vf clear(vf a, vm m) { return pick(m, all(0), a); }

/* A level as a float is ggml's integer while |step * (x - min)| < 2^22; beyond, its rounding trick wraps. */
INLINE vm wraps(vf step, vf size, vf min) {
    return except(everywhere(), less(magnitude(step) * (size + magnitude(min)), all(0x1p21f)));
}

INLINE void begin(struct walk *s, const float *x, const float *w, int n, int nmax, int mad) {
    vf value = load(x), weight = load(w), zero = all(0), one = all(1), top = all(nmax);
    vf min = value, max = value;
    s->sum_w = weight;
    s->sum_x = weight * value;
    for (int i = 1; i < n; ++i) {
        value = load(x + i * COLUMNS);
        weight = load(w + i * COLUMNS);
        min = smaller(value, min); /* of two zeros the first, as ggml */
        max = larger(value, max);
        s->sum_w = s->sum_w + weight;
        s->sum_x = s->sum_x + weight * value;
    }
    s->size = larger(magnitude(min), magnitude(max));
    s->min = min = clear(min, less(zero, min));
    s->max = max;
    s->flat = equal(max, min);
    s->best_base = min;
    s->best_step = top / (max - min);
    s->scale = one / s->best_step;
    s->odd = except(wraps(s->best_step, s->size, min), s->flat);
    s->error = zero;
    for (int i = 0; i < n; ++i) {
        value = load(x + i * COLUMNS);
        vf l = smaller(larger(rounded(s->best_step * (value - min)), zero), top);
        vf diff = s->scale * l + min - value;
        if (mad) diff = magnitude(diff);
        else diff = diff * diff;
        s->error = s->error + load(w + i * COLUMNS) * diff;
    }
}

/* Levels of one step, and the fit to them. */
INLINE void try_step(struct walk *s, const float *x, const float *w, float *level, int n, int nmax, vf size) {
    vf zero = all(0), top = all(nmax), levels = zero, squares = zero, products = zero, min = s->min;
    vf step = s->step = size / (s->max - min);
    s->odd = either(s->odd, except(wraps(step, s->size, min), s->flat));
    for (int i = 0; i < n; ++i) {
        vf value = load(x + i * COLUMNS), weight = load(w + i * COLUMNS);
        vf l = smaller(larger(rounded(step * (value - min)), zero), top);
        store(level + i * W, l);
        vf wl = weight * l;
        levels = levels + wl;
        squares = squares + wl * l;
        products = products + wl * value;
    }
    vf d = s->sum_w * squares - levels * levels;
    s->solved = less(zero, d);
    vf scale = (s->sum_w * products - s->sum_x * levels) / d;
    min = (squares * s->sum_x - levels * products) / d;
    vm positive = less(zero, min);
    if (lanes(positive)) {
        scale = pick(positive, products / squares, scale);
        min = clear(min, positive);
    }
    s->this_scale = scale;
    s->this_min = min;
}

/* The error of that fit, and the fit kept where it is the best. */
INLINE void judge(struct walk *s, const float *x, const float *w, const float *level, int n, int mad) {
    vf error = all(0), scale = s->this_scale, min = s->this_min;
    for (int i = 0; i < n; ++i) {
        vf diff = scale * load(level + i * W) + min - load(x + i * COLUMNS);
        if (mad) diff = magnitude(diff);
        else diff = diff * diff;
        error = error + load(w + i * COLUMNS) * diff;
    }
    vm better = both(s->solved, less(error, s->error));
    s->error = pick(better, error, s->error);
    s->scale = pick(better, scale, s->scale);
    s->best_step = pick(better, s->step, s->best_step);
    s->best_base = pick(better, s->min, s->best_base);
    s->min = pick(better, min, s->min);
}

INLINE void end(const struct walk *s, struct fit *out, int v) {
    store(out->scale + v, clear(s->scale, s->flat));
    store(out->low + v, -s->min);
    store(out->step + v, clear(s->best_step, s->flat));
    store(out->base + v, s->best_base);
}

/* Fits every column of a matrix of n rows. Returns those that are left to ggml, one bit each. */
INLINE uint32_t search(const float *x, const float *w, int n, int nmax, float rmin, float rdelta, int nstep, int mad,
                       struct fit *out) {
    float level[2][32 * W] ALIGNED;
    uint32_t odd = 0;
    for (int v = 0; v < COLUMNS; v += 2 * W) {
        struct walk s[2];
        for (int p = 0; p < 2; ++p) begin(&s[p], x + v + p * W, w + v + p * W, n, nmax, mad);
        for (int is = 0; is <= nstep; ++is) {
            vf size = all(rmin + rdelta * is + nmax);
            for (int p = 0; p < 2; ++p) try_step(&s[p], x + v + p * W, w + v + p * W, level[p], n, nmax, size);
            for (int p = 0; p < 2; ++p) judge(&s[p], x + v + p * W, w + v + p * W, level[p], n, mad);
        }
        for (int p = 0; p < 2; ++p) {
            odd |= (uint32_t)lanes(s[p].odd) << (v + p * W);
            end(&s[p], out, v + p * W);
        }
    }
    return odd;
}
