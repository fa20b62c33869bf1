/* Credentials, pidfds, cgroups. */
#include "ckptd/peer.h"

#include <stdio.h>
#include <sys/socket.h>

#include "ckptd/proc_text.h"

enum ckpt_status peer_of(int fd, struct peer *ret, struct ckpt_err *err)
{
    struct ucred cred;
    socklen_t len = sizeof(cred);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
        return err_errno(err, errno, "credentials of a client");
    *ret = (struct peer){ .pid = cred.pid, .uid = cred.uid };
    return CKPT_OK;
}

enum ckpt_status peer_allowed(const struct peer *p, struct ckpt_err *err)
{
    if (p->uid == geteuid() || p->uid == 0)
        return CKPT_OK;
    return err_set(err, CKPT_DENIED, "this ckptd serves uid %u, not uid %u", (unsigned)geteuid(),
                   (unsigned)p->uid);
}

enum ckpt_status peer_check_pidfd(const struct peer *p, int pidfd, struct ckpt_err *err)
{
    char path[64], text[1024];
    snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", pidfd);
    if (!proc_text(path, text, sizeof(text)))
        return err_set(err, CKPT_IO, "cannot read %s", path);
    const char *line = strstr(text, "\nPid:");
    if (!line)
        return err_set(err, CKPT_INVALID, "the descriptor sent with HELLO is no pidfd");
    long pid = strtol(line + 5, NULL, 10);
    if (p->pid != 0 && pid != p->pid)
        return err_set(err, CKPT_INVALID,
                       "the pidfd sent with HELLO is of process %ld, the connection of process %d",
                       pid, (int)p->pid);
    return CKPT_OK;
}

static bool killed_as_a_whole(const char *line, size_t len)
{
    static const char *const names[] = { "slurm", "kubepods", "docker", "libpod", "torchrun" };
    const char *found;
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        found = strstr(line, names[i]);
        if (found && found < line + len)
            return true;
    }
    return false;
}

bool peer_cgroups_share_fate(const char *ours, const char *theirs, bool said)
{
    if (strcmp(ours, theirs) != 0 || !ours[0])
        return false;
    if (said)
        return true;
    for (const char *p = ours; *p;) {
        size_t len = strcspn(p, "\n");
        if (killed_as_a_whole(p, len))
            return true;
        p += len + (p[len] == '\n');
    }
    return false;
}

static bool same_pid_namespace(pid_t pid)
{
    char path[64], ours[64], theirs[64];
    snprintf(path, sizeof(path), "/proc/%d/ns/pid", (int)pid);
    ssize_t a = readlink("/proc/self/ns/pid", ours, sizeof(ours));
    ssize_t b = readlink(path, theirs, sizeof(theirs));
    if (a < 0 || b < 0)
        return true; /* not allowed to look: the pid itself is known here */
    return a == b && memcmp(ours, theirs, (size_t)a) == 0;
}

bool peer_shares_fate(const struct peer *p, bool said)
{
    char path[64], ours[8192], theirs[8192];
    if (p->pid == 0 || p->pid == 1 || !same_pid_namespace(p->pid))
        return true;
    snprintf(path, sizeof(path), "/proc/%d/cgroup", (int)p->pid);
    if (!proc_text("/proc/self/cgroup", ours, sizeof(ours)) ||
        !proc_text(path, theirs, sizeof(theirs)))
        return false;
    return peer_cgroups_share_fate(ours, theirs, said);
}
