/* ckpt plan: what restoring a checkpoint onto another topology would take, before any
 * machine is taken for it. */
#include <getopt.h>
#include <stdio.h>

#include "formats/dtype.h"
#include "tools/layout_use.h"
#include "tools/output.h"
#include "tools/plan_node.h"
#include "tools/source_file.h"
#include "tools/tool.h"

#define NODE_RANKS        8
#define NODES_PLANNED_MAX 16 /* without --all-nodes */
#define NAMES_SHOWN       10 /* of a list of tensors; JSON has all */
#define BANDWIDTH         (2 * GIB)

/* A tensor and what is wrong with it. */
struct finding {
    const char *name; /* borrowed */
    char words[200];
};
struct findings {
    struct finding *at;
    size_t count;
};
struct plan_call {
    const struct tool *tool;
    const char *text; /* JOB@STEP */
    struct layout_option layout;
    uint64_t node_ranks, bandwidth, total_bandwidth, arena_bytes;
    bool all_nodes, bandwidth_given;
    struct source_file *models;
    size_t model_count;
    struct catalog_spec spec;
    struct ckpt_name name;
    struct reader *reader;
    struct layout_list list;
    bool *wanted; /* with --model */
    struct findings missing, mismatched, unasked, unheld;
    struct plan_node *nodes; /* those planned */
    uint32_t node_count, planned;
};

/* -- the model that asks ------------------------------------------------- */

static enum ckpt_status find(struct findings *f, const char *name, struct finding **ret,
                             struct ckpt_err *err)
{
    struct finding *more = reallocarray(f->at, f->count + 1, sizeof(*more));
    if (!more)
        return err_set(err, CKPT_NO_MEMORY, "no memory for the list of tensors");
    f->at = more;
    *ret = &more[f->count++];
    **ret = (struct finding){ .name = name };
    return CKPT_OK;
}

static size_t shape_text(uint32_t ndim, const uint64_t *shape, char *ret, size_t cap)
{
    size_t len = (size_t)snprintf(ret, cap, "[");
    for (uint32_t d = 0; d < ndim && len < cap; d++)
        len += (size_t)snprintf(ret + len, cap - len, "%s%llu", d ? ", " : "",
                                (unsigned long long)shape[d]);
    return len < cap ? len + (size_t)snprintf(ret + len, cap - len, "]") : cap;
}

static enum ckpt_status mismatch(struct plan_call *p, const struct safetensors_tensor *m,
                                 const struct index_tensor *t, struct ckpt_err *err)
{
    struct finding *f;
    char asked[80], saved[80];
    if (m->dtype == t->dtype && m->ndim == t->ndim &&
        memcmp(m->shape, t->shape, t->ndim * sizeof(t->shape[0])) == 0)
        return CKPT_OK;
    enum ckpt_status st = find(&p->mismatched, m->name, &f, err);
    if (st != CKPT_OK)
        return st;
    shape_text(m->ndim, m->shape, asked, sizeof(asked));
    shape_text(t->ndim, t->shape, saved, sizeof(saved));
    snprintf(f->words, sizeof(f->words), "%s %s in the model, %s %s in the checkpoint",
             dtype_name(m->dtype), asked, dtype_name(t->dtype), saved);
    return CKPT_OK;
}

/* Ticks what the model asks for; what it asks for otherwise or in vain is a finding. */
static enum ckpt_status ask(struct plan_call *p, const struct safetensors_tensor *m,
                            struct ckpt_err *err)
{
    const struct index_tensor *t;
    struct finding *f;
    enum ckpt_status st = reader_tensor(p->reader, m->name, &t, err);
    if (st == CKPT_OK && t->alias)
        st = reader_tensor(p->reader, t->alias, &t, err);
    if (st == CKPT_NOT_FOUND) {
        *err = (struct ckpt_err){ 0 };
        return find(&p->missing, m->name, &f, err);
    }
    if (st != CKPT_OK)
        return st;
    p->wanted[layout_list_find(&p->list, t->name)] = true;
    return mismatch(p, m, t, err);
}

