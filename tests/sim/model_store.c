/* The store, as far as the worker's jobs tell: attempts with their manifests, packs, and
 * the one key that decides; epochs; and what a restore would bring.  What a job does here
 * is what storage/repo documents of it. */
#include <stdio.h>

#include "sim/model.h"
#include "sim/sim_wraps.h"

#define EPOCHS_MAX 64
#define PLANS_MAX  256

struct pack {
    uint32_t attempt, rank, part;
    struct digest id;
};
struct epoch {
    char token[RECORD_TOKEN_MAX + 1];
    uint8_t nonce[16];
    bool resolved, superseded, has_point;
    struct ckpt_name point;
    uint64_t told; /* ranks whose nodes have said that they are there */
};
struct sim_attempt sim_attempts[SIM_ATTEMPTS];
uint32_t sim_attempt_count;
static struct pack packs[SIM_PACKS];
static uint32_t pack_count;
static struct epoch epochs[EPOCHS_MAX]; /* from 1 */
static uint32_t epoch_count;
static struct plan *plans[PLANS_MAX];
static uint32_t plan_count;

static void plan_drop(struct plan *p)
{
    for (size_t i = 0; i < p->batch_count; i++) {
        __real_free(p->batches[i].chunks);
        __real_free(p->batches[i].frags);
        __real_free(p->batches[i].uses);
        __real_free((void *)(uintptr_t)p->batches[i].parts);
    }
    __real_free(p->batches);
    __real_free(p->consumer_bytes);
    __real_free(p);
}

void sim_store_reset(void)
{
    while (plan_count > 0)
        plan_drop(plans[--plan_count]);
    sim_attempt_count = 0;
    pack_count = 0;
    epoch_count = 0;
}

/* ---- attempts ---- */

struct sim_attempt *sim_attempt_find(const struct ckpt_name *name)
{
    for (uint32_t i = 0; i < sim_attempt_count; i++)
        if (name_equal(&sim_attempts[i].name, name))
            return &sim_attempts[i];
    return NULL;
}

struct sim_attempt *sim_attempt_get(const struct ckpt_name *name, uint32_t world)
{
    struct sim_attempt *a = sim_attempt_find(name);
    if (a)
        return a;
    CHECK(sim_attempt_count < SIM_ATTEMPTS);
    a = &sim_attempts[sim_attempt_count++];
    *a = (struct sim_attempt){ .name = *name, .world = world };
    a->bad = sim_chance(sim_faults.differs);
    return a;
}

static uint64_t mix(uint64_t h, uint64_t v)
{
    unsigned long long s = h ^ v * 0x9e3779b97f4a7c15ull;
    return test_rand(&s);
}

uint64_t model_word_saved(const struct ckpt_name *name, uint32_t rank, uint32_t part)
{
    return mix(mix(mix(mix(name->epoch, name->step), name->attempt), rank), part + 1);
}

uint64_t model_word_loaded(const struct ckpt_name *name, uint32_t batch)
{
    return mix(mix(mix(~name->epoch, name->step), name->attempt), batch);
}

static struct digest id_of(uint64_t word)
{
    struct digest d;
    uint64_t two[2] = { word, ~word };
    memcpy(&d, two, sizeof(d));
    return d;
}

static bool pack_there(const struct sim_attempt *a, uint32_t rank, uint32_t part,
                       const struct digest *id)
{
    uint32_t attempt = (uint32_t)(a - sim_attempts);
    for (uint32_t i = 0; i < pack_count; i++)
        if (packs[i].attempt == attempt && packs[i].rank == rank && packs[i].part == part &&
            memcmp(&packs[i].id, id, sizeof(*id)) == 0)
            return true;
    return false;
}

/* Whole, of one try, and what the ranks copied: nothing else may ever be committed, and
 * it stays so. */
