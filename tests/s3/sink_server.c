/* An S3 server that does next to nothing, as fast as memory allows: what is measured with it
 * is the client alone.
 *
 *   sink_server [--threads N] [--tls CERTIFICATE KEY]
 *
 * Prints "127.0.0.1:PORT", ends with its parent.  Bodies of uploads are dropped in the
 * kernel (MSG_TRUNC: not even copied); bodies of downloads come from one memory file by
 * sendfile: byte i of every big object is that of the pattern at i modulo its length
 * (sink_pattern_byte).  Objects of at most 64 KiB are kept and checked, so that records and
 * probes of clients work.  Signatures are not looked at.  GET /-/counts answers with JSON:
 * requests (and of them, as they are charged for: writes, which are PUT, POST and lists;
 * reads; removes, which are free), connections, bytes in and out, those put with the SHA-256
 * of the body signed and those with UNSIGNED-PAYLOAD, CPU seconds of the server itself.
 *
 * One thread is one epoll loop with a listening socket of its own on the same port. */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>

#include "s3/sink_head.h"
#include "s3/sink_objects.h"
#include "s3/sink_pattern.h"

#include "check.h"

#define THREADS_MAX 64
#define TURN_BYTES  (UINT64_C(4) << 20) /* of one connection before the next one has its turn */

static struct {
    struct sink_objects *objects;
    SSL_CTX *tls; /* NULL = none */
    int pattern_fd;
    char *pattern;
    struct sockaddr_in address;
    atomic_ullong requests, writes, reads, removes;
    atomic_ullong connections, bytes_in, bytes_out, bytes_signed, bytes_unsigned;
} site;

enum step { STEP_AGAIN, STEP_BLOCKED, STEP_CLOSE };
enum state { READ_HEAD, READ_BODY, WRITE_HEAD, WRITE_BODY };

struct conn {
    int fd;
    SSL *ssl;
    enum state state;
    bool want_out; /* registered for EPOLLOUT */
    char in[SINK_HEAD_MAX];
    size_t in_len;
    struct sink_head head;
    uint64_t body_left;
    char *small; /* a body that is kept */
    size_t small_len;
    char out[1024]; /* head of the answer */
    size_t out_len, out_at;
    char *text; /* body of the answer, or NULL: the pattern */
    uint64_t answer_at, answer_left;
};

/* ---- bytes ---- */

/* Bytes moved; 0: the other side closed; -1: EAGAIN; -2: broken. */
static int64_t ssl_result(struct conn *c, int n)
{
    if (n > 0)
        return n;
    int error = SSL_get_error(c->ssl, n);
    if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE)
        return -1;
    return error == SSL_ERROR_ZERO_RETURN ? 0 : -2;
}

static int64_t plain_result(ssize_t n)
{
    if (n >= 0)
        return n;
    return errno == EAGAIN || errno == EINTR ? -1 : -2;
}

static int64_t read_bytes(struct conn *c, char *buf, size_t n)
{
    n = n < 1 << 20 ? n : 1 << 20;
    int64_t got = c->ssl ? ssl_result(c, SSL_read(c->ssl, buf, (int)n))
                         : plain_result(recv(c->fd, buf, n, 0));
    atomic_fetch_add(&site.bytes_in, got > 0 ? (uint64_t)got : 0);
    return got;
}

static int64_t drop_bytes(struct conn *c, uint64_t n)
{
    static _Thread_local char nowhere[1 << 20];
    n = min_u64(n, sizeof(nowhere));
    if (c->ssl)
        return read_bytes(c, nowhere, n);
    /* The kernel writes nothing; NULL would do, but sanitizers mark the buffer. */
    int64_t got = plain_result(recv(c->fd, nowhere, n, MSG_TRUNC));
    atomic_fetch_add(&site.bytes_in, got > 0 ? (uint64_t)got : 0);
    return got;
}

