/* The jobs of the drainer, and what a launch asks of tiers. */
#include "ckptd/drain_jobs.h"

#include <stdio.h>
#include <time.h>

#include "storage/repo/adopt.h"
#include "storage/repo/catalog.h"
#include "storage/repo/scrub.h"

#define STEP_NS        INT64_C(900000000000) /* a step that takes longer is tried again */
#define PACK_TRIES     3
#define PACK_PAUSE_NS  INT64_C(100000000)
#define ADOPT_PAUSE_NS INT64_C(500000000)

/* Where bytes are read from: the near places, or all, but not the tier itself. */
struct places {
    struct store *stores[TIERS_MAX];
    uint32_t which[TIERS_MAX];
    uint32_t count;
};

static void find_places(struct jobs_work *w, bool near, uint32_t but, struct places *ret)
{
    ret->count = tiers_some(&w->tiers, near, but, ret->stores, ret->which);
}

static bool is_busy(const struct job_drain *j, const char *job)
{
    for (size_t i = 0; i < j->busy_count; i++)
        if (strcmp(j->busy[i], job) == 0)
            return true;
    return false;
}

static enum ckpt_status fill(struct jobs_work *w, const struct job_drain *j, const char *job,
                             const struct places *from, struct drain *ret, struct ckpt_err *err)
{
    const struct config *c = w->tiers.setup->config;
    *ret = (struct drain){
        .job = job,
        .name = j->name,
        .home = w->home,
        .sources = from->stores,
        .source_count = from->count,
        .node = w->local == w->home && store_url_shared(c->store) ? w->node : NULL,
        .policy = &j->policy,
        .last = j->what == DRAINER_OPEN ? j->last : !is_busy(j, job),
        .fresh = j->fresh,
        .codec = j->codec,
        .passed = j->passed,
    };
    return tiers_get(&w->tiers, j->tier, &ret->to, err);
}

static enum ckpt_status scan(struct jobs_work *w, struct job_drain *j, const struct places *from,
                             struct ckpt_err *err)
{
    char **jobs = NULL;
    struct ckpt_name names[JOB_DRAIN_FOUND];
    j->found = calloc(JOB_DRAIN_FOUND, sizeof(*j->found));
    if (!j->found)
        return err_set(err, CKPT_NO_MEMORY, "no memory to look for checkpoints");
    if (j->passed)
        drain_passed_begin(j->passed, &j->policy, DRAIN_PASSED_MAX);
    enum ckpt_status st = catalog_jobs(w->home, &jobs, err);
    for (size_t i = 0; st == CKPT_OK && jobs[i]; i++) {
        struct drain d;
        size_t count = 0;
        bool more = false;
        st = fill(w, j, jobs[i], from, &d, err);
        if (st == CKPT_OK)
            st = drain_scan(&d, names, JOB_DRAIN_FOUND - j->found_count, &count, &more, err);
        for (size_t k = 0; st == CKPT_OK && k < count; k++) {
            struct job_found *f = &j->found[j->found_count++];
            snprintf(f->job, sizeof(f->job), "%s", jobs[i]);
            f->name = names[k];
        }
        j->more |= more;
    }
    if (jobs)
        catalog_jobs_free(jobs);
    if (j->passed)
        drain_passed_end(j->passed, st == CKPT_OK && !j->more);
    return st;
}

static enum ckpt_status step(struct jobs_work *w, struct job_drain *j, const struct places *from,
                             struct ckpt_err *err)
{
    struct drain d;
    struct record_commit commit;
    enum ckpt_status st = fill(w, j, j->job, from, &d, err);
    if (st != CKPT_OK)
        return st;
    switch (j->what) {
    case DRAINER_OPEN:
        st = drain_open(&d, &commit, err);
        if (st == CKPT_OK) {
            j->world = commit.world;
            j->bytes = commit.raw_bytes;
        }
        return st;
    case DRAINER_PART:
        return drain_part(&d, j->world, j->from, &j->part, err);
    case DRAINER_PACK:
        return drain_pack(&d, w->drain, j->rank, &j->pack, &j->bytes, err);
    case DRAINER_ACCOUNT:
        return drain_account(&d, j->rank, j->stored_bytes, err);
    case DRAINER_FINISH:
        return drain_finish(&d, &j->wait, err);
    case DRAINER_IDLE:
    case DRAINER_SCAN:
    case DRAINER_REPAIR:
        break;
    }
    return CKPT_BUG;
}

/* False, and no pause, if ckptd is to stop. */
static bool pause_ns(const struct jobs_work *w, int64_t ns)
{
    if (w->cancel && atomic_load(w->cancel))
        return false;
    nanosleep(&(struct timespec){ .tv_nsec = ns }, NULL);
    return true;
}

/* A store that may have come to itself in a moment, for one of many packs. */
static bool try_again(const struct jobs_work *w, const struct job_drain *j, enum ckpt_status st)
{
    bool passing = st == CKPT_IO || st == CKPT_UNREACHABLE || st == CKPT_BUSY;
    return j->what == DRAINER_PACK && passing && pause_ns(w, PACK_PAUSE_NS);
}

static enum ckpt_status step_from(struct jobs_work *w, struct job_drain *j, bool near,
                                  struct ckpt_err *err)
{
    struct places from;
    enum ckpt_status st = CKPT_OK;
    /* Records of the home are read from it also when packs are brought there. */
    find_places(w, near, j->tier == w->tiers.setup->home ? UINT32_MAX : j->tier, &from);
    for (int tries = 1;; tries++) {
        struct ckpt_err why = { 0 };
        st = j->what == DRAINER_SCAN ? scan(w, j, &from, &why) : step(w, j, &from, &why);
        if (tries < PACK_TRIES && try_again(w, j, st))
            continue;
        return st == CKPT_OK ? st : err_set(err, st, "%s", err_text(&why));
    }
}

