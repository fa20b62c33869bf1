/* Roles: the two calls of the Security Token Service that give keys for a while.
 * AssumeRole is signed with keys that there are already, AssumeRoleWithWebIdentity with
 * nothing but the token of an identity provider, which is read anew each time. */
#include <stdio.h>

#include "storage/store/s3_creds_source.h"
#include "storage/store/s3_retry.h"
#include "storage/store/s3_xml.h"

#define WHAT         "STS"
#define TIMEOUT_MS   10000
#define TOKEN_MAX    20000 /* STS's own limit for an identity token */
#define BODY_MAX     (3 * TOKEN_MAX + 8192)
#define CONTENT_TYPE "application/x-www-form-urlencoded; charset=utf-8"

/* One call.  On the heap: it is big, and holds secrets. */
struct call {
    const struct s3_search *search;
    char url[1200], host[300];
    char region[S3_REGION_MAX + 1];
    char token[TOKEN_MAX + 1]; /* of the web identity */
    char body[BODY_MAX];
    size_t len;
    bool full;
    char headers[4][S3_AUTHORIZATION_MAX + S3_SESSION_TOKEN_MAX];
    struct s3_signer signer;
    struct s3_signature signature;
    struct s3_fetch_answer answer;
};

/* ---- request ---- */

/* https://sts.REGION.amazonaws.com, the global one without a region; or what the settings
 * say, which have checked its form. */
static enum ckpt_status find_endpoint(struct call *call, struct ckpt_err *err)
{
    const struct s3_search *search = call->search;
    const char *region = search->region[0] ? search->region : "us-east-1";
    const char *china = strncmp(region, "cn-", 3) == 0 ? ".cn" : "";
    snprintf(call->region, sizeof(call->region), "%s", region);
    if (search->sts[0]) {
        const char *host = strstr(search->sts, "://") + 3;
        if (strchr(host, '/') || strlen(host) >= sizeof(call->host))
            return err_set(err, CKPT_INVALID,
                           "the endpoint of STS (AWS_ENDPOINT_URL_STS, else AWS_ENDPOINT_URL) must "
                           "be http[s]://host[:port] without a path");
        snprintf(call->host, sizeof(call->host), "%s", host);
        snprintf(call->url, sizeof(call->url), "%s/", search->sts);
        return CKPT_OK;
    }
    if (search->region[0])
        snprintf(call->host, sizeof(call->host), "sts.%s.amazonaws.com%s", region, china);
    else
        snprintf(call->host, sizeof(call->host), "sts.amazonaws.com");
    snprintf(call->url, sizeof(call->url), "https://%s/", call->host);
    return CKPT_OK;
}

