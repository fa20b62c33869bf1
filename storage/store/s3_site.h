/* What all handles on one place share: where it is, whose keys, how it behaves, how much
 * it may be asked.  One object per (place, profile) in a process, counted; small, behind
 * one lock that is never held across I/O. */
#pragma once

#include <pthread.h>

#include "storage/store/s3_http.h"
#include "storage/store/s3_url.h"

/* What the server checks of a body; found by probe, cheapest first. */
enum s3_digest {
    S3_DIGEST_NONE,
    S3_DIGEST_CRC32C, /* x-amz-checksum-crc32c */
    S3_DIGEST_SHA256, /* the signed x-amz-content-sha256 */
    S3_DIGEST_MD5,    /* Content-MD5 */
};

/* What a probe found out.  A server that does not give what was just put is refused. */
struct s3_traits {
    bool conditional; /* If-None-Match: * is honoured */
    enum s3_digest digest;
};

/* Requests that went out, and why more than once. */
struct s3_counts {
    uint64_t requests, puts, gets, lists, others;
    uint64_t retries, throttled, hedges, renewed, moved;
    uint64_t put_bytes, get_bytes; /* bodies of requests that succeeded */
};

enum s3_probe { S3_PROBE_NONE, S3_PROBE_RUNNING, S3_PROBE_DONE };

struct s3_site {
    struct s3_place place; /* does not change */
    struct s3_creds *creds;
    struct s3_http_share *share;
    struct {
        pthread_mutex_t lock;
        char region[S3_REGION_MAX + 1]; /* changes when the server says another */
        int64_t skew_s;                 /* server's clock minus ours */
        struct s3_budget budget;
        struct s3_hedge hedge;
        struct s3_counts counts;
        enum s3_probe probe;
        struct s3_traits traits; /* when probe is DONE */
        bool unordered;          /* a list was seen that was not in byte order */
        bool answered;           /* HTTP came from there, good or bad */
    } shared;
    unsigned refs; /* under the table's lock, as next */
    struct s3_site *next;
};

/* The site of `place`, made at first use. */
enum ckpt_status s3_site_get(const struct s3_place *place, struct s3_site **ret,
                             struct ckpt_err *err) CKPT_MUST_CHECK;
struct s3_site *s3_site_ref(struct s3_site *site);
void s3_site_unref(struct s3_site *site);

void s3_site_region(struct s3_site *site, char ret[S3_REGION_MAX + 1]);
void s3_site_set_region(struct s3_site *site, const char *region);
int64_t s3_site_skew_s(struct s3_site *site);
void s3_site_set_skew(struct s3_site *site, int64_t skew_s);
bool s3_site_ordered(struct s3_site *site);
void s3_site_set_unordered(struct s3_site *site);
void s3_site_counts(struct s3_site *site, struct s3_counts *ret);
