/* What the committer's jobs find in the home when other nodes take part in a save. */
#include "ckptd/jobs.h"
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
    TEST_CASES(7);
    return 0;
}
