/* See fake_cudart.h. */
#include "fakes/fake_cudart.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "fakes/named_calls.h"
#include "libckpt/cuda_api.h"

/* 12.8 had one parameter more. */
#if FAKE_CUDART_VERSION >= 13000
#define BATCH_PARAMS                                                                             \
    void **dsts, void **srcs, size_t *sizes, size_t count, struct cuda_memcpy_attributes *attrs, \
        size_t *attrs_first, size_t attr_count, cuda_stream s
#else
#define BATCH_PARAMS                                                                             \
    void **dsts, void **srcs, size_t *sizes, size_t count, struct cuda_memcpy_attributes *attrs, \
        size_t *attrs_first, size_t attr_count, size_t *fail __attribute__((unused)),            \
        cuda_stream s
#endif

#define POISON       0xEE
#define RANGES_MAX   4096
#define CAPTURE_BAD  900
#define HANDLE_BAD   400
#define NOT_PINNED   713
#define BETWEEN      3 /* device to device */
#define PER_THREAD   ((cuda_stream)2)
#define LEGACY       ((cuda_stream)1)
#define MAPPED(size) (((size) + 4095) / 4096 * 4096)

#define DIE(...)                                                                  \
    do {                                                                          \
        fprintf(stderr, "fake CUDA: " __VA_ARGS__), fputc('\n', stderr), abort(); \
    } while (0)

