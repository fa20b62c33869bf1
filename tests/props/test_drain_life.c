/* Law: whatever drains, deletions, prunes, dropped copies, collections, launches and lost homes do to
 * one another, every checkpoint that is alive can be read from the stores that say they hold it;
 * what is gone stays gone, what the tier has dropped does not come back to it; and in the end
 * everything else alive arrives.
 *
 * Random histories over a home and a tier; a drain is cut off at random steps, and other
 * things happen between any two of its puts. */
#include "props/drain_kit.h"
#include "storage/repo/adopt.h"
#include "storage/repo/launch.h"
#include "storage/repo/life_copy.h"
#include "storage/repo/roster.h"
#include "unit/later.h"

#define STEPS  40
#define NAMES  32
#define GRACE  INT64_C(0)
#define ROUNDS 60

struct ckpt {
    struct ckpt_name name;
    enum life life; /* as the test has it */
};
struct history {
    unsigned long long rand;
    struct store *home, *tier, *bare; /* bare: the tier without the tally */
    struct tally tally;
    struct kit_layout l;
    struct ckpt all[NAMES];
    size_t count;
    uint64_t epoch, step;
    bool inside; /* something happens within a drain */
};
static struct {
    uint64_t saves, drains, cuts, inside, deletes, undeletes, refused, gone, homes, launches, reads,
        prunes, pruned, adopted, drops, dropped, dropped_home, spared;
} seen;

static uint64_t dice(struct history *h, uint64_t n)
{
    return test_rand(&h->rand) % n;
}

static struct store *fresh(void)
{
    static int number;
    char url[64];
    struct record_repo repo;
    snprintf(url, sizeof(url), "mem://drain-life-%d", number++);
    struct store *s = kit_store(url);
    CHECK_OK(repo_open(s, true, &repo, NULL));
    return s;
}

/* -- what happens ----------------------------------------------------------------------- */

static void launch(struct history *h)
{
    struct roster held = { 0 };
    struct record_resolved r;
    char token[32];
    snprintf(token, sizeof(token), "t%u", (unsigned)seen.launches++);
    CHECK_OK(adopt_job(h->bare, h->home, KIT_JOB, &held, NULL));
    struct launch_who w = { .job = KIT_JOB, .token = token, .world = 2, .time_ns = 1 };
    CHECK_OK(launch_claim(h->home, &w, &h->epoch, NULL));
    struct lineage_wish wish = { .below = h->epoch };
    struct ckpt_err err = { 0 };
    enum ckpt_status st = launch_resolve_with(h->home, KIT_JOB, h->epoch, &wish,
                                              &(struct launch_reach){ .also = &held }, &r, &err);
    roster_fini(&held);
    if (st != CKPT_OK)
        fprintf(stderr, "resolve: %s\n", err_text(&err));
    CHECK_OK(st);
    for (size_t i = 0; i < h->count; i++) /* D2: what a launch resumes from is alive */
        if (r.kind == RESOLVED_POINT && name_equal(&r.name, &h->all[i].name)) {
            CHECK(h->all[i].life != LIFE_GONE);
            h->all[i].life = LIFE_LIVE;
        }
    const struct record_step progress = { .epoch = h->epoch, .step = UINT64_MAX - 1 };
    CHECK_OK(launch_put_step(h->home, KIT_JOB, RECORD_PROGRESS, &progress, NULL));
    record_resolved_fini(&r);
}

static void save(struct history *h)
{
    if (h->count == NAMES)
        return;
    struct ckpt *c = &h->all[h->count++];
    struct record_commit commit;
    h->step++;
    *c = (struct ckpt){ .name = { h->epoch, h->step, h->step * 3 } };
    struct kit_save how = { .name = c->name, .codec = { CODEC_STORED, 0 } };
    kit_salt = h->step;
    kit_save_parts(h->home, &h->l, &how);
    CHECK_OK(publish(h->home, KIT_JOB, &c->name, 2, &commit, NULL));
    seen.saves++;
}

static void delete_one(struct history *h)
{
    struct ckpt *c = &h->all[dice(h, h->count)];
    enum ckpt_status st = life_delete(h->home, KIT_JOB, &c->name, "", NULL);
    CHECK(st == CKPT_OK || st == CKPT_REFUSED || (st == CKPT_NOT_FOUND && c->life == LIFE_GONE));
    if (st == CKPT_OK)
        c->life = LIFE_DELETED;
    seen.deletes += st == CKPT_OK;
    seen.refused += st != CKPT_OK;
}

