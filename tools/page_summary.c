/* The page in a screenful. */
#include "tools/page_summary.h"

#include <inttypes.h>

#include "formats/meter.h"
#include "formats/text.h"
#include "tools/output.h"

#define CELL_MAX 256

/* -- members ----------------------------------------------------------------------- */

static double number(const json_t *from, const char *name)
{
    return json_number_value(json_object_get(from, name));
}

static double meter(const json_t *from, enum meter_id id)
{
    return number(from, meters[id].name);
}

static uint64_t count(const json_t *from, enum meter_id id)
{
    double n = meter(from, id);
    return n > 0 && n < 0x1p63 ? (uint64_t)n : 0;
}

static bool has(const json_t *from, const char *name)
{
    return json_is_number(json_object_get(from, name));
}

static const char *text(const json_t *from, const char *name, char ret[CELL_MAX])
{
    const char *s = json_string_value(json_object_get(from, name));
    return text_clean(s ? s : "-", ret, CELL_MAX);
}

static uint64_t bytes(double n)
{
    return n > 0 && n < 0x1p63 ? (uint64_t)n : 0;
}

static void rate_cell(struct output_table *t, size_t column, const json_t *from)
{
    char rate[OUTPUT_TEXT];
    output_cell(t, column, "%s",
                has(from, "rate") ? output_rate(bytes(number(from, "rate")), 1, rate) : "-");
}

static void seconds_cell(struct output_table *t, size_t column, const json_t *from,
                         const char *name)
{
    char s[OUTPUT_TEXT];
    output_cell(t, column, "%s", has(from, name) ? output_seconds(number(from, name), s) : "-");
}

/* -- the head ---------------------------------------------------------------------- */

static void print_rates(const json_t *now, const json_t *before, FILE *to)
{
    const json_t *a = json_object_get(before, "counters"), *b = json_object_get(now, "counters");
    char wrote[OUTPUT_TEXT], read[OUTPUT_TEXT];
    double s = meter(b, METER_NODE_UPTIME) - meter(a, METER_NODE_UPTIME);
    output_line(
        to, "rates     writing %s, reading %s",
        output_rate(bytes(meter(b, METER_NODE_PACK_BYTES) - meter(a, METER_NODE_PACK_BYTES)), s,
                    wrote),
        output_rate(bytes(meter(b, METER_NODE_LOAD_BYTES) - meter(a, METER_NODE_LOAD_BYTES)), s,
                    read));
}

static void print_head(const json_t *page, const json_t *before, FILE *to)
{
    const json_t *n = json_object_get(page, "counters");
    char version[CELL_MAX], io[CELL_MAX], up[OUTPUT_TEXT], a[OUTPUT_TEXT], b[OUTPUT_TEXT],
        c[OUTPUT_TEXT];
    output_line(to, "ckptd %s, pid %" PRIu64 ", up %s%s%s", text(page, "version", version),
                bytes(number(page, "pid")), output_seconds(meter(n, METER_NODE_UPTIME), up),
                json_is_true(json_object_get(page, "private")) ? ", private" : "",
                json_is_true(json_object_get(page, "stopping")) ? ", ENDING" : "");
    if (count(n, METER_NODE_WORKERS) > 1)
        fprintf(to, "worker    died and was replaced %s\n",
                output_count(count(n, METER_NODE_WORKERS) - 1, "time", a));
    output_line(to, "store     %s", text(page, "io", io));
    output_line(to, "memory    %s for %s; of %s %" PRIu64 " free, %" PRIu64 " to be written",
                output_bytes(count(n, METER_NODE_ARENA_BYTES), a),
                output_count(count(n, METER_NODE_SESSIONS_OPEN), "session", b),
                output_count(count(n, METER_NODE_SLOTS), "slot", c),
                count(n, METER_NODE_SLOTS_FREE), count(n, METER_NODE_SLOTS_QUEUED));
    output_line(to, "saves     %" PRIu64 " committed, %" PRIu64 " given up; %s written, %s read",
                count(n, METER_NODE_COMMITTED), count(n, METER_NODE_ABORTED),
                output_bytes(count(n, METER_NODE_PACK_BYTES), a),
                output_bytes(count(n, METER_NODE_LOAD_BYTES), b));
    if (before)
        print_rates(page, before, to);
}

/* -- jobs -------------------------------------------------------------------------- */

