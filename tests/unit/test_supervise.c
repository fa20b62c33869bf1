/* How long what a command leaves may take (supervise.c).  Real processes, and a clock of the
 * test's own: it goes on by what a wait in which nothing happens would have taken. */
#include <poll.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "tools/output.h"
#include "tools/supervise.h"

#include "check.h"

#define KILLED_S 5 /* that the kernel is given, and a moment for SIGTERM before */
#define MOMENT_S 1

static double now_s = 1000;
static int grace_ms;          /* how long a wait for the end of a grace really waits */
static const char *stop_when; /* this file is there: SIGTERM for us */

double __wrap_output_monotonic(void);
int __wrap_poll(struct pollfd *p, nfds_t n, int ms);
int __real_poll(struct pollfd *p, nfds_t n, int ms);

double __wrap_output_monotonic(void)
{
    return now_s;
}

/* Those of a second wait for a process, which takes as long as it takes. */
int __wrap_poll(struct pollfd *p, nfds_t n, int ms)
{
    struct stat s;
    int got = 0, really_ms = ms > 1001 ? grace_ms : ms > 100 ? 60000 : 1;
    for (int waited = 0; got == 0 && waited < really_ms; waited++) {
        if (stop_when && stat(stop_when, &s) == 0) {
            stop_when = NULL;
            CHECK(kill(getpid(), SIGTERM) == 0);
        }
        got = __real_poll(p, n, 1);
    }
    if (got == 0)
        now_s += ms / 1e3;
    return got;
}

/* Of the end, and of what it took from the stop signal on (without one: in all). */
static struct supervise_end run(const char *script, double grace_s, double *ret_took)
{
    struct supervisor s;
    struct supervise_end end;
    char *const argv[] = { (char[]){ "sh" }, (char[]){ "-c" }, (char *)(uintptr_t)script, NULL };
    char token[32];
    static int runs;
    snprintf(token, sizeof(token), "supervise-%d-%d", (int)getpid(), runs++);
    (void)unlink("ready");
    CHECK_OK(supervisor_init(&s, NULL));
    CHECK_OK(supervise(&s, argv, token, grace_s, &end, NULL));
    *ret_took = s.stop_signal ? now_s - s.stopped_at : end.seconds;
    supervisor_fini(&s);
    CHECK(end.outlived > 0 && end.grace_over);
    return end;
}

/* Leaves somebody who hears no SIGTERM and has made the file "ready" by then. */
#define LEAVES                                                                         \
    "(trap '' TERM; exec setsid sh -c 'echo x >ready; while :; do sleep 0.05; done') " \
    "& "

int main(void)
{
    char dir[] = "/tmp/ckpt-supervise-XXXXXX";
    double took;
    CHECK(mkdtemp(dir) && chdir(dir) == 0);
    /* Nobody listens: the grace is over once, not for each of them. */
    grace_ms = 1;
    stop_when = "ready";
    struct supervise_end end =
        run("trap '' TERM; " LEAVES "while :; do sleep 0.05; done", 10, &took);
    CHECK(WIFSIGNALED(end.status) && WTERMSIG(end.status) == SIGKILL);
    CHECK(took >= 10 && took < 10 + MOMENT_S + KILLED_S + 1);
    /* The command listens: what outlives it has the rest of the grace. */
    grace_ms = 60000;
    stop_when = "ready";
    end = run("trap 'exit 3' TERM; " LEAVES "while :; do sleep 0.05; done", 2, &took);
    CHECK(WIFEXITED(end.status) && WEXITSTATUS(end.status) == 3);
    CHECK(took >= 2 && took < 2 + KILLED_S + 1);
    /* No grace: no moment either. */
    grace_ms = 1;
    stop_when = "ready";
    run("trap '' TERM; " LEAVES "while :; do sleep 0.05; done", 0, &took);
    CHECK(took < KILLED_S + 1);
    /* Nobody asked for an end: the grace is from the command's own. */
    end = run(LEAVES "while [ ! -e ready ]; do sleep 0.01; done; exit 4", 2, &took);
    CHECK(WIFEXITED(end.status) && WEXITSTATUS(end.status) == 4);
    CHECK(took >= 2);
    CHECK(unlink("ready") == 0 && chdir("/") == 0 && rmdir(dir) == 0);
    TEST_CASES(4);
    return 0;
}
