/* Contexts: entering a call, errors of a thread, the table of operations, open, close. */
#include "libckpt/context.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <time.h>

#define OPEN_TIMEOUT_MS 600000
#define OPEN_TRIES      3 /* HELLOs lost with a worker that died */
#ifndef LINK_PATIENCE_NS  /* a test may be less patient */
#define LINK_PATIENCE_NS INT64_C(10000000000)
#endif

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

enum ckpt_status lib_enter_state(struct ckpt_state *s)
{
    struct ckpt_err err = { 0 };
    if (s)
        return lib_enter(s->ctx);
    lib_clear_error();
    err_set(&err, CKPT_INVALID, "the state is NULL");
    return lib_fail(&err);
}

enum ckpt_status lib_enter_wait(struct ckpt *c, int timeout_ms)
{
    struct ckpt_err err = { 0 };
    lib_clear_error();
    if (!c || c->pid != getpid())
        return lib_enter(c);
    if (timeout_ms >= 0)
        return CKPT_OK;
    err_set(&err, CKPT_INVALID, "negative timeout: nothing here waits for ever");
    return lib_fail(&err);
}

enum ckpt_status lib_take_struct(void *ret, size_t ours, const void *from, size_t least,
                                 const char *what, struct ckpt_err *err)
{
    size_t size = 0;
    if (from)
        memcpy(&size, from, sizeof(size));
    if (size < least)
        return err_set(err, CKPT_INVALID, "set .size = sizeof(struct %s)%s", what,
                       from ? "" : " (it is NULL)");
    for (size_t i = ours; i < size; i++)
        if (((const uint8_t *)from)[i])
            return err_set(
                err, CKPT_UNSUPPORTED,
                "struct %s uses a field that this libckpt (" CKPT_VERSION ") does not know", what);
    memset(ret, 0, ours);
    memcpy(ret, from, size < ours ? size : ours);
    return CKPT_OK;
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
    if (st != CKPT_OK && !op->committed)
        c->shared.info.saves_failed++;
}

void lib_op_give_up(struct ckpt *c, struct lib_op *op, enum ckpt_status st, const char *text)
{
    if (op->final)
        return;
    lib_op_end(c, op, st, text);
    if (op->load) {
        struct wire_cancel cancel = { .op = op->id };
        wire_begin(c->compose, WIRE_CANCEL, &cancel);
    } else {
        struct wire_fail fail = { .op = op->id, .status = st };
        wire_begin(c->compose, WIRE_FAIL, &fail);
        wire_tail(c->compose, op->text, strlen(op->text));
    }
    op->told = client_queue(c, c->compose, -1) == CKPT_OK; /* else the daemon's deadline ends it */
    pthread_cond_broadcast(&c->changed);
}

int64_t lib_patience(const struct ckpt *c, bool final, int64_t deadline_ns)
{
    int64_t until = c->shared.unlinked_ns + LINK_PATIENCE_NS;
    if (c->shared.linked || final || until > deadline_ns)
        return deadline_ns;
    return until;
}

