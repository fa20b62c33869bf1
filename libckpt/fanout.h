/* Fan-out of a restore: ranks that hold the same bytes on devices read each byte once between
 * them, and NCCL brings it to the others, while more is read and decoded.
 *
 *      rank 0                         rank 1                        ckptd, on each rank's node
 *      callback: the unique id ─────► callback
 *      LOAD {its units and what is not dealt} ───────────────────►  plans, reads, FRAGS
 *      init of the communicator, without blocking
 *      vote: the same plan (digest), and it is under way? ◄──► all say yes, or none goes on
 *      broadcast u0 (mine is here) ─► broadcast u0
 *      broadcast u1 ◄──────────────── broadcast u1 (its is here)    ...
 *      vote: everything came, from ckptd and from everybody? ◄──► yes
 *
 * Nothing depends on it.  Whatever is not as it should be, the rank asks ckptd for everything, as
 * ever: restoring twice into the same memory is harmless.
 *   no NCCL, nothing to deal, other plans,    the first vote says no (who cannot even vote costs
 *   one that cannot restore                   the others the time limit, and everybody a
 *                                             communicator of the caller's)
 *   bad bytes, a load that fails on one rank  it goes through the motions, so nobody waits for it;
 *                                             the second vote says no
 *   a rank that died or hangs, NCCL's errors  no step within the time limit, or an error: the
 *                                             communicator is aborted, and once nothing of it
 *                                             runs on the device any more, ckptd is asked, even
 *                                             if the abort still waits for others (nccl_end.h)
 * Ranks may end differently, one whole and another alone: both have the same bytes.
 *
 * Collectives are put on a stream of their own, in the order of the plan (fanout_plan.h), a few
 * groups ahead of what has ended, by the caller's thread; nobody else calls NCCL until a
 * communicator is ended, which is all that its last thread does.  A unit's
 * broadcast waits on the device for the copies out of the slots, so a slot goes back to ckptd as
 * ever.  Not used on the save path. */
#pragma once

#include "libckpt/fanout_plan.h"

struct ckpt_fanout;
struct ckpt_state;
struct fanout;
struct lib_op;
struct wire_load;
struct wire_msg;

/* Checks the caller's struct (NULL is fine: *ret then has size 0). */
enum ckpt_status fanout_opts(const struct ckpt_fanout *given, struct ckpt_fanout *ret,
                             struct ckpt_err *err) CKPT_MUST_CHECK;
/* First of all, whatever becomes of the restore: the caller's callback is a collective, and may
 * hold the others for good.  `s` NULL: it cannot even vote.  NULL: nothing to run, nor to free. */
struct fanout *fanout_meet(struct ckpt_state *s, const struct ckpt_fanout *opts);
/* Gets a communicator under way and plans; with a plan s->fan is set, to be sent with the LOAD.
 * The state is bound and prepared, the lock not held.  `load` NULL: the restore has failed, and
 * the others are to hear so; nothing is asked of the state then. */
void fanout_begin(struct fanout *f, const struct wire_load *load);

enum fanout_end {
    FANOUT_WHOLE, /* everything is here; the op has ended */
    FANOUT_ALONE, /* the op is a load of everything: go on waiting for it */
    FANOUT_AGAIN, /* it was one of a part, and is over: ask for everything */
    FANOUT_STUCK, /* the device does not let go of the tensors: CKPT_DEVICE */
};
/* After it was begun, and LOAD queued if it could be; `op` may be NULL if it was begun without.
 * Lock held, dropped meanwhile. */
enum fanout_end fanout_run(struct fanout *f, struct lib_op *op, int64_t deadline_ns);
/* NULL is fine, and tells nothing; else *ret_comm is CKPT_COMM_*.  Lock not held. */
void fanout_free(struct fanout *f, uint32_t *ret_comm);

/* Lock held: fragments of s->fan whose copies are queued now. */
void fanout_took(struct ckpt_state *s, const struct wire_msg *m);
