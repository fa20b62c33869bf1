/* The cluster: the real jobs (ckptd/jobs.c and all of storage/repo below it) of up to eight
 * nodes, over simulated places.
 *
 *   cluster_place.c     places: objects, who reaches them, cuts, answers that get lost
 *   cluster_jobs.c      a crew's job as a task that gives the turn back in every store call
 *   cluster_image.c     what ranks declare: tensors cut among them anew in each launch
 *   cluster_truth.c     what is decided in the home, seen from outside, and its laws
 *   cluster_operator.c  delete, undelete, prune, gc and tags, run and killed at any time
 *
 *      node 0        node 1        node 2 ...
 *     near(0)       near(1)       near(2)         the node's own disk, if it has one
 *         \            |            /
 *          home ------ + ------ far               shared by all; far: drained to
 */
#pragma once

#include "sim/sim.h"

enum { PLACE_HOME, PLACE_FAR, PLACE_NEAR, PLACES = PLACE_NEAR + SIM_NODES };

struct place_object {
    char *key;
    void *bytes;
    size_t len;
    int64_t mtime_ns;
    bool synced; /* its name is there after a power cut */
};
struct place {
    struct place_object *objects; /* sorted by key */
    uint32_t count, cap;
    int32_t owner; /* the node whose disk it is on; -1: nobody's */
    int64_t slow_until;
};
extern struct place places[PLACES];
extern struct policy sim_policy; /* of this seed: what goes to the tier */
extern bool sim_far;             /* of this seed: there is a tier beyond the home */
extern bool sim_near; /* of this seed: nodes save on disks of their own, not in the home */

/* ---- cluster_place.c ---- */
void places_reset(void);
const char *place_name(uint32_t place);
struct store *place_open(uint32_t place); /* by the operator */
const struct place_object *place_find(uint32_t place, const char *key);
void place_cut(uint32_t node, uint32_t place, int64_t until_ns);
bool place_is_cut(uint32_t node, uint32_t place);
void place_lose(uint32_t place);   /* the disk is gone */
void place_unsync(uint32_t place); /* the power is: names that were not synced may be, too */

/* ---- cluster_image.c ---- */
uint64_t image_value(const struct ckpt_name *name, uint32_t tensor, uint64_t cell);

/* ---- cluster_jobs.c ---- */
void jobs_reset(void);

/* ---- cluster_truth.c ---- */
void truth_reset(void);
/* What a place has got, has lost: after it happened. */
void truth_put(uint32_t place, uint32_t node, const struct place_object *o);
void truth_removed(uint32_t place, const char *key);
void truth_job_begins(const struct sim_job *s);
void truth_job_ended(const struct sim_job *s);
void truth_disk_lost(uint32_t node);
enum life truth_life(const struct sim_attempt *a);

/* ---- cluster_operator.c ---- */
void operator_plan(int64_t until_ns);
void operator_act(uint32_t which, uint64_t number);
bool operator_busy(void);
