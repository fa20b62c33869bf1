/* ckpt save: safetensors files into a store, through the public API, as a training rank
 * would: a launch of its own with one rank, or with a layout one rank of several, each a
 * process that saves its share of the same files. */
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <sys/random.h>

#include "formats/record.h"
#include "libckpt/ckpt.h"
#include "tools/layout_use.h"
#include "tools/output.h"
#include "tools/source_file.h"
#include "tools/tool.h"

#define STEP_MS 500
#define WAIT_MS 3600000

struct save {
    const struct tool *tool;
    const char *job, *socket, *launch;
    struct layout_option layout;
    uint64_t rank, world; /* world 0: not said */
    bool has_rank;
    struct topology_tensor *described; /* the files' tensors, with a layout */
    struct topology *topology;
    bool has_step;
    uint64_t step, arena_bytes;
    enum ckpt_level level;
    uint32_t flags;
    char (*metric_names)[RECORD_METRIC_NAME_MAX + 1];
    struct ckpt_metric *metrics;
    uint32_t metric_count;
    struct source_file *sources;
    size_t source_count;
    struct ckpt *c;
    struct ckpt_state *state;
    struct ckpt_buffer *buffers;
    size_t buffer_count, tensor_count;
    uint64_t bytes;
    double blocked, staged, local; /* seconds from the call */
    bool scoped;
    struct output_progress progress;
};

/* The words of the library into ours. */
static enum ckpt_status from_lib(enum ckpt_status st, struct ckpt_err *err)
{
    return st == CKPT_OK ? st : err_set(err, st, "%s", ckpt_error());
}

/* -- the files ----------------------------------------------------------- */

/* A file that shrinks under the mapping: nothing is committed, the daemon aborts what
 * its client did not finish. */
static void on_sigbus(int sig)
{
    static const char words[] = "ckpt: a source file became shorter while it was saved; nothing "
                                "was committed\n";
    (void)sig;
    if (write(STDERR_FILENO, words, sizeof(words) - 1) < 0)
        _exit(TOOL_STORE);
    _exit(TOOL_STORE);
}

static enum ckpt_status open_sources(struct save *v, struct ckpt_err *err)
{
    struct sigaction action = { .sa_handler = on_sigbus };
    sigaction(SIGBUS, &action, NULL);
    for (size_t i = 0; i < v->source_count; i++) {
        enum ckpt_status st = source_file_open(&v->sources[i], err);
        if (st != CKPT_OK)
            return st;
        v->tensor_count += v->sources[i].s.count;
    }
    v->buffers = calloc(v->tensor_count + 1, sizeof(*v->buffers));
    return v->buffers ? CKPT_OK : err_set(err, CKPT_NO_MEMORY, "no memory for the tensors");
}

/* -- the declaration ----------------------------------------------------- */

/* The layout, applied to the tensors of the files. */
static enum ckpt_status lay_out(struct save *v, struct ckpt_err *err)
{
    const struct topology_source from = { .mesh = v->layout.mesh,
                                          .file = v->layout.path,
                                          .rules = v->layout.text,
                                          .rules_len = v->layout.len };
    size_t n = 0;
    if (!layout_option_given(&v->layout))
        return CKPT_OK;
    v->described = calloc(v->tensor_count + 1, sizeof(*v->described));
    if (!v->described)
        return err_set(err, CKPT_NO_MEMORY, "no memory for the tensors");
    for (size_t i = 0; i < v->source_count; i++) {
        for (size_t k = 0; k < v->sources[i].s.count; k++) {
            const struct safetensors_tensor *t = &v->sources[i].s.tensors[k];
            v->described[n++] = (struct topology_tensor){ .name = t->name,
                                                          .dtype = t->dtype,
                                                          .ndim = t->ndim,
                                                          .shape = t->shape,
                                                          .cut_dim = t->ndim };
        }
    }
    enum ckpt_status st = topology_new(&from, v->described, n, &v->topology, err);
    if (st != CKPT_OK)
        return st;
    uint32_t world = topology_mesh(v->topology)->world;
    char ranks[OUTPUT_TEXT];
    if (v->world && v->world != world)
        return err_set(err, CKPT_INVALID, "--world %" PRIu64 ", but the layout has %s", v->world,
                       output_count(world, "rank", ranks));
    v->world = world;
    return layout_check_rank(v->topology, v->rank, err);
}

/* The whole tensor as one piece, or the boxes of this rank where they lie in the whole.
 * *ret_count 0: this rank holds nothing of it. */
