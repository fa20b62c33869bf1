/* The transfer thread: the only one that speaks with the daemon and copies between
 * slots and the caller's memory.  Its loop: send what is queued, take what has come,
 * fill one granted slot, sleep when there is nothing. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>

#include "libckpt/context.h"
#include "libckpt/gpu_cuda.h"
#include "libckpt/own_thread.h"

#define RELINK_PAUSE_NS   INT64_C(100000000)
#define RELINK_CONNECT_NS INT64_C(1000000000)
#define LATE_LOOK_NS      INT64_C(10000000)
#define STOP_NS           INT64_C(5000000000) /* for the thread's end, beside LIB_LAND_NS */
#define STOP_LOOK_MS      200                 /* nobody wakes a pause when the context ends */

static struct ckpt_state *find_state(struct ckpt *c, uint32_t number)
{
    struct ckpt_state *s = c->shared.states;
    while (s && s->number != number)
        s = s->next;
    return s;
}

/* -- messages from the daemon; lock held ---------------------------------- */

/* Another arena, or none (`ok` NULL), in the place of the state's.  Lock held, dropped meanwhile:
 * unpinning and populating take long. */
static void change_arena(struct ckpt *c, struct ckpt_state *s, int fd,
                         const struct wire_state_ok *ok, struct ckpt_err *err)
{
    s->shared.alone++; /* keeps the state */
    s->shared.grants.count = 0;
    pthread_mutex_unlock(&c->lock);
    slots_unmap(s);
    if (ok && slots_map(s, fd, ok, err) != CKPT_OK)
        slots_unmap(s);
    pthread_mutex_lock(&c->lock);
    s->shared.alone--;
}

static void on_state_ok(struct ckpt *c, struct wire_msg *m)
{
    struct wire_state_ok ok;
    memcpy(&ok, wire_body(m), sizeof(ok));
    struct ckpt_state *s = find_state(c, ok.state);
    if (!s || s->shared.answered || m->fd_count != 1)
        return;
    if (!copies_land_all(c, s))
        return;
    struct ckpt_err err = { 0 };
    change_arena(c, s, m->fds[0], &ok, &err);
    s->shared.err = err;
    s->shared.answered = true;
}

static void on_refused(struct ckpt *c, const struct wire_msg *m)
{
    struct wire_refused r;
    char text[512];
    memcpy(&r, wire_body(m), sizeof(r));
    wire_text(m, text, sizeof(text));
    struct ckpt_state *s = find_state(c, r.state);
    if (r.type != WIRE_STATE || !s || s->shared.answered || !copies_land_all(c, s))
        return;
    change_arena(c, s, -1, NULL, NULL); /* it was of a ckptd before this one */
    s->shared.err = (struct ckpt_err){ 0 };
    err_set(&s->shared.err,
            status_known(r.status) && r.status ? (enum ckpt_status)r.status : CKPT_BUG, "%s", text);
    s->shared.answered = true;
}

static void take_level(struct ckpt *c, struct lib_op *op, const struct wire_op *w)
{
    if (w->level > op->level)
        op->level = w->level;
    if (op->load || op->committed || op->level < WIRE_LEVEL_LOCAL)
        return;
    op->committed = true;
    c->shared.info.saves_committed++;
    if (c->shared.info.last_step_committed == UINT64_MAX || op->id > c->shared.last_committed_op)
        c->shared.info.last_step_committed = op->step;
    c->shared.last_committed_op = max_u64(op->id, c->shared.last_committed_op);
}

/* What an OP may say of this op; a daemon that claims more is not believed. */
static bool makes_sense(const struct lib_op *op, const struct wire_op *w)
{
    bool final = w->flags & WIRE_OP_FINAL;
    if (w->status != CKPT_OK)
        return status_known(w->status);
    if (op->load)
        return w->level == WIRE_LEVEL_NONE ? !final : w->level == WIRE_LEVEL_DONE;
    /* Staged and more: only of what was handed over. */
    return w->level <= WIRE_LEVEL_REMOTE && (w->level == WIRE_LEVEL_NONE || op->copied) &&
           (!final || w->level >= WIRE_LEVEL_LOCAL || op->level >= WIRE_LEVEL_LOCAL);
}

