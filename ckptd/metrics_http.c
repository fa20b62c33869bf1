/* The HTTP is libmicrohttpd's; what is bounded by time is bounded here. */
#include "ckptd/metrics_http.h"

#include <microhttpd.h>
#include <poll.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>

#include "ckptd/metrics_text.h"
#include "formats/status_ask.h"

#define CONN_MEMORY (8 << 10)
#define TYPE_PLAIN  "text/plain; version=0.0.4; charset=utf-8"

struct visitor {
    int fd; /* -1 = free place */
    int64_t since_ms;
};
struct server {
    const char *ckptd_socket;
    struct visitor visitors[METRICS_CONNS_MAX];
    struct MHD_Response *metrics; /* the last answer; NULL = none yet */
    int64_t metrics_ms;
};

static int64_t now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * INT64_C(1000) + ts.tv_nsec / 1000000;
}

/* -- answers ----------------------------------------------------------------------- */

/* NULL: out of memory.  Takes text. */
static struct MHD_Response *new_answer(char *text, size_t len, const char *type)
{
    struct MHD_Response *r = MHD_create_response_from_buffer(len, text, MHD_RESPMEM_MUST_FREE);
    if (!r) {
        free(text);
        return NULL;
    }
    if (MHD_add_response_header(r, "Content-Type", type) == MHD_YES &&
        MHD_add_response_header(r, "Connection", "close") == MHD_YES)
        return r;
    MHD_destroy_response(r);
    return NULL;
}

static char *fresh_text(const struct server *s, size_t *ret_len)
{
    const char *page = NULL;
    char *text = NULL;
    size_t len = 0;
    struct ckpt_err err = { 0 };
    enum ckpt_status st = status_ask(s->ckptd_socket, METRICS_ASK_MS, &page, &len, &err);
    if (st == CKPT_OK)
        st = metrics_text(page, len, &text, ret_len, &err);
    if (page)
        munmap((void *)(uintptr_t)page, len);
    if (st != CKPT_OK && metrics_text(NULL, 0, &text, ret_len, &err) != CKPT_OK)
        return NULL;
    return text;
}

/* All who come within METRICS_FRESH_MS get one answer.  NULL: out of memory. */
static struct MHD_Response *metrics_answer(struct server *s)
{
    size_t len = 0;
    if (s->metrics && now_ms() - s->metrics_ms < METRICS_FRESH_MS)
        return s->metrics;
    char *text = fresh_text(s, &len);
    if (s->metrics)
        MHD_destroy_response(s->metrics); /* those who are still being sent it hold it */
    s->metrics = text ? new_answer(text, len, TYPE_PLAIN) : NULL;
    s->metrics_ms = now_ms();
    return s->metrics;
}

static enum MHD_Result answer_words(struct MHD_Connection *c, unsigned code, const char *words)
{
    char *text = strdup(words);
    struct MHD_Response *r = text ? new_answer(text, strlen(words), TYPE_PLAIN) : NULL;
    if (!r)
        return MHD_NO;
    if (code == MHD_HTTP_METHOD_NOT_ALLOWED)
        (void)MHD_add_response_header(r, "Allow", "GET, HEAD");
    enum MHD_Result rc = MHD_queue_response(c, code, r);
    MHD_destroy_response(r);
    return rc;
}

/* MHD calls it when the head is in; a body is refused by answering before it comes. */
static enum MHD_Result on_request(void *arg, struct MHD_Connection *c, const char *url,
                                  const char *method, const char *version, const char *body,
                                  size_t *body_len, void **state)
{
    (void)version, (void)body, (void)body_len, (void)state;
    if (strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0)
        return answer_words(c, MHD_HTTP_METHOD_NOT_ALLOWED, "only GET\n");
    if (strcmp(url, "/") == 0)
        return answer_words(c, MHD_HTTP_OK, "ckptd: the numbers are at /metrics\n");
    if (strcmp(url, "/metrics") != 0)
        return answer_words(c, MHD_HTTP_NOT_FOUND, "the numbers are at /metrics\n");
    struct MHD_Response *r = metrics_answer(arg);
    return r ? MHD_queue_response(c, MHD_HTTP_OK, r) : MHD_NO;
}

