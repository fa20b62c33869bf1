/* Which checkpoint a job continues from (rules I3, I5), decided over records that
 * somebody has read.
 *
 * The history of a job is a tree: each launch resumed from a point of an earlier one and
 * committed on top of it.  The *trail* is the way from the newest resolved launch back to
 * the root, as stretches of one epoch's commits up to a step, newest first:
 *
 *     epoch 1:  40  80  120          epoch 2 was forced back to 80 and saved 90, 100
 *                    \
 *     epoch 2:        90  100        trail: (epoch 2, all) (epoch 1, up to 80)
 *
 * A launch that saved nothing and was not forced is transparent: it does not move the
 * head, and its own resume point comes last.  120 is abandoned: never on the trail. */
#include "storage/repo/lineage.h"

#include <inttypes.h>
#include <stdio.h>

/* One stretch: commits of `epoch` up to `top`. */
struct stretch {
    uint64_t epoch, top;
    bool is_point; /* `point` is a resume point: a candidate even when DELETED */
    struct ckpt_name point;
};
struct trail {
    struct stretch *stretches;
    size_t count, cap;
    size_t branch; /* the first so many are the branch; behind them the transparent ones' own */
    bool failed;   /* out of memory */
    const struct ckpt_name *wanted; /* NULL, or the name that is asked about ... */
    bool off_branch, covered;       /* ... and whether the branch covers it */
};

void lineage_fini(struct lineage *l)
{
    if (!l)
        return;
    free(l->launches);
    free(l->commits);
    *l = (struct lineage){ 0 };
}

/* ---- looking things up ---- */

/* The first commit (in list order) whose epoch is <= `epoch`: commits are sorted with the
 * newest epoch first. */