static enum ckpt_status pieces_of(struct save *v, size_t number, const struct safetensors_tensor *t,
                                  struct ckpt_piece **ret, size_t *ret_count, struct ckpt_err *err)
{
    struct layout_piece whole = { .box = box_whole(t->ndim, t->shape), .replica_count = 1 };
    CLEANUP_FREE struct layout_piece *share = NULL;
    struct topology_shard shard;
    int64_t stride[CKPT_DIMS_MAX];
    size_t count = 1;
    enum ckpt_status st = CKPT_OK;
    if (v->topology)
        st = layout_pieces_of(v->topology, number, (uint32_t)v->rank, &shard, &share, &count, err);
    struct ckpt_piece *pieces = st == CKPT_OK ? calloc(count + 1, sizeof(*pieces)) : NULL;
    if (!pieces)
        return st != CKPT_OK ? st : err_set(err, CKPT_NO_MEMORY, "no memory for the pieces");
    dense_strides(t->ndim, t->shape, 1, stride);
    for (size_t i = 0; i < count; i++) {
        const struct layout_piece *from = share ? &share[i] : &whole;
        uint64_t at = 0;
        for (uint32_t d = 0; d < t->ndim; d++) {
            pieces[i].off[d] = from->box.off[d];
            pieces[i].len[d] = from->box.len[d];
            pieces[i].stride[d] = stride[d];
            at += from->box.off[d] * (uint64_t)stride[d];
        }
        pieces[i].offset_bytes = at * dtype_bits(t->dtype) / 8;
        pieces[i].replica = from->replica;
        pieces[i].replica_count = from->replica_count;
        v->bytes += box_bytes(&from->box, dtype_bits(t->dtype));
    }
    *ret = pieces;
    *ret_count = count;
    return CKPT_OK;
}

static enum ckpt_status declare_tensor(struct save *v, size_t number, const struct source_file *f,
                                       const struct safetensors_tensor *t, struct ckpt_err *err)
{
    struct ckpt_tensor_desc desc = {
        .size = sizeof(desc), .name = t->name, .dtype = t->dtype, .ndim = t->ndim, .shape = t->shape
    };
    CLEANUP_FREE struct ckpt_piece *pieces = NULL;
    size_t count = 0;
    enum ckpt_status st = pieces_of(v, number, t, &pieces, &count, err);
    if (st != CKPT_OK)
        return st;
    v->buffers[v->buffer_count++] = (struct ckpt_buffer){ source_file_data(f, t), t->bytes };
    st = from_lib(ckpt_tensor(v->state, &desc, pieces, count), err);
    if (st != CKPT_OK)
        err_prefix(err, "%s", f->path);
    return st;
}

static enum ckpt_status declare(struct save *v, struct ckpt_err *err)
{
    size_t number = 0;
    enum ckpt_status st = from_lib(ckpt_state_new(v->c, &v->state), err);
    for (size_t i = 0; i < v->source_count; i++) {
        const struct source_file *f = &v->sources[i];
        for (size_t k = 0; st == CKPT_OK && k < f->s.count; k++)
            st = declare_tensor(v, number++, f, &f->s.tensors[k], err);
    }
    return st == CKPT_OK ? from_lib(ckpt_seal(v->state, WAIT_MS), err) : st;
}

/* A launch of its own: neither token nor resume point come from the environment, where
 * they would be those of a training job.  Several ranks share the token that they are
 * given. */
static enum ckpt_status open_context(struct save *v, struct ckpt_err *err)
{
    char token[48];
    uint64_t random[2] = { 0 };
    if (getrandom(random, sizeof(random), 0) != sizeof(random))
        return err_errno(err, errno, "no random numbers");
    snprintf(token, sizeof(token), "save-%016" PRIx64 "%016" PRIx64, random[0], random[1]);
    unsetenv("CKPT_RESUME");
    struct ckpt_open_opts opts = { .size = sizeof(opts),
                                   .mode = CKPT_TRAIN,
                                   .job = v->job,
                                   .store = v->tool->store_url,
                                   .socket = v->socket,
                                   .rank = (uint32_t)v->rank,
                                   .world = v->world ? (uint32_t)v->world : 1,
                                   .launch = v->launch ? v->launch : token,
                                   .arena_bytes = v->arena_bytes,
                                   .flags = CKPT_OPEN_SOLO };
    return from_lib(ckpt_open(&opts, &v->c), err);
}

