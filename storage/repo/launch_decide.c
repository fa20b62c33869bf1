/* What a new launch does with what the old ones left (rules I2, S4, S5), and what a node
 * says it holds (H3).
 *
 * An attempt without c/ is undecided.  All parts there: it is committed, as its own
 * committer would have done.  A part that says it failed, or parts that do not fit
 * together: ABORT.  Else it is left alone: its nodes may still bring the rest, and gc
 * gives it up later. */
#include <inttypes.h>
#include <stdio.h>

#include "formats/manifest.h"
#include "storage/repo/launch.h"
#include "storage/repo/publish.h"
#include "storage/repo/roster.h"

#define PEEK_BYTES 64

/* What the manifests that are there say of an attempt. */
struct parts {
    struct store *s;
    const char *job;
    const struct ckpt_name *name;
    uint32_t world; /* 0 = no manifest could be read */
    uint64_t count;
    bool failed;
    struct record_abort why; /* failed: who and why */
    size_t prefix_len;
    struct ckpt_err *err;
};

/* A manifest's header without its blocks, which may be large. */
static enum ckpt_status read_header(const struct parts *p, const struct key *key, uint64_t bytes,
                                    struct manifest_header *ret, struct ckpt_err *err)
{
    uint8_t peek[PEEK_BYTES] = { 0 };
    struct store_range range = { .bytes = min_u64(bytes, sizeof(peek)), .base = peek };
    enum ckpt_status st = store_get(p->s, key->text, &range, 1, err);
    if (st != CKPT_OK)
        return st;
    uint32_t len = manifest_header_peek(peek, range.bytes);
    if (!len || len > MANIFEST_HEADER_BYTES_MAX || len > bytes)
        return err_set(err, CKPT_CORRUPT, "%s is no manifest", key->text);
    CLEANUP_FREE uint8_t *header = malloc(len);
    if (!header)
        return err_set(err, CKPT_NO_MEMORY, "no memory for the header of %s", key->text);
    range = (struct store_range){ .bytes = len, .base = header };
    st = store_get(p->s, key->text, &range, 1, err);
    return st == CKPT_OK ? manifest_header_decode(header, len, NULL, ret, err) : st;
}

/* True if what went wrong is the place and not the object. */
static bool out_of_reach(enum ckpt_status st)
{
    return st != CKPT_OK && st != CKPT_NOT_FOUND && st != CKPT_CORRUPT && st != CKPT_UNSUPPORTED;
}

static enum ckpt_status part_each(void *arg, const struct store_entry *e)
{
    struct parts *p = arg;
    struct key_data_parts at = { .name = *p->name };
    if (key_parse_data(e->key + p->prefix_len, &at) != KEY_MANIFEST)
        return CKPT_OK;
    struct key key = key_manifest(p->job, p->name, at.rank);
    struct manifest_header h;
    struct ckpt_err why = { 0 };
    enum ckpt_status st = read_header(p, &key, e->stat.bytes, &h, &why);
    if (out_of_reach(st))
        return err_set(p->err, st, "%s", err_text(&why));
    if (st != CKPT_OK) /* not ours to judge: not counted, so the attempt is left */
        return CKPT_OK;
    p->world = h.world;
    p->count++;
    if (h.flags & MANIFEST_FLAG_FAILED && !p->failed) {
        p->failed = true;
        p->why.status = h.fail_status;
        p->why.rank = at.rank;
    }
    manifest_header_fini(&h);
    return CKPT_OK;
}

static enum ckpt_status look_at_parts(struct parts *p, unsigned shards)
{
    enum ckpt_status st = CKPT_OK;
    for (unsigned h = 0; h < 16 && st == CKPT_OK; h++) {
        if (!(shards >> h & 1))
            continue;
        struct key prefix = key_data(p->job, h, p->name);
        p->prefix_len = strlen(prefix.text);
        st = repo_list(p->s, prefix.text, false, part_each, p, p->err);
    }
    return st;
}

static enum ckpt_status abort_it(struct parts *p)
{
    struct ckpt_err lost = { 0 };
    enum ckpt_status st = publish_abort(p->s, p->job, p->name, &p->why, &lost);
    if (st == CKPT_OK || st == CKPT_EXISTS)
        return CKPT_OK;
    return err_set(p->err, st, "%s", err_text(&lost));
}

