/* Pack heads: what a well-summed head may still lie about. */
#include "formats/cursor.h"
#include "formats/image.h"
#include "formats/pack.h"

#include "check.h"

#define COUNT 3

/* A coded pack (stored, zstd, stored) and an image of the same chunks. */
static struct pack_head coded_head(struct pack_chunk chunks[COUNT])
{
    chunks[0] = (struct pack_chunk){ .offset = 0, .stored_bytes = 100, .raw_bytes = 100 };
    chunks[1] = (struct pack_chunk){
        .offset = 104, .stored_bytes = 777, .raw_bytes = 70000, .codec = CODEC_ZSTD, .crc = 9
    };
    chunks[2] = (struct pack_chunk){ .offset = 888, .stored_bytes = 3208, .raw_bytes = 3208 };
    return (struct pack_head){ .name = { 1, 2, 3 },
                               .rank = 4,
                               .slot = 5,
                               .body_bytes = 4096,
                               .chunk_count = COUNT,
                               .chunks = chunks };
}

static struct pack_head image_head(struct pack_chunk chunks[COUNT])
{
    struct pack_head head = coded_head(chunks);
    uint64_t used = 0;
    for (unsigned i = 0; i < COUNT; i++) {
        chunks[i].codec = CODEC_STORED;
        chunks[i].stored_bytes = chunks[i].raw_bytes;
        chunks[i].offset = image_offset_next(&used, chunks[i].raw_bytes);
    }
    head.flags = PACK_FLAG_IMAGE;
    head.body_bytes = align_up(used, CKPT_BLOCK);
    return head;
}

static enum ckpt_status decode(const uint8_t bytes[4096])
{
    struct pack_chunk chunks[COUNT];
    struct pack_head got = { .chunks = chunks, .rank = 99 };
    enum ckpt_status st = pack_head_decode(bytes, 4096, COUNT, &got, NULL);
    CHECK(st == CKPT_OK || got.rank == 99); /* untouched on failure */
    return st;
}

static enum ckpt_status through(const struct pack_head *head)
{
    uint8_t bytes[4096];
    pack_head_encode(head, bytes);
    return decode(bytes);
}

/* One field of a good head is changed; sums are right all the same. */
#define LIE(make, change, want)               \
    do {                                      \
        struct pack_chunk chunks[COUNT];      \
        struct pack_head head = make(chunks); \
        CHECK_EQ(through(&head), CKPT_OK);    \
        change;                               \
        CHECK_EQ(through(&head), want);       \
        lies++;                               \
    } while (0)

static int test_lies_of_coded(void)
{
    int lies = 0;
    LIE(coded_head, head.rank = CKPT_RANKS_MAX, CKPT_CORRUPT);
    LIE(coded_head, head.rank = CKPT_RANKS_MAX - 1, CKPT_OK);
    LIE(coded_head, head.body_bytes = 0, CKPT_CORRUPT);
    LIE(coded_head, head.body_bytes = CKPT_SLOT_BYTES_MAX, CKPT_OK);
    LIE(coded_head, head.body_bytes = CKPT_SLOT_BYTES_MAX + 4096, CKPT_CORRUPT);
    LIE(coded_head, head.flags = 2, CKPT_UNSUPPORTED);
    LIE(coded_head, head.key_id[15] = 1, CKPT_UNSUPPORTED);
    LIE(coded_head, head.salt[0] = 1, CKPT_UNSUPPORTED);
    LIE(coded_head, chunks[1].raw_bytes = 0, CKPT_CORRUPT);
    LIE(coded_head, chunks[1].raw_bytes = CKPT_CHUNK_BYTES_MAX, CKPT_OK);
    LIE(coded_head, chunks[1].raw_bytes = CKPT_CHUNK_BYTES_MAX + 1, CKPT_CORRUPT);
    LIE(coded_head, chunks[1].stored_bytes = 0, CKPT_CORRUPT);
    LIE(coded_head, chunks[1].stored_bytes = 784, CKPT_OK);
    LIE(coded_head, chunks[1].stored_bytes = 785, CKPT_CORRUPT); /* into the next */
    LIE(coded_head, chunks[1].stored_bytes = UINT32_MAX, CKPT_CORRUPT);
    LIE(coded_head, chunks[1].codec = CODEC_STORED, CKPT_CORRUPT); /* two sizes */
    LIE(coded_head, chunks[1].offset = 108, CKPT_CORRUPT);         /* no 8-byte border */
    LIE(coded_head, chunks[1].offset = 96, CKPT_CORRUPT);          /* into the one before */
    LIE(coded_head, chunks[2].offset = 896, CKPT_CORRUPT);         /* beyond the body */
    LIE(coded_head, chunks[2].offset = UINT64_MAX - 7, CKPT_CORRUPT);
    LIE(coded_head, (chunks[2].stored_bytes = chunks[2].raw_bytes = 4200), CKPT_CORRUPT);
    LIE(coded_head, chunks[2].codec = 77, CKPT_OK); /* codec_decode will say so */
    return lies;
}

