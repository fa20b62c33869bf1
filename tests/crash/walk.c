/* Cuts and draws.  See walk.h. */
#include "crash/walk.h"

#include <stdio.h>
#include <sys/stat.h>

#include "store/scratch.h"

#define SEEN_SLOTS    (1u << 20)
#define ALONE_MAX     16 /* bare things that are dropped one by one at a cut */
#define MISSING_DRAWS 2  /* random states at a cut behind a swallowed sync, of two kinds */

static struct digest *seen;
static size_t seen_count;

void walk_seen_init(void)
{
    seen = calloc(SEEN_SLOTS, sizeof(*seen));
    CHECK(seen);
}

void walk_seen_fini(void)
{
    free(seen);
}

static bool seen_before(struct digest sum)
{
    uint64_t at;
    memcpy(&at, &sum, sizeof(at));
    for (at %= SEEN_SLOTS;; at = (at + 1) % SEEN_SLOTS) {
        if (digest_equal(&seen[at], &sum))
            return true;
        if (digest_equal(&seen[at], &(struct digest){ 0 }))
            break;
    }
    seen[at] = sum;
    CHECK(++seen_count < SEEN_SLOTS / 2);
    return false;
}

/* One cut. */
struct cut {
    struct walk *w;
    struct disk *d;
    const struct oracle *o;
    struct disk_choices *c;
    const struct disk_versions *fresh; /* drawn as it is visible; may be NULL */
};

static void try_state(struct cut *k)
{
    struct walk *w = k->w;
    struct {
        struct digest drawn, oracle;
    } key = { disk_drawn_sum(k->d), digest_of(k->o, sizeof(*k->o)) };
    w->counts.drawn++;
    if (seen_before(digest_of(&key, sizeof(key))))
        return;
    CHECK_EQ(mkdir(w->dir, 0777), 0);
    disk_drawn_write(k->d, w->dir);
    char store[300];
    snprintf(store, sizeof(store), "%s/store", w->dir);
    oracle_recover(store, k->o, w->good);
    scratch_remove(w->dir);
    w->counts.recovered++;
}

static uint32_t any_of(struct cut *k, const struct disk_versions *v)
{
    return (uint32_t)(test_rand(&k->w->rand) % v->count);
}

/* Temporary files: torn, whole or absent, as it falls. */
static void draw_temporary(struct cut *k)
{
    for (size_t i = k->c->count; i < k->c->count + k->c->temporary; i++)
        k->c->v[i]->pick = any_of(k, k->c->v[i]);
}

static uint64_t count_states(const struct cut *k)
{
    uint64_t product = 1;
    for (size_t i = 0; i < k->c->count; i++)
        if (k->c->v[i] != k->fresh && __builtin_mul_overflow(product, k->c->v[i]->count, &product))
            return UINT64_MAX;
    return product;
}

/* State number n of all, or any. */
static void draw(struct cut *k, bool all, uint64_t n)
{
    for (size_t i = 0; i < k->c->count; i++) {
        struct disk_versions *v = k->c->v[i];
        v->pick = v->count - 1;
        if (v == k->fresh)
            continue;
        v->pick = all ? (uint32_t)(n % v->count) : any_of(k, v);
        n /= v->count;
    }
    draw_temporary(k);
}

static void draw_all(struct cut *k)
{
    uint64_t states = count_states(k);
    bool all = states <= k->w->all_max;
    k->w->counts.exhaustive += all;
    for (uint64_t i = 0; i < (all ? states : k->w->draws); i++) {
        draw(k, all, i);
        try_state(k);
    }
}

/* ---- behind a swallowed sync ---- */

enum rest {
    REST_VISIBLE, /* all else is as it is visible */
    REST_LATER,   /* what was done before the sync is lost, what was done since is there */
    REST_ANY,
};

static uint32_t pick_rest(struct cut *k, const struct disk_versions *v, enum rest rest)
{
    if (rest == REST_ANY)
        return any_of(k, v);
    return rest == REST_VISIBLE || v->since > k->w->swallow ? v->count - 1 : 0;
}

