/* Jobs of the model: each has its effect at once; it may be slow, fail before or behind it. */
#include <stdio.h>

#include "sim/model.h"
#include "sim/sim_wraps.h"

uint32_t model_job_node;

static bool can_be_full(const struct job *j)
{
    return j->kind == JOB_PACK || j->kind == JOB_FINISH || j->kind == JOB_FAIL_PART;
}

static enum ckpt_status trouble(struct job *j)
{
    static const enum ckpt_status some[] = { CKPT_IO, CKPT_UNREACHABLE, CKPT_TIMEOUT,
                                             CKPT_NO_MEMORY, CKPT_CORRUPT };
    bool reads = j->kind == JOB_BATCH || j->kind == JOB_PLAN;
    return err_set(&j->err, some[sim_rand(reads ? 5 : 4)], "trouble in the simulated store");
}

/* Ranks may be told that a save failed which is committed all the same, when the store did
 * a manifest but said that it could not, or could not be told of an abort. */
static void unsure(const struct job *j)
{
    if (j->kind == JOB_FINISH) {
        struct sim_attempt *a = sim_attempt_get(&j->part.name, j->part.world);
        a->unsure[j->part.rank] |= a->manifests[j->part.rank].there; /* by a dead worker, maybe */
    }
    if (j->kind != JOB_ATTEMPT || j->attempt.what != COMMITTER_ABORT)
        return;
    struct sim_attempt *a = sim_attempt_get(&j->attempt.name, j->attempt.world);
    for (uint32_t r = 0; r < a->world; r++)
        a->unsure[r] = true;
}

static enum ckpt_status run_once(struct job *j)
{
    if (j->kind == JOB_DIGEST) /* no store is asked */
        return model_run(j);
    bool rare = j->kind == JOB_LAUNCH && !sim_home_waits; /* each ends a launch */
    uint32_t error = rare ? sim_faults.store_error / 8 : sim_faults.store_error;
    if (sim_chance(error)) {
        sim_saw(SEEN_store_error);
        unsure(j);
        return trouble(j);
    }
    if (can_be_full(j) && sim_chance(sim_faults.store_full)) {
        sim_saw(SEEN_store_full);
        unsure(j);
        return err_set(&j->err, CKPT_FULL, "the simulated store is full");
    }
    enum ckpt_status st = model_run(j);
    if (st != CKPT_OK || j->kind == JOB_SEAL || j->kind == JOB_PLAN || !sim_chance(error))
        return st;
    sim_saw(SEEN_store_error_after);
    unsure(j);
    return trouble(j);
}

static void trace(const struct sim_job *s)
{
    static const char *const kinds[] = { "",       "seal",   "begin",     "digest",
                                         "pack",   "finish", "fail part", "attempt",
                                         "launch", "plan",   "batch",     "report",
                                         "list",   "drain",  "adopt",     "spread" };
    static const char *const whats[] = { "", "publish", "abort", "missing", "look" };
    const struct job *j = s->j;
    if (j->kind == JOB_ATTEMPT)
        sim_note("node %u: job %llu %s step %llu~%llu: %s", s->crew->node,
                 (unsigned long long)s->number, whats[j->attempt.what],
                 (unsigned long long)j->attempt.name.step,
                 (unsigned long long)j->attempt.name.epoch, status_name(j->status));
    else if (j->kind == JOB_DRAIN)
        sim_note("node %u: job %llu %s step %llu rank %u: %s", s->crew->node,
                 (unsigned long long)s->number, drainer_job_name(j->drain.what),
                 (unsigned long long)j->drain.name.step, j->drain.rank, status_name(j->status));
    else
        sim_note("node %u: job %llu %s op %llu: %s", s->crew->node, (unsigned long long)s->number,
                 kinds[j->kind], (unsigned long long)j->op, status_name(j->status));
}

void sim_job_run(struct sim_job *s)
{
    struct job *j = s->j;
    model_job_node = s->crew->node;
    j->status = run_once(j);
    if (j->status == CKPT_IO && can_be_full(j) && j->kind != JOB_FAIL_PART)
        j->status = run_once(j); /* as jobs.c does */
    bool away = j->status == CKPT_UNREACHABLE || j->status == CKPT_TIMEOUT;
    if (j->kind == JOB_FINISH || j->kind == JOB_PACK)
        j->part.away = away;
    if (j->kind == JOB_LAUNCH)
        j->launch.away = jobs_out_of_reach(j->status) && sim_home_waits;
    j->err.status = j->status;
    trace(s);
    sim_job_ran(s);
}