static enum ckpt_status decide_one(struct parts *p)
{
    struct record_commit commit;
    struct ckpt_err why = { 0 };
    if (p->failed)
        return abort_it(p);
    if (!p->world || p->count < p->world)
        return CKPT_OK;
    enum ckpt_status st = publish(p->s, p->job, p->name, p->world, &commit, &why);
    switch (status_class(st)) {
    case CKPT_CLASS_OK:
    case CKPT_CLASS_CORRUPT: /* another copy may still mend it: left */
    case CKPT_CLASS_DEVICE:
        return CKPT_OK;
    case CKPT_CLASS_CALLER:
        p->why.status = st;
        if (st == CKPT_COVER || st == CKPT_MISMATCH || st == CKPT_VANISHED)
            return abort_it(p);
        return CKPT_OK;
    case CKPT_CLASS_BUSY:
        if (st == CKPT_ABORTED)
            return CKPT_OK;
        break;
    case CKPT_CLASS_STORE:
    case CKPT_CLASS_BUG:
        break;
    }
    return err_set(p->err, st, "%s", err_text(&why));
}

enum ckpt_status launch_decide(struct store *home, const char *job, uint64_t epoch,
                               struct ckpt_err *err)
{
    CLEANUP_ROSTER struct roster data = { 0 };
    CLEANUP_ROSTER struct roster commits = { 0 };
    enum ckpt_status st = roster_data(home, job, &data, err);
    if (st == CKPT_OK)
        st = roster_commits(home, job, &commits, err);
    for (size_t i = 0; i < data.count && st == CKPT_OK; i++) {
        const struct roster_entry *e = &data.entries[i];
        if (e->name.epoch >= epoch || roster_find(&commits, &e->name))
            continue;
        struct parts p = { .s = home,
                           .job = job,
                           .name = &e->name,
                           .why = { .rank = UINT32_MAX, .by_epoch = epoch },
                           .err = err };
        st = look_at_parts(&p, e->shards);
        if (st == CKPT_OK)
            st = decide_one(&p);
    }
    return st;
}

/* ---- inventory ---- */

struct inventory {
    const char *job;
    struct ckpt_name name;
    size_t prefix_len;
    struct record_node *node;
    uint32_t cap;
    struct ckpt_err *err;
};

static enum ckpt_status inventory_each(void *arg, const struct store_entry *e)
{
    struct inventory *v = arg;
    const char *at = e->key + v->prefix_len;
    struct key_data_parts part = { 0 };
    if (strlen(at) < NAME_TEXT || at[NAME_TEXT - 1] != '/' ||
        !name_parse(at, NAME_TEXT - 1, &part.name) ||
        key_parse_data(at + NAME_TEXT, &part) != KEY_RANK_HELD)
        return CKPT_OK;
    struct record_node *n = v->node;
    if (n->count == RECORD_HOLDINGS_MAX)
        return err_set(v->err, CKPT_LIMIT, "more than %u parts of job %s lie here", n->count,
                       v->job);
    if (n->count == v->cap) {
        uint32_t cap = v->cap ? 2 * v->cap : 64;
        struct record_holding *grown = realloc(n->holdings, cap * sizeof(*grown));
        if (!grown)
            return err_set(v->err, CKPT_NO_MEMORY, "no memory for %u holdings", cap);
        n->holdings = grown;
        v->cap = cap;
    }
    n->holdings[n->count++] = (struct record_holding){ .name = part.name, .rank = part.rank };
    return CKPT_OK;
}

enum ckpt_status launch_inventory(struct store *local, const char *job, struct record_node *ret,
                                  struct ckpt_err *err)
{
    struct record_node n = { 0 };
    enum ckpt_status st = job_name_check(job, err);
    struct inventory v = { .job = job, .node = &n, .err = err };
    for (unsigned h = 0; h < 16 && st == CKPT_OK; h++) {
        struct key prefix = key_data_shard(job, h);
        v.prefix_len = strlen(prefix.text);
        st = repo_list(local, prefix.text, false, inventory_each, &v, err);
    }
    if (st != CKPT_OK) {
        record_node_fini(&n);
        return st;
    }
    *ret = n;
    return CKPT_OK;
}
