/* save_api.c and slots.c: saving through the public API on a scripted daemon; what is copied
 * and when, fences, levels, refusals, cancel, the table of operations. */
#include <pthread.h>
#include <time.h>

#include "fakes/lib_fixture.h"

static int cases;

static void round_trips(void)
{
    struct fixture f;
    uint64_t op;
    fix_open(&f);
    for (unsigned seed = 1; seed < 4; seed++, cases++) {
        fix_fill(&f, seed);
        CHECK_OK(fix_save(&f, seed, &op));
        memset(f.mem[3], 0, f.buf[3].bytes); /* volatile and objects: copied already */
        memset(f.mem[4], 0, f.buf[4].bytes);
        memset(f.mem[5], 0, f.buf[5].bytes);
        CHECK_OK(ckpt_fence(f.s, 20000));
        memset(f.mem[0], 0, f.buf[0].bytes);
        CHECK_OK(ckpt_wait(f.c, op, CKPT_LEVEL_LOCAL, 20000));
        fix_compare(&f, seed);
    }
    struct ckpt_info info = { .size = sizeof(info) };
    CHECK_OK(ckpt_info(f.c, &info));
    CHECK_EQ(info.saves_begun, 3);
    CHECK_EQ(info.saves_committed, 3);
    CHECK_EQ(info.saves_failed, 0);
    CHECK_EQ(info.last_step_committed, 3);
    CHECK_EQ(info.ram_left_bytes, 99);
    CHECK(info.copy_ns > 0 && info.state_bytes > FIX_BIG * 4);
    fix_close(&f);
}

/* Each save digests the next tile of what another replica writes, also on a rank that writes
 * nothing, from memory as it is and before that is free. */
static void witnesses(void)
{
    static float mem[3][1 << 20]; /* one tile each; replica 1 of 2 writes some of them */
    struct fake_script s = fix_script();
    struct fake_seen before, now;
    for (uint32_t replica = 0; replica < 2; replica++) {
        struct fake_daemon *d = fake_start(NULL);
        struct ckpt_open_opts o = fix_opts(d);
        struct ckpt_buffer buf[3];
        struct ckpt *c;
        struct ckpt_state *st;
        struct decl mirror = { 0 };
        uint64_t shape = 1 << 20, op;
        fake_set(d, &s);
        CHECK_OK(ckpt_open(&o, &c));
        CHECK_OK(ckpt_state_new(c, &st));
        for (int i = 0; i < 3; i++) {
            char name[2] = { (char)('a' + i), 0 };
            struct ckpt_tensor_desc t = {
                .size = sizeof(t), .name = name, .dtype = CKPT_F32, .ndim = 1, .shape = &shape
            };
            struct ckpt_piece p = {
                .len = { shape }, .stride = { 1 }, .replica = replica, .replica_count = 2
            };
            struct decl_tensor dt = {
                .name = name, .dtype = CKPT_F32, .ndim = 1, .shape = { shape }
            };
            struct decl_piece dp = { .box = { .ndim = 1, .len = { shape } },
                                     .stride = { 1 },
                                     .replica = replica,
                                     .replica_count = 2 };
            CHECK_OK(ckpt_tensor(st, &t, &p, 1));
            CHECK_OK(decl_add_tensor(&mirror, &dt, NULL));
            CHECK_OK(decl_add_piece(&mirror, &dp, NULL));
            buf[i] = (struct ckpt_buffer){ mem[i], sizeof(mem[i]) };
        }
        CHECK_OK(decl_finish(&mirror, CKPT_SLOT_BYTES_MIN, NULL));
        CHECK_OK(ckpt_seal(st, 20000));
        before = fake_seen(d);
        for (unsigned step = 1; step <= 7; step++, cases++) {
            struct ckpt_save_opts so = { .size = sizeof(so), .step = step };
            for (int i = 0; i < 3; i++)
                mem[i][12345] = (float)(step * 10 + (unsigned)i);
            CHECK_OK(ckpt_save(st, &so, buf, 3, NULL, &op));
            CHECK_OK(ckpt_fence(st, 20000));
            memset(mem, 0, sizeof(mem));
            CHECK_OK(ckpt_wait(c, op, CKPT_LEVEL_LOCAL, 20000));
            now = fake_seen(d);
            CHECK_EQ(now.witnesses, mirror.witness_count ? step : 0);
            if (!mirror.witness_count)
                continue;
            CHECK(step == 1 || now.witness == (before.witness + 1) % mirror.witness_count);
            struct decl_witness w = decl_witness_at(&mirror, now.witness);
            mem[w.tensor][12345] = (float)(step * 10 + w.tensor);
            struct digest want = digest_of(mem[w.tensor], sizeof(mem[0]));
            CHECK(digest_equal(&want, &now.witness_digest));
            before = now;
        }
        CHECK(!now.wrong);
        decl_fini(&mirror);
        ckpt_close(c);
        fake_stop(d);
    }
}

