/* The session machine.  Slot owners and op phases change here and nowhere else. */
#include "ckptd/session.h"

#include <assert.h>
#include <stdio.h>

static struct session_action *act(struct session_actions *out, enum session_action_kind kind,
                                  uint32_t op)
{
    assert(out->count < SESSION_ACTIONS_MAX);
    struct session_action *a = &out->list[out->count++];
    *a = (struct session_action){ .kind = kind, .op = op };
    return a;
}

static uint32_t op_index(const struct session *s, const struct session_op *op)
{
    return (uint32_t)(op - s->ops);
}

uint32_t session_state_of(const struct session *s, uint32_t number)
{
    for (uint32_t i = 0; i < SESSION_STATES_MAX; i++)
        if (s->states[i].phase != STATE_NONE && s->states[i].number == number)
            return i;
    return UINT32_MAX;
}

uint32_t session_op_of(const struct session *s, uint64_t id)
{
    for (uint32_t i = 0; i < SESSION_OPS_MAX; i++)
        if (s->ops[i].phase != OP_NONE && s->ops[i].id == id)
            return i;
    return UINT32_MAX;
}

uint32_t session_count(const struct session *s, uint32_t state, enum slot_owner owner)
{
    const struct session_state *t = &s->states[state];
    uint32_t n = 0;
    for (uint32_t i = 0; i < t->slots; i++)
        n += s->slots[t->first + i].owner == owner;
    return n;
}

bool session_busy(const struct session *s)
{
    for (uint32_t i = 0; i < SESSION_OPS_MAX; i++)
        if (s->ops[i].phase != OP_NONE)
            return true;
    for (uint32_t i = 0; i < s->slot_count; i++)
        if (s->slots[i].owner == SLOT_QUEUED || s->slots[i].owner == SLOT_LOADING)
            return true;
    return false;
}

const char *session_phase_name(uint32_t phase)
{
    static const char *const names[] = {
        [OP_NONE] = "none",       [OP_HOLD] = "waiting",    [OP_BEGIN] = "begin",
        [OP_COPYING] = "copying", [OP_FINISH] = "manifest", [OP_COMMIT] = "publish",
        [OP_FAILPUT] = "failing", [OP_ABORT] = "aborting",  [OP_OVER] = "over",
        [OP_LOAD] = "load",
    };
    return phase < ARRAY_COUNT(names) ? names[phase] : "unknown";
}

/* A slot that nobody needs: back to the pool, or never used again. */
static void release(struct session *s, uint32_t slot)
{
    s->slots[slot] = (struct session_slot){ .owner = s->dead ? SLOT_QUARANTINED : SLOT_FREE };
}

static void release_op_slots(struct session *s, uint64_t op, enum slot_owner owner)
{
    for (uint32_t i = 0; i < s->slot_count; i++)
        if (s->slots[i].op == op && s->slots[i].owner == owner)
            release(s, i);
}

/* -- how ops end ----------------------------------------------------------- */

static uint32_t add_final(struct session *s, const struct session_op *op)
{
    uint32_t at = s->next_final;
    s->next_final = (at + 1) % SESSION_FINALS;
    struct session_final *f = &s->finals[at];
    *f = (struct session_final){ .id = op->id,
                                 .level = op->level,
                                 .status = op->status,
                                 .name = op->name,
                                 .done_bytes = op->done_bytes,
                                 .total_bytes = op->total_bytes };
    memcpy(f->text, op->text, sizeof(f->text));
    return at;
}

static uint32_t tell(struct session *s, struct session_op *op, struct session_actions *out)
{
    uint32_t at = add_final(s, op);
    op->told = true;
    if (op->phase != OP_LOAD) {
        s->saves_committed += op->status == CKPT_OK;
        s->saves_failed += op->status != CKPT_OK;
    }
    act(out, ACT_SEND_FINAL, at);
    return at;
}

static void set_failure(struct session_op *op, enum ckpt_status status, const char *text)
{
    op->status = status;
    snprintf(op->text, sizeof(op->text), "%s", text && text[0] ? text : status_sentence(status));
}

static void grant(struct session *s, struct session_actions *out);
static void start_held(struct session *s, struct session_actions *out);
static void drop_what_is_quiet(struct session *s, struct session_actions *out);

