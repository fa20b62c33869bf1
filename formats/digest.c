/* XXH3-128 and hex.  CRC32C and SHA-256 live in files of their own, so that a
 * program that needs only this one links neither ISA-L nor OpenSSL. */
#include "formats/digest.h"

#include <assert.h>

/* All of xxhash inside this file: nobody needs libxxhash at run time. */
#define XXH_INLINE_ALL
#include <xxhash.h>

static_assert(sizeof(XXH3_state_t) <= sizeof(struct digest_state), "digest_state is large enough");
static_assert(_Alignof(struct digest_state) >= 64, "digest_state is aligned for XXH3");

static struct digest digest_canonical(XXH128_hash_t hash)
{
    XXH128_canonical_t canonical;
    struct digest d;
    XXH128_canonicalFromHash(&canonical, hash);
    static_assert(sizeof(canonical.digest) == sizeof(d.b), "XXH128 is 16 bytes");
    memcpy(d.b, canonical.digest, sizeof(d.b));
    return d;
}

struct digest digest_of(const void *bytes, size_t len)
{
    return digest_canonical(XXH3_128bits(bytes, len));
}

uint64_t digest_hash(const void *bytes, size_t len)
{
    return XXH3_128bits(bytes, len).high64; /* the first 8 canonical bytes, big-endian */
}

void digest_begin(struct digest_state *s)
{
    XXH3_state_t *state = (XXH3_state_t *)s->opaque;
    XXH3_INITSTATE(state);
    (void)XXH3_128bits_reset(state); /* fails for NULL only */
}

void digest_add(struct digest_state *s, const void *bytes, size_t len)
{
    if (len)
        (void)XXH3_128bits_update((XXH3_state_t *)s->opaque, bytes, len); /* the same */
}

struct digest digest_end(const struct digest_state *s)
{
    return digest_canonical(XXH3_128bits_digest((const XXH3_state_t *)s->opaque));
}

bool digest_equal(const struct digest *a, const struct digest *b)
{
    return memcmp(a->b, b->b, sizeof(a->b)) == 0;
}

void hex_encode(const uint8_t *bytes, size_t n, char *ret)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < n; i++) {
        *ret++ = digits[bytes[i] >> 4];
        *ret++ = digits[bytes[i] & 15];
    }
    *ret = 0;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return -1;
}

bool hex_decode(const char *text, size_t n, uint8_t *ret)
{
    for (size_t i = 0; i < 2 * n; i++) { /* stops at a NUL: never reads beyond it */
        if (hex_digit(text[i]) < 0)
            return false;
    }
    if (text[2 * n])
        return false;
    for (size_t i = 0; i < n; i++)
        ret[i] = (uint8_t)(hex_digit(text[2 * i]) << 4 | hex_digit(text[2 * i + 1]));
    return true;
}
