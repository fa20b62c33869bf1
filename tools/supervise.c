/* A command, its signals, and its leftovers. */
#include "tools/supervise.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "tools/output.h"

#define ENVIRON_MAX (1 << 20) /* of a process: what lies beyond is not looked at */
#define LOOK_MS     20        /* between two looks at what is left */
#define MOMENT_S    1.0       /* that what is left has after SIGTERM when no grace is left */
#define KILLED_S    5.0       /* how long the kernel may take to end what was killed */

static const int passed_on[] = { SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2 };

enum ckpt_status supervisor_init(struct supervisor *s, struct ckpt_err *err)
{
    sigset_t mask;
    *s = (struct supervisor){ .signal_fd = -1 };
    (void)signal(SIGCHLD, SIG_DFL); /* ignored by inheritance, ends would not be told */
    sigemptyset(&mask);
    for (size_t i = 0; i < ARRAY_COUNT(passed_on); i++)
        sigaddset(&mask, passed_on[i]);
    sigaddset(&mask, SIGCHLD);
    sigprocmask(SIG_BLOCK, &mask, &s->before);
    s->signal_fd = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
    if (s->signal_fd < 0) {
        int error = errno;
        sigprocmask(SIG_SETMASK, &s->before, NULL);
        return err_errno(err, error, "cannot read signals");
    }
    /* Orphans of the command come to us, so that their ends are seen and reaped. */
    (void)prctl(PR_SET_CHILD_SUBREAPER, 1);
    return CKPT_OK;
}

void supervisor_fini(struct supervisor *s)
{
    if (s->signal_fd < 0)
        return;
    close(s->signal_fd);
    s->signal_fd = -1;
    sigprocmask(SIG_SETMASK, &s->before, NULL);
}

static bool asks_for_end(int signal)
{
    return signal == SIGTERM || signal == SIGINT || signal == SIGQUIT || signal == SIGHUP;
}

/* Takes what has come; `pid` > 0 gets what is to be passed on. */
static void take_signals(struct supervisor *s, pid_t pid)
{
    struct signalfd_siginfo si;
    while (read(s->signal_fd, &si, sizeof(si)) == (ssize_t)sizeof(si)) {
        int signal = (int)si.ssi_signo;
        if (signal == SIGCHLD)
            continue;
        if (asks_for_end(signal) && s->stop_signal == 0) {
            s->stop_signal = signal;
            s->stopped_at = output_monotonic();
        }
        bool typed = si.ssi_code == SI_KERNEL && (signal == SIGINT || signal == SIGQUIT);
        if (pid > 0 && !typed)
            kill(pid, signal);
    }
}

static void wait_signals(const struct supervisor *s, double seconds)
{
    struct pollfd p = { .fd = s->signal_fd, .events = POLLIN };
    if (seconds > 3600)
        seconds = 3600;
    if (seconds > 0)
        poll(&p, 1, (int)(seconds * 1e3) + 1);
}

void supervise_pause(struct supervisor *s, double seconds)
{
    double until = output_monotonic() + seconds;
    take_signals(s, 0);
    while (s->stop_signal == 0 && output_monotonic() < until) {
        wait_signals(s, until - output_monotonic());
        take_signals(s, 0);
    }
}

/* -- what belongs to a launch -------------------------------------------------- */

static ssize_t read_proc(const char *pid, const char *name, char *buf, size_t cap)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%.16s/%s", pid, name);
    CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t n = 0;
    while (fd >= 0 && n < cap - 1) {
        ssize_t got = read(fd, buf + n, cap - 1 - n);
        if (got <= 0)
            break;
        n += (size_t)got;
    }
    buf[n] = 0;
    return (ssize_t)n;
}

static bool has_variable(const char *environ_text, size_t len, const char *variable)
{
    for (size_t at = 0; at < len; at += strlen(environ_text + at) + 1)
        if (strcmp(environ_text + at, variable) == 0)
            return true;
    return false;
}

/* Sends `signal` (0 = just looks) to all that belong to the launch; how many there are.
 * A process that has ended and waits to be reaped has no environment. */
