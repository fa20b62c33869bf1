/* ckpt restore: a checkpoint as safetensors files; or why the next launch would resume
 * from where it would. */
#include <getopt.h>
#include <stdio.h>

#include "formats/convert.h"
#include "formats/dtype.h"
#include "storage/repo/adopt.h"
#include "storage/repo/launch.h"
#include "tools/export.h"
#include "tools/output.h"
#include "tools/tool.h"

#define EXPLAIN_TEXT (64 << 10)

static void on_progress(void *arg, uint64_t done, uint64_t total)
{
    output_progress_step(arg, done, total, output_monotonic());
}

static enum ckpt_status report(const struct tool *t, const char *job, const struct ckpt_name *name,
                               const struct export_options *o, const struct export_report *r,
                               double seconds, struct ckpt_err *err)
{
    char bytes[OUTPUT_TEXT], took[OUTPUT_TEXT], rate[OUTPUT_TEXT];
    char tensors[OUTPUT_TEXT], files[OUTPUT_TEXT], objects[OUTPUT_TEXT], values[OUTPUT_TEXT];
    if (t->json) {
        json_t *out = output_point(job, name);
        json_t *more = json_pack(
            "{s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f}", "dir", output_string(o->dir), "files",
            (json_int_t)r->files, "tensors", (json_int_t)r->tensors, "ties", (json_int_t)r->ties,
            "objects", (json_int_t)r->objects, "converted", (json_int_t)r->converted, "overflowed",
            (json_int_t)r->overflowed, "bytes", (json_int_t)r->bytes, "seconds", seconds);
        json_object_update(out, more);
        json_decref(more);
        return output_json(out, err);
    }
    output_line(stdout, "%s@%llu~%llu: %s in %s, %s, %s to %s in %s (%s)", job,
                (unsigned long long)name->step, (unsigned long long)name->epoch,
                output_count(r->tensors, "tensor", tensors), output_count(r->files, "file", files),
                output_count(r->objects, "object", objects), output_bytes(r->bytes, bytes), o->dir,
                output_seconds(seconds, took), output_rate(r->bytes, seconds, rate));
    if (o->dtype)
        output_line(stdout, "%s converted to %s; %s out of its range",
                    output_count(r->converted, "tensor", tensors), dtype_name(o->dtype),
                    output_count(r->overflowed, "value", values));
    return output_flush(err);
}

static enum ckpt_status restore(const struct tool *t, const struct tool_stores *stores,
                                const char *text, struct export_options *o, struct ckpt_err *err)
{
    size_t at;
    struct catalog_spec spec = { 0 };
    struct ckpt_name name;
    struct export_report r = { 0 };
    enum ckpt_status st = tool_find_any(stores, text, &spec, &name, &at, err);
    if (st != CKPT_OK)
        return st;
    struct output_progress progress = output_progress_start("restoring");
    o->progress = on_progress;
    o->progress_arg = &progress;
    st = export_checkpoint(stores->s, stores->count, spec.job, &name, o, &r, err);
    output_progress_end(&progress);
    if (st != CKPT_OK)
        return st;
    return report(t, spec.job, &name, o, &r, output_monotonic() - progress.started, err);
}

/* -- explain ------------------------------------------------------------- */

static json_t *resolved_json(const char *job, const struct record_resolved *r)
{
    json_t *skips = json_array();
    for (uint32_t i = 0; i < r->skip_count; i++) {
        json_t *skip = output_point(job, &r->skips[i].name);
        json_object_set_new(skip, "why", output_string(r->skips[i].why));
        json_array_append_new(skips, skip);
    }
    return json_pack("{s:o, s:I, s:o, s:b, s:o, s:o}", "job", output_string(job), "epoch",
                     (json_int_t)r->epoch, "point",
                     r->kind == RESOLVED_POINT ? output_point(job, &r->name) : json_null(), "stop",
                     r->stop, "why", output_string(r->why), "skipped", skips);
}

static enum ckpt_status explain_print(const struct tool *t, const char *job,
                                      const struct lineage *l, const struct record_resolved *next,
                                      struct ckpt_err *err)
{
    if (t->json)
        return output_json(resolved_json(job, next), err);
    CLEANUP_FREE char *text = malloc(EXPLAIN_TEXT);
    if (!text)
        return err_set(err, CKPT_NO_MEMORY, "no memory for the explanation");
    lineage_to_text(l, next, text, EXPLAIN_TEXT);
    fputs(text, stdout);
    return output_flush(err);
}

/* The first store that has the job tells its history: a launch takes it over where the home has
 * nothing of it yet.  What the others hold can be resumed from, too. */
