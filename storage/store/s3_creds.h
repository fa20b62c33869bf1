/* Whose name requests are signed in, and for how long: credentials as AWS users have
 * them, found in the order in which AWS's own tools look, and renewed before they end.
 *
 *   1 environment   AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN
 *   2 profile       of ~/.aws/credentials and ~/.aws/config: keys; role_arn with
 *                   source_profile or credential_source (STS AssumeRole) or with
 *                   web_identity_token_file; credential_process (that is also the way
 *                   for SSO: `aws configure export-credentials`)
 *   3 web identity  AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ROLE_ARN (pods of EKS)
 *   4 container     AWS_CONTAINER_CREDENTIALS_RELATIVE_URI or _FULL_URI
 *   5 instance      metadata service of EC2, version 2
 *
 * A profile that the options name comes before the environment's keys, as --profile
 * does for the AWS CLI; AWS_PROFILE does not.  A source that is configured and fails ends the search with
 * its own message: another identity in its place would be a surprise.  One that is not
 * configured is passed over; so is a profile without credentials, also one that is named (it may
 * be there for its region), but not one that is not there.
 *
 * Threads: one object for all handles of a place; every function may be called by any
 * thread.  One caller at a time refreshes, without the lock; the others go on with
 * the keys that are still good, and wait only when none are.
 * Secrets are wiped when they go, and appear in no error, log or argument list. */
#pragma once

#include "storage/store/s3_fetch.h"
#include "storage/store/s3_sign.h"

/* A variable's value, or NULL.  As getenv(), with an argument for tests. */
typedef const char *s3_env_fn(void *arg, const char *name);

struct s3_creds_options {
    const char *profile; /* NULL = as s3_profile_name finds it; copied */
    const char *region;  /* for STS; NULL = as s3_settings finds it; copied */
    s3_env_fn *env;      /* NULL = getenv */
    void *env_arg;       /* borrowed for the life of the object, as fetch_arg */
    s3_fetch_fn *fetch;  /* NULL = s3_fetch_curl */
    void *fetch_arg;
};

struct s3_creds;

/* Looks nothing up yet.  options NULL = all defaults. */
enum ckpt_status s3_creds_new(const struct s3_creds_options *options, struct s3_creds **ret,
                              struct ckpt_err *err) CKPT_MUST_CHECK;
struct s3_creds *s3_creds_ref(struct s3_creds *creds);
/* The last one frees; NULL is allowed. */
void s3_creds_unref(struct s3_creds *creds);

/* Brings `keys` up to date: the caller keeps the struct (zeroed at first) and calls this
 * before every request, which copies nothing while keys->generation is the current one.
 * now_s: Unix time.  May fetch (seconds, within `limits`) at first use and about once per
 * life of temporary keys.
 * CKPT_DENIED: none found (the text lists where it looked), or a source refused;
 * CKPT_INVALID: a configuration that cannot work, with file and name;
 * CKPT_UNREACHABLE: worth another try; CKPT_TIMEOUT, CKPT_CANCELLED: by `limits` alone.
 * A failed refresh of keys that are still good is no error. */
enum ckpt_status s3_creds_get(struct s3_creds *creds, int64_t now_s, const struct s3_limits *limits,
                              struct s3_keys *keys, struct ckpt_err *err) CKPT_MUST_CHECK;
/* The server called these keys expired or unknown (ExpiredToken, InvalidToken,
 * InvalidAccessKeyId): the next get looks again (files are read anew).  Other
 * generations than the current one are left alone, so ten handles that fail at once
 * cause one refresh.  When the source gives the same keys again, get says so: CKPT_DENIED. */
void s3_creds_invalidate(struct s3_creds *creds, uint64_t generation);

/* One line without secrets: where the keys come from, when they end. */
void s3_creds_to_text(struct s3_creds *creds, char *buf, size_t cap);
