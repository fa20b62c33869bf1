/* What is true: decided in the home, lying in the places.  It is taken down from the calls
 * as they arrive there, by nothing but the documented keys and records, and held against
 * these laws:
 *
 *   at c/ in the home     a part of every rank lies there, none failed (S4); each was begun
 *                         while its launch was the newest (I2); all are on one branch (I6);
 *                         the parent is a save of the same epoch, or what the epoch resumes
 *                         from: one lineage (I3); no two replicas differ (G4); COMMIT and
 *                         ABORT never replace each other (S5); gc gives up nothing of the
 *                         launch that runs (D4)
 *   at a manifest         its packs lie where its node saves, synced (H2, S1)
 *   at h/ in a place      every pack of every rank lies there (H2), c/ is a commit and
 *                         not GONE (D3, D6)
 *   at `resolved`         no newer epoch has resolved (I2); not in front of, not behind
 *                         what was newest by I3 between the start of the resolve and now
 *   at BEGIN              its epoch has resolved, and none newer had before it started (I2)
 *   at HELLO_OK           all ranks of an epoch are told the same point (I4), the one that
 *                         `resolved` in the home says, and it is not GONE (D2)
 *   at a remove           of c/, h/ or data: it is given up or GONE (D3, D4)
 *   at the end            what was committed and not GONE is there: record, parts, packs,
 *                         but for disks that were lost */
#include <stdio.h>

#include "formats/manifest.h"
#include "sim/cluster.h"

#define JOBS_MAX   2
#define EPOCHS_MAX 96

struct sim_attempt sim_attempts[SIM_ATTEMPTS];
uint32_t sim_attempt_count;

static struct epoch {
    char token[RECORD_TOKEN_MAX + 1];
    bool opened; /* rank 0 was told of it: until then the launch is still being started */
    bool resolved, superseded, has_point, forced;
    struct ckpt_name point;
    uint32_t bad;
    bool restored;
} epochs[JOBS_MAX][EPOCHS_MAX];
static struct extra {
    enum life life;
    uint64_t life_n;
    bool planned;   /* for tiers */
    bool elsewhere; /* a resolver committed it, and parts lie on nodes that need not know */
    bool far_held, home_held;
    bool far_dropped, home_dropped; /* GONE is said of the copy there (D5) */
    bool doubted;                   /* it was said of any copy that it goes */
    bool near_lost[SIM_WORLD];      /* the disk that its packs were on */
} extras[SIM_ATTEMPTS];
static struct window { /* of a job, by its place in sim_jobs */
    uint64_t epoch;    /* BEGIN: the newest at its start */
    bool has_floor, known;
    bool may_pass;          /* it could be passed over then: not all of it was there */
    struct ckpt_name floor; /* RESOLVE: the newest then */
} windows[SIM_JOBS];

void sim_store_reset(void)
{
    places_reset();
    jobs_reset();
    sim_attempt_count = 0;
    memset(epochs, 0, sizeof(epochs));
    memset(extras, 0, sizeof(extras));
}

static uint32_t job_index(const char *key)
{
    return strncmp(key, sim_job_name(0), strlen(sim_job_name(0))) == 0 ? 0 : 1;
}

struct sim_attempt *sim_attempt_find(const struct ckpt_name *name)
{
    for (uint32_t i = sim_attempt_count; i-- > 0;)
        if (name_equal(&sim_attempts[i].name, name))
            return &sim_attempts[i];
    return NULL;
}

struct sim_attempt *sim_attempt_get(const struct ckpt_name *name, uint32_t world)
{
    struct sim_attempt *a = sim_attempt_find(name);
    if (a && a->world == 0)
        a->world = world;
    if (a)
        return a;
    CHECK(sim_attempt_count < SIM_ATTEMPTS && world <= SIM_WORLD);
    a = &sim_attempts[sim_attempt_count++];
    *a = (struct sim_attempt){ .name = *name, .world = world };
    return a;
}

static struct extra *extra_of(const struct sim_attempt *a)
{
    return &extras[a - sim_attempts];
}

enum life truth_life(const struct sim_attempt *a)
{
    return extra_of(a)->life;
}

static const char *job_of(const struct sim_attempt *a)
{
    return sim_job_name(a->job);
}

/* ---- what is newest (I3), told from the records alone ---- */

