/* Restores: joins sessions to groups, moves slots between their machines and the restore
 * machine, and turns loaded batches into FRAGS. */
#include <inttypes.h>
#include <stdio.h>
#include <sys/mman.h>

#include "ckptd/control.h"
#include "ckptd/log.h"

static uint32_t group_index(const struct control *c, const struct restore_group *g)
{
    return (uint32_t)(g - c->restores->groups);
}

void control_load_free(struct restore_group *g)
{
    for (uint32_t i = 0; i < g->count; i++)
        jobs_part_drop(&g->consumers[i].part);
    restore_free(g);
}

static uint32_t missing_of(const struct plan *p, uint32_t consumer)
{
    uint32_t n = 0;
    for (size_t i = 0; p && i < p->gap_count; i++)
        n += p->gaps[i].consumer == consumer;
    return n;
}

/* Ends a consumer's op, if it is still there. */
static void end_op(struct control *c, const struct restore_group *g,
                   const struct restore_consumer *who)
{
    struct client *cl = c->clients[who->client];
    const struct job_plan *p = &c->plans[group_index(c, g)];
    bool known = p->plan && !(p->flags & PLAN_NO_UNASKED);
    struct session_event ev = { .kind = SESSION_LOADED,
                                .op = who->op,
                                .status = g->status,
                                .text = g->text,
                                .name = g->name,
                                .bytes = who->total_bytes,
                                .missing = missing_of(p->plan, (uint32_t)(who - g->consumers)),
                                .unasked = known ? (uint32_t)p->plan->unasked_count : UINT32_MAX };
    if (g->status == CKPT_OK && (g->flags & WIRE_LOAD_ROLLBACK))
        ev.name.epoch = cl->s->epoch; /* of the launch from now on */
    control_tell(c, cl, &ev);
}

static void end_consumers(struct control *c, struct restore_group *g)
{
    const struct restore_consumer *who;
    while ((who = restore_ended(g)) != NULL)
        end_op(c, g, who);
    if (!restore_over(g))
        return;
    struct job_plan *p = &c->plans[group_index(c, g)];
    plan_free(p->plan);
    reader_close(p->reader);
    *p = (struct job_plan){ 0 };
    control_load_free(g);
}

/* Gives back what a batch had reserved. */
static void unload(struct control *c, const struct restore_group *g, struct restore_batch *b)
{
    const struct plan_batch *plan = &g->plan->batches[b->batch];
    for (uint32_t i = 0; i < b->uses; i++) {
        if (b->slots[i] == UINT32_MAX)
            continue;
        static struct session_actions acts;
        struct restore_consumer *who = &g->consumers[plan->uses[i].consumer];
        struct client *cl = c->clients[who->client];
        acts.count = 0;
        restore_back(who);
        session_unload(cl->s, b->slots[i], &acts);
        cl->jobs_out--;
        control_commit(cl);
        control_act(c, cl, &acts);
    }
    free(b->slots);
}

