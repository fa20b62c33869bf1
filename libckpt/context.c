/* Contexts: entering a call, errors of a thread, the table of operations, open, close. */
#include "libckpt/context.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <time.h>

#define OPEN_TIMEOUT_MS 600000

static _Thread_local struct ckpt_err last_error;

const char *ckpt_error(void)
{
    return err_text(&last_error);
}

void lib_clear_error(void)
{
    last_error.status = CKPT_OK;
    last_error.text[0] = 0;
}

enum ckpt_status lib_fail(const struct ckpt_err *err)
{
    last_error = *err;
    return err->status;
}

int64_t lib_now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

enum ckpt_status lib_enter(struct ckpt *c)
{
    struct ckpt_err err = { 0 };
    lib_clear_error();
    if (!c)
        err_set(&err, CKPT_INVALID, "the context is NULL");
    else if (c->pid != getpid())
        err_set(&err, CKPT_WRONG_STATE,
                "this context was opened by process %d and does not survive fork(): open one in "
                "process %d",
                (int)c->pid, (int)getpid());
    if (err.status != CKPT_OK)
        return lib_fail(&err);
    pthread_mutex_lock(&c->lock);
    if (c->shared.broken)
        err = c->shared.err;
    pthread_mutex_unlock(&c->lock);
    return err.status == CKPT_OK ? CKPT_OK : lib_fail(&err);
}

bool lib_wait_changed(struct ckpt *c, int64_t deadline_ns)
{
    struct timespec until = { .tv_sec = deadline_ns / 1000000000,
                              .tv_nsec = deadline_ns % 1000000000 };
    return pthread_cond_timedwait(&c->changed, &c->lock, &until) != ETIMEDOUT;
}

void lib_op_end(struct ckpt *c, struct lib_op *op, enum ckpt_status st, const char *text)
{
    if (op->final)
        return;
    op->final = true;
    op->begun = true;
    op->copied = true;
    op->status = st;
    snprintf(op->text, sizeof(op->text), "%s", text);
    if (op->state && op->state->shared.copying == op->id)
        op->state->shared.copying = 0;
    if (op->load)
        return;
    if (st == CKPT_OK) {
        c->shared.info.saves_committed++;
        c->shared.info.last_step_committed = op->step;
    } else {
        c->shared.info.saves_failed++;
    }
}

void lib_break(struct ckpt *c, const struct ckpt_err *err)
{
    if (!c->shared.broken) {
        c->shared.broken = true;
        c->shared.err = *err;
    }
    for (size_t i = 0; i < LIB_OPS; i++)
        if (c->shared.ops[i].id)
            lib_op_end(c, &c->shared.ops[i], err->status, err_text(err));
    pthread_cond_broadcast(&c->changed);
}

struct lib_op *lib_op_find(struct ckpt *c, uint64_t id)
{
    struct lib_op *op = &c->shared.ops[id % LIB_OPS];
    return id && op->id == id ? op : NULL;
}

struct lib_op *lib_op_new(struct ckpt *c, struct ckpt_state *s, bool load)
{
    uint64_t id = c->shared.next_op++;
    struct lib_op *op = &c->shared.ops[id % LIB_OPS];
    *op = (struct lib_op){ .id = id, .state = s, .load = load, .begun_ns = lib_now_ns() };
    return op;
}

/* Copies the options; the caller's struct may be shorter or longer than ours. */
static enum ckpt_status read_opts(const struct ckpt_open_opts *given, struct ckpt_open_opts *ret,
                                  struct ckpt_err *err)
{
    if (!given || given->size < offsetof(struct ckpt_open_opts, timeout_ms))
        return err_set(err, CKPT_INVALID,
                       "options: set .size = sizeof(struct ckpt_open_opts) and the fields");
    memset(ret, 0, sizeof(*ret));
    memcpy(ret, given, given->size < sizeof(*ret) ? given->size : sizeof(*ret));
    if (ret->mode != CKPT_TRAIN && ret->mode != CKPT_READ)
        return err_set(err, CKPT_INVALID, "options: mode is CKPT_TRAIN or CKPT_READ");
    if (!ret->job)
        return err_set(err, CKPT_INVALID, "options: job is not set");
    enum ckpt_status st = job_name_check(ret->job, err);
    if (st != CKPT_OK)
        return st;
    if (ret->world == 0)
        ret->world = 1;
    if (ret->world > CKPT_RANKS_MAX || ret->rank >= ret->world)
        return err_set(err, CKPT_INVALID,
                       "rank %u of world %u: ranks are 0 .. world - 1, world <= %u", ret->rank,
                       ret->world, CKPT_RANKS_MAX);
    if (ret->timeout_ms < 0)
        return err_set(err, CKPT_INVALID, "timeout_ms is negative: nothing here waits for ever");
    if (ret->timeout_ms == 0)
        ret->timeout_ms = OPEN_TIMEOUT_MS;
    return CKPT_OK;
}

