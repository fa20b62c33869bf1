/* See s3_http.h.  CURLcodes are turned into enum s3_wire here and nowhere else. */
#include "storage/store/s3_http.h"

#include <curl/curl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>

/* A body passes through one buffer of its connection.  Up: small enough to stay in the cache
 * between our copy and the kernel's (larger ones gain nothing).  Down: the more is taken at
 * a time, the fewer times we are woken; 1 MiB takes a fifth less CPU than 256 KiB. */
#define UPLOAD_BUFFER   (256L << 10)
#define DOWNLOAD_BUFFER (1024L << 10)
/* S3 closes connections that were idle for some 5 seconds. */
#define IDLE_S    4L
#define CONNECT_S 10L
#define DNS_S     60L

/* One easy handle; kept for the next exchange when its own is over. */
struct s3_transfer {
    CURL *curl;
    struct s3_http *http;
    struct curl_slist *headers;
    struct s3_exchange *x; /* NULL = free */
    /* where the body is that goes out */
    int iov_at;
    size_t iov_offset;
    int64_t since_ns; /* it was asked for last; the start, if there is none */
    char trouble[CURL_ERROR_SIZE];
    struct s3_transfer *next;
};

struct s3_http {
    CURLM *multi;
    int sockets[2 * 64]; /* open ones, for acknowledge(); more are not needed there */
    size_t socket_count;
    struct s3_http_options options;
    char *ca_file;
    struct s3_transfer *transfers;
};

struct s3_http_share {
    CURLSH *share;
    pthread_mutex_t locks[CURL_LOCK_DATA_LAST];
};

/* Once in a process: curl_global_init is only then safe in all of its parts. */
static pthread_once_t global_once = PTHREAD_ONCE_INIT;
static CURLcode global_rc;

static void global_init(void)
{
    global_rc = curl_global_init(CURL_GLOBAL_DEFAULT);
}

const char *s3_method_name(enum s3_method method)
{
    static const char *const names[] = { "GET", "HEAD", "PUT", "DELETE" };
    return names[method];
}

static void share_lock(CURL *curl, curl_lock_data data, curl_lock_access access, void *arg)
{
    (void)curl, (void)access;
    pthread_mutex_lock(&((struct s3_http_share *)arg)->locks[data]);
}

static void share_unlock(CURL *curl, curl_lock_data data, void *arg)
{
    (void)curl;
    pthread_mutex_unlock(&((struct s3_http_share *)arg)->locks[data]);
}

enum ckpt_status s3_http_share_new(struct s3_http_share **ret, struct ckpt_err *err)
{
    pthread_once(&global_once, global_init);
    struct s3_http_share *s = global_rc == CURLE_OK ? calloc(1, sizeof(*s)) : NULL;
    if (s)
        s->share = curl_share_init();
    if (!s || !s->share) {
        free(s);
        return err_set(err, CKPT_NO_MEMORY, "no memory for HTTP");
    }
    for (size_t i = 0; i < ARRAY_COUNT(s->locks); i++)
        pthread_mutex_init(&s->locks[i], NULL);
    curl_share_setopt(s->share, CURLSHOPT_LOCKFUNC, share_lock);
    curl_share_setopt(s->share, CURLSHOPT_UNLOCKFUNC, share_unlock);
    curl_share_setopt(s->share, CURLSHOPT_USERDATA, s);
    curl_share_setopt(s->share, CURLSHOPT_SHARE, CURL_LOCK_DATA_DNS);
    curl_share_setopt(s->share, CURLSHOPT_SHARE, CURL_LOCK_DATA_SSL_SESSION);
    *ret = s;
    return CKPT_OK;
}

void s3_http_share_free(struct s3_http_share *s)
{
    if (!s)
        return;
    curl_share_cleanup(s->share);
    for (size_t i = 0; i < ARRAY_COUNT(s->locks); i++)
        pthread_mutex_destroy(&s->locks[i]);
    free(s);
}

