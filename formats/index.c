/* The index out of merged tensors (FORMAT.md, "Index").  Reading it back is in
 * index_read.c, folding boxes in index_fold.c. */
#include "formats/index.h"

#include <assert.h>

#include "formats/desc.h"
#include "formats/index_layout.h"

/* Blocks, one after the other, and where each begins. */
struct blocks {
    struct buf bytes;
    struct index_block *list;
    size_t count, cap;
};

static void blocks_fini(struct blocks *b)
{
    buf_fini(&b->bytes);
    free(b->list); /* first names are borrowed from the caller's tensors */
}

/* Closes the block that began at `start`. */
static void blocks_close(struct blocks *b, size_t start, uint32_t tensors, char *first)
{
    if (b->bytes.failed)
        return;
    if (b->count == b->cap) {
        size_t cap = b->cap ? 2 * b->cap : 64;
        struct index_block *more = reallocarray(b->list, cap, sizeof(*more));
        b->bytes.failed = !more;
        if (!more)
            return;
        b->list = more;
        b->cap = cap;
    }
    size_t bytes = b->bytes.len - start;
    b->list[b->count++] = (struct index_block){ .bytes = (uint32_t)bytes,
                                                .tensors = tensors,
                                                .digest = digest_of(b->bytes.data + start, bytes),
                                                .first = first };
}

static void put_ranks(const struct index_rank *ranks, uint32_t world, struct blocks *to)
{
    for (uint32_t r = 0; r < world;) {
        size_t start = to->bytes.len;
        for (uint32_t n = 0; n < INDEX_RANKS_PER_BLOCK && r < world; n++, r++) {
            buf_bytes(&to->bytes, ranks[r].sha.b, sizeof(ranks[r].sha.b));
            buf_u32(&to->bytes, ranks[r].header_bytes);
            buf_u64(&to->bytes, ranks[r].bytes);
            buf_bytes(&to->bytes, ranks[r].node, sizeof(ranks[r].node));
        }
        blocks_close(to, start, 0, NULL);
    }
}

static void put_run(const struct index_run *run, struct buf *out)
{
    buf_u32(out, run->count);
    buf_u32(out, run->rank0);
    buf_u32(out, run->rank_step);
    buf_u32(out, run->axis);
    buf_u64(out, run->step);
    buf_u64(out, run->last_len);
    desc_encode_box(&run->box0, out);
}

static enum ckpt_status put_tensor(const struct index_tensor *t, struct blocks *to,
                                   struct ckpt_err *err)
{
    struct desc desc = { .name = t->name, .alias = t->alias };
    size_t start = to->bytes.len;
    DESC_COPY(&desc, t);
    desc_encode(&desc, &to->bytes);
    buf_u32(&to->bytes, t->run_count);
    for (uint32_t i = 0; i < t->run_count; i++)
        put_run(&t->runs[i], &to->bytes);
    if (to->bytes.len - start > INDEX_BLOCK_BYTES_MAX - INDEX_BLOCK_BYTES)
        return err_set(err, CKPT_LIMIT, "tensor %s: %u runs of boxes do not fit into an index",
                       t->name, t->run_count);
    return CKPT_OK;
}

static enum ckpt_status put_tensors(const struct index_tensors *from, struct blocks *to,
                                    struct ckpt_err *err)
{
    size_t start = 0, first = 0;
    for (size_t i = 0; i < from->count; i++) {
        assert(!i || strcmp(from->tensors[i - 1].name, from->tensors[i].name) < 0);
        enum ckpt_status st = put_tensor(&from->tensors[i], to, err);
        if (st != CKPT_OK)
            return st;
        if (to->bytes.len - start < INDEX_BLOCK_BYTES && i + 1 < from->count)
            continue;
        blocks_close(to, start, (uint32_t)(i + 1 - first), from->tensors[first].name);
        start = to->bytes.len;
        first = i + 1;
    }
    return CKPT_OK;
}

/* Gives each block its segment, rank blocks first; i0 begins with the header. */
static uint32_t assign_segments(struct blocks *ranks, struct blocks *tensors, uint64_t header_bytes)
{
    uint32_t segment = 0;
    uint64_t used = header_bytes;
    for (size_t i = 0; i < ranks->count + tensors->count; i++) {
        struct index_block *b =
            i < ranks->count ? &ranks->list[i] : &tensors->list[i - ranks->count];
        if (used >= INDEX_SEGMENT_BYTES) {
            segment++;
            used = 0;
        }
        b->segment = segment;
        used += b->bytes;
    }
    return segment + 1;
}

static void put_table(const struct blocks *b, struct buf *out)
{
    for (size_t i = 0; i < b->count; i++) {
        buf_u32(out, b->list[i].segment);
        buf_u32(out, b->list[i].bytes);
        buf_u32(out, b->list[i].tensors);
        buf_bytes(out, b->list[i].digest.b, sizeof(b->list[i].digest.b));
        buf_str(out, b->list[i].first ? b->list[i].first : "");
    }
}

