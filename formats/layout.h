/* From layouts as people name them to pieces (G1): a device mesh with a placement
 * per tensor (layout.c), and flat ranges over a rank's local shard (layout_flat.c).
 * Methods: PyTorch DTensor's Shard/Replicate/_StridedShard arithmetic (chunk =
 * ceil(n / parts), later ranks may be short or empty), ZeRO's flat partition. */
#pragma once

#include "formats/box.h"

/* A box and where it lies in a rank's memory: byte offset from the buffer's start
 * and strides in elements of the dtype (element strides, as frameworks give them).
 * replica r of R: this box is held by R ranks, of which this is number r (0, 1
 * when the caller knows of no replicas). */
struct layout_piece {
    struct box box;
    uint64_t offset_bytes;
    int64_t stride[CKPT_DIMS_MAX]; /* elements */
    uint32_t replica;
    uint32_t replica_count;
};

enum layout_kind {
    LAYOUT_REPLICATE = 0,
    LAYOUT_SHARD = 1,         /* split dimension `dim` over this mesh axis */
    LAYOUT_SHARD_STRIDED = 2, /* as DTensor's _StridedShard(dim, split_factor) */
};
struct layout_placement {
    enum layout_kind kind;
    uint32_t dim;
    uint32_t split_factor; /* LAYOUT_SHARD_STRIDED only */
    /* LAYOUT_SHARD only, NULL and 0 = none: the dimension is these lengths one behind the
     * other (fused q, k and v; gate and up), and each is split for itself. */
    const uint64_t *section;
    uint32_t section_count;
};

/* A device mesh (sizes of its axes), a rank's place in it, and what each axis does
 * to the tensor.  Arrays of `ndim` entries, borrowed during the call. */
struct layout_mesh {
    uint32_t ndim;
    const uint32_t *size;
    const uint32_t *coord;
    const struct layout_placement *placement;
    /* NULL, or the tensor's shape as the trainer pads it before it splits (a vocabulary
     * rounded up): as many entries as the shape, none smaller.  The local array has room
     * for the padding; the pieces are what lies inside the shape. */
    const uint64_t *padded;
};

/* Where pieces go: the caller's array of `cap`.  `count` becomes the number
 * needed; if that exceeds cap, the call returns CKPT_LIMIT, and the array's content
 * is undefined (so a call with cap 0 measures). */
struct layout_out {
    struct layout_piece *piece;
    size_t cap;
    size_t count;
};

/* The pieces that the rank at `coord` of a mesh holds of a tensor; the local
 * buffer is the dense row-major local shard, pieces in local order.  An empty shard
 * has no pieces.  Axes apply from left to right, each to what the ones before it
 * left.  Replicas are numbered over the LAYOUT_REPLICATE axes.
 * `bits`: of the dtype.  ret_local_shape (`ndim` entries): the dense local shape
 * with its padding (may contain 0).  CKPT_INVALID for a mesh or placement that makes no sense, or a
 * split inside a byte; CKPT_LIMIT; CKPT_NO_MEMORY. */
enum ckpt_status layout_mesh(const struct layout_mesh *mesh, uint32_t ndim, const uint64_t *shape,
                             unsigned bits, struct layout_out *out, uint64_t *ret_local_shape,
                             struct ckpt_err *err) CKPT_MUST_CHECK;

/* The part [start, start + count) (elements) of a rank's local array, in which `local` says
 * where each box lies (as layout_mesh gives them: padded and fused shards included), as
 * pieces whose memory is a flat buffer of `count` elements.  What of the range no piece
 * covers is padding.  Strides and replicas are those of the piece that was cut.
 * <= 2*ndim - 1 pieces for each of `local`.  Errors as above; CKPT_INVALID also for
 * memory that is not row-major. */
enum ckpt_status layout_cut(const struct layout_piece *local, size_t n, unsigned bits,
                            uint64_t start, uint64_t count, struct layout_out *out,
                            struct ckpt_err *err) CKPT_MUST_CHECK;
/* Lays the boxes of `pieces` dense one behind the other: sets offsets and strides.
 * *ret_elements: what they hold together. */
enum ckpt_status layout_pile(struct layout_piece *pieces, size_t n, unsigned bits,
                             uint64_t *ret_elements, struct ckpt_err *err) CKPT_MUST_CHECK;
/* layout_cut of boxes that lie dense one behind the other; a range beyond their end is
 * CKPT_INVALID. */
enum ckpt_status layout_flat(const struct box *boxes, size_t n, unsigned bits, uint64_t start,
                             uint64_t count, struct layout_out *out, struct ckpt_err *err)
    CKPT_MUST_CHECK;

/* What of `box` replica r of R writes (G4): a box of >= 8 MiB is split on tile
 * borders along the first dimension that has R tiles or more, so that each replica
 * writes its part; if none has, along the one with most tiles, and some replicas
 * write nothing.  Smaller boxes go whole to replica hash % R.  `hash` also turns
 * the order of the parts.  False if this replica writes nothing of it.  The tiles
 * of all parts are those of the box. */
bool layout_share(const struct box *box, unsigned bits, const uint64_t *tile, uint64_t hash,
                  uint32_t r, uint32_t count, struct box *ret);
