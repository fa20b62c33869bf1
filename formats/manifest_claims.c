/* Each chunk of a manifest belongs to exactly one box: a bit for each, set once. */
#include <assert.h>
#include <inttypes.h>

#include "formats/manifest.h"

enum ckpt_status manifest_claims_init(struct manifest_claims *c, const struct manifest_header *h,
                                      struct ckpt_err *err)
{
    uint64_t *bits = calloc(h->chunk_count / 64 + 1, sizeof(*bits));
    if (!bits)
        return err_set(err, CKPT_NO_MEMORY, "no memory for a manifest's %" PRIu64 " chunks",
                       h->chunk_count);
    *c = (struct manifest_claims){ .bits = bits, .chunks = h->chunk_count };
    return CKPT_OK;
}

static enum ckpt_status claim(struct manifest_claims *c, const struct manifest_box *b,
                              const char *tensor, struct ckpt_err *err)
{
    /* manifest_block_decode has checked the range against the header's count. */
    assert(b->first_chunk <= c->chunks && b->chunks <= c->chunks - b->first_chunk);
    for (uint64_t i = b->first_chunk; i < b->first_chunk + b->chunks; i++) {
        uint64_t bit = UINT64_C(1) << i % 64;
        if (c->bits[i / 64] & bit)
            return err_set(err, CKPT_CORRUPT,
                           "damaged manifest: tensor %s: chunk %" PRIu64 " is another box's too",
                           tensor, i);
        c->bits[i / 64] |= bit;
    }
    c->claimed += b->chunks;
    return CKPT_OK;
}

enum ckpt_status manifest_claims_add_one(struct manifest_claims *c, const struct manifest_tensor *t,
                                         struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_OK;
    for (uint32_t i = 0; st == CKPT_OK && i < t->box_count; i++)
        st = claim(c, &t->boxes[i], t->name, err);
    return st;
}

enum ckpt_status manifest_claims_add(struct manifest_claims *c, const struct manifest_tensors *t,
                                     struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_OK;
    for (size_t i = 0; st == CKPT_OK && i < t->count; i++)
        st = manifest_claims_add_one(c, &t->tensors[i], err);
    return st;
}

enum ckpt_status manifest_claims_finish(const struct manifest_claims *c, struct ckpt_err *err)
{
    if (c->claimed != c->chunks)
        return err_set(err, CKPT_CORRUPT,
                       "damaged manifest: %" PRIu64 " of %" PRIu64 " chunks belong to no box",
                       c->chunks - c->claimed, c->chunks);
    return CKPT_OK;
}

void manifest_claims_fini(struct manifest_claims *c)
{
    if (!c)
        return;
    free(c->bits);
    *c = (struct manifest_claims){ 0 };
}
