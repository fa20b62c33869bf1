/* Threads, one lock, three lists. */
#include "storage/crew.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>

struct job_list {
    struct crew_job *first, **last;
    size_t count;
};
struct crew {
    struct crew_options options;
    char name[12];
    pthread_t *threads;
    unsigned started;
    pthread_mutex_t lock;
    pthread_cond_t changed; /* jobs came, the end came, a thread is ready */
    struct {
        struct job_list ahead, queue, done;
        unsigned ready;
        bool ending, failed;
        struct ckpt_err err;
    } shared; /* under lock */
};

static void list_add(struct job_list *l, struct crew_job *job)
{
    job->next = NULL;
    *l->last = job;
    l->last = &job->next;
    l->count++;
}

static struct crew_job *list_take(struct job_list *l)
{
    struct crew_job *job = l->first;
    if (!job)
        return NULL;
    l->first = job->next;
    if (!l->first)
        l->last = &l->first;
    l->count--;
    return job;
}

static struct crew_job *take_next(struct crew *c)
{
    struct crew_job *job = list_take(&c->shared.ahead);
    return job ? job : list_take(&c->shared.queue);
}

static void report_done(struct crew *c, struct crew_job *job)
{
    const uint64_t one = 1;
    list_add(&c->shared.done, job);
    ssize_t n;
    do
        n = write(c->options.event_fd, &one, sizeof(one));
    while (n < 0 && errno == EINTR);
}

static void run_jobs(struct crew *c, void *work)
{
    pthread_mutex_lock(&c->lock);
    while (!c->shared.ending) {
        struct crew_job *job = take_next(c);
        if (!job) {
            pthread_cond_wait(&c->changed, &c->lock);
            continue;
        }
        pthread_mutex_unlock(&c->lock);
        job->run(job, work);
        pthread_mutex_lock(&c->lock);
        report_done(c, job);
    }
    pthread_mutex_unlock(&c->lock);
}

static void *thread_main(void *arg)
{
    struct crew *c = arg;
    struct ckpt_err err = { 0 };
    pthread_setname_np(pthread_self(), c->name);
    (void)setpriority(PRIO_PROCESS, (id_t)gettid(), c->options.nice); /* a wish */
    void *work = c->options.work_new(c->options.arg, &err);
    pthread_mutex_lock(&c->lock);
    c->shared.ready++;
    if (!work) {
        c->shared.failed = true;
        c->shared.err = err;
    }
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
    if (work) {
        run_jobs(c, work);
        c->options.work_free(work);
    }
    return NULL;
}

/* Signals are the owner's: threads start with all of them blocked. */
static bool start_threads(struct crew *c)
{
    sigset_t all, before;
    sigfillset(&all);
    if (pthread_sigmask(SIG_SETMASK, &all, &before) != 0)
        return false;
    while (c->started < c->options.threads &&
           pthread_create(&c->threads[c->started], NULL, thread_main, c) == 0)
        c->started++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return c->started == c->options.threads;
}

enum ckpt_status crew_new(const struct crew_options *options, struct crew **ret,
                          struct ckpt_err *err)
{
    struct crew *c = calloc(1, sizeof(*c));
    if (!c)
        return err_set(err, CKPT_NO_MEMORY, "crew %s: out of memory", options->name);
    c->options = *options;
    snprintf(c->name, sizeof(c->name), "%s", options->name);
    c->shared.ahead.last = &c->shared.ahead.first;
    c->shared.queue.last = &c->shared.queue.first;
    c->shared.done.last = &c->shared.done.first;
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->changed, NULL);
    c->threads = calloc(options->threads, sizeof(*c->threads));
    bool started = c->threads && start_threads(c);
    pthread_mutex_lock(&c->lock);
    while (c->shared.ready < c->started)
        pthread_cond_wait(&c->changed, &c->lock);
    pthread_mutex_unlock(&c->lock);
    if (started && !c->shared.failed) {
        *ret = c;
        return CKPT_OK;
    }
    if (err && c->shared.failed)
        *err = c->shared.err;
    enum ckpt_status st = c->shared.failed && c->shared.err.status != CKPT_OK
                              ? c->shared.err.status
                              : err_set(err, CKPT_NO_MEMORY, "crew %s: cannot start %u threads",
                                        options->name, options->threads);
    crew_free(c);
    return st;
}

void crew_submit(struct crew *c, struct crew_job *job)
{
    pthread_mutex_lock(&c->lock);
    list_add(job->ahead ? &c->shared.ahead : &c->shared.queue, job);
    pthread_cond_signal(&c->changed);
    pthread_mutex_unlock(&c->lock);
}

struct crew_job *crew_done(struct crew *c)
{
    pthread_mutex_lock(&c->lock);
    struct crew_job *job = list_take(&c->shared.done);
    pthread_mutex_unlock(&c->lock);
    return job;
}

size_t crew_waiting(struct crew *c)
{
    pthread_mutex_lock(&c->lock);
    size_t n = c->shared.ahead.count + c->shared.queue.count;
    pthread_mutex_unlock(&c->lock);
    return n;
}

void crew_free(struct crew *c)
{
    if (!c)
        return;
    pthread_mutex_lock(&c->lock);
    c->shared.ending = true;
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
    for (unsigned i = 0; i < c->started; i++)
        pthread_join(c->threads[i], NULL);
    pthread_cond_destroy(&c->changed);
    pthread_mutex_destroy(&c->lock);
    free(c->threads);
    free(c);
}
