/* Stores: the URL table, the check of keys, and the calls that every user goes
 * through.  They refuse what the contract forbids and assert what it promises,
 * so that a backend sees only valid calls and a user only valid answers. */
#include "storage/store/store.h"

#include <assert.h>
#include <stdio.h>
#include <time.h>

#include "storage/store/store_impl.h"

/* To add a backend: one file, one row. */
static const struct backend {
    const char *scheme;
    bool shared; /* always reachable from other nodes */
    enum ckpt_status (*open)(const struct store_url *url, const struct store_options *options,
                             struct store **ret, struct ckpt_err *err);
} backends[] = {
    { "dir", false, store_dir_open },
    { "mem", false, store_mem_open },
    { "s3", true, store_s3_open },
};

static const struct backend *backend_find(const char *scheme, size_t len)
{
    for (size_t i = 0; i < ARRAY_COUNT(backends); i++) {
        if (strlen(backends[i].scheme) == len && memcmp(backends[i].scheme, scheme, len) == 0)
            return &backends[i];
    }
    return NULL;
}

static enum ckpt_status unknown_scheme(const char *url, struct ckpt_err *err)
{
    char names[128] = "";
    size_t len = 0;
    for (size_t i = 0; i < ARRAY_COUNT(backends) && len < sizeof(names); i++)
        len += (size_t)snprintf(names + len, sizeof(names) - len, "%s%s://", i ? ", " : "",
                                backends[i].scheme);
    return err_set(err, CKPT_UNSUPPORTED, "no store of the kind \"%s\"; there are: %s", url, names);
}

/* Cuts `copy` (of url->text) into path and query.  A plain path has no query. */
static enum ckpt_status url_parse(char *copy, struct store_url *url, const struct backend **ret,
                                  struct ckpt_err *err)
{
    char *sep = strstr(copy, "://");
    *ret = backend_find("dir", 3);
    url->path = copy;
    if (sep) {
        *ret = backend_find(copy, (size_t)(sep - copy));
        if (!*ret)
            return unknown_scheme(url->text, err);
        url->path = sep + 3;
        char *mark = strchr(sep + 3, '?');
        if (mark) {
            *mark = 0;
            url->query = mark + 1;
        }
    }
    url->shared = (*ret)->shared || (url->query && strcmp(url->query, "shared=1") == 0);
    if (!url->path[0])
        return err_set(err, CKPT_INVALID, "the store \"%s\" names no place", url->text);
    return CKPT_OK;
}

enum ckpt_status store_open(const char *url, const struct store_options *options,
                            struct store **ret, struct ckpt_err *err)
{
    const struct store_options none = { 0 };
    CLEANUP_FREE char *copy = url ? strdup(url) : NULL;
    if (!copy)
        return url ? err_set(err, CKPT_NO_MEMORY, "no memory to open \"%s\"", url)
                   : err_set(err, CKPT_INVALID, "no store given");
    struct store_url parsed = { .text = url };
    const struct backend *backend;
    enum ckpt_status st = url_parse(copy, &parsed, &backend, err);
    if (st != CKPT_OK)
        return st;
    if (!options)
        options = &none;
    struct store *s;
    st = backend->open(&parsed, options, &s, err);
    if (st != CKPT_OK)
        return st;
    s->readonly = options->readonly;
    *ret = s;
    return CKPT_OK;
}

bool store_url_shared(const char *url)
{
    CLEANUP_FREE char *copy = strdup(url);
    struct store_url parsed = { .text = url };
    const struct backend *backend;
    return copy && url_parse(copy, &parsed, &backend, NULL) == CKPT_OK && parsed.shared;
}

enum ckpt_status store_dup(const struct store *s, struct store **ret, struct ckpt_err *err)
{
    struct store *dup;
    enum ckpt_status st = s->ops->dup(s, &dup, err);
    if (st != CKPT_OK)
        return st;
    dup->readonly = s->readonly;
    *ret = dup;
    return CKPT_OK;
}

void store_close(struct store *s)
{
    if (s)
        s->ops->close(s);
}

enum ckpt_status store_base_init(struct store *s, const struct store_ops *ops, const char *url,
                                 struct ckpt_err *err)
{
    s->ops = ops;
    s->url = strdup(url);
    return s->url ? CKPT_OK : err_set(err, CKPT_NO_MEMORY, "no memory to open \"%s\"", url);
}

void store_base_fini(struct store *s)
{
    free(s->url);
    s->url = NULL;
}

void store_set_limits(struct store *s, int64_t deadline_ns, const atomic_bool *cancel)
{
    s->deadline_ns = deadline_ns;
    s->cancel = cancel;
}

enum ckpt_status store_check(const struct store *s, const char *what, struct ckpt_err *err)
{
    if (s->cancel && atomic_load(s->cancel))
        return err_set(err, CKPT_CANCELLED, "%s in %s: cancelled", what, s->url);
    if (s->deadline_ns == 0)
        return CKPT_OK;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (now.tv_sec * INT64_C(1000000000) + now.tv_nsec < s->deadline_ns)
        return CKPT_OK;
    return err_set(err, CKPT_TIMEOUT, "%s in %s: the deadline has passed", what, s->url);
}