static size_t commits_from(const struct lineage *l, uint64_t epoch)
{
    size_t lo = 0, hi = l->commit_count;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (l->commits[mid].name.epoch > epoch)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static bool has_commits(const struct lineage *l, uint64_t epoch)
{
    size_t i = commits_from(l, epoch);
    return i < l->commit_count && l->commits[i].name.epoch == epoch;
}

static const struct lineage_commit *find_commit(const struct lineage *l,
                                                const struct ckpt_name *name)
{
    for (size_t i = commits_from(l, name->epoch);
         i < l->commit_count && l->commits[i].name.epoch == name->epoch; i++)
        if (name_equal(&l->commits[i].name, name))
            return &l->commits[i];
    return NULL;
}

static bool moved_on(const struct lineage_launch *launch)
{
    return launch->resolved && launch->kind != RESOLVED_SUPERSEDED;
}

/* The newest resolved launch below an epoch; NULL if there is none. */
static const struct lineage_launch *resolved_below(const struct lineage *l, uint64_t below)
{
    for (size_t i = 0; i < l->launch_count; i++)
        if (l->launches[i].epoch < below && moved_on(&l->launches[i]))
            return &l->launches[i];
    return NULL;
}

static const struct lineage_launch *resolved_at(const struct lineage *l, uint64_t epoch)
{
    for (size_t i = 0; i < l->launch_count; i++)
        if (l->launches[i].epoch == epoch)
            return moved_on(&l->launches[i]) ? &l->launches[i] : NULL;
    return NULL;
}

/* ---- the trail ---- */

static bool stretch_covers(const struct stretch *s, const struct ckpt_name *name)
{
    if (name->epoch != s->epoch || name->step > s->top)
        return false;
    return !s->is_point || name->step < s->top || name_equal(name, &s->point);
}

/* Asked about one name, a trail keeps nothing: the answer must not depend on memory. */
static void trail_add(struct trail *t, struct stretch s)
{
    if (t->wanted) {
        t->covered = t->covered || (!t->off_branch && stretch_covers(&s, t->wanted));
        return;
    }
    if (t->count == t->cap) {
        size_t cap = t->cap ? 2 * t->cap : 16;
        struct stretch *grown = realloc(t->stretches, cap * sizeof(*grown));
        if (!grown) {
            t->failed = true;
            return;
        }
        t->stretches = grown;
        t->cap = cap;
    }
    t->stretches[t->count++] = s;
}

/* From a launch's resume point down to the root.  Each step goes to a lower epoch, so
 * that records which contradict each other cannot make it run for ever. */
static void trail_descend(const struct lineage *l, const struct lineage_launch *from,
                          struct trail *t)
{
    while (from && from->kind == RESOLVED_POINT && from->point.epoch < from->epoch) {
        trail_add(t, (struct stretch){ .epoch = from->point.epoch,
                                       .top = from->point.step,
                                       .is_point = true,
                                       .point = from->point });
        from = resolved_at(l, from->point.epoch);
    }
}

static bool transparent(const struct lineage *l, const struct lineage_launch *launch)
{
    return !launch->forced && !has_commits(l, launch->epoch);
}

static void trail_walk(const struct lineage *l, uint64_t below, struct trail *t)
{
    const struct lineage_launch *head = resolved_below(l, below);
    const struct lineage_launch *newest = head;
    while (head && transparent(l, head))
        head = resolved_below(l, head->epoch);
    if (head && has_commits(l, head->epoch))
        trail_add(t, (struct stretch){ .epoch = head->epoch, .top = UINT64_MAX });
    trail_descend(l, head, t);
    t->branch = t->count;
    t->off_branch = true;
    /* The transparent launches' own resume points, the oldest launch's first. */
    uint64_t above = head ? head->epoch : 0;
    while (newest && newest->epoch > above) {
        const struct lineage_launch *oldest = newest;
        for (const struct lineage_launch *e = newest; e && e->epoch > above;
             e = resolved_below(l, e->epoch))
            oldest = e;
        trail_descend(l, oldest, t);
        above = oldest->epoch;
    }
}

bool lineage_on_branch(const struct lineage *l, const struct ckpt_name *name)
{
    struct trail t = { .wanted = name };
    trail_walk(l, UINT64_MAX, &t);
    return t.covered;
}

/* ---- crash loops (I5) ---- */

/* A launch is known to have died by a later claim of another token: a rollback inside
 * the process is a new epoch of a launch that lives on. */
static bool died(const struct lineage *l, size_t i)
{
    const char *token = l->launches[i].token;
    while (i > 0) {
        i--;
        if (l->launches[i].claimed)
            return !token[0] || strcmp(token, l->launches[i].token) != 0;
    }
    return false;
}

static bool resumed_from(const struct lineage_launch *launch, const struct ckpt_name *name)
{
    return moved_on(launch) && launch->kind == RESOLVED_POINT && name_equal(&launch->point, name);
}

uint32_t lineage_crashes(const struct lineage *l, const struct ckpt_name *name, uint64_t below)
{
    uint32_t crashes = 0;
    for (size_t i = 0; i < l->launch_count; i++) {
        const struct lineage_launch *launch = &l->launches[i];
        if (launch->epoch >= below || !resumed_from(launch, name))
            continue;
        if (launch->progressed || has_commits(l, launch->epoch))
            break;
        if (launch->restored && died(l, i))
            crashes++;
        if (launch->forced) /* somebody decided to try again: older crashes are forgiven */
            break;
    }
    return crashes;
}

/* The newest launch that found wrong digests in it; NULL if none did, or a later launch
 * restored it (it was repaired). */
static const struct lineage_launch *corrupt_in(const struct lineage *l,
                                               const struct ckpt_name *name, uint64_t below)
{
    for (size_t i = 0; i < l->launch_count; i++) {
        const struct lineage_launch *launch = &l->launches[i];
        if (launch->epoch >= below)
            continue;
        if (launch->corrupt && name_equal(&launch->bad_name, name))
            return launch;
        if (resumed_from(launch, name) && launch->restored)
            return NULL;
    }
    return NULL;
}

bool lineage_quarantined(const struct lineage *l, const struct ckpt_name *name, uint64_t below)
{
    return corrupt_in(l, name, below) || lineage_crashes(l, name, below) >= LINEAGE_CRASHES;
}

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
    const struct lineage_launch *last = resolved_below(c->l, c->below);
    if (!last || !last->bad_count || last->corrupt || last->restored)
        return NULL;
    return name_equal(&last->bad_name, name) ? last : NULL;
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
    const struct lineage_launch *bad = corrupt_in(c->l, name, c->below);
    if (bad)
        return skip(c, name, err, "damaged, says launch %" PRIu64 ": %.100s", bad->epoch,
                    bad->bad_text);
    bad = failed_just_now(c, name);
    if (bad)
        return skip(c, name, err, "launch %" PRIu64 " could not read it: %.100s", bad->epoch,
                    bad->bad_text);
    uint32_t crashes = lineage_crashes(c->l, name, c->below);
    if (crashes < LINEAGE_CRASHES) {
        c->taken = commit;
    } else if (!c->crashed) {
        c->crashed = commit;
        return skip(c, name, err, "%u launches in a row died on it before any progress", crashes);
    } else { /* one step back failed as often: not the checkpoint's fault */
        c->taken = c->crashed;
        c->stop = true;
    }
    return CKPT_OK;
}

