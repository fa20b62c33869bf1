/* What the daemon may do while copies are in the air (flight.c, transfer_copies.c), on a scripted
 * one and the fake CUDA runtime: grants said again, a fresh start with a new arena; and devices
 * that never end, with a library that waits for them 0.3 s and not 5.
 *
 * Each case in a process of its own: a device that hangs keeps what it may write to. */
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fakes/fake_cudart.h"
#include "fakes/lib_fixture.h"
#include "gpu/impatient.h"
#include "libckpt/context.h"
#include "libckpt/gpu_cuda.h"

#define SECOND_NS    INT64_C(1000000000)
#define PATIENT_NS   (60 * SECOND_NS)
#define IMPATIENT_NS INT64_C(300000000)

/* See impatient.h. */
int64_t impatient_ns = PATIENT_NS, link_patience_ns = PATIENT_NS, respawn_least_ns = 1;

extern int cudaSetDevice(int device);

static atomic_int gate; /* kernels of close_gate wait until it is 1 */

static void wait_for_gate(void *arg)
{
    (void)arg;
    while (!atomic_load(&gate))
        usleep(500);
}

struct device_fixture {
    struct fixture f;
    fake_stream stream;
    struct ckpt_buffer at[FIX_TENSORS]; /* "big" on a device */
};

static void open_gpu_on(struct device_fixture *g, const struct fake_script *s, int device)
{
    fix_open_with(&g->f, s, FIX_BIG);
    g->stream = fake_stream_new(device);
    memcpy(g->at, g->f.buf, sizeof(g->at));
    g->at[0].base = fake_malloc(device, g->at[0].bytes);
}

static void open_gpu(struct device_fixture *g, const struct fake_script *s)
{
    open_gpu_on(g, s, 0);
}

/* The library's own copies wait for the gate. */
static void close_queue(struct device_fixture *g)
{
    struct devices *devices = g->f.s->ctx->devices;
    unsigned on = 0;
    CHECK(devices_any(devices));
    CHECK_OK(devices_find(devices, g->at[0].base, &on, NULL));
    atomic_store(&gate, 0);
    fake_launch(gpu_cuda_stream(devices_gpu(devices, on)), wait_for_gate, NULL);
}

/* The device's tensor is as the host's; copies wait for the gate. */
static void save_behind_gate(struct device_fixture *g, uint64_t step, uint64_t *ret_op)
{
    struct ckpt_save_opts o = { .size = sizeof(o), .step = step };
    unsigned before = fake_calls("EventRecord");
    fix_fill(&g->f, (unsigned)step);
    memcpy(fake_look(g->at[0].base), g->f.mem[0], g->at[0].bytes);
    atomic_store(&gate, 0);
    fake_launch(g->stream, wait_for_gate, NULL);
    CHECK_OK(ckpt_save(g->f.s, &o, g->at, FIX_TENSORS, g->stream, ret_op));
    while (fake_calls("EventRecord") < before + 1 + 3 * 3) /* the stream's end, three a slot */
        usleep(500);
}

static void check_saved(struct device_fixture *g, uint64_t step, uint64_t op)
{
    CHECK_OK(ckpt_wait(g->f.c, op, CKPT_LEVEL_LOCAL, 20000));
    CHECK(!fake_seen(g->f.d).wrong);
    fix_compare(&g->f, (unsigned)step); /* into host memory */
}

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

/* -- pinning ------------------------------------------------------------------------ */

/* Any memory, by the device: in slices, all of it or nothing. */
static void pins_in_slices(void)
{
    const uint64_t bytes = 2 * GPU_PIN_SLICE + 4096;
    struct cuda cuda;
    struct gpu *gpu;
    void *room = aligned_alloc(4096, bytes);
    CHECK(room);
    CHECK_OK(cuda_open(&cuda, NULL));
    CHECK_OK(gpu_cuda_new(&cuda, 0, &gpu, NULL));
    CHECK_OK(gpu->ops->pin(gpu, room, bytes, NULL));
    CHECK_EQ(fake_calls("HostRegister"), 3);
    CHECK_EQ(fake_pinned_at_once(), GPU_PIN_SLICE);
    CHECK_EQ(fake_pinned(), bytes);
    gpu->ops->unpin(gpu, room, bytes);
    CHECK_EQ(fake_pinned(), 0);
    fake_fail("HostRegister", 3, CUDA_NO_MEMORY, false);
    CHECK_EQ(gpu->ops->pin(gpu, room, bytes, NULL), CKPT_NO_MEMORY);
    CHECK_EQ(fake_pinned(), 0);
    gpu->ops->free(gpu);
    free(room);
}

