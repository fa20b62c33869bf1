/* Rank manifests out of a declaration (FORMAT.md, "Manifest").  Reading them back is
 * in manifest_read.c. */
#include "formats/manifest.h"

#include <assert.h>

#include "formats/desc.h"
#include "formats/manifest_layout.h"

struct writer {
    const struct manifest_source *from;
    struct buf body;    /* the blocks */
    struct buf table;   /* their entries in the header */
    size_t block_start; /* of the open block in body */
    uint32_t blocks;
    struct manifest_block open; /* counts of the open block */
    const char *first;
};

static void put_name(struct buf *out, const struct ckpt_name *name)
{
    buf_u64(out, name->epoch);
    buf_u64(out, name->step);
    buf_u64(out, name->attempt);
}

static void put_box(struct writer *w, const struct decl_piece *p)
{
    struct buf *out = &w->body;
    desc_encode_box(&p->share, out);
    for (uint32_t i = 0; i < p->share.ndim; i++)
        buf_u64(out, p->tile[i]);
    buf_u64(out, p->first_chunk);
    buf_u64(out, p->chunks);
    buf_bytes(out, w->from->digests + p->first_chunk, p->chunks * sizeof(struct digest));
}

static uint32_t put_boxes(struct writer *w, const struct decl_tensor *t)
{
    uint32_t count = 0;
    for (size_t i = 0; i < t->piece_count; i++) {
        const struct decl_piece *p = &w->from->d->pieces[t->first_piece + i];
        if (p->writes) {
            put_box(w, p);
            count++;
        }
    }
    return count;
}

