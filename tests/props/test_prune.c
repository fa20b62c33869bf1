/* Prune, against an oracle that computes from what is documented what must stay; killed at
 * every store operation, and its gc too; and beside savers, resumers, taggers and gcs in
 * threads.  (It covers prune.c, prune_apply.c and spread.c.) */
#include <math.h>

#include "props/prune_world.h"
#include "storage/repo/launch.h"
#include "storage/repo/life.h"
#include "storage/repo/tags.h"
#include "storage/store/wrap.h"

static struct {
    uint64_t worlds, live, kept, pruned, killed_prunes, killed_gcs, abandoned, bad, draining,
        incomplete, best, taggeds, far, absent, coming;
} seen;

static enum life life_of(struct store *s, const struct ckpt_name *name)
{
    enum life life;
    uint64_t n;
    CHECK_OK(life_look(s, FX_JOB, name, false, &life, &n, NULL, NULL));
    return life;
}

static bool is_live(const struct pw_ckpt *c)
{
    return c->what == PW_COMMITTED && c->life == LIFE_LIVE;
}

static void wrong(const struct pw_world *w, unsigned long long seed, size_t i, const char *what,
                  const char *why)
{
    char policy[256];
    keep_policy_to_text(&w->policy, policy, sizeof(policy));
    fprintf(stderr, "seed %llu: policy %s: step %" PRIu64 " of epoch %" PRIu64 ": %s (%s)\n", seed,
            policy, w->ckpts[i].name.step, w->ckpts[i].name.epoch, what, why);
    exit(1);
}

static struct prune_options options_of(const struct pw_world *w)
{
    return (struct prune_options){ .policy = &w->policy, .tiers = &w->tier, .tier_count = 1 };
}

static const struct prune_item *item_of(const struct prune_plan *p, const struct ckpt_name *name)
{
    for (size_t i = 0; i < p->count; i++)
        if (name_equal(&p->items[i].name, name))
            return &p->items[i];
    return NULL;
}

/* ---- what is decided ---- */

static void check_decision(const struct pw_world *w, unsigned long long seed)
{
    struct prune_options o = options_of(w);
    struct prune_plan plan;
    struct store *s = pw_copy(w);
    size_t live = 0;
    CHECK_OK(prune_decide(s, FX_JOB, &o, &plan, NULL));
    for (size_t i = 0; i < w->count; i++) {
        const struct pw_ckpt *c = &w->ckpts[i];
        const struct prune_item *item = item_of(&plan, &c->name);
        if (!is_live(c)) {
            CHECK(!item);
            continue;
        }
        CHECK(item);
        bool stays = pw_must_stay(w, i);
        if (item->keep != stays)
            wrong(w, seed, i, stays ? "goes and must stay" : "stays and must go", item->why);
        CHECK(item->why[0]);
        CHECK_EQ(item->time_ns, c->time_ns);
        CHECK_EQ(item->on_lineage, pw_on_branch(w, i));
        live++;
        seen.kept += stays;
        seen.pruned += !stays;
        seen.abandoned += !pw_on_branch(w, i);
        seen.bad += c->bad;
        seen.draining += c->draining;
        seen.incomplete += !c->held;
        seen.taggeds += c->tags != 0;
        seen.far += c->absent && c->far;
        seen.absent += c->absent && !c->far;
        seen.best += strstr(item->why, "best=loss") != NULL;
        seen.coming += strstr(item->why, "once it is complete here") != NULL;
    }
    CHECK_EQ(plan.count, live);
    seen.live += live;
    prune_plan_fini(&plan);
    store_close(s);
}

/* ---- what is done ---- */

static struct life_gc_report gc_all(struct store *s)
{
    struct life_gc_options o = { .abort_keep_ns = INT64_MAX, .undecided = true };
    struct life_gc_report r;
    CHECK_OK(life_gc(s, FX_JOB, &o, &r, NULL));
    return r;
}

/* Nothing that must stay is touched; what has lost data is GONE. */
static void check_unharmed(const struct pw_world *w, unsigned long long seed, struct store *s)
{
    for (size_t i = 0; i < w->count; i++) {
        const struct pw_ckpt *c = &w->ckpts[i];
        if (c->what != PW_COMMITTED)
            continue;
        enum life life = life_of(s, &c->name);
        bool whole = pw_whole(s, &c->name);
        if (!whole && !c->absent && life != LIFE_GONE)
            wrong(w, seed, i, "has lost data without being GONE", "");
        if (!is_live(c) || !pw_must_stay(w, i))
            continue;
        if (life != LIFE_LIVE || whole == c->absent ||
            fx_there(s, key_held(FX_JOB, &c->name)) != c->held)
            wrong(w, seed, i, "must stay and is harmed", "");
    }
}

