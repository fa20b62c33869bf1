/* A crew's job is a task: the product's own code, which gives the turn back in every store
 * call and dies there with its worker.  The threads' handles are made as the product makes
 * them; working memory that is only scratch is shared by all nodes, one set a running job. */
#include <stdio.h>

#include "sim/cluster.h"
#include "sim/sim_wraps.h"

#define KITS_MAX 128

static struct kit {
    bool used;
    struct save_work *save;
    struct load_work *load;
    struct drain_work *drain;
} kits[KITS_MAX];
static uint32_t kit_of[SIM_JOBS];

void jobs_reset(void)
{
    for (uint32_t i = 0; i < KITS_MAX; i++)
        kits[i].used = false;
}

static uint32_t kit_take(void)
{
    uint32_t i = 0;
    while (i < KITS_MAX && kits[i].used)
        i++;
    CHECK(i < KITS_MAX);
    struct kit *k = &kits[i];
    k->used = true;
    if (!k->save) {
        struct sim_node *n = sim_current;
        sim_current = NULL; /* nobody's: it stays */
        k->save = save_work_new(CKPT_SLOT_BYTES_MIN);
        k->load = load_work_new(CKPT_SLOT_BYTES_MIN);
        k->drain = drain_work_new(CKPT_SLOT_BYTES_MIN);
        sim_current = n;
        CHECK(k->save && k->load && k->drain);
    }
    return i;
}

void sim_crew_equip(struct crew *c, const struct crew_options *options)
{
    struct jobs_setup light = *(const struct jobs_setup *)options->arg;
    light.data = light.drain = false;
    for (uint32_t i = 0; i < c->threads; i++) {
        c->works[i] = jobs_work_new(&light, NULL);
        CHECK(c->works[i]);
    }
}

static void trace(const struct sim_job *s)
{
    static const char *const kinds[] = { "",       "seal",   "begin",     "digest",
                                         "pack",   "finish", "fail part", "attempt",
                                         "launch", "plan",   "batch",     "report",
                                         "list",   "drain",  "adopt",     "spread" };
    static const char *const whats[] = { "", "publish", "abort", "missing", "look" };
    const struct job *j = s->j;
    const char *what = kinds[j->kind];
    if (j->kind == JOB_ATTEMPT)
        what = whats[j->attempt.what];
    if (j->kind == JOB_DRAIN)
        what = drainer_job_name(j->drain.what);
    sim_note("node %u: job %llu %s op %llu: %s %s", s->crew->node, (unsigned long long)s->number,
             what, (unsigned long long)j->op, status_name(j->status),
             j->status == CKPT_OK ? "" : err_text(&j->err));
}

static void run(void *arg)
{
    struct sim_job *s = arg;
    struct jobs_work *w = s->crew->works[s->thread];
    const struct kit *k = &kits[kit_of[s - sim_jobs]];
    w->save = k->save;
    w->load = k->load;
    w->drain = k->drain;
    /* Of a plan nothing is as large as one slot here, however small it is. */
    w->slot_bytes = s->j->kind == JOB_PLAN ? CKPT_SLOT_BYTES_MIN : sim_suite.slot_bytes;
    truth_job_begins(s);
    s->j->base.run(&s->j->base, w);
    w->save = NULL;
    w->load = NULL;
    w->drain = NULL;
    trace(s);
    truth_job_ended(s);
    kits[kit_of[s - sim_jobs]].used = false;
    s->task = 0;
    sim_job_ran(s);
}

void sim_job_run(struct sim_job *s)
{
    sim_current = &sim_nodes[s->crew->node];
    kit_of[s - sim_jobs] = kit_take();
    sim_current = NULL;
    s->task = 1 + sim_task_start(s->crew->node, run, s);
}

/* What a job in the middle of its work has, nobody knows: all of it is the worker's memory,
 * which goes with him. */
void sim_job_kill(struct sim_job *s)
{
    if (s->task == 0) {
        job_free(s->j);
        return;
    }
    sim_task_kill(s->task - 1);
    kits[kit_of[s - sim_jobs]].used = false;
    s->task = 0;
}
