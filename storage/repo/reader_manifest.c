/* A checkpoint opened for reading: the rank table, and what each rank's manifest says. */
#include <assert.h>

#include "storage/repo/reader_impl.h"

void reader_manifest_free(struct manifest_cached *m)
{
    if (!m)
        return;
    for (uint32_t i = 0; m->blocks && i < m->header.block_count; i++) {
        if (m->blocks[i].bytes)
            manifest_tensors_fini(&m->blocks[i].tensors);
        if (!m->blocks[i].ahead)
            free(m->blocks[i].bytes);
    }
    free(m->blocks);
    free(m->ahead);
    manifest_header_fini(&m->header);
    free(m);
}

static enum ckpt_status check_rank_block(void *arg, const void *bytes, size_t len,
                                         struct ckpt_err *err)
{
    struct block_want *want = arg;
    return index_rank_block_decode(&want->r->index, want->block, bytes, len, want->to, &want->count,
                                   err);
}

enum ckpt_status reader_rank(struct reader *r, uint32_t rank, const struct index_rank **ret,
                             struct ckpt_err *err)
{
    assert(rank < r->index.world);
    uint32_t block = rank / INDEX_RANKS_PER_BLOCK;
    if (block >= r->index.rank_block_count)
        return err_set(err, CKPT_CORRUPT, "the index has no entry for rank %u", rank);
    if (!r->ranks[block]) {
        CLEANUP_FREE struct index_rank *ranks = calloc(INDEX_RANKS_PER_BLOCK, sizeof(*ranks));
        if (!ranks)
            return err_set(err, CKPT_NO_MEMORY, "no memory for the rank table");
        const struct index_block *b = &r->index.rank_blocks[block];
        struct key key = key_index(r->job, &r->name, b->segment);
        struct block_want want = { .r = r, .block = block, .to = ranks };
        const struct fetch f = { key.text, b->offset, b->bytes, check_rank_block, &want };
        CLEANUP_FREE void *bytes = NULL;
        enum ckpt_status st = reader_fetch(r, &f, &bytes, err);
        if (st != CKPT_OK)
            return st;
        r->ranks[block] = TAKE_PTR(ranks);
    }
    *ret = &r->ranks[block][rank % INDEX_RANKS_PER_BLOCK];
    return CKPT_OK;
}

struct header_want {
    struct reader *r;
    uint32_t rank;
    const struct index_rank *entry;
    struct manifest_header *to;
};

static enum ckpt_status check_manifest_header(void *arg, const void *bytes, size_t len,
                                              struct ckpt_err *err)
{
    struct header_want *want = arg;
    struct manifest_header h;
    enum ckpt_status st = manifest_header_decode(bytes, len, &want->entry->sha, &h, err);
    if (st != CKPT_OK)
        return st;
    if (h.rank == want->rank && h.world == want->r->commit.world &&
        name_equal(&h.name, &want->r->name) && strcmp(h.job, want->r->job) == 0) {
        *want->to = h;
        return CKPT_OK;
    }
    manifest_header_fini(&h);
    return err_set(err, CKPT_CORRUPT, "the manifest belongs to another rank or checkpoint");
}

static enum ckpt_status load_manifest(struct reader *r, uint32_t rank, struct ckpt_err *err)
{
    if (r->manifests[rank])
        return CKPT_OK;
    const struct index_rank *entry;
    enum ckpt_status st = reader_rank(r, rank, &entry, err);
    if (st != CKPT_OK)
        return st;
    struct manifest_cached *m = calloc(1, sizeof(*m));
    if (!m)
        return err_set(err, CKPT_NO_MEMORY, "no memory for the manifest of rank %u", rank);
    struct key key = key_manifest(r->job, &r->name, rank);
    struct header_want want = { r, rank, entry, &m->header };
    const struct fetch f = { key.text, 0, entry->header_bytes, check_manifest_header, &want };
    CLEANUP_FREE void *bytes = NULL;
    st = reader_fetch(r, &f, &bytes, err);
    if (st == CKPT_OK) {
        m->blocks = calloc(m->header.block_count + (size_t)1, sizeof(*m->blocks));
        if (!m->blocks)
            st = err_set(err, CKPT_NO_MEMORY, "no memory for the manifest of rank %u", rank);
    }
    if (st != CKPT_OK) {
        reader_manifest_free(m);
        return st;
    }
    r->manifests[rank] = m;
    return CKPT_OK;
}

