/* Dropping one store's copy (rule D5): what goes, what stays and why; it dies anywhere; two
 * stores that drop the same at once never both do. */
#include <pthread.h>

#include "storage/repo/drain.h"
#include "storage/repo/life_copy.h"
#include "storage/repo/life_log.h"
#include "storage/repo/roster.h"
#include "storage/store/wrap.h"
#include "unit/history_fixture.h"

#define CKPTS 7

static int cases;

/* Saved here, drained there: the home has records and all data, `here` the parts. */
struct world {
    struct store *home, *here, *other;
    struct store *others[1];
    struct ckpt_name name[CKPTS + 1]; /* by step / 10 */
    struct copy_place place;
};

static void put_held(struct store *s, const struct ckpt_name *name)
{
    struct record_held h = { .name = *name, .world = FX_WORLD, .stored_bytes = 201 };
    struct buf b = { 0 };
    record_held_encode(&h, key_held(FX_JOB, name).text, &b);
    fx_put(s, key_held(FX_JOB, name), &b);
}

static void make(struct world *w, bool third)
{
    *w = (struct world){ .home = fx_open(), .here = fx_open(), .other = fx_open() };
    w->others[0] = w->other;
    w->place = (struct copy_place){
        .job = FX_JOB, .home = w->home, .here = w->here, .others = w->others, .other_count = third
    };
    fx_resolve(w->home, "one");
    for (uint64_t i = 1; i <= CKPTS; i++) {
        w->name[i] = fx_commit(w->home, 1, 10 * i);
        fx_parts(w->here, &w->name[i]);
        put_held(w->here, &w->name[i]);
        fx_parts(w->other, &w->name[i]);
        put_held(w->other, &w->name[i]);
    }
}

static void fini(struct world *w)
{
    store_close(w->home);
    store_close(w->here);
    store_close(w->other);
}

/* Whole here, or nothing of it. */
static bool whole(struct store *s, const struct ckpt_name *name)
{
    bool all = fx_there(s, key_held(FX_JOB, name)), any = all;
    for (uint32_t rank = 0; rank < FX_WORLD; rank++) {
        const struct key keys[] = { key_rank_held(FX_JOB, name, rank), fx_pack_key(name, rank),
                                    key_manifest(FX_JOB, name, rank) };
        for (size_t i = 0; i < ARRAY_COUNT(keys); i++) {
            bool there = fx_there(s, keys[i]);
            all = all && there;
            any = any || there;
        }
    }
    CHECK(all == any);
    cases++;
    return all;
}

static enum life life_here(const struct world *w, const struct ckpt_name *name, uint64_t *ret_n)
{
    enum life life;
    uint64_t n;
    CHECK_OK(life_look(w->here, FX_JOB, name, true, &life, ret_n ? ret_n : &n, NULL, NULL));
    return life;
}

static enum ckpt_status pass(const struct world *w, const char *rules, struct copy_report *ret)
{
    struct keep_policy policy = { 0 };
    struct prune_plan plan;
    struct ckpt_err err = { 0 };
    CHECK_OK(keep_policy_parse(rules, &policy, NULL));
    enum ckpt_status st = copy_prune(&w->place, &policy, &plan, ret, &err);
    if (st == CKPT_OK)
        for (size_t i = 0; i < plan.count; i++)
            CHECK(plan.items[i].done == PRUNE_NOTHING ||
                  (plan.items[i].done == PRUNE_DELETED && !plan.items[i].keep));
    prune_plan_fini(&plan);
    return st;
}

/* Which steps lie here, as digits. */
static void expect(const struct world *w, const char *steps)
{
    char got[CKPTS + 1] = "";
    size_t n = 0;
    for (unsigned i = 1; i <= CKPTS; i++) {
        CHECK(whole(w->home, &w->name[i]) && fx_there(w->home, key_commit(FX_JOB, &w->name[i])));
        if (whole(w->here, &w->name[i]))
            got[n++] = (char)('0' + i);
        else
            CHECK_EQ(life_here(w, &w->name[i], NULL), LIFE_GONE);
    }
    CHECK_STR(got, steps);
}

