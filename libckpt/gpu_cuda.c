/* See gpu_cuda.h.
 *
 * Every verb runs inside enter/leave: our device is the current one, other threads'
 * captures of graphs are not disturbed (and ours cannot be: relaxed in a caller's thread,
 * which may be capturing; thread-local in our own), and the caller's device comes back.
 * Making a device current makes a context on it, half a gigabyte of its memory: so the caller's
 * comes back only if there is one, and our own thread is left where it was.
 *
 * Errors: where one is followed by another when our stream is asked how it is, it was a sticky one:
 * the device is lost to this process, and every later verb says so at once.  The runtime's last
 * error says nothing of that: it is gone when it was read. */
#include "libckpt/gpu_cuda.h"

#include <stdatomic.h>

#include "libckpt/copy_rects.h"

#define BATCH_MAX 512

/* No lock: the runtime is for any thread, and a call of one may take long, pinning memory or
 * where the device's queue is full, while another, the trainer's, must go on. */
struct cuda_gpu {
    struct gpu base;
    const struct cuda *cuda;
    int device;
    cuda_stream stream;
    atomic_bool lost;
    atomic_int one_by_one; /* the error for which there are no batches of copies; 0: there are */
    struct {               /* by our own thread: there is one for each device */
        size_t count;
        const void *src[BATCH_MAX];
        void *dst[BATCH_MAX];
        size_t bytes[BATCH_MAX];
        int kind[BATCH_MAX];
    } gathered;
};
struct cuda_gpu_event {
    struct gpu_event base;
    cuda_event e;
};
struct guest { /* what a caller's thread gets back */
    int device, mode;
    bool device_changed;
};
static _Thread_local bool own_thread;

void gpu_cuda_own_thread(void)
{
    own_thread = true;
}

/* Was that error a sticky one?  It is cleared in any case.  Inside of enter/leave: the question
 * would spoil a capture. */
static bool sticky(struct cuda_gpu *g)
{
    const struct cuda_api *api = &g->cuda->api;
    (void)api->GetLastError();
    cuda_error e = g->stream ? api->StreamQuery(g->stream) : CUDA_SUCCESS;
    if (e == CUDA_SUCCESS || e == CUDA_NOT_READY)
        return false;
    (void)api->GetLastError();
    return true;
}

static enum ckpt_status failed(const struct cuda_gpu *g, cuda_error e, const char *what,
                               struct ckpt_err *err)
{
    enum ckpt_status st = cuda_fail(&g->cuda->api, e, what, err);
    return st == CKPT_UNSUPPORTED ? CKPT_DEVICE : st;
}

/* Statuses for errors; a sticky one loses the device. */
static enum ckpt_status said(struct cuda_gpu *g, cuda_error e, const char *what,
                             struct ckpt_err *err)
{
    if (e == CUDA_SUCCESS)
        return CKPT_OK;
    if (sticky(g))
        atomic_store(&g->lost, true);
    return failed(g, e, what, err);
}

/* Does anybody in this process work with the device? */
static bool in_use(const struct cuda *c, int device)
{
    unsigned flags;
    int active = 0;
    return c->api.DevicePrimaryCtxGetState(device, &flags, &active) == CUDA_SUCCESS && active;
}

static enum ckpt_status enter(struct cuda_gpu *g, struct guest *guest, struct ckpt_err *err)
{
    const struct cuda_api *api = &g->cuda->api;
    *guest =
        (struct guest){ .device = g->device,
                        .mode = own_thread ? CUDA_CAPTURE_THREAD_LOCAL : CUDA_CAPTURE_RELAXED };
    if (atomic_load(&g->lost))
        return err_set(err, CKPT_DEVICE, "CUDA device %d failed earlier and is not used any more",
                       g->device);
    cuda_error e = api->GetDevice(&guest->device);
    if (e == CUDA_SUCCESS && guest->device != g->device) {
        guest->device_changed = !own_thread && in_use(g->cuda, guest->device);
        e = api->SetDevice(g->device);
    }
    if (e == CUDA_SUCCESS)
        e = api->ThreadExchangeStreamCaptureMode(&guest->mode);
    if (e == CUDA_SUCCESS)
        return CKPT_OK;
    if (guest->device_changed)
        (void)api->SetDevice(guest->device);
    return failed(g, e, "using a device", err);
}

static void leave(struct cuda_gpu *g, struct guest *guest)
{
    const struct cuda_api *api = &g->cuda->api;
    (void)api->ThreadExchangeStreamCaptureMode(&guest->mode);
    if (guest->device_changed)
        (void)api->SetDevice(guest->device);
}

