/* The store as a model: what storage/repo documents of each job, done at once.
 *
 *   model_jobs.c    latency, failures, declarations of one word a slot
 *   model_store.c   attempts, epochs, restores
 *   model_drain.c   the tier beyond it */
#pragma once

#include "sim/sim.h"

#define MODEL_SLOT_BYTES 8

extern uint32_t model_job_node; /* where the job runs that is having its effect */
/* What a job does, at once; its status. */
enum ckpt_status model_run(struct job *j);
enum ckpt_status model_drain_run(struct job_drain *j, uint32_t node);
enum ckpt_status model_spread_run(const struct job_tier *j);
/* What a rank copies into a slot, and what a restore brings. */
uint64_t model_word_saved(const struct ckpt_name *name, uint32_t rank, uint32_t part);
uint64_t model_word_loaded(const struct ckpt_name *name, uint32_t batch);
