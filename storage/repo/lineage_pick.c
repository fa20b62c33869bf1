/* Which checkpoint a job continues from (rules I3, I4, I5): the first one on the trail that
 * nothing speaks against, with the reasons against those before it; or the one that
 * somebody asked for. */
#include <assert.h>
#include <inttypes.h>
#include <stdio.h>

#include "storage/repo/lineage_trail.h"

/* ---- choosing ---- */

struct choice {
    const struct lineage *l;
    uint64_t below;
    struct record_skip *skips;
    uint32_t skip_count, skip_cap;
    bool *seen;                           /* per commit: stretches may overlap */
    const struct lineage_commit *crashed; /* the first that crash loops rule out */
    const struct lineage_commit *taken;
    bool stop;
    bool back; /* what is asked is only whether crash loops rule out what would come first */
    struct lineage_need *need;
};

static enum ckpt_status CKPT_PRINTF(4, 5)
    skip(struct choice *c, const struct ckpt_name *name, struct ckpt_err *err, const char *fmt, ...)
{
    if (c->skip_count == RECORD_SKIPS_MAX)
        return CKPT_OK;
    if (c->skip_count == c->skip_cap) {
        uint32_t cap = c->skip_cap ? 2 * c->skip_cap : 8;
        struct record_skip *grown = realloc(c->skips, cap * sizeof(*grown));
        if (!grown)
            return err_set(err, CKPT_NO_MEMORY, "no memory for %u skipped checkpoints", cap);
        c->skips = grown;
        c->skip_cap = cap;
    }
    struct record_skip *s = &c->skips[c->skip_count++];
    *s = (struct record_skip){ .name = *name };
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(s->why, sizeof(s->why), fmt, ap);
    va_end(ap);
    return CKPT_OK;
}

/* I4: what ranks of the last launch could not get, though no digest failed, is passed
 * over once; being out of reach is no quarantine. */
static const struct lineage_launch *failed_just_now(const struct choice *c,
                                                    const struct ckpt_name *name)
{
    const struct lineage_launch *last = lineage_resolved_below(c->l, c->below);
    if (!last || !last->bad_count || last->corrupt || last->restored)
        return NULL;
    return name_equal(&last->bad_name, name) ? last : NULL;
}

/* True if a launch that may have something to say of the candidate was not read: one that is
 * younger than its state, or the one that saved it and says from where. */
static bool unread(const struct choice *c, const struct ckpt_name *name)
{
    const struct lineage *l = c->l;
    const uint64_t epoch = lineage_origin(l, name).epoch; /* as far as it is known */
    bool any = false;
    for (size_t i = 0; i < l->launch_count && l->launches[i].epoch >= epoch; i++) {
        uint64_t at = l->launches[i].epoch;
        any |= at < c->below && (at < l->resolved_from || (at > epoch && at < l->reports_from));
    }
    if (any) {
        c->need->resolved_from = epoch;
        c->need->reports_from = epoch + 1;
    }
    return any;
}

static bool same_state(const struct lineage *l, const struct ckpt_name *a,
                       const struct ckpt_name *b)
{
    struct ckpt_name from_a = lineage_origin(l, a), from_b = lineage_origin(l, b);
    return name_equal(&from_a, &from_b);
}

static enum ckpt_status consider_all(struct choice *c, struct ckpt_err *err);

/* The launches that died on it may have stepped back to it.  Those that saved it again moved
 * the head there, and what they stepped back from is on no trail from it: so it is asked what
 * the first of them had before it. */
static enum ckpt_status step_back(struct choice *c, const struct lineage_commit *commit,
                                  const struct crash_run *run, struct ckpt_err *err)
{
    struct choice before = { .l = c->l, .below = run->first->epoch, .back = true, .need = c->need };
    enum ckpt_status st = CKPT_OK;
    if (!c->back && !run->first->forced)
        st = consider_all(&before, err);
    free(before.skips);
    if (st == CKPT_OK)
        st = skip(c, &commit->name, err, "%u launches in a row died on it before any progress",
                  run->crashes);
    if (st != CKPT_OK)
        return st;
    const struct lineage_commit *from = before.crashed;
    if (from &&
        (lineage_corrupt_in(c->l, &from->name, c->below) || failed_just_now(c, &from->name)))
        from = NULL; /* found since, and read: it is the younger of the two */
    c->crashed = from ? from : commit;
    c->stop = from != NULL;
    if (c->back || c->stop)
        c->taken = c->crashed;
    return CKPT_OK;
}

