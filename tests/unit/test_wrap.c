/* The wrappers' own behaviour: what is counted, which calls a rule hits, and that
 * a put which reads back differently is noticed.
 * (It covers wrap_count.c, wrap_fault.c and wrap_verify.c too.) */
#include <stdio.h>
#include <time.h>

#include "storage/store/wrap.h"

#include "check.h"

static struct store *mem(const char *name)
{
    char url[64];
    struct store *s;
    snprintf(url, sizeof(url), "mem://%s", name);
    CHECK_OK(store_open(url, NULL, &s, NULL));
    return s;
}

static struct store *faulty(const char *name, struct wrap_fault_plan *plan)
{
    struct store *s;
    CHECK_OK(wrap_fault(mem(name), plan, &s, NULL));
    return s;
}

static enum ckpt_status put(struct store *s, const char *key)
{
    struct iovec iov = { (void *)(uintptr_t)key, strlen(key) };
    return store_put(s, key, &iov, 1, 0, NULL);
}

static int test_count(void)
{
    struct store_counts n = { 0 };
    struct store *s, *dup;
    struct store_stat stat;
    struct store_entry page[2];
    size_t count;
    bool more;
    char b[4];
    CHECK_OK(wrap_count(mem("count"), &n, &s, NULL));
    CHECK_OK(put(s, "four"));
    CHECK_OK(store_dup(s, &dup, NULL));
    CHECK_OK(put(dup, "a/five"));
    struct store_range r[2] = { { 0, 1, b }, { 1, 3, b + 1 } };
    CHECK_OK(store_get(s, "four", r, 2, NULL));
    CHECK_EQ(store_get(s, "none", r, 2, NULL), CKPT_NOT_FOUND);
    CHECK_OK(store_stat(s, "four", &stat, NULL));
    CHECK_OK(store_list(s, "", false, "", page, 2, &count, &more, NULL));
    CHECK_OK(store_sync(s, "", NULL));
    CHECK_OK(store_remove(s, "four", NULL));
    CHECK_EQ(n.puts, 2);
    CHECK_EQ(n.put_bytes, 10);
    CHECK_EQ(n.gets, 2);
    CHECK_EQ(n.get_bytes, 4);
    CHECK_EQ(n.get_ranges, 2);
    CHECK_EQ(n.stats, 1);
    CHECK_EQ(n.lists, 1);
    CHECK_EQ(n.syncs, 1);
    CHECK_EQ(n.removes, 1);
    CHECK_EQ(n.errors, 1);
    char text[100];
    store_to_text(s, text, sizeof(text));
    CHECK_STR(text, "count over mem://count (memory of this process)");
    store_close(dup);
    store_close(s);
    return 11;
}

static int test_fail(void)
{
    const struct wrap_fault_rule rules[] = {
        { .kind = FAULT_FAIL, .status = CKPT_FULL, .op = 'p', .match = "pack", .nth = 2 },
        { .kind = FAULT_FAIL, .status = CKPT_UNREACHABLE, .op = 'y' },
        { .kind = FAULT_FAIL, .status = CKPT_DENIED, .match = "secret" },
    };
    struct wrap_fault_plan plan = { .rules = rules, .count = 3 };
    struct store *s = faulty("fail", &plan), *dup;
    struct store_stat stat;
    struct ckpt_err err = { 0 };
    CHECK_OK(store_dup(s, &dup, NULL));
    CHECK_OK(put(s, "pack1"));
    CHECK_OK(put(s, "other"));
    CHECK_EQ(put(dup, "pack2"), CKPT_FULL); /* the plan is shared by dups */
    CHECK_EQ(store_stat(s, "pack2", &stat, NULL), CKPT_NOT_FOUND);
    CHECK_OK(put(s, "pack2"));
    CHECK_EQ(store_sync(s, "", &err), CKPT_UNREACHABLE);
    CHECK(strstr(err.text, "injected"));
    CHECK_EQ(store_sync(s, "a/", NULL), CKPT_UNREACHABLE);
    CHECK_EQ(put(s, "secret"), CKPT_DENIED);
    CHECK_EQ(store_stat(s, "secret", &stat, NULL), CKPT_DENIED);
    CHECK_EQ(store_remove(s, "secret", NULL), CKPT_DENIED);
    CHECK_EQ(plan.hits, 6);
    CHECK_EQ(plan.matched[0], 3);
    CHECK_EQ(plan.matched[1], 2);
    CHECK_EQ(plan.matched[2], 3);
    store_close(dup);
    store_close(s);
    return 12;
}

/* A store that says "already there": those above would take it for a commit that is made, or a
 * checkpoint that is held. */
static int test_exists(void)
{
    const struct wrap_fault_rule rule = { .kind = FAULT_FAIL, .status = CKPT_EXISTS };
    struct wrap_fault_plan plan = { .rules = &rule, .count = 1 };
    struct store *s = faulty("exists", &plan);
    struct store_stat stat;
    struct store_entry page[2];
    struct ckpt_err err = { 0 };
    size_t count;
    bool more;
    char b[4];
    void *all;
    struct store_range r = { 0, 4, b };
    CHECK_EQ(store_put_record(s, "r", "x", 1, &err), CKPT_UNREACHABLE);
    CHECK_EQ(err.status, CKPT_UNREACHABLE);
    CHECK_EQ(put(s, "pack"), CKPT_UNREACHABLE);
    CHECK_EQ(store_get(s, "r", &r, 1, NULL), CKPT_UNREACHABLE);
    CHECK_EQ(store_get_all(s, "r", 4, &all, &count, NULL), CKPT_UNREACHABLE);
    CHECK_EQ(store_stat(s, "r", &stat, NULL), CKPT_UNREACHABLE);
    CHECK_EQ(store_list(s, "", false, "", page, 2, &count, &more, NULL), CKPT_UNREACHABLE);
    CHECK_EQ(store_remove(s, "r", NULL), CKPT_UNREACHABLE);
    CHECK_EQ(store_sync(s, "", NULL), CKPT_UNREACHABLE);
    store_close(s);
    return 8;
}

