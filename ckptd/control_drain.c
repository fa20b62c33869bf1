/* What goes on to other tiers: the drainer's actions become jobs, and what comes of them
 * becomes words to sessions.  And what a launch asks of, and tells, other tiers (H1). */
#include <inttypes.h>
#include <stdio.h>

#include "ckptd/control.h"
#include "ckptd/log.h"

/* -- who is to be told ---------------------------------------------------------------- */

static void tell_remote(struct control *c, const char *job, const struct ckpt_name *name,
                        enum ckpt_status st)
{
    for (uint32_t i = 0; i < c->client_end; i++) {
        struct client *cl = c->clients[i];
        if (cl && cl->open && strcmp(cl->s->job, job) == 0)
            control_tell(
                c, cl,
                &(struct session_event){ .kind = SESSION_REMOTE, .name = *name, .status = st });
    }
}

/* A job that somebody trains has no last checkpoint yet. */
static bool trains(const struct control *c, const char *job)
{
    for (uint32_t i = 0; i < c->client_end; i++) {
        const struct client *cl = c->clients[i];
        if (cl && !cl->over && !cl->s->dead && cl->s->mode == WIRE_TRAIN &&
            strcmp(cl->s->job, job) == 0)
            return true;
    }
    return false;
}

/* -- jobs ------------------------------------------------------------------------------ */

static struct crew *crew_of(const struct control *c, uint32_t tier)
{
    return c
        ->drains[tier == 0 ? 1 : tier]; /* repairs of the near tier are no work for saves' crew */
}

static struct job *new_job(enum job_kind kind, const char *what)
{
    struct job *j = job_new(kind);
    if (!j)
        control_out_of_memory(what);
    return j;
}

static void name_busy(const struct control *c, struct job_drain *j)
{
    j->busy = calloc(c->client_count + 1, sizeof(*j->busy));
    if (!j->busy)
        control_out_of_memory("drain");
    for (uint32_t i = 0; i < c->client_end; i++) {
        const struct client *cl = c->clients[i];
        if (cl && cl->s->mode == WIRE_TRAIN && !cl->s->dead && j->busy_count < c->client_count)
            memcpy(j->busy[j->busy_count++], cl->s->job, sizeof(*j->busy));
    }
}

static void submit(struct control *c, const struct drainer_action *a)
{
    const struct drainer_tier *t = &c->drainer->tiers[a->tier];
    struct job *j = new_job(JOB_DRAIN, "drain");
    j->drain.what = a->what;
    j->drain.tier = a->tier;
    j->drain.world = t->world;
    j->drain.from = j->drain.rank = a->rank;
    j->drain.policy = c->config->remote_policy;
    j->drain.codec = (struct drain_codec){ c->config->remote_codec, c->config->remote_codec_level };
    if (a->what == DRAINER_SCAN) {
        name_busy(c, &j->drain);
        j->drain.passed = &c->drain_passed[a->tier];
    } else {
        const struct drainer_target *to = &c->drainer->targets[a->target];
        memcpy(j->drain.job, to->job, sizeof(j->drain.job));
        j->drain.name = to->name;
        j->drain.last = !trains(c, to->job);
        j->drain.fresh = to->fresh;
        j->drain.wait = to->wait;
    }
    if (a->what == DRAINER_PACK)
        j->drain.pack = c->drain_lists[a->tier].packs[a->pack];
    if (a->what == DRAINER_ACCOUNT)
        j->drain.stored_bytes = t->rank_stored;
    control_submit(c, crew_of(c, a->tier), j);
}

static void say_end(const struct control *c, const struct drainer_action *a)
{
    if (a->kind == DRAINER_NEEDLESS)
        return;
    const char *what = a->kind == DRAINER_HELD       ? "checkpoint is in a remote tier"
                       : a->kind == DRAINER_REPAIRED ? "checkpoint was repaired"
                                                     : "checkpoint is not sent on";
    log_info(what, "job=%s epoch=%" PRIu64 " step=%" PRIu64 " tier=\"%s\"", a->job, a->name.epoch,
             a->name.step, c->tiers.urls[a->tier]);
}

