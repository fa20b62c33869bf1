/* Finding the daemon: the socket that was named, or the one of this user and store; when
 * nobody listens there, a private ckptd is started on a socket that is bound and
 * listening before it runs, so that every rank can connect at once.
 *
 * And the launch token (rule I1). */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "formats/sockpath.h"
#include "libckpt/context.h"

#define LISTEN_FD    3 /* where a private ckptd finds its socket */
#define LISTEN_QUEUE 1024
#define RETRY_NS     INT64_C(50000000)
#define START_NS     INT64_C(10000000000) /* ckptd is in the background after half of it */
#define WAIT_PIDFD   ((idtype_t)3)        /* P_PIDFD, which older C libraries do not name */

static const char *env(const char *name)
{
    const char *v = getenv(name); // NOLINT(concurrency-mt-unsafe): as every library does
    return v && v[0] ? v : NULL;
}

/* False: the deadline has passed, or the context ends. */
static bool pause_until(struct ckpt *c, int64_t deadline_ns)
{
    int64_t now = lib_now_ns();
    return now < deadline_ns && transfer_pause(c, -1, now + RETRY_NS) == CKPT_TIMEOUT;
}

static struct sockaddr_un address_of(const char *path)
{
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    memcpy(a.sun_path, path, strnlen(path, sizeof(a.sun_path) - 1));
    return a;
}

/* 0 and c->fd, or -errno. */
static int try_connect(struct ckpt *c, const char *path)
{
    struct sockaddr_un a = address_of(path);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    if (connect(fd, (const struct sockaddr *)&a, sizeof(a)) < 0) {
        int e = errno;
        close(fd);
        return -e;
    }
    int old = c->fd;
    c->fd = fd; /* first: a forked child must never find a closed number here */
    if (old >= 0)
        close(old);
    return 0;
}

static bool nobody_listens(int e)
{
    return e == -ECONNREFUSED || e == -ENOENT;
}

/* Connects to a socket that somebody else runs; a full backlog (EAGAIN) is waited out. */
static enum ckpt_status connect_named(struct ckpt *c, const char *path, int64_t deadline_ns,
                                      struct ckpt_err *err)
{
    if (strlen(path) >= sizeof(((struct sockaddr_un *)NULL)->sun_path))
        return err_set(err, CKPT_LIMIT, "socket path %s is too long", path);
    for (;;) {
        int e = try_connect(c, path);
        if (e == 0)
            return CKPT_OK;
        if (nobody_listens(e))
            return err_set(err, CKPT_UNREACHABLE,
                           "no ckptd listens on %s: start it, or correct CKPT_SOCKET", path);
        if (e != -EAGAIN && e != -EINTR)
            return err_errno(err, -e, "ckptd's socket %s (is ckptd running there?)", path);
        if (!pause_until(c, deadline_ns))
            return err_set(err, CKPT_TIMEOUT, "ckptd's socket %s does not accept", path);
    }
}

/* -- a private daemon ----------------------------------------------------- */

/* The runtime directory: ours, mode 0700, no link. */
static enum ckpt_status make_runtime(const char *dir, struct ckpt_err *err)
{
    struct stat st;
    if (mkdir(dir, 0700) < 0 && errno != EEXIST)
        return err_errno(err, errno, "runtime directory %s (set XDG_RUNTIME_DIR or CKPT_SOCKET)",
                         dir);
    if (lstat(dir, &st) < 0)
        return err_errno(err, errno, "runtime directory %s", dir);
    if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 077))
        return err_set(err, CKPT_DENIED,
                       "runtime directory %s is not a directory of this user with mode 0700", dir);
    return CKPT_OK;
}

/* Where the ckptd of this library is: CKPT_CKPTD, beside the library (installed or in a
 * build tree), else found by PATH. */
static void find_ckptd(char *ret, size_t cap)
{
    static const char *const beside[] = { "../bin/ckptd", "../ckptd/ckptd", "../../bin/ckptd" };
    const char *given = env("CKPT_CKPTD");
    Dl_info info;
    if (given) {
        snprintf(ret, cap, "%s", given);
        return;
    }
    if (dladdr(ckpt_version, &info) && info.dli_fname) {
        const char *slash = strrchr(info.dli_fname, '/');
        int dir = slash ? (int)(slash - info.dli_fname) : 0;
        for (size_t i = 0; slash && i < ARRAY_COUNT(beside); i++) {
            snprintf(ret, cap, "%.*s/%s", dir, info.dli_fname, beside[i]);
            if (access(ret, X_OK) == 0)
                return;
        }
    }
    snprintf(ret, cap, "ckptd");
}

