/* Preloaded into ckptd: stops its threads where the test aims (aim.h).  The block is the file
 * $CKPT_TEST_AIM. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "formats/wire.h"
#include "kills/aim.h"

#define STANDS_BEFORE __attribute__((visibility("default")))
#define PACK_MIN      (64 << 10) /* no record is that large */

static struct aim *block;

__attribute__((constructor)) static void find_block(void)
{
    const char *path = getenv("CKPT_TEST_AIM");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    void *at =
        fd < 0 ? MAP_FAILED : mmap(NULL, sizeof(*block), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd >= 0)
        close(fd);
    block = at == MAP_FAILED ? NULL : at;
}

static bool ends_in(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

static enum aim_kind kind_of_data(const char *rel)
{
    unsigned slashes = 0;
    const char *base = rel;
    for (const char *p = rel; *p; p++)
        if (*p == '/') {
            slashes++;
            base = p + 1;
        }
    if (slashes < 3)
        return AIM_DATA_DIR;
    if (ends_in(base, ".m"))
        return AIM_MANIFEST;
    if (ends_in(base, ".h"))
        return AIM_RANK_HELD;
    return base[0] == 'i' ? AIM_INDEX : AIM_PACK;
}

/* Of a path below the store's root. */
static enum aim_kind kind_of(const char *path)
{
    const char *rel = strstr(path, block->job);
    size_t len = strlen(block->job);
    if (!rel || len == 0 || rel[len] != '/')
        return AIM_OTHER;
    rel += len + 1;
    if (rel[0] == 'd')
        return kind_of_data(rel);
    if (rel[0] == 'l')
        return ends_in(rel, "/claim")      ? AIM_CLAIM
               : ends_in(rel, "/resolved") ? AIM_RESOLVED
                                           : AIM_LAUNCHES;
    if (rel[0] == 'c')
        return rel[1] ? AIM_COMMIT : AIM_COMMITS_DIR;
    return rel[0] == 'h' ? AIM_HELD : AIM_OTHER;
}

static enum aim_kind kind_of_fd(int fd, enum aim_call call)
{
    char link[64], path[4096];
    struct stat st;
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof(path) - 1);
    if (n < 0)
        return AIM_OTHER;
    path[n] = 0;
    if (!strstr(path, "/.tmp/"))
        return kind_of(path);
    bool large = fstat(fd, &st) == 0 && st.st_size >= PACK_MIN;
    return large || call == AIM_RESERVE ? AIM_PACK : AIM_OTHER; /* only packs reserve room */
}

static unsigned aimed_at(enum aim_call call, bool after)
{
    unsigned armed = block ? atomic_load(&block->armed) : 0;
    return armed && block->point.call == call && block->point.after == after ? armed : 0;
}

static void stand(unsigned armed, enum aim_kind kind)
{
    if (block->point.kind != AIM_ANY && block->point.kind != kind)
        return;
    unsigned n = atomic_fetch_add(&block->seen, 1) + 1;
    if (n < block->nth || (n > block->nth && !block->point.all))
        return;
    atomic_store(&block->pid, (unsigned)getpid());
    atomic_fetch_add(&block->hits, 1);
    while (atomic_load(&block->armed) == armed)
        nanosleep(&(struct timespec){ .tv_nsec = 200000 }, NULL);
}

static void at_path(enum aim_call call, bool after, const char *path)
{
    int kept = errno;
    unsigned armed = aimed_at(call, after);
    if (armed)
        stand(armed, kind_of(path));
    errno = kept;
}

static void at_fd(enum aim_call call, bool after, int fd)
{
    int kept = errno;
    unsigned armed = aimed_at(call, after);
    if (armed)
        stand(armed, kind_of_fd(fd, call));
    errno = kept;
}

static void at_work(enum aim_call call)
{
    char name[16] = "";
    unsigned armed = aimed_at(call, false);
    if (armed && prctl(PR_GET_NAME, name) == 0 && strncmp(name, "ckptd-d", 7) == 0)
        stand(armed, AIM_ANY);
}

/* Head and body come apart (wire.c). */
static enum aim_kind kind_of_message(const struct msghdr *m)
{
    struct wire_head head;
    struct wire_op op;
    if (m->msg_iovlen != 2 || m->msg_iov[0].iov_len != sizeof(head) ||
        m->msg_iov[1].iov_len < sizeof(op))
        return AIM_OTHER;
    memcpy(&head, m->msg_iov[0].iov_base, sizeof(head));
    memcpy(&op, m->msg_iov[1].iov_base, sizeof(op));
    bool staged = op.level == WIRE_LEVEL_PROCESS || op.level == WIRE_LEVEL_STAGED;
    return head.type == WIRE_OP && staged ? AIM_SAYS_STAGED : AIM_OTHER;
}

