/* formats/bulk.c against memcpy: every alignment of both sides, lengths on both sides of
 * the border between plain and streaming copies, runs with gaps, and not a byte beside the
 * destination. */
#include "formats/bulk.h"

#include "check.h"

#define BORDER 262144
#define GUARD  192
#define ROOM   (4 * BORDER)

static unsigned char from[ROOM], to[ROOM + 2 * GUARD], want[ROOM + 2 * GUARD];

static void one(size_t in, size_t out, size_t bytes)
{
    memset(to, 0xa5, sizeof(to));
    memset(want, 0xa5, sizeof(want));
    memcpy(want + GUARD + out, from + in, bytes);
    bulk_copy(to + GUARD + out, from + in, bytes);
    CHECK(memcmp(to, want, sizeof(to)) == 0);
}

/* `count` runs; at most ROOM bytes with their gaps on either side. */
static void runs(size_t in, size_t in_gap, size_t out, size_t out_gap, size_t bytes, size_t count)
{
    memset(to, 0xa5, sizeof(to));
    memset(want, 0xa5, sizeof(want));
    for (size_t i = 0; i < count; i++)
        memcpy(want + GUARD + out + i * (bytes + out_gap), from + in + i * (bytes + in_gap), bytes);
    bulk_copy_runs(to + GUARD + out, bytes + out_gap, from + in, (ptrdiff_t)(bytes + in_gap), bytes,
                   count);
    CHECK(memcmp(to, want, sizeof(to)) == 0);
}

static long long all_runs(unsigned long long *seed)
{
    long long cases = 0;
    for (size_t bytes = 1000; bytes < 1100; bytes += 3, cases += 2) { /* where runs are too short */
        runs(5, 7, 1, 64, bytes, BORDER / bytes + 1);
        runs(0, 0, 0, 0, bytes, BORDER / bytes);
    }
    for (int i = 0; i < 300; i++, cases++) {
        size_t bytes = 1 + test_rand(seed) % 9000,
               count = 1 + test_rand(seed) % (2 * BORDER / bytes);
        size_t gap = test_rand(seed) % (bytes < 2000 ? bytes : 2000);
        runs(test_rand(seed) % 64, test_rand(seed) % (gap + 1), test_rand(seed) % 64, gap, bytes,
             count);
    }
    runs(0, 4096, 0, 0, 4096, 100); /* columns of a matrix */
    runs(0, 0, 0, 4096, 4096, 100);
    runs(3, 0, 5, 0, 4096, 0);
    return cases + 3;
}

int main(void)
{
    unsigned long long seed = test_seed(7);
    long long cases = 0;
    for (size_t i = 0; i < sizeof(from); i++)
        from[i] = (unsigned char)test_rand(&seed);
    for (size_t align = 0; align < 64; align++, cases += 2) {
        one(align, 63 - align, BORDER + align);
        one(0, align, BORDER + 1000 + align * 3);
    }
    for (int d = -70; d <= 70; d++, cases++)
        one(3, 5, (size_t)(BORDER + d));
    for (int i = 0; i < 200; i++, cases++) {
        size_t in = test_rand(&seed) % 4096, out = test_rand(&seed) % 64;
        one(in, out, test_rand(&seed) % (ROOM - 4096));
    }
    one(0, 0, 0);
    one(1, 1, 1);
    TEST_CASES(cases + 2 + all_runs(&seed));
}
