/* Records of a checkpoint: commit, abort, held, rank held, tag, life. */
#include <assert.h>

#include "formats/index.h"
#include "formats/record.h"
#include "formats/record_envelope.h"

#define COMMIT_FLAG_PARENT   1
#define COMMIT_FLAG_VANISHED 2
#define ABORT_BODY_BYTES     16

/* The longest commit key: <job>/c/<name>. */
static_assert(RECORD_FRAME_BYTES(CKPT_JOB_NAME_MAX + 3 + NAME_TEXT - 1) + ABORT_BODY_BYTES <=
                  RECORD_ABORT_MAX,
              "an ABORT is always shorter than a COMMIT");

static void commit_put_fixed(const struct record_commit *r, struct buf *out)
{
    static const struct ckpt_name none;
    record_put_name(out, &r->name);
    buf_u32(out, r->world);
    buf_u32(out, r->try_);
    buf_u32(out, (r->has_parent ? COMMIT_FLAG_PARENT : 0u) |
                     (r->vanished_allowed ? COMMIT_FLAG_VANISHED : 0u));
    buf_u32(out, r->metric_count);
    record_put_name(out, r->has_parent ? &r->parent : &none);
    buf_u64(out, (uint64_t)r->time_ns);
    buf_u64(out, r->raw_bytes);
    buf_u64(out, r->tensor_count);
    buf_u64(out, r->pack_count);
    buf_u64(out, r->chunk_count);
    buf_u32(out, r->index_segments);
    buf_u32(out, r->index_header_bytes);
    buf_bytes(out, r->index_sha.b, sizeof(r->index_sha.b));
}

void record_commit_encode(const struct record_commit *r, const char *key, struct buf *out)
{
    assert(r->metric_count <= RECORD_METRICS_MAX && record_key_has_name(key, &r->name));
    size_t start = record_begin(out, RECORD_COMMIT, key);
    commit_put_fixed(r, out);
    for (uint32_t i = 0; i < r->metric_count; i++) {
        buf_str(out, r->metrics[i].name);
        buf_f64(out, r->metrics[i].value);
    }
    size_t bytes = out->len - start + sizeof(struct digest);
    if (bytes <= RECORD_ABORT_MAX)
        buf_zero(out, RECORD_ABORT_MAX + 1 - bytes);
    record_end(out, start);
}

static void commit_get_fixed(struct cursor *c, struct record_commit *r)
{
    static const struct ckpt_name none;
    r->name = record_get_name(c);
    r->world = record_get_world(c);
    r->try_ = cursor_u32(c);
    uint32_t flags = cursor_u32(c);
    r->metric_count = cursor_u32(c);
    r->parent = record_get_name(c);
    r->time_ns = (int64_t)cursor_u64(c);
    r->raw_bytes = cursor_u64(c);
    r->tensor_count = cursor_u64(c);
    r->pack_count = cursor_u64(c);
    r->chunk_count = cursor_u64(c);
    r->index_segments = cursor_u32(c);
    r->index_header_bytes = cursor_u32(c);
    cursor_copy(c, r->index_sha.b, sizeof(r->index_sha.b));
    r->has_parent = flags & COMMIT_FLAG_PARENT;
    r->vanished_allowed = flags & COMMIT_FLAG_VANISHED;
    if (flags & ~(COMMIT_FLAG_PARENT | COMMIT_FLAG_VANISHED) ||
        (!r->has_parent && !name_equal(&r->parent, &none)) ||
        r->metric_count > RECORD_METRICS_MAX || r->tensor_count > CKPT_TENSORS_MAX ||
        r->index_header_bytes > INDEX_HEADER_BYTES_MAX) /* readers make room for it */
        cursor_fail(c);
}

enum ckpt_status record_commit_decode(const void *bytes, size_t len, const char *key,
                                      struct record_commit *ret, struct ckpt_err *err)
{
    struct cursor c;
    struct record_commit r = { 0 };
    enum ckpt_status st = record_open(bytes, len, RECORD_COMMIT, key, &c, err);
    if (st != CKPT_OK)
        return st;
    commit_get_fixed(&c, &r);
    if (!record_key_has_name(key, &r.name) || len <= RECORD_ABORT_MAX)
        cursor_fail(&c);
    for (uint32_t i = 0; cursor_ok(&c) && i < r.metric_count; i++) {
        cursor_str(&c, r.metrics[i].name, sizeof(r.metrics[i].name));
        r.metrics[i].value = cursor_f64(&c);
        if (!r.metrics[i].name[0])
            cursor_fail(&c);
    }
    if (len == RECORD_ABORT_MAX + 1) /* padded up to here, never further */
        cursor_zero(&c, cursor_left(&c));
    st = record_close(&c, key, err);
    if (st == CKPT_OK)
        *ret = r;
    return st;
}

void record_abort_encode(const struct record_abort *r, const char *key, struct buf *out)
{
    size_t start = record_begin(out, RECORD_ABORT, key);
    buf_u32(out, (uint32_t)r->status);
    buf_u32(out, r->rank);
    buf_u64(out, r->by_epoch);
    record_end(out, start);
    assert(out->failed || out->len - start <= RECORD_ABORT_MAX);
}

