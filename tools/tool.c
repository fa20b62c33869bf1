/* What the verbs of `ckpt` share. */
#include "tools/tool.h"

#include <getopt.h>
#include <stdio.h>

#include "tools/output.h"

int tool_exit_code(enum ckpt_status st)
{
    switch (st) {
    case CKPT_OK:
        return TOOL_FINE;
    case CKPT_CORRUPT:
    case CKPT_ABORTED:
    case CKPT_CANCELLED:
    case CKPT_COVER:
        return TOOL_DAMAGE;
    case CKPT_INVALID:
    case CKPT_BAD_NAME:
    case CKPT_LIMIT:
    case CKPT_NO_LAUNCH:
        return TOOL_USAGE;
    case CKPT_NOT_FOUND:
        return TOOL_NOT_FOUND;
    case CKPT_MISMATCH:
    case CKPT_EXISTS:
    case CKPT_NOT_PLANNED:
    case CKPT_WRONG_STATE:
    case CKPT_LAUNCH_REUSED:
    case CKPT_SUPERSEDED:
    case CKPT_VANISHED:
    case CKPT_REFUSED:
    case CKPT_BUSY:
    case CKPT_CONFLICT:
        return TOOL_REFUSED;
    case CKPT_UNSUPPORTED:
    case CKPT_TIMEOUT:
    case CKPT_NO_MEMORY:
    case CKPT_IO:
    case CKPT_FULL:
    case CKPT_DENIED:
    case CKPT_UNREACHABLE:
    case CKPT_DAEMON_GONE:
    case CKPT_DEVICE:
    case CKPT_BUG:
        break;
    }
    return TOOL_STORE;
}

int tool_fail(enum ckpt_status st, const struct ckpt_err *err)
{
    bool words = err->status != CKPT_OK && err->text[0];
    output_line(stderr, "ckpt: %s", words ? err->text : status_sentence(st));
    return tool_exit_code(st);
}

int tool_misuse(const char *verb, const char *fmt, ...)
{
    char what[2048];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof(what), fmt, ap);
    va_end(ap);
    output_line(stderr, "ckpt %s: %s; \"ckpt %s --help\" shows how to call it", verb, what, verb);
    return TOOL_USAGE;
}

int tool_bad_option(const char *verb, char **argv)
{
    if (optopt > 0 && optopt < 128)
        return tool_misuse(verb, "-%c is no option, or lacks its value", optopt);
    return tool_misuse(verb, "%s is no option, or its value is missing or too much",
                       argv[optind - 1]);
}

static enum ckpt_status open_place(const char *url, bool readonly, struct store **ret,
                                   struct ckpt_err *err)
{
    CLEANUP_STORE struct store *s = NULL;
    struct store_options options = { .readonly = readonly, .attended = true };
    enum ckpt_status st = store_open(url, &options, &s, err);
    if (st != CKPT_OK)
        return st;
    struct record_repo repo;
    struct ckpt_err why = { 0 };
    st = repo_open(s, false, &repo, &why);
    if (st == CKPT_NOT_FOUND)
        return err_set(err, st,
                       "no checkpoint store at %s: it has no " KEY_REPO
                       " (the first save makes one); is --store right?",
                       url);
    if (st != CKPT_OK)
        return err_set(err, st, "%s", err_text(&why));
    *ret = TAKE_PTR(s);
    return CKPT_OK;
}

static enum ckpt_status open_named(const struct tool *t, bool readonly, struct store **ret,
                                   struct ckpt_err *err)
{
    if (!t->store_url || !*t->store_url)
        return err_set(err, CKPT_INVALID,
                       "no store was named: give --store DIR (or URL), or set CKPT_STORE");
    return open_place(t->store_url, readonly, ret, err);
}

enum ckpt_status tool_open(const struct tool *t, struct store **ret, struct ckpt_err *err)
{
    return open_named(t, true, ret, err);
}

/* A place that was named, and of which nothing is known, is no answer: it is said. */
static void leave_out(const char *url, const struct ckpt_err *why)
{
    output_line(stderr, "ckpt: %s is left out: %s", url, err_text(why));
}

