/* Delete, undelete and gc, one at a time; their races are in test_history_races.c.
 * (It covers life_gc.c and owner.c too.) */
#include "storage/repo/adopt.h"
#include "storage/repo/launch.h"
#include "storage/repo/life.h"
#include "storage/repo/life_log.h"
#include "storage/repo/owner.h"
#include "storage/repo/publish.h"
#include "storage/store/wrap.h"
#include "unit/history_fixture.h"

#define HOUR_NS (INT64_C(3600) * 1000000000)

static enum life life_of(struct store *s, const struct ckpt_name *name, uint64_t *ret_n)
{
    enum life life;
    uint64_t n;
    int64_t time_ns;
    CHECK_OK(life_look(s, FX_JOB, name, false, &life, &n, &time_ns, NULL));
    if (ret_n)
        *ret_n = n;
    return life;
}

/* Stores of which one is collected by what the other says. */
static void open_two(struct store **home, struct store **tier, struct record_repo *ret)
{
    struct record_repo tiers_own;
    *home = fx_open();
    *tier = fx_open();
    CHECK_OK(repo_open(*home, true, ret, NULL));
    CHECK_OK(repo_open(*tier, true, &tiers_own, NULL));
}

static size_t count_keys(struct store *s, const char *part)
{
    struct store_entry *e = malloc(512 * sizeof(*e));
    size_t n, hits = 0;
    bool more;
    CHECK(e);
    CHECK_OK(store_list(s, "", false, "", e, 512, &n, &more, NULL));
    CHECK(!more);
    for (size_t i = 0; i < n; i++)
        hits += strstr(e[i].key, part) != NULL;
    free(e);
    return hits;
}

static size_t count_of(struct store *s, const struct ckpt_name *name)
{
    char text[NAME_TEXT];
    name_to_text(name, text);
    return count_keys(s, text);
}

static struct life_gc_report gc(struct store *s, int64_t grace_ns, int64_t keep_ns, bool undecided)
{
    struct life_gc_options o = { .grace_ns = grace_ns,
                                 .abort_keep_ns = keep_ns,
                                 .abort_wait_ns = HOUR_NS,
                                 .undecided = undecided };
    struct life_gc_report r;
    CHECK_OK(life_gc(s, FX_JOB, &o, &r, NULL));
    return r;
}

