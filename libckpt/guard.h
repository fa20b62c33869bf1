/* A failed assert inside of formats/ must not end the training process.  Asserts stay on in
 * the library too: what they guard against would be wrong bytes in a checkpoint or in the
 * trainer's memory.  But where a call says so, a failed one ends that call with CKPT_BUG
 * instead of the process, and its context is broken for good.
 *
 * The link replaces __assert_fail (libckpt/CMakeLists.txt); the failing thread jumps back
 * to the call.  That is sound because formats/ has no locks, files or threads, and because
 * what the call was working on is never used again; its memory may leak.  No lock may be
 * held across a guarded call. */
#pragma once

#include "formats/base.h"

typedef enum ckpt_status (*guard_call)(void *arg, struct ckpt_err *err);
/* Runs the call; CKPT_BUG with the assert's words when one failed in it. */
enum ckpt_status guard_run(guard_call call, void *arg, struct ckpt_err *err) CKPT_MUST_CHECK;
