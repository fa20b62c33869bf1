/* The manifests of an attempt in order of ranks, each read whole, checked and decoded.
 * A large world's are read ahead by threads:
 *
 *     crew:  get, digests, decode  (rank n+1, n+2, ...)  ──►  caller merges rank n
 *
 * What is read ahead is bounded: FEED_AHEAD_MAX manifests, and fewer if they are large. */
#pragma once

#include "formats/index.h"
#include "storage/repo/repo.h"

#define FEED_THREADS   3
#define FEED_WORLD_MIN 64 /* smaller worlds are read by the caller's thread alone */
#define FEED_AHEAD_MAX 12
#define FEED_BYTES_MAX \
    (UINT64_C(16) << 20) /* of encoded manifests; decoded they are up to six times that */

#define MERGE_MANIFEST_BYTES_MAX (UINT64_C(1) << 30)

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

struct feed_part {
    uint32_t rank;
    enum ckpt_status status; /* of reading it and of its header; `err` in words */
    struct ckpt_err err;
    struct merge_manifest from;
    enum ckpt_status body; /* of its blocks: every one behind the other, each chunk claimed once */
    struct ckpt_err body_err;
    struct manifest_tensors *blocks; /* from.header.block_count */
    struct index_rank entry;         /* what the index will say of it */
};
struct feed;
/* Borrows s (one get at a time by the caller's thread, dups for others), job and name. */
enum ckpt_status feed_open(struct store *s, const char *job, const struct ckpt_name *name,
                           uint32_t world, struct feed **ret, struct ckpt_err *err) CKPT_MUST_CHECK;
/* The part of rank 0, then of rank 1 ...: at most `world` calls.  Valid until the next. */
const struct feed_part *feed_next(struct feed *f);
void feed_close(struct feed *f);
