/* Preloaded into ckptd (with --io threads): fdatasync of a file of 64 KiB or more (a pack, not
 * a record) waits while the file $CKPT_TEST_GATE is there.  So a case can stop a save between
 * "written" and "durable", do its mischief, and let it go on.  $CKPT_TEST_SYNC_MS: each of
 * them takes so long. */
#include <dlfcn.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

__attribute__((visibility("default"))) int fdatasync(int fd)
{
    int (*next)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    const char *gate = getenv("CKPT_TEST_GATE");
    struct stat st;
    bool pack = fstat(fd, &st) == 0 && st.st_size >= 64 << 10;
    while (gate && pack && access(gate, F_OK) == 0)
        nanosleep(&(struct timespec){ .tv_nsec = 5000000 }, NULL);
    const char *ms = pack ? getenv("CKPT_TEST_SYNC_MS") : NULL;
    long slow = ms ? strtol(ms, NULL, 10) : 0;
    nanosleep(&(struct timespec){ .tv_sec = slow / 1000, .tv_nsec = slow % 1000 * 1000000 }, NULL);
    return next(fd);
}