/* With a limit of next to nothing the first slot is copied, and the second one not in the time
 * of any test: the fence waits for it.  By the option, and by the environment. */
static void rate_limit(void)
{
    for (int i = 0; i < 2; i++, cases++) {
        struct fixture f = { .d = fake_start(NULL) };
        struct fake_script s = fix_script();
        struct ckpt_open_opts o = fix_opts(f.d);
        uint64_t op;
        s.slots = 3;
        fake_set(f.d, &s);
        o.copy_bytes_per_s = i == 0;
        if (i == 1)
            setenv("CKPT_COPY_RATE", "1K", 1);
        CHECK_OK(ckpt_open(&o, &f.c));
        unsetenv("CKPT_COPY_RATE");
        CHECK_OK(ckpt_state_new(f.c, &f.s));
        fix_declare(&f, FIX_BIG);
        CHECK_OK(ckpt_seal(f.s, 20000));
        fix_buffers(&f, FIX_BIG);
        CHECK_OK(fix_save(&f, 1, &op));
        fake_await(f.d, WIRE_FULL, 1);
        CHECK_FAILS(ckpt_fence(f.s, 100), CKPT_TIMEOUT, "still being copied");
        CHECK_EQ(fake_seen(f.d).fulls, 1);
        CHECK_OK(ckpt_cancel(f.c, op));
        CHECK_OK(ckpt_fence(f.s, 20000));
        fix_close(&f);
    }
}

static void *release(void *arg)
{
    struct fixture *f = arg;
    struct fake_script s = fix_script();
    nanosleep(&(struct timespec){ .tv_nsec = 30000000 }, NULL);
    fake_set(f->d, &s);
    return NULL;
}

/* The fence holds the caller until the last slot is copied, and says so when it gives up. */
static void fence_waits(void)
{
    struct fixture f;
    struct fake_script s = fix_script();
    struct ckpt_save_opts o = { .size = sizeof(o), .step = 2, .timeout_ms = 20 };
    pthread_t t;
    uint64_t op;
    s.grants = 1;
    fix_open_with(&f, &s, FIX_BIG);
    fix_fill(&f, 5);
    CHECK_OK(fix_save(&f, 1, &op));
    fake_await(f.d, WIRE_FULL, 1);
    CHECK_FAILS(ckpt_fence(f.s, 0), CKPT_TIMEOUT, "still being copied");
    CHECK_FAILS(ckpt_fence(f.s, 0), CKPT_TIMEOUT, "gives slots");
    CHECK_FAILS(ckpt_wait(f.c, op, CKPT_LEVEL_LOCAL, 0), CKPT_TIMEOUT,
                "step 1 is being copied, not yet local");
    CHECK_FAILS(ckpt_save(f.s, &o, f.buf, FIX_TENSORS, NULL, NULL), CKPT_TIMEOUT, "still being");
    CHECK_EQ(fake_seen(f.d).saves, 1);
    CHECK(pthread_create(&t, NULL, release, &f) == 0);
    CHECK_OK(ckpt_fence_stream(f.s, NULL));
    fake_await(f.d, WIRE_FULL, 2); /* the last may be on its way */
    memset(f.mem[0], 0, f.buf[0].bytes);
    pthread_join(t, NULL);
    CHECK_OK(ckpt_wait(f.c, op, CKPT_LEVEL_STAGED, 20000));
    fix_compare(&f, 5);
    cases += 6;
    fix_close(&f);
}

