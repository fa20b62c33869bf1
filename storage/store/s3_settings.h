/* Where S3 is, as the usual variables and the profile in ~/.aws/config say it.
 *
 *   region      AWS_REGION, AWS_DEFAULT_REGION, profile's region
 *   endpoint    AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, profile's services section (s3),
 *               profile's endpoint_url; none of them with AWS_IGNORE_CONFIGURED_ENDPOINT_URLS
 *               (the endpoint of STS likewise, with AWS_ENDPOINT_URL_STS and sts)
 *   addressing  profile's s3 section: addressing_style = auto | path | virtual
 *   CA          AWS_CA_BUNDLE, profile's ca_bundle */
#pragma once

#include "storage/store/s3_creds.h"

#define S3_ENDPOINT_MAX 1023
#define S3_CA_FILE_MAX  4095

enum s3_addressing {
    S3_ADDRESSING_AUTO, /* the caller decides: path style for endpoints that are not AWS's */
    S3_ADDRESSING_PATH,
    S3_ADDRESSING_VIRTUAL,
};

/* "" = nothing says it. */
struct s3_settings {
    char region[S3_REGION_MAX + 1];
    char endpoint[S3_ENDPOINT_MAX + 1];     /* "http[s]://host[:port][/base]", no final '/' */
    char sts_endpoint[S3_ENDPOINT_MAX + 1]; /* of the Security Token Service; the same form */
    char ca_file[S3_CA_FILE_MAX + 1];
    enum s3_addressing addressing;
};

/* options: profile, env and env_arg are used.  CKPT_INVALID with file or variable and the
 * value's trouble; CKPT_INVALID for a profile that was asked for and is not there. */
enum ckpt_status s3_settings_read(const struct s3_creds_options *options, struct s3_settings *ret,
                                  struct ckpt_err *err) CKPT_MUST_CHECK;
