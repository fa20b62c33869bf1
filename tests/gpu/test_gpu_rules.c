/* What the daemon may do while copies are in the air (flight.c, transfer_copies.c), on a scripted
 * one and the fake CUDA runtime: grants said again, a fresh start with a new arena, a close
 * in the middle; saves at a rate (pace.c); and devices that never end, with a library that
 * waits for them 0.3 s and not 5. */
#include <poll.h>

#include "gpu/device_fixture.h"

#define IMPATIENT_NS INT64_C(300000000)
#define LOOKS        20

/* See impatient.h. */
int64_t impatient_ns = PATIENT_NS, link_patience_ns = PATIENT_NS, respawn_least_ns = 1;

/* A daemon's worker that was replaced grants again what is in flight. */
static void granted_again(void)
{
    struct device_fixture g;
    struct fake_script s = fix_script();
    uint64_t op;
    s.slots = 4;
    s.repeat_grants = 3;
    open_gpu(&g, &s);
    save_behind_gate(&g, 1, &op);
    fake_drop(g.f.d);
    while (fake_seen(g.f.d).resumed == 0 || fake_seen(g.f.d).repeated_grants == 0)
        usleep(500);
    usleep(5000);
    CHECK_EQ(fake_seen(g.f.d).fulls, 0);
    atomic_store(&gate, 1);
    check_saved(&g, 1, op);
    CHECK_EQ(fake_seen(g.f.d).fulls, 3);
}

static void *open_gate(void *arg)
{
    usleep(*(const useconds_t *)arg);
    atomic_store(&gate, 1);
    return NULL;
}

/* ckptd starts afresh and gives another arena: the old one stays until what is in flight has
 * landed (the fake ends a process that unpins memory under a copy). */
static void another_arena_after(useconds_t late)
{
    struct device_fixture g;
    struct fake_script s = fix_script();
    pthread_t opener;
    uint64_t op;
    s.slots = 4;
    open_gpu(&g, &s);
    save_behind_gate(&g, 1, &op);
    s.forget = true;
    fake_set(g.f.d, &s);
    uint32_t states = fake_seen(g.f.d).states;
    fake_drop(g.f.d);
    while (fake_seen(g.f.d).states == states) /* and it is answered */
        usleep(500);
    s.forget = false;
    fake_set(g.f.d, &s);
    CHECK_FAILS(ckpt_wait(g.f.c, op, CKPT_LEVEL_LOCAL, 20000), CKPT_DAEMON_GONE, "ckptd died");
    CHECK_EQ(pthread_create(&opener, NULL, open_gate, &late), 0);
    CHECK_OK(ckpt_fence(g.f.s, 20000)); /* of the save that is lost: its copies still read */
    pthread_join(opener, NULL);
    save_behind_gate(&g, 2, &op);
    atomic_store(&gate, 1);
    check_saved(&g, 2, op);
}

static void another_arena(void)
{
    another_arena_after(60000);
}

/* What the caller's own work takes before the copies is not theirs. */
static void another_arena_late(void)
{
    impatient_ns = 2 * SECOND_NS;
    another_arena_after(4000000);
}

/* When the restore's copies are in the air, another ckptd comes, which knows nothing of it. */
static void *replace_ckptd(void *arg)
{
    struct device_fixture *g = arg;
    struct fake_script s = fix_script();
    struct ckpt_state *state = g->f.s;
    bool in_air = false;
    while (!in_air) {
        pthread_mutex_lock(&state->ctx->lock);
        in_air = state->shared.busy > 0 && !state->shared.queueing;
        pthread_mutex_unlock(&state->ctx->lock);
    }
    s.slots = 4;
    s.forget = true;
    s.refuse_op = CKPT_NOT_FOUND;
    fake_set(g->f.d, &s);
    uint32_t states = fake_seen(g->f.d).states;
    fake_drop(g->f.d);
    while (fake_seen(g->f.d).states == states)
        usleep(500);
    atomic_store(&gate, 1);
    return NULL;
}

