/* Making random jobs, and stores that show them at their own time. */
#include "props/prune_world.h"

#include <math.h>

#include "storage/repo/adopt.h"
#include "storage/repo/launch.h"
#include "storage/repo/life.h"
#include "storage/repo/publish.h"
#include "storage/store/wrap_pass.h"

const char *const pw_tags[3] = { "best", "rel-1", "rel-2" };

static uint64_t pick(struct pw_world *w, uint64_t n)
{
    return test_rand(&w->rng) % n;
}

static bool chance(struct pw_world *w, uint64_t one_in)
{
    return pick(w, one_in) == 0;
}

static enum ckpt_status remove_each(void *arg, const struct store_entry *e)
{
    CHECK_OK(store_remove(arg, e->key, NULL));
    return CKPT_OK;
}

/* The one of that name, empty: what is in memory stays there for as long as the process. */
static struct store *new_store(const char *what)
{
    char url[64];
    struct store *s;
    snprintf(url, sizeof(url), "mem://prune-%s", what);
    CHECK_OK(store_open(url, NULL, &s, NULL));
    CHECK_OK(repo_list(s, "", false, remove_each, s, NULL));
    return s;
}

/* ---- a store with the world's time ---- */

struct dated_store {
    struct wrap wrap;
    const struct pw_world *w;
};

static enum ckpt_status dated_now(struct store *s, int64_t *ret_ns, struct ckpt_err *err)
{
    (void)err;
    *ret_ns = ((struct dated_store *)s)->w->now_ns;
    return CKPT_OK;
}

static enum ckpt_status dated_list(struct store *s, const char *prefix, bool one_level,
                                   const char *after, struct store_entry *entries, size_t cap,
                                   size_t *ret_count, bool *ret_more, struct ckpt_err *err)
{
    const struct pw_world *w = ((struct dated_store *)s)->w;
    enum ckpt_status st =
        wrap_pass_list(s, prefix, one_level, after, entries, cap, ret_count, ret_more, err);
    for (size_t i = 0; st == CKPT_OK && i < *ret_count; i++)
        for (size_t k = 0; k < w->count; k++) {
            struct key commit = key_commit(FX_JOB, &w->ckpts[k].name);
            struct key held = key_held(FX_JOB, &w->ckpts[k].name);
            if (strcmp(commit.text, entries[i].key) == 0)
                entries[i].stat.mtime_ns = w->ckpts[k].listed_ns;
            if (strcmp(held.text, entries[i].key) == 0)
                entries[i].stat.mtime_ns = w->ckpts[k].far_ns;
        }
    return st;
}

static enum ckpt_status dated_dup(const struct store *s, struct store **ret, struct ckpt_err *err)
{
    const struct dated_store *d = (const struct dated_store *)s;
    (void)err;
    *ret = pw_again(d->w, d->wrap.inner);
    return CKPT_OK;
}

static const struct store_ops dated_ops = { .scheme = "dated",
                                            .put = wrap_pass_put,
                                            .get = wrap_pass_get,
                                            .stat = wrap_pass_stat,
                                            .list = dated_list,
                                            .remove = wrap_pass_remove,
                                            .sync = wrap_pass_sync,
                                            .now = dated_now,
                                            .dup = dated_dup,
                                            .to_text = wrap_pass_to_text,
                                            .close = wrap_pass_close };

struct store *pw_again(const struct pw_world *w, struct store *s)
{
    struct store *inner;
    struct wrap *d;
    if (s->ops == &dated_ops)
        s = ((struct dated_store *)s)->wrap.inner;
    CHECK_OK(store_dup(s, &inner, NULL));
    CHECK_OK(wrap_new(sizeof(struct dated_store), &dated_ops, inner, &d, NULL));
    ((struct dated_store *)d)->w = w;
    return &d->base;
}

static enum ckpt_status copy_each(void *arg, const struct store_entry *e)
{
    struct store **pair = arg;
    CLEANUP_FREE void *bytes = NULL;
    size_t len;
    CHECK_OK(store_get_all(pair[0], e->key, MIB, &bytes, &len, NULL));
    CHECK_OK(store_put_record(pair[1], e->key, bytes, len, NULL));
    return CKPT_OK;
}

struct store *pw_copy(const struct pw_world *w)
{
    struct store *pair[2] = { w->raw, new_store("copy") };
    CHECK_OK(repo_list(w->raw, "", false, copy_each, pair, NULL));
    struct store *dated = pw_again(w, pair[1]);
    store_close(pair[1]);
    return dated;
}

