/* The messages between libckpt and ckptd: building, checking, and their way over a
 * SOCK_SEQPACKET socket with file descriptors. */
#include "formats/wire.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

enum tail_rule { TAIL_NONE, TAIL_ANY };

/* One row per message type: what it is called, how long its fixed struct is, how many
 * descriptors come with it at least and at most, and whether a tail may follow. */
static const struct wire_row {
    unsigned type;
    const char *name;
    size_t body;
    uint32_t fds_min, fds_max;
    enum tail_rule tail;
} rows[] = {
    { WIRE_HELLO, "HELLO", sizeof(struct wire_hello), 1, 1, TAIL_ANY },
    { WIRE_STATE, "STATE", sizeof(struct wire_state), 1, 1, TAIL_NONE },
    { WIRE_FORGET, "FORGET", sizeof(struct wire_forget), 0, 0, TAIL_NONE },
    { WIRE_SAVE, "SAVE", sizeof(struct wire_save), 0, 0, TAIL_ANY },
    { WIRE_FULL, "FULL", sizeof(struct wire_full), 0, 0, TAIL_NONE },
    { WIRE_FAIL, "FAIL", sizeof(struct wire_fail), 0, 0, TAIL_ANY },
    { WIRE_LOAD, "LOAD", sizeof(struct wire_load), 0, 1, TAIL_ANY },
    { WIRE_LIST, "LIST", sizeof(struct wire_list), 0, 0, TAIL_ANY },
    { WIRE_BACK, "BACK", sizeof(struct wire_back), 0, 0, TAIL_NONE },
    { WIRE_RESTORED, "RESTORED", sizeof(struct wire_restored), 0, 0, TAIL_ANY },
    { WIRE_PROGRESS, "PROGRESS", sizeof(struct wire_progress), 0, 0, TAIL_NONE },
    { WIRE_CANCEL, "CANCEL", sizeof(struct wire_cancel), 0, 0, TAIL_NONE },
    { WIRE_STATUS, "STATUS", 0, 0, 0, TAIL_NONE },
    { WIRE_BYE, "BYE", 0, 0, 0, TAIL_NONE },
    { WIRE_HELLO_OK, "HELLO_OK", sizeof(struct wire_hello_ok), 0, 0, TAIL_ANY },
    { WIRE_REFUSED, "REFUSED", sizeof(struct wire_refused), 0, 0, TAIL_ANY },
    { WIRE_STATE_OK, "STATE_OK", sizeof(struct wire_state_ok), 1, 1, TAIL_NONE },
    { WIRE_GRANT, "GRANT", sizeof(struct wire_grant), 0, 0, TAIL_NONE },
    { WIRE_OP, "OP", sizeof(struct wire_op), 0, 0, TAIL_ANY },
    { WIRE_FRAGS, "FRAGS", sizeof(struct wire_frags), 0, 0, TAIL_ANY },
    { WIRE_STATUS_OK, "STATUS_OK", 0, 1, 1, TAIL_NONE },
    { WIRE_ACK, "ACK", 0, 0, 0, TAIL_NONE },
    { WIRE_REPORT, "REPORT", sizeof(struct wire_report), 1, 1, TAIL_NONE },
    { WIRE_LISTED, "LISTED", sizeof(struct wire_listed), 0, 1, TAIL_ANY },
};

static const struct wire_row *row_of(unsigned type)
{
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++)
        if (rows[i].type == type)
            return &rows[i];
    return NULL;
}

size_t wire_body_bytes(unsigned type)
{
    const struct wire_row *row = row_of(type);
    return row ? row->body : SIZE_MAX;
}

const char *wire_type_name(unsigned type)
{
    const struct wire_row *row = row_of(type);
    return row ? row->name : "unknown";
}

const char *wire_level_name(unsigned level)
{
    static const char *const names[] = {
        [WIRE_LEVEL_NONE] = "none",
        [WIRE_LEVEL_PROCESS] = "staged (process)",
        [WIRE_LEVEL_STAGED] = "staged",
        [WIRE_LEVEL_LOCAL] = "local",
        [WIRE_LEVEL_REPLICATED] = "replicated",
        [WIRE_LEVEL_REMOTE] = "remote",
        [WIRE_LEVEL_DONE] = "done",
    };
    return level < ARRAY_COUNT(names) ? names[level] : "unknown";
}

void wire_begin(struct wire_msg *m, enum wire_type type, const void *body)
{
    size_t n = wire_body_bytes(type);
    m->head = (struct wire_head){
        .magic = WIRE_MAGIC,
        .version = WIRE_VERSION,
        .type = (uint16_t)type,
    };
    m->fd_count = 0;
    for (size_t i = 0; i < WIRE_FDS_MAX; i++)
        m->fds[i] = -1;
    if (n > 0)
        memcpy(m->bytes + sizeof(m->head), body, n);
    m->len = (uint32_t)(sizeof(m->head) + n);
    m->head.bytes = m->len;
}

