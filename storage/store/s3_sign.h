/* Signature Version 4 of AWS, for S3: names, hashes and the Authorization header.
 *
 * Pure: no clock, no I/O, no allocation, nothing that can run out.  The canonical
 * request is hashed while it is made and never lies in memory as a whole.
 *
 *     CanonicalRequest = METHOD \n path \n query \n (name:value\n)* \n names \n payload
 *     StringToSign     = AWS4-HMAC-SHA256 \n date \n scope \n hex(SHA-256(CanonicalRequest))
 *     signing key      = HMAC(HMAC(HMAC(HMAC("AWS4" secret, day), region), service), ...)
 *
 * As S3 wants it (other services differ): the path is encoded once and '/' stays, no
 * "." or ".." or "//" is folded.  What is sent must be what was signed, so the request
 * line comes out of s3_sign too (`target`); the caller keeps its HTTP library from
 * touching it (CURLOPT_PATH_AS_IS).
 * Source: AWS documentation, "Authenticating Requests: Using the Authorization Header". */
#pragma once

#include <sys/uio.h>

#include "formats/base.h"

#define S3_KEY_ID_MAX        128
#define S3_SECRET_MAX        256
#define S3_SESSION_TOKEN_MAX 8191 /* STS promises no limit; seen: up to about 2 KiB */
#define S3_REGION_MAX        63
#define S3_SIGN_PAIRS_MAX    32   /* query pairs; headers */
#define S3_TARGET_MAX        8191 /* encoded path and query */
#define S3_AUTHORIZATION_MAX 2047

/* For payload_hash when TLS protects the body. */
#define S3_UNSIGNED_PAYLOAD "UNSIGNED-PAYLOAD"
/* SHA-256 of nothing: the payload_hash of GET, HEAD and DELETE. */
#define S3_EMPTY_PAYLOAD "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

/* What a request is signed with.  Secret: never printed; s3_keys_fini wipes it. */
struct s3_keys {
    char id[S3_KEY_ID_MAX + 1];
    char secret[S3_SECRET_MAX + 1];
    char token[S3_SESSION_TOKEN_MAX + 1]; /* "" = none */
    int64_t expires_s;                    /* Unix time; INT64_MAX = never, or not known */
    uint64_t generation;                  /* new for other keys; 0 = no keys in here yet */
};
void s3_keys_fini(struct s3_keys *keys);

/* A query parameter, or a header.  value NULL = "". */
struct s3_pair {
    const char *name;
    const char *value;
};

/* All strings are borrowed, NUL-terminated and unencoded. */
struct s3_request {
    const char *method;
    const char *host; /* as the Host header will say it: with the port unless it is the default */
    const char *path; /* "/bucket/key" or "/key": bytes, unencoded, begins with '/' */
    const struct s3_pair *query; /* any order */
    size_t query_count;
    /* Headers to be signed, any order and case, without those that the signer makes: Host,
     * X-Amz-Date, X-Amz-Content-Sha256, X-Amz-Security-Token.  Sign every x-amz-* one;
     * others only if no proxy between may change them. */
    const struct s3_pair *headers;
    size_t header_count;
    const char *payload_hash; /* 64 hex digits (s3_payload_hash) or S3_UNSIGNED_PAYLOAD */
    int64_t time_s;           /* Unix time, by the server's clock as far as it is known */
};

/* What to send besides the caller's headers:
 *     <method> <target> HTTP/1.1
 *     X-Amz-Date: <date>
 *     X-Amz-Content-Sha256: <the request's payload_hash>     service "s3" alone has it
 *     X-Amz-Security-Token: <keys->token>        if that is not ""
 *     Authorization: <authorization> */
struct s3_signature {
    char target[S3_TARGET_MAX + 1]; /* encoded path, and "?query" if there is one */
    char date[sizeof("20130524T000000Z")];
    char authorization[S3_AUTHORIZATION_MAX + 1];
};

/* Region, service and the signing key of the day.  One per thread, caller's memory;
 * filled by init, no member is for callers. */
struct s3_signer {
    char region[S3_REGION_MAX + 1];
    char service[16];
    uint64_t generation;
    char day[sizeof("20130524")]; /* of the key; "" = none made */
    uint8_t key[32];
};
/* service: "s3" (or "sts").  CKPT_INVALID for a region that is empty, too long or not of
 * [A-Za-z0-9._~-] (it goes into a header).  Called again, it changes the region. */
enum ckpt_status s3_signer_init(struct s3_signer *signer, const char *region, const char *service,
                                struct ckpt_err *err) CKPT_MUST_CHECK;
/* Wipes the key. */
void s3_signer_fini(struct s3_signer *signer);

/* Signs.  CKPT_INVALID: a method, host, header, payload hash or time that cannot be
 * signed (control characters, a header that the signer makes); CKPT_LIMIT: one of the
 * limits above.  Errors name what, and never quote a value; *ret is then of no use. */
enum ckpt_status s3_sign(struct s3_signer *signer, const struct s3_keys *keys,
                         const struct s3_request *request, struct s3_signature *ret,
                         struct ckpt_err *err) CKPT_MUST_CHECK;

/* Lower-case hex of the SHA-256 of the concatenated parts; 64 digits and a NUL. */
void s3_payload_hash(const struct iovec *iov, int count, char ret[65]);
/* The encoded path and query alone, as s3_sign makes them: `cap` bytes with the NUL.
 * CKPT_LIMIT when it does not fit. */
enum ckpt_status s3_target(const char *path, const struct s3_pair *query, size_t query_count,
                           char *ret, size_t cap, struct ckpt_err *err) CKPT_MUST_CHECK;
