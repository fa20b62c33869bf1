/* The jobs of saves and restores. */
#include "ckptd/jobs.h"

#include <inttypes.h>
#include <stdio.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "ckptd/drain_jobs.h"
#include "ckptd/launch_jobs.h"
#include "ckptd/prune_jobs.h"
#include "ckptd/restore_jobs.h"
#include "formats/desc.h"
#include "formats/wire.h"
#include "storage/repo/owner.h"

#define BEGIN_NS INT64_C(3000000000)  /* a save waits so long for the home, be it late */
#define AWAY_NS  INT64_C(10000000000) /* and then those behind it do not ask so long */

bool jobs_out_of_reach(enum ckpt_status st)
{
    return st == CKPT_UNREACHABLE || st == CKPT_TIMEOUT || st == CKPT_IO;
}

bool jobs_home_is_own(const struct jobs_work *w)
{
    return w->local == w->home && !store_url_shared(w->home->url);
}

static int64_t clock_ns(clockid_t clock)
{
    struct timespec ts;
    clock_gettime(clock, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

int64_t jobs_now_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

int64_t jobs_wall_ns(void)
{
    return clock_ns(CLOCK_REALTIME);
}

void *jobs_work_new(void *arg, struct ckpt_err *err)
{
    const struct jobs_setup *setup = arg;
    struct jobs_work *w = calloc(1, sizeof(*w));
    if (!w) {
        (void)err_set(err, CKPT_NO_MEMORY, "out of memory for a crew thread");
        return NULL;
    }
    w->slot_bytes = setup->slot_bytes;
    w->codec = setup->codec;
    memcpy(w->node, setup->node, sizeof(w->node));
    w->cancel = setup->cancel;
    if (tiers_init(&w->tiers, setup->tiers, setup->drain, err) != CKPT_OK) {
        jobs_work_free(w);
        return NULL;
    }
    w->local = w->tiers.s[0];
    w->home = w->tiers.s[setup->tiers->home];
    if (setup->data || setup->drain) {
        if (setup->data) {
            w->save = save_work_new(setup->slot_bytes);
            w->load = load_work_new(setup->slot_bytes);
        } else {
            w->drain = drain_work_new(setup->slot_bytes);
        }
        if (setup->data ? !w->save || !w->load : !w->drain) {
            (void)err_set(err, CKPT_NO_MEMORY, "out of memory for a crew thread's buffers");
            jobs_work_free(w);
            return NULL;
        }
    }
    return w;
}

void jobs_work_free(void *work)
{
    struct jobs_work *w = work;
    if (!w)
        return;
    save_work_free(w->save);
    load_work_free(w->load);
    drain_work_free(w->drain);
    tiers_fini(&w->tiers);
    free(w);
}

/* -- sealing ------------------------------------------------------------------ */

static uint64_t arena_slots(const struct decl *d, uint64_t want_bytes, uint64_t slot_bytes)
{
    uint64_t hold = min_u64(4, div_up(d->hold_bytes, slot_bytes)); /* restores fill more */
    uint64_t slots = want_bytes ? div_up(want_bytes, slot_bytes) : max_u64(d->slot_count, hold);
    return max_u64(slots, 2);
}

static enum ckpt_status run_seal(struct job_seal *s, uint64_t slot_bytes, struct ckpt_err *err)
{
    const void *bytes;
    enum ckpt_status st = wire_memfd_map(s->decl_fd, s->decl_bytes, &bytes, err);
    if (st != CKPT_OK)
        return st;
    struct decl d = { 0 };
    st = decl_decode(bytes, s->decl_bytes, slot_bytes, &d, err);
    munmap((void *)(uintptr_t)bytes, s->decl_bytes);
    if (st != CKPT_OK)
        return st;
    uint64_t slots = arena_slots(&d, s->want_bytes, slot_bytes);
    if (slots > s->slots_max)
        st = err_set(err, CKPT_LIMIT,
                     "an arena of %" PRIu64 " slots for %s: at most %u are left in its session; "
                     "ask for a smaller one (arena_bytes)",
                     slots, s->who, s->slots_max);
    if (st == CKPT_OK)
        st = arena_new(s->who, slots * slot_bytes, s->numa, &s->arena, &s->ram_left, err);
    if (st != CKPT_OK) {
        decl_fini(&d);
        return st;
    }
    s->decl = d;
    s->slots = (uint32_t)slots;
    return CKPT_OK;
}

/* -- a rank's part -------------------------------------------------------------- */

/* Is this launch still the newest, and is the step not committed yet by an earlier try? */
static enum ckpt_status ask_begin(struct store *home, const struct job_part *p,
                                  struct ckpt_err *err)
{
    enum ckpt_status st = launch_current(home, p->job, p->epoch, err);
    uint32_t first = p->try_ > 64 ? p->try_ - 64 : 0;
    for (uint32_t t = first; st == CKPT_OK && t < p->try_; t++) {
        enum publish_state state;
        struct ckpt_name name = { .epoch = p->epoch, .step = p->step };
        name.attempt = attempt_of(p->job, p->epoch, p->world, p->step, t);
        st = publish_look(home, p->job, &name, &state, NULL, err);
        if (st == CKPT_OK && state == PUBLISH_COMMITTED)
            st = err_set(err, CKPT_EXISTS,
                         "step %" PRIu64 " of job %s is committed already in this launch", p->step,
                         p->job);
    }
    return st;
}

/* H5: packs go to the node's own tier or wait in the arena, so a save begins also while a home
 * that is no disk of this node is out of reach.
 * What an older launch saves unasked sorts behind all the same, and a step that is
 * committed already is saved twice at worst. */
static enum ckpt_status run_begin(struct jobs_work *w, struct job_part *p, struct ckpt_err *err)
{
    struct ckpt_err why = { 0 };
    int64_t now = jobs_now_ns();
    if (jobs_home_is_own(w))
        return ask_begin(w->home, p, err);
    if (w->local != w->home) { /* before anything of it lies there */
        enum ckpt_status st = owner_mark(w->local, p->job, p->epoch, &w->tiers.setup->repo, err);
        if (st != CKPT_OK)
            return st;
    }
    p->away = now < w->ask_ns;
    if (p->away)
        return CKPT_OK;
    store_set_limits(w->home, now + BEGIN_NS, w->cancel);
    enum ckpt_status st = ask_begin(w->home, p, &why);
    store_set_limits(w->home, 0, w->cancel);
    if (st == CKPT_OK)
        return CKPT_OK;
    if (!jobs_out_of_reach(st))
        return err_set(err, st, "%s", err_text(&why));
    w->ask_ns = jobs_now_ns() + AWAY_NS;
    p->away = true;
    return CKPT_OK;
}

/* What the tiles of a slot hold; `used` counts the gaps between them, too. */
static uint64_t slot_raw_bytes(const struct decl *d, uint32_t slot)
{
    struct decl_walk w = decl_walk_slot(d, slot);
    struct decl_tile tile;
    uint64_t bytes = 0;
    while (decl_walk_next(&w, &tile))
        bytes += tile.bytes;
    return bytes;
}

static struct save_slot slot_of(const struct jobs_work *w, const struct job_part *p)
{
    return (struct save_slot){
        .job = p->job,
        .name = p->name,
        .rank = p->rank,
        .d = p->decl,
        .slot = p->image_slot,
        .memory = p->memory,
        .codec = w->codec,
    };
}

static enum ckpt_status run_digest(const struct jobs_work *w, struct job_part *p)
{
    uint64_t first = p->decl->slots[p->image_slot].first_chunk;
    struct save_slot in = slot_of(w, p);
    save_digest(&in, p->area.digests + first, p->area.crcs + first);
    return CKPT_OK;
}

static void fill_header(const struct job_part *p, const uint8_t node[16], struct manifest_header *h)
{
    *h = (struct manifest_header){
        .name = p->name,
        .rank = p->rank,
        .world = p->world,
        .try_ = p->try_,
        .flags = p->flags & WIRE_SAVE_VANISHED_OK ? MANIFEST_FLAG_VANISHED_OK : 0,
        .has_parent = p->has_parent,
        .parent = p->parent,
        .time_ns = p->time_ns,
    };
    memcpy(h->node, node, sizeof(h->node));
    snprintf(h->job, sizeof(h->job), "%s", p->job);
    if (p->area.base) {
        h->metric_count = (uint32_t)min_u64(*p->area.metric_count, RECORD_METRICS_MAX);
        memcpy(h->metrics, p->area.metrics, h->metric_count * sizeof(h->metrics[0]));
    }
}

/* 1 and *ret if this rank has digested a tile that another replica writes. */
static size_t witness_seen(const struct job_part *p, struct manifest_seen *ret)
{
    if (!p->has_witness)
        return 0;
    struct decl_witness w = decl_witness_at(p->decl, p->witness);
    *ret = (struct manifest_seen){ .tensor = w.tensor,
                                   .witness = { .box = w.box, .digest = p->witness_digest } };
    return 1;
}

/* What the node's own tier cannot do is no matter of waiting: it is not known what is left of
 * the packs that a sync has failed for. */
static bool only_home_fails(const struct jobs_work *w, bool settled, enum ckpt_status st)
{
    bool apart = w->local != w->home;
    if (st == CKPT_UNREACHABLE || st == CKPT_TIMEOUT)
        return settled || !apart;
    return st == CKPT_IO && settled && apart;
}

static enum ckpt_status run_pack(struct jobs_work *w, struct job_part *p, struct ckpt_err *err)
{
    uint64_t first = p->decl->slots[p->image_slot].first_chunk;
    struct save_slot in = slot_of(w, p);
    p->raw_bytes = slot_raw_bytes(p->decl, p->image_slot);
    enum ckpt_status st = save_pack(w->local, w->save, &in, p->area.digests + first,
                                    p->area.crcs + first, &p->packed, err);
    p->away = only_home_fails(w, false, st);
    return st;
}

/* Until the save's deadline, and for a moment when that has passed: until then the save keeps its
 * place and its slots from others. */
static void limit_home(struct jobs_work *w, const struct job_part *p)
{
    int64_t soon = jobs_now_ns() + BEGIN_NS;
    store_set_limits(w->home, p->deadline_ns > soon ? p->deadline_ns : soon, NULL);
}

static enum ckpt_status run_finish(struct jobs_work *w, struct job_part *p, struct ckpt_err *err)
{
    const struct decl *d = p->decl;
    struct manifest_header h;
    fill_header(p, w->node, &h);
    CLEANUP_FREE struct manifest_pack *packs = calloc(max_u64(d->slot_count, 1), sizeof(*packs));
    if (!packs)
        return err_set(err, CKPT_NO_MEMORY, "out of memory for a manifest");
    for (uint32_t i = 0; i < d->slot_count; i++)
        packs[i] = (struct manifest_pack){ .slot = i,
                                           .chunks = d->slots[i].chunks,
                                           .id = p->area.packs[i].id,
                                           .first_chunk = d->slots[i].first_chunk };
    h.packs = packs;
    h.pack_count = d->slot_count;
    h.raw_bytes = d->raw_bytes;
    h.chunk_count = d->chunk_count;
    h.tensor_count = d->tensor_count;
    struct manifest_seen seen;
    const struct manifest_source from = {
        .d = d, .digests = p->area.digests, .seen = &seen, .seen_count = witness_seen(p, &seen)
    };
    limit_home(w, p);
    enum ckpt_status st = save_settle(w->local, &h, &from, p->stored_bytes, err);
    p->settled = st == CKPT_OK;
    if (p->settled)
        st = save_tell(w->home, &h, &from, err);
    store_set_limits(w->home, 0, NULL);
    p->away = only_home_fails(w, p->settled, st);
    return st;
}

/* For the other ranks' sake; when it cannot be put, they wait for their own deadlines. */
static enum ckpt_status run_fail_part(struct jobs_work *w, const struct job_part *p,
                                      struct ckpt_err *err)
{
    struct manifest_header h;
    fill_header(p, w->node, &h);
    h.flags = MANIFEST_FLAG_FAILED;
    h.fail_status = p->fail_status;
    snprintf(h.fail_text, sizeof(h.fail_text), "%s", p->fail_text);
    limit_home(w, p);
    enum ckpt_status st = save_failed(w->home, &h, err);
    store_set_limits(w->home, 0, NULL);
    return st;
}

/* Packs lie in a tier of the node: h/ there, if they are all there (H2). */
static enum ckpt_status run_publish(struct jobs_work *w, struct job_attempt *a,
                                    struct ckpt_err *err)
{
    struct record_commit commit;
    bool held;
    enum ckpt_status st = publish(w->home, a->job, &a->name, a->world, &commit, err);
    if (st != CKPT_OK || w->local == w->home)
        return st;
    return publish_held(w->local, a->job, &commit, &held, err);
}

/* CKPT_BUSY: nothing is decided. */
static enum ckpt_status look(struct store *home, const struct job_attempt *a, struct ckpt_err *err)
{
    enum publish_state state;
    struct record_abort abort;
    enum ckpt_status st = publish_look(home, a->job, &a->name, &state, &abort, err);
    if (st == CKPT_OK && state == PUBLISH_UNDECIDED)
        st = CKPT_BUSY;
    if (st == CKPT_OK && state == PUBLISH_ABORTED)
        st = err_set(err, CKPT_ABORTED, "the save was given up: %s (rank %u)",
                     status_sentence(abort.status), abort.rank);
    return st;
}

/* A part that is missing may be one that will never come: then its node has given up. */
static enum ckpt_status run_missing(struct store *home, struct job_attempt *a, struct ckpt_err *err)
{
    enum ckpt_status st = publish_missing(home, a->job, &a->name, a->world, a->from, &a->rank, err);
    if (st == CKPT_OK && a->rank < a->world)
        st = look(home, a, err);
    return st == CKPT_BUSY ? CKPT_OK : st;
}

static enum ckpt_status run_attempt(struct jobs_work *w, struct job_attempt *a,
                                    struct ckpt_err *err)
{
    struct store *home = w->home;
    switch (a->what) {
    case COMMITTER_PUBLISH:
        return run_publish(w, a, err);
    case COMMITTER_ABORT:
        return publish_abort(home, a->job, &a->name, &a->abort, err);
    case COMMITTER_MISSING:
        return run_missing(home, a, err);
    case COMMITTER_LOOK:
        return look(home, a, err);
    case COMMITTER_IDLE:
        break;
    }
    return CKPT_BUG;
}

static enum ckpt_status run_report(struct store *home, const struct job_report *r,
                                   struct ckpt_err *err)
{
    if (r->kind == RECORD_BAD)
        return launch_put_bad(home, r->job, &r->bad, err);
    return launch_put_step(home, r->job, r->kind, &r->step, err);
}

/* -- running ------------------------------------------------------------------------- */

static enum ckpt_status run_once(struct job *j, struct jobs_work *w)
{
    switch (j->kind) {
    case JOB_SEAL:
        return run_seal(&j->seal, w->slot_bytes, &j->err);
    case JOB_BEGIN:
        return run_begin(w, &j->part, &j->err);
    case JOB_DIGEST:
        return run_digest(w, &j->part);
    case JOB_PACK:
        return run_pack(w, &j->part, &j->err);
    case JOB_FINISH:
        return run_finish(w, &j->part, &j->err);
    case JOB_FAIL_PART:
        return run_fail_part(w, &j->part, &j->err);
    case JOB_ATTEMPT:
        return run_attempt(w, &j->attempt, &j->err);
    case JOB_LAUNCH:
        return launch_job_run(w, &j->launch, &j->err);
    case JOB_PLAN:
        return plan_job_run(w, &j->plan, &j->err);
    case JOB_BATCH:
        return batch_job_run(w, &j->batch, &j->err);
    case JOB_REPORT:
        return run_report(w->home, &j->report, &j->err);
    case JOB_LIST:
        return list_job_run(w, &j->list, &j->err);
    case JOB_DRAIN:
        return drain_job_run(w, &j->drain, &j->err);
    case JOB_ADOPT:
        return adopt_job_run(w, &j->tier, &j->err);
    case JOB_SPREAD:
        return spread_job_run(w, &j->tier, &j->err);
    case JOB_PRUNE:
        return prune_job_run(w, &j->prune, &j->err);
    }
    return CKPT_BUG;
}

static void run(struct crew_job *base, void *work)
{
    struct job *j = (struct job *)base;
    int64_t begun = jobs_now_ns();
    j->status = run_once(j, work);
    bool again = j->kind == JOB_PACK || (j->kind == JOB_FINISH && j->part.settled);
    if (j->status == CKPT_IO && again) { /* once more, to a new file, from memory */
        j->err = (struct ckpt_err){ 0 };
        j->status = run_once(j, work);
    }
    j->took_ns = jobs_now_ns() - begun;
    j->err.status = j->status;
}

struct job *job_new(enum job_kind kind)
{
    struct job *j = calloc(1, sizeof(*j));
    if (!j)
        return NULL;
    j->base.run = run;
    j->kind = kind;
    j->client = UINT32_MAX;
    /* Its rank stands still until then, and needs nothing of the packs that wait. */
    j->base.ahead = kind == JOB_SEAL;
    if (kind == JOB_LIST)
        j->list.fd = -1;
    if (kind == JOB_SEAL) {
        j->seal.decl_fd = -1;
        j->seal.arena.fd = -1;
    }
    return j;
}

void job_free(struct job *j)
{
    if (!j)
        return;
    if (j->kind == JOB_DRAIN) {
        free(j->drain.busy);
        free(j->drain.found);
        free(j->drain.part.packs);
    }
    if (j->kind == JOB_PRUNE) {
        free(j->prune.policy);
        prune_plan_fini(&j->prune.plan);
        for (uint32_t i = 0; i < TIERS_MAX; i++) {
            free(j->prune.copies[i].policy);
            prune_plan_fini(&j->prune.copies[i].plan);
        }
    }
    if (j->kind == JOB_ADOPT)
        roster_fini(&j->tier.held);
    if (j->kind == JOB_LAUNCH)
        free(j->launch.ranks);
    if (j->kind == JOB_PLAN) {
        free((void *)(uintptr_t)j->plan.decls);
        free(j->plan.clients);
        free(j->plan.ranks);
        for (size_t i = 0; j->plan.parts && i < j->plan.count; i++) {
            jobs_part_drop(&j->plan.parts[i].given);
            decl_fini(&j->plan.parts[i].decl);
        }
        free(j->plan.parts);
        for (size_t i = 0; j->plan.reports && i < j->plan.count; i++)
            buf_fini(&j->plan.reports[i]);
        free(j->plan.reports);
    }
    if (j->kind == JOB_LIST) {
        select_fini(&j->list.select);
        if (j->list.fd >= 0)
            close(j->list.fd);
    }
    if (j->kind == JOB_BATCH) {
        for (uint32_t i = 0; j->batch.memory && i < j->batch.use_count; i++)
            if (j->batch.memory[i] && j->batch.slots && j->batch.slots[i] == UINT32_MAX)
                munmap(j->batch.memory[i], j->batch.slot_bytes);
        free(j->batch.slots);
        free(j->batch.clients);
        free((void *)j->batch.memory);
    }
    free(j);
}