/* A fence that is over before the copy is: the caller goes on, so nothing of what it changes may
 * come into that save, and nothing waits for it any more. */
static void fence_gives_up(void)
{
    struct fixture f;
    struct fake_script s = fix_script();
    uint64_t op, next;
    s.grants = 1;
    fix_open_with(&f, &s, FIX_BIG);
    fix_fill(&f, 5);
    CHECK_OK(fix_save(&f, 1, &op));
    fake_await(f.d, WIRE_FULL, 1);
    CHECK_FAILS(ckpt_fence(f.s, 20), CKPT_TIMEOUT, "still being copied");
    CHECK_OK(ckpt_fence(f.s, 0));
    fix_fill(&f, 6);
    CHECK_FAILS(ckpt_wait(f.c, op, CKPT_LEVEL_LOCAL, 20000), CKPT_TIMEOUT, "fence's time limit");
    fake_await(f.d, WIRE_FAIL, 1);
    s.grants = UINT32_MAX;
    fake_set(f.d, &s); /* slots of a save that is over */
    CHECK_OK(fix_save(&f, 2, &next));
    CHECK_OK(ckpt_fence(f.s, 20000));
    CHECK_OK(ckpt_wait(f.c, next, CKPT_LEVEL_STAGED, 20000));
    fix_compare(&f, 6);
    cases += 4;
    fix_close(&f);
}

/* A save that meets one still copying waits for it. */
static void second_waits(void)
{
    struct fixture f;
    struct fake_script s = fix_script();
    pthread_t t;
    uint64_t a, b;
    s.grants = 1;
    fix_open_with(&f, &s, FIX_BIG);
    CHECK_OK(fix_save(&f, 1, &a));
    CHECK(pthread_create(&t, NULL, release, &f) == 0);
    CHECK_OK(fix_save(&f, 2, &b));
    CHECK(b > a);
    CHECK_OK(ckpt_wait(f.c, a, CKPT_LEVEL_LOCAL, 20000));
    CHECK_OK(ckpt_wait(f.c, b, CKPT_LEVEL_LOCAL, 20000));
    pthread_join(t, NULL);
    cases++;
    fix_close(&f);
}

static void levels(void)
{
    struct fixture f;
    struct fake_script s = fix_script();
    uint64_t op;
    s.process = true;
    s.level_max = WIRE_LEVEL_PROCESS;
    s.not_final = true;
    fix_open_with(&f, &s, 1000);
    CHECK_OK(fix_save(&f, 1, &op));
    CHECK_OK(ckpt_wait(f.c, op, CKPT_LEVEL_PROCESS, 20000));
    CHECK_FAILS(ckpt_wait(f.c, op, CKPT_LEVEL_STAGED, 10), CKPT_TIMEOUT,
                "step 1 is staged (process), not yet staged");
    s = fix_script();
    s.level_max = WIRE_LEVEL_REMOTE;
    fake_set(f.d, &s);
    CHECK_OK(fix_save(&f, 2, &op));
    CHECK_OK(ckpt_wait(f.c, op, CKPT_LEVEL_REMOTE, 20000));
    s.level_max = WIRE_LEVEL_LOCAL;
    fake_set(f.d, &s);
    CHECK_OK(fix_save(&f, 3, &op));
    CHECK_OK(ckpt_wait(f.c, op, CKPT_LEVEL_LOCAL, 20000));
    CHECK_FAILS(ckpt_wait(f.c, op, CKPT_LEVEL_REMOTE, 20000), CKPT_NOT_PLANNED, "level remote");
    CHECK_OK(ckpt_wait(f.c, op, CKPT_LEVEL_NONE, 0));
    CHECK_FAILS(ckpt_wait(f.c, op, (enum ckpt_level)6, 0), CKPT_INVALID, "unknown level");
    CHECK_FAILS(ckpt_wait(f.c, op, CKPT_LEVEL_LOCAL, -1), CKPT_INVALID, "negative");
    CHECK_FAILS(ckpt_wait(f.c, 999, CKPT_LEVEL_LOCAL, 0), CKPT_NOT_FOUND, "999");
    CHECK_FAILS(ckpt_cancel(f.c, 999), CKPT_NOT_FOUND, "999");
    CHECK_OK(ckpt_cancel(f.c, op)); /* too late: nothing happens */
    CHECK_OK(ckpt_wait(f.c, op, CKPT_LEVEL_LOCAL, 0));
    cases += 10;
    fix_close(&f);
}

