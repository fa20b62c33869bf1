/* Parsing for the sink server. */
#include "s3/sink_head.h"

#include <stdio.h>
#include <strings.h>

static int hex_digit(char c)
{
    const char *digits = "0123456789abcdef", *at = c ? strchr(digits, c | 0x20) : NULL;
    return at ? (int)(at - digits) : -1;
}

/* %XX decoded; false when it does not fit. */
static bool decode(const char *from, size_t n, char *ret, size_t cap)
{
    size_t len = 0;
    for (size_t i = 0; i < n; i++) {
        char c = from[i];
        if (c == '%' && i + 2 < n && hex_digit(from[i + 1]) >= 0 && hex_digit(from[i + 2]) >= 0) {
            c = (char)(hex_digit(from[i + 1]) << 4 | hex_digit(from[i + 2]));
            i += 2;
        }
        if (len + 1 >= cap)
            return false;
        ret[len++] = c;
    }
    ret[len] = '\0';
    return true;
}

static bool parse_query(const char *at, const char *end, struct sink_head *h)
{
    while (at < end) {
        const char *stop = memchr(at, '&', (size_t)(end - at));
        char name[64], value[SINK_KEY_MAX + 1];
        stop = stop ? stop : end;
        const char *equal = memchr(at, '=', (size_t)(stop - at));
        const char *name_end = equal ? equal : stop, *from = equal ? equal + 1 : stop;
        if (!decode(at, (size_t)(name_end - at), name, sizeof(name)) ||
            !decode(from, (size_t)(stop - from), value, sizeof(value)))
            return false;
        if (!strcmp(name, "list-type"))
            h->list = true;
        else if (!strcmp(name, "uploads"))
            h->uploads = true;
        else if (!strcmp(name, "uploadId"))
            h->upload_id = true;
        else if (!strcmp(name, "partNumber"))
            h->part = true;
        else if (!strcmp(name, "prefix"))
            memcpy(h->prefix, value, sizeof(value));
        else if (!strcmp(name, "start-after") || !strcmp(name, "continuation-token"))
            memcpy(h->after, value, sizeof(value));
        else if (!strcmp(name, "delimiter"))
            h->delimiter = value[0] == '/';
        else if (!strcmp(name, "max-keys"))
            h->max_keys = (unsigned)strtoul(value, NULL, 10);
        at = stop + 1;
    }
    return true;
}

/* "/bucket/key?query" */
static bool parse_target(const char *at, const char *end, struct sink_head *h)
{
    const char *query = memchr(at, '?', (size_t)(end - at));
    const char *path_end = query ? query : end;
    if (at == path_end || *at != '/')
        return false;
    const char *slash = memchr(at + 1, '/', (size_t)(path_end - at - 1));
    const char *bucket_end = slash ? slash : path_end;
    if (!decode(at + 1, (size_t)(bucket_end - at - 1), h->bucket, sizeof(h->bucket)))
        return false;
    if (slash && !decode(slash + 1, (size_t)(path_end - slash - 1), h->key, sizeof(h->key)))
        return false;
    h->counts = !strcmp(h->bucket, "-") && !strcmp(h->key, "counts");
    return !query || parse_query(query + 1, end, h);
}

static bool parse_verb(const char *at, const char *end, struct sink_head *h)
{
    static const char *const names[] = { "GET", "HEAD", "PUT", "DELETE", "POST" };
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        if ((size_t)(end - at) == strlen(names[i]) && !memcmp(at, names[i], (size_t)(end - at))) {
            h->verb = (enum sink_verb)i;
            return true;
        }
    }
    return false;
}

static void parse_range(const char *value, struct sink_head *h)
{
    char *end;
    if (strncmp(value, "bytes=", 6) != 0)
        return;
    h->from_end = value[6] == '-';
    if (h->from_end) {
        h->range_last = strtoull(value + 7, &end, 10);
        h->range = *end == '\0' && end > value + 7;
        return;
    }
    h->range_first = strtoull(value + 6, &end, 10);
    if (*end != '-' || end == value + 6)
        return;
    h->range_last = end[1] ? strtoull(end + 1, &end, 10) : UINT64_MAX;
    h->range = true;
}

static bool parse_number(const char *value, uint64_t *ret)
{
    char *end;
    if (*value < '0' || *value > '9')
        return false;
    *ret = strtoull(value, &end, 10);
    return *end == '\0' && *ret < UINT64_MAX / 2;
}

static bool take_header(const char *name, const char *value, struct sink_head *h)
{
    if (!strcasecmp(name, "content-length"))
        return parse_number(value, &h->length);
    if (!strcasecmp(name, "x-amz-decoded-content-length"))
        return parse_number(value, &h->decoded_length);
    if (!strcasecmp(name, "transfer-encoding"))
        h->chunked = true;
    else if (!strcasecmp(name, "range"))
        parse_range(value, h);
    else if (!strcasecmp(name, "if-none-match"))
        h->if_none_match = true;
    else if (!strcasecmp(name, "expect"))
        h->expect = true;
    else if (!strcasecmp(name, "connection"))
        h->close = strcasecmp(value, "close") == 0;
    else if (!strcasecmp(name, "content-md5"))
        snprintf(h->md5, sizeof(h->md5), "%.24s", value);
    else if (!strcasecmp(name, "x-amz-content-sha256"))
        snprintf(h->sha256, sizeof(h->sha256), "%.64s", value);
    else if (!strcasecmp(name, "x-amz-checksum-crc32c"))
        snprintf(h->crc32c, sizeof(h->crc32c), "%.8s", value);
    return true;
}

/* One line "Name: value" without its end. */
static bool parse_header(const char *at, const char *end, struct sink_head *h)
{
    char name[64], value[SINK_KEY_MAX];
    const char *colon = memchr(at, ':', (size_t)(end - at));
    if (!colon || colon == at)
        return false;
    const char *from = colon + 1;
    while (from < end && *from == ' ')
        from++;
    /* Long ones (tokens) are none of those that are looked at. */
    if (colon - at >= (ptrdiff_t)sizeof(name) || end - from >= (ptrdiff_t)sizeof(value))
        return true;
    snprintf(name, sizeof(name), "%.*s", (int)(colon - at), at);
    snprintf(value, sizeof(value), "%.*s", (int)(end - from), from);
    return take_header(name, value, h);
}

int sink_head_parse(const char *bytes, size_t len, struct sink_head *ret)
{
    const char *end = memmem(bytes, len, "\r\n\r\n", 4);
    if (!end)
        return len >= SINK_HEAD_MAX ? -1 : 0;
    struct sink_head h = { .max_keys = 1000 };
    const char *line_end = memmem(bytes, len, "\r\n", 2);
    const char *space = memchr(bytes, ' ', (size_t)(line_end - bytes));
    const char *last = memrchr(bytes, ' ', (size_t)(line_end - bytes));
    if (!space || last <= space || strncmp(last, " HTTP/1.1\r", 10) != 0 ||
        !parse_verb(bytes, space, &h) || !parse_target(space + 1, last, &h))
        return -1;
    while (line_end < end) {
        const char *at = line_end + 2;
        line_end = memmem(at, (size_t)(end + 2 - at), "\r\n", 2);
        if (!parse_header(at, line_end, &h))
            return -1;
    }
    *ret = h;
    return (int)(end + 4 - bytes);
}
