/* audit.c: the fence audit of host memory, on a scripted daemon: what it names, what it lets
 * go, and which calls it takes for a fence.  Of device memory: tests/gpu/test_gpu_save.c. */
#include <pthread.h>

#include "fakes/lib_fixture.h"
#include "libckpt/context.h"

static int cases;

static void open_audited(struct fixture *f, const char *when, const struct fake_script *s,
                         uint64_t big)
{
    setenv("CKPT_AUDIT", when, 1);
    fix_open_with(f, s, big);
}

static void open_first(struct fixture *f, uint64_t big)
{
    struct fake_script s = fix_script();
    open_audited(f, "", &s, big);
}

static struct ckpt_info info_of(const struct fixture *f)
{
    struct ckpt_info info = { .size = sizeof(info) };
    CHECK_OK(ckpt_info(f->c, &info));
    return info;
}

static enum ckpt_status save_with(struct fixture *f, uint64_t step, uint32_t flags, uint64_t *ret)
{
    struct ckpt_save_opts o = { .size = sizeof(o), .step = step, .flags = flags };
    return ckpt_save(f->s, &o, f->buf, FIX_TENSORS, NULL, ret);
}

/* Saved, fenced and committed; whether it was audited. */
static bool saved_audited(struct fixture *f, uint64_t step, uint32_t flags)
{
    char word[32];
    uint64_t op;
    snprintf(word, sizeof(word), "step %d: nothing changed", (int)step);
    CHECK_OK(save_with(f, step, flags, &op));
    memset(f->mem[3], (int)step, f->buf[3].bytes); /* volatile and objects may */
    memset(f->mem[4], (int)step, f->buf[4].bytes);
    CHECK_OK(ckpt_fence(f->s, 20000));
    CHECK_OK(ckpt_wait(f->c, op, CKPT_LEVEL_LOCAL, 20000));
    cases++;
    return strstr(info_of(f).audit, word) != NULL;
}

static void which_saves(void)
{
    struct fake_script s = fix_script();
    struct fixture f;
    open_first(&f, FIX_BIG);
    CHECK(saved_audited(&f, 1, 0));
    CHECK(!saved_audited(&f, 2, 0));
    CHECK(saved_audited(&f, 3, CKPT_SAVE_AUDIT));
    CHECK(!saved_audited(&f, 4, 0));
    fix_close(&f);
    open_first(&f, 1000);
    CHECK(!saved_audited(&f, 1, CKPT_SAVE_NO_AUDIT));
    CHECK(saved_audited(&f, 2, 0)); /* none has passed before */
    fix_close(&f);
    open_audited(&f, "1", &s, 1000);
    CHECK(saved_audited(&f, 1, 0) && saved_audited(&f, 2, 0));
    CHECK(!saved_audited(&f, 3, CKPT_SAVE_NO_AUDIT));
    fix_close(&f);
    open_audited(&f, "0", &s, 1000);
    CHECK(!saved_audited(&f, 1, 0) && saved_audited(&f, 2, CKPT_SAVE_AUDIT));
    struct ckpt_open_opts o = fix_opts(f.d);
    struct ckpt *c;
    setenv("CKPT_AUDIT", "yes", 1);
    CHECK_FAILS(ckpt_open(&o, &c), CKPT_INVALID, "CKPT_AUDIT is \"yes\"");
    fix_close(&f);
}

/* One byte in each kind of tensor: it is named and no other; its save fails on all ranks; the
 * next one copies it aside, so that the same mistake does no harm any more. */
