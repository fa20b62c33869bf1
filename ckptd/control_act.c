/* Actions of the session machines: messages and jobs. */
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "ckptd/control.h"
#include "ckptd/log.h"

/* -- messages -------------------------------------------------------------------- */

static void send_op(struct client *cl, const struct session_op *op)
{
    struct wire_msg *m = control_msg();
    struct wire_op b = { .op = op->id,
                         .level = op->level,
                         .done_bytes = op->done_bytes,
                         .total_bytes = op->total_bytes,
                         .name = { op->name.epoch, op->name.step, op->name.attempt } };
    wire_begin(m, WIRE_OP, &b);
    client_send(cl, m);
}

static void send_final(struct client *cl, const struct session_final *f)
{
    struct wire_msg *m = control_msg();
    struct wire_op b = { .op = f->id,
                         .level = f->level,
                         .status = f->status,
                         .flags = f->awaits ? 0 : WIRE_OP_FINAL,
                         .done_bytes = f->done_bytes,
                         .total_bytes = f->total_bytes,
                         .missing = f->missing,
                         .unasked = f->unasked,
                         .name = { f->name.epoch, f->name.step, f->name.attempt } };
    wire_begin(m, WIRE_OP, &b);
    if (f->status != CKPT_OK)
        (void)wire_tail(m, f->text, strlen(f->text));
    client_send(cl, m);
}

static void send_grant(struct client *cl, const struct session_op *op, uint32_t slot)
{
    struct wire_msg *m = control_msg();
    const struct session_state *t = &cl->s->states[op->state];
    struct wire_grant b = { .op = op->id, .state = t->number, .arena_slot = slot - t->first };
    wire_begin(m, WIRE_GRANT, &b);
    client_send(cl, m);
}

static void send_state(struct control *c, struct client *cl, uint32_t at)
{
    struct wire_msg *m = control_msg();
    const struct session_state *t = &cl->s->states[at];
    if (t->phase == STATE_REFUSED) {
        struct wire_refused b = { .status = t->status, .type = WIRE_STATE, .state = t->number };
        wire_begin(m, WIRE_REFUSED, &b);
        (void)wire_tail(m, t->text, strlen(t->text));
        client_send(cl, m);
        return;
    }
    struct wire_state_ok b = { .state = t->number,
                               .slots = t->slots,
                               .slot_bytes = c->config->slot_bytes,
                               .ram_left_bytes = t->ram_left_bytes };
    wire_begin(m, WIRE_STATE_OK, &b);
    m->fds[m->fd_count++] = cl->states[at].arena.fd;
    client_send(cl, m);
}

static void send_no_state(struct client *cl, uint32_t number)
{
    char text[SESSION_TEXT_MAX];
    struct wire_msg *m = control_msg();
    struct wire_refused b = { .status = CKPT_LIMIT, .type = WIRE_STATE, .state = number };
    snprintf(text, sizeof(text),
             "a session has at most %d states at a time; freed ones count until what was saved "
             "of them is written",
             SESSION_STATES_MAX);
    wire_begin(m, WIRE_REFUSED, &b);
    (void)wire_tail(m, text, strlen(text));
    client_send(cl, m);
}

/* -- jobs -------------------------------------------------------------------------- */

_Noreturn void control_out_of_memory(const char *job)
{
    log_error("out of memory: this worker is replaced", "job=%s", job);
    _exit(CONTROL_NO_MEMORY_EXIT);
}

static struct job *new_job(const struct client *cl, enum job_kind kind)
{
    struct job *j = job_new(kind);
    if (!j)
        control_out_of_memory(cl->s->job);
    j->client = cl->number;
    return j;
}

static void submit_seal(struct control *c, struct client *cl, uint32_t at)
{
    struct job *j = new_job(cl, JOB_SEAL);
    j->op = at;
    j->seal.decl_fd = cl->states[at].decl_fd;
    j->seal.decl_bytes = cl->s->states[at].decl_bytes;
    j->seal.want_bytes = cl->s->states[at].want_bytes;
    j->seal.numa = cl->s->states[at].numa;
    j->seal.slots_max = session_room(cl->s);
    snprintf(j->seal.who, sizeof(j->seal.who), "job %s rank %u", cl->s->job, cl->s->rank);
    control_submit(c, c->data, j);
}

static void fill_part(struct client *cl, const struct session_op *op, struct job_part *p)
{
    const struct session *s = cl->s;
    *p = (struct job_part){
        .job = s->job,
        .name = op->name,
        .rank = s->rank,
        .world = s->world,
        .try_ = op->try_,
        .flags = op->flags,
        .epoch = op->name.epoch,
        .step = op->step,
        .time_ns = op->time_ns,
        .deadline_ns = op->deadline_ns,
        .has_parent = op->has_parent,
        .parent = op->parent,
        .fail_status = op->status,
        .decl = &cl->states[op->state].decl,
        .area = cl->areas[op - s->ops],
        .stored_bytes = op->stored_bytes,
        .has_witness = op->has_witness,
        .witness = op->witness,
        .witness_digest = op->witness_digest,
    };
    memcpy(p->fail_text, op->text, sizeof(p->fail_text));
}

