/* Collecting what is deleted or was given up (rules D3, D4).
 *
 * One pass joins three listings, c/ x/ d/, and takes each attempt one step or more on:
 *
 *   DELETED, grace over      GONE, if the newest `resolved` does not name it (else LIVE)
 *   GONE                     data, h/, then c/ are removed; the log stays abort_keep
 *   no c/, launch replaced   c/ is won with ABORT, then the data is removed
 *   ABORT, launch replaced   data is removed; ABORT stays abort_keep
 *
 * Every step is decided by a record before anything is removed, and c/ goes last: a gc
 * that dies anywhere leaves what the next one recognises. */
#include <inttypes.h>

#include "storage/repo/catalog.h"
#include "storage/repo/launch.h"
#include "storage/repo/life.h"
#include "storage/repo/life_log.h"
#include "storage/repo/publish.h"
#include "storage/repo/roster.h"

struct gc {
    struct store *s;
    const char *job;
    const struct life_gc_options *o;
    struct life_gc_report report;
    int64_t now_ns;
    uint64_t resolved; /* epoch of the newest resolved launch; attempts below it are old */
    struct ckpt_err *err;
};

/* What the listings say of one attempt; NULL = nothing. */
struct attempt {
    struct ckpt_name name;
    const struct roster_entry *commit, *log, *data;
};

static bool old_launch(const struct gc *g, const struct attempt *a)
{
    return a->name.epoch < g->resolved;
}

/* A clock that was set back makes things younger, never older. */
static bool older(const struct gc *g, int64_t since_ns, int64_t by_ns)
{
    return since_ns <= g->now_ns && g->now_ns - since_ns >= by_ns;
}

/* ---- removing ---- */

static enum ckpt_status remove_each(void *arg, const struct store_entry *e)
{
    struct gc *g = arg;
    g->report.objects++;
    g->report.bytes += e->stat.bytes;
    return g->o->dry_run ? CKPT_OK : store_remove(g->s, e->key, g->err);
}

static enum ckpt_status remove_data(struct gc *g, const struct ckpt_name *name, unsigned shards)
{
    enum ckpt_status st = CKPT_OK;
    for (unsigned h = 0; h < 16 && st == CKPT_OK; h++)
        if (shards >> h & 1)
            st = repo_list(g->s, key_data(g->job, h, name).text, false, remove_each, g, g->err);
    return st;
}

static enum ckpt_status remove_record(struct gc *g, struct key key)
{
    return g->o->dry_run ? CKPT_OK : store_remove(g->s, key.text, g->err);
}

/* D3: a drain under way to one of them, or a home that adopts from it later, must find that
 * it is over.  Also where nothing lies yet: what a drain puts after this counts as nothing. */
static enum ckpt_status gone_in_tier(const struct gc *g, struct store *tier,
                                     const struct ckpt_name *name, struct ckpt_err *err)
{
    enum ckpt_status st;
    do {
        enum life life;
        uint64_t n = 0;
        st = life_look(tier, g->job, name, false, &life, &n, NULL, err);
        if (st != CKPT_OK || life == LIFE_GONE)
            return st;
        st = life_append(tier, g->job, name, n + 1, LIFE_GONE, "collected", err);
    } while (st == CKPT_CONFLICT);
    return st;
}

/* False: some tier could not be told; the next gc tries again. */
static bool gone_everywhere(struct gc *g, const struct ckpt_name *name)
{
    for (size_t i = 0; i < g->o->tier_count && !g->o->dry_run; i++) {
        struct ckpt_err why = { 0 };
        if (gone_in_tier(g, g->o->tiers[i], name, &why) != CKPT_OK) {
            g->report.waiting++;
            return false;
        }
    }
    return true;
}

/* GONE stands, for good.  A crash in here leaves c/ until the last, so that the next gc
 * comes back. */
static enum ckpt_status collect(struct gc *g, const struct attempt *a)
{
    enum ckpt_status st = CKPT_OK;
    if (!gone_everywhere(g, &a->name))
        return st;
    if (a->data)
        st = remove_data(g, &a->name, a->data->shards);
    if (st == CKPT_OK)
        st = remove_record(g, key_held(g->job, &a->name));
    if (st == CKPT_OK)
        st = remove_record(g, key_commit(g->job, &a->name));
    if (st == CKPT_OK)
        g->report.collected++;
    return st;
}

/* GONE was found: the gc that put it may have been killed before it was named for good. */
static enum ckpt_status collect_again(struct gc *g, const struct attempt *a)
{
    enum ckpt_status st = CKPT_OK;
    if (!g->o->dry_run)
        st = store_sync(g->s, key_life_of(g->job, &a->name, false).text, g->err);
    return st == CKPT_OK ? collect(g, a) : st;
}

