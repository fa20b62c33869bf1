/* What a snapshot costs on a GPU, each figure beside its limit measured in the same process; one
 * row of a table each (tests/bench/gpu-results.md).
 *
 * usage: bench_gpu DIR [STATE-BYTES [SMALL-TENSORS [STEPS]]]
 * DIR: an empty directory on the disk that saves go to, with room for 6 states of 8 GiB (or
 * STATE-BYTES): the newest two of each job stay.  Without a GPU: "SKIP: ..." and status 77. */
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench/gpu_kit.h"
#include "libckpt/gpu_cuda.h"

#define CHUNK     ((uint64_t)32 << 20)
#define ROUNDS    5
#define STEPS_MAX 4000
#define WAIT_MS   600000
#define MATMUL    2048
#define WHY       200

#define STEP_BYTES ((size_t)192 << 20) /* more than a device's caches hold */

#define BEYOND_MIB 64

static struct gpu_kit kit;
static const char *dir;
static uint64_t state_bytes = UINT64_C(8) << 30;
static size_t small_tensors = 10000, steps_wanted = 200;
static size_t beyond; /* device memory beyond the state: the most seen */

static void row(const char *what, const char *measured, const char *limit, const char *verdict)
{
    printf("| %s | %s | %s | %s |\n", what, measured, limit, verdict);
    fflush(stdout);
}

static void row_ratio(const char *what, double rate, double limit, double least)
{
    char measured[80], beside[80], verdict[80];
    snprintf(measured, sizeof(measured), "%.2f GiB/s", rate / (double)GIB);
    snprintf(beside, sizeof(beside), "%.2f GiB/s", limit / (double)GIB);
    snprintf(verdict, sizeof(verdict), "%.3f (>= %.2f: %s)", rate / limit, least,
             rate >= least * limit ? "yes" : "NO");
    row(what, measured, beside, least > 0 ? verdict : "shown");
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x, size_t n)
{
    qsort(x, n, sizeof(*x), by_size);
    return x[n / 2];
}

static void sync_stream(void)
{
    gpu_kit_must(kit.StreamSynchronize(kit.stream), "cudaStreamSynchronize");
}

/* -- plain copies: the best there is ----------------------------------------------- */

/* Seconds of one plain pinned copy of `bytes`, in parts of `chunk`. */
static double plain_once(void *device, void *host, uint64_t bytes, uint64_t chunk, int kind)
{
    char *d = device, *h = host;
    sync_stream();
    double begun = gpu_kit_now();
    for (uint64_t at = 0; at < bytes; at += chunk) {
        uint64_t n = bytes - at < chunk ? bytes - at : chunk;
        gpu_kit_must(kit.MemcpyAsync(kind == GPU_D2H ? h + at : d + at,
                                     kind == GPU_D2H ? d + at : h + at, n, kind, kit.stream),
                     "cudaMemcpyAsync");
    }
    sync_stream();
    return gpu_kit_now() - begun;
}

/* Bytes a second, best of one copy and of chunks. */
static double plain_rate(uint64_t bytes, int kind)
{
    void *device = NULL, *host = NULL;
    double best = 1e9;
    bytes = bytes > (UINT64_C(8) << 30) ? UINT64_C(8) << 30 : bytes;
    gpu_kit_must(kit.Malloc(&device, bytes), "cudaMalloc");
    gpu_kit_must(kit.MallocHost(&host, bytes), "cudaMallocHost");
    memset(host, 1, bytes);
    for (int i = 0; i < 2 * ROUNDS; i++) {
        double took = plain_once(device, host, bytes, i % 2 ? CHUNK : bytes, kind);
        best = took < best ? took : best;
    }
    gpu_kit_must(kit.FreeHost(host), "cudaFreeHost");
    gpu_kit_must(kit.Free(device), "cudaFree");
    return (double)bytes / best;
}

/* -- snapshot ------------------------------------------------------------------------ */

/* What the audit of a launch's first save takes. */
static void audit(struct gpu_state *g)
{
    uint64_t op = gpu_state_save(g, ROUNDS + 1, CKPT_SAVE_AUDIT);
    gpu_kit_ok(ckpt_fence(g->s, WAIT_MS), "ckpt_fence");
    gpu_kit_ok(ckpt_wait(g->c, op, CKPT_LEVEL_LOCAL, WAIT_MS), "ckpt_wait");
    struct ckpt_info info = { .size = sizeof(info) };
    gpu_kit_ok(ckpt_info(g->c, &info), "ckpt_info");
    row("fence audit", info.audit, "", "shown");
}

