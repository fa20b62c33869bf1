/* What `ckpt run` sees of a start in the store (run_seen.c), from records. */
#include "storage/repo/launch.h"
#include "tools/run_seen.h"
#include "unit/history_fixture.h"

/* A launch, or with a step to go back to, a rollback inside one. */
static uint64_t start(struct store *s, const char *token, uint64_t back_to)
{
    struct launch_who who = { .job = FX_JOB, .token = token, .world = FX_WORLD };
    struct lineage_wish wish = { .forced = back_to != 0, .step = back_to };
    struct record_resolved r;
    uint64_t epoch;
    CHECK_OK(launch_claim(s, &who, &epoch, NULL));
    CHECK_OK(launch_resolve(s, FX_JOB, epoch, &wish, &r, NULL));
    struct record_step restored = { .epoch = epoch, .step = r.name.step };
    if (r.kind == RESOLVED_POINT)
        CHECK_OK(launch_put_step(s, FX_JOB, RECORD_RESTORED, &restored, NULL));
    record_resolved_fini(&r);
    return epoch;
}

static struct run_seen see(struct store *s, const char *token)
{
    struct run_seen seen;
    CHECK_OK(run_seen_read(s, token, "", &seen, NULL));
    return seen;
}

/* The newest is the one to go on from; how far the start got is another question. */
static int what_a_start_brought(void)
{
    struct store *s = fx_open();
    uint64_t one = start(s, "run-1", 0);
    CHECK(!see(s, "run-1").committed);
    fx_commit(s, one, 80);
    fx_commit(s, one, 120);
    fx_commit(s, start(s, "run-1.1", 80), 90);
    struct run_seen seen = see(s, "run-1");
    CHECK_STR(seen.job, FX_JOB);
    CHECK(seen.committed && seen.newest.step == 90 && seen.saved && seen.highest == 120);
    CHECK(seen.has_next && seen.next.step == 90 && !seen.stop);
    CHECK(!see(s, "run-2").job[0]); /* nor is that the same token */
    start(s, "run-2", 0);
    seen = see(s, "run-2");
    CHECK(seen.job[0] && !seen.committed && seen.next.step == 90);
    store_close(s);
    return 4;
}

/* Each start saves one further than the last and dies; what it staged is committed when it was
 * looked at already.  Other runs' are not this one's. */
static int committed_after_its_end(void)
{
    static const char *const others[] = { "run-", "run-x", "run-1-1", "runs-1", "ru-1" };
    struct store *s = fx_open();
    uint64_t before = start(s, "other-1", 0);
    fx_commit(s, before, 10);
    for (size_t i = 0; i < ARRAY_COUNT(others); i++)
        fx_commit(s, start(s, others[i], 0), 1000 + i);
    uint64_t one = start(s, "run-1", 0);
    CHECK(!see(s, "run-1").committed && !see(s, "run-1").saved);
    fx_commit(s, one, 80);
    uint64_t two = start(s, "run-2.0", 0);
    struct run_seen seen = see(s, "run-2");
    CHECK(!seen.committed && seen.saved && seen.highest == 80);
    fx_commit(s, two, 120);
    start(s, "run-3", 0);
    seen = see(s, "run-3");
    CHECK(!seen.committed && seen.saved && seen.highest == 120);
    CHECK(see(s, "run-2").committed && see(s, "run-2").newest.step == 120);
    store_close(s);
    return 4;
}

/* Each start saves the step from which it resumed and dies: three times there, three times one
 * step back, and then somebody must look. */
static int saved_again_and_again(void)
{
    static const uint64_t next[] = { 80, 80, 40, 40, 40, 80 };
    struct store *s = fx_open();
    uint64_t first = start(s, "run-0", 0);
    fx_commit(s, first, 40);
    fx_commit(s, first, 80);
    for (uint64_t i = 0; i < ARRAY_COUNT(next); i++) {
        char token[16];
        snprintf(token, sizeof(token), "run-%d", (int)i + 1);
        fx_commit(s, start(s, token, 0), i < 3 ? 80 : 40);
        struct run_seen seen = see(s, token);
        CHECK(seen.committed && seen.highest == 80);
        CHECK(seen.has_next);
        CHECK_EQ(seen.next.step, next[i]);
        CHECK_EQ(seen.stop, i + 1 == ARRAY_COUNT(next));
    }
    store_close(s);
    return ARRAY_COUNT(next);
}

int main(void)
{
    TEST_CASES(what_a_start_brought() + committed_after_its_end() + saved_again_and_again());
    return 0;
}
