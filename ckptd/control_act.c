/* Actions of the session machines, and ends of jobs. */
#include <inttypes.h>
#include <stdio.h>
#include <sys/mman.h>

#include "ckptd/control.h"
#include "ckptd/log.h"

/* -- messages -------------------------------------------------------------------- */

static void send_op(struct client *cl, const struct session_op *op)
{
    struct wire_msg *m = control_msg();
    struct wire_op b = { .op = op->id,
                         .level = op->level,
                         .done_bytes = op->done_bytes,
                         .total_bytes = op->total_bytes,
                         .name = { op->name.epoch, op->name.step, op->name.attempt } };
    wire_begin(m, WIRE_OP, &b);
    client_send(cl, m);
}

static void send_final(struct client *cl, const struct session_final *f)
{
    struct wire_msg *m = control_msg();
    struct wire_op b = { .op = f->id,
                         .level = f->level,
                         .status = f->status,
                         .flags = WIRE_OP_FINAL,
                         .done_bytes = f->done_bytes,
                         .total_bytes = f->total_bytes,
                         .name = { f->name.epoch, f->name.step, f->name.attempt } };
    wire_begin(m, WIRE_OP, &b);
    if (f->status != CKPT_OK)
        (void)wire_tail(m, f->text, strlen(f->text));
    client_send(cl, m);
}

static void send_grant(struct client *cl, const struct session_op *op, uint32_t slot)
{
    struct wire_msg *m = control_msg();
    const struct session_state *t = &cl->s->states[op->state];
    struct wire_grant b = { .op = op->id, .state = t->number, .arena_slot = slot - t->first };
    wire_begin(m, WIRE_GRANT, &b);
    client_send(cl, m);
}

static void send_state(struct control *c, struct client *cl, uint32_t at)
{
    struct wire_msg *m = control_msg();
    const struct session_state *t = &cl->s->states[at];
    if (t->phase == STATE_REFUSED) {
        struct wire_refused b = { .status = t->status, .type = WIRE_STATE, .state = t->number };
        wire_begin(m, WIRE_REFUSED, &b);
        (void)wire_tail(m, t->text, strlen(t->text));
        client_send(cl, m);
        return;
    }
    struct wire_state_ok b = { .state = t->number,
                               .slots = t->slots,
                               .slot_bytes = c->config->slot_bytes,
                               .ram_left_bytes = t->ram_left_bytes };
    wire_begin(m, WIRE_STATE_OK, &b);
    m->fds[m->fd_count++] = cl->states[at].arena.fd;
    client_send(cl, m);
}

/* -- jobs -------------------------------------------------------------------------- */

/* Out of memory for a job struct: the job fails by itself. */
static struct job *new_job(struct control *c, struct client *cl, enum job_kind kind)
{
    struct job *j = job_new(kind);
    if (!j) {
        log_error("out of memory", "job=%s", cl->s->job);
        c->stopping = true; /* a daemon that cannot allocate 4 KiB must be replaced */
        return NULL;
    }
    j->client = cl->number;
    return j;
}

static void submit_seal(struct control *c, struct client *cl, uint32_t at)
{
    struct job *j = new_job(c, cl, JOB_SEAL);
    if (!j)
        return;
    j->op = at;
    j->seal.decl_fd = cl->states[at].decl_fd;
    j->seal.decl_bytes = cl->s->states[at].decl_bytes;
    j->seal.want_bytes = cl->s->states[at].want_bytes;
    j->seal.slots_max = SESSION_SLOTS_MAX - cl->s->slot_count;
    snprintf(j->seal.who, sizeof(j->seal.who), "job %s rank %u", cl->s->job, cl->s->rank);
    control_submit(c, c->data, j);
}

static void fill_part(struct client *cl, const struct session_op *op, struct job_part *p)
{
    const struct session *s = cl->s;
    *p = (struct job_part){
        .job = s->job,
        .name = op->name,
        .rank = s->rank,
        .world = s->world,
        .try_ = op->try_,
        .flags = op->flags,
        .epoch = op->name.epoch,
        .step = op->step,
        .time_ns = op->time_ns,
        .has_parent = op->has_parent,
        .parent = op->parent,
        .fail_status = op->status,
        .decl = &cl->states[op->state].decl,
        .area = cl->areas[op - s->ops],
        .stored_bytes = op->stored_bytes,
    };
    memcpy(p->fail_text, op->text, sizeof(p->fail_text));
}