/* What the job needs; false: no memory for the scratch of consumers that left. */
static bool fill_batch(struct control *c, const struct restore_group *g,
                       const struct restore_batch *b, struct job_batch *ret)
{
    ret->group = group_index(c, g);
    ret->batch = b->batch;
    ret->job = c->plans[ret->group].job;
    ret->name = g->name;
    ret->plan = &g->plan->batches[b->batch];
    ret->use_count = ret->plan->use_count;
    ret->slots = b->slots;
    ret->slot_bytes = c->config->slot_bytes;
    for (uint32_t i = 0; i < ret->plan->use_count; i++) {
        const struct restore_consumer *who = &g->consumers[ret->plan->uses[i].consumer];
        ret->clients[i] = who->client;
        if (b->slots[i] == UINT32_MAX) {
            void *p = mmap(NULL, ret->slot_bytes, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (p == MAP_FAILED)
                return false;
            ret->memory[i] = p;
            continue;
        }
        const struct client *cl = c->clients[who->client];
        ret->memory[i] =
            cl->states[who->state].arena.base +
            (uint64_t)(b->slots[i] - cl->s->states[who->state].first) * c->config->slot_bytes;
    }
    return true;
}

static void submit_batch(struct control *c, struct restore_group *g, struct restore_batch *b)
{
    struct job *j = job_new(JOB_BATCH);
    uint32_t n = g->plan->batches[b->batch].use_count;
    if (j) {
        j->batch.clients = calloc(max_u64(n, 1), sizeof(uint32_t));
        j->batch.memory = calloc(max_u64(n, 1), sizeof(void *));
    }
    if (!j || !j->batch.clients || !j->batch.memory || !fill_batch(c, g, b, &j->batch)) {
        if (j)
            j->batch.slots = NULL;
        job_free(j);
        restore_loaded(g);
        unload(c, g, b);
        restore_fail(g, CKPT_NO_MEMORY, "out of memory during a restore");
        return;
    }
    control_submit(c, c->data, j);
}

/* Reserves slots and submits batches as far as it goes. */
static void go_on(struct control *c, struct restore_group *g)
{
    struct restore_batch b;
    struct restore_consumer *who;
    for (;;) {
        while ((who = restore_want(g)) != NULL) {
            struct client *cl = c->clients[who->client];
            uint32_t slot = session_reserve(cl->s, who->op, who->state);
            if (slot == SESSION_NO_SLOT)
                break;      /* it comes back with BACK, or the client dies */
            cl->jobs_out++; /* the session stays while a slot is LOADING */
            control_commit(cl);
            restore_reserved(g, slot);
        }
        if (restore_abandoned(g, &b)) {
            unload(c, g, &b);
            continue;
        }
        if (!restore_ready(g, &b))
            break;
        /* A consumer that left in between: its slot has no memory to fill, or an own. */
        submit_batch(c, g, &b);
    }
    end_consumers(c, g);
}

/* -- planning ----------------------------------------------------------------------- */

static void submit_plan(struct control *c, struct restore_group *g)
{
    struct job *j = job_new(JOB_PLAN);
    static struct decl nothing; /* for consumers that left */
    const struct decl **decls = j ? calloc(max_u64(g->count, 1), sizeof(*decls)) : NULL;
    uint32_t *clients = j ? calloc(max_u64(g->count, 1), sizeof(*clients)) : NULL;
    uint32_t *ranks = j ? calloc(max_u64(g->count, 1), sizeof(*ranks)) : NULL;
    struct job_part_decl *parts = j ? calloc(max_u64(g->count, 1), sizeof(*parts)) : NULL;
    if (!decls || !clients || !ranks || !parts ||
        (!nothing.finished && decl_finish(&nothing, c->config->slot_bytes, NULL) != CKPT_OK)) {
        free((void *)(uintptr_t)decls);
        free(clients);
        free(ranks);
        free(parts);
        job_free(j);
        restore_fail(g, CKPT_NO_MEMORY, "out of memory for a restore");
        return;
    }
    j->plan.decls = decls;
    j->plan.clients = clients;
    j->plan.ranks = ranks;
    j->plan.parts = parts;
    j->plan.select = g->select;
    j->plan.count = g->count;
    j->plan.group = group_index(c, g);
    j->plan.name = g->name;
    const struct launch *l = launch_by_key(c, g->key);
    /* Else others may ask for the rest, or would have: who left does not count. */
    bool all = l && !l->reader && restore_waiting(g) == l->world;
    j->plan.flags = (all ? 0 : PLAN_NO_UNASKED) |
                    (g->flags & WIRE_LOAD_PARTIAL ? PLAN_PARTIAL : 0) |
                    (g->flags & WIRE_LOAD_CONVERT ? PLAN_CONVERT : 0);
    for (uint32_t i = 0; i < g->count; i++) {
        clients[i] = g->consumers[i].gone ? UINT32_MAX : g->consumers[i].client;
        decls[i] = &nothing;
        if (clients[i] == UINT32_MAX)
            continue;
        struct client *cl = c->clients[clients[i]];
        parts[i].given = g->consumers[i].part;
        if (parts[i].given.bytes == 0)
            decls[i] = &cl->states[g->consumers[i].state].decl;
        g->consumers[i].part = (struct restore_part){ .fd = -1 };
        ranks[i] = cl->s->rank;
        cl->jobs_out++; /* its declaration is borrowed */
        cl->states[g->consumers[i].state].borrowed++;
        snprintf(j->plan.job, sizeof(j->plan.job), "%s", cl->s->job);
    }
    control_submit(c, c->records, j);
}

/* Rule G3: what the checkpoint has and no rank asked for. */
static void say_unasked(const struct job_plan *p)
{
    char names[400] = "";
    size_t at = 0, i;
    for (i = 0; i < p->plan->unasked_count && i < 8 && at < sizeof(names); i++)
        at += (size_t)snprintf(names + at, sizeof(names) - at, "%s%s", i ? ", " : "",
                               p->plan->unasked[i]);
    log_warn("tensors of the checkpoint that no rank asked for",
             "job=%s step=%" PRIu64 " count=%zu names=\"%s%s\"", p->job, p->name.step,
             p->plan->unasked_count, names, i < p->plan->unasked_count ? ", ..." : "");
}

/* What is not plain about it, before its first bytes. */
static enum ckpt_status send_report(struct client *cl, const struct restore_consumer *who,
                                    const struct buf *report, struct ckpt_err *err)
{
    struct wire_msg *m = control_msg();
    const struct wire_report body = { .op = who->op, .bytes = report->len };
    int fd = wire_memfd("ckpt-report", report->data, report->len, err);
    if (fd < 0)
        return err->status;
    wire_begin(m, WIRE_REPORT, &body);
    m->fds[m->fd_count++] = fd;
    client_send(cl, m);
    close(fd);
    return CKPT_OK;
}

/* A rank that cannot be told what it got has not got what it asked for. */
static void send_reports(struct control *c, struct restore_group *g, const struct job *j)
{
    struct ckpt_err err = { 0 };
    enum ckpt_status st = CKPT_OK;
    for (uint32_t i = 0; st == CKPT_OK && j->plan.reports && i < j->plan.count; i++)
        if (!g->consumers[i].gone && j->plan.reports[i].len > 0)
            st = send_report(c->clients[g->consumers[i].client], &g->consumers[i],
                             &j->plan.reports[i], &err);
    if (st != CKPT_OK)
        restore_fail(g, st, err_text(&err));
}

/* A rank sent a part that is none. */
static void refuse_part(struct control *c, struct client *cl, struct restore_consumer *who,
                        const struct job_plan *p, const struct ckpt_err *err)
{
    if (who->gone)
        return;
    who->gone = true;
    control_tell(c, cl,
                 &(struct session_event){ .kind = SESSION_LOADED,
                                          .op = who->op,
                                          .status = err->status,
                                          .name = p->name,
                                          .text = err_text(err) });
}

void control_plan_done(struct control *c, struct job *j)
{
    struct restore_group *g = &c->restores->groups[j->plan.group];
    for (uint32_t i = 0; i < j->plan.count; i++) {
        if (j->plan.clients[i] == UINT32_MAX)
            continue;
        struct client *cl = c->clients[j->plan.clients[i]];
        cl->jobs_out--;
        cl->states[g->consumers[i].state].borrowed--;
        if (j->plan.parts[i].err.status != CKPT_OK)
            refuse_part(c, cl, &g->consumers[i], &j->plan, &j->plan.parts[i].err);
        client_forget(c, cl, g->consumers[i].state);
    }
    if (j->status != CKPT_OK) {
        log_warn("restore refused", "job=%s step=%" PRIu64 " why=\"%s\"", j->plan.job,
                 j->plan.name.step, err_text(&j->err));
        restore_fail(g, j->status, err_text(&j->err));
    } else {
        c->plans[j->plan.group] = j->plan;
        c->plans[j->plan.group].decls = NULL;
        c->plans[j->plan.group].clients = NULL;
        c->plans[j->plan.group].ranks = NULL;
        c->plans[j->plan.group].parts = NULL;
        c->plans[j->plan.group].reports = NULL;
        log_info("restore begins", "job=%s step=%" PRIu64 " ranks=%u bytes=%" PRIu64 " batches=%zu",
                 j->plan.job, j->plan.name.step, g->count, j->plan.plan->read_bytes,
                 j->plan.plan->batch_count);
        if (j->plan.plan->unasked_count > 0)
            say_unasked(&j->plan);
        if (j->plan.damaged)
            control_drain_repair(c, j->plan.job, &j->plan.name);
        restore_planned(g, j->plan.plan);
        for (uint32_t i = 0; i < g->count; i++) {
            const struct restore_consumer *who = &g->consumers[i];
            if (who->gone)
                continue;
            session_loading(c->clients[who->client]->s, who->op, 0, who->total_bytes);
            control_commit(c->clients[who->client]);
        }
        send_reports(c, g, j);
    }
    go_on(c, g);
}

/* -- batches --------------------------------------------------------------------------- */

static void send_frags(struct client *cl, const struct restore_consumer *who,
                       const struct plan_batch *b, uint32_t consumer, uint32_t slot)
{
    struct wire_msg *m = control_msg();
    const struct session_state *t = &cl->s->states[who->state];
    struct wire_frags head = { .op = who->op,
                               .state = t->number,
                               .arena_slot = slot - t->first,
                               .done_bytes = who->done_bytes,
                               .total_bytes = who->total_bytes };
    wire_begin(m, WIRE_FRAGS, &head);
    struct plan_iter it = plan_iter_init(b, consumer);
    while (plan_iter_next(&it)) {
        struct wire_frag w = { .tensor = it.part->tensor,
                               .piece = it.part->piece,
                               .offset = it.slot_offset,
                               .dtype = it.part->dtype,
                               .ndim = it.common.ndim };
        size_t dims = it.common.ndim * sizeof(uint64_t);
        if (m->len + sizeof(w) + 2 * dims > WIRE_BYTES_MAX) {
            struct wire_frags more = head;
            more.flags = WIRE_FRAGS_MORE;
            memcpy(m->bytes + sizeof(m->head), &more, sizeof(more));
            client_send(cl, m);
            head.count = 0;
            wire_begin(m, WIRE_FRAGS, &head);
        }
        (void)wire_tail(m, &w, sizeof(w));
        (void)wire_tail(m, it.common.off, dims);
        (void)wire_tail(m, it.common.len, dims);
        head.count++;
    }
    memcpy(m->bytes + sizeof(m->head), &head, sizeof(head));
    client_send(cl, m);
}

/* Fragments become the client's; nothing is sent to one that left. */
static void deliver(struct control *c, struct restore_group *g, const struct job *j, uint32_t use)
{
    static struct session_actions acts;
    const struct plan_batch *b = j->batch.plan;
    uint32_t consumer = b->uses[use].consumer, slot = j->batch.slots[use];
    struct restore_consumer *who = &g->consumers[consumer];
    struct client *cl = c->clients[j->batch.clients[use]];
    if (slot == UINT32_MAX)
        return;
    cl->jobs_out--;
    if (who->gone || j->status != CKPT_OK || g->status != CKPT_OK || !cl->conn) {
        acts.count = 0;
        restore_back(who);
        session_unload(cl->s, slot, &acts);
        control_commit(cl);
        control_act(c, cl, &acts);
        return;
    }
    struct plan_iter it = plan_iter_init(b, consumer);
    while (plan_iter_next(&it))
        who->done_bytes += box_bytes(&it.common, dtype_bits(it.part->saved->dtype));
    session_loading(cl->s, who->op, who->done_bytes, who->total_bytes);
    session_fill(cl->s, slot);
    control_commit(cl);
    send_frags(cl, who, b, consumer, slot);
}

void control_batch_done(struct control *c, struct job *j)
{
    struct restore_group *g = &c->restores->groups[j->batch.group];
    restore_loaded(g);
    c->counters->node[METER_NODE_LOAD_BATCHES]++;
    c->counters->node[METER_NODE_LOAD_BYTES] += j->batch.stats.raw_bytes;
    if (j->status == CKPT_OK && (j->batch.stats.damaged_tier & 1))
        control_drain_repair(c, j->batch.job, &j->batch.name);
    if (j->status != CKPT_OK && g->status == CKPT_OK) {
        log_error("restore failed", "job=%s step=%" PRIu64 " status=%s why=\"%s\"", j->batch.job,
                  j->batch.name.step, status_name(j->status), err_text(&j->err));
        restore_fail(g, j->status, err_text(&j->err));
    }
    for (uint32_t i = 0; i < j->batch.plan->use_count; i++)
        deliver(c, g, j, i);
    go_on(c, g);
}

/* -- coming and going ---------------------------------------------------------------------- */

void control_load(struct control *c, struct client *cl, uint32_t at)
{
    const struct session_op *op = &cl->s->ops[at];
    struct restore_consumer who = {
        .client = cl->number,
        .op = op->id,
        .state = op->state,
        .select = cl->asked_bytes,
        .part = cl->part,
    };
    bool alone = cl->s->mode == WIRE_READ;
    struct select *select = malloc(sizeof(*select));
    struct restore_group *g = NULL;
    if (select)
        g = restore_join(c->restores, alone ? 0 : cl->launch, &op->name, op->flags, &who, c->now);
    if (g && !g->select) {
        *select = cl->asked;
        g->select = TAKE_PTR(select);
        cl->asked = (struct select){ 0 };
    }
    free(select);
    if (g) {
        cl->part = (struct restore_part){ .fd = -1 };
        return; /* the tick starts it */
    }
    control_tell(c, cl,
                 &(struct session_event){ .kind = SESSION_LOADED,
                                          .op = op->id,
                                          .status = CKPT_BUSY,
                                          .name = op->name,
                                          .text = "too many restores are under way" });
}

void control_load_back(struct control *c, struct client *cl, uint64_t op)
{
    struct restore_group *g;
    struct restore_consumer *who = restore_find(c->restores, cl->number, op, &g);
    if (!who)
        return;
    restore_back(who);
    go_on(c, g);
}

void control_load_gone(struct control *c, struct client *cl, uint64_t op)
{
    struct restore_group *g;
    struct restore_consumer *who = restore_find(c->restores, cl->number, op, &g);
    if (!who)
        return;
    uint32_t lent = session_count(cl->s, who->state, SLOT_LOADING);
    restore_gone(g, cl->number, op);
    who->lent = lent; /* what the client held is taken back by the machine */
    /* No timer may come to end it: one for which nothing was begun, and one that is through but
     * for this client. */
    if (g->phase == RESTORE_GATHER && restore_over(g))
        control_load_free(g);
    else if (g->phase != RESTORE_GATHER && g->phase != RESTORE_PLAN)
        go_on(c, g);
}

/* How many ranks of the launch are here and alive. */
static uint32_t expected(const struct control *c, const struct restore_group *g)
{
    uint32_t n = 0;
    for (uint32_t i = 0; g->key != 0 && i < c->client_end; i++) {
        const struct client *cl = c->clients[i];
        n += cl && cl->open && cl->launch == g->key && !cl->s->dead;
    }
    return n;
}

static void move(struct control *c, struct client *cl, const struct launch *l)
{
    cl->restored_ok = false;
    control_tell(c, cl,
                 &(struct session_event){ .kind = SESSION_EPOCH,
                                          .name = { .epoch = l->epoch },
                                          .parent = l->result.point });
}

/* True if all who ask are only late: the launch has gone back there already, and they lost
 * their connection, or their worker, before they had what they asked for. */
static bool follows(const struct control *c, const struct launch *l, const struct restore_group *g)
{
    bool any = false;
    for (uint32_t i = 0; i < g->count; i++) {
        const struct restore_consumer *who = &g->consumers[i];
        if (who->gone)
            continue;
        const struct session *s = c->clients[who->client]->s;
        if (s->epoch == l->epoch && !s->restoring)
            return false;
        any = true;
    }
    return any && l->phase == LAUNCH_READY && name_equal(&g->name, &l->result.point);
}

/* The ranks that asked move to the launch's epoch, and nobody else: whoever did not go back
 * stays in the old one, where it cannot save any more; its steps are of another branch. */
static void move_consumers(struct control *c, const struct restore_group *g, const struct launch *l)
{
    for (uint32_t i = 0; i < g->count; i++) {
        struct client *cl = g->consumers[i].gone ? NULL : c->clients[g->consumers[i].client];
        if (cl && cl->s->epoch < l->epoch)
            move(c, cl, l);
    }
}

/* How many ranks wait to go back to there: those who do not ask for the same tensors are in
 * other groups. */
static uint32_t waiting_together(const struct control *c, const struct restore_group *g)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < RESTORE_GROUPS_MAX; i++) {
        const struct restore_group *o = &c->restores->groups[i];
        if (o->phase == RESTORE_GATHER && o->key == g->key && (o->flags & WIRE_LOAD_ROLLBACK) &&
            name_equal(&o->name, &g->name))
            n += restore_waiting(o);
    }
    return n;
}