/* Frees an op when nothing of it is out any more. */
static void end_if_quiet(struct session *s, struct session_op *op, struct session_actions *out)
{
    if (op->phase != OP_OVER || op->queued > 0 || op->job_out)
        return;
    if (!op->told)
        tell(s, op, out);
    act(out, ACT_OP_END, op_index(s, op));
    *op = (struct session_op){ .phase = OP_NONE };
    start_held(s, out);
    grant(s, out);
    drop_what_is_quiet(s, out);
}

/* The rank's part failed: tells the client, gives the slots back, makes it known. */
static void fail(struct session *s, struct session_op *op, enum ckpt_status status,
                 const char *text, struct session_actions *out)
{
    if (op->status == CKPT_OK)
        set_failure(op, status, text);
    if (!op->told)
        tell(s, op, out);
    release_op_slots(s, op->id, SLOT_CLIENT);
    op->out = 0;
    if (op->decided) {
        op->phase = OP_OVER;
        end_if_quiet(s, op, out);
    } else if (!op->job_out) {
        op->phase = OP_FAILPUT;
        op->job_out = true;
        act(out, ACT_FAIL_PART, op_index(s, op));
    } /* else: when the job that is out comes back */
    grant(s, out);
}

/* The end of a job of a save that failed meanwhile. */
static bool failed_meanwhile(struct session *s, struct session_op *op, struct session_actions *out)
{
    op->job_out = false;
    if (op->status == CKPT_OK && !op->decided)
        return false;
    if (op->decided) {
        op->phase = OP_OVER;
        end_if_quiet(s, op, out);
    } else {
        fail(s, op, op->status, op->text, out);
    }
    return true;
}

/* -- going on --------------------------------------------------------------- */

/* Gives free slots to the oldest saves that want them. */
static void grant(struct session *s, struct session_actions *out)
{
    for (uint32_t t = 0; t < SESSION_STATES_MAX && !s->dead; t++) {
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
                act(out, ACT_SEND_GRANT, op_index(s, op))->slot = slot;
            }
        }
    }
}

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

/* A second save of one step waits for the first one's fate, so that all ranks find the
 * same answer to "is it committed?". */
static void start_held(struct session *s, struct session_actions *out)
{
    for (uint32_t i = 0; i < SESSION_OPS_MAX; i++) {
        struct session_op *op = &s->ops[i];
        if (op->phase != OP_HOLD || same_step_above(s, op))
            continue;
        op->phase = OP_BEGIN;
        op->job_out = true;
        act(out, ACT_BEGIN, i);
    }
}

static void finish_if_packed(struct session *s, struct session_op *op, struct session_actions *out)
{
    if (op->phase != OP_COPYING || !op->staged || op->packed < op->image_slots)
        return;
    op->phase = OP_FINISH;
    op->job_out = true;
    act(out, ACT_FINISH, op_index(s, op));
}

/* A dead client's arena goes when the crews have let go of it; the session when nothing
 * is left to decide. */
static void drop_what_is_quiet(struct session *s, struct session_actions *out)
{
    if (!s->dead)
        return;
    for (uint32_t t = 0; t < SESSION_STATES_MAX; t++) {
        struct session_state *st = &s->states[t];
        if (st->phase == STATE_READY && !st->dropped && session_count(s, t, SLOT_QUEUED) == 0 &&
            session_count(s, t, SLOT_LOADING) == 0) {
            st->dropped = true;
            act(out, ACT_DROP_ARENA, t);
        }
        if (st->phase == STATE_SEALING)
            return; /* the job comes back first */
    }
    if (!session_busy(s))
        act(out, ACT_OVER, 0);
}

/* -- messages of the client --------------------------------------------------- */

static enum ckpt_status on_state(struct session *s, const struct session_event *ev,
                                 struct session_actions *out, struct ckpt_err *err)
{
    uint32_t at = session_state_of(s, ev->state);
    if (at != UINT32_MAX && s->states[at].phase != STATE_REFUSED)
        return err_set(err, CKPT_WRONG_STATE, "STATE %u was declared before", ev->state);
    for (uint32_t i = 0; at == UINT32_MAX && i < SESSION_STATES_MAX; i++)
        if (s->states[i].phase == STATE_NONE)
            at = i;
    for (uint32_t i = 0; at == UINT32_MAX && i < SESSION_STATES_MAX; i++)
        if (s->states[i].phase == STATE_REFUSED)
            at = i;
    if (at == UINT32_MAX || ev->state == 0)
        return err_set(err, CKPT_LIMIT, "more than %u states in one session", SESSION_STATES_MAX);
    s->states[at] = (struct session_state){
        .phase = STATE_SEALING, .number = ev->state, .decl_bytes = ev->bytes, .want_bytes = ev->want
    };
    act(out, ACT_SEAL, at);
    return CKPT_OK;
}

