/* What the library asks of the CUDA driver (slots.c, gpu_cuda.c, devices.c), on the fake one: what
 * is pinned and when, calls that take long, runtimes that do not work, copies that fail. */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "gpu/device_fixture.h"

extern int cudaHostRegister(void *p, size_t bytes, unsigned flags);
extern int cudaGetLastError(void);
extern int cudaGetDevice(int *ret);
extern int cudaThreadExchangeStreamCaptureMode(int *mode);

/* See impatient.h. */
int64_t impatient_ns = PATIENT_NS, link_patience_ns = PATIENT_NS, respawn_least_ns = 1;

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

/* refused: this slice, and all behind it, or this try alone. */
static void save_with_arena(struct device_fixture *g, unsigned refused, bool once,
                            const char *words)
{
    struct fake_script s = fix_script();
    struct ckpt_info info = { .size = sizeof(info) };
    struct ckpt_save_opts o = { .size = sizeof(o), .step = 1 };
    uint64_t op;
    s.slots = 4;
    open_gpu(g, &s);
    if (once)
        fake_fail("HostRegister", refused, CUDA_NO_MEMORY, false);
    else
        fake_fail_from("HostRegister", refused, CUDA_NO_MEMORY);
    memcpy(fake_look(g->at[0].base), g->f.mem[0], g->at[0].bytes);
    CHECK_OK(ckpt_save(g->f.s, &o, g->at, FIX_TENSORS, g->stream, &op));
    check_saved(g, 1, op);
    CHECK_OK(ckpt_info(g->f.c, &info));
    if (!strstr(info.devices, words))
        fprintf(stderr, "\"%s\" does not say \"%s\"\n", info.devices, words);
    CHECK(strstr(info.devices, words));
    CHECK_EQ(strstr(info.devices, " GiB/s") != NULL, refused && !once); /* what that costs */
    CHECK_EQ(fake_pinned_at_once(), UINT64_C(8) << 20); /* a whole slot, and not two */
}

/* An arena of 32 MiB by the transfer thread, which looks for messages between the slices. */
static void pins_arena(void)
{
    struct device_fixture g;
    save_with_arena(&g, 0, false, "; 0.031 GiB pinned in ");
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
    fake_hold_from("HostRegister",
                   2); /* the first is of a volatile tensor, by the thread that seals */
    open_gpu(&g, &s);
    while (fake_calls("HostRegister") < 2)
        usleep(500);
    CHECK_OK(ckpt_fence(g.f.s, 0));
    CHECK_EQ(pthread_create(&helper, NULL, let_pin, g.f.s), 0);
    ckpt_state_free(g.f.s);
    CHECK_EQ(pthread_join(helper, NULL), 0);
    CHECK_EQ(fake_calls("HostRegister"), 2);
    CHECK_EQ(fake_pinned(), 0);
    fix_close(&g.f);
}

/* The third slice is refused: the first two stay, and copies work without the others. */
static void pins_some(void)
{
    struct device_fixture g;
    save_with_arena(&g, 3, false, "; pinned in part, copies are slower: ");
    CHECK_EQ(fake_calls("HostRegister"), 4);
    CHECK_EQ(fake_pinned(), UINT64_C(16) << 20);
    fix_close(&g.f);
    CHECK_EQ(fake_pinned(), 0);
}

