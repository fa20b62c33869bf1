/* get of the S3 store: ranges are sorted and near ones read together, long stretches cut
 * into parts, and the parts read by parallel GETs straight into the caller's memory.
 *
 *     ranges   ██ ██      ██████████████████████            gaps up to GAP are read, too
 *     parts    └───┘      └────────┘└────────┘└┘            of PART bytes at most
 *
 * All parts are of one version: each answer's ETag must be that of the first, otherwise
 * everything is read again.  (That holds with servers that ignore If-Match, and costs no
 * round trip before the parts can start.) */
#include <stdio.h>

#include "storage/store/store_s3.h"

/* Records are read with one request when they are no longer than this. */
#define RECORD_BYTES (UINT64_C(256) << 10)
/* A gap costs less to read than another request. */
#define GAP (UINT64_C(128) << 10)
/* What one connection should carry at a time: large enough that its latency does not
 * count, small enough that a 32 MiB pack keeps several busy. */
#define PART         (UINT64_C(8) << 20)
#define VERSIONS_MAX 8

struct part {
    uint64_t from, to; /* bytes of the object */
    size_t first;      /* of the sorted ranges: those before it end before `from` */
    struct reading *reading;
};

struct reading {
    const char *key;
    const struct store_range **sorted; /* by offset; without the empty ones */
    size_t count;
    struct part *parts;
    struct s3_call *calls;
    size_t part_count;
    char etag[S3_ETAG_MAX + 1]; /* of the version being read; "" = not seen yet */
    uint64_t total;
    bool changed; /* another version was seen */
};

