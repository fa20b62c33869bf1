/* What the store says of a start of a job: found by the launch token, so nobody has to
 * say which job a command trains. */
#pragma once

#include "storage/repo/lineage.h"
#include "storage/store/store.h"

struct run_seen {
    char job[CKPT_JOB_NAME_MAX + 1]; /* "" = no job was opened with the token, or no store */
    bool committed;                  /* this start made a checkpoint */
    struct ckpt_name newest;         /* its newest; with `committed` */
    bool saved;                      /* this start or one before it made a checkpoint */
    uint64_t highest;                /* of all their steps; with `saved` */
    bool has_next;                   /* the next start would resume from ... */
    struct ckpt_name next;           /* ... here; else from the beginning */
    bool stop;                       /* the history says that a human must look first */
    char why[RECORD_TEXT_MAX];       /* of `next` and `stop` */
};
/* token: what CKPT_LAUNCH was, "<run>-<number of the start>"; a launcher may have joined more to
 * it.  job: where to look first, "" = in all.  A job whose history cannot be read counts as not
 * seen.
 *
 * A start's last checkpoint may be committed after it died and was looked at: ckptd has what was
 * staged.  So how far the run got is asked of all its starts, each time. */
enum ckpt_status run_seen_read(struct store *s, const char *token, const char *job,
                               struct run_seen *ret, struct ckpt_err *err) CKPT_MUST_CHECK;
