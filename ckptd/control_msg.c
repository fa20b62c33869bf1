/* A session's messages become events.  Everything here comes from outside: what does not
 * make sense ends the connection and the session, and touches nobody else. */
#include <inttypes.h>
#include <stdio.h>

#include "ckptd/control.h"
#include "ckptd/log.h"
#include "formats/cursor.h"

void control_lost(struct control *c, struct client *cl, const char *how)
{
    if (cl->s->dead)
        return;
    log_info("session ends", "job=%s rank=%u pid=%u how=\"%s\"", cl->s->job, cl->s->rank,
             cl->s->pid, how);
    control_tell(c, cl, &(struct session_event){ .kind = SESSION_DEAD, .text = how });
    control_absent(c, cl);
}

static void on_status(struct control *c, struct conn *conn)
{
    struct ckpt_err err = { 0 };
    struct wire_msg *m = control_msg();
    if (!conn_reads(conn)) {
        c->counters->node[METER_NODE_HOSTILE]++;
        log_warn("a client asks and does not read", "pid=%d", (int)conn->peer.pid);
        conn->dead = true;
        return;
    }
    int fd = status_page(c, &err);
    if (fd < 0) {
        control_refuse(conn, WIRE_STATUS, CKPT_NO_MEMORY, err_text(&err));
        return;
    }
    wire_begin(m, WIRE_STATUS_OK, NULL);
    m->fds[m->fd_count++] = fd;
    conn_send(conn, m);
    close(fd);
}

/* -- messages that carry more than the machine takes -------------------------------- */

/* The declaration is kept by the keeper before the machine knows of it. */
static enum ckpt_status on_state(struct control *c, struct client *cl, struct wire_msg *m,
                                 struct session_event *ev, struct ckpt_err *err)
{
    struct wire_state b;
    memcpy(&b, wire_body(m), sizeof(b));
    if (b.decl_bytes == 0 || b.decl_bytes > WIRE_DECL_MAX)
        return err_set(err, CKPT_INVALID, "STATE with a declaration of %" PRIu64 " bytes",
                       b.decl_bytes);
    ev->kind = SESSION_STATE;
    ev->state = b.state;
    ev->bytes = b.decl_bytes;
    ev->want = b.arena_bytes;
    ev->numa = b.numa;
    if (m->head.seq != cl->s->seq + 1)
        return CKPT_OK; /* a repeat, or refused by the machine */
    if (session_state_of(cl->s, b.state) != UINT32_MAX &&
        cl->s->states[session_state_of(cl->s, b.state)].phase != STATE_REFUSED)
        return CKPT_OK; /* refused by the machine */
    /* Where the machine will put it: the refused one of that number, a new one, any refused. */
    uint32_t at = session_state_of(cl->s, b.state);
    for (uint32_t i = 0; at == UINT32_MAX && i < SESSION_STATES_MAX; i++)
        if (cl->s->states[i].phase == STATE_NONE)
            at = i;
    for (uint32_t i = 0; at == UINT32_MAX && i < SESSION_STATES_MAX; i++)
        if (cl->s->states[i].phase == STATE_REFUSED)
            at = i;
    if (at == UINT32_MAX)
        return CKPT_OK;
    if (cl->states[at].decl_fd >= 0)
        close(cl->states[at].decl_fd);
    cl->states[at].decl_fd = m->fds[0];
    m->fds[0] = -1;
    keep_add(c->keep, cl->s->id, KEEP_DECL, at, cl->states[at].decl_fd);
    return CKPT_OK;
}

