/* What must stay, computed plainly from what is documented: for each checkpoint, count
 * those before it.  Uses nothing of the engine but, for the
 * one point that the next launch would take, what the rules of history say (I3). */
#include <math.h>

#include "props/prune_world.h"

static bool live(const struct pw_ckpt *c)
{
    return c->what == PW_COMMITTED && c->life == LIFE_LIVE;
}

/* Deleted ones are still there; gone ones are not. */
static bool there(const struct pw_ckpt *c)
{
    return c->what == PW_COMMITTED && c->life != LIFE_GONE;
}

static bool newer(const struct pw_ckpt *a, const struct pw_ckpt *b)
{
    if (a->name.epoch != b->name.epoch)
        return a->name.epoch > b->name.epoch;
    return a->name.step > b->name.step;
}

/* ---- the newest lineage ---- */

static bool saved_any(const struct pw_world *w, uint64_t epoch)
{
    for (size_t i = 0; i < w->count; i++)
        if (there(&w->ckpts[i]) && w->ckpts[i].name.epoch == epoch)
            return true;
    return false;
}

static const struct pw_launch *launch_of(const struct pw_world *w, uint64_t epoch)
{
    for (size_t i = 0; i < w->launch_count; i++)
        if (w->launches[i].epoch == epoch && w->launches[i].resolved)
            return &w->launches[i];
    return NULL;
}

/* The newest resolved launch that saved something or was told where to start. */
static const struct pw_launch *head_of(const struct pw_world *w)
{
    for (size_t i = w->launch_count; i-- > 0;) {
        const struct pw_launch *l = &w->launches[i];
        if (l->resolved && (l->forced || saved_any(w, l->epoch)))
            return l;
    }
    return NULL;
}

bool pw_on_branch(const struct pw_world *w, size_t i)
{
    const struct ckpt_name *name = &w->ckpts[i].name;
    const struct pw_launch *l = head_of(w);
    if (l && l->epoch == name->epoch)
        return true;
    while (l && l->has_point) {
        if (l->point.epoch == name->epoch)
            return name->step < l->point.step || name_equal(name, &l->point);
        l = launch_of(w, l->point.epoch);
    }
    return false;
}

/* ---- rules ---- */

static bool complete(const struct pw_ckpt *c)
{
    return c->held || c->far;
}

/* coming: as if all were complete. */
static bool counts(const struct pw_world *w, size_t i, bool coming)
{
    const struct pw_ckpt *c = &w->ckpts[i];
    return live(c) && (coming || complete(c)) && !c->bad && pw_on_branch(w, i);
}

static int64_t period(const struct pw_rule *r, int64_t time_ns)
{
    int64_t hours = time_ns / PW_HOUR; /* times here are after 1970 */
    if (r->kind == KEEP_HOURLY)
        return hours;
    return r->kind == KEEP_DAILY ? hours / 24 : (hours / 24 + 3) / 7;
}

static bool keeps_period(const struct pw_world *w, const struct pw_rule *r, size_t i, bool coming)
{
    int64_t mine = period(r, w->ckpts[i].time_ns), later[PW_CKPTS];
    uint64_t n = 0;
    for (size_t k = 0; k < w->count; k++) {
        if (k == i || !counts(w, k, coming))
            continue;
        int64_t p = period(r, w->ckpts[k].time_ns);
        if (p == mine && newer(&w->ckpts[k], &w->ckpts[i]))
            return false;
        bool known = p <= mine;
        for (uint64_t j = 0; j < n; j++)
            known = known || later[j] == p;
        if (!known)
            later[n++] = p;
    }
    return n < r->n;
}

static bool keeps_best(const struct pw_world *w, const struct pw_rule *r, size_t i, bool coming)
{
    const struct pw_ckpt *c = &w->ckpts[i];
    uint64_t better = 0;
    if (!c->has_loss || isnan(c->loss))
        return false;
    for (size_t k = 0; k < w->count; k++) {
        const struct pw_ckpt *o = &w->ckpts[k];
        if (k == i || !counts(w, k, coming) || !o->has_loss || isnan(o->loss))
            continue;
        bool beats = r->highest ? o->loss > c->loss : o->loss < c->loss;
        better += beats || (o->loss == c->loss && newer(o, c));
    }
    return better < r->n;
}

static bool has_tag(const struct pw_ckpt *c, const char *pattern)
{
    size_t len = strlen(pattern);
    bool prefix = len && pattern[len - 1] == '*';
    for (unsigned t = 0; t < ARRAY_COUNT(pw_tags); t++)
        if (c->tags >> t & 1 && (prefix ? strncmp(pw_tags[t], pattern, len - 1) == 0
                                        : strcmp(pw_tags[t], pattern) == 0))
            return true;
    return false;
}

static bool rule_keeps(const struct pw_world *w, const struct pw_rule *r, size_t i, bool coming)
{
    const struct pw_ckpt *c = &w->ckpts[i];
    if (r->kind == KEEP_WITHIN)
        return c->time_ns + r->within_ns >= w->now_ns;
    if (r->kind == KEEP_TAG)
        return has_tag(c, r->pattern);
    if (!counts(w, i, coming))
        return false;
    if (r->kind == KEEP_EVERY)
        return c->name.step % r->n == 0;
    if (r->kind == KEEP_BEST)
        return keeps_best(w, r, i, coming);
    if (r->kind != KEEP_LAST)
        return keeps_period(w, r, i, coming);
    uint64_t before = 0;
    for (size_t k = 0; k < w->count; k++)
        before += counts(w, k, coming) && newer(&w->ckpts[k], c);
    return before < r->n;
}

/* ---- what stays by itself ---- */

/* Is there no better answer to "what can be restored" from this store alone? */
static bool newest_in(const struct pw_world *w, size_t i, bool tier)
{
    const struct pw_ckpt *c = &w->ckpts[i];
    if (!(tier ? c->far : c->held))
        return false;
    for (size_t k = 0; k < w->count; k++) {
        const struct pw_ckpt *o = &w->ckpts[k];
        if (k == i || !live(o) || o->bad || !(tier ? o->far : o->held))
            continue;
        bool mine = pw_on_branch(w, i), other = pw_on_branch(w, k);
        if ((other && !mine) || (other == mine && newer(o, c)))
            return false;
    }
    return true;
}

static bool last_point(const struct pw_world *w, size_t i)
{
    for (size_t l = w->launch_count; l-- > 0;)
        if (w->launches[l].resolved)
            return w->launches[l].has_point && name_equal(&w->launches[l].point, &w->ckpts[i].name);
    return false;
}

static bool on_its_way(const struct pw_world *w, size_t i)
{
    if (complete(&w->ckpts[i]))
        return false;
    if (w->ckpts[i].time_ns + PW_HOUR > w->now_ns)
        return true;
    for (size_t k = 0; k < w->count; k++)
        if (counts(w, k, false) && newer(&w->ckpts[k], &w->ckpts[i]))
            return false;
    return true;
}

bool pw_must_stay(const struct pw_world *w, size_t i)
{
    const struct pw_ckpt *c = &w->ckpts[i];
    if (w->has_next && name_equal(&w->next, &c->name))
        return true;
    if (c->tags || c->bad || c->draining || last_point(w, i) || newest_in(w, i, false) ||
        newest_in(w, i, true) || on_its_way(w, i) || (c->absent && !complete(c)))
        return true;
    for (size_t r = 0; r < w->rule_count; r++)
        if (rule_keeps(w, &w->rules[r], i, false) || rule_keeps(w, &w->rules[r], i, true))
            return true;
    return false;
}