enum ckpt_status lib_op_wait(struct ckpt *c, struct lib_op *op, bool final, int64_t deadline_ns,
                             struct ckpt_err *err)
{
    while (!op->final && (final || !op->begun)) {
        int64_t until = lib_patience(c, final, deadline_ns);
        if (lib_wait_changed(c, until) || op->final || (!final && op->begun) ||
            lib_now_ns() < lib_patience(c, final, deadline_ns))
            continue;
        if (c->shared.linked)
            lib_op_give_up(c, op, CKPT_TIMEOUT,
                           op->load ? "restore: not done within the time limit"
                                    : "save: ckptd did not answer in time");
        else
            lib_op_give_up(c, op, CKPT_DAEMON_GONE, "ckptd is gone and has not come back yet");
    }
    if (op->final && op->status != CKPT_OK)
        return err_set(err, op->status, "%s", op->text);
    return CKPT_OK;
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

enum ckpt_status lib_guarded(struct ckpt *c, guard_call call, void *arg, struct ckpt_err *err)
{
    enum ckpt_status st = guard_run(call, arg, err);
    if (st != CKPT_BUG)
        return st;
    pthread_mutex_lock(&c->lock);
    lib_break(c, err);
    pthread_mutex_unlock(&c->lock);
    return st;
}

bool lib_assert_failed(struct ckpt *c, const char *what, const char *file, int line)
{
    struct ckpt_err err = { 0 };
    err_set(&err, CKPT_BUG, "internal error at %s:%d: %s does not hold", file, line, what);
    lib_break(c, &err);
    return false;
}

struct lib_op *lib_op_find(struct ckpt *c, uint64_t id)
{
    struct lib_op *op = &c->shared.ops[id % LIB_OPS];
    return id && op->id == id ? op : NULL;
}

struct lib_op *lib_op_new(struct ckpt *c, struct ckpt_state *s, bool load)
{
    /* What still uses a caller's memory, or has a caller waiting, keeps its place.  There
     * are at most LIB_STATES_MAX copies, and a waiter for each. */
    struct lib_op *op = &c->shared.ops[c->shared.next_op % LIB_OPS];
    for (int i = 0; i < LIB_OPS && op->id && (op->held || !op->copied); i++)
        op = &c->shared.ops[++c->shared.next_op % LIB_OPS];
    uint64_t id = c->shared.next_op++;
    *op = (struct lib_op){
        .id = id, .state = s, .load = load, .held = true, .begun_ns = lib_now_ns()
    };
    return op;
}

/* Copies the options; the caller's struct may be shorter or longer than ours. */
static enum ckpt_status read_opts(const struct ckpt_open_opts *given, struct ckpt_open_opts *ret,
                                  struct ckpt_err *err)
{
    enum ckpt_status st =
        lib_take_struct(ret, sizeof(*ret), given, offsetof(struct ckpt_open_opts, timeout_ms),
                        "ckpt_open_opts", err);
    if (st != CKPT_OK)
        return st;
    if (ret->flags & ~(uint32_t)CKPT_OPEN_SOLO)
        return err_set(err, CKPT_INVALID, "options: unknown flags %#x", ret->flags);
    if (ret->mode != CKPT_TRAIN && ret->mode != CKPT_READ)
        return err_set(err, CKPT_INVALID, "options: mode is CKPT_TRAIN or CKPT_READ");
    if (!ret->job)
        return err_set(err, CKPT_INVALID, "options: job is not set");
    st = job_name_check(ret->job, err);
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
    const char *resume = or_env(o->resume, "CKPT_RESUME");
    enum ckpt_status st = connect_place(c, o, err);
    if (st != CKPT_OK)
        return st;
    c->job = strdup(o->job);
    c->resume = strdup(resume ? resume : "");
    if (!c->job || !c->resume)
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
    c->fd = c->starter = -1;
    c->mode = o->mode;
    c->rank = o->rank;
    c->world = o->world;
    c->timeout_ms = o->timeout_ms;
    c->arena_want = o->arena_bytes;
    c->hello_flags = (o->flags & CKPT_OPEN_SOLO ? WIRE_HELLO_SOLO : 0) |
                     (connect_several_nodes(o->world) ? WIRE_HELLO_NODES : 0);
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
    enum ckpt_status st = audit_when_of_env(&c->audit_when, err);
    c->pace.bytes_per_s = o->copy_bytes_per_s;
    if (st == CKPT_OK && !o->copy_bytes_per_s)
        st = pace_parse(or_env(NULL, "CKPT_COPY_RATE"), &c->pace.bytes_per_s, err);
    return st == CKPT_OK ? devices_new(&c->devices, err) : st;
}

void lib_let_go(struct ckpt *c)
{
    while (c->shared.states) {
        struct ckpt_state *s = c->shared.states;
        c->shared.states = s->next;
        state_free_memory(s);
        free(s);
    }
    devices_free(c->devices, c->pid == getpid());
    c->devices = NULL;
}

static void context_free(struct ckpt *c)
{
    lib_let_go(c); /* in a forked child, and when no thread was started */
    client_drop_queue(c);
    if (c->fd >= 0)
        close(c->fd);
    connect_fini(c);
    if (c->wake_fd >= 0)
        close(c->wake_fd);
    if (c->pid == getpid()) { /* in a forked child others may seem to wait for ever */
        pthread_cond_destroy(&c->changed);
        pthread_mutex_destroy(&c->lock);
    }
    free(c->in);
    free(c->out);
    free(c->compose);
    free(c->job);
    free(c->store);
    free(c->socket);
    free(c->launch);
    free(c->resume);
    free(c->ckptd);
    free(c);
}

/* A worker that dies between HELLO and its answer is replaced: ask again, but not for
 * ever, lest a ckptd that cannot start be started again and again. */
static enum ckpt_status link_first(struct ckpt *c, int64_t deadline, struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_DAEMON_GONE;
    bool refused = false;
    for (int i = 0; st == CKPT_DAEMON_GONE && !refused && i < OPEN_TRIES; i++) {
        *err = (struct ckpt_err){ 0 };
        st = connect_daemon(c, deadline, err);
        if (st == CKPT_OK)
            st = client_hello(c, false, deadline, &refused, err);
    }
    if (st == CKPT_DAEMON_GONE && !refused)
        err_prefix(err, "ckptd on %s ended while the launch was being opened (its log says why)",
                   c->socket);
    return st;
}

static enum ckpt_status open_context(struct ckpt *c, const struct ckpt_open_opts *o,
                                     struct ckpt_err *err)
{
    int64_t deadline = lib_now_ns() + (int64_t)o->timeout_ms * 1000000;
    enum ckpt_status st = take_strings(c, o, err);
    if (st == CKPT_OK)
        st = link_first(c, deadline, err);
    if (st == CKPT_OK && o->mode == CKPT_TRAIN && (c->shared.ok_flags & WIRE_STOP))
        st =
            err_set(err, CKPT_REFUSED, "%s; to go on set CKPT_RESUME to %llu, another step or none",
                    c->shared.why, (unsigned long long)c->shared.point.step);
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
    if (c->pid == getpid() && !transfer_stop(c))
        return;
    context_free(c); /* a forked child closes its copy of the socket and says nothing on it */
}

enum ckpt_status ckpt_resume(struct ckpt *c, struct ckpt_point *ret)
{
    enum ckpt_status st = lib_enter(c);
    if (st != CKPT_OK)
        return st;
    struct ckpt_err err = { 0 };
    if (!ret || ret->size < sizeof(*ret)) {
        err_set(&err, CKPT_INVALID, "set .size = sizeof(struct ckpt_point)");
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
    bool beyond = !c->shared.has_head || step > c->shared.head.step;
    int64_t now = lib_now_ns();
    /* Once for the launch, and from then on as news: no message waits behind another. */
    bool news = !c->shared.outs && now - c->shared.progress_ns >= LIB_PROGRESS_NS;
    if (beyond && (!c->shared.progress_sent || news)) {
        struct wire_progress body = { .step = step };
        wire_begin(c->compose, WIRE_PROGRESS, &body);
        st = client_queue(c, c->compose, -1);
        c->shared.progress_sent = st == CKPT_OK;
        c->shared.progress_ns = now;
    }
    pthread_mutex_unlock(&c->lock);
    if (st != CKPT_OK) {
        err_set(&err, st, "ckpt_progress: out of memory");
        return lib_fail(&err);
    }
    return CKPT_OK;
}

/* How far the newest save or restore is; lock held. */
static void tell_progress(const struct ckpt *c, bool load, uint64_t *ret_done, uint64_t *ret_total)
{
    uint64_t newest = 0;
    for (size_t i = 0; i < LIB_OPS; i++) {
        const struct lib_op *op = &c->shared.ops[i];
        if (op->load != load || op->id <= newest)
            continue;
        newest = op->id;
        *ret_done = op->done_bytes;
        *ret_total = op->total_bytes;
    }
}

/* Lock held. */
static void tell_pinning(const struct ckpt *c, char *ret, size_t cap)
{
    size_t len = strlen(ret);
    if (c->shared.pinning[0] && c->shared.unpinned > 0)
        snprintf(ret + len, cap - len, "; %s; at most %.2f GiB/s", c->shared.pinning,
                 c->shared.unpinned / (1 << 30));
    else if (c->shared.pinning[0])
        snprintf(ret + len, cap - len, "; %s", c->shared.pinning);
}

enum ckpt_status ckpt_info(struct ckpt *c, struct ckpt_info *ret)
{
    enum ckpt_status st = lib_enter(c);
    if (st != CKPT_OK)
        return st;
    if (!ret || ret->size < offsetof(struct ckpt_info, state_bytes)) {
        struct ckpt_err err = { 0 };
        err_set(&err, CKPT_INVALID, "set .size = sizeof(struct ckpt_info)");
        return lib_fail(&err);
    }
    struct ckpt_info now;
    char devices[sizeof(now.devices)];
    devices_text(c->devices, devices, sizeof(devices)); /* asks the driver: not under the lock */
    pthread_mutex_lock(&c->lock);
    now = c->shared.info;
    now.size = ret->size;
    now.epoch = c->shared.epoch;
    now.scoped = (c->shared.ok_flags & WIRE_STAGED_IS_PROCESS) != 0;
    now.private_daemon = c->private_daemon;
    tell_progress(c, false, &now.save_done_bytes, &now.save_total_bytes);
    tell_progress(c, true, &now.restore_done_bytes, &now.restore_total_bytes);
    snprintf(now.why, sizeof(now.why), "%s", c->shared.why);
    memcpy(now.devices, devices, sizeof(devices));
    tell_pinning(c, now.devices, sizeof(now.devices));
    pthread_mutex_unlock(&c->lock);
    if (ret->size > sizeof(now)) /* a newer program: what we do not know is 0 */
        memset((uint8_t *)ret + sizeof(now), 0, ret->size - sizeof(now));
    memcpy(ret, &now, now.size < sizeof(now) ? now.size : sizeof(now));
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