enum ckpt_status s3_http_new(const struct s3_http_options *options, struct s3_http **ret,
                             struct ckpt_err *err)
{
    pthread_once(&global_once, global_init);
    struct s3_http *h = calloc(1, sizeof(*h));
    if (h) {
        h->options = *options;
        if (h->options.slow_ns == 0)
            h->options.slow_ns = S3_SLOW_S * INT64_C(1000000000);
        h->ca_file = options->ca_file ? strdup(options->ca_file) : NULL;
        h->multi = global_rc == CURLE_OK ? curl_multi_init() : NULL;
    }
    if (!h || !h->multi || (options->ca_file && !h->ca_file)) {
        s3_http_free(h);
        return err_set(err, CKPT_NO_MEMORY, "no memory for HTTP");
    }
    curl_multi_setopt(h->multi, CURLMOPT_MAXCONNECTS, (long)options->connections);
    curl_multi_setopt(h->multi, CURLMOPT_PIPELINING, CURLPIPE_NOTHING);
    *ret = h;
    return CKPT_OK;
}

void s3_http_free(struct s3_http *h)
{
    if (!h)
        return;
    while (h->transfers) {
        struct s3_transfer *t = h->transfers;
        h->transfers = t->next;
        if (t->x) {
            curl_multi_remove_handle(h->multi, t->curl);
            t->x->transfer = NULL;
        }
        curl_slist_free_all(t->headers);
        curl_easy_cleanup(t->curl);
        free(t);
    }
    if (h->multi)
        curl_multi_cleanup(h->multi);
    free(h->ca_file);
    free(h);
}

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static curl_socket_t open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
    struct s3_http *h = arg;
    (void)purpose;
    int fd = socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
    if (fd >= 0 && h->socket_count < ARRAY_COUNT(h->sockets))
        h->sockets[h->socket_count++] = fd;
    return fd;
}

static int close_socket(void *arg, curl_socket_t fd)
{
    struct s3_http *h = arg;
    for (size_t i = 0; i < h->socket_count; i++) {
        if (h->sockets[i] == fd)
            h->sockets[i--] = h->sockets[--h->socket_count];
    }
    return close(fd);
}

/* Some servers (radosgw by default) send head and body of an answer in two pieces with
 * Nagle's algorithm on: the second waits until the first is acknowledged, and the kernel
 * would put that off for 40 ms.  It cannot be set for good, and libcurl does not say
 * which connection is this one's, so each one acknowledges now. */
static void acknowledge(const struct s3_http *h)
{
    int on = 1;
    for (size_t i = 0; i < h->socket_count; i++)
        (void)setsockopt(h->sockets[i], IPPROTO_TCP, TCP_QUICKACK, &on, sizeof(on));
}

/* The next bytes of the body for curl's buffer. */
static size_t read_body(char *to, size_t size, size_t count, void *arg)
{
    struct s3_transfer *t = arg;
    const struct s3_exchange *x = t->x;
    size_t room = size * count, n = 0;
    t->since_ns = now_ns();
    while (n < room && t->iov_at < x->iov_count) {
        const struct iovec *v = &x->iov[t->iov_at];
        size_t piece = (size_t)min_u64(room - n, v->iov_len - t->iov_offset);
        if (piece)
            memcpy(to + n, (const char *)v->iov_base + t->iov_offset, piece);
        n += piece;
        t->iov_offset += piece;
        if (t->iov_offset == v->iov_len)
            t->iov_at++, t->iov_offset = 0;
    }
    return n;
}

/* curl rewinds when a kept connection turns out to be dead. */
static int seek_body(void *arg, curl_off_t offset, int origin)
{
    struct s3_transfer *t = arg;
    if (origin != SEEK_SET || offset != 0)
        return CURL_SEEKFUNC_CANTSEEK;
    t->iov_at = 0;
    t->iov_offset = 0;
    return CURL_SEEKFUNC_OK;
}

static size_t write_body(char *bytes, size_t size, size_t count, void *arg)
{
    struct s3_transfer *t = arg;
    struct s3_exchange *x = t->x;
    struct s3_answer *a = &x->answer;
    size_t len = size * count;
    uint64_t at = a->received;
    a->received += len;
    if (x->take && a->status >= 200 && a->status < 300)
        return x->take(x, at, bytes, len) ? len : CURL_WRITEFUNC_ERROR;
    size_t n = (size_t)min_u64(len, S3_ERROR_BODY_MAX - a->error_len);
    memcpy(a->error + a->error_len, bytes, n);
    a->error_len += n;
    a->error[a->error_len] = 0;
    return a->received <= S3_ERROR_BODY_END ? len : CURL_WRITEFUNC_ERROR;
}

