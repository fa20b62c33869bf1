/* One launch in the job's history (rules I1-I6): claim, resolve, report.
 * Blocking calls for rank 0's daemon (claim, resolve) and every other (wait). */
#pragma once

#include "storage/repo/lineage.h"
#include "storage/repo/repo.h"
#include "storage/repo/roster.h"

struct launch_who {
    const char *job;
    const char *token;
    uint32_t world;
    uint8_t nonce[16]; /* of rank 0's session */
    uint8_t node[16];
    int64_t time_ns;
    uint64_t after; /* a rollback inside the process (I6): the epoch it leaves; else 0 */
    uint64_t was;   /* the epoch that the process says it is in; 0 = in none */
};
/* Claims the next epoch by put-if-absent.  The same token among the newest claims: with the
 * same nonce the newest old one above `after` is found again (*ret_epoch), with another nonce
 * CKPT_LAUNCH_REUSED.  So is, behind however many newer ones, the claim of the epoch it was in: a
 * launch whose daemon died does not become the newest by coming back. */
#define LAUNCH_OWN_CLAIMS 2
enum ckpt_status launch_claim(struct store *home, const struct launch_who *who, uint64_t *ret_epoch,
                              struct ckpt_err *err) CKPT_MUST_CHECK;
/* Finds the newest epoch above *floor that a token claimed; CKPT_NOT_FOUND, without words,
 * while rank 0 has not: then *floor is raised to what was looked at, so that looking again
 * costs one listing.  Only the newest claims are read: who is further behind than that is
 * not waited for any more. */
#define LAUNCH_FIND_CLAIMS 4
enum ckpt_status launch_find(struct store *home, const char *job, const char *token,
                             uint64_t *floor, uint64_t *ret_epoch, struct ckpt_err *err)
    CKPT_MUST_CHECK;
/* What one listing of l/ says that there is of launches, the newest epoch first. */
struct launch_index {
    struct launch_record {
        uint64_t epoch;
        uint64_t bytes; /* UINT64_MAX: not known */
        char what[24];  /* "claim", "resolved", "restored", "progress", "bad-..." */
    } * records;
    size_t count, cap;
};
enum ckpt_status launch_list(struct store *home, const char *job, struct launch_index *ret,
                             struct ckpt_err *err) CKPT_MUST_CHECK;
void launch_index_fini(struct launch_index *x);
#define CLEANUP_INDEX __attribute__((cleanup(launch_index_fini)))
bool launch_index_has(const struct launch_index *x, uint64_t epoch, const char *what);
/* CKPT_NO_MEMORY. */
enum ckpt_status launch_index_add(struct launch_index *x, const struct launch_record *record,
                                  struct ckpt_err *err) CKPT_MUST_CHECK;
/* The part of a key behind l/: what record of which launch; NULL: a stranger's.  Keys are listed
 * with the newest epoch first, all of one epoch together. */
const char *launch_key_what(const char *at, uint64_t *ret_epoch);
/* Adds what was listed, if it is history: not what nodes say of themselves. */
enum ckpt_status launch_index_take(struct launch_index *x, const char *at, uint64_t bytes,
                                   struct ckpt_err *err) CKPT_MUST_CHECK;
/* Reads the claims of the newest `most` launches of an index. */
enum ckpt_status launch_read_claims(struct store *home, const char *job,
                                    const struct launch_index *x, size_t most, struct lineage *ret,
                                    struct ckpt_err *err) CKPT_MUST_CHECK;
/* Reads the launches alone. */
enum ckpt_status launch_claims(struct store *home, const char *job, struct lineage *ret,
                               struct ckpt_err *err) CKPT_MUST_CHECK;
/* Reads the whole history of a job.  Commits: what the listings tell (name, life, held
 * here); their records are not read, so `parent` stays empty. */
enum ckpt_status launch_history(struct store *home, const char *job, struct lineage *ret,
                                struct ckpt_err *err) CKPT_MUST_CHECK;
/* The same, and what other tiers hold (`also`, from adopt_job; NULL = nothing) can be
 * restored, too (H3). */
enum ckpt_status launch_history_with(struct store *home, const char *job, const struct roster *also,
                                     struct lineage *ret, struct ckpt_err *err) CKPT_MUST_CHECK;
/* The same with the listings that it was made of, for who looks at everything. */
struct launch_listings {
    struct roster commits, helds, lives; /* taken in this order */
    struct roster copies; /* with lives: of which the home's own data has a log (D5) */
    bool logs;            /* both are listed */
};
/* lineage_pick over an index and listings (commits, helds) that were taken in this order; lists
 * what lives, if it is not listed yet, and reads no more records of launches than the choice depends on. */
enum ckpt_status launch_pick(struct store *home, const char *job, const struct launch_index *x,
                             struct launch_listings *at, const struct roster *also,
                             const struct lineage_wish *wish, struct record_resolved *ret,
                             struct ckpt_err *err) CKPT_MUST_CHECK;
enum ckpt_status launch_history_listed(struct store *home, const char *job, struct lineage *ret,
                                       struct launch_listings *ret_listings, struct ckpt_err *err)
    CKPT_MUST_CHECK;
