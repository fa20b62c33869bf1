/* A strided copy as rectangles: what a device's copy engine can do at once.
 *
 * `what` is dense in host memory and lies in a tensor with any strides.  Dimensions that are
 * dense on both sides are merged; of what is left, the longest loop that the engine can pitch
 * becomes the rows of a rectangle, the others are repeated:
 *
 *      width            one rectangle: `rows` runs of `width` bytes, `pitch` bytes apart on
 *     |-------|         either side; rows = 1: a plain run
 *      ####### . . .
 *      ####### . . .    Strides that are negative, 0, shorter than a row (a broadcast) or
 *      ####### . . .    longer than a pitch may be: row by row.                             */
#pragma once

#include "formats/box.h"

#define COPY_PITCH_MAX ((int64_t)INT32_MAX) /* of CUDA's two-dimensional copies */

struct copy_rect {
    uint64_t dense; /* bytes from the beginning of the dense side */
    unsigned char *tensor;
    uint64_t width, rows;
    uint64_t dense_pitch, tensor_pitch; /* with rows > 1 */
};
typedef enum ckpt_status (*copy_rects_call)(void *arg, const struct copy_rect *r,
                                            struct ckpt_err *err);
/* Calls `each` for every rectangle of a non-empty `what`, which lies inside `held`; stops at
 * the first failure and returns it.  Sub-byte dtypes as box_copy has them. */
enum ckpt_status copy_rects(const struct box *what, unsigned bits, const struct box *held,
                            const struct strided *tensor, copy_rects_call each, void *arg,
                            struct ckpt_err *err) CKPT_MUST_CHECK;