static uint64_t newest_epoch(uint32_t job)
{
    for (uint64_t e = EPOCHS_MAX; e-- > 1;)
        if (epochs[job][e].resolved && !epochs[job][e].superseded)
            return e;
    return 0;
}

/* Of an epoch: its highest live commit.  *ret_any: it has any, deleted ones count. */
static const struct sim_attempt *top_of(uint32_t job, uint64_t epoch, bool *ret_any)
{
    const struct sim_attempt *top = NULL;
    *ret_any = false;
    for (uint32_t i = 0; i < sim_attempt_count; i++) {
        const struct sim_attempt *a = &sim_attempts[i];
        if (a->job != job || a->name.epoch != epoch || a->state != PUBLISH_COMMITTED ||
            extra_of(a)->life == LIFE_GONE)
            continue;
        *ret_any = true;
        if (extra_of(a)->life == LIFE_LIVE && (!top || a->name.step > top->name.step))
            top = a;
    }
    return top;
}

/* False where the rules leave it open, or need what is not taken down here. */
static bool newest(uint32_t job, uint64_t below, bool *ret_has, struct ckpt_name *ret)
{
    for (uint64_t e = below; e-- > 1;) {
        const struct epoch *at = &epochs[job][e];
        bool any;
        const struct sim_attempt *top = top_of(job, e, &any);
        if (any && !(at->resolved && !at->superseded))
            return false;
        if (!at->resolved || at->superseded)
            continue;
        if (any && !top)
            return false; /* all are deleted */
        if (!top && !at->forced)
            continue;
        *ret_has = top || at->has_point;
        *ret = top ? top->name : at->point;
        return true;
    }
    *ret_has = false;
    return true;
}

bool sim_store_newest(uint32_t job, struct ckpt_name *ret)
{
    bool has = false;
    return newest(job, EPOCHS_MAX, &has, ret) && has;
}

/* A checkpoint that may be passed over: reported bad, resumed from too often in vain (it, or
 * another of its step), or not all there. */
static bool may_be_skipped(uint32_t job, const struct ckpt_name *name)
{
    const struct sim_attempt *a = sim_attempt_find(name);
    uint32_t vain = 0;
    for (uint64_t e = 1; e < EPOCHS_MAX; e++) {
        const struct epoch *at = &epochs[job][e];
        if (!at->resolved || !at->has_point || at->point.step != name->step)
            continue;
        vain += at->restored;
        if (name_equal(&at->point, name) && at->bad > 0)
            vain += 3;
    }
    if (!a || vain >= 3 || extra_of(a)->life != LIFE_LIVE)
        return true;
    struct key held = key_held(job_of(a), name);
    return !place_find(PLACE_HOME, held.text);
}

static int order(const struct ckpt_name *a, const struct ckpt_name *b)
{
    if (a->epoch != b->epoch)
        return a->epoch < b->epoch ? -1 : 1;
    return a->step < b->step ? -1 : a->step > b->step;
}

/* ---- packs ---- */

static bool is_dropped(const struct extra *x, uint32_t place)
{
    return (place == PLACE_HOME && x->home_dropped) || (place == PLACE_FAR && x->far_dropped);
}

static uint32_t save_place(uint32_t node)
{
    return sim_near ? PLACE_NEAR + node : PLACE_HOME;
}

static const struct place_object *pack_in(uint32_t place, const struct sim_attempt *a,
                                          uint32_t rank, uint32_t part)
{
    struct key key = key_pack(job_of(a), &a->name, rank, part, &a->manifests[rank].ids[part]);
    return place_find(place, key.text);
}

/* All parts of all ranks are there, and none failed: nothing else may ever be committed. */
void sim_store_check(const struct sim_attempt *a)
{
    for (uint32_t r = 0; r < a->world; r++) {
        const struct sim_manifest *m = &a->manifests[r];
        unsigned long long step = a->name.step;
        SIM_CHECK(m->there && !m->failed, "step %llu is committed without rank %u", step, r);
        SIM_CHECK(a->begun[r], "step %llu is committed, but rank %u began it in an old epoch", step,
                  r);
        SIM_CHECK(a->branch[r] == a->branch[0],
                  "step %llu is committed of ranks 0 and %u, which are on branches %llu and %llu",
                  step, r, (unsigned long long)a->branch[0], (unsigned long long)a->branch[r]);
        if (extra_of(a)->near_lost[r] || extra_of(a)->life == LIFE_GONE)
            continue;
        uint32_t place = save_place(a->part_node[r]);
        if (is_dropped(extra_of(a), place))
            place = PLACE_FAR;
        for (uint32_t i = 0; i < m->parts; i++)
            SIM_CHECK(pack_in(place, a, r, i),
                      "step %llu is committed, but part %u of rank %u is not there", step, i, r);
    }
}

