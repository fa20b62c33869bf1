/* Applying a retention policy: each rule marks what it keeps, and says why. */
#include <fnmatch.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <time.h>

#include "storage/repo/keep_policy.h"

#define HOUR_NS (INT64_C(3600) * 1000000000)
#define DAY_NS  (24 * HOUR_NS)
#define WEEK_NS (7 * DAY_NS)
/* 1970-01-01 was a Thursday: the week of time 0 began three days before. */
#define WEEK_SHIFT_NS (3 * DAY_NS)

struct keeping {
    struct keep_item *items;
    size_t count;
    size_t *order; /* scratch, `count` long */
    int64_t now_ns;
};

static void CKPT_PRINTF(2, 3) keep(struct keep_item *item, const char *fmt, ...)
{
    size_t len = strlen(item->why);
    va_list ap;
    va_start(ap, fmt);
    if (len && len + 2 < sizeof(item->why)) {
        memcpy(item->why + len, ", ", 3);
        len += 2;
    }
    vsnprintf(item->why + len, sizeof(item->why) - len, fmt, ap);
    va_end(ap);
    item->keep = true;
}

/* ---- rules ---- */

static void keep_last(struct keeping *k, const struct keep_rule *r)
{
    uint64_t kept = 0;
    for (size_t i = 0; i < k->count && kept < r->n; i++)
        if (k->items[i].counts)
            keep(&k->items[i], "%s: number %" PRIu64, r->text, ++kept);
}

static void keep_every(struct keeping *k, const struct keep_rule *r)
{
    for (size_t i = 0; i < k->count; i++)
        if (k->items[i].counts && k->items[i].name.step % r->n == 0)
            keep(&k->items[i], "%s", r->text);
}

/* A clock that was set back makes things younger, never older. */
static void keep_within(struct keeping *k, const struct keep_rule *r)
{
    for (size_t i = 0; i < k->count; i++) {
        int64_t time_ns = k->items[i].time_ns;
        if (time_ns > k->now_ns || k->now_ns - time_ns <= r->within_ns)
            keep(&k->items[i], "%s", r->text);
    }
}

static void keep_tagged(struct keeping *k, const struct keep_rule *r)
{
    for (size_t i = 0; i < k->count; i++) {
        struct keep_item *item = &k->items[i];
        for (size_t t = 0; t < item->tag_count; t++) {
            if (fnmatch(r->name, item->tags[t], 0) != 0)
                continue;
            keep(item, "%s: %s", r->text, item->tags[t]);
            break;
        }
    }
}

/* ---- hours, days, weeks ---- */

static int64_t floor_div(int64_t a, int64_t b)
{
    return a / b - (a % b < 0);
}

static int64_t period_of(const struct keep_rule *r, int64_t time_ns)
{
    if (r->kind == KEEP_HOURLY)
        return floor_div(time_ns, HOUR_NS);
    if (r->kind == KEEP_DAILY)
        return floor_div(time_ns, DAY_NS);
    return floor_div(time_ns + WEEK_SHIFT_NS, WEEK_NS);
}

/* "hour 2026-11-21 13", "day 2026-11-21", "week of 2026-11-16" */
static void period_text(const struct keep_rule *r, int64_t period, char *buf, size_t cap)
{
    struct tm tm;
    int64_t ns = r->kind == KEEP_HOURLY  ? period * HOUR_NS
                 : r->kind == KEEP_DAILY ? period * DAY_NS
                                         : period * WEEK_NS - WEEK_SHIFT_NS;
    time_t seconds = (time_t)floor_div(ns, INT64_C(1000000000));
    if (cap)
        buf[0] = 0;
    if (gmtime_r(&seconds, &tm))
        strftime(buf, cap,
                 r->kind == KEEP_HOURLY  ? "hour %Y-%m-%d %H"
                 : r->kind == KEEP_DAILY ? "day %Y-%m-%d"
                                         : "week of %Y-%m-%d",
                 &tm);
}

struct sorting {
    const struct keeping *k;
    const struct keep_rule *r;
};