static int test_lies_of_image(void)
{
    int lies = 0;
    LIE(image_head, chunks[1].codec = CODEC_ZSTD, CKPT_CORRUPT);
    LIE(image_head, chunks[1].planes = 1, CKPT_CORRUPT);
    LIE(image_head, chunks[1].offset += 4096, CKPT_CORRUPT);
    LIE(image_head, chunks[2].offset += 64, CKPT_CORRUPT);
    LIE(image_head, chunks[2].offset -= 64, CKPT_CORRUPT);
    LIE(image_head, head.body_bytes -= 4096, CKPT_CORRUPT);
    return lies;
}

/* Recomputes both sums, so that only the patched byte is wrong. */
static void resum(uint8_t bytes[4096])
{
    struct buf b = { .data = bytes, .len = 4096, .cap = 4096 };
    buf_patch_u32(&b, 120, crc32c(bytes + 128, 4096 - 128));
    buf_patch_u32(&b, 124, crc32c(bytes, 124));
}

/* Bytes that the encoder cannot produce, under right sums. */
static int test_patched(void)
{
    static const struct {
        unsigned at;
        enum ckpt_status want;
    } patches[] = {
        { 0, CKPT_CORRUPT },        { 8, CKPT_UNSUPPORTED },
        { 12, CKPT_CORRUPT },       { 112, CKPT_CORRUPT },
        { 119, CKPT_CORRUPT },      { 128 + 22, CKPT_CORRUPT },
        { 128 + 31, CKPT_CORRUPT }, { 128 + 3 * 32, CKPT_CORRUPT },
        { 4095, CKPT_CORRUPT },     { 128 + 2 * 32 + 25, CKPT_CORRUPT },
    };
    for (size_t i = 0; i < ARRAY_COUNT(patches); i++) {
        struct pack_chunk chunks[COUNT];
        struct pack_head head = coded_head(chunks);
        uint8_t bytes[4096];
        pack_head_encode(&head, bytes);
        bytes[patches[i].at] += 2;
        resum(bytes);
        CHECK_EQ(decode(bytes), patches[i].want);
    }
    return ARRAY_COUNT(patches);
}