static int test_delete(void)
{
    struct store *s = fx_open();
    fx_resolve(s, "one");
    struct ckpt_name a = fx_commit(s, 1, 10), b = fx_commit(s, 1, 20), c = fx_commit(s, 1, 30),
                     none = fx_name(1, 99);
    uint64_t n;
    CHECK_EQ(life_of(s, &a, &n), LIFE_LIVE);
    CHECK_EQ(n, 0);
    CHECK_OK(life_delete(s, FX_JOB, &a, "test", NULL));
    CHECK_EQ(life_of(s, &a, &n), LIFE_DELETED);
    CHECK_EQ(n, 1);
    CHECK_OK(life_delete(s, FX_JOB, &a, "again", NULL));
    CHECK_EQ(life_of(s, &a, &n), LIFE_DELETED);
    CHECK_EQ(n, 1);
    CHECK_OK(life_undelete(s, FX_JOB, &a, "test", NULL));
    CHECK_OK(life_undelete(s, FX_JOB, &a, "again", NULL));
    CHECK_EQ(life_of(s, &a, &n), LIFE_LIVE);
    CHECK_EQ(n, 2);
    CHECK(fx_there(s, key_commit(FX_JOB, &a)));
    /* Never: what is not there, the newest, the tagged, what a launch resumes from. */
    struct ckpt_err err = { 0 };
    CHECK_EQ(life_delete(s, FX_JOB, &none, "test", &err), CKPT_NOT_FOUND);
    CHECK_EQ(life_undelete(s, FX_JOB, &none, "test", NULL), CKPT_NOT_FOUND);
    /* What a power cut may leave of a log that gc forgot. */
    CHECK_OK(life_append(s, FX_JOB, &none, 1, LIFE_DELETED, "test", NULL));
    CHECK_EQ(life_undelete(s, FX_JOB, &none, "test", NULL), CKPT_NOT_FOUND);
    CHECK_EQ(life_of(s, &none, NULL), LIFE_DELETED);
    err = (struct ckpt_err){ 0 };
    CHECK_EQ(life_delete(s, FX_JOB, &c, "test", &err), CKPT_REFUSED);
    CHECK(strstr(err.text, "newest"));
    fx_tag(s, &b, "best", 1, true);
    err = (struct ckpt_err){ 0 };
    CHECK_EQ(life_delete(s, FX_JOB, &b, "test", &err), CKPT_REFUSED);
    CHECK(strstr(err.text, "tag"));
    fx_tag(s, &b, "best", 2, false);
    CHECK_OK(life_delete(s, FX_JOB, &b, "test", NULL));
    CHECK_EQ(fx_resolve(s, "two"), 2);
    fx_commit(s, 2, 40);
    err = (struct ckpt_err){ 0 };
    CHECK_EQ(life_delete(s, FX_JOB, &c, "test", &err), CKPT_REFUSED);
    CHECK(strstr(err.text, "resumed from"));
    CHECK_EQ(life_of(s, &c, &n), LIFE_LIVE);
    CHECK_EQ(n, 0);
    fx_resolve(s, "three");
    CHECK_OK(life_delete(s, FX_JOB, &c, "test", NULL));
    /* The newest that can be *restored*: 40 has lost its h/, so 10 is kept. */
    struct ckpt_name d = fx_name(2, 40);
    CHECK_OK(store_remove(s, key_held(FX_JOB, &d).text, NULL));
    err = (struct ckpt_err){ 0 };
    CHECK_EQ(life_delete(s, FX_JOB, &a, "test", &err), CKPT_REFUSED);
    store_close(s);
    return 20;
}

/* Whoever deleted died before it looked at `resolved`: a second delete looks. */
static int test_delete_looks_again(void)
{
    struct store *s = fx_open();
    fx_resolve(s, "one");
    struct ckpt_name a = fx_commit(s, 1, 10);
    fx_resolve(s, "two");
    fx_commit(s, 2, 20);
    fx_life(s, &a, 1, LIFE_DELETED, 1);
    CHECK_EQ(life_delete(s, FX_JOB, &a, "test", NULL), CKPT_REFUSED);
    uint64_t n;
    CHECK_EQ(life_of(s, &a, &n), LIFE_LIVE);
    CHECK_EQ(n, 2);
    store_close(s);
    return 3;
}