/* After another prune and a gc only what must stay is there, whatever died before. */
static void check_finished(const struct pw_world *w, unsigned long long seed, struct store *s)
{
    struct prune_options o = options_of(w);
    struct prune_report r;
    CHECK_OK(prune(s, FX_JOB, &o, &r, NULL));
    CHECK_EQ(r.spared + r.lost, 0);
    gc_all(s);
    check_unharmed(w, seed, s);
    for (size_t i = 0; i < w->count; i++) {
        const struct pw_ckpt *c = &w->ckpts[i];
        if (c->what != PW_COMMITTED || (is_live(c) && pw_must_stay(w, i)))
            continue;
        if (life_of(s, &c->name) != LIFE_GONE || pw_left(s, &c->name))
            wrong(w, seed, i, "must go and is there", "");
    }
}

/* A gc that dies at its n-th operation, after a whole prune; or the prune itself. */
static bool kill_at(const struct pw_world *w, unsigned long long seed, uint64_t nth, bool in_gc)
{
    struct wrap_fault_rule rule = { .kind = nth % 2 ? FAULT_FAIL : FAULT_LOST_REPLY,
                                    .status = CKPT_IO,
                                    .nth = nth };
    struct wrap_fault_plan faults = { .rules = &rule, .count = 1 };
    struct prune_options o = options_of(w);
    struct life_gc_options go = { .abort_keep_ns = INT64_MAX, .undecided = true };
    struct life_gc_report gr;
    struct prune_report r;
    struct store *s = pw_copy(w), *inner = pw_again(w, s), *faulty;
    CHECK_OK(wrap_fault(inner, &faults, &faulty, NULL));
    if (in_gc)
        CHECK_OK(prune(s, FX_JOB, &o, &r, NULL));
    enum ckpt_status st =
        in_gc ? life_gc(faulty, FX_JOB, &go, &gr, NULL) : prune(faulty, FX_JOB, &o, &r, NULL);
    CHECK(st == CKPT_OK || st == CKPT_IO);
    store_close(faulty);
    check_unharmed(w, seed, s);
    check_finished(w, seed, s);
    store_close(s);
    seen.killed_prunes += !in_gc;
    seen.killed_gcs += in_gc;
    return faults.hits > 0;
}

/* The same twice is the same, and what was pruned can be had back. */
static void check_again(const struct pw_world *w)
{
    struct prune_options o = options_of(w);
    struct prune_report r, again;
    struct store *s = pw_copy(w);
    CHECK_OK(prune(s, FX_JOB, &o, &r, NULL));
    CHECK_OK(prune(s, FX_JOB, &o, &again, NULL));
    CHECK_EQ(again.deleted, 0);
    CHECK_EQ(again.kept, r.kept);
    for (size_t i = 0; i < w->count; i++) {
        const struct pw_ckpt *c = &w->ckpts[i];
        if (!is_live(c))
            continue;
        CHECK_OK(life_undelete(s, FX_JOB, &c->name, "test", NULL));
        CHECK_EQ(life_of(s, &c->name), LIFE_LIVE);
    }
    store_close(s);
}

/* ---- what a rule alone would take ---- */

static uint64_t start(struct store *s, uint8_t who, bool restored)
{
    struct launch_who me = { .job = FX_JOB, .world = FX_WORLD, .nonce = { who } };
    const struct lineage_wish wish = { 0 };
    struct record_resolved r = { 0 };
    char token[8];
    uint64_t epoch;
    snprintf(token, sizeof(token), "t%u", who);
    me.token = token;
    CHECK_OK(launch_claim(s, &me, &epoch, NULL));
    CHECK_OK(launch_resolve(s, FX_JOB, epoch, &wish, &r, NULL));
    struct record_step step = { .epoch = epoch, .step = r.name.step };
    if (restored)
        CHECK_OK(launch_put_step(s, FX_JOB, RECORD_RESTORED, &step, NULL));
    record_resolved_fini(&r);
    return epoch;
}

static struct prune_report keep_last(struct store *s)
{
    struct keep_policy policy = { 0 };
    struct prune_options o = { .policy = &policy };
    struct prune_report r;
    CHECK_OK(keep_policy_add(&policy, "last", "1", NULL));
    CHECK_OK(prune(s, FX_JOB, &o, &r, NULL));
    return r;
}

/* The third launch in a row runs from the newest checkpoint.  If it dies, too, the next
 * one steps back: to what must be there then (I5). */
