/* Launches, committers, delete, undelete, prune, tag and gc of one job at once, one store operation at
 * a time in an order that a seed chooses; any of them may die at any operation, and grace
 * may pass at any moment.
 *
 * Each actor is a coroutine over its own handle, which gives the turn back before every
 * operation.  After every operation that changed something the records must still keep
 * the promises (watch_*).  Attempts: A step 100 committed, B step 110 by epoch 1;
 * C step 105 by epoch 2. */

#include "storage/repo/launch.h"
#include "storage/repo/life.h"
#include "storage/repo/prune.h"
#include "storage/repo/publish.h"
#include "storage/repo/tags.h"
#include "storage/store/wrap_pass.h"
#include "unit/history_fixture.h"

#include "fiber.h"

#define ACTORS_MAX 14
#define STACK      (256 * KIB)
#define GRACE_NS   1000
#define FOREVER    INT64_MAX

enum { A, B, C, ATTEMPTS };

struct world;
struct actor {
    void (*run)(struct world *w, struct actor *me);
    const char *what;
    int attempt; /* or epoch of a launch */
    bool forced;
    uint64_t dies_at; /* operation number; 0 = never */
    uint64_t ops;
    bool done;
    struct store *s;
    struct record_resolved resolved;
    enum ckpt_status opened;
    struct fiber fiber;
    void *stack;
};
struct world {
    unsigned long long rng;
    struct store *raw;
    int64_t now_ns;
    struct actor actors[ACTORS_MAX];
    size_t count;
    struct ckpt_name name[ATTEMPTS];
    bool acked[ATTEMPTS], deleted[ATTEMPTS], aborted[ATTEMPTS];
    bool tagged[ATTEMPTS]; /* somebody was told that it is */
    uint64_t life_puts[ATTEMPTS];
    bool claimed3;
    bool changed;
    unsigned long long seed;
    char trace[400][160];
    size_t traced;
};
static struct {
    uint64_t schedules, ops, changes, brought_back, collected, aborts, gone_opens, superseded,
        resumed, late_commits, chained, tagged, tagged_back, tag_lost, pruned, prune_spared,
        looked_again;
} seen;

static void broken(struct world *w, const char *what, int attempt)
{
    fprintf(stderr, "seed %llu: %s (attempt %c)\n", w->seed, what,
            attempt < 0 ? '-' : "ABC"[attempt]);
    for (size_t i = w->traced > 400 ? w->traced - 400 : 0; i < w->traced; i++)
        fprintf(stderr, "  %s\n", w->trace[i % 400]);
    exit(1);
}

/* ---- the store that gives the turn back ---- */

struct turn_store {
    struct wrap wrap;
    struct world *w;
    struct actor *actor;
};

static enum ckpt_status turn(struct store *s, const char *op, const char *key, struct ckpt_err *err)
{
    struct turn_store *t = (struct turn_store *)s;
    struct actor *a = t->actor;
    fiber_yield(&a->fiber);
    if (a->dies_at && ++a->ops >= a->dies_at)
        return err_set(err, CKPT_IO, "%s died", a->what);
    seen.ops++;
    snprintf(t->w->trace[t->w->traced++ % 400], sizeof(t->w->trace[0]), "%s: %s %.120s", a->what,
             op, key);
    return CKPT_OK;
}

static int attempt_in(const struct world *w, const char *key)
{
    char text[NAME_TEXT];
    for (int i = 0; i < ATTEMPTS; i++) {
        name_to_text(&w->name[i], text);
        if (strstr(key, text))
            return i;
    }
    return -1;
}

static enum life life_now(struct world *w, int i)
{
    enum life life;
    uint64_t n;
    CHECK_OK(life_look(w->raw, FX_JOB, &w->name[i], false, &life, &n, NULL, NULL));
    return life;
}

static enum publish_state state_now(struct world *w, int i)
{
    enum publish_state state;
    CHECK_OK(publish_look(w->raw, FX_JOB, &w->name[i], &state, NULL, NULL));
    return state;
}

