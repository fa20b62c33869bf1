/* Object by object.  Every byte of an object is looked at: what no sum covers must be
 * zero or must not be there. */
#include "storage/repo/scrub_check.h"

#include <inttypes.h>

#include "formats/pack.h"
#include "storage/repo/publish_merge.h"

/* --- records -------------------------------------------------------------------- */

enum ckpt_status scrub_check_commit(struct scrub_context *c, struct store *s,
                                    const struct scrub_object *o, struct ckpt_err *err)
{
    CLEANUP_FREE void *bytes = NULL;
    size_t len = 0;
    struct record_commit got;
    enum ckpt_status st = repo_get(s, &o->key, &bytes, &len, err);
    if (st == CKPT_OK)
        st = record_commit_decode(bytes, len, o->key.text, &got, err);
    if (st == CKPT_OK && !name_equal(&got.name, &c->name))
        st = err_set(err, CKPT_CORRUPT, "it names another checkpoint");
    return st;
}

enum ckpt_status scrub_check_held(struct scrub_context *c, struct store *s,
                                  const struct scrub_object *o, struct ckpt_err *err)
{
    CLEANUP_FREE void *bytes = NULL;
    size_t len = 0;
    struct record_held got;
    enum ckpt_status st = repo_get(s, &o->key, &bytes, &len, err);
    if (st == CKPT_OK)
        st = record_held_decode(bytes, len, o->key.text, &got, err);
    if (st == CKPT_OK &&
        (!name_equal(&got.name, &c->name) || got.world != reader_commit(c->r)->world))
        st = err_set(err, CKPT_CORRUPT, "it is of another checkpoint");
    return st;
}

enum ckpt_status scrub_check_rank_held(struct scrub_context *c, struct store *s,
                                       const struct scrub_object *o, struct ckpt_err *err)
{
    CLEANUP_FREE void *bytes = NULL;
    size_t len = 0;
    struct record_rank_held got;
    enum ckpt_status st = repo_get(s, &o->key, &bytes, &len, err);
    if (st == CKPT_OK)
        st = record_rank_held_decode(bytes, len, o->key.text, &got, err);
    if (st != CKPT_OK)
        return st;
    const struct manifest_header *h;
    st = reader_manifest(c->r, o->rank, &h, err);
    if (st == CKPT_OK && (!name_equal(&got.name, &c->name) || got.rank != o->rank ||
                          got.pack_count != h->pack_count))
        st = err_set(err, CKPT_CORRUPT, "it does not fit rank %u's manifest", o->rank);
    return st;
}

/* --- index and manifests -------------------------------------------------------- */

static enum ckpt_status check_rank_block(const struct index_header *h, uint32_t i,
                                         const uint8_t *bytes, struct ckpt_err *err)
{
    CLEANUP_FREE struct index_rank *ranks = calloc(INDEX_RANKS_PER_BLOCK, sizeof(*ranks));
    uint32_t count;
    if (!ranks)
        return err_set(err, CKPT_NO_MEMORY, "no memory for the rank table");
    return index_rank_block_decode(h, i, bytes, h->rank_blocks[i].bytes, ranks, &count, err);
}

static enum ckpt_status check_tensor_block(const struct index_header *h, uint32_t i,
                                           const uint8_t *bytes, struct ckpt_err *err)
{
    struct index_tensors t;
    enum ckpt_status st = index_block_decode(h, i, bytes, h->blocks[i].bytes, &t, err);
    if (st == CKPT_OK)
        index_tensors_fini(&t);
    return st;
}

/* Blocks of one table that lie in the segment; adds their bytes to *covered. */
static enum ckpt_status check_table(const struct index_header *h, bool ranks, uint32_t segment,
                                    const uint8_t *bytes, uint64_t *covered, struct ckpt_err *err)
{
    uint32_t count = ranks ? h->rank_block_count : h->block_count;
    for (uint32_t i = 0; i < count; i++) {
        const struct index_block *b = ranks ? &h->rank_blocks[i] : &h->blocks[i];
        if (b->segment != segment)
            continue;
        if (b->offset > h->segment_bytes[segment] ||
            b->bytes > h->segment_bytes[segment] - b->offset)
            return err_set(err, CKPT_CORRUPT, "a block lies outside its segment");
        enum ckpt_status st = ranks ? check_rank_block(h, i, bytes + b->offset, err)
                                    : check_tensor_block(h, i, bytes + b->offset, err);
        if (st != CKPT_OK)
            return st;
        *covered += b->bytes;
    }
    return CKPT_OK;
}