static enum ckpt_status ask_all(struct plan_call *p, struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_OK;
    struct finding *f;
    if (p->model_count == 0)
        return CKPT_OK;
    p->wanted = calloc(p->list.count + 1, sizeof(*p->wanted));
    if (!p->wanted)
        return err_set(err, CKPT_NO_MEMORY, "no memory for the list of tensors");
    for (size_t i = 0; st == CKPT_OK && i < p->model_count; i++) {
        st = source_file_open(&p->models[i], err);
        for (size_t k = 0; st == CKPT_OK && k < p->models[i].s.count; k++)
            st = ask(p, &p->models[i].s.tensors[k], err);
    }
    for (size_t i = 0; st == CKPT_OK && i < p->list.count; i++) {
        if (!p->wanted[i])
            st = find(&p->unasked, p->list.tensors[i]->name, &f, err);
    }
    return st;
}

/* -- planning ------------------------------------------------------------ */

static enum ckpt_status list_unheld(struct plan_call *p, struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_OK;
    for (size_t i = 0; st == CKPT_OK && i < p->list.count; i++) {
        uint32_t rank;
        struct finding *f;
        if ((!p->wanted || p->wanted[i]) && !topology_holder(p->list.topology, i, &rank))
            st = find(&p->unheld, p->list.tensors[i]->name, &f, err);
    }
    return st;
}

static enum ckpt_status plan_nodes(struct plan_call *p, struct ckpt_err *err)
{
    uint32_t world = topology_mesh(p->list.topology)->world;
    struct plan_spec spec = { .reader = p->reader,
                              .list = &p->list,
                              .wanted = p->wanted,
                              .node_ranks = (uint32_t)min_u64(p->node_ranks, world),
                              .arena_bytes = p->arena_bytes };
    p->node_ranks = spec.node_ranks;
    p->node_count = (uint32_t)div_up(world, spec.node_ranks);
    p->planned = p->all_nodes ? p->node_count : (uint32_t)min_u64(p->node_count, NODES_PLANNED_MAX);
    p->nodes = calloc(p->planned, sizeof(*p->nodes));
    if (!p->nodes)
        return err_set(err, CKPT_NO_MEMORY, "no memory for %u nodes", p->planned);
    struct output_progress progress = output_progress_start("planning");
    enum ckpt_status st = CKPT_OK;
    for (uint32_t i = 0; st == CKPT_OK && i < p->planned; i++) {
        uint32_t last = p->node_count - 1; /* the first and the last one are always there */
        uint32_t node = p->planned > 1 ? (uint32_t)((uint64_t)i * last / (p->planned - 1)) : 0;
        st = plan_node(&spec, node, &p->nodes[i], err);
        output_progress_step(&progress, i + 1, p->planned, output_monotonic());
    }
    output_progress_end(&progress);
    return st;
}

/* Seconds of a node's reads: its own rate, and its part of what the store gives all. */
static double node_seconds(const struct plan_call *p, const struct plan_node *n)
{
    double rate = (double)p->bandwidth;
    if (p->total_bandwidth && (double)p->total_bandwidth / p->node_count < rate)
        rate = (double)p->total_bandwidth / p->node_count;
    return (double)n->read_bytes / rate;
}

static double amplification(const struct plan_node *n)
{
    return n->need_bytes ? (double)n->read_bytes / (double)n->need_bytes : 1;
}

struct totals {
    uint64_t state, need, read, host_most, state_most;
    uint32_t state_rank;
    double seconds;
};