/* ---- records ---- */

static void see_commit(struct sim_attempt *a, const struct place_object *o, uint32_t node)
{
    struct record_commit c;
    const struct epoch *e = &epochs[a->job][a->name.epoch];
    unsigned long long step = a->name.step;
    SIM_CHECK(record_commit_decode(o->bytes, o->len, o->key, &c, NULL) == CKPT_OK,
              "the commit of step %llu cannot be read", step);
    SIM_CHECK(a->state != PUBLISH_ABORTED, "step %llu is committed, which was given up", step);
    SIM_CHECK(!a->bad, "step %llu is committed, of replicas that differ", step);
    if (a->state == PUBLISH_COMMITTED)
        return;
    a->state = PUBLISH_COMMITTED;
    const struct sim_job *j = sim_task_arg();
    if (node < SIM_NODES && j->j->kind == JOB_LAUNCH) {
        sim_saw(SEEN_committed_by_resolver);
        for (uint32_t r = 0; r < a->world; r++)
            extra_of(a)->elsewhere |= a->part_node[r] != node;
    }
    sim_note("home: step %llu~%llu of %s is committed", step, (unsigned long long)a->name.epoch,
             job_of(a));
    sim_saw(SEEN_committed);
    if (newest_epoch(a->job) > a->name.epoch)
        sim_saw(SEEN_commit_behind);
    sim_store_check(a);
    extra_of(a)->planned = policy_wants(&sim_policy, &c, false, false);
    if (!extra_of(a)->planned)
        sim_saw(SEEN_not_planned);
    const struct sim_attempt *p = c.has_parent ? sim_attempt_find(&c.parent) : NULL;
    bool own = p && p->job == a->job && p->name.epoch == a->name.epoch;
    bool first =
        c.has_parent == e->has_point && (!c.has_parent || name_equal(&c.parent, &e->point));
    SIM_CHECK(own || (e->resolved && first),
              "step %llu~%llu does not continue what its launch resumed from: its parent is step "
              "%llu~%llu",
              step, (unsigned long long)a->name.epoch, (unsigned long long)c.parent.step,
              (unsigned long long)c.parent.epoch);
    SIM_CHECK(!own || p->state == PUBLISH_COMMITTED,
              "step %llu is committed, and its parent is not", step);
}

static void see_decided(struct sim_attempt *a, const struct place_object *o, uint32_t node)
{
    if (record_kind_of(o->bytes, o->len) == RECORD_COMMIT) {
        see_commit(a, o, node);
        return;
    }
    struct record_abort why;
    unsigned long long step = a->name.step;
    SIM_CHECK(record_abort_decode(o->bytes, o->len, o->key, &why, NULL) == CKPT_OK,
              "what is decided of step %llu cannot be read", step);
    /* Where a commit was collected, a node that was away for long may give up what it finds
     * undecided, and say so: beside GONE nothing counts (D3). */
    if (a->state == PUBLISH_COMMITTED && extra_of(a)->life == LIFE_GONE) {
        for (uint32_t r = 0; r < a->world; r++)
            a->unsure[r] = true;
        return;
    }
    SIM_CHECK(a->state != PUBLISH_COMMITTED, "step %llu is given up, which was committed", step);
    SIM_CHECK(node != SIM_NODES || a->name.epoch < newest_epoch(a->job),
              "gc gives up step %llu of epoch %llu, which runs", step,
              (unsigned long long)a->name.epoch);
    a->state = PUBLISH_ABORTED;
    sim_note("home: step %llu~%llu of %s is aborted: %s", step, (unsigned long long)a->name.epoch,
             job_of(a), status_name(why.status));
    sim_saw(SEEN_aborted);
}

