/* See s3_xml.h.  Names are compared as they are written: S3 uses no prefixes. */
#include "storage/store/s3_xml.h"

#include <stdio.h>

void s3_xml_init(struct s3_xml *x, const char *bytes, size_t len)
{
    memset(x, 0, sizeof(*x));
    x->at = bytes;
    x->end = bytes + len;
    if (len >= 3 && memcmp(bytes, "\xef\xbb\xbf", 3) == 0)
        x->at += 3; /* byte order mark */
}

static enum s3_xml_event bad(struct s3_xml *x)
{
    x->bad = true;
    return S3_XML_BAD;
}

static bool starts(const struct s3_xml *x, const char *word)
{
    size_t len = strlen(word);
    return (size_t)(x->end - x->at) >= len && memcmp(x->at, word, len) == 0;
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static void skip_space(struct s3_xml *x)
{
    while (x->at < x->end && is_space(*x->at))
        x->at++;
}

/* Moves behind the next `word`; false when there is none. */
static bool skip_past(struct s3_xml *x, const char *word)
{
    const char *found = memmem(x->at, (size_t)(x->end - x->at), word, strlen(word));
    if (found)
        x->at = found + strlen(word);
    return found;
}

static bool is_name(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-' || c == '.' || c == ':';
}

static bool read_name(struct s3_xml *x, char name[S3_XML_NAME_MAX + 1])
{
    size_t len = 0;
    for (; x->at < x->end && is_name(*x->at); x->at++) {
        if (len == S3_XML_NAME_MAX)
            return false;
        name[len++] = *x->at;
    }
    name[len] = 0;
    return len > 0;
}

static bool put_byte(struct s3_xml *x, unsigned c)
{
    if (x->text_len == S3_XML_TEXT_MAX)
        return false;
    x->text[x->text_len++] = (char)c;
    return true;
}

/* A code point as UTF-8. */
static bool put_code(struct s3_xml *x, unsigned c)
{
    if (c == 0 || c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
        return false;
    if (c < 0x80)
        return put_byte(x, c);
    if (c < 0x800)
        return put_byte(x, 0xc0 | c >> 6) && put_byte(x, 0x80 | (c & 0x3f));
    if (c < 0x10000)
        return put_byte(x, 0xe0 | c >> 12) && put_byte(x, 0x80 | (c >> 6 & 0x3f)) &&
               put_byte(x, 0x80 | (c & 0x3f));
    return put_byte(x, 0xf0 | c >> 18) && put_byte(x, 0x80 | (c >> 12 & 0x3f)) &&
           put_byte(x, 0x80 | (c >> 6 & 0x3f)) && put_byte(x, 0x80 | (c & 0x3f));
}

/* "#65;" or "#x41;", behind the '&'. */
static bool read_number(struct s3_xml *x)
{
    x->at++;
    unsigned base = 10, value = 0, digits = 0;
    if (x->at < x->end && *x->at == 'x')
        base = 16, x->at++;
    for (; x->at < x->end && *x->at != ';'; x->at++, digits++) {
        char c = *x->at;
        unsigned digit = c >= '0' && c <= '9'   ? (unsigned)(c - '0')
                         : c >= 'a' && c <= 'f' ? (unsigned)(c - 'a') + 10
                         : c >= 'A' && c <= 'F' ? (unsigned)(c - 'A') + 10
                                                : 99;
        if (digit >= base || digits == 8)
            return false;
        value = value * base + digit;
    }
    return digits > 0 && x->at++ < x->end && put_code(x, value);
}

static bool read_entity(struct s3_xml *x)
{
    static const struct {
        const char *name;
        char c;
    } known[] = {
        { "lt;", '<' }, { "gt;", '>' }, { "amp;", '&' }, { "quot;", '"' }, { "apos;", '\'' },
    };
    x->at++;
    if (x->at < x->end && *x->at == '#')
        return read_number(x);
    for (size_t i = 0; i < ARRAY_COUNT(known); i++) {
        if (starts(x, known[i].name)) {
            x->at += strlen(known[i].name);
            return put_byte(x, (unsigned char)known[i].c);
        }
    }
    return false;
}

/* Up to the next '<'.  Outside of the root there is only space. */
static bool read_text(struct s3_xml *x)
{
    while (x->at < x->end && *x->at != '<') {
        if (x->depth == 0 ? !is_space(*x->at) : *x->at == 0)
            return false;
        if (x->depth > 0 && *x->at == '&') {
            if (!read_entity(x))
                return false;
            continue;
        }
        if (x->depth > 0 && !put_byte(x, (unsigned char)*x->at))
            return false;
        x->at++;
    }
    return true;
}

/* Attributes up to '>' or "/>"; their values are of no use here. */
static bool skip_attributes(struct s3_xml *x)
{
    char name[S3_XML_NAME_MAX + 1];
    for (;;) {
        const char *before = x->at;
        skip_space(x);
        if (x->at == x->end)
            return false;
        if (*x->at == '>' || *x->at == '/')
            return true;
        if (x->at == before || !read_name(x, name))
            return false;
        if (!starts(x, "=\"") && !starts(x, "='"))
            return false;
        char quote[2] = { x->at[1], 0 };
        const char *value = x->at += 2;
        if (!skip_past(x, quote) || memchr(value, '<', (size_t)(x->at - value)))
            return false;
    }
}

static enum s3_xml_event open_element(struct s3_xml *x)
{
    if (x->depth == S3_XML_DEPTH_MAX || (x->depth == 0 && x->begun))
        return bad(x);
    if (!read_name(x, x->names[x->depth]) || !skip_attributes(x))
        return bad(x);
    x->closing = *x->at == '/';
    x->at += x->closing;
    if (x->at == x->end || *x->at++ != '>')
        return bad(x);
    x->begun = true;
    x->depth++;
    x->text_len = 0;
    x->text[0] = 0;
    return S3_XML_OPEN;
}

static enum s3_xml_event close_element(struct s3_xml *x)
{
    char name[S3_XML_NAME_MAX + 1];
    if (x->depth == 0 || !read_name(x, name) || strcmp(name, x->names[x->depth - 1]) != 0)
        return bad(x);
    skip_space(x);
    if (x->at == x->end || *x->at++ != '>')
        return bad(x);
    x->text[x->text_len] = 0;
    x->text_len = 0; /* what follows belongs to the parent */
    x->depth--;
    return S3_XML_CLOSE;
}

enum s3_xml_event s3_xml_next(struct s3_xml *x)
{
    if (x->bad)
        return S3_XML_BAD;
    if (x->closing) {
        x->closing = false;
        x->depth--;
        return S3_XML_CLOSE;
    }
    for (;;) {
        if (!read_text(x))
            return bad(x);
        if (x->at == x->end)
            return x->depth == 0 && x->begun ? S3_XML_END : bad(x);
        bool skipped = starts(x, "<!--")                 ? skip_past(x, "-->")
                       : starts(x, "<?xml") && !x->begun ? skip_past(x, "?>")
                                                         : false;
        if (skipped)
            continue;
        x->at++;
        if (x->at < x->end && *x->at == '/') {
            x->at++;
            return close_element(x);
        }
        return open_element(x);
    }
}

bool s3_xml_find(const char *bytes, size_t len, const char *parent, const char *name, char *ret,
                 size_t cap)
{
    struct s3_xml x;
    bool found = false;
    enum s3_xml_event event;
    ret[0] = 0;
    s3_xml_init(&x, bytes, len);
    while ((event = s3_xml_next(&x)) != S3_XML_END && event != S3_XML_BAD) {
        if (event != S3_XML_CLOSE || found || x.depth == 0 || strcmp(x.names[x.depth], name) != 0 ||
            strcmp(x.names[x.depth - 1], parent) != 0)
            continue;
        found = true;
        snprintf(ret, cap, "%s", x.text);
        for (char *c = ret; *c; c++) {
            if ((unsigned char)*c < 0x20 || *c == 0x7f)
                *c = '?';
        }
    }
    if (event == S3_XML_BAD)
        ret[0] = 0;
    return found && event == S3_XML_END;
}
