/* ckpt-train: trains a small language model with several ranks on one machine.
 *
 * The parent reads the options and the text, makes the shared memory, forks one process per rank
 * and waits.  Ranks live and die together: when one ends early the parent kills the others, and
 * when the parent dies the kernel kills them all. */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tools/examples/train_rank.h"

static const char usage[] =
    "usage: ckpt-train [options]\n"
    "\n"
    "Trains a small GPT on text of this machine, data-parallel over several processes, and saves\n"
    "checkpoints.  Start it again with the same --store and --job and it resumes from the newest\n"
    "checkpoint; the losses are then the same, to the bit, as without the interruption.\n"
    "\n"
    "  --ranks N        processes (default 4); any number gives the same losses\n"
    "  --steps N        train up to this step (default 100)\n"
    "  --seed N         of parameters and order of the data (default 1)\n"
    "  --size NAME      tiny | small (default; 3.2 million parameters, 37 MiB of state) | medium\n"
    "  --text PATH      a file, or a directory of files (default: /usr/share/common-licenses)\n"
    "\n"
    "  --store URL|DIR  where checkpoints go (default: no checkpoints)\n"
    "  --job NAME       name of this training run in the store (default: gpt)\n"
    "  --save-every N   save each N steps and at the end (default 10; 0 = never)\n"
    "  --sockets LIST   of several ckptd (PATH,PATH,...), as if each were a node: the ranks are\n"
    "                   spread over them in order, with a node's ranks side by side\n"
    "\n"
    "  --loss-out FILE  one line \"step loss\" per step, the loss as hex float with all its bits;\n"
    "                   a resumed run rewrites the lines after the step that it resumed from\n"
    "  --val-every N    measure the loss on held-out text each N steps (default 20; 0 = never)\n"
    "  --quiet          print only the result\n"
    "\n"
    "SIGTERM: save after the present step, then end.\n"
    "exit: 0 trained to the last step, 1 failed (a rank died, a checkpoint could not be read),\n"
    "      2 usage, 143 ended by SIGTERM\n"
    "try:  ckpt-train --store /tmp/store --loss-out /tmp/loss   (kill it, run it again)\n";

