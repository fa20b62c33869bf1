/* Layouts by name and number, as trainers choose them: tensor, pipeline (with virtual stages),
 * data and expert parallelism, ZeRO stages, and from them what a rank holds of a tensor.
 *
 *   ranks = pp stages of dr x ds x tp ranks, and idle ones behind them.  The same ranks of a
 *   stage are for experts edp x ep x etp, so ep * etp divides dr * ds * tp.
 *
 *   stage    which pipeline stages have the tensor: of its layer, or along dimension 0
 *   role     how the ranks of a stage cut it: tensor parallelism, experts
 *   cls, zero  whether the data-parallel ranks share it out (ZeRO 1: optimizer, 2: and
 *            gradients, 3: and parameters), in boxes of dimension 0 (FSDP2), in flat ranges
 *            of each tensor, or in flat ranges of one buffer of many tensors (Megatron)
 *
 * Pieces come from ckpt_mesh_pieces and ckpt_flat_pieces.  oracle.py has the same words and
 * arithmetic of its own. */
#pragma once

#include <stdbool.h>

#include "libckpt/ckpt.h"

#include "check.h"

#define TOPO_PIECES 128 /* of one tensor on one rank */

enum topo_cut { TOPO_BOX, TOPO_FLAT, TOPO_BUCKET };
struct topo {
    uint32_t tp, pp, vp, dr, ds, ep, etp;
    uint32_t zero; /* 0..3 */
    enum topo_cut cut;
    uint32_t strided;       /* 1: dimension 0 by data, then by tensor ranks, as DTensor says it */
    uint32_t inner;         /* 1: neighbouring ranks are on different stages */
    uint32_t idle;          /* ranks that hold nothing */
    uint32_t align;         /* elements, of tensors in a bucket: a multiple of 4 */
    uint32_t vpad;          /* a vocabulary is padded to a multiple of tp * vpad rows */
    uint32_t shift, copies; /* TOPO_FIXED: the first rank, and how many hold each box */
};
uint32_t topo_world(const struct topo *o);

enum topo_role {
    TOPO_WHOLE,   /* not cut within a stage */
    TOPO_SHARD,   /* dimension `dim` over tp */
    TOPO_FUSED,   /* dimension 0 holds groups (query, key, value), each cut over tp */
    TOPO_VOCAB,   /* dimension 0 over tp, in rows of the padded vocabulary */
    TOPO_EXPERTS, /* dimension `edim` over ep, `dim` over etp */
    TOPO_EXPERT,  /* one of `experts`, on the ranks of its ep part; `dim` over etp */
    TOPO_FIXED,   /* `parts` boxes of dimension 0, the same in every layout */
};
enum topo_stage { TOPO_LAYER, TOPO_STACK, TOPO_FIRST, TOPO_LAST, TOPO_ENDS, TOPO_ALL };
enum topo_cls { TOPO_PARAM, TOPO_GRAD, TOPO_OPTIM };

struct topo_tensor {
    char name[128];
    const char *tied; /* NULL, or the tensor that has the bytes */
    uint32_t dtype, kind, ndim;
    uint64_t shape[CKPT_MAX_DIMS];
    uint32_t block[CKPT_MAX_DIMS]; /* CKPT_BLOCKED */
    uint32_t unit[CKPT_MAX_DIMS];  /* elements a dimension is cut by: blocks, whole bytes, 1 */
    enum topo_cls cls;
    enum topo_role role;
    enum topo_stage stage;
    uint32_t layer, layers;    /* TOPO_LAYER */
    uint32_t dim, edim;        /* >= ndim: not cut */
    uint32_t group[4], groups; /* TOPO_FUSED */
    uint32_t expert, experts;  /* TOPO_EXPERT */
    uint32_t parts;            /* TOPO_FIXED */
};

/* How a rank keeps its shard: from the innermost dimension perm[ndim - 1] outwards, each step
 * `gap` elements longer than the dimension is. */
struct topo_memory {
    uint32_t perm[CKPT_MAX_DIMS], gap[CKPT_MAX_DIMS];
    uint32_t first;       /* stride of the innermost dimension */
    uint32_t lead, slack; /* bytes before and behind */
    uint32_t negative;    /* a bit a dimension: backwards */
    uint32_t wide;        /* this dimension has stride 0; >= ndim: none */
};
struct topo_memory topo_dense(uint32_t ndim);

/* What one rank holds of one tensor. */
struct topo_hold {
    struct ckpt_piece piece[TOPO_PIECES];
    size_t count;
    size_t blob; /* which of the rank's memories the pieces lie in */
};
/* A rank's memories: one for each tensor (in their order, perhaps of 0 bytes), and behind them
 * one for each bucket.  hold: `count` entries; ret_bytes: room for 2 * count sizes.  Returns
 * the number of memories. */
size_t topo_hold(const struct topo *o, const struct topo_tensor *t, size_t count,
                 const struct topo_memory *memory, uint32_t rank, struct topo_hold *hold,
                 uint64_t *ret_bytes);

/* True if the layout shares the tensor out among data-parallel ranks. */
bool topo_zero_cuts(const struct topo *o, const struct topo_tensor *t);
/* The same, in flat ranges. */
bool topo_flat_cuts(const struct topo *o, const struct topo_tensor *t);
/* In a buffer of many tensors.  Not what several stages or tensor ranks hold: what lies around it
 * differs there, and with it the ranges, so that they are no replicas of each other. */
bool topo_in_bucket(const struct topo *o, const struct topo_tensor *t);
/* Rows of a padded vocabulary. */
uint64_t topo_vocab_rows(const struct topo *o, const struct topo_tensor *t);
