/* Offsets of tiles in their slots. */
#include "formats/image.h"

#include <assert.h>

#define IMAGE_LARGE       (UINT64_C(64) << 10)
#define IMAGE_SMALL_ALIGN UINT64_C(64)

uint64_t image_offset_next(uint64_t *used, uint64_t bytes)
{
    uint64_t offset = align_up(*used, bytes >= IMAGE_LARGE ? CKPT_BLOCK : IMAGE_SMALL_ALIGN);
    *used = offset + bytes;
    return offset;
}

struct image_place image_next(struct image *image, uint64_t bytes)
{
    assert(bytes > 0 && bytes <= CKPT_CHUNK_BYTES_MAX && bytes <= image->slot_bytes);
    uint64_t used = image->used;
    uint64_t offset = image_offset_next(&used, bytes);
    if (used > image->slot_bytes || image->chunks == CKPT_PACK_CHUNKS_MAX) {
        image->slot++;
        image->chunks = 0;
        used = 0;
        offset = image_offset_next(&used, bytes);
    }
    image->used = used;
    return (struct image_place){ .slot = image->slot, .chunk = image->chunks++, .offset = offset };
}

uint32_t image_slots(const struct image *image)
{
    return image->chunks ? image->slot + 1 : 0;
}