static void submit_part(struct control *c, struct client *cl, enum job_kind kind,
                        const struct session_action *a)
{
    struct session_op *op = &cl->s->ops[a->op];
    struct job *j = new_job(cl, kind);
    j->op = op->id;
    fill_part(cl, op, &j->part);
    if (kind == JOB_BEGIN)
        cl->begin_ns[a->op] = c->now;
    if (kind == JOB_DIGEST) {
        const struct session_state *t = &cl->s->states[op->state];
        j->part.slot = a->slot;
        j->part.image_slot = a->image_slot;
        j->part.memory = cl->states[op->state].arena.base +
                         (uint64_t)(a->slot - t->first) * c->config->slot_bytes;
    }
    control_submit(c,
                   kind == JOB_DIGEST  ? c->digests
                   : kind == JOB_BEGIN ? c->begins
                                       : c->records,
                   j);
}

/* -- actions ---------------------------------------------------------------------------- */

void client_drop_arena(struct control *c, struct client *cl, uint32_t at)
{
    arena_close(&cl->states[at].arena);
    keep_drop(c->keep, cl->s->id, KEEP_ARENA, at);
    log_debug("arena dropped", "job=%s rank=%u", cl->s->job, cl->s->rank);
}

/* The keeper forgets before the ledger does: a worker that is killed in between leaves a
 * state without memory that is still to be forgotten. */
void client_forget(struct control *c, struct client *cl, uint32_t at)
{
    struct client_state *t = &cl->states[at];
    if (t->borrowed > 0 || !session_may_forget(cl->s, at))
        return;
    client_drop_arena(c, cl, at);
    keep_drop(c->keep, cl->s->id, KEEP_DECL, at);
    if (t->decoded)
        decl_fini(&t->decl);
    if (t->decl_fd >= 0)
        close(t->decl_fd);
    *t = (struct client_state){ .decl_fd = -1, .arena = { .fd = -1 } };
    control_tell(c, cl, &(struct session_event){ .kind = SESSION_FORGOTTEN, .state = at });
}

static void act_message(struct control *c, struct client *cl, const struct session_action *a)
{
    struct session *s = cl->s;
    switch ((int)a->kind) {
    case ACT_SEND_OP:
        send_op(cl, &s->ops[a->op]);
        break;
    case ACT_SEND_FINAL:
        send_final(cl, &s->finals[a->op]);
        break;
    case ACT_SEND_GRANT:
        send_grant(cl, &s->ops[a->op], a->slot);
        break;
    case ACT_NO_STATE:
        send_no_state(cl, (uint32_t)a->id);
        break;
    default:
        send_state(c, cl, a->op);
        break;
    }
}

static void act_one(struct control *c, struct client *cl, const struct session_action *a)
{
    switch ((enum session_action_kind)a->kind) {
    case ACT_SEND_OP:
    case ACT_SEND_FINAL:
    case ACT_SEND_GRANT:
    case ACT_SEND_STATE:
    case ACT_NO_STATE:
        act_message(c, cl, a);
        break;
    case ACT_JOIN:
    case ACT_PUT:
    case ACT_CANCEL:
    case ACT_PART_FAILED:
        control_say(c, cl, a);
        break;
    case ACT_SEAL:
        submit_seal(c, cl, a->op);
        break;
    case ACT_BEGIN:
        submit_part(c, cl, JOB_BEGIN, a);
        break;
    case ACT_PACK:
        submit_part(c, cl, JOB_DIGEST, a);
        break;
    case ACT_FINISH:
        submit_part(c, cl, JOB_FINISH, a);
        break;
    case ACT_FAIL_PART:
        submit_part(c, cl, JOB_FAIL_PART, a);
        break;
    case ACT_LOAD:
        control_load(c, cl, a->op);
        break;
    case ACT_LOAD_GONE:
        control_load_gone(c, cl, a->id);
        break;
    case ACT_BACK:
        control_load_back(c, cl, a->id);
        break;
    case ACT_OP_END:
        if (cl->s->ops[a->op].phase == OP_NONE)
            ledger_op_close(&cl->ledger, a->op, &cl->areas[a->op], true);
        break;
    case ACT_DROP_ARENA:
        client_drop_arena(c, cl, a->op);
        break;
    case ACT_FORGET:
        client_forget(c, cl, a->op);
        break;
    case ACT_OVER:
        cl->over = true;
        break;
    }
}

void control_act(struct control *c, struct client *cl, const struct session_actions *acts)
{
    for (uint32_t i = 0; i < acts->count; i++)
        act_one(c, cl, &acts->list[i]);
}