static enum ckpt_status on_save(struct client *cl, const struct wire_msg *m,
                                struct session_event *ev, struct ckpt_err *err)
{
    struct wire_save b;
    size_t len;
    memcpy(&b, wire_body(m), sizeof(b));
    const uint8_t *tail = wire_tail_of(m, &len);
    struct record_metric metrics[RECORD_METRICS_MAX] = { 0 };
    struct cursor cur = cursor_over(tail, len);
    if (b.metric_count > RECORD_METRICS_MAX || (b.flags & ~(uint32_t)WIRE_SAVE_VANISHED_OK))
        return err_set(err, CKPT_INVALID, "SAVE with %u metrics and flags %x", b.metric_count,
                       b.flags);
    for (uint32_t i = 0; i < b.metric_count; i++) {
        cursor_str(&cur, metrics[i].name, sizeof(metrics[i].name));
        metrics[i].value = cursor_f64(&cur);
        if (!metrics[i].name[0]) /* the commit that took it over could not be read */
            cursor_fail(&cur);
    }
    if (!cursor_done(&cur))
        return err_set(err, CKPT_INVALID, "SAVE with metrics that do not fit their message");
    *ev = (struct session_event){ .kind = SESSION_SAVE,
                                  .seq = m->head.seq,
                                  .op = b.op,
                                  .state = b.state,
                                  .step = b.step,
                                  .try_ = b.try_,
                                  .flags = b.flags,
                                  .deadline_ms = b.deadline_ms,
                                  .time_ns = b.time_ns };
    uint32_t state = session_state_of(cl->s, b.state);
    if (m->head.seq != cl->s->seq + 1 || state == UINT32_MAX ||
        cl->s->states[state].phase != STATE_READY)
        return CKPT_OK;
    /* The save's memory in the ledger, before the machine speaks of it. */
    for (uint32_t i = 0; i < SESSION_OPS_MAX; i++) {
        if (cl->s->ops[i].phase != OP_NONE)
            continue;
        const struct session_state *t = &cl->s->states[state];
        ledger_op_close(&cl->ledger, i, &cl->areas[i], false);
        enum ckpt_status st =
            ledger_op_new(&cl->ledger, i, t->image_slots, t->chunk_count, &cl->areas[i], err);
        if (st != CKPT_OK)
            return st;
        *cl->areas[i].metric_count = b.metric_count;
        memcpy(cl->areas[i].metrics, metrics, sizeof(metrics));
        return CKPT_OK;
    }
    return CKPT_OK; /* no room: the machine says BUSY */
}

static enum ckpt_status on_full(const struct client *cl, const struct wire_msg *m,
                                struct session_event *ev, struct ckpt_err *err)
{
    struct wire_full b;
    memcpy(&b, wire_body(m), sizeof(b));
    *ev = (struct session_event){ .kind = SESSION_FULL,
                                  .seq = m->head.seq,
                                  .op = b.op,
                                  .state = b.state,
                                  .slot = b.arena_slot,
                                  .image_slot = b.slot,
                                  .flags = b.flags,
                                  .witness = b.witness };
    memcpy(ev->id.b, b.digest, sizeof(ev->id.b));
    uint32_t at = session_op_of(cl->s, b.op);
    if (at == UINT32_MAX)
        return CKPT_OK;
    ev->packs = cl->areas[at].packs;
    uint64_t tiles = cl->states[cl->s->ops[at].state].decl.witness_count;
    if ((b.flags & WIRE_FULL_WITNESS) && b.witness >= tiles)
        return err_set(err, CKPT_INVALID, "FULL names tile %" PRIu64 " of %" PRIu64 " of others",
                       b.witness, tiles);
    return CKPT_OK;
}

static enum ckpt_status on_load(struct client *cl, struct wire_msg *m, struct session_event *ev,
                                struct ckpt_err *err)
{
    struct wire_load b;
    struct select asked;
    size_t len;
    memcpy(&b, wire_body(m), sizeof(b));
    const uint8_t *tail = wire_tail_of(m, &len);
    const uint32_t known =
        WIRE_LOAD_RESUME | WIRE_LOAD_PARTIAL | WIRE_LOAD_ROLLBACK | WIRE_LOAD_CONVERT;
    if (b.flags & ~known)
        return err_set(err, CKPT_INVALID, "LOAD with unknown flags %x", b.flags);
    if ((b.part_bytes > 0) != (m->fd_count == 1) || b.part_bytes > WIRE_DECL_MAX)
        return err_set(err, CKPT_INVALID, "LOAD of a part of %" PRIu64 " bytes with %u descriptors",
                       b.part_bytes, m->fd_count);
    enum ckpt_status st = select_decode(tail, len, &asked, err);
    if (st != CKPT_OK)
        return st;
    select_fini(&cl->asked); /* only the LOAD at hand can still need it */
    cl->asked = asked;
    cl->asked_bytes = digest_of(tail, len);
    jobs_part_drop(&cl->part);
    if (b.part_bytes > 0) {
        cl->part = (struct restore_part){ .bytes = b.part_bytes, .fd = m->fds[0] };
        m->fds[0] = -1;
    }
    *ev = (struct session_event){
        .kind = SESSION_LOAD,
        .seq = m->head.seq,
        .op = b.op,
        .state = b.state,
        .flags = b.flags,
        .name = { .epoch = b.point.epoch, .step = b.point.step, .attempt = b.point.attempt },
    };
    if (b.flags & WIRE_LOAD_RESUME) {
        ev->name = cl->s->point;
        if (!(cl->s->flags & WIRE_HAS_POINT)) {
            ev->status = CKPT_NOT_FOUND;
            ev->text = "there is no checkpoint to resume from";
        } else if (b.point.epoch != 0 &&
                   (b.point.epoch != ev->name.epoch || b.point.step != ev->name.step ||
                    b.point.attempt != ev->name.attempt)) {
            /* A rollback began here and did not end well for the client. */
            ev->status = CKPT_REFUSED;
            ev->text = "this launch has gone back to another checkpoint than the one asked for";
        }
    }
    return CKPT_OK;
}

