/* The kinds of hostile clients.  What must be answered in a certain way is checked here;
 * what they do to others is measured by the test. */
#include "e2e/villains.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "unit/daemon_client.h"

#include "check.h"

#define WORLD    65536 /* ranks of the villains' launch: more than there will be sessions */
#define ELEMENTS UINT64_C(5000000)
#define FDS_MANY 253 /* as many as the kernel lets through at once */
#define CROWD    2400
#define PATIENCE 20000 /* ms */

const char *const villain_names[VILLAIN_KINDS] = {
    "random", "mutant", "order",   "pidfd", "body",  "lengths", "text",   "scribble",
    "arena",  "load",   "connect", "crowd", "stall", "deaf",    "orphan",
};

static const struct villain *self;
static unsigned long long rnd;
static struct wire_msg out, in;
static struct buf body; /* a right declaration of one rank */

static uint64_t any(uint64_t n)
{
    return test_rand(&rnd) % n;
}

static void count(unsigned n)
{
    atomic_fetch_add(self->cases, n);
}

static void pause_ms(long ms)
{
    nanosleep(&(struct timespec){ .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 }, NULL);
}

/* -- speaking ----------------------------------------------------------------------- */

/* Sends bytes as they are, with any number of descriptors; false if nobody listens. */
static bool say(int fd, const void *bytes, size_t len, const int *fds, size_t fd_count)
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

static bool say_out(int fd)
{
    return say(fd, out.bytes, out.len, NULL, 0);
}

/* The next message; false once the daemon has closed.  It may close, but not fall silent. */
static bool hear_any(int fd)
{
    enum ckpt_status st = tc_recv(fd, &in, PATIENCE);
    if (st == CKPT_DAEMON_GONE) /* a reset is told once; what was said before is still there */
        st = tc_recv(fd, &in, PATIENCE);
    CHECK(st == CKPT_OK || st == CKPT_DAEMON_GONE);
    return st == CKPT_OK;
}

/* The next message of that type; the others on the way are read over. */
static bool hear(int fd, unsigned type)
{
    while (hear_any(fd)) {
        if (in.head.type == type)
            return true;
        wire_close_fds(&in);
    }
    return false;
}

/* Reads what is there; false once the daemon has closed. */
static bool read_over(int fd)
{
    struct pollfd p = { .fd = fd, .events = POLLIN };
    while (poll(&p, 1, 0) > 0) {
        if (wire_recv(fd, &in, NULL) != CKPT_OK)
            return false;
        wire_close_fds(&in);
    }
    return true;
}

static void hear_end(int fd)
{
    while (hear_any(fd))
        wire_close_fds(&in);
    close(fd);
}

static int connect_once(void)
{
    int fd = tc_connect(self->socket);
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
    decl_encode(&d, &body);
    CHECK(!body.failed);
    decl_fini(&d);
}

/* A session; each is a rank of its own. */
static void open_session(struct tc *c)
{
    tc_init(c, self->socket, "hostile", self->token, atomic_fetch_add(self->next_rank, 1), WORLD);
    CHECK_OK(tc_hello(c, false));
    rnd += c->rank; /* forked ones shall not all do the same */
}

static void numbered(struct tc *c, enum wire_type type, const void *fixed)
{
    wire_begin(&out, type, fixed);
    out.head.seq = ++c->seq;
}

/* STATE with this body; the type of the answer, 0 when the daemon closed. */
static unsigned ask_state(struct tc *c, int fd, uint64_t bytes)
{
    struct wire_state s = { .state = ++c->state, .decl_bytes = bytes };
    numbered(c, WIRE_STATE, &s);
    out.head.fds = 1;
    if (!say(c->fd, out.bytes, out.len, &fd, 1))
        return 0;
    while (hear_any(c->fd))
        if (in.head.type == WIRE_STATE_OK || in.head.type == WIRE_REFUSED)
            return in.head.type;
    return 0;
}

/* The arena's descriptor stays open in *ret_fd, if that is given. */
static void open_state(struct tc *c, int *ret_fd)
{
    struct wire_state_ok ok;
    int fd = wire_memfd("decl", body.data, body.len, NULL);
    CHECK_EQ(ask_state(c, fd, body.len), WIRE_STATE_OK);
    close(fd);
    memcpy(&ok, wire_body(&in), sizeof(ok));
    c->slots = ok.slots;
    c->arena = mmap(NULL, ok.slots * TC_SLOT, PROT_READ | PROT_WRITE, MAP_SHARED, in.fds[0], 0);
    CHECK(c->arena != MAP_FAILED);
    if (ret_fd) {
        *ret_fd = in.fds[0];
        in.fds[0] = -1;
    }
    wire_close_fds(&in);
}