static void names(void)
{
    static const char *const name[] = { "big", "two", "four" };
    static const size_t at[] = { 17 << 20, 101, 1 + 40 + 3 };
    for (int i = 0; i < 3; i++) {
        struct fixture f;
        char words[80];
        uint64_t op;
        open_first(&f, FIX_BIG);
        snprintf(words, sizeof(words), "its fence: \"%s\"; volatile from now on", name[i]);
        CHECK_OK(save_with(&f, 1, 0, &op));
        f.mem[i][at[i]] ^= 4;
        CHECK_OK(ckpt_fence(f.s, 20000));
        CHECK_FAILS(ckpt_wait(f.c, op, CKPT_LEVEL_LOCAL, 20000), CKPT_ABORTED, words);
        fake_await(f.d, WIRE_FAIL, 1);
        struct fake_seen seen = fake_seen(f.d);
        CHECK_EQ(seen.last_status, CKPT_ABORTED);
        CHECK(strstr(seen.fail_text, words) && !seen.wrong);
        CHECK(strstr(info_of(&f).audit, words));
        for (unsigned step = 2; step < 4; step++) {
            fix_fill(&f, step);
            CHECK_OK(save_with(&f, step, 0, &op));
            f.mem[i][at[i]] ^= 4;
            CHECK_OK(ckpt_fence(f.s, 20000));
            CHECK_OK(ckpt_wait(f.c, op, CKPT_LEVEL_LOCAL, 20000));
            CHECK(strstr(info_of(&f).audit, "step 2: nothing changed"));
            fix_compare(&f, step);
            cases++;
        }
        fix_close(&f);
    }
}

/* More than may be copied aside stays what it is, and no save with it passes. */
static void too_large(void)
{
    struct fixture f;
    uint64_t op;
    open_first(&f, UINT64_C(17) << 20);
    for (unsigned step = 1; step < 3; step++, cases++) {
        CHECK_OK(save_with(&f, step, 0, &op));
        f.mem[0][step] ^= 1;
        f.mem[2][1] ^= 1;
        CHECK_OK(ckpt_fence(f.s, 60000));
        CHECK_FAILS(ckpt_wait(f.c, op, CKPT_LEVEL_LOCAL, 20000), CKPT_ABORTED,
                    step == 1 ? "\"big\", \"four\"; too large to be copied aside"
                              : "\"big\"; too large to be copied aside");
    }
    CHECK(saved_audited(&f, 3, 0));
    fix_close(&f);
}

/* No fence at all: after half of the save's time what is there is compared. */
static void no_fence(void)
{
    struct fixture f;
    struct ckpt_save_opts o = { .size = sizeof(o), .step = 1, .timeout_ms = 600 };
    uint64_t op;
    open_first(&f, 1000);
    CHECK_OK(ckpt_save(f.s, &o, f.buf, FIX_TENSORS, NULL, &op));
    fake_await(f.d, WIRE_FULL, 1);
    while (info_of(&f).saves_committed == 0)
        ;
    CHECK(strstr(info_of(&f).audit, "step 1: nothing changed"));
    fix_close(&f);
    cases++;
}

struct wait {
    const struct fixture *f;
    uint64_t op;
};

static void *wait_a_while(void *arg)
{
    const struct wait *w = arg;
    CHECK_FAILS(ckpt_wait(w->f->c, w->op, CKPT_LEVEL_LOCAL, 50), CKPT_TIMEOUT, "");
    return NULL;
}

/* Another thread waits for the save, and the audit still waits for its fence: not even asked for,
 * however slow the comparing is. */
static void another_waits(const struct fixture *f, uint64_t op)
{
    struct wait w = { f, op };
    pthread_t waiter;
    CHECK_EQ(pthread_create(&waiter, NULL, wait_a_while, &w), 0);
    pthread_join(waiter, NULL);
    pthread_mutex_lock(&f->s->ctx->lock);
    CHECK_EQ(f->s->audit.shared.stage, AUDIT_HELD);
    CHECK(!f->s->audit.shared.asked);
    pthread_mutex_unlock(&f->s->ctx->lock);
}

/* What counts as a fence: a wait of the thread that saved, the next save; not a wait of another
 * thread, behind which the saver may change its memory too early. */
