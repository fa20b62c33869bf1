/* Bringing a checkpoint to another tier: what is decided and accounted.  The packs
 * themselves: drain_pack.c; which checkpoints: drain_scan.c. */
#include <inttypes.h>
#include <stdio.h>

#include "storage/repo/adopt.h"
#include "storage/repo/drain_impl.h"
#include "storage/repo/life.h"
#include "storage/repo/publish.h"
#include "storage/repo/reader.h"
#include "storage/repo/scrub_check.h"
#include "storage/repo/tags.h"

/* --- is it to go? ---------------------------------------------------------------- */

enum ckpt_status drain_read_commit(const struct drain *d, struct record_commit *ret, void **bytes,
                                   size_t *len, struct ckpt_err *err)
{
    struct key key = key_commit(d->job, &d->name);
    enum ckpt_status st = repo_get(d->home, &key, bytes, len, err);
    if (st == CKPT_NOT_FOUND || (st == CKPT_OK && record_kind_of(*bytes, *len) == RECORD_ABORT))
        return err_set(err, CKPT_ABORTED, "%s: it is not committed", key.text);
    return st == CKPT_OK ? record_commit_decode(*bytes, *len, key.text, ret, err) : st;
}

static enum ckpt_status look(const struct drain *d, struct store *s, bool copy,
                             struct ckpt_err *err)
{
    enum life life;
    uint64_t n;
    enum ckpt_status st = life_look(s, d->job, &d->name, copy, &life, &n, NULL, err);
    if (st != CKPT_OK || life == LIFE_LIVE)
        return st;
    return err_set(err, CKPT_ABORTED, "%s is %s in %s%s", key_commit(d->job, &d->name).text,
                   life == LIFE_GONE ? "gone" : "deleted", s->url, copy ? " (this copy)" : "");
}

/* D5, D6: the home's word, the tier's, and that about the tier's copy. */
static enum ckpt_status look_alive(const struct drain *d, struct ckpt_err *err)
{
    enum ckpt_status st = look(d, d->home, false, err);
    if (st == CKPT_OK && d->to != d->home)
        st = look(d, d->to, false, err);
    return st == CKPT_OK ? look(d, d->to, true, err) : st;
}

enum ckpt_status drain_is_there(struct store *s, struct key key, bool *ret, struct ckpt_err *err)
{
    struct store_stat stat;
    struct ckpt_err why = { 0 };
    enum ckpt_status st = store_stat(s, key.text, &stat, &why);
    *ret = st == CKPT_OK;
    return st == CKPT_OK || st == CKPT_NOT_FOUND ? CKPT_OK : err_set(err, st, "%s", err_text(&why));
}

/* What is held there under this name may be another home's, which began the job anew with the
 * same numbers: then it is not this checkpoint (H1). */
static enum ckpt_status is_same(const struct drain *d, const void *bytes, size_t len,
                                struct ckpt_err *err)
{
    struct key key = key_commit(d->job, &d->name);
    CLEANUP_FREE void *there = NULL;
    size_t there_len = 0;
    enum ckpt_status st = repo_get(d->to, &key, &there, &there_len, err);
    if (st == CKPT_NOT_FOUND || (st == CKPT_OK && len == there_len && !memcmp(bytes, there, len)))
        return CKPT_OK;
    if (st != CKPT_OK)
        return st;
    return err_set(err, CKPT_CONFLICT,
                   "two homes: %s in %s is another than in %s; give one of the jobs another name "
                   "or another store",
                   key.text, d->home->url, d->to->url);
}

static enum ckpt_status saw_any(void *arg, const struct store_entry *e)
{
    (void)e;
    *(bool *)arg = true;
    return CKPT_CANCELLED;
}

/* Something of it is there already, and shields it from prune until all is. */
static enum ckpt_status is_begun(const struct drain *d, bool *ret, struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_OK;
    *ret = false;
    if (d->fresh || d->to == d->home)
        return CKPT_OK;
    for (unsigned h = 0; h < 16 && st == CKPT_OK && !*ret; h++)
        st = repo_list(d->to, key_data(d->job, h, &d->name).text, false, saw_any, ret, err);
    return st;
}

