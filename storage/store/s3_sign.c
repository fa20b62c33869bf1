/* Signature Version 4.  Everything goes through OpenSSL's low-level SHA-256, which
 * allocates nothing and cannot fail (see formats/digest_sha256.c); HMAC is RFC 2104
 * over it. */
#define OPENSSL_SUPPRESS_DEPRECATED
#include "storage/store/s3_sign.h"

#include <assert.h>
#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <strings.h>
#include <time.h>

#include "formats/digest.h"

#define ALGORITHM "AWS4-HMAC-SHA256"
#define HASH_LEN  SHA256_DIGEST_LENGTH
#define HEX_LEN   (2 * HASH_LEN)

void s3_keys_fini(struct s3_keys *keys)
{
    if (keys)
        OPENSSL_cleanse(keys, sizeof(*keys));
}

/* ---- hashing ---- */

static void hash_text(SHA256_CTX *ctx, const char *text)
{
    SHA256_Update(ctx, text, strlen(text));
}

static void hash_hex(SHA256_CTX *ctx, char ret[HEX_LEN + 1])
{
    uint8_t sum[HASH_LEN];
    SHA256_Final(sum, ctx);
    hex_encode(sum, sizeof(sum), ret);
}

void s3_payload_hash(const struct iovec *iov, int count, char ret[65])
{
    SHA256_CTX ctx;
    SHA256_Init(&ctx);
    for (int i = 0; i < count; i++)
        SHA256_Update(&ctx, iov[i].iov_base, iov[i].iov_len);
    hash_hex(&ctx, ret);
}

/* RFC 2104.  `ret` may be `key`. */
static void hmac(const void *key, size_t key_len, const char *text, uint8_t ret[HASH_LEN])
{
    uint8_t pad[SHA256_CBLOCK] = { 0 }, inner[HASH_LEN];
    SHA256_CTX ctx;
    if (key_len > sizeof(pad)) {
        struct sha256 short_key = sha256_of(key, key_len);
        memcpy(pad, short_key.b, sizeof(short_key.b));
    } else {
        memcpy(pad, key, key_len);
    }
    for (size_t i = 0; i < sizeof(pad); i++)
        pad[i] ^= 0x36;
    SHA256_Init(&ctx);
    SHA256_Update(&ctx, pad, sizeof(pad));
    hash_text(&ctx, text);
    SHA256_Final(inner, &ctx);
    for (size_t i = 0; i < sizeof(pad); i++)
        pad[i] ^= 0x36 ^ 0x5c;
    SHA256_Init(&ctx);
    SHA256_Update(&ctx, pad, sizeof(pad));
    SHA256_Update(&ctx, inner, sizeof(inner));
    SHA256_Final(ret, &ctx);
    OPENSSL_cleanse(pad, sizeof(pad));
    OPENSSL_cleanse(&ctx, sizeof(ctx));
}

/* ---- path and query ---- */

/* Text in a buffer of the caller's; too much sets `full`. */
struct text {
    char *buf;
    size_t len, cap;
    bool full;
};

static void text_add(struct text *t, const char *bytes, size_t n)
{
    if (t->full || n >= t->cap - t->len) {
        t->full = true;
        return;
    }
    memcpy(t->buf + t->len, bytes, n);
    t->len += n;
    t->buf[t->len] = '\0';
}

static bool unreserved(unsigned char c)
{
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '.' || c == '_' || c == '~';
}

static void text_encode(struct text *t, const char *bytes, bool keep_slash)
{
    static const char digits[] = "0123456789ABCDEF";
    for (; *bytes; bytes++) {
        unsigned char c = (unsigned char)*bytes;
        if (unreserved(c) || (c == '/' && keep_slash))
            text_add(t, bytes, 1);
        else
            text_add(t, (const char[]){ '%', digits[c >> 4], digits[c & 15] }, 3);
    }
}

/* A query pair, encoded: both strings end with NUL in the scratch buffer. */
struct encoded {
    const char *name, *value;
};

static int compare_encoded(const void *left, const void *right)
{
    const struct encoded *l = left, *r = right;
    int names = strcmp(l->name, r->name);
    return names ? names : strcmp(l->value, r->value);
}

