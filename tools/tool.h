/* What the verbs of `ckpt` share: the store they work on, how they end, how they
 * refuse.  One verb is one file, cmd_<verb>.c, and one row in ckpt.c. */
#pragma once

#include "formats/base.h"
#include "formats/sockpath.h"
#include "storage/repo/catalog.h"
#include "storage/store/store.h"

/* Exit codes, fixed: scripts depend on them. */
enum tool_exit {
    TOOL_FINE = 0,
    TOOL_DAMAGE = 1, /* damage found, or incomplete */
    TOOL_USAGE = 2,
    TOOL_NOT_FOUND = 3,
    TOOL_STORE = 4, /* store or I/O failure */
    TOOL_REFUSED = 5,
};

#define TOOL_REMOTES_MAX 7

struct tool {
    const char *program;
    const char *store_url;                 /* --store, else CKPT_STORE, else NULL */
    const char *remotes[TOOL_REMOTES_MAX]; /* --remote, else CKPT_REMOTE */
    size_t remote_count;
    bool json;
};
struct tool_verb {
    const char *name;
    const char *arguments; /* of the usage line */
    const char *summary;   /* one line, for the list of verbs */
    const char *help;      /* what follows the usage line */
    /* argv[0] is the verb; options of ckpt itself are taken out.  Returns the exit code. */
    int (*run)(struct tool *t, int argc, char **argv);
};
extern const struct tool_verb cmd_ls, cmd_show, cmd_verify, cmd_plan, cmd_restore, cmd_save,
    cmd_status, cmd_top, cmd_bench, cmd_run, cmd_doctor, cmd_prune, cmd_tag, cmd_untag, cmd_delete,
    cmd_undelete, cmd_gc;

/* The one map from statuses to exit codes. */
int tool_exit_code(enum ckpt_status st);
/* Prints "ckpt: <words>" on stderr and returns the exit code. */
int tool_fail(enum ckpt_status st, const struct ckpt_err *err);
/* A wrong call: prints what and where help is; returns TOOL_USAGE. */
int tool_misuse(const char *verb, const char *fmt, ...) CKPT_PRINTF(2, 3);
/* After getopt_long said '?' or ':': the same for an option. */
int tool_bad_option(const char *verb, char **argv);
/* Opens the repository for reading; says what to do when there is none. */
enum ckpt_status tool_open(const struct tool *t, struct store **ret, struct ckpt_err *err)
    CKPT_MUST_CHECK;
/* Where ckptd listens: `given` (--socket), else CKPT_SOCKET, else the place of this user and
 * store. */
enum ckpt_status tool_socket(const struct tool *t, const char *given, char ret[SOCKPATH_MAX],
                             struct ckpt_err *err) CKPT_MUST_CHECK;
/* All places of the call, the store first: what is not in one is looked for in the next.  Of
 * several, those that cannot be opened are said on stderr and left out; none: the store's
 * error. */
struct tool_stores {
    struct store *s[1 + TOOL_REMOTES_MAX];
    size_t count;
};
enum ckpt_status tool_open_all(const struct tool *t, struct tool_stores *ret, struct ckpt_err *err)
    CKPT_MUST_CHECK;
void tool_close_all(struct tool_stores *s);
#define CLEANUP_STORES __attribute__((cleanup(tool_close_all)))
/* tool_find in one place after the other; *ret_at: where it was found first. */
enum ckpt_status tool_find_any(const struct tool_stores *s, const char *text,
                               struct catalog_spec *ret_spec, struct ckpt_name *ret, size_t *ret_at,
                               struct ckpt_err *err) CKPT_MUST_CHECK;
/* The same as tool_open to change something. */
enum ckpt_status tool_open_write(const struct tool *t, struct store **ret, struct ckpt_err *err)
    CKPT_MUST_CHECK;
/* The home (--store) and then every --remote; one that cannot be opened is an error.  To change
 * something in the home, and in the others. */
enum ckpt_status tool_open_home(const struct tool *t, bool change, bool change_others,
                                struct tool_stores *ret, struct ckpt_err *err) CKPT_MUST_CHECK;
/* Calls `each` for one job (checked to be there), or for all when job is NULL; stops at the
 * first that fails. */
enum ckpt_status tool_each_job(struct store *s, const char *job,
                               enum ckpt_status (*each)(void *arg, const char *job,
                                                        struct ckpt_err *err),
                               void *arg, struct ckpt_err *err) CKPT_MUST_CHECK;
/* CKPT_OK if the store has the job; else CKPT_NOT_FOUND with the nearest names. */
enum ckpt_status tool_job_check(struct store *s, const char *job, struct ckpt_err *err)
    CKPT_MUST_CHECK;
/* "JOB[@STEP[~EPOCH]]" to the checkpoint it means. */
enum ckpt_status tool_find(struct store *s, const char *text, struct catalog_spec *ret_spec,
                           struct ckpt_name *ret, struct ckpt_err *err) CKPT_MUST_CHECK;
/* The word of `words` that is nearest to `word` by edits, NULL if none is near. */
const char *tool_nearest(const char *word, const char *const *words, size_t count);

static inline void tool_close_store(struct store **s)
{
    if (*s)
        store_close(*s);
}
#define CLEANUP_STORE __attribute__((cleanup(tool_close_store)))
