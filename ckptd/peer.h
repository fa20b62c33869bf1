/* Who is at the other end of a connection, and what happens to both of us together. */
#pragma once

#include <sys/types.h>

#include "formats/base.h"

struct peer {
    pid_t pid; /* 0: in another pid namespace */
    uid_t uid;
};
enum ckpt_status peer_of(int fd, struct peer *ret, struct ckpt_err *err) CKPT_MUST_CHECK;
/* The uid must be ours or root's. */
enum ckpt_status peer_allowed(const struct peer *p, struct ckpt_err *err) CKPT_MUST_CHECK;
/* The pidfd that the client sent must be a pidfd, and of the process that connected. */
enum ckpt_status peer_check_pidfd(const struct peer *p, int pidfd, struct ckpt_err *err)
    CKPT_MUST_CHECK;

/* Whether one kill takes the daemon along with this client: then "staged" is only
 * "staged (process)".  True if
 *   - the client lives in another pid namespace (a sidecar), or is init of this one; or
 *   - both are in the same cgroup, and that cgroup is one that a job manager kills as a
 *     whole: its path names slurm, kubepods, docker, libpod or torchrun, or the
 *     environment says CKPT_SCOPED=1 (`said`).
 * A login session's or a system slice's cgroup is not killed with one process, so a
 * daemon started from a shell beside the trainer survives it. */
bool peer_shares_fate(const struct peer *p, bool said);
/* The decision alone: the texts of both /proc/PID/cgroup. */
bool peer_cgroups_share_fate(const char *ours, const char *theirs, bool said);
