/* The laws, looked at after every turn of a worker, before everything it says or starts,
 * and at the end of a seed. */
#include "sim/sim.h"

void sim_check_told(const struct sim_node *n)
{
    uint32_t seen = 0;
    for (uint32_t i = 0; seen < n->c->client_count && i < CONTROL_CLIENTS_MAX; i++) {
        const struct client *cl = n->c->clients[i];
        seen += cl != NULL;
        SIM_CHECK(!cl || !cl->open || sim_ledger_holds(cl),
                  "rank %u: the worker acts before its ledger says so", cl->s->rank);
    }
}

/* ---- one session ---- */

static uint32_t node_of(const struct sim_node *n)
{
    return (uint32_t)(n - sim_nodes);
}

static uint32_t jobs_of(const struct sim_node *n, const struct client *cl, enum job_kind kind,
                        uint64_t op, uint32_t slot)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < sim_job_count; i++) {
        const struct sim_job *s = &sim_jobs[i];
        if (!s->used || s->crew->node != node_of(n) || s->j->client != cl->number ||
            s->j->kind != kind || s->j->op != op)
            continue;
        count += slot == UINT32_MAX || s->j->part.slot == slot;
    }
    return count;
}

/* A slot at the crew is in exactly one job; nobody would ever give it back otherwise. */
static void check_slots(const struct sim_node *n, const struct client *cl)
{
    const struct session *s = cl->s;
    for (uint32_t i = 0; i < s->slot_count; i++) {
        const struct session_slot *slot = &s->slots[i];
        if (slot->owner == SLOT_QUARANTINED)
            sim_saw(SEEN_slot_quarantined);
        SIM_CHECK(!s->dead || (slot->owner != SLOT_FREE && slot->owner != SLOT_CLIENT),
                  "slot %u of a dead rank can be used again", i);
        if (slot->owner != SLOT_QUEUED && slot->owner != SLOT_CLIENT)
            continue;
        SIM_CHECK(session_op_of(s, slot->op) != UINT32_MAX, "slot %u is stuck: its op is over", i);
        if (slot->owner == SLOT_CLIENT)
            continue;
        uint32_t jobs =
            jobs_of(n, cl, JOB_DIGEST, slot->op, i) + jobs_of(n, cl, JOB_PACK, slot->op, i);
        SIM_CHECK(jobs == !slot->away, "slot %u is queued, and in %u jobs of the crews", i, jobs);
        SIM_CHECK(!slot->away || s->ops[session_op_of(s, slot->op)].away_ns,
                  "slot %u waits for nothing", i);
    }
}

static void count_slots(const struct session *s, const struct session_op *op)
{
    uint32_t queued = 0, out = 0, loading = 0;
    for (uint32_t i = 0; i < s->slot_count; i++) {
        const struct session_slot *slot = &s->slots[i];
        if (slot->op != op->id)
            continue;
        queued += slot->owner == SLOT_QUEUED;
        out += slot->owner == SLOT_CLIENT;
        loading += slot->owner == SLOT_LOADING;
    }
    SIM_CHECK(queued == op->queued, "op %llu counts %u slots at the crew, there are %u",
              (unsigned long long)op->id, op->queued, queued);
    SIM_CHECK(op->phase == OP_LOAD || (out == op->out && loading == 0),
              "op %llu counts %u slots at its client, there are %u", (unsigned long long)op->id,
              op->out, out);
    SIM_CHECK(op->packed <= op->filled && op->filled <= op->image_slots, "op %llu packed %u of %u",
              (unsigned long long)op->id, op->packed, op->filled);
    SIM_CHECK(op->status != CKPT_OK || op->out + op->filled <= op->image_slots ||
                  op->phase == OP_LOAD,
              "op %llu has more slots than it needs", (unsigned long long)op->id);
}

static const struct later *word_waits(const struct control *c, const struct ckpt_name *name)
{
    const struct later *l = c->later;
    while (l && !name_equal(&l->ev.name, name))
        l = l->next;
    return l;
}