static struct totals totals_of(const struct plan_call *p)
{
    struct totals t = { 0 };
    for (uint32_t i = 0; i < p->planned; i++) {
        const struct plan_node *n = &p->nodes[i];
        double seconds = node_seconds(p, n);
        t.state += n->state_bytes;
        t.need += n->need_bytes;
        t.read += n->read_bytes;
        t.host_most = max_u64(t.host_most, plan_node_host_bytes(n));
        if (i == 0 || n->state_bytes_most > t.state_most) {
            t.state_most = n->state_bytes_most;
            t.state_rank = n->state_rank_most;
        }
        t.seconds = seconds > t.seconds ? seconds : t.seconds;
    }
    return t;
}

/* -- text ---------------------------------------------------------------- */

static const struct output_column columns[] = {
    { "NODE", OUTPUT_RIGHT },  { "RANKS", OUTPUT_LEFT },      { "STATE", OUTPUT_RIGHT },
    { "NEEDS", OUTPUT_RIGHT }, { "READS", OUTPUT_RIGHT },     { "READS/NEEDS", OUTPUT_RIGHT },
    { "GETS", OUTPUT_RIGHT },  { "HOST PEAK", OUTPUT_RIGHT }, { "TIME", OUTPUT_RIGHT },
};

static void node_row(struct output_table *table, const struct plan_call *p,
                     const struct plan_node *n)
{
    char text[OUTPUT_TEXT];
    size_t c = 0;
    output_row(table, OUTPUT_PLAIN);
    output_cell(table, c++, "%u", n->node);
    if (n->ranks == 1)
        output_cell(table, c++, "%u", n->first_rank);
    else
        output_cell(table, c++, "%u..%u", n->first_rank, n->first_rank + n->ranks - 1);
    output_cell(table, c++, "%s", output_bytes(n->state_bytes, text));
    output_cell(table, c++, "%s", output_bytes(n->need_bytes, text));
    output_cell(table, c++, "%s", output_bytes(n->read_bytes, text));
    output_cell(table, c++, "%.3f", amplification(n));
    output_cell(table, c++, "%zu", n->gets);
    output_cell(table, c++, "%s", output_bytes(plan_node_host_bytes(n), text));
    output_cell(table, c++, "%s", output_seconds(node_seconds(p, n), text));
}

static void print_findings(const char *label, const struct findings *f)
{
    if (f->count == 0)
        return;
    char tensors[OUTPUT_TEXT];
    output_line(stdout, "%-11s %s", label, output_count(f->count, "tensor", tensors));
    for (size_t i = 0; i < f->count && i < NAMES_SHOWN; i++)
        output_line(stdout, "%-11s   %s%s%s", "", f->at[i].name, f->at[i].words[0] ? ": " : "",
                    f->at[i].words);
    if (f->count > NAMES_SHOWN)
        output_line(stdout, "%-11s   and %zu more (--json has all)", "", f->count - NAMES_SHOWN);
}

static void print_totals(const struct plan_call *p)
{
    struct totals t = totals_of(p);
    char a[OUTPUT_TEXT], b[OUTPUT_TEXT];
    const char *of = p->planned < p->node_count ? "these nodes" : "all nodes";
    output_line(stdout, "%-11s %s on %s; most on rank %u: %s", "state", output_bytes(t.state, a),
                of, t.state_rank, output_bytes(t.state_most, b));
    output_line(stdout, "%-11s %s by %s: %.3f of what they need", "reads", output_bytes(t.read, a),
                of, t.need ? (double)t.read / (double)t.need : 1.0);
    output_line(
        stdout,
        "%-11s %s of host memory on a node at most, for staging and ckptd; the state itself",
        "memory", output_bytes(t.host_most, a));
    output_line(stdout, "%-11s   comes on top where it lies in host memory", "");
    output_line(stdout, "%-11s %s for the slowest node at %s a node%s", "time",
                output_seconds(t.seconds, a), output_rate(p->bandwidth, 1, b),
                p->bandwidth_given ? "" : " (assumed; say --bandwidth)");
}

