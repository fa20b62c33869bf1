/* save, fence, wait, cancel: the caller's side.  The copying itself is transfer.c. */
#include <stdio.h>
#include <time.h>

#include "libckpt/context.h"

#define SAVE_TIMEOUT_MS  3600000
#define BEGIN_TIMEOUT_MS 60000
#define LATE             "save: the fence's time limit was over before its copy had ended"

/* A save that is not even begun is not worth the whole time that it may take. */
static int64_t begin_by(int64_t deadline_ns)
{
    int64_t by = lib_now_ns() + BEGIN_TIMEOUT_MS * INT64_C(1000000);
    return by < deadline_ns ? by : deadline_ns;
}

/* The save that is being copied, if it needs slots that only ckptd can give. */
static struct lib_op *owed_slots(const struct ckpt_state *s)
{
    struct lib_op *op = lib_op_find(s->ctx, s->shared.copying);
    bool owed = op && !op->load && op->next_slot + s->shared.grants.count < s->decl.slot_count;
    return owed ? op : NULL;
}

/* Waits for news of the copy under way; false: the deadline has passed.  A ckptd that is away has
 * as long as any other wait gives it: then the save is given up, and nothing else is waited for
 * but what is under way already.  Lock held. */
static bool wait_copy(struct ckpt_state *s, int64_t deadline_ns)
{
    struct ckpt *c = s->ctx;
    if (lib_wait_changed(c, owed_slots(s) ? lib_patience(c, false, deadline_ns) : deadline_ns))
        return true;
    int64_t now = lib_now_ns();
    struct lib_op *op = owed_slots(s);
    if (now < deadline_ns && op && now >= lib_patience(c, false, deadline_ns))
        lib_op_give_up(c, op, CKPT_DAEMON_GONE,
                       "save: ckptd is gone and has not come back yet, and not all is copied");
    return now < deadline_ns;
}

enum ckpt_status state_wait_idle(struct ckpt_state *s, int64_t deadline_ns, struct ckpt_err *err)
{
    struct ckpt *c = s->ctx;
    bool broken = false;
    audit_ask(s);
    while (s->shared.copying || s->shared.busy) {
        if (c->shared.broken && !broken) { /* what a device still does ends soon or never */
            int64_t soon = lib_now_ns() + LIB_LAND_NS;
            broken = true;
            deadline_ns = soon < deadline_ns ? soon : deadline_ns;
        }
        if (wait_copy(s, deadline_ns) || !(s->shared.copying || s->shared.busy))
            continue;
        if (broken)
            return err_set(err, c->shared.err.status, "%s", err_text(&c->shared.err));
        return err_set(err, CKPT_TIMEOUT,
                       "the state is still being copied (operation %llu): ckptd gives slots "
                       "back too slowly",
                       (unsigned long long)s->shared.copying);
    }
    return CKPT_OK;
}

/* Rule I6: the number of this save() call for this step.  Counted whatever becomes of the
 * call, because the other ranks count theirs. */
static uint32_t count_try(struct ckpt *c, uint64_t step)
{
    for (size_t i = 0; i < LIB_STEPS; i++)
        if (c->shared.steps[i].tries && c->shared.steps[i].step == step)
            return c->shared.steps[i].tries++;
    /* A step that falls out of the table may come again: all later ones count from above
     * what it had, so that no attempt gets a name twice. */
    size_t at = c->shared.step_at++ % LIB_STEPS;
    c->shared.tries_floor = (uint32_t)max_u64(c->shared.tries_floor, c->shared.steps[at].tries);
    c->shared.steps[at].step = step;
    c->shared.steps[at].tries = c->shared.tries_floor + 1;
    return c->shared.tries_floor;
}