/* Removing is not durable by itself: after a power cut c/ or data may be back.  While
 * GONE or ABORT stands that is harmless, so this comes before the guard goes. */
static enum ckpt_status removed_for_good(struct gc *g, const struct ckpt_name *name)
{
    if (g->o->dry_run)
        return CKPT_OK;
    enum ckpt_status st = store_sync(g->s, key_commits(g->job).text, g->err);
    if (st == CKPT_OK)
        st = store_sync(g->s, key_helds(g->job).text, g->err);
    for (unsigned h = 0; h < 16 && st == CKPT_OK; h++)
        st = store_sync(g->s, key_data(g->job, h, name).text, g->err);
    return st;
}

struct forgetting {
    struct gc *g;
    const char *newest;
};

static enum ckpt_status remove_but_newest(void *arg, const struct store_entry *e)
{
    struct forgetting *f = arg;
    if (strcmp(e->key, f->newest) == 0 || f->g->o->dry_run)
        return CKPT_OK;
    return store_remove(f->g->s, e->key, f->g->err);
}

/* Forgets the name.  A power cut may have brought back h/ alone.  GONE is the last entry to go: an older one alone would bring the
 * checkpoint back to life. */
static enum ckpt_status forget(struct gc *g, const struct attempt *a)
{
    struct key newest = key_life(g->job, &a->name, false, a->log->n);
    struct forgetting f = { .g = g, .newest = newest.text };
    struct key log = key_life_of(g->job, &a->name, false);
    enum ckpt_status st = remove_record(g, key_held(g->job, &a->name));
    if (st == CKPT_OK)
        st = removed_for_good(g, &a->name);
    if (st == CKPT_OK)
        st = repo_list(g->s, log.text, false, remove_but_newest, &f, g->err);
    return st == CKPT_OK ? remove_record(g, newest) : st;
}

/* ---- one attempt ---- */

/* D3: the newest entry is DELETED and its grace is over. */
static enum ckpt_status end_deleted(struct gc *g, const struct attempt *a)
{
    bool named = false, tagged = false;
    enum ckpt_status st = catalog_tagged(g->s, g->job, &a->name, &tagged, g->err);
    if (st != CKPT_OK || tagged)
        return st;
    st = launch_names(g->s, g->job, &a->name, &named, g->err);
    if (st != CKPT_OK)
        return st;
    if (named)
        g->report.restored_to_live++;
    if (!g->o->dry_run)
        st = life_append(g->s, g->job, &a->name, a->log->n + 1, named ? LIFE_LIVE : LIFE_GONE,
                         named ? "the newest launch resumes from it" : "collected", g->err);
    if (st == CKPT_CONFLICT) { /* somebody else decided: the next gc sees what */
        g->report.restored_to_live -= named;
        return CKPT_OK;
    }
    return st != CKPT_OK || named ? st : collect(g, a);
}

static enum ckpt_status step_logged(struct gc *g, const struct attempt *a)
{
    struct record_life r;
    enum ckpt_status st = life_read(g->s, g->job, &a->name, false, a->log->n, &r, g->err);
    if (st != CKPT_OK) /* another gc forgot it since */
        return st == CKPT_NOT_FOUND ? CKPT_OK : st;
    if (r.life == LIFE_DELETED && older(g, r.time_ns, g->o->grace_ns))
        return end_deleted(g, a);
    if (r.life != LIFE_GONE)
        return CKPT_OK;
    if (a->commit || a->data)
        return collect_again(g, a);
    return older(g, r.time_ns, g->o->abort_keep_ns) ? forget(g, a) : CKPT_OK;
}

/* D4, S5: whoever gives an attempt up must first win c/. */
static enum ckpt_status give_up(struct gc *g, const struct attempt *a)
{
    struct record_abort why = { .status = CKPT_SUPERSEDED,
                                .rank = UINT32_MAX,
                                .by_epoch = g->resolved };
    struct ckpt_err lost = { 0 };
    enum ckpt_status st = CKPT_OK;
    if (!g->o->dry_run)
        st = publish_abort(g->s, g->job, &a->name, &why, &lost);
    if (st == CKPT_EXISTS) /* committed since it was listed */
        return CKPT_OK;
    if (st != CKPT_OK)
        return err_set(g->err, st, "%s", err_text(&lost));
    g->report.aborted++;
    return remove_data(g, &a->name, a->data->shards);
}

/* The same for ABORT, which may not be named for good yet either. */
static enum ckpt_status collect_aborted(struct gc *g, const struct attempt *a)
{
    enum ckpt_status st =
        g->o->dry_run ? CKPT_OK : store_sync(g->s, key_commits(g->job).text, g->err);
    return st == CKPT_OK ? remove_data(g, &a->name, a->data->shards) : st;
}