static enum ckpt_status print_text(const struct plan_call *p, struct ckpt_err *err)
{
    const struct topology_mesh *m = topology_mesh(p->list.topology);
    struct output_table table;
    char ranks[OUTPUT_TEXT], nodes[OUTPUT_TEXT];
    output_line(stdout, "%s@%llu~%llu onto %s: %s on %s of %llu", p->spec.job,
                (unsigned long long)p->name.step, (unsigned long long)p->name.epoch,
                p->layout.mesh ? p->layout.mesh : p->layout.path,
                output_count(m->world, "rank", ranks), output_count(p->node_count, "node", nodes),
                (unsigned long long)p->node_ranks);
    if (p->planned < p->node_count)
        output_line(stdout, "%s, evenly spaced, planned; --all-nodes plans each",
                    output_count(p->planned, "node", nodes));
    puts("");
    output_table_init(&table, columns, ARRAY_COUNT(columns));
    for (uint32_t i = 0; i < p->planned; i++)
        node_row(&table, p, &p->nodes[i]);
    enum ckpt_status st = output_table_print(&table, stdout, err);
    output_table_fini(&table);
    if (st != CKPT_OK)
        return st;
    puts("");
    print_totals(p);
    print_findings("missing", &p->missing);
    print_findings("mismatched", &p->mismatched);
    print_findings("not asked", &p->unasked);
    print_findings("held by none", &p->unheld);
    return output_flush(err);
}

/* -- JSON ---------------------------------------------------------------- */

static json_t *findings_json(const struct findings *f)
{
    json_t *a = json_array();
    for (size_t i = 0; i < f->count; i++)
        json_array_append_new(a, f->at[i].words[0]
                                     ? json_pack("{s:o, s:o}", "name", output_string(f->at[i].name),
                                                 "why", output_string(f->at[i].words))
                                     : output_string(f->at[i].name));
    return a;
}

static json_t *node_json(const struct plan_call *p, const struct plan_node *n)
{
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:I, s:I, s:I, s:f}",
                     "node", (json_int_t)n->node, "first_rank", (json_int_t)n->first_rank, "ranks",
                     (json_int_t)n->ranks, "bytes_state", (json_int_t)n->state_bytes,
                     "bytes_state_most", (json_int_t)n->state_bytes_most, "rank_most",
                     (json_int_t)n->state_rank_most, "bytes_needed", (json_int_t)n->need_bytes,
                     "bytes_decoded", (json_int_t)n->raw_bytes, "bytes_read",
                     (json_int_t)n->read_bytes, "read_amplification", amplification(n), "gets",
                     (json_int_t)n->gets, "manifests", (json_int_t)n->manifests, "bytes_host_peak",
                     (json_int_t)plan_node_host_bytes(n), "seconds", node_seconds(p, n));
}

static enum ckpt_status print_json(const struct plan_call *p, struct ckpt_err *err)
{
    const struct topology_mesh *m = topology_mesh(p->list.topology);
    json_t *o = output_point(p->spec.job, &p->name);
    json_t *axes = json_object(), *nodes = json_array();
    for (uint32_t i = 0; i < m->ranks.order_count; i++)
        output_member(axes, topology_axis_name(m->ranks.order[i]),
                      json_integer(m->ranks.size[m->ranks.order[i]]));
    if (m->folded)
        json_object_update_new(axes, json_pack("{s:I, s:I, s:I}", "etp",
                                               (json_int_t)m->experts.size[TOPOLOGY_TP], "ep",
                                               (json_int_t)m->experts.size[TOPOLOGY_EP], "edp",
                                               (json_int_t)m->experts.size[TOPOLOGY_DP]));
    for (uint32_t i = 0; i < p->planned; i++)
        json_array_append_new(nodes, node_json(p, &p->nodes[i]));
    json_t *more =
        json_pack("{s:o, s:I, s:I, s:I, s:I, s:f, s:o, s:o, s:o, s:o, s:o}", "mesh", axes, "world",
                  (json_int_t)m->world, "node_ranks", (json_int_t)p->node_ranks, "node_count",
                  (json_int_t)p->node_count, "bandwidth", (json_int_t)p->bandwidth, "seconds",
                  totals_of(p).seconds, "nodes", nodes, "missing", findings_json(&p->missing),
                  "mismatched", findings_json(&p->mismatched), "unasked",
                  findings_json(&p->unasked), "unheld", findings_json(&p->unheld));
    json_object_update(o, more);
    json_decref(more);
    return output_json(o, err);
}

