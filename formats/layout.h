/* From layouts as people name them to pieces (G1): a device mesh with a placement
 * per tensor, and flat ranges over a rank's local shard.
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
};

/* The pieces that the rank at `coord` of a mesh holds of a tensor; the local
 * buffer is the dense row-major local shard, pieces in local order.  At most
 * `cap` pieces are written; *ret_count is the number needed (CKPT_LIMIT if it
 * does not fit).  ret_local_shape: the dense local shape (may contain 0). */
enum ckpt_status layout_mesh(uint32_t mesh_ndim, const uint32_t *mesh, const uint32_t *coord,
                             const struct layout_placement *placement, uint32_t ndim,
                             const uint64_t *shape, struct layout_piece *pieces, size_t cap,
                             size_t *ret_count, uint64_t *ret_local_shape, struct ckpt_err *err)
    CKPT_MUST_CHECK;

/* The part [start, start + count) (elements) of a local row-major shard that is
 * the concatenation, along dimension 0 of the local array, of the `n` given boxes
 * (one for a plain tensor; several for fused QKV under TP), as pieces whose
 * memory is a flat buffer of `count` elements.  <= 2*ndim - 1 pieces per box.
 * `bits`: of the dtype.  Errors as above. */
enum ckpt_status layout_flat(const struct box *boxes, size_t n, unsigned bits, uint64_t start,
                             uint64_t count, struct layout_piece *pieces, size_t cap,
                             size_t *ret_count, struct ckpt_err *err) CKPT_MUST_CHECK;

/* What of `box` replica r of R writes (G4): boxes of >= 8 MiB are split along the
 * first dimension that can be cut evenly on tile borders, so that each replica
 * writes its part; smaller ones go whole to replica hash % R.  False if this
 * replica writes nothing of it. */
bool layout_share(const struct box *box, unsigned bits, const uint64_t *tile, uint64_t hash,
                  uint32_t r, uint32_t count, struct box *ret);
