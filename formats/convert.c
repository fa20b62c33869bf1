/* Conversion between floating-point types.
 *
 * All pairs go by way of F32, in blocks that stay in the first cache:
 *
 *     src ── decode: exact ──► F32 bits [CONVERT_BLOCK] ── encode: one rounding ──► dst
 *
 * Every type but F64 is a subset of F32, so decoding is exact.  F64 is rounded to F32 "to
 * odd" on the way to a smaller type (the last bit says that something was cut off), which
 * makes the second rounding come out as if it were the only one (Boldo and Melquiond,
 * "Emulation of a FMA and correctly rounded sums: proved algorithms using rounding to odd",
 * 2008: two more bits are enough; here are at least twelve). */
#include "formats/convert.h"

#include <assert.h>

#include "formats/convert_block.h"
#include "formats/tile.h"

#if defined(__x86_64__)
static const struct convert_codec *codecs(void)
{
    return __builtin_cpu_supports("avx2") ? convert_codecs_avx2 : convert_codecs_any;
}
#else
static const struct convert_codec *codecs(void)
{
    return convert_codecs_any;
}
#endif

static bool has_codec(unsigned code)
{
    return code < CONVERT_CODECS_MAX && convert_codecs_any[code].decode;
}

bool convert_can(unsigned from, unsigned to)
{
    return from != to && has_codec(from) && has_codec(to);
}

uint64_t convert_run(unsigned to, void *restrict dst, unsigned from, const void *restrict src,
                     size_t n)
{
    assert(has_codec(from) && has_codec(to));
    const struct convert_codec *out = &codecs()[to], *in = &codecs()[from];
    convert_decode decode = to == CKPT_DTYPE_F32 ? in->narrow : in->decode;
    size_t dst_bytes = dtype_bits(to) / 8, src_bytes = dtype_bits(from) / 8;
    uint32_t bits[CONVERT_BLOCK];
    uint64_t over = 0;
    for (size_t at = 0; at < n; at += CONVERT_BLOCK) {
        size_t some = min_u64(n - at, CONVERT_BLOCK);
        over += decode(bits, (const uint8_t *)src + at * src_bytes, some);
        over += out->encode((uint8_t *)dst + at * dst_bytes, bits, some);
    }
    return over;
}

enum ckpt_status convert_box(const struct box *what, unsigned to, unsigned from, const void *src,
                             void *const *room, convert_take take, void *arg, uint64_t *ret_over,
                             struct ckpt_err *err)
{
    uint64_t shape[CKPT_DIMS_MAX];
    tile_shape_default(what, dtype_bits(to), CONVERT_ROOM, NULL, shape);
    uint64_t parts = tile_count(what, shape);
    const uint8_t *at = src;
    for (uint64_t i = 0; i < parts; i++) {
        /* Such a tile is a run of the dense bytes, and they follow each other. */
        struct box part = tile_at(what, shape, i);
        void *now = *room;
        *ret_over += convert_run(to, now, from, at, box_volume(&part));
        at += box_bytes(&part, dtype_bits(from));
        enum ckpt_status st = take(arg, &part, now, err);
        if (st != CKPT_OK)
            return st;
    }
    return CKPT_OK;
}
