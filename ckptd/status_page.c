/* The status page: everything that `ckpt status` shows, as JSON in a sealed memfd. */
#include <stdio.h>

#include "ckptd/log.h"
#include "ckptd/status_json.h"
#include "formats/text.h"

json_t *status_text(const char *text)
{
    CLEANUP_FREE char *valid = text_valid(text);
    return valid ? json_string(valid) : NULL;
}

void status_count(json_t *to, enum meter_id id, uint64_t value)
{
    json_object_set_new(to, meters[id].name, json_integer((json_int_t)min_u64(value, INT64_MAX)));
}

void status_seconds(json_t *to, enum meter_id id, double value)
{
    json_object_set_new(to, meters[id].name, json_real(value));
}

void status_left(json_t *to, double left)
{
    if (left >= 0)
        json_object_set_new(to, "eta", json_real(left));
}

/* -- sessions -------------------------------------------------------------------------- */

static json_t *state_json(const struct client *cl, uint32_t at)
{
    const struct session_state *t = &cl->s->states[at];
    return json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s}", "state", (json_int_t)t->number, "slots",
        (json_int_t)t->slots, "free", (json_int_t)session_count(cl->s, at, SLOT_FREE), "client",
        (json_int_t)session_count(cl->s, at, SLOT_CLIENT), "queued",
        (json_int_t)session_count(cl->s, at, SLOT_QUEUED), "arena_bytes",
        (json_int_t)cl->states[at].arena.bytes, "bytes_raw", (json_int_t)t->raw_bytes, "phase",
        t->leaving                  ? "leaving"
        : t->phase == STATE_READY   ? "ready"
        : t->phase == STATE_SEALING ? "sealing"
                                    : "refused");
}

static json_t *op_json(const struct control *c, const struct client *cl,
                       const struct session_op *op)
{
    double rate = progress_rate(op->done_bytes, c->now - op->begun_ns);
    json_t *j = json_pack("{s:I, s:s, s:I, s:I, s:I, s:s, s:s, s:I, s:I, s:f, s:f}", "op",
                          (json_int_t)op->id, "kind", op->phase == OP_LOAD ? "load" : "save",
                          "rank", (json_int_t)cl->s->rank, "step", (json_int_t)op->name.step,
                          "epoch", (json_int_t)op->name.epoch, "level", wire_level_name(op->level),
                          "phase", session_phase_name(op->phase), "bytes",
                          (json_int_t)op->done_bytes, "bytes_total", (json_int_t)op->total_bytes,
                          "rate", rate, "age", (double)(c->now - op->begun_ns) / 1e9);
    status_left(j, progress_left(op->done_bytes, op->total_bytes, rate));
    if (j && op->status != CKPT_OK)
        json_object_set_new(j, "error", status_text(op->text));
    return j;
}

bool status_elsewhere(const struct control *c, const char *job, const struct ckpt_name *name,
                      uint32_t *ret)
{
    const struct committer_attempt *a = committer_find(c->committer, job, name);
    if (!a || !a->several || !a->rank0_here || a->put < a->joined || a->missing >= a->world)
        return false;
    *ret = a->missing;
    return true;
}

/* The rank of the same attempt that has the smallest part of it done. */
static void add_slowest(const struct control *c, const struct session_op *op, const char *job,
                        json_t *j)
{
    double least = 2;
    uint32_t rank = 0;
    if (status_elsewhere(c, job, &op->name, &rank))
        least = 0;
    for (uint32_t i = 0; i < c->client_end; i++) {
        const struct client *cl = c->clients[i];
        for (uint32_t k = 0; cl && k < SESSION_OPS_MAX; k++) {
            const struct session_op *o = &cl->s->ops[k];
            if (o->phase == OP_NONE || strcmp(cl->s->job, job) != 0 ||
                !name_equal(&o->name, &op->name))
                continue;
            double done = o->total_bytes ? (double)o->done_bytes / (double)o->total_bytes : 1;
            if (done >= least)
                continue;
            least = done;
            rank = cl->s->rank;
        }
    }
    if (least < 1)
        json_object_set_new(j, "slowest_rank", json_integer(rank));
}

