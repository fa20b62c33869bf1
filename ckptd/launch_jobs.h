/* A launch's steps in the store: claim, resolve, find, look. */
#pragma once

#include "ckptd/jobs.h"

enum ckpt_status launch_job_run(struct jobs_work *w, struct job_launch *l, struct ckpt_err *err)
    CKPT_MUST_CHECK;