static enum ckpt_status history_of(const struct tool_stores *s, const char *job,
                                   struct lineage *ret, struct ckpt_err *err)
{
    CLEANUP_ROSTER struct roster also = { 0 };
    size_t at = 0;
    enum ckpt_status st = tool_job_check(s->s[0], job, err);
    while (st == CKPT_NOT_FOUND && at + 1 < s->count &&
           tool_job_check(s->s[at + 1], job, NULL) != CKPT_OK)
        at++;
    if (st == CKPT_NOT_FOUND && at + 1 < s->count) {
        at++;
        st = CKPT_OK;
        output_line(stderr, "ckpt: nothing of %s in %s; as %s has it:", job, s->s[0]->url,
                    s->s[at]->url);
    }
    for (size_t i = 0; st == CKPT_OK && i < s->count; i++) {
        CLEANUP_ROSTER struct roster held = { 0 };
        if (i == at)
            continue;
        st = adopt_held(s->s[i], job, &held, err);
        if (st == CKPT_OK)
            st = roster_merge(&also, &held, err);
    }
    return st == CKPT_OK ? launch_history_with(s->s[at], job, &also, ret, err) : st;
}

/* What the next launch would decide, if it started now. */
static enum ckpt_status explain(const struct tool *t, const struct tool_stores *s, const char *job,
                                struct ckpt_err *err)
{
    struct lineage l = { 0 };
    struct record_resolved next = { 0 };
    enum ckpt_status st = history_of(s, job, &l, err);
    if (st != CKPT_OK)
        return st;
    st = lineage_pick_next(&l, &next, err);
    if (st == CKPT_OK)
        st = explain_print(t, job, &l, &next, err);
    record_resolved_fini(&next);
    lineage_fini(&l);
    return st;
}

/* ------------------------------------------------------------------------ */

struct restore_args {
    struct export_options o;
    struct select select;
    struct layout_option layout;
    bool explain, has_rank;
};

/* FROM=TO; a name may hold more of them, a pattern can hide those behind a star. */
static int add_rename(struct select *s, const char *text)
{
    struct ckpt_err err = { 0 };
    const char *sign = strchr(text, '=');
    if (!sign)
        return tool_misuse("restore", "--rename \"%s\" is no FROM=TO", text);
    CLEANUP_FREE char *from = strndup(text, (size_t)(sign - text));
    if (!from || select_add(s, SELECT_RENAME, from, sign + 1, &err) != CKPT_OK)
        return tool_misuse("restore", "--rename: %s", from ? err_text(&err) : "out of memory");
    return 0;
}

static int add_pattern(struct select *s, enum select_kind kind, const char *pattern)
{
    struct ckpt_err err = { 0 };
    if (select_add(s, kind, pattern, NULL, &err) != CKPT_OK)
        return tool_misuse("restore", "--%s: %s", kind == SELECT_ONLY ? "only" : "exclude",
                           err_text(&err));
    return 0;
}

static int set_dtype(struct export_options *o, const char *name)
{
    o->dtype = dtype_parse(name, strlen(name));
    if (!convert_can(CKPT_DTYPE_F32, o->dtype) && o->dtype != CKPT_DTYPE_F32)
        return tool_misuse("restore",
                           "--dtype \"%s\": to F64, F32, BF16, F16, F8_E4M3, F8_E5M2, "
                           "F8_E4M3FNUZ or F8_E5M2FNUZ",
                           name);
    return 0;
}

/* What of the checkpoint, and how: 0, or the exit code of a misuse. */
static int parse_what(int c, struct restore_args *a)
{
    switch (c) {
    case 'o':
        return add_pattern(&a->select, SELECT_ONLY, optarg);
    case 'x':
        return add_pattern(&a->select, SELECT_EXCEPT, optarg);
    case 'n':
        return add_rename(&a->select, optarg);
    default:
        return set_dtype(&a->o, optarg);
    }
}

