/* Records: the small objects that decide things.  All share one envelope
 *
 *   "CKPTREC\0" | u16 version | u16 kind | u32 bytes | str key | body | XXH3-128
 *
 * so that a record under another key, cut short or changed is never believed.
 * ABORT is always < 256 bytes, COMMIT always >= 256 (padded): a LIST tells them
 * apart by size. */
#pragma once

#include "formats/cursor.h"
#include "formats/key.h"

#define RECORD_VERSION         1
#define RECORD_BYTES_MAX       (UINT64_C(16) << 20)
#define RECORD_ABORT_MAX       255
#define RECORD_TEXT_MAX        1024
#define RECORD_TOKEN_MAX       255
#define RECORD_METRICS_MAX     64
#define RECORD_SKIPS_MAX       4096
#define RECORD_HOLDINGS_MAX    (UINT32_C(1) << 18)
#define RECORD_NODE_RANKS_MAX  4096
#define RECORD_METRIC_NAME_MAX 64

enum record_kind {
    RECORD_REPO = 1,
    RECORD_CLAIM = 2,
    RECORD_RESOLVED = 3,
    RECORD_NODE = 4,
    RECORD_RESTORED = 5,
    RECORD_PROGRESS = 6,
    RECORD_BAD = 7,
    RECORD_COMMIT = 8,
    RECORD_ABORT = 9,
    RECORD_HELD = 10,
    RECORD_RANK_HELD = 11,
    RECORD_TAG = 12,
    RECORD_LIFE = 13,
};

struct record_repo {
    uint8_t uuid[16];
    uint32_t format; /* version of the whole layout */
    int64_t time_ns;
};
struct record_claim {
    char token[RECORD_TOKEN_MAX + 1];
    uint64_t epoch;
    uint32_t world;
    uint8_t nonce[16]; /* of the process that claimed: tells a retry from a reuse */
    uint8_t node[16];
    int64_t time_ns;
};
enum resolved_kind {
    RESOLVED_NOTHING = 0,    /* the job has no checkpoint: start at 0 */
    RESOLVED_POINT = 1,      /* resume from `name` */
    RESOLVED_SUPERSEDED = 2, /* a newer launch shut this epoch out before it resolved */
};
struct record_skip {
    struct ckpt_name name;
    char why[160];
};
struct record_resolved {
    uint64_t epoch;
    enum resolved_kind kind;
    bool forced; /* opts.resume, CKPT_RESUME, rollback: moves the head */
    bool stop;   /* the crash-loop rule says: a human must look (I5) */
    struct ckpt_name name;
    int64_t time_ns;
    char why[RECORD_TEXT_MAX];
    struct record_skip *skips; /* decode: malloc'ed, record_resolved_fini */
    uint32_t skip_count;       /* <= RECORD_SKIPS_MAX */
};
struct record_holding {
    struct ckpt_name name;
    uint32_t rank;
    bool whole; /* as in its RANK_HELD */
};
/* What a node holds: every (checkpoint, rank) whose packs lie there; and which ranks of the
 * launch run on it. */
