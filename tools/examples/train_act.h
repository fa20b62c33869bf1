/* What the two halves of the model share and nobody else needs: the order of the parameters, and
 * what the forward pass leaves for the backward pass. */
#pragma once

#include "tools/examples/train_model.h"

/* The order of parameters: TOKEN, POSITION, the twelve of each block, and the final norm. */
enum { TOKEN, POSITION, BLOCKS };
enum block_param {
    NORM1_W,
    NORM1_B,
    QKV_W,
    QKV_B,
    PROJ_W,
    PROJ_B,
    NORM2_W,
    NORM2_B,
    UP_W,
    UP_B,
    DOWN_W,
    DOWN_B,
    BLOCK_PARAMS,
};
enum { FINAL_W, FINAL_B };

/* What the forward pass leaves for the backward pass, per block. */
struct block_act {
    float *in;             /* [tokens][width] residual stream entering the block */
    float *norm1, *stats1; /* norm and its {mean, 1/deviation} */
    float *qkv;            /* [tokens][3 width] */
    float *weights;        /* [batch][heads][context][context] attention weights */
    float *mixed;          /* [tokens][width] attention output */
    float *mid;            /* residual stream between the halves */
    float *norm2, *stats2;
    float *up, *gelu; /* [tokens][4 width] */
};
struct model_activations {
    struct block_act *block; /* [blocks] */
    float *out;              /* [tokens][width] residual stream after the last block */
    float *norm, *stats;     /* final norm */
    float *probs;            /* [tokens][vocab]: logits, then their softmax */
    /* Gradients on the way back, and one head's scratch. */
    float *d_x, *d_norm, *d_mixed, *d_qkv, *d_up, *d_gelu, *d_weights;
    float *memory; /* all of the above */
};

/* Where a parameter lies in the array of all: the same in params and in gradients. */
static inline size_t param_at(const struct model *m, size_t index)
{
    return m->tensors[index].first;
}
static inline size_t param_at_block(const struct model *m, size_t block, enum block_param param)
{
    return param_at(m, BLOCKS + block * BLOCK_PARAMS + param);
}
static inline size_t param_at_final(const struct model *m, size_t param)
{
    return param_at(m, BLOCKS + m->config.blocks * BLOCK_PARAMS + param);
}
