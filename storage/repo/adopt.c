/* Records that one store takes over from another. */
#include "storage/repo/adopt.h"

#include <inttypes.h>
#include <stdio.h>

#include "storage/repo/launch.h"
#include "storage/repo/life.h"

/* --- two homes ------------------------------------------------------------------- */

/* *ret: 0 = one of them is missing, 1 = equal, 2 = different. */
static enum ckpt_status compare(struct store *a, struct store *b, const struct key *key, int *ret,
                                struct ckpt_err *err)
{
    CLEANUP_FREE void *in_a = NULL, *in_b = NULL;
    size_t len_a = 0, len_b = 0;
    enum ckpt_status st = repo_get(a, key, &in_a, &len_a, err);
    if (st == CKPT_OK)
        st = repo_get(b, key, &in_b, &len_b, err);
    *ret = 0;
    if (st == CKPT_NOT_FOUND)
        return CKPT_OK;
    if (st == CKPT_OK)
        *ret = len_a == len_b && memcmp(in_a, in_b, len_a) == 0 ? 1 : 2;
    return st;
}

enum ckpt_status adopt_check_epoch(struct store *home, struct store *tier, const char *job,
                                   uint64_t epoch, struct ckpt_err *err)
{
    struct key claim = key_claim(job, epoch), resolved = key_resolved(job, epoch);
    struct record_resolved mine;
    struct ckpt_err why = { 0 };
    int claims, decisions;
    enum ckpt_status st = compare(home, tier, &claim, &claims, err);
    if (st != CKPT_OK || claims < 2)
        return st;
    st = compare(home, tier, &resolved, &decisions, err);
    if (st != CKPT_OK || decisions == 1)
        return st;
    st = launch_resolved(home, job, epoch, &mine, &why);
    if (st == CKPT_NOT_FOUND)
        return CKPT_OK;
    if (st != CKPT_OK)
        return err_set(err, st, "%s", err_text(&why));
    bool led_to_nothing = mine.kind == RESOLVED_SUPERSEDED;
    record_resolved_fini(&mine);
    if (led_to_nothing)
        return CKPT_OK;
    return err_set(err, CKPT_CONFLICT,
                   "two homes: launch %" PRIu64 " of job %s in %s is another than in %s; give one "
                   "of the jobs another name or another store",
                   epoch, job, home->url, tier->url);
}

/* --- what is missing ------------------------------------------------------------- */

struct keys { /* in byte order, as listings come */
    char (*list)[KEY_MAX];
    size_t count, cap;
    struct ckpt_err *err;
};

static enum ckpt_status add_key(void *arg, const struct store_entry *e)
{
    struct keys *k = arg;
    if (strlen(e->key) >= KEY_MAX) /* a stranger's */
        return CKPT_OK;
    if (k->count == k->cap) {
        size_t cap = k->cap ? 2 * k->cap : 64;
        void *grown = realloc(k->list, cap * sizeof(*k->list));
        if (!grown)
            return err_set(k->err, CKPT_NO_MEMORY, "no memory to list %s", e->key);
        k->list = grown;
        k->cap = cap;
    }
    snprintf(k->list[k->count++], KEY_MAX, "%s", e->key);
    return CKPT_OK;
}

static int order_keys(const void *a, const void *b)
{
    return strcmp(a, b);
}

struct missing {
    struct keys have, want;
    struct store *from, *to;
    const char *job; /* NULL, or of launches, for a home: the newest that both have is compared */
    size_t prefix_len;
    struct ckpt_err *err;
};

/* Launches that both know are the same, if the newest of them is: behind different ones each
 * home has gone on with its own. */
static enum ckpt_status compare_newest(struct missing *m, const char *key)
{
    uint64_t epoch;
    const char *what = m->job ? launch_key_what(key + m->prefix_len, &epoch) : NULL;
    if (!what || strcmp(what, "claim") != 0)
        return CKPT_OK;
    const char *job = m->job;
    m->job = NULL;
    return adopt_check_epoch(m->to, m->from, job, epoch, m->err);
}

