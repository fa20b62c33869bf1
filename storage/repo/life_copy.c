/* See life_copy.h. */
#include "storage/repo/life_copy.h"

#include <stdio.h>

#include "storage/repo/launch.h"
#include "storage/repo/life_log.h"
#include "storage/repo/roster.h"
#include "storage/repo/tags.h"

/* -- removing: GONE stands ----------------------------------------------------------------- */

struct removing {
    const struct copy_place *p;
    struct copy_report *report;
    bool marks; /* only the records that say what is here */
    struct ckpt_err *err;
};

static enum ckpt_status remove_one(void *arg, const struct store_entry *e)
{
    struct removing *r = arg;
    size_t len = strlen(e->key);
    if (r->marks && (len < 2 || strcmp(e->key + len - 2, ".h") != 0))
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
        st = repo_list(r->p->here, dir.text, false, remove_one, r, r->err);
        if (st == CKPT_OK && r->marks)
            st = store_sync(r->p->here, dir.text, r->err);
    }
    return st;
}

/* First, and for good, what says that data is here. */
static enum ckpt_status remove_copy(const struct copy_place *p, const struct ckpt_name *name,
                                    struct copy_report *report, struct ckpt_err *err)
{
    struct removing r = { .p = p, .report = report, .marks = true, .err = err };
    enum ckpt_status st = store_remove(p->here, key_held(p->job, name).text, err);
    if (st == CKPT_OK)
        st = store_sync(p->here, key_helds(p->job).text, err);
    if (st == CKPT_OK)
        st = remove_pass(&r, name);
    r.marks = false;
    return st == CKPT_OK ? remove_pass(&r, name) : st;
}

/* -- one ------------------------------------------------------------------------------------ */

/* A copy that counts: h/ there, and neither log says anything but LIVE. */
static enum ckpt_status holds(const struct copy_place *p, struct store *s,
                              const struct ckpt_name *name, bool *ret, struct ckpt_err *err)
{
    struct store_stat stat;
    struct ckpt_err why = { 0 };
    *ret = false;
    enum ckpt_status st = store_stat(s, key_held(p->job, name).text, &stat, &why);
    if (st != CKPT_OK)
        return st == CKPT_NOT_FOUND ? CKPT_OK : err_set(err, st, "%s", err_text(&why));
    for (int copy = 0; copy < 2; copy++) {
        enum life life;
        uint64_t n;
        st = life_look(s, p->job, name, copy, &life, &n, NULL, err);
        if (st != CKPT_OK || life != LIFE_LIVE)
            return st;
    }
    *ret = true;
    return CKPT_OK;
}

/* Why it must stay; NULL: nothing speaks for it. */
static enum ckpt_status look_around(const struct copy_place *p, const struct ckpt_name *name,
                                    const char **ret, struct ckpt_err *err)
{
    bool held = false, named = false, tagged = false;
    *ret = NULL;
    enum ckpt_status st = holds(p, p->home, name, &held, err);
    for (size_t i = 0; i < p->other_count && st == CKPT_OK && held; i++)
        st = holds(p, p->others[i], name, &held, err);
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
        struct key key = key_life(p->job, name, true, n + 1);
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
        st = remove_copy(p, name, io, err);
    *ret = st == CKPT_OK;
    io->dropped += *ret;
    return st;
}

/* -- all ------------------------------------------------------------------------------------- */

struct pass {
    const struct copy_place *p;
    struct roster data, copies, helds; /* here: d/, x/ of copies; home: h/ */
    struct roster *others;             /* h/ of each */
    int64_t now_ns;
    struct ckpt_err *err;
};

static enum ckpt_status list_all(struct pass *a)
{
    const struct copy_place *p = a->p;
    a->others = calloc(p->other_count + 1, sizeof(*a->others));
    if (!a->others)
        return err_set(a->err, CKPT_NO_MEMORY, "no memory for the copies of job %s", p->job);
    enum ckpt_status st = roster_data(p->here, p->job, &a->data, a->err);
    if (st == CKPT_OK)
        st = roster_copies(p->here, p->job, &a->copies, a->err);
    if (st == CKPT_OK)
        st = roster_helds(p->home, p->job, &a->helds, a->err);
    for (size_t i = 0; i < p->other_count && st == CKPT_OK; i++)
        st = roster_helds(p->others[i], p->job, &a->others[i], a->err);
    return st == CKPT_OK ? store_now(p->here, &a->now_ns, a->err) : st;
}

