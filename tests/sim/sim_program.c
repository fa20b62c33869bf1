/* What ranks do and what goes wrong, all from the seed.  All ranks of a launch do the same
 * things in the same order, each at its own pace. */
#include <stdio.h>

#include "sim/sim.h"

#define FAULTS_MAX 24

enum fault_kind {
    FAULT_WORKER, /* at a call soon */
    FAULT_WORKER_NOW,
    FAULT_KEEPER,
    FAULT_BOTH,
    FAULT_STOP,
    FAULT_RANK,
    FAULT_STALL,
    FAULT_LINK,
    FAULT_SUITE, /* and those behind it: the suite's own, on a node */
    FAULT_KINDS = FAULT_SUITE + 4,
};
struct fault {
    enum fault_kind kind;
    uint32_t which; /* node, or rank */
};

struct sim_faults sim_faults;
struct sim_launch sim_launches[SIM_LAUNCHES];
uint32_t sim_launch_count;
static struct fault faults[FAULTS_MAX];
static uint32_t fault_count;
static bool last_started;

/* ---- from the seed ---- */

static void plan_items(struct sim_launch *l)
{
    static const uint32_t deadlines[] = { 0, 0, 30000, 120000, 600000 };
    uint32_t n = 2 + (uint32_t)sim_rand(SIM_ITEMS - 6);
    uint64_t step = 10 * l->number + 1;
    if (sim_rand(3) > 0)
        l->items[l->item_count++].kind = ITEM_RESTORE;
    for (uint32_t i = 0; i < n; i++) {
        struct sim_item *it = &l->items[l->item_count++];
        uint64_t what = sim_rand(16);
        it->step = step;
        it->deadline_ms = deadlines[sim_rand(ARRAY_COUNT(deadlines))];
        if (what < 9) {
            it->kind = ITEM_SAVE;
            step += sim_rand(5) > 0; /* else the same step again */
        } else if (what < 12) {
            it->kind = ITEM_WAIT;
        } else if (what < 13) {
            it->kind = ITEM_CANCEL;
        } else if (what < 14) {
            it->kind = ITEM_ROLLBACK;
        } else if (what < 15) {
            it->kind = ITEM_RESTORE;
        } else {
            it->kind = ITEM_PROGRESS;
        }
    }
}

static struct sim_launch *add_launch(uint32_t job, uint32_t world, bool reader)
{
    struct sim_launch *l = &sim_launches[sim_launch_count];
    CHECK(sim_launch_count < SIM_LAUNCHES && sim_rank_count + world <= SIM_RANKS);
    *l = (struct sim_launch){ .job = job,
                              .number = sim_launch_count++,
                              .world = world,
                              .first_rank = sim_rank_count,
                              .reader = reader };
    snprintf(l->token, sizeof(l->token), "launch-%u", l->number);
    bool spread = sim_rand(4) > 0;
    uint32_t shift = sim_suite.cluster ? (uint32_t)sim_rand(sim_node_count) : 0;
    for (uint32_t r = 0; r < world; r++) {
        struct sim_rank *k = &sim_ranks[sim_rank_count++];
        uint32_t node = spread ? (r + shift) % sim_node_count : shift;
        *k = (struct sim_rank){ .launch = l->number,
                                .rank = r,
                                .node = node,
                                .conn = -1,
                                .arena = -1,
                                .absent_from = UINT32_MAX };
        k->slots = 2 + (uint32_t)sim_rand(SIM_ARENA_MAX - 1);
        if (node > 0)
            sim_saw(SEEN_two_nodes);
    }
    sim_image_plan(l->first_rank, world);
    return l;
}

/* Mostly few. */
static uint32_t some_world(void)
{
    uint32_t most = sim_rand(2) ? 3 : sim_suite.world;
    return 1 + (uint32_t)sim_rand(most);
}

static void plan_store(void)
{
    static const uint32_t rates[] = { 0, 0, 2, 10, 40 };
    uint32_t n = ARRAY_COUNT(rates);
    sim_faults = (struct sim_faults){
        .store_error = rates[sim_rand(n)],
        .store_slow = rates[sim_rand(n)],
        .store_full = rates[sim_rand(n)],
        .store_hang = rates[sim_rand(3)],
        .copy_failed = rates[sim_rand(n)],
        .differs = sim_rand(6) ? 0 : 300,
        .busy_socket = rates[sim_rand(n)],
    };
}

