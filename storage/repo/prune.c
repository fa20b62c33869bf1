/* Deciding what to prune: gather the facts, let the policy speak, then what must not go. */
#include "storage/repo/prune.h"

#include <inttypes.h>
#include <stdio.h>

#include "storage/repo/adopt.h"
#include "storage/repo/launch.h"
#include "storage/repo/life.h"
#include "storage/repo/lineage_trail.h"
#include "storage/repo/tags.h"

struct tag_list {
    char **tags;
    size_t count;
};
struct fact {
    const struct lineage_commit *commit;
    struct tag_list tagged;
    struct record_commit *record; /* only for rules that ask for metrics */
    int64_t time_ns;              /* of its commit */
    bool on_branch, quarantined, draining;
};
struct deciding {
    struct store *s;
    const char *job;
    const struct prune_options *o;
    struct lineage l;
    struct launch_listings at;
    struct roster *tier_helds; /* of each tier: what can be restored from it alone */
    struct fact *facts;        /* of the live ones, in list order */
    struct keep_item *items;
    size_t count;
    int64_t now_ns;
    struct ckpt_err *err;
};

void prune_plan_fini(struct prune_plan *p)
{
    if (!p)
        return;
    free(p->items);
    *p = (struct prune_plan){ 0 };
}

/* ---- facts ---- */

static int compare_fact(const void *name, const void *fact)
{
    return roster_order(name, &((const struct fact *)fact)->commit->name);
}

static struct fact *fact_of(struct deciding *d, const struct ckpt_name *name)
{
    return d->count ? bsearch(name, d->facts, d->count, sizeof(*d->facts), compare_fact) : NULL;
}

static enum ckpt_status take_tag(void *arg, const struct ckpt_name *name, const char *tag)
{
    struct deciding *d = arg;
    struct fact *f = fact_of(d, name);
    if (!f)
        return CKPT_OK;
    char **grown = realloc(f->tagged.tags, (f->tagged.count + 1) * sizeof(*grown));
    char *copy = strdup(tag);
    if (grown)
        f->tagged.tags = grown;
    if (!grown || !copy) {
        free(copy);
        return err_set(d->err, CKPT_NO_MEMORY, "no memory for the tags of job %s", d->job);
    }
    f->tagged.tags[f->tagged.count++] = copy;
    return CKPT_OK;
}

/* A record that cannot be read has no metrics; it is kept for that (see protect). */
static enum ckpt_status read_record(struct deciding *d, struct fact *f)
{
    const struct ckpt_name *name = &f->commit->name;
    const struct roster_entry *listed = roster_find(&d->at.commits, name);
    struct key key = key_commit(d->job, name);
    CLEANUP_FREE void *bytes = NULL;
    CLEANUP_FREE struct record_commit *record = calloc(1, sizeof(*record));
    struct ckpt_err why = { 0 };
    size_t len = 0;
    if (!record)
        return err_set(d->err, CKPT_NO_MEMORY, "no memory for the record %s", key.text);
    enum ckpt_status st = repo_get_listed(d->s, &key, listed->stat.bytes, &bytes, &len, &why);
    if (st == CKPT_OK)
        st = record_commit_decode(bytes, len, key.text, record, &why);
    if (st == CKPT_OK)
        f->record = TAKE_PTR(record);
    if (st == CKPT_OK || st == CKPT_CORRUPT || st == CKPT_NOT_FOUND)
        return CKPT_OK;
    return err_set(d->err, st, "%s", err_text(&why));
}

/* A home that was lost knows of its checkpoints from the tiers: their data is there alone, and
 * its own c/ is as young as itself.  h/ came to the tier soon after the commit. */
static void count_copies(struct deciding *d, const struct roster *helds)
{
    for (size_t i = 0; i < d->l.commit_count; i++) {
        struct lineage_commit *c = &d->l.commits[i];
        const struct roster_entry *held = roster_find(helds, &c->name);
        struct fact *f = fact_of(d, &c->name);
        if (!held)
            continue;
        c->restorable = !c->unreadable;
        if (f && held->stat.mtime_ns < f->time_ns)
            f->time_ns = held->stat.mtime_ns;
    }
}

