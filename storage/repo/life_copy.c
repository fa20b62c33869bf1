/* See life_copy.h. */
#include "storage/repo/life_copy.h"

#include <stdio.h>

#include "storage/repo/launch.h"
#include "storage/repo/life_log.h"
#include "storage/repo/roster.h"
#include "storage/repo/tags.h"

static bool is_home(const struct copy_place *p)
{
    return p->here == p->home;
}

/* If it is neither, it is a node's own directory, where parts lie and no records of checkpoints. */
static bool is_tier(const struct copy_place *p)
{
    bool is = false;
    for (size_t i = 0; i < p->tier_count; i++)
        is |= p->tiers[i] == p->here;
    return is;
}

/* -- removing: GONE stands ----------------------------------------------------------------- */

struct removing {
    const struct copy_place *p;
    struct copy_report *report;
    bool marks;    /* only the records that say what is here */
    size_t prefix; /* of the listing */
    struct ckpt_err *err;
};

/* The home keeps manifests and index. */
static bool goes(const struct removing *r, const char *key)
{
    struct key_data_parts parts = { 0 };
    enum key_kind kind = key_parse_data(key + r->prefix, &parts);
    if (r->marks)
        return kind == KEY_RANK_HELD;
    return !is_home(r->p) || (kind != KEY_MANIFEST && kind != KEY_INDEX);
}

static enum ckpt_status remove_one(void *arg, const struct store_entry *e)
{
    struct removing *r = arg;
    if (!goes(r, e->key))
        return CKPT_OK;
    r->report->objects++;
    r->report->bytes += e->stat.bytes;
    return store_remove(r->p->here, e->key, r->err);
}

static enum ckpt_status remove_pass(struct removing *r, const struct ckpt_name *name)
{
    enum ckpt_status st = CKPT_OK;
    for (unsigned h = 0; h < 16 && st == CKPT_OK; h++) {
        struct key dir = key_data(r->p->job, h, name);
        r->prefix = strlen(dir.text);
        st = repo_list(r->p->here, dir.text, false, remove_one, r, r->err);
        if (st == CKPT_OK)
            st = store_sync(r->p->here, dir.text, r->err);
    }
    return st;
}

static enum ckpt_status remove_records(const struct copy_place *p, const struct ckpt_name *name,
                                       struct ckpt_err *err)
{
    enum ckpt_status st = store_remove(p->here, key_held(p->job, name).text, err);
    if (st == CKPT_OK)
        st = store_sync(p->here, key_helds(p->job).text, err);
    if (st == CKPT_OK && is_tier(p))
        st = store_remove(p->here, key_commit(p->job, name).text, err);
    if (st == CKPT_OK && is_tier(p))
        st = store_sync(p->here, key_commits(p->job).text, err);
    return st;
}

struct forgetting {
    struct store *s;
    const char *newest;
    struct ckpt_err *err;
};

static enum ckpt_status forget_older(void *arg, const struct store_entry *e)
{
    const struct forgetting *f = arg;
    return strcmp(e->key, f->newest) == 0 ? CKPT_OK : store_remove(f->s, e->key, f->err);
}

/* GONE, the n-th, is the last entry to go. */
static enum ckpt_status leave_alone(const struct copy_place *p, const struct ckpt_name *name,
                                    uint64_t n, struct ckpt_err *err)
{
    struct key log = key_life_of(p->job, name, true), newest = key_life(p->job, name, true, n);
    struct forgetting f = { .s = p->here, .newest = newest.text, .err = err };
    return repo_list(p->here, log.text, false, forget_older, &f, err);
}

/* First, and for good, what says that data is here.  n: of GONE. */
static enum ckpt_status remove_copy(const struct copy_place *p, const struct ckpt_name *name,
                                    uint64_t n, struct copy_report *report, struct ckpt_err *err)
{
    struct removing r = { .p = p, .report = report, .marks = true, .err = err };
    enum ckpt_status st = remove_records(p, name, err);
    if (st == CKPT_OK)
        st = remove_pass(&r, name);
    r.marks = false;
    if (st == CKPT_OK)
        st = remove_pass(&r, name);
    return st == CKPT_OK && is_home(p) ? leave_alone(p, name, n, err) : st;
}

/* -- one ------------------------------------------------------------------------------------ */

/* H1: under that name another home's checkpoint may lie in a tier.  c/ never changes. */
static enum ckpt_status is_ours(const struct copy_place *p, struct store *tier,
                                const struct ckpt_name *name, bool *ret, struct ckpt_err *err)
{
    struct key key = key_commit(p->job, name);
    CLEANUP_FREE void *ours = NULL;
    CLEANUP_FREE void *there = NULL;
    size_t len = 0, there_len = 0;
    enum ckpt_status st = repo_get(p->home, &key, &ours, &len, err);
    if (st == CKPT_OK)
        st = repo_get(tier, &key, &there, &there_len, err);
    *ret = st == CKPT_OK && len == there_len && memcmp(ours, there, len) == 0;
    return st == CKPT_NOT_FOUND ? CKPT_OK : st;
}

