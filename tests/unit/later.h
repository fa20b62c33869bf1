/* A store over another one, whose clock is ahead. */
#pragma once

#include "storage/store/wrap_pass.h"

#include "check.h"

struct later {
    struct wrap wrap;
    int64_t by_ns;
};

static enum ckpt_status later_now(struct store *s, int64_t *ret_ns, struct ckpt_err *err)
{
    enum ckpt_status st = wrap_pass_now(s, ret_ns, err);
    *ret_ns += ((const struct later *)s)->by_ns;
    return st;
}

/* Takes the inner store; the caller closes what is returned. */
static inline struct store *store_later(struct store *inner, int64_t by_ns)
{
    static const struct store_ops ops = { .scheme = "later",
                                          .put = wrap_pass_put,
                                          .get = wrap_pass_get,
                                          .get_all = wrap_pass_get_all,
                                          .stat = wrap_pass_stat,
                                          .list = wrap_pass_list,
                                          .remove = wrap_pass_remove,
                                          .sync = wrap_pass_sync,
                                          .now = later_now,
                                          .to_text = wrap_pass_to_text,
                                          .close = wrap_pass_close };
    struct wrap *w;
    CHECK_OK(wrap_new(sizeof(struct later), &ops, inner, &w, NULL));
    ((struct later *)w)->by_ns = by_ns;
    return &w->base;
}
