/* Which device a buffer is on: host memory, or a CUDA device.
 *
 * Device 0 of the table is host memory and always there.  CUDA is looked for when a
 * process can have device memory at all (it has the driver loaded, or CKPT_CUDART names
 * a runtime), never before: a program that uses no GPU gets no context on one.  A device
 * gets its private queue when the first buffer on it is seen.
 *
 * Threads: any. */
#pragma once

#include "libckpt/gpu.h"

#define DEVICES_MAX 33 /* host memory and 32 CUDA devices */

struct cuda;
struct devices;

enum ckpt_status devices_new(struct devices **ret, struct ckpt_err *err) CKPT_MUST_CHECK;
/* own: false in a forked child, where the driver must not be called. */
void devices_free(struct devices *d, bool own);
/* Can there be anything but host memory?  Looks for a runtime unless it did. */
bool devices_any(struct devices *d);
/* The same, but also when the process has the driver and no runtime that can be used: then memory on
 * a device must not be taken for the host's. */
bool devices_possible(struct devices *d);
/* The device that holds the memory at `p`: 0 = host.  After one of these.  Memory that is neither
 * host memory nor on a device that can be used: CKPT_UNSUPPORTED, or the DEVICE class. */
enum ckpt_status devices_find(struct devices *d, const void *p, unsigned *ret, struct ckpt_err *err)
    CKPT_MUST_CHECK;
/* The device whose streams the calling thread uses. */
enum ckpt_status devices_current(struct devices *d, unsigned *ret, struct ckpt_err *err)
    CKPT_MUST_CHECK;
/* The same, only if that thread has a context on it already: else false, and none is made. */
bool devices_in_use(struct devices *d, unsigned *ret);
/* Is it being captured into a graph?  Without CUDA, and of NULL: no. */
enum ckpt_status devices_capturing(struct devices *d, void *stream, bool *ret, struct ckpt_err *err)
    CKPT_MUST_CHECK;
/* One more queue on a CUDA device, the caller's to free; `index` is never 0. */
enum ckpt_status devices_queue(struct devices *d, unsigned index, struct gpu **ret,
                               struct ckpt_err *err) CKPT_MUST_CHECK;
/* 1 + the NUMA node that the device of an index > 0 is attached to; 0: not known. */
uint32_t devices_numa(struct devices *d, unsigned index);
struct gpu *devices_gpu(const struct devices *d, unsigned index);
/* What CUDA devices are used by; all zero before devices_any has said that there are some. */
const struct cuda *devices_cuda(const struct devices *d);
/* Which runtime, how many devices, or why none; why copies go one by one, if they do: for people. */
void devices_text(struct devices *d, char *ret, size_t cap);