static int test_gc_deleted(void)
{
    struct store *s = fx_open();
    fx_resolve(s, "one");
    struct ckpt_name a = fx_commit(s, 1, 10), b = fx_commit(s, 1, 20), c = fx_commit(s, 1, 30);
    int64_t now;
    CHECK_OK(store_now(s, &now, NULL));
    fx_life(s, &a, 1, LIFE_DELETED, now - 2 * HOUR_NS);
    fx_life(s, &b, 1, LIFE_DELETED, now);
    struct life_gc_options dry = { .grace_ns = HOUR_NS, .abort_keep_ns = HOUR_NS, .dry_run = true };
    struct life_gc_report r;
    size_t before = count_keys(s, "");
    CHECK_OK(life_gc(s, FX_JOB, &dry, &r, NULL));
    CHECK_EQ(r.collected, 1);
    CHECK_EQ(r.objects, 6); /* two packs, manifests and .h */
    CHECK(r.bytes > 8);
    CHECK_EQ(count_keys(s, ""), before);
    r = gc(s, HOUR_NS, HOUR_NS, false);
    CHECK_EQ(r.collected, 1);
    CHECK_EQ(r.objects, 6);
    CHECK_EQ(life_of(s, &a, NULL), LIFE_GONE);
    CHECK_EQ(count_of(s, &a), 2); /* the log */
    CHECK_EQ(life_of(s, &b, NULL), LIFE_DELETED);
    CHECK_EQ(count_of(s, &b), 9);
    CHECK_EQ(count_of(s, &c), 8);
    CHECK_EQ(life_undelete(s, FX_JOB, &a, "test", NULL), CKPT_NOT_FOUND);
    CHECK_EQ(life_delete(s, FX_JOB, &a, "test", NULL), CKPT_NOT_FOUND);
    /* Nothing more happens until GONE has stood for abort_keep. */
    r = gc(s, HOUR_NS, HOUR_NS, true);
    CHECK_EQ(r.collected + r.aborted + r.objects, 0);
    CHECK_EQ(count_of(s, &a), 2);
    /* A power cut may have brought h/ back alone. */
    CHECK_OK(store_put_record(s, key_held(FX_JOB, &a).text, "held", 4, NULL));
    gc(s, HOUR_NS, 0, true);
    CHECK_EQ(count_of(s, &a), 0);
    CHECK_EQ(count_of(s, &b), 9);
    /* A clock that was set back makes nothing old. */
    fx_life(s, &c, 1, LIFE_DELETED, now + 1000 * HOUR_NS);
    r = gc(s, 0, 0, true);
    CHECK_EQ(life_of(s, &c, NULL), LIFE_DELETED);
    CHECK_EQ(r.collected, 1); /* b, whose grace is nothing now */
    store_close(s);
    return 16;
}

static int test_gc_spares(void)
{
    struct store *s = fx_open();
    fx_resolve(s, "one");
    struct ckpt_name a = fx_commit(s, 1, 10), b = fx_commit(s, 1, 5);
    fx_resolve(s, "two");
    fx_commit(s, 2, 20);
    fx_life(s, &a, 1, LIFE_DELETED, 1); /* launch 2 resumes from it */
    fx_life(s, &b, 1, LIFE_DELETED, 1);
    fx_tag(s, &b, "kept", 1, true);
    struct life_gc_report r = gc(s, HOUR_NS, HOUR_NS, false);
    CHECK_EQ(r.restored_to_live, 2);
    CHECK_EQ(r.collected, 0);
    CHECK_EQ(life_of(s, &a, NULL), LIFE_LIVE);
    CHECK_EQ(life_of(s, &b, NULL), LIFE_LIVE);
    CHECK_EQ(count_of(s, &b), 11);
    store_close(s);
    return 4;
}

static int test_gc_undecided(void)
{
    struct store *s = fx_open();
    fx_resolve(s, "one");
    struct ckpt_name half = fx_name(1, 10), aborted = fx_name(1, 20), mine = fx_name(2, 30);
    struct record_abort why = { .status = CKPT_FULL, .rank = 1 };
    CHECK_OK(fx_part(s, &half, 0, false, NULL));
    fx_parts(s, &aborted);
    CHECK_OK(publish_abort(s, FX_JOB, &aborted, &why, NULL));
    struct launch_who who = { .job = FX_JOB, .token = "two", .world = FX_WORLD };
    uint64_t epoch;
    CHECK_OK(launch_claim(s, &who, &epoch, NULL));
    /* A claim alone makes nothing old. */
    struct life_gc_report r = gc(s, 0, HOUR_NS, true);
    CHECK_EQ(r.aborted + r.objects, 0);
    fx_resolve(s, "two");
    CHECK_OK(fx_part(s, &mine, 0, false, NULL));
    r = gc(s, 0, HOUR_NS, false);
    CHECK_EQ(r.aborted, 0);
    CHECK_EQ(r.objects, 6); /* those of the ABORT */
    CHECK_EQ(count_of(s, &aborted), 1);
    CHECK_EQ(count_of(s, &half), 3);
    r = gc(s, 0, HOUR_NS, true);
    CHECK_EQ(r.aborted, 1);
    CHECK_EQ(count_of(s, &half), 1); /* ABORT: a late part cannot bring it back */
    CHECK_EQ(count_of(s, &mine), 3);
    CHECK_OK(fx_part(s, &half, 1, false, NULL));
    CHECK_OK(fx_part(s, &half, 0, false, NULL));
    struct record_commit c;
    CHECK_EQ(publish(s, FX_JOB, &half, FX_WORLD, &c, NULL), CKPT_ABORTED);
    gc(s, 0, 0, true);
    CHECK_EQ(count_of(s, &half), 1); /* what came late went first, ABORT stays for now */
    gc(s, 0, 0, true);
    CHECK_EQ(count_of(s, &half) + count_of(s, &aborted), 0);
    CHECK_EQ(count_of(s, &mine), 3);
    store_close(s);
    return 11;
}

