/* restore: the caller's side.  The copying itself is transfer.c. */
#include <stdio.h>
#include <unistd.h>

#include "libckpt/context.h"

#define RESTORE_TIMEOUT_MS 3600000

/* One ckpt_restore. */
struct load_call {
    struct ckpt_state *s;
    struct ckpt_buffer *buffers;
    size_t count;
    void *stream;
    struct wire_load body;
    int64_t deadline;
    struct ckpt_fanout fanout; /* size 0: none */
    struct fanout *fan;        /* of this try */
    bool again;                /* everything, without the others */
    uint32_t comm_lost;        /* CKPT_COMM_* */
    /* of the last try: */
    bool asked; /* the daemon was asked at all */
    uint64_t op, done_bytes;
    uint32_t missing, unasked;
};

/* A memfd, or -1. */
static int encode_part(const struct decl *part, uint64_t *ret_bytes, struct ckpt_err *err)
{
    CLEANUP_BUF struct buf bytes = { 0 };
    decl_encode(part, &bytes);
    *ret_bytes = bytes.len;
    if (!bytes.failed)
        return wire_memfd("ckpt-part", bytes.data, bytes.len, err);
    (void)!err_set(err, CKPT_NO_MEMORY, "restore: out of memory");
    return -1;
}

static enum ckpt_status send_load(struct load_call *l, const struct lib_op *op,
                                  struct ckpt_err *err)
{
    struct ckpt *c = l->s->ctx;
    CLEANUP_BUF struct buf rules = { 0 };
    enum ckpt_status st = select_encode(&l->s->select, &rules, err);
    if (st != CKPT_OK)
        return st;
    int part = -1;
    l->body.op = op->id;
    l->body.part_bytes = 0;
    if (l->s->fan && (part = encode_part(&l->s->fan->part, &l->body.part_bytes, err)) < 0)
        return err->status;
    wire_begin(c->compose, WIRE_LOAD, &l->body);
    if (!wire_tail(c->compose, rules.data, rules.len)) {
        if (part >= 0)
            close(part);
        return err_set(err, CKPT_LIMIT, "restore: the patterns do not fit a message");
    }
    if (client_queue(c, c->compose, part) != CKPT_OK)
        return err_set(err, CKPT_NO_MEMORY, "restore: out of memory");
    return CKPT_OK;
}

/* Lock held, dropped while the state is pointed at the buffers. */
static enum ckpt_status ask_load(struct load_call *l, struct lib_op *op, struct ckpt_err *err)
{
    struct ckpt *c = l->s->ctx;
    l->s->shared.failed = (struct ckpt_err){ 0 };
    pthread_mutex_unlock(&c->lock);
    enum ckpt_status st = state_bind(l->s, l->buffers, l->count, true, err);
    if (st == CKPT_OK)
        st = flight_prepare(l->s, l->stream, true, l->deadline, err);
    if (l->fan) /* the others wait for this rank's word, also when it has failed */
        fanout_begin(l->fan, st == CKPT_OK ? &l->body : NULL);
    pthread_mutex_lock(&c->lock);
    if (st == CKPT_OK && op->final) /* the worker died meanwhile */
        return err_set(err, op->status, "%s", op->text);
    if (st == CKPT_OK)
        st = send_load(l, op, err);
    if (st != CKPT_OK)
        lib_op_end(c, op, st, err_text(err));
    l->asked |= st == CKPT_OK;
    return st;
}

/* Until what was asked for is here, from ckptd or from others; also when asking failed, as
 * others wait for this rank's word.  Lock held. */
static enum ckpt_status await_load(struct load_call *l, struct lib_op *op, enum ckpt_status asked,
                                   struct ckpt_err *err)
{
    struct ckpt *c = l->s->ctx;
    enum fanout_end end = l->fan ? fanout_run(l->fan, op, l->deadline) : FANOUT_ALONE;
    if (end == FANOUT_STUCK) {
        (void)!err_set(err, CKPT_DEVICE, "restore: the device does not end a broadcast; fan-out %s",
                       c->shared.info.fanout);
        lib_op_give_up(c, op, CKPT_DEVICE, err_text(err));
        return CKPT_DEVICE;
    }
    l->again = end == FANOUT_AGAIN;
    if (l->again)
        lib_op_give_up(c, op, CKPT_CANCELLED, "restore: everything is asked for instead");
    return asked == CKPT_OK ? lib_op_wait(c, op, true, l->deadline, err) : asked;
}

/* Of a state that nothing uses.  Lock held. */
static void drop_plan(struct ckpt_state *s)
{
    struct fanout_plan *plan = s->fan;
    s->fan = NULL;
    if (plan)
        fanout_plan_fini(plan);
    free(plan);
}

