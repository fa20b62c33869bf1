/* Preloaded into ckptd (with --io threads): puts below the directory $CKPT_TEST_TIER stand
 * still while the file $CKPT_TEST_GATE is there, as on a remote file system that has lost
 * its server; and each appends its size to the file $CKPT_TEST_PUTS. */
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

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
    const char *tier = getenv("CKPT_TEST_TIER"), *gate = getenv("CKPT_TEST_GATE");
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof(path) - 1);
    path[n > 0 ? n : 0] = 0;
    if (tier && strncmp(path, tier, strlen(tier)) == 0) {
        note_put(fd);
        while (gate && access(gate, F_OK) == 0)
            nanosleep(&(struct timespec){ .tv_nsec = 5000000 }, NULL);
    }
    return next(fd);
}
