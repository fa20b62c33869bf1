/* A store over a store that holds puts back to a rate: the bandwidth limit of drains. */
#pragma once

#include "storage/store/store.h"

/* What is smaller than this counts but does not wait. */
#define STORE_THROTTLE_LEAST (UINT64_C(64) << 10)
/* Shared by all handles of a place (thread-safe). */
struct store_throttle {
    _Atomic uint64_t bytes_per_s; /* 0 = no limit */
    _Atomic int64_t until_ns;     /* what was put is paid for then */
    atomic_uint changes;          /* of the rate */
    /* NULL: CLOCK_MONOTONIC and nanosleep; a test brings its own */
    int64_t (*now)(void *arg);
    void (*sleep)(void *arg, int64_t ns);
    void *arg;
};
/* Another rate from now on, for all handles; what is owed is forgotten, and whoever waits for
 * it goes on. */
void store_throttle_set(struct store_throttle *t, uint64_t bytes_per_s);
/* Takes ownership of `inner` (closed with it), on success only; borrows `throttle`. */
enum ckpt_status wrap_throttle(struct store *inner, struct store_throttle *throttle,
                               struct store **ret, struct ckpt_err *err) CKPT_MUST_CHECK;