void sim_store_check(const struct sim_attempt *a)
{
    for (uint32_t r = 0; r < a->world; r++) {
        const struct sim_manifest *m = &a->manifests[r];
        SIM_CHECK(m->there && !m->failed, "step %llu is committed without rank %u",
                  (unsigned long long)a->name.step, r);
        SIM_CHECK(a->begun[r], "step %llu is committed, but rank %u began it in an old epoch",
                  (unsigned long long)a->name.step, r);
        SIM_CHECK(a->branch[r] == a->branch[0],
                  "step %llu is committed of ranks 0 and %u, which are on branches %llu and %llu",
                  (unsigned long long)a->name.step, r, (unsigned long long)a->branch[0],
                  (unsigned long long)a->branch[r]);
        for (uint32_t i = 0; i < m->parts; i++) {
            struct digest want = id_of(model_word_saved(&a->name, r, i));
            SIM_CHECK(memcmp(&m->ids[i], &want, sizeof(want)) == 0,
                      "step %llu is committed, but part %u of rank %u is something else",
                      (unsigned long long)a->name.step, i, r);
            SIM_CHECK(pack_there(a, r, i, &want),
                      "step %llu is committed, but the pack of part %u of rank %u is not there",
                      (unsigned long long)a->name.step, i, r);
        }
    }
}

static void commit(struct sim_attempt *a)
{
    a->state = PUBLISH_COMMITTED;
    sim_note("store: step %llu~%llu is committed", (unsigned long long)a->name.step,
             (unsigned long long)a->name.epoch);
    sim_saw(SEEN_committed);
    sim_store_check(a);
}

static void give_up(struct sim_attempt *a)
{
    a->state = PUBLISH_ABORTED;
    sim_note("store: step %llu~%llu is aborted", (unsigned long long)a->name.step,
             (unsigned long long)a->name.epoch);
    sim_saw(SEEN_aborted);
}

/* ---- a rank's part ---- */

void sim_store_unasked(const struct session *s, const struct session_op *op)
{
    struct sim_attempt *a = sim_attempt_get(&op->name, s->world);
    sim_saw(SEEN_unasked);
    a->try_ = op->try_;
    a->begun[s->rank] = true;
}

static enum ckpt_status run_begin(struct job_part *p, struct ckpt_err *err)
{
    SIM_CHECK(p->epoch <= epoch_count && epochs[p->epoch].resolved,
              "rank %u begins step %llu in epoch %llu, which was never resolved", p->rank,
              (unsigned long long)p->step, (unsigned long long)p->epoch);
    for (uint64_t e = p->epoch + 1; e <= epoch_count; e++)
        if (epochs[e].resolved && !epochs[e].superseded) {
            sim_saw(SEEN_superseded);
            return err_set(err, CKPT_SUPERSEDED, "a newer launch has taken over");
        }
    for (uint32_t t = 0; t < p->try_; t++) {
        struct ckpt_name name = { .epoch = p->epoch, .step = p->step };
        name.attempt = attempt_of(p->job, p->epoch, p->world, p->step, t);
        const struct sim_attempt *a = sim_attempt_find(&name);
        if (a && a->state == PUBLISH_COMMITTED) {
            sim_saw(SEEN_exists);
            return err_set(err, CKPT_EXISTS, "it is committed already");
        }
    }
    struct sim_attempt *a = sim_attempt_get(&p->name, p->world);
    a->try_ = p->try_;
    a->begun[p->rank] = true;
    return CKPT_OK;
}

static enum ckpt_status run_digest(struct job_part *p)
{
    uint64_t word;
    memcpy(&word, p->memory, sizeof(word));
    p->area.digests[p->image_slot] = id_of(word);
    return CKPT_OK;
}

static enum ckpt_status run_pack(struct job_part *p)
{
    uint64_t word;
    struct sim_attempt *a = sim_attempt_get(&p->name, p->world);
    memcpy(&word, p->memory, sizeof(word));
    SIM_CHECK(word == model_word_saved(&p->name, p->rank, p->image_slot),
              "slot %u of rank %u is packed as part %u of step %llu, but holds something else",
              p->slot, p->rank, p->image_slot, (unsigned long long)p->step);
    const struct digest now = id_of(word);
    p->packed.id = p->area.digests[p->image_slot];
    SIM_CHECK(digest_equal(&p->packed.id, &now), "slot %u of rank %u has changed since its digest",
              p->slot, p->rank);
    p->packed.stored_bytes = sizeof(word);
    p->raw_bytes = sizeof(word);
    uint32_t attempt = (uint32_t)(a - sim_attempts);
    if (pack_there(a, p->rank, p->image_slot, &p->packed.id))
        return CKPT_OK;
    CHECK(pack_count < SIM_PACKS);
    packs[pack_count++] = (struct pack){ attempt, p->rank, p->image_slot, p->packed.id };
    return CKPT_OK;
}