static void plan_faults(int64_t until)
{
    static const uint32_t weights[FAULT_KINDS] = { 12, 4, 1, 1, 1, 4, 2, 4, 10, 2, 2, 4 };
    uint32_t n = (uint32_t)sim_rand(sim_suite.cluster ? 15 : 9), sum = 0;
    uint32_t kinds = sim_suite.cluster ? FAULT_KINDS : FAULT_SUITE;
    for (uint32_t k = 0; k < kinds; k++)
        sum += weights[k];
    for (uint32_t i = 0; i < n; i++) {
        uint64_t pick = sim_rand(sum);
        uint32_t kind = 0;
        while (pick >= weights[kind])
            pick -= weights[kind++];
        bool node = kind <= FAULT_STOP || kind >= FAULT_SUITE;
        faults[fault_count] =
            (struct fault){ .kind = (enum fault_kind)kind,
                            .which = (uint32_t)sim_rand(node ? sim_node_count : sim_rank_count) };
        sim_at(sim.now + (int64_t)sim_rand((uint64_t)until), EV_FAULT, fault_count++, 0);
    }
}

void sim_program_plan(void)
{
    fault_count = 0;
    sim_launch_count = sim_rank_count = 0;
    last_started = false;
    int64_t calm =
        sim_suite.cluster ? sim_between(3 * SIM_S, 400 * SIM_S) : sim_between(SIM_S, 100 * SIM_S);
    bool few = sim_suite.cluster && sim_rand(2);
    sim_nodes_reset(1 + (uint32_t)sim_rand(few ? 3 : sim_suite.nodes));
    plan_store();
    sim_store_plan(calm);
    uint32_t launches = 1 + (uint32_t)sim_rand(sim_suite.cluster ? 4 : 2);
    uint32_t jobs = sim_suite.cluster && sim_rand(3) == 0 ? 2 : 1;
    for (uint32_t i = 0; i < launches; i++) {
        uint32_t job = i > 0 ? (uint32_t)sim_rand(jobs) : 0;
        struct sim_launch *l = add_launch(job, some_world(), false);
        if (job > 0)
            sim_saw(SEEN_other_job);
        if (job == 0 && l->world != sim_launches[0].world)
            sim_saw(SEEN_other_world);
        plan_items(l);
        sim_at(sim.now + (i ? (int64_t)sim_rand((uint64_t)calm) : 0), EV_LAUNCH, i, 0);
    }
    if (sim_rand(4) == 0) {
        struct sim_launch *l = add_launch(0, 1, true);
        l->items[l->item_count++].kind = ITEM_RESTORE;
        sim_at(sim.now + (int64_t)sim_rand((uint64_t)calm), EV_LAUNCH, l->number, 0);
    }
    if (sim_rand(6) == 0) {
        struct sim_rank *r = &sim_ranks[sim_rand(sim_rank_count)];
        r->absent_from = (uint32_t)sim_rand(SIM_ITEMS / 2);
    }
    plan_faults(calm);
    sim_at(sim.now + calm, EV_CALM, 0, 0);
    for (uint32_t i = 0; i < sim_node_count; i++)
        sim_node_start(i);
}

/* ---- launches and faults ---- */

void sim_program_launch(uint32_t launch)
{
    struct sim_launch *l = &sim_launches[launch];
    bool zombie = sim_rand(4) == 0;
    for (uint32_t i = 0; i < launch && !l->reader && launch > 0; i++) {
        struct sim_launch *o = &sim_launches[i];
        sim_saw(zombie ? SEEN_zombie_launch : SEEN_second_launch);
        for (uint32_t r = 0; r < o->world && !zombie && !o->reader && o->job == l->job; r++)
            sim_rank_die(o->first_rank + r);
    }
    if (l->reader)
        sim_saw(SEEN_reader);
    l->started = true;
    for (uint32_t r = 0; r < l->world; r++) {
        sim_ranks[l->first_rank + r].phase = RANK_NONE;
        sim_after(sim_between(SIM_MS, 5 * SIM_S), EV_START, l->first_rank + r, 0);
    }
}