/* -- the save ------------------------------------------------------------ */

/* One line: how much is durable and how long it will take; before ckptd says, the phase. */
static void show_progress(struct save *v, const char *phase)
{
    struct ckpt_info info = { .size = sizeof(info) };
    bool known = ckpt_info(v->c, &info) == CKPT_OK && info.save_done_bytes > 0 &&
                 info.save_done_bytes < info.save_total_bytes;
    if (known)
        output_progress_step(&v->progress, info.save_done_bytes, info.save_total_bytes,
                             output_monotonic());
    else
        output_progress_wait(&v->progress, phase, output_monotonic());
}

/* Waits in steps, so that something can be shown meanwhile. */
static enum ckpt_status wait_level(struct save *v, uint64_t op, enum ckpt_level level,
                                   const char *phase, struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_TIMEOUT;
    for (int waited = 0; st == CKPT_TIMEOUT && waited < WAIT_MS; waited += STEP_MS) {
        *err = (struct ckpt_err){ 0 };
        st = from_lib(ckpt_wait(v->c, op, level, STEP_MS), err);
        show_progress(v, phase);
    }
    return st;
}

/* A fence that is over too soon gives the save up: it comes when all is copied. */
static enum ckpt_status fence(struct save *v, uint64_t op, struct ckpt_err *err)
{
    enum ckpt_status st = wait_level(v, op, CKPT_LEVEL_PROCESS, "copying", err);
    return st == CKPT_OK ? from_lib(ckpt_fence(v->state, WAIT_MS), err) : st;
}

static enum ckpt_status save_and_wait(struct save *v, struct ckpt_err *err)
{
    struct ckpt_save_opts opts = { .size = sizeof(opts),
                                   .step = v->step,
                                   .metrics = v->metrics,
                                   .metric_count = v->metric_count,
                                   .flags = v->flags };
    uint64_t op;
    double started = output_monotonic();
    enum ckpt_status st =
        from_lib(ckpt_save(v->state, &opts, v->buffers, v->buffer_count, NULL, &op), err);
    if (st == CKPT_OK)
        st = fence(v, op, err);
    v->blocked = output_monotonic() - started;
    if (st == CKPT_OK) {
        bool last = v->level == CKPT_LEVEL_STAGED;
        st = wait_level(v, op, last ? CKPT_LEVEL_STAGED : CKPT_LEVEL_PROCESS, "staging", err);
    }
    v->staged = output_monotonic() - started;
    if (st == CKPT_OK && v->level == CKPT_LEVEL_LOCAL)
        st = wait_level(v, op, CKPT_LEVEL_LOCAL, "making durable", err);
    v->local = output_monotonic() - started;
    return st;
}

static enum ckpt_status report(const struct save *v, struct ckpt_err *err)
{
    bool local = v->level == CKPT_LEVEL_LOCAL;
    struct ckpt_info info = { .size = sizeof(info) };
    enum ckpt_status st = from_lib(ckpt_info(v->c, &info), err);
    if (st != CKPT_OK)
        return st;
    if (v->tool->json)
        return output_json(json_pack("{s:o, s:I, s:I, s:I, s:I, s:o, s:i, s:I, s:f, s:f, s:o}",
                                     "job", output_string(v->job), "step", (json_int_t)v->step,
                                     "epoch", (json_int_t)info.epoch, "rank", (json_int_t)v->rank,
                                     "world", (json_int_t)(v->world ? v->world : 1), "level",
                                     output_string(local ? "local" : "staged"), "tensors",
                                     (int)v->tensor_count, "bytes", (json_int_t)v->bytes,
                                     "blocked_seconds", v->blocked, "staged_seconds", v->staged,
                                     "local_seconds", local ? json_real(v->local) : NULL),
                           err);
    char bytes[OUTPUT_TEXT], took[OUTPUT_TEXT], rate[OUTPUT_TEXT], where[80] = "";
    char tensors[OUTPUT_TEXT];
    if (v->topology)
        snprintf(where, sizeof(where), " on rank %" PRIu64 " of %" PRIu64, v->rank, v->world);
    output_line(stdout, "%s@%" PRIu64 "~%" PRIu64 ": %s, %s%s", v->job, v->step, info.epoch,
                output_count(v->tensor_count, "tensor", tensors), output_bytes(v->bytes, bytes),
                where);
    output_line(stdout, "  blocked  %-10s %s", output_seconds(v->blocked, took),
                output_rate(v->bytes, v->blocked, rate));
    output_line(stdout, "  staged   %-10s %s%s", output_seconds(v->staged, took),
                output_rate(v->bytes, v->staged, rate),
                info.scoped ? "  (process: lost if this process's group is killed)" : "");
    if (local)
        output_line(stdout, "  local    %-10s %s", output_seconds(v->local, took),
                    output_rate(v->bytes, v->local, rate));
    return output_flush(err);
}

