/* The jobs that work on tiers beyond the near ones: thin over storage/repo/drain.h, adopt.h
 * and scrub.h.  They run in the crew of that tier. */
#pragma once

#include "ckptd/jobs.h"

enum ckpt_status drain_job_run(struct jobs_work *w, struct job_drain *j, struct ckpt_err *err)
    CKPT_MUST_CHECK;
enum ckpt_status adopt_job_run(struct jobs_work *w, struct job_tier *j, struct ckpt_err *err)
    CKPT_MUST_CHECK;
/* CKPT_CONFLICT: the tier has another record under that key. */
enum ckpt_status spread_job_run(struct jobs_work *w, struct job_tier *j, struct ckpt_err *err)
    CKPT_MUST_CHECK;