static enum ckpt_status ask_policy(const struct drain *d, const struct record_commit *commit,
                                   struct ckpt_err *err)
{
    bool tagged = false, begun = false;
    if (!d->policy || policy_wants(d->policy, commit, false, d->last))
        return CKPT_OK;
    enum ckpt_status st =
        d->policy->tagged ? tags_any(d->home, d->job, &commit->name, &tagged, err) : CKPT_OK;
    if (st != CKPT_OK || policy_wants(d->policy, commit, tagged, d->last))
        return st;
    st = is_begun(d, &begun, err);
    if (st != CKPT_OK || begun)
        return st;
    return err_set(err, CKPT_NOT_PLANNED, "step %" PRIu64 ": the policy does not send it",
                   commit->name.step);
}

enum ckpt_status drain_open(const struct drain *d, struct record_commit *ret, struct ckpt_err *err)
{
    CLEANUP_FREE void *bytes = NULL;
    size_t len = 0;
    bool held = false;
    enum ckpt_status st = drain_read_commit(d, ret, &bytes, &len, err);
    if (st == CKPT_OK)
        st = look_alive(d, err);
    if (st == CKPT_OK)
        st = drain_is_there(d->to, key_held(d->job, &d->name), &held, err);
    if (st == CKPT_OK && held)
        st = d->to == d->home ? CKPT_OK : is_same(d, bytes, len, err);
    if (st == CKPT_OK && held)
        return CKPT_EXISTS;
    if (st == CKPT_OK)
        st = ask_policy(d, ret, err);
    if (st == CKPT_OK && d->to != d->home)
        st = adopt_launches(d->home, d->to, d->job, err);
    if (st == CKPT_OK && d->to != d->home)
        st = adopt_check_epoch(d->home, d->to, d->job, d->name.epoch, err);
    return st;
}

/* --- one rank's part ------------------------------------------------------------- */

static enum ckpt_status open_reader(const struct drain *d, struct reader **ret,
                                    struct ckpt_err *err)
{
    struct store *tiers[READER_TIERS_MAX];
    size_t count = 0;
    for (size_t i = 0; i < d->source_count && count < READER_TIERS_MAX; i++)
        tiers[count++] = d->sources[i];
    struct ckpt_err why = { 0 };
    enum ckpt_status st = reader_open(tiers, count, d->job, &d->name, ret, &why);
    if (st == CKPT_NOT_FOUND) /* it was committed when the drain began */
        return err_set(err, CKPT_ABORTED, "%s is gone meanwhile",
                       key_commit(d->job, &d->name).text);
    return st == CKPT_OK ? st : err_set(err, st, "%s", err_text(&why));
}

/* A reader that is opened by the first who needs it; close with reader_close. */
static enum ckpt_status need_reader(const struct drain *d, struct reader **r, struct ckpt_err *err)
{
    return *r ? CKPT_OK : open_reader(d, r, err);
}

/* True if this node saved the rank, or whoever did does not matter.  The index says it of all
 * ranks: what is another node's costs no request. */
static enum ckpt_status is_ours(const struct drain *d, uint32_t rank, struct reader **r, bool *ret,
                                struct ckpt_err *err)
{
    const struct index_rank *entry;
    *ret = true;
    if (!d->node)
        return CKPT_OK;
    enum ckpt_status st = need_reader(d, r, err);
    if (st == CKPT_OK)
        st = reader_rank(*r, rank, &entry, err);
    if (st == CKPT_OK)
        *ret = memcmp(entry->node, d->node, sizeof(entry->node)) == 0;
    return st;
}