static uint32_t first_missing(const struct sim_attempt *a)
{
    uint32_t r = 0;
    while (r < a->world && a->manifests[r].there)
        r++;
    return r;
}

static enum ckpt_status put_manifest(struct sim_attempt *a, uint32_t rank,
                                     const struct sim_manifest *m)
{
    struct sim_manifest *to = &a->manifests[rank];
    if (to->there)
        return memcmp(to, m, sizeof(*m)) == 0 ? CKPT_OK : CKPT_CONFLICT;
    *to = *m;
    if (first_missing(a) == a->world)
        a->complete_at = sim.now;
    return CKPT_OK;
}

/* Nothing is wrong with it, and it was there for long.  (A rank may have been told that it
 * failed when all of it had arrived: then to give it up is right.) */
static bool given_up_for_nothing(const struct sim_attempt *a, const struct record_abort *why)
{
    int64_t since = a->complete_at > sim.calm_at ? a->complete_at : sim.calm_at;
    bool good = a->complete_at > 0 && !a->bad && sim.calm && !sim_anything_lost();
    for (uint32_t r = 0; r < a->world; r++)
        good &= !a->manifests[r].failed && !(a->told_failed[r] && a->unsure[r]);
    return good && why->status == CKPT_TIMEOUT && sim.now - since > 400 * SIM_S;
}

static enum ckpt_status run_finish(struct job_part *p)
{
    struct sim_attempt *a = sim_attempt_get(&p->name, p->world);
    struct sim_manifest m;
    memset(&m, 0, sizeof(m)); /* padding too: manifests are compared */
    m.there = true;
    m.parts = p->decl->slot_count;
    m.has_parent = p->has_parent;
    if (p->has_parent)
        m.parent = p->parent;
    for (uint32_t i = 0; i < m.parts; i++) {
        m.ids[i] = p->area.packs[i].id;
        SIM_CHECK(pack_there(a, p->rank, i, &m.ids[i]),
                  "rank %u's manifest of step %llu refers to part %u, which is not there", p->rank,
                  (unsigned long long)p->step, i);
    }
    a->part_node[p->rank] = model_job_node;
    return put_manifest(a, p->rank, &m);
}

static enum ckpt_status run_fail_part(struct job_part *p)
{
    struct sim_attempt *a = sim_attempt_get(&p->name, p->world);
    struct sim_manifest m;
    memset(&m, 0, sizeof(m));
    m.there = m.failed = true;
    return put_manifest(a, p->rank, &m);
}

/* ---- deciding ---- */

static bool same_parents(const struct sim_attempt *a)
{
    const struct sim_manifest *first = &a->manifests[0];
    for (uint32_t r = 1; r < a->world; r++) {
        const struct sim_manifest *m = &a->manifests[r];
        if (m->has_parent != first->has_parent ||
            (m->has_parent && !name_equal(&m->parent, &first->parent)))
            return false;
    }
    return true;
}

static enum ckpt_status run_publish(struct sim_attempt *a, struct ckpt_err *err)
{
    if (a->state == PUBLISH_COMMITTED)
        return CKPT_OK;
    for (uint32_t r = 0; r < a->world && a->state == PUBLISH_UNDECIDED; r++)
        if (a->manifests[r].failed)
            give_up(a);
    if (a->state == PUBLISH_ABORTED)
        return err_set(err, CKPT_ABORTED, "given up");
    if (first_missing(a) < a->world)
        return err_set(err, CKPT_NOT_FOUND, "a manifest is missing");
    if (!same_parents(a)) {
        SIM_CHECK(sim_anything_lost(), "the ranks' parts of step %llu have different parents",
                  (unsigned long long)a->name.step);
        return err_set(err, CKPT_MISMATCH, "ranks do not agree on the parent");
    }
    if (a->bad) {
        sim_saw(SEEN_replicas_differ);
        return err_set(err, CKPT_MISMATCH, "replicas differ");
    }
    commit(a);
    return CKPT_OK;
}

