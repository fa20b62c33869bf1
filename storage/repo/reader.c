/* A checkpoint opened for reading.  Every piece of metadata is believed only after its
 * sum was checked against something already believed:
 *
 *   commit record (own sum) ─ SHA-256 ─► index header ─ digests ─► index blocks
 *                                                      └─ digests ─► rank table
 *   rank table ─ SHA-256 ─► manifest header ─ digests ─► manifest blocks ─► chunk digests
 *
 * Each read asks the nearest tier first and goes on when that one has nothing, cannot be
 * reached or has wrong bytes.  To learn that a tier cannot be reached may take minutes, so that
 * one is asked last from then on. */
#include <assert.h>
#include <stdio.h>

#include "storage/repo/life.h"
#include "storage/repo/reader_impl.h"

/* --- one read, several tiers ---------------------------------------------------- */

/* What a failure of one tier means for the whole: damage weighs more than trouble, and
 * trouble (which may pass) more than absence. */
static unsigned weight(enum ckpt_status st)
{
    if (st == CKPT_CORRUPT || st == CKPT_UNSUPPORTED)
        return 3;
    return st == CKPT_NOT_FOUND ? 1 : 2;
}

/* Wrong bytes are asked for once more: it may have been the way, and not the place. */
static enum ckpt_status fetch_from(struct store *s, const struct fetch *f, void *bytes,
                                   struct ckpt_err *err)
{
    struct ckpt_err why = { 0 };
    enum ckpt_status st = CKPT_CORRUPT;
    for (int look = 0; look < 2 && st == CKPT_CORRUPT; look++) {
        const struct store_range range = { f->offset, f->bytes, bytes };
        why = (struct ckpt_err){ 0 };
        st = store_get(s, f->key, &range, 1, &why);
        if (st == CKPT_OK)
            st = f->check(f->arg, bytes, f->bytes, &why);
    }
    return st == CKPT_OK ? st : err_set(err, st, "%s", err_text(&why));
}

size_t reader_tier(const struct reader *r, uint32_t away, size_t n)
{
    for (unsigned last = 0; last < 2; last++)
        for (size_t i = 0; i < r->tier_count; i++)
            if ((away >> i & 1) == last && n-- == 0)
                return i;
    return 0;
}

static void note_answer(struct reader *r, size_t tier, enum ckpt_status st)
{
    if (st == CKPT_UNREACHABLE)
        r->away |= UINT32_C(1) << tier;
}

enum ckpt_status reader_fetch(struct reader *r, const struct fetch *f, void **ret,
                              struct ckpt_err *err)
{
    CLEANUP_FREE void *bytes = malloc(f->bytes + 1);
    if (!bytes)
        return err_set(err, CKPT_NO_MEMORY, "no memory to read %s", f->key);
    struct ckpt_err worst = { 0 };
    enum ckpt_status st = CKPT_NOT_FOUND;
    const uint32_t away = r->away;
    uint32_t damaged = 0;
    for (size_t n = 0; n < r->tier_count; n++) {
        struct ckpt_err why = { 0 };
        size_t i = reader_tier(r, away, n);
        enum ckpt_status got = fetch_from(r->tiers[i], f, bytes, &why);
        note_answer(r, i, got);
        if (got == CKPT_OK) {
            r->damaged |= damaged;
            *ret = TAKE_PTR(bytes);
            return CKPT_OK;
        }
        if (got == CKPT_NOT_FOUND || got == CKPT_CORRUPT)
            damaged |= UINT32_C(1) << i;
        if (got == CKPT_CANCELLED || got == CKPT_TIMEOUT || got == CKPT_NO_MEMORY)
            return err_set(err, got, "%s", err_text(&why));
        if (n == 0 || weight(got) > weight(st)) {
            st = got;
            worst = why;
        }
    }
    /* The commit vouches for it, so that it is nowhere is trouble and not an answer. */
    if (st == CKPT_NOT_FOUND)
        return err_set(err, CKPT_IO, "%s is missing in every store", f->key);
    return err_set(err, st, "%s: %s", f->key, err_text(&worst));
}

/* --- open ----------------------------------------------------------------------- */

static enum ckpt_status decode_commit(const struct reader *r, const struct key *key,
                                      const void *bytes, size_t len, struct record_commit *ret,
                                      struct ckpt_err *err)
{
    if (record_kind_of(bytes, len) == RECORD_ABORT) {
        struct record_abort abort_record;
        enum ckpt_status st = record_abort_decode(bytes, len, key->text, &abort_record, err);
        if (st != CKPT_OK)
            return st;
        return err_set(err, CKPT_ABORTED, "%s: the save was given up: %s", key->text,
                       status_sentence(abort_record.status));
    }
    enum ckpt_status st = record_commit_decode(bytes, len, key->text, ret, err);
    if (st == CKPT_OK && !name_equal(&ret->name, &r->name))
        return err_set(err, CKPT_CORRUPT, "%s: the record names another checkpoint", key->text);
    return st;
}