enum ckpt_status record_abort_decode(const void *bytes, size_t len, const char *key,
                                     struct record_abort *ret, struct ckpt_err *err)
{
    struct cursor c;
    struct record_abort r = { 0 };
    enum ckpt_status st = record_open(bytes, len, RECORD_ABORT, key, &c, err);
    if (st != CKPT_OK)
        return st;
    /* A reason that only newer programs know must not make the decision unreadable. */
    uint32_t status = cursor_u32(&c);
    r.status = status_known(status) ? (enum ckpt_status)status : CKPT_ABORTED;
    r.rank = cursor_u32(&c);
    r.by_epoch = cursor_u64(&c);
    if ((r.rank >= CKPT_RANKS_MAX && r.rank != UINT32_MAX) || len > RECORD_ABORT_MAX)
        cursor_fail(&c);
    st = record_close(&c, key, err);
    if (st == CKPT_OK)
        *ret = r;
    return st;
}

void record_held_encode(const struct record_held *r, const char *key, struct buf *out)
{
    assert(record_key_has_name(key, &r->name));
    size_t start = record_begin(out, RECORD_HELD, key);
    record_put_name(out, &r->name);
    buf_u32(out, r->world);
    buf_zero(out, 4);
    buf_u64(out, r->stored_bytes);
    buf_u64(out, (uint64_t)r->time_ns);
    record_end(out, start);
}

enum ckpt_status record_held_decode(const void *bytes, size_t len, const char *key,
                                    struct record_held *ret, struct ckpt_err *err)
{
    struct cursor c;
    struct record_held r = { 0 };
    enum ckpt_status st = record_open(bytes, len, RECORD_HELD, key, &c, err);
    if (st != CKPT_OK)
        return st;
    r.name = record_get_name(&c);
    r.world = record_get_world(&c);
    cursor_zero(&c, 4);
    r.stored_bytes = cursor_u64(&c);
    r.time_ns = (int64_t)cursor_u64(&c);
    if (!record_key_has_name(key, &r.name))
        cursor_fail(&c);
    st = record_close(&c, key, err);
    if (st == CKPT_OK)
        *ret = r;
    return st;
}

void record_rank_held_encode(const struct record_rank_held *r, const char *key, struct buf *out)
{
    size_t start = record_begin(out, RECORD_RANK_HELD, key);
    record_put_name(out, &r->name);
    buf_u32(out, r->rank);
    buf_u32(out, r->pack_count);
    buf_u64(out, r->stored_bytes);
    if (r->whole)
        buf_u32(out, 1);
    record_end(out, start);
}

enum ckpt_status record_rank_held_decode(const void *bytes, size_t len, const char *key,
                                         struct record_rank_held *ret, struct ckpt_err *err)
{
    struct cursor c;
    struct record_rank_held r = { 0 };
    enum ckpt_status st = record_open(bytes, len, RECORD_RANK_HELD, key, &c, err);
    if (st != CKPT_OK)
        return st;
    r.name = record_get_name(&c);
    r.rank = record_get_rank(&c);
    r.pack_count = cursor_u32(&c);
    r.stored_bytes = cursor_u64(&c);
    r.whole = cursor_left(&c) > 0; /* absent: not */
    if (r.whole && cursor_u32(&c) != 1)
        cursor_fail(&c);
    st = record_close(&c, key, err);
    if (st == CKPT_OK)
        *ret = r;
    return st;
}

void record_tag_encode(const struct record_tag *r, const char *key, struct buf *out)
{
    assert(tag_check(r->tag, NULL) == CKPT_OK);
    size_t start = record_begin(out, RECORD_TAG, key);
    buf_u8(out, r->set);
    buf_zero(out, 7);
    buf_u64(out, (uint64_t)r->time_ns);
    buf_str(out, r->tag);
    record_end(out, start);
}

enum ckpt_status record_tag_decode(const void *bytes, size_t len, const char *key,
                                   struct record_tag *ret, struct ckpt_err *err)
{
    struct cursor c;
    struct record_tag r = { 0 };
    enum ckpt_status st = record_open(bytes, len, RECORD_TAG, key, &c, err);
    if (st != CKPT_OK)
        return st;
    r.set = record_get_bool(&c);
    cursor_zero(&c, 7);
    r.time_ns = (int64_t)cursor_u64(&c);
    cursor_str(&c, r.tag, sizeof(r.tag));
    if (tag_check(r.tag, NULL) != CKPT_OK)
        cursor_fail(&c);
    st = record_close(&c, key, err);
    if (st == CKPT_OK)
        *ret = r;
    return st;
}

void record_life_encode(const struct record_life *r, const char *key, struct buf *out)
{
    size_t start = record_begin(out, RECORD_LIFE, key);
    buf_u8(out, (uint8_t)r->life);
    buf_zero(out, 7);
    buf_u64(out, (uint64_t)r->time_ns);
    buf_str(out, r->why);
    record_end(out, start);
}

enum ckpt_status record_life_decode(const void *bytes, size_t len, const char *key,
                                    struct record_life *ret, struct ckpt_err *err)
{
    struct cursor c;
    struct record_life r = { 0 };
    enum ckpt_status st = record_open(bytes, len, RECORD_LIFE, key, &c, err);
    if (st != CKPT_OK)
        return st;
    unsigned life = cursor_u8(&c);
    cursor_zero(&c, 7);
    r.time_ns = (int64_t)cursor_u64(&c);
    cursor_str(&c, r.why, sizeof(r.why));
    r.life = (enum life)life;
    if (life > LIFE_GONE)
        cursor_fail(&c);
    st = record_close(&c, key, err);
    if (st == CKPT_OK)
        *ret = r;
    return st;
}
