/* Encodes, checks and decodes the head of a pack.  Layout (FORMAT.md, "Packs"):
 *
 *   0   "CKPTPACK"        48  rank, slot           112  8 reserved bytes
 *   8   version, flags    56  id                   120  CRC32C of all after the first 128 bytes
 *   12  chunk count       72  body bytes           124  CRC32C of the first 124 bytes
 *   16  name, job hash    80  key id, salt         128  chunk table, 32 bytes a chunk
 */
#include "formats/pack.h"

#include <assert.h>

#include "formats/cursor.h"
#include "formats/image.h"

#define PACK_MAGIC        "CKPTPACK"
#define HEAD_FIXED_BYTES  128
#define HEAD_CHUNK_BYTES  32
#define HEAD_TABLE_SUM_AT 120
#define HEAD_SUM_AT       124
#define CODED_ALIGN       8

static_assert(sizeof(((struct ckpt_name *)0)->attempt) == 8, "a name is three u64");
static_assert(HEAD_FIXED_BYTES + HEAD_CHUNK_BYTES * (uint64_t)CKPT_PACK_CHUNKS_MAX < UINT32_MAX / 2,
              "the largest head is far from overflow");

uint32_t pack_head_bytes(uint32_t chunk_count)
{
    assert(chunk_count <= CKPT_PACK_CHUNKS_MAX);
    return (uint32_t)align_up(HEAD_FIXED_BYTES + (uint64_t)HEAD_CHUNK_BYTES * chunk_count,
                              CKPT_BLOCK);
}

struct digest pack_id(const struct digest *raw, const uint32_t *raw_bytes, uint32_t count)
{
    struct digest_state state;
    digest_begin(&state);
    for (uint32_t i = 0; i < count; i++) {
        uint8_t bytes[sizeof(raw->b) + sizeof(uint32_t)];
        struct buf b = { .data = bytes, .cap = sizeof(bytes) };
        buf_bytes(&b, raw[i].b, sizeof(raw[i].b));
        buf_u32(&b, raw_bytes[i]);
        digest_add(&state, bytes, sizeof(bytes));
    }
    return digest_end(&state);
}

static void encode_fixed(const struct pack_head *head, struct buf *out)
{
    buf_bytes(out, PACK_MAGIC, 8);
    buf_u16(out, PACK_VERSION);
    buf_u16(out, head->flags);
    buf_u32(out, head->chunk_count);
    buf_u64(out, head->name.epoch);
    buf_u64(out, head->name.step);
    buf_u64(out, head->name.attempt);
    buf_u64(out, head->job_hash);
    buf_u32(out, head->rank);
    buf_u32(out, head->slot);
    buf_bytes(out, head->id.b, sizeof(head->id.b));
    buf_u64(out, head->body_bytes);
    buf_bytes(out, head->key_id, sizeof(head->key_id));
    buf_bytes(out, head->salt, sizeof(head->salt));
    buf_zero(out, HEAD_FIXED_BYTES - out->len); /* reserved, and both sums for now */
}

static void encode_chunk(const struct pack_chunk *chunk, struct buf *out)
{
    buf_u64(out, chunk->offset);
    buf_u32(out, chunk->stored_bytes);
    buf_u32(out, chunk->raw_bytes);
    buf_u32(out, chunk->crc);
    buf_u8(out, chunk->codec);
    buf_u8(out, chunk->planes);
    buf_zero(out, 10);
}

void pack_head_encode(const struct pack_head *head, void *to)
{
    uint32_t bytes = pack_head_bytes(head->chunk_count);
    struct buf out = { .data = to, .cap = bytes }; /* exactly filled: never grows */
    assert(head->chunk_count > 0 && head->body_bytes % CKPT_BLOCK == 0);
    encode_fixed(head, &out);
    for (uint32_t i = 0; i < head->chunk_count; i++)
        encode_chunk(&head->chunks[i], &out);
    buf_zero(&out, bytes - out.len);
    assert(out.data == to && out.len == bytes);
    uint32_t table_sum = crc32c(out.data + HEAD_FIXED_BYTES, bytes - HEAD_FIXED_BYTES);
    buf_patch_u32(&out, HEAD_TABLE_SUM_AT, table_sum);
    buf_patch_u32(&out, HEAD_SUM_AT, crc32c(out.data, HEAD_SUM_AT));
}

/* The first 128 bytes are whole: magic and their own sum. */
static bool fixed_part_ok(const uint8_t *bytes)
{
    struct cursor c = cursor_over(bytes + HEAD_SUM_AT, 4);
    return memcmp(bytes, PACK_MAGIC, 8) == 0 && cursor_u32(&c) == crc32c(bytes, HEAD_SUM_AT);
}

uint32_t pack_head_peek(const void *bytes, size_t len)
{
    if (len < HEAD_FIXED_BYTES || !fixed_part_ok(bytes))
        return 0;
    struct cursor c = cursor_over((const uint8_t *)bytes + 12, 4);
    uint32_t count = cursor_u32(&c);
    return count <= CKPT_PACK_CHUNKS_MAX ? count : 0;
}

static enum ckpt_status bad(struct ckpt_err *err, const char *what)
{
    return err_set(err, CKPT_CORRUPT, "damaged pack head: %s", what);
}

