/* Packs: one slot's tiles as one immutable object.
 *
 *   | head: 128 bytes, 32 per chunk, zeros to 4 KiB | body | zeros to 4 KiB |
 *
 * The head says where and how each chunk lies; its size follows from the chunk
 * count (pack_head_bytes), so a reader who knows that from the manifest reads it
 * at once.  An *image* pack's body is the slot as it lay in the arena (every chunk
 * stored, offsets as image.h places them, gaps zero); a coded pack's body is the
 * coded chunks one after the other, each on an 8-byte border. */
#pragma once

#include "formats/codec.h"
#include "formats/key.h"

#define PACK_VERSION    1
#define PACK_FLAG_IMAGE 1

struct pack_chunk {
    uint64_t offset; /* in the body */
    uint32_t stored_bytes, raw_bytes;
    uint32_t crc; /* CRC32C of the stored bytes */
    uint8_t codec, planes;
};
struct pack_head {
    struct ckpt_name name;
    uint64_t job_hash; /* digest_hash of the job's name */
    uint32_t rank, slot;
    uint16_t flags;
    struct digest id;
    uint8_t key_id[16], salt[16]; /* reserved for encryption: zero */
    uint64_t body_bytes;          /* multiple of 4 KiB; the object is head + body */
    uint32_t chunk_count;
    struct pack_chunk *chunks; /* chunk_count of them; caller's memory */
};

/* Size of the head on disk: a multiple of 4 KiB. */
uint32_t pack_head_bytes(uint32_t chunk_count);
/* The pack's id: digest of its chunks' raw digests and sizes, in order. */
struct digest pack_id(const struct digest *raw, const uint32_t *raw_bytes, uint32_t count);
/* Writes pack_head_bytes() bytes to `to`. */
void pack_head_encode(const struct pack_head *head, void *to);
/* Checks sums, limits, order, that chunks lie inside the body and do not overlap.
 * head->chunks must have room for chunk_count_want entries, which the head must
 * have exactly.  CKPT_CORRUPT says what is wrong. */
enum ckpt_status pack_head_decode(const void *bytes, size_t len, uint32_t chunk_count_want,
                                  struct pack_head *head, struct ckpt_err *err) CKPT_MUST_CHECK;
/* The chunk count a head claims, when nobody knows it (scrub, foreign tools); 0 if
 * this is no pack.  Needs 128 bytes. */
uint32_t pack_head_peek(const void *bytes, size_t len);
