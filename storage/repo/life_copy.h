/* Dropping one store's copy of checkpoints that other stores hold (rule D5): a node's own
 * directory, each store that is drained to and the home keep what their policies say.
 *
 * The copy has a life log of its own, x/<name>.h in its store.  DELETED goes there first; only
 * then the others are looked at, so that of two that drop at once at least one sees the other.
 * Each other store must hold the checkpoint and say nothing but LIVE about its copy, or have
 * dropped that for good (GONE: it will never hold it again), and one at least must hold it; and
 * neither the newest `resolved` nor a tag may name it: else LIVE again.  Then GONE, and only
 * after that the records that say it is here (h/, c/ of a tier, <rank>.h) go, and after them the
 * data.
 *
 *      DELETED ──looked: others hold it──► GONE ──► h/, c/ ──► <rank>.h ──► packs, and the rest
 *         └──── they do not, or it is wanted ──► LIVE
 *
 * What dies anywhere is gone on with by the next pass.  A restore that reads there while the
 * data goes takes it from another store, chunk by chunk.
 *
 * Of a tier's copy nothing stays but the log.  c/, manifests and index are in the home, and c/ in
 * each tier that holds it: a home that is made anew learns of what can be restored, from where it
 * can be.  With c/ alone it would list what no store has, for ever, and `ckpt verify` in the tier
 * would call that damaged.  What was launched and what is tagged (l/, t/) stays.  GONE stays as
 * long as the home has c/: a drain would bring the copy back.
 *
 * Of the home's copy c/, manifests and index stay, by which it is listed and restored from where
 * it lies.  That nothing is left to remove is told there by a GONE that is alone in its log. */
#pragma once

#include "storage/repo/life.h"
#include "storage/repo/prune.h"

#define COPY_LEAST 2 /* newest whole ones that stay here, whatever the policy says */

struct copy_place {
    const char *job;
    struct store *home;         /* decides */
    struct store *here;         /* whose copies go: the home or one of `tiers`, of which only what
                                   is whole may go; or a node's own directory, where parts are */
    struct store *const *tiers; /* all that checkpoints go on to, without home */
    size_t tier_count;
};
struct copy_report {
    uint64_t kept, dropped, spared; /* of those with data here; spared: LIVE again */
    uint64_t objects, bytes;        /* removed */
};
/* One pass: what the policy does not keep here is dropped; its rules count what is here.
 * CKPT_REFUSED: no rule.  *ret_plan: each live checkpoint of the job, `done` says PRUNE_DELETED of
 * what was dropped; also on failure; prune_plan_fini. */
enum ckpt_status copy_prune(const struct copy_place *p, const struct keep_policy *policy,
                            struct prune_plan *ret_plan, struct copy_report *ret,
                            struct ckpt_err *err) CKPT_MUST_CHECK;
/* One, if it may go; *ret: it is gone from here.  Guards nothing but what the log guards. */
enum ckpt_status copy_drop(const struct copy_place *p, const struct ckpt_name *name,
                           const char *why, bool *ret, struct copy_report *io, struct ckpt_err *err)
    CKPT_MUST_CHECK;
