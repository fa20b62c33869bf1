/* The session machine: saves. */
#include <stdio.h>

#include "ckptd/session_impl.h"

static void start_held(struct session *s, struct session_actions *out);

/* -- how saves end --------------------------------------------------------- */

/* Frees an op when nothing of it is out any more. */
void session_end_if_quiet(struct session *s, struct session_op *op, struct session_actions *out)
{
    if (op->phase != OP_OVER || op->queued > 0 || op->job_out)
        return;
    if (!op->told)
        session_tell(s, op, out);
    session_act(out, ACT_OP_END, session_op_index(s, op));
    *op = (struct session_op){ .phase = OP_NONE };
    start_held(s, out);
    session_grant(s, out);
    session_drop_quiet(s, out);
}

/* Slots that wait for the home wait no longer. */
static void drop_away(struct session *s, struct session_op *op)
{
    for (uint32_t i = 0; i < s->slot_count; i++) {
        if (s->slots[i].op != op->id || !s->slots[i].away)
            continue;
        session_release(s, i);
        op->queued--;
    }
}

/* The rank's part failed: tells the client, gives the slots back, makes it known. */
void session_fail_op(struct session *s, struct session_op *op, enum ckpt_status status,
                     const char *text, struct session_actions *out)
{
    if (op->status == CKPT_OK)
        session_set_failure(op, status, text);
    if (!op->told)
        session_tell(s, op, out);
    session_release_op(s, op->id, SLOT_CLIENT);
    drop_away(s, op);
    op->out = 0;
    if (op->decided) {
        op->phase = OP_OVER;
        session_end_if_quiet(s, op, out);
    } else if (!op->job_out) {
        op->phase = OP_FAILPUT;
        op->job_out = true;
        session_act(out, ACT_FAIL_PART, session_op_index(s, op));
    } /* else: when the job that is out comes back */
    session_grant(s, out);
}

/* The end of a job of a save that failed meanwhile. */
static bool failed_meanwhile(struct session *s, struct session_op *op, struct session_actions *out)
{
    op->job_out = false;
    if (op->status == CKPT_OK && !op->decided)
        return false;
    if (op->decided) {
        op->phase = OP_OVER;
        session_end_if_quiet(s, op, out);
    } else {
        session_fail_op(s, op, op->status, op->text, out);
    }
    return true;
}

/* -- going on -------------------------------------------------------------- */

/* Gives free slots to the oldest saves that want them. */
void session_grant(struct session *s, struct session_actions *out)
{
    for (uint32_t t = 0; t < SESSION_STATES_MAX; t++) {
        if (s->states[t].phase != STATE_READY)
            continue;
        uint32_t slot = s->states[t].first, end = slot + s->states[t].slots;
        for (uint64_t above = 0;;) {
            struct session_op *op = NULL; /* the oldest one above `above` */
            for (uint32_t i = 0; i < SESSION_OPS_MAX; i++) {
                struct session_op *o = &s->ops[i];
                if (o->phase == OP_COPYING && o->state == t && o->id > above && !o->staged &&
                    o->status == CKPT_OK && (!op || o->id < op->id))
                    op = o;
            }
            if (!op)
                break;
            above = op->id;
            for (; slot < end && op->out + op->filled < op->image_slots; slot++) {
                if (s->slots[slot].owner != SLOT_FREE)
                    continue;
                s->slots[slot] = (struct session_slot){ .op = op->id, .owner = SLOT_CLIENT };
                op->out++;
                session_act(out, ACT_SEND_GRANT, session_op_index(s, op))->slot = slot;
            }
        }
    }
}

/* An earlier save of the same step: its fate is waited for, so that all ranks find the same
 * answer to "is it committed?". */
static bool same_step_above(const struct session *s, const struct session_op *op)
{
    for (uint32_t i = 0; i < SESSION_OPS_MAX; i++) {
        const struct session_op *o = &s->ops[i];
        if (o->phase != OP_NONE && o->phase != OP_LOAD && o->id < op->id && o->step == op->step &&
            o->name.epoch == op->name.epoch)
            return true;
    }
    return false;
}

/* All other places are taken: one of them is waited for, so that saves begin no faster than
 * they are committed, and a trainer that saves too often waits at its fence instead of being
 * refused the save after this one.  Not for long, and not while the home is away: then training
 * goes on (H5). */
static bool in_last_place(const struct session *s, const struct session_op *op)
{
    uint32_t above = 0;
    if (op->home_late)
        return false;
    for (uint32_t i = 0; i < SESSION_OPS_MAX; i++) {
        const struct session_op *o = &s->ops[i];
        if ((o->phase == OP_FINISH || o->phase == OP_COPYING) && (o->away_pause_ns || o->home_late))
            return false;
        above += o->phase != OP_NONE && o->id < op->id;
    }
    return above == SESSION_OPS_MAX - 1;
}

