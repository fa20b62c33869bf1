/* See gpu_kit.h. */
#include "bench/gpu_kit.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define HUGE_TENSORS 4

void gpu_kit_must(int error, const char *what)
{
    if (error == 0)
        return;
    fprintf(stderr, "%s: CUDA error %d\n", what, error);
    exit(1);
}

void gpu_kit_ok(enum ckpt_status st, const char *what)
{
    if (st == CKPT_OK)
        return;
    fprintf(stderr, "%s: %s: %s\n", what, ckpt_status_name(st), ckpt_error());
    exit(1);
}

double gpu_kit_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* -- the runtime -------------------------------------------------------------- */

static bool take(void *lib, const char *name, void *ret_function)
{
    void *s = dlsym(lib, name);
    memcpy(ret_function, &s, sizeof(s));
    return s != NULL;
}

/* Does the driver know this runtime, and are there devices? */
static bool works(void *lib)
{
    int (*count)(int *ret) = NULL, n = 0;
    return take(lib, "cudaGetDeviceCount", &count) && count(&n) == 0;
}

/* The first that works; else the first there is, which says why not. */
static void *find_runtime(struct gpu_kit *k)
{
    static const char *const names[] = { "libcudart.so.13", "libcudart.so.12" };
    const char *given = getenv("CKPT_CUDART");
    void *lib = NULL;
    for (size_t i = 0; (!lib || !works(lib)) && i < (given ? 1 : 2); i++) {
        const char *name = given ? given : names[i];
        void *one = dlopen(name, RTLD_NOW);
        if (!one || (lib && !works(one)))
            continue;
        snprintf(k->from, sizeof(k->from), "%s", name);
        lib = one;
    }
    if (!lib)
        snprintf(k->from, sizeof(k->from), "%s", given ? given : names[0]);
    return lib;
}

/* The driver knows what the device is called. */
static void name_device(struct gpu_kit *k)
{
    int (*get_name)(char *ret, int cap, int device) = NULL;
    void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    snprintf(k->device, sizeof(k->device), "device 0 of %.60s", k->from);
    if (driver && take(driver, "cuDeviceGetName", &get_name))
        (void)get_name(k->device, sizeof(k->device), 0);
}

