/* The launch jobs: thin over storage/repo/launch.h. */
#include "ckptd/launch_jobs.h"

#include <stdio.h>

#include "storage/repo/adopt.h"

/* Every step is repeated when it failed for a home that may come back: what the step put there
 * before is found again. */
static enum ckpt_status of_home(const struct jobs_work *w, struct job_launch *l,
                                enum ckpt_status st)
{
    l->away = jobs_out_of_reach(st) && !jobs_home_is_own(w);
    return st;
}

static enum ckpt_status run_ask(const struct jobs_work *w, struct job_launch *l,
                                struct ckpt_err *err)
{
    struct store_entry any;
    struct ckpt_err why = { 0 };
    size_t count;
    bool more;
    enum ckpt_status st = of_home(
        w, l,
        store_list(w->home, key_launches(l->job).text, true, "", &any, 1, &count, &more, &why));
    return l->away ? err_set(err, st, "%s", err_text(&why)) : CKPT_OK;
}

static enum ckpt_status run_claim(const struct jobs_work *w, struct job_launch *l,
                                  struct ckpt_err *err)
{
    struct launch_who who = {
        .job = l->job,
        .token = l->token,
        .world = l->world,
        .time_ns = jobs_wall_ns(),
        .was = l->was,
        .after = l->after,
    };
    memcpy(who.nonce, l->nonce, sizeof(who.nonce));
    memcpy(who.node, w->node, sizeof(who.node));
    return of_home(w, l, launch_claim(w->home, &who, &l->epoch, err));
}

static enum ckpt_status take_resolved(struct job_launch *l, struct record_resolved *r,
                                      struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_OK;
    l->has_point = r->kind == RESOLVED_POINT;
    l->point = r->name;
    l->stop = r->stop;
    snprintf(l->why, sizeof(l->why), "%.*s", (int)sizeof(l->why) - 1, r->why);
    if (r->kind == RESOLVED_SUPERSEDED)
        st = err_set(err, CKPT_SUPERSEDED,
                     "a newer launch of job %s took over before this one was resolved", l->job);
    record_resolved_fini(r);
    return st;
}

/* What can be restored here and now beside what the home holds (H3): in tiers that all can
 * reach; and when all ranks are on this node, in its own, else what every rank finds on the
 * node where it is.  (In the node's own a resolver looks later, behind what it decides.) */
static enum ckpt_status at_hand(struct jobs_work *w, const struct job_launch *l, struct roster *ret,
                                struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_OK;
    if (!l->alone)
        st = launch_nodes_held(l->nodes, l->job, l->world, ret, err);
    else if (l->what == LAUNCH_READ && w->local != w->home)
        st = adopt_held(w->local, l->job, ret, err);
    if (st == CKPT_OK && l->alone && l->also_here)
        st = roster_merge(ret, l->also_here, err);
    return st == CKPT_OK && l->also ? roster_merge(ret, l->also, err) : st;
}

/* Packs that lie in the home are there for all, so nothing is said of them. */
static enum ckpt_status run_tell(struct jobs_work *w, struct job_launch *l, struct ckpt_err *err)
{
    struct record_node n = { 0 };
    enum ckpt_status st = CKPT_OK;
    if (w->local != w->home)
        st = launch_inventory(w->local, l->job, &n, err);
    if (st != CKPT_OK)
        return st;
    memcpy(n.node, w->node, sizeof(n.node));
    n.time_ns = jobs_wall_ns();
    n.ranks = l->ranks;
    n.rank_count = l->rank_count;
    st = of_home(w, l, launch_put_node(w->home, l->job, l->epoch, &n, err));
    n.ranks = NULL; /* the job's */
    record_node_fini(&n);
    return st;
}

static enum ckpt_status run_gather(const struct jobs_work *w, struct job_launch *l,
                                   struct ckpt_err *err)
{
    enum ckpt_status st =
        of_home(w, l, launch_nodes_read(w->home, l->job, l->epoch, l->world, l->nodes, err));
    return st == CKPT_OK ? launch_nodes_missing(l->nodes, l->world, &l->missing, err) : st;
}

