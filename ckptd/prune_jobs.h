/* The job that keeps a job's checkpoints to a policy: thin over storage/repo/prune.h and
 * life.h.  It runs in a crew of its own, behind everything else; a pass that ends anywhere
 * has done no harm, and the next one goes on. */
#pragma once

#include "ckptd/jobs.h"

/* On the node that decides: prunes the home, and when it is time collects what was deleted
 * longer than the grace ago, in the home and in every other tier.  On the others, and where only
 * the node's own tier has a policy: collects in that what is gone or was given up at home.  Of
 * each tier that has a policy: drops what is not to be kept there and all other stores hold.
 *
 * A tier that cannot be reached ends the pass before anything is deleted: what lies there
 * alone, or is on its way there, cannot be known. */
enum ckpt_status prune_job_run(struct jobs_work *w, struct job_prune *j, struct ckpt_err *err)
    CKPT_MUST_CHECK;
