/* The status page: everything that `ckpt status` shows, as JSON in a sealed memfd. */
#include <jansson.h>
#include <stdio.h>

#include "ckptd/control.h"
#include "ckptd/log.h"

/* JSON takes nothing but UTF-8; a client's words or a path may be anything. */
static json_t *text_json(const char *text)
{
    json_t *j = json_string(text);
    char *copy = j ? NULL : strdup(text);
    for (char *p = copy; p && *p; p++)
        if ((unsigned char)*p >= 0x80)
            *p = '?';
    if (copy)
        j = json_string(copy);
    free(copy);
    return j;
}

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
    double s = (double)(c->now - op->begun_ns) / 1e9;
    double rate = s > 0 ? (double)op->done_bytes / s : 0;
    json_t *j =
        json_pack("{s:I, s:s, s:I, s:I, s:I, s:s, s:s, s:I, s:I, s:f, s:f}", "op",
                  (json_int_t)op->id, "kind", op->phase == OP_LOAD ? "load" : "save", "rank",
                  (json_int_t)cl->s->rank, "step", (json_int_t)op->name.step, "epoch",
                  (json_int_t)op->name.epoch, "level", wire_level_name(op->level), "phase",
                  session_phase_name(op->phase), "bytes", (json_int_t)op->done_bytes, "bytes_total",
                  (json_int_t)op->total_bytes, "rate", rate, "age", s);
    if (j && rate > 0 && op->total_bytes > op->done_bytes)
        json_object_set_new(j, "eta", json_real((double)(op->total_bytes - op->done_bytes) / rate));
    if (j && op->status != CKPT_OK)
        json_object_set_new(j, "error", text_json(op->text));
    return j;
}

