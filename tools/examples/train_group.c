/* The shared memory of the ranks: gradient reduction and parameter exchange in a fixed order. */
#include "tools/examples/train_group.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

int group_init(struct group *g, unsigned world, size_t param_count)
{
    enum { HEAD_BYTES = 4096 };
    _Static_assert(sizeof(struct group_shared) <= HEAD_BYTES, "the floats follow the head");
    size_t bytes = HEAD_BYTES + (1 + GROUP_MICRO_BATCHES) * param_count * sizeof(float);
    char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return errno;
    *g = (struct group){ .world = world, .param_count = param_count, .bytes = bytes };
    g->shared = (struct group_shared *)memory;
    g->params = (float *)(memory + HEAD_BYTES);
    g->gradients = g->params + param_count;

    pthread_barrierattr_t attr;
    pthread_barrierattr_init(&attr);
    pthread_barrierattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
    int error = pthread_barrier_init(&g->shared->barrier, &attr, world);
    pthread_barrierattr_destroy(&attr);
    return error;
}

void group_fini(struct group *g)
{
    if (g->shared)
        munmap(g->shared, g->bytes);
    g->shared = NULL;
}

struct group_range group_range_of(const struct group *g, unsigned rank)
{
    size_t first = g->param_count * rank / g->world;
    size_t end = g->param_count * (rank + 1) / g->world;
    return (struct group_range){ first, end - first };
}

void group_barrier(struct group *g)
{
    pthread_barrier_wait(&g->shared->barrier);
}

void group_stop_decide(struct group *g, unsigned rank)
{
    if (rank == 0)
        g->shared->stopping = atomic_load(&g->shared->asked_to_stop);
}

bool group_stopping(const struct group *g)
{
    return g->shared->stopping;
}

float *group_gradients(struct group *g, size_t micro_batch)
{
    return g->gradients + micro_batch * g->param_count;
}

void group_reduce(const struct group *g, struct group_range range, float *out)
{
    const float *part = g->gradients + range.first;
    memcpy(out, part, range.count * sizeof(float));
    for (size_t i = 1; i < GROUP_MICRO_BATCHES; i++) {
        part += g->param_count;
        for (size_t j = 0; j < range.count; j++)
            out[j] += part[j];
    }
    for (size_t j = 0; j < range.count; j++)
        out[j] *= 1.0f / GROUP_MICRO_BATCHES;
}

void group_gather_params(struct group *g, unsigned rank, float *params)
{
    struct group_range own = group_range_of(g, rank);
    size_t end = own.first + own.count;
    memcpy(g->params + own.first, params + own.first, own.count * sizeof(float));
    group_barrier(g);
    memcpy(params, g->params, own.first * sizeof(float));
    memcpy(params + end, g->params + end, (g->param_count - end) * sizeof(float));
}

static double mean(const double *x, size_t n)
{
    double total = 0.0;
    for (size_t i = 0; i < n; i++)
        total += x[i];
    return total / (double)n;
}

double group_loss(const struct group *g)
{
    return mean(g->shared->loss, GROUP_MICRO_BATCHES);
}

double group_valid_loss(const struct group *g)
{
    return mean(g->shared->valid_loss, GROUP_VALID_BATCHES);
}
