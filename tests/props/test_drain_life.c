/* Law: whatever drains, deletions, collections, launches and lost homes do to one another,
 * every checkpoint that is alive can be read from the stores that say they hold it; what is
 * gone stays gone; and in the end everything alive arrives.
 *
 * Random histories over a home and a tier; a drain is cut off at random steps, and other
 * things happen between any two of its puts. */
#include "props/drain_kit.h"
#include "storage/repo/adopt.h"
#include "storage/repo/launch.h"
#include "storage/repo/life.h"
#include "storage/repo/roster.h"

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
    uint64_t saves, drains, cuts, inside, deletes, undeletes, refused, gone, homes, launches, reads;
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
    switch (dice(h, 4)) {
    case 0:
        save(h);
        break;
    case 1:
        collect(h);
        break;
    case 2:
        undelete_one(h);
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
            CHECK(st == CKPT_OK || st == CKPT_EXISTS);
            CHECK_OK(drain_kit_verify(h->bare, KIT_JOB, &h->all[i].name));
        }
    collect(h);
    check_law(h);
    CHECK_OK(roster_data(h->bare, KIT_JOB, &data, NULL));
    for (size_t i = 0; i < h->count; i++) /* nothing of what is gone is left */
        CHECK(h->all[i].life != LIFE_GONE || !roster_find(&data, &h->all[i].name));
    roster_fini(&data);
}

static void one(unsigned long long seed)
{
    struct kit_model m = { 0 };
    struct history h = { .rand = seed, .home = fresh(), .bare = fresh() };
    struct store *dup;
    CHECK_OK(store_dup(h.bare, &dup, NULL));
    h.tier = tally_over(dup, &h.tally);
    h.tally.before_put = meddle;
    h.tally.arg = &h;
    kit_model_add(&m, "a", CKPT_DTYPE_F32, 2, (const uint64_t[]){ 40, 16 });
    kit_model_add(&m, "z", CKPT_DTYPE_F32, 1, (const uint64_t[]){ 5000 });
    kit_layout_rows(&h.l, &m, 2);
    launch(&h);
    save(&h);
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
        else if (r < 95)
            launch(&h);
        else
            lose_home(&h);
        if (i % 8 == 7)
            check_law(&h);
    }
    check_end(&h);
    kit_layout_fini(&h.l);
    tally_fini(&h.tally);
    store_close(h.home);
    store_close(h.tier);
    store_close(h.bare);
}

int main(void)
{
    unsigned long long seed = test_seed(20261122);
    int rounds = getenv("CKPT_DEEP") ? 20 * ROUNDS : ROUNDS / (TEST_TENTH > 1 ? 5 : 1);
    for (int i = 0; i < rounds; i++) {
        unsigned long long s = seed + (unsigned long long)i * 1000003;
        printf("history %llu\n", s);
        fflush(stdout);
        one(s);
    }
    printf("%d saves, %d drains, %d cut off, %d things within them, %d deleted, %d refused, "
           "%d brought back, %d gone, %d homes lost, %d launches\n",
           (int)seen.saves, (int)seen.drains, (int)seen.cuts, (int)seen.inside, (int)seen.deletes,
           (int)seen.refused, (int)seen.undeletes, (int)seen.gone, (int)seen.homes,
           (int)seen.launches);
    CHECK(seen.saves && seen.drains && seen.cuts && seen.inside && seen.deletes && seen.undeletes &&
          seen.gone && seen.homes && seen.refused);
    TEST_CASES(seen.reads);
    return 0;
}
