/* One HTTP exchange by libcurl, against a server of canned answers in a thread: what comes
 * back, what is sent, and that nothing can make it big, long or talkative. */
#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/socket.h>
#include <time.h>

#include "storage/store/s3_fetch.h"

#include "check.h"

/* Answers each connection with `answer` and then closes, or stays silent. */
struct server {
    int fd;
    char url[64], host[32];
    pthread_t thread;
    pthread_mutex_t lock; /* for what follows */
    const char *answer;
    size_t answer_len;
    bool silent;
    char got[8192]; /* the last request */
};

/* To the end of the head and the body that it announces. */
static void read_request(int fd, char *buf, size_t cap)
{
    size_t len = 0;
    for (;;) {
        const char *end = strstr(buf, "\r\n\r\n"), *length = strcasestr(buf, "Content-Length:");
        size_t body = length ? strtoul(length + 15, NULL, 10) : 0;
        if (end && len >= (size_t)(end + 4 - buf) + body)
            return;
        ssize_t n = read(fd, buf + len, cap - 1 - len);
        if (n <= 0)
            return;
        len += (size_t)n;
        buf[len] = '\0';
    }
}

static void *serve(void *arg)
{
    struct server *s = arg;
    for (;;) {
        int fd = accept4(s->fd, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0)
            return NULL;
        pthread_mutex_lock(&s->lock);
        memset(s->got, 0, sizeof(s->got));
        read_request(fd, s->got, sizeof(s->got));
        const char *bytes = s->answer;
        size_t left = s->silent ? 0 : s->answer_len;
        bool silent = s->silent;
        pthread_mutex_unlock(&s->lock);
        for (ssize_t n; left > 0 && (n = send(fd, bytes, left, MSG_NOSIGNAL)) > 0;) {
            bytes += n;
            left -= (size_t)n;
        }
        for (char c; silent && read(fd, &c, 1) > 0;) /* until the client goes */
            ;
        close(fd);
    }
}

