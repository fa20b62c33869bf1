/* See s3_url.h. */
#include "storage/store/s3_url.h"

#include <stdio.h>

struct option {
    const char *name;
    char value[S3_CA_FILE_MAX + 1];
};

enum { ENDPOINT, REGION, STYLE, PROFILE, CA, PAYLOAD, CONNECTIONS, OPTIONS };
static const char *const names[OPTIONS] = { "endpoint", "region",  "style",      "profile",
                                            "ca",       "payload", "connections" };

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* Decodes %XX; false when it does not fit or holds a control character. */
static bool decode(const char *from, size_t len, char *to, size_t cap)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        char c = from[i];
        if (c == '%' && i + 2 < len && hex_digit(from[i + 1]) >= 0 && hex_digit(from[i + 2]) >= 0) {
            c = (char)(hex_digit(from[i + 1]) * 16 + hex_digit(from[i + 2]));
            i += 2;
        }
        if ((unsigned char)c < 0x20 || c == 0x7f || n + 1 >= cap)
            return false;
        to[n++] = c;
    }
    to[n] = 0;
    return true;
}

static enum ckpt_status read_option(const char *text, size_t len,
                                    char (*values)[S3_CA_FILE_MAX + 1], struct ckpt_err *err)
{
    const char *equals = memchr(text, '=', len);
    size_t name_len = equals ? (size_t)(equals - text) : len;
    for (int i = 0; i < OPTIONS; i++) {
        if (strlen(names[i]) != name_len || memcmp(names[i], text, name_len) != 0)
            continue;
        if (!equals || equals + 1 == text + len || values[i][0] ||
            !decode(equals + 1, len - name_len - 1, values[i], sizeof(values[i])))
            return err_set(err, CKPT_INVALID, "option %s of an s3:// URL: one value, please",
                           names[i]);
        return CKPT_OK;
    }
    return err_set(err, CKPT_INVALID,
                   "an s3:// URL has no option \"%.*s\"; there are: endpoint, region, style, "
                   "profile, ca, payload, connections",
                   (int)min_u64(name_len, 40), text);
}

static enum ckpt_status read_options(const char *query, char (*values)[S3_CA_FILE_MAX + 1],
                                     struct ckpt_err *err)
{
    while (query && *query) {
        size_t len = strcspn(query, "&");
        enum ckpt_status st = len ? read_option(query, len, values, err) : CKPT_OK;
        if (st != CKPT_OK)
            return st;
        query += len + (query[len] == '&');
    }
    return CKPT_OK;
}

static bool bucket_valid(const char *name, size_t len)
{
    if (len < 3 || len > S3_BUCKET_MAX || name[0] == '.' || name[0] == '-')
        return false;
    for (size_t i = 0; i < len; i++) {
        char c = name[i];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
              c == '.' || c == '-' || c == '_'))
            return false;
    }
    return true;
}

static enum ckpt_status read_path(const char *path, struct s3_place *p, struct ckpt_err *err)
{
    size_t len = strcspn(path, "/");
    if (strchr(path, '@') && memchr(path, '@', len))
        return err_set(err, CKPT_INVALID,
                       "an s3:// URL holds no user or password; put them where AWS tools look "
                       "(environment, ~/.aws/credentials)");
    if (!bucket_valid(path, len))
        return err_set(err, CKPT_INVALID,
                       "s3://%.80s: a bucket's name has 3 to %d letters, digits, '.', '-' or '_'",
                       path, S3_BUCKET_MAX);
    memcpy(p->bucket, path, len);
    const char *prefix = path + len + (path[len] == '/');
    size_t prefix_len = strlen(prefix);
    while (prefix_len > 0 && prefix[prefix_len - 1] == '/')
        prefix_len--;
    if (prefix_len == 0)
        return CKPT_OK;
    if (prefix_len < STORE_KEY_MAX)
        snprintf(p->prefix, sizeof(p->prefix), "%.*s", (int)prefix_len, prefix);
    if (!store_key_valid(p->prefix))
        return err_set(err, CKPT_INVALID,
                       "s3://%.80s: the part behind the bucket is no prefix: printable ASCII "
                       "without \\, parts between '/' neither empty nor \".\" nor \"..\"",
                       path);
    p->prefix[prefix_len] = '/';
    p->prefix[prefix_len + 1] = 0;
    return CKPT_OK;
}

