/* A call: one request that is made until it is answered, for good or bad.  The caller
 * (one per handle) signs, sends several at a time, retries by class, renews keys, follows
 * the bucket's region, corrects the clock, and hedges late GETs; s3_retry.h has the
 * rules, s3_http.h the wire.
 *
 *   READY ──send──► RUNNING ──good──► done
 *     ▲                │ transient, throttled: wait; keys, clock, region: at once
 *     └────────────────┤
 *                      └ permanent, or S3_PATIENCE_S of failures: failed  */
#pragma once

#include "storage/store/s3_site.h"

#define S3_CALL_PAIRS 6
/* A call is given up, whatever its deadline, when it failed three times and the first of
 * them was so long ago. */
#define S3_PATIENCE_S 120
/* The same when somebody waits for a place that never answered, because its name, its port, TLS
 * there or whether it is an object store is in doubt. */
#define S3_PATIENCE_ATTENDED_S 4

struct s3_call;
/* A 2xx body, as s3_take_fn; comes from 0 again when the request is repeated.  Sets
 * call->odd for an answer that is none to this request: it is asked again. */
typedef bool s3_call_take_fn(struct s3_call *call, const struct s3_answer *answer, uint64_t at,
                             const void *bytes, size_t len);
/* Looks at a 2xx that came whole; false: no answer to this request, which is asked again. */
typedef bool s3_call_check_fn(const struct s3_call *call, const struct s3_answer *answer);

struct s3_call {
    enum s3_method method;
    const char *key;                     /* borrowed; "" = the bucket */
    struct s3_pair query[S3_CALL_PAIRS]; /* borrowed strings, up to a NULL name */
    struct s3_pair headers[S3_CALL_PAIRS];
    char range[48];          /* a Range header's value; "" = none */
    const struct iovec *iov; /* of a PUT */
    int iov_count;
    const char *payload_hash; /* of a PUT; NULL = of nothing */
    s3_call_take_fn *take;    /* NULL: the body is of no interest */
    s3_call_check_fn *check;  /* of a call on the bucket; NULL: any 2xx will do */
    uint64_t expect;          /* of a 2xx body; fewer: it is not whole */
    bool hedge;               /* may run twice at a time */
    bool once;                /* not repeated, whatever comes */
    bool lie;                 /* a PUT with a wrong digest: S3_DAMAGED is its answer */
    void *arg;
    bool odd; /* set by take */

    struct {
        int status; /* HTTP; 0 = none */
        enum s3_class class_;
        char etag[S3_ETAG_MAX + 1];
        uint64_t length, total, received;
        int64_t date_s, modified_s;
        bool repeated; /* went out more than once: the first may have been done */
    } ret;

    struct {                                       /* the caller's own */
        int64_t failed_ns, not_before_ns, sent_ns; /* failed: first; 0 = never */
        unsigned tries, moved, running;
        bool renewed, reclocked, hedged, done;
    } own;
};

struct s3_caller;
/* attended: store_options's. */
enum ckpt_status s3_caller_new(struct s3_site *site, const char *url, bool attended,
                               struct s3_caller **ret, struct ckpt_err *err) CKPT_MUST_CHECK;
void s3_caller_free(struct s3_caller *c);

/* Runs all calls, `connections` at a time; ends with the first that fails for good (the
 * others are aborted).  limits: of the handle.  ret is set in those that got an answer. */
enum ckpt_status s3_caller_run(struct s3_caller *c, const struct s3_limits *limits,
                               const char *what, struct s3_call *calls, size_t count,
                               struct ckpt_err *err) CKPT_MUST_CHECK;