void control_drain_step(struct control *c, const struct drainer_event *ev)
{
    static struct drainer_actions acts; /* not re-entered: sessions say nothing to the drainer */
    if (c->drainer->tier_count == 0)
        return;
    acts.count = 0;
    const struct drainer_tier *t = &c->drainer->tiers[ev->tier];
    uint64_t held = t->held, put = t->put_total, troubles = t->troubles;
    (void)drainer_step(c->drainer, ev, c->now, &acts); /* full: a scan finds it */
    bool brought = t->held != held;                    /* else it was found there */
    c->counters->tiers[ev->tier].held += brought;
    c->counters->tiers[ev->tier].put_bytes += t->put_total - put;
    c->counters->tiers[ev->tier].troubles += t->troubles - troubles;
    for (uint32_t i = 0; i < acts.count; i++) {
        const struct drainer_action *a = &acts.list[i];
        if (a->kind == DRAINER_RUN) {
            submit(c, a);
            continue;
        }
        say_end(c, a);
        if (a->kind == DRAINER_HELD) {
            counters_held(c->counters, a->job, a->tier, &a->name, brought, c->now);
            tell_remote(c, a->job, &a->name, CKPT_OK);
            if (config_drops(c->config, a->job))
                control_prune_want(c, a->job); /* copies elsewhere may go now */
        }
        if (a->kind == DRAINER_NOT_PLANNED && a->last)
            tell_remote(c, a->job, &a->name, CKPT_NOT_PLANNED);
    }
}

/* -- what comes in --------------------------------------------------------------------- */

static void want(struct control *c, const char *job, const struct ckpt_name *name, bool fresh)
{
    struct drainer_event ev = { .kind = DRAINER_WANT, .job = job, .name = *name, .fresh = fresh };
    for (ev.tier = 1; ev.tier < c->drainer->tier_count; ev.tier++)
        control_drain_step(c, &ev);
}

void control_drain_want(struct control *c, const char *job, const struct ckpt_name *name)
{
    want(c, job, name, true);
}

void control_drain_repair(struct control *c, const char *job, const struct ckpt_name *name)
{
    control_drain_step(
        c, &(struct drainer_event){ .kind = DRAINER_WANT, .tier = 0, .job = job, .name = *name });
}

/* The worker before this one may have begun to bring them there. */
void control_drain_adopt(struct control *c)
{
    for (uint32_t i = 0; i < c->client_end; i++) {
        const struct client *cl = c->clients[i];
        for (uint32_t k = 0; cl && k < SESSION_FINALS; k++)
            if (cl->s->finals[k].awaits)
                want(c, cl->s->job, &cl->s->finals[k].name, false);
    }
}

/* Its newest is its last one now, until somebody trains it again. */
void control_drain_idle(struct control *c, const char *job)
{
    if (c->config->remote_policy.last && !trains(c, job))
        control_drain_step(c, &(struct drainer_event){ .kind = DRAINER_RESCAN });
}

void control_drain_stop(struct control *c)
{
    atomic_store(&c->cancel, true);
    control_drain_step(c, &(struct drainer_event){ .kind = DRAINER_STOP });
}

void control_drain_fini(struct control *c)
{
    for (uint32_t i = 0; i < TIERS_MAX; i++) {
        free(c->drain_lists[i].packs);
        drain_passed_fini(&c->drain_passed[i]);
    }
}

/* -- ends of jobs ---------------------------------------------------------------------- */

static void scanned(struct control *c, const struct job *j)
{
    for (size_t i = 0; i < j->drain.found_count; i++)
        control_drain_step(c, &(struct drainer_event){ .kind = DRAINER_WANT,
                                                       .tier = j->drain.tier,
                                                       .job = j->drain.found[i].job,
                                                       .name = j->drain.found[i].name });
    control_drain_step(c, &(struct drainer_event){ .kind = DRAINER_SCANNED,
                                                   .tier = j->drain.tier,
                                                   .more = j->drain.more,
                                                   .status = j->status,
                                                   .text = err_text(&j->err) });
}

/* Said when a tier begins to fail, and not with every try. */
static void say_trouble(const struct control *c, const struct job *j)
{
    const struct drainer_tier *t = &c->drainer->tiers[j->drain.tier];
    bool known = t->status == j->status && t->pause_ns > DRAINER_PAUSE_MIN_NS;
    if (j->status == CKPT_OK || j->status == CKPT_EXISTS || j->status == CKPT_NOT_PLANNED ||
        j->status == CKPT_ABORTED || j->status == CKPT_BUSY || j->status == CKPT_CANCELLED || known)
        return;
    log_warn("a tier cannot be brought up to date",
             "tier=\"%s\" job=%s step=%" PRIu64 " doing=%s status=%s why=\"%s\"",
             c->tiers.urls[j->drain.tier], j->drain.job, j->drain.name.step,
             drainer_job_name(j->drain.what), status_name(j->status), err_text(&j->err));
}