static bool held_elsewhere(const struct pass *a, const struct ckpt_name *name)
{
    bool held = roster_find(&a->helds, name) != NULL;
    for (size_t i = 0; i < a->p->other_count; i++)
        held = held && roster_find(&a->others[i], name);
    return held;
}

/* True if GONE is the newest word about the copy; *ret_old: for as long as gc keeps GONE. */
static enum ckpt_status is_gone(const struct pass *a, const struct ckpt_name *name, bool *ret,
                                bool *ret_old)
{
    const struct roster_entry *log = roster_find(&a->copies, name);
    struct record_life r = { .life = LIFE_LIVE };
    enum ckpt_status st = CKPT_OK;
    if (log)
        st = life_read(a->p->here, a->p->job, name, true, log->n, &r, a->err);
    *ret = st == CKPT_OK && r.life == LIFE_GONE;
    *ret_old = *ret && r.time_ns <= a->now_ns && a->now_ns - r.time_ns >= LIFE_ABORT_KEEP_NS;
    return st;
}

static enum ckpt_status step(struct pass *a, struct prune_item *item, const char *why,
                             unsigned *seen, struct copy_report *report)
{
    bool gone = false, old = false, dropped = false;
    if (!roster_find(&a->data, &item->name))
        return CKPT_OK;
    enum ckpt_status st = is_gone(a, &item->name, &gone, &old);
    if (st != CKPT_OK)
        return st;
    /* Gone already: a repair that was under way, or a crash, has left something. */
    bool held = held_elsewhere(a, &item->name);
    bool newest = !gone && held && item->on_lineage && (*seen)++ < COPY_LEAST;
    bool stays = !gone && (item->keep || newest || !held);
    report->kept += stays;
    if (stays)
        return CKPT_OK;
    st = copy_drop(a->p, &item->name, why, &dropped, report, a->err);
    if (dropped && !gone)
        item->done = PRUNE_DELETED;
    return st;
}

struct forgetting {
    struct pass *a;
    const char *newest;
};

static enum ckpt_status forget_older(void *arg, const struct store_entry *e)
{
    struct forgetting *f = arg;
    if (strcmp(e->key, f->newest) == 0)
        return CKPT_OK;
    return store_remove(f->a->p->here, e->key, f->a->err);
}

/* Logs of copies that have been gone for long; GONE is the last entry to go. */
static enum ckpt_status forget_old(struct pass *a)
{
    enum ckpt_status st = CKPT_OK;
    for (size_t i = 0; i < a->copies.count && st == CKPT_OK; i++) {
        const struct roster_entry *e = &a->copies.entries[i];
        struct key log = key_life_of(a->p->job, &e->name, true);
        struct key newest = key_life(a->p->job, &e->name, true, e->n);
        struct forgetting f = { .a = a, .newest = newest.text };
        bool gone = false, old = false;
        if (!roster_find(&a->data, &e->name))
            st = is_gone(a, &e->name, &gone, &old);
        if (st == CKPT_OK && old)
            st = repo_list(a->p->here, log.text, false, forget_older, &f, a->err);
        if (st == CKPT_OK && old)
            st = store_sync(a->p->here, log.text, a->err);
        if (st == CKPT_OK && old)
            st = store_remove(a->p->here, newest.text, a->err);
    }
    return st;
}

enum ckpt_status copy_prune(const struct copy_place *p, const struct keep_policy *policy,
                            struct prune_plan *ret_plan, struct copy_report *ret,
                            struct ckpt_err *err)
{
    struct pass a = { .p = p, .err = err };
    const struct prune_options o = { .policy = policy,
                                     .tiers = p->others,
                                     .tier_count = p->other_count };
    char text[200], why[256];
    unsigned seen = 0;
    keep_policy_to_text(policy, text, sizeof(text));
    snprintf(why, sizeof(why), "not kept here: %s", text);
    *ret_plan = (struct prune_plan){ 0 };
    *ret = (struct copy_report){ 0 };
    enum ckpt_status st = list_all(&a); /* before it is decided what is live */
    if (st == CKPT_OK)
        st = prune_decide(p->home, p->job, &o, ret_plan, err);
    for (size_t i = 0; st == CKPT_OK && i < ret_plan->count; i++)
        st = step(&a, &ret_plan->items[i], why, &seen, ret);
    if (st == CKPT_OK)
        st = forget_old(&a);
    roster_fini(&a.data);
    roster_fini(&a.copies);
    roster_fini(&a.helds);
    for (size_t i = 0; a.others && i < p->other_count; i++)
        roster_fini(&a.others[i]);
    free(a.others);
    return st;
}
