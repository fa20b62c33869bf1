/* ckpt ls: the checkpoints of a store. */
#include <getopt.h>
#include <stdio.h>

#include "storage/repo/roster.h"
#include "tools/output.h"
#include "tools/tool.h"

struct ls {
    const struct tool_stores *stores;
    size_t remote_from; /* of them: places from here on are remote */
    bool all, metrics;
    uint64_t newest; /* of each job at most so many; 0: all */
    bool damaged;    /* a commit record was listed that cannot be read */
    size_t listed;
    int64_t now_ns;
    json_t *json; /* array, or NULL for a table */
    struct output_table table;
};

static const struct output_column columns[] = {
    { "JOB", OUTPUT_LEFT },     { "STEP", OUTPUT_RIGHT },  { "EPOCH", OUTPUT_RIGHT },
    { "LEVEL", OUTPUT_LEFT },   { "TIME", OUTPUT_LEFT },   { "RAW", OUTPUT_RIGHT },
    { "STORED", OUTPUT_RIGHT }, { "WORLD", OUTPUT_RIGHT }, { "TAGS", OUTPUT_LEFT },
    { "METRICS", OUTPUT_LEFT }, /* with --metrics only */
};
enum {
    COL_JOB,
    COL_STEP,
    COL_EPOCH,
    COL_LEVEL,
    COL_TIME,
    COL_RAW,
    COL_STORED,
    COL_WORLD,
    COL_TAGS,
    COL_METRICS
};

/* A checkpoint, as the nearest place that lists it has it. */
struct row {
    const struct catalog_entry *e;
    bool remote; /* some remote place holds it */
    uint64_t stored_bytes;
};

/* Without a world the commit record is there and damaged. */
static bool is_damaged(const struct catalog_entry *e)
{
    return e->state == CATALOG_LIVE && e->commit.world == 0;
}

static bool has_commit(const struct catalog_entry *e)
{
    return (e->state == CATALOG_LIVE || e->state == CATALOG_DELETED) && e->commit.world > 0;
}

/* How safe it is; for what is listed only with --all, what became of it. */
static const char *level_of(const struct row *r)
{
    const struct catalog_entry *e = r->e;
    switch (e->state) {
    case CATALOG_LIVE:
        return is_damaged(e)    ? "damaged"
               : !e->on_lineage ? "abandoned"
               : r->remote      ? "remote"
               : e->dropped     ? "dropped"
                                : "local";
    case CATALOG_DELETED:
        return "deleted";
    case CATALOG_GONE:
        return "gone";
    case CATALOG_ABORTED:
        break;
    }
    return "aborted";
}

static json_t *metrics_json(const struct record_commit *c)
{
    json_t *o = json_object();
    for (uint32_t i = 0; i < c->metric_count; i++) {
        json_t *value = json_real(c->metrics[i].value); /* NULL: no number */
        output_member(o, c->metrics[i].name, value ? value : json_null());
    }
    return o;
}

static json_t *entry_json(const struct ls *ls, const char *job, const struct row *r)
{
    const struct catalog_entry *e = r->e;
    char when[OUTPUT_TEXT];
    json_t *o = output_point(job, &e->name);
    json_t *tags = json_array();
    for (size_t i = 0; i < e->tag_count; i++)
        json_array_append_new(tags, output_string(e->tags[i]));
    bool known = has_commit(e);
    json_object_set_new(o, "level", output_string(level_of(r)));
    json_object_set_new(o, "time",
                        known ? output_string(output_time(e->commit.time_ns, when)) : json_null());
    json_object_set_new(o, "bytes_raw",
                        known ? json_integer((json_int_t)e->commit.raw_bytes) : json_null());
    json_object_set_new(o, "bytes_stored",
                        known && r->stored_bytes != UINT64_MAX
                            ? json_integer((json_int_t)r->stored_bytes)
                            : json_null());
    json_object_set_new(o, "world", known ? json_integer(e->commit.world) : json_null());
    json_object_set_new(o, "tags", tags);
    if (ls->metrics)
        json_object_set_new(o, "metrics", known ? metrics_json(&e->commit) : json_null());
    return o;
}

