/* What of a restore is fanned out: which bytes which rank reads for all.  Arithmetic alone.
 *
 * The ranks of a communicator that hold the same boxes on devices need not all read them.  A
 * piece that is declared as held by as many replicas as the communicator has ranks is dealt to
 * them as the writing of it is (decl_share, G4): by whole tiles, so a chunk that was saved as the
 * same box, by however many replicas, is read by one rank; small ones go whole to one rank by
 * hash.  A share is cut into units of at most 32 MiB: one broadcast each, in this order, the ranks
 * taking turns:
 *
 *      piece      rank 0's share      rank 1's share      rank 2's share
 *                 [ u0 | u3 | u6 ]    [ u1 | u4 ]         [ u2 | u5 ]
 *
 * A unit is one run of memory.  A piece that has one that is not (strides) is not dealt, nor are
 * objects, optional tensors, what the patterns leave out and what lies elsewhere than on the
 * communicator's device: each rank reads those for itself.
 *
 * The order, the owners and the boxes follow from what all ranks declared alike; `digest` says
 * so, and nothing is sent before all have compared it. */
#pragma once

#include "formats/decl.h"
#include "formats/select.h"

#define FANOUT_UNIT_BYTES (UINT64_C(32) << 20)

struct fanout_ask {              /* borrowed */
    const struct decl *decl;     /* finished */
    const struct select *select; /* of the restore */
    const struct strided *at;    /* per piece */
    const uint8_t *on;           /* per piece: its device (devices.h) */
    unsigned device;             /* the communicator's, never 0 */
    uint32_t rank, count;        /* in the communicator */
};
struct fanout_unit {
    size_t piece; /* of the declaration */
    uint32_t owner;
    struct box box; /* global */
    uint64_t bytes;
    unsigned char *at; /* in this rank's memory */
    size_t part_piece; /* of `part`, which has the same box; SIZE_MAX: another rank's */
};
struct fanout_plan {
    struct fanout_unit *units;
    size_t count, cap;
    uint64_t bytes;       /* of all units */
    uint64_t bytes_mine;  /* of those that this rank owns */
    struct digest digest; /* of the units without addresses */
    /* What this rank asks ckptd for: the same tensors; of what is dealt its own units. */
    struct decl part;
    size_t *of;     /* per piece of `part`: the declaration's */
    uint64_t *came; /* per piece of `part`: bytes of which the copies are queued */
    size_t of_cap;
};

/* CKPT_UNSUPPORTED: there is nothing to deal.  On failure *ret is untouched. */
enum ckpt_status fanout_plan_make(const struct fanout_ask *ask, struct fanout_plan *ret,
                                  struct ckpt_err *err) CKPT_MUST_CHECK;
void fanout_plan_fini(struct fanout_plan *p);
/* Units [first, result) are one group of broadcasts: at most 32 MiB, unless it is one unit, and
 * not too many. */
size_t fanout_plan_round(const struct fanout_plan *p, size_t first);
