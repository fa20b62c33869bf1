/* See audit.h. */
#include <stdio.h>
#include <unistd.h>

#include "libckpt/context.h"

#define NAMED_MAX 3 /* tensors in a text */

void audit_free(struct ckpt_state *s)
{
    struct lib_audit *a = &s->audit;
    if (s->ctx->pid == getpid()) /* a forked child has something else there */
        room_drop(&a->room);
    free(a->noted);
    free(a->drifted);
    a->noted = NULL;
    a->drifted = NULL;
}

enum ckpt_status audit_when_of_env(enum audit_when *ret, struct ckpt_err *err)
{
    const char *v = getenv("CKPT_AUDIT"); // NOLINT(concurrency-mt-unsafe): only read
    *ret = AUDIT_FIRST;
    if (!v || !v[0])
        return CKPT_OK;
    if (strcmp(v, "0") != 0 && strcmp(v, "1") != 0)
        return err_set(err, CKPT_INVALID, "CKPT_AUDIT is \"%.20s\": 0 or 1", v);
    *ret = v[0] == '1' ? AUDIT_ALWAYS : AUDIT_NEVER;
    return CKPT_OK;
}

/* -- the caller's side ------------------------------------------------------ */

void audit_begin(struct ckpt_state *s, const struct lib_op *op, const struct ckpt_save_opts *o)
{
    struct lib_audit *a = &s->audit;
    enum audit_when when = s->ctx->audit_when;
    bool wanted = when == AUDIT_ALWAYS || (o->flags & CKPT_SAVE_AUDIT) ||
                  (when == AUDIT_FIRST && !a->shared.passed);
    a->op = 0;
    a->shared.stage = AUDIT_OFF;
    a->shared.asked = false;
    if (!wanted || (o->flags & CKPT_SAVE_NO_AUDIT) || s->decl.chunk_count == 0)
        return;
    if (!a->noted) {
        a->noted = calloc(s->decl.chunk_count, sizeof(*a->noted));
        a->drifted = calloc(s->decl.tensor_count, 1);
    }
    if (!a->noted || !a->drifted) {
        audit_free(s); /* no memory is no reason not to save */
        return;
    }
    a->op = op->id;
    a->shared.stage = AUDIT_NOTING;
    a->shared.saver = pthread_self();
    int64_t half = (int64_t)o->timeout_ms * 500000;
    a->shared.hold_ns = half < AUDIT_HOLD_NS ? half : AUDIT_HOLD_NS;
}

enum ckpt_status audit_adopt(struct ckpt_state *s, struct ckpt_err *err)
{
    struct lib_audit *a = &s->audit;
    uint64_t aside = 0;
    for (size_t i = 0; a->drifted && i < s->decl.tensor_count; i++)
        aside += a->drifted[i] == 2 ? s->need_bytes[i] : 0;
    for (size_t i = 0; a->drifted && i < s->decl.tensor_count; i++) {
        if (a->drifted[i] != 1 || s->need_bytes[i] > AUDIT_ASIDE_BYTES - aside)
            continue;
        enum ckpt_status st = state_make_side(s, i, err);
        if (st != CKPT_OK)
            return st;
        aside += s->need_bytes[i];
        a->drifted[i] = 2;
    }
    return CKPT_OK;
}

bool audit_pending(const struct ckpt_state *s)
{
    return s->audit.shared.stage != AUDIT_OFF && s->shared.copying == s->audit.op;
}

void audit_ask(struct ckpt_state *s)
{
    struct lib_audit *a = &s->audit;
    if (!audit_pending(s) || a->shared.asked)
        return;
    a->shared.asked = true;
    client_wake(s->ctx);
}

/* Done with, as far as later work on the caller's stream goes. */
static bool copies_are_first(const struct ckpt_state *s)
{
    if (s->audit.shared.stage != AUDIT_NOTING || s->shared.copying != s->audit.op)
        return true;
    return !s->host_memory && s->shared.queued == s->audit.op && !s->shared.queueing;
}

enum ckpt_status audit_await_copies(struct ckpt_state *s, struct ckpt_err *err)
{
    int64_t deadline = lib_now_ns() + AUDIT_BLOCK_NS;
    while (!copies_are_first(s))
        if (!lib_wait_changed(s->ctx, deadline) && !copies_are_first(s))
            return err_set(err, CKPT_TIMEOUT, "the copies are not all queued yet");
    return CKPT_OK;
}

/* -- the transfer thread ---------------------------------------------------- */

/* Digests the tiles of a slot, wherever they lie: noted (first), or compared.  Volatile tensors and
 * objects are read from their copy aside both times: those never differ. */
