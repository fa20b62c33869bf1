/* Hostile clients that send descriptors of the wrong kind or size, and those that misuse the
 * memory they share with the daemon. */
#include <fcntl.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "e2e/villain_kit.h"

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

/* Not one byte, but descriptors. */
static void empty_messages(const int *fds)
{
    static const size_t counts[] = { 1, WIRE_FDS_MAX, FDS_MANY };
    for (size_t i = 0; i < ARRAY_COUNT(counts); i++) {
        int fd = vk_connect();
        CHECK(vk_say(fd, "", 0, fds, counts[i]));
        vk_hear_end(fd);
        vk_count(1);
    }
}

void run_pidfd(void)
{
    int many[FDS_MANY];
    for (unsigned i = 0; i < FDS_MANY; i++)
        many[i] = vk_own_pidfd();
    for (unsigned i = 0; i < vk_self->amount; i++) {
        for (unsigned k = 0; k < WRONG_FDS; k++) {
            int fd = vk_connect(), wrong = wrong_fd(k, fd);
            vk_say_hello(fd, &wrong, 1, 1);
            close(wrong);
        }
        int parent = (int)syscall(SYS_pidfd_open, getppid(), 0), dead = dead_pidfd();
        vk_say_hello(vk_connect(), &parent, 1, 1);
        vk_say_hello(vk_connect(), &dead, 1, 1);
        vk_say_hello(vk_connect(), NULL, 0, 0);
        vk_say_hello(vk_connect(), NULL, 1, 0);
        vk_say_hello(vk_connect(), many, 0, 1);
        vk_say_hello(vk_connect(), many, 2, 2);
        vk_say_hello(vk_connect(), many, 3, 3);
        vk_say_hello(vk_connect(), many, 1, FDS_MANY);
        empty_messages(many);
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
    CHECK_EQ(write(fd, vk_body.data, vk_body.len), (ssize_t)vk_body.len);
    if (seals)
        CHECK_EQ(fcntl(fd, F_ADD_SEALS, seals), 0);
    return fd;
}

/* Every one of them is refused, and the session lives. */
static void refused(struct tc *c, int fd, uint64_t bytes)
{
    CHECK_EQ(vk_ask_state(c, fd, bytes), WIRE_REFUSED);
    vk_count(1);
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
        refused(c, fd, vk_body.len);
        if (!(seals[i] & F_SEAL_SHRINK))
            CHECK_EQ(ftruncate(fd, 0), 0); /* nobody may have it mapped by now */
        close(fd);
    }
    const int all = F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK;
    const uint64_t sizes[] = {
        1, vk_body.len - 1, vk_body.len + 1, vk_body.len + 4096, 2 * vk_body.len, 1 << 20, 1 << 30
    };
    for (size_t i = 0; i < ARRAY_COUNT(sizes); i++) {
        int fd = body_fd(all);
        refused(c, fd, sizes[i]);
        close(fd);
    }
    for (unsigned k = 0; k < WRONG_FDS; k++) {
        int fd = wrong_fd(k, c->fd);
        refused(c, fd, vk_body.len);
        close(fd);
    }
    int empty = wire_memfd("decl", "", 0, NULL);
    refused(c, empty, vk_body.len);
    close(empty);
}

/* Cut while the daemon may be looking at it. */
static void shrinking_body(struct tc *c)
{
    int fd = body_fd(0);
    struct wire_state s = { .state = ++c->state, .decl_bytes = vk_body.len };
    vk_numbered(c, WIRE_STATE, &s);
    vk_out.head.fds = 1;
    CHECK(vk_say(c->fd, vk_out.bytes, vk_out.len, &fd, 1));
    for (int i = 0; i < 20; i++)
        CHECK(ftruncate(fd, i % 2 ? (off_t)vk_body.len : 0) == 0);
    CHECK(vk_hear(c->fd, WIRE_REFUSED));
    close(fd);
    vk_count(1);
}

