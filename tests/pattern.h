/* Patterns over many bytes, of which the test knows every one.  They are made a block at a time in
 * memory that nobody else sees; where the product reads or writes, memcpy and memcmp show
 * ThreadSanitizer whole ranges, which is many times cheaper than every byte. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "check.h"

/* Writes bytes [at, at + n) of a pattern; both are multiples of 16, but for n at its end. */
typedef void (*pattern_make)(void *to, uint64_t at, size_t n, const void *arg);

static inline bool pattern_walk(uint8_t *base, uint64_t bytes, pattern_make make, const void *arg,
                                bool set)
{
    uint64_t block[512]; /* aligned for words */
    bool same = true;
    for (uint64_t at = 0; at < bytes; at += sizeof(block)) {
        size_t n = bytes - at < sizeof(block) ? (size_t)(bytes - at) : sizeof(block);
        make(block, at, n, arg);
        __asm__("" : "+r"(n)); /* or the copy is made in line, where nobody sees it */
        if (set)
            memcpy(base + at, block, n);
        else
            same &= memcmp(base + at, block, n) == 0;
    }
    return same;
}

static inline void pattern_fill(void *to, uint64_t bytes, pattern_make make, const void *arg)
{
    (void)pattern_walk(to, bytes, make, arg, true);
}

static inline bool pattern_is(const void *at, uint64_t bytes, pattern_make make, const void *arg)
{
    return pattern_walk((uint8_t *)(uintptr_t)at, bytes, make, arg, false);
}