/* Lock held, dropped meanwhile. */
static void end_fanout(struct load_call *l)
{
    struct ckpt *c = l->s->ctx;
    if (l->s->shared.busy == 0) /* else the plan stays as long as the copies */
        drop_plan(l->s);
    pthread_mutex_unlock(&c->lock);
    fanout_free(l->fan, &l->comm_lost);
    l->fan = NULL;
    pthread_mutex_lock(&c->lock);
}

/* One try: asks and waits to the end.  Lock held. */
static enum ckpt_status load_once(struct load_call *l, struct ckpt_err *err)
{
    struct ckpt *c = l->s->ctx;
    struct lib_op *op = NULL;
    enum ckpt_status st = state_take(l->s, true, l->stream, l->deadline, &op, err);
    if (st != CKPT_OK)
        return st;
    drop_plan(l->s); /* of a restore before this one, whose copies took too long */
    l->op = op->id;
    st = await_load(l, op, ask_load(l, op, err), err);
    int64_t deadline = (l->deadline > lib_now_ns() ? l->deadline : lib_now_ns()) + LIB_LAND_NS;
    while (l->s->shared.busy && (lib_wait_changed(c, deadline) || lib_now_ns() < deadline))
        ; /* what was handed over, at most */
    if (l->s->shared.busy && st == CKPT_OK)
        st = err_set(err, CKPT_DEVICE, "restore: copies to the device do not end");
    if (st == CKPT_OK && l->s->shared.failed.status != CKPT_OK)
        st = err_set(err, l->s->shared.failed.status, "%s", err_text(&l->s->shared.failed));
    if (st == CKPT_OK)
        st = report_check(l->s, err);
    end_fanout(l);
    l->done_bytes = op->done_bytes;
    l->missing = op->missing;
    l->unasked = op->unasked;
    op->held = false;
    return st;
}

/* Tells the daemon how this rank fared: it keeps the launch's record.  Lock held. */
static void report(struct load_call *l, enum ckpt_status st, const struct ckpt_err *err)
{
    struct ckpt *c = l->s->ctx;
    struct wire_restored body = { .op = l->op, .point = l->body.point, .status = st };
    wire_begin(c->compose, WIRE_RESTORED, &body);
    if (st != CKPT_OK)
        wire_tail(c->compose, err_text(err), strlen(err_text(err)));
    st = client_queue(c, c->compose, -1);
    (void)st; /* out of memory: the launch then counts as not restored, which is safe */
}

/* Training goes on from this point. */
static void move_head(struct ckpt *c, const struct wire_name *point)
{
    c->shared.head = *point;
    c->shared.has_head = true;
    c->shared.saved = false;
    c->shared.progress_sent = false;
}

static bool same_name(const struct wire_name *a, const struct wire_name *b)
{
    return a->epoch == b->epoch && a->step == b->step && a->attempt == b->attempt;
}

/* Lock held. */
static enum ckpt_status load_all(struct load_call *l, struct ckpt_err *err)
{
    struct ckpt *c = l->s->ctx;
    c->shared.info.restored_from_ranks = 0;
    c->shared.info.fanout[0] = 0;
    enum ckpt_status st = load_once(l, err);
    if (l->again) {
        *err = (struct ckpt_err){ 0 };
        st = load_once(l, err);
    }
    while (st == CKPT_DAEMON_GONE && lib_now_ns() < l->deadline && !c->shared.broken) {
        *err = (struct ckpt_err){ 0 }; /* the worker died: ask the next one */
        st = load_once(l, err);
    }
    if (st == CKPT_OK)
        st = state_take_objects(l->s, l->buffers, err);
    if (l->asked && c->mode == CKPT_TRAIN)
        report(l, st, err);
    if (st == CKPT_OK && (l->body.flags & WIRE_LOAD_ROLLBACK))
        move_head(c, &l->body.point);
    if (st == CKPT_OK && c->shared.has_head && same_name(&l->body.point, &c->shared.head))
        c->shared.behind = false;
    l->s->restored = st == CKPT_OK;
    if (st == CKPT_OK) {
        c->shared.info.restored_bytes = l->done_bytes + c->shared.info.restored_from_ranks;
        c->shared.info.restore_missing = l->missing;
        c->shared.info.restore_unasked = l->unasked;
    }
    return st;
}

/* The others wait for this rank's word, and it did not come to asking for anything. */
static void say_no(struct load_call *l)
{
    struct ckpt *c = l->s->ctx;
    fanout_begin(l->fan, NULL);
    pthread_mutex_lock(&c->lock);
    (void)fanout_run(l->fan, NULL, l->deadline);
    pthread_mutex_unlock(&c->lock);
    fanout_free(l->fan, &l->comm_lost);
}

