/* save, fence, wait, cancel: the caller's side.  The copying itself is transfer.c. */
#include <stdio.h>
#include <time.h>

#include "libckpt/context.h"

#define SAVE_TIMEOUT_MS  3600000
#define BEGIN_TIMEOUT_MS 60000

enum ckpt_status state_wait_idle(struct ckpt_state *s, int64_t deadline_ns, struct ckpt_err *err)
{
    while (s->shared.copying || s->shared.busy)
        if (!lib_wait_changed(s->ctx, deadline_ns) && (s->shared.copying || s->shared.busy))
            return err_set(err, CKPT_TIMEOUT,
                           "the state is still being copied (operation %llu): ckptd gives slots "
                           "back too slowly",
                           (unsigned long long)s->shared.copying);
    return CKPT_OK;
}

/* Rule I6: the number of this save() call for this step in this epoch. */
static uint32_t count_try(struct ckpt *c, uint64_t step)
{
    for (size_t i = 0; i < LIB_STEPS; i++)
        if (c->shared.steps[i].tries && c->shared.steps[i].step == step)
            return c->shared.steps[i].tries++;
    size_t at = c->shared.step_at++ % LIB_STEPS;
    c->shared.steps[at].step = step;
    c->shared.steps[at].tries = 1;
    return 0;
}

static enum ckpt_status compose_save(struct ckpt *c, const struct ckpt_save_opts *o,
                                     const struct lib_op *op, uint32_t try_, struct ckpt_err *err)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    struct wire_save body = {
        .op = op->id,
        .step = o->step,
        .state = op->state->number,
        .try_ = try_,
        .flags = o->flags & CKPT_SAVE_ALLOW_VANISHED ? WIRE_SAVE_VANISHED_OK : 0,
        .metric_count = o->metric_count,
        .time_ns = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec,
        .deadline_ms = (uint32_t)o->timeout_ms,
    };
    wire_begin(c->compose, WIRE_SAVE, &body);
    for (uint32_t i = 0; i < o->metric_count; i++)
        if (!wire_tail_str(c->compose, o->metrics[i].name) ||
            !wire_tail(c->compose, &o->metrics[i].value, sizeof(double)))
            return err_set(err, CKPT_LIMIT, "the metrics are too long");
    return CKPT_OK;
}

static enum ckpt_status check_opts(const struct ckpt_save_opts *given, struct ckpt_save_opts *o,
                                   struct ckpt_err *err)
{
    if (!given || given->size < offsetof(struct ckpt_save_opts, metrics))
        return err_set(err, CKPT_INVALID, "ckpt_save: set .size = sizeof(struct ckpt_save_opts)");
    memset(o, 0, sizeof(*o));
    memcpy(o, given, given->size < sizeof(*o) ? given->size : sizeof(*o));
    if (o->timeout_ms < 0)
        return err_set(err, CKPT_INVALID, "ckpt_save: negative timeout");
    if (o->timeout_ms == 0)
        o->timeout_ms = SAVE_TIMEOUT_MS;
    if (o->metric_count > RECORD_METRICS_MAX || (o->metric_count && !o->metrics))
        return err_set(err, CKPT_LIMIT, "ckpt_save: %u metrics, at most %d", o->metric_count,
                       RECORD_METRICS_MAX);
    for (uint32_t i = 0; i < o->metric_count; i++)
        if (!o->metrics[i].name || !o->metrics[i].name[0] ||
            strlen(o->metrics[i].name) > RECORD_METRIC_NAME_MAX)
            return err_set(err, CKPT_BAD_NAME, "ckpt_save: metric %u: a name has 1 to %d bytes", i,
                           RECORD_METRIC_NAME_MAX);
    return CKPT_OK;
}

/* Takes the state for a new op; lock held. */
static enum ckpt_status take_state(struct ckpt_state *s, bool load, int64_t deadline,
                                   struct lib_op **ret, struct ckpt_err *err)
{
    struct ckpt *c = s->ctx;
    if (!s->sealed)
        return err_set(err, CKPT_WRONG_STATE, "the state is not sealed: call ckpt_seal first");
    enum ckpt_status st = state_wait_idle(s, deadline, err);
    if (st != CKPT_OK)
        return st;
    if (c->shared.broken)
        return err_set(err, c->shared.err.status, "%s", err_text(&c->shared.err));
    *ret = lib_op_new(c, s, load);
    s->shared.copying = (*ret)->id;
    s->shared.grants.count = 0;
    return CKPT_OK;
}