struct record_node {
    uint8_t node[16];
    int64_t time_ns;
    struct record_holding *holdings; /* decode: malloc'ed, record_node_fini */
    uint32_t count;                  /* <= RECORD_HOLDINGS_MAX */
    uint32_t rank_count;             /* <= RECORD_NODE_RANKS_MAX */
    uint32_t *ranks;                 /* rising; decode: malloc'ed */
};
#define RECORD_STEP_FINISHED UINT64_MAX /* PROGRESS: nothing was left to do */
struct record_step {                    /* RESTORED and PROGRESS */
    uint64_t epoch, step;
    int64_t time_ns;
};
struct record_bad {
    uint64_t epoch;
    uint32_t rank;
    struct ckpt_name name;
    int64_t time_ns;
    bool corrupt; /* digests failed (counts at once) */
    char text[RECORD_TEXT_MAX];
};
struct record_metric {
    char name[RECORD_METRIC_NAME_MAX + 1];
    double value;
};
struct record_commit {
    struct ckpt_name name;
    uint32_t world, try_;
    bool has_parent;
    struct ckpt_name parent;
    bool vanished_allowed;
    int64_t time_ns; /* the user's wall clock, from rank 0's manifest */
    uint64_t raw_bytes, tensor_count, pack_count, chunk_count;
    uint32_t index_segments;     /* objects i0 .. i<n-1> */
    uint32_t index_header_bytes; /* the header is the start of i0 */
    struct sha256 index_sha;     /* of that header */
    uint32_t metric_count;
    struct record_metric metrics[RECORD_METRICS_MAX];
};
struct record_abort {
    enum ckpt_status status; /* why */
    uint32_t rank;           /* who; UINT32_MAX = nobody in particular */
    uint64_t by_epoch;       /* the launch that gave it up */
};
struct record_held {
    struct ckpt_name name;
    uint32_t world;
    uint64_t stored_bytes;
    int64_t time_ns;
};
struct record_rank_held {
    struct ckpt_name name;
    uint32_t rank, pack_count;
    uint64_t stored_bytes;
    bool whole; /* the packs hold all that the rank declared: no replica wrote a part of it */
};
struct record_tag {
    char tag[CKPT_JOB_NAME_MAX + 1];
    bool set; /* false: removed */
    int64_t time_ns;
};
enum life {
    LIFE_LIVE = 0,
    LIFE_DELETED = 1,
    LIFE_GONE = 2,
};
struct record_life {
    enum life life;
    int64_t time_ns; /* the store's clock */
    char why[256];
};

/* Each: appends the whole record for `key` to `out` (out->failed on no memory).
 * COMMIT and HELD: r->name must be the last part of `key` (asserted). */
void record_repo_encode(const struct record_repo *r, struct buf *out);
void record_claim_encode(const struct record_claim *r, const char *key, struct buf *out);
void record_resolved_encode(const struct record_resolved *r, const char *key, struct buf *out);
void record_node_encode(const struct record_node *r, const char *key, struct buf *out);
void record_step_encode(enum record_kind kind, const struct record_step *r, const char *key,
                        struct buf *out);
void record_bad_encode(const struct record_bad *r, const char *key, struct buf *out);
void record_commit_encode(const struct record_commit *r, const char *key, struct buf *out);
void record_abort_encode(const struct record_abort *r, const char *key, struct buf *out);
void record_held_encode(const struct record_held *r, const char *key, struct buf *out);
void record_rank_held_encode(const struct record_rank_held *r, const char *key, struct buf *out);
void record_tag_encode(const struct record_tag *r, const char *key, struct buf *out);
void record_life_encode(const struct record_life *r, const char *key, struct buf *out);

/* Each: decodes hostile bytes read under `key`; CKPT_CORRUPT with what is wrong and
 * the key; CKPT_UNSUPPORTED for a newer version. */
#define RECORD_DECODE(type)                                                                  \
    enum ckpt_status record_##type##_decode(const void *bytes, size_t len, const char *key,  \
                                            struct record_##type *ret, struct ckpt_err *err) \
        CKPT_MUST_CHECK
RECORD_DECODE(repo);
RECORD_DECODE(claim);
RECORD_DECODE(resolved);
RECORD_DECODE(node);
RECORD_DECODE(bad);
RECORD_DECODE(commit);
RECORD_DECODE(abort);
RECORD_DECODE(held);
RECORD_DECODE(rank_held);
RECORD_DECODE(tag);
RECORD_DECODE(life);
enum ckpt_status record_step_decode(enum record_kind kind, const void *bytes, size_t len,
                                    const char *key, struct record_step *ret, struct ckpt_err *err)
    CKPT_MUST_CHECK;
void record_resolved_fini(struct record_resolved *r);
void record_node_fini(struct record_node *r);
/* The kind of an encoded record (COMMIT or ABORT under one key); 0 if it is none. */
enum record_kind record_kind_of(const void *bytes, size_t len);