/* Any one bit of a head: found by the head alone, before anything is read by its word. */
static int test_every_bit(void)
{
    struct pack_chunk chunks[COUNT];
    struct pack_head head = coded_head(chunks);
    uint8_t bytes[4096];
    pack_head_encode(&head, bytes);
    for (unsigned bit = 0; bit < 4096 * 8; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        CHECK(decode(bytes) != CKPT_OK);
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    CHECK_OK(decode(bytes));
    return 4096 * 8;
}

static int test_counts(void)
{
    struct pack_chunk chunks[COUNT];
    struct pack_head head = coded_head(chunks), got = { .chunks = chunks };
    uint8_t bytes[4096];
    pack_head_encode(&head, bytes);
    CHECK_EQ(pack_head_peek(bytes, 128), COUNT);
    CHECK_EQ(pack_head_peek(bytes, 127), 0);
    for (uint32_t want = 0; want < 200; want++) {
        struct pack_chunk room[200];
        got.chunks = room;
        CHECK_EQ(pack_head_decode(bytes, sizeof(bytes), want, &got, NULL),
                 want == COUNT ? CKPT_OK : CKPT_CORRUPT);
    }
    CHECK_EQ(pack_head_decode(bytes, sizeof(bytes), UINT32_MAX, &got, NULL), CKPT_CORRUPT);
    bytes[12] ^= 1;
    CHECK_EQ(pack_head_peek(bytes, 4096), 0);
    memset(bytes, 0xff, 16);
    memcpy(bytes, "CKPTPACK", 8);
    resum(bytes);
    CHECK_EQ(pack_head_peek(bytes, 4096), 0); /* more chunks than a pack has */
    CHECK_EQ(pack_head_bytes(1), 4096);
    CHECK_EQ(pack_head_bytes(124), 4096);
    CHECK_EQ(pack_head_bytes(125), 8192);
    CHECK_EQ(pack_head_bytes(CKPT_PACK_CHUNKS_MAX), 528384);
    return 209;
}

/* The largest pack there is, with its chunks as an image has them. */
static int test_largest(void)
{
    uint32_t n = CKPT_PACK_CHUNKS_MAX;
    CLEANUP_FREE struct pack_chunk *chunks = calloc(n, sizeof(*chunks));
    CLEANUP_FREE uint8_t *bytes = malloc(pack_head_bytes(n));
    CHECK(chunks && bytes);
    uint64_t used = 0;
    for (uint32_t i = 0; i < n; i++) {
        chunks[i].raw_bytes = chunks[i].stored_bytes = 1 + i % 8192;
        chunks[i].offset = image_offset_next(&used, chunks[i].raw_bytes);
        chunks[i].crc = i;
    }
    struct pack_head head = { .flags = PACK_FLAG_IMAGE,
                              .body_bytes = align_up(used, CKPT_BLOCK),
                              .chunk_count = n,
                              .chunks = chunks };
    pack_head_encode(&head, bytes);
    memset(chunks, 0xff, n * sizeof(*chunks));
    CHECK_OK(pack_head_decode(bytes, pack_head_bytes(n), n, &head, NULL));
    CHECK_EQ(chunks[n - 1].crc, n - 1);
    CHECK_EQ(chunks[n - 1].raw_bytes, 1 + (n - 1) % 8192);
    return 3;
}

/* The id depends on every digest, every size and their order. */
static int test_id(void)
{
    struct digest raw[2] = { digest_of("a", 1), digest_of("b", 1) };
    struct digest swapped[2] = { raw[1], raw[0] };
    uint32_t bytes[2] = { 1, 1 }, other[2] = { 1, 2 };
    struct digest id = pack_id(raw, bytes, 2), id1 = pack_id(raw, bytes, 1);
    struct digest by_size = pack_id(raw, other, 2), by_order = pack_id(swapped, bytes, 2);
    uint8_t flat[40] = { 0 };
    memcpy(flat, raw[0].b, 16);
    memcpy(flat + 20, raw[1].b, 16);
    flat[16] = flat[36] = 1;
    struct digest want = digest_of(flat, sizeof(flat));
    CHECK(digest_equal(&id, &want));
    CHECK(!digest_equal(&id, &id1) && !digest_equal(&id, &by_size) &&
          !digest_equal(&id, &by_order));
    return 4;
}

int main(void)
{
    TEST_CASES(test_lies_of_coded() + test_lies_of_image() + test_patched() + test_counts() +
               test_largest() + test_id() + test_every_bit());
    return 0;
}
