/* The worker: opens the store, starts the crews, takes over what another worker left,
 * and runs control. */
#pragma once

#include "ckptd/config.h"
#include "ckptd/counters.h"
#include "ckptd/keeper.h"
#include "ckptd/rundir.h"

struct worker {
    const struct config *config;      /* of a new worker */
    const struct config *start;       /* as ckptd was started */
    const struct config_input *input; /* to read settings again; NULL: they stay */
    const struct rundir *rundir;
    struct counters *counters; /* borrowed; they outlive the worker, as does the next */
    struct record_repo *home;  /* ckpt.repo of the home; zeros before the first worker */
    int ready_fd;              /* gets one byte when the worker serves; -1 = nobody waits */
};
/* For keeper_run; arg: struct worker.  Returns the exit status. */
int worker_main(void *arg, const struct keep *keep, const struct keep_table *kept);