static void put_report(struct control *c, const struct client *cl, enum record_kind kind,
                       uint64_t step)
{
    struct job *j = job_new(JOB_REPORT);
    if (!j)
        return;
    j->report.kind = kind;
    memcpy(j->report.job, cl->s->job, sizeof(j->report.job));
    j->report.step =
        (struct record_step){ .epoch = cl->s->epoch, .step = step, .time_ns = jobs_wall_ns() };
    control_submit(c, c->records, j);
}

static void report_bad(struct control *c, const struct client *cl, const struct wire_restored *b,
                       const char *text)
{
    struct job *j = job_new(JOB_REPORT);
    if (!j)
        return;
    j->report.kind = RECORD_BAD;
    memcpy(j->report.job, cl->s->job, sizeof(j->report.job));
    j->report.bad = (struct record_bad){
        .epoch = cl->s->epoch,
        .rank = cl->s->rank,
        .name = { .epoch = b->point.epoch, .step = b->point.step, .attempt = b->point.attempt },
        .time_ns = jobs_wall_ns(),
        .corrupt = b->status == CKPT_CORRUPT,
    };
    snprintf(j->report.bad.text, sizeof(j->report.bad.text), "%s", text);
    control_submit(c, c->records, j);
}

/* "restored" is written when every rank of the launch that is here restored the resume
 * point, and all are here or rank 0 is. */
static void on_restored(struct control *c, struct client *cl, const struct wire_msg *m)
{
    struct wire_restored b;
    char text[512];
    memcpy(&b, wire_body(m), sizeof(b));
    wire_text(m, text, sizeof(text));
    struct launch *l = launch_by_key(c, cl->launch);
    if (!l || cl->s->mode != WIRE_TRAIN)
        return;
    if (b.status != CKPT_OK) {
        if (b.status == CKPT_CORRUPT && !cl->restored_bad)
            report_bad(c, cl, &b, text);
        cl->restored_bad = b.status == CKPT_CORRUPT;
        return;
    }
    cl->restored_ok = true;
    uint32_t here = 0, ok = 0;
    for (uint32_t i = 0; i < c->client_end; i++) {
        const struct client *o = c->clients[i];
        if (!o || o->launch != cl->launch || !o->open)
            continue;
        here++;
        ok += o->restored_ok;
    }
    if (ok < here || (here < cl->s->world && !l->rank0_here) || l->restored_put)
        return;
    l->restored_put = true;
    put_report(c, cl, RECORD_RESTORED, cl->s->point.step);
}

static void on_progress(struct control *c, struct client *cl, const struct wire_msg *m)
{
    struct wire_progress b;
    memcpy(&b, wire_body(m), sizeof(b));
    struct launch *l = launch_by_key(c, cl->launch);
    if (b.step != RECORD_STEP_FINISHED) { /* no step: shown is the last one */
        cl->s->progress = b.step;
        counters_step(c->counters, cl->s->job, cl->s->epoch, b.step, c->now);
    }
    bool beyond = !(cl->s->flags & WIRE_HAS_POINT) || b.step > cl->s->point.step;
    if (!l || cl->s->mode != WIRE_TRAIN || l->progress_put || !beyond)
        return;
    l->progress_put = true;
    put_report(c, cl, RECORD_PROGRESS, b.step);
}

/* -- dispatch ------------------------------------------------------------------------ */

