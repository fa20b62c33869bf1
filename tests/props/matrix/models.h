/* The parameters of models as they are published: names and shapes, each with what its training
 * keeps beside it (bf16 weight, fp32 master copy, Adam's two moments: 14 bytes a parameter). */
#pragma once

#include "props/matrix/model_topology.h"

enum model_kind {
    MODEL_LLAMA_7B,           /* 32 layers of 4,096; 6.7e9 parameters */
    MODEL_LLAMA_7B_FUSED,     /* the same with query/key/value and gate/up in one tensor each */
    MODEL_LLAMA_405B,         /* 126 layers of 16,384; 4.1e11 */
    MODEL_LLAMA_405B_STACKED, /* the same with all layers in one tensor (prepended axis) */
    MODEL_MIXTRAL_8X7B,       /* 32 layers, 8 experts, a tensor each; 4.7e10 */
    MODEL_DEEPSEEK_671B,      /* 61 layers, 256 experts on an axis of their own; 6.7e11 */
};
const char *model_name(enum model_kind kind);

struct model_list {
    struct topo_tensor *tensor;
    size_t count, cap;
    unsigned scale;
    uint32_t layers;
    uint64_t parameters;
};
/* Every dimension but the numbers of layers and experts divided by `scale`, at least 1. */
void model_list_init(struct model_list *m, enum model_kind kind, unsigned scale);
void model_list_fini(struct model_list *m);
