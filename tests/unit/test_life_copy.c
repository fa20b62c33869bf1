/* Dropping one store's copy (rule D5), of a node's own directory, of a store that is drained to and
 * of the home: what goes, what stays and why; it dies anywhere; two stores that are all that hold the same never
 * both drop it; no drain brings it back. */
#include <pthread.h>

#include "storage/repo/adopt.h"
#include "storage/repo/drain.h"
#include "storage/repo/life_copy.h"
#include "storage/repo/life_log.h"
#include "storage/repo/roster.h"
#include "storage/store/wrap.h"
#include "unit/before_put.h"
#include "unit/history_fixture.h"
#include "unit/later.h"

#define CKPTS 7

static int cases;

/* What `here` is: a node's own directory, where parts lie; a store that is drained to, with
 * commits and h/ of its own; or the home. */
enum kind { OWN, SHARED, HOME, KINDS };

/* The home has records and all data, `here` the parts; so has `other`, if it is named.  `holder`
 * has what `here` drops: the home, or a store that the home is drained to. */
struct world {
    struct store *home, *here, *holder, *other;
    struct store *tiers[2];
    enum kind kind;
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

static void put_commit(struct store *s, const struct ckpt_name *name)
{
    struct record_commit c = { .name = *name, .world = FX_WORLD, .raw_bytes = 1000 * name->step };
    struct buf b = { 0 };
    record_commit_encode(&c, key_commit(FX_JOB, name).text, &b);
    fx_put(s, key_commit(FX_JOB, name), &b);
}

static void put_copy(struct store *s, const struct ckpt_name *name, enum kind kind)
{
    fx_parts(s, name);
    if (kind == SHARED)
        put_commit(s, name);
    put_held(s, name);
}

/* As drains look at it: the tiers name `here`, too, if it is one of them.  The one that has its
 * records and its packs in the home: `here` is the same. */
static void place_it(struct world *w, struct store *holder, struct store *here, struct store *other)
{
    struct store *home = w->kind == HOME ? here : holder;
    w->place = (struct copy_place){ .job = FX_JOB, .home = home, .here = here, .tiers = w->tiers };
    if (w->kind != OWN)
        w->tiers[w->place.tier_count++] = w->kind == HOME ? holder : here;
    if (other)
        w->tiers[w->place.tier_count++] = other;
}

static void make(struct world *w, enum kind kind, bool third)
{
    char bytes[] = "index";
    const struct iovec index = { bytes, sizeof(bytes) };
    *w = (struct world){ .here = fx_open(), .holder = fx_open(), .other = fx_open(), .kind = kind };
    w->home = kind == HOME ? w->here : w->holder;
    place_it(w, w->holder, w->here, third ? w->other : NULL);
    fx_resolve(w->home, "one");
    for (uint64_t i = 1; i <= CKPTS; i++) {
        w->name[i] = fx_commit(w->home, 1, 10 * i);
        CHECK_OK(store_put(w->home, key_index(FX_JOB, &w->name[i], 0).text, &index, 1, 0, NULL));
        put_copy(kind == HOME ? w->holder : w->here, &w->name[i], kind == HOME ? SHARED : kind);
        put_copy(w->other, &w->name[i], SHARED);
    }
}

static void fini(struct world *w)
{
    store_close(w->here);
    store_close(w->holder);
    store_close(w->other);
}

/* Whole here, or nothing of it; records: but for the manifests, which the home keeps. */
static bool whole_but(struct store *s, const struct ckpt_name *name, bool records)
{
    bool all = fx_there(s, key_held(FX_JOB, name)), any = all;
    for (uint32_t rank = 0; rank < FX_WORLD; rank++) {
        const struct key keys[] = { key_rank_held(FX_JOB, name, rank), fx_pack_key(name, rank),
                                    key_manifest(FX_JOB, name, rank) };
        CHECK(!records || fx_there(s, keys[2]));
        for (size_t i = 0; i < ARRAY_COUNT(keys) - records; i++) {
            bool there = fx_there(s, keys[i]);
            all = all && there;
            any = any || there;
        }
    }
    CHECK(all == any);
    cases++;
    return all;
}

static bool whole(struct store *s, const struct ckpt_name *name)
{
    return whole_but(s, name, false);
}

static bool whole_here(const struct world *w, const struct ckpt_name *name)
{
    return whole_but(w->here, name, w->kind == HOME);
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
    CLEANUP_ROSTER struct roster copies = { 0 };
    char got[CKPTS + 1] = "";
    size_t n = 0;
    CHECK_OK(roster_copies(w->here, FX_JOB, &copies, NULL));
    for (unsigned i = 1; i <= CKPTS; i++) {
        const struct ckpt_name *name = &w->name[i];
        bool here = whole_here(w, name);
        CHECK(whole(w->holder, name) && fx_there(w->holder, key_commit(FX_JOB, name)));
        CHECK(fx_there(w->home, key_index(FX_JOB, name, 0)));
        CHECK(w->kind == OWN ||
              fx_there(w->here, key_commit(FX_JOB, name)) == (here || w->kind == HOME));
        if (here) {
            got[n++] = (char)('0' + i);
            continue;
        }
        CHECK_EQ(life_here(w, name, NULL), LIFE_GONE);
        CHECK(w->kind != HOME || !roster_find(&copies, name)->older);
    }
    CHECK_STR(got, steps);
}

static void what_goes(enum kind kind)
{
    struct world w;
    struct copy_report r;
    make(&w, kind, true);
    fx_tag(w.home, &w.name[2], "good", 1, true);
    CHECK_OK(
        store_remove(w.holder, key_held(FX_JOB, &w.name[3]).text, NULL)); /* not complete there */
    CHECK_OK(store_remove(w.other, key_held(FX_JOB, &w.name[4]).text, NULL));
    struct keep_policy none = { 0 };
    struct prune_plan plan;
    CHECK_EQ(copy_prune(&w.place, &none, &plan, &r, NULL), CKPT_REFUSED);
    CHECK_OK(pass(&w, "last=3", &r));
    CHECK(r.dropped == 1 && r.kept == 6 && r.spared == 0);
    CHECK(!whole_here(&w, &w.name[1]) && whole(w.here, &w.name[2]) && whole(w.here, &w.name[4]));
    /* Nothing is written about what stays. */
    for (unsigned i = 2; i <= CKPTS; i++) {
        uint64_t n;
        CHECK(life_here(&w, &w.name[i], &n) == LIFE_LIVE && n == 0);
    }
    put_held(w.holder, &w.name[3]);
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
static void resumed(enum kind kind)
{
    struct world w;
    struct copy_report r;
    make(&w, kind, false);
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
static void spared(enum kind kind)
{
    static const char *const why[] = { "not held", "its copy goes", "dropped, and not held",
                                       "tagged",   "resumed",       "deleted at home" };
    /* Of what was deleted at home the others' copies count: they can bring it back. */
    for (size_t i = 0; i < ARRAY_COUNT(why) - (kind == HOME); i++) {
        struct world w;
        struct copy_report r = { 0 };
        bool dropped = true;
        uint64_t n = 0;
        make(&w, kind, i < 3);
        const struct ckpt_name *name = &w.name[7];
        struct key own = key_life(FX_JOB, name, true, 1);
        if (i == 0)
            CHECK_OK(store_remove(w.other, key_held(FX_JOB, name).text, NULL));
        if (i == 1 || i == 2)
            CHECK_OK(life_put(w.other, &own, i == 1 ? LIFE_DELETED : LIFE_GONE, "", NULL));
        if (i == 2)
            CHECK_OK(store_remove(w.holder, key_held(FX_JOB, name).text, NULL));
        if (i == 3)
            fx_tag(w.home, name, "t", 1, true);
        if (i == 4)
            fx_resolve(w.home, "two");
        if (i == 5)
            fx_life(w.home, name, 1, LIFE_DELETED, 1);
        CHECK_OK(copy_drop(&w.place, name, "test", &dropped, &r, NULL));
        CHECK(!dropped && r.spared == 1 && r.dropped == 0);
        CHECK(whole(w.here, name));
        CHECK(life_here(&w, name, &n) == LIFE_LIVE && n == 2);
        fini(&w);
    }
}

/* Nothing says that more is here than is, and data goes behind GONE alone. */
static void check_unharmed(const struct world *w)
{
    for (unsigned i = 1; i <= CKPTS; i++) {
        bool held = fx_there(w->here, key_held(FX_JOB, &w->name[i]));
        for (uint32_t rank = 0; rank < FX_WORLD; rank++) {
            bool says = held || fx_there(w->here, key_rank_held(FX_JOB, &w->name[i], rank));
            bool data = fx_there(w->here, fx_pack_key(&w->name[i], rank));
            bool listed = fx_there(w->here, key_commit(FX_JOB, &w->name[i]));
            CHECK(!held || fx_there(w->here, key_rank_held(FX_JOB, &w->name[i], rank)));
            CHECK(!says || data);
            CHECK(!listed || data || w->kind == HOME);
            CHECK(!held || w->kind == OWN || listed);
            CHECK(data || life_here(w, &w->name[i], NULL) == LIFE_GONE);
            CHECK(w->kind != HOME ||
                  (listed && fx_there(w->here, key_manifest(FX_JOB, &w->name[i], rank))));
        }
    }
}

/* At its n-th operation, for every n and each store; the next pass ends in the same place. */
static uint64_t dies_at(enum kind kind, unsigned where, uint64_t nth)
{
    struct world w;
    struct store *inner, *faulty;
    struct copy_report r;
    make(&w, kind, true);
    struct store *at[] = { w.holder, w.here, w.other };
    struct wrap_fault_rule rule = { .kind = nth % 2 ? FAULT_FAIL : FAULT_LOST_REPLY,
                                    .status = CKPT_IO,
                                    .nth = nth };
    struct wrap_fault_plan plan = { .rules = &rule, .count = 1 };
    CHECK_OK(store_dup(at[where], &inner, NULL));
    CHECK_OK(wrap_fault(inner, &plan, &faulty, NULL));
    at[where] = faulty;
    place_it(&w, at[0], at[1], at[2]);
    enum ckpt_status st = pass(&w, "last=5", &r);
    CHECK_EQ(st, plan.hits ? CKPT_IO : CKPT_OK);
    store_close(faulty);
    place_it(&w, w.holder, w.here, w.other);
    check_unharmed(&w);
    CHECK_OK(pass(&w, "last=5", &r));
    expect(&w, "34567");
    fini(&w);
    return plan.hits;
}

static void dies_anywhere(enum kind kind)
{
    for (unsigned where = 0; where < 3; where++) {
        uint64_t nth = 1;
        while (dies_at(kind, where, nth))
            nth += TEST_TENTH > 1 ? 5 : 1; /* odd: each other one is a lost reply */
        CHECK(nth > 10);
    }
}

/* Who dropped it died; since then it is to stay: nothing says that it is about to go. */
static void taken_back(enum kind kind)
{
    struct world w;
    struct copy_report r;
    uint64_t n;
    make(&w, kind, true);
    for (unsigned i = 1; i <= 3; i += 2) {
        struct key key = key_life(FX_JOB, &w.name[i], true, 1);
        CHECK_OK(life_put(w.here, &key, LIFE_DELETED, "", NULL));
    }
    CHECK_OK(pass(&w, "last=5", &r));
    expect(&w, "234567"); /* on what may be about to go nobody counts */
    CHECK(life_here(&w, &w.name[3], &n) == LIFE_LIVE && n == 2);
    CHECK(life_here(&w, &w.name[1], &n) == LIFE_GONE && n == 2);
    CHECK_OK(pass(&w, "last=5", &r));
    expect(&w, "34567");
    fini(&w);
}

/* Another tier has dropped its copy for good: it is not waited for. */
static void dropped_elsewhere(enum kind kind)
{
    struct world w;
    struct copy_report r;
    make(&w, kind, true);
    for (unsigned i = 1; i <= 3; i++) { /* LIVE, DELETED and GONE */
        CHECK_OK(store_remove(w.other, key_held(FX_JOB, &w.name[i]).text, NULL));
        struct key key = key_life(FX_JOB, &w.name[i], true, 1);
        CHECK_OK(life_put(w.other, &key, LIFE_LIVE + (int)i - 1, "", NULL));
    }
    CHECK_OK(pass(&w, "last=3", &r));
    CHECK(r.dropped == 2 && r.spared == 0);
    expect(&w, "12567");
    fini(&w);
}

static enum ckpt_status open_drain(const struct world *w, struct store *from, struct store *to,
                                   const struct ckpt_name *name)
{
    const struct drain d = {
        .job = FX_JOB, .name = *name, .home = w->home, .sources = &from, .source_count = 1, .to = to
    };
    struct record_commit commit;
    struct ckpt_err err = { 0 };
    enum ckpt_status st = drain_open(&d, &commit, &err);
    CHECK(st != CKPT_ABORTED || strstr(err.text, "this copy"));
    return st;
}

static size_t logs(struct store *s, bool copies)
{
    CLEANUP_ROSTER struct roster r = { 0 };
    CHECK_OK(copies ? roster_copies(s, FX_JOB, &r, NULL) : roster_lives(s, FX_JOB, &r, NULL));
    return r.count;
}

/* A pass when GONE has stood for long; returns how many objects it has read. */
static uint64_t pass_later(struct world *w)
{
    struct store *dup, *counted;
    struct store_counts counts = { 0 };
    struct copy_report r;
    CHECK_OK(store_dup(w->here, &dup, NULL));
    CHECK_OK(wrap_count(dup, &counts, &counted, NULL));
    struct store *later = store_later(counted, LIFE_ABORT_KEEP_NS);
    place_it(w, w->holder, later, NULL);
    CHECK_OK(pass(w, "last=5", &r));
    store_close(later);
    place_it(w, w->holder, w->here, NULL);
    return counts.gets;
}

/* Something came back behind GONE; and logs are not kept for ever, but for as long as a drain
 * could bring the copy back. */
static void afterwards(enum kind kind)
{
    struct world w;
    struct copy_report r;
    make(&w, kind, false);
    CHECK_OK(pass(&w, "last=5", &r));
    expect(&w, "34567");
    if (kind != HOME) /* there nothing comes back without h/ */
        fx_parts(w.here, &w.name[1]);
    put_held(w.here, &w.name[2]);
    CHECK_OK(pass(&w, "last=7", &r)); /* kept by now, but gone is gone */
    expect(&w, "34567");
    if (kind == SHARED)
        put_commit(w.here, &w.name[2]);
    CHECK_OK(pass(&w, "last=7", &r));
    expect(&w, "34567");
    CHECK_EQ(open_drain(&w, w.holder, w.here, &w.name[1]), CKPT_ABORTED);
    CHECK(logs(w.here, true) == 2 && logs(w.here, false) == 0);
    uint64_t gets = pass_later(&w);       /* of what is alive nothing is asked, */
    CHECK_EQ(gets, kind == HOME ? 2 : 0); /* but the home what was launched */
    CHECK_EQ(logs(w.here, true), 2);      /* the home has them */
    fx_life(w.home, &w.name[2], 1, LIFE_DELETED, 1);
    pass_later(&w);
    CHECK_EQ(logs(w.here, true), 2); /* and may have this one brought back */
    fx_life(w.home, &w.name[2], 2, LIFE_GONE, 1);
    CHECK_OK(store_remove(w.home, key_commit(FX_JOB, &w.name[2]).text, NULL));
    CHECK_OK(pass(&w, "last=5", &r));
    CHECK_EQ(logs(w.here, true), 2); /* it is young */
    pass_later(&w);
    CHECK_EQ(logs(w.here, true), 1);
    CHECK(life_here(&w, &w.name[1], NULL) == LIFE_GONE);
    CHECK(life_here(&w, &w.name[2], NULL) == LIFE_LIVE);
    cases += 6;
    fini(&w);
}

/* -- a store that is drained to ------------------------------------------------------------------ */

/* What has begun to come and is not whole does not go, and rules do not count it; of what is not
 * there they count nothing either. */
static void on_its_way(void)
{
    struct world w;
    struct copy_report r;
    make(&w, SHARED, true);
    for (unsigned i = 2; i <= CKPTS; i += 4) /* 2 and 6 */
        CHECK_OK(store_remove(w.here, key_held(FX_JOB, &w.name[i]).text, NULL));
    CHECK_OK(pass(&w, "last=3", &r));
    CHECK(r.dropped == 2 && r.kept == 5); /* 1 and 3 go: 4, 5 and 7 are the last of it */
    for (unsigned i = 1; i <= CKPTS; i++)
        CHECK_EQ(fx_there(w.here, fx_pack_key(&w.name[i], 1)), i != 1 && i != 3);
    put_held(w.here, &w.name[2]);
    put_held(w.here, &w.name[6]);
    CHECK_OK(pass(&w, "every=1000", &r));
    expect(&w, "67"); /* the newest two of it */
    fini(&w);
}

/* Two homes have the same numbers: what is another home's stays. */
static void another_home(void)
{
    struct world w;
    struct copy_report r;
    struct record_commit c;
    struct buf b = { 0 };
    make(&w, SHARED, true);
    c = (struct record_commit){ .name = w.name[1], .world = FX_WORLD, .raw_bytes = 7 };
    CHECK_OK(store_remove(w.here, key_commit(FX_JOB, &w.name[1]).text, NULL));
    record_commit_encode(&c, key_commit(FX_JOB, &w.name[1]).text, &b);
    fx_put(w.here, key_commit(FX_JOB, &w.name[1]), &b);
    CHECK_OK(store_remove(w.here, key_commit(FX_JOB, &w.name[2]).text, NULL)); /* not known whose */
    CHECK_OK(pass(&w, "last=4", &r));
    CHECK(r.dropped == 1 && r.kept == 6);
    CHECK(whole(w.here, &w.name[1]) && whole(w.here, &w.name[2]) && !whole(w.here, &w.name[3]));
    CHECK(logs(w.here, true) == 1);
    fini(&w);
}

/* Few are sent there: the last ones are those of that store, and so are the newest two. */
static void few_are_there(void)
{
    struct world w;
    struct copy_report r;
    make(&w, SHARED, false);
    for (unsigned i = 2; i <= CKPTS; i++)
        if (i != 3 && i != 5) {
            CHECK_OK(store_remove(w.here, key_held(FX_JOB, &w.name[i]).text, NULL));
            CHECK_OK(store_remove(w.here, key_commit(FX_JOB, &w.name[i]).text, NULL));
            for (uint32_t rank = 0; rank < FX_WORLD; rank++) {
                CHECK_OK(store_remove(w.here, fx_pack_key(&w.name[i], rank).text, NULL));
                CHECK_OK(store_remove(w.here, key_rank_held(FX_JOB, &w.name[i], rank).text, NULL));
                CHECK_OK(store_remove(w.here, key_manifest(FX_JOB, &w.name[i], rank).text, NULL));
            }
        }
    CHECK_OK(pass(&w, "last=3", &r));
    CHECK(r.dropped == 0 && r.kept == 3);
    CHECK_OK(pass(&w, "last=1", &r));
    CHECK(r.dropped == 1 && r.kept == 2);
    CHECK(!whole(w.here, &w.name[1]) && whole(w.here, &w.name[3]) && whole(w.here, &w.name[5]));
    fini(&w);
}

/* No scan finds what was dropped, and it is read once, also by a daemon that has just begun; no
 * launch takes it for held; and a home that is made anew from there lists what it can restore. */
static void is_not_there(void)
{
    struct world w;
    struct copy_report r;
    struct store_counts counts = { 0 };
    struct store *dup, *counted, *anew = fx_open();
    struct drain_passed passed = { 0 };
    struct policy all;
    struct ckpt_name found[CKPTS];
    make(&w, SHARED, false);
    CHECK_OK(pass(&w, "last=4", &r));
    expect(&w, "4567");
    struct key key = key_life(FX_JOB, &w.name[7], true, 1); /* one was spared */
    CHECK_OK(life_put(w.here, &key, LIFE_LIVE, "", NULL));
    CHECK_OK(store_remove(w.here, key_held(FX_JOB, &w.name[7]).text, NULL));
    CHECK_OK(policy_parse("all", &all, NULL));
    CHECK_OK(store_dup(w.here, &dup, NULL));
    CHECK_OK(wrap_count(dup, &counts, &counted, NULL));
    const struct drain d = { .job = FX_JOB,
                             .home = w.home,
                             .sources = &w.home,
                             .source_count = 1,
                             .to = counted,
                             .policy = &all,
                             .passed = &passed };
    for (int scan = 0; scan < 4; scan++) {
        uint64_t gets = counts.gets;
        size_t count = 0;
        bool more;
        if (scan == 2) /* another daemon */
            drain_passed_fini(&passed);
        drain_passed_begin(&passed, &all, DRAIN_PASSED_MAX);
        CHECK_OK(drain_scan(&d, found, CKPTS, &count, &more, NULL));
        drain_passed_end(&passed, true);
        CHECK(count == 1 && name_equal(&found[0], &w.name[7]) && !more);
        CHECK_EQ(counts.gets - gets, scan % 2 ? 1 : 4);
    }
    CHECK_EQ(open_drain(&w, w.home, w.here, &w.name[3]), CKPT_ABORTED);
    CLEANUP_ROSTER struct roster held = { 0 };
    CLEANUP_ROSTER struct roster commits = { 0 };
    CHECK_OK(adopt_job(w.here, anew, FX_JOB, &held, NULL));
    CHECK_OK(roster_commits(anew, FX_JOB, &commits, NULL));
    CHECK(held.count == 3 && commits.count == 4); /* 70 has no h/ */
    CHECK(!roster_find(&held, &w.name[3]) && !roster_find(&commits, &w.name[3]));
    drain_passed_fini(&passed);
    store_close(counted);
    store_close(anew);
    cases += 6;
    fini(&w);
}

/* A pass died while it removed data, and now nobody says what is to stay there: what is left is not
 * on its way there, and does not keep the rest from being deleted. */
static void left_over(void)
{
    struct world w;
    struct copy_report r;
    struct keep_policy last = { 0 };
    const struct prune_options o = { .policy = &last, .tiers = w.tiers, .tier_count = 1 };
    struct prune_plan plan;
    make(&w, SHARED, false);
    CHECK_OK(pass(&w, "last=5", &r));
    fx_parts(w.here, &w.name[1]);
    CHECK_OK(store_remove(w.here, key_held(FX_JOB, &w.name[3]).text, NULL));
    CHECK_OK(keep_policy_parse("last=1", &last, NULL));
    CHECK_OK(prune_decide(w.home, FX_JOB, &o, &plan, NULL));
    CHECK_EQ(plan.count, CKPTS);
    for (size_t i = 0; i < plan.count; i++) /* newest first; 3 is on its way, 7 the last */
        CHECK_EQ(plan.items[i].keep, i == 0 || i == 4);
    prune_plan_fini(&plan);
    cases++;
    fini(&w);
}

/* -- the home ------------------------------------------------------------------------------------ */

static struct store_counts resolve_counted(struct store *home, const char *token)
{
    struct store_counts counts = { 0 };
    struct store *dup, *counted;
    CHECK_OK(store_dup(home, &dup, NULL));
    CHECK_OK(wrap_count(dup, &counts, &counted, NULL));
    fx_resolve(counted, token);
    store_close(counted);
    return counts;
}

/* A launch that is to go on from step 30; tier: what it can reach. */
static enum ckpt_status resolve_30(struct store *home, struct store *tier)
{
    CLEANUP_ROSTER struct roster held = { 0 };
    const struct launch_who who = { .job = FX_JOB, .token = tier ? "a" : "b", .world = FX_WORLD };
    const struct lineage_wish wish = { .forced = true, .step = 30 };
    const struct launch_reach reach = { .also = &held };
    struct record_resolved resolved;
    uint64_t epoch;
    CHECK_OK(launch_claim(home, &who, &epoch, NULL));
    if (tier)
        CHECK_OK(adopt_held(tier, FX_JOB, &held, NULL));
    enum ckpt_status st = launch_resolve_with(home, FX_JOB, epoch, &wish, &reach, &resolved, NULL);
    if (st == CKPT_OK) {
        CHECK_EQ(resolved.name.step, 30);
        record_resolved_fini(&resolved);
    }
    return st;
}

/* What the home has dropped is listed, decided and restored as ever: no launch tries to complete it,
 * no scan brings it back, a launch that can reach the tier takes it, and prune leaves it to who
 * names the tier. */
static void what_others_see(void)
{
    struct world w;
    struct copy_report r;
    struct store *near = fx_open();
    struct ckpt_name found[CKPTS];
    struct keep_policy last = { 0 };
    struct prune_options o = { .policy = &last, .tiers = w.tiers };
    size_t count;
    bool more;
    make(&w, HOME, false);
    const struct store_counts plain = resolve_counted(w.home, "two");
    fini(&w);
    make(&w, HOME, false);
    CHECK_OK(pass(&w, "last=2", &r));
    expect(&w, "67");
    const struct store_counts after = resolve_counted(w.home, "two");
    CHECK(after.lists == plain.lists && after.gets == plain.gets && after.stats == plain.stats);
    for (unsigned i = 1; i <= CKPTS; i++)
        put_copy(near, &w.name[i], OWN);
    const struct drain d = {
        .job = FX_JOB, .home = w.home, .sources = &near, .source_count = 1, .to = w.home
    };
    CHECK_OK(drain_scan(&d, found, CKPTS, &count, &more, NULL));
    CHECK_EQ(count, 0);
    CHECK_OK(keep_policy_parse("last=1", &last, NULL));
    for (o.tier_count = 0; o.tier_count < 2; o.tier_count++) { /* not told of the tier, and told */
        struct prune_plan plan;
        size_t kept = 0;
        CHECK_OK(prune_decide(w.home, FX_JOB, &o, &plan, NULL));
        for (size_t i = 0; i < plan.count; i++)
            kept += plan.items[i].keep;
        CHECK_EQ(kept, o.tier_count ? 1 : CKPTS - 1);
        prune_plan_fini(&plan);
    }
    CHECK_EQ(prune_check(w.home, FX_JOB, &w.name[3], w.tiers, 0, NULL), CKPT_REFUSED);
    CHECK_OK(prune_check(w.home, FX_JOB, &w.name[3], w.tiers, 1, NULL));
    put_held(w.home, &w.name[3]); /* late, or a crash has left it: it counts as nothing */
    CHECK_EQ(resolve_30(w.home, NULL), CKPT_REFUSED);
    CHECK_OK(resolve_30(w.home, w.holder));
    store_close(near);
    cases += 7;
    fini(&w);
}

/* What another home drained there under the same name is no copy of this one. */
static void named_again(void)
{
    struct world w;
    struct copy_report r;
    make(&w, HOME, false);
    for (unsigned i = 1; i <= 2; i++)
        CHECK_OK(store_remove(w.holder, key_commit(FX_JOB, &w.name[i]).text, NULL));
    struct record_commit c = { .name = w.name[1], .world = FX_WORLD, .raw_bytes = 7 };
    struct buf b = { 0 };
    record_commit_encode(&c, key_commit(FX_JOB, &w.name[1]).text, &b);
    fx_put(w.holder, key_commit(FX_JOB, &w.name[1]), &b);
    CHECK_OK(pass(&w, "last=4", &r));
    CHECK(r.dropped == 1 && r.spared == 2);
    CHECK(whole(w.here, &w.name[1]) && whole(w.here, &w.name[2]) && !whole_here(&w, &w.name[3]));
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

/* The home has dropped its own, so that each takes the other for the one that holds it; or it is
 * one of the two. */
static void both_at_once(bool home)
{
    enum { N = 300 };
    static struct ckpt_name names[N];
    struct store *records = fx_open(), *a = home ? records : fx_open(), *b = fx_open(), *dup[4];
    pthread_barrier_t barrier;
    pthread_t thread;
    fx_resolve(records, "one");
    for (size_t i = 0; i < N; i++) {
        names[i] = fx_commit(records, 1, i + 1);
        if (!home)
            put_copy(a, &names[i], SHARED);
        put_copy(b, &names[i], SHARED);
    }
    fx_resolve(records, "two");
    for (size_t i = 0; i < N - 1 && !home; i++) {
        struct key key = key_life(FX_JOB, &names[i], true, 1);
        CHECK_OK(life_put(records, &key, LIFE_GONE, "", NULL));
    }
    for (int i = 0; i < 4; i++)
        CHECK_OK(store_dup(i == 0 || i == 1 ? records : i == 2 ? a : b, &dup[i], NULL));
    struct store *tiers_of_a[] = { b, a }, *tiers_of_b[] = { dup[3], dup[2] };
    const size_t tiers = home ? 1 : 2;
    CHECK(pthread_barrier_init(&barrier, NULL, 2) == 0);
    struct racer ra = { .place = { FX_JOB, dup[0], home ? dup[0] : a, tiers_of_a, tiers },
                        .names = names,
                        .count = N - 1,
                        .barrier = &barrier };
    struct racer rb = { .place = { FX_JOB, dup[1], dup[3], tiers_of_b, tiers },
                        .names = names,
                        .count = N - 1,
                        .barrier = &barrier };
    CHECK(pthread_create(&thread, NULL, drop_all, &ra) == 0);
    drop_all(&rb);
    pthread_join(thread, NULL);
    for (size_t i = 0; i < N; i++)
        CHECK((int)whole_but(a, &names[i], home) + (int)whole(b, &names[i]) > 0);
    CHECK(ra.report.dropped + rb.report.dropped <= N - 1);
    printf("dropped %d and %d, spared %d and %d\n", (int)ra.report.dropped, (int)rb.report.dropped,
           (int)ra.report.spared, (int)rb.report.spared);
    pthread_barrier_destroy(&barrier);
    for (int i = 0; i < 4; i++)
        store_close(dup[i]);
    store_close(records);
    if (!home)
        store_close(a);
    store_close(b);
}

/* The one drops while the other is about to put a certain entry, both ways round: of two that are
 * all that hold it, one stays whole; where the home holds it, both may go. */
struct turn {
    struct copy_place place; /* of the other */
    const struct ckpt_name *name;
    uint64_t before; /* which entry of the log */
    bool dropped, done;
};

static void the_other_drops(void *arg, struct store *under, const char *key)
{
    struct turn *t = arg;
    struct copy_report r = { 0 };
    struct key entry = key_life(FX_JOB, t->name, true, t->before);
    (void)under;
    if (t->done || strcmp(key, entry.text) != 0)
        return;
    t->done = true;
    CHECK_OK(copy_drop(&t->place, t->name, "test", &t->dropped, &r, NULL));
}

static void in_turns(enum kind kind, bool far_first, uint64_t before, bool third_holds)
{
    struct world w;
    struct copy_report r = { 0 };
    bool dropped = false;
    make(&w, kind == OWN ? SHARED : kind, true);
    const struct ckpt_name *name = &w.name[4];
    struct store *third = kind == HOME ? w.other : w.home;
    struct store *far = kind == HOME ? w.holder : w.other;
    if (!third_holds) {
        struct key key = key_life(FX_JOB, name, true, 1);
        CHECK_OK(life_put(third, &key, LIFE_GONE, "", NULL));
    }
    /* A node's own directory is not among the tiers, and counts for nobody. */
    struct store *one[] = { w.other };
    struct copy_place near = w.place;
    if (kind == OWN) {
        near.tiers = one;
        near.tier_count = 1;
    }
    struct copy_place other = near;
    other.here = far;
    struct copy_place *mine = far_first ? &other : &near;
    struct turn t = { .place = far_first ? near : other, .name = name, .before = before };
    struct store *plain = mine->here, *hooked = before_put(plain, the_other_drops, &t);
    struct store *hooked_tiers[2];
    for (size_t i = 0; i < mine->tier_count; i++)
        hooked_tiers[i] = mine->tiers[i] == plain ? hooked : mine->tiers[i];
    mine->home = mine->home == plain ? hooked : mine->home;
    mine->here = hooked;
    mine->tiers = hooked_tiers;
    CHECK_OK(copy_drop(mine, name, "test", &dropped, &r, NULL));
    CHECK(t.done);
    bool near_whole = whole_here(&w, name), far_whole = whole(far, name);
    CHECK(third_holds || far_whole || (kind != OWN && near_whole));
    if (third_holds && kind != OWN) /* before the first entry the other sees nothing: both go */
        CHECK((int)near_whole + (int)far_whole == (before == 1 ? 0 : 1));
    CHECK_EQ(dropped, !(far_first ? far_whole : near_whole));
    CHECK_EQ(t.dropped, !(far_first ? near_whole : far_whole));
    store_close(hooked);
    cases++;
    fini(&w);
}

int main(void)
{
    for (enum kind kind = OWN; kind < KINDS; kind++) {
        what_goes(kind);
        resumed(kind);
        spared(kind);
        dies_anywhere(kind);
        taken_back(kind);
        dropped_elsewhere(kind);
        afterwards(kind);
    }
    on_its_way();
    another_home();
    few_are_there();
    is_not_there();
    left_over();
    what_others_see();
    named_again();
    for (unsigned i = 0; i < 24; i++)
        in_turns(i / 8, i & 1, 1 + (i >> 1 & 1), i & 4);
    both_at_once(false);
    both_at_once(true);
    TEST_CASES(cases);
    return 0;
}