/* True if the rank's packs lie here, and are this node's to bring. */
static enum ckpt_status has_part(const struct drain *d, uint32_t rank, struct reader **r, bool *ret,
                                 struct ckpt_err *err)
{
    enum ckpt_status st = is_ours(d, rank, r, ret, err);
    return st == CKPT_OK && *ret
               ? drain_is_there(d->sources[0], key_rank_held(d->job, &d->name, rank), ret, err)
               : st;
}

/* True if the part of the rank is whole there. */
static enum ckpt_status part_there(const struct drain *d, uint32_t rank, bool *ret,
                                   struct ckpt_err *err)
{
    enum ckpt_status st = drain_is_there(d->to, key_rank_held(d->job, &d->name, rank), ret, err);
    if (st == CKPT_OK && *ret && d->to != d->home) /* the home has all manifests of a commit */
        st = drain_is_there(d->to, key_manifest(d->job, &d->name, rank), ret, err);
    return st;
}

/* True if this node is to bring the rank's packs there: they lie here, and are not there. */
static enum ckpt_status wants_part(const struct drain *d, uint32_t rank, struct reader **r,
                                   bool *ret, struct ckpt_err *err)
{
    bool here = false, there = false;
    enum ckpt_status st = has_part(d, rank, r, &here, err);
    if (st == CKPT_OK && here)
        st = part_there(d, rank, &there, err);
    *ret = st == CKPT_OK && here && !there;
    return st;
}

/* What of a rank's packs is there: one listing, from the first key that can be one. */
static enum ckpt_status list_packs(const struct drain *d, uint32_t rank,
                                   const struct manifest_header *h, bool *there,
                                   uint64_t *ret_bytes, struct ckpt_err *err)
{
    struct key dir = key_data(d->job, key_shard(rank), &d->name);
    size_t prefix = strlen(dir.text);
    char after[STORE_KEY_MAX + 1], begin[KEY_MAX + 12];
    CLEANUP_FREE struct store_entry *page = malloc(256 * sizeof(*page));
    if (!page)
        return err_set(err, CKPT_NO_MEMORY, "no memory to list %s", dir.text);
    snprintf(begin, sizeof(begin), "%s%u-", dir.text, rank);
    memcpy(after, begin, sizeof(begin));
    for (bool more = true; more;) {
        size_t count = 0;
        enum ckpt_status st =
            store_list(d->to, dir.text, false, after, page, 256, &count, &more, err);
        if (st != CKPT_OK)
            return st;
        for (size_t i = 0; i < count; i++) {
            struct key_data_parts at = { .name = d->name };
            if (strncmp(page[i].key, begin, strlen(begin)) != 0) /* the next rank's, or no pack */
                return CKPT_OK;
            if (key_parse_data(page[i].key + prefix, &at) != KEY_PACK || at.slot >= h->pack_count ||
                !digest_equal(&at.id, &h->packs[at.slot].id) || there[at.slot])
                continue;
            there[at.slot] = true;
            *ret_bytes += page[i].stat.bytes;
        }
        if (count == 0)
            break;
        memcpy(after, page[count - 1].key, sizeof(after));
    }
    return CKPT_OK;
}

static enum ckpt_status fill_part(const struct drain *d, struct reader *r, struct drain_part *p,
                                  struct ckpt_err *err)
{
    const struct manifest_header *h;
    enum ckpt_status st = reader_manifest(r, p->rank, &h, err);
    if (st != CKPT_OK)
        return st;
    CLEANUP_FREE bool *there = calloc(h->pack_count + 1, sizeof(*there));
    CLEANUP_FREE struct manifest_pack *packs = calloc(h->pack_count + 1, sizeof(*packs));
    if (!there || !packs)
        return err_set(err, CKPT_NO_MEMORY, "no memory for the packs of rank %u", p->rank);
    for (uint32_t i = 0; i < h->pack_count; i++)
        if (h->packs[i].slot != i) /* so the encoder numbers them */
            return err_set(err, CKPT_CORRUPT, "rank %u: pack %u is of slot %u", p->rank, i,
                           h->packs[i].slot);
    p->total = h->pack_count;
    p->raw_bytes = h->raw_bytes;
    st = list_packs(d, p->rank, h, there, &p->there_bytes, err);
    for (uint32_t i = 0; st == CKPT_OK && i < h->pack_count; i++)
        if (!there[i])
            packs[p->count++] = h->packs[i];
    if (st == CKPT_OK)
        p->packs = TAKE_PTR(packs);
    return st;
}