/* Bodies that are sealed well and say nonsense. */
static void nonsense_body(struct tc *c)
{
    uint8_t *copy = malloc(vk_body.len);
    CHECK(copy != NULL);
    memcpy(copy, vk_body.data, vk_body.len);
    for (uint64_t k = vk_any(4) + 1; k > 0; k--)
        copy[vk_any(vk_body.len)] ^= (uint8_t)(1 << vk_any(8));
    if (vk_any(2) && vk_body.len > sizeof(struct digest)) {
        struct digest d = digest_of(copy, vk_body.len - sizeof(d));
        memcpy(copy + vk_body.len - sizeof(d), &d, sizeof(d));
    }
    int fd = wire_memfd("decl", copy, vk_body.len, NULL);
    (void)vk_ask_state(c, fd, vk_body.len); /* some still make sense */
    wire_close_fds(&vk_in);
    close(fd);
    free(copy);
    vk_count(1);
}

void run_body(void)
{
    for (unsigned i = 0; i < vk_self->amount; i++) {
        struct tc c;
        vk_open_session(&c);
        bad_bodies(&c);
        for (unsigned k = 0; k < 4; k++)
            shrinking_body(&c);
        vk_open_state(&c, NULL); /* after all that a right one is served */
        tc_drop(&c);
        vk_open_session(&c);
        for (unsigned k = 0; k < 8; k++)
            nonsense_body(&c);
        tc_drop(&c);
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
    vk_numbered(c, WIRE_SAVE, &s);
    CHECK(vk_say_out(c->fd));
    slots = (uint32_t)((ELEMENTS * 4 + TC_SLOT - 1) / TC_SLOT);
    for (;;) {
        CHECK(vk_hear_any(c->fd));
        if (vk_in.head.type == WIRE_GRANT) {
            struct wire_grant g;
            memcpy(&g, wire_body(&vk_in), sizeof(g));
            struct wire_full f = {
                .op = c->op, .state = c->state, .arena_slot = g.arena_slot, .slot = sent++
            };
            f.flags = sent == slots ? WIRE_FULL_LAST : 0;
            vk_numbered(c, WIRE_FULL, &f);
            CHECK(vk_say_out(c->fd));
            vk_count(1);
        }
        if (vk_in.head.type == WIRE_OP) {
            struct wire_op o;
            memcpy(&o, wire_body(&vk_in), sizeof(o));
            if (o.flags & WIRE_OP_FINAL)
                return o.status;
        }
    }
}

/* What it committed may well be damaged; verify says so, and the test looks. */
void run_scribble(void)
{
    struct tc c;
    pthread_t thread;
    char token[64];
    snprintf(token, sizeof(token), "scribble-%llu", vk_self->seed);
    tc_init(&c, vk_self->socket, "scribble", token, 0, 1);
    CHECK_OK(tc_hello(&c, false));
    vk_open_state(&c, NULL);
    scribble.base = c.arena;
    scribble.bytes = c.slots * TC_SLOT;
    atomic_store(&scribble.stop, false);
    CHECK_EQ(pthread_create(&thread, NULL, scribbler, NULL), 0);
    for (unsigned i = 0; i < vk_self->amount; i++)
        CHECK_OK(scribbled_save(&c));
    atomic_store(&scribble.stop, true);
    pthread_join(thread, NULL);
    tc_drop(&c);
    /* The same slot handed over twice, a part that came before, one that there is not. */
    for (unsigned k = 0; k < 3; k++) {
        vk_open_session(&c);
        vk_open_state(&c, NULL);
        uint32_t slot = vk_open_save(&c); /* the first of three, which are all granted */
        struct wire_full f = { .op = c.op, .state = c.state, .arena_slot = slot };
        f.slot = k == 2 ? 999 : 0;
        for (unsigned twice = 0; twice < 2; twice++) {
            vk_numbered(&c, WIRE_FULL, &f);
            (void)vk_say_out(c.fd); /* it may have been thrown out already */
            f.arena_slot += k == 1;
            f.slot += k == 0;
        }
        CHECK(vk_hear(c.fd, WIRE_REFUSED));
        vk_hear_end(c.fd);
        c.fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
        tc_drop(&c);
        vk_count(1);
    }
}

void run_arena(void)
{
    for (unsigned i = 0; i < vk_self->amount; i++) {
        struct tc c;
        int fd;
        vk_open_session(&c);
        vk_open_state(&c, &fd);
        off_t bytes = (off_t)(c.slots * TC_SLOT);
        uint32_t slot = vk_open_save(&c);
        CHECK(ftruncate(fd, 0) < 0 && ftruncate(fd, bytes - 1) < 0 && ftruncate(fd, bytes + 1) < 0);
        CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) < 0);
        CHECK(fallocate(fd, 0, bytes, 4096) < 0);
        struct wire_full f = { .op = c.op, .state = c.state, .arena_slot = slot };
        vk_numbered(&c, WIRE_FULL, &f);
        CHECK(vk_say_out(c.fd));
        /* Pages may be taken out of it; whoever looks then finds zeros. */
        for (off_t at = 0; at < bytes; at += bytes / 8)
            CHECK_EQ(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, bytes / 8), 0);
        CHECK(vk_read_over(c.fd));
        vk_count(6);
        close(fd);
        tc_drop(&c);
    }
}

