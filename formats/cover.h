/* Cover proof (G3): for one tensor the union of the written boxes is the global
 * shape, each element once.  Indexed and near-linear: regular splits of 16,384
 * ranks are a sort, not pairs. */
#pragma once

#include "formats/box.h"

struct cover_box {
    struct box box;
    uint32_t rank; /* who wrote it, for the message */
};

/* Proves the cover of `shape`.  Boxes without volume are ignored; a shape without
 * volume is covered by nothing.  `boxes` may be reordered.
 * CKPT_COVER with "tensor NAME: ranks 3 and 5 both hold [..]" or "tensor NAME: no
 * rank holds [..]" in err (one witness box of the hole or overlap, exact).
 * CKPT_NO_MEMORY.  Time O(n log n) for guillotine splits (every split that
 * frameworks make), bounded by O(n^2) for adversarial ones. */
enum ckpt_status cover_check(const char *name, uint32_t ndim, const uint64_t *shape,
                             struct cover_box *boxes, size_t count, struct ckpt_err *err)
    CKPT_MUST_CHECK;
