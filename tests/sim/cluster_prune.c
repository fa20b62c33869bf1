/* The operator's prune and dropping of copies (cluster_prune.h says why it has a file of its own). */
#include "sim/cluster_prune.h"

#include <stdio.h>

#include "storage/repo/life_copy.h"

static enum ckpt_status keep_last(uint32_t last, struct keep_policy *ret)
{
    char text[16];
    snprintf(text, sizeof(text), "%u", last);
    return keep_policy_add(ret, "last", text, NULL);
}

enum ckpt_status cluster_prune(struct store *home, struct store *far, const char *job,
                               uint32_t last, uint64_t *ret_deleted)
{
    struct keep_policy policy = { 0 };
    struct prune_report report = { 0 };
    enum ckpt_status st = keep_last(last, &policy);
    const struct prune_options o = { .policy = &policy, .tiers = &far, .tier_count = far != NULL };
    if (st == CKPT_OK)
        st = prune(home, job, &o, &report, NULL);
    *ret_deleted = report.deleted;
    return st;
}

enum ckpt_status cluster_drop(struct store *home, struct store *far, const char *job,
                              bool from_home, uint32_t last, uint64_t *ret_dropped)
{
    struct keep_policy policy = { 0 };
    struct copy_report report = { 0 };
    struct prune_plan plan = { 0 };
    const struct copy_place p = {
        .job = job, .home = home, .here = from_home ? home : far, .tiers = &far, .tier_count = 1
    };
    enum ckpt_status st = keep_last(last, &policy);
    if (st == CKPT_OK)
        st = copy_prune(&p, &policy, &plan, &report, NULL);
    prune_plan_fini(&plan);
    *ret_dropped = report.dropped;
    return st;
}
