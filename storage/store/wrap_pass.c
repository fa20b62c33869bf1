/* The part of a wrapper that changes nothing: every call goes to the store below. */
#include "storage/store/wrap_pass.h"

#include <stdio.h>

enum ckpt_status wrap_new(size_t bytes, const struct store_ops *ops, struct store *inner,
                          struct wrap **ret, struct ckpt_err *err)
{
    CLEANUP_FREE struct wrap *w = calloc(1, bytes);
    if (!w)
        return err_set(err, CKPT_NO_MEMORY, "no memory to wrap %s", inner->url);
    enum ckpt_status st = store_base_init(&w->base, ops, inner->url, err);
    if (st != CKPT_OK)
        return st;
    w->base.readonly = inner->readonly;
    store_set_limits(&w->base, inner->deadline_ns, inner->cancel);
    w->inner = inner;
    *ret = TAKE_PTR(w);
    return CKPT_OK;
}

struct store *wrap_inner(struct store *s)
{
    struct store *inner = ((struct wrap *)s)->inner;
    store_set_limits(inner, s->deadline_ns, s->cancel);
    return inner;
}

enum ckpt_status wrap_pass_put(struct store *s, const char *key, const struct iovec *iov, int count,
                               unsigned flags, struct ckpt_err *err)
{
    return store_put(wrap_inner(s), key, iov, count, flags, err);
}

enum ckpt_status wrap_pass_get(struct store *s, const char *key, const struct store_range *ranges,
                               size_t count, struct ckpt_err *err)
{
    return store_get(wrap_inner(s), key, ranges, count, err);
}

enum ckpt_status wrap_pass_get_all(struct store *s, const char *key, size_t max, void **ret,
                                   size_t *ret_len, struct ckpt_err *err)
{
    return store_get_all(wrap_inner(s), key, max, ret, ret_len, err);
}

enum ckpt_status wrap_pass_stat(struct store *s, const char *key, struct store_stat *ret,
                                struct ckpt_err *err)
{
    return store_stat(wrap_inner(s), key, ret, err);
}

enum ckpt_status wrap_pass_list(struct store *s, const char *prefix, bool one_level,
                                const char *after, struct store_entry *entries, size_t cap,
                                size_t *ret_count, bool *ret_more, struct ckpt_err *err)
{
    return store_list(wrap_inner(s), prefix, one_level, after, entries, cap, ret_count, ret_more,
                      err);
}

enum ckpt_status wrap_pass_remove(struct store *s, const char *key, struct ckpt_err *err)
{
    return store_remove(wrap_inner(s), key, err);
}

enum ckpt_status wrap_pass_sync(struct store *s, const char *prefix, struct ckpt_err *err)
{
    return store_sync(wrap_inner(s), prefix, err);
}

enum ckpt_status wrap_pass_now(struct store *s, int64_t *ret_ns, struct ckpt_err *err)
{
    return store_now(wrap_inner(s), ret_ns, err);
}

void wrap_pass_to_text(const struct store *s, char *buf, size_t cap)
{
    int n = snprintf(buf, cap, "%s over ", s->ops->scheme);
    if (n >= 0 && (size_t)n < cap)
        store_to_text(((const struct wrap *)s)->inner, buf + n, cap - (size_t)n);
}

void wrap_pass_close(struct store *s)
{
    store_close(((struct wrap *)s)->inner);
    store_base_fini(s);
    free(s);
}