/* A slot that may be filled now; UINT32_MAX: there is nothing to fill. */
static bool add_grant(struct ckpt *c, struct ckpt_state *s, uint64_t op, uint32_t arena_slot)
{
    struct lib_grants *g = &s->shared.grants;
    if (!LIB_ASSERT(c, g->count < g->cap)) /* slots are fewer than cap and each is there once */
        return false;
    uint32_t at = (g->head + g->count++) % g->cap;
    g->slot[at] = arena_slot;
    g->op[at] = op;
    return true;
}

static void begin_op(struct ckpt *c, struct lib_op *op)
{
    op->begun = true;
    if (!op->load && op->state && op->state->decl.slot_count == 0) /* this rank writes nothing */
        add_grant(c, op->state, op->id, UINT32_MAX);
}

static void on_op(struct ckpt *c, const struct wire_msg *m)
{
    struct wire_op w;
    memcpy(&w, wire_body(m), sizeof(w));
    struct lib_op *op = lib_op_find(c, w.op);
    if (!op || op->final)
        return;
    op->name = w.name;
    op->done_bytes = w.done_bytes;
    op->total_bytes = w.total_bytes;
    op->missing = w.missing;
    op->unasked = w.unasked;
    if (!op->begun && w.status == CKPT_OK)
        begin_op(c, op);
    if (!makes_sense(op, &w)) {
        lib_op_give_up(c, op, CKPT_CORRUPT, "ckptd said what cannot be of this operation");
        return;
    }
    if (w.status != CKPT_OK) {
        char text[512];
        wire_text(m, text, sizeof(text));
        op->told = true;
        lib_op_end(c, op, (enum ckpt_status)w.status,
                   text[0] ? text : status_sentence((enum ckpt_status)w.status));
        return;
    }
    if ((!op->load || (w.flags & WIRE_OP_FINAL)) && w.name.epoch > c->shared.epoch)
        c->shared.epoch = w.name.epoch; /* a rollback's */
    take_level(c, op, &w);
    if (w.flags & WIRE_OP_FINAL) {
        op->told = true;
        lib_op_end(c, op, CKPT_OK, "");
    }
}

static void on_grant(struct ckpt *c, const struct wire_msg *m)
{
    struct wire_grant w;
    memcpy(&w, wire_body(m), sizeof(w));
    struct ckpt_state *s = find_state(c, w.state);
    struct lib_op *op = lib_op_find(c, w.op);
    if (!s || !op || op->state != s || op->final || op->load ||
        client_full_unacked(c, w.op, w.state, w.arena_slot))
        return;
    if (w.arena_slot >= s->slots || !s->arena) {
        lib_op_give_up(c, op, CKPT_CORRUPT, "save: ckptd granted a slot that does not exist");
        return;
    }
    struct lib_grants *g = &s->shared.grants;
    for (uint32_t i = 0; i < g->count; i++)
        if (g->slot[(g->head + i) % g->cap] == w.arena_slot)
            return; /* said again after a reconnect */
    for (const struct lib_flight *f = s->flights; f; f = f->next)
        if (f->full.arena_slot == w.arena_slot)
            return; /* the same, and its copies are under way */
    if (!audit_holds(s, w.arena_slot))
        add_grant(c, s, w.op, w.arena_slot);
}

struct take_call {
    struct ckpt_state *s;
    const struct wire_msg *m;
    const struct wire_frags *w;
    struct lib_flight *flight; /* set when there is one */
};

/* Fills the tensors; on devices that is under way then. */
static enum ckpt_status take(void *arg, struct ckpt_err *err)
{
    struct take_call *t = arg;
    enum ckpt_status st = CKPT_OK;
    if (t->s->devices) {
        slots_pin(t->s);
        st = flight_new(t->s, &t->flight, err);
    }
    if (st == CKPT_OK)
        st = slots_take(t->s, t->m, t->w, err);
    if (t->flight) {
        enum ckpt_status gone = flight_depart(t->s, t->flight, st == CKPT_OK ? err : NULL);
        st = st == CKPT_OK ? gone : st;
    }
    return st;
}