static void what_goes(void)
{
    struct world w;
    struct copy_report r;
    make(&w, true);
    fx_tag(w.home, &w.name[2], "good", 1, true);
    CHECK_OK(
        store_remove(w.home, key_held(FX_JOB, &w.name[3]).text, NULL)); /* not complete there */
    CHECK_OK(store_remove(w.other, key_held(FX_JOB, &w.name[4]).text, NULL));
    struct keep_policy none = { 0 };
    struct prune_plan plan;
    CHECK_EQ(copy_prune(&w.place, &none, &plan, &r, NULL), CKPT_REFUSED);
    CHECK_OK(pass(&w, "last=3", &r));
    CHECK(r.dropped == 1 && r.kept == 6 && r.spared == 0);
    CHECK(!whole(w.here, &w.name[1]) && whole(w.here, &w.name[2]) && whole(w.here, &w.name[4]));
    /* Nothing is written about what stays. */
    for (unsigned i = 2; i <= CKPTS; i++) {
        uint64_t n;
        CHECK(life_here(&w, &w.name[i], &n) == LIFE_LIVE && n == 0);
    }
    put_held(w.home, &w.name[3]);
    put_held(w.other, &w.name[4]);
    CHECK_OK(pass(&w, "last=3", &r));
    CHECK_EQ(r.dropped, 2);
    expect(&w, "2567");
    /* Two stay here, whatever the policy says. */
    CHECK_OK(pass(&w, "every=1000", &r));
    expect(&w, "267");
    CHECK_OK(pass(&w, "every=1000", &r));
    CHECK(r.dropped == 0 && r.kept == 3);
    fini(&w);
}

/* What the newest launch resumed from, also when that is old. */
static void resumed(void)
{
    struct world w;
    struct copy_report r;
    make(&w, false);
    struct launch_who who = { .job = FX_JOB, .token = "two", .world = FX_WORLD };
    struct lineage_wish wish = { .forced = true, .step = 30 };
    struct record_resolved resolved;
    uint64_t epoch;
    CHECK_OK(launch_claim(w.home, &who, &epoch, NULL));
    CHECK_OK(launch_resolve(w.home, FX_JOB, epoch, &wish, &resolved, NULL));
    CHECK_EQ(resolved.name.step, 30);
    record_resolved_fini(&resolved);
    CHECK_OK(pass(&w, "last=1", &r)); /* of the lineage: 30; 20 is the second newest */
    expect(&w, "23");
    fini(&w);
}

/* What is looked at after DELETED is there. */
static void spared(void)
{
    static const char *const why[] = { "not held",        "its copy goes", "its copy is gone",
                                       "deleted at home", "tagged",        "resumed" };
    for (size_t i = 0; i < ARRAY_COUNT(why); i++) {
        struct world w;
        struct copy_report r = { 0 };
        bool dropped = true;
        uint64_t n = 0;
        make(&w, i < 3);
        const struct ckpt_name *name = &w.name[7];
        struct key own = key_life(FX_JOB, name, true, 1);
        if (i == 0)
            CHECK_OK(store_remove(w.other, key_held(FX_JOB, name).text, NULL));
        if (i == 1 || i == 2)
            CHECK_OK(life_put(w.other, &own, i == 1 ? LIFE_DELETED : LIFE_GONE, "", NULL));
        if (i == 3)
            fx_life(w.home, name, 1, LIFE_DELETED, 1);
        if (i == 4)
            fx_tag(w.home, name, "t", 1, true);
        if (i == 5)
            fx_resolve(w.home, "two");
        CHECK_OK(copy_drop(&w.place, name, "test", &dropped, &r, NULL));
        CHECK(!dropped && r.spared == 1 && r.dropped == 0);
        CHECK(whole(w.here, name));
        CHECK(life_here(&w, name, &n) == LIFE_LIVE && n == 2);
        fini(&w);
    }
}

/* At its n-th operation, for every n and both stores; the next pass ends in the same place. */
static void dies_anywhere(void)
{
    for (int at_home = 0; at_home < 2; at_home++) {
        for (uint64_t nth = 1;; nth++) {
            struct world w;
            struct store *inner, *faulty;
            struct copy_report r;
            make(&w, false);
            struct wrap_fault_rule rule = { .kind = nth % 2 ? FAULT_FAIL : FAULT_LOST_REPLY,
                                            .status = CKPT_IO,
                                            .nth = nth };
            struct wrap_fault_plan plan = { .rules = &rule, .count = 1 };
            CHECK_OK(store_dup(at_home ? w.home : w.here, &inner, NULL));
            CHECK_OK(wrap_fault(inner, &plan, &faulty, NULL));
            *(at_home ? &w.place.home : &w.place.here) = faulty;
            enum ckpt_status st = pass(&w, "last=5", &r);
            w.place.home = w.home;
            w.place.here = w.here;
            store_close(faulty);
            for (unsigned i = 1; i <= CKPTS; i++) { /* nothing says that more is here than is */
                bool says = fx_there(w.here, key_held(FX_JOB, &w.name[i]));
                for (uint32_t rank = 0; rank < FX_WORLD; rank++) {
                    says = says || fx_there(w.here, key_rank_held(FX_JOB, &w.name[i], rank));
                    CHECK(!says || fx_there(w.here, fx_pack_key(&w.name[i], rank)));
                    CHECK(fx_there(w.here, fx_pack_key(&w.name[i], rank)) ||
                          life_here(&w, &w.name[i], NULL) == LIFE_GONE);
                }
            }
            CHECK_OK(pass(&w, "last=5", &r));
            expect(&w, "34567");
            fini(&w);
            if (!plan.hits) {
                CHECK_OK(st);
                CHECK(nth > 10);
                break;
            }
        }
    }
}