/* Of what it has dropped for good something may be left; it is not on its way. */
static enum ckpt_status is_draining(struct deciding *d, struct store *tier,
                                    const struct ckpt_name *name, bool *ret)
{
    enum life copy;
    uint64_t n;
    enum ckpt_status st = life_look(tier, d->job, name, true, &copy, &n, NULL, d->err);
    *ret = st != CKPT_OK || copy != LIFE_GONE;
    return st;
}

/* What it holds, and what has begun to be drained to it and has not ended. */
static enum ckpt_status look_at_tier(struct deciding *d, struct store *tier, struct roster *held)
{
    CLEANUP_ROSTER struct roster data = { 0 };
    CLEANUP_ROSTER struct roster ended = { 0 };
    enum ckpt_status st = roster_data(tier, d->job, &data, d->err);
    if (st == CKPT_OK)
        st = roster_helds(tier, d->job, &ended, d->err);
    if (st == CKPT_OK)
        st = adopt_held(tier, d->job, held, d->err);
    for (size_t i = 0; st == CKPT_OK && i < data.count; i++) {
        struct fact *f = fact_of(d, &data.entries[i].name);
        if (f && !f->draining && !roster_find(&ended, &data.entries[i].name))
            st = is_draining(d, tier, &data.entries[i].name, &f->draining);
    }
    if (st == CKPT_OK)
        count_copies(d, held);
    return st;
}

static enum ckpt_status look_at_tiers(struct deciding *d)
{
    enum ckpt_status st = CKPT_OK;
    d->tier_helds = calloc(d->o->tier_count + 1, sizeof(*d->tier_helds));
    if (!d->tier_helds)
        return err_set(d->err, CKPT_NO_MEMORY, "no memory for the tiers of job %s", d->job);
    for (size_t i = 0; i < d->o->tier_count && st == CKPT_OK; i++)
        st = look_at_tier(d, d->o->tiers[i], &d->tier_helds[i]);
    return st;
}

static enum ckpt_status list_live(struct deciding *d)
{
    size_t n = d->l.commit_count;
    CLEANUP_FREE bool *marks = calloc(n + 1, sizeof(*marks));
    d->facts = calloc(n + 1, sizeof(*d->facts));
    d->items = calloc(n + 1, sizeof(*d->items));
    if (!marks || !d->facts || !d->items || !lineage_mark_branch(&d->l, marks))
        return err_set(d->err, CKPT_NO_MEMORY, "no memory for %zu checkpoints", n);
    for (size_t i = 0; i < n; i++) {
        const struct lineage_commit *c = &d->l.commits[i];
        if (c->life != LIFE_LIVE)
            continue;
        d->facts[d->count++] =
            (struct fact){ .commit = c,
                           .time_ns = roster_find(&d->at.commits, &c->name)->stat.mtime_ns,
                           .on_branch = marks[i],
                           .quarantined = lineage_quarantined(&d->l, &c->name, UINT64_MAX) };
    }
    return CKPT_OK;
}

static enum ckpt_status gather(struct deciding *d)
{
    enum ckpt_status st = launch_history_listed(d->s, d->job, &d->l, &d->at, d->err);
    if (st == CKPT_OK)
        st = list_live(d);
    if (st == CKPT_OK) /* the present is later than all that was listed */
        st = store_now(d->s, &d->now_ns, d->err);
    if (st == CKPT_OK)
        st = tags_each(d->s, d->job, NULL, take_tag, d, d->err);
    bool metrics = keep_policy_needs_metrics(d->o->policy);
    for (size_t i = 0; i < d->count && metrics && st == CKPT_OK; i++)
        st = read_record(d, &d->facts[i]);
    return st == CKPT_OK ? look_at_tiers(d) : st;
}

/* ---- the policy ---- */

