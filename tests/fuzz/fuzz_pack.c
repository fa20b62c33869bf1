/* The head of a pack.  The input is the part before the zeros that fill the head up. */
#include "formats/pack.h"
#include "fuzz/fuzz.h"

#define FIXED_BYTES 128
#define COUNT_AT    12
#define TABLE_AT    120
#define SUM_AT      124

static void check_head(const struct pack_head *head, const uint8_t *bytes, size_t head_bytes)
{
    uint64_t end = 0;
    for (uint32_t i = 0; i < head->chunk_count; i++) {
        const struct pack_chunk *c = &head->chunks[i];
        FUZZ_CHECK(c->offset >= end && c->stored_bytes > 0 && c->raw_bytes > 0);
        FUZZ_CHECK(c->offset + c->stored_bytes <= head->body_bytes);
        end = c->offset + c->stored_bytes;
    }
    CLEANUP_FREE uint8_t *again = malloc(head_bytes);
    FUZZ_CHECK(again);
    pack_head_encode(head, again);
    FUZZ_CHECK(memcmp(again, bytes, head_bytes) == 0);
}

static void decode(const uint8_t *bytes, size_t len, uint32_t count)
{
    CLEANUP_FREE struct pack_chunk *chunks = malloc(count * sizeof(*chunks));
    struct pack_head head = { .chunks = chunks };
    struct ckpt_err err = { 0 };
    FUZZ_CHECK(chunks);
    enum ckpt_status st = pack_head_decode(bytes, len, count, &head, &err);
    if (st != CKPT_OK) {
        FUZZ_CHECK(err.text[0]);
        return;
    }
    FUZZ_CHECK(head.chunk_count == count && pack_head_peek(bytes, len) == count);
    check_head(&head, bytes, pack_head_bytes(count));
}

/* The chunk count that the bytes name, if a head of that size is worth a try. */
static uint32_t count_in(const uint8_t *bytes, size_t len)
{
    if (len < FIXED_BYTES)
        return 0;
    uint32_t count = fuzz_get_u32(bytes + COUNT_AT);
    return count && pack_head_bytes(count < 4096 ? count : 4096) - CKPT_BLOCK < len ? count : 0;
}

void fuzz_one(const uint8_t *bytes, size_t len)
{
    uint32_t count = count_in(bytes, len);
    struct pack_head none = { 0 };
    (void)pack_head_peek(bytes, len);
    FUZZ_CHECK(pack_head_decode(bytes, len, 0, &none, NULL) == CKPT_CORRUPT);
    FUZZ_CHECK(pack_head_decode(bytes, len, CKPT_PACK_CHUNKS_MAX + 1, &none, NULL) == CKPT_CORRUPT);
    decode(bytes, len, 1);
    if (!count || count > 4096)
        return;
    size_t head_bytes = pack_head_bytes(count);
    CLEANUP_FREE uint8_t *whole = calloc(1, head_bytes);
    FUZZ_CHECK(whole);
    memcpy(whole, bytes, len < head_bytes ? len : head_bytes);
    decode(whole, head_bytes, count);
    decode(whole, head_bytes, count + 1);
}

void fuzz_fix(uint8_t *bytes, size_t len)
{
    uint32_t count = count_in(bytes, len);
    if (!count || count > 4096)
        return;
    size_t head_bytes = pack_head_bytes(count);
    CLEANUP_FREE uint8_t *whole = calloc(1, head_bytes);
    if (!whole)
        return;
    memcpy(whole, bytes, len < head_bytes ? len : head_bytes);
    fuzz_put_u32(bytes + TABLE_AT, crc32c(whole + FIXED_BYTES, head_bytes - FIXED_BYTES));
    fuzz_put_u32(bytes + SUM_AT, crc32c(bytes, SUM_AT));
}