/* After saves, and after a restore: of both, the most. */
static void look_beyond(const struct gpu_state *g)
{
    size_t now = gpu_state_beyond(g);
    beyond = now > beyond ? now : beyond;
}

static void row_beyond(void)
{
    char measured[40];
    double mib = (double)beyond / (1 << 20);
    snprintf(measured, sizeof(measured), "%.1f MiB", mib);
    row("device memory beyond the state, after saves and restores", measured, "64 MiB",
        mib <= BEYOND_MIB ? "yes" : "NO");
}

/* What the caller's thread is kept: the first save asks where each tensor lies. */
static void row_kept(const struct gpu_state *g, const double *kept)
{
    char what[80], measured[80];
    double worst = 0;
    for (int i = 1; i < ROUNDS; i++)
        worst = kept[i] > worst ? kept[i] : worst;
    snprintf(what, sizeof(what), "host time of ckpt_save, %zu tensors", g->count);
    snprintf(measured, sizeof(measured), "first %.3f ms, then at most %.3f ms", kept[0] * 1e3,
             worst * 1e3);
    row(what, measured, "", "shown");
}

static void snapshot(double plain)
{
    struct gpu_state g;
    double took[ROUNDS], committed[ROUNDS], kept[ROUNDS];
    char words[120];
    gpu_state_open(&g, &kit, dir, "snapshot", state_bytes, small_tensors, 0);
    for (unsigned i = 0; i < ROUNDS; i++) {
        gpu_state_compute(&g, i);
        sync_stream();
        double begun = gpu_kit_now();
        uint64_t op = gpu_state_save(&g, i + 1, CKPT_SAVE_NO_AUDIT);
        kept[i] = gpu_kit_now() - begun;
        gpu_kit_ok(ckpt_fence(g.s, WAIT_MS), "ckpt_fence");
        took[i] = gpu_kit_now() - begun;
        gpu_kit_ok(ckpt_wait(g.c, op, CKPT_LEVEL_LOCAL, WAIT_MS), "ckpt_wait");
        committed[i] = gpu_kit_now() - begun;
    }
    snprintf(words, sizeof(words), "snapshot of %.1f GiB in %zu tensors, arena = state",
             (double)g.bytes / (double)GIB, g.count);
    row_ratio(words, (double)g.bytes / median(took, ROUNDS), plain, 0.95);
    row_kept(&g, kept);
    struct ckpt_info info = { .size = sizeof(info) };
    gpu_kit_ok(ckpt_info(g.c, &info), "ckpt_info");
    row("pinning the arena", info.devices, "", "shown");
    row("copies are handed over", strstr(info.devices, "one by one") ? "one by one" : "in batches",
        "", "shown");
    audit(&g);
    look_beyond(&g);
    gpu_state_close(&g);
    double disk = (double)state_bytes / median(committed, ROUNDS);
    gpu_state_open(&g, &kit, dir, "eighth", state_bytes / 2, small_tensors, state_bytes / 16);
    for (unsigned i = 0; i < ROUNDS; i++) {
        double begun = gpu_kit_now();
        uint64_t op = gpu_state_save(&g, i + 1, CKPT_SAVE_NO_AUDIT);
        gpu_kit_ok(ckpt_fence(g.s, WAIT_MS), "ckpt_fence");
        took[i] = gpu_kit_now() - begun;
        gpu_kit_ok(ckpt_wait(g.c, op, CKPT_LEVEL_LOCAL, WAIT_MS), "ckpt_wait");
    }
    row_ratio("half of that, state = 8 x arena; limit: the save above up to its commit",
              (double)g.bytes / median(took, ROUNDS), disk, 0);
    gpu_state_close(&g);
}

/* -- steps ----------------------------------------------------------------------------- */

/* A step of the model; `memory` has MATMUL x MATMUL floats three times.  Without a kernel the step
 * bound by memory is a plain copy, and there is none bound by arithmetic. */
struct steps {
    int (*matmul)(void *memory, int n, void *stream);
    int (*memory_bound)(void *memory, size_t bytes, void *stream);
    char no_matmul[WHY], no_memory_bound[WHY]; /* why there is none */
    void *memory;
    size_t bytes;
};

/* The kernels are of another runtime than ours, perhaps one that the driver is too old for: what
 * does not run here once is none. */