static const char *encode_string(struct text *scratch, const char *bytes)
{
    const char *start = scratch->buf + scratch->len;
    text_encode(scratch, bytes, false);
    text_add(scratch, "", 1);
    return start;
}

/* The order is that of the *encoded* names, then values. */
static void add_query(struct text *t, const struct s3_pair *query, size_t count)
{
    char room[S3_TARGET_MAX + 1];
    struct text scratch = { room, 0, sizeof(room), false };
    struct encoded pairs[S3_SIGN_PAIRS_MAX];
    for (size_t i = 0; i < count && !scratch.full; i++) {
        pairs[i].name = encode_string(&scratch, query[i].name);
        pairs[i].value = encode_string(&scratch, query[i].value ? query[i].value : "");
    }
    if (scratch.full) {
        t->full = true;
        return;
    }
    qsort(pairs, count, sizeof(pairs[0]), compare_encoded);
    for (size_t i = 0; i < count; i++) {
        text_add(t, i ? "&" : "?", 1);
        text_add(t, pairs[i].name, strlen(pairs[i].name));
        text_add(t, "=", 1);
        text_add(t, pairs[i].value, strlen(pairs[i].value));
    }
}

enum ckpt_status s3_target(const char *path, const struct s3_pair *query, size_t query_count,
                           char *ret, size_t cap, struct ckpt_err *err)
{
    struct text t = { ret, 0, cap, false };
    if (path[0] != '/')
        return err_set(err, CKPT_INVALID, "the path of a request does not begin with '/'");
    if (query_count > S3_SIGN_PAIRS_MAX)
        return err_set(err, CKPT_LIMIT, "a request of %zu query parameters (at most %d)",
                       query_count, S3_SIGN_PAIRS_MAX);
    text_encode(&t, path, true);
    add_query(&t, query, query_count);
    if (t.full)
        return err_set(err, CKPT_LIMIT, "path and query take more than %zu bytes when encoded",
                       cap - 1);
    return CKPT_OK;
}

/* ---- headers ---- */

/* Letters, digits and -._~ : names of headers and methods as they are used here. */
static bool is_token(const char *text, size_t max)
{
    size_t n = strlen(text);
    if (n == 0 || n > max)
        return false;
    for (size_t i = 0; i < n; i++)
        if (!unreserved((unsigned char)text[i]))
            return false;
    return true;
}

/* What a header may hold: nothing that ends a line. */
static bool is_header_value(const char *text)
{
    for (; *text; text++)
        if (((unsigned char)*text < 0x20 && *text != '\t') || *text == 0x7f)
            return false;
    return true;
}

static bool signer_makes(const char *name)
{
    return !strcasecmp(name, "host") || !strcasecmp(name, "x-amz-date") ||
           !strcasecmp(name, "x-amz-content-sha256") || !strcasecmp(name, "x-amz-security-token") ||
           !strcasecmp(name, "authorization");
}

static enum ckpt_status check_request(const struct s3_keys *keys, const struct s3_request *request,
                                      struct ckpt_err *err)
{
    if (!is_token(request->method, 16))
        return err_set(err, CKPT_INVALID, "a method that cannot be sent");
    if (!request->host[0] || !is_header_value(request->host))
        return err_set(err, CKPT_INVALID, "a host that cannot be sent");
    if (strlen(request->payload_hash) != HEX_LEN &&
        strcmp(request->payload_hash, S3_UNSIGNED_PAYLOAD) != 0)
        return err_set(err, CKPT_INVALID, "a payload hash that is none");
    if (!keys->id[0] || !keys->secret[0] || !is_header_value(keys->id) ||
        !is_header_value(keys->token))
        return err_set(err, CKPT_INVALID,
                       "credentials that cannot be sent (empty, or with "
                       "control characters)");
    if (request->header_count > S3_SIGN_PAIRS_MAX)
        return err_set(err, CKPT_LIMIT, "%zu headers to sign (at most %d)", request->header_count,
                       S3_SIGN_PAIRS_MAX);
    for (size_t i = 0; i < request->header_count; i++) {
        const struct s3_pair *h = &request->headers[i];
        if (!is_token(h->name, 128) || signer_makes(h->name))
            return err_set(err, CKPT_INVALID, "header %zu has a name that is not for callers", i);
        if (h->value && !is_header_value(h->value))
            return err_set(err, CKPT_INVALID, "header %s holds control characters", h->name);
    }
    return CKPT_OK;
}