enum ckpt_status tool_open_all(const struct tool *t, struct tool_stores *ret, struct ckpt_err *err)
{
    struct ckpt_err first = { 0 };
    struct tool_stores all = { 0 };
    enum ckpt_status st = CKPT_OK;
    if ((t->store_url && *t->store_url) || t->remote_count == 0)
        st = tool_open(t, &all.s[0], &first);
    all.count = all.s[0] != NULL;
    if (st != CKPT_OK && t->remote_count > 0)
        leave_out(t->store_url, &first);
    for (size_t i = 0; i < t->remote_count; i++) {
        struct ckpt_err why = { 0 };
        enum ckpt_status got = open_place(t->remotes[i], true, &all.s[all.count], &why);
        if (got == CKPT_OK) {
            all.count++;
            continue;
        }
        leave_out(t->remotes[i], &why);
        if (st == CKPT_OK) {
            st = got;
            first = why;
        }
    }
    if (all.count == 0)
        return err_set(err, st, "%s", err_text(&first));
    *ret = all;
    return CKPT_OK;
}

void tool_close_all(struct tool_stores *s)
{
    for (size_t i = 0; i < s->count; i++)
        store_close(s->s[i]);
    s->count = 0;
}

enum ckpt_status tool_find_any(const struct tool_stores *s, const char *text,
                               struct catalog_spec *ret_spec, struct ckpt_name *ret, size_t *ret_at,
                               struct ckpt_err *err)
{
    struct ckpt_err first = { 0 };
    enum ckpt_status st = CKPT_NOT_FOUND;
    for (size_t i = 0; i < s->count && st == CKPT_NOT_FOUND; i++) {
        struct ckpt_err why = { 0 };
        st = tool_find(s->s[i], text, ret_spec, ret, &why);
        *ret_at = i;
        if (i == 0 || st != CKPT_NOT_FOUND)
            first = why;
    }
    return st == CKPT_OK ? st : err_set(err, st, "%s", err_text(&first));
}

enum ckpt_status tool_open_write(const struct tool *t, struct store **ret, struct ckpt_err *err)
{
    return open_named(t, false, ret, err);
}

enum ckpt_status tool_open_home(const struct tool *t, bool change, bool change_others,
                                struct tool_stores *ret, struct ckpt_err *err)
{
    CLEANUP_STORES struct tool_stores all = { 0 };
    enum ckpt_status st = open_named(t, !change, &all.s[0], err);
    all.count = st == CKPT_OK;
    for (size_t i = 0; i < t->remote_count && st == CKPT_OK; i++) {
        st = open_place(t->remotes[i], !change_others, &all.s[all.count], err);
        all.count += st == CKPT_OK;
    }
    if (st != CKPT_OK)
        return st;
    *ret = all;
    all.count = 0;
    return CKPT_OK;
}

enum ckpt_status tool_each_job(struct store *s, const char *job,
                               enum ckpt_status (*each)(void *arg, const char *job,
                                                        struct ckpt_err *err),
                               void *arg, struct ckpt_err *err)
{
    char **jobs;
    if (job) {
        enum ckpt_status st = tool_job_check(s, job, err);
        return st == CKPT_OK ? each(arg, job, err) : st;
    }
    enum ckpt_status st = catalog_jobs(s, &jobs, err);
    if (st != CKPT_OK)
        return st;
    for (size_t i = 0; jobs[i] && st == CKPT_OK; i++)
        st = each(arg, jobs[i], err);
    catalog_jobs_free(jobs);
    return st;
}

/* -- suggestions --------------------------------------------------------- */

/* Edits from a to b (insert, delete, replace), names of at most CKPT_JOB_NAME_MAX. */
static unsigned edits(const char *a, const char *b)
{
    unsigned row[CKPT_JOB_NAME_MAX + 1];
    size_t n = strnlen(b, CKPT_JOB_NAME_MAX);
    for (size_t j = 0; j <= n; j++)
        row[j] = (unsigned)j;
    for (size_t i = 0; a[i] && i < CKPT_JOB_NAME_MAX; i++) {
        unsigned diagonal = row[0];
        row[0] = (unsigned)i + 1;
        for (size_t j = 0; j < n; j++) {
            unsigned replaced = diagonal + (a[i] != b[j]);
            unsigned moved = (row[j] < row[j + 1] ? row[j] : row[j + 1]) + 1;
            diagonal = row[j + 1];
            row[j + 1] = replaced < moved ? replaced : moved;
        }
    }
    return row[n];
}

