/* The common part of the hostile clients. */
#include "e2e/villain_kit.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#define PATIENCE 20000 /* ms */

const struct villain *vk_self;
unsigned long long vk_rnd;
struct wire_msg vk_out, vk_in;
struct buf vk_body;

uint64_t vk_any(uint64_t n)
{
    return test_rand(&vk_rnd) % n;
}

void vk_count(unsigned n)
{
    atomic_fetch_add(vk_self->cases, n);
}

void vk_pause_ms(long ms)
{
    nanosleep(&(struct timespec){ .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 }, NULL);
}

/* -- speaking ----------------------------------------------------------------------- */

/* Sends bytes as they are, with any number of descriptors; false if nobody listens. */
bool vk_say(int fd, const void *bytes, size_t len, const int *fds, size_t fd_count)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(FDS_MANY * sizeof(int))];
    } room = { 0 };
    struct iovec iov = { .iov_base = (void *)(uintptr_t)bytes, .iov_len = len };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
    if (fd_count > 0) {
        msg.msg_control = room.bytes;
        msg.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(fd_count * sizeof(int));
        memcpy(CMSG_DATA(c), fds, fd_count * sizeof(int));
    }
    return sendmsg(fd, &msg, MSG_NOSIGNAL) == (ssize_t)len;
}

bool vk_say_out(int fd)
{
    return vk_say(fd, vk_out.bytes, vk_out.len, NULL, 0);
}

/* The next message; false once the daemon has closed.  It may close, but not fall silent. */
bool vk_hear_any(int fd)
{
    enum ckpt_status st = tc_recv(fd, &vk_in, PATIENCE);
    if (st == CKPT_DAEMON_GONE) /* a reset is told once; what was said before is still there */
        st = tc_recv(fd, &vk_in, PATIENCE);
    CHECK(st == CKPT_OK || st == CKPT_DAEMON_GONE);
    return st == CKPT_OK;
}

/* The next message of that type; the others on the way are read over. */
bool vk_hear(int fd, unsigned type)
{
    while (vk_hear_any(fd)) {
        if (vk_in.head.type == type)
            return true;
        wire_close_fds(&vk_in);
    }
    return false;
}

/* Reads what is there; false once the daemon has closed. */
bool vk_read_over(int fd)
{
    struct pollfd p = { .fd = fd, .events = POLLIN };
    while (poll(&p, 1, 0) > 0) {
        if (wire_recv(fd, &vk_in, NULL) != CKPT_OK)
            return false;
        wire_close_fds(&vk_in);
    }
    return true;
}

void vk_hear_end(int fd)
{
    while (vk_hear_any(fd))
        wire_close_fds(&vk_in);
    close(fd);
}

int vk_connect(void)
{
    int fd = tc_connect(vk_self->socket);
    CHECK(fd >= 0);
    return fd;
}

/* -- right beginnings ------------------------------------------------------------------ */

static void make_body(void)
{
    struct decl d = { 0 };
    struct decl_tensor t = { .name = (char[]){ "w" }, .dtype = 6, .ndim = 1 };
    struct decl_piece p = { .box = { .ndim = 1 }, .replica_count = 1 };
    t.shape[0] = ELEMENTS;
    p.box.len[0] = ELEMENTS;
    p.stride[0] = 1;
    CHECK_OK(decl_add_tensor(&d, &t, NULL));
    CHECK_OK(decl_add_piece(&d, &p, NULL));
    CHECK_OK(decl_finish(&d, TC_SLOT, NULL));
    decl_encode(&d, &vk_body);
    CHECK(!vk_body.failed);
    decl_fini(&d);
}

/* A session; each is a rank of its own. */
void vk_open_session(struct tc *c)
{
    tc_init(c, vk_self->socket, "hostile", vk_self->token, atomic_fetch_add(vk_self->next_rank, 1),
            WORLD);
    CHECK_OK(tc_hello(c, false));
    vk_rnd += c->rank; /* forked ones shall not all do the same */
}

void vk_numbered(struct tc *c, enum wire_type type, const void *fixed)
{
    wire_begin(&vk_out, type, fixed);
    vk_out.head.seq = ++c->seq;
}

/* STATE with this body; the type of the answer, 0 when the daemon closed. */
unsigned vk_ask_state(struct tc *c, int fd, uint64_t bytes)
{
    struct wire_state s = { .state = ++c->state, .decl_bytes = bytes };
    vk_numbered(c, WIRE_STATE, &s);
    vk_out.head.fds = 1;
    if (!vk_say(c->fd, vk_out.bytes, vk_out.len, &fd, 1))
        return 0;
    while (vk_hear_any(c->fd))
        if (vk_in.head.type == WIRE_STATE_OK || vk_in.head.type == WIRE_REFUSED)
            return vk_in.head.type;
    return 0;
}

