/* The listener, and starting the server. */
#include "ckptd/metrics.h"

#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>
#include <time.h>

#define LISTEN_FD   3
#define BACKLOG     64
#define LOOK_MS     20
#define HOST_MAX    64
#define PROGRAM_MAX 4096

/* "[::1]:9464" to "::1" and "9464". */
static bool split(const char *address, char host[HOST_MAX], const char **ret_port)
{
    const char *colon = strrchr(address, ':');
    size_t len = colon ? (size_t)(colon - address) : 0;
    *ret_port = colon ? colon + 1 : address;
    if (len >= 2 && address[0] == '[' && address[len - 1] == ']') {
        address++;
        len -= 2;
    } else if (colon && memchr(address, ':', len)) {
        return false; /* an IPv6 address without brackets */
    }
    if (!colon)
        snprintf(host, HOST_MAX, "127.0.0.1");
    else
        snprintf(host, HOST_MAX, "%.*s", (int)min_u64(len, HOST_MAX - 1), address);
    unsigned long port = strtoul(*ret_port, NULL, 10);
    return host[0] && len < HOST_MAX && strspn(*ret_port, "0123456789") == strlen(*ret_port) &&
           strlen(*ret_port) <= 5 && port > 0 && port <= 65535;
}

/* An errno, or 0 and *ret. */
static int listen_at(const struct addrinfo *at, int *ret)
{
    const int one = 1;
    CLEANUP_FD int fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return errno;
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (at->ai_family == AF_INET6)
        (void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
    if (bind(fd, at->ai_addr, at->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0)
        return errno;
    *ret = TAKE_FD(fd);
    return 0;
}

/* The same, once the port is free. */
static int listen_patiently(const struct addrinfo *at, int patience_ms, int *ret)
{
    int e = listen_at(at, ret);
    for (; e == EADDRINUSE && patience_ms > 0; patience_ms -= LOOK_MS) {
        nanosleep(&(struct timespec){ .tv_nsec = LOOK_MS * 1000000 }, NULL);
        e = listen_at(at, ret);
    }
    return e;
}

enum ckpt_status metrics_listen(const char *address, int patience_ms, int *ret_fd,
                                struct ckpt_err *err)
{
    char host[HOST_MAX];
    const char *port;
    struct addrinfo *list = NULL;
    const struct addrinfo hints = { .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE,
                                    .ai_socktype = SOCK_STREAM };
    if (!split(address, host, &port) || getaddrinfo(host, port, &hints, &list) != 0)
        return err_set(err, CKPT_INVALID,
                       "--metrics \"%s\": PORT, ADDRESS:PORT or [ADDRESS]:PORT in numbers",
                       address);
    int e = listen_patiently(list, patience_ms, ret_fd);
    freeaddrinfo(list);
    return e ? err_errno(err, e, "cannot listen on --metrics %s", address) : CKPT_OK;
}

/* "/usr/bin/ckptd-metrics", beside the program that runs. */
static enum ckpt_status find_program(char ret[PROGRAM_MAX], struct ckpt_err *err)
{
    static const char name[] = "ckptd-metrics";
    ssize_t len = readlink("/proc/self/exe", ret, PROGRAM_MAX - sizeof(name));
    if (len < 0)
        return err_errno(err, errno, "where is ckptd's program?");
    ret[len] = 0;
    char *slash = strrchr(ret, '/');
    memcpy(slash ? slash + 1 : ret, name, sizeof(name));
    if (access(ret, X_OK) < 0)
        return err_set(err, CKPT_UNSUPPORTED,
                       "--metrics needs %s, which is built where libmicrohttpd is installed", ret);
    return CKPT_OK;
}

/* After fork, before exec: only what is allowed there. */
_Noreturn static void become_server(int listen_fd, char *const argv[])
{
    if ((listen_fd == LISTEN_FD ? fcntl(LISTEN_FD, F_SETFD, 0) : dup2(listen_fd, LISTEN_FD)) < 0)
        _exit(126);
    execv(argv[0], argv);
    _exit(127);
}

enum ckpt_status metrics_start(int listen_fd, const char *socket, struct ckpt_err *err)
{
    char program[PROGRAM_MAX], unix_path[128], keeper[24];
    char *const argv[] = { program, unix_path, keeper, NULL };
    enum ckpt_status st = find_program(program, err);
    if (st != CKPT_OK)
        return st;
    snprintf(unix_path, sizeof(unix_path), "%s", socket);
    snprintf(keeper, sizeof(keeper), "%d", (int)getpid());
    pid_t pid = fork();
    if (pid < 0)
        return err_errno(err, errno, "cannot start %s", program);
    if (pid == 0)
        become_server(listen_fd, argv);
    return CKPT_OK;
}
