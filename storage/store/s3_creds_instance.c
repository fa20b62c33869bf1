/* Credentials of the role of an EC2 instance: its metadata service, version 2 alone
 * (a session token first; version 1 can be abused through any proxy on the machine). */
#include <stdio.h>
#include <strings.h>

#include "storage/store/s3_creds_source.h"

#define WHAT       "the instance's metadata service"
#define IPV4_BASE  "http://169.254.169.254"
#define IPV6_BASE  "http://[fd00:ec2::254]"
#define ROLES_PATH "/latest/meta-data/iam/security-credentials/"
#define TIMEOUT_MS 1000 /* of each exchange: it answers in a few ms, or it is not there */
#define TOKEN_MAX  1023
#define ROLE_MAX   128

/* One conversation. */
struct talk {
    const struct s3_search *search;
    char base[512];
    char token_header[64 + TOKEN_MAX];
    struct s3_fetch_answer answer;
};

static enum ckpt_status find_base(const struct s3_search *search, char *ret, size_t cap,
                                  struct ckpt_err *err)
{
    const char *disabled = s3_search_env(search, "AWS_EC2_METADATA_DISABLED");
    const char *base = s3_search_env(search, "AWS_EC2_METADATA_SERVICE_ENDPOINT");
    const char *mode = s3_search_env(search, "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE");
    if (disabled && strcasecmp(disabled, "true") == 0)
        return err_set(err, CKPT_NOT_FOUND, "AWS_EC2_METADATA_DISABLED is set");
    if (!base)
        base = mode && strcasecmp(mode, "IPv6") == 0 ? IPV6_BASE : IPV4_BASE;
    size_t len = strlen(base);
    while (len > 0 && base[len - 1] == '/')
        len--;
    if (strncasecmp(base, "http", 4) != 0 || strpbrk(base, " @?#\\\r\n") ||
        snprintf(ret, cap, "%.*s", (int)len, base) >= (int)cap)
        return err_set(err, CKPT_INVALID,
                       "AWS_EC2_METADATA_SERVICE_ENDPOINT is not of the form http://host[:port]");
    return CKPT_OK;
}

static enum ckpt_status ask(struct talk *talk, const char *method, const char *path,
                            const char *header, struct ckpt_err *err)
{
    char url[1024];
    struct s3_fetch_request request = { .method = method,
                                        .url = url,
                                        .headers = { header },
                                        .timeout_ms = TIMEOUT_MS,
                                        .direct = true };
    snprintf(url, sizeof(url), "%s%s", talk->base, path);
    return s3_search_fetch(talk->search, WHAT, &request, &talk->answer, err);
}

/* No answer to the first question: there is no such service here. */
static enum ckpt_status ask_token(struct talk *talk, struct ckpt_err *err)
{
    struct ckpt_err why = { 0 };
    enum ckpt_status st =
        ask(talk, "PUT", "/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds: 21600", &why);
    if (st == CKPT_UNREACHABLE || st == CKPT_TIMEOUT)
        return err_set(err, CKPT_NOT_FOUND,
                       "no answer from %s (in a container on EC2 the instance's metadata hop limit "
                       "must be 2)",
                       talk->base);
    if (st != CKPT_OK)
        return err_set(err, st, "%s", err_text(&why));
    if (talk->answer.status != 200)
        return err_set(err, CKPT_NOT_FOUND, "%s gives no token (HTTP %d)", talk->base,
                       talk->answer.status);
    talk->answer.body[strcspn(talk->answer.body, "\r\n")] = '\0';
    size_t len = strlen(talk->answer.body);
    for (size_t i = 0; i < len; i++)
        if (talk->answer.body[i] <= ' ' || talk->answer.body[i] >= 0x7f)
            len = 0;
    if (len == 0 || len > TOKEN_MAX)
        return err_set(err, CKPT_DENIED, WHAT " gave a token that is none");
    snprintf(talk->token_header, sizeof(talk->token_header), "X-aws-ec2-metadata-token: %.*s",
             TOKEN_MAX, talk->answer.body);
    return CKPT_OK;
}

/* The instance has one role at most; its name becomes a part of a URL. */
static enum ckpt_status ask_role(struct talk *talk, char role[ROLE_MAX + 1], struct ckpt_err *err)
{
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
                                  "+=,.@_-";
    enum ckpt_status st = ask(talk, "GET", ROLES_PATH, talk->token_header, err);
    if (st != CKPT_OK)
        return st;
    if (talk->answer.status == 404)
        return err_set(err, CKPT_NOT_FOUND, "the instance has no role");
    if (talk->answer.status != 200)
        return err_set(err, CKPT_DENIED, WHAT " answered with HTTP %d", talk->answer.status);
    talk->answer.body[strcspn(talk->answer.body, "\r\n")] = '\0';
    size_t len = strlen(talk->answer.body);
    if (len == 0)
        return err_set(err, CKPT_NOT_FOUND, "the instance has no role");
    if (len > ROLE_MAX || strspn(talk->answer.body, allowed) != len ||
        strspn(talk->answer.body, ".") == len)
        return err_set(err, CKPT_DENIED, WHAT " gave the name of a role that is none");
    memcpy(role, talk->answer.body, len + 1);
    return CKPT_OK;
}

static enum ckpt_status ask_all(struct talk *talk, struct s3_found *ret, struct ckpt_err *err)
{
    char role[ROLE_MAX + 1], path[sizeof(ROLES_PATH) + ROLE_MAX];
    enum ckpt_status st = ask_token(talk, err);
    if (st == CKPT_OK)
        st = ask_role(talk, role, err);
    if (st != CKPT_OK)
        return st;
    snprintf(path, sizeof(path), ROLES_PATH "%s", role);
    st = ask(talk, "GET", path, talk->token_header, err);
    if (st == CKPT_OK && talk->answer.status != 200)
        st = err_set(err, CKPT_DENIED, WHAT " answered with HTTP %d", talk->answer.status);
    if (st == CKPT_OK)
        st = s3_answer_json(WHAT, talk->answer.body, talk->answer.len, "Token", &ret->keys, err);
    if (st == CKPT_OK)
        snprintf(ret->from, sizeof(ret->from), "instance role %s", role);
    return st;
}

enum ckpt_status s3_source_instance(const struct s3_search *search, struct s3_found *ret,
                                    struct ckpt_err *err)
{
    struct talk *talk = calloc(1, sizeof(*talk));
    if (!talk)
        return err_set(err, CKPT_NO_MEMORY, WHAT ": out of memory");
    talk->search = search;
    enum ckpt_status st = find_base(search, talk->base, sizeof(talk->base), err);
    if (st == CKPT_OK)
        st = ask_all(talk, ret, err);
    explicit_bzero(talk, sizeof(*talk));
    free(talk);
    return st;
}
