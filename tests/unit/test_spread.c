/* Work spread over threads: each piece once, the first failure comes back. */
#include "storage/repo/spread.h"
#include "unit/history_fixture.h"

struct pieces {
    atomic_uint done[1000];
    size_t fails_at;
    struct store *callers;
    atomic_uint others; /* pieces done on another handle */
};

static enum ckpt_status piece(void *arg, struct store *s, size_t i, struct ckpt_err *err)
{
    struct pieces *p = arg;
    char key[32];
    if (i == p->fails_at)
        return err_set(err, CKPT_FULL, "piece %zu", i);
    snprintf(key, sizeof(key), "job/%zu", i);
    CHECK_OK(store_put_record(s, key, "x", 1, NULL));
    atomic_fetch_add(&p->done[i], 1);
    if (s != p->callers)
        atomic_fetch_add(&p->others, 1);
    return CKPT_OK;
}

static int test_counts(void)
{
    static const size_t counts[] = { 0, 1, 2, 17, 1000 };
    static const unsigned threads[] = { 0, 1, 2, 16, 99 };
    int cases = 0;
    for (size_t c = 0; c < ARRAY_COUNT(counts); c++)
        for (size_t t = 0; t < ARRAY_COUNT(threads); t++, cases++) {
            struct store *s = fx_open();
            struct pieces p = { .fails_at = SIZE_MAX, .callers = s };
            CHECK_OK(spread_run(s, threads[t], counts[c], piece, &p, NULL));
            for (size_t i = 0; i < ARRAY_COUNT(p.done); i++)
                CHECK_EQ(p.done[i], i < counts[c]);
            CHECK(threads[t] > 1 || !p.others);
            store_close(s);
        }
    return cases;
}

static int test_failure(unsigned threads)
{
    struct store *s = fx_open();
    struct pieces p = { .fails_at = 10, .callers = s };
    struct ckpt_err err = { 0 };
    CHECK_EQ(spread_run(s, threads, 1000, piece, &p, &err), CKPT_FULL);
    CHECK_STR(err.text, "piece 10");
    CHECK(threads > 1 || !p.done[11]); /* alone, nothing begins behind it */
    store_close(s);
    return 1;
}

int main(void)
{
    TEST_CASES(test_counts() + test_failure(1) + test_failure(8));
    return 0;
}