static enum ckpt_status count_each(void *arg, const struct store_entry *e)
{
    (void)e;
    ++*(size_t *)arg;
    return CKPT_OK;
}

size_t pw_left(struct store *s, const struct ckpt_name *name)
{
    size_t n = fx_there(s, key_commit(FX_JOB, name)) + fx_there(s, key_held(FX_JOB, name));
    for (unsigned h = 0; h < 16; h++)
        CHECK_OK(repo_list(s, key_data(FX_JOB, h, name).text, false, count_each, &n, NULL));
    return n;
}

bool pw_whole(struct store *s, const struct ckpt_name *name)
{
    bool whole = fx_there(s, key_commit(FX_JOB, name));
    for (uint32_t rank = 0; rank < FX_WORLD; rank++)
        whole = whole && fx_there(s, key_manifest(FX_JOB, name, rank)) &&
                fx_there(s, fx_pack_key(name, rank)) &&
                fx_there(s, key_rank_held(FX_JOB, name, rank));
    return whole;
}

/* ---- a history ---- */

static void put_commit(struct pw_world *w, struct pw_ckpt *c)
{
    struct record_commit r = { .name = c->name, .world = FX_WORLD };
    struct record_held h = { .name = c->name, .world = FX_WORLD, .stored_bytes = 201 };
    struct buf b = { 0 };
    fx_parts(w->raw, &c->name);
    if (c->has_loss) {
        r.metric_count = 2;
        r.metrics[0] = (struct record_metric){ "other", -1 };
        r.metrics[1] = (struct record_metric){ "loss", c->loss };
    }
    record_commit_encode(&r, key_commit(FX_JOB, &c->name).text, &b);
    fx_put(w->raw, key_commit(FX_JOB, &c->name), &b);
    if (!c->held)
        return;
    record_held_encode(&h, key_held(FX_JOB, &c->name).text, &b);
    fx_put(w->raw, key_held(FX_JOB, &c->name), &b);
}

/* A save of the newest launch, in one of its forms. */
static void save(struct pw_world *w, uint64_t epoch, uint64_t step, int64_t time_ns)
{
    static const double losses[] = { 1.5, 1.5, 0.25, 3, -2, INFINITY, NAN };
    if (w->count == PW_CKPTS)
        return;
    struct pw_ckpt *c = &w->ckpts[w->count++];
    *c = (struct pw_ckpt){ .name = fx_name(epoch, step),
                           .listed_ns = time_ns,
                           .far_ns = time_ns + (int64_t)pick(w, 3) * PW_HOUR,
                           .held = true };
    c->has_loss = !chance(w, 4);
    c->loss = losses[pick(w, ARRAY_COUNT(losses))];
    if (chance(w, 8)) {
        struct record_abort why = { .status = CKPT_FULL, .rank = 1 };
        c->what = PW_ABORTED;
        CHECK_OK(fx_part(w->raw, &c->name, 0, true, NULL));
        CHECK_OK(publish_abort(w->raw, FX_JOB, &c->name, &why, NULL));
    } else if (chance(w, 10)) {
        c->what = PW_UNDECIDED;
        CHECK_OK(fx_part(w->raw, &c->name, 0, false, NULL));
    } else {
        c->held = !chance(w, 8);
        put_commit(w, c);
    }
}

static void tag_some(struct pw_world *w)
{
    for (size_t i = 0; i < w->count; i++) {
        struct pw_ckpt *c = &w->ckpts[i];
        for (unsigned t = 0; t < ARRAY_COUNT(pw_tags); t++) {
            if (c->what != PW_COMMITTED || c->life != LIFE_LIVE || !chance(w, 24))
                continue;
            bool set = !chance(w, 3);
            fx_tag(w->raw, &c->name, pw_tags[t], 1, true);
            if (!set)
                fx_tag(w->raw, &c->name, pw_tags[t], 2, false);
            c->tags |= set ? 1u << t : 0;
        }
    }
}

/* By the product's own delete, which refuses some; a few are GONE with their data there. */
static void delete_some(struct pw_world *w)
{
    for (size_t i = 0; i < w->count; i++) {
        struct pw_ckpt *c = &w->ckpts[i];
        if (c->what != PW_COMMITTED || c->life != LIFE_LIVE || !chance(w, 10))
            continue;
        if (life_delete(w->raw, FX_JOB, &c->name, "test", NULL) != CKPT_OK)
            continue;
        c->life = LIFE_DELETED;
        if (!chance(w, 3))
            continue;
        fx_life(w->raw, &c->name, 2, LIFE_GONE, 1);
        c->life = LIFE_GONE;
    }
}