static struct cuda_gpu *of(struct gpu *g)
{
    return (struct cuda_gpu *)g;
}

static cuda_event event_of(const struct gpu_event *e)
{
    return ((const struct cuda_gpu_event *)e)->e;
}

/* -- pinning ---------------------------------------------------------------- */

static void unpin_slices(const struct cuda_api *api, unsigned char *base, uint64_t bytes)
{
    for (uint64_t at = 0; at < bytes; at += GPU_PIN_SLICE)
        if (api->HostUnregister(base + at) != CUDA_SUCCESS)
            (void)api->GetLastError(); /* it was somebody else's */
}

static enum ckpt_status cuda_pin(struct gpu *gpu, void *base, uint64_t bytes, struct ckpt_err *err)
{
    struct cuda_gpu *g = of(gpu);
    const struct cuda_api *api = &g->cuda->api;
    struct guest guest;
    enum ckpt_status st = enter(g, &guest, err);
    if (st != CKPT_OK)
        return st;
    for (uint64_t at = 0; st == CKPT_OK && at < bytes; at += GPU_PIN_SLICE) {
        cuda_error e =
            api->HostRegister((unsigned char *)base + at, min_u64(GPU_PIN_SLICE, bytes - at),
                              CUDA_HOST_REGISTER_PORTABLE);
        if (e == CUDA_HOST_ALREADY_REGISTERED) {
            (void)api->GetLastError();
            continue;
        }
        st = said(g, e, "pinning memory for copies", err);
        if (st != CKPT_OK)
            unpin_slices(api, base, at);
    }
    leave(g, &guest);
    return st;
}

static void cuda_unpin(struct gpu *gpu, void *base, uint64_t bytes)
{
    struct cuda_gpu *g = of(gpu);
    struct guest guest;
    if (enter(g, &guest, NULL) != CKPT_OK)
        return; /* the device is lost, and the pins with it */
    unpin_slices(&g->cuda->api, base, bytes);
    leave(g, &guest);
}

/* -- copies ----------------------------------------------------------------- */

static cuda_error copy_each(struct cuda_gpu *g)
{
    cuda_error e = CUDA_SUCCESS;
    for (size_t i = 0; e == CUDA_SUCCESS && i < g->gathered.count; i++)
        e = g->cuda->api.MemcpyAsync(g->gathered.dst[i], g->gathered.src[i], g->gathered.bytes[i],
                                     g->gathered.kind[i], g->stream);
    return e;
}

static cuda_error copy_batch(struct cuda_gpu *g)
{
    const struct cuda_api *api = &g->cuda->api;
    struct cuda_memcpy_attributes how = { .src_access_order = CUDA_SRC_ACCESS_STREAM };
    if (g->gathered.kind[0] == CUDA_DEVICE_TO_HOST) /* a save runs beside a training step */
        how.flags = CUDA_COPY_BESIDE_COMPUTE;
    size_t first = 0;
    if (api->MemcpyBatch13)
        return api->MemcpyBatch13(g->gathered.dst, g->gathered.src, g->gathered.bytes,
                                  g->gathered.count, &how, &first, 1, g->stream);
    union { /* 12.8 took the same without the const */
        const void **from;
        void **plain;
    } src = { .from = g->gathered.src };
    size_t failed = SIZE_MAX;
    return api->MemcpyBatch12(g->gathered.dst, src.plain, g->gathered.bytes, g->gathered.count,
                              &how, &first, 1, &failed, g->stream);
}

/* What cannot be copied in a batch is copied all the same, so the driver may refuse batches for any
 * reason; it is asked only once.  What the batch did copy is copied again. */
static cuda_error copy_gathered(struct cuda_gpu *g)
{
    if (g->gathered.count == 1 || atomic_load(&g->one_by_one))
        return copy_each(g);
    cuda_error e = copy_batch(g);
    if (e == CUDA_SUCCESS || sticky(g))
        return e;
    cuda_error each = copy_each(g);
    if (each == CUDA_SUCCESS)
        atomic_store(&g->one_by_one, e);
    return each;
}

/* Hands over what was gathered.  Of our own thread, which gathers: what of it fails must be heard
 * by it, or it takes memory that was not written for a copy. */
static enum ckpt_status submit(struct cuda_gpu *g, struct ckpt_err *err)
{
    if (!own_thread || g->gathered.count == 0)
        return CKPT_OK;
    cuda_error e = copy_gathered(g);
    g->gathered.count = 0;
    return said(g, e, "copying", err);
}

struct copy_call {
    struct cuda_gpu *g;
    unsigned char *slot;
    int kind;
    bool entered; /* at the first rectangle: an assert before that leaves the device as it was */
    struct guest guest;
};