/* One ckpt_save. */
struct save_call {
    struct ckpt_save_opts opts;
    const struct ckpt_buffer *buffers;
    size_t count;
    void *stream;
    uint32_t try_;
    uint64_t op;
};

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
    enum ckpt_status st = lib_take_struct(
        o, sizeof(*o), given, offsetof(struct ckpt_save_opts, metrics), "ckpt_save_opts", err);
    if (st != CKPT_OK)
        return st;
    if (o->flags & ~(uint32_t)(CKPT_SAVE_ALLOW_VANISHED | CKPT_SAVE_AUDIT | CKPT_SAVE_NO_AUDIT))
        return err_set(err, CKPT_INVALID, "ckpt_save: unknown flags %#x", o->flags);
    if (o->step == CKPT_FINISHED)
        return err_set(err, CKPT_INVALID, "ckpt_save: step %llu is no step",
                       (unsigned long long)o->step);
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

/* What is asked of a ckptd that is away is lost if it starts afresh, on this rank and not on
 * others; and one that started afresh has yet to make the state's memory: it would take a
 * save or a restore before that for a broken protocol.  Lock held. */
static enum ckpt_status wait_daemon(struct ckpt_state *s, bool load, int64_t deadline,
                                    struct ckpt_err *err)
{
    struct ckpt *c = s->ctx;
    while (!c->shared.broken && !(c->shared.linked && s->shared.answered)) {
        int64_t until = lib_patience(c, load, deadline);
        if (lib_wait_changed(c, until) || lib_now_ns() < lib_patience(c, load, deadline))
            continue;
        if (!c->shared.linked)
            return err_set(err, CKPT_DAEMON_GONE, "ckptd is gone and has not come back yet");
        if (!s->shared.answered)
            return err_set(err, CKPT_TIMEOUT,
                           "ckptd was started afresh and has not made the state's memory yet");
    }
    return CKPT_OK;
}

/* An audit is behind what is on the stream, which may have changed something.  For the host this
 * is a wait; a stream that waits for the host in turn must not end in a standstill.  Lock held,
 * dropped for the device. */
static enum ckpt_status audit_at(struct ckpt_state *s, void *stream, int64_t deadline_ns,
                                 struct ckpt_err *err)
{
    struct ckpt *c = s->ctx;
    if (!s->devices || !audit_pending(s))
        return CKPT_OK;
    pthread_mutex_unlock(&c->lock);
    enum ckpt_status st = flight_follow(s, stream, err);
    pthread_mutex_lock(&c->lock);
    int64_t latest = lib_now_ns() + AUDIT_STREAM_NS;
    if (st == CKPT_OK &&
        state_wait_idle(s, latest < deadline_ns ? latest : deadline_ns, NULL) != CKPT_OK)
        audit_release(c, s, "the stream did not get to its fence in time");
    return st;
}

enum ckpt_status state_take(struct ckpt_state *s, bool load, void *stream, int64_t deadline,
                            struct lib_op **ret, struct ckpt_err *err)
{
    struct ckpt *c = s->ctx;
    if (!s->sealed)
        return err_set(err, CKPT_WRONG_STATE, "the state is not sealed: call ckpt_seal first");
    enum ckpt_status st = audit_at(s, stream, deadline, err);
    if (st != CKPT_OK)
        return st;
    do { /* each wait lets others in */
        st = state_wait_idle(s, deadline, err);
        if (st == CKPT_OK)
            st = wait_daemon(s, load, load ? deadline : begin_by(deadline), err);
    } while (st == CKPT_OK && (s->shared.copying || s->shared.busy));
    if (st != CKPT_OK)
        return st;
    if (c->shared.broken)
        return err_set(err, c->shared.err.status, "%s", err_text(&c->shared.err));
    if (s->shared.err.status != CKPT_OK) /* a ckptd that started afresh had no memory */
        return err_set(err, s->shared.err.status, "%s", err_text(&s->shared.err));
    if (!load && c->shared.behind) /* its steps are of a branch that the launch has left */
        return err_set(err, CKPT_REFUSED,
                       "the launch has gone back to an earlier checkpoint while ckptd was away: "
                       "restore that one first");
    *ret = lib_op_new(c, s, load);
    s->shared.copying = (*ret)->id;
    s->shared.grants.count = 0;
    return CKPT_OK;
}

/* Copies aside what may change, and asks the daemon.  Lock held, dropped for the copy:
 * nobody else touches the state while `copying` names this op. */