/* Waits until the daemon answered; what it refused is the result.  Lock held. */
static enum ckpt_status wait_begun(struct ckpt *c, struct lib_op *op, int64_t deadline,
                                   struct ckpt_err *err)
{
    while (!op->begun && !op->final)
        if (!lib_wait_changed(c, deadline) && !op->begun && !op->final) {
            bool linked = c->shared.linked;
            lib_op_end(c, op, linked ? CKPT_TIMEOUT : CKPT_DAEMON_GONE,
                       linked ? "ckptd did not answer in time"
                              : "ckptd is gone and has not come back");
        }
    if (op->final && op->status != CKPT_OK)
        return err_set(err, op->status, "%s", op->text);
    return CKPT_OK;
}

static enum ckpt_status begin_save(struct ckpt_state *s, const struct ckpt_save_opts *o,
                                   const struct ckpt_buffer *buffers, size_t count,
                                   uint64_t *ret_op, struct ckpt_err *err)
{
    struct ckpt *c = s->ctx;
    struct lib_op *op = NULL;
    int64_t now = lib_now_ns();
    int64_t deadline = now + (int64_t)o->timeout_ms * 1000000;
    enum ckpt_status st = take_state(s, false, deadline, &op, err);
    if (st != CKPT_OK)
        return st;
    uint64_t id = op->id;
    uint32_t try_ = count_try(c, o->step);
    op->step = o->step;
    c->shared.info.saves_begun++;
    /* Nobody else touches the state while `copying` is ours. */
    pthread_mutex_unlock(&c->lock);
    st = state_bind(s, buffers, count, false, err);
    pthread_mutex_lock(&c->lock);
    if (st == CKPT_OK)
        st = compose_save(c, o, op, try_, err);
    if (st == CKPT_OK)
        st = client_queue(c, c->compose, -1);
    if (st != CKPT_OK) {
        lib_op_end(c, op, st, err_text(err));
        return st;
    }
    st = wait_begun(
        c, op, min_u64((uint64_t)deadline, (uint64_t)now + BEGIN_TIMEOUT_MS * 1000000ull), err);
    c->shared.info.blocked_ns = (uint64_t)(lib_now_ns() - now);
    if (st == CKPT_OK)
        *ret_op = id;
    return st;
}

enum ckpt_status ckpt_save(struct ckpt_state *s, const struct ckpt_save_opts *opts,
                           const struct ckpt_buffer *buffers, size_t count, void *stream,
                           uint64_t *ret_op)
{
    struct ckpt_err err = { 0 };
    struct ckpt_save_opts o;
    uint64_t op = 0;
    enum ckpt_status st = lib_enter(s ? s->ctx : NULL);
    if (st != CKPT_OK)
        return st;
    st = check_opts(opts, &o, &err);
    if (st == CKPT_OK && s->ctx->mode != CKPT_TRAIN)
        st = err_set(&err, CKPT_WRONG_STATE, "ckpt_save: the context was opened with CKPT_READ");
    if (st == CKPT_OK)
        st = s->ctx->gpu->ops->record_user(s->ctx->gpu, NULL, stream, &err);
    if (st == CKPT_OK) {
        pthread_mutex_lock(&s->ctx->lock);
        st = begin_save(s, &o, buffers, count, &op, &err);
        pthread_mutex_unlock(&s->ctx->lock);
    }
    err.status = st;
    if (st != CKPT_OK)
        return lib_fail(&err);
    if (ret_op)
        *ret_op = op;
    return CKPT_OK;
}

enum ckpt_status ckpt_fence(struct ckpt_state *s, int timeout_ms)
{
    struct ckpt_err err = { 0 };
    lib_clear_error();
    if (!s || timeout_ms < 0) {
        err_set(&err, CKPT_INVALID, "ckpt_fence: %s", s ? "negative timeout" : "the state is NULL");
        return lib_fail(&err);
    }
    struct ckpt *c = s->ctx;
    if (c->pid != getpid())
        return lib_enter(c);
    int64_t now = lib_now_ns();
    pthread_mutex_lock(&c->lock);
    bool waited = s->shared.copying || s->shared.busy;
    enum ckpt_status st = state_wait_idle(s, now + (int64_t)timeout_ms * 1000000, &err);
    if (waited)
        c->shared.info.blocked_ns += (uint64_t)(lib_now_ns() - now);
    pthread_mutex_unlock(&c->lock);
    return st == CKPT_OK ? CKPT_OK : lib_fail(&err);
}

