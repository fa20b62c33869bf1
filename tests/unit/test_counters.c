/* What would be lost: by hand for the cases that matter, and against an oracle that keeps all
 * history for random ones. */
#include <stdio.h>

#include "ckptd/counters.h"

#include "check.h"

#define S INT64_C(1000000000)

static long cases;

static struct ckpt_name name_of(uint64_t epoch, uint64_t step)
{
    return (struct ckpt_name){ .epoch = epoch, .step = step, .attempt = epoch * 1000 + step };
}

static void expect(const struct counters *c, uint32_t tier, bool training, int64_t now,
                   double seconds, uint64_t steps)
{
    struct counters_loss loss = counters_loss(counters_find(c, "j"), tier, training, now);
    CHECK_EQ((long)(loss.seconds * 10), (long)(seconds * 10));
    CHECK_EQ(loss.steps, steps);
    cases++;
}

static void commit(struct counters *c, uint64_t epoch, uint64_t step, int64_t begun, int64_t now)
{
    struct ckpt_name n = name_of(epoch, step);
    counters_committed(c, "j", &n, begun, now);
}

static void held(struct counters *c, uint64_t epoch, uint64_t step, uint32_t tier, int64_t now)
{
    struct ckpt_name n = name_of(epoch, step);
    counters_held(c, "j", tier, &n, now % 2 == 0, now);
}

/* A run: it begins, saves, its copies lag, it ends. */
static void one_run(void)
{
    struct counters *c = counters_new();
    CHECK(c && !counters_find(c, "j"));
    counters_epoch(c, "j", 1, NULL, 100 * S);
    expect(c, 0, true, 130 * S, 30, 0);
    counters_step(c, "j", 1, 20, 130 * S);
    expect(c, 1, true, 131 * S, 31, 20);
    commit(c, 1, 20, 130 * S, 140 * S); /* what counts is when it began */
    expect(c, 0, true, 150 * S, 20, 0);
    expect(c, 1, true, 150 * S, 50, 20);
    counters_step(c, "j", 1, 30, 160 * S);
    counters_step(c, "j", 1, 25, 160 * S); /* another rank, slower */
    counters_step(c, "j", 2, 99, 160 * S); /* of no epoch that we know */
    expect(c, 0, true, 160 * S, 30, 10);
    held(c, 1, 20, 1, 170 * S);
    expect(c, 1, true, 170 * S, 40, 10);
    expect(c, 2, true, 170 * S, 70, 30);
    commit(c, 1, 30, 165 * S, 171 * S);
    /* Nobody trains any more: what there is here is all there is. */
    expect(c, 0, false, 500 * S, 0, 0);
    expect(c, 1, false, 500 * S, 35, 10);
    expect(c, 2, false, 500 * S, 65, 30);
    held(c, 1, 30, 1, 600 * S);
    expect(c, 1, false, 700 * S, 0, 0);
    held(c, 1, 20, 1, 700 * S + 1); /* found; an older one that came late changes nothing */
    expect(c, 1, false, 700 * S, 0, 0);
    CHECK_EQ(counters_find(c, "j")->kept[1].count, 2);
    CHECK_EQ(counters_find(c, "j")->committed, 2);
}

/* A new launch resumes from step 30, which one tier has and another has not; a rollback. */
static void epochs(void)
{
    struct counters *c = counters_new();
    struct ckpt_name at = name_of(1, 30), back = name_of(1, 20);
    counters_epoch(c, "j", 1, NULL, 0);
    commit(c, 1, 20, 20 * S, 21 * S);
    commit(c, 1, 30, 30 * S, 31 * S);
    held(c, 1, 20, 1, 32 * S);
    held(c, 1, 30, 2, 33 * S);
    counters_epoch(c, "j", 2, &at, 100 * S);
    counters_epoch(c, "j", 2, &at, 105 * S); /* another rank of it */
    expect(c, 0, true, 110 * S, 10, 0);
    expect(c, 2, true, 110 * S, 10, 0);
    expect(c, 1, true, 110 * S, 90, 10); /* it would go on from 20 */
    counters_step(c, "j", 2, 33, 111 * S);
    expect(c, 1, true, 111 * S, 91, 13);
    expect(c, 2, true, 111 * S, 11, 3);
    commit(c, 1, 40, 40 * S, 112 * S); /* left by the older launch: sorts behind */
    expect(c, 0, true, 112 * S, 12, 3);
    CHECK_EQ(counters_find(c, "j")->committed, 3);
    counters_epoch(c, "j", 3, &back, 200 * S); /* to 20, which tier 1 has */
    expect(c, 0, true, 205 * S, 5, 0);
    expect(c, 1, true, 205 * S, 5, 0);
    counters_step(c, "j", 3, 22, 206 * S);
    expect(c, 0, true, 206 * S, 6, 2);
    held(c, 1, 30, 1, 207 * S); /* of the branch that was left */
    expect(c, 2, true, 207 * S, 7, 2);
}