enum ckpt_status reader_manifest(struct reader *r, uint32_t rank,
                                 const struct manifest_header **ret, struct ckpt_err *err)
{
    enum ckpt_status st = load_manifest(r, rank, err);
    if (st == CKPT_OK)
        *ret = &r->manifests[rank]->header;
    return st;
}

struct manifest_block_want {
    const struct manifest_header *header;
    uint32_t block;
    struct manifest_tensors *to;
};

static enum ckpt_status check_manifest_block(void *arg, const void *bytes, size_t len,
                                             struct ckpt_err *err)
{
    struct manifest_block_want *want = arg;
    return manifest_block_decode(want->header, want->block, bytes, len, want->to, err);
}

enum ckpt_status reader_block(struct reader *r, uint32_t rank, uint32_t block,
                              const struct manifest_tensors **ret, struct ckpt_err *err)
{
    enum ckpt_status st = load_manifest(r, rank, err);
    if (st != CKPT_OK)
        return st;
    struct manifest_cached *m = r->manifests[rank];
    assert(block < m->header.block_count);
    if (!m->blocks[block].bytes) {
        const struct manifest_block *b = &m->header.blocks[block];
        struct key key = key_manifest(r->job, &r->name, rank);
        struct manifest_block_want want = { &m->header, block, &m->blocks[block].tensors };
        const struct fetch f = { key.text, b->offset, b->bytes, check_manifest_block, &want };
        st = reader_fetch(r, &f, &m->blocks[block].bytes, err);
        if (st != CKPT_OK)
            return st;
    }
    *ret = &m->blocks[block].tensors;
    return CKPT_OK;
}

/* Joined to the range before it when it lies right behind. */
static void want_block(const struct manifest_cached *m, uint32_t block, struct store_range *ranges,
                       size_t *count, uint64_t *bytes)
{
    const struct manifest_block *b = &m->header.blocks[block];
    struct store_range *last = *count ? &ranges[*count - 1] : NULL;
    if (last && last->offset + last->bytes == b->offset)
        last->bytes += b->bytes;
    else
        ranges[(*count)++] = (struct store_range){ .offset = b->offset, .bytes = b->bytes };
    *bytes += b->bytes;
}

/* Which blocks hold any of the names, as flags; false: none but those there are. */
static bool mark_blocks(const struct manifest_cached *m, const char *const *names, size_t count,
                        uint8_t *wanted)
{
    bool any = false;
    uint32_t block = UINT32_MAX;
    for (size_t i = 0; i < count; i++) {
        bool same =
            block != UINT32_MAX && (block + 1 == m->header.block_count ||
                                    strcmp(names[i], m->header.blocks[block + 1].first) < 0);
        if (!same)
            block = manifest_block_of(&m->header, names[i]);
        if (block == UINT32_MAX || wanted[block] || m->blocks[block].bytes)
            continue;
        wanted[block] = 1;
        any = true;
    }
    return any;
}

/* What was read, checked: a block that fails is left for reader_block, which asks the
 * other tiers, too. */
static void take_ahead(struct manifest_cached *m, const uint8_t *wanted)
{
    uint8_t *at = m->ahead;
    for (uint32_t i = 0; i < m->header.block_count; i++) {
        if (!wanted[i])
            continue;
        size_t len = m->header.blocks[i].bytes;
        if (manifest_block_decode(&m->header, i, at, len, &m->blocks[i].tensors, NULL) == CKPT_OK) {
            m->blocks[i].bytes = at;
            m->blocks[i].ahead = true;
        }
        at += len;
    }
}