/* ---- options ------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    struct model_config config;
} sizes[] = {
    { "tiny", { .context = 16, .width = 32, .heads = 2, .blocks = 2, .batch = 1 } },
    { "small", { .context = 64, .width = 256, .heads = 8, .blocks = 4, .batch = 2 } },
    { "medium", { .context = 128, .width = 512, .heads = 8, .blocks = 8, .batch = 2 } },
};

static bool parse_size(const char *name, struct model_config *ret)
{
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        if (strcmp(sizes[i].name, name) == 0) {
            *ret = sizes[i].config;
            return true;
        }
    }
    fprintf(stderr, "--size %s: must be tiny, small or medium\n", name);
    return false;
}

static bool parse_number(const char *option, const char *text, uint64_t max, uint64_t *ret)
{
    char *end;
    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || errno || n > max) {
        fprintf(stderr, "--%s %s: must be a number from 0 to %llu\n", option, text,
                (unsigned long long)max);
        return false;
    }
    *ret = n;
    return true;
}

enum option_id {
    RANKS,
    STEPS,
    SEED,
    SIZE,
    TEXT,
    STORE,
    JOB,
    SAVE_EVERY,
    SOCKETS,
    LOSS_OUT,
    VAL_EVERY,
    QUIET
};

static const struct option long_options[] = {
    { "ranks", required_argument, NULL, RANKS },
    { "steps", required_argument, NULL, STEPS },
    { "seed", required_argument, NULL, SEED },
    { "size", required_argument, NULL, SIZE },
    { "text", required_argument, NULL, TEXT },
    { "store", required_argument, NULL, STORE },
    { "job", required_argument, NULL, JOB },
    { "save-every", required_argument, NULL, SAVE_EVERY },
    { "sockets", required_argument, NULL, SOCKETS },
    { "loss-out", required_argument, NULL, LOSS_OUT },
    { "val-every", required_argument, NULL, VAL_EVERY },
    { "quiet", no_argument, NULL, QUIET },
    { "help", no_argument, NULL, 'h' },
    { NULL, 0, NULL, 0 },
};

static bool parse_ranks(const char *text, unsigned *ret)
{
    uint64_t n = 0;
    if (!parse_number("ranks", text, GROUP_RANKS_MAX, &n))
        return false;
    if (n == 0)
        fprintf(stderr, "--ranks 0: at least one is needed\n");
    *ret = (unsigned)n;
    return n != 0;
}

static bool parse_option(struct train_options *o, enum option_id id, const char *value)
{
    const char *name = long_options[id].name;
    switch (id) {
    case RANKS:
        return parse_ranks(value, &o->ranks);
    case STEPS:
        return parse_number(name, value, UINT32_MAX, &o->steps);
    case SEED:
        return parse_number(name, value, UINT64_MAX, &o->seed);
    case SAVE_EVERY:
        return parse_number(name, value, UINT32_MAX, &o->save_every);
    case VAL_EVERY:
        return parse_number(name, value, UINT32_MAX, &o->valid_every);
    case SIZE:
        return parse_size(value, &o->config);
    case TEXT:
        o->text = value;
        return true;
    case STORE:
        o->store = value;
        return true;
    case JOB:
        o->job = value;
        return true;
    case SOCKETS:
        o->sockets = value;
        return true;
    case LOSS_OUT:
        o->loss_out = value;
        return true;
    case QUIET:
        o->quiet = true;
        return true;
    }
    return false;
}

/* Exits on --help and on what it does not understand. */
static struct train_options parse_options(int argc, char **argv)
{
    struct train_options o = { .ranks = 4, .steps = 100, .seed = 1, .job = "gpt" };
    o.save_every = 10;
    o.valid_every = 20;
    parse_size("small", &o.config);
    int id;
    while ((id = getopt_long(argc, argv, "h", long_options, NULL)) != -1) {
        if (id == 'h') {
            fputs(usage, stdout);
            exit(0);
        }
        if (id == '?' || !parse_option(&o, (enum option_id)id, optarg)) {
            fprintf(stderr, "ckpt-train --help says more\n");
            exit(2);
        }
    }
    if (optind < argc) {
        fprintf(stderr, "%s: unexpected argument; ckpt-train --help says more\n", argv[optind]);
        exit(2);
    }
    return o;
}

/* ---- processes ----------------------------------------------------------------------------- */

/* A name for this start of the trainer: CKPT_LAUNCH if a launcher gave one, else random. */
static bool name_launch(char token[static 64])
{
    const char *given = getenv("CKPT_LAUNCH");
    uint64_t random[2];
    if (given && *given) {
        snprintf(token, 64, "%s", given);
        return strlen(given) < 64;
    }
    if (getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random))
        return false;
    snprintf(token, 64, "%016llx%016llx", (unsigned long long)random[0],
             (unsigned long long)random[1]);
    return true;
}

/* Of a list "a,b,...", the entry for this rank; in the child. */
static bool choose_socket(const char *list, unsigned rank, unsigned ranks)
{
    unsigned nodes = 1, at;
    for (const char *p = list; *p; p++)
        nodes += *p == ',';
    for (at = rank * nodes / ranks; at > 0; at--)
        list = strchr(list, ',') + 1;
    char path[256];
    int n = snprintf(path, sizeof(path), "%.*s", (int)strcspn(list, ","), list);
    return n > 0 && (size_t)n < sizeof(path) && setenv("CKPT_SOCKET", path, 1) == 0;
}

/* Never returns in the child. */
static pid_t fork_rank(const struct train_launch *launch, unsigned rank)
{
    pid_t parent = getpid();
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    /* The second check covers a parent that died before the first line took effect. */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent)
        _exit(1);
    const char *sockets = launch->options->sockets;
    bool ok = (!sockets || choose_socket(sockets, rank, launch->options->ranks)) &&
              rank_run(launch, rank);
    fflush(NULL);
    _exit(ok ? 0 : 1);
}