static int64_t write_bytes(struct conn *c, const char *buf, size_t n)
{
    n = n < 1 << 20 ? n : 1 << 20;
    int64_t put = c->ssl ? ssl_result(c, SSL_write(c->ssl, buf, (int)n))
                         : plain_result(send(c->fd, buf, n, MSG_NOSIGNAL));
    atomic_fetch_add(&site.bytes_out, put > 0 ? (uint64_t)put : 0);
    return put == 0 ? -2 : put;
}

static int64_t write_pattern(struct conn *c, uint64_t at, uint64_t n)
{
    off_t offset = (off_t)(at % SINK_PATTERN_BYTES);
    n = min_u64(n, SINK_PATTERN_BYTES - (uint64_t)offset);
    if (c->ssl)
        return write_bytes(c, site.pattern + offset, min_u64(n, 65536));
    int64_t put = plain_result(sendfile(c->fd, site.pattern_fd, &offset, min_u64(n, TURN_BYTES)));
    atomic_fetch_add(&site.bytes_out, put > 0 ? (uint64_t)put : 0);
    return put == 0 ? -2 : put;
}

/* ---- answers ---- */

static const char *reason_of(int status)
{
    return status < 300 ? "OK" : status < 500 ? "No" : "Trouble";
}

/* text NULL and len > 0: of the pattern.  `more`: further header lines. */
static void answer(struct conn *c, int status, const char *more, char *text, uint64_t at,
                   uint64_t len)
{
    bool bare = status == 204;
    int n = snprintf(c->out, sizeof(c->out),
                     "HTTP/1.1 %d %s\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n%s%s", status,
                     reason_of(status), more, c->head.close ? "Connection: close\r\n" : "");
    CHECK(n > 0 && n < (int)sizeof(c->out) - 64);
    if (!bare)
        n += snprintf(c->out + n, sizeof(c->out) - (size_t)n, "Content-Length: %llu\r\n",
                      (unsigned long long)len);
    n += snprintf(c->out + n, sizeof(c->out) - (size_t)n, "\r\n");
    c->out_len = (size_t)n;
    c->out_at = 0;
    c->text = text;
    c->answer_at = at;
    c->answer_left = bare || c->head.verb == SINK_HEAD ? 0 : len;
    c->state = WRITE_HEAD;
}

static void answer_error(struct conn *c, int status, const char *code)
{
    char *text = NULL;
    int n = asprintf(&text, "<?xml version=\"1.0\"?>\n<Error><Code>%s</Code></Error>", code);
    CHECK(n > 0);
    answer(c, status, "Content-Type: application/xml\r\n", text, 0, (uint64_t)n);
}

static void answer_xml(struct conn *c, const char *xml)
{
    char *text = strdup(xml);
    CHECK(text);
    answer(c, 200, "Content-Type: application/xml\r\n", text, 0, strlen(text));
}