static void see_manifest(const struct place_object *o, const char *job, uint32_t node)
{
    struct manifest_header h = { 0 };
    SIM_CHECK(manifest_header_decode(o->bytes, o->len, NULL, &h, NULL) == CKPT_OK,
              "a manifest cannot be read: %s", o->key);
    struct sim_attempt *a = sim_attempt_get(&h.name, h.world);
    struct sim_manifest *m = &a->manifests[h.rank];
    a->job = job_index(job);
    SIM_CHECK(h.rank < a->world && h.world == a->world && h.pack_count <= SIM_PARTS,
              "a manifest makes no sense: %s", o->key);
    if (node == SIM_NODES || m->there) { /* adopted, or by gc */
        manifest_header_fini(&h);
        return;
    }
    *m = (struct sim_manifest){ .there = true,
                                .failed = h.flags & MANIFEST_FLAG_FAILED,
                                .parts = h.pack_count,
                                .has_parent = h.has_parent,
                                .parent = h.parent };
    a->part_node[h.rank] = node;
    for (uint32_t i = 0; i < m->parts; i++) {
        m->ids[i] = h.packs[i].id;
        const struct place_object *p = pack_in(save_place(node), a, h.rank, i);
        /* (Of what was given up meanwhile the operator may have collected it, D4.) */
        SIM_CHECK((p && p->synced) || a->state == PUBLISH_ABORTED,
                  "rank %u's manifest of step %llu refers to part %u, which is not %s", h.rank,
                  (unsigned long long)h.name.step, i, p ? "synced" : "there");
    }
    uint32_t r = 0;
    while (r < a->world && a->manifests[r].there)
        r++;
    if (r == a->world)
        a->complete_at = sim.now;
    manifest_header_fini(&h);
}

/* D5: a copy is given up for good only while another store holds the checkpoint. */
static void see_copy(uint32_t place, const struct place_object *o, const struct sim_attempt *a)
{
    struct extra *x = extra_of(a);
    struct record_life l;
    unsigned long long step = a->name.step;
    SIM_CHECK(record_life_decode(o->bytes, o->len, o->key, &l, NULL) == CKPT_OK,
              "a log cannot be read: %s", o->key);
    SIM_CHECK(l.life == LIFE_GONE || !is_dropped(x, place), "step %llu came back from GONE in %s",
              step, place_name(place));
    x->doubted = true;
    if (l.life != LIFE_GONE || x->life == LIFE_GONE)
        return;
    uint32_t other = place == PLACE_HOME ? PLACE_FAR : PLACE_HOME;
    struct key held = key_held(job_of(a), &a->name);
    SIM_CHECK(place_find(other, held.text) && !is_dropped(x, other),
              "step %llu is dropped from %s, and %s does not hold it", step, place_name(place),
              place_name(other));
    *(place == PLACE_HOME ? &x->home_dropped : &x->far_dropped) = true;
}

static void see_held(uint32_t place, struct sim_attempt *a)
{
    struct extra *x = extra_of(a);
    unsigned long long step = a->name.step;
    SIM_CHECK(a->state == PUBLISH_COMMITTED, "step %llu is held in %s, and not committed", step,
              place_name(place));
    for (uint32_t r = 0; r < a->world; r++)
        for (uint32_t i = 0; i < a->manifests[r].parts && x->life != LIFE_GONE; i++)
            SIM_CHECK(pack_in(place, a, r, i),
                      "step %llu is held in %s, which does not have part %u of rank %u", step,
                      place_name(place), i, r);
    SIM_CHECK(!is_dropped(x, place), "step %llu is said to be held in %s, which has dropped it",
              step, place_name(place));
    x->far_held |= place == PLACE_FAR;
    x->home_held |= place == PLACE_HOME;
    if (place == PLACE_FAR || (sim_near && place == PLACE_HOME)) {
        a->held = true;
        sim_saw(SEEN_held);
    }
}

/* Between the start of the resolve and now: what it says was newest at some time. */
static void check_newest(uint32_t job, uint64_t epoch)
{
    const struct sim_job *s = sim_task_arg();
    const struct window *w = &windows[s - sim_jobs];
    const struct epoch *e = &epochs[job][epoch];
    struct ckpt_name top = { 0 };
    bool has = false;
    if (s->j->kind != JOB_LAUNCH || e->superseded || e->forced || !w->known ||
        !newest(job, epoch, &has, &top))
        return;
    /* (What was committed since may have moved the head to another branch, all of which is
     * still on its nodes: then it is where that branch began.) */
    bool moved = has && top.epoch != w->floor.epoch;
    if (w->has_floor && !w->may_pass && !moved && !may_be_skipped(job, &w->floor))
        SIM_CHECK(e->has_point && order(&e->point, &w->floor) >= 0,
                  "epoch %llu resumes from step %llu~%llu, behind step %llu~%llu",
                  (unsigned long long)epoch, (unsigned long long)e->point.step,
                  (unsigned long long)e->point.epoch, (unsigned long long)w->floor.step,
                  (unsigned long long)w->floor.epoch);
    SIM_CHECK(!e->has_point || (has && order(&e->point, &top) <= 0),
              "epoch %llu resumes from step %llu~%llu, which is not of the newest lineage",
              (unsigned long long)epoch, (unsigned long long)e->point.step,
              (unsigned long long)e->point.epoch);
}

