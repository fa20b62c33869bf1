/* Arenas (ckptd/arena.c): made, admitted, and opened only at exactly their size: one that
 * is smaller than it is said to be would kill the worker that reads behind its end.  Their pages are
 * there, huge where that can be, and a child of the process does not get them. */
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "ckptd/arena.h"
#include "formats/wire.h"
#include "unit/near.h"

#define BYTES (UINT64_C(4) << 20)
#define PAGE  4096

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

static long cases;
static int threads_started;
static bool no_threads;

int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*main)(void *),
                          void *arg);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*main)(void *),
                          void *arg);

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*main)(void *),
                          void *arg)
{
    if (no_threads)
        return EAGAIN;
    threads_started++;
    return __real_pthread_create(thread, attr, main, arg);
}

static int fds_open(void)
{
    int n = 0;
    for (int fd = 0; fd < 256; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

static void test_new(void)
{
    struct arena a = { .fd = -1 };
    uint64_t left = 0;
    CHECK_OK(arena_new("a test", BYTES, 0, &a, &left, NULL));
    CHECK(a.bytes == BYTES && left > 0);
    CHECK_EQ(fcntl(a.fd, F_GET_SEALS), F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
    CHECK(ftruncate(a.fd, 0) < 0 && ftruncate(a.fd, BYTES * 2) < 0);
    memset(a.base, 1, BYTES);
    arena_close(&a);
    CHECK(a.fd == -1 && !a.base);
    arena_close(&a); /* again is nothing */
    cases++;
}

static void test_sizes(void)
{
    static const int64_t off_by[] = { 0, -1, 1, -4096, 4096, -(int64_t)BYTES, (int64_t)BYTES };
    for (size_t i = 0; i < ARRAY_COUNT(off_by); i++) {
        struct arena a = { .fd = -1 };
        struct ckpt_err err = { 0 };
        int fd = memfd_create("arena", MFD_CLOEXEC);
        CHECK(fd >= 0 && ftruncate(fd, (off_t)BYTES + off_by[i]) == 0);
        enum ckpt_status st = arena_open(fd, BYTES, &a, &err);
        CHECK_EQ(st, off_by[i] == 0 ? CKPT_OK : CKPT_CORRUPT);
        if (st == CKPT_OK) {
            a.base[BYTES - 1] = 1;
            arena_close(&a);
        } else {
            CHECK(a.fd == -1 && err.text[0]); /* ours still */
            close(fd);
        }
        cases++;
    }
}

static void test_refused(void)
{
    struct arena a = { .fd = -1 };
    struct ckpt_err err = { 0 };
    uint64_t left = 7;
    int before = fds_open();
    CHECK_EQ(arena_new("a test", UINT64_C(1) << 50, 0, &a, &left, &err), CKPT_NO_MEMORY);
    CHECK(strstr(err.text, "a test") && strstr(err.text, "arena_bytes"));
    CHECK(left == 7 && a.fd == -1);
    /* What was asked for is not held against the next one. */
    CHECK_OK(arena_new("a test", BYTES, 0, &a, &left, NULL));
    arena_close(&a);
    int p[2];
    CHECK_EQ(pipe2(p, O_CLOEXEC), 0);
    CHECK_EQ(arena_open(p[0], BYTES, &a, &err), CKPT_CORRUPT);
    CHECK(arena_open(-1, BYTES, &a, &err) != CKPT_OK);
    close(p[0]);
    close(p[1]);
    CHECK_EQ(fds_open(), before);
    cases += 4;
}

/* Its pages come from the node that was named, if there is one; a number that no machine has is no
 * matter. */
static void test_near(void)
{
    static const uint32_t numa[] = { 1, 0, 1024, 1025, UINT32_MAX };
    if (!near_can_be(0)) {
        puts("SKIP: near: no memory policy can be set here");
        return;
    }
    for (size_t i = 0; i < ARRAY_COUNT(numa); i++, cases++) {
        struct arena a = { .fd = -1 };
        uint64_t left;
        CHECK_OK(arena_new("a test", BYTES, numa[i], &a, &left, NULL));
        CHECK_EQ(near_of(a.base + BYTES - 1), numa[i] == 1 ? 0 : -1);
        arena_close(&a);
    }
}

static size_t resident(const struct arena *a)
{
    size_t n = 0, pages = a->bytes / PAGE;
    unsigned char *is = calloc(pages, 1);
    CHECK(is && mincore(a->base, a->bytes, is) == 0);
    for (size_t i = 0; i < pages; i++)
        n += is[i] & 1;
    free(is);
    return n;
}

/* By several threads, if there are pieces for them and threads are to be had. */
static void test_populated(void)
{
    static const struct {
        uint64_t mib;
        bool none;
        int threads;
    } of[] = { { 64, false, 0 }, { 136, false, 2 }, { 136, true, 0 } };
    for (size_t i = 0; i < ARRAY_COUNT(of); i++, cases++) {
        struct arena a = { .fd = -1 };
        uint64_t left;
        threads_started = 0;
        no_threads = of[i].none;
        CHECK_OK(arena_new("a test", of[i].mib << 20, 0, &a, &left, NULL));
        no_threads = false;
        CHECK_EQ(threads_started, of[i].threads);
        CHECK_EQ(resident(&a), a.bytes / PAGE);
        arena_close(&a);
    }
}

/* What of the mapping at `base` are huge pages. */
static uint64_t huge_kib(const void *base)
{
    char line[512];
    uint64_t kib = 0;
    bool here = false;
    FILE *f = fopen("/proc/self/smaps", "re");
    CHECK(f);
    while (fgets(line, sizeof(line), f)) {
        char *end;
        uintptr_t from = strtoul(line, &end, 16);
        if (*end == '-' && end > line)
            here = from <= (uintptr_t)base && (uintptr_t)base < strtoul(end + 1, NULL, 16);
        else if (here && strncmp(line, "ShmemPmdMapped:", 15) == 0)
            kib = strtoul(line + 15, NULL, 10);
    }
    fclose(f);
    return kib;
}

/* Linux 6.1, with huge pages. */
static bool can_collapse(void)
{
    int fd = memfd_create("one", MFD_CLOEXEC);
    CHECK(fd >= 0 && ftruncate(fd, WIRE_HUGE_PAGE) == 0);
    uint8_t *p = wire_map_arena(fd, WIRE_HUGE_PAGE);
    CHECK(p);
    *p = 1;
    bool can = madvise(p, WIRE_HUGE_PAGE, MADV_COLLAPSE) == 0;
    munmap(p, WIRE_HUGE_PAGE);
    close(fd);
    return can;
}

static void test_huge(void)
{
    struct arena a = { .fd = -1 };
    uint64_t left;
    if (!can_collapse()) {
        puts("SKIP: huge: this kernel makes no huge pages of shared memory on demand");
        return;
    }
    CHECK_OK(arena_new("a test", 8 * WIRE_HUGE_PAGE, 0, &a, &left, NULL));
    CHECK(huge_kib(a.base) > 0);
    arena_close(&a);
    cases++;
}

/* A child that had the arena would keep it pinned and in memory, and copies of a device may go on
 * into it while pages are copied for one of the two. */
static void test_forked(void)
{
    struct arena a = { .fd = -1 };
    uint64_t left;
    int status;
    unsigned char there;
    CHECK_OK(arena_new("a test", BYTES, 0, &a, &left, NULL));
    CHECK(mincore(a.base, PAGE, &there) == 0 && mincore(a.base + BYTES - PAGE, PAGE, &there) == 0);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0)
        _exit(mincore(a.base, PAGE, &there) == 0 || errno != ENOMEM ||
              mincore(a.base + BYTES - PAGE, PAGE, &there) == 0 || errno != ENOMEM);
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK_EQ(status, 0);
    arena_close(&a);
    cases++;
}

int main(void)
{
    test_new();
    test_populated();
    test_huge();
    test_forked();
    test_near();
    test_sizes();
    test_refused();
    TEST_CASES(cases);
    return 0;
}