/* The answer to a save: true when a slot is granted, false when it is over, because the
 * attempt of that step was given up for another rank a moment ago. */
static bool granted(struct tc *c, uint32_t *ret_slot)
{
    while (hear_any(c->fd)) {
        struct wire_grant g;
        struct wire_op o;
        memcpy(&g, wire_body(&in), sizeof(g));
        memcpy(&o, wire_body(&in), sizeof(o));
        *ret_slot = g.arena_slot;
        if (in.head.type == WIRE_GRANT)
            return true;
        if (in.head.type == WIRE_OP && (o.flags & WIRE_OP_FINAL))
            return false;
    }
    CHECK(!"the daemon closed instead of granting a slot");
    return false;
}

/* A save with its first slot granted; that slot. */
static uint32_t open_save(struct tc *c)
{
    uint32_t slot = 0;
    do {
        struct wire_save s = { .op = ++c->op, .step = 1000 + any(1000000), .state = c->state };
        numbered(c, WIRE_SAVE, &s);
        CHECK(say_out(c->fd));
    } while (!granted(c, &slot));
    return slot;
}

static void begin_to(struct tc *c, unsigned depth)
{
    open_session(c);
    if (depth > 0)
        open_state(c, NULL);
    if (depth > 1)
        (void)open_save(c);
}

/* -- bytes ------------------------------------------------------------------------------ */

static const uint16_t from_clients[] = {
    WIRE_HELLO, WIRE_STATE,  WIRE_SAVE, WIRE_FULL,     WIRE_FAIL,     WIRE_LOAD,
    WIRE_BACK,  WIRE_CANCEL, WIRE_BYE,  WIRE_RESTORED, WIRE_PROGRESS, WIRE_STATUS,
};

static void run_random(void)
{
    static uint8_t bytes[96 << 10];
    for (unsigned i = 0; i < self->amount; i++) {
        int fd = connect_once();
        for (uint64_t k = any(6) + 1; k > 0; k--) {
            static const uint32_t limits[] = { 32, 33, 300, 65536, 70000 };
            size_t len = any(limits[any(ARRAY_COUNT(limits))]) + 1;
            for (size_t b = 0; b < len; b++)
                bytes[b] = (uint8_t)test_rand(&rnd);
            if (any(2)) {
                struct wire_head h = { .magic = WIRE_MAGIC, .version = WIRE_VERSION };
                h.type = any(4) ? from_clients[any(ARRAY_COUNT(from_clients))] : (uint16_t)any(80);
                h.bytes = (uint32_t)len;
                memcpy(bytes, &h, len < sizeof(h) ? len : sizeof(h));
            }
            if (!say(fd, bytes, len, &fd, any(3) == 0))
                break;
            count(1);
        }
        close(fd);
    }
}

/* A message as a good client would send it now. */
static void right_message(struct tc *c, unsigned type)
{
    union {
        uint8_t bytes[64];
        struct wire_hello hello;
        struct wire_state state;
        struct wire_save save;
        struct wire_full full;
        struct wire_load load;
        struct wire_back back;
        struct wire_fail fail;
    } b = { { 0 } };
    switch (type) {
    case WIRE_HELLO:
        b.hello = (struct wire_hello){ .mode = 1, .rank = 5, .world = WORLD };
        break;
    case WIRE_STATE:
        b.state = (struct wire_state){ .state = c->state + 1, .decl_bytes = body.len };
        break;
    case WIRE_SAVE:
        b.save = (struct wire_save){ .op = c->op + 1, .step = 7, .state = 1, .metric_count = 1 };
        break;
    case WIRE_FULL:
        b.full = (struct wire_full){ .op = c->op, .state = c->state };
        break;
    case WIRE_LOAD:
        b.load = (struct wire_load){ .op = c->op + 1, .state = 1, .flags = WIRE_LOAD_RESUME };
        break;
    default:
        b.fail = (struct wire_fail){ .op = c->op, .status = CKPT_IO };
        break;
    }
    numbered(c, type, b.bytes);
    if (type == WIRE_HELLO)
        CHECK(wire_tail_str(&out, "hostile") && wire_tail_str(&out, self->token) &&
              wire_tail_str(&out, ""));
    if (type == WIRE_SAVE)
        CHECK(wire_tail_str(&out, "loss") && wire_tail(&out, b.bytes, 8));
}