static void report_bad(struct pw_world *w, uint64_t epoch)
{
    struct pw_ckpt *c = w->count ? &w->ckpts[pick(w, w->count)] : NULL;
    struct record_bad bad = { .epoch = epoch, .corrupt = true };
    if (!c || c->what != PW_COMMITTED || !chance(w, 3))
        return;
    bad.name = c->name;
    c->bad = true;
    CHECK_OK(launch_put_bad(w->raw, FX_JOB, &bad, NULL));
}

/* What a launch decides when it starts may change undecided saves: they stay what they
 * are, since rank 1's part is never there; and a DELETED point is brought back. */
static struct pw_launch *launch(struct pw_world *w)
{
    char token[32];
    struct launch_who who = { .job = FX_JOB, .token = token, .world = FX_WORLD };
    struct pw_launch *l = &w->launches[w->launch_count++];
    struct pw_ckpt *at = w->count ? &w->ckpts[pick(w, w->count)] : NULL;
    struct lineage_wish wish = { 0 };
    struct record_resolved r = { 0 };
    snprintf(token, sizeof(token), "launch %zu", w->launch_count);
    if (at && at->what == PW_COMMITTED && chance(w, 3))
        wish = (struct lineage_wish){
            .forced = true, .step = at->name.step, .has_epoch = true, .epoch = at->name.epoch
        };
    *l = (struct pw_launch){ 0 };
    CHECK_OK(launch_claim(w->raw, &who, &l->epoch, NULL));
    l->resolved = launch_resolve(w->raw, FX_JOB, l->epoch, &wish, &r, NULL) == CKPT_OK;
    l->forced = r.forced;
    l->has_point = l->resolved && r.kind == RESOLVED_POINT;
    l->point = r.name;
    record_resolved_fini(&r);
    for (size_t i = 0; i < w->count && l->has_point; i++)
        if (name_equal(&w->ckpts[i].name, &l->point))
            w->ckpts[i].life = LIFE_LIVE;
    return l;
}

static void live_through(struct pw_world *w, int64_t *time_ns)
{
    const struct pw_launch *l = launch(w);
    uint64_t step = l->has_point ? l->point.step : 0;
    for (uint64_t saves = pick(w, 9); saves && l->resolved; saves--) {
        static const int64_t gaps[] = { PW_HOUR / 60, PW_HOUR / 3, PW_HOUR, 7 * PW_HOUR,
                                        30 * PW_HOUR };
        step += 10 * (1 + pick(w, 3));
        *time_ns += gaps[pick(w, ARRAY_COUNT(gaps))];
        save(w, l->epoch, step, chance(w, 12) ? *time_ns - 50 * PW_HOUR : *time_ns);
    }
    delete_some(w);
    report_bad(w, l->epoch);
}

/* launch_decide may have put the h/ that a committer did not get to. */
static void look_at_held(struct pw_world *w)
{
    for (size_t i = 0; i < w->count; i++)
        if (w->ckpts[i].what == PW_COMMITTED)
            w->ckpts[i].held = fx_there(w->raw, key_held(FX_JOB, &w->ckpts[i].name));
}

static void look_at_next(struct pw_world *w)
{
    struct lineage l = { 0 };
    struct record_resolved next = { 0 };
    struct roster far = { 0 };
    CHECK_OK(adopt_held(w->tier, FX_JOB, &far, NULL));
    CHECK_OK(launch_history_with(w->raw, FX_JOB, &far, &l, NULL));
    roster_fini(&far);
    w->has_next = lineage_pick_next(&l, &next, NULL) == CKPT_OK && next.kind == RESOLVED_POINT;
    w->next = next.name;
    record_resolved_fini(&next);
    lineage_fini(&l);
}

static void drain_one(struct pw_world *w, struct pw_ckpt *c)
{
    struct record_life dropped = { .life = LIFE_DELETED };
    struct key key = key_life(FX_JOB, &c->name, true, 1);
    struct buf b = { 0 };
    CHECK_OK(fx_part(w->tier, &c->name, 0, false, NULL));
    c->draining = chance(w, 4);
    if (c->draining)
        return;
    CHECK_OK(store_put_record(w->tier, key_held(FX_JOB, &c->name).text, "h", 1, NULL));
    c->far = !chance(w, 8);
    if (c->far)
        return;
    record_life_encode(&dropped, key.text, &b); /* the tier is about to drop its copy */
    fx_put(w->tier, key, &b);
}

