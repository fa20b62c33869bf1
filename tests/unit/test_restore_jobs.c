/* From which tiers a restore gets its bytes when some cannot be reached: each of those is asked
 * once, and not for every pack.  (It covers restore_jobs.c and the order of tiers.c.) */
#include "ckptd/jobs.h"
#include "props/engine_kit.h"
#include "storage/store/wrap.h"

enum { LOCAL, HOME, FAR_A, FAR_B, PLACES };
#define HOUR_NS INT64_C(3600000000000)

static const struct ckpt_name name = { 1, 1, 1 };
static struct kit_layout from, to;
static struct tiers_setup setup;
static struct wrap_fault_rule rules[PLACES];
static struct wrap_fault_plan plans[PLACES];
static struct jobs_work w;

/* holds, away: bits of places. */
static void open_places(uint32_t home, uint32_t holds, uint32_t away)
{
    static int number;
    const struct kit_save how = { .name = name };
    struct record_commit commit;
    setup = (struct tiers_setup){ .count = PLACES, .home = home };
    w = (struct jobs_work){ .tiers.setup = &setup, .slot_bytes = KIT_SLOT };
    w.load = load_work_new(KIT_SLOT);
    CHECK(w.load);
    number++;
    for (uint32_t i = 0; i < PLACES; i++) {
        char url[64];
        (void)snprintf(url, sizeof(url), "mem://restore-jobs-%d-%u", number, i);
        struct store *s = kit_store(url);
        if (holds >> i & 1) {
            kit_save_parts(s, &from, &how);
            CHECK_OK(publish(s, KIT_JOB, &name, from.world, &commit, NULL));
        }
        rules[i] = (struct wrap_fault_rule){ .status = CKPT_UNREACHABLE,
                                             .nth = away >> i & 1 ? 0 : UINT64_MAX };
        plans[i] = (struct wrap_fault_plan){ .rules = &rules[i], .count = 1 };
        CHECK_OK(wrap_fault(s, &plans[i], &w.tiers.s[i], NULL));
    }
    w.local = w.tiers.s[LOCAL];
    w.home = w.tiers.s[home];
}

static void close_places(void)
{
    load_work_free(w.load);
    for (uint32_t i = 0; i < PLACES; i++) {
        rules[i].nth = UINT64_MAX;
        kit_store_drop(w.tiers.s[i]);
    }
}

static uint64_t asked(uint32_t place)
{
    return plans[place].matched[0];
}

static struct job *plan_job(void)
{
    struct job *j = job_new(JOB_PLAN);
    CHECK(j);
    snprintf(j->plan.job, sizeof(j->plan.job), "%s", KIT_JOB);
    j->plan.name = name;
    j->plan.count = to.world;
    j->plan.decls = calloc(to.world, sizeof(*j->plan.decls));
    j->plan.parts = calloc(to.world, sizeof(*j->plan.parts));
    j->plan.ranks = calloc(to.world, sizeof(*j->plan.ranks));
    CHECK(j->plan.decls && j->plan.parts && j->plan.ranks);
    for (uint32_t i = 0; i < to.world; i++) {
        j->plan.decls[i] = to.list[i];
        j->plan.ranks[i] = i;
    }
    j->base.run(&j->base, &w);
    return j;
}

/* *ret_damaged: the nearest place is said to lack something. */
static enum ckpt_status load(const struct plan_batch *b, bool *ret_damaged)
{
    struct job *j = job_new(JOB_BATCH);
    CHECK(j);
    j->batch.job = KIT_JOB;
    j->batch.name = name;
    j->batch.plan = b;
    j->batch.memory = calloc(b->use_count, sizeof(*j->batch.memory));
    CHECK(j->batch.memory);
    for (uint32_t i = 0; i < b->use_count; i++) {
        j->batch.memory[i] = aligned_alloc(CKPT_BLOCK, KIT_SLOT);
        CHECK(j->batch.memory[i]);
    }
    j->base.run(&j->base, &w);
    for (uint32_t i = 0; i < b->use_count; i++)
        free(j->batch.memory[i]);
    enum ckpt_status st = j->status;
    *ret_damaged = j->batch.stats.damaged_tier & 1;
    job_free(j);
    return st;
}

static struct plan *planned(struct reader **ret_reader)
{
    struct job *j = plan_job();
    CHECK_OK(j->status);
    struct plan *p = j->plan.plan;
    *ret_reader = j->plan.reader;
    j->plan.plan = NULL;
    j->plan.reader = NULL;
    job_free(j);
    CHECK(p->batch_count > 2);
    return p;
}