static bool parts_now(struct world *w, int i)
{
    for (uint32_t rank = 0; rank < FX_WORLD; rank++)
        if (!fx_there(w->raw, key_manifest(FX_JOB, &w->name[i], rank)) ||
            !fx_there(w->raw, fx_pack_key(&w->name[i], rank)))
            return false;
    return true;
}

static uint64_t newest_epoch(struct world *w)
{
    struct record_resolved r;
    enum ckpt_status st = launch_newest(w->raw, FX_JOB, &r, NULL);
    if (st != CKPT_OK)
        return 0;
    record_resolved_fini(&r);
    return r.epoch;
}

static void run_gc(struct world *w, struct actor *me);

/* What a put means, before it happens. */
static void watch_put(struct world *w, const struct actor *by, const char *key,
                      const struct iovec *iov)
{
    int i = attempt_in(w, key);
    w->claimed3 |= strcmp(key, key_claim(FX_JOB, 3).text) == 0;
    if (i < 0)
        return;
    if (strstr(key, "/c/") && state_now(w, i) == PUBLISH_UNDECIDED &&
        record_kind_of(iov->iov_base, iov->iov_len) == RECORD_ABORT) {
        w->aborted[i] = true;
        seen.aborts++;
        if (by->run == run_gc && newest_epoch(w) <= w->name[i].epoch)
            broken(w, "an attempt is given up before a newer launch has resolved", i);
    }
}

/* Data goes only after a record has said so. */
static void watch_remove(struct world *w, const char *key)
{
    int i = attempt_in(w, key);
    CHECK(i >= 0);
    bool gone = life_now(w, i) == LIFE_GONE;
    if (!gone && state_now(w, i) != PUBLISH_ABORTED)
        broken(w, "something is removed that is neither GONE nor ABORTed", i);
    if (strstr(key, "/c/") && parts_now(w, i))
        broken(w, "c/ is removed before the data", i);
    if (gone && !w->deleted[i])
        broken(w, "GONE though nobody deleted it, or it was undeleted", i);
    seen.collected++;
}

static enum ckpt_status turn_put(struct store *s, const char *key, const struct iovec *iov,
                                 int count, unsigned flags, struct ckpt_err *err)
{
    struct world *w = ((struct turn_store *)s)->w;
    enum ckpt_status st = turn(s, "put", key, err);
    if (st != CKPT_OK)
        return st;
    watch_put(w, ((struct turn_store *)s)->actor, key, iov);
    st = wrap_pass_put(s, key, iov, count, flags, err);
    int i = attempt_in(w, key);
    if (st == CKPT_OK && i >= 0 && strstr(key, "/x/")) {
        w->deleted[i] = life_now(w, i) != LIFE_LIVE;
        w->life_puts[i]++;
    }
    w->changed = true;
    return st;
}

static enum ckpt_status turn_get(struct store *s, const char *key, const struct store_range *ranges,
                                 size_t count, struct ckpt_err *err)
{
    enum ckpt_status st = turn(s, "get", key, err);
    return st == CKPT_OK ? wrap_pass_get(s, key, ranges, count, err) : st;
}

static enum ckpt_status turn_stat(struct store *s, const char *key, struct store_stat *ret,
                                  struct ckpt_err *err)
{
    return wrap_pass_stat(s, key, ret, err); /* always followed by a get: one step */
}

static enum ckpt_status turn_list(struct store *s, const char *prefix, bool one_level,
                                  const char *after, struct store_entry *entries, size_t cap,
                                  size_t *ret_count, bool *ret_more, struct ckpt_err *err)
{
    enum ckpt_status st = turn(s, "list", prefix, err);
    return st == CKPT_OK
               ? wrap_pass_list(s, prefix, one_level, after, entries, cap, ret_count, ret_more, err)
               : st;
}

static enum ckpt_status turn_remove(struct store *s, const char *key, struct ckpt_err *err)
{
    struct world *w = ((struct turn_store *)s)->w;
    enum ckpt_status st = turn(s, "remove", key, err);
    if (st != CKPT_OK)
        return st;
    watch_remove(w, key);
    w->changed = true;
    return wrap_pass_remove(s, key, err);
}