void control_drain_done(struct control *c, struct job *j)
{
    struct job_drain *d = &j->drain;
    say_trouble(c, j);
    if (d->what == DRAINER_SCAN) {
        scanned(c, j);
        return;
    }
    struct drainer_event ev = { .kind = DRAINER_DONE,
                                .tier = d->tier,
                                .what = d->what,
                                .status = j->status,
                                .text = err_text(&j->err),
                                .world = d->world,
                                .bytes = d->bytes,
                                .wait = d->wait };
    if (d->what == DRAINER_PART && j->status == CKPT_OK) {
        struct drain_list *list = &c->drain_lists[d->tier];
        free(list->packs);
        *list = (struct drain_list){ TAKE_PTR(d->part.packs), d->part.count };
        ev.rank = d->part.rank;
        ev.packs = d->part.count;
        ev.total = d->part.total;
        ev.bytes = d->part.there_bytes;
        ev.raw_bytes = d->part.raw_bytes;
    }
    control_drain_step(c, &ev);
}

/* -- launches -------------------------------------------------------------------------- */

/* Bits of the tiers that are neither the near one nor the home. */
static uint32_t others(const struct control *c)
{
    uint32_t bits = (UINT32_C(1) << c->tiers.count) - 1;
    return bits & ~UINT32_C(1) & ~(UINT32_C(1) << c->tiers.home);
}

/* A tier that was late once in this launch is asked, but waited for only when it has answered
 * meanwhile: a tier that is down delays a launch once. */
static void ask_tiers(struct control *c, struct launch *l, enum job_kind kind,
                      const struct key *key, int64_t wait_ns)
{
    l->tier_round = ++c->next_round;
    l->tiers_by_ns = c->now + wait_ns;
    for (uint32_t i = 1; i < c->tiers.count; i++) {
        if (!(others(c) & UINT32_C(1) << i))
            continue;
        struct job *j = new_job(kind, l->job);
        j->tier.tier = i;
        j->tier.launch = l->key;
        j->tier.round = l->tier_round;
        memcpy(j->tier.job, l->job, sizeof(l->job));
        j->tier.until_ns = l->wish.none || l->reader ? 0 : l->tiers_by_ns;
        if (key)
            j->tier.key = *key;
        control_submit(c, c->drains[i], j);
    }
    l->tiers_out = others(c) & ~l->tiers_late;
}

bool control_tiers_adopt(struct control *c, struct launch *l, int64_t wait_ns)
{
    roster_fini(&l->held);
    roster_fini(&l->held_here);
    ask_tiers(c, l, JOB_ADOPT, NULL, wait_ns);
    l->unheard = others(c);
    return l->tiers_out != 0;
}

bool control_tiers_spread(struct control *c, struct launch *l, const struct key *key)
{
    ask_tiers(c, l, JOB_SPREAD, key, c->tier_ns);
    return l->tiers_out != 0;
}

static void heard(const struct control *c, struct launch *l, const struct job *j)
{
    bool shared = store_url_shared(c->tiers.urls[j->tier.tier]);
    if (roster_merge(shared ? &l->held : &l->held_here, &j->tier.held, NULL) != CKPT_OK)
        control_out_of_memory(l->job);
    l->unheard &= ~(UINT32_C(1) << j->tier.tier);
}

void control_tiers_done(struct control *c, struct job *j)
{
    struct launch *l = launch_by_key(c, j->tier.launch);
    const uint32_t bit = UINT32_C(1) << j->tier.tier;
    if (l && j->status == CKPT_OK)
        l->tiers_late &= ~bit;
    if (!l || l->tier_round != j->tier.round || !(l->tiers_out & bit))
        return; /* it went on without us */
    const bool once_more = j->kind == JOB_ADOPT && !l->asking_ns;
    if (j->status != CKPT_OK && j->status != CKPT_CONFLICT && !once_more)
        log_warn("another tier is left out", "job=%s tier=\"%s\" status=%s why=\"%s\"", l->job,
                 c->tiers.urls[j->tier.tier], status_name(j->status), err_text(&j->err));
    if (j->kind == JOB_SPREAD && j->status == CKPT_CONFLICT)
        l->taken = true;
    if (j->kind == JOB_ADOPT && j->status == CKPT_OK)
        heard(c, l, j);
    l->tiers_out &= ~bit;
    if (!l->tiers_out)
        control_launch_go_on(c, l);
}