static void try_steps(struct steps *s)
{
    int matmul = s->matmul ? s->matmul(s->memory, MATMUL, kit.stream) : 0;
    int memory = s->memory_bound ? s->memory_bound(s->memory, s->bytes, kit.stream) : 0;
    sync_stream();
    if (matmul)
        snprintf(s->no_matmul, WHY, "its kernel: CUDA error %d", matmul);
    if (memory)
        snprintf(s->no_memory_bound, WHY, "its kernel: CUDA error %d", memory);
    s->matmul = matmul ? NULL : s->matmul;
    s->memory_bound = memory ? NULL : s->memory_bound;
}

static void find_steps(struct steps *s)
{
    const char *name = getenv("GPU_STEPS");
    void *lib = dlopen(name ? name : "libgpu_steps.so", RTLD_NOW);
    snprintf(s->no_matmul, WHY, "no kernels: %s", lib ? "none of that name" : dlerror());
    memcpy(s->no_memory_bound, s->no_matmul, WHY);
    void *f[2] = { lib ? dlsym(lib, "step_matmul") : NULL, lib ? dlsym(lib, "step_memory") : NULL };
    memcpy(&s->matmul, &f[0], sizeof(f[0]));
    memcpy(&s->memory_bound, &f[1], sizeof(f[1]));
    s->bytes = STEP_BYTES;
    gpu_kit_must(kit.Malloc(&s->memory, s->bytes), "cudaMalloc");
    gpu_kit_must(kit.MemsetAsync(s->memory, 0, s->bytes, kit.stream), "cudaMemsetAsync");
    sync_stream();
    try_steps(s);
}

static void queue_step(const struct steps *s, bool matmul)
{
    if (matmul)
        gpu_kit_must(s->matmul(s->memory, MATMUL, kit.stream), "matmul");
    else if (s->memory_bound)
        gpu_kit_must(s->memory_bound(s->memory, s->bytes, kit.stream), "memory");
    else
        gpu_kit_must(kit.MemcpyAsync((char *)s->memory + s->bytes / 2, s->memory, s->bytes / 2,
                                     GPU_D2D, kit.stream),
                     "copy");
}

static double one_step(const struct steps *s, bool matmul)
{
    double begun = gpu_kit_now();
    queue_step(s, matmul);
    sync_stream();
    return gpu_kit_now() - begun;
}

static double mean(const double *x, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += x[i];
    return n ? sum / (double)n : 0;
}

/* Steps while a snapshot is in flight, then as many without, until there are enough. */
static void slowdown(const struct steps *s, struct gpu_state *g, bool matmul, uint64_t *step)
{
    static double with[STEPS_MAX], without[STEPS_MAX];
    char what[WHY + 120], measured[120], beside[120], verdict[80];
    size_t n = 0;
    while (n < steps_wanted) {
        size_t first = n;
        uint64_t op = gpu_state_save(g, ++*step, CKPT_SAVE_NO_AUDIT);
        while (n < STEPS_MAX && (n == first || ckpt_fence(g->s, 0) != CKPT_OK))
            with[n++] = one_step(s, matmul);
        gpu_kit_ok(ckpt_fence(g->s, WAIT_MS), "ckpt_fence");
        gpu_kit_ok(ckpt_wait(g->c, op, CKPT_LEVEL_LOCAL, WAIT_MS), "ckpt_wait");
        for (size_t i = first; i < n; i++)
            without[i] = one_step(s, matmul);
    }
    double a = mean(with, n), b = mean(without, n);
    qsort(with, n, sizeof(*with), by_size);
    qsort(without, n, sizeof(*without), by_size);
    double p = with[n * 99 / 100], q = without[n * 99 / 100];
    snprintf(measured, sizeof(measured), "mean %.3f ms, p99 %.3f ms", a * 1e3, p * 1e3);
    snprintf(beside, sizeof(beside), "%.3f ms, %.3f ms (%zu steps each)", b * 1e3, q * 1e3, n);
    snprintf(verdict, sizeof(verdict), "%+.2f %%, %+.2f %%%s", (a / b - 1) * 100, (p / q - 1) * 100,
             !matmul                          ? " (shown)"
             : a <= 1.01 * b && p <= 1.01 * q ? " (<= 1 %: yes)"
                                              : " (<= 1 %: NO)");
    bool copies = !matmul && !s->memory_bound;
    snprintf(what, sizeof(what),
             "step bound by %s%s%s%s, with a snapshot in flight; limit: without",
             matmul ? "arithmetic" : "memory", copies ? " (plain copies; " : "",
             copies ? s->no_memory_bound : "", copies ? ")" : "");
    row(what, measured, beside, verdict);
}

static void row_worst(const char *what, double worst, double limit)
{
    char measured[40];
    snprintf(measured, sizeof(measured), "%.3f ms", worst * 1e3);
    row(what, measured, limit > 0 ? "1 ms" : "",
        limit == 0       ? "shown"
        : worst <= limit ? "yes"
                         : "NO");
}

