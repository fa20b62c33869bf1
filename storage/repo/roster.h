/* Which checkpoints a listing names: c/, h/, x/, t/ or d/ of a job as one sorted array.
 * Everything that looks at a whole job (history, catalog, gc) joins such arrays, so that
 * a look costs a handful of listings, however many checkpoints there are. */
#pragma once

#include "storage/repo/repo.h"

struct roster_entry {
    struct ckpt_name name;
    struct store_stat stat; /* c/, h/: of the record */
    uint64_t n;             /* x/: number of the newest entry of the log */
    bool older;             /* x/: the log has older entries, too */
    unsigned shards;        /* d/: bit h is set when d/<h>/<name>/ is there */
};
struct roster {
    struct roster_entry *entries; /* newest epoch first, then highest step, then attempt */
    size_t count, cap;
};
enum ckpt_status roster_commits(struct store *s, const char *job, struct roster *ret,
                                struct ckpt_err *err) CKPT_MUST_CHECK;
enum ckpt_status roster_helds(struct store *s, const char *job, struct roster *ret,
                              struct ckpt_err *err) CKPT_MUST_CHECK;
/* Logs of checkpoints, not those of one tier's copies. */
enum ckpt_status roster_lives(struct store *s, const char *job, struct roster *ret,
                              struct ckpt_err *err) CKPT_MUST_CHECK;
/* The others: logs of what became of this store's own copies (rule D5). */
enum ckpt_status roster_copies(struct store *s, const char *job, struct roster *ret,
                               struct ckpt_err *err) CKPT_MUST_CHECK;
/* Both by one listing; on failure neither.  NULL: not asked for. */
enum ckpt_status roster_logs(struct store *s, const char *job, struct roster *ret_lives,
                             struct roster *ret_copies, struct ckpt_err *err) CKPT_MUST_CHECK;
/* Checkpoints that have a tag or had one (by delimiter, one level). */
enum ckpt_status roster_tagged(struct store *s, const char *job, struct roster *ret,
                               struct ckpt_err *err) CKPT_MUST_CHECK;
/* Attempts that have any object under d/ (listed by delimiter, one level). */
enum ckpt_status roster_data(struct store *s, const char *job, struct roster *ret,
                             struct ckpt_err *err) CKPT_MUST_CHECK;
/* Of them, those that may have an object of rank 0: one listing instead of sixteen. */
enum ckpt_status roster_data_rank0(struct store *s, const char *job, struct roster *ret,
                                   struct ckpt_err *err) CKPT_MUST_CHECK;
void roster_fini(struct roster *r);
/* Adds what `from` names and `to` does not. */
enum ckpt_status roster_merge(struct roster *to, const struct roster *from, struct ckpt_err *err)
    CKPT_MUST_CHECK;
#define CLEANUP_ROSTER __attribute__((cleanup(roster_fini)))

const struct roster_entry *roster_find(const struct roster *r, const struct ckpt_name *name);
/* The order of listings: < 0 when a comes first (is newer). */
int roster_order(const struct ckpt_name *a, const struct ckpt_name *b);
/* What a sorted array (in that order, each name once) has under `name`; its elements begin
 * with a struct ckpt_name.  NULL: nothing. */
void *roster_search(const void *base, size_t count, size_t size, const struct ckpt_name *name);
/* The bytes that a checkpoint takes, as its h/ says.  CKPT_NOT_FOUND: no h/ was listed, or gc
 * took it since; CKPT_CORRUPT: it is damaged; both without words. */
enum ckpt_status roster_stored(struct store *s, const char *job, const struct roster *helds,
                               const struct ckpt_name *name, uint64_t *ret, struct ckpt_err *err)
    CKPT_MUST_CHECK;
/* True if the record of a c/ entry is an ABORT, as its size tells. */
static inline bool roster_is_abort(const struct roster_entry *e)
{
    return e->stat.bytes <= RECORD_ABORT_MAX;
}
