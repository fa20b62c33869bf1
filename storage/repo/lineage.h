/* The history of a job and what is newest in it (rules I3, I5): a pure decision over
 * records that somebody has read.  No I/O, no clock. */
#pragma once

#include "formats/record.h"

#define LINEAGE_CRASHES 3 /* K of rule I5 */

struct lineage_launch {
    uint64_t epoch;
    bool claimed; /* the claim could be read */
    char token[RECORD_TOKEN_MAX + 1];
    uint8_t nonce[16];
    uint32_t world;
    int64_t time_ns;
    bool resolved;
    enum resolved_kind kind;
    bool forced, stop;
    struct ckpt_name point; /* RESOLVED_POINT */
    char why[RECORD_TEXT_MAX];
    bool restored;
    bool progressed; /* beyond its resume point, or finished: RECORD_STEP_FINISHED */
    uint64_t progress_step;
    uint32_t bad_count;
    bool corrupt; /* one of the bad reports says digests failed */
    struct ckpt_name bad_name;
    char bad_text[RECORD_TEXT_MAX];
};
struct lineage_commit {
    struct ckpt_name name;
    enum life life; /* GONE ones are not listed */
    bool has_parent;
    struct ckpt_name parent;
    bool known;      /* `restorable` was found out */
    bool restorable; /* here and now (H3) */
    bool unreadable; /* its life log: LIVE is a guess */
    char why_not[160];
};
struct lineage {
    struct lineage_launch *launches; /* newest epoch first */
    size_t launch_count;
    struct lineage_commit *commits; /* newest epoch first, then highest step first */
    size_t commit_count;
    /* What was read of launches: `resolved` and the bad reports of epochs from this one up ... */
    uint64_t resolved_from;
    uint64_t reports_from; /* ... the rest; 0 = of all.  Of the others only that they are there,
                              and that `resolved` is. */
};
void lineage_fini(struct lineage *l);

struct lineage_wish {
    bool forced;    /* opts.resume, CKPT_RESUME or rollback */
    bool none;      /* forced: start at the beginning */
    uint64_t step;  /* forced: this step ... */
    bool has_epoch; /* ... of this epoch, else on the newest lineage */
    uint64_t epoch;
    uint64_t below; /* the epoch that resolves: only launches below it count */
};
/* Decides.  Fills *ret (epoch = wish->below, kind, name, forced, stop, why, skips:
 * record_resolved_fini).  CKPT_REFUSED: checkpoints exist but none is a candidate, the
 * text says to set CKPT_RESUME; CKPT_NOT_FOUND: the forced one does not exist. */
enum ckpt_status lineage_pick(const struct lineage *l, const struct lineage_wish *wish,
                              struct record_resolved *ret, struct ckpt_err *err) CKPT_MUST_CHECK;
/* The same where not all was read (resolved_from, reports_from).  CKPT_BUSY, without words: what
 * it comes to depends on more; *need says on what, and at least one is lower than it was. */
struct lineage_need {
    uint64_t resolved_from, reports_from;
};
enum ckpt_status lineage_pick_part(const struct lineage *l, const struct lineage_wish *wish,
                                   struct lineage_need *need, struct record_resolved *ret,
                                   struct ckpt_err *err) CKPT_MUST_CHECK;
/* Decides as the next launch would after its claim, if it started now: whatever ran before
 * it counts as dead (I5), which a history without that claim does not say. */
enum ckpt_status lineage_pick_next(const struct lineage *l, struct record_resolved *ret,
                                   struct ckpt_err *err) CKPT_MUST_CHECK;
/* True if the commit is on the branch that the newest resolved launch continues (for
 * listings, JOB@STEP): its epoch is the newest with commits, or an ancestor up to the
 * point from which the next one resumed. */
bool lineage_on_branch(const struct lineage *l, const struct ckpt_name *name);
/* The newest live commit that can be restored: on that branch if any is; NULL if none. */
const struct lineage_commit *lineage_newest_restorable(const struct lineage *l);
/* lineage_on_branch for all of l->commits in one walk: marks[i] for commits[i].  False: no memory. */
bool lineage_mark_branch(const struct lineage *l, bool *marks) CKPT_MUST_CHECK;
/* Crash-loop state of a checkpoint: how many launches in a row count against it, or against
 * another of the same state (lineage_origin). */
uint32_t lineage_crashes(const struct lineage *l, const struct ckpt_name *name, uint64_t below);
bool lineage_quarantined(const struct lineage *l, const struct ckpt_name *name, uint64_t below);
/* Explains in lines of text what the next launch would do (ckpt restore --explain). */
void lineage_to_text(const struct lineage *l, const struct record_resolved *next, char *buf,
                     size_t cap);