enum kind { KERNEL, COPY, RECORD, WAIT };
struct rect {
    unsigned char *dst;
    const unsigned char *src;
    size_t dst_pitch, src_pitch, width, rows;
};
struct op {
    struct op *next;
    enum kind kind;
    void (*kernel)(void *);
    void *arg;
    bool in; /* host to device */
    size_t count;
    struct rect *rects;
    cuda_event event;
    uint64_t generation;
    bool *done; /* somebody waits */
};
struct CUevent_st {
    int device;
    unsigned refs;
    uint64_t recorded, done;
};
struct CUstream_st {
    struct CUstream_st *next; /* of all there are */
    int device;
    uint64_t random;
    struct op *first, *last; /* the first is being done */
    bool ending;
    bool capturing, spoilt, global;
    struct op *graph;
};
struct range {
    unsigned char *base, *shadow; /* shadow: device memory */
    size_t bytes;
    int device;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct range ranges[RANGES_MAX];
static size_t range_count, pinned_at_once;
static struct CUstream_st *defaults[FAKE_DEVICES], *streams;
static uint64_t seed = 1;
static unsigned longest_us = 200;
static int broken, contexts;
static bool other_pointers;
static unsigned captures; /* global ones */
static struct named_calls calls;
static _Thread_local int device, mode, last_error;
static _Thread_local bool bound; /* to a context on `device` */
static _Thread_local cuda_stream mine;
static _Thread_local unsigned asked;

/* What works on the current device makes a context there.  Lock held. */
static void use_context(void)
{
    contexts |= 1 << device;
    bound = true;
}

/* -- errors on demand ------------------------------------------------------------- */

/* The beginning of every call; lock held afterwards.  unsafe: must not run beside a global
 * capture. */
static cuda_error begin(const char *name, bool unsafe)
{
    pthread_mutex_lock(&lock);
    struct named_call *f = named_call(&calls, name);
    bool fails = named_call_fails(f);
    while (named_call_held(f))
        pthread_cond_wait(&changed, &lock);
    if (fails) {
        if (f->sticky)
            broken = f->error;
        pthread_cond_broadcast(&changed);
        return last_error = f->error;
    }
    if (unsafe && captures && mode == CUDA_CAPTURE_GLOBAL) {
        captures |= 0x10000; /* all that are under way */
        return last_error = CAPTURE_BAD;
    }
    return broken;
}

static cuda_error end(cuda_error e)
{
    pthread_mutex_unlock(&lock);
    if (e != CUDA_SUCCESS && e != CUDA_NOT_READY)
        last_error = e;
    return e;
}

void fake_fail(const char *function, unsigned nth, int error, bool sticky)
{
    pthread_mutex_lock(&lock);
    struct named_call *f = named_call(&calls, function);
    f->fail_at = nth;
    f->error = error;
    f->sticky = sticky;
    pthread_mutex_unlock(&lock);
}

void fake_fail_from(const char *function, unsigned nth, int error)
{
    pthread_mutex_lock(&lock);
    struct named_call *f = named_call(&calls, function);
    f->fail_from = nth ? f->count + nth : 0;
    f->error = error;
    f->sticky = false;
    pthread_mutex_unlock(&lock);
}

void fake_other_pointers(void)
{
    pthread_mutex_lock(&lock);
    other_pointers = true;
    pthread_mutex_unlock(&lock);
}

void fake_hold_from(const char *function, unsigned nth)
{
    pthread_mutex_lock(&lock);
    struct named_call *f = named_call(&calls, function);
    f->hold_from = nth ? f->count + nth : 0;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

unsigned fake_calls(const char *function)
{
    pthread_mutex_lock(&lock);
    unsigned n = named_call(&calls, function)->count;
    pthread_mutex_unlock(&lock);
    return n;
}

/* -- memory ----------------------------------------------------------------------- */

static struct range *range_at(const void *p, bool on_device)
{
    const unsigned char *at = p;
    for (size_t i = 0; i < range_count; i++)
        if ((ranges[i].shadow != NULL) == on_device && at >= ranges[i].base &&
            at < ranges[i].base + ranges[i].bytes)
            return &ranges[i];
    return NULL;
}

static void add_range(struct range r)
{
    if (range_count == RANGES_MAX)
        DIE("too many ranges");
    ranges[range_count++] = r;
}

/* Where bytes really are; a whole copy must lie inside one allocation. */
static unsigned char *really(const void *p, size_t bytes, bool on_device)
{
    const struct range *r = range_at(p, true);
    if ((r != NULL) != on_device)
        DIE("%p: %s memory, the copy says otherwise", p, r ? "device" : "host");
    union { /* a source comes back as what it was */
        const void *given;
        unsigned char *p;
    } u = { .given = p };
    if (!r)
        return u.p;
    size_t at = (size_t)((const unsigned char *)p - r->base);
    if (bytes > r->bytes - at)
        DIE("a copy of %zu bytes at %p is outside of its allocation", bytes, p);
    return r->shadow + at;
}

void *fake_malloc(int on, size_t bytes)
{
    return fake_malloc_at(NULL, on, bytes);
}

void *fake_malloc_at(void *at, int on, size_t bytes)
{
    int fd = memfd_create("fake-device", MFD_CLOEXEC);
    size_t size = MAPPED(bytes ? bytes : 1);
    if (fd < 0 || ftruncate(fd, (off_t)size) < 0)
        DIE("no memory");
    struct range r = { .bytes = bytes, .device = on };
    r.base = mmap(at, size, PROT_NONE, MAP_SHARED | (at ? MAP_FIXED_NOREPLACE : 0), fd, 0);
    r.shadow = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (r.base == MAP_FAILED || r.shadow == MAP_FAILED)
        DIE("no memory");
    memset(r.shadow, POISON, size);
    pthread_mutex_lock(&lock);
    contexts |= 1 << on;
    add_range(r);
    pthread_mutex_unlock(&lock);
    return r.base;
}

void fake_free(void *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&lock);
    struct range *r = range_at(p, true), gone;
    if (!r || r->base != p)
        DIE("%p was not allocated", p);
    gone = *r;
    *r = ranges[--range_count];
    pthread_mutex_unlock(&lock);
    munmap(gone.base, MAPPED(gone.bytes ? gone.bytes : 1));
    munmap(gone.shadow, MAPPED(gone.bytes ? gone.bytes : 1));
}

void *fake_look(void *p)
{
    pthread_mutex_lock(&lock);
    void *at = really(p, 0, true);
    pthread_mutex_unlock(&lock);
    return at;
}

unsigned fake_asked(void)
{
    return asked;
}

size_t fake_allocated(int on)
{
    size_t n = 0;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < range_count; i++)
        n += ranges[i].shadow && ranges[i].device == on ? ranges[i].bytes : 0;
    pthread_mutex_unlock(&lock);
    return n;
}