/* The state a message is about, ready for use. */
static enum ckpt_status ready_state(struct session *s, const struct session_event *ev,
                                    uint32_t *ret, struct ckpt_err *err)
{
    uint32_t at = session_state_of(s, ev->state);
    if (at == UINT32_MAX || s->states[at].phase != STATE_READY)
        return err_set(err, CKPT_WRONG_STATE, "state %u is not sealed", ev->state);
    *ret = at;
    return CKPT_OK;
}

static enum ckpt_status new_op(struct session *s, const struct session_event *ev, int64_t now,
                               struct session_op *ret, struct ckpt_err *err)
{
    uint32_t state = 0;
    enum ckpt_status st = ready_state(s, ev, &state, err);
    if (st != CKPT_OK)
        return st;
    if (ev->op <= s->last_op)
        return err_set(err, CKPT_INVALID, "op %llu does not rise above %llu",
                       (unsigned long long)ev->op, (unsigned long long)s->last_op);
    s->last_op = ev->op;
    s->states[state].used = true;
    *ret = (struct session_op){
        .id = ev->op, .state = state, .flags = ev->flags, .begun_ns = now, .name = ev->name
    };
    return CKPT_OK;
}

static struct session_op *free_op(struct session *s)
{
    for (uint32_t i = 0; i < SESSION_OPS_MAX; i++)
        if (s->ops[i].phase == OP_NONE)
            return &s->ops[i];
    return NULL;
}

static bool under_way(const struct session *s, const struct ckpt_name *name)
{
    for (uint32_t i = 0; i < SESSION_OPS_MAX; i++)
        if (s->ops[i].phase != OP_NONE && s->ops[i].phase != OP_LOAD &&
            name_equal(&s->ops[i].name, name))
            return true;
    return false;
}

static enum ckpt_status on_save(struct session *s, const struct session_event *ev, int64_t now,
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
    enum ckpt_status st = new_op(s, ev, now, &op, err);
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
    struct session_op *to = free_op(s);
    if (s->mode != WIRE_TRAIN)
        set_failure(&op, CKPT_WRONG_STATE, "a session opened for reading cannot save");
    else if (!to)
        set_failure(&op, CKPT_BUSY, "too many saves are under way in this session");
    if (op.status != CKPT_OK) {
        uint32_t at = tell(s, &op, out);
        if (s->mode == WIRE_TRAIN) /* the other ranks must not wait for this one */
            act(out, ACT_PART_FAILED, at);
        return CKPT_OK;
    }
    *to = op;
    start_held(s, out);
    return CKPT_OK;
}

