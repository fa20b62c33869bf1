/* A node: the worker runs as a coroutine that gives the turn back in epoll_wait.  It can
 * die in any call to the outside; what it had in memory is then gone, what it had told
 * keeper, ledger, sockets and store stays. */
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "ckptd/worker.h"
#include "sim/sim.h"
#include "sim/sim_wraps.h"

#include "fiber.h"

#define CANNOT_START 4                   /* worker_main */
#define STACK        (UINT64_C(8) << 20) /* lists of actions lie on it, nested */

/* A worker that died has left marks of its frames on the stack, which the next one uses. */
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
static void clean_stack(void *stack)
{
    __asan_unpoison_memory_region(stack, STACK);
}
#else
static void clean_stack(void *stack)
{
    (void)stack;
}
#endif

struct sim_node sim_nodes[SIM_NODES + 1];
uint32_t sim_node_count;
struct sim_node *sim_current;

static struct process {
    struct fiber fiber;
    void *stack;
    struct rundir rundir;
    struct config config;
    struct worker worker;
    struct counters counters;
    struct record_repo home;
    struct keep keep;
    struct keep_table table;
    struct keep_entry entries[256];
    bool died, ended;
    int status; /* of its end */
} processes[SIM_NODES + 1];

static uint32_t index_of(const struct sim_node *n)
{
    return (uint32_t)(n - sim_nodes);
}

void sim_nodes_reset(uint32_t count)
{
    for (uint32_t i = 0; i <= SIM_NODES; i++)
        sim_memory_drop(i);
    memset(sim_nodes, 0, sizeof(sim_nodes));
    for (size_t i = 0; i < SIM_NODES; i++) {
        memset(&processes[i].counters, 0, sizeof(processes[i].counters));
        processes[i].home = (struct record_repo){ 0 };
    }
    sim_node_count = count;
    sim_current = NULL;
}

/* ---- the worker's turn ---- */

static void process_main(void)
{
    struct process *p = &processes[index_of(sim_current)];
    p->status = worker_main(&p->worker, &p->keep, &p->table);
    p->ended = true;
    fiber_yield(&p->fiber);
}

static void process_make(uint32_t node)
{
    struct process *p = &processes[node];
    struct sim_node *n = &sim_nodes[node];
    if (!p->stack)
        p->stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(p->stack != MAP_FAILED);
    clean_stack(p->stack);
    p->died = p->ended = false;
    p->status = 0;
    sim_store_config(node, &p->config);
    p->rundir = (struct rundir){ .listen_fd = sim_fd(FD_LISTEN, node), .lock_fd = -1 };
    p->worker = (struct worker){ .config = &p->config,
                                 .rundir = &p->rundir,
                                 .counters = &p->counters,
                                 .home = &p->home,
                                 .ready_fd = -1 };
    p->keep = (struct keep){ .fd = sim_fd(FD_KEEP, node) };
    memcpy(p->entries, n->kept, sizeof(p->entries));
    p->table = (struct keep_table){ .entries = p->entries, .count = n->kept_count, .cap = 256 };
    fiber_make(&p->fiber, p->stack, STACK, process_main);
}

void sim_node_poke(uint32_t node)
{
    struct sim_node *n = &sim_nodes[node];
    n->quiet = 0;
    if (n->running)
        sim_after(sim_between(1000, 2 * SIM_MS), EV_NODE_RUN, node, n->turn);
}

void sim_node_start(uint32_t node)
{
    struct sim_node *n = &sim_nodes[node];
    if (n->running)
        return;
    if (!n->up)
        n->kept_count = 0;
    n->up = true;
    n->running = true;
    n->keeper_dead = n->told_stop = false;
    n->worker++;
    n->watch_count = 0;
    sim_note("node %u: worker %llu starts, %u kept", node, (unsigned long long)n->worker,
             n->kept_count);
    process_make(node);
    sim_after(SIM_MS, EV_NODE_RUN, node, ++n->turn);
}

/* The worker is gone; what it left behind is as the kernel and the keeper have it. */
static void buried(uint32_t node)
{
    struct sim_node *n = &sim_nodes[node];
    n->running = false;
    n->c = NULL;
    n->turn++;
    sim_jobs_drop(node);
    sim_memory_drop(node);
    sim_conns_drop(node);
    if (n->keeper_dead || !n->up) {
        n->up = false;
        n->kept_count = 0;
        sim_backlog_drop(node);
    }
    sim_after(sim_between(5 * SIM_MS, 20 * SIM_S), EV_NODE_START, node, 0);
}

static void died(uint32_t node)
{
    struct sim_node *n = &sim_nodes[node];
    sim_note("node %u: worker %llu dies", node, (unsigned long long)n->worker);
    sim_saw(SEEN_worker_death);
    if (n->deaths++ > 0)
        sim_saw(SEEN_worker_death_twice);
    n->dies_in = 0;
    if (n->keeper_dead)
        n->lost = true;
    buried(node);
}