static enum ckpt_status to_event(struct control *c, struct client *cl, struct wire_msg *m,
                                 struct session_event *ev, char text[SESSION_TEXT_MAX],
                                 struct ckpt_err *err)
{
    union {
        struct wire_fail fail;
        struct wire_back back;
        struct wire_cancel cancel;
        struct wire_forget forget;
    } b;
    switch (m->head.type) {
    case WIRE_STATE:
        return on_state(c, cl, m, ev, err);
    case WIRE_SAVE:
        return on_save(cl, m, ev, err);
    case WIRE_FULL:
        return on_full(cl, m, ev, err);
    case WIRE_LOAD:
        return on_load(cl, m, ev, err);
    case WIRE_FAIL:
        memcpy(&b.fail, wire_body(m), sizeof(b.fail));
        wire_text(m, text, SESSION_TEXT_MAX);
        ev->kind = SESSION_FAIL;
        ev->op = b.fail.op;
        ev->status = status_known(b.fail.status) ? (enum ckpt_status)b.fail.status : CKPT_INVALID;
        ev->text = text;
        return CKPT_OK;
    case WIRE_BACK:
        memcpy(&b.back, wire_body(m), sizeof(b.back));
        ev->kind = SESSION_BACK;
        ev->op = b.back.op;
        ev->state = b.back.state;
        ev->slot = b.back.arena_slot;
        return CKPT_OK;
    case WIRE_CANCEL:
        memcpy(&b.cancel, wire_body(m), sizeof(b.cancel));
        ev->kind = SESSION_CANCEL;
        ev->op = b.cancel.op;
        return CKPT_OK;
    case WIRE_FORGET:
        memcpy(&b.forget, wire_body(m), sizeof(b.forget));
        ev->kind = SESSION_FORGET;
        ev->state = b.forget.state;
        return CKPT_OK;
    case WIRE_RESTORED:
    case WIRE_PROGRESS:
    case WIRE_LIST:
        ev->kind = SESSION_NOTE;
        return CKPT_OK;
    default:
        return err_set(err, CKPT_INVALID, "%s is no message for a daemon",
                       wire_type_name(m->head.type));
    }
}

static void session_message(struct control *c, struct client *cl, struct wire_msg *m)
{
    struct ckpt_err err = { 0 };
    char text[SESSION_TEXT_MAX] = "";
    struct session_event ev = { .seq = m->head.seq };
    uint64_t before = cl->s->seq;
    enum ckpt_status st = CKPT_OK;
    if (!cl->open)
        st = err_set(&err, CKPT_INVALID, "%s before HELLO_OK", wire_type_name(m->head.type));
    if (st == CKPT_OK)
        st = to_event(c, cl, m, &ev, text, &err);
    if (st == CKPT_OK)
        st = control_event(c, cl, &ev, &err);
    if (st == CKPT_OK && cl->s->seq > before && m->head.type == WIRE_RESTORED)
        on_restored(c, cl, m);
    if (st == CKPT_OK && cl->s->seq > before && m->head.type == WIRE_PROGRESS)
        on_progress(c, cl, m);
    if (st == CKPT_OK && cl->s->seq > before && m->head.type == WIRE_LIST)
        control_list(c, cl, m);
    if (st == CKPT_OK)
        return;
    c->counters->node[METER_NODE_HOSTILE]++;
    log_warn("a client broke the protocol", "job=%s rank=%u pid=%u message=%s why=\"%s\"",
             cl->s->job, cl->s->rank, cl->s->pid, wire_type_name(m->head.type), err_text(&err));
    control_refuse(cl->conn, m->head.type, st, err_text(&err));
    if (cl->conn)
        cl->conn->dead = true;
    control_lost(c, cl, "broke the protocol");
}

void control_message(struct control *c, struct conn *conn, struct wire_msg *m)
{
    struct client *cl = conn->client == UINT32_MAX ? NULL : c->clients[conn->client];
    c->counters->node[METER_NODE_MESSAGES]++;
    switch (m->head.type) {
    case WIRE_STATUS:
        on_status(c, conn);
        return;
    case WIRE_HELLO:
        control_hello(c, conn, m);
        return;
    case WIRE_BYE:
        if (cl && cl->open && !cl->s->dead) {
            control_tell(c, cl, &(struct session_event){ .kind = SESSION_BYE });
            control_absent(c, cl);
        }
        conn->dead = true;
        return;
    default:
        break;
    }
    if (cl) {
        session_message(c, cl, m);
        return;
    }
    c->counters->node[METER_NODE_HOSTILE]++;
    control_refuse(conn, m->head.type, CKPT_WRONG_STATE, "HELLO comes first");
    conn->dead = true;
}
