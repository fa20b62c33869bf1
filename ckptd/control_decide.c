/* The committer: what sessions have to say to it, and what it decides about their saves. */
#include <inttypes.h>
#include <stdio.h>

#include "ckptd/control.h"
#include "ckptd/log.h"

void control_later(struct control *c, const struct committer_event *ev)
{
    struct later *l = calloc(1, sizeof(*l));
    if (!l)
        control_out_of_memory(ev->job);
    l->ev = *ev;
    snprintf(l->job, sizeof(l->job), "%s", ev->job);
    snprintf(l->text, sizeof(l->text), "%s", ev->text ? ev->text : "");
    l->ev.job = l->job;
    l->ev.text = l->text;
    *c->later_last = l;
    c->later_last = &l->next;
}

/* True if ranks of the session's launch are on other nodes: the home is shared, and they are
 * not here.  (A rank that was here and is gone is not on another one.) */
static bool several_nodes(const struct control *c, const struct client *cl)
{
    const struct launch *l = launch_by_key((struct control *)(uintptr_t)c, cl->launch);
    uint32_t known = 0;
    for (uint32_t i = 0; i < c->client_end; i++)
        known += c->clients[i] && c->clients[i]->launch == cl->launch;
    for (uint32_t r = 0; l && r < min_u64(l->world, COMMITTER_RANKS_NAMED); r++)
        known += l->absent[r] != 0;
    return c->shared_store && known < cl->s->world;
}

static void say(struct control *c, const struct client *cl, enum committer_event_kind kind,
                const struct session_op *op)
{
    control_later(c, &(struct committer_event){ .kind = kind,
                                                .job = cl->s->job,
                                                .name = op->name,
                                                .world = cl->s->world,
                                                .rank = cl->s->rank,
                                                .deadline_ns = op->deadline_ns,
                                                .several = several_nodes(c, cl),
                                                .status = op->status,
                                                .text = op->text });
}

static void say_failed(struct control *c, const struct client *cl, const struct session_final *f)
{
    control_later(c, &(struct committer_event){ .kind = COMMITTER_FAILED,
                                                .job = cl->s->job,
                                                .name = f->name,
                                                .world = cl->s->world,
                                                .rank = cl->s->rank,
                                                .status = f->status,
                                                .text = f->text });
}

static void say_cancel(struct control *c, const struct client *cl, const struct session_op *op)
{
    char text[SESSION_TEXT_MAX];
    snprintf(text, sizeof(text), "rank %u cancelled the save of step %" PRIu64, cl->s->rank,
             op->step);
    control_later(c, &(struct committer_event){ .kind = COMMITTER_FAILED,
                                                .job = cl->s->job,
                                                .name = op->name,
                                                .world = cl->s->world,
                                                .rank = cl->s->rank,
                                                .status = CKPT_CANCELLED,
                                                .text = text });
}

/* A rank that is gone and has not begun an attempt never will. */
static void say_absent(struct control *c, const struct launch *l, uint32_t rank,
                       const struct committer_attempt *a)
{
    char text[SESSION_TEXT_MAX];
    if (a->name.epoch != l->epoch || strcmp(a->job, l->job) != 0 || a->status != CKPT_OK ||
        a->put >= a->world || committer_has_joined(a, rank))
        return;
    snprintf(text, sizeof(text), "rank %u was gone before the save of step %" PRIu64, rank,
             a->name.step);
    control_later(c, &(struct committer_event){ .kind = COMMITTER_FAILED,
                                                .job = a->job,
                                                .name = a->name,
                                                .world = a->world,
                                                .rank = rank,
                                                .status = CKPT_ABORTED,
                                                .text = text });
}

bool control_waits_for_others(const struct control *c, const struct client *cl,
                              const struct session_op *op)
{
    const struct committer_attempt *a = committer_find(c->committer, cl->s->job, &op->name);
    return op->phase == OP_COMMIT && a && a->put < a->world && a->put >= a->joined;
}

void control_absent(struct control *c, const struct client *cl)
{
    struct launch *l = launch_by_key(c, cl->launch);
    if (!l || l->reader || cl->s->rank >= COMMITTER_RANKS_NAMED)
        return;
    l->absent[cl->s->rank] = launch_mark(cl->s);
    for (uint32_t i = 0; i < c->committer->end; i++)
        if (c->committer->attempts[i].used)
            say_absent(c, l, cl->s->rank, &c->committer->attempts[i]);
}

void control_check_absent(struct control *c, const struct client *cl, const struct ckpt_name *name)
{
    const struct launch *l = launch_by_key(c, cl->launch);
    const struct committer_attempt *a = committer_find(c->committer, cl->s->job, name);
    for (uint32_t r = 0; l && a && r < min_u64(a->world, COMMITTER_RANKS_NAMED); r++)
        if (l->absent[r])
            say_absent(c, l, r, a);
}

