/* HELLO and launches: a session opens when its launch is resolved.
 *
 *   rank 0 here   NEW ► ADOPTING ► CLAIMING ► CLAIMED ► DRAINING (older saves on this node
 *                 end) ► RESOLVING ► RESOLVED ► READY; in those that end in -ED and in
 *                 ADOPTING other tiers are asked or told, where there are any (H1)
 *   else          NEW ► (FIND job each second while the store is shared) ► READY */
#include <inttypes.h>
#include <stdio.h>

#include "ckptd/control.h"
#include "ckptd/log.h"
#include "formats/cursor.h"

void control_refuse(struct conn *conn, enum wire_type what, enum ckpt_status st, const char *text)
{
    if (!conn)
        return;
    struct wire_msg *m = control_msg();
    wire_begin(m, WIRE_REFUSED, &(struct wire_refused){ .status = st, .type = what });
    (void)wire_tail(m, text, strlen(text));
    conn_send(conn, m);
}

struct launch *launch_by_key(struct control *c, uint64_t key)
{
    for (struct launch *l = c->launches; l; l = l->next)
        if (l->key == key)
            return l;
    return NULL;
}

uint64_t launch_mark(const struct session *s)
{
    uint64_t mark;
    memcpy(&mark, s->id, sizeof(mark)); /* random */
    return mark | 1;
}

static struct launch *launch_by_token(struct control *c, const char *job, const char *token)
{
    for (struct launch *l = c->launches; l; l = l->next)
        if (!l->reader && l->phase != LAUNCH_FAILED && strcmp(l->job, job) == 0 &&
            strcmp(l->token, token) == 0)
            return l;
    return NULL;
}

static struct launch *launch_new(struct control *c, const struct session *s)
{
    struct launch *l = calloc(1, sizeof(*l));
    if (!l)
        return NULL;
    l->key = c->next_key++;
    l->world = s->world;
    l->reader = s->mode == WIRE_READ;
    memcpy(l->job, s->job, sizeof(l->job));
    memcpy(l->token, s->token, sizeof(l->token));
    l->next = c->launches;
    c->launches = l;
    return l;
}

/* Forgets launches that no session belongs to. */
void control_launch_reap(struct control *c)
{
    for (struct launch **at = &c->launches; *at;) {
        struct launch *l = *at;
        bool used = l->job_out || l->rollback;
        for (uint32_t i = 0; !used && i < CONTROL_CLIENTS_MAX; i++)
            used = c->clients[i] && c->clients[i]->launch == l->key;
        if (used) {
            at = &l->next;
            continue;
        }
        *at = l->next;
        roster_fini(&l->held);
        free(l);
    }
}

void control_launch_adopt(struct control *c, struct client *cl)
{
    const struct session *s = cl->s;
    struct launch *l = s->mode == WIRE_TRAIN ? launch_by_token(c, s->job, s->token) : NULL;
    if (!l)
        l = launch_new(c, s);
    if (!l)
        return;
    l->phase = LAUNCH_READY;
    if (s->epoch >= l->epoch) { /* some ranks may not have gone back with the others yet */
        l->epoch = s->epoch;
        l->result.epoch = l->epoch;
        l->result.has_point = s->flags & WIRE_HAS_POINT;
        l->result.stop = s->flags & WIRE_STOP;
        l->result.point = s->point;
        memcpy(l->result.why, s->why, sizeof(l->result.why));
    }
    if (s->rank == 0) {
        l->rank0_here = true;
        memcpy(l->nonce, s->id, sizeof(l->nonce));
    }
    cl->launch = l->key;
}

/* -- steps in the store ------------------------------------------------------------- */

static void submit(struct control *c, struct launch *l, enum launch_step what)
{
    struct job *j = job_new(JOB_LAUNCH);
    if (!j) {
        l->phase = LAUNCH_FAILED;
        l->status = CKPT_NO_MEMORY;
        return;
    }
    j->launch.what = what;
    j->launch.launch = l->key;
    memcpy(j->launch.job, l->job, sizeof(l->job));
    memcpy(j->launch.token, l->token, sizeof(l->token));
    memcpy(j->launch.nonce, l->nonce, sizeof(l->nonce));
    j->launch.world = l->world;
    j->launch.wish = l->wish;
    j->launch.epoch = l->epoch;
    j->launch.after = l->after;
    j->launch.also = &l->held;
    l->job_out = true;
    control_submit(c, c->records, j);
}

/* A launch that failed a moment ago may still be writing that its checkpoint is bad or was
 * restored: the next one waits for reports, too, or it would choose without them.
 * True while a save that an older launch of the job began here is undecided. */