static enum ckpt_status run_attempt(struct job_attempt *j, struct ckpt_err *err)
{
    struct sim_attempt *a = sim_attempt_get(&j->name, j->world);
    switch (j->what) {
    case COMMITTER_PUBLISH:
        sim_saw(SEEN_job_publish);
        return run_publish(a, err);
    case COMMITTER_ABORT:
        sim_saw(SEEN_job_abort);
        if (a->state == PUBLISH_COMMITTED)
            return err_set(err, CKPT_EXISTS, "it is committed");
        SIM_CHECK(a->state != PUBLISH_UNDECIDED || !given_up_for_nothing(a, &j->abort),
                  "step %llu, all of whose parts are there, is given up: %s",
                  (unsigned long long)a->name.step, status_name(j->abort.status));
        if (a->state == PUBLISH_UNDECIDED)
            give_up(a);
        return CKPT_OK;
    case COMMITTER_MISSING:
        sim_saw(SEEN_job_missing);
        j->rank = first_missing(a);
        return CKPT_OK;
    case COMMITTER_LOOK:
        sim_saw(SEEN_job_look);
        if (a->state == PUBLISH_UNDECIDED)
            return CKPT_BUSY;
        return a->state == PUBLISH_COMMITTED ? CKPT_OK : err_set(err, CKPT_ABORTED, "given up");
    case COMMITTER_IDLE:
        break;
    }
    return CKPT_BUG;
}

/* ---- launches ---- */

bool sim_store_in_reach(const struct ckpt_name *name)
{
    (void)name;
    return true;
}

bool sim_store_newest(uint32_t job, struct ckpt_name *ret)
{
    const struct sim_attempt *best = NULL;
    (void)job; /* there is one */
    for (uint32_t i = 0; i < sim_attempt_count; i++) {
        const struct sim_attempt *a = &sim_attempts[i];
        if (a->state != PUBLISH_COMMITTED)
            continue;
        if (!best || a->name.epoch > best->name.epoch ||
            (a->name.epoch == best->name.epoch && a->name.step > best->name.step))
            best = a;
    }
    if (best)
        *ret = best->name;
    return best != NULL;
}

static enum ckpt_status run_claim(struct job_launch *l, struct ckpt_err *err)
{
    for (uint32_t e = epoch_count; e > l->after; e--) {
        if (strcmp(epochs[e].token, l->token) != 0)
            continue;
        if (memcmp(epochs[e].nonce, l->nonce, sizeof(l->nonce)) != 0)
            return err_set(err, CKPT_LAUNCH_REUSED, "launch id reused");
        l->epoch = e;
        return CKPT_OK;
    }
    CHECK(epoch_count + 1 < EPOCHS_MAX);
    struct epoch *e = &epochs[++epoch_count];
    *e = (struct epoch){ 0 };
    memcpy(e->token, l->token, sizeof(e->token));
    memcpy(e->nonce, l->nonce, sizeof(e->nonce));
    l->epoch = epoch_count;
    return CKPT_OK;
}

static enum ckpt_status take_resolved(struct job_launch *l, struct ckpt_err *err)
{
    const struct epoch *e = &epochs[l->epoch];
    if (e->superseded)
        return err_set(err, CKPT_SUPERSEDED, "a newer launch took over");
    l->has_point = e->has_point;
    l->point = e->point;
    return CKPT_OK;
}

/* What older launches left complete is committed, what failed is given up. */
static void decide_older(uint64_t epoch)
{
    for (uint32_t i = 0; i < sim_attempt_count; i++) {
        struct sim_attempt *a = &sim_attempts[i];
        struct ckpt_err err = { 0 };
        if (a->name.epoch >= epoch || a->state != PUBLISH_UNDECIDED)
            continue;
        enum ckpt_status st = run_publish(a, &err);
        if (st == CKPT_OK)
            sim_saw(SEEN_committed_by_resolver);
        else if (st == CKPT_MISMATCH)
            give_up(a);
    }
}