static void start_held(struct session *s, struct session_actions *out)
{
    for (uint32_t i = 0; i < SESSION_OPS_MAX; i++) {
        struct session_op *op = &s->ops[i];
        if (op->phase != OP_HOLD || same_step_above(s, op) || in_last_place(s, op))
            continue;
        op->phase = OP_BEGIN;
        op->job_out = true;
        session_act(out, ACT_BEGIN, i);
    }
}

static void finish_if_packed(struct session *s, struct session_op *op, struct session_actions *out)
{
    if (op->phase != OP_COPYING || !op->staged || op->packed < op->image_slots)
        return;
    op->phase = OP_FINISH;
    op->job_out = true;
    session_act(out, ACT_FINISH, session_op_index(s, op));
}

/* -- messages of the client ------------------------------------------------ */

static bool under_way(const struct session *s, const struct ckpt_name *name)
{
    for (uint32_t i = 0; i < SESSION_OPS_MAX; i++)
        if (s->ops[i].phase != OP_NONE && s->ops[i].phase != OP_LOAD &&
            name_equal(&s->ops[i].name, name))
            return true;
    return false;
}

enum ckpt_status session_on_save(struct session *s, const struct session_event *ev, int64_t now,
                                 struct session_actions *out, struct ckpt_err *err)
{
    struct session_op op;
    const struct ckpt_name name = {
        .epoch = s->epoch,
        .step = ev->step,
        .attempt = attempt_of(s->job, s->epoch, s->world, ev->step, ev->try_),
    };
    if (under_way(s, &name)) /* an attempt is decided once, for one op of a session */
        return err_set(err, CKPT_INVALID, "SAVE of step %llu, try %u, which is under way",
                       (unsigned long long)ev->step, ev->try_);
    enum ckpt_status st = session_new_op(s, ev, now, &op, err);
    if (st != CKPT_OK)
        return st;
    op.phase = OP_HOLD;
    op.step = ev->step;
    op.try_ = ev->try_;
    op.time_ns = ev->time_ns;
    op.name = name;
    op.deadline_ns = now + (int64_t)(ev->deadline_ms ? ev->deadline_ms : 3600000) * 1000000;
    op.image_slots = s->states[op.state].image_slots;
    op.total_bytes = s->states[op.state].raw_bytes;
    s->saves_begun++;
    struct session_op *to = session_free_op(s);
    if (s->mode != WIRE_TRAIN)
        session_set_failure(&op, CKPT_WRONG_STATE, "a session opened for reading cannot save");
    else if (s->restoring) /* its steps are still of the branch that the launch has left */
        session_set_failure(&op, CKPT_REFUSED,
                            "the launch went back to a checkpoint that this rank has not restored");
    else if (!to)
        session_set_failure(&op, CKPT_BUSY, "too many saves are under way in this session");
    if (op.status != CKPT_OK) {
        uint32_t at = session_tell(s, &op, out);
        if (s->mode == WIRE_TRAIN) /* the other ranks must not wait for this one */
            session_act(out, ACT_PART_FAILED, at);
        return CKPT_OK;
    }
    s->new_epoch = false;
    *to = op;
    start_held(s, out);
    return CKPT_OK;
}

/* True if FULL names things that exist and are the client's to hand over. */
static enum ckpt_status check_full(const struct session *s, const struct session_event *ev,
                                   const struct session_op *op, struct ckpt_err *err)
{
    const struct session_state *t = &s->states[op->state];
    if (t->number != ev->state || ev->slot >= t->slots)
        return err_set(err, CKPT_INVALID, "FULL names slot %u of state %u, which is not there",
                       ev->slot, ev->state);
    const struct session_slot *slot = &s->slots[t->first + ev->slot];
    if (slot->owner != SLOT_CLIENT || slot->op != ev->op)
        return err_set(err, CKPT_WRONG_STATE, "FULL names slot %u, which was not granted",
                       ev->slot);
    if (ev->image_slot >= op->image_slots)
        return err_set(err, CKPT_INVALID, "FULL names part %u of %u", ev->image_slot,
                       op->image_slots);
    uint64_t before = ev->packs[ev->image_slot].full_seq;
    if (before != 0 && before <= s->seq)
        return err_set(err, CKPT_INVALID, "FULL %llu names part %u, which came with message %llu",
                       (unsigned long long)ev->seq, ev->image_slot, (unsigned long long)before);
    bool last = op->filled + 1 == op->image_slots;
    if (last != ((ev->flags & WIRE_FULL_LAST) != 0))
        return err_set(err, CKPT_INVALID, "FULL number %u of %u says %s", op->filled + 1,
                       op->image_slots, last ? "that more follow" : "that it is the last");
    return CKPT_OK;
}

