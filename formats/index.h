/* Index of a checkpoint: all its manifests merged, sorted by tensor, for readers.
 *
 *   i0: | header: rank blocks, tensor blocks | rank table | tensor blocks ...
 *   i1: | more tensor blocks (when the index outgrows a segment) |
 *
 * A reader fetches the commit (it holds the header's size and SHA-256), the header,
 * the tensor blocks it asks for, the rank table's blocks of the ranks it hits, and
 * then those ranks' manifests.  Regular splits are one run, not thousands of boxes.
 * A pure function of the manifests: racing committers write the same bytes. */
#pragma once

#include "formats/manifest.h"

#define INDEX_VERSION          2
#define INDEX_SEGMENT_BYTES    (UINT64_C(32) << 20) /* a segment closes when it is as large */
#define INDEX_HEADER_BYTES_MAX (UINT32_C(64) << 20)
#define INDEX_BLOCK_BYTES      (UINT32_C(64) << 10)
#define INDEX_BLOCK_BYTES_MAX  (UINT32_C(64) << 20)
#define INDEX_RANKS_PER_BLOCK  1024
#define INDEX_SEGMENTS_MAX     4096
#define INDEX_BLOCKS_MAX       (UINT32_C(1) << 20)

struct index_rank { /* one rank's manifest, as the index vouches for it */
    struct sha256 sha;
    uint32_t header_bytes;
    uint64_t bytes;
    uint8_t node[16]; /* that saved it */
};
/* `count` equal boxes: rank rank0 + i*rank_step holds box0 moved by i*step along
 * `axis`; the last one may be shorter (last_len).  count = 1: axis, step unused. */
struct index_run {
    uint32_t count, rank0, rank_step;
    uint32_t axis;
    uint64_t step, last_len;
    struct box box0;
};
struct index_tensor {
    char *name, *alias; /* owned */
    uint8_t dtype, kind;
    uint16_t flags;
    uint32_t ndim;
    uint64_t shape[CKPT_DIMS_MAX];
    uint32_t block[CKPT_DIMS_MAX];
    uint32_t run_count;
    struct index_run *runs; /* owned */
};
struct index_tensors {
    struct index_tensor *tensors;
    size_t count;
};
struct index_block {
    uint32_t segment;
    uint64_t offset;         /* in the segment's object */
    uint32_t bytes, tensors; /* rank blocks: tensors is 0 */
    struct digest digest;
    char *first; /* tensor blocks only; owned */
};
struct index_header {
    struct ckpt_name name;
    uint32_t world;
    uint64_t tensor_count;
    uint32_t segment_count, rank_block_count, block_count;
    uint64_t *segment_bytes;
    struct index_block *rank_blocks; /* INDEX_RANKS_PER_BLOCK ranks each */
    struct index_block *blocks;      /* sorted by first */
    uint32_t header_bytes;
};

/* Folds boxes of one tensor (each from one rank, any order) into runs.  Returns the
 * number of runs written to `runs` (room for n). */
struct index_from {
    struct box box;
    uint32_t rank;
};
size_t index_fold(struct index_from *boxes, size_t n, uint32_t ndim, struct index_run *runs);
/* Box number i of a run, and whose it is. */
uint32_t index_run_rank(const struct index_run *run, uint32_t i);
struct box index_run_box(const struct index_run *run, uint32_t i, uint32_t *ret_rank);
/* Visits those boxes of the run that intersect `want`: first and last i by
 * arithmetic; false if none. */
bool index_run_hits(const struct index_run *run, const struct box *want, uint32_t *ret_first,
                    uint32_t *ret_last);

/* Writes all segments (segment_count buffers, malloc'ed array; the caller frees each
 * and the array).  `tensors` sorted by name. */
enum ckpt_status index_encode(const struct ckpt_name *name, uint32_t world,
                              const struct index_rank *ranks, const struct index_tensors *tensors,
                              struct buf **ret_segments, uint32_t *ret_count,
                              uint32_t *ret_header_bytes, struct sha256 *ret_sha,
                              struct ckpt_err *err) CKPT_MUST_CHECK;
enum ckpt_status index_header_decode(const void *bytes, size_t len, const struct sha256 *sha,
                                     struct index_header *ret, struct ckpt_err *err)
    CKPT_MUST_CHECK;
void index_header_fini(struct index_header *h);
enum ckpt_status index_block_decode(const struct index_header *h, uint32_t block, const void *bytes,
                                    size_t len, struct index_tensors *ret, struct ckpt_err *err)
    CKPT_MUST_CHECK;
/* ret: room for INDEX_RANKS_PER_BLOCK; *ret_count ranks from block * that. */
enum ckpt_status index_rank_block_decode(const struct index_header *h, uint32_t block,
                                         const void *bytes, size_t len, struct index_rank *ret,
                                         uint32_t *ret_count, struct ckpt_err *err) CKPT_MUST_CHECK;
void index_tensors_fini(struct index_tensors *t);
/* The block that holds `name` if any does; UINT32_MAX if none can. */
uint32_t index_block_of(const struct index_header *h, const char *name);