/* Which checkpoint, and whether that turns history back.  Lock held. */
static enum ckpt_status choose_point(struct load_call *l, const struct ckpt_point *point,
                                     struct ckpt_err *err)
{
    const struct ckpt *c = l->s->ctx;
    bool has = c->shared.ok_flags & WIRE_HAS_POINT;
    if (point)
        l->body.point = (struct wire_name){ point->epoch, point->step, point->attempt };
    else if (has)
        l->body.point = c->shared.point;
    else
        return err_set(err, CKPT_NOT_FOUND, "restore: %s",
                       c->shared.why[0] ? c->shared.why : "the job has no checkpoint yet");
    if (has && same_name(&l->body.point, &c->shared.point))
        l->body.flags |= WIRE_LOAD_RESUME;
    /* Where this run of steps began is no way back while nothing was saved of it. */
    bool here =
        c->shared.has_head && !c->shared.saved && same_name(&l->body.point, &c->shared.head);
    if (c->mode == CKPT_TRAIN && !here)
        l->body.flags = (l->body.flags & ~(uint32_t)WIRE_LOAD_RESUME) | WIRE_LOAD_ROLLBACK;
    return CKPT_OK;
}

static enum ckpt_status check_opts(const struct ckpt_restore_opts *given,
                                   const struct ckpt_point *point, struct ckpt_restore_opts *o,
                                   struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_OK;
    memset(o, 0, sizeof(*o));
    if (given)
        st = lib_take_struct(o, sizeof(*o), given, offsetof(struct ckpt_restore_opts, timeout_ms),
                             "ckpt_restore_opts", err);
    if (st != CKPT_OK)
        return st;
    if (o->flags & ~(uint32_t)(CKPT_RESTORE_PARTIAL | CKPT_RESTORE_CONVERT))
        return err_set(err, CKPT_INVALID, "ckpt_restore: unknown flags %#x", o->flags);
    if (o->timeout_ms < 0)
        return err_set(err, CKPT_INVALID, "ckpt_restore: negative timeout");
    if (o->timeout_ms == 0)
        o->timeout_ms = RESTORE_TIMEOUT_MS;
    if (point && point->size < sizeof(*point))
        return err_set(err, CKPT_INVALID, "set .size = sizeof(struct ckpt_point)");
    return CKPT_OK;
}

/* After the ranks have met. */
static enum ckpt_status restore(struct load_call *l, const struct ckpt_point *point,
                                const struct ckpt_restore_opts *o, struct ckpt_err *err)
{
    struct ckpt *c = l->s->ctx;
    l->body.state = l->s->number;
    l->body.flags = (o->flags & CKPT_RESTORE_PARTIAL ? WIRE_LOAD_PARTIAL : 0) |
                    (o->flags & CKPT_RESTORE_CONVERT ? WIRE_LOAD_CONVERT : 0);
    enum ckpt_status st = report_select(l->s, o, err);
    pthread_mutex_lock(&c->lock);
    if (st == CKPT_OK)
        st = choose_point(l, point, err);
    if (st == CKPT_OK)
        st = load_all(l, err);
    pthread_mutex_unlock(&c->lock);
    if (l->fan)
        say_no(l);
    if (st == CKPT_OK && l->s->devices)
        st = flight_join(l->s, l->stream, err);
    return st;
}

enum ckpt_status ckpt_restore(struct ckpt_state *s, const struct ckpt_point *point,
                              struct ckpt_buffer *buffers, size_t count, void *stream,
                              const struct ckpt_restore_opts *opts)
{
    struct ckpt_err err = { 0 };
    struct ckpt_restore_opts o;
    struct load_call l = {
        .s = s, .buffers = buffers, .count = count, .stream = stream, .comm_lost = CKPT_COMM_LOST
    };
    enum ckpt_status st = check_opts(opts, point, &o, &err);
    if (st == CKPT_OK)
        st = fanout_opts(o.fanout, &l.fanout, &err);
    if (st != CKPT_OK)
        return lib_fail(&err);
    l.deadline = lib_now_ns() + (int64_t)o.timeout_ms * 1000000;
    st = lib_enter_state(s);
    l.fan = fanout_meet(st == CKPT_OK ? s : NULL, &l.fanout);
    if (st == CKPT_OK)
        st = err.status = restore(&l, point, &o, &err);
    if (err.status != CKPT_OK)
        (void)lib_fail(&err);
    if (l.fanout.comm)
        o.fanout->comm_lost = l.comm_lost;
    return st;
}
