/* A rank: what libckpt's transfer thread and its callers say and believe.  It checks what
 * it is told against the store, and what it writes and reads against who owns the slot. */
#include <stdio.h>

#include "sim/sim.h"
#include "sim/sim_wraps.h"

#define GARBAGE    UINT64_C(0xdeaddeaddeaddead)
#define OPEN_TRIES 3 /* as in libckpt/context.c */

struct sim_rank sim_ranks[SIM_RANKS];
uint32_t sim_rank_count;
static struct wire_msg compose;

static uint32_t index_of(const struct sim_rank *r)
{
    return (uint32_t)(r - sim_ranks);
}

const char *sim_job_name(uint32_t job)
{
    return job == 0 ? "sim" : "other";
}

static struct sim_launch *launch_of(const struct sim_rank *r)
{
    return &sim_launches[r->launch];
}

struct sim_op *sim_rank_op(struct sim_rank *r, uint64_t id)
{
    struct sim_op *op = &r->ops[id % SIM_OPS];
    return id && op->id == id ? op : NULL;
}

void sim_rank_wake(uint32_t rank, int64_t delay)
{
    sim_after(delay, EV_RANK, rank, 0);
}

/* ---- the queue of numbered messages ---- */

static void outs_drop(struct sim_rank *r, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        __real_free(r->outs[i].k);
    r->out_count -= count;
    memmove(r->outs, r->outs + count, r->out_count * sizeof(r->outs[0]));
}

static void flush(struct sim_rank *r)
{
    for (uint32_t i = 0; r->linked && i < r->out_count; i++) {
        if (r->outs[i].sent)
            continue;
        const struct sim_kept_msg *k = r->outs[i].k;
        static struct wire_msg m;
        memcpy(m.bytes, k->bytes, k->len);
        m.len = k->len;
        m.fd_count = k->fd_count;
        memcpy(m.fds, k->fds, sizeof(m.fds));
        sim_client_send((uint32_t)r->conn, &m);
        r->outs[i].sent = true;
    }
}

static void acked(struct sim_rank *r, uint64_t ack)
{
    uint32_t n = 0;
    while (n < r->out_count && r->outs[n].sent && r->outs[n].seq <= ack)
        n++;
    outs_drop(r, n);
}

/* What was composed, numbered; kept until it is acknowledged. */
static void queue(struct sim_rank *r)
{
    CHECK(r->out_count < ARRAY_COUNT(r->outs));
    struct sim_kept_msg *k = __real_malloc(sizeof(*k) + compose.len);
    CHECK(k);
    compose.head.seq = r->next_seq++;
    compose.head.fds = compose.fd_count;
    /* Only as long as it is: a whole wire_msg has 64 KiB. */
    k->len = compose.len;
    k->fd_count = compose.fd_count;
    memcpy(k->fds, compose.fds, sizeof(k->fds));
    memcpy(k->bytes, compose.bytes, compose.len);
    r->outs[r->out_count++] = (struct sim_out){ .seq = compose.head.seq, .k = k };
    flush(r);
}

void sim_rank_send(struct sim_rank *r, enum wire_type type, const void *body)
{
    wire_begin(&compose, type, body);
    queue(r);
}

void sim_ranks_reset(void)
{
    for (uint32_t i = 0; i < sim_rank_count; i++)
        outs_drop(&sim_ranks[i], sim_ranks[i].out_count);
    sim_rank_count = 0;
}

/* ---- the link ---- */

static void send_hello(struct sim_rank *r)
{
    const struct sim_launch *l = launch_of(r);
    struct wire_hello h = { .mode = l->reader ? WIRE_READ : WIRE_TRAIN,
                            .flags = r->resuming ? WIRE_HELLO_RESUMED : 0,
                            .pid = 100 + index_of(r),
                            .rank = r->rank,
                            .world = l->world,
                            .arrival_ms = sim_suite.cluster && !l->last ? 100000 : 900000,
                            .epoch = r->branch };
    r->refused_at = sim.now + h.arrival_ms * SIM_MS;
    memcpy(h.session, r->session, sizeof(h.session));
    wire_begin(&compose, WIRE_HELLO, &h);
    (void)wire_tail_str(&compose, sim_job_name(l->job));
    (void)wire_tail_str(&compose, l->reader ? "" : l->token);
    (void)wire_tail_str(&compose, l->resume ? l->resume : "");
    compose.fds[compose.fd_count++] = sim_fd(FD_PIDFD, index_of(r));
    compose.head.fds = 1;
    sim_client_send((uint32_t)r->conn, &compose);
}

