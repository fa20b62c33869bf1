/* Arenas (ckptd/arena.c): made, admitted, and opened only at exactly their size: one that
 * is smaller than it is said to be would kill the worker that reads behind its end. */
#include <fcntl.h>
#include <sys/mman.h>

#include "ckptd/arena.h"
#include "formats/wire.h"
#include "unit/near.h"

#define BYTES (UINT64_C(4) << 20)

static long cases;

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

int main(void)
{
    test_new();
    test_near();
    test_sizes();
    test_refused();
    TEST_CASES(cases);
    return 0;
}