static unsigned signal_launch(const char *token, int signal, char *buf)
{
    char variable[320];
    unsigned found = 0;
    DIR *d = opendir("/proc");
    const struct dirent *e;
    snprintf(variable, sizeof(variable), "CKPT_LAUNCH=%s", token);
    while (d && (e = readdir(d))) {
        pid_t pid = (pid_t)strtol(e->d_name, NULL, 10);
        if (pid <= 0 || pid == getpid())
            continue;
        ssize_t n = read_proc(e->d_name, "environ", buf, ENVIRON_MAX);
        if (n <= 0 || !has_variable(buf, (size_t)n, variable))
            continue;
        read_proc(e->d_name, "comm", buf, 32);
        if (strncmp(buf, "ckptd", 5) == 0)
            continue;
        found++;
        if (signal)
            kill(pid, signal);
    }
    if (d)
        closedir(d);
    return found;
}

/* Takes the ends of all that came to us; true: `pid` is among them, and how it ended. */
static bool reap(pid_t pid, int *ret_status)
{
    bool ended = false;
    int status;
    for (pid_t got; (got = waitpid(-1, &status, WNOHANG)) > 0;) {
        if (got == pid) {
            ended = true;
            *ret_status = status;
        }
    }
    return ended;
}

static void reap_orphans(void)
{
    (void)reap(0, NULL);
}

/* Until nothing of the launch is left, or the time is over; how many are left. */
static unsigned wait_launch(struct supervisor *s, const char *token, double seconds, char *buf)
{
    double until = output_monotonic() + seconds;
    for (;;) {
        reap_orphans();
        unsigned left = signal_launch(token, 0, buf);
        if (left == 0 || output_monotonic() >= until)
            return left;
        wait_signals(s, LOOK_MS / 1e3);
        take_signals(s, 0);
    }
}

static void end_leftovers(struct supervisor *s, const char *token, double grace_s,
                          struct supervise_end *ret)
{
    CLEANUP_FREE char *buf = malloc(ENVIRON_MAX);
    /* Whoever sent the stop signal waits for all of it, and kills us when it takes too long. */
    if (s->stop_signal) {
        double left = s->stopped_at + grace_s - output_monotonic();
        double least = grace_s < MOMENT_S ? grace_s : MOMENT_S;
        grace_s = left > least ? left : least;
    }
    if (!buf)
        return;
    reap_orphans();
    ret->outlived = signal_launch(token, SIGTERM, buf);
    if (ret->outlived == 0 || wait_launch(s, token, grace_s, buf) == 0)
        return;
    ret->grace_over = true;
    signal_launch(token, SIGKILL, buf);
    (void)wait_launch(s, token, KILLED_S, buf);
}

/* -- the command ------------------------------------------------------------------ */

static enum ckpt_status start(const struct supervisor *s, char *const *argv, const char *token,
                              pid_t *ret, struct ckpt_err *err)
{
    posix_spawnattr_t attr;
    if (setenv("CKPT_LAUNCH", token, 1) != 0)
        return err_errno(err, errno, "cannot set CKPT_LAUNCH");
    posix_spawnattr_init(&attr);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK);
    posix_spawnattr_setsigmask(&attr, &s->before);
    int failed = posix_spawnp(ret, argv[0], NULL, &attr, argv, environ);
    posix_spawnattr_destroy(&attr);
    return failed ? err_errno(err, failed, "cannot run %s", argv[0]) : CKPT_OK;
}

/* Until the command has ended; after a stop signal for `grace_s` at most.  Its orphans end
 * here, too: unreaped, they would use up the processes that the machine allows it. */
static void wait_command(struct supervisor *s, pid_t pid, double grace_s, struct supervise_end *ret)
{
    for (;;) {
        take_signals(s, pid); /* first: a SIGCHLD that comes later ends the wait below */
        if (reap(pid, &ret->status))
            return;
        double left = s->stop_signal ? s->stopped_at + grace_s - output_monotonic() : 1;
        if (left <= 0 && !ret->grace_over) {
            ret->grace_over = true;
            kill(pid, SIGKILL);
        }
        wait_signals(s, ret->grace_over ? 1 : left);
    }
}

enum ckpt_status supervise(struct supervisor *s, char *const *argv, const char *token,
                           double grace_s, struct supervise_end *ret, struct ckpt_err *err)
{
    pid_t pid;
    double started = output_monotonic();
    *ret = (struct supervise_end){ 0 };
    enum ckpt_status st = start(s, argv, token, &pid, err);
    if (st != CKPT_OK)
        return st;
    wait_command(s, pid, grace_s, ret);
    end_leftovers(s, token, grace_s, ret);
    take_signals(s, 0);
    ret->seconds = output_monotonic() - started;
    return CKPT_OK;
}
