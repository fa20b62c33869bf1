/* AdamW: moments, bias correction, decay of matrices only, a warm-up and then a slow decline. */
#include "tools/examples/train_adamw.h"

#include <math.h>
#include <stdlib.h>

static const float beta_mean = 0.9f, beta_square = 0.99f, epsilon = 1e-8f, decay = 0.1f;

bool adamw_init(struct adamw *a, struct group_range range)
{
    *a = (struct adamw){ .range = range };
    a->mean = calloc(range.count + 1, sizeof(float));
    a->square = calloc(range.count + 1, sizeof(float));
    a->gradients = calloc(range.count + 1, sizeof(float));
    return a->mean && a->square && a->gradients;
}

void adamw_fini(struct adamw *a)
{
    free(a->mean);
    free(a->square);
    free(a->gradients);
    *a = (struct adamw){ 0 };
}

struct group_range adamw_part_in(struct group_range range, const struct model_tensor *t)
{
    size_t first = range.first > t->first ? range.first : t->first;
    size_t range_end = range.first + range.count, tensor_end = t->first + t->count;
    size_t end = range_end < tensor_end ? range_end : tensor_end;
    if (first >= end)
        return (struct group_range){ 0, 0 };
    return (struct group_range){ first - t->first, end - first };
}

static float learning_rate(uint64_t step)
{
    const double peak = 6e-4, warmup = 5.0, half_after = 400.0;
    double now = (double)step;
    double rate = now < warmup ? now / warmup : 1.0 / (1.0 + (now - warmup) / half_after);
    return (float)(peak * rate);
}

/* Constants of one step, the same for every parameter. */
struct rates {
    float step, mean_scale, square_scale, keep;
};

static void update(struct adamw *a, float *params, size_t first, size_t count, struct rates r)
{
    float *mean = a->mean + first, *square = a->square + first;
    const float *gradients = a->gradients + first;
    for (size_t i = 0; i < count; i++) {
        float g = gradients[i];
        mean[i] = beta_mean * mean[i] + (1.0f - beta_mean) * g;
        square[i] = beta_square * square[i] + (1.0f - beta_square) * g * g;
        float size = sqrtf(square[i] * r.square_scale) + epsilon;
        params[i] = params[i] * r.keep - r.step * (mean[i] * r.mean_scale) / size;
    }
}

void adamw_step(struct adamw *a, struct model *m, uint64_t step)
{
    float rate = learning_rate(step);
    struct rates r = {
        .step = rate,
        .mean_scale = (float)(1.0 / (1.0 - pow((double)beta_mean, (double)step))),
        .square_scale = (float)(1.0 / (1.0 - pow((double)beta_square, (double)step))),
    };
    for (size_t i = 0; i < m->tensor_count; i++) {
        const struct model_tensor *t = &m->tensors[i];
        struct group_range part = adamw_part_in(a->range, t);
        size_t at = t->first + part.first;
        r.keep = t->cols ? 1.0f - rate * decay : 1.0f;
        if (part.count)
            update(a, m->params + at, at - a->range.first, part.count, r);
    }
}