/* The arena's descriptor stays open in *ret_fd, if that is given. */
void vk_open_state(struct tc *c, int *ret_fd)
{
    struct wire_state_ok ok;
    int fd = wire_memfd("decl", vk_body.data, vk_body.len, NULL);
    CHECK_EQ(vk_ask_state(c, fd, vk_body.len), WIRE_STATE_OK);
    close(fd);
    memcpy(&ok, wire_body(&vk_in), sizeof(ok));
    c->slots = ok.slots;
    c->arena = mmap(NULL, ok.slots * TC_SLOT, PROT_READ | PROT_WRITE, MAP_SHARED, vk_in.fds[0], 0);
    CHECK(c->arena != MAP_FAILED);
    if (ret_fd) {
        *ret_fd = vk_in.fds[0];
        vk_in.fds[0] = -1;
    }
    wire_close_fds(&vk_in);
}

/* The answer to a save: true when a slot is granted, false when it is over, because the
 * attempt of that step was given up for another rank a moment ago. */
static bool granted(struct tc *c, uint32_t *ret_slot)
{
    while (vk_hear_any(c->fd)) {
        struct wire_grant g;
        struct wire_op o;
        memcpy(&g, wire_body(&vk_in), sizeof(g));
        memcpy(&o, wire_body(&vk_in), sizeof(o));
        *ret_slot = g.arena_slot;
        if (vk_in.head.type == WIRE_GRANT)
            return true;
        if (vk_in.head.type == WIRE_OP && (o.flags & WIRE_OP_FINAL))
            return false;
    }
    CHECK(!"the daemon closed instead of granting a slot");
    return false;
}

/* A save with its first slot granted; that slot. */
uint32_t vk_open_save(struct tc *c)
{
    uint32_t slot = 0;
    do {
        struct wire_save s = { .op = ++c->op, .step = 1000 + vk_any(1000000), .state = c->state };
        vk_numbered(c, WIRE_SAVE, &s);
        CHECK(vk_say_out(c->fd));
    } while (!granted(c, &slot));
    return slot;
}

void vk_begin_to(struct tc *c, unsigned depth)
{
    vk_open_session(c);
    if (depth > 0)
        vk_open_state(c, NULL);
    if (depth > 1)
        (void)vk_open_save(c);
}

/* -- HELLO ---- */

int vk_own_pidfd(void)
{
    return (int)syscall(SYS_pidfd_open, getpid(), 0);
}

void vk_say_hello(int fd, const int *fds, uint32_t told, size_t sent)
{
    struct wire_hello h = { .mode = WIRE_TRAIN, .rank = 4, .world = WORLD, .arrival_ms = 1000 };
    h.session[0] = (uint8_t)test_rand(&vk_rnd);
    wire_begin(&vk_out, WIRE_HELLO, &h);
    CHECK(wire_tail_str(&vk_out, "hostile") && wire_tail_str(&vk_out, vk_self->token) &&
          wire_tail_str(&vk_out, ""));
    vk_out.head.fds = told;
    if (vk_say(fd, vk_out.bytes, vk_out.len, fds, sent) && vk_hear(fd, WIRE_REFUSED))
        CHECK(wire_tail_of(&vk_in, &(size_t){ 0 })[0]);
    vk_hear_end(fd);
    vk_count(1);
}

void villain_prepare(const char *socket)
{
    struct tc c;
    tc_init(&c, socket, "hostile", "prepare", 0, 1);
    CHECK_OK(tc_hello(&c, false));
    CHECK_OK(tc_state(&c, ELEMENTS, 0));
    CHECK_OK(tc_save(&c, 1, 0, 99, UINT32_MAX));
    tc_bye(&c);
}

void villain_anchor(const struct villain *v, int ready_fd)
{
    struct tc c;
    tc_init(&c, v->socket, "hostile", v->token, 0, WORLD);
    CHECK_OK(tc_hello(&c, false));
    CHECK_EQ(c.point.step, 1);
    CHECK_EQ(write(ready_fd, "r", 1), 1);
    for (;;)
        pause();
}

void vk_begin(const struct villain *v, unsigned long long seed)
{
    vk_self = v;
    vk_rnd = seed;
    make_body();
}