static enum ckpt_status ask_save(struct ckpt_state *s, struct save_call *call, struct lib_op *op,
                                 struct ckpt_err *err)
{
    struct ckpt *c = s->ctx;
    pthread_mutex_unlock(&c->lock);
    enum ckpt_status st = audit_adopt(s, err);
    if (st == CKPT_OK)
        st = state_bind(s, call->buffers, call->count, false, err);
    if (st == CKPT_OK)
        st = flight_prepare(s, call->stream, false, 0, err);
    pthread_mutex_lock(&c->lock);
    flight_add_aside(s, op->id);
    if (st == CKPT_OK && op->final) /* ckptd started afresh meanwhile, or the context broke */
        return err_set(err, op->status, "%s", op->text);
    if (st == CKPT_OK)
        st = compose_save(c, &call->opts, op, call->try_, err);
    if (st == CKPT_OK && client_queue(c, c->compose, -1) != CKPT_OK)
        st = err_set(err, CKPT_NO_MEMORY, "save: out of memory");
    if (st != CKPT_OK)
        lib_op_end(c, op, st, err_text(err));
    return st;
}

/* The copies of an audited save come before later work, as if its fence were here: else what
 * changes before its first copy would not be seen.  What of that fails, shows later.  Lock
 * held, dropped for the device. */
static void put_first(struct ckpt_state *s, void *stream)
{
    struct ckpt_err err = { 0 };
    if (!audit_pending(s) || audit_await_copies(s, &err) != CKPT_OK || !s->devices)
        return;
    pthread_mutex_unlock(&s->ctx->lock);
    enum ckpt_status st = flight_join(s, stream, &err);
    (void)st;
    pthread_mutex_lock(&s->ctx->lock);
}

/* Lock held. */
static enum ckpt_status begin_save(struct ckpt_state *s, struct save_call *call,
                                   struct ckpt_err *err)
{
    struct ckpt *c = s->ctx;
    struct lib_op *op = NULL;
    int64_t now = lib_now_ns();
    int64_t deadline = now + (int64_t)call->opts.timeout_ms * 1000000;
    int64_t begun_by = begin_by(deadline);
    enum ckpt_status st = state_take(s, false, call->stream, deadline, &op, err);
    if (st != CKPT_OK)
        return st;
    op->step = call->opts.step;
    c->shared.saved = true;
    c->shared.info.saves_begun++;
    audit_begin(s, op, &call->opts);
    st = ask_save(s, call, op, err);
    if (st == CKPT_OK)
        st = lib_op_wait(c, op, false, begun_by, err);
    if (st == CKPT_OK)
        put_first(s, call->stream);
    c->shared.info.blocked_ns = (uint64_t)(lib_now_ns() - now);
    call->op = op->id;
    op->held = false;
    return st;
}

/* Counts the call (rule I6) as soon as the step can be read. */
static void count_call(struct ckpt *c, const struct ckpt_save_opts *given, struct save_call *call)
{
    if (!given || given->size < offsetof(struct ckpt_save_opts, metrics))
        return;
    pthread_mutex_lock(&c->lock);
    call->try_ = count_try(c, given->step);
    pthread_mutex_unlock(&c->lock);
}

enum ckpt_status ckpt_save(struct ckpt_state *s, const struct ckpt_save_opts *opts,
                           const struct ckpt_buffer *buffers, size_t count, void *stream,
                           uint64_t *ret_op)
{
    struct ckpt_err err = { 0 };
    struct save_call call = { .buffers = buffers, .count = count, .stream = stream };
    enum ckpt_status st = lib_enter_state(s);
    if (st != CKPT_OK)
        return st;
    struct ckpt *c = s->ctx;
    count_call(c, opts, &call);
    st = check_opts(opts, &call.opts, &err);
    if (st == CKPT_OK && c->mode != CKPT_TRAIN)
        st = err_set(&err, CKPT_WRONG_STATE, "ckpt_save: the context was opened with CKPT_READ");
    if (st == CKPT_OK) {
        pthread_mutex_lock(&c->lock);
        st = begin_save(s, &call, &err);
        pthread_mutex_unlock(&c->lock);
    }
    err.status = st;
    if (st != CKPT_OK)
        return lib_fail(&err);
    if (ret_op)
        *ret_op = call.op;
    return CKPT_OK;
}

