/* Crews: a job waits for a thread, has its effect, and comes back; it may be slow, fail
 * before or behind its effect, and it dies with its worker at any of these points. */
#include <stdio.h>

#include "sim/sim.h"
#include "sim/sim_wraps.h"

struct sim_job sim_jobs[SIM_JOBS];
uint32_t sim_job_count; /* slots of the table in use */
#define CREWS_MAX (3 + TIERS_MAX)
static uint64_t numbers;
static struct crew crews[SIM_NODES][CREWS_MAX];
static uint32_t crew_count[SIM_NODES];

void sim_jobs_reset(void)
{
    sim_job_count = 0;
    numbers = 0;
    memset(crews, 0, sizeof(crews));
    memset(crew_count, 0, sizeof(crew_count));
}

static bool goes_before(const struct sim_job *a, const struct sim_job *b)
{
    bool ahead = a->j->base.ahead;
    return ahead == b->j->base.ahead ? a->number < b->number : ahead;
}

static void start_next(struct crew *c)
{
    while (c->running < c->threads) {
        struct sim_job *next = NULL;
        for (uint32_t i = 0; i < sim_job_count; i++) {
            struct sim_job *s = &sim_jobs[i];
            if (s->used && s->crew == c && !s->running && !s->done &&
                (!next || goes_before(s, next)))
                next = s;
        }
        if (!next)
            return;
        next->running = true;
        c->running++;
        while (c->busy[next->thread])
            next->thread++;
        c->busy[next->thread] = true;
        int64_t takes = sim_between(20000, 20 * SIM_MS);
        if (!sim_suite.cluster && sim_chance(sim_faults.store_slow)) {
            takes = sim_between(SIM_S, 30 * SIM_S);
            sim_saw(SEEN_store_slow);
        }
        if (!sim_suite.cluster && sim_chance(sim_faults.store_hang)) {
            takes = 150 * SIM_S;
            sim_saw(SEEN_store_hang);
        }
        sim_after(takes, EV_JOB_EFFECT, (uint32_t)(next - sim_jobs), next->number);
    }
}

void sim_job_effect(uint32_t job, uint64_t number)
{
    struct sim_job *s = &sim_jobs[job];
    if (s->used && s->number == number)
        sim_job_run(s);
}

void sim_job_ran(struct sim_job *s)
{
    sim_after(sim_between(1000, SIM_MS), EV_JOB_DONE, (uint32_t)(s - sim_jobs), s->number);
}

void sim_job_done(uint32_t job, uint64_t number)
{
    struct sim_job *s = &sim_jobs[job];
    if (!s->used || s->number != number)
        return;
    s->done = true;
    s->running = false;
    s->crew->running--;
    s->crew->busy[s->thread] = false;
    start_next(s->crew);
    sim_node_poke(s->crew->node);
}

bool sim_jobs_ready(uint32_t node)
{
    for (uint32_t i = 0; i < sim_job_count; i++)
        if (sim_jobs[i].used && sim_jobs[i].done && sim_jobs[i].crew->node == node)
            return true;
    return false;
}

void sim_jobs_drop(uint32_t node)
{
    for (uint32_t i = 0; i < sim_job_count; i++) {
        struct sim_job *s = &sim_jobs[i];
        if (!s->used || s->crew->node != node)
            continue;
        sim_job_kill(s);
        s->used = false;
    }
    crew_count[node] = 0;
}

/* ---- in the place of storage/crew.h ---- */

enum ckpt_status __wrap_crew_new(const struct crew_options *options, struct crew **ret,
                                 struct ckpt_err *err)
{
    uint32_t node = (uint32_t)(sim_current - sim_nodes);
    (void)err;
    CHECK(crew_count[node] < ARRAY_COUNT(crews[node]));
    struct crew *c = &crews[node][crew_count[node]++];
    *c = (struct crew){ .node = node, .threads = options->threads };
    CHECK(c->threads <= SIM_THREADS);
    sim_crew_equip(c, options);
    *ret = c;
    return CKPT_OK;
}

void __wrap_crew_submit(struct crew *c, struct crew_job *job)
{
    uint32_t i = 0;
    struct job *j = (struct job *)job;
    if (sim_current->c && j->client != UINT32_MAX)
        sim_check_told(sim_current);
    sim_point(SEEN_worker_death_at_submit);
    while (i < sim_job_count && sim_jobs[i].used)
        i++;
    CHECK(i < SIM_JOBS);
    sim_job_count += i == sim_job_count;
    sim_jobs[i] = (struct sim_job){ .used = true, .j = j, .crew = c, .number = ++numbers };
    start_next(c);
    sim_point(SEEN_worker_death_at_submit);
}

/* In the order in which a crew's threads ended them: any. */
struct crew_job *__wrap_crew_done(struct crew *c)
{
    uint32_t from = sim_job_count ? (uint32_t)sim_rand(sim_job_count) : 0;
    for (uint32_t i = 0; i < sim_job_count; i++) {
        struct sim_job *s = &sim_jobs[(from + i) % sim_job_count];
        if (!s->used || !s->done || s->crew != c)
            continue;
        s->used = false;
        sim_point(SEEN_worker_death);
        return &s->j->base;
    }
    return NULL;
}

void __wrap_crew_free(struct crew *c)
{
    crew_count[c->node] = 0;
}
