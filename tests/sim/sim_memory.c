/* Memory of workers: a worker that dies leaves no process behind whose end would free it,
 * so the simulator does.  What is allocated during a worker's turn, or during a job's, is
 * in a dense table, found by its address. */
#include "sim/sim.h"
#include "sim/sim_wraps.h"

#define BLOCKS_MAX  (1u << 17)
#define PLACES_MAX  (1u << 19) /* of the hash table; a power of two */
#define PLACE_EMPTY 0          /* else index + 1 */

static struct block {
    void *p;
    const struct sim_node *owner;
} blocks[BLOCKS_MAX];
static uint32_t count;
static uint32_t places[PLACES_MAX];

static uint32_t place_of(const void *p)
{
    return (uint32_t)(((uintptr_t)p >> 4) * UINT64_C(0x9e3779b97f4a7c15) >> 45) % PLACES_MAX;
}

static uint32_t place_find(const void *p)
{
    uint32_t at = place_of(p);
    while (places[at] != PLACE_EMPTY && blocks[places[at] - 1].p != p)
        at = (at + 1) % PLACES_MAX;
    return at;
}

/* Linear probing: whoever stands behind the gap and may move into it, does. */
static void place_clear(uint32_t gap)
{
    places[gap] = PLACE_EMPTY;
    for (uint32_t at = (gap + 1) % PLACES_MAX; places[at] != PLACE_EMPTY;
         at = (at + 1) % PLACES_MAX) {
        uint32_t home = place_of(blocks[places[at] - 1].p);
        if ((at - home) % PLACES_MAX < (at - gap) % PLACES_MAX)
            continue;
        places[gap] = places[at];
        places[at] = PLACE_EMPTY;
        gap = at;
    }
}

static void *owned_by(void *p, const struct sim_node *owner)
{
    if (!p || !owner)
        return p;
    CHECK(count < BLOCKS_MAX);
    blocks[count++] = (struct block){ .p = p, .owner = owner };
    places[place_find(p)] = count;
    return p;
}

/* Whose it was; NULL: nobody's. */
static const struct sim_node *forget(const void *p)
{
    uint32_t at = place_find(p);
    if (places[at] == PLACE_EMPTY)
        return NULL;
    uint32_t i = places[at] - 1;
    const struct sim_node *owner = blocks[i].owner;
    place_clear(at);
    if (i != --count) {
        uint32_t last = place_find(blocks[count].p);
        blocks[i] = blocks[count];
        places[last] = i + 1;
    }
    return owner;
}

void *__wrap_malloc(size_t bytes)
{
    return owned_by(__real_malloc(bytes), sim_current);
}

void *__wrap_calloc(size_t n, size_t bytes)
{
    return owned_by(__real_calloc(n, bytes), sim_current);
}

void *__wrap_aligned_alloc(size_t align, size_t bytes)
{
    return owned_by(__real_aligned_alloc(align, bytes), sim_current);
}

char *__wrap_strdup(const char *text)
{
    return owned_by(__real_strdup(text), sim_current);
}

void *__wrap_realloc(void *p, size_t bytes)
{
    const struct sim_node *owner = p ? forget(p) : sim_current;
    void *q = __real_realloc(p, bytes);
    owned_by(q ? q : p, owner);
    return q;
}

void __wrap_free(void *p)
{
    if (p && count > 0)
        (void)forget(p);
    __real_free(p);
}

void sim_memory_drop(uint32_t node)
{
    for (uint32_t i = count; i-- > 0;) {
        if (blocks[i].owner != &sim_nodes[node])
            continue;
        void *p = blocks[i].p;
        (void)forget(p);
        __real_free(p);
    }
}