bool gpu_kit_open(struct gpu_kit *ret, char *ret_why, size_t cap)
{
    struct gpu_kit k = { 0 };
    int devices = 0;
    void *lib = find_runtime(&k);
    if (!lib) {
        snprintf(ret_why, cap, "no GPU: no CUDA runtime (%.100s)", dlerror());
        return false;
    }
#define GPU_KIT_TAKE(name, params)                                         \
    if (!take(lib, "cuda" #name, &k.name)) {                               \
        snprintf(ret_why, cap, "no GPU: %.80s has no cuda" #name, k.from); \
        return false;                                                      \
    }
    GPU_KIT_FUNCTIONS(GPU_KIT_TAKE)
#undef GPU_KIT_TAKE
    int error = k.GetDeviceCount(&devices);
    if (error != 0 || devices < 1) {
        snprintf(ret_why, cap, "no GPU: %.80s counts %d devices, error %d", k.from, devices, error);
        return false;
    }
    k.devices = devices;
    gpu_kit_must(k.SetDevice(0), "cudaSetDevice");
    gpu_kit_must(k.RuntimeGetVersion(&k.runtime), "cudaRuntimeGetVersion");
    gpu_kit_must(k.DriverGetVersion(&k.driver), "cudaDriverGetVersion");
    gpu_kit_must(k.StreamCreateWithFlags(&k.stream, 1), "cudaStreamCreate");
    name_device(&k);
    *ret = k;
    return true;
}

/* -- a state -------------------------------------------------------------------- */

/* Tensor i of the state: a few huge ones first, then small ones of 1 to 3 shares. */
static uint64_t bytes_of(uint64_t all, size_t small, size_t i)
{
    uint64_t huge = small ? all / 2 / HUGE_TENSORS : all / HUGE_TENSORS;
    uint64_t share = small ? all / 2 / (2 * small) : 0;
    uint64_t bytes = i < HUGE_TENSORS ? huge : share * (1 + i % 3) + i % 7 * 4;
    return bytes / 4 * 4 + 4;
}

static size_t memory_free(const struct gpu_kit *kit)
{
    size_t left = 0, all = 0;
    gpu_kit_must(kit->MemGetInfo(&left, &all), "cudaMemGetInfo");
    return left;
}

/* What copies and sets of memory load at their first use is not the library's, either. */
static void allocate(struct gpu_state *g, uint64_t bytes, size_t small)
{
    g->at = calloc(g->count, sizeof(*g->at));
    if (!g->at)
        abort();
    for (size_t i = 0; i < g->count; i++) {
        g->at[i].bytes = bytes_of(bytes, small, i);
        gpu_kit_must(g->kit->Malloc(&g->at[i].base, g->at[i].bytes), "cudaMalloc");
        g->bytes += g->at[i].bytes;
    }
    gpu_state_compute(g, 0);
    gpu_kit_must(g->kit->StreamSynchronize(g->kit->stream), "cudaStreamSynchronize");
    g->free_before = memory_free(g->kit);
}

static void declare(const struct gpu_state *g, size_t i)
{
    char name[32];
    uint64_t shape = g->at[i].bytes / 4;
    struct ckpt_tensor_desc d = {
        .size = sizeof(d), .name = name, .dtype = CKPT_F32, .ndim = 1, .shape = &shape
    };
    struct ckpt_piece whole = { .len = { shape }, .stride = { 1 } };
    snprintf(name, sizeof(name), "t%05zu", i);
    gpu_kit_ok(ckpt_tensor(g->s, &d, &whole, 1), "ckpt_tensor");
}

void gpu_state_open(struct gpu_state *ret, const struct gpu_kit *kit, const char *dir,
                    const char *job, uint64_t bytes, size_t small, uint64_t arena_bytes)
{
    struct gpu_state g = { .kit = kit, .count = HUGE_TENSORS + small };
    struct ckpt_open_opts o = {
        .size = sizeof(o), .mode = CKPT_TRAIN, .job = job, .store = dir, .arena_bytes = arena_bytes
    };
    allocate(&g, bytes, small);
    gpu_kit_ok(ckpt_open(&o, &g.c), "ckpt_open");
    gpu_kit_ok(ckpt_state_new(g.c, &g.s), "ckpt_state_new");
    for (size_t i = 0; i < g.count; i++)
        declare(&g, i);
    gpu_kit_ok(ckpt_seal(g.s, 600000), "ckpt_seal");
    *ret = g;
}

static int value_of(size_t i, unsigned step)
{
    return (int)((i * 37 + step * 101 + 11) & 0xff);
}

void gpu_state_compute(const struct gpu_state *g, unsigned step)
{
    for (size_t i = 0; i < g->count; i++)
        gpu_kit_must(
            g->kit->MemsetAsync(g->at[i].base, value_of(i, step), g->at[i].bytes, g->kit->stream),
            "cudaMemsetAsync");
}

static bool all_are(const unsigned char *p, size_t n, int value)
{
    return n == 0 || (p[0] == value && memcmp(p, p + 1, n - 1) == 0);
}

size_t gpu_state_wrong(const struct gpu_state *g, unsigned step)
{
    size_t wrong = 0;
    void *host = NULL;
    uint64_t longest = 0;
    for (size_t i = 0; i < g->count; i++)
        longest = g->at[i].bytes > longest ? g->at[i].bytes : longest;
    gpu_kit_must(g->kit->MallocHost(&host, longest), "cudaMallocHost");
    for (size_t i = 0; i < g->count; i++) {
        gpu_kit_must(
            g->kit->MemcpyAsync(host, g->at[i].base, g->at[i].bytes, GPU_D2H, g->kit->stream),
            "cudaMemcpyAsync");
        gpu_kit_must(g->kit->StreamSynchronize(g->kit->stream), "cudaStreamSynchronize");
        wrong += !all_are(host, g->at[i].bytes, value_of(i, step));
    }
    gpu_kit_must(g->kit->FreeHost(host), "cudaFreeHost");
    return wrong;
}

size_t gpu_state_beyond(const struct gpu_state *g)
{
    size_t left = memory_free(g->kit);
    return left < g->free_before ? g->free_before - left : 0;
}

uint64_t gpu_state_save(const struct gpu_state *g, uint64_t step, uint32_t flags)
{
    struct ckpt_save_opts o = { .size = sizeof(o), .step = step, .flags = flags };
    uint64_t op = 0;
    gpu_kit_ok(ckpt_save(g->s, &o, g->at, g->count, g->kit->stream, &op), "ckpt_save");
    return op;
}

void gpu_state_close(struct gpu_state *g)
{
    gpu_kit_ok(ckpt_progress(g->c, CKPT_FINISHED), "ckpt_progress");
    ckpt_close(g->c);
    for (size_t i = 0; i < g->count; i++)
        gpu_kit_must(g->kit->Free(g->at[i].base), "cudaFree");
    free(g->at);
    *g = (struct gpu_state){ 0 };
}