static int test_lost_reply(void)
{
    const struct wrap_fault_rule rules[] = {
        { .kind = FAULT_LOST_REPLY, .status = CKPT_UNREACHABLE, .op = 'p', .nth = 1 },
        { .kind = FAULT_LOST_REPLY, .status = CKPT_IO, .op = 'r', .nth = 1 },
    };
    struct wrap_fault_plan plan = { .rules = rules, .count = 2 };
    struct store *s = faulty("lost", &plan);
    struct store_stat stat;
    CHECK_EQ(store_put_record(s, "r", "x", 1, NULL), CKPT_UNREACHABLE);
    CHECK_OK(store_stat(s, "r", &stat, NULL)); /* it happened */
    CHECK_OK(store_put_record(s, "r", "x", 1, NULL));
    CHECK_EQ(store_remove(s, "r", NULL), CKPT_IO);
    CHECK_EQ(store_stat(s, "r", &stat, NULL), CKPT_NOT_FOUND);
    CHECK_EQ(plan.hits, 2);
    store_close(s);
    return 3;
}

static int bits_set(const unsigned char *bytes, size_t len)
{
    int n = 0;
    for (size_t i = 0; i < len; i++)
        n += __builtin_popcount(bytes[i]);
    return n;
}

static int test_flip_and_short(void)
{
    enum { ROUNDS = 50 };
    const struct wrap_fault_rule flips[] = { { .kind = FAULT_FLIP } };
    struct wrap_fault_plan plan = { .rules = flips, .count = 1, .seed = test_seed(5) };
    struct store *s = faulty("flip", &plan);
    unsigned char zeros[100] = { 0 }, got[100];
    struct store_range r[2] = { { 0, 1, got }, { 1, 99, got + 1 } };
    unsigned char seen[100] = { 0 };
    CHECK_OK(store_put_record(s, "z", zeros, sizeof(zeros), NULL));
    for (int i = 0; i < ROUNDS; i++) {
        CHECK_OK(store_get(s, "z", r, 2, NULL));
        CHECK_EQ(bits_set(got, sizeof(got)), 1);
        for (size_t at = 0; at < sizeof(got); at++)
            seen[at] |= got[at];
    }
    CHECK(bits_set(seen, sizeof(seen)) > ROUNDS / 2); /* not always the same bit */
    CHECK_EQ(plan.hits, ROUNDS);
    CHECK_OK(store_get(s, "z", NULL, 0, NULL)); /* nothing to flip */
    store_close(s);

    const struct wrap_fault_rule shorts[] = { { .kind = FAULT_SHORT, .nth = 2 } };
    struct wrap_fault_plan once = { .rules = shorts, .count = 1 };
    s = faulty("flip", &once);
    CHECK_OK(store_get(s, "z", r, 2, NULL));
    CHECK_EQ(store_get(s, "z", r, 2, NULL), CKPT_CORRUPT);
    CHECK_OK(store_get(s, "z", r, 2, NULL));
    store_close(s);
    return ROUNDS + 4;
}

static int test_stall(void)
{
    const struct wrap_fault_rule rules[] = { { .kind = FAULT_STALL } };
    struct wrap_fault_plan plan = { .rules = rules, .count = 1 };
    struct store *s = faulty("stall", &plan);
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    int64_t soon = now.tv_sec * INT64_C(1000000000) + now.tv_nsec + 5000000;
    store_set_limits(s, soon, NULL);
    CHECK_EQ(put(s, "x"), CKPT_TIMEOUT);
    CHECK_EQ(plan.hits, 1); /* it got as far as the fault */
    store_close(s);

    /* Limits reach the store below a wrapper, new ones at each call. */
    struct store_counts n = { 0 };
    atomic_bool cancel = false;
    CHECK_OK(wrap_count(faulty("stall", &plan), &n, &s, NULL));
    clock_gettime(CLOCK_MONOTONIC, &now);
    soon = now.tv_sec * INT64_C(1000000000) + now.tv_nsec + 50000000;
    store_set_limits(s, soon, &cancel);
    CHECK_EQ(put(s, "x"), CKPT_TIMEOUT);
    CHECK_EQ(plan.hits, 2);
    CHECK_EQ(n.errors, 1);
    store_close(s);
    return 2;
}

static int test_verify(void)
{
    const struct wrap_fault_rule rules[] = {
        { .kind = FAULT_FLIP, .op = 'g', .match = "bad", .nth = 2 },
    };
    struct wrap_fault_plan plan = { .rules = rules, .count = 1, .seed = 3 };
    struct store *s;
    struct ckpt_err err = { 0 };
    CHECK_OK(wrap_verify(faulty("verify", &plan), &s, NULL));
    size_t len = (3 << 20) + 1;
    char *bytes = calloc(1, len);
    struct iovec iov[2] = { { bytes, 5 }, { bytes + 5, len - 5 } };
    CHECK_OK(store_put(s, "good", iov, 2, 0, NULL));
    CHECK_EQ(store_put(s, "bad", iov, 2, 0, &err), CKPT_CORRUPT); /* in its second part */
    CHECK(strstr(err.text, "bad"));
    CHECK_OK(store_put(s, "bad", iov, 2, STORE_IF_ABSENT, NULL));
    free(bytes);
    store_close(s);
    return 3;
}

int main(void)
{
    TEST_CASES(test_count() + test_fail() + test_exists() + test_lost_reply() +
               test_flip_and_short() + test_stall() + test_verify());
    return 0;
}