static void try_connect(struct sim_rank *r)
{
    r->conn = sim_connect(index_of(r), r->node);
    if (r->conn >= 0)
        send_hello(r);
    else
        sim_rank_wake(index_of(r), sim_between(10 * SIM_MS, SIM_S));
}

void sim_rank_start(uint32_t rank)
{
    struct sim_rank *r = &sim_ranks[rank];
    if (r->phase != RANK_NONE)
        return;
    r->phase = RANK_CONNECTING;
    r->next_seq = r->next_op = 1;
    for (size_t i = 0; i < sizeof(r->session); i++)
        r->session[i] = (uint8_t)sim_rand(256);
    try_connect(r);
}

static void announce(struct sim_rank *r)
{
    struct wire_state b = { .state = 1,
                            .decl_bytes = sim_image_decl_bytes(r),
                            .arena_bytes = r->slots * sim_suite.slot_bytes };
    wire_begin(&compose, WIRE_STATE, &b);
    compose.fds[compose.fd_count++] = sim_fd(FD_DECL, index_of(r));
    r->arena = -1;
    queue(r);
}

static void end_op(struct sim_rank *r, struct sim_op *op, uint32_t status)
{
    if (op->final)
        return;
    op->final = op->begun = op->copied = true;
    op->status = status;
    if (r->copying == op->id)
        r->copying = 0;
}

void sim_rank_give_up(struct sim_rank *r, struct sim_op *op, enum ckpt_status st)
{
    if (op->final)
        return;
    sim_note("rank %u: gives up op %llu: %s", index_of(r), (unsigned long long)op->id,
             status_name(st));
    op->given_up = true;
    end_op(r, op, st);
    if (op->load)
        sim_rank_send(r, WIRE_CANCEL, &(struct wire_cancel){ .op = op->id });
    else
        sim_rank_send(r, WIRE_FAIL, &(struct wire_fail){ .op = op->id, .status = st });
}

static void broken(struct sim_rank *r, const char *why)
{
    sim_note("rank %u: its context is broken: %s", index_of(r), why);
    r->phase = RANK_BROKEN;
    r->linked = false;
    for (uint32_t i = 0; i < SIM_OPS; i++)
        if (r->ops[i].id)
            end_op(r, &r->ops[i], CKPT_BUG);
    if (r->conn >= 0)
        sim_client_close((uint32_t)r->conn);
    r->conn = -1;
    sim_program_broken(index_of(r));
}

void sim_rank_unlinked(uint32_t rank)
{
    struct sim_rank *r = &sim_ranks[rank];
    bool was = r->linked;
    r->linked = false;
    r->conn = -1;
    if (r->phase == RANK_DEAD || r->phase == RANK_CLOSED || r->phase == RANK_BROKEN)
        return;
    if (!r->ever_linked) { /* ckpt_open says HELLO again, a few times */
        if (++r->opens == OPEN_TRIES)
            broken(r, "open failed: ckptd died");
        else
            sim_rank_wake(rank, sim_between(SIM_MS, 500 * SIM_MS));
        return;
    }
    sim_note("rank %u: lost its link", rank);
    for (uint32_t i = 0; was && i < SIM_OPS; i++)
        if (r->ops[i].id && r->ops[i].load)
            sim_rank_give_up(r, &r->ops[i], CKPT_DAEMON_GONE);
    r->resuming = true;
    sim_rank_wake(rank, sim_between(50 * SIM_MS, 500 * SIM_MS));
}

void sim_rank_break_link(uint32_t rank)
{
    struct sim_rank *r = &sim_ranks[rank];
    if (!r->linked || r->busy)
        return;
    sim_saw(SEEN_link_broken);
    sim_client_close((uint32_t)r->conn);
    sim_rank_unlinked(rank);
}

/* The daemon knows nothing of this session any more. */
static void start_over(struct sim_rank *r)
{
    sim_saw(SEEN_start_over);
    sim_note("rank %u: starts over", index_of(r));
    outs_drop(r, r->out_count);
    r->next_seq = 1;
    for (uint32_t i = 0; i < SIM_OPS; i++)
        if (r->ops[i].id)
            end_op(r, &r->ops[i], CKPT_DAEMON_GONE);
    r->sealed = false;
    r->grant_count = 0;
    r->resuming = false;
    r->fresh = true;
    announce(r);
    sim_client_close((uint32_t)r->conn);
    try_connect(r);
}

