/* progress.c: rates and what is left, at the edges too. */
#include "ckptd/progress.h"

#include "check.h"

#define GIB    (UINT64_C(1) << 30)
#define SECOND INT64_C(1000000000)

static long cases;

static void rate_is(uint64_t done, int64_t since_ns, double want)
{
    double got = progress_rate(done, since_ns);
    if (got != want)
        fprintf(stderr, "%llu bytes in %lld ns: %g a second, expected %g\n",
                (unsigned long long)done, (long long)since_ns, got, want);
    CHECK(got == want);
    cases++;
}

static void left_is(uint64_t done, uint64_t total, double rate, double want)
{
    double got = progress_left(done, total, rate);
    if (got != want)
        fprintf(stderr, "%llu of %llu at %g: %g seconds, expected %g\n", (unsigned long long)done,
                (unsigned long long)total, rate, got, want);
    CHECK(got == want);
    cases++;
}

int main(void)
{
    rate_is(GIB, SECOND, (double)GIB);
    rate_is(3 * GIB, 2 * SECOND, 1.5 * (double)GIB);
    rate_is(1, SECOND / 4, 4);
    rate_is(0, SECOND, 0);
    rate_is(GIB, 0, 0);       /* just begun */
    rate_is(GIB, -SECOND, 0); /* an op of a worker before, by another clock */
    left_is(GIB, 4 * GIB, (double)GIB / 2, 6);
    left_is(0, GIB, (double)GIB, 1); /* of one tier: what others move counts */
    left_is(4 * GIB - 1, 4 * GIB, 4, 0.25);
    left_is(0, UINT64_C(1) << 63, 0x1p60, 8);
    left_is(0, 4 * GIB, 0, PROGRESS_UNKNOWN);
    left_is(0, 0, 7, PROGRESS_UNKNOWN);
    left_is(GIB, GIB, 7, PROGRESS_UNKNOWN);
    left_is(GIB + 1, GIB, 7, PROGRESS_UNKNOWN); /* more came than was announced */
    /* A restore at a steady rate: what has gone and what is left make the whole. */
    for (uint64_t s = 1; s < 100; s++)
        left_is(s * GIB, 100 * GIB, progress_rate(s * GIB, (int64_t)s * SECOND), 100 - (double)s);
    TEST_CASES(cases);
    return 0;
}
