/* Finding the daemon: the socket that was named, or the one of this user and store; when
 * nobody listens there, a private ckptd is started on a socket that is bound and
 * listening before it runs, so that every rank can connect at once.
 *
 * And the launch token (rule I1). */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "formats/sockpath.h"
#include "libckpt/context.h"

#define LISTEN_FD    3 /* where a private ckptd finds its socket */
#define LISTEN_QUEUE 1024
#define RETRY_MS     50

extern char **environ;

static const char *env(const char *name)
{
    const char *v = getenv(name); // NOLINT(concurrency-mt-unsafe): as every library does
    return v && v[0] ? v : NULL;
}

/* Sleeps a little; CKPT_TIMEOUT after the deadline. */
static enum ckpt_status pause_until(struct ckpt *c, int64_t deadline_ns)
{
    if (lib_now_ns() >= deadline_ns)
        return CKPT_TIMEOUT;
    struct pollfd p = { .fd = c->wake_fd, .events = 0 };
    poll(&p, 1, RETRY_MS);
    return CKPT_OK;
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
    if (c->fd >= 0)
        close(c->fd);
    c->fd = fd;
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
        if (e != -EAGAIN && e != -EINTR)
            return err_errno(err, -e, "ckptd's socket %s (is ckptd running there?)", path);
        if (pause_until(c, deadline_ns) != CKPT_OK)
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

/* Runs ckptd with the listener as fd 3 and a log beside the socket.  It goes to the
 * background by itself; what we spawned exits at once. */
static int spawn_ckptd(struct ckpt *c, const char *path, int listener)
{
    char program[4096], log[SOCKPATH_MAX + 8], fd_text[] = "3";
    pid_t pid;
    int status;
    find_ckptd(program, sizeof(program));
    snprintf(log, sizeof(log), "%s.log", path);
    char arg[][16] = { "--private", "--store", "--socket", "--listen-fd" };
    char *argv[] = { program, arg[0], arg[1], c->store, arg[2], NULL, arg[3], fd_text, NULL };
    CLEANUP_FREE char *socket_arg = strdup(path);
    argv[5] = socket_arg;
    posix_spawn_file_actions_t fa;
    posix_spawnattr_t at;
    sigset_t none, all;
    if (!socket_arg || posix_spawn_file_actions_init(&fa))
        return -ENOMEM;
    if (posix_spawnattr_init(&at)) {
        posix_spawn_file_actions_destroy(&fa);
        return -ENOMEM;
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
    int e = posix_spawnp(&pid, program, &fa, &at, argv, environ);
    posix_spawn_file_actions_destroy(&fa);
    posix_spawnattr_destroy(&at);
    if (e)
        return -e;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -ECHILD;
}

/* Under the start lock: somebody may have been quicker. */
static enum ckpt_status start_locked(struct ckpt *c, const char *path, struct ckpt_err *err)
{
    int e = try_connect(c, path);
    if (e == 0)
        return CKPT_OK;
    CLEANUP_FD int listener = bind_listener(path);
    if (listener < 0)
        return err_errno(err, -listener, "binding %s", path);
    e = spawn_ckptd(c, path, listener);
    if (e < 0) {
        unlink(path);
        return err_errno(err, -e,
                         "no ckptd listens on %s and starting a private one failed (set CKPT_CKPTD "
                         "to the program, or see %s.log)",
                         path, path);
    }
    c->private_daemon = true;
    e = try_connect(c, path);
    return e == 0 ? CKPT_OK : err_errno(err, -e, "connecting to %s", path);
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
        if (pause_until(c, deadline_ns) != CKPT_OK)
            return err_set(err, CKPT_TIMEOUT, "another process holds %s", lock);
    }
    return start_locked(c, path, err);
}

static enum ckpt_status default_path(struct ckpt *c, char ret[SOCKPATH_MAX], struct ckpt_err *err)
{
    char dir[SOCKPATH_MAX], cwd[4096], store[4096];
    if (!getcwd(cwd, sizeof(cwd)))
        return err_errno(err, errno, "working directory");
    enum ckpt_status st = sockpath_store(c->store, cwd, store, sizeof(store), err);
    if (st == CKPT_OK)
        st = sockpath_runtime(geteuid(), env("XDG_RUNTIME_DIR"), dir, err);
    if (st == CKPT_OK)
        st = make_runtime(dir, err);
    if (st == CKPT_OK)
        st = sockpath_socket(geteuid(), env("XDG_RUNTIME_DIR"), store, ret, err);
    return st;
}

enum ckpt_status connect_daemon(struct ckpt *c, int64_t deadline_ns, struct ckpt_err *err)
{
    char path[SOCKPATH_MAX];
    if (c->socket)
        return connect_named(c, c->socket, deadline_ns, err);
    enum ckpt_status st = default_path(c, path, err);
    if (st != CKPT_OK)
        return st;
    int e = try_connect(c, path);
    if (e == 0)
        return CKPT_OK;
    if (!nobody_listens(e))
        return connect_named(c, path, deadline_ns, err);
    return start_private(c, path, deadline_ns, err);
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

/* CKPT_LAUNCH, joined with torchrun's restart count when there is one agent: several
 * agents count apart, so the number would not be the same on all ranks. */
static enum ckpt_status launch_from_env(char *ret, size_t cap, bool *ret_found,
                                        struct ckpt_err *err)
{
    const char *token = env("CKPT_LAUNCH");
    const char *restarts = env("TORCHELASTIC_RESTART_COUNT");
    const char *agents = env("GROUP_WORLD_SIZE");
    const char *job = env("SLURM_JOB_ID"), *slurm = env("SLURM_RESTART_COUNT");
    const char *stepid = env("SLURM_STEP_ID");
    *ret_found = true;
    if (token && restarts && agents && strcmp(agents, "1") != 0)
        return err_set(err, CKPT_NO_LAUNCH,
                       "CKPT_LAUNCH with %s elastic agents: their restart counts differ; give "
                       "ckpt_open a broadcast callback, or a new CKPT_LAUNCH at each restart",
                       agents);
    if (token)
        snprintf(ret, cap, "%s%s%s", token, restarts ? "." : "", restarts ? restarts : "");
    else if (job)
        snprintf(ret, cap, "slurm-%s.%s.%s", job, stepid ? stepid : "0", slurm ? slurm : "0");
    else
        *ret_found = false;
    return CKPT_OK;
}

enum ckpt_status connect_launch(const struct ckpt_open_opts *o, char **ret, struct ckpt_err *err)
{
    char token[RECORD_TOKEN_MAX + 1] = "";
    bool found = false;
    enum ckpt_status st = CKPT_OK;
    if (o->launch && strlen(o->launch) > RECORD_TOKEN_MAX)
        return err_set(err, CKPT_LIMIT, "the launch id has more than %d bytes", RECORD_TOKEN_MAX);
    if (o->launch && o->launch[0]) {
        snprintf(token, sizeof(token), "%s", o->launch);
    } else if (o->broadcast) {
        st = o->rank == 0 ? random_token(token, sizeof(token), err) : CKPT_OK;
        if (st == CKPT_OK && o->broadcast(o->broadcast_ctx, token, sizeof(token)) != 0)
            st = err_set(err, CKPT_NO_LAUNCH, "the broadcast callback failed");
        token[sizeof(token) - 1] = 0;
    } else {
        st = launch_from_env(token, sizeof(token), &found, err);
        if (st == CKPT_OK && !found && o->world == 1)
            st = random_token(token, sizeof(token), err);
        else if (st == CKPT_OK && !found)
            st =
                err_set(err, CKPT_NO_LAUNCH,
                        "%u ranks and no launch id: set CKPT_LAUNCH to a value that is the same on "
                        "all ranks and new at each start, or give ckpt_open a broadcast callback",
                        o->world);
    }
    if (st != CKPT_OK)
        return st;
    *ret = strdup(token);
    return *ret ? CKPT_OK : err_set(err, CKPT_NO_MEMORY, "open: out of memory");
}
