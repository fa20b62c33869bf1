/* A launch's steps in the store: claim, resolve, find, look. */
#pragma once

#include "ckptd/jobs.h"

enum ckpt_status launch_job_run(struct store *home, const uint8_t node[16], struct job_launch *l,
                                struct ckpt_err *err) CKPT_MUST_CHECK;
