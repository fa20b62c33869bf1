/* A CUDA runtime that is none: the functions that cuda_api.h takes, as a shared library for
 * CKPT_CUDART, with real asynchrony on the host, and with what tests do to it.
 *
 *   - A thread per stream, seeded delays before and in the middle of operations; the copies of
 *     a batch in any order.
 *   - Device memory cannot be touched by the host: its pages are mapped twice, the address that
 *     is handed out has no access.
 *   - The destination of a copy is poisoned until it has really happened.
 *   - Contexts are made where CUDA makes them, also by mere questions of a thread that has none.
 *   - Copies of memory that is not pinned are synchronous, as they are with CUDA.
 *   - A copy from or to memory that was pinned in two calls is refused, as CUDA does.
 *   - What CUDA leaves undefined ends the process with words: copies outside of an allocation,
 *     unpinning under a copy, an event of another device.
 *
 * FAKE_DRIVER_VERSION: of the driver; a runtime of a newer major version finds no devices.
 * Batches of copies are there from 12.8 on, as they are in CUDA.  Built for the version FAKE_CUDART_VERSION; seed and longest delay: fake_seed. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct CUstream_st *fake_stream;

#define FAKE_DEVICES 4

void fake_seed(uint64_t seed, unsigned delay_us);
void *fake_malloc(int on, size_t bytes); /* filled with poison */
void *fake_malloc_at(void *at, int on,
                     size_t bytes); /* where something was freed; NULL: anywhere */
void fake_free(void *p);
/* The host's view of device memory: only while no stream works on it. */
void *fake_look(void *p);
fake_stream fake_stream_new(int on);
void fake_stream_free(fake_stream s);
/* A kernel: the call is made in the stream's thread, in its turn. */
void fake_launch(fake_stream given, void (*kernel)(void *arg), void *arg);
void fake_sync(fake_stream given); /* waits for all before */

/* Graphs, which belong to their stream: between begin and end `s` takes waits for external events and kernels into a graph of
 * its own; anything else on it is an error.  global: other threads' calls that CUDA counts as
 * unsafe then spoil the capture, unless their capture mode says otherwise. */
void fake_capture_begin(fake_stream s, bool global);
bool fake_capture_end(fake_stream s); /* false: it was spoilt */
void fake_replay(fake_stream graph, fake_stream given);

/* The nth next call (1 = the next) of a function ("EventRecord") fails with this error;
 * sticky: so does everything from then on, and nothing queued happens any more. */
void fake_fail(const char *function, unsigned nth, int error, bool sticky);
/* The same for all from the nth next on, until it is called with 0.  None is sticky. */
void fake_fail_from(const char *function, unsigned nth, int error);
/* Its calls do not come back until they are let go.  "copies": none of them happens, on any
 * stream, not even the rest of those that are begun. */
void fake_hold_from(const char *function, unsigned nth); /* the nth next (1 = the next); 0: none */
static inline void fake_hold(const char *function, bool hold)
{
    fake_hold_from(function, hold);
}
unsigned fake_asked(void);                 /* how often this thread asked where memory lies */
unsigned fake_calls(const char *function); /* how often it was called; "copies": that were begun */
/* The host's side of copies that are queued and have not ended: how many there are, of which the
 * first `max` are told. */
struct fake_span {
    unsigned char *at;
    size_t bytes;
};
size_t fake_in_air(struct fake_span *ret, size_t max);
/* Devices have pinned memory elsewhere than the host: batches of copies are for neither's. */
void fake_other_pointers(void);
size_t fake_allocated(int on);    /* bytes of device memory */
size_t fake_pinned(void);         /* bytes */
size_t fake_pinned_at_once(void); /* by one call, at most */
int fake_contexts(void);          /* bit mask of devices that anything was made on */