static enum ckpt_status copy_one(void *arg, const struct copy_rect *r, struct ckpt_err *err)
{
    struct copy_call *c = arg;
    struct cuda_gpu *g = c->g;
    enum ckpt_status st = c->entered ? CKPT_OK : enter(g, &c->guest, err);
    if (st != CKPT_OK)
        return st;
    c->entered = true;
    bool out = c->kind == CUDA_DEVICE_TO_HOST;
    void *dst = out ? c->slot + r->dense : r->tensor;
    const void *src = out ? r->tensor : c->slot + r->dense;
    if (r->rows > 1)
        return said(g,
                    g->cuda->api.Memcpy2DAsync(dst, out ? r->dense_pitch : r->tensor_pitch, src,
                                               out ? r->tensor_pitch : r->dense_pitch, r->width,
                                               r->rows, c->kind, g->stream),
                    "copying rows", err);
    if (!own_thread)
        return said(g, g->cuda->api.MemcpyAsync(dst, src, r->width, c->kind, g->stream), "copying",
                    err);
    size_t i = g->gathered.count++;
    g->gathered.dst[i] = dst;
    g->gathered.src[i] = src;
    g->gathered.bytes[i] = r->width;
    g->gathered.kind[i] = c->kind;
    return g->gathered.count == BATCH_MAX ? submit(g, err) : CKPT_OK;
}

static enum ckpt_status copy_all(struct copy_call *call, const struct box *what, unsigned bits,
                                 const struct box *held, const struct strided *tensor,
                                 struct ckpt_err *err)
{
    enum ckpt_status st = copy_rects(what, bits, held, tensor, copy_one, call, err);
    if (call->entered)
        leave(call->g, &call->guest);
    return st;
}

static enum ckpt_status cuda_copy_out(struct gpu *gpu, void *slot, const struct box *what,
                                      unsigned bits, const struct box *held,
                                      const struct strided *tensor, struct ckpt_err *err)
{
    struct copy_call call = { .g = of(gpu), .slot = slot, .kind = CUDA_DEVICE_TO_HOST };
    return copy_all(&call, what, bits, held, tensor, err);
}

static enum ckpt_status cuda_copy_in(struct gpu *gpu, const void *slot, const struct box *what,
                                     unsigned bits, const struct box *held,
                                     const struct strided *tensor, struct ckpt_err *err)
{
    union { /* only read from: the kind says so */
        const void *from;
        unsigned char *slot;
    } u = { .from = slot };
    struct copy_call call = { .g = of(gpu), .slot = u.slot, .kind = CUDA_HOST_TO_DEVICE };
    return copy_all(&call, what, bits, held, tensor, err);
}

/* -- events ----------------------------------------------------------------- */

static enum ckpt_status cuda_event_new(struct gpu *gpu, struct gpu_event **ret,
                                       struct ckpt_err *err)
{
    struct cuda_gpu *g = of(gpu);
    struct guest guest;
    struct cuda_gpu_event *e = calloc(1, sizeof(*e));
    if (!e)
        return err_set(err, CKPT_NO_MEMORY, "out of memory");
    enum ckpt_status st = enter(g, &guest, err);
    if (st == CKPT_OK) {
        st = said(g, g->cuda->api.EventCreateWithFlags(&e->e, CUDA_EVENT_DISABLE_TIMING),
                  "making an event", err);
        leave(g, &guest);
    }
    if (st != CKPT_OK) {
        free(e);
        return st;
    }
    e->base.gpu = gpu;
    *ret = &e->base;
    return CKPT_OK;
}

static void cuda_event_free(struct gpu_event *e)
{
    struct guest guest;
    if (!e)
        return;
    struct cuda_gpu *g = of(e->gpu);
    if (enter(g, &guest, NULL) == CKPT_OK) {
        if (g->cuda->api.EventDestroy(event_of(e)) != CUDA_SUCCESS)
            (void)g->cuda->api.GetLastError();
        leave(g, &guest);
    }
    free((struct cuda_gpu_event *)e);
}

static enum ckpt_status cuda_record(struct gpu *gpu, struct gpu_event *e, struct ckpt_err *err)
{
    struct cuda_gpu *g = of(gpu);
    struct guest guest;
    enum ckpt_status st = enter(g, &guest, err);
    if (st != CKPT_OK)
        return st;
    st = submit(g, err);
    enum ckpt_status marked = said(g, g->cuda->api.EventRecord(event_of(e), g->stream),
                                   "recording an event", st == CKPT_OK ? err : NULL);
    if (marked != CKPT_OK) /* nobody will know when the copies before it have ended */
        atomic_store(&g->lost, true);
    st = st == CKPT_OK ? marked : st;
    leave(g, &guest);
    return st;
}

