/* Reading and changing tags. */
#include "storage/repo/tags.h"

#include <inttypes.h>
#include <stdio.h>

#include "storage/repo/life.h"
#include "storage/repo/publish.h"

/* ---- reading ---- */

struct tag_walk {
    struct store *s;
    const char *job;
    size_t prefix_len;
    const struct ckpt_name *of; /* one checkpoint's; NULL: all of the job's */
    char seen[CKPT_JOB_NAME_MAX + 1];
    struct ckpt_name seen_of;
    enum ckpt_status (*each)(void *arg, const struct ckpt_name *name, const char *tag);
    void *arg;
    struct ckpt_err *err;
};

/* "<tag>/<~n>" of the log of a tag, whose newest entry is listed first. */
static bool tag_split(const char *at, char tag[CKPT_JOB_NAME_MAX + 1], uint64_t *ret_n)
{
    const char *slash = strchr(at, '/');
    if (!slash || slash - at > CKPT_JOB_NAME_MAX || !key_number_parse(slash + 1, ret_n))
        return false;
    memcpy(tag, at, (size_t)(slash - at));
    tag[slash - at] = 0;
    return tag_check(tag, NULL) == CKPT_OK;
}

static enum ckpt_status read_change(struct store *s, const char *job, const struct ckpt_name *name,
                                    const char *tag, uint64_t n, bool *ret_set,
                                    struct ckpt_err *err)
{
    struct key key = key_tag(job, name, tag, n);
    CLEANUP_FREE void *bytes = NULL;
    size_t len = 0;
    struct record_tag r;
    enum ckpt_status st = repo_get(s, &key, &bytes, &len, err);
    if (st == CKPT_OK)
        st = record_tag_decode(bytes, len, key.text, &r, err);
    if (st == CKPT_OK)
        *ret_set = r.set;
    return st;
}

static enum ckpt_status tag_each(void *arg, const struct store_entry *e)
{
    struct tag_walk *w = arg;
    const char *at = e->key + w->prefix_len;
    struct ckpt_name name;
    char tag[CKPT_JOB_NAME_MAX + 1];
    uint64_t n;
    if (w->of) {
        name = *w->of;
    } else {
        if (strlen(at) < NAME_TEXT || !name_parse(at, NAME_TEXT - 1, &name))
            return CKPT_OK;
        at += NAME_TEXT;
    }
    if (!tag_split(at, tag, &n) || (strcmp(tag, w->seen) == 0 && name_equal(&name, &w->seen_of)))
        return CKPT_OK;
    memcpy(w->seen, tag, sizeof(tag));
    w->seen_of = name;
    bool set = false;
    enum ckpt_status st = read_change(w->s, w->job, &name, tag, n, &set, w->err);
    if (st != CKPT_OK)
        return st == CKPT_NOT_FOUND ? CKPT_OK : st;
    return set ? w->each(w->arg, &name, tag) : CKPT_OK;
}

enum ckpt_status tags_each(struct store *s, const char *job, const struct ckpt_name *name,
                           enum ckpt_status (*each)(void *arg, const struct ckpt_name *name,
                                                    const char *tag),
                           void *arg, struct ckpt_err *err)
{
    struct key prefix = name ? key_tags_of(job, name) : key_tags(job);
    struct tag_walk w = { .s = s,
                          .job = job,
                          .prefix_len = strlen(prefix.text),
                          .of = name,
                          .each = each,
                          .arg = arg,
                          .err = err };
    return repo_list(s, prefix.text, false, tag_each, &w, err);
}

static enum ckpt_status tag_found(void *arg, const struct ckpt_name *name, const char *tag)
{
    (void)name, (void)tag;
    *(bool *)arg = true;
    return CKPT_CANCELLED;
}

enum ckpt_status tags_any(struct store *s, const char *job, const struct ckpt_name *name, bool *ret,
                          struct ckpt_err *err)
{
    bool found = false;
    enum ckpt_status st = tags_each(s, job, name, tag_found, &found, err);
    if (st == CKPT_OK)
        *ret = found;
    return st;
}

/* ---- changing ---- */

/* The newest change of one tag: *ret_n = 0 and not set when there is none. */
static enum ckpt_status look(struct store *s, const char *job, const struct ckpt_name *name,
                             const char *tag, uint64_t *ret_n, bool *ret_set, struct ckpt_err *err)
{
    struct key log = key_tag(job, name, tag, 0);
    log.text[strlen(log.text) - 16] = 0; /* up to its last '/' */
    enum ckpt_status st = repo_log_newest(s, log.text, ret_n, err);
    *ret_set = false;
    return st == CKPT_OK && *ret_n ? read_change(s, job, name, tag, *ret_n, ret_set, err) : st;
}

