/* Stands in until the checkpoint library is linked: refuses --store rather than pretend. */
#include "tools/examples/train_ckpt.h"

#include <stdio.h>

bool train_ckpt_open(struct train_ckpt **ret, const struct train_ckpt_options *options)
{
    if (options->store) {
        if (options->rank == 0)
            fprintf(stderr, "--store %s: this build cannot save checkpoints\n", options->store);
        return false;
    }
    *ret = NULL;
    return true;
}

bool train_ckpt_declare(struct train_ckpt *c, const struct train_ckpt_state *state)
{
    (void)c, (void)state;
    return true;
}

bool train_ckpt_resume(struct train_ckpt *c, uint64_t *ret_step)
{
    (void)c, (void)ret_step;
    return true;
}

void train_ckpt_save(struct train_ckpt *c, uint64_t step)
{
    (void)c, (void)step;
}

void train_ckpt_fence(struct train_ckpt *c)
{
    (void)c;
}

void train_ckpt_progress(struct train_ckpt *c, uint64_t step)
{
    (void)c, (void)step;
}

bool train_ckpt_close(struct train_ckpt *c)
{
    (void)c;
    return true;
}