enum ckpt_status drain_part(const struct drain *d, uint32_t world, uint32_t from,
                            struct drain_part *ret, struct ckpt_err *err)
{
    struct drain_part p = { .rank = from };
    struct reader *r = NULL;
    bool wanted = false;
    enum ckpt_status st = CKPT_OK;
    for (; st == CKPT_OK && p.rank < world; p.rank++) {
        st = wants_part(d, p.rank, &r, &wanted, err);
        if (wanted)
            break;
    }
    if (st == CKPT_OK && p.rank < world)
        st = need_reader(d, &r, err);
    if (st == CKPT_OK && p.rank < world)
        st = fill_part(d, r, &p, err);
    reader_close(r);
    if (st == CKPT_OK)
        *ret = p;
    return st;
}

/* --- records of a part, index ---------------------------------------------------- */

/* An object of the chain of digests, whole and checked, from the nearest source that has it
 * right.  `sound` looks at the bytes. */
struct object {
    struct key key;
    bool manifest; /* else index segment `k` */
    uint32_t k;    /* the rank, if it is a manifest */
};

static enum ckpt_status read_sound(struct store *s, const struct drain *d, struct reader *r,
                                   const struct object *o, void **ret, size_t *ret_len,
                                   struct ckpt_err *err)
{
    enum ckpt_status st;
    if (!o->manifest) {
        CLEANUP_FREE void *bytes = NULL;
        uint64_t max = reader_index(r)->segment_bytes[o->k];
        st = store_get_all(s, o->key.text, max, &bytes, ret_len, err);
        if (st == CKPT_OK)
            st = scrub_index_sound(r, o->k, bytes, *ret_len, err);
        if (st == CKPT_OK)
            *ret = TAKE_PTR(bytes);
        return st;
    }
    struct merge_manifest m;
    st = merge_read(s, d->job, &d->name, o->k, &m, err);
    if (st != CKPT_OK)
        return st;
    st = scrub_manifest_sound(r, &m, o->k, err);
    if (st == CKPT_OK) {
        *ret_len = m.len;
        *ret = TAKE_PTR(m.bytes);
    }
    merge_manifest_fini(&m);
    return st;
}

static enum ckpt_status copy_object(const struct drain *d, struct reader *r, const struct object *o,
                                    struct ckpt_err *err)
{
    CLEANUP_FREE void *bytes = NULL;
    size_t len = 0;
    struct ckpt_err worst = { 0 };
    enum ckpt_status st = CKPT_NOT_FOUND;
    for (size_t i = 0; i < d->source_count; i++) {
        struct ckpt_err why = { 0 };
        enum ckpt_status got = read_sound(d->sources[i], d, r, o, &bytes, &len, &why);
        if (got == CKPT_OK)
            return store_put_record(d->to, o->key.text, bytes, len, err);
        if (st == CKPT_NOT_FOUND) {
            st = got;
            worst = why;
        }
    }
    if (st == CKPT_NOT_FOUND)
        return err_set(err, CKPT_IO, "%s is missing in every store", o->key.text);
    return err_set(err, st, "%s: %s", o->key.text, err_text(&worst));
}

