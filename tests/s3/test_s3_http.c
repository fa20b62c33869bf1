/* HTTP against a server that is as slow as can be: every exchange ends, and none that moves
 * well enough is given up. */
#include <arpa/inet.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <time.h>

#include "storage/store/s3_http.h"

#include "check.h"

#define MS_NS  INT64_C(1000000)
#define UPLOAD ((size_t)64 << 20) /* more than all sockets on the way hold */

/* What the server does with a connection. */
struct scene {
    const char *name;
    enum s3_method method;
    size_t upload; /* bytes of a PUT's body */
    size_t read;   /* it reads so many of them, each MiB after pause_ms */
    const char *at_once;
    size_t more; /* and so many bytes of the answer's body with it */
    bool drips;  /* then a byte every 5 ms, for ever; else one after pause_ms */
    int pause_ms;
};

static int listener;
static char url[64], *memory;
static char taken[1 << 20]; /* what the server reads; a client is sending from `memory` */
static atomic_bool over;    /* the client has closed */

static void sleep_ms(int ms)
{
    nanosleep(&(struct timespec){ ms / 1000, ms % 1000 * MS_NS }, NULL);
}

static bool send_all(int fd, const char *bytes, size_t len)
{
    for (ssize_t n; len > 0; bytes += n, len -= (size_t)n) {
        n = send(fd, bytes, len, MSG_NOSIGNAL);
        if (n <= 0)
            return false;
    }
    return true;
}

/* The head ends with an empty line; what comes behind it counts as read. */
static void read_request(const struct scene *scene, int fd)
{
    size_t got = 0, step = 0;
    for (unsigned ends = 0; ends < 4;) {
        char c;
        if (recv(fd, &c, 1, 0) != 1)
            return;
        ends = c == (ends % 2 ? '\n' : '\r') ? ends + 1 : 0;
    }
    while (got < scene->read) {
        ssize_t n = recv(fd, taken, (size_t)min_u64(scene->read - got, sizeof(taken)), 0);
        if (n <= 0)
            return;
        got += (size_t)n;
        if (got >> 20 > step && ++step)
            sleep_ms(scene->pause_ms);
    }
}

static void *serve(void *arg)
{
    const struct scene *scene = arg;
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    CHECK(fd >= 0);
    read_request(scene, fd);
    bool there =
        send_all(fd, scene->at_once, strlen(scene->at_once)) && send_all(fd, memory, scene->more);
    while (there && scene->drips) {
        sleep_ms(5);
        there = send_all(fd, "x", 1);
    }
    if (there && *scene->at_once) {
        sleep_ms(scene->pause_ms);
        (void)send_all(fd, "x", 1);
    }
    while (!atomic_load(&over)) /* its end lies behind bytes that are not read */
        sleep_ms(1);
    close(fd);
    return NULL;
}

static bool take_all(struct s3_exchange *x, uint64_t at, const void *bytes, size_t len)
{
    (void)x, (void)at, (void)bytes, (void)len;
    return true;
}

static void play(const struct scene *scene, int64_t slow_ns, enum s3_wire want)
{
    struct s3_http_options options = { .no_proxy = true, .connections = 1, .slow_ns = slow_ns };
    struct iovec iov = { memory, scene->upload };
    struct s3_exchange x = { .method = scene->method, .url = url, .take = take_all };
    struct s3_http *h;
    pthread_t server;
    if (scene->method == S3_PUT)
        x.iov = &iov, x.iov_count = 1;
    atomic_store(&over, false);
    CHECK_EQ(pthread_create(&server, NULL, serve, (void *)(uintptr_t)scene), 0);
    CHECK_OK(s3_http_new(&options, &h, NULL));
    CHECK_OK(s3_http_start(h, &x, NULL));
    while (!s3_http_next(h, 20))
        ;
    if (x.answer.wire != want || (want == S3_WIRE_STALLED && !strstr(x.answer.trouble, "slower"))) {
        fprintf(stderr, "%s: %d %s\n", scene->name, x.answer.wire, x.answer.trouble);
        exit(1);
    }
    CHECK(!x.transfer);
    s3_http_free(h);
    atomic_store(&over, true);
    pthread_join(server, NULL);
}

#define FOUND   "HTTP/1.1 200 OK\r\nETag: \"x\"\r\nContent-Length: 200000\r\n\r\n"
#define NONE    "HTTP/1.1 404 Not Found\r\nContent-Length: 200000\r\n\r\n"
#define LINE    "HTTP/1.1 200 OK\r\nX-Long: "
#define CHUNKED "HTTP/1.1 500 Trouble\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n"

static int test_given_up(void)
{
    static const struct scene scenes[] = {
        { .name = "the body drips", .method = S3_GET, .at_once = FOUND, .drips = true },
        { .name = "an error drips", .method = S3_GET, .at_once = NONE, .drips = true },
        { .name = "a head drips", .method = S3_HEAD, .at_once = LINE, .drips = true },
        { .name = "the answer to a put drips",
          .method = S3_PUT,
          .upload = 3 << 20,
          .read = 3 << 20,
          .at_once = FOUND,
          .drips = true },
        { .name = "a put is answered early",
          .method = S3_PUT,
          .upload = UPLOAD,
          .at_once = NONE,
          .drips = true },
        { .name = "a put is not read", .method = S3_PUT, .upload = UPLOAD, .at_once = "" },
    };
    for (size_t i = 0; i < ARRAY_COUNT(scenes); i++)
        play(&scenes[i], 200 * MS_NS, S3_WIRE_STALLED);
    /* Fast, but without an end. */
    struct scene endless = { "an error without an end", S3_GET, 0, 0, CHUNKED, UPLOAD, false, 0 };
    play(&endless, 0, S3_WIRE_REFUSED);
    return (int)ARRAY_COUNT(scenes) + 1;
}

/* What moves may take many times as long as a silent one is waited for. */
static int test_waited_for(void)
{
    struct scene put = { .name = "a slow put",
                         .method = S3_PUT,
                         .upload = UPLOAD,
                         .read = UPLOAD,
                         .at_once = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n",
                         .pause_ms = 100 };
    struct scene get = { .name = "a pause behind much",
                         .method = S3_GET,
                         .at_once = "HTTP/1.1 200 OK\r\nContent-Length: 1048577\r\n\r\n",
                         .more = 1 << 20,
                         .pause_ms = 4000 };
    if (!getenv("CKPT_DEEP"))
        return 0;
    play(&put, 3000 * MS_NS, S3_WIRE_OK);
    play(&get, 3000 * MS_NS, S3_WIRE_OK);
    return 2;
}

int main(void)
{
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
    socklen_t len = sizeof(at);
    listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(bind(listener, (struct sockaddr *)&at, sizeof(at)) == 0 && listen(listener, 8) == 0);
    CHECK_EQ(getsockname(listener, (struct sockaddr *)&at, &len), 0);
    snprintf(url, sizeof(url), "http://127.0.0.1:%d/x", ntohs(at.sin_port));
    memory = calloc(1, UPLOAD);
    CHECK(memory);
    int n = test_given_up() + test_waited_for();
    free(memory);
    close(listener);
    TEST_CASES(n);
    return 0;
}
