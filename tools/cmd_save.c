/* ckpt save: safetensors files into a store, through the public API, as a training rank
 * would: a launch of its own with one rank. */
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <sys/random.h>

#include "formats/record.h"
#include "libckpt/ckpt.h"
#include "tools/output.h"
#include "tools/source_file.h"
#include "tools/tool.h"

#define STEP_MS 500
#define WAIT_MS 3600000

struct save {
    const struct tool *tool;
    const char *job, *socket;
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
        v->bytes += v->sources[i].s.data_bytes;
    }
    v->buffers = calloc(v->tensor_count + 1, sizeof(*v->buffers));
    return v->buffers ? CKPT_OK : err_set(err, CKPT_NO_MEMORY, "no memory for the tensors");
}

/* -- the declaration ----------------------------------------------------- */

static enum ckpt_status declare_tensor(struct save *v, const struct source_file *f,
                                       const struct safetensors_tensor *t, struct ckpt_err *err)
{
    struct ckpt_tensor_desc desc = {
        .size = sizeof(desc), .name = t->name, .dtype = t->dtype, .ndim = t->ndim, .shape = t->shape
    };
    struct ckpt_piece piece = { .replica_count = 1 };
    int64_t stride = 1;
    for (uint32_t d = t->ndim; d-- > 0;) {
        piece.len[d] = t->shape[d];
        piece.stride[d] = stride;
        stride *= (int64_t)max_u64(t->shape[d], 1);
    }
    v->buffers[v->buffer_count++] = (struct ckpt_buffer){ source_file_data(f, t), t->bytes };
    enum ckpt_status st = from_lib(ckpt_tensor(v->state, &desc, &piece, 1), err);
    if (st != CKPT_OK)
        err_prefix(err, "%s", f->path);
    return st;
}

static enum ckpt_status declare(struct save *v, struct ckpt_err *err)
{
    enum ckpt_status st = from_lib(ckpt_state_new(v->c, &v->state), err);
    for (size_t i = 0; i < v->source_count; i++) {
        const struct source_file *f = &v->sources[i];
        for (size_t k = 0; st == CKPT_OK && k < f->s.count; k++)
            st = declare_tensor(v, f, &f->s.tensors[k], err);
    }
    return st == CKPT_OK ? from_lib(ckpt_seal(v->state, WAIT_MS), err) : st;
}

/* A launch of its own: neither token nor resume point come from the environment, where
 * they would be those of a training job. */
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
                                   .world = 1,
                                   .launch = token,
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

static enum ckpt_status fence(struct save *v, struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_TIMEOUT;
    for (int waited = 0; st == CKPT_TIMEOUT && waited < WAIT_MS; waited += STEP_MS) {
        *err = (struct ckpt_err){ 0 };
        st = from_lib(ckpt_fence(v->state, STEP_MS), err);
        show_progress(v, "copying");
    }
    return st;
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
        st = fence(v, err);
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
        return output_json(json_pack("{s:s, s:I, s:I, s:s, s:i, s:I, s:f, s:f, s:o}", "job", v->job,
                                     "step", (json_int_t)v->step, "epoch", (json_int_t)info.epoch,
                                     "level", local ? "local" : "staged", "tensors",
                                     (int)v->tensor_count, "bytes", (json_int_t)v->bytes,
                                     "blocked_seconds", v->blocked, "staged_seconds", v->staged,
                                     "local_seconds", local ? json_real(v->local) : NULL),
                           err);
    char bytes[OUTPUT_TEXT], took[OUTPUT_TEXT], rate[OUTPUT_TEXT];
    printf("%s@%" PRIu64 "~%" PRIu64 ": %zu tensors, %s\n", v->job, v->step, info.epoch,
           v->tensor_count, output_bytes(v->bytes, bytes));
    printf("  blocked  %-10s %s\n", output_seconds(v->blocked, took),
           output_rate(v->bytes, v->blocked, rate));
    printf("  staged   %-10s %s%s\n", output_seconds(v->staged, took),
           output_rate(v->bytes, v->staged, rate),
           info.scoped ? "  (process: lost if this process's group is killed)" : "");
    if (local)
        printf("  local    %-10s %s\n", output_seconds(v->local, took),
               output_rate(v->bytes, v->local, rate));
    return output_flush(err);
}

static enum ckpt_status save(struct save *v, struct ckpt_err *err)
{
    v->progress = output_progress_start("saving");
    enum ckpt_status st = open_sources(v, err);
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
    default:
        return tool_bad_option("save", argv);
    }
}

static int parse(struct save *v, int argc, char **argv)
{
    static const struct option options[] = {
        { "job", required_argument, NULL, 'j' },    { "step", required_argument, NULL, 's' },
        { "level", required_argument, NULL, 'l' },  { "allow-vanished", no_argument, NULL, 'v' },
        { "metric", required_argument, NULL, 'm' }, { "arena", required_argument, NULL, 'a' },
        { "socket", required_argument, NULL, 'S' }, { 0 }
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
    .arguments = "FILE.safetensors... --job JOB --step N",
    .summary = "save safetensors files as a checkpoint, as a training rank would",
    .help = "Saves the tensors of all FILEs as one checkpoint of JOB, through ckptd (one is\n"
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
            "--json prints {job, step, epoch, level, tensors, bytes, blocked_seconds,\n"
            "staged_seconds, local_seconds}.",
    .run = run,
};