void sim_job_kill(struct sim_job *s)
{
    job_free(s->j);
}

void sim_crew_equip(struct crew *c, const struct crew_options *options)
{
    (void)c;
    (void)options; /* its jobs need nothing */
}

/* ---- what a rank declares: so many slots of one word each ---- */

void sim_image_plan(uint32_t first_rank, uint32_t world)
{
    for (uint32_t r = 0; r < world; r++)
        sim_ranks[first_rank + r].image_slots = (uint32_t)sim_rand(SIM_PARTS + 1);
}

uint64_t sim_image_decl_bytes(const struct sim_rank *r)
{
    (void)r;
    return 64;
}

void sim_image_decl(const struct sim_rank *r, void *to, size_t len)
{
    uint32_t rank = (uint32_t)(r - sim_ranks);
    CHECK(len >= sizeof(rank));
    memcpy(to, &rank, sizeof(rank));
}

void sim_image_fill(const struct sim_rank *r, uint64_t *slot, const struct ckpt_name *name,
                    uint32_t part)
{
    slot[0] = model_word_saved(name, r->rank, part);
}

void sim_image_witness(const struct sim_rank *r, const struct ckpt_name *name,
                       struct wire_full *full)
{
    (void)r;
    (void)name;
    (void)full; /* the store decides which attempts differ */
}

uint32_t sim_image_check(const struct sim_rank *r, const uint64_t *slot,
                         const struct ckpt_name *name, const struct wire_frags *w,
                         const uint8_t *tail, size_t len)
{
    struct wire_frag f;
    SIM_CHECK(w->count == 1 && len >= sizeof(f), "rank %u: fragments make no sense", r->rank);
    memcpy(&f, tail, sizeof(f));
    return slot[0] == model_word_loaded(name, f.tensor) ? 8 : UINT32_MAX;
}

enum ckpt_status __wrap_decl_decode(const void *bytes, size_t len, uint64_t slot_bytes,
                                    struct decl *ret, struct ckpt_err *err)
{
    uint32_t rank;
    (void)len;
    (void)err;
    memcpy(&rank, bytes, sizeof(rank));
    const struct sim_rank *r = &sim_ranks[rank];
    *ret = (struct decl){ .slot_bytes = slot_bytes,
                          .slot_count = r->image_slots,
                          .chunk_count = r->image_slots,
                          .raw_bytes = r->image_slots * slot_bytes,
                          .finished = true };
    return CKPT_OK;
}

/* An empty one, which the worker keeps in static memory: it outlives him. */
enum ckpt_status __wrap_decl_finish(struct decl *d, uint64_t slot_bytes, struct ckpt_err *err)
{
    struct sim_node *n = sim_current;
    sim_current = NULL;
    (void)slot_bytes; /* the simulated slots are too small for it */
    enum ckpt_status st = __real_decl_finish(d, CKPT_SLOT_BYTES, err);
    sim_current = n;
    return st;
}

/* ---- stores: only the jobs have to do with them ---- */

void sim_store_config(uint32_t node, struct config *ret)
{
    (void)node;
    *ret = (struct config){ .store = "sim",
                            .log_level = LOG_LEVEL_INFO,
                            .crew = 2 + (unsigned)sim_rand(3),
                            .slot_bytes = MODEL_SLOT_BYTES,
                            .stop_s = 90,
                            .remotes = { "tier" },
                            .remote_count = sim_remote,
                            .remote_streams = 1 + (unsigned)sim_rand(3) };
}

static struct store nothing; /* whose limits are set */

enum ckpt_status __wrap_store_open(const char *url, const struct store_options *options,
                                   struct store **ret, struct ckpt_err *err)
{
    (void)url;
    (void)options;
    (void)err;
    *ret = &nothing;
    return CKPT_OK;
}

void __wrap_store_close(struct store *s)
{
    (void)s;
}

bool __wrap_store_url_shared(const char *url)
{
    (void)url;
    return sim_node_count > 1;
}

void __wrap_store_to_text(const struct store *s, char *buf, size_t cap)
{
    (void)s;
    snprintf(buf, cap, "simulated");
}

enum ckpt_status __wrap_repo_probe(struct store *s, struct ckpt_err *err)
{
    (void)s;
    (void)err;
    return CKPT_OK;
}

enum ckpt_status __wrap_repo_open(struct store *s, bool create, struct record_repo *ret,
                                  struct ckpt_err *err)
{
    (void)s;
    (void)create;
    (void)ret;
    (void)err;
    return CKPT_OK;
}
