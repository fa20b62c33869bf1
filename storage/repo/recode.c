/* Coding the chunks of an image. */
#include "storage/repo/recode.h"

#define CODED_ALIGN 8 /* between the chunks of a coded pack */

uint64_t recode_bytes_max(uint64_t slot_bytes)
{
    /* A chunk is coded at its place; only the last one may need more than it keeps. */
    return align_up(slot_bytes + codec_bound(CODEC_ZSTD, CKPT_CHUNK_BYTES_MAX), CKPT_BLOCK);
}

enum ckpt_status recode_chunks(struct codec *codec, enum codec_id want, int level,
                               const uint8_t *body, struct pack_chunk *chunks, uint32_t count,
                               uint8_t *to, uint64_t cap, uint64_t *ret_end)
{
    uint64_t end = 0;
    for (uint32_t i = 0; i < count; i++) {
        struct pack_chunk *chunk = &chunks[i];
        const uint8_t *raw = body + chunk->offset;
        uint64_t at = align_up(end, CODED_ALIGN);
        enum codec_id id = CODEC_STORED;
        size_t bytes = chunk->raw_bytes;
        memset(to + end, 0, at - end);
        enum ckpt_status st =
            codec_encode(codec, want, level, raw, chunk->raw_bytes, to + at, cap - at, &id, &bytes);
        if (st != CKPT_OK)
            return st;
        if (id == CODEC_STORED)
            memcpy(to + at, raw, chunk->raw_bytes);
        if (id != CODEC_STORED)
            chunk->crc = crc32c(to + at, bytes);
        chunk->codec = (uint8_t)id;
        chunk->offset = at;
        chunk->stored_bytes = (uint32_t)bytes;
        end = at + bytes;
    }
    memset(to + end, 0, align_up(end, CKPT_BLOCK) - end);
    *ret_end = end;
    return CKPT_OK;
}
