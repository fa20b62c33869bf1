/* Prune beside everything else: two launchers that take over from each other and save, a drain
 * that is cut off now and then, restorers, scrubbers, taggers, undeleters, prunes and gcs without
 * grace, each a thread with its own handles, on one job.
 *
 * What a launch resumed from restores, byte for byte, as long as that launch is the
 * newest; so does what it saved last, and what has a tag; and what was drained does so from the
 * other store alone.  Anything that a reader cannot read was deleted meanwhile.  At the end
 * nothing is left over, in either store. */
#include <inttypes.h>
#include <pthread.h>
#include <sys/stat.h>

#include "formats/dtype.h"
#include "props/drain_kit.h"
#include "props/engine_kit.h"
#include "storage/repo/catalog.h"
#include "storage/repo/launch.h"
#include "storage/repo/life.h"
#include "storage/repo/prune.h"
#include "storage/repo/scrub.h"
#include "storage/repo/tags.h"
#include "store/scratch.h"

#define WORLD  2
#define LONGER 100 /* times as many launches at most */

struct stress {
    struct store *s, *far; /* the home, and where it is drained to */
    struct kit_layout layout;
    unsigned launches; /* of each launcher */
    atomic_uint launching;
    atomic_ullong seed;
    _Atomic uint64_t resumed, too_late, saved, aborted, superseded, points_read, newest_read;
    _Atomic uint64_t pruned, spared, lost, collected, given_up, restored, scrubbed, vanished,
        tagged, undeleted, drained, cut_off, read_far;
};
static _Thread_local struct store *far; /* this thread's handle */

static void broken(const char *what, const struct ckpt_name *name, const struct ckpt_err *err)
{
    fprintf(stderr, "%s: step %" PRIu64 " of epoch %" PRIu64 ": %s\n", what, name->step,
            name->epoch, err_text(err));
    exit(1);
}

static bool is_there(struct store *s, struct key key)
{
    struct store_stat stat;
    enum ckpt_status st = store_stat(s, key.text, &stat, NULL);
    CHECK(st == CKPT_OK || st == CKPT_NOT_FOUND);
    return st == CKPT_OK;
}

static enum ckpt_status restore(const struct stress *t, struct store *s,
                                const struct ckpt_name *name, struct ckpt_err *err)
{
    struct load_stats stats = { 0 };
    return kit_restore(&s, 1, name, &t->layout, &stats, err);
}

static bool current(struct store *s, uint64_t epoch)
{
    enum ckpt_status st = launch_current(s, KIT_JOB, epoch, NULL);
    CHECK(st == CKPT_OK || st == CKPT_SUPERSEDED);
    return st == CKPT_OK;
}

static enum life life_of(struct store *s, const struct ckpt_name *name)
{
    enum life life;
    uint64_t n;
    enum ckpt_status st = CKPT_BUSY;
    while (st == CKPT_BUSY)
        st = life_look(s, KIT_JOB, name, false, &life, &n, NULL, NULL);
    CHECK_OK(st);
    return life;
}

/* ---- launchers ---- */

/* While the launch is the newest this can be read. */
static void must_read(struct stress *t, struct store *s, uint64_t epoch,
                      const struct ckpt_name *name, const char *what, _Atomic uint64_t *count)
{
    struct ckpt_err err = { 0 };
    enum ckpt_status st = restore(t, s, name, &err);
    if (!current(s, epoch))
        return;
    if (st != CKPT_OK)
        broken(what, name, &err);
    atomic_fetch_add(count, 1);
}

static bool save_one(struct stress *t, struct store *s, uint64_t epoch, uint64_t step,
                     const struct record_resolved *from)
{
    struct kit_save how = { .has_parent = from->kind == RESOLVED_POINT, .parent = from->name };
    struct record_commit c;
    how.name = (struct ckpt_name){ epoch, step, attempt_of(KIT_JOB, epoch, WORLD, step, 0) };
    if (!current(s, epoch)) {
        atomic_fetch_add(&t->superseded, 1);
        return false;
    }
    kit_save_parts(s, &t->layout, &how);
    enum ckpt_status st = publish(s, KIT_JOB, &how.name, WORLD, &c, NULL);
    if (st != CKPT_OK) { /* a later launch has given it up */
        CHECK(!current(s, epoch));
        atomic_fetch_add(&t->aborted, 1);
        return false;
    }
    atomic_fetch_add(&t->saved, 1);
    must_read(t, s, epoch, &how.name, "what was saved last cannot be read", &t->newest_read);
    return true;
}

