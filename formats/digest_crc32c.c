/* CRC32C by ISA-L: its function takes and returns the bare register, so the
 * standard's first and last inversion are done here. */
#include <isa-l/crc.h>

#include "formats/digest.h"

#define PART_BYTES_MAX (UINT64_C(1) << 30) /* its length is an int */

uint32_t crc32c(const void *bytes, size_t len)
{
    /* ISA-L lacks a const; it only reads. */
    unsigned char *at = (unsigned char *)(uintptr_t)bytes;
    uint32_t reg = UINT32_MAX;
    while (len) {
        size_t n = min_u64(len, PART_BYTES_MAX);
        reg = crc32_iscsi(at, (int)n, reg);
        at += n;
        len -= n;
    }
    return ~reg;
}