static void drain_some(struct pw_world *w, uint64_t one_in)
{
    for (size_t i = 0; i < w->count; i++)
        if (w->ckpts[i].what == PW_COMMITTED && chance(w, one_in))
            drain_one(w, &w->ckpts[i]);
}

/* The home's disk was lost before `epoch` began: what is older came back as records alone, and
 * as young as the new disk. */
static void lose_home(struct pw_world *w, uint64_t epoch, int64_t time_ns)
{
    for (size_t i = 0; i < w->count; i++) {
        struct pw_ckpt *c = &w->ckpts[i];
        if (c->what != PW_COMMITTED || c->name.epoch >= epoch)
            continue;
        CHECK_OK(store_remove(w->raw, key_held(FX_JOB, &c->name).text, NULL));
        for (unsigned h = 0; h < 16; h++)
            CHECK_OK(repo_list(w->raw, key_data(FX_JOB, h, &c->name).text, false, remove_each,
                               w->raw, NULL));
        c->absent = true;
        c->listed_ns = time_ns;
    }
}

static void drain_and_lose(struct pw_world *w, int64_t time_ns)
{
    bool lost = chance(w, 3);
    if (lost || chance(w, 3))
        drain_some(w, lost ? 2 : 6);
    if (lost)
        lose_home(w, pick(w, w->launch_count + 2), time_ns);
    for (size_t i = 0; i < w->count; i++) {
        struct pw_ckpt *c = &w->ckpts[i];
        c->time_ns = c->far && c->far_ns < c->listed_ns ? c->far_ns : c->listed_ns;
    }
}

/* ---- a policy ---- */

static void add_rule(struct pw_world *w)
{
    static const char *const words[] = { "last",  "every",  "within", "hourly",
                                         "daily", "weekly", "tag",    "best" };
    static const char *const patterns[] = { "best", "rel-*", "rel-2", "*", "x*" };
    struct pw_rule r = { .kind = (enum keep_kind)pick(w, ARRAY_COUNT(words)), .n = 1 + pick(w, 4) };
    char value[64];
    if (r.kind == KEEP_EVERY)
        r.n *= 10;
    snprintf(value, sizeof(value), "%" PRIu64, r.n);
    if (r.kind == KEEP_WITHIN) {
        static const int64_t hours[] = { 1, 24, 48, 336 };
        r.within_ns = hours[r.n - 1] * PW_HOUR;
        snprintf(value, sizeof(value), "%s", (const char *[]){ "60m", "24h", "2d", "2w" }[r.n - 1]);
    } else if (r.kind == KEEP_TAG) {
        r.pattern = patterns[pick(w, ARRAY_COUNT(patterns))];
        snprintf(value, sizeof(value), "%s", r.pattern);
    } else if (r.kind == KEEP_BEST) {
        r.highest = chance(w, 2);
        r.n = chance(w, 2) ? 1 : r.n;
        snprintf(value, sizeof(value), "loss%s", r.highest ? ":max" : chance(w, 2) ? ":min" : "");
        if (r.n > 1)
            snprintf(value + strlen(value), 8, ":%d", (int)r.n);
    }
    if (keep_policy_add(&w->policy, words[r.kind], value, NULL) == CKPT_OK)
        w->rules[w->rule_count++] = r; /* else it was there already */
}

void pw_make(struct pw_world *w, unsigned long long seed)
{
    int64_t time_ns = INT64_C(4000000000) * 1000000000; /* after what the product dates */
    struct store *tier = new_store("tier");
    *w = (struct pw_world){ .rng = seed, .raw = new_store("job") };
    w->tier = pw_again(w, tier);
    store_close(tier);
    for (uint64_t n = 1 + pick(w, 5); n; n--)
        live_through(w, &time_ns);
    tag_some(w);
    drain_and_lose(w, time_ns);
    look_at_held(w);
    look_at_next(w);
    w->now_ns = time_ns + (int64_t)pick(w, 3) * 11 * PW_HOUR;
    for (uint64_t n = 1 + pick(w, PW_RULES); n; n--)
        add_rule(w);
}

void pw_fini(struct pw_world *w)
{
    store_close(w->raw);
    store_close(w->tier);
}
