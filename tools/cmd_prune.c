/* ckpt prune: deletes the checkpoints that a policy does not keep. */
#include <getopt.h>
#include <stdio.h>

#include "storage/repo/prune.h"
#include "storage/repo/spread.h"
#include "tools/output.h"
#include "tools/tool.h"

struct prune_call {
    struct tool_stores stores; /* the home first */
    struct keep_policy policy;
    struct prune_options options;
    bool dry_run, all;
    int64_t now_ns;
    struct prune_report total;
    json_t *json; /* array, or NULL */
    struct output_table table;
};

static const struct output_column columns[] = {
    { "JOB", OUTPUT_LEFT }, { "STEP", OUTPUT_RIGHT },   { "EPOCH", OUTPUT_RIGHT },
    { "AGE", OUTPUT_LEFT }, { "STORED", OUTPUT_RIGHT }, { "", OUTPUT_LEFT },
    { "WHY", OUTPUT_LEFT },
};
enum { COL_JOB, COL_STEP, COL_EPOCH, COL_AGE, COL_STORED, COL_ACTION, COL_WHY };

static const char *action_of(const struct prune_item *item)
{
    switch (item->done) {
    case PRUNE_DELETED:
        return "deleted";
    case PRUNE_SPARED:
        return "spared";
    case PRUNE_LOST:
        return "changed";
    case PRUNE_NOTHING:
        break;
    }
    return item->keep ? "keep" : "delete";
}

static const char *why_of(const struct prune_item *item)
{
    if (item->done == PRUNE_SPARED)
        return "a launch resumed from it or it was tagged meanwhile";
    if (item->done == PRUNE_LOST)
        return "somebody else changed it meanwhile";
    return item->why;
}

/* ---- what it says ---- */

static void item_json(struct prune_call *p, const char *job, const struct prune_item *item)
{
    char when[OUTPUT_TEXT];
    json_t *o = output_point(job, &item->name);
    json_object_set_new(o, "time", output_string(output_time(item->time_ns, when)));
    json_object_set_new(o, "abandoned", json_boolean(!item->on_lineage));
    json_object_set_new(o, "action", output_string(action_of(item)));
    json_object_set_new(o, "why", output_string(why_of(item)));
    json_object_set_new(o, "bytes_stored",
                        item->stored_bytes == UINT64_MAX
                            ? json_null()
                            : json_integer((json_int_t)item->stored_bytes));
    json_array_append_new(p->json, o);
}

static void item_row(struct prune_call *p, const char *job, const struct prune_item *item)
{
    struct output_table *t = &p->table;
    char text[OUTPUT_TEXT];
    output_row(t, item->keep ? OUTPUT_PLAIN : OUTPUT_DIM);
    output_cell(t, COL_JOB, "%s", job);
    output_cell(t, COL_STEP, "%llu", (unsigned long long)item->name.step);
    output_cell(t, COL_EPOCH, "%llu", (unsigned long long)item->name.epoch);
    output_cell(t, COL_AGE, "%s", output_age(item->time_ns, p->now_ns, text));
    output_cell(t, COL_STORED, "%s",
                item->stored_bytes == UINT64_MAX ? "" : output_bytes(item->stored_bytes, text));
    output_cell(t, COL_ACTION, "%s", action_of(item));
    output_cell(t, COL_WHY, "%s", why_of(item));
}

/* Everything when it only tells; else what did not stay. */
static void show_plan(struct prune_call *p, const char *job, const struct prune_plan *plan)
{
    for (size_t i = 0; i < plan->count; i++) {
        const struct prune_item *item = &plan->items[i];
        if (p->json)
            item_json(p, job, item);
        else if (p->dry_run || !item->keep)
            item_row(p, job, item);
    }
}

static enum ckpt_status print(struct prune_call *p, struct ckpt_err *err)
{
    char bytes[OUTPUT_TEXT];
    const struct prune_report *r = &p->total;
    if (p->json)
        return output_json(json_incref(p->json), err);
    enum ckpt_status st = CKPT_OK;
    if (p->table.row_count || p->table.failed)
        st = output_table_print(&p->table, stdout, err);
    if (st != CKPT_OK)
        return st;
    output_line(stdout, "%llu kept, %llu %s (%s)", (unsigned long long)r->kept,
                (unsigned long long)r->deleted, p->dry_run ? "would go" : "deleted",
                output_bytes(r->bytes, bytes));
    if (!p->dry_run && r->deleted)
        puts(
            "\"ckpt undelete\" brings one back until \"ckpt gc\", or a ckptd that has \"keep\", frees the space");
    return output_flush(err);
}

/* ---- doing it ---- */

static void count_plan(struct prune_report *r, const struct prune_plan *plan)
{
    for (size_t i = 0; i < plan->count; i++) {
        r->kept += plan->items[i].keep;
        r->deleted += !plan->items[i].keep;
        if (!plan->items[i].keep && plan->items[i].stored_bytes != UINT64_MAX)
            r->bytes += plan->items[i].stored_bytes;
    }
}

static enum ckpt_status prune_job(void *arg, const char *job, struct ckpt_err *err)
{
    struct prune_call *p = arg;
    struct prune_plan plan = { 0 };
    struct prune_report r = { 0 };
    enum ckpt_status st = prune_decide(p->stores.s[0], job, &p->options, &plan, err);
    if (st == CKPT_OK && !p->dry_run)
        st = prune_apply(p->stores.s[0], job, &p->options, &plan, &r, err);
    else if (st == CKPT_OK)
        count_plan(&r, &plan);
    show_plan(p, job, &plan); /* what was done is said even if it ended early */
    p->total.kept += r.kept;
    p->total.deleted += r.deleted;
    p->total.bytes += r.bytes;
    prune_plan_fini(&plan);
    return st;
}

