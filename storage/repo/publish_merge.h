/* All manifests of an attempt, merged: what publish decides on, and what scrub makes
 * again to compare.  Memory grows with the tensors and with the irregularity of their
 * split, not with the number of ranks: a box that continues a regular split is counted
 * and not kept. */
#pragma once

#include "formats/index.h"
#include "storage/repo/repo.h"

#define MERGE_MANIFEST_BYTES_MAX (UINT64_C(1) << 30)
#define MERGE_SPLIT_WORLD        64 /* smaller worlds are read by the caller's thread alone */
#define MERGE_THREADS            4  /* larger ones by so many, each a range of ranks */

/* `count` equal boxes, rank0 + i*rank_step at off + i*step along axis.  Offsets and
 * lengths (ndim each) follow in the tensor's `words`. */
struct merge_run {
    uint32_t rank0, count, rank_step, axis;
    uint64_t step;
};
struct merge_tensor {
    struct index_tensor desc;    /* name and alias owned; runs made at the end */
    uint32_t rank;               /* who declared it first */
    struct manifest_known known; /* as it declared it */
    struct merge_run *runs;
    uint64_t *words; /* 2 * ndim a run */
    size_t run_count, run_cap;
    uint64_t box_count;
};
struct merge_witness {
    size_t tensor; /* before sorting: ordinal of appearance */
    uint32_t rank, writer;
    struct manifest_witness seen;
};
struct merge {
    const char *job;
    struct ckpt_name name;
    uint32_t world, first; /* first: rank from which on this merge is */
    struct record_commit commit;
    struct merge_tensor *tensors;
    size_t tensor_count, tensor_cap;
    size_t *slots; /* hash of name -> tensor + 1 */
    size_t slot_cap, hint;
    struct merge_witness *witnesses;
    size_t witness_count, witness_cap;
    struct index_rank *ranks;
    /* of a failed part */
    enum ckpt_status fail_status;
    uint32_t fail_rank;
    /* made by merge_finish */
    struct buf *segments;
    uint32_t segment_count;
};

/* A manifest read whole. */
struct merge_manifest {
    void *bytes;
    size_t len;
    struct manifest_header header;
};
enum ckpt_status merge_read(struct store *s, const char *job, const struct ckpt_name *name,
                            uint32_t rank, struct merge_manifest *ret, struct ckpt_err *err)
    CKPT_MUST_CHECK;
void merge_manifest_fini(struct merge_manifest *m);

/* Reads all manifests.  CKPT_NOT_FOUND: one is missing; CKPT_ABORTED: a part
 * failed (fail_*). */
enum ckpt_status merge_all(struct merge *m, struct store *s, const char *job,
                           const struct ckpt_name *name, uint32_t world, struct ckpt_err *err)
    CKPT_MUST_CHECK;
/* Proves the cover and makes the index and the commit. */
enum ckpt_status merge_finish(struct merge *m, struct ckpt_err *err) CKPT_MUST_CHECK;
/* Compares the witnesses with what the writers say; between merge_all and merge_finish. */
enum ckpt_status merge_check_witnesses(struct merge *m, struct store *s, struct ckpt_err *err)
    CKPT_MUST_CHECK;
void merge_fini(struct merge *m);
/* The tensor of that name, or NULL; between merge_all and merge_finish. */
const struct merge_tensor *merge_find(const struct merge *m, const char *name);
/* Box number i of the tensor's run. */
struct box merge_run_box(const struct merge_tensor *t, size_t run, uint32_t i, uint32_t *ret_rank);