static void undelete_one(struct history *h)
{
    struct ckpt *c = &h->all[dice(h, h->count)];
    enum ckpt_status st = life_undelete(h->home, KIT_JOB, &c->name, "", NULL);
    CHECK_EQ(st, c->life == LIFE_GONE ? CKPT_NOT_FOUND : CKPT_OK);
    seen.undeletes += c->life == LIFE_DELETED;
    if (st == CKPT_OK)
        c->life = LIFE_LIVE;
}

static bool held_by(struct store *s, const struct ckpt_name *name);

/* Of what a rule keeps nothing goes that any store holds. */
static void check_kept(struct history *h, const struct prune_plan *plan, bool all)
{
    for (size_t i = 0, counted = 0; i < plan->count; i++) {
        const struct prune_item *item = &plan->items[i];
        bool here = held_by(h->home, &item->name), there = held_by(h->bare, &item->name);
        if (!item->on_lineage || !(here || there))
            continue;
        CHECK(item->keep || !(all || counted == 0));
        counted++;
        seen.adopted += !here;
    }
}

/* What is not complete is no longer new (PRUNE_ARRIVAL_NS). */
static void decide_later(struct history *h, const struct prune_options *o, struct prune_plan *ret)
{
    struct store *dup;
    CHECK_OK(store_dup(h->home, &dup, NULL));
    struct store *later = store_later(dup, 2 * PRUNE_ARRIVAL_NS);
    CHECK_OK(prune_decide(later, KIT_JOB, o, ret, NULL));
    store_close(later);
}

static void prune_some(struct history *h, bool all)
{
    struct keep_policy policy = { 0 };
    struct prune_options o = { .policy = &policy, .tiers = &h->bare, .tier_count = 1 };
    struct prune_plan plan = { 0 };
    struct prune_report report;
    CHECK_OK(keep_policy_add(&policy, all ? "every" : "last", "1", NULL));
    decide_later(h, &o, &plan);
    check_kept(h, &plan, all);
    CHECK_OK(prune_apply(h->home, KIT_JOB, &o, &plan, &report, NULL));
    for (size_t i = 0; i < plan.count; i++)
        for (size_t k = 0; k < h->count && plan.items[i].done == PRUNE_DELETED; k++)
            if (name_equal(&h->all[k].name, &plan.items[i].name))
                h->all[k].life = LIFE_DELETED;
    seen.prunes++;
    seen.pruned += report.deleted;
    prune_plan_fini(&plan);
}

static bool has_packs(struct store *s, const struct ckpt_name *name);

/* Of one's own copies go whole ones alone, which the other holds, and the newest two stay. */
static void drop_some(struct history *h, bool home)
{
    struct store *here = home ? h->home : h->bare, *there = home ? h->bare : h->home;
    CLEANUP_ROSTER struct roster before = { 0 };
    struct keep_policy policy = { 0 };
    const struct copy_place place = {
        .job = KIT_JOB, .home = h->home, .here = here, .tiers = &h->bare, .tier_count = 1
    };
    struct prune_plan plan;
    struct copy_report report;
    size_t left = 0;
    CHECK_OK(keep_policy_add(&policy, dice(h, 2) ? "every" : "last", dice(h, 2) ? "1" : "3", NULL));
    CHECK_OK(adopt_held(here, KIT_JOB, &before, NULL));
    CHECK_OK(copy_prune(&place, &policy, &plan, &report, NULL));
    for (size_t i = 0; i < plan.count; i++) {
        const struct prune_item *item = &plan.items[i];
        bool gone = item->done == PRUNE_DELETED;
        CHECK(!gone || (roster_find(&before, &item->name) && held_by(there, &item->name) &&
                        !held_by(here, &item->name) && !has_packs(here, &item->name)));
        left += item->on_lineage && !gone && roster_find(&before, &item->name);
        CHECK(!gone || left >= COPY_LEAST);
    }
    prune_plan_fini(&plan);
    seen.drops++;
    *(home ? &seen.dropped_home : &seen.dropped) += report.dropped;
    seen.spared += report.spared;
}

static bool is_dropped(struct store *s, const struct ckpt_name *name)
{
    enum life life;
    uint64_t n;
    CHECK_OK(life_look(s, KIT_JOB, name, true, &life, &n, NULL, NULL));
    return life == LIFE_GONE;
}

