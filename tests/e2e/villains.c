/* The kinds of hostile clients; here those that send wrong bytes.  What must be answered in
 * a certain way is checked where it is sent; what they do to others, by the test. */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "e2e/villain_kit.h"

const char *const villain_names[VILLAIN_KINDS] = {
    "random", "mutant", "order",   "pidfd", "body",  "lengths", "text",   "scribble",
    "arena",  "load",   "connect", "crowd", "stall", "deaf",    "orphan",
};

/* -- bytes ------------------------------------------------------------------------------ */

static const uint16_t from_clients[] = {
    WIRE_HELLO,  WIRE_STATE, WIRE_SAVE,     WIRE_FULL,     WIRE_FAIL,   WIRE_LOAD, WIRE_BACK,
    WIRE_CANCEL, WIRE_BYE,   WIRE_RESTORED, WIRE_PROGRESS, WIRE_STATUS, WIRE_LIST,
};

static void run_random(void)
{
    static uint8_t bytes[96 << 10];
    for (unsigned i = 0; i < vk_self->amount; i++) {
        int fd = vk_connect();
        for (uint64_t k = vk_any(6) + 1; k > 0; k--) {
            static const uint32_t limits[] = { 32, 33, 300, 65536, 70000 };
            size_t len = vk_any(limits[vk_any(ARRAY_COUNT(limits))]) + 1;
            for (size_t b = 0; b < len; b++)
                bytes[b] = (uint8_t)test_rand(&vk_rnd);
            if (vk_any(2)) {
                struct wire_head h = { .magic = WIRE_MAGIC, .version = WIRE_VERSION };
                h.type = vk_any(4) ? from_clients[vk_any(ARRAY_COUNT(from_clients))]
                                   : (uint16_t)vk_any(80);
                h.bytes = (uint32_t)len;
                memcpy(bytes, &h, len < sizeof(h) ? len : sizeof(h));
            }
            if (!vk_say(fd, bytes, len, &fd, vk_any(3) == 0))
                break;
            vk_count(1);
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
        struct wire_list list;
        struct wire_back back;
        struct wire_fail fail;
    } b = { { 0 } };
    switch (type) {
    case WIRE_HELLO:
        b.hello = (struct wire_hello){ .mode = 1, .rank = 5, .world = WORLD };
        break;
    case WIRE_STATE:
        b.state = (struct wire_state){ .state = c->state + 1, .decl_bytes = vk_body.len };
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
    case WIRE_LIST:
        b.list = (struct wire_list){ .token = c->op, .flags = WIRE_LIST_RESUME };
        break;
    default:
        b.fail = (struct wire_fail){ .op = c->op, .status = CKPT_IO };
        break;
    }
    vk_numbered(c, type, b.bytes);
    if (type == WIRE_HELLO)
        CHECK(wire_tail_str(&vk_out, "hostile") && wire_tail_str(&vk_out, vk_self->token) &&
              wire_tail_str(&vk_out, ""));
    if ((type == WIRE_LOAD || type == WIRE_LIST) && vk_any(2))
        CHECK(wire_tail(&vk_out, "\1\2\0*x\3\1\0a\1\0b", 12));
    if (type == WIRE_SAVE)
        CHECK(wire_tail_str(&vk_out, "loss") && wire_tail(&vk_out, b.bytes, 8));
}

static void mutate(void)
{
    static const uint32_t edges[] = { 0, 1, 2, 0x7fffffff, 0x80000000, 0xffffffff, 16384, 4096 };
    for (uint64_t k = vk_any(3) + 1; k > 0; k--) {
        uint32_t at = (uint32_t)vk_any(vk_out.len);
        if (vk_any(2))
            vk_out.bytes[at] ^= (uint8_t)(1 << vk_any(8));
        else if (at + 4 <= vk_out.len)
            memcpy(vk_out.bytes + at, &edges[vk_any(ARRAY_COUNT(edges))], 4);
    }
    if (vk_any(4) == 0)
        vk_out.len = (uint32_t)vk_any(vk_out.len) + 1;
    if (vk_any(4) == 0)
        vk_out.len += (uint32_t)vk_any(200);
    if (vk_any(2))
        vk_out.head.bytes = vk_out.len;
}

static void run_mutant(void)
{
    for (unsigned i = 0; i < vk_self->amount; i++) {
        struct tc c;
        int fd = wire_memfd("decl", vk_body.data, vk_body.len, NULL);
        vk_begin_to(&c, i % 3);
        for (unsigned k = 0; k < 8; k++) {
            right_message(&c, from_clients[vk_any(ARRAY_COUNT(from_clients))]);
            vk_out.head.fds = vk_out.head.type == WIRE_STATE || vk_out.head.type == WIRE_HELLO;
            uint32_t fds = vk_out.head.fds;
            mutate();
            if (!vk_say(c.fd, vk_out.bytes, vk_out.len, &fd, fds) || !vk_read_over(c.fd))
                break;
            vk_count(1);
        }
        close(fd);
        tc_drop(&c);
    }
}

static void run_order(void)
{
    for (unsigned i = 0; i < vk_self->amount; i++) {
        struct tc c;
        vk_begin_to(&c, i % 3);
        for (unsigned k = 0; k < 8; k++) {
            uint8_t fixed[64];
            for (size_t b = 0; b < sizeof(fixed); b++)
                fixed[b] = (uint8_t)(vk_any(4) || b % 4 ? 0 : vk_any(4));
            vk_numbered(&c, from_clients[1 + vk_any(ARRAY_COUNT(from_clients) - 1)], fixed);
            if (vk_any(8) == 0)
                vk_out.head.seq = vk_any(2) ? vk_any(4) : test_rand(&vk_rnd);
            if (vk_out.head.type == WIRE_STATE) { /* what comes with it is for other kinds */
                c.seq--;
                continue;
            }
            if (!vk_say_out(c.fd) || !vk_read_over(c.fd))
                break;
            vk_count(1);
        }
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
        vk_numbered(c, WIRE_SAVE, &s);
        CHECK(wire_tail(&vk_out, name, sizeof(name)));
    } else if (which < 9) {
        vk_numbered(c, WIRE_SAVE, &s);
        CHECK(wire_tail(&vk_out, name, which - 5)); /* more than it says */
    } else if (which < 12) {
        static const uint32_t slots[] = { 0x7fffffff, UINT32_MAX - 1, 4096 };
        full.arena_slot = slots[which - 9];
        vk_numbered(c, WIRE_FULL, &full);
    } else {
        vk_numbered(c, WIRE_FULL, &full);
        vk_out.head.bytes += (uint32_t)vk_any(2) ? 1 : 0x10000;
    }
}
#define LENGTHS 13

static void run_lengths(void)
{
    for (unsigned i = 0; i < vk_self->amount; i++) {
        for (unsigned k = 0; k < LENGTHS; k++) {
            struct tc c;
            vk_begin_to(&c, 2);
            one_length(&c, k);
            if (vk_say_out(c.fd))
                CHECK(vk_hear(c.fd, WIRE_REFUSED));
            vk_hear_end(c.fd);
            c.fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
            tc_drop(&c);
            vk_count(1);
        }
        /* Names in HELLO that are longer than what follows, or than anything may be. */
        static const uint16_t said[] = { 0, 1, 200, 300, 0xffff };
        for (size_t k = 0; k < ARRAY_COUNT(said); k++) {
            struct wire_hello h = { .mode = WIRE_TRAIN, .rank = 6, .world = WORLD };
            const uint8_t len[2] = { (uint8_t)said[k], (uint8_t)(said[k] >> 8) };
            int fd = vk_connect(), pidfd = vk_own_pidfd();
            wire_begin(&vk_out, WIRE_HELLO, &h);
            CHECK(wire_tail(&vk_out, len, 2));
            CHECK(wire_tail(&vk_out, villain_names, 8));
            vk_out.head.fds = 1;
            CHECK(vk_say(fd, vk_out.bytes, vk_out.len, &pidfd, 1) && vk_hear(fd, WIRE_REFUSED));
            vk_hear_end(fd);
            close(pidfd);
            vk_count(1);
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
    for (unsigned i = 0; i < vk_self->amount; i++) {
        for (size_t k = 0; k < ARRAY_COUNT(nasty); k++) {
            struct tc c;
            tc_init(&c, vk_self->socket, nasty[k], "t", 0, 1);
            CHECK(tc_hello(&c, false) != CKPT_OK);
            close(c.fd);
            tc_init(&c, vk_self->socket, "hostile", "t", 0, 1);
            snprintf(c.resume, sizeof(c.resume), "x%s", nasty[k]);
            CHECK(tc_hello(&c, false) != CKPT_OK);
            close(c.fd);
            /* As the reason for a failure, which goes into the log, a manifest and to others. */
            vk_begin_to(&c, 2);
            struct wire_fail f = { .op = c.op, .status = CKPT_IO };
            vk_numbered(&c, WIRE_FAIL, &f);
            CHECK(
                wire_tail(&vk_out, k ? nasty[k] : longest, k ? strlen(nasty[k]) : sizeof(longest)));
            CHECK(vk_say_out(c.fd) && vk_hear(c.fd, WIRE_OP));
            tc_drop(&c);
            vk_count(3);
        }
    }
}

/* -- running -------------------------------------------------------------------------------------- */

void villain_run(const struct villain *v, enum villain_kind kind)
{
    static void (*const runs[VILLAIN_KINDS])(void) = {
        run_random,  run_mutant, run_order,    run_pidfd, run_body,
        run_lengths, run_text,   run_scribble, run_arena, run_load,
        run_connect, run_crowd,  run_stall,    run_deaf,  run_orphan,
    };
    vk_begin(v, v->seed * VILLAIN_KINDS + kind);
    runs[kind]();
    exit(0);
}