size_t fake_pinned(void)
{
    size_t n = 0;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < range_count; i++)
        n += ranges[i].shadow ? 0 : ranges[i].bytes;
    pthread_mutex_unlock(&lock);
    return n;
}

size_t fake_pinned_at_once(void)
{
    pthread_mutex_lock(&lock);
    size_t most = pinned_at_once;
    pthread_mutex_unlock(&lock);
    return most;
}

int fake_contexts(void)
{
    return contexts;
}

/* -- streams ------------------------------------------------------------------------ */

void fake_seed(uint64_t s, unsigned delay_us)
{
    seed = s;
    longest_us = delay_us;
}

static uint64_t draw(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    return z ^ (z >> 31);
}

static void dawdle(uint64_t *random)
{
    if (longest_us && draw(random) % 4 == 0)
        nanosleep(&(struct timespec){ .tv_nsec = (long)(draw(random) % longest_us) * 1000 }, NULL);
}

static void each_row(const struct rect *r, bool poison, size_t from, size_t to)
{
    for (size_t i = from; i < to; i++) {
        if (poison)
            memset(r->dst + i * r->dst_pitch, POISON, r->width);
        else
            memcpy(r->dst + i * r->dst_pitch, r->src + i * r->src_pitch, r->width);
    }
}

/* Lock held: others look at what is not done yet. */
static void any_order(struct op *op, uint64_t *random)
{
    for (size_t i = op->count; i > 1; i--) {
        size_t k = draw(random) % i;
        struct rect t = op->rects[i - 1];
        op->rects[i - 1] = op->rects[k];
        op->rects[k] = t;
    }
}

static void begin_rect(void)
{
    pthread_mutex_lock(&lock);
    struct named_call *f = named_call(&calls, "copies");
    f->count++;
    while (named_call_held(f))
        pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
}

static void do_copy(struct op *op, uint64_t *random)
{
    for (size_t i = 0; op->in && i < op->count; i++)
        each_row(&op->rects[i], true, 0, op->rects[i].rows);
    for (size_t i = 0; i < op->count; i++) {
        struct rect *r = &op->rects[i];
        size_t half = r->rows / 2;
        begin_rect();
        each_row(r, false, 0, half);
        dawdle(random);
        each_row(r, false, half, r->rows);
    }
}

static void event_unref(cuda_event e)
{
    if (--e->refs == 0)
        free(e);
}

/* One operation, without the lock but for what is shared. */
static void do_op(struct CUstream_st *s, struct op *op)
{
    dawdle(&s->random);
    pthread_mutex_lock(&lock);
    while (broken || (op->kind == WAIT && op->event->done < op->generation))
        pthread_cond_wait(&changed, &lock); /* after a sticky error nothing happens any more */
    if (op->kind == COPY)
        any_order(op, &s->random);
    pthread_mutex_unlock(&lock);
    if (op->kind == KERNEL)
        op->kernel(op->arg);
    if (op->kind == COPY)
        do_copy(op, &s->random);
    pthread_mutex_lock(&lock);
    if (op->kind == RECORD && op->event->done < op->generation)
        op->event->done = op->generation;
    if (op->event)
        event_unref(op->event);
    if (op->done)
        *op->done = true;
}

static void *stream_main(void *arg)
{
    struct CUstream_st *s = arg;
    pthread_mutex_lock(&lock);
    while (s->first || !s->ending) {
        if (!s->first) {
            pthread_cond_wait(&changed, &lock);
            continue;
        }
        struct op *op = s->first;
        pthread_mutex_unlock(&lock);
        do_op(s, op); /* comes back with the lock */
        s->first = op->next;
        if (!s->first)
            s->last = NULL;
        free(op->rects);
        free(op);
        pthread_cond_broadcast(&changed);
    }
    struct CUstream_st **at = &streams;
    while (*at != s)
        at = &(*at)->next;
    *at = s->next;
    while (s->graph) {
        struct op *op = s->graph;
        s->graph = op->next;
        if (op->event)
            event_unref(op->event);
        free(op);
    }
    pthread_mutex_unlock(&lock);
    free(s);
    return NULL;
}

