/* Deleting what a plan says (rules D1, D2), some at a time: their DELETED first, then one
 * look at the newest `resolved` and at the tags for all of them. */
#include <stdio.h>

#include "storage/repo/launch.h"
#include "storage/repo/life_log.h"
#include "storage/repo/prune.h"
#include "storage/repo/spread.h"
#include "storage/repo/tags.h"

#define BATCH 256

struct applying {
    struct store *s;
    const char *job;
    char why[256];
    struct prune_item *batch[BATCH];
    size_t count;
    struct ckpt_err *err;
};

/* On several threads, each with items of its own. */
static enum ckpt_status mark(void *arg, struct store *s, size_t i, struct ckpt_err *err)
{
    const struct applying *a = arg;
    struct prune_item *item = a->batch[i];
    enum ckpt_status st =
        life_append(s, a->job, &item->name, item->log_n + 1, LIFE_DELETED, a->why, err);
    if (st == CKPT_CONFLICT) { /* somebody else was here: what they did stands */
        item->done = PRUNE_LOST;
        return CKPT_OK;
    }
    if (st == CKPT_OK)
        item->done = PRUNE_DELETED;
    return st;
}

/* Ours to take back, unless somebody else was quicker: then it is theirs to decide. */
static enum ckpt_status spare(struct applying *a, struct prune_item *item, const char *why)
{
    if (item->done != PRUNE_DELETED)
        return CKPT_OK;
    enum ckpt_status st =
        life_append(a->s, a->job, &item->name, item->log_n + 2, LIFE_LIVE, why, a->err);
    if (st != CKPT_OK && st != CKPT_CONFLICT)
        return st;
    item->done = PRUNE_SPARED;
    return CKPT_OK;
}

static enum ckpt_status spare_tagged(void *arg, const struct ckpt_name *name, const char *tag)
{
    struct applying *a = arg;
    (void)tag;
    for (size_t i = 0; i < a->count; i++)
        if (name_equal(&a->batch[i]->name, name))
            return spare(a, a->batch[i], "it has a tag");
    return CKPT_OK;
}

static enum ckpt_status spare_named(struct applying *a)
{
    struct record_resolved newest;
    enum ckpt_status st = launch_newest(a->s, a->job, &newest, a->err);
    if (st != CKPT_OK)
        return st == CKPT_NOT_FOUND ? CKPT_OK : st;
    for (size_t i = 0; i < a->count && st == CKPT_OK; i++)
        if (newest.kind == RESOLVED_POINT && name_equal(&newest.name, &a->batch[i]->name))
            st = spare(a, a->batch[i], "the newest launch resumes from it");
    record_resolved_fini(&newest);
    return st;
}

/* After a failure too: what is DELETED by now must be looked at, if it can be. */
static enum ckpt_status apply_batch(struct applying *a, unsigned threads)
{
    enum ckpt_status st = spread_run(a->s, threads, a->count, mark, a, a->err);
    struct ckpt_err lost = { 0 };
    a->err = st == CKPT_OK ? a->err : &lost;
    enum ckpt_status looked = spare_named(a);
    if (looked == CKPT_OK)
        looked = tags_each(a->s, a->job, NULL, spare_tagged, a, a->err);
    a->count = 0;
    return st == CKPT_OK ? looked : st;
}

static void count_up(const struct prune_plan *plan, struct prune_report *r)
{
    *r = (struct prune_report){ 0 };
    for (size_t i = 0; i < plan->count; i++) {
        const struct prune_item *item = &plan->items[i];
        r->kept += item->keep;
        r->deleted += item->done == PRUNE_DELETED;
        r->spared += item->done == PRUNE_SPARED;
        r->lost += item->done == PRUNE_LOST;
        if (item->done == PRUNE_DELETED && item->stored_bytes != UINT64_MAX)
            r->bytes += item->stored_bytes;
    }
}

enum ckpt_status prune_apply(struct store *s, const char *job, const struct prune_options *o,
                             struct prune_plan *plan, struct prune_report *ret,
                             struct ckpt_err *err)
{
    struct applying a = { .s = s, .job = job, .err = err };
    char policy[200];
    keep_policy_to_text(o->policy, policy, sizeof(policy));
    snprintf(a.why, sizeof(a.why), "pruned: %s does not keep it", policy);
    enum ckpt_status st = CKPT_OK;
    /* Oldest first: if it ends early, what is left is the newer part. */
    for (size_t i = plan->count; i-- > 0 && st == CKPT_OK;) {
        if (!plan->items[i].keep)
            a.batch[a.count++] = &plan->items[i];
        if (a.count == BATCH || (i == 0 && a.count))
            st = apply_batch(&a, o->threads);
    }
    count_up(plan, ret);
    return st;
}

enum ckpt_status prune(struct store *s, const char *job, const struct prune_options *o,
                       struct prune_report *ret, struct ckpt_err *err)
{
    struct prune_plan plan = { 0 };
    enum ckpt_status st = prune_decide(s, job, o, &plan, err);
    if (st == CKPT_OK)
        st = prune_apply(s, job, o, &plan, ret, err);
    prune_plan_fini(&plan);
    return st;
}