static void tell_decided(struct control *c, const char *job, const struct ckpt_name *name,
                         enum ckpt_status st, const char *text)
{
    for (uint32_t i = 0; i < c->client_end; i++) {
        struct client *cl = c->clients[i];
        if (!cl || !cl->open || strcmp(cl->s->job, job) != 0)
            continue;
        for (uint32_t k = 0; k < SESSION_OPS_MAX; k++) {
            const struct session_op *op = &cl->s->ops[k];
            if (op->phase == OP_NONE || op->phase == OP_LOAD || !name_equal(&op->name, name))
                continue;
            struct session_event ev = {
                .kind = SESSION_DECIDED, .op = op->id, .status = st, .text = text
            };
            control_tell(c, cl, &ev);
            break;
        }
    }
}

static void submit_attempt(struct control *c, const struct committer_attempt *a)
{
    struct job *j = job_new(JOB_ATTEMPT);
    if (!j)
        control_out_of_memory(a->job);
    j->attempt.what = (enum committer_job)a->job_out;
    memcpy(j->attempt.job, a->job, sizeof(j->attempt.job));
    j->attempt.name = a->name;
    j->attempt.world = a->world;
    j->attempt.from = a->missing; /* what was there stays there */
    j->attempt.abort =
        (struct record_abort){ .status = a->status == CKPT_OK ? CKPT_ABORTED : a->status,
                               .rank = a->bad_rank,
                               .by_epoch = a->by_epoch };
    control_submit(c, c->records, j);
}

static void count_decided(struct control *c, const struct committer_attempt *at,
                          const struct committer_action *a)
{
    bool ok = a->status == CKPT_OK;
    c->counters->node[ok ? METER_NODE_COMMITTED : METER_NODE_ABORTED]++;
    if (ok)
        counters_committed(c->counters, at->job, &a->name, at->begun_ns, c->now);
    else
        counters_aborted(c->counters, at->job, c->now);
}

void control_committer(struct control *c, const struct committer_event *ev)
{
    static struct committer_actions acts; /* not re-entered: sessions' words wait */
    char job[CKPT_JOB_NAME_MAX + 1];
    acts.count = 0;
    snprintf(job, sizeof(job), "%s", ev->job ? ev->job : "");
    if (committer_step(c->committer, ev, c->now, &acts) != CKPT_OK) {
        log_error("too many saves are undecided", "job=%s", job);
        tell_decided(c, job, &ev->name, CKPT_BUSY, "too many saves are undecided on this node");
        return;
    }
    for (uint32_t i = 0; i < acts.count; i++) {
        const struct committer_action *a = &acts.list[i];
        const struct committer_attempt *at = &c->committer->attempts[a->attempt];
        if (a->kind == COMMITTER_RUN) {
            submit_attempt(c, at);
            continue;
        }
        if (a->status != CKPT_OK)
            log_warn("save failed", "job=%s step=%" PRIu64 " status=%s why=\"%s\"", at->job,
                     a->name.step, status_name(a->status), acts.text);
        else
            log_info("save committed", "job=%s epoch=%" PRIu64 " step=%" PRIu64, at->job,
                     a->name.epoch, a->name.step);
        count_decided(c, at, a);
        tell_decided(c, at->job, &a->name, a->status, acts.text);
        if (a->status != CKPT_OK)
            continue;
        control_drain_want(c, at->job, &a->name);
        control_prune_want(c, at->job);
    }
}

void control_settle(struct control *c)
{
    while (c->later) {
        struct later *l = c->later;
        c->later = l->next;
        if (!c->later)
            c->later_last = &c->later;
        control_committer(c, &l->ev);
        free(l);
    }
}

void control_say(struct control *c, struct client *cl, const struct session_action *a)
{
    struct session *s = cl->s;
    switch ((int)a->kind) {
    case ACT_JOIN:
        say(c, cl, COMMITTER_JOINED, &s->ops[a->op]);
        break;
    case ACT_PUT:
        say(c, cl, COMMITTER_PUT_DONE, &s->ops[a->op]);
        break;
    case ACT_CANCEL:
        say_cancel(c, cl, &s->ops[a->op]);
        break;
    default:
        say_failed(c, cl, &s->finals[a->op]);
        break;
    }
}

void control_attempt_done(struct control *c, struct job *j)
{
    control_committer(c, &(struct committer_event){ .kind = COMMITTER_DONE,
                                                    .job = j->attempt.job,
                                                    .name = j->attempt.name,
                                                    .done = j->attempt.what,
                                                    .status = j->status,
                                                    .rank = j->attempt.what == COMMITTER_MISSING
                                                                ? j->attempt.rank
                                                                : UINT32_MAX,
                                                    .text = err_text(&j->err) });
}
