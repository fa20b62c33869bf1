/* ckpt show: what one checkpoint holds. */
#include <fnmatch.h>
#include <getopt.h>
#include <stdio.h>

#include "formats/dtype.h"
#include "storage/repo/reader.h"
#include "tools/output.h"
#include "tools/show_layout.h"
#include "tools/tool.h"

#define RUNS_SHOWN 3 /* in the table; JSON has all */

struct show {
    struct tool_stores stores;
    struct store *store;
    struct catalog_spec spec;
    struct ckpt_name name;
    const char *glob; /* NULL = all tensors */
    bool layout;      /* draw who holds what */
    struct layout_option target;
    const char *svg;
    struct reader *reader;
    uint64_t stored_bytes; /* UINT64_MAX = unknown */
    struct catalog catalog;
    const struct catalog_entry *entry; /* in it; NULL if the catalog does not list it */
    uint64_t matched;
};

static const struct output_column columns[] = {
    { "TENSOR", OUTPUT_LEFT }, { "DTYPE", OUTPUT_LEFT },   { "SHAPE", OUTPUT_LEFT },
    { "BYTES", OUTPUT_RIGHT }, { "HELD BY", OUTPUT_LEFT },
};
enum { COL_NAME, COL_DTYPE, COL_SHAPE, COL_BYTES, COL_RUNS };

static bool wanted(const struct show *s, const struct index_tensor *t)
{
    return !s->glob || fnmatch(s->glob, t->name, 0) == 0;
}

static uint64_t tensor_bytes(const struct index_tensor *t)
{
    struct box whole = box_whole(t->ndim, t->shape);
    return box_bytes(&whole, dtype_bits(t->dtype));
}

/* -- text ---------------------------------------------------------------- */

static void shape_text(const struct index_tensor *t, char *ret, size_t cap)
{
    size_t len = (size_t)snprintf(ret, cap, "[");
    for (uint32_t i = 0; i < t->ndim && len < cap; i++)
        len += (size_t)snprintf(ret + len, cap - len, "%s%llu", i ? ", " : "",
                                (unsigned long long)t->shape[i]);
    if (len < cap)
        snprintf(ret + len, cap - len, "]");
}

/* "rank 0 [0:4, 0:8]" or "ranks 0..7 [0:4, 0:8] + 7 more along axis 0" */
static size_t run_text(const struct index_run *run, char *ret, size_t cap)
{
    char box[256];
    box_to_text(&run->box0, box, sizeof(box));
    if (run->count == 1)
        return (size_t)snprintf(ret, cap, "rank %u %s", run->rank0, box);
    return (size_t)snprintf(ret, cap, "ranks %u..%u%s %s and so on along axis %u", run->rank0,
                            run->rank0 + (run->count - 1) * run->rank_step,
                            run->rank_step == 1 ? "" : " (stepwise)", box, run->axis);
}

static void runs_text(const struct index_tensor *t, char *ret, size_t cap)
{
    size_t len = 0;
    *ret = 0;
    if (t->alias) {
        snprintf(ret, cap, "tied to %s", t->alias);
        return;
    }
    for (uint32_t i = 0; i < t->run_count && i < RUNS_SHOWN && len < cap; i++) {
        len += (size_t)snprintf(ret + len, cap - len, "%s", i ? "; " : "");
        if (len < cap)
            len += run_text(&t->runs[i], ret + len, cap - len);
    }
    if (t->run_count > RUNS_SHOWN && len < cap)
        snprintf(ret + len, cap - len, "; %u more", t->run_count - RUNS_SHOWN);
}

static void tensor_row(struct output_table *table, const struct index_tensor *t)
{
    char text[1024];
    output_row(table, t->alias ? OUTPUT_DIM : OUTPUT_PLAIN);
    output_cell(table, COL_NAME, "%s", t->name);
    output_cell(table, COL_DTYPE, "%s", t->flags & DECL_OBJECT ? "object" : dtype_name(t->dtype));
    shape_text(t, text, sizeof(text));
    output_cell(table, COL_SHAPE, "%s", text);
    output_cell(table, COL_BYTES, "%s", output_bytes(tensor_bytes(t), text));
    runs_text(t, text, sizeof(text));
    output_cell(table, COL_RUNS, "%s", text);
}

