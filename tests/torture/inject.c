/* The wrapped functions.  See inject.h. */
#include "torture/inject.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

const char *const inject_names[INJECT_SITES] = {
    "malloc",   "calloc", "realloc",   "aligned_alloc", "strdup",    "openat",
    "pread",    "pwrite", "fallocate", "ftruncate",     "fdatasync", "fsync",
    "renameat", "linkat", "mkdirat",   "unlinkat",      "fstatat",   "fstat",
    "fcntl",    "flock",  "fdopendir", "readdir",       "getrandom", "cqe",
};

/* Calls come from the engine's own threads too. */
static struct {
    atomic_bool armed;
    enum inject_site site; /* this and nth and error change only while it is not armed */
    unsigned long nth;
    int error;
    atomic_ulong seen;
    atomic_uint hits;
} plan;
static atomic_long live;

void inject_arm(enum inject_site site, unsigned long nth, int error)
{
    plan.site = site;
    plan.nth = nth;
    plan.error = error;
    atomic_store(&plan.seen, 0);
    atomic_store(&plan.hits, 0);
    atomic_store(&plan.armed, true);
}

unsigned inject_disarm(void)
{
    atomic_store(&plan.armed, false);
    return atomic_load(&plan.hits);
}

long inject_live(void)
{
    return atomic_load(&live);
}

/* True if this call must fail; errno is set, unless it is to be a short one. */
static bool due(enum inject_site site)
{
    if (!atomic_load(&plan.armed) || plan.site != site ||
        atomic_fetch_add(&plan.seen, 1) != plan.nth)
        return false;
    atomic_fetch_add(&plan.hits, 1);
    if (plan.error != INJECT_SHORT)
        errno = plan.error;
    return true;
}

static void *counted(void *p)
{
    if (p)
        atomic_fetch_add(&live, 1);
    return p;
}

/* The linker gives these names; each pair is __real_ (the library's) and __wrap_ (ours). */
#define WRAPPED(ret, name, args) \
    ret __real_##name args;      \
    ret __wrap_##name args;      \
    ret __wrap_##name args

WRAPPED(void *, malloc, (size_t bytes))
{
    return due(INJECT_MALLOC) ? NULL : counted(__real_malloc(bytes));
}
WRAPPED(void *, calloc, (size_t count, size_t bytes))
{
    return due(INJECT_CALLOC) ? NULL : counted(__real_calloc(count, bytes));
}
WRAPPED(void *, realloc, (void *p, size_t bytes))
{
    if (due(INJECT_REALLOC))
        return NULL;
    void *q = __real_realloc(p, bytes);
    return p ? q : counted(q);
}
WRAPPED(void *, reallocarray, (void *p, size_t count, size_t bytes))
{
    if (due(INJECT_REALLOC))
        return NULL;
    void *q = __real_reallocarray(p, count, bytes);
    return p ? q : counted(q);
}
WRAPPED(void *, aligned_alloc, (size_t align, size_t bytes))
{
    return due(INJECT_ALIGNED_ALLOC) ? NULL : counted(__real_aligned_alloc(align, bytes));
}
WRAPPED(char *, strdup, (const char *text))
{
    return due(INJECT_STRDUP) ? NULL : counted(__real_strdup(text));
}
WRAPPED(void, free, (void *p))
{
    if (p)
        atomic_fetch_sub(&live, 1);
    __real_free(p);
}
void *inject_spared_calloc(size_t count, size_t bytes)
{
    return counted(__real_calloc(count, bytes));
}
void *inject_spared_aligned(size_t align, size_t bytes)
{
    return counted(__real_aligned_alloc(align, bytes));
}

