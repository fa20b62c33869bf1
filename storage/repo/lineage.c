/* The facts of a job's history (rules I3, I5), over records that somebody has read: its
 * trail, its crash loops, and both in words. */
#include <inttypes.h>
#include <stdio.h>

#include "formats/text.h"
#include "storage/repo/lineage_trail.h"

void lineage_fini(struct lineage *l)
{
    if (!l)
        return;
    free(l->launches);
    free(l->commits);
    *l = (struct lineage){ 0 };
}

/* ---- looking things up ---- */

size_t lineage_commits_from(const struct lineage *l, uint64_t epoch)
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
    size_t i = lineage_commits_from(l, epoch);
    return i < l->commit_count && l->commits[i].name.epoch == epoch;
}

const struct lineage_commit *lineage_find_commit(const struct lineage *l,
                                                 const struct ckpt_name *name)
{
    for (size_t i = lineage_commits_from(l, name->epoch);
         i < l->commit_count && l->commits[i].name.epoch == name->epoch; i++)
        if (name_equal(&l->commits[i].name, name))
            return &l->commits[i];
    return NULL;
}

static bool moved_on(const struct lineage_launch *launch)
{
    return launch->resolved && launch->kind != RESOLVED_SUPERSEDED;
}

/* The first launch (in list order) whose epoch is < below. */
static size_t launches_below(const struct lineage *l, uint64_t below)
{
    size_t lo = 0, hi = l->launch_count;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (l->launches[mid].epoch >= below)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

const struct lineage_launch *lineage_resolved_below(const struct lineage *l, uint64_t below)
{
    for (size_t i = launches_below(l, below); i < l->launch_count; i++)
        if (moved_on(&l->launches[i]))
            return &l->launches[i];
    return NULL;
}

static const struct lineage_launch *resolved_at(const struct lineage *l, uint64_t epoch)
{
    size_t i = launches_below(l, epoch);
    const struct lineage_launch *launch = i ? &l->launches[i - 1] : NULL;
    return launch && launch->epoch == epoch && moved_on(launch) ? launch : NULL;
}

/* ---- the trail ---- */

bool trail_covers(const struct stretch *s, const struct ckpt_name *name)
{
    if (name->epoch != s->epoch || name->step > s->top)
        return false;
    return !s->is_point || name->step < s->top || name_equal(name, &s->point);
}

/* Asked about one name, a trail keeps nothing: the answer must not depend on memory. */
static void trail_add(struct trail *t, struct stretch s)
{
    if (t->wanted) {
        t->covered = t->covered || (!t->off_branch && trail_covers(&s, t->wanted));
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

/* The launch of that epoch, or (not exact) the newest resolved one below it; NULL: none, or it
 * was not read, and then the trail ends here. */
static const struct lineage_launch *step_to(const struct lineage *l, uint64_t epoch, bool exact,
                                            struct trail *t)
{
    if (exact && epoch >= l->resolved_from)
        return resolved_at(l, epoch);
    const struct lineage_launch *found = exact ? NULL : lineage_resolved_below(l, epoch);
    if (found && found->epoch >= l->resolved_from)
        return found;
    for (size_t i = launches_below(l, exact ? epoch + 1 : epoch); i < l->launch_count; i++) {
        const struct lineage_launch *launch = &l->launches[i];
        if (launch->epoch >= l->resolved_from || !launch->resolved ||
            (exact && launch->epoch != epoch))
            continue;
        t->cut = true;
        t->need = launch->epoch;
        break;
    }
    return NULL;
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
        from = step_to(l, from->point.epoch, true, t);
    }
}

static bool transparent(const struct lineage *l, const struct lineage_launch *launch)
{
    return !launch->forced && !has_commits(l, launch->epoch);
}

void trail_walk(const struct lineage *l, uint64_t below, struct trail *t)
{
    const struct lineage_launch *head = step_to(l, below, false, t);
    const struct lineage_launch *newest = head;
    while (head && transparent(l, head))
        head = step_to(l, head->epoch, false, t);
    if (t->cut)
        return;
    if (head && has_commits(l, head->epoch))
        trail_add(t, (struct stretch){ .epoch = head->epoch, .top = UINT64_MAX });
    trail_descend(l, head, t);
    t->branch = t->count;
    t->off_branch = true;
    if (t->cut)
        return;
    /* The transparent launches' own resume points, the oldest launch's first. */
    uint64_t above = head ? head->epoch : 0;
    while (newest && newest->epoch > above) {
        const struct lineage_launch *oldest = newest;
        for (const struct lineage_launch *e = newest; e && e->epoch > above;
             e = lineage_resolved_below(l, e->epoch))
            oldest = e;
        trail_descend(l, oldest, t);
        if (t->cut)
            return;
        above = oldest->epoch;
    }
}

bool lineage_on_branch(const struct lineage *l, const struct ckpt_name *name)
{
    struct trail t = { .wanted = name };
    trail_walk(l, UINT64_MAX, &t);
    return t.covered;
}

bool lineage_mark_branch(const struct lineage *l, bool *marks)
{
    struct trail t = { 0 };
    trail_walk(l, UINT64_MAX, &t);
    memset(marks, 0, l->commit_count * sizeof(*marks));
    for (size_t k = 0; k < t.branch && !t.failed; k++) {
        const struct stretch *s = &t.stretches[k];
        for (size_t i = lineage_commits_from(l, s->epoch);
             i < l->commit_count && l->commits[i].name.epoch == s->epoch; i++)
            marks[i] = marks[i] || trail_covers(s, &l->commits[i].name);
    }
    free(t.stretches);
    return !t.failed;
}

const struct lineage_commit *lineage_newest_restorable(const struct lineage *l)
{
    const struct lineage_commit *any = NULL;
    for (size_t i = 0; i < l->commit_count; i++) {
        const struct lineage_commit *c = &l->commits[i];
        if (c->life != LIFE_LIVE || !c->restorable)
            continue;
        if (lineage_on_branch(l, &c->name))
            return c;
        any = any ? any : c;
    }
    return any;
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

struct ckpt_name lineage_origin(const struct lineage *l, const struct ckpt_name *name)
{
    struct ckpt_name at = *name;
    for (;;) {
        const struct lineage_launch *launch = resolved_at(l, at.epoch);
        if (!launch || launch->kind != RESOLVED_POINT || launch->point.step != at.step ||
            launch->point.epoch >= at.epoch)
            return at;
        at = launch->point;
    }
}

static bool resumed_from_state(const struct lineage *l, const struct lineage_launch *launch,
                               const struct ckpt_name *origin)
{
    if (!moved_on(launch) || launch->kind != RESOLVED_POINT || launch->point.step != origin->step ||
        launch->point.epoch >= launch->epoch)
        return false;
    struct ckpt_name from = lineage_origin(l, &launch->point);
    return name_equal(&from, origin);
}

/* Of an epoch's commits the highest step comes first. */
static bool got_beyond(const struct lineage *l, const struct lineage_launch *launch)
{
    return launch->progressed ||
           (has_commits(l, launch->epoch) &&
            l->commits[lineage_commits_from(l, launch->epoch)].name.step > launch->point.step);
}

struct crash_run lineage_crash_run(const struct lineage *l, const struct ckpt_name *name,
                                   uint64_t below)
{
    const struct ckpt_name origin = lineage_origin(l, name);
    struct crash_run run = { 0 };
    for (size_t i = 0; i < l->launch_count; i++) {
        const struct lineage_launch *launch = &l->launches[i];
        if (launch->epoch >= below || !resumed_from_state(l, launch, &origin))
            continue;
        if (got_beyond(l, launch))
            break;
        if (launch->restored && died(l, i)) {
            run.crashes++;
            run.first = launch;
        }
        if (launch->forced) /* somebody decided to try again: older crashes are forgiven */
            break;
    }
    return run;
}

uint32_t lineage_crashes(const struct lineage *l, const struct ckpt_name *name, uint64_t below)
{
    return lineage_crash_run(l, name, below).crashes;
}

const struct lineage_launch *lineage_corrupt_in(const struct lineage *l,
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
    return lineage_corrupt_in(l, name, below) || lineage_crashes(l, name, below) >= LINEAGE_CRASHES;
}

/* ---- words ---- */

struct words {
    char *buf;
    size_t cap, len;
};

/* A part of a line.  What records say stays inside it. */
static void CKPT_PRINTF(2, 3) say(struct words *w, const char *fmt, ...)
{
    if (w->len + 1 >= w->cap)
        return;
    char *from = w->buf + w->len;
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(from, w->cap - w->len, fmt, ap);
    va_end(ap);
    if (n > 0)
        w->len += strlen(text_clean(from, from, w->cap - w->len));
}

static void end_line(struct words *w)
{
    if (w->len + 1 >= w->cap)
        return;
    w->buf[w->len++] = '\n';
    w->buf[w->len] = 0;
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
    size_t first = lineage_commits_from(l, launch->epoch), n = 0;
    while (first + n < l->commit_count && l->commits[first + n].name.epoch == launch->epoch)
        n++;
    if (n)
        say(w, ", saved %zu, highest step %" PRIu64, n, l->commits[first].name.step);
    if (launch->bad_count)
        say(w, ", %u ranks failed on step %" PRIu64 ": %s", launch->bad_count,
            launch->bad_name.step, launch->bad_text);
    end_line(w);
}

static void say_next(struct words *w, const struct record_resolved *next)
{
    if (next->kind == RESOLVED_POINT)
        say(w, "next: step %" PRIu64 " of epoch %" PRIu64 ": %s", next->name.step, next->name.epoch,
            next->why);
    else
        say(w, "next: from the beginning: %s", next->why);
    end_line(w);
    for (uint32_t i = 0; i < next->skip_count; i++) {
        say(w, "  not step %" PRIu64 " of epoch %" PRIu64 ": %s", next->skips[i].name.step,
            next->skips[i].name.epoch, next->skips[i].why);
        end_line(w);
    }
}

void lineage_to_text(const struct lineage *l, const struct record_resolved *next, char *buf,
                     size_t cap)
{
    struct words w = { .buf = buf, .cap = cap };
    if (cap)
        buf[0] = 0;
    if (next)
        say_next(&w, next);
    for (size_t i = 0; i < l->launch_count; i++)
        say_launch(&w, l, &l->launches[i]);
}