static void server_start(struct server *s)
{
    struct sockaddr_in address = { .sin_family = AF_INET,
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t len = sizeof(address);
    memset(s, 0, sizeof(*s));
    pthread_mutex_init(&s->lock, NULL);
    s->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(s->fd >= 0);
    CHECK_EQ(bind(s->fd, (struct sockaddr *)&address, len), 0);
    CHECK_EQ(listen(s->fd, 16), 0);
    CHECK_EQ(getsockname(s->fd, (struct sockaddr *)&address, &len), 0);
    snprintf(s->host, sizeof(s->host), "127.0.0.1:%d", ntohs(address.sin_port));
    snprintf(s->url, sizeof(s->url), "http://%s/a/../b?CANARY", s->host);
    CHECK_EQ(pthread_create(&s->thread, NULL, serve, s), 0);
}

static void server_stop(struct server *s)
{
    shutdown(s->fd, SHUT_RDWR);
    CHECK_EQ(pthread_join(s->thread, NULL), 0);
    close(s->fd);
}

static void answer_bytes(struct server *s, const char *bytes, size_t len, bool silent)
{
    pthread_mutex_lock(&s->lock);
    s->answer = bytes;
    s->answer_len = len;
    s->silent = silent;
    pthread_mutex_unlock(&s->lock);
}

static void answer_with(struct server *s, const char *text)
{
    answer_bytes(s, text, strlen(text), false);
}

/* The last request; stays until the next. */
static const char *sent(struct server *s)
{
    pthread_mutex_lock(&s->lock);
    pthread_mutex_unlock(&s->lock);
    return s->got;
}

static struct s3_fetch_answer answer;

static struct s3_fetch_request get(const struct server *s)
{
    return (struct s3_fetch_request){
        .method = "GET", .url = s->url, .timeout_ms = 20000, .direct = true
    };
}

static int test_exchange(struct server *s)
{
    struct s3_fetch_request r = get(s);
    answer_with(s, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
    CHECK_OK(s3_fetch_curl(NULL, &r, &answer, NULL));
    CHECK_EQ(answer.status, 200);
    CHECK_EQ(answer.len, 5);
    CHECK_STR(answer.body, "hello");
    CHECK(strstr(sent(s), "GET /a/../b?CANARY HTTP/1.1\r\n") == sent(s));
    r.method = "PUT";
    r.headers[0] = "X-One: 1";
    r.headers[1] = "X-Two: 2";
    answer_with(s, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    CHECK_OK(s3_fetch_curl(NULL, &r, &answer, NULL));
    CHECK_EQ(answer.status, 404);
    CHECK_EQ(answer.len, 0);
    CHECK_STR(answer.body, "");
    CHECK(strstr(sent(s), "PUT /a/../b?CANARY HTTP/1.1\r\n") == sent(s));
    CHECK(strstr(sent(s), "\r\nX-One: 1\r\nX-Two: 2\r\n"));
    CHECK(strstr(sent(s), "Content-Length: 0\r\n") && !strstr(sent(s), "Expect"));
    r.method = "POST";
    r.body = "a=b";
    answer_with(s,
                "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n");
    CHECK_OK(s3_fetch_curl(NULL, &r, &answer, NULL));
    CHECK_EQ(answer.status, 302); /* and not followed */
    CHECK(strstr(sent(s), "\r\n\r\na=b"));
    return 3;
}

static int test_big(struct server *s)
{
    static char bigs[2][S3_FETCH_BODY_MAX + 200];
    struct s3_fetch_request r = get(s);
    for (size_t more = 0; more < 2; more++) {
        struct ckpt_err err = { 0 };
        size_t len = S3_FETCH_BODY_MAX + more;
        char *big = bigs[more];
        int head = snprintf(big, sizeof(bigs[0]), "HTTP/1.1 200 OK\r\n\r\n");
        memset(big + head, 'x', len);
        answer_bytes(s, big, (size_t)head + len, false);
        CHECK_EQ(s3_fetch_curl(NULL, &r, &answer, &err), more ? CKPT_LIMIT : CKPT_OK);
        CHECK(answer.len <= S3_FETCH_BODY_MAX);
        CHECK(more ? strstr(err.text, s->host) != NULL : answer.len == len);
    }
    return 2;
}

static int test_broken(struct server *s)
{
    static const char *const texts[] = { "", "nonsense\r\n\r\n",
                                         "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort" };
    struct s3_fetch_request r = get(s);
    for (size_t i = 0; i < ARRAY_COUNT(texts); i++) {
        struct ckpt_err err = { 0 };
        answer_with(s, texts[i]);
        CHECK_EQ(s3_fetch_curl(NULL, &r, &answer, &err), CKPT_UNREACHABLE);
        CHECK(strstr(err.text, s->host) && !strstr(err.text, "CANARY"));
    }
    static const char *const urls[] = { "http://u:CANARY@127.0.0.1:1/", "file:///etc/passwd",
                                        "https://127.0.0.1:1/?CANARY", "nonsense://CANARY@h/",
                                        "http://no-such-host.invalid/CANARY" };
    for (size_t i = 0; i < ARRAY_COUNT(urls); i++) {
        struct ckpt_err err = { 0 };
        r.url = urls[i];
        CHECK_EQ(s3_fetch_curl(NULL, &r, &answer, &err), CKPT_UNREACHABLE);
        CHECK(err.text[0] && !strstr(err.text, "CANARY"));
    }
    return (int)(ARRAY_COUNT(texts) + ARRAY_COUNT(urls));
}

/* Silence: the request's own time, the operation's deadline, the cancel flag. */
static int test_silence(struct server *s)
{
    struct s3_fetch_request r = get(s);
    atomic_bool cancel = true;
    struct timespec now;
    answer_bytes(s, "", 0, true);
    r.timeout_ms = 50;
    CHECK_EQ(s3_fetch_curl(NULL, &r, &answer, NULL), CKPT_TIMEOUT);
    r.timeout_ms = 600000;
    clock_gettime(CLOCK_MONOTONIC, &now);
    r.limits.deadline_ns = now.tv_sec * INT64_C(1000000000) + now.tv_nsec + 50000000;
    CHECK_EQ(s3_fetch_curl(NULL, &r, &answer, NULL), CKPT_TIMEOUT);
    r.limits.deadline_ns = 1;
    CHECK_EQ(s3_fetch_curl(NULL, &r, &answer, NULL), CKPT_TIMEOUT);
    r.limits.deadline_ns = 0;
    r.limits.cancel = &cancel;
    CHECK_EQ(s3_fetch_curl(NULL, &r, &answer, NULL), CKPT_CANCELLED);
    answer_bytes(s, "", 0, false);
    return 4;
}

/* Proxies of the environment: asked, but never for what is near. */
static int test_proxy(struct server *s)
{
    struct s3_fetch_request r = get(s);
    char proxy[64];
    snprintf(proxy, sizeof(proxy), "http://%s", s->host);
    setenv("http_proxy", proxy, 1);
    setenv("no_proxy", "", 1);
    answer_with(s, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nproxy");
    r.direct = false;
    r.url = "http://elsewhere.invalid/x";
    CHECK_OK(s3_fetch_curl(NULL, &r, &answer, NULL));
    CHECK_STR(answer.body, "proxy");
    CHECK(strstr(sent(s), "GET http://elsewhere.invalid/x HTTP/1.1\r\n") == sent(s));
    setenv("http_proxy", "http://127.0.0.1:1", 1);
    r = get(s);
    CHECK_OK(s3_fetch_curl(NULL, &r, &answer, NULL));
    /* One that curl does not understand is not repeated: there is a password in it. */
    static const char *const proxies[] = { "moon://u:CANARY@h:1", "http://u:CANARY@h:1:2" };
    for (size_t i = 0; i < ARRAY_COUNT(proxies); i++) {
        struct ckpt_err err = { 0 };
        setenv("http_proxy", proxies[i], 1);
        r.direct = false;
        r.url = "http://elsewhere.invalid/x";
        CHECK_EQ(s3_fetch_curl(NULL, &r, &answer, &err), CKPT_UNREACHABLE);
        CHECK(strstr(err.text, "proxy") && !strstr(err.text, "CANARY"));
    }
    unsetenv("http_proxy");
    return 2 + (int)ARRAY_COUNT(proxies);
}

int main(void)
{
    struct server s;
    server_start(&s);
    int n = test_exchange(&s) + test_big(&s) + test_broken(&s) + test_silence(&s) + test_proxy(&s);
    server_stop(&s);
    TEST_CASES(n);
    return 0;
}