/* I5. */
static enum ckpt_status consider_crashes(struct choice *c, const struct lineage_commit *commit,
                                         struct ckpt_err *err)
{
    struct crash_run run = lineage_crash_run(c->l, &commit->name, c->below);
    if (c->crashed && same_state(c->l, &commit->name, &c->crashed->name))
        return skip(c, &commit->name, err, "the same state as step %" PRIu64 " of epoch %" PRIu64,
                    c->crashed->name.step, c->crashed->name.epoch);
    if (run.crashes < LINEAGE_CRASHES) {
        c->taken = commit;
    } else if (!c->crashed) {
        return step_back(c, commit, &run, err);
    } else { /* one step back failed as often: not the checkpoint's fault */
        c->taken = c->crashed;
        c->stop = true;
    }
    return CKPT_OK;
}

/* Takes the candidate, or says why not. */
static enum ckpt_status consider(struct choice *c, const struct lineage_commit *commit,
                                 bool is_point, struct ckpt_err *err)
{
    const struct ckpt_name *name = &commit->name;
    if (commit->life == LIFE_GONE || (commit->life == LIFE_DELETED && !is_point))
        return skip(c, name, err, "deleted");
    if (commit->known && !commit->restorable)
        return skip(c, name, err, "%s", commit->why_not);
    if (unread(c, name))
        return CKPT_BUSY;
    const struct lineage_launch *bad = lineage_corrupt_in(c->l, name, c->below);
    if (bad)
        return skip(c, name, err, "damaged, says launch %" PRIu64 ": %.100s", bad->epoch,
                    bad->bad_text);
    bad = failed_just_now(c, name);
    if (bad)
        return skip(c, name, err, "launch %" PRIu64 " could not read it: %.100s", bad->epoch,
                    bad->bad_text);
    return consider_crashes(c, commit, err);
}

static enum ckpt_status consider_stretch(struct choice *c, const struct stretch *s,
                                         struct ckpt_err *err)
{
    const struct lineage *l = c->l;
    if (s->is_point && !lineage_find_commit(l, &s->point)) {
        enum ckpt_status st = skip(c, &s->point, err, "deleted for good");
        if (st != CKPT_OK)
            return st;
    }
    for (size_t i = lineage_commits_from(l, s->epoch);
         i < l->commit_count && l->commits[i].name.epoch == s->epoch && !c->taken; i++) {
        const struct lineage_commit *commit = &l->commits[i];
        if (!trail_covers(s, &commit->name) || c->seen[i])
            continue;
        bool is_point = s->is_point && name_equal(&commit->name, &s->point);
        /* A DELETED commit may turn up again as somebody's resume point. */
        c->seen[i] = commit->life == LIFE_LIVE || is_point;
        enum ckpt_status st = consider(c, commit, is_point, err);
        if (st != CKPT_OK)
            return st;
    }
    return CKPT_OK;
}

static enum ckpt_status consider_trail(struct choice *c, const struct trail *t,
                                       struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_OK;
    for (size_t i = 0; i < t->count && !c->taken && st == CKPT_OK; i++)
        st = consider_stretch(c, &t->stretches[i], err);
    if (st == CKPT_OK && !c->taken && t->cut) {
        c->need->resolved_from = t->need;
        return CKPT_BUSY;
    }
    return st;
}

