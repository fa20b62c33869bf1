/* The loop of the worker. */
#include "ckptd/control.h"

#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>

#include "ckptd/log.h"
#include "ckptd/notify.h"

/* epoll tags: low byte says what, the rest which. */
enum tag {
    TAG_LISTEN = 0,
    TAG_PIDFD = 1,
    TAG_CONN = 2,
    TAG_DONE = 3,
    TAG_KEEPER = 4,
    TAG_SIGNAL = 5
};

#define ACCEPTS_A_TURN   64 /* then the clients that are here get theirs */
#define LAST_WORDS_TURNS 64 /* a child that it left behind may go on talking */

static struct wire_msg message, received;

struct wire_msg *control_msg(void)
{
    return &message;
}

bool control_watch(struct control *c, int fd, uint64_t tag, bool write)
{
    struct epoll_event ev = { .events = EPOLLIN | (write ? EPOLLOUT : 0), .data.u64 = tag };
    return epoll_ctl(c->epoll_fd, EPOLL_CTL_MOD, fd, &ev) == 0 ||
           (errno == ENOENT && epoll_ctl(c->epoll_fd, EPOLL_CTL_ADD, fd, &ev) == 0);
}

static void unwatch(struct control *c, int fd)
{
    (void)epoll_ctl(c->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
}

/* -- clients ---------------------------------------------------------------------- */

struct client *client_new(struct control *c)
{
    uint32_t at = 0;
    while (at < CONTROL_CLIENTS_MAX && c->clients[at])
        at++;
    struct client *cl = at < CONTROL_CLIENTS_MAX ? calloc(1, sizeof(*cl)) : NULL;
    if (!cl)
        return NULL;
    cl->s = calloc(1, sizeof(*cl->s));
    if (!cl->s) {
        free(cl);
        return NULL;
    }
    cl->number = at;
    cl->pidfd = -1;
    cl->part.fd = -1;
    cl->ledger.fd = -1;
    for (uint32_t i = 0; i < SESSION_STATES_MAX; i++) {
        cl->states[i].decl_fd = -1;
        cl->states[i].arena.fd = -1;
    }
    c->clients[at] = cl;
    c->client_end = at < c->client_end ? c->client_end : at + 1;
    c->client_count++;
    return cl;
}

/* Nothing of it is under way any more.  The keeper forgets it too. */
void client_free(struct control *c, struct client *cl)
{
    if (cl->open) {
        keep_drop(c->keep, cl->s->id, 0, 0);
        log_info("session is over", "job=%s rank=%u committed=%" PRIu64 " failed=%" PRIu64,
                 cl->s->job, cl->s->rank, cl->s->saves_committed, cl->s->saves_failed);
    }
    if (cl->conn) {
        cl->conn->client = UINT32_MAX;
        cl->conn->dead = true;
    }
    if (cl->pidfd >= 0) {
        unwatch(c, cl->pidfd);
        close(cl->pidfd);
    }
    for (uint32_t i = 0; i < SESSION_OPS_MAX; i++)
        ledger_op_close(&cl->ledger, i, &cl->areas[i], false);
    for (uint32_t i = 0; i < SESSION_STATES_MAX; i++) {
        struct client_state *t = &cl->states[i];
        if (t->decoded)
            decl_fini(&t->decl);
        arena_close(&t->arena);
        if (t->decl_fd >= 0)
            close(t->decl_fd);
    }
    ledger_close(&cl->ledger);
    select_fini(&cl->asked);
    jobs_part_drop(&cl->part);
    c->clients[cl->number] = NULL;
    c->client_count--;
    control_drain_idle(c, cl->s->job);
    free(cl->s);
    free(cl);
}

struct client *client_by_session(struct control *c, const uint8_t id[16],
                                 const struct client *except)
{
    for (uint32_t i = 0; i < c->client_end; i++)
        if (c->clients[i] && c->clients[i] != except && memcmp(c->clients[i]->s->id, id, 16) == 0)
            return c->clients[i];
    return NULL;
}

void client_send(struct client *cl, struct wire_msg *m)
{
    if (!cl->conn)
        return;
    m->head.ack = cl->s->seq;
    conn_send(cl->conn, m);
}

void control_commit(struct client *cl)
{
    if (cl->open)
        ledger_commit(&cl->ledger, cl->s);
}

void control_submit(struct control *c, struct crew *crew, struct job *j)
{
    c->jobs_out++;
    c->reports_out += j->kind == JOB_REPORT;
    c->drains_out += j->kind >= JOB_DRAIN;
    if (j->client != UINT32_MAX)
        c->clients[j->client]->jobs_out++;
    crew_submit(crew, &j->base);
}

/* A bit for each save of which all slots are here. */
static unsigned staged_ops(const struct session *s)
{
    unsigned bits = 0;
    for (uint32_t i = 0; i < SESSION_OPS_MAX; i++)
        bits |= s->ops[i].phase != OP_NONE && s->ops[i].staged ? 1U << i : 0;
    return bits;
}

enum ckpt_status control_event(struct control *c, struct client *cl, const struct session_event *ev,
                               struct ckpt_err *err)
{
    struct session_actions acts; /* on the stack: sessions' steps may nest */
    acts.count = 0;
    unsigned staged = staged_ops(cl->s);
    enum ckpt_status st = session_step(cl->s, ev, c->now, &acts, err);
    if (st != CKPT_OK)
        return st;
    if (staged_ops(cl->s) & ~staged)
        counters_staged(c->counters, cl->s->job, c->now);
    if (ev->kind == SESSION_SAVE)
        counters_step(c->counters, cl->s->job, cl->s->epoch, ev->step, c->now);
    control_commit(cl); /* the ledger before the actions */
    control_act(c, cl, &acts);
    return CKPT_OK;
}

void control_tell(struct control *c, struct client *cl, const struct session_event *ev)
{
    struct ckpt_err err = { 0 };
    if (control_event(c, cl, ev, &err) != CKPT_OK)
        log_error("a session refused an event", "kind=%d why=\"%s\"", (int)ev->kind,
                  err_text(&err));
}

/* -- connections --------------------------------------------------------------------- */

static uint64_t conn_tag(struct conn *conn)
{
    return (uint64_t)(uintptr_t)conn << 8 | TAG_CONN; /* addresses have 56 bits or fewer */
}

/* Without descriptors or memory the listener stays readable and the loop would spin: it is
 * looked at again by the timer. */
static void accept_later(struct control *c)
{
    if (!c->accept_waits)
        log_warn("cannot accept connections", "why=\"%m\" connections=%u", c->conn_count);
    c->accept_waits = true;
    unwatch(c, c->listen_fd);
}

static void accept_again(struct control *c)
{
    if (c->accept_waits && c->listen_fd >= 0)
        c->accept_waits = !control_watch(c, c->listen_fd, TAG_LISTEN, false);
    else
        c->accept_waits = false;
}

/* When there is no room for more, the oldest that never said who it is gives its place:
 * whoever means it says HELLO at once, so a flood of silent ones keeps nobody out. */
static bool make_room(struct control *c)
{
    struct conn *oldest = NULL;
    if (c->conn_count < CONTROL_CONNS_MAX)
        return true;
    for (struct conn *conn = c->conns; conn; conn = conn->next) /* the newest first */
        if (conn->client == UINT32_MAX && !conn->dead)
            oldest = conn;
    if (oldest)
        oldest->dead = true; /* closed at the end of this turn */
    return oldest != NULL;
}

static void accept_some(struct control *c)
{
    for (int n = 0; n < ACCEPTS_A_TURN; n++) {
        int fd = accept4(c->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0 && errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
            accept_later(c);
        if (fd < 0)
            return;
        struct ckpt_err err = { 0 };
        struct peer peer;
        struct conn *conn = make_room(c) ? conn_new(fd) : NULL;
        if (!conn) {
            close(fd);
            continue;
        }
        c->counters->node[METER_NODE_CONNECTIONS]++;
        enum ckpt_status st = peer_of(fd, &peer, &err);
        if (st == CKPT_OK)
            st = peer_allowed(&peer, &err);
        if (st != CKPT_OK) {
            control_refuse(conn, WIRE_HELLO, st, err_text(&err));
            conn_free(conn);
            c->counters->node[METER_NODE_REFUSED]++;
            continue;
        }
        conn->peer = peer;
        conn->opened_ns = c->now;
        conn->next = c->conns;
        c->conns = conn;
        c->conn_count++;
        conn->dead = !control_watch(c, fd, conn_tag(conn), false);
    }
}

/* A connection is gone; the session stays until its process is. */
static void on_lost_conn(struct control *c, struct conn *conn)
{
    struct client *cl = conn->client == UINT32_MAX ? NULL : c->clients[conn->client];
    if (!cl)
        return;
    cl->conn = NULL;
    conn->client = UINT32_MAX;
    if (!cl->open)
        cl->over = true;
    else if (!cl->s->dead && cl->s->pid == 0)
        control_lost(c, cl, "closed its connection"); /* no other way to see its death */
    else if (!cl->s->dead)
        control_tell(c, cl, &(struct session_event){ .kind = SESSION_DETACH });
}

static void reap_conns(struct control *c)
{
    for (struct conn **at = &c->conns; *at;) {
        struct conn *conn = *at;
        bool silent = conn->client == UINT32_MAX && c->now - conn->opened_ns > CONTROL_HELLO_NS;
        if (!conn->dead && !silent) {
            at = &conn->next;
            continue;
        }
        conn_flush(conn); /* a last word: why */
        on_lost_conn(c, conn);
        *at = conn->next;
        unwatch(c, conn->fd);
        conn_free(conn);
        c->conn_count--;
    }
}

/* Takes what has come; false if there may be more. */
static bool on_conn(struct control *c, struct conn *conn, uint32_t events)
{
    struct ckpt_err err = { 0 };
    bool all = false;
    if (events & EPOLLOUT)
        conn_flush(conn);
    conn->said_ack = false;
    uint64_t before = 0;
    if (conn->client != UINT32_MAX)
        before = c->clients[conn->client]->s->seq;
    for (int n = 0; n < 64 && !conn->dead; n++) { /* others get their turn */
        enum ckpt_status st = wire_recv(conn->fd, &received, &err);
        all = st == CKPT_BUSY;
        if (all)
            break;
        if (st == CKPT_OK) {
            control_message(c, conn, &received);
            wire_close_fds(&received);
            control_settle(c);
            continue;
        }
        if (st == CKPT_CORRUPT || status_class(st) == CKPT_CLASS_CALLER) {
            c->counters->node[METER_NODE_HOSTILE]++;
            log_warn("a bad message", "pid=%d why=\"%s\"", (int)conn->peer.pid, err_text(&err));
            control_refuse(conn, WIRE_HELLO, st, err_text(&err));
            if (conn->client != UINT32_MAX)
                control_lost(c, c->clients[conn->client], "broke the protocol");
        }
        conn->dead = true;
    }
    struct client *cl = conn->client == UINT32_MAX ? NULL : c->clients[conn->client];
    if (cl && cl->open && !conn->said_ack && cl->s->seq > before) {
        wire_begin(&message, WIRE_ACK, NULL);
        client_send(cl, &message);
    }
    return all || conn->dead;
}

/* What it sent before it died counts: a save that was handed over whole is staged. */
static void on_death(struct control *c, uint32_t number)
{
    struct client *cl = c->clients[number];
    struct conn *conn = cl ? cl->conn : NULL; /* lives to the end of this turn */
    for (int n = 0; n < LAST_WORDS_TURNS && conn && !conn->dead; n++)
        if (on_conn(c, conn, 0))
            break;
    if (!cl || c->clients[number] != cl)
        return; /* over */
    if (cl->open)
        control_lost(c, cl, "died");
    else
        cl->over = true;
    unwatch(c, cl->pidfd);
}

/* Waits for room where something is queued. */
static void watch_writers(struct control *c)
{
    for (struct conn *conn = c->conns; conn; conn = conn->next) {
        bool want = conn->first != NULL;
        if (want != conn->want_write && !conn->dead)
            conn->dead = !control_watch(c, conn->fd, conn_tag(conn), want);
        conn->want_write = want;
    }
}

/* -- ending ----------------------------------------------------------------------------- */

static void begin_stop(struct control *c, const char *why)
{
    if (c->stopping)
        return;
    c->stopping = true;
    c->stop_by_ns = c->now + (int64_t)c->config->stop_s * 1000000000;
    c->stop_others_ns = c->now + CONTROL_OTHERS_NS;
    notify_systemd("STOPPING=1");
    control_drain_stop(c);
    log_info("ending", "why=\"%s\" sessions=%u", why, c->client_count);
    for (uint32_t i = 0; i < c->client_end; i++) {
        struct client *cl = c->clients[i];
        if (cl && cl->open)
            control_tell(c, cl, &(struct session_event){ .kind = SESSION_STOP });
        else if (cl) {
            control_refuse(cl->conn, WIRE_HELLO, CKPT_UNREACHABLE, "this ckptd is about to end");
            cl->over = true;
        }
    }
}

static void on_keeper(struct control *c)
{
    char byte;
    ssize_t n = recv(c->keep->fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK);
    if (n > 0)
        control_reload(c, keep_settings(c->keep));
    if (n > 0 || (n < 0 && errno == EAGAIN))
        return;
    /* The keeper died: nobody would take over from us.  Let nobody new in, finish what is
     * staged, free the lock by exiting. */
    unwatch(c, c->keep->fd);
    unwatch(c, c->listen_fd);
    close(c->listen_fd);
    c->listen_fd = -1;
    c->orphan = true;
    rundir_say(c->rundir, "finishing");
    begin_stop(c, "the keeper died");
}

static bool is_ours(const struct control *c, const struct client *cl)
{
    for (uint32_t k = 0; k < SESSION_OPS_MAX; k++)
        if (cl->s->ops[k].phase != OP_NONE && !control_waits_for_others(c, cl, &cl->s->ops[k]))
            return true;
    return false;
}

/* others: what only other nodes can end counts, too. */
static bool anything_staged(const struct control *c, bool others)
{
    for (uint32_t i = 0; i < c->client_end; i++) {
        const struct client *cl = c->clients[i];
        if (cl && cl->open && session_busy(cl->s) && (others || is_ours(c, cl)))
            return true;
    }
    return false;
}

static void say_what_is_left(const struct control *c)
{
    for (uint32_t i = 0; i < c->client_end; i++) {
        const struct client *cl = c->clients[i];
        for (uint32_t k = 0; cl && cl->open && k < SESSION_OPS_MAX; k++) {
            const struct session_op *op = &cl->s->ops[k];
            if (op->phase != OP_NONE && op->staged && op->status == CKPT_OK)
                log_error("left unfinished", "job=%s rank=%u step=%" PRIu64 " phase=%s", cl->s->job,
                          cl->s->rank, op->step, session_phase_name(op->phase));
        }
    }
}

/* True when the loop shall end. */
static bool at_end(struct control *c)
{
    if (c->stopping) {
        if (!anything_staged(c, c->now < c->stop_others_ns) && c->jobs_out == c->drains_out)
            return true; /* a drain is gone on with by the next ckptd */
        if (c->now < c->stop_by_ns)
            return false;
        say_what_is_left(c);
        return true;
    }
    bool idle = c->config->private_ && c->client_count == 0 && !drainer_busy(c->drainer) &&
                !control_prune_busy(c);
    if (!idle)
        c->idle_ns = 0;
    else if (c->idle_ns == 0)
        c->idle_ns = c->now;
    /* A private daemon that nobody ever came to waits longer: its trainer is starting. */
    int64_t linger = c->served ? CONTROL_LINGER_NS : 30 * CONTROL_LINGER_NS;
    if (!idle || c->now - c->idle_ns < linger)
        return false;
    accept_some(c);
    return c->conn_count == 0;
}

/* -- the loop ------------------------------------------------------------------------------ */

static void on_jobs(struct control *c)
{
    uint64_t n;
    ssize_t rc = read(c->done_fd, &n, sizeof(n));
    (void)rc; /* the lists say what is done */
    struct crew_job *j;
    while ((j = crew_done(c->digests)) != NULL || (j = crew_done(c->records)) != NULL ||
           (j = crew_done(c->data)) != NULL || (j = crew_done(c->begins)) != NULL) {
        control_job_done(c, (struct job *)j);
        control_settle(c);
    }
    for (uint32_t i = 1; i < c->tiers.count; i++) {
        while ((j = crew_done(c->drains[i])) != NULL) {
            control_job_done(c, (struct job *)j);
            control_settle(c);
        }
    }
    while (c->prunes && (j = crew_done(c->prunes)) != NULL)
        control_job_done(c, (struct job *)j);
}

static void on_signal(struct control *c)
{
    struct signalfd_siginfo si;
    while (read(c->signal_fd, &si, sizeof(si)) == (ssize_t)sizeof(si))
        begin_stop(c, si.ssi_signo == SIGINT ? "SIGINT" : "SIGTERM");
}

static void on_event(struct control *c, const struct epoll_event *e)
{
    uint64_t which = e->data.u64 >> 8;
    switch ((enum tag)(e->data.u64 & 0xff)) {
    case TAG_LISTEN:
        accept_some(c);
        break;
    case TAG_PIDFD:
        on_death(c, (uint32_t)which);
        break;
    case TAG_CONN:
        on_conn(c, (struct conn *)(uintptr_t)which, e->events);
        break;
    case TAG_DONE:
        on_jobs(c);
        break;
    case TAG_KEEPER:
        on_keeper(c);
        break;
    case TAG_SIGNAL:
        on_signal(c);
        break;
    }
    control_settle(c);
}

static void on_timers(struct control *c)
{
    for (uint32_t i = 0; i < c->client_end; i++) {
        struct client *cl = c->clients[i];
        if (!cl || !cl->open || !(session_busy(cl->s) || cl->s->detached_ns))
            continue;
        bool lived = !cl->s->dead;
        control_begin_tick(c, cl);
        control_tell(c, cl, &(struct session_event){ .kind = SESSION_TICK });
        if (lived && cl->s->dead) /* away for too long: the others need not wait for it */
            control_absent(c, cl);
    }
    control_settle(c);
    control_committer(c, &(struct committer_event){ .kind = COMMITTER_TICK });
    control_launch_tick(c);
    control_load_tick(c);
    control_drain_step(c, &(struct drainer_event){ .kind = DRAINER_TICK });
    control_settle(c);
    accept_again(c);
}

static void reap_clients(struct control *c)
{
    for (uint32_t i = 0; i < c->client_end; i++)
        if (c->clients[i] && c->clients[i]->over && c->clients[i]->jobs_out == 0)
            client_free(c, c->clients[i]);
    control_launch_reap(c);
}

static int next_timeout_ms(const struct control *c)
{
    if (c->stopping || c->jobs_out > 0 || c->drainer->tier_count > 0 || c->launches ||
        c->client_count > 0 || c->accept_waits)
        return 100;
    return c->config->private_ || c->conns ? 200 : 5000;
}

int control_run(struct control *c)
{
    struct epoll_event events[64];
    int64_t timers_ns = 0;
    if (!control_watch(c, c->listen_fd, TAG_LISTEN, false) ||
        !control_watch(c, c->done_fd, TAG_DONE, false) ||
        !control_watch(c, c->keep->fd, TAG_KEEPER, false) ||
        !control_watch(c, c->signal_fd, TAG_SIGNAL, false)) {
        log_error("cannot watch the sockets", "why=\"%m\"");
        return CONTROL_NO_MEMORY_EXIT;
    }
    control_settle(c);
    while (!at_end(c)) {
        int n = epoll_wait(c->epoll_fd, events, ARRAY_COUNT(events), next_timeout_ms(c));
        c->now = jobs_now_ns();
        for (int i = 0; i < n; i++)
            on_event(c, &events[i]);
        if (c->now - timers_ns >= 50000000) {
            timers_ns = c->now;
            on_timers(c);
        }
        reap_conns(c);
        reap_clients(c);
        watch_writers(c);
    }
    bool left = anything_staged(c, true);
    log_info("ended", "committed=%" PRIu64 " aborted=%" PRIu64 " left=%s", c->committer->committed,
             c->committer->aborted, left ? "yes" : "no");
    return 0;
}

void control_fini(struct control *c)
{
    for (uint32_t i = 0; i < c->client_end; i++)
        if (c->clients[i])
            client_free(c, c->clients[i]);
    while (c->conns) {
        struct conn *conn = c->conns;
        c->conns = conn->next;
        conn_free(conn);
    }
    control_launch_reap(c);
    for (uint32_t i = 0; c->plans && i < RESTORE_GROUPS_MAX; i++) {
        plan_free(c->plans[i].plan);
        reader_close(c->plans[i].reader);
        control_load_free(&c->restores->groups[i]);
    }
    control_drain_fini(c);
    config_free(c->reloaded);
    free(c->drainer);
    free(c->plans);
    free(c->restores);
    free(c->committer);
    close(c->epoll_fd);
    close(c->done_fd);
    close(c->signal_fd);
}