static void print_point(const char *label, const struct ckpt_name *name)
{
    output_line(stdout, "%-9s step %llu, epoch %llu, attempt %016llx", label,
                (unsigned long long)name->step, (unsigned long long)name->epoch,
                (unsigned long long)name->attempt);
}

static void print_metrics(const struct record_commit *c)
{
    CLEANUP_FREE char *text = NULL;
    size_t len = 0;
    FILE *to = c->metric_count ? open_memstream(&text, &len) : NULL;
    if (!to)
        return;
    for (uint32_t i = 0; i < c->metric_count; i++)
        fprintf(to, " %s=%.9g", c->metrics[i].name, c->metrics[i].value);
    if (fclose(to) == 0)
        output_line(stdout, "%-9s%s", "metrics", text);
}

static void print_summary(const struct show *s)
{
    const struct record_commit *c = reader_commit(s->reader);
    char a[OUTPUT_TEXT], b[OUTPUT_TEXT];
    output_line(stdout, "%-9s %s", "job", s->spec.job);
    print_point("this", &c->name);
    if (c->has_parent)
        print_point("parent", &c->parent);
    else
        output_line(stdout, "%-9s none: the first of its history", "parent");
    if (s->entry && !s->entry->on_lineage)
        output_line(stdout, "%-9s abandoned: the newest launch does not descend from it", "branch");
    if (s->entry && s->entry->state == CATALOG_DELETED)
        output_line(stdout, "%-9s deleted: \"ckpt undelete\" brings it back until gc takes it",
                    "state");
    output_line(stdout, "%-9s %s (%s)", "saved", output_time(c->time_ns, a),
                output_age(c->time_ns, output_now_ns(), b));
    output_line(stdout, "%-9s %s, stored %s", "size", output_bytes(c->raw_bytes, a),
                s->stored_bytes == UINT64_MAX ? "unknown" : output_bytes(s->stored_bytes, b));
    output_line(stdout, "%-9s %u", "world", c->world);
    output_line(stdout, "%-9s %llu, in %s", "tensors", (unsigned long long)c->tensor_count,
                output_count(c->pack_count, "pack", a));
    print_metrics(c);
    for (size_t i = 0; s->entry && i < s->entry->tag_count; i++)
        output_line(stdout, "%-9s %s", i ? "" : "tags", s->entry->tags[i]);
    puts("");
}

static enum ckpt_status print_text(struct show *s, struct ckpt_err *err)
{
    struct output_table table;
    enum ckpt_status st = CKPT_OK;
    output_table_init(&table, columns, ARRAY_COUNT(columns));
    for (uint64_t i = 0; i < reader_tensor_count(s->reader) && st == CKPT_OK; i++) {
        const struct index_tensor *t;
        st = reader_tensor_at(s->reader, i, &t, err);
        if (st == CKPT_OK && wanted(s, t)) {
            tensor_row(&table, t);
            s->matched++;
        }
    }
    if (st == CKPT_OK) {
        print_summary(s);
        st = output_table_print(&table, stdout, err);
    }
    output_table_fini(&table);
    return st == CKPT_OK ? output_flush(err) : st;
}

/* -- JSON ---------------------------------------------------------------- */

static json_t *numbers_json(const uint64_t *n, uint32_t count)
{
    json_t *a = json_array();
    for (uint32_t i = 0; i < count; i++)
        json_array_append_new(a, json_integer((json_int_t)n[i]));
    return a;
}

static json_t *run_json(const struct index_run *run)
{
    return json_pack("{s:i, s:I, s:I, s:i, s:I, s:I, s:o, s:o}", "count", (int)run->count, "rank",
                     (json_int_t)run->rank0, "rank_step", (json_int_t)run->rank_step, "axis",
                     (int)run->axis, "step", (json_int_t)run->step, "last_length",
                     (json_int_t)run->last_len, "offset",
                     numbers_json(run->box0.off, run->box0.ndim), "length",
                     numbers_json(run->box0.len, run->box0.ndim));
}