/* Something came back behind GONE; and logs are not kept for ever. */
static void afterwards(void)
{
    struct world w;
    struct copy_report r;
    struct roster copies;
    make(&w, false);
    CHECK_OK(pass(&w, "last=5", &r));
    expect(&w, "34567");
    fx_parts(w.here, &w.name[1]);
    CHECK_OK(pass(&w, "last=7", &r)); /* kept by now, but gone is gone */
    expect(&w, "34567");
    /* No drain to there. */
    const struct drain d = {
        .job = FX_JOB,
        .name = w.name[1],
        .home = w.home,
        .sources = &w.home,
        .source_count = 1,
        .to = w.here,
    };
    struct record_commit commit;
    struct ckpt_err err = { 0 };
    CHECK_EQ(drain_open(&d, &commit, &err), CKPT_ABORTED);
    CHECK(strstr(err.text, "this copy"));
    CHECK_OK(roster_copies(w.here, FX_JOB, &copies, NULL));
    CHECK_EQ(copies.count, 2);
    roster_fini(&copies);
    CHECK_OK(roster_lives(w.here, FX_JOB, &copies, NULL)); /* of checkpoints: none */
    CHECK_EQ(copies.count, 0);
    roster_fini(&copies);
    /* An entry as old as the clock can say. */
    struct record_life old = { .life = LIFE_GONE, .time_ns = 1 };
    struct key key = key_life(FX_JOB, &w.name[2], true, 3);
    struct buf b = { 0 };
    record_life_encode(&old, key.text, &b);
    fx_put(w.here, key, &b);
    CHECK_OK(pass(&w, "last=5", &r));
    CHECK_OK(roster_copies(w.here, FX_JOB, &copies, NULL));
    CHECK_EQ(copies.count, 1);
    CHECK_EQ(copies.entries[0].name.step, 10);
    roster_fini(&copies);
    cases += 5;
    fini(&w);
}

/* -- two at once ---------------------------------------------------------------------------- */

struct racer {
    struct copy_place place;
    const struct ckpt_name *names;
    size_t count;
    pthread_barrier_t *barrier;
    struct copy_report report;
};

static void *drop_all(void *arg)
{
    struct racer *r = arg;
    for (size_t i = 0; i < r->count; i++) {
        bool dropped;
        pthread_barrier_wait(r->barrier);
        CHECK_OK(copy_drop(&r->place, &r->names[i], "race", &dropped, &r->report, NULL));
    }
    return NULL;
}

/* Each takes the other for the one that holds it. */
static void both_at_once(void)
{
    enum { N = 300 };
    static struct ckpt_name names[N];
    struct store *records = fx_open(), *a = fx_open(), *b = fx_open(), *dup[4];
    pthread_barrier_t barrier;
    pthread_t thread;
    fx_resolve(records, "one");
    for (size_t i = 0; i < N; i++) {
        names[i] = fx_commit(records, 1, i + 1);
        fx_parts(a, &names[i]);
        put_held(a, &names[i]);
        fx_parts(b, &names[i]);
        put_held(b, &names[i]);
    }
    fx_resolve(records, "two");
    for (int i = 0; i < 4; i++)
        CHECK_OK(store_dup(i == 0 || i == 1 ? records : i == 2 ? a : b, &dup[i], NULL));
    struct store *other_of_a[] = { b }, *other_of_b[] = { dup[2] };
    CHECK(pthread_barrier_init(&barrier, NULL, 2) == 0);
    struct racer ra = { .place = { FX_JOB, dup[0], a, other_of_a, 1 },
                        .names = names,
                        .count = N - 1,
                        .barrier = &barrier };
    struct racer rb = { .place = { FX_JOB, dup[1], dup[3], other_of_b, 1 },
                        .names = names,
                        .count = N - 1,
                        .barrier = &barrier };
    CHECK(pthread_create(&thread, NULL, drop_all, &ra) == 0);
    drop_all(&rb);
    pthread_join(thread, NULL);
    for (size_t i = 0; i < N; i++)
        CHECK((int)whole(a, &names[i]) + (int)whole(b, &names[i]) > 0);
    CHECK(ra.report.dropped + rb.report.dropped <= N - 1);
    printf("dropped %d and %d, spared %d and %d\n", (int)ra.report.dropped, (int)rb.report.dropped,
           (int)ra.report.spared, (int)rb.report.spared);
    pthread_barrier_destroy(&barrier);
    for (int i = 0; i < 4; i++)
        store_close(dup[i]);
    store_close(records);
    store_close(a);
    store_close(b);
}

int main(void)
{
    what_goes();
    resumed();
    spared();
    dies_anywhere();
    afterwards();
    both_at_once();
    TEST_CASES(cases);
    return 0;
}
