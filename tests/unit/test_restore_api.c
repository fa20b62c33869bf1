/* Restoring through the public API: points and rollbacks, objects that shrink, grow or are
 * absent, what the daemon is told, refusals. */
#include "fakes/lib_fixture.h"
#include "formats/report.h"

static int cases;

static void saved(struct fixture *f, struct fake_script *s)
{
    uint64_t op;
    s->point = (struct wire_name){ 3, 1, 1 };
    s->text = "newest";
    fix_open_with(f, s, 1000);
    CHECK_OK(fix_save(f, 1, &op));
    CHECK_OK(ckpt_wait(f->c, op, CKPT_LEVEL_LOCAL, 20000));
}

static void points(void)
{
    struct fixture f;
    struct fake_script s = fix_script();
    struct ckpt_point p = { .size = sizeof(p) }, other = fix_point(2);
    saved(&f, &s);
    CHECK_OK(ckpt_resume(f.c, &p));
    CHECK_EQ(p.step, 1);
    CHECK_OK(ckpt_restore(f.s, NULL, f.buf, FIX_TENSORS, NULL, NULL));
    CHECK_EQ(fake_seen(f.d).load_flags, WIRE_LOAD_ROLLBACK); /* what was saved is left behind */
    CHECK_OK(ckpt_restore(f.s, NULL, f.buf, FIX_TENSORS, NULL, NULL));
    CHECK_EQ(fake_seen(f.d).load_flags, WIRE_LOAD_RESUME);
    fake_await(f.d, WIRE_RESTORED, 2);
    CHECK_EQ(fake_seen(f.d).last_status, CKPT_OK);
    CHECK_OK(ckpt_progress(f.c, 1)); /* not beyond the point */
    CHECK_OK(ckpt_progress(f.c, 2));
    CHECK_OK(ckpt_progress(f.c, 3)); /* said already */
    fake_await(f.d, WIRE_PROGRESS, 1);
    CHECK_OK(ckpt_restore(f.s, &other, f.buf, FIX_TENSORS, NULL, NULL));
    CHECK_EQ(fake_seen(f.d).load_flags, WIRE_LOAD_ROLLBACK);
    CHECK_EQ(fake_seen(f.d).load_point.step, 2);
    CHECK_OK(ckpt_progress(f.c, 3)); /* beyond the new point: said again */
    fake_await(f.d, WIRE_PROGRESS, 2);
    CHECK_OK(ckpt_restore(f.s, &other, f.buf, FIX_TENSORS, NULL, NULL));
    CHECK_EQ(fake_seen(f.d).load_flags, 0);
    CHECK_OK(ckpt_restore(f.s, NULL, f.buf, FIX_TENSORS, NULL, NULL));
    CHECK_EQ(fake_seen(f.d).load_flags, WIRE_LOAD_ROLLBACK); /* back to the first */
    CHECK_EQ(fake_seen(f.d).load_point.step, 1);
    CHECK(fake_seen(f.d).progress >= 2); /* and one a second as news */
    struct ckpt_info info = { .size = sizeof(info) };
    CHECK_OK(ckpt_info(f.c, &info));
    CHECK_EQ(info.restored_bytes, 7);
    CHECK_EQ(info.restore_done_bytes, 7);
    CHECK_STR(info.why, "newest");
    cases += 6;
    fix_close(&f);
}