static void on_hello_ok(struct sim_rank *r, const struct wire_msg *m)
{
    struct wire_hello_ok ok;
    bool resuming = r->resuming && !r->fresh;
    memcpy(&ok, wire_body(m), sizeof(ok));
    for (uint32_t i = 0; resuming && i < r->out_count; i++) {
        if (r->outs[i].sent && r->outs[i].seq > m->head.ack)
            sim_saw(SEEN_repeat);
        r->outs[i].sent = r->outs[i].seq <= m->head.ack;
    }
    if (resuming)
        sim_saw(SEEN_reattach);
    if (!r->ever_linked) {
        r->has_point = r->has_head = ok.flags & WIRE_HAS_POINT;
        r->point = r->head = ok.point;
        r->saved = false;
        r->phase = RANK_SEALING;
        r->ready_at = sim.now;
        r->branch = ok.epoch;
        sim_rank_wake(index_of(r), 601 * SIM_S);
        announce(r);
    } else if (!resuming) {
        r->behind = ok.epoch != r->branch;
        r->has_head = ok.flags & WIRE_HAS_POINT;
        r->has_point = r->has_head;
        r->point = r->head = ok.point;
        r->saved = false;
    }
    if (!resuming)
        r->hello_epoch = ok.epoch;
    if (!r->resuming)
        sim_store_opened(r);
    acked(r, m->head.ack);
    r->ever_linked = r->linked = true;
    r->fresh = false;
    r->resuming = true; /* from now on */
    flush(r);
}

/* I2: a home that is away for a while fails no launch before its ranks' own deadline. */
static void check_patience(const struct sim_rank *r, enum ckpt_status st, const char *text)
{
    bool home = st == CKPT_UNREACHABLE || st == CKPT_IO || st == CKPT_TIMEOUT;
    bool other = strstr(text, "which may have") || strstr(text, "about to end");
    SIM_CHECK(!home || other || !sim_home_waits || sim.now >= r->refused_at,
              "rank %u is refused before its deadline: %s", index_of(r), text);
}

static void on_refused(struct sim_rank *r, const struct wire_msg *m)
{
    struct wire_refused b;
    char text[200];
    memcpy(&b, wire_body(m), sizeof(b));
    wire_text(m, text, sizeof(text));
    sim_note("rank %u: refused: %s: %s", index_of(r), status_name((enum ckpt_status)b.status),
             text);
    if (b.type == WIRE_STATE) {
        r->seal_refused = !r->sealed;
        return;
    }
    SIM_CHECK(b.type == WIRE_HELLO && !r->linked, "a rank that keeps the rules was refused: %s",
              text);
    check_patience(r, (enum ckpt_status)b.status, text);
    if (r->ever_linked && r->resuming && b.status == CKPT_NOT_FOUND)
        start_over(r);
    else if (!r->ever_linked || status_class((enum ckpt_status)b.status) == CKPT_CLASS_CALLER)
        broken(r, text);
    /* else: the connection ends, and it comes again */
}

/* ---- what is true ---- */

static const struct session *session_of(const struct sim_rank *r)
{
    const struct control *c = sim_nodes[r->node].c;
    for (uint32_t i = 0, seen = 0; c && seen < c->client_count && i < CONTROL_CLIENTS_MAX; i++) {
        seen += c->clients[i] != NULL;
        if (c->clients[i] && c->clients[i]->open &&
            memcmp(c->clients[i]->s->id, r->session, 16) == 0)
            return c->clients[i]->s;
    }
    return NULL;
}

/* Nobody else may use a slot that the rank believes to be its own; it may have been taken
 * back, when the save failed and the rank has not heard of it yet. */
static void check_mine(const struct sim_rank *r, uint32_t slot, uint64_t op, const char *doing)
{
    const struct session *s = session_of(r);
    if (!s || slot >= s->slot_count)
        return;
    uint8_t owner = s->slots[slot].owner;
    SIM_CHECK(owner == SLOT_FREE || owner == SLOT_QUARANTINED ||
                  (owner == SLOT_CLIENT && s->slots[slot].op == op),
              "rank %u %s slot %u for op %llu, but it is %u's of op %llu", index_of(r), doing, slot,
              (unsigned long long)op, owner, (unsigned long long)s->slots[slot].op);
}