static void tags_text(const struct catalog_entry *e, char *ret, size_t cap)
{
    size_t len = 0;
    *ret = 0;
    for (size_t i = 0; i < e->tag_count && len < cap; i++)
        len += (size_t)snprintf(ret + len, cap - len, "%s%s", i ? "," : "", e->tags[i]);
}

static void metrics_text(const struct record_commit *c, char *ret, size_t cap)
{
    size_t len = 0;
    *ret = 0;
    for (uint32_t i = 0; i < c->metric_count && len < cap; i++)
        len += (size_t)snprintf(ret + len, cap - len, "%s%s=%.9g", i ? " " : "", c->metrics[i].name,
                                c->metrics[i].value);
}

static bool is_normal(const struct catalog_entry *e)
{
    return e->state == CATALOG_LIVE && e->on_lineage;
}

static void entry_row(struct ls *ls, const char *job, const struct row *r)
{
    const struct catalog_entry *e = r->e;
    struct output_table *t = &ls->table;
    char text[512];
    output_row(t, is_damaged(e) ? OUTPUT_BAD : is_normal(e) ? OUTPUT_PLAIN : OUTPUT_DIM);
    output_cell(t, COL_JOB, "%s", job);
    output_cell(t, COL_STEP, "%llu", (unsigned long long)e->name.step);
    output_cell(t, COL_EPOCH, "%llu", (unsigned long long)e->name.epoch);
    output_cell(t, COL_LEVEL, "%s", level_of(r));
    tags_text(e, text, sizeof(text));
    output_cell(t, COL_TAGS, "%s", text);
    if (!has_commit(e))
        return;
    output_cell(t, COL_TIME, "%s", output_age(e->commit.time_ns, ls->now_ns, text));
    output_cell(t, COL_RAW, "%s", output_bytes(e->commit.raw_bytes, text));
    output_cell(t, COL_STORED, "%s",
                r->stored_bytes == UINT64_MAX ? "-" : output_bytes(r->stored_bytes, text));
    output_cell(t, COL_WORLD, "%u", e->commit.world);
    if (!ls->metrics)
        return;
    metrics_text(&e->commit, text, sizeof(text));
    output_cell(t, COL_METRICS, "%s", text);
}

static int order_rows(const void *a, const void *b)
{
    return roster_order(&((const struct row *)a)->e->name, &((const struct row *)b)->e->name);
}

/* Adds what a place lists of a job to the rows, which are in order before and after. */
static void merge(struct row *rows, size_t *count, const struct catalog *c, bool remote)
{
    size_t before = *count;
    for (size_t i = 0; i < c->count; i++) {
        const struct row like = { .e = &c->entries[i], .stored_bytes = c->entries[i].stored_bytes };
        struct row *row = bsearch(&like, rows, before, sizeof(*rows), order_rows);
        if (!row) {
            row = &rows[(*count)++];
            *row = like;
        }
        row->remote |= remote && c->entries[i].held;
        if (row->stored_bytes == UINT64_MAX)
            row->stored_bytes = like.stored_bytes;
    }
    if (before > 0 && *count > before)
        qsort(rows, *count, sizeof(*rows), order_rows);
}

static size_t leave_normal(struct row *rows, size_t count)
{
    size_t kept = 0;
    for (size_t i = 0; i < count; i++)
        if (is_normal(rows[i].e))
            rows[kept++] = rows[i];
    return kept;
}

static void show_rows(struct ls *ls, const char *job, const struct row *rows, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        ls->damaged |= is_damaged(rows[i].e);
        if (ls->json)
            json_array_append_new(ls->json, entry_json(ls, job, &rows[i]));
        else
            entry_row(ls, job, &rows[i]);
    }
}