/* name=value of a form, the value encoded. */
static void add_field(struct call *call, const char *name, const char *value)
{
    static const char digits[] = "0123456789ABCDEF";
    if (!value)
        return;
    if (call->len + strlen(name) + 3 * strlen(value) + 3 > sizeof(call->body)) {
        call->full = true;
        return;
    }
    call->len += (size_t)snprintf(call->body + call->len, sizeof(call->body) - call->len,
                                  "%s%s=", call->len ? "&" : "", name);
    for (; *value; value++) {
        unsigned char c = (unsigned char)*value;
        if ((c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
            strchr("-._~", c)) {
            call->body[call->len++] = (char)c;
        } else {
            call->body[call->len++] = '%';
            call->body[call->len++] = digits[c >> 4];
            call->body[call->len++] = digits[c & 15];
        }
    }
    call->body[call->len] = '\0';
}

static enum ckpt_status add_role(struct call *call, const char *action, const struct s3_role *role,
                                 struct ckpt_err *err)
{
    add_field(call, "Action", action);
    add_field(call, "Version", "2011-06-15");
    add_field(call, "RoleArn", role->arn);
    add_field(call, "RoleSessionName", role->session ? role->session : "ckpt");
    add_field(call, "ExternalId", role->external_id);
    add_field(call, "DurationSeconds", role->duration);
    if (call->full)
        return err_set(err, CKPT_INVALID, "the settings of the role are too long");
    return CKPT_OK;
}

/* The three or four headers of a signed call. */
static enum ckpt_status sign(struct call *call, const struct s3_keys *keys,
                             struct s3_fetch_request *request, struct ckpt_err *err)
{
    char hash[65];
    const struct s3_pair type = { "content-type", CONTENT_TYPE };
    struct s3_request r = { .method = "POST",
                            .host = call->host,
                            .path = "/",
                            .headers = &type,
                            .header_count = 1,
                            .payload_hash = hash,
                            .time_s = call->search->now_s };
    s3_payload_hash(&(struct iovec){ call->body, call->len }, 1, hash);
    enum ckpt_status st = s3_signer_init(&call->signer, call->region, "sts", err);
    if (st == CKPT_OK)
        st = s3_sign(&call->signer, keys, &r, &call->signature, err);
    if (st != CKPT_OK)
        return st;
    snprintf(call->headers[0], sizeof(call->headers[0]), "X-Amz-Date: %s", call->signature.date);
    snprintf(call->headers[1], sizeof(call->headers[1]), "Authorization: %s",
             call->signature.authorization);
    snprintf(call->headers[2], sizeof(call->headers[2]), "X-Amz-Security-Token: %s", keys->token);
    request->headers[1] = call->headers[0];
    request->headers[2] = call->headers[1];
    request->headers[3] = keys->token[0] ? call->headers[2] : NULL;
    return CKPT_OK;
}

/* ---- answer ---- */

static enum ckpt_status refused(const struct call *call, const struct s3_role *role,
                                struct ckpt_err *err)
{
    char code[100], message[600], quoted_code[100], quoted[400];
    s3_xml_find(call->answer.body, call->answer.len, "Error", "Code", code, sizeof(code));
    s3_xml_find(call->answer.body, call->answer.len, "Error", "Message", message, sizeof(message));
    s3_answer_quote(code, call->token, quoted_code, sizeof(quoted_code));
    s3_answer_quote(message, call->token, quoted, sizeof(quoted));
    /* STS says with 400, too, that it is asked too often, or that it cannot tell just now. */
    struct s3_outcome outcome = { .status = call->answer.status };
    snprintf(outcome.code, sizeof(outcome.code), "%.63s", code);
    enum s3_class class_ = s3_classify(&outcome);
    bool passes = class_ == S3_THROTTLED || class_ == S3_TRANSIENT;
    return err_set(err, passes ? CKPT_UNREACHABLE : CKPT_DENIED,
                   WHAT " (%s) does not give the role %s: HTTP %d %s%s%s", call->host, role->arn,
                   call->answer.status, quoted_code, quoted[0] ? ": " : "", quoted);
}

static enum ckpt_status take_keys(const struct call *call, struct s3_found *ret,
                                  struct ckpt_err *err)
{
    /* One byte more than is allowed, so that what is too long is seen. */
    char id[S3_KEY_ID_MAX + 2], secret[S3_SECRET_MAX + 2], token[S3_SESSION_TOKEN_MAX + 2];
    char expires[64];
    const char *body = call->answer.body, *in = "Credentials";
    size_t len = call->answer.len;
    enum ckpt_status st;
    if (s3_xml_find(body, len, in, "AccessKeyId", id, sizeof(id)) &&
        s3_xml_find(body, len, in, "SecretAccessKey", secret, sizeof(secret)) &&
        s3_xml_find(body, len, in, "SessionToken", token, sizeof(token)) &&
        s3_xml_find(body, len, in, "Expiration", expires, sizeof(expires)))
        st = s3_answer_keys(WHAT, id, secret, token, expires, &ret->keys, err);
    else
        st = err_set(err, CKPT_DENIED, WHAT " (%s) answered with something that holds no keys",
                     call->host);
    explicit_bzero(secret, sizeof(secret));
    explicit_bzero(token, sizeof(token));
    return st;
}

static enum ckpt_status send_call(struct call *call, const struct s3_role *role,
                                  struct s3_fetch_request *request, struct s3_found *ret,
                                  struct ckpt_err *err)
{
    char name[sizeof(call->host)];
    size_t len = call->host[0] == '[' ? strcspn(call->host, "]") + 1 : strcspn(call->host, ":");
    snprintf(name, sizeof(name), "%.*s", (int)len, call->host);
    request->direct = s3_host_is_near(name);
    request->method = "POST";
    request->url = call->url;
    request->headers[0] = "Content-Type: " CONTENT_TYPE;
    request->body = call->body;
    request->timeout_ms = TIMEOUT_MS;
    request->ca_file = call->search->ca_file[0] ? call->search->ca_file : NULL;
    enum ckpt_status st = s3_search_fetch(call->search, WHAT, request, &call->answer, err);
    if (st != CKPT_OK)
        return st;
    return call->answer.status == 200 ? take_keys(call, ret, err) : refused(call, role, err);
}

/* NULL: out of memory, said. */
static struct call *call_new(const struct s3_search *search, struct ckpt_err *err)
{
    struct call *call = calloc(1, sizeof(*call));
    if (call)
        call->search = search;
    else
        err_set(err, CKPT_NO_MEMORY, WHAT ": out of memory");
    return call;
}

static void call_free(struct call *call)
{
    explicit_bzero(call, sizeof(*call));
    free(call);
}

enum ckpt_status s3_sts_assume(const struct s3_search *search, const struct s3_role *role,
                               const struct s3_keys *keys, struct s3_found *ret,
                               struct ckpt_err *err)
{
    struct s3_fetch_request request = { 0 };
    struct call *call = call_new(search, err);
    if (!call)
        return CKPT_NO_MEMORY;
    enum ckpt_status st = find_endpoint(call, err);
    if (st == CKPT_OK)
        st = add_role(call, "AssumeRole", role, err);
    if (st == CKPT_OK)
        st = sign(call, keys, &request, err);
    if (st == CKPT_OK)
        st = send_call(call, role, &request, ret, err);
    if (st == CKPT_OK)
        snprintf(ret->from, sizeof(ret->from), "role %s", role->arn);
    call_free(call);
    return st;
}

enum ckpt_status s3_sts_web_identity(const struct s3_search *search, const struct s3_role *role,
                                     const char *token_file, struct s3_found *ret,
                                     struct ckpt_err *err)
{
    struct s3_fetch_request request = { 0 };
    struct call *call = call_new(search, err);
    if (!call)
        return CKPT_NO_MEMORY;
    enum ckpt_status st = find_endpoint(call, err);
    if (st == CKPT_OK)
        st = s3_search_token_file(token_file, call->token, sizeof(call->token), err);
    if (st == CKPT_OK)
        st = add_role(call, "AssumeRoleWithWebIdentity", role, err);
    if (st == CKPT_OK) {
        add_field(call, "WebIdentityToken", call->token);
        st = send_call(call, role, &request, ret, err);
    }
    if (st == CKPT_OK)
        snprintf(ret->from, sizeof(ret->from), "role %s by web identity", role->arn);
    call_free(call);
    return st;
}

enum ckpt_status s3_source_web_identity(const struct s3_search *search, struct s3_found *ret,
                                        struct ckpt_err *err)
{
    const char *file = s3_search_env(search, "AWS_WEB_IDENTITY_TOKEN_FILE");
    struct s3_role role = { .arn = s3_search_env(search, "AWS_ROLE_ARN"),
                            .session = s3_search_env(search, "AWS_ROLE_SESSION_NAME") };
    if (!file)
        return err_set(err, CKPT_NOT_FOUND, "AWS_WEB_IDENTITY_TOKEN_FILE is not set");
    if (!role.arn)
        return err_set(err, CKPT_INVALID,
                       "AWS_WEB_IDENTITY_TOKEN_FILE is set, and AWS_ROLE_ARN is not");
    return s3_sts_web_identity(search, &role, file, ret, err);
}
