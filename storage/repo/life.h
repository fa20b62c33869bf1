/* Deletion (rules D1-D6): the life of a commit is a log x/<name>/<~n>; each entry is
 * put if-absent at n+1, the newest wins, whoever loses rereads. */
#pragma once

#include "storage/repo/repo.h"

/* The newest entry of the log: *ret_n = 0 and LIVE when there is none.  copy: of this
 * tier's copy only (x/<name>.h). */
enum ckpt_status life_look(struct store *s, const char *job, const struct ckpt_name *name,
                           bool copy, enum life *ret, uint64_t *ret_n, int64_t *ret_time_ns,
                           struct ckpt_err *err) CKPT_MUST_CHECK;
/* D2.  CKPT_NOT_FOUND: no commit; CKPT_REFUSED: it is what the newest launch resumed
 * from, or GONE.  Deleting what is deleted is CKPT_OK. */
enum ckpt_status life_delete(struct store *s, const char *job, const struct ckpt_name *name,
                             const char *why, struct ckpt_err *err) CKPT_MUST_CHECK;
/* DELETED -> LIVE; CKPT_NOT_FOUND when GONE. */
enum ckpt_status life_undelete(struct store *s, const char *job, const struct ckpt_name *name,
                               const char *why, struct ckpt_err *err) CKPT_MUST_CHECK;

struct life_gc_options {
    int64_t grace_ns;      /* 72 h by default: of a DELETED entry */
    int64_t abort_keep_ns; /* how long ABORT and GONE stay: 30 days */
    bool undecided;        /* D4: also attempts below the newest resolved epoch */
    bool dry_run;
    /* Other stores that may hold copies (D3): what is collected is GONE in all of them before
     * anything is removed, and then removed there, too.  While one of them cannot be written
     * nothing new is collected. */
    struct store *const *tiers;
    size_t tier_count;
};
struct life_gc_report {
    uint64_t collected, aborted, objects, bytes, restored_to_live;
    uint64_t waiting; /* for a tier that could not be told */
};
/* D3, D4: collects a job.  Crash-safe at each step: a second gc goes on. */
enum ckpt_status life_gc(struct store *s, const char *job, const struct life_gc_options *o,
                         struct life_gc_report *ret, struct ckpt_err *err) CKPT_MUST_CHECK;