static cuda_stream new_stream(int on)
{
    pthread_t thread;
    cuda_stream s = calloc(1, sizeof(*s));
    s->device = on;
    s->random = seed++ * 77;
    s->next = streams;
    streams = s;
    contexts |= 1 << on;
    pthread_create(&thread, NULL, stream_main, s);
    pthread_detach(thread);
    return s;
}

/* Lock held. */
static cuda_stream resolve(cuda_stream s)
{
    if (s == PER_THREAD)
        return mine ? mine : (mine = new_stream(device));
    if (s && s != LEGACY)
        return s;
    return defaults[device] ? defaults[device] : (defaults[device] = new_stream(device));
}

/* Lock held. */
static void push(cuda_stream s, struct op op)
{
    struct op *o = malloc(sizeof(*o));
    *o = op;
    o->next = NULL;
    if (s->last)
        s->last->next = o;
    else
        s->first = o;
    s->last = o;
    pthread_cond_broadcast(&changed);
}

/* Onto the stream, or into the graph that it is captured into.  Lock held. */
static void push_or_keep(cuda_stream s, struct op op)
{
    struct op **at = &s->graph;
    while (s->capturing && *at)
        at = &(*at)->next;
    if (s->capturing)
        *at = memcpy(malloc(sizeof(op)), &op, sizeof(op));
    else
        push(s, op);
}

static void push_and_wait(cuda_stream s, struct op op)
{
    bool done = false;
    op.done = &done;
    push(s, op);
    while (!done && !broken)
        pthread_cond_wait(&changed, &lock);
    if (!done)
        for (struct op *o = s->first; o; o = o->next)
            o->done = o->done == &done ? NULL : o->done;
}

fake_stream fake_stream_new(int on)
{
    pthread_mutex_lock(&lock);
    cuda_stream s = new_stream(on);
    pthread_mutex_unlock(&lock);
    return s;
}

