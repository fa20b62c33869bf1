/* The transfer thread: the only one that speaks with the daemon and copies between
 * slots and the caller's memory.  Its loop: send what is queued, take what has come,
 * fill one granted slot, sleep when there is nothing. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>

#include "libckpt/context.h"

#define RELINK_PAUSE_MS 100

/* -- arena ---------------------------------------------------------------- */

static enum ckpt_status map_arena(struct ckpt_state *s, int fd, const struct wire_state_ok *ok,
                                  struct ckpt_err *err)
{
    uint64_t bytes = ok->slots * ok->slot_bytes;
    if (ok->slot_bytes != s->decl.slot_bytes || ok->slots < 1)
        return err_set(err, CKPT_CORRUPT, "ckptd gave an arena of %u slots of %llu bytes",
                       ok->slots, (unsigned long long)ok->slot_bytes);
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
        return err_errno(err, errno, "mapping the arena of %llu bytes", (unsigned long long)bytes);
    madvise(p, bytes, MADV_DONTFORK);
    madvise(p, bytes, MADV_POPULATE_WRITE); /* old kernels: touched at the first save instead */
    s->arena = p;
    s->slots = ok->slots;
    s->slot_bytes = ok->slot_bytes;
    s->ram_left = ok->ram_left_bytes;
    s->pinned = s->ctx->gpu->ops->pin(s->ctx->gpu, p, bytes, NULL) == CKPT_OK;
    struct lib_grants *g = &s->shared.grants;
    g->cap = ok->slots;
    g->slot = calloc(g->cap, sizeof(*g->slot));
    g->op = calloc(g->cap, sizeof(*g->op));
    return g->slot && g->op ? CKPT_OK : err_set(err, CKPT_NO_MEMORY, "seal: out of memory");
}

void transfer_forget(struct ckpt_state *s)
{
    uint64_t bytes = s->slots * s->slot_bytes;
    if (!s->arena)
        return;
    if (s->pinned)
        s->ctx->gpu->ops->unpin(s->ctx->gpu, s->arena, bytes);
    munmap(s->arena, bytes);
    s->arena = NULL;
    free(s->shared.grants.slot);
    free(s->shared.grants.op);
    s->shared.grants = (struct lib_grants){ 0 };
}

static struct ckpt_state *find_state(struct ckpt *c, uint32_t number)
{
    struct ckpt_state *s = c->shared.states;
    while (s && s->number != number)
        s = s->next;
    return s;
}

/* -- messages from the daemon; lock held ---------------------------------- */

static void on_state_ok(struct ckpt *c, struct wire_msg *m)
{
    struct wire_state_ok ok;
    memcpy(&ok, wire_body(m), sizeof(ok));
    struct ckpt_state *s = find_state(c, ok.state);
    if (!s || s->shared.answered || m->fd_count != 1)
        return;
    transfer_forget(s);
    s->shared.err = (struct ckpt_err){ 0 };
    pthread_mutex_unlock(&c->lock); /* populating takes long; nobody else uses the arena yet */
    struct ckpt_err err = { 0 };
    enum ckpt_status st = map_arena(s, m->fds[0], &ok, &err);
    pthread_mutex_lock(&c->lock);
    if (st != CKPT_OK)
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
    if (r.type != WIRE_STATE || !s || s->shared.answered)
        return;
    s->shared.err = (struct ckpt_err){ 0 };
    err_set(&s->shared.err,
            status_known(r.status) && r.status ? (enum ckpt_status)r.status : CKPT_BUG, "%s", text);
    s->shared.answered = true;
}

static enum ckpt_status queue_full(struct ckpt *c, const struct lib_op *op, uint32_t arena_slot,
                                   uint32_t slot, bool last)
{
    struct wire_full full = { .op = op->id,
                              .state = op->state->number,
                              .arena_slot = arena_slot,
                              .slot = slot,
                              .flags = last ? WIRE_FULL_LAST : 0 };
    wire_begin(c->compose, WIRE_FULL, &full);
    return client_queue(c, c->compose, -1);
}