static void mutate(void)
{
    static const uint32_t edges[] = { 0, 1, 2, 0x7fffffff, 0x80000000, 0xffffffff, 16384, 4096 };
    for (uint64_t k = any(3) + 1; k > 0; k--) {
        uint32_t at = (uint32_t)any(out.len);
        if (any(2))
            out.bytes[at] ^= (uint8_t)(1 << any(8));
        else if (at + 4 <= out.len)
            memcpy(out.bytes + at, &edges[any(ARRAY_COUNT(edges))], 4);
    }
    if (any(4) == 0)
        out.len = (uint32_t)any(out.len) + 1;
    if (any(4) == 0)
        out.len += (uint32_t)any(200);
    if (any(2))
        out.head.bytes = out.len;
}

static void run_mutant(void)
{
    for (unsigned i = 0; i < self->amount; i++) {
        struct tc c;
        int fd = wire_memfd("decl", body.data, body.len, NULL);
        begin_to(&c, i % 3);
        for (unsigned k = 0; k < 8; k++) {
            right_message(&c, from_clients[any(ARRAY_COUNT(from_clients))]);
            out.head.fds = out.head.type == WIRE_STATE || out.head.type == WIRE_HELLO;
            uint32_t fds = out.head.fds;
            mutate();
            if (!say(c.fd, out.bytes, out.len, &fd, fds) || !read_over(c.fd))
                break;
            count(1);
        }
        close(fd);
        tc_drop(&c);
    }
}

static void run_order(void)
{
    for (unsigned i = 0; i < self->amount; i++) {
        struct tc c;
        begin_to(&c, i % 3);
        for (unsigned k = 0; k < 8; k++) {
            uint8_t fixed[64];
            for (size_t b = 0; b < sizeof(fixed); b++)
                fixed[b] = (uint8_t)(any(4) || b % 4 ? 0 : any(4));
            numbered(&c, from_clients[1 + any(ARRAY_COUNT(from_clients) - 1)], fixed);
            if (any(8) == 0)
                out.head.seq = any(2) ? any(4) : test_rand(&rnd);
            if (out.head.type == WIRE_STATE) { /* what comes with it is for other kinds */
                c.seq--;
                continue;
            }
            if (!say_out(c.fd) || !read_over(c.fd))
                break;
            count(1);
        }
        tc_drop(&c);
    }
}

/* -- descriptors ---------------------------------------------------------------------------- */

static int own_pidfd(void)
{
    return (int)syscall(SYS_pidfd_open, getpid(), 0);
}

static int dead_pidfd(void)
{
    pid_t pid = fork();
    if (pid == 0)
        _exit(0);
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    CHECK_EQ(waitpid(pid, NULL, 0), pid);
    return fd;
}

static int pipe_end(unsigned end)
{
    int p[2];
    CHECK_EQ(pipe2(p, O_CLOEXEC), 0);
    close(p[!end]);
    return p[end];
}