/* The slots of a restore that is over are not given back to a ckptd that never lent them: it
 * would take that for a broken protocol, again after each reconnect. */
static void lands_in_another_session(void)
{
    struct device_fixture g;
    struct fake_script s = fix_script();
    struct ckpt_point p = fix_point(1);
    pthread_t helper;
    uint64_t op;
    s.slots = 4;
    open_gpu(&g, &s);
    save_behind_gate(&g, 1, &op);
    atomic_store(&gate, 1);
    CHECK_OK(ckpt_wait(g.f.c, op, CKPT_LEVEL_LOCAL, 20000));
    close_queue(&g);
    CHECK_EQ(pthread_create(&helper, NULL, replace_ckptd, &g), 0);
    CHECK_EQ(ckpt_restore(g.f.s, &p, g.at, FIX_TENSORS, g.stream, NULL), CKPT_NOT_FOUND);
    CHECK_EQ(pthread_join(helper, NULL), 0);
    CHECK(!fake_seen(g.f.d).wrong);
    CHECK_OK(ckpt_fence(g.f.s, 20000));
    fix_close(&g.f);
}

/* ckptd takes the connection and does not answer: what is in the air lands all the same. */
static void lands_without_ckptd(void)
{
    struct device_fixture g;
    struct fake_script s = fix_script();
    uint64_t op;
    s.slots = 4;
    open_gpu(&g, &s);
    save_behind_gate(&g, 1, &op);
    s.mute = true;
    fake_set(g.f.d, &s);
    fake_drop(g.f.d);
    fake_await(g.f.d, WIRE_HELLO, 2);
    atomic_store(&gate, 1);
    CHECK_OK(ckpt_fence(g.f.s, 20000));
    CHECK_FAILS(ckpt_wait(g.f.c, op, CKPT_LEVEL_STAGED, 0), CKPT_TIMEOUT, "ckptd is gone");
    s.mute = false;
    fake_set(g.f.d, &s);
    fake_drop(g.f.d);
    check_saved(&g, 1, op);
}

/* Sleeps of one thread. */
static _Atomic pthread_t watched;
static atomic_uint sleeps;

int __real_poll(struct pollfd *fds, nfds_t n, int ms);
int __wrap_poll(struct pollfd *fds, nfds_t n, int ms);

int __wrap_poll(struct pollfd *fds, nfds_t n, int ms)
{
    if (ms != 0 && pthread_equal(pthread_self(), atomic_load(&watched)))
        atomic_fetch_add(&sleeps, 1);
    return __real_poll(fds, n, ms);
}

static void *wait_at_fence(void *arg)
{
    const struct device_fixture *g = arg;
    CHECK_OK(ckpt_fence(g->f.s, 60000));
    return NULL;
}

/* While the device copies, it is asked once between two sleeps of the library's thread, and never by
 * the caller's that waits. */
static void nobody_spins(void)
{
    struct device_fixture g;
    struct fake_script s = fix_script();
    pthread_t waiter;
    uint64_t op;
    s.slots = 4;
    open_gpu(&g, &s);
    save_behind_gate(&g, 1, &op);
    atomic_store(&watched, g.f.s->ctx->thread);
    CHECK_EQ(pthread_create(&waiter, NULL, wait_at_fence, &g), 0);
    unsigned slept = atomic_load(&sleeps), before = fake_calls("EventQuery"), looks = 0;
    while (atomic_load(&sleeps) - slept < LOOKS && looks < 100 * LOOKS) {
        usleep(500);
        looks = fake_calls("EventQuery") - before;
    }
    slept = atomic_load(&sleeps) - slept;
    CHECK(looks > 0 && looks <= slept + s.slots); /* the last slots may just have been queued */
    atomic_store(&gate, 1);
    CHECK_EQ(pthread_join(waiter, NULL), 0);
    check_saved(&g, 1, op);
}

static void set_flag(void *arg)
{
    atomic_store((atomic_int *)arg, 1);
}