/* -- visitors ---------------------------------------------------------------------- */

static void on_visit(void *arg, struct MHD_Connection *c, void **place,
                     enum MHD_ConnectionNotificationCode code)
{
    struct server *s = arg;
    if (code == MHD_CONNECTION_NOTIFY_CLOSED) {
        if (*place)
            ((struct visitor *)*place)->fd = -1;
        return;
    }
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD);
    *place = NULL;
    for (size_t i = 0; i < METRICS_CONNS_MAX && info; i++) {
        if (s->visitors[i].fd >= 0)
            continue;
        s->visitors[i] = (struct visitor){ .fd = info->connect_fd, .since_ms = now_ms() };
        *place = &s->visitors[i];
        return;
    }
}

static bool is_full(const struct server *s)
{
    for (size_t i = 0; i < METRICS_CONNS_MAX; i++)
        if (s->visitors[i].fd < 0)
            return false;
    return true;
}

/* Whoever is here for too long, however busily it sends, is hung up on; soon, if others wait. */
static void hang_up_on_old(const struct server *s)
{
    int64_t age = is_full(s) ? METRICS_CROWD_MS : METRICS_AGE_MS;
    for (size_t i = 0; i < METRICS_CONNS_MAX; i++)
        if (s->visitors[i].fd >= 0 && now_ms() - s->visitors[i].since_ms > age)
            shutdown(s->visitors[i].fd, SHUT_RDWR);
}

static enum ckpt_status serve(const struct server *s, struct MHD_Daemon *d, struct ckpt_err *err)
{
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(d, MHD_DAEMON_INFO_EPOLL_FD);
    if (!info)
        return err_set(err, CKPT_UNSUPPORTED, "libmicrohttpd has no epoll");
    for (;;) {
        MHD_UNSIGNED_LONG_LONG soon = 0;
        int longest = is_full(s) ? METRICS_CROWD_MS / 2 : 1000;
        bool told = MHD_get_timeout(d, &soon) == MHD_YES;
        struct pollfd p = { .fd = info->epoll_fd, .events = POLLIN };
        if (poll(&p, 1, told && soon < (unsigned)longest ? (int)soon : longest) < 0 &&
            errno != EINTR)
            return err_errno(err, errno, "waiting for requests");
        if (MHD_run(d) != MHD_YES)
            return err_set(err, CKPT_IO, "libmicrohttpd gave up");
        hang_up_on_old(s);
    }
}

/* What is wrong with a request is the sender's business. */
static void ignore_words(void *arg, const char *fmt, va_list ap)
{
    (void)arg, (void)fmt, (void)ap;
}

enum ckpt_status metrics_serve(int listen_fd, const char *ckptd_socket, struct ckpt_err *err)
{
    struct server s = { .ckptd_socket = ckptd_socket };
    for (size_t i = 0; i < METRICS_CONNS_MAX; i++)
        s.visitors[i].fd = -1;
    struct MHD_Daemon *d = MHD_start_daemon(
        MHD_USE_EPOLL, 0, NULL, NULL, on_request, &s, MHD_OPTION_LISTEN_SOCKET, listen_fd,
        MHD_OPTION_CONNECTION_LIMIT, (unsigned)METRICS_CONNS_MAX,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONN_MEMORY, MHD_OPTION_CONNECTION_TIMEOUT,
        (unsigned)(METRICS_AGE_MS / 1000), MHD_OPTION_NOTIFY_CONNECTION, on_visit, &s,
        MHD_OPTION_EXTERNAL_LOGGER, ignore_words, NULL, MHD_OPTION_END);
    if (!d)
        return err_errno(err, errno ? errno : EIO, "libmicrohttpd cannot serve");
    enum ckpt_status st = serve(&s, d, err);
    MHD_stop_daemon(d);
    if (s.metrics)
        MHD_destroy_response(s.metrics);
    return st;
}