static double cpu_seconds(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           1e-6 * (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

static void answer_counts(struct conn *c)
{
    char *text = NULL;
    int n =
        asprintf(&text,
                 "{\"requests\": %llu, \"writes\": %llu, \"reads\": %llu, "
                 "\"removes\": %llu, \"connections\": %llu, \"bytes_in\": %llu, "
                 "\"bytes_out\": %llu, \"bytes_signed\": %llu, \"bytes_unsigned\": %llu, "
                 "\"cpu_seconds\": %.6f}\n",
                 atomic_load(&site.requests), atomic_load(&site.writes), atomic_load(&site.reads),
                 atomic_load(&site.removes), atomic_load(&site.connections),
                 atomic_load(&site.bytes_in), atomic_load(&site.bytes_out),
                 atomic_load(&site.bytes_signed), atomic_load(&site.bytes_unsigned), cpu_seconds());
    CHECK(n > 0);
    answer(c, 200, "Content-Type: application/json\r\n", text, 0, (uint64_t)n);
}

static void answer_object(struct conn *c)
{
    const struct sink_head *h = &c->head;
    uint64_t len, first = 0, end;
    char *bytes, more[200];
    const char *kind = "ETag: \"0\"\r\nAccept-Ranges: bytes\r\n"
                       "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n";
    if (sink_objects_get(site.objects, h->key, &bytes, &len) != 200) {
        answer_error(c, 404, "NoSuchKey");
        return;
    }
    if (!h->range) {
        answer(c, 200, kind, bytes, 0, len);
        return;
    }
    first = h->from_end ? len - min_u64(len, h->range_last) : h->range_first;
    end = h->from_end || h->range_last >= len ? len : h->range_last + 1;
    if (first >= end) {
        free(bytes);
        answer_error(c, 416, "InvalidRange");
        return;
    }
    snprintf(more, sizeof(more), "%sContent-Range: bytes %llu-%llu/%llu\r\n", kind,
             (unsigned long long)first, (unsigned long long)end - 1, (unsigned long long)len);
    answer(c, 206, more, bytes, first, end - first);
}

static void answer_put(struct conn *c)
{
    const struct sink_head *h = &c->head;
    uint64_t len = h->decoded_length ? h->decoded_length : h->length;
    const char *wrong = c->small ? sink_check_body(h, c->small, c->small_len) : NULL;
    int status = 200;
    if (wrong) {
        answer_error(c, 400, wrong);
        return;
    }
    if (strlen(h->sha256) == 64)
        atomic_fetch_add(&site.bytes_signed, h->length);
    else if (!strcmp(h->sha256, "UNSIGNED-PAYLOAD"))
        atomic_fetch_add(&site.bytes_unsigned, h->length);
    if (h->part)
        status = sink_objects_part(site.objects, h->key, len);
    else if (h->key[0])
        status = sink_objects_put(site.objects, h->key, h->decoded_length ? NULL : c->small, len,
                                  h->if_none_match);
    if (status != 200)
        answer_error(c, status, status == 412 ? "PreconditionFailed" : "XMinioStorageFull");
    else
        answer(c, 200, "ETag: \"0\"\r\n", NULL, 0, 0);
}

static void answer_post(struct conn *c)
{
    if (c->head.uploads)
        answer_xml(c, "<InitiateMultipartUploadResult><UploadId>u</UploadId>"
                      "</InitiateMultipartUploadResult>");
    else if (!c->head.upload_id)
        answer_error(c, 501, "NotImplemented");
    else if (sink_objects_complete(site.objects, c->head.key) != 200)
        answer_error(c, 404, "NoSuchUpload");
    else
        answer_xml(c, "<CompleteMultipartUploadResult><ETag>\"0-1\"</ETag>"
                      "</CompleteMultipartUploadResult>");
}

static void answer_get(struct conn *c)
{
    if (c->head.counts) {
        answer_counts(c);
    } else if (c->head.key[0]) {
        answer_object(c);
    } else if (c->head.list) {
        size_t len;
        char *text = sink_objects_list(site.objects, &c->head, &len);
        answer(c, 200, "Content-Type: application/xml\r\n", text, 0, len);
    } else if (c->head.verb == SINK_HEAD) {
        answer(c, 200, "", NULL, 0, 0);
    } else {
        answer_xml(c, "<LocationConstraint></LocationConstraint>");
    }
}

static void count_request(const struct sink_head *h)
{
    bool read = (h->verb == SINK_GET || h->verb == SINK_HEAD) && !h->list;
    atomic_fetch_add(&site.requests, 1);
    atomic_fetch_add(read ? &site.reads : h->verb == SINK_DELETE ? &site.removes : &site.writes, 1);
}

/* The request is whole. */
static void answer_request(struct conn *c)
{
    if (!c->head.counts)
        count_request(&c->head);
    switch (c->head.verb) {
    case SINK_GET:
    case SINK_HEAD:
        answer_get(c);
        break;
    case SINK_PUT:
        answer_put(c);
        break;
    case SINK_DELETE:
        sink_objects_remove(site.objects, c->head.key);
        answer(c, 204, "", NULL, 0, 0);
        break;
    case SINK_POST:
        answer_post(c);
        break;
    }
    free(c->small);
    c->small = NULL;
    c->small_len = 0;
}

/* ---- one connection ---- */

static enum step begin_body(struct conn *c, int head_len)
{
    c->in_len -= (size_t)head_len;
    memmove(c->in, c->in + head_len, c->in_len);
    c->body_left = c->head.length;
    c->state = READ_BODY;
    if (c->head.chunked) {
        c->head.close = true;
        c->body_left = c->in_len = 0;
        answer_error(c, 501, "NotImplemented");
        return STEP_AGAIN;
    }
    if (c->head.length <= SINK_SMALL_MAX) {
        c->small = malloc(SINK_SMALL_MAX + 1);
        CHECK(c->small);
    }
    if (c->head.expect && c->head.length > c->in_len)
        (void)write_bytes(c, "HTTP/1.1 100 Continue\r\n\r\n", 25); /* fits: nothing else waits */
    return STEP_AGAIN;
}

static enum step read_head(struct conn *c)
{
    int n = sink_head_parse(c->in, c->in_len, &c->head);
    if (n > 0)
        return begin_body(c, n);
    if (n < 0)
        return STEP_CLOSE;
    int64_t got = read_bytes(c, c->in + c->in_len, sizeof(c->in) - c->in_len);
    if (got <= 0)
        return got == -1 ? STEP_BLOCKED : STEP_CLOSE;
    c->in_len += (size_t)got;
    return STEP_AGAIN;
}

/* What came with the head belongs to the body first. */
static void take_buffered(struct conn *c)
{
    size_t n = (size_t)min_u64(c->in_len, c->body_left);
    if (c->small) {
        memcpy(c->small + c->small_len, c->in, n);
        c->small_len += n;
    }
    c->in_len -= n;
    memmove(c->in, c->in + n, c->in_len);
    c->body_left -= n;
}

static enum step read_body(struct conn *c)
{
    take_buffered(c);
    if (c->body_left == 0) {
        answer_request(c);
        return STEP_AGAIN;
    }
    int64_t got = c->small ? read_bytes(c, c->small + c->small_len, c->body_left)
                           : drop_bytes(c, c->body_left);
    if (got <= 0)
        return got == -1 ? STEP_BLOCKED : STEP_CLOSE;
    c->small_len += c->small ? (size_t)got : 0;
    c->body_left -= (uint64_t)got;
    return STEP_AGAIN;
}

static enum step write_head(struct conn *c)
{
    int64_t put = write_bytes(c, c->out + c->out_at, c->out_len - c->out_at);
    if (put < 0)
        return put == -1 ? STEP_BLOCKED : STEP_CLOSE;
    c->out_at += (size_t)put;
    if (c->out_at == c->out_len)
        c->state = WRITE_BODY;
    return STEP_AGAIN;
}

static enum step write_body(struct conn *c)
{
    if (c->answer_left == 0) {
        free(c->text);
        c->text = NULL;
        c->state = READ_HEAD;
        return c->head.close ? STEP_CLOSE : STEP_AGAIN;
    }
    int64_t put = c->text ? write_bytes(c, c->text + c->answer_at, c->answer_left)
                          : write_pattern(c, c->answer_at, c->answer_left);
    if (put < 0)
        return put == -1 ? STEP_BLOCKED : STEP_CLOSE;
    c->answer_at += (uint64_t)put;
    c->answer_left -= (uint64_t)put;
    return STEP_AGAIN;
}

static enum step advance(struct conn *c)
{
    static enum step (*const steps[])(struct conn *) = { read_head, read_body, write_head,
                                                         write_body };
    enum step step = STEP_AGAIN;
    for (int i = 0; i < 64 && step == STEP_AGAIN; i++)
        step = steps[c->state](c);
    return step;
}

static void conn_close(struct conn *c)
{
    SSL_free(c->ssl);
    close(c->fd);
    free(c->small);
    free(c->text);
    free(c);
}

static void accept_all(int listener, int epoll)
{
    for (;;) {
        int one = 1, fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0)
            return;
        struct conn *c = calloc(1, sizeof(*c));
        CHECK(c);
        atomic_fetch_add(&site.connections, 1);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        c->fd = fd;
        if (site.tls) {
            c->ssl = SSL_new(site.tls);
            CHECK(c->ssl && SSL_set_fd(c->ssl, fd));
            SSL_set_accept_state(c->ssl);
        }
        struct epoll_event event = { .events = EPOLLIN, .data.ptr = c };
        CHECK_EQ(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event), 0);
    }
}