/* Of what is bare, number `alone` is missing (SIZE_MAX: all of it). */
static void draw_missing(struct cut *k, size_t alone, enum rest rest)
{
    size_t bare = 0;
    for (size_t i = 0; i < k->c->count; i++) {
        struct disk_versions *v = k->c->v[i];
        v->pick = pick_rest(k, v, rest);
        if (v->bare && (bare++ == alone || alone == SIZE_MAX))
            v->pick = 0;
    }
    draw_temporary(k);
    try_state(k);
}

static size_t count_bare(const struct cut *k)
{
    size_t bare = 0;
    for (size_t i = 0; i < k->c->count + k->c->temporary; i++)
        bare += k->c->v[i]->bare;
    return bare;
}

static void draw_all_missing(struct cut *k)
{
    size_t bare = 0;
    for (size_t i = 0; i < k->c->count; i++)
        bare += k->c->v[i]->bare;
    if (bare == 0)
        return; /* a file that has no name yet */
    draw_missing(k, SIZE_MAX, REST_VISIBLE);
    draw_missing(k, SIZE_MAX, REST_LATER);
    for (size_t i = 0; i < min_u64(bare, ALONE_MAX); i++)
        draw_missing(k, i, REST_VISIBLE);
    for (int i = 0; i < MISSING_DRAWS; i++) {
        draw_missing(k, SIZE_MAX, REST_ANY);
        draw_missing(k, test_rand(&k->w->rand) % bare, REST_ANY);
    }
}

/* ---- the walk ---- */

/* What the last event made, outside .tmp; nothing makes two such things at once. */
static const struct disk_versions *find_fresh(const struct cut *k)
{
    const struct disk_versions *fresh = NULL;
    for (size_t i = 0; i < k->c->count; i++) {
        if (k->c->v[i]->since != k->d->events)
            continue;
        CHECK(!fresh);
        fresh = k->c->v[i];
    }
    return fresh;
}

static void cut_here(struct cut *k, bool told)
{
    struct walk *w = k->w;
    bool fresh_only = w->fresh_only || w->swallow != SIZE_MAX;
    k->fresh = fresh_only && !told ? find_fresh(k) : NULL;
    w->counts.cuts++;
    if (fresh_only && !told && !k->fresh)
        return; /* nothing new outside .tmp */
    if (w->swallow != SIZE_MAX)
        draw_all_missing(k);
    else
        draw_all(k);
}

static void say_where(size_t i, const struct disk_event *e)
{
    static const char *const ops[] = { "create", "mkdir", "link", "rename", "unlink",
                                       "write",  "size",  "sync", "mark" };
    snprintf(oracle_where, sizeof(oracle_where), "cut at %zu, %s %s%.150s", i, ops[e->op], e->name,
             e->label);
}

/* One event and the cut behind it.  False if there is no need to go on. */
static bool step(struct cut *k, struct oracle *o, size_t i)
{
    struct walk *w = k->w;
    const struct disk_event *e = &w->log->events[i];
    bool told = e->op == DISK_MARK;
    bool useful = disk_apply(k->d, e, i == w->swallow);
    if (w->useful)
        w->useful[i] = useful;
    if (told)
        oracle_apply(o, e->mark);
    if (i < w->from || (!told && (w->marks_only || i % w->every != 0)))
        return true;
    say_where(i, e);
    disk_choices(k->d, k->c);
    if (w->swallow <= i && w->swallow != SIZE_MAX && count_bare(k) == 0)
        return false; /* made good: from here on it is the run that was tried already */
    cut_here(k, told);
    if (told && w->settles)
        disk_settle(k->d);
    return true;
}

void walk(struct walk *w)
{
    struct disk d;
    struct disk_choices c = { 0 };
    struct oracle o;
    struct cut k = { .w = w, .d = &d, .o = &o, .c = &c };
    memset(&o, 0, sizeof(o)); /* its padding is hashed */
    o.damaged = -1;
    disk_init(&d);
    for (size_t i = 0; i < w->log->count && step(&k, &o, i); i++)
        continue;
    disk_choices_fini(&c);
    disk_fini(&d);
}

void walk_counts_add(struct walk_counts *to, const struct walk_counts *from)
{
    to->cuts += from->cuts;
    to->exhaustive += from->exhaustive;
    to->drawn += from->drawn;
    to->recovered += from->recovered;
}