/* A decimal number and nothing else; UINT64_MAX when it is none. */
static uint64_t read_u64(const char *text)
{
    char *end;
    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    if (errno || text[0] < '0' || text[0] > '9' || (*end && *end != '-' && *end != '/'))
        return UINT64_MAX;
    return n;
}

/* "bytes 0-9/100", and of a 416 "bytes * / 100" without the spaces */
static void read_content_range(struct s3_answer *a, const char *value)
{
    if (strncasecmp(value, "bytes ", 6) != 0)
        return;
    const char *slash = strchr(value, '/');
    a->range_from = read_u64(value + 6);
    a->total = slash ? read_u64(slash + 1) : UINT64_MAX;
}

static void read_header(struct s3_answer *a, const char *name, const char *value)
{
    if (strcasecmp(name, "etag") == 0)
        snprintf(a->etag, sizeof(a->etag), "%s", value);
    else if (strcasecmp(name, "content-length") == 0)
        a->length = read_u64(value);
    else if (strcasecmp(name, "content-range") == 0)
        read_content_range(a, value);
    else if (strcasecmp(name, "date") == 0)
        a->date_s = curl_getdate(value, NULL) > 0 ? curl_getdate(value, NULL) : 0;
    else if (strcasecmp(name, "last-modified") == 0)
        a->modified_s = curl_getdate(value, NULL) > 0 ? curl_getdate(value, NULL) : 0;
    else if (strcasecmp(name, "x-amz-bucket-region") == 0)
        snprintf(a->region, sizeof(a->region), "%s", value);
    else if (strcasecmp(name, "location") == 0)
        snprintf(a->location, sizeof(a->location), "%s", value);
    else if (strcasecmp(name, "retry-after") == 0)
        a->retry_after_s = read_u64(value) < 86400 ? (int64_t)read_u64(value) : 0;
}

static void answer_clear(struct s3_answer *a)
{
    a->wire = S3_WIRE_OK;
    a->status = 0;
    a->trouble[0] = a->etag[0] = a->region[0] = a->location[0] = a->error[0] = 0;
    a->length = a->total = a->range_from = UINT64_MAX;
    a->received = a->error_len = 0;
    a->date_s = a->modified_s = a->retry_after_s = 0;
}

/* A line at a time, those of "100 Continue" and of a proxy's CONNECT too. */
static size_t header_line(char *line, size_t size, size_t count, void *arg)
{
    struct s3_transfer *t = arg;
    struct s3_answer *a = &t->x->answer;
    char copy[1024];
    size_t len = size * count;
    int n = snprintf(copy, sizeof(copy), "%.*s", (int)min_u64(len, sizeof(copy) - 1), line);
    while (n > 0 && (copy[n - 1] == '\n' || copy[n - 1] == '\r' || copy[n - 1] == ' '))
        copy[--n] = 0;
    if (strncmp(copy, "HTTP/", 5) == 0) {
        const char *space = strchr(copy, ' ');
        answer_clear(a);
        acknowledge(t->http);
        a->status = space ? (int)strtol(space + 1, NULL, 10) : 0;
        return len;
    }
    char *colon = strchr(copy, ':');
    if (!colon)
        return len;
    *colon = 0;
    const char *value = colon + 1 + strspn(colon + 1, " \t");
    read_header(a, copy, value);
    return len;
}

static enum s3_wire wire_of(CURLcode rc)
{
    switch ((int)rc) {
    case CURLE_OK:
        return S3_WIRE_OK;
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
        return S3_WIRE_DNS;
    case CURLE_COULDNT_CONNECT:
        return S3_WIRE_CONNECT;
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_SSL_PINNEDPUBKEYNOTMATCH:
        return S3_WIRE_TLS_TRUST;
    case CURLE_SSL_CONNECT_ERROR:
        return S3_WIRE_TLS;
    case CURLE_OPERATION_TIMEDOUT:
        return S3_WIRE_STALLED;
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_ENGINE_NOTFOUND:
    case CURLE_SSL_ENGINE_SETFAILED:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_URL_MALFORMAT:
    case CURLE_NOT_BUILT_IN:
    case CURLE_BAD_FUNCTION_ARGUMENT:
        return S3_WIRE_CONFIG;
    case CURLE_WRITE_ERROR:
        return S3_WIRE_REFUSED;
    default:
        return S3_WIRE_BROKEN;
    }
}

