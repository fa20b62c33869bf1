/* What a store holds, for people: one listing each of l/ c/ x/ h/ t/ and the records that are
 * asked for. */
#include "storage/repo/catalog.h"

#include <inttypes.h>
#include <stdio.h>

#include "storage/repo/launch.h"
#include "storage/repo/life.h"
#include "storage/repo/roster.h"
#include "storage/repo/spread.h"
#include "storage/repo/tags.h"

/* Records are read on threads when there are many; with a shared place each costs a round trip,
 * which is longer than it takes to start a thread with its connection. */
#define THREADS             8
#define THREADS_FROM        512
#define THREADS_FROM_SHARED 32

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
    const struct catalog_wish *wish;
    struct catalog *c;
    struct lineage l;
    bool *on_branch; /* per commit of l */
    bool *vanished;  /* per entry: gc took it since it was listed */
    struct launch_listings at;
    struct ckpt_err *err;
};

_Static_assert(offsetof(struct catalog_entry, name) == 0 &&
                   offsetof(struct lineage_commit, name) == 0,
               "roster_search");

static enum ckpt_status keep_tag(void *arg, const struct ckpt_name *name, const char *tag)
{
    struct building *b = arg;
    struct catalog_entry *e =
        roster_search(b->c->entries, b->c->count, sizeof(*b->c->entries), name);
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
    return roster_search(l->commits, l->commit_count, sizeof(*l->commits), name);
}

/* Reads c/<name>; CKPT_NOT_FOUND when gc took it since it was listed. */
static enum ckpt_status read_decision(const struct building *b, struct store *s,
                                      struct catalog_entry *e, struct ckpt_err *err)
{
    const struct roster_entry *listed = roster_find(&b->at.commits, &e->name);
    struct key key = key_commit(b->job, &e->name);
    CLEANUP_FREE void *bytes = NULL;
    size_t len = 0;
    enum ckpt_status st = repo_get_listed(s, &key, listed->stat.bytes, &bytes, &len, err);
    if (st != CKPT_OK)
        return st;
    if (e->state == CATALOG_ABORTED)
        return record_abort_decode(bytes, len, key.text, &e->abort, err);
    return record_commit_decode(bytes, len, key.text, &e->commit, err);
}

/* What it takes here: h/ says so; without it, the sum of what each rank's packs take. */
static enum ckpt_status read_sizes(const struct building *b, struct store *s,
                                   struct catalog_entry *e, struct ckpt_err *err)
{
    enum ckpt_status looked =
        roster_stored(s, b->job, &b->at.helds, &e->name, &e->stored_bytes, err);
    if (looked != CKPT_NOT_FOUND && looked != CKPT_CORRUPT)
        return looked;
    uint64_t sum = 0;
    for (uint32_t rank = 0; rank < e->commit.world; rank++) {
        struct key key = key_rank_held(b->job, &e->name, rank);
        CLEANUP_FREE void *bytes = NULL;
        size_t len = 0;
        struct record_rank_held held;
        enum ckpt_status st = repo_get(s, &key, &bytes, &len, err);
        if (st == CKPT_NOT_FOUND) /* not held here: the size stays unknown */
            return CKPT_OK;
        if (st == CKPT_OK)
            st = record_rank_held_decode(bytes, len, key.text, &held, err);
        if (st != CKPT_OK)
            return st;
        sum += held.stored_bytes;
    }
    e->stored_bytes = sum;
    return CKPT_OK;
}

/* ---- which there are ---- */

static struct catalog_entry *append(struct building *b, const struct ckpt_name *name,
                                    enum catalog_state state)
{
    struct catalog_entry *e = &b->c->entries[b->c->count++];
    *e = (struct catalog_entry){ .name = *name, .state = state, .stored_bytes = UINT64_MAX };
    return e;
}

/* Checkpoints that are live or deleted. */
static void add_commits(struct building *b)
{
    for (size_t i = 0; i < b->l.commit_count; i++) {
        const struct lineage_commit *c = &b->l.commits[i];
        bool live = c->life == LIFE_LIVE;
        if (!(b->wish->flags & CATALOG_ALL) && (!live || !b->on_branch[i]))
            continue;
        struct catalog_entry *e = append(b, &c->name, live ? CATALOG_LIVE : CATALOG_DELETED);
        e->on_lineage = b->on_branch[i];
        e->held = c->restorable;
        e->dropped = !e->held && roster_find(&b->at.copies, &c->name);
    }
}

/* What is decided but is no checkpoint (any more). */
static void add_rest(struct building *b)
{
    for (size_t i = 0; i < b->at.commits.count; i++) {
        const struct roster_entry *r = &b->at.commits.entries[i];
        if (roster_is_abort(r))
            append(b, &r->name, CATALOG_ABORTED);
        else if (!live_commit(&b->l, &r->name))
            append(b, &r->name, CATALOG_GONE);
    }
    /* c/ goes before the log does. */
    for (size_t i = 0; i < b->at.lives.count; i++) {
        const struct ckpt_name *name = &b->at.lives.entries[i].name;
        if (!roster_find(&b->at.commits, name) && !live_commit(&b->l, name))
            append(b, name, CATALOG_GONE);
    }
}

