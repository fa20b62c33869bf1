/* What nodes say of themselves, and what follows from it. */
#include "storage/repo/launch_nodes.h"

#include <stdio.h>

#define TRIES_NAMED   64 /* an attempt's name tells its world for tries below this */
#define PER_SHARD_MAX (RECORD_HOLDINGS_MAX / 16)

/* ---- what a node says ---- */

struct inventory {
    struct store *s;
    const char *job;
    size_t prefix_len;
    struct record_node *node;
    uint32_t cap, end;
    struct ckpt_err *err;
};

static enum ckpt_status read_whole(const struct inventory *v, const struct store_entry *e,
                                   bool *ret)
{
    struct key key;
    struct record_rank_held held;
    CLEANUP_FREE void *bytes = NULL;
    size_t len = 0;
    snprintf(key.text, sizeof(key.text), "%.*s", (int)sizeof(key.text) - 1, e->key);
    enum ckpt_status st = repo_get_listed(v->s, &key, e->stat.bytes, &bytes, &len, v->err);
    *ret = st == CKPT_OK && record_rank_held_decode(bytes, len, key.text, &held, NULL) == CKPT_OK &&
           held.whole;
    return st == CKPT_NOT_FOUND ? CKPT_OK : st;
}

static enum ckpt_status inventory_each(void *arg, const struct store_entry *e)
{
    struct inventory *v = arg;
    const char *at = e->key + v->prefix_len;
    struct key_data_parts part = { 0 };
    bool whole;
    if (strlen(at) < NAME_TEXT || at[NAME_TEXT - 1] != '/' ||
        !name_parse(at, NAME_TEXT - 1, &part.name) ||
        key_parse_data(at + NAME_TEXT, &part) != KEY_RANK_HELD)
        return CKPT_OK;
    struct record_node *n = v->node;
    if (n->count == v->end)
        return CKPT_CANCELLED; /* newest first: who has so many does not need the others */
    if (n->count == v->cap) {
        uint32_t cap = v->cap ? 2 * v->cap : 64;
        struct record_holding *grown = realloc(n->holdings, cap * sizeof(*grown));
        if (!grown)
            return err_set(v->err, CKPT_NO_MEMORY, "no memory for %u holdings", cap);
        n->holdings = grown;
        v->cap = cap;
    }
    enum ckpt_status st = read_whole(v, e, &whole);
    if (st == CKPT_OK)
        n->holdings[n->count++] =
            (struct record_holding){ .name = part.name, .rank = part.rank, .whole = whole };
    return st;
}

enum ckpt_status launch_inventory(struct store *local, const char *job, struct record_node *ret,
                                  struct ckpt_err *err)
{
    struct record_node n = { 0 };
    enum ckpt_status st = job_name_check(job, err);
    struct inventory v = { .s = local, .job = job, .node = &n, .err = err };
    for (unsigned h = 0; h < 16 && st == CKPT_OK; h++) {
        struct key prefix = key_data_shard(job, h);
        v.prefix_len = strlen(prefix.text);
        v.end = n.count + PER_SHARD_MAX;
        st = repo_list(local, prefix.text, false, inventory_each, &v, err);
    }
    if (st != CKPT_OK) {
        record_node_fini(&n);
        return st;
    }
    *ret = n;
    return CKPT_OK;
}

enum ckpt_status launch_put_node(struct store *home, const char *job, uint64_t epoch,
                                 const struct record_node *n, struct ckpt_err *err)
{
    struct key key = key_node(job, epoch, n->node, n->ranks, n->rank_count);
    CLEANUP_BUF struct buf b = { 0 };
    struct ckpt_err lost = { 0 };
    record_node_encode(n, key.text, &b);
    enum ckpt_status st = repo_put(home, &key, &b, &lost);
    if (st == CKPT_OK || st == CKPT_CONFLICT)
        return CKPT_OK;
    return err_set(err, st, "%s", err_text(&lost));
}

/* ---- reading what they said ---- */

void launch_nodes_fini(struct launch_nodes *n)
{
    for (size_t i = 0; i < n->count; i++)
        record_node_fini(&n->nodes[i]);
    free(n->nodes);
    free(n->keys);
    launch_index_fini(&n->launches);
    *n = (struct launch_nodes){ 0 };
}

struct reading {
    struct store *s;
    struct launch_nodes *n;
    uint64_t epoch;
    uint32_t world;
    size_t prefix_len;
    bool older, stopped; /* older launches are being listed, or are not wanted yet */
    struct ckpt_err *err;
};

static enum ckpt_status make_room(struct launch_nodes *n, struct ckpt_err *err)
{
    if (n->count < n->cap)
        return CKPT_OK;
    size_t cap = n->cap ? 2 * n->cap : 16;
    struct record_node *nodes = realloc(n->nodes, cap * sizeof(*nodes));
    if (nodes)
        n->nodes = nodes;
    struct key *keys = nodes ? realloc(n->keys, cap * sizeof(*keys)) : NULL;
    if (!keys)
        return err_set(err, CKPT_NO_MEMORY, "no memory for %zu nodes", cap);
    n->keys = keys;
    n->cap = cap;
    return CKPT_OK;
}