static void launch(struct stress *t, struct store *s, unsigned long long *rng)
{
    char token[32];
    struct launch_who who = { .job = KIT_JOB, .token = token, .world = WORLD };
    struct lineage_wish wish = { 0 };
    struct record_resolved r = { 0 };
    uint64_t epoch;
    struct ckpt_err err = { 0 };
    snprintf(token, sizeof(token), "%llx", test_rand(rng));
    CHECK_OK(launch_claim(s, &who, &epoch, NULL));
    enum ckpt_status st = launch_resolve(s, KIT_JOB, epoch, &wish, &r, &err);
    if (st != CKPT_OK) { /* the other took over, or gc was quicker: the next one comes */
        CHECK(st == CKPT_SUPERSEDED || st == CKPT_REFUSED);
        if (st == CKPT_REFUSED && !strstr(err.text, "for good") && current(s, epoch))
            broken("the newest launch has nothing to resume from", &r.name, &err);
        atomic_fetch_add(&t->too_late, 1);
        return;
    }
    atomic_fetch_add(&t->resumed, 1);
    if (r.kind == RESOLVED_POINT)
        must_read(t, s, epoch, &r.name, "what was resumed from cannot be read", &t->points_read);
    uint64_t step = r.kind == RESOLVED_POINT ? r.name.step : 0;
    for (uint64_t n = test_rand(rng) % 5; n; n--)
        if (!save_one(t, s, epoch, step += 10, &r))
            break;
    record_resolved_fini(&r);
}

/* ---- the others, until the launchers are done ---- */

static bool random_commit(struct store *s, unsigned flags, enum catalog_state state,
                          unsigned long long *rng, struct ckpt_name *ret)
{
    struct catalog c;
    size_t fits = 0;
    CHECK_OK(catalog_read(s, KIT_JOB, flags, &c, NULL));
    for (size_t i = 0; i < c.count; i++)
        if (c.entries[i].state == state && test_rand(rng) % ++fits == 0)
            *ret = c.entries[i].name;
    catalog_fini(&c);
    return fits > 0;
}

/* What cannot be read is not live any more. */
static void may_vanish(struct stress *t, struct store *s, const struct ckpt_name *name,
                       enum ckpt_status st, const struct ckpt_err *err, _Atomic uint64_t *count)
{
    if (st == CKPT_OK)
        atomic_fetch_add(count, 1);
    else if (life_of(s, name) == LIFE_LIVE && is_there(s, key_commit(KIT_JOB, name)))
        broken("a live checkpoint cannot be read", name, err);
    else
        atomic_fetch_add(&t->vanished, 1);
}

static void run_restore(struct stress *t, struct store *s, unsigned long long *rng)
{
    struct ckpt_name name;
    struct ckpt_err err = { 0 };
    if (random_commit(s, 0, CATALOG_LIVE, rng, &name))
        may_vanish(t, s, &name, restore(t, s, &name, &err), &err, &t->restored);
}

static void no_finding(void *arg, const struct scrub_finding *f)
{
    (void)arg, (void)f;
}

static void run_scrub(struct stress *t, struct store *s, unsigned long long *rng)
{
    struct ckpt_name name;
    struct scrub_callbacks cb = { .finding = no_finding };
    struct scrub_report r;
    struct ckpt_err err = { 0 };
    if (random_commit(s, CATALOG_ALL, CATALOG_LIVE, rng, &name))
        may_vanish(t, s, &name, scrub_verify(s, KIT_JOB, &name, KIT_SLOT, &cb, &r, &err), &err,
                   &t->scrubbed);
}

static void drain_one(struct stress *t, struct store *s, struct drain_kit *k)
{
    struct ckpt_err err = { 0 };
    enum ckpt_status st = drain_kit_drive(k, &err);
    if (st == CKPT_CANCELLED) {
        atomic_fetch_add(&t->cut_off, 1);
        return;
    }
    if (st == CKPT_ABORTED || st == CKPT_BUSY || st == CKPT_NOT_PLANNED)
        return;
    if (st != CKPT_OK && st != CKPT_EXISTS) { /* its packs went while they were read */
        may_vanish(t, s, &k->d.name, st, &err, &t->drained);
        return;
    }
    atomic_fetch_add(&t->drained, st == CKPT_OK);
    may_vanish(t, s, &k->d.name, restore(t, far, &k->d.name, &err), &err, &t->read_far);
}