/* Latest period first; in it the newest checkpoint first. */
static int order_periods(const void *a, const void *b, void *arg)
{
    const struct sorting *s = arg;
    size_t i = *(const size_t *)a, j = *(const size_t *)b;
    int64_t pi = period_of(s->r, s->k->items[i].time_ns);
    int64_t pj = period_of(s->r, s->k->items[j].time_ns);
    if (pi != pj)
        return pi > pj ? -1 : 1;
    return (i > j) - (i < j);
}

static size_t collect_counting(struct keeping *k)
{
    size_t n = 0;
    for (size_t i = 0; i < k->count; i++)
        if (k->items[i].counts)
            k->order[n++] = i;
    return n;
}

static void keep_periods(struct keeping *k, const struct keep_rule *r)
{
    struct sorting by = { .k = k, .r = r };
    size_t n = collect_counting(k);
    uint64_t kept = 0;
    int64_t last = 0;
    qsort_r(k->order, n, sizeof(k->order[0]), order_periods, &by);
    for (size_t i = 0; i < n && kept < r->n; i++) {
        struct keep_item *item = &k->items[k->order[i]];
        int64_t period = period_of(r, item->time_ns);
        char text[64];
        if (kept && period == last)
            continue;
        last = period;
        kept++;
        period_text(r, period, text, sizeof(text));
        keep(item, "%s: newest of %s", r->text, text);
    }
}

/* ---- best ---- */

/* False when the checkpoint has no such metric, or one that is no number. */
static bool metric_of(const struct keep_item *item, const char *name, double *ret)
{
    for (uint32_t m = 0; m < item->metric_count; m++) {
        if (strcmp(item->metrics[m].name, name) != 0)
            continue;
        *ret = item->metrics[m].value;
        return !isnan(*ret);
    }
    return false;
}

/* Best first; of equal ones the newest. */
static int order_values(const void *a, const void *b, void *arg)
{
    const struct sorting *s = arg;
    size_t i = *(const size_t *)a, j = *(const size_t *)b;
    double x = 0, y = 0;
    bool has_x = metric_of(&s->k->items[i], s->r->name, &x);
    bool has_y = metric_of(&s->k->items[j], s->r->name, &y);
    if (has_x != has_y)
        return has_x ? -1 : 1;
    if (x < y || x > y)
        return (x < y) == s->r->highest ? 1 : -1;
    return (i > j) - (i < j);
}

static void keep_best(struct keeping *k, const struct keep_rule *r)
{
    struct sorting by = { .k = k, .r = r };
    size_t n = collect_counting(k);
    qsort_r(k->order, n, sizeof(k->order[0]), order_values, &by);
    for (size_t i = 0; i < n && i < r->n; i++) {
        double value;
        if (metric_of(&k->items[k->order[i]], r->name, &value))
            keep(&k->items[k->order[i]], "%s: %.9g", r->text, value);
    }
}

/* ------------------------------------------------------------------------ */

enum ckpt_status keep_policy_apply(const struct keep_policy *p, int64_t now_ns,
                                   struct keep_item *items, size_t count, struct ckpt_err *err)
{
    static void (*const apply[])(struct keeping *, const struct keep_rule *) = {
        [KEEP_LAST] = keep_last,      [KEEP_EVERY] = keep_every,   [KEEP_WITHIN] = keep_within,
        [KEEP_HOURLY] = keep_periods, [KEEP_DAILY] = keep_periods, [KEEP_WEEKLY] = keep_periods,
        [KEEP_TAG] = keep_tagged,     [KEEP_BEST] = keep_best,
    };
    CLEANUP_FREE size_t *order = calloc(count + 1, sizeof(*order));
    if (!order)
        return err_set(err, CKPT_NO_MEMORY, "no memory to decide over %zu checkpoints", count);
    struct keeping k = { .items = items, .count = count, .order = order, .now_ns = now_ns };
    for (size_t i = 0; i < count; i++) {
        items[i].keep = false;
        items[i].why[0] = 0;
    }
    for (size_t i = 0; i < p->count; i++)
        apply[p->rules[i].kind](&k, &p->rules[i]);
    return CKPT_OK;
}
