/* Tags of checkpoints: names that people give, and a promise: what has one is never
 * deleted (rule D6).  A tag of one checkpoint is a log t/<name>/<tag>/<~n> of changes,
 * each put if-absent at n+1; the newest wins.  Several checkpoints may have the same tag.
 *
 * No lock keeps a tag and a deletion apart: whoever tags looks at the life log afterwards
 * and brings a DELETED one back; whoever puts DELETED looks at the tags afterwards and
 * takes it back; gc looks at the tags before it puts GONE. */
#pragma once

#include "storage/repo/repo.h"

/* Calls `each` for every tag that is set now, of one checkpoint or (name NULL) of all of
 * the job, in order of name and tag.  CKPT_CANCELLED from `each` = enough. */
enum ckpt_status tags_each(struct store *s, const char *job, const struct ckpt_name *name,
                           enum ckpt_status (*each)(void *arg, const struct ckpt_name *name,
                                                    const char *tag),
                           void *arg, struct ckpt_err *err) CKPT_MUST_CHECK;
/* True if the checkpoint has any tag now. */
enum ckpt_status tags_any(struct store *s, const char *job, const struct ckpt_name *name, bool *ret,
                          struct ckpt_err *err) CKPT_MUST_CHECK;
/* Sets a tag; one that is set is CKPT_OK.  CKPT_NOT_FOUND: there is no such checkpoint, or
 * gc is removing it; CKPT_REFUSED: it is deleted (undelete it first). */
enum ckpt_status tags_set(struct store *s, const char *job, const struct ckpt_name *name,
                          const char *tag, struct ckpt_err *err) CKPT_MUST_CHECK;
/* Takes it away; CKPT_NOT_FOUND when the checkpoint does not have it. */
enum ckpt_status tags_unset(struct store *s, const char *job, const struct ckpt_name *name,
                            const char *tag, struct ckpt_err *err) CKPT_MUST_CHECK;