static void submit_part(struct control *c, struct client *cl, enum job_kind kind,
                        const struct session_action *a)
{
    struct session_op *op = &cl->s->ops[a->op];
    struct job *j = new_job(c, cl, kind);
    if (!j)
        return;
    j->op = op->id;
    fill_part(cl, op, &j->part);
    if (kind == JOB_PACK) {
        const struct session_state *t = &cl->s->states[op->state];
        j->part.slot = a->slot;
        j->part.image_slot = a->image_slot;
        j->part.memory = cl->states[op->state].arena.base +
                         (uint64_t)(a->slot - t->first) * c->config->slot_bytes;
    }
    control_submit(c, kind == JOB_PACK ? c->data : c->records, j);
}

/* -- words for the committer ---------------------------------------------------------- */

void control_later(struct control *c, const struct committer_event *ev)
{
    struct later *l = calloc(1, sizeof(*l));
    if (!l) {
        c->stopping = true;
        return;
    }
    l->ev = *ev;
    snprintf(l->job, sizeof(l->job), "%s", ev->job);
    snprintf(l->text, sizeof(l->text), "%s", ev->text ? ev->text : "");
    l->ev.job = l->job;
    l->ev.text = l->text;
    *c->later_last = l;
    c->later_last = &l->next;
}

static void say(struct control *c, const struct client *cl, enum committer_event_kind kind,
                const struct session_op *op)
{
    control_later(c, &(struct committer_event){ .kind = kind,
                                                .job = cl->s->job,
                                                .name = op->name,
                                                .world = cl->s->world,
                                                .rank = cl->s->rank,
                                                .deadline_ns = op->deadline_ns,
                                                .status = op->status,
                                                .text = op->text });
}

static void say_failed(struct control *c, const struct client *cl, const struct session_final *f)
{
    control_later(c, &(struct committer_event){ .kind = COMMITTER_FAILED,
                                                .job = cl->s->job,
                                                .name = f->name,
                                                .world = cl->s->world,
                                                .rank = cl->s->rank,
                                                .status = f->status,
                                                .text = f->text });
}

static void say_cancel(struct control *c, const struct client *cl, const struct session_op *op)
{
    char text[SESSION_TEXT_MAX];
    snprintf(text, sizeof(text), "rank %u cancelled the save of step %" PRIu64, cl->s->rank,
             op->step);
    control_later(c, &(struct committer_event){ .kind = COMMITTER_FAILED,
                                                .job = cl->s->job,
                                                .name = op->name,
                                                .world = cl->s->world,
                                                .rank = cl->s->rank,
                                                .status = CKPT_CANCELLED,
                                                .text = text });
}

/* A rank that is gone and has not begun an attempt never will. */
static void say_absent(struct control *c, const struct launch *l, uint32_t rank,
                       const struct committer_attempt *a)
{
    char text[SESSION_TEXT_MAX];
    if (a->name.epoch != l->epoch || strcmp(a->job, l->job) != 0 || a->status != CKPT_OK ||
        a->put >= a->world || committer_has_joined(a, rank))
        return;
    snprintf(text, sizeof(text), "rank %u was gone before the save of step %" PRIu64, rank,
             a->name.step);
    control_later(c, &(struct committer_event){ .kind = COMMITTER_FAILED,
                                                .job = a->job,
                                                .name = a->name,
                                                .world = a->world,
                                                .rank = rank,
                                                .status = CKPT_ABORTED,
                                                .text = text });
}

void control_absent(struct control *c, const struct client *cl)
{
    struct launch *l = launch_by_key(c, cl->launch);
    if (!l || l->reader || cl->s->rank >= COMMITTER_RANKS_NAMED)
        return;
    l->absent_map[cl->s->rank / 8] |= (uint8_t)(1 << cl->s->rank % 8);
    for (uint32_t i = 0; i < COMMITTER_ATTEMPTS_MAX; i++)
        if (c->committer->attempts[i].used)
            say_absent(c, l, cl->s->rank, &c->committer->attempts[i]);
}

/* After a rank joined: are others gone that would have to? */
static void check_absent(struct control *c, const struct client *cl, const struct ckpt_name *name)
{
    const struct launch *l = launch_by_key(c, cl->launch);
    const struct committer_attempt *a = committer_find(c->committer, cl->s->job, name);
    for (uint32_t r = 0; l && a && r < min_u64(a->world, COMMITTER_RANKS_NAMED); r++)
        if (l->absent_map[r / 8] >> (r % 8) & 1)
            say_absent(c, l, r, a);
}