/* One that is not known yet. */
static enum ckpt_status read_node(const struct reading *r, const struct store_entry *e)
{
    struct launch_nodes *n = r->n;
    struct key key;
    CLEANUP_FREE void *bytes = NULL;
    size_t len = 0;
    for (size_t i = 0; i < n->count; i++)
        if (strcmp(n->keys[i].text, e->key) == 0)
            return CKPT_OK;
    snprintf(key.text, sizeof(key.text), "%.*s", (int)sizeof(key.text) - 1, e->key);
    enum ckpt_status st = make_room(n, r->err);
    if (st == CKPT_OK)
        st = repo_get_listed(r->s, &key, e->stat.bytes, &bytes, &len, r->err);
    if (st != CKPT_OK)
        return st == CKPT_NOT_FOUND ? CKPT_OK : st;
    struct ckpt_err why = { 0 };
    st = record_node_decode(bytes, len, key.text, &n->nodes[n->count], &why);
    if (st == CKPT_NO_MEMORY)
        return err_set(r->err, st, "%s", err_text(&why));
    if (st == CKPT_OK)
        n->keys[n->count++] = key;
    return CKPT_OK;
}

/* CKPT_CANCELLED: ranks are missing, so what older launches did is not wanted yet. */
static enum ckpt_status go_on(struct reading *r)
{
    uint32_t missing;
    enum ckpt_status st = launch_nodes_missing(r->n, r->world, &missing, r->err);
    r->older = true;
    r->stopped = st == CKPT_OK && missing < r->world && !r->n->resolved;
    return r->stopped ? CKPT_CANCELLED : st;
}

static enum ckpt_status read_each(void *arg, const struct store_entry *e)
{
    struct reading *r = arg;
    const char *at = e->key + r->prefix_len;
    uint64_t epoch;
    const char *what = launch_key_what(at, &epoch);
    enum ckpt_status st = CKPT_OK;
    if (!what)
        return CKPT_OK;
    if (epoch == r->epoch && strncmp(what, "node-", 5) == 0)
        st = read_node(r, e);
    else if (epoch < r->epoch && !r->older)
        st = go_on(r);
    r->n->resolved |= epoch == r->epoch && strcmp(what, "resolved") == 0;
    return st == CKPT_OK ? launch_index_take(&r->n->launches, at, e->stat.bytes, r->err) : st;
}

enum ckpt_status launch_nodes_read(struct store *home, const char *job, uint64_t epoch,
                                   uint32_t world, struct launch_nodes *n, struct ckpt_err *err)
{
    struct key prefix = key_launches(job);
    struct reading r = { .s = home,
                         .n = n,
                         .epoch = epoch,
                         .world = world,
                         .prefix_len = strlen(prefix.text),
                         .err = err };
    launch_index_fini(&n->launches);
    enum ckpt_status st = repo_list(home, prefix.text, false, read_each, &r, err);
    if (st != CKPT_OK || r.stopped)
        launch_index_fini(&n->launches);
    return st;
}

/* ---- what follows ---- */

#define NOWHERE  0
#define TWO_SAID UINT32_MAX

/* Number of the record that names each rank, plus one; malloc'ed.  A rank that two nodes name
 * is at neither. */
static uint32_t *place_ranks(const struct launch_nodes *n, uint32_t world, struct ckpt_err *err)
{
    uint32_t *at = calloc(max_u64(world, 1), sizeof(*at));
    if (!at) {
        (void)err_set(err, CKPT_NO_MEMORY, "no memory for the places of %u ranks", world);
        return NULL;
    }
    for (size_t i = 0; i < n->count; i++) {
        const struct record_node *node = &n->nodes[i];
        for (uint32_t k = 0; k < node->rank_count; k++) {
            uint32_t rank = node->ranks[k];
            if (rank >= world || at[rank] == TWO_SAID)
                continue;
            bool other = at[rank] != NOWHERE &&
                         memcmp(n->nodes[at[rank] - 1].node, node->node, sizeof(node->node)) != 0;
            at[rank] = other ? TWO_SAID : (uint32_t)i + 1;
        }
    }
    return at;
}

enum ckpt_status launch_nodes_missing(const struct launch_nodes *n, uint32_t world, uint32_t *ret,
                                      struct ckpt_err *err)
{
    CLEANUP_FREE uint32_t *at = place_ranks(n, world, err);
    if (!at)
        return CKPT_NO_MEMORY;
    uint32_t rank = 0;
    while (rank < world && at[rank] != NOWHERE)
        rank++;
    *ret = rank;
    return CKPT_OK;
}

static int holding_order(const void *a, const void *b)
{
    const struct record_holding *x = a, *y = b;
    int order = roster_order(&x->name, &y->name);
    return order ? order : (x->rank > y->rank) - (x->rank < y->rank);
}

