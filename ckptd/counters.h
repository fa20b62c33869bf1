/* What a ckptd has counted (formats/meter.h says what each number means), and how much work
 * would be lost.
 *
 * Lives in memory that is shared with the workers to come, so that a worker that dies takes
 * no number with it.  Only one worker writes at a time, and only its control thread.  A
 * worker can die on any line here: a job is `used` last, so a half-written one is not seen;
 * everything else is a number that may miss its last change.
 *
 * Times are CLOCK_MONOTONIC, ns, arguments of all calls. */
#pragma once

#include "ckptd/tiers.h"
#include "formats/key.h"
#include "formats/meter.h"

#define COUNTERS_JOBS_MAX  64 /* that are told apart; of more, the one longest silent goes */
#define COUNTERS_NAMES_MAX 64 /* newest checkpoints of a job of which the time is known */

struct counters_name {
    struct ckpt_name name;
    int64_t begun_ns; /* its save began: what it holds was done by then; 0 = no entry */
};
struct counters_kept { /* the newest checkpoint of a job in a tier */
    bool any;
    struct counters_name newest;
    uint64_t count;
};
struct counters_job {
    bool used;
    char job[CKPT_JOB_NAME_MAX + 1];
    uint64_t epoch;
    int64_t begun_ns;   /* the epoch, here */
    uint64_t from_step; /* what it resumed from; 0 = the beginning */
    uint64_t step;      /* newest that was told of in this epoch */
    int64_t heard_ns;
    uint64_t staged, committed, aborted;
    uint32_t next_name;
    struct counters_name names[COUNTERS_NAMES_MAX]; /* a ring */
    struct counters_kept kept[TIERS_MAX];           /* 0: where packs are saved */
};
struct counters {
    uint64_t node[METER_COUNT]; /* those of scope NODE that only grow; by meter_id; times in ns */
    struct {
        uint64_t held, put_bytes, troubles;
    } tiers[TIERS_MAX];
    struct counters_job jobs[COUNTERS_JOBS_MAX];
};

/* Zeros that this process and those that it forks share.  NULL: out of memory.  Never freed: it
 * lives as long as the process. */
void *shared_new(size_t bytes);
struct counters *counters_new(void);

/* A launch or a rollback of the job begins an epoch, from `point` (NULL: the beginning). */
void counters_epoch(struct counters *c, const char *job, uint64_t epoch,
                    const struct ckpt_name *point, int64_t now);
/* Its trainers told of a step: progress, or a save of it. */
void counters_step(struct counters *c, const char *job, uint64_t epoch, uint64_t step, int64_t now);
void counters_staged(struct counters *c, const char *job, int64_t now);
/* A save that began at begun_ns is a checkpoint now, or never will be. */
void counters_committed(struct counters *c, const char *job, const struct ckpt_name *name,
                        int64_t begun_ns, int64_t now);
void counters_aborted(struct counters *c, const char *job, int64_t now);
/* A tier from 1 has it whole. */
void counters_held(struct counters *c, const char *job, uint32_t tier, const struct ckpt_name *name,
                   bool brought, int64_t now);

/* NULL: nothing is known of that job. */
const struct counters_job *counters_find(const struct counters *c, const char *job);
/* What is lost if the job must go on from that tier: the work since the save of the newest
 * checkpoint there began (before the first of this epoch: since the epoch began here, as what
 * it resumed from lies in a store).  Of a job that nobody trains: what the newest checkpoint
 * here has that the tier's has not. */
struct counters_loss {
    double seconds;
    uint64_t steps;
};
struct counters_loss counters_loss(const struct counters_job *j, uint32_t tier, bool training,
                                   int64_t now);
