/* GET /metrics over plain HTTP, for Prometheus.  A process of its own, one thread: whatever is
 * sent to it, the worker of ckptd, which saves, has nothing to do with it.
 *
 * Bounds: METRICS_CONNS_MAX connections (more wait in the listener's queue), 8 KiB of memory
 * each, so a request's head is below that and a body is not read; a connection is closed after
 * its answer, and after METRICS_AGE_MS in any case (METRICS_CROWD_MS when all are taken); ckptd is asked at most once in
 * METRICS_FRESH_MS, and everybody who asks meanwhile gets the same answer. */
#pragma once

#include "formats/base.h"

#define METRICS_CONNS_MAX 32
#define METRICS_AGE_MS    5000
#define METRICS_CROWD_MS  500
#define METRICS_FRESH_MS  500
#define METRICS_ASK_MS    4000 /* ckptd's answer */

/* Serves on the listening socket what the ckptd behind the unix socket says, until the
 * process is killed.  Returns only on failure. */
enum ckpt_status metrics_serve(int listen_fd, const char *ckptd_socket, struct ckpt_err *err)
    CKPT_MUST_CHECK;
