/* A committed checkpoint opened for reading: commit, index header, and by need index
 * blocks, the rank table and manifests; every byte checked against the chain of
 * digests that starts in the commit (rule S3).  Caches what it read; memory is bounded
 * by what was asked for.  One thread, borrows the store handles.
 * Several tiers: what is missing or damaged in the first is read from the next. */
#pragma once

#include "formats/index.h"
#include "storage/repo/repo.h"

#define READER_TIERS_MAX 8

struct reader;
/* tiers: nearest first.  CKPT_NOT_FOUND: no commit of that name, or deleted for good;
 * CKPT_ABORTED. */
enum ckpt_status reader_open(struct store *const *tiers, size_t tier_count, const char *job,
                             const struct ckpt_name *name, struct reader **ret,
                             struct ckpt_err *err) CKPT_MUST_CHECK;
/* The same; *ret_away, also on failure: bit i: tier i could not be reached. */
enum ckpt_status reader_open_away(struct store *const *tiers, size_t tier_count, const char *job,
                                  const struct ckpt_name *name, struct reader **ret,
                                  uint32_t *ret_away, struct ckpt_err *err) CKPT_MUST_CHECK;
void reader_close(struct reader *r);
const struct record_commit *reader_commit(const struct reader *r);
const char *reader_job(const struct reader *r);
struct store *const *reader_tiers(const struct reader *r, size_t *ret_count);
/* Bit i: tier i lacked something, or had it damaged, that a later one had right. */
uint32_t reader_damaged(const struct reader *r);
/* Bit i: tier i could not be reached; it is asked last since. */
uint32_t reader_away(const struct reader *r);
uint64_t reader_tensor_count(const struct reader *r);
/* Tensor number i in name order (reads its block). Borrowed until close. */
enum ckpt_status reader_tensor_at(struct reader *r, uint64_t i, const struct index_tensor **ret,
                                  struct ckpt_err *err) CKPT_MUST_CHECK;
/* By name; CKPT_NOT_FOUND without words. */
enum ckpt_status reader_tensor(struct reader *r, const char *name, const struct index_tensor **ret,
                               struct ckpt_err *err) CKPT_MUST_CHECK;
enum ckpt_status reader_manifest(struct reader *r, uint32_t rank,
                                 const struct manifest_header **ret, struct ckpt_err *err)
    CKPT_MUST_CHECK;
/* What `rank` wrote of the tensor: reads one block of its manifest. */
enum ckpt_status reader_boxes(struct reader *r, uint32_t rank, const char *name,
                              const struct manifest_tensor **ret, struct ckpt_err *err)
    CKPT_MUST_CHECK;

/* Reads what reader_boxes will need for these names (sorted) with one get of the nearest
 * tier, neighbours joined; what does not come or does not check, or would be more than
 * READER_AHEAD_MAX bytes in all, is read when it is asked for. */
#define READER_AHEAD_MAX (UINT64_C(16) << 20)
enum ckpt_status reader_ahead(struct reader *r, uint32_t rank, const char *const *names,
                              size_t count, struct ckpt_err *err) CKPT_MUST_CHECK;

/* For those that walk a whole checkpoint (scrub): the index header, a rank's entry in
 * it, and one block of a manifest.  Borrowed until close (or reader_forget). */
const struct index_header *reader_index(const struct reader *r);
enum ckpt_status reader_rank(struct reader *r, uint32_t rank, const struct index_rank **ret,
                             struct ckpt_err *err) CKPT_MUST_CHECK;
enum ckpt_status reader_block(struct reader *r, uint32_t rank, uint32_t block,
                              const struct manifest_tensors **ret, struct ckpt_err *err)
    CKPT_MUST_CHECK;
/* Drops what is cached of a rank's manifest. */
void reader_forget(struct reader *r, uint32_t rank);
