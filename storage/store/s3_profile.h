/* ~/.aws/config and ~/.aws/credentials, read into memory: profiles and sections.
 *
 *     [profile train]              credentials: [train]; config's [default] has no "profile"
 *     region = eu-central-1
 *     s3 =
 *       addressing_style = path    a setting inside one: "s3.addressing_style"
 *
 * Names of settings are compared without case, those of sections exactly; the last one
 * of two counts; credentials come before config.  '#' and ';' begin a comment at the start
 * of a line and after a blank (not in a credential_process).  Holds secrets, wiped at the
 * end.  Immutable, so any thread may read it. */
#pragma once

#include "storage/store/s3_creds.h"

#define S3_PROFILE_FILE_MAX 1048576 /* bytes of a file */

enum s3_section {
    S3_SECTION_PROFILE,
    S3_SECTION_SERVICES, /* [services NAME] */
};

struct s3_profiles;

/* Files that are not there are empty, and so is one in the home that may not be read (the
 * home of another user, in a container); one that a variable names must be readable.  Places: AWS_CONFIG_FILE,
 * AWS_SHARED_CREDENTIALS_FILE, else below HOME (else the home of the user).
 * CKPT_INVALID with file and line, never with what stands there; errors of reading. */
enum ckpt_status s3_profiles_load(s3_env_fn *env, void *env_arg, struct s3_profiles **ret,
                                  struct ckpt_err *err) CKPT_MUST_CHECK;
void s3_profiles_free(struct s3_profiles *profiles);

bool s3_profiles_have(const struct s3_profiles *profiles, const char *profile);
/* The value, or NULL; not empty; lives as long as `profiles`. */
const char *s3_profiles_get(const struct s3_profiles *profiles, enum s3_section section,
                            const char *name, const char *setting);
/* The keys of one file, never of two mixed: *ret_id NULL when the profile has no
 * aws_access_key_id; the others may be NULL beside it. */
void s3_profiles_keys(const struct s3_profiles *profiles, const char *profile, const char **ret_id,
                      const char **ret_secret, const char **ret_token);
/* Where was looked, for messages: "FILE and FILE". */
const char *s3_profiles_places(const struct s3_profiles *profiles);

/* The profile to be used: `asked`, else AWS_DEFAULT_PROFILE, AWS_PROFILE (in botocore's order),
 * "default".  *ret_named: somebody named it, so it must be there. */
const char *s3_profile_name(const char *asked, s3_env_fn *env, void *env_arg, bool *ret_named);
/* A variable that is set and not empty, else NULL.  env NULL = getenv. */
const char *s3_env_get(s3_env_fn *env, void *env_arg, const char *name);
