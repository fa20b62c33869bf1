/* The raw client. */
#include "unit/daemon_client.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>

#include "check.h"
#include "pattern.h"

static struct wire_msg out, in;

struct elements {
    uint64_t step, from;
};

TEST_UNSEEN static void make_elements(void *to, uint64_t at, size_t n, const void *arg)
{
    const struct elements *e = arg;
    uint32_t *words = to;
    for (size_t i = 0; i < n / 4; i++) {
        uint64_t z = e->step * UINT64_C(0x9e3779b97f4a7c15) + e->from + at / 4 + i;
        z = (z ^ (z >> 31)) * UINT64_C(0xbf58476d1ce4e5b9);
        words[i] = (uint32_t)(z >> 32);
    }
}

bool tc_is(const uint32_t *at, uint64_t step, uint64_t from, uint64_t count)
{
    return pattern_is(at, 4 * count, make_elements, &(struct elements){ step, from });
}

static void note(const struct tc *c, char what)
{
    if (c->events >= 0)
        CHECK(write(c->events, &what, 1) == 1);
}

int tc_connect(const char *path)
{
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    memcpy(a.sun_path, path, strlen(path));
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    CHECK(fd >= 0);
    if (connect(fd, (const struct sockaddr *)&a, sizeof(a)) == 0)
        return fd;
    close(fd);
    return -1;
}

enum ckpt_status tc_recv(int fd, struct wire_msg *m, int timeout_ms)
{
    struct pollfd p = { .fd = fd, .events = POLLIN };
    struct ckpt_err err = { 0 };
    if (poll(&p, 1, timeout_ms) <= 0)
        return CKPT_TIMEOUT;
    return wire_recv(fd, m, &err);
}

void tc_init(struct tc *c, const char *path, const char *job, const char *token, uint32_t rank,
             uint32_t world)
{
    *c = (struct tc){ .rank = rank, .world = world, .mode = WIRE_TRAIN, .fd = -1, .events = -1 };
    snprintf(c->socket, sizeof(c->socket), "%s", path);
    snprintf(c->job, sizeof(c->job), "%s", job);
    snprintf(c->token, sizeof(c->token), "%s", token);
    CHECK(getrandom(c->session, 16, 0) == 16);
}

static void acked(struct tc *c, uint64_t ack)
{
    size_t to = 0;
    for (size_t i = 0; i < c->queued; i++) {
        if (c->queue[i].seq <= ack)
            continue;
        c->queue[to++] = c->queue[i];
    }
    c->queued = to;
    c->ack = ack > c->ack ? ack : c->ack;
}

static enum ckpt_status send_queued(struct tc *c, size_t i)
{
    memcpy(out.bytes, c->queue[i].bytes, c->queue[i].len);
    out.len = c->queue[i].len;
    out.fd_count = c->queue[i].fd >= 0;
    out.fds[0] = c->queue[i].fd;
    return wire_send(c->fd, &out, NULL);
}

enum ckpt_status tc_hello(struct tc *c, bool resumed)
{
    for (int i = 0; c->fd < 0 && i < 2400; i++) { /* for a minute */
        c->fd = tc_connect(c->socket);
        if (c->fd < 0)
            nanosleep(&(struct timespec){ .tv_nsec = 25000000 }, NULL);
    }
    CHECK(c->fd >= 0);
    struct wire_hello h = { .mode = c->mode,
                            .flags = c->flags | (resumed ? WIRE_HELLO_RESUMED : 0),
                            .pid = (uint32_t)getpid(),
                            .rank = c->rank,
                            .world = c->world,
                            .arrival_ms = c->arrival_ms ? c->arrival_ms : 20000 };
    memcpy(h.session, c->session, 16);
    wire_begin(&out, WIRE_HELLO, &h);
    CHECK(wire_tail_str(&out, c->job) && wire_tail_str(&out, c->token) &&
          wire_tail_str(&out, c->resume));
    int pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
    CHECK(pidfd >= 0);
    out.fds[out.fd_count++] = pidfd;
    enum ckpt_status st = wire_send(c->fd, &out, NULL);
    close(pidfd);
    if (st == CKPT_OK)
        st = tc_recv(c->fd, &in, 60000);
    if (st != CKPT_OK)
        return st;
    if (in.head.type == WIRE_REFUSED) {
        struct wire_refused r;
        memcpy(&r, wire_body(&in), sizeof(r));
        wire_text(&in, c->text, sizeof(c->text));
        return r.status;
    }
    CHECK_EQ(in.head.type, WIRE_HELLO_OK);
    struct wire_hello_ok ok;
    memcpy(&ok, wire_body(&in), sizeof(ok));
    c->epoch = ok.epoch;
    c->point = ok.point;
    c->ok_flags = ok.flags;
    CHECK_EQ(ok.slot_bytes, TC_SLOT);
    wire_text(&in, c->why, sizeof(c->why));
    acked(c, in.head.ack);
    return CKPT_OK;
}

