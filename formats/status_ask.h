/* Asks the ckptd behind a socket for its status page: what `ckpt status`, `ckpt top` and
 * ckptd-metrics have in common. */
#pragma once

#include "formats/base.h"

#define STATUS_ASK_MS   10000
#define STATUS_PAGE_MAX (UINT64_C(256) << 20)

/* The page as JSON text: *ret is mapped, read only; the caller munmaps *ret_len bytes.  Waits
 * at most ms, also for a ckptd that hangs and whose queue is full: CKPT_TIMEOUT.
 * CKPT_NOT_FOUND: nobody listens there.  CKPT_CORRUPT: whoever does is no ckptd. */
enum ckpt_status status_ask(const char *path, int ms, const char **ret, size_t *ret_len,
                            struct ckpt_err *err) CKPT_MUST_CHECK;
