/* Counting, and what would be lost. */
#include "ckptd/counters.h"

#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>

void *shared_new(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

struct counters *counters_new(void)
{
    return shared_new(sizeof(struct counters));
}

/* -- jobs -------------------------------------------------------------------------- */

static struct counters_job *find(struct counters *c, const char *job)
{
    for (size_t i = 0; i < COUNTERS_JOBS_MAX; i++)
        if (c->jobs[i].used && strcmp(c->jobs[i].job, job) == 0)
            return &c->jobs[i];
    return NULL;
}

const struct counters_job *counters_find(const struct counters *c, const char *job)
{
    return find((struct counters *)(uintptr_t)c, job);
}

/* A free place, or that of the job that was longest silent. */
static struct counters_job *make_place(struct counters *c)
{
    struct counters_job *oldest = &c->jobs[0];
    for (size_t i = 0; i < COUNTERS_JOBS_MAX; i++) {
        if (!c->jobs[i].used)
            return &c->jobs[i];
        if (c->jobs[i].heard_ns < oldest->heard_ns)
            oldest = &c->jobs[i];
    }
    return oldest;
}

static struct counters_job *job_of(struct counters *c, const char *job, int64_t now)
{
    struct counters_job *j = find(c, job);
    if (!j) {
        j = make_place(c);
        j->used = false;
        *j = (struct counters_job){ .begun_ns = now };
        snprintf(j->job, sizeof(j->job), "%s", job);
        atomic_signal_fence(memory_order_seq_cst); /* whoever reads after us sees it whole */
        j->used = true;
    }
    j->heard_ns = now;
    return j;
}

static bool newer(const struct ckpt_name *a, const struct ckpt_name *b)
{
    return a->epoch != b->epoch ? a->epoch > b->epoch : a->step > b->step;
}

/* -- what happens ------------------------------------------------------------------ */

/* A tier that is known to lack what the epoch resumes from stays as far behind as it is; in
 * all others the work of the new epoch is all that can be lost. */
void counters_epoch(struct counters *c, const char *job, uint64_t epoch,
                    const struct ckpt_name *point, int64_t now)
{
    struct counters_job *j = job_of(c, job, now);
    if (j->epoch == epoch)
        return; /* another rank of it, or it came back */
    j->epoch = epoch;
    j->begun_ns = now;
    j->from_step = j->step = point ? point->step : 0;
    for (size_t i = 0; i < TIERS_MAX; i++) {
        struct counters_kept *k = &j->kept[i];
        if (k->any && (!point || !newer(point, &k->newest.name)))
            k->any = false;
    }
}

void counters_step(struct counters *c, const char *job, uint64_t epoch, uint64_t step, int64_t now)
{
    struct counters_job *j = job_of(c, job, now);
    if (j->epoch == epoch && step > j->step)
        j->step = step;
}

void counters_staged(struct counters *c, const char *job, int64_t now)
{
    job_of(c, job, now)->staged++;
}

static void keep(struct counters_kept *k, const struct counters_name *n)
{
    if (n->begun_ns == 0 || (k->any && !newer(&n->name, &k->newest.name)))
        return; /* of unknown age, or an older one that came late */
    k->newest = *n;
    k->any = true;
}

void counters_committed(struct counters *c, const char *job, const struct ckpt_name *name,
                        int64_t begun_ns, int64_t now)
{
    struct counters_job *j = job_of(c, job, now);
    struct counters_name n = { .name = *name, .begun_ns = begun_ns };
    j->committed++;
    if (name->epoch < j->epoch)
        return; /* left by an older launch: not what this one goes on from */
    j->names[j->next_name++ % COUNTERS_NAMES_MAX] = n;
    j->kept[0].count++;
    keep(&j->kept[0], &n);
}

void counters_aborted(struct counters *c, const char *job, int64_t now)
{
    job_of(c, job, now)->aborted++;
}

void counters_held(struct counters *c, const char *job, uint32_t tier, const struct ckpt_name *name,
                   bool brought, int64_t now)
{
    struct counters_job *j = job_of(c, job, now);
    struct counters_name n = { .name = *name };
    for (size_t i = 0; i < COUNTERS_NAMES_MAX; i++)
        if (j->names[i].begun_ns && name_equal(&j->names[i].name, name))
            n = j->names[i];
    j->kept[tier].count += brought;
    keep(&j->kept[tier], &n);
}

/* -- what would be lost ------------------------------------------------------------ */

struct counters_loss counters_loss(const struct counters_job *j, uint32_t tier, bool training,
                                   int64_t now)
{
    const struct counters_kept *here = &j->kept[0], *k = &j->kept[tier];
    int64_t from_ns = k->any ? k->newest.begun_ns : j->begun_ns;
    uint64_t from = k->any ? k->newest.name.step : j->from_step;
    int64_t to_ns = training ? now : here->any ? here->newest.begun_ns : from_ns;
    uint64_t to = training ? j->step : here->any ? here->newest.name.step : from;
    return (struct counters_loss){ .seconds = to_ns > from_ns ? (double)(to_ns - from_ns) / 1e9 : 0,
                                   .steps = to > from ? to - from : 0 };
}