static int bind_listener(const char *path)
{
    struct sockaddr_un a = address_of(path);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    unlink(path); /* nobody listens there: we hold the start lock and could not connect */
    if (bind(fd, (const struct sockaddr *)&a, sizeof(a)) < 0 || chmod(path, 0600) < 0 ||
        listen(fd, LISTEN_QUEUE) < 0) {
        int e = errno;
        close(fd);
        return -e;
    }
    return fd;
}

/* Starts argv in a session of its own, with default signals, the log as its output and
 * the listener as fd 3; none of the trainer's other descriptors: ckptd outlives it, and
 * a pipe or a port kept open would be noticed.  It returns when the program is loaded: a
 * file server that hangs then hangs us, which nothing in this process could end. */
static int spawn_quietly(pid_t *ret, char *const argv[], const char *log, int listener)
{
    posix_spawn_file_actions_t fa;
    posix_spawnattr_t at;
    sigset_t none, all;
    if (posix_spawn_file_actions_init(&fa))
        return ENOMEM;
    if (posix_spawnattr_init(&at)) {
        posix_spawn_file_actions_destroy(&fa);
        return ENOMEM;
    }
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_setflags(&at,
                             POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    posix_spawnattr_setsigmask(&at, &none);
    posix_spawnattr_setsigdefault(&at, &all);
    posix_spawn_file_actions_addopen(&fa, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&fa, 1, log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    posix_spawn_file_actions_adddup2(&fa, 1, 2);
    posix_spawn_file_actions_adddup2(&fa, listener, LISTEN_FD);
    posix_spawn_file_actions_addclosefrom_np(&fa, LISTEN_FD + 1);
    int e = posix_spawnp(ret, argv[0], &fa, &at, argv, environ);
    posix_spawn_file_actions_destroy(&fa);
    posix_spawnattr_destroy(&at);
    return e;
}

/* ckptd goes to the background by itself once it runs; what we spawned then exits with 0.
 * 0: it has; -ECHILD: it could not; -ETIMEDOUT: neither until the deadline, and c->starter
 * stays.  A trainer that ignores SIGCHLD or reaps every child takes the status away: 0, as
 * whether ckptd runs is then seen by connecting. */
static int await_starter(struct ckpt *c, int64_t deadline_ns)
{
    int fd = c->starter;
    siginfo_t end = { 0 };
    while (fd >= 0) {
        int e = waitid(WAIT_PIDFD, (id_t)fd, &end, WEXITED | WNOHANG) < 0 ? errno : 0;
        if (end.si_pid != 0 || (e && e != EINTR))
            break;
        if (lib_now_ns() >= deadline_ns || transfer_pause(c, fd, deadline_ns) != CKPT_OK)
            return -ETIMEDOUT;
    }
    c->starter = -1; /* first: a forked child must never find a closed number here */
    if (fd >= 0)
        close(fd);
    return end.si_pid == 0 || (end.si_code == CLD_EXITED && end.si_status == 0) ? 0 : -ECHILD;
}

void connect_fini(struct ckpt *c)
{
    (void)await_starter(c, 0);
    int fd = c->starter;
    c->starter = -1;
    if (fd >= 0)
        close(fd);
}

static int spawn_ckptd(struct ckpt *c, const char *path, int listener)
{
    char log[SOCKPATH_MAX + 8], fd_text[] = "3", socket_arg[SOCKPATH_MAX];
    char arg[][16] = { "--private", "--store", "--socket", "--listen-fd" };
    char *argv[] = {
        c->ckptd, arg[0], arg[1], c->store, arg[2], socket_arg, arg[3], fd_text, NULL
    };
    pid_t pid;
    snprintf(log, sizeof(log), "%s.log", path);
    snprintf(socket_arg, sizeof(socket_arg), "%s", path);
    int e = spawn_quietly(&pid, argv, log, listener);
    if (e == 0)
        c->starter = (int)syscall(SYS_pidfd_open, pid, 0); /* fails: as if it were gone */
    return -e;
}

/* Under the start lock: somebody may have been quicker.  What was started and says neither
 * that it runs nor that it cannot is taken by its word on the socket. */
static enum ckpt_status start_locked(struct ckpt *c, const char *path, int64_t deadline_ns,
                                     struct ckpt_err *err)
{
    int e = try_connect(c, path);
    if (e == 0)
        return CKPT_OK;
    if (!nobody_listens(e))
        return connect_named(c, path, deadline_ns, err);
    int64_t until = (int64_t)min_u64((uint64_t)deadline_ns, (uint64_t)(lib_now_ns() + START_NS));
    if (await_starter(c, until) == -ETIMEDOUT)
        return err_set(err, CKPT_UNREACHABLE,
                       "no ckptd listens on %s, and the %s that was started for it has not ended: "
                       "see %s.log",
                       path, c->ckptd, path);
    int listener = bind_listener(path);
    if (listener < 0)
        return err_errno(err, -listener, "binding %s", path);
    respawn_note(&c->respawn, lib_now_ns());
    e = spawn_ckptd(c, path, listener);
    close(listener); /* before connecting: then only a ckptd that lives accepts */
    if (e == 0)
        e = await_starter(c, until);
    if (e == 0 || e == -ETIMEDOUT)
        e = try_connect(c, path);
    if (e < 0 && e != -EAGAIN) {
        char why[96];
        unlink(path);
        return err_set(err, CKPT_UNREACHABLE,
                       "no ckptd listens on %s and starting a private one (%s) failed: %s; set "
                       "CKPT_CKPTD to the program, or see %s.log",
                       path, c->ckptd, strerror_r(-e, why, sizeof(why)), path);
    }
    c->private_daemon = true;
    return e == 0 ? CKPT_OK : connect_named(c, path, deadline_ns, err);
}

static enum ckpt_status start_private(struct ckpt *c, const char *path, int64_t deadline_ns,
                                      struct ckpt_err *err)
{
    char lock[SOCKPATH_MAX + 8];
    snprintf(lock, sizeof(lock), "%s.start", path);
    CLEANUP_FD int fd = open(lock, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return err_errno(err, errno, "start lock %s", lock);
    while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        if (errno != EWOULDBLOCK && errno != EINTR)
            return err_errno(err, errno, "start lock %s", lock);
        if (!pause_until(c, deadline_ns))
            return err_set(err, CKPT_TIMEOUT, "another process holds %s", lock);
    }
    return start_locked(c, path, deadline_ns, err);
}

static char *copy_of(const char *s)
{
    return s ? strdup(s) : NULL;
}

/* The store's one spelling and the socket that belongs to it. */
static enum ckpt_status default_place(struct ckpt *c, const char *store, struct ckpt_err *err)
{
    char cwd[4096], whole[4096], path[SOCKPATH_MAX], program[4096];
    if (!getcwd(cwd, sizeof(cwd)))
        return err_errno(err, errno, "working directory");
    enum ckpt_status st = sockpath_store(store, cwd, whole, sizeof(whole), err);
    if (st == CKPT_OK)
        st = sockpath_socket(geteuid(), env("XDG_RUNTIME_DIR"), whole, path, err);
    if (st != CKPT_OK)
        return st;
    find_ckptd(program, sizeof(program));
    c->may_start = true;
    c->store = strdup(whole);
    c->socket = strdup(path);
    c->ckptd = strdup(program);
    if (!c->store || !c->socket || !c->ckptd)
        return err_set(err, CKPT_NO_MEMORY, "open: out of memory");
    return CKPT_OK;
}

enum ckpt_status connect_place(struct ckpt *c, const struct ckpt_open_opts *o, struct ckpt_err *err)
{
    const char *store = o->store && o->store[0] ? o->store : env("CKPT_STORE");
    const char *named = o->socket && o->socket[0] ? o->socket : env("CKPT_SOCKET");
    if (!store && !named)
        return err_set(err, CKPT_INVALID,
                       "no store: set .store or CKPT_STORE to a directory, or .socket or "
                       "CKPT_SOCKET to a running ckptd");
    if (!named)
        return default_place(c, store, err);
    c->store = copy_of(store);
    c->socket = strdup(named);
    if (!c->socket || (store && !c->store))
        return err_set(err, CKPT_NO_MEMORY, "open: out of memory");
    return CKPT_OK;
}

static enum ckpt_status check_runtime(const char *path, struct ckpt_err *err)
{
    char dir[SOCKPATH_MAX];
    snprintf(dir, sizeof(dir), "%s", path);
    *strrchr(dir, '/') = 0;
    return make_runtime(dir, err);
}

enum ckpt_status connect_daemon(struct ckpt *c, int64_t deadline_ns, struct ckpt_err *err)
{
    if (!c->may_start)
        return connect_named(c, c->socket, deadline_ns, err);
    enum ckpt_status st = check_runtime(c->socket, err);
    if (st != CKPT_OK)
        return st;
    int e = try_connect(c, c->socket);
    bool due = respawn_due(&c->respawn, lib_now_ns());
    while (nobody_listens(e) && !due && pause_until(c, deadline_ns)) {
        e = try_connect(c, c->socket);
        due = respawn_due(&c->respawn, lib_now_ns());
    }
    if (e == 0)
        return CKPT_OK;
    if (!nobody_listens(e))
        return connect_named(c, c->socket, deadline_ns, err);
    if (!due)
        return err_set(err, CKPT_UNREACHABLE,
                       "no ckptd listens on %s, and the %s that was started for it did not last: "
                       "see %s.log",
                       c->socket, c->ckptd, c->socket);
    return start_private(c, c->socket, deadline_ns, err);
}

/* -- the launch token ----------------------------------------------------- */

static enum ckpt_status random_token(char *ret, size_t cap, struct ckpt_err *err)
{
    uint8_t bytes[12];
    char hex[2 * sizeof(bytes) + 1];
    if (getrandom(bytes, sizeof(bytes), 0) != (ssize_t)sizeof(bytes))
        return err_errno(err, errno, "open: getrandom");
    hex_encode(bytes, sizeof(bytes), hex);
    snprintf(ret, cap, "random-%s", hex);
    return CKPT_OK;
}

bool connect_several_nodes(uint32_t world)
{
    static const char *const here[] = { "LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE",
                                        "MPI_LOCALNRANKS" };
    for (size_t i = 0; i < ARRAY_COUNT(here); i++) {
        const char *text = env(here[i]);
        unsigned long n = text ? strtoul(text, NULL, 10) : 0;
        if (n > 0)
            return n < world;
    }
    return false;
}

/* CKPT_LAUNCH, joined with torchrun's restart count when there is one agent: several
 * agents count apart, so the number would not be the same on all ranks.  Slurm's numbers
 * likewise; with several agents a restart inside one step is then a reused launch id,
 * which is refused in time. */
static enum ckpt_status launch_from_env(char *ret, size_t cap, bool *ret_found,
                                        struct ckpt_err *err)
{
    const char *token = env("CKPT_LAUNCH"), *job = env("SLURM_JOB_ID");
    const char *restarts = env("TORCHELASTIC_RESTART_COUNT"), *agents = env("GROUP_WORLD_SIZE");
    const char *slurm = env("SLURM_RESTART_COUNT"), *stepid = env("SLURM_STEP_ID");
    bool several = agents && strcmp(agents, "1") != 0;
    const char *joined = restarts && !several ? restarts : "";
    const char *dot = joined[0] ? "." : "";
    int n = 0;
    if (token && restarts && several)
        return err_set(err, CKPT_NO_LAUNCH,
                       "CKPT_LAUNCH with %s elastic agents: their restart counts differ; give "
                       "ckpt_open a broadcast callback, or .launch a new value at each restart",
                       agents);
    if (token)
        n = snprintf(ret, cap, "%s%s%s", token, dot, joined);
    else if (job)
        n = snprintf(ret, cap, "slurm-%s.%s.%s%s%s", job, stepid ? stepid : "0",
                     slurm ? slurm : "0", dot, joined);
    if ((size_t)n >= cap)
        return err_set(err, CKPT_LIMIT, "the launch id has more than %d bytes", RECORD_TOKEN_MAX);
    *ret_found = token || job;
    return CKPT_OK;
}

static enum ckpt_status launch_by_broadcast(const struct ckpt_open_opts *o, char *token, size_t cap,
                                            struct ckpt_err *err)
{
    enum ckpt_status st = o->rank == 0 ? random_token(token, cap, err) : CKPT_OK;
    if (st == CKPT_OK && o->broadcast(o->broadcast_ctx, token, cap) != 0)
        return err_set(err, CKPT_NO_LAUNCH, "the broadcast callback failed");
    token[cap - 1] = 0;
    if (st == CKPT_OK && !token[0])
        return err_set(err, CKPT_NO_LAUNCH, "the broadcast callback brought nothing from rank 0");
    return st;
}

static enum ckpt_status launch_without_options(const struct ckpt_open_opts *o, char *token,
                                               size_t cap, struct ckpt_err *err)
{
    bool found = false;
    enum ckpt_status st = launch_from_env(token, cap, &found, err);
    if (st != CKPT_OK || found)
        return st;
    if (o->world == 1)
        return random_token(token, cap, err);
    return err_set(err, CKPT_NO_LAUNCH,
                   "%u ranks and no launch id: set CKPT_LAUNCH to a value that is the same on all "
                   "ranks and new at each start, or give ckpt_open a broadcast callback",
                   o->world);
}

enum ckpt_status connect_launch(const struct ckpt_open_opts *o, char **ret, struct ckpt_err *err)
{
    char token[RECORD_TOKEN_MAX + 1] = "";
    enum ckpt_status st = CKPT_OK;
    if (o->launch && strlen(o->launch) > RECORD_TOKEN_MAX)
        return err_set(err, CKPT_LIMIT, "the launch id has more than %d bytes", RECORD_TOKEN_MAX);
    if (o->launch && o->launch[0])
        snprintf(token, sizeof(token), "%s", o->launch);
    else if (o->broadcast)
        st = launch_by_broadcast(o, token, sizeof(token), err);
    else
        st = launch_without_options(o, token, sizeof(token), err);
    if (st != CKPT_OK)
        return st;
    *ret = strdup(token);
    return *ret ? CKPT_OK : err_set(err, CKPT_NO_MEMORY, "open: out of memory");
}
