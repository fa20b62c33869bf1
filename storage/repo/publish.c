/* What makes a checkpoint exist.  Everything before the put of c/<name> may be done by
 * several committers at once, and again after a crash: they write the same bytes.
 *
 *   manifests ─► merge ─► cover, parent's names, witnesses ─► index segments ─► sync
 *     ─► life log ─► c/ (put if absent: the one decision) ─► h/ */
#include "storage/repo/publish.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>

#include "storage/repo/life.h"
#include "storage/repo/publish_merge.h"
#include "storage/repo/reader.h"

#define VANISHED_NAMED 5 /* tensors named in the message */

/* --- what is decided ------------------------------------------------------------ */

static enum ckpt_status look(struct store *s, const char *job, const struct ckpt_name *name,
                             enum publish_state *ret, struct record_commit *ret_commit,
                             struct record_abort *ret_abort, struct ckpt_err *err)
{
    struct key key = key_commit(job, name);
    CLEANUP_FREE void *bytes = NULL;
    size_t len = 0;
    enum ckpt_status st = repo_get(s, &key, &bytes, &len, err);
    if (st == CKPT_NOT_FOUND) {
        *ret = PUBLISH_UNDECIDED;
        return CKPT_OK;
    }
    if (st != CKPT_OK)
        return st;
    if (record_kind_of(bytes, len) == RECORD_ABORT) {
        st = record_abort_decode(bytes, len, key.text, ret_abort, err);
        if (st == CKPT_OK)
            *ret = PUBLISH_ABORTED;
        return st;
    }
    st = record_commit_decode(bytes, len, key.text, ret_commit, err);
    if (st == CKPT_OK)
        *ret = PUBLISH_COMMITTED;
    return st;
}

enum ckpt_status publish_look(struct store *s, const char *job, const struct ckpt_name *name,
                              enum publish_state *ret, struct record_abort *ret_abort,
                              struct ckpt_err *err)
{
    struct record_commit commit;
    struct record_abort abort_record;
    enum publish_state state;
    enum ckpt_status st = look(s, job, name, &state, &commit, &abort_record, err);
    if (st != CKPT_OK)
        return st;
    if (state == PUBLISH_ABORTED && ret_abort)
        *ret_abort = abort_record;
    *ret = state;
    return CKPT_OK;
}

enum ckpt_status publish_missing(struct store *s, const char *job, const struct ckpt_name *name,
                                 uint32_t world, uint32_t from, uint32_t *ret_rank,
                                 struct ckpt_err *err)
{
    for (; from < world; from++) {
        struct key key = key_manifest(job, name, from);
        struct store_stat stat;
        struct ckpt_err why = { 0 };
        enum ckpt_status st = store_stat(s, key.text, &stat, &why);
        if (st == CKPT_NOT_FOUND)
            break;
        if (st != CKPT_OK)
            return err_set(err, st, "%s", err_text(&why));
    }
    *ret_rank = from;
    return CKPT_OK;
}

enum ckpt_status publish_abort(struct store *s, const char *job, const struct ckpt_name *name,
                               const struct record_abort *why, struct ckpt_err *err)
{
    struct key key = key_commit(job, name);
    CLEANUP_BUF struct buf b = { 0 };
    record_abort_encode(why, key.text, &b);
    struct ckpt_err lost = { 0 };
    enum ckpt_status st = repo_put(s, &key, &b, &lost);
    if (st != CKPT_CONFLICT)
        return st == CKPT_OK ? st : err_set(err, st, "%s", err_text(&lost));
    enum publish_state state;
    st = publish_look(s, job, name, &state, NULL, err);
    if (st != CKPT_OK)
        return st;
    if (state == PUBLISH_COMMITTED)
        return err_set(err, CKPT_EXISTS, "%s is committed", key.text);
    assert(state == PUBLISH_ABORTED || state == PUBLISH_UNDECIDED);
    if (state == PUBLISH_UNDECIDED) /* somebody collected it in between */
        return err_set(err, CKPT_IO, "%s came and went: try again", key.text);
    return store_sync(s, key_commits(job).text, err); /* its writer may have been killed */
}

static enum ckpt_status say_aborted(const struct key *key, const struct record_abort *a,
                                    struct ckpt_err *err)
{
    if (a->rank == UINT32_MAX)
        return err_set(err, CKPT_ABORTED, "%s: given up: %s", key->text,
                       status_sentence(a->status));
    return err_set(err, CKPT_ABORTED, "%s: given up because of rank %u: %s", key->text, a->rank,
                   status_sentence(a->status));
}

/* --- against the parent --------------------------------------------------------- */

