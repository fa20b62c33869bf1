/* credential_process: a command of the user's that prints keys as JSON.  It runs by the
 * shell, in a process group of its own, which is killed when time is up.  What it says on
 * stderr is thrown away: some print there what no log may hold. */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/wait.h>
#include <time.h>

#include "storage/store/s3_creds_source.h"

#define WHAT       "credential_process"
#define OUTPUT_MAX 65536
#define TIMEOUT_MS 60000
#define SLICE_MS   100 /* how often the cancel flag is looked at */

static int64_t clock_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* stdin and stderr nowhere, stdout to `out`; no signal blocked or caught. */
static int spawn(const char *command, int out, pid_t *ret)
{
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attr;
    sigset_t none, all;
    char shell[] = "sh", flag[] = "-c";
    char *argv[] = { shell, flag, (char *)(uintptr_t)command, NULL };
    int error = posix_spawn_file_actions_init(&files);
    if (error)
        return error;
    error = posix_spawnattr_init(&attr);
    if (error) {
        posix_spawn_file_actions_destroy(&files);
        return error;
    }
    sigemptyset(&none);
    sigfillset(&all);
    error = posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
    if (!error)
        error = posix_spawn_file_actions_adddup2(&files, out, 1);
    if (!error)
        error = posix_spawn_file_actions_addopen(&files, 2, "/dev/null", O_WRONLY, 0);
    if (!error)
        error = posix_spawnattr_setsigmask(&attr, &none);
    if (!error)
        error = posix_spawnattr_setsigdefault(&attr, &all);
    if (!error)
        error = posix_spawnattr_setpgroup(&attr, 0);
    if (!error)
        error = posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF |
                                                    POSIX_SPAWN_SETPGROUP);
    if (!error)
        error = posix_spawn(ret, "/bin/sh", &files, &attr, argv, environ);
    posix_spawnattr_destroy(&attr);
    posix_spawn_file_actions_destroy(&files);
    return error;
}

static enum ckpt_status check_limits(const struct s3_limits *limits, int64_t end_ms,
                                     struct ckpt_err *err)
{
    if (limits->cancel && atomic_load(limits->cancel))
        return err_set(err, CKPT_CANCELLED, WHAT ": cancelled");
    if (clock_ms() >= end_ms)
        return err_set(err, CKPT_TIMEOUT, WHAT " did not end in time");
    return CKPT_OK;
}

/* To the end of the output. */
static enum ckpt_status read_output(int fd, const struct s3_limits *limits, int64_t end_ms,
                                    char *ret, size_t *ret_len, struct ckpt_err *err)
{
    for (;;) {
        struct pollfd p = { .fd = fd, .events = POLLIN };
        enum ckpt_status st = check_limits(limits, end_ms, err);
        if (st != CKPT_OK)
            return st;
        if (poll(&p, 1, SLICE_MS) <= 0)
            continue;
        ssize_t n = read(fd, ret + *ret_len, OUTPUT_MAX + 1 - *ret_len);
        if (n < 0 && errno != EINTR)
            return err_errno(err, errno, WHAT);
        if (n == 0)
            return CKPT_OK;
        *ret_len += n > 0 ? (size_t)n : 0;
        if (*ret_len > OUTPUT_MAX)
            return err_set(err, CKPT_DENIED, WHAT " printed more than %d bytes", OUTPUT_MAX);
    }
}

/* Waits for the shell; a command that closed its output and goes on is ended. */
static enum ckpt_status reap(pid_t pid, const struct s3_limits *limits, int64_t end_ms,
                             enum ckpt_status st, struct ckpt_err *err)
{
    const struct timespec slice = { .tv_nsec = SLICE_MS * 100000 };
    int status = 0;
    while (st == CKPT_OK && waitpid(pid, &status, WNOHANG) == 0) {
        st = check_limits(limits, end_ms, err);
        if (st == CKPT_OK)
            nanosleep(&slice, NULL);
    }
    if (st != CKPT_OK) {
        kill(-pid, SIGKILL);
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
            ;
        return st;
    }
    if (WIFSIGNALED(status))
        return err_set(err, CKPT_DENIED, WHAT " was killed by signal %d", WTERMSIG(status));
    if (WEXITSTATUS(status) != 0)
        return err_set(err, CKPT_DENIED,
                       WHAT " ended with status %d; run it by hand to see why (it must work "
                            "without a terminal)",
                       WEXITSTATUS(status));
    return CKPT_OK;
}

static enum ckpt_status run(const char *command, const struct s3_limits *limits, char *ret,
                            size_t *ret_len, struct ckpt_err *err)
{
    int64_t end_ms = clock_ms() + TIMEOUT_MS;
    int fds[2];
    pid_t pid;
    if (limits->deadline_ns && limits->deadline_ns / 1000000 < end_ms)
        end_ms = limits->deadline_ns / 1000000;
    if (pipe2(fds, O_CLOEXEC) < 0)
        return err_errno(err, errno, WHAT ": pipe");
    CLEANUP_FD int in = fds[0];
    int error = spawn(command, fds[1], &pid);
    close(fds[1]);
    if (error) {
        enum ckpt_status st = err_errno(err, error, WHAT ": cannot be started");
        return st == CKPT_NOT_FOUND ? CKPT_IO : st; /* no shell is not "not configured" */
    }
    enum ckpt_status st = read_output(in, limits, end_ms, ret, ret_len, err);
    return reap(pid, limits, end_ms, st, err);
}

enum ckpt_status s3_source_process(const struct s3_search *search, const char *command,
                                   struct s3_found *ret, struct ckpt_err *err)
{
    size_t len = 0;
    char *output = malloc(OUTPUT_MAX + 1);
    if (!output)
        return err_set(err, CKPT_NO_MEMORY, WHAT ": out of memory");
    enum ckpt_status st = run(command, &search->limits, output, &len, err);
    if (st == CKPT_OK)
        st = s3_answer_json(WHAT, output, len, "SessionToken", &ret->keys, err);
    if (st == CKPT_OK)
        snprintf(ret->from, sizeof(ret->from), WHAT);
    explicit_bzero(output, OUTPUT_MAX + 1);
    free(output);
    return st;
}