/* One of the descriptors that are of no use to anybody; the connection itself is `conn`. */
#define WRONG_FDS 10
static int wrong_fd(unsigned which, int conn)
{
    switch (which) {
    case 0:
        return pipe_end(0);
    case 1:
        return pipe_end(1);
    case 2:
        return open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    case 3:
        return open("/dev/zero", O_RDWR | O_CLOEXEC);
    case 4:
        return open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    case 5:
        return dup(conn); /* a socket on its own way */
    case 6:
        return epoll_create1(EPOLL_CLOEXEC);
    case 7:
        return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    case 8:
        return open("/tmp", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
    default:
        return memfd_create("x", MFD_CLOEXEC);
    }
}

static void say_hello(int fd, const int *fds, uint32_t told, size_t sent)
{
    struct wire_hello h = { .mode = WIRE_TRAIN, .rank = 4, .world = WORLD, .arrival_ms = 1000 };
    h.session[0] = (uint8_t)test_rand(&rnd);
    wire_begin(&out, WIRE_HELLO, &h);
    CHECK(wire_tail_str(&out, "hostile") && wire_tail_str(&out, self->token) &&
          wire_tail_str(&out, ""));
    out.head.fds = told;
    if (say(fd, out.bytes, out.len, fds, sent) && hear(fd, WIRE_REFUSED))
        CHECK(wire_tail_of(&in, &(size_t){ 0 })[0]);
    hear_end(fd);
    count(1);
}

static void run_pidfd(void)
{
    int many[FDS_MANY];
    for (unsigned i = 0; i < FDS_MANY; i++)
        many[i] = own_pidfd();
    for (unsigned i = 0; i < self->amount; i++) {
        for (unsigned k = 0; k < WRONG_FDS; k++) {
            int fd = connect_once(), wrong = wrong_fd(k, fd);
            say_hello(fd, &wrong, 1, 1);
            close(wrong);
        }
        int parent = (int)syscall(SYS_pidfd_open, getppid(), 0), dead = dead_pidfd();
        say_hello(connect_once(), &parent, 1, 1);
        say_hello(connect_once(), &dead, 1, 1);
        say_hello(connect_once(), NULL, 0, 0);
        say_hello(connect_once(), NULL, 1, 0);
        say_hello(connect_once(), many, 0, 1);
        say_hello(connect_once(), many, 2, 2);
        say_hello(connect_once(), many, 3, 3);
        say_hello(connect_once(), many, 1, FDS_MANY);
        close(parent);
        close(dead);
    }
    for (unsigned i = 0; i < FDS_MANY; i++)
        close(many[i]);
}

/* A memfd with the declaration and these seals. */
static int body_fd(int seals)
{
    int fd = memfd_create("decl", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    CHECK(fd >= 0);
    CHECK_EQ(write(fd, body.data, body.len), (ssize_t)body.len);
    if (seals)
        CHECK_EQ(fcntl(fd, F_ADD_SEALS, seals), 0);
    return fd;
}

/* Every one of them is refused, and the session lives. */
static void refused(struct tc *c, int fd, uint64_t bytes)
{
    CHECK_EQ(ask_state(c, fd, bytes), WIRE_REFUSED);
    count(1);
}

static void bad_bodies(struct tc *c)
{
    static const int seals[] = { 0,
                                 F_SEAL_SHRINK,
                                 F_SEAL_SHRINK | F_SEAL_GROW,
                                 F_SEAL_WRITE | F_SEAL_GROW,
                                 F_SEAL_WRITE | F_SEAL_SHRINK,
                                 F_SEAL_FUTURE_WRITE | F_SEAL_GROW | F_SEAL_SHRINK };
    for (size_t i = 0; i < ARRAY_COUNT(seals); i++) {
        int fd = body_fd(seals[i]);
        refused(c, fd, body.len);
        if (!(seals[i] & F_SEAL_SHRINK))
            CHECK_EQ(ftruncate(fd, 0), 0); /* nobody may have it mapped by now */
        close(fd);
    }
    const int all = F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK;
    const uint64_t sizes[] = { 1,       body.len - 1, body.len + 1, body.len + 4096, 2 * body.len,
                               1 << 20, 1 << 30 };
    for (size_t i = 0; i < ARRAY_COUNT(sizes); i++) {
        int fd = body_fd(all);
        refused(c, fd, sizes[i]);
        close(fd);
    }
    for (unsigned k = 0; k < WRONG_FDS; k++) {
        int fd = wrong_fd(k, c->fd);
        refused(c, fd, body.len);
        close(fd);
    }
    int empty = wire_memfd("decl", "", 0, NULL);
    refused(c, empty, body.len);
    close(empty);
}

/* Cut while the daemon may be looking at it. */
static void shrinking_body(struct tc *c)
{
    int fd = body_fd(0);
    struct wire_state s = { .state = ++c->state, .decl_bytes = body.len };
    numbered(c, WIRE_STATE, &s);
    out.head.fds = 1;
    CHECK(say(c->fd, out.bytes, out.len, &fd, 1));
    for (int i = 0; i < 20; i++)
        CHECK(ftruncate(fd, i % 2 ? (off_t)body.len : 0) == 0);
    CHECK(hear(c->fd, WIRE_REFUSED));
    close(fd);
    count(1);
}

/* Bodies that are sealed well and say nonsense. */
static void nonsense_body(struct tc *c)
{
    uint8_t *copy = malloc(body.len);
    CHECK(copy != NULL);
    memcpy(copy, body.data, body.len);
    for (uint64_t k = any(4) + 1; k > 0; k--)
        copy[any(body.len)] ^= (uint8_t)(1 << any(8));
    if (any(2) && body.len > sizeof(struct digest)) {
        struct digest d = digest_of(copy, body.len - sizeof(d));
        memcpy(copy + body.len - sizeof(d), &d, sizeof(d));
    }
    int fd = wire_memfd("decl", copy, body.len, NULL);
    (void)ask_state(c, fd, body.len); /* some still make sense */
    wire_close_fds(&in);
    close(fd);
    free(copy);
    count(1);
}

static void run_body(void)
{
    for (unsigned i = 0; i < self->amount; i++) {
        struct tc c;
        open_session(&c);
        bad_bodies(&c);
        for (unsigned k = 0; k < 4; k++)
            shrinking_body(&c);
        open_state(&c, NULL); /* after all that a right one is served */
        tc_drop(&c);
        open_session(&c);
        for (unsigned k = 0; k < 8; k++)
            nonsense_body(&c);
        tc_drop(&c);
    }
}

/* -- lengths and texts ----------------------------------------------------------------------- */

static void one_length(struct tc *c, unsigned which)
{
    struct wire_save s = { .op = c->op + 1, .step = 1, .state = c->state };
    struct wire_full full = { .op = c->op, .state = c->state, .slot = UINT32_MAX };
    static const uint32_t metrics[] = { 1, 2, 64, 65, 1 << 20, UINT32_MAX };
    const uint8_t name[] = { 0xff, 0xff, 'x', 'y' };
    if (which < ARRAY_COUNT(metrics)) {
        s.metric_count = metrics[which];
        numbered(c, WIRE_SAVE, &s);
        CHECK(wire_tail(&out, name, sizeof(name)));
    } else if (which < 9) {
        numbered(c, WIRE_SAVE, &s);
        CHECK(wire_tail(&out, name, which - 5)); /* more than it says */
    } else if (which < 12) {
        static const uint32_t slots[] = { 0x7fffffff, UINT32_MAX - 1, 4096 };
        full.arena_slot = slots[which - 9];
        numbered(c, WIRE_FULL, &full);
    } else {
        numbered(c, WIRE_FULL, &full);
        out.head.bytes += (uint32_t)any(2) ? 1 : 0x10000;
    }
}
#define LENGTHS 13

static void run_lengths(void)
{
    for (unsigned i = 0; i < self->amount; i++) {
        for (unsigned k = 0; k < LENGTHS; k++) {
            struct tc c;
            begin_to(&c, 2);
            one_length(&c, k);
            if (say_out(c.fd))
                CHECK(hear(c.fd, WIRE_REFUSED));
            hear_end(c.fd);
            c.fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
            tc_drop(&c);
            count(1);
        }
        /* Names in HELLO that are longer than what follows, or than anything may be. */
        static const uint16_t said[] = { 0, 1, 200, 300, 0xffff };
        for (size_t k = 0; k < ARRAY_COUNT(said); k++) {
            struct wire_hello h = { .mode = WIRE_TRAIN, .rank = 6, .world = WORLD };
            const uint8_t len[2] = { (uint8_t)said[k], (uint8_t)(said[k] >> 8) };
            int fd = connect_once(), pidfd = own_pidfd();
            wire_begin(&out, WIRE_HELLO, &h);
            CHECK(wire_tail(&out, len, 2));
            CHECK(wire_tail(&out, villain_names, 8));
            out.head.fds = 1;
            CHECK(say(fd, out.bytes, out.len, &pidfd, 1) && hear(fd, WIRE_REFUSED));
            hear_end(fd);
            close(pidfd);
            count(1);
        }
    }
}

static const char *const nasty[] = {
    "",
    "\" level=error what=\"forged",
    "a\nlevel=error pid=1 what=\"forged\"",
    "..",
    "../../etc/passwd",
    "/",
    "a/b",
    ".tmp",
    "ckpt.repo",
    "%s%n%s%n",
    "\\\\\\",
    "\x01\x02\x7f\xff\xfe",
    "\xc3\x28",
};

static void run_text(void)
{
    static char longest[40000];
    memset(longest, '"', sizeof(longest) - 1);
    for (unsigned i = 0; i < self->amount; i++) {
        for (size_t k = 0; k < ARRAY_COUNT(nasty); k++) {
            struct tc c;
            tc_init(&c, self->socket, nasty[k], "t", 0, 1);
            CHECK(tc_hello(&c, false) != CKPT_OK);
            close(c.fd);
            tc_init(&c, self->socket, "hostile", "t", 0, 1);
            snprintf(c.resume, sizeof(c.resume), "x%s", nasty[k]);
            CHECK(tc_hello(&c, false) != CKPT_OK);
            close(c.fd);
            /* As the reason for a failure, which goes into the log, a manifest and to others. */
            begin_to(&c, 2);
            struct wire_fail f = { .op = c.op, .status = CKPT_IO };
            numbered(&c, WIRE_FAIL, &f);
            CHECK(wire_tail(&out, k ? nasty[k] : longest, k ? strlen(nasty[k]) : sizeof(longest)));
            CHECK(say_out(c.fd) && hear(c.fd, WIRE_OP));
            tc_drop(&c);
            count(3);
        }
    }
}

/* -- memory ------------------------------------------------------------------------------------ */

static struct {
    uint8_t *base;
    uint64_t bytes;
    atomic_bool stop;
} scribble;

static void *scribbler(void *arg)
{
    unsigned long long at = 1;
    (void)arg;
    while (!atomic_load(&scribble.stop))
        for (int i = 0; i < 1000; i++) {
            volatile uint8_t *p = scribble.base + test_rand(&at) % scribble.bytes;
            *p = (uint8_t)at;
        }
    return NULL;
}

/* A save whose slots are handed over at once and never left alone; how it ended. */
static enum ckpt_status scribbled_save(struct tc *c)
{
    struct wire_save s = { .op = ++c->op, .step = c->op, .state = c->state };
    uint32_t sent = 0, slots = 0;
    numbered(c, WIRE_SAVE, &s);
    CHECK(say_out(c->fd));
    slots = (uint32_t)((ELEMENTS * 4 + TC_SLOT - 1) / TC_SLOT);
    for (;;) {
        CHECK(hear_any(c->fd));
        if (in.head.type == WIRE_GRANT) {
            struct wire_grant g;
            memcpy(&g, wire_body(&in), sizeof(g));
            struct wire_full f = {
                .op = c->op, .state = c->state, .arena_slot = g.arena_slot, .slot = sent++
            };
            f.flags = sent == slots ? WIRE_FULL_LAST : 0;
            numbered(c, WIRE_FULL, &f);
            CHECK(say_out(c->fd));
            count(1);
        }
        if (in.head.type == WIRE_OP) {
            struct wire_op o;
            memcpy(&o, wire_body(&in), sizeof(o));
            if (o.flags & WIRE_OP_FINAL)
                return o.status;
        }
    }
}

/* What it committed may well be damaged; verify says so, and the test looks. */
static void run_scribble(void)
{
    struct tc c;
    pthread_t thread;
    char token[64];
    snprintf(token, sizeof(token), "scribble-%llu", self->seed);
    tc_init(&c, self->socket, "scribble", token, 0, 1);
    CHECK_OK(tc_hello(&c, false));
    open_state(&c, NULL);
    scribble.base = c.arena;
    scribble.bytes = c.slots * TC_SLOT;
    atomic_store(&scribble.stop, false);
    CHECK_EQ(pthread_create(&thread, NULL, scribbler, NULL), 0);
    for (unsigned i = 0; i < self->amount; i++)
        CHECK_OK(scribbled_save(&c));
    atomic_store(&scribble.stop, true);
    pthread_join(thread, NULL);
    tc_drop(&c);
    /* The same slot handed over twice, one that is not granted, a part that there is not. */
    for (unsigned k = 0; k < 3; k++) {
        open_session(&c);
        open_state(&c, NULL);
        uint32_t slot = open_save(&c);
        struct wire_full f = { .op = c.op, .state = c.state, .arena_slot = slot };
        f.arena_slot += k == 1 ? 2 : 0;
        f.slot = k == 2 ? 999 : 0;
        for (int twice = 0; twice < 2; twice++) {
            numbered(&c, WIRE_FULL, &f);
            (void)say_out(c.fd); /* it may have been thrown out already */
        }
        CHECK(hear(c.fd, WIRE_REFUSED));
        hear_end(c.fd);
        c.fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
        tc_drop(&c);
        count(1);
    }
}

static void run_arena(void)
{
    for (unsigned i = 0; i < self->amount; i++) {
        struct tc c;
        int fd;
        open_session(&c);
        open_state(&c, &fd);
        off_t bytes = (off_t)(c.slots * TC_SLOT);
        uint32_t slot = open_save(&c);
        CHECK(ftruncate(fd, 0) < 0 && ftruncate(fd, bytes - 1) < 0 && ftruncate(fd, bytes + 1) < 0);
        CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) < 0);
        CHECK(fallocate(fd, 0, bytes, 4096) < 0);
        struct wire_full f = { .op = c.op, .state = c.state, .arena_slot = slot };
        numbered(&c, WIRE_FULL, &f);
        CHECK(say_out(c.fd));
        /* Pages may be taken out of it; whoever looks then finds zeros. */
        for (off_t at = 0; at < bytes; at += bytes / 8)
            CHECK_EQ(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, bytes / 8), 0);
        CHECK(read_over(c.fd));
        count(6);
        close(fd);
        tc_drop(&c);
    }
}