/* The name of an attempt is a hash of its world, too: so a checkpoint of another world is
 * known without a look at its commit. */
static bool of_world(const char *job, const struct ckpt_name *name, uint32_t world)
{
    for (uint32_t t = 0; t < TRIES_NAMED; t++)
        if (name->attempt == attempt_of(job, name->epoch, world, name->step, t))
            return true;
    return false;
}

/* Sorted, each once. */
static size_t sort_holdings(struct record_holding *all, size_t count)
{
    size_t kept = 0;
    qsort(all, count, sizeof(*all), holding_order);
    for (size_t i = 0; i < count; i++)
        if (kept == 0 || holding_order(&all[kept - 1], &all[i]) != 0)
            all[kept++] = all[i];
    return kept;
}

/* Those of one name that begin at `i`: where they end. */
static size_t end_of(const struct record_holding *all, size_t count, size_t i)
{
    size_t end = i + 1;
    while (end < count && name_equal(&all[end].name, &all[i].name))
        end++;
    return end;
}

/* Holdings of ranks on the nodes where they run; malloc'ed. */
static struct record_holding *at_hand(const struct launch_nodes *n, const uint32_t *at,
                                      uint32_t world, size_t *ret_count)
{
    size_t cap = 1, count = 0;
    for (size_t i = 0; i < n->count; i++)
        cap += n->nodes[i].count;
    struct record_holding *all = calloc(cap, sizeof(*all));
    for (size_t i = 0; all && i < n->count; i++) {
        const struct record_node *node = &n->nodes[i];
        for (uint32_t k = 0; k < node->count; k++) {
            const struct record_holding *h = &node->holdings[k];
            if (h->whole && h->rank < world && at[h->rank] != NOWHERE && at[h->rank] != TWO_SAID &&
                memcmp(n->nodes[at[h->rank] - 1].node, node->node, sizeof(node->node)) == 0)
                all[count++] = *h;
        }
    }
    if (all)
        *ret_count = sort_holdings(all, count);
    return all;
}

enum ckpt_status launch_nodes_held(const struct launch_nodes *n, const char *job, uint32_t world,
                                   struct roster *ret, struct ckpt_err *err)
{
    size_t count = 0;
    struct roster found = { 0 };
    CLEANUP_FREE uint32_t *at = place_ranks(n, world, err);
    CLEANUP_FREE struct record_holding *all = at ? at_hand(n, at, world, &count) : NULL;
    if (all)
        found.entries = calloc(count / max_u64(world, 1) + 1, sizeof(*found.entries));
    if (!found.entries)
        return err_set(err, CKPT_NO_MEMORY, "no memory for what nodes hold");
    found.cap = count / max_u64(world, 1) + 1;
    for (size_t i = 0, end; i < count; i = end) {
        end = end_of(all, count, i);
        if (end - i == world && of_world(job, &all[i].name, world))
            found.entries[found.count++] = (struct roster_entry){ .name = all[i].name };
    }
    *ret = found;
    return CKPT_OK;
}

/* ---- on their way ---- */

/* All that lies on any node; sorted, malloc'ed. */
static struct record_holding *anywhere(const struct launch_nodes *n, size_t *ret_count)
{
    size_t cap = 1, count = 0;
    for (size_t i = 0; i < n->count; i++)
        cap += n->nodes[i].count;
    struct record_holding *all = calloc(cap, sizeof(*all));
    for (size_t i = 0; all && i < n->count; i++)
        for (uint32_t k = 0; k < n->nodes[i].count; k++)
            all[count++] = n->nodes[i].holdings[k];
    if (all)
        *ret_count = sort_holdings(all, count);
    return all;
}

/* True if the parts of all ranks of the name, whatever its world, are among them. */
static bool all_parts(const char *job, const struct ckpt_name *name,
                      const struct record_holding *all, size_t count)
{
    for (size_t i = 0, end; i < count; i = end) {
        end = end_of(all, count, i);
        if (name_equal(&all[i].name, name))
            return end - i <= CKPT_RANKS_MAX && of_world(job, name, (uint32_t)(end - i));
    }
    return false;
}

enum ckpt_status launch_nodes_pending(const char *job, const struct launch_nodes *n,
                                      const struct roster *held, const struct launch_listings *at,
                                      bool *ret, struct ckpt_err *err)
{
    size_t count = 0;
    CLEANUP_FREE struct record_holding *all = anywhere(n, &count);
    if (!all)
        return err_set(err, CKPT_NO_MEMORY, "no memory for what nodes hold");
    bool pending = false, have = false;
    for (size_t i = 0; !pending && !have && i < at->commits.count; i++) {
        const struct ckpt_name *name = &at->commits.entries[i].name;
        if (roster_is_abort(&at->commits.entries[i]))
            continue;
        have = roster_find(&at->helds, name) || roster_find(held, name);
        pending = !have && all_parts(job, name, all, count);
    }
    *ret = pending;
    return CKPT_OK;
}
