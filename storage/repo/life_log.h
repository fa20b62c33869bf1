/* Entries of the life log, for delete (life.c), prune (prune_apply.c) and gc (life_gc.c) and copies (life_copy.c) alone. */
#pragma once

#include "storage/repo/life.h"

enum ckpt_status life_read(struct store *s, const char *job, const struct ckpt_name *name,
                           bool copy, uint64_t n, struct record_life *ret, struct ckpt_err *err)
    CKPT_MUST_CHECK;
/* Puts entry n if absent, dated by the store's clock.  CKPT_CONFLICT, without words:
 * somebody else has put n; look again. */
enum ckpt_status life_append(struct store *s, const char *job, const struct ckpt_name *name,
                             uint64_t n, enum life life, const char *why, struct ckpt_err *err)
    CKPT_MUST_CHECK;
/* The same under any log's key. */
enum ckpt_status life_put(struct store *s, const struct key *key, enum life life, const char *why,
                          struct ckpt_err *err) CKPT_MUST_CHECK;
