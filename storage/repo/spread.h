/* One small piece of work for each of many things, on several threads: a store answers
 * many requests at once, and one at a time the wait for each would add up.
 *
 * Every thread has a handle of its own (store_dup), with the limits of `s`. */
#pragma once

#include "storage/store/store.h"

#define SPREAD_THREADS_MAX 16

/* Calls each(arg, handle, i, err) once for every i < count, in no order, and returns when
 * all are done.  threads <= 1: in order, on `s`, by the caller.  Fewer threads than asked
 * for are no failure.  After the first call that fails no new one begins; its status and
 * words come back. */
enum ckpt_status spread_run(struct store *s, unsigned threads, size_t count,
                            enum ckpt_status (*each)(void *arg, struct store *s, size_t i,
                                                     struct ckpt_err *err),
                            void *arg, struct ckpt_err *err) CKPT_MUST_CHECK;
