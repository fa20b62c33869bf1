/* Between the two halves of the planner: plan.c finds which tiles of which saved boxes
 * each consumer needs, plan_batch.c makes batches of them.  Boxes come rank by rank and
 * within a rank in order of their chunks, so batches are made as the hits come and
 * nothing of a manifest is kept. */
#pragma once

#include "storage/repo/plan.h"

/* One tile of a saved box that one piece of one consumer needs. */
struct plan_hit {
    uint64_t tile;  /* number in the box */
    uint32_t part;  /* as in plan_frag */
    uint32_t bytes; /* of what they have in common */
};
static inline const struct decl_piece *plan_piece(const struct decl *d, uint32_t tensor,
                                                  uint32_t piece)
{
    return &d->pieces[d->tensors[tensor].first_piece + piece];
}

struct plan_batcher {
    uint64_t slot_bytes;
    struct plan *p;
    struct plan_chunk *chunks; /* of all batches, one array each: the plan's at the end */
    struct plan_frag *frags;
    struct plan_use *uses;
    uint64_t *words;
    size_t chunk_count, chunk_cap, frag_count, frag_cap, use_count, use_cap, batch_cap;
    size_t word_count, word_cap;
    uint64_t *used;   /* per consumer: bytes of its slot in the open batch */
    uint64_t *opened; /* per consumer: number of the batch that `used` speaks of, from 1 */
    uint32_t rank;    /* whose boxes come */
    uint64_t ordinal; /* chunks of the rank below this one are dealt with */
    const struct manifest_header *manifest;
};
/* The plan's parts stand before the first box is added. */
bool plan_batcher_init(struct plan_batcher *b, size_t consumers, uint64_t slot_bytes,
                       struct plan *p);
/* The boxes of another rank follow; `manifest` stays until the next call. */
void plan_batcher_rank(struct plan_batcher *b, uint32_t rank,
                       const struct manifest_header *manifest);
/* What is needed of one box of the rank: `hits` by tile, then by part.  Boxes of a
 * rank come in order of first_chunk. */
enum ckpt_status plan_batcher_add(struct plan_batcher *b, const struct index_tensor *saved,
                                  const struct manifest_box *box, const struct plan_hit *hits,
                                  size_t count, struct ckpt_err *err) CKPT_MUST_CHECK;
/* Hands the arrays over to the plan. */
void plan_batcher_finish(struct plan_batcher *b);
/* Half-built or finished. */
void plan_batcher_fini(struct plan_batcher *b);
