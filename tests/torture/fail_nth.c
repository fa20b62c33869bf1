/* The preloaded module.  See fail_nth.h. */
#include "torture/fail_nth.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define SEEN __attribute__((visibility("default")))

static struct fail_plan *plan; /* NULL until the constructor ran */
static enum fail_role role;

__attribute__((constructor)) static void join(void)
{
    const char *path = getenv("CKPT_TEST_FAIL_PLAN"), *who = getenv("CKPT_TEST_FAIL_ROLE");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0 || !who)
        return;
    void *p = mmap(NULL, sizeof(*plan), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    role = strcmp(who, "daemon") == 0 ? FAIL_DAEMON : FAIL_RANK;
    if (p != MAP_FAILED)
        plan = p;
}

/* True if this call must fail; errno is set, unless it is to be a short one. */
static bool due(enum fail_site site)
{
    if (!plan || atomic_load(&plan->role) != (int)role || atomic_load(&plan->site) != (int)site ||
        atomic_fetch_add(&plan->seen, 1) != atomic_load(&plan->nth))
        return false;
    atomic_fetch_add(&plan->hits, 1);
    int error = atomic_load(&plan->error);
    if (error != FAIL_SHORT)
        errno = error;
    return true;
}

static void *counted(void *p)
{
    if (p && plan && role == FAIL_RANK)
        atomic_fetch_add(&plan->blocks, 1);
    return p;
}

/* ---- memory: the C library's own, by the names that it keeps for this ---- */

void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *p, size_t bytes);
void __libc_free(void *p);

SEEN void *malloc(size_t bytes)
{
    return due(FAIL_MALLOC) ? NULL : counted(__libc_malloc(bytes));
}
SEEN void *calloc(size_t count, size_t bytes)
{
    return due(FAIL_CALLOC) ? NULL : counted(__libc_calloc(count, bytes));
}
SEEN void *realloc(void *p, size_t bytes)
{
    if (due(FAIL_REALLOC))
        return NULL;
    void *q = __libc_realloc(p, bytes);
    return p ? q : counted(q);
}
SEEN void free(void *p)
{
    if (p && plan && role == FAIL_RANK)
        atomic_fetch_sub(&plan->blocks, 1);
    __libc_free(p);
}

/* ---- calls of the system ---- */

#define NEXT(name) ((__typeof__(&(name)))dlsym(RTLD_NEXT, #name))

SEEN ssize_t sendmsg(int fd, const struct msghdr *m, int flags)
{
    return due(FAIL_SENDMSG) ? -1 : NEXT(sendmsg)(fd, m, flags);
}
SEEN ssize_t recvmsg(int fd, struct msghdr *m, int flags)
{
    return due(FAIL_RECVMSG) ? -1 : NEXT(recvmsg)(fd, m, flags);
}
SEEN int accept4(int fd, struct sockaddr *from, socklen_t *len, int flags)
{
    return due(FAIL_ACCEPT) ? -1 : NEXT(accept4)(fd, from, len, flags);
}
SEEN int socket(int domain, int type, int protocol)
{
    return due(FAIL_SOCKET) ? -1 : NEXT(socket)(domain, type, protocol);
}
SEEN int connect(int fd, const struct sockaddr *to, socklen_t len)
{
    return due(FAIL_CONNECT) ? -1 : NEXT(connect)(fd, to, len);
}
SEEN int poll(struct pollfd *fds, nfds_t count, int timeout_ms)
{
    return due(FAIL_POLL) ? -1 : NEXT(poll)(fds, count, timeout_ms);
}
SEEN int epoll_wait(int fd, struct epoll_event *events, int max, int timeout_ms)
{
    return due(FAIL_EPOLL_WAIT) ? -1 : NEXT(epoll_wait)(fd, events, max, timeout_ms);
}
SEEN int epoll_ctl(int epfd, int op, int fd, struct epoll_event *event)
{
    return due(FAIL_EPOLL_CTL) ? -1 : NEXT(epoll_ctl)(epfd, op, fd, event);
}
SEEN void *mmap(void *at, size_t bytes, int prot, int flags, int fd, off_t offset)
{
    return due(FAIL_MMAP) ? MAP_FAILED : NEXT(mmap)(at, bytes, prot, flags, fd, offset);
}
SEEN int memfd_create(const char *name, unsigned flags)
{
    return due(FAIL_MEMFD) ? -1 : NEXT(memfd_create)(name, flags);
}
SEEN ssize_t read(int fd, void *to, size_t bytes)
{
    if (!due(FAIL_READ))
        return NEXT(read)(fd, to, bytes);
    return atomic_load(&plan->error) == FAIL_SHORT ? NEXT(read)(fd, to, bytes > 0) : -1;
}
SEEN ssize_t write(int fd, const void *from, size_t bytes)
{
    bool counter = bytes == 8; /* of an eventfd: neither full nor short */
    if (counter || !due(FAIL_WRITE))
        return NEXT(write)(fd, from, bytes);
    return atomic_load(&plan->error) == FAIL_SHORT ? NEXT(write)(fd, from, bytes > 0) : -1;
}