bool wire_tail(struct wire_msg *m, const void *bytes, size_t n)
{
    if (n > WIRE_BYTES_MAX - m->len)
        return false;
    if (n > 0)
        memcpy(m->bytes + m->len, bytes, n);
    m->len += (uint32_t)n;
    m->head.bytes = m->len;
    return true;
}

bool wire_tail_str(struct wire_msg *m, const char *s)
{
    size_t n = strlen(s);
    if (n > UINT16_MAX || n + 2 > WIRE_BYTES_MAX - m->len)
        return false;
    const uint8_t len[2] = { (uint8_t)n, (uint8_t)(n >> 8) };
    return wire_tail(m, len, sizeof(len)) && wire_tail(m, s, n);
}

const void *wire_body(const struct wire_msg *m)
{
    return m->bytes + sizeof(m->head);
}

const uint8_t *wire_tail_of(const struct wire_msg *m, size_t *ret_len)
{
    size_t at = sizeof(m->head) + wire_body_bytes(m->head.type);
    *ret_len = m->len - at;
    return m->bytes + at;
}

enum ckpt_status wire_check(const struct wire_msg *m, struct ckpt_err *err)
{
    const struct wire_head *h = &m->head;
    if (m->len < sizeof(*h))
        return err_set(err, CKPT_CORRUPT, "message of %u bytes is shorter than its head", m->len);
    if (h->magic != WIRE_MAGIC)
        return err_set(err, CKPT_CORRUPT, "message does not start with CKP1");
    if (h->version != WIRE_VERSION)
        return err_set(err, CKPT_UNSUPPORTED,
                       "the other side speaks version %u of the protocol, this is %u: use ckptd "
                       "and libckpt of one release",
                       h->version, WIRE_VERSION);
    const struct wire_row *row = row_of(h->type);
    if (!row)
        return err_set(err, CKPT_CORRUPT, "message of unknown type %u", h->type);
    if (h->bytes != m->len)
        return err_set(err, CKPT_CORRUPT, "%s says %u bytes and has %u", row->name, h->bytes,
                       m->len);
    if (m->len < sizeof(*h) + row->body)
        return err_set(err, CKPT_CORRUPT, "%s of %u bytes is too short", row->name, m->len);
    if (row->tail == TAIL_NONE && m->len != sizeof(*h) + row->body)
        return err_set(err, CKPT_CORRUPT, "%s of %u bytes is too long", row->name, m->len);
    if (h->fds != m->fd_count || h->fds < row->fds_min || h->fds > row->fds_max)
        return err_set(err, CKPT_CORRUPT, "%s says %u descriptors and came with %u", row->name,
                       h->fds, m->fd_count);
    return CKPT_OK;
}

void wire_text(const struct wire_msg *m, char *ret, size_t cap)
{
    size_t len;
    const uint8_t *tail = wire_tail_of(m, &len);
    size_t n = min_u64(len, cap - 1);
    for (size_t i = 0; i < n; i++)
        ret[i] = tail[i] < 0x20 || tail[i] == 0x7f ? '?' : (char)tail[i];
    ret[n] = 0;
}

/* Room for the descriptors of one message, aligned as the kernel wants it. */
union fd_room {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(WIRE_FDS_MAX * sizeof(int))];
};

enum ckpt_status wire_send(int fd, const struct wire_msg *m, struct ckpt_err *err)
{
    struct wire_head head = m->head;
    head.fds = m->fd_count;
    struct iovec iov[2] = {
        { .iov_base = &head, .iov_len = sizeof(head) },
        { .iov_base = (void *)(uintptr_t)(m->bytes + sizeof(head)),
          .iov_len = m->len - sizeof(head) },
    };
    union fd_room room = { 0 };
    struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 2 };
    if (m->fd_count > 0) {
        msg.msg_control = room.bytes;
        msg.msg_controllen = CMSG_SPACE(m->fd_count * sizeof(int));
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(m->fd_count * sizeof(int));
        memcpy(CMSG_DATA(c), m->fds, m->fd_count * sizeof(int));
    }
    ssize_t n;
    do
        n = sendmsg(fd, &msg, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    if (n >= 0)
        return CKPT_OK;
    if (errno == EAGAIN || errno == EWOULDBLOCK)
        return err_set(err, CKPT_BUSY, "the other side of the socket does not read");
    if (errno == EPIPE || errno == ECONNRESET || errno == ENOTCONN)
        return err_set(err, CKPT_DAEMON_GONE, "the other side of the socket is gone");
    return err_errno(err, errno, "send %s", wire_type_name(head.type));
}