/* -- repairs ----------------------------------------------------------------------- */

/* All of the home's objects by their chain of digests, from one store that holds them. */
static enum ckpt_status repair_home(struct jobs_work *w, struct job_drain *j,
                                    const struct places *from, struct ckpt_err *err)
{
    struct scrub_report report = { 0 };
    struct ckpt_err why = { 0 };
    enum ckpt_status st = CKPT_NOT_FOUND;
    for (uint32_t i = 0; i < from->count && st != CKPT_OK; i++) {
        why = (struct ckpt_err){ 0 };
        st = scrub_repair(w->home, from->stores[i], j->job, &j->name, NULL, &report, &why);
        j->bytes += report.repaired;
    }
    return st == CKPT_OK ? st : err_set(err, st, "%s", err_text(&why));
}

/* Only what lay here whole: a node that never had it keeps restoring from afar. */
static enum ckpt_status repair(struct jobs_work *w, struct job_drain *j, struct ckpt_err *err)
{
    struct places from;
    struct drain d;
    struct store_stat stat;
    struct ckpt_err why = { 0 };
    enum ckpt_status st = store_stat(w->local, key_held(j->job, &j->name).text, &stat, &why);
    if (st != CKPT_OK)
        return st == CKPT_NOT_FOUND ? CKPT_OK : err_set(err, st, "%s", err_text(&why));
    find_places(w, false, 0, &from);
    if (from.count == 0)
        return err_set(err, CKPT_UNREACHABLE, "no other store can be reached");
    if (w->local == w->home)
        return repair_home(w, j, &from, err);
    st = fill(w, j, j->job, &from, &d, err);
    d.codec.codec = CODEC_STORED;
    return st == CKPT_OK ? drain_mend(&d, w->drain, &j->bytes, err) : st;
}

/* -- running ----------------------------------------------------------------------- */

enum ckpt_status drain_job_run(struct jobs_work *w, struct job_drain *j, struct ckpt_err *err)
{
    struct ckpt_err why = { 0 };
    struct store *to;
    enum ckpt_status st = tiers_get(&w->tiers, j->tier, &to, err);
    if (st != CKPT_OK)
        return st;
    tiers_limit(&w->tiers, jobs_now_ns() + STEP_NS, w->cancel);
    if (j->what == DRAINER_REPAIR)
        return repair(w, j, err);
    st = step_from(w, j, true, &why);
    bool reads = j->what != DRAINER_SCAN && j->what != DRAINER_OPEN;
    if (reads && (st == CKPT_CORRUPT || st == CKPT_IO)) { /* another tier may have it right */
        tiers_limit(&w->tiers, jobs_now_ns() + STEP_NS, w->cancel);
        return step_from(w, j, false, err);
    }
    return st == CKPT_OK ? st : err_set(err, st, "%s", err_text(&why));
}

static enum ckpt_status adopt(struct jobs_work *w, struct job_tier *j, struct ckpt_err *err)
{
    struct store *tier;
    struct ckpt_err why = { 0 };
    enum ckpt_status st = tiers_get(&w->tiers, j->tier, &tier, err);
    if (st != CKPT_OK)
        return st;
    tiers_limit(&w->tiers, jobs_now_ns() + STEP_NS, w->cancel);
    st = adopt_job(tier, w->home, j->job, &j->held, &why);
    if (st == CKPT_DENIED) /* a home that cannot be written can still be restored beside */
        return adopt_held(tier, j->job, &j->held, err);
    return st == CKPT_OK ? st : err_set(err, st, "%s", err_text(&why));
}

/* A launch whose home holds no checkpoint may not begin without the tier's answer: one that fails
 * is given as long as one that says nothing.  So is a home that fails, and may come back. */
static bool adopt_again(struct jobs_work *w, const struct job_tier *j, enum ckpt_status st)
{
    struct roster held = { 0 };
    bool absent = st == CKPT_NOT_FOUND; /* a directory that is not mounted yet */
    if (!(jobs_out_of_reach(st) || absent) || jobs_now_ns() + ADOPT_PAUSE_NS >= j->until_ns)
        return false;
    enum ckpt_status home = roster_helds(w->home, j->job, &held, NULL);
    bool nothing = home == CKPT_OK && held.count == 0;
    bool away = jobs_out_of_reach(home) && !jobs_home_is_own(w);
    roster_fini(&held);
    return (nothing || away) && pause_ns(w, ADOPT_PAUSE_NS);
}

enum ckpt_status adopt_job_run(struct jobs_work *w, struct job_tier *j, struct ckpt_err *err)
{
    for (;;) {
        struct ckpt_err why = { 0 };
        enum ckpt_status st = adopt(w, j, &why);
        if (!adopt_again(w, j, st))
            return st == CKPT_OK ? st : err_set(err, st, "%s", err_text(&why));
    }
}

enum ckpt_status spread_job_run(struct jobs_work *w, struct job_tier *j, struct ckpt_err *err)
{
    struct store *tier;
    bool there;
    enum ckpt_status st = tiers_get(&w->tiers, j->tier, &tier, err);
    if (st != CKPT_OK)
        return st;
    tiers_limit(&w->tiers, jobs_now_ns() + STEP_NS, w->cancel);
    return adopt_record(w->home, tier, &j->key, &there, err);
}