static void save_with_arena(struct device_fixture *g, unsigned refused, const char *words)
{
    struct fake_script s = fix_script();
    struct ckpt_info info = { .size = sizeof(info) };
    struct ckpt_save_opts o = { .size = sizeof(o), .step = 1 };
    uint64_t op;
    s.slots = 4;
    open_gpu(g, &s);
    if (refused)
        fake_fail("HostRegister", refused, CUDA_NO_MEMORY, false);
    memcpy(fake_look(g->at[0].base), g->f.mem[0], g->at[0].bytes);
    CHECK_OK(ckpt_save(g->f.s, &o, g->at, FIX_TENSORS, g->stream, &op));
    check_saved(g, 1, op);
    CHECK_OK(ckpt_info(g->f.c, &info));
    if (!strstr(info.devices, words))
        fprintf(stderr, "\"%s\" does not say \"%s\"\n", info.devices, words);
    CHECK(strstr(info.devices, words));
    CHECK_EQ(fake_pinned_at_once(), UINT64_C(8) << 20); /* a whole slot, and not two */
}

/* An arena of 32 MiB by the transfer thread, which looks for messages between the slices. */
static void pins_arena(void)
{
    struct device_fixture g;
    save_with_arena(&g, 0, "; 0.031 GiB pinned in ");
    CHECK_EQ(fake_calls("HostRegister"), 4);
    CHECK_EQ(fake_pinned(), UINT64_C(32) << 20);
    fix_close(&g.f);
    CHECK_EQ(fake_pinned(), 0);
}

static void *let_pin(void *arg)
{
    const struct ckpt_state *s = arg;
    bool freed = false;
    while (!freed) {
        pthread_mutex_lock(&s->ctx->lock);
        freed = s->shared.pin_on == 0;
        pthread_mutex_unlock(&s->ctx->lock);
    }
    fake_hold("HostRegister", false);
    return NULL;
}

/* Pinning beside the caller's work is no copy, so no fence waits for it; freeing the state does,
 * for the slice that is under way. */
static void pinning_is_no_copy(void)
{
    struct device_fixture g;
    struct fake_script s = fix_script();
    pthread_t helper;
    s.slots = 4;
    CHECK_EQ(cudaSetDevice(0), 0);
    fake_hold("HostRegister", true);
    open_gpu(&g, &s);
    while (fake_calls("HostRegister") == 0)
        usleep(500);
    CHECK_OK(ckpt_fence(g.f.s, 0));
    CHECK_EQ(pthread_create(&helper, NULL, let_pin, g.f.s), 0);
    ckpt_state_free(g.f.s);
    CHECK_EQ(pthread_join(helper, NULL), 0);
    CHECK_EQ(fake_calls("HostRegister"), 1);
    CHECK_EQ(fake_pinned(), 0);
    fix_close(&g.f);
}

/* The third slice is refused: the first two go, too, and copies work without. */
static void pins_nothing(void)
{
    struct device_fixture g;
    save_with_arena(&g, 3, "(after 0.016 GiB, ");
    CHECK_EQ(fake_pinned(), 0);
    fix_close(&g.f);
}

