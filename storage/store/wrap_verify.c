/* Reads every object back after its put and compares it with what was given. */
#include "storage/store/wrap.h"
#include "storage/store/wrap_pass.h"

#define PART_BYTES (UINT64_C(1) << 20)

static enum ckpt_status differs(struct store *s, const char *key, struct ckpt_err *err)
{
    return err_set(err, CKPT_CORRUPT,
                   "put %s: %s gives back other bytes than it was given; do not trust this store",
                   key, s->url);
}

static enum ckpt_status read_back(struct store *s, const char *key, const struct iovec *iov,
                                  int count, struct ckpt_err *err)
{
    struct store_stat stat;
    enum ckpt_status st = wrap_pass_stat(s, key, &stat, err);
    if (st != CKPT_OK)
        return st;
    if (stat.bytes != store_iov_bytes(iov, count))
        return differs(s, key, err);
    CLEANUP_FREE void *part = malloc(PART_BYTES);
    if (!part)
        return err_set(err, CKPT_NO_MEMORY, "no memory to verify %s", key);
    for (uint64_t at = 0; at < stat.bytes; at += PART_BYTES) {
        uint64_t bytes = min_u64(PART_BYTES, stat.bytes - at);
        struct store_range range = { .offset = at, .bytes = bytes, .base = part };
        st = wrap_pass_get(s, key, &range, 1, err);
        if (st != CKPT_OK)
            return st;
        if (!store_iov_equal(iov, count, at, part, bytes))
            return differs(s, key, err);
    }
    return CKPT_OK;
}

static enum ckpt_status verify_put(struct store *s, const char *key, const struct iovec *iov,
                                   int count, unsigned flags, struct ckpt_err *err)
{
    enum ckpt_status st = wrap_pass_put(s, key, iov, count, flags, err);
    return st != CKPT_OK ? st : read_back(s, key, iov, count, err);
}

static enum ckpt_status verify_dup(const struct store *s, struct store **ret, struct ckpt_err *err)
{
    struct store *inner;
    enum ckpt_status st = store_dup(((const struct wrap *)s)->inner, &inner, err);
    if (st != CKPT_OK)
        return st;
    st = wrap_verify(inner, ret, err);
    if (st != CKPT_OK)
        store_close(inner);
    return st;
}

static const struct store_ops verify_ops = {
    .scheme = "verify",
    .put = verify_put,
    .get = wrap_pass_get,
    .stat = wrap_pass_stat,
    .list = wrap_pass_list,
    .remove = wrap_pass_remove,
    .sync = wrap_pass_sync,
    .now = wrap_pass_now,
    .dup = verify_dup,
    .to_text = wrap_pass_to_text,
    .close = wrap_pass_close,
};

enum ckpt_status wrap_verify(struct store *inner, struct store **ret, struct ckpt_err *err)
{
    struct wrap *w;
    enum ckpt_status st = wrap_new(sizeof(*w), &verify_ops, inner, &w, err);
    if (st != CKPT_OK)
        return st;
    *ret = &w->base;
    return CKPT_OK;
}
