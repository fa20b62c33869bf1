/* All that the trainer asks of checkpointing.  The only file of the trainer that another
 * checkpoint library would change is train_ckpt.c.
 *
 * Each rank calls, in this order:
 *
 *     open      once, after the fork
 *     declare   once: what the state is and where it lies; it stays there until close
 *     resume    once: fills the state from the newest checkpoint, if there is one
 *     then, per step:   fence   before anything of the state changes
 *                       save    after it changed, if this step is to be saved; returns at once
 *     close     waits for the last save
 *
 * Every call accepts NULL for "no checkpointing" and then does nothing.  Those that return bool
 * have said why on stderr when they return false; the rank should exit.  Each rank says it: the
 * first that exits makes the parent kill the others, whose words may be lost. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct train_ckpt;

struct train_ckpt_options {
    const char *job, *store;
    const char *launch; /* one start of the trainer: the same on all ranks, new at each start */
    unsigned rank, world;
};

/* A tensor of floats (F32), row-major, of which this rank holds all (`replicated`: and so do all
 * other ranks) or the `count` elements from `first` on. */
struct train_ckpt_tensor {
    char name[64];
    unsigned dims; /* 1 or 2 */
    uint64_t shape[2];
    bool replicated;
    uint64_t first, count; /* of the elements in row-major order; whole tensor if replicated */
    float *data;           /* where element `first` lies; NULL if count is 0 */
};

/* Opaque bytes: the same on all ranks, or this rank's own (then the name says which rank). */
struct train_ckpt_object {
    char name[64];
    bool replicated;
    void *data;
    size_t bytes;
};

struct train_ckpt_state {
    struct train_ckpt_tensor *tensors;
    size_t tensor_count;
    struct train_ckpt_object *objects;
    size_t object_count;
};

bool train_ckpt_open(struct train_ckpt **ret, const struct train_ckpt_options *options);
/* Borrows the arrays and the memory they point to until close. */
bool train_ckpt_declare(struct train_ckpt *c, const struct train_ckpt_state *state);
/* *ret_step: the step the state is now at; untouched if there is no checkpoint.  A rank's own
 * object that the checkpoint lacks (saved by fewer ranks) keeps its bytes. */
bool train_ckpt_resume(struct train_ckpt *c, uint64_t *ret_step);
/* Training goes on while the save runs; the state must not change before the next fence.
 * A save that fails is reported on stderr and training continues. */
void train_ckpt_save(struct train_ckpt *c, uint64_t step);
void train_ckpt_fence(struct train_ckpt *c);
/* This rank has finished `step`: tells a crash loop from a run that gets on. */
void train_ckpt_progress(struct train_ckpt *c, uint64_t step);
/* finished: all steps are done; an end by an error says false.  False if the last save did not
 * become durable. */
bool train_ckpt_close(struct train_ckpt *c, bool finished);