/* Puts change n if absent.  CKPT_CONFLICT, without words: somebody else has put n. */
static enum ckpt_status append(struct store *s, const char *job, const struct ckpt_name *name,
                               const char *tag, uint64_t n, bool set, struct ckpt_err *err)
{
    struct record_tag r = { .set = set };
    struct key key = key_tag(job, name, tag, n);
    CLEANUP_BUF struct buf b = { 0 };
    struct ckpt_err lost = { 0 };
    enum ckpt_status st = store_now(s, &r.time_ns, err);
    if (st != CKPT_OK)
        return st;
    snprintf(r.tag, sizeof(r.tag), "%s", tag);
    record_tag_encode(&r, key.text, &b);
    st = repo_put(s, &key, &b, &lost);
    if (st == CKPT_OK || st == CKPT_CONFLICT)
        return st;
    return err_set(err, st, "%s", err_text(&lost));
}

/* Until the newest change says `set`; *ret_changed tells whether that was us. */
static enum ckpt_status change(struct store *s, const char *job, const struct ckpt_name *name,
                               const char *tag, bool set, bool *ret_changed, struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_CONFLICT;
    *ret_changed = false;
    while (st == CKPT_CONFLICT) {
        uint64_t n = 0;
        bool now = false;
        st = look(s, job, name, tag, &n, &now, err);
        if (st != CKPT_OK || now == set)
            return st;
        st = append(s, job, name, tag, n + 1, set, err);
        *ret_changed = st == CKPT_OK;
    }
    return st;
}

static enum ckpt_status need_live(struct store *s, const char *job, const struct ckpt_name *name,
                                  struct ckpt_err *err)
{
    enum publish_state state;
    enum life life;
    uint64_t n;
    enum ckpt_status st = life_look(s, job, name, false, &life, &n, NULL, err);
    if (st == CKPT_OK)
        st = publish_look(s, job, name, &state, NULL, err);
    if (st != CKPT_OK)
        return st;
    if (life == LIFE_GONE || state != PUBLISH_COMMITTED)
        return err_set(err, CKPT_NOT_FOUND,
                       "%s has no checkpoint of step %" PRIu64 " in epoch %" PRIu64, job,
                       name->step, name->epoch);
    if (life == LIFE_DELETED)
        return err_set(err, CKPT_REFUSED,
                       "step %" PRIu64 " of epoch %" PRIu64 " is deleted: undelete it first",
                       name->step, name->epoch);
    return CKPT_OK;
}

/* The tag stands.  Who deletes from now on sees it; who deleted before did not see us. */
static enum ckpt_status hold(struct store *s, const char *job, const struct ckpt_name *name,
                             const char *tag, struct ckpt_err *err)
{
    struct ckpt_err why = { 0 };
    bool changed;
    enum ckpt_status st = life_undelete(s, job, name, "it was tagged", &why);
    if (st == CKPT_OK)
        return CKPT_OK;
    if (st != CKPT_NOT_FOUND)
        return err_set(err, st, "%s", err_text(&why));
    st = change(s, job, name, tag, false, &changed, err);
    return st == CKPT_OK ? err_set(err, CKPT_NOT_FOUND, "%s", err_text(&why)) : st;
}

enum ckpt_status tags_set(struct store *s, const char *job, const struct ckpt_name *name,
                          const char *tag, struct ckpt_err *err)
{
    bool changed;
    enum ckpt_status st = tag_check(tag, err);
    if (st == CKPT_OK)
        st = need_live(s, job, name, err);
    if (st == CKPT_OK)
        st = change(s, job, name, tag, true, &changed, err);
    return st == CKPT_OK ? hold(s, job, name, tag, err) : st;
}

enum ckpt_status tags_unset(struct store *s, const char *job, const struct ckpt_name *name,
                            const char *tag, struct ckpt_err *err)
{
    bool changed = false;
    enum ckpt_status st = tag_check(tag, err);
    if (st == CKPT_OK)
        st = change(s, job, name, tag, false, &changed, err);
    if (st == CKPT_OK && !changed)
        return err_set(err, CKPT_NOT_FOUND,
                       "step %" PRIu64 " of epoch %" PRIu64 " has no tag \"%s\"", name->step,
                       name->epoch, tag);
    return st;
}
