/* One pack, from the nearest source that has it right.
 *
 *   read whole ─► head, every sum, and for stored chunks every digest ─┬─► as it is ─► put
 *                                                                      └─► coded    ─► put
 *
 * Digests of stored chunks cost nothing beside their CRC, and the pack's name is made of
 * them: so a stored pack that arrives is known to hold what was saved. */
#include <assert.h>
#include <stdio.h>

#include "storage/repo/drain.h"
#include "storage/repo/recode.h"

#define CODED_GAIN 3 /* percent that coding must save, else the image goes as it is */

struct drain_work {
    uint64_t slot_bytes;
    uint8_t *object; /* head and body as read */
    uint64_t object_cap;
    uint8_t *coded; /* a body */
    uint64_t coded_cap;
    uint8_t *head; /* of the coded pack */
    struct codec *codec;
    struct pack_chunk *chunks;
    struct digest *digests;
    uint32_t *raw_bytes;
};

struct drain_work *drain_work_new(uint64_t slot_bytes)
{
    struct drain_work *w = calloc(1, sizeof(*w));
    uint64_t head = pack_head_bytes(CKPT_PACK_CHUNKS_MAX);
    if (!w)
        return NULL;
    w->slot_bytes = slot_bytes;
    w->coded_cap = recode_bytes_max(slot_bytes);
    w->object_cap = head + w->coded_cap; /* a coded pack may be larger than its slot */
    w->object = aligned_alloc(CKPT_BLOCK, w->object_cap);
    w->coded = aligned_alloc(CKPT_BLOCK, w->coded_cap);
    w->head = aligned_alloc(CKPT_BLOCK, head);
    w->codec = codec_new();
    w->chunks = calloc(CKPT_PACK_CHUNKS_MAX, sizeof(*w->chunks));
    w->digests = calloc(CKPT_PACK_CHUNKS_MAX, sizeof(*w->digests));
    w->raw_bytes = calloc(CKPT_PACK_CHUNKS_MAX, sizeof(*w->raw_bytes));
    if (w->object && w->coded && w->head && w->codec && w->chunks && w->digests && w->raw_bytes)
        return w;
    drain_work_free(w);
    return NULL;
}

void drain_work_free(struct drain_work *w)
{
    if (!w)
        return;
    free(w->object);
    free(w->coded);
    free(w->head);
    codec_free(w->codec);
    free(w->chunks);
    free(w->digests);
    free(w->raw_bytes);
    free(w);
}

/* A slot may be larger than this daemon's: saved by one with other slots. */
static enum ckpt_status make_room(struct drain_work *w, uint64_t bytes, struct ckpt_err *err)
{
    if (bytes <= w->object_cap)
        return CKPT_OK;
    uint64_t cap = align_up(bytes, CKPT_BLOCK), coded_cap = recode_bytes_max(cap);
    uint8_t *object = aligned_alloc(CKPT_BLOCK, cap), *coded = aligned_alloc(CKPT_BLOCK, coded_cap);
    if (!object || !coded) {
        free(object);
        free(coded);
        return err_set(err, CKPT_NO_MEMORY, "no memory for a pack of %llu bytes",
                       (unsigned long long)bytes);
    }
    free(w->object);
    free(w->coded);
    w->object = object;
    w->object_cap = cap;
    w->coded = coded;
    w->coded_cap = coded_cap;
    return CKPT_OK;
}

struct pack_read {
    const struct drain *d;
    struct drain_work *w;
    const char *key;
    uint32_t rank;
    const struct manifest_pack *pack;
    struct pack_head head;
    uint64_t len;
};

static enum ckpt_status check_head(struct pack_read *p, struct ckpt_err *err)
{
    const struct drain *d = p->d;
    p->head = (struct pack_head){ .chunks = p->w->chunks };
    enum ckpt_status st = pack_head_decode(p->w->object, p->len, p->pack->chunks, &p->head, err);
    if (st != CKPT_OK)
        return st;
    if (!name_equal(&p->head.name, &d->name) || p->head.rank != p->rank ||
        p->head.slot != p->pack->slot || !digest_equal(&p->head.id, &p->pack->id) ||
        p->head.job_hash != digest_hash(d->job, strlen(d->job)))
        return err_set(err, CKPT_CORRUPT, "it is another pack under this name");
    if (p->len != pack_head_bytes(p->head.chunk_count) + p->head.body_bytes)
        return err_set(err, CKPT_CORRUPT, "it has another length than its head says");
    return CKPT_OK;
}

/* *ret_stored: all chunks are stored, so that the digests are known. */
static enum ckpt_status check_chunks(struct pack_read *p, bool *ret_stored, struct ckpt_err *err)
{
    const uint8_t *body = p->w->object + pack_head_bytes(p->head.chunk_count);
    bool stored = true;
    for (uint32_t i = 0; i < p->head.chunk_count; i++) {
        const struct pack_chunk *c = &p->w->chunks[i];
        uint32_t crc;
        p->w->raw_bytes[i] = c->raw_bytes;
        if (c->codec == CODEC_STORED && c->planes == 0) {
            p->w->digests[i] = digest_and_crc32c(body + c->offset, c->stored_bytes, &crc);
        } else {
            stored = false;
            crc = crc32c(body + c->offset, c->stored_bytes);
        }
        if (crc != c->crc)
            return err_set(err, CKPT_CORRUPT, "chunk %u is damaged: its CRC32C differs", i);
    }
    *ret_stored = stored;
    if (!stored)
        return CKPT_OK;
    struct digest id = pack_id(p->w->digests, p->w->raw_bytes, p->head.chunk_count);
    if (!digest_equal(&id, &p->pack->id))
        return err_set(err, CKPT_CORRUPT, "its name does not follow from its chunks");
    return CKPT_OK;
}

