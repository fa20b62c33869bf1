/* One slot becomes one pack; at the end the manifest says what the packs hold.
 *
 *   slot ──digests──► id ──┬─ stored: head | the slot itself          (no copy)
 *                          └─ zstd:   head | coded chunks in the pool buffer
 */
#include "storage/repo/save.h"

#include <assert.h>

#include "storage/repo/recode.h"

struct save_work {
    uint64_t slot_bytes;
    uint8_t *head;  /* room for the largest head */
    uint8_t *coded; /* body of a coded pack; its pages are touched by coding only */
    uint64_t coded_cap;
    struct codec *codec;
    struct pack_chunk *chunks; /* CKPT_PACK_CHUNKS_MAX */
    uint32_t *raw_bytes;       /* the same number */
};

struct save_work *save_work_new(uint64_t slot_bytes)
{
    struct save_work *w = calloc(1, sizeof(*w));
    if (!w)
        return NULL;
    w->slot_bytes = slot_bytes;
    w->coded_cap = recode_bytes_max(slot_bytes);
    w->head = aligned_alloc(CKPT_BLOCK, pack_head_bytes(CKPT_PACK_CHUNKS_MAX));
    w->coded = aligned_alloc(CKPT_BLOCK, w->coded_cap);
    w->codec = codec_new();
    w->chunks = calloc(CKPT_PACK_CHUNKS_MAX, sizeof(*w->chunks));
    w->raw_bytes = calloc(CKPT_PACK_CHUNKS_MAX, sizeof(*w->raw_bytes));
    if (w->head && w->coded && w->codec && w->chunks && w->raw_bytes)
        return w;
    save_work_free(w);
    return NULL;
}

void save_work_free(struct save_work *w)
{
    if (!w)
        return;
    free(w->head);
    free(w->coded);
    codec_free(w->codec);
    free(w->chunks);
    free(w->raw_bytes);
    free(w);
}

void save_digest(const struct save_slot *in, struct digest *digests, uint32_t *crcs)
{
    struct decl_walk walk = decl_walk_slot(in->d, in->slot);
    struct decl_tile tile;
    uint64_t end = 0;
    while (decl_walk_next(&walk, &tile)) {
        uint32_t i = tile.place.chunk;
        memset(in->memory + end, 0, tile.place.offset - end);
        end = tile.place.offset + tile.bytes;
        digests[i] = digest_and_crc32c(in->memory + tile.place.offset, tile.bytes, &crcs[i]);
    }
    memset(in->memory + end, 0, align_up(end, CKPT_BLOCK) - end);
}

/* The chunks as they lie in the slot. */
static void describe(struct save_work *w, const struct save_slot *in, const uint32_t *crcs)
{
    struct decl_walk walk = decl_walk_slot(in->d, in->slot);
    struct decl_tile tile;
    while (decl_walk_next(&walk, &tile)) {
        uint32_t i = tile.place.chunk;
        w->raw_bytes[i] = tile.bytes;
        w->chunks[i] = (struct pack_chunk){ .offset = tile.place.offset,
                                            .stored_bytes = tile.bytes,
                                            .raw_bytes = tile.bytes,
                                            .crc = crcs[i],
                                            .codec = CODEC_STORED };
    }
}

static enum ckpt_status put_pack(struct store *s, struct save_work *w, const struct save_slot *in,
                                 struct pack_head *head, uint8_t *body, struct ckpt_err *err)
{
    pack_head_encode(head, w->head);
    const struct iovec iov[] = {
        { .iov_base = w->head, .iov_len = pack_head_bytes(head->chunk_count) },
        { .iov_base = body, .iov_len = head->body_bytes },
    };
    struct key key = key_pack(in->job, &in->name, in->rank, in->slot, &head->id);
    return store_put(s, key.text, iov, ARRAY_COUNT(iov), STORE_DIRECT_HINT, err);
}