/* A commit's record that the disk has cut off is as small as an ABORT. */
static int test_gc_cut_off(void)
{
    const struct life_gc_options o = { .undecided = true }; /* no time to wait for */
    const struct ckpt_name bare = fx_name(1, 5);
    struct store *s = fx_open();
    char zeros[64] = { 0 };
    struct iovec iov = { zeros, 0 };
    fx_resolve(s, "one");
    struct ckpt_name whole = fx_commit(s, 1, 10);
    CHECK_OK(store_put_record(s, key_commit(FX_JOB, &bare).text, zeros, 9, NULL));
    for (int launches = 1; launches <= 2; launches++) {
        for (iov.iov_len = 0; iov.iov_len <= sizeof(zeros); iov.iov_len += sizeof(zeros)) {
            struct life_gc_report r;
            CHECK_OK(store_put(s, key_commit(FX_JOB, &whole).text, &iov, 1, 0, NULL));
            CHECK_OK(life_gc(s, FX_JOB, &o, &r, NULL));
            CHECK_EQ(r.objects + r.aborted + r.collected, 0);
            CHECK_EQ(count_of(s, &whole), 8);
            CHECK_EQ(count_of(s, &bare), 1);
        }
        fx_resolve(s, launches == 1 ? "two" : "three");
    }
    store_close(s);
    return 4;
}

/* gc dies at its n-th operation, for every n; the next one ends in the same place, and
 * nothing live is touched. */
static int test_gc_dies_anywhere(void)
{
    int cases = 0;
    for (uint64_t nth = 1;; nth++) {
        struct store *s = fx_open(), *inner, *faulty;
        fx_resolve(s, "one");
        struct ckpt_name a = fx_commit(s, 1, 10), b = fx_commit(s, 1, 20), half = fx_name(1, 30);
        fx_resolve(s, "two");
        fx_commit(s, 2, 40);
        CHECK_OK(fx_part(s, &half, 0, false, NULL));
        fx_life(s, &a, 1, LIFE_DELETED, 1);
        struct wrap_fault_rule rule = { .kind = nth % 2 ? FAULT_FAIL : FAULT_LOST_REPLY,
                                        .status = CKPT_IO,
                                        .nth = nth };
        struct wrap_fault_plan plan = { .rules = &rule, .count = 1 };
        struct life_gc_options o = { .abort_keep_ns = HOUR_NS, .undecided = true };
        struct life_gc_report r;
        CHECK_OK(store_dup(s, &inner, NULL));
        CHECK_OK(wrap_fault(inner, &plan, &faulty, NULL));
        enum ckpt_status st = life_gc(faulty, FX_JOB, &o, &r, NULL);
        store_close(faulty);
        if (fx_there(s, key_commit(FX_JOB, &a)) == false)
            CHECK(!fx_there(s, fx_pack_key(&a, 0)) && !fx_there(s, fx_pack_key(&a, 1)));
        if (!fx_there(s, fx_pack_key(&a, 0)))
            CHECK_EQ(life_of(s, &a, NULL), LIFE_GONE);
        gc(s, 0, HOUR_NS, true);
        CHECK_EQ(count_of(s, &a), 2);
        CHECK_EQ(count_of(s, &b), 8);
        CHECK_EQ(count_of(s, &half), 1);
        store_close(s);
        cases++;
        if (!plan.hits) {
            CHECK_OK(st);
            break;
        }
    }
    return cases;
}

