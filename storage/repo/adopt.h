/* Records that one store takes over from another (rules H1, D3): a tier from the home,
 * before anything else of a job is drained to it; and the home from its tiers, before a
 * launch resolves, because the home may be new or behind.
 *
 * Only what is missing is put, if absent, byte for byte.  What both have is left alone:
 * records are decided once. */
#pragma once

#include "storage/repo/repo.h"
#include "storage/repo/roster.h"

/* l/ of the job. */
enum ckpt_status adopt_launches(struct store *from, struct store *to, const char *job,
                                struct ckpt_err *err) CKPT_MUST_CHECK;
/* t/ of the job. */
enum ckpt_status adopt_tags(struct store *from, struct store *to, const char *job,
                            struct ckpt_err *err) CKPT_MUST_CHECK;
/* One record, if `from` has it. *ret_there: it is in `to` now, the same; false: `from` has
 * none.  CKPT_CONFLICT: `to` has another. */
enum ckpt_status adopt_record(struct store *from, struct store *to, const struct key *key,
                              bool *ret_there, struct ckpt_err *err) CKPT_MUST_CHECK;
/* H1: two homes have decided the epoch differently.  CKPT_CONFLICT names both stores.
 * Claims that differ alone are harmless: where that of `home` led to nothing. */
enum ckpt_status adopt_check_epoch(struct store *home, struct store *tier, const char *job,
                                   uint64_t epoch, struct ckpt_err *err) CKPT_MUST_CHECK;
/* Everything of a job that a home must know of its tier: launches, tags, and the commits
 * (with the logs of their lives) of what the tier has and does not call GONE.  *ret_held:
 * what lies in the tier complete and alive there, for a resolver (H3); roster_fini.
 * CKPT_CONFLICT: two homes, as above, by the newest launch that both know. */
enum ckpt_status adopt_job(struct store *tier, struct store *home, const char *job,
                           struct roster *ret_held, struct ckpt_err *err) CKPT_MUST_CHECK;
/* The last part alone: names held by a store whose own log, and whose log of its copy, say
 * LIVE. */
enum ckpt_status adopt_held(struct store *tier, const char *job, struct roster *ret,
                            struct ckpt_err *err) CKPT_MUST_CHECK;