/* I2: a launch that a newer one has taken over from resolves to nothing any more, also when it
 * goes back in itself. */
static void check_taken_over(uint32_t job, uint64_t epoch)
{
    const struct epoch *all = epochs[job];
    bool before = false; /* this launch had begun in a lower epoch */
    for (uint64_t i = 1; i < epoch; i++) {
        bool mine = strcmp(all[i].token, all[epoch].token) == 0;
        bool stands = all[i].resolved && !all[i].superseded;
        SIM_CHECK(!before || mine || !stands,
                  "launch %s resolves epoch %llu after launch %s took over with epoch %llu",
                  all[epoch].token, (unsigned long long)epoch, all[i].token, (unsigned long long)i);
        before |= mine && stands && all[i].opened;
    }
}

static void see_claim(const struct place_object *o, struct epoch *e)
{
    struct record_claim c;
    SIM_CHECK(record_claim_decode(o->bytes, o->len, o->key, &c, NULL) == CKPT_OK,
              "a claim cannot be read: %s", o->key);
    memcpy(e->token, c.token, sizeof(e->token));
    sim_note("home: epoch %llu is claimed by %s", (unsigned long long)c.epoch, c.token);
}

static void see_resolved(const struct place_object *o, uint32_t job, uint64_t epoch)
{
    struct record_resolved r = { 0 };
    CHECK(epoch < EPOCHS_MAX);
    SIM_CHECK(record_resolved_decode(o->bytes, o->len, o->key, &r, NULL) == CKPT_OK,
              "a decision cannot be read: %s", o->key);
    struct epoch *e = &epochs[job][epoch];
    SIM_CHECK(!e->resolved, "epoch %llu was resolved twice", (unsigned long long)epoch);
    SIM_CHECK(r.kind == RESOLVED_SUPERSEDED || newest_epoch(job) < epoch,
              "epoch %llu resolves, but epoch %llu had resolved before", (unsigned long long)epoch,
              (unsigned long long)newest_epoch(job));
    e->resolved = true;
    e->superseded = r.kind == RESOLVED_SUPERSEDED;
    e->has_point = r.kind == RESOLVED_POINT;
    e->point = r.name;
    e->forced = r.forced;
    sim_note("home: epoch %llu of %s resolves to %s %llu~%llu", (unsigned long long)epoch,
             sim_job_name(job),
             e->superseded  ? "SUPERSEDED"
             : e->has_point ? "step"
                            : "nothing",
             (unsigned long long)r.name.step, (unsigned long long)r.name.epoch);
    if (!e->superseded)
        sim_saw(e->has_point ? SEEN_resolved_point : SEEN_resolved_nothing);
    check_newest(job, epoch);
    if (!e->superseded)
        check_taken_over(job, epoch);
    else if (strstr(r.why, "went back"))
        sim_saw(SEEN_rollback_superseded);
    for (uint32_t i = 0; e->forced && i < SIM_JOBS; i++)
        windows[i].known = false; /* the head has moved back under whoever resolves now */
    record_resolved_fini(&r);
}

static void see_life(const struct place_object *o, struct sim_attempt *a, const char *last)
{
    struct record_life l;
    uint64_t n;
    if (strlen(last) != 16 || !key_number_parse(last, &n) || n < extra_of(a)->life_n)
        return;
    SIM_CHECK(record_life_decode(o->bytes, o->len, o->key, &l, NULL) == CKPT_OK,
              "a log cannot be read: %s", o->key);
    struct extra *x = extra_of(a);
    SIM_CHECK(x->life != LIFE_GONE || l.life == LIFE_GONE, "step %llu came back from GONE",
              (unsigned long long)a->name.step);
    x->life = l.life;
    x->life_n = n;
    sim_saw(l.life == LIFE_LIVE   ? SEEN_undeleted
            : l.life == LIFE_GONE ? SEEN_collected
                                  : SEEN_deleted);
    sim_note("home: step %llu~%llu of %s is %s", (unsigned long long)a->name.step,
             (unsigned long long)a->name.epoch, job_of(a),
             l.life == LIFE_LIVE   ? "LIVE"
             : l.life == LIFE_GONE ? "GONE"
                                   : "DELETED");
}