static json_t *session_json(const struct control *c, const struct client *cl)
{
    const struct session *s = cl->s;
    json_t *states = json_array(), *ops = json_array();
    for (uint32_t i = 0; i < SESSION_STATES_MAX; i++)
        if (s->states[i].phase != STATE_NONE)
            json_array_append_new(states, state_json(cl, i));
    for (uint32_t i = 0; i < SESSION_OPS_MAX; i++) {
        if (s->ops[i].phase == OP_NONE)
            continue;
        json_t *op = op_json(c, cl, &s->ops[i]);
        add_slowest(c, &s->ops[i], s->job, op);
        json_array_append_new(ops, op);
    }
    uint64_t left = 0;
    for (uint32_t i = 0; i < SESSION_OPS_MAX; i++)
        if (s->ops[i].phase != OP_NONE && s->ops[i].total_bytes > s->ops[i].done_bytes)
            left += s->ops[i].total_bytes - s->ops[i].done_bytes;
    const struct launch *l = NULL;
    for (const struct launch *at = c->launches; at; at = at->next)
        if (at->key == cl->launch)
            l = at;
    json_t *j =
        json_pack("{s:s, s:I, s:I, s:I, s:s, s:I, s:b, s:b, s:b, s:s, s:o, s:o}", "job", s->job,
                  "rank", (json_int_t)s->rank, "world", (json_int_t)s->world, "epoch",
                  (json_int_t)s->epoch, "mode", s->mode == WIRE_TRAIN ? "train" : "read", "pid",
                  (json_int_t)s->pid, "attached", cl->conn != NULL, "dead", s->dead,
                  "staged_is_process", (s->flags & WIRE_STAGED_IS_PROCESS) != 0, "launch",
                  !l                             ? "none"
                  : l->phase == LAUNCH_READY     ? "ready"
                  : l->phase == LAUNCH_FAILED    ? "failed"
                  : l->phase == LAUNCH_NEW       ? "waiting for rank 0"
                  : l->phase == LAUNCH_DRAINING  ? "waiting for older saves"
                  : l->phase == LAUNCH_GATHERING ? "waiting for other nodes"
                                                 : "resolving",
                  "states", states, "ops", ops);
    status_count(j, METER_RANK_PROGRESS, s->progress);
    status_count(j, METER_RANK_BEGUN, s->saves_begun);
    status_count(j, METER_RANK_COMMITTED, s->saves_committed);
    status_count(j, METER_RANK_FAILED, s->saves_failed);
    status_count(j, METER_RANK_LEFT, left);
    return j;
}

/* -- tiers ----------------------------------------------------------------------------- */

char *status_tier_name(const struct control *c, uint32_t tier, char ret[STATUS_TIER_TEXT])
{
    if (tier == 0 || tier == c->tiers.home)
        snprintf(ret, STATUS_TIER_TEXT, "%s", tier == 0 ? "local" : "home");
    else
        snprintf(ret, STATUS_TIER_TEXT, "remote%u", tier - c->tiers.home);
    return ret;
}

/* What is under way to a tier, how fast, and how long it will take. */
static void add_progress(const struct control *c, const struct drainer_tier *t, json_t *j)
{
    const struct drainer_target *to = &c->drainer->targets[t->target];
    json_t *more =
        json_pack("{s:s, s:I, s:I, s:I, s:f}", "job", to->job, "step", (json_int_t)to->name.step,
                  "bytes", (json_int_t)drainer_raw_done(t), "bytes_total", (json_int_t)t->raw_total,
                  "rate", drainer_rate(t, c->now));
    status_left(more, drainer_left(t, c->now));
    json_object_update(j, more);
    json_decref(more);
}

static void add_drain(const struct control *c, const struct drainer_tier *t, json_t *j)
{
    if (t->held_ns != 0)
        json_object_set_new(j, "held_step", json_integer((json_int_t)t->held_step));
    if (t->target != UINT32_MAX)
        add_progress(c, t, j);
    if (t->status != CKPT_OK)
        json_object_set_new(j, "error", status_text(t->text));
}

static json_t *tier_json(const struct control *c, uint32_t i)
{
    char name[STATUS_TIER_TEXT];
    const struct drainer_tier *t = &c->drainer->tiers[i];
    bool drains = c->drainer->tier_count > 0;
    bool outlives = i > 0 || store_url_shared(c->tiers.urls[i]);
    json_t *j = json_pack("{s:s, s:o, s:s, s:b, s:s}", "tier", status_tier_name(c, i, name), "url",
                          status_text(c->tiers.urls[i]), "role",
                          i == 0               ? "local"
                          : i == c->tiers.home ? "home"
                                               : "remote",
                          "outlives_node", outlives, "state",
                          t->status != CKPT_OK                ? "trouble"
                          : drains && t->target != UINT32_MAX ? drainer_job_name(t->doing)
                                                              : "idle");
    status_count(j, METER_TIER_LAG, drains ? drainer_lag(c->drainer, i) : 0);
    status_seconds(j, METER_TIER_LAG_SECONDS, (double)drainer_lag_ns(c->drainer, i, c->now) / 1e9);
    status_count(j, METER_TIER_HELD, c->counters->tiers[i].held);
    status_count(j, METER_TIER_PUT_BYTES, c->counters->tiers[i].put_bytes);
    status_count(j, METER_TIER_TROUBLES, c->counters->tiers[i].troubles);
    status_count(j, METER_TIER_FAILING, t->status != CKPT_OK);
    if (drains)
        add_drain(c, t, j);
    return j;
}

