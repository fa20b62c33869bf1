/* HELLO: sessions come, join their launch, and are answered when it is decided. */
#include <inttypes.h>
#include <stdio.h>

#include "ckptd/control.h"
#include "ckptd/log.h"
#include "formats/cursor.h"

#define HANGS_NS INT64_C(3000000000) /* a step of a launch that gets no answer */

void control_refuse(struct conn *conn, enum wire_type what, enum ckpt_status st, const char *text)
{
    if (!conn)
        return;
    struct wire_msg *m = control_msg();
    wire_begin(m, WIRE_REFUSED, &(struct wire_refused){ .status = st, .type = what });
    (void)wire_tail(m, text, strlen(text));
    conn_send(conn, m);
}

/* -- answering ------------------------------------------------------------------------ */

static void send_hello_ok(struct control *c, struct client *cl)
{
    struct session *s = cl->s;
    struct wire_msg *m = control_msg();
    struct wire_hello_ok ok = {
        .epoch = s->epoch,
        .point = { s->point.epoch, s->point.step, s->point.attempt },
        .flags = s->flags,
        .slot_bytes = (uint32_t)c->config->slot_bytes,
    };
    memcpy(ok.node, c->node, sizeof(ok.node));
    wire_begin(m, WIRE_HELLO_OK, &ok);
    (void)wire_tail(m, s->why, strlen(s->why));
    client_send(cl, m);
}

/* Ledger and keeper first: from HELLO_OK on the session survives this worker. */
static void open_session(struct control *c, struct client *cl, const struct launch *l)
{
    struct ckpt_err err = { 0 };
    struct session *s = cl->s;
    s->epoch = l->epoch;
    s->last_commit.step = UINT64_MAX;
    s->point = l->result.point;
    s->flags |= (l->result.has_point ? WIRE_HAS_POINT : 0) | (l->result.stop ? WIRE_STOP : 0);
    s->flags |= c->drainer->tier_count > 0 ? WIRE_HAS_REMOTE : 0;
    memcpy(s->why, l->result.why, sizeof(s->why));
    enum ckpt_status st = ledger_new("ckpt-ledger", &cl->ledger, &err);
    if (st != CKPT_OK) {
        control_refuse(cl->conn, WIRE_HELLO, st, err_text(&err));
        cl->over = true;
        return;
    }
    ledger_commit(&cl->ledger, s);
    keep_add(c->keep, s->id, KEEP_PIDFD, 0, cl->pidfd);
    keep_add(c->keep, s->id, KEEP_LEDGER, 0, cl->ledger.fd);
    cl->open = true;
    c->served = true;
    c->counters->node[METER_NODE_SESSIONS]++;
    if (s->mode == WIRE_TRAIN)
        counters_epoch(c->counters, s->job, s->epoch, s->flags & WIRE_HAS_POINT ? &s->point : NULL,
                       c->now);
    log_info("session opened", "job=%s rank=%u world=%u epoch=%" PRIu64 " pid=%u mode=%s", s->job,
             s->rank, s->world, s->epoch, s->pid, s->mode == WIRE_TRAIN ? "train" : "read");
    send_hello_ok(c, cl);
}

void control_answer(struct control *c, struct launch *l)
{
    for (uint32_t i = 0; i < c->client_end; i++) {
        struct client *cl = c->clients[i];
        if (!cl || cl->launch != l->key || cl->open || cl->over)
            continue;
        if (l->phase == LAUNCH_READY) {
            open_session(c, cl, l);
            continue;
        }
        control_refuse(cl->conn, WIRE_HELLO, l->status, l->text);
        c->counters->node[METER_NODE_REFUSED]++;
        cl->over = true;
    }
}

/* A home that hung all the time has said nothing. */
static enum ckpt_status say_late(const struct control *c, const struct launch *l, char *text,
                                 size_t cap)
{
    const char *home = c->tiers.urls[c->tiers.home];
    bool hangs = l->job_out && c->now - l->asked_ns >= HANGS_NS;
    if (l->text[0] || hangs) {
        snprintf(text, cap,
                 "the launch was not resolved in time; last from the store %.80s: %.250s", home,
                 l->text[0] ? l->text : "no answer");
        return CKPT_UNREACHABLE;
    }
    if (l->phase == LAUNCH_NEW && !c->shared_store)
        snprintf(text, cap,
                 "rank 0 did not arrive in time; if it is on another node: all nodes need one "
                 "store that they share (--store s3://... or dir:///PATH?shared=1)");
    else if (l->phase == LAUNCH_NEW)
        snprintf(text, cap, "rank 0 did not arrive in time");
    else if (l->phase == LAUNCH_GATHERING && l->rank0_here && l->missing < l->world)
        snprintf(text, cap, "rank %u did not arrive in time on any node", l->missing);
    else
        snprintf(text, cap,
                 "the launch was not resolved in time: the store is slow, or older saves do "
                 "not end");
    return CKPT_TIMEOUT;
}