static void fences(void)
{
    struct fixture f;
    uint64_t op, next;
    open_first(&f, 1000);
    CHECK_OK(save_with(&f, 1, 0, &op));
    another_waits(&f, op);
    CHECK_OK(ckpt_wait(f.c, op, CKPT_LEVEL_LOCAL, 20000));
    CHECK(strstr(info_of(&f).audit, "step 1: nothing changed"));
    CHECK_OK(save_with(&f, 2, CKPT_SAVE_AUDIT, &op));
    another_waits(&f, op);
    f.mem[1][101] ^= 1;
    CHECK_FAILS(ckpt_wait(f.c, op, CKPT_LEVEL_LOCAL, 20000), CKPT_ABORTED, "\"two\"");
    CHECK_OK(save_with(&f, 3, CKPT_SAVE_AUDIT, &op));
    f.mem[0][5] ^= 1;
    CHECK_OK(save_with(&f, 4, 0, &next));
    CHECK_FAILS(ckpt_wait(f.c, op, CKPT_LEVEL_LOCAL, 20000), CKPT_ABORTED, "\"big\"");
    CHECK_OK(ckpt_wait(f.c, next, CKPT_LEVEL_LOCAL, 20000));
    cases += 4;
    fix_close(&f);
}

/* (Of host memory all is copied when an audited save returns.)  What is kept back is handed over,
 * not lost, when no fence can come any more. */
static void lets_go(void)
{
    struct fixture f;
    uint64_t op;
    open_first(&f, FIX_BIG);
    CHECK_OK(save_with(&f, 1, 0, &op));
    ckpt_state_free(f.s);
    CHECK(strstr(info_of(&f).audit, "not audited: the state was freed"));
    CHECK_OK(ckpt_wait(f.c, op, CKPT_LEVEL_LOCAL, 20000));
    fix_close(&f);
    open_first(&f, FIX_BIG);
    CHECK_OK(save_with(&f, 1, 0, &op));
    ckpt_close(f.c);
    f.c = NULL;
    fake_await(f.d, WIRE_FULL, 3);
    CHECK_EQ(fake_seen(f.d).fails, 0);
    fix_close(&f);
    cases += 2;
}

/* While the last slot is kept back, the daemon's worker is replaced and grants it again; or
 * ckptd starts afresh and knows of nothing. */
static void reconnects(void)
{
    struct fixture f;
    struct fake_script s = fix_script();
    uint64_t op;
    s.repeat_grants = 2;
    open_audited(&f, "", &s, FIX_BIG);
    CHECK_OK(save_with(&f, 1, 0, &op));
    fake_drop(f.d);
    while (fake_seen(f.d).resumed == 0)
        ;
    CHECK_OK(ckpt_fence(f.s, 20000));
    CHECK_OK(ckpt_wait(f.c, op, CKPT_LEVEL_LOCAL, 20000));
    CHECK(fake_seen(f.d).repeated_grants > 0 && !fake_seen(f.d).wrong);
    fix_close(&f);
    open_audited(&f, "", &s, FIX_BIG);
    CHECK_OK(save_with(&f, 1, 0, &op));
    s.forget = true;
    fake_set(f.d, &s);
    uint32_t hellos = fake_seen(f.d).hellos;
    fake_drop(f.d);
    while (fake_seen(f.d).hellos == hellos)
        ; /* before a wait that is a fence */
    CHECK_FAILS(ckpt_wait(f.c, op, CKPT_LEVEL_LOCAL, 20000), CKPT_DAEMON_GONE, "");
    s.forget = false;
    fake_set(f.d, &s);
    CHECK(saved_audited(&f, 2, 0));
    fix_close(&f);
    cases += 2;
}

/* Memory that comes slot by slot: save waits for its copies for a while and no longer. */
static void slow_daemon(void)
{
    struct fixture f;
    struct fake_script s = fix_script();
    uint64_t op;
    s.grants = 1;
    open_audited(&f, "", &s, FIX_BIG);
    CHECK_OK(save_with(&f, 1, 0, &op));
    CHECK_FAILS(ckpt_fence(f.s, 0), CKPT_TIMEOUT, "still being copied");
    s.grants = UINT32_MAX;
    fake_set(f.d, &s);
    CHECK_OK(ckpt_fence(f.s, 20000));
    CHECK_OK(ckpt_wait(f.c, op, CKPT_LEVEL_LOCAL, 20000));
    CHECK(strstr(info_of(&f).audit, "step 1: nothing changed"));
    fix_close(&f);
    cases++;
}

int main(void)
{
    which_saves();
    names();
    too_large();
    fences();
    no_fence();
    lets_go();
    reconnects();
    if (getenv("CKPT_DEEP")) /* five seconds */
        slow_daemon();
    TEST_CASES(cases);
    return 0;
}