static double seconds(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* Steps are told of about once a second, however many there are. */
static void news(void)
{
    struct fixture f;
    struct fake_script s = fix_script();
    fix_open_with(&f, &s, 1000);
    double began = seconds();
    uint64_t step = 2;
    while (fake_seen(f.d).progress < 2) {
        CHECK_OK(ckpt_progress(f.c, step++));
        CHECK(seconds() - began < 60);
        nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
    }
    CHECK(step > 10);
    CHECK((double)fake_seen(f.d).progress <= seconds() - began + 1);
    cases++;
    fix_close(&f);
}

static void nothing_to_resume(void)
{
    struct fixture f;
    struct fake_script s = fix_script();
    struct ckpt_point p = { .size = sizeof(p) };
    fix_open_with(&f, &s, 1000);
    CHECK_FAILS(ckpt_resume(f.c, &p), CKPT_NOT_FOUND, "no checkpoint yet");
    CHECK_FAILS(ckpt_restore(f.s, NULL, f.buf, FIX_TENSORS, NULL, NULL), CKPT_NOT_FOUND,
                "no checkpoint yet");
    CHECK_EQ(fake_seen(f.d).loads, 0);
    cases += 2;
    fix_close(&f);
}

static void objects(void)
{
    struct fixture f;
    struct fake_script s = fix_script();
    struct ckpt_restore_opts partial = { .size = sizeof(partial), .flags = CKPT_RESTORE_PARTIAL };
    struct ckpt_point p = fix_point(1);
    uint64_t op;
    saved(&f, &s);
    /* Shrinks: nothing of the longer one stays; grows again. */
    for (uint64_t len = 0; len <= 100; len += 50, cases++) {
        f.buf[4].bytes = len;
        fix_fill(&f, (unsigned)len);
        CHECK_OK(fix_save(&f, len, &op));
        CHECK_OK(ckpt_wait(f.c, op, CKPT_LEVEL_LOCAL, 20000));
        f.mem[4] = realloc(f.mem[4], 200);
        f.buf[4] = (struct ckpt_buffer){ f.mem[4], 200 };
        memset(f.mem[4], 0xab, 200);
        CHECK_OK(ckpt_restore(f.s, &p, f.buf, FIX_TENSORS, NULL, NULL));
        CHECK_EQ(f.buf[4].bytes, len);
        CHECK_EQ(f.mem[4][len], 0xab);
        CHECK(len == 0 || f.mem[4][len - 1] != 0xab);
    }
    f.buf[4].bytes = 10;
    CHECK_FAILS(ckpt_restore(f.s, &p, f.buf, FIX_TENSORS, NULL, NULL), CKPT_INVALID,
                "\"rng@0\": its buffer has 10 bytes, 100 needed");
    /* Not in the checkpoint: left as it is. */
    struct report_note missing[] = { { 4, true, 0, NULL }, { 5, true, 0, NULL } };
    const struct report both = { missing, 2, NULL, 0, 0 };
    CLEANUP_BUF struct buf b = { 0 };
    report_encode(&both, &b);
    s.body = b.data;
    s.body_len = b.len;
    s.omit_objects = true;
    fake_set(f.d, &s);
    memset(f.mem[4], 0x5a, 10);
    CHECK_OK(ckpt_restore(f.s, &p, f.buf, FIX_TENSORS, NULL, &partial));
    CHECK(fake_seen(f.d).load_flags & WIRE_LOAD_PARTIAL);
    CHECK_EQ(f.buf[4].bytes, 10);
    CHECK_EQ(f.mem[4][9], 0x5a);
    cases += 2;
    fix_close(&f);
}

static void refusals(void)
{
    static const enum ckpt_status all[] = { CKPT_NOT_FOUND, CKPT_MISMATCH, CKPT_CORRUPT, CKPT_IO };
    struct fixture f;
    struct fake_script s = fix_script();
    struct ckpt_point p = fix_point(1), small = { .size = 8 };
    struct ckpt_restore_opts o = { .size = sizeof(o), .timeout_ms = 30 };
    saved(&f, &s);
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++, cases++) {
        s.refuse_op = all[i];
        s.text = "tensor w of rank 3";
        fake_set(f.d, &s);
        CHECK_FAILS(ckpt_restore(f.s, &p, f.buf, FIX_TENSORS, NULL, NULL), all[i], "w of rank 3");
        fake_await(f.d, WIRE_RESTORED, (uint32_t)i + 1);
        CHECK_EQ(fake_seen(f.d).last_status, all[i]);
    }
    s.refuse_op = CKPT_OK;
    s.silent = true;
    fake_set(f.d, &s);
    CHECK_FAILS(ckpt_restore(f.s, &p, f.buf, FIX_TENSORS, NULL, &o), CKPT_TIMEOUT, "time limit");
    fake_await(f.d, WIRE_CANCEL, 1);
    uint32_t told = fake_seen(f.d).restored;
    o.timeout_ms = -1;
    CHECK_FAILS(ckpt_restore(f.s, &p, f.buf, FIX_TENSORS, NULL, &o), CKPT_INVALID, "negative");
    o.timeout_ms = 0, o.flags = 8;
    CHECK_FAILS(ckpt_restore(f.s, &p, f.buf, FIX_TENSORS, NULL, &o), CKPT_INVALID, "flags");
    o.size = 0;
    CHECK_FAILS(ckpt_restore(f.s, &p, f.buf, FIX_TENSORS, NULL, &o), CKPT_INVALID, ".size");
    CHECK_FAILS(ckpt_restore(f.s, &small, f.buf, FIX_TENSORS, NULL, NULL), CKPT_INVALID, ".size");
    CHECK_FAILS(ckpt_restore(NULL, &p, f.buf, FIX_TENSORS, NULL, NULL), CKPT_INVALID, "NULL");
    CHECK_FAILS(ckpt_restore(f.s, &p, f.buf, 2, NULL, NULL), CKPT_INVALID, "2 buffers for 6");
    CHECK_FAILS(ckpt_restore(f.s, &p, f.buf, FIX_TENSORS, &o, NULL), CKPT_UNSUPPORTED, "stream");
    /* A wrong call says nothing about the checkpoint. */
    s.silent = false;
    fake_set(f.d, &s);
    CHECK_OK(ckpt_restore(f.s, &p, f.buf, FIX_TENSORS, NULL, NULL));
    fake_await(f.d, WIRE_RESTORED, told + 1);
    CHECK_EQ(fake_seen(f.d).restored <= told + 2, 1);
    cases += 8;
    fix_close(&f);
}

