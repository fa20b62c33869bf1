/* What the worker says to the keeper: one message, with a descriptor or without. */
#include "ckptd/keep.h"

#include <sys/socket.h>

union keep_room {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(sizeof(int))];
};

static bool say(const struct keep *k, const struct keep_msg *m, int fd)
{
    struct iovec iov = { .iov_base = (void *)(uintptr_t)m, .iov_len = sizeof(*m) };
    union keep_room room = { 0 };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
    if (fd >= 0) {
        msg.msg_control = room.bytes;
        msg.msg_controllen = sizeof(room.bytes);
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &fd, sizeof(fd));
    }
    ssize_t n;
    do
        n = sendmsg(k->fd, &msg, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    return n == (ssize_t)sizeof(*m);
}

bool keep_add(const struct keep *k, const uint8_t session[16], enum kept_kind kind, uint32_t index,
              int fd)
{
    struct keep_msg m = { .verb = KEEP_ADD, .kind = kind, .index = index };
    memcpy(m.session, session, sizeof(m.session));
    return say(k, &m, fd);
}

void keep_drop(const struct keep *k, const uint8_t session[16], enum kept_kind kind, uint32_t index)
{
    struct keep_msg m = { .verb = KEEP_REMOVE, .kind = kind, .index = index };
    memcpy(m.session, session, sizeof(m.session));
    (void)say(k, &m, -1);
}

void keep_ready(const struct keep *k)
{
    struct keep_msg m = { .verb = KEEP_READY };
    (void)say(k, &m, -1);
}

void keep_send_settings(int sock, int fd)
{
    struct keep_msg m = { .verb = KEEP_SETTINGS };
    (void)say(&(struct keep){ .fd = sock }, &m, fd);
}

bool keep_recv(int sock, struct keep_msg *ret, int *ret_fd)
{
    *ret = (struct keep_msg){ 0 };
    struct iovec iov = { .iov_base = ret, .iov_len = sizeof(*ret) };
    union keep_room room = { 0 };
    struct msghdr msg = { .msg_iov = &iov,
                          .msg_iovlen = 1,
                          .msg_control = room.bytes,
                          .msg_controllen = sizeof(room.bytes) };
    ssize_t n;
    do
        n = recvmsg(sock, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n <= 0)
        return false;
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
        memcpy(ret_fd, CMSG_DATA(c), sizeof(*ret_fd));
    return true;
}

int keep_settings(const struct keep *k)
{
    struct keep_msg m;
    int fd = -1;
    (void)keep_recv(k->fd, &m, &fd);
    return fd;
}