static enum ckpt_status read_pack(struct pack_read *p, struct store *s, bool *ret_stored,
                                  struct ckpt_err *err)
{
    struct store_stat stat;
    enum ckpt_status st = store_stat(s, p->key, &stat, err);
    if (st != CKPT_OK)
        return st;
    uint64_t head = pack_head_bytes(p->pack->chunks);
    if (stat.bytes < head || stat.bytes > head + recode_bytes_max(CKPT_SLOT_BYTES_MAX))
        return err_set(err, CKPT_CORRUPT, "a pack of %llu bytes", (unsigned long long)stat.bytes);
    st = make_room(p->w, stat.bytes, err);
    if (st != CKPT_OK)
        return st;
    const struct store_range range = { .bytes = stat.bytes, .base = p->w->object };
    p->len = stat.bytes;
    st = store_get(s, p->key, &range, 1, err);
    if (st == CKPT_OK)
        st = check_head(p, err);
    return st == CKPT_OK ? check_chunks(p, ret_stored, err) : st;
}

/* Each source once, and where bytes were wrong, once more. */
static enum ckpt_status read_somewhere(struct pack_read *p, bool *ret_stored, struct ckpt_err *err)
{
    struct ckpt_err worst = { 0 };
    enum ckpt_status st = CKPT_NOT_FOUND;
    for (size_t i = 0; i < p->d->source_count; i++) {
        for (int round = 0; round < 2; round++) {
            struct ckpt_err why = { 0 };
            enum ckpt_status got = read_pack(p, p->d->sources[i], ret_stored, &why);
            if (got == CKPT_OK || got == CKPT_CANCELLED || got == CKPT_NO_MEMORY)
                return got == CKPT_OK ? got : err_set(err, got, "%s", err_text(&why));
            if (st == CKPT_NOT_FOUND || got == CKPT_CORRUPT) {
                st = got;
                worst = why;
            }
            if (got != CKPT_CORRUPT)
                break;
        }
    }
    if (st == CKPT_NOT_FOUND)
        return err_set(err, CKPT_IO, "%s is missing in every store", p->key);
    return err_set(err, st, "%s: %s", p->key, err_text(&worst));
}

/* False: nothing is gained. */
static bool code(struct pack_read *p, uint64_t *ret_bytes)
{
    struct drain_work *w = p->w;
    uint32_t head_bytes = pack_head_bytes(p->head.chunk_count);
    uint64_t end = 0;
    if (recode_chunks(w->codec, p->d->codec.codec, p->d->codec.level, w->object + head_bytes,
                      w->chunks, p->head.chunk_count, w->coded, w->coded_cap, &end) != CKPT_OK)
        return false;
    uint64_t body = align_up(end, CKPT_BLOCK);
    if (body >= p->head.body_bytes - p->head.body_bytes * CODED_GAIN / 100)
        return false;
    p->head.flags = 0;
    p->head.body_bytes = body;
    pack_head_encode(&p->head, w->head);
    *ret_bytes = body;
    return true;
}

enum ckpt_status drain_pack(const struct drain *d, struct drain_work *w, uint32_t rank,
                            const struct manifest_pack *pack, uint64_t *ret_bytes,
                            struct ckpt_err *err)
{
    struct key key = key_pack(d->job, &d->name, rank, pack->slot, &pack->id);
    struct pack_read p = { .d = d, .w = w, .key = key.text, .rank = rank, .pack = pack };
    bool stored = false;
    uint64_t body;
    if (pack->chunks == 0 || pack->chunks > CKPT_PACK_CHUNKS_MAX)
        return err_set(err, CKPT_CORRUPT, "%s: the manifest says %u chunks", key.text,
                       pack->chunks);
    enum ckpt_status st = read_somewhere(&p, &stored, err);
    if (st != CKPT_OK)
        return st;
    uint64_t head_bytes = pack_head_bytes(pack->chunks);
    struct iovec iov[2] = { { w->object, p.len }, { 0 } };
    int count = 1;
    if (stored && d->codec.codec != CODEC_STORED && code(&p, &body)) {
        iov[0] = (struct iovec){ w->head, head_bytes };
        iov[1] = (struct iovec){ w->coded, body };
        p.len = head_bytes + body;
        count = 2;
    }
    st = store_put(d->to, key.text, iov, count, STORE_DIRECT_HINT, err);
    if (st == CKPT_OK)
        *ret_bytes = p.len;
    return st;
}

enum ckpt_status drain_mend_pack(const struct drain *d, struct drain_work *w, uint32_t rank,
                                 const struct manifest_pack *pack, bool *ret_mended,
                                 struct ckpt_err *err)
{
    struct key key = key_pack(d->job, &d->name, rank, pack->slot, &pack->id);
    struct pack_read p = { .d = d, .w = w, .key = key.text, .rank = rank, .pack = pack };
    struct ckpt_err why = { 0 };
    bool stored;
    uint64_t bytes;
    *ret_mended = false;
    enum ckpt_status st = read_pack(&p, d->to, &stored, &why);
    if (st == CKPT_CORRUPT) /* once more: it may have been the way and not the disk */
        st = read_pack(&p, d->to, &stored, &why);
    if (st == CKPT_OK)
        return st;
    if (st != CKPT_CORRUPT && st != CKPT_NOT_FOUND)
        return err_set(err, st, "%s: %s", key.text, err_text(&why));
    st = drain_pack(d, w, rank, pack, &bytes, err);
    *ret_mended = st == CKPT_OK;
    return st;
}
