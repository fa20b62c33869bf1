/* ckptd --metrics ADDRESS: the listener for Prometheus and the process that serves it.
 *
 * A process of its own, `ckptd-metrics` beside ckptd's program: it parses what strangers send
 * and must not be where arenas and ledgers are.  It learns everything by asking for the status
 * page, like `ckpt status`. */
#pragma once

#include "formats/base.h"

/* "9464", "127.0.0.1:9464", "[::1]:9464", "0.0.0.0:9464": only numbers, and only the port means
 * loopback.  *ret_fd: a listening socket, the caller's.  CKPT_INVALID: no such address.  A port
 * that is taken gets so long to become free: the server of a ckptd that has ended is killed by
 * that, and nobody waits for its death. */
#define METRICS_PATIENCE_MS 10000
enum ckpt_status metrics_listen(const char *address, int patience_ms, int *ret_fd,
                                struct ckpt_err *err) CKPT_MUST_CHECK;
/* Starts the server, which ends when this process does.  The listener stays the caller's, to be
 * closed: as long as somebody else has it open the port is taken.  CKPT_UNSUPPORTED: there is
 * no ckptd-metrics beside this program. */
enum ckpt_status metrics_start(int listen_fd, const char *socket, struct ckpt_err *err)
    CKPT_MUST_CHECK;