/* With no policy everything goes, the newest first; with none what was begun before. */
static void run_drain(struct stress *t, struct store *s, unsigned long long *rng)
{
    const struct policy none = { .some = true };
    struct ckpt_name found[4];
    size_t count;
    bool more;
    struct drain_kit k;
    drain_kit_init(&k, s, far, &(struct ckpt_name){ 0 });
    k.d.policy = test_rand(rng) % 3 ? NULL : &none;
    enum ckpt_status st = drain_scan(&k.d, found, ARRAY_COUNT(found), &count, &more, NULL);
    CHECK(st == CKPT_OK || st == CKPT_BUSY);
    for (size_t i = 0; st == CKPT_OK && i < count; i++) {
        k.d.name = found[i];
        k.wait = (struct drain_wait){ 0 };
        k.steps = test_rand(rng) % 4 ? INT64_MAX : (int64_t)(1 + test_rand(rng) % 6);
        drain_one(t, s, &k);
    }
    drain_kit_fini(&k);
}

static void run_prune(struct stress *t, struct store *s, unsigned long long *rng)
{
    static const char *const policies[] = { "last=1", "last=3,every=50", "within=1s", "last=2" };
    struct keep_policy policy = { 0 };
    struct prune_options o = {
        .policy = &policy, .tiers = &far, .tier_count = 1, .threads = test_rand(rng) % 3
    };
    struct prune_report r;
    CHECK_OK(keep_policy_parse(policies[test_rand(rng) % ARRAY_COUNT(policies)], &policy, NULL));
    CHECK_OK(prune(s, KIT_JOB, &o, &r, NULL));
    atomic_fetch_add(&t->pruned, r.deleted);
    atomic_fetch_add(&t->spared, r.spared);
    atomic_fetch_add(&t->lost, r.lost);
}

static void run_gc(struct stress *t, struct store *s, unsigned long long *rng)
{
    struct life_gc_options o = { .abort_keep_ns = INT64_MAX, .undecided = true };
    struct life_gc_report r;
    (void)rng;
    CHECK_OK(life_gc(s, KIT_JOB, &o, &r, NULL));
    CHECK_OK(life_gc_tier(s, far, KIT_JOB, &o, &r, NULL));
    atomic_fetch_add(&t->collected, r.collected);
    atomic_fetch_add(&t->given_up, r.aborted);
}

static void run_tag(struct stress *t, struct store *s, unsigned long long *rng)
{
    struct ckpt_name name;
    struct ckpt_err err = { 0 };
    char tag[32];
    snprintf(tag, sizeof(tag), "t%llx", test_rand(rng));
    if (!random_commit(s, CATALOG_ALL, CATALOG_LIVE, rng, &name))
        return;
    enum ckpt_status st = tags_set(s, KIT_JOB, &name, tag, NULL);
    CHECK(st == CKPT_OK || st == CKPT_REFUSED || st == CKPT_NOT_FOUND || st == CKPT_BUSY);
    if (st != CKPT_OK)
        return;
    st = restore(t, s, &name, &err);
    if (st != CKPT_OK)
        broken("what has a tag cannot be read", &name, &err);
    atomic_fetch_add(&t->tagged, 1);
    CHECK_OK(tags_unset(s, KIT_JOB, &name, tag, NULL));
}

static void run_undelete(struct stress *t, struct store *s, unsigned long long *rng)
{
    struct ckpt_name name;
    if (!random_commit(s, CATALOG_ALL, CATALOG_DELETED, rng, &name))
        return;
    enum ckpt_status st = life_undelete(s, KIT_JOB, &name, "test", NULL);
    CHECK(st == CKPT_OK || st == CKPT_NOT_FOUND || st == CKPT_BUSY);
    atomic_fetch_add(&t->undeleted, st == CKPT_OK);
}

/* ---- threads ---- */

/* Each of these came to pass. */
static bool exercised(struct stress *t)
{
    return t->resumed && t->saved && t->points_read && t->newest_read && t->pruned &&
           t->collected && t->restored && t->scrubbed && t->tagged && t->drained && t->cut_off &&
           t->read_far;
}

struct actor {
    struct stress *t;
    void (*run)(struct stress *t, struct store *s, unsigned long long *rng);
    pthread_t thread;
};

static void *act(void *arg)
{
    struct actor *a = arg;
    struct stress *t = a->t;
    unsigned long long rng = atomic_fetch_add(&t->seed, 7919);
    struct store *s;
    CHECK_OK(store_dup(t->s, &s, NULL));
    CHECK_OK(store_dup(t->far, &far, NULL));
    if (a->run == launch) {
        /* More than asked for where others had no turn yet. */
        for (unsigned i = 0; i < t->launches || (i < LONGER * t->launches && !exercised(t)); i++)
            launch(t, s, &rng);
        atomic_fetch_sub(&t->launching, 1);
    } else {
        while (atomic_load(&t->launching))
            a->run(t, s, &rng);
    }
    store_close(s);
    store_close(far);
    return NULL;
}

