/* A place in an object store: what s3://bucket/prefix?options and the environment say.
 *
 *     option        value                        else from
 *     endpoint      http[s]://host[:port][/base] AWS_ENDPOINT_URL_S3 and so on (s3_settings.h)
 *     region        us-east-1                    AWS_REGION and so on; us-east-1
 *     style         path | virtual               profile; virtual for AWS, path for others, and
 *                                                for buckets whose name is none for a host
 *     profile       name                         AWS_PROFILE and so on (s3_profile.h)
 *     ca            file                         AWS_CA_BUNDLE, the system's
 *     payload       signed | unsigned            unsigned over TLS, signed without
 *     connections   1 to 64, of one handle       8
 *
 * Options are joined by '&'; %XX in a value is decoded.  No secret belongs in a URL: one
 * that has a user or password is refused without being quoted. */
#pragma once

#include "storage/store/s3_settings.h"
#include "storage/store/store.h"

#define S3_BUCKET_MAX      63
#define S3_HOST_MAX        340 /* bucket, name and port */
#define S3_CONNECTIONS     8
#define S3_CONNECTIONS_MAX 64

enum s3_payload { S3_PAYLOAD_AUTO, S3_PAYLOAD_SIGNED, S3_PAYLOAD_UNSIGNED };

struct s3_place {
    char bucket[S3_BUCKET_MAX + 1];
    char prefix[STORE_KEY_MAX + 2]; /* "" or with '/' behind it */
    bool tls;
    bool aws;          /* the host follows from the region */
    bool virtual_host; /* bucket.host/key, not host/bucket/key */
    bool loopback;     /* never through a proxy */
    char host[256];    /* name[:port] of the endpoint; of AWS: see s3_place_host */
    char base[256];    /* path of the endpoint, "" or "/x" */
    char region[S3_REGION_MAX + 1];
    char profile[129];                /* "" = as the environment says */
    char ca_file[S3_CA_FILE_MAX + 1]; /* "" = the system's */
    enum s3_payload payload;
    unsigned connections;
};

/* path: "bucket/prefix"; query may be NULL.  env as in s3_creds.h (NULL = getenv).
 * CKPT_INVALID, naming the option and what would be right. */
enum ckpt_status s3_place_parse(const char *path, const char *query, s3_env_fn *env, void *env_arg,
                                struct s3_place *ret, struct ckpt_err *err) CKPT_MUST_CHECK;
/* The Host of requests in `region`. */
void s3_place_host(const struct s3_place *place, const char *region, char ret[S3_HOST_MAX + 1]);
/* The unencoded path of `key` ("" = the bucket) in requests: CKPT_LIMIT when prefix and
 * key are longer than the 1,024 bytes that S3 takes. */
#define S3_PATH_MAX (256 + 2 + S3_BUCKET_MAX + 2 * STORE_KEY_MAX + 1)
enum ckpt_status s3_place_path(const struct s3_place *place, const char *key,
                               char ret[S3_PATH_MAX + 1], struct ckpt_err *err) CKPT_MUST_CHECK;