static enum ckpt_status consider_all(struct choice *c, struct ckpt_err *err)
{
    struct trail t = { 0 };
    enum ckpt_status st;
    c->seen = calloc(c->l->commit_count + 1, sizeof(*c->seen));
    trail_walk(c->l, c->below, &t);
    if (t.failed || !c->seen)
        st = err_set(err, CKPT_NO_MEMORY, "no memory for the history of the job");
    else
        st = consider_trail(c, &t, err);
    free(t.stretches);
    free(c->seen);
    if (st == CKPT_OK && !c->taken && c->crashed) { /* nothing to step back to */
        c->taken = c->crashed;
        c->stop = true;
    }
    return st;
}

static enum ckpt_status refuse(const struct choice *c, struct ckpt_err *err)
{
    if (!c->skip_count)
        return err_set(err, CKPT_REFUSED,
                       "the job has %zu checkpoints but none is on the way that its newest launch "
                       "continues: set CKPT_RESUME to a step, or to \"none\" to start over",
                       c->l->commit_count);
    const struct record_skip *s = &c->skips[0];
    return err_set(err, CKPT_REFUSED,
                   "none of %zu checkpoints can be resumed from here (step %" PRIu64
                   " of epoch %" PRIu64 ": %s): set CKPT_RESUME to a step, or to \"none\" to "
                   "start over",
                   c->l->commit_count, s->name.step, s->name.epoch, s->why);
}

static void say_taken(const struct choice *c, struct record_resolved *out)
{
    const struct ckpt_name *name = &c->taken->name;
    if (c->stop)
        snprintf(out->why, sizeof(out->why),
                 "crash loop: %u launches in a row died on step %" PRIu64
                 " and stepping back did not help; stopped for a human to look",
                 lineage_crashes(c->l, name, c->below), name->step);
    else if (c->crashed)
        snprintf(out->why, sizeof(out->why),
                 "stepped back from step %" PRIu64 ", on which %d launches in a row died",
                 c->crashed->name.step, LINEAGE_CRASHES);
    else
        snprintf(out->why, sizeof(out->why), "the newest checkpoint on the newest lineage%s%s",
                 c->skip_count ? " that can be restored here and now" : "",
                 c->taken->life == LIFE_DELETED ? "; it was deleted and is brought back" : "");
    size_t len = strlen(out->why);
    if (c->skip_count && !c->stop && !c->crashed)
        snprintf(out->why + len, sizeof(out->why) - len, "; not step %" PRIu64 ": %s",
                 c->skips[0].name.step, c->skips[0].why);
}

static enum ckpt_status pick_newest(struct choice *c, struct record_resolved *out,
                                    struct ckpt_err *err)
{
    enum ckpt_status st = consider_all(c, err);
    if (st != CKPT_OK)
        return st;
    if (c->taken) {
        out->kind = RESOLVED_POINT;
        out->name = c->taken->name;
        out->stop = c->stop;
        say_taken(c, out);
        return CKPT_OK;
    }
    if (c->l->commit_count)
        return refuse(c, err);
    out->kind = RESOLVED_NOTHING;
    snprintf(out->why, sizeof(out->why), "the job has no checkpoint");
    return CKPT_OK;
}

/* ---- a point that somebody asked for ---- */

static const struct lineage_commit *
find_wished(const struct lineage *l, const struct lineage_wish *wish, const struct trail *t)
{
    for (size_t i = 0; i < l->commit_count; i++) {
        const struct ckpt_name *name = &l->commits[i].name;
        if (name->step != wish->step || name->epoch >= wish->below)
            continue;
        if (wish->has_epoch && name->epoch == wish->epoch)
            return &l->commits[i];
        for (size_t k = 0; k < t->branch && !wish->has_epoch; k++)
            if (trail_covers(&t->stretches[k], name))
                return &l->commits[i];
    }
    return NULL;
}

static enum ckpt_status wish_not_found(const struct lineage *l, const struct lineage_wish *wish,
                                       struct ckpt_err *err)
{
    if (wish->has_epoch)
        return err_set(err, CKPT_NOT_FOUND, "epoch %" PRIu64 " has no checkpoint of step %" PRIu64,
                       wish->epoch, wish->step);
    for (size_t i = 0; i < l->commit_count; i++)
        if (l->commits[i].name.step == wish->step)
            return err_set(err, CKPT_NOT_FOUND,
                           "step %" PRIu64 " is not on the newest lineage but on an abandoned "
                           "branch: ask for %" PRIu64 "~%" PRIu64 " to go back to it",
                           wish->step, wish->step, l->commits[i].name.epoch);
    return err_set(err, CKPT_NOT_FOUND, "there is no checkpoint of step %" PRIu64, wish->step);
}

