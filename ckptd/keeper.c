/* The keeper's table and its loop. */
#include "ckptd/keeper.h"

#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>

#include "ckptd/log.h"

struct keeper {
    struct keep_table table;
    int signals, sock;
    pid_t worker;
    bool ready, stopping;
    int (*reload)(void *arg);
    void *reload_arg;
};

static void table_drop(struct keep_table *t, const struct keep_msg *m)
{
    size_t to = 0;
    for (size_t i = 0; i < t->count; i++) {
        struct keep_entry *e = &t->entries[i];
        bool hit = memcmp(e->session, m->session, sizeof(e->session)) == 0 &&
                   (m->kind == 0 || (e->kind == m->kind && e->index == m->index));
        if (hit)
            close(e->fd);
        else
            t->entries[to++] = *e;
    }
    t->count = to;
}

static void table_add(struct keep_table *t, const struct keep_msg *m, int fd)
{
    table_drop(t, m); /* one descriptor for each name */
    if (t->count == t->cap) {
        size_t cap = t->cap ? t->cap * 2 : 64;
        struct keep_entry *more =
            cap > KEEPER_ENTRIES_MAX ? NULL : realloc(t->entries, cap * sizeof(*more));
        if (!more) {
            log_error("keeper cannot hold more", "entries=%zu", t->count);
            close(fd);
            return;
        }
        t->entries = more;
        t->cap = cap;
    }
    struct keep_entry *e = &t->entries[t->count++];
    *e = (struct keep_entry){ .kind = m->kind, .index = m->index, .fd = fd };
    memcpy(e->session, m->session, sizeof(e->session));
}

/* Reads one message; false when there is none. */
static bool hear(struct keeper *k)
{
    struct keep_msg m;
    int fd = -1;
    if (!keep_recv(k->sock, &m, &fd))
        return false;
    if (m.verb == KEEP_ADD && fd >= 0)
        table_add(&k->table, &m, fd);
    else if (m.verb == KEEP_REMOVE)
        table_drop(&k->table, &m);
    else if (m.verb == KEEP_READY)
        k->ready = true;
    if (m.verb == KEEP_READY && k->stopping)
        kill(k->worker, SIGTERM); /* the one before it died of the stop: this one drains */
    return true;
}

/* Forks a worker.  In the child the signals are as they were before the keeper. */
static bool start_worker(struct keeper *k, const sigset_t *before, bool *ret_child,
                         struct keep *ret_keep)
{
    int sv[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv) < 0)
        return false;
    k->worker = fork();
    if (k->worker < 0) {
        close(sv[0]);
        close(sv[1]);
        return false;
    }
    *ret_child = k->worker == 0;
    if (*ret_child) {
        close(sv[0]);
        close(k->signals);
        sigprocmask(SIG_SETMASK, before, NULL);
        *ret_keep = (struct keep){ .fd = sv[1] };
    } else {
        close(sv[1]);
        k->sock = sv[0];
    }
    return true;
}

static void hear_signal(struct keeper *k)
{
    struct signalfd_siginfo si;
    if (read(k->signals, &si, sizeof(si)) != (ssize_t)sizeof(si))
        return;
    if (si.ssi_signo == SIGTERM || si.ssi_signo == SIGINT) {
        k->stopping = true;
        kill(k->worker, SIGTERM);
    }
    CLEANUP_FD int settings = si.ssi_signo == SIGHUP ? k->reload(k->reload_arg) : -1;
    if (settings >= 0)
        keep_send_settings(k->sock, settings);
}

/* Waits for the worker's end; its wait status. */
static int watch_worker(struct keeper *k)
{
    int status;
    for (;;) {
        struct pollfd p[2] = { { .fd = k->signals, .events = POLLIN },
                               { .fd = k->sock, .events = POLLIN } };
        if (poll(p, 2, -1) < 0 && errno != EINTR)
            return -1;
        if (p[0].revents)
            hear_signal(k);
        while (hear(k))
            ;
        if (waitpid(k->worker, &status, WNOHANG) == k->worker)
            break;
        if (p[1].revents & POLLHUP) { /* the worker is about to be waited for */
            waitpid(k->worker, &status, 0);
            break;
        }
    }
    while (hear(k)) /* what it said last counts */
        ;
    close(k->sock);
    return status;
}

static void table_fini(struct keep_table *t)
{
    for (size_t i = 0; i < t->count; i++)
        close(t->entries[i].fd);
    free(t->entries);
    *t = (struct keep_table){ 0 };
}

int keeper_run(int (*worker)(void *arg, const struct keep *k, const struct keep_table *kept),
               void *arg, int (*reload)(void *arg), void *reload_arg)
{
    struct keeper k = { .reload = reload, .reload_arg = reload_arg };
    sigset_t mine, before;
    unsigned quick = 0;
    sigemptyset(&mine);
    sigaddset(&mine, SIGCHLD);
    sigaddset(&mine, SIGTERM);
    sigaddset(&mine, SIGINT);
    sigaddset(&mine, SIGHUP);
    sigprocmask(SIG_BLOCK, &mine, &before);
    k.signals = signalfd(-1, &mine, SFD_CLOEXEC | SFD_NONBLOCK);
    for (;;) {
        bool child = false;
        struct keep keep;
        time_t started = time(NULL);
        if (!start_worker(&k, &before, &child, &keep)) {
            log_error("cannot start a worker", "why=\"%m\"");
            return 1;
        }
        if (child)
            _exit(worker(arg, &keep, &k.table));
        int status = watch_worker(&k);
        if ((WIFEXITED(status) && WEXITSTATUS(status) == 0) || !k.ready) {
            bool told = k.stopping && WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM;
            table_fini(&k.table);
            if (told) /* before it served: there was nothing to bring to an end */
                return 0;
            return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
        }
        log_error("worker died", "worker=%d signal=%d status=%d kept=%zu", (int)k.worker,
                  WIFSIGNALED(status) ? WTERMSIG(status) : 0,
                  WIFEXITED(status) ? WEXITSTATUS(status) : 0, k.table.count);
        /* A worker that cannot live is not restarted in a tight loop. */
        quick = time(NULL) - started < 2 ? quick + 1 : 0;
        if (quick > 10)
            nanosleep(&(struct timespec){ .tv_sec = 1 }, NULL);
    }
}