enum ckpt_status reader_ahead(struct reader *r, uint32_t rank, const char *const *names,
                              size_t count, struct ckpt_err *err)
{
    enum ckpt_status st = load_manifest(r, rank, err);
    if (st != CKPT_OK || r->manifests[rank]->ahead)
        return st;
    struct manifest_cached *m = r->manifests[rank];
    uint32_t blocks = m->header.block_count;
    CLEANUP_FREE uint8_t *wanted = calloc(blocks + (size_t)1, 1);
    CLEANUP_FREE struct store_range *ranges = malloc((blocks + (size_t)1) * sizeof(*ranges));
    if (!wanted || !ranges)
        return err_set(err, CKPT_NO_MEMORY, "no memory for the manifest of rank %u", rank);
    if (!mark_blocks(m, names, count, wanted))
        return CKPT_OK;
    size_t n = 0;
    uint64_t bytes = 0, at = 0;
    for (uint32_t i = 0; i < blocks; i++) {
        if (m->header.blocks[i].bytes > READER_AHEAD_MAX - bytes)
            wanted[i] = 0; /* a manifest may claim anything */
        if (wanted[i])
            want_block(m, i, ranges, &n, &bytes);
    }
    if (bytes > 0 && n <= STORE_RANGES_MAX)
        m->ahead = malloc(bytes);
    if (!m->ahead)
        return CKPT_OK; /* one by one then */
    for (size_t i = 0; i < n; at += ranges[i++].bytes)
        ranges[i].base = m->ahead + at;
    struct key key = key_manifest(r->job, &r->name, rank);
    struct store *nearest = r->tiers[reader_tier(r, r->away, 0)];
    if (store_get(nearest, key.text, ranges, n, NULL) == CKPT_OK)
        take_ahead(m, wanted);
    return CKPT_OK;
}

static int compare_manifest_name(const void *name, const void *tensor)
{
    return strcmp(name, ((const struct manifest_tensor *)tensor)->name);
}

/* Who asks in order of names finds each behind the last one. */
static const struct manifest_tensor *find_next(const struct manifest_cached *m, const char *name)
{
    const struct manifest_tensors *t = m->header.block_count ? &m->blocks[m->block].tensors : NULL;
    if (!t || !m->blocks[m->block].bytes || m->at >= t->count)
        return NULL;
    return strcmp(t->tensors[m->at].name, name) == 0 ? &t->tensors[m->at] : NULL;
}

enum ckpt_status reader_boxes(struct reader *r, uint32_t rank, const char *name,
                              const struct manifest_tensor **ret, struct ckpt_err *err)
{
    enum ckpt_status st = load_manifest(r, rank, err);
    if (st != CKPT_OK)
        return st;
    struct manifest_cached *m = r->manifests[rank];
    const struct manifest_tensor *found = find_next(m, name);
    const struct manifest_tensors *t;
    if (!found) {
        uint32_t block = manifest_block_of(&m->header, name);
        if (block == UINT32_MAX)
            return CKPT_NOT_FOUND;
        st = reader_block(r, rank, block, &t, err);
        if (st != CKPT_OK)
            return st;
        found = bsearch(name, t->tensors, t->count, sizeof(*t->tensors), compare_manifest_name);
        if (!found)
            return CKPT_NOT_FOUND;
        m->block = block;
    }
    m->at = (size_t)(found - m->blocks[m->block].tensors.tensors) + 1;
    *ret = found;
    return CKPT_OK;
}

void reader_forget(struct reader *r, uint32_t rank)
{
    assert(rank < r->index.world);
    reader_manifest_free(r->manifests[rank]);
    r->manifests[rank] = NULL;
}