enum ckpt_status save_pack(struct store *s, struct save_work *w, const struct save_slot *in,
                           const struct digest *digests, const uint32_t *crcs,
                           struct save_packed *ret, struct ckpt_err *err)
{
    const struct decl_slot *slot = &in->d->slots[in->slot];
    assert(in->d->slot_bytes <= w->slot_bytes && (uintptr_t)in->memory % CKPT_BLOCK == 0);
    bool image = in->codec.codec == CODEC_STORED;
    uint64_t end = slot->used;
    uint8_t *body = in->memory;
    describe(w, in, crcs);
    if (!image) {
        enum ckpt_status st = recode_chunks(w->codec, in->codec.codec, in->codec.level, in->memory,
                                            w->chunks, slot->chunks, w->coded, w->coded_cap, &end);
        if (st != CKPT_OK)
            return err_set(err, st, "rank %u, slot %u: coding failed", in->rank, in->slot);
        body = w->coded;
    }
    struct pack_head head = {
        .name = in->name,
        .job_hash = digest_hash(in->job, strlen(in->job)),
        .rank = in->rank,
        .slot = in->slot,
        .flags = image ? PACK_FLAG_IMAGE : 0,
        .id = pack_id(digests, w->raw_bytes, slot->chunks),
        .body_bytes = align_up(end, CKPT_BLOCK),
        .chunk_count = slot->chunks,
        .chunks = w->chunks,
    };
    enum ckpt_status st = put_pack(s, w, in, &head, body, err);
    if (st != CKPT_OK)
        return st;
    *ret =
        (struct save_packed){ .id = head.id,
                              .stored_bytes = pack_head_bytes(head.chunk_count) + head.body_bytes };
    return CKPT_OK;
}

/* Adopts what is there when it is equal (put-if-absent does that), else says so. */
static enum ckpt_status put_manifest(struct store *s, const struct manifest_header *h,
                                     const struct buf *b, struct ckpt_err *err)
{
    struct key key = key_manifest(h->job, &h->name, h->rank);
    enum ckpt_status st = repo_put(s, &key, b, err);
    if (st == CKPT_CONFLICT)
        err_prefix(err, "rank %u has already put another manifest for this attempt", h->rank);
    return st;
}

/* Stored bytes are an account, not a fact of the checkpoint: a retry that coded a pack
 * to another size finds the first account, which stays. */
static enum ckpt_status put_rank_held(struct store *s, const struct manifest_header *h,
                                      const struct decl *d, uint64_t stored_bytes,
                                      struct ckpt_err *err)
{
    const struct record_rank_held r = { .name = h->name,
                                        .rank = h->rank,
                                        .pack_count = h->pack_count,
                                        .stored_bytes = stored_bytes,
                                        .whole = d->hold_bytes == d->raw_bytes };
    struct key key = key_rank_held(h->job, &h->name, h->rank);
    CLEANUP_BUF struct buf b = { 0 };
    record_rank_held_encode(&r, key.text, &b);
    struct ckpt_err why = { 0 };
    enum ckpt_status st = repo_put(s, &key, &b, &why);
    if (st != CKPT_OK && st != CKPT_CONFLICT)
        return err_set(err, st, "%s", err_text(&why));
    return CKPT_OK;
}

enum ckpt_status save_finish(struct store *s, const struct manifest_header *h,
                             const struct manifest_source *from, uint64_t stored_bytes,
                             struct ckpt_err *err)
{
    enum ckpt_status st = save_settle(s, h, from, stored_bytes, err);
    return st == CKPT_OK ? save_tell(s, h, from, err) : st;
}

enum ckpt_status save_settle(struct store *tier, const struct manifest_header *h,
                             const struct manifest_source *from, uint64_t stored_bytes,
                             struct ckpt_err *err)
{
    assert(h->pack_count == from->d->slot_count && !(h->flags & MANIFEST_FLAG_FAILED));
    enum ckpt_status st = CKPT_OK;
    if (h->pack_count > 0) {
        struct key dir = key_data(h->job, key_shard(h->rank), &h->name);
        st = store_sync(tier, dir.text, err);
    }
    /* Before the manifest: once all manifests are there anybody may commit, and a commit
     * whose parts are not all accounted for is not held, so nobody could resume from it.
     * A crash behind this line leaves an account of packs that nobody refers to. */
    return st == CKPT_OK ? put_rank_held(tier, h, from->d, stored_bytes, err) : st;
}

enum ckpt_status save_tell(struct store *home, const struct manifest_header *h,
                           const struct manifest_source *from, struct ckpt_err *err)
{
    CLEANUP_BUF struct buf b = { 0 };
    struct sha256 sha;
    manifest_encode_source(h, from, &b, &sha);
    return put_manifest(home, h, &b, err);
}

enum ckpt_status save_failed(struct store *s, const struct manifest_header *h, struct ckpt_err *err)
{
    CLEANUP_BUF struct buf b = { 0 };
    struct sha256 sha;
    manifest_encode_failed(h, &b, &sha);
    return put_manifest(s, h, &b, err);
}
