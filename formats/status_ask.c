/* One question to a ckptd. */
#include "formats/status_ask.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "formats/wire.h"

#define RETRY_MS 20

/* A full queue (EAGAIN) is that of a ckptd that does not accept: it is waited out, as long as
 * there is something left of *ms. */
static int connect_within(int fd, const struct sockaddr_un *a, int *ms)
{
    for (; connect(fd, (const struct sockaddr *)a, sizeof(*a)) < 0; *ms -= RETRY_MS) {
        if (errno != EAGAIN || *ms <= 0)
            return -1;
        poll(NULL, 0, RETRY_MS);
    }
    return 0;
}

static enum ckpt_status dial(const char *path, int *ms, int *ret, struct ckpt_err *err)
{
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    size_t len = strlen(path);
    if (len >= sizeof(a.sun_path))
        return err_set(err, CKPT_INVALID, "a socket's path of %zu bytes is too long", len);
    memcpy(a.sun_path, path, len + 1);
    CLEANUP_FD int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return err_errno(err, errno, "cannot make a socket");
    if (connect_within(fd, &a, ms) == 0) {
        *ret = TAKE_FD(fd);
        return CKPT_OK;
    }
    if (errno == EAGAIN)
        return err_set(err, CKPT_TIMEOUT, "ckptd at %s accepts no connections", path);
    if (errno != ENOENT && errno != ECONNREFUSED)
        return err_errno(err, errno, "cannot reach ckptd at %s", path);
    return err_set(err, CKPT_NOT_FOUND,
                   "no ckptd listens at %s.  One is started by the first trainer, or by hand: "
                   "ckptd --store DIR --socket PATH.  The other verbs need none",
                   path);
}

static enum ckpt_status take_page(const struct wire_msg *m, const char **ret, size_t *ret_len,
                                  struct ckpt_err *err)
{
    struct stat stat;
    const void *text;
    if (m->head.type != WIRE_STATUS_OK || m->fd_count != 1 || fstat(m->fds[0], &stat) != 0 ||
        stat.st_size < 0 || (uint64_t)stat.st_size > STATUS_PAGE_MAX)
        return err_set(err, CKPT_CORRUPT, "ckptd answered with %s and no status page",
                       wire_type_name(m->head.type));
    enum ckpt_status st = wire_memfd_map(m->fds[0], (size_t)stat.st_size, &text, err);
    if (st != CKPT_OK)
        return st;
    *ret = text;
    *ret_len = (size_t)stat.st_size;
    return CKPT_OK;
}

enum ckpt_status status_ask(const char *path, int ms, const char **ret, size_t *ret_len,
                            struct ckpt_err *err)
{
    CLEANUP_FD int fd = -1;
    CLEANUP_FREE struct wire_msg *m = calloc(1, sizeof(*m));
    if (!m)
        return err_set(err, CKPT_NO_MEMORY, "no memory for a message");
    int left = ms;
    enum ckpt_status st = dial(path, &left, &fd, err);
    wire_begin(m, WIRE_STATUS, NULL);
    if (st == CKPT_OK)
        st = wire_send(fd, m, err);
    struct pollfd p = { .fd = fd, .events = POLLIN };
    if (st == CKPT_OK && poll(&p, 1, left > 0 ? left : 0) <= 0)
        st = err_set(err, CKPT_TIMEOUT, "ckptd did not answer within %d s", ms / 1000);
    if (st == CKPT_OK)
        st = wire_recv(fd, m, err);
    if (st != CKPT_OK)
        return st;
    st = take_page(m, ret, ret_len, err);
    wire_close_fds(m);
    return st;
}