static int by_offset(const void *a, const void *b)
{
    const struct store_range *x = *(const struct store_range *const *)a;
    const struct store_range *y = *(const struct store_range *const *)b;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* Is this the version we read, and the bytes that we asked for?  A server (or what is in
 * between) that ignores Range sends the whole object with 200: what we want is in it. */
static bool admit(struct reading *r, struct s3_call *call, const struct s3_answer *a)
{
    const struct part *p = call->arg;
    uint64_t total = a->status == 206 ? a->total : a->length;
    if (!a->etag[0] || total == UINT64_MAX || (a->status == 206 && a->range_from != p->from)) {
        call->odd = true;
        return false;
    }
    if (r->total == UINT64_MAX) {
        snprintf(r->etag, sizeof(r->etag), "%s", a->etag);
        r->total = total;
    }
    r->changed = r->changed || total != r->total || strcmp(a->etag, r->etag) != 0;
    return !r->changed && r->total >= p->to; /* shorter: read_version finds the words */
}

/* Bytes [at, at + len) of the object go to every range that wants some of them. */
static void scatter(const struct reading *r, struct part *p, uint64_t at, const char *bytes,
                    size_t len)
{
    uint64_t end = at + len;
    for (size_t i = p->first; i < r->count && r->sorted[i]->offset < end; i++) {
        const struct store_range *range = r->sorted[i];
        uint64_t from = max_u64(at, range->offset);
        uint64_t to = min_u64(end, range->offset + range->bytes);
        if (from < to)
            memcpy((char *)range->base + (from - range->offset), bytes + (from - at), to - from);
    }
}

static bool take_part(struct s3_call *call, const struct s3_answer *answer, uint64_t at,
                      const void *bytes, size_t len)
{
    struct part *p = call->arg;
    struct reading *r = p->reading;
    if (at == 0 && !admit(r, call, answer))
        return false;
    if (answer->status == 206 && at > call->expect) { /* it need not ever end */
        call->odd = true;
        return false;
    }
    uint64_t from = at + (answer->status == 206 ? p->from : 0), to = from + len;
    uint64_t first = max_u64(from, p->from), last = min_u64(to, p->to);
    if (first < last)
        scatter(r, p, first, (const char *)bytes + (first - from), (size_t)(last - first));
    return true;
}

/* Cuts [from, to) into parts.  NULL parts: only counts. */
static size_t cut(struct part *parts, size_t count, uint64_t from, uint64_t to, size_t first)
{
    uint64_t pieces = div_up(to - from, PART), piece = align_up(div_up(to - from, pieces), 4096);
    for (; from < to; from += min_u64(piece, to - from), count++) {
        if (parts)
            parts[count] = (struct part){ from, from + min_u64(piece, to - from), first, NULL };
    }
    return count;
}

/* The stretches that cover the ranges, cut into parts. */
static size_t plan(const struct reading *r, struct part *parts)
{
    size_t count = 0;
    for (size_t i = 0; i < r->count;) {
        uint64_t from = r->sorted[i]->offset, to = from;
        size_t first = i;
        for (; i < r->count && r->sorted[i]->offset <= to + GAP; i++)
            to = max_u64(to, r->sorted[i]->offset + r->sorted[i]->bytes);
        count = cut(parts, count, from, to, first);
    }
    return count;
}

static void part_call(struct reading *r, size_t i)
{
    struct part *p = &r->parts[i];
    struct s3_call *call = &r->calls[i];
    p->reading = r;
    *call = (struct s3_call){ .method = S3_GET,
                              .key = r->key,
                              .take = take_part,
                              .expect = p->to - p->from,
                              .hedge = true,
                              .arg = p };
    snprintf(call->range, sizeof(call->range), "bytes=%llu-%llu", (unsigned long long)p->from,
             (unsigned long long)p->to - 1);
}

static enum ckpt_status beyond_end(const struct store_s3 *s, const char *key,
                                   const struct store_range *range, uint64_t total,
                                   struct ckpt_err *err)
{
    return err_set(err, CKPT_CORRUPT, "get %s from %s: bytes %llu + %llu lie beyond its end (%llu)",
                   key, s->base.url, (unsigned long long)range->offset,
                   (unsigned long long)range->bytes, (unsigned long long)total);
}

static enum ckpt_status check_ends(const struct store_s3 *s, const char *key,
                                   const struct store_range *ranges, size_t count, uint64_t total,
                                   struct ckpt_err *err)
{
    for (size_t i = 0; i < count; i++) {
        if (ranges[i].offset > total || ranges[i].bytes > total - ranges[i].offset)
            return beyond_end(s, key, &ranges[i], total, err);
    }
    return CKPT_OK;
}

/* Nothing to read, or a range that no object can have: size and existence alone. */
static enum ckpt_status check_by_stat(struct store_s3 *s, const char *key,
                                      const struct store_range *ranges, size_t count,
                                      struct ckpt_err *err)
{
    struct store_stat stat;
    enum ckpt_status st = s3_stat(&s->base, key, &stat, err);
    return st == CKPT_OK ? check_ends(s, key, ranges, count, stat.bytes, err) : st;
}

static enum ckpt_status read_version(struct store_s3 *s, struct reading *r,
                                     const struct store_range *ranges, size_t count,
                                     struct ckpt_err *err)
{
    r->etag[0] = 0;
    r->total = UINT64_MAX;
    r->changed = false;
    for (size_t i = 0; i < r->part_count; i++)
        part_call(r, i);
    struct ckpt_err mine = { 0 };
    enum ckpt_status st = s3_run(s, "get", r->calls, r->part_count, &mine);
    if (r->changed)
        return CKPT_OK;
    if (r->total != UINT64_MAX && check_ends(s, r->key, ranges, count, r->total, err) != CKPT_OK)
        return CKPT_CORRUPT;
    if (st != CKPT_CORRUPT)
        return st == CKPT_OK ? st : err_set(err, st, "%s", err_text(&mine));
    /* A part lies behind the end (416), which is not known yet. */
    st = check_by_stat(s, r->key, ranges, count, err);
    r->changed = st == CKPT_OK; /* it has grown since */
    return st;
}

static enum ckpt_status no_memory(const char *key, struct ckpt_err *err)
{
    return err_set(err, CKPT_NO_MEMORY, "get %s: no memory for the list of requests", key);
}

static enum ckpt_status read_all(struct store_s3 *s, struct reading *r,
                                 const struct store_range *ranges, size_t count,
                                 struct ckpt_err *err)
{
    r->part_count = plan(r, NULL);
    CLEANUP_FREE struct part *parts = calloc(r->part_count, sizeof(*parts));
    CLEANUP_FREE struct s3_call *calls = calloc(r->part_count, sizeof(*calls));
    if (!parts || !calls)
        return no_memory(r->key, err);
    r->parts = parts;
    r->calls = calls;
    plan(r, parts);
    for (int version = 0; version < VERSIONS_MAX; version++) {
        enum ckpt_status st = read_version(s, r, ranges, count, err);
        if (st != CKPT_OK || !r->changed)
            return st;
    }
    return err_set(err, CKPT_IO, "get %s from %s: it is replaced faster than it can be read",
                   r->key, s->base.url);
}

enum ckpt_status s3_get(struct store *base, const char *key, const struct store_range *ranges,
                        size_t count, struct ckpt_err *err)
{
    struct store_s3 *s = store_s3_of(base);
    struct reading r = { .key = key };
    CLEANUP_FREE const struct store_range **sorted =
        calloc(count + 1, sizeof(struct store_range *));
    if (!sorted)
        return no_memory(key, err);
    for (size_t i = 0; i < count; i++) {
        if (ranges[i].offset > STORE_OBJECT_MAX || ranges[i].bytes > STORE_OBJECT_MAX)
            return check_by_stat(s, key, ranges, count, err);
        if (ranges[i].bytes > 0)
            sorted[r.count++] = &ranges[i];
    }
    if (r.count == 0)
        return check_by_stat(s, key, ranges, count, err);
    qsort(sorted, r.count, sizeof(*sorted), by_offset);
    r.sorted = sorted;
    return read_all(s, &r, ranges, count, err);
}

struct record {
    char *bytes; /* RECORD_BYTES */
    uint64_t room, total;
};

static bool take_record(struct s3_call *call, const struct s3_answer *answer, uint64_t at,
                        const void *bytes, size_t len)
{
    struct record *r = call->arg;
    if (at == 0) {
        r->total = answer->status == 206 ? answer->total : answer->length;
        call->odd = !answer->etag[0] || r->total == UINT64_MAX ||
                    (answer->status == 206 && answer->range_from != 0);
        call->expect = min_u64(r->total, r->room);
    }
    if (call->odd || at + len > r->room)
        return false;
    memcpy(r->bytes + at, bytes, len);
    return true;
}

/* What did not come with the first request: longer, or empty (416), or a server that
 * ignores Range. */
static enum ckpt_status get_known(struct store *base, const char *key, size_t max, void **ret,
                                  size_t *ret_len, struct ckpt_err *err)
{
    struct store_stat stat;
    enum ckpt_status st = s3_stat(base, key, &stat, err);
    if (st != CKPT_OK)
        return st;
    if (stat.bytes > max)
        return store_too_long(base, key, stat.bytes, max, err);
    CLEANUP_FREE void *bytes = malloc(stat.bytes + 1); /* malloc(0) may be NULL */
    if (!bytes)
        return no_memory(key, err);
    struct store_range whole = { .bytes = stat.bytes, .base = bytes };
    st = s3_get(base, key, &whole, 1, err);
    if (st != CKPT_OK)
        return st;
    *ret = TAKE_PTR(bytes);
    *ret_len = stat.bytes;
    return CKPT_OK;
}

enum ckpt_status s3_get_all(struct store *base, const char *key, size_t max, void **ret,
                            size_t *ret_len, struct ckpt_err *err)
{
    struct record r = { .room = RECORD_BYTES, .total = UINT64_MAX };
    struct ckpt_err mine = { 0 };
    CLEANUP_FREE char *bytes = r.bytes = malloc(RECORD_BYTES);
    if (!bytes)
        return no_memory(key, err);
    struct s3_call call = { .method = S3_GET, .key = key, .take = take_record, .arg = &r };
    snprintf(call.range, sizeof(call.range), "bytes=0-%llu", (unsigned long long)RECORD_BYTES - 1);
    enum ckpt_status st = s3_run(store_s3_of(base), "get", &call, 1, &mine);
    if ((st == CKPT_OK && r.total > r.room) || call.ret.status == 416 || call.ret.status == 200)
        return get_known(base, key, max, ret, ret_len, err);
    if (st != CKPT_OK)
        return err_set(err, st, "%s", err_text(&mine));
    if (r.total > max)
        return store_too_long(base, key, r.total, max, err);
    char *fit = realloc(bytes, r.total + 1); /* many of them are kept at a time */
    if (fit)
        bytes = fit;
    *ret_len = r.total;
    *ret = TAKE_PTR(bytes);
    return CKPT_OK;
}
