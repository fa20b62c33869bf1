/* The device interface: what the library needs of the place where tensors live.  A
 * dozen verbs; the only backend so far is host memory (gpu_host.c), CUDA comes behind
 * the same table.
 *
 * A `gpu_stream` is a private queue of copies; copies on one stream happen in order,
 * asynchronously to the caller.  An event marks a point in a queue.  `user_stream` is
 * the caller's own stream (cudaStream_t; NULL for host memory).
 *
 *   save:     event E recorded on the user's stream;  copies wait for E;  event F after
 *             the last copy;  the fence waits for F (host) or makes the user's stream
 *             wait for F
 *   restore:  copies from slots to tensors; the user's stream waits for the last one
 *
 * Threads: one transfer thread drives a device; event_query may be called from any.
 * No callbacks: nothing of ours runs in a thread of the driver. */
#pragma once

#include "formats/box.h"

struct gpu;
struct gpu_stream;
struct gpu_event;

struct gpu_ops {
    const char *name;
    /* Pins [base, base + bytes) for this process (page-aligned, <= 1 GiB); the copy
     * verbs work without it, slower. */
    enum ckpt_status (*pin)(struct gpu *g, void *base, uint64_t bytes, struct ckpt_err *err);
    void (*unpin)(struct gpu *g, void *base, uint64_t bytes);
    enum ckpt_status (*stream_new)(struct gpu *g, struct gpu_stream **ret, struct ckpt_err *err);
    void (*stream_free)(struct gpu *g, struct gpu_stream *s);
    enum ckpt_status (*event_new)(struct gpu *g, struct gpu_event **ret, struct ckpt_err *err);
    void (*event_free)(struct gpu *g, struct gpu_event *e);
    /* Marks the present end of a queue: one of ours, or the user's. */
    enum ckpt_status (*record)(struct gpu *g, struct gpu_event *e, struct gpu_stream *s,
                               struct ckpt_err *err);
    enum ckpt_status (*record_user)(struct gpu *g, struct gpu_event *e, void *user_stream,
                                    struct ckpt_err *err);
    /* Later work of the queue waits for the event; the host does not. */
    enum ckpt_status (*wait)(struct gpu *g, struct gpu_stream *s, struct gpu_event *e,
                             struct ckpt_err *err);
    enum ckpt_status (*wait_user)(struct gpu *g, void *user_stream, struct gpu_event *e,
                                  struct ckpt_err *err);
    /* CKPT_OK: happened; CKPT_BUSY: not yet; DEVICE class: the device failed. */
    enum ckpt_status (*query)(struct gpu *g, struct gpu_event *e, struct ckpt_err *err);
    /* Copies box `what` between a tensor (held with any strides by `held`) and dense
     * bytes in a slot.  Queued; source and destination stay until an event after it. */
    enum ckpt_status (*copy_out)(struct gpu *g, struct gpu_stream *s, void *slot,
                                 const struct box *what, unsigned bits, const struct box *held,
                                 const struct strided *tensor, struct ckpt_err *err);
    enum ckpt_status (*copy_in)(struct gpu *g, struct gpu_stream *s, const void *slot,
                                const struct box *what, unsigned bits, const struct box *held,
                                const struct strided *tensor, struct ckpt_err *err);
    void (*free)(struct gpu *g);
};
struct gpu {
    const struct gpu_ops *ops;
};

/* The backend for host memory: copies run at once, in the calling (transfer) thread. */
enum ckpt_status gpu_host_new(struct gpu **ret, struct ckpt_err *err) CKPT_MUST_CHECK;
