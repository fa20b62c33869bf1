/* The way back through a job's history, and what stands along it: what choosing
 * (lineage_pick.c) asks of the facts (lineage.c).
 *
 * The history of a job is a tree: each launch resumed from a point of an earlier one and
 * committed on top of it.  The *trail* is the way from the newest resolved launch back to
 * the root, as stretches of one epoch's commits up to a step, newest first:
 *
 *     epoch 1:  40  80  120          epoch 2 was forced back to 80 and saved 90, 100
 *                    \
 *     epoch 2:        90  100        trail: (epoch 2, all) (epoch 1, up to 80)
 *
 * A launch that saved nothing and was not forced is transparent: it does not move the
 * head, and its own resume point comes last.  120 is abandoned: never on the trail. */
#pragma once

#include "storage/repo/lineage.h"

/* One stretch: commits of `epoch` up to `top`. */
struct stretch {
    uint64_t epoch, top;
    bool is_point; /* `point` is a resume point: a candidate even when DELETED */
    struct ckpt_name point;
};
struct trail {
    struct stretch *stretches; /* caller frees */
    size_t count, cap;
    size_t branch; /* the first so many are the branch; behind them the transparent ones' own */
    bool failed;   /* out of memory */
    bool cut;      /* it ends at `need`, a launch that was not read; what is there is right */
    uint64_t need;
    const struct ckpt_name *wanted; /* NULL, or the name that is asked about ... */
    bool off_branch, covered;       /* ... and whether the branch covers it */
};
/* From the newest launch below an epoch back to the root. */
void trail_walk(const struct lineage *l, uint64_t below, struct trail *t);
bool trail_covers(const struct stretch *s, const struct ckpt_name *name);

/* The first commit (in list order) whose epoch is <= `epoch`: commits are sorted with the
 * newest epoch first. */
size_t lineage_commits_from(const struct lineage *l, uint64_t epoch);
const struct lineage_commit *lineage_find_commit(const struct lineage *l,
                                                 const struct ckpt_name *name);
/* The newest resolved launch below an epoch; NULL if there is none. */
const struct lineage_launch *lineage_resolved_below(const struct lineage *l, uint64_t below);
/* The first checkpoint of the same state: a launch that saves the step from which it resumed
 * saves what it found.  Looks at `resolved` of its epoch and of those between. */
struct ckpt_name lineage_origin(const struct lineage *l, const struct ckpt_name *name);
/* The launches in a row that count against a state (I5). */
struct crash_run {
    uint32_t crashes;
    const struct lineage_launch *first; /* the oldest of them; NULL if there is none */
};
struct crash_run lineage_crash_run(const struct lineage *l, const struct ckpt_name *name,
                                   uint64_t below);
/* The newest launch that found wrong digests in it; NULL if none did, or a later launch
 * restored it (it was repaired). */
const struct lineage_launch *lineage_corrupt_in(const struct lineage *l,
                                                const struct ckpt_name *name, uint64_t below);