enum { PART_RIGHT, PART_NO_FD, PART_NO_BYTES, PART_NONSENSE, PART_OPEN, PART_LONGER, PART_KINDS };

/* A restore of a part that is none: at most that restore fails. */
static void one_part(struct tc *c, unsigned how)
{
    char nonsense[4000];
    struct ckpt_err err = { 0 };
    memset(nonsense, 0x5a, sizeof(nonsense));
    struct wire_load l = { .op = ++c->op, .state = c->state, .flags = WIRE_LOAD_RESUME };
    l.part_bytes = how == PART_NO_BYTES ? 0 : how == PART_LONGER ? vk_body.len + 1 : vk_body.len;
    int fd = wire_memfd("part", vk_body.data, vk_body.len, &err);
    if (how == PART_NONSENSE || how == PART_OPEN) {
        close(fd);
        l.part_bytes = sizeof(nonsense);
        fd = how == PART_OPEN ? memfd_create("part", MFD_CLOEXEC)
                              : wire_memfd("part", nonsense, sizeof(nonsense), &err);
        CHECK(how == PART_NONSENSE || ftruncate(fd, sizeof(nonsense)) == 0);
    }
    CHECK(fd >= 0);
    vk_numbered(c, WIRE_LOAD, &l);
    vk_out.head.fds = vk_out.fd_count = how != PART_NO_FD;
    vk_out.fds[0] = fd;
    bool said = vk_say(c->fd, vk_out.bytes, vk_out.len, &fd, vk_out.fd_count);
    close(fd);
    if (said && how == PART_RIGHT)
        CHECK(vk_hear(c->fd, WIRE_FRAGS));
    else if (said && how != PART_NO_FD && how != PART_NO_BYTES)
        CHECK(vk_hear(c->fd, WIRE_OP) && ((const struct wire_op *)wire_body(&vk_in))->status);
    else if (said)
        CHECK(!vk_hear(c->fd, WIRE_FRAGS)); /* it closes */
}

static void one_load(struct tc *c, unsigned how)
{
    struct wire_load l = { .op = ++c->op, .state = c->state, .flags = WIRE_LOAD_RESUME };
    vk_numbered(c, WIRE_LOAD, &l);
    if (!vk_say_out(c->fd) || how == 0 || !vk_hear(c->fd, WIRE_FRAGS))
        return;
    struct wire_frags f;
    memcpy(&f, wire_body(&vk_in), sizeof(f));
    struct wire_back b = { .op = f.op, .state = f.state, .arena_slot = f.arena_slot };
    b.arena_slot += how == 2 ? 1 : 0;
    b.op += how == 3 ? 1 : 0;
    b.state += how == 4 ? 1 : 0;
    for (unsigned n = 0; how > 1 && n < 3; n++) {
        vk_numbered(c, WIRE_BACK, &b);
        if (!vk_say_out(c->fd))
            return;
    }
    if (how > 1)
        (void)vk_read_over(c->fd);
}

void run_load(void)
{
    for (unsigned i = 0; i < vk_self->amount; i++) {
        for (unsigned how = 0; how < 6 + PART_KINDS; how++) {
            struct tc c;
            vk_begin_to(&c, 1);
            if (how < 6)
                one_load(&c, how);
            else
                one_part(&c, how - 6);
            tc_drop(&c);
            vk_count(1);
        }
    }
}