/* Whoever waits for something is known to whom it waits for. */
static void check_wait(const struct sim_node *n, const struct client *cl,
                       const struct session_op *op)
{
    struct control *c = n->c;
    bool late = cl->begin_ns[op - cl->s->ops] == 0; /* its job, if any, is not waited for */
    bool begin = jobs_of(n, cl, JOB_BEGIN, op->id, UINT32_MAX) == 1 && !late;
    bool finish = jobs_of(n, cl, JOB_FINISH, op->id, UINT32_MAX) == 1;
    bool failing = jobs_of(n, cl, JOB_FAIL_PART, op->id, UINT32_MAX) == 1;
    bool waits = op->phase == OP_COMMIT || op->phase == OP_ABORT || op->phase == OP_COPYING;
    SIM_CHECK((op->phase == OP_BEGIN) == begin &&
                  (op->phase == OP_FINISH && !op->away_ns) == finish &&
                  (op->phase == OP_FAILPUT) == failing,
              "op %llu of rank %u is %s, but its job is not out", (unsigned long long)op->id,
              cl->s->rank, session_phase_name(op->phase));
    SIM_CHECK(op->job_out == (begin || finish || failing), "op %llu counts its job wrongly",
              (unsigned long long)op->id);
    SIM_CHECK(!waits || committer_find(c->committer, cl->s->job, &op->name) ||
                  word_waits(c, &op->name),
              "op %llu of rank %u is %s, but the committer does not know its attempt",
              (unsigned long long)op->id, cl->s->rank, session_phase_name(op->phase));
    SIM_CHECK(op->phase != OP_OVER || op->queued > 0, "op %llu of rank %u is over and stays",
              (unsigned long long)op->id, cl->s->rank);
    struct restore_group *g;
    SIM_CHECK(op->phase != OP_LOAD || restore_find(c->restores, cl->number, op->id, &g),
              "op %llu of rank %u is a restore that no group knows", (unsigned long long)op->id,
              cl->s->rank);
}

static void check_op(const struct sim_node *n, const struct client *cl, const struct session_op *op)
{
    static const enum sim_seen seen[] = {
        [OP_HOLD] = SEEN_phase_hold,       [OP_BEGIN] = SEEN_phase_begin,
        [OP_COPYING] = SEEN_phase_copying, [OP_FINISH] = SEEN_phase_finish,
        [OP_COMMIT] = SEEN_phase_commit,   [OP_FAILPUT] = SEEN_phase_failput,
        [OP_ABORT] = SEEN_phase_abort,     [OP_OVER] = SEEN_phase_over,
        [OP_LOAD] = SEEN_phase_load,
    };
    sim_saw(seen[op->phase]);
    count_slots(cl->s, op);
    check_wait(n, cl, op);
    if (op->phase == OP_COPYING && op->home_late)
        sim_store_unasked(cl->s, op);
}

static uint32_t jobs_out_of(const struct sim_node *n, const struct client *cl)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < sim_job_count; i++)
        count += sim_jobs[i].used && sim_jobs[i].crew->node == node_of(n) &&
                 sim_jobs[i].j->client == cl->number;
    return count;
}

/* The rank whose session it is, if nothing is on its way between the two. */
static const struct sim_rank *settled(const struct client *cl)
{
    for (uint32_t i = 0; i < sim_rank_count; i++) {
        const struct sim_rank *r = &sim_ranks[i];
        if (memcmp(r->session, cl->s->id, 16) != 0 || r->phase != RANK_RUNNING)
            continue;
        const struct sim_conn *c = r->conn < 0 ? NULL : &sim_conns[r->conn];
        bool quiet = c && r->linked && c->to_daemon.count == 0 && c->to_client.count == 0 &&
                     cl->conn && cl->conn->fd == sim_fd(FD_CONN, (uint32_t)r->conn) &&
                     !cl->conn->first && r->out_count == 0;
        return quiet ? r : NULL;
    }
    return NULL;
}