static void note_death(const struct sim_rank *r)
{
    sim_saw(SEEN_rank_death);
    for (uint32_t i = 0; i < SIM_OPS; i++) {
        const struct sim_op *op = &r->ops[i];
        if (!op->id || op->final || op->load)
            continue;
        sim_saw(op->copied ? SEEN_rank_death_staged : SEEN_rank_death_copying);
    }
}

void sim_program_fault(uint32_t which)
{
    const struct fault *f = &faults[which];
    struct sim_rank *r = &sim_ranks[f->which];
    if (sim.calm)
        return;
    switch (f->kind) {
    case FAULT_WORKER:
        sim_nodes[f->which].dies_in = 1 + (uint32_t)sim_rand(60);
        break;
    case FAULT_WORKER_NOW:
        sim_node_kill(f->which);
        break;
    case FAULT_KEEPER:
        sim_saw(SEEN_keeper_death);
        sim_node_orphan(f->which);
        break;
    case FAULT_BOTH:
        sim_saw(SEEN_both_dead);
        sim_node_lose(f->which);
        break;
    case FAULT_STOP:
        sim_saw(SEEN_stop);
        sim_node_stop(f->which);
        break;
    case FAULT_RANK:
        if (r->phase == RANK_RUNNING || r->phase == RANK_SEALING)
            note_death(r);
        sim_rank_die(f->which);
        break;
    case FAULT_STALL:
        sim_saw(SEEN_rank_stalled);
        r->deaf_until = sim.now + sim_between(SIM_S, 400 * SIM_S);
        if (sim_rand(2))
            sim_rank_break_link(f->which);
        break;
    case FAULT_LINK:
        sim_rank_break_link(f->which);
        break;
    case FAULT_SUITE:
    case FAULT_KINDS:
    default:
        sim_store_fault(f->kind - FAULT_SUITE, f->which);
        break;
    }
}

void sim_program_calm(void)
{
    sim_note("calm from now on");
    sim.calm = true;
    sim.calm_at = sim.now;
    for (uint32_t i = 0; i < sim_node_count; i++)
        sim_nodes[i].dies_in = 0;
    for (uint32_t i = 0; i < sim_rank_count; i++)
        sim_rank_wake(i, (int64_t)sim_rand(10 * SIM_S));
}

/* ---- a rank's program ---- */

static bool idle(const struct sim_rank *r)
{
    return r->copying == 0 && !r->busy && r->sealed;
}

static void next_item(struct sim_rank *r)
{
    uint32_t rank = (uint32_t)(r - sim_ranks);
    r->at++;
    r->item_op = 0;
    r->item_begun = false;
    r->ready_at = sim.now + sim_between(SIM_MS, 3 * SIM_S);
    sim_rank_wake(rank, r->ready_at - sim.now);
}

/* True the first time; sets the item's deadline. */
static bool first_time(struct sim_rank *r, int64_t patience)
{
    if (r->item_begun)
        return false;
    r->item_begun = true;
    r->item_until = sim.now + patience;
    sim_rank_wake((uint32_t)(r - sim_ranks), patience);
    return true;
}

static void do_save(struct sim_rank *r, const struct sim_item *it)
{
    if (first_time(r, 60 * SIM_S))
        r->item_try = (uint32_t)r->tries[it->step % ARRAY_COUNT(r->tries)]++;
    if (r->item_op == 0) {
        if (r->behind || (!idle(r) && sim.now >= r->item_until)) {
            next_item(r); /* on a branch that was left, or the state is still being copied */
        } else if (idle(r)) {
            if (r->item_try > 0)
                sim_saw(SEEN_same_step_twice);
            r->last_save = r->item_op = sim_rank_save(r, it->step, r->item_try, it->deadline_ms);
        }
        return;
    }
    struct sim_op *op = sim_rank_op(r, r->item_op);
    if (op->begun || op->final) {
        next_item(r);
    } else if (sim.now >= r->item_until) {
        sim_rank_give_up(r, op, CKPT_TIMEOUT);
        next_item(r);
    }
}

