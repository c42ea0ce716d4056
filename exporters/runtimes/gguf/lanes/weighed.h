/* q4_0, q4_1, q5_0 and q5_1 by importance; included once a level. */

#include <stdlib.h>

struct important {
    float x[TILE], given[TILE];
    struct fits fits;
    struct spans spans;
};

/* One tile of a row of q4_0 or q5_0 with importance. */
INLINE void important_signed(struct important *p, const float *x, const float *w, int blocks, int nmax,
                             struct q4_0 *to4, struct q5_0 *to5) {
    span(x, w, COLUMNS, BLOCK, nmax, &p->spans, 0);
    for (int b = 0; b < blocks; ++b) {
        float step = p->spans.step[b];
        uint8_t l[BLOCK], *qs = to4 ? to4[b].qs : to5[b].qs;
        uint32_t bits = 0;
        for (int i = 0; i < BLOCK; ++i)
            l[i] = (uint8_t)(step == 0 ? 0 : clamp(nearest(step * p->x[b * BLOCK + i]), -nmax, nmax - 1) + nmax);
        for (int i = 0; i < 16; ++i) qs[i] = (l[i] & 0xf) | (uint8_t)(l[i + 16] << 4);
        for (int i = 0; i < BLOCK; ++i) bits |= (uint32_t)(l[i] >> 4) << i;
        *(to4 ? &to4[b].d : &to5[b].d) = half(p->spans.scale[b]);
        if (to5) memcpy(to5[b].qh, &bits, 4);
    }
}

/* One tile of a row of q4_1 or q5_1 with importance. Returns the blocks that are left to ggml. */
INLINE uint32_t important_ranged(struct important *p, const float *x, const float *w, int blocks, int nmax,
                                 struct q4_1 *to4, struct q5_1 *to5) {
    const struct fits *f = &p->fits;
    uint32_t odd = search(x, w, BLOCK, nmax, -0.9f, 0.05f, 36, 0, &p->fits, 0);
    for (int b = 0; b < blocks; ++b) {
        uint8_t l[BLOCK], *qs = to4 ? to4[b].qs : to5[b].qs;
        uint32_t bits = 0;
        for (int i = 0; i < BLOCK; ++i)
            l[i] = (uint8_t)clamp(nearest(f->step[b] * (p->x[b * BLOCK + i] - f->base[b])), 0, nmax);
        for (int i = 0; i < 16; ++i) qs[i] = (l[i] & 0xf) | (uint8_t)(l[i + 16] << 4);
        for (int i = 0; i < BLOCK; ++i) bits |= (uint32_t)(l[i] >> 4) << i;
        *(to4 ? &to4[b].d : &to5[b].d) = half(f->scale[b]);
        *(to4 ? &to4[b].m : &to5[b].m) = half(-f->low[b]);
        if (to5) memcpy(to5[b].qh, &bits, 4);
    }
    return odd;
}

/* The mean square of each of up to 16 rows, in the order of the values; one row a lane. */
static void row_spreads(const struct task *t, int64_t row, int rows, float *p, float *sigma2) {
    struct report ignored = {0, 0, 0};
    memset(sigma2, 0, 16 * sizeof(float));
    memset(p, 0, TILE * sizeof(float));
    for (int64_t i = 0; i < t->width; i += BLOCK) {
        for (int k = 0; k < rows; ++k) convert(t, &ignored, (row + k) * t->width + i, p + k * BLOCK, BLOCK);
        row_squares(p, BLOCK, BLOCK, sigma2);
    }
    for (int k = 0; k < 16; ++k) sigma2[k] = sigma2[k] / t->width;
}

/* q4_0, q4_1, q5_0 and q5_1 with importance: sigma2 is a row's, so that rows are taken one by one. Returns
 * whether a number of this row is out of bounds, so that ggml must do it. */
static int important_row(const struct task *t, struct report *r, int64_t row, float sigma2, struct important *p) {
    float x[TILE] ALIGNED, w[TILE] ALIGNED, spread[COLUMNS] ALIGNED;
    const int bytes = bytes_of(t->type);
    int odd = 0;
    for (int k = 0; k < COLUMNS; ++k) spread[k] = sigma2;
    for (int64_t i = 0; i < t->width; i += TILE) {
        int n = t->width - i < TILE ? (int)(t->width - i) : TILE, blocks = n / BLOCK;
        odd |= convert(t, r, row * t->width + i, p->x, n) > LARGEST;
        memcpy(p->given, t->importance + i, n * sizeof(float));
        memset(p->x + n, 0, (TILE - n) * sizeof(float));
        memset(p->given + n, 0, (TILE - n) * sizeof(float));
        columns(p->x, BLOCK, x);
        columns(p->given, BLOCK, w);
        important_weights(x, w, BLOCK, spread);
        void *to = (char *)t->target + (row * t->width + i) / BLOCK * bytes;
        switch (t->type) {
        case Q4_0: important_signed(p, x, w, blocks, 8, to, NULL); break;
        case Q5_0: important_signed(p, x, w, blocks, 16, NULL, to); break;
        case Q4_1: odd |= important_ranged(p, x, w, blocks, 15, to, NULL) != 0; break;
        default: odd |= important_ranged(p, x, w, blocks, 31, NULL, to) != 0;
        }
    }
    return odd;
}

/* A row for ggml: as float32 on the heap, for it may be long. False where there is no memory. */
static int row_by_ggml(const struct task *t, int64_t row) {
    struct report ignored = {0, 0, 0};
    float *x = malloc(t->width * sizeof(float));
    if (!x) return 0;
    for (int64_t i = 0; i < t->width; i += TILE)
        convert(t, &ignored, row * t->width + i, x + i, t->width - i < TILE ? (int)(t->width - i) : TILE);
    t->ggml(t->type, x, (char *)t->target + row * t->width / BLOCK * bytes_of(t->type), 0, 1, t->width, t->importance);
    free(x);
    return 1;
}

static int important(const struct task *t, struct report *r) {
    float sigma2[16];
    struct important p ALIGNED;
    for (int64_t row = 0; row < t->rows; row += 16) {
        int rows = t->rows - row < 16 ? (int)(t->rows - row) : 16;
        row_spreads(t, row, rows, p.x, sigma2);
        for (int k = 0; k < rows; ++k)
            if (important_row(t, r, row + k, sigma2[k], &p) && !row_by_ggml(t, row + k)) return -2;
    }
    return 0;
}
