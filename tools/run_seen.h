/* What the store says of a start of a job: found by the launch token, so nobody has to
 * say which job a command trains. */
#pragma once

#include "storage/repo/lineage.h"
#include "storage/store/store.h"

struct run_seen {
    char job[CKPT_JOB_NAME_MAX + 1]; /* "" = no job was opened with the token, or no store */
    bool committed;                  /* this start made a checkpoint */
    struct ckpt_name newest;         /* its newest; with `committed` */
    uint64_t highest;                /* of its steps, as far as it got; with `committed` */
    bool has_next;                   /* the next start would resume from ... */
    struct ckpt_name next;           /* ... here; else from the beginning */
    bool stop;                       /* the history says that a human must look first */
    char why[RECORD_TEXT_MAX];       /* of `next` and `stop` */
};
/* token: what CKPT_LAUNCH was; a launcher may have joined more to it.  job: where to look
 * first, "" = in all.  A job whose history cannot be read counts as not seen. */
enum ckpt_status run_seen_read(struct store *s, const char *token, const char *job,
                               struct run_seen *ret, struct ckpt_err *err) CKPT_MUST_CHECK;
