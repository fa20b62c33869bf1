/* Between the two halves of the planner: plan.c finds which chunks each consumer needs,
 * plan_batch.c makes batches of them. */
#pragma once

#include "storage/repo/plan.h"

/* One chunk that one piece of one consumer needs; everything else follows from it by
 * arithmetic, so that millions of hits stay small. */
struct plan_hit {
    uint64_t ordinal; /* of the chunk in its rank */
    uint32_t rank, consumer;
    uint32_t tensor, piece;              /* as in plan_frag */
    uint64_t tile;                       /* of the box */
    const struct manifest_box *box;      /* borrowed from the reader */
    const struct manifest_tensor *saved; /* the same */
};
static inline const struct decl_piece *plan_piece(const struct decl *d, uint32_t tensor,
                                                  uint32_t piece)
{
    return &d->pieces[d->tensors[tensor].first_piece + piece];
}
/* Sorts `hits` and fills p->batches and read_bytes. */
enum ckpt_status plan_batches(struct reader *r, const struct decl *const *consumers, size_t count,
                              uint64_t slot_bytes, struct plan_hit *hits, size_t hit_count,
                              struct plan *p, struct ckpt_err *err) CKPT_MUST_CHECK;
