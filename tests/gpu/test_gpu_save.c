/* Saves from devices and restores to them (flight.c, gpu_cuda.c, devices.c), end to end: the public API, a real ckptd, and a
 * CUDA runtime with real asynchrony (gpu/trainer.h); also what is converted on its way (room.c).
 * A mutation is queued right behind the fence, so whatever is copied too late is seen. */
#include <pthread.h>

#include "gpu/trainer.h"

extern int cudaSetDevice(int device), cudaGetDevice(int *ret), cudaRuntimeGetVersion(int *ret);

/* -- the cases -------------------------------------------------------------------- */

static void all_on_one(struct kit_rank *r)
{
    static const int where[PARTS_MAX] = { 0 };
    struct trainer t = { .r = r };
    uint64_t op;
    begin(r, 500);
    kit_declare(r, plain, ARRAY_COUNT(plain));
    t.stream = fake_stream_new(0);
    place(&t, where);
    if (r->point.size)
        restore(&t);
    uint64_t first = r->point.size ? r->point.step + 1 : 1;
    KIT_OK(ckpt_fence_stream(r->s, t.stream)); /* as before every step: nothing to wait for yet */
    for (uint64_t step = first; step < first + 2; step++) {
        compute(&t, step);
        KIT_OK(save(&t, step, &op));
        KIT_OK(ckpt_fence_stream(r->s, t.stream));
        launch_change(&t, true); /* must not be in the checkpoint */
        KIT_OK(ckpt_wait(r->c, op, CKPT_LEVEL_LOCAL, 60000));
    }
    unplace(&t);
    kit_close(r);
}

/* Random places, shapes and devices; host memory, volatile tensors and objects between them;
 * an arena of the least size, so that slots are used again. */
struct mix {
    uint64_t seed;
    struct kit_part parts[PARTS_MAX];
    char names[PARTS_MAX][8];
    int where[PARTS_MAX];
    bool small_arena;
};

static void make_mix(struct mix *m, unsigned long long *random)
{
    static const uint32_t types[] = { CKPT_F32, CKPT_BF16, CKPT_F64, CKPT_U8 };
    static const enum kit_how cuts[] = { KIT_ROWS, KIT_COLS, KIT_FLAT, KIT_SAME, KIT_FIRST };
    memset(m, 0, sizeof(*m));
    for (int i = 0; i < PARTS_MAX; i++) {
        struct kit_part *p = &m->parts[i];
        snprintf(m->names[i], sizeof(m->names[i]), "p%d", i);
        *p = (struct kit_part){ .name = m->names[i],
                                .dtype = types[test_rand(random) % ARRAY_COUNT(types)],
                                .ndim = 2,
                                .how = cuts[test_rand(random) % ARRAY_COUNT(cuts)],
                                .shape = { 1 + test_rand(random) % 900,
                                           1 + test_rand(random) % 900 } };
        if (i % 3 == 1) /* many are small */
            p->shape[0] = 1 + test_rand(random) % 4;
        if (i % 4 == 2 && p->how != KIT_SAME)
            p->flags = CKPT_VOLATILE;
        m->where[i] = (int)(test_rand(random) % 5) - 1;
        m->where[i] = m->where[i] > 2 ? 0 : m->where[i];
    }
    m->parts[5] = (struct kit_part){ .name = "cfg", .object = true, .shape = { 5000, 3000 } };
    m->where[0] = 0;
    m->small_arena = test_rand(random) % 2;
    for (int i = 0; m->small_arena && i < PARTS_MAX; i += 4) { /* more than the least arena */
        m->parts[i].dtype = CKPT_F32;
        m->parts[i].how = i == 4 ? KIT_SAME : KIT_ROWS;
        m->parts[i].shape[0] = 2500;
        m->parts[i].shape[1] = 1700;
    }
}

/* What may change before the fence, does. */
static void scribble_volatile(void *arg)
{
    struct trainer *t = arg;
    for (size_t i = 0; i < t->r->count; i++)
        if (t->on_device[i] && t->r->parts[i].flags & CKPT_VOLATILE)
            memset(fake_look(t->at[i].base), 0x55, t->at[i].bytes);
}

static void scribble_host(struct trainer *t, bool all)
{
    for (size_t i = 0; i < t->r->count; i++)
        if (!t->on_device[i] && (all || t->r->parts[i].flags & CKPT_VOLATILE))
            memset(t->at[i].base, 0x66, t->at[i].bytes);
}

static void mixed(struct kit_rank *r)
{
    const struct mix *m = r->arg;
    struct trainer t = { .r = r };
    uint64_t op;
    int now = -1;
    r->arena_bytes = m->small_arena;
    begin(r, 300);
    kit_declare(r, m->parts, PARTS_MAX);
    t.stream = fake_stream_new(0);
    place(&t, m->where);
    if (r->point.size)
        restore(&t);
    for (uint64_t k = 0; k < 2; k++) {
        compute(&t, r->point.step + 1 + k);
        KIT_OK(save(&t, r->point.step + 1 + k, &op));
        fake_launch(t.stream, scribble_volatile, &t);
        CHECK(cudaGetDevice(&now) == 0 && now == 0); /* whatever devices there are */
        scribble_host(&t, false);
        if (k == 0)
            KIT_OK(ckpt_fence_stream(r->s, t.stream));
        else
            KIT_OK(ckpt_fence(r->s, 60000));
        launch_change(&t, true);
        scribble_host(&t, true);
        KIT_OK(ckpt_wait(r->c, op, CKPT_LEVEL_LOCAL, 60000));
        fake_sync(t.stream);
    }
    KIT_OK(ckpt_progress(r->c, CKPT_FINISHED));
    unplace(&t);
    kit_close(r);
}

