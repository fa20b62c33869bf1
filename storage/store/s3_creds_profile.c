/* Credentials of a profile: its keys, a role that it assumes in the name of another
 * profile or source, or a command that prints keys. */
#include <stdio.h>
#include <strings.h>

#include "storage/store/s3_creds_source.h"

#define CHAIN_MAX 5 /* profiles that name one another by source_profile */

static enum ckpt_status resolve(const struct s3_search *search, const char *profile, int depth,
                                struct s3_found *ret, struct ckpt_err *err);

static const char *get(const struct s3_search *search, const char *profile, const char *setting)
{
    return s3_profiles_get(search->profiles, S3_SECTION_PROFILE, profile, setting);
}

/* CKPT_NOT_FOUND when the profile has none. */
static enum ckpt_status static_keys(const struct s3_search *search, const char *profile,
                                    struct s3_found *ret, struct ckpt_err *err)
{
    const char *id, *secret, *token;
    char what[S3_FROM_MAX + 1];
    s3_profiles_keys(search->profiles, profile, &id, &secret, &token);
    if (!id)
        return err_set(err, CKPT_NOT_FOUND, "profile \"%s\" has no keys", profile);
    snprintf(what, sizeof(what), "profile \"%s\"", profile);
    enum ckpt_status st = s3_answer_keys(what, id, secret, token, NULL, &ret->keys, err);
    if (st == CKPT_OK)
        snprintf(ret->from, sizeof(ret->from), "%s", what);
    ret->fixed = st == CKPT_OK;
    return st == CKPT_DENIED ? CKPT_INVALID : st;
}

static enum ckpt_status named_source(const struct s3_search *search, const char *profile,
                                     const char *source, struct s3_found *ret, struct ckpt_err *err)
{
    if (strcasecmp(source, "Environment") == 0)
        return s3_source_env(search, ret, err);
    if (strcasecmp(source, "EcsContainer") == 0)
        return s3_source_container(search, ret, err);
    if (strcasecmp(source, "Ec2InstanceMetadata") == 0)
        return s3_source_instance(search, ret, err);
    return err_set(err, CKPT_INVALID,
                   "profile \"%s\": credential_source is Environment, EcsContainer or "
                   "Ec2InstanceMetadata",
                   profile);
}

/* In whose name the role is assumed. */
static enum ckpt_status source_keys(const struct s3_search *search, const char *profile, int depth,
                                    struct s3_found *ret, struct ckpt_err *err)
{
    const char *other = get(search, profile, "source_profile");
    const char *source = get(search, profile, "credential_source");
    enum ckpt_status st;
    if (!other == !source)
        return err_set(err, CKPT_INVALID,
                       "profile \"%s\" has a role_arn: it needs source_profile or "
                       "credential_source, one of them",
                       profile);
    if (source)
        st = named_source(search, profile, source, ret, err);
    else if (strcmp(other, profile) == 0)
        st = static_keys(search, profile, ret, err);
    else
        st = resolve(search, other, depth + 1, ret, err);
    if (st != CKPT_OK)
        err_prefix(err, "profile \"%s\", for its role", profile);
    return st == CKPT_NOT_FOUND ? CKPT_INVALID : st;
}

static enum ckpt_status assume(const struct s3_search *search, const char *profile, int depth,
                               struct s3_found *ret, struct ckpt_err *err)
{
    const char *token_file = get(search, profile, "web_identity_token_file");
    struct s3_role role = { .arn = get(search, profile, "role_arn"),
                            .session = get(search, profile, "role_session_name"),
                            .external_id = get(search, profile, "external_id"),
                            .duration = get(search, profile, "duration_seconds") };
    if (get(search, profile, "mfa_serial"))
        return err_set(err, CKPT_INVALID,
                       "profile \"%s\" asks a person for a code (mfa_serial); let a "
                       "credential_process give the keys",
                       profile);
    if (token_file)
        return s3_sts_web_identity(search, &role, token_file, ret, err);
    struct s3_found *source = calloc(1, sizeof(*source));
    if (!source)
        return err_set(err, CKPT_NO_MEMORY, "out of memory for a role");
    enum ckpt_status st = source_keys(search, profile, depth, source, err);
    if (st == CKPT_OK)
        st = s3_sts_assume(search, &role, &source->keys, ret, err);
    s3_keys_fini(&source->keys);
    free(source);
    return st;
}

static enum ckpt_status resolve(const struct s3_search *search, const char *profile, int depth,
                                struct s3_found *ret, struct ckpt_err *err)
{
    const char *command = get(search, profile, "credential_process");
    if (depth >= CHAIN_MAX)
        return err_set(err, CKPT_INVALID,
                       "profile \"%s\": source_profile goes round, or through more than %d "
                       "profiles",
                       profile, CHAIN_MAX);
    if (!s3_profiles_have(search->profiles, profile))
        return err_set(err, depth || search->profile_named ? CKPT_INVALID : CKPT_NOT_FOUND,
                       "there is no profile \"%s\" in %s", profile,
                       s3_profiles_places(search->profiles));
    /* A profile with keys that another one's role is based on is asked for its keys. */
    if (get(search, profile, "role_arn") &&
        (depth == 0 || !get(search, profile, "aws_access_key_id")))
        return assume(search, profile, depth, ret, err);
    if (get(search, profile, "aws_access_key_id"))
        return static_keys(search, profile, ret, err);
    if (command) {
        enum ckpt_status st = s3_source_process(search, command, ret, err);
        if (st != CKPT_OK)
            err_prefix(err, "profile \"%s\"", profile);
        return st;
    }
    if (get(search, profile, "sso_session") || get(search, profile, "sso_start_url"))
        return err_set(err, CKPT_INVALID,
                       "profile \"%s\" uses SSO: make another one with credential_process = aws "
                       "configure export-credentials --profile %s",
                       profile, profile);
    return err_set(err, CKPT_NOT_FOUND, "profile \"%s\" has no credentials", profile);
}

enum ckpt_status s3_source_profile(const struct s3_search *search, struct s3_found *ret,
                                   struct ckpt_err *err)
{
    char from[S3_FROM_MAX + 1];
    enum ckpt_status st = resolve(search, search->profile, 0, ret, err);
    if (st != CKPT_OK)
        return st;
    snprintf(from, sizeof(from), "%s", ret->from);
    if (strncmp(from, "profile ", 8) != 0)
        snprintf(ret->from, sizeof(ret->from), "profile \"%.80s\", %.150s", search->profile, from);
    return CKPT_OK;
}