static json_t *tiers_json(const struct control *c)
{
    json_t *j = json_array();
    for (uint32_t i = 0; i < c->tiers.count; i++)
        json_array_append_new(j, tier_json(c, i));
    return j;
}

/* -- the node -------------------------------------------------------------------------- */

/* Slots and memory of all states that are here. */
static void count_slots(const struct control *c, json_t *j)
{
    uint64_t bytes = 0, slots = 0, free_slots = 0, queued = 0;
    for (uint32_t i = 0; i < c->client_end; i++) {
        const struct client *cl = c->clients[i];
        for (uint32_t k = 0; cl && k < SESSION_STATES_MAX; k++) {
            if (cl->s->states[k].phase == STATE_NONE)
                continue;
            bytes += cl->states[k].arena.bytes;
            slots += cl->s->states[k].slots;
            free_slots += session_count(cl->s, k, SLOT_FREE);
            queued += session_count(cl->s, k, SLOT_QUEUED);
        }
    }
    status_count(j, METER_NODE_ARENA_BYTES, bytes);
    status_count(j, METER_NODE_SLOTS, slots);
    status_count(j, METER_NODE_SLOTS_FREE, free_slots);
    status_count(j, METER_NODE_SLOTS_QUEUED, queued);
}

static json_t *counters_json(const struct control *c)
{
    json_t *j = json_object();
    status_seconds(j, METER_NODE_UPTIME, (double)(c->now - c->started_ns) / 1e9);
    status_count(j, METER_NODE_STOPPING, c->stopping);
    for (size_t i = 0; i < METER_COUNT; i++)
        if (meters[i].scope == METER_NODE && meters[i].kind == METER_COUNTER)
            status_count(j, (enum meter_id)i, c->counters->node[i]);
    status_seconds(j, METER_NODE_PACK_SECONDS,
                   (double)c->counters->node[METER_NODE_PACK_SECONDS] / 1e9);
    status_count(j, METER_NODE_TROUBLES, log_troubles());
    status_count(j, METER_NODE_SESSIONS_OPEN, c->client_count);
    status_count(j, METER_NODE_JOBS_OUT, c->jobs_out);
    count_slots(c, j);
    return j;
}

static json_t *errors_json(void)
{
    static char kept[LOG_KEPT][LOG_KEPT_MAX];
    json_t *j = json_array();
    size_t n = log_last_errors(kept, LOG_KEPT);
    for (size_t i = 0; i < n; i++)
        json_array_append_new(j, status_text(kept[i]));
    return j;
}

int status_page(const struct control *c, struct ckpt_err *err)
{
    char node[33];
    hex_encode(c->node, 16, node);
    json_t *sessions = json_array();
    for (uint32_t i = 0; i < c->client_end; i++)
        if (c->clients[i])
            json_array_append_new(sessions, session_json(c, c->clients[i]));
    json_t *page = json_pack(
        "{s:s, s:I, s:I, s:o, s:o, s:s, s:o, s:s, s:b, s:b, s:I, s:o, s:o, s:o, s:o, s:o}",
        "version", CKPTD_VERSION, "pid", (json_int_t)getpid(), "keeper", (json_int_t)getppid(),
        "store", status_text(c->config->store), "io", status_text(c->store_text), "io_asked",
        c->config->io, "socket", status_text(c->socket), "node", node, "private",
        c->config->private_, "stopping", c->stopping, "slot_bytes",
        (json_int_t)c->config->slot_bytes, "tiers", tiers_json(c), "jobs", status_jobs(c),
        "sessions", sessions, "counters", counters_json(c), "errors", errors_json());
    char *text = page ? json_dumps(page, JSON_COMPACT) : NULL;
    json_decref(page);
    if (!text) {
        (void)err_set(err, CKPT_NO_MEMORY, "out of memory for the status page");
        return -1;
    }
    int fd = wire_memfd("ckpt-status", text, strlen(text), err);
    free(text);
    return fd;
}
