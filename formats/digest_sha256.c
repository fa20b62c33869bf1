/* SHA-256 by OpenSSL, in one shot: it cannot fail and allocates nothing. */
#include <assert.h>
#include <openssl/sha.h>

#include "formats/digest.h"

struct sha256 sha256_of(const void *bytes, size_t len)
{
    struct sha256 sha;
    static_assert(sizeof(sha.b) == SHA256_DIGEST_LENGTH, "SHA-256 is 32 bytes");
    SHA256(bytes, len, sha.b);
    return sha;
}

bool sha256_equal(const struct sha256 *a, const struct sha256 *b)
{
    return memcmp(a->b, b->b, sizeof(a->b)) == 0;
}