static enum ckpt_status read_commit_of(const struct reader *r, struct store *s,
                                       struct record_commit *ret, struct ckpt_err *err)
{
    struct key key = key_commit(r->job, &r->name);
    CLEANUP_FREE void *bytes = NULL;
    size_t len = 0;
    enum ckpt_status st = repo_get(s, &key, &bytes, &len, err);
    if (st == CKPT_OK)
        st = decode_commit(r, &key, bytes, len, ret, err);
    if (st != CKPT_OK)
        return st;
    enum life life;
    uint64_t n;
    int64_t time_ns;
    st = life_look(s, r->job, &r->name, false, &life, &n, &time_ns, err);
    return st == CKPT_OK && life == LIFE_GONE ? CKPT_NOT_FOUND : st;
}

static enum ckpt_status read_commit(struct reader *r, struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_NOT_FOUND;
    struct ckpt_err worst = { 0 };
    for (size_t i = 0; i < r->tier_count; i++) {
        struct ckpt_err why = { 0 };
        enum ckpt_status got = read_commit_of(r, r->tiers[i], &r->commit, &why);
        note_answer(r, i, got);
        if (got == CKPT_OK || got == CKPT_ABORTED)
            return got == CKPT_OK ? got : err_set(err, got, "%s", err_text(&why));
        if (i == 0 || weight(got) > weight(st)) {
            st = got;
            worst = why;
        }
    }
    if (st == CKPT_NOT_FOUND)
        return err_set(err, st, "%s: no commit %s", r->job, key_commit(r->job, &r->name).text);
    return err_set(err, st, "%s", err_text(&worst));
}

static enum ckpt_status check_index_header(void *arg, const void *bytes, size_t len,
                                           struct ckpt_err *err)
{
    struct reader *r = arg;
    struct index_header h;
    enum ckpt_status st = index_header_decode(bytes, len, &r->commit.index_sha, &h, err);
    if (st != CKPT_OK)
        return st;
    if (name_equal(&h.name, &r->name) && h.world == r->commit.world &&
        h.segment_count == r->commit.index_segments && h.tensor_count == r->commit.tensor_count) {
        r->index = h;
        r->index_loaded = true;
        return CKPT_OK;
    }
    index_header_fini(&h);
    return err_set(err, CKPT_CORRUPT, "the index belongs to another checkpoint");
}

static enum ckpt_status open_index(struct reader *r, struct ckpt_err *err)
{
    struct key key = key_index(r->job, &r->name, 0);
    const struct fetch f = { .key = key.text,
                             .bytes = r->commit.index_header_bytes,
                             .check = check_index_header,
                             .arg = r };
    CLEANUP_FREE void *bytes = NULL;
    enum ckpt_status st = reader_fetch(r, &f, &bytes, err);
    if (st != CKPT_OK)
        return st;
    r->blocks = calloc(r->index.block_count + 1, sizeof(*r->blocks));
    r->ranks = calloc(r->index.rank_block_count + 1, sizeof(*r->ranks));
    r->manifests = calloc(r->index.world + (size_t)1, sizeof(struct manifest_cached *));
    if (!r->blocks || !r->ranks || !r->manifests)
        return err_set(err, CKPT_NO_MEMORY, "no memory for the index of %s", key.text);
    uint64_t first = 0;
    for (uint32_t i = 0; i < r->index.block_count; i++) {
        r->blocks[i].first = first;
        first += r->index.blocks[i].tensors;
    }
    if (first != r->index.tensor_count)
        return err_set(err, CKPT_CORRUPT, "%s: the blocks hold another number of tensors",
                       key.text);
    return CKPT_OK;
}

enum ckpt_status reader_open(struct store *const *tiers, size_t tier_count, const char *job,
                             const struct ckpt_name *name, struct reader **ret,
                             struct ckpt_err *err)
{
    uint32_t away;
    return reader_open_away(tiers, tier_count, job, name, ret, &away, err);
}