/* What is the same for every exchange of this handle. */
static void set_constants(struct s3_http *h, struct s3_transfer *t)
{
    CURL *c = t->curl;
    t->http = h;
    curl_easy_setopt(c, CURLOPT_OPENSOCKETFUNCTION, open_socket);
    curl_easy_setopt(c, CURLOPT_OPENSOCKETDATA, h);
    curl_easy_setopt(c, CURLOPT_CLOSESOCKETFUNCTION, close_socket);
    curl_easy_setopt(c, CURLOPT_CLOSESOCKETDATA, h);
    curl_easy_setopt(c, CURLOPT_PRIVATE, t);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_QUICK_EXIT, 1L); /* never waits for a name server */
    curl_easy_setopt(c, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(c, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(c, CURLOPT_UPLOAD_BUFFERSIZE, UPLOAD_BUFFER);
    curl_easy_setopt(c, CURLOPT_BUFFERSIZE, DOWNLOAD_BUFFER);
    curl_easy_setopt(c, CURLOPT_MAXAGE_CONN, IDLE_S);
    curl_easy_setopt(c, CURLOPT_DNS_CACHE_TIMEOUT, DNS_S);
    curl_easy_setopt(c, CURLOPT_DNS_SHUFFLE_ADDRESSES, 1L);
    curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT, CONNECT_S);
    curl_easy_setopt(c, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(c, CURLOPT_LOW_SPEED_TIME, (long)S3_STALL_S);
    curl_easy_setopt(c, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(c, CURLOPT_ERRORBUFFER, t->trouble);
    curl_easy_setopt(c, CURLOPT_SHARE, h->options.share ? h->options.share->share : NULL);
    if (h->ca_file)
        curl_easy_setopt(c, CURLOPT_CAINFO, h->ca_file);
    if (h->options.no_proxy)
        curl_easy_setopt(c, CURLOPT_PROXY, "");
    curl_easy_setopt(c, CURLOPT_READFUNCTION, read_body);
    curl_easy_setopt(c, CURLOPT_READDATA, t);
    curl_easy_setopt(c, CURLOPT_SEEKFUNCTION, seek_body);
    curl_easy_setopt(c, CURLOPT_SEEKDATA, t);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, write_body);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, t);
    curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, header_line);
    curl_easy_setopt(c, CURLOPT_HEADERDATA, t);
}

static struct s3_transfer *transfer_get(struct s3_http *h)
{
    for (struct s3_transfer *t = h->transfers; t; t = t->next) {
        if (!t->x)
            return t;
    }
    CLEANUP_FREE struct s3_transfer *t = calloc(1, sizeof(*t));
    if (!t)
        return NULL;
    t->curl = curl_easy_init();
    if (!t->curl)
        return NULL;
    set_constants(h, t);
    t->next = h->transfers;
    h->transfers = t;
    return TAKE_PTR(t);
}

static bool set_headers(struct s3_transfer *t, const struct s3_exchange *x)
{
    curl_slist_free_all(t->headers);
    /* Without these curl would wait for a "100 Continue", and name a type of its own. */
    t->headers = curl_slist_append(NULL, "Expect:");
    bool ok = t->headers;
    for (size_t i = 0; ok && i < S3_HTTP_HEADERS_MAX && x->headers[i]; i++)
        ok = curl_slist_append(t->headers, x->headers[i]);
    curl_easy_setopt(t->curl, CURLOPT_HTTPHEADER, t->headers);
    return ok;
}

static bool headers_sound(const struct s3_exchange *x)
{
    for (size_t i = 0; i < S3_HTTP_HEADERS_MAX && x->headers[i]; i++) {
        if (strpbrk(x->headers[i], "\r\n") || !strchr(x->headers[i], ':'))
            return false;
    }
    return true;
}

static uint64_t body_bytes(const struct s3_exchange *x)
{
    uint64_t sum = 0;
    for (int i = 0; i < x->iov_count; i++)
        sum += x->iov[i].iov_len;
    return sum;
}

