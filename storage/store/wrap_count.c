/* Counts calls, bytes and errors of the store below.  Bytes are counted when the
 * call succeeded, calls always. */
#include "storage/store/wrap.h"
#include "storage/store/wrap_pass.h"

struct wrap_count {
    struct wrap wrap;
    struct store_counts *counts; /* shared with dups and the caller; atomic */
};

static struct store_counts *counts_of(struct store *s)
{
    return ((struct wrap_count *)s)->counts;
}

static enum ckpt_status counted(struct store *s, _Atomic uint64_t *calls, enum ckpt_status st)
{
    atomic_fetch_add(calls, 1);
    if (st != CKPT_OK)
        atomic_fetch_add(&counts_of(s)->errors, 1);
    return st;
}

static enum ckpt_status count_put(struct store *s, const char *key, const struct iovec *iov,
                                  int count, unsigned flags, struct ckpt_err *err)
{
    enum ckpt_status st = wrap_pass_put(s, key, iov, count, flags, err);
    if (st == CKPT_OK)
        atomic_fetch_add(&counts_of(s)->put_bytes, store_iov_bytes(iov, count));
    return counted(s, &counts_of(s)->puts, st);
}

static enum ckpt_status count_get(struct store *s, const char *key,
                                  const struct store_range *ranges, size_t count,
                                  struct ckpt_err *err)
{
    enum ckpt_status st = wrap_pass_get(s, key, ranges, count, err);
    for (size_t i = 0; i < count && st == CKPT_OK; i++)
        atomic_fetch_add(&counts_of(s)->get_bytes, ranges[i].bytes);
    if (st == CKPT_OK)
        atomic_fetch_add(&counts_of(s)->get_ranges, count);
    return counted(s, &counts_of(s)->gets, st);
}

/* One call, whatever the store below makes of it. */
static enum ckpt_status count_get_all(struct store *s, const char *key, size_t max, void **ret,
                                      size_t *ret_len, struct ckpt_err *err)
{
    enum ckpt_status st = wrap_pass_get_all(s, key, max, ret, ret_len, err);
    if (st == CKPT_OK) {
        atomic_fetch_add(&counts_of(s)->get_bytes, *ret_len);
        atomic_fetch_add(&counts_of(s)->get_ranges, 1);
    }
    return counted(s, &counts_of(s)->gets, st);
}

static enum ckpt_status count_stat(struct store *s, const char *key, struct store_stat *ret,
                                   struct ckpt_err *err)
{
    return counted(s, &counts_of(s)->stats, wrap_pass_stat(s, key, ret, err));
}

static enum ckpt_status count_list(struct store *s, const char *prefix, bool one_level,
                                   const char *after, struct store_entry *entries, size_t cap,
                                   size_t *ret_count, bool *ret_more, struct ckpt_err *err)
{
    return counted(
        s, &counts_of(s)->lists,
        wrap_pass_list(s, prefix, one_level, after, entries, cap, ret_count, ret_more, err));
}

static enum ckpt_status count_remove(struct store *s, const char *key, struct ckpt_err *err)
{
    return counted(s, &counts_of(s)->removes, wrap_pass_remove(s, key, err));
}

static enum ckpt_status count_sync(struct store *s, const char *prefix, struct ckpt_err *err)
{
    return counted(s, &counts_of(s)->syncs, wrap_pass_sync(s, prefix, err));
}

static enum ckpt_status count_dup(const struct store *s, struct store **ret, struct ckpt_err *err)
{
    const struct wrap_count *w = (const struct wrap_count *)s;
    struct store *inner;
    enum ckpt_status st = store_dup(w->wrap.inner, &inner, err);
    if (st != CKPT_OK)
        return st;
    st = wrap_count(inner, w->counts, ret, err);
    if (st != CKPT_OK)
        store_close(inner);
    return st;
}

static const struct store_ops count_ops = {
    .scheme = "count",
    .put = count_put,
    .get = count_get,
    .get_all = count_get_all,
    .stat = count_stat,
    .list = count_list,
    .remove = count_remove,
    .sync = count_sync,
    .now = wrap_pass_now,
    .dup = count_dup,
    .to_text = wrap_pass_to_text,
    .close = wrap_pass_close,
};

enum ckpt_status wrap_count(struct store *inner, struct store_counts *counts, struct store **ret,
                            struct ckpt_err *err)
{
    struct wrap *w;
    enum ckpt_status st = wrap_new(sizeof(struct wrap_count), &count_ops, inner, &w, err);
    if (st != CKPT_OK)
        return st;
    ((struct wrap_count *)w)->counts = counts;
    *ret = &w->base;
    return CKPT_OK;
}