/* Where the witnesses of `tensor` begin in the sorted array. */
static size_t first_seen(const struct manifest_source *from, size_t tensor)
{
    size_t low = 0, high = from->seen_count;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (from->seen[mid].tensor < tensor)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static uint32_t put_witnesses(struct writer *w, size_t tensor)
{
    const struct manifest_source *from = w->from;
    uint32_t count = 0;
    for (size_t i = first_seen(from, tensor); i < from->seen_count; i++, count++) {
        const struct manifest_seen *seen = &from->seen[i];
        if (seen->tensor != tensor)
            break;
        desc_encode_box(&seen->witness.box, &w->body);
        buf_bytes(&w->body, seen->witness.digest.b, sizeof(seen->witness.digest.b));
    }
    return count;
}

static void close_block(struct writer *w)
{
    size_t bytes = w->body.len - w->block_start;
    if (!w->open.tensors || w->body.failed)
        return;
    struct digest sum = digest_of(w->body.data + w->block_start, bytes);
    assert(bytes <= MANIFEST_BLOCK_BYTES_MAX); /* DECL_TABLE_BYTES_MAX sees to it */
    buf_u32(&w->table, (uint32_t)bytes);
    buf_u32(&w->table, w->open.tensors);
    buf_u32(&w->table, w->open.boxes);
    buf_u32(&w->table, w->open.witnesses);
    buf_bytes(&w->table, sum.b, sizeof(sum.b));
    buf_str(&w->table, w->first);
    w->open = (struct manifest_block){ 0 };
    w->block_start = w->body.len;
    w->blocks++;
}

static void put_tensor(struct writer *w, size_t ordinal)
{
    const struct decl_tensor *t = &w->from->d->tensors[ordinal];
    struct desc desc = { .name = t->name, .alias = t->alias };
    DESC_COPY(&desc, t);
    if (!w->open.tensors)
        w->first = t->name;
    desc_encode(&desc, &w->body);
    size_t counts = w->body.len;
    buf_zero(&w->body, 8);
    uint32_t boxes = put_boxes(w, t), witnesses = put_witnesses(w, ordinal);
    if (w->body.failed)
        return;
    buf_patch_u32(&w->body, counts, boxes);
    buf_patch_u32(&w->body, counts + 4, witnesses);
    w->open.tensors++;
    w->open.boxes += boxes;
    w->open.witnesses += witnesses;
    if (w->body.len - w->block_start >= MANIFEST_BLOCK_BYTES)
        close_block(w);
}

static void put_blocks(struct writer *w)
{
    const struct decl *d = w->from->d;
    for (size_t i = 0; i < d->tensor_count; i++)
        put_tensor(w, d->by_name[i]);
    close_block(w);
}

/* The first MANIFEST_FIXED_BYTES; header_bytes is patched in later. */
static void put_fixed(const struct manifest_header *h, const struct decl *d, uint32_t blocks,
                      struct buf *out)
{
    static const struct ckpt_name none;
    buf_bytes(out, MANIFEST_MAGIC, 8);
    buf_u16(out, MANIFEST_VERSION);
    buf_u16(out, h->flags);
    buf_zero(out, 4);
    put_name(out, &h->name);
    buf_u32(out, h->rank);
    buf_u32(out, h->world);
    buf_u32(out, h->try_);
    buf_u32(out, d ? h->pack_count : 0);
    buf_u32(out, blocks);
    buf_u32(out, h->metric_count);
    buf_bytes(out, h->node, sizeof(h->node));
    put_name(out, h->has_parent ? &h->parent : &none);
    buf_u64(out, (uint64_t)h->time_ns);
    buf_u64(out, d ? d->raw_bytes : 0);
    buf_u64(out, d ? d->chunk_count : 0);
    buf_u64(out, d ? d->tensor_count : 0);
    buf_u16(out, (uint16_t)h->fail_status);
    buf_u8(out, h->has_parent);
    buf_zero(out, 5);
    buf_zero(out, MANIFEST_RESERVED_BYTES);
}

static void put_header(const struct manifest_header *h, const struct decl *d,
                       const struct writer *w, struct buf *out, struct sha256 *ret_sha)
{
    size_t start = out->len;
    put_fixed(h, d, w->blocks, out);
    buf_str(out, h->job);
    buf_str(out, h->flags & MANIFEST_FLAG_FAILED ? h->fail_text : "");
    for (uint32_t i = 0; i < h->metric_count; i++) {
        buf_str(out, h->metrics[i].name);
        buf_f64(out, h->metrics[i].value);
    }
    for (uint32_t i = 0; d && i < h->pack_count; i++) {
        buf_u32(out, h->packs[i].slot);
        buf_u32(out, h->packs[i].chunks);
        buf_bytes(out, h->packs[i].id.b, sizeof(h->packs[i].id.b));
    }
    if (w->table.len)
        buf_bytes(out, w->table.data, w->table.len);
    if (out->failed)
        return;
    size_t bytes = out->len - start + sizeof(struct digest);
    assert(bytes <= MANIFEST_HEADER_BYTES_MAX);
    buf_patch_u32(out, start + MANIFEST_HEADER_BYTES_AT, (uint32_t)bytes);
    struct digest sum = digest_of(out->data + start, out->len - start);
    buf_bytes(out, sum.b, sizeof(sum.b));
    if (!out->failed)
        *ret_sha = sha256_of(out->data + start, bytes);
}

void manifest_encode_source(const struct manifest_header *h, const struct manifest_source *from,
                            struct buf *out, struct sha256 *ret_sha)
{
    uint64_t chunks = 0;
    struct writer w = { .from = from };
    for (uint32_t i = 0; i < h->pack_count; i++)
        chunks += h->packs[i].chunks;
    assert(from->d->finished && chunks == from->d->chunk_count);
    assert(!(h->flags & MANIFEST_FLAG_FAILED) && h->metric_count <= RECORD_METRICS_MAX);
    put_blocks(&w);
    out->failed |= w.body.failed || w.table.failed;
    if (!out->failed)
        put_header(h, from->d, &w, out, ret_sha);
    if (!out->failed && w.body.len)
        buf_bytes(out, w.body.data, w.body.len);
    buf_fini(&w.body);
    buf_fini(&w.table);
}

void manifest_encode(const struct manifest_header *h, const struct decl *d,
                     const struct digest *digests, struct buf *out, struct sha256 *ret_sha)
{
    struct manifest_source from = { .d = d, .digests = digests };
    manifest_encode_source(h, &from, out, ret_sha);
}

void manifest_encode_failed(const struct manifest_header *h, struct buf *out,
                            struct sha256 *ret_sha)
{
    struct writer none = { 0 };
    assert(h->flags & MANIFEST_FLAG_FAILED && h->metric_count <= RECORD_METRICS_MAX);
    put_header(h, NULL, &none, out, ret_sha);
}
