/* Reading an index: hostile bytes until every digest and limit is checked. */
#include "formats/desc.h"
#include "formats/index.h"
#include "formats/index_layout.h"

static enum ckpt_status bad(struct ckpt_err *err, const char *what)
{
    return err_set(err, CKPT_CORRUPT, "damaged index: %s", what);
}

static void free_blocks(struct index_block *blocks, uint32_t count)
{
    for (uint32_t i = 0; blocks && i < count; i++)
        free(blocks[i].first);
    free(blocks);
}

void index_header_fini(struct index_header *h)
{
    if (!h)
        return;
    free_blocks(h->rank_blocks, h->rank_block_count);
    free_blocks(h->blocks, h->block_count);
    free(h->segment_bytes);
    *h = (struct index_header){ 0 };
}

/* --- header ------------------------------------------------------------------- */

/* One entry; its offset follows from the entries before it. */
static enum ckpt_status get_entry(struct cursor *c, struct index_header *h, uint32_t *segment,
                                  struct index_block *b, struct ckpt_err *err)
{
    char first[CKPT_TENSOR_NAME_MAX + 1];
    b->segment = cursor_u32(c);
    b->bytes = cursor_u32(c);
    b->tensors = cursor_u32(c);
    cursor_copy(c, b->digest.b, sizeof(b->digest.b));
    cursor_str(c, first, sizeof(first));
    if (!cursor_ok(c) || !b->bytes || b->bytes > INDEX_BLOCK_BYTES_MAX)
        return bad(err, "block table");
    if (b->segment != *segment && b->segment != *segment + 1)
        return bad(err, "blocks skip a segment");
    if (b->segment >= h->segment_count)
        return bad(err, "a block beyond the last segment");
    *segment = b->segment;
    b->offset = h->segment_bytes[b->segment];
    h->segment_bytes[b->segment] += b->bytes;
    if (!first[0])
        return CKPT_OK;
    b->first = strdup(first);
    return b->first ? CKPT_OK : err_set(err, CKPT_NO_MEMORY, "no memory for an index");
}

static enum ckpt_status get_rank_blocks(struct cursor *c, struct index_header *h, uint32_t *segment,
                                        struct ckpt_err *err)
{
    for (uint32_t i = 0; i < h->rank_block_count; i++) {
        struct index_block *b = &h->rank_blocks[i];
        uint64_t ranks =
            min_u64(h->world - (uint64_t)i * INDEX_RANKS_PER_BLOCK, INDEX_RANKS_PER_BLOCK);
        enum ckpt_status st = get_entry(c, h, segment, b, err);
        if (st != CKPT_OK)
            return st;
        if (b->bytes != ranks * INDEX_RANK_BYTES || b->tensors || b->first)
            return bad(err, "rank table");
    }
    return CKPT_OK;
}

static enum ckpt_status get_tensor_blocks(struct cursor *c, struct index_header *h,
                                          uint32_t *segment, struct ckpt_err *err)
{
    uint64_t tensors = 0;
    for (uint32_t i = 0; i < h->block_count; i++) {
        struct index_block *b = &h->blocks[i];
        enum ckpt_status st = get_entry(c, h, segment, b, err);
        if (st != CKPT_OK)
            return st;
        tensors += b->tensors;
        if (!b->tensors || (uint64_t)b->tensors * (DESC_BYTES_MIN + 4) > b->bytes)
            return bad(err, "a block too small for its tensors");
        if (!b->first || tensor_name_check(b->first, strlen(b->first), NULL) != CKPT_OK)
            return bad(err, "a block without a name");
        if (i && strcmp(b[-1].first, b->first) >= 0)
            return bad(err, "blocks are not sorted");
    }
    if (tensors != h->tensor_count)
        return bad(err, "blocks and tensors do not add up");
    return CKPT_OK;
}

static enum ckpt_status get_tables(struct cursor *c, struct index_header *h, struct ckpt_err *err)
{
    uint32_t segment = 0;
    h->segment_bytes = calloc(h->segment_count, sizeof(*h->segment_bytes));
    h->rank_blocks = calloc((size_t)h->rank_block_count + 1, sizeof(*h->rank_blocks));
    h->blocks = calloc((size_t)h->block_count + 1, sizeof(*h->blocks));
    if (!h->segment_bytes || !h->rank_blocks || !h->blocks)
        return err_set(err, CKPT_NO_MEMORY, "no memory for an index of %u blocks", h->block_count);
    h->segment_bytes[0] = h->header_bytes;
    enum ckpt_status st = get_rank_blocks(c, h, &segment, err);
    if (st == CKPT_OK)
        st = get_tensor_blocks(c, h, &segment, err);
    if (st == CKPT_OK && (!cursor_done(c) || segment + 1 != h->segment_count))
        st = bad(err, "header and tables differ");
    return st;
}

