/* The steps of a launch, and what it asks of other tiers, while the home is out of reach: which
 * failures are waited for, and that a step which was done finds what it did.
 * (It covers launch_jobs.c and, of drain_jobs.c, what a launch asks.) */
#include "ckptd/jobs.h"
#include "storage/store/wrap.h"
#include "unit/history_fixture.h"

/* ---- a node whose home can fail, and a tier of its own that can ---- */

static struct store *under[2]; /* home and tier without the faults */
static struct wrap_fault_rule rules[2][2];
static struct wrap_fault_plan plans[2];
static struct jobs_work w;

static struct store *faulty(int i)
{
    struct store *s, *ret;
    for (int k = 0; k < 2; k++)
        rules[i][k] = (struct wrap_fault_rule){ .match = "/", .nth = UINT64_MAX };
    plans[i] = (struct wrap_fault_plan){ .rules = rules[i], .count = 2 };
    under[i] = fx_open();
    CHECK_OK(store_dup(under[i], &s, NULL));
    CHECK_OK(wrap_fault(s, &plans[i], &ret, NULL));
    return ret;
}

static void open_node(bool own_disk)
{
    w = (struct jobs_work){ .home = faulty(0) };
    w.local = own_disk ? w.home : faulty(1);
}

static void close_node(void)
{
    if (w.local != w.home) {
        store_close(w.local);
        store_close(under[1]);
    }
    store_close(w.home);
    store_close(under[0]);
}

/* The nth call of the home (i = 0) or of the tier that names this fails; 0: all do. */
static void fails(int i, enum wrap_fault_kind kind, enum ckpt_status st, char op, const char *match,
                  uint64_t nth)
{
    rules[i][0] = (struct wrap_fault_rule){
        .kind = kind, .status = st, .op = op, .match = match, .nth = nth
    };
    plans[i].matched[0] = 0;
}

static void mend(int i)
{
    rules[i][0].nth = rules[i][1].nth = UINT64_MAX;
}

/* ---- steps ---- */

static struct launch_nodes nodes;

static enum ckpt_status step(enum launch_step what, struct job_launch *l, const char *unheard)
{
    struct job *j = job_new(JOB_LAUNCH);
    CHECK(j != NULL);
    j->launch.what = what;
    snprintf(j->launch.job, sizeof(j->launch.job), "%s", FX_JOB);
    snprintf(j->launch.token, sizeof(j->launch.token), "one");
    j->launch.world = FX_WORLD;
    j->launch.epoch = l->epoch;
    j->launch.alone = true;
    j->launch.nodes = &nodes;
    j->launch.unheard = unheard;
    j->base.run(&j->base, &w);
    enum ckpt_status st = j->status;
    *l = j->launch;
    job_free(j);
    return st;
}

static int test_waited_for(void)
{
    static const enum ckpt_status away[] = { CKPT_UNREACHABLE, CKPT_TIMEOUT, CKPT_IO };
    static const enum ckpt_status good[] = { CKPT_DENIED, CKPT_FULL, CKPT_NO_MEMORY, CKPT_CORRUPT };
    static const enum launch_step steps[] = { LAUNCH_CLAIM, LAUNCH_RESOLVE, LAUNCH_READ,
                                              LAUNCH_FIND,  LAUNCH_LOOK,    LAUNCH_GATHER };
    int cases = 0;
    for (size_t s = 0; s < ARRAY_COUNT(steps); s++) {
        struct job_launch l = { .epoch = 1 };
        open_node(false);
        for (size_t i = 0; i < ARRAY_COUNT(away); i++, cases++) {
            fails(0, FAULT_FAIL, away[i], 0, "/l/", 0);
            CHECK_EQ(step(steps[s], &l, NULL), away[i]);
            CHECK(l.away);
        }
        for (size_t i = 0; i < ARRAY_COUNT(good); i++, cases++) { /* for good */
            fails(0, FAULT_FAIL, good[i], 0, "/l/", 0);
            CHECK_EQ(step(steps[s], &l, NULL), good[i]);
            CHECK(!l.away);
        }
        close_node();
        open_node(true); /* the node's own disk */
        fails(0, FAULT_FAIL, CKPT_IO, 0, "/l/", 0);
        CHECK_EQ(step(steps[s], &l, NULL), CKPT_IO);
        CHECK(!l.away);
        close_node();
        cases++;
    }
    return cases;
}

/* Whatever the home says, it is there. */
static int test_asked(void)
{
    static const enum ckpt_status away[] = { CKPT_UNREACHABLE, CKPT_TIMEOUT, CKPT_IO };
    struct job_launch l = { 0 };
    open_node(false);
    for (size_t i = 0; i < ARRAY_COUNT(away); i++) {
        fails(0, FAULT_FAIL, away[i], 'l', "/l/", 0);
        CHECK_EQ(step(LAUNCH_ASK, &l, NULL), away[i]);
        CHECK(l.away);
    }
    fails(0, FAULT_FAIL, CKPT_DENIED, 'l', "/l/", 0);
    CHECK_OK(step(LAUNCH_ASK, &l, NULL));
    CHECK(!l.away);
    mend(0);
    CHECK_OK(step(LAUNCH_ASK, &l, NULL));
    close_node();
    open_node(true); /* the node's own disk */
    fails(0, FAULT_FAIL, CKPT_IO, 'l', "/l/", 0);
    CHECK_OK(step(LAUNCH_ASK, &l, NULL));
    close_node();
    return 6;
}

