/* Rank manifest: what one rank saved.  Logical: tensors, written boxes, packs and
 * raw digests; nothing of how or where bytes are coded (that is in each pack's head).
 *
 *   | header: identity, pack table, block table | block 0 | block 1 | ...
 *
 * Tensors are sorted by name and grouped into blocks of about 64 KiB; the header
 * holds each block's digest and first name, and the header's SHA-256 is in the
 * checkpoint's index: so parts of a manifest can be read and still be believed. */
#pragma once

#include "formats/decl.h"
#include "formats/desc.h"
#include "formats/record.h"

#define MANIFEST_VERSION          1
#define MANIFEST_BLOCK_BYTES      (UINT32_C(64) << 10) /* a block closes when it is as large */
#define MANIFEST_BLOCK_BYTES_MAX  (UINT32_C(64) << 20)
#define MANIFEST_HEADER_BYTES_MAX (UINT32_C(64) << 20)
#define MANIFEST_FLAG_FAILED      1 /* this rank's part failed: the committer aborts */
#define MANIFEST_FLAG_VANISHED_OK 2 /* tensors of the parent may be missing */

struct manifest_pack {
    uint32_t slot, chunks;
    struct digest id;
    uint64_t first_chunk; /* derived: sum of chunks before */
};
struct manifest_block {
    uint64_t offset; /* in the object */
    uint32_t bytes, tensors;
    uint32_t boxes, witnesses; /* of all its tensors */
    struct digest digest;
    char *first; /* name of its first tensor; owned */
};
struct manifest_header {
    struct ckpt_name name;
    uint32_t rank, world, try_;
    uint16_t flags;
    uint8_t node[16];
    bool has_parent;
    struct ckpt_name parent;
    int64_t time_ns; /* user's wall clock */
    uint64_t raw_bytes, chunk_count, tensor_count;
    char job[CKPT_JOB_NAME_MAX + 1];
    enum ckpt_status fail_status; /* FAILED only */
    char fail_text[RECORD_TEXT_MAX];
    uint32_t metric_count;
    struct record_metric metrics[RECORD_METRICS_MAX];
    uint32_t pack_count, block_count;
    struct manifest_pack *packs;
    struct manifest_block *blocks;
    uint32_t header_bytes; /* what the SHA-256 covers */
};
/* A box this rank wrote: chunks first_chunk .. + chunks of the rank's sequence, one
 * per tile of `tile` in row-major order, each with its raw digest. */
struct manifest_box {
    struct box box;
    uint64_t tile[CKPT_DIMS_MAX];
    uint64_t first_chunk, chunks;
    const struct digest *digests; /* borrowed from the block's bytes */
};
/* The digest of one tile that another replica writes (G4): compared at commit. */
struct manifest_witness {
    struct box box;
    struct digest digest;
};
struct manifest_tensor {
    const char *name, *alias; /* borrowed from the block's bytes; alias may be NULL */
    uint8_t dtype, kind;
    uint16_t flags;
    uint32_t ndim;
    uint64_t shape[CKPT_DIMS_MAX];
    uint32_t block[CKPT_DIMS_MAX];
    uint32_t box_count, witness_count;
    struct manifest_box *boxes; /* parts of the block's arrays */
    struct manifest_witness *witnesses;
};
struct manifest_tensors { /* a decoded block */
    struct manifest_tensor *tensors;
    size_t count;
    struct manifest_box *boxes; /* of all tensors, in order */
    struct manifest_witness *witnesses;
};
/* What a witness saw, for the encoder: of the declaration's tensor number `tensor`. */
struct manifest_seen {
    size_t tensor;
    struct manifest_witness witness;
};
/* What a manifest is made from.  `digests`: raw digests of the rank's chunks in
 * order (d->chunk_count); `seen`: sorted by tensor. */
struct manifest_source {
    const struct decl *d;
    const struct digest *digests;
    const struct manifest_seen *seen;
    size_t seen_count;
};

/* Appends the manifest of a declaration: `digests` are the raw digests of the rank's
 * chunks in order (d->chunk_count), `h` the identity and the packs (blocks, sizes and
 * counts are made here).  ret_sha: of the header; unset when out->failed. */
