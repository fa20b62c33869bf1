/* Memory of workers: a worker that dies leaves no process behind whose end would free it,
 * so the simulator does. */
#include "sim/sim.h"
#include "sim/sim_wraps.h"

#define BLOCKS_MAX 65536

static struct block {
    void *p;
    const struct sim_node *owner;
} blocks[BLOCKS_MAX];
static uint32_t count;

static void *owned(void *p)
{
    if (!p || !sim_current)
        return p;
    CHECK(count < BLOCKS_MAX);
    blocks[count++] = (struct block){ .p = p, .owner = sim_current };
    return p;
}

void *__wrap_malloc(size_t bytes)
{
    return owned(__real_malloc(bytes));
}

void *__wrap_calloc(size_t n, size_t bytes)
{
    return owned(__real_calloc(n, bytes));
}

void __wrap_free(void *p)
{
    for (uint32_t i = count; p && i > 0; i--) {
        if (blocks[i - 1].p != p)
            continue;
        blocks[i - 1] = blocks[--count];
        break;
    }
    __real_free(p);
}

void sim_memory_drop(uint32_t node)
{
    uint32_t to = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (blocks[i].owner == &sim_nodes[node])
            __real_free(blocks[i].p);
        else
            blocks[to++] = blocks[i];
    }
    count = to;
}

/* What a worker keeps in static memory outlives it. */
enum ckpt_status __wrap_decl_finish(struct decl *d, uint64_t slot_bytes, struct ckpt_err *err)
{
    struct sim_node *n = sim_current;
    sim_current = NULL;
    (void)slot_bytes; /* the simulated slots are too small for it */
    enum ckpt_status st = __real_decl_finish(d, CKPT_SLOT_BYTES, err);
    sim_current = n;
    return st;
}