static void one_load(struct tc *c, unsigned how)
{
    struct wire_load l = { .op = ++c->op, .state = c->state, .flags = WIRE_LOAD_RESUME };
    numbered(c, WIRE_LOAD, &l);
    if (!say_out(c->fd) || how == 0 || !hear(c->fd, WIRE_FRAGS))
        return;
    struct wire_frags f;
    memcpy(&f, wire_body(&in), sizeof(f));
    struct wire_back b = { .op = f.op, .state = f.state, .arena_slot = f.arena_slot };
    b.arena_slot += how == 2 ? 1 : 0;
    b.op += how == 3 ? 1 : 0;
    b.state += how == 4 ? 1 : 0;
    for (unsigned n = 0; how > 1 && n < 3; n++) {
        numbered(c, WIRE_BACK, &b);
        if (!say_out(c->fd))
            return;
    }
    if (how > 1)
        (void)read_over(c->fd);
}

static void run_load(void)
{
    for (unsigned i = 0; i < self->amount; i++) {
        for (unsigned how = 0; how < 6; how++) {
            struct tc c;
            begin_to(&c, 1);
            one_load(&c, how);
            tc_drop(&c);
            count(1);
        }
    }
}

/* -- connections --------------------------------------------------------------------------------- */

static void run_connect(void)
{
    for (unsigned i = 0; i < self->amount; i++) {
        int fd = connect_once();
        if (i % 4 == 1)
            (void)say(fd, "CKP1", 4, NULL, 0);
        if (i % 4 == 2) {
            wire_begin(&out, WIRE_STATUS, NULL);
            (void)say_out(fd);
        }
        if (i % 4 == 3)
            shutdown(fd, SHUT_RDWR);
        close(fd);
        count(1);
    }
}