void control_answer_late(struct control *c, struct launch *l)
{
    char text[SESSION_TEXT_MAX];
    for (uint32_t i = 0; i < c->client_end; i++) {
        struct client *cl = c->clients[i];
        if (!cl || cl->launch != l->key || cl->open || cl->over || c->now < cl->hello_deadline_ns)
            continue;
        enum ckpt_status st = say_late(c, l, text, sizeof(text));
        control_refuse(cl->conn, WIRE_HELLO, st, text);
        c->counters->node[METER_NODE_REFUSED]++;
        cl->over = true;
    }
}

/* -- HELLO ------------------------------------------------------------------------------ */

static enum ckpt_status parse(const struct wire_msg *m, struct wire_hello *h, struct client *cl,
                              struct ckpt_err *err)
{
    size_t len;
    struct session *s = cl->s;
    memcpy(h, wire_body(m), sizeof(*h));
    const uint8_t *tail = wire_tail_of(m, &len);
    struct cursor cur = cursor_over(tail, len);
    cursor_str(&cur, s->job, sizeof(s->job));
    cursor_str(&cur, s->token, sizeof(s->token));
    cursor_str(&cur, cl->resume, sizeof(cl->resume));
    if (!cursor_done(&cur))
        return err_set(err, CKPT_INVALID, "HELLO with names that are too long or cut short");
    enum ckpt_status st = job_name_check(s->job, err);
    if (st == CKPT_OK)
        st = jobs_parse_resume(cl->resume, &cl->wish, err);
    if (st != CKPT_OK)
        return st;
    if (h->mode != WIRE_TRAIN && h->mode != WIRE_READ)
        return err_set(err, CKPT_INVALID, "HELLO with mode %u", h->mode);
    if (h->world == 0 || h->world > CKPT_RANKS_MAX || h->rank >= h->world)
        return err_set(err, CKPT_INVALID, "rank %u of %u", h->rank, h->world);
    if (h->mode == WIRE_TRAIN && !s->token[0])
        return err_set(err, CKPT_NO_LAUNCH, "a training session needs a launch id");
    for (const char *p = s->token; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            return err_set(err, CKPT_BAD_NAME, "the launch id has control characters");
    memcpy(s->id, h->session, sizeof(s->id));
    s->mode = h->mode;
    s->rank = h->rank;
    s->world = h->world;
    cl->was = h->epoch;
    return CKPT_OK;
}

/* Comes back after the connection, or this daemon's worker, was lost. */
static void reattach(struct control *c, struct conn *conn, struct client *cl,
                     const struct wire_hello *h)
{
    bool same = cl->s->uid == conn->peer.uid && cl->s->pid == (uint32_t)conn->peer.pid &&
                cl->s->rank == h->rank && cl->s->world == h->world;
    if (same && (cl->s->dead || !cl->open)) {
        control_refuse(conn, WIRE_HELLO, CKPT_BUSY,
                       "this session is being ended here: come again, and start over");
        conn->dead = true;
        return;
    }
    if (!same) {
        control_refuse(conn, WIRE_HELLO, CKPT_REFUSED,
                       "a session of that number belongs to another process");
        conn->dead = true;
        return;
    }
    if (cl->conn) { /* the old connection is dead, we only have not seen it yet */
        cl->conn->client = UINT32_MAX;
        cl->conn->dead = true;
    }
    cl->conn = conn;
    conn->client = cl->number;
    log_info("session is back", "job=%s rank=%u pid=%u seq=%" PRIu64, cl->s->job, cl->s->rank,
             cl->s->pid, cl->s->seq);
    send_hello_ok(c, cl);
    control_tell(c, cl, &(struct session_event){ .kind = SESSION_ATTACH });
}

static bool trainer_attached(const struct control *c, const struct session *s)
{
    for (uint32_t i = 0; i < c->client_end; i++) {
        const struct client *o = c->clients[i];
        if (o && o->s != s && o->s->mode == WIRE_TRAIN && !o->s->dead &&
            strcmp(o->s->job, s->job) == 0 && strcmp(o->s->token, s->token) != 0)
            return true;
    }
    return false;
}

static enum ckpt_status join_launch(struct control *c, struct client *cl, struct ckpt_err *err)
{
    struct session *s = cl->s;
    struct launch *l = s->mode == WIRE_TRAIN ? launch_by_token(c, s->job, s->token) : NULL;
    uint64_t *absent = l && s->rank < COMMITTER_RANKS_NAMED ? &l->absent[s->rank] : NULL;
    /* The same session starts over when ckptd gave it up, but its process lives on. */
    bool was_here = absent && *absent && *absent != launch_mark(s);
    for (uint32_t i = 0; l && i < c->client_end; i++) {
        const struct client *o = c->clients[i];
        if (was_here || (o && o != cl && o->launch == l->key && o->s->rank == s->rank && !o->over))
            return err_set(err, CKPT_LAUNCH_REUSED,
                           "launch id \"%s\" reused: rank %u of job %s is or was in it already; "
                           "each start needs a new one",
                           s->token, s->rank, s->job);
    }
    if (l && l->world != s->world)
        return err_set(err, CKPT_MISMATCH, "rank %u says %u ranks, others of this launch say %u",
                       s->rank, s->world, l->world);
    if (!l)
        l = launch_new(c, s);
    if (!l)
        return err_set(err, CKPT_NO_MEMORY, "out of memory for a launch");
    cl->launch = l->key;
    l->tell_ns = c->now + CONTROL_JOIN_NS;
    if (absent)
        *absent = 0;
    if (s->rank == 0 || l->reader) {
        l->rank0_here = !l->reader;
        memcpy(l->nonce, s->id, sizeof(l->nonce));
        l->wish = cl->wish;
        l->was = cl->was;
        if (l->phase == LAUNCH_NEW && !l->job_out)
            control_launch_begin(c, l);
    }
    return CKPT_OK;
}

static enum ckpt_status admit(struct control *c, struct conn *conn, struct client *cl,
                              const struct wire_hello *h, struct ckpt_err *err)
{
    enum ckpt_status st = peer_check_pidfd(&conn->peer, cl->pidfd, err);
    if (st != CKPT_OK)
        return st;
    if (c->stopping)
        return err_set(err, CKPT_UNREACHABLE, "this ckptd is about to end");
    if ((h->flags & WIRE_HELLO_SOLO) && trainer_attached(c, cl->s))
        return err_set(err, CKPT_REFUSED, "a trainer of job %s is attached: end it first",
                       cl->s->job);
    if ((h->flags & WIRE_HELLO_NODES) && cl->s->mode == WIRE_TRAIN && !c->shared_store)
        return err_set(err, CKPT_REFUSED,
                       "the ranks are on several nodes, but only this node reaches the store "
                       "%.200s: give ckptd on all nodes one that they share: --store s3://..., or "
                       "dir:///PATH?shared=1 if PATH is the same directory on all",
                       c->config->store);
    const char *scoped = getenv("CKPT_SCOPED");
    cl->s->pid = (uint32_t)conn->peer.pid;
    cl->s->uid = conn->peer.uid;
    if (peer_shares_fate(&conn->peer, scoped && strcmp(scoped, "1") == 0))
        cl->s->flags |= WIRE_STAGED_IS_PROCESS;
    cl->hello_deadline_ns =
        c->now + (int64_t)(h->arrival_ms ? h->arrival_ms : CONTROL_ARRIVAL_MS) * 1000000;
    return join_launch(c, cl, err);
}

void control_hello(struct control *c, struct conn *conn, struct wire_msg *m)
{
    struct ckpt_err err = { 0 };
    struct wire_hello h = { 0 };
    if (conn->client != UINT32_MAX) {
        control_refuse(conn, WIRE_HELLO, CKPT_WRONG_STATE, "HELLO came before");
        conn->dead = true;
        return;
    }
    struct client *cl = client_new(c);
    enum ckpt_status st = CKPT_OK;
    if (!cl && c->client_count == CONTROL_CLIENTS_MAX)
        st = err_set(&err, CKPT_LIMIT, "more than %d sessions", CONTROL_CLIENTS_MAX);
    else if (!cl)
        st = err_set(&err, CKPT_NO_MEMORY, "out of memory for a session");
    if (st == CKPT_OK)
        st = parse(m, &h, cl, &err);
    struct client *old = st == CKPT_OK ? client_by_session(c, h.session, cl) : NULL;
    if (old) {
        client_free(c, cl);
        reattach(c, conn, old, &h);
        return;
    }
    if (st == CKPT_OK && (h.flags & WIRE_HELLO_RESUMED))
        st = err_set(&err, CKPT_NOT_FOUND, "nothing of this session is left here: start over");
    if (st == CKPT_OK) {
        cl->pidfd = m->fds[0];
        m->fds[0] = -1;
        st = admit(c, conn, cl, &h, &err);
    }
    if (st == CKPT_OK && !control_watch(c, cl->pidfd, (uint64_t)cl->number << 8 | 1, false))
        st = err_set(&err, CKPT_NO_MEMORY, "out of memory to watch a process");
    if (st != CKPT_OK) {
        c->counters->node[METER_NODE_REFUSED]++;
        log_warn("HELLO refused", "pid=%d why=\"%s\"", (int)conn->peer.pid, err_text(&err));
        control_refuse(conn, WIRE_HELLO, st, err_text(&err));
        if (cl)
            client_free(c, cl);
        conn->dead = true;
        return;
    }
    c->served = true; /* a private daemon waits for its first trainer no longer */
    cl->conn = conn;
    conn->client = cl->number;
    struct launch *l = launch_by_key(c, cl->launch);
    if (l && l->phase == LAUNCH_READY)
        open_session(c, cl, l);
}