void manifest_encode(const struct manifest_header *h, const struct decl *d,
                     const struct digest *digests, struct buf *out, struct sha256 *ret_sha);
/* The same with what the rank digested of its replicas' shares. */
void manifest_encode_source(const struct manifest_header *h, const struct manifest_source *from,
                            struct buf *out, struct sha256 *ret_sha);
/* A failed part: header only. */
void manifest_encode_failed(const struct manifest_header *h, struct buf *out,
                            struct sha256 *ret_sha);
/* How many bytes the header has, from the first 64; 0 if this is no manifest. */
uint32_t manifest_header_peek(const void *bytes, size_t len);
/* `sha`: what the index says (NULL while no commit exists: the caller computes it). */
enum ckpt_status manifest_header_decode(const void *bytes, size_t len, const struct sha256 *sha,
                                        struct manifest_header *ret, struct ckpt_err *err)
    CKPT_MUST_CHECK;
void manifest_header_fini(struct manifest_header *h);
/* Decodes one block (checks digest, order, limits, chunk ordinals).  `bytes` must
 * stay until manifest_tensors_fini. */
enum ckpt_status manifest_block_decode(const struct manifest_header *h, uint32_t block,
                                       const void *bytes, size_t len, struct manifest_tensors *ret,
                                       struct ckpt_err *err) CKPT_MUST_CHECK;
void manifest_tensors_fini(struct manifest_tensors *t);
/* The same block, one tensor after the other in memory that is used again: for those
 * that read thousands of manifests and keep nothing.
 *     manifest_walk_block(w, ...);
 *     while (manifest_walk_next(w, known, &t, &was_known, err) == CKPT_OK && t) ... */
struct manifest_walk;
/* A description that was decoded before and will likely come again: its bytes are then
 * compared and not looked at. */
struct manifest_known {
    uint8_t *bytes; /* encoded; NULL: none */
    size_t len;
    struct desc desc;
};
struct manifest_walk *manifest_walk_new(void);
void manifest_walk_free(struct manifest_walk *w);
/* Begins a block; `bytes` must stay until its last tensor was walked. */
enum ckpt_status manifest_walk_block(struct manifest_walk *w, const struct manifest_header *h,
                                     uint32_t block, const void *bytes, size_t len,
                                     struct ckpt_err *err) CKPT_MUST_CHECK;
/* *ret: valid until the next call; NULL behind the last one.  Checks what
 * manifest_block_decode checks.  known: NULL, or what this one may be; *ret_known: it was. */
enum ckpt_status manifest_walk_next(struct manifest_walk *w, const struct manifest_known *known,
                                    const struct manifest_tensor **ret, bool *ret_known,
                                    struct ckpt_err *err) CKPT_MUST_CHECK;
/* Of a whole manifest: the chunks that boxes claim, seen block by block.  Each chunk of
 * the rank belongs to exactly one box; a block alone cannot tell.  One bit a chunk. */
struct manifest_claims {
    uint64_t *bits; /* owned */
    uint64_t chunks, claimed;
};
enum ckpt_status manifest_claims_init(struct manifest_claims *c, const struct manifest_header *h,
                                      struct ckpt_err *err) CKPT_MUST_CHECK;
/* CKPT_CORRUPT when a box claims a chunk that one claimed before.  `t` is of the same
 * manifest. */
enum ckpt_status manifest_claims_add(struct manifest_claims *c, const struct manifest_tensors *t,
                                     struct ckpt_err *err) CKPT_MUST_CHECK;
enum ckpt_status manifest_claims_add_one(struct manifest_claims *c, const struct manifest_tensor *t,
                                         struct ckpt_err *err) CKPT_MUST_CHECK;
/* After all blocks: CKPT_CORRUPT when a chunk belongs to nobody. */
enum ckpt_status manifest_claims_finish(const struct manifest_claims *c, struct ckpt_err *err)
    CKPT_MUST_CHECK;
void manifest_claims_fini(struct manifest_claims *c);
/* The block that holds `name` if any does; UINT32_MAX if none can. */
uint32_t manifest_block_of(const struct manifest_header *h, const char *name);
/* The pack that holds chunk `ordinal`, by binary search; UINT32_MAX if out of range. */
uint32_t manifest_pack_of(const struct manifest_header *h, uint64_t ordinal);
