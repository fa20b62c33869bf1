/* The operator's prune and dropping of copies: in a file of its own, since the policy's words (keep_policy.h) and
 * the keeper's (ckptd/keep.h) have names in common. */
#pragma once

#include "storage/store/store.h"

/* Keeps the `last` newest of a job; far may be NULL. */
enum ckpt_status cluster_prune(struct store *home, struct store *far, const char *job,
                               uint32_t last, uint64_t *ret_deleted) CKPT_MUST_CHECK;
/* Drops copies of the home, or of `far`, but for the `last` newest. */
enum ckpt_status cluster_drop(struct store *home, struct store *far, const char *job,
                              bool from_home, uint32_t last, uint64_t *ret_dropped) CKPT_MUST_CHECK;
