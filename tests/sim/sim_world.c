/* Clock, events, seed, trace. */
#include <stdio.h>

#include "sim/sim.h"

#define EVENTS_MAX 8192

struct sim_world sim;

static struct sim_event heap[EVENTS_MAX];
static uint32_t heap_count;
static uint64_t orders;

static bool before(const struct sim_event *a, const struct sim_event *b)
{
    return a->at != b->at ? a->at < b->at : a->order < b->order;
}

void sim_at(int64_t at, enum sim_event_kind kind, uint32_t a, uint64_t b)
{
    SIM_CHECK(heap_count < EVENTS_MAX, "too many events");
    struct sim_event e = { .at = at, .order = orders++, .kind = kind, .a = a, .b = b };
    uint32_t i = heap_count++;
    while (i > 0 && before(&e, &heap[(i - 1) / 2])) {
        heap[i] = heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    heap[i] = e;
}

void sim_after(int64_t delay, enum sim_event_kind kind, uint32_t a, uint64_t b)
{
    sim_at(sim.now + delay, kind, a, b);
}

bool sim_next(struct sim_event *ret)
{
    if (heap_count == 0)
        return false;
    *ret = heap[0];
    struct sim_event last = heap[--heap_count];
    uint32_t i = 0;
    for (;;) {
        uint32_t child = 2 * i + 1;
        if (child + 1 < heap_count && before(&heap[child + 1], &heap[child]))
            child++;
        if (child >= heap_count || !before(&heap[child], &last))
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = last;
    if (ret->at > sim.now)
        sim.now = ret->at;
    sim.events++;
    return true;
}

void sim_events_clear(void)
{
    heap_count = 0;
    orders = 0;
}

uint64_t sim_rand(uint64_t below)
{
    return below ? test_rand(&sim.rng) % below : 0;
}

bool sim_chance(uint32_t of_1000)
{
    return !sim.calm && sim_rand(1000) < of_1000;
}

int64_t sim_between(int64_t from_ns, int64_t to_ns)
{
    int64_t most = from_ns;
    while (most < to_ns && sim_rand(3) != 0)
        most *= 2;
    most = most < to_ns ? most : to_ns;
    return from_ns + (int64_t)sim_rand((uint64_t)(most - from_ns + 1));
}

void sim_saw(enum sim_seen what)
{
    sim.seen[what] = true;
}

void sim_note(const char *fmt, ...)
{
    if (!sim.trace)
        return;
    va_list ap;
    va_start(ap, fmt);
    printf("%12.6f ", (double)sim.now / 1e9);
    vprintf(fmt, ap);
    putchar('\n');
    va_end(ap);
}

void sim_fail(const char *fmt, ...)
{
    va_list ap;
    fflush(stdout);
    va_start(ap, fmt);
    fprintf(stderr, "seed %llu at %.6f s, event %llu: ", sim.seed, (double)sim.now / 1e9,
            (unsigned long long)sim.events);
    vfprintf(stderr, fmt, ap);
    fprintf(stderr, "\nreplay it with: tests/test_%s %llu\n", sim_suite.name, sim.seed);
    va_end(ap);
    exit(1);
}
