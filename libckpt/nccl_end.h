/* The end of a communicator: ncclCommAbort and ncclCommDestroy.  Both may wait, without a limit, for
 * other ranks to call them too, which a rank that died or hangs never does.  So each is called in a
 * thread of its own; one that does not come back stays there, with all that it needs, until the
 * process ends.  Nobody else calls NCCL with that communicator from then on. */
#pragma once

#include "libckpt/cuda_api.h"
#include "libckpt/nccl_api.h"

struct nccl_end; /* under way */

/* Begins call(comm), with its device as the thread's own (-1: not known).  NULL: it could not be
 * begun, and the communicator is as it was. */
struct nccl_end *nccl_end_begin(nccl_result (*call)(nccl_comm c), nccl_comm comm,
                                const struct cuda_api *cuda, int device);
/* Waits until the call has come back, or until then, and frees (the thread does, if it stays).
 * NULL is fine. */
void nccl_end_wait(struct nccl_end *e, int64_t until_ns);