uint64_t store_iov_bytes(const struct iovec *iov, int count)
{
    uint64_t sum = 0;
    for (int i = 0; i < count; i++) {
        if (__builtin_add_overflow(sum, iov[i].iov_len, &sum))
            return UINT64_MAX;
    }
    return sum;
}

bool store_iov_equal(const struct iovec *iov, int count, uint64_t offset, const void *data,
                     size_t bytes)
{
    const char *at = data;
    for (int i = 0; i < count && bytes > 0; i++) {
        if (offset >= iov[i].iov_len) {
            offset -= iov[i].iov_len;
            continue;
        }
        size_t n = (size_t)min_u64(bytes, iov[i].iov_len - offset);
        if (memcmp((const char *)iov[i].iov_base + offset, at, n) != 0)
            return false;
        offset = 0;
        at += n;
        bytes -= n;
    }
    return bytes == 0;
}

/* One part of a key, between two '/'. */
static bool part_valid(const char *part, size_t len)
{
    if (len == 0 || len > STORE_PART_MAX)
        return false;
    if (part[0] == '.' && (len == 1 || (len == 2 && part[1] == '.')))
        return false;
    for (size_t i = 0; i < len; i++) {
        if (part[i] < 0x20 || part[i] > 0x7e || part[i] == '\\')
            return false;
    }
    return true;
}

static bool key_valid(const char *key, size_t len)
{
    if (len > STORE_KEY_MAX ||
        (len >= 4 && memcmp(key, ".tmp", 4) == 0 && (len == 4 || key[4] == '/')))
        return false;
    for (size_t at = 0; at <= len;) {
        const char *slash = memchr(key + at, '/', len - at);
        size_t part = slash ? (size_t)(slash - key) - at : len - at;
        if (!part_valid(key + at, part))
            return false;
        at += part + 1;
    }
    return true;
}

bool store_key_valid(const char *key)
{
    return key_valid(key, strnlen(key, STORE_KEY_MAX + 1));
}

/* "" or a key with one '/' behind it. */
static bool prefix_valid(const char *prefix)
{
    size_t len = strnlen(prefix, STORE_KEY_MAX + 1);
    return len == 0 || (prefix[len - 1] == '/' && key_valid(prefix, len - 1));
}

/* What every call that names a key starts with. */
static enum ckpt_status begin(const struct store *s, const char *what, const char *key, bool writes,
                              struct ckpt_err *err)
{
    assert(s && key);
    if (!store_key_valid(key))
        return err_set(err, CKPT_BAD_NAME,
                       "%s: \"%.80s\" is no key: 1 to %d bytes of printable "
                       "ASCII without \\, parts between '/' neither empty nor \".\" nor \"..\"",
                       what, key, STORE_KEY_MAX);
    if (writes && s->readonly)
        return err_set(err, CKPT_DENIED, "%s %s: %s was opened for reading", what, key, s->url);
    return store_check(s, what, err);
}

static enum ckpt_status begin_prefix(const struct store *s, const char *what, const char *prefix,
                                     struct ckpt_err *err)
{
    assert(s && prefix);
    if (!prefix_valid(prefix))
        return err_set(err, CKPT_BAD_NAME, "%s: \"%.80s\" is no prefix: \"\", or a key and '/'",
                       what, prefix);
    return store_check(s, what, err);
}

/* What every answer is held to.  CKPT_EXISTS is said by what is built on stores, of a commit or
 * of a checkpoint that it has seen: a server's "already there" must not be taken for that. */
static enum ckpt_status end(enum ckpt_status st, struct ckpt_err *err)
{
    assert(status_known(st));
    assert(st == CKPT_OK || !err || err->status != CKPT_OK);
    if (st != CKPT_EXISTS)
        return st;
    if (err)
        err->status = CKPT_UNREACHABLE;
    return CKPT_UNREACHABLE;
}

enum ckpt_status store_put(struct store *s, const char *key, const struct iovec *iov, int count,
                           unsigned flags, struct ckpt_err *err)
{
    assert(count >= 0 && (count == 0 || iov));
    assert((flags & ~(unsigned)(STORE_IF_ABSENT | STORE_DIRECT_HINT)) == 0);
    enum ckpt_status st = begin(s, "put", key, true, err);
    if (st != CKPT_OK)
        return st;
    if (store_iov_bytes(iov, count) > STORE_OBJECT_MAX)
        return err_set(err, CKPT_LIMIT, "put %s: more than %llu bytes in one object", key,
                       (unsigned long long)STORE_OBJECT_MAX);
    return end(s->ops->put(s, key, iov, count, flags, err), err);
}