enum capturing {
    CAPTURING_NOT,
    CAPTURING,
    CAPTURING_BESIDE /* another; this is the default one */
};

static cuda_error is_capturing(const struct cuda *c, cuda_stream s, enum capturing *ret)
{
    int capturing = 0;
    cuda_error e = c->api.StreamIsCapturing(s, &capturing);
    *ret = capturing ? CAPTURING : CAPTURING_NOT;
    if (e == CUDA_CAPTURE_IMPLICIT) {
        *ret = CAPTURING_BESIDE;
        (void)c->api.GetLastError();
        e = CUDA_SUCCESS;
    }
    return e;
}

static enum ckpt_status cuda_record_user(struct gpu *gpu, struct gpu_event *e, void *user,
                                         struct ckpt_err *err)
{
    struct cuda_gpu *g = of(gpu);
    struct guest guest;
    enum capturing capturing = CAPTURING_NOT;
    enum ckpt_status st = enter(g, &guest, err);
    if (st != CKPT_OK)
        return st;
    st = said(g, is_capturing(g->cuda, user, &capturing), "looking at the stream", err);
    if (st == CKPT_OK && capturing != CAPTURING_NOT)
        st = err_set(err, CKPT_WRONG_STATE,
                     "the stream is being captured into a graph: save and restore outside of it");
    if (st == CKPT_OK)
        st = said(g, g->cuda->api.EventRecord(event_of(e), user),
                  "recording an event on the caller's stream", err);
    leave(g, &guest);
    return st;
}

static enum ckpt_status cuda_wait(struct gpu *gpu, const struct gpu_event *e, struct ckpt_err *err)
{
    struct cuda_gpu *g = of(gpu);
    struct guest guest;
    enum ckpt_status st = enter(g, &guest, err);
    if (st != CKPT_OK)
        return st;
    st = submit(g, err);
    if (st == CKPT_OK)
        st = said(g, g->cuda->api.StreamWaitEvent(g->stream, event_of(e), 0),
                  "waiting for an event", err);
    leave(g, &guest);
    return st;
}

static enum ckpt_status cuda_wait_user(struct gpu *gpu, void *user, const struct gpu_event *e,
                                       struct ckpt_err *err)
{
    struct cuda_gpu *g = of(gpu);
    struct guest guest;
    enum capturing capturing = CAPTURING_NOT;
    enum ckpt_status st = enter(g, &guest, err);
    if (st != CKPT_OK)
        return st;
    st = said(g, is_capturing(g->cuda, user, &capturing), "looking at the stream", err);
    if (st == CKPT_OK && capturing == CAPTURING_BESIDE) /* nothing may be put there */
        st = err_set(err, CKPT_WRONG_STATE,
                     "the default stream cannot wait while another one is captured into a graph: "
                     "name a stream, or use ckpt_fence");
    if (st == CKPT_OK)
        st = said(g,
                  g->cuda->api.StreamWaitEvent(
                      user, event_of(e), capturing == CAPTURING ? CUDA_EVENT_WAIT_EXTERNAL : 0),
                  "making the caller's stream wait", err);
    leave(g, &guest);
    return st;
}

static enum ckpt_status cuda_query(const struct gpu_event *e, struct ckpt_err *err)
{
    struct cuda_gpu *g = of(e->gpu);
    struct guest guest;
    enum ckpt_status st = enter(g, &guest, err);
    if (st != CKPT_OK)
        return st;
    cuda_error ce = g->cuda->api.EventQuery(event_of(e));
    st = ce == CUDA_NOT_READY ? CKPT_BUSY : said(g, ce, "copying", err);
    if (ce != CUDA_SUCCESS && ce != CUDA_NOT_READY)
        atomic_store(&g->lost, true); /* whether its copies go on cannot be known any more */
    leave(g, &guest);
    return st;
}

/* -- devices ---------------------------------------------------------------- */

void *gpu_cuda_stream(const struct gpu *g)
{
    return ((const struct cuda_gpu *)g)->stream;
}

int gpu_cuda_one_by_one(const struct gpu *g)
{
    return atomic_load(&((const struct cuda_gpu *)g)->one_by_one);
}

bool cuda_uses_host_pointers(const struct cuda *c, int device)
{
    int same = 0;
    if (c->api.DeviceGetAttribute(&same, CUDA_USES_HOST_POINTERS, device) != CUDA_SUCCESS)
        (void)c->api.GetLastError();
    return same;
}

