/* Crews: a job waits for a thread, has its effect, and comes back; it may be slow, fail
 * before or behind its effect, and it dies with its worker at any of these points. */
#include <stdio.h>

#include "sim/sim.h"
#include "sim/sim_wraps.h"

struct sim_job sim_jobs[SIM_JOBS];
uint32_t sim_job_count; /* slots of the table in use */
static uint64_t numbers;
static struct crew crews[SIM_NODES][5];
uint32_t sim_job_node;
static uint32_t crew_count[SIM_NODES];

void sim_jobs_reset(void)
{
    sim_job_count = 0;
    numbers = 0;
    memset(crews, 0, sizeof(crews));
    memset(crew_count, 0, sizeof(crew_count));
}

static void start_next(struct crew *c)
{
    while (c->running < c->threads) {
        struct sim_job *next = NULL;
        for (uint32_t i = 0; i < sim_job_count; i++) {
            struct sim_job *s = &sim_jobs[i];
            if (s->used && s->crew == c && !s->running && !s->done &&
                (!next || s->number < next->number))
                next = s;
        }
        if (!next)
            return;
        next->running = true;
        c->running++;
        int64_t takes = sim_between(20000, 20 * SIM_MS);
        if (sim_chance(sim_faults.store_slow)) {
            takes = sim_between(SIM_S, 30 * SIM_S);
            sim_saw(SEEN_store_slow);
        }
        if (sim_chance(sim_faults.store_hang)) {
            takes = 150 * SIM_S;
            sim_saw(SEEN_store_hang);
        }
        sim_after(takes, EV_JOB_EFFECT, (uint32_t)(next - sim_jobs), next->number);
    }
}

static bool can_be_full(const struct job *j)
{
    return j->kind == JOB_PACK || j->kind == JOB_FINISH || j->kind == JOB_FAIL_PART;
}

static enum ckpt_status trouble(struct job *j)
{
    static const enum ckpt_status some[] = { CKPT_IO, CKPT_UNREACHABLE, CKPT_TIMEOUT,
                                             CKPT_NO_MEMORY, CKPT_CORRUPT };
    bool reads = j->kind == JOB_BATCH || j->kind == JOB_PLAN;
    return err_set(&j->err, some[sim_rand(reads ? 5 : 4)], "trouble in the simulated store");
}

/* Ranks may be told that a save failed which is committed all the same, when the store did
 * a manifest but said that it could not, or could not be told of an abort. */
static void unsure(const struct job *j)
{
    if (j->kind == JOB_FINISH) {
        struct sim_attempt *a = sim_attempt_get(&j->part.name, j->part.world);
        a->unsure[j->part.rank] |= a->manifests[j->part.rank].there; /* by a dead worker, maybe */
    }
    if (j->kind != JOB_ATTEMPT || j->attempt.what != COMMITTER_ABORT)
        return;
    struct sim_attempt *a = sim_attempt_get(&j->attempt.name, j->attempt.world);
    for (uint32_t r = 0; r < a->world; r++)
        a->unsure[r] = true;
}

static enum ckpt_status run_once(struct job *j)
{
    if (j->kind == JOB_DIGEST) /* no store is asked */
        return sim_store_run(j);
    uint32_t error = j->kind == JOB_LAUNCH ? sim_faults.store_error / 8 : sim_faults.store_error;
    if (sim_chance(error)) {
        sim_saw(SEEN_store_error);
        unsure(j);
        return trouble(j);
    }
    if (can_be_full(j) && sim_chance(sim_faults.store_full)) {
        sim_saw(SEEN_store_full);
        unsure(j);
        return err_set(&j->err, CKPT_FULL, "the simulated store is full");
    }
    enum ckpt_status st = sim_store_run(j);
    if (st != CKPT_OK || j->kind == JOB_SEAL || j->kind == JOB_PLAN || !sim_chance(error))
        return st;
    sim_saw(SEEN_store_error_after);
    unsure(j);
    return trouble(j);
}

static void trace(const struct sim_job *s)
{
    static const char *const kinds[] = { "",       "seal",      "begin",   "digest", "pack",
                                         "finish", "fail part", "attempt", "launch", "plan",
                                         "batch",  "report",    "drain",   "adopt",  "spread" };
    static const char *const whats[] = { "", "publish", "abort", "missing", "look" };
    const struct job *j = s->j;
    if (j->kind == JOB_ATTEMPT)
        sim_note("node %u: job %llu %s step %llu~%llu: %s", s->crew->node,
                 (unsigned long long)s->number, whats[j->attempt.what],
                 (unsigned long long)j->attempt.name.step,
                 (unsigned long long)j->attempt.name.epoch, status_name(j->status));
    else if (j->kind == JOB_DRAIN)
        sim_note("node %u: job %llu %s step %llu rank %u: %s", s->crew->node,
                 (unsigned long long)s->number, drainer_job_name(j->drain.what),
                 (unsigned long long)j->drain.name.step, j->drain.rank, status_name(j->status));
    else
        sim_note("node %u: job %llu %s op %llu: %s", s->crew->node, (unsigned long long)s->number,
                 kinds[j->kind], (unsigned long long)j->op, status_name(j->status));
}

void sim_job_effect(uint32_t job, uint64_t number)
{
    struct sim_job *s = &sim_jobs[job];
    if (!s->used || s->number != number)
        return;
    struct job *j = s->j;
    sim_job_node = s->crew->node;
    j->status = run_once(j);
    if (j->status == CKPT_IO && can_be_full(j) && j->kind != JOB_FAIL_PART)
        j->status = run_once(j); /* as jobs.c does */
    j->err.status = j->status;
    trace(s);
    sim_after(sim_between(1000, SIM_MS), EV_JOB_DONE, job, number);
}

void sim_job_done(uint32_t job, uint64_t number)
{
    struct sim_job *s = &sim_jobs[job];
    if (!s->used || s->number != number)
        return;
    s->done = true;
    s->running = false;
    s->crew->running--;
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
        job_free(s->j);
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