/* What the home did, and could not say, is found. */
static int test_found_again(void)
{
    struct job_launch l = { 0 };
    open_node(false);
    fails(0, FAULT_LOST_REPLY, CKPT_UNREACHABLE, 'p', "/claim", 1);
    CHECK_EQ(step(LAUNCH_CLAIM, &l, NULL), CKPT_UNREACHABLE);
    CHECK(l.away && fx_there(under[0], key_claim(FX_JOB, 1)));
    CHECK_OK(step(LAUNCH_CLAIM, &l, NULL));
    CHECK_EQ(l.epoch, 1);
    CHECK(!fx_there(under[0], key_claim(FX_JOB, 2)));
    fails(0, FAULT_LOST_REPLY, CKPT_TIMEOUT, 'p', "/resolved", 1);
    CHECK_EQ(step(LAUNCH_RESOLVE, &l, NULL), CKPT_TIMEOUT);
    CHECK(l.away && fx_there(under[0], key_resolved(FX_JOB, 1)));
    fx_commit(under[0], 1, 10); /* too late to be chosen: every rank gets one answer */
    CHECK_OK(step(LAUNCH_RESOLVE, &l, NULL));
    CHECK(!l.has_point);
    close_node();
    return 2;
}

/* What is not the home's trouble is not waited for. */
static int test_elsewhere(void)
{
    struct job_launch l = { 0 };
    open_node(false);
    CHECK_EQ(fx_resolve(under[0], "before"), 1);
    CHECK_OK(step(LAUNCH_CLAIM, &l, NULL));
    CHECK_EQ(step(LAUNCH_RESOLVE, &l, "s3://far"), CKPT_UNREACHABLE);
    CHECK(!l.away);
    const char *of_tier[] = { "/h/", "/x/" };
    for (size_t i = 0; i < ARRAY_COUNT(of_tier); i++) {
        fails(1, FAULT_FAIL, CKPT_IO, 'l', of_tier[i], 0);
        CHECK_EQ(step(LAUNCH_RESOLVE, &l, NULL), CKPT_IO);
        CHECK(!l.away);
        mend(1);
    }
    struct ckpt_name name = fx_commit(under[0], 1, 10); /* and its parts lie in the tier */
    fx_parts(under[1], &name);
    fails(1, FAULT_FAIL, CKPT_IO, 'p', "/h/", 0);
    CHECK_EQ(step(LAUNCH_RESOLVE, &l, NULL), CKPT_IO);
    CHECK(!l.away);
    mend(1);
    fails(0, FAULT_FAIL, CKPT_IO, 'g', "/c/", 0); /* between the two it is the home */
    CHECK_EQ(step(LAUNCH_RESOLVE, &l, NULL), CKPT_IO);
    CHECK(l.away);
    mend(0);
    CHECK_OK(step(LAUNCH_RESOLVE, &l, NULL));
    CHECK(l.has_point && l.point.step == 10);
    close_node();
    return 5;
}

/* A home that hangs is asked no longer than the ranks wait. */
static int test_until(void)
{
    struct job *j = job_new(JOB_LAUNCH);
    CHECK(j != NULL);
    open_node(false);
    fails(0, FAULT_STALL, CKPT_UNREACHABLE, 'l', "/l/", 0);
    j->launch.what = LAUNCH_CLAIM;
    snprintf(j->launch.job, sizeof(j->launch.job), "%s", FX_JOB);
    snprintf(j->launch.token, sizeof(j->launch.token), "one");
    j->launch.until_ns = jobs_now_ns() + 20000000;
    j->base.run(&j->base, &w);
    CHECK_EQ(j->status, CKPT_TIMEOUT);
    CHECK(j->launch.away);
    CHECK_EQ(w.home->deadline_ns, 0);
    job_free(j);
    close_node();
    return 1;
}

/* ---- other tiers ---- */

static struct tiers_setup setup;

static enum ckpt_status adopt(int64_t until_ns)
{
    struct job *j = job_new(JOB_ADOPT);
    CHECK(j != NULL);
    j->tier.tier = 2;
    j->tier.until_ns = until_ns;
    snprintf(j->tier.job, sizeof(j->tier.job), "%s", FX_JOB);
    j->base.run(&j->base, &w);
    enum ckpt_status st = j->status;
    job_free(j);
    return st;
}

/* What another tier knows is brought to the home when that is back. */
static int test_adopt(void)
{
    open_node(false);
    struct store *far = fx_open();
    CHECK_EQ(fx_resolve(far, "before"), 1);
    setup = (struct tiers_setup){ .count = 3, .home = 1 };
    w.tiers = (struct tiers){ .setup = &setup, .s = { w.local, w.home, far } };
    fails(0, FAULT_FAIL, CKPT_UNREACHABLE, 'l', "/l/", 1);
    rules[0][1] =
        (struct wrap_fault_rule){ .status = CKPT_UNREACHABLE, .op = 'l', .match = "/h/", .nth = 1 };
    CHECK_OK(adopt(jobs_now_ns() + INT64_C(60000000000)));
    CHECK_EQ(plans[0].hits, 2);
    CHECK(fx_there(under[0], key_resolved(FX_JOB, 1)));
    /* Nobody waits so long: it is told. */
    fails(0, FAULT_FAIL, CKPT_UNREACHABLE, 'l', "/l/", 0);
    CHECK_EQ(adopt(jobs_now_ns()), CKPT_UNREACHABLE);
    store_close(far);
    close_node();
    return 2;
}

int main(void)
{
    TEST_CASES(test_waited_for() + test_asked() + test_found_again() + test_elsewhere() +
               test_until() + test_adopt());
    return 0;
}