static const char *or_env(const char *value, const char *name)
{
    const char *env = value ? value : getenv(name); // NOLINT(concurrency-mt-unsafe): read once
    return env && env[0] ? env : NULL;
}

/* The strings of a context; a private daemon's store must be named. */
static enum ckpt_status take_strings(struct ckpt *c, const struct ckpt_open_opts *o,
                                     struct ckpt_err *err)
{
    const char *store = or_env(o->store, "CKPT_STORE");
    const char *sock = or_env(o->socket, "CKPT_SOCKET");
    const char *resume = or_env(o->resume, "CKPT_RESUME");
    if (!store && !sock)
        return err_set(err, CKPT_INVALID,
                       "no store: set .store or CKPT_STORE to a directory, or .socket or "
                       "CKPT_SOCKET to a running ckptd");
    c->job = strdup(o->job);
    c->store = store ? strdup(store) : NULL;
    c->socket = sock ? strdup(sock) : NULL;
    c->resume = strdup(resume ? resume : "");
    if (!c->job || (store && !c->store) || (sock && !c->socket) || !c->resume)
        return err_set(err, CKPT_NO_MEMORY, "open: out of memory");
    if (o->mode == CKPT_READ) {
        c->launch = strdup("");
        return c->launch ? CKPT_OK : err_set(err, CKPT_NO_MEMORY, "open: out of memory");
    }
    return connect_launch(o, &c->launch, err);
}

static enum ckpt_status context_init(struct ckpt *c, const struct ckpt_open_opts *o,
                                     struct ckpt_err *err)
{
    pthread_condattr_t attr;
    pthread_mutex_init(&c->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&c->changed, &attr);
    pthread_condattr_destroy(&attr);
    c->pid = getpid();
    c->fd = -1;
    c->mode = o->mode;
    c->rank = o->rank;
    c->world = o->world;
    c->timeout_ms = o->timeout_ms;
    c->arena_want = o->arena_bytes;
    c->hello_flags = o->flags & CKPT_OPEN_SOLO ? WIRE_HELLO_SOLO : 0;
    c->shared.next_seq = 1;
    c->shared.next_op = 1;
    c->shared.next_state = 1;
    c->shared.outs_tail = &c->shared.outs;
    c->shared.info.last_step_committed = UINT64_MAX;
    c->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (c->wake_fd < 0)
        return err_errno(err, errno, "open: eventfd");
    if (getrandom(c->session, sizeof(c->session), 0) != (ssize_t)sizeof(c->session))
        return err_errno(err, errno, "open: getrandom");
    c->in = malloc(sizeof(*c->in));
    c->out = malloc(sizeof(*c->out));
    c->compose = malloc(sizeof(*c->compose));
    if (!c->in || !c->out || !c->compose)
        return err_set(err, CKPT_NO_MEMORY, "open: out of memory");
    return gpu_host_new(&c->gpu, err);
}

static void context_free(struct ckpt *c)
{
    while (c->shared.states) {
        struct ckpt_state *s = c->shared.states;
        c->shared.states = s->next;
        state_free_memory(s);
        free(s);
    }
    client_drop_queue(c);
    if (c->gpu)
        c->gpu->ops->free(c->gpu);
    if (c->fd >= 0)
        close(c->fd);
    if (c->wake_fd >= 0)
        close(c->wake_fd);
    pthread_cond_destroy(&c->changed);
    pthread_mutex_destroy(&c->lock);
    free(c->in);
    free(c->out);
    free(c->compose);
    free(c->job);
    free(c->store);
    free(c->socket);
    free(c->launch);
    free(c->resume);
    free(c);
}

static enum ckpt_status open_context(struct ckpt *c, const struct ckpt_open_opts *o,
                                     struct ckpt_err *err)
{
    int64_t deadline = lib_now_ns() + (int64_t)o->timeout_ms * 1000000;
    enum ckpt_status st = take_strings(c, o, err);
    if (st == CKPT_OK)
        st = connect_daemon(c, deadline, err);
    if (st == CKPT_OK)
        st = client_hello(c, false, deadline, err);
    if (st == CKPT_OK)
        st = transfer_start(c, err);
    return st;
}

