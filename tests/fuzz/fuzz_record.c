/* One kind of record: built once a kind, with FUZZ_KIND its name.
 *
 * The record is read under the key that it names itself, so that the body is reached,
 * and under another key, which must be refused. */
#include "formats/record_envelope.h"
#include "fuzz/fuzz.h"

typedef enum ckpt_status one_fn(const uint8_t *bytes, size_t len, const char *key,
                                struct ckpt_err *err);

/* decode, encode, the same bytes. */
#define ROUND_TRIP(type)                                                                  \
    static enum ckpt_status one_##type(const uint8_t *bytes, size_t len, const char *key, \
                                       struct ckpt_err *err)                              \
    {                                                                                     \
        struct record_##type r;                                                           \
        CLEANUP_BUF struct buf again = { 0 };                                             \
        enum ckpt_status st = record_##type##_decode(bytes, len, key, &r, err);           \
        if (st != CKPT_OK)                                                                \
            return st;                                                                    \
        record_##type##_encode(&r, key, &again);                                          \
        fuzz_same(&again, bytes, len);                                                    \
        return st;                                                                        \
    }
ROUND_TRIP(claim)
ROUND_TRIP(bad)
ROUND_TRIP(commit)
ROUND_TRIP(held)
ROUND_TRIP(rank_held)
ROUND_TRIP(tag)

static enum ckpt_status one_life(const uint8_t *bytes, size_t len, const char *key,
                                 struct ckpt_err *err)
{
    struct record_life r;
    CLEANUP_BUF struct buf again = { 0 };
    enum ckpt_status st = record_life_decode(bytes, len, key, &r, err);
    if (st != CKPT_OK)
        return st;
    FUZZ_CHECK(r.life <= LIFE_GONE);
    record_life_encode(&r, key, &again);
    fuzz_same(&again, bytes, len);
    return st;
}

static enum ckpt_status one_repo(const uint8_t *bytes, size_t len, const char *key,
                                 struct ckpt_err *err)
{
    struct record_repo r;
    CLEANUP_BUF struct buf again = { 0 };
    enum ckpt_status st = record_repo_decode(bytes, len, key, &r, err);
    if (st != CKPT_OK || strcmp(key, KEY_REPO) != 0) /* there is one such key */
        return st;
    record_repo_encode(&r, &again);
    fuzz_same(&again, bytes, len);
    return st;
}

static enum ckpt_status one_abort(const uint8_t *bytes, size_t len, const char *key,
                                  struct ckpt_err *err)
{
    struct record_abort r;
    CLEANUP_BUF struct buf again = { 0 };
    enum ckpt_status st = record_abort_decode(bytes, len, key, &r, err);
    if (st != CKPT_OK)
        return st;
    uint32_t reason = fuzz_get_u32(bytes + 18 + strlen(key));
    record_abort_encode(&r, key, &again);
    if (status_known(reason))
        fuzz_same(&again, bytes, len);
    else /* one that only a newer program knows */
        FUZZ_CHECK(r.status == CKPT_ABORTED && again.len == len);
    return st;
}

static enum ckpt_status one_resolved(const uint8_t *bytes, size_t len, const char *key,
                                     struct ckpt_err *err)
{
    struct record_resolved r;
    CLEANUP_BUF struct buf again = { 0 };
    enum ckpt_status st = record_resolved_decode(bytes, len, key, &r, err);
    if (st != CKPT_OK)
        return st;
    FUZZ_CHECK(r.kind <= RESOLVED_SUPERSEDED && r.skip_count <= RECORD_SKIPS_MAX);
    record_resolved_encode(&r, key, &again);
    fuzz_same(&again, bytes, len);
    record_resolved_fini(&r);
    return st;
}

static enum ckpt_status one_node(const uint8_t *bytes, size_t len, const char *key,
                                 struct ckpt_err *err)
{
    struct record_node r;
    CLEANUP_BUF struct buf again = { 0 };
    enum ckpt_status st = record_node_decode(bytes, len, key, &r, err);
    if (st != CKPT_OK)
        return st;
    record_node_encode(&r, key, &again);
    fuzz_same(&again, bytes, len);
    record_node_fini(&r);
    return st;
}

static enum ckpt_status one_step(enum record_kind kind, const uint8_t *bytes, size_t len,
                                 const char *key, struct ckpt_err *err)
{
    struct record_step r;
    CLEANUP_BUF struct buf again = { 0 };
    enum ckpt_status st = record_step_decode(kind, bytes, len, key, &r, err);
    if (st != CKPT_OK)
        return st;
    record_step_encode(kind, &r, key, &again);
    fuzz_same(&again, bytes, len);
    return st;
}

static enum ckpt_status one_restored(const uint8_t *bytes, size_t len, const char *key,
                                     struct ckpt_err *err)
{
    return one_step(RECORD_RESTORED, bytes, len, key, err);
}

static enum ckpt_status one_progress(const uint8_t *bytes, size_t len, const char *key,
                                     struct ckpt_err *err)
{
    return one_step(RECORD_PROGRESS, bytes, len, key, err);
}

static const struct kind {
    const char *name;
    enum record_kind kind;
    one_fn *one;
} kinds[] = {
    { "repo", RECORD_REPO, one_repo },
    { "claim", RECORD_CLAIM, one_claim },
    { "resolved", RECORD_RESOLVED, one_resolved },
    { "node", RECORD_NODE, one_node },
    { "restored", RECORD_RESTORED, one_restored },
    { "progress", RECORD_PROGRESS, one_progress },
    { "bad", RECORD_BAD, one_bad },
    { "commit", RECORD_COMMIT, one_commit },
    { "abort", RECORD_ABORT, one_abort },
    { "held", RECORD_HELD, one_held },
    { "rank_held", RECORD_RANK_HELD, one_rank_held },
    { "tag", RECORD_TAG, one_tag },
    { "life", RECORD_LIFE, one_life },
};

static const struct kind *this_kind(void)
{
    for (size_t i = 0; i < ARRAY_COUNT(kinds); i++) {
        if (strcmp(kinds[i].name, FUZZ_KIND) == 0)
            return &kinds[i];
    }
    abort();
}

/* The key inside the envelope as a C string; false if it is none. */
static bool own_key(const uint8_t *bytes, size_t len, char key[KEY_MAX])
{
    struct cursor c = cursor_over(bytes, len);
    cursor_bytes(&c, 16);
    cursor_str(&c, key, KEY_MAX);
    return cursor_ok(&c);
}

void fuzz_one(const uint8_t *bytes, size_t len)
{
    const struct kind *kind = this_kind();
    const char *other = "another/key";
    char key[KEY_MAX];
    struct ckpt_err err = { 0 };
    if (!own_key(bytes, len, key))
        key[0] = 0;
    if (strcmp(key, other) != 0)
        FUZZ_CHECK(kind->one(bytes, len, other, &err) != CKPT_OK && err.text[0]);
    err = (struct ckpt_err){ 0 };
    enum ckpt_status st = kind->one(bytes, len, key, &err);
    FUZZ_CHECK(st == CKPT_OK ? record_kind_of(bytes, len) == kind->kind : err.text[0] != 0);
}

void fuzz_fix(uint8_t *bytes, size_t len)
{
    if (len < RECORD_FRAME_BYTES(0))
        return;
    memcpy(bytes, "CKPTREC", 8);
    fuzz_put_u32(bytes + 12, (uint32_t)len);
    fuzz_fix_trailer(bytes, len);
}
