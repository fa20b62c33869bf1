/* The session machine: its tables, states (declarations and arenas), and the dispatch of
 * events.  Slot owners and op phases change in session*.c and nowhere else. */
#include <assert.h>
#include <stdio.h>

#include "ckptd/session_impl.h"

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

/* -- what all parts use ---------------------------------------------------- */

struct session_action *session_act(struct session_actions *out, enum session_action_kind kind,
                                   uint32_t op)
{
    assert(out->count < SESSION_ACTIONS_MAX);
    struct session_action *a = &out->list[out->count++];
    *a = (struct session_action){ .kind = kind, .op = op };
    return a;
}

uint32_t session_op_index(const struct session *s, const struct session_op *op)
{
    return (uint32_t)(op - s->ops);
}

/* A slot that nobody needs: back to the pool, or never used again. */
void session_release(struct session *s, uint32_t slot)
{
    s->slots[slot] = (struct session_slot){ .owner = s->dead ? SLOT_QUARANTINED : SLOT_FREE };
}

void session_release_op(struct session *s, uint64_t op, enum slot_owner owner)
{
    for (uint32_t i = 0; i < s->slot_count; i++)
        if (s->slots[i].op == op && s->slots[i].owner == owner)
            session_release(s, i);
}

uint32_t session_add_final(struct session *s, const struct session_op *op)
{
    uint32_t at = s->next_final;
    s->next_final = (at + 1) % SESSION_FINALS;
    struct session_final *f = &s->finals[at];
    *f = (struct session_final){ .id = op->id,
                                 .level = op->level,
                                 .status = op->status,
                                 .name = op->name,
                                 .done_bytes = op->done_bytes,
                                 .total_bytes = op->total_bytes,
                                 .missing = op->missing,
                                 .unasked = op->unasked,
                                 .awaits = op->phase != OP_LOAD && op->status == CKPT_OK &&
                                           op->level == WIRE_LEVEL_LOCAL &&
                                           (s->flags & WIRE_HAS_REMOTE) };
    memcpy(f->text, op->text, sizeof(f->text));
    return at;
}

uint32_t session_tell(struct session *s, struct session_op *op, struct session_actions *out)
{
    uint32_t at = session_add_final(s, op);
    op->told = true;
    if (op->phase != OP_LOAD) {
        s->saves_committed += op->status == CKPT_OK;
        s->saves_failed += op->status != CKPT_OK;
    }
    session_act(out, ACT_SEND_FINAL, at);
    return at;
}

void session_set_failure(struct session_op *op, enum ckpt_status status, const char *text)
{
    op->status = status;
    snprintf(op->text, sizeof(op->text), "%s", text && text[0] ? text : status_sentence(status));
}

/* A forgotten state goes when nothing needs it, a dead client's arena when the crews have
 * let go of it, the session when nothing is left to decide. */
void session_drop_quiet(struct session *s, struct session_actions *out)
{
    for (uint32_t t = 0; t < SESSION_STATES_MAX; t++)
        if (session_may_forget(s, t))
            session_act(out, ACT_FORGET, t);
    if (!s->dead)
        return;
    for (uint32_t t = 0; t < SESSION_STATES_MAX; t++) {
        struct session_state *st = &s->states[t];
        if (st->phase == STATE_READY && !st->dropped && session_count(s, t, SLOT_QUEUED) == 0 &&
            session_count(s, t, SLOT_LOADING) == 0) {
            st->dropped = true;
            session_act(out, ACT_DROP_ARENA, t);
        }
        if (st->phase == STATE_SEALING)
            return; /* the job comes back first */
    }
    if (!session_busy(s))
        session_act(out, ACT_OVER, 0);
}

struct session_op *session_free_op(struct session *s)
{
    for (uint32_t i = 0; i < SESSION_OPS_MAX; i++)
        if (s->ops[i].phase == OP_NONE)
            return &s->ops[i];
    return NULL;
}

/* -- states ---------------------------------------------------------------- */

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
    if (ev->state == 0)
        return err_set(err, CKPT_INVALID, "STATE 0");
    if (at == UINT32_MAX) { /* those that are leaving may still be written or read */
        session_act(out, ACT_NO_STATE, 0)->id = ev->state;
        return CKPT_OK;
    }
    s->states[at] = (struct session_state){
        .phase = STATE_SEALING,
        .number = ev->state,
        .numa = ev->numa,
        .decl_bytes = ev->bytes,
        .want_bytes = ev->want,
    };
    session_act(out, ACT_SEAL, at);
    return CKPT_OK;
}

/* The state a message is about, ready for use. */
static enum ckpt_status ready_state(struct session *s, const struct session_event *ev,
                                    uint32_t *ret, struct ckpt_err *err)
{
    uint32_t at = session_state_of(s, ev->state);
    if (at == UINT32_MAX || s->states[at].phase != STATE_READY || s->states[at].leaving)
        return err_set(err, CKPT_WRONG_STATE, "state %u is not sealed", ev->state);
    *ret = at;
    return CKPT_OK;
}

