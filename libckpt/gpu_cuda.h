/* CUDA devices behind gpu.h, on the runtime that cuda_api.h found. */
#pragma once

#include "libckpt/cuda_api.h"
#include "libckpt/gpu.h"

struct cuda {
    struct cuda_api api;
    int devices;
};

/* CKPT_UNSUPPORTED: no runtime, no driver or no device; the text says which. */
enum ckpt_status cuda_open(struct cuda *ret, struct ckpt_err *err) CKPT_MUST_CHECK;
/* The CUDA device that holds the memory at `p`, or -1: CUDA knows it as host memory, or not at all.
 * Makes no context. */
enum ckpt_status cuda_device_of(const struct cuda *c, const void *p, int *ret, struct ckpt_err *err)
    CKPT_MUST_CHECK;
/* The calling thread's. */
enum ckpt_status cuda_device_current(const struct cuda *c, int *ret, struct ckpt_err *err)
    CKPT_MUST_CHECK;
/* The calling thread has a context on its device: asking makes none. */
bool cuda_context_here(const struct cuda *c);
/* Is the stream being captured into a graph?  Asking is allowed at any time, disturbs none and makes
 * no context: of a thread whose device nothing in this process works with, no stream is. */
enum ckpt_status cuda_capturing(const struct cuda *c, void *stream, bool *ret, struct ckpt_err *err)
    CKPT_MUST_CHECK;
/* The device has pinned memory where the host has it. */
bool cuda_uses_host_pointers(const struct cuda *c, int device);
/* A device with its queue; borrows `c`. */
enum ckpt_status gpu_cuda_new(const struct cuda *c, int device, struct gpu **ret,
                              struct ckpt_err *err) CKPT_MUST_CHECK;
/* The cudaStream_t of a device's queue. */
void *gpu_cuda_stream(const struct gpu *g);
/* The runtime's error for which copies are not handed over in batches, which is slower; 0: they are,
 * as far as is known. */
int gpu_cuda_one_by_one(const struct gpu *g);
/* The calling thread is ours, the only one that works with its devices for long: its current device
 * is nobody's business, and its copies are gathered. */
void gpu_cuda_own_thread(void);