/* A volatile tensor that is longer than what is pinned at once. */
static void volatile_in_slices(void)
{
    enum { BYTES = 2 * GPU_PIN_SLICE + 4096 };
    struct fixture f = { .d = fake_start(NULL) };
    struct ckpt_open_opts o = fix_opts(f.d);
    struct ckpt_save_opts save = { .size = sizeof(save), .step = 1 };
    struct ckpt_point p = fix_point(1);
    uint64_t shape = BYTES, op;
    struct ckpt_tensor_desc t = { .size = sizeof(t), .name = "v", .dtype = CKPT_U8, .ndim = 1 };
    struct ckpt_piece whole = { .len = { BYTES }, .stride = { 1 } };
    uint8_t *want = malloc(BYTES), *got = calloc(1, BYTES);
    CHECK(want && got);
    t.shape = &shape;
    t.flags = CKPT_VOLATILE;
    CHECK_OK(ckpt_open(&o, &f.c));
    CHECK_OK(ckpt_state_new(f.c, &f.s));
    CHECK_OK(ckpt_tensor(f.s, &t, &whole, 1));
    CHECK_OK(ckpt_seal(f.s, 20000));
    struct ckpt_buffer at = { fake_malloc(0, BYTES), BYTES }, to = { got, BYTES };
    for (size_t i = 0; i < BYTES; i++)
        want[i] = (uint8_t)(i * 31 + i / 251);
    memcpy(fake_look(at.base), want, BYTES);
    CHECK_OK(ckpt_save(f.s, &save, &at, 1, NULL, &op));
    fake_sync(NULL);
    memset(fake_look(at.base), 0x11, BYTES);
    CHECK_OK(ckpt_wait(f.c, op, CKPT_LEVEL_LOCAL, 20000));
    CHECK_OK(ckpt_restore(f.s, &p, &to, 1, NULL, NULL));
    CHECK_EQ(memcmp(got, want, BYTES), 0);
    ckpt_close(f.c);
    CHECK_EQ(fake_pinned(), 0);
    fake_stop(f.d);
}

/* -- the driver takes long ------------------------------------------------------------ */

/* An arena is unpinned for another one: calls on the context do not stand behind that. */
static void unpins_unlocked(void)
{
    struct device_fixture g;
    struct fake_script s = fix_script();
    uint64_t op;
    s.slots = 4;
    open_gpu(&g, &s);
    save_behind_gate(&g, 1, &op);
    atomic_store(&gate, 1);
    CHECK_OK(ckpt_wait(g.f.c, op, CKPT_LEVEL_LOCAL, 20000));
    unsigned before = fake_calls("HostUnregister");
    fake_hold("HostUnregister", true);
    s.forget = true;
    fake_set(g.f.d, &s);
    fake_drop(g.f.d);
    while (fake_calls("HostUnregister") == before)
        usleep(500);
    CHECK_OK(ckpt_fence(g.f.s, 0));
    CHECK_OK(ckpt_progress(g.f.c, 1));
    fake_hold("HostUnregister", false);
    save_behind_gate(&g, 2, &op);
    atomic_store(&gate, 1);
    check_saved(&g, 2, op);
}

static void *ask_info(void *arg)
{
    struct ckpt_info info = { .size = sizeof(info) };
    CHECK_OK(ckpt_info(arg, &info));
    CHECK(strstr(info.devices, "CUDA devices"));
    return NULL;
}

static void info_unlocked(void)
{
    struct fake_daemon *d = fake_start(NULL);
    struct ckpt_open_opts o = fix_opts(d);
    struct ckpt *c;
    pthread_t asking;
    fake_hold("GetDeviceCount", true);
    CHECK_OK(ckpt_open(&o, &c));
    CHECK_EQ(pthread_create(&asking, NULL, ask_info, c), 0);
    while (fake_calls("GetDeviceCount") == 0)
        usleep(500);
    CHECK_OK(ckpt_progress(c, 1));
    fake_hold("GetDeviceCount", false);
    CHECK_EQ(pthread_join(asking, NULL), 0);
    ckpt_close(c);
    fake_stop(d);
}

/* -- runtimes ------------------------------------------------------------------------ */