static bool older_undecided(const struct control *c, const struct launch *l)
{
    for (uint32_t i = 0; i < CONTROL_CLIENTS_MAX; i++) {
        const struct client *cl = c->clients[i];
        if (!cl || !cl->open || cl->launch == l->key || strcmp(cl->s->job, l->job) != 0)
            continue;
        for (uint32_t k = 0; k < SESSION_OPS_MAX; k++) {
            const struct session_op *op = &cl->s->ops[k];
            if (op->phase != OP_NONE && op->phase != OP_LOAD && op->begun_ns <= l->claimed_ns)
                return true;
        }
    }
    return false;
}

static void fail_launch(struct launch *l, enum ckpt_status st, const char *text)
{
    l->phase = LAUNCH_FAILED;
    l->status = st;
    snprintf(l->text, sizeof(l->text), "%s", text);
    log_warn("launch failed", "job=%s status=%s why=\"%s\"", l->job, status_name(st), text);
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

/* Answers everybody who waits for a launch that is decided. */
static void answer_waiting(struct control *c, struct launch *l)
{
    for (uint32_t i = 0; i < CONTROL_CLIENTS_MAX; i++) {
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

static void launch_ready(struct launch *l)
{
    const struct job_launch *r = &l->result;
    l->phase = LAUNCH_READY;
    log_info("launch resolved", "job=%s epoch=%" PRIu64 " resume=%s step=%" PRIu64 " why=\"%s\"",
             l->job, l->epoch, r->has_point ? "yes" : "no", r->has_point ? r->point.step : 0,
             r->why);
}

/* Whoever waits for the launch, when it is decided. */
static void answer(struct control *c, struct launch *l)
{
    if (l->rollback && (l->phase == LAUNCH_READY || l->phase == LAUNCH_FAILED))
        control_rolled_back(c, l);
    if (l->phase == LAUNCH_READY || l->phase == LAUNCH_FAILED)
        answer_waiting(c, l);
}

/* The home first learns what other tiers know of the job. */
static void begin_launch(struct control *c, struct launch *l)
{
    l->phase = LAUNCH_ADOPTING;
    l->taken = false;
    if (!control_tiers_adopt(c, l))
        control_launch_go_on(c, l);
}

static void claimed(struct control *c, struct launch *l, uint64_t epoch)
{
    struct key key = key_claim(l->job, epoch);
    l->epoch = epoch;
    l->phase = LAUNCH_CLAIMED;
    if (!control_tiers_spread(c, l, &key))
        control_launch_go_on(c, l);
}

static void resolved(struct control *c, struct launch *l, bool ours)
{
    struct key key = key_resolved(l->job, l->epoch);
    l->phase = LAUNCH_RESOLVED;
    if (!ours || !control_tiers_spread(c, l, &key))
        control_launch_go_on(c, l);
}

void control_launch_done(struct control *c, struct job *j)
{
    struct launch *l = launch_by_key(c, j->launch.launch);
    if (!l)
        return;
    l->job_out = false;
    if (j->launch.what == LAUNCH_FIND && j->status == CKPT_NOT_FOUND) {
        l->poll_ns = c->now + COMMITTER_POLL_MIN_NS;
        if (l->rank0_here && l->phase == LAUNCH_NEW) /* rank 0 came while we looked */
            begin_launch(c, l);
        return;
    }
    if (j->status != CKPT_OK) {
        fail_launch(l, j->status, err_text(&j->err));
    } else if (j->launch.what == LAUNCH_CLAIM) {
        claimed(c, l, j->launch.epoch);
    } else {
        l->result = j->launch;
        l->epoch = j->launch.epoch;
        resolved(c, l, j->launch.what == LAUNCH_RESOLVE);
    }
    answer(c, l);
}

void control_launch_go_on(struct control *c, struct launch *l)
{
    if (l->phase == LAUNCH_ADOPTING) {
        l->phase = l->reader ? LAUNCH_RESOLVING : LAUNCH_CLAIMING;
        submit(c, l, l->reader ? LAUNCH_READ : LAUNCH_CLAIM);
    } else if (l->phase == LAUNCH_CLAIMED && l->taken) {
        log_warn("the epoch is taken in another tier", "job=%s epoch=%" PRIu64, l->job, l->epoch);
        l->after = l->epoch;
        begin_launch(c, l);
    } else if (l->phase == LAUNCH_CLAIMED) {
        l->claimed_ns = c->now;
        l->phase = LAUNCH_DRAINING;
    } else if (l->phase == LAUNCH_RESOLVED) {
        launch_ready(l);
        /* Its resolver may have committed what older launches left. */
        control_drain_step(c, &(struct drainer_event){ .kind = DRAINER_RESCAN });
    }
    answer(c, l);
}

static void time_out_waiting(struct control *c, struct launch *l)
{
    for (uint32_t i = 0; i < CONTROL_CLIENTS_MAX; i++) {
        struct client *cl = c->clients[i];
        if (!cl || cl->launch != l->key || cl->open || cl->over || c->now < cl->hello_deadline_ns)
            continue;
        control_refuse(cl->conn, WIRE_HELLO, CKPT_TIMEOUT,
                       l->phase == LAUNCH_NEW ? "rank 0 did not arrive in time"
                                              : "the launch was not resolved in time: the store is "
                                                "slow, or older saves do not end");
        c->counters->node[METER_NODE_REFUSED]++;
        cl->over = true;
    }
}

/* Rank 0's node did not go back with the ranks of this one: they stay where they are, in
 * an epoch that may be old by now, and learn that when they save. */
static void time_out_rollback(struct control *c, struct launch *l)
{
    if (!l->rollback || l->phase != LAUNCH_NEW || l->job_out ||
        c->now - l->rollback_ns < COMMITTER_ARRIVAL_NS)
        return;
    fail_launch(l, CKPT_TIMEOUT, "rank 0 did not go back to the same checkpoint in time");
    control_rolled_back(c, l);
}

/* Rule I2: a start that dies early harms nobody.  Nobody waits for this one any more, so it
 * must not be resolved: that would shut out a launch that lives. */
static bool anybody_waits(const struct control *c, const struct launch *l)
{
    for (uint32_t i = 0; i < CONTROL_CLIENTS_MAX; i++)
        if (c->clients[i] && c->clients[i]->launch == l->key && !c->clients[i]->over)
            return true;
    return false;
}

/* H1: the launch goes on without the tiers that did not answer, and says so. */
static void tiers_late(struct control *c, struct launch *l)
{
    log_warn("other tiers do not answer: the launch goes on without them", "job=%s tiers=%d",
             l->job, __builtin_popcount(l->tiers_out));
    l->tiers_late |= l->tiers_out;
    l->tiers_out = 0;
    l->tier_round = 0;
    control_launch_go_on(c, l);
}

void control_launch_tick(struct control *c)
{
    for (struct launch *l = c->launches; l; l = l->next) {
        time_out_rollback(c, l);
        if (l->tiers_out != 0 && c->now >= l->tiers_by_ns)
            tiers_late(c, l);
        if (l->phase == LAUNCH_DRAINING && (l->rollback || anybody_waits(c, l)) &&
            ((!older_undecided(c, l) && c->reports_out == 0) ||
             c->now - l->claimed_ns > CONTROL_DRAIN_NS)) {
            l->phase = LAUNCH_RESOLVING;
            submit(c, l, LAUNCH_RESOLVE);
        }
        if (l->phase == LAUNCH_NEW && !l->job_out && !l->rank0_here && c->shared_store &&
            c->now >= l->poll_ns)
            submit(c, l, LAUNCH_FIND);
        if (l->phase == LAUNCH_READY || l->phase == LAUNCH_FAILED)
            answer_waiting(c, l);
        else
            time_out_waiting(c, l);
    }
}

/* -- a rollback inside the process (I6): the same launch, a new epoch ------------------ */

bool control_rollback(struct control *c, struct launch *l, uint32_t group,
                      const struct ckpt_name *point)
{
    if (l->phase != LAUNCH_READY || l->job_out || l->rollback)
        return false;
    l->rollback = (uint64_t)group + 1;
    l->rollback_ns = c->now;
    l->after = l->epoch;
    l->restored_put = false;
    l->progress_put = false;
    l->tiers_late = 0; /* that was long ago */
    l->wish = (struct lineage_wish){
        .forced = true, .step = point->step, .has_epoch = true, .epoch = point->epoch
    };
    l->phase = LAUNCH_NEW;
    l->poll_ns = c->now;
    if (l->rank0_here)
        begin_launch(c, l);
    return true;
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
    for (uint32_t i = 0; i < CONTROL_CLIENTS_MAX; i++) {
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
    for (uint32_t i = 0; l && i < CONTROL_CLIENTS_MAX; i++) {
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
    if (absent)
        *absent = 0;
    if (s->rank == 0 || l->reader) {
        l->rank0_here = !l->reader;
        memcpy(l->nonce, s->id, sizeof(l->nonce));
        l->wish = cl->wish;
        if (l->phase == LAUNCH_NEW && !l->job_out)
            begin_launch(c, l);
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