static uint64_t *slot_of(const struct sim_rank *r, uint32_t slot)
{
    return sim_slot(&sim_arenas[r->arena], slot);
}

static void spoil(const struct sim_rank *r, uint32_t slot)
{
    for (uint64_t i = 0; i < sim_suite.slot_bytes / sizeof(uint64_t); i++)
        slot_of(r, slot)[i] = GARBAGE;
}

/* ---- operations ---- */

static struct sim_op *new_op(struct sim_rank *r, bool load)
{
    while (r->ops[r->next_op % SIM_OPS].id && !r->ops[r->next_op % SIM_OPS].final)
        r->next_op++;
    struct sim_op *op = &r->ops[r->next_op % SIM_OPS];
    *op = (struct sim_op){ .id = r->next_op++, .load = load };
    r->copying = op->id;
    r->grant_count = 0;
    return op;
}

uint64_t sim_rank_save(struct sim_rank *r, uint64_t step, uint32_t try_, uint32_t deadline_ms)
{
    struct sim_op *op = new_op(r, false);
    r->saved = true;
    op->step = step;
    op->try_ = try_;
    struct wire_save b = {
        .op = op->id, .step = step, .state = 1, .try_ = try_, .deadline_ms = deadline_ms
    };
    sim_note("rank %u: save of step %llu try %u is op %llu", index_of(r), (unsigned long long)step,
             try_, (unsigned long long)op->id);
    sim_rank_send(r, WIRE_SAVE, &b);
    return op->id;
}

uint64_t sim_rank_load(struct sim_rank *r, bool rollback, const struct wire_name *point)
{
    struct sim_op *op = new_op(r, true);
    bool resume = r->has_point && memcmp(point, &r->point, sizeof(*point)) == 0;
    bool here = r->has_head && !r->saved && memcmp(point, &r->head, sizeof(*point)) == 0;
    op->name = *point;
    op->rollback = rollback && !here;
    struct wire_load b = { .op = op->id, .state = 1, .point = *point };
    b.flags = op->rollback ? WIRE_LOAD_ROLLBACK : !rollback || resume ? WIRE_LOAD_RESUME : 0;
    if (launch_of(r)->reader)
        b.flags = 0;
    sim_note("rank %u: restore of step %llu is op %llu", index_of(r),
             (unsigned long long)point->step, (unsigned long long)op->id);
    sim_rank_send(r, WIRE_LOAD, &b);
    return op->id;
}

/* ---- what it is told ---- */

static void told_failed(const struct sim_rank *r, const struct sim_op *op, uint32_t status)
{
    const struct ckpt_name name = { op->name.epoch, op->name.step, op->name.attempt };
    struct sim_attempt *a = sim_attempt_find(&name);
    if (status == CKPT_EXISTS) {
        for (uint32_t i = 0; i < sim_attempt_count; i++)
            if (sim_attempts[i].name.step == op->step &&
                sim_attempts[i].name.epoch == op->name.epoch &&
                sim_attempts[i].state == PUBLISH_COMMITTED)
                return;
        sim_fail("rank %u was told that step %llu exists, which is not committed", index_of(r),
                 (unsigned long long)op->step);
    }
    if (status == CKPT_TIMEOUT)
        sim_saw(SEEN_deadline);
    if (status == CKPT_SUPERSEDED)
        sim_saw(SEEN_told_superseded);
    if (a)
        a->told_failed[r->rank] = true;
}