static enum ckpt_status pick_forced(const struct lineage *l, const struct lineage_wish *wish,
                                    struct lineage_need *need, struct record_resolved *out,
                                    struct ckpt_err *err)
{
    out->forced = true;
    if (wish->none) {
        out->kind = RESOLVED_NOTHING;
        snprintf(out->why, sizeof(out->why), "asked to start at the beginning");
        return CKPT_OK;
    }
    struct trail t = { 0 };
    trail_walk(l, wish->below, &t);
    const struct lineage_commit *commit = find_wished(l, wish, &t);
    bool failed = t.failed;
    free(t.stretches);
    if (failed)
        return err_set(err, CKPT_NO_MEMORY, "no memory for the history of the job");
    if (!commit && t.cut && !wish->has_epoch) {
        need->resolved_from = t.need;
        return CKPT_BUSY;
    }
    if (!commit)
        return wish_not_found(l, wish, err);
    if (commit->life != LIFE_LIVE)
        return err_set(err, CKPT_REFUSED,
                       "step %" PRIu64 " of epoch %" PRIu64 " is deleted: undelete it first",
                       commit->name.step, commit->name.epoch);
    if (commit->known && !commit->restorable)
        return err_set(err, CKPT_REFUSED,
                       "step %" PRIu64 " of epoch %" PRIu64 " cannot be restored: %s",
                       commit->name.step, commit->name.epoch, commit->why_not);
    out->kind = RESOLVED_POINT;
    out->name = commit->name;
    snprintf(out->why, sizeof(out->why), "asked for step %" PRIu64 " of epoch %" PRIu64,
             commit->name.step, commit->name.epoch);
    return CKPT_OK;
}

enum ckpt_status lineage_pick_part(const struct lineage *l, const struct lineage_wish *wish,
                                   struct lineage_need *need, struct record_resolved *ret,
                                   struct ckpt_err *err)
{
    *need = (struct lineage_need){ l->resolved_from, l->reports_from };
    struct record_resolved out = { .epoch = wish->below };
    if (wish->forced) {
        enum ckpt_status st = pick_forced(l, wish, need, &out, err);
        if (st == CKPT_OK)
            *ret = out;
        return st;
    }
    struct choice c = { .l = l, .below = wish->below, .need = need };
    enum ckpt_status st = pick_newest(&c, &out, err);
    if (st != CKPT_OK) {
        free(c.skips);
        return st;
    }
    out.skips = c.skips;
    out.skip_count = c.skip_count;
    *ret = out;
    return CKPT_OK;
}

enum ckpt_status lineage_pick(const struct lineage *l, const struct lineage_wish *wish,
                              struct record_resolved *ret, struct ckpt_err *err)
{
    struct lineage_need need;
    assert(l->resolved_from == 0 && l->reports_from == 0);
    return lineage_pick_part(l, wish, &need, ret, err);
}

enum ckpt_status lineage_pick_next(const struct lineage *l, struct record_resolved *ret,
                                   struct ckpt_err *err)
{
    struct lineage with = *l;
    struct lineage_wish wish = { .below = l->launch_count ? l->launches[0].epoch + 1 : 1 };
    with.launches = calloc(l->launch_count + 1, sizeof(*with.launches));
    if (!with.launches)
        return err_set(err, CKPT_NO_MEMORY, "no memory for the history of the job");
    with.launches[0] = (struct lineage_launch){ .epoch = wish.below, .claimed = true };
    for (size_t i = 0; i < l->launch_count; i++)
        with.launches[i + 1] = l->launches[i];
    with.launch_count++;
    enum ckpt_status st = lineage_pick(&with, &wish, ret, err);
    free(with.launches);
    return st;
}
