/* Threads that take the next number until there is none. */
#include "storage/repo/spread.h"

#include <pthread.h>

struct spread {
    size_t count;
    enum ckpt_status (*each)(void *arg, struct store *s, size_t i, struct ckpt_err *err);
    void *arg;
    atomic_size_t next;
    atomic_bool failed;
};
/* One thread's; read by the caller after it was joined. */
struct share {
    struct spread *spread;
    struct store *s; /* owned, but for the caller's own share */
    pthread_t thread;
    enum ckpt_status status;
    struct ckpt_err err;
};

static void *work(void *arg)
{
    struct share *share = arg;
    struct spread *all = share->spread;
    while (!atomic_load(&all->failed)) {
        size_t i = atomic_fetch_add(&all->next, 1);
        if (i >= all->count)
            break;
        share->status = all->each(all->arg, share->s, i, &share->err);
        if (share->status != CKPT_OK)
            atomic_store(&all->failed, true);
    }
    return NULL;
}

/* False: the others do its work. */
static bool start(struct spread *all, const struct store *s, struct share *share)
{
    *share = (struct share){ .spread = all };
    if (store_dup(s, &share->s, NULL) != CKPT_OK)
        return false;
    store_set_limits(share->s, s->deadline_ns, s->cancel);
    if (pthread_create(&share->thread, NULL, work, share) == 0)
        return true;
    store_close(share->s);
    return false;
}

enum ckpt_status spread_run(struct store *s, unsigned threads, size_t count,
                            enum ckpt_status (*each)(void *arg, struct store *s, size_t i,
                                                     struct ckpt_err *err),
                            void *arg, struct ckpt_err *err)
{
    struct spread all = { .count = count, .each = each, .arg = arg };
    struct share shares[SPREAD_THREADS_MAX];
    size_t started = 1;
    threads = (unsigned)min_u64(min_u64(threads, SPREAD_THREADS_MAX), count);
    shares[0] = (struct share){ .spread = &all, .s = s };
    while (started < threads && start(&all, s, &shares[started]))
        started++;
    work(&shares[0]);
    for (size_t i = 1; i < started; i++) {
        pthread_join(shares[i].thread, NULL);
        store_close(shares[i].s);
    }
    for (size_t i = 0; i < started; i++)
        if (shares[i].status != CKPT_OK)
            return err_set(err, shares[i].status, "%s", err_text(&shares[i].err));
    return CKPT_OK;
}
