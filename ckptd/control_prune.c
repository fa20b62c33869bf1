/* After each commit: what the policy does not keep goes.  One job of the crew at a time, in
 * the order of the commits; a wish that there is no room for comes again with the next one. */
#include <inttypes.h>
#include <stdio.h>

#include "ckptd/control.h"
#include "ckptd/log.h"

#define PRUNE_NICE   19
#define COLLECT_NS   INT64_C(3600000000000) /* between two looks of gc, at most */
#define LINES_A_PASS 100                    /* of the log */

void control_prune_begin(struct control *c)
{
    const struct crew_options options = {
        .name = "ckptd-prune",
        .threads = 1,
        .nice = PRUNE_NICE,
        .event_fd = c->done_fd,
        .work_new = jobs_work_new,
        .work_free = jobs_work_free,
        .arg = &c->setup,
    };
    struct ckpt_err err = { 0 };
    if (c->prunes || !config_keeps(c->config))
        return;
    if (crew_new(&options, &c->prunes, &err) != CKPT_OK)
        log_error("nothing will be pruned", "why=\"%s\"", err_text(&err));
}

/* Of all nodes the one of rank 0 decides; where nobody else has to say anything, this one does,
 * also when the job has ended. */
static bool decides(const struct control *c, const char *job)
{
    if (c->tiers.home == 0 && !store_url_shared(c->config->store))
        return true;
    for (uint32_t i = 0; i < c->client_end; i++) {
        const struct client *cl = c->clients[i];
        if (cl && cl->open && cl->s->rank == 0 && cl->s->mode == WIRE_TRAIN &&
            strcmp(cl->s->job, job) == 0)
            return true;
    }
    return false;
}

/* When gc looked last, or room to say so. */
static struct prune_look *last_look(struct control *c, const char *job, bool all)
{
    struct prune_look *list = c->prune_line.collected, *oldest = list;
    for (size_t i = 0; i < CONTROL_PRUNES_MAX; i++) {
        if (list[i].all == all && strcmp(list[i].job, job) == 0)
            return &list[i];
        if (list[i].ns < oldest->ns)
            oldest = &list[i];
    }
    *oldest = (struct prune_look){ .all = all, .ns = INT64_MIN };
    snprintf(oldest->job, sizeof(oldest->job), "%s", job);
    return oldest;
}

static bool time_to_collect(struct control *c, const char *job, bool all)
{
    int64_t every = c->config->delete_grace_ns / 4;
    const struct prune_look *last = last_look(c, job, all);
    return last->ns == INT64_MIN || c->now - last->ns >= (every < COLLECT_NS ? every : COLLECT_NS);
}

static struct keep_policy *copy_of(const struct keep_policy *p, const char *job)
{
    struct keep_policy *copy = p ? malloc(sizeof(*p)) : NULL;
    if (p && !copy)
        control_out_of_memory(job);
    if (p)
        *copy = *p;
    return copy;
}

/* Which policy decides about copies there.  What all nodes reach is decided where rank 0 is. */
static const struct keep_policy *keep_there(const struct control *c, const struct prune_wish *wish,
                                            uint32_t tier)
{
    const bool home = tier == c->tiers.home;
    if (tier == 0 && !home)
        return config_keep(c->config, wish->job, CONFIG_KEEP_LOCAL);
    if (!wish->decides)
        return NULL;
    return config_keep(c->config, wish->job, home ? CONFIG_KEEP_STORE : CONFIG_KEEP_REMOTE);
}

/* Nothing to be done for it: NULL. */
static struct job *make_job(struct control *c, const struct prune_wish *wish)
{
    const struct keep_policy *all = config_keep(c->config, wish->job, CONFIG_KEEP);
    bool own = c->tiers.home != 0; /* on a node without rank 0 nothing but that is touched */
    bool any = all && (wish->decides || own);
    bool local = own && keep_there(c, wish, 0);
    for (uint32_t i = 0; i < c->tiers.count; i++)
        any |= keep_there(c, wish, i) != NULL;
    if (!any)
        return NULL;
    struct job *j = job_new(JOB_PRUNE);
    if (!j)
        control_out_of_memory(wish->job);
    j->prune.policy = copy_of(wish->decides ? all : NULL, wish->job);
    for (uint32_t i = 0; i < c->tiers.count; i++)
        j->prune.copies[i].policy = copy_of(keep_there(c, wish, i), wish->job);
    memcpy(j->prune.job, wish->job, sizeof(j->prune.job));
    j->prune.grace_ns = c->config->delete_grace_ns;
    j->prune.collect = (all || local) && time_to_collect(c, wish->job, j->prune.policy != NULL);
    return j;
}

