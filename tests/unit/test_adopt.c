/* Records that a home takes over from a tier, and a tier from the home: a home that is new
 * resolves as the old one would have; what is gone stays gone. */
#include "storage/repo/adopt.h"
#include "storage/repo/launch.h"
#include "storage/repo/life.h"
#include "storage/store/wrap.h"

#include "history_fixture.h"

static long cases;

static void life(struct store *s, const struct ckpt_name *name, bool copy, uint64_t n,
                 enum life what)
{
    struct record_life r = { .life = what, .time_ns = 1 };
    struct key key = key_life(FX_JOB, name, copy, n);
    struct buf b = { 0 };
    record_life_encode(&r, key.text, &b);
    fx_put(s, key, &b);
}

static uint64_t launch(struct store *s, const char *token, struct record_resolved *ret)
{
    struct launch_who w = { .job = FX_JOB, .token = token, .world = FX_WORLD, .time_ns = 1 };
    struct lineage_wish wish = { 0 };
    uint64_t epoch;
    CHECK_OK(launch_claim(s, &w, &epoch, NULL));
    wish.below = epoch;
    CHECK_OK(launch_resolve(s, FX_JOB, epoch, &wish, ret, NULL));
    return epoch;
}

static size_t count(struct store *s, struct key prefix)
{
    static struct store_entry page[64];
    size_t n = 0;
    bool more;
    CHECK_OK(store_list(s, prefix.text, false, "", page, 64, &n, &more, NULL));
    return n;
}

static void commit_and_hold(struct store *s, const struct ckpt_name *name)
{
    (void)fx_commit(s, name->epoch, name->step);
    CHECK(fx_there(s, key_held(FX_JOB, name)));
}

/* A tier has everything; the home has nothing. */
static void new_home(void)
{
    struct store *tier = fx_open(), *home = fx_open();
    struct record_resolved r;
    struct roster held = { 0 };
    CHECK_EQ(launch(tier, "one", &r), 1);
    record_resolved_fini(&r);
    struct ckpt_name names[5];
    for (uint64_t i = 0; i < 5; i++) {
        names[i] = fx_name(1, 10 * (i + 1));
        commit_and_hold(tier, &names[i]);
    }
    life(tier, &names[1], false, 1, LIFE_DELETED);
    life(tier, &names[2], false, 1, LIFE_DELETED);
    life(tier, &names[2], false, 2, LIFE_GONE);
    life(tier, &names[3], true, 1, LIFE_GONE); /* this copy only */
    CHECK_OK(adopt_job(tier, home, FX_JOB, &held, NULL));
    CHECK_EQ(held.count, 2);
    CHECK(roster_find(&held, &names[0]) && roster_find(&held, &names[4]));
    CHECK(fx_there(home, key_claim(FX_JOB, 1)) && fx_there(home, key_resolved(FX_JOB, 1)));
    CHECK_EQ(count(home, key_commits(FX_JOB)), 4); /* not the one that is gone */
    CHECK_EQ(count(home, key_helds(FX_JOB)), 0);   /* nothing lies here */
    enum life now;
    uint64_t n;
    CHECK_OK(life_look(home, FX_JOB, &names[1], false, &now, &n, NULL, NULL));
    CHECK_EQ(now, LIFE_DELETED);
    /* Without the tier there is nothing to resume from; with it, the newest it holds. */
    struct lineage_wish wish = { .below = 2 };
    struct ckpt_err err = { 0 };
    struct launch_who w = { .job = FX_JOB, .token = "two", .world = FX_WORLD, .time_ns = 2 };
    uint64_t epoch;
    CHECK_OK(launch_claim(home, &w, &epoch, NULL));
    CHECK_EQ(epoch, 2);
    CHECK_EQ(launch_resolve(home, FX_JOB, 2, &wish, &r, &err), CKPT_REFUSED);
    CHECK_OK(launch_resolve_with(home, FX_JOB, 2, &wish, &(struct launch_reach){ .also = &held },
                                 &r, NULL));
    CHECK(r.kind == RESOLVED_POINT && name_equal(&r.name, &names[4]));
    record_resolved_fini(&r);
    /* Again: nothing changes; what is new in the home goes to the tier. */
    roster_fini(&held);
    size_t before = count(home, (struct key){ FX_JOB "/" });
    CHECK_OK(adopt_job(tier, home, FX_JOB, &held, NULL));
    CHECK_EQ(count(home, (struct key){ FX_JOB "/" }), before);
    CHECK(!fx_there(tier, key_claim(FX_JOB, 2)));
    CHECK_OK(adopt_launches(home, tier, FX_JOB, NULL));
    CHECK(fx_there(tier, key_claim(FX_JOB, 2)) && fx_there(tier, key_resolved(FX_JOB, 2)));
    CHECK_OK(adopt_check_epoch(home, tier, FX_JOB, 2, NULL));
    roster_fini(&held);
    store_close(tier);
    store_close(home);
    cases += 18;
}

