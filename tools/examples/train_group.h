/* What the ranks share: one piece of anonymous memory made before the fork, and a barrier in it.
 *
 *     gradients[micro_batch][param]   each written by the rank that computed that micro-batch
 *     params[param]                   each range written by the rank that owns it
 *
 * A gradient is the sum over micro-batches in their order, never over ranks: the number of ranks
 * decides who computes a micro-batch, but not one bit of the result. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

enum { GROUP_MICRO_BATCHES = 8, GROUP_VALID_BATCHES = 16, GROUP_RANKS_MAX = 64 };

/* In the shared memory. */
struct group_shared {
    pthread_barrier_t barrier;
    double loss[GROUP_MICRO_BATCHES];
    double valid_loss[GROUP_VALID_BATCHES];
    atomic_bool asked_to_stop; /* by a signal, at any moment */
    bool stopping;             /* what rank 0 made of it, between two barriers: the same for all */
};

struct group {
    unsigned world;
    size_t param_count;
    struct group_shared *shared;
    float *params, *gradients; /* also shared */
    size_t bytes;
};

/* The range of all parameters whose optimizer state one rank keeps. */
struct group_range {
    size_t first, count;
};

/* Before the fork.  Returns 0, or an errno. */
int group_init(struct group *g, unsigned world, size_t param_count);
void group_fini(struct group *g);

/* Contiguous, without gaps; borders fall wherever the division puts them, in the middle of a row
 * of a matrix if need be. */
struct group_range group_range_of(const struct group *g, unsigned rank);

/* Waits until all ranks are here.  If a rank has died this never returns: the parent kills all. */
void group_barrier(struct group *g);
/* The place for the gradients of one micro-batch. */
float *group_gradients(struct group *g, size_t micro_batch);
/* out[i] = mean over all micro-batches of gradient range.first + i.  After a barrier. */
void group_reduce(const struct group *g, struct group_range range, float *out);
/* Gives the own range of `params` to all others and takes theirs.  All ranks call it. */
void group_gather_params(struct group *g, unsigned rank, float *params);
/* True on all ranks alike if the run is to end after this step.  Rank 0 decides before a barrier
 * (`decide`), all read behind it. */
void group_stop_decide(struct group *g, unsigned rank);
bool group_stopping(const struct group *g);
/* The mean over micro-batches, or validation batches, in their order. */
double group_loss(const struct group *g);
double group_valid_loss(const struct group *g);