/* The caller's default stream waits for copies on another device. */
static void default_stream_waits(void)
{
    static atomic_int went_on;
    struct device_fixture g;
    struct fake_script s = fix_script();
    struct ckpt_save_opts o = { .size = sizeof(o), .step = 1 };
    uint64_t op;
    s.slots = 4;
    open_gpu_on(&g, &s, 1);
    fix_fill(&g.f, 1);
    for (int i = 0; i < 3; i++) { /* nothing that a fence waits for is in host memory */
        g.at[i].base = fake_malloc(1, g.at[i].bytes);
        memcpy(fake_look(g.at[i].base), g.f.mem[i], g.at[i].bytes);
    }
    close_queue(&g);
    CHECK_EQ(cudaSetDevice(0), 0);
    CHECK_OK(ckpt_save(g.f.s, &o, g.at, FIX_TENSORS, NULL, &op));
    CHECK_OK(ckpt_fence_stream(g.f.s, NULL));
    fake_launch(NULL, set_flag, &went_on);
    usleep(30000);
    CHECK(!atomic_load(&went_on));
    atomic_store(&gate, 1);
    fake_sync(NULL);
    CHECK(atomic_load(&went_on));
    check_saved(&g, 1, op);
}

static void *open_when_given_up(void *arg)
{
    const struct device_fixture *g = arg;
    struct ckpt_info info = { .size = sizeof(info) };
    do
        CHECK_OK(ckpt_info(g->f.c, &info));
    while (!strstr(info.audit, "not audited: the stream did not get to its fence in time"));
    atomic_store(&gate, 1);
    return NULL;
}

/* A stream that waits for what the host does next: an audited fence gives its audit up. */
static void stream_waits_for_host(void)
{
    struct device_fixture g;
    struct fake_script s = fix_script();
    struct ckpt_save_opts o = { .size = sizeof(o), .step = 1, .flags = CKPT_SAVE_AUDIT };
    pthread_t opener;
    uint64_t op;
    s.slots = 4;
    open_gpu(&g, &s);
    fix_fill(&g.f, 1);
    memcpy(fake_look(g.at[0].base), g.f.mem[0], g.at[0].bytes);
    fake_launch(g.stream, wait_for_gate, NULL);
    CHECK_OK(ckpt_save(g.f.s, &o, g.at, FIX_TENSORS, g.stream, &op));
    CHECK_EQ(pthread_create(&opener, NULL, open_when_given_up, &g), 0);
    CHECK_OK(ckpt_fence_stream(g.f.s, g.stream));
    pthread_join(opener, NULL);
    check_saved(&g, 1, op);
}

/* The default stream may not be used while another thread captures one that it would wait for:
 * neither is the capture spoilt nor the device taken for broken, and the save that has no fence
 * now is given up. */
static void default_stream_beside_capture(void)
{
    struct device_fixture g;
    struct fake_script s = fix_script();
    uint64_t op;
    s.slots = 4;
    open_gpu(&g, &s);
    for (int i = 1; i < 4; i++) /* all tensors: host memory would be waited for */
        g.at[i].base = fake_malloc(0, g.at[i].bytes);
    save_behind_gate(&g, 1, &op);
    fake_stream other = fake_stream_new(0);
    fake_capture_begin(other, true);
    CHECK_FAILS(ckpt_fence_stream(g.f.s, NULL), CKPT_WRONG_STATE, "while another one is captured");
    CHECK(fake_capture_end(other));
    atomic_store(&gate, 1);
    CHECK_FAILS(ckpt_wait(g.f.c, op, CKPT_LEVEL_LOCAL, 20000), CKPT_WRONG_STATE, "is captured");
    CHECK_OK(ckpt_fence(g.f.s, 20000)); /* nothing is left in the air */
    save_behind_gate(&g, 2, &op);
    CHECK_OK(ckpt_fence_stream(g.f.s, NULL));
    atomic_store(&gate, 1);
    CHECK_OK(ckpt_wait(g.f.c, op, CKPT_LEVEL_LOCAL, 20000));
}

/* What a fan-out could not take down with it, as copies were in the air, is no part of the next
 * restore. */
