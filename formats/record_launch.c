/* Records of a launch: claim, resolved, a node's inventory, restored, progress, bad. */
#include <assert.h>

#include "formats/record.h"
#include "formats/record_envelope.h"

#define RESOLVED_FLAG_FORCED 1
#define RESOLVED_FLAG_STOP   2
#define SKIP_BYTES_MIN       (24 + 2) /* a name and an empty text */
#define HOLDING_BYTES        32

static_assert(HOLDING_BYTES * (uint64_t)RECORD_HOLDINGS_MAX < RECORD_BYTES_MAX,
              "the largest inventory fits into a record");
static_assert((24 + 2 + 160) * (uint64_t)RECORD_SKIPS_MAX < RECORD_BYTES_MAX,
              "the longest list of skipped candidates fits into a record");

void record_claim_encode(const struct record_claim *r, const char *key, struct buf *out)
{
    assert(r->token[0]);
    size_t start = record_begin(out, RECORD_CLAIM, key);
    buf_u64(out, r->epoch);
    buf_u32(out, r->world);
    buf_zero(out, 4);
    buf_bytes(out, r->nonce, sizeof(r->nonce));
    buf_bytes(out, r->node, sizeof(r->node));
    buf_u64(out, (uint64_t)r->time_ns);
    buf_str(out, r->token);
    record_end(out, start);
}

enum ckpt_status record_claim_decode(const void *bytes, size_t len, const char *key,
                                     struct record_claim *ret, struct ckpt_err *err)
{
    struct cursor c;
    struct record_claim r = { 0 };
    enum ckpt_status st = record_open(bytes, len, RECORD_CLAIM, key, &c, err);
    if (st != CKPT_OK)
        return st;
    r.epoch = cursor_u64(&c);
    r.world = record_get_world(&c);
    cursor_zero(&c, 4);
    cursor_copy(&c, r.nonce, sizeof(r.nonce));
    cursor_copy(&c, r.node, sizeof(r.node));
    r.time_ns = (int64_t)cursor_u64(&c);
    cursor_str(&c, r.token, sizeof(r.token));
    if (!r.token[0])
        cursor_fail(&c);
    st = record_close(&c, key, err);
    if (st == CKPT_OK)
        *ret = r;
    return st;
}

void record_resolved_encode(const struct record_resolved *r, const char *key, struct buf *out)
{
    static const struct ckpt_name none;
    assert(r->skip_count <= RECORD_SKIPS_MAX);
    size_t start = record_begin(out, RECORD_RESOLVED, key);
    buf_u64(out, r->epoch);
    buf_u8(out, (uint8_t)r->kind);
    buf_u8(out,
           (uint8_t)((r->forced ? RESOLVED_FLAG_FORCED : 0) | (r->stop ? RESOLVED_FLAG_STOP : 0)));
    buf_zero(out, 2);
    buf_u32(out, r->skip_count);
    record_put_name(out, r->kind == RESOLVED_POINT ? &r->name : &none);
    buf_u64(out, (uint64_t)r->time_ns);
    buf_str(out, r->why);
    for (uint32_t i = 0; i < r->skip_count; i++) {
        record_put_name(out, &r->skips[i].name);
        buf_str(out, r->skips[i].why);
    }
    record_end(out, start);
}

static void resolved_get_fixed(struct cursor *c, struct record_resolved *r)
{
    static const struct ckpt_name none;
    r->epoch = cursor_u64(c);
    unsigned kind = cursor_u8(c);
    unsigned flags = cursor_u8(c);
    cursor_zero(c, 2);
    r->skip_count = cursor_u32(c);
    r->name = record_get_name(c);
    r->time_ns = (int64_t)cursor_u64(c);
    cursor_str(c, r->why, sizeof(r->why));
    r->kind = (enum resolved_kind)kind;
    r->forced = flags & RESOLVED_FLAG_FORCED;
    r->stop = flags & RESOLVED_FLAG_STOP;
    if (kind > RESOLVED_SUPERSEDED || flags & ~(RESOLVED_FLAG_FORCED | RESOLVED_FLAG_STOP) ||
        (kind != RESOLVED_POINT && !name_equal(&r->name, &none)) ||
        r->skip_count > RECORD_SKIPS_MAX || r->skip_count > cursor_left(c) / SKIP_BYTES_MIN)
        cursor_fail(c);
}

enum ckpt_status record_resolved_decode(const void *bytes, size_t len, const char *key,
                                        struct record_resolved *ret, struct ckpt_err *err)
{
    struct cursor c;
    struct record_resolved r = { 0 };
    CLEANUP_FREE struct record_skip *skips = NULL;
    enum ckpt_status st = record_open(bytes, len, RECORD_RESOLVED, key, &c, err);
    if (st != CKPT_OK)
        return st;
    resolved_get_fixed(&c, &r);
    if (cursor_ok(&c) && r.skip_count) {
        skips = calloc(r.skip_count, sizeof(*skips));
        if (!skips)
            return err_set(err, CKPT_NO_MEMORY, "no memory for the record %s", key);
    }
    for (uint32_t i = 0; cursor_ok(&c) && i < r.skip_count; i++) {
        skips[i].name = record_get_name(&c);
        cursor_str(&c, skips[i].why, sizeof(skips[i].why));
    }
    st = record_close(&c, key, err);
    if (st != CKPT_OK)
        return st;
    r.skips = TAKE_PTR(skips);
    *ret = r;
    return CKPT_OK;
}

void record_resolved_fini(struct record_resolved *r)
{
    if (!r)
        return;
    free(r->skips);
    r->skips = NULL;
    r->skip_count = 0;
}