static void get_fixed(struct cursor *c, struct index_header *h)
{
    cursor_zero(c, 2);
    h->header_bytes = cursor_u32(c);
    h->name.epoch = cursor_u64(c);
    h->name.step = cursor_u64(c);
    h->name.attempt = cursor_u64(c);
    h->world = cursor_u32(c);
    h->segment_count = cursor_u32(c);
    h->rank_block_count = cursor_u32(c);
    h->block_count = cursor_u32(c);
    h->tensor_count = cursor_u64(c);
    cursor_zero(c, INDEX_RESERVED_BYTES);
}

static enum ckpt_status decode_header(struct cursor *c, size_t len, struct index_header *h,
                                      struct ckpt_err *err)
{
    const uint8_t *magic = cursor_bytes(c, 8);
    if (!magic || memcmp(magic, INDEX_MAGIC, 8) != 0)
        return bad(err, "not an index");
    uint16_t version = cursor_u16(c);
    if (cursor_ok(c) && version != INDEX_VERSION)
        return err_set(err, CKPT_UNSUPPORTED, "index of version %u, this program reads %d", version,
                       INDEX_VERSION);
    get_fixed(c, h);
    if (!cursor_ok(c) || h->header_bytes != len)
        return bad(err, "header");
    if (!h->world || h->world > CKPT_RANKS_MAX || h->tensor_count > CKPT_TENSORS_MAX)
        return bad(err, "counts beyond the limits");
    uint64_t entries = (uint64_t)h->rank_block_count + h->block_count;
    if (h->rank_block_count != div_up(h->world, INDEX_RANKS_PER_BLOCK) ||
        h->block_count > INDEX_BLOCKS_MAX || entries > cursor_left(c) / INDEX_ENTRY_MIN)
        return bad(err, "more blocks than the header can hold");
    if (!h->segment_count || h->segment_count > INDEX_SEGMENTS_MAX)
        return bad(err, "segments beyond the limit");
    return get_tables(c, h, err);
}

enum ckpt_status index_header_decode(const void *bytes, size_t len, const struct sha256 *sha,
                                     struct index_header *ret, struct ckpt_err *err)
{
    if (len < INDEX_FIXED_BYTES || len > INDEX_HEADER_BYTES_MAX)
        return bad(err, "no header is of that size");
    struct sha256 is = sha256_of(bytes, len);
    if (sha && !sha256_equal(sha, &is))
        return bad(err, "the header's SHA-256 is not the one in the commit");
    struct index_header h = { 0 };
    struct cursor c = cursor_over(bytes, len);
    enum ckpt_status st = decode_header(&c, len, &h, err);
    if (st == CKPT_OK)
        *ret = h;
    else
        index_header_fini(&h);
    return st;
}

/* --- blocks ------------------------------------------------------------------- */

static enum ckpt_status check_digest(const struct index_block *b, const void *bytes, size_t len,
                                     struct ckpt_err *err)
{
    if (len != b->bytes)
        return bad(err, "a block of the wrong size");
    struct digest sum = digest_of(bytes, len);
    return digest_equal(&sum, &b->digest) ? CKPT_OK : bad(err, "a block's digest does not match");
}

enum ckpt_status index_rank_block_decode(const struct index_header *h, uint32_t block,
                                         const void *bytes, size_t len, struct index_rank *ret,
                                         uint32_t *ret_count, struct ckpt_err *err)
{
    if (block >= h->rank_block_count)
        return bad(err, "no such rank block");
    enum ckpt_status st = check_digest(&h->rank_blocks[block], bytes, len, err);
    if (st != CKPT_OK)
        return st;
    struct cursor c = cursor_over(bytes, len);
    uint32_t count = (uint32_t)(len / INDEX_RANK_BYTES);
    for (uint32_t i = 0; i < count; i++) {
        cursor_copy(&c, ret[i].sha.b, sizeof(ret[i].sha.b));
        ret[i].header_bytes = cursor_u32(&c);
        ret[i].bytes = cursor_u64(&c);
        cursor_copy(&c, ret[i].node, sizeof(ret[i].node));
        if (ret[i].header_bytes > MANIFEST_HEADER_BYTES_MAX || ret[i].bytes < ret[i].header_bytes)
            return bad(err, "a manifest of impossible size");
    }
    *ret_count = count;
    return CKPT_OK;
}

/* A run's boxes lie in the shape and do not overlap, its ranks in the world; what is
 * unused is zero, so that equal runs have equal bytes. */