/* Another group takes the launch back to there: this one follows when that is done. */
static bool on_the_way(const struct control *c, const struct launch *l,
                       const struct restore_group *g)
{
    return l->rollback && name_equal(&c->restores->groups[l->rollback - 1].name, &g->name);
}

static void start(struct control *c, struct restore_group *g)
{
    struct launch *l = launch_by_key(c, g->key);
    bool rollback = (g->flags & WIRE_LOAD_ROLLBACK) && l && !l->reader;
    bool late = rollback && follows(c, l, g);
    uint32_t want = late ? restore_waiting(g) : expected(c, g);
    if (rollback && on_the_way(c, l, g))
        return;
    if (rollback && waiting_together(c, g) < want && c->now - g->begun_ns < COMMITTER_ARRIVAL_NS)
        return; /* all ranks move together */
    if (!restore_due(g, want, c->now))
        return;
    if (late) {
        move_consumers(c, g, l);
        submit_plan(c, g);
        return;
    }
    if (rollback && !control_rollback(c, l, group_index(c, g), &g->name))
        restore_fail(g, CKPT_BUSY, "another rollback of this launch is under way");
    if (!rollback)
        submit_plan(c, g);
}

/* Ended at once: when nobody waits for it any more, no timer may come to end it. */
static void refuse_rollback(struct control *c, struct restore_group *g, enum ckpt_status st,
                            const char *text)
{
    restore_fail(g, st, text);
    end_consumers(c, g);
}

