/* Saves from a device and restores to it, byte by byte, on whatever CUDA there is: a real GPU, or
 * the fake runtime (CKPT_CUDART).  No kernels: what changes memory is queued by the runtime.
 *
 *   - Random states (real_state.h), computed, saved and fenced on random streams.  What was on the
 *     stream at the save is in the checkpoint; what is queued right behind the fence is not, be it
 *     the host's, a stream's or a graph's; nor what is done to volatile tensors right behind the
 *     save.  Arenas larger and smaller than the state.
 *   - It comes back into poisoned memory of another layout, and nothing between its elements is
 *     touched.
 *   - What changes without a fence is found by the audit. */
#include <errno.h>
#include <ftw.h>
#include <unistd.h>

#include "bench/gpu_kit.h"
#include "gpu/real_state.h"

#include "check.h"

#define STREAMS    4
#define NOISE      77 /* of memory that is of no step */
#define BUSY       8  /* computing takes so many copies: the save's are queued before it ends */
#define PER_THREAD ((void *)2)

static struct gpu_kit kit;
static void *streams[STREAMS]; /* the first is the default stream of whatever device */
static unsigned long long rng;
static int cases;

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

/* -- one launch ------------------------------------------------------------------- */

struct launch {
    const struct real_state *what;
    enum ckpt_mode mode;
    struct real_memory m;
    struct ckpt *c;
    struct ckpt_state *s;
    struct ckpt_buffer at[REAL_TENSORS];
    unsigned char *good, *bad; /* images, pinned: of a step, and of none */
    bool spread;               /* over several devices: then each has its default stream */
    void *capture, *graph;     /* a fence, once there is one */
};

static void *random_stream(const struct launch *l)
{
    return l->spread ? NULL : streams[test_rand(&rng) % STREAMS];
}

static void sync_all(const struct launch *l)
{
    for (int d = 0; d < (l->spread ? kit.devices : 1); d++) {
        gpu_kit_must(kit.SetDevice(d), "cudaSetDevice");
        gpu_kit_must(kit.StreamSynchronize(NULL), "cudaStreamSynchronize");
    }
    gpu_kit_must(kit.SetDevice(0), "cudaSetDevice");
    for (size_t i = 1; i < STREAMS; i++)
        gpu_kit_must(kit.StreamSynchronize(streams[i]), "cudaStreamSynchronize");
}

/* Queues copies between an image and the state, the last tensor first: saves begin with the first.
 * Host memory changes at once. */
static void move(const struct launch *l, unsigned char *image, int kind, uint32_t flags,
                 void *stream)
{
    for (size_t i = l->what->count; i-- > 0;) {
        const struct real_place *p = &l->m.place[i];
        unsigned char *in_image = image + p->at, *held = l->at[i].base;
        bool out = kind == GPU_D2H;
        if (p->bytes == 0 || (l->what->tensor[i].flags & flags) != flags)
            continue;
        if (p->device < 0) {
            memcpy(out ? in_image : held, out ? held : in_image, p->bytes);
            continue;
        }
        gpu_kit_must(kit.SetDevice(p->device), "cudaSetDevice");
        gpu_kit_must(
            kit.MemcpyAsync(out ? in_image : held, out ? held : in_image, p->bytes, kind, stream),
            "cudaMemcpyAsync");
    }
    gpu_kit_must(kit.SetDevice(0), "cudaSetDevice");
}

static void allocate(struct launch *l)
{
    void *image[2];
    for (size_t i = 0; i < l->what->count; i++) {
        const struct real_place *p = &l->m.place[i];
        l->at[i].bytes = p->bytes;
        if (p->device < 0 && p->bytes) {
            l->at[i].base = malloc(p->bytes);
            CHECK(l->at[i].base);
        } else if (p->bytes) {
            gpu_kit_must(kit.SetDevice(p->device), "cudaSetDevice");
            gpu_kit_must(kit.Malloc(&l->at[i].base, p->bytes), "cudaMalloc");
        }
    }
    gpu_kit_must(kit.SetDevice(0), "cudaSetDevice");
    for (int i = 0; i < 2; i++) {
        gpu_kit_must(kit.MallocHost(&image[i], l->m.bytes), "cudaMallocHost");
        real_noise(image[i], l->m.bytes, NOISE);
    }
    l->good = image[0];
    l->bad = image[1];
}