static enum ckpt_status consider_stretch(struct choice *c, const struct stretch *s,
                                         struct ckpt_err *err)
{
    const struct lineage *l = c->l;
    if (s->is_point && !find_commit(l, &s->point)) {
        enum ckpt_status st = skip(c, &s->point, err, "deleted for good");
        if (st != CKPT_OK)
            return st;
    }
    for (size_t i = commits_from(l, s->epoch);
         i < l->commit_count && l->commits[i].name.epoch == s->epoch && !c->taken; i++) {
        const struct lineage_commit *commit = &l->commits[i];
        if (!stretch_covers(s, &commit->name) || c->seen[i])
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

static enum ckpt_status consider_all(struct choice *c, struct ckpt_err *err)
{
    struct trail t = { 0 };
    trail_walk(c->l, c->below, &t);
    enum ckpt_status st = CKPT_OK;
    if (t.failed)
        st = err_set(err, CKPT_NO_MEMORY, "no memory for the history of the job");
    for (size_t i = 0; i < t.count && !c->taken && st == CKPT_OK; i++)
        st = consider_stretch(c, &t.stretches[i], err);
    free(t.stretches);
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
            if (stretch_covers(&t->stretches[k], name))
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
                                    struct record_resolved *out, struct ckpt_err *err)
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

enum ckpt_status lineage_pick(const struct lineage *l, const struct lineage_wish *wish,
                              struct record_resolved *ret, struct ckpt_err *err)
{
    struct record_resolved out = { .epoch = wish->below };
    if (wish->forced) {
        enum ckpt_status st = pick_forced(l, wish, &out, err);
        if (st == CKPT_OK)
            *ret = out;
        return st;
    }
    struct choice c = { .l = l, .below = wish->below };
    c.seen = calloc(l->commit_count + 1, sizeof(*c.seen));
    if (!c.seen)
        return err_set(err, CKPT_NO_MEMORY, "no memory for %zu checkpoints", l->commit_count);
    enum ckpt_status st = pick_newest(&c, &out, err);
    free(c.seen);
    if (st != CKPT_OK) {
        free(c.skips);
        return st;
    }
    out.skips = c.skips;
    out.skip_count = c.skip_count;
    *ret = out;
    return CKPT_OK;
}

/* ---- words ---- */

struct words {
    char *buf;
    size_t cap, len;
};

static void CKPT_PRINTF(2, 3) say(struct words *w, const char *fmt, ...)
{
    if (w->len + 1 >= w->cap)
        return;
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(w->buf + w->len, w->cap - w->len, fmt, ap);
    va_end(ap);
    if (n > 0)
        w->len = min_u64(w->len + (size_t)n, w->cap - 1);
}

static void say_launch(struct words *w, const struct lineage *l,
                       const struct lineage_launch *launch)
{
    say(w, "launch %" PRIu64 ": ", launch->epoch);
    if (!launch->resolved)
        say(w, "has not resolved");
    else if (launch->kind == RESOLVED_SUPERSEDED)
        say(w, "was superseded before it resolved");
    else if (launch->kind == RESOLVED_NOTHING)
        say(w, "started at the beginning");
    else
        say(w, "resumed from step %" PRIu64 " of epoch %" PRIu64, launch->point.step,
            launch->point.epoch);
    say(w, "%s%s%s", launch->forced ? ", asked for" : "", launch->restored ? ", restored" : "",
        !launch->progressed                             ? ""
        : launch->progress_step == RECORD_STEP_FINISHED ? ", had nothing left to do"
                                                        : ", made progress");
    size_t first = commits_from(l, launch->epoch), n = 0;
    while (first + n < l->commit_count && l->commits[first + n].name.epoch == launch->epoch)
        n++;
    if (n)
        say(w, ", saved %zu, highest step %" PRIu64, n, l->commits[first].name.step);
    if (launch->bad_count)
        say(w, ", %u ranks failed on step %" PRIu64 ": %s", launch->bad_count,
            launch->bad_name.step, launch->bad_text);
    say(w, "\n");
}

void lineage_to_text(const struct lineage *l, const struct record_resolved *next, char *buf,
                     size_t cap)
{
    struct words w = { .buf = buf, .cap = cap };
    if (cap)
        buf[0] = 0;
    if (next && next->kind == RESOLVED_POINT)
        say(&w, "next: step %" PRIu64 " of epoch %" PRIu64 ": %s\n", next->name.step,
            next->name.epoch, next->why);
    else if (next)
        say(&w, "next: from the beginning: %s\n", next->why);
    for (uint32_t i = 0; next && i < next->skip_count; i++)
        say(&w, "  not step %" PRIu64 " of epoch %" PRIu64 ": %s\n", next->skips[i].name.step,
            next->skips[i].name.epoch, next->skips[i].why);
    for (size_t i = 0; i < l->launch_count; i++)
        say_launch(&w, l, &l->launches[i]);
}