static enum ckpt_status on_load(struct session *s, const struct session_event *ev, int64_t now,
                                struct session_actions *out, struct ckpt_err *err)
{
    struct session_op op;
    enum ckpt_status st = new_op(s, ev, now, &op, err);
    if (st != CKPT_OK)
        return st;
    op.phase = OP_LOAD;
    struct session_op *to = free_op(s);
    for (uint32_t i = 0; i < SESSION_OPS_MAX; i++)
        if (s->ops[i].phase == OP_LOAD)
            to = NULL;
    if (ev->status != CKPT_OK)
        set_failure(&op, ev->status, ev->text);
    else if (!to)
        set_failure(&op, CKPT_BUSY, "another restore is under way in this session");
    if (op.status != CKPT_OK) {
        tell(s, &op, out);
        return CKPT_OK;
    }
    *to = op;
    act(out, ACT_LOAD, op_index(s, to));
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

static void become_staged(struct session *s, struct session_op *op, int64_t now,
                          struct session_actions *out)
{
    op->staged = true;
    op->staged_ns = now;
    op->level = s->flags & WIRE_STAGED_IS_PROCESS ? WIRE_LEVEL_PROCESS : WIRE_LEVEL_STAGED;
    act(out, ACT_SEND_OP, op_index(s, op));
    finish_if_packed(s, op, out);
}

static enum ckpt_status on_full(struct session *s, const struct session_event *ev, int64_t now,
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
        become_staged(s, op, now, out);
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
    struct session_action *a = act(out, ACT_PACK, at);
    a->slot = slot;
    a->image_slot = ev->image_slot;
    if (op->filled == op->image_slots)
        become_staged(s, op, now, out);
    return CKPT_OK;
}

static enum ckpt_status on_back(struct session *s, const struct session_event *ev,
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
    release(s, slot);
    act(out, ACT_BACK, at)->id = ev->op;
    grant(s, out);
    return CKPT_OK;
}

static void end_load(struct session *s, struct session_op *op, enum ckpt_status status,
                     const char *text, struct session_actions *out)
{
    op->level = status == CKPT_OK ? WIRE_LEVEL_DONE : WIRE_LEVEL_NONE;
    if (status != CKPT_OK)
        set_failure(op, status, text);
    release_op_slots(s, op->id, SLOT_CLIENT);
    tell(s, op, out);
    act(out, ACT_OP_END, op_index(s, op));
    *op = (struct session_op){ .phase = OP_NONE };
    grant(s, out);
    drop_what_is_quiet(s, out);
}

static void on_fail(struct session *s, const struct session_event *ev, struct session_actions *out)
{
    uint32_t at = session_op_of(s, ev->op);
    if (at == UINT32_MAX || s->ops[at].phase == OP_LOAD || s->ops[at].staged ||
        s->ops[at].status != CKPT_OK)
        return; /* too late: it is staged, or failed by itself */
    enum ckpt_status st =
        ev->status != CKPT_OK && status_known(ev->status) ? ev->status : CKPT_INVALID;
    fail(s, &s->ops[at], st, ev->text, out);
}

static void on_cancel(struct session *s, const struct session_event *ev,
                      struct session_actions *out)
{
    char text[SESSION_TEXT_MAX];
    uint32_t at = session_op_of(s, ev->op);
    if (at == UINT32_MAX || s->ops[at].status != CKPT_OK)
        return;
    struct session_op *op = &s->ops[at];
    snprintf(text, sizeof(text), "rank %u cancelled the save of step %llu", s->rank,
             (unsigned long long)op->step);
    if (op->phase == OP_LOAD) {
        act(out, ACT_LOAD_GONE, at)->id = op->id;
        end_load(s, op, CKPT_CANCELLED, "the restore was cancelled", out);
    } else if (op->staged) {
        act(out, ACT_CANCEL, at);
    } else {
        fail(s, op, CKPT_CANCELLED, text, out);
    }
}

/* -- the client comes, goes, dies ---------------------------------------------- */

static void on_attach(struct session *s, struct session_actions *out)
{
    s->detached_ns = 0;
    for (uint32_t t = 0; t < SESSION_STATES_MAX; t++) {
        const struct session_state *st = &s->states[t];
        if ((st->phase == STATE_READY && !st->used) || st->phase == STATE_REFUSED)
            act(out, ACT_SEND_STATE, t);
    }
    for (uint32_t i = 0; i < SESSION_FINALS; i++) {
        uint32_t at = (s->next_final + i) % SESSION_FINALS; /* oldest first */
        if (s->finals[at].id != 0)
            act(out, ACT_SEND_FINAL, at);
    }
    for (uint32_t i = 0; i < SESSION_OPS_MAX; i++)
        if (s->ops[i].phase != OP_NONE && !s->ops[i].told && s->ops[i].phase > OP_BEGIN)
            act(out, ACT_SEND_OP, i);
    for (uint32_t i = 0; i < s->slot_count; i++) {
        uint32_t op =
            s->slots[i].owner == SLOT_CLIENT ? session_op_of(s, s->slots[i].op) : UINT32_MAX;
        if (op != UINT32_MAX && s->ops[op].phase == OP_COPYING)
            act(out, ACT_SEND_GRANT, op)->slot = i;
    }
}

static const char *doing(const struct session_op *op)
{
    return op->phase == OP_COPYING ? "while copying" : "at the start of the save of";
}

/* Everything that needs the client fails; what is staged goes on without it. */
static void give_up_unstaged(struct session *s, enum ckpt_status status, const char *how,
                             struct session_actions *out)
{
    char text[SESSION_TEXT_MAX];
    for (uint32_t i = 0; i < SESSION_OPS_MAX; i++) {
        struct session_op *op = &s->ops[i];
        if (op->phase == OP_LOAD) {
            act(out, ACT_LOAD_GONE, i)->id = op->id;
            end_load(s, op, status, how, out);
        } else if (op->phase != OP_NONE && !op->staged && op->status == CKPT_OK) {
            snprintf(text, sizeof(text), "rank %u %s %s step %llu", s->rank, how, doing(op),
                     (unsigned long long)op->step);
            fail(s, op, status, text, out);
        }
    }
}

static void on_dead(struct session *s, const char *how, struct session_actions *out)
{
    if (s->dead)
        return;
    s->dead = true;
    for (uint32_t i = 0; i < s->slot_count; i++)
        if (s->slots[i].owner == SLOT_CLIENT || s->slots[i].owner == SLOT_FREE)
            release(s, i);
    give_up_unstaged(s, CKPT_ABORTED, how ? how : "died", out);
    drop_what_is_quiet(s, out);
}

/* Saves wait for the client; a restore does not: it asks again. */
static void on_detach(struct session *s, int64_t now, struct session_actions *out)
{
    s->detached_ns = now;
    for (uint32_t i = 0; i < SESSION_OPS_MAX; i++) {
        if (s->ops[i].phase != OP_LOAD)
            continue;
        act(out, ACT_LOAD_GONE, i)->id = s->ops[i].id;
        end_load(s, &s->ops[i], CKPT_DAEMON_GONE, "the connection was lost", out);
    }
}

static void on_tick(struct session *s, int64_t now, struct session_actions *out)
{
    char text[SESSION_TEXT_MAX];
    if (s->detached_ns && !s->dead && now - s->detached_ns > SESSION_DETACHED_NS)
        on_dead(s, "lost its connection", out);
    for (uint32_t i = 0; i < SESSION_OPS_MAX; i++) {
        struct session_op *op = &s->ops[i];
        if (op->phase == OP_NONE || op->phase == OP_LOAD || op->staged || op->status != CKPT_OK ||
            now < op->deadline_ns)
            continue;
        snprintf(text, sizeof(text), "rank %u did not finish copying step %llu before its deadline",
                 s->rank, (unsigned long long)op->step);
        fail(s, op, CKPT_TIMEOUT, text, out);
    }
}

/* -- results of jobs -------------------------------------------------------------- */

static void on_sealed(struct session *s, const struct session_event *ev,
                      struct session_actions *out)
{
    struct session_state *t = &s->states[ev->state];
    if (t->phase != STATE_SEALING)
        return;
    if (ev->status == CKPT_OK && ev->slots <= SESSION_SLOTS_MAX - s->slot_count) {
        t->phase = STATE_READY;
        t->first = s->slot_count;
        t->slots = ev->slots;
        t->image_slots = ev->image_slots;
        t->raw_bytes = ev->bytes;
        t->chunk_count = ev->chunks;
        t->ram_left_bytes = ev->want;
        s->slot_count += ev->slots;
        for (uint32_t i = 0; i < ev->slots; i++)
            release(s, t->first + i);
    } else {
        t->phase = STATE_REFUSED;
        t->status = ev->status != CKPT_OK ? ev->status : CKPT_LIMIT;
        snprintf(t->text, sizeof(t->text), "%s", ev->text ? ev->text : "too many slots");
    }
    act(out, ACT_SEND_STATE, ev->state);
    drop_what_is_quiet(s, out);
}

static void on_begun(struct session *s, struct session_op *op, const struct session_event *ev,
                     struct session_actions *out)
{
    if (op->phase != OP_BEGIN || failed_meanwhile(s, op, out))
        return;
    if (ev->status == CKPT_EXISTS) { /* all ranks find the same: nobody waits for us */
        set_failure(op, ev->status, ev->text);
        op->phase = OP_OVER;
        end_if_quiet(s, op, out);
        return;
    }
    if (ev->status != CKPT_OK) {
        fail(s, op, ev->status, ev->text, out);
        return;
    }
    op->phase = OP_COPYING;
    op->has_parent = ev->has_parent;
    op->parent = ev->parent;
    act(out, ACT_JOIN, op_index(s, op));
    act(out, ACT_SEND_OP, op_index(s, op));
    grant(s, out);
}

static void on_packed(struct session *s, struct session_op *op, const struct session_event *ev,
                      struct session_actions *out)
{
    if (op->queued == 0 || s->slots[ev->slot].owner != SLOT_QUEUED ||
        s->slots[ev->slot].op != op->id)
        return;
    op->queued--;
    release(s, ev->slot);
    if (ev->status != CKPT_OK && op->status == CKPT_OK && !op->decided) {
        fail(s, op, ev->status, ev->text, out);
    } else if (ev->status == CKPT_OK) {
        ev->packs[ev->image_slot].id = ev->id;
        ev->packs[ev->image_slot].stored_bytes = ev->stored;
        op->packed++;
        op->stored_bytes += ev->stored;
        op->done_bytes += ev->bytes;
        if (op->status == CKPT_OK)
            finish_if_packed(s, op, out);
    }
    end_if_quiet(s, op, out);
    grant(s, out);
    drop_what_is_quiet(s, out);
}

static void on_finished(struct session *s, struct session_op *op, const struct session_event *ev,
                        struct session_actions *out)
{
    if (op->phase != OP_FINISH || failed_meanwhile(s, op, out))
        return;
    if (ev->status != CKPT_OK) {
        fail(s, op, ev->status, ev->text, out);
        return;
    }
    op->phase = OP_COMMIT;
    act(out, ACT_PUT, op_index(s, op));
}

static void on_failed_put(struct session *s, struct session_op *op, struct session_actions *out)
{
    if (op->phase != OP_FAILPUT)
        return;
    op->job_out = false;
    if (op->decided) {
        op->phase = OP_OVER;
        end_if_quiet(s, op, out);
        return;
    }
    op->phase = OP_ABORT;
    act(out, ACT_PART_FAILED, add_final(s, op));
}

static void on_decided(struct session *s, struct session_op *op, const struct session_event *ev,
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
        set_failure(op, ev->status, ev->text);
    release_op_slots(s, op->id, SLOT_CLIENT);
    op->out = 0;
    if (!op->told)
        tell(s, op, out);
    if (!op->job_out)
        op->phase = OP_OVER;
    end_if_quiet(s, op, out);
    grant(s, out);
}

static void on_loaded(struct session *s, struct session_op *op, const struct session_event *ev,
                      struct session_actions *out)
{
    if (op->phase != OP_LOAD)
        return;
    op->name = ev->name;
    op->done_bytes = op->total_bytes = ev->bytes;
    end_load(s, op, ev->status, ev->text, out);
}

static void replay_op(struct session *s, uint32_t i, struct session_actions *out)
{
    struct session_op *op = &s->ops[i];
    bool copying = op->phase == OP_COPYING && op->status == CKPT_OK;
    for (uint32_t k = 0; k < s->slot_count; k++) {
        struct session_slot *slot = &s->slots[k];
        if (slot->op != op->id)
            continue;
        if (slot->owner == SLOT_QUEUED && copying) {
            struct session_action *a = act(out, ACT_PACK, i);
            a->slot = k;
            a->image_slot = slot->image_slot;
        } else if (slot->owner == SLOT_QUEUED || slot->owner == SLOT_LOADING) {
            release(s, k); /* its crew died with the worker */
            op->queued = 0;
        }
    }
    if (op->phase == OP_BEGIN)
        act(out, ACT_BEGIN, i);
    if (op->phase == OP_COPYING || op->phase == OP_FINISH || op->phase == OP_COMMIT)
        act(out, ACT_JOIN, i);
    if (op->phase == OP_FINISH)
        act(out, ACT_FINISH, i);
    if (op->phase == OP_COMMIT)
        act(out, ACT_PUT, i);
    if (op->phase == OP_FAILPUT)
        act(out, ACT_FAIL_PART, i);
    if (op->phase == OP_ABORT)
        act(out, ACT_PART_FAILED, add_final(s, op));
    if (op->phase == OP_LOAD)
        end_load(s, op, CKPT_DAEMON_GONE, "ckptd's worker ended during the restore", out);
    else
        end_if_quiet(s, op, out);
}

static void on_replay(struct session *s, int64_t now, struct session_actions *out)
{
    if (!s->dead)
        s->detached_ns = now;
    for (uint32_t t = 0; t < SESSION_STATES_MAX; t++)
        if (s->states[t].phase == STATE_SEALING)
            act(out, ACT_SEAL, t);
    for (uint32_t i = 0; i < SESSION_OPS_MAX; i++)
        if (s->ops[i].phase != OP_NONE)
            replay_op(s, i, out);
    drop_what_is_quiet(s, out);
}

/* -- dispatch ---------------------------------------------------------------------- */

static enum ckpt_status step_client(struct session *s, const struct session_event *ev, int64_t now,
                                    struct session_actions *out, struct ckpt_err *err)
{
    switch ((int)ev->kind) {
    case SESSION_STATE:
        return on_state(s, ev, out, err);
    case SESSION_SAVE:
        return on_save(s, ev, now, out, err);
    case SESSION_FULL:
        return on_full(s, ev, now, out, err);
    case SESSION_LOAD:
        return on_load(s, ev, now, out, err);
    case SESSION_BACK:
        return on_back(s, ev, out, err);
    case SESSION_FAIL:
        on_fail(s, ev, out);
        return CKPT_OK;
    case SESSION_CANCEL:
        on_cancel(s, ev, out);
        return CKPT_OK;
    default:
        return CKPT_OK;
    }
}

static void step_op(struct session *s, const struct session_event *ev, struct session_actions *out)
{
    uint32_t at = session_op_of(s, ev->op);
    if (at == UINT32_MAX)
        return;
    switch ((int)ev->kind) {
    case SESSION_BEGUN:
        on_begun(s, &s->ops[at], ev, out);
        break;
    case SESSION_PACKED:
        on_packed(s, &s->ops[at], ev, out);
        break;
    case SESSION_FINISHED:
        on_finished(s, &s->ops[at], ev, out);
        break;
    case SESSION_FAILED_PUT:
        on_failed_put(s, &s->ops[at], out);
        break;
    case SESSION_DECIDED:
        on_decided(s, &s->ops[at], ev, out);
        break;
    default:
        on_loaded(s, &s->ops[at], ev, out);
        break;
    }
}

enum ckpt_status session_step(struct session *s, const struct session_event *ev, int64_t now,
                              struct session_actions *out, struct ckpt_err *err)
{
    if (ev->kind <= SESSION_NOTE) {
        if (s->dead)
            return err_set(err, CKPT_WRONG_STATE, "a message after the end of the session");
        if (ev->seq <= s->seq && ev->seq > 0)
            return CKPT_OK; /* a repeat */
        if (ev->seq != s->seq + 1)
            return err_set(err, CKPT_INVALID, "message %llu follows message %llu",
                           (unsigned long long)ev->seq, (unsigned long long)s->seq);
        enum ckpt_status st = step_client(s, ev, now, out, err);
        if (st == CKPT_OK)
            s->seq = ev->seq;
        return st;
    }
    switch ((int)ev->kind) {
    case SESSION_BYE:
        on_dead(s, "closed", out);
        break;
    case SESSION_ATTACH:
        on_attach(s, out);
        break;
    case SESSION_DETACH:
        on_detach(s, now, out);
        break;
    case SESSION_DEAD:
        on_dead(s, ev->text, out);
        break;
    case SESSION_SEALED:
        on_sealed(s, ev, out);
        break;
    case SESSION_EPOCH:
        s->epoch = ev->name.epoch;
        s->last_commit.step = UINT64_MAX;
        s->point = ev->parent;
        s->flags |= WIRE_HAS_POINT;
        s->progress_put = false;
        break;
    case SESSION_STOP:
        give_up_unstaged(s, CKPT_DAEMON_GONE, "lost ckptd, which was stopped,", out);
        break;
    case SESSION_TICK:
        on_tick(s, now, out);
        break;
    case SESSION_REPLAY:
        on_replay(s, now, out);
        break;
    default:
        step_op(s, ev, out);
        break;
    }
    return CKPT_OK;
}

/* -- slots of restores --------------------------------------------------------------- */

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

void session_unload(struct session *s, uint32_t slot, struct session_actions *out)
{
    assert(s->slots[slot].owner == SLOT_LOADING);
    release(s, slot);
    grant(s, out);
    drop_what_is_quiet(s, out);
}