enum ckpt_status reader_open_away(struct store *const *tiers, size_t tier_count, const char *job,
                                  const struct ckpt_name *name, struct reader **ret,
                                  uint32_t *ret_away, struct ckpt_err *err)
{
    *ret_away = 0;
    assert(tier_count > 0 && tier_count <= READER_TIERS_MAX);
    enum ckpt_status st = job_name_check(job, err);
    if (st != CKPT_OK)
        return st;
    struct reader *r = calloc(1, sizeof(*r));
    if (!r)
        return err_set(err, CKPT_NO_MEMORY, "no memory to open a checkpoint of %s", job);
    memcpy(r->tiers, tiers, tier_count * sizeof(struct store *));
    r->tier_count = tier_count;
    snprintf(r->job, sizeof(r->job), "%s", job);
    r->name = *name;
    st = read_commit(r, err);
    if (st == CKPT_OK)
        st = open_index(r, err);
    *ret_away = r->away;
    if (st != CKPT_OK) {
        reader_close(r);
        return st;
    }
    *ret = r;
    return CKPT_OK;
}

void reader_close(struct reader *r)
{
    if (!r)
        return;
    for (uint32_t i = 0; r->blocks && i < r->index.block_count; i++) {
        if (r->blocks[i].loaded)
            index_tensors_fini(&r->blocks[i].tensors);
    }
    for (uint32_t i = 0; r->ranks && i < r->index.rank_block_count; i++)
        free(r->ranks[i]);
    for (uint32_t i = 0; r->manifests && i < r->index.world; i++)
        reader_manifest_free(r->manifests[i]);
    free(r->blocks);
    free(r->ranks);
    free(r->manifests);
    if (r->index_loaded)
        index_header_fini(&r->index);
    free(r);
}

const struct record_commit *reader_commit(const struct reader *r)
{
    return &r->commit;
}

const char *reader_job(const struct reader *r)
{
    return r->job;
}

struct store *const *reader_tiers(const struct reader *r, size_t *ret_count)
{
    *ret_count = r->tier_count;
    return r->tiers;
}

uint32_t reader_damaged(const struct reader *r)
{
    return r->damaged;
}

uint32_t reader_away(const struct reader *r)
{
    return r->away;
}

const struct index_header *reader_index(const struct reader *r)
{
    return &r->index;
}

/* --- the index ------------------------------------------------------------------ */

uint64_t reader_tensor_count(const struct reader *r)
{
    return r->index.tensor_count;
}

static enum ckpt_status check_index_block(void *arg, const void *bytes, size_t len,
                                          struct ckpt_err *err)
{
    struct block_want *want = arg;
    return index_block_decode(&want->r->index, want->block, bytes, len, want->to, err);
}

static enum ckpt_status load_index_block(struct reader *r, uint32_t i, struct ckpt_err *err)
{
    if (r->blocks[i].loaded)
        return CKPT_OK;
    const struct index_block *b = &r->index.blocks[i];
    struct key key = key_index(r->job, &r->name, b->segment);
    struct block_want want = { .r = r, .block = i, .to = &r->blocks[i].tensors };
    const struct fetch f = { key.text, b->offset, b->bytes, check_index_block, &want };
    CLEANUP_FREE void *bytes = NULL;
    enum ckpt_status st = reader_fetch(r, &f, &bytes, err);
    r->blocks[i].loaded = st == CKPT_OK;
    return st;
}

enum ckpt_status reader_tensor_at(struct reader *r, uint64_t i, const struct index_tensor **ret,
                                  struct ckpt_err *err)
{
    assert(i < r->index.tensor_count);
    uint32_t low = 0, high = r->index.block_count;
    while (high - low > 1) {
        uint32_t mid = low + (high - low) / 2;
        if (r->blocks[mid].first <= i)
            low = mid;
        else
            high = mid;
    }
    enum ckpt_status st = load_index_block(r, low, err);
    if (st != CKPT_OK)
        return st;
    assert(i - r->blocks[low].first < r->blocks[low].tensors.count);
    *ret = &r->blocks[low].tensors.tensors[i - r->blocks[low].first];
    return CKPT_OK;
}

static int compare_index_name(const void *name, const void *tensor)
{
    return strcmp(name, ((const struct index_tensor *)tensor)->name);
}

enum ckpt_status reader_tensor(struct reader *r, const char *name, const struct index_tensor **ret,
                               struct ckpt_err *err)
{
    uint32_t block = index_block_of(&r->index, name);
    if (block == UINT32_MAX)
        return CKPT_NOT_FOUND;
    enum ckpt_status st = load_index_block(r, block, err);
    if (st != CKPT_OK)
        return st;
    const struct index_tensors *t = &r->blocks[block].tensors;
    const struct index_tensor *found =
        bsearch(name, t->tensors, t->count, sizeof(*t->tensors), compare_index_name);
    if (!found)
        return CKPT_NOT_FOUND;
    *ret = found;
    return CKPT_OK;
}
