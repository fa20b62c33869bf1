/* ckpt delete, ckpt undelete: single checkpoints, by name. */
#include <getopt.h>
#include <stdio.h>

#include "storage/repo/life.h"
#include "storage/repo/prune.h"
#include "tools/output.h"
#include "tools/tool.h"

struct change {
    const char *verb;
    bool delete;
    struct tool_stores stores; /* the home first */
    json_t *json;              /* array, or NULL */
};

static enum ckpt_status report(struct change *c, const struct catalog_spec *spec,
                               const struct ckpt_name *name, bool changed, struct ckpt_err *err)
{
    const char *state = c->delete ? "deleted" : "live";
    if (c->json) {
        json_t *o = output_point(spec->job, name);
        json_object_set_new(o, "state", output_string(state));
        json_object_set_new(o, "changed", json_boolean(changed));
        json_array_append_new(c->json, o);
        return CKPT_OK;
    }
    output_line(stdout, "%s@%llu~%llu: %s %s", spec->job, (unsigned long long)name->step,
                (unsigned long long)name->epoch, changed ? "now" : "was already", state);
    return output_flush(err);
}

static enum ckpt_status change_one(struct change *c, const char *text, struct ckpt_err *err)
{
    struct store *s = c->stores.s[0];
    struct catalog_spec spec;
    struct ckpt_name name;
    enum life life;
    uint64_t n;
    enum ckpt_status st = tool_find(s, text, &spec, &name, err);
    if (st == CKPT_OK && c->delete &&!spec.has_step)
        return err_set(err, CKPT_INVALID, "\"%s\": which step? JOB@STEP (\"ckpt ls\")", text);
    if (st == CKPT_OK && c->delete)
        st = prune_check(s, spec.job, &name, c->stores.s + 1, c->stores.count - 1, err);
    if (st == CKPT_OK)
        st = life_look(s, spec.job, &name, false, &life, &n, NULL, err);
    if (st == CKPT_OK)
        st = (c->delete ? life_delete : life_undelete)(s, spec.job, &name, "ckpt: asked for", err);
    if (st != CKPT_OK)
        return st;
    return report(c, &spec, &name, life != (c->delete ? LIFE_DELETED : LIFE_LIVE), err);
}

static int run_either(struct tool *t, int argc, char **argv, struct change *c)
{
    static const struct option options[] = { { 0 } };
    opterr = 0;
    if (getopt_long(argc, argv, "", options, NULL) != -1)
        return tool_bad_option(c->verb, argv);
    if (argc == optind)
        return tool_misuse(c->verb, "which checkpoints? JOB@STEP...");
    struct tool home = *t; /* to bring back takes nobody's word */
    struct ckpt_err err = { 0 };
    if (!c->delete)
        home.remote_count = 0;
    c->json = t->json ? json_array() : NULL;
    enum ckpt_status st = tool_open_home(&home, true, false, &c->stores, &err);
    for (int i = optind; i < argc && st == CKPT_OK; i++)
        st = change_one(c, argv[i], &err);
    if (c->json && st == CKPT_OK)
        st = output_json(json_incref(c->json), &err);
    json_decref(c->json);
    tool_close_all(&c->stores);
    return st == CKPT_OK ? TOOL_FINE : tool_fail(st, &err);
}

static int run_delete(struct tool *t, int argc, char **argv)
{
    return run_either(t, argc, argv, &(struct change){ .verb = "delete", .delete = true });
}

static int run_undelete(struct tool *t, int argc, char **argv)
{
    return run_either(t, argc, argv, &(struct change){ .verb = "undelete" });
}

const struct tool_verb cmd_delete = {
    .name = "delete",
    .arguments = "JOB@STEP[~EPOCH]...",
    .summary = "delete checkpoints by name; undelete brings them back until gc",
    .help =
        "Marks checkpoints as deleted in --store, the one that the job saves to, for all its stores:\n"
        "each --remote is one that it is drained to, and \"ckpt gc\" with it takes the data there, too.\n"
        "Nothing is removed yet: \"ckpt undelete\" brings them back, until \"ckpt gc\" (72 h), or a ckptd\n"
        "that has \"keep\" (delete-grace), finds them old enough.  Refused (5):\n"
        "the newest checkpoint that can be restored, from --store, from each --remote and from\n"
        "all together; what the newest launch resumed from or the next would; what has a tag;\n"
        "and what is not in --store nor, whole, in a --remote that was named.  Stops at the first\n"
        "that fails; \"ckpt prune\" deletes by a policy.\n"
        "\n"
        "--json prints an array of {job, step, epoch, attempt, state, changed}.",
    .run = run_delete,
};
const struct tool_verb cmd_undelete = {
    .name = "undelete",
    .arguments = "JOB@STEP[~EPOCH]...",
    .summary = "bring back what was deleted or pruned, if gc has not taken it",
    .help =
        "Brings deleted and pruned checkpoints back (\"ckpt ls --all\" shows them).  What gc has\n"
        "taken is gone: exit status 3.\n"
        "\n"
        "--json prints an array of {job, step, epoch, attempt, state, changed}.",
    .run = run_undelete,
};