/* As many as there can be: the rest is turned away, and when they go there is room again. */
static void run_crowd(void)
{
    static struct pollfd p[CROWD];
    struct rlimit r = { CROWD + 100, CROWD + 100 };
    int held = 0, turned_away = 0;
    CHECK(getrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_max > CROWD + 50);
    r.rlim_cur = r.rlim_max;
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &r), 0);
    for (int i = 0; i < CROWD; i++)
        p[i] = (struct pollfd){ .fd = connect_once(), .events = POLLIN };
    for (int tries = 0; tries < 200 && turned_away == 0; tries++) {
        pause_ms(10);
        CHECK(poll(p, CROWD, 0) >= 0);
        for (int i = 0; i < CROWD; i++)
            turned_away += (p[i].revents & POLLHUP) != 0;
    }
    pause_ms(300); /* honest saves go on meanwhile */
    for (int i = 0; i < CROWD; i++) {
        held += !(p[i].revents & POLLHUP);
        close(p[i].fd);
    }
    CHECK(turned_away > 0 && held > 1000);
    count((unsigned)held);
    struct tc c;
    for (int tries = 0;; tries++) { /* the daemon sees their ends one by one */
        tc_init(&c, self->socket, "hostile", self->token, WORLD - 1, WORLD);
        if (tc_hello(&c, false) == CKPT_OK)
            break;
        CHECK(tries < 200);
        close(c.fd);
        pause_ms(20);
    }
    tc_bye(&c);
}

