/* Between the parts of a merge: the table of tensors (publish_table.c), which manifests
 * fill (publish_merge.c). */
#pragma once

#include "storage/repo/publish_merge.h"

/* What the next tensor of a manifest will likely be; NULL: nobody knows.  m->hint = 0
 * begins a manifest. */
const struct manifest_known *merge_expected(const struct merge *m);
/* Adds what `rank` says of a tensor; `expected`: it is the one that merge_expected gave.
 * CKPT_MISMATCH names what ranks do not agree on. */
enum ckpt_status merge_add_tensor(struct merge *m, uint32_t rank, const struct manifest_tensor *t,
                                  bool expected, struct ckpt_err *err) CKPT_MUST_CHECK;
/* Adds a merge of later ranks, whose tensors may be taken over. */
enum ckpt_status merge_join(struct merge *m, struct merge *part, struct ckpt_err *err)
    CKPT_MUST_CHECK;
void merge_table_fini(struct merge *m);
