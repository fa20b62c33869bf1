/* The copies of the transfer thread: granted slots are filled, or queued on a device and
 * looked for until they have landed; then they are the daemon's. */
#include <poll.h>

#include "libckpt/context.h"

#define LOOK_NS INT64_C(1000000)

static void copied(struct ckpt *c, struct lib_op *op)
{
    op->copied = true;
    if (op->state->shared.copying == op->id)
        op->state->shared.copying = 0;
    c->shared.info.copy_ns = (uint64_t)(lib_now_ns() - op->begun_ns);
}

void copies_give_back(struct ckpt *c, const struct wire_back *back)
{
    wire_begin(c->compose, WIRE_BACK, back);
    struct lib_op *op = lib_op_find(c, back->op);
    if (client_queue(c, c->compose, -1) != CKPT_OK && op && !op->final)
        lib_op_give_up(c, op, CKPT_NO_MEMORY, "restore: out of memory");
}

struct fill_call {
    struct ckpt_state *s;
    struct wire_full *full;
    struct lib_flight *flight; /* set when there is one */
};

/* The copies of one FULL out of host memory: its slot, and with the last one the witness. */
static enum ckpt_status fill(void *arg, struct ckpt_err *err)
{
    const struct fill_call *call = arg;
    enum ckpt_status st = slots_fill(call->s, call->full, SLOTS_HOST, err);
    if (st == CKPT_OK) {
        slots_digest_witness(call->s, call->full);
        audit_note(call->s, call->full);
    }
    return st;
}

/* Queues those out of devices; what is in host memory follows when this lands. */
static enum ckpt_status queue(void *arg, struct ckpt_err *err)
{
    struct fill_call *call = arg;
    slots_pin(call->s);
    /* First: a copy from pages that are mapped no more would end the trainer's own context. */
    enum ckpt_status st = state_confirm(call->s, call->full, err);
    if (st == CKPT_OK)
        st = flight_new(call->s, &call->flight, err);
    if (st != CKPT_OK)
        return st;
    call->flight->full = *call->full;
    call->flight->host_left = true;
    int64_t begun = lib_now_ns();
    st = slots_fill(call->s, call->full, SLOTS_DEVICES, err);
    /* Copies that were only gathered are handed over now, or even done. */
    enum ckpt_status gone = flight_depart(call->s, call->flight, st == CKPT_OK ? err : NULL);
    st = st == CKPT_OK ? gone : st;
    if (st == CKPT_OK)
        slots_filled(call->s, call->full, lib_now_ns() - begun);
    return st;
}

void copies_hand_over(struct ckpt *c, const struct wire_full *full, enum ckpt_status st,
                      struct ckpt_err *err)
{
    struct lib_op *op = lib_op_find(c, full->op);
    pthread_cond_broadcast(&c->changed);
    if (!op || op->final)
        return; /* given up meanwhile */
    if (st == CKPT_OK && audit_hold(op->state, full))
        return; /* comes here again behind the fence */
    if (st != CKPT_OK)
        state_doubt(op->state);
    wire_begin(c->compose, WIRE_FULL, full);
    if (st == CKPT_OK && client_queue(c, c->compose, -1) != CKPT_OK)
        st = err_set(err, CKPT_NO_MEMORY, "save: out of memory");
    if (st != CKPT_OK)
        lib_op_give_up(c, op, st, err_text(err));
    else if (full->flags & WIRE_FULL_LAST)
        copied(c, op);
}

/* The next granted slot of a state that is still wanted.  Lock held. */
static bool next_grant(struct ckpt *c, struct ckpt_state *s, struct wire_full *full)
{
    struct lib_grants *g = &s->shared.grants;
    *full = (struct wire_full){ .op = g->op[g->head],
                                .state = s->number,
                                .arena_slot = g->slot[g->head] };
    g->head = (g->head + 1) % g->cap;
    g->count--;
    struct lib_op *op = lib_op_find(c, full->op);
    if (!op || op->final)
        return false;
    if (full->arena_slot != UINT32_MAX && op->next_slot >= s->decl.slot_count) {
        lib_op_give_up(c, op, CKPT_CORRUPT, "save: ckptd granted more slots than the state has");
        return false;
    }
    full->slot = full->arena_slot == UINT32_MAX ? 0 : op->next_slot++;
    full->flags = op->next_slot == s->decl.slot_count ? WIRE_FULL_LAST : 0;
    slots_choose_witness(s, full);
    return true;
}

/* Not yet, by the rate that saves may copy at?  Lock held. */
static bool too_early(struct ckpt *c, const struct ckpt_state *s)
{
    const struct lib_grants *g = &s->shared.grants;
    const struct lib_op *op = lib_op_find(c, g->op[g->head]);
    int64_t now = lib_now_ns();
    if (!op || op->final || op->next_slot >= s->decl.slot_count)
        return false; /* no bytes: next_grant says what of it */
    int64_t wait = pace_take(&c->pace, s->decl.slots[op->next_slot].used, now);
    c->pace_ns = wait ? now + wait : 0;
    return wait > 0;
}

