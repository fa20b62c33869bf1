/* Reading and writing little-endian bytes so that the code reads like the layout.
 * Errors are sticky: after the first short read every getter returns 0 and
 * cursor_ok is false; after the first failed allocation a buffer stays failed. */
#pragma once

#include <endian.h>

#include "formats/base.h"

/* Reads hostile bytes; borrows them. */
struct cursor {
    const uint8_t *at, *end;
    bool bad;
};
static inline struct cursor cursor_over(const void *bytes, size_t len)
{
    return (struct cursor){ .at = bytes, .end = (const uint8_t *)bytes + len };
}
static inline size_t cursor_left(const struct cursor *c)
{
    return (size_t)(c->end - c->at);
}
/* n bytes in place; NULL (and bad) if there are fewer. */
static inline const uint8_t *cursor_bytes(struct cursor *c, size_t n)
{
    if (c->bad || n > cursor_left(c)) {
        c->bad = true;
        return NULL;
    }
    const uint8_t *at = c->at;
    c->at += n;
    return at;
}
/* Copies n bytes to `to` (zeroes it when there are fewer). */
static inline void cursor_copy(struct cursor *c, void *to, size_t n)
{
    if (n == 0)
        return;
    const uint8_t *from = cursor_bytes(c, n);
    if (from)
        memcpy(to, from, n);
    else
        memset(to, 0, n);
}
/* Inline, these four: records of a large model are read by the ten million. */
static inline uint8_t cursor_u8(struct cursor *c)
{
    uint8_t v;
    cursor_copy(c, &v, sizeof(v));
    return v;
}
static inline uint16_t cursor_u16(struct cursor *c)
{
    uint16_t v;
    cursor_copy(c, &v, sizeof(v));
    return le16toh(v);
}
static inline uint32_t cursor_u32(struct cursor *c)
{
    uint32_t v;
    cursor_copy(c, &v, sizeof(v));
    return le32toh(v);
}
static inline uint64_t cursor_u64(struct cursor *c)
{
    uint64_t v;
    cursor_copy(c, &v, sizeof(v));
    return le64toh(v);
}
double cursor_f64(struct cursor *c);
/* u16 length + bytes, copied as a C string of at most cap - 1 bytes; longer, or
 * with a NUL inside, makes the cursor bad. */
void cursor_str(struct cursor *c, char *to, size_t cap);
/* n bytes that must be zero (reserved). */
void cursor_zero(struct cursor *c, size_t n);
static inline bool cursor_ok(const struct cursor *c)
{
    return !c->bad;
}
/* True if nothing failed and nothing is left over. */
bool cursor_done(const struct cursor *c);
/* Marks the cursor bad: for checks of meaning inside a decoder. */
static inline void cursor_fail(struct cursor *c)
{
    c->bad = true;
}

/* A growing buffer; free with buf_fini. */
struct buf {
    uint8_t *data;
    size_t len, cap;
    bool failed; /* out of memory: contents are void */
};
void buf_fini(struct buf *b);
#define CLEANUP_BUF __attribute__((cleanup(buf_fini)))
/* Appends n uninitialised bytes and returns them; NULL when failed. */
uint8_t *buf_extend(struct buf *b, size_t n);
void buf_u8(struct buf *b, uint8_t v);
void buf_u16(struct buf *b, uint16_t v);
void buf_u32(struct buf *b, uint32_t v);
void buf_u64(struct buf *b, uint64_t v);
void buf_f64(struct buf *b, double v);
void buf_bytes(struct buf *b, const void *from, size_t n);
void buf_str(struct buf *b, const char *s); /* u16 length + bytes; s <= 65535 bytes */
void buf_zero(struct buf *b, size_t n);
/* Overwrites bytes already written (lengths and digests known later). */
void buf_patch_u32(struct buf *b, size_t at, uint32_t v);
void buf_patch_u64(struct buf *b, size_t at, uint64_t v);