static enum ckpt_status list_job(struct ls *ls, const char *job, struct ckpt_err *err)
{
    struct catalog c[1 + TOOL_REMOTES_MAX] = { 0 };
    struct catalog_wish wish = { .flags =
                                     CATALOG_SIZES | CATALOG_TAGS | (ls->all ? CATALOG_ALL : 0),
                                 .newest = ls->newest };
    size_t n = ls->stores->count, total = 0, count = 0;
    /* Whether one is deleted, the home says: a tier may not have heard of it. */
    const struct catalog_wish all = { .flags = wish.flags | CATALOG_ALL,
                                      .newest = ls->all ? ls->newest : 0 };
    enum ckpt_status st = CKPT_OK;
    for (size_t i = 0; st == CKPT_OK && i < n; i++) {
        bool home = i == 0 && ls->remote_from > 0 && n > 1;
        st = catalog_read_some(ls->stores->s[i], job, home ? &all : &wish, &c[i], err);
        for (size_t k = 0; home && wish.newest && k < c[i].count; k++)
            wish.newest += !is_normal(&c[i].entries[k]);
        total += c[i].count;
    }
    CLEANUP_FREE struct row *rows = calloc(total + 1, sizeof(*rows));
    if (st == CKPT_OK && !rows)
        st = err_set(err, CKPT_NO_MEMORY, "no memory for %zu checkpoints", total);
    for (size_t i = 0; st == CKPT_OK && i < n; i++)
        merge(rows, &count, &c[i], i >= ls->remote_from);
    if (!ls->all)
        count = leave_normal(rows, count);
    if (ls->newest)
        count = min_u64(count, ls->newest);
    if (st == CKPT_OK)
        show_rows(ls, job, rows, count);
    ls->listed += count;
    for (size_t i = 0; i < n; i++)
        catalog_fini(&c[i]);
    return st;
}

static int order_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static enum ckpt_status list_all(struct ls *ls, struct ckpt_err *err)
{
    char **jobs[1 + TOOL_REMOTES_MAX] = { NULL };
    size_t n = ls->stores->count, total = 0, count = 0;
    enum ckpt_status st = CKPT_OK;
    for (size_t i = 0; st == CKPT_OK && i < n; i++) {
        st = catalog_jobs(ls->stores->s[i], &jobs[i], err);
        for (size_t k = 0; st == CKPT_OK && jobs[i][k]; k++)
            total++;
    }
    CLEANUP_FREE char **all = calloc(total + 1, sizeof(*all));
    if (st == CKPT_OK && !all)
        st = err_set(err, CKPT_NO_MEMORY, "no memory for %zu jobs", total);
    for (size_t i = 0; st == CKPT_OK && i < n; i++)
        for (size_t k = 0; jobs[i][k]; k++)
            all[count++] = jobs[i][k];
    if (st == CKPT_OK)
        qsort(all, count, sizeof(*all), order_names);
    for (size_t i = 0; i < count && st == CKPT_OK; i++)
        if (i == 0 || strcmp(all[i], all[i - 1]) != 0)
            st = list_job(ls, all[i], err);
    for (size_t i = 0; i < n; i++)
        if (jobs[i])
            catalog_jobs_free(jobs[i]);
    return st;
}

/* CKPT_OK if one of the places has the job. */
static enum ckpt_status check_job(const struct tool_stores *stores, const char *job,
                                  struct ckpt_err *err)
{
    struct ckpt_err first = { 0 };
    enum ckpt_status st = CKPT_NOT_FOUND;
    for (size_t i = 0; i < stores->count && st == CKPT_NOT_FOUND; i++) {
        struct ckpt_err why = { 0 };
        st = tool_job_check(stores->s[i], job, &why);
        if (i == 0 || st != CKPT_NOT_FOUND)
            first = why;
    }
    return st == CKPT_OK ? st : err_set(err, st, "%s", err_text(&first));
}