static json_t *tensor_json(const struct index_tensor *t)
{
    json_t *runs = json_array();
    for (uint32_t i = 0; i < t->run_count; i++)
        json_array_append_new(runs, run_json(&t->runs[i]));
    return json_pack("{s:o, s:o, s:o, s:I, s:b, s:o, s:o}", "name", output_string(t->name), "dtype",
                     output_string(dtype_name(t->dtype)), "shape", numbers_json(t->shape, t->ndim),
                     "bytes", (json_int_t)tensor_bytes(t), "object", (t->flags & DECL_OBJECT) != 0,
                     "alias", output_string(t->alias), "runs", runs);
}

static json_t *summary_json(const struct show *s)
{
    const struct record_commit *c = reader_commit(s->reader);
    char when[OUTPUT_TEXT];
    json_t *o = output_point(s->spec.job, &c->name);
    json_t *metrics = json_object();
    json_t *tags = json_array();
    for (uint32_t i = 0; i < c->metric_count; i++) {
        json_t *value = json_real(c->metrics[i].value);
        output_member(metrics, c->metrics[i].name, value ? value : json_null());
    }
    for (size_t i = 0; s->entry && i < s->entry->tag_count; i++)
        json_array_append_new(tags, output_string(s->entry->tags[i]));
    json_object_set_new(o, "parent",
                        c->has_parent ? output_point(s->spec.job, &c->parent) : json_null());
    json_object_set_new(o, "abandoned", json_boolean(s->entry && !s->entry->on_lineage));
    json_object_set_new(
        o, "state",
        output_string(s->entry && s->entry->state == CATALOG_DELETED ? "deleted" : "live"));
    json_object_set_new(o, "time", output_string(output_time(c->time_ns, when)));
    json_object_set_new(o, "bytes_raw", json_integer((json_int_t)c->raw_bytes));
    json_object_set_new(o, "bytes_stored",
                        s->stored_bytes == UINT64_MAX ? json_null()
                                                      : json_integer((json_int_t)s->stored_bytes));
    json_object_set_new(o, "world", json_integer(c->world));
    json_object_set_new(o, "metrics", metrics);
    json_object_set_new(o, "tags", tags);
    return o;
}

static enum ckpt_status print_json(struct show *s, struct ckpt_err *err)
{
    json_t *o = summary_json(s);
    json_t *tensors = json_array();
    json_object_set_new(o, "tensors", tensors);
    for (uint64_t i = 0; i < reader_tensor_count(s->reader); i++) {
        const struct index_tensor *t;
        enum ckpt_status st = reader_tensor_at(s->reader, i, &t, err);
        if (st != CKPT_OK) {
            json_decref(o);
            return st;
        }
        if (wanted(s, t)) {
            json_array_append_new(tensors, tensor_json(t));
            s->matched++;
        }
    }
    return output_json(o, err);
}

/* ------------------------------------------------------------------------ */

/* The catalog knows tags, stored bytes and the branch. */
static enum ckpt_status look_up(struct show *s, struct ckpt_err *err)
{
    const struct catalog_wish wish = { .flags = CATALOG_ALL | CATALOG_SIZES | CATALOG_TAGS,
                                       .only = &s->name };
    enum ckpt_status st = catalog_read_some(s->store, s->spec.job, &wish, &s->catalog, err);
    if (st != CKPT_OK)
        return st;
    s->entry = s->catalog.count ? &s->catalog.entries[0] : NULL;
    s->stored_bytes = s->entry ? s->entry->stored_bytes : UINT64_MAX;
    return CKPT_OK;
}

static enum ckpt_status draw(struct show *s, const char *spec, struct ckpt_err *err)
{
    const struct show_layout what = { .reader = s->reader,
                                      .target = layout_option_given(&s->target) ? &s->target : NULL,
                                      .glob = s->glob,
                                      .title = spec,
                                      .svg = s->svg };
    return show_layout(&what, &s->matched, err);
}

