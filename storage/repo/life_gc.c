/* Collecting what is deleted or was given up (rules D3, D4).
 *
 * One pass joins three listings, c/ x/ d/, and takes each attempt one step or more on:
 *
 *   DELETED, grace over      GONE, if the newest `resolved` does not name it (else LIVE)
 *   GONE                     data, h/, then c/ are removed; the log stays abort_keep
 *   no c/, launch replaced   c/ is won with ABORT, then the data is removed
 *   ABORT, launch replaced   data is removed; ABORT stays abort_keep
 *   ABORT for abort_wait     data is removed
 *
 * Another store of the job goes by its home's records: GONE there is put here, and what lies
 * in a node's own directory is removed when the home has ABORT for it, or gives it up.
 *
 * Every step is decided by a record before anything is removed, and c/ goes last: a gc
 * that dies anywhere leaves what the next one recognises. */
#include <inttypes.h>

#include "storage/repo/adopt.h"
#include "storage/repo/launch.h"
#include "storage/repo/life.h"
#include "storage/repo/life_log.h"
#include "storage/repo/owner.h"
#include "storage/repo/publish.h"
#include "storage/repo/roster.h"
#include "storage/repo/tags.h"

struct gc {
    struct store *s;
    struct store *home; /* decides; the same unless s is another tier */
    const char *job;
    const struct life_gc_options *o;
    struct life_gc_report report;
    int64_t now_ns, home_ns; /* by either clock */
    uint64_t resolved;       /* epoch of the newest resolved launch; attempts below it are old */
    struct record_repo repo; /* the home's; zeros if that is s, where nobody marks his own */
    uint64_t compared;       /* launch that is the same in both stores, ... */
    struct owner owner;      /* ... and whose saves of it are marked here */
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
static bool older(int64_t now_ns, int64_t since_ns, int64_t by_ns)
{
    return since_ns <= now_ns && now_ns - since_ns >= by_ns;
}

/* H1: attempts of one name may be two homes'.  A node's own directory may have been a home before:
 * what it holds of that launch is then left alone. */
static enum ckpt_status look_whose(struct gc *g, uint64_t epoch)
{
    struct ckpt_err why = { 0 };
    enum ckpt_status st = CKPT_OK;
    if (g->compared == epoch)
        return CKPT_OK;
    if (g->home != g->s)
        st = adopt_check_epoch(g->home, g->s, g->job, epoch, &why);
    bool another = st == CKPT_CONFLICT;
    if (st == CKPT_OK || another)
        st = owner_look(g->s, g->job, epoch, &g->repo, &g->owner, &why);
    if (st == CKPT_OK && another && !g->owner.any)
        st = CKPT_CONFLICT;
    if (st != CKPT_OK)
        return err_set(g->err, st, "%s", err_text(&why));
    g->owner.others |= another;
    g->compared = epoch;
    return CKPT_OK;
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

/* GONE stands, for good.  A crash in here leaves c/ until the last, so that the next gc
 * comes back. */
static enum ckpt_status collect(struct gc *g, const struct attempt *a)
{
    enum ckpt_status st = CKPT_OK;
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

/* Forgets the name, and tags that nobody took away.  A power cut may have brought back h/
 * alone.  GONE is the last entry to go: an older one alone would bring the checkpoint back
 * to life. */
static enum ckpt_status forget(struct gc *g, const struct attempt *a)
{
    struct key newest = key_life(g->job, &a->name, false, a->log->n);
    struct forgetting f = { .g = g, .newest = newest.text };
    struct key log = key_life_of(g->job, &a->name, false);
    enum ckpt_status st = remove_record(g, key_held(g->job, &a->name));
    if (st == CKPT_OK)
        st = removed_for_good(g, &a->name);
    if (st == CKPT_OK)
        st = repo_list(g->s, key_tags_of(g->job, &a->name).text, false, remove_but_newest, &f,
                       g->err);
    if (st == CKPT_OK)
        st = repo_list(g->s, log.text, false, remove_but_newest, &f, g->err);
    return st == CKPT_OK ? remove_record(g, newest) : st;
}

/* ---- one attempt ---- */

/* D3: the newest entry is DELETED and its grace is over. */
static enum ckpt_status end_deleted(struct gc *g, const struct attempt *a)
{
    bool named = false, tagged = false;
    enum ckpt_status st = tags_any(g->s, g->job, &a->name, &tagged, g->err);
    if (st == CKPT_OK)
        st = launch_names(g->s, g->job, &a->name, &named, g->err);
    if (st != CKPT_OK)
        return st;
    bool wanted = named || tagged;
    if (!g->o->dry_run)
        st = life_append(g->s, g->job, &a->name, a->log->n + 1, wanted ? LIFE_LIVE : LIFE_GONE,
                         named    ? "the newest launch resumes from it"
                         : tagged ? "it has a tag"
                                  : "collected",
                         g->err);
    if (st != CKPT_OK) /* CONFLICT: somebody else decided: the next gc sees what */
        return st == CKPT_CONFLICT ? CKPT_OK : st;
    g->report.restored_to_live += wanted;
    return wanted ? CKPT_OK : collect(g, a);
}

static enum ckpt_status step_logged(struct gc *g, const struct attempt *a)
{
    struct record_life r;
    enum ckpt_status st = life_read(g->s, g->job, &a->name, false, a->log->n, &r, g->err);
    if (st != CKPT_OK) /* another gc forgot it since */
        return st == CKPT_NOT_FOUND ? CKPT_OK : st;
    if (r.life == LIFE_DELETED && older(g->now_ns, r.time_ns, g->o->grace_ns))
        return end_deleted(g, a);
    if (r.life != LIFE_GONE)
        return CKPT_OK;
    if (a->commit || a->data)
        return collect_again(g, a);
    return older(g->now_ns, r.time_ns, g->o->abort_keep_ns) ? forget(g, a) : CKPT_OK;
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
        st = publish_abort(g->home, g->job, &a->name, &why, &lost);
    if (st == CKPT_EXISTS) /* committed since it was listed */
        return CKPT_OK;
    if (st != CKPT_OK)
        return err_set(g->err, st, "%s", err_text(&lost));
    g->report.aborted++;
    return remove_data(g, &a->name, a->data->shards);
}

/* As small as an ABORT may also be a commit's record that the disk has cut off: it is left for
 * repair, and so is its data. */
static enum ckpt_status is_abort(struct gc *g, const struct attempt *a, bool *ret)
{
    struct key key = key_commit(g->job, &a->name);
    CLEANUP_FREE void *bytes = NULL;
    size_t len = 0;
    struct record_abort abort_record;
    struct ckpt_err why = { 0 };
    enum ckpt_status st = repo_get(g->home, &key, &bytes, &len, &why);
    if (st == CKPT_OK)
        st = record_abort_decode(bytes, len, key.text, &abort_record, &why);
    *ret = st == CKPT_OK;
    if (st == CKPT_OK || st == CKPT_NOT_FOUND || st == CKPT_CORRUPT)
        return CKPT_OK;
    return err_set(g->err, st, "%s", err_text(&why));
}

/* The same for ABORT, which may not be named for good yet either. */
static enum ckpt_status collect_aborted(struct gc *g, const struct attempt *a)
{
    bool aborted;
    enum ckpt_status st = is_abort(g, a, &aborted);
    if (st != CKPT_OK || !aborted)
        return st;
    if (!g->o->dry_run)
        st = store_sync(g->home, key_commits(g->job).text, g->err);
    return st == CKPT_OK ? remove_data(g, &a->name, a->data->shards) : st;
}

static enum ckpt_status forget_aborted(struct gc *g, const struct attempt *a)
{
    bool aborted;
    enum ckpt_status st = is_abort(g, a, &aborted);
    if (st != CKPT_OK || !aborted)
        return st;
    st = removed_for_good(g, &a->name);
    return st == CKPT_OK ? remove_record(g, key_commit(g->job, &a->name)) : st;
}

/* Nobody writes to it any more, or it is to be given up.  Of the launch that runs: what failed,
 * after a while.  ABORT stays. */
static bool is_over(const struct gc *g, const struct attempt *a)
{
    bool old = old_launch(g, a);
    if (!a->commit)
        return old && g->o->undecided;
    return roster_is_abort(a->commit) &&
           (old || older(g->home_ns, a->commit->stat.mtime_ns, g->o->abort_wait_ns));
}

static enum ckpt_status end_unfinished(struct gc *g, const struct attempt *a)
{
    return a->commit ? collect_aborted(g, a) : give_up(g, a);
}

/* What is marked is of a home that had this one as a node's directory. */
static enum ckpt_status step_unfinished(struct gc *g, const struct attempt *a)
{
    if (!is_over(g, a))
        return CKPT_OK;
    enum ckpt_status st = look_whose(g, a->name.epoch);
    bool marked = g->owner.ours || g->owner.others;
    return st == CKPT_OK && !marked ? end_unfinished(g, a) : st;
}

static enum ckpt_status step_one(struct gc *g, const struct attempt *a)
{
    if (a->log)
        return step_logged(g, a);
    if (a->data)
        return step_unfinished(g, a);
    bool forgotten = old_launch(g, a) && roster_is_abort(a->commit) &&
                     older(g->home_ns, a->commit->stat.mtime_ns, g->o->abort_keep_ns);
    return forgotten ? forget_aborted(g, a) : CKPT_OK;
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

struct cursors {
    size_t c, x, d;
};

/* The next name that any listing has, newest first; false at the end. */
static bool next_attempt(const struct listings *l, struct cursors *at, struct attempt *ret)
{
    const struct ckpt_name *least = first_of(&l->commits, at->c, NULL);
    least = first_of(&l->lives, at->x, least);
    least = first_of(&l->data, at->d, least);
    if (!least)
        return false;
    *ret = (struct attempt){ .name = *least };
    ret->commit = next_if(&l->commits, &at->c, &ret->name);
    ret->log = next_if(&l->lives, &at->x, &ret->name);
    ret->data = next_if(&l->data, &at->d, &ret->name);
    return true;
}

static void listings_fini(struct listings *l)
{
    roster_fini(&l->commits);
    roster_fini(&l->lives);
    roster_fini(&l->data);
}

/* `resolved` before d/, d/ before c/: what is listed as undecided was so when its launch
 * had been replaced already. */
static enum ckpt_status look_around(struct gc *g, struct listings *l)
{
    struct record_resolved newest;
    enum ckpt_status st = store_now(g->s, &g->now_ns, g->err);
    g->home_ns = g->now_ns;
    if (st == CKPT_OK && g->home != g->s)
        st = store_now(g->home, &g->home_ns, g->err);
    if (st == CKPT_OK)
        st = launch_newest(g->home, g->job, &newest, g->err);
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

enum ckpt_status life_gc(struct store *s, const char *job, const struct life_gc_options *o,
                         struct life_gc_report *ret, struct ckpt_err *err)
{
    struct gc g = { .s = s, .home = s, .job = job, .o = o, .err = err };
    struct listings l = { 0 };
    struct cursors at = { 0 };
    struct attempt a;
    enum ckpt_status st = look_around(&g, &l);
    while (st == CKPT_OK && next_attempt(&l, &at, &a))
        st = step_one(&g, &a);
    listings_fini(&l);
    if (st == CKPT_OK)
        *ret = g.report;
    return st;
}

/* ---- other tiers ---- */

/* What the home says, listed behind what lies in the tier. */
struct home_says {
    struct roster commits, lives;
};

static enum ckpt_status gone_at_home(struct gc *g, const struct home_says *at,
                                     const struct ckpt_name *name, bool *ret)
{
    const struct roster_entry *log = roster_find(&at->lives, name);
    struct record_life r = { .life = LIFE_LIVE };
    enum ckpt_status st = CKPT_OK;
    if (log)
        st = life_read(g->home, g->job, name, false, log->n, &r, g->err);
    *ret = st == CKPT_OK && r.life == LIFE_GONE;
    return st == CKPT_NOT_FOUND ? CKPT_OK : st;
}

/* A drain that is under way looks for GONE before it puts c/ and h/. */
static enum ckpt_status end_in_tier(struct gc *g, const struct attempt *a)
{
    enum ckpt_status st = CKPT_OK;
    if (!g->o->dry_run)
        st = life_append(g->s, g->job, &a->name, a->log ? a->log->n + 1 : 1, LIFE_GONE,
                         "gone at home", g->err);
    if (st == CKPT_CONFLICT) /* another gc: the next one sees what */
        return CKPT_OK;
    return st == CKPT_OK ? collect(g, a) : st;
}

static enum ckpt_status step_in_tier(struct gc *g, const struct home_says *at,
                                     const struct attempt *a)
{
    const struct attempt there = { .name = a->name,
                                   .commit = roster_find(&at->commits, &a->name),
                                   .data = a->data };
    struct record_life r = { .life = LIFE_LIVE };
    enum ckpt_status st = CKPT_OK;
    bool gone = false;
    if (a->log)
        st = life_read(g->s, g->job, &a->name, false, a->log->n, &r, g->err);
    if (st != CKPT_OK)
        return st == CKPT_NOT_FOUND ? CKPT_OK : st;
    if (r.life == LIFE_GONE)
        return step_logged(g, a);
    st = gone_at_home(g, at, &a->name, &gone);
    /* With a c/ of its own it is a copy, of which the home may have lost all trace. */
    bool unfinished = !gone && a->data && !a->commit && is_over(g, &there);
    if (st == CKPT_OK && (gone || unfinished))
        st = look_whose(g, a->name.epoch);
    if (st != CKPT_OK || g->owner.others)
        return st;
    if (gone)
        return end_in_tier(g, a);
    return unfinished && g->owner.ours ? end_unfinished(g, &there) : CKPT_OK;
}

enum ckpt_status life_gc_tier(struct store *home, struct store *tier, const char *job,
                              const struct life_gc_options *o, struct life_gc_report *io_report,
                              struct ckpt_err *err)
{
    struct gc g = { .s = tier, .home = home, .job = job, .o = o, .report = *io_report, .err = err };
    struct listings l = { 0 };
    struct home_says says = { 0 };
    struct cursors at = { 0 };
    struct attempt a;
    enum ckpt_status st = repo_open(home, false, &g.repo, err);
    if (st == CKPT_OK)
        st = look_around(&g, &l);
    if (st == CKPT_OK)
        st = roster_commits(home, job, &says.commits, err);
    if (st == CKPT_OK) /* behind c/: GONE is put before c/ goes */
        st = roster_lives(home, job, &says.lives, err);
    while (st == CKPT_OK && next_attempt(&l, &at, &a))
        st = step_in_tier(&g, &says, &a);
    listings_fini(&l);
    roster_fini(&says.commits);
    roster_fini(&says.lives);
    if (st == CKPT_OK)
        *io_report = g.report;
    return st;
}