/* Forgetting removes the newest entry last: an older DELETED or LIVE alone would wake up
 * what is gone. */
static int test_forgetting_dies_anywhere(void)
{
    int cases = 0;
    for (uint64_t nth = 1;; nth++) {
        struct store *s = fx_open(), *inner, *faulty;
        fx_resolve(s, "one");
        struct ckpt_name a = fx_name(1, 10);
        fx_life(s, &a, 1, LIFE_DELETED, 1);
        fx_life(s, &a, 2, LIFE_LIVE, 2);
        fx_life(s, &a, 3, LIFE_DELETED, 3);
        fx_life(s, &a, 4, LIFE_GONE, 4);
        struct wrap_fault_rule rule = {
            .kind = FAULT_FAIL, .status = CKPT_IO, .nth = nth, .op = 'r'
        };
        struct wrap_fault_plan plan = { .rules = &rule, .count = 1 };
        struct life_gc_options o = { 0 };
        struct life_gc_report r;
        CHECK_OK(store_dup(s, &inner, NULL));
        CHECK_OK(wrap_fault(inner, &plan, &faulty, NULL));
        enum ckpt_status st = life_gc(faulty, FX_JOB, &o, &r, NULL);
        store_close(faulty);
        CHECK_EQ(st, plan.hits ? CKPT_IO : CKPT_OK);
        if (plan.hits)
            CHECK_EQ(life_of(s, &a, NULL), LIFE_GONE);
        gc(s, 0, 0, false);
        CHECK_EQ(count_of(s, &a), 0);
        store_close(s);
        cases++;
        if (!plan.hits)
            break;
    }
    CHECK(cases > 3);
    return cases;
}

/* What failed is removed while its launch runs, but not before nobody writes to it. */
static int test_gc_failed_lately(void)
{
    struct store *s = fx_open();
    struct record_abort why = { .status = CKPT_FULL, .rank = 1 };
    struct life_gc_options o = { .abort_keep_ns = 0, .abort_wait_ns = HOUR_NS, .undecided = true };
    struct life_gc_report r;
    fx_resolve(s, "one");
    struct ckpt_name failed = fx_name(1, 20), half = fx_name(1, 30);
    fx_parts(s, &failed);
    CHECK_OK(fx_part(s, &half, 0, false, NULL));
    CHECK_OK(publish_abort(s, FX_JOB, &failed, &why, NULL));
    CHECK_OK(life_gc(s, FX_JOB, &o, &r, NULL));
    CHECK_EQ(r.objects, 0);
    o.abort_wait_ns = 0;
    CHECK_OK(life_gc(s, FX_JOB, &o, &r, NULL));
    CHECK_EQ(r.objects, 6);
    CHECK_EQ(count_of(s, &failed), 1); /* ABORT stays: c/ must not be won again */
    CHECK_EQ(count_of(s, &half), 3);   /* undecided: its launch is at it */
    store_close(s);
    return 4;
}

/* When gc forgets a name, tags that nobody took away go too. */
static int test_forgets_tags(void)
{
    struct store *s = fx_open();
    fx_resolve(s, "one");
    struct ckpt_name a = fx_name(1, 10);
    fx_life(s, &a, 1, LIFE_GONE, 1);
    fx_tag(s, &a, "late", 1, true);
    gc(s, 0, INT64_MAX, true);
    CHECK_EQ(count_of(s, &a), 2);
    gc(s, 0, 0, true);
    CHECK_EQ(count_of(s, &a), 0);
    store_close(s);
    return 2;
}

