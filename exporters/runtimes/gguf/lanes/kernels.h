/* One level's kernels and the loop over chunks that feeds them; every level includes this with its own vectors. */

#include "convert.h"
#include "search.h"
#include "symmetric.h"
#include "superblocks.h"

static int block_bytes(int type) {
    switch (type) {
    case Q4_K: return sizeof(struct q4_k);
    case Q6_K: return sizeof(struct q6_k);
    default: return 0;
    }
}

static int super(const struct task *t, struct report *r) {
    static const float empty[SUPER];
    int bytes = block_bytes(t->type);
    int64_t across = t->width / SUPER, blocks = t->rows * across;
    struct chunk c ALIGNED;
    if (!bytes || t->width % SUPER) return -1;
    for (int64_t at = 0; at < blocks; at += CHUNK) {
        c.blocks = blocks - at < CHUNK ? (int)(blocks - at) : CHUNK;
        c.left = 0;
        uint32_t top = convert(t, r, at * SUPER, c.x, c.blocks * SUPER);
        if (c.blocks < CHUNK) memset(c.x + c.blocks * SUPER, 0, (CHUNK - c.blocks) * SUPER * sizeof(float));
        for (int b = 0; b < CHUNK; ++b) {
            c.importance[b] = t->importance ? t->importance + (at + b) % across * SUPER : NULL;
            if (t->importance && b >= c.blocks) c.importance[b] = empty;
        }
        if (top > to_bits(0x1p60f))
            for (int b = 0; b < c.blocks; ++b)
                for (int i = 0; i < SUPER; ++i)
                    if ((to_bits(c.x[b * SUPER + i]) & 0x7fffffff) > to_bits(0x1p60f)) c.left |= 1u << b;
        void *to = (char *)t->target + at * bytes;
        switch (t->type) {
        case Q4_K: q4_k_plain(&c, to); break;
        case Q6_K: q6_k_any(&c, to); break;
        }
        for (; c.left; c.left &= c.left - 1) {
            int b = __builtin_ctz(c.left);
            t->ggml(t->type, c.x + b * SUPER, (char *)to + b * bytes, 0, 1, SUPER, c.importance[b]);
        }
    }
    return 0;
}

int LEVEL(const struct task *t, struct report *r) {
    if (t->type == Q4_K && t->importance) return -1;
    return super(t, r);
}
