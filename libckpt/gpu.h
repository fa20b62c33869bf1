/* The device interface: what the library needs of the place where tensors live.  Behind
 * one table: host memory (gpu_host.c) and CUDA (gpu_cuda.c).
 *
 * A `gpu` is one device with a private queue of copies on it.  Copies of one queue start
 * in order, asynchronously to the caller; an event marks a point in a queue, ours or the
 * user's (`user_stream`: a cudaStream_t; NULL = the default stream of this device).
 *
 *   save:     event E recorded on the user's stream;  our queue waits for E;  copies;
 *             an event behind each slot's copies, and one behind the last;  the fence
 *             waits for them (host) or makes the user's stream wait for the last
 *   restore:  the same, slot to tensor; the user's stream waits for the last one
 *
 * Copies may be gathered; `record` and `wait` hand over what their own thread gathered before,
 * and say what became of it to nobody else.
 * Threads: any, at once; calls leave the calling thread's current device as it was, unless nothing
 * in this process works with that one.
 * No callbacks: nothing of ours runs in a thread of the driver. */
#pragma once

#include "formats/box.h"

/* Memory is pinned in slices of so many bytes from where it begins: one call stalls the devices
 * for as long as it runs.  No copy may reach from one slice into the next. */
#ifndef GPU_PIN_SLICE /* a test has less memory */
#define GPU_PIN_SLICE (UINT64_C(1) << 30)
#endif

struct gpu;
/* Belongs to whoever made it, who may link it into a list. */
struct gpu_event {
    struct gpu *gpu;
    struct gpu_event *next;
};

struct gpu_ops {
    const char *name;
    /* Pins [base, base + bytes) for all devices of this process; the copy verbs work
     * without it, slower, and then wait for the user's stream.  All of it or nothing.  Unpins what
     * was pinned from `base` on, in however many calls of whole slices. */
    enum ckpt_status (*pin)(struct gpu *g, void *base, uint64_t bytes, struct ckpt_err *err);
    void (*unpin)(struct gpu *g, void *base, uint64_t bytes);
    enum ckpt_status (*event_new)(struct gpu *g, struct gpu_event **ret, struct ckpt_err *err);
    void (*event_free)(struct gpu_event *e); /* also before it happened; NULL is fine */
    /* Marks the present end of our queue; that of the user's, which must not be capturing
     * (CKPT_WRONG_STATE) and belongs to the event's device. */
    enum ckpt_status (*record)(struct gpu *g, struct gpu_event *e, struct ckpt_err *err);
    enum ckpt_status (*record_user)(struct gpu *g, struct gpu_event *e, void *user_stream,
                                    struct ckpt_err *err);
    /* Later work of our queue, or of the user's (a stream of this device), waits for the event
     * (of any device); the host does not.  On a user's stream that is capturing: a node that waits, at each
     * launch of the graph, for the event as it was recorded last. */
    enum ckpt_status (*wait)(struct gpu *g, const struct gpu_event *e, struct ckpt_err *err);
    enum ckpt_status (*wait_user)(struct gpu *g, void *user_stream, const struct gpu_event *e,
                                  struct ckpt_err *err);
    /* CKPT_OK: happened, or never recorded; CKPT_BUSY: not yet (err untouched); DEVICE
     * class: the device failed, and it will not happen. */
    enum ckpt_status (*query)(const struct gpu_event *e, struct ckpt_err *err);
    /* Copies box `what` between a tensor (held with any strides by `held`) and dense
     * bytes in host memory.  Queued; both stay until an event after it has happened. */
    enum ckpt_status (*copy_out)(struct gpu *g, void *slot, const struct box *what, unsigned bits,
                                 const struct box *held, const struct strided *tensor,
                                 struct ckpt_err *err);
    enum ckpt_status (*copy_in)(struct gpu *g, const void *slot, const struct box *what,
                                unsigned bits, const struct box *held, const struct strided *tensor,
                                struct ckpt_err *err);
    void (*free)(struct gpu *g); /* waits for nothing: no copy may be under way */
};
struct gpu {
    const struct gpu_ops *ops;
};

/* The backend for host memory: copies run at once, in the calling thread. */
enum ckpt_status gpu_host_new(struct gpu **ret, struct ckpt_err *err) CKPT_MUST_CHECK;