static void told_level(const struct sim_rank *r, struct sim_op *op, const struct wire_op *w)
{
    const struct ckpt_name name = { w->name.epoch, w->name.step, w->name.attempt };
    struct sim_attempt *a = sim_attempt_find(&name);
    SIM_CHECK(w->level == WIRE_LEVEL_NONE || op->copied,
              "rank %u was told level %u of op %llu before it had copied it", index_of(r), w->level,
              (unsigned long long)op->id);
    if (w->level >= WIRE_LEVEL_STAGED && a)
        a->staged[r->rank] = true;
    if (w->level < WIRE_LEVEL_LOCAL)
        return;
    SIM_CHECK(a && a->state == PUBLISH_COMMITTED,
              "rank %u was told that step %llu is committed, which it is not", index_of(r),
              (unsigned long long)op->step);
    a->told_committed[r->rank] = true;
    SIM_CHECK(w->level < WIRE_LEVEL_REMOTE || a->held,
              "rank %u was told that step %llu is in the tier, which it is not", index_of(r),
              (unsigned long long)op->step);
    SIM_CHECK(!sim_remote || !(w->flags & WIRE_OP_FINAL) || w->level == WIRE_LEVEL_REMOTE ||
                  !sim_planned(&name),
              "rank %u was told that step %llu will not be in the tier", index_of(r),
              (unsigned long long)op->step);
}

static void told_loaded(const struct sim_rank *r, const struct sim_op *op, const struct wire_op *w)
{
    SIM_CHECK(!op->bad, "rank %u was told that restore %llu is done, which brought wrong bytes",
              index_of(r), (unsigned long long)op->id);
    SIM_CHECK(w->done_bytes == w->total_bytes && op->brought == w->total_bytes,
              "rank %u was told that restore %llu is done, with %llu of %llu bytes", index_of(r),
              (unsigned long long)op->id, (unsigned long long)op->brought,
              (unsigned long long)w->total_bytes);
    sim_saw(SEEN_load);
}

static void begin_op(struct sim_rank *r, struct sim_op *op)
{
    const struct ckpt_name name = { op->name.epoch, op->name.step, op->name.attempt };
    struct sim_attempt *a = op->load ? NULL : sim_attempt_find(&name);
    if (a)
        a->branch[r->rank] = r->branch;
    op->begun = true;
    if (op->load || r->image_slots > 0)
        return;
    struct wire_full full = {
        .op = op->id, .state = 1, .arena_slot = UINT32_MAX, .flags = WIRE_FULL_LAST
    };
    sim_saw(SEEN_empty_rank);
    sim_image_witness(r, &name, &full);
    sim_rank_send(r, WIRE_FULL, &full); /* this rank writes nothing */
    op->copied = true;
    r->copying = 0;
}

static void on_op(struct sim_rank *r, const struct wire_msg *m)
{
    struct wire_op w;
    memcpy(&w, wire_body(m), sizeof(w));
    struct sim_op *op = sim_rank_op(r, w.op);
    if (!op || op->final)
        return;
    bool final = w.flags & WIRE_OP_FINAL;
    if (!op->load)
        op->name = w.name;
    if (!op->begun && w.status == CKPT_OK)
        begin_op(r, op);
    sim_note("rank %u: op %llu: level %u status %s%s", index_of(r), (unsigned long long)w.op,
             w.level, status_name((enum ckpt_status)w.status), final ? ", final" : "");
    if (w.status != CKPT_OK) {
        if (op->load)
            sim_saw(SEEN_load_failed);
        else
            told_failed(r, op, w.status);
        end_op(r, op, w.status);
        return;
    }
    if (op->load) {
        SIM_CHECK(final == (w.level == WIRE_LEVEL_DONE), "a restore is done at level %u", w.level);
        if (final)
            told_loaded(r, op, &w);
        if (final && op->rollback) {
            SIM_CHECK(w.name.epoch > r->branch, "rank %u went back, but not to a new epoch",
                      index_of(r));
            r->branch = w.name.epoch;
            r->behind = false;
        } else if (final && r->behind && memcmp(&op->name, &r->head, sizeof(r->head)) == 0) {
            r->branch = r->hello_epoch;
            r->behind = false;
        }
    } else {
        SIM_CHECK(!final || w.level >= WIRE_LEVEL_LOCAL, "a save ended well at level %u", w.level);
        told_level(r, op, &w);
        op->level = w.level > op->level ? w.level : op->level;
    }
    if (final)
        end_op(r, op, CKPT_OK);
}

static bool full_unacked(const struct sim_rank *r, uint64_t op, uint32_t slot)
{
    for (uint32_t i = 0; i < r->out_count; i++) {
        struct wire_head head;
        struct wire_full full;
        memcpy(&head, r->outs[i].k->bytes, sizeof(head));
        if (head.type != WIRE_FULL)
            continue;
        memcpy(&full, r->outs[i].k->bytes + sizeof(head), sizeof(full));
        if (full.op == op && full.arena_slot == slot)
            return true;
    }
    return false;
}