enum ckpt_status adopt_record(struct store *from, struct store *to, const struct key *key,
                              bool *ret_there, struct ckpt_err *err)
{
    CLEANUP_FREE void *bytes = NULL;
    size_t len = 0;
    *ret_there = false;
    enum ckpt_status st = repo_get(from, key, &bytes, &len, err);
    if (st == CKPT_NOT_FOUND)
        return CKPT_OK;
    if (st == CKPT_OK && record_kind_of(bytes, len) == 0)
        return err_set(err, CKPT_CORRUPT, "%s in %s is no record", key->text, from->url);
    if (st == CKPT_OK)
        st = store_put_record(to, key->text, bytes, len, err);
    *ret_there = st == CKPT_OK;
    return st;
}

static enum ckpt_status find_missing(void *arg, const struct store_entry *e)
{
    struct missing *m = arg;
    if (strlen(e->key) < KEY_MAX && m->have.count &&
        bsearch(e->key, m->have.list, m->have.count, sizeof(*m->have.list), order_keys))
        return compare_newest(m, e->key);
    return add_key(&m->want, e);
}

/* A damaged record is not passed on, and one that was put meanwhile stays: both are for
 * whoever reads it. */
static enum ckpt_status copy_missing(const struct missing *m)
{
    for (size_t i = 0; i < m->want.count; i++) {
        struct key key;
        struct ckpt_err why = { 0 };
        bool there;
        memcpy(key.text, m->want.list[i], sizeof(key.text));
        enum ckpt_status st = adopt_record(m->from, m->to, &key, &there, &why);
        if (st != CKPT_OK && st != CKPT_CONFLICT && st != CKPT_CORRUPT)
            return err_set(m->err, st, "%s", err_text(&why));
    }
    return CKPT_OK;
}

static enum ckpt_status copy_prefix_of(struct store *from, struct store *to, const char *prefix,
                                       const char *job, struct ckpt_err *err)
{
    struct missing m = { .have = { .err = err },
                         .want = { .err = err },
                         .from = from,
                         .to = to,
                         .job = job,
                         .prefix_len = strlen(prefix),
                         .err = err };
    enum ckpt_status st = repo_list(to, prefix, false, add_key, &m.have, err);
    if (st == CKPT_OK)
        st = repo_list(from, prefix, false, find_missing, &m, err);
    if (st == CKPT_OK)
        st = copy_missing(&m);
    free(m.have.list);
    free(m.want.list);
    return st;
}

static enum ckpt_status copy_prefix(struct store *from, struct store *to, const char *prefix,
                                    struct ckpt_err *err)
{
    return copy_prefix_of(from, to, prefix, NULL, err);
}

enum ckpt_status adopt_launches(struct store *from, struct store *to, const char *job,
                                struct ckpt_err *err)
{
    return copy_prefix(from, to, key_launches(job).text, err);
}

enum ckpt_status adopt_tags(struct store *from, struct store *to, const char *job,
                            struct ckpt_err *err)
{
    return copy_prefix(from, to, key_tags(job).text, err);
}

/* --- what a tier holds ----------------------------------------------------------- */

struct copies { /* names whose own copy this tier has given up */
    struct roster *held;
    struct store *s;
    const char *job;
    size_t prefix_len;
    struct ckpt_err *err;
};

static void forget(struct roster *r, const struct ckpt_name *name)
{
    size_t kept = 0;
    for (size_t i = 0; i < r->count; i++)
        if (!name_equal(&r->entries[i].name, name))
            r->entries[kept++] = r->entries[i];
    r->count = kept;
}

static enum ckpt_status look_and_forget(struct copies *c, const struct ckpt_name *name, bool copy)
{
    enum life life;
    uint64_t n;
    enum ckpt_status st = life_look(c->s, c->job, name, copy, &life, &n, NULL, c->err);
    if (st == CKPT_OK && life != LIFE_LIVE)
        forget(c->held, name);
    return st;
}

