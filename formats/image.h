/* Where each tile lies in its slot: a pure function of the order and sizes of
 * the tiles, so that client, daemon and reader agree without a word.
 *
 *   slot 0                                             slot 1
 *   | tile 0 | tile 1 |..gap..| tile 2 (4 KiB-aligned) | | tile 3 ...
 *
 * Tiles of >= 64 KiB start on a 4 KiB border (so that direct I/O and DMA reach
 * them), smaller ones on 64 bytes.  A tile never spans slots.  A slot closes when
 * the next tile does not fit or when it holds CKPT_PACK_CHUNKS_MAX tiles.  A slot
 * holds the tiles of one rank only.  One slot = one pack. */
#pragma once

#include "formats/base.h"

struct image {
    uint64_t slot_bytes;
    uint32_t slot;   /* number of the current slot, from 0 */
    uint32_t chunks; /* tiles in it so far */
    uint64_t used;   /* bytes of it in use */
};

struct image_place {
    uint32_t slot;
    uint32_t chunk;  /* number of the tile within the slot */
    uint64_t offset; /* byte offset within the slot */
};

static inline struct image image_init(uint64_t slot_bytes)
{
    return (struct image){ .slot_bytes = slot_bytes };
}
/* Places the next tile of `bytes` (1..4 MiB).  If place.chunk is 0 and place.slot
 * > 0, the previous slot is complete. */
struct image_place image_next(struct image *image, uint64_t bytes);
/* The same within one known slot: only the offset of each next tile (used by
 * readers, who know a pack's chunk sizes but not the whole rank). */
uint64_t image_offset_next(uint64_t *used, uint64_t bytes);
/* Number of slots used so far (0 if no tile was placed). */
uint32_t image_slots(const struct image *image);