static enum ckpt_status save(struct save *v, struct ckpt_err *err)
{
    v->progress = output_progress_start("saving");
    enum ckpt_status st = open_sources(v, err);
    if (st == CKPT_OK)
        st = lay_out(v, err);
    if (st == CKPT_OK)
        st = open_context(v, err);
    if (st == CKPT_OK)
        st = declare(v, err);
    if (st == CKPT_OK)
        st = save_and_wait(v, err);
    output_progress_end(&v->progress);
    return st == CKPT_OK ? report(v, err) : st;
}

static void save_fini(struct save *v)
{
    ckpt_close(v->c);
    topology_free(v->topology);
    free(v->described);
    layout_option_fini(&v->layout);
    for (size_t i = 0; i < v->source_count; i++)
        source_file_close(&v->sources[i]);
    free(v->sources);
    free(v->buffers);
    free(v->metrics);
    free(v->metric_names);
}

/* -- arguments ----------------------------------------------------------- */

/* "loss=2.31" */
static bool add_metric(struct save *v, const char *text)
{
    const char *equals = strchr(text, '=');
    size_t len = equals ? (size_t)(equals - text) : 0;
    if (len == 0 || len > RECORD_METRIC_NAME_MAX || v->metric_count == RECORD_METRICS_MAX)
        return false;
    char *end;
    double value = strtod(equals + 1, &end);
    if (end == equals + 1 || *end)
        return false;
    memcpy(v->metric_names[v->metric_count], text, len);
    v->metrics[v->metric_count] = (struct ckpt_metric){ v->metric_names[v->metric_count], value };
    v->metric_count++;
    return true;
}

static int parse_layout_option(struct save *v, int c, char **argv)
{
    struct ckpt_err err = { 0 };
    enum ckpt_status st;
    switch (c) {
    case 'y':
        st = layout_option_add(&v->layout, optarg, &err);
        return st == CKPT_OK ? 0 : tool_fail(st, &err);
    case 'r':
        v->has_rank = output_parse_u64(optarg, &v->rank);
        return v->has_rank ? 0 : tool_misuse("save", "--rank \"%s\" is no number", optarg);
    case 'w':
        return output_parse_u64(optarg, &v->world) && v->world > 0
                   ? 0
                   : tool_misuse("save", "--world \"%s\" is no number of ranks", optarg);
    default:
        return tool_bad_option("save", argv);
    }
}

static int parse_option(struct save *v, int c, char **argv)
{
    switch (c) {
    case 'j':
        v->job = optarg;
        return 0;
    case 's':
        v->has_step = output_parse_u64(optarg, &v->step);
        return v->has_step ? 0 : tool_misuse("save", "--step \"%s\" is no number", optarg);
    case 'l':
        v->level = strcmp(optarg, "staged") == 0  ? CKPT_LEVEL_STAGED
                   : strcmp(optarg, "local") == 0 ? CKPT_LEVEL_LOCAL
                                                  : CKPT_LEVEL_NONE;
        return v->level ? 0 : tool_misuse("save", "--level is staged or local, not \"%s\"", optarg);
    case 'v':
        v->flags |= CKPT_SAVE_ALLOW_VANISHED;
        return 0;
    case 'm':
        return add_metric(v, optarg)
                   ? 0
                   : tool_misuse("save", "--metric \"%s\": NAME=NUMBER is wanted, %d at most",
                                 optarg, RECORD_METRICS_MAX);
    case 'a':
        return output_parse_bytes(optarg, &v->arena_bytes)
                   ? 0
                   : tool_misuse("save", "--arena \"%s\" is no size", optarg);
    case 'S':
        v->socket = optarg;
        return 0;
    case 'L':
        v->launch = optarg;
        return 0;
    default:
        return parse_layout_option(v, c, argv);
    }
}

