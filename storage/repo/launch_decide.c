/* What a new launch does with what the old ones left (rules I2, S4, S5).
 *
 * An attempt without c/ is undecided; one without rank 0's part cannot be complete, so only where
 * that would be is looked.  All parts there: it is committed, as its own
 * committer would have done.  A part that says it failed, or parts that do not fit
 * together: ABORT.  Else it is left alone: its nodes may still bring the rest, and gc
 * gives it up later.  A commit whose committer died before h/ gets its h/. */
#include <inttypes.h>
#include <stdio.h>

#include "formats/manifest.h"
#include "storage/repo/launch.h"
#include "storage/repo/life.h"
#include "storage/repo/publish.h"
#include "storage/repo/roster.h"

#define PEEK_BYTES     64
#define HELD_TRIES_MAX 8 /* commits without h/ that a launch looks at, the newest */

struct undecided {
    struct store *s;
    const char *job;
    const struct ckpt_name *name;
    uint32_t world; /* 0 = no manifest could be read */
    bool decided;   /* committed, but without h/ */
    uint64_t epoch; /* of the launch that decides */
    size_t prefix_len;
    struct ckpt_err *err;
};

/* A manifest's header without its blocks, which may be large. */
static enum ckpt_status read_header(const struct undecided *u, const struct key *key,
                                    uint64_t bytes, struct manifest_header *ret,
                                    struct ckpt_err *err)
{
    uint8_t peek[PEEK_BYTES] = { 0 };
    struct store_range range = { .bytes = min_u64(bytes, sizeof(peek)), .base = peek };
    enum ckpt_status st = store_get(u->s, key->text, &range, 1, err);
    if (st != CKPT_OK)
        return st;
    uint32_t len = manifest_header_peek(peek, range.bytes);
    if (!len || len > MANIFEST_HEADER_BYTES_MAX || len > bytes)
        return err_set(err, CKPT_CORRUPT, "%s is no manifest", key->text);
    CLEANUP_FREE uint8_t *header = malloc(len);
    if (!header)
        return err_set(err, CKPT_NO_MEMORY, "no memory for the header of %s", key->text);
    range = (struct store_range){ .bytes = len, .base = header };
    st = store_get(u->s, key->text, &range, 1, err);
    return st == CKPT_OK ? manifest_header_decode(header, len, NULL, ret, err) : st;
}

/* True if what went wrong is the place and not the object. */
static bool out_of_reach(enum ckpt_status st)
{
    return st != CKPT_OK && st != CKPT_NOT_FOUND && st != CKPT_CORRUPT && st != CKPT_UNSUPPORTED;
}

static enum ckpt_status part_each(void *arg, const struct store_entry *e)
{
    struct undecided *u = arg;
    struct key_data_parts at = { .name = *u->name };
    if (key_parse_data(e->key + u->prefix_len, &at) != KEY_MANIFEST)
        return CKPT_OK;
    struct key key = key_manifest(u->job, u->name, at.rank);
    struct manifest_header h;
    struct ckpt_err why = { 0 };
    enum ckpt_status st = read_header(u, &key, e->stat.bytes, &h, &why);
    if (out_of_reach(st))
        return err_set(u->err, st, "%s", err_text(&why));
    if (st != CKPT_OK) /* another part may tell as well */
        return CKPT_OK;
    u->world = h.world;
    manifest_header_fini(&h);
    return CKPT_CANCELLED;
}

/* Any part that is there knows how many there must be. */
static enum ckpt_status find_world(struct undecided *u, unsigned shards)
{
    enum ckpt_status st = CKPT_OK;
    for (unsigned h = 0; h < 16 && st == CKPT_OK && !u->world; h++) {
        if (!(shards >> h & 1))
            continue;
        struct key prefix = key_data(u->job, h, u->name);
        u->prefix_len = strlen(prefix.text);
        st = repo_list(u->s, prefix.text, false, part_each, u, u->err);
    }
    return st;
}

static enum ckpt_status give_up(const struct undecided *u, enum ckpt_status because)
{
    const struct record_abort why = { .status = because, .rank = UINT32_MAX, .by_epoch = u->epoch };
    struct ckpt_err lost = { 0 };
    enum ckpt_status st = publish_abort(u->s, u->job, u->name, &why, &lost);
    if (st == CKPT_OK || st == CKPT_EXISTS)
        return CKPT_OK;
    return err_set(u->err, st, "%s", err_text(&lost));
}

/* publish() knows a failed part (ABORT) and a missing one (NOT_FOUND: left); what another version
 * of ckpt has begun to publish (CONFLICT) is left to it, and stands in no launch's way. */
static enum ckpt_status decide_one(const struct undecided *u)
{
    struct record_commit commit;
    struct ckpt_err why = { 0 };
    enum ckpt_status st = publish(u->s, u->job, u->name, u->world, &commit, &why);
    if (!u->decided && (st == CKPT_COVER || st == CKPT_MISMATCH || st == CKPT_VANISHED))
        return give_up(u, st);
    enum ckpt_class class = status_class(st);
    bool left = st == CKPT_ABORTED || st == CKPT_CONFLICT || class == CKPT_CLASS_OK ||
                class == CKPT_CLASS_CALLER ||
                class == CKPT_CLASS_CORRUPT; /* damaged: another copy may still mend it */
    return left ? CKPT_OK : err_set(u->err, st, "%s", err_text(&why));
}

