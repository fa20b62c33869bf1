/* What the committer's jobs find in the home when other nodes take part in a save; and jobs of a
 * rank's part when the home is out of reach, or the node's own tier fails; and
 * which jobs go ahead of others. */
#include "ckptd/jobs.h"
#include "storage/store/wrap.h"
#include "unit/history_fixture.h"

static struct job *run(struct store *home, enum committer_job what, const struct ckpt_name *name)
{
    struct jobs_work w = { .home = home, .local = home };
    struct job *j = job_new(JOB_ATTEMPT);
    CHECK(j != NULL);
    j->attempt.what = what;
    snprintf(j->attempt.job, sizeof(j->attempt.job), "%s", FX_JOB);
    j->attempt.name = *name;
    j->attempt.world = FX_WORLD;
    j->base.run(&j->base, &w);
    return j;
}

static enum ckpt_status status_of(struct store *home, enum committer_job what,
                                  const struct ckpt_name *name, uint32_t *ret_rank)
{
    struct job *j = run(home, what, name);
    enum ckpt_status st = j->status;
    *ret_rank = j->attempt.rank;
    job_free(j);
    return st;
}

/* ---- a rank's part: packs in a tier of the node, records in the home ---- */

static struct wrap_fault_rule rules[2]; /* of the tier, of the home */
static struct wrap_fault_plan plans[2];
static struct tiers_setup setup = { .repo.uuid = { 7 } };
static struct jobs_work apart = { .tiers.setup = &setup };

static void open_apart(const char *home_match)
{
    static const char *const matches[] = { ".h", ".m" };
    for (int i = 0; i < 2; i++) {
        rules[i] = (struct wrap_fault_rule){ .status = CKPT_UNREACHABLE,
                                             .match = i && home_match ? home_match : matches[i],
                                             .nth = UINT64_MAX };
        plans[i] = (struct wrap_fault_plan){ .rules = &rules[i], .count = 1 };
        CHECK_OK(wrap_fault(fx_open(), &plans[i], i ? &apart.home : &apart.local, NULL));
    }
    apart.ask_ns = 0;
}

static void close_apart(void)
{
    store_close(apart.local);
    store_close(apart.home);
}

static uint64_t asked(int i)
{
    return plans[i].matched[0];
}

static struct job *part_job(struct jobs_work *w, enum job_kind kind)
{
    static struct decl d;
    if (!d.finished)
        CHECK_OK(decl_finish(&d, CKPT_SLOT_BYTES, NULL));
    struct job *j = job_new(kind);
    CHECK(j != NULL);
    j->part.job = FX_JOB;
    j->part.name = fx_name(1, 10);
    j->part.epoch = 1;
    j->part.step = 10;
    j->part.world = FX_WORLD;
    j->part.decl = &d;
    j->part.fail_status = CKPT_TIMEOUT; /* FAIL_PART */
    j->base.run(&j->base, w);
    return j;
}

/* The place i fails the first so many times: what becomes of the part. */
static enum ckpt_status finish(int i, enum ckpt_status st, uint64_t nth, bool *ret_away)
{
    rules[i].status = st;
    rules[i].nth = nth;
    struct job *j = part_job(&apart, JOB_FINISH);
    *ret_away = j->part.away;
    st = j->status;
    job_free(j);
    return st;
}

static int test_finish(void)
{
    static const enum ckpt_status away[] = { CKPT_UNREACHABLE, CKPT_TIMEOUT, CKPT_IO };
    const struct ckpt_name name = fx_name(1, 10);
    bool waits;
    for (size_t k = 0; k < ARRAY_COUNT(away); k++) {
        open_apart(NULL);
        /* The home may come back. */
        CHECK_EQ(finish(1, away[k], 0, &waits), away[k]);
        CHECK(waits);
        CHECK(fx_there(apart.local, key_rank_held(FX_JOB, &name, 0)));
        CHECK_OK(finish(1, away[k], UINT64_MAX, &waits));
        CHECK(!waits);
        close_apart();
        /* What this node could not name for good is lost, whatever a second try would say. */
        open_apart(NULL);
        CHECK_EQ(finish(0, away[k], 0, &waits), away[k]);
        CHECK(!waits);
        CHECK_EQ(asked(0), 1);
        CHECK_EQ(asked(1), 0);
        close_apart();
    }
    open_apart(NULL);
    CHECK_OK(finish(1, CKPT_IO, 1, &waits)); /* once more, at once */
    CHECK_EQ(asked(1), 2);
    close_apart();
    open_apart(NULL);
    CHECK_EQ(finish(1, CKPT_DENIED, 0, &waits), CKPT_DENIED);
    CHECK(!waits);
    close_apart();
    open_apart(NULL); /* a home that hangs does so until the save's deadline */
    rules[1].kind = FAULT_STALL;
    CHECK_EQ(finish(1, CKPT_UNREACHABLE, 0, &waits), CKPT_TIMEOUT);
    CHECK(waits);
    CHECK_EQ(apart.home->deadline_ns, 0);
    close_apart();
    return 9;
}