static void on_frags(struct ckpt *c, const struct wire_msg *m)
{
    struct wire_frags w;
    memcpy(&w, wire_body(m), sizeof(w));
    struct ckpt_state *s = find_state(c, w.state);
    struct lib_op *op = lib_op_find(c, w.op);
    struct ckpt_err err = { 0 };
    enum ckpt_status st = CKPT_OK;
    struct lib_flight *in_flight = NULL;
    bool wanted = op && op->load && !op->final;
    if (wanted && (!s || op->state != s || !s->arena || w.arena_slot >= s->slots)) {
        lib_op_give_up(c, op, CKPT_CORRUPT, "restore: ckptd named a slot that does not exist");
        return;
    }
    struct wire_back back = { .op = w.op, .state = w.state, .arena_slot = w.arena_slot };
    if (wanted) {
        struct take_call call = { .s = s, .m = m, .w = &w };
        s->shared.busy++;
        pthread_mutex_unlock(&c->lock);
        st = lib_guarded(c, take, &call, &err);
        pthread_mutex_lock(&c->lock);
        s->shared.busy -= !call.flight;
        in_flight = call.flight;
        op->begun = true;
        op->done_bytes = w.done_bytes;
        op->total_bytes = w.total_bytes;
        if (st != CKPT_OK)
            lib_op_give_up(c, op, st, err_text(&err));
        else if (s->fan)
            fanout_took(s, m);
    }
    if (in_flight) {
        in_flight->load = true;
        in_flight->last = !(w.flags & WIRE_FRAGS_MORE);
        in_flight->back = back;
        in_flight->full.arena_slot = UINT32_MAX;
    } else if (!(w.flags & WIRE_FRAGS_MORE)) {
        copies_give_back(c, &back);
    }
}

static void on_report(struct ckpt *c, struct wire_msg *m)
{
    struct wire_report w;
    struct ckpt_err err = { 0 };
    memcpy(&w, wire_body(m), sizeof(w));
    struct lib_op *op = lib_op_find(c, w.op);
    if (!op || !op->load || op->final || !op->state)
        return;
    enum ckpt_status st = report_take(op->state, m, &err);
    if (st != CKPT_OK)
        lib_op_give_up(c, op, st, err_text(&err));
}

static void on_message(struct ckpt *c, struct wire_msg *m)
{
    pthread_mutex_lock(&c->lock);
    client_acked(c, m->head.ack);
    switch (m->head.type) {
    case WIRE_STATE_OK:
        on_state_ok(c, m);
        break;
    case WIRE_REFUSED:
        on_refused(c, m);
        break;
    case WIRE_GRANT:
        on_grant(c, m);
        break;
    case WIRE_OP:
        on_op(c, m);
        break;
    case WIRE_FRAGS:
        on_frags(c, m);
        break;
    case WIRE_REPORT:
        on_report(c, m);
        break;
    case WIRE_LISTED:
        list_take(c, m);
        break;
    default: /* ACK and what later daemons may say */
        break;
    }
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
    wire_close_fds(m);
}

/* -- the link ------------------------------------------------------------- */

static bool stopping(struct ckpt *c)
{
    pthread_mutex_lock(&c->lock);
    bool stop = c->shared.stop || c->shared.broken;
    pthread_mutex_unlock(&c->lock);
    return stop;
}

/* The next piece of what does not need ckptd; false: there is none.  *ret_in_air: copies are
 * under way. */
static bool work(struct ckpt *c, bool *ret_in_air)
{
    *ret_in_air = false;
    return copies_land_any(c, ret_in_air) || copies_fill_any(c) || audit_any(c) ||
           slots_pin_early(c);
}

enum ckpt_status transfer_pause(struct ckpt *c, int fd, int64_t deadline_ns)
{
    struct pollfd p = { .fd = fd, .events = POLLIN };
    while (!stopping(c)) {
        bool in_air;
        bool worked = work(c, &in_air);
        int64_t left = deadline_ns - lib_now_ns();
        uint64_t most = worked || left <= 0 ? 0 : in_air ? 1 : STOP_LOOK_MS;
        if (poll(&p, 1, (int)min_u64(most, (uint64_t)left / 1000000 + 1)) > 0)
            return CKPT_OK;
        if (left <= 0)
            return CKPT_TIMEOUT;
    }
    return CKPT_CANCELLED;
}

/* The daemon lost everything of this session (both its processes died): a fresh
 * session under the same launch; what was under way has failed. */
