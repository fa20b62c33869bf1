/* Ends of jobs become events; and what a new worker takes over from a dead one. */
#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/mman.h>

#include "ckptd/control.h"
#include "ckptd/log.h"

#define BEGIN_LATE_NS INT64_C(5000000000) /* the job gives a home that does not answer up itself */

/* The parent is the same on all ranks: the first rank that begins the attempt fixes it.
 * Ranks on other nodes cannot be asked, so there it is the resume point. */
static void find_parent(struct control *c, const struct client *cl, const struct ckpt_name *name,
                        struct session_event *ev)
{
    const struct session *s = cl->s;
    const struct ckpt_name *last = NULL;
    uint32_t here = 0;
    for (uint32_t i = 0; i < c->client_end; i++) {
        const struct client *o = c->clients[i];
        if (!o || !o->open || o->launch != cl->launch)
            continue;
        here++;
        if (o->s->last_commit.step != UINT64_MAX && o->s->last_commit.epoch == name->epoch &&
            (!last || o->s->last_commit.step > last->step))
            last = &o->s->last_commit;
        for (uint32_t k = 0; k < SESSION_OPS_MAX; k++) {
            const struct session_op *op = &o->s->ops[k];
            if (op->phase < OP_COPYING || op->phase > OP_COMMIT || !name_equal(&op->name, name))
                continue;
            ev->has_parent = op->has_parent;
            ev->parent = op->parent;
            return;
        }
    }
    if (here < s->world)
        last = NULL;
    ev->has_parent = last || (s->flags & WIRE_HAS_POINT);
    ev->parent = last ? *last : s->point;
}

static void seal_done(struct control *c, struct client *cl, struct job *j)
{
    uint32_t at = (uint32_t)j->op;
    struct client_state *t = &cl->states[at];
    struct session_event ev = { .kind = SESSION_SEALED,
                                .state = at,
                                .status = j->status,
                                .text = err_text(&j->err),
                                .slots = j->seal.slots };
    if (j->status == CKPT_OK) {
        t->decl = j->seal.decl;
        t->decoded = true;
        t->arena = j->seal.arena;
        ev.image_slots = t->decl.slot_count;
        ev.bytes = t->decl.raw_bytes;
        ev.chunks = t->decl.chunk_count;
        ev.want = j->seal.ram_left;
        keep_add(c->keep, cl->s->id, KEEP_ARENA, at, t->arena.fd);
    }
    control_tell(c, cl, &ev);
    if (!t->decoded || cl->s->states[at].phase == STATE_READY)
        return;          /* refused, forgotten meanwhile, or in use */
    decl_fini(&t->decl); /* the machine refused it: too many slots */
    t->decoded = false;
    client_drop_arena(c, cl, at);
}

static void begun(struct control *c, struct client *cl, const struct ckpt_name *name,
                  struct session_event *ev)
{
    ev->kind = SESSION_BEGUN;
    find_parent(c, cl, name, ev);
    control_tell(c, cl, ev);
    if (ev->status == CKPT_OK && session_op_of(cl->s, ev->op) != UINT32_MAX) {
        control_settle(c);
        control_check_absent(c, cl, name);
    }
}

static void begin_done(struct control *c, struct client *cl, struct job *j)
{
    assert(cl); /* it stays while a job of its is out */
    uint32_t at = session_op_of(cl->s, j->op);
    if (at == UINT32_MAX || !cl->begin_ns[at]) { /* the save went on without it */
        assert(c->begins_late > 0);
        c->begins_late--;
        return;
    }
    cl->begin_ns[at] = 0;
    begun(c, cl, &j->part.name,
          &(struct session_event){
              .op = j->op, .status = j->status, .away = j->part.away, .text = err_text(&j->err) });
}

/* H5 also when the home hangs in a system call, where no deadline reaches; while one job does,
 * no other is waited for. */
void control_begin_tick(struct control *c, struct client *cl)
{
    int64_t patience = c->begins_late ? 0 : BEGIN_LATE_NS;
    if (c->tiers.home == 0 && !c->shared_store)
        return;
    for (uint32_t i = 0; i < SESSION_OPS_MAX; i++) {
        const struct session_op *op = &cl->s->ops[i];
        if (!cl->begin_ns[i] || c->now - cl->begin_ns[i] < patience)
            continue;
        log_warn("the home does not answer: a save begins unasked", "job=%s rank=%u step=%" PRIu64,
                 cl->s->job, cl->s->rank, op->step);
        cl->begin_ns[i] = 0;
        c->begins_late++;
        struct ckpt_name name = op->name;
        begun(c, cl, &name, &(struct session_event){ .op = op->id, .away = true });
    }
}