/* A rank's word that its part failed: it is there, or given up like any other question. */
static int test_fail_part(void)
{
    const struct ckpt_name name = fx_name(1, 10);
    open_apart(NULL);
    struct job *j = part_job(&apart, JOB_FAIL_PART);
    CHECK_OK(j->status);
    job_free(j);
    CHECK(fx_there(apart.home, key_manifest(FX_JOB, &name, 0)));
    close_apart();
    open_apart(NULL);
    rules[1].kind = FAULT_STALL;
    rules[1].nth = 0;
    j = part_job(&apart, JOB_FAIL_PART);
    CHECK_EQ(j->status, CKPT_TIMEOUT);
    job_free(j);
    CHECK_EQ(asked(1), 1);
    CHECK_EQ(apart.home->deadline_ns, 0);
    close_apart();
    return 2;
}

static enum ckpt_status begin(struct jobs_work *w, bool *ret_away)
{
    struct job *j = part_job(w, JOB_BEGIN);
    enum ckpt_status st = j->status;
    *ret_away = j->part.away;
    job_free(j);
    return st;
}

static int test_begin(void)
{
    bool away;
    open_apart("/");
    CHECK_OK(begin(&apart, &away));
    CHECK(!away && asked(1) > 0);
    /* Whose saves they are stands there before the first of them. */
    CHECK(fx_there(apart.local, key_owner(FX_JOB, 1, setup.repo.uuid)));
    rules[1].nth = 0;
    CHECK_OK(begin(&apart, &away)); /* in vain */
    CHECK(away && apart.ask_ns > jobs_now_ns());
    uint64_t before = asked(1);
    CHECK_OK(begin(&apart, &away));
    CHECK(away && asked(1) == before);
    apart.ask_ns = jobs_now_ns();
    CHECK_OK(begin(&apart, &away));
    CHECK(away && asked(1) == before + 1);
    /* An answer is an answer. */
    rules[1].nth = UINT64_MAX;
    apart.ask_ns = 0;
    CHECK_EQ(fx_resolve(apart.home, "one"), 1);
    CHECK_EQ(fx_resolve(apart.home, "two"), 2);
    CHECK_EQ(begin(&apart, &away), CKPT_SUPERSEDED);
    CHECK(!away);
    /* Where packs go to the home, too, nothing begins without it. */
    struct jobs_work one = { .home = apart.home, .local = apart.home };
    rules[1].nth = 0;
    CHECK_EQ(begin(&one, &away), CKPT_UNREACHABLE);
    close_apart();
    return 6;
}

/* A rank waits for its seal, and for no pack that another rank has queued before. */
static int test_ahead(void)
{
    int kinds = 0;
    for (enum job_kind kind = JOB_SEAL; kind <= JOB_PRUNE; kind++, kinds++) {
        struct job *j = job_new(kind);
        CHECK(j != NULL);
        CHECK_EQ(j->base.ahead, kind == JOB_SEAL);
        job_free(j);
    }
    return kinds;
}

int main(void)
{
    struct store *s = fx_open();
    struct ckpt_name name = fx_name(1, 10), other = fx_name(1, 20);
    uint32_t rank = 99;
    const struct record_abort why = { .status = CKPT_BUSY, .rank = 1, .by_epoch = 1 };
    CHECK_OK(fx_part(s, &name, 0, false, NULL));
    CHECK_OK(status_of(s, COMMITTER_MISSING, &name, &rank));
    CHECK_EQ(rank, 1);
    CHECK_EQ(status_of(s, COMMITTER_LOOK, &name, &rank), CKPT_BUSY);
    /* The node of rank 1 gives up without ever putting a part. */
    CHECK_OK(publish_abort(s, FX_JOB, &name, &why, NULL));
    CHECK_EQ(status_of(s, COMMITTER_MISSING, &name, &rank), CKPT_ABORTED);
    CHECK_EQ(status_of(s, COMMITTER_LOOK, &name, &rank), CKPT_ABORTED);
    fx_parts(s, &other);
    CHECK_OK(status_of(s, COMMITTER_MISSING, &other, &rank));
    CHECK_EQ(rank, FX_WORLD);
    CHECK_OK(status_of(s, COMMITTER_PUBLISH, &other, &rank));
    CHECK_OK(status_of(s, COMMITTER_LOOK, &other, &rank));
    store_close(s);
    TEST_CASES(7 + test_finish() + test_fail_part() + test_begin() + test_ahead());
    return 0;
}