static void become_staged(struct session *s, struct session_op *op, const struct session_event *ev,
                          int64_t now, struct session_actions *out)
{
    op->has_witness = ev->flags & WIRE_FULL_WITNESS;
    op->witness = ev->witness;
    op->witness_digest = ev->id;
    op->staged = true;
    op->staged_ns = now;
    op->level = s->flags & WIRE_STAGED_IS_PROCESS ? WIRE_LEVEL_PROCESS : WIRE_LEVEL_STAGED;
    session_act(out, ACT_SEND_OP, session_op_index(s, op));
    finish_if_packed(s, op, out);
}

enum ckpt_status session_on_full(struct session *s, const struct session_event *ev, int64_t now,
                                 struct session_actions *out, struct ckpt_err *err)
{
    uint32_t at = session_op_of(s, ev->op);
    if (at == UINT32_MAX && ev->op <= s->last_op)
        return CKPT_OK; /* it failed meanwhile; its slots are ours again */
    if (at == UINT32_MAX || s->ops[at].phase == OP_LOAD)
        return err_set(err, CKPT_INVALID, "FULL for op %llu, which is no save",
                       (unsigned long long)ev->op);
    struct session_op *op = &s->ops[at];
    if (op->status != CKPT_OK)
        return CKPT_OK;
    if (op->phase != OP_COPYING || op->staged)
        return err_set(err, CKPT_WRONG_STATE, "FULL for a save that waits for nothing");
    if (ev->slot == UINT32_MAX) {
        if (op->image_slots > 0 || !(ev->flags & WIRE_FULL_LAST))
            return err_set(err, CKPT_INVALID, "FULL without a slot, but %u are expected",
                           op->image_slots);
        become_staged(s, op, ev, now, out);
        return CKPT_OK;
    }
    enum ckpt_status st = check_full(s, ev, op, err);
    if (st != CKPT_OK)
        return st;
    uint32_t slot = s->states[op->state].first + ev->slot;
    s->slots[slot].owner = SLOT_QUEUED;
    s->slots[slot].image_slot = ev->image_slot;
    ev->packs[ev->image_slot] = (struct session_pack){ .full_seq = ev->seq };
    op->out--;
    op->filled++;
    op->queued++;
    struct session_action *a = session_act(out, ACT_PACK, at);
    a->slot = slot;
    a->image_slot = ev->image_slot;
    if (op->filled == op->image_slots)
        become_staged(s, op, ev, now, out);
    return CKPT_OK;
}

void session_on_fail(struct session *s, const struct session_event *ev, struct session_actions *out)
{
    uint32_t at = session_op_of(s, ev->op);
    if (at == UINT32_MAX || s->ops[at].phase == OP_LOAD || s->ops[at].staged ||
        s->ops[at].status != CKPT_OK)
        return; /* too late: it is staged, or failed by itself */
    enum ckpt_status st =
        ev->status != CKPT_OK && status_known(ev->status) ? ev->status : CKPT_INVALID;
    session_fail_op(s, &s->ops[at], st, ev->text, out);
}

/* -- results of jobs, and the committer's word ----------------------------- */

void session_on_begun(struct session *s, struct session_op *op, const struct session_event *ev,
                      struct session_actions *out)
{
    if (op->phase != OP_BEGIN || failed_meanwhile(s, op, out))
        return;
    if (ev->status == CKPT_EXISTS) { /* all ranks find the same: nobody waits for us */
        session_set_failure(op, ev->status, ev->text);
        op->phase = OP_OVER;
        session_end_if_quiet(s, op, out);
        return;
    }
    if (ev->status != CKPT_OK) {
        session_fail_op(s, op, ev->status, ev->text, out);
        return;
    }
    op->phase = OP_COPYING;
    op->home_late |= ev->away;
    op->has_parent = ev->has_parent;
    op->parent = ev->parent;
    session_act(out, ACT_JOIN, session_op_index(s, op));
    session_act(out, ACT_SEND_OP, session_op_index(s, op));
    session_grant(s, out);
}

/* H5: what is staged or filled waits for its home until the save's deadline. */
static bool wait_for_home(struct session_op *op, const struct session_event *ev, int64_t now)
{
    if (!ev->away || now >= op->deadline_ns)
        return false;
    if (op->away_ns) /* another slot of it came back before */
        return true;
    int64_t longer = op->away_pause_ns ? op->away_pause_ns * 2 : SESSION_AWAY_MIN_NS;
    op->away_pause_ns = longer < SESSION_AWAY_MAX_NS ? longer : SESSION_AWAY_MAX_NS;
    op->away_ns = now + op->away_pause_ns;
    return true;
}