/* A parent that is gone or damaged has no say: the new checkpoint matters more. */
static enum ckpt_status check_vanished(struct store *s, const struct merge *m, struct ckpt_err *err)
{
    if (!m->commit.has_parent || m->commit.vanished_allowed)
        return CKPT_OK;
    struct reader *r;
    struct ckpt_err why = { 0 };
    enum ckpt_status st = reader_open(&s, 1, m->job, &m->commit.parent, &r, &why);
    if (st == CKPT_NOT_FOUND || st == CKPT_ABORTED || st == CKPT_CORRUPT || st == CKPT_IO)
        return CKPT_OK;
    if (st != CKPT_OK)
        return err_set(err, st, "the parent: %s", err_text(&why));
    char names[640] = "";
    size_t len = 0;
    uint64_t gone = 0;
    for (uint64_t i = 0; st == CKPT_OK && i < reader_tensor_count(r); i++) {
        const struct index_tensor *t;
        st = reader_tensor_at(r, i, &t, &why);
        if (st != CKPT_OK || merge_find(m, t->name))
            continue;
        if (gone++ < VANISHED_NAMED && len < sizeof(names))
            len += (size_t)snprintf(names + len, sizeof(names) - len, "%s%.120s",
                                    gone > 1 ? ", " : "", t->name);
    }
    reader_close(r);
    if (st != CKPT_OK && st != CKPT_CORRUPT && st != CKPT_IO)
        return err_set(err, st, "the parent: %s", err_text(&why));
    if (gone == 0)
        return CKPT_OK;
    return err_set(err, CKPT_VANISHED,
                   "%" PRIu64 " tensors of the parent checkpoint are not in this one: %s%s", gone,
                   names, gone > VANISHED_NAMED ? ", ..." : "");
}

/* --- writing -------------------------------------------------------------------- */

/* If absent: another version of ckpt may make other bytes of the same manifests, and a commit may
 * refer to those already.  The syncs are also for the parts: a rank's writer may have been killed
 * between naming its manifest and syncing the name, and c/ must not outlive what it refers to.  A
 * crash behind this leaves segments that nobody refers to. */
static enum ckpt_status put_index(struct store *s, const struct merge *m, struct ckpt_err *err)
{
    bool used[16] = { false };
    for (uint32_t rank = 0; rank < m->commit.world; rank++)
        used[key_shard(rank)] = true;
    for (uint32_t k = 0; k < m->segment_count; k++) {
        struct key key = key_index(m->job, &m->name, k);
        enum ckpt_status st = repo_put(s, &key, &m->segments[k], err);
        if (st != CKPT_OK)
            return st;
        used[key_shard(k)] = true;
    }
    for (unsigned h = 0; h < 16; h++) {
        struct key dir = key_data(m->job, h, &m->name);
        enum ckpt_status st = used[h] ? store_sync(s, dir.text, err) : CKPT_OK;
        if (st != CKPT_OK)
            return st;
    }
    return CKPT_OK;
}

/* Rule D6: nothing is put for what was deleted. */
static enum ckpt_status look_alive(struct store *s, const char *job, const struct ckpt_name *name,
                                   bool *ret, struct ckpt_err *err)
{
    enum life life;
    uint64_t n;
    int64_t time_ns;
    enum ckpt_status st = life_look(s, job, name, false, &life, &n, &time_ns, err);
    if (st == CKPT_OK)
        *ret = life == LIFE_LIVE;
    return st;
}

/* h/ says that all parts lie here; it waits until every rank's `.h` does. */
static enum ckpt_status put_held(struct store *s, const char *job, const struct record_commit *c,
                                 bool *ret, struct ckpt_err *err)
{
    *ret = false;
    struct record_held held = { .name = c->name, .world = c->world, .time_ns = c->time_ns };
    for (uint32_t rank = 0; rank < c->world; rank++) {
        struct key key = key_rank_held(job, &c->name, rank);
        struct record_rank_held part;
        CLEANUP_FREE void *bytes = NULL;
        size_t len = 0;
        enum ckpt_status st = repo_get(s, &key, &bytes, &len, err);
        if (st == CKPT_NOT_FOUND)
            return CKPT_OK;
        if (st == CKPT_OK)
            st = record_rank_held_decode(bytes, len, key.text, &part, err);
        if (st != CKPT_OK)
            return st;
        held.stored_bytes += part.stored_bytes;
    }
    struct key key = key_held(job, &c->name);
    CLEANUP_BUF struct buf b = { 0 };
    record_held_encode(&held, key.text, &b);
    enum ckpt_status st = repo_put(s, &key, &b, err);
    *ret = st == CKPT_OK;
    return st;
}

enum ckpt_status publish_held(struct store *s, const char *job, const struct record_commit *commit,
                              bool *ret, struct ckpt_err *err)
{
    bool alive;
    *ret = false;
    enum ckpt_status st = look_alive(s, job, &commit->name, &alive, err);
    return st == CKPT_OK && alive ? put_held(s, job, commit, ret, err) : st;
}