/* coming: as if all were complete here. */
static void fill_items(const struct deciding *d, struct keep_item *items, bool coming)
{
    for (size_t i = 0; i < d->count; i++) {
        const struct fact *f = &d->facts[i];
        bool complete = coming || f->commit->restorable;
        bool asked = coming || !d->o->among || roster_find(d->o->among, &f->commit->name);
        items[i] = (struct keep_item){
            .name = f->commit->name,
            .time_ns = f->time_ns,
            .counts = f->on_branch && complete && asked && !f->quarantined,
            .tags = (const char *const *)f->tagged.tags,
            .tag_count = f->tagged.count,
            .metrics = f->record ? f->record->metrics : NULL,
            .metric_count = f->record ? f->record->metric_count : 0,
        };
    }
}

static enum ckpt_status apply_rules(const struct deciding *d, struct keep_item *items, bool coming)
{
    fill_items(d, items, coming);
    return keep_policy_apply(d->o->policy, d->now_ns, items, d->count, d->err);
}

/* ---- what must not go ---- */

/* Puts a reason in front of those there are. */
static void CKPT_PRINTF(2, 3) protect(struct keep_item *item, const char *fmt, ...)
{
    char rules[KEEP_REASON_MAX];
    va_list ap;
    memcpy(rules, item->why, sizeof(rules));
    va_start(ap, fmt);
    vsnprintf(item->why, sizeof(item->why), fmt, ap);
    va_end(ap);
    size_t len = strlen(item->why);
    if (rules[0])
        snprintf(item->why + len, sizeof(item->why) - len, ", %s", rules);
    item->keep = true;
}

/* It was complete here once, and no store at hand holds it. */
static bool is_dropped(const struct deciding *d, const struct fact *f)
{
    return !f->commit->restorable && roster_find(&d->at.copies, &f->commit->name);
}

/* Nodes that bring the newest first may leave an older one waiting for long. */
static enum ckpt_status protect_coming(struct deciding *d)
{
    CLEANUP_FREE struct keep_item *items = calloc(d->count + 1, sizeof(*items));
    if (!items)
        return err_set(d->err, CKPT_NO_MEMORY, "no memory for %zu checkpoints", d->count);
    enum ckpt_status st = apply_rules(d, items, true);
    for (size_t i = 0; i < d->count && st == CKPT_OK; i++)
        if (items[i].keep && !d->items[i].keep && !is_dropped(d, &d->facts[i]))
            protect(&d->items[i], "%.120s would keep it once it is complete here", items[i].why);
    return st;
}

static struct keep_item *item_of(struct deciding *d, const struct ckpt_name *name)
{
    const struct fact *f = fact_of(d, name);
    return f ? &d->items[f - d->facts] : NULL;
}

/* l/ was listed before c/: a commit of a launch that it does not know as resolved was made
 * since, and is what the job goes on from, not an abandoned branch. */
static bool launch_unknown(const struct deciding *d, const struct ckpt_name *name)
{
    const struct lineage_launch *last = lineage_resolved_below(&d->l, UINT64_MAX);
    return !last || name->epoch > last->epoch;
}

/* Its h/ may still come, also behind that of a later save. */
static bool just_committed(const struct deciding *d, const struct keep_item *item)
{
    return item->time_ns > d->now_ns || d->now_ns - item->time_ns < PRUNE_ARRIVAL_NS;
}

static void protect_one(struct deciding *d, size_t i, bool newer_than_complete)
{
    const struct fact *f = &d->facts[i];
    struct keep_item *item = &d->items[i];
    bool complete = f->commit->restorable;
    if (launch_unknown(d, &item->name))
        protect(item, "its launch has only just begun");
    if (f->draining)
        protect(item, "it is being copied to another store");
    if (f->commit->unreadable)
        protect(item, "%.120s", f->commit->why_not);
    else if (!complete && !is_dropped(d, f) && (newer_than_complete || just_committed(d, item)))
        protect(item, "it is not complete here yet");
    if (keep_policy_needs_metrics(d->o->policy) && !f->record)
        protect(item, "its commit record cannot be read");
    if (f->quarantined)
        protect(item, "quarantined: somebody must look at it");
    if (f->tagged.count)
        protect(item, "tag %s%s", f->tagged.tags[0], f->tagged.count > 1 ? " and more" : "");
}

