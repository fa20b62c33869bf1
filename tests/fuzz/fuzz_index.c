/* A whole index, its segments one after the other: header, rank blocks, tensor blocks. */
#include "formats/index.h"
#include "formats/index_layout.h"
#include "fuzz/fuzz.h"

static void check_run(const struct index_tensor *t, const struct index_run *run)
{
    const uint32_t some[] = { 0, run->count / 2, run->count - 1 };
    struct box whole = box_whole(t->ndim, t->shape);
    uint32_t first, last, rank;
    for (size_t i = 0; i < ARRAY_COUNT(some); i++) {
        struct box box = index_run_box(run, some[i], &rank);
        FUZZ_CHECK(box_contains(&whole, &box));
        FUZZ_CHECK(index_run_hits(run, &box, &first, &last));
        FUZZ_CHECK(first == some[i] && last == some[i]);
    }
    FUZZ_CHECK(index_run_hits(run, &whole, &first, &last) && !first && last == run->count - 1);
}

struct decoded {
    struct index_header h;
    struct index_rank *ranks;
    struct index_tensor *tensors; /* borrowed from blocks */
    struct index_tensors *blocks;
    size_t count;
    bool whole, sorted; /* every block was good; names rise from block to block */
};

static const uint8_t *block_at(const struct index_header *h, const struct index_block *b,
                               const uint8_t *bytes, size_t len)
{
    uint64_t at = b->offset;
    for (uint32_t i = 0; i < b->segment; i++)
        at += h->segment_bytes[i];
    return at > len || b->bytes > len - at ? NULL : bytes + at;
}

static void decode_ranks(struct decoded *d, const uint8_t *bytes, size_t len)
{
    for (uint32_t i = 0; i < d->h.rank_block_count; i++) {
        const struct index_block *b = &d->h.rank_blocks[i];
        const uint8_t *at = block_at(&d->h, b, bytes, len);
        uint32_t count = 0, first = i * INDEX_RANKS_PER_BLOCK;
        struct index_rank ranks[INDEX_RANKS_PER_BLOCK];
        if (!at ||
            index_rank_block_decode(&d->h, i, at, b->bytes, ranks, &count, NULL) != CKPT_OK) {
            d->whole = false;
            continue;
        }
        FUZZ_CHECK(count && first + count <= d->h.world);
        memcpy(d->ranks + first, ranks, count * sizeof(*ranks));
    }
}

static void decode_tensors(struct decoded *d, const uint8_t *bytes, size_t len)
{
    for (uint32_t i = 0; i < d->h.block_count; i++) {
        const struct index_block *b = &d->h.blocks[i];
        const uint8_t *at = block_at(&d->h, b, bytes, len);
        struct ckpt_err err = { 0 };
        FUZZ_CHECK(index_block_of(&d->h, b->first) == i);
        if (!at || index_block_decode(&d->h, i, at, b->bytes, &d->blocks[i], &err) != CKPT_OK) {
            FUZZ_CHECK(!at || err.text[0]);
            d->whole = false;
            continue;
        }
        for (size_t k = 0; k < d->blocks[i].count; k++) {
            const struct index_tensor *t = &d->blocks[i].tensors[k];
            for (uint32_t r = 0; r < t->run_count; r++)
                check_run(t, &t->runs[r]);
            if (d->count && strcmp(d->tensors[d->count - 1].name, t->name) >= 0)
                d->sorted = false;
            d->tensors[d->count++] = *t;
        }
    }
}

/* The same blocks in the same segments: then the same bytes.  (Another writer might cut
 * blocks elsewhere.) */
static bool cut_alike(const struct index_header *h, const struct buf *segments, uint32_t count,
                      uint32_t header_bytes)
{
    struct index_header own;
    if (count != h->segment_count || header_bytes != h->header_bytes)
        return false;
    FUZZ_CHECK(index_header_decode(segments[0].data, header_bytes, NULL, &own, NULL) == CKPT_OK);
    bool alike = own.block_count == h->block_count;
    for (uint32_t i = 0; alike && i < h->block_count; i++)
        alike = own.blocks[i].tensors == h->blocks[i].tensors &&
                own.blocks[i].segment == h->blocks[i].segment;
    for (uint32_t i = 0; alike && i < h->rank_block_count; i++)
        alike = own.rank_blocks[i].segment == h->rank_blocks[i].segment;
    index_header_fini(&own);
    return alike;
}