static enum ckpt_status is_pack(void *arg, const struct store_entry *e)
{
    struct key_data_parts parts = { 0 };
    if (key_parse_data(strrchr(e->key, '/') + 1, &parts) == KEY_PACK)
        *(bool *)arg = true;
    return CKPT_OK;
}

static bool has_packs(struct store *s, const struct ckpt_name *name)
{
    bool any = false;
    for (unsigned i = 0; i < 16; i++)
        CHECK_OK(repo_list(s, key_data(KIT_JOB, i, name).text, false, is_pack, &any, NULL));
    return any;
}

static void collect(struct history *h)
{
    const struct life_gc_options o = { .grace_ns = GRACE,
                                       .abort_keep_ns = INT64_MAX,
                                       .undecided = dice(h, 2) };
    struct life_gc_report report;
    CHECK_OK(life_gc(h->home, KIT_JOB, &o, &report, NULL));
    CHECK_OK(life_gc_tier(h->home, h->bare, KIT_JOB, &o, &report, NULL));
    for (size_t i = 0; i < h->count; i++) {
        enum life now;
        uint64_t n;
        CHECK_OK(life_look(h->home, KIT_JOB, &h->all[i].name, false, &now, &n, NULL, NULL));
        CHECK(now == h->all[i].life || (now == LIFE_GONE && h->all[i].life == LIFE_DELETED) ||
              (now == LIFE_LIVE && h->all[i].life == LIFE_DELETED));
        seen.gone += now == LIFE_GONE && h->all[i].life != LIFE_GONE;
        h->all[i].life = now;
    }
}

static void meddle(void *arg, const char *key)
{
    struct history *h = arg;
    (void)key;
    if (h->inside || dice(h, 12) > 0)
        return;
    h->inside = true;
    seen.inside++;
    switch (dice(h, 6)) {
    case 0:
        save(h);
        break;
    case 1:
        collect(h);
        break;
    case 2:
        undelete_one(h);
        break;
    case 3:
        prune_some(h, dice(h, 2));
        break;
    case 4:
        drop_some(h, dice(h, 2));
        break;
    default:
        delete_one(h);
        if (dice(h, 2))
            collect(h);
        break;
    }
    h->inside = false;
}

static enum ckpt_status drain(struct history *h, const struct ckpt_name *name, int64_t steps)
{
    struct drain_kit k;
    drain_kit_init(&k, h->home, h->tier, name);
    k.steps = steps;
    k.d.codec.codec = dice(h, 2) ? CODEC_ZSTD : CODEC_STORED;
    struct ckpt_err err = { 0 };
    enum ckpt_status st = drain_kit_drive(&k, &err);
    if (st == CKPT_BUSY) /* a part was collected meanwhile: the next look learns of it */
        st = drain_finish(&k.d, &k.wait, &err);
    drain_kit_fini(&k);
    seen.drains += st == CKPT_OK;
    seen.cuts += st == CKPT_CANCELLED;
    if (st != CKPT_OK && st != CKPT_EXISTS && st != CKPT_ABORTED && st != CKPT_CANCELLED &&
        st != CKPT_IO)
        fprintf(stderr, "drain: %s: %s\n", status_name(st), err_text(&err));
    CHECK(st == CKPT_OK || st == CKPT_EXISTS || st == CKPT_ABORTED || st == CKPT_CANCELLED ||
          st == CKPT_IO); /* its packs were collected while they were read */
    return st;
}

static bool held_by(struct store *s, const struct ckpt_name *name)
{
    struct roster held = { 0 };
    CHECK_OK(adopt_held(s, KIT_JOB, &held, NULL));
    bool is = roster_find(&held, name) != NULL;
    roster_fini(&held);
    return is;
}

/* The home's disk is lost: a new one learns from the tier what there is; what was not held
 * there is lost with it. */
static void lose_home(struct history *h)
{
    struct roster held = { 0 };
    size_t kept = 0;
    for (size_t i = 0; i < h->count; i++) /* else nothing would be left to go on from */
        kept += h->all[i].life == LIFE_LIVE && held_by(h->bare, &h->all[i].name);
    if (kept == 0)
        return;
    store_close(h->home);
    h->home = fresh();
    CHECK_OK(adopt_job(h->bare, h->home, KIT_JOB, &held, NULL));
    kept = 0;
    for (size_t i = 0; i < h->count; i++) {
        struct ckpt *c = &h->all[i];
        bool is = roster_find(&held, &c->name) != NULL;
        CHECK(!is || c->life != LIFE_GONE); /* what is gone does not come back */
        if (!is)
            continue;
        struct ckpt moved = *c;
        moved.life = LIFE_LIVE; /* that it was deleted was known to the old home alone */
        h->all[kept++] = moved;
    }
    h->count = kept;
    roster_fini(&held);
    seen.homes++;
    launch(h);
}

