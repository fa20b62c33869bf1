/* ckptd: the node's checkpoint daemon. */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "ckptd/config.h"
#include "ckptd/keeper.h"
#include "ckptd/log.h"
#include "ckptd/metrics.h"
#include "ckptd/rundir.h"
#include "ckptd/worker.h"
#include "formats/wire.h"

struct settings {
    struct config_input input;
    const struct config *start;
    struct config *now; /* of the last reload; NULL: none */
    struct worker worker;
};

/* A private daemon goes to the background: the process that was started returns when the
 * worker serves (0), when it cannot (its status), or after a while (0: it waits for the
 * last worker of its predecessor; the listener queues clients meanwhile). */
static int to_background(int *ret_ready_fd)
{
    int p[2];
    if (pipe2(p, O_CLOEXEC) < 0)
        return -1;
    pid_t pid = fork();
    if (pid < 0)
        return -1;
    if (pid == 0) {
        close(p[0]);
        *ret_ready_fd = p[1];
        setsid();
        return 0;
    }
    close(p[1]);
    char byte;
    struct pollfd wait = { .fd = p[0], .events = POLLIN };
    int status = 0;
    int n = poll(&wait, 1, 5000);
    if (n > 0 && read(p[0], &byte, 1) == 1)
        _exit(0);
    if (n > 0 && waitpid(pid, &status, 0) == pid)
        _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
    _exit(0);
}

static void raise_limits(void)
{
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r) == 0) {
        r.rlim_cur = r.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &r);
    }
    (void)prctl(PR_SET_DUMPABLE, 1);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGHUP, SIG_IGN); /* the keeper, which blocks it, hears it all the same */
}

static void on_waiting(void *arg, long pid)
{
    (void)arg;
    log_info("waiting for the last worker of another ckptd", "worker=%ld", pid);
}

/* The process that serves them has the listener for itself: the next ckptd finds the port free
 * although the last worker of this one may still be finishing. */
static enum ckpt_status serve_metrics(const struct config *cfg, const struct rundir *dir,
                                      struct ckpt_err *err)
{
    CLEANUP_FD int fd = -1;
    enum ckpt_status st = metrics_listen(cfg->metrics, METRICS_PATIENCE_MS, &fd, err);
    return st == CKPT_OK ? metrics_start(fd, dir->socket, err) : st;
}

/* -- settings ------------------------------------------------------------------------ */

static void log_change(void *arg, const struct config_change *c)
{
    (void)arg;
    const char *what = c->live ? "setting changed" : "setting changed: needs a restart";
    log_line(c->live ? LOG_LEVEL_INFO : LOG_LEVEL_WARN, what,
             "name=%s job=\"%s\" before=\"%s\" after=\"%s\"", c->name, c->job ? c->job : "*",
             c->before, c->after);
}

static void log_idle(void *arg, const char *where, const char *missing)
{
    (void)arg;
    log_warn("setting does nothing", "where=\"%s\" without=\"%s\"", where, missing);
}

/* Settings that the next workers take over; for the one that runs, the file as it was read. */
static int reload(void *arg)
{
    struct settings *s = arg;
    struct config_errors errors;
    struct ckpt_err err = { 0 };
    struct config *next;
    enum ckpt_status st =
        config_reload(&s->input, s->start, s->worker.config, log_change, NULL, &next, &errors);
    for (size_t i = 0; st != CKPT_OK && i < min_u64(errors.count, CONFIG_ERRORS_MAX); i++)
        log_error("settings stay as they are", "why=\"%s\"", err_text(&errors.list[i]));
    if (st != CKPT_OK)
        return -1;
    if (s->worker.config != s->start)
        config_free(s->now);
    s->worker.config = s->now = next;
    log_set_level(next->log_level);
    config_idle(next, log_idle, NULL);
    log_info("settings were read again", "file=\"%s\"", next->file ? next->file : "none");
    if (!next->file)
        return -1;
    int fd = wire_memfd("ckptd-conf", next->raw, next->raw_len, &err);
    if (fd < 0)
        log_error("the worker cannot be given the settings", "why=\"%s\"", err_text(&err));
    return fd;
}

static int serve(struct settings *s)
{
    const struct config *cfg = s->start;
    struct ckpt_err err = { 0 };
    struct rundir dir;
    int ready_fd = -1;
    if (cfg->private_ && !cfg->foreground && to_background(&ready_fd) < 0) {
        log_error("cannot go to the background", "why=\"%m\"");
        return 1;
    }
    raise_limits();
    log_set_level(cfg->log_level);
    enum ckpt_status st = rundir_find(cfg, &dir, &err);
    if (st == CKPT_OK)
        st = rundir_lock(&dir, on_waiting, NULL, &err);
    if (st == CKPT_OK && cfg->metrics)
        st = serve_metrics(cfg, &dir, &err);
    if (st == CKPT_OK)
        st = rundir_listen(&dir, cfg->listen_fd, &err);
    if (st != CKPT_OK) {
        log_error("cannot start", "status=%s why=\"%s\"", status_name(st), err_text(&err));
        return st == CKPT_REFUSED ? 5 : 4;
    }
    if (cfg->file)
        log_info("settings were read", "file=\"%s\"", cfg->file);
    config_idle(cfg, log_idle, NULL);
    s->worker = (struct worker){
        .config = cfg,
        .input = &s->input,
        .start = cfg,
        .rundir = &dir,
        .counters = counters_new(),
        .home = shared_new(sizeof(*s->worker.home)),
        .ready_fd = ready_fd,
    };
    if (!s->worker.counters || !s->worker.home) {
        log_error("cannot start", "why=\"%m\"");
        return 4;
    }
    int rc = keeper_run(worker_main, &s->worker, reload, s);
    if (dir.bound)
        unlink(dir.socket); /* under the lock: it is ours */
    return rc;
}

static void print_idle(void *arg, const char *where, const char *missing)
{
    (void)arg;
    fprintf(stderr, "ckptd: %s does nothing without %s\n", where, missing);
}

static void print_check(const struct config *c)
{
    config_print(c, stdout);
    config_idle(c, print_idle, NULL);
}

/* What is asked for instead of serving; false: to serve. */
static bool answer(const struct config *c)
{
    if (c->help)
        config_print_usage(stdout);
    else if (c->version)
        puts("ckptd " CKPTD_VERSION);
    else if (c->example)
        config_print_example(stdout);
    else if (c->manual)
        config_print_manual(stdout);
    else if (c->check)
        print_check(c);
    else
        return false;
    return true;
}

int main(int argc, char *argv[])
{
    struct config_errors errors;
    struct settings s = { .input = { .argc = argc, .argv = argv, .getenv_ = getenv } };
    struct config *start;
    if (config_load(&s.input, &start, &errors) != CKPT_OK) {
        for (size_t i = 0; i < min_u64(errors.count, CONFIG_ERRORS_MAX); i++)
            fprintf(stderr, "ckptd: %s\n", err_text(&errors.list[i]));
        if (errors.count > CONFIG_ERRORS_MAX)
            fprintf(stderr, "ckptd: and %zu more\n", errors.count - CONFIG_ERRORS_MAX);
        return 2;
    }
    s.start = start;
    int rc = 0;
    if (answer(start))
        rc = fflush(stdout) == 0 ? 0 : 1;
    else
        rc = serve(&s);
    if (s.now)
        config_free(s.now);
    config_free(start);
    return rc;
}
