/* One level's kernels and what chooses among them; every level includes this with its own vectors. */

typedef int32_t whole_lanes __attribute__((vector_size(4 * W)));
INLINE vf with_sign(vf size, vf sign) {
    return (vf)((whole_lanes)size | ((whole_lanes)sign & (whole_lanes)all(-0.f)));
}
INLINE vf clear(vf a, vm m) { return pick(m, all(0), a); }

#include "convert.h"
#include "search.h"
#include "symmetric.h"
#include "matrix.h"
#include "chunk.h"
#include "affine.h"
#include "signed.h"
#include "simple.h"
#include "weighed.h"

/* Every row of the task, 16 blocks at a time; blocks of which a number is out of bounds go through ggml. */
static int super(const struct task *t, struct report *r) {
    const int bytes = t->type == Q2_K   ? sizeof(struct q2_k)
                      : t->type == Q3_K ? sizeof(struct q3_k)
                      : t->type == Q4_K ? sizeof(struct q4_k)
                      : t->type == Q5_K ? sizeof(struct q5_k)
                                        : sizeof(struct q6_k);
    const int64_t across = t->width / SUPER, blocks = t->rows * across;
    struct chunk c ALIGNED;
    c.important = t->importance != NULL;
    for (int64_t at = 0; at < blocks; at += CHUNK) {
        c.blocks = blocks - at < CHUNK ? (int)(blocks - at) : CHUNK;
        c.left = 0;
        uint32_t top = convert(t, r, at * SUPER, c.x, c.blocks * SUPER);
        for (int b = 0; c.important && b < c.blocks; ++b)
            memcpy(c.given + b * SUPER, t->importance + (at + b) % across * SUPER, SUPER * sizeof(float));
        if (c.blocks < CHUNK) {
            memset(c.x + c.blocks * SUPER, 0, (CHUNK - c.blocks) * SUPER * sizeof(float));
            if (c.important) memset(c.given + c.blocks * SUPER, 0, (CHUNK - c.blocks) * SUPER * sizeof(float));
        }
        void *to = (char *)t->target + at * bytes;
        switch (t->type) {
        case Q2_K: q2_k_chunk(&c, to); break;
        case Q3_K: q3_k_chunk(&c, to); break;
        case Q4_K: q4_k_chunk(&c, to); break;
        case Q5_K: q5_k_chunk(&c, to); break;
        default: q6_k_chunk(&c, to);
        }
        if (top > LARGEST) c.left |= vast(c.x, c.blocks, SUPER);
        for (c.left &= (1u << c.blocks) - 1; c.left; c.left &= c.left - 1) {
            int b = __builtin_ctz(c.left);
            const float *given = c.important ? c.given + b * SUPER : NULL;
            t->ggml(t->type, c.x + b * SUPER, (char *)to + b * bytes, 0, 1, SUPER, given);
        }
    }
    return 0;
}

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