static void test_mixed(void)
{
    unsigned long long random = seed;
    int rounds = getenv("CKPT_DEEP") ? 40 : 3;
    for (int i = 0; i < rounds; i++) {
        struct mix m;
        char job[16];
        make_mix(&m, &random);
        snprintf(job, sizeof(job), "mix%d", i);
        kit_run(job, 1 + (uint32_t)i % 3, mixed, &m);
        kit_run(job, 1 + (uint32_t)i % 3, mixed, &m);
        CHECK_EQ(kit_verify(job, 4), 4);
        kit.cases += 2;
    }
}

/* -- one rank, one rule ------------------------------------------------------------ */

/* The next launch has exactly these bytes. */
static void look_again(struct kit_rank *r)
{
    struct trainer t;
    start_one(&t, r, 0);
    CHECK_EQ(r->point.step, *(const uint64_t *)r->arg);
    restore(&t);
    finish_one(&t);
}

static void expect_point(const char *job, uint64_t step)
{
    kit_run(job, 1, look_again, &step);
    kit.cases++;
}

static bool says(const struct kit_rank *r, const char *words)
{
    struct ckpt_info info = { .size = sizeof(info) };
    KIT_OK(ckpt_info(r->c, &info));
    return strstr(info.devices, words) != NULL;
}

/* Nothing is made on a device that the program does not use, no memory taken on its own, and that
 * one stays current. */
static void other_device(struct kit_rank *r)
{
    struct trainer t;
    int now = -1;
    CHECK_EQ(cudaSetDevice(2), 0);
    start_one(&t, r, 2);
    size_t state = fake_allocated(2);
    save_local(&t, 1);
    CHECK(state > 0 && fake_allocated(2) == state);
    CHECK_EQ(fake_contexts(), 1 << 2);
    CHECK(fake_pinned() > 0);
    CHECK(says(r, "4 CUDA devices by ") && !says(r, "not pinned"));
    CHECK_EQ(cudaGetDevice(&now), 0);
    CHECK_EQ(now, 2);
    finish_one(&t);
    CHECK_EQ(fake_pinned(), 0);
}

static void not_pinned(struct kit_rank *r)
{
    struct trainer t;
    start_one(&t, r, 0);
    fake_fail_from("HostRegister", 1, 2);
    save_local(&t, 1);
    CHECK(says(r, "not pinned, copies are slower: pinning memory for copies: cudaError2"));
    CHECK_EQ(fake_pinned(), 0);
    finish_one(&t);
}

static void await_words(const struct kit_rank *r, const char *words)
{
    for (int i = 0; !says(r, words); i++) {
        CHECK(i < 15000);
        kit_pause(2);
    }
}

/* Pinned when it is sealed, by the device that the program works with, beside what it does. */
static void pinned_early(struct kit_rank *r)
{
    static const int where[PARTS_MAX] = { 1, 1, 1, 1, 1 };
    struct trainer t = { .r = r };
    CHECK_EQ(cudaSetDevice(1), 0);
    begin(r, 100);
    kit_declare(r, plain, ARRAY_COUNT(plain));
    await_words(r, "GiB pinned in ");
    struct ckpt_info info = { .size = sizeof(info) };
    KIT_OK(ckpt_info(r->c, &info));
    CHECK(fake_pinned() >= info.arena_bytes);
    CHECK_EQ(fake_contexts(), 1 << 1);
    unsigned calls = fake_calls("HostRegister");
    place(&t, where);
    t.stream = fake_stream_new(1);
    save_local(&t, 1);
    CHECK_EQ(fake_calls("HostRegister"), calls + 1); /* the audit's room; the arena was */
    finish_one(&t);
    CHECK_EQ(fake_pinned(), 0);
}

/* The caller's default stream waits for the copies on every device, whichever is his. */
static void default_streams(struct kit_rank *r)
{
    static const int where[PARTS_MAX] = { 0, 1, 1, 0, 1 };
    static struct kit_part parts[ARRAY_COUNT(plain)];
    struct trainer t = { .r = r };
    uint64_t op;
    memcpy(parts, plain, sizeof(parts));
    parts[1].flags = parts[3].flags = CKPT_VOLATILE;
    setenv("CKPT_AUDIT", "0", 1); /* that one waits */
    begin(r, 500);
    kit_declare(r, parts, ARRAY_COUNT(parts));
    place(&t, where);
    for (uint64_t step = 1; step < 5; step++) {
        CHECK_EQ(cudaSetDevice(step % 2), 0);
        compute(&t, step);
        KIT_OK(save(&t, step, &op));
        fake_launch(NULL, scribble_volatile, &t);
        KIT_OK(ckpt_fence_stream(r->s, NULL));
        launch_change(&t, true);
        KIT_OK(ckpt_wait(r->c, op, CKPT_LEVEL_LOCAL, 60000));
        fake_sync(NULL);
    }
    finish_one(&t);
}

