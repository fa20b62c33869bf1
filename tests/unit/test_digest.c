/* Sums and digests against published vectors; parts against the whole; hex.  Covers
 * digest.c, digest_crc32c.c and digest_sha256.c alike. */
#include "formats/digest.h"

#include "check.h"

static void check_hex(const uint8_t *bytes, size_t n, const char *want)
{
    char text[65];
    hex_encode(bytes, n, text);
    CHECK_STR(text, want);
}

/* RFC 3720 B.4 and the usual check value. */
static int test_crc32c(void)
{
    uint8_t b[32];
    CHECK_EQ(crc32c("123456789", 9), 0xE3069283);
    CHECK_EQ(crc32c("", 0), 0);
    CHECK_EQ(crc32c_more(crc32c_more(0, "12345", 5), "6789", 4), 0xE3069283);
    CHECK_EQ(crc32c_more(crc32c("123456789", 9), "", 0), 0xE3069283);
    memset(b, 0, sizeof(b));
    CHECK_EQ(crc32c(b, 32), 0x8A9136AA);
    memset(b, 0xff, sizeof(b));
    CHECK_EQ(crc32c(b, 32), 0x62A8AB43);
    for (unsigned i = 0; i < 32; i++)
        b[i] = (uint8_t)i;
    CHECK_EQ(crc32c(b, 32), 0x46DD794E);
    return 5;
}

/* FIPS 180-2 */
static int test_sha256(void)
{
    struct sha256 abc = sha256_of("abc", 3), empty = sha256_of("", 0), again = sha256_of("abc", 3);
    check_hex(abc.b, 32, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    check_hex(empty.b, 32, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    CHECK(sha256_equal(&abc, &again) && !sha256_equal(&abc, &empty));
    again.b[31] ^= 1;
    CHECK(!sha256_equal(&abc, &again));
    return 4;
}

/* As `xxh128sum` prints them. */
static int test_xxh3(void)
{
    struct digest empty = digest_of("", 0), a = digest_of("a", 1);
    check_hex(empty.b, 16, "99aa06d3014798d86001c324468d497f");
    check_hex(a.b, 16, "a96faf705af16834e6c632b61e964e1f");
    CHECK(digest_hash("a", 1) == 0xa96faf705af16834);
    CHECK(!digest_equal(&a, &empty));
    struct digest b = a;
    CHECK(digest_equal(&a, &b));
    b.b[15] ^= 0x80;
    CHECK(!digest_equal(&a, &b));
    return 6;
}

/* Law: however the bytes are cut, the digest is that of the whole. */
static long test_parts(void)
{
    unsigned long long seed = test_seed(11);
    uint8_t bytes[5000];
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)test_rand(&seed);
    long cases = 0;
    for (; cases < 300; cases++) {
        size_t len = test_rand(&seed) % sizeof(bytes);
        struct digest_state state;
        digest_begin(&state);
        for (size_t at = 0; at < len;) {
            size_t n = min_u64(test_rand(&seed) % 700, len - at);
            digest_add(&state, bytes + at, n);
            at += n;
        }
        struct digest parts = digest_end(&state), whole = digest_of(bytes, len);
        CHECK(digest_equal(&parts, &whole));
    }
    return cases;
}

static int test_hex(void)
{
    uint8_t b[3] = { 9, 9, 9 };
    CHECK(hex_decode("00ff1a", 3, b) && b[0] == 0 && b[1] == 0xff && b[2] == 0x1a);
    CHECK(!hex_decode("00ff1A", 3, b));
    CHECK(!hex_decode("00ff1", 3, b));
    CHECK(!hex_decode("00ff1a0", 3, b));
    CHECK(!hex_decode("00ff1g", 3, b));
    CHECK(!hex_decode("", 3, b));
    CHECK_EQ(b[2], 0x1a); /* untouched by what was refused */
    CHECK(hex_decode("", 0, b));
    return 8;
}

/* One pass gives what two give, at every length around the borders of its pieces. */
static int test_both_at_once(void)
{
    static uint8_t bytes[3 * 65536 + 100];
    static const size_t lens[] = { 0, 1, 17, 240, 241, 65535, 65536, 65537, 131072, sizeof(bytes) };
    int cases = 0;
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)(i * 131 + (i >> 9));
    for (size_t i = 0; i < ARRAY_COUNT(lens); i++, cases++) {
        uint32_t crc = 0;
        struct digest both = digest_and_crc32c(bytes, lens[i], &crc);
        struct digest alone = digest_of(bytes, lens[i]);
        CHECK(digest_equal(&both, &alone));
        CHECK_EQ(crc, crc32c(bytes, lens[i]));
    }
    return cases;
}

int main(void)
{
    TEST_CASES(test_both_at_once() + test_crc32c() + test_sha256() + test_xxh3() + test_parts() +
               test_hex());
    return 0;
}