/* What the home has decided stands, whatever the tier says. */
static void home_decides(void)
{
    struct store *tier = fx_open(), *home = fx_open();
    struct record_resolved r;
    struct roster held = { 0 };
    launch(home, "mine", &r);
    record_resolved_fini(&r);
    CHECK_OK(adopt_launches(home, tier, FX_JOB, NULL));
    struct ckpt_name gone = fx_name(1, 1), aborted = fx_name(1, 2), live = fx_name(1, 3);
    const struct ckpt_name *all[] = { &gone, &aborted, &live };
    for (size_t i = 0; i < 3; i++)
        commit_and_hold(tier, all[i]);
    life(home, &gone, false, 1, LIFE_GONE);
    const struct record_abort why = { .status = CKPT_CANCELLED, .by_epoch = 1 };
    struct key key = key_commit(FX_JOB, &aborted);
    struct buf b = { 0 };
    record_abort_encode(&why, key.text, &b);
    fx_put(home, key, &b);
    CHECK_OK(adopt_job(tier, home, FX_JOB, &held, NULL));
    CHECK(!fx_there(home, key_commit(FX_JOB, &gone)));
    CHECK_EQ(count(home, key_commits(FX_JOB)), 2);
    struct store_stat stat;
    CHECK_OK(store_stat(home, key.text, &stat, NULL));
    CHECK(stat.bytes <= RECORD_ABORT_MAX); /* still the ABORT */
    roster_fini(&held);
    store_close(tier);
    store_close(home);
    cases += 5;
}

/* A home that was made anew while its tier was out of reach began with the same numbers: nothing
 * of one is taken for the other's. */
static void two_homes(void)
{
    struct store *tier = fx_open(), *home = fx_open();
    struct record_resolved r;
    struct roster held = { 0 };
    launch(home, "mine", &r);
    record_resolved_fini(&r);
    launch(tier, "theirs", &r);
    record_resolved_fini(&r);
    launch(tier, "theirs again", &r);
    record_resolved_fini(&r);
    struct ckpt_name name = fx_name(1, 1);
    commit_and_hold(tier, &name);
    struct ckpt_err err = { 0 };
    CHECK_EQ(adopt_check_epoch(home, tier, FX_JOB, 1, &err), CKPT_CONFLICT);
    CHECK(strstr(err.text, "two homes"));
    err = (struct ckpt_err){ 0 };
    CHECK_EQ(adopt_job(tier, home, FX_JOB, &held, &err), CKPT_CONFLICT);
    CHECK(strstr(err.text, "two homes") && held.count == 0);
    CHECK(!fx_there(home, key_commit(FX_JOB, &name)) && !fx_there(home, key_claim(FX_JOB, 2)));
    /* The claim of the tier does not take the place of the home's. */
    struct lineage l = { 0 };
    CHECK_OK(adopt_launches(tier, home, FX_JOB, NULL));
    CHECK_OK(launch_claims(home, FX_JOB, &l, NULL));
    CHECK_STR(l.launches[l.launch_count - 1].token, "mine");
    lineage_fini(&l);
    store_close(tier);
    store_close(home);
    cases += 6;
}

/* A record that is damaged in the tier is not passed on; a store that fails is said so. */
static void trouble(void)
{
    struct store *tier = fx_open(), *home = fx_open();
    struct record_resolved r;
    struct roster held = { 0 };
    launch(tier, "one", &r);
    record_resolved_fini(&r);
    struct ckpt_name name = fx_name(1, 5);
    commit_and_hold(tier, &name);
    const struct iovec junk = { (void *)(uintptr_t) "junk", 4 };
    CHECK_OK(store_put(tier, key_progress(FX_JOB, 1).text, &junk, 1, 0, NULL));
    CHECK_OK(adopt_job(tier, home, FX_JOB, &held, NULL));
    CHECK(!fx_there(home, key_progress(FX_JOB, 1)) && fx_there(home, key_commit(FX_JOB, &name)));
    roster_fini(&held);
    for (uint64_t n = 1; n < 30; n++) {
        const struct wrap_fault_rule rule = { FAULT_FAIL, CKPT_UNREACHABLE, 0, NULL, n };
        struct wrap_fault_plan plan = { .rules = &rule, .count = 1 };
        struct store *dup, *bad, *empty = fx_open();
        CHECK_OK(store_dup(tier, &dup, NULL));
        CHECK_OK(wrap_fault(dup, &plan, &bad, NULL));
        enum ckpt_status st = adopt_job(bad, empty, FX_JOB, &held, NULL);
        CHECK_EQ(st, atomic_load(&plan.hits) ? CKPT_UNREACHABLE : CKPT_OK);
        CHECK_EQ(held.count, st == CKPT_OK ? 1 : 0);
        roster_fini(&held);
        store_close(bad);
        store_close(empty);
        cases++;
    }
    store_close(tier);
    store_close(home);
}

int main(void)
{
    new_home();
    home_decides();
    two_homes();
    trouble();
    TEST_CASES(cases);
    return 0;
}