static void serve_conn(struct conn *c, int epoll)
{
    enum step step = advance(c);
    if (step == STEP_CLOSE) {
        conn_close(c);
        return;
    }
    /* Level-triggered.  One that has more to do without new bytes (its turn ended, or OpenSSL
     * holds some) waits until it may write, which is at once. */
    bool out = step == STEP_AGAIN || c->state == WRITE_HEAD || c->state == WRITE_BODY;
    struct epoll_event event = { .events = out ? EPOLLOUT : EPOLLIN, .data.ptr = c };
    if (out != c->want_out)
        CHECK_EQ(epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &event), 0);
    c->want_out = out;
}

static int listen_on(struct sockaddr_in *address)
{
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    socklen_t len = sizeof(*address);
    CHECK(fd >= 0);
    CHECK_EQ(setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)), 0);
    CHECK_EQ(bind(fd, (struct sockaddr *)address, len), 0);
    CHECK_EQ(listen(fd, 512), 0);
    CHECK_EQ(getsockname(fd, (struct sockaddr *)address, &len), 0);
    return fd;
}

static void *serve(void *arg)
{
    int listener = *(int *)arg, epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event events[64], mine = { .events = EPOLLIN, .data.ptr = NULL };
    CHECK(epoll >= 0);
    CHECK_EQ(epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &mine), 0);
    for (;;) {
        int n = epoll_wait(epoll, events, 64, -1);
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr)
                serve_conn(events[i].data.ptr, epoll);
            else
                accept_all(listener, epoll);
        }
    }
    return NULL;
}

