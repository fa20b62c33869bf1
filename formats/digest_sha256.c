/* SHA-256 by OpenSSL's low-level calls, which cannot fail and allocate nothing.  (Its
 * one-shot SHA256() looks an algorithm up and can run out of memory: then it leaves the
 * digest as it was, and a good checkpoint would be called damaged, or a wrong digest
 * committed.) */
#define OPENSSL_SUPPRESS_DEPRECATED
#include <assert.h>
#include <openssl/sha.h>

#include "formats/digest.h"

struct sha256 sha256_of(const void *bytes, size_t len)
{
    struct sha256 sha;
    SHA256_CTX ctx;
    static_assert(sizeof(sha.b) == SHA256_DIGEST_LENGTH, "SHA-256 is 32 bytes");
    SHA256_Init(&ctx);
    SHA256_Update(&ctx, bytes, len);
    SHA256_Final(sha.b, &ctx);
    return sha;
}

bool sha256_equal(const struct sha256 *a, const struct sha256 *b)
{
    return memcmp(a->b, b->b, sizeof(a->b)) == 0;
}
