/* Sums and digests, each with one job:
 *   CRC32C     of stored bytes: catches what disks and networks do
 *   XXH3-128   of raw bytes of a chunk or a block: identity and end-to-end check
 *   SHA-256    of manifest and index headers: the chain to the commit record
 * digest_* are stored as 16 bytes, big-endian canonical form of XXH128. */
#pragma once

#include "formats/base.h"

struct digest {
    uint8_t b[16];
};
struct sha256 {
    uint8_t b[32];
};

uint32_t crc32c(const void *bytes, size_t len);
/* crc32c of what `crc` covers with `bytes` behind it; the crc of nothing is 0. */
uint32_t crc32c_more(uint32_t crc, const void *bytes, size_t len);
struct digest digest_of(const void *bytes, size_t len);
struct sha256 sha256_of(const void *bytes, size_t len);
/* The same over bytes that come in parts (allocates nothing). */
struct digest_state {
    _Alignas(64) uint8_t opaque[640];
};
void digest_begin(struct digest_state *s);
void digest_add(struct digest_state *s, const void *bytes, size_t len);
struct digest digest_end(const struct digest_state *s);
/* digest_of and crc32c of the same bytes in one pass over memory. */
struct digest digest_and_crc32c(const void *bytes, size_t len, uint32_t *ret_crc);
bool digest_equal(const struct digest *a, const struct digest *b);
bool sha256_equal(const struct sha256 *a, const struct sha256 *b);
/* First 8 bytes of digest_of, as a big-endian number: for hashing names to places. */
uint64_t digest_hash(const void *bytes, size_t len);
/* Lower-case hex; writes 2 * n digits and a NUL. */
void hex_encode(const uint8_t *bytes, size_t n, char *ret);
/* Exactly 2 * n lower-case digits, then NUL; false otherwise. */
bool hex_decode(const char *text, size_t n, uint8_t *ret);
