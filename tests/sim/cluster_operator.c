/* An operator, or a cron job: deletes, takes back, prunes, collects, tags and drops copies while
 * everything else goes on, from a machine of his own, and is killed at it now and then. */
#include "sim/cluster.h"
#include "sim/cluster_prune.h"
#include "sim/sim_wraps.h"
#include "storage/repo/life.h"
#include "storage/repo/tags.h"

#define ACTS_MAX 8

enum act_kind { ACT_DELETE, ACT_UNDELETE, ACT_PRUNE, ACT_GC, ACT_TAG, ACT_DROP, ACT_KINDS };
static struct act {
    enum act_kind kind;
    uint32_t job, pick;
    int64_t lasts; /* then he is killed; 0: he is not */
    uint64_t run;
} acts[ACTS_MAX];
static uint32_t act_count, task;
static bool busy;
static uint64_t run; /* number of what he does, or did last */

void operator_plan(int64_t until_ns)
{
    act_count = 0;
    busy = false;
    run = 0;
    uint32_t n = sim_rand(2) ? (uint32_t)sim_rand(ACTS_MAX + 1) : 0;
    for (; act_count < n; act_count++) {
        acts[act_count] = (struct act){ .kind = (enum act_kind)sim_rand(ACT_KINDS),
                                        .job = (uint32_t)sim_rand(4) == 0,
                                        .pick = (uint32_t)sim_rand(16),
                                        .lasts = sim_rand(4) ? 0 : sim_between(SIM_MS, SIM_S) };
        sim_at(sim.now + (int64_t)sim_rand((uint64_t)until_ns), EV_OPERATOR, act_count, 0);
    }
}

/* The pick-th commit of the job, counted from the newest, round and round. */
static bool pick(const struct act *a, struct ckpt_name *ret)
{
    uint32_t count = 0;
    for (int turn = 0; turn < 2; turn++) {
        uint32_t skip = count ? a->pick % count : 0;
        for (uint32_t i = sim_attempt_count; i-- > 0;) {
            const struct sim_attempt *at = &sim_attempts[i];
            if (at->state != PUBLISH_COMMITTED || at->job != a->job ||
                (a->kind == ACT_UNDELETE && truth_life(at) != LIFE_DELETED))
                continue;
            count += turn == 0;
            if (turn == 0 || skip-- > 0)
                continue;
            *ret = at->name;
            return true;
        }
        if (count == 0)
            return false;
    }
    return false;
}

static enum ckpt_status do_prune(struct store *home, struct store *far, const char *job)
{
    uint64_t deleted;
    enum ckpt_status st = cluster_prune(home, far, job, 1 + (uint32_t)sim_rand(3), &deleted);
    if (deleted > 0)
        sim_saw(SEEN_pruned);
    return st;
}

static enum ckpt_status do_drop(struct store *home, struct store *far, const char *job)
{
    uint64_t dropped = 0;
    bool from_home = sim_rand(2) == 0;
    enum ckpt_status st =
        far ? cluster_drop(home, far, job, from_home, 1 + (uint32_t)sim_rand(3), &dropped)
            : CKPT_OK;
    if (dropped > 0 && from_home)
        sim_saw(SEEN_dropped_home);
    else if (dropped > 0)
        sim_saw(SEEN_dropped_far);
    return st;
}

static enum ckpt_status do_gc(struct store *home, struct store *far, const char *job)
{
    struct life_gc_report report = { 0 };
    const struct life_gc_options o = { .grace_ns = sim_rand(2) ? 0 : (int64_t)sim_rand(20 * SIM_S),
                                       .abort_keep_ns = LIFE_ABORT_KEEP_NS,
                                       .abort_wait_ns = LIFE_ABORT_WAIT_NS,
                                       .undecided = sim_rand(2) == 0 };
    enum ckpt_status st = life_gc(home, job, &o, &report, NULL);
    if (st == CKPT_OK && far)
        st = life_gc_tier(home, far, job, &o, &report, NULL);
    for (uint32_t i = 0; st == CKPT_OK && sim_near && i < SIM_NODES; i++) {
        uint64_t before = report.objects;
        struct store *near = place_open(PLACE_NEAR + i);
        st = life_gc_tier(home, near, job, &o, &report, NULL);
        store_close(near);
        if (report.objects > before)
            sim_saw(SEEN_collected_near);
    }
    return st;
}

static enum ckpt_status do_act(const struct act *a, struct store *home, struct store *far)
{
    const char *job = sim_job_name(a->job);
    struct ckpt_name name = { 0 };
    bool any = pick(a, &name);
    switch (a->kind) {
    case ACT_PRUNE:
        return do_prune(home, far, job);
    case ACT_GC:
        return do_gc(home, far, job);
    case ACT_DROP:
        return do_drop(home, far, job);
    case ACT_DELETE:
        return any ? life_delete(home, job, &name, "simulated", NULL) : CKPT_OK;
    case ACT_UNDELETE:
        return any ? life_undelete(home, job, &name, "simulated", NULL) : CKPT_OK;
    case ACT_TAG:
        return any ? tags_set(home, job, &name, "kept", NULL) : CKPT_OK;
    case ACT_KINDS:
        break;
    }
    return CKPT_BUG;
}

static void act_main(void *arg)
{
    static const char *const names[] = { "delete", "undelete", "prune", "gc", "tag", "drop" };
    const struct act *a = arg;
    struct store *home = NULL, *far = NULL;
    if (store_open("home", NULL, &home, NULL) != CKPT_OK ||
        (sim_far && store_open("far", NULL, &far, NULL) != CKPT_OK))
        abort();
    sim_note("operator: %s", names[a->kind]);
    enum ckpt_status st = do_act(a, home, far);
    sim_note("operator: %s: %s", names[a->kind], status_name(st));
    if (st == CKPT_REFUSED)
        sim_saw(SEEN_delete_spared);
    else if (st != CKPT_OK)
        sim_saw(SEEN_operator_failed);
    else if (a->kind == ACT_TAG)
        sim_saw(SEEN_tagged);
    store_close(home);
    store_close(far);
    busy = false;
}

static void dies(void)
{
    sim_note("operator: killed");
    sim_saw(SEEN_operator_killed);
    sim_task_kill(task);
    sim_memory_drop(SIM_NODES);
    busy = false;
}

/* He begins, or (again, with the number of what he is at) is killed. */
void operator_act(uint32_t which, uint64_t number)
{
    struct act *a = &acts[which];
    if (number > 0) {
        if (busy && number == run)
            dies();
        return;
    }
    if (busy || sim.calm)
        return;
    busy = true;
    run++;
    task = sim_task_start(SIM_NODES, act_main, a);
    if (a->lasts > 0)
        sim_after(a->lasts, EV_OPERATOR, which, run);
}

bool operator_busy(void)
{
    return busy;
}