/* x/, behind the others, once. */
enum ckpt_status launch_list_logs(struct store *home, const char *job, struct launch_listings *at,
                                  struct ckpt_err *err) CKPT_MUST_CHECK;
void launch_listings_fini(struct launch_listings *l);
/* The same, but of launches only what lineage_mark_branch and lineage_on_branch need: their
 * epochs, and the `resolved` records from the newest down along its branch. */
enum ckpt_status launch_branch_listed(struct store *home, const char *job, struct lineage *ret,
                                      struct launch_listings *ret_listings, struct ckpt_err *err)
    CKPT_MUST_CHECK;
/* Puts SUPERSEDED into lower claimed epochs that are unresolved, decides complete
 * undecided attempts of lower epochs (commit; a failed part: ABORT), picks, writes
 * `resolved`, brings a DELETED choice back to LIVE.  Idempotent: finds its own again.
 * CKPT_SUPERSEDED: somebody put SUPERSEDED under this epoch. */
enum ckpt_status launch_resolve(struct store *home, const char *job, uint64_t epoch,
                                const struct lineage_wish *wish, struct record_resolved *ret,
                                struct ckpt_err *err) CKPT_MUST_CHECK;
/* The same with what can be restored beside what the home holds (H3). */
struct launch_nodes;
struct launch_reach {
    /* A rollback (I6): the epoch that the launch leaves, else 0.  If a launch with another token
     * than this has resolved since, that one goes on: CKPT_SUPERSEDED. */
    uint64_t leaves;
    const char *token;
    /* Not NULL: a tier that could not be asked, for messages.  The job's checkpoints may lie
     * there: CKPT_UNREACHABLE instead of a start at the beginning that nobody asked for. */
    const char *unheard;
    struct store *tier; /* where all ranks' packs are saved, if not in the home; NULL: none */
    const struct roster *also;
    /* Not NULL: these were listed since the epoch was claimed, so they are not listed again.
     * Launches that are shut out are added. */
    struct launch_index *launches;
    /* Not NULL: if the newest commit is still on its way from these nodes to the home, nothing
     * is resolved, and *ret_pending is set instead. */
    const struct launch_nodes *nodes;
    bool *ret_pending;
    bool *ret_elsewhere; /* it failed, and not for the home; NULL: nobody wants to know */
};
enum ckpt_status launch_resolve_with(struct store *home, const char *job, uint64_t epoch,
                                     const struct lineage_wish *wish,
                                     const struct launch_reach *reach, struct record_resolved *ret,
                                     struct ckpt_err *err) CKPT_MUST_CHECK;
/* Reads `resolved` of an epoch; CKPT_NOT_FOUND while it is not there. */
enum ckpt_status launch_resolved(struct store *home, const char *job, uint64_t epoch,
                                 struct record_resolved *ret, struct ckpt_err *err) CKPT_MUST_CHECK;
/* The newest `resolved` that is not SUPERSEDED; CKPT_NOT_FOUND, without words, when no
 * launch has resolved. */
enum ckpt_status launch_newest(struct store *home, const char *job, struct record_resolved *ret,
                               struct ckpt_err *err) CKPT_MUST_CHECK;
/* True if that one resumes from `name` (asked before and after deleting, D2, D3). */
enum ckpt_status launch_names(struct store *home, const char *job, const struct ckpt_name *name,
                              bool *ret, struct ckpt_err *err) CKPT_MUST_CHECK;
/* CKPT_OK while no higher epoch has resolved to anything but SUPERSEDED; else
 * CKPT_SUPERSEDED (asked at begin of every save). */
enum ckpt_status launch_current(struct store *home, const char *job, uint64_t epoch,
                                struct ckpt_err *err) CKPT_MUST_CHECK;
/* Reports: the first one of its key stands, putting another is CKPT_OK. */
enum ckpt_status launch_put_step(struct store *home, const char *job, enum record_kind kind,
                                 const struct record_step *r, struct ckpt_err *err) CKPT_MUST_CHECK;
enum ckpt_status launch_put_bad(struct store *home, const char *job, const struct record_bad *r,
                                struct ckpt_err *err) CKPT_MUST_CHECK;
/* Decides the undecided attempts of epochs below `epoch` (a part of launch_resolve): all
 * parts there: commit; a failed part, or one that can never be committed: ABORT; else
 * left.  *ret: what the home has then; commits and helds, the caller frees. */
enum ckpt_status launch_decide(struct store *home, const char *job, uint64_t epoch,
                               struct launch_listings *ret, struct ckpt_err *err) CKPT_MUST_CHECK;
/* Puts h/ into the tier for the newest of the home's commits of which all parts lie in the
 * tier, but whose committer died before it said so (or was a resolver elsewhere).
 * *ret_tier: it failed, and for the tier. */
enum ckpt_status launch_hold(struct store *home, struct store *tier, const char *job,
                             const struct roster *commits, bool *ret_tier, struct ckpt_err *err)
    CKPT_MUST_CHECK;
