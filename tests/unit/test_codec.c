/* The chunk codec: round trips, the 3 % rule, and frames that lie. */
#include <zstd.h>

#include "formats/codec.h"

#include "check.h"

enum fill { FILL_NOISE, FILL_ZERO, FILL_BITS, FILL_HALF, FILL_KINDS };

static void fill(uint8_t *to, size_t n, enum fill kind, unsigned long long *state)
{
    for (size_t i = 0; i < n; i++) {
        uint8_t v = (uint8_t)test_rand(state);
        to[i] = kind == FILL_NOISE               ? v
                : kind == FILL_ZERO              ? 0
                : kind == FILL_BITS              ? v & 15
                : (i / 1024) % 2 /* FILL_HALF */ ? v
                                                 : 7;
    }
}

/* Law: decode o encode = identity, and what is coded saves at least 3 %. */
static long test_round_trips(struct codec *c)
{
    static const size_t sizes[] = { 1, 2, 31, 100, 4096, 65536, 262143, 262144, 262145, 1 << 20 };
    static const int levels[] = { 1, 3, -1, -100 };
    unsigned long long seed = test_seed(5);
    long cases = 0, coded = 0;
    for (size_t s = 0; s < ARRAY_COUNT(sizes); s++) {
        for (unsigned k = 0; k < FILL_KINDS * ARRAY_COUNT(levels); k++, cases++) {
            size_t n = sizes[s], cap = codec_bound(CODEC_ZSTD, n), bytes;
            CLEANUP_FREE uint8_t *raw = malloc(n), *dst = malloc(cap), *back = malloc(n);
            enum codec_id id;
            CHECK(raw && dst && back);
            fill(raw, n, k % FILL_KINDS, &seed);
            CHECK_OK(
                codec_encode(c, CODEC_ZSTD, levels[k / FILL_KINDS], raw, n, dst, cap, &id, &bytes));
            CHECK_OK(codec_decode(c, id, 0, id == CODEC_ZSTD ? dst : raw, bytes, back, n));
            CHECK(memcmp(raw, back, n) == 0);
            if (id == CODEC_STORED)
                CHECK_EQ(bytes, n);
            else
                CHECK(bytes * 100 <= n * 97);
            if (k % FILL_KINDS == FILL_NOISE)
                CHECK_EQ(id, CODEC_STORED);
            else if (n >= 4096)
                CHECK_EQ(id, CODEC_ZSTD); /* negative levels code literals too */
            coded += id == CODEC_ZSTD;
        }
    }
    CHECK(coded > 0);
    return cases;
}

static int test_stored_and_small_room(struct codec *c)
{
    uint8_t raw[1000] = { 0 }, dst[1000], back[1000];
    enum codec_id id = CODEC_ZSTD;
    size_t bytes = 7;
    CHECK_OK(codec_encode(c, CODEC_STORED, 1, raw, sizeof(raw), NULL, 0, &id, &bytes));
    CHECK(id == CODEC_STORED && bytes == 1000);
    CHECK_OK(codec_encode(c, CODEC_ZSTD, 1, raw, sizeof(raw), dst, 5, &id, &bytes));
    CHECK(id == CODEC_STORED && bytes == 1000); /* 5 bytes are no room for a frame */
    CHECK_OK(codec_encode(c, CODEC_ZSTD, 1, raw, 0, dst, sizeof(dst), &id, &bytes));
    CHECK(id == CODEC_STORED && bytes == 0);
    CHECK_EQ(codec_encode(c, (enum codec_id)2, 1, raw, 1, dst, sizeof(dst), &id, &bytes),
             CKPT_UNSUPPORTED);
    CHECK_OK(codec_decode(c, CODEC_STORED, 0, raw, 1000, back, 1000));
    CHECK_EQ(codec_decode(c, CODEC_STORED, 0, raw, 999, back, 1000), CKPT_CORRUPT);
    CHECK_EQ(codec_decode(c, CODEC_STORED, 0, raw, 1000, back, 999), CKPT_CORRUPT);
    CHECK_EQ(codec_decode(c, CODEC_STORED, 1, raw, 1000, back, 1000), CKPT_UNSUPPORTED);
    CHECK_EQ(codec_decode(c, CODEC_ZSTD, 1, raw, 1000, back, 1000), CKPT_UNSUPPORTED);
    CHECK_EQ(codec_decode(c, 2, 0, raw, 1000, back, 1000), CKPT_UNSUPPORTED);
    CHECK_EQ(codec_decode(c, CODEC_ZSTD, 0, raw, 0, back, 0), CKPT_CORRUPT);
    return 14;
}

/* One frame of `raw` with one parameter other than the format's. */
static size_t odd_frame(const void *raw, size_t n, ZSTD_cParameter parameter, int value, void *dst,
                        size_t cap)
{
    ZSTD_CCtx *cctx = ZSTD_createCCtx();
    CHECK(!ZSTD_isError(ZSTD_CCtx_setParameter(cctx, parameter, value)));
    size_t bytes = ZSTD_compress2(cctx, dst, cap, raw, n);
    CHECK(!ZSTD_isError(bytes));
    ZSTD_freeCCtx(cctx);
    return bytes;
}