/* True if `status` is a clean end; else says how this rank ended. */
static bool ended_well(unsigned rank, int status)
{
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return true;
    if (WIFSIGNALED(status))
        fprintf(stderr, "rank %u was killed by signal %d; ending the others\n", rank,
                WTERMSIG(status));
    else
        fprintf(stderr, "rank %u failed; ending the others\n", rank);
    return false;
}

static void kill_ranks(const pid_t *pids, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        if (pids[i] > 0)
            kill(pids[i], SIGKILL);
}

/* The rank that has the pid; its entry becomes 0 since the pid is free for others now. */
static unsigned take_rank(pid_t *pids, unsigned count, pid_t pid)
{
    for (unsigned i = 0; i < count; i++) {
        if (pids[i] == pid) {
            pids[i] = 0;
            return i;
        }
    }
    return count;
}

static bool wait_for_ranks(pid_t *pids, unsigned count)
{
    bool ok = true;
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, 0)) > 0 || errno == EINTR) {
        unsigned rank = pid > 0 ? take_rank(pids, count, pid) : count;
        if (rank == count || !ok)
            continue; /* not one of ours, or killed by us */
        ok = ended_well(rank, status);
        if (!ok)
            kill_ranks(pids, count);
    }
    return ok;
}

/* Of the ranks and of their parent: whoever gets the signal, all ranks see it. */
static atomic_bool *asked_to_stop;

static void on_term(int signal)
{
    (void)signal;
    atomic_store(asked_to_stop, true);
}

/* SIGTERM: save after the present step, and end. */
static void catch_term(struct group *g)
{
    struct sigaction action = { .sa_handler = on_term, .sa_flags = SA_RESTART };
    asked_to_stop = &g->shared->asked_to_stop;
    sigaction(SIGTERM, &action, NULL);
}

static bool run_ranks(const struct train_launch *launch)
{
    pid_t pids[GROUP_RANKS_MAX] = { 0 };
    unsigned ranks = launch->options->ranks;
    for (unsigned i = 0; i < ranks; i++) {
        pids[i] = fork_rank(launch, i);
        if (pids[i] < 0) {
            fprintf(stderr, "cannot start rank %u: %m\n", i);
            kill_ranks(pids, i);
            wait_for_ranks(pids, i);
            return false;
        }
    }
    return wait_for_ranks(pids, ranks);
}

/* The number of parameters follows from the configuration; asked of a model that is not kept. */
static size_t count_params(struct model_config config)
{
    struct model *m = model_new(config);
    size_t count = m ? m->param_count : 0;
    model_free(m);
    return count;
}

static void print_plan(const struct train_options *o, const struct text *text, size_t params)
{
    if (o->quiet)
        return;
    printf("%zu parameters, %.1f MiB of state, %u ranks\n", params,
           (double)params * 3 * sizeof(float) / (1 << 20), o->ranks);
    printf("text: %s, %zu bytes to train on, %zu held out\n", text->source, text->train_count,
           text->valid_count);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    struct train_options options = parse_options(argc, argv);
    struct text text;
    struct group group;
    char token[64];
    if (!name_launch(token)) {
        fprintf(stderr, "no name for this launch: CKPT_LAUNCH is too long\n");
        return 1;
    }
    if (!text_load(&text, options.text))
        return 1;
    size_t params = count_params(options.config);
    errno = params ? group_init(&group, options.ranks, params) : ENOMEM;
    if (errno) {
        fprintf(stderr, "cannot get memory for %u ranks: %m\n", options.ranks);
        text_fini(&text);
        return 1;
    }
    print_plan(&options, &text, params);
    struct train_launch launch = { &options, &group, &text, token };
    catch_term(&group);
    bool ok = run_ranks(&launch);
    bool stopped = group_stopping(&group);
    group_fini(&group);
    text_fini(&text);
    if (!ok)
        return 1;
    return stopped ? 128 + SIGTERM : 0; /* there is more to do: a supervisor may go on */
}