/* Compute that outlasts the copy: then the fence has nothing to wait for.  Before, one on a stream
 * that nothing else is on: what its caller waits for is the handing over of the copies. */
static void fence_wait(const struct steps *s, struct gpu_state *g, double plain, uint64_t *step)
{
    double worst = 0, handing = 0, copy = (double)g->bytes / plain;
    void *aside = NULL;
    gpu_kit_must(kit.StreamCreate(&aside), "cudaStreamCreate");
    for (int i = 0; i < 10; i++) {
        uint64_t op = gpu_state_save(g, ++*step, CKPT_SAVE_NO_AUDIT);
        double saved = gpu_kit_now();
        gpu_kit_ok(ckpt_fence_stream(g->s, aside), "ckpt_fence_stream");
        double handed = gpu_kit_now() - saved;
        handing = handed > handing ? handed : handing;
        double until = gpu_kit_now() + 2 * copy + 0.05;
        while (gpu_kit_now() < until)
            (void)one_step(s, false);
        double begun = gpu_kit_now();
        gpu_kit_ok(ckpt_fence(g->s, WAIT_MS), "ckpt_fence");
        double took = gpu_kit_now() - begun;
        worst = took > worst ? took : worst;
        gpu_kit_ok(ckpt_wait(g->c, op, CKPT_LEVEL_LOCAL, WAIT_MS), "ckpt_wait");
    }
    gpu_kit_must(kit.StreamDestroy(aside), "cudaStreamDestroy");
    row_worst("fence behind compute that outlasts the copy, worst of 10", worst, 1e-3);
    row_worst("host time of ckpt_fence_stream right behind ckpt_save, worst of 10", handing, 0);
}

/* The first save of a state pins what is left of its arena, which stalls the device: no step is
 * measured beside that. */
static void save_unmeasured(struct gpu_state *g, uint64_t *step)
{
    uint64_t op = gpu_state_save(g, ++*step, CKPT_SAVE_NO_AUDIT);
    gpu_kit_ok(ckpt_fence(g->s, WAIT_MS), "ckpt_fence");
    gpu_kit_ok(ckpt_wait(g->c, op, CKPT_LEVEL_LOCAL, WAIT_MS), "ckpt_wait");
}

static void steps(double plain)
{
    struct steps s = { 0 };
    struct gpu_state g;
    uint64_t step = 0;
    char words[WHY + 20];
    find_steps(&s);
    snprintf(words, sizeof(words), "not measured: %s", s.no_matmul);
    gpu_state_open(&g, &kit, dir, "steps", state_bytes / 2, small_tensors, 0);
    save_unmeasured(&g, &step);
    if (s.matmul)
        slowdown(&s, &g, true, &step);
    else
        row("step bound by arithmetic, with a snapshot in flight", words, "", "<= 1 %");
    slowdown(&s, &g, false, &step);
    fence_wait(&s, &g, plain, &step);
    gpu_state_close(&g);
    gpu_kit_must(kit.Free(s.memory), "cudaFree");
}

/* -- restore ------------------------------------------------------------------------------ */

/* The library's own way from slots to a device, without the disk: the whole of a restore is
 * shown beside it. */
static void restore(double plain)
{
    struct gpu_state g;
    double took[ROUNDS];
    struct ckpt_point at = { .size = sizeof(at) };
    gpu_state_open(&g, &kit, dir, "snapshot", state_bytes, small_tensors, 0);
    gpu_kit_ok(ckpt_resume(g.c, &at), "ckpt_resume");
    for (int i = 0; i < ROUNDS; i++) {
        gpu_state_compute(&g, 200);
        sync_stream();
        double begun = gpu_kit_now();
        gpu_kit_ok(ckpt_restore(g.s, NULL, g.at, g.count, kit.stream, NULL), "ckpt_restore");
        took[i] = gpu_kit_now() - begun;
    }
    if (gpu_state_wrong(&g, ROUNDS - 1)) {
        fprintf(stderr, "the restored state is not what was saved\n");
        exit(1);
    }
    row_ratio("restore, from the disk to the device; limit: plain pinned H2D",
              (double)g.bytes / median(took, ROUNDS), plain, 0);
    look_beyond(&g);
    gpu_state_close(&g);
}