static void run_stall(void)
{
    for (unsigned i = 0; i < self->amount; i++) {
        struct tc c;
        int fd = connect_once();
        count(6);
        if (i % 3 == 0) { /* half-open: it will say nothing more, or read nothing more */
            say_hello(connect_once(), NULL, 1, 0);
            shutdown(fd, any(2) ? SHUT_WR : SHUT_RD);
        }
        tc_init(&c, self->socket, "hostile-alone", "nobody-else", i + 1, WORLD);
        struct wire_hello h = { .mode = WIRE_TRAIN, .rank = i + 1, .world = WORLD };
        h.arrival_ms = 500; /* rank 0 never comes */
        int pidfd = own_pidfd(), waiting = connect_once();
        memcpy(h.session, c.session, sizeof(h.session));
        wire_begin(&out, WIRE_HELLO, &h);
        CHECK(wire_tail_str(&out, c.job) && wire_tail_str(&out, c.token) &&
              wire_tail_str(&out, ""));
        out.head.fds = 1;
        CHECK(say(waiting, out.bytes, out.len, &pidfd, 1));
        close(pidfd);
        if (i % 2)
            shutdown(waiting, SHUT_WR);
        open_session(&c); /* one that never seals, one that never copies, one half copied */
        begin_to(&c, 2);
        begin_to(&c, 2);
        struct wire_full f = { .op = c.op, .state = c.state };
        numbered(&c, WIRE_FULL, &f);
        (void)say_out(c.fd);
    }
    pause_ms(1500); /* then they all end at once, by exit */
}

