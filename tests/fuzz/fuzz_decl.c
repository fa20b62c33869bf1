/* Declaration bytes, as a client sends them to the daemon. */
#include "formats/decl.h"
#include "fuzz/fuzz.h"

/* A short input can declare a tensor of 64 TiB, whose 2^24 tiles take the decoder a
 * second to lay out: the walk over them is cut short here. */
#define SLOTS_WALKED 8

static void check_slot(const struct decl *d, uint32_t slot)
{
    struct decl_walk w = decl_walk_slot(d, slot);
    struct decl_tile tile;
    uint32_t n = 0;
    while (n < 256 && decl_walk_next(&w, &tile)) {
        FUZZ_CHECK(tile.place.offset + tile.bytes <= d->slot_bytes);
        FUZZ_CHECK(tile.chunk == d->slots[slot].first_chunk + n);
        FUZZ_CHECK(box_contains(&d->pieces[tile.piece].box, &tile.box));
        n++;
    }
    FUZZ_CHECK(n > 0 && d->slots[slot].used <= d->slot_bytes);
}

static void check_decl(const struct decl *d, const uint8_t *bytes, size_t len)
{
    CLEANUP_BUF struct buf again = { 0 };
    for (size_t i = 0; i < d->tensor_count; i++) {
        const struct decl_tensor *t = &d->tensors[i];
        FUZZ_CHECK(decl_find(d, t->name) == t);
        for (size_t k = 0; k < t->piece_count; k++) {
            const struct decl_piece *p = &d->pieces[t->first_piece + k];
            struct box share;
            if (box_volume(&p->box) && decl_share(t, p, p->replica_count - 1, &share))
                FUZZ_CHECK(box_contains(&p->box, &share));
        }
    }
    for (uint32_t i = 0; i < d->slot_count && i < SLOTS_WALKED; i++)
        check_slot(d, i);
    for (uint64_t i = 0; i < d->witness_count && i < SLOTS_WALKED; i++) {
        struct decl_witness w = decl_witness_at(d, i);
        FUZZ_CHECK(box_contains(&d->pieces[w.piece].box, &w.box));
        FUZZ_CHECK(w.bytes > 0 && w.bytes <= CKPT_CHUNK_BYTES_MAX);
    }
    struct digest sum = decl_signature(d);
    fuzz_touch(&sum, sizeof(sum));
    decl_encode(d, &again);
    fuzz_same(&again, bytes, len);
}

void fuzz_one(const uint8_t *bytes, size_t len)
{
    struct decl d;
    struct ckpt_err err = { 0 };
    if (decl_decode(bytes, len, CKPT_SLOT_BYTES_MIN, &d, &err) != CKPT_OK) {
        FUZZ_CHECK(err.text[0]);
        return;
    }
    check_decl(&d, bytes, len);
    decl_fini(&d);
}

void fuzz_fix(uint8_t *bytes, size_t len)
{
    fuzz_fix_trailer(bytes, len);
}
