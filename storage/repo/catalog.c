/* What a store holds, for people: one listing each of c/ x/ h/ t/ and the records that are
 * asked for. */
#include "storage/repo/catalog.h"

#include <inttypes.h>
#include <stdio.h>

#include "storage/repo/launch.h"
#include "storage/repo/life.h"
#include "storage/repo/roster.h"
#include "storage/repo/tags.h"

void catalog_fini(struct catalog *c)
{
    if (!c)
        return;
    for (size_t i = 0; i < c->count; i++)
        free(c->entries[i].tags);
    free(c->entries);
    *c = (struct catalog){ 0 };
}

/* ---- the catalog ---- */

struct building {
    struct store *s;
    const char *job;
    unsigned flags;
    struct catalog *c;
    struct lineage l;
    bool *on_branch; /* per commit of l */
    struct launch_listings at;
    struct ckpt_err *err;
};

static struct catalog_entry *entry_of(const struct catalog *c, const struct ckpt_name *name)
{
    size_t lo = 0, hi = c->count;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int order = roster_order(&c->entries[mid].name, name);
        if (order == 0)
            return &c->entries[mid];
        if (order < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

static enum ckpt_status keep_tag(void *arg, const struct ckpt_name *name, const char *tag)
{
    struct building *b = arg;
    struct catalog_entry *e = entry_of(b->c, name);
    if (!e)
        return CKPT_OK;
    void *grown = realloc(e->tags, (e->tag_count + 1) * sizeof(*e->tags));
    if (!grown)
        return err_set(b->err, CKPT_NO_MEMORY, "no memory for the tags of job %s", b->job);
    e->tags = grown;
    snprintf(e->tags[e->tag_count++], sizeof(*e->tags), "%s", tag);
    return CKPT_OK;
}

static const struct lineage_commit *live_commit(const struct lineage *l,
                                                const struct ckpt_name *name)
{
    size_t lo = 0, hi = l->commit_count;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int order = roster_order(&l->commits[mid].name, name);
        if (order == 0)
            return &l->commits[mid];
        if (order < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

/* Reads c/<name>; CKPT_NOT_FOUND when gc took it since it was listed. */
static enum ckpt_status read_decision(struct building *b, struct catalog_entry *e,
                                      struct ckpt_err *err)
{
    const struct roster_entry *listed = roster_find(&b->at.commits, &e->name);
    struct key key = key_commit(b->job, &e->name);
    CLEANUP_FREE void *bytes = NULL;
    size_t len = 0;
    enum ckpt_status st = repo_get_listed(b->s, &key, listed->stat.bytes, &bytes, &len, err);
    if (st != CKPT_OK)
        return st;
    if (e->state == CATALOG_ABORTED)
        return record_abort_decode(bytes, len, key.text, &e->abort, err);
    return record_commit_decode(bytes, len, key.text, &e->commit, err);
}

/* h/ has the sum; it may be damaged, or gone since it was listed. */
static enum ckpt_status read_held(struct building *b, struct catalog_entry *e)
{
    const struct roster_entry *listed = roster_find(&b->at.helds, &e->name);
    struct key key = key_held(b->job, &e->name);
    CLEANUP_FREE void *bytes = NULL;
    size_t len = 0;
    struct record_held held;
    struct ckpt_err why = { 0 };
    if (!listed)
        return CKPT_NOT_FOUND;
    enum ckpt_status st = repo_get_listed(b->s, &key, listed->stat.bytes, &bytes, &len, &why);
    if (st == CKPT_OK)
        st = record_held_decode(bytes, len, key.text, &held, &why);
    if (st == CKPT_OK)
        e->stored_bytes = held.stored_bytes;
    if (st == CKPT_OK || st == CKPT_NOT_FOUND || st == CKPT_CORRUPT)
        return st;
    return err_set(b->err, st, "%s", err_text(&why));
}

/* What it takes here: h/ says so; without it, the sum of what each rank's packs take. */
static enum ckpt_status read_sizes(struct building *b, struct catalog_entry *e)
{
    enum ckpt_status looked = read_held(b, e);
    if (looked != CKPT_NOT_FOUND && looked != CKPT_CORRUPT)
        return looked;
    uint64_t sum = 0;
    for (uint32_t rank = 0; rank < e->commit.world; rank++) {
        struct key key = key_rank_held(b->job, &e->name, rank);
        CLEANUP_FREE void *bytes = NULL;
        size_t len = 0;
        struct record_rank_held held;
        enum ckpt_status st = repo_get(b->s, &key, &bytes, &len, b->err);
        if (st == CKPT_NOT_FOUND) /* not held here: the size stays unknown */
            return CKPT_OK;
        if (st == CKPT_OK)
            st = record_rank_held_decode(bytes, len, key.text, &held, b->err);
        if (st != CKPT_OK)
            return st;
        sum += held.stored_bytes;
    }
    e->stored_bytes = sum;
    return CKPT_OK;
}

static void append(struct building *b, const struct catalog_entry *e)
{
    b->c->entries[b->c->count++] = *e;
}

/* A checkpoint that is live or deleted. */
static enum ckpt_status add_commit(struct building *b, size_t i)
{
    const struct lineage_commit *c = &b->l.commits[i];
    struct catalog_entry e = { .name = c->name,
                               .state = c->life == LIFE_LIVE ? CATALOG_LIVE : CATALOG_DELETED,
                               .on_lineage = b->on_branch[i],
                               .held = c->restorable,
                               .stored_bytes = UINT64_MAX };
    if (!(b->flags & CATALOG_ALL) && (c->life != LIFE_LIVE || !e.on_lineage))
        return CKPT_OK;
    struct ckpt_err why = { 0 };
    enum ckpt_status st = read_decision(b, &e, &why);
    if (st == CKPT_CORRUPT) { /* shown without figures: verify says what is wrong */
        e.commit = (struct record_commit){ .name = c->name };
        append(b, &e);
        return CKPT_OK;
    }
    if (st == CKPT_NOT_FOUND)
        return CKPT_OK;
    if (st != CKPT_OK)
        return err_set(b->err, st, "%s", err_text(&why));
    st = b->flags & CATALOG_SIZES ? read_sizes(b, &e) : CKPT_OK;
    if (st == CKPT_OK)
        append(b, &e);
    return st;
}

/* What is decided but is no checkpoint (any more). */
static enum ckpt_status add_rest(struct building *b)
{
    for (size_t i = 0; i < b->at.commits.count; i++) {
        const struct roster_entry *r = &b->at.commits.entries[i];
        struct catalog_entry e = { .name = r->name,
                                   .state = CATALOG_GONE,
                                   .stored_bytes = UINT64_MAX };
        if (roster_is_abort(r))
            e.state = CATALOG_ABORTED;
        else if (live_commit(&b->l, &r->name))
            continue;
        struct ckpt_err why = { 0 };
        enum ckpt_status st = roster_is_abort(r) ? read_decision(b, &e, &why) : CKPT_OK;
        if (st != CKPT_OK && st != CKPT_NOT_FOUND && st != CKPT_CORRUPT)
            return err_set(b->err, st, "%s", err_text(&why));
        append(b, &e);
    }
    /* c/ goes before the log does. */
    for (size_t i = 0; i < b->at.lives.count; i++) {
        struct catalog_entry e = { .name = b->at.lives.entries[i].name,
                                   .state = CATALOG_GONE,
                                   .stored_bytes = UINT64_MAX };
        if (!roster_find(&b->at.commits, &e.name) && !live_commit(&b->l, &e.name))
            append(b, &e);
    }
    return CKPT_OK;
}

static int order_entries(const void *a, const void *b)
{
    return roster_order(&((const struct catalog_entry *)a)->name,
                        &((const struct catalog_entry *)b)->name);
}

static enum ckpt_status build(struct building *b)
{
    enum ckpt_status st = launch_history_listed(b->s, b->job, &b->l, &b->at, b->err);
    if (st != CKPT_OK)
        return st;
    size_t max = b->l.commit_count;
    if (b->flags & CATALOG_ALL)
        max += b->at.commits.count + b->at.lives.count;
    b->c->entries = calloc(max + 1, sizeof(*b->c->entries));
    b->on_branch = calloc(b->l.commit_count + 1, sizeof(*b->on_branch));
    if (!b->c->entries || !b->on_branch || !lineage_mark_branch(&b->l, b->on_branch))
        return err_set(b->err, CKPT_NO_MEMORY, "no memory for %zu checkpoints", max);
    for (size_t i = 0; i < b->l.commit_count && st == CKPT_OK; i++)
        st = add_commit(b, i);
    if (st == CKPT_OK && b->flags & CATALOG_ALL)
        st = add_rest(b);
    if (st != CKPT_OK)
        return st;
    qsort(b->c->entries, b->c->count, sizeof(*b->c->entries), order_entries);
    return b->flags & CATALOG_TAGS ? tags_each(b->s, b->job, NULL, keep_tag, b, b->err) : CKPT_OK;
}

enum ckpt_status catalog_read(struct store *s, const char *job, unsigned flags, struct catalog *ret,
                              struct ckpt_err *err)
{
    struct catalog c = { 0 };
    struct building b = { .s = s, .job = job, .flags = flags, .c = &c, .err = err };
    enum ckpt_status st = job_name_check(job, err);
    if (st == CKPT_OK)
        st = build(&b);
    lineage_fini(&b.l);
    launch_listings_fini(&b.at);
    free(b.on_branch);
    if (st != CKPT_OK) {
        catalog_fini(&c);
        return st;
    }
    *ret = c;
    return CKPT_OK;
}