void truth_put(uint32_t place, uint32_t node, const struct place_object *o)
{
    const char *job = o->key, *kind = strchr(o->key, '/');
    struct ckpt_name name;
    uint64_t epoch;
    if (!kind)
        return; /* ckpt.repo */
    kind++;
    const char *rest = kind + 2, *last = strrchr(o->key, '/') + 1;
    bool named = strlen(rest) >= NAME_TEXT - 1 && name_parse(rest, NAME_TEXT - 1, &name);
    struct sim_attempt *a = named ? sim_attempt_find(&name) : NULL;
    bool copy = *kind == 'x' && named && strncmp(rest + NAME_TEXT - 1, ".h/", 3) == 0;
    if (*kind == 'h' && a)
        see_held(place, a);
    if (copy && a)
        see_copy(place, o, a);
    if (place != PLACE_HOME || copy)
        return;
    if (*kind == 'c' && named && !a) { /* given up before anybody had a part of it */
        a = sim_attempt_get(&name, 0);
        a->job = job_index(job);
    }
    if (*kind == 'c' && a)
        see_decided(a, o, node);
    else if (*kind == 'd' && strlen(last) > 2 && strcmp(last + strlen(last) - 2, ".m") == 0)
        see_manifest(o, job, node);
    else if (*kind == 'x' && a)
        see_life(o, a, last);
    if (*kind != 'l')
        return;
    char hex[17];
    snprintf(hex, sizeof(hex), "%.16s", rest);
    if (!key_number_parse(hex, &epoch) || epoch >= EPOCHS_MAX)
        return;
    struct epoch *e = &epochs[job_index(job)][epoch];
    if (strcmp(last, "claim") == 0)
        see_claim(o, e);
    if (strcmp(last, "resolved") == 0)
        see_resolved(o, job_index(job), epoch);
    e->bad += strncmp(last, "bad-", 4) == 0;
    e->restored |= strcmp(last, "restored") == 0;
}

/* Of a copy that is GONE all may go, but of the home's not what it is known by (D5). */
static bool goes_with_copy(uint32_t place, const struct extra *x, char kind, const char *last)
{
    struct key_data_parts parts = { 0 };
    enum key_kind what = kind == 'd' ? key_parse_data(last, &parts) : KEY_OTHER;
    if (!is_dropped(x, place))
        return false;
    return place != PLACE_HOME || kind == 'h' || what == KEY_PACK || what == KEY_RANK_HELD;
}

/* Data goes only from what is GONE or given up (D3, D4). */
void truth_removed(uint32_t place, const char *key)
{
    const char *name_at = strchr(key, '/'), *last = strrchr(key, '/') + 1;
    struct ckpt_name name;
    if (!name_at || !strchr("chd", name_at[1]))
        return;
    const char kind = name_at[1];
    name_at += kind == 'd' ? 5 : 3;
    if (strlen(name_at) < NAME_TEXT - 1 || !name_parse(name_at, NAME_TEXT - 1, &name))
        return;
    const struct sim_attempt *a = sim_attempt_find(&name);
    SIM_CHECK(!a || a->state == PUBLISH_ABORTED || extra_of(a)->life == LIFE_GONE ||
                  goes_with_copy(place, extra_of(a), kind, last),
              "%s is removed from %s, which is neither given up nor GONE", key, place_name(place));
}

void truth_disk_lost(uint32_t node)
{
    for (uint32_t i = 0; sim_near && i < sim_attempt_count; i++)
        for (uint32_t r = 0; r < sim_attempts[i].world; r++)
            extras[i].near_lost[r] |= sim_attempts[i].part_node[r] == node;
}

/* ---- jobs ---- */

void truth_job_begins(const struct sim_job *s)
{
    struct window *w = &windows[s - sim_jobs];
    const struct job *j = s->j;
    *w = (struct window){ 0 };
    if (j->kind == JOB_BEGIN)
        w->epoch = newest_epoch(job_index(j->part.job));
    if (j->kind != JOB_LAUNCH || j->launch.what != LAUNCH_RESOLVE)
        return;
    uint32_t job = job_index(j->launch.job);
    w->known = newest(job, j->launch.epoch, &w->has_floor, &w->floor);
    w->may_pass = w->known && w->has_floor && may_be_skipped(job, &w->floor);
}