static enum ckpt_status show(struct show *s, const char *spec, bool json, struct ckpt_err *err)
{
    size_t at;
    enum ckpt_status st = tool_find_any(&s->stores, spec, &s->spec, &s->name, &at, err);
    if (st == CKPT_OK)
        s->store = s->stores.s[at];
    if (st == CKPT_OK)
        st = look_up(s, err);
    if (st == CKPT_OK)
        st = reader_open(s->stores.s, s->stores.count, s->spec.job, &s->name, &s->reader, err);
    if (st == CKPT_OK)
        st = s->layout ? draw(s, spec, err) : json ? print_json(s, err) : print_text(s, err);
    if (st == CKPT_OK && s->glob && s->matched == 0)
        st = err_set(err, CKPT_NOT_FOUND, "%s has no tensor that matches \"%s\"", spec, s->glob);
    if (s->reader)
        reader_close(s->reader);
    catalog_fini(&s->catalog);
    return st;
}

/* 0, or the exit code of a misuse. */
static int parse(struct show *s, const struct tool *t, int argc, char **argv)
{
    static const struct option options[] = { { "layout", optional_argument, NULL, 'l' },
                                             { "to", required_argument, NULL, 't' },
                                             { "svg", required_argument, NULL, 's' },
                                             { 0 } };
    struct ckpt_err err = { 0 };
    int c;
    opterr = 0;
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (c != 'l' && c != 't' && c != 's')
            return tool_bad_option("show", argv);
        s->layout = true;
        if (c == 's')
            s->svg = optarg;
        else if (optarg && layout_option_add(&s->target, optarg, &err) != CKPT_OK)
            return tool_fail(err.status, &err);
    }
    if (argc - optind < 1 || argc - optind > 2)
        return tool_misuse("show",
                           "which checkpoint? JOB or JOB@STEP, then a tensor pattern if any");
    if (s->layout && t->json)
        return tool_misuse("show",
                           "--layout draws; for JSON leave it out (runs say who holds what)");
    s->glob = argv[optind + 1];
    return 0;
}

static int run(struct tool *t, int argc, char **argv)
{
    struct ckpt_err err = { 0 };
    struct show s = { 0 };
    int code = parse(&s, t, argc, argv);
    if (code == 0) {
        enum ckpt_status st = tool_open_all(t, &s.stores, &err);
        if (st == CKPT_OK)
            st = show(&s, argv[optind], t->json, &err);
        tool_close_all(&s.stores);
        code = st == CKPT_OK ? TOOL_FINE : tool_fail(st, &err);
    }
    layout_option_fini(&s.target);
    return code;
}

const struct tool_verb cmd_show = {
    .name = "show",
    .arguments = "JOB[@STEP[~EPOCH]] [TENSOR-PATTERN] [--layout]",
    .summary = "what one checkpoint holds: parent, metrics, tensors and their holders",
    .help = "Shows one checkpoint: its place in the job's history, metrics, size, and each tensor\n"
            "with dtype, shape, bytes and the ranks that hold its parts.  The pattern is a shell\n"
            "pattern ('layers.0.*').\n"
            "\n"
            "  --layout            draw who holds what, as it was saved\n"
            "  --to MESH           draw who would hold what on another mesh, like tp=4,dp=2\n"
            "  --layout=FILE       the rules for that (\"ckpt plan --help\")\n"
            "  --svg FILE          write the drawings as an SVG picture, too\n"
            "\n"
            "--json prints {job, step, epoch, attempt, parent, abandoned, state, time, bytes_raw,\n"
            "bytes_stored, world, metrics, tags, tensors: [{name, dtype, shape, bytes, object,\n"
            "alias, runs: [{count, rank, rank_step, axis, step, last_length, offset, length}]}]}.\n"
            "A run is `count` equal boxes: box i belongs to rank + i * rank_step and lies\n"
            "i * step further along `axis`, where the last one may be shorter (last_length).",
    .run = run,
};
