/* Region, endpoint, addressing and CA from variables and the profile. */
#include "storage/store/s3_settings.h"

#include <stdio.h>
#include <strings.h>

#include "storage/store/s3_profile.h"

/* What a lookup needs. */
struct look {
    s3_env_fn *env;
    void *env_arg;
    const struct s3_profiles *profiles;
    const char *profile;
    struct ckpt_err *err;
};

/* A value and who says it. */
struct said {
    const char *value, *where;
};

static bool try_variable(const struct look *look, const char *name, struct said *ret)
{
    const char *value = s3_env_get(look->env, look->env_arg, name);
    if (!value)
        return false;
    *ret = (struct said){ value, name };
    return true;
}

static bool try_setting(const struct look *look, enum s3_section section, const char *name,
                        const char *setting, struct said *ret)
{
    const char *value = s3_profiles_get(look->profiles, section, name, setting);
    if (!value)
        return false;
    *ret = (struct said){ value, setting };
    return true;
}

/* Copies a value of printable ASCII without blanks. */
static enum ckpt_status take(const struct look *look, const struct said *said, char *ret,
                             size_t cap)
{
    size_t len = strlen(said->value);
    if (len >= cap)
        return err_set(look->err, CKPT_INVALID, "%s: longer than %zu bytes", said->where, cap - 1);
    for (size_t i = 0; i < len; i++)
        if (said->value[i] <= ' ' || said->value[i] == 0x7f)
            return err_set(look->err, CKPT_INVALID,
                           "%s: holds blanks, control characters or bytes that are not ASCII",
                           said->where);
    memcpy(ret, said->value, len + 1);
    return CKPT_OK;
}

/* variable, setting: those of one service. */
static bool find_endpoint(const struct look *look, const char *variable, const char *setting,
                          struct said *ret)
{
    const char *services =
        s3_profiles_get(look->profiles, S3_SECTION_PROFILE, look->profile, "services");
    const char *ignore =
        s3_env_get(look->env, look->env_arg, "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS");
    if (!ignore)
        ignore = s3_profiles_get(look->profiles, S3_SECTION_PROFILE, look->profile,
                                 "ignore_configured_endpoint_urls");
    if (ignore && strcasecmp(ignore, "true") == 0)
        return false;
    return try_variable(look, variable, ret) || try_variable(look, "AWS_ENDPOINT_URL", ret) ||
           (services && try_setting(look, S3_SECTION_SERVICES, services, setting, ret)) ||
           try_setting(look, S3_SECTION_PROFILE, look->profile, "endpoint_url", ret);
}

/* http[s]://host[:port][/base].  A user and password there would end in logs: refused. */
static enum ckpt_status take_endpoint(const struct look *look, const struct said *said, char *ret,
                                      size_t cap)
{
    enum ckpt_status st = take(look, said, ret, cap);
    if (st != CKPT_OK)
        return st;
    const char *host = strncasecmp(ret, "http://", 7) == 0    ? ret + 7
                       : strncasecmp(ret, "https://", 8) == 0 ? ret + 8
                                                              : NULL;
    if (!host || strcspn(host, "/:") == 0 || strpbrk(host, "?#@\\"))
        return err_set(look->err, CKPT_INVALID,
                       "%s: not of the form http[s]://host[:port][/path] (credentials do not "
                       "belong there)",
                       said->where);
    for (size_t n = strlen(ret); n > 0 && ret[n - 1] == '/'; n--)
        ret[n - 1] = '\0';
    return CKPT_OK;
}

static enum ckpt_status take_addressing(const struct look *look, const char *text,
                                        enum s3_addressing *ret)
{
    if (!text || strcasecmp(text, "auto") == 0)
        *ret = S3_ADDRESSING_AUTO;
    else if (strcasecmp(text, "path") == 0)
        *ret = S3_ADDRESSING_PATH;
    else if (strcasecmp(text, "virtual") == 0)
        *ret = S3_ADDRESSING_VIRTUAL;
    else
        return err_set(look->err, CKPT_INVALID,
                       "profile \"%s\": addressing_style of s3 is auto, path or virtual",
                       look->profile);
    return CKPT_OK;
}

static enum ckpt_status read_all(const struct look *look, struct s3_settings *ret)
{
    struct said said;
    enum ckpt_status st = CKPT_OK;
    if (try_variable(look, "AWS_REGION", &said) ||
        try_variable(look, "AWS_DEFAULT_REGION", &said) ||
        try_setting(look, S3_SECTION_PROFILE, look->profile, "region", &said)) {
        struct s3_signer signer; /* knows what a region may be */
        st = s3_signer_init(&signer, said.value, "s3", look->err);
        if (st != CKPT_OK) {
            err_prefix(look->err, "%s", said.where);
            return st;
        }
        snprintf(ret->region, sizeof(ret->region), "%s", said.value);
    }
    if (find_endpoint(look, "AWS_ENDPOINT_URL_S3", "s3.endpoint_url", &said))
        st = take_endpoint(look, &said, ret->endpoint, sizeof(ret->endpoint));
    if (st == CKPT_OK && find_endpoint(look, "AWS_ENDPOINT_URL_STS", "sts.endpoint_url", &said))
        st = take_endpoint(look, &said, ret->sts_endpoint, sizeof(ret->sts_endpoint));
    if (st == CKPT_OK &&
        (try_variable(look, "AWS_CA_BUNDLE", &said) ||
         try_setting(look, S3_SECTION_PROFILE, look->profile, "ca_bundle", &said)) &&
        snprintf(ret->ca_file, sizeof(ret->ca_file), "%s", said.value) >= (int)sizeof(ret->ca_file))
        st = err_set(look->err, CKPT_INVALID, "%s: the path is too long", said.where);
    if (st != CKPT_OK)
        return st;
    return take_addressing(
        look,
        s3_profiles_get(look->profiles, S3_SECTION_PROFILE, look->profile, "s3.addressing_style"),
        &ret->addressing);
}

enum ckpt_status s3_settings_read(const struct s3_creds_options *options, struct s3_settings *ret,
                                  struct ckpt_err *err)
{
    struct s3_settings settings = { .addressing = S3_ADDRESSING_AUTO };
    struct s3_profiles *profiles = NULL;
    bool named;
    struct look look = { .env = options ? options->env : NULL,
                         .env_arg = options ? options->env_arg : NULL,
                         .err = err };
    enum ckpt_status st = s3_profiles_load(look.env, look.env_arg, &profiles, err);
    if (st != CKPT_OK)
        return st;
    look.profiles = profiles;
    look.profile =
        s3_profile_name(options ? options->profile : NULL, look.env, look.env_arg, &named);
    if (named && !s3_profiles_have(profiles, look.profile))
        st = err_set(err, CKPT_INVALID, "there is no profile \"%s\" in %s", look.profile,
                     s3_profiles_places(profiles));
    else
        st = read_all(&look, &settings);
    s3_profiles_free(profiles);
    if (st == CKPT_OK)
        *ret = settings;
    return st;
}
