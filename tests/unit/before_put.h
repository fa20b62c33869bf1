/* A store over another one, in which something happens just before an object is put: what others
 * do in that very moment. */
#pragma once

#include "storage/store/wrap_pass.h"

#include "check.h"

/* under: the store without this one. */
typedef void before_put_fn(void *arg, struct store *under, const char *key);

struct before_put {
    struct wrap wrap;
    before_put_fn *happens;
    void *arg;
};

static enum ckpt_status before_put_put(struct store *s, const char *key, const struct iovec *iov,
                                       int count, unsigned flags, struct ckpt_err *err)
{
    struct before_put *b = (struct before_put *)s;
    b->happens(b->arg, b->wrap.inner, key);
    return wrap_pass_put(s, key, iov, count, flags, err);
}

/* arg: borrowed.  The caller closes it. */
static inline struct store *before_put(const struct store *s, before_put_fn *happens, void *arg)
{
    static const struct store_ops ops = { .scheme = "before put",
                                          .put = before_put_put,
                                          .get = wrap_pass_get,
                                          .get_all = wrap_pass_get_all,
                                          .stat = wrap_pass_stat,
                                          .list = wrap_pass_list,
                                          .remove = wrap_pass_remove,
                                          .sync = wrap_pass_sync,
                                          .now = wrap_pass_now,
                                          .to_text = wrap_pass_to_text,
                                          .close = wrap_pass_close };
    struct store *inner;
    struct wrap *w;
    CHECK_OK(store_dup(s, &inner, NULL));
    CHECK_OK(wrap_new(sizeof(struct before_put), &ops, inner, &w, NULL));
    ((struct before_put *)w)->happens = happens;
    ((struct before_put *)w)->arg = arg;
    return &w->base;
}