/* ---- the call ---- */

static const struct option options[] = {
    { "keep-last", required_argument, NULL, 'k' },
    { "keep-every", required_argument, NULL, 'k' },
    { "keep-within", required_argument, NULL, 'k' },
    { "keep-hourly", required_argument, NULL, 'k' },
    { "keep-daily", required_argument, NULL, 'k' },
    { "keep-weekly", required_argument, NULL, 'k' },
    { "keep-tag", required_argument, NULL, 'k' },
    { "keep-best", required_argument, NULL, 'k' },
    { "keep", required_argument, NULL, 'K' },
    { "all", no_argument, NULL, 'a' },
    { "dry-run", no_argument, NULL, 'n' },
    { 0 },
};

static int parse_option(struct prune_call *p, int c, int which, char **argv)
{
    struct ckpt_err err = { 0 };
    enum ckpt_status st = CKPT_OK;
    switch (c) {
    case 'k':
        st = keep_policy_add(&p->policy, options[which].name + strlen("keep-"), optarg, &err);
        break;
    case 'K':
        st = keep_policy_parse(optarg, &p->policy, &err);
        break;
    case 'a':
        p->all = true;
        break;
    case 'n':
        p->dry_run = true;
        break;
    default:
        return tool_bad_option("prune", argv);
    }
    return st == CKPT_OK ? 0 : tool_misuse("prune", "%s", err_text(&err));
}

static int parse(struct prune_call *p, int argc, char **argv)
{
    int c, which = 0;
    opterr = 0;
    while ((c = getopt_long(argc, argv, "", options, &which)) != -1) {
        int code = parse_option(p, c, which, argv);
        if (code)
            return code;
    }
    if (argc - optind != (p->all ? 0 : 1))
        return tool_misuse("prune", "which job? JOB, or --all");
    return 0;
}

static int run(struct tool *t, int argc, char **argv)
{
    struct prune_call p = { .now_ns = output_now_ns() };
    struct ckpt_err err = { 0 };
    int code = parse(&p, argc, argv);
    if (code)
        return code;
    p.options.policy = &p.policy;
    p.options.threads = SPREAD_THREADS_MAX;
    p.json = t->json ? json_array() : NULL;
    output_table_init(&p.table, columns, ARRAY_COUNT(columns));
    enum ckpt_status st = CKPT_OK;
    if (!p.policy.count)
        st = err_set(&err, CKPT_REFUSED,
                     "an empty policy would keep nothing: say what to keep (--keep-last 3)");
    if (st == CKPT_OK)
        st = tool_open_home(t, !p.dry_run, false, &p.stores, &err);
    if (st == CKPT_OK) {
        p.options.tiers = p.stores.s + 1;
        p.options.tier_count = p.stores.count - 1;
        st = tool_each_job(p.stores.s[0], p.all ? NULL : argv[optind], prune_job, &p, &err);
    }
    struct ckpt_err lost = { 0 };
    enum ckpt_status printed = st == CKPT_OK || p.total.deleted ? print(&p, &lost) : CKPT_OK;
    tool_close_all(&p.stores);
    output_table_fini(&p.table);
    json_decref(p.json);
    if (st != CKPT_OK)
        return tool_fail(st, &err);
    return printed == CKPT_OK ? TOOL_FINE : tool_fail(printed, &lost);
}

const struct tool_verb cmd_prune = {
    .name = "prune",
    .arguments = "JOB|--all --keep-... [--dry-run]",
    .summary = "delete the checkpoints that no rule keeps",
    .help =
        "Deletes the checkpoints of JOB, or of each job, that none of these rules keeps:\n"
        "\n"
        "  --keep-last N            the N newest\n"
        "  --keep-every STEPS       each whose step is a multiple of STEPS\n"
        "  --keep-within DURATION   each that is younger: 90m, 36h, 7d, 2w\n"
        "  --keep-hourly N          the newest of each of the latest N hours that have one\n"
        "  --keep-daily N           the same for days (UTC)\n"
        "  --keep-weekly N          the same for weeks (from Monday, UTC)\n"
        "  --keep-tag PATTERN       each with a tag that fits (what has a tag stays anyway)\n"
        "  --keep-best METRIC[:min|:max][:N]   the N (1) with the lowest or highest value\n"
        "  --keep RULES             the same in one word: last=3,daily=7,best=loss:min:2\n"
        "\n"
        "  --dry-run      change nothing; print each checkpoint and why it stays or goes\n"
        "  --all          all jobs of the store, each by itself\n"
        "  --remote URL   a store that the job is drained to: what it holds counts, and what is\n"
        "                 on its way there stays; name all that there are\n"
        "\n"
        "Rules add up.  They count what is on the newest lineage and whole in any of the stores;\n"
        "an abandoned branch stays by --keep-within or a tag.  Ages come from the stores.  Always\n"
        "kept: the newest checkpoint of each store that can be restored, what the newest launch\n"
        "resumed from and the next one would, what has a tag, what is quarantined, incomplete and\n"
        "new, being drained, or not here at all.\n"
        "\n"
        "Nothing is removed yet: \"ckpt undelete\" brings a checkpoint back until \"ckpt gc\" (72 h), or\n"
        "a ckptd that has \"keep\" (delete-grace), finds it old enough.  An empty policy is refused\n"
        "(5).\n"
        "\n"
        "--json prints an array of {job, step, epoch, attempt, time, abandoned, action, why,\n"
        "bytes_stored}; action is keep, delete (dry run), deleted, spared or changed (by somebody\n"
        "else meanwhile).",
    .run = run,
};