static void job_row(struct output_table *t, const json_t *job)
{
    const json_t *busy = json_object_get(job, "busy"), *slow = json_object_get(busy, "slowest");
    char name[CELL_MAX], kind[CELL_MAX], level[CELL_MAX];
    double total = number(busy, "bytes_total");
    bool trains = json_is_true(json_object_get(job, "training"));
    output_row(t, trains || busy ? OUTPUT_PLAIN : OUTPUT_DIM);
    output_cell(t, 0, "%s", text(job, "job", name));
    output_cell(t, 1, "%" PRIu64, count(job, METER_JOB_STEP));
    if (trains)
        output_cell(t, 2, "%" PRIu64 " of %" PRIu64, count(job, METER_JOB_RANKS),
                    bytes(number(job, "world")));
    output_cell(t, 3, "%" PRIu64, count(job, METER_JOB_COMMITTED));
    if (!busy) {
        output_cell(t, 4, "%s", trains ? "training" : "over");
        return;
    }
    output_cell(t, 4, "%s %" PRIu64 " %s",
                strcmp(text(busy, "kind", kind), "load") == 0 ? "restore"
                                                              : text(busy, "kind", kind),
                bytes(number(busy, "step")), text(busy, "level", level));
    output_cell(t, 5, "%.0f %%", total > 0 ? 100 * number(busy, "bytes") / total : 0);
    rate_cell(t, 6, busy);
    seconds_cell(t, 7, busy, "eta");
    if (slow && !json_object_get(slow, "pid"))
        output_cell(t, 8, "rank %" PRIu64 ", on another node", bytes(number(slow, "rank")));
    else if (slow)
        output_cell(t, 8, "rank %" PRIu64 " (pid %" PRIu64 ") at %.0f %%",
                    bytes(number(slow, "rank")), bytes(number(slow, "pid")),
                    100 * number(slow, "done"));
}

static enum ckpt_status print_jobs(const json_t *jobs, FILE *to, struct ckpt_err *err)
{
    static const struct output_column columns[] = {
        { "JOB", OUTPUT_LEFT },          { "STEP", OUTPUT_RIGHT }, { "RANKS HERE", OUTPUT_LEFT },
        { "CHECKPOINTS", OUTPUT_RIGHT }, { "DOING", OUTPUT_LEFT }, { "DONE", OUTPUT_RIGHT },
        { "RATE", OUTPUT_RIGHT },        { "LEFT", OUTPUT_RIGHT }, { "SLOWEST", OUTPUT_LEFT },
    };
    struct output_table t;
    size_t i;
    const json_t *job;
    output_table_init(&t, columns, ARRAY_COUNT(columns));
    json_array_foreach(jobs, i, job) job_row(&t, job);
    fputc('\n', to);
    enum ckpt_status st = output_table_print(&t, to, err);
    output_table_fini(&t);
    return st;
}

/* -- what would be lost ------------------------------------------------------------ */

static bool outlives(const json_t *tiers, const json_t *name)
{
    size_t i;
    const json_t *t;
    json_array_foreach(tiers, i, t)
    {
        if (json_equal(json_object_get(t, "tier"), name))
            return json_is_true(json_object_get(t, "outlives_node"));
    }
    return false;
}

static void lost_rows(struct output_table *t, const json_t *job, const json_t *tiers)
{
    const json_t *best = NULL, *kept;
    char name[CELL_MAX], tier[CELL_MAX];
    size_t i;
    json_array_foreach(json_object_get(job, "tiers"), i, kept)
    {
        bool safe = outlives(tiers, json_object_get(kept, "tier"));
        output_row(t, OUTPUT_PLAIN);
        output_cell(t, 0, "%s", text(job, "job", name));
        output_cell(t, 1, "%s", text(kept, "tier", tier));
        output_cell(t, 2, "%s", safe ? "yes" : "no");
        if (has(kept, meters[METER_KEPT_STEP].name))
            output_cell(t, 3, "%" PRIu64, count(kept, METER_KEPT_STEP));
        else
            output_cell(t, 3, "-");
        seconds_cell(t, 4, kept, meters[METER_KEPT_LOST_SECONDS].name);
        output_cell(t, 5, "%" PRIu64, count(kept, METER_KEPT_LOST_STEPS));
        if (safe &&
            (!best || meter(kept, METER_KEPT_LOST_SECONDS) < meter(best, METER_KEPT_LOST_SECONDS)))
            best = kept;
    }
    output_row(t, best ? OUTPUT_PLAIN : OUTPUT_BAD);
    output_cell(t, 0, "%s", text(job, "job", name));
    output_cell(t, 1, "if the node dies: %s", best ? text(best, "tier", tier) : "nothing");
    if (!best) {
        output_cell(t, 4, "everything");
        return;
    }
    seconds_cell(t, 4, best, meters[METER_KEPT_LOST_SECONDS].name);
    output_cell(t, 5, "%" PRIu64, count(best, METER_KEPT_LOST_STEPS));
}