/* Fills the next granted slot of one state, or queues that; false if there is none.  Lock
 * held, dropped meanwhile. */
static bool fill_one(struct ckpt *c, struct ckpt_state *s)
{
    struct wire_full full;
    struct ckpt_err err = { 0 };
    if (s->shared.grants.count == 0 || too_early(c, s))
        return false;
    if (!next_grant(c, s, &full))
        return true;
    bool host = s->devices == 0;
    struct fill_call call = { .s = s, .full = &full };
    s->shared.busy++;
    s->shared.queueing = true;
    pthread_mutex_unlock(&c->lock);
    enum ckpt_status st = lib_guarded(c, host ? fill : queue, &call, &err);
    pthread_mutex_lock(&c->lock);
    s->shared.queueing = false;
    if (full.flags & WIRE_FULL_LAST)
        s->shared.queued = full.op;
    s->shared.busy -= !call.flight; /* a flight keeps it to the landing */
    if (!call.flight || st != CKPT_OK)
        copies_hand_over(c, &full, st, &err);
    pthread_cond_broadcast(&c->changed);
    return true;
}

/* -- landings --------------------------------------------------------------- */

/* The oldest flight of a state lands, if it is down.  Lock held, dropped meanwhile. */
static bool land_one(struct ckpt *c, struct ckpt_state *s)
{
    struct lib_flight *f = s->flights;
    struct ckpt_err err = { 0 };
    if (!f)
        return false;
    pthread_mutex_unlock(&c->lock);
    enum ckpt_status st = flight_look(f, &err);
    if (st == CKPT_OK && f->host_left) {
        struct fill_call call = { .s = s, .full = &f->full };
        st = lib_guarded(c, fill, &call, &err);
    }
    pthread_mutex_lock(&c->lock);
    if (st == CKPT_BUSY)
        return false;
    struct lib_op *op = lib_op_find(c, f->load ? f->back.op : f->full.op);
    if (f->audit)
        audit_landed(c, s, st, &err);
    else if (!f->load && !f->aside)
        copies_hand_over(c, &f->full, st, &err);
    if (f->load && st != CKPT_OK && s->shared.failed.status == CKPT_OK)
        s->shared.failed = err;
    if ((f->load || f->aside) && st != CKPT_OK && op && !op->final)
        lib_op_give_up(c, op, st, err_text(&err));
    if (f->load && f->last && op && !op->final) /* else ckptd took it back, or is another one */
        copies_give_back(c, &f->back);
    flight_remove(s);
    s->shared.busy--;
    pthread_cond_broadcast(&c->changed);
    return true;
}

bool copies_bury_one(struct ckpt *c)
{
    struct ckpt_state *s = c->shared.states;
    while (s && (!s->shared.freed || state_in_use(s)))
        s = s->next;
    if (!s)
        return false;
    state_unlink(s);
    c->shared.burying = s->number;
    pthread_mutex_unlock(&c->lock);
    state_free_memory(s);
    free(s);
    pthread_mutex_lock(&c->lock);
    c->shared.burying = 0;
    pthread_cond_broadcast(&c->changed);
    return true;
}

bool copies_land_any(struct ckpt *c, bool *ret_left)
{
    bool did = false;
    *ret_left = false;
    pthread_mutex_lock(&c->lock);
    for (struct ckpt_state *s = c->shared.states; s && !did; s = s->next) {
        did = land_one(c, s);
        *ret_left |= s->flights != NULL;
    }
    did = did || copies_bury_one(c);
    pthread_mutex_unlock(&c->lock);
    return did;
}

bool copies_fill_any(struct ckpt *c)
{
    bool did = false;
    pthread_mutex_lock(&c->lock);
    for (struct ckpt_state *s = c->shared.states; s && !did; s = s->next)
        did = s->arena && fill_one(c, s);
    pthread_mutex_unlock(&c->lock);
    return did;
}

bool copies_land_all(struct ckpt *c, struct ckpt_state *s)
{
    enum ckpt_status st = CKPT_TIMEOUT;
    s->shared.alone++; /* keeps the state when the pause lands the last */
    while (s->flights && !flight_hangs(s->flights) && st == CKPT_TIMEOUT) {
        if (land_one(c, s))
            continue;
        pthread_mutex_unlock(&c->lock);
        st = transfer_pause(c, -1, lib_now_ns() + LOOK_NS); /* other states go on */
        pthread_mutex_lock(&c->lock);
    }
    s->shared.alone--;
    if (st != CKPT_TIMEOUT) /* the context ends, and leaves it mapped */
        return false;
    if (!s->flights)
        return true;
    struct ckpt_err err = { 0 };
    err_set(&err, CKPT_DEVICE, "copies of an operation that is over do not end: the device hangs");
    lib_break(c, &err);
    return false;
}

void copies_land_last(struct ckpt *c)
{
    int64_t deadline = lib_now_ns() + LIB_LAND_NS;
    bool did, left;
    do {
        did = copies_land_any(c, &left);
        if (!did && left)
            poll(NULL, 0, 1);
    } while ((did || left) && lib_now_ns() < deadline);
}
