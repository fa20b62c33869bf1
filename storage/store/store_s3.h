/* The S3 store's insides, shared by its files:
 *   store_s3.c        handle, small operations         s3_call.c    requests with retries
 *   store_s3_put.c    put, put if absent               s3_site.c    what handles share
 *   store_s3_get.c    parallel ranged reads            s3_http.c    HTTP
 *   store_s3_list.c   lists                            s3_retry.c   when to ask again
 *   store_s3_probe.c  what this server can do          s3_trouble.c words
 *
 * Memory of a handle: `connections` tries of about 50 KiB, and per open connection
 * libcurl's buffers (256 KiB up, 1 MiB down, touched as far as they are used). */
#pragma once

#include "storage/store/s3_call.h"
#include "storage/store/s3_site.h"
#include "storage/store/store_impl.h"

/* Objects that a probe writes; users cannot (".tmp" is reserved), lists do not show it. */
#define S3_PROBE_PREFIX ".tmp/probe-"

struct store_s3 {
    struct store base;
    struct s3_site *site;
    struct s3_caller *caller;
    bool attended;
};

static inline struct store_s3 *store_s3_of(struct store *s)
{
    return (struct store_s3 *)s;
}

/* Runs calls with the limits of the handle. */
enum ckpt_status s3_run(struct store_s3 *s, const char *what, struct s3_call *calls, size_t count,
                        struct ckpt_err *err) CKPT_MUST_CHECK;

/* What the server can do; probed by the first handle that asks, the others wait.
 * CKPT_UNSUPPORTED for a server that does not give what was just put. */
enum ckpt_status s3_traits(struct store_s3 *s, struct s3_traits *ret, struct ckpt_err *err)
    CKPT_MUST_CHECK;
/* Everything but the lookup of a cached answer. */
enum ckpt_status s3_probe_server(struct store_s3 *s, struct s3_traits *ret, struct ckpt_err *err)
    CKPT_MUST_CHECK;

/* Headers of a put of these bytes, held to `digest`; texts live in `ret`. */
struct s3_body {
    const struct iovec *iov;
    int count;
    char payload_hash[65], sum[32];
    struct s3_pair headers[2]; /* [0] for If-None-Match, unused until set */
    size_t header_count;
};
void s3_body_init(const struct s3_place *place, enum s3_digest digest, const struct iovec *iov,
                  int count, struct s3_body *ret);
/* The call that puts it under `key`. */
struct s3_call s3_put_call(const char *key, const struct s3_body *body);
/* Puts it if nothing lies there, whatever becomes of the answers: CKPT_OK when these bytes lie
 * there, CKPT_CONFLICT when others do.  For servers that know conditions. */
enum ckpt_status s3_put_absent(struct store_s3 *s, const char *key, struct s3_body *body,
                               struct ckpt_err *err) CKPT_MUST_CHECK;
/* Compares what lies under `key` with iov.  CKPT_NOT_FOUND. */
enum ckpt_status s3_compare(struct store_s3 *s, const char *key, const struct iovec *iov, int count,
                            bool *ret_equal, struct ckpt_err *err) CKPT_MUST_CHECK;

enum ckpt_status s3_put(struct store *base, const char *key, const struct iovec *iov, int count,
                        unsigned flags, struct ckpt_err *err) CKPT_MUST_CHECK;
enum ckpt_status s3_get(struct store *base, const char *key, const struct store_range *ranges,
                        size_t count, struct ckpt_err *err) CKPT_MUST_CHECK;
enum ckpt_status s3_get_all(struct store *base, const char *key, size_t max, void **ret,
                            size_t *ret_len, struct ckpt_err *err) CKPT_MUST_CHECK;
enum ckpt_status s3_stat(struct store *base, const char *key, struct store_stat *ret,
                         struct ckpt_err *err) CKPT_MUST_CHECK;
enum ckpt_status s3_list(struct store *base, const char *prefix, bool one_level, const char *after,
                         struct store_entry *entries, size_t cap, size_t *ret_count, bool *ret_more,
                         struct ckpt_err *err) CKPT_MUST_CHECK;
/* One page of keys under place and prefix as the server gives them, for the probe too. */
struct s3_page {
    char *bytes; /* the document: its root is ListBucketResult */
    size_t len, cap;
    int64_t date_s; /* the server's clock; 0 = not said */
};
enum ckpt_status s3_list_page(struct store_s3 *s, const char *prefix, bool one_level,
                              const char *after, const char *token, unsigned max,
                              struct s3_page *page, struct ckpt_err *err) CKPT_MUST_CHECK;