void session_on_packed(struct session *s, struct session_op *op, const struct session_event *ev,
                       int64_t now, struct session_actions *out)
{
    if (op->queued == 0 || s->slots[ev->slot].owner != SLOT_QUEUED ||
        s->slots[ev->slot].op != op->id || s->slots[ev->slot].away)
        return;
    if (op->status == CKPT_OK && !op->decided && wait_for_home(op, ev, now)) {
        s->slots[ev->slot].away = true;
        start_held(s, out);
        return;
    }
    op->queued--;
    session_release(s, ev->slot);
    if (ev->status != CKPT_OK && op->status == CKPT_OK && !op->decided) {
        session_fail_op(s, op, ev->status, ev->text, out);
    } else if (ev->status == CKPT_OK) {
        ev->packs[ev->image_slot].id = ev->id;
        ev->packs[ev->image_slot].stored_bytes = ev->stored;
        op->packed++;
        op->away_pause_ns = 0;
        op->stored_bytes += ev->stored;
        op->done_bytes += ev->bytes;
        if (op->status == CKPT_OK) {
            session_act(out, ACT_SEND_OP, session_op_index(s, op)); /* how far it is */
            finish_if_packed(s, op, out);
        }
    }
    session_end_if_quiet(s, op, out);
    session_grant(s, out);
    session_drop_quiet(s, out);
}

static void pack_again(struct session *s, struct session_op *op, struct session_actions *out)
{
    for (uint32_t k = 0; k < s->slot_count; k++) {
        if (s->slots[k].op != op->id || !s->slots[k].away)
            continue;
        s->slots[k].away = false;
        struct session_action *a = session_act(out, ACT_PACK, session_op_index(s, op));
        a->slot = k;
        a->image_slot = s->slots[k].image_slot;
    }
}

void session_look_for_home(struct session *s, int64_t now, struct session_actions *out)
{
    for (uint32_t i = 0; i < SESSION_OPS_MAX; i++) {
        struct session_op *op = &s->ops[i];
        if (op->phase == OP_HOLD && now - op->begun_ns >= SESSION_HOLD_NS) {
            op->home_late = true; /* whatever the others wait for has not said so yet */
            start_held(s, out);
        }
        if (!op->away_ns || now < op->away_ns)
            continue;
        op->away_ns = 0;
        if (op->phase == OP_COPYING)
            pack_again(s, op, out);
        if (op->phase != OP_FINISH)
            continue;
        op->job_out = true;
        session_act(out, ACT_FINISH, i);
    }
}

void session_on_finished(struct session *s, struct session_op *op, const struct session_event *ev,
                         int64_t now, struct session_actions *out)
{
    if (op->phase != OP_FINISH || failed_meanwhile(s, op, out))
        return;
    if (wait_for_home(op, ev, now)) {
        start_held(s, out);
        return;
    }
    if (ev->status != CKPT_OK) {
        session_fail_op(s, op, ev->status, ev->text, out);
        return;
    }
    op->phase = OP_COMMIT;
    session_act(out, ACT_PUT, session_op_index(s, op));
}

void session_on_failed_put(struct session *s, struct session_op *op, struct session_actions *out)
{
    if (op->phase != OP_FAILPUT)
        return;
    op->job_out = false;
    if (op->decided) {
        op->phase = OP_OVER;
        session_end_if_quiet(s, op, out);
        return;
    }
    op->phase = OP_ABORT;
    session_act(out, ACT_PART_FAILED, session_add_final(s, op));
}

void session_on_decided(struct session *s, struct session_op *op, const struct session_event *ev,
                        struct session_actions *out)
{
    if (op->phase == OP_LOAD || op->decided)
        return;
    op->decided = true;
    if (op->status == CKPT_OK && ev->status == CKPT_OK)
        s->last_commit = op->name;
    if (op->status == CKPT_OK && ev->status == CKPT_OK)
        op->level = WIRE_LEVEL_LOCAL;
    else if (op->status == CKPT_OK)
        session_set_failure(op, ev->status, ev->text);
    session_release_op(s, op->id, SLOT_CLIENT);
    drop_away(s, op);
    op->out = 0;
    if (!op->told)
        session_tell(s, op, out);
    if (!op->job_out)
        op->phase = OP_OVER;
    session_end_if_quiet(s, op, out);
    session_grant(s, out);
}
