/* Conversion between floating-point element types, for restores that ask for it.
 *
 *             exponent, mantissa bits, bias   infinity   NaN              largest
 *   F64       11, 52, 1023                    yes        many             1.8e308
 *   F32        8, 23,  127                    yes        many             3.4e38
 *   BF16       8,  7,  127                    yes        many             3.39e38
 *   F16        5, 10,   15                    yes        many             65504
 *   F8_E5M2    5,  2,   15                    yes        3 of a sign      57344
 *   F8_E4M3    4,  3,    7                    no         S.1111.111       448
 *   F8_E5M2FNUZ 5, 2,   16                    no         0x80, no -0      57344
 *   F8_E4M3FNUZ 4, 3,    8                    no         0x80, no -0      240
 *
 * The rule, the same for every pair of two different types:
 *  - A value that the target type has is kept exactly, subnormals and -0 included (FNUZ
 *    types have one zero).
 *  - Other finite values are rounded once, to the nearest, ties to even; subnormal
 *    results are made, not flushed.
 *  - What would round beyond the largest finite value overflows: to infinity where the
 *    type has one (as IEEE 754 says and the frameworks' casts do), else to the largest
 *    finite value of the same sign.  Overflows are counted, so that they can be reported.
 *  - Infinity stays infinity, and is NaN in a type that has none.
 *  - NaN becomes the type's quiet NaN of the same sign without payload (FNUZ: its one).
 * Elements are converted as they are: scales that lie in other tensors are not applied.
 *
 * Only integers are rounded, and floats only scaled exactly, so the result depends on no
 * rounding mode and no flush-to-zero setting that a training process may have made. */
#pragma once

#include "formats/box.h"

/* True if both are of the table above (not sub-byte types, and not E8M0, which is a scale). */
bool convert_can(unsigned from, unsigned to);
/* n dense elements; convert_can(from, to), or from == to of the table (then NaNs come out
 * quiet, and the rest unchanged).  Any alignment; the memories do not overlap.  Returns how
 * many finite values overflowed. */
uint64_t convert_run(unsigned to, void *restrict dst, unsigned from, const void *restrict src,
                     size_t n);

/* Room that convert_box works in: small enough to stay in a core's cache. */
#define CONVERT_ROOM (UINT64_C(256) << 10)
/* Where a box of converted elements goes: `bytes` are dense, in row-major order of `part`,
 * and may be overwritten after the return, unless it puts other memory in the place of `room`. */
typedef enum ckpt_status (*convert_take)(void *arg, const struct box *part, const void *bytes,
                                         struct ckpt_err *err);
/* Converts the dense row-major bytes of `what` part by part in `*room` (CONVERT_ROOM bytes,
 * aligned for any type; looked at for each part) and hands each part, a box, to `take`: whoever takes it copies it
 * on with box_copy, whatever the strides there.  Adds the overflows to *ret_over. */
enum ckpt_status convert_box(const struct box *what, unsigned to, unsigned from, const void *src,
                             void *const *room, convert_take take, void *arg, uint64_t *ret_over,
                             struct ckpt_err *err) CKPT_MUST_CHECK;
