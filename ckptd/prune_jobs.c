/* See prune_jobs.h. */
#include "ckptd/prune_jobs.h"

#define PASS_NS INT64_C(900000000000)
#define THREADS 4 /* that put DELETED: a remote home answers many at once */
#define LEAST   2 /* of what can be restored, whatever the policy says */

static bool here(const struct jobs_work *w, uint32_t tier)
{
    return tier == 0 && w->local != w->home;
}

/* Stores that are drained to, without the home.  They are limited, too. */
static enum ckpt_status find_others(struct jobs_work *w, struct store *ret[TIERS_MAX],
                                    size_t *ret_count, struct ckpt_err *err)
{
    const struct tiers_setup *setup = w->tiers.setup;
    enum ckpt_status st = CKPT_OK;
    *ret_count = 0;
    for (uint32_t i = 1; st == CKPT_OK && i < setup->count; i++)
        if (i != setup->home)
            st = tiers_get(&w->tiers, i, &ret[(*ret_count)++], err);
    tiers_limit(&w->tiers, jobs_now_ns() + PASS_NS, w->cancel);
    return st;
}

static enum ckpt_status apply_policy(struct jobs_work *w, struct job_prune *j, struct ckpt_err *err)
{
    struct store *tiers[TIERS_MAX];
    struct prune_options o = {
        .policy = j->policy, .tiers = tiers, .threads = THREADS, .least = LEAST
    };
    enum ckpt_status st = find_others(w, tiers, &o.tier_count, err);
    if (st == CKPT_OK)
        st = prune_decide(w->home, j->job, &o, &j->plan, err);
    return st == CKPT_OK ? prune_apply(w->home, j->job, &o, &j->plan, &j->pruned, err) : st;
}

static enum ckpt_status drop_copies(struct jobs_work *w, struct job_prune *j, uint32_t tier,
                                    struct ckpt_err *err)
{
    struct prune_copies *c = &j->copies[tier];
    struct store *tiers[TIERS_MAX];
    struct copy_place p = { .job = j->job, .home = w->home, .tiers = tiers };
    enum ckpt_status st = tiers_get(&w->tiers, tier, &p.here, err);
    if (st == CKPT_OK)
        st = find_others(w, tiers, &p.tier_count, err);
    return st == CKPT_OK ? copy_prune(&p, c->policy, &c->plan, &c->report, err) : st;
}

/* Where a policy decides, all stores; else this node's own.  What older launches did not finish is
 * left to people (ckpt gc). */
static enum ckpt_status collect(struct jobs_work *w, struct job_prune *j, struct ckpt_err *err)
{
    const struct life_gc_options o = { .grace_ns = j->grace_ns,
                                       .abort_keep_ns = LIFE_ABORT_KEEP_NS,
                                       .abort_wait_ns = LIFE_ABORT_WAIT_NS };
    const struct tiers_setup *setup = w->tiers.setup;
    enum ckpt_status st = CKPT_OK;
    j->looked = true;
    tiers_limit(&w->tiers, jobs_now_ns() + PASS_NS, w->cancel);
    if (j->policy)
        st = life_gc(w->home, j->job, &o, &j->collected, err);
    for (uint32_t i = 0; st == CKPT_OK && i < setup->count; i++) {
        struct store *tier;
        if (i == setup->home || !(j->policy || here(w, i)))
            continue;
        st = tiers_get(&w->tiers, i, &tier, err);
        tiers_limit(&w->tiers, jobs_now_ns() + PASS_NS, w->cancel);
        if (st == CKPT_OK)
            st = life_gc_tier(w->home, tier, j->job, &o, &j->collected, err);
    }
    return st;
}

enum ckpt_status prune_job_run(struct jobs_work *w, struct job_prune *j, struct ckpt_err *err)
{
    enum ckpt_status st = j->policy ? apply_policy(w, j, err) : CKPT_OK;
    if (st == CKPT_OK && j->collect)
        st = collect(w, j, err);
    /* What stands in the way in some store does not in the way of the others. */
    struct ckpt_err first = { 0 };
    enum ckpt_status worst = CKPT_OK;
    for (uint32_t i = 0; i < w->tiers.setup->count; i++) {
        struct ckpt_err why = { 0 };
        if (!j->copies[i].policy)
            continue;
        enum ckpt_status dropped = drop_copies(w, j, i, &why);
        if (worst == CKPT_OK && dropped != CKPT_OK) {
            worst = dropped;
            first = why;
        }
    }
    return st != CKPT_OK || worst == CKPT_OK ? st : err_set(err, worst, "%s", err_text(&first));
}
