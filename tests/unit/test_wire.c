/* Messages: built, sent with descriptors, received, and every way in which they can lie. */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "formats/wire.h"

#include "check.h"

static long cases;
static const unsigned types[] = {
    WIRE_HELLO,    WIRE_STATE,     WIRE_SAVE,     WIRE_FULL,   WIRE_FAIL,   WIRE_LOAD,
    WIRE_BACK,     WIRE_RESTORED,  WIRE_PROGRESS, WIRE_CANCEL, WIRE_STATUS, WIRE_BYE,
    WIRE_HELLO_OK, WIRE_REFUSED,   WIRE_STATE_OK, WIRE_FORGET, WIRE_GRANT,  WIRE_OP,
    WIRE_FRAGS,    WIRE_STATUS_OK, WIRE_ACK,      WIRE_REPORT, WIRE_LIST,   WIRE_LISTED,
};
static const bool with_fd[128] = {
    [WIRE_HELLO] = true,     [WIRE_STATE] = true,  [WIRE_STATE_OK] = true,
    [WIRE_STATUS_OK] = true, [WIRE_REPORT] = true,
};
static const bool with_tail[128] = {
    [WIRE_HELLO] = true,    [WIRE_SAVE] = true,    [WIRE_FAIL] = true,   [WIRE_RESTORED] = true,
    [WIRE_HELLO_OK] = true, [WIRE_REFUSED] = true, [WIRE_OP] = true,     [WIRE_FRAGS] = true,
    [WIRE_LOAD] = true,     [WIRE_LIST] = true,    [WIRE_LISTED] = true,
};
static uint8_t body[256];
static struct wire_msg out, in;