static enum ckpt_status turn_now(struct store *s, int64_t *ret_ns, struct ckpt_err *err)
{
    (void)err;
    *ret_ns = ((struct turn_store *)s)->w->now_ns;
    return CKPT_OK;
}

static const struct store_ops turn_ops = { .scheme = "turn",
                                           .put = turn_put,
                                           .get = turn_get,
                                           .stat = turn_stat,
                                           .list = turn_list,
                                           .remove = turn_remove,
                                           .sync = wrap_pass_sync,
                                           .now = turn_now,
                                           .to_text = wrap_pass_to_text,
                                           .close = wrap_pass_close };

/* ---- actors ---- */

static void run_commit(struct world *w, struct actor *me)
{
    struct record_commit c;
    const struct ckpt_name *name = &w->name[me->attempt];
    if (publish(me->s, FX_JOB, name, FX_WORLD, &c, NULL) != CKPT_OK)
        return;
    if (newest_epoch(w) <= name->epoch)
        w->acked[me->attempt] = true;
    else
        seen.late_commits++;
}

static void run_node(struct world *w, struct actor *me)
{
    enum ckpt_status st = CKPT_OK;
    for (uint32_t rank = 0; rank < FX_WORLD && st == CKPT_OK; rank++)
        st = fx_part(me->s, &w->name[me->attempt], rank, me->forced && rank == 1, NULL);
}

/* Resolves; epoch 2 then saves C, if nobody has taken over. */
static void run_launch(struct world *w, struct actor *me)
{
    struct launch_who who = { .job = FX_JOB, .token = me->what, .world = FX_WORLD };
    struct lineage_wish wish = { .forced = me->forced, .step = 100, .has_epoch = true, .epoch = 1 };
    uint64_t epoch;
    struct record_commit c;
    if (launch_claim(me->s, &who, &epoch, NULL) != CKPT_OK)
        return;
    me->opened = launch_resolve(me->s, FX_JOB, epoch, &wish, &me->resolved, NULL);
    seen.superseded += me->opened == CKPT_SUPERSEDED;
    seen.gone_opens += me->opened == CKPT_REFUSED;
    if (me->opened != CKPT_OK)
        return;
    seen.resumed++;
    w->name[C] = epoch == 2 ? fx_name(2, 105) : w->name[C];
    if (epoch != 2 || launch_current(me->s, FX_JOB, epoch, NULL) != CKPT_OK)
        return;
    for (uint32_t rank = 0; rank < FX_WORLD; rank++)
        if (fx_part(me->s, &w->name[C], rank, false, NULL) != CKPT_OK)
            return;
    if (publish(me->s, FX_JOB, &w->name[C], FX_WORLD, &c, NULL) == CKPT_OK && !w->claimed3)
        w->acked[C] = true;
}

static void run_delete(struct world *w, struct actor *me)
{
    struct ckpt_err err = { 0 };
    enum ckpt_status st = life_delete(me->s, FX_JOB, &w->name[me->attempt], me->what, &err);
    CHECK(st == CKPT_OK || st == CKPT_IO || st == CKPT_REFUSED || st == CKPT_NOT_FOUND);
    seen.brought_back += st == CKPT_REFUSED && strstr(err.text, "meanwhile");
}

static void run_undelete(struct world *w, struct actor *me)
{
    enum ckpt_status st = life_undelete(me->s, FX_JOB, &w->name[me->attempt], me->what, NULL);
    CHECK(st == CKPT_OK || st == CKPT_IO || st == CKPT_NOT_FOUND);
}

static void run_prune(struct world *w, struct actor *me)
{
    struct keep_policy policy = { 0 };
    struct prune_options o = { .policy = &policy };
    struct prune_report r = { 0 };
    (void)w;
    CHECK_OK(keep_policy_parse(me->forced ? "every=50" : "last=1", &policy, NULL));
    enum ckpt_status st = prune(me->s, FX_JOB, &o, &r, NULL);
    CHECK(st == CKPT_OK || st == CKPT_IO);
    seen.pruned += r.deleted;
    seen.prune_spared += r.spared;
}