static void launch_open(struct launch *l, const struct real_state *what, const char *dir,
                        const char *job, enum ckpt_mode mode, bool fill)
{
    struct ckpt_open_opts o = { .size = sizeof(o), .mode = mode, .job = job, .store = dir };
    *l = (struct launch){ .what = what,
                          .mode = mode,
                          .spread = kit.devices > 1 && test_rand(&rng) % 4 == 0 };
    real_lay(what, &l->m, &rng, l->spread ? kit.devices : 1, fill);
    o.arena_bytes = test_rand(&rng) % 2 ? 0 : 1 + l->m.bytes / (1 + test_rand(&rng) % 8);
    allocate(l);
    gpu_kit_ok(ckpt_open(&o, &l->c), "ckpt_open");
    gpu_kit_ok(ckpt_state_new(l->c, &l->s), "ckpt_state_new");
    real_declare(what, &l->m, l->s);
    gpu_kit_ok(ckpt_seal(l->s, 60000), "ckpt_seal");
}

static void launch_close(struct launch *l)
{
    sync_all(l);
    if (l->graph)
        gpu_kit_must(kit.GraphExecDestroy(l->graph), "cudaGraphExecDestroy");
    if (l->mode == CKPT_TRAIN)
        gpu_kit_ok(ckpt_progress(l->c, CKPT_FINISHED), "ckpt_progress");
    ckpt_close(l->c);
    if (l->capture)
        gpu_kit_must(kit.StreamDestroy(l->capture), "cudaStreamDestroy");
    for (size_t i = 0; i < l->what->count; i++)
        if (l->m.place[i].device < 0)
            free(l->at[i].base);
        else if (l->at[i].base)
            gpu_kit_must(kit.Free(l->at[i].base), "cudaFree");
    gpu_kit_must(kit.FreeHost(l->good), "cudaFreeHost");
    gpu_kit_must(kit.FreeHost(l->bad), "cudaFreeHost");
}

/* -- steps ------------------------------------------------------------------------ */

/* A graph of nothing but a fence; other threads' captures are none of the library's business, in
 * either mode. */
static void capture_fence(struct launch *l)
{
    void *graph = NULL;
    gpu_kit_must(kit.StreamCreateWithFlags(&l->capture, 1), "cudaStreamCreate");
    gpu_kit_must(kit.StreamBeginCapture(l->capture, (int)(test_rand(&rng) % 2)),
                 "cudaStreamBeginCapture");
    gpu_kit_ok(ckpt_fence_stream(l->s, l->capture), "ckpt_fence_stream");
    gpu_kit_must(kit.StreamEndCapture(l->capture, &graph), "cudaStreamEndCapture");
    gpu_kit_must(kit.GraphInstantiate(&l->graph, graph, 0), "cudaGraphInstantiate");
    gpu_kit_must(kit.GraphDestroy(graph), "cudaGraphDestroy");
}

/* Later work on the stream comes after the copies of the save. */
static void fence(const struct launch *l, void *stream)
{
    uint64_t how = test_rand(&rng) % (l->graph ? 5 : 2);
    void *aside = stream == streams[2] ? streams[3] : streams[2];
    if (how == 0)
        gpu_kit_ok(ckpt_fence(l->s, 60000), "ckpt_fence");
    else /* a graph waits for what is queued, which a fence on another stream makes sure of */
        gpu_kit_ok(ckpt_fence_stream(l->s, how == 1 ? stream : aside), "ckpt_fence_stream");
    if (how > 1)
        gpu_kit_must(kit.GraphLaunch(l->graph, stream), "cudaGraphLaunch");
}

static void one_step(struct launch *l, uint64_t step)
{
    static const uint32_t audits[] = { 0, CKPT_SAVE_AUDIT, CKPT_SAVE_NO_AUDIT, CKPT_SAVE_NO_AUDIT,
                                       CKPT_SAVE_NO_AUDIT };
    struct ckpt_save_opts o = { .size = sizeof(o),
                                .step = step,
                                .flags = audits[test_rand(&rng) % 5] };
    void *on = random_stream(l), *after = test_rand(&rng) % 2 ? on : random_stream(l);
    uint64_t op = 0;
    sync_all(l);
    real_paint(l->what, &l->m, step, l->good);
    for (int i = 0; i < BUSY; i++)
        move(l, l->bad, GPU_H2D, 0, on);
    move(l, l->good, GPU_H2D, 0, on);
    gpu_kit_ok(ckpt_save(l->s, &o, l->at, l->what->count, on, &op), "ckpt_save");
    move(l, l->bad, GPU_H2D, CKPT_VOLATILE, on);
    fence(l, after);
    move(l, l->bad, GPU_H2D, 0, after); /* never in the checkpoint */
    if (!l->graph && !l->spread)
        capture_fence(l);
    gpu_kit_ok(ckpt_wait(l->c, op, CKPT_LEVEL_LOCAL, 60000), "ckpt_wait");
    cases++;
}

/* -- restores --------------------------------------------------------------------- */

