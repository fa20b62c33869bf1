/* AdamW over one range of a model's parameters: the share of one rank (as in ZeRO stage 1). */
#pragma once

#include <stdbool.h>

#include "tools/examples/train_group.h"
#include "tools/examples/train_model.h"

struct adamw {
    struct group_range range;
    float *mean, *square; /* [range.count] moments, the state to save */
    float *gradients;     /* [range.count] to be filled before each step */
};

/* False when out of memory. */
bool adamw_init(struct adamw *a, struct group_range range);
void adamw_fini(struct adamw *a);
/* Updates the range of m->params and the moments.  `step` counts from 1; the learning rate is a
 * function of it alone. */
void adamw_step(struct adamw *a, struct model *m, uint64_t step);

/* The part of a range that lies in one tensor, counted from the tensor's first element.
 * count is 0 when they do not meet. */
struct group_range adamw_part_in(struct group_range range, const struct model_tensor *t);
