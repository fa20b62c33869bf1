/* ckpt run: a training command, started again when it fails. */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/wait.h>

#include "tools/output.h"
#include "tools/run_policy.h"
#include "tools/run_seen.h"
#include "tools/supervise.h"
#include "tools/tool.h"

#define NOT_STARTED 127 /* as shells, env and timeout say it */
#define TOKEN_TEXT  256

struct run {
    struct tool *t;
    char *const *argv;
    char base[TOKEN_TEXT - 24]; /* of the tokens */
    char token[TOKEN_TEXT];
    double grace_s;
    struct run_policy policy;
    struct supervisor supervisor;
    struct supervise_end end;
    struct run_seen seen;
    uint64_t launches;
    const char *stopped; /* why there is no other start; NULL while there is */
    char why[RECORD_TEXT_MAX + CKPT_JOB_NAME_MAX + 8];
};

static void say(const char *fmt, ...) CKPT_PRINTF(1, 2);
static void say(const char *fmt, ...)
{
    char line[2048];
    va_list args;
    va_start(args, fmt);
    vsnprintf(line, sizeof(line), fmt, args);
    va_end(args);
    output_line(stderr, "ckpt run: %s", line);
}

/* -- one start --------------------------------------------------------------- */

static bool failed(const struct supervise_end *e)
{
    return !WIFEXITED(e->status) || WEXITSTATUS(e->status) != 0;
}

static int exit_code(const struct supervise_end *e)
{
    return WIFEXITED(e->status) ? WEXITSTATUS(e->status) : 128 + WTERMSIG(e->status);
}

static void end_text(const struct supervise_end *e, char *buf, size_t cap)
{
    char took[OUTPUT_TEXT];
    if (WIFEXITED(e->status))
        snprintf(buf, cap, "ended with status %d after %s", WEXITSTATUS(e->status),
                 output_seconds(e->seconds, took));
    else
        snprintf(buf, cap, "was killed by SIG%s after %s", sigabbrev_np(WTERMSIG(e->status)),
                 output_seconds(e->seconds, took));
}

/* What the store has to say of the start that just ended.  Nothing is no reason to stop:
 * a store that does not answer now may do so when the command is back. */
static void look(struct run *r)
{
    CLEANUP_STORE struct store *store = NULL;
    struct ckpt_err err = { 0 };
    char job[sizeof(r->seen.job)];
    memcpy(job, r->seen.job, sizeof(job));
    enum ckpt_status st = CKPT_OK;
    if (!r->t->store_url || !*r->t->store_url)
        return;
    st = tool_open(r->t, &store, &err);
    if (st == CKPT_OK)
        st = run_seen_read(store, r->token, job, &r->seen, &err);
    if (st != CKPT_OK && st != CKPT_NOT_FOUND)
        say("cannot see what the launch saved: %s", err_text(&err));
    if (!r->seen.job[0])
        memcpy(r->seen.job, job, sizeof(job));
}

static void tell_end(const struct run *r)
{
    char how[128];
    end_text(&r->end, how, sizeof(how));
    if (r->seen.committed)
        say("launch %" PRIu64 " %s; its newest checkpoint is %s@%" PRIu64, r->launches, how,
            r->seen.job, r->seen.newest.step);
    else if (r->seen.job[0])
        say("launch %" PRIu64 " %s and committed no checkpoint", r->launches, how);
    else
        say("launch %" PRIu64 " %s", r->launches, how);
    if (r->end.outlived)
        say("%u of its processes outlived it: ended%s", r->end.outlived,
            r->end.grace_over ? " by SIGKILL" : "");
}