/* It ended by itself: it was told to, or its keeper is dead. */
static void ended(uint32_t node)
{
    struct sim_node *n = &sim_nodes[node];
    sim_note("node %u: worker %llu ended", node, (unsigned long long)n->worker);
    if (sim_suite.cluster && processes[node].status == CANNOT_START) {
        sim_saw(SEEN_start_refused); /* its keeper starts another */
        buried(node);
        return;
    }
    SIM_CHECK(n->keeper_dead || n->told_stop, "a worker ended that nobody told to");
    n->up = false;
    buried(node);
}

void sim_node_turn(uint32_t node, uint64_t turn)
{
    struct sim_node *n = &sim_nodes[node];
    if (!n->running || turn != n->turn)
        return;
    n->turn++;
    sim_current = n;
    fiber_go(&processes[node].fiber);
    sim_current = NULL;
    if (processes[node].died)
        died(node);
    else if (processes[node].ended)
        ended(node);
    else
        sim_check_node(n);
}

void sim_point(enum sim_seen where)
{
    struct sim_node *n = sim_current;
    if (!n || n->dies_in == 0 || --n->dies_in > 0)
        return;
    sim_saw(where);
    struct process *p = &processes[index_of(n)];
    p->died = true;
    fiber_yield(&p->fiber);
    abort(); /* the dead do not come back */
}

void sim_node_kill(uint32_t node)
{
    if (sim_nodes[node].running)
        died(node);
}

void sim_node_orphan(uint32_t node)
{
    struct sim_node *n = &sim_nodes[node];
    if (!n->running || n->keeper_dead)
        return;
    sim_note("node %u: keeper dies", node);
    n->keeper_dead = true;
    sim_backlog_drop(node);
    sim_node_poke(node);
}

void sim_node_lose(uint32_t node)
{
    struct sim_node *n = &sim_nodes[node];
    if (!n->up)
        return;
    sim_note("node %u: keeper and worker die", node);
    n->up = false;
    n->lost = true;
    if (n->running) {
        died(node);
    } else {
        n->kept_count = 0;
        sim_backlog_drop(node);
    }
}

void sim_node_stop(uint32_t node)
{
    struct sim_node *n = &sim_nodes[node];
    if (!n->running)
        return;
    sim_note("node %u: told to stop", node);
    n->told_stop = true;
    sim_node_poke(node);
}

/* ---- epoll ---- */

static bool ready(const struct sim_node *n, const struct sim_watch *w)
{
    uint32_t i = sim_fd_index(w->fd);
    switch (sim_fd_kind(w->fd)) {
    case FD_LISTEN:
        return n->backlog_count > 0;
    case FD_DONE:
        return sim_jobs_ready(i);
    case FD_SIGNAL:
        return n->told_stop;
    case FD_KEEP:
        return n->keeper_dead;
    case FD_CONN:
        return sim_conn_readable(i) || (w->events & EPOLLOUT);
    case FD_PIDFD:
        return sim_ranks[i].pid_gone;
    case FD_EPOLL:
    case FD_LEDGER:
    case FD_ARENA:
    case FD_DECL:
        break; /* nobody watches them */
    }
    return false;
}

static int collect(struct sim_node *n, struct epoll_event *ret, int cap)
{
    int count = 0;
    uint32_t from = (uint32_t)sim_rand(n->watch_count); /* the order is nobody's promise */
    for (uint32_t i = 0; i < n->watch_count && count < cap; i++) {
        const struct sim_watch *w = &n->watches[(from + i) % n->watch_count];
        if (!ready(n, w))
            continue;
        ret[count++] =
            (struct epoll_event){ .events = EPOLLIN | (w->events & EPOLLOUT), .data.u64 = w->data };
    }
    return count;
}

/* Nothing happens for longer and longer, as far as nobody else does anything. */
static int64_t patience(struct sim_node *n, int timeout_ms)
{
    int64_t stretch = INT64_C(1) << (n->quiet < 8 ? n->quiet : 8);
    n->quiet++;
    return timeout_ms * SIM_MS * stretch;
}

int __wrap_epoll_wait(int fd, struct epoll_event *events, int cap, int timeout_ms)
{
    (void)fd;
    struct sim_node *n = sim_current;
    uint32_t node = index_of(n);
    struct process *p = &processes[node];
    sim_point(SEEN_worker_death);
    sim_after(patience(n, timeout_ms), EV_NODE_RUN, node, n->turn);
    if (collect(n, events, cap) > 0)
        sim_after(sim_between(1000, 100000), EV_NODE_RUN, node, n->turn);
    fiber_yield(&p->fiber);
    return collect(n, events, cap);
}

int __wrap_epoll_create1(int flags)
{
    (void)flags;
    return sim_fd(FD_EPOLL, index_of(sim_current));
}

int __wrap_epoll_ctl(int epoll, int op, int fd, struct epoll_event *ev)
{
    (void)epoll;
    struct sim_node *n = sim_current;
    uint32_t i = 0;
    while (i < n->watch_count && n->watches[i].fd != fd)
        i++;
    if (op != EPOLL_CTL_ADD && i == n->watch_count) {
        errno = ENOENT;
        return -1;
    }
    if (op == EPOLL_CTL_DEL) {
        n->watches[i] = n->watches[--n->watch_count];
        return 0;
    }
    CHECK(i < ARRAY_COUNT(n->watches));
    n->watches[i] = (struct sim_watch){ .fd = fd, .events = ev->events, .data = ev->data.u64 };
    n->watch_count += i == n->watch_count;
    return 0;
}

