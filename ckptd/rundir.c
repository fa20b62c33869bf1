/* Socket, lock and node file. */
#include "ckptd/rundir.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>

#include "formats/digest.h"
#include "storage/store/store.h"

#define LISTEN_QUEUE 1024

/* Ours, mode 0700, no link: whoever owns it owns the daemon. */
static enum ckpt_status make_private_dir(const char *dir, struct ckpt_err *err)
{
    struct stat st;
    if (mkdir(dir, 0700) < 0 && errno != EEXIST)
        return err_errno(err, errno, "runtime directory %s (or give --socket)", dir);
    if (lstat(dir, &st) < 0)
        return err_errno(err, errno, "runtime directory %s", dir);
    if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 077))
        return err_set(err, CKPT_DENIED,
                       "runtime directory %s is not a directory of this user with mode 0700", dir);
    return CKPT_OK;
}

static enum ckpt_status default_socket(const struct config *c, struct rundir *ret,
                                       struct ckpt_err *err)
{
    char dir[SOCKPATH_MAX], cwd[4096], store[4096];
    const char *xdg = getenv("XDG_RUNTIME_DIR");
    if (!getcwd(cwd, sizeof(cwd)))
        return err_errno(err, errno, "working directory");
    enum ckpt_status st = sockpath_store(c->store, cwd, store, sizeof(store), err);
    if (st == CKPT_OK)
        st = sockpath_runtime(geteuid(), xdg && xdg[0] ? xdg : NULL, dir, err);
    if (st == CKPT_OK)
        st = make_private_dir(dir, err);
    if (st == CKPT_OK)
        st = sockpath_socket(geteuid(), xdg && xdg[0] ? xdg : NULL, store, ret->socket, err);
    return st;
}

enum ckpt_status rundir_find(const struct config *c, struct rundir *ret, struct ckpt_err *err)
{
    *ret = (struct rundir){ .listen_fd = -1, .lock_fd = -1 };
    if (!c->socket)
        return default_socket(c, ret, err);
    snprintf(ret->socket, sizeof(ret->socket), "%s", c->socket);
    return CKPT_OK;
}

/* Who holds the lock; 0 when the file does not say, or names a dead process. */
static long holder(int fd, char *role, size_t cap)
{
    char text[64];
    ssize_t n = pread(fd, text, sizeof(text) - 1, 0);
    if (n <= 0)
        return 0;
    text[n] = 0;
    size_t len = strcspn(text, " ");
    long pid = strtol(text + len, NULL, 10);
    snprintf(role, cap, "%.*s", (int)len, text);
    return pid > 0 && (kill((pid_t)pid, 0) == 0 || errno == EPERM) ? pid : 0;
}

enum ckpt_status rundir_lock(struct rundir *r, void (*waiting)(void *arg, long pid), void *arg,
                             struct ckpt_err *err)
{
    char path[SOCKPATH_MAX + 8];
    snprintf(path, sizeof(path), "%s.lock", r->socket);
    CLEANUP_FD int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return err_errno(err, errno, "lock file %s", path);
    bool told = false;
    int unknown = 0;
    while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        char role[32] = "";
        if (errno != EWOULDBLOCK && errno != EINTR)
            return err_errno(err, errno, "lock %s", path);
        long pid = holder(fd, role, sizeof(role));
        /* A holder that does not say who it is gets a moment to do so. */
        if (strcmp(role, "serving") == 0 && pid != 0 && ++unknown > 3)
            return err_set(err, CKPT_REFUSED,
                           "ckptd with pid %ld serves %s already: stop it, or give --socket", pid,
                           r->socket);
        if (!told && waiting && strcmp(role, "finishing") == 0) {
            waiting(arg, pid);
            told = true;
        }
        nanosleep(&(struct timespec){ .tv_nsec = 50000000 }, NULL);
    }
    r->lock_fd = TAKE_FD(fd);
    rundir_say(r, "serving");
    return CKPT_OK;
}

void rundir_say(const struct rundir *r, const char *role)
{
    char text[64] = { 0 };
    snprintf(text, sizeof(text), "%s %d\n", role, (int)getpid());
    ssize_t n = pwrite(r->lock_fd, text, sizeof(text), 0);
    (void)n; /* only for messages */
}

