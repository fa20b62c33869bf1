/* Proof that the boxes one rank holds of a tensor do not overlap.
 *
 * The boxes are cut apart along whatever dimension has a clean cut, again and again
 * (every split that frameworks make comes apart like that), which is a sort and not
 * pairs; what does not come apart is swept along one dimension.  Work is bounded by
 * a budget, so a stranger's boxes cannot buy quadratic time. */
#pragma once

#include "formats/box.h"

/* Enough for `n` boxes of any regular layout. */
uint64_t disjoint_budget(size_t n);
/* Reorders `boxes`, all of one ndim and with volume.  CKPT_COVER with *ret_common
 * when two overlap; CKPT_LIMIT when `*budget` (lowered by the work done) runs out. */
enum ckpt_status disjoint_check(const struct box **boxes, size_t n, uint64_t *budget,
                                struct box *ret_common) CKPT_MUST_CHECK;