static int open_fds(void)
{
    int n = 0;
    for (int fd = 0; fd < 256; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

static void make(unsigned type)
{
    wire_begin(&out, type, body);
    if (with_fd[type])
        out.fds[out.fd_count++] = open("/dev/null", O_RDONLY | O_CLOEXEC);
}

static void test_round_trip(const int sv[2])
{
    for (size_t i = 0; i < ARRAY_COUNT(types); i++) {
        int before = open_fds();
        make(types[i]);
        if (with_tail[types[i]])
            CHECK(wire_tail_str(&out, "text"));
        CHECK_OK(wire_send(sv[0], &out, NULL));
        CHECK_OK(wire_recv(sv[1], &in, NULL));
        CHECK_EQ(in.head.type, types[i]);
        CHECK_EQ(in.len, out.len);
        CHECK_EQ(in.fd_count, with_fd[types[i]] ? 1 : 0);
        CHECK(memcmp(wire_body(&in), body, wire_body_bytes(types[i])) == 0);
        size_t tail;
        const uint8_t *t = wire_tail_of(&in, &tail);
        CHECK_EQ(tail, with_tail[types[i]] ? 6 : 0);
        CHECK(tail == 0 || memcmp(t, "\4\0text", 6) == 0);
        if (in.fd_count > 0)
            CHECK(fcntl(in.fds[0], F_GETFD) & FD_CLOEXEC);
        wire_close_fds(&in);
        wire_close_fds(&out);
        CHECK_EQ(open_fds(), before);
        CHECK(strcmp(wire_type_name(types[i]), "unknown") != 0);
        cases++;
    }
}

/* Each single lie in an otherwise right message is found, at the other end of a socket. */
static void refuse(const int sv[2], enum ckpt_status want, const void *bytes, size_t len)
{
    struct ckpt_err err = { 0 };
    int before = open_fds();
    CHECK_EQ(send(sv[0], bytes, len, 0), (ssize_t)len);
    CHECK_EQ(wire_recv(sv[1], &in, &err), want);
    CHECK(err.text[0]);
    CHECK_EQ(open_fds(), before);
    cases++;
}

static void test_lies(const int sv[2])
{
    for (size_t i = 0; i < ARRAY_COUNT(types); i++) {
        if (with_fd[types[i]]) {
            wire_begin(&out, types[i], body);
            refuse(sv, CKPT_CORRUPT, out.bytes, out.len); /* without its descriptor */
            out.head.fds = 1;
            refuse(sv, CKPT_CORRUPT, out.bytes, out.len);
            continue;
        }
        wire_begin(&out, types[i], body);
        struct wire_head good = out.head;
        for (size_t n = 1; n < out.len; n++)
            refuse(sv, CKPT_CORRUPT, out.bytes, n);
        for (size_t n = sizeof(good); n < out.len; n++) {
            out.head.bytes = (uint32_t)n; /* consistent but too short */
            refuse(sv, CKPT_CORRUPT, out.bytes, n);
        }
        out.head = good;
        out.head.magic ^= 1;
        refuse(sv, CKPT_CORRUPT, out.bytes, out.len);
        out.head = good;
        out.head.version++;
        refuse(sv, CKPT_UNSUPPORTED, out.bytes, out.len);
        out.head = good;
        out.head.bytes++;
        refuse(sv, CKPT_CORRUPT, out.bytes, out.len);
        out.head = good;
        out.head.fds = 1;
        refuse(sv, CKPT_CORRUPT, out.bytes, out.len);
        out.head = good;
        if (!with_tail[types[i]]) {
            out.head.bytes = out.len + 1;
            refuse(sv, CKPT_CORRUPT, out.bytes, out.len + 1);
        }
    }
    for (unsigned type = 0; type < 256; type++) {
        if (wire_body_bytes(type) != SIZE_MAX)
            continue;
        wire_begin(&out, WIRE_ACK, NULL);
        out.head.type = (uint16_t)type;
        refuse(sv, CKPT_CORRUPT, out.bytes, out.len);
        CHECK_STR(wire_type_name(type), "unknown");
    }
}

/* The first `len` bytes of `out` with n descriptors, all the same. */
static void send_fds(int to, size_t len, int fd, uint32_t n)
{
    struct iovec iov = { out.bytes, len };
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(8 * sizeof(int))];
    } room = { 0 };
    struct msghdr msg = { .msg_iov = &iov,
                          .msg_iovlen = 1,
                          .msg_control = room.bytes,
                          .msg_controllen = CMSG_SPACE(n * sizeof(int)) };
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    *c = (struct cmsghdr){ .cmsg_level = SOL_SOCKET,
                           .cmsg_type = SCM_RIGHTS,
                           .cmsg_len = CMSG_LEN(n * sizeof(int)) };
    for (uint32_t i = 0; i < n; i++)
        memcpy(CMSG_DATA(c) + i * sizeof(int), &fd, sizeof(fd));
    CHECK_EQ(sendmsg(to, &msg, 0), (ssize_t)len);
}

/* None of them stays open; a message without a byte is taken for the end. */
static void test_unwanted_fds(const int sv[2])
{
    int before = open_fds();
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    for (uint32_t n = 1; n <= 8; n++) {
        wire_begin(&out, WIRE_ACK, NULL);
        out.head.fds = n;
        send_fds(sv[0], sizeof(struct wire_head), fd, n);
        CHECK_EQ(wire_recv(sv[1], &in, NULL), CKPT_CORRUPT);
        CHECK_EQ(open_fds(), before + 1);
        send_fds(sv[0], 0, fd, n);
        CHECK_EQ(wire_recv(sv[1], &in, NULL), CKPT_DAEMON_GONE);
        CHECK_EQ(open_fds(), before + 1);
        cases += 2;
    }
    close(fd);
}