/* ------------------------------------------------------------------------ */

static enum ckpt_status plan(struct plan_call *p, struct store *s, struct ckpt_err *err)
{
    enum ckpt_status st = tool_find(s, p->text, &p->spec, &p->name, err);
    if (st == CKPT_OK)
        st = reader_open(&s, 1, p->spec.job, &p->name, &p->reader, err);
    if (st == CKPT_OK)
        st = layout_list_init(&p->list, p->reader, &p->layout, err);
    if (st == CKPT_OK)
        st = ask_all(p, err);
    if (st == CKPT_OK)
        st = list_unheld(p, err);
    if (st == CKPT_OK)
        st = plan_nodes(p, err);
    if (st == CKPT_OK)
        st = p->tool->json ? print_json(p, err) : print_text(p, err);
    char missing[OUTPUT_TEXT];
    if (st == CKPT_OK && p->missing.count + p->mismatched.count > 0)
        return err_set(err, CKPT_MISMATCH, "%s of the model missing in %s, %zu otherwise there",
                       output_count(p->missing.count, "tensor", missing), p->text,
                       p->mismatched.count);
    return st;
}

static void plan_fini(struct plan_call *p)
{
    layout_list_fini(&p->list);
    if (p->reader)
        reader_close(p->reader);
    layout_option_fini(&p->layout);
    for (size_t i = 0; i < p->model_count; i++)
        source_file_close(&p->models[i]);
    free(p->models);
    free(p->wanted);
    free(p->missing.at);
    free(p->mismatched.at);
    free(p->unasked.at);
    free(p->unheld.at);
    free(p->nodes);
}

static bool add_model(struct plan_call *p, const char *path)
{
    struct source_file *more = reallocarray(p->models, p->model_count + 1, sizeof(*more));
    if (!more)
        return false;
    p->models = more;
    more[p->model_count++] = (struct source_file){ .path = path };
    return true;
}

/* A size that is not 0. */
static bool parse_size(const char *text, uint64_t *ret)
{
    return output_parse_bytes(text, ret) && *ret > 0;
}

/* 0, or the exit code of a misuse. */
static int parse_option(struct plan_call *p, int c, char **argv)
{
    struct ckpt_err err = { 0 };
    enum ckpt_status st = CKPT_OK;
    switch (c) {
    case 't':
    case 'l':
        st = layout_option_add(&p->layout, optarg, &err);
        return st == CKPT_OK ? 0 : tool_fail(st, &err);
    case 'n':
        if (!output_parse_u64(optarg, &p->node_ranks) || p->node_ranks == 0)
            return tool_misuse("plan", "--node-ranks \"%s\" is no number of ranks", optarg);
        return 0;
    case 'b':
        p->bandwidth_given = true;
        return parse_size(optarg, &p->bandwidth)
                   ? 0
                   : tool_misuse("plan", "--bandwidth \"%s\" is no size (per second)", optarg);
    case 'B':
        return parse_size(optarg, &p->total_bandwidth)
                   ? 0
                   : tool_misuse("plan", "--store-bandwidth \"%s\" is no size (per second)",
                                 optarg);
    case 'a':
        return parse_size(optarg, &p->arena_bytes)
                   ? 0
                   : tool_misuse("plan", "--arena \"%s\" is no size", optarg);
    case 'm':
        return add_model(p, optarg) ? 0 : TOOL_STORE;
    case 'A':
        p->all_nodes = true;
        return 0;
    default:
        return tool_bad_option("plan", argv);
    }
}