static bool all_final(const struct sim_rank *r)
{
    for (uint32_t i = 0; i < SIM_OPS; i++)
        if (r->ops[i].id && !r->ops[i].final)
            return false;
    return true;
}

static void do_wait(struct sim_rank *r)
{
    (void)first_time(r, 4000 * SIM_S);
    if (all_final(r) || sim.now >= r->item_until)
        next_item(r);
}

/* The launch's ranks go back to one point: the newest commit there is when the first of
 * them asks. */
static const struct wire_name *rollback_point(struct sim_rank *r)
{
    struct sim_launch *l = &sim_launches[r->launch];
    struct ckpt_name name;
    if (!l->chose_rollback && sim_store_newest(l->job, &name)) {
        l->has_rollback = true;
        l->rollback = (struct wire_name){ name.epoch, name.step, name.attempt };
    }
    l->chose_rollback = true;
    return l->has_rollback ? &l->rollback : NULL;
}

static void report_restored(struct sim_rank *r, const struct sim_op *op)
{
    struct wire_restored b = { .op = op->id, .point = op->name, .status = op->status };
    if (!sim_launches[r->launch].reader)
        sim_rank_send(r, WIRE_RESTORED, &b);
}

static void do_load(struct sim_rank *r, const struct wire_name *point, bool rollback)
{
    (void)first_time(r, 3000 * SIM_S);
    if (!point) {
        next_item(r);
        return;
    }
    struct sim_op *op = sim_rank_op(r, r->item_op);
    bool again = op && op->final && op->status == CKPT_DAEMON_GONE;
    if (!op || (again && sim.now < r->item_until)) {
        if (!idle(r) && sim.now >= r->item_until)
            next_item(r);
        if (!idle(r))
            return;
        if (again)
            sim_saw(SEEN_load_again);
        r->item_op = sim_rank_load(r, rollback, point);
        if (rollback)
            sim_saw(SEEN_rollback);
        return;
    }
    if (!op->final && sim.now >= r->item_until)
        sim_rank_give_up(r, op, CKPT_TIMEOUT);
    if (!op->final)
        return;
    report_restored(r, op);
    if (rollback && op->status == CKPT_OK) {
        r->head = op->name;
        r->has_head = true;
        r->saved = false;
    }
    next_item(r);
}

static void do_cancel(struct sim_rank *r)
{
    const struct sim_op *op = sim_rank_op(r, r->last_save);
    if (op && !op->final) {
        sim_saw(SEEN_cancel);
        sim_rank_send(r, WIRE_CANCEL, &(struct wire_cancel){ .op = op->id });
    }
    next_item(r);
}

static bool at_head(const struct sim_rank *r)
{
    return r->has_head && memcmp(&r->head, &r->point, sizeof(r->head)) == 0;
}

static void do_item(struct sim_rank *r, const struct sim_item *it)
{
    const struct sim_launch *l = &sim_launches[r->launch];
    switch (it->kind) {
    case ITEM_SAVE:
        do_save(r, it);
        break;
    case ITEM_WAIT:
        do_wait(r);
        break;
    case ITEM_RESTORE: /* to where the launch began; behind a rollback that is another */
        do_load(r, r->has_point ? &r->point : NULL, !l->reader && !at_head(r));
        break;
    case ITEM_ROLLBACK:
        do_load(r, rollback_point(r), true);
        break;
    case ITEM_CANCEL:
        do_cancel(r);
        break;
    case ITEM_PROGRESS:
        sim_rank_send(r, WIRE_PROGRESS, &(struct wire_progress){ .step = it->step });
        next_item(r);
        break;
    }
}

