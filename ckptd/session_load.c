/* The session machine: restores. */
#include <assert.h>

#include "ckptd/session_impl.h"

void session_end_load(struct session *s, struct session_op *op, enum ckpt_status status,
                      const char *text, struct session_actions *out)
{
    op->level = status == CKPT_OK ? WIRE_LEVEL_DONE : WIRE_LEVEL_NONE;
    if (status != CKPT_OK)
        session_set_failure(op, status, text);
    session_release_op(s, op->id, SLOT_CLIENT);
    session_tell(s, op, out);
    session_act(out, ACT_OP_END, session_op_index(s, op));
    *op = (struct session_op){ .phase = OP_NONE };
    session_grant(s, out);
    session_drop_quiet(s, out);
}

enum ckpt_status session_on_load(struct session *s, const struct session_event *ev, int64_t now,
                                 struct session_actions *out, struct ckpt_err *err)
{
    struct session_op op;
    enum ckpt_status st = session_new_op(s, ev, now, &op, err);
    if (st != CKPT_OK)
        return st;
    op.phase = OP_LOAD;
    struct session_op *to = session_free_op(s);
    for (uint32_t i = 0; i < SESSION_OPS_MAX; i++)
        if (s->ops[i].phase == OP_LOAD)
            to = NULL;
    if (ev->status != CKPT_OK)
        session_set_failure(&op, ev->status, ev->text);
    else if (!to)
        session_set_failure(&op, CKPT_BUSY, "another restore is under way in this session");
    if (op.status != CKPT_OK) {
        session_tell(s, &op, out);
        return CKPT_OK;
    }
    /* Asked again for where its epoch began, before any save: that it has restored it did not
     * reach the client, who takes itself to be on the branch it was on before. */
    if (s->new_epoch && (ev->flags & WIRE_LOAD_ROLLBACK) && name_equal(&ev->name, &s->point))
        s->restoring = true;
    *to = op;
    session_act(out, ACT_LOAD, session_op_index(s, to));
    return CKPT_OK;
}

enum ckpt_status session_on_back(struct session *s, const struct session_event *ev,
                                 struct session_actions *out, struct ckpt_err *err)
{
    uint32_t at = session_op_of(s, ev->op);
    if (at == UINT32_MAX && ev->op <= s->last_op)
        return CKPT_OK; /* the restore ended; its slots were taken back */
    if (at == UINT32_MAX || s->ops[at].phase != OP_LOAD)
        return err_set(err, CKPT_INVALID, "BACK for op %llu, which is no restore",
                       (unsigned long long)ev->op);
    const struct session_state *t = &s->states[s->ops[at].state];
    if (t->number != ev->state || ev->slot >= t->slots)
        return err_set(err, CKPT_INVALID, "BACK names slot %u of state %u, which is not there",
                       ev->slot, ev->state);
    uint32_t slot = t->first + ev->slot;
    if (s->slots[slot].owner != SLOT_CLIENT || s->slots[slot].op != ev->op)
        return err_set(err, CKPT_WRONG_STATE, "BACK names slot %u, which was not lent", ev->slot);
    session_release(s, slot);
    session_act(out, ACT_BACK, at)->id = ev->op;
    session_grant(s, out);
    return CKPT_OK;
}

void session_on_loaded(struct session *s, struct session_op *op, const struct session_event *ev,
                       struct session_actions *out)
{
    if (op->phase != OP_LOAD)
        return;
    op->name = ev->name;
    op->done_bytes = op->total_bytes = ev->bytes;
    op->missing = ev->missing;
    op->unasked = ev->unasked;
    if (ev->status == CKPT_OK && (op->flags & WIRE_LOAD_ROLLBACK))
        s->restoring = false;
    session_end_load(s, op, ev->status, ev->text, out);
}

/* -- slots ----------------------------------------------------------------- */

uint32_t session_reserve(struct session *s, uint64_t op, uint32_t state)
{
    const struct session_state *t = &s->states[state];
    for (uint32_t i = 0; i < t->slots && !s->dead; i++) {
        struct session_slot *slot = &s->slots[t->first + i];
        if (slot->owner != SLOT_FREE)
            continue;
        *slot = (struct session_slot){ .op = op, .owner = SLOT_LOADING };
        return t->first + i;
    }
    return SESSION_NO_SLOT;
}

void session_fill(struct session *s, uint32_t slot)
{
    assert(s->slots[slot].owner == SLOT_LOADING);
    s->slots[slot].owner = s->dead ? SLOT_QUARANTINED : SLOT_CLIENT;
}

void session_loading(struct session *s, uint64_t op, uint64_t done_bytes, uint64_t total_bytes)
{
    uint32_t at = session_op_of(s, op);
    if (at == UINT32_MAX || s->ops[at].phase != OP_LOAD)
        return;
    s->ops[at].done_bytes = done_bytes;
    s->ops[at].total_bytes = total_bytes;
}

void session_unload(struct session *s, uint32_t slot, struct session_actions *out)
{
    assert(s->slots[slot].owner == SLOT_LOADING);
    session_release(s, slot);
    session_grant(s, out);
    session_drop_quiet(s, out);
}