/* What a longer object left behind is not saved with a shorter one. */
static void no_stale_bytes(void)
{
    struct fixture f = { 0 };
    struct ckpt_save_opts so = { .size = sizeof(so), .step = 1 };
    uint8_t bytes[100];
    struct ckpt_buffer b = { bytes, sizeof(bytes) };
    uint64_t op;
    f.d = fake_start(NULL);
    struct ckpt_open_opts o = fix_opts(f.d);
    memset(bytes, 0x77, sizeof(bytes));
    CHECK_OK(ckpt_open(&o, &f.c));
    CHECK_OK(ckpt_state_new(f.c, &f.s));
    CHECK_OK(ckpt_object(f.s, "o", 100, CKPT_OBJECT_SOLE));
    CHECK_OK(ckpt_seal(f.s, 20000));
    for (b.bytes = 100; b.bytes > 0; b.bytes -= 20, cases++) {
        CHECK_OK(ckpt_save(f.s, &so, &b, 1, NULL, &op));
        CHECK_OK(ckpt_wait(f.c, op, CKPT_LEVEL_LOCAL, 20000));
        const uint8_t *image = fake_image(f.d, 1, 0);
        CHECK_EQ(image[0], b.bytes);
        for (uint64_t i = 0; i < 100; i++)
            CHECK_EQ(image[8 + i], i < b.bytes ? 0x77 : 0);
    }
    fix_close(&f);
}

static void backwards_is_refused(void)
{
    struct fixture f = { 0 };
    struct ckpt_open_opts o;
    uint64_t shape = 4, op;
    float x[4] = { 1, 2, 3, 4 };
    struct ckpt_tensor_desc t = {
        .size = sizeof(t), .name = "back", .dtype = CKPT_F32, .ndim = 1, .shape = &shape
    };
    struct ckpt_piece p = { .len = { 4 }, .stride = { -1 }, .offset_bytes = 12 };
    struct ckpt_buffer b = { x, sizeof(x) };
    struct ckpt_save_opts so = { .size = sizeof(so), .step = 1 };
    struct ckpt_point point = fix_point(1);
    f.d = fake_start(NULL);
    o = fix_opts(f.d);
    CHECK_OK(ckpt_open(&o, &f.c));
    CHECK_OK(ckpt_state_new(f.c, &f.s));
    CHECK_OK(ckpt_tensor(f.s, &t, &p, 1));
    CHECK_OK(ckpt_seal(f.s, 20000));
    CHECK_OK(ckpt_save(f.s, &so, &b, 1, NULL, &op));
    CHECK_OK(ckpt_wait(f.c, op, CKPT_LEVEL_LOCAL, 20000));
    CHECK(memcmp(fake_image(f.d, 1, 0), (float[]){ 4, 3, 2, 1 }, 16) == 0);
    CHECK_FAILS(ckpt_restore(f.s, &point, &b, 1, NULL, NULL), CKPT_UNSUPPORTED, "\"back\"");
    cases += 2;
    fix_close(&f);
}

int main(void)
{
    points();
    news();
    nothing_to_resume();
    objects();
    refusals();
    backwards_is_refused();
    no_stale_bytes();
    TEST_CASES(cases);
    return 0;
}