static void copied(struct ckpt *c, struct lib_op *op)
{
    op->copied = true;
    if (op->state->shared.copying == op->id)
        op->state->shared.copying = 0;
    c->shared.info.copy_ns = (uint64_t)(lib_now_ns() - op->begun_ns);
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
    if (w.status != CKPT_OK) {
        char text[512];
        wire_text(m, text, sizeof(text));
        lib_op_end(c, op, status_known(w.status) ? (enum ckpt_status)w.status : CKPT_BUG, text);
        return;
    }
    if (w.level > op->level)
        op->level = w.level;
    bool first = !op->begun;
    op->begun = true;
    if (w.flags & WIRE_OP_FINAL) {
        lib_op_end(c, op, CKPT_OK, "");
    } else if (first && !op->load && op->state && op->state->decl.slot_count == 0) {
        copied(c, op); /* this rank writes nothing: say so at once */
        if (queue_full(c, op, UINT32_MAX, 0, true) != CKPT_OK)
            lib_op_end(c, op, CKPT_NO_MEMORY, "save: out of memory");
    }
}

static void on_grant(struct ckpt *c, const struct wire_msg *m)
{
    struct wire_grant w;
    memcpy(&w, wire_body(m), sizeof(w));
    struct ckpt_state *s = find_state(c, w.state);
    const struct lib_op *op = lib_op_find(c, w.op);
    if (!s || !op || op->state != s || op->final || op->load || w.arena_slot >= s->slots ||
        client_full_unacked(c, w.op, w.state, w.arena_slot))
        return;
    struct lib_grants *g = &s->shared.grants;
    for (uint32_t i = 0; i < g->count; i++)
        if (g->slot[(g->head + i) % g->cap] == w.arena_slot)
            return; /* said again after a reconnect */
    if (g->count == g->cap)
        return;
    uint32_t at = (g->head + g->count++) % g->cap;
    g->slot[at] = w.arena_slot;
    g->op[at] = w.op;
}

/* -- restoring: fragments to tensors -------------------------------------- */

static bool read_frag(struct cursor *tail, struct wire_frag *f, struct box *box)
{
    cursor_copy(tail, f, sizeof(*f));
    if (!cursor_ok(tail) || f->ndim > CKPT_DIMS_MAX)
        return false;
    memset(box, 0, sizeof(*box));
    box->ndim = f->ndim;
    for (uint32_t d = 0; d < f->ndim; d++)
        box->off[d] = cursor_u64(tail);
    for (uint32_t d = 0; d < f->ndim; d++)
        box->len[d] = cursor_u64(tail);
    return cursor_ok(tail);
}

/* Our own daemon's word is checked all the same: a wrong one must not scribble over the
 * trainer's memory. */
static enum ckpt_status put_frag(struct ckpt_state *s, const struct wire_frag *f,
                                 const struct box *box, const uint8_t *slot, struct ckpt_err *err)
{
    const struct decl *d = &s->decl;
    if (f->tensor >= d->tensor_count || f->piece >= d->tensors[f->tensor].piece_count)
        return err_set(err, CKPT_CORRUPT, "restore: ckptd named tensor %u, piece %u", f->tensor,
                       f->piece);
    const struct decl_tensor *t = &d->tensors[f->tensor];
    size_t piece = t->first_piece + f->piece;
    const struct box *held = &d->pieces[piece].box;
    unsigned bits = dtype_bits(t->dtype);
    if (box->ndim != t->ndim || box_check(box, t->shape, bits, NULL) != CKPT_OK ||
        !box_contains(held, box) || f->offset > s->slot_bytes ||
        box_bytes(box, bits) > s->slot_bytes - f->offset)
        return err_set(err, CKPT_CORRUPT, "restore: ckptd sent a fragment outside tensor \"%s\"",
                       t->name);
    return s->ctx->gpu->ops->copy_in(s->ctx->gpu, NULL, slot + f->offset, box, bits, held,
                                     &s->at[piece], err);
}

static enum ckpt_status put_frags(struct ckpt_state *s, const struct wire_msg *m,
                                  const struct wire_frags *w, struct ckpt_err *err)
{
    size_t len;
    const uint8_t *bytes = wire_tail_of(m, &len);
    struct cursor tail = cursor_over(bytes, len);
    enum ckpt_status st = CKPT_OK;
    for (uint32_t i = 0; st == CKPT_OK && i < w->count; i++) {
        struct wire_frag f;
        struct box box;
        if (!read_frag(&tail, &f, &box))
            return err_set(err, CKPT_CORRUPT, "restore: ckptd sent a cut message");
        st = put_frag(s, &f, &box, s->arena + w->arena_slot * s->slot_bytes, err);
    }
    return st;
}

