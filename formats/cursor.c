/* The cursor (hostile bytes in) and the growing buffer (bytes out). */
#include "formats/cursor.h"

#include <assert.h>

#define BUF_FIRST_BYTES 256

double cursor_f64(struct cursor *c)
{
    uint64_t bits = cursor_u64(c);
    double v;
    static_assert(sizeof(v) == sizeof(bits), "double is IEEE 754 binary64");
    memcpy(&v, &bits, sizeof(v));
    return v;
}

void cursor_str(struct cursor *c, char *to, size_t cap)
{
    assert(cap > 0);
    size_t n = cursor_u16(c);
    const uint8_t *from = cursor_bytes(c, n);
    if (!from || n >= cap || memchr(from, 0, n)) {
        c->bad = true;
        to[0] = 0;
        return;
    }
    memcpy(to, from, n);
    to[n] = 0;
}

void cursor_zero(struct cursor *c, size_t n)
{
    const uint8_t *at = cursor_bytes(c, n);
    if (!at)
        return;
    for (size_t i = 0; i < n; i++) {
        if (at[i])
            c->bad = true;
    }
}

bool cursor_done(const struct cursor *c)
{
    return !c->bad && c->at == c->end;
}

void buf_fini(struct buf *b)
{
    if (!b)
        return;
    free(b->data);
    *b = (struct buf){ 0 };
}

/* False (and failed) when memory or size_t runs out; old contents stay freeable. */
static bool buf_reserve(struct buf *b, size_t n)
{
    if (b->failed)
        return false;
    if (n <= b->cap - b->len)
        return true;
    size_t want = b->len + n;
    size_t cap = b->cap ? b->cap : BUF_FIRST_BYTES;
    while (cap < want && cap <= SIZE_MAX / 2)
        cap *= 2;
    uint8_t *data = want < n || cap < want ? NULL : realloc(b->data, cap);
    if (!data) {
        b->failed = true;
        return false;
    }
    b->data = data;
    b->cap = cap;
    return true;
}

uint8_t *buf_extend(struct buf *b, size_t n)
{
    if (!buf_reserve(b, n))
        return NULL;
    uint8_t *at = b->data + b->len;
    b->len += n;
    return at;
}

void buf_bytes(struct buf *b, const void *from, size_t n)
{
    if (n == 0)
        return;
    uint8_t *to = buf_extend(b, n);
    if (to)
        memcpy(to, from, n);
}

void buf_zero(struct buf *b, size_t n)
{
    if (n == 0)
        return;
    uint8_t *to = buf_extend(b, n);
    if (to)
        memset(to, 0, n);
}

void buf_u8(struct buf *b, uint8_t v)
{
    buf_bytes(b, &v, sizeof(v));
}

void buf_u16(struct buf *b, uint16_t v)
{
    v = htole16(v);
    buf_bytes(b, &v, sizeof(v));
}

void buf_u32(struct buf *b, uint32_t v)
{
    v = htole32(v);
    buf_bytes(b, &v, sizeof(v));
}

void buf_u64(struct buf *b, uint64_t v)
{
    v = htole64(v);
    buf_bytes(b, &v, sizeof(v));
}

void buf_f64(struct buf *b, double v)
{
    uint64_t bits;
    memcpy(&bits, &v, sizeof(bits));
    buf_u64(b, bits);
}

void buf_str(struct buf *b, const char *s)
{
    size_t n = strlen(s);
    assert(n <= UINT16_MAX);
    buf_u16(b, (uint16_t)n);
    buf_bytes(b, s, n);
}

/* Nothing to overwrite in a failed buffer. */
static void buf_patch(struct buf *b, size_t at, const void *from, size_t n)
{
    if (b->failed)
        return;
    assert(at <= b->len && n <= b->len - at);
    memcpy(b->data + at, from, n);
}

void buf_patch_u32(struct buf *b, size_t at, uint32_t v)
{
    v = htole32(v);
    buf_patch(b, at, &v, sizeof(v));
}

void buf_patch_u64(struct buf *b, size_t at, uint64_t v)
{
    v = htole64(v);
    buf_patch(b, at, &v, sizeof(v));
}
