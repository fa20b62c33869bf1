/* Boxes: n-D offsets + lengths inside a tensor's global shape, in elements.
 * The only primitive of sharding (everything else is cut into boxes at the edge).
 *
 *      shape {6, 8}, box {off {2, 4}, len {3, 2}}     . . . . . . . .
 *                                                     . . . . . . . .
 *      row-major: the last dimension is               . . . . # # . .
 *      contiguous                                     . . . . # # . .
 *                                                     . . . . # # . .
 *                                                     . . . . . . . .
 * ndim = 0 is a scalar: volume 1.  A length of 0 makes the volume 0: legal.
 * Sub-byte dtypes: an element count in the last dimension is only addressable
 * where it starts and ends on a byte; box_bytes and box_copy assert that, and
 * box_check refuses it at the edge. */
#pragma once

#include "formats/base.h"

struct box {
    uint32_t ndim;
    uint64_t off[CKPT_DIMS_MAX];
    uint64_t len[CKPT_DIMS_MAX];
};

/* The whole of a shape. */
struct box box_whole(uint32_t ndim, const uint64_t *shape);
/* Validates hostile input: ndim <= 16, off+len inside shape without overflow,
 * the shape's size < 2^62 bits (zero lengths count as one there, so that strides of
 * a checked box fit), byte borders for sub-byte `bits`.
 * CKPT_INVALID / CKPT_LIMIT with the dimension named. */
enum ckpt_status box_check(const struct box *box, const uint64_t *shape, unsigned bits,
                           struct ckpt_err *err) CKPT_MUST_CHECK;
/* Product of shape[0..ndim) in bytes, rounded up: false at 2^62 bits and above, zero
 * lengths counted as one. */
bool shape_bytes(uint32_t ndim, const uint64_t *shape, unsigned bits, uint64_t *ret_bytes);

uint64_t box_volume(const struct box *box);               /* elements */
uint64_t box_bytes(const struct box *box, unsigned bits); /* dense row-major bytes */
bool box_equal(const struct box *a, const struct box *b);
bool box_contains(const struct box *outer, const struct box *inner);
/* True and *ret = a ∩ b if it has volume; both of the same ndim. */
bool box_intersect(const struct box *a, const struct box *b, struct box *ret);
/* Row-major strides in bits of a dense array of these lengths. */
void dense_strides(uint32_t ndim, const uint64_t *len, unsigned bits, int64_t *ret_bits);
/* Prints "[0:4096, 128:256]"; returns buf. */
char *box_to_text(const struct box *box, char *buf, size_t cap);

/* Where a box lies in memory: address of its first element and a stride per
 * dimension, in BITS (so that sub-byte types need no special case; the last
 * dimension of a sub-byte type must be dense).  Strides may be negative or 0
 * (source only). */
struct strided {
    unsigned char *base;
    int64_t stride_bits[CKPT_DIMS_MAX];
};

/* The one strided host copy of the whole code: copies box `what` (global
 * coordinates) from an array that holds `src_box` to one that holds `dst_box`.
 * `what` lies inside both.  Merges dimensions that are dense on both sides,
 * so a dense copy is one memcpy.  The memories do not overlap. */
void box_copy(const struct box *what, unsigned bits, const struct box *dst_box,
              const struct strided *dst, const struct box *src_box, const struct strided *src);
/* A dense array that holds `box` at `base`. */
struct strided dense_at(const struct box *box, unsigned bits, void *base);