/* Asks and never reads the answers: the daemon must not collect them. */
static void run_deaf(void)
{
    for (unsigned i = 0; i < self->amount; i++) {
        int fd = connect_once();
        unsigned asked = 0;
        for (; asked < 3000; asked++) {
            wire_begin(&out, WIRE_STATUS, NULL);
            if (!say_out(fd))
                break;
        }
        CHECK(asked < 3000); /* it was dropped before that */
        count(asked);
        close(fd);
        struct tc c;
        open_session(&c);
        for (unsigned k = 0; k < 300; k++) { /* each is answered with a refusal */
            struct wire_load l = { .op = ++c.op, .state = 99 };
            numbered(&c, WIRE_LOAD, &l);
            if (!say_out(c.fd))
                break;
            count(1);
        }
        tc_drop(&c);
    }
}

/* The process that said HELLO is gone; its child has the socket. */
static void orphaned(int report)
{
    struct tc c;
    begin_to(&c, 2);
    if (fork() != 0)
        _exit(0);
    unsigned n = 0;
    for (; n < 2000; n++) {
        struct wire_full f = { .op = c.op, .state = c.state, .arena_slot = 0, .slot = 0 };
        numbered(&c, WIRE_FULL, &f);
        out.head.seq = n < 5 ? 1 : c.seq; /* repeats first: harmless as long as it lives */
        if (!say_out(c.fd))
            break;
        pause_ms(2);
    }
    CHECK_EQ(write(report, &n, sizeof(n)), (ssize_t)sizeof(n));
    _exit(0);
}

static void run_orphan(void)
{
    for (unsigned i = 0; i < self->amount; i++) {
        int p[2];
        unsigned said = 0;
        CHECK_EQ(pipe2(p, O_CLOEXEC), 0);
        fflush(NULL);
        pid_t pid = fork();
        if (pid == 0)
            orphaned(p[1]);
        close(p[1]);
        CHECK_EQ(waitpid(pid, NULL, 0), pid);
        CHECK_EQ(read(p[0], &said, sizeof(said)), (ssize_t)sizeof(said));
        CHECK(said < 2000); /* the daemon closed */
        close(p[0]);
        count(1);
    }
}

/* -- running -------------------------------------------------------------------------------------- */

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

void villain_run(const struct villain *v, enum villain_kind kind)
{
    static void (*const runs[VILLAIN_KINDS])(void) = {
        run_random,  run_mutant, run_order,    run_pidfd, run_body,
        run_lengths, run_text,   run_scribble, run_arena, run_load,
        run_connect, run_crowd,  run_stall,    run_deaf,  run_orphan,
    };
    self = v;
    rnd = v->seed * VILLAIN_KINDS + kind;
    make_body();
    runs[kind]();
    exit(0);
}