/* The daemon's worker died: come back and repeat what it does not have. */
static void relink(struct tc *c)
{
    enum ckpt_status st;
    do {
        close(c->fd);
        c->fd = -1;
        st = tc_hello(c, true);
    } while (st == CKPT_DAEMON_GONE);
    if (st != CKPT_OK)
        fprintf(stderr, "relink: %s %s\n", status_name(st), c->text);
    CHECK_OK(st);
    c->relinks++;
    note(c, 'r');
    for (size_t i = 0; i < c->queued; i++)
        if (send_queued(c, i) != CKPT_OK)
            return; /* it died again: the next receive sees it */
}

static void send_numbered(struct tc *c, enum wire_type type, const void *body, int fd)
{
    CHECK(c->queued < TC_QUEUED);
    wire_begin(&out, type, body);
    out.head.seq = ++c->seq;
    out.head.fds = fd >= 0;
    c->queue[c->queued].seq = c->seq;
    c->queue[c->queued].len = out.len;
    c->queue[c->queued].fd = fd;
    CHECK(out.len <= sizeof(c->queue[0].bytes));
    memcpy(c->queue[c->queued].bytes, out.bytes, out.len);
    c->queued++;
    if (send_queued(c, c->queued - 1) != CKPT_OK)
        relink(c);
}

static void next_message(struct tc *c)
{
    for (;;) {
        enum ckpt_status st = tc_recv(c->fd, &in, 60000);
        if (st == CKPT_OK) {
            acked(c, in.head.ack);
            return;
        }
        if (st == CKPT_TIMEOUT)
            fprintf(stderr, "rank %u: the daemon says nothing\n", c->rank);
        CHECK(st == CKPT_DAEMON_GONE);
        relink(c);
    }
}

/* -- state ----------------------------------------------------------------- */

static void declare(struct tc *c, uint64_t elements)
{
    struct decl_tensor t = {
        .name = (char[]){ "w" }, .dtype = 6, .ndim = 1, .shape = { elements }
    };
    uint64_t each = elements / c->world, from = c->rank * each;
    struct decl_piece p = { .box = { .ndim = 1 }, .replica_count = 1 };
    p.box.off[0] = from;
    p.box.len[0] = c->rank + 1 == c->world ? elements - from : each;
    p.stride[0] = 1;
    c->elements = elements;
    CHECK_OK(decl_add_tensor(&c->decl, &t, &c->err));
    if (p.box.len[0] > 0)
        CHECK_OK(decl_add_piece(&c->decl, &p, &c->err));
    CHECK_OK(decl_finish(&c->decl, TC_SLOT, &c->err));
}

enum ckpt_status tc_state(struct tc *c, uint64_t elements, uint64_t arena_bytes)
{
    struct buf b = { 0 };
    declare(c, elements);
    decl_encode(&c->decl, &b);
    CHECK(!b.failed);
    int fd = wire_memfd("decl", b.data, b.len, &c->err);
    CHECK(fd >= 0);
    c->state = 1;
    struct wire_state s = {
        .state = 1, .numa = c->numa, .decl_bytes = b.len, .arena_bytes = arena_bytes
    };
    send_numbered(c, WIRE_STATE, &s, fd);
    buf_fini(&b);
    for (;;) {
        next_message(c);
        if (in.head.type == WIRE_REFUSED) {
            struct wire_refused r;
            memcpy(&r, wire_body(&in), sizeof(r));
            wire_text(&in, c->text, sizeof(c->text));
            return r.status;
        }
        if (in.head.type == WIRE_STATE_OK)
            break;
    }
    struct wire_state_ok ok;
    memcpy(&ok, wire_body(&in), sizeof(ok));
    c->slots = ok.slots;
    struct stat st;
    CHECK_EQ(fstat(in.fds[0], &st), 0);
    CHECK_EQ(st.st_size, (long long)ok.slots * (long long)TC_SLOT);
    CHECK_EQ(fcntl(in.fds[0], F_GET_SEALS), F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
    c->arena = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, in.fds[0], 0);
    CHECK(c->arena != MAP_FAILED);
    wire_close_fds(&in);
    return CKPT_OK;
}