static void plan_of_another_restore(void)
{
    struct device_fixture g;
    struct fake_script s = fix_script();
    uint64_t op;
    s.slots = 4;
    open_gpu(&g, &s);
    save_behind_gate(&g, 1, &op);
    atomic_store(&gate, 1);
    CHECK_OK(ckpt_wait(g.f.c, op, CKPT_LEVEL_LOCAL, 20000));
    g.f.s->fan = calloc(1, sizeof(*g.f.s->fan));
    CHECK(g.f.s->fan);
    check_saved(&g, 1, op);
    CHECK(!g.f.s->fan);
}

struct reading {
    const void *from, *want;
    size_t bytes;
    bool same;
};

static void read_host(void *arg)
{
    struct reading *r = arg;
    r->same = memcmp(r->from, r->want, r->bytes) == 0;
}

/* What the stream still does with host memory sees what was there before the restore.  The first
 * slot has host memory alone, so nothing else holds it up. */
static void restore_behind_the_stream(void)
{
    struct device_fixture g;
    struct fake_script s = fix_script();
    struct ckpt_save_opts o = { .size = sizeof(o), .step = 1 };
    struct ckpt_point p = fix_point(1);
    uint8_t before[48];
    useconds_t later = 100000; /* the bytes are here long before that */
    pthread_t opener;
    uint64_t op;
    s.slots = 4;
    open_gpu(&g, &s);
    g.at[0].base = g.f.buf[0].base;
    for (int i = 1; i < 4; i++)
        g.at[i].base = fake_malloc(0, g.at[i].bytes);
    fix_fill(&g.f, 1);
    CHECK_OK(ckpt_save(g.f.s, &o, g.at, FIX_TENSORS, g.stream, &op));
    CHECK_OK(ckpt_wait(g.f.c, op, CKPT_LEVEL_LOCAL, 20000));
    fix_fill(&g.f, 2);
    memcpy(before, g.f.mem[0], sizeof(before));
    struct reading reading = { .from = g.f.mem[0], .want = before, .bytes = sizeof(before) };
    atomic_store(&gate, 0);
    fake_launch(g.stream, wait_for_gate, NULL);
    fake_launch(g.stream, read_host, &reading);
    CHECK_EQ(pthread_create(&opener, NULL, open_gate, &later), 0);
    CHECK_OK(ckpt_restore(g.f.s, &p, g.at, FIX_TENSORS, g.stream, NULL));
    pthread_join(opener, NULL);
    fake_sync(g.stream);
    CHECK(reading.same);
    CHECK(memcmp(g.f.mem[0], before, sizeof(before)) != 0);
}

static double rate_told(const struct device_fixture *g)
{
    pthread_mutex_lock(&g->f.c->lock);
    double rate = g->f.c->shared.unpinned;
    g->f.c->shared.unpinned = 0;
    pthread_mutex_unlock(&g->f.c->lock);
    return rate;
}

/* The rate without pins is of what the device copied, when that has ended well: neither of what is
 * in host memory nor before its time. */
