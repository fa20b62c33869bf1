/* A restore's steps in the store (plan, batch), and what is listed of a checkpoint. */
#pragma once

#include "ckptd/jobs.h"

enum ckpt_status plan_job_run(struct jobs_work *w, struct job_plan *p, struct ckpt_err *err)
    CKPT_MUST_CHECK;
enum ckpt_status batch_job_run(struct jobs_work *w, struct job_batch *b, struct ckpt_err *err)
    CKPT_MUST_CHECK;
enum ckpt_status list_job_run(struct jobs_work *w, struct job_list *l, struct ckpt_err *err)
    CKPT_MUST_CHECK;