static int parse(struct save *v, int argc, char **argv)
{
    static const struct option options[] = {
        { "job", required_argument, NULL, 'j' },    { "step", required_argument, NULL, 's' },
        { "level", required_argument, NULL, 'l' },  { "allow-vanished", no_argument, NULL, 'v' },
        { "metric", required_argument, NULL, 'm' }, { "arena", required_argument, NULL, 'a' },
        { "socket", required_argument, NULL, 'S' }, { "launch", required_argument, NULL, 'L' },
        { "layout", required_argument, NULL, 'y' }, { "rank", required_argument, NULL, 'r' },
        { "world", required_argument, NULL, 'w' },  { 0 }
    };
    int c;
    opterr = 0;
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        int code = parse_option(v, c, argv);
        if (code)
            return code;
    }
    if (optind == argc)
        return tool_misuse("save", "which files? FILE.safetensors...");
    if (!v->job)
        return tool_misuse("save", "under which name? --job JOB");
    if (!v->has_step)
        return tool_misuse("save", "as which step? --step N");
    if (!v->tool->store_url)
        return tool_misuse("save", "where to? --store DIR (or URL), or set CKPT_STORE");
    bool layout = layout_option_given(&v->layout);
    if (layout != v->has_rank || (v->world && !layout))
        return tool_misuse("save", layout ? "--layout wants the --rank whose share this is"
                                          : "--rank and --world want a --layout");
    v->source_count = (size_t)(argc - optind);
    v->sources = calloc(v->source_count, sizeof(*v->sources));
    for (size_t i = 0; v->sources && i < v->source_count; i++)
        v->sources[i].path = argv[optind + (int)i];
    return v->sources ? 0 : TOOL_STORE;
}

static int run(struct tool *t, int argc, char **argv)
{
    struct save v = { .tool = t, .level = CKPT_LEVEL_LOCAL };
    struct ckpt_err err = { 0 };
    v.metrics = calloc(RECORD_METRICS_MAX, sizeof(*v.metrics));
    v.metric_names = calloc(RECORD_METRICS_MAX, sizeof(*v.metric_names));
    int code = TOOL_STORE;
    if (v.metrics && v.metric_names)
        code = parse(&v, argc, argv);
    if (code == 0) {
        enum ckpt_status st = job_name_check(v.job, &err);
        if (st == CKPT_OK)
            st = save(&v, &err);
        if (st != CKPT_OK)
            code = tool_fail(st, &err);
    }
    save_fini(&v);
    return code;
}

const struct tool_verb cmd_save = {
    .name = "save",
    .arguments = "FILE.safetensors... --job JOB --step N [--layout MESH|FILE --rank R --launch ID]",
    .summary = "save safetensors files as a checkpoint, as a training rank would",
    .help =
        "Saves the tensors of all FILEs as one checkpoint of JOB, through ckptd (one is\n"
        "started when none runs).  It is a launch of its own in the job's history, and\n"
        "refused (5) while a trainer of that job is attached.  Reports the seconds until the\n"
        "files were copied (blocked), safe from this process's death (staged) and durable\n"
        "and committed (local).\n"
        "\n"
        "  --job JOB           letters, digits, '.', '_', '-'; 128 at most\n"
        "  --step N            the step it is\n"
        "  --level LEVEL       what to wait for: local (default) or staged\n"
        "  --allow-vanished    tensors of the parent checkpoint may be missing\n"
        "  --metric NAME=NUM   kept with the checkpoint (loss=2.31); repeatable\n"
        "  --arena SIZE        memory for staging (default: as much as the tensors)\n"
        "  --socket PATH       ckptd's socket (else CKPT_SOCKET, else the default)\n"
        "\n"
        "Several processes make one checkpoint together, each with its share of the same\n"
        "files, as the ranks of a training job do:\n"
        "\n"
        "  --layout MESH|FILE  how the tensors are dealt to ranks (\"ckpt plan --help\"); may\n"
        "                      be given twice: a mesh like tp=2,dp=4 and a file of rules\n"
        "  --rank R            whose share this process saves\n"
        "  --world W           refuse unless the layout has so many ranks\n"
        "  --launch ID         the same for all of them, new each time\n"
        "\n"
        "  for r in 0 1 2 3; do\n"
        "      ckpt save m.safetensors --job J --step 0 --layout tp=2,dp=2 --rank $r \\\n"
        "          --launch $$ &\n"
        "  done; wait\n"
        "\n"
        "--json prints {job, step, epoch, rank, world, level, tensors, bytes, blocked_seconds,\n"
        "staged_seconds, local_seconds}.",
    .run = run,
};