static void rate_without_pins(void)
{
    struct device_fixture g;
    struct fake_script s = fix_script();
    struct ckpt_save_opts o = { .size = sizeof(o), .step = 1 };
    uint64_t op;
    double second = 0;
    s.slots = 4;
    fake_fail_from("HostRegister", 1, 2);
    open_gpu(&g, &s);
    memcpy(fake_look(g.at[0].base), g.f.mem[0], g.at[0].bytes);
    fake_fail("MemcpyBatchAsync", 1, 2, false);
    fake_fail("MemcpyAsync", 1, 2, false);
    enum ckpt_status st = ckpt_save(g.f.s, &o, g.at, FIX_TENSORS, g.stream, &op);
    if (st == CKPT_OK)
        st = ckpt_wait(g.f.c, op, CKPT_LEVEL_LOCAL, 20000);
    CHECK(st == CKPT_NO_MEMORY && strstr(ckpt_error(), "cudaError2"));
    CHECK(rate_told(&g) == 0);
    CHECK_OK(ckpt_fence(g.f.s, 20000));
    unsigned before = fake_calls("MemcpyBatchAsync");
    fake_hold("MemcpyBatchAsync", true);
    o.step = 2;
    CHECK_OK(ckpt_save(g.f.s, &o, g.at, FIX_TENSORS, g.stream, &op));
    while (fake_calls("MemcpyBatchAsync") == before)
        usleep(500);
    CHECK(rate_told(&g) == 0);
    fake_hold("MemcpyBatchAsync", false);
    CHECK_OK(ckpt_wait(g.f.c, op, CKPT_LEVEL_LOCAL, 20000));
    CHECK(rate_told(&g) > 0 && fake_pinned() == 0);
    for (uint32_t i = 0; i < g.f.s->decl.slot_count; i++) {
        slots_filled(g.f.s, &(struct wire_full){ .slot = i }, SECOND_NS);
        second += rate_told(&g);
    }
    CHECK_EQ((uint64_t)second, g.at[0].bytes);
    check_saved(&g, 1, op);
    fix_close(&g.f);
}

/* -- the rate ------------------------------------------------------------------------ */

#define SPANS_MAX 256

/* The library's clock, put forward. */
static _Atomic int64_t forward_ns;

int64_t __real_lib_now_ns(void);
int64_t __wrap_lib_now_ns(void);

int64_t __wrap_lib_now_ns(void)
{
    return __real_lib_now_ns() + atomic_load(&forward_ns);
}

static uint64_t bytes_in_air(void)
{
    struct fake_span span[SPANS_MAX];
    uint64_t bytes = 0;
    size_t n = fake_in_air(span, SPANS_MAX);
    CHECK(n <= SPANS_MAX);
    for (size_t i = 0; i < n; i++)
        bytes += span[i].bytes;
    return bytes;
}

/* The library's thread looks at what is in the air each time before it looks for more to queue. */
static void let_it_look(void)
{
    unsigned before = fake_calls("EventQuery");
    while (fake_calls("EventQuery") < before + LOOKS)
        usleep(500);
}

/* With a rate, copies are queued on the device a slot at a time, each when those before it have had
 * their time, and time that was not used is not saved up.  None ends here: what is in the air is all
 * that was queued.  A slot takes minutes of the library's clock, which no test runs. */
static void queued_at_a_rate(void)
{
    const uint64_t rate = 8192;
    const int64_t margin = 200 * SECOND_NS;
    struct device_fixture g;
    struct fake_script s = fix_script();
    struct ckpt_save_opts o = { .size = sizeof(o), .step = 1 };
    uint64_t op, allowed = 0;
    s.slots = 4;
    setenv("CKPT_COPY_RATE", "8K", 1);
    open_gpu(&g, &s);
    fix_fill(&g.f, 1);
    memcpy(fake_look(g.at[0].base), g.f.mem[0], g.at[0].bytes);
    fake_hold("copies", true);
    CHECK_OK(ckpt_save(g.f.s, &o, g.at, FIX_TENSORS, g.stream, &op));
    const struct decl *d = &g.f.s->decl;
    CHECK_EQ(d->slot_count, 3);
    for (uint32_t i = 0; i < d->slot_count; i++) {
        int64_t takes = (int64_t)(d->slots[i].used / rate) * SECOND_NS;
        uint64_t before = allowed;
        allowed += d->slots[i].used;
        CHECK(takes > 2 * margin);
        while (bytes_in_air() <= before)
            usleep(500);
        let_it_look();
        CHECK(bytes_in_air() <= allowed);
        atomic_fetch_add(&forward_ns, takes - margin);
        let_it_look();
        CHECK(bytes_in_air() <= allowed);
        atomic_fetch_add(&forward_ns, 10 * margin);
    }
    fake_hold("copies", false);
    check_saved(&g, 1, op);
}

/* -- a device that never ends ------------------------------------------------------ */