enum ckpt_status ckpt_fence_stream(struct ckpt_state *s, void *stream)
{
    struct ckpt_err err = { 0 };
    enum ckpt_status st = lib_enter(s ? s->ctx : NULL);
    if (st != CKPT_OK)
        return st;
    if (s->ctx->gpu->ops->wait_user(s->ctx->gpu, stream, NULL, &err) != CKPT_OK)
        return lib_fail(&err);
    return ckpt_fence(s, s->ctx->timeout_ms);
}

static bool reached(const struct lib_op *op, enum ckpt_level level)
{
    return op->level >= (uint32_t)level;
}

static enum ckpt_status wait_level(struct ckpt *c, uint64_t id, enum ckpt_level level,
                                   int64_t deadline, struct ckpt_err *err)
{
    for (;;) {
        const struct lib_op *op = lib_op_find(c, id);
        if (!op)
            return err_set(err, CKPT_NOT_FOUND,
                           "operation %llu is not known (the last %d are remembered)",
                           (unsigned long long)id, LIB_OPS);
        if (reached(op, level))
            return CKPT_OK;
        if (op->final && op->status != CKPT_OK)
            return err_set(err, op->status, "%s", op->text);
        if (op->final)
            return err_set(err, CKPT_NOT_PLANNED, "step %llu: no tier is configured for level %s",
                           (unsigned long long)op->step, wire_level_name(level));
        if (!lib_wait_changed(c, deadline) && !op->final && !reached(op, level))
            return err_set(
                err, CKPT_TIMEOUT, "step %llu is %s, not yet %s", (unsigned long long)op->step,
                op->level ? wire_level_name(op->level) : "being copied", wire_level_name(level));
    }
}

enum ckpt_status ckpt_wait(struct ckpt *c, uint64_t op, enum ckpt_level level, int timeout_ms)
{
    struct ckpt_err err = { 0 };
    lib_clear_error();
    if (!c || timeout_ms < 0 || level < CKPT_LEVEL_NONE || level > CKPT_LEVEL_REMOTE) {
        err_set(&err, CKPT_INVALID, "ckpt_wait: NULL, negative timeout or unknown level");
        return lib_fail(&err);
    }
    if (c->pid != getpid())
        return lib_enter(c);
    pthread_mutex_lock(&c->lock);
    enum ckpt_status st =
        wait_level(c, op, level, lib_now_ns() + (int64_t)timeout_ms * 1000000, &err);
    pthread_mutex_unlock(&c->lock);
    return st == CKPT_OK ? CKPT_OK : lib_fail(&err);
}

enum ckpt_status ckpt_cancel(struct ckpt *c, uint64_t id)
{
    struct ckpt_err err = { 0 };
    enum ckpt_status st = lib_enter(c);
    if (st != CKPT_OK)
        return st;
    pthread_mutex_lock(&c->lock);
    const struct lib_op *op = lib_op_find(c, id);
    if (!op) {
        st = err_set(&err, CKPT_NOT_FOUND, "operation %llu is not known", (unsigned long long)id);
    } else if (!op->final) {
        struct wire_cancel body = { .op = id };
        wire_begin(c->compose, WIRE_CANCEL, &body);
        st = client_queue(c, c->compose, -1);
        if (st != CKPT_OK)
            err_set(&err, st, "ckpt_cancel: out of memory");
    }
    pthread_mutex_unlock(&c->lock);
    return st == CKPT_OK ? CKPT_OK : lib_fail(&err);
}

/* -- restore -------------------------------------------------------------- */

/* What a load was asked for, and how it ended. */
struct load_call {
    struct ckpt_state *s;
    struct wire_load body;
    int64_t deadline;
};