int __real_openat(int dirfd, const char *path, int flags, ...);
int __wrap_openat(int dirfd, const char *path, int flags, ...);
int __wrap_openat(int dirfd, const char *path, int flags, ...)
{
    va_list ap;
    va_start(ap, flags);
    mode_t mode = flags & O_CREAT ? va_arg(ap, mode_t) : 0;
    va_end(ap);
    return due(INJECT_OPENAT) ? -1 : __real_openat(dirfd, path, flags, mode);
}
WRAPPED(ssize_t, pread, (int fd, void *to, size_t bytes, off_t at))
{
    if (due(INJECT_PREAD)) {
        if (plan.error != INJECT_SHORT)
            return -1;
        bytes = bytes > 1 ? bytes / 2 : bytes;
    }
    return __real_pread(fd, to, bytes, at);
}
WRAPPED(ssize_t, pwrite, (int fd, const void *from, size_t bytes, off_t at))
{
    if (due(INJECT_PWRITE)) {
        if (plan.error != INJECT_SHORT)
            return -1;
        bytes = bytes > 1 ? bytes / 2 : bytes;
    }
    return __real_pwrite(fd, from, bytes, at);
}
WRAPPED(int, fallocate, (int fd, int mode, off_t at, off_t bytes))
{
    return due(INJECT_FALLOCATE) ? -1 : __real_fallocate(fd, mode, at, bytes);
}
WRAPPED(int, ftruncate, (int fd, off_t bytes))
{
    return due(INJECT_FTRUNCATE) ? -1 : __real_ftruncate(fd, bytes);
}
WRAPPED(int, fdatasync, (int fd))
{
    return due(INJECT_FDATASYNC) ? -1 : __real_fdatasync(fd);
}
WRAPPED(int, fsync, (int fd))
{
    return due(INJECT_FSYNC) ? -1 : __real_fsync(fd);
}
WRAPPED(int, renameat, (int from_fd, const char *from, int to_fd, const char *to))
{
    return due(INJECT_RENAMEAT) ? -1 : __real_renameat(from_fd, from, to_fd, to);
}
WRAPPED(int, linkat, (int from_fd, const char *from, int to_fd, const char *to, int flags))
{
    return due(INJECT_LINKAT) ? -1 : __real_linkat(from_fd, from, to_fd, to, flags);
}
WRAPPED(int, mkdirat, (int fd, const char *path, mode_t mode))
{
    return due(INJECT_MKDIRAT) ? -1 : __real_mkdirat(fd, path, mode);
}
WRAPPED(int, unlinkat, (int fd, const char *path, int flags))
{
    return due(INJECT_UNLINKAT) ? -1 : __real_unlinkat(fd, path, flags);
}
WRAPPED(int, fstatat, (int fd, const char *path, struct stat *st, int flags))
{
    return due(INJECT_FSTATAT) ? -1 : __real_fstatat(fd, path, st, flags);
}
WRAPPED(int, fstat, (int fd, struct stat *st))
{
    return due(INJECT_FSTAT) ? -1 : __real_fstat(fd, st);
}
int __real_fcntl(int fd, int op, ...);
int __wrap_fcntl(int fd, int op, ...);
int __wrap_fcntl(int fd, int op, ...)
{
    va_list ap;
    va_start(ap, op);
    int arg = op == F_GETFL ? 0 : va_arg(ap, int);
    va_end(ap);
    return due(INJECT_FCNTL) ? -1 : __real_fcntl(fd, op, arg);
}
WRAPPED(int, flock, (int fd, int op))
{
    return due(INJECT_FLOCK) ? -1 : __real_flock(fd, op);
}
WRAPPED(DIR *, fdopendir, (int fd))
{
    return due(INJECT_FDOPENDIR) ? NULL : __real_fdopendir(fd);
}
WRAPPED(struct dirent *, readdir, (DIR * dir))
{
    return due(INJECT_READDIR) ? NULL : __real_readdir(dir);
}
WRAPPED(ssize_t, getrandom, (void *to, size_t bytes, unsigned flags))
{
    return due(INJECT_GETRANDOM) ? -1 : __real_getrandom(to, bytes, flags);
}
WRAPPED(int, io_uring_submit_and_wait, (struct io_uring * ring, unsigned wait))
{
    int rc = __real_io_uring_submit_and_wait(ring, wait);
    unsigned head = *ring->cq.khead;
    if (io_uring_cq_ready(ring) > 0 && due(INJECT_CQE))
        ring->cq.cqes[head & ring->cq.ring_mask].res = plan.error == INJECT_SHORT ? 1 : -plan.error;
    return rc;
}
