/* One rank of a job, as launchers start them (torchrun: RANK, WORLD_SIZE; Open MPI:
 * OMPI_COMM_WORLD_RANK, _SIZE):
 *
 *     launched_rank JOB STEPS
 *
 * Resumes the job in CKPT_STORE, checks what it got, saves each step, and says so in
 * one line "rank R of W: launch goes on after STEP".  Two steps after each start one of the
 * ranks kills itself, a different one each time, until all STEPS are done.  With SAVES_AGAIN in
 * the environment it saves the step from which it resumed and kills itself then. */
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "libckpt/ckpt.h"

#include "check.h"

#define ROWS    64 /* of a rank */
#define COLUMNS 1024
#define WAIT_MS 60000

static uint32_t number_of(const char *name, const char *other)
{
    const char *text = getenv(name);
    if (!text)
        text = getenv(other);
    CHECK(text);
    return (uint32_t)strtoul(text, NULL, 10);
}

static void must(enum ckpt_status st, const char *what)
{
    if (st == CKPT_OK)
        return;
    fprintf(stderr, "%s: %s\n", what, ckpt_error());
    exit(1);
}

static float value_of(uint64_t step, uint32_t rank, size_t i)
{
    return (float)(step * 1000 + rank * 100 + i % 97);
}

struct rank {
    uint32_t rank, world;
    struct ckpt *c;
    struct ckpt_state *s;
    struct ckpt_buffer memory;
};

static void declare(struct rank *r)
{
    const uint64_t shape[] = { (uint64_t)ROWS * r->world, COLUMNS };
    struct ckpt_tensor_desc desc = {
        .size = sizeof(desc), .name = "w", .dtype = CKPT_F32, .ndim = 2, .shape = shape
    };
    struct ckpt_piece rows = { .off = { (uint64_t)ROWS * r->rank },
                               .len = { ROWS, COLUMNS },
                               .stride = { COLUMNS, 1 } };
    must(ckpt_state_new(r->c, &r->s), "state");
    must(ckpt_tensor(r->s, &desc, &rows, 1), "tensor");
    must(ckpt_seal(r->s, WAIT_MS), "seal");
}

static uint64_t resume(struct rank *r)
{
    struct ckpt_point point = { .size = sizeof(point) };
    float *w = r->memory.base;
    enum ckpt_status st = ckpt_resume(r->c, &point);
    if (st == CKPT_NOT_FOUND)
        return 0;
    must(st, "resume");
    must(ckpt_restore(r->s, NULL, &r->memory, 1, NULL, NULL), "restore");
    for (size_t i = 0; i < (size_t)ROWS * COLUMNS; i++)
        CHECK(w[i] == value_of(point.step, r->rank, i));
    return point.step;
}

static void save(struct rank *r, uint64_t step)
{
    float *w = r->memory.base;
    uint64_t op = 0;
    struct ckpt_save_opts o = { .size = sizeof(o), .step = step };
    for (size_t i = 0; i < (size_t)ROWS * COLUMNS; i++)
        w[i] = value_of(step, r->rank, i);
    must(ckpt_save(r->s, &o, &r->memory, 1, NULL, &op), "save");
    must(ckpt_wait(r->c, op, CKPT_LEVEL_LOCAL, WAIT_MS),
         "wait"); /* committed: all ranks have saved */
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    const uint64_t steps = strtoull(argv[2], NULL, 10);
    struct rank r = { .rank = number_of("RANK", "OMPI_COMM_WORLD_RANK"),
                      .world = number_of("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE") };
    struct ckpt_open_opts o = { .size = sizeof(o),
                                .mode = CKPT_TRAIN,
                                .job = argv[1],
                                .rank = r.rank,
                                .world = r.world,
                                .timeout_ms = WAIT_MS };
    char line[80];
    r.memory.bytes = (uint64_t)ROWS * COLUMNS * sizeof(float);
    r.memory.base = malloc(r.memory.bytes);
    CHECK(r.memory.base);
    must(ckpt_open(&o, &r.c), "open");
    declare(&r);
    const uint64_t begin = resume(&r);
    int n = snprintf(line, sizeof(line), "rank %u of %u: launch goes on after %llu\n", r.rank,
                     r.world, (unsigned long long)begin);
    CHECK_EQ(write(1, line, (size_t)n), n);
    if (begin && getenv("SAVES_AGAIN")) {
        save(&r, begin);
        raise(SIGKILL);
    }
    for (uint64_t step = begin + 1; step <= steps; step++) {
        if (step == begin + 3 && begin / 2 % r.world == r.rank)
            raise(SIGKILL);
        save(&r, step);
    }
    must(ckpt_progress(r.c, CKPT_FINISHED), "progress");
    ckpt_close(r.c);
    free(r.memory.base);
    return 0;
}