enum ckpt_status store_put_record(struct store *s, const char *key, const void *bytes, size_t len,
                                  struct ckpt_err *err)
{
    struct iovec iov = { .iov_len = len };
    memcpy(&iov.iov_base, &bytes, sizeof(bytes)); /* read only; an iovec cannot say so */
    return store_put(s, key, &iov, 1, STORE_IF_ABSENT, err);
}

enum ckpt_status store_get(struct store *s, const char *key, const struct store_range *ranges,
                           size_t count, struct ckpt_err *err)
{
    assert(count == 0 || ranges);
    enum ckpt_status st = begin(s, "get", key, false, err);
    if (st != CKPT_OK)
        return st;
    if (count > STORE_RANGES_MAX)
        return err_set(err, CKPT_LIMIT, "get %s: %zu ranges, the limit is %d", key, count,
                       STORE_RANGES_MAX);
    return end(s->ops->get(s, key, ranges, count, err), err);
}

enum ckpt_status store_too_long(const struct store *s, const char *key, uint64_t bytes, size_t max,
                                struct ckpt_err *err)
{
    return err_set(err, CKPT_CORRUPT,
                   "get %s from %s: it has %llu bytes, such an object at most %zu", key, s->url,
                   (unsigned long long)bytes, max);
}

/* For backends where a stat costs as much as a get, see their get_all. */
static enum ckpt_status stat_and_get(struct store *s, const char *key, size_t max, void **ret,
                                     size_t *ret_len, struct ckpt_err *err)
{
    struct store_stat stat;
    enum ckpt_status st = store_stat(s, key, &stat, err);
    if (st != CKPT_OK)
        return st;
    if (stat.bytes > max)
        return store_too_long(s, key, stat.bytes, max, err);
    CLEANUP_FREE void *bytes = malloc(stat.bytes + 1); /* malloc(0) may be NULL */
    if (!bytes)
        return err_set(err, CKPT_NO_MEMORY, "get %s: no memory for %llu bytes", key,
                       (unsigned long long)stat.bytes);
    struct store_range whole = { .bytes = stat.bytes, .base = bytes };
    st = store_get(s, key, &whole, 1, err);
    if (st != CKPT_OK)
        return st;
    *ret = TAKE_PTR(bytes);
    *ret_len = stat.bytes;
    return CKPT_OK;
}

enum ckpt_status store_get_all(struct store *s, const char *key, size_t max, void **ret,
                               size_t *ret_len, struct ckpt_err *err)
{
    if (!s->ops->get_all)
        return stat_and_get(s, key, max, ret, ret_len, err);
    enum ckpt_status st = begin(s, "get", key, false, err);
    return st != CKPT_OK ? st : end(s->ops->get_all(s, key, max, ret, ret_len, err), err);
}

enum ckpt_status store_stat(struct store *s, const char *key, struct store_stat *ret,
                            struct ckpt_err *err)
{
    enum ckpt_status st = begin(s, "stat", key, false, err);
    return st != CKPT_OK ? st : end(s->ops->stat(s, key, ret, err), err);
}

/* A page is in order, under the prefix and behind `after`. */
static void check_page(const char *prefix, const char *after, const struct store_entry *entries,
                       size_t count)
{
    const char *before = after;
    for (size_t i = 0; i < count; i++) {
        assert(strncmp(entries[i].key, prefix, strlen(prefix)) == 0);
        assert(strcmp(entries[i].key, before) > 0);
        before = entries[i].key;
    }
}

enum ckpt_status store_list(struct store *s, const char *prefix, bool one_level, const char *after,
                            struct store_entry *entries, size_t cap, size_t *ret_count,
                            bool *ret_more, struct ckpt_err *err)
{
    assert(entries && cap > 0);
    if (!after)
        after = "";
    enum ckpt_status st = begin_prefix(s, "list", prefix, err);
    if (st != CKPT_OK)
        return st;
    size_t count;
    bool more;
    st = s->ops->list(s, prefix, one_level, after, entries, cap, &count, &more, err);
    if (st != CKPT_OK)
        return end(st, err);
    assert(count <= cap && (!more || count > 0));
    check_page(prefix, after, entries, count);
    *ret_count = count;
    *ret_more = more;
    return CKPT_OK;
}

enum ckpt_status store_remove(struct store *s, const char *key, struct ckpt_err *err)
{
    enum ckpt_status st = begin(s, "remove", key, true, err);
    return st != CKPT_OK ? st : end(s->ops->remove(s, key, err), err);
}

enum ckpt_status store_sync(struct store *s, const char *prefix, struct ckpt_err *err)
{
    enum ckpt_status st = begin_prefix(s, "sync", prefix, err);
    return st != CKPT_OK ? st : end(s->ops->sync(s, prefix, err), err);
}

enum ckpt_status store_now(struct store *s, int64_t *ret_ns, struct ckpt_err *err)
{
    enum ckpt_status st = store_check(s, "ask the time", err);
    return st != CKPT_OK ? st : end(s->ops->now(s, ret_ns, err), err);
}

void store_to_text(const struct store *s, char *buf, size_t cap)
{
    s->ops->to_text(s, buf, cap);
}