void record_node_encode(const struct record_node *r, const char *key, struct buf *out)
{
    assert(r->count <= RECORD_HOLDINGS_MAX && r->rank_count <= RECORD_NODE_RANKS_MAX);
    size_t start = record_begin(out, RECORD_NODE, key);
    buf_bytes(out, r->node, sizeof(r->node));
    buf_u64(out, (uint64_t)r->time_ns);
    buf_u32(out, r->count);
    buf_u32(out, r->rank_count);
    for (uint32_t i = 0; i < r->count; i++) {
        record_put_name(out, &r->holdings[i].name);
        buf_u32(out, r->holdings[i].rank);
        buf_u32(out, r->holdings[i].whole);
    }
    for (uint32_t i = 0; i < r->rank_count; i++)
        buf_u32(out, r->ranks[i]);
    record_end(out, start);
}

static void get_holdings(struct cursor *c, struct record_holding *holdings, uint32_t count)
{
    for (uint32_t i = 0; cursor_ok(c) && i < count; i++) {
        holdings[i].name = record_get_name(c);
        holdings[i].rank = record_get_rank(c);
        uint32_t whole = cursor_u32(c);
        holdings[i].whole = whole;
        if (whole > 1)
            cursor_fail(c);
    }
}

static void get_ranks(struct cursor *c, uint32_t *ranks, uint32_t count)
{
    for (uint32_t i = 0; cursor_ok(c) && i < count; i++) {
        ranks[i] = record_get_rank(c);
        if (i > 0 && ranks[i] <= ranks[i - 1])
            cursor_fail(c);
    }
}

enum ckpt_status record_node_decode(const void *bytes, size_t len, const char *key,
                                    struct record_node *ret, struct ckpt_err *err)
{
    struct cursor c;
    struct record_node r = { 0 };
    CLEANUP_FREE struct record_holding *holdings = NULL;
    CLEANUP_FREE uint32_t *ranks = NULL;
    enum ckpt_status st = record_open(bytes, len, RECORD_NODE, key, &c, err);
    if (st != CKPT_OK)
        return st;
    cursor_copy(&c, r.node, sizeof(r.node));
    r.time_ns = (int64_t)cursor_u64(&c);
    r.count = cursor_u32(&c);
    r.rank_count = cursor_u32(&c);
    if (r.count > RECORD_HOLDINGS_MAX || r.rank_count > RECORD_NODE_RANKS_MAX ||
        r.count * HOLDING_BYTES + r.rank_count * sizeof(*ranks) > cursor_left(&c))
        cursor_fail(&c);
    if (cursor_ok(&c)) {
        holdings = r.count ? calloc(r.count, sizeof(*holdings)) : NULL;
        ranks = r.rank_count ? calloc(r.rank_count, sizeof(*ranks)) : NULL;
        if ((r.count && !holdings) || (r.rank_count && !ranks))
            return err_set(err, CKPT_NO_MEMORY, "no memory for the record %s", key);
        get_holdings(&c, holdings, r.count);
        get_ranks(&c, ranks, r.rank_count);
    }
    st = record_close(&c, key, err);
    if (st != CKPT_OK)
        return st;
    r.holdings = TAKE_PTR(holdings);
    r.ranks = TAKE_PTR(ranks);
    *ret = r;
    return CKPT_OK;
}

void record_node_fini(struct record_node *r)
{
    if (!r)
        return;
    free(r->holdings);
    free(r->ranks);
    r->holdings = NULL;
    r->ranks = NULL;
    r->count = r->rank_count = 0;
}

void record_step_encode(enum record_kind kind, const struct record_step *r, const char *key,
                        struct buf *out)
{
    assert(kind == RECORD_RESTORED || kind == RECORD_PROGRESS);
    size_t start = record_begin(out, kind, key);
    buf_u64(out, r->epoch);
    buf_u64(out, r->step);
    buf_u64(out, (uint64_t)r->time_ns);
    record_end(out, start);
}

enum ckpt_status record_step_decode(enum record_kind kind, const void *bytes, size_t len,
                                    const char *key, struct record_step *ret, struct ckpt_err *err)
{
    struct cursor c;
    struct record_step r = { 0 };
    assert(kind == RECORD_RESTORED || kind == RECORD_PROGRESS);
    enum ckpt_status st = record_open(bytes, len, kind, key, &c, err);
    if (st != CKPT_OK)
        return st;
    r.epoch = cursor_u64(&c);
    r.step = cursor_u64(&c);
    r.time_ns = (int64_t)cursor_u64(&c);
    st = record_close(&c, key, err);
    if (st == CKPT_OK)
        *ret = r;
    return st;
}

void record_bad_encode(const struct record_bad *r, const char *key, struct buf *out)
{
    size_t start = record_begin(out, RECORD_BAD, key);
    buf_u64(out, r->epoch);
    buf_u32(out, r->rank);
    buf_u8(out, r->corrupt);
    buf_zero(out, 3);
    record_put_name(out, &r->name);
    buf_u64(out, (uint64_t)r->time_ns);
    buf_str(out, r->text);
    record_end(out, start);
}

enum ckpt_status record_bad_decode(const void *bytes, size_t len, const char *key,
                                   struct record_bad *ret, struct ckpt_err *err)
{
    struct cursor c;
    struct record_bad r = { 0 };
    enum ckpt_status st = record_open(bytes, len, RECORD_BAD, key, &c, err);
    if (st != CKPT_OK)
        return st;
    r.epoch = cursor_u64(&c);
    r.rank = record_get_rank(&c);
    r.corrupt = record_get_bool(&c);
    cursor_zero(&c, 3);
    r.name = record_get_name(&c);
    r.time_ns = (int64_t)cursor_u64(&c);
    cursor_str(&c, r.text, sizeof(r.text));
    st = record_close(&c, key, err);
    if (st == CKPT_OK)
        *ret = r;
    return st;
}