/* As in save_finish: packs are named for good before `.h`, `.h` is before the manifest. */
enum ckpt_status drain_account(const struct drain *d, uint32_t rank, uint64_t stored_bytes,
                               struct ckpt_err *err)
{
    const struct manifest_header *h;
    struct reader *r;
    struct key key = key_rank_held(d->job, &d->name, rank);
    enum ckpt_status st = open_reader(d, &r, err);
    if (st != CKPT_OK)
        return st;
    st = reader_manifest(r, rank, &h, err);
    if (st == CKPT_OK)
        st = store_sync(d->to, key_data(d->job, key_shard(rank), &d->name).text, err);
    if (st == CKPT_OK) {
        const struct record_rank_held part = {
            .name = d->name, .rank = rank, .pack_count = h->pack_count, .stored_bytes = stored_bytes
        };
        CLEANUP_BUF struct buf b = { 0 };
        struct ckpt_err why = { 0 };
        record_rank_held_encode(&part, key.text, &b);
        st = repo_put(d->to, &key, &b, &why);
        /* Stored bytes are an account: one of an earlier try stays. */
        st =
            st == CKPT_CONFLICT || st == CKPT_OK ? CKPT_OK : err_set(err, st, "%s", err_text(&why));
    }
    if (st == CKPT_OK && d->to != d->home) {
        const struct object o = { .key = key_manifest(d->job, &d->name, rank),
                                  .manifest = true,
                                  .k = rank };
        st = copy_object(d, r, &o, err);
    }
    reader_close(r);
    return st;
}

static enum ckpt_status copy_index(const struct drain *d, struct ckpt_err *err)
{
    struct reader *r;
    enum ckpt_status st = open_reader(d, &r, err);
    if (st != CKPT_OK)
        return st;
    uint32_t count = reader_commit(r)->index_segments;
    bool used[16] = { false };
    for (uint32_t k = 0; st == CKPT_OK && k < count; k++) {
        const struct object o = { .key = key_index(d->job, &d->name, k), .k = k };
        bool there = false;
        st = drain_is_there(d->to, o.key, &there, err);
        if (st == CKPT_OK && !there)
            st = copy_object(d, r, &o, err);
        used[key_shard(k)] = true;
    }
    reader_close(r);
    for (unsigned h = 0; st == CKPT_OK && h < 16; h++)
        if (used[h])
            st = store_sync(d->to, key_data(d->job, h, &d->name).text, err);
    return st;
}

/* Goes on from the rank where the last look stopped. */
static enum ckpt_status all_parts(const struct drain *d, uint32_t world, uint32_t *from,
                                  struct ckpt_err *err)
{
    for (; *from < world; ++*from) {
        bool there = false;
        enum ckpt_status st = part_there(d, *from, &there, err);
        if (st != CKPT_OK)
            return st;
        if (!there)
            return err_set(err, CKPT_BUSY, "the part of rank %u is not there yet", *from);
    }
    return CKPT_OK;
}

/* Whether this node is to look if all parts are there.  If each of N did, they would ask for N
 * parts each, again and again: so the node that has rank 0's does, and in case that is lost the
 * others take turns, rank r's with its look number r. */
static enum ckpt_status take_turn(const struct drain *d, uint32_t world, struct drain_wait *w,
                                  bool *ret, struct ckpt_err *err)
{
    struct reader *r = NULL;
    uint32_t turn = w->looks++ % world;
    enum ckpt_status st = has_part(d, 0, &r, &w->ours, err);
    *ret = w->ours;
    if (st == CKPT_OK && !w->ours && turn > 0)
        st = has_part(d, turn, &r, ret, err);
    reader_close(r);
    return st;
}

/* The tags of this checkpoint go along: a home that is made anew learns them from here. */
static enum ckpt_status put_commit(const struct drain *d, const void *bytes, size_t len,
                                   struct ckpt_err *err)
{
    struct key key = key_commit(d->job, &d->name);
    enum ckpt_status st = adopt_tags(d->home, d->to, d->job, err);
    return st == CKPT_OK ? store_put_record(d->to, key.text, bytes, len, err) : st;
}

