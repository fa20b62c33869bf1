/* Makes batches of hits: those of one pack, in order of place, as many as fit into one
 * slot of every consumer that needs any of them. */
#include <assert.h>
#include <inttypes.h>

#include "storage/repo/plan_hit.h"

struct batcher {
    struct reader *r;
    const struct decl *const *consumers;
    uint64_t slot_bytes;
    struct plan *p;
    struct plan_chunk *chunks; /* the plan's, filled from the front */
    struct plan_frag *frags;
    struct plan_use *uses;
    size_t chunk_count, frag_count, use_count, batch_cap;
    uint64_t *used;   /* per consumer: bytes of its slot in the open batch */
    uint64_t *opened; /* per consumer: number of the batch that `used` speaks of, from 1 */
    const struct manifest_header *manifest; /* of the open batch */
};

static int compare_hits(const void *a, const void *b)
{
    const struct plan_hit *x = a, *y = b;
    if (x->rank != y->rank)
        return x->rank < y->rank ? -1 : 1;
    if (x->ordinal != y->ordinal)
        return x->ordinal < y->ordinal ? -1 : 1;
    if (x->consumer != y->consumer)
        return x->consumer < y->consumer ? -1 : 1;
    if (x->tensor != y->tensor)
        return x->tensor < y->tensor ? -1 : 1;
    return x->piece < y->piece ? -1 : x->piece > y->piece;
}

static int compare_uses(const void *a, const void *b)
{
    const struct plan_use *x = a, *y = b;
    return x->consumer < y->consumer ? -1 : x->consumer > y->consumer;
}

static struct box hit_tile(const struct plan_hit *h)
{
    return tile_at(&h->box->box, h->box->tile, h->tile);
}

static struct box hit_common(const struct batcher *b, const struct plan_hit *h,
                             const struct box *tile)
{
    struct box common;
    bool met = box_intersect(tile, &plan_piece(b->consumers[h->consumer], h->tensor, h->piece)->box,
                             &common);
    assert(met);
    return common;
}

/* Where `bytes` more would end in the consumer's slot. */
static uint64_t used_of(const struct batcher *b, uint32_t consumer)
{
    return b->opened[consumer] == b->p->batch_count ? b->used[consumer] : 0;
}

static enum ckpt_status open_batch(struct batcher *b, uint32_t rank, uint32_t pack,
                                   struct ckpt_err *err)
{
    struct plan *p = b->p;
    if (p->batch_count == b->batch_cap) {
        size_t cap = b->batch_cap ? b->batch_cap * 2 : 64;
        struct plan_batch *bigger = realloc(p->batches, cap * sizeof(*bigger));
        if (!bigger)
            return err_set(err, CKPT_NO_MEMORY, "no memory to plan");
        p->batches = bigger;
        b->batch_cap = cap;
    }
    p->batches[p->batch_count++] = (struct plan_batch){ .rank = rank,
                                                        .pack = b->manifest->packs[pack],
                                                        .chunks = b->chunks + b->chunk_count,
                                                        .frags = b->frags + b->frag_count,
                                                        .uses = b->uses + b->use_count };
    return CKPT_OK;
}

static void close_batch(struct batcher *b)
{
    if (b->p->batch_count == 0)
        return;
    struct plan_batch *batch = &b->p->batches[b->p->batch_count - 1];
    for (uint32_t i = 0; i < batch->use_count; i++)
        batch->uses[i].slot_used = b->used[batch->uses[i].consumer];
    qsort(batch->uses, batch->use_count, sizeof(*batch->uses), compare_uses);
}

static void open_chunk(struct batcher *b, const struct plan_hit *h, const struct box *tile)
{
    struct plan_batch *batch = &b->p->batches[b->p->batch_count - 1];
    unsigned bits = dtype_bits(h->saved->dtype);
    struct plan_chunk *c = &b->chunks[b->chunk_count++];
    *c = (struct plan_chunk){ .index = (uint32_t)(h->ordinal - batch->pack.first_chunk),
                              .raw_bytes = (uint32_t)box_bytes(tile, bits),
                              .bits = bits,
                              .digest = h->box->digests[h->tile],
                              .tile = *tile,
                              .first_frag = batch->frag_count,
                              .tensor = h->saved->name };
    batch->chunk_count++;
    b->p->read_bytes += c->raw_bytes;
}

static void add_frag(struct batcher *b, const struct plan_hit *h, const struct box *common)
{
    struct plan_batch *batch = &b->p->batches[b->p->batch_count - 1];
    uint64_t used = used_of(b, h->consumer);
    unsigned dtype = b->consumers[h->consumer]->tensors[h->tensor].dtype;
    if (b->opened[h->consumer] != b->p->batch_count) {
        b->opened[h->consumer] = b->p->batch_count;
        b->uses[b->use_count++] = (struct plan_use){ .consumer = h->consumer };
        batch->use_count++;
    }
    uint64_t offset = image_offset_next(&used, box_bytes(common, dtype_bits(h->saved->dtype)));
    b->used[h->consumer] = used;
    b->frags[b->frag_count++] =
        (struct plan_frag){ .consumer = h->consumer,
                            .tensor = h->tensor,
                            .piece = h->piece,
                            .dtype = dtype == h->saved->dtype ? 0 : h->saved->dtype,
                            .slot_offset = offset,
                            .common = *common };
    batch->frag_count++;
    b->chunks[b->chunk_count - 1].frag_count++;
}