static void make_pattern(void)
{
    site.pattern_fd = memfd_create("pattern", MFD_CLOEXEC);
    CHECK(site.pattern_fd >= 0);
    CHECK_EQ(ftruncate(site.pattern_fd, (off_t)SINK_PATTERN_BYTES), 0);
    site.pattern =
        mmap(NULL, SINK_PATTERN_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, site.pattern_fd, 0);
    CHECK(site.pattern != MAP_FAILED);
    for (uint64_t i = 0; i < SINK_PATTERN_BYTES; i++)
        site.pattern[i] = (char)sink_pattern_byte(i);
}

static void parse_arguments(int argc, char **argv, int *ret_threads)
{
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--threads") && i + 1 < argc) {
            *ret_threads = (int)strtol(argv[++i], NULL, 10);
            CHECK(*ret_threads >= 1 && *ret_threads <= THREADS_MAX);
        } else if (!strcmp(argv[i], "--tls") && i + 2 < argc) {
            site.tls = SSL_CTX_new(TLS_server_method());
            CHECK(site.tls);
            CHECK(SSL_CTX_use_certificate_chain_file(site.tls, argv[i + 1]) == 1);
            CHECK(SSL_CTX_use_PrivateKey_file(site.tls, argv[i + 2], SSL_FILETYPE_PEM) == 1);
            SSL_CTX_set_mode(site.tls,
                             SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
            i += 2;
        } else {
            fprintf(stderr, "usage: sink_server [--threads N] [--tls CERTIFICATE KEY]\n");
            exit(2);
        }
    }
}

int main(int argc, char **argv)
{
    int threads = 1, listeners[THREADS_MAX];
    pid_t parent = getppid();
    pthread_t thread;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        return 1;
    signal(SIGPIPE, SIG_IGN);
    parse_arguments(argc, argv, &threads);
    site.objects = sink_objects_new();
    make_pattern();
    site.address.sin_family = AF_INET;
    site.address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    for (int i = 0; i < threads; i++)
        listeners[i] = listen_on(&site.address);
    for (int i = 1; i < threads; i++)
        CHECK_EQ(pthread_create(&thread, NULL, serve, &listeners[i]), 0);
    printf("127.0.0.1:%d\n", ntohs(site.address.sin_port));
    fflush(stdout);
    serve(&listeners[0]);
    return 0;
}