/* -- save -------------------------------------------------------------------- */

static void fill(struct tc *c, uint32_t slot, uint32_t image_slot, uint64_t step)
{
    struct decl_walk w = decl_walk_slot(&c->decl, image_slot);
    struct decl_tile t;
    while (decl_walk_next(&w, &t)) {
        pattern_fill(c->arena + slot * TC_SLOT + t.place.offset, 4 * t.box.len[0], make_elements,
                     &(struct elements){ step, t.box.off[0] });
    }
}

/* The next op message; FULL for each grant on the way. */
struct copying {
    uint64_t op, step;
    uint32_t sent, die_after;
    uint32_t by_slot[64]; /* which part went into which slot: a grant may come twice */
    uint64_t filled[64];  /* seq of the FULL */
};

static void on_grant(struct tc *c, struct copying *w)
{
    struct wire_grant g;
    memcpy(&g, wire_body(&in), sizeof(g));
    if (g.op != w->op)
        return;
    for (size_t i = 0; i < c->queued; i++) { /* handed over already, only not seen */
        struct wire_head head;
        struct wire_full old;
        memcpy(&head, c->queue[i].bytes, sizeof(head));
        memcpy(&old, c->queue[i].bytes + sizeof(head), sizeof(old));
        if (head.type == WIRE_FULL && old.op == g.op && old.arena_slot == g.arena_slot)
            return;
    }
    CHECK(w->sent < c->decl.slot_count);
    if (w->sent == w->die_after)
        kill(getpid(), SIGKILL);
    fill(c, g.arena_slot, w->sent, w->step);
    struct wire_full full = { .op = w->op,
                              .state = c->state,
                              .arena_slot = g.arena_slot,
                              .slot = w->sent,
                              .flags = w->sent + 1 == c->decl.slot_count ? WIRE_FULL_LAST : 0 };
    full.flags |= c->full_flags;
    w->sent++;
    send_numbered(c, WIRE_FULL, &full, -1);
    note(c, 'f');
}

static enum ckpt_status drive(struct tc *c, struct copying *w, uint32_t level)
{
    bool empty_sent = false;
    for (;;) {
        next_message(c);
        if (in.head.type == WIRE_GRANT)
            on_grant(c, w);
        if (in.head.type != WIRE_OP)
            continue;
        struct wire_op o;
        memcpy(&o, wire_body(&in), sizeof(o));
        if (o.op != w->op)
            continue;
        if (o.status != CKPT_OK) {
            CHECK(o.flags & WIRE_OP_FINAL);
            wire_text(&in, c->text, sizeof(c->text));
            CHECK(c->text[0]);
            note(c, 'x');
            return o.status;
        }
        note(c, (char)('0' + o.level));
        if (o.level == WIRE_LEVEL_NONE && c->decl.slot_count == 0 && !empty_sent) {
            struct wire_full full = {
                .op = w->op, .state = c->state, .arena_slot = UINT32_MAX, .flags = WIRE_FULL_LAST
            };
            empty_sent = true;
            send_numbered(c, WIRE_FULL, &full, -1);
        }
        if (o.level >= level || (o.flags & WIRE_OP_FINAL))
            return CKPT_OK;
    }
}

enum ckpt_status tc_save(struct tc *c, uint64_t step, uint32_t try_, uint32_t level,
                         uint32_t die_after)
{
    struct copying w = { .op = ++c->op, .step = step, .die_after = die_after };
    struct wire_save s = {
        .op = w.op, .step = step, .state = c->state, .try_ = try_, .time_ns = 1234
    };
    send_numbered(c, WIRE_SAVE, &s, -1);
    note(c, 's');
    return drive(c, &w, level);
}

