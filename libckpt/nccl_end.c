/* See nccl_end.h. */
#include "libckpt/nccl_end.h"

#include <stdatomic.h>
#include <time.h>

#include "libckpt/context.h"
#include "libckpt/own_thread.h"

#define LOOK_NS 200000

struct nccl_end {
    atomic_int users; /* its thread and whoever waits: the last one frees */
    nccl_result (*call)(nccl_comm c);
    nccl_comm comm;
    cuda_error (*set_device)(int device);
    cuda_error (*capture_mode)(int *mode);
    int device;
};

static void drop(struct nccl_end *e)
{
    if (atomic_fetch_sub(&e->users, 1) == 1)
        free(e);
}

/* NCCL gives its caller's device back, and the one that threads begin with may be one that nobody
 * here works with: that would make a context on it.  It may come so late that the trainer captures a
 * graph: that is none of this thread's business. */
static void *call_it(void *arg)
{
    struct nccl_end *e = arg;
    int mode = CUDA_CAPTURE_THREAD_LOCAL;
    if (e->device >= 0) {
        (void)e->set_device(e->device);
        (void)e->capture_mode(&mode);
    }
    (void)e->call(e->comm);
    drop(e);
    return NULL;
}

struct nccl_end *nccl_end_begin(nccl_result (*call)(nccl_comm c), nccl_comm comm,
                                const struct cuda_api *cuda, int device)
{
    struct nccl_end *e = malloc(sizeof(*e));
    if (!e)
        return NULL;
    *e = (struct nccl_end){
        2, call, comm, cuda->SetDevice, cuda->ThreadExchangeStreamCaptureMode, device
    };
    if (own_thread_start(NULL, call_it, e) == 0)
        return e;
    free(e);
    return NULL;
}

void nccl_end_wait(struct nccl_end *e, int64_t until_ns)
{
    if (!e)
        return;
    while (atomic_load(&e->users) == 2 && lib_now_ns() < until_ns)
        nanosleep(&(struct timespec){ .tv_nsec = LOOK_NS }, NULL);
    drop(e);
}