/* A slot that was granted is in its rank's hands, also when the word of it was lost. */
static void check_granted(const struct client *cl)
{
    const struct session *s = cl->s;
    const struct sim_rank *r = settled(cl);
    for (uint32_t i = 0; r && i < s->slot_count; i++) {
        const struct session_slot *slot = &s->slots[i];
        uint32_t op = session_op_of(s, slot->op);
        if (slot->owner != SLOT_CLIENT || op == UINT32_MAX || s->ops[op].phase != OP_COPYING)
            continue;
        bool known = r->busy && r->fill_slot == i;
        for (uint32_t k = 0; k < r->grant_count; k++)
            known |= r->grants[k] == i;
        SIM_CHECK(known, "slot %u was granted to rank %u, which does not know it", i, s->rank);
    }
}

static void check_client(const struct sim_node *n, const struct client *cl)
{
    SIM_CHECK(cl->jobs_out >= jobs_out_of(n, cl), "rank %u counts its jobs wrongly", cl->s->rank);
    if (!cl->open)
        return;
    check_slots(n, cl);
    check_granted(cl);
    SIM_CHECK(cl->s->dead || !cl->s->detached_ns ||
                  sim.now - cl->s->detached_ns < SESSION_DETACHED_NS + 60 * SIM_S,
              "rank %u is away for too long, and waited for", cl->s->rank);
    for (uint32_t i = 0; i < SESSION_OPS_MAX; i++)
        if (cl->s->ops[i].phase != OP_NONE)
            check_op(n, cl, &cl->s->ops[i]);
}

/* ---- restores ---- */

static void check_restores(const struct control *c)
{
    for (uint32_t i = 0; i < RESTORE_GROUPS_MAX; i++) {
        const struct restore_group *g = &c->restores->groups[i];
        if (g->phase == RESTORE_FREE)
            continue;
        if (g->count > 1)
            sim_saw(SEEN_load_shared);
        for (uint32_t k = 0; k < g->count; k++) {
            const struct restore_consumer *who = &g->consumers[k];
            if (who->gone) /* its session may be, too */
                continue;
            const struct client *cl = c->clients[who->client];
            SIM_CHECK(cl, "a restore has slots of a session that is gone");
            uint32_t lent = 0;
            for (uint32_t s = 0; s < cl->s->slot_count; s++)
                lent += cl->s->slots[s].op == who->op;
            SIM_CHECK(lent == who->lent, "a restore counts %u slots of op %llu, there are %u",
                      who->lent, (unsigned long long)who->op, lent);
        }
    }
}

/* While one hangs no question to the home is waited for: the count must come back to 0. */
static void check_begins(const struct sim_node *n)
{
    uint32_t late = 0;
    for (uint32_t i = 0; i < sim_job_count; i++) {
        const struct sim_job *s = &sim_jobs[i];
        if (!s->used || s->crew->node != node_of(n) || s->j->kind != JOB_BEGIN)
            continue;
        const struct client *cl = n->c->clients[s->j->client];
        uint32_t at = session_op_of(cl->s, s->j->op);
        late += at == UINT32_MAX || !cl->begin_ns[at];
    }
    SIM_CHECK(late == n->c->begins_late, "%u saves begin without an answer, %u are counted", late,
              n->c->begins_late);
}

void sim_check_node(const struct sim_node *n)
{
    uint32_t seen = 0;
    if (!n->c)
        return;
    for (uint32_t i = 0; seen < n->c->client_count && i < CONTROL_CLIENTS_MAX; i++) {
        const struct client *cl = n->c->clients[i];
        seen += cl != NULL;
        if (cl)
            check_client(n, cl);
    }
    check_restores(n->c);
    check_begins(n);
}

/* ---- at the end ---- */

static void check_rest(const struct sim_node *n)
{
    const struct control *c = n->c;
    SIM_CHECK(c, "node %u does not run", node_of(n));
    SIM_CHECK(c->client_count == 0 && !c->launches && c->jobs_out == 0 && !c->later,
              "node %u is not at rest: %u sessions, %s launch, %llu jobs", node_of(n),
              c->client_count, c->launches ? "a" : "no", (unsigned long long)c->jobs_out);
    SIM_CHECK(n->kept_count == 0, "node %u: the keeper still holds kind %u of %u descriptors",
              node_of(n), n->kept[0].kind, n->kept_count);
    SIM_CHECK(c->conn_count == 0, "node %u has %u connections left", node_of(n), c->conn_count);
    for (uint32_t i = 0; i < RESTORE_GROUPS_MAX; i++)
        SIM_CHECK(c->restores->groups[i].phase == RESTORE_FREE, "node %u: restore %u is left",
                  node_of(n), i);
    for (size_t i = 0; i < c->committer->end; i++)
        SIM_CHECK(!c->committer->attempts[i].used, "node %u: an attempt at step %llu is left",
                  node_of(n), (unsigned long long)c->committer->attempts[i].name.step);
}

