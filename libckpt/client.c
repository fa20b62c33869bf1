/* The link to the daemon: numbered messages that are kept until acknowledged, and HELLO.
 * Numbers are given when a message is queued, so a reconnect repeats the same bytes. */
#include <errno.h>
#include <sys/syscall.h>

#include "libckpt/context.h"

/* ckptd keeps the deadline of HELLO itself and then says who is missing: its answer is
 * given a little longer. */
#define ANSWER_NS INT64_C(1000000000)

void client_wake(struct ckpt *c)
{
    uint64_t one = 1;
    while (write(c->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR)
        continue; /* EAGAIN: it is awake already */
}

enum ckpt_status client_queue(struct ckpt *c, struct wire_msg *m, int fd)
{
    struct lib_out *o = malloc(sizeof(*o) + m->len);
    if (!o) {
        if (fd >= 0)
            close(fd);
        return CKPT_NO_MEMORY;
    }
    m->head.seq = c->shared.next_seq++;
    m->head.fds = fd >= 0;
    *o = (struct lib_out){ .seq = m->head.seq, .fd = fd, .len = m->len };
    memcpy(o->bytes, m->bytes, m->len);
    *c->shared.outs_tail = o;
    c->shared.outs_tail = &o->next;
    client_wake(c);
    return CKPT_OK;
}

static void out_free(struct lib_out *o)
{
    if (o->fd >= 0)
        close(o->fd);
    free(o);
}

void client_acked(struct ckpt *c, uint64_t ack)
{
    while (c->shared.outs && c->shared.outs->sent && c->shared.outs->seq <= ack) {
        struct lib_out *o = c->shared.outs;
        c->shared.outs = o->next;
        out_free(o);
    }
    if (!c->shared.outs)
        c->shared.outs_tail = &c->shared.outs;
}

void client_drop_queue(struct ckpt *c)
{
    while (c->shared.outs) {
        struct lib_out *o = c->shared.outs;
        c->shared.outs = o->next;
        out_free(o);
    }
    c->shared.outs_tail = &c->shared.outs;
}

bool client_full_unacked(struct ckpt *c, uint64_t op, uint32_t state, uint32_t slot)
{
    for (const struct lib_out *o = c->shared.outs; o; o = o->next) {
        struct wire_head head;
        struct wire_full full;
        memcpy(&head, o->bytes, sizeof(head));
        if (head.type != WIRE_FULL)
            continue;
        memcpy(&full, o->bytes + sizeof(head), sizeof(full));
        if (full.op == op && full.state == state && full.arena_slot == slot)
            return true;
    }
    return false;
}

/* The next message that has not gone out on this socket, copied to c->out. */
static bool next_unsent(struct ckpt *c, uint64_t *ret_seq)
{
    struct lib_out *o = c->shared.outs;
    while (o && o->sent)
        o = o->next;
    if (!o)
        return false;
    memcpy(c->out->bytes, o->bytes, o->len);
    c->out->len = o->len;
    c->out->fd_count = o->fd >= 0;
    c->out->fds[0] = o->fd; /* stays open: only an acknowledgement frees it, in this thread */
    *ret_seq = o->seq;
    return true;
}

static void mark_sent(struct ckpt *c, uint64_t seq)
{
    for (struct lib_out *o = c->shared.outs; o; o = o->next)
        if (o->seq == seq)
            o->sent = true;
}

enum ckpt_status client_flush(struct ckpt *c, struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_OK;
    uint64_t seq;
    pthread_mutex_lock(&c->lock);
    while (st == CKPT_OK && next_unsent(c, &seq)) {
        st = wire_send(c->fd, c->out, err);
        if (st == CKPT_OK)
            mark_sent(c, seq);
    }
    pthread_mutex_unlock(&c->lock);
    return st;
}

static enum ckpt_status wait_readable(struct ckpt *c, int64_t deadline_ns, struct ckpt_err *err)
{
    enum ckpt_status st = transfer_pause(c, c->fd, deadline_ns);
    if (st == CKPT_TIMEOUT)
        return err_set(err, st, "ckptd did not answer in time");
    return st == CKPT_OK ? st : err_set(err, st, "the context is being closed");
}

/* ckptd may have taken up a fresh session and died before it could say so: then the session is
 * resumed, and yet all that its first answer says is news. */
static enum ckpt_status take_hello_ok(struct ckpt *c, const struct wire_msg *m,
                                      struct ckpt_err *err)
{
    struct wire_hello_ok ok;
    bool resumed = !c->fresh;
    memcpy(&ok, wire_body(m), sizeof(ok));
    if (ok.slot_bytes < CKPT_SLOT_BYTES_MIN || ok.slot_bytes > CKPT_SLOT_BYTES_MAX ||
        ok.slot_bytes % CKPT_BLOCK)
        return err_set(err, CKPT_CORRUPT, "ckptd says that its slots have %u bytes", ok.slot_bytes);
    pthread_mutex_lock(&c->lock);
    c->shared.ok_flags = ok.flags;
    c->shared.slot_bytes = ok.slot_bytes;
    memcpy(c->shared.node, ok.node, sizeof(ok.node));
    if (!resumed) {
        c->shared.point = ok.point;
        wire_text(m, c->shared.why, sizeof(c->shared.why));
    }
    for (struct lib_out *o = c->shared.outs; resumed && o; o = o->next)
        o->sent = o->seq <= m->head.ack;
    client_acked(c, m->head.ack);
    if (!resumed) {
        c->shared.behind = c->shared.epoch != 0 && c->shared.epoch != ok.epoch;
        c->shared.epoch = ok.epoch;
        c->shared.head = ok.point;
        c->shared.has_head = ok.flags & WIRE_HAS_POINT;
        c->shared.saved = false;
        c->shared.progress_sent = false;
    }
    c->shared.linked = true;
    c->fresh = false;
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
    return CKPT_OK;
}

static enum ckpt_status take_refusal(const struct wire_msg *m, struct ckpt_err *err)
{
    struct wire_refused r;
    char text[sizeof(err->text)];
    memcpy(&r, wire_body(m), sizeof(r));
    wire_text(m, text, sizeof(text));
    enum ckpt_status st =
        status_known(r.status) && r.status ? (enum ckpt_status)r.status : CKPT_BUG;
    return err_set(err, st, "%s", text[0] ? text : status_sentence(st));
}

static enum ckpt_status send_hello(struct ckpt *c, bool resumed, int64_t deadline_ns,
                                   struct ckpt_err *err)
{
    struct wire_hello hello = {
        .mode = c->mode == CKPT_TRAIN ? WIRE_TRAIN : WIRE_READ,
        .flags = c->hello_flags | (resumed ? WIRE_HELLO_RESUMED : 0),
        .pid = (uint32_t)c->pid,
        .rank = c->rank,
        .world = c->world,
    };
    int64_t left = (deadline_ns - lib_now_ns()) / 1000000;
    hello.arrival_ms = left > 0 ? (uint32_t)left : 1;
    hello.epoch = c->shared.epoch; /* written by this thread alone */
    memcpy(hello.session, c->session, sizeof(c->session));
    wire_begin(c->out, WIRE_HELLO, &hello);
    if (!wire_tail_str(c->out, c->job) || !wire_tail_str(c->out, c->launch) ||
        !wire_tail_str(c->out, c->resume))
        return err_set(err, CKPT_LIMIT, "job, launch and resume point are too long together");
    CLEANUP_FD int pidfd = (int)syscall(SYS_pidfd_open, c->pid, 0);
    if (pidfd < 0)
        return err_errno(err, errno, "pidfd_open of this process");
    c->out->fd_count = 1;
    c->out->fds[0] = pidfd;
    c->out->head.fds = 1;
    return wire_send(c->fd, c->out, err);
}

enum ckpt_status client_hello(struct ckpt *c, bool resumed, int64_t deadline_ns, bool *ret_refused,
                              struct ckpt_err *err)
{
    *ret_refused = false;
    c->fresh |= !resumed;
    enum ckpt_status st = send_hello(c, resumed, deadline_ns, err);
    while (st == CKPT_OK) {
        st = wait_readable(c, deadline_ns + ANSWER_NS, err);
        if (st == CKPT_OK)
            st = wire_recv(c->fd, c->in, err);
        if (st == CKPT_BUSY) {
            st = CKPT_OK;
            continue;
        }
        if (st != CKPT_OK)
            break;
        if (c->in->head.type == WIRE_HELLO_OK)
            return take_hello_ok(c, c->in, err);
        if (c->in->head.type == WIRE_REFUSED) {
            *ret_refused = true;
            return take_refusal(c->in, err);
        }
        wire_close_fds(c->in);
    }
    return st;
}