static enum ckpt_status left_over(void *arg, const struct store_entry *e)
{
    struct stress *t = arg;
    struct ckpt_name name;
    const char *at = strstr(e->key, "/d/");
    CHECK(at && name_parse(at + 5, NAME_TEXT - 1, &name));
    if (life_of(t->s, &name) != LIFE_LIVE || !is_there(t->s, key_commit(KIT_JOB, &name)))
        broken("left over", &name, &(struct ckpt_err){ 0 });
    return CKPT_OK;
}

/* The job moves on once, so that the last launches' unfinished saves are old. */
static void check_end(struct stress *t)
{
    unsigned long long rng = 1;
    struct catalog c;
    far = t->far;
    launch(t, t->s, &rng);
    run_gc(t, t->s, &rng);
    run_gc(t, t->s, &rng);
    CHECK_OK(catalog_read(t->s, KIT_JOB, CATALOG_ALL, &c, NULL));
    for (size_t i = 0; i < c.count; i++) {
        struct ckpt_err err = { 0 };
        if (c.entries[i].state == CATALOG_LIVE &&
            restore(t, t->s, &c.entries[i].name, &err) != CKPT_OK)
            broken("a live checkpoint cannot be read", &c.entries[i].name, &err);
    }
    catalog_fini(&c);
    CHECK_OK(repo_list(t->s, KIT_JOB "/d/", false, left_over, t, NULL));
    CHECK_OK(repo_list(far, KIT_JOB "/d/", false, left_over, t, NULL));
}

static uint64_t stress(const char *url, const char *to, unsigned launches, unsigned long long seed)
{
    static const uint64_t shape[] = { 64, 16 };
    struct kit_model m = { .count = 0 };
    struct record_repo repo;
    struct stress t = { .s = kit_store(url),
                        .far = kit_store(to),
                        .launches = launches,
                        .launching = 2,
                        .seed = seed };
    void (*const runs[])(struct stress *, struct store *, unsigned long long *) = {
        launch,      launch,    run_prune, run_prune,    run_gc,    run_gc,
        run_restore, run_scrub, run_tag,   run_undelete, run_drain,
    };
    struct actor actors[ARRAY_COUNT(runs)];
    CHECK_OK(repo_open(t.s, true, &repo, NULL));
    kit_model_add(&m, "weight", CKPT_DTYPE_F32, 2, shape);
    kit_layout_rows(&t.layout, &m, WORLD);
    for (size_t i = 0; i < ARRAY_COUNT(actors); i++) {
        actors[i] = (struct actor){ .t = &t, .run = runs[i] };
        CHECK(pthread_create(&actors[i].thread, NULL, act, &actors[i]) == 0);
    }
    for (size_t i = 0; i < ARRAY_COUNT(actors); i++)
        pthread_join(actors[i].thread, NULL);
    check_end(&t);
    printf("%s: %" PRIu64 " resumed, %" PRIu64 " too late, %" PRIu64 " saved, %" PRIu64
           " superseded, %" PRIu64 " aborted; read %" PRIu64 " points, %" PRIu64
           " newest, restored %" PRIu64 ", scrubbed %" PRIu64 ", vanished %" PRIu64
           "; pruned %" PRIu64 ", spared %" PRIu64 ", lost %" PRIu64 ", undeleted %" PRIu64
           ", tagged %" PRIu64 ", collected %" PRIu64 ", given up %" PRIu64 ", drained %" PRIu64
           ", cut off %" PRIu64 ", read there %" PRIu64 "\n",
           url, t.resumed, t.too_late, t.saved, t.superseded, t.aborted, t.points_read,
           t.newest_read, t.restored, t.scrubbed, t.vanished, t.pruned, t.spared, t.lost,
           t.undeleted, t.tagged, t.collected, t.given_up, t.drained, t.cut_off, t.read_far);
    CHECK(exercised(&t));
    kit_layout_fini(&t.layout);
    store_close(t.s);
    store_close(t.far);
    return t.saved + t.points_read + t.pruned + t.collected + t.restored + t.scrubbed + t.tagged +
           t.read_far;
}

int main(void)
{
    unsigned long long seed = test_seed(20261121);
    unsigned launches = getenv("CKPT_DEEP") ? 500 : 100 / TEST_TENTH;
    char dir[200], url[256], to[256];
    scratch_make(dir);
    snprintf(url, sizeof(url), "dir://%s/home", dir);
    snprintf(to, sizeof(to), "dir://%s/far", dir);
    CHECK(mkdir(url + strlen("dir://"), 0700) == 0 && mkdir(to + strlen("dir://"), 0700) == 0);
    uint64_t cases = stress("mem://prune-stress", "mem://prune-stress-far", launches, seed);
    cases += stress(url, to, 5 + launches / 20, seed + 1);
    scratch_remove(dir);
    TEST_CASES(cases);
    return 0;
}
