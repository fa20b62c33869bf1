/* An NCCL that is none: the functions that nccl_api.h takes, as a shared library for CKPT_NCCL,
 * on the streams and memory of fake_cudart.h.  Processes meet in a memfd that the unique id
 * names; bytes go through it in blocks, in the streams' threads.
 *
 *   - Never blocks: an init, and the end of each group, stay in progress until they have been
 *     looked at a few times; calls in between are ncclInvalidUsage.
 *   - A receiver's buffer is poisoned until its bytes have come.
 *   - What is under way at an abort writes a last time, late.
 *   - Host memory that is not pinned and memory of another device are ncclInvalidArgument.
 *   - What NCCL leaves undefined ends the process with words: ranks that disagree on the next
 *     collective, a buffer outside of its allocation, or not where the
 *     device has it, use after abort or destroy, host memory that a
 *     fork shares.
 *   - Nobody learns of a rank that died, or of another's abort.
 *   - CommAbort and CommDestroy come back when they are let go: what they do to this rank is done
 *     before.  A thread that is held must not be the trainer's. */
#pragma once

#include <stdbool.h>

enum fake_nccl_fault {
    FAKE_NCCL_NONE,
    FAKE_NCCL_HANG,  /* this rank's part of the collective never moves, until an abort */
    FAKE_NCCL_DIE,   /* SIGKILL in the middle of it */
    FAKE_NCCL_ASYNC, /* it stops, and CommGetAsyncError says ncclRemoteError */
};
/* What happens to the nth next collective of this process, and to those behind it. */
void fake_nccl_fault(enum fake_nccl_fault fault, unsigned nth);
/* The nth next call (1 = the next) of a function ("Broadcast") returns this result. */
void fake_nccl_fail(const char *function, unsigned nth, int result);
/* Calls of these two stay from the next one on, or all come back. */
void fake_nccl_hold(const char *function, bool hold);
unsigned fake_nccl_calls(const char *function);
unsigned fake_nccl_ran(void); /* collectives whose turn on their stream has come */
int fake_nccl_alive(void);    /* communicators neither aborted nor destroyed */