static enum ckpt_status start_over(struct ckpt *c, int64_t deadline, bool *ret_refused,
                                   struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_OK;
    pthread_mutex_lock(&c->lock);
    client_drop_queue(c);
    c->shared.next_seq = 1;
    for (size_t i = 0; i < LIB_OPS; i++)
        if (c->shared.ops[i].id)
            lib_op_end(c, &c->shared.ops[i], CKPT_DAEMON_GONE,
                       "ckptd died together with what it had not finished");
    /* Now, under the same lock: a save that begins meanwhile comes after its state. */
    for (struct ckpt_state *s = c->shared.states; st == CKPT_OK && s; s = s->next)
        if (s->shared.announced)
            st = state_announce(s, err);
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
    if (st == CKPT_OK)
        st = connect_daemon(c, deadline, err);
    if (st == CKPT_OK)
        st = client_hello(c, false, deadline, ret_refused, err);
    return st;
}

static void drop_socket(struct ckpt *c)
{
    int fd = c->fd;
    c->fd = -1; /* first: a forked child must never find a closed number here */
    if (fd >= 0)
        close(fd);
}

/* A message that makes no sense: what has our memory in its hands fails; what is staged
 * goes on, and ckptd says how after the reconnect.  Another version will not get better. */
static void distrust(struct ckpt *c, enum ckpt_status st, const struct ckpt_err *err)
{
    pthread_mutex_lock(&c->lock);
    for (size_t i = 0; st == CKPT_CORRUPT && i < LIB_OPS; i++)
        if (c->shared.ops[i].id && !c->shared.ops[i].copied)
            lib_op_give_up(c, &c->shared.ops[i], st, err_text(err));
    if (st == CKPT_UNSUPPORTED)
        lib_break(c, err);
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
}

/* What a load had under way is gone with the worker; ckpt_restore asks again. */
static void unlink_daemon(struct ckpt *c)
{
    pthread_mutex_lock(&c->lock);
    c->shared.linked = false;
    c->shared.unlinked_ns = lib_now_ns();
    drop_socket(c);
    for (size_t i = 0; i < LIB_OPS; i++)
        if (c->shared.ops[i].id && c->shared.ops[i].load)
            lib_op_give_up(c, &c->shared.ops[i], CKPT_DAEMON_GONE, "ckptd's worker died");
    list_lost(c);
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
}

/* Comes back to the daemon, for as long as it takes; true unless the context ends.  Only
 * what the daemon itself refuses ends it: a socket that is not there may come back. */
static bool relink(struct ckpt *c)
{
    unlink_daemon(c);
    while (!stopping(c)) {
        struct ckpt_err err = { 0 };
        bool refused = false;
        int64_t deadline = lib_now_ns() + (int64_t)c->timeout_ms * 1000000;
        enum ckpt_status st = connect_daemon(c, lib_now_ns() + RELINK_CONNECT_NS, &err);
        if (st == CKPT_OK)
            st = client_hello(c, true, deadline, &refused, &err);
        if (refused && st == CKPT_NOT_FOUND) {
            refused = false;
            err = (struct ckpt_err){ 0 };
            st = start_over(c, deadline, &refused, &err);
        }
        if (st == CKPT_OK)
            return true;
        if (st == CKPT_UNSUPPORTED || (refused && status_class(st) == CKPT_CLASS_CALLER)) {
            pthread_mutex_lock(&c->lock);
            lib_break(c, &err);
            pthread_mutex_unlock(&c->lock);
            return false;
        }
        drop_socket(c);
        st = transfer_pause(c, -1, lib_now_ns() + RELINK_PAUSE_NS);
        (void)st; /* when the context ends, the loop does */
    }
    return false;
}

/* Takes all messages that have come; CKPT_OK when there are no more. */
static enum ckpt_status drain(struct ckpt *c, struct ckpt_err *err)
{
    for (;;) {
        enum ckpt_status st = wire_recv(c->fd, c->in, err);
        if (st == CKPT_BUSY)
            return CKPT_OK;
        if (st != CKPT_OK)
            return st;
        on_message(c, c->in);
    }
}

