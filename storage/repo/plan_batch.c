/* Makes batches of hits: those of one pack, in order of place, as many as fit into one
 * slot of every consumer that needs any of them. */
#include <assert.h>
#include <inttypes.h>

#include "storage/repo/plan_hit.h"

static enum ckpt_status no_memory(const struct plan_batcher *b, struct ckpt_err *err)
{
    return err_set(err, CKPT_NO_MEMORY, "no memory to plan more than %zu fragments", b->frag_count);
}

bool plan_batcher_init(struct plan_batcher *b, size_t consumers, uint64_t slot_bytes,
                       struct plan *p)
{
    *b = (struct plan_batcher){ .slot_bytes = slot_bytes, .p = p };
    b->used = calloc(consumers + 1, sizeof(*b->used));
    b->opened = calloc(consumers + 1, sizeof(*b->opened));
    return b->used && b->opened;
}

void plan_batcher_rank(struct plan_batcher *b, uint32_t rank,
                       const struct manifest_header *manifest)
{
    b->rank = rank;
    b->ordinal = 0;
    b->manifest = manifest;
}

void plan_batcher_fini(struct plan_batcher *b)
{
    free(b->chunks);
    free(b->frags);
    free(b->uses);
    free(b->words);
    free(b->used);
    free(b->opened);
    *b = (struct plan_batcher){ 0 };
}

static int compare_uses(const void *a, const void *b)
{
    const struct plan_use *x = a, *y = b;
    return x->consumer < y->consumer ? -1 : x->consumer > y->consumer;
}

static uint32_t consumer_of(const struct plan_batcher *b, const struct plan_hit *h)
{
    return b->p->parts[h->part].consumer;
}

/* Where the consumer's slot ends so far. */
static uint64_t used_of(const struct plan_batcher *b, uint32_t consumer)
{
    return b->opened[consumer] == b->p->batch_count ? b->used[consumer] : 0;
}

static struct plan_batch *open_one(const struct plan_batcher *b)
{
    return b->p->batch_count ? &b->p->batches[b->p->batch_count - 1] : NULL;
}

static void close_batch(struct plan_batcher *b)
{
    struct plan_batch *batch = open_one(b);
    if (!batch)
        return;
    struct plan_use *uses = b->uses + (b->use_count - batch->use_count);
    for (uint32_t i = 0; i < batch->use_count; i++)
        uses[i].slot_used = b->used[uses[i].consumer];
    if (batch->use_count > 1)
        qsort(uses, batch->use_count, sizeof(*uses), compare_uses);
}

static enum ckpt_status open_batch(struct plan_batcher *b, uint32_t pack, struct ckpt_err *err)
{
    struct plan *p = b->p;
    if (!array_room((void **)&p->batches, p->batch_count, &b->batch_cap, sizeof(*p->batches)))
        return no_memory(b, err);
    p->batches[p->batch_count++] =
        (struct plan_batch){ .rank = b->rank, .pack = b->manifest->packs[pack] };
    return CKPT_OK;
}

struct chunk_of { /* one tile and who needs it */
    const struct manifest_box *box;
    const struct plan_hit *hits;
    size_t count;
    unsigned bits;
};

/* Keeps the tile of the chunk that is being opened. */
static enum ckpt_status add_tile(struct plan_batcher *b, const struct box *tile,
                                 struct ckpt_err *err)
{
    for (uint32_t i = 0; i < 2 * tile->ndim; i++) {
        if (!array_room((void **)&b->words, b->word_count, &b->word_cap, sizeof(*b->words)))
            return no_memory(b, err);
        b->words[b->word_count++] = i < tile->ndim ? tile->off[i] : tile->len[i - tile->ndim];
    }
    open_one(b)->word_count += 2 * tile->ndim;
    return CKPT_OK;
}

static enum ckpt_status open_chunk(struct plan_batcher *b, const struct chunk_of *of,
                                   struct ckpt_err *err)
{
    struct plan_batch *batch = open_one(b);
    uint64_t number = of->hits[0].tile;
    struct box tile =
        of->box->chunks == 1 ? of->box->box : tile_at(&of->box->box, of->box->tile, number);
    if (!array_room((void **)&b->chunks, b->chunk_count, &b->chunk_cap, sizeof(*b->chunks)))
        return no_memory(b, err);
    struct plan_chunk *c = &b->chunks[b->chunk_count++];
    *c = (struct plan_chunk){
        .digest = of->box->digests[number],
        .index = (uint32_t)(of->box->first_chunk + number - batch->pack.first_chunk),
        .raw_bytes = (uint32_t)box_bytes(&tile, of->bits),
        .first_frag = batch->frag_count,
        .tile = batch->word_count,
    };
    batch->chunk_count++;
    b->p->read_bytes += c->raw_bytes;
    return add_tile(b, &tile, err);
}

static enum ckpt_status use_slot(struct plan_batcher *b, uint32_t consumer, struct ckpt_err *err)
{
    if (b->opened[consumer] == b->p->batch_count)
        return CKPT_OK;
    if (!array_room((void **)&b->uses, b->use_count, &b->use_cap, sizeof(*b->uses)))
        return no_memory(b, err);
    b->opened[consumer] = b->p->batch_count;
    b->used[consumer] = 0;
    b->uses[b->use_count++] = (struct plan_use){ .consumer = consumer };
    open_one(b)->use_count++;
    return CKPT_OK;
}