static void drop(struct plan *p, struct reader *r)
{
    plan_free(p);
    reader_close(r);
}

/* Planned and loaded although `place` is away: how often that was asked. */
static uint64_t asked_of(uint32_t place, bool plan_knows)
{
    struct reader *r;
    bool damaged;
    struct plan *p = planned(&r);
    uint64_t before = plan_knows ? 0 : asked(place);
    if (!plan_knows) /* it was made by another thread */
        memset(w.tiers.away_ns, 0, sizeof(w.tiers.away_ns));
    for (size_t i = 0; i < p->batch_count; i++) {
        CHECK_OK(load(&p->batches[i], &damaged));
        CHECK(damaged);
    }
    drop(p, r);
    return asked(place) - before;
}

static int test_asked_once(void)
{
    for (int knows = 0; knows < 2; knows++) {
        open_places(HOME, 1 << FAR_B, 1 << FAR_A);
        CHECK_EQ(asked_of(FAR_A, knows), 1);
        close_places();
        open_places(HOME, 1 << HOME | 1 << FAR_B, 1 << HOME);
        CHECK_EQ(asked_of(HOME, knows), 1);
        close_places();
    }
    return 4;
}

/* Who alone has it is asked, be it away. */
static int test_last_resort(void)
{
    struct reader *r;
    bool damaged;
    open_places(HOME, 1 << FAR_B, 0);
    w.tiers.away_ns[FAR_B] = jobs_now_ns() + HOUR_NS;
    struct plan *p = planned(&r);
    for (size_t i = 0; i < p->batch_count; i++)
        CHECK_OK(load(&p->batches[i], &damaged));
    /* Not even that one: what was asked in vain is the answer, and asked once. */
    rules[FAR_B].nth = 0;
    memset(w.tiers.away_ns, 0, sizeof(w.tiers.away_ns));
    uint64_t before = asked(FAR_B);
    CHECK_EQ(load(&p->batches[0], &damaged), CKPT_UNREACHABLE);
    CHECK_EQ(asked(FAR_B), before + 1);
    rules[HOME].nth = 0;
    before = asked(HOME);
    memset(w.tiers.away_ns, 0, sizeof(w.tiers.away_ns));
    CHECK_EQ(load(&p->batches[0], &damaged), CKPT_UNREACHABLE);
    CHECK_EQ(asked(HOME), before + 1);
    struct job *j = plan_job();
    CHECK_EQ(j->status, CKPT_UNREACHABLE);
    job_free(j);
    drop(p, r);
    close_places();
    return 4;
}

/* The nearest place lacks nothing when it was not asked. */
static int test_not_blamed(void)
{
    struct reader *r;
    bool damaged;
    open_places(LOCAL, 1 << LOCAL | 1 << FAR_B, 1 << LOCAL);
    struct plan *p = planned(&r);
    CHECK_EQ(asked(LOCAL), 1);
    for (size_t i = 0; i < p->batch_count; i++) {
        CHECK_OK(load(&p->batches[i], &damaged));
        CHECK(!damaged);
    }
    CHECK_EQ(asked(LOCAL), 1);
    drop(p, r);
    close_places();
    return 1;
}

/* Damaged is what no store has right: not while one that may have it is out of reach. */
static int test_damaged_and_away(void)
{
    struct reader *r;
    bool damaged;
    for (int away = 0; away < 2; away++) {
        open_places(HOME, 1 << LOCAL | 1 << HOME, 0);
        struct plan *p = planned(&r);
        rules[LOCAL].kind = FAULT_FLIP;
        rules[LOCAL].nth = 0;
        rules[HOME] = away ? (struct wrap_fault_rule){ .status = CKPT_UNREACHABLE }
                           : (struct wrap_fault_rule){ .kind = FAULT_FLIP };
        CHECK_EQ(load(&p->batches[0], &damaged), away ? CKPT_UNREACHABLE : CKPT_CORRUPT);
        drop(p, r);
        close_places();
    }
    return 2;
}

int main(void)
{
    struct kit_model m = { 0 };
    kit_model_add(&m, "a", CKPT_DTYPE_F32, 2, (const uint64_t[]){ 6000, 1000 });
    kit_layout_rows(&from, &m, 2);
    kit_layout_rows(&to, &m, 1);
    int cases =
        test_asked_once() + test_last_resort() + test_not_blamed() + test_damaged_and_away();
    kit_layout_fini(&from);
    kit_layout_fini(&to);
    TEST_CASES(cases);
    return 0;
}