static void on_frags(struct ckpt *c, const struct wire_msg *m)
{
    struct wire_frags w;
    memcpy(&w, wire_body(m), sizeof(w));
    struct ckpt_state *s = find_state(c, w.state);
    struct lib_op *op = lib_op_find(c, w.op);
    if (!s || !s->arena || w.arena_slot >= s->slots)
        return;
    struct ckpt_err err = { 0 };
    enum ckpt_status st = CKPT_OK;
    if (op && !op->final && op->state == s) {
        s->shared.busy = true;
        pthread_mutex_unlock(&c->lock);
        st = put_frags(s, m, &w, &err);
        pthread_mutex_lock(&c->lock);
        s->shared.busy = false;
        op->begun = true;
        op->done_bytes = w.done_bytes;
        op->total_bytes = w.total_bytes;
        if (st != CKPT_OK)
            lib_op_end(c, op, st, err_text(&err));
    }
    if (w.flags & WIRE_FRAGS_MORE)
        return;
    struct wire_back back = { .op = w.op, .state = w.state, .arena_slot = w.arena_slot };
    wire_begin(c->compose, WIRE_BACK, &back);
    if (client_queue(c, c->compose, -1) != CKPT_OK && op)
        lib_op_end(c, op, CKPT_NO_MEMORY, "restore: out of memory");
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
    default: /* ACK and what later daemons may say */
        break;
    }
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
    wire_close_fds(m);
}

/* -- saving: tiles to slots ----------------------------------------------- */

static enum ckpt_status fill_slot(struct ckpt_state *s, uint32_t slot, uint8_t *to,
                                  struct ckpt_err *err)
{
    struct decl_walk w = decl_walk_slot(&s->decl, slot);
    struct decl_tile tile;
    enum ckpt_status st = CKPT_OK;
    while (st == CKPT_OK && decl_walk_next(&w, &tile))
        st = s->ctx->gpu->ops->copy_out(s->ctx->gpu, NULL, to + tile.place.offset, &tile.box,
                                        dtype_bits(s->decl.tensors[tile.tensor].dtype),
                                        &s->decl.pieces[tile.piece].box, &s->at[tile.piece], err);
    return st;
}

static void fail_op(struct ckpt *c, struct lib_op *op, enum ckpt_status st,
                    const struct ckpt_err *err)
{
    struct wire_fail fail = { .op = op->id, .status = st };
    wire_begin(c->compose, WIRE_FAIL, &fail);
    wire_tail(c->compose, err_text(err), strlen(err_text(err)));
    lib_op_end(c, op, st, err_text(err));
    st = client_queue(c, c->compose, -1);
    (void)st; /* out of memory: the daemon's deadline ends the save */
}

/* Fills the next granted slot of one state; false if there is none.  Lock held. */
static bool fill_one(struct ckpt *c, struct ckpt_state *s)
{
    struct lib_grants *g = &s->shared.grants;
    if (g->count == 0)
        return false;
    uint32_t arena_slot = g->slot[g->head];
    uint64_t id = g->op[g->head];
    g->head = (g->head + 1) % g->cap;
    g->count--;
    struct lib_op *op = lib_op_find(c, id);
    if (!op || op->final || op->next_slot >= s->decl.slot_count)
        return true;
    uint32_t slot = op->next_slot++;
    struct ckpt_err err = { 0 };
    s->shared.busy = true;
    pthread_mutex_unlock(&c->lock);
    enum ckpt_status st = fill_slot(s, slot, s->arena + arena_slot * s->slot_bytes, &err);
    pthread_mutex_lock(&c->lock);
    s->shared.busy = false;
    if (!op->final && st == CKPT_OK) {
        bool last = slot + 1 == s->decl.slot_count;
        st = queue_full(c, op, arena_slot, slot, last);
        if (last)
            copied(c, op);
    }
    if (!op->final && st != CKPT_OK)
        fail_op(c, op, st, &err);
    pthread_cond_broadcast(&c->changed);
    return true;
}

static bool fill_any(struct ckpt *c)
{
    bool did = false;
    pthread_mutex_lock(&c->lock);
    for (struct ckpt_state *s = c->shared.states; s && !did; s = s->next)
        did = s->arena && fill_one(c, s);
    pthread_mutex_unlock(&c->lock);
    return did;
}

/* -- the link ------------------------------------------------------------- */

/* The daemon lost everything of this session (both its processes died): a fresh
 * session under the same launch; what was under way has failed. */
