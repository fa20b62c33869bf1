/* Listings of a job's checkpoints as sorted arrays. */
#include "storage/repo/roster.h"

/* How the part behind the prefix of a listing is read. */
struct filling {
    struct roster *r; /* <name> */
    /* In place of it logs, the newest entry first; NULL: not asked for. */
    struct roster *lives;  /* <name>/<~n> */
    struct roster *copies; /* <name>.h/<~n> */
    size_t prefix_len;
    unsigned shard; /* d/: which one */
    struct ckpt_err *err;
};

void roster_fini(struct roster *r)
{
    if (!r)
        return;
    free(r->entries);
    *r = (struct roster){ 0 };
}

static int order_u64(uint64_t a, uint64_t b)
{
    return (a > b) - (a < b);
}

int roster_order(const struct ckpt_name *a, const struct ckpt_name *b)
{
    if (a->epoch != b->epoch)
        return order_u64(b->epoch, a->epoch);
    if (a->step != b->step)
        return order_u64(b->step, a->step);
    return order_u64(a->attempt, b->attempt);
}

/* Of names, and of what begins with one. */
static int order_names(const void *a, const void *b)
{
    return roster_order(a, b);
}

void *roster_search(const void *base, size_t count, size_t size, const struct ckpt_name *name)
{
    return count ? bsearch(name, base, count, size, order_names) : NULL;
}

const struct roster_entry *roster_find(const struct roster *r, const struct ckpt_name *name)
{
    return roster_search(r->entries, r->count, sizeof(*r->entries), name);
}

enum ckpt_status roster_stored(struct store *s, const char *job, const struct roster *helds,
                               const struct ckpt_name *name, uint64_t *ret, struct ckpt_err *err)
{
    const struct roster_entry *listed = roster_find(helds, name);
    struct key key = key_held(job, name);
    CLEANUP_FREE void *bytes = NULL;
    size_t len = 0;
    struct record_held held;
    struct ckpt_err why = { 0 };
    if (!listed)
        return CKPT_NOT_FOUND;
    enum ckpt_status st = repo_get_listed(s, &key, listed->stat.bytes, &bytes, &len, &why);
    if (st == CKPT_OK)
        st = record_held_decode(bytes, len, key.text, &held, &why);
    if (st == CKPT_OK)
        *ret = held.stored_bytes;
    if (st == CKPT_OK || st == CKPT_NOT_FOUND || st == CKPT_CORRUPT)
        return st;
    return err_set(err, st, "%s", err_text(&why));
}

static enum ckpt_status add(struct roster *r, const struct roster_entry *e, struct ckpt_err *err)
{
    if (r->count == r->cap) {
        size_t cap = r->cap ? 2 * r->cap : 64;
        struct roster_entry *grown = realloc(r->entries, cap * sizeof(*grown));
        if (!grown)
            return err_set(err, CKPT_NO_MEMORY, "no memory for %zu checkpoints", cap);
        r->entries = grown;
        r->cap = cap;
    }
    r->entries[r->count++] = *e;
    return CKPT_OK;
}

/* The newest entry of a log is listed first.  rest: behind the checkpoint's name. */
static enum ckpt_status take_log(struct filling *f, const char *rest, struct roster_entry *e)
{
    bool copy = strncmp(rest, ".h", 2) == 0;
    struct roster *r = copy ? f->copies : f->lives;
    rest += copy ? 2 : 0;
    if (!r || *rest != '/' || !key_number_parse(rest + 1, &e->n))
        return CKPT_OK;
    struct roster_entry *last = r->count ? &r->entries[r->count - 1] : NULL;
    if (!last || !name_equal(&last->name, &e->name))
        return add(r, e, f->err);
    last->older = true;
    return CKPT_OK;
}

/* What is no checkpoint's name is a stranger's: passed over. */
static enum ckpt_status take(void *arg, const struct store_entry *e)
{
    struct filling *f = arg;
    const char *at = e->key + f->prefix_len;
    size_t name_len = NAME_TEXT - 1;
    struct roster_entry entry = { .stat = e->stat, .shards = 1u << f->shard };
    if (strlen(at) < name_len || !name_parse(at, name_len, &entry.name))
        return CKPT_OK;
    const char *rest = at + name_len;
    if (!f->r)
        return take_log(f, rest, &entry);
    bool whole = e->stat.bytes == UINT64_MAX ? strcmp(rest, "/") == 0 : !*rest;
    return whole ? add(f->r, &entry, f->err) : CKPT_OK;
}