/* A program with device memory, and no runtime that works here: it is not taken for the host's. */
static void no_usable_runtime(void)
{
    struct device_fixture g;
    struct fake_script s = fix_script();
    struct ckpt_save_opts o = { .size = sizeof(o), .step = 1 };
    uint64_t op;
    setenv("FAKE_DRIVER_VERSION", "12080", 1);
    s.slots = 4;
    open_gpu(&g, &s);
    CHECK_FAILS(ckpt_save(g.f.s, &o, g.at, FIX_TENSORS, NULL, &op), CKPT_UNSUPPORTED,
                "not host memory, and on no device that can be used: counting devices: "
                "cudaError35");
    CHECK_OK(ckpt_save(g.f.s, &o, g.f.buf, FIX_TENSORS, NULL, &op));
    check_saved(&g, 1, op);
}

/* -- copies that fail ----------------------------------------------------------------- */

struct gatherer {
    struct gpu *gpu;
    void *slot, *from;
    atomic_int gathered, recorded;
    enum ckpt_status said;
};

/* As the transfer thread does: copies, and an event behind them. */
static void *gather(void *arg)
{
    struct gatherer *w = arg;
    struct gpu_event *e = NULL;
    struct box all = { .ndim = 1, .len = { 4096 } };
    struct strided from = dense_at(&all, 8, w->from);
    gpu_cuda_own_thread();
    CHECK_OK(w->gpu->ops->event_new(w->gpu, &e, NULL));
    CHECK_OK(w->gpu->ops->copy_out(w->gpu, w->slot, &all, 8, &all, &from, NULL));
    atomic_store(&w->gathered, 1);
    while (!atomic_load(&w->recorded))
        usleep(500);
    w->said = w->gpu->ops->record(w->gpu, e, NULL);
    w->gpu->ops->event_free(e);
    return NULL;
}

/* Whoever queued a copy that fails hears of it, and nobody else. */
static void failure_is_its_own(void)
{
    struct cuda cuda;
    struct gatherer w = { .slot = aligned_alloc(4096, 4096), .from = fake_malloc(0, 4096) };
    struct gpu_event *e = NULL;
    pthread_t thread;
    CHECK(w.slot);
    CHECK_OK(cuda_open(&cuda, NULL));
    CHECK_OK(gpu_cuda_new(&cuda, 0, &w.gpu, NULL));
    CHECK_OK(w.gpu->ops->event_new(w.gpu, &e, NULL));
    CHECK_OK(w.gpu->ops->record_user(w.gpu, e, NULL, NULL));
    CHECK_EQ(pthread_create(&thread, NULL, gather, &w), 0);
    while (!atomic_load(&w.gathered))
        usleep(500);
    fake_fail("MemcpyAsync", 1, CUDA_INVALID_VALUE, false);
    CHECK_OK(w.gpu->ops->wait(w.gpu, e, NULL));
    CHECK_OK(w.gpu->ops->record(w.gpu, e, NULL));
    atomic_store(&w.recorded, 1);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_EQ(w.said, CKPT_DEVICE);
    w.gpu->ops->event_free(e);
    w.gpu->ops->free(w.gpu);
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
    fake_sync(g.stream);
    usleep(20000);
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

int main(void)
{
    static void (*const each[])(void) = {
        unpins_unlocked,    info_unlocked,        granted_again,      lands_in_another_session,
        another_arena_late, closes_under_arena,   another_arena,      stream_waits_for_host,
        hangs_under_arena,  lands_without_ckptd,  hangs_under_state,  hangs_at_close,
        pins_in_slices,     pins_arena,           pinning_is_no_copy, pins_nothing,
        volatile_in_slices, default_stream_waits, failure_is_its_own, no_usable_runtime
    };
    const char *moved = getenv("CKPT_TEST_CUDART"); /* with the tests, elsewhere */
    setenv("CKPT_CUDART", moved ? moved : FAKE_CUDART, 1);
    for (size_t i = 0; i < ARRAY_COUNT(each); i++) {
        int status = -1;
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            alarm(100);
            each[i]();
            _exit(0);
        }
        CHECK_EQ(waitpid(child, &status, 0), child);
        if (status != 0)
            fprintf(stderr, "case %zu ended with wait status %#x\n", i, (unsigned)status);
        CHECK_EQ(status, 0);
    }
    TEST_CASES(ARRAY_COUNT(each));
    return 0;
}
