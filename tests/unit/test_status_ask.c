/* Asking ckptd for its status page: what it answers, and all the ways in which it may not. */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "formats/status_ask.h"
#include "formats/wire.h"

#include "check.h"

#define PAGE      "{\"pid\": 1}"
#define QUEUE_MAX 16

static int cases;
static char path[64];

static struct sockaddr_un address(void)
{
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    memcpy(a.sun_path, path, strlen(path) + 1);
    return a;
}

static int listen_here(void)
{
    struct sockaddr_un a = address();
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    unlink(path);
    CHECK(bind(fd, (const struct sockaddr *)&a, sizeof(a)) == 0);
    CHECK(listen(fd, 1) == 0);
    return fd;
}

/* Connects until nobody else can; how many did. */
static int fill_queue(int *fds)
{
    struct sockaddr_un a = address();
    for (int n = 0; n < QUEUE_MAX; n++) {
        fds[n] = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (connect(fds[n], (const struct sockaddr *)&a, sizeof(a)) == 0)
            continue;
        CHECK_EQ(errno, EAGAIN);
        close(fds[n]);
        CHECK(n > 0);
        return n;
    }
    CHECK(!"the queue has an end");
    return 0;
}

static void ask_fails(int ms, enum ckpt_status want, const char *words)
{
    struct ckpt_err err = { 0 };
    const char *page = NULL;
    size_t len = 0;
    enum ckpt_status st = status_ask(path, ms, &page, &len, &err);
    if (st != want || !strstr(err_text(&err), words)) {
        fprintf(stderr, "%s, \"%s\"\n", status_name(st), err_text(&err));
        exit(1);
    }
    CHECK(!page && len == 0);
    cases++;
}

static void ask_answered(void)
{
    struct ckpt_err err = { 0 };
    const char *page = NULL;
    size_t len = 0;
    CHECK_OK(status_ask(path, STATUS_ASK_MS, &page, &len, &err));
    CHECK(len == strlen(PAGE) && memcmp(page, PAGE, len) == 0);
    CHECK(munmap((void *)(uintptr_t)page, len) == 0);
    cases++;
}

struct server {
    pthread_t thread;
    int listener, skip; /* connections that are taken and dropped first */
    int pause_ms;       /* before the first of them */
    enum wire_type type;
};

static void answer(int fd, enum wire_type type)
{
    struct ckpt_err err = { 0 };
    struct wire_msg *m = calloc(1, sizeof(*m));
    CHECK(m);
    CHECK_OK(wire_recv(fd, m, &err));
    CHECK_EQ(m->head.type, WIRE_STATUS);
    wire_begin(m, type, NULL);
    if (type == WIRE_STATUS_OK) {
        m->fds[0] = wire_memfd("page", PAGE, strlen(PAGE), &err);
        m->head.fds = 1;
        m->fd_count = 1;
    }
    CHECK_OK(wire_send(fd, m, &err));
    wire_close_fds(m);
    free(m);
}

static void *serve(void *arg)
{
    const struct server *s = arg;
    poll(NULL, 0, s->pause_ms);
    for (int i = 0; i <= s->skip; i++) {
        int fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC);
        CHECK(fd >= 0);
        if (i == s->skip && s->type)
            answer(fd, s->type);
        close(fd);
    }
    return NULL;
}

static void start(struct server *s)
{
    CHECK_EQ(pthread_create(&s->thread, NULL, serve, s), 0);
}

static void answers(void)
{
    struct server s = { .listener = listen_here(), .type = WIRE_STATUS_OK };
    start(&s);
    ask_answered();
    pthread_join(s.thread, NULL);
    s.type = WIRE_BYE;
    start(&s);
    ask_fails(STATUS_ASK_MS, CKPT_CORRUPT, "no status page");
    pthread_join(s.thread, NULL);
    s.type = 0;
    start(&s);
    ask_fails(STATUS_ASK_MS, CKPT_DAEMON_GONE, "gone");
    pthread_join(s.thread, NULL);
    close(s.listener);
}

static void nobody(void)
{
    char kept[sizeof(path)];
    ask_fails(1000, CKPT_NOT_FOUND, "no ckptd listens"); /* a socket that was left behind */
    CHECK(unlink(path) == 0);
    ask_fails(1000, CKPT_NOT_FOUND, path);
    struct ckpt_err err = { 0 };
    const char *page;
    size_t len;
    char longer[200];
    memset(longer, 'p', sizeof(longer));
    longer[sizeof(longer) - 1] = 0;
    CHECK_EQ(status_ask(longer, 1000, &page, &len, &err), CKPT_INVALID);
    memcpy(kept, path, sizeof(path));
    snprintf(path, sizeof(path), "/dev/null");
    ask_fails(1000, CKPT_NOT_FOUND, path); /* no socket at all */
    memcpy(path, kept, sizeof(path));
    cases++;
}

/* It was stopped: first it does not answer, then its queue is full. */
static void hangs(void)
{
    int fds[QUEUE_MAX];
    struct server s = { .listener = listen_here(), .type = WIRE_STATUS_OK };
    ask_fails(100, CKPT_TIMEOUT, "did not answer"); /* and leaves its place in the queue taken */
    s.skip = 1 + fill_queue(fds);
    ask_fails(100, CKPT_TIMEOUT, "accepts no connections");
    ask_fails(0, CKPT_TIMEOUT, "accepts no connections");
    s.pause_ms = 100; /* it goes on while somebody asks */
    start(&s);
    ask_answered();
    pthread_join(s.thread, NULL);
    for (int i = 0; i < s.skip - 1; i++)
        close(fds[i]);
    close(s.listener);
}

int main(void)
{
    char dir[] = "/tmp/test-status-ask-XXXXXX";
    CHECK(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/s", dir);
    answers();
    nobody();
    hangs();
    CHECK(unlink(path) == 0 && rmdir(dir) == 0);
    TEST_CASES(cases);
    return 0;
}