static enum ckpt_status fill(struct store *s, struct key prefix, bool one_level, struct filling *f)
{
    f->prefix_len = strlen(prefix.text);
    return repo_list(s, prefix.text, one_level, take, f, f->err);
}

static enum ckpt_status fill_one(struct store *s, struct key prefix, bool one_level,
                                 struct roster *ret, struct ckpt_err *err)
{
    struct roster r = { 0 };
    struct filling f = { .r = &r, .err = err };
    enum ckpt_status st = fill(s, prefix, one_level, &f);
    if (st != CKPT_OK) {
        roster_fini(&r);
        return st;
    }
    *ret = r;
    return CKPT_OK;
}

enum ckpt_status roster_commits(struct store *s, const char *job, struct roster *ret,
                                struct ckpt_err *err)
{
    return fill_one(s, key_commits(job), false, ret, err);
}

enum ckpt_status roster_helds(struct store *s, const char *job, struct roster *ret,
                              struct ckpt_err *err)
{
    return fill_one(s, key_helds(job), false, ret, err);
}

enum ckpt_status roster_logs(struct store *s, const char *job, struct roster *ret_lives,
                             struct roster *ret_copies, struct ckpt_err *err)
{
    struct roster lives = { 0 }, copies = { 0 };
    struct filling f = { .lives = ret_lives ? &lives : NULL,
                         .copies = ret_copies ? &copies : NULL,
                         .err = err };
    enum ckpt_status st = fill(s, key_lives(job), false, &f);
    if (st != CKPT_OK) {
        roster_fini(&lives);
        roster_fini(&copies);
        return st;
    }
    if (ret_lives)
        *ret_lives = lives;
    if (ret_copies)
        *ret_copies = copies;
    return CKPT_OK;
}

enum ckpt_status roster_lives(struct store *s, const char *job, struct roster *ret,
                              struct ckpt_err *err)
{
    return roster_logs(s, job, ret, NULL, err);
}

enum ckpt_status roster_copies(struct store *s, const char *job, struct roster *ret,
                               struct ckpt_err *err)
{
    return roster_logs(s, job, NULL, ret, err);
}

enum ckpt_status roster_tagged(struct store *s, const char *job, struct roster *ret,
                               struct ckpt_err *err)
{
    return fill_one(s, key_tags(job), true, ret, err);
}

/* Sixteen sorted lists become one: a name may lie under several digits. */
static void fold_shards(struct roster *r)
{
    size_t kept = 0;
    if (r->count)
        qsort(r->entries, r->count, sizeof(r->entries[0]), order_names);
    for (size_t i = 0; i < r->count; i++) {
        if (kept && name_equal(&r->entries[kept - 1].name, &r->entries[i].name))
            r->entries[kept - 1].shards |= r->entries[i].shards;
        else
            r->entries[kept++] = r->entries[i];
    }
    r->count = kept;
}

/* The shards are the bits of `which`. */
static enum ckpt_status data_in(struct store *s, const char *job, unsigned which,
                                struct roster *ret, struct ckpt_err *err)
{
    struct roster r = { 0 };
    enum ckpt_status st = CKPT_OK;
    for (unsigned h = 0; h < 16 && st == CKPT_OK; h++) {
        struct filling f = { .r = &r, .shard = h, .err = err };
        if (which >> h & 1)
            st = fill(s, key_data_shard(job, h), true, &f);
    }
    if (st != CKPT_OK) {
        roster_fini(&r);
        return st;
    }
    fold_shards(&r);
    *ret = r;
    return CKPT_OK;
}

enum ckpt_status roster_data(struct store *s, const char *job, struct roster *ret,
                             struct ckpt_err *err)
{
    return data_in(s, job, 0xffff, ret, err);
}

enum ckpt_status roster_data_rank0(struct store *s, const char *job, struct roster *ret,
                                   struct ckpt_err *err)
{
    return data_in(s, job, 1u << key_shard(0), ret, err);
}

enum ckpt_status roster_merge(struct roster *to, const struct roster *from, struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_OK;
    for (size_t i = 0; i < from->count && st == CKPT_OK; i++)
        st = add(to, &from->entries[i], err);
    fold_shards(to);
    return st;
}
