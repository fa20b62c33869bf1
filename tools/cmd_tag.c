/* ckpt tag, ckpt untag: names that keep checkpoints. */
#include <getopt.h>
#include <stdio.h>

#include "storage/repo/tags.h"
#include "tools/output.h"
#include "tools/tool.h"

static enum ckpt_status report(const struct tool *t, const struct catalog_spec *spec,
                               const struct ckpt_name *name, const char *tag, bool set,
                               struct ckpt_err *err)
{
    if (t->json) {
        json_t *o = output_point(spec->job, name);
        json_object_set_new(o, "tag", output_string(tag));
        json_object_set_new(o, "set", json_boolean(set));
        return output_json(o, err);
    }
    output_line(stdout, "%s@%llu~%llu: %s %s", spec->job, (unsigned long long)name->step,
                (unsigned long long)name->epoch, set ? "tagged" : "no longer tagged", tag);
    return output_flush(err);
}

static int run_either(struct tool *t, int argc, char **argv, bool set)
{
    static const struct option options[] = { { 0 } };
    const char *verb = set ? "tag" : "untag";
    opterr = 0;
    if (getopt_long(argc, argv, "", options, NULL) != -1)
        return tool_bad_option(verb, argv);
    if (argc - optind != 2)
        return tool_misuse(verb, "which checkpoint, and which tag? JOB@STEP TAG");
    const char *tag = argv[optind + 1];
    CLEANUP_STORE struct store *store = NULL;
    struct ckpt_err err = { 0 };
    struct catalog_spec spec;
    struct ckpt_name name;
    enum ckpt_status st = tag_check(tag, &err);
    if (st == CKPT_OK)
        st = tool_open_write(t, &store, &err);
    if (st == CKPT_OK)
        st = tool_find(store, argv[optind], &spec, &name, &err);
    if (st == CKPT_OK)
        st = (set ? tags_set : tags_unset)(store, spec.job, &name, tag, &err);
    if (st == CKPT_OK)
        st = report(t, &spec, &name, tag, set, &err);
    return st == CKPT_OK ? TOOL_FINE : tool_fail(st, &err);
}

static int run_tag(struct tool *t, int argc, char **argv)
{
    return run_either(t, argc, argv, true);
}

static int run_untag(struct tool *t, int argc, char **argv)
{
    return run_either(t, argc, argv, false);
}

const struct tool_verb cmd_tag = {
    .name = "tag",
    .arguments = "JOB[@STEP[~EPOCH]] TAG",
    .summary = "name a checkpoint, so that nothing prunes or deletes it",
    .help =
        "Gives a checkpoint a tag: letters, digits, '.', '_', '-'; 128 at most.  What has a tag\n"
        "is never pruned nor deleted until its last one is taken away (\"ckpt untag\").  Several\n"
        "checkpoints may have the same tag, and one may have several.  Tags are shown by\n"
        "\"ckpt ls\" and \"ckpt show\".\n"
        "\n"
        "--json prints {job, step, epoch, attempt, tag, set}.",
    .run = run_tag,
};
const struct tool_verb cmd_untag = {
    .name = "untag",
    .arguments = "JOB[@STEP[~EPOCH]] TAG",
    .summary = "take a tag away",
    .help = "Takes a tag away from a checkpoint.  The checkpoint stays; whether the next prune\n"
            "keeps it is up to its policy.\n"
            "\n"
            "--json prints {job, step, epoch, attempt, tag, set}.",
    .run = run_untag,
};