/* The rank of the same attempt that has the smallest part of it done. */
static void add_slowest(const struct control *c, const struct session_op *op, const char *job,
                        json_t *j)
{
    const struct committer_attempt *a = committer_find(c->committer, job, &op->name);
    if (a && a->several && a->rank0_here && a->put >= a->joined && a->missing < a->world) {
        json_object_set_new(j, "slowest_rank", json_integer(a->missing)); /* on another node */
        return;
    }
    double least = 2;
    uint32_t rank = 0;
    for (uint32_t i = 0; i < CONTROL_CLIENTS_MAX; i++) {
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
    const struct launch *l = NULL;
    for (const struct launch *at = c->launches; at; at = at->next)
        if (at->key == cl->launch)
            l = at;
    return json_pack(
        "{s:s, s:I, s:I, s:I, s:s, s:I, s:b, s:b, s:b, s:I, s:I, s:I, s:I, s:s, s:o, s:o}", "job",
        s->job, "rank", (json_int_t)s->rank, "world", (json_int_t)s->world, "epoch",
        (json_int_t)s->epoch, "mode", s->mode == WIRE_TRAIN ? "train" : "read", "pid",
        (json_int_t)s->pid, "attached", cl->conn != NULL, "dead", s->dead, "staged_is_process",
        (s->flags & WIRE_STAGED_IS_PROCESS) != 0, "progress", (json_int_t)s->progress,
        "saves_begun", (json_int_t)s->saves_begun, "saves_committed",
        (json_int_t)s->saves_committed, "saves_failed", (json_int_t)s->saves_failed, "launch",
        !l                             ? "none"
        : l->phase == LAUNCH_READY     ? "ready"
        : l->phase == LAUNCH_FAILED    ? "failed"
        : l->phase == LAUNCH_NEW       ? "waiting for rank 0"
        : l->phase == LAUNCH_DRAINING  ? "waiting for older saves"
        : l->phase == LAUNCH_GATHERING ? "waiting for other nodes"
                                       : "resolving",
        "states", states, "ops", ops);
}

/* Since when the oldest of what is still to go there waits. */
static double lag_seconds(const struct control *c, uint32_t tier)
{
    int64_t since = c->now;
    for (size_t i = 0; i < DRAINER_TARGETS_MAX; i++) {
        const struct drainer_target *t = &c->drainer->targets[i];
        if (t->used && t->tier == tier && t->since_ns < since)
            since = t->since_ns;
    }
    return (double)(c->now - since) / 1e9;
}

/* What is under way to a tier, how fast, and how long it will take. */
static void add_progress(const struct control *c, const struct drainer_tier *t, json_t *j)
{
    const struct drainer_target *to = &c->drainer->targets[t->target];
    double s = (double)(c->now - t->begun_ns) / 1e9;
    uint64_t done = drainer_raw_done(t);
    double rate = s > 0 ? (double)t->put_bytes / s : 0;
    double raw_rate = s > 0 && t->put_bytes > 0 ? (double)done / s : 0;
    json_t *more =
        json_pack("{s:s, s:I, s:I, s:I, s:f}", "job", to->job, "step", (json_int_t)to->name.step,
                  "bytes", (json_int_t)done, "bytes_total", (json_int_t)t->raw_total, "rate", rate);
    if (raw_rate > 0 && t->raw_total > done)
        json_object_set_new(more, "eta", json_real((double)(t->raw_total - done) / raw_rate));
    json_object_update(j, more);
    json_decref(more);
}

static json_t *tier_json(const struct control *c, uint32_t i)
{
    const struct drainer_tier *t = &c->drainer->tiers[i];
    json_t *j = json_pack("{s:o, s:s, s:s, s:I, s:f, s:I, s:I, s:I}", "tier",
                          text_json(c->tiers.urls[i]), "role",
                          i == 0               ? "local"
                          : i == c->tiers.home ? "home"
                                               : "remote",
                          "state",
                          t->status != CKPT_OK      ? "trouble"
                          : t->target != UINT32_MAX ? drainer_job_name(t->doing)
                                                    : "idle",
                          "lag", (json_int_t)drainer_lag(c->drainer, i), "lag_seconds",
                          lag_seconds(c, i), "held", (json_int_t)t->held, "put_bytes",
                          (json_int_t)t->put_total, "troubles", (json_int_t)t->troubles);
    if (t->held_ns != 0)
        json_object_set_new(j, "held_step", json_integer((json_int_t)t->held_step));
    if (t->target != UINT32_MAX)
        add_progress(c, t, j);
    if (t->status != CKPT_OK)
        json_object_set_new(j, "error", text_json(t->text));
    return j;
}

static json_t *tiers_json(const struct control *c)
{
    json_t *j = json_array();
    for (uint32_t i = 0; i < c->drainer->tier_count; i++)
        json_array_append_new(j, tier_json(c, i));
    return j;
}

static json_t *counters_json(const struct control *c)
{
    const struct {
        const char *name;
        uint64_t value;
    } rows[] = {
        { "connections", c->counters.connections },
        { "refused", c->counters.refused },
        { "hostile", c->counters.hostile },
        { "messages", c->counters.messages },
        { "sessions", c->counters.sessions },
        { "packs", c->counters.packs },
        { "pack_bytes", c->counters.pack_bytes },
        { "pack_ns", c->counters.pack_ns },
        { "load_batches", c->counters.loads },
        { "load_bytes", c->counters.load_bytes },
        { "saves_committed", c->committer->committed },
        { "saves_aborted", c->committer->aborted },
        { "jobs_out", c->jobs_out },
    };
    json_t *j = json_object();
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++)
        json_object_set_new(j, rows[i].name, json_integer((json_int_t)rows[i].value));
    return j;
}

static json_t *errors_json(void)
{
    static char kept[LOG_KEPT][LOG_KEPT_MAX];
    json_t *j = json_array();
    size_t n = log_last_errors(kept, LOG_KEPT);
    for (size_t i = 0; i < n; i++)
        json_array_append_new(j, text_json(kept[i]));
    return j;
}

int status_page(const struct control *c, struct ckpt_err *err)
{
    char node[33];
    hex_encode(c->node, 16, node);
    json_t *sessions = json_array();
    for (uint32_t i = 0; i < CONTROL_CLIENTS_MAX; i++)
        if (c->clients[i])
            json_array_append_new(sessions, session_json(c, c->clients[i]));
    json_t *page = json_pack(
        "{s:s, s:I, s:I, s:f, s:o, s:o, s:s, s:o, s:s, s:b, s:b, s:I, s:o, s:o, s:o, s:o}",
        "version", CKPTD_VERSION, "pid", (json_int_t)getpid(), "keeper", (json_int_t)getppid(),
        "uptime", (double)(c->now - c->started_ns) / 1e9, "store", text_json(c->config->store),
        "io", text_json(c->store_text), "io_asked", c->config->io, "socket", text_json(c->socket),
        "node", node, "private", c->config->private_, "stopping", c->stopping, "slot_bytes",
        (json_int_t)c->config->slot_bytes, "tiers", tiers_json(c), "sessions", sessions, "counters",
        counters_json(c), "errors", errors_json());
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