/* True if the n hits of one chunk fit into what the open batch has left. */
static bool chunk_fits(const struct batcher *b, const struct plan_hit *hits, size_t n,
                       const struct box *tile)
{
    uint64_t used = 0;
    for (size_t i = 0; i < n; i++) {
        if (i == 0 || hits[i].consumer != hits[i - 1].consumer)
            used = used_of(b, hits[i].consumer);
        struct box common = hit_common(b, &hits[i], tile);
        image_offset_next(&used, box_bytes(&common, dtype_bits(hits[i].saved->dtype)));
        if (used > b->slot_bytes)
            return false;
    }
    return true;
}

static bool frag_fits(const struct batcher *b, const struct plan_hit *h, const struct box *common)
{
    uint64_t used = used_of(b, h->consumer);
    image_offset_next(&used, box_bytes(common, dtype_bits(h->saved->dtype)));
    return used <= b->slot_bytes;
}

/* The n hits of one chunk.  A chunk whose fragments do not fit into one slot (very many
 * tiny pieces) is read once for each batch that it takes. */
static enum ckpt_status add_chunk(struct batcher *b, const struct plan_hit *hits, size_t n,
                                  uint32_t pack, struct ckpt_err *err)
{
    struct box tile = hit_tile(&hits[0]);
    const struct plan_batch *batch =
        b->p->batch_count ? &b->p->batches[b->p->batch_count - 1] : NULL;
    bool same = batch && batch->rank == hits[0].rank &&
                batch->pack.first_chunk == b->manifest->packs[pack].first_chunk;
    bool fresh = !same || !chunk_fits(b, hits, n, &tile);
    for (size_t i = 0; i < n; i++) {
        struct box common = hit_common(b, &hits[i], &tile);
        fresh = fresh || !frag_fits(b, &hits[i], &common);
        if (fresh) {
            close_batch(b);
            enum ckpt_status st = open_batch(b, hits[0].rank, pack, err);
            if (st != CKPT_OK)
                return st;
        }
        if (fresh || i == 0)
            open_chunk(b, &hits[i], &tile);
        fresh = false;
        add_frag(b, &hits[i], &common);
    }
    return CKPT_OK;
}

static enum ckpt_status add_all(struct batcher *b, const struct plan_hit *hits, size_t count,
                                struct ckpt_err *err)
{
    size_t n;
    for (size_t i = 0; i < count; i += n) {
        for (n = 1; i + n < count; n++) {
            if (hits[i + n].rank != hits[i].rank || hits[i + n].ordinal != hits[i].ordinal)
                break;
        }
        enum ckpt_status st = CKPT_OK;
        if (i == 0 || hits[i].rank != hits[i - 1].rank)
            st = reader_manifest(b->r, hits[i].rank, &b->manifest, err);
        if (st != CKPT_OK)
            return st;
        uint32_t pack = manifest_pack_of(b->manifest, hits[i].ordinal);
        if (pack == UINT32_MAX)
            return err_set(err, CKPT_CORRUPT,
                           "tensor %s: rank %u's manifest has no pack for chunk %" PRIu64,
                           hits[i].saved->name, hits[i].rank, hits[i].ordinal);
        st = add_chunk(b, hits + i, n, pack, err);
        if (st != CKPT_OK)
            return st;
    }
    close_batch(b);
    return CKPT_OK;
}

enum ckpt_status plan_batches(struct reader *r, const struct decl *const *consumers, size_t count,
                              uint64_t slot_bytes, struct plan_hit *hits, size_t hit_count,
                              struct plan *p, struct ckpt_err *err)
{
    if (hit_count == 0)
        return CKPT_OK;
    qsort(hits, hit_count, sizeof(*hits), compare_hits);
    CLEANUP_FREE struct plan_chunk *chunks = malloc(hit_count * sizeof(*chunks));
    CLEANUP_FREE struct plan_frag *frags = malloc(hit_count * sizeof(*frags));
    CLEANUP_FREE struct plan_use *uses = malloc(hit_count * sizeof(*uses));
    CLEANUP_FREE uint64_t *used = calloc(count, sizeof(*used));
    CLEANUP_FREE uint64_t *opened = calloc(count, sizeof(*opened));
    if (!chunks || !frags || !uses || !used || !opened)
        return err_set(err, CKPT_NO_MEMORY, "no memory to plan %zu fragments", hit_count);
    struct batcher b = { .r = r,
                         .consumers = consumers,
                         .slot_bytes = slot_bytes,
                         .p = p,
                         .chunks = chunks,
                         .frags = frags,
                         .uses = uses,
                         .used = used,
                         .opened = opened };
    enum ckpt_status st = add_all(&b, hits, hit_count, err);
    if (p->batch_count) { /* the plan owns them now, whatever came of it */
        chunks = NULL;
        frags = NULL;
        uses = NULL;
    }
    return st;
}