static void tell_decided(struct control *c, const char *job, const struct ckpt_name *name,
                         enum ckpt_status st, const char *text)
{
    for (uint32_t i = 0; i < CONTROL_CLIENTS_MAX; i++) {
        struct client *cl = c->clients[i];
        if (!cl || !cl->open || strcmp(cl->s->job, job) != 0)
            continue;
        for (uint32_t k = 0; k < SESSION_OPS_MAX; k++) {
            const struct session_op *op = &cl->s->ops[k];
            if (op->phase == OP_NONE || op->phase == OP_LOAD || !name_equal(&op->name, name))
                continue;
            struct session_event ev = {
                .kind = SESSION_DECIDED, .op = op->id, .status = st, .text = text
            };
            control_tell(c, cl, &ev);
            break;
        }
    }
}

static void submit_attempt(struct control *c, const struct committer_attempt *a)
{
    struct job *j = job_new(JOB_ATTEMPT);
    if (!j) {
        c->stopping = true;
        return;
    }
    j->attempt.what = (enum committer_job)a->job_out;
    memcpy(j->attempt.job, a->job, sizeof(j->attempt.job));
    j->attempt.name = a->name;
    j->attempt.world = a->world;
    j->attempt.abort =
        (struct record_abort){ .status = a->status == CKPT_OK ? CKPT_ABORTED : a->status,
                               .rank = a->bad_rank,
                               .by_epoch = a->by_epoch };
    control_submit(c, c->records, j);
}

void control_committer(struct control *c, const struct committer_event *ev)
{
    static struct committer_actions acts; /* not re-entered: sessions' words wait */
    char job[CKPT_JOB_NAME_MAX + 1];
    acts.count = 0;
    snprintf(job, sizeof(job), "%s", ev->job ? ev->job : "");
    if (committer_step(c->committer, ev, c->now, &acts) != CKPT_OK) {
        log_error("too many saves are undecided", "job=%s", job);
        tell_decided(c, job, &ev->name, CKPT_BUSY, "too many saves are undecided on this node");
        return;
    }
    for (uint32_t i = 0; i < acts.count; i++) {
        const struct committer_action *a = &acts.list[i];
        const struct committer_attempt *at = &c->committer->attempts[a->attempt];
        if (a->kind == COMMITTER_RUN) {
            submit_attempt(c, at);
            continue;
        }
        if (a->status != CKPT_OK)
            log_warn("save failed", "job=%s step=%" PRIu64 " status=%s why=\"%s\"", at->job,
                     a->name.step, status_name(a->status), acts.text);
        else
            log_info("save committed", "job=%s epoch=%" PRIu64 " step=%" PRIu64, at->job,
                     a->name.epoch, a->name.step);
        tell_decided(c, at->job, &a->name, a->status, acts.text);
    }
}

void control_settle(struct control *c)
{
    while (c->later) {
        struct later *l = c->later;
        c->later = l->next;
        if (!c->later)
            c->later_last = &c->later;
        control_committer(c, &l->ev);
        free(l);
    }
}

/* -- actions ---------------------------------------------------------------------------- */

static void drop_arena(struct control *c, struct client *cl, uint32_t at)
{
    arena_close(&cl->states[at].arena);
    keep_drop(c->keep, cl->s->id, KEEP_ARENA, at);
    log_debug("arena dropped", "job=%s rank=%u", cl->s->job, cl->s->rank);
}

static void act_message(struct control *c, struct client *cl, const struct session_action *a)
{
    struct session *s = cl->s;
    switch ((int)a->kind) {
    case ACT_SEND_OP:
        send_op(cl, &s->ops[a->op]);
        break;
    case ACT_SEND_FINAL:
        send_final(cl, &s->finals[a->op]);
        break;
    case ACT_SEND_GRANT:
        send_grant(cl, &s->ops[a->op], a->slot);
        break;
    default:
        send_state(c, cl, a->op);
        break;
    }
}

static void act_committer(struct control *c, struct client *cl, const struct session_action *a)
{
    struct session *s = cl->s;
    switch ((int)a->kind) {
    case ACT_JOIN:
        say(c, cl, COMMITTER_JOINED, &s->ops[a->op]);
        break;
    case ACT_PUT:
        say(c, cl, COMMITTER_PUT_DONE, &s->ops[a->op]);
        break;
    case ACT_CANCEL:
        say_cancel(c, cl, &s->ops[a->op]);
        break;
    default:
        say_failed(c, cl, &s->finals[a->op]);
        break;
    }
}

