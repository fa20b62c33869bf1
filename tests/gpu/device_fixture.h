/* What the tests of libckpt on the fake CUDA runtime share: the fixture with a tensor on a device,
 * gates in front of copies, cases in processes of their own.  The library is the test's, as
 * patient as it says. */
#pragma once

#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fakes/fake_cudart.h"
#include "fakes/lib_fixture.h"
#include "gpu/impatient.h"
#include "libckpt/context.h"
#include "libckpt/gpu_cuda.h"

#define SECOND_NS  INT64_C(1000000000)
#define PATIENT_NS (60 * SECOND_NS)

extern int cudaSetDevice(int device);

static atomic_int gate; /* kernels of close_gate wait until it is 1 */

static inline void wait_for_gate(void *arg)
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

static inline void open_gpu_on(struct device_fixture *g, const struct fake_script *s, int device)
{
    fix_open_with(&g->f, s, FIX_BIG);
    g->stream = fake_stream_new(device);
    memcpy(g->at, g->f.buf, sizeof(g->at));
    g->at[0].base = fake_malloc(device, g->at[0].bytes);
}

static inline void open_gpu(struct device_fixture *g, const struct fake_script *s)
{
    open_gpu_on(g, s, 0);
}

/* The library's own copies wait for the gate. */
static inline void close_queue(struct device_fixture *g)
{
    struct devices *devices = g->f.s->ctx->devices;
    unsigned on = 0;
    CHECK(devices_any(devices));
    CHECK_OK(devices_find(devices, g->at[0].base, &on, NULL));
    atomic_store(&gate, 0);
    fake_launch(gpu_cuda_stream(devices_gpu(devices, on)), wait_for_gate, NULL);
}

/* The device's tensor is as the host's; copies wait for the gate. */
static inline void save_behind_gate(struct device_fixture *g, uint64_t step, uint64_t *ret_op)
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

static inline void check_saved(struct device_fixture *g, uint64_t step, uint64_t op)
{
    CHECK_OK(ckpt_wait(g->f.c, op, CKPT_LEVEL_LOCAL, 20000));
    CHECK(!fake_seen(g->f.d).wrong);
    fix_compare(&g->f, (unsigned)step); /* into host memory */
}

/* Each in a process of its own: a device that hangs keeps what it may write to. */
static inline void run_apart(void (*const each[])(void), size_t count, const char *cudart)
{
    const char *moved = getenv("CKPT_TEST_CUDART"); /* with the tests, elsewhere */
    setenv("CKPT_CUDART", moved ? moved : cudart, 1);
    for (size_t i = 0; i < count; i++) {
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
}
