/* The tier beyond the store, as far as the drainer's jobs tell, and its laws: nothing that
 * lies there is put again; `.h` only when all packs of the rank are there; held only when all
 * ranks' parts are, and only what is committed and planned.  What a job does here is what
 * storage/repo/drain.h and adopt.h document of it. */
#include "sim/model.h"
#include "sim/sim_wraps.h"

#define NOT_PLANNED_OF 5 /* one step of so many is not for the tier */

bool sim_remote; /* of this seed: there is a tier */

bool sim_planned(const struct ckpt_name *name)
{
    return name->step % NOT_PLANNED_OF != 0;
}

static bool done_with(const struct sim_attempt *a)
{
    return a->state != PUBLISH_COMMITTED || a->held || !sim_planned(&a->name);
}

static bool has_part(const struct sim_attempt *a, uint32_t node)
{
    for (uint32_t r = 0; r < a->world; r++)
        if (a->part_node[r] == node)
            return true;
    return false;
}

uint32_t sim_not_held(void)
{
    uint32_t n = 0;
    for (uint32_t i = 0; sim_remote && i < sim_attempt_count; i++)
        n += !done_with(&sim_attempts[i]);
    return n;
}

static enum ckpt_status run_scan(struct job_drain *j, uint32_t node)
{
    j->found = __real_calloc(JOB_DRAIN_FOUND, sizeof(*j->found));
    CHECK(j->found);
    SIM_CHECK(j->passed, "a scan that will remember nothing");
    for (uint32_t i = sim_attempt_count; i-- > 0;) {
        const struct sim_attempt *a = &sim_attempts[i];
        if (done_with(a) || !has_part(a, node))
            continue;
        if (j->found_count == JOB_DRAIN_FOUND) {
            j->more = true;
            break;
        }
        struct job_found *f = &j->found[j->found_count++];
        snprintf(f->job, sizeof(f->job), "%s", sim_job_name(0));
        f->name = a->name;
    }
    return CKPT_OK;
}

static enum ckpt_status run_open(struct job_drain *j, const struct sim_attempt *a)
{
    if (a->state != PUBLISH_COMMITTED)
        return CKPT_ABORTED;
    if (a->held)
        return CKPT_EXISTS;
    if (!sim_planned(&a->name)) {
        sim_saw(SEEN_not_planned);
        return CKPT_NOT_PLANNED;
    }
    j->world = a->world;
    j->bytes = 8;
    return CKPT_OK;
}

static enum ckpt_status run_part(struct job_drain *j, const struct sim_attempt *a, uint32_t node)
{
    struct drain_part p = { .rank = j->from };
    while (p.rank < a->world && (a->part_node[p.rank] != node || a->far[p.rank].account))
        p.rank++;
    if (p.rank < a->world) {
        const struct sim_manifest *m = &a->manifests[p.rank];
        p.packs = __real_calloc(m->parts + 1, sizeof(*p.packs));
        CHECK(p.packs);
        p.total = m->parts;
        for (uint32_t i = 0; i < m->parts; i++)
            if (!a->far[p.rank].packs[i])
                p.packs[p.count++] = (struct manifest_pack){ .slot = i, .id = m->ids[i] };
        if (p.count < p.total)
            sim_saw(SEEN_drain_goes_on);
    }
    j->part = p;
    return CKPT_OK;
}

static enum ckpt_status run_pack(struct job_drain *j, struct sim_attempt *a)
{
    const struct sim_manifest *m = &a->manifests[j->rank];
    SIM_CHECK(j->rank < a->world && j->pack.slot < m->parts &&
                  digest_equal(&j->pack.id, &m->ids[j->pack.slot]),
              "step %llu: a pack of rank %u goes on that its manifest does not name",
              (unsigned long long)a->name.step, j->rank);
    SIM_CHECK(!a->far[j->rank].packs[j->pack.slot],
              "step %llu: pack %u of rank %u is put again, which lies there whole",
              (unsigned long long)a->name.step, j->pack.slot, j->rank);
    a->far[j->rank].packs[j->pack.slot] = true;
    j->bytes = 8;
    return CKPT_OK;
}

static enum ckpt_status run_account(struct job_drain *j, struct sim_attempt *a)
{
    for (uint32_t i = 0; i < a->manifests[j->rank].parts; i++)
        SIM_CHECK(a->far[j->rank].packs[i], "step %llu: rank %u is accounted for without pack %u",
                  (unsigned long long)a->name.step, j->rank, i);
    a->far[j->rank].account = true;
    return CKPT_OK;
}

static enum ckpt_status run_held(struct job_drain *j, struct sim_attempt *a, uint32_t node)
{
    uint32_t turn = j->wait.looks++ % a->world;
    j->wait.ours = a->part_node[0] == node;
    if (a->held)
        return CKPT_OK;
    if (!j->wait.ours && (turn == 0 || a->part_node[turn] != node)) {
        sim_saw(SEEN_drain_waits);
        return CKPT_BUSY;
    }
    for (uint32_t r = 0; r < a->world; r++) {
        if (!a->far[r].account) {
            sim_saw(SEEN_drain_waits);
            return CKPT_BUSY;
        }
    }
    SIM_CHECK(a->state == PUBLISH_COMMITTED && sim_planned(&a->name),
              "step %llu is held, which is not to be", (unsigned long long)a->name.step);
    a->held = true;
    sim_saw(SEEN_held);
    return CKPT_OK;
}

enum ckpt_status model_drain_run(struct job_drain *j, uint32_t node)
{
    struct sim_attempt *a = j->what == DRAINER_SCAN ? NULL : sim_attempt_find(&j->name);
    SIM_CHECK(j->what == DRAINER_SCAN || a, "a drain of a save that there is not");
    switch (j->what) {
    case DRAINER_SCAN:
        return run_scan(j, node);
    case DRAINER_OPEN:
        return run_open(j, a);
    case DRAINER_PART:
        return run_part(j, a, node);
    case DRAINER_PACK:
        return run_pack(j, a);
    case DRAINER_ACCOUNT:
        return run_account(j, a);
    case DRAINER_FINISH:
        return run_held(j, a, node);
    case DRAINER_REPAIR:
    case DRAINER_IDLE:
        break;
    }
    return CKPT_OK;
}

/* Now and then somebody else has claimed the epoch there. */
enum ckpt_status model_spread_run(const struct job_tier *j)
{
    if (!strstr(j->key.text, "/claim") || !sim_chance(30))
        return CKPT_OK;
    sim_saw(SEEN_epoch_taken);
    return CKPT_CONFLICT;
}
