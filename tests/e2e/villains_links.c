/* Hostile clients that connect and do not behave: too many, silent, deaf, or orphaned. */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "e2e/villain_kit.h"

#define CROWD 2400

/* -- connections --------------------------------------------------------------------------------- */

void run_connect(void)
{
    for (unsigned i = 0; i < vk_self->amount; i++) {
        int fd = vk_connect();
        if (i % 4 == 1)
            (void)vk_say(fd, "CKP1", 4, NULL, 0);
        if (i % 4 == 2) {
            wire_begin(&vk_out, WIRE_STATUS, NULL);
            (void)vk_say_out(fd);
        }
        if (i % 4 == 3)
            shutdown(fd, SHUT_RDWR);
        close(fd);
        vk_count(1);
    }
}

/* As many as there can be: the rest is turned away, and when they go there is room again. */
void run_crowd(void)
{
    static struct pollfd p[CROWD];
    struct rlimit r = { CROWD + 100, CROWD + 100 };
    int held = 0, turned_away = 0;
    CHECK(getrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_max > CROWD + 50);
    r.rlim_cur = r.rlim_max;
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &r), 0);
    for (int i = 0; i < CROWD; i++)
        p[i] = (struct pollfd){ .fd = vk_connect(), .events = POLLIN };
    for (int tries = 0; tries < 200 && turned_away == 0; tries++) {
        vk_pause_ms(10);
        CHECK(poll(p, CROWD, 0) >= 0);
        for (int i = 0; i < CROWD; i++)
            turned_away += (p[i].revents & POLLHUP) != 0;
    }
    vk_pause_ms(300); /* honest saves go on meanwhile */
    for (int i = 0; i < CROWD; i++) {
        held += !(p[i].revents & POLLHUP);
        close(p[i].fd);
    }
    CHECK(turned_away > 0 && held > 1000);
    vk_count((unsigned)held);
    struct tc c;
    for (int tries = 0;; tries++) { /* the daemon sees their ends one by one */
        tc_init(&c, vk_self->socket, "hostile", vk_self->token, WORLD - 1, WORLD);
        if (tc_hello(&c, false) == CKPT_OK)
            break;
        CHECK(tries < 200);
        close(c.fd);
        vk_pause_ms(20);
    }
    tc_bye(&c);
}

void run_stall(void)
{
    for (unsigned i = 0; i < vk_self->amount; i++) {
        struct tc c;
        int fd = vk_connect();
        vk_count(6);
        if (i % 3 == 0) { /* half-open: it will say nothing more, or read nothing more */
            vk_say_hello(vk_connect(), NULL, 1, 0);
            shutdown(fd, vk_any(2) ? SHUT_WR : SHUT_RD);
        }
        tc_init(&c, vk_self->socket, "hostile-alone", "nobody-else", i + 1, WORLD);
        struct wire_hello h = { .mode = WIRE_TRAIN, .rank = i + 1, .world = WORLD };
        h.arrival_ms = 500; /* rank 0 never comes */
        int pidfd = vk_own_pidfd(), waiting = vk_connect();
        memcpy(h.session, c.session, sizeof(h.session));
        wire_begin(&vk_out, WIRE_HELLO, &h);
        CHECK(wire_tail_str(&vk_out, c.job) && wire_tail_str(&vk_out, c.token) &&
              wire_tail_str(&vk_out, ""));
        vk_out.head.fds = 1;
        CHECK(vk_say(waiting, vk_out.bytes, vk_out.len, &pidfd, 1));
        close(pidfd);
        if (i % 2)
            shutdown(waiting, SHUT_WR);
        vk_open_session(&c); /* one that never seals, one that never copies, one half copied */
        vk_begin_to(&c, 2);
        vk_begin_to(&c, 2);
        struct wire_full f = { .op = c.op, .state = c.state };
        vk_numbered(&c, WIRE_FULL, &f);
        (void)vk_say_out(c.fd);
    }
    vk_pause_ms(1500); /* then they all end at once, by exit */
}

/* Asks and never reads the answers: the daemon must not collect them. */
void run_deaf(void)
{
    for (unsigned i = 0; i < vk_self->amount; i++) {
        int fd = vk_connect();
        unsigned asked = 0;
        for (; asked < 3000; asked++) {
            wire_begin(&vk_out, WIRE_STATUS, NULL);
            if (!vk_say_out(fd))
                break;
        }
        CHECK(asked < 3000); /* it was dropped before that */
        vk_count(asked);
        close(fd);
        struct tc c;
        vk_open_session(&c);
        for (unsigned k = 0; k < 300; k++) { /* each is answered with a refusal */
            struct wire_load l = { .op = ++c.op, .state = 99 };
            vk_numbered(&c, WIRE_LOAD, &l);
            if (!vk_say_out(c.fd))
                break;
            vk_count(1);
        }
        tc_drop(&c);
    }
}

/* The process that said HELLO is gone; its child has the socket. */
static void orphaned(int report)
{
    struct tc c;
    vk_begin_to(&c, 2);
    if (fork() != 0)
        _exit(0);
    unsigned n = 0;
    for (; n < 2000; n++) {
        struct wire_full f = { .op = c.op, .state = c.state };
        struct wire_save save = { .op = ++c.op, .step = n, .state = c.state };
        if (n < 5) { /* repeats: harmless as long as it lives */
            vk_numbered(&c, WIRE_FULL, &f);
            vk_out.head.seq = 1;
            c.seq--;
        } else {
            vk_numbered(&c, WIRE_SAVE, &save);
        }
        if (!vk_say_out(c.fd))
            break;
        vk_pause_ms(2);
    }
    CHECK_EQ(write(report, &n, sizeof(n)), (ssize_t)sizeof(n));
    _exit(0);
}

void run_orphan(void)
{
    for (unsigned i = 0; i < vk_self->amount; i++) {
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
        vk_count(1);
    }
}