void control_rolled_back(struct control *c, struct launch *l)
{
    struct restore_group *g = &c->restores->groups[l->rollback - 1];
    l->rollback = 0;
    if (l->phase == LAUNCH_FAILED) {
        /* The old epoch goes on.  The new one may be claimed and is not resolved: what was
         * saved in it would be on no lineage (I3). */
        l->phase = LAUNCH_READY;
        l->epoch = l->result.epoch;
        refuse_rollback(c, g, l->status, l->text);
        return;
    }
    if (!name_equal(&g->name, &l->result.point)) { /* the others have gone on to there since */
        refuse_rollback(c, g, CKPT_REFUSED,
                        "the launch went back to another checkpoint: ask for that one");
        return;
    }
    counters_epoch(c->counters, l->job, l->epoch, &l->result.point, c->now);
    move_consumers(c, g, l);
    submit_plan(c, g);
}

void control_load_tick(struct control *c)
{
    for (uint32_t i = 0; i < RESTORE_GROUPS_MAX; i++) {
        struct restore_group *g = &c->restores->groups[i];
        if (g->phase == RESTORE_GATHER)
            start(c, g);
        if (g->phase != RESTORE_FREE && g->phase != RESTORE_GATHER && g->phase != RESTORE_PLAN)
            go_on(c, g);
        else if (restore_over(g))
            end_consumers(c, g);
    }
}
