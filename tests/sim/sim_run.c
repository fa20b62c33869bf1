/* Seeds: one after the other, or in as many processes as the test may use; what was seen in
 * them is counted, and all of it must have been. */
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "sim/sim.h"

#ifdef __SANITIZE_ADDRESS__
#define SHARE 10 /* it takes so much longer */
#else
#define SHARE 1
#endif
#define END_S INT64_C(200000) /* simulated: no wait is longer than what is left of that */

static void dispatch(const struct sim_event *e)
{
    switch (e->kind) {
    case EV_NODE_RUN:
        sim_node_turn(e->a, e->b);
        break;
    case EV_NODE_START:
        sim_node_start(e->a);
        break;
    case EV_JOB_EFFECT:
        sim_job_effect(e->a, e->b);
        break;
    case EV_JOB_DONE:
        sim_job_done(e->a, e->b);
        break;
    case EV_TASK:
        sim_task_resume(e->a, e->b);
        break;
    case EV_TO_DAEMON:
        sim_conn_to_daemon(e->a);
        break;
    case EV_TO_CLIENT:
        sim_conn_to_client(e->a);
        break;
    case EV_START:
        sim_rank_start(e->a);
        break;
    case EV_DIES:
        sim_rank_die(e->a);
        break;
    case EV_RANK:
        sim_rank_timer(e->a);
        break;
    case EV_FILLED:
        sim_rank_filled(e->a, e->b);
        break;
    case EV_PIDFD:
        sim_rank_pidfd(e->a);
        break;
    case EV_LAUNCH:
        sim_program_launch(e->a);
        break;
    case EV_FAULT:
        sim_program_fault(e->a);
        break;
    case EV_OPERATOR:
        sim_store_operate(e->a, e->b);
        break;
    case EV_CALM:
        sim_program_calm();
        break;
    }
}

static void reset(unsigned long long seed, bool trace)
{
    for (uint32_t i = 0; i < SIM_NODES; i++)
        sim_jobs_drop(i);
    sim_jobs_reset();
    sim_tasks_reset();
    sim_conns_reset();
    sim_ranks_reset();
    sim_store_reset();
    sim_kept_reset();
    sim_events_clear();
    sim.seed = sim.rng = seed;
    sim.now = SIM_S;
    sim.trace = trace;
    sim.calm = false;
    sim.events = 0;
    memset(sim.seen, 0, sizeof(sim.seen));
}

static char last_words[128]; /* for a handler that must not format */

static void run_seed(unsigned long long seed, bool trace)
{
    struct sim_event e;
    snprintf(last_words, sizeof(last_words),
             "seed %llu: aborted\nreplay it with: tests/test_%s %llu\n", seed, sim_suite.name,
             seed);
    reset(seed, trace);
    sim_program_plan();
    while (sim_next(&e)) {
        dispatch(&e);
        if (sim.now > END_S * SIM_S)
            sim_check_stuck();
        if (e.kind != EV_NODE_RUN || !sim.calm || !sim_program_over())
            continue;
        if (!sim_program_last() && sim_at_rest())
            break;
    }
    sim_check_end();
    sim_store_check_end();
    sim_program_check_last();
    for (int i = 0; i < SEEN_COUNT; i++)
        sim.counts[i] += sim.seen[i];
}

static void print_counts(unsigned long long seeds)
{
    enum { BOTH, MODEL, CLUSTER };
    static const struct {
        const char *name;
        int where;
    } rows[] = {
#define X(name, where) { #name, where },
        SIM_SEEN(X)
#undef X
    };
    int missing = 0, not_here = sim_suite.cluster ? MODEL : CLUSTER;
    for (int i = 0; i < SEEN_COUNT; i++)
        if (rows[i].where != not_here)
            printf("%8llu seeds with %s\n", (unsigned long long)sim.counts[i], rows[i].name);
    for (int i = 0; i < SEEN_COUNT && seeds >= sim_suite.seeds; i++) {
        bool outcome = i == SEEN_told_failed_committed; /* and no fault */
        if (sim.counts[i] > 0 || outcome || rows[i].where == not_here)
            continue;
        fprintf(stderr, "no seed of %llu had %s\n", seeds, rows[i].name);
        missing++;
    }
    CHECK_EQ(missing, 0);
}

/* What a process has seen comes back in shared memory. */
struct tally {
    uint64_t counts[SEEN_COUNT];
    unsigned long long events;
};

/* What a world allocates and frees again stays with the process for the next one: page faults
 * were a fifth of the time. */
static void keep_memory(void)
{
    (void)mallopt(M_MMAP_THRESHOLD, 32 << 20); /* AddressSanitizer's malloc knows none of them */
    (void)mallopt(M_TRIM_THRESHOLD, 1 << 30);
}

static void run_share(unsigned long long from, unsigned long long end, unsigned step,
                      struct tally *ret)
{
    for (unsigned long long s = from; s < end; s += step) {
        run_seed(s, false);
        ret->events += sim.events;
    }
    memcpy(ret->counts, sim.counts, sizeof(ret->counts));
}

/* Returns the events; 0 when a seed broke a law, which its process has said. */
static unsigned long long run_seeds(unsigned long long from, unsigned long long seeds)
{
    unsigned n = sim_suite.processes;
    unsigned long long events = 0;
    struct tally *tallies =
        mmap(NULL, n * sizeof(*tallies), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t pids[8];
    bool failed = false;
    CHECK(tallies != MAP_FAILED && n <= ARRAY_COUNT(pids));
    fflush(stdout);
    for (unsigned i = 1; i < n; i++) {
        pids[i] = fork();
        CHECK(pids[i] >= 0);
        if (pids[i] > 0)
            continue;
        run_share(from + i, from + seeds, n, &tallies[i]);
        exit(0);
    }
    run_share(from, from + seeds, n, &tallies[0]);
    memset(sim.counts, 0, sizeof(sim.counts));
    for (unsigned i = 0; i < n; i++) {
        int status = 0;
        failed |= i > 0 && (waitpid(pids[i], &status, 0) != pids[i] || status != 0);
        events += tallies[i].events;
        for (int k = 0; k < SEEN_COUNT; k++)
            sim.counts[k] += tallies[i].counts[k];
    }
    munmap(tallies, n * sizeof(*tallies));
    return failed ? 0 : events;
}

/* An assertion of the product is a law, too. */
static void on_crash(int signal_number)
{
    ssize_t written = write(STDERR_FILENO, last_words, strlen(last_words));
    (void)written;
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

int sim_main(int argc, char **argv)
{
    bool deep = getenv("CKPT_DEEP") != NULL;
    unsigned long long from = 1, seeds = (deep ? sim_suite.seeds_deep : sim_suite.seeds) / SHARE,
                       events = 0;
    signal(SIGABRT, on_crash);
    keep_memory();
    if (argc == 2) {
        run_seed(strtoull(argv[1], NULL, 0), true);
        printf("seed %s keeps the laws\n", argv[1]);
        return 0;
    }
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--seeds") == 0)
            seeds = strtoull(argv[i + 1], NULL, 0);
        else if (strcmp(argv[i], "--from") == 0)
            from = strtoull(argv[i + 1], NULL, 0);
        else
            CHECK(!"usage: test_sim [SEED | --seeds N [--from S]]");
    }
    events = run_seeds(from, seeds);
    if (events == 0)
        return 1;
    print_counts(seeds);
    printf("seeds %llu to %llu, %llu events\n", from, from + seeds - 1, events);
    TEST_CASES(seeds);
    return 0;
}
