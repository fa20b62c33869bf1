/* Credentials from the endpoint beside a container: ECS (relative URI), EKS Pod Identity
 * and others (full URI).  The token file is read anew each time: it is rotated. */
#include <arpa/inet.h>
#include <stdio.h>
#include <strings.h>

#include "storage/store/s3_creds_source.h"

#define WHAT       "the container's credential endpoint"
#define ECS_HOST   "http://169.254.170.2"
#define TIMEOUT_MS 5000

bool s3_host_is_near(const char *host)
{
    static const char *const hosts[] = { "localhost", "169.254.170.2", "169.254.170.23",
                                         "[fd00:ec2::23]", "[::1]" };
    struct in_addr address;
    for (size_t i = 0; i < ARRAY_COUNT(hosts); i++)
        if (strcasecmp(host, hosts[i]) == 0)
            return true;
    return inet_pton(AF_INET, host, &address) == 1 && ntohl(address.s_addr) >> 24 == 127;
}

/* The host of http[s]://host[:port]/...; false when that is not its form. */
static bool host_of(const char *url, char *ret, size_t cap)
{
    const char *start = strstr(url, "://");
    if (!start)
        return false;
    start += 3;
    size_t len = start[0] == '[' ? strcspn(start, "]") + 1 : strcspn(start, ":/?#");
    for (const char *at = url; *at; at++)
        if (*at <= ' ' || *at >= 0x7f || *at == '\\' || *at == '@')
            return false;
    if (len == 0 || len >= cap || (start[len] != '\0' && !strchr(":/?#", start[len])))
        return false;
    memcpy(ret, start, len);
    ret[len] = '\0';
    return true;
}

static enum ckpt_status check_url(const char *url, bool *ret_near, struct ckpt_err *err)
{
    char host[256];
    if (!host_of(url, host, sizeof(host)))
        return err_set(err, CKPT_INVALID, "AWS_CONTAINER_CREDENTIALS_FULL_URI is no URL");
    *ret_near = s3_host_is_near(host);
    if (strncasecmp(url, "https://", 8) == 0)
        return CKPT_OK;
    if (strncasecmp(url, "http://", 7) != 0 || !*ret_near)
        return err_set(err, CKPT_DENIED,
                       "AWS_CONTAINER_CREDENTIALS_FULL_URI: %s may not be asked without TLS; only "
                       "loopback, 169.254.170.2, 169.254.170.23 and fd00:ec2::23 may",
                       host);
    return CKPT_OK;
}

static enum ckpt_status find_url(const struct s3_search *search, char *ret, size_t cap,
                                 bool *ret_near, struct ckpt_err *err)
{
    const char *relative = s3_search_env(search, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI");
    const char *full = s3_search_env(search, "AWS_CONTAINER_CREDENTIALS_FULL_URI");
    if (!relative && !full)
        return err_set(err, CKPT_NOT_FOUND, "AWS_CONTAINER_CREDENTIALS_*_URI is not set");
    if (relative && relative[0] != '/')
        return err_set(err, CKPT_INVALID,
                       "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI does not begin with \"/\"");
    if (snprintf(ret, cap, "%s%s", relative ? ECS_HOST : "", relative ? relative : full) >=
        (int)cap)
        return err_set(err, CKPT_INVALID, "AWS_CONTAINER_CREDENTIALS_*_URI is too long");
    return check_url(ret, ret_near, err);
}

/* "Authorization: <token>", or "" when there is none. */
static enum ckpt_status make_header(const struct s3_search *search, char *ret, size_t cap,
                                    struct ckpt_err *err)
{
    static const char name[] = "Authorization: ";
    const char *file = s3_search_env(search, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE");
    const char *token = s3_search_env(search, "AWS_CONTAINER_AUTHORIZATION_TOKEN");
    ret[0] = '\0';
    if (!file && !token)
        return CKPT_OK;
    snprintf(ret, cap, "%s", name);
    if (file)
        return s3_search_token_file(file, ret + strlen(name), cap - strlen(name), err);
    if (strpbrk(token, "\r\n") || strlen(token) >= cap - strlen(name))
        return err_set(err, CKPT_INVALID,
                       "AWS_CONTAINER_AUTHORIZATION_TOKEN cannot be sent in a header");
    snprintf(ret + strlen(name), cap - strlen(name), "%s", token);
    return CKPT_OK;
}

enum ckpt_status s3_source_container(const struct s3_search *search, struct s3_found *ret,
                                     struct ckpt_err *err)
{
    char url[2048], header[S3_SESSION_TOKEN_MAX + 32];
    struct s3_fetch_request request = { .method = "GET", .url = url, .timeout_ms = TIMEOUT_MS };
    struct s3_fetch_answer *answer = NULL;
    enum ckpt_status st = find_url(search, url, sizeof(url), &request.direct, err);
    if (st == CKPT_OK)
        st = make_header(search, header, sizeof(header), err);
    if (st != CKPT_OK)
        return st;
    answer = malloc(sizeof(*answer));
    if (!answer)
        return err_set(err, CKPT_NO_MEMORY, WHAT ": out of memory");
    request.ca_file = search->ca_file[0] ? search->ca_file : NULL;
    request.headers[0] = "Accept: application/json";
    request.headers[1] = header[0] ? header : NULL;
    st = s3_search_fetch(search, WHAT, &request, answer, err);
    if (st == CKPT_OK && answer->status != 200)
        st = err_set(err, CKPT_DENIED, WHAT " answered with HTTP %d", answer->status);
    if (st == CKPT_OK)
        st = s3_answer_json(WHAT, answer->body, answer->len, "Token", &ret->keys, err);
    if (st == CKPT_OK)
        snprintf(ret->from, sizeof(ret->from), WHAT);
    explicit_bzero(answer, sizeof(*answer));
    explicit_bzero(header, sizeof(header));
    free(answer);
    return st;
}