static double device_copies(struct gpu *d, struct ckpt_buffer *to, size_t n, unsigned char *slots)
{
    struct gpu_event *e = NULL;
    enum ckpt_status st = d->ops->event_new(d, &e, NULL);
    double begun = gpu_kit_now();
    uint64_t used = 0;
    for (size_t i = 0; st == CKPT_OK && i < n; i++) {
        struct box all = { .ndim = 1, .len = { to[i].bytes } };
        struct strided dense = { .base = to[i].base, .stride_bits = { 8 } };
        st = d->ops->copy_in(d, slots + used, &all, 8, &all, &dense, NULL);
        used += to[i].bytes;
    }
    if (st == CKPT_OK)
        st = d->ops->record(d, e, NULL);
    while (st == CKPT_OK && (st = d->ops->query(e, NULL)) == CKPT_BUSY)
        st = CKPT_OK, nanosleep(&(struct timespec){ .tv_nsec = 20000 }, NULL);
    double took = gpu_kit_now() - begun;
    gpu_kit_ok(st, "copies to the device");
    d->ops->event_free(e);
    return took;
}

/* Tiles of 4 MiB out of pinned slots, through the library's device layer. */
static void slots_to_device(double plain)
{
    const uint64_t tile = UINT64_C(4) << 20;
    uint64_t bytes = state_bytes > (UINT64_C(8) << 30) ? UINT64_C(8) << 30 : state_bytes;
    size_t n = (size_t)(bytes / tile);
    struct ckpt_buffer *to = calloc(n + 1, sizeof(*to));
    void *device = NULL, *slots = NULL;
    struct cuda cuda;
    struct gpu *d = NULL;
    double took[ROUNDS];
    if (!to || posix_memalign(&slots, 4096, n * tile + 1))
        abort();
    memset(slots, 3, n * tile);
    gpu_kit_must(kit.Malloc(&device, n * tile + 1), "cudaMalloc");
    for (size_t i = 0; i < n; i++)
        to[i] = (struct ckpt_buffer){ (char *)device + i * tile, tile };
    gpu_cuda_own_thread(); /* copies as the library's does */
    gpu_kit_ok(cuda_open(&cuda, NULL), "the device layer");
    gpu_kit_ok(gpu_cuda_new(&cuda, 0, &d, NULL), "the device layer");
    gpu_kit_ok(d->ops->pin(d, slots, n * tile, NULL), "pinning");
    for (int i = 0; i < ROUNDS; i++)
        took[i] = device_copies(d, to, n, slots);
    row_ratio("restore, from slots to the device", (double)(n * tile) / median(took, ROUNDS), plain,
              0.90);
    d->ops->unpin(d, slots, n * tile);
    d->ops->free(d);
    gpu_kit_must(kit.Free(device), "cudaFree");
    free(slots);
    free(to);
}

/* Old saves go at once: all of them together are more than a small disk has. */
static void keep_few(void)
{
    char path[4096];
    snprintf(path, sizeof(path), "%s/ckptd.conf", dir);
    FILE *f = fopen(path, "we");
    if (!f || fputs("keep = last=1\ndelete-grace = 0s\n", f) < 0 || fclose(f) != 0) {
        perror(path);
        exit(1);
    }
    setenv("CKPT_CONFIG", path, 1);
}

static uint64_t number(const char *text)
{
    char *end = NULL;
    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    if (errno || *end || text[0] < '0' || text[0] > '9') {
        fprintf(stderr, "bench_gpu: \"%s\" is no number\n", text);
        exit(2);
    }
    return n;
}

int main(int argc, char **argv)
{
    char why[200];
    if (argc < 2 || argc > 5) {
        fprintf(stderr, "usage: bench_gpu DIR [STATE-BYTES [SMALL-TENSORS [STEPS]]]\n");
        return 2;
    }
    dir = argv[1];
    state_bytes = argc > 2 ? number(argv[2]) : state_bytes;
    small_tensors = argc > 3 ? number(argv[3]) : small_tensors;
    steps_wanted = argc > 4 ? number(argv[4]) : steps_wanted;
    steps_wanted = steps_wanted < STEPS_MAX ? steps_wanted : STEPS_MAX;
    if (!gpu_kit_open(&kit, why, sizeof(why))) {
        printf("SKIP: %s\n", why);
        return 77;
    }
    keep_few();
    printf("%s, CUDA runtime %d, driver %d, %s\n\n", kit.device, kit.runtime, kit.driver, kit.from);
    printf("| what | measured | limit | |\n|---|---|---|---|\n");
    double out = plain_rate(state_bytes, GPU_D2H), in = plain_rate(state_bytes, GPU_H2D);
    snapshot(out);
    steps(out);
    restore(in);
    row_beyond();
    slots_to_device(in);
    return 0;
}