/* ---- what their records say ---- */

/* Entries are read on several threads: what it takes is in `b`, unchanged, and the entry. */
static enum ckpt_status read_entry(void *arg, struct store *s, size_t i, struct ckpt_err *err)
{
    const struct building *b = arg;
    struct catalog_entry *e = &b->c->entries[i];
    struct ckpt_err why = { 0 };
    if (e->state == CATALOG_GONE)
        return CKPT_OK;
    enum ckpt_status st = read_decision(b, s, e, &why);
    if (st == CKPT_CORRUPT) { /* shown without figures: verify says what is wrong */
        e->commit = (struct record_commit){ .name = e->name };
        return CKPT_OK;
    }
    if (st == CKPT_NOT_FOUND) {
        b->vanished[i] = e->state != CATALOG_ABORTED;
        return CKPT_OK;
    }
    if (st != CKPT_OK)
        return err_set(err, st, "%s", err_text(&why));
    bool sized = b->wish->flags & CATALOG_SIZES && e->state != CATALOG_ABORTED;
    return sized ? read_sizes(b, s, e, err) : CKPT_OK;
}

static enum ckpt_status read_entries(struct building *b)
{
    size_t kept = 0, count = b->c->count;
    size_t from = store_url_shared(b->s->url) ? THREADS_FROM_SHARED : THREADS_FROM;
    unsigned threads = count < from ? 1 : THREADS;
    enum ckpt_status st = spread_run(b->s, threads, count, read_entry, b, b->err);
    if (st != CKPT_OK)
        return st;
    for (size_t i = 0; i < count; i++)
        if (!b->vanished[i])
            b->c->entries[kept++] = b->c->entries[i];
    b->c->count = kept;
    return CKPT_OK;
}

static int order_entries(const void *a, const void *b)
{
    return roster_order(&((const struct catalog_entry *)a)->name,
                        &((const struct catalog_entry *)b)->name);
}

/* Leaves what was wished for. */
static void narrow(struct catalog *c, const struct catalog_wish *wish)
{
    size_t kept = 0;
    for (size_t i = 0; i < c->count; i++)
        if (!wish->only || name_equal(&c->entries[i].name, wish->only))
            c->entries[kept++] = c->entries[i];
    c->count = wish->newest ? min_u64(kept, wish->newest) : kept;
}

static enum ckpt_status build(struct building *b)
{
    unsigned flags = b->wish->flags;
    enum ckpt_status st = launch_branch_listed(b->s, b->job, &b->l, &b->at, b->err);
    if (st != CKPT_OK)
        return st;
    size_t max = b->l.commit_count;
    if (flags & CATALOG_ALL)
        max += b->at.commits.count + b->at.lives.count;
    b->c->entries = calloc(max + 1, sizeof(*b->c->entries));
    b->on_branch = calloc(b->l.commit_count + 1, sizeof(*b->on_branch));
    b->vanished = calloc(max + 1, sizeof(*b->vanished));
    if (!b->c->entries || !b->on_branch || !b->vanished ||
        !lineage_mark_branch(&b->l, b->on_branch))
        return err_set(b->err, CKPT_NO_MEMORY, "no memory for %zu checkpoints", max);
    add_commits(b);
    if (flags & CATALOG_ALL)
        add_rest(b);
    qsort(b->c->entries, b->c->count, sizeof(*b->c->entries), order_entries);
    narrow(b->c, b->wish);
    st = read_entries(b);
    if (st != CKPT_OK || !(flags & CATALOG_TAGS))
        return st;
    return tags_each(b->s, b->job, b->wish->only, keep_tag, b, b->err);
}

enum ckpt_status catalog_read(struct store *s, const char *job, unsigned flags, struct catalog *ret,
                              struct ckpt_err *err)
{
    const struct catalog_wish wish = { .flags = flags };
    return catalog_read_some(s, job, &wish, ret, err);
}

enum ckpt_status catalog_read_some(struct store *s, const char *job,
                                   const struct catalog_wish *wish, struct catalog *ret,
                                   struct ckpt_err *err)
{
    struct catalog c = { 0 };
    struct building b = { .s = s, .job = job, .wish = wish, .c = &c, .err = err };
    enum ckpt_status st = job_name_check(job, err);
    if (st == CKPT_OK)
        st = build(&b);
    lineage_fini(&b.l);
    launch_listings_fini(&b.at);
    free(b.on_branch);
    free(b.vanished);
    if (st != CKPT_OK) {
        catalog_fini(&c);
        return st;
    }
    *ret = c;
    return CKPT_OK;
}