static void run_tag(struct world *w, struct actor *me)
{
    int i = me->attempt;
    bool was_live = life_now(w, i) == LIFE_LIVE;
    uint64_t changes = w->life_puts[i];
    enum ckpt_status st = tags_set(me->s, FX_JOB, &w->name[i], "kept", NULL);
    CHECK(st == CKPT_OK || st == CKPT_IO || st == CKPT_REFUSED || st == CKPT_NOT_FOUND);
    w->tagged[i] = w->tagged[i] || st == CKPT_OK;
    seen.tagged += st == CKPT_OK;
    seen.tagged_back += st == CKPT_OK && was_live && w->life_puts[i] > changes;
    seen.tag_lost += st == CKPT_NOT_FOUND;
}

static void run_gc(struct world *w, struct actor *me)
{
    (void)w;
    struct life_gc_options o = { .grace_ns = GRACE_NS,
                                 .abort_keep_ns = FOREVER,
                                 .undecided = true };
    struct life_gc_report r;
    for (int i = 0; i < 2; i++) {
        enum ckpt_status st = life_gc(me->s, FX_JOB, &o, &r, NULL);
        CHECK(st == CKPT_OK || st == CKPT_IO); /* losing a race is no failure */
    }
}

static struct {
    struct world *w;
    struct actor *a;
} starting;

static void enter(void)
{
    struct world *w = starting.w;
    struct actor *a = starting.a;
    fiber_yield(&a->fiber);
    a->run(w, a);
    a->done = true;
    fiber_yield(&a->fiber);
}

static void add(struct world *w, void (*run)(struct world *, struct actor *), const char *what,
                int attempt, bool forced)
{
    static char stacks[ACTORS_MAX][STACK];
    struct actor *a = &w->actors[w->count];
    struct wrap *t;
    struct store *inner;
    *a = (struct actor){ .run = run, .what = what, .attempt = attempt, .forced = forced };
    a->opened = CKPT_NOT_FOUND;
    a->stack = stacks[w->count++];
    if (test_rand(&w->rng) % 4 == 0)
        a->dies_at = 1 + test_rand(&w->rng) % 60;
    CHECK_OK(store_dup(w->raw, &inner, NULL));
    CHECK_OK(wrap_new(sizeof(struct turn_store), &turn_ops, inner, &t, NULL));
    ((struct turn_store *)t)->w = w;
    ((struct turn_store *)t)->actor = a;
    a->s = &t->base;
    starting.w = w;
    starting.a = a;
    fiber_make(&a->fiber, a->stack, STACK, enter);
    fiber_go(&a->fiber);
}

/* ---- promises ---- */

static void watch_attempts(struct world *w)
{
    for (int i = 0; i < ATTEMPTS; i++) {
        if (!w->name[i].epoch)
            continue;
        bool commit = state_now(w, i) == PUBLISH_COMMITTED, parts = parts_now(w, i);
        enum life life = life_now(w, i);
        if (commit && life != LIFE_GONE && !parts)
            broken(w, "a commit that is not GONE has no data", i);
        if (commit && w->aborted[i])
            broken(w, "a commit after ABORT", i);
        if (w->tagged[i] && (life == LIFE_GONE || !commit || !parts))
            broken(w, "what has a tag is gone", i);
        if (w->acked[i] && !parts && !w->deleted[i])
            broken(w, "acknowledged data is lost without delete", i);
        if (w->acked[i] && !commit && life == LIFE_LIVE)
            broken(w, "an acknowledged commit is gone", i);
    }
}

/* What the newest resolved launch resumed from, if its open succeeded, is there. */
static void watch_newest(struct world *w)
{
    uint64_t newest = newest_epoch(w);
    for (size_t k = 0; k < w->count; k++) {
        const struct actor *a = &w->actors[k];
        if (a->run != run_launch || a->opened != CKPT_OK || a->resolved.epoch != newest ||
            a->resolved.kind != RESOLVED_POINT)
            continue;
        for (int i = 0; i < ATTEMPTS; i++) {
            if (!name_equal(&a->resolved.name, &w->name[i]))
                continue;
            if (!parts_now(w, i) || life_now(w, i) == LIFE_GONE ||
                state_now(w, i) != PUBLISH_COMMITTED)
                broken(w, "the newest launch resumed from what is gone", i);
        }
    }
}