/* What launches resume from. */
static enum ckpt_status protect_points(struct deciding *d)
{
    const struct lineage_commit *newest = lineage_newest_restorable(&d->l);
    const struct lineage_launch *last = lineage_resolved_below(&d->l, UINT64_MAX);
    struct record_resolved next = { 0 };
    struct ckpt_err why = { 0 };
    enum ckpt_status st = lineage_pick_next(&d->l, &next, &why);
    if (st != CKPT_OK && st != CKPT_REFUSED)
        return err_set(d->err, st, "%s", err_text(&why));
    struct keep_item *item =
        st == CKPT_OK && next.kind == RESOLVED_POINT ? item_of(d, &next.name) : NULL;
    if (item && !(newest && name_equal(&newest->name, &item->name)))
        protect(item, "the next launch would resume from it");
    record_resolved_fini(&next);
    item = last && last->kind == RESOLVED_POINT ? item_of(d, &last->point) : NULL;
    if (item)
        protect(item, "the newest launch resumed from it");
    item = newest ? item_of(d, &newest->name) : NULL;
    if (item)
        protect(item, "the newest that can be restored");
    return CKPT_OK;
}

/* D6: the newest that can be restored from one store alone, and be trusted.  `where` is behind
 * "the newest that ". */
static void protect_newest_of(struct deciding *d, const struct roster *helds, const char *where)
{
    size_t best = SIZE_MAX;
    for (size_t i = 0; i < d->count; i++) {
        const struct fact *f = &d->facts[i];
        if (f->quarantined || f->commit->unreadable || !roster_find(helds, &f->commit->name))
            continue;
        if (f->on_branch || best == SIZE_MAX)
            best = i;
        if (f->on_branch)
            break;
    }
    if (best != SIZE_MAX && !strstr(d->items[best].why, "the newest that"))
        protect(&d->items[best], "the newest that %s", where);
}

static void protect_newest(struct deciding *d)
{
    char where[128];
    protect_newest_of(d, &d->at.helds, "can be restored from here");
    for (size_t i = 0; i < d->o->tier_count; i++) {
        snprintf(where, sizeof(where), "is in %.100s", d->o->tiers[i]->url);
        protect_newest_of(d, &d->tier_helds[i], where);
    }
}

/* Nothing of it lies here (or records alone: it was dropped) and no store that we were told of
 * holds it: nothing would be freed, and in one that we were not told of the only copy might be
 * lost. */
static enum ckpt_status protect_absent(struct deciding *d)
{
    CLEANUP_ROSTER struct roster data = { 0 };
    bool any = false;
    for (size_t i = 0; i < d->count; i++)
        any = any || !(d->items[i].keep || d->facts[i].commit->restorable);
    enum ckpt_status st = any ? roster_data(d->s, d->job, &data, d->err) : CKPT_OK;
    for (size_t i = 0; any && st == CKPT_OK && i < d->count; i++) {
        struct keep_item *item = &d->items[i];
        bool absent = is_dropped(d, &d->facts[i]) || !roster_find(&data, &item->name);
        if (!item->keep && !d->facts[i].commit->restorable && absent)
            protect(item, "its data is not here, another store may hold it");
    }
    return st;
}

static enum ckpt_status protect_all(struct deciding *d)
{
    bool newer_than_complete = true;
    unsigned counted = 0;
    for (size_t i = 0; i < d->count; i++) {
        if (d->items[i].counts && counted++ < d->o->least)
            protect(&d->items[i], "one of the newest %u", d->o->least);
        newer_than_complete = newer_than_complete && !d->items[i].counts;
        protect_one(d, i, newer_than_complete);
    }
    enum ckpt_status st = protect_points(d);
    if (st != CKPT_OK)
        return st;
    protect_newest(d);
    return protect_absent(d);
}

/* ---- the plan ---- */

/* How much gc will free; h/ knows, if there is a sound one. */
static enum ckpt_status read_stored(struct deciding *d, struct prune_item *item)
{
    enum ckpt_status st =
        roster_stored(d->s, d->job, &d->at.helds, &item->name, &item->stored_bytes, d->err);
    return st == CKPT_CORRUPT || st == CKPT_NOT_FOUND ? CKPT_OK : st;
}