static enum ckpt_status add_frag(struct plan_batcher *b, const struct plan_hit *h,
                                 struct ckpt_err *err)
{
    uint32_t consumer = consumer_of(b, h);
    enum ckpt_status st = use_slot(b, consumer, err);
    if (st != CKPT_OK)
        return st;
    if (!array_room((void **)&b->frags, b->frag_count, &b->frag_cap, sizeof(*b->frags)))
        return no_memory(b, err);
    uint64_t offset = image_offset_next(&b->used[consumer], h->bytes);
    b->frags[b->frag_count++] = (struct plan_frag){ h->part, (uint32_t)offset };
    open_one(b)->frag_count++;
    b->chunks[b->chunk_count - 1].frag_count++;
    b->p->consumer_bytes[consumer] += h->bytes;
    return CKPT_OK;
}

/* True if all fragments of a chunk fit into what the open batch has left. */
static bool chunk_fits(const struct plan_batcher *b, const struct chunk_of *of)
{
    uint64_t used = 0;
    for (size_t i = 0; i < of->count; i++) {
        const struct plan_hit *h = &of->hits[i];
        if (i == 0 || consumer_of(b, h) != consumer_of(b, h - 1))
            used = used_of(b, consumer_of(b, h));
        image_offset_next(&used, h->bytes);
        if (used > b->slot_bytes)
            return false;
    }
    return true;
}

static bool frag_fits(const struct plan_batcher *b, const struct plan_hit *h)
{
    uint64_t used = used_of(b, consumer_of(b, h));
    image_offset_next(&used, h->bytes);
    return used <= b->slot_bytes;
}

/* A chunk whose fragments do not fit into one slot (very many tiny pieces) is read once
 * for each batch that it takes. */
static enum ckpt_status add_chunk(struct plan_batcher *b, const struct chunk_of *of, uint32_t pack,
                                  struct ckpt_err *err)
{
    const struct plan_batch *batch = open_one(b);
    bool same = batch && batch->rank == b->rank &&
                batch->pack.first_chunk == b->manifest->packs[pack].first_chunk;
    bool whole = same && chunk_fits(b, of), fresh = !whole;
    enum ckpt_status st = CKPT_OK;
    for (size_t i = 0; st == CKPT_OK && i < of->count; i++) {
        fresh = fresh || (!whole && !frag_fits(b, &of->hits[i]));
        if (fresh) {
            close_batch(b);
            st = open_batch(b, pack, err);
        }
        if (st == CKPT_OK && (fresh || i == 0))
            st = open_chunk(b, of, err);
        if (st == CKPT_OK)
            st = add_frag(b, &of->hits[i], err);
        fresh = false;
    }
    return st;
}

enum ckpt_status plan_batcher_add(struct plan_batcher *b, const struct index_tensor *saved,
                                  const struct manifest_box *box, const struct plan_hit *hits,
                                  size_t count, struct ckpt_err *err)
{
    struct chunk_of of = { .box = box, .bits = dtype_bits(saved->dtype) };
    if (box->first_chunk < b->ordinal)
        return err_set(err, CKPT_CORRUPT, "tensor %s: two boxes of rank %u claim chunk %" PRIu64,
                       saved->name, b->rank, box->first_chunk);
    b->ordinal = box->first_chunk + box->chunks;
    for (size_t i = 0; i < count; i += of.count) {
        of.hits = hits + i;
        for (of.count = 1; i + of.count < count && hits[i + of.count].tile == hits[i].tile;)
            of.count++;
        uint64_t ordinal = box->first_chunk + hits[i].tile;
        uint32_t pack = manifest_pack_of(b->manifest, ordinal);
        if (pack == UINT32_MAX)
            return err_set(err, CKPT_CORRUPT,
                           "tensor %s: rank %u's manifest has no pack for chunk %" PRIu64,
                           saved->name, b->rank, ordinal);
        enum ckpt_status st = add_chunk(b, &of, pack, err);
        if (st != CKPT_OK)
            return st;
    }
    return CKPT_OK;
}

/* Arrays have moved while they grew: batches learn only now where their parts lie. */
void plan_batcher_finish(struct plan_batcher *b)
{
    size_t chunk = 0, frag = 0, use = 0, word = 0;
    close_batch(b);
    for (size_t i = 0; i < b->p->batch_count; i++) {
        struct plan_batch *batch = &b->p->batches[i];
        batch->chunks = b->chunks + chunk;
        batch->frags = b->frags + frag;
        batch->uses = b->uses + use;
        batch->words = b->words + word;
        batch->parts = b->p->parts;
        chunk += batch->chunk_count;
        frag += batch->frag_count;
        use += batch->use_count;
        word += batch->word_count;
    }
    b->chunks = NULL; /* the plan owns them now */
    b->frags = NULL;
    b->uses = NULL;
    b->words = NULL;
}
