/* The sources of credentials, as the chain in s3_creds.c calls them.  For s3_creds*.c
 * alone; users include s3_creds.h.
 *
 * Every source has the shape of s3_source_fn.  CKPT_NOT_FOUND with a few words in err
 * ("AWS_ROLE_ARN is not set") means: not configured here, ask the next one.  Any other
 * failure ends the search. */
#pragma once

#include "storage/store/s3_creds.h"
#include "storage/store/s3_profile.h"

#define S3_FROM_MAX 255

/* What one search for keys works with. */
struct s3_search {
    s3_env_fn *env;
    void *env_arg;
    s3_fetch_fn *fetch;
    void *fetch_arg;
    const struct s3_profiles *profiles;
    const char *profile; /* the profile to be used */
    bool profile_named;  /* somebody named it, so it must be there */
    const char *region;  /* "" = none known */
    const char *sts;     /* endpoint of STS; "" = AWS's */
    const char *ca_file; /* "" = the system's */
    int64_t now_s;
    struct s3_limits limits;
};

struct s3_found {
    struct s3_keys keys;        /* without generation */
    char from[S3_FROM_MAX + 1]; /* "profile \"a\", role arn:... by STS" */
    bool fixed;                 /* written down (environment, file): nobody was asked */
};

typedef enum ckpt_status s3_source_fn(const struct s3_search *search, struct s3_found *ret,
                                      struct ckpt_err *err);
s3_source_fn s3_source_env;
s3_source_fn s3_source_profile;
s3_source_fn s3_source_web_identity;
s3_source_fn s3_source_container;
s3_source_fn s3_source_instance;

/* credential_process of a profile. */
enum ckpt_status s3_source_process(const struct s3_search *search, const char *command,
                                   struct s3_found *ret, struct ckpt_err *err) CKPT_MUST_CHECK;

/* ---- STS ---- */

struct s3_role {
    const char *arn;
    const char *session;     /* NULL = a name of ours */
    const char *external_id; /* NULL = none */
    const char *duration;    /* seconds as text; NULL = what STS gives */
};
/* AssumeRole in the name of `keys`. */
enum ckpt_status s3_sts_assume(const struct s3_search *search, const struct s3_role *role,
                               const struct s3_keys *keys, struct s3_found *ret,
                               struct ckpt_err *err) CKPT_MUST_CHECK;
/* AssumeRoleWithWebIdentity with the token that stands in a file. */
enum ckpt_status s3_sts_web_identity(const struct s3_search *search, const struct s3_role *role,
                                     const char *token_file, struct s3_found *ret,
                                     struct ckpt_err *err) CKPT_MUST_CHECK;

/* ---- shared by them ---- */

const char *s3_search_env(const struct s3_search *search, const char *name);
/* Loopback, or the link-local address of a credential endpoint: nobody between can listen,
 * and no proxy is asked. */
bool s3_host_is_near(const char *host);
/* search->fetch, up to three times with a pause when nobody answers, or with 429 or 5xx.
 * `what` begins error texts: "STS", "the container endpoint". */
enum ckpt_status s3_search_fetch(const struct s3_search *search, const char *what,
                                 struct s3_fetch_request *request, struct s3_fetch_answer *ret,
                                 struct ckpt_err *err) CKPT_MUST_CHECK;
/* A file that holds one token: its first line, 1 to cap-1 printable characters. */
enum ckpt_status s3_search_token_file(const char *path, char *ret, size_t cap, struct ckpt_err *err)
    CKPT_MUST_CHECK;
/* Copies the parts of keys, each checked: printable ASCII of a known length.  token NULL =
 * none; expires NULL = never.  CKPT_DENIED with `what`, never with a value. */
enum ckpt_status s3_answer_keys(const char *what, const char *id, const char *secret,
                                const char *token, const char *expires, struct s3_keys *ret,
                                struct ckpt_err *err) CKPT_MUST_CHECK;
/* The JSON of containers, instances ("Token") and processes ("SessionToken"). */
enum ckpt_status s3_answer_json(const char *what, const char *json, size_t len,
                                const char *token_name, struct s3_keys *ret, struct ckpt_err *err)
    CKPT_MUST_CHECK;
/* "2015-08-30T12:36:00Z", fractions of a second and offsets as "+01:00" allowed. */
bool s3_answer_time(const char *text, int64_t *ret_s);
/* Text of an answer for a message: printable, cut; "" when it holds a part of `secret`. */
void s3_answer_quote(const char *text, const char *secret, char *ret, size_t cap);
