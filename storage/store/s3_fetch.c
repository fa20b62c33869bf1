/* s3_fetch_curl: one exchange on an easy handle of its own.  Rare (once per life of
 * temporary keys), so nothing is kept between two. */
#include "storage/store/s3_fetch.h"

#include <curl/curl.h>
#include <pthread.h>
#include <stdio.h>
#include <time.h>

/* What the callbacks see. */
struct exchange {
    const struct s3_fetch_request *request;
    struct s3_fetch_answer *answer;
    bool overflow, cancelled;
};

static size_t on_body(char *bytes, size_t size, size_t count, void *arg)
{
    struct exchange *x = arg;
    size_t n = size * count;
    if (n > S3_FETCH_BODY_MAX - x->answer->len) {
        x->overflow = true;
        return 0;
    }
    memcpy(x->answer->body + x->answer->len, bytes, n);
    x->answer->len += n;
    return n;
}

static int on_progress(void *arg, curl_off_t down_all, curl_off_t down, curl_off_t up_all,
                       curl_off_t up)
{
    struct exchange *x = arg;
    (void)down_all, (void)down, (void)up_all, (void)up;
    x->cancelled = x->request->limits.cancel && atomic_load(x->request->limits.cancel);
    return x->cancelled;
}

/* What is left of the request's time and of the operation's; at least 1 ms. */
static long time_left_ms(const struct s3_fetch_request *request)
{
    struct timespec ts;
    int64_t left = request->timeout_ms;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    if (request->limits.deadline_ns) {
        int64_t until =
            (request->limits.deadline_ns - ts.tv_sec * INT64_C(1000000000) - ts.tv_nsec) / 1000000;
        left = until < left ? until : left;
    }
    return left > 0 ? (long)left : 1;
}

/* "host:port" of the URL, without user, path and query: for messages. */
static void host_of(const char *url, char *ret, size_t cap)
{
    const char *host = strstr(url, "://");
    host = host ? host + 3 : url;
    size_t n = strcspn(host, "/?#");
    const char *user = memchr(host, '@', n);
    if (user) {
        n -= (size_t)(user + 1 - host);
        host = user + 1;
    }
    snprintf(ret, cap, "%.*s", (int)n, host);
}

static enum ckpt_status outcome(const struct exchange *x, CURLcode code, const char *detail,
                                struct ckpt_err *err)
{
    char host[300];
    host_of(x->request->url, host, sizeof(host));
    if (code == CURLE_OK)
        return CKPT_OK;
    if (x->cancelled)
        return err_set(err, CKPT_CANCELLED, "%s: cancelled", host);
    if (x->overflow)
        return err_set(err, CKPT_LIMIT, "%s: an answer of more than %d bytes", host,
                       S3_FETCH_BODY_MAX);
    if (code == CURLE_OPERATION_TIMEDOUT)
        return err_set(err, CKPT_TIMEOUT, "%s: no answer in time", host);
    if (code == CURLE_OUT_OF_MEMORY)
        return err_set(err, CKPT_NO_MEMORY, "%s: out of memory", host);
    /* What curl quotes is left out: it may be a proxy's URL, with its password. */
    if (strcspn(detail, "'\"") == 0)
        detail = curl_easy_strerror(code);
    return err_set(err, CKPT_UNREACHABLE, "%s: %.*s", host, (int)strcspn(detail, "'\""), detail);
}

static void set_options(CURL *curl, struct exchange *x, struct curl_slist *headers, char *detail)
{
    const struct s3_fetch_request *r = x->request;
    curl_easy_setopt(curl, CURLOPT_URL, r->url);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(curl, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(curl, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, time_left_ms(r));
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, detail);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, x);
    curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(curl, CURLOPT_XFERINFODATA, x);
    if (r->direct)
        curl_easy_setopt(curl, CURLOPT_PROXY, "");
    if (r->ca_file)
        curl_easy_setopt(curl, CURLOPT_CAINFO, r->ca_file);
    if (strcmp(r->method, "GET") != 0) {
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS, r->body ? r->body : "");
        curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, r->method);
    }
}

static enum ckpt_status run(CURL *curl, struct exchange *x, struct curl_slist *headers,
                            struct ckpt_err *err)
{
    char detail[CURL_ERROR_SIZE] = "";
    long status = 0;
    set_options(curl, x, headers, detail);
    CURLcode code = curl_easy_perform(curl);
    x->answer->body[x->answer->len] = '\0';
    if (code == CURLE_OK)
        curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    x->answer->status = (int)status;
    return outcome(x, code, detail, err);
}

/* NULL: out of memory. */
static struct curl_slist *list_headers(const struct s3_fetch_request *request)
{
    /* Expect: would wait for servers that do not answer it. */
    struct curl_slist *list = curl_slist_append(NULL, "Expect:");
    for (size_t i = 0; list && i < S3_FETCH_HEADERS_MAX && request->headers[i]; i++) {
        struct curl_slist *more = curl_slist_append(list, request->headers[i]);
        if (!more)
            curl_slist_free_all(list);
        list = more;
    }
    return list;
}

static void start_curl(void)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
}

enum ckpt_status s3_fetch_curl(void *arg, const struct s3_fetch_request *request,
                               struct s3_fetch_answer *ret, struct ckpt_err *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    struct exchange x = { .request = request, .answer = ret };
    enum ckpt_status st = CKPT_NO_MEMORY;
    (void)arg;
    pthread_once(&once, start_curl);
    ret->len = 0;
    ret->status = 0;
    CURL *curl = curl_easy_init();
    struct curl_slist *headers = list_headers(request);
    if (curl && headers)
        st = run(curl, &x, headers, err);
    else
        err_set(err, st, "out of memory for an HTTP request");
    curl_slist_free_all(headers);
    curl_easy_cleanup(curl);
    return st;
}
