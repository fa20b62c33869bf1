/* What measurements and tests on a real GPU share: the CUDA runtime by dlopen (CKPT_CUDART, else
 * libcudart.so.13 or .12; the fake will do), a state of mixed tensors on device 0, and a private
 * ckptd on a directory of its own. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libckpt/ckpt.h"

enum { GPU_H2D = 1, GPU_D2H = 2, GPU_D2D = 3 };

/* One line a function: name without "cuda", parameters.  All return 0 or an error. */
#define GPU_KIT_FUNCTIONS(F)                                                 \
    F(GetDeviceCount, (int *count))                                          \
    F(SetDevice, (int device))                                               \
    F(RuntimeGetVersion, (int *version))                                     \
    F(DriverGetVersion, (int *version))                                      \
    F(Malloc, (void **ret, size_t bytes))                                    \
    F(Free, (void *p))                                                       \
    F(MallocHost, (void **ret, size_t bytes))                                \
    F(FreeHost, (void *p))                                                   \
    F(MemGetInfo, (size_t * ret_free, size_t * ret_total))                   \
    F(StreamCreate, (void **ret))                                            \
    F(StreamCreateWithFlags, (void **ret, unsigned flags))                   \
    F(StreamDestroy, (void *stream))                                         \
    F(StreamSynchronize, (void *stream))                                     \
    F(StreamBeginCapture, (void *stream, int mode))                          \
    F(StreamEndCapture, (void *stream, void **ret_graph))                    \
    F(GraphInstantiate, (void **ret, void *graph, unsigned long long flags)) \
    F(GraphLaunch, (void *exec, void *stream))                               \
    F(GraphExecDestroy, (void *exec))                                        \
    F(GraphDestroy, (void *graph))                                           \
    F(MemsetAsync, (void *p, int value, size_t bytes, void *stream))         \
    F(MemcpyAsync, (void *dst, const void *src, size_t bytes, int kind, void *stream))

struct gpu_kit {
#define GPU_KIT_MEMBER(name, params) int(*name) params;
    GPU_KIT_FUNCTIONS(GPU_KIT_MEMBER)
#undef GPU_KIT_MEMBER
    int runtime, driver, devices;
    char device[96], from[256];
    void *stream; /* of device 0, non-blocking */
};

/* False: there is no runtime, driver or device, and ret_why says so. */
bool gpu_kit_open(struct gpu_kit *ret, char *ret_why, size_t cap);
/* A CUDA call that must succeed; else the process ends with words. */
void gpu_kit_must(int error, const char *what);
/* The same for a call of libckpt. */
void gpu_kit_ok(enum ckpt_status st, const char *what);
double gpu_kit_now(void); /* seconds, monotonic */

/* A state of `bytes` on device 0: half in four huge tensors, the rest in `small` small ones of
 * different sizes; one context on `dir`, sealed, with an arena of arena_bytes (0 = the state). */
struct gpu_state {
    const struct gpu_kit *kit;
    struct ckpt *c;
    struct ckpt_state *s;
    size_t count;
    uint64_t bytes;
    struct ckpt_buffer *at; /* `count` */
    size_t free_before;     /* of the device, with the state on it, before the context was opened */
};
void gpu_state_open(struct gpu_state *ret, const struct gpu_kit *kit, const char *dir,
                    const char *job, uint64_t bytes, size_t small, uint64_t arena_bytes);
/* Queues on the stream that every byte becomes what step `step` has there. */
void gpu_state_compute(const struct gpu_state *g, unsigned step);
/* How many tensors have a byte that is not of the step; waits for the stream. */
size_t gpu_state_wrong(const struct gpu_state *g, unsigned step);
/* Device memory that has gone since the state lay there: the library's, if nobody else is there. */
size_t gpu_state_beyond(const struct gpu_state *g);
uint64_t gpu_state_save(const struct gpu_state *g, uint64_t step, uint32_t flags);
void gpu_state_close(struct gpu_state *g);