static enum ckpt_status check_sums(const uint8_t *bytes, size_t len, uint32_t chunk_count_want,
                                   struct ckpt_err *err)
{
    if (chunk_count_want == 0 || chunk_count_want > CKPT_PACK_CHUNKS_MAX)
        return bad(err, "no pack has that many chunks");
    uint32_t head_bytes = pack_head_bytes(chunk_count_want);
    if (len < head_bytes)
        return bad(err, "cut short");
    if (!fixed_part_ok(bytes))
        return bad(err, "no pack, or the sum over its first 128 bytes is wrong");
    struct cursor c = cursor_over(bytes + HEAD_TABLE_SUM_AT, 4);
    if (cursor_u32(&c) != crc32c(bytes + HEAD_FIXED_BYTES, head_bytes - HEAD_FIXED_BYTES))
        return bad(err, "the sum over the chunk table is wrong");
    return CKPT_OK;
}

static bool all_zero(const uint8_t *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (bytes[i])
            return false;
    }
    return true;
}

/* The cursor stands behind the magic. */
static enum ckpt_status decode_fixed(struct cursor *c, uint32_t chunk_count_want,
                                     struct pack_head *head, struct ckpt_err *err)
{
    unsigned version = cursor_u16(c);
    head->flags = cursor_u16(c);
    head->chunk_count = cursor_u32(c);
    head->name.epoch = cursor_u64(c);
    head->name.step = cursor_u64(c);
    head->name.attempt = cursor_u64(c);
    head->job_hash = cursor_u64(c);
    head->rank = cursor_u32(c);
    head->slot = cursor_u32(c);
    cursor_copy(c, head->id.b, sizeof(head->id.b));
    head->body_bytes = cursor_u64(c);
    cursor_copy(c, head->key_id, sizeof(head->key_id));
    cursor_copy(c, head->salt, sizeof(head->salt));
    cursor_zero(c, 8);
    cursor_bytes(c, 8); /* the sums, already checked */
    if (version != PACK_VERSION)
        return err_set(err, CKPT_UNSUPPORTED, "pack of version %u; this program reads %d", version,
                       PACK_VERSION);
    if (head->flags & ~PACK_FLAG_IMAGE || !all_zero(head->key_id, sizeof(head->key_id)) ||
        !all_zero(head->salt, sizeof(head->salt)))
        return err_set(err, CKPT_UNSUPPORTED,
                       "the pack is encrypted or has flags (0x%x) that this program does not know",
                       head->flags);
    if (!cursor_ok(c))
        return bad(err, "reserved bytes are not zero");
    if (head->chunk_count != chunk_count_want)
        return bad(err, "another number of chunks than the manifest says");
    if (head->rank >= CKPT_RANKS_MAX)
        return bad(err, "rank out of range");
    if (head->body_bytes == 0 || head->body_bytes > CKPT_SLOT_BYTES_MAX ||
        head->body_bytes % CKPT_BLOCK)
        return bad(err, "size of the body");
    return CKPT_OK;
}

static void decode_chunk(struct cursor *c, struct pack_chunk *chunk)
{
    chunk->offset = cursor_u64(c);
    chunk->stored_bytes = cursor_u32(c);
    chunk->raw_bytes = cursor_u32(c);
    chunk->crc = cursor_u32(c);
    chunk->codec = cursor_u8(c);
    chunk->planes = cursor_u8(c);
    cursor_zero(c, 10);
}

/* What is wrong with a chunk of which the one before ends at *end; NULL: nothing.
 * *end moves on. */
static const char *chunk_fault(const struct pack_head *head, const struct pack_chunk *chunk,
                               uint64_t *end)
{
    bool image = head->flags & PACK_FLAG_IMAGE;
    if (chunk->raw_bytes == 0 || chunk->raw_bytes > CKPT_CHUNK_BYTES_MAX ||
        chunk->stored_bytes == 0 || chunk->stored_bytes > CKPT_CHUNK_BYTES_MAX)
        return "size of a chunk";
    if (chunk->codec == CODEC_STORED && chunk->stored_bytes != chunk->raw_bytes)
        return "a stored chunk has two sizes";
    if (image && (chunk->codec != CODEC_STORED || chunk->planes != 0))
        return "a coded chunk in an image";
    if (image && chunk->offset != image_offset_next(end, chunk->raw_bytes))
        return "a chunk does not lie where an image has it";
    if (!image && (chunk->offset < *end || chunk->offset % CODED_ALIGN))
        return "offset of a chunk";
    /* The subtraction cannot wrap: stored_bytes <= 4 MiB was checked, the body may be smaller. */
    if (chunk->stored_bytes > head->body_bytes ||
        chunk->offset > head->body_bytes - chunk->stored_bytes)
        return "a chunk lies outside the body";
    *end = chunk->offset + chunk->stored_bytes;
    return NULL;
}

enum ckpt_status pack_head_decode(const void *bytes, size_t len, uint32_t chunk_count_want,
                                  struct pack_head *head, struct ckpt_err *err)
{
    struct pack_head got = { .chunks = head->chunks };
    enum ckpt_status st = check_sums(bytes, len, chunk_count_want, err);
    if (st != CKPT_OK)
        return st;
    struct cursor c = cursor_over(bytes, pack_head_bytes(chunk_count_want));
    cursor_bytes(&c, 8); /* magic, checked with the sums */
    st = decode_fixed(&c, chunk_count_want, &got, err);
    if (st != CKPT_OK)
        return st;
    uint64_t end = 0;
    for (uint32_t i = 0; i < got.chunk_count; i++) {
        decode_chunk(&c, &got.chunks[i]);
        const char *fault = chunk_fault(&got, &got.chunks[i], &end);
        if (fault)
            return err_set(err, CKPT_CORRUPT, "damaged pack head: chunk %u of %u: %s", i,
                           got.chunk_count, fault);
    }
    cursor_zero(&c, cursor_left(&c));
    if (!cursor_done(&c))
        return bad(err, "reserved bytes are not zero");
    *head = got;
    return CKPT_OK;
}
