/* The status page's part about jobs: one row each, over all ranks on this node. */
#include "ckptd/status_json.h"

/* What the ranks of a job do at present, taken together. */
struct busy {
    const struct session_op *op; /* of the newest save under way; else of a restore */
    uint32_t ranks, level;
    uint64_t done_bytes, total_bytes;
    double rate;
    const struct session *slowest;
    double slowest_done; /* its share, 0 to 1 */
};

static bool trains(const struct client *cl, const char *job)
{
    return cl && cl->open && !cl->s->dead && cl->s->mode == WIRE_TRAIN &&
           strcmp(cl->s->job, job) == 0;
}

static bool preferred(const struct session_op *a, const struct session_op *b)
{
    if ((a->phase == OP_LOAD) != (b->phase == OP_LOAD))
        return b->phase == OP_LOAD;
    if (a->name.epoch != b->name.epoch)
        return a->name.epoch > b->name.epoch;
    return a->name.step > b->name.step;
}

static const struct session_op *newest_op(const struct control *c, const char *job)
{
    const struct session_op *best = NULL;
    for (uint32_t i = 0; i < c->client_end; i++) {
        const struct client *cl = c->clients[i];
        for (uint32_t k = 0; cl && strcmp(cl->s->job, job) == 0 && k < SESSION_OPS_MAX; k++) {
            const struct session_op *op = &cl->s->ops[k];
            if (op->phase != OP_NONE && (!best || preferred(op, best)))
                best = op;
        }
    }
    return best;
}

static void add_op(const struct control *c, struct busy *b, const struct session *s,
                   const struct session_op *op)
{
    double done = op->total_bytes ? (double)op->done_bytes / (double)op->total_bytes : 1;
    b->level = b->ranks == 0 || op->level < b->level ? op->level : b->level;
    b->ranks++;
    b->done_bytes += op->done_bytes;
    b->total_bytes += op->total_bytes;
    b->rate += progress_rate(op->done_bytes, c->now - op->begun_ns);
    if (!b->slowest || done < b->slowest_done) {
        b->slowest = s;
        b->slowest_done = done;
    }
}

static struct busy busy_of(const struct control *c, const char *job)
{
    struct busy b = { .op = newest_op(c, job) };
    for (uint32_t i = 0; b.op && i < c->client_end; i++) {
        const struct client *cl = c->clients[i];
        for (uint32_t k = 0; cl && strcmp(cl->s->job, job) == 0 && k < SESSION_OPS_MAX; k++) {
            const struct session_op *op = &cl->s->ops[k];
            bool same = (op->phase == OP_LOAD) == (b.op->phase == OP_LOAD) &&
                        name_equal(&op->name, &b.op->name);
            if (op->phase != OP_NONE && same)
                add_op(c, &b, cl->s, op);
        }
    }
    return b;
}

static json_t *busy_json(const struct control *c, const struct busy *b)
{
    json_t *j =
        json_pack("{s:s, s:I, s:s, s:I, s:I, s:I, s:f, s:f}", "kind",
                  b->op->phase == OP_LOAD ? "load" : "save", "step", (json_int_t)b->op->name.step,
                  "level", wire_level_name(b->level), "ranks", (json_int_t)b->ranks, "bytes",
                  (json_int_t)b->done_bytes, "bytes_total", (json_int_t)b->total_bytes, "rate",
                  b->rate, "age", (double)(c->now - b->op->begun_ns) / 1e9);
    status_left(j, progress_left(b->done_bytes, b->total_bytes, b->rate));
    uint32_t rank;
    if (status_elsewhere(c, b->slowest->job, &b->op->name, &rank))
        json_object_set_new(j, "slowest", json_pack("{s:I}", "rank", (json_int_t)rank));
    else if (b->slowest_done < 1)
        json_object_set_new(j, "slowest",
                            json_pack("{s:I, s:I, s:f}", "rank", (json_int_t)b->slowest->rank,
                                      "pid", (json_int_t)b->slowest->pid, "done", b->slowest_done));
    return j;
}

static json_t *kept_json(const struct control *c, const struct counters_job *job, uint32_t tier,
                         bool training)
{
    char name[STATUS_TIER_TEXT];
    const struct counters_kept *k = &job->kept[tier];
    struct counters_loss loss = counters_loss(job, tier, training, c->now);
    json_t *j = json_pack("{s:s}", "tier", status_tier_name(c, tier, name));
    status_count(j, METER_KEPT_HELD, k->count);
    if (k->any)
        status_count(j, METER_KEPT_STEP, k->newest.name.step);
    status_seconds(j, METER_KEPT_LOST_SECONDS, loss.seconds);
    status_count(j, METER_KEPT_LOST_STEPS, loss.steps);
    return j;
}

static json_t *job_json(const struct control *c, const struct counters_job *job)
{
    uint32_t ranks = 0, world = 0;
    for (uint32_t i = 0; i < c->client_end; i++) {
        if (!trains(c->clients[i], job->job))
            continue;
        ranks++;
        world = c->clients[i]->s->world;
    }
    json_t *tiers = json_array();
    for (uint32_t i = 0; i < c->tiers.count; i++)
        json_array_append_new(tiers, kept_json(c, job, i, ranks > 0));
    json_t *j =
        json_pack("{s:s, s:b, s:I, s:I, s:o}", "job", job->job, "training", ranks > 0, "world",
                  (json_int_t)world, "epoch", (json_int_t)job->epoch, "tiers", tiers);
    status_count(j, METER_JOB_RANKS, ranks);
    status_count(j, METER_JOB_STEP, job->step);
    status_count(j, METER_JOB_STAGED, job->staged);
    status_count(j, METER_JOB_COMMITTED, job->committed);
    status_count(j, METER_JOB_ABORTED, job->aborted);
    if (ranks > 0)
        status_seconds(j, METER_JOB_AGE, counters_loss(job, 0, true, c->now).seconds);
    struct busy b = busy_of(c, job->job);
    if (b.op)
        json_object_set_new(j, "busy", busy_json(c, &b));
    return j;
}

json_t *status_jobs(const struct control *c)
{
    json_t *j = json_array();
    for (size_t i = 0; i < COUNTERS_JOBS_MAX; i++)
        if (c->counters->jobs[i].used)
            json_array_append_new(j, job_json(c, &c->counters->jobs[i]));
    return j;
}
