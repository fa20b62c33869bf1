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
    signal(SIGHUP, SIG_IGN);
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
    enum ckpt_status st = metrics_listen(cfg->metrics, &fd, err);
    return st == CKPT_OK ? metrics_start(fd, dir->socket, err) : st;
}

static int serve(const struct config *cfg)
{
    struct ckpt_err err = { 0 };
    struct rundir dir;
    int ready_fd = -1;
    if (cfg->private_ && !cfg->foreground && to_background(&ready_fd) < 0) {
        log_error("cannot go to the background", "why=\"%m\"");
        return 1;
    }
    raise_limits();
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
    struct worker w = {
        .config = cfg, .rundir = &dir, .counters = counters_new(), .ready_fd = ready_fd
    };
    if (!w.counters) {
        log_error("cannot start", "why=\"%m\"");
        return 4;
    }
    int rc = keeper_run(worker_main, &w);
    if (dir.bound)
        unlink(dir.socket); /* under the lock: it is ours */
    return rc;
}

int main(int argc, char *argv[])
{
    struct ckpt_err err = { 0 };
    struct config cfg;
    enum ckpt_status st = config_parse(argc, argv, getenv, &cfg, &err);
    if (st != CKPT_OK) {
        fprintf(stderr, "ckptd: %s\n", err_text(&err));
        return 2;
    }
    if (cfg.help || cfg.version) {
        fputs(cfg.help ? config_usage : "ckptd " CKPTD_VERSION "\n", stdout);
        return 0;
    }
    return serve(&cfg);
}
