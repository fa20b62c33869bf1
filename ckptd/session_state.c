/* The session machine: states come and go.  A state's slots are a run of session.slots;
 * what a forgotten one leaves is used again by the first that fits.
 *
 * Forgetting takes two steps, because a crew may still read the arena and a plan the
 * declaration: LEAVING until nothing of the session needs it, then ACT_FORGET; its place
 * is free when control says FORGOTTEN.  A worker that dies in between leaves a LEAVING
 * state in the ledger, and the next one forgets it. */
#include <assert.h>

#include "ckptd/session_impl.h"

/* How many slots are free from `start` on. */
static uint32_t gap_from(const struct session *s, uint32_t start)
{
    uint32_t end = SESSION_SLOTS_MAX;
    for (uint32_t t = 0; t < SESSION_STATES_MAX; t++) {
        const struct session_state *st = &s->states[t];
        if (st->phase != STATE_READY || st->slots == 0 || st->first + st->slots <= start)
            continue;
        if (st->first <= start)
            return 0;
        end = (uint32_t)min_u64(end, st->first);
    }
    return end - start;
}

/* Gaps begin at 0 and behind states. */
static uint32_t gap_start(const struct session *s, uint32_t i)
{
    if (i == SESSION_STATES_MAX)
        return 0;
    return s->states[i].phase == STATE_READY ? s->states[i].first + s->states[i].slots : 0;
}

uint32_t session_place(const struct session *s, uint32_t slots)
{
    uint32_t best = UINT32_MAX;
    for (uint32_t i = 0; i <= SESSION_STATES_MAX; i++) {
        uint32_t start = gap_start(s, i);
        if (start < best && gap_from(s, start) >= slots)
            best = start;
    }
    return best;
}

uint32_t session_room(const struct session *s)
{
    uint32_t most = 0;
    for (uint32_t i = 0; i <= SESSION_STATES_MAX; i++)
        most = (uint32_t)max_u64(most, gap_from(s, gap_start(s, i)));
    return most;
}

bool session_may_forget(const struct session *s, uint32_t state)
{
    const struct session_state *st = &s->states[state];
    if (s->dead || !st->leaving || st->phase == STATE_SEALING)
        return false;
    for (uint32_t i = 0; i < SESSION_OPS_MAX; i++)
        if (s->ops[i].phase != OP_NONE && s->ops[i].state == state)
            return false;
    return session_count(s, state, SLOT_QUEUED) == 0 && session_count(s, state, SLOT_LOADING) == 0;
}

enum ckpt_status session_on_forget(struct session *s, const struct session_event *ev,
                                   struct session_actions *out, struct ckpt_err *err)
{
    uint32_t at = session_state_of(s, ev->state);
    if (at != UINT32_MAX && s->states[at].leaving)
        return err_set(err, CKPT_WRONG_STATE, "state %u was forgotten before", ev->state);
    if (at == UINT32_MAX) /* it found no place */
        return CKPT_OK;
    s->states[at].leaving = true;
    for (uint32_t i = 0; i < SESSION_OPS_MAX; i++) {
        struct session_op *op = &s->ops[i];
        if (op->phase == OP_NONE || op->state != at || op->staged || op->status != CKPT_OK)
            continue;
        if (op->phase == OP_LOAD) {
            session_act(out, ACT_LOAD_GONE, i)->id = op->id;
            session_end_load(s, op, CKPT_CANCELLED, "its state was freed", out);
        } else {
            session_fail_op(s, op, CKPT_CANCELLED, "its state was freed", out);
        }
    }
    session_drop_quiet(s, out);
    return CKPT_OK;
}

void session_on_forgotten(struct session *s, uint32_t state)
{
    if (!session_may_forget(s, state))
        return;
    s->states[state] = (struct session_state){ .phase = STATE_NONE };
    s->slot_count = 0;
    for (uint32_t t = 0; t < SESSION_STATES_MAX; t++)
        if (s->states[t].phase == STATE_READY)
            s->slot_count =
                (uint32_t)max_u64(s->slot_count, s->states[t].first + s->states[t].slots);
}