enum ckpt_status tc_wait_final(struct tc *c, uint64_t op)
{
    struct copying w = { .op = op };
    return drive(c, &w, 99);
}

/* -- load -------------------------------------------------------------------- */

static uint64_t take_frags(struct tc *c, uint64_t step, uint8_t *seen)
{
    struct wire_frags f;
    size_t len;
    uint64_t got = 0;
    memcpy(&f, wire_body(&in), sizeof(f));
    const uint8_t *tail = wire_tail_of(&in, &len);
    uint64_t first = c->decl.pieces[0].box.off[0];
    CHECK_EQ(len, f.count * (sizeof(struct wire_frag) + 16));
    for (uint32_t i = 0; i < f.count; i++) {
        struct wire_frag frag;
        uint64_t dims[2];
        memcpy(&frag, tail, sizeof(frag));
        memcpy(dims, tail + sizeof(frag), sizeof(dims));
        tail += sizeof(frag) + sizeof(dims);
        CHECK(frag.ndim == 1 && frag.tensor == 0 && frag.piece == 0);
        const uint32_t *from = (void *)(c->arena + f.arena_slot * TC_SLOT + frag.offset);
        CHECK(tc_is(from, step, dims[0], dims[1]));
        CHECK(!memchr(seen + dims[0] - first, 1, dims[1]));
        memset(seen + dims[0] - first, 1, dims[1]);
        got += dims[1];
    }
    return got;
}

void tc_ask(struct tc *c, const struct wire_name *point, uint32_t flags)
{
    struct wire_load l = { .op = ++c->op, .state = c->state, .flags = flags };
    if (point)
        l.point = *point;
    else
        l.flags |= WIRE_LOAD_RESUME;
    send_numbered(c, WIRE_LOAD, &l, -1);
    note(c, 'l');
}

enum ckpt_status tc_load(struct tc *c, const struct wire_name *point, uint64_t step, uint32_t flags)
{
    tc_ask(c, point, flags);
    uint64_t op = c->op, got = 0, want = c->decl.piece_count ? c->decl.pieces[0].box.len[0] : 0;
    uint8_t *seen = calloc(want + 1, 1);
    enum ckpt_status st = CKPT_OK;
    for (;;) {
        struct wire_op o;
        next_message(c);
        if (in.head.type == WIRE_FRAGS) {
            struct wire_frags f;
            memcpy(&f, wire_body(&in), sizeof(f));
            if (f.op != op)
                continue;
            got += take_frags(c, step, seen);
            struct wire_back b = { .op = op, .state = f.state, .arena_slot = f.arena_slot };
            if (!(f.flags & WIRE_FRAGS_MORE))
                send_numbered(c, WIRE_BACK, &b, -1);
            note(c, 'g');
        }
        if (in.head.type != WIRE_OP)
            continue;
        memcpy(&o, wire_body(&in), sizeof(o));
        if (o.op != op)
            continue;
        CHECK(o.flags & WIRE_OP_FINAL);
        st = o.status;
        c->unasked = o.unasked;
        if (st == CKPT_OK)
            CHECK_EQ(got, want);
        if (flags & WIRE_LOAD_ROLLBACK && st == CKPT_OK)
            c->epoch = o.name.epoch;
        wire_text(&in, c->text, sizeof(c->text));
        break;
    }
    free(seen);
    if (st == CKPT_DAEMON_GONE) /* a restore is not resumed: it is asked for again */
        return tc_load(c, point, step, flags);
    return st;
}

void tc_bye(struct tc *c)
{
    wire_begin(&out, WIRE_BYE, NULL);
    (void)!wire_send(c->fd, &out, NULL);
    tc_drop(c);
}

void tc_drop(struct tc *c)
{
    close(c->fd);
    c->fd = -1;
    if (c->arena)
        munmap(c->arena, c->slots * TC_SLOT);
    decl_fini(&c->decl);
}

bool tc_raw(struct tc *c, const void *bytes, size_t len)
{
    return send(c->fd, bytes, len, MSG_NOSIGNAL) == (ssize_t)len;
}