/* A copy counts (held) if h/ is there, neither log says anything but LIVE, and c/ is the home's. */
static enum ckpt_status ask(const struct copy_place *p, struct store *s,
                            const struct ckpt_name *name, bool *ret_held, bool *ret_dropped,
                            struct ckpt_err *err)
{
    struct store_stat stat;
    struct ckpt_err why = { 0 };
    enum life life = LIFE_LIVE, copy = LIFE_LIVE;
    uint64_t n;
    enum ckpt_status st = store_stat(s, key_held(p->job, name).text, &stat, &why);
    bool there = st == CKPT_OK;
    if (st != CKPT_OK && st != CKPT_NOT_FOUND)
        return err_set(err, st, "%s", err_text(&why));
    st = life_look(s, p->job, name, true, &copy, &n, NULL, err);
    if (st == CKPT_OK && there)
        st = life_look(s, p->job, name, false, &life, &n, NULL, err);
    *ret_held = there && life == LIFE_LIVE && copy == LIFE_LIVE;
    *ret_dropped = copy == LIFE_GONE;
    return st == CKPT_OK && *ret_held && s != p->home ? is_ours(p, s, name, ret_held, err) : st;
}

/* The i-th of the home and the tiers; NULL: that is `here`. */
static struct store *other_at(const struct copy_place *p, size_t i)
{
    struct store *s = i == 0 ? p->home : p->tiers[i - 1];
    return s == p->here ? NULL : s;
}

static enum ckpt_status held_by_others(const struct copy_place *p, const struct ckpt_name *name,
                                       bool *ret, struct ckpt_err *err)
{
    bool any = false, all = true;
    enum ckpt_status st = CKPT_OK;
    for (size_t i = 0; i <= p->tier_count && st == CKPT_OK && all; i++) {
        struct store *s = other_at(p, i);
        bool held = false, dropped = false;
        if (s)
            st = ask(p, s, name, &held, &dropped, err);
        any |= held;
        all = !s || held || dropped;
    }
    *ret = st == CKPT_OK && any && all;
    return st;
}

/* Why it must stay; NULL: nothing speaks for it. */
static enum ckpt_status look_around(const struct copy_place *p, const struct ckpt_name *name,
                                    const char **ret, struct ckpt_err *err)
{
    bool held = false, named = false, tagged = false;
    *ret = NULL;
    enum ckpt_status st = held_by_others(p, name, &held, err);
    if (st == CKPT_OK)
        st = launch_names(p->home, p->job, name, &named, err);
    if (st == CKPT_OK)
        st = tags_any(p->home, p->job, name, &tagged, err);
    *ret = !held    ? "another store does not hold it"
           : named  ? "the newest launch resumes from it"
           : tagged ? "it has a tag"
                    : NULL;
    return st;
}

enum ckpt_status copy_drop(const struct copy_place *p, const struct ckpt_name *name,
                           const char *why, bool *ret, struct copy_report *io, struct ckpt_err *err)
{
    enum life life;
    uint64_t n;
    const char *stays = NULL;
    *ret = false;
    enum ckpt_status st = life_look(p->here, p->job, name, true, &life, &n, NULL, err);
    if (st == CKPT_OK && life == LIFE_LIVE) {
        struct key key = key_life(p->job, name, true, ++n);
        st = life_put(p->here, &key, LIFE_DELETED, why, err);
    }
    if (st == CKPT_OK && life != LIFE_GONE)
        st = look_around(p, name, &stays, err);
    if (st == CKPT_OK && life != LIFE_GONE) {
        struct key key = key_life(p->job, name, true, ++n);
        st = life_put(p->here, &key, stays ? LIFE_LIVE : LIFE_GONE, stays ? stays : why, err);
    }
    if (st == CKPT_CONFLICT) /* somebody else is at it */
        return CKPT_OK;
    io->spared += st == CKPT_OK && stays;
    if (st != CKPT_OK || stays)
        return st;
    /* GONE may be another's who died before it was named for good. */
    st = store_sync(p->here, key_life_of(p->job, name, true).text, err);
    if (st == CKPT_OK)
        st = remove_copy(p, name, n, io, err);
    *ret = st == CKPT_OK;
    io->dropped += *ret;
    return st;
}

/* -- all ------------------------------------------------------------------------------------- */

struct listed {
    struct roster helds, copies; /* h/; x/ of copies */
};
struct pass {
    const struct copy_place *p;
    struct listed here, *others; /* as other_at() numbers them */
    struct roster data, commits; /* here: d/, but of the home; c/, of a tier */
    struct roster counted;       /* whole here, and not about to go: what the rules count */
    int64_t now_ns;
    struct ckpt_err *err;
};