static bool run_ok(const struct index_header *h, const struct index_tensor *t,
                   const struct index_run *run)
{
    struct box all = run->box0;
    uint64_t last = run->count - UINT64_C(1);
    if (!run->count || run->rank0 + last * run->rank_step >= h->world)
        return false;
    if (box_check(&all, t->shape, dtype_bits(t->dtype), NULL) != CKPT_OK || !box_volume(&all))
        return false;
    if (run->count == 1)
        return !run->axis && !run->step && !run->last_len && !run->rank_step;
    if (run->axis >= t->ndim || run->step < all.len[run->axis] || run->step > t->shape[run->axis] ||
        !run->last_len || run->last_len > all.len[run->axis])
        return false;
    /* At most 2^20 boxes in steps below 2^62: no overflow in 128 bits, none in 64 if it fits. */
    unsigned __int128 end = (unsigned __int128)last * run->step + all.off[run->axis];
    return end + run->last_len <= t->shape[run->axis];
}

static enum ckpt_status get_runs(struct cursor *c, const struct index_header *h,
                                 struct index_tensor *t, struct ckpt_err *err)
{
    uint32_t count = cursor_u32(c);
    if (!cursor_ok(c) || count > cursor_left(c) / (INDEX_RUN_FIXED_BYTES + 16 * (size_t)t->ndim))
        return bad(err, "more runs than the block can hold");
    if (t->alias && count)
        return bad(err, "an alias with boxes");
    t->runs = calloc((size_t)count + 1, sizeof(*t->runs));
    if (!t->runs)
        return err_set(err, CKPT_NO_MEMORY, "no memory for %u runs", count);
    t->run_count = count;
    for (uint32_t i = 0; i < count; i++) {
        struct index_run *run = &t->runs[i];
        run->count = cursor_u32(c);
        run->rank0 = cursor_u32(c);
        run->rank_step = cursor_u32(c);
        run->axis = cursor_u32(c);
        run->step = cursor_u64(c);
        run->last_len = cursor_u64(c);
        desc_decode_box(c, t->ndim, &run->box0);
        if (!run_ok(h, t, run))
            return bad(err, "a run of boxes that makes no sense");
    }
    return CKPT_OK;
}

static enum ckpt_status get_tensor(struct cursor *c, const struct index_header *h,
                                   struct index_tensor *t, struct ckpt_err *err)
{
    struct desc desc;
    if (desc_decode(c, &desc, NULL) != CKPT_OK)
        return bad(err, "a tensor's description");
    DESC_COPY(t, &desc);
    t->name = strdup(desc.name);
    t->alias = desc.alias ? strdup(desc.alias) : NULL;
    if (!t->name || (desc.alias && !t->alias))
        return err_set(err, CKPT_NO_MEMORY, "no memory for tensor %s", desc.name);
    enum ckpt_status st = get_runs(c, h, t, err);
    if (st != CKPT_OK)
        err_prefix(err, "tensor %s", desc.name);
    return st;
}

static enum ckpt_status get_tensors(struct cursor *c, const struct index_header *h, uint32_t block,
                                    struct index_tensors *to, struct ckpt_err *err)
{
    const struct index_block *b = &h->blocks[block];
    to->tensors = calloc(b->tensors, sizeof(*to->tensors));
    if (!to->tensors)
        return err_set(err, CKPT_NO_MEMORY, "no memory for a block of %u tensors", b->tensors);
    to->count = b->tensors;
    for (size_t i = 0; i < to->count; i++) {
        struct index_tensor *t = &to->tensors[i];
        enum ckpt_status st = get_tensor(c, h, t, err);
        if (st != CKPT_OK)
            return st;
        if (i ? strcmp(t[-1].name, t->name) >= 0 : strcmp(b->first, t->name) != 0)
            return bad(err, "tensors are not sorted");
    }
    if (block + 1 < h->block_count && strcmp(to->tensors[to->count - 1].name, b[1].first) >= 0)
        return bad(err, "tensors are not sorted");
    return cursor_done(c) ? CKPT_OK : bad(err, "bytes left over in a block");
}

enum ckpt_status index_block_decode(const struct index_header *h, uint32_t block, const void *bytes,
                                    size_t len, struct index_tensors *ret, struct ckpt_err *err)
{
    if (block >= h->block_count)
        return bad(err, "no such block");
    enum ckpt_status st = check_digest(&h->blocks[block], bytes, len, err);
    if (st != CKPT_OK)
        return st;
    struct index_tensors to = { 0 };
    struct cursor c = cursor_over(bytes, len);
    st = get_tensors(&c, h, block, &to, err);
    if (st == CKPT_OK)
        *ret = to;
    else
        index_tensors_fini(&to);
    return st;
}

void index_tensors_fini(struct index_tensors *t)
{
    for (size_t i = 0; t && i < t->count; i++) {
        free(t->tensors[i].name);
        free(t->tensors[i].alias);
        free(t->tensors[i].runs);
    }
    if (t) {
        free(t->tensors);
        *t = (struct index_tensors){ 0 };
    }
}

static const char *first_name(const void *of, uint32_t i)
{
    const struct index_header *h = of;
    return h->blocks[i].first;
}

uint32_t index_block_of(const struct index_header *h, const char *name)
{
    return desc_block_of(h, h->block_count, first_name, name);
}