static enum ckpt_status each_log(void *arg, const struct store_entry *e)
{
    struct copies *c = arg;
    const char *at = e->key + c->prefix_len;
    struct ckpt_name name;
    size_t len = strlen(at);
    if (len < NAME_TEXT - 1 || !name_parse(at, NAME_TEXT - 1, &name))
        return CKPT_OK;
    if (!roster_find(c->held, &name))
        return CKPT_OK;
    at += NAME_TEXT - 1;
    if (strcmp(at, "/") != 0 && strcmp(at, ".h/") != 0)
        return CKPT_OK;
    return look_and_forget(c, &name, at[0] == '.');
}

enum ckpt_status adopt_held(struct store *tier, const char *job, struct roster *ret,
                            struct ckpt_err *err)
{
    struct roster held = { 0 };
    struct key lives = key_lives(job);
    struct copies c = {
        .held = &held, .s = tier, .job = job, .prefix_len = strlen(lives.text), .err = err
    };
    enum ckpt_status st = roster_helds(tier, job, &held, err);
    if (st == CKPT_OK)
        st = repo_list(tier, lives.text, true, each_log, &c, err);
    if (st == CKPT_OK)
        *ret = held;
    else
        roster_fini(&held);
    return st;
}

/* --- the home -------------------------------------------------------------------- */

/* The log before the commit: what is DELETED must not come alive for a moment. */
static enum ckpt_status adopt_commit(struct store *tier, struct store *home, const char *job,
                                     const struct ckpt_name *name, struct ckpt_err *err)
{
    enum life here, there;
    uint64_t n;
    bool found;
    enum ckpt_status st = life_look(tier, job, name, false, &there, &n, NULL, err);
    if (st == CKPT_OK)
        st = life_look(home, job, name, false, &here, &n, NULL, err);
    if (st != CKPT_OK || there == LIFE_GONE || here == LIFE_GONE)
        return st;
    st = copy_prefix(tier, home, key_life_of(job, name, false).text, err);
    struct key key = key_commit(job, name);
    struct ckpt_err why = { 0 };
    if (st == CKPT_OK) {
        st = adopt_record(tier, home, &key, &found, &why);
        if (st == CKPT_CONFLICT ||
            st == CKPT_CORRUPT) /* decided here meanwhile; or damaged there */
            st = CKPT_OK;
        else if (st != CKPT_OK)
            return err_set(err, st, "%s", err_text(&why));
    }
    return st;
}

static enum ckpt_status adopt_commits(struct store *tier, struct store *home, const char *job,
                                      struct ckpt_err *err)
{
    CLEANUP_ROSTER struct roster there = { 0 };
    CLEANUP_ROSTER struct roster here = { 0 };
    enum ckpt_status st = roster_commits(tier, job, &there, err);
    if (st == CKPT_OK)
        st = roster_commits(home, job, &here, err);
    for (size_t i = 0; st == CKPT_OK && i < there.count; i++)
        if (!roster_find(&here, &there.entries[i].name))
            st = adopt_commit(tier, home, job, &there.entries[i].name, err);
    return st;
}

enum ckpt_status adopt_job(struct store *tier, struct store *home, const char *job,
                           struct roster *ret_held, struct ckpt_err *err)
{
    struct roster held = { 0 };
    enum ckpt_status st = job_name_check(job, err);
    if (st == CKPT_OK)
        st = adopt_held(tier, job, &held, err);
    if (st == CKPT_OK)
        st = copy_prefix_of(tier, home, key_launches(job).text, job, err);
    if (st == CKPT_OK)
        st = adopt_tags(tier, home, job, err);
    if (st == CKPT_OK)
        st = adopt_commits(tier, home, job, err);
    if (st == CKPT_OK)
        *ret_held = held;
    else
        roster_fini(&held);
    return st;
}