static enum ckpt_status make_plan(struct deciding *d, struct prune_plan *plan)
{
    plan->items = calloc(d->count + 1, sizeof(*plan->items));
    if (!plan->items)
        return err_set(d->err, CKPT_NO_MEMORY, "no memory for %zu checkpoints", d->count);
    plan->count = d->count;
    enum ckpt_status st = CKPT_OK;
    for (size_t i = 0; i < d->count && st == CKPT_OK; i++) {
        const struct keep_item *from = &d->items[i];
        const struct roster_entry *log = roster_find(&d->at.lives, &from->name);
        struct prune_item *item = &plan->items[i];
        *item = (struct prune_item){ .name = from->name,
                                     .time_ns = from->time_ns,
                                     .on_lineage = d->facts[i].on_branch,
                                     .keep = from->keep,
                                     .stored_bytes = UINT64_MAX,
                                     .log_n = log ? log->n : 0 };
        snprintf(item->why, sizeof(item->why), "%s",
                 from->keep                        ? from->why
                 : !d->facts[i].on_branch          ? "no rule keeps it (abandoned branch)"
                 : !d->facts[i].commit->restorable ? "no rule keeps it (not complete here)"
                                                   : "no rule keeps it");
        if (!item->keep)
            st = read_stored(d, item);
    }
    return st;
}

static void deciding_fini(struct deciding *d)
{
    for (size_t i = 0; i < d->count; i++) {
        for (size_t t = 0; t < d->facts[i].tagged.count; t++)
            free(d->facts[i].tagged.tags[t]);
        free(d->facts[i].tagged.tags);
        free(d->facts[i].record);
    }
    for (size_t i = 0; d->tier_helds && i < d->o->tier_count; i++)
        roster_fini(&d->tier_helds[i]);
    free(d->tier_helds);
    free(d->facts);
    free(d->items);
    lineage_fini(&d->l);
    launch_listings_fini(&d->at);
}

enum ckpt_status prune_check(struct store *s, const char *job, const struct ckpt_name *name,
                             struct store *const *tiers, size_t tier_count, struct ckpt_err *err)
{
    const struct keep_policy none = { 0 };
    const struct prune_options o = { .policy = &none, .tiers = tiers, .tier_count = tier_count };
    struct deciding d = { .s = s, .job = job, .o = &o, .err = err };
    enum ckpt_status st = gather(&d);
    if (st == CKPT_OK) {
        fill_items(&d, d.items, false);
        st = protect_points(&d);
    }
    if (st == CKPT_OK) {
        protect_newest(&d);
        st = protect_absent(&d);
    }
    const struct keep_item *item = st == CKPT_OK ? item_of(&d, name) : NULL;
    if (item && item->keep)
        st = err_set(err, CKPT_REFUSED, "step %" PRIu64 " of epoch %" PRIu64 " is not deleted: %s",
                     name->step, name->epoch, item->why);
    deciding_fini(&d);
    return st;
}

enum ckpt_status prune_decide(struct store *s, const char *job, const struct prune_options *o,
                              struct prune_plan *ret, struct ckpt_err *err)
{
    struct deciding d = { .s = s, .job = job, .o = o, .err = err };
    struct prune_plan plan = { 0 };
    if (!o->policy->count)
        return err_set(err, CKPT_REFUSED,
                       "the policy is empty: say what to keep (last=3, daily=7, ...)");
    enum ckpt_status st = gather(&d);
    if (st == CKPT_OK)
        st = apply_rules(&d, d.items, false);
    if (st == CKPT_OK)
        st = protect_coming(&d);
    if (st == CKPT_OK)
        st = protect_all(&d);
    if (st == CKPT_OK)
        st = make_plan(&d, &plan);
    deciding_fini(&d);
    if (st != CKPT_OK) {
        prune_plan_fini(&plan);
        return st;
    }
    *ret = plan;
    return CKPT_OK;
}