static enum ckpt_status step_one(struct gc *g, const struct attempt *a)
{
    if (a->log)
        return step_logged(g, a);
    if (!old_launch(g, a))
        return CKPT_OK;
    if (!a->commit)
        return g->o->undecided ? give_up(g, a) : CKPT_OK;
    if (!roster_is_abort(a->commit))
        return CKPT_OK;
    if (a->data)
        return collect_aborted(g, a);
    if (!older(g, a->commit->stat.mtime_ns, g->o->abort_keep_ns))
        return CKPT_OK;
    enum ckpt_status st = removed_for_good(g, &a->name);
    return st == CKPT_OK ? remove_record(g, key_commit(g->job, &a->name)) : st;
}

/* ---- the pass ---- */

struct listings {
    struct roster commits, lives, data;
};

/* The entry of `r` at *at if it is `name`, and then goes on. */
static const struct roster_entry *next_if(const struct roster *r, size_t *at,
                                          const struct ckpt_name *name)
{
    if (*at < r->count && name_equal(&r->entries[*at].name, name))
        return &r->entries[(*at)++];
    return NULL;
}

static const struct ckpt_name *first_of(const struct roster *r, size_t at,
                                        const struct ckpt_name *least)
{
    if (at == r->count || (least && roster_order(least, &r->entries[at].name) <= 0))
        return least;
    return &r->entries[at].name;
}

static enum ckpt_status step_all(struct gc *g, const struct listings *l)
{
    size_t c = 0, x = 0, d = 0;
    for (;;) {
        const struct ckpt_name *least = first_of(&l->commits, c, NULL);
        least = first_of(&l->lives, x, least);
        least = first_of(&l->data, d, least);
        if (!least)
            return CKPT_OK;
        struct attempt a = { .name = *least };
        a.commit = next_if(&l->commits, &c, &a.name);
        a.log = next_if(&l->lives, &x, &a.name);
        a.data = next_if(&l->data, &d, &a.name);
        enum ckpt_status st = step_one(g, &a);
        if (st != CKPT_OK)
            return st;
    }
}

/* `resolved` before d/, d/ before c/: what is listed as undecided was so when its launch
 * had been replaced already. */
static enum ckpt_status look_around(struct gc *g, struct listings *l)
{
    struct record_resolved newest;
    enum ckpt_status st = store_now(g->s, &g->now_ns, g->err);
    if (st == CKPT_OK)
        st = launch_newest(g->s, g->job, &newest, g->err);
    if (st == CKPT_OK) {
        g->resolved = newest.epoch;
        record_resolved_fini(&newest);
    }
    if (st == CKPT_OK || st == CKPT_NOT_FOUND)
        st = roster_data(g->s, g->job, &l->data, g->err);
    if (st == CKPT_OK)
        st = roster_lives(g->s, g->job, &l->lives, g->err);
    if (st == CKPT_OK)
        st = roster_commits(g->s, g->job, &l->commits, g->err);
    return st;
}

/* What is GONE in a tier goes there by the same pass.  The tier decides nothing: its DELETED
 * entries, if any, never get old, and its attempts are nobody's to give up.  One that cannot
 * be reached is collected another time. */
static enum ckpt_status collect_tier(struct gc *g, struct store *tier)
{
    const struct life_gc_options o = { .grace_ns = INT64_MAX,
                                       .abort_keep_ns = g->o->abort_keep_ns,
                                       .dry_run = g->o->dry_run };
    struct life_gc_report r = { 0 };
    struct ckpt_err why = { 0 };
    enum ckpt_status st = life_gc(tier, g->job, &o, &r, &why);
    if (st == CKPT_NO_MEMORY || st == CKPT_CANCELLED)
        return err_set(g->err, st, "%s", err_text(&why));
    g->report.waiting += st != CKPT_OK;
    g->report.objects += r.objects;
    g->report.bytes += r.bytes;
    return CKPT_OK;
}

enum ckpt_status life_gc(struct store *s, const char *job, const struct life_gc_options *o,
                         struct life_gc_report *ret, struct ckpt_err *err)
{
    struct gc g = { .s = s, .job = job, .o = o, .err = err };
    struct listings l = { 0 };
    enum ckpt_status st = look_around(&g, &l);
    if (st == CKPT_OK)
        st = step_all(&g, &l);
    roster_fini(&l.commits);
    roster_fini(&l.lives);
    roster_fini(&l.data);
    for (size_t i = 0; st == CKPT_OK && i < o->tier_count; i++)
        st = collect_tier(&g, o->tiers[i]);
    if (st == CKPT_OK)
        *ret = g.report;
    return st;
}