static enum ckpt_status print_lost(const json_t *page, FILE *to, struct ckpt_err *err)
{
    static const struct output_column columns[] = {
        { "JOB", OUTPUT_LEFT },           { "IF ONLY IT IS LEFT", OUTPUT_LEFT },
        { "OUTLIVES NODE", OUTPUT_LEFT }, { "NEWEST", OUTPUT_RIGHT },
        { "LOST NOW", OUTPUT_RIGHT },     { "STEPS", OUTPUT_RIGHT },
    };
    struct output_table t;
    size_t i;
    const json_t *job;
    output_table_init(&t, columns, ARRAY_COUNT(columns));
    json_array_foreach(json_object_get(page, "jobs"), i, job)
        lost_rows(&t, job, json_object_get(page, "tiers"));
    fputc('\n', to);
    enum ckpt_status st = output_table_print(&t, to, err);
    output_table_fini(&t);
    return st;
}

/* -- tiers ------------------------------------------------------------------------- */

static void tier_row(struct output_table *t, const json_t *tier)
{
    char name[CELL_MAX], state[CELL_MAX], url[CELL_MAX], put[OUTPUT_TEXT];
    output_row(t, meter(tier, METER_TIER_FAILING) > 0 ? OUTPUT_BAD : OUTPUT_PLAIN);
    output_cell(t, 0, "%s", text(tier, "tier", name));
    output_cell(t, 1, "%s", text(tier, "state", state));
    output_cell(t, 2, "%" PRIu64, count(tier, METER_TIER_LAG));
    seconds_cell(t, 3, tier, meters[METER_TIER_LAG_SECONDS].name);
    output_cell(t, 4, "%" PRIu64, count(tier, METER_TIER_HELD));
    output_cell(t, 5, "%s", output_bytes(count(tier, METER_TIER_PUT_BYTES), put));
    rate_cell(t, 6, tier);
    seconds_cell(t, 7, tier, "eta");
    output_cell(t, 8, "%" PRIu64, count(tier, METER_TIER_TROUBLES));
    output_cell(t, 9, "%s", text(tier, "url", url));
}

static enum ckpt_status print_tiers(const json_t *tiers, FILE *to, struct ckpt_err *err)
{
    static const struct output_column columns[] = {
        { "TIER", OUTPUT_LEFT },  { "STATE", OUTPUT_LEFT }, { "BEHIND", OUTPUT_RIGHT },
        { "FOR", OUTPUT_RIGHT },  { "SENT", OUTPUT_RIGHT }, { "BYTES", OUTPUT_RIGHT },
        { "RATE", OUTPUT_RIGHT }, { "LEFT", OUTPUT_RIGHT }, { "TROUBLES", OUTPUT_RIGHT },
        { "WHERE", OUTPUT_LEFT },
    };
    struct output_table t;
    char why[CELL_MAX], name[CELL_MAX];
    size_t i;
    const json_t *tier;
    output_table_init(&t, columns, ARRAY_COUNT(columns));
    json_array_foreach(tiers, i, tier) tier_row(&t, tier);
    fputc('\n', to);
    enum ckpt_status st = output_table_print(&t, to, err);
    output_table_fini(&t);
    json_array_foreach(tiers, i, tier)
    {
        if (json_object_get(tier, "error"))
            output_line(to, "%s: %s", text(tier, "tier", name), text(tier, "error", why));
    }
    return st;
}

/* -- errors ------------------------------------------------------------------------ */

static void print_errors(const json_t *errors, FILE *to)
{
    size_t n = json_array_size(errors);
    if (n > 0)
        fprintf(to, "\nlast troubles\n");
    for (size_t i = n > 5 ? n - 5 : 0; i < n; i++) {
        const char *s = json_string_value(json_array_get(errors, i));
        output_line(to, "  %s", s ? s : "");
    }
}

enum ckpt_status page_summary_print(const json_t *page, const json_t *before, FILE *to,
                                    struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_OK;
    if (!json_is_object(page))
        return err_set(err, CKPT_CORRUPT, "ckptd's status is not a JSON object");
    print_head(page, before, to);
    const json_t *jobs = json_object_get(page, "jobs"), *tiers = json_object_get(page, "tiers");
    if (json_array_size(jobs) > 0)
        st = print_jobs(jobs, to, err);
    if (st == CKPT_OK && json_array_size(jobs) > 0)
        st = print_lost(page, to, err);
    if (st == CKPT_OK && json_array_size(tiers) > 0)
        st = print_tiers(tiers, to, err);
    print_errors(json_object_get(page, "errors"), to);
    return st;
}