static void digest_slot(struct ckpt_state *s, uint32_t slot, const uint8_t *bytes, bool first)
{
    struct decl_walk w = decl_walk_slot(&s->decl, slot);
    struct decl_tile tile;
    while (decl_walk_next(&w, &tile)) {
        struct digest d = digest_of(bytes + tile.place.offset, tile.bytes);
        if (first)
            s->audit.noted[tile.chunk] = d;
        else if (!digest_equal(&d, &s->audit.noted[tile.chunk]))
            s->audit.drifted[tile.tensor] = 1;
    }
}

void audit_note(struct ckpt_state *s, const struct wire_full *full)
{
    if (s->audit.op == full->op && full->arena_slot != UINT32_MAX)
        digest_slot(s, full->slot, s->arena + full->arena_slot * s->slot_bytes, true);
}

bool audit_hold(struct ckpt_state *s, const struct wire_full *full)
{
    struct lib_audit *a = &s->audit;
    if (a->shared.stage != AUDIT_NOTING || a->op != full->op || !(full->flags & WIRE_FULL_LAST))
        return false;
    a->shared.held = *full;
    a->shared.stage = AUDIT_HELD;
    a->shared.hold_until_ns = lib_now_ns() + a->shared.hold_ns;
    return true;
}

bool audit_holds(const struct ckpt_state *s, uint32_t arena_slot)
{
    const struct lib_audit *a = &s->audit;
    return a->shared.stage >= AUDIT_HELD && a->shared.held.arena_slot == arena_slot;
}

static void say(struct ckpt *c, const char *text)
{
    snprintf(c->shared.info.audit, sizeof(c->shared.info.audit), "%s", text);
}

void audit_release(struct ckpt *c, struct ckpt_state *s, const char *why)
{
    struct lib_audit *a = &s->audit;
    struct ckpt_err err = { 0 };
    char text[sizeof(c->shared.info.audit)];
    enum audit_stage was = a->shared.stage;
    a->shared.stage = AUDIT_OFF;
    if (was == AUDIT_OFF)
        return;
    snprintf(text, sizeof(text), "not audited: %.200s", why);
    say(c, text);
    if (was >= AUDIT_HELD)
        copies_hand_over(c, &a->shared.held, CKPT_OK, &err);
}

/* Which tensors changed: for people. */
static void name_drifted(const struct ckpt_state *s, char *ret, size_t cap)
{
    size_t len = 0, named = 0, all = 0, large = 0;
    for (size_t i = 0; i < s->decl.tensor_count; i++) {
        if (s->audit.drifted[i] != 1)
            continue;
        large += s->need_bytes[i] > AUDIT_ASIDE_BYTES;
        if (all++ < NAMED_MAX && len < cap)
            len += (size_t)snprintf(ret + len, cap - len, "%s\"%.80s\"", named++ ? ", " : "",
                                    s->decl.tensors[i].name);
    }
    if (all > named && len < cap)
        len += (size_t)snprintf(ret + len, cap - len, " and %zu more", all - named);
    if (len < cap)
        snprintf(ret + len, cap - len, "%s",
                 large ? "; too large to be copied aside: change it behind the fence only, or "
                         "declare it volatile"
                       : "; volatile from now on");
}

/* All is compared.  Lock held. */
static void finish(struct ckpt *c, struct ckpt_state *s, struct lib_op *op)
{
    struct lib_audit *a = &s->audit;
    struct ckpt_err err = { 0 };
    char names[300], text[512];
    double took = (double)(lib_now_ns() - a->begun_ns) / 1e9;
    bool passed = true;
    for (size_t i = 0; i < s->decl.tensor_count; i++)
        passed &= a->drifted[i] != 1;
    a->shared.stage = AUDIT_OFF;
    if (passed) {
        a->shared.passed = true;
        snprintf(text, sizeof(text),
                 "step %llu: nothing changed before the fence, %llu bytes in "
                 "%.3f s",
                 (unsigned long long)op->step, (unsigned long long)s->decl.raw_bytes, took);
        say(c, text);
        copies_hand_over(c, &a->shared.held, CKPT_OK, &err);
        return;
    }
    name_drifted(s, names, sizeof(names));
    snprintf(text, sizeof(text), "changed between the save and its fence: %s", names);
    say(c, text);
    lib_op_give_up(c, op, CKPT_ABORTED, text);
}

struct look_call {
    struct ckpt_state *s;
    uint32_t slot;
    struct lib_flight *flight; /* set when there is one */
};

/* What of a slot lies in host memory is copied and all of it compared. */
static enum ckpt_status look(void *arg, struct ckpt_err *err)
{
    const struct look_call *l = arg;
    enum ckpt_status st = slots_fill_room(l->s, l->slot, SLOTS_HOST, l->s->audit.room.bytes, err);
    if (st == CKPT_OK)
        digest_slot(l->s, l->slot, l->s->audit.room.bytes, false);
    return st;
}