static void began(const struct job_part *p, const struct window *w)
{
    /* H5: a home that is out of reach is not asked; what is saved then sorts behind. */
    SIM_CHECK(p->away || w->epoch <= p->epoch,
              "rank %u begins step %llu in epoch %llu, but epoch %llu has resolved before", p->rank,
              (unsigned long long)p->step, (unsigned long long)p->epoch,
              (unsigned long long)w->epoch);
    SIM_CHECK(epochs[job_index(p->job)][p->epoch].resolved,
              "rank %u begins step %llu in epoch %llu, which was never resolved", p->rank,
              (unsigned long long)p->step, (unsigned long long)p->epoch);
    struct sim_attempt *a = sim_attempt_get(&p->name, p->world);
    a->job = job_index(p->job);
    a->try_ = p->try_;
    a->begun[p->rank] = true;
}

void sim_store_unasked(const struct session *s, const struct session_op *op)
{
    struct sim_attempt *a = sim_attempt_get(&op->name, s->world);
    sim_saw(SEEN_unasked);
    a->job = job_index(s->job);
    a->try_ = op->try_;
    a->begun[s->rank] = true;
}

void truth_job_ended(const struct sim_job *s)
{
    const struct job *j = s->j;
    const struct window *w = &windows[s - sim_jobs];
    if (j->kind == JOB_BEGIN && j->status == CKPT_OK)
        began(&j->part, w);
    if (j->kind == JOB_BEGIN && j->status == CKPT_SUPERSEDED)
        sim_saw(SEEN_superseded);
    if (j->kind == JOB_BEGIN && j->status == CKPT_EXISTS)
        sim_saw(SEEN_exists);
    if (j->kind == JOB_FINISH && j->status != CKPT_OK) {
        struct sim_attempt *a = sim_attempt_get(&j->part.name, j->part.world);
        a->unsure[j->part.rank] |= a->manifests[j->part.rank].there;
    }
    if (j->kind != JOB_ATTEMPT)
        return;
    static const enum sim_seen seen[] = { [COMMITTER_PUBLISH] = SEEN_job_publish,
                                          [COMMITTER_ABORT] = SEEN_job_abort,
                                          [COMMITTER_MISSING] = SEEN_job_missing,
                                          [COMMITTER_LOOK] = SEEN_job_look };
    sim_saw(seen[j->attempt.what]);
    if (j->attempt.what != COMMITTER_ABORT || j->status == CKPT_OK || j->status == CKPT_EXISTS)
        return;
    struct sim_attempt *a = sim_attempt_get(&j->attempt.name, j->attempt.world);
    for (uint32_t r = 0; r < a->world; r++)
        a->unsure[r] = true;
}

/* ---- what ranks are told ---- */

void sim_store_opened(const struct sim_rank *r)
{
    const struct sim_launch *l = &sim_launches[r->launch];
    const struct ckpt_name point = { r->point.epoch, r->point.step, r->point.attempt };
    if (l->reader)
        return;
    struct epoch *e = &epochs[l->job][r->hello_epoch];
    SIM_CHECK(e->resolved && !e->superseded && e->has_point == r->has_point &&
                  (!r->has_point || name_equal(&e->point, &point)),
              "rank %u resumes in epoch %llu from another point than was resolved", r->rank,
              (unsigned long long)r->hello_epoch);
    e->opened |= r->rank == 0;
    sim_saw(SEEN_point_agreed);
    const struct sim_attempt *a = r->has_point ? sim_attempt_find(&point) : NULL;
    SIM_CHECK(!r->has_point || (a && a->state == PUBLISH_COMMITTED),
              "rank %u resumes from what was never committed", r->rank);
    SIM_CHECK(!a || newest_epoch(l->job) > r->hello_epoch || extra_of(a)->life != LIFE_GONE,
              "rank %u resumes from step %llu, which is GONE", r->rank,
              (unsigned long long)a->name.step);
}

/* H3: each of the launch's ranks finds its part where it runs. */
static bool where_it_runs(const struct sim_attempt *a, const struct sim_launch *l)
{
    bool same = a->world == l->world;
    for (uint32_t r = 0; same && r < l->world; r++)
        same = a->part_node[r] == sim_ranks[l->first_rank + r].node;
    return same;
}

