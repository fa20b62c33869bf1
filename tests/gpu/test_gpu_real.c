/* Saves from a device and restores to it, byte by byte, on whatever CUDA there is: a real GPU, or
 * the fake runtime (CKPT_CUDART).  No kernels: what changes memory is queued by the runtime.
 *
 *   - What was on the stream at the save is in the checkpoint, what is queued right behind the
 *     fence is not; with arenas larger and smaller than the state.
 *   - What changes without a fence is found by the audit. */
#include <errno.h>
#include <ftw.h>
#include <unistd.h>

#include "bench/gpu_kit.h"

#include "check.h"

static struct gpu_kit kit;
static int cases;

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

/* What is restored is of the step, or no tensor is right. */
static void look(const char *dir, const char *job, uint64_t bytes, size_t small, uint64_t step)
{
    struct gpu_state g;
    struct ckpt_point p = { .size = sizeof(p) };
    gpu_state_open(&g, &kit, dir, job, bytes, small, 0);
    gpu_kit_ok(ckpt_resume(g.c, &p), "ckpt_resume");
    CHECK_EQ(p.step, step);
    gpu_state_compute(&g, 250);
    gpu_kit_ok(ckpt_restore(g.s, NULL, g.at, g.count, kit.stream, NULL), "ckpt_restore");
    CHECK_EQ(gpu_state_wrong(&g, (unsigned)step), 0);
    gpu_state_close(&g);
}

static void one_round(const char *dir, unsigned long long *rng, uint64_t largest, int number)
{
    struct gpu_state g;
    char job[20];
    uint64_t bytes = largest / 8 + test_rand(rng) % largest;
    size_t small = test_rand(rng) % 300;
    uint64_t arena = test_rand(rng) % 2 ? 0 : bytes / (1 + test_rand(rng) % 8);
    snprintf(job, sizeof(job), "round%d", number);
    gpu_state_open(&g, &kit, dir, job, bytes, small, arena);
    for (unsigned step = 1; step < 4; step++) {
        gpu_state_compute(&g, step);
        uint64_t op = gpu_state_save(&g, step, 0);
        if (test_rand(rng) % 2)
            gpu_kit_ok(ckpt_fence(g.s, 60000), "ckpt_fence");
        else
            gpu_kit_ok(ckpt_fence_stream(g.s, kit.stream), "ckpt_fence_stream");
        gpu_state_compute(&g, step + 77); /* never in the checkpoint */
        gpu_kit_ok(ckpt_wait(g.c, op, CKPT_LEVEL_LOCAL, 60000), "ckpt_wait");
        cases++;
    }
    gpu_state_close(&g);
    look(dir, job, bytes, small, 3);
    cases++;
}

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
    char why[200], dir[] = "/tmp/ckpt-gpu-XXXXXX";
    uint64_t largest = (uint64_t)(argc > 1 ? strtoull(argv[1], NULL, 10) : 24) << 20;
    if (!gpu_kit_open(&kit, why, sizeof(why)))
        TEST_SKIP(why);
    unsigned long long rng = test_seed(20261123);
    printf("%s, CUDA runtime %d, driver %d\n", kit.device, kit.runtime, kit.driver);
    CHECK(mkdtemp(dir));
    for (int i = 0; i < (getenv("CKPT_DEEP") ? 20 : 3); i++)
        one_round(dir, &rng, largest, i);
    unfenced(dir, largest);
    usleep(200000); /* private daemons end with their last session */
    CHECK(nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS) == 0 || errno == ENOTEMPTY);
    TEST_CASES(cases);
    return 0;
}