static enum ckpt_status queue(void *arg, struct ckpt_err *err)
{
    struct look_call *l = arg;
    enum ckpt_status st = flight_new(l->s, &l->flight, err);
    if (st != CKPT_OK)
        return st;
    l->flight->audit = true;
    l->flight->full = (struct wire_full){ .op = l->s->audit.op, .arena_slot = UINT32_MAX };
    st = slots_fill_room(l->s, l->slot, SLOTS_DEVICES, l->s->audit.room.bytes, err);
    enum ckpt_status gone = flight_depart(l->s, l->flight, st == CKPT_OK ? err : NULL);
    l->flight->status = st == CKPT_OK ? gone : st; /* comes out when the rest has landed */
    if (err)
        l->flight->err = *err;
    return l->flight->status;
}

/* A slot is compared; what failed is handed over unseen.  Lock held. */
static void seen(struct ckpt *c, struct ckpt_state *s, enum ckpt_status st, struct ckpt_err *err)
{
    struct lib_audit *a = &s->audit;
    struct lib_op *op = lib_op_find(c, a->op);
    a->next_slot++;
    pthread_cond_broadcast(&c->changed);
    if (a->shared.stage != AUDIT_COMPARING)
        return;
    if (!op || op->final) /* given up meanwhile */
        a->shared.stage = AUDIT_OFF;
    else if (st != CKPT_OK)
        audit_release(c, s, err_text(err));
    else if (a->next_slot == s->decl.slot_count)
        finish(c, s, op);
}

void audit_landed(struct ckpt *c, struct ckpt_state *s, enum ckpt_status st, struct ckpt_err *err)
{
    struct look_call call = { .s = s, .slot = s->audit.next_slot };
    if (st == CKPT_OK && s->audit.shared.stage == AUDIT_COMPARING) {
        pthread_mutex_unlock(&c->lock);
        st = lib_guarded(c, look, &call, err);
        pthread_mutex_lock(&c->lock);
    }
    seen(c, s, st, err);
}

/* Lock held, dropped meanwhile. */
static void compare_next(struct ckpt *c, struct ckpt_state *s)
{
    struct ckpt_err err = { 0 };
    struct look_call call = { .s = s, .slot = s->audit.next_slot };
    s->shared.busy++;
    pthread_mutex_unlock(&c->lock);
    enum ckpt_status st = lib_guarded(c, s->devices ? queue : look, &call, &err);
    pthread_mutex_lock(&c->lock);
    s->shared.busy -= !call.flight; /* a flight keeps it to the landing */
    if (!call.flight)
        seen(c, s, st, &err);
}

/* Lock held, dropped meanwhile; false: there is no room for it. */
static bool make_room(struct ckpt *c, struct ckpt_state *s)
{
    struct lib_audit *a = &s->audit;
    struct gpu *g = s->pin.by;
    a->begun_ns = lib_now_ns();
    a->next_slot = 0;
    for (size_t i = 0; i < s->decl.tensor_count; i++)
        a->drifted[i] = a->drifted[i] == 2 ? 2 : 0; /* what was too large may have stayed */
    a->shared.stage = AUDIT_COMPARING;
    s->shared.busy++;
    pthread_mutex_unlock(&c->lock);
    bool made = room_make(&a->room, s->slot_bytes); /* or that of the audit before */
    if (made && g && s->devices)
        (void)room_pin(&a->room, g, NULL);
    pthread_mutex_lock(&c->lock);
    s->shared.busy--;
    return made;
}

static void leave_room(struct ckpt *c, struct ckpt_state *s)
{
    s->shared.busy++;
    pthread_mutex_unlock(&c->lock);
    room_drop(&s->audit.room);
    pthread_mutex_lock(&c->lock);
    s->shared.busy--;
    pthread_cond_broadcast(&c->changed);
}

static bool compare_state(struct ckpt *c, struct ckpt_state *s)
{
    struct lib_audit *a = &s->audit;
    const struct lib_op *op = lib_op_find(c, a->op);
    if (s->flights)
        return false;
    if (a->shared.stage < AUDIT_HELD) {
        bool room = a->room.bytes != NULL;
        if (room)
            leave_room(c, s);
        return room;
    }
    if (!op || op->final) {
        a->shared.stage = AUDIT_OFF;
        return true;
    }
    if (a->shared.stage == AUDIT_HELD) {
        if (!a->shared.asked && lib_now_ns() < a->shared.hold_until_ns)
            return false;
        if (!make_room(c, s))
            audit_release(c, s, "out of memory");
        return true;
    }
    compare_next(c, s);
    return true;
}

bool audit_any(struct ckpt *c)
{
    bool did = false;
    pthread_mutex_lock(&c->lock);
    for (struct ckpt_state *s = c->shared.states; s && !did; s = s->next)
        did = compare_state(c, s);
    pthread_mutex_unlock(&c->lock);
    return did;
}
