/* Commit: from all manifests of an attempt to the record that makes it exist.
 * A pure function of the manifests, so committers may race (rule S4); commit and abort
 * share one key (rule S5). */
#pragma once

#include "formats/cover.h"
#include "formats/index.h"
#include "storage/repo/repo.h"

enum publish_state { PUBLISH_UNDECIDED, PUBLISH_COMMITTED, PUBLISH_ABORTED };

/* What c/<name> says now.  ret_abort may be NULL. */
enum ckpt_status publish_look(struct store *s, const char *job, const struct ckpt_name *name,
                              enum publish_state *ret, struct record_abort *ret_abort,
                              struct ckpt_err *err) CKPT_MUST_CHECK;

/* The first rank >= from whose manifest is not in the store; `world` if all are there. */
enum ckpt_status publish_missing(struct store *s, const char *job, const struct ckpt_name *name,
                                 uint32_t world, uint32_t from, uint32_t *ret_rank,
                                 struct ckpt_err *err) CKPT_MUST_CHECK;

/* Reads all manifests, proves the cover, compares with the parent's tensor set and the
 * replicas' witnesses, writes the index, syncs, looks at the life log, puts c/ and h/.
 *   CKPT_OK         committed (now or before); *ret is the record
 *   CKPT_NOT_FOUND  a manifest is missing: nothing was written
 *   CKPT_ABORTED    c/ holds ABORT; a part that failed puts it there (also while others
 *                   are missing), and the text names rank and reason
 *   CKPT_COVER, CKPT_MISMATCH, CKPT_VANISHED, CKPT_CORRUPT: the caller then aborts
 *   CKPT_CONFLICT   another version of ckpt has put an index of its own, and not (yet) the
 *                   commit: nothing decided, nothing replaced
 *   STORE class     nothing decided: try again */
enum ckpt_status publish(struct store *s, const char *job, const struct ckpt_name *name,
                         uint32_t world, struct record_commit *ret, struct ckpt_err *err)
    CKPT_MUST_CHECK;

/* h/ of a committed checkpoint in a store that has its packs (D6: not when that store says
 * DELETED or GONE).  *ret: it stands; false when some rank's `.h` is missing, or it was
 * deleted. */
enum ckpt_status publish_held(struct store *s, const char *job, const struct record_commit *commit,
                              bool *ret, struct ckpt_err *err) CKPT_MUST_CHECK;

/* Wins c/<name> with ABORT.  CKPT_OK: aborted (now or before); CKPT_EXISTS: it is
 * committed. */
enum ckpt_status publish_abort(struct store *s, const char *job, const struct ckpt_name *name,
                               const struct record_abort *why, struct ckpt_err *err)
    CKPT_MUST_CHECK;