static uint64_t header_size(const struct blocks *ranks, const struct blocks *tensors)
{
    uint64_t bytes = INDEX_FIXED_BYTES + INDEX_ENTRY_MIN * (ranks->count + tensors->count);
    for (size_t i = 0; i < tensors->count; i++)
        bytes += strlen(tensors->list[i].first);
    return bytes;
}

struct header {
    const struct ckpt_name *name;
    uint32_t world, segments, bytes;
    uint64_t tensors;
};

static void put_header(const struct header *h, const struct blocks *ranks,
                       const struct blocks *tensors, struct buf *out)
{
    buf_bytes(out, INDEX_MAGIC, 8);
    buf_u16(out, INDEX_VERSION);
    buf_zero(out, 2);
    buf_u32(out, h->bytes);
    buf_u64(out, h->name->epoch);
    buf_u64(out, h->name->step);
    buf_u64(out, h->name->attempt);
    buf_u32(out, h->world);
    buf_u32(out, h->segments);
    buf_u32(out, (uint32_t)ranks->count);
    buf_u32(out, (uint32_t)tensors->count);
    buf_u64(out, h->tensors);
    buf_zero(out, INDEX_RESERVED_BYTES);
    put_table(ranks, out);
    put_table(tensors, out);
    assert(out->failed || out->len == h->bytes);
}

static void free_segments(struct buf *segments, uint32_t count)
{
    for (uint32_t i = 0; segments && i < count; i++)
        buf_fini(&segments[i]);
    free(segments);
}

static bool put_blocks(const struct blocks *b, struct buf *segments)
{
    size_t at = 0;
    bool ok = true;
    for (size_t i = 0; i < b->count; i++) {
        struct buf *to = &segments[b->list[i].segment];
        buf_bytes(to, b->bytes.data + at, b->list[i].bytes);
        at += b->list[i].bytes;
        ok &= !to->failed;
    }
    return ok;
}

static enum ckpt_status encode_blocks(const struct index_rank *ranks, uint32_t world,
                                      const struct index_tensors *tensors,
                                      struct blocks *rank_blocks, struct blocks *tensor_blocks,
                                      struct ckpt_err *err)
{
    put_ranks(ranks, world, rank_blocks);
    enum ckpt_status st = put_tensors(tensors, tensor_blocks, err);
    if (st != CKPT_OK)
        return st;
    if (rank_blocks->bytes.failed || tensor_blocks->bytes.failed)
        return err_set(err, CKPT_NO_MEMORY, "no memory for an index of %zu tensors",
                       tensors->count);
    if (tensor_blocks->count > INDEX_BLOCKS_MAX ||
        header_size(rank_blocks, tensor_blocks) > INDEX_HEADER_BYTES_MAX)
        return err_set(err, CKPT_LIMIT, "an index of %zu tensors is too large", tensors->count);
    return CKPT_OK;
}

static enum ckpt_status join(const struct header *h, const struct blocks *ranks,
                             const struct blocks *tensors, struct buf **ret_segments,
                             struct ckpt_err *err)
{
    struct buf *segments = calloc(h->segments, sizeof(*segments));
    if (segments) {
        put_header(h, ranks, tensors, &segments[0]);
        if (!segments[0].failed && put_blocks(ranks, segments) && put_blocks(tensors, segments)) {
            *ret_segments = segments;
            return CKPT_OK;
        }
    }
    free_segments(segments, h->segments);
    return err_set(err, CKPT_NO_MEMORY, "no memory for an index of %u segments", h->segments);
}

enum ckpt_status index_encode(const struct ckpt_name *name, uint32_t world,
                              const struct index_rank *ranks, const struct index_tensors *tensors,
                              struct buf **ret_segments, uint32_t *ret_count,
                              uint32_t *ret_header_bytes, struct sha256 *ret_sha,
                              struct ckpt_err *err)
{
    struct blocks rank_blocks = { 0 }, tensor_blocks = { 0 };
    enum ckpt_status st = encode_blocks(ranks, world, tensors, &rank_blocks, &tensor_blocks, err);
    struct header h = { .name = name, .world = world, .tensors = tensors->count };
    struct buf *segments = NULL;
    if (st == CKPT_OK) {
        h.bytes = (uint32_t)header_size(&rank_blocks, &tensor_blocks);
        h.segments = assign_segments(&rank_blocks, &tensor_blocks, h.bytes);
        if (h.segments > INDEX_SEGMENTS_MAX)
            st = err_set(err, CKPT_LIMIT, "an index of %u segments is too large", h.segments);
        else
            st = join(&h, &rank_blocks, &tensor_blocks, &segments, err);
    }
    blocks_fini(&rank_blocks);
    blocks_fini(&tensor_blocks);
    if (st != CKPT_OK)
        return st;
    *ret_sha = sha256_of(segments[0].data, h.bytes);
    *ret_segments = segments;
    *ret_count = h.segments;
    *ret_header_bytes = h.bytes;
    return CKPT_OK;
}
