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

#define FITS (CHUNK * SUPER / 16) /* sub-blocks of a chunk, at most */

struct fits { /* one float a sub-block */
    float scale[FITS], low[FITS]; /* what make_qkx*_quants returns: scale and -minimum */
    float step[FITS], base[FITS]; /* its levels are clamp(round(step * (x - base)), 0, nmax) */
    float weight[FITS];           /* sum of its weights */
};

struct walk {
    vf min, max, size, sum_w, sum_x;       /* min: the best fit's so far, which the next step starts from */
    vf scale, error, best_step, best_base; /* of the best fit so far */
    vf step, this_scale, this_min;         /* of the step under way */
    vm flat, solved, odd;                  /* odd: left to ggml */
};

/* A level as a float is ggml's integer while |step * (x - min)| < 2^22; beyond, its rounding trick wraps. */
INLINE vm wraps(vf step, vf size, vf min) {
    return except(everywhere(), less(magnitude(step) * (size + magnitude(min)), all(0x1p21f)));
}

INLINE vf add_error(vf error, vf scale, vf level, vf min, vf value, vf weight, int mad) {
    vf diff = scale * level + min - value;
    if (mad) diff = magnitude(diff);
    else diff = diff * diff;
    return error + weight * diff;
}

/* The plain rounding that ggml starts from. */
INLINE void begin(struct walk *s, const float *x, const float *w, int n, int nmax, int mad) {
    vf value = load(x), weight = load(w), zero = all(0), top = all(nmax);
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
    s->scale = all(1) / s->best_step;
    s->odd = except(wraps(s->best_step, s->size, min), s->flat);
    s->error = zero;
    for (int i = 0; i < n; ++i) {
        value = load(x + i * COLUMNS);
        vf level = smaller(larger(rounded(s->best_step * (value - min)), zero), top);
        s->error = add_error(s->error, s->scale, level, min, value, load(w + i * COLUMNS), mad);
    }
}

struct sums { vf levels, squares, products; };

/* Levels of one step and their weighted sums; `capped`: some may lie above nmax. */
INLINE struct sums sum_step(const float *x, const float *w, float *level, int n, int nmax, vf step, vf min, int capped) {
    vf zero = all(0), top = all(nmax);
    struct sums s = {zero, zero, zero};
    for (int i = 0; i < n; ++i) {
        vf value = load(x + i * COLUMNS), weight = load(w + i * COLUMNS);
        vf l = larger(rounded(step * (value - min)), zero);
        if (capped) l = smaller(l, top);
        store(level + i * W, l);
        vf wl = weight * l;
        s.levels = s.levels + wl;
        s.squares = s.squares + wl * l;
        s.products = s.products + wl * value;
    }
    return s;
}

/* The fit to the levels of one step: (offset + nmax) / (max - min). */
INLINE void try_step(struct walk *s, const float *x, const float *w, float *level, int n, int nmax, float offset) {
    vf zero = all(0), min = s->min, range = s->max - min, step = s->step = all(offset + nmax) / range;
    s->odd = either(s->odd, except(wraps(step, s->size, min), s->flat));
    /* Where the range is positive nothing lies above (nmax + 0.4) * range / range, which rounds to nmax. */
    int capped = offset > 0.45f || lanes(except(less(range, all(0x1p-126f)), s->flat));
    struct sums t = capped ? sum_step(x, w, level, n, nmax, step, min, 1) : sum_step(x, w, level, n, nmax, step, min, 0);
    vf d = s->sum_w * t.squares - t.levels * t.levels;
    s->solved = less(zero, d);
    vf scale = (s->sum_w * t.products - s->sum_x * t.levels) / d;
    min = (t.squares * s->sum_x - t.levels * t.products) / d;
    vm positive = less(zero, min);
    if (lanes(positive)) {
        scale = pick(positive, t.products / t.squares, scale);
        min = clear(min, positive);
    }
    s->this_scale = scale;
    s->this_min = min;
}

/* The error of that fit, which is kept where it is the best. */
INLINE void judge(struct walk *s, const float *x, const float *w, const float *level, int n, int mad) {
    vf error = all(0), scale = s->this_scale, min = s->this_min;
    for (int i = 0; i < n; ++i)
        error = add_error(error, scale, load(level + i * W), min, load(x + i * COLUMNS), load(w + i * COLUMNS), mad);
    vm better = both(s->solved, less(error, s->error));
    s->error = pick(better, error, s->error);
    s->scale = pick(better, scale, s->scale);
    s->best_step = pick(better, s->step, s->best_step);
    s->best_base = pick(better, s->min, s->best_base);
    s->min = pick(better, min, s->min);
}

INLINE unsigned end(const struct walk *s, struct fits *out, int at) {
    vf scale = clear(s->scale, s->flat);
    store(out->scale + at, scale);
    store(out->low + at, -s->min);
    store(out->step + at, clear(s->best_step, s->flat));
    store(out->base + at, s->best_base);
    store(out->weight + at, s->sum_w);
    vm finite = both(less(magnitude(scale), all(0x1p127f)), less(magnitude(s->min), all(0x1p127f)));
    return lanes(either(s->odd, except(everywhere(), finite)));
}

/* Fits every column of a matrix of n rows into out[at...]. Returns those that are left to ggml, one bit each. */
INLINE uint32_t search(const float *x, const float *w, int n, int nmax, float rmin, float rdelta, int nstep, int mad,
                       struct fits *out, int at) {
    float level[2][32 * W] ALIGNED;
    uint32_t odd = 0;
    for (int v = 0; v < COLUMNS; v += 2 * W) {
        struct walk s[2];
        for (int p = 0; p < 2; ++p) begin(&s[p], x + v + p * W, w + v + p * W, n, nmax, mad);
        for (int is = 0; is <= nstep; ++is) {
            float offset = rmin + rdelta * is;
            for (int p = 0; p < 2; ++p) try_step(&s[p], x + v + p * W, w + v + p * W, level[p], n, nmax, offset);
            for (int p = 0; p < 2; ++p) judge(&s[p], x + v + p * W, w + v + p * W, level[p], n, mad);
        }
        for (int p = 0; p < 2; ++p) odd |= (uint32_t)end(&s[p], out, at + v + p * W) << (v + p * W);
    }
    return odd;
}
