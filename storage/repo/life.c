/* The life of a commit: a log that delete and undelete append to (rules D1, D2, D6).
 *
 * Nobody holds a lock.  An entry is put if-absent at n+1, so of two writers one loses and
 * looks again; and whoever deletes looks afterwards whether a launch has meanwhile
 * resolved to what it deleted, as the resolver looks for DELETED after it wrote
 * `resolved`: whichever comes second sees the other. */
#include "storage/repo/life.h"

#include <inttypes.h>
#include <stdio.h>

#include "storage/repo/launch.h"
#include "storage/repo/life_log.h"
#include "storage/repo/publish.h"
#include "storage/repo/tags.h"

enum ckpt_status life_read(struct store *s, const char *job, const struct ckpt_name *name,
                           bool copy, uint64_t n, struct record_life *ret, struct ckpt_err *err)
{
    struct key key = key_life(job, name, copy, n);
    CLEANUP_FREE void *bytes = NULL;
    size_t len = 0;
    enum ckpt_status st = repo_get(s, &key, &bytes, &len, err);
    return st == CKPT_OK ? record_life_decode(bytes, len, key.text, ret, err) : st;
}

enum ckpt_status life_look(struct store *s, const char *job, const struct ckpt_name *name,
                           bool copy, enum life *ret, uint64_t *ret_n, int64_t *ret_time_ns,
                           struct ckpt_err *err)
{
    for (int tries = 0; tries < 3; tries++) {
        uint64_t n = 0;
        struct record_life r = { .life = LIFE_LIVE };
        enum ckpt_status st = repo_log_newest(s, key_life_of(job, name, copy).text, &n, err);
        if (st == CKPT_OK && n)
            st = life_read(s, job, name, copy, n, &r, err);
        if (st == CKPT_NOT_FOUND) /* listed, and gc forgot the log since */
            continue;
        if (st != CKPT_OK)
            return st;
        *ret = r.life;
        *ret_n = n;
        if (ret_time_ns)
            *ret_time_ns = r.time_ns;
        return CKPT_OK;
    }
    return err_set(err, CKPT_BUSY, "%s changes while it is read",
                   key_life_of(job, name, copy).text);
}

enum ckpt_status life_put(struct store *s, const struct key *key, enum life life, const char *why,
                          struct ckpt_err *err)
{
    struct record_life r = { .life = life };
    CLEANUP_BUF struct buf b = { 0 };
    struct ckpt_err lost = { 0 };
    enum ckpt_status st = store_now(s, &r.time_ns, err);
    if (st != CKPT_OK)
        return st;
    snprintf(r.why, sizeof(r.why), "%s", why ? why : "");
    record_life_encode(&r, key->text, &b);
    st = repo_put(s, key, &b, &lost);
    if (st == CKPT_OK || st == CKPT_CONFLICT)
        return st;
    return err_set(err, st, "%s", err_text(&lost));
}

enum ckpt_status life_append(struct store *s, const char *job, const struct ckpt_name *name,
                             uint64_t n, enum life life, const char *why, struct ckpt_err *err)
{
    struct key key = key_life(job, name, false, n);
    return life_put(s, &key, life, why, err);
}

static enum ckpt_status need_commit(struct store *s, const char *job, const struct ckpt_name *name,
                                    struct ckpt_err *err)
{
    enum publish_state state;
    enum ckpt_status st = publish_look(s, job, name, &state, NULL, err);
    if (st != CKPT_OK || state == PUBLISH_COMMITTED)
        return st;
    return err_set(err, CKPT_NOT_FOUND,
                   "%s has no checkpoint of step %" PRIu64 " in epoch %" PRIu64, job, name->step,
                   name->epoch);
}

static enum ckpt_status refuse(const struct ckpt_name *name, const char *why, struct ckpt_err *err)
{
    return err_set(err, CKPT_REFUSED, "step %" PRIu64 " of epoch %" PRIu64 " is not deleted: %s",
                   name->step, name->epoch, why);
}

/* ---- what is never deleted (D6) ---- */