static void encode_again(const struct decoded *d, const uint8_t *bytes)
{
    struct index_tensors all = { d->tensors, d->count };
    struct buf *segments;
    uint32_t count, header_bytes;
    struct sha256 sha;
    FUZZ_CHECK(index_encode(&d->h.name, d->h.world, d->ranks, &all, &segments, &count,
                            &header_bytes, &sha, NULL) == CKPT_OK);
    bool alike = cut_alike(&d->h, segments, count, header_bytes);
    for (uint32_t i = 0; i < count; i++) {
        if (alike)
            fuzz_same(&segments[i], bytes, d->h.segment_bytes[i]);
        bytes += alike ? segments[i].len : 0;
        buf_fini(&segments[i]);
    }
    free(segments);
}

static void check_parts(struct decoded *d, const uint8_t *bytes, size_t len)
{
    struct index_tensors none;
    struct index_rank no_ranks[INDEX_RANKS_PER_BLOCK];
    uint32_t count;
    d->ranks = calloc(d->h.world, sizeof(*d->ranks));
    d->tensors = calloc(d->h.tensor_count + 1, sizeof(*d->tensors));
    d->blocks = calloc(d->h.block_count + 1, sizeof(*d->blocks));
    FUZZ_CHECK(d->ranks && d->tensors && d->blocks);
    d->whole = d->sorted = true;
    decode_ranks(d, bytes, len);
    decode_tensors(d, bytes, len);
    if (d->whole && d->sorted)
        encode_again(d, bytes);
    (void)index_block_of(&d->h, "");
    FUZZ_CHECK(index_block_decode(&d->h, d->h.block_count, bytes, len, &none, NULL) != CKPT_OK);
    FUZZ_CHECK(index_rank_block_decode(&d->h, d->h.rank_block_count, bytes, len, no_ranks, &count,
                                       NULL) != CKPT_OK);
    for (uint32_t i = 0; i < d->h.block_count; i++)
        index_tensors_fini(&d->blocks[i]);
    free(d->blocks);
    free(d->tensors);
    free(d->ranks);
}

/* Where the header ends, as the bytes themselves say; all of them if that makes no sense. */
static size_t header_end(const uint8_t *bytes, size_t len)
{
    uint32_t n = len < INDEX_FIXED_BYTES ? 0 : fuzz_get_u32(bytes + INDEX_HEADER_BYTES_AT);
    return n < INDEX_FIXED_BYTES || n > len ? len : n;
}

void fuzz_one(const uint8_t *bytes, size_t len)
{
    struct decoded d = { 0 };
    struct ckpt_err err = { 0 };
    const struct sha256 wrong = { { 1 } };
    size_t n = header_end(bytes, len);
    FUZZ_CHECK(index_header_decode(bytes, n, &wrong, &d.h, NULL) == CKPT_CORRUPT);
    if (index_header_decode(bytes, n, NULL, &d.h, &err) != CKPT_OK) {
        FUZZ_CHECK(err.text[0]);
        return;
    }
    check_parts(&d, bytes, len);
    index_header_fini(&d.h);
}

void fuzz_fix(uint8_t *bytes, size_t len)
{
    if (len < INDEX_FIXED_BYTES)
        return;
    memcpy(bytes, INDEX_MAGIC, 8);
    size_t at = header_end(bytes, len);
    fuzz_put_u32(bytes + INDEX_HEADER_BYTES_AT, (uint32_t)at);
    struct cursor c = cursor_over(bytes, at);
    cursor_bytes(&c, INDEX_FIXED_BYTES);
    while (cursor_left(&c) >= INDEX_ENTRY_MIN) {
        cursor_u32(&c);
        uint32_t size = cursor_u32(&c);
        cursor_u32(&c);
        const uint8_t *to = cursor_bytes(&c, sizeof(struct digest));
        if (!to || size > len - at)
            return;
        struct digest sum = digest_of(bytes + at, size);
        memcpy(bytes + (to - bytes), sum.b, sizeof(sum.b));
        at += size;
        cursor_bytes(&c, cursor_u16(&c));
    }
}