/* -- the law ---------------------------------------------------------------------------- */

static void read_from(struct store *s, const struct ckpt_name *name, const struct history *h)
{
    struct load_stats stats = { 0 };
    struct ckpt_err err = { 0 };
    kit_salt = name->step;
    enum ckpt_status st = kit_restore(&s, 1, name, &h->l, &stats, &err);
    if (st != CKPT_OK)
        fprintf(stderr, "step %d from %s: %s\n", (int)name->step, s->url, err_text(&err));
    CHECK_OK(st);
    seen.reads++;
}

static void check_law(struct history *h)
{
    for (size_t i = 0; i < h->count; i++) {
        const struct ckpt *c = &h->all[i];
        bool here = held_by(h->home, &c->name), there = held_by(h->bare, &c->name);
        if (c->life == LIFE_GONE)
            CHECK(!here && !there);
        if (c->life == LIFE_LIVE)
            CHECK(here || there);
        if (here)
            read_from(h->home, &c->name, h);
        if (there)
            read_from(h->bare, &c->name, h);
    }
}

static void check_end(struct history *h)
{
    struct roster data = { 0 };
    h->tally.before_put = NULL;
    for (size_t i = 0; i < h->count; i++)
        if (h->all[i].life == LIFE_LIVE && held_by(h->home, &h->all[i].name)) {
            enum ckpt_status st = drain(h, &h->all[i].name, INT64_MAX);
            CHECK(is_dropped(h->bare, &h->all[i].name) ? st == CKPT_ABORTED
                                                       : st == CKPT_OK || st == CKPT_EXISTS);
            if (st == CKPT_ABORTED)
                continue;
            CHECK_OK(drain_kit_verify(h->bare, KIT_JOB, &h->all[i].name));
        }
    drop_some(h, false);
    drop_some(h, true);
    collect(h);
    check_law(h);
    CHECK_OK(roster_data(h->bare, KIT_JOB, &data, NULL));
    for (size_t i = 0; i < h->count; i++) { /* nothing of what is gone is left */
        bool live = h->all[i].life == LIFE_LIVE, gone = h->all[i].life == LIFE_GONE;
        bool dropped = live && is_dropped(h->home, &h->all[i].name);
        CHECK(!gone || !has_packs(h->home, &h->all[i].name));
        CHECK(!dropped || !has_packs(h->home, &h->all[i].name));
        gone |= live && is_dropped(h->bare, &h->all[i].name);
        CHECK(!gone || !roster_find(&data, &h->all[i].name));
    }
    roster_fini(&data);
}

static void begin(struct history *h, unsigned long long seed)
{
    static struct kit_model m;
    struct store *dup;
    *h = (struct history){ .rand = seed, .home = fresh(), .bare = fresh() };
    CHECK_OK(store_dup(h->bare, &dup, NULL));
    h->tier = tally_over(dup, &h->tally);
    h->tally.arg = h;
    m = (struct kit_model){ 0 };
    kit_model_add(&m, "a", CKPT_DTYPE_F32, 2, (const uint64_t[]){ 40, 16 });
    kit_model_add(&m, "z", CKPT_DTYPE_F32, 1, (const uint64_t[]){ 5000 });
    kit_layout_rows(&h->l, &m, 2);
    launch(h);
    save(h);
}

static void end(struct history *h)
{
    kit_layout_fini(&h->l);
    tally_fini(&h->tally);
    store_close(h->home);
    store_close(h->tier);
    store_close(h->bare);
}

/* So many of them a rule would delete that is told of so many tiers. */
static size_t would_go(struct history *h, const char *word, const char *value, size_t tiers)
{
    struct keep_policy policy = { 0 };
    struct prune_options o = { .policy = &policy, .tiers = &h->bare, .tier_count = tiers };
    struct prune_plan plan = { 0 };
    size_t n = 0;
    CHECK_OK(keep_policy_add(&policy, word, value, NULL));
    decide_later(h, &o, &plan);
    for (size_t i = 0; i < plan.count; i++)
        n += !plan.items[i].keep;
    prune_plan_fini(&plan);
    return n;
}

/* Ten checkpoints in the tier, the home's disk is replaced, the job goes on: the rules keep of
 * the ten what they kept before. */
