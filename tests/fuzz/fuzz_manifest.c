/* A whole manifest: header, then each block that the header names, decoded and walked. */
#include "formats/manifest.h"
#include "formats/manifest_layout.h"
#include "fuzz/fuzz.h"

static void check_tensor(const struct manifest_header *h, const struct manifest_tensor *t)
{
    unsigned bits = dtype_bits(t->dtype);
    FUZZ_CHECK(bits && t->ndim <= CKPT_DIMS_MAX);
    FUZZ_CHECK(tensor_name_check(t->name, strlen(t->name), NULL) == CKPT_OK);
    for (uint32_t i = 0; i < t->box_count; i++) {
        const struct manifest_box *b = &t->boxes[i];
        FUZZ_CHECK(b->chunks && b->first_chunk + b->chunks <= h->chunk_count);
        FUZZ_CHECK(manifest_pack_of(h, b->first_chunk) < h->pack_count);
        fuzz_touch(b->digests, b->chunks * sizeof(*b->digests));
        struct box tile = tile_at(&b->box, b->tile, b->chunks - 1);
        FUZZ_CHECK(box_contains(&b->box, &tile));
        FUZZ_CHECK(box_bytes(&tile, bits) <= CKPT_CHUNK_BYTES_MAX);
    }
    for (uint32_t i = 0; i < t->witness_count; i++) {
        fuzz_touch(&t->witnesses[i], sizeof(t->witnesses[i]));
        FUZZ_CHECK(box_bytes(&t->witnesses[i].box, bits) <= CKPT_CHUNK_BYTES_MAX);
    }
}

/* One step of a walk that expects what `like` says, or nothing. */
static enum ckpt_status walk_one(struct manifest_walk *w, const struct manifest_tensor *like,
                                 const struct manifest_tensor **ret, struct ckpt_err *err)
{
    struct manifest_known known = { 0 };
    CLEANUP_BUF struct buf b = { 0 };
    bool was = false;
    if (like) {
        known.desc = (struct desc){ .name = like->name, .alias = like->alias };
        DESC_COPY(&known.desc, like);
        desc_encode(&known.desc, &b);
        known.bytes = b.data;
        known.len = b.len;
    }
    enum ckpt_status st = manifest_walk_next(w, like ? &known : NULL, ret, &was, err);
    FUZZ_CHECK(!was || (like && strcmp((*ret)->name, like->name) == 0));
    return st;
}

/* Walking finds what decoding found, whatever is expected: nothing, the right description or the
 * one before.  want: NULL if decoding refused the block. */
static void check_walk(const struct manifest_header *h, uint32_t i, const uint8_t *block,
                       const struct manifest_tensors *want)
{
    struct ckpt_err err = { 0 };
    struct manifest_walk *w = manifest_walk_new();
    FUZZ_CHECK(w);
    enum ckpt_status st = manifest_walk_block(w, h, i, block, h->blocks[i].bytes, &err);
    const struct manifest_tensor *t = NULL;
    for (size_t k = 0; st == CKPT_OK; k++) {
        bool expects = want && k < want->count && k % 3;
        st = walk_one(w, expects ? &want->tensors[k - k % 3 / 2] : NULL, &t, &err);
        if (st != CKPT_OK || !t)
            break;
        check_tensor(h, t);
        if (!want)
            continue;
        FUZZ_CHECK(k < want->count && strcmp(t->name, want->tensors[k].name) == 0);
        FUZZ_CHECK(t->box_count == want->tensors[k].box_count);
        FUZZ_CHECK(t->witness_count == want->tensors[k].witness_count);
    }
    FUZZ_CHECK((st == CKPT_OK) == (want != NULL) && (st == CKPT_OK || err.text[0]));
    manifest_walk_free(w);
}

static void check_block(const struct manifest_header *h, uint32_t i, const uint8_t *bytes,
                        size_t len)
{
    const struct manifest_block *b = &h->blocks[i];
    struct manifest_tensors t;
    struct ckpt_err err = { 0 };
    FUZZ_CHECK(manifest_block_of(h, b->first) == i);
    if (b->offset > len || b->bytes > len - b->offset)
        return;
    FUZZ_CHECK(manifest_block_decode(h, i, bytes + b->offset, b->bytes - 1u, &t, NULL) ==
               CKPT_CORRUPT);
    if (manifest_block_decode(h, i, bytes + b->offset, b->bytes, &t, &err) != CKPT_OK) {
        FUZZ_CHECK(err.text[0]);
        check_walk(h, i, bytes + b->offset, NULL);
        return;
    }
    FUZZ_CHECK(t.count == b->tensors);
    check_walk(h, i, bytes + b->offset, &t);
    for (size_t k = 0; k < t.count; k++) {
        check_tensor(h, &t.tensors[k]);
        FUZZ_CHECK(manifest_block_of(h, t.tensors[k].name) != UINT32_MAX);
    }
    manifest_tensors_fini(&t);
}