/* The caller will change its memory, whatever we say: what is copied from now on would be of
 * another step.  So the save ends here, and so do the fences' waits for it.  Lock held. */
static void give_up_copy(struct ckpt_state *s, enum ckpt_status why, const char *text)
{
    struct lib_op *op = lib_op_find(s->ctx, s->shared.copying);
    if (!op || op->load)
        return;
    lib_op_give_up(s->ctx, op, why, text);
    /* One slot is not to be torn; a driver that hangs keeps nobody. */
    int64_t deadline = lib_now_ns() + LIB_LAND_NS;
    while (s->shared.queueing && lib_wait_changed(s->ctx, deadline))
        ;
}

static enum ckpt_status fence(struct ckpt_state *s, int timeout_ms, struct ckpt_err *err)
{
    struct ckpt *c = s->ctx;
    int64_t now = lib_now_ns();
    pthread_mutex_lock(&c->lock);
    bool waited = s->shared.copying || s->shared.busy;
    enum ckpt_status st = state_wait_idle(s, now + (int64_t)timeout_ms * 1000000, err);
    if (st == CKPT_TIMEOUT && timeout_ms > 0)
        give_up_copy(s, st, LATE);
    if (waited)
        c->shared.info.blocked_ns += (uint64_t)(lib_now_ns() - now);
    pthread_mutex_unlock(&c->lock);
    return st;
}

enum ckpt_status ckpt_fence(struct ckpt_state *s, int timeout_ms)
{
    struct ckpt_err err = { 0 };
    enum ckpt_status st = s ? lib_enter_wait(s->ctx, timeout_ms) : lib_enter_state(s);
    if (st != CKPT_OK)
        return st;
    st = fence(s, timeout_ms, &err);
    return st == CKPT_OK ? CKPT_OK : lib_fail(&err);
}

static bool all_queued(const struct ckpt_state *s)
{
    return !s->shared.queueing && (!s->shared.copying || s->shared.queued == s->shared.copying);
}

/* Waits until every copy of the save under way is queued; host memory until it is copied. */
static enum ckpt_status wait_queued(struct ckpt_state *s, int64_t deadline, struct ckpt_err *err)
{
    while (!all_queued(s))
        if (!wait_copy(s, deadline) && !all_queued(s))
            return err_set(err, CKPT_TIMEOUT,
                           "the state's copies are not all queued yet: ckptd gives slots back too "
                           "slowly");
    return CKPT_OK;
}

/* Nothing was saved or restored yet: there is nothing to wait for, and nothing that a graph could
 * wait for. */
static enum ckpt_status fence_nothing(struct ckpt_state *s, void *stream)
{
    struct ckpt_err err = { 0 };
    bool capturing = false;
    enum ckpt_status st = devices_capturing(s->ctx->devices, stream, &capturing, &err);
    if (st == CKPT_OK && capturing)
        st = err_set(&err, CKPT_WRONG_STATE,
                     "the stream is being captured into a graph: save or restore the state before "
                     "its fence is captured");
    return st == CKPT_OK ? CKPT_OK : lib_fail(&err);
}

/* Of a state that was saved or restored. */
static enum ckpt_status fence_stream(struct ckpt_state *s, void *stream, struct ckpt_err *err)
{
    struct ckpt *c = s->ctx;
    struct gpu *host = devices_gpu(c->devices, 0);
    int64_t now = lib_now_ns();
    if (!s->devices && host->ops->wait_user(host, stream, NULL, err) != CKPT_OK)
        return err->status;
    pthread_mutex_lock(&c->lock);
    enum ckpt_status st = audit_at(s, stream, INT64_MAX, err);
    pthread_mutex_unlock(&c->lock);
    if (st == CKPT_OK && (!s->devices || s->host_memory))
        st = fence(s, c->timeout_ms, err);
    if (st != CKPT_OK || !s->devices)
        return st;
    pthread_mutex_lock(&c->lock);
    st = wait_queued(s, now + (int64_t)c->timeout_ms * 1000000, err);
    if (!s->host_memory)
        c->shared.info.blocked_ns += (uint64_t)(lib_now_ns() - now);
    pthread_mutex_unlock(&c->lock);
    return st == CKPT_OK ? flight_join(s, stream, err) : st;
}