void sim_program_step(uint32_t rank)
{
    struct sim_rank *r = &sim_ranks[rank];
    const struct sim_launch *l = &sim_launches[r->launch];
    if ((r->phase == RANK_SEALING || r->phase == RANK_RUNNING) && r->seal_refused)
        sim_rank_close(r);
    if (r->phase == RANK_SEALING && sim.calm && sim.now >= r->ready_at + 600 * SIM_S)
        sim_rank_close(r); /* ckpt_seal does not wait for ever */
    if (r->phase != RANK_RUNNING || r->busy || sim.now < r->ready_at || r->deaf_until > sim.now)
        return;
    if (r->at >= r->absent_from && !sim.calm) {
        sim_saw(SEEN_rank_absent);
        sim_rank_wake(rank, 10 * SIM_S);
        r->ready_at = sim.now + 10 * SIM_S;
        return;
    }
    if (r->at >= r->absent_from) { /* it was only waited for */
        sim_rank_wake(rank, 1000 * SIM_S);
        r->absent_from = UINT32_MAX;
        r->ready_at = sim.now + 1000 * SIM_S;
        return;
    }
    if (r->at < l->item_count)
        do_item(r, &l->items[r->at]);
    else if ((idle(r) || sim.calm) && (sim.calm || sim_rand(3) == 0) &&
             (all_final(r) || sim_rand(8) == 0))
        sim_rank_close(r);
    else if (sim.now >= r->looks_at) { /* what it waits for may never come */
        r->looks_at = sim.now + 500 * SIM_S;
        sim_rank_wake(rank, 500 * SIM_S);
    }
}

/* Its context is broken; sooner or later its process ends. */
void sim_program_broken(uint32_t rank)
{
    SIM_CHECK(!sim_launches[sim_ranks[rank].launch].last, "the last launch could not work");
    sim_after(sim_between(SIM_S, 1000 * SIM_S), EV_DIES, rank, 0);
}

/* ---- the end ---- */

bool sim_program_over(void)
{
    for (uint32_t i = 0; i < sim_rank_count; i++)
        if (!sim_ranks[i].pid_gone)
            return false;
    return true;
}

static void start_last(uint32_t job)
{
    struct sim_launch *l = add_launch(job, some_world(), false);
    l->last = true;
    l->resume = sim_store_resumable(l) ? "" : "none";
    l->items[l->item_count++].kind = ITEM_RESTORE;
    l->items[l->item_count++] = (struct sim_item){ .kind = ITEM_SAVE, .step = 99 };
    l->items[l->item_count++].kind = ITEM_WAIT;
    l->started = true;
    sim_note("the last launch");
    for (uint32_t r = 0; r < l->world; r++)
        sim_after(sim_between(SIM_MS, SIM_S), EV_START, l->first_rank + r, 0);
}

/* After everything: a launch takes up the newest checkpoint, and saves. */
bool sim_program_last(void)
{
    if (last_started)
        return false;
    for (uint32_t i = 0; i < sim_node_count; i++)
        if (!sim_nodes[i].running || sim_nodes[i].told_stop || sim_nodes[i].keeper_dead)
            return true; /* not yet */
    if (!sim_at_rest() || sim_store_busy())
        return true; /* a job of the dead may still make a launch newer than it */
    last_started = true;
    bool other = false;
    for (uint32_t i = 0; i < sim_launch_count; i++)
        other |= sim_launches[i].job > 0;
    for (uint32_t job = 0; job < 1 + (uint32_t)other; job++)
        start_last(job);
    return true;
}

/* The last launch cuts its tensors anew: what was not sent on may lie where no rank that wants it
 * can read it. */
static void check_last_restore(uint32_t rank, const struct sim_op *op)
{
    const struct ckpt_name name = { op->name.epoch, op->name.step, op->name.attempt };
    bool away = op->status == CKPT_IO && !sim_store_in_reach(&name);
    SIM_CHECK(away || op->status == CKPT_OK,
              "rank %u of the last launch cannot restore step %llu: %s", rank,
              (unsigned long long)op->name.step, status_name((enum ckpt_status)op->status));
}

void sim_program_check_last(void)
{
    struct ckpt_name newest;
    for (uint32_t i = 0; i < sim_rank_count; i++) {
        const struct sim_rank *r = &sim_ranks[i];
        if (!sim_launches[r->launch].last)
            continue;
        SIM_CHECK(sim_store_newest(sim_launches[r->launch].job, &newest) && newest.step == 99,
                  "the last save was not committed");
        const struct sim_op *op = &r->ops[r->last_save % SIM_OPS];
        SIM_CHECK(op->final && op->status == CKPT_OK, "the last save did not end well for rank %u",
                  i);
        for (uint32_t k = 0; k < SIM_OPS; k++)
            if (r->ops[k].id && r->ops[k].load)
                check_last_restore(i, &r->ops[k]);
    }
}
