/* Holds back puts to a rate, for all handles of one tier together.
 *
 * A bucket that may go into debt: whoever finds it in credit puts at once and pays
 * afterwards, the next one waits until the debt is paid.  So the mean rate holds over any
 * time longer than one object takes, and no object is refused for being large.  Small
 * objects (records) pay and do not wait: what decides is never behind what fills. */
#include "storage/store/wrap_throttle.h"

#include <time.h>

#include "storage/store/wrap_pass.h"

#define STEP_NS INT64_C(20000000) /* between two looks at deadline and cancel flag */

struct wrap_throttle {
    struct wrap wrap;
    struct store_throttle *throttle;
};

static int64_t now_ns(const struct store_throttle *t)
{
    if (t->now)
        return t->now(t->arg);
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static void sleep_ns(const struct store_throttle *t, int64_t ns)
{
    if (t->sleep)
        t->sleep(t->arg, ns);
    else
        nanosleep(&(struct timespec){ .tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000 },
                  NULL);
}

void store_throttle_set(struct store_throttle *t, uint64_t bytes_per_s)
{
    atomic_store(&t->bytes_per_s, bytes_per_s);
    atomic_store(&t->until_ns, 0);
    atomic_fetch_add(&t->changes, 1); /* last: who sees it sees the rest */
}

/* Pays for `bytes`: the time at which the bucket is in credit moves on.  *ret: that time as
 * it was before. */
static int64_t pay(struct store_throttle *t, uint64_t bytes, uint64_t rate, int64_t now)
{
    int64_t cost = (int64_t)((double)bytes / (double)rate * 1e9);
    int64_t until = atomic_load(&t->until_ns), from;
    do
        from = until > now ? until : now;
    while (!atomic_compare_exchange_weak(&t->until_ns, &until, from + cost));
    return from;
}

static enum ckpt_status throttle_put(struct store *s, const char *key, const struct iovec *iov,
                                     int count, unsigned flags, struct ckpt_err *err)
{
    struct store_throttle *t = ((struct wrap_throttle *)s)->throttle;
    uint64_t bytes = store_iov_bytes(iov, count);
    unsigned changes = atomic_load(&t->changes);
    uint64_t rate = atomic_load(&t->bytes_per_s);
    if (rate > 0) {
        int64_t begin = pay(t, bytes, rate, now_ns(t));
        for (int64_t left; bytes >= STORE_THROTTLE_LEAST && (left = begin - now_ns(t)) > 0 &&
                           changes == atomic_load(&t->changes);) {
            enum ckpt_status st = store_check(s, key, err);
            if (st != CKPT_OK)
                return st;
            sleep_ns(t, left < STEP_NS ? left : STEP_NS);
        }
    }
    return wrap_pass_put(s, key, iov, count, flags, err);
}

static enum ckpt_status throttle_dup(const struct store *s, struct store **ret,
                                     struct ckpt_err *err)
{
    const struct wrap_throttle *w = (const struct wrap_throttle *)s;
    struct store *inner;
    enum ckpt_status st = store_dup(w->wrap.inner, &inner, err);
    if (st == CKPT_OK) {
        st = wrap_throttle(inner, w->throttle, ret, err);
        if (st != CKPT_OK)
            store_close(inner);
    }
    return st;
}

static const struct store_ops throttle_ops = {
    .scheme = "throttle",
    .put = throttle_put,
    .get = wrap_pass_get,
    .get_all = wrap_pass_get_all,
    .stat = wrap_pass_stat,
    .list = wrap_pass_list,
    .remove = wrap_pass_remove,
    .sync = wrap_pass_sync,
    .now = wrap_pass_now,
    .dup = throttle_dup,
    .to_text = wrap_pass_to_text,
    .close = wrap_pass_close,
};

enum ckpt_status wrap_throttle(struct store *inner, struct store_throttle *throttle,
                               struct store **ret, struct ckpt_err *err)
{
    struct wrap *w;
    enum ckpt_status st = wrap_new(sizeof(struct wrap_throttle), &throttle_ops, inner, &w, err);
    if (st != CKPT_OK)
        return st;
    ((struct wrap_throttle *)w)->throttle = throttle;
    *ret = &w->base;
    return CKPT_OK;
}