const char *tool_nearest(const char *word, const char *const *words, size_t count)
{
    const char *best = NULL;
    unsigned best_edits = (unsigned)strlen(word) / 3 + 2;
    for (size_t i = 0; i < count; i++) {
        unsigned n = edits(word, words[i]);
        if (n < best_edits) {
            best = words[i];
            best_edits = n;
        }
    }
    return best;
}

static enum ckpt_status no_such_job(char *const *jobs, const char *job, const char *url,
                                    struct ckpt_err *err)
{
    char list[512] = "";
    size_t count = 0, len = 0;
    for (; jobs[count]; count++) {
        if (len < sizeof(list))
            len += (size_t)snprintf(list + len, sizeof(list) - len, "%s%s", count ? ", " : "",
                                    jobs[count]);
    }
    if (count == 0)
        return err_set(err, CKPT_NOT_FOUND, "no job \"%.128s\" in %.300s: the store is empty", job,
                       url);
    const char *nearest = tool_nearest(job, (const char *const *)jobs, count);
    return err_set(err, CKPT_NOT_FOUND, "no job \"%.128s\" in %.200s; %s%s%sthere is: %s%s", job,
                   url, nearest ? "did you mean " : "", nearest ? nearest : "", nearest ? "? " : "",
                   list, len >= sizeof(list) ? " ..." : "");
}

enum ckpt_status tool_job_check(struct store *s, const char *job, struct ckpt_err *err)
{
    enum ckpt_status st = job_name_check(job, err);
    if (st != CKPT_OK)
        return st;
    char **jobs;
    st = catalog_jobs(s, &jobs, err);
    if (st != CKPT_OK)
        return st;
    bool found = false;
    for (size_t i = 0; jobs[i]; i++)
        found |= strcmp(jobs[i], job) == 0;
    if (!found)
        st = no_such_job(jobs, job, s->url, err);
    catalog_jobs_free(jobs);
    return st;
}

enum ckpt_status tool_find(struct store *s, const char *text, struct catalog_spec *ret_spec,
                           struct ckpt_name *ret, struct ckpt_err *err)
{
    struct catalog_spec spec = { 0 };
    enum ckpt_status st = catalog_parse(text, &spec, err);
    if (st != CKPT_OK)
        return st;
    struct ckpt_err why = { 0 };
    st = catalog_find(s, &spec, ret, &why);
    if (st == CKPT_NOT_FOUND) { /* there may be no such job: then other names help */
        enum ckpt_status job = tool_job_check(s, spec.job, err);
        if (job != CKPT_OK)
            return job;
    }
    if (st != CKPT_OK)
        return err_set(err, st, "%s", err_text(&why));
    *ret_spec = spec;
    return CKPT_OK;
}

enum ckpt_status tool_socket(const struct tool *t, const char *given, char ret[SOCKPATH_MAX],
                             struct ckpt_err *err)
{
    char cwd[4096], store[4096];
    const char *path = given ? given : getenv("CKPT_SOCKET");
    if (path && *path) {
        if ((size_t)snprintf(ret, SOCKPATH_MAX, "%s", path) >= SOCKPATH_MAX)
            return err_set(err, CKPT_LIMIT, "socket path %s is too long", path);
        return CKPT_OK;
    }
    if (!t->store_url)
        return err_set(err, CKPT_INVALID,
                       "which ckptd? give --socket PATH or --store (or CKPT_SOCKET, CKPT_STORE)");
    if (!getcwd(cwd, sizeof(cwd)))
        return err_errno(err, errno, "cannot tell the working directory");
    enum ckpt_status st = sockpath_store(t->store_url, cwd, store, sizeof(store), err);
    if (st != CKPT_OK)
        return st;
    return sockpath_socket(geteuid(), getenv("XDG_RUNTIME_DIR"), store, ret, err);
}
