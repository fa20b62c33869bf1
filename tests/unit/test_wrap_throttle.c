/* The bandwidth limit, with a clock of its own: no time passes but what it sleeps. */
#include "storage/store/wrap.h"
#include "storage/store/wrap_throttle.h"

#include "check.h"

#define SEC INT64_C(1000000000)
#define MB  UINT64_C(1000000)

static long cases;
static int64_t now_ns_;
static uint8_t bytes[4 * 1000000];

static struct store_throttle *throttle;
static uint64_t set_while_waiting;

static int64_t now(void *arg)
{
    (void)arg;
    return now_ns_;
}

static void pass(void *arg, int64_t ns)
{
    (void)arg;
    CHECK(ns > 0);
    now_ns_ += ns;
    if (set_while_waiting)
        store_throttle_set(throttle, set_while_waiting);
    set_while_waiting = 0;
}

static enum ckpt_status put(struct store *s, const char *key, size_t len)
{
    const struct iovec iov = { bytes, len };
    cases++;
    return store_put(s, key, &iov, 1, 0, NULL);
}

int main(void)
{
    struct store_throttle t = { .bytes_per_s = MB, .now = now, .sleep = pass };
    struct store *inner, *s, *other;
    throttle = &t;
    CHECK_OK(store_open("mem://throttle", NULL, &inner, NULL));
    CHECK_OK(wrap_throttle(inner, &t, &s, NULL));
    CHECK_OK(store_dup(s, &other, NULL));
    /* In credit: at once; then the debt is waited for, also by another handle. */
    CHECK_OK(put(s, "a", 2 * MB));
    CHECK_EQ(now_ns_, 0);
    CHECK_OK(put(other, "b", MB));
    CHECK_EQ(now_ns_, 2 * SEC);
    CHECK_OK(put(s, "c", 3 * MB));
    CHECK_EQ(now_ns_, 3 * SEC);
    /* The mean over a long time is the rate. */
    int64_t begin = now_ns_;
    for (int i = 0; i < 50; i++)
        CHECK_OK(put(i % 2 ? s : other, "d", 2 * MB));
    CHECK(now_ns_ - begin >= 98 * SEC && now_ns_ - begin <= 103 * SEC);
    /* What is small pays and does not wait. */
    begin = now_ns_;
    CHECK_OK(put(s, "small", 60000));
    CHECK_EQ(now_ns_, begin);
    /* Time that passes pays; credit does not pile up. */
    now_ns_ += 1000 * SEC;
    begin = now_ns_;
    CHECK_OK(put(s, "e", 4 * MB));
    CHECK_EQ(now_ns_, begin);
    CHECK_OK(put(s, "f", MB));
    CHECK_EQ(now_ns_, begin + 4 * SEC);
    /* Who waits can be stopped. */
    atomic_bool cancel = true;
    store_set_limits(s, 0, &cancel);
    CHECK_EQ(put(s, "g", MB), CKPT_CANCELLED);
    store_set_limits(s, 0, NULL);
    struct store_stat stat;
    CHECK_EQ(store_stat(s, "g", &stat, NULL), CKPT_NOT_FOUND);
    CHECK_OK(store_stat(s, "f", &stat, NULL));
    CHECK_EQ(stat.bytes, MB);
    /* Another rate: what was owed is forgotten, also by one who waits for it. */
    CHECK_OK(put(s, "i", 4 * MB));
    set_while_waiting = 2 * MB;
    begin = now_ns_;
    CHECK_OK(put(s, "j", 4 * MB));
    CHECK(now_ns_ - begin < SEC / 10 && set_while_waiting == 0);
    begin = now_ns_;
    CHECK_OK(put(s, "k", 4 * MB)); /* in credit */
    CHECK_EQ(now_ns_, begin);
    CHECK_OK(put(s, "l", MB));
    CHECK_EQ(now_ns_, begin + 2 * SEC);
    store_throttle_set(&t, 0); /* no limit */
    begin = now_ns_;
    CHECK_OK(put(s, "h", 4 * MB));
    CHECK_EQ(now_ns_, begin);
    store_close(other);
    store_close(s);
    TEST_CASES(cases);
    return 0;
}