static void test_limits(const int sv[2])
{
    static uint8_t big[WIRE_BYTES_MAX + 1];
    size_t room = WIRE_BYTES_MAX - sizeof(struct wire_head) - sizeof(struct wire_op);
    make(WIRE_OP);
    CHECK(!wire_tail(&out, big, room + 1));
    CHECK_EQ(out.len, sizeof(struct wire_head) + sizeof(struct wire_op));
    CHECK(wire_tail(&out, big, room));
    CHECK_EQ(out.len, WIRE_BYTES_MAX);
    CHECK(!wire_tail(&out, big, 1));
    CHECK(!wire_tail_str(&out, ""));
    CHECK_OK(wire_send(sv[0], &out, NULL));
    CHECK_OK(wire_recv(sv[1], &in, NULL));
    CHECK_EQ(in.len, WIRE_BYTES_MAX);
    refuse(sv, CKPT_CORRUPT, big, WIRE_BYTES_MAX + 1);
    make(WIRE_OP); /* a text that is cut and cleaned */
    CHECK(wire_tail(&out,
                    "a\nb\0c\x7f"
                    "defgh",
                    11));
    char text[8];
    wire_text(&out, text, sizeof(text));
    CHECK_STR(text, "a?b?c?d");
    make(WIRE_OP);
    wire_text(&out, text, sizeof(text));
    CHECK_STR(text, "");
    cases += 6;
}

static void test_ends(void)
{
    int sv[2];
    CHECK_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, sv), 0);
    CHECK_EQ(wire_recv(sv[1], &in, NULL), CKPT_BUSY);
    make(WIRE_ACK);
    enum ckpt_status st;
    size_t sent = 0;
    while ((st = wire_send(sv[0], &out, NULL)) == CKPT_OK)
        sent++;
    CHECK_EQ(st, CKPT_BUSY);
    CHECK(sent > 0);
    close(sv[1]);
    CHECK_EQ(wire_send(sv[0], &out, NULL), CKPT_DAEMON_GONE);
    CHECK_EQ(wire_recv(sv[0], &in, NULL), CKPT_DAEMON_GONE);
    close(sv[0]);
    cases += 4;
}

static void test_memfd(void)
{
    char bytes[5000];
    memset(bytes, 'x', sizeof(bytes));
    struct ckpt_err err = { 0 };
    const void *p = NULL;
    int fd = wire_memfd("test", bytes, sizeof(bytes), &err);
    CHECK(fd >= 0);
    CHECK(write(fd, "y", 1) < 0);
    CHECK(ftruncate(fd, 1) < 0);
    CHECK_OK(wire_memfd_map(fd, sizeof(bytes), &p, &err));
    CHECK(memcmp(p, bytes, sizeof(bytes)) == 0);
    munmap((void *)(uintptr_t)p, sizeof(bytes));
    CHECK_EQ(wire_memfd_map(fd, sizeof(bytes) - 1, &p, NULL), CKPT_CORRUPT);
    CHECK_EQ(wire_memfd_map(fd, sizeof(bytes) + 1, &p, NULL), CKPT_CORRUPT);
    CHECK_EQ(wire_memfd_map(fd, 0, &p, NULL), CKPT_CORRUPT);
    close(fd);
    const int all = F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK;
    for (int seals = 0; seals < 16; seals++) {
        fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        CHECK_EQ(write(fd, bytes, 10), 10);
        CHECK_EQ(fcntl(fd, F_ADD_SEALS, seals), 0);
        enum ckpt_status st = wire_memfd_map(fd, 10, &p, NULL);
        CHECK_EQ(st, (seals & all) == all ? CKPT_OK : CKPT_CORRUPT);
        if (st == CKPT_OK)
            munmap((void *)(uintptr_t)p, 10);
        close(fd);
        cases++;
    }
    fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    CHECK_EQ(wire_memfd_map(fd, 10, &p, NULL), CKPT_CORRUPT);
    close(fd);
    cases += 6;
}

int main(void)
{
    int sv[2];
    CHECK_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv), 0);
    for (size_t i = 0; i < sizeof(body); i++)
        body[i] = (uint8_t)(i * 7 + 1);
    test_round_trip(sv);
    test_lies(sv);
    test_unwanted_fds(sv);
    test_limits(sv);
    test_ends();
    test_memfd();
    CHECK_STR(wire_level_name(WIRE_LEVEL_PROCESS), "staged (process)");
    CHECK_STR(wire_level_name(99), "unknown");
    TEST_CASES(cases);
    return 0;
}
