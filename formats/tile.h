/* Tiles: a box is cut into a regular grid of tiles of at most 4 MiB by a tile
 * shape kept with it.  A tile's bytes, dense row-major, are a chunk: the unit of
 * coding, digest and range read.  Tiles are numbered row-major over the grid.
 * All by arithmetic; nothing is stored, nothing is searched. */
#pragma once

#include "formats/box.h"

/* The default tile shape: as many whole trailing dimensions as fit into
 * `bytes_max`, then as many rows of the next one as fit, 1 along the rest.
 * blocked (>1) in a dimension keeps cuts on multiples of block[d] (G5); NULL =
 * none.  Every entry is >= 1 even for empty boxes.  For sub-byte dtypes cuts lie
 * on bytes. */
void tile_shape_default(const struct box *box, unsigned bits, uint64_t bytes_max,
                        const uint32_t *block, uint64_t *ret_shape);
/* Validates a tile shape from a stranger: entries >= 1, a tile's bytes <= 4 MiB,
 * tile count < 2^32. */
enum ckpt_status tile_check(const struct box *box, unsigned bits, const uint64_t *tile,
                            struct ckpt_err *err) CKPT_MUST_CHECK;
/* Number of tiles; 0 for a box without volume. */
uint64_t tile_count(const struct box *box, const uint64_t *tile);
/* Tile number i as a box in global coordinates. */
struct box tile_at(const struct box *box, const uint64_t *tile, uint64_t i);

/* Visits, in rising order, the tiles of `box` that intersect `want`:
 *     struct tile_iter it = tile_iter_init(&box, tile, &want);
 *     while (tile_iter_next(&it, &i, &tile_box, &common)) ... */
struct tile_iter {
    struct box box, want;
    uint64_t tile[CKPT_DIMS_MAX];
    uint64_t first[CKPT_DIMS_MAX], last[CKPT_DIMS_MAX], at[CKPT_DIMS_MAX]; /* grid coordinates */
    bool done;
};
struct tile_iter tile_iter_init(const struct box *box, const uint64_t *tile,
                                const struct box *want);
bool tile_iter_next(struct tile_iter *it, uint64_t *ret_i, struct box *ret_tile,
                    struct box *ret_common);
