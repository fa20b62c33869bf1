/* The checks of scrub, one per kind of object: each looks at one object of one store,
 * by what the chain of digests says of it. */
#pragma once

#include "storage/repo/publish_merge.h"
#include "storage/repo/reader.h"

/* One rank's chunks by ordinal: what each must be. */
struct scrub_chunk {
    const struct manifest_tensor *tensor;
    const struct manifest_box *box;
    uint64_t tile;
};
struct scrub_context {
    struct reader *r;
    const char *job;
    struct ckpt_name name;
    uint64_t slot_bytes_max;
    uint8_t *buffer; /* of a whole pack, grown as needed */
    uint64_t buffer_bytes;
    struct pack_chunk *chunks; /* CKPT_PACK_CHUNKS_MAX */
    uint32_t *raw_bytes;
    struct digest *digests;
    uint8_t *decoded; /* one chunk */
    struct codec *codec;
    uint64_t chunks_checked;
};
struct scrub_object {
    struct key key;
    /* CKPT_NOT_FOUND, CKPT_CORRUPT (text says what is wrong), or trouble. */
    enum ckpt_status (*check)(struct scrub_context *c, struct store *s,
                              const struct scrub_object *o, struct ckpt_err *err);
    bool record;   /* written if absent, so it must be removed before it is replaced */
    bool may_come; /* it may be on its way here */
    uint32_t rank, k;
    const struct manifest_pack *pack;
    const struct scrub_chunk *rank_chunks;
};
enum ckpt_status scrub_check_commit(struct scrub_context *c, struct store *s,
                                    const struct scrub_object *o, struct ckpt_err *err);
enum ckpt_status scrub_check_held(struct scrub_context *c, struct store *s,
                                  const struct scrub_object *o, struct ckpt_err *err);
enum ckpt_status scrub_check_rank_held(struct scrub_context *c, struct store *s,
                                       const struct scrub_object *o, struct ckpt_err *err);
enum ckpt_status scrub_check_index(struct scrub_context *c, struct store *s,
                                   const struct scrub_object *o, struct ckpt_err *err);
enum ckpt_status scrub_check_manifest(struct scrub_context *c, struct store *s,
                                      const struct scrub_object *o, struct ckpt_err *err);
enum ckpt_status scrub_check_pack(struct scrub_context *c, struct store *s,
                                  const struct scrub_object *o, struct ckpt_err *err);

/* Of bytes that somebody has read: are they what the chain of digests says?  CKPT_CORRUPT
 * tells what is wrong. */
enum ckpt_status scrub_index_sound(struct reader *r, uint32_t k, const void *bytes, size_t len,
                                   struct ckpt_err *err) CKPT_MUST_CHECK;
enum ckpt_status scrub_manifest_sound(struct reader *r, const struct merge_manifest *m,
                                      uint32_t rank, struct ckpt_err *err) CKPT_MUST_CHECK;
