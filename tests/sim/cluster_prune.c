/* The operator's prune (cluster_prune.h says why it has a file of its own). */
#include "sim/cluster_prune.h"

#include <stdio.h>

#include "storage/repo/prune.h"

enum ckpt_status cluster_prune(struct store *home, struct store *far, const char *job,
                               uint32_t last, uint64_t *ret_deleted)
{
    struct keep_policy policy = { 0 };
    struct prune_report report = { 0 };
    char text[16];
    snprintf(text, sizeof(text), "%u", last);
    enum ckpt_status st = keep_policy_add(&policy, "last", text, NULL);
    const struct prune_options o = { .policy = &policy, .tiers = &far, .tier_count = far != NULL };
    if (st == CKPT_OK)
        st = prune(home, job, &o, &report, NULL);
    *ret_deleted = report.deleted;
    return st;
}
