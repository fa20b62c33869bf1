/* Text that comes from elsewhere: names, messages and paths that may hold any bytes.
 *
 * What people see goes through text_clean, what JSON gets through text_valid. */
#pragma once

#include "formats/base.h"

/* Bytes of the UTF-8 character at `at`, of which `left` (at least 1) are there, its code in
 * *ret; 0: there is none. */
static inline size_t text_next(const char *at, size_t left, uint32_t *ret)
{
    static const uint32_t least[5] = { 0, 0, 0x80, 0x800, 0x10000 };
    uint8_t first = (uint8_t)at[0];
    size_t n = first < 0x80 ? 1 : first < 0xc0 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    if (n == 0 || first > 0xf4 || n > left)
        return 0;
    uint32_t code = n == 1 ? first : first & (0x7fu >> n);
    for (size_t i = 1; i < n; i++) {
        if (((uint8_t)at[i] & 0xc0) != 0x80)
            return 0;
        code = code << 6 | ((uint8_t)at[i] & 0x3f);
    }
    /* Overlong forms and surrogates would give one name two spellings. */
    if (code < least[n] || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff))
        return 0;
    *ret = code;
    return n;
}
/* U+0000 to U+001F, U+007F to U+009F: they drive terminals. */
static inline bool text_control(uint32_t code)
{
    return code < 0x20 || (code >= 0x7f && code < 0xa0);
}

/* False for control characters, and for those that end a line or change the direction of what
 * follows (U+2028 to U+202E, U+2066 to U+2069): a name that holds one would reorder the line
 * it is shown in, and an embedding that is not closed the lines after it. */
static inline bool text_shown(uint32_t code)
{
    return !text_control(code) && !(code >= 0x2028 && code <= 0x202e) &&
           !(code >= 0x2066 && code <= 0x2069);
}

/* Copies text for people, on one line: '?' stands for each character that is not shown, and for
 * each byte that is part of none.  All else stays, and nothing grows.  Cuts between characters.
 * ret may be text.  Returns ret. */
char *text_clean(const char *text, char *ret, size_t cap);
/* A copy in which U+FFFD stands for each byte that is part of no character; the caller frees
 * it.  NULL: out of memory. */
char *text_valid(const char *text) CKPT_MUST_CHECK;