enum ckpt_status ckpt_open(const struct ckpt_open_opts *opts, struct ckpt **ret)
{
    struct ckpt_err err = { 0 };
    struct ckpt_open_opts o;
    lib_clear_error();
    if (!ret) {
        err_set(&err, CKPT_INVALID, "ckpt_open: ret is NULL");
        return lib_fail(&err);
    }
    if (read_opts(opts, &o, &err) != CKPT_OK)
        return lib_fail(&err);
    struct ckpt *c = calloc(1, sizeof(*c));
    if (!c) {
        err_set(&err, CKPT_NO_MEMORY, "open: out of memory");
        return lib_fail(&err);
    }
    c->wake_fd = -1;
    enum ckpt_status st = context_init(c, &o, &err);
    if (st == CKPT_OK)
        st = open_context(c, &o, &err);
    if (st != CKPT_OK) {
        err.status = st;
        context_free(c);
        return lib_fail(&err);
    }
    *ret = c;
    return CKPT_OK;
}

void ckpt_close(struct ckpt *c)
{
    if (!c)
        return;
    if (c->pid == getpid())
        transfer_stop(c);
    else
        c->fd = -1; /* the parent's connection: the child must not say anything on it */
    context_free(c);
}

enum ckpt_status ckpt_resume(struct ckpt *c, struct ckpt_point *ret)
{
    enum ckpt_status st = lib_enter(c);
    if (st != CKPT_OK)
        return st;
    struct ckpt_err err = { 0 };
    if (!ret || ret->size < sizeof(*ret)) {
        err_set(&err, CKPT_INVALID, "ckpt_resume: set .size of the point");
        return lib_fail(&err);
    }
    pthread_mutex_lock(&c->lock);
    bool has = c->shared.ok_flags & WIRE_HAS_POINT;
    if (has) {
        ret->step = c->shared.point.step;
        ret->epoch = c->shared.point.epoch;
        ret->attempt = c->shared.point.attempt;
    } else {
        err_set(&err, CKPT_NOT_FOUND, "%s",
                c->shared.why[0] ? c->shared.why : "the job has no checkpoint yet");
    }
    pthread_mutex_unlock(&c->lock);
    return has ? CKPT_OK : lib_fail(&err);
}

enum ckpt_status ckpt_progress(struct ckpt *c, uint64_t step)
{
    enum ckpt_status st = lib_enter(c);
    if (st != CKPT_OK || c->mode != CKPT_TRAIN)
        return st;
    struct ckpt_err err = { 0 };
    pthread_mutex_lock(&c->lock);
    bool beyond = !(c->shared.ok_flags & WIRE_HAS_POINT) || step > c->shared.point.step;
    if (beyond && !c->shared.progress_sent) {
        struct wire_progress body = { .step = step };
        wire_begin(c->compose, WIRE_PROGRESS, &body);
        st = client_queue(c, c->compose, -1);
        c->shared.progress_sent = st == CKPT_OK;
    }
    pthread_mutex_unlock(&c->lock);
    if (st != CKPT_OK) {
        err_set(&err, st, "ckpt_progress: out of memory");
        return lib_fail(&err);
    }
    return CKPT_OK;
}

enum ckpt_status ckpt_info(struct ckpt *c, struct ckpt_info *ret)
{
    enum ckpt_status st = lib_enter(c);
    if (st != CKPT_OK)
        return st;
    if (!ret || ret->size < sizeof(*ret)) {
        struct ckpt_err err = { 0 };
        err_set(&err, CKPT_INVALID, "ckpt_info: set .size = sizeof(struct ckpt_info)");
        return lib_fail(&err);
    }
    size_t size = ret->size;
    pthread_mutex_lock(&c->lock);
    *ret = c->shared.info;
    ret->size = size;
    ret->epoch = c->shared.epoch;
    ret->scoped = (c->shared.ok_flags & WIRE_STAGED_IS_PROCESS) != 0;
    ret->private_daemon = c->private_daemon;
    snprintf(ret->why, sizeof(ret->why), "%s", c->shared.why);
    pthread_mutex_unlock(&c->lock);
    return CKPT_OK;
}

enum ckpt_class ckpt_status_class(enum ckpt_status st)
{
    return status_class(st);
}

const char *ckpt_status_name(enum ckpt_status st)
{
    return status_name(st);
}

const char *ckpt_version(void)
{
    return CKPT_VERSION;
}
