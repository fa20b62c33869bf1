/* CRC32C by ISA-L: its function takes and returns the bare register, so the
 * standard's first and last inversion are done here. */
#include <isa-l/crc.h>

#include "formats/digest.h"

#define PART_BYTES_MAX (UINT64_C(1) << 30) /* its length is an int */
#define CACHE_BYTES    (UINT64_C(64) << 10)

/* ISA-L's code for wide registers returns with their upper halves in use, and then every
 * SSE instruction that follows (XXH3's, memcpy's) runs at a quarter of its speed: on the
 * build machine 4.6 instead of 20 GB/s.  So they are cleared. */
#if defined(__x86_64__)
__attribute__((target("avx"))) static void clear_upper_halves(void)
{
    __builtin_ia32_vzeroupper();
}
static void after_isal(void)
{
    if (__builtin_cpu_supports("avx"))
        clear_upper_halves();
}
#else
static void after_isal(void)
{
}
#endif

/* Goes on from a bare register. */
static uint32_t crc32c_go_on(uint32_t reg, const void *bytes, size_t len)
{
    /* ISA-L lacks a const; it only reads. */
    unsigned char *at = (unsigned char *)(uintptr_t)bytes;
    while (len) {
        size_t n = min_u64(len, PART_BYTES_MAX);
        reg = crc32_iscsi(at, (int)n, reg);
        at += n;
        len -= n;
    }
    after_isal();
    return reg;
}

uint32_t crc32c_more(uint32_t crc, const void *bytes, size_t len)
{
    return ~crc32c_go_on(~crc, bytes, len);
}

uint32_t crc32c(const void *bytes, size_t len)
{
    return ~crc32c_go_on(UINT32_MAX, bytes, len);
}

/* The second sum finds each piece in the cache: memory is read once, which is what a
 * crew that saves at the speed of the disk has to spare. */
struct digest digest_and_crc32c(const void *bytes, size_t len, uint32_t *ret_crc)
{
    struct digest_state state;
    const uint8_t *at = bytes;
    uint32_t reg = UINT32_MAX;
    digest_begin(&state);
    for (size_t left = len; left > 0;) {
        size_t n = min_u64(left, CACHE_BYTES);
        digest_add(&state, at, n);
        reg = crc32c_go_on(reg, at, n);
        at += n;
        left -= n;
    }
    *ret_crc = ~reg;
    return digest_end(&state);
}