static enum ckpt_status guard_history(const struct lineage *l, const struct ckpt_name *name,
                                      struct ckpt_err *err)
{
    const struct lineage_commit *newest = lineage_newest_restorable(l);
    if (newest && name_equal(&newest->name, name))
        return refuse(name, "it is the newest checkpoint that can be restored", err);
    struct record_resolved next;
    struct ckpt_err none = { 0 };
    enum ckpt_status st = lineage_pick_next(l, &next, &none);
    if (st != CKPT_OK) /* the next launch would be refused anyway */
        return st == CKPT_REFUSED ? CKPT_OK : err_set(err, st, "%s", err_text(&none));
    bool taken = next.kind == RESOLVED_POINT && name_equal(&next.name, name);
    record_resolved_fini(&next);
    return taken ? refuse(name, "the next launch would resume from it", err) : CKPT_OK;
}

static enum ckpt_status guard(struct store *s, const char *job, const struct ckpt_name *name,
                              struct ckpt_err *err)
{
    bool named = false, tagged = false;
    enum ckpt_status st = launch_names(s, job, name, &named, err);
    if (st == CKPT_OK)
        st = tags_any(s, job, name, &tagged, err);
    if (st != CKPT_OK)
        return st;
    if (named)
        return refuse(name, "the newest launch resumed from it", err);
    if (tagged)
        return refuse(name, "it has a tag; untag it first", err);
    struct lineage l = { 0 };
    st = launch_history(s, job, &l, err);
    if (st == CKPT_OK)
        st = guard_history(&l, name, err);
    lineage_fini(&l);
    return st;
}

/* ---- delete, undelete ---- */

/* DELETED is there as entry n.  A launch that resolved meanwhile to this checkpoint, or
 * somebody who tagged it, keeps it; who loses here loses to another who brought it back or
 * who looks as well. */
static enum ckpt_status spare_if_wanted(struct store *s, const char *job,
                                        const struct ckpt_name *name, uint64_t n,
                                        struct ckpt_err *err)
{
    bool named = false, tagged = false;
    enum ckpt_status st = launch_names(s, job, name, &named, err);
    if (st == CKPT_OK && !named)
        st = tags_any(s, job, name, &tagged, err);
    if (st != CKPT_OK || (!named && !tagged))
        return st;
    st = life_append(s, job, name, n + 1, LIFE_LIVE,
                     named ? "the newest launch resumes from it" : "it has a tag", err);
    if (st != CKPT_OK && st != CKPT_CONFLICT)
        return st;
    return refuse(name, named ? "a launch resumed from it meanwhile" : "it was tagged meanwhile",
                  err);
}

enum ckpt_status life_delete(struct store *s, const char *job, const struct ckpt_name *name,
                             const char *why, struct ckpt_err *err)
{
    enum ckpt_status st = need_commit(s, job, name, err);
    bool guarded = false;
    while (st == CKPT_OK) {
        enum life life;
        uint64_t n = 0;
        st = life_look(s, job, name, false, &life, &n, NULL, err);
        if (st != CKPT_OK)
            return st;
        if (life == LIFE_GONE)
            return refuse(name, "gc is removing it already", err);
        if (life == LIFE_DELETED) /* the one who deleted may have died before it looked */
            return spare_if_wanted(s, job, name, n, err);
        st = guarded ? CKPT_OK : guard(s, job, name, err);
        guarded = true;
        if (st == CKPT_OK)
            st = life_append(s, job, name, n + 1, LIFE_DELETED, why, err);
        if (st == CKPT_OK)
            return spare_if_wanted(s, job, name, n + 1, err);
        if (st == CKPT_CONFLICT)
            st = CKPT_OK;
    }
    return st;
}

enum ckpt_status life_undelete(struct store *s, const char *job, const struct ckpt_name *name,
                               const char *why, struct ckpt_err *err)
{
    for (;;) {
        enum life life;
        uint64_t n = 0;
        enum ckpt_status st = life_look(s, job, name, false, &life, &n, NULL, err);
        if (st != CKPT_OK)
            return st;
        if (life == LIFE_GONE)
            return err_set(err, CKPT_NOT_FOUND,
                           "step %" PRIu64 " of epoch %" PRIu64 " was deleted for good", name->step,
                           name->epoch);
        /* A power cut while gc forgot a name may leave DELETED without GONE and without c/. */
        st = need_commit(s, job, name, err);
        if (st != CKPT_OK || life == LIFE_LIVE)
            return st;
        st = life_append(s, job, name, n + 1, LIFE_LIVE, why, err);
        if (st != CKPT_CONFLICT)
            return st;
    }
}