static void pass_fini(struct pass *a)
{
    for (size_t i = 0; a->others && i <= a->p->tier_count; i++) {
        roster_fini(&a->others[i].helds);
        roster_fini(&a->others[i].copies);
    }
    free(a->others);
    roster_fini(&a->here.helds);
    roster_fini(&a->here.copies);
    roster_fini(&a->data);
    roster_fini(&a->commits);
    roster_fini(&a->counted);
}

static enum ckpt_status list_store(const struct pass *a, struct store *s, struct listed *ret)
{
    enum ckpt_status st = roster_helds(s, a->p->job, &ret->helds, a->err);
    return st == CKPT_OK ? roster_copies(s, a->p->job, &ret->copies, a->err) : st;
}

/* What the newest entry of a listed log says. */
static enum ckpt_status read_copy(const struct pass *a, struct store *s,
                                  const struct roster *copies, const struct ckpt_name *name,
                                  enum life *ret, uint64_t *ret_n)
{
    const struct roster_entry *log = roster_find(copies, name);
    struct record_life r = { .life = LIFE_LIVE };
    enum ckpt_status st = log ? life_read(s, a->p->job, name, true, log->n, &r, a->err) : CKPT_OK;
    *ret = r.life;
    *ret_n = log ? log->n : 0;
    return st;
}

/* In a tier, and in the home, what has no h/ yet is on its way. */
static const struct roster *whole_ones(const struct pass *a)
{
    return is_tier(a->p) || is_home(a->p) ? &a->here.helds : &a->data;
}

static enum ckpt_status count_whole(struct pass *a)
{
    enum ckpt_status st = roster_merge(&a->counted, whole_ones(a), a->err);
    size_t kept = 0;
    for (size_t i = 0; i < a->counted.count && st == CKPT_OK; i++) {
        const struct roster_entry e = a->counted.entries[i];
        enum life life;
        uint64_t n;
        st = read_copy(a, a->p->here, &a->here.copies, &e.name, &life, &n);
        if (life == LIFE_LIVE)
            a->counted.entries[kept++] = e;
    }
    a->counted.count = kept;
    return st;
}

static enum ckpt_status list_all(struct pass *a)
{
    const struct copy_place *p = a->p;
    a->others = calloc(p->tier_count + 1, sizeof(*a->others));
    if (!a->others)
        return err_set(a->err, CKPT_NO_MEMORY, "no memory for the copies of job %s", p->job);
    enum ckpt_status st = list_store(a, p->here, &a->here);
    if (st == CKPT_OK && !is_home(p))
        st = roster_data(p->here, p->job, &a->data, a->err);
    if (st == CKPT_OK && is_tier(p))
        st = roster_commits(p->here, p->job, &a->commits, a->err);
    if (st == CKPT_OK)
        st = count_whole(a);
    for (size_t i = 0; i <= p->tier_count && st == CKPT_OK; i++)
        if (other_at(p, i))
            st = list_store(a, other_at(p, i), &a->others[i]);
    return st == CKPT_OK ? store_now(p->here, &a->now_ns, a->err) : st;
}

/* As listed: what is not need not be tried. */
static enum ckpt_status held_elsewhere(const struct pass *a, const struct ckpt_name *name,
                                       bool *ret)
{
    bool any = false, all = true;
    enum ckpt_status st = CKPT_OK;
    for (size_t i = 0; i <= a->p->tier_count && st == CKPT_OK && all; i++) {
        struct store *s = other_at(a->p, i);
        enum life life = LIFE_LIVE;
        uint64_t n;
        bool held = s && roster_find(&a->others[i].helds, name);
        if (s && !held)
            st = read_copy(a, s, &a->others[i].copies, name, &life, &n);
        any |= held;
        all = !s || held || life == LIFE_GONE;
    }
    *ret = st == CKPT_OK && any && all;
    return st;
}

/* Who began to drop it died, and now it stays. */
static enum ckpt_status take_back(const struct pass *a, const struct ckpt_name *name, uint64_t n)
{
    struct key key = key_life(a->p->job, name, true, n + 1);
    enum ckpt_status st = life_put(a->p->here, &key, LIFE_LIVE, "it stays here", a->err);
    return st == CKPT_CONFLICT ? CKPT_OK : st;
}

static enum ckpt_status may_go(const struct pass *a, const struct prune_item *item, bool *ret)
{
    *ret = false;
    if (item->keep || !roster_find(whole_ones(a), &item->name))
        return CKPT_OK;
    enum ckpt_status st = held_elsewhere(a, &item->name, ret);
    return st == CKPT_OK && *ret && is_tier(a->p)
               ? is_ours(a->p, a->p->here, &item->name, ret, a->err)
               : st;
}