/* What is GONE at home goes in the other tier, killed at each operation; the rest stays. */
static int test_gc_tier(void)
{
    int cases = 0;
    for (uint64_t nth = 1;; nth++, cases++) {
        struct store *home, *tier, *inner, *faulty;
        struct record_repo repo;
        open_two(&home, &tier, &repo);
        fx_resolve(home, "one");
        CHECK_OK(adopt_launches(home, tier, FX_JOB, NULL));
        struct ckpt_name a = fx_commit(home, 1, 10), b = fx_commit(home, 1, 20), c;
        fx_commit(tier, 1, 10);
        fx_commit(tier, 1, 20);
        c = fx_commit(tier, 1, 30); /* the home knows nothing of it */
        fx_life(home, &a, 1, LIFE_DELETED, 1);
        fx_life(home, &b, 1, LIFE_DELETED, 1);
        fx_life(home, &a, 2, LIFE_GONE, 1);
        struct wrap_fault_rule rule = { .kind = nth % 2 ? FAULT_FAIL : FAULT_LOST_REPLY,
                                        .status = CKPT_IO,
                                        .nth = nth };
        struct wrap_fault_plan plan = { .rules = &rule, .count = 1 };
        struct life_gc_options o = { .abort_keep_ns = INT64_MAX, .undecided = true };
        struct life_gc_options dry = o;
        struct life_gc_report r = { 0 };
        dry.dry_run = true;
        CHECK_OK(life_gc_tier(home, tier, FX_JOB, &dry, &r, NULL));
        CHECK_EQ(r.collected, 1);
        CHECK_EQ(count_of(tier, &a), 8);
        CHECK_OK(store_dup(tier, &inner, NULL));
        CHECK_OK(wrap_fault(inner, &plan, &faulty, NULL));
        enum ckpt_status st = life_gc_tier(home, faulty, FX_JOB, &o, &r, NULL);
        CHECK_EQ(st, plan.hits ? CKPT_IO : CKPT_OK);
        store_close(faulty);
        if (count_of(tier, &a) < 8)
            CHECK_EQ(life_of(tier, &a, NULL), LIFE_GONE);
        CHECK_OK(life_gc_tier(home, tier, FX_JOB, &o, &r, NULL));
        CHECK_EQ(count_of(tier, &a), 1); /* GONE */
        CHECK_EQ(life_of(tier, &a, NULL), LIFE_GONE);
        CHECK_EQ(count_of(tier, &b), 8); /* only DELETED: it may come back */
        CHECK_EQ(count_of(tier, &c), 8);
        store_close(home);
        store_close(tier);
        if (!plan.hits)
            return cases + 1;
    }
}

/* A tier of another home, where the same job began with the same numbers, loses nothing. */
static int test_gc_two_homes(void)
{
    struct store *home, *tier;
    struct record_repo repo;
    struct life_gc_options o = { .abort_keep_ns = INT64_MAX };
    struct life_gc_report r = { 0 };
    struct ckpt_err err = { 0 };
    open_two(&home, &tier, &repo);
    fx_resolve(home, "one");
    fx_resolve(tier, "another");
    struct ckpt_name a = fx_commit(home, 1, 10);
    fx_commit(tier, 1, 10);
    fx_life(home, &a, 1, LIFE_GONE, 1);
    CHECK_EQ(life_gc_tier(home, tier, FX_JOB, &o, &r, &err), CKPT_CONFLICT);
    CHECK(strstr(err.text, "two homes") && r.collected == 0);
    CHECK_EQ(count_of(tier, &a), 8);
    store_close(home);
    store_close(tier);
    return 1;
}

/* ---- a node's own directory: packs, and nothing that decides ---- */

struct node_world {
    struct store *home, *node;
    struct record_repo repo;
    /* of the launch before: failed, interrupted, committed; of this one: failed, under way */
    struct ckpt_name failed, cut, whole, failing, saving;
};

static void put_packs(struct store *node, const struct ckpt_name *name)
{
    char data[4] = "data";
    struct iovec iov = { data, sizeof(data) };
    for (uint32_t rank = 0; rank < FX_WORLD; rank++)
        CHECK_OK(store_put(node, fx_pack_key(name, rank).text, &iov, 1, 0, NULL));
}