static enum ckpt_status bind_socket(struct rundir *r, struct ckpt_err *err)
{
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    CLEANUP_FD int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return err_errno(err, errno, "socket");
    memcpy(a.sun_path, r->socket, strlen(r->socket));
    unlink(r->socket); /* we hold the lock: nobody listens there */
    if (bind(fd, (const struct sockaddr *)&a, sizeof(a)) < 0)
        return err_errno(err, errno, "socket %s", r->socket);
    if (chmod(r->socket, 0600) < 0 || listen(fd, LISTEN_QUEUE) < 0)
        return err_errno(err, errno, "listen on %s", r->socket);
    r->listen_fd = TAKE_FD(fd);
    r->bound = true;
    return CKPT_OK;
}

enum ckpt_status rundir_listen(struct rundir *r, int given_fd, struct ckpt_err *err)
{
    const char *fds = getenv("LISTEN_FDS"), *pid = getenv("LISTEN_PID");
    bool private_ = given_fd >= 0;
    if (given_fd < 0 && fds && pid && strtol(pid, NULL, 10) == (long)getpid()) {
        if (strcmp(fds, "1") != 0)
            return err_set(err, CKPT_INVALID, "systemd passed %s sockets, 1 is expected", fds);
        given_fd = 3;
    }
    if (given_fd < 0)
        return bind_socket(r, err);
    int type = 0, listening = 0;
    socklen_t len = sizeof(type);
    if (getsockopt(given_fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0)
        return err_errno(err, errno, "socket passed as descriptor %d", given_fd);
    len = sizeof(listening);
    if (getsockopt(given_fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) < 0 || !listening ||
        type != SOCK_SEQPACKET)
        return err_set(err, CKPT_INVALID,
                       "descriptor %d is no listening SOCK_SEQPACKET socket (systemd: "
                       "ListenSequentialPacket=)",
                       given_fd);
    int flags = fcntl(given_fd, F_GETFL);
    if (flags < 0 || fcntl(given_fd, F_SETFL, flags | O_NONBLOCK) < 0 ||
        fcntl(given_fd, F_SETFD, FD_CLOEXEC) < 0)
        return err_errno(err, errno, "descriptor %d", given_fd);
    r->listen_fd = given_fd;
    r->bound = private_;
    return CKPT_OK;
}

static void make_uuid(uint8_t ret[16])
{
    if (getrandom(ret, 16, 0) != 16)
        memset(ret, 0, 16);
    ret[6] = (uint8_t)((ret[6] & 0x0f) | 0x40);
    ret[8] = (uint8_t)((ret[8] & 0x3f) | 0x80);
}

static bool node_read(const char *path, uint8_t ret[16])
{
    char hex[33] = "";
    CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    return fd >= 0 && read(fd, hex, 32) == 32 && hex_decode(hex, 16, ret);
}

/* Reads the file, or makes it with `wish`; whoever links first wins, so that all agree. */
static bool node_file(const char *path, const uint8_t wish[16], uint8_t ret[16])
{
    char hex[33] = "", temp[4300];
    if (access(path, F_OK) == 0)
        return node_read(path, ret);
    hex_encode(wish, 16, hex);
    snprintf(temp, sizeof(temp), "%s.%d", path, (int)getpid());
    CLEANUP_FD int out = open(temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (out < 0)
        return false;
    bool ok = write(out, hex, 32) == 32 && fdatasync(out) == 0;
    if (ok && link(temp, path) < 0 && errno != EEXIST)
        ok = false;
    unlink(temp);
    return ok && node_read(path, ret);
}

enum ckpt_status rundir_node(const struct rundir *r, const char *store, uint8_t ret[16],
                             struct ckpt_err *err)
{
    char path[4200] = "", mine[SOCKPATH_MAX + 8], root[4096];
    uint8_t wish[16];
    if (!store_url_shared(store) &&
        sockpath_store(store, ".", root, sizeof(root), NULL) == CKPT_OK && !strstr(root, "://")) {
        /* sockpath_store makes "/./p" of a relative "p": this process's own is meant. */
        bool relative = store[0] != '/' && strncmp(store, "dir://", 6) != 0;
        snprintf(path, sizeof(path), "%s/.node", relative ? store : root);
        if (node_read(path, ret))
            return CKPT_OK;
    }
    snprintf(mine, sizeof(mine), "%s.node", r->socket);
    make_uuid(wish);
    if (!node_file(mine, wish, ret))
        return err_errno(err, errno, "node file %s", mine);
    /* Before a store's first start its directory may not be there: the next call does it. */
    memcpy(wish, ret, sizeof(wish));
    if (path[0])
        (void)node_file(path, wish, ret);
    return CKPT_OK;
}
