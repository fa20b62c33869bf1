/* The runtime directory: socket and lock.
 *
 * The lock is one flock on one open file that keeper and worker share, so it is free only
 * when both are gone: a keeper that finds the last worker of a dead keeper still
 * finishing waits for it.  The file says who holds it. */
#pragma once

#include "ckptd/config.h"
#include "formats/sockpath.h"

struct rundir {
    char socket[SOCKPATH_MAX];
    int listen_fd, lock_fd;
    bool bound; /* we made the socket's name and remove it at the end */
};
/* Finds the socket's path; makes and checks the default directory. */
enum ckpt_status rundir_find(const struct config *c, struct rundir *ret, struct ckpt_err *err)
    CKPT_MUST_CHECK;
/* CKPT_REFUSED names the pid of a ckptd that serves this socket.  waiting (may be NULL)
 * is called once when the last worker of a dead one must be waited for. */
enum ckpt_status rundir_lock(struct rundir *r, void (*waiting)(void *arg, long pid), void *arg,
                             struct ckpt_err *err) CKPT_MUST_CHECK;
/* Writes into the lock who holds it: "serving PID" or "finishing PID". */
void rundir_say(const struct rundir *r, const char *role);
/* Takes over the given or inherited listener (--listen-fd, LISTEN_FDS), or binds. */
enum ckpt_status rundir_listen(struct rundir *r, int given_fd, struct ckpt_err *err)
    CKPT_MUST_CHECK;
/* This node's uuid: kept in a private store's root as ".node", which no store lists, and
 * until that directory is there, or when it cannot be written, in the runtime directory;
 * made at first use.  To be called again when the store was made. */
enum ckpt_status rundir_node(const struct rundir *r, const char *store, uint8_t ret[16],
                             struct ckpt_err *err) CKPT_MUST_CHECK;