static void make_node_world(struct node_world *w, bool marked)
{
    const struct record_abort why = { .status = CKPT_FULL, .rank = 1 };
    *w = (struct node_world){ .failed = fx_name(1, 10), .cut = fx_name(1, 20) };
    open_two(&w->home, &w->node, &w->repo);
    fx_resolve(w->home, "one");
    w->whole = fx_commit(w->home, 1, 30);
    CHECK_OK(publish_abort(w->home, FX_JOB, &w->failed, &why, NULL));
    fx_resolve(w->home, "two");
    w->failing = fx_name(2, 40);
    w->saving = fx_name(2, 50);
    CHECK_OK(publish_abort(w->home, FX_JOB, &w->failing, &why, NULL));
    const struct ckpt_name *all[] = { &w->failed, &w->cut, &w->whole, &w->failing, &w->saving };
    for (size_t i = 0; i < ARRAY_COUNT(all); i++)
        put_packs(w->node, all[i]);
    for (uint64_t epoch = 1; marked && epoch <= 2; epoch++)
        CHECK_OK(owner_mark(w->node, FX_JOB, epoch, &w->repo, NULL));
}

static void drop_node_world(struct node_world *w)
{
    store_close(w->home);
    store_close(w->node);
}

/* How many packs of each lie on the node, as digits. */
static void expect_packs(const struct node_world *w, const char *counts)
{
    const struct ckpt_name *all[] = { &w->failed, &w->cut, &w->whole, &w->failing, &w->saving };
    char got[ARRAY_COUNT(all) + 1] = "";
    for (size_t i = 0; i < ARRAY_COUNT(all); i++)
        got[i] = (char)('0' + count_of(w->node, all[i]));
    CHECK_STR(got, counts);
}

static struct life_gc_report gc_node(const struct node_world *w, struct life_gc_options o)
{
    struct life_gc_report r = { 0 };
    o.abort_keep_ns = INT64_MAX;
    CHECK_OK(life_gc_tier(w->home, w->node, FX_JOB, &o, &r, NULL));
    return r;
}

/* What failed goes; what only did not end goes when it is asked for, and is given up at home
 * first; what is committed or under way stays. */
static int test_gc_own_directory(void)
{
    struct node_world w;
    struct record_commit c;
    make_node_world(&w, true);
    struct life_gc_options o = { .abort_wait_ns = HOUR_NS };
    CHECK_EQ(gc_node(&w, o).objects, 2);
    expect_packs(&w, "02222");
    o.abort_wait_ns = 0;
    CHECK_EQ(gc_node(&w, o).objects, 2);
    expect_packs(&w, "02202");
    o.undecided = o.dry_run = true;
    struct life_gc_report r = gc_node(&w, o);
    CHECK(r.aborted == 1 && r.objects == 2);
    CHECK(!fx_there(w.home, key_commit(FX_JOB, &w.cut)));
    expect_packs(&w, "02202");
    o.dry_run = false;
    r = gc_node(&w, o);
    CHECK(r.aborted == 1 && r.objects == 2 && r.collected == 0);
    expect_packs(&w, "00202");
    fx_parts(w.home, &w.cut); /* too late */
    CHECK_EQ(publish(w.home, FX_JOB, &w.cut, FX_WORLD, &c, NULL), CKPT_ABORTED);
    CHECK(!fx_there(w.home, key_commit(FX_JOB, &w.saving)));
    CHECK_EQ(gc_node(&w, o).objects, 0);
    drop_node_world(&w);
    return 10;
}

