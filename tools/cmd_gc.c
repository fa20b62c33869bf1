/* ckpt gc: frees the space of what is deleted or was given up. */
#include <getopt.h>
#include <stdio.h>

#include "storage/repo/keep_policy.h"
#include "storage/repo/life.h"
#include "tools/output.h"
#include "tools/tool.h"

struct gc {
    struct tool_stores stores; /* the home first */
    struct life_gc_options options;
    json_t *json; /* array, or NULL */
};

static void report_json(struct gc *g, const char *job, const struct life_gc_report *r)
{
    json_array_append_new(
        g->json,
        json_pack("{s:o, s:I, s:I, s:I, s:I, s:I, s:b}", "job", output_string(job), "collected",
                  (json_int_t)r->collected, "given_up", (json_int_t)r->aborted, "objects",
                  (json_int_t)r->objects, "bytes", (json_int_t)r->bytes, "brought_back",
                  (json_int_t)r->restored_to_live, "dry_run", g->options.dry_run));
}

static void report_text(const struct gc *g, const char *job, const struct life_gc_report *r)
{
    char collected[OUTPUT_TEXT], aborted[OUTPUT_TEXT], objects[OUTPUT_TEXT], bytes[OUTPUT_TEXT];
    output_line(stdout, "%s: %s%s collected, %s given up: %s, %s%s", job,
                g->options.dry_run ? "would be " : "",
                output_count(r->collected, "checkpoint", collected),
                output_count(r->aborted, "unfinished save", aborted),
                output_count(r->objects, "object", objects), output_bytes(r->bytes, bytes),
                g->options.dry_run ? " to free" : " freed");
    if (r->restored_to_live)
        output_line(stdout, "%s: %llu brought back: resumed from by a launch, or tagged", job,
                    (unsigned long long)r->restored_to_live);
}

static enum ckpt_status gc_job(void *arg, const char *job, struct ckpt_err *err)
{
    struct gc *g = arg;
    struct life_gc_report r;
    struct store *const *s = g->stores.s;
    enum ckpt_status st = life_gc(s[0], job, &g->options, &r, err);
    for (size_t i = 1; i < g->stores.count && st == CKPT_OK; i++)
        st = life_gc_tier(s[0], s[i], job, &g->options, &r, err);
    if (st != CKPT_OK)
        return st;
    if (g->json)
        report_json(g, job, &r);
    else
        report_text(g, job, &r);
    return CKPT_OK;
}

static int parse(struct gc *g, int argc, char **argv, bool *ret_all)
{
    static const struct option options[] = { { "all", no_argument, NULL, 'a' },
                                             { "grace", required_argument, NULL, 'g' },
                                             { "undecided", no_argument, NULL, 'u' },
                                             { "dry-run", no_argument, NULL, 'n' },
                                             { 0 } };
    int c;
    opterr = 0;
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (c == 'a')
            *ret_all = true;
        else if (c == 'u')
            g->options.undecided = true;
        else if (c == 'n')
            g->options.dry_run = true;
        else if (c != 'g')
            return tool_bad_option("gc", argv);
        else if (!keep_duration_parse(optarg, &g->options.grace_ns))
            return tool_misuse("gc", "--grace \"%s\" is no duration: 90m, 72h, 7d, 0s", optarg);
    }
    if (argc - optind != (*ret_all ? 0 : 1))
        return tool_misuse("gc", "which job? JOB, or --all");
    return 0;
}

static int run(struct tool *t, int argc, char **argv)
{
    struct gc g = { .options = { .grace_ns = LIFE_GRACE_NS,
                                 .abort_keep_ns = LIFE_ABORT_KEEP_NS,
                                 .abort_wait_ns = LIFE_ABORT_WAIT_NS } };
    bool all = false;
    int code = parse(&g, argc, argv, &all);
    if (code)
        return code;
    struct ckpt_err err = { 0 };
    g.json = t->json ? json_array() : NULL;
    bool change = !g.options.dry_run;
    enum ckpt_status st = tool_open_home(t, change, change, &g.stores, &err);
    if (st == CKPT_OK)
        st = tool_each_job(g.stores.s[0], all ? NULL : argv[optind], gc_job, &g, &err);
    if (st == CKPT_OK)
        st = g.json ? output_json(json_incref(g.json), &err) : output_flush(&err);
    tool_close_all(&g.stores);
    json_decref(g.json);
    return st == CKPT_OK ? TOOL_FINE : tool_fail(st, &err);
}

const struct tool_verb cmd_gc = {
    .name = "gc",
    .arguments = "JOB|--all [--grace DURATION] [--undecided] [--dry-run]",
    .summary = "free the space of what was deleted, pruned or never finished",
    .help =
        "Removes the data of checkpoints that were deleted or pruned longer than the grace ago\n"
        "and of saves that failed.  Looks again before it removes anything: what the newest\n"
        "launch resumed from or what has a tag comes back to life instead.  May run at any\n"
        "time, beside training, restores, prunes and other gcs; one that was killed is finished\n"
        "by the next.\n"
        "\n"
        "  --all              all jobs of the store\n"
        "  --grace DURATION   how long a deleted checkpoint can be undeleted (72h); 0s: now\n"
        "  --undecided        also give up saves that an earlier launch left unfinished; only\n"
        "                     in the store that the job saves to (--store of its ckptd): in one\n"
        "                     that it is drained to, what is still on its way looks the same\n"
        "  --remote URL       another store of the job: what is gone here goes there too; of a\n"
        "                     node's own directory (--local) also what failed or is given up\n"
        "  --dry-run          only say what would be removed\n"
        "\n"
        "--json prints an array of {job, collected, given_up, objects, bytes, brought_back,\n"
        "dry_run}.",
    .run = run,
};