static void refusals(void)
{
    static const enum ckpt_status all[] = { CKPT_EXISTS, CKPT_SUPERSEDED, CKPT_VANISHED, CKPT_FULL,
                                            CKPT_IO,     CKPT_BUSY,       CKPT_BUG };
    struct fixture f;
    struct fake_script s = fix_script();
    uint64_t op = 77;
    fix_open_with(&f, &s, 1000);
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++, cases++) {
        s.refuse_op = all[i];
        s.text = "because \x01 of the test";
        fake_set(f.d, &s);
        CHECK_FAILS(fix_save(&f, i, &op), all[i], "because ? of the test");
        CHECK_EQ(op, 77); /* untouched */
        CHECK_OK(ckpt_fence(f.s, 0));
    }
    s.text = NULL;
    fake_set(f.d, &s);
    CHECK_FAILS(fix_save(&f, 99, &op), CKPT_BUG, status_sentence(CKPT_BUG));
    s.refuse_op = CKPT_OK;
    fake_set(f.d, &s);
    CHECK_OK(fix_save(&f, 100, &op)); /* training goes on */
    CHECK_OK(ckpt_wait(f.c, op, CKPT_LEVEL_LOCAL, 20000));
    fix_close(&f);
}

static void arguments(void)
{
    struct fixture f;
    struct fake_script script = fix_script();
    fix_open_with(&f, &script, 1000);
    struct ckpt_save_opts o = { .size = sizeof(o), .step = 1 };
    struct ckpt_buffer b[FIX_TENSORS];
    struct {
        struct ckpt_save_opts known;
        uint64_t more;
    } newer = { .known = { .size = sizeof(newer), .step = 9 } };
    memcpy(b, f.buf, sizeof(b));
    CHECK_FAILS(ckpt_save(NULL, &o, b, FIX_TENSORS, NULL, NULL), CKPT_INVALID, "NULL");
    CHECK_FAILS(ckpt_save(f.s, NULL, b, FIX_TENSORS, NULL, NULL), CKPT_INVALID, "ckpt_save_opts");
    CHECK_FAILS(ckpt_save(f.s, &o, b, FIX_TENSORS - 1, NULL, NULL), CKPT_INVALID,
                "5 buffers for 6 declared");
    CHECK_FAILS(ckpt_save(f.s, &o, NULL, FIX_TENSORS, NULL, NULL), CKPT_INVALID, "buffers");
    CHECK_FAILS(ckpt_save(f.s, &o, b, FIX_TENSORS, &o, NULL), CKPT_UNSUPPORTED, "stream");
    b[0].bytes--;
    CHECK_FAILS(ckpt_save(f.s, &o, b, FIX_TENSORS, NULL, NULL), CKPT_INVALID,
                "\"big\": its buffer has 3999 bytes, 4000 needed");
    b[0] = f.buf[0], b[1].bytes = 147;
    CHECK_FAILS(ckpt_save(f.s, &o, b, FIX_TENSORS, NULL, NULL), CKPT_INVALID, "148 needed");
    b[1] = f.buf[1], b[2].base = NULL;
    CHECK_FAILS(ckpt_save(f.s, &o, b, FIX_TENSORS, NULL, NULL), CKPT_INVALID, "at NULL");
    b[2] = f.buf[2], b[4].bytes = 101;
    CHECK_FAILS(ckpt_save(f.s, &o, b, FIX_TENSORS, NULL, NULL), CKPT_INVALID,
                "101 bytes, declared for at most 100");
    o.step = CKPT_FINISHED;
    CHECK_FAILS(ckpt_save(f.s, &o, f.buf, FIX_TENSORS, NULL, NULL), CKPT_INVALID, "no step");
    o.step = 1, o.timeout_ms = -1;
    CHECK_FAILS(ckpt_save(f.s, &o, f.buf, FIX_TENSORS, NULL, NULL), CKPT_INVALID, "negative");
    o.timeout_ms = 0, o.flags = 64;
    CHECK_FAILS(ckpt_save(f.s, &o, f.buf, FIX_TENSORS, NULL, NULL), CKPT_INVALID, "flags");
    o.flags = 0, o.metric_count = 65;
    CHECK_FAILS(ckpt_save(f.s, &o, f.buf, FIX_TENSORS, NULL, NULL), CKPT_LIMIT, "65 metrics");
    struct ckpt_metric metric = { "", 1.5 };
    o.metrics = &metric, o.metric_count = 1;
    CHECK_FAILS(ckpt_save(f.s, &o, f.buf, FIX_TENSORS, NULL, NULL), CKPT_BAD_NAME, "metric 0");
    newer.more = 1;
    CHECK_FAILS(ckpt_save(f.s, &newer.known, f.buf, FIX_TENSORS, NULL, NULL), CKPT_UNSUPPORTED,
                "does not know");
    CHECK_EQ(fake_seen(f.d).saves, 0);
    /* Every call for step 1 counted, whatever became of it; 9 is new. */
    newer.more = 0;
    CHECK_OK(ckpt_save(f.s, &newer.known, f.buf, FIX_TENSORS, NULL, NULL));
    CHECK_EQ(fake_seen(f.d).last_try, 1);
    metric.name = "loss";
    CHECK_OK(ckpt_save(f.s, &o, f.buf, FIX_TENSORS, NULL, NULL));
    CHECK_EQ(fake_seen(f.d).last_try, 11);
    CHECK_OK(ckpt_fence(f.s, 20000));
    CHECK_FAILS(ckpt_fence(f.s, -1), CKPT_INVALID, "negative");
    CHECK_FAILS(ckpt_fence(NULL, 1), CKPT_INVALID, "NULL");
    CHECK_FAILS(ckpt_fence_stream(f.s, &o), CKPT_UNSUPPORTED, "stream");
    cases += 21;
    fix_close(&f);
}