static enum ckpt_status start_over(struct ckpt *c, int64_t deadline, struct ckpt_err *err)
{
    pthread_mutex_lock(&c->lock);
    client_drop_queue(c);
    c->shared.next_seq = 1;
    for (size_t i = 0; i < LIB_OPS; i++)
        if (c->shared.ops[i].id)
            lib_op_end(c, &c->shared.ops[i], CKPT_DAEMON_GONE,
                       "ckptd died together with what it had not finished");
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
    *err = (struct ckpt_err){ 0 };
    enum ckpt_status st = connect_daemon(c, deadline, err);
    if (st == CKPT_OK)
        st = client_hello(c, false, deadline, err);
    pthread_mutex_lock(&c->lock);
    for (struct ckpt_state *s = c->shared.states; st == CKPT_OK && s; s = s->next)
        if (s->decl.finished)
            st = state_announce(s, err);
    pthread_mutex_unlock(&c->lock);
    return st;
}

static bool stopping(struct ckpt *c)
{
    pthread_mutex_lock(&c->lock);
    bool stop = c->shared.stop || c->shared.broken;
    pthread_mutex_unlock(&c->lock);
    return stop;
}

/* What a load had under way is gone with the worker; ckpt_restore asks again. */
static void unlink_daemon(struct ckpt *c)
{
    pthread_mutex_lock(&c->lock);
    c->shared.linked = false;
    close(c->fd);
    c->fd = -1;
    for (size_t i = 0; i < LIB_OPS; i++)
        if (c->shared.ops[i].id && c->shared.ops[i].load)
            lib_op_end(c, &c->shared.ops[i], CKPT_DAEMON_GONE, "ckptd's worker died");
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
}

/* Comes back to the daemon, for as long as it takes; true unless the context ends. */
static bool relink(struct ckpt *c)
{
    unlink_daemon(c);
    while (!stopping(c)) {
        struct ckpt_err err = { 0 };
        int64_t deadline = lib_now_ns() + (int64_t)c->timeout_ms * 1000000;
        enum ckpt_status st = connect_daemon(c, lib_now_ns() + 1000000000, &err);
        if (st == CKPT_OK)
            st = client_hello(c, true, deadline, &err);
        if (st == CKPT_NOT_FOUND)
            st = start_over(c, deadline, &err);
        if (st == CKPT_OK)
            return true;
        if (status_class(st) == CKPT_CLASS_CALLER) {
            pthread_mutex_lock(&c->lock);
            err.status = st;
            lib_break(c, &err);
            pthread_mutex_unlock(&c->lock);
            return false;
        }
        if (c->fd >= 0)
            close(c->fd);
        c->fd = -1;
        struct pollfd p = { .fd = c->wake_fd, .events = 0 };
        poll(&p, 1, RELINK_PAUSE_MS);
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

static void sleep_for_work(struct ckpt *c, bool full)
{
    uint64_t n;
    struct pollfd p[2] = { { .fd = c->fd, .events = (short)(POLLIN | (full ? POLLOUT : 0)) },
                           { .fd = c->wake_fd, .events = POLLIN } };
    poll(p, 2, 1000);
    if (p[1].revents & POLLIN) {
        ssize_t got = read(c->wake_fd, &n, sizeof(n));
        (void)got;
    }
}

static void *transfer_main(void *arg)
{
    struct ckpt *c = arg;
    while (!stopping(c)) {
        struct ckpt_err err = { 0 };
        enum ckpt_status sent = client_flush(c, &err);
        enum ckpt_status st = sent == CKPT_BUSY ? CKPT_OK : sent;
        if (st == CKPT_OK)
            st = drain(c, &err);
        if (st != CKPT_OK) {
            if (!relink(c))
                break;
            continue;
        }
        if (!fill_any(c))
            sleep_for_work(c, sent == CKPT_BUSY);
    }
    return NULL;
}

enum ckpt_status transfer_start(struct ckpt *c, struct ckpt_err *err)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old); /* the trainer's signals are not ours */
    int e = pthread_create(&c->thread, NULL, transfer_main, c);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (e)
        return err_errno(err, e, "starting the transfer thread");
    c->thread_running = true;
    return CKPT_OK;
}

void transfer_stop(struct ckpt *c)
{
    if (c->thread_running) {
        pthread_mutex_lock(&c->lock);
        c->shared.stop = true;
        pthread_cond_broadcast(&c->changed);
        pthread_mutex_unlock(&c->lock);
        client_wake(c);
        pthread_join(c->thread, NULL);
        c->thread_running = false;
    }
    if (c->fd >= 0 && c->shared.linked) {
        struct ckpt_err err = { 0 };
        enum ckpt_status st = client_flush(c, &err);
        wire_begin(c->out, WIRE_BYE, NULL);
        st = st == CKPT_OK ? wire_send(c->fd, c->out, &err) : st;
        (void)st; /* the daemon sees the end of the connection in any case */
    }
}