/* A client is told again how far its staged save is: the first word counts. */
static bool told_before(unsigned armed, int fd)
{
    static unsigned told_armed;
    static bool told[4096];
    if (told_armed != armed)
        memset(told, 0, sizeof(told));
    told_armed = armed;
    bool before = fd < 0 || (size_t)fd >= sizeof(told) || told[fd];
    if (!before)
        told[fd] = true;
    return before;
}

static void at_send(bool after, int fd, const struct msghdr *m)
{
    int kept = errno;
    unsigned armed = aimed_at(AIM_SEND, after);
    if (armed && gettid() == getpid()) {
        enum aim_kind kind = kind_of_message(m);
        if (kind != AIM_SAYS_STAGED || !told_before(armed, fd))
            stand(armed, kind);
    }
    errno = kept;
}

/* The next one in line; ours has the same type. */
#define NEXT(function) ((__typeof__(&function))(uintptr_t)dlsym(RTLD_NEXT, #function))

/* Under a name of its own here: the flags, O_CLOEXEC among them, are the caller's. */
int stand_before_open(int dirfd, const char *path, int flags, ...) __asm__("openat");

STANDS_BEFORE int stand_before_open(int dirfd, const char *path, int flags, ...)
{
    va_list more;
    va_start(more, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;
    va_end(more);
    at_path(AIM_OPEN, false, path);
    return NEXT(openat)(dirfd, path, flags, mode);
}

STANDS_BEFORE ssize_t pread(int fd, void *to, size_t bytes, off_t offset)
{
    at_fd(AIM_READ, false, fd);
    return NEXT(pread)(fd, to, bytes, offset);
}

STANDS_BEFORE int fallocate(int fd, int mode, off_t offset, off_t bytes)
{
    at_fd(AIM_RESERVE, false, fd);
    return NEXT(fallocate)(fd, mode, offset, bytes);
}

STANDS_BEFORE int ftruncate(int fd, off_t bytes)
{
    at_fd(AIM_CUT, false, fd);
    return NEXT(ftruncate)(fd, bytes);
}

STANDS_BEFORE int fdatasync(int fd)
{
    at_fd(AIM_DATASYNC, false, fd);
    return NEXT(fdatasync)(fd);
}

STANDS_BEFORE int fsync(int fd)
{
    at_fd(AIM_SYNC, false, fd);
    return NEXT(fsync)(fd);
}

STANDS_BEFORE int renameat(int from_fd, const char *from, int to_fd, const char *to)
{
    at_path(AIM_RENAME, false, to);
    int rc = NEXT(renameat)(from_fd, from, to_fd, to);
    if (rc == 0)
        at_path(AIM_RENAME, true, to);
    return rc;
}

STANDS_BEFORE int linkat(int from_fd, const char *from, int to_fd, const char *to, int flags)
{
    at_path(AIM_LINK, false, to);
    int rc = NEXT(linkat)(from_fd, from, to_fd, to, flags);
    if (rc == 0)
        at_path(AIM_LINK, true, to);
    return rc;
}

STANDS_BEFORE ssize_t sendmsg(int fd, const struct msghdr *m, int flags)
{
    at_send(false, fd, m);
    ssize_t n = NEXT(sendmsg)(fd, m, flags);
    if (n >= 0)
        at_send(true, fd, m);
    return n;
}

/* ISA-L and zstd: their headers are not needed for the names. */
unsigned crc32_iscsi(unsigned char *bytes, int len, unsigned init);
size_t ZSTD_compress2(void *ctx, void *to, size_t cap, const void *from, size_t bytes);

STANDS_BEFORE unsigned crc32_iscsi(unsigned char *bytes, int len, unsigned init)
{
    at_work(AIM_DIGEST);
    return NEXT(crc32_iscsi)(bytes, len, init);
}

STANDS_BEFORE size_t ZSTD_compress2(void *ctx, void *to, size_t cap, const void *from, size_t bytes)
{
    at_work(AIM_CODE);
    return NEXT(ZSTD_compress2)(ctx, to, cap, from, bytes);
}