/* One attempt: asks and waits to the end.  Lock held. */
static enum ckpt_status load_once(struct load_call *l, struct ckpt_buffer *buffers, size_t count,
                                  struct lib_op **ret, struct ckpt_err *err)
{
    struct ckpt *c = l->s->ctx;
    enum ckpt_status st = take_state(l->s, true, l->deadline, ret, err);
    if (st != CKPT_OK)
        return st;
    struct lib_op *op = *ret;
    pthread_mutex_unlock(&c->lock);
    st = state_bind(l->s, buffers, count, true, err);
    pthread_mutex_lock(&c->lock);
    if (st == CKPT_OK) {
        l->body.op = op->id;
        wire_begin(c->compose, WIRE_LOAD, &l->body);
        st = client_queue(c, c->compose, -1);
    }
    if (st != CKPT_OK) {
        lib_op_end(c, op, st, err_text(err));
        return st;
    }
    while (!op->final)
        if (!lib_wait_changed(c, l->deadline) && !op->final)
            lib_op_end(c, op, CKPT_TIMEOUT, "restore: not done within the time limit");
    while (l->s->shared.busy)
        pthread_cond_wait(&c->changed, &c->lock); /* one message's fragments at most */
    return op->status == CKPT_OK ? CKPT_OK : err_set(err, op->status, "%s", op->text);
}

/* Tells the daemon how this rank fared: it keeps the launch's record.  Lock held. */
static void report(struct ckpt *c, const struct lib_op *op, enum ckpt_status st,
                   const struct ckpt_err *err)
{
    struct wire_restored body = { .op = op->id, .point = op->name, .status = st };
    wire_begin(c->compose, WIRE_RESTORED, &body);
    if (st != CKPT_OK)
        wire_tail(c->compose, err_text(err), strlen(err_text(err)));
    st = client_queue(c, c->compose, -1);
    (void)st; /* out of memory: the launch then counts as not restored, which is safe */
}

static enum ckpt_status load_all(struct load_call *l, struct ckpt_buffer *buffers, size_t count,
                                 struct ckpt_err *err)
{
    struct lib_op *op = NULL;
    enum ckpt_status st = load_once(l, buffers, count, &op, err);
    while (st == CKPT_DAEMON_GONE && lib_now_ns() < l->deadline && !l->s->ctx->shared.broken) {
        *err = (struct ckpt_err){ 0 }; /* the worker died: ask the next one */
        st = load_once(l, buffers, count, &op, err);
    }
    if (st == CKPT_OK)
        st = state_take_objects(l->s, buffers, err);
    if (op && l->s->ctx->mode == CKPT_TRAIN)
        report(l->s->ctx, op, st, err);
    if (st == CKPT_OK)
        l->s->ctx->shared.info.restored_bytes = op->done_bytes;
    return st;
}

enum ckpt_status ckpt_restore(struct ckpt_state *s, const struct ckpt_point *point,
                              struct ckpt_buffer *buffers, size_t count, void *stream,
                              const struct ckpt_restore_opts *opts)
{
    struct ckpt_err err = { 0 };
    struct ckpt_restore_opts o = { .timeout_ms = SAVE_TIMEOUT_MS };
    enum ckpt_status st = lib_enter(s ? s->ctx : NULL);
    if (st != CKPT_OK)
        return st;
    if (opts)
        memcpy(&o, opts, opts->size < sizeof(o) ? opts->size : sizeof(o));
    if (o.timeout_ms == 0)
        o.timeout_ms = SAVE_TIMEOUT_MS;
    if (o.timeout_ms < 0 || (point && point->size < sizeof(*point)))
        st = err_set(&err, CKPT_INVALID, "ckpt_restore: negative timeout, or .size of the point");
    if (st == CKPT_OK)
        st = s->ctx->gpu->ops->record_user(s->ctx->gpu, NULL, stream, &err);
    if (st != CKPT_OK)
        return lib_fail(&err);
    struct load_call l = { .s = s, .deadline = lib_now_ns() + (int64_t)o.timeout_ms * 1000000 };
    l.body.state = s->number;
    l.body.flags =
        (point ? 0 : WIRE_LOAD_RESUME) | (o.flags & CKPT_RESTORE_PARTIAL ? WIRE_LOAD_PARTIAL : 0);
    if (point)
        l.body.point = (struct wire_name){ point->epoch, point->step, point->attempt };
    pthread_mutex_lock(&s->ctx->lock);
    const struct wire_name *now = &s->ctx->shared.point;
    if (point && s->ctx->mode == CKPT_TRAIN &&
        (!(s->ctx->shared.ok_flags & WIRE_HAS_POINT) || now->step != point->step ||
         now->epoch != point->epoch || now->attempt != point->attempt))
        l.body.flags |= WIRE_LOAD_ROLLBACK;
    st = load_all(&l, buffers, count, &err);
    pthread_mutex_unlock(&s->ctx->lock);
    err.status = st;
    return st == CKPT_OK ? CKPT_OK : lib_fail(&err);
}