static bool held_anywhere(const struct sim_attempt *a, const struct sim_launch *l)
{
    struct key held = key_held(job_of(a), &a->name);
    return place_find(PLACE_HOME, held.text) || place_find(PLACE_FAR, held.text) ||
           (sim_near && !sim_anything_lost() && where_it_runs(a, l) &&
            place_find(PLACE_NEAR, held.text));
}

/* Something that is held lies on the way back from the newest. */
static bool held_on_branch(const struct sim_launch *l)
{
    const uint32_t job = l->job;
    struct ckpt_name at;
    if (!sim_store_newest(job, &at))
        return false;
    for (;;) {
        for (uint32_t i = 0; i < sim_attempt_count; i++) {
            const struct sim_attempt *a = &sim_attempts[i];
            bool on =
                a->name.epoch == at.epoch && (a->name.step < at.step || name_equal(&a->name, &at));
            if (on && a->job == job && a->state == PUBLISH_COMMITTED &&
                extra_of(a)->life == LIFE_LIVE && held_anywhere(a, l))
                return true;
        }
        const struct epoch *e = &epochs[job][at.epoch];
        if (!e->has_point || e->point.epoch >= at.epoch)
            return false;
        at = e->point;
    }
}

/* An operator may have deleted all there was.  And where nodes have disks of their own a
 * resolver commits what is complete by the home's manifests, which nobody holds: the disk
 * may be gone, or the node puts h/ only when it drains.  After a loss drains are not waited for,
 * and the last launch runs on other nodes.  And he may have deleted what was on its way to the
 * home, or the policy may not send it, so that an abandoned branch is all that is left. */
bool sim_store_resumable(const struct sim_launch *l)
{
    bool any = false, held = false;
    for (uint32_t i = 0; i < sim_attempt_count; i++) {
        const struct sim_attempt *a = &sim_attempts[i];
        if (a->job != l->job || a->state == PUBLISH_ABORTED || extra_of(a)->life == LIFE_GONE)
            continue;
        any |= a->state == PUBLISH_COMMITTED || sim_near;
        held |=
            a->state == PUBLISH_COMMITTED && extra_of(a)->life == LIFE_LIVE && held_anywhere(a, l);
    }
    return !any || (sim_near ? held_on_branch(l) : held);
}

bool sim_store_in_reach(const struct ckpt_name *name)
{
    const struct sim_attempt *a = sim_attempt_find(name);
    return a && (!sim_near || a->held);
}

/* ---- tiers ---- */

bool sim_remote;

bool sim_planned(const struct ckpt_name *name)
{
    const struct sim_attempt *a = sim_attempt_find(name);
    /* Never deleted; and of what is dropped later a node that asks late learns no more. */
    return a && extra_of(a)->planned && extra_of(a)->life_n == 0 && !extra_of(a)->doubted;
}

uint32_t sim_not_held(void)
{
    uint32_t n = 0;
    for (uint32_t i = 0; sim_remote && !sim_anything_lost() && i < sim_attempt_count; i++) {
        const struct sim_attempt *a = &sim_attempts[i];
        const struct extra *x = extra_of(a);
        bool all = (!sim_far || x->far_held) && (!sim_near || x->home_held);
        /* One that was brought back, or that another node decided, is sent when drains look next:
         * nobody waits for that. */
        n += a->state == PUBLISH_COMMITTED && !all && x->planned && x->life == LIFE_LIVE &&
             x->life_n == 0 && !x->elsewhere;
    }
    return n;
}

/* ---- the end ---- */

void sim_store_check_end(void)
{
    for (uint32_t i = 0; i < sim_attempt_count; i++) {
        const struct sim_attempt *a = &sim_attempts[i];
        if (a->state != PUBLISH_COMMITTED || extra_of(a)->life == LIFE_GONE)
            continue;
        struct key c = key_commit(job_of(a), &a->name);
        SIM_CHECK(place_find(PLACE_HOME, c.text), "the commit of step %llu is gone",
                  (unsigned long long)a->name.step);
        for (uint32_t r = 0; r < a->world; r++) {
            struct key m = key_manifest(job_of(a), &a->name, r);
            SIM_CHECK(place_find(PLACE_HOME, m.text), "rank %u's manifest of step %llu is gone", r,
                      (unsigned long long)a->name.step);
        }
        sim_store_check(a);
    }
}
