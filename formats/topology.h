/* Topologies as people name them, and who holds what under them.
 *
 *      'tp=4,pp=2,dp=8'  +  rules (a layout file, may be empty)  +  a list of tensors
 *                                     │
 *                                     ▼
 *               tensor, rank  →  the pieces that this rank holds
 *
 * A mesh is a list of axes: tp (tensor), pp (pipeline), dp (data), ep (expert), cp
 * (context), rep (replicas of sharded data parallelism).  Ranks are numbered with the axis
 * written first running fastest, as Megatron does ('tp=4,dp=8,pp=2': ranks 0..3 share a
 * tensor).  An axis that is not written has size 1.  Beside axes: vpp=V (virtual stages of
 * each pipeline rank), zero=1|2 (optimizer state in flat ranges over dp), zero=3 (all
 * tensors), fsdp=1 (all tensors in rows over dp, as PyTorch's fully_shard).
 *
 * With etp=E, experts have a mesh of their own, as Megatron folds them (TP x CP x DP = ETP x
 * EP x expert DP): the ranks of a pipeline stage are numbered anew, etp and ep as they are
 * written, data parallelism of experts is what is left and slowest.  ep is no factor of the
 * world then.  Rules say tp and dp of experts, too.  A tensor is an expert's if ep does
 * something to it.
 *
 * What an axis does to a tensor is decided by the first rule whose pattern matches the
 * name and that speaks of that axis; without one, by well-known names of parameters
 * (topology_names.c).  Axes are applied in the order pp, ep, tp, cp, rep, dp, each to what
 * the ones before left, whatever their order in the mesh.
 *
 * The language of rules, with examples: formats/LAYOUT.md. */
#pragma once

#include "formats/layout.h"

#define TOPOLOGY_FILE_MAX     MIB  /* bytes of a layout file */
#define TOPOLOGY_RULES_MAX    4096 /* of it */
#define TOPOLOGY_SECTIONS_MAX 64   /* lengths in one place */

/* In the order in which they are applied. */
enum topology_axis {
    TOPOLOGY_PP,
    TOPOLOGY_EP,
    TOPOLOGY_TP,
    TOPOLOGY_CP,
    TOPOLOGY_REP,
    TOPOLOGY_DP,
    TOPOLOGY_AXES,
};
struct topology_grid {
    uint32_t size[TOPOLOGY_AXES];            /* 1 for those that are not written */
    enum topology_axis order[TOPOLOGY_AXES]; /* those written, the fastest first */
    uint32_t order_count;
};
struct topology_mesh {
    struct topology_grid ranks;
    /* How an expert's tensors see the same ranks: TP is etp there, DP what is left, and the
     * order is that of a stage's ranks, without PP.  The same as `ranks` if not folded. */
    struct topology_grid experts;
    bool folded;    /* etp is written */
    uint32_t world; /* product of the sizes of `ranks` */
    uint32_t vpp;   /* virtual stages a rank, 1 at least */
    uint32_t zero;  /* 0..3 */
    bool fsdp;
};
/* "tp", "pp", ... */
const char *topology_axis_name(enum topology_axis axis);
/* CKPT_INVALID says which word is wrong and what is known; CKPT_LIMIT for too many ranks. */
enum ckpt_status topology_mesh_parse(const char *text, struct topology_mesh *ret,
                                     struct ckpt_err *err) CKPT_MUST_CHECK;
/* A rank's place on each axis: of the ranks, or as experts see it; and back. */
void topology_coords(const struct topology_mesh *m, bool expert, uint32_t rank,
                     uint32_t ret[TOPOLOGY_AXES]);
uint32_t topology_rank(const struct topology_mesh *m, bool expert,
                       const uint32_t coord[TOPOLOGY_AXES]);

/* What a topology must know of a tensor. */
struct topology_tensor {
    const char *name;
    unsigned dtype;
    unsigned kind; /* enum decl_kind: blocked and locked ones are not cut by default */
    bool object;   /* held by all ranks; "NAME@RANK" by that rank alone */
    uint32_t ndim;
    const uint64_t *shape;
    /* The dimension along which a checkpoint has it cut now; ndim or more: not regularly. */
    uint32_t cut_dim;
};
/* Where the rules come from.  All may be NULL. */
struct topology_source {
    const char *mesh;  /* goes before the file's own `mesh` line */
    const char *file;  /* name of the layout file, for messages */
    const char *rules; /* its text */
    size_t rules_len;
};

/* A mesh, and for each tensor of a list what each axis does to it. */
struct topology;
/* Names are borrowed until topology_free, shapes too.  CKPT_INVALID: with file and line
 * where that is known; also a pattern that matches no tensor, and no mesh at all. */
enum ckpt_status topology_new(const struct topology_source *from,
                              const struct topology_tensor *tensors, size_t count,
                              struct topology **ret, struct ckpt_err *err) CKPT_MUST_CHECK;
void topology_free(struct topology *t);
const struct topology_mesh *topology_mesh(const struct topology *t);

/* The array that a rank has for a tensor. */
struct topology_shard {
    bool held;     /* false: this rank has nothing to do with the tensor */
    bool flat;     /* a range of the flattened array: 1-D */
    uint32_t ndim; /* of the rank's dense array, padding included */
    uint64_t shape[CKPT_DIMS_MAX];
};
/* What rank `rank` holds of tensor number `tensor`: pieces of a dense buffer of the shape
 * in *ret (no piece: the part is empty, padding alone, or not held).  Errors of
 * layout_mesh, with the tensor's name in front. */
enum ckpt_status topology_pieces(const struct topology *t, size_t tensor, uint32_t rank,
                                 struct layout_out *out, struct topology_shard *ret,
                                 struct ckpt_err *err) CKPT_MUST_CHECK;
/* The lowest rank that has to do with the tensor; false if none has. */
bool topology_holder(const struct topology *t, size_t tensor, uint32_t *ret_rank);
/* In words: "pp layer 1 of 2, tp dim 0, dp flat".  Returns ret. */
char *topology_to_text(const struct topology *t, size_t tensor, char *ret, size_t cap);