/* True if the command is to be started again, after the pause that it makes. */
static bool again(struct run *r)
{
    double wait;
    char text[OUTPUT_TEXT];
    if (r->supervisor.stop_signal) {
        snprintf(r->why, sizeof(r->why), "SIG%s", sigabbrev_np(r->supervisor.stop_signal));
        r->stopped = "stopped by ";
    } else if (!failed(&r->end)) {
        r->stopped = "finished";
    } else if (WIFSIGNALED(r->end.status) && WTERMSIG(r->end.status) == SIGINT) {
        r->stopped = "interrupted";
    } else if (r->seen.stop) {
        snprintf(r->why, sizeof(r->why), "%s: %s", r->seen.job, r->seen.why);
        r->stopped = "the history of the job says that a human must look first: ";
    } else if (!run_policy_again(&r->policy, r->seen.saved ? &r->seen.highest : NULL, &wait)) {
        snprintf(r->why, sizeof(r->why), "%s in a row brought no new checkpoint",
                 output_count(r->policy.in_vain, "start", text));
        r->stopped = "given up: ";
    }
    if (r->stopped)
        return false;
    if (r->seen.has_next)
        say("again in %s, from %s@%" PRIu64, output_seconds(wait, text), r->seen.job,
            r->seen.next.step);
    else
        say("again in %s", output_seconds(wait, text));
    supervise_pause(&r->supervisor, wait);
    return true;
}

static enum ckpt_status launch(struct run *r, struct ckpt_err *err)
{
    struct run_seen before = r->seen;
    r->launches++;
    snprintf(r->token, sizeof(r->token), "%s-%" PRIu64, r->base, r->launches);
    r->seen = (struct run_seen){ 0 };
    memcpy(r->seen.job, before.job, sizeof(before.job));
    enum ckpt_status st = supervise(&r->supervisor, r->argv, r->token, r->grace_s, &r->end, err);
    if (st != CKPT_OK)
        return st;
    if (failed(&r->end) || r->supervisor.stop_signal)
        look(r);
    return CKPT_OK;
}

/* -- all of them --------------------------------------------------------------- */

/* CKPT_LAUNCH, if whoever started us gave one, else random. */
static enum ckpt_status name_launches(struct run *r, struct ckpt_err *err)
{
    const char *given = getenv("CKPT_LAUNCH");
    uint64_t random;
    int n;
    if (getrandom(&random, sizeof(random), 0) != (ssize_t)sizeof(random))
        return err_errno(err, errno, "no random number for the launch id");
    if (given && *given)
        n = snprintf(r->base, sizeof(r->base), "%s", given);
    else
        n = snprintf(r->base, sizeof(r->base), "run-%016" PRIx64, random);
    if ((size_t)n >= sizeof(r->base))
        return err_set(err, CKPT_LIMIT, "CKPT_LAUNCH is longer than %zu bytes",
                       sizeof(r->base) - 1);
    return CKPT_OK;
}

static enum ckpt_status print_summary(const struct run *r, int code, struct ckpt_err *err)
{
    if (!r->t->json)
        return CKPT_OK;
    char why[sizeof(r->why) + 128];
    snprintf(why, sizeof(why), "%s%s", r->stopped, r->why);
    json_t *o = json_pack("{s:I, s:i, s:o}", "launches", (json_int_t)r->launches, "status", code,
                          "why", output_string(why));
    if (r->seen.job[0])
        json_object_set_new(o, "job", output_string(r->seen.job));
    return output_json(o, err);
}

static int run_all(struct run *r)
{
    struct ckpt_err err = { 0 };
    for (bool more = true; more && r->supervisor.stop_signal == 0;) {
        enum ckpt_status st = launch(r, &err);
        if (st != CKPT_OK) {
            tool_fail(st, &err);
            return NOT_STARTED;
        }
        if (failed(&r->end))
            tell_end(r);
        more = again(r);
    }
    if (!r->stopped) /* in the pause */
        (void)again(r);
    int code = exit_code(&r->end);
    if (r->seen.stop && code && !r->supervisor.stop_signal)
        code = TOOL_REFUSED;
    if (r->launches > 1 || code)
        say("%s%s", r->stopped, r->why);
    return print_summary(r, code, &err) == CKPT_OK ? code : tool_fail(err.status, &err);
}

static bool parse_grace(const char *text, double *ret)
{
    uint64_t n;
    if (!output_parse_u64(text, &n) || n > 86400)
        return false;
    *ret = (double)n;
    return true;
}