static enum ckpt_status print(struct ls *ls, struct ckpt_err *err)
{
    if (ls->json)
        return output_json(json_incref(ls->json), err);
    if (ls->table.row_count == 0 && !ls->table.failed) {
        output_line(stderr, "no checkpoints%s",
                    ls->all ? "" : " (--all also shows what was given up)");
        return CKPT_OK;
    }
    enum ckpt_status st = output_table_print(&ls->table, stdout, err);
    return st == CKPT_OK ? output_flush(err) : st;
}

static int run(struct tool *t, int argc, char **argv)
{
    static const struct option options[] = { { "all", no_argument, NULL, 'a' },
                                             { "metrics", no_argument, NULL, 'm' },
                                             { "newest", required_argument, NULL, 'n' },
                                             { 0 } };
    struct ls ls = { .now_ns = output_now_ns() };
    int c;
    opterr = 0;
    while ((c = getopt_long(argc, argv, "an:", options, NULL)) != -1) {
        if (c != 'a' && c != 'm' && c != 'n')
            return tool_bad_option("ls", argv);
        ls.all |= c == 'a';
        ls.metrics |= c == 'm';
        if (c == 'n' && (!output_parse_u64(optarg, &ls.newest) || ls.newest == 0))
            return tool_misuse("ls", "--newest \"%s\" is no number above 0", optarg);
    }
    if (argc - optind > 1)
        return tool_misuse("ls", "one JOB at most");
    const char *job = optind < argc ? argv[optind] : NULL;
    CLEANUP_STORES struct tool_stores stores = { 0 };
    struct ckpt_err err = { 0 };
    enum ckpt_status st = tool_open_all(t, &stores, &err);
    if (st != CKPT_OK)
        return tool_fail(st, &err);
    ls.stores = &stores;
    ls.remote_from = t->store_url && strcmp(stores.s[0]->url, t->store_url) == 0 ? 1 : 0;
    ls.json = t->json ? json_array() : NULL;
    output_table_init(&ls.table, columns, ARRAY_COUNT(columns) - !ls.metrics);
    st = job ? list_job(&ls, job, &err) : list_all(&ls, &err);
    if (st == CKPT_OK && job && ls.listed == 0)
        st = check_job(&stores, job, &err);
    if (st == CKPT_OK)
        st = print(&ls, &err);
    json_decref(ls.json);
    output_table_fini(&ls.table);
    if (st != CKPT_OK)
        return tool_fail(st, &err);
    if (ls.damaged)
        fprintf(stderr, "ckpt: a commit record is damaged; \"ckpt verify\" says how\n");
    return ls.damaged ? TOOL_DAMAGE : TOOL_FINE;
}

const struct tool_verb cmd_ls = {
    .name = "ls",
    .arguments = "[JOB] [--all] [--newest N] [--metrics]",
    .summary = "list checkpoints",
    .help =
        "Lists the checkpoints of JOB, or of all jobs: newest lineage, newest first.\n"
        "\n"
        "  -a, --all   also what a resume left behind (abandoned), deleted, gone and aborted ones\n"
        "  --newest N  of each job only the first N; the records of the others are not read,\n"
        "              which counts where each one is a request (-n N)\n"
        "  --metrics   also the metrics that came with each save\n"
        "\n"
        "LEVEL local means: every rank's part is durable and the checkpoint is committed;\n"
        "remote: besides, a place named with --remote holds all of it;\n"
        "dropped: its data was dropped from this store, which other stores hold (keep-store\n"
        "of ckptd): name one with --remote;\n"
        "damaged: its commit record cannot be read (exit status 1).\n"
        "RAW is the size of the tensors, STORED what they take in this store (or in the one\n"
        "that has them), WORLD the number of ranks that saved.\n"
        "\n"
        "--json prints an array of {job, step, epoch, attempt, level, time, bytes_raw,\n"
        "bytes_stored, world, tags}, and with --metrics metrics.",
    .run = run,
};