/* Batches are given the host's own pointers to pinned memory. */
static bool has_batches(const struct cuda *c, int device)
{
    return (c->api.MemcpyBatch13 || c->api.MemcpyBatch12) && cuda_uses_host_pointers(c, device);
}

static void cuda_gpu_free(struct gpu *gpu)
{
    struct cuda_gpu *g = of(gpu);
    struct guest guest;
    if (enter(g, &guest, NULL) == CKPT_OK) {
        if (g->cuda->api.StreamDestroy(g->stream) != CUDA_SUCCESS)
            (void)g->cuda->api.GetLastError();
        leave(g, &guest);
    }
    free(g);
}

static const struct gpu_ops cuda_ops = {
    .name = "cuda",
    .pin = cuda_pin,
    .unpin = cuda_unpin,
    .event_new = cuda_event_new,
    .event_free = cuda_event_free,
    .record = cuda_record,
    .record_user = cuda_record_user,
    .wait = cuda_wait,
    .wait_user = cuda_wait_user,
    .query = cuda_query,
    .copy_out = cuda_copy_out,
    .copy_in = cuda_copy_in,
    .free = cuda_gpu_free,
};

enum ckpt_status gpu_cuda_new(const struct cuda *c, int device, struct gpu **ret,
                              struct ckpt_err *err)
{
    struct guest guest;
    struct cuda_gpu *g = calloc(1, sizeof(*g));
    if (!g)
        return err_set(err, CKPT_NO_MEMORY, "out of memory");
    g->base.ops = &cuda_ops;
    g->cuda = c;
    g->device = device;
    atomic_init(&g->one_by_one, has_batches(c, device) ? CUDA_SUCCESS : CUDA_NOT_SUPPORTED);
    enum ckpt_status st = enter(g, &guest, err);
    if (st == CKPT_OK) {
        st = said(g, c->api.StreamCreateWithFlags(&g->stream, CUDA_STREAM_NON_BLOCKING),
                  "making a stream", err);
        leave(g, &guest);
    }
    if (st != CKPT_OK) {
        free(g);
        return st;
    }
    *ret = &g->base;
    return CKPT_OK;
}

enum ckpt_status cuda_open(struct cuda *ret, struct ckpt_err *err)
{
    struct cuda c = { 0 };
    enum ckpt_status st = cuda_api_load(&c.api, err);
    if (st != CKPT_OK)
        return st;
    cuda_error e = c.api.GetDeviceCount(&c.devices);
    if (e != CUDA_SUCCESS)
        return cuda_fail(&c.api, e, "counting devices", err);
    if (!c.api.CtxGetCurrent || !c.api.DevicePrimaryCtxGetState || !c.api.PointerGetAttributes)
        return err_set(err, CKPT_UNSUPPORTED, "libcuda.so.1 is not loaded, or too old");
    *ret = c;
    return CKPT_OK;
}

enum ckpt_status cuda_device_of(const struct cuda *c, const void *p, int *ret, struct ckpt_err *err)
{
    unsigned type = 0, managed = 0;
    int device = -1;
    int what[] = { CUDA_POINTER_MEMORY_TYPE, CUDA_POINTER_IS_MANAGED, CUDA_POINTER_DEVICE };
    void *answers[] = { &type, &managed, &device };
    cuda_error e = c->api.PointerGetAttributes(ARRAY_COUNT(what), what, answers, (uintptr_t)p);
    if (e != CUDA_SUCCESS)
        return err_set(err, CKPT_DEVICE, "asking the CUDA driver where a buffer lies: error %d", e);
    *ret = type == CUDA_MEMORY_DEVICE || managed ? device : -1;
    return CKPT_OK;
}

enum ckpt_status cuda_device_current(const struct cuda *c, int *ret, struct ckpt_err *err)
{
    cuda_error e = c->api.GetDevice(ret);
    return e == CUDA_SUCCESS ? CKPT_OK : cuda_fail(&c->api, e, "asking for the device", err);
}

bool cuda_context_here(const struct cuda *c)
{
    void *context = NULL;
    return c->api.CtxGetCurrent(&context) == CUDA_SUCCESS && context;
}

enum ckpt_status cuda_capturing(const struct cuda *c, void *stream, bool *ret, struct ckpt_err *err)
{
    enum capturing capturing = CAPTURING_NOT;
    int device = 0;
    cuda_error e = c->api.GetDevice(&device);
    if (e == CUDA_SUCCESS && (cuda_context_here(c) || in_use(c, device)))
        e = is_capturing(c, stream, &capturing);
    *ret = capturing != CAPTURING_NOT;
    return e == CUDA_SUCCESS ? CKPT_OK : cuda_fail(&c->api, e, "looking at the stream", err);
}
