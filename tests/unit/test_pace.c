/* pace.c: what is begun in any interval, on a clock of the test's; and words for rates. */
#include "libckpt/pace.h"

#include "check.h"

#define BEGUN_MAX 4000
#define SECOND    INT64_C(1000000000)

static int cases;

/* A caller that looks when it is told to, or later, with pieces of any size: in every interval
 * between two beginnings at most the rate and one piece; and when it looks at once, no less
 * than the rate over the whole. */
static void any_interval(unsigned long long *rng, bool prompt)
{
    static int64_t at[BEGUN_MAX];
    static uint64_t bytes[BEGUN_MAX];
    const uint64_t largest = UINT64_C(32) << 20;
    struct pace p = { .bytes_per_s = 1 + test_rand(rng) % (UINT64_C(50) << 30) };
    int64_t now = (int64_t)(test_rand(rng) % 1000), first = -1;
    uint64_t sum = 0;
    size_t n = 0;
    while (n < 60) {
        uint64_t piece = 1 + test_rand(rng) % largest;
        int64_t wait = pace_take(&p, piece, now);
        if (wait > 0) {
            CHECK(pace_take(&p, 1, now + wait - 1) == 1);
            now += wait + (prompt ? 0 : (int64_t)(test_rand(rng) % 50000000));
            continue;
        }
        first = first < 0 ? now : first;
        at[n] = now;
        bytes[n++] = piece;
        sum += piece;
    }
    for (size_t i = 0; i < n; i++) {
        uint64_t in = 0;
        for (size_t k = i; k < n; k++) {
            in += bytes[k];
            double allowed = (double)(at[k] - at[i]) / 1e9 * (double)p.bytes_per_s;
            CHECK((double)(in - bytes[k]) <= allowed * 1.000001 + (double)p.bytes_per_s * 1e-6);
        }
    }
    double took = (double)(now - first) / 1e9;
    CHECK(!prompt || (double)sum >= took * (double)p.bytes_per_s);
    cases++;
}

static void words(void)
{
    static const struct {
        const char *text;
        uint64_t rate;
    } good[] = { { "0", 0 },
                 { "1", 1 },
                 { "20K", 20480 },
                 { "3M", 3 << 20 },
                 { "12G", UINT64_C(12) << 30 },
                 { "18446744073709551615", UINT64_MAX } };
    static const char *const bad[] = { "x",
                                       "-1",
                                       " 1",
                                       "+1",
                                       "1T",
                                       "1GB",
                                       "1.5G",
                                       "G",
                                       "18446744073709551616",
                                       "18446744073709551615K" };
    uint64_t rate = 77;
    struct ckpt_err err = { 0 };
    CHECK_OK(pace_parse(NULL, &rate, &err));
    CHECK_OK(pace_parse("", &rate, &err));
    CHECK_EQ(rate, 77);
    for (size_t i = 0; i < ARRAY_COUNT(good); i++, cases++) {
        CHECK_OK(pace_parse(good[i].text, &rate, &err));
        CHECK(rate == good[i].rate);
    }
    rate = 77;
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++, cases++) {
        err = (struct ckpt_err){ 0 };
        CHECK_EQ(pace_parse(bad[i], &rate, &err), CKPT_INVALID);
        CHECK(strstr(err_text(&err), "is no number of bytes") && rate == 77);
    }
}

int main(void)
{
    unsigned long long rng = test_seed(20261122);
    struct pace none = { 0 }, slow = { .bytes_per_s = 1 };
    for (int i = 0; i < 100; i++)
        CHECK_EQ(pace_take(&none, UINT64_MAX, 5), 0);
    CHECK_EQ(pace_take(&slow, 0, 5), 0);
    CHECK_EQ(pace_take(&slow, UINT64_MAX, 5), 0);
    CHECK_EQ(pace_take(&slow, 1, 5), 3600 * SECOND); /* an hour, not for ever */
    CHECK_EQ(pace_take(&slow, 0, 5), 0);             /* nothing waits for nothing */
    cases += 5;
    for (int i = 0; i < 200; i++)
        any_interval(&rng, i % 2);
    words();
    TEST_CASES(cases);
    return 0;
}