static void act_one(struct control *c, struct client *cl, const struct session_action *a)
{
    switch ((enum session_action_kind)a->kind) {
    case ACT_SEND_OP:
    case ACT_SEND_FINAL:
    case ACT_SEND_GRANT:
    case ACT_SEND_STATE:
        act_message(c, cl, a);
        break;
    case ACT_JOIN:
    case ACT_PUT:
    case ACT_CANCEL:
    case ACT_PART_FAILED:
        act_committer(c, cl, a);
        break;
    case ACT_SEAL:
        submit_seal(c, cl, a->op);
        break;
    case ACT_BEGIN:
        submit_part(c, cl, JOB_BEGIN, a);
        break;
    case ACT_PACK:
        submit_part(c, cl, JOB_PACK, a);
        break;
    case ACT_FINISH:
        submit_part(c, cl, JOB_FINISH, a);
        break;
    case ACT_FAIL_PART:
        submit_part(c, cl, JOB_FAIL_PART, a);
        break;
    case ACT_LOAD:
        control_load(c, cl, a->op);
        break;
    case ACT_LOAD_GONE:
        control_load_gone(c, cl, a->id);
        break;
    case ACT_BACK:
        control_load_back(c, cl, a->id);
        break;
    case ACT_OP_END:
        if (cl->s->ops[a->op].phase == OP_NONE)
            ledger_op_close(&cl->ledger, a->op, &cl->areas[a->op], true);
        break;
    case ACT_DROP_ARENA:
        drop_arena(c, cl, a->op);
        break;
    case ACT_OVER:
        cl->over = true;
        break;
    }
}

void control_act(struct control *c, struct client *cl, const struct session_actions *acts)
{
    for (uint32_t i = 0; i < acts->count; i++)
        act_one(c, cl, &acts->list[i]);
}

/* -- ends of jobs ----------------------------------------------------------------------- */

/* The parent is the same on all ranks: the first rank that begins the attempt fixes it.
 * Ranks on other nodes cannot be asked, so there it is the resume point. */
static void find_parent(struct control *c, const struct client *cl, const struct ckpt_name *name,
                        struct session_event *ev)
{
    const struct session *s = cl->s;
    const struct ckpt_name *last = NULL;
    uint32_t here = 0;
    for (uint32_t i = 0; i < CONTROL_CLIENTS_MAX; i++) {
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
    if (cl->s->states[at].phase == STATE_READY)
        return;
    close(t->decl_fd); /* refused: nothing of it is needed any more */
    t->decl_fd = -1;
    keep_drop(c->keep, cl->s->id, KEEP_DECL, at);
    if (j->status != CKPT_OK)
        return;
    decl_fini(&t->decl); /* the machine refused it: too many slots */
    t->decoded = false;
    drop_arena(c, cl, at);
}

static void part_done(struct control *c, struct client *cl, struct job *j)
{
    static const enum session_event_kind kinds[] = {
        [JOB_BEGIN] = SESSION_BEGUN,
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
        .text = text,
        .id = j->part.packed.id,
        .stored = j->part.packed.stored_bytes,
        .bytes = j->part.raw_bytes,
        .packs = j->part.area.packs,
    };
    if (j->kind == JOB_BEGIN) {
        find_parent(c, cl, &j->part.name, &ev);
        ev.text = err_text(&j->err);
    }
    if (j->kind == JOB_PACK) {
        c->counters.packs++;
        c->counters.pack_bytes += j->part.raw_bytes;
        c->counters.pack_ns += (uint64_t)j->took_ns;
    }
    control_tell(c, cl, &ev);
    uint32_t at = session_op_of(cl->s, j->op);
    if (j->kind == JOB_BEGIN && j->status == CKPT_OK && at != UINT32_MAX) {
        control_settle(c);
        check_absent(c, cl, &j->part.name);
    }
}

static void attempt_done(struct control *c, struct job *j)
{
    control_committer(c, &(struct committer_event){ .kind = COMMITTER_DONE,
                                                    .job = j->attempt.job,
                                                    .name = j->attempt.name,
                                                    .done = j->attempt.what,
                                                    .status = j->status,
                                                    .rank = j->attempt.what == COMMITTER_MISSING
                                                                ? j->attempt.rank
                                                                : UINT32_MAX,
                                                    .text = err_text(&j->err) });
}

void control_job_done(struct control *c, struct job *j)
{
    struct client *cl = j->client == UINT32_MAX ? NULL : c->clients[j->client];
    c->jobs_out--;
    c->reports_out -= j->kind == JOB_REPORT;
    if (cl)
        cl->jobs_out--;
    switch (j->kind) {
    case JOB_SEAL:
        seal_done(c, cl, j);
        break;
    case JOB_BEGIN:
    case JOB_PACK:
    case JOB_FINISH:
    case JOB_FAIL_PART:
        part_done(c, cl, j);
        break;
    case JOB_ATTEMPT:
        attempt_done(c, j);
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
    case JOB_REPORT:
        if (j->status != CKPT_OK)
            log_warn("a report could not be written", "job=%s why=\"%s\"", j->report.job,
                     err_text(&j->err));
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