/* in_air: copies are under way, whose end nobody tells: looked for every millisecond. */
static void sleep_for_work(struct ckpt *c, bool full, bool in_air)
{
    uint64_t n;
    struct pollfd p[2] = { { .fd = c->fd, .events = (short)(POLLIN | (full ? POLLOUT : 0)) },
                           { .fd = c->wake_fd, .events = POLLIN } };
    int ms = in_air ? 1 : 1000;
    if (c->pace_ns) { /* a slot waits for its time */
        int64_t left = (c->pace_ns - lib_now_ns() + 999999) / 1000000;
        ms = left < ms ? (int)(left > 0 ? left : 0) : ms;
        c->pace_ns = 0;
    }
    poll(p, 2, ms);
    if (p[1].revents & POLLIN) {
        ssize_t got = read(c->wake_fd, &n, sizeof(n));
        (void)got;
    }
}

/* The last words.  A socket that is closed with unread messages resets the connection, and
 * the daemon would see that before it sees ours: so nothing more may come, and what came
 * is taken. */
static void say_bye(struct ckpt *c)
{
    struct ckpt_err err = { 0 };
    enum ckpt_status st = client_flush(c, &err);
    wire_begin(c->out, WIRE_BYE, NULL);
    if (st == CKPT_OK)
        st = wire_send(c->fd, c->out, &err);
    shutdown(c->fd, SHUT_RD);
    while (st == CKPT_OK) { /* failed: the daemon sees the end of the connection in any case */
        st = wire_recv(c->fd, c->in, &err);
        wire_close_fds(c->in);
    }
}

/* A broken context copies no more, but what is under way may still land, and its states be freed. */
static void await_close(struct ckpt *c)
{
    pthread_mutex_lock(&c->lock);
    while (!c->shared.stop) {
        bool left;
        pthread_mutex_unlock(&c->lock);
        bool did = copies_land_any(c, &left);
        pthread_mutex_lock(&c->lock);
        if (!did && !c->shared.stop && !copies_bury_one(c))
            (void)lib_wait_changed(c, left ? lib_now_ns() + LATE_LOOK_NS : INT64_MAX);
    }
    pthread_mutex_unlock(&c->lock);
}

static void *transfer_main(void *arg)
{
    struct ckpt *c = arg;
    gpu_cuda_own_thread();
    while (!stopping(c)) {
        struct ckpt_err err = { 0 };
        enum ckpt_status sent = client_flush(c, &err);
        enum ckpt_status st = sent == CKPT_BUSY ? CKPT_OK : sent;
        if (st == CKPT_OK)
            st = drain(c, &err);
        if (st != CKPT_OK) {
            distrust(c, st, &err);
            if (!relink(c))
                break;
            continue;
        }
        bool in_air;
        if (!work(c, &in_air))
            sleep_for_work(c, sent == CKPT_BUSY, in_air);
    }
    copies_land_last(c);
    await_close(c);
    if (c->fd >= 0 && c->shared.linked)
        say_bye(c);
    lib_let_go(c);
    pthread_mutex_lock(&c->lock);
    c->shared.ended = true;
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

enum ckpt_status transfer_start(struct ckpt *c, struct ckpt_err *err)
{
    int e = own_thread_start(&c->thread, transfer_main, c);
    if (e)
        return err_errno(err, e, "starting the transfer thread");
    c->thread_running = true;
    return CKPT_OK;
}

bool transfer_stop(struct ckpt *c)
{
    if (c->thread_running) {
        pthread_mutex_lock(&c->lock);
        for (struct ckpt_state *s = c->shared.states; s; s = s->next)
            audit_release(c, s, "the context was closed");
        for (size_t i = 0; i < LIB_OPS; i++)
            if (c->shared.ops[i].id && !c->shared.ops[i].copied)
                lib_op_give_up(c, &c->shared.ops[i], CKPT_CANCELLED,
                               "the context was closed while the state was being copied");
        c->shared.stop = true;
        pthread_cond_broadcast(&c->changed);
        client_wake(c);
        int64_t deadline = lib_now_ns() + LIB_LAND_NS + STOP_NS;
        while (!c->shared.ended && (lib_wait_changed(c, deadline) || lib_now_ns() < deadline))
            ;
        bool ended = c->shared.ended;
        pthread_mutex_unlock(&c->lock);
        if (!ended) {
            pthread_detach(c->thread); /* what it has then goes with the process */
            return false;
        }
        pthread_join(c->thread, NULL);
        c->thread_running = false;
    }
    return true;
}