/* A checkpoint of unknown age does not make the loss smaller. */
static void unknown_age(void)
{
    struct counters *c = counters_new();
    counters_epoch(c, "j", 1, NULL, 0);
    counters_step(c, "j", 1, 5, S);
    held(c, 1, 5, 1, 2 * S);
    expect(c, 1, true, 10 * S, 10, 5);
    for (uint64_t i = 1; i <= COUNTERS_NAMES_MAX + 3; i++)
        commit(c, 1, 100 + i, (int64_t)i * S, (int64_t)i * S);
    held(c, 1, 101, 1, 70 * S); /* out of the ring */
    expect(c, 1, true, 80 * S, 80, 5);
    held(c, 1, 104, 1, 81 * S);
    expect(c, 1, true, 84 * S, 80, 0);
}

/* More jobs than places: the one that was longest silent goes, and no other. */
static void many_jobs(void)
{
    struct counters *c = counters_new();
    char job[32];
    for (int i = 0; i < COUNTERS_JOBS_MAX; i++) {
        snprintf(job, sizeof(job), "job%d", i);
        counters_staged(c, job, i * S);
        CHECK_EQ(counters_find(c, job)->staged, 1);
    }
    counters_aborted(c, "job0", 1000 * S);
    counters_staged(c, "one more", 1001 * S);
    CHECK(!counters_find(c, "job1") && counters_find(c, "job0") && counters_find(c, "job2"));
    CHECK_EQ(counters_find(c, "one more")->staged, 1);
    CHECK_EQ(counters_find(c, "one more")->aborted, 0);
    CHECK_EQ(counters_find(c, "job0")->aborted, 1);
    cases += COUNTERS_JOBS_MAX + 1;
}

/* -- random histories of one epoch ------------------------------------------------- */

struct oracle {
    int64_t begun[400]; /* by step; 0 = not committed */
    bool there[TIERS_MAX][400];
    uint64_t step;
};

static void random_history(unsigned long long *seed)
{
    static struct oracle o;
    memset(&o, 0, sizeof(o));
    struct counters *c = counters_new();
    int64_t now = S;
    counters_epoch(c, "j", 1, NULL, now);
    uint64_t committed[64], count = 0;
    for (int i = 0; i < 200; i++) {
        now += (int64_t)(test_rand(seed) % (5 * S));
        unsigned what = test_rand(seed) % 4;
        uint32_t tier = 1 + test_rand(seed) % 3;
        if (what == 0 && o.step < 390) {
            o.step += 1 + test_rand(seed) % 3;
            counters_step(c, "j", 1, o.step, now);
        } else if (what == 1 && count < 64 && o.step > 0 && !o.begun[o.step]) {
            o.begun[o.step] = now - (int64_t)(test_rand(seed) % S);
            committed[count++] = o.step;
            commit(c, 1, o.step, o.begun[o.step], now);
        } else if (what == 2 && count > 0) {
            uint64_t step = committed[test_rand(seed) % count];
            o.there[tier][step] = true;
            held(c, 1, step, tier, now);
        }
        for (tier = 0; tier < 4; tier++) {
            uint64_t newest = 0;
            for (uint64_t s = 1; s < 400; s++)
                if (o.begun[s] && (tier == 0 || o.there[tier][s]))
                    newest = s;
            int64_t since = newest ? o.begun[newest] : S;
            expect(c, tier, true, now, (double)(now - since) / 1e9, o.step - newest);
        }
    }
}

int main(void)
{
    unsigned long long seed = test_seed(20261121);
    one_run();
    epochs();
    unknown_age();
    many_jobs();
    for (int i = 0; i < 50; i++)
        random_history(&seed);
    TEST_CASES(cases);
    return 0;
}
