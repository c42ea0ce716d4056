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

/* Pairs of vectors that go through the steps side by side: one computes while another waits for its divisions. */
#define FLIGHT (COLUMNS / W < 4 ? 1 : 2)

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
        vf level = at_most(at_least_zero(rounded(s->best_step * (value - min))), top);
        s->error = add_error(s->error, s->scale, level, min, value, load(w + i * COLUMNS), mad);
    }
}

struct sums { vf levels, squares, products; };

INLINE vf add_level(struct sums *s, vf step, vf min, vf top, vf value, vf weight, int capped) {
    vf level = at_least_zero(rounded(step * (value - min)));
    if (capped) level = at_most(level, top);
    vf wl = weight * level;
    s->levels = s->levels + wl;
    s->squares = s->squares + wl * level;
    s->products = s->products + wl * value;
    return level;
}

/* Levels of one step and their weighted sums, of both vectors; `capped`: some may lie above nmax. */
INLINE void sum_step(const struct walk *s, struct sums *t, const float *x, const float *w, float *level, int n,
                     int nmax, int capped) {
    vf zero = all(0), top = all(nmax), step0 = s[0].step, step1 = s[1].step, min0 = s[0].min, min1 = s[1].min;
    struct sums t0 = {zero, zero, zero}, t1 = {zero, zero, zero};
    for (int i = 0; i < n; ++i) {
        const float *at = x + i * COLUMNS, *weight = w + i * COLUMNS;
        store(level + 2 * i * W, add_level(&t0, step0, min0, top, load(at), load(weight), capped));
        store(level + 2 * i * W + W, add_level(&t1, step1, min1, top, load(at + W), load(weight + W), capped));
    }
    t[0] = t0;
    t[1] = t1;
}

/* Scale and minimum from the sums of a step. */
INLINE void solve(struct walk *s, const struct sums *t) {
    vf zero = all(0), d = s->sum_w * t->squares - t->levels * t->levels;
    vf scale = (s->sum_w * t->products - s->sum_x * t->levels) / d;
    vf min = (t->squares * s->sum_x - t->levels * t->products) / d;
    vm positive = less(zero, min);
    if (lanes(positive)) {
        scale = pick(positive, t->products / t->squares, scale);
        min = clear(min, positive);
    }
    s->solved = less(zero, d);
    s->this_scale = scale;
    s->this_min = min;
}

/* The fits to the levels of one step: (offset + nmax) / (max - min). */
INLINE void try_step(struct walk *s, const float *x, const float *w, float *level, int n, int nmax, float offset) {
    struct sums t[2];
    int capped = offset > 0.45f;
    for (int p = 0; p < 2; ++p) {
        vf range = s[p].max - s[p].min;
        s[p].step = all(offset + nmax) / range;
        s[p].odd = either(s[p].odd, except(wraps(s[p].step, s[p].size, s[p].min), s[p].flat));
        /* Where the range is positive nothing lies above (nmax + 0.4) * range / range, which rounds to nmax. */
        capped |= lanes(except(less(range, all(0x1p-126f)), s[p].flat)) != 0;
    }
    if (capped) sum_step(s, t, x, w, level, n, nmax, 1);
    else sum_step(s, t, x, w, level, n, nmax, 0);
    solve(&s[0], &t[0]);
    solve(&s[1], &t[1]);
}

INLINE void keep(struct walk *s, vf error) {
    vm better = both(s->solved, less(error, s->error));
    s->error = pick(better, error, s->error);
    s->scale = pick(better, s->this_scale, s->scale);
    s->best_step = pick(better, s->step, s->best_step);
    s->best_base = pick(better, s->min, s->best_base);
    s->min = pick(better, s->this_min, s->min);
}

/* The errors of both fits, which are kept where they are the best. */
INLINE void judge(struct walk *s, const float *x, const float *w, const float *level, int n, int mad) {
    vf error0 = all(0), error1 = all(0);
    vf scale0 = s[0].this_scale, scale1 = s[1].this_scale, min0 = s[0].this_min, min1 = s[1].this_min;
    for (int i = 0; i < n; ++i) {
        const float *at = x + i * COLUMNS, *weight = w + i * COLUMNS;
        error0 = add_error(error0, scale0, load(level + 2 * i * W), min0, load(at), load(weight), mad);
        error1 = add_error(error1, scale1, load(level + 2 * i * W + W), min1, load(at + W), load(weight + W), mad);
    }
    keep(&s[0], error0);
    keep(&s[1], error1);
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
    float level[FLIGHT][2 * 32 * W] ALIGNED;
    uint32_t odd = 0;
    for (int v = 0; v < COLUMNS; v += 2 * FLIGHT * W) {
        struct walk s[2 * FLIGHT];
        for (int p = 0; p < 2 * FLIGHT; ++p) begin(&s[p], x + v + p * W, w + v + p * W, n, nmax, mad);
        for (int is = 0; is <= nstep; ++is) {
            float offset = rmin + rdelta * is;
            for (int p = 0; p < FLIGHT; ++p)
                try_step(s + 2 * p, x + v + 2 * p * W, w + v + 2 * p * W, level[p], n, nmax, offset);
            for (int p = 0; p < FLIGHT; ++p) judge(s + 2 * p, x + v + 2 * p * W, w + v + 2 * p * W, level[p], n, mad);
        }
        for (int p = 0; p < 2 * FLIGHT; ++p) odd |= (uint32_t)end(&s[p], out, at + v + p * W) << (v + p * W);
    }
    return odd;
}