static void part_done(struct control *c, struct client *cl, struct job *j)
{
    static const enum session_event_kind kinds[] = {
        [JOB_PACK] = SESSION_PACKED,
        [JOB_FINISH] = SESSION_FINISHED,
        [JOB_FAIL_PART] = SESSION_FAILED_PUT,
    };
    char text[SESSION_TEXT_MAX];
    snprintf(text, sizeof(text), "rank %u: %.*s", cl->s->rank, (int)sizeof(text) - 24,
             err_text(&j->err));
    struct session_event ev = {
        .kind = kinds[j->kind],
        .op = j->op,
        .slot = j->part.slot,
        .image_slot = j->part.image_slot,
        .status = j->status,
        .away = j->part.away,
        .text = text,
        .id = j->part.packed.id,
        .stored = j->part.packed.stored_bytes,
        .bytes = j->part.raw_bytes,
        .packs = j->part.area.packs,
    };
    if (j->kind == JOB_PACK) {
        c->counters->node[METER_NODE_PACKS]++;
        c->counters->node[METER_NODE_PACK_BYTES] += j->part.raw_bytes;
        c->counters->node[METER_NODE_PACK_SECONDS] += (uint64_t)j->took_ns;
    }
    uint32_t at = session_op_of(cl->s, j->op);
    bool waited = at != UINT32_MAX && cl->s->ops[at].away_pause_ns;
    control_tell(c, cl, &ev);
    at = session_op_of(cl->s, j->op);
    if (!waited && at != UINT32_MAX && cl->s->ops[at].away_pause_ns)
        log_warn("the home is away: a save waits for it",
                 "job=%s rank=%u step=%" PRIu64 " why=\"%s\"", cl->s->job, cl->s->rank,
                 cl->s->ops[at].step, err_text(&j->err));
}

void control_job_done(struct control *c, struct job *j)
{
    struct client *cl = j->client == UINT32_MAX ? NULL : c->clients[j->client];
    c->jobs_out--;
    c->reports_out -= j->kind == JOB_REPORT;
    c->drains_out -= j->kind >= JOB_DRAIN;
    if (cl)
        cl->jobs_out--;
    switch (j->kind) {
    case JOB_DIGEST: /* no event: to the session it is one job */
        j->kind = JOB_PACK;
        control_submit(c, c->data, j);
        return;
    case JOB_SEAL:
        seal_done(c, cl, j);
        break;
    case JOB_BEGIN:
        begin_done(c, cl, j);
        break;
    case JOB_PACK:
    case JOB_FINISH:
    case JOB_FAIL_PART:
        part_done(c, cl, j);
        break;
    case JOB_ATTEMPT:
        control_attempt_done(c, j);
        break;
    case JOB_LAUNCH:
        control_launch_done(c, j);
        break;
    case JOB_PLAN:
        control_plan_done(c, j);
        break;
    case JOB_BATCH:
        control_batch_done(c, j);
        break;
    case JOB_LIST:
        control_list_done(c, j);
        break;
    case JOB_REPORT:
        if (j->status != CKPT_OK)
            log_warn("a report could not be written", "job=%s why=\"%s\"", j->report.job,
                     err_text(&j->err));
        break;
    case JOB_DRAIN:
        control_drain_done(c, j);
        break;
    case JOB_ADOPT:
    case JOB_SPREAD:
        control_tiers_done(c, j);
        break;
    case JOB_PRUNE:
        control_prune_done(c, j);
        break;
    }
    job_free(j);
}

/* -- after another worker died -------------------------------------------------------------- */

/* Decodes declarations and maps arenas of a session that was read from its ledger. */
bool control_adopt_states(struct control *c, struct client *cl, struct ckpt_err *err)
{
    for (uint32_t i = 0; i < SESSION_STATES_MAX; i++) {
        struct session_state *st = &cl->s->states[i];
        struct client_state *t = &cl->states[i];
        const void *bytes;
        if (st->phase != STATE_READY)
            continue;
        if (st->leaving && (t->decl_fd < 0 || t->arena.fd < 0))
            continue; /* its memory went with nothing needing it: forgotten again at replay */
        if (wire_memfd_map(t->decl_fd, st->decl_bytes, &bytes, err) != CKPT_OK)
            return false;
        enum ckpt_status rc =
            decl_decode(bytes, st->decl_bytes, c->config->slot_bytes, &t->decl, err);
        munmap((void *)(uintptr_t)bytes, st->decl_bytes);
        if (rc != CKPT_OK)
            return false;
        t->decoded = true;
        if (st->dropped)
            continue;
        int fd = t->arena.fd;
        t->arena.fd = -1;
        if (arena_open(fd, (uint64_t)st->slots * c->config->slot_bytes, &t->arena, err) != CKPT_OK)
            return false;
    }
    for (uint32_t i = 0; i < SESSION_OPS_MAX; i++) {
        const struct session_op *op = &cl->s->ops[i];
        const struct session_state *st = &cl->s->states[op->state];
        if (op->phase != OP_NONE && op->phase != OP_LOAD &&
            ledger_op_open(&cl->ledger, i, st->image_slots, st->chunk_count, &cl->areas[i], err) !=
                CKPT_OK)
            return false;
    }
    return true;
}