/* More operations than the table remembers, one of them kept copying by another state;
 * and a step that fell out of the table of tries never gets an old number. */
static void table_wraps(void)
{
    struct fixture f;
    struct fake_script s = fix_script();
    uint64_t first, op = 0, stuck;
    fix_open_with(&f, &s, 1000);
    struct ckpt_state *other;
    uint64_t shape = 4;
    struct ckpt_tensor_desc t = {
        .size = sizeof(t), .name = "x", .dtype = CKPT_F32, .ndim = 1, .shape = &shape
    };
    struct ckpt_piece p = { .len = { 4 }, .stride = { 1 } };
    float x[4] = { 1, 2, 3, 4 };
    struct ckpt_buffer b = { x, sizeof(x) };
    CHECK_OK(ckpt_state_new(f.c, &other));
    CHECK_OK(ckpt_tensor(other, &t, &p, 1));
    CHECK_OK(ckpt_seal(other, 20000));
    s.hold_state = 2;
    fake_set(f.d, &s);
    struct ckpt_save_opts o = { .size = sizeof(o), .step = 1000 };
    CHECK_OK(ckpt_save(other, &o, &b, 1, NULL, &stuck));
    CHECK_OK(fix_save(&f, 1, &first));
    for (int i = 0; i < 150; i++, cases++) {
        CHECK_OK(fix_save(&f, 2 + (uint64_t)i, &op));
        CHECK_OK(ckpt_fence(f.s, 20000));
    }
    CHECK_OK(ckpt_wait(f.c, op, CKPT_LEVEL_LOCAL, 20000));
    CHECK_FAILS(ckpt_wait(f.c, first, CKPT_LEVEL_LOCAL, 0), CKPT_NOT_FOUND, "the last 64");
    CHECK_OK(fix_save(&f, 1, &op));
    CHECK(fake_seen(f.d).last_try >= 1);
    CHECK_OK(ckpt_fence(f.s, 20000));
    CHECK_FAILS(ckpt_fence(other, 0), CKPT_TIMEOUT, "still being copied");
    s.hold_state = 0;
    fake_set(f.d, &s);
    CHECK_OK(ckpt_fence(other, 20000));
    CHECK_OK(ckpt_wait(f.c, stuck, CKPT_LEVEL_LOCAL, 20000));
    fix_close(&f);
}