/* Anything of it is here that may go. */
static bool is_here(const struct pass *a, const struct ckpt_name *name)
{
    const struct roster_entry *log = roster_find(&a->here.copies, name);
    return roster_find(&a->data, name) || roster_find(&a->here.helds, name) ||
           roster_find(&a->commits, name) || (is_home(a->p) && log && log->older);
}

static enum ckpt_status step(struct pass *a, struct prune_item *item, const char *why,
                             struct copy_report *report)
{
    bool goes = false, dropped = false;
    enum life life = LIFE_LIVE;
    uint64_t n;
    if (!is_here(a, &item->name))
        return CKPT_OK;
    enum ckpt_status st = read_copy(a, a->p->here, &a->here.copies, &item->name, &life, &n);
    /* GONE already: a drain or a repair that was under way, or a crash, has left something. */
    bool gone = life == LIFE_GONE;
    if (st == CKPT_OK && !gone)
        st = may_go(a, item, &goes);
    if (st != CKPT_OK)
        return st;
    report->kept += !gone && !goes;
    if (!gone && !goes)
        return life == LIFE_DELETED ? take_back(a, &item->name, n) : CKPT_OK;
    st = copy_drop(a->p, &item->name, why, &dropped, report, a->err);
    if (dropped && !gone)
        item->done = PRUNE_DELETED;
    return st;
}

static enum ckpt_status forget(struct pass *a, const struct roster_entry *e)
{
    struct key log = key_life_of(a->p->job, &e->name, true);
    struct key newest = key_life(a->p->job, &e->name, true, e->n);
    enum ckpt_status st = leave_alone(a->p, &e->name, e->n, a->err);
    if (st == CKPT_OK)
        st = store_sync(a->p->here, log.text, a->err);
    return st == CKPT_OK ? store_remove(a->p->here, newest.text, a->err) : st;
}

/* True if it is GONE, and nobody can drain it any more. */
static enum ckpt_status is_over(const struct pass *a, const struct roster_entry *e, bool *ret)
{
    struct store_stat stat;
    struct ckpt_err why = { 0 };
    enum life life = LIFE_LIVE;
    uint64_t n;
    *ret = false;
    enum ckpt_status st = read_copy(a, a->p->here, &a->here.copies, &e->name, &life, &n);
    if (st != CKPT_OK || life != LIFE_GONE)
        return st;
    st = store_stat(a->p->home, key_commit(a->p->job, &e->name).text, &stat, &why);
    *ret = st == CKPT_NOT_FOUND;
    return st == CKPT_OK || *ret ? CKPT_OK : err_set(a->err, st, "%s", err_text(&why));
}

/* Logs of copies that have been gone for long, of checkpoints that are.  What the plan names is
 * alive: of that nothing is asked. */
static enum ckpt_status forget_old(struct pass *a, const struct prune_plan *plan)
{
    enum ckpt_status st = CKPT_OK;
    for (size_t i = 0; i < a->here.copies.count && st == CKPT_OK; i++) {
        const struct roster_entry *e = &a->here.copies.entries[i];
        int64_t since_ns = e->stat.mtime_ns;
        bool over = false;
        if (roster_search(plan->items, plan->count, sizeof(*plan->items), &e->name) ||
            is_here(a, &e->name) || since_ns > a->now_ns ||
            a->now_ns - since_ns < LIFE_ABORT_KEEP_NS)
            continue;
        st = is_over(a, e, &over);
        if (st == CKPT_OK && over)
            st = forget(a, e);
    }
    return st;
}

enum ckpt_status copy_prune(const struct copy_place *p, const struct keep_policy *policy,
                            struct prune_plan *ret_plan, struct copy_report *ret,
                            struct ckpt_err *err)
{
    struct pass a = { .p = p, .err = err };
    const struct prune_options o = { .policy = policy,
                                     .tiers = p->tiers,
                                     .tier_count = p->tier_count,
                                     .among = &a.counted,
                                     .least = COPY_LEAST };
    char text[200], why[256];
    keep_policy_to_text(policy, text, sizeof(text));
    snprintf(why, sizeof(why), "not kept here: %s", text);
    *ret_plan = (struct prune_plan){ 0 };
    *ret = (struct copy_report){ 0 };
    enum ckpt_status st = list_all(&a); /* before it is decided what is live */
    if (st == CKPT_OK)
        st = prune_decide(p->home, p->job, &o, ret_plan, err);
    for (size_t i = 0; st == CKPT_OK && i < ret_plan->count; i++)
        st = step(&a, &ret_plan->items[i], why, ret);
    if (st == CKPT_OK)
        st = forget_old(&a, ret_plan);
    pass_fini(&a);
    return st;
}
