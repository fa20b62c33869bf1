/* The session machine: the client comes, goes, dies; time passes; a worker takes over
 * from another. */
#include <stdio.h>

#include "ckptd/session_impl.h"

void session_on_attach(struct session *s, struct session_actions *out)
{
    s->detached_ns = 0;
    for (uint32_t t = 0; t < SESSION_STATES_MAX; t++) {
        const struct session_state *st = &s->states[t];
        if (!st->leaving && ((st->phase == STATE_READY && !st->used) || st->phase == STATE_REFUSED))
            session_act(out, ACT_SEND_STATE, t);
    }
    for (uint32_t i = 0; i < SESSION_FINALS; i++) {
        uint32_t at = (s->next_final + i) % SESSION_FINALS; /* oldest first */
        if (s->finals[at].id != 0)
            session_act(out, ACT_SEND_FINAL, at);
    }
    for (uint32_t i = 0; i < SESSION_OPS_MAX; i++)
        if (s->ops[i].phase != OP_NONE && !s->ops[i].told && s->ops[i].phase > OP_BEGIN)
            session_act(out, ACT_SEND_OP, i);
    for (uint32_t i = 0; i < s->slot_count; i++) {
        uint32_t op =
            s->slots[i].owner == SLOT_CLIENT ? session_op_of(s, s->slots[i].op) : UINT32_MAX;
        if (op != UINT32_MAX && s->ops[op].phase == OP_COPYING)
            session_act(out, ACT_SEND_GRANT, op)->slot = i;
    }
}

static const char *doing(const struct session_op *op)
{
    return op->phase == OP_COPYING ? "while copying" : "at the start of the save of";
}

/* Everything that needs the client fails; what is staged goes on without it. */
void session_give_up(struct session *s, enum ckpt_status status, const char *how,
                     struct session_actions *out)
{
    char text[SESSION_TEXT_MAX];
    for (uint32_t i = 0; i < SESSION_OPS_MAX; i++) {
        struct session_op *op = &s->ops[i];
        if (op->phase == OP_LOAD) {
            session_act(out, ACT_LOAD_GONE, i)->id = op->id;
            session_end_load(s, op, status, how, out);
        } else if (op->phase != OP_NONE && !op->staged && op->status == CKPT_OK) {
            snprintf(text, sizeof(text), "rank %u %s %s step %llu", s->rank, how, doing(op),
                     (unsigned long long)op->step);
            session_fail_op(s, op, status, text, out);
        }
    }
}

void session_on_dead(struct session *s, const char *how, struct session_actions *out)
{
    if (s->dead)
        return;
    s->dead = true;
    for (uint32_t i = 0; i < s->slot_count; i++)
        if (s->slots[i].owner == SLOT_CLIENT || s->slots[i].owner == SLOT_FREE)
            session_release(s, i);
    session_give_up(s, CKPT_ABORTED, how ? how : "died", out);
    session_drop_quiet(s, out);
}

/* Saves wait for the client; a restore does not: it asks again. */
void session_on_detach(struct session *s, int64_t now, struct session_actions *out)
{
    s->detached_ns = now;
    for (uint32_t i = 0; i < SESSION_OPS_MAX; i++) {
        if (s->ops[i].phase != OP_LOAD)
            continue;
        session_act(out, ACT_LOAD_GONE, i)->id = s->ops[i].id;
        session_end_load(s, &s->ops[i], CKPT_DAEMON_GONE, "the connection was lost", out);
    }
}

void session_on_tick(struct session *s, int64_t now, struct session_actions *out)
{
    char text[SESSION_TEXT_MAX];
    if (s->detached_ns && !s->dead && now - s->detached_ns > SESSION_DETACHED_NS)
        session_on_dead(s, "lost its connection", out);
    for (uint32_t i = 0; i < SESSION_OPS_MAX; i++) {
        struct session_op *op = &s->ops[i];
        if (op->phase == OP_NONE || op->phase == OP_LOAD || op->staged || op->status != CKPT_OK ||
            now < op->deadline_ns)
            continue;
        snprintf(text, sizeof(text), "rank %u did not finish copying step %llu before its deadline",
                 s->rank, (unsigned long long)op->step);
        session_fail_op(s, op, CKPT_TIMEOUT, text, out);
    }
}

/* -- another worker goes on ------------------------------------------------ */

static void replay_op(struct session *s, uint32_t i, struct session_actions *out)
{
    struct session_op *op = &s->ops[i];
    bool copying = op->phase == OP_COPYING && op->status == CKPT_OK;
    for (uint32_t k = 0; k < s->slot_count; k++) {
        struct session_slot *slot = &s->slots[k];
        if (slot->op != op->id)
            continue;
        slot->away = false;
        if (slot->owner == SLOT_QUEUED && copying) {
            struct session_action *a = session_act(out, ACT_PACK, i);
            a->slot = k;
            a->image_slot = slot->image_slot;
        } else if (slot->owner == SLOT_QUEUED) {
            session_release(s, k); /* its crew died with the worker */
            op->queued = 0;
        }
    }
    if (op->phase == OP_BEGIN)
        session_act(out, ACT_BEGIN, i);
    /* What was decided puts nothing any more: nobody shall wait for its part. */
    if (!op->decided &&
        (op->phase == OP_COPYING || op->phase == OP_FINISH || op->phase == OP_COMMIT))
        session_act(out, ACT_JOIN, i);
    op->away_ns = 0;
    if (op->phase == OP_FINISH) {
        op->job_out = true;
        session_act(out, ACT_FINISH, i);
    }
    if (op->phase == OP_COMMIT)
        session_act(out, ACT_PUT, i);
    if (op->phase == OP_FAILPUT)
        session_act(out, ACT_FAIL_PART, i);
    if (op->phase == OP_ABORT)
        session_act(out, ACT_PART_FAILED, session_add_final(s, op));
    if (op->phase == OP_LOAD)
        session_end_load(s, op, CKPT_DAEMON_GONE, "ckptd's worker ended during the restore", out);
    else
        session_end_if_quiet(s, op, out);
}

void session_on_replay(struct session *s, int64_t now, struct session_actions *out)
{
    if (!s->dead)
        s->detached_ns = now;
    for (uint32_t t = 0; t < SESSION_STATES_MAX; t++)
        if (s->states[t].phase == STATE_SEALING)
            session_act(out, ACT_SEAL, t);
    /* Also of restores that the client had left already: their crew died, too. */
    for (uint32_t k = 0; k < s->slot_count; k++)
        if (s->slots[k].owner == SLOT_LOADING)
            session_release(s, k);
    /* What was held starts by itself when the end of another is replayed; not twice. */
    bool held[SESSION_OPS_MAX];
    for (uint32_t i = 0; i < SESSION_OPS_MAX; i++)
        held[i] = s->ops[i].phase == OP_HOLD;
    for (uint32_t i = 0; i < SESSION_OPS_MAX; i++)
        if (s->ops[i].phase != OP_NONE && !held[i])
            replay_op(s, i, out);
    session_drop_quiet(s, out);
}