static enum ckpt_status run_resolve(struct jobs_work *w, struct job_launch *l, struct ckpt_err *err)
{
    struct record_resolved r = { 0 };
    CLEANUP_ROSTER struct roster also = { 0 };
    bool elsewhere = false;
    struct launch_index *gathered =
        l->alone || !l->nodes->launches.count ? NULL : &l->nodes->launches;
    const struct launch_reach reach = { .tier = l->alone && w->local != w->home ? w->local : NULL,
                                        .also = &also,
                                        .leaves = l->leaves,
                                        .token = l->token,
                                        .unheard = l->unheard,
                                        .launches = gathered,
                                        .nodes = l->waits ? l->nodes : NULL,
                                        .ret_pending = &l->pending,
                                        .ret_elsewhere = &elsewhere };
    l->wish.below = l->epoch;
    enum ckpt_status st = at_hand(w, l, &also, err);
    if (st == CKPT_OK)
        st = of_home(w, l,
                     launch_resolve_with(w->home, l->job, l->epoch, &l->wish, &reach, &r, err));
    l->away &= !elsewhere;
    launch_index_fini(&l->nodes->launches); /* it was of now */
    return st == CKPT_OK && !l->pending ? take_resolved(l, &r, err) : st;
}

static enum ckpt_status run_find(const struct jobs_work *w, struct job_launch *l,
                                 struct ckpt_err *err)
{
    l->floor = max_u64(l->floor, l->after);
    return of_home(w, l, launch_find(w->home, l->job, l->token, &l->floor, &l->epoch, err));
}

static enum ckpt_status run_look(const struct jobs_work *w, struct job_launch *l,
                                 struct ckpt_err *err)
{
    struct record_resolved r = { 0 };
    enum ckpt_status st = of_home(w, l, launch_resolved(w->home, l->job, l->epoch, &r, err));
    return st == CKPT_OK ? take_resolved(l, &r, err) : st;
}

static enum ckpt_status run_read(struct jobs_work *w, struct job_launch *l, struct ckpt_err *err)
{
    struct lineage history = { 0 };
    struct record_resolved r = { 0 };
    CLEANUP_ROSTER struct roster also = { 0 };
    l->wish.below = UINT64_MAX;
    enum ckpt_status st = at_hand(w, l, &also, err);
    if (st == CKPT_OK)
        st = of_home(w, l, launch_history_with(w->home, l->job, &also, &history, err));
    if (st != CKPT_OK)
        return st;
    st = lineage_pick(&history, &l->wish, &r, err);
    lineage_fini(&history);
    if (st == CKPT_REFUSED && !l->wish.forced) { /* a reader may still name a point itself */
        snprintf(l->why, sizeof(l->why), "%.*s", (int)sizeof(l->why) - 1, err_text(err));
        *err = (struct ckpt_err){ 0 };
        return CKPT_OK;
    }
    return st == CKPT_OK ? take_resolved(l, &r, err) : st;
}

static enum ckpt_status run_step(struct jobs_work *w, struct job_launch *l, struct ckpt_err *err)
{
    switch (l->what) {
    case LAUNCH_ASK:
        return run_ask(w, l, err);
    case LAUNCH_CLAIM:
        return run_claim(w, l, err);
    case LAUNCH_RESOLVE:
        return run_resolve(w, l, err);
    case LAUNCH_TELL:
        return run_tell(w, l, err);
    case LAUNCH_GATHER:
        return run_gather(w, l, err);
    case LAUNCH_FIND:
        return run_find(w, l, err);
    case LAUNCH_LOOK:
        return run_look(w, l, err);
    case LAUNCH_READ:
        return run_read(w, l, err);
    }
    return CKPT_BUG;
}

enum ckpt_status launch_job_run(struct jobs_work *w, struct job_launch *l, struct ckpt_err *err)
{
    store_set_limits(w->home, l->until_ns, NULL);
    enum ckpt_status st = run_step(w, l, err);
    store_set_limits(w->home, 0, NULL);
    return st;
}

enum ckpt_status jobs_parse_resume(const char *text, struct lineage_wish *ret, struct ckpt_err *err)
{
    char *end = NULL;
    *ret = (struct lineage_wish){ 0 };
    if (!text[0])
        return CKPT_OK;
    ret->forced = true;
    if (strcmp(text, "none") == 0) {
        ret->none = true;
        return CKPT_OK;
    }
    errno = 0;
    bool ok = text[0] >= '0' && text[0] <= '9';
    ret->step = ok ? strtoull(text, &end, 10) : 0;
    if (ok && *end == '~') {
        ret->has_epoch = true;
        ok = end[1] >= '0' && end[1] <= '9';
        ret->epoch = ok ? strtoull(end + 1, &end, 10) : 0;
    }
    if (!ok || errno || *end)
        return err_set(err, CKPT_INVALID,
                       "resume point \"%.40s\": STEP, STEP~EPOCH or none is expected", text);
    return CKPT_OK;
}
