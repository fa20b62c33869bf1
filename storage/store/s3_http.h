/* HTTP/1.1 for the S3 store: several exchanges at a time on kept connections, by
 * libcurl, without copies of whole bodies.  Knows nothing of S3 but header names.
 *
 * One s3_http per handle and thread (a multi handle of its own; nothing is shared but
 * names and TLS sessions, by s3_http_share).  An exchange is caller-owned memory:
 *
 *     s3_http_start(h, x)  ...  while ((x = s3_http_next(h, wait_ms)) == NULL) ...
 *
 * Between start and the moment when next or stop gives it back, nobody else touches it,
 * nor what it borrows (URL, headers, body, the memory behind `take`).
 *
 * Every exchange ends: silent ones after S3_STALL_S, those that only just move by
 * s3_too_slow, an error's body after S3_ERROR_BODY_END bytes, and a 2xx when `take` wants no
 * more of it. */
#pragma once

#include <sys/uio.h>

#include "storage/store/s3_retry.h"

#define S3_HTTP_HEADERS_MAX 16
#define S3_ERROR_BODY_MAX   8191  /* kept */
#define S3_ERROR_BODY_END   65536 /* read */
#define S3_ETAG_MAX         127

enum s3_method { S3_GET, S3_HEAD, S3_PUT, S3_DELETE };
const char *s3_method_name(enum s3_method method);

/* What came back, as far as it came. */
struct s3_answer {
    enum s3_wire wire;
    int status;                 /* 0 = none */
    char trouble[256];          /* libcurl's words for `wire` */
    char etag[S3_ETAG_MAX + 1]; /* as sent, with quotes; "" = none */
    char region[64];            /* x-amz-bucket-region */
    char location[256];         /* of a redirect, cut off */
    uint64_t length;            /* of the body as announced; UINT64_MAX = not said */
    uint64_t range_from, total; /* Content-Range; total UINT64_MAX = not said */
    uint64_t received;          /* body bytes that came */
    int64_t date_s, modified_s; /* Unix time; 0 = not said */
    int64_t retry_after_s;
    char error[S3_ERROR_BODY_MAX + 1]; /* body of any other status, or of a 2xx without `take` */
    size_t error_len;
};

struct s3_exchange;
/* Takes body bytes of a 2xx, those from `at` on; false: wants no more (S3_WIRE_REFUSED).
 * x->answer holds what the headers said. */
typedef bool s3_take_fn(struct s3_exchange *x, uint64_t at, const void *bytes, size_t len);

struct s3_exchange {
    enum s3_method method;
    const char *url;
    const char *headers[S3_HTTP_HEADERS_MAX]; /* "Name: value"; up to the first NULL */
    const struct iovec *iov;                  /* body of a PUT */
    int iov_count;
    s3_take_fn *take; /* NULL: see answer.error */
    void *arg;        /* for take */
    bool fresh;       /* on a connection of its own */

    struct s3_answer answer;
    int64_t started_ns; /* CLOCK_MONOTONIC */

    struct s3_transfer *transfer; /* s3_http's own; NULL = not under way */
};

struct s3_http_share; /* of a place, for all its handles; any thread */
enum ckpt_status s3_http_share_new(struct s3_http_share **ret, struct ckpt_err *err)
    CKPT_MUST_CHECK;
void s3_http_share_free(struct s3_http_share *share);

struct s3_http_options {
    const char *ca_file;         /* borrowed; NULL = the system's */
    bool no_proxy;               /* whatever the environment says */
    unsigned connections;        /* kept open, and exchanges at a time, at most */
    int64_t slow_ns;             /* instead of S3_SLOW_S, for tests; 0 = that */
    struct s3_http_share *share; /* borrowed */
};
struct s3_http;
enum ckpt_status s3_http_new(const struct s3_http_options *options, struct s3_http **ret,
                             struct ckpt_err *err) CKPT_MUST_CHECK;
/* Aborts what is under way. */
void s3_http_free(struct s3_http *h);

/* CKPT_NO_MEMORY; CKPT_INVALID for a header with a line end. */
enum ckpt_status s3_http_start(struct s3_http *h, struct s3_exchange *x, struct ckpt_err *err)
    CKPT_MUST_CHECK;
/* Moves everything on for at most wait_ms and returns an exchange that is over, or NULL. */
struct s3_exchange *s3_http_next(struct s3_http *h, int wait_ms);
/* Gives it up: its connection is closed.  Nothing happens if it is not under way. */
void s3_http_stop(struct s3_http *h, struct s3_exchange *x);