enum ckpt_status scrub_index_sound(struct reader *r, uint32_t k, const void *bytes, size_t len,
                                   struct ckpt_err *err)
{
    const struct index_header *h = reader_index(r);
    const struct record_commit *commit = reader_commit(r);
    uint64_t covered = 0;
    if (len != h->segment_bytes[k])
        return err_set(err, CKPT_CORRUPT, "%zu bytes instead of %" PRIu64, len,
                       h->segment_bytes[k]);
    if (k == 0) {
        struct sha256 sha = sha256_of(bytes, min_u64(commit->index_header_bytes, len));
        if (!sha256_equal(&sha, &commit->index_sha))
            return err_set(err, CKPT_CORRUPT, "the header is not the one of the commit");
        covered = commit->index_header_bytes;
    }
    enum ckpt_status st = check_table(h, true, k, bytes, &covered, err);
    if (st == CKPT_OK)
        st = check_table(h, false, k, bytes, &covered, err);
    if (st == CKPT_OK && covered != len)
        st = err_set(err, CKPT_CORRUPT, "bytes that belong to no block");
    return st;
}

enum ckpt_status scrub_check_index(struct scrub_context *c, struct store *s,
                                   const struct scrub_object *o, struct ckpt_err *err)
{
    CLEANUP_FREE void *bytes = NULL;
    size_t len = 0;
    uint64_t max = reader_index(c->r)->segment_bytes[o->k];
    enum ckpt_status st = store_get_all(s, o->key.text, max, &bytes, &len, err);
    return st == CKPT_OK ? scrub_index_sound(c->r, o->k, bytes, len, err) : st;
}

enum ckpt_status scrub_manifest_sound(struct reader *r, const struct merge_manifest *m,
                                      uint32_t rank, struct ckpt_err *err)
{
    const struct index_rank *entry;
    enum ckpt_status st = reader_rank(r, rank, &entry, err);
    if (st != CKPT_OK)
        return st;
    struct sha256 sha = sha256_of(m->bytes, m->header.header_bytes);
    if (m->len != entry->bytes || m->header.header_bytes != entry->header_bytes ||
        !sha256_equal(&sha, &entry->sha) ||
        memcmp(m->header.node, entry->node, sizeof(entry->node)) != 0)
        st = err_set(err, CKPT_CORRUPT, "it is not the manifest that the index vouches for");
    uint64_t end = m->header.header_bytes;
    for (uint32_t i = 0; i < m->header.block_count && st == CKPT_OK; i++) {
        const struct manifest_block *b = &m->header.blocks[i];
        struct manifest_tensors t;
        if (b->offset != end || b->bytes > m->len - end)
            st = err_set(err, CKPT_CORRUPT, "block %u is not where it must be", i);
        else
            st = manifest_block_decode(&m->header, i, (uint8_t *)m->bytes + end, b->bytes, &t, err);
        if (st == CKPT_OK)
            manifest_tensors_fini(&t);
        end += b->bytes;
    }
    if (st == CKPT_OK && end != m->len)
        st = err_set(err, CKPT_CORRUPT, "bytes behind the last block");
    return st;
}

enum ckpt_status scrub_check_manifest(struct scrub_context *c, struct store *s,
                                      const struct scrub_object *o, struct ckpt_err *err)
{
    struct merge_manifest m;
    enum ckpt_status st = merge_read(s, c->job, &c->name, o->rank, &m, err);
    if (st != CKPT_OK)
        return st;
    st = scrub_manifest_sound(c->r, &m, o->rank, err);
    merge_manifest_fini(&m);
    return st;
}

/* --- packs ---------------------------------------------------------------------- */

static bool all_zero(const uint8_t *p, uint64_t n)
{
    return n == 0 || (p[0] == 0 && memcmp(p, p + 1, n - 1) == 0);
}

static enum ckpt_status read_pack(struct scrub_context *c, struct store *s,
                                  const struct scrub_object *o, uint64_t *ret_len,
                                  struct ckpt_err *err)
{
    struct store_stat stat;
    enum ckpt_status st = store_stat(s, o->key.text, &stat, err);
    if (st != CKPT_OK)
        return st;
    uint64_t head = pack_head_bytes(o->pack->chunks);
    if (stat.bytes < head + CKPT_BLOCK || stat.bytes > head + CKPT_SLOT_BYTES_MAX)
        return err_set(err, CKPT_CORRUPT, "a pack of %" PRIu64 " bytes", stat.bytes);
    if (stat.bytes > head + c->slot_bytes_max)
        return err_set(err, CKPT_LIMIT,
                       "a pack of %" PRIu64 " bytes; memory was allowed for %" PRIu64, stat.bytes,
                       head + c->slot_bytes_max);
    if (stat.bytes > c->buffer_bytes) {
        free(c->buffer);
        c->buffer_bytes = align_up(stat.bytes, CKPT_BLOCK);
        c->buffer = aligned_alloc(CKPT_BLOCK, c->buffer_bytes);
        if (!c->buffer) {
            c->buffer_bytes = 0;
            return err_set(err, CKPT_NO_MEMORY, "no memory for a pack");
        }
    }
    const struct store_range range = { .bytes = stat.bytes, .base = c->buffer };
    *ret_len = stat.bytes;
    return store_get(s, o->key.text, &range, 1, err);
}