int __wrap_eventfd(unsigned initial, int flags)
{
    (void)initial;
    (void)flags;
    return sim_fd(FD_DONE, index_of(sim_current));
}

int __wrap_signalfd(int fd, const sigset_t *mask, int flags)
{
    (void)fd;
    (void)mask;
    (void)flags;
    return sim_fd(FD_SIGNAL, index_of(sim_current));
}

ssize_t __wrap_read(int fd, void *to, size_t bytes)
{
    if (!sim_is_fd(fd))
        return __real_read(fd, to, bytes);
    memset(to, 0, bytes);
    if (sim_fd_kind(fd) != FD_SIGNAL)
        return (ssize_t)bytes;
    /* The signal stays in sight (the seed's book-keeping), but is read once. */
    struct sim_watch *w = sim_current->watches;
    for (uint32_t i = 0; i < sim_current->watch_count; i++)
        if (w[i].fd == fd) {
            w[i] = w[--sim_current->watch_count];
            return (ssize_t)bytes;
        }
    return -1;
}

ssize_t __wrap_recv(int fd, void *to, size_t bytes, int flags)
{
    if (!sim_is_fd(fd))
        return __real_recv(fd, to, bytes, flags);
    return 0; /* the keeper's end: it is only asked when that closed */
}

int __wrap_close(int fd)
{
    if (!sim_is_fd(fd))
        return __real_close(fd);
    if (sim_fd_kind(fd) == FD_CONN)
        sim_conn_closed(sim_fd_index(fd));
    return 0;
}

int __wrap_fcntl(int fd, int cmd, long arg)
{
    return sim_is_fd(fd) ? fd : __real_fcntl(fd, cmd, arg);
}

void __wrap__exit(int status)
{
    if (!sim_current)
        __real__exit(status);
    struct process *p = &processes[index_of(sim_current)];
    p->ended = true; /* a job hangs in the store */
    fiber_yield(&p->fiber);
    abort();
}

/* ---- the rest of the worker's surroundings ---- */

int __wrap_control_run(struct control *c)
{
    struct sim_node *n = sim_current;
    n->c = c;
    int rc = __real_control_run(c);
    for (uint32_t i = 0; i < CONTROL_CLIENTS_MAX; i++)
        if (c->clients[i] && session_busy(c->clients[i]->s))
            n->lost = true; /* it said so in its log */
    n->c = NULL;
    return rc;
}

int64_t __wrap_jobs_now_ns(void)
{
    return sim.now;
}

int64_t __wrap_jobs_wall_ns(void)
{
    return sim.now;
}

void __wrap_log_line(enum log_level level, const char *what, const char *fmt, ...)
{
    char text[1024];
    va_list ap;
    (void)level;
    if (!sim.trace)
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    sim_note("node %u: %s: %s", index_of(sim_current), what, text);
}

enum ckpt_status __wrap_peer_of(int fd, struct peer *ret, struct ckpt_err *err)
{
    (void)err;
    *ret = (struct peer){ .pid = (pid_t)(100 + sim_conns[sim_fd_index(fd)].rank), .uid = 1 };
    return CKPT_OK;
}

enum ckpt_status __wrap_peer_allowed(const struct peer *p, struct ckpt_err *err)
{
    (void)p;
    (void)err;
    return CKPT_OK;
}

enum ckpt_status __wrap_peer_check_pidfd(const struct peer *p, int pidfd, struct ckpt_err *err)
{
    (void)err;
    CHECK(p->pid == (pid_t)(100 + sim_fd_index(pidfd)));
    return CKPT_OK;
}

bool __wrap_peer_shares_fate(const struct peer *p, bool client_says, bool env_says)
{
    (void)p;
    (void)client_says;
    (void)env_says;
    return false;
}

void __wrap_rundir_say(const struct rundir *r, const char *role)
{
    (void)r;
    (void)role;
}

enum ckpt_status __wrap_rundir_node(const struct rundir *r, const char *store, uint8_t ret[16],
                                    struct ckpt_err *err)
{
    (void)r;
    (void)store;
    (void)err;
    memset(ret, 1 + (int)index_of(sim_current), 16);
    memcpy(ret, &sim_current->disk, sizeof(sim_current->disk));
    return CKPT_OK;
}

/* ---- the process ---- */

int __wrap_clock_gettime(clockid_t clock, struct timespec *ret)
{
    (void)clock;
    *ret = (struct timespec){ .tv_sec = sim.now / SIM_S, .tv_nsec = sim.now % SIM_S };
    return 0;
}

ssize_t __wrap_getrandom(void *to, size_t bytes, unsigned flags)
{
    (void)flags;
    for (size_t i = 0; i < bytes; i++)
        ((uint8_t *)to)[i] = (uint8_t)sim_rand(256);
    return (ssize_t)bytes;
}