/* Those of the caller and those of the signer, by name; repeats stay in their order. */
struct headers {
    struct s3_pair sorted[S3_SIGN_PAIRS_MAX + 4];
    size_t count;
    char names_buf[S3_AUTHORIZATION_MAX + 1]; /* "host;x-amz-date" */
    struct text names;
};

static void insert_header(struct headers *headers, const char *name, const char *value)
{
    size_t at = headers->count++;
    for (; at > 0 && strcasecmp(headers->sorted[at - 1].name, name) > 0; at--)
        headers->sorted[at] = headers->sorted[at - 1];
    headers->sorted[at] = (struct s3_pair){ name, value ? value : "" };
}

static bool repeats_last(const struct headers *headers, size_t i)
{
    return i > 0 && strcasecmp(headers->sorted[i].name, headers->sorted[i - 1].name) == 0;
}

static void add_lower(struct text *t, const char *name)
{
    for (; *name; name++)
        text_add(t, (char[]){ *name >= 'A' && *name <= 'Z' ? (char)(*name | 0x20) : *name }, 1);
}

static void headers_collect(struct headers *headers, const struct s3_signer *signer,
                            const struct s3_keys *keys, const struct s3_request *request,
                            const char *date)
{
    headers->count = 0;
    headers->names = (struct text){ headers->names_buf, 0, sizeof(headers->names_buf), false };
    insert_header(headers, "host", request->host);
    insert_header(headers, "x-amz-date", date);
    if (strcmp(signer->service, "s3") == 0)
        insert_header(headers, "x-amz-content-sha256", request->payload_hash);
    if (keys->token[0])
        insert_header(headers, "x-amz-security-token", keys->token);
    for (size_t i = 0; i < request->header_count; i++)
        insert_header(headers, request->headers[i].name, request->headers[i].value);
    for (size_t i = 0; i < headers->count; i++) {
        if (repeats_last(headers, i))
            continue;
        text_add(&headers->names, ";", i ? 1 : 0);
        add_lower(&headers->names, headers->sorted[i].name);
    }
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

/* Blanks at both ends go, runs of them become one space. */
static void hash_trimmed(SHA256_CTX *ctx, const char *value)
{
    while (is_blank(*value))
        value++;
    while (*value) {
        size_t word = strcspn(value, " \t"), gap = strspn(value + word, " \t");
        SHA256_Update(ctx, value, word);
        value += word + gap;
        if (*value)
            SHA256_Update(ctx, " ", 1);
    }
}

static void hash_headers(SHA256_CTX *ctx, const struct headers *headers)
{
    for (size_t i = 0; i < headers->count; i++) {
        if (repeats_last(headers, i)) {
            hash_text(ctx, ",");
        } else {
            char name_buf[129 + 1];
            struct text name = { name_buf, 0, sizeof(name_buf), false };
            hash_text(ctx, i ? "\n" : "");
            add_lower(&name, headers->sorted[i].name);
            hash_text(ctx, name_buf);
            hash_text(ctx, ":");
        }
        hash_trimmed(ctx, headers->sorted[i].value);
    }
    hash_text(ctx, "\n");
}

/* ---- signing ---- */

static void hash_request(const struct s3_request *request, const struct headers *headers,
                         const char *target, char ret[HEX_LEN + 1])
{
    size_t path_len = strcspn(target, "?");
    SHA256_CTX ctx;
    SHA256_Init(&ctx);
    hash_text(&ctx, request->method);
    hash_text(&ctx, "\n");
    SHA256_Update(&ctx, target, path_len);
    hash_text(&ctx, "\n");
    hash_text(&ctx, target[path_len] ? target + path_len + 1 : "");
    hash_text(&ctx, "\n");
    hash_headers(&ctx, headers);
    hash_text(&ctx, "\n");
    hash_text(&ctx, headers->names_buf);
    hash_text(&ctx, "\n");
    hash_text(&ctx, request->payload_hash);
    hash_hex(&ctx, ret);
    OPENSSL_cleanse(&ctx, sizeof(ctx)); /* a session token passed through it */
}

/* The key holds for a day, a region and a service; four HMACs otherwise. */
static void make_key(struct s3_signer *signer, const struct s3_keys *keys, const char *day)
{
    char start[4 + S3_SECRET_MAX + 1];
    if (keys->generation && keys->generation == signer->generation && !strcmp(day, signer->day))
        return;
    int len = snprintf(start, sizeof(start), "AWS4%s", keys->secret);
    hmac(start, (size_t)len, day, signer->key);
    hmac(signer->key, HASH_LEN, signer->region, signer->key);
    hmac(signer->key, HASH_LEN, signer->service, signer->key);
    hmac(signer->key, HASH_LEN, "aws4_request", signer->key);
    snprintf(signer->day, sizeof(signer->day), "%s", day);
    signer->generation = keys->generation;
    OPENSSL_cleanse(start, sizeof(start));
}

static enum ckpt_status format_date(int64_t time_s, char *ret, size_t cap, struct ckpt_err *err)
{
    time_t t = (time_t)time_s;
    struct tm tm;
    if (time_s < 0 || time_s > INT64_C(253402300799) || !gmtime_r(&t, &tm))
        return err_set(err, CKPT_INVALID, "the time of a request is not in the years 1970 to 9999");
    size_t len = strftime(ret, cap, "%Y%m%dT%H%M%SZ", &tm);
    assert(len == 16);
    return CKPT_OK;
}

enum ckpt_status s3_sign(struct s3_signer *signer, const struct s3_keys *keys,
                         const struct s3_request *request, struct s3_signature *ret,
                         struct ckpt_err *err)
{
    char day[sizeof(signer->day)], scope[128], hash[HEX_LEN + 1], to_sign[256], hex[HEX_LEN + 1];
    uint8_t sum[HASH_LEN];
    struct headers headers;
    enum ckpt_status st = check_request(keys, request, err);
    if (st == CKPT_OK)
        st = format_date(request->time_s, ret->date, sizeof(ret->date), err);
    if (st == CKPT_OK)
        st = s3_target(request->path, request->query, request->query_count, ret->target,
                       sizeof(ret->target), err);
    if (st != CKPT_OK)
        return st;
    headers_collect(&headers, signer, keys, request, ret->date);
    hash_request(request, &headers, ret->target, hash);
    snprintf(day, sizeof(day), "%.8s", ret->date);
    snprintf(scope, sizeof(scope), "%s/%s/%s/aws4_request", day, signer->region, signer->service);
    snprintf(to_sign, sizeof(to_sign), ALGORITHM "\n%s\n%s\n%s", ret->date, scope, hash);
    make_key(signer, keys, day);
    hmac(signer->key, HASH_LEN, to_sign, sum);
    hex_encode(sum, sizeof(sum), hex);
    int len = snprintf(ret->authorization, sizeof(ret->authorization),
                       ALGORITHM " Credential=%s/%s, SignedHeaders=%s, Signature=%s", keys->id,
                       scope, headers.names_buf, hex);
    if (headers.names.full || len >= (int)sizeof(ret->authorization))
        return err_set(err, CKPT_LIMIT, "the names of the headers to sign take too much room");
    return CKPT_OK;
}

enum ckpt_status s3_signer_init(struct s3_signer *signer, const char *region, const char *service,
                                struct ckpt_err *err)
{
    if (!is_token(region, S3_REGION_MAX))
        return err_set(err, CKPT_INVALID,
                       "a region is 1 to %d of [A-Za-z0-9._~-], as in \"eu-central-1\"",
                       S3_REGION_MAX);
    if (!is_token(service, sizeof(signer->service) - 1))
        return err_set(err, CKPT_INVALID, "not the name of a service");
    *signer = (struct s3_signer){ 0 };
    snprintf(signer->region, sizeof(signer->region), "%s", region);
    snprintf(signer->service, sizeof(signer->service), "%s", service);
    return CKPT_OK;
}

void s3_signer_fini(struct s3_signer *signer)
{
    if (signer)
        OPENSSL_cleanse(signer, sizeof(*signer));
}