static enum ckpt_status check_chunk(struct scrub_context *c, const struct scrub_object *o,
                                    const uint8_t *body, uint32_t i, struct ckpt_err *err)
{
    const struct pack_chunk *p = &c->chunks[i];
    const struct scrub_chunk *want = &o->rank_chunks[o->pack->first_chunk + i];
    struct box tile = tile_at(&want->box->box, want->box->tile, want->tile);
    const char *what = NULL;
    const uint8_t *raw = body + p->offset;
    if (p->raw_bytes != box_bytes(&tile, dtype_bits(want->tensor->dtype)))
        what = "has another size than its tile";
    else if (crc32c(raw, p->stored_bytes) != p->crc)
        what = "is damaged: its CRC32C differs";
    if (!what && (p->codec != CODEC_STORED || p->planes)) {
        if (codec_decode(c->codec, p->codec, p->planes, raw, p->stored_bytes, c->decoded,
                         p->raw_bytes) != CKPT_OK)
            what = "cannot be decoded";
        raw = c->decoded;
    }
    if (!what) {
        struct digest digest = digest_of(raw, p->raw_bytes);
        if (!digest_equal(&digest, &want->box->digests[want->tile]))
            what = "has other bytes than were saved: its digest differs";
    }
    c->chunks_checked++;
    char text[400];
    return what ? err_set(err, CKPT_CORRUPT, "tensor %s, box %s: chunk %u %s", want->tensor->name,
                          box_to_text(&tile, text, sizeof(text)), i, what)
                : CKPT_OK;
}

static enum ckpt_status check_pack_head(const struct scrub_context *c, const struct scrub_object *o,
                                        const struct pack_head *head, uint64_t len,
                                        struct ckpt_err *err)
{
    if (!name_equal(&head->name, &c->name) || head->rank != o->rank ||
        head->slot != o->pack->slot || !digest_equal(&head->id, &o->pack->id) ||
        head->job_hash != digest_hash(c->job, strlen(c->job)))
        return err_set(err, CKPT_CORRUPT, "it is another pack under this name");
    if (len != pack_head_bytes(head->chunk_count) + head->body_bytes)
        return err_set(err, CKPT_CORRUPT, "it has another length than its head says");
    for (uint32_t i = 0; i < head->chunk_count; i++) {
        const struct scrub_chunk *want = &o->rank_chunks[o->pack->first_chunk + i];
        c->digests[i] = want->box->digests[want->tile];
        c->raw_bytes[i] = head->chunks[i].raw_bytes;
    }
    struct digest id = pack_id(c->digests, c->raw_bytes, head->chunk_count);
    if (!digest_equal(&id, &head->id))
        return err_set(err, CKPT_CORRUPT, "its name does not follow from its chunks");
    return CKPT_OK;
}

enum ckpt_status scrub_check_pack(struct scrub_context *c, struct store *s,
                                  const struct scrub_object *o, struct ckpt_err *err)
{
    uint64_t len = 0, end = 0;
    struct pack_head head = { .chunks = c->chunks };
    enum ckpt_status st = read_pack(c, s, o, &len, err);
    if (st == CKPT_OK)
        st = pack_head_decode(c->buffer, len, o->pack->chunks, &head, err);
    if (st == CKPT_OK)
        st = check_pack_head(c, o, &head, len, err);
    if (st != CKPT_OK)
        return st;
    const uint8_t *body = c->buffer + pack_head_bytes(head.chunk_count);
    for (uint32_t i = 0; i < head.chunk_count; i++) {
        if (!all_zero(body + end, head.chunks[i].offset - end))
            return err_set(err, CKPT_CORRUPT, "the gap before chunk %u is not zero", i);
        st = check_chunk(c, o, body, i, err);
        if (st != CKPT_OK)
            return st;
        end = head.chunks[i].offset + head.chunks[i].stored_bytes;
    }
    if (!all_zero(body + end, head.body_bytes - end))
        return err_set(err, CKPT_CORRUPT, "what follows the last chunk is not zero");
    return CKPT_OK;
}