enum ckpt_status s3_http_start(struct s3_http *h, struct s3_exchange *x, struct ckpt_err *err)
{
    if (!headers_sound(x))
        return err_set(err, CKPT_INVALID, "an HTTP header with a line end in it");
    struct s3_transfer *t = transfer_get(h);
    if (!t || !set_headers(t, x))
        return err_set(err, CKPT_NO_MEMORY, "no memory for HTTP");
    CURL *c = t->curl;
    bool put = x->method == S3_PUT;
    curl_easy_setopt(c, CURLOPT_NOBODY, x->method == S3_HEAD ? 1L : 0L);
    curl_easy_setopt(c, CURLOPT_UPLOAD, put ? 1L : 0L);
    if (!put)
        curl_easy_setopt(c, CURLOPT_HTTPGET, x->method == S3_HEAD ? 0L : 1L);
    if (x->method == S3_HEAD)
        curl_easy_setopt(c, CURLOPT_NOBODY, 1L);
    curl_easy_setopt(c, CURLOPT_CUSTOMREQUEST, x->method == S3_DELETE ? "DELETE" : NULL);
    curl_easy_setopt(c, CURLOPT_INFILESIZE_LARGE, put ? (curl_off_t)body_bytes(x) : -1);
    curl_easy_setopt(c, CURLOPT_FRESH_CONNECT, x->fresh ? 1L : 0L);
    if (curl_easy_setopt(c, CURLOPT_URL, x->url) != CURLE_OK)
        return err_set(err, CKPT_NO_MEMORY, "no memory for HTTP");
    t->iov_at = 0;
    t->iov_offset = 0;
    t->trouble[0] = 0;
    answer_clear(&x->answer);
    x->started_ns = t->since_ns = now_ns();
    t->x = x;
    x->transfer = t;
    if (curl_multi_add_handle(h->multi, c) == CURLM_OK)
        return CKPT_OK;
    t->x = NULL;
    x->transfer = NULL;
    return err_set(err, CKPT_NO_MEMORY, "no memory for HTTP");
}

/* What curl quotes is left out: it may be a proxy's URL, with its password. */
static void words_of(CURLcode rc, const char *words, char *ret, size_t cap)
{
    int len = (int)min_u64(strcspn(words, "'\""), 200);
    snprintf(ret, cap, "%.*s", len, words);
    if (len == 0)
        snprintf(ret, cap, "%s", curl_easy_strerror(rc));
}

/* The next finished exchange that curl reports, or NULL. */
static struct s3_exchange *finished(struct s3_http *h)
{
    int left;
    CURLMsg *msg;
    while ((msg = curl_multi_info_read(h->multi, &left))) {
        if (msg->msg != CURLMSG_DONE)
            continue;
        CURLcode rc = msg->data.result;
        struct s3_transfer *t;
        if (curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, (char **)&t) != CURLE_OK)
            continue;
        struct s3_exchange *x = t->x;
        x->answer.wire = wire_of(rc);
        if (rc != CURLE_OK)
            words_of(rc, t->trouble, x->answer.trouble, sizeof(x->answer.trouble));
        s3_http_stop(h, x);
        return x;
    }
    return NULL;
}

/* The next one that is given up for being too slow, or NULL. */
static struct s3_exchange *crawling(struct s3_http *h)
{
    int64_t now = now_ns();
    for (struct s3_transfer *t = h->transfers; t; t = t->next) {
        struct s3_exchange *x = t->x;
        if (!x || !s3_too_slow(now - t->since_ns, h->options.slow_ns, x->answer.received))
            continue;
        x->answer.wire = S3_WIRE_STALLED;
        snprintf(x->answer.trouble, sizeof(x->answer.trouble),
                 "it goes slower than %d KiB a second", S3_SLOW_BYTES / 1024);
        s3_http_stop(h, x);
        return x;
    }
    return NULL;
}

struct s3_exchange *s3_http_next(struct s3_http *h, int wait_ms)
{
    int running;
    curl_multi_perform(h->multi, &running);
    struct s3_exchange *x = finished(h);
    if (!x && wait_ms > 0) {
        curl_multi_poll(h->multi, NULL, 0, wait_ms, NULL);
        curl_multi_perform(h->multi, &running);
        x = finished(h);
    }
    return x ? x : crawling(h);
}

void s3_http_stop(struct s3_http *h, struct s3_exchange *x)
{
    struct s3_transfer *t = x->transfer;
    if (!t)
        return;
    curl_multi_remove_handle(h->multi, t->curl);
    t->x = NULL;
    x->transfer = NULL;
}