static void fill_next(struct sim_rank *r)
{
    while (!r->busy && r->grant_count > 0) {
        uint32_t slot = r->grants[0];
        uint64_t id = r->grant_ops[0];
        memmove(r->grants, r->grants + 1, --r->grant_count * sizeof(r->grants[0]));
        memmove(r->grant_ops, r->grant_ops + 1, r->grant_count * sizeof(r->grant_ops[0]));
        struct sim_op *op = sim_rank_op(r, id);
        if (!op || op->final)
            continue;
        SIM_CHECK(op->next_slot < r->image_slots, "rank %u was granted more slots than it has",
                  index_of(r));
        r->busy = true;
        r->fill_slot = slot;
        r->fill_op = id;
        r->fill_part = op->next_slot++;
        check_mine(r, slot, id, "writes to");
        spoil(r, slot);
        sim_after(sim_between(20000, 50 * SIM_MS), EV_FILLED, index_of(r), ++r->copies);
    }
}

static void on_grant(struct sim_rank *r, const struct wire_msg *m)
{
    struct wire_grant w;
    memcpy(&w, wire_body(m), sizeof(w));
    const struct sim_op *op = sim_rank_op(r, w.op);
    if (!op || op->final || op->load || full_unacked(r, w.op, w.arena_slot))
        return;
    SIM_CHECK(r->arena >= 0 && w.arena_slot < sim_arenas[r->arena].slots,
              "rank %u was granted slot %u, which is not there", index_of(r), w.arena_slot);
    for (uint32_t i = 0; i < r->grant_count; i++)
        if (r->grants[i] == w.arena_slot)
            return; /* said again after a reconnect */
    SIM_CHECK(r->grant_count < SIM_ARENA_MAX, "rank %u was granted too many slots", index_of(r));
    r->grants[r->grant_count] = w.arena_slot;
    r->grant_ops[r->grant_count++] = w.op;
    fill_next(r);
}

void sim_rank_filled(uint32_t rank, uint64_t copy)
{
    struct sim_rank *r = &sim_ranks[rank];
    if (!r->busy || copy != r->copies || r->phase == RANK_DEAD)
        return;
    r->busy = false;
    struct sim_op *op = sim_rank_op(r, r->fill_op);
    bool last = r->fill_part + 1 == r->image_slots;
    if (!op || op->final || r->arena < 0) {
        fill_next(r);
        return;
    }
    if (sim_chance(sim_faults.copy_failed)) {
        sim_saw(SEEN_copy_failed);
        sim_rank_give_up(r, op, CKPT_DEVICE);
    } else {
        const struct ckpt_name name = { op->name.epoch, op->name.step, op->name.attempt };
        check_mine(r, r->fill_slot, op->id, "writes to");
        sim_image_fill(r, slot_of(r, r->fill_slot), &name, r->fill_part);
        struct wire_full full = { .op = op->id,
                                  .state = 1,
                                  .arena_slot = r->fill_slot,
                                  .slot = r->fill_part,
                                  .flags = last ? WIRE_FULL_LAST : 0 };
        if (last)
            sim_image_witness(r, &name, &full);
        sim_rank_send(r, WIRE_FULL, &full);
        if (last) {
            op->copied = true;
            r->copying = 0;
        }
    }
    fill_next(r);
    sim_program_step(rank);
}

static void on_frags(struct sim_rank *r, const struct wire_msg *m)
{
    struct wire_frags w;
    size_t len;
    memcpy(&w, wire_body(m), sizeof(w));
    const uint8_t *tail = wire_tail_of(m, &len);
    struct sim_op *op = sim_rank_op(r, w.op);
    if (op && op->load && !op->final) {
        SIM_CHECK(r->arena >= 0, "fragments make no sense");
        const struct ckpt_name name = { op->name.epoch, op->name.step, op->name.attempt };
        check_mine(r, w.arena_slot, w.op, "reads");
        uint32_t bytes = sim_image_check(r, slot_of(r, w.arena_slot), &name, &w, tail, len);
        op->bad |= bytes == UINT32_MAX;
        op->brought += bytes;
        op->begun = true;
        SIM_CHECK(op->bad || (w.done_bytes == op->brought && w.done_bytes <= w.total_bytes),
                  "rank %u was told of %llu bytes, and %llu have come, of restore %llu",
                  index_of(r), (unsigned long long)w.done_bytes, (unsigned long long)op->brought,
                  (unsigned long long)op->id);
    }
    sim_rank_send(r, WIRE_BACK,
                  &(struct wire_back){ .op = w.op, .state = w.state, .arena_slot = w.arena_slot });
}