static enum ckpt_status put_commit(struct store *s, const char *job, struct record_commit *c,
                                   struct ckpt_err *err)
{
    struct key key = key_commit(job, &c->name);
    CLEANUP_BUF struct buf b = { 0 };
    record_commit_encode(c, key.text, &b);
    struct ckpt_err lost = { 0 };
    enum ckpt_status st = repo_put(s, &key, &b, &lost);
    if (st == CKPT_CONFLICT) {
        struct record_abort abort_record;
        struct record_commit other;
        enum publish_state state;
        if (look(s, job, &c->name, &state, &other, &abort_record, NULL) == CKPT_OK &&
            state == PUBLISH_ABORTED)
            return say_aborted(&key, &abort_record, err);
    }
    return st == CKPT_OK ? st : err_set(err, st, "%s", err_text(&lost));
}

/* The part of a rank failed: the attempt is given up at once, by whoever sees it. */
static enum ckpt_status abort_failed(struct store *s, const struct merge *m, struct ckpt_err *err)
{
    const struct record_abort why = { .status = m->fail_status,
                                      .rank = m->fail_rank,
                                      .by_epoch = m->name.epoch };
    struct ckpt_err lost = { 0 };
    enum ckpt_status st = publish_abort(s, m->job, &m->name, &why, &lost);
    if (st == CKPT_OK)
        return CKPT_ABORTED; /* the text is the part's own */
    *err = lost;
    return st;
}

/* Everything up to the decision. */
static enum ckpt_status prepare(struct store *s, struct merge *m, struct ckpt_err *err)
{
    enum ckpt_status st = merge_check_witnesses(m, s, err);
    if (st == CKPT_OK)
        st = check_vanished(s, m, err);
    if (st == CKPT_OK)
        st = merge_finish(m, err);
    return st == CKPT_OK ? put_index(s, m, err) : st;
}

static enum ckpt_status decide(struct store *s, const char *job, struct record_commit *c,
                               bool decided, struct ckpt_err *err)
{
    bool alive;
    enum ckpt_status st = look_alive(s, job, &c->name, &alive, err);
    if (st != CKPT_OK)
        return st;
    if (!alive)
        return decided ? CKPT_OK
                       : err_set(err, CKPT_ABORTED, "%s: deleted before it was committed",
                                 key_commit(job, &c->name).text);
    /* Who put it may have been killed before it was named for good. */
    st = decided ? store_sync(s, key_commits(job).text, err) : put_commit(s, job, c, err);
    /* A crash here leaves a commit without h/: whoever publishes again puts it. */
    bool held;
    return st == CKPT_OK ? put_held(s, job, c, &held, err) : st;
}

/* From the parts to all that the decision refers to. */
static enum ckpt_status make(struct store *s, const char *job, const struct ckpt_name *name,
                             uint32_t world, struct record_commit *ret, struct ckpt_err *err)
{
    struct merge m;
    enum ckpt_status st = merge_all(&m, s, job, name, world, err);
    if (st == CKPT_ABORTED)
        st = abort_failed(s, &m, err);
    if (st == CKPT_OK)
        st = prepare(s, &m, err);
    *ret = m.commit;
    merge_fini(&m);
    return st;
}

enum ckpt_status publish(struct store *s, const char *job, const struct ckpt_name *name,
                         uint32_t world, struct record_commit *ret, struct ckpt_err *err)
{
    struct ckpt_err own = { 0 };
    struct record_commit commit;
    struct record_abort abort_record;
    enum publish_state state;
    if (!err)
        err = &own;
    enum ckpt_status st = look(s, job, name, &state, &commit, &abort_record, err);
    if (st != CKPT_OK)
        return st;
    if (state == PUBLISH_ABORTED) {
        struct key key = key_commit(job, name);
        return say_aborted(&key, &abort_record, err);
    }
    if (state == PUBLISH_UNDECIDED) {
        struct ckpt_err why = { 0 };
        st = make(s, job, name, world, &commit, &why);
        /* Another index lies there.  If it was committed meanwhile, that is the checkpoint. */
        if (st == CKPT_CONFLICT &&
            look(s, job, name, &state, &commit, &abort_record, NULL) == CKPT_OK &&
            state == PUBLISH_COMMITTED)
            st = CKPT_OK;
        if (st != CKPT_OK)
            st = err_set(err, st, "%s", err_text(&why));
    }
    if (st == CKPT_OK)
        st = decide(s, job, &commit, state == PUBLISH_COMMITTED, err);
    if (st == CKPT_OK)
        *ret = commit;
    return st;
}