/* What keeps the cluster from rest, for a seed in which something waits for ever. */
void sim_check_stuck(void)
{
    for (uint32_t i = 0; i < sim_rank_count; i++)
        SIM_CHECK(sim_ranks[i].pid_gone, "rank %u waits at item %u, phase %d", i, sim_ranks[i].at,
                  (int)sim_ranks[i].phase);
    for (uint32_t i = 0; i < sim_node_count; i++)
        if (sim_nodes[i].running)
            check_rest(&sim_nodes[i]);
    sim_fail("something waits for ever");
}

/* A scan that failed, or found too much, comes again soon. */
static bool drain_goes_on(const struct drainer *d)
{
    for (uint32_t t = 1; t < d->tier_count; t++)
        if (drainer_lag(d, t) > 0 || d->tiers[t].scan_out ||
            d->tiers[t].scan_ns <= sim.now + DRAINER_PAUSE_MAX_NS)
            return true;
    return false;
}

/* What a lost node had not sent on is waited for by the others for ever. */
bool sim_at_rest(void)
{
    bool replaced = false;
    for (uint32_t i = 0; i < sim_node_count; i++)
        replaced |= sim_nodes[i].disk > 0;
    for (uint32_t i = 0; i < sim_node_count; i++) {
        const struct control *c = sim_nodes[i].c;
        if (!c || c->client_count > 0 || c->jobs_out > 0 || c->launches || c->conn_count > 0)
            return false;
        for (size_t k = 0; k < c->committer->end; k++)
            if (c->committer->attempts[k].used)
                return false;
        if (!replaced && drain_goes_on(c->drainer))
            return false;
    }
    return true;
}

static void check_attempt(const struct sim_attempt *a, bool lost)
{
    bool all_staged = true, unsure = false;
    if (a->state == PUBLISH_COMMITTED)
        sim_store_check(a);
    for (uint32_t r = 0; r < a->world; r++) {
        all_staged &= a->staged[r];
        unsure |= a->unsure[r];
        SIM_CHECK(!a->told_committed[r] || a->state == PUBLISH_COMMITTED,
                  "step %llu was told to be committed", (unsigned long long)a->name.step);
        if (!a->told_failed[r] || a->state != PUBLISH_COMMITTED)
            continue;
        SIM_CHECK(a->unsure[r], "rank %u was told that step %llu failed, and it is committed", r,
                  (unsigned long long)a->name.step);
        sim_saw(SEEN_told_failed_committed);
    }
    SIM_CHECK(lost || unsure || !all_staged || a->state != PUBLISH_UNDECIDED,
              "step %llu was staged on all ranks and is neither committed nor aborted",
              (unsigned long long)a->name.step);
}

bool sim_anything_lost(void)
{
    bool lost = false;
    for (uint32_t i = 0; i < sim_node_count; i++)
        lost |= sim_nodes[i].lost;
    return lost;
}

void sim_check_end(void)
{
    bool lost = sim_anything_lost();
    for (uint32_t i = 0; i < sim_node_count; i++)
        check_rest(&sim_nodes[i]);
    for (uint32_t i = 0; i < sim_attempt_count; i++)
        check_attempt(&sim_attempts[i], lost);
    SIM_CHECK(sim_not_held() == 0, "%u committed saves did not arrive in the tier", sim_not_held());
    for (uint32_t i = 0; i < sim_rank_count; i++)
        for (uint32_t k = 0; k < SIM_OPS && sim_ranks[i].phase == RANK_CLOSED; k++)
            SIM_CHECK(!sim_ranks[i].ops[k].id || sim_ranks[i].ops[k].copied,
                      "rank %u never heard of op %llu", i,
                      (unsigned long long)sim_ranks[i].ops[k].id);
}
