/* What a store holds, for people: jobs, checkpoints, lineage. */
#pragma once

#include "storage/repo/lineage.h"
#include "storage/repo/repo.h"

enum catalog_state {
    CATALOG_LIVE,
    CATALOG_DELETED,
    CATALOG_GONE,
    CATALOG_ABORTED,
};
struct catalog_entry {
    struct ckpt_name name;
    enum catalog_state state;
    bool on_lineage;             /* on the branch that the newest launch continues */
    bool held;                   /* h/ is there: everything lies in this store */
    bool dropped;                /* it did, and its data was dropped here for that of others */
    struct record_commit commit; /* LIVE and DELETED; world 0: the record is damaged */
    struct record_abort abort;   /* ABORTED */
    uint64_t stored_bytes;       /* from the .h records; UINT64_MAX = unknown */
    char (*tags)[CKPT_JOB_NAME_MAX + 1];
    size_t tag_count;
};
struct catalog {
    struct catalog_entry *entries; /* newest epoch first, then highest step */
    size_t count;
};
enum catalog_flags {
    CATALOG_SIZES = 1, /* read the .h records */
    CATALOG_ALL = 2,   /* also aborted, deleted, gone and abandoned ones */
    CATALOG_TAGS = 4,
};
/* Lists, reads the `resolved` records along the newest branch, and one record a checkpoint (two
 * with CATALOG_SIZES). */
enum ckpt_status catalog_read(struct store *s, const char *job, unsigned flags, struct catalog *ret,
                              struct ckpt_err *err) CKPT_MUST_CHECK;
/* The same for some of them: the first `newest` (0: all) in the order of entries, or the one
 * named `only` (NULL: any).  Records of the others are not read. */
struct catalog_wish {
    unsigned flags;
    size_t newest;
    const struct ckpt_name *only;
};
enum ckpt_status catalog_read_some(struct store *s, const char *job,
                                   const struct catalog_wish *wish, struct catalog *ret,
                                   struct ckpt_err *err) CKPT_MUST_CHECK;
void catalog_fini(struct catalog *c);
/* Job names of a store, sorted; malloc'ed array of malloc'ed strings, NULL-terminated. */
enum ckpt_status catalog_jobs(struct store *s, char ***ret, struct ckpt_err *err) CKPT_MUST_CHECK;
void catalog_jobs_free(char **jobs);

/* "JOB", "JOB@STEP", "JOB@STEP~EPOCH", "JOB@latest".  Without epoch: on the newest
 * lineage; without step: what a restore would take.  A DELETED one is found (to be
 * undeleted) when no live one fits.  CKPT_NOT_FOUND says what there is instead. */
struct catalog_spec {
    char job[CKPT_JOB_NAME_MAX + 1];
    bool has_step, has_epoch;
    uint64_t step, epoch;
};
enum ckpt_status catalog_parse(const char *text, struct catalog_spec *ret, struct ckpt_err *err)
    CKPT_MUST_CHECK;
enum ckpt_status catalog_find(struct store *s, const struct catalog_spec *spec,
                              struct ckpt_name *ret, struct ckpt_err *err) CKPT_MUST_CHECK;
/* JOB@latest by three listings of one page, however many checkpoints there are.  *ret_found is
 * false when it takes more to know (the newest launch has none yet, something was deleted or
 * reported bad), which catalog_find does by itself then. */
enum ckpt_status catalog_newest(struct store *s, const char *job, bool *ret_found,
                                struct ckpt_name *ret, struct ckpt_err *err) CKPT_MUST_CHECK;