/* A thread that has set no device saves what lies on another one, with NULL. */
static void *save_from_aside(void *arg)
{
    struct trainer *t = arg;
    struct ckpt_save_opts o = { .size = sizeof(o), .step = 1 };
    uint64_t op;
    KIT_OK(ckpt_fence_stream(t->r->s, fake_stream_new(2))); /* asks whether it is captured */
    CHECK_EQ(fake_contexts(), 1 << 2);
    KIT_OK(ckpt_save(t->r->s, &o, t->at, t->r->count, NULL, &op));
    KIT_OK(ckpt_fence_stream(t->r->s, NULL));
    KIT_OK(ckpt_wait(t->r->c, op, CKPT_LEVEL_LOCAL, 60000));
    return NULL;
}

static void from_aside(struct kit_rank *r)
{
    static const int where[PARTS_MAX] = { 2, 2, 2, 2, 2 };
    struct trainer t = { .r = r };
    pthread_t thread;
    CHECK_EQ(cudaSetDevice(2), 0);
    begin(r, 500);
    kit_declare(r, plain, ARRAY_COUNT(plain));
    place(&t, where);
    compute(&t, 1); /* on the default stream of device 2 */
    CHECK_EQ(pthread_create(&thread, NULL, save_from_aside, &t), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_EQ(fake_contexts(), 1 << 2);
    finish_one(&t);
}

/* A program that has not begun to use a device gets none from us. */
static void not_begun(struct kit_rank *r)
{
    begin(r, 100);
    kit_declare(r, plain, ARRAY_COUNT(plain));
    kit_pause(20);
    CHECK_EQ(fake_contexts(), 0);
    CHECK_EQ(fake_pinned(), 0);
    kit_fill(r, 1);
    struct ckpt_save_opts o = { .size = sizeof(o), .step = 1 };
    uint64_t op;
    KIT_OK(ckpt_save(r->s, &o, r->buffers, r->count, NULL, &op));
    KIT_OK(ckpt_wait(r->c, op, CKPT_LEVEL_LOCAL, 60000));
    CHECK_EQ(fake_pinned(), 0);
    KIT_OK(ckpt_progress(r->c, CKPT_FINISHED));
    kit_close(r);
}

/* Somebody pinned it before: it is used as it is, and nothing is said of it. */
static void pinned_before(struct kit_rank *r)
{
    struct trainer t;
    start_one(&t, r, 0);
    fake_fail("HostRegister", 1, 712, false);
    save_local(&t, 1);
    CHECK(!says(r, "not pinned"));
    finish_one(&t);
}

/* The runtime has batches, the driver refuses them, for whatever reason; or neither has. */
static void no_batches(struct kit_rank *r)
{
    const int *refused = r->arg;
    struct trainer t;
    int version = 0;
    CHECK_EQ(cudaRuntimeGetVersion(&version), 0);
    start_one(&t, r, 0);
    CHECK(!says(r, "one by one"));
    fake_fail("MemcpyBatchAsync", 1, *refused, false);
    save_local(&t, 1);
    unsigned before = fake_calls("MemcpyBatchAsync");
    CHECK_EQ(before, version >= 12080);
    CHECK(says(r, version < 12080 ? "; copies one by one: cudaError801"
                  : *refused == 1 ? "; copies one by one: cudaError1;"
                                  : "; copies one by one: cudaError801"));
    save_local(&t, 2);
    CHECK_EQ(fake_calls("MemcpyBatchAsync"), before);
    finish_one(&t);
}

static void test_no_batches(void)
{
    static const int refused[] = { 801, 1 };
    for (size_t i = 0; i < 2; i++) {
        kit_run(i ? "nobatch" : "refuses", 1, no_batches, &refused[i]);
        expect_point(i ? "nobatch" : "refuses", 2);
        kit.cases++;
    }
}

/* The device has pinned memory elsewhere than the host. */
static void other_pointers(struct kit_rank *r)
{
    struct trainer t;
    fake_other_pointers();
    start_one(&t, r, 0);
    save_local(&t, 1);
    CHECK(says(r, "; copies one by one: cudaError801"));
    finish_one(&t);
}

static void streams_refused(struct kit_rank *r)
{
    struct trainer t;
    uint64_t op;
    start_one(&t, r, 0);
    compute(&t, 1);
    fake_sync(t.stream);
    fake_capture_begin(t.stream, false);
    KIT_FAILS(save(&t, 1, &op), CKPT_WRONG_STATE, "captured into a graph");
    CHECK(fake_capture_end(t.stream));
    for (size_t i = 0; i < r->count; i++) /* the same state in host memory */
        t.at[i].base = r->buffers[i].base;
    KIT_FAILS(save(&t, 1, &op), CKPT_UNSUPPORTED, "pass NULL");
    KIT_FAILS(ckpt_fence_stream(r->s, t.stream), CKPT_UNSUPPORTED, "pass NULL");
    t.stream = NULL;
    KIT_OK(save(&t, 1, &op));
    KIT_OK(ckpt_wait(r->c, op, CKPT_LEVEL_LOCAL, 60000));
    KIT_OK(ckpt_progress(r->c, CKPT_FINISHED));
    kit_close(r);
}

static void wait_for_host(void *arg)
{
    while (!atomic_load((atomic_int *)arg))
        kit_pause(1);
}

/* The host waits for nothing that the stream does: neither in save, also of volatile tensors,
 * nor in the fence. */
static void host_goes_on(struct kit_rank *r)
{
    static struct kit_part parts[ARRAY_COUNT(plain)];
    static const int where[PARTS_MAX] = { 0 };
    static atomic_int go;
    struct trainer t = { .r = r };
    uint64_t op;
    memcpy(parts, plain, sizeof(parts));
    parts[1].flags = CKPT_VOLATILE;
    setenv("CKPT_AUDIT", "0", 1); /* that one waits */
    begin(r, 100);
    kit_declare(r, parts, ARRAY_COUNT(parts));
    t.stream = fake_stream_new(0);
    place(&t, where);
    fake_launch(t.stream, wait_for_host, &go);
    compute(&t, 1);
    KIT_OK(save(&t, 1, &op));
    KIT_OK(ckpt_fence_stream(r->s, t.stream));
    KIT_FAILS(ckpt_fence(r->s, 0), CKPT_TIMEOUT, "still being copied");
    launch_change(&t, true);
    atomic_store(&go, 1);
    KIT_OK(ckpt_wait(r->c, op, CKPT_LEVEL_LOCAL, 60000));
    finish_one(&t);
    CHECK_EQ(fake_pinned(), 0);
}

/* -- the fence audit: what changes before the fence is found, however early or late ----- */

static size_t early_part; /* changes before its time */

static void change_part(void *arg)
{
    struct trainer *t = arg;
    memset(fake_look(t->at[early_part].base), 0x44, t->at[early_part].bytes);
}

static void change_part_late(void *arg)
{
    kit_pause(20);
    change_part(arg);
}

/* Right behind the save: the copies come first all the same. */
static void audited_early(struct kit_rank *r)
{
    struct trainer t;
    uint64_t op;
    start_one(&t, r, 0);
    for (early_part = 0; early_part < ARRAY_COUNT(plain); early_part++) {
        char words[80];
        snprintf(words, sizeof(words), "the save and its fence: \"%s\"; volatile from now on",
                 plain[early_part].name);
        compute(&t, early_part + 1);
        KIT_OK(save(&t, early_part + 1, &op));
        fake_launch(t.stream, change_part, &t);
        fake_sync(t.stream);
        KIT_OK(ckpt_fence(r->s, 60000));
        KIT_FAILS(ckpt_wait(r->c, op, CKPT_LEVEL_LOCAL, 60000), CKPT_ABORTED, words);
    }
    save_local(&t, 9);
    finish_one(&t);
}

/* Late on a stream whose fence the host does not see. */
static void audited(struct kit_rank *r)
{
    struct ckpt_info info = { .size = sizeof(info) };
    struct trainer t;
    uint64_t op;
    start_one(&t, r, 0);
    early_part = 1;
    for (uint64_t step = 1; step < 4; step++) { /* the second one is audited again */
        compute(&t, step);
        KIT_OK(save(&t, step, &op));
        fake_launch(t.stream, change_part_late, &t);
        KIT_OK(ckpt_fence_stream(r->s, t.stream));
        launch_change(&t, true);
        if (step == 1)
            KIT_FAILS(ckpt_wait(r->c, op, CKPT_LEVEL_LOCAL, 60000), CKPT_ABORTED,
                      "changed between the save and its fence: \"t\"; volatile from now on");
        else
            KIT_OK(ckpt_wait(r->c, op, CKPT_LEVEL_LOCAL, 60000));
    }
    KIT_OK(ckpt_info(r->c, &info));
    CHECK(strstr(info.audit, "step 2: nothing changed"));
    finish_one(&t);
    CHECK_EQ(fake_pinned(), 0);
}

/* No fence at all, and the host is ahead of the stream: the next save is one. */
static void audited_by_save(struct kit_rank *r)
{
    struct trainer t;
    uint64_t op, next;
    start_one(&t, r, 0);
    early_part = 1;
    compute(&t, 1);
    KIT_OK(save(&t, 1, &op));
    fake_launch(t.stream, change_part_late, &t);
    KIT_OK(save(&t, 2, &next));
    KIT_FAILS(ckpt_wait(r->c, op, CKPT_LEVEL_LOCAL, 60000), CKPT_ABORTED,
              "changed between the save and its fence: \"t\"; volatile from now on");
    KIT_OK(ckpt_fence(r->s, 60000));
    save_local(&t, 3);
    finish_one(&t);
}

/* The device fails when it is asked again: what was copied before is a checkpoint. */
static void audit_fails(struct kit_rank *r)
{
    struct ckpt_info info = { .size = sizeof(info) };
    struct trainer t;
    start_one(&t, r, 0);
    fake_fail_from("MemcpyBatchAsync", 2, 2);
    fake_fail_from("MemcpyAsync", 1, 2);
    save_local(&t, 1);
    KIT_OK(ckpt_info(r->c, &info));
    CHECK(strstr(info.audit, "not audited: copying: cudaError2"));
    finish_one(&t);
}

/* A fence in a graph, launched for several saves; and somebody else's global capture, which
 * ours does not spoil. */
static void captured(struct kit_rank *r)
{
    struct trainer t;
    uint64_t op;
    start_one(&t, r, 0);
    fake_stream graph = fake_stream_new(0), other = fake_stream_new(0);
    fake_capture_begin(graph, false); /* its fence would be none */
    KIT_FAILS(ckpt_fence_stream(r->s, graph), CKPT_WRONG_STATE, "before its fence is captured");
    CHECK(fake_capture_end(graph));
    save_local(&t, 1); /* what the graph's event is made by */
    fake_capture_begin(graph, false);
    KIT_OK(ckpt_fence_stream(r->s, graph));
    CHECK(fake_capture_end(graph));
    for (uint64_t step = 2; step < 5; step++) {
        compute(&t, step);
        KIT_OK(save(&t, step, &op));
        fake_capture_begin(other, true);
        fake_stream ready = fake_stream_new(0);
        KIT_OK(ckpt_fence_stream(r->s, ready)); /* all is queued */
        fake_replay(graph, t.stream);
        launch_change(&t, true);
        KIT_OK(ckpt_wait(r->c, op, CKPT_LEVEL_LOCAL, 60000));
        CHECK(fake_capture_end(other));
        fake_stream_free(ready);
        fake_sync(t.stream);
    }
    finish_one(&t);
}

/* A device fails in the middle: the save ends with words, the process and other states go on. */
struct failure {
    const char *function;
    unsigned nth;
    bool sticky;
    enum ckpt_status status;
    int error;
};

static void let_fail(const struct failure *f)
{
    fake_fail(f->function, f->nth, f->error, f->sticky);
    if (!f->sticky && strcmp(f->function, "MemcpyBatchAsync") == 0)
        fake_fail("MemcpyAsync", 1, f->error, false); /* nor does a copy by itself work */
}

static void fails(struct kit_rank *r)
{
    static const struct kit_part one[] = { TENSOR("h", CKPT_F32, 1, KIT_ROWS, 1000) };
    const struct failure *f = r->arg;
    struct trainer t;
    uint64_t op = 0;
    start_one(&t, r, 0);
    save_local(&t, 1);
    compute(&t, 2);
    let_fail(f);
    enum ckpt_status st = save(&t, 2, &op);
    if (st == CKPT_OK)
        st = ckpt_wait(r->c, op, CKPT_LEVEL_LOCAL, 60000);
    if (st != f->status)
        fprintf(stderr, "%s: %s\n", f->function, ckpt_error());
    CHECK_EQ(st, f->status);
    CHECK(strstr(ckpt_error(), "cudaError"));
    KIT_OK(ckpt_fence(r->s, 10000)); /* nothing is left in the air */
    if (f->sticky) {
        KIT_FAILS(save(&t, 3, &op), CKPT_DEVICE, "");
    } else {
        save_local(&t, 3);
    }
    if (f->sticky) { /* the context is good for host memory */
        struct kit_rank h = *r;
        h.memory = NULL;
        h.buffers = NULL;
        h.count = 0;
        h.s = NULL;
        kit_declare(&h, one, 1);
        kit_fill(&h, 4);
        struct ckpt_save_opts o = { .size = sizeof(o),
                                    .step = 4,
                                    .flags = CKPT_SAVE_ALLOW_VANISHED };
        KIT_OK(ckpt_save(h.s, &o, h.buffers, h.count, NULL, &op));
        KIT_OK(ckpt_wait(r->c, op, CKPT_LEVEL_LOCAL, 60000));
    }
    _exit(0);
}

static void test_failures(void)
{
    static const struct failure all[] = {
        { "EventRecord", 1, true, CKPT_DEVICE, 700 },
        { "EventRecord", 3, true, CKPT_DEVICE, 214 },
        { "EventQuery", 1, true, CKPT_DEVICE, 700 },
        { "EventQuery", 1, true, CKPT_DEVICE, 214 },
        { "MemcpyBatchAsync", 1, true, CKPT_DEVICE, 719 },
        { "StreamWaitEvent", 1, true, CKPT_DEVICE, 700 },
        { "EventCreateWithFlags", 1, false, CKPT_NO_MEMORY, 2 },
        { "EventCreateWithFlags", 2, false, CKPT_NO_MEMORY, 2 },
        { "MemcpyBatchAsync", 1, false, CKPT_NO_MEMORY, 2 },
    };
    for (size_t i = 0; i < ARRAY_COUNT(all); i++) {
        char job[16];
        snprintf(job, sizeof(job), "fail%zu", i);
        kit_run(job, 1, fails, &all[i]);
        CHECK_EQ(kit_verify(job, all[i].sticky ? 4 : 3), 2);
        kit.cases++;
    }
}

/* The same in a restore: what failed once can be asked for again, a lost device cannot. */
static void restore_fails(struct kit_rank *r)
{
    const struct failure *f = r->arg;
    struct trainer t;
    struct kit_rank h;
    start_one(&t, r, 0);
    h = *r;
    h.memory = NULL;
    h.buffers = NULL;
    h.count = 0;
    h.s = NULL;
    let_fail(f);
    KIT_FAILS(ckpt_restore(r->s, NULL, t.at, r->count, t.stream, NULL), f->status, "cudaError");
    if (f->sticky)
        KIT_FAILS(ckpt_restore(r->s, NULL, t.at, r->count, t.stream, NULL), CKPT_DEVICE, "");
    else
        restore(&t);
    kit_declare(&h, plain, ARRAY_COUNT(plain)); /* the context is good for host memory */
    kit_restore(&h);
    kit_forget(&h);
    finish_one(&t);
    _exit(0); /* what a lost device has is never freed */
}

static void test_restore_failures(void)
{
    static const struct failure all[] = {
        { "EventRecord", 1, true, CKPT_DEVICE, 700 },
        { "EventRecord", 3, true, CKPT_DEVICE, 214 },
        { "EventQuery", 1, true, CKPT_DEVICE, 700 },
        { "MemcpyBatchAsync", 1, true, CKPT_DEVICE, 719 },
        { "StreamWaitEvent", 1, true, CKPT_DEVICE, 700 },
        { "EventRecord", 1, false, CKPT_DEVICE, 400 },
        { "StreamWaitEvent", 1, false, CKPT_DEVICE, 400 },
        { "EventCreateWithFlags", 2, false, CKPT_NO_MEMORY, 2 },
        { "EventCreateWithFlags", 4, false, CKPT_NO_MEMORY, 2 },
        { "MemcpyBatchAsync", 1, false, CKPT_DEVICE, 1 },
        { "MemcpyBatchAsync", 1, false, CKPT_NO_MEMORY, 2 },
    };
    for (size_t i = 0; i < ARRAY_COUNT(all); i++) {
        kit_run("before", 1, restore_fails, &all[i]); /* it has a checkpoint */
        kit.cases++;
    }
}

/* Other cuts than it was saved with, so rows are scattered; and other types, through memory
 * that is used again. */
static void reshaped(struct kit_rank *r)
{
    static const enum kit_how cuts[] = { KIT_COLS, KIT_ROWS, KIT_COLS, KIT_ROWS, KIT_LAST };
    struct kit_part parts[ARRAY_COUNT(plain)];
    static const int where[PARTS_MAX] = { 0, 1, 0, 1, 0 };
    struct ckpt_restore_opts o = { .size = sizeof(o), .flags = CKPT_RESTORE_CONVERT };
    struct trainer t = { .r = r };
    memcpy(parts, plain, sizeof(parts));
    for (size_t i = 0; i < ARRAY_COUNT(parts); i++)
        parts[i].how = cuts[i];
    begin(r, 100);
    kit_declare(r, parts, ARRAY_COUNT(parts));
    t.stream = fake_stream_new(0);
    place(&t, where);
    restore(&t);
    unplace(&t);
    CHECK(fake_calls("Memcpy2DAsync") > 0);
    parts[0].dtype = CKPT_BF16;
    parts[2].dtype = CKPT_F16;
    kit_declare(r, parts, ARRAY_COUNT(parts));
    place(&t, where);
    KIT_OK(ckpt_restore(r->s, NULL, t.at, r->count, t.stream, &o));
    KIT_OK(ckpt_restore(r->s, NULL, r->buffers, r->count, NULL, &o));
    fake_sync(t.stream);
    for (size_t i = 0; i < r->count; i++)
        CHECK(!t.on_device[i] ||
              memcmp(fake_look(t.at[i].base), r->buffers[i].base, t.at[i].bytes) == 0);
    KIT_OK(ckpt_progress(r->c, CKPT_FINISHED));
    unplace(&t);
    kit_close(r);
}

/* -- restores between what a stream did before and what it does next ------------------ */

#define EVERYWHERE (-1)
#define LEGACY     ((fake_stream)1)
#define PER_THREAD ((fake_stream)2)

static const int spread_over[PARTS_MAX] = { 0, 1, 2, 1, 0 };

/* What of the state one stream works on. */
struct share {
    struct trainer *t;
    int device; /* or EVERYWHERE */
    atomic_int *go;
};

static bool is_in(const struct share *w, size_t part)
{
    return w->t->on_device[part] && (w->device == EVERYWHERE || spread_over[part] == w->device);
}

/* Work from before the restore, which takes its time. */
static void scribble_share(void *arg)
{
    const struct share *w = arg;
    while (!atomic_load(w->go))
        kit_pause(1);
    for (size_t i = 0; i < w->t->r->count; i++)
        if (is_in(w, i))
            memset(fake_look(w->t->at[i].base), 0x33, w->t->at[i].bytes);
}

/* The next step's first kernel, which reads. */
static void read_share(void *arg)
{
    const struct share *w = arg;
    for (size_t i = 0; i < w->t->r->count; i++)
        if (is_in(w, i))
            memcpy(w->t->r->buffers[i].base, fake_look(w->t->at[i].base), w->t->at[i].bytes);
}

static unsigned copy_calls(void)
{
    return fake_calls("MemcpyBatchAsync") + fake_calls("MemcpyAsync");
}

struct late {
    atomic_int go;
    unsigned calls;
};

/* Long after the restore has queued its first copies. */
static void *let_go(void *arg)
{
    struct late *l = arg;
    while (copy_calls() == l->calls)
        kit_pause(1);
    kit_pause(50);
    atomic_store(&l->go, 1);
    return NULL;
}

static void *restore_there(void *arg)
{
    struct trainer *t = arg;
    KIT_OK(ckpt_restore(t->r->s, NULL, t->at, t->r->count, t->stream, NULL));
    return NULL;
}

/* On the stream, or on the default streams of all devices. */
static void on_shares(struct share *shares, size_t count, int device, void (*kernel)(void *))
{
    for (size_t i = 0; i < count; i++) {
        CHECK_EQ(cudaSetDevice(shares[i].device == EVERYWHERE ? device : shares[i].device), 0);
        fake_launch(shares[i].t->stream, kernel, &shares[i]);
    }
    CHECK_EQ(cudaSetDevice(device), 0);
}

/* Nothing that was on the stream comes behind the restore, and nothing that is put there at once
 * before it.  aside: by a thread that has set no device. */
static void restore_between(struct trainer *t, fake_stream stream, int device, bool aside)
{
    struct late late = { .calls = copy_calls() };
    struct share shares[3] = { { t, stream ? EVERYWHERE : 0, &late.go },
                               { t, 1, &late.go },
                               { t, 2, &late.go } };
    size_t count = stream ? 1 : 3;
    pthread_t helper, restorer;
    t->stream = stream;
    kit_scribble(t->r);
    on_shares(shares, count, device, scribble_share);
    CHECK_EQ(pthread_create(&helper, NULL, let_go, &late), 0);
    if (aside) {
        CHECK_EQ(pthread_create(&restorer, NULL, restore_there, t), 0);
        CHECK_EQ(pthread_join(restorer, NULL), 0);
    } else {
        restore_there(t);
    }
    on_shares(shares, count, device, read_share);
    for (size_t i = 0; i < count; i++) {
        CHECK_EQ(cudaSetDevice(stream ? device : (int)i), 0);
        fake_sync(stream);
    }
    CHECK_EQ(pthread_join(helper, NULL), 0);
    kit_check(t->r, t->r->point.step);
}

static void into_streams(struct kit_rank *r)
{
    struct trainer t = { .r = r };
    CHECK_EQ(cudaSetDevice(0), 0);
    begin(r, 100);
    kit_declare(r, plain, ARRAY_COUNT(plain));
    place(&t, spread_over);
    CHECK(r->point.size);
    for (int device = 0; device < 4; device++) { /* nothing of it lies on the last */
        restore_between(&t, fake_stream_new(device), device, false);
        restore_between(&t, NULL, device, false);
        restore_between(&t, LEGACY, device, false);
    }
    restore_between(&t, PER_THREAD, 0, false); /* the fake makes one, on the first's device */
    restore_between(&t, NULL, 1, true);
    unplace(&t);
    kit_close(r);
}

/* -- other types ------------------------------------------------------------------------ */

static void *let_copies_go(void *arg)
{
    (void)arg;
    for (int i = 0; fake_in_air(NULL, 0) < 4; i++) {
        CHECK(i < 30000);
        kit_pause(1);
    }
    fake_hold("copies", false);
    return NULL;
}

static void begin_other_types(struct trainer *t)
{
    static const int where[PARTS_MAX] = { 0, 1 };
    struct kit_part parts[ARRAY_COUNT(large)];
    memcpy(parts, large, sizeof(parts));
    parts[0].dtype = CKPT_BF16;
    parts[1].dtype = CKPT_F64;
    begin(t->r, 100);
    kit_declare(t->r, parts, ARRAY_COUNT(parts));
    t->stream = fake_stream_new(0);
    place(t, where);
}

static void end_other_types(struct trainer *t, struct ckpt_restore_opts *o)
{
    struct kit_rank *r = t->r;
    KIT_OK(ckpt_restore(r->s, NULL, t->at, r->count, t->stream, o));
    KIT_OK(ckpt_restore(r->s, NULL, r->buffers, r->count, NULL, o));
    fake_sync(t->stream);
    for (size_t i = 0; i < r->count; i++)
        CHECK(memcmp(fake_look(t->at[i].base), r->buffers[i].base, t->at[i].bytes) == 0);
    CHECK(fake_calls("MemcpyAsync") + fake_calls("MemcpyBatchAsync") > 50);
    unplace(t);
    kit_close(r);
    CHECK_EQ(fake_pinned(), 0);
}

/* While the device copies what was converted, more is: none of the copies is waited for before the
 * next is queued.  There are more of them than memory to convert in, which is used again. */
static void converted_ahead(struct kit_rank *r)
{
    struct ckpt_restore_opts o = { .size = sizeof(o), .flags = CKPT_RESTORE_CONVERT };
    struct trainer t = { .r = r };
    pthread_t helper;
    begin_other_types(&t);
    fake_hold("copies", true);
    CHECK_EQ(pthread_create(&helper, NULL, let_copies_go, NULL), 0);
    end_other_types(&t, &o);
    CHECK_EQ(pthread_join(helper, NULL), 0);
}

/* The device copies nothing: the library waits for memory to convert in no longer than the caller,
 * and then serves other states. */
static void converted_stuck(struct kit_rank *r)
{
    static const struct kit_part one[] = { TENSOR("h", CKPT_F32, 1, KIT_ROWS, 1000) };
    struct ckpt_restore_opts o = { .size = sizeof(o),
                                   .flags = CKPT_RESTORE_CONVERT,
                                   .timeout_ms = 3000 };
    struct trainer t = { .r = r };
    struct kit_rank h = *r;
    begin_other_types(&t);
    fake_hold("copies", true);
    KIT_FAILS(ckpt_restore(r->s, NULL, t.at, r->count, t.stream, &o), CKPT_TIMEOUT, "not done");
    h.c = r->c;
    kit_declare(&h, one, 1);
    kit_forget(&h);
    fake_hold("copies", false);
    KIT_OK(ckpt_fence(r->s, 60000));
    o.timeout_ms = 0;
    end_other_types(&t, &o);
}

static void save_large(struct kit_rank *r)
{
    struct trainer t;
    r->arena_bytes = 1;
    start_one(&t, r, 0);
    save_local(&t, 1);
    unplace(&t);
}

/* A tensor with gaps between its rows, and one held the other way round, saved and restored:
 * the gaps stay as they are. */
static void strided(struct kit_rank *r)
{
    enum { ROWS = 64, COLS = 100, PITCH = 130 };
    uint64_t shape[2] = { ROWS, COLS }, op;
    struct ckpt_tensor_desc d = {
        .size = sizeof(d), .name = "gaps", .dtype = CKPT_F32, .ndim = 2, .shape = shape
    };
    struct ckpt_piece gaps = { .len = { ROWS, COLS }, .stride = { PITCH, 1 } };
    struct ckpt_piece turned = { .len = { ROWS, COLS }, .stride = { 1, ROWS } };
    struct ckpt_buffer b[2] = { { fake_malloc(0, ROWS * PITCH * 4), ROWS * PITCH * 4 },
                                { fake_malloc(0, ROWS * COLS * 4), ROWS * COLS * 4 } };
    uint32_t *x = fake_look(b[0].base), *y = fake_look(b[1].base);
    struct ckpt_save_opts o = { .size = sizeof(o), .step = 1 };
    begin(r, 100);
    KIT_OK(ckpt_state_new(r->c, &r->s));
    KIT_OK(ckpt_tensor(r->s, &d, &gaps, 1));
    d.name = "turned";
    KIT_OK(ckpt_tensor(r->s, &d, &turned, 1));
    KIT_OK(ckpt_seal(r->s, 40000));
    for (uint32_t i = 0; i < ROWS * PITCH; i++)
        x[i] = i;
    for (uint32_t i = 0; i < ROWS * COLS; i++)
        y[i] = 7 * i;
    if (r->point.size) {
        memset(x, 0x77, ROWS * PITCH * 4);
        memset(y, 0x77, ROWS * COLS * 4);
        KIT_OK(ckpt_restore(r->s, NULL, b, 2, NULL, NULL));
    } else {
        KIT_OK(ckpt_save(r->s, &o, b, 2, NULL, &op));
        KIT_OK(ckpt_wait(r->c, op, CKPT_LEVEL_LOCAL, 40000));
    }
    for (uint32_t i = 0; i < ROWS * PITCH; i++)
        CHECK_EQ(x[i], !r->point.size || i % PITCH < COLS ? i : 0x77777777);
    for (uint32_t i = 0; i < ROWS * COLS; i++)
        CHECK_EQ(y[i], 7 * i);
    CHECK(fake_calls("Memcpy2DAsync") > 0);
    KIT_OK(ckpt_progress(r->c, CKPT_FINISHED));
    ckpt_close(r->c);
    r->c = NULL;
}

static void alone(const char *job, kit_body body, uint64_t step)
{
    kit_run(job, 1, body, NULL);
    expect_point(job, step);
    kit.cases++;
}

int main(void)
{
    seed = test_seed(20261121);
    setenv("CKPT_CUDART", kit_file("CKPT_TEST_CUDART", FAKE_CUDART), 1);
    kit_begin("gpu");
    for (int i = 0; i < 3; i++)
        kit_run("one", 2, all_on_one, NULL);
    kit.cases += 3;
    CHECK_EQ(kit_verify("one", 6), 6);
    kit_run("one", 3, reshaped, NULL);
    kit_run("strided", 1, strided, NULL);
    kit_run("strided", 1, strided, NULL);
    kit.cases += 2;
    test_no_batches();
    alone("pointers", other_pointers, 1);
    if (FAKE_BRIEF) /* what differs between the runtimes is done */
        return kit_end();
    test_mixed();
    alone("device", other_device, 1);
    alone("unpinned", not_pinned, 1);
    alone("default", default_streams, 4);
    kit_run("default", 1, into_streams, NULL);
    kit_run("large", 1, save_large, NULL);
    kit_run("large", 1, converted_ahead, NULL);
    kit_run("large", 1, converted_stuck, NULL);
    kit.cases += 3;
    alone("aside", from_aside, 1);
    alone("early", pinned_early, 1);
    alone("before", pinned_before, 1);
    kit_run("unused", 1, not_begun, NULL);
    kit.cases++;
    alone("graph", captured, 4);
    alone("goes", host_goes_on, 1);
    alone("audited", audited, 3);
    alone("changed", audited_early, 9);
    alone("unfenced", audited_by_save, 3);
    alone("noaudit", audit_fails, 1);
    kit_run("refused", 1, streams_refused, NULL);
    test_failures();
    test_restore_failures();
    return kit_end();
}