void fake_stream_free(fake_stream s)
{
    pthread_mutex_lock(&lock);
    s->ending = true;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

void fake_launch(fake_stream given, void (*kernel)(void *), void *arg)
{
    pthread_mutex_lock(&lock);
    cuda_stream s = resolve(given);
    push_or_keep(s, (struct op){ .kind = KERNEL, .kernel = kernel, .arg = arg });
    pthread_mutex_unlock(&lock);
}

void fake_sync(fake_stream given)
{
    pthread_mutex_lock(&lock);
    cuda_stream s = resolve(given);
    while (s->first && !broken)
        pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
}

/* -- graphs ------------------------------------------------------------------------- */

void fake_capture_begin(fake_stream s, bool global)
{
    pthread_mutex_lock(&lock);
    s->capturing = true;
    s->global = global;
    s->spoilt = false;
    captures += global;
    pthread_mutex_unlock(&lock);
}

bool fake_capture_end(fake_stream s)
{
    pthread_mutex_lock(&lock);
    bool good = !s->spoilt && !(s->global && captures & 0x10000);
    captures = (captures & 0xffff) - s->global;
    s->capturing = false;
    pthread_mutex_unlock(&lock);
    return good;
}

void fake_replay(fake_stream graph, fake_stream given)
{
    pthread_mutex_lock(&lock);
    cuda_stream to = resolve(given);
    for (const struct op *o = graph->graph; o; o = o->next) {
        struct op op = *o;
        if (op.kind == WAIT) {
            op.generation = op.event->recorded; /* as it is now */
            op.event->refs++;
        }
        push(to, op);
    }
    pthread_mutex_unlock(&lock);
}

/* -- the runtime's functions ----------------------------------------------------------- */

#define API                   __attribute__((visibility("default")))
#define DECLARE(name, params) API cuda_error cuda##name params;
CUDA_FUNCTIONS(DECLARE)
API const char *cudaGetErrorName(cuda_error e);
API const char *cudaGetErrorString(cuda_error e);
#if FAKE_CUDART_VERSION >= 12080
API cuda_error cudaMemcpyBatchAsync(BATCH_PARAMS);
#endif
API cuda_error cuCtxGetCurrent(void **ret);
API cuda_error cuDevicePrimaryCtxGetState(int d, unsigned *flags, int *active);
API cuda_error cuPointerGetAttributes(unsigned count, int *attributes, void **data,
                                      unsigned long long at);
/* What programs call, and the library does not. */
API cuda_error cudaFree(void *p);
API cuda_error cudaStreamSynchronize(cuda_stream s);

const char *cudaGetErrorName(cuda_error e)
{
    static _Thread_local char name[32];
    snprintf(name, sizeof(name), "cudaError%d", e);
    return name;
}

const char *cudaGetErrorString(cuda_error e __attribute__((unused)))
{
    return "said by the fake";
}

cuda_error cudaRuntimeGetVersion(int *ret)
{
    *ret = FAKE_CUDART_VERSION;
    return CUDA_SUCCESS;
}

static int driver_version(void)
{
    const char *given = getenv("FAKE_DRIVER_VERSION");
    return given ? (int)strtol(given, NULL, 10) : FAKE_CUDART_VERSION;
}

cuda_error cudaDriverGetVersion(int *ret)
{
    *ret = driver_version();
    return CUDA_SUCCESS;
}

cuda_error cudaGetDeviceCount(int *count)
{
    cuda_error e = begin("GetDeviceCount", false);
    if (e == CUDA_SUCCESS && driver_version() / 1000 < FAKE_CUDART_VERSION / 1000)
        e = CUDA_INSUFFICIENT_DRIVER;
    *count = FAKE_DEVICES;
    return end(e);
}

cuda_error cudaGetDevice(int *ret)
{
    *ret = device;
    return CUDA_SUCCESS;
}

cuda_error cudaSetDevice(int d)
{
    cuda_error e = begin("SetDevice", false);
    if (e == CUDA_SUCCESS) {
        device = d;
        use_context(); /* as CUDA 12 does */
    }
    return end(e);
}

/* Of the driver, which this is too. */
cuda_error cuCtxGetCurrent(void **ret)
{
    pthread_mutex_lock(&lock);
    *ret = bound ? &contexts : NULL;
    pthread_mutex_unlock(&lock);
    return CUDA_SUCCESS;
}

cuda_error cudaDeviceGetPCIBusId(char *id, int len, int d)
{
    snprintf(id, (size_t)len, "0000:%02X:00.0", 10 + d);
    return CUDA_SUCCESS;
}

cuda_error cudaDeviceGetAttribute(int *ret, int attribute, int d)
{
    cuda_error e = begin("DeviceGetAttribute", false);
    if (e == CUDA_SUCCESS && (attribute != CUDA_USES_HOST_POINTERS || d >= FAKE_DEVICES))
        e = CUDA_INVALID_VALUE;
    if (e == CUDA_SUCCESS)
        *ret = !other_pointers;
    return end(e);
}

cuda_error cudaGetLastError(void)
{
    cuda_error e = last_error;
    last_error = CUDA_SUCCESS; /* a sticky one, too: it is the other calls that go on failing */
    return e;
}

/* Of the driver. */
cuda_error cuDevicePrimaryCtxGetState(int d, unsigned *flags, int *active)
{
    pthread_mutex_lock(&lock);
    *flags = 0;
    *active = contexts >> d & 1;
    pthread_mutex_unlock(&lock);
    return CUDA_SUCCESS;
}

cuda_error cuPointerGetAttributes(unsigned count, int *attributes, void **data,
                                  unsigned long long at)
{
    cuda_error e = begin("PointerGetAttributes", false);
    const void *p = (const void *)(uintptr_t)at;
    const struct range *r = range_at(p, true);
    asked++;
    for (unsigned i = 0; i < count; i++) {
        int *to = data[i];
        if (attributes[i] == CUDA_POINTER_MEMORY_TYPE)
            *to = r ? CUDA_MEMORY_DEVICE : range_at(p, false) ? CUDA_MEMORY_HOST : 0;
        else if (attributes[i] == CUDA_POINTER_DEVICE)
            *to = r ? r->device : -2;
        else
            *to = 0;
    }
    return end(e);
}

cuda_error cudaHostRegister(void *p, size_t bytes, unsigned flags)
{
    cuda_error e = begin("HostRegister", true);
    use_context();
    unsigned char *at = p;
    if (e == CUDA_SUCCESS && (bytes == 0 || bytes > (size_t)1 << 30))
        e = CUDA_INVALID_VALUE;
    if (flags != CUDA_HOST_REGISTER_PORTABLE)
        DIE("pinned for one device only");
    if (e == CUDA_SUCCESS && (range_at(at, false) || range_at(at + bytes - 1, false)))
        e = CUDA_HOST_ALREADY_REGISTERED;
    if (e == CUDA_SUCCESS)
        add_range((struct range){ .base = at, .bytes = bytes });
    if (e == CUDA_SUCCESS && bytes > pinned_at_once)
        pinned_at_once = bytes;
    return end(e);
}

/* Lock held. */
static void no_copy_there(const struct range *r)
{
    for (const struct CUstream_st *s = streams; s && !broken; s = s->next)
        for (const struct op *o = s->first; o; o = o->next)
            for (size_t i = 0; o->kind == COPY && i < o->count; i++) {
                const unsigned char *host = o->in ? o->rects[i].src : o->rects[i].dst;
                if (host >= r->base && host < r->base + r->bytes)
                    DIE("memory is unpinned under a copy");
            }
}

cuda_error cudaHostUnregister(void *p)
{
    cuda_error e = begin("HostUnregister", true);
    struct range *r = range_at(p, false);
    if (e == CUDA_SUCCESS && (!r || r->base != p))
        e = NOT_PINNED;
    if (e == CUDA_SUCCESS)
        no_copy_there(r);
    if (e == CUDA_SUCCESS)
        *r = ranges[--range_count];
    return end(e);
}

cuda_error cudaStreamCreateWithFlags(cuda_stream *ret, unsigned flags)
{
    cuda_error e = begin("StreamCreateWithFlags", true);
    use_context();
    if (flags != CUDA_STREAM_NON_BLOCKING)
        DIE("a stream that waits for the default stream");
    if (e == CUDA_SUCCESS)
        *ret = new_stream(device);
    return end(e);
}

cuda_error cudaStreamDestroy(cuda_stream s)
{
    cuda_error e = begin("StreamDestroy", false);
    if (e == CUDA_SUCCESS)
        s->ending = true;
    pthread_cond_broadcast(&changed);
    return end(e);
}

cuda_error cudaStreamQuery(cuda_stream s)
{
    cuda_error e = begin("StreamQuery", true);
    return end(e == CUDA_SUCCESS && resolve(s)->first ? CUDA_NOT_READY : e);
}

cuda_error cudaStreamWaitEvent(cuda_stream given, cuda_event event, unsigned flags)
{
    cuda_error e = begin("StreamWaitEvent", false);
    cuda_stream s = resolve(given);
    struct op op = { .kind = WAIT, .event = event, .generation = event->recorded };
    bool external = flags & CUDA_EVENT_WAIT_EXTERNAL;
    if (e == CUDA_SUCCESS && external != s->capturing) {
        s->spoilt = true;
        e = external ? CUDA_INVALID_VALUE : CAPTURE_BAD;
    }
    if (e == CUDA_SUCCESS) {
        event->refs++;
        push_or_keep(s, op);
    }
    return end(e);
}

cuda_error cudaStreamIsCapturing(cuda_stream given, int *ret)
{
    cuda_error e = begin("StreamIsCapturing", false);
    use_context();
    bool legacy = !given || given == LEGACY;
    if (e == CUDA_SUCCESS && legacy && captures)
        e = CUDA_CAPTURE_IMPLICIT;
    *ret = e == CUDA_SUCCESS && resolve(given)->capturing;
    return end(e);
}

cuda_error cudaThreadExchangeStreamCaptureMode(int *m)
{
    int before = mode;
    cuda_error e = begin("ThreadExchangeStreamCaptureMode", false);
    use_context();
    mode = *m;
    *m = before;
    return end(e);
}

cuda_error cudaEventCreateWithFlags(cuda_event *ret, unsigned flags)
{
    cuda_error e = begin("EventCreateWithFlags", true);
    use_context();
    if (flags != CUDA_EVENT_DISABLE_TIMING)
        DIE("an event that takes the time");
    if (e == CUDA_SUCCESS) {
        *ret = calloc(1, sizeof(**ret));
        **ret = (struct CUevent_st){ .device = device, .refs = 1 };
    }
    return end(e);
}

cuda_error cudaEventDestroy(cuda_event event)
{
    cuda_error e = begin("EventDestroy", false);
    event_unref(event);
    return end(e);
}

cuda_error cudaEventRecord(cuda_event event, cuda_stream given)
{
    cuda_error e = begin("EventRecord", false);
    cuda_stream s = resolve(given);
    if (e == CUDA_SUCCESS && event->device != s->device)
        e = HANDLE_BAD;
    if (e == CUDA_SUCCESS && (s->capturing || (!given && captures))) {
        s->spoilt = true;
        captures |= captures ? 0x10000 : 0;
        e = CAPTURE_BAD;
    }
    if (e == CUDA_SUCCESS) {
        event->refs++;
        push(s, (struct op){ .kind = RECORD, .event = event, .generation = ++event->recorded });
    }
    return end(e);
}

cuda_error cudaEventQuery(cuda_event event)
{
    cuda_error e = begin("EventQuery", true);
    if (e == CUDA_SUCCESS && event->done < event->recorded)
        e = CUDA_NOT_READY;
    return end(e);
}

/* What a copy of the rectangle touches on the host. */
static struct range host_range(const struct rect *r, bool in)
{
    size_t dst_bytes = r->dst_pitch * (r->rows - 1) + r->width;
    size_t src_bytes = r->src_pitch * (r->rows - 1) + r->width;
    union { /* only compared */
        const unsigned char *given;
        unsigned char *p;
    } u = { .given = in ? r->src : r->dst };
    return (struct range){ .base = u.p, .bytes = in ? src_bytes : dst_bytes };
}

/* No copy reaches from one pinned range into another, or out of it. */
static bool one_pinning(const struct rect *r, bool in)
{
    struct range at = host_range(r, in);
    for (size_t i = 0; i < range_count; i++) {
        const struct range *p = &ranges[i];
        if (!p->shadow && at.base < p->base + p->bytes && p->base < at.base + at.bytes)
            return at.base >= p->base && at.base + at.bytes <= p->base + p->bytes;
    }
    return true;
}

size_t fake_in_air(struct fake_span *ret, size_t max)
{
    size_t n = 0;
    pthread_mutex_lock(&lock);
    for (const struct CUstream_st *s = streams; s; s = s->next)
        for (const struct op *o = s->first; o; o = o->next)
            for (size_t i = 0; o->kind == COPY && i < o->count; i++, n++) {
                struct range at = host_range(&o->rects[i], o->in);
                if (n < max)
                    ret[n] = (struct fake_span){ at.base, at.bytes };
            }
    pthread_mutex_unlock(&lock);
    return n;
}

/* Memory on no device may be pinned instead: then it is copied all the same. */
static bool reaches(const void *p)
{
    return range_at(p, true) || range_at(p, false);
}

/* Resolves the addresses, poisons what the host will read, queues; waits where memory is not
 * pinned.  Lock held. */
static cuda_error copy(cuda_stream s, struct rect *rects, size_t count, int kind)
{
    bool in = kind == CUDA_HOST_TO_DEVICE, between = kind == BETWEEN, pinned = true;
    for (size_t i = 0; i < count; i++) {
        const struct rect *r = &rects[i];
        bool device_memory = in || between ? reaches(r->dst) : reaches(r->src);
        if (!device_memory || (!between && !one_pinning(r, in))) {
            free(rects);
            return CUDA_INVALID_VALUE;
        }
    }
    for (size_t i = 0; i < count; i++) {
        struct rect *r = &rects[i];
        size_t dst_bytes = r->dst_pitch * (r->rows - 1) + r->width;
        size_t src_bytes = r->src_pitch * (r->rows - 1) + r->width;
        pinned &= between || range_at(host_range(r, in).base, false);
        r->dst = really(r->dst, dst_bytes, (in || between) && !range_at(r->dst, false));
        r->src = really(r->src, src_bytes, !in && !range_at(r->src, false));
        if (!in && !between)
            each_row(r, true, 0, r->rows);
    }
    struct op op = { .kind = COPY, .in = in, .count = count, .rects = rects };
    if (pinned)
        push(s, op);
    else
        push_and_wait(s, op);
    return broken;
}

cuda_error cudaMemcpyAsync(void *dst, const void *src, size_t bytes, int kind, cuda_stream s)
{
    cuda_error e = begin("MemcpyAsync", false);
    struct rect *r = malloc(sizeof(*r));
    *r = (struct rect){ .dst = dst, .src = src, .width = bytes, .rows = 1 };
    if (e == CUDA_SUCCESS)
        e = copy(resolve(s), r, 1, kind);
    else
        free(r);
    return end(e);
}

cuda_error cudaMemcpy2DAsync(void *dst, size_t dst_pitch, const void *src, size_t src_pitch,
                             size_t width, size_t height, int kind, cuda_stream s)
{
    cuda_error e = begin("Memcpy2DAsync", false);
    if (e == CUDA_SUCCESS &&
        (width > dst_pitch || width > src_pitch || dst_pitch > INT32_MAX || src_pitch > INT32_MAX))
        e = CUDA_INVALID_VALUE;
    struct rect *r = malloc(sizeof(*r));
    *r = (struct rect){ dst, src, dst_pitch, src_pitch, width, height };
    if (e == CUDA_SUCCESS)
        e = copy(resolve(s), r, 1, kind);
    else
        free(r);
    return end(e);
}

#if FAKE_CUDART_VERSION >= 12080
cuda_error cudaMemcpyBatchAsync(BATCH_PARAMS)
{
    cuda_error e = begin("MemcpyBatchAsync", false);
    if (!s || s == LEGACY || count == 0 || attr_count != 1 || attrs_first[0] != 0 ||
        attrs->src_access_order != CUDA_SRC_ACCESS_STREAM)
        e = e ? e : CUDA_INVALID_VALUE;
    if (other_pointers)
        DIE("a batch of copies where the host's pointers are not the device's");
    if (e != CUDA_SUCCESS)
        return end(e);
    struct rect *r = calloc(count, sizeof(*r));
    int kind = range_at(dsts[0], true) ? CUDA_HOST_TO_DEVICE : CUDA_DEVICE_TO_HOST;
    if ((attrs->flags == CUDA_COPY_BESIDE_COMPUTE) != (kind == CUDA_DEVICE_TO_HOST))
        DIE("a save's copies are to run beside compute, and no others");
    for (size_t i = 0; i < count; i++)
        r[i] = (struct rect){ .dst = dsts[i], .src = srcs[i], .width = sizes[i], .rows = 1 };
    return end(copy(s, r, count, kind));
}
#endif

/* -- for programs ------------------------------------------------------------------------ */

static bool all_idle(void)
{
    bool idle = true;
    for (const struct CUstream_st *s = streams; s; s = s->next)
        idle &= !s->first;
    return idle;
}

cuda_error cudaFree(void *p) /* waits for the devices, as CUDA's does */
{
    pthread_mutex_lock(&lock);
    while (!all_idle() && !broken)
        pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
    fake_free(p);
    return CUDA_SUCCESS;
}

cuda_error cudaStreamSynchronize(cuda_stream s)
{
    fake_sync(s);
    return broken;
}
