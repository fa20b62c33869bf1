/* A rank on devices, for tests on a real ckptd and a CUDA runtime with real asynchrony
 * (fakes/fake_cudart.h).
 *
 * What a step does is in kernels on a stream; the host never waits for it unless a case says so. */
#pragma once

#include "e2e/kit.h"
#include "fakes/fake_cudart.h"

#define PARTS_MAX 12
#define TENSOR(n, t, d, how_, ...)                                                      \
    {                                                                                   \
        .name = (n), .dtype = (t), .ndim = (d), .how = (how_), .shape = { __VA_ARGS__ } \
    }

/* A rank whose parts lie on devices: r->buffers is what the host thinks, `at` where it is. */
struct trainer {
    struct kit_rank *r;
    fake_stream stream;
    struct ckpt_buffer at[PARTS_MAX];
    bool on_device[PARTS_MAX];
};
struct change {
    struct trainer *t;
    struct ckpt_buffer copy[PARTS_MAX]; /* NULL bases: scribble */
};

static uint64_t seed;

static inline void do_change(void *arg)
{
    struct change *g = arg;
    for (size_t i = 0; i < g->t->r->count; i++) {
        void *to = g->t->on_device[i] ? fake_look(g->t->at[i].base) : NULL;
        if (to && g->copy[i].base)
            memcpy(to, g->copy[i].base, g->copy[i].bytes);
        else if (to)
            memset(to, 0x77, g->t->at[i].bytes);
        free(g->copy[i].base);
    }
    free(g);
}

/* A kernel that sets the state to what r->buffers has now, or to nonsense. */
static inline void launch_change(struct trainer *t, bool scribble)
{
    struct change *g = calloc(1, sizeof(*g));
    g->t = t;
    for (size_t i = 0; i < t->r->count && !scribble; i++) {
        g->copy[i] = t->r->buffers[i];
        g->copy[i].base = malloc(g->copy[i].bytes + 1);
        memcpy(g->copy[i].base, t->r->buffers[i].base, g->copy[i].bytes);
    }
    fake_launch(t->stream, do_change, g);
}

/* Puts the parts that `where` says on devices. */
static inline void place(struct trainer *t, const int *where)
{
    for (size_t i = 0; i < t->r->count; i++) {
        t->at[i] = t->r->buffers[i];
        t->on_device[i] = where[i] >= 0 && !t->r->parts[i].object && t->at[i].bytes;
        if (t->on_device[i])
            t->at[i].base = fake_malloc(where[i], t->at[i].bytes);
    }
}

static inline void unplace(struct trainer *t)
{
    fake_sync(t->stream);
    for (size_t i = 0; i < t->r->count; i++)
        if (t->on_device[i])
            fake_free(t->at[i].base);
}

/* The step's state is computed on the stream. */
static inline void compute(struct trainer *t, uint64_t step)
{
    kit_fill(t->r, step);
    for (size_t i = 0; i < t->r->count; i++)
        if (!t->on_device[i])
            t->at[i].bytes = t->r->buffers[i].bytes; /* objects */
    launch_change(t, false);
}

static inline enum ckpt_status save(struct trainer *t, uint64_t step, uint64_t *ret_op)
{
    struct ckpt_save_opts o = { .size = sizeof(o), .step = step };
    return ckpt_save(t->r->s, &o, t->at, t->r->count, t->stream, ret_op);
}

/* What is on the devices, to the host's view; then every byte is looked at. */
static inline void check_state(struct trainer *t, uint64_t step)
{
    fake_sync(t->stream);
    for (size_t i = 0; i < t->r->count; i++)
        if (t->on_device[i])
            memcpy(t->r->buffers[i].base, fake_look(t->at[i].base), t->at[i].bytes);
        else
            t->r->buffers[i].bytes = t->at[i].bytes;
    kit_check(t->r, step);
}

static inline void restore(struct trainer *t)
{
    kit_scribble(t->r);
    launch_change(t, true);
    KIT_OK(ckpt_restore(t->r->s, NULL, t->at, t->r->count, t->stream, NULL));
    check_state(t, t->r->point.step);
}

static inline void begin(struct kit_rank *r, unsigned delay_us)
{
    fake_seed(seed + r->rank, delay_us);
    kit_open(r);
}

static const struct kit_part plain[] = {
    TENSOR("w", CKPT_F32, 2, KIT_ROWS, 1100, 700),   TENSOR("t", CKPT_BF16, 2, KIT_COLS, 640, 330),
    TENSOR("flat", CKPT_F32, 2, KIT_FLAT, 77, 3001), TENSOR("same", CKPT_F32, 1, KIT_SAME, 300000),
    TENSOR("s", CKPT_F32, 0, KIT_FIRST, 0),
};

/* Several times the least arena. */
static const struct kit_part large[] = {
    TENSOR("w", CKPT_F32, 2, KIT_ROWS, 3000, 1500),
    TENSOR("v", CKPT_F32, 2, KIT_ROWS, 3000, 1500),
};

static inline void start_one(struct trainer *t, struct kit_rank *r, int device)
{
    int where[PARTS_MAX];
    for (size_t i = 0; i < PARTS_MAX; i++)
        where[i] = device;
    t->r = r;
    begin(r, 200);
    if (r->arena_bytes)
        kit_declare(r, large, ARRAY_COUNT(large));
    else
        kit_declare(r, plain, ARRAY_COUNT(plain));
    t->stream = fake_stream_new(device);
    place(t, where);
}

static inline void save_local(struct trainer *t, uint64_t step)
{
    uint64_t op;
    compute(t, step);
    KIT_OK(save(t, step, &op));
    KIT_OK(ckpt_fence(t->r->s, 60000));
    KIT_OK(ckpt_wait(t->r->c, op, CKPT_LEVEL_LOCAL, 60000));
}

static inline void finish_one(struct trainer *t)
{
    KIT_OK(ckpt_progress(t->r->c, CKPT_FINISHED));
    unplace(t);
    kit_close(t->r);
}
