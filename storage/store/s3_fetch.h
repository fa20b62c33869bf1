/* One small HTTP exchange, as the credential providers need it (STS, the container
 * endpoint, the instance metadata service).  Providers see the function type alone, so
 * tests put a scripted one in its place.  Objects are moved by s3_http, not by this. */
#pragma once

#include <stdatomic.h>

#include "formats/base.h"

#define S3_FETCH_BODY_MAX    65536 /* bytes of an answer; more is CKPT_LIMIT */
#define S3_FETCH_HEADERS_MAX 16

/* Until when an operation may run: as the handle of a store carries it. */
struct s3_limits {
    int64_t deadline_ns;       /* CLOCK_MONOTONIC; 0 = none */
    const atomic_bool *cancel; /* NULL = none */
};

struct s3_fetch_request {
    const char *method; /* "GET", "PUT", "POST" */
    const char *url;
    const char *headers[S3_FETCH_HEADERS_MAX]; /* "Name: value"; up to the first NULL */
    const char *body;                          /* NULL = none */
    int timeout_ms;                            /* of the whole exchange */
    bool direct;         /* link-local or loopback: no proxy, whatever the environment says */
    const char *ca_file; /* NULL = the system's */
    struct s3_limits limits;
};
struct s3_fetch_answer {
    int status;                       /* HTTP status */
    size_t len;                       /* of body */
    char body[S3_FETCH_BODY_MAX + 1]; /* NUL after len; may hold secrets: the caller wipes it */
};

/* CKPT_OK whenever an HTTP answer came, whatever its status.  CKPT_UNREACHABLE,
 * CKPT_TIMEOUT, CKPT_CANCELLED, CKPT_LIMIT.  Follows no redirect.  err names the host and
 * the trouble; never a header, a body or the query of the URL. */
typedef enum ckpt_status s3_fetch_fn(void *arg, const struct s3_fetch_request *request,
                                     struct s3_fetch_answer *ret, struct ckpt_err *err);

/* The one by libcurl; `arg` is not used.  Threads: any. */
s3_fetch_fn s3_fetch_curl;
