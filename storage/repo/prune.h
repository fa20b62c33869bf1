/* Pruning: a policy decides which checkpoints of a job stay, the rest is deleted.
 *
 * Deciding reads the job's history and changes nothing.  Whatever the policy says, these
 * stay (rules D6, I5):
 *
 *   - the newest checkpoint that can be restored, from this store alone, from each other one
 *     alone (`tiers`) and from all together, and the one that the next launch would resume from
 *   - what the newest launch resumed from
 *   - what has a tag
 *   - what is quarantined: a human must look at it
 *   - what is not complete here yet and newer than all that is, or was committed within
 *     the last hour: it is on its way
 *   - what a rule would keep once it is complete here: it may be on its way for long
 *   - what is being drained to another store
 *   - what a launch saved that began while prune looked
 *   - what could not be read: nothing is decided about the unknown
 *   - what is complete in no store at hand and has no data here: it may lie where nobody looked
 *
 * The rules count what this store holds or any of `tiers` does: a home whose disk was lost has
 * the records of older checkpoints again, and their data is in the tiers alone.  When a tier
 * cannot be asked, nothing is decided.
 *
 * Nothing in a store refers to the data of another checkpoint.
 *
 * Applying puts DELETED for each (rule D1), and then looks again at the newest `resolved`
 * and at the tags, as delete does (rule D2): what a launch resumes from or somebody tagged
 * meanwhile is LIVE again.  There is no lock: saves, restores, other prunes and gcs may
 * run at any time.  A prune that dies anywhere has deleted some and harmed nothing: data
 * goes only by gc (life.h), after the grace, which looks again.  Ages come from the store:
 * the time of a checkpoint is that of its commit record, or of its h/ in a tier if that is
 * older (the records of a home that was lost are young); the present is store_now. */
#pragma once

#include "storage/repo/keep_policy.h"
#include "storage/repo/repo.h"
#include "storage/repo/roster.h"

#define PRUNE_ARRIVAL_NS (INT64_C(3600) * 1000000000) /* from a commit to its h/ */

struct prune_options {
    const struct keep_policy *policy;
    struct store *const *tiers; /* all other stores that the job is drained to; each borrowed */
    size_t tier_count;
    unsigned threads;           /* that delete; 0 and 1: the caller alone */
    unsigned least;             /* so many of what can be restored stay in any case, the newest */
    const struct roster *among; /* these alone are counted by rules and least; NULL: all */
};

enum prune_done {
    PRUNE_NOTHING, /* stays, or not applied yet */
    PRUNE_DELETED,
    PRUNE_SPARED, /* a launch resumed from it or somebody tagged it meanwhile */
    PRUNE_LOST,   /* somebody else deleted or undeleted it meanwhile: as they left it */
};
struct prune_item {
    struct ckpt_name name;
    int64_t time_ns;
    bool on_lineage;
    bool keep;
    char why[KEEP_REASON_MAX]; /* why it stays or goes, for people */
    uint64_t stored_bytes;     /* of what goes; UINT64_MAX: unknown */
    uint64_t log_n;            /* the newest entry of its life log when it was looked at */
    enum prune_done done;
};
struct prune_plan {
    struct prune_item *items; /* live checkpoints, newest epoch first, then highest step */
    size_t count;
};
struct prune_report {
    uint64_t kept, deleted, spared, lost;
    uint64_t bytes; /* of what was deleted, as far as known */
};

/* CKPT_REFUSED: the policy has no rule.  *ret: prune_plan_fini. */
enum ckpt_status prune_decide(struct store *s, const char *job, const struct prune_options *o,
                              struct prune_plan *ret, struct ckpt_err *err) CKPT_MUST_CHECK;
/* Deletes what is to go; `done` of each item says what became of it, also on failure. */
enum ckpt_status prune_apply(struct store *s, const char *job, const struct prune_options *o,
                             struct prune_plan *plan, struct prune_report *ret,
                             struct ckpt_err *err) CKPT_MUST_CHECK;
/* Both: what ckptd does after a commit. */
enum ckpt_status prune(struct store *s, const char *job, const struct prune_options *o,
                       struct prune_report *ret, struct ckpt_err *err) CKPT_MUST_CHECK;
/* For who deletes by name, before life_delete, which sees this store alone: of the rules above
 * the first two and the last.  CKPT_REFUSED, with the reason.  tiers: as in prune_options. */
enum ckpt_status prune_check(struct store *s, const char *job, const struct ckpt_name *name,
                             struct store *const *tiers, size_t tier_count, struct ckpt_err *err)
    CKPT_MUST_CHECK;
void prune_plan_fini(struct prune_plan *p);