/* Another home counts its launches and steps alike. */
static int test_gc_own_directory_of_another(void)
{
    const struct record_repo another = { .uuid = { 1 } }, unknown = { .uuid = { 0 } };
    const struct record_repo *marks[] = { NULL, &another, &unknown };
    const struct life_gc_options o = { .undecided = true };
    struct node_world w;
    for (size_t i = 0; i < ARRAY_COUNT(marks); i++) {
        make_node_world(&w, marks[i]); /* none at all, or this home's and one more */
        for (uint64_t epoch = 1; marks[i] && epoch <= 2; epoch++)
            CHECK_OK(owner_mark(w.node, FX_JOB, epoch, marks[i], NULL));
        CHECK_EQ(gc_node(&w, o).aborted, 0);
        expect_packs(&w, "22222");
        CHECK(!fx_there(w.home, key_commit(FX_JOB, &w.cut)));
        /* What is gone there goes here, unless the other has some of that name, too. */
        fx_life(w.home, &w.whole, 1, LIFE_GONE, 1);
        CHECK_EQ(gc_node(&w, o).collected, marks[i] ? 0 : 1);
        drop_node_world(&w);
    }
    return 9;
}

/* The directory was a home itself, and its launches have resolved beyond those that save to it as
 * a node's: what it never heard of is not undecided there. */
static int test_gc_was_a_home(void)
{
    struct node_world w;
    make_node_world(&w, true);
    for (int i = 0; i < 3; i++)
        fx_resolve(w.node, i == 0 ? "a" : i == 1 ? "b" : "c");
    struct life_gc_report r = gc(w.node, 0, HOUR_NS, true);
    CHECK_EQ(r.aborted + r.objects, 0);
    expect_packs(&w, "22222");
    /* Nor is it in the way of what is gone at the home, of a launch that it never had. */
    const struct life_gc_options o = { .undecided = true };
    fx_life(w.home, &w.whole, 1, LIFE_GONE, 1);
    CHECK_EQ(gc_node(&w, o).collected, 0); /* it had one of that number */
    expect_packs(&w, "22222");
    drop_node_world(&w);
    return 4;
}

/* Of what is not given up at home nothing goes, wherever it stops; the next one ends it. */
static int test_gc_own_directory_dies_anywhere(void)
{
    int cases = 0;
    for (int which = 0; which < 2; which++) {
        for (uint64_t nth = 1;; nth++, cases++) {
            struct node_world w;
            struct store *inner, *faulty;
            struct wrap_fault_rule rule = { .kind = nth % 2 ? FAULT_FAIL : FAULT_LOST_REPLY,
                                            .status = CKPT_IO,
                                            .nth = nth };
            struct wrap_fault_plan plan = { .rules = &rule, .count = 1 };
            const struct life_gc_options o = { .abort_keep_ns = INT64_MAX, .undecided = true };
            struct life_gc_report r = { 0 };
            make_node_world(&w, true);
            CHECK_OK(store_dup(which ? w.node : w.home, &inner, NULL));
            CHECK_OK(wrap_fault(inner, &plan, &faulty, NULL));
            enum ckpt_status st = life_gc_tier(which ? w.home : faulty, which ? faulty : w.node,
                                               FX_JOB, &o, &r, NULL);
            store_close(faulty);
            CHECK(st == CKPT_OK || plan.hits);
            if (count_of(w.node, &w.cut) < 2)
                CHECK(fx_there(w.home, key_commit(FX_JOB, &w.cut)));
            gc_node(&w, o);
            expect_packs(&w, "00202");
            drop_node_world(&w);
            if (!plan.hits)
                break;
        }
    }
    CHECK(cases > 20);
    return cases;
}

int main(void)
{
    TEST_CASES(test_delete() + test_delete_looks_again() + test_gc_deleted() + test_gc_spares() +
               test_gc_undecided() + test_gc_cut_off() + test_gc_dies_anywhere() +
               test_forgetting_dies_anywhere() + test_gc_failed_lately() + test_forgets_tags() +
               test_gc_tier() + test_gc_two_homes() + test_gc_own_directory() +
               test_gc_own_directory_of_another() + test_gc_was_a_home() +
               test_gc_own_directory_dies_anywhere());
    return 0;
}