/* 0, or the exit code of a misuse. */
static int parse(int argc, char **argv, struct restore_args *a)
{
    static const struct option options[] = {
        { "to", required_argument, NULL, 't' },      { "tensors", required_argument, NULL, 'g' },
        { "force", no_argument, NULL, 'f' },         { "file-size", required_argument, NULL, 's' },
        { "explain", no_argument, NULL, 'e' },       { "only", required_argument, NULL, 'o' },
        { "exclude", required_argument, NULL, 'x' }, { "rename", required_argument, NULL, 'n' },
        { "dtype", required_argument, NULL, 'd' },   { "layout", required_argument, NULL, 'l' },
        { "rank", required_argument, NULL, 'r' },    { 0 }
    };
    struct ckpt_err err = { 0 };
    enum ckpt_status st;
    int c, code;
    opterr = 0;
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (c) {
        case 'o':
        case 'x':
        case 'n':
        case 'd':
            code = parse_what(c, a);
            if (code)
                return code;
            break;
        case 't':
            a->o.dir = optarg;
            break;
        case 'g':
            a->o.glob = optarg;
            break;
        case 'f':
            a->o.force = true;
            break;
        case 's':
            if (!output_parse_bytes(optarg, &a->o.file_bytes_max) || a->o.file_bytes_max == 0)
                return tool_misuse("restore", "--file-size \"%s\" is no size", optarg);
            break;
        case 'e':
            a->explain = true;
            break;
        case 'l':
            st = layout_option_add(&a->layout, optarg, &err);
            if (st != CKPT_OK)
                return tool_fail(st, &err);
            break;
        case 'r':
            a->has_rank = output_parse_u64(optarg, &a->o.rank);
            if (!a->has_rank)
                return tool_misuse("restore", "--rank \"%s\" is no number", optarg);
            break;
        default:
            return tool_bad_option("restore", argv);
        }
    }
    if (a->explain && (argc - optind != 1 || a->o.dir))
        return tool_misuse("restore", "--explain takes one JOB and writes nothing");
    if (a->explain)
        return 0;
    if (argc - optind != 1)
        return tool_misuse("restore", "which checkpoint? JOB or JOB@STEP");
    if (!a->o.dir || !*a->o.dir)
        return tool_misuse("restore", "where to? --to DIR");
    if (layout_option_given(&a->layout) != a->has_rank)
        return tool_misuse("restore", a->has_rank ? "--rank wants the --layout it is a rank of"
                                                  : "--layout wants the --rank to write");
    if (a->has_rank)
        a->o.layout = &a->layout;
    return 0;
}

static int run(struct tool *t, int argc, char **argv)
{
    struct restore_args a = { 0 };
    int code = parse(argc, argv, &a);
    a.o.select = &a.select;
    if (code) {
        select_fini(&a.select);
        layout_option_fini(&a.layout);
        return code;
    }
    CLEANUP_STORES struct tool_stores stores = { 0 };
    struct ckpt_err err = { 0 };
    enum ckpt_status st = tool_open_all(t, &stores, &err);
    if (st == CKPT_OK)
        st = a.explain ? explain(t, &stores, argv[optind], &err)
                       : restore(t, &stores, argv[optind], &a.o, &err);
    select_fini(&a.select);
    layout_option_fini(&a.layout);
    return st == CKPT_OK ? TOOL_FINE : tool_fail(st, &err);
}

const struct tool_verb cmd_restore = {
    .name = "restore",
    .arguments = "JOB[@STEP[~EPOCH]] --to DIR | --explain JOB",
    .summary = "write a checkpoint as safetensors, or explain what a restart takes",
    .help = "Writes the checkpoint's tensors, whole, to DIR/model.safetensors (several files and\n"
            "model.safetensors.index.json above 5 GB), its objects to DIR/objects/NAME.  Every\n"
            "byte is checked.  The files get their names when all are complete and durable.\n"
            "Changes nothing in the store.  With --remote: what the store lacks, or has damaged,\n"
            "is read from there.\n"
            "\n"
            "  --to DIR            where to; made if it is not there, refused if not empty\n"
            "  --force             DIR may hold files; those of the same name are replaced\n"
            "  --tensors PATTERN   only tensors and objects whose name matches ('layers.0.*')\n"
            "  --only PATTERN      the same with other patterns ('*' any run, '?' one byte), as\n"
            "                      often as you like: what matches any of them ...\n"
            "  --exclude PATTERN   ... and none of these; both speak of names after renaming\n"
            "  --rename FROM=TO    a tensor FROM is written as TO; stars of FROM stand in TO in\n"
            "                      the same order ('model.*=module.model.*'); the first one that\n"
            "                      matches counts, once\n"
            "  --dtype TYPE        convert every floating-point tensor (not locked ones) to F64,\n"
            "                      F32, BF16, F16, F8_E4M3, F8_E5M2, F8_E4M3FNUZ, F8_E5M2FNUZ:\n"
            "                      to the nearest, ties to even; says how many values overflow\n"
            "  --layout MESH|FILE  with --rank R: only what rank R would hold under this layout,\n"
            "                      each tensor in the shape of its part (\"ckpt plan --help\"\n"
            "                      says how layouts are written; they speak of names as saved);\n"
            "                      may be given twice: a mesh like tp=2,dp=4 and a file of rules\n"
            "  --file-size SIZE    start another file above this (default 5000000000)\n"
            "  --explain JOB       write nothing; print the job's history and from where its\n"
            "                      next launch would resume, with the reasons; of what it may\n"
            "                      resume from, a tier or a node's own directory (--local) counts\n"
            "                      only when it is named with --remote\n"
            "\n"
            "--json prints {job, step, epoch, attempt, dir, files, tensors, ties, objects,\n"
            "converted, overflowed, bytes, seconds}; with --explain {job, epoch, point, stop,\n"
            "why, skipped}.",
    .run = run,
};