static void prune_after_loss(void)
{
    struct history h;
    begin(&h, 1);
    while (h.count < 10)
        save(&h);
    for (size_t i = 0; i < h.count; i++)
        CHECK_OK(drain(&h, &h.all[i].name, INT64_MAX));
    CHECK_EQ(would_go(&h, "last", "3", 1), 7);
    lose_home(&h);
    CHECK_EQ(h.count, 10);
    save(&h);
    save(&h);
    CHECK_EQ(would_go(&h, "every", "1", 1), 0);
    CHECK_EQ(would_go(&h, "every", "2", 1), 6); /* 1, 3, 5, 7, 9, 11 */
    CHECK_EQ(would_go(&h, "last", "4", 1), 8);
    CHECK_EQ(would_go(&h, "last", "1", 1), 10); /* 12 here, 10 in the tier */
    CHECK_EQ(would_go(&h, "last", "1", 0), 1);  /* whose tier nobody names, stays */
    end(&h);
}

/* A drain has begun under an older launch; gc in the tier, as anybody may run it, leaves it. */
static void collect_under_way(void)
{
    const struct life_gc_options o = { .abort_keep_ns = INT64_MAX };
    struct history h;
    struct life_gc_report report;
    begin(&h, 2);
    save(&h);
    CHECK_EQ(drain(&h, &h.all[1].name, 5), CKPT_CANCELLED);
    launch(&h);
    save(&h);
    CHECK_OK(drain(&h, &h.all[2].name, INT64_MAX)); /* l/ goes with it */
    CHECK_OK(life_gc(h.bare, KIT_JOB, &o, &report, NULL));
    CHECK_EQ(report.aborted + report.collected + report.objects, 0);
    CHECK_OK(drain(&h, &h.all[1].name, INT64_MAX));
    CHECK_OK(drain_kit_verify(h.bare, KIT_JOB, &h.all[1].name));
    end(&h);
}

static void one(unsigned long long seed)
{
    struct history h;
    begin(&h, seed);
    h.tally.before_put = meddle;
    for (int i = 0; i < STEPS; i++) {
        uint64_t r = dice(&h, 100);
        if (r < 25)
            save(&h);
        else if (r < 60)
            drain(&h, &h.all[dice(&h, h.count)].name,
                  dice(&h, 2) ? INT64_MAX : (int64_t)dice(&h, 9));
        else if (r < 72)
            delete_one(&h);
        else if (r < 78)
            undelete_one(&h);
        else if (r < 88)
            collect(&h);
        else if (r < 91)
            prune_some(&h, dice(&h, 4));
        else if (r < 94)
            drop_some(&h, dice(&h, 2));
        else if (r < 97)
            launch(&h);
        else
            lose_home(&h);
        if (i % 8 == 7)
            check_law(&h);
    }
    check_end(&h);
    end(&h);
}

static bool saw_all(void)
{
    return seen.saves && seen.drains && seen.cuts && seen.inside && seen.deletes &&
           seen.undeletes && seen.gone && seen.homes && seen.refused && seen.pruned &&
           seen.adopted && seen.dropped && seen.dropped_home;
}

int main(void)
{
    unsigned long long seed = test_seed(20261122);
    int rounds = getenv("CKPT_DEEP") ? 20 * ROUNDS : ROUNDS / (TEST_TENTH > 1 ? 5 : 1);
    prune_after_loss();
    collect_under_way();
    for (int i = 0; i < rounds || (i < 20 * ROUNDS && !saw_all()); i++) {
        unsigned long long s = seed + (unsigned long long)i * 1000003;
        printf("history %llu\n", s);
        fflush(stdout);
        one(s);
    }
    printf(
        "%d saves, %d drains, %d cut off, %d things within them, %d deleted, %d refused, "
        "%d brought back, %d gone, %d homes lost, %d launches, %d prunes of %d, %d looks at what "
        "the tier alone has, %d times %d copies dropped and %d of the home, %d spared\n",
        (int)seen.saves, (int)seen.drains, (int)seen.cuts, (int)seen.inside, (int)seen.deletes,
        (int)seen.refused, (int)seen.undeletes, (int)seen.gone, (int)seen.homes, (int)seen.launches,
        (int)seen.prunes, (int)seen.pruned, (int)seen.adopted, (int)seen.drops, (int)seen.dropped,
        (int)seen.dropped_home, (int)seen.spared);
    CHECK(saw_all());
    TEST_CASES(seen.reads);
    return 0;
}