enum ckpt_status ckpt_fence_stream(struct ckpt_state *s, void *stream)
{
    struct ckpt_err err = { 0 };
    enum ckpt_status st = lib_enter_state(s);
    if (st != CKPT_OK)
        return st;
    if (!s->prepared)
        return fence_nothing(s, stream);
    st = fence_stream(s, stream, &err);
    if (st == CKPT_OK)
        return CKPT_OK;
    pthread_mutex_lock(&s->ctx->lock);
    give_up_copy(s, st, st == CKPT_TIMEOUT ? LATE : err_text(&err));
    pthread_mutex_unlock(&s->ctx->lock);
    return lib_fail(&err);
}

/* Lock held.  False: it is not decided yet. */
static bool wait_over(const struct lib_op *op, enum ckpt_level level, enum ckpt_status *ret,
                      struct ckpt_err *err)
{
    bool failed = op->final && op->status != CKPT_OK;
    /* What is committed stays so; below that, a failed save is lost at every level. */
    if (op->level >= (uint32_t)level && (op->committed || !failed))
        *ret = CKPT_OK;
    else if (failed)
        *ret = err_set(err, op->status, "%s", op->text);
    else if (op->final)
        *ret = err_set(err, CKPT_NOT_PLANNED,
                       "step %llu: no tier, or no policy, brings it to level %s",
                       (unsigned long long)op->step, wire_level_name(level));
    else
        return false;
    return true;
}

/* Lock held. */
static enum ckpt_status wait_level(struct ckpt *c, uint64_t id, enum ckpt_level level,
                                   int64_t deadline, struct ckpt_err *err)
{
    enum ckpt_status st;
    for (;;) {
        const struct lib_op *op = lib_op_find(c, id);
        if (!op || op->load)
            return err_set(err, CKPT_NOT_FOUND,
                           "operation %llu is not known (the last %d are remembered)",
                           (unsigned long long)id, LIB_OPS);
        if (wait_over(op, level, &st, err))
            return st;
        if (!lib_wait_changed(c, deadline) && lib_op_find(c, id) == op &&
            !wait_over(op, level, &st, err))
            return err_set(
                err, CKPT_TIMEOUT, "step %llu is %s, not yet %s%s", (unsigned long long)op->step,
                op->level ? wire_level_name(op->level) : "being copied", wire_level_name(level),
                c->shared.linked ? "" : "; ckptd is gone and has not come back yet");
    }
}

/* Whoever waits in the thread that saved reaches no fence meanwhile.  Lock held. */
static void ask_for_audit(struct ckpt *c, uint64_t id)
{
    const struct lib_op *op = lib_op_find(c, id);
    if (op && op->state && op->state->audit.op == id &&
        pthread_equal(op->state->audit.shared.saver, pthread_self()))
        audit_ask(op->state);
}

enum ckpt_status ckpt_wait(struct ckpt *c, uint64_t op, enum ckpt_level level, int timeout_ms)
{
    struct ckpt_err err = { 0 };
    enum ckpt_status st = lib_enter_wait(c, timeout_ms);
    if (st != CKPT_OK)
        return st;
    if ((unsigned)level > CKPT_LEVEL_REMOTE) {
        err_set(&err, CKPT_INVALID, "ckpt_wait: unknown level %u", (unsigned)level);
        return lib_fail(&err);
    }
    pthread_mutex_lock(&c->lock);
    ask_for_audit(c, op);
    st = wait_level(c, op, level, lib_now_ns() + (int64_t)timeout_ms * 1000000, &err);
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
    if (!op || op->load) {
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