static void cancels_and_frees(void)
{
    struct fixture f;
    struct fake_script s = fix_script();
    uint64_t op;
    s.grants = 1;
    s.text = "given up";
    fix_open_with(&f, &s, FIX_BIG);
    CHECK_OK(fix_save(&f, 1, &op));
    CHECK_OK(ckpt_cancel(f.c, op));
    CHECK_FAILS(ckpt_wait(f.c, op, CKPT_LEVEL_STAGED, 20000), CKPT_ABORTED, "given up");
    CHECK_OK(ckpt_fence(f.s, 20000));
    CHECK_OK(fix_save(&f, 2, &op));
    ckpt_state_free(f.s); /* while it is being copied: the others are told */
    fake_await(f.d, WIRE_FAIL, 1);
    CHECK(strstr(fake_seen(f.d).fail_text, "freed"));
    CHECK_FAILS(ckpt_wait(f.c, op, CKPT_LEVEL_STAGED, 0), CKPT_CANCELLED, "freed");
    ckpt_state_free(NULL);
    CHECK_OK(ckpt_state_new(f.c, &f.s));
    fix_declare(&f, FIX_BIG);
    CHECK_OK(ckpt_seal(f.s, 20000));
    CHECK_OK(fix_save(&f, 3, &op));
    ckpt_close(f.c); /* while copying */
    f.c = NULL;
    fake_await(f.d, WIRE_FAIL, 2);
    CHECK(strstr(fake_seen(f.d).fail_text, "closed"));
    cases += 3;
    fix_close(&f);
}

/* The daemon does not answer: the caller gets away, and the daemon hears of it. */
static void silence(void)
{
    struct fixture f;
    struct fake_script s = fix_script();
    struct ckpt_save_opts o = { .size = sizeof(o), .step = 1, .timeout_ms = 30 };
    s.silent = true;
    fix_open_with(&f, &s, 1000);
    CHECK_FAILS(ckpt_save(f.s, &o, f.buf, FIX_TENSORS, NULL, NULL), CKPT_TIMEOUT, "did not answer");
    fake_await(f.d, WIRE_FAIL, 1);
    CHECK_EQ(fake_seen(f.d).last_status, CKPT_TIMEOUT);
    CHECK_OK(ckpt_fence(f.s, 0));
    cases++;
    fix_close(&f);
}

int main(void)
{
    witnesses();
    round_trips();
    rate_limit();
    fence_waits();
    fence_gives_up();
    second_waits();
    levels();
    refusals();
    arguments();
    table_wraps();
    cancels_and_frees();
    silence();
    TEST_CASES(cases);
    return 0;
}