/* When nobody died, whoever deleted has looked again: what the newest launch resumed from
 * and what has a tag is LIVE. */
static void watch_looked_again(struct world *w)
{
    struct record_resolved r;
    for (size_t k = 0; k < w->count; k++)
        if (w->actors[k].dies_at && w->actors[k].ops >= w->actors[k].dies_at)
            return;
    CHECK_OK(launch_newest(w->raw, FX_JOB, &r, NULL));
    for (int i = 0; i < ATTEMPTS; i++) {
        if (!w->name[i].epoch || state_now(w, i) != PUBLISH_COMMITTED)
            continue;
        bool point = r.kind == RESOLVED_POINT && name_equal(&r.name, &w->name[i]);
        enum life life = life_now(w, i);
        if ((point || w->tagged[i]) && life == LIFE_DELETED)
            broken(w, point ? "the newest launch's point stays deleted" : "a tagged one does", i);
        seen.looked_again += point || w->tagged[i];
    }
    record_resolved_fini(&r);
}

/* E2's acknowledged C must be what E3 took; nothing undeleted is ever out of sight. */
static void watch_end(struct world *w)
{
    struct lineage l = { 0 };
    struct record_resolved next = { 0 }, three;
    struct lineage_wish wish = { .below = UINT64_MAX };
    if (w->acked[C] && launch_resolved(w->raw, FX_JOB, 3, &three, NULL) == CKPT_OK) {
        seen.chained += !three.forced && three.kind == RESOLVED_POINT;
        if (!three.forced && three.kind == RESOLVED_POINT && !name_equal(&three.name, &w->name[C]))
            broken(w, "E3 passed over what E2 had saved", C);
        record_resolved_fini(&three);
    }
    CHECK_OK(launch_history(w->raw, FX_JOB, &l, NULL));
    enum ckpt_status st = lineage_pick(&l, &wish, &next, NULL);
    for (size_t i = 0; i < l.commit_count && st != CKPT_OK; i++)
        if (l.commits[i].life == LIFE_LIVE && l.commits[i].restorable &&
            lineage_on_branch(&l, &l.commits[i].name))
            broken(w, "the next launch is refused though there is one to resume from", -1);
    if (st == CKPT_OK && next.kind == RESOLVED_NOTHING && l.commit_count)
        broken(w, "the next launch starts over though there are checkpoints", -1);
    if (st == CKPT_OK)
        record_resolved_fini(&next);
    lineage_fini(&l);
}

/* ---- one schedule ---- */

static void add_actors(struct world *w, bool b_committed)
{
    struct {
        void (*run)(struct world *, struct actor *);
        const char *what;
        int attempt;
        bool forced;
    } menu[] = {
        { run_launch, "launch x", 0, test_rand(&w->rng) % 3 == 0 },
        { run_launch, "launch y", 0, test_rand(&w->rng) % 5 == 0 },
        { run_delete, "delete A", A, false },
        { run_delete, "delete A again", A, false },
        { run_delete, "delete B", B, false },
        { run_undelete, "undelete A", A, false },
        { run_gc, "gc 1", 0, false },
        { run_gc, "gc 2", 0, false },
        { run_prune, "prune 1", 0, test_rand(&w->rng) % 3 == 0 },
        { run_prune, "prune 2", 0, false },
        { run_tag, "tag A", A, false },
    };
    for (size_t i = 0; i < ARRAY_COUNT(menu); i++)
        if (test_rand(&w->rng) % 4 != 0)
            add(w, menu[i].run, menu[i].what, menu[i].attempt, menu[i].forced);
    if (!b_committed) {
        add(w, run_node, "node of B", B, test_rand(&w->rng) % 6 == 0);
        add(w, run_commit, "committer of B", B, false);
    }
}

