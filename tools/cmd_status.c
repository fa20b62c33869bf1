/* ckpt status: what the ckptd of this node is doing. */
#include <getopt.h>
#include <stdio.h>

#include "formats/meter.h"
#include "tools/daemon_page.h"
#include "tools/output.h"
#include "tools/page_summary.h"
#include "tools/page_view.h"

struct wanted {
    const char *socket;
    bool all, explain;
};

static enum ckpt_status show(const struct tool *t, const struct wanted *w, struct ckpt_err *err)
{
    json_t *page = NULL;
    enum ckpt_status st = daemon_page(t, w->socket, &page, err);
    if (st != CKPT_OK)
        return st;
    if (t->json)
        return output_json(page, err);
    st = w->all ? page_view_print(page, stdout, err) : page_summary_print(page, NULL, stdout, err);
    json_decref(page);
    return st == CKPT_OK ? output_flush(err) : st;
}

/* The table of numbers; a terminal shows it in its width or not at all, so no table. */
static enum ckpt_status explain(const struct tool *t, struct ckpt_err *err)
{
    static const char *const scopes[METER_SCOPES] = { "counters", "tiers[]", "jobs[]",
                                                      "jobs[].tiers[]", "sessions[]" };
    char name[METER_TEXT];
    json_t *list = t->json ? json_array() : NULL;
    for (size_t i = 0; i < METER_COUNT; i++) {
        const struct meter *m = &meters[i];
        const char *kind = m->kind == METER_COUNTER ? "counter" : "gauge";
        meter_prometheus(m, name);
        if (t->json) {
            json_array_append_new(list, json_pack("{s:o, s:o, s:o, s:o, s:o}", "where",
                                                  output_string(scopes[m->scope]), "name",
                                                  output_string(m->name), "metric",
                                                  output_string(name), "kind", output_string(kind),
                                                  "help", output_string(m->help)));
        } else {
            output_line(stdout, "%s.%s  %s %s", scopes[m->scope], m->name, name, kind);
            output_line(stdout, "    %s", m->help);
        }
    }
    return t->json ? output_json(list, err) : output_flush(err);
}

static int run(struct tool *t, int argc, char **argv)
{
    static const struct option options[] = { { "socket", required_argument, NULL, 's' },
                                             { "color", required_argument, NULL, 'c' },
                                             { "all", no_argument, NULL, 'a' },
                                             { "explain", no_argument, NULL, 'e' },
                                             { 0 } };
    struct wanted w = { 0 };
    int c;
    opterr = 0;
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (c == 's')
            w.socket = optarg;
        else if (c == 'a')
            w.all = true;
        else if (c == 'e')
            w.explain = true;
        else if (c != 'c')
            return tool_bad_option("status", argv);
        else if (!output_set_colour(optarg))
            return tool_misuse("status", "--color %s: auto, always or never", optarg);
    }
    if (optind != argc)
        return tool_misuse("status", "it takes no arguments");
    struct ckpt_err err = { 0 };
    enum ckpt_status st = w.explain ? explain(t, &err) : show(t, &w, &err);
    return st == CKPT_OK ? TOOL_FINE : tool_fail(st, &err);
}

const struct tool_verb cmd_status = {
    .name = "status",
    .arguments = "[--all|--explain] [--color WHEN] [--socket PATH]",
    .summary = "what this node's ckptd is doing: jobs, saves, what would be lost, tiers",
    .help =
        "Asks the running ckptd.  Which one: --socket, else CKPT_SOCKET, else the one of this\n"
        "user for --store.  Exit status 3 when none listens there.\n"
        "\n"
        "  --all           everything the daemon tells: sessions, states, saves one by one\n"
        "  --explain       what each number means, and its name for Prometheus; asks nobody\n"
        "  --color WHEN    auto (on a terminal without NO_COLOR), always or never\n"
        "  --socket PATH   ckptd's socket\n"
        "\n"
        "\"LOST NOW\" is training time since the newest checkpoint in a tier began to be saved:\n"
        "what must be trained again if nothing but that tier is left.  \"ckpt top\" shows the\n"
        "same again and again.  --json prints the page as ckptd gives it.",
    .run = run,
};
