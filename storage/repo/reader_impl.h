/* Inside of the reader: reader.c has the tiers, the commit and the index, reader_manifest.c
 * the rank table and the manifests. */
#pragma once

#include "storage/repo/reader.h"

struct index_cached { /* a tensor block of the index */
    struct index_tensors tensors;
    uint64_t first; /* number of its first tensor */
    bool loaded;
};
struct manifest_cached { /* what was read of one rank's manifest */
    struct manifest_header header;
    struct {
        void *bytes; /* the tensors borrow from it; NULL = not read */
        bool ahead;  /* bytes are part of `ahead` */
        struct manifest_tensors tensors;
    } * blocks;
    uint8_t *ahead; /* of reader_ahead: blocks read with one get */
    uint32_t block; /* of the tensor found last, and its number in there */
    size_t at;
};
struct reader {
    struct store *tiers[READER_TIERS_MAX];
    size_t tier_count;
    char job[CKPT_JOB_NAME_MAX + 1];
    struct ckpt_name name;
    struct record_commit commit;
    struct index_header index;
    bool index_loaded;
    struct index_cached *blocks;        /* index.block_count */
    struct index_rank **ranks;          /* index.rank_block_count, NULL = not read */
    struct manifest_cached **manifests; /* world, NULL = not read */
    uint32_t damaged, away;             /* bits of tiers */
};

/* Decodes what was read; called again with another tier's bytes if it refuses. */
typedef enum ckpt_status (*fetch_check)(void *arg, const void *bytes, size_t len,
                                        struct ckpt_err *err);
struct fetch {
    const char *key;
    uint64_t offset, bytes;
    fetch_check check;
    void *arg;
};

/* The nth tier to be asked; `away`: bits of those that come last. */
size_t reader_tier(const struct reader *r, uint32_t away, size_t n);
/* Asks tier after tier.  On success *ret holds the bytes that passed (caller frees). */
enum ckpt_status reader_fetch(struct reader *r, const struct fetch *f, void **ret,
                              struct ckpt_err *err) CKPT_MUST_CHECK;
struct block_want { /* which block a check callback decodes, and whereto */
    struct reader *r;
    uint32_t block;
    void *to;
    uint32_t count;
};
void reader_manifest_free(struct manifest_cached *m);