/* 0, or the exit code of a misuse. */
static int parse(int argc, char **argv, struct run *r)
{
    static const struct option options[] = { { "max-restarts", required_argument, NULL, 'm' },
                                             { "backoff", required_argument, NULL, 'b' },
                                             { "grace", required_argument, NULL, 'g' },
                                             { 0 } };
    int c;
    opterr = 0;
    while ((c = getopt_long(argc, argv, "+", options, NULL)) != -1) {
        switch (c) {
        case 'm':
            if (!output_parse_u64(optarg, &r->policy.max_restarts))
                return tool_misuse("run", "--max-restarts \"%s\" is no number", optarg);
            break;
        case 'b':
            if (!run_policy_parse_backoff(optarg, &r->policy))
                return tool_misuse("run", "--backoff \"%s\" is not SECONDS or FIRST:MOST", optarg);
            break;
        case 'g':
            if (!parse_grace(optarg, &r->grace_s))
                return tool_misuse("run", "--grace \"%s\" is no number of seconds", optarg);
            break;
        default:
            return tool_bad_option("run", argv);
        }
    }
    if (optind == argc)
        return tool_misuse("run", "which command? ckpt run -- CMD [ARGUMENT...]");
    r->argv = argv + optind;
    return 0;
}

static int run(struct tool *t, int argc, char **argv)
{
    struct run r = { .t = t,
                     .grace_s = 60,
                     .policy = { .max_restarts = 10, .backoff_s = 1, .backoff_max_s = 60 } };
    struct ckpt_err err = { 0 };
    int code = parse(argc, argv, &r);
    if (code)
        return code;
    if (t->remote_count > 1)
        return tool_misuse("run", "one --remote at most; ckptd.conf can name several");
    enum ckpt_status st = name_launches(&r, &err);
    if (st == CKPT_OK && t->store_url && setenv("CKPT_STORE", t->store_url, 1) != 0)
        st = err_errno(&err, errno, "cannot set CKPT_STORE");
    if (st == CKPT_OK && t->remote_count && setenv("CKPT_REMOTE", t->remotes[0], 1) != 0)
        st = err_errno(&err, errno, "cannot set CKPT_REMOTE");
    if (st == CKPT_OK)
        st = supervisor_init(&r.supervisor, &err);
    if (st != CKPT_OK)
        return tool_fail(st, &err);
    code = run_all(&r);
    supervisor_fini(&r.supervisor);
    return code;
}

const struct tool_verb cmd_run = {
    .name = "run",
    .arguments = "[--max-restarts N] [--backoff S[:MAX]] [--grace S] [--] CMD [ARGUMENT...]",
    .summary = "run a training command, and start it again when it fails",
    .help =
        "Starts CMD with a launch id of its own (CKPT_LAUNCH), so that all its ranks agree on the\n"
        "launch and each start resumes from the newest checkpoint.  When CMD fails, it and all\n"
        "that is left of it is ended, and it is started again.  Put it around what starts all\n"
        "ranks: a plain program, mpirun, srun, or torchrun with one agent.\n"
        "\n"
        "  --max-restarts N   restarts in a row that bring no new checkpoint, of a higher step\n"
        "                     than all before (default 10)\n"
        "  --backoff S[:MAX]  seconds before the first restart, doubled for each in a row that\n"
        "                     brings no new checkpoint, up to MAX (default 1:60)\n"
        "  --grace S          seconds that CMD, and what outlives it, have after SIGTERM to save\n"
        "                     and end (default 60)\n"
        "\n"
        "TERM, INT, QUIT and HUP are passed on to CMD and end the run; USR1 and USR2 are passed\n"
        "on.  A start is never repeated when CMD ended with status 0 or was interrupted, nor when\n"
        "the job's history says that a human must look first (\"ckpt restore --explain JOB\"): it\n"
        "needs --store or CKPT_STORE to see that, and hands it to CMD as CKPT_STORE, and one\n"
        "--remote as CKPT_REMOTE.  ckptd is never ended with CMD: it brings to the disk what was\n"
        "staged.\n"
        "\n"
        "exit status: that of the last start (128 + number after a signal), 5 when a human must\n"
        "look, 127 when CMD cannot be started.  --json prints {launches, status, why, job}.",
    .run = run,
};