static void check_header(const struct manifest_header *h, const uint8_t *bytes)
{
    uint64_t chunks = 0;
    for (uint32_t i = 0; i < h->pack_count; i++) {
        FUZZ_CHECK(h->packs[i].first_chunk == chunks);
        FUZZ_CHECK(manifest_pack_of(h, chunks) == i);
        chunks += h->packs[i].chunks;
        FUZZ_CHECK(manifest_pack_of(h, chunks - 1) == i);
    }
    FUZZ_CHECK(manifest_pack_of(h, chunks) == UINT32_MAX);
    (void)manifest_block_of(h, "");
    FUZZ_CHECK(job_name_check(h->job, NULL) == CKPT_OK);
    if (!(h->flags & MANIFEST_FLAG_FAILED))
        return;
    CLEANUP_BUF struct buf again = { 0 };
    struct sha256 sha;
    manifest_encode_failed(h, &again, &sha);
    fuzz_same(&again, bytes, h->header_bytes);
}

void fuzz_one(const uint8_t *bytes, size_t len)
{
    struct manifest_header h;
    struct manifest_tensors none;
    struct ckpt_err err = { 0 };
    const struct sha256 wrong = { { 1 } };
    uint32_t peek = manifest_header_peek(bytes, len);
    if (manifest_header_decode(bytes, len, NULL, &h, &err) != CKPT_OK) {
        FUZZ_CHECK(err.text[0]);
        return;
    }
    FUZZ_CHECK(peek == h.header_bytes && peek <= len);
    struct sha256 sha = sha256_of(bytes, peek);
    struct manifest_header again;
    FUZZ_CHECK(manifest_header_decode(bytes, len, &wrong, &again, NULL) == CKPT_CORRUPT);
    FUZZ_CHECK(manifest_header_decode(bytes, len, &sha, &again, NULL) == CKPT_OK);
    manifest_header_fini(&again);
    check_header(&h, bytes);
    for (uint32_t i = 0; i < h.block_count; i++)
        check_block(&h, i, bytes, len);
    FUZZ_CHECK(manifest_block_decode(&h, h.block_count, bytes, 0, &none, NULL) == CKPT_CORRUPT);
    manifest_header_fini(&h);
}

/* --- sums ---------------------------------------------------------------------- */

static void skip_str(struct cursor *c)
{
    cursor_bytes(c, cursor_u16(c));
}

/* Walks the header as far as it makes sense and gives each block its digest. */
static void fix_blocks(uint8_t *bytes, size_t len, uint32_t header_bytes)
{
    uint32_t packs = fuzz_get_u32(bytes + 52), blocks = fuzz_get_u32(bytes + 56);
    uint32_t metrics = fuzz_get_u32(bytes + 60);
    struct cursor c = cursor_over(bytes, header_bytes);
    uint64_t offset = header_bytes;
    cursor_bytes(&c, MANIFEST_FIXED_BYTES);
    skip_str(&c);
    skip_str(&c);
    for (uint32_t i = 0; cursor_ok(&c) && i < metrics; i++) {
        skip_str(&c);
        cursor_u64(&c);
    }
    cursor_bytes(&c, packs * (size_t)MANIFEST_PACK_BYTES);
    for (uint32_t i = 0; cursor_ok(&c) && i < blocks; i++) {
        uint32_t size = cursor_u32(&c);
        cursor_bytes(&c, 12);
        const uint8_t *at = cursor_bytes(&c, sizeof(struct digest));
        if (!at || offset > len || size > len - offset)
            return;
        struct digest sum = digest_of(bytes + offset, size);
        memcpy(bytes + (at - bytes), sum.b, sizeof(sum.b));
        offset += size;
        skip_str(&c);
    }
}

void fuzz_fix(uint8_t *bytes, size_t len)
{
    if (len < MANIFEST_FIXED_BYTES + sizeof(struct digest))
        return;
    memcpy(bytes, MANIFEST_MAGIC, 8);
    uint32_t header_bytes = fuzz_get_u32(bytes + MANIFEST_HEADER_BYTES_AT);
    if (header_bytes < MANIFEST_FIXED_BYTES + sizeof(struct digest) || header_bytes > len) {
        header_bytes = (uint32_t)len; /* as if there were no blocks */
        fuzz_put_u32(bytes + MANIFEST_HEADER_BYTES_AT, header_bytes);
    }
    fix_blocks(bytes, len, header_bytes);
    fuzz_fix_trailer(bytes, header_bytes);
}