static void compare(const struct launch *l, const unsigned char *got)
{
    for (size_t i = 0; i < l->what->count; i++) {
        const struct real_tensor *t = &l->what->tensor[i];
        const struct real_place *p = &l->m.place[i];
        const unsigned char *want = l->good + p->at, *have = got + p->at;
        uint64_t k = 0;
        while (k < p->bytes && have[k] == want[k])
            k++;
        if (k < p->bytes)
            fprintf(stderr,
                    "%s, dtype %u, %u dimensions, %zu pieces, on %d: byte %llu of %llu is %#x "
                    "and not %#x\n",
                    t->name, t->dtype, t->ndim, p->count, p->device, (unsigned long long)k,
                    (unsigned long long)p->bytes, have[k], want[k]);
        CHECK_EQ(k, p->bytes);
        cases++;
    }
}

/* Into memory that has something else, wherever it lies; what comes later on the stream finds it
 * there. */
static void look(const struct real_state *what, const char *dir, const char *job,
                 enum ckpt_mode mode, uint64_t step)
{
    struct launch l;
    struct ckpt_point p = { .size = sizeof(p) };
    void *got = NULL;
    launch_open(&l, what, dir, job, mode, true);
    void *on = random_stream(&l);
    gpu_kit_must(kit.MallocHost(&got, l.m.bytes), "cudaMallocHost");
    gpu_kit_ok(ckpt_resume(l.c, &p), "ckpt_resume");
    CHECK_EQ(p.step, step);
    move(&l, l.bad, GPU_H2D, 0, on);
    gpu_kit_ok(ckpt_restore(l.s, NULL, l.at, what->count, on, NULL), "ckpt_restore");
    move(&l, got, GPU_D2H, 0, on);
    real_paint(what, &l.m, step, l.good);
    sync_all(&l);
    compare(&l, got);
    gpu_kit_must(kit.FreeHost(got), "cudaFreeHost");
    launch_close(&l);
}

static void one_round(const char *dir, uint64_t largest, int number)
{
    struct real_state what;
    struct launch l;
    char job[20];
    uint64_t steps = 2 + test_rand(&rng) % 4;
    snprintf(job, sizeof(job), "round%d", number);
    real_draw(&what, &rng, largest / 4);
    launch_open(&l, &what, dir, job, CKPT_TRAIN, false);
    for (uint64_t step = 1; step <= steps; step++) {
        one_step(&l, step);
        look(&what, dir, job, CKPT_READ, step);
    }
    launch_close(&l);
    look(&what, dir, job, CKPT_TRAIN, steps);
}

/* -- without a fence -------------------------------------------------------------- */

static void unfenced(const char *dir, uint64_t largest)
{
    struct gpu_state g;
    gpu_state_open(&g, &kit, dir, "unfenced", largest, 30, 0);
    gpu_state_compute(&g, 1);
    uint64_t op = gpu_state_save(&g, 1, CKPT_SAVE_AUDIT);
    gpu_state_compute(&g, 2);
    gpu_kit_must(kit.StreamSynchronize(kit.stream), "cudaStreamSynchronize");
    gpu_kit_ok(ckpt_fence(g.s, 60000), "ckpt_fence");
    CHECK_EQ(ckpt_wait(g.c, op, CKPT_LEVEL_LOCAL, 60000), CKPT_ABORTED);
    CHECK(strstr(ckpt_error(), "changed between the save and its fence: \"t00000\", \"t00001\""));
    gpu_state_compute(&g, 5);
    op = gpu_state_save(&g, 2, CKPT_SAVE_NO_AUDIT);
    gpu_kit_ok(ckpt_fence(g.s, 60000), "ckpt_fence");
    gpu_kit_ok(ckpt_wait(g.c, op, CKPT_LEVEL_LOCAL, 60000), "ckpt_wait");
    gpu_state_close(&g);
    cases++;
}

int main(int argc, char **argv)
{
    char why[200], dir[200];
    const char *at = getenv("TMPDIR");
    int rounds = getenv("CKPT_DEEP") ? 12 : TEST_TENTH > 1 ? 2 : 6;
    uint64_t largest = (uint64_t)(argc > 1 ? strtoull(argv[1], NULL, 10) : 24) << 20;
    if (!gpu_kit_open(&kit, why, sizeof(why)))
        TEST_SKIP(why);
    rng = test_seed(20261123);
    printf("%s, CUDA runtime %d, driver %d\n", kit.device, kit.runtime, kit.driver);
    snprintf(dir, sizeof(dir), "%.180s/ckpt-gpu-XXXXXX", at ? at : "/tmp");
    CHECK(mkdtemp(dir));
    streams[1] = PER_THREAD;
    streams[2] = kit.stream;
    gpu_kit_must(kit.StreamCreate(&streams[3]), "cudaStreamCreate");
    for (int i = 0; i < rounds; i++)
        one_round(dir, largest, i);
    unfenced(dir, largest);
    usleep(200000); /* private daemons end with their last session */
    CHECK(nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS) == 0 || errno == ENOTEMPTY);
    TEST_CASES(cases);
    return 0;
}