static void hangs_under_arena(void)
{
    struct device_fixture g;
    struct fake_script s = fix_script();
    uint64_t op;
    s.slots = 4;
    impatient_ns = IMPATIENT_NS;
    open_gpu(&g, &s);
    fake_hold("copies", true);
    save_behind_gate(&g, 1, &op);
    atomic_store(&gate, 1);
    size_t pinned = fake_pinned();
    s.forget = true;
    fake_set(g.f.d, &s);
    fake_drop(g.f.d);
    struct ckpt_save_opts o = { .size = sizeof(o), .step = 2 };
    CHECK_FAILS(ckpt_save(g.f.s, &o, g.at, FIX_TENSORS, g.stream, &op), CKPT_DEVICE,
                "the device hangs");
    CHECK_EQ(fake_pinned(), pinned);
    CHECK_FAILS(ckpt_wait(g.f.c, op, CKPT_LEVEL_LOCAL, 20000), CKPT_DAEMON_GONE, "");
    ckpt_close(g.f.c);
    CHECK_EQ(fake_pinned(), pinned);
    fake_hold("copies", false); /* a late copy finds its memory */
    usleep(20000);
}

/* The context is closed while a new arena waits for the caller's work, which does not end. */
static void closes_under_arena(void)
{
    struct device_fixture g;
    struct fake_script s = fix_script();
    uint64_t op;
    s.slots = 4;
    impatient_ns = IMPATIENT_NS;
    open_gpu(&g, &s);
    save_behind_gate(&g, 1, &op);
    size_t pinned = fake_pinned();
    s.forget = true;
    fake_set(g.f.d, &s);
    uint32_t states = fake_seen(g.f.d).states;
    fake_drop(g.f.d);
    while (fake_seen(g.f.d).states == states)
        usleep(500);
    ckpt_close(g.f.c);
    fake_await(g.f.d, WIRE_BYE, 1); /* the thread has ended, too */
    CHECK_EQ(fake_pinned(), pinned);
    atomic_store(&gate, 1);
    fake_sync(g.stream);
    usleep(20000);
}

static void hangs_under_state(void)
{
    struct device_fixture g;
    struct fake_script s = fix_script();
    uint64_t op;
    s.slots = 4;
    impatient_ns = IMPATIENT_NS;
    open_gpu(&g, &s);
    save_behind_gate(&g, 1, &op);
    size_t pinned = fake_pinned();
    CHECK_FAILS(ckpt_fence(g.f.s, 0), CKPT_TIMEOUT, "still being copied");
    ckpt_state_free(g.f.s);
    CHECK_FAILS(ckpt_wait(g.f.c, op, CKPT_LEVEL_LOCAL, 20000), CKPT_CANCELLED, "freed");
    CHECK_EQ(fake_pinned(), pinned);
    atomic_store(&gate, 1);
    while (fake_pinned()) /* all goes when the last copy has ended */
        usleep(500);
    ckpt_close(g.f.c);
}

/* A save that ckptd refuses has copied its volatile tensors aside all the same. */
static void freed_under_copies_aside(void)
{
    struct device_fixture g;
    struct fake_script s = fix_script();
    struct ckpt_save_opts o = { .size = sizeof(o), .step = 1 };
    s.slots = 4;
    s.refuse_op = CKPT_EXISTS;
    impatient_ns = IMPATIENT_NS;
    open_gpu(&g, &s);
    g.at[3].base = fake_malloc(0, g.at[3].bytes); /* "vol" */
    atomic_store(&gate, 0);
    fake_launch(g.stream, wait_for_gate, NULL);
    CHECK_FAILS(ckpt_save(g.f.s, &o, g.at, FIX_TENSORS, g.stream, NULL), CKPT_EXISTS, "");
    CHECK(fake_pinned());
    ckpt_state_free(g.f.s);
    CHECK(fake_pinned());
    atomic_store(&gate, 1);
    while (fake_pinned())
        usleep(500);
    ckpt_close(g.f.c);
}

