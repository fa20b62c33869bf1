/* Inside of the planner: plan_ask.c finds out what is asked for and what has its bytes,
 * plan.c which ranks wrote a part of it and which of their tiles are needed, plan_batch.c
 * makes batches of those. */
#pragma once

#include "storage/repo/plan_hit.h"
#include "storage/repo/plan_names.h"

struct asked { /* a tensor of a consumer, and what has its bytes */
    const struct index_tensor *saved;
    uint32_t consumer, tensor;
};
struct wanted_box { /* a piece needs something of this box */
    const struct manifest_box *box;
    uint32_t part;
};
struct planner {
    struct reader *r;
    const struct decl *const *consumers;
    size_t count;
    unsigned flags;
    const uint32_t *ranks; /* of the consumers, for messages */
    struct plan_names renames;
    struct plan *p;
    size_t note_cap;
    struct plan_batcher batcher;
    struct asked *asked; /* by name of what was saved, then consumer, then tensor */
    size_t asked_count, asked_cap;
    size_t part_cap;
    uint32_t *wants;    /* parts of which a rank wrote something: by rank, rising */
    size_t *wants_end;  /* of each rank; while they are counted: how many the rank before has */
    const char **names; /* of the rank at work: what is wanted of its manifest, sorted */
    size_t name_count, name_cap;
    struct wanted_box *boxes; /* of the rank at work */
    size_t box_count, box_cap;
    struct plan_hit *hits; /* of the box at work */
    size_t hit_count, hit_cap;
    uint64_t **got; /* per consumer, per piece: elements found */
};

/* Fills `asked`, sorted, and the plan's gaps and notes; what is not owed is in `got`.
 * Errors: of plan_make; with the consumer's rank in front. */
enum ckpt_status plan_ask_all(struct planner *pl, struct ckpt_err *err) CKPT_MUST_CHECK;