/* Frames that zstd itself would take, but the format does not. */
static int test_odd_frames(struct codec *c)
{
    enum { N = 5000 };
    static const uint8_t raw[N];
    uint8_t dst[2 * N], back[2 * N];
    size_t bytes = odd_frame(raw, N, ZSTD_c_compressionLevel, 1, dst, sizeof(dst));
    CHECK_OK(codec_decode(c, CODEC_ZSTD, 0, dst, bytes, back, N));
    CHECK_EQ(codec_decode(c, CODEC_ZSTD, 0, dst, bytes, back, N - 1), CKPT_CORRUPT);
    CHECK_EQ(codec_decode(c, CODEC_ZSTD, 0, dst, bytes, back, N + 1), CKPT_CORRUPT);
    CHECK_EQ(codec_decode(c, CODEC_ZSTD, 0, dst, bytes + 1, back, N), CKPT_CORRUPT);
    memcpy(dst + bytes, dst, bytes); /* a second frame behind the first */
    CHECK_EQ(codec_decode(c, CODEC_ZSTD, 0, dst, 2 * bytes, back, N), CKPT_CORRUPT);
    CHECK_EQ(codec_decode(c, CODEC_ZSTD, 0, dst, 2 * bytes, back, 2 * N), CKPT_CORRUPT);
    static const uint8_t skippable[12] = { 0x50, 0x2a, 0x4d, 0x18, 4 };
    memcpy(dst + bytes, skippable, sizeof(skippable));
    CHECK_EQ(codec_decode(c, CODEC_ZSTD, 0, dst, bytes + 12, back, N), CKPT_CORRUPT);
    CHECK_EQ(codec_decode(c, CODEC_ZSTD, 0, skippable, 12, back, 0), CKPT_CORRUPT);
    CHECK_EQ(codec_decode(c, CODEC_ZSTD, 0, skippable, 12, back, 4), CKPT_CORRUPT);
    static const uint8_t nothing[8] = { 0x50, 0x2a, 0x4d, 0x18 };
    CHECK_EQ(codec_decode(c, CODEC_ZSTD, 0, nothing, 8, back, 0), CKPT_CORRUPT);
    bytes = odd_frame(raw, N, ZSTD_c_checksumFlag, 1, dst, sizeof(dst));
    CHECK_EQ(codec_decode(c, CODEC_ZSTD, 0, dst, bytes, back, N), CKPT_CORRUPT);
    bytes = odd_frame(raw, N, ZSTD_c_contentSizeFlag, 0, dst, sizeof(dst));
    CHECK_EQ(codec_decode(c, CODEC_ZSTD, 0, dst, bytes, back, N), CKPT_CORRUPT);
    return 12;
}

/* Any damage is refused or decodes to the right size, and never writes beyond. */
static long test_damage(struct codec *c)
{
    unsigned long long seed = test_seed(6);
    enum { N = 3000 };
    uint8_t raw[N], dst[2 * N];
    fill(raw, N, FILL_HALF, &seed);
    enum codec_id id;
    size_t bytes;
    long cases = 0;
    CHECK_OK(codec_encode(c, CODEC_ZSTD, 3, raw, N, dst, sizeof(dst), &id, &bytes));
    CHECK_EQ(id, CODEC_ZSTD);
    CLEANUP_FREE uint8_t *back = malloc(N);
    for (size_t n = 0; n < bytes; n++, cases++) {
        CLEANUP_FREE uint8_t *cut = malloc(n ? n : 1);
        CHECK(cut && back);
        memcpy(cut, dst, n);
        CHECK_EQ(codec_decode(c, CODEC_ZSTD, 0, cut, n, back, N), CKPT_CORRUPT);
    }
    for (size_t i = 0; i < 8 * bytes; i++, cases++) {
        dst[i / 8] ^= (uint8_t)(1u << i % 8);
        enum ckpt_status st = codec_decode(c, CODEC_ZSTD, 0, dst, bytes, back, N);
        CHECK(st == CKPT_OK || st == CKPT_CORRUPT);
        dst[i / 8] ^= (uint8_t)(1u << i % 8);
    }
    CHECK_OK(codec_decode(c, CODEC_ZSTD, 0, dst, bytes, back, N)); /* contexts are not spoilt */
    CHECK(memcmp(back, raw, N) == 0);
    return cases;
}

int main(void)
{
    struct codec *c = codec_new();
    CHECK(c != NULL);
    long cases =
        test_round_trips(c) + test_stored_and_small_room(c) + test_odd_frames(c) + test_damage(c);
    codec_free(c);
    codec_free(NULL);
    TEST_CASES(cases);
    return 0;
}
