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

/* Defaults. */
#define LIFE_GRACE_NS      (INT64_C(72) * 3600 * 1000000000)
#define LIFE_ABORT_KEEP_NS (INT64_C(30) * 24 * 3600 * 1000000000)
#define LIFE_ABORT_WAIT_NS (INT64_C(3600) * 1000000000)

struct life_gc_options {
    int64_t grace_ns;      /* 72 h by default: of a DELETED entry */
    int64_t abort_keep_ns; /* how long ABORT and GONE stay: 30 days */
    int64_t abort_wait_ns; /* after ABORT, until nobody writes to it any more: 1 h */
    bool undecided;        /* D4: also attempts below the newest resolved epoch.  life_gc: in their
                              home alone, in a tier a drain under way looks the same */
    bool dry_run;
};
struct life_gc_report {
    uint64_t collected, aborted, objects, bytes, restored_to_live;
};
/* D3, D4: collects a job, in its home.  Crash-safe at each step: a second gc goes on. */
enum ckpt_status life_gc(struct store *s, const char *job, const struct life_gc_options *o,
                         struct life_gc_report *ret, struct ckpt_err *err) CKPT_MUST_CHECK;
/* D3: collects in another store of the job what is GONE in its home: GONE is put there too,
 * then data, h/ and c/ are removed.  And in a node's own directory, where packs lie and nothing is
 * decided, what the home has ABORT for; undecided: what it has no c/ for, once ABORT is won there.
 * What is not marked as this home's alone (owner.h) stays.  Adds to *io_report.  CKPT_CONFLICT: it
 * is a tier of another home (H1). */
enum ckpt_status life_gc_tier(struct store *home, struct store *tier, const char *job,
                              const struct life_gc_options *o, struct life_gc_report *io_report,
                              struct ckpt_err *err) CKPT_MUST_CHECK;