static void hangs_at_close(void)
{
    struct device_fixture g;
    struct fake_script s = fix_script();
    uint64_t op;
    s.slots = 4;
    impatient_ns = IMPATIENT_NS;
    open_gpu(&g, &s);
    save_behind_gate(&g, 1, &op);
    size_t pinned = fake_pinned();
    ckpt_close(g.f.c);
    CHECK_EQ(fake_pinned(), pinned);
    fake_await(g.f.d, WIRE_FAIL, 1);
    atomic_store(&gate, 1);
    fake_sync(g.stream);
    usleep(20000);
}

static void *close_it(void *arg)
{
    ckpt_close(arg);
    return NULL;
}

static void wait_for_flag(void *arg)
{
    while (!atomic_load((atomic_int *)arg))
        usleep(500);
}

/* A state of one slot on another device, in the air until *go. */
static void save_another(struct device_fixture *g, atomic_int *go)
{
    const uint64_t shape = 1000;
    struct ckpt_tensor_desc t = {
        .size = sizeof(t), .name = "one", .dtype = CKPT_F32, .ndim = 1, .shape = &shape
    };
    struct ckpt_piece whole = { .len = { shape }, .stride = { 1 } };
    struct ckpt_save_opts o = { .size = sizeof(o), .step = 2 };
    struct ckpt_buffer at = { .base = fake_malloc(1, 4 * shape), .bytes = 4 * shape };
    struct ckpt_state *s;
    bool in_air = false;
    uint64_t op;
    CHECK_EQ(cudaSetDevice(1), 0);
    fake_stream stream = fake_stream_new(1);
    CHECK_OK(ckpt_state_new(g->f.c, &s));
    CHECK_OK(ckpt_tensor(s, &t, &whole, 1));
    CHECK_OK(ckpt_seal(s, 20000));
    fake_launch(stream, wait_for_flag, go);
    CHECK_OK(ckpt_save(s, &o, &at, 1, stream, &op));
    while (!in_air) {
        pthread_mutex_lock(&g->f.c->lock);
        in_air = s->shared.busy > 0 && !s->shared.queueing;
        pthread_mutex_unlock(&g->f.c->lock);
    }
}

/* The copies of two states are in the air when the context is closed: both are waited for, also
 * when those of one end long before. */
static void closes_over_two(void)
{
    static atomic_int go;
    struct device_fixture g;
    struct fake_script s = fix_script();
    pthread_t closer;
    bool stopping = false;
    uint64_t op;
    s.slots = 4;
    open_gpu(&g, &s);
    save_behind_gate(&g, 1, &op);
    save_another(&g, &go);
    CHECK(fake_pinned());
    CHECK_EQ(pthread_create(&closer, NULL, close_it, g.f.c), 0);
    while (!stopping) {
        pthread_mutex_lock(&g.f.c->lock);
        stopping = g.f.c->shared.stop;
        pthread_mutex_unlock(&g.f.c->lock);
    }
    unsigned looks = fake_calls("EventQuery");
    while (fake_calls("EventQuery") < looks + LOOKS) /* the library's thread waits for them alone */
        usleep(500);
    unsigned ended = fake_calls("EventDestroy");
    atomic_store(&go, 1);
    while (fake_calls("EventDestroy") < ended + 2) /* before its copies and behind them */
        usleep(500);
    atomic_store(&gate, 1);
    CHECK_EQ(pthread_join(closer, NULL), 0);
    CHECK_EQ(fake_pinned(), 0);
}

int main(void)
{
    static void (*const each[])(void) = {
        granted_again,
        another_arena,
        another_arena_late,
        stream_waits_for_host,
        default_stream_waits,
        lands_in_another_session,
        lands_without_ckptd,
        hangs_under_arena,
        closes_under_arena,
        hangs_under_state,
        hangs_at_close,
        default_stream_beside_capture,
        plan_of_another_restore,
        restore_behind_the_stream,
        freed_under_copies_aside,
        nobody_spins,
        rate_without_pins,
        closes_over_two,
        queued_at_a_rate,
    };
    run_apart(each, ARRAY_COUNT(each), FAKE_CUDART);
    TEST_CASES(ARRAY_COUNT(each));
    return 0;
}