static int parse(struct plan_call *p, int argc, char **argv)
{
    static const struct option options[] = {
        { "to", required_argument, NULL, 't' },
        { "layout", required_argument, NULL, 'l' },
        { "node-ranks", required_argument, NULL, 'n' },
        { "bandwidth", required_argument, NULL, 'b' },
        { "store-bandwidth", required_argument, NULL, 'B' },
        { "arena", required_argument, NULL, 'a' },
        { "model", required_argument, NULL, 'm' },
        { "all-nodes", no_argument, NULL, 'A' },
        { 0 },
    };
    int c;
    opterr = 0;
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        int code = parse_option(p, c, argv);
        if (code)
            return code;
    }
    if (argc - optind != 1)
        return tool_misuse("plan", "which checkpoint? JOB or JOB@STEP");
    if (!layout_option_given(&p->layout))
        return tool_misuse("plan", "onto what? --to tp=4,pp=2,dp=8");
    p->text = argv[optind];
    return 0;
}

static int run(struct tool *t, int argc, char **argv)
{
    struct plan_call p = { .tool = t, .node_ranks = NODE_RANKS, .bandwidth = BANDWIDTH };
    CLEANUP_STORE struct store *store = NULL;
    struct ckpt_err err = { 0 };
    int code = parse(&p, argc, argv);
    if (code == 0) {
        enum ckpt_status st = tool_open(t, &store, &err);
        if (st == CKPT_OK)
            st = plan(&p, store, &err);
        code = st == CKPT_OK ? TOOL_FINE : tool_fail(st, &err);
    }
    plan_fini(&p);
    return code;
}

const struct tool_verb cmd_plan = {
    .name = "plan",
    .arguments = "JOB[@STEP[~EPOCH]] --to MESH [--layout FILE]",
    .summary = "what a restore onto another number of ranks would read, need and take",
    .help =
        "Says what restoring the checkpoint onto another topology costs, before a machine is\n"
        "taken: for each node the bytes its ranks hold (STATE), need (each once) and would read\n"
        "from the store, host memory, and seconds.  Reads indexes, manifests and heads of packs.\n"
        "\n"
        "  --to MESH            like tp=4,pp=2,dp=8: axes tp, pp, dp, ep, cp, rep; ranks are\n"
        "                       numbered with the first axis fastest.  Also vpp=N, zero=1|2|3\n"
        "                       (flat shards over dp), fsdp=1 (rows over dp), etp=N (experts in\n"
        "                       etp x ep x the rest of each stage: ep is no factor then)\n"
        "  --layout FILE        what the axes do to tensors, where their names do not say it:\n"
        "                       lines of PATTERN AXIS:PLACE...  (formats/LAYOUT.md), like\n"
        "                         *.qkv.weight    tp:0[4096+1024+1024]\n"
        "                         *.embed.weight  tp:0 pad:0=50304\n"
        "  --node-ranks N       ranks a node (default 8)\n"
        "  --bandwidth SIZE     bytes per second that a node reads (default 2G)\n"
        "  --store-bandwidth SIZE   and that the store gives all nodes together\n"
        "  --arena SIZE         staging memory a rank (default: as much as its state)\n"
        "  --model FILE.safetensors   compare with the tensors of this file (repeatable): names\n"
        "                       missing, or otherwise in shape or dtype; then exit status 5\n"
        "  --all-nodes          plan every node (default: 16, evenly spaced)\n"
        "\n"
        "--json prints {job, step, epoch, attempt, mesh, world, node_ranks, node_count,\n"
        "bandwidth, seconds, nodes: [{node, first_rank, ranks, bytes_state, bytes_state_most,\n"
        "rank_most, bytes_needed, bytes_decoded, bytes_read, read_amplification, gets,\n"
        "manifests, bytes_host_peak, seconds}], missing, mismatched: [{name, why}], unasked,\n"
        "unheld}.",
    .run = run,
};