/* Takes the descriptors of a received message; those beyond the limit are closed. */
static void take_fds(struct wire_msg *m, struct msghdr *msg)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < n; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
            if (m->fd_count < WIRE_FDS_MAX)
                m->fds[m->fd_count++] = fd;
            else
                close(fd);
        }
    }
}

enum ckpt_status wire_recv(int fd, struct wire_msg *m, struct ckpt_err *err)
{
    union fd_room room = { 0 };
    struct iovec iov = { .iov_base = m->bytes, .iov_len = sizeof(m->bytes) };
    struct msghdr msg = {
        .msg_iov = &iov,
        .msg_iovlen = 1,
        .msg_control = room.bytes,
        .msg_controllen = sizeof(room.bytes),
    };
    m->fd_count = 0;
    m->len = 0;
    for (size_t i = 0; i < WIRE_FDS_MAX; i++)
        m->fds[i] = -1;
    ssize_t n;
    do
        n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
        return CKPT_BUSY;
    if (n < 0 && errno == ECONNRESET)
        return err_set(err, CKPT_DAEMON_GONE, "the other side of the socket is gone");
    if (n < 0)
        return err_errno(err, errno, "receive a message");
    m->len = (uint32_t)n;
    take_fds(m, &msg);
    enum ckpt_status st = CKPT_OK;
    if (n == 0) /* or an empty message, which looks the same but for its descriptors */
        st = err_set(err, CKPT_DAEMON_GONE, "the other side of the socket is gone");
    else if (msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
        st = err_set(err, CKPT_CORRUPT,
                     "a message is longer than %u bytes or has more than %u "
                     "descriptors",
                     WIRE_BYTES_MAX, WIRE_FDS_MAX);
    if (st == CKPT_OK)
        st = wire_check(m, err);
    if (st != CKPT_OK)
        wire_close_fds(m);
    return st;
}

void wire_close_fds(struct wire_msg *m)
{
    for (uint32_t i = 0; i < m->fd_count; i++) {
        if (m->fds[i] >= 0)
            close(m->fds[i]);
        m->fds[i] = -1;
    }
    m->fd_count = 0;
}

static bool write_all(int fd, const uint8_t *bytes, size_t len)
{
    while (len > 0) {
        ssize_t n = write(fd, bytes, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        bytes += n;
        len -= (size_t)n;
    }
    return true;
}

int wire_memfd(const char *name, const void *bytes, size_t len, struct ckpt_err *err)
{
    CLEANUP_FD int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) {
        (void)err_errno(err, errno, "memfd for %s", name);
        return -1;
    }
    if (!write_all(fd, bytes, len)) {
        (void)err_errno(err, errno, "write %zu bytes of %s to a memfd", len, name);
        return -1;
    }
    if (fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) < 0) {
        (void)err_errno(err, errno, "seal the memfd of %s", name);
        return -1;
    }
    return TAKE_FD(fd);
}

enum ckpt_status wire_memfd_map(int fd, size_t len, const void **ret, struct ckpt_err *err)
{
    const int want = F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0)
        return err_set(err, CKPT_CORRUPT, "the descriptor of a body is no memfd");
    if ((seals & want) != want)
        return err_set(err, CKPT_CORRUPT,
                       "the memfd of a body is not sealed against write, grow and shrink");
    struct stat st;
    if (fstat(fd, &st) < 0)
        return err_errno(err, errno, "stat of a body's memfd");
    if (len == 0 || (uint64_t)st.st_size != len)
        return err_set(err, CKPT_CORRUPT,
                       "the memfd of a body has %llu bytes, the message says %zu",
                       (unsigned long long)st.st_size, len);
    void *p = mmap(NULL, len, PROT_READ, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
        return err_errno(err, errno, "map %zu bytes of a body", len);
    *ret = p;
    return CKPT_OK;
}

void *wire_map_arena(int fd, uint64_t bytes)
{
    size_t room = bytes + WIRE_HUGE_PAGE;
    uint8_t *all = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED)
        return NULL;
    uint8_t *at = all + (align_up((uintptr_t)all, WIRE_HUGE_PAGE) - (uintptr_t)all);
    void *p = mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
    if (p == MAP_FAILED) {
        int e = errno;
        munmap(all, room);
        errno = e;
        return NULL;
    }
    if (at > all)
        munmap(all, (size_t)(at - all));
    if (at + bytes < all + room)
        munmap(at + bytes, (size_t)(all + room - (at + bytes)));
    (void)madvise(p, bytes, MADV_DONTFORK);
    return p;
}