static bool step(struct world *w)
{
    struct actor *ready[ACTORS_MAX];
    size_t n = 0;
    for (size_t i = 0; i < w->count; i++)
        if (!w->actors[i].done)
            ready[n++] = &w->actors[i];
    if (!n)
        return false;
    struct actor *a = ready[test_rand(&w->rng) % n];
    /* Runs of one actor, so that some come far while others sleep. */
    uint64_t longest = test_rand(&w->rng) % 8 ? 12 : 120;
    for (uint64_t run = 1 + test_rand(&w->rng) % longest; run && !a->done; run--) {
        w->now_ns += 1 + (test_rand(&w->rng) % 40 == 0 ? 2 * GRACE_NS : 0);
        fiber_go(&a->fiber);
        if (!w->changed)
            continue;
        w->changed = false;
        seen.changes++;
        watch_attempts(w);
        watch_newest(w);
    }
    return true;
}

static void empty(struct store *s)
{
    struct store_entry *e = malloc(64 * sizeof(*e));
    size_t n = 1;
    bool more;
    CHECK(e);
    while (n) {
        CHECK_OK(store_list(s, "", false, "", e, 64, &n, &more, NULL));
        for (size_t i = 0; i < n; i++)
            CHECK_OK(store_remove(s, e[i].key, NULL));
    }
    free(e);
}

static void schedule(struct store *raw, unsigned long long seed)
{
    static struct world world;
    struct world *w = &world;
    *w = (struct world){ .rng = seed, .seed = seed, .raw = raw, .now_ns = 1 };
    struct launch_who who = { .job = FX_JOB, .token = "launch 1", .world = FX_WORLD };
    struct lineage_wish wish = { 0 };
    struct record_resolved r;
    uint64_t epoch;
    empty(raw);
    CHECK_OK(launch_claim(raw, &who, &epoch, NULL));
    CHECK_OK(launch_resolve(raw, FX_JOB, epoch, &wish, &r, NULL));
    record_resolved_fini(&r);
    w->name[A] = fx_commit(raw, 1, 100);
    w->name[B] = fx_name(1, 110);
    w->acked[A] = true;
    bool b_committed = test_rand(&w->rng) % 2;
    if (b_committed) {
        w->name[B] = fx_commit(raw, 1, 110);
        w->acked[B] = true;
    }
    add_actors(w, b_committed);
    while (step(w))
        ;
    watch_attempts(w);
    watch_newest(w);
    watch_end(w);
    watch_looked_again(w);
    for (size_t i = 0; i < w->count; i++) {
        record_resolved_fini(&w->actors[i].resolved);
        store_close(w->actors[i].s);
    }
    seen.schedules++;
}

int main(void)
{
    unsigned long long seed = test_seed(20261121);
    const char *n = getenv("TEST_SCHEDULES");
    unsigned long long count = n ? strtoull(n, NULL, 0) : 3000 / TEST_TENTH;
    struct store *raw = fx_open();
    for (unsigned long long i = 0; i < count; i++)
        schedule(raw, seed + i);
    store_close(raw);
    printf("%" PRIu64 " operations, %" PRIu64 " changes watched; %" PRIu64 " opens, %" PRIu64
           " superseded, %" PRIu64 " refused, %" PRIu64 " deletes undone, %" PRIu64
           " removals, %" PRIu64 " aborts, %" PRIu64 " late commits, %" PRIu64 " chained; %" PRIu64
           " pruned, %" PRIu64 " spared, %" PRIu64 " tagged, %" PRIu64 " beside a delete, %" PRIu64
           " too late\n",
           seen.ops, seen.changes, seen.resumed, seen.superseded, seen.gone_opens,
           seen.brought_back, seen.collected, seen.aborts, seen.late_commits, seen.chained,
           seen.pruned, seen.prune_spared, seen.tagged, seen.tagged_back, seen.tag_lost);
    CHECK(seen.resumed && seen.superseded && seen.brought_back && seen.collected && seen.aborts &&
          seen.late_commits && seen.chained && seen.pruned && seen.prune_spared && seen.tagged &&
          seen.tagged_back && seen.tag_lost && seen.looked_again);
    TEST_CASES(seen.schedules);
    return 0;
}
