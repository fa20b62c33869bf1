/* What writer and readers of the large benchmark agree on. */
#pragma once

#include "bench/scale_model.h"
#include "formats/key.h"

#define SCALE_JOB    "scale"
#define SCALE_LAYERS 126

/* One checkpoint a layout: several may lie in one store. */
static inline struct ckpt_name scale_name(const struct scale_layout *l)
{
    uint64_t step = (uint64_t)l->kind << 32 | l->world;
    return (struct ckpt_name){ 1, step, step };
}