/* True for the names of this machine, which no proxy reaches. */
static bool is_loopback(const char *host)
{
    static const char own[] = ".localhost";
    size_t len = strcspn(host, ":"), own_len = sizeof(own) - 1;
    return strncmp(host, "127.", 4) == 0 || strncmp(host, "[::1]", 5) == 0 ||
           (len == own_len - 1 && memcmp(host, own + 1, len) == 0) ||
           (len > own_len && memcmp(host + len - own_len, own, own_len) == 0);
}

static bool host_valid(const char *host, size_t len)
{
    if (len == 0 || len > 255)
        return false;
    for (size_t i = 0; i < len; i++) {
        char c = host[i];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
              strchr(".-_:[]", c)))
            return false;
    }
    return true;
}

static enum ckpt_status read_endpoint(const char *url, struct s3_place *p, struct ckpt_err *err)
{
    p->aws = !url[0];
    p->tls = true;
    if (p->aws)
        return CKPT_OK;
    p->tls = strncmp(url, "https://", 8) == 0;
    const char *host = p->tls ? url + 8 : strncmp(url, "http://", 7) == 0 ? url + 7 : "";
    size_t len = strcspn(host, "/"), base = strlen(host + len);
    while (base > 0 && host[len + base - 1] == '/')
        base--;
    if (!host_valid(host, len) || base >= sizeof(p->base) || strpbrk(host + len, "?#@"))
        return err_set(err, CKPT_INVALID,
                       "the endpoint of an object store is http[s]://host[:port][/path], without "
                       "user, password or query");
    memcpy(p->host, host, len);
    memcpy(p->base, host + len, base);
    /* The default port is not part of the Host header. */
    const char *port = p->tls ? ":443" : ":80";
    size_t port_len = strlen(port);
    if (len > port_len && strcmp(p->host + len - port_len, port) == 0)
        p->host[len - port_len] = 0;
    p->loopback = is_loopback(p->host);
    return CKPT_OK;
}

/* bucket.host must be the name of a host, and over TLS one that a certificate for *.host is good
 * for. */
static bool fits_host(const char *bucket, bool tls)
{
    for (const char *c = bucket; *c; c++) {
        if (*c == '_' || (*c >= 'A' && *c <= 'Z') || (*c == '.' && tls))
            return false;
    }
    return true;
}

static enum ckpt_status read_style(const char *option, enum s3_addressing addressing,
                                   struct s3_place *p, struct ckpt_err *err)
{
    bool asked = strcmp(option, "virtual") == 0, fits = fits_host(p->bucket, p->tls);
    if (option[0] && !asked && strcmp(option, "path") != 0)
        return err_set(err, CKPT_INVALID, "style of an s3:// URL: path or virtual");
    if (asked && !fits)
        return err_set(err, CKPT_INVALID,
                       "s3://%s: style=virtual takes no bucket with capitals or '_' in its name, "
                       "and over TLS none with '.'; say style=path",
                       p->bucket);
    /* The profile's word is for all buckets: for those that it fits. */
    bool wanted = addressing == S3_ADDRESSING_AUTO ? p->aws : addressing == S3_ADDRESSING_VIRTUAL;
    p->virtual_host = option[0] ? asked : wanted && fits;
    return CKPT_OK;
}

static enum ckpt_status read_rest(char (*values)[S3_CA_FILE_MAX + 1], struct s3_place *p,
                                  struct ckpt_err *err)
{
    const char *payload = values[PAYLOAD], *connections = values[CONNECTIONS];
    p->payload = !payload[0]                      ? S3_PAYLOAD_AUTO
                 : strcmp(payload, "signed") == 0 ? S3_PAYLOAD_SIGNED
                                                  : S3_PAYLOAD_UNSIGNED;
    if (p->payload == S3_PAYLOAD_UNSIGNED && strcmp(payload, "unsigned") != 0)
        return err_set(err, CKPT_INVALID, "payload of an s3:// URL: signed or unsigned");
    p->connections = S3_CONNECTIONS;
    if (connections[0]) {
        char *end;
        unsigned long n = strtoul(connections, &end, 10);
        if (*end || connections[0] < '0' || connections[0] > '9' || n < 1 || n > S3_CONNECTIONS_MAX)
            return err_set(err, CKPT_INVALID, "connections of an s3:// URL: 1 to %d",
                           S3_CONNECTIONS_MAX);
        p->connections = (unsigned)n;
    }
    return CKPT_OK;
}