static void pins_at_second_try(void)
{
    struct device_fixture g;
    save_with_arena(&g, 3, true, "; 0.031 GiB pinned in ");
    CHECK_EQ(fake_calls("HostRegister"), 5);
    CHECK_EQ(fake_pinned(), UINT64_C(32) << 20);
    fix_close(&g.f);
    CHECK_EQ(fake_pinned(), 0);
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

/* Where a device is in use, the copies aside of volatile tensors are pinned when the state is sealed,
 * and none by a save. */
static void pins_volatile_early(void)
{
    struct device_fixture g;
    struct fake_script s = fix_script();
    struct ckpt_save_opts o = { .size = sizeof(o), .step = 1, .flags = CKPT_SAVE_NO_AUDIT };
    uint64_t op, rooms = 0;
    s.slots = 4;
    CHECK_EQ(cudaSetDevice(0), 0);
    open_gpu(&g, &s);
    for (size_t i = 0; i < g.f.s->side_count; i++)
        rooms += g.f.s->sides[i].room.pinned_by != NULL;
    CHECK(rooms > 0);
    while (fake_calls("HostRegister") < 4 + rooms) /* a slot each, and those */
        usleep(500);
    memcpy(fake_look(g.at[0].base), g.f.mem[0], g.at[0].bytes);
    CHECK_OK(ckpt_save(g.f.s, &o, g.at, FIX_TENSORS, g.stream, &op));
    check_saved(&g, 1, op);
    CHECK_EQ(fake_calls("HostRegister"), 4 + rooms);
    fix_close(&g.f);
    CHECK_EQ(fake_pinned(), 0);
}

/* Memory that devices copy to is not a forked child's. */
static void not_for_children(void)
{
    struct fixture f;
    struct fake_script s = fix_script();
    int pipe_fds[2], status;
    size_t rooms = 0;
    fix_open_with(&f, &s, FIX_BIG);
    CHECK(pipe2(pipe_fds, O_CLOEXEC) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    for (size_t i = 0; i < f.s->side_count; i++) {
        if (!f.s->sides[i].room.bytes)
            continue;
        bool here = write(pipe_fds[1], f.s->sides[i].room.bytes, 1) == 1;
        CHECK(here == (child != 0) && (here || errno == EFAULT));
        rooms++;
    }
    CHECK(rooms > 0);
    if (child == 0)
        _exit(0);
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
    fix_close(&f);
}

/* -- where the device is -------------------------------------------------------------- */

static void say_node(const char *words)
{
    FILE *f = fopen("pci/0000:0a:00.0/numa_node", "we");
    CHECK(f && fputs(words, f) >= 0 && fclose(f) == 0);
}

/* The arena is asked for near the device that the caller works with when it seals. */
static void near_device(void)
{
    static const struct {
        const char *words; /* the device's own file; NULL: there is none */
        uint32_t numa;
    } each[] = { { NULL, 0 }, { "0\n", 1 }, { "1\n", 2 }, { "-1\n", 0 }, { "", 0 } };
    char room[] = "/tmp/gpu-driver-XXXXXX";
    CHECK(mkdtemp(room) && chdir(room) == 0);
    CHECK(mkdir("pci", 0700) == 0 && mkdir("pci/0000:0a:00.0", 0700) == 0);
    for (size_t i = 0; i < ARRAY_COUNT(each); i++) {
        struct fixture f;
        struct fake_script s = fix_script();
        CHECK_EQ(cudaSetDevice(0), 0); /* 0000:0A:00.0, as CUDA writes it */
        if (each[i].words)
            say_node(each[i].words);
        fix_open_with(&f, &s, FIX_BIG);
        CHECK_EQ(fake_seen(f.d).numa, each[i].numa);
        fix_close(&f);
    }
    CHECK(unlink("pci/0000:0a:00.0/numa_node") == 0 && rmdir("pci/0000:0a:00.0") == 0);
    CHECK(rmdir("pci") == 0 && chdir("/") == 0 && rmdir(room) == 0);
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

/* A call that does not come back holds up the transfer thread, and not the caller. */
static void closes_under_call(void)
{
    struct device_fixture g;
    struct fake_script s = fix_script();
    struct ckpt_save_opts o = { .size = sizeof(o), .step = 1 };
    uint64_t op;
    impatient_ns = SECOND_NS / 10;
    s.slots = 4;
    open_gpu(&g, &s);
    fake_hold("MemcpyBatchAsync", true);
    CHECK_OK(ckpt_save(g.f.s, &o, g.at, FIX_TENSORS, g.stream, &op));
    while (fake_calls("MemcpyBatchAsync") == 0)
        usleep(500);
    ckpt_close(g.f.c);
    unsigned before = fake_calls("EventRecord");
    fake_hold("MemcpyBatchAsync", false); /* it comes back late, and finds what it uses */
    while (fake_calls("EventRecord") == before)
        usleep(500);
    usleep(20000);
}

/* What the driver does not take back is left to the library's thread, with ckptd told before. */
static void closes_under(const char *function)
{
    struct device_fixture g;
    struct fake_script s = fix_script();
    uint64_t op;
    impatient_ns = SECOND_NS / 10;
    s.slots = 4;
    open_gpu(&g, &s);
    save_behind_gate(&g, 1, &op);
    atomic_store(&gate, 1);
    CHECK_OK(ckpt_wait(g.f.c, op, CKPT_LEVEL_LOCAL, 20000));
    CHECK_OK(ckpt_fence(g.f.s, 20000)); /* all landed */
    fake_hold(function, true);
    unsigned before = fake_calls(function);
    ckpt_close(g.f.c);
    CHECK_EQ(fake_calls(function), before + 1);
    fake_await(g.f.d, WIRE_BYE, 1);
    fake_hold(function, false);
    while (fake_calls("StreamDestroy") == 0) /* the last call of all */
        usleep(500);
    CHECK_EQ(fake_pinned(), 0);
}

static void closes_under_unpin(void)
{
    closes_under("HostUnregister");
}

static void closes_under_destroy(void)
{
    closes_under("StreamDestroy");
}

static void frees_under_unpin(void)
{
    struct device_fixture g;
    struct fake_script s = fix_script();
    struct ckpt_state *other;
    uint64_t op;
    impatient_ns = SECOND_NS / 10;
    s.slots = 4;
    open_gpu(&g, &s);
    save_behind_gate(&g, 1, &op);
    atomic_store(&gate, 1);
    CHECK_OK(ckpt_wait(g.f.c, op, CKPT_LEVEL_LOCAL, 20000));
    fake_hold("HostUnregister", true);
    ckpt_state_free(g.f.s);
    CHECK(fake_pinned());
    CHECK_OK(ckpt_state_new(g.f.c, &other));
    CHECK_OK(ckpt_progress(g.f.c, 2));
    impatient_ns = PATIENT_NS;
    fake_hold("HostUnregister", false);
    ckpt_state_free(other); /* behind the first one */
    CHECK_EQ(fake_pinned(), 0);
    ckpt_close(g.f.c);
}

/* A broken context gives memory back all the same. */
static void frees_when_broken(void)
{
    struct device_fixture g;
    struct fake_script s = fix_script();
    struct ckpt_err err = { 0 };
    uint64_t op;
    s.slots = 4;
    open_gpu(&g, &s);
    save_behind_gate(&g, 1, &op);
    atomic_store(&gate, 1);
    CHECK_OK(ckpt_wait(g.f.c, op, CKPT_LEVEL_LOCAL, 20000));
    impatient_ns = 5 * SECOND_NS;
    err_set(&err, CKPT_CORRUPT, "broken by the test");
    pthread_mutex_lock(&g.f.c->lock);
    lib_break(g.f.c, &err);
    pthread_mutex_unlock(&g.f.c->lock);
    ckpt_state_free(g.f.s);
    CHECK_EQ(fake_pinned(), 0);
    ckpt_close(g.f.c);
}

/* Copies that land when the context is broken and nobody waits for them any more. */
static void lands_late_when_broken(void)
{
    struct device_fixture g;
    struct fake_script s = fix_script();
    struct ckpt_err err = { 0 };
    uint64_t op;
    impatient_ns = SECOND_NS / 10;
    s.slots = 4;
    open_gpu(&g, &s);
    save_behind_gate(&g, 1, &op);
    err_set(&err, CKPT_CORRUPT, "broken by the test");
    pthread_mutex_lock(&g.f.c->lock);
    lib_break(g.f.c, &err);
    pthread_mutex_unlock(&g.f.c->lock);
    ckpt_state_free(g.f.s);
    CHECK(fake_pinned() > 0);
    usleep(500000); /* the landing at the end is over */
    atomic_store(&gate, 1);
    while (fake_pinned() > 0)
        usleep(500);
    ckpt_close(g.f.c);
}

/* A call that does not come back at a fence: the save is given up, and training goes on. */
static void fences_under_call(void)
{
    struct device_fixture g;
    struct fake_script s = fix_script();
    struct ckpt_save_opts o = { .size = sizeof(o), .step = 1 };
    uint64_t op;
    impatient_ns = SECOND_NS / 10;
    s.slots = 4;
    open_gpu(&g, &s);
    fake_hold("MemcpyBatchAsync", true);
    CHECK_OK(ckpt_save(g.f.s, &o, g.at, FIX_TENSORS, g.stream, &op));
    while (fake_calls("MemcpyBatchAsync") == 0)
        usleep(500);
    CHECK_FAILS(ckpt_fence(g.f.s, 100), CKPT_TIMEOUT, "still being copied");
    CHECK_FAILS(ckpt_wait(g.f.c, op, CKPT_LEVEL_LOCAL, 20000), CKPT_TIMEOUT, "the fence's time");
    fake_hold("MemcpyBatchAsync", false);
    ckpt_close(g.f.c);
}

struct late_driver {
    struct ckpt *c;
    uint64_t op;
};

static void *let_queue(void *arg)
{
    const struct late_driver *l = arg;
    CHECK_EQ(ckpt_wait(l->c, l->op, CKPT_LEVEL_LOCAL, 20000), CKPT_TIMEOUT);
    usleep(50000);
    fake_hold("MemcpyBatchAsync", false);
    return NULL;
}

/* A fence that gives the save up is over behind what is being queued: the caller may free its memory
 * then. */
static void fence_ends_behind_queueing(void)
{
    struct device_fixture g;
    struct fake_script s = fix_script();
    struct ckpt_save_opts o = { .size = sizeof(o), .step = 1 };
    struct late_driver late;
    pthread_t helper;
    s.slots = 4;
    open_gpu(&g, &s);
    fake_hold("MemcpyBatchAsync", true);
    CHECK_OK(ckpt_save(g.f.s, &o, g.at, FIX_TENSORS, g.stream, &late.op));
    while (fake_calls("MemcpyBatchAsync") == 0)
        usleep(500);
    late.c = g.f.c;
    CHECK_EQ(pthread_create(&helper, NULL, let_queue, &late), 0);
    CHECK_FAILS(ckpt_fence(g.f.s, 100), CKPT_TIMEOUT, "still being copied");
    pthread_mutex_lock(&g.f.c->lock);
    CHECK(!g.f.s->shared.queueing);
    pthread_mutex_unlock(&g.f.c->lock);
    CHECK_EQ(pthread_join(helper, NULL), 0);
    fix_close(&g.f);
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

struct full_queue {
    struct gpu *gpu;
    uint8_t *slot, *from;
};

static void *fill_queue(void *arg)
{
    struct full_queue *w = arg;
    struct gpu_event *e = NULL;
    struct box all = { .ndim = 1, .len = { 2048 } };
    gpu_cuda_own_thread();
    CHECK_OK(w->gpu->ops->event_new(w->gpu, &e, NULL));
    for (size_t at = 0; at < 4096; at += 2048) {
        struct strided from = dense_at(&all, 8, w->from + at);
        CHECK_OK(w->gpu->ops->copy_out(w->gpu, w->slot + at, &all, 8, &all, &from, NULL));
    }
    CHECK_OK(w->gpu->ops->record(w->gpu, e, NULL));
    w->gpu->ops->event_free(e);
    return NULL;
}

/* A driver that takes no more copies until the device has done some keeps our own thread, and not
 * one that records an event or makes its stream wait. */
static void queue_is_full(void)
{
    struct cuda cuda;
    struct full_queue w = { .slot = aligned_alloc(4096, 4096), .from = fake_malloc(0, 4096) };
    struct gpu_event *e = NULL;
    pthread_t thread;
    CHECK(w.slot);
    CHECK_OK(cuda_open(&cuda, NULL));
    CHECK_OK(gpu_cuda_new(&cuda, 0, &w.gpu, NULL));
    fake_hold("MemcpyBatchAsync", true);
    CHECK_EQ(pthread_create(&thread, NULL, fill_queue, &w), 0);
    while (fake_calls("MemcpyBatchAsync") == 0)
        usleep(500);
    CHECK_OK(w.gpu->ops->event_new(w.gpu, &e, NULL));
    CHECK_OK(w.gpu->ops->record_user(w.gpu, e, NULL, NULL));
    CHECK_OK(w.gpu->ops->wait_user(w.gpu, NULL, e, NULL));
    fake_sync(NULL);
    CHECK_OK(w.gpu->ops->query(e, NULL));
    w.gpu->ops->event_free(e);
    fake_hold("MemcpyBatchAsync", false);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    w.gpu->ops->free(w.gpu);
}

/* -- what is the caller's ------------------------------------------------------------ */

/* His thread captures as it did before, and is on the device that it was on, whatever he called and
 * whatever came of it. */
static void thread_is_as_before(void)
{
    struct device_fixture g;
    struct fake_script s = fix_script();
    struct ckpt_save_opts o = { .size = sizeof(o) };
    struct ckpt_point p = fix_point(1);
    uint64_t op;
    s.slots = 4;
    open_gpu_on(&g, &s, 1);
    g.stream = fake_stream_new(0); /* as a stream is his device's */
    memcpy(fake_look(g.at[0].base), g.f.mem[0], g.at[0].bytes);
    for (int mode = 0; mode < 3; mode++) {
        int was = mode, device = 0;
        o.step = (uint64_t)mode + 1;
        CHECK_EQ(cudaSetDevice(0), 0);
        CHECK_EQ(cudaThreadExchangeStreamCaptureMode(&was), 0);
        CHECK_OK(ckpt_save(g.f.s, &o, g.at, FIX_TENSORS, g.stream, &op));
        CHECK_OK(ckpt_fence_stream(g.f.s, g.stream));
        CHECK_OK(ckpt_wait(g.f.c, op, CKPT_LEVEL_LOCAL, 20000));
        p.step = o.step;
        CHECK_OK(ckpt_restore(g.f.s, &p, g.at, FIX_TENSORS, g.stream, NULL));
        fake_capture_begin(g.stream, mode == 0);
        CHECK_FAILS(ckpt_save(g.f.s, &o, g.at, FIX_TENSORS, g.stream, &op), CKPT_WRONG_STATE,
                    "captured into a graph");
        CHECK_FAILS(ckpt_restore(g.f.s, &p, g.at, FIX_TENSORS, g.stream, NULL), CKPT_WRONG_STATE,
                    "captured into a graph");
        CHECK(fake_capture_end(g.stream));
        was = 0;
        CHECK_EQ(cudaThreadExchangeStreamCaptureMode(&was), 0);
        CHECK_EQ(was, mode);
        CHECK_EQ(cudaGetDevice(&device), 0);
        CHECK_EQ(device, 0);
    }
    fix_close(&g.f);
}

/* More tensors in a slot than a batch takes. */
static void more_than_a_batch(void)
{
    enum { TENSORS = 1300, BYTES = 96 };
    struct fixture f = { .d = fake_start(NULL) };
    struct ckpt_open_opts o = fix_opts(f.d);
    struct ckpt_save_opts save = { .size = sizeof(save), .step = 1, .flags = CKPT_SAVE_NO_AUDIT };
    struct ckpt_point p = fix_point(1);
    struct ckpt_tensor_desc t = { .size = sizeof(t), .dtype = CKPT_U8, .ndim = 1 };
    struct ckpt_piece whole = { .len = { BYTES }, .stride = { 1 } };
    struct ckpt_buffer at[TENSORS];
    uint64_t shape = BYTES, op;
    uint8_t *mem = fake_malloc(0, TENSORS * BYTES), *want = malloc(TENSORS * BYTES);
    CHECK(mem && want);
    t.shape = &shape;
    CHECK_OK(ckpt_open(&o, &f.c));
    CHECK_OK(ckpt_state_new(f.c, &f.s));
    for (int i = 0; i < TENSORS; i++) {
        char name[16];
        snprintf(name, sizeof(name), "t%d", i);
        t.name = name;
        CHECK_OK(ckpt_tensor(f.s, &t, &whole, 1));
        at[i] = (struct ckpt_buffer){ mem + i * BYTES, BYTES };
    }
    CHECK_OK(ckpt_seal(f.s, 20000));
    for (size_t i = 0; i < TENSORS * BYTES; i++)
        want[i] = (uint8_t)(i * 31 + i / 251);
    memcpy(fake_look(mem), want, TENSORS * BYTES);
    CHECK_OK(ckpt_save(f.s, &save, at, TENSORS, NULL, &op));
    CHECK_OK(ckpt_wait(f.c, op, CKPT_LEVEL_LOCAL, 20000));
    CHECK_EQ(fake_calls("MemcpyBatchAsync"), 3);
    memset(fake_look(mem), 0, TENSORS * BYTES);
    CHECK_OK(ckpt_restore(f.s, &p, at, TENSORS, NULL, NULL));
    fake_sync(NULL);
    CHECK_EQ(memcmp(fake_look(mem), want, TENSORS * BYTES), 0);
    ckpt_close(f.c);
    free(want);
    fake_stop(f.d);
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

/* An error after which nothing works any more loses the device; another one does not, and is not
 * left for the caller to find. */
static void lost_device(void)
{
    struct cuda cuda;
    struct gpu *gpu;
    struct gpu_event *e = NULL, *other;
    struct ckpt_err err = { 0 };
    CHECK_OK(cuda_open(&cuda, NULL));
    CHECK_OK(gpu_cuda_new(&cuda, 0, &gpu, NULL));
    fake_fail("EventCreateWithFlags", 1, CUDA_INVALID_VALUE, false);
    CHECK_EQ(gpu->ops->event_new(gpu, &e, NULL), CKPT_DEVICE);
    CHECK_EQ(cudaGetLastError(), 0);
    CHECK_OK(gpu->ops->event_new(gpu, &e, NULL));
    fake_fail("EventCreateWithFlags", 1, 700, true);
    CHECK_EQ(gpu->ops->event_new(gpu, &other, NULL), CKPT_DEVICE);
    unsigned before = fake_calls("ThreadExchangeStreamCaptureMode");
    CHECK_EQ(gpu->ops->query(e, &err), CKPT_DEVICE);
    CHECK(strstr(err_text(&err), "failed earlier and is not used any more"));
    CHECK_EQ(fake_calls("ThreadExchangeStreamCaptureMode"), before);
    gpu->ops->event_free(e);
    gpu->ops->free(gpu);
}

/* -- where buffers are ----------------------------------------------------------------- */

/* Tensors 0 to 2 are on devices, but for `host`. */
static void fill_all(struct device_fixture *g, unsigned step, int host)
{
    fix_fill(&g->f, step);
    for (int i = 0; i < 3; i++)
        memcpy(i == host ? g->at[i].base : fake_look(g->at[i].base), g->f.mem[i], g->at[i].bytes);
}

/* Up to its commit; the caller's thread is to ask so many times where memory is. */
static enum ckpt_status save_asking(struct device_fixture *g, uint64_t step, unsigned times,
                                    const char *words)
{
    struct ckpt_save_opts o = { .size = sizeof(o), .step = step, .flags = CKPT_SAVE_NO_AUDIT };
    unsigned before = fake_asked();
    uint64_t op;
    enum ckpt_status st = ckpt_save(g->f.s, &o, g->at, FIX_TENSORS, g->stream, &op);
    CHECK_EQ(fake_asked() - before, times);
    if (st == CKPT_OK)
        st = ckpt_wait(g->f.c, op, CKPT_LEVEL_LOCAL, 20000);
    if (!strstr(st == CKPT_OK ? "" : ckpt_error(), words))
        fprintf(stderr, "\"%s\" does not say \"%s\"\n", ckpt_error(), words);
    CHECK(strstr(st == CKPT_OK ? "" : ckpt_error(), words));
    CHECK_OK(ckpt_fence(g->f.s, 20000));
    CHECK(!fake_seen(g->f.d).wrong);
    return st;
}

static void open_all(struct device_fixture *g)
{
    struct fake_script s = fix_script();
    s.slots = 4;
    open_gpu(g, &s);
    for (int i = 1; i < 3; i++)
        g->at[i].base = fake_malloc(0, g->at[i].bytes);
}

/* A buffer that was on a device is not asked for again by the caller's thread, but all are by the
 * library's, in each save; in host memory they are by the caller's. */
static void asks_once(void)
{
    struct device_fixture g;
    open_all(&g);
    for (unsigned step = 1; step < 4; step++) {
        fill_all(&g, step, -1);
        unsigned all = fake_calls("PointerGetAttributes");
        CHECK_OK(save_asking(&g, step, step == 1 ? 6 : 3, ""));
        CHECK_EQ(fake_calls("PointerGetAttributes") - all, 6);
    }
    void *moved = fake_malloc(1, g.at[1].bytes);
    fake_free(g.at[1].base);
    g.at[1].base = moved;
    fill_all(&g, 4, -1);
    CHECK_OK(save_asking(&g, 4, 4, ""));
    fix_compare(&g.f, 4);
}

enum comes { ANOTHER_DEVICE, PINNED, PLAIN, NOTHING };

/* Something else is where the buffer was, or nothing: one save fails with words and without a copy
 * from there, which could end the trainer's context, and the next one asks. */
static void address_again(enum comes what)
{
    const char *words =
        what == NOTHING ? "CUDA does not know it" : "other memory has come to the address";
    struct device_fixture g;
    open_all(&g);
    fill_all(&g, 1, -1);
    CHECK_OK(save_asking(&g, 1, 6, ""));
    size_t bytes = g.at[1].bytes;
    void *at = g.at[1].base;
    fake_free(at);
    if (what == ANOTHER_DEVICE)
        CHECK(fake_malloc_at(at, 1, bytes) == at);
    else if (what != NOTHING)
        CHECK(mmap(at, 4096, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == at);
    if (what == PINNED)
        CHECK_EQ(cudaHostRegister(at, 4096, 1), 0);
    CHECK_EQ(save_asking(&g, 2, 3, words), what == NOTHING ? CKPT_UNSUPPORTED : CKPT_ABORTED);
    if (what == NOTHING)
        g.at[1].base = fake_malloc(1, bytes);
    fill_all(&g, 3, what == ANOTHER_DEVICE || what == NOTHING ? -1 : 1);
    CHECK_OK(save_asking(&g, 3, 6, ""));
    fix_compare(&g.f, 3);
}

static void another_device_there(void)
{
    address_again(ANOTHER_DEVICE);
}

static void pinned_memory_there(void)
{
    address_again(PINNED);
}

static void plain_memory_there(void)
{
    address_again(PLAIN);
}

static void nothing_there(void)
{
    address_again(NOTHING);
}

int main(void)
{
    static void (*const each[])(void) = {
        pins_in_slices,
        pins_arena,
        pinning_is_no_copy,
        pins_some,
        pins_at_second_try,
        volatile_in_slices,
        unpins_unlocked,
        closes_under_call,
        info_unlocked,
        failure_is_its_own,
        no_usable_runtime,
        fences_under_call,
        queue_is_full,
        near_device,
        asks_once,
        another_device_there,
        pinned_memory_there,
        plain_memory_there,
        nothing_there,
        closes_under_unpin,
        closes_under_destroy,
        frees_under_unpin,
        frees_when_broken,
        lands_late_when_broken,
        lost_device,
        not_for_children,
        pins_volatile_early,
        thread_is_as_before,
        more_than_a_batch,
        fence_ends_behind_queueing,
    };
    run_apart(each, ARRAY_COUNT(each), FAKE_CUDART);
    TEST_CASES(ARRAY_COUNT(each));
    return 0;
}