static void on_state_ok(struct sim_rank *r, const struct wire_msg *m)
{
    struct wire_state_ok ok;
    memcpy(&ok, wire_body(m), sizeof(ok));
    SIM_CHECK(m->fd_count == 1 && ok.state == 1, "STATE_OK makes no sense");
    if (r->sealed)
        return;
    r->sealed = true;
    r->arena = (int32_t)sim_fd_index(m->fds[0]);
    SIM_CHECK(sim_arenas[r->arena].rank == (int32_t)index_of(r) &&
                  sim_arenas[r->arena].slots == ok.slots,
              "rank %u was given another's arena", index_of(r));
    if (r->phase == RANK_SEALING)
        r->phase = RANK_RUNNING;
}

void sim_rank_message(uint32_t rank, const struct wire_msg *m)
{
    struct sim_rank *r = &sim_ranks[rank];
    if (r->phase == RANK_DEAD || r->phase == RANK_CLOSED || r->phase == RANK_BROKEN)
        return;
    sim_note("rank %u: %s", rank, wire_type_name(m->head.type));
    if (r->linked)
        acked(r, m->head.ack);
    switch (m->head.type) {
    case WIRE_HELLO_OK:
        on_hello_ok(r, m);
        break;
    case WIRE_REFUSED:
        on_refused(r, m);
        break;
    case WIRE_STATE_OK:
        on_state_ok(r, m);
        break;
    case WIRE_OP:
        on_op(r, m);
        break;
    case WIRE_GRANT:
        on_grant(r, m);
        break;
    case WIRE_FRAGS:
        on_frags(r, m);
        break;
    default:
        break;
    }
    sim_program_step(rank);
}

void sim_rank_timer(uint32_t rank)
{
    struct sim_rank *r = &sim_ranks[rank];
    bool alive = r->phase != RANK_NONE && r->phase != RANK_DEAD && r->phase != RANK_CLOSED &&
                 r->phase != RANK_BROKEN;
    if (!alive)
        return;
    if (r->deaf_until > sim.now) {
        sim_rank_wake(rank, r->deaf_until - sim.now);
        return;
    }
    if (r->conn < 0)
        try_connect(r);
    sim_program_step(rank);
}

/* ---- its end ---- */

/* What it had in its hands may still be written to: DMA does not know of its death. */
static void scribble(const struct sim_rank *r)
{
    for (uint32_t i = 0; r->arena >= 0 && i < r->grant_count; i++)
        spoil(r, r->grants[i]);
    if (r->arena >= 0 && r->busy)
        spoil(r, r->fill_slot);
}

static void gone(struct sim_rank *r)
{
    outs_drop(r, r->out_count);
    if (r->conn >= 0)
        sim_client_close((uint32_t)r->conn);
    r->conn = -1;
    r->linked = false;
    sim_after(sim_between(10000, 50 * SIM_MS), EV_PIDFD, index_of(r), 0);
}

void sim_rank_die(uint32_t rank)
{
    struct sim_rank *r = &sim_ranks[rank];
    if (r->phase == RANK_NONE || r->phase == RANK_DEAD || r->phase == RANK_CLOSED)
        return;
    sim_note("rank %u: dies", rank);
    r->phase = RANK_DEAD;
    gone(r);
}

void sim_rank_pidfd(uint32_t rank)
{
    struct sim_rank *r = &sim_ranks[rank];
    scribble(r);
    r->pid_gone = true;
    sim_node_poke(r->node);
}

void sim_rank_close(struct sim_rank *r)
{
    for (uint32_t i = 0; i < SIM_OPS; i++)
        if (r->ops[i].id && !r->ops[i].copied)
            sim_rank_give_up(r, &r->ops[i], CKPT_CANCELLED);
    sim_note("rank %u: closes", index_of(r));
    if (r->linked) {
        wire_begin(&compose, WIRE_BYE, NULL);
        sim_client_send((uint32_t)r->conn, &compose);
    }
    r->phase = RANK_CLOSED;
    gone(r);
}