static enum ckpt_status run_resolve(struct job_launch *l, struct ckpt_err *err)
{
    struct epoch *e = &epochs[l->epoch];
    if (e->resolved)
        return take_resolved(l, err);
    for (uint64_t i = 1; i < l->epoch; i++)
        if (!epochs[i].resolved)
            epochs[i].resolved = epochs[i].superseded = true;
    for (uint64_t i = l->leaves ? l->leaves + 1 : l->epoch; i < l->epoch; i++)
        if (!epochs[i].superseded && strcmp(epochs[i].token, l->token) != 0)
            e->resolved = e->superseded = true;
    if (e->resolved) {
        sim_saw(SEEN_rollback_superseded);
        return take_resolved(l, err);
    }
    decide_older(l->epoch);
    e->resolved = true;
    if (l->wish.forced) {
        for (uint32_t i = 0; i < sim_attempt_count; i++)
            if (sim_attempts[i].state == PUBLISH_COMMITTED &&
                sim_attempts[i].name.step == l->wish.step &&
                sim_attempts[i].name.epoch == l->wish.epoch) {
                e->has_point = true;
                e->point = sim_attempts[i].name;
            }
    } else {
        e->has_point = sim_store_newest(0, &e->point);
    }
    return take_resolved(l, err);
}

static enum ckpt_status run_launch(struct job_launch *l, struct ckpt_err *err)
{
    switch (l->what) {
    case LAUNCH_ASK:
        return CKPT_OK;
    case LAUNCH_CLAIM:
        return run_claim(l, err);
    case LAUNCH_RESOLVE:
        return run_resolve(l, err);
    case LAUNCH_TELL:
        for (uint32_t i = 0; i < l->rank_count; i++)
            epochs[l->epoch].told |= UINT64_C(1) << l->ranks[i];
        return CKPT_OK;
    case LAUNCH_GATHER:
        for (l->missing = 0; l->missing < l->world; l->missing++)
            if (!(epochs[l->epoch].told >> l->missing & 1))
                break;
        l->nodes->resolved = epochs[l->epoch].resolved;
        return CKPT_OK;
    case LAUNCH_FIND:
        for (uint32_t e = epoch_count; e > l->after; e--)
            if (strcmp(epochs[e].token, l->token) == 0) {
                l->epoch = e;
                return CKPT_OK;
            }
        return CKPT_NOT_FOUND;
    case LAUNCH_LOOK:
        return epochs[l->epoch].resolved ? take_resolved(l, err) : CKPT_NOT_FOUND;
    case LAUNCH_READ:
        l->has_point = sim_store_newest(0, &l->point);
        return CKPT_OK;
    }
    return CKPT_BUG;
}

/* ---- sealing and restoring ---- */

static enum ckpt_status run_seal(struct job_seal *s, struct ckpt_err *err)
{
    const struct sim_rank *r = &sim_ranks[sim_fd_index(s->decl_fd)];
    uint64_t slots = s->want_bytes / MODEL_SLOT_BYTES;
    if (slots > s->slots_max)
        return err_set(err, CKPT_LIMIT, "too many slots");
    uint32_t arena = sim_arena_new((uint32_t)slots);
    sim_arenas[arena].rank = (int32_t)(r - sim_ranks);
    s->decl = (struct decl){ .slot_bytes = MODEL_SLOT_BYTES,
                             .slot_count = r->image_slots,
                             .chunk_count = r->image_slots,
                             .raw_bytes = r->image_slots * (uint64_t)MODEL_SLOT_BYTES,
                             .finished = true };
    s->slots = (uint32_t)slots;
    s->arena = (struct arena){ .fd = sim_fd(FD_ARENA, arena),
                               .base = (uint8_t *)sim_arenas[arena].word,
                               .bytes = slots * MODEL_SLOT_BYTES };
    return CKPT_OK;
}

