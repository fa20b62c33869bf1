/* The regular grid of tiles over a box. */
#include "formats/tile.h"

#include <assert.h>
#include <inttypes.h>

/* Elements of the last dimension that fill whole bytes: 1, 2 or 4. */
static uint64_t byte_unit(unsigned bits)
{
    uint64_t unit = 1;
    while (unit * bits % 8 != 0)
        unit *= 2;
    return unit;
}

/* The least length to cut dimension d by: its block, whole bytes at the end of
 * the last dimension, never more than the box has. */
static uint64_t cut_unit(const struct box *box, unsigned bits, const uint32_t *block, uint32_t d)
{
    uint64_t unit = block && block[d] > 1 ? block[d] : 1;
    if (d == box->ndim - 1) {
        uint64_t whole = byte_unit(bits);
        while (unit % whole != 0)
            unit *= 2;
    }
    return max_u64(min_u64(unit, box->len[d]), 1);
}

void tile_shape_default(const struct box *box, unsigned bits, uint64_t bytes_max,
                        const uint32_t *block, uint64_t *ret_shape)
{
    uint64_t tile_bits = bits;
    for (uint32_t d = 0; d < box->ndim; d++) {
        ret_shape[d] = cut_unit(box, bits, block, d);
        tile_bits *= ret_shape[d];
    }
    for (uint32_t d = box->ndim; d-- > 0;) {
        uint64_t unit = ret_shape[d];
        uint64_t row_bits = tile_bits / unit;
        uint64_t rows = bytes_max * 8 / row_bits;
        if (rows < box->len[d]) {
            ret_shape[d] = max_u64(rows / unit * unit, unit);
            return;
        }
        ret_shape[d] = max_u64(box->len[d], 1);
        tile_bits = row_bits * ret_shape[d];
    }
}

/* Tiles along dimension d. */
static uint64_t grid_len(const struct box *box, const uint64_t *tile, uint32_t d)
{
    return div_up(box->len[d], tile[d]);
}

static enum ckpt_status check_last(const struct box *box, unsigned bits, const uint64_t *tile,
                                   struct ckpt_err *err)
{
    uint32_t last = box->ndim - 1;
    if (box->ndim == 0 || tile[last] >= box->len[last] || tile[last] % 8 * bits % 8 == 0)
        return CKPT_OK;
    return err_set(err, CKPT_INVALID,
                   "dimension %u: tiles of %" PRIu64 " %u-bit elements do not end on a byte", last,
                   tile[last], bits);
}

enum ckpt_status tile_check(const struct box *box, unsigned bits, const uint64_t *tile,
                            struct ckpt_err *err)
{
    uint64_t tile_bits = bits;
    for (uint32_t d = 0; d < box->ndim; d++) {
        if (tile[d] == 0)
            return err_set(err, CKPT_INVALID, "dimension %u: a tile of length 0", d);
        if (__builtin_mul_overflow(tile_bits, max_u64(min_u64(tile[d], box->len[d]), 1),
                                   &tile_bits))
            return err_set(err, CKPT_LIMIT, "dimension %u: the tile's size overflows", d);
    }
    if (tile_bits > CKPT_CHUNK_BYTES_MAX * 8)
        return err_set(err, CKPT_LIMIT, "a tile of %" PRIu64 " bytes, at most %" PRIu64,
                       div_up(tile_bits, 8), CKPT_CHUNK_BYTES_MAX);
    if (tile_count(box, tile) > UINT32_MAX)
        return err_set(err, CKPT_LIMIT, "%" PRIu64 " tiles, at most %u", tile_count(box, tile),
                       UINT32_MAX);
    return check_last(box, bits, tile, err);
}

uint64_t tile_count(const struct box *box, const uint64_t *tile)
{
    uint64_t count = 1;
    for (uint32_t d = 0; d < box->ndim; d++)
        count *= grid_len(box, tile, d);
    return count;
}

/* The tile at these grid coordinates; the last one of a dimension may be short. */
static struct box tile_at_grid(const struct box *box, const uint64_t *tile, const uint64_t *at)
{
    struct box ret = { .ndim = box->ndim };
    for (uint32_t d = 0; d < box->ndim; d++) {
        uint64_t from = at[d] * tile[d];
        ret.off[d] = box->off[d] + from;
        ret.len[d] = min_u64(tile[d], box->len[d] - from);
    }
    return ret;
}

struct box tile_at(const struct box *box, const uint64_t *tile, uint64_t i)
{
    uint64_t at[CKPT_DIMS_MAX] = { 0 };
    assert(i < tile_count(box, tile));
    for (uint32_t d = box->ndim; d-- > 0;) {
        uint64_t n = grid_len(box, tile, d);
        at[d] = i % n;
        i /= n;
    }
    return tile_at_grid(box, tile, at);
}

struct tile_iter tile_iter_init(const struct box *box, const uint64_t *tile, const struct box *want)
{
    struct tile_iter it = { .box = *box, .want = *want };
    struct box common;
    it.done = !box_intersect(box, want, &common);
    for (uint32_t d = 0; d < box->ndim && !it.done; d++) {
        uint64_t from = common.off[d] - box->off[d];
        it.tile[d] = tile[d];
        it.first[d] = it.at[d] = from / tile[d];
        it.last[d] = (from + common.len[d] - 1) / tile[d];
    }
    return it;
}

/* Row-major: the last dimension runs fastest. */
static void iter_advance(struct tile_iter *it)
{
    for (uint32_t d = it->box.ndim; d-- > 0;) {
        if (it->at[d] < it->last[d]) {
            it->at[d]++;
            return;
        }
        it->at[d] = it->first[d];
    }
    it->done = true;
}

bool tile_iter_next(struct tile_iter *it, uint64_t *ret_i, struct box *ret_tile,
                    struct box *ret_common)
{
    if (it->done)
        return false;
    uint64_t i = 0;
    for (uint32_t d = 0; d < it->box.ndim; d++)
        i = i * grid_len(&it->box, it->tile, d) + it->at[d];
    *ret_i = i;
    *ret_tile = tile_at_grid(&it->box, it->tile, it->at);
    bool met = box_intersect(ret_tile, &it->want, ret_common);
    assert(met);
    iter_advance(it);
    return true;
}