/* All parts are there: c/, unless it decides itself, and h/. */
static enum ckpt_status say_held(const struct drain *d, const struct record_commit *commit,
                                 const void *bytes, size_t len, struct drain_wait *w,
                                 struct ckpt_err *err)
{
    bool held = false;
    enum ckpt_status st = look_alive(d, err);
    if (st == CKPT_OK && d->to != d->home) {
        st = put_commit(d, bytes, len, err);
        /* A crash here leaves a commit there that is not held: nobody resumes from it, and
         * whoever drains it next puts h/. */
        if (st == CKPT_OK)
            st = look_alive(d, err);
    }
    if (st == CKPT_OK)
        st = publish_held(d->to, d->job, commit, &held, err);
    if (st != CKPT_OK || held)
        return st;
    w->from = 0;
    return err_set(err, CKPT_BUSY, "a part came and went");
}

enum ckpt_status drain_finish(const struct drain *d, struct drain_wait *w, struct ckpt_err *err)
{
    struct record_commit commit;
    struct ckpt_err why = { 0 };
    CLEANUP_FREE void *bytes = NULL;
    size_t len = 0;
    bool held = false, turn = false;
    enum ckpt_status st = drain_read_commit(d, &commit, &bytes, &len, err);
    if (st == CKPT_OK) /* of one that was deleted, and perhaps collected, no part will come */
        st = look_alive(d, err);
    if (st == CKPT_OK)
        st = drain_is_there(d->to, key_held(d->job, &d->name), &held, err);
    if (st != CKPT_OK || held)
        return st;
    st = take_turn(d, commit.world, w, &turn, err);
    if (st == CKPT_OK && !turn)
        return err_set(err, CKPT_BUSY,
                       "the node of rank 0 has not said yet that it is whole there");
    if (st == CKPT_OK && d->to != d->home)
        st = copy_index(d, err);
    if (st != CKPT_OK)
        return st;
    st = all_parts(d, commit.world, &w->from, &why);
    return st == CKPT_OK ? say_held(d, &commit, bytes, len, w, err)
                         : err_set(err, st, "%s", err_text(&why));
}

/* --- mending --------------------------------------------------------------------- */

static enum ckpt_status mend_rank(const struct drain *d, struct drain_work *w, struct reader *r,
                                  uint32_t rank, uint64_t *mended, struct ckpt_err *err)
{
    const struct manifest_header *h;
    struct ckpt_err first = { 0 };
    enum ckpt_status worst = CKPT_OK, st = reader_manifest(r, rank, &h, err);
    if (st != CKPT_OK)
        return st;
    for (uint32_t i = 0; i < h->pack_count; i++) {
        bool done = false;
        st = drain_mend_pack(d, w, rank, &h->packs[i], &done, &first);
        *mended += done;
        if (st == CKPT_CANCELLED || st == CKPT_TIMEOUT || st == CKPT_NO_MEMORY)
            return err_set(err, st, "%s", err_text(&first));
        worst = worst == CKPT_OK ? st : worst;
    }
    st = store_sync(d->to, key_data(d->job, key_shard(rank), &d->name).text, err);
    if (worst != CKPT_OK)
        return err_set(err, worst, "%s", err_text(&first));
    return st;
}

enum ckpt_status drain_mend(const struct drain *d, struct drain_work *w, uint64_t *ret_mended,
                            struct ckpt_err *err)
{
    struct reader *r;
    uint64_t mended = 0;
    enum ckpt_status st = open_reader(d, &r, err), worst = CKPT_OK;
    if (st != CKPT_OK)
        return st;
    uint32_t world = reader_commit(r)->world;
    for (uint32_t rank = 0; st == CKPT_OK && rank < world; rank++) {
        bool here;
        st = drain_is_there(d->to, key_rank_held(d->job, &d->name, rank), &here, err);
        if (st == CKPT_OK && here)
            st = mend_rank(d, w, r, rank, &mended, err);
        if (st == CKPT_IO || st == CKPT_CORRUPT) { /* the other ranks' are mended all the same */
            worst = st;
            st = CKPT_OK;
        }
        reader_forget(r, rank);
    }
    reader_close(r);
    *ret_mended = mended;
    return st == CKPT_OK ? worst : st;
}