/* The committer died between c/ and h/: publishing again puts h/, if all parts are here.  Where the
 * home's own copy has a log there was an h/, and it has gone since (D5). */
static enum ckpt_status finish_held(struct store *home, const char *job, uint64_t epoch,
                                    struct launch_listings *at, bool *ret_tried,
                                    struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_OK;
    unsigned tries = 0;
    for (size_t i = 0; i < at->commits.count && st == CKPT_OK && tries < HELD_TRIES_MAX; i++) {
        const struct roster_entry *e = &at->commits.entries[i];
        if (e->name.epoch >= epoch || roster_is_abort(e) || roster_find(&at->helds, &e->name))
            continue;
        st = launch_list_logs(home, job, at, err);
        if (st != CKPT_OK || roster_find(&at->copies, &e->name))
            continue;
        *ret_tried = true;
        struct undecided u = { .s = home,
                               .job = job,
                               .name = &e->name,
                               .world = 1, /* not used: the commit record knows it */
                               .decided = true,
                               .epoch = epoch,
                               .err = err };
        tries++;
        st = decide_one(&u);
    }
    return st;
}

static enum ckpt_status list_decided(struct store *home, const char *job,
                                     struct launch_listings *at, struct ckpt_err *err)
{
    enum ckpt_status st;
    launch_listings_fini(at);
    st = roster_commits(home, job, &at->commits, err);
    return st == CKPT_OK ? roster_helds(home, job, &at->helds, err) : st;
}

/* *ret_tried: something may have been decided, so that what was listed is old. */
static enum ckpt_status decide_all(struct store *home, const char *job, uint64_t epoch,
                                   struct launch_listings *at, bool *ret_tried,
                                   struct ckpt_err *err)
{
    CLEANUP_ROSTER struct roster data = { 0 };
    enum ckpt_status st = roster_data_rank0(home, job, &data, err);
    for (size_t i = 0; i < data.count && st == CKPT_OK; i++) {
        const struct roster_entry *e = &data.entries[i];
        if (e->name.epoch >= epoch || roster_find(&at->commits, &e->name))
            continue;
        *ret_tried = true;
        struct undecided u = {
            .s = home, .job = job, .name = &e->name, .epoch = epoch, .err = err
        };
        st = find_world(&u, e->shards);
        if (st == CKPT_OK && u.world)
            st = decide_one(&u);
    }
    return st == CKPT_OK ? finish_held(home, job, epoch, at, ret_tried, err) : st;
}

enum ckpt_status launch_decide(struct store *home, const char *job, uint64_t epoch,
                               struct launch_listings *ret, struct ckpt_err *err)
{
    struct launch_listings at = { 0 };
    bool tried = false;
    enum ckpt_status st = list_decided(home, job, &at, err);
    if (st == CKPT_OK)
        st = decide_all(home, job, epoch, &at, &tried, err);
    if (st == CKPT_OK && tried)
        st = list_decided(home, job, &at, err);
    if (st != CKPT_OK) {
        launch_listings_fini(&at);
        return st;
    }
    *ret = at;
    return CKPT_OK;
}

/* What the home has put out of the way stays out of the way (D6). */
static enum ckpt_status hold_one(struct store *home, struct store *tier, const char *job,
                                 const struct ckpt_name *name, bool *ret_tier, struct ckpt_err *err)
{
    struct record_commit commit;
    enum life life;
    uint64_t n;
    bool held;
    enum ckpt_status st = life_look(home, job, name, false, &life, &n, NULL, err);
    if (st != CKPT_OK || life != LIFE_LIVE)
        return st;
    struct key key = key_commit(job, name);
    CLEANUP_FREE void *bytes = NULL;
    size_t len = 0;
    st = repo_get(home, &key, &bytes, &len, err);
    if (st != CKPT_OK || record_commit_decode(bytes, len, key.text, &commit, NULL) != CKPT_OK)
        return st == CKPT_NOT_FOUND ? CKPT_OK : st; /* collected; damaged: nobody can use it */
    st = publish_held(tier, job, &commit, &held, err);
    *ret_tier = st != CKPT_OK;
    return st;
}

enum ckpt_status launch_hold(struct store *home, struct store *tier, const char *job,
                             const struct roster *commits, bool *ret_tier, struct ckpt_err *err)
{
    CLEANUP_ROSTER struct roster helds = { 0 };
    enum ckpt_status st = roster_helds(tier, job, &helds, err);
    unsigned tries = 0;
    *ret_tier = st != CKPT_OK;
    for (size_t i = 0; i < commits->count && st == CKPT_OK && tries < HELD_TRIES_MAX; i++) {
        const struct roster_entry *e = &commits->entries[i];
        if (roster_is_abort(e) || roster_find(&helds, &e->name))
            continue;
        tries++;
        st = hold_one(home, tier, job, &e->name, ret_tier, err);
    }
    return st;
}