static void fill_batch(struct plan *p, size_t at, const struct job_plan *j)
{
    static const struct index_tensor saved = { .dtype = CKPT_DTYPE_U64, .ndim = 1, .shape = { 1 } };
    static uint64_t tile[] = { 0, 1 };
    struct plan_batch *b = &p->batches[at];
    struct plan_part *parts = __real_calloc(j->count + 1, sizeof(*parts));
    b->chunk_count = 1;
    b->chunks = __real_calloc(1, sizeof(*b->chunks));
    b->frags = __real_calloc(j->count, sizeof(*b->frags));
    b->uses = __real_calloc(j->count, sizeof(*b->uses));
    CHECK(b->chunks && b->frags && b->uses && parts);
    for (uint32_t i = 0; i < j->count; i++) {
        if (j->clients[i] == UINT32_MAX || sim_rand(4) == 0)
            continue;
        b->uses[b->use_count++] = (struct plan_use){ .consumer = i, .slot_used = 8 };
        parts[i] = (struct plan_part){ .saved = &saved,
                                       .consumer = i,
                                       .tensor = (uint32_t)at,
                                       .box = { .ndim = 1, .len = { 1 } } };
        b->frags[b->frag_count++] = (struct plan_frag){ .part = i };
        p->consumer_bytes[i] += 8;
    }
    b->parts = parts;
    b->words = tile;
    b->chunks[0] = (struct plan_chunk){ .frag_count = b->frag_count };
}

static enum ckpt_status run_plan(struct job_plan *j, struct ckpt_err *err)
{
    const struct sim_attempt *a = sim_attempt_find(&j->name);
    if (!a || a->state != PUBLISH_COMMITTED)
        return err_set(err, CKPT_NOT_FOUND, "no such checkpoint");
    sim_store_check(a);
    CHECK(plan_count < PLANS_MAX);
    struct plan *p = plans[plan_count++] = __real_calloc(1, sizeof(*p));
    CHECK(p);
    p->batch_count = sim_rand(5);
    p->batches = __real_calloc(p->batch_count + 1, sizeof(*p->batches));
    p->consumer_bytes = __real_calloc(j->count + 1, sizeof(*p->consumer_bytes));
    CHECK(p->batches && p->consumer_bytes);
    for (size_t i = 0; i < p->batch_count; i++)
        fill_batch(p, i, j);
    j->plan = p;
    return CKPT_OK;
}

static enum ckpt_status run_batch(struct job_batch *b)
{
    uint64_t word = model_word_loaded(&b->name, b->batch);
    for (uint32_t i = 0; i < b->use_count; i++)
        memcpy(b->memory[i], &word, sizeof(word));
    return CKPT_OK;
}

void __wrap_plan_free(struct plan *p)
{
    (void)p; /* with the seed: its worker may be dead */
}

void __wrap_reader_close(struct reader *r)
{
    (void)r;
}

enum ckpt_status model_run(struct job *j)
{
    switch (j->kind) {
    case JOB_SEAL:
        return run_seal(&j->seal, &j->err);
    case JOB_BEGIN:
        return run_begin(&j->part, &j->err);
    case JOB_DIGEST:
        return run_digest(&j->part);
    case JOB_PACK:
        return run_pack(&j->part);
    case JOB_FINISH:
        return run_finish(&j->part);
    case JOB_FAIL_PART:
        return run_fail_part(&j->part);
    case JOB_ATTEMPT:
        return run_attempt(&j->attempt, &j->err);
    case JOB_LAUNCH:
        return run_launch(&j->launch, &j->err);
    case JOB_PLAN:
        return run_plan(&j->plan, &j->err);
    case JOB_BATCH:
        return run_batch(&j->batch);
    case JOB_REPORT:
        return CKPT_OK;
    case JOB_DRAIN:
        return model_drain_run(&j->drain, model_job_node);
    case JOB_ADOPT:
        return CKPT_OK;
    case JOB_SPREAD:
        return model_spread_run(&j->tier);
    case JOB_LIST:  /* no simulated rank asks */
    case JOB_PRUNE: /* and nothing is set */
        break;
    }
    return CKPT_BUG;
}
