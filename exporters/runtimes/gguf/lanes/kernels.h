/* One level's kernels and what chooses among them; every level includes this with its own vectors. */

#include <stdlib.h>

typedef int32_t whole_lanes __attribute__((vector_size(4 * W)));
INLINE vf with_sign(vf size, vf sign) {
    return (vf)((whole_lanes)size | ((whole_lanes)sign & (whole_lanes)all(-0.f)));
}
INLINE vf clear(vf a, vm m) { return pick(m, all(0), a); }

#include "convert.h"
#include "search.h"
#include "symmetric.h"
#include "superblocks.h"
#include "simple.h"

/* Weights by which no sum overflows; ggml takes others, as far as it goes. */
static int usable(const float *importance, int64_t width) {
    for (int64_t i = 0; i < width; ++i)
        if (!(importance[i] >= 0 && to_bits(importance[i]) <= LARGEST)) return 0;
    return 1;
}

int LEVEL(const struct task *t, struct report *r) {
    const int weighed = t->importance && t->type != Q8_0 && t->type != F32 && t->type != F16 && t->type != BF16;
    if (weighed && !usable(t->importance, t->width)) return -1;
    switch (t->type) {
    case Q2_K: case Q3_K: case Q4_K: case Q5_K: case Q6_K: return super(t, r);
    case Q4_0: case Q4_1: case Q5_0: case Q5_1: return weighed ? important(t, r) : simple(t, r);
    case Q8_0: return simple(t, r);
    case F32: case F16: case BF16: return floats(t, r);
    default: return -1;
    }
}