enum ckpt_status session_new_op(struct session *s, const struct session_event *ev, int64_t now,
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

static void on_sealed(struct session *s, const struct session_event *ev,
                      struct session_actions *out)
{
    struct session_state *t = &s->states[ev->state];
    if (t->phase != STATE_SEALING)
        return;
    uint32_t first = session_place(s, ev->slots);
    if (ev->status == CKPT_OK && first != UINT32_MAX) {
        t->phase = STATE_READY;
        t->first = first;
        t->slots = ev->slots;
        t->image_slots = ev->image_slots;
        t->raw_bytes = ev->bytes;
        t->chunk_count = ev->chunks;
        t->ram_left_bytes = ev->want;
        s->slot_count = (uint32_t)max_u64(s->slot_count, first + ev->slots);
        for (uint32_t i = 0; i < ev->slots; i++)
            session_release(s, t->first + i);
    } else {
        t->phase = STATE_REFUSED;
        t->status = ev->status != CKPT_OK ? ev->status : CKPT_LIMIT;
        snprintf(t->text, sizeof(t->text), "%s", ev->text ? ev->text : "too many slots");
    }
    if (!t->leaving)
        session_act(out, ACT_SEND_STATE, ev->state);
    session_drop_quiet(s, out);
}

/* -- dispatch -------------------------------------------------------------- */

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
        session_act(out, ACT_LOAD_GONE, at)->id = op->id;
        session_end_load(s, op, CKPT_CANCELLED, "the restore was cancelled", out);
    } else if (op->staged) {
        session_act(out, ACT_CANCEL, at);
    } else {
        session_fail_op(s, op, CKPT_CANCELLED, text, out);
    }
}

static enum ckpt_status step_client(struct session *s, const struct session_event *ev, int64_t now,
                                    struct session_actions *out, struct ckpt_err *err)
{
    switch ((int)ev->kind) {
    case SESSION_STATE:
        return on_state(s, ev, out, err);
    case SESSION_SAVE:
        return session_on_save(s, ev, now, out, err);
    case SESSION_FULL:
        return session_on_full(s, ev, now, out, err);
    case SESSION_LOAD:
        return session_on_load(s, ev, now, out, err);
    case SESSION_BACK:
        return session_on_back(s, ev, out, err);
    case SESSION_FAIL:
        session_on_fail(s, ev, out);
        return CKPT_OK;
    case SESSION_CANCEL:
        on_cancel(s, ev, out);
        return CKPT_OK;
    case SESSION_FORGET:
        return session_on_forget(s, ev, out, err);
    default:
        return CKPT_OK;
    }
}

/* What becomes of a committed save beyond its home: the last word on it. */
static void on_remote(struct session *s, const struct session_event *ev,
                      struct session_actions *out)
{
    for (uint32_t i = 0; i < SESSION_FINALS; i++) {
        struct session_final *f = &s->finals[i];
        if (!f->awaits || !name_equal(&f->name, &ev->name))
            continue;
        f->awaits = false;
        if (ev->status == CKPT_OK)
            f->level = WIRE_LEVEL_REMOTE;
        session_act(out, ACT_SEND_FINAL, i);
    }
}

static void step_op(struct session *s, const struct session_event *ev, int64_t now,
                    struct session_actions *out)
{
    uint32_t at = session_op_of(s, ev->op);
    if (at == UINT32_MAX)
        return;
    switch ((int)ev->kind) {
    case SESSION_BEGUN:
        session_on_begun(s, &s->ops[at], ev, out);
        break;
    case SESSION_PACKED:
        session_on_packed(s, &s->ops[at], ev, now, out);
        break;
    case SESSION_FINISHED:
        session_on_finished(s, &s->ops[at], ev, now, out);
        break;
    case SESSION_FAILED_PUT:
        session_on_failed_put(s, &s->ops[at], out);
        break;
    case SESSION_DECIDED:
        session_on_decided(s, &s->ops[at], ev, out);
        break;
    default:
        session_on_loaded(s, &s->ops[at], ev, out);
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
        session_on_dead(s, "closed", out);
        break;
    case SESSION_ATTACH:
        session_on_attach(s, out);
        break;
    case SESSION_DETACH:
        session_on_detach(s, now, out);
        break;
    case SESSION_DEAD:
        session_on_dead(s, ev->text, out);
        break;
    case SESSION_SEALED:
        on_sealed(s, ev, out);
        break;
    case SESSION_FORGOTTEN:
        session_on_forgotten(s, ev->state);
        break;
    case SESSION_EPOCH:
        s->epoch = ev->name.epoch;
        s->last_commit.step = UINT64_MAX;
        s->point = ev->parent;
        s->flags |= WIRE_HAS_POINT;
        s->progress_put = false;
        s->restoring = true;
        s->new_epoch = true;
        break;
    case SESSION_REMOTE:
        on_remote(s, ev, out);
        break;
    case SESSION_STOP:
        session_give_up(s, CKPT_DAEMON_GONE, "lost ckptd, which was stopped,", out);
        break;
    case SESSION_TICK:
        session_on_tick(s, now, out);
        session_look_for_home(s, now, out);
        break;
    case SESSION_REPLAY:
        session_on_replay(s, now, out);
        break;
    default:
        step_op(s, ev, now, out);
        break;
    }
    return CKPT_OK;
}
