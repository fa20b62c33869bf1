/* Preloaded into ckptd (with --io threads): puts below the directory $CKPT_TEST_TIER stand
 * still while the file $CKPT_TEST_GATE is there, as on a remote file system that has lost
 * its server; and each appends its size to the file $CKPT_TEST_PUTS.  Below $CKPT_TEST_HOME not
 * even an open comes back while $CKPT_TEST_HANG is there. */
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static void stand_still(const char *gate)
{
    while (gate && access(gate, F_OK) == 0)
        nanosleep(&(struct timespec){ .tv_nsec = 5000000 }, NULL);
}

/* True if the open descriptor is of something below the directory. */
static bool is_below(int fd, const char *dir)
{
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof(path) - 1);
    path[n > 0 ? n : 0] = 0;
    return dir && strncmp(path, dir, strlen(dir)) == 0;
}

static void note_put(int fd)
{
    const char *log = getenv("CKPT_TEST_PUTS");
    struct stat st;
    int to = log ? open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
    if (to >= 0 && fstat(fd, &st) == 0)
        dprintf(to, "%lld\n", (long long)st.st_size);
    if (to >= 0)
        close(to);
}

__attribute__((visibility("default"))) int fdatasync(int fd)
{
    int (*next)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    if (is_below(fd, getenv("CKPT_TEST_TIER"))) {
        note_put(fd);
        stand_still(getenv("CKPT_TEST_GATE"));
    }
    return next(fd);
}

__attribute__((visibility("default"))) int gated(int dirfd, const char *path, int flags,
                                                 ...) __asm__("openat");
int gated(int dirfd, const char *path, int flags, ...)
{
    int (*next)(int, const char *, int, mode_t) =
        (int (*)(int, const char *, int, mode_t))dlsym(RTLD_NEXT, "openat");
    va_list ap;
    va_start(ap, flags);
    mode_t mode = flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(ap, mode_t) : 0;
    va_end(ap);
    if (is_below(dirfd, getenv("CKPT_TEST_HOME")))
        stand_still(getenv("CKPT_TEST_HANG"));
    return next(dirfd, path, flags, mode);
}