static void crash_loop(void)
{
    struct store *s = fx_open();
    uint64_t epoch = start(s, 1, false);
    struct ckpt_name oldest = fx_commit(s, epoch, 10), back = fx_commit(s, epoch, 20),
                     newest = fx_commit(s, epoch, 30);
    for (uint8_t who = 2; who < 4; who++)
        start(s, who, true);
    CHECK_EQ(keep_last(s).deleted, 2); /* two deaths: not yet */
    CHECK_OK(life_undelete(s, FX_JOB, &back, "test", NULL));
    start(s, 4, true);
    CHECK_EQ(keep_last(s).deleted, 0);
    CHECK(life_of(s, &back) == LIFE_LIVE && life_of(s, &newest) == LIFE_LIVE);
    CHECK_EQ(life_of(s, &oldest), LIFE_DELETED);
    CHECK_EQ(life_delete(s, FX_JOB, &back, "test", NULL), CKPT_REFUSED);
    store_close(s);
}

/* A commit whose h/ is still to come, while a later save was quicker. */
static void overtaken(void)
{
    struct store *s = fx_open();
    uint64_t epoch = start(s, 1, false);
    struct ckpt_name oldest = fx_commit(s, epoch, 10), late = fx_commit(s, epoch, 20);
    CHECK_OK(store_remove(s, key_held(FX_JOB, &late).text, NULL));
    fx_commit(s, epoch, 30);
    CHECK_EQ(keep_last(s).deleted, 1);
    CHECK_EQ(life_of(s, &oldest), LIFE_DELETED);
    CHECK_EQ(life_of(s, &late), LIFE_LIVE);
    store_close(s);
}

/* What its life log says cannot be read: perhaps that it is gone. */
static void unreadable(void)
{
    struct store *s = fx_open();
    uint64_t epoch = start(s, 1, false);
    struct ckpt_name c = fx_commit(s, epoch, 20);
    struct keep_policy policy = { 0 };
    struct prune_options o = { .policy = &policy };
    struct prune_plan plan;
    fx_commit(s, epoch, 30);
    CHECK_OK(store_remove(s, key_held(FX_JOB, &c).text, NULL));
    CHECK_OK(store_put_record(s, key_life(FX_JOB, &c, false, 1).text, "x", 1, NULL));
    CHECK_OK(keep_policy_add(&policy, "last", "1", NULL));
    CHECK_OK(prune_decide(s, FX_JOB, &o, &plan, NULL));
    const struct prune_item *item = item_of(&plan, &c);
    CHECK(item && item->keep && strstr(item->why, "damaged record"));
    prune_plan_fini(&plan);
    store_close(s);
}

static void world(unsigned long long seed, bool kill)
{
    static struct pw_world w;
    pw_make(&w, seed);
    if (w.rule_count) {
        check_decision(&w, seed);
        check_again(&w);
        for (uint64_t nth = 1; kill && kill_at(&w, seed, nth, false); nth++)
            ;
        for (uint64_t nth = 1; kill && kill_at(&w, seed, nth, true); nth++)
            ;
        seen.worlds++;
    }
    pw_fini(&w);
}

int main(void)
{
    unsigned long long seed = test_seed(20261121);
    const char *n = getenv("TEST_WORLDS");
    uint64_t worlds = n ? strtoull(n, NULL, 0) : getenv("CKPT_DEEP") ? 20000 : 1500 / TEST_TENTH;

    crash_loop();
    overtaken();
    unreadable();
    for (uint64_t i = 0; i < worlds; i++)
        world(seed + i, i % 50 == 0);
    printf("%" PRIu64 " worlds, %" PRIu64 " checkpoints: %" PRIu64 " stay, %" PRIu64
           " go; abandoned %" PRIu64 ", quarantined %" PRIu64 ", draining %" PRIu64
           ", incomplete %" PRIu64 ", in the tier alone %" PRIu64 ", nowhere %" PRIu64
           ", waited for %" PRIu64 ", tagged %" PRIu64 ", best %" PRIu64 "; killed prunes %" PRIu64
           ", gcs %" PRIu64 "\n",
           seen.worlds, seen.live, seen.kept, seen.pruned, seen.abandoned, seen.bad, seen.draining,
           seen.incomplete, seen.far, seen.absent, seen.coming, seen.taggeds, seen.best,
           seen.killed_prunes, seen.killed_gcs);
    CHECK(seen.pruned && seen.kept && seen.abandoned && seen.bad && seen.draining &&
          seen.incomplete && seen.far && seen.absent && seen.coming && seen.taggeds && seen.best &&
          seen.killed_prunes && seen.killed_gcs);
    TEST_CASES(seen.worlds + seen.killed_prunes + seen.killed_gcs);
    return 0;
}