static void submit_next(struct control *c)
{
    struct prune_line *l = &c->prune_line;
    while (l->count && !l->out && !c->stopping) {
        struct prune_wish wish = l->wishes[0];
        l->count--;
        memmove(l->wishes, l->wishes + 1, l->count * sizeof(l->wishes[0]));
        struct job *j = make_job(c, &wish);
        if (!j)
            continue;
        l->out = true;
        control_submit(c, c->prunes, j);
    }
}

void control_prune_want(struct control *c, const char *job)
{
    struct prune_line *l = &c->prune_line;
    size_t i = 0;
    while (i < l->count && strcmp(l->wishes[i].job, job) != 0)
        i++;
    if (!c->prunes || i == CONTROL_PRUNES_MAX)
        return;
    struct prune_wish *w = &l->wishes[i];
    if (i == l->count) {
        *w = (struct prune_wish){ 0 };
        snprintf(w->job, sizeof(w->job), "%s", job);
        l->count++;
    }
    w->decides |= decides(c, job);
    submit_next(c);
}

bool control_prune_busy(const struct control *c)
{
    return c->prune_line.out || c->prune_line.count > 0;
}

/* -- what came of it ------------------------------------------------------------------------ */

static void say_deleted(const struct job_prune *p)
{
    char policy[200];
    unsigned lines = 0;
    if (!p->policy)
        return;
    keep_policy_to_text(p->policy, policy, sizeof(policy));
    for (size_t i = p->plan.count; i-- > 0;) {
        const struct prune_item *item = &p->plan.items[i];
        if (item->done != PRUNE_DELETED || lines++ >= LINES_A_PASS)
            continue;
        log_info(
            "checkpoint deleted",
            "job=%s epoch=%" PRIu64 " step=%" PRIu64 " why=\"%s\" keep=\"%s\" grace_s=%" PRId64,
            p->job, item->name.epoch, item->name.step, item->why, policy, p->grace_ns / 1000000000);
    }
    if (lines > LINES_A_PASS)
        log_info("checkpoints deleted", "job=%s more=%u", p->job, lines - LINES_A_PASS);
}

static void say_dropped(const struct control *c, const struct job_prune *p, uint32_t tier)
{
    const struct prune_copies *copies = &p->copies[tier];
    char policy[200];
    unsigned lines = 0;
    if (!copies->policy || copies->report.dropped == 0)
        return;
    keep_policy_to_text(copies->policy, policy, sizeof(policy));
    for (size_t i = copies->plan.count; i-- > 0;) {
        const struct prune_item *item = &copies->plan.items[i];
        if (item->done == PRUNE_DELETED && lines++ < LINES_A_PASS)
            log_info("copy dropped",
                     "job=%s epoch=%" PRIu64 " step=%" PRIu64 " why=\"%s\" keep=\"%s\" tier=\"%s\"",
                     p->job, item->name.epoch, item->name.step, item->why, policy,
                     c->tiers.urls[tier]);
    }
    if (lines > LINES_A_PASS)
        log_info("copies dropped", "job=%s more=%u tier=\"%s\"", p->job, lines - LINES_A_PASS,
                 c->tiers.urls[tier]);
}

/* Said when it begins to fail, and not after each commit. */
static void say_trouble(struct control *c, const struct job *j)
{
    struct prune_line *l = &c->prune_line;
    bool known = l->trouble == j->status;
    l->trouble = j->status;
    if (j->status != CKPT_OK && j->status != CKPT_CANCELLED && !known)
        log_warn("a job cannot be pruned", "job=%s status=%s why=\"%s\"", j->prune.job,
                 status_name(j->status), err_text(&j->err));
}

void control_prune_done(struct control *c, struct job *j)
{
    const struct job_prune *p = &j->prune;
    c->prune_line.out = false;
    if (p->looked)
        last_look(c, p->job, p->policy != NULL)->ns = c->now;
    say_deleted(p);
    for (uint32_t i = 0; i < c->tiers.count; i++)
        say_dropped(c, p, i);
    say_trouble(c, j);
    if (p->collected.collected || p->collected.restored_to_live)
        log_info("deleted checkpoints collected",
                 "job=%s checkpoints=%" PRIu64 " bytes=%" PRIu64 " brought_back=%" PRIu64, p->job,
                 p->collected.collected, p->collected.bytes, p->collected.restored_to_live);
    submit_next(c);
}