/* What the URL leaves open is asked of the environment. */
static enum ckpt_status fill_in(char (*values)[S3_CA_FILE_MAX + 1], s3_env_fn *env, void *env_arg,
                                struct s3_place *p, struct ckpt_err *err)
{
    struct s3_creds_options options = { .profile = p->profile[0] ? p->profile : NULL,
                                        .env = env,
                                        .env_arg = env_arg };
    struct s3_settings set;
    enum ckpt_status st = s3_settings_read(&options, &set, err);
    if (st != CKPT_OK)
        return st;
    const char *region = values[REGION][0] ? values[REGION]
                         : set.region[0]   ? set.region
                                           : "us-east-1";
    snprintf(p->region, sizeof(p->region), "%.*s", S3_REGION_MAX, region);
    snprintf(p->ca_file, sizeof(p->ca_file), "%s", values[CA][0] ? values[CA] : set.ca_file);
    struct s3_signer signer;
    st = s3_signer_init(&signer, region, "s3", err); /* checks the region's letters */
    if (st == CKPT_OK)
        st = read_endpoint(values[ENDPOINT][0] ? values[ENDPOINT] : set.endpoint, p, err);
    if (st == CKPT_OK)
        st = read_style(values[STYLE], set.addressing, p, err);
    return st;
}

enum ckpt_status s3_place_parse(const char *path, const char *query, s3_env_fn *env, void *env_arg,
                                struct s3_place *ret, struct ckpt_err *err)
{
    CLEANUP_FREE char(*values)[S3_CA_FILE_MAX + 1] = calloc(OPTIONS, sizeof(*values));
    CLEANUP_FREE struct s3_place *p = calloc(1, sizeof(*p));
    if (!values || !p)
        return err_set(err, CKPT_NO_MEMORY, "no memory to read an s3:// URL");
    enum ckpt_status st = read_path(path, p, err);
    if (st == CKPT_OK)
        st = read_options(query, values, err);
    if (st == CKPT_OK && strlen(values[PROFILE]) >= sizeof(p->profile))
        st = err_set(err, CKPT_INVALID, "profile of an s3:// URL: at most 128 bytes");
    if (st == CKPT_OK) {
        snprintf(p->profile, sizeof(p->profile), "%.128s", values[PROFILE]);
        st = fill_in(values, env, env_arg, p, err);
    }
    if (st == CKPT_OK)
        st = read_rest(values, p, err);
    if (st == CKPT_OK)
        *ret = *p;
    return st;
}

void s3_place_host(const struct s3_place *place, const char *region, char ret[S3_HOST_MAX + 1])
{
    char aws[128];
    snprintf(aws, sizeof(aws), "s3.%.63s.amazonaws.com%s", region,
             strncmp(region, "cn-", 3) == 0 ? ".cn" : "");
    snprintf(ret, S3_HOST_MAX + 1, "%s%s%s", place->virtual_host ? place->bucket : "",
             place->virtual_host ? "." : "", place->aws ? aws : place->host);
}

enum ckpt_status s3_place_path(const struct s3_place *place, const char *key,
                               char ret[S3_PATH_MAX + 1], struct ckpt_err *err)
{
    if (strlen(place->prefix) + strlen(key) > STORE_KEY_MAX)
        return err_set(err, CKPT_LIMIT, "%s: longer than the %d bytes of a key with the prefix %s",
                       key, STORE_KEY_MAX, place->prefix);
    bool whole = key[0];
    snprintf(ret, S3_PATH_MAX + 1, "%s/%s%s%s%s", place->base,
             place->virtual_host ? "" : place->bucket, place->virtual_host || !whole ? "" : "/",
             whole ? place->prefix : "", key);
    return CKPT_OK;
}
