/* Walking a block of a manifest says what decoding it says, tensor by tensor, whatever
 * description is expected; and of damaged bytes (with a digest that matches them) it
 * refuses what decoding refuses. */
#include "formats/manifest.h"
#include "unit/decl_random.h"

#define SLOT CKPT_SLOT_BYTES_MIN

struct census {
    long tensors, known, unknown, boxes, damaged, refused, accepted;
};
struct sample {
    struct buf bytes;
    struct manifest_header h;
};

static void sample_init(struct sample *s, unsigned long long *seed, size_t tensors)
{
    struct decl d = { 0 };
    struct sha256 sha;
    *s = (struct sample){ 0 };
    random_decl(seed, &d, tensors);
    CHECK_OK(decl_finish(&d, SLOT, NULL));
    struct digest *digests = calloc(d.chunk_count + 1, sizeof(*digests));
    struct manifest_header h = { .name = { 1, 2, 3 }, .world = 1, .job = "job" };
    h.packs = calloc(d.slot_count + 1, sizeof(*h.packs));
    CHECK(digests && h.packs);
    for (uint32_t i = 0; i < d.slot_count; i++)
        h.packs[i] = (struct manifest_pack){ .slot = i, .chunks = d.slots[i].chunks };
    h.pack_count = d.slot_count;
    manifest_encode(&h, &d, digests, &s->bytes, &sha);
    CHECK(!s->bytes.failed);
    CHECK_OK(manifest_header_decode(s->bytes.data, s->bytes.len, &sha, &s->h, NULL));
    free(digests);
    free(h.packs);
    decl_fini(&d);
}

static void sample_fini(struct sample *s)
{
    manifest_header_fini(&s->h);
    buf_fini(&s->bytes);
}

static void known_of(const struct manifest_tensor *t, struct manifest_known *ret)
{
    struct buf b = { 0 };
    *ret = (struct manifest_known){ .desc = { .name = t->name, .alias = t->alias } };
    DESC_COPY(&ret->desc, t);
    desc_encode(&ret->desc, &b);
    ret->bytes = b.data;
    ret->len = b.len;
}

static void check_same(const struct manifest_tensor *a, const struct manifest_tensor *b)
{
    CHECK_STR(a->name, b->name);
    CHECK(!a->alias == !b->alias && (!a->alias || strcmp(a->alias, b->alias) == 0));
    CHECK(a->dtype == b->dtype && a->kind == b->kind && a->flags == b->flags);
    CHECK(a->ndim == b->ndim && memcmp(a->shape, b->shape, sizeof(a->shape)) == 0);
    CHECK(memcmp(a->block, b->block, sizeof(a->block)) == 0);
    CHECK_EQ(a->box_count, b->box_count);
    CHECK_EQ(a->witness_count, b->witness_count);
    for (uint32_t i = 0; i < a->box_count; i++) {
        const struct manifest_box *x = &a->boxes[i], *y = &b->boxes[i];
        CHECK(box_equal(&x->box, &y->box) && x->first_chunk == y->first_chunk);
        CHECK(x->chunks == y->chunks && x->digests == y->digests);
        CHECK(memcmp(x->tile, y->tile, a->ndim * sizeof(x->tile[0])) == 0);
    }
}

/* Expected is now and then the right one, the one before, or nothing. */
static enum ckpt_status walk_block(struct manifest_walk *w, const struct sample *s, uint32_t block,
                                   const struct manifest_tensors *want, unsigned long long *seed,
                                   struct census *c)
{
    const struct manifest_block *b = &s->h.blocks[block];
    struct ckpt_err err = { 0 };
    enum ckpt_status st =
        manifest_walk_block(w, &s->h, block, s->bytes.data + b->offset, b->bytes, &err);
    for (size_t i = 0; st == CKPT_OK; i++) {
        struct manifest_known known = { 0 };
        uint64_t what = below(seed, 3);
        const struct manifest_tensor *t;
        bool was = false;
        if (want && what && i < want->count)
            known_of(&want->tensors[what == 1 || i == 0 ? i : i - 1], &known);
        st = manifest_walk_next(w, what ? &known : NULL, &t, &was, &err);
        free(known.bytes);
        if (st != CKPT_OK || !t) {
            CHECK(st != CKPT_OK || !want || i == want->count);
            break;
        }
        c->tensors++;
        c->boxes += t->box_count;
        c->known += was;
        c->unknown += !was;
        if (want) {
            CHECK(i < want->count);
            CHECK_EQ(was, known.bytes && (what == 1 || i == 0));
            check_same(t, &want->tensors[i]);
        }
    }
    CHECK(st == CKPT_OK || err_text(&err)[0]);
    return st;
}

static void test_same(struct manifest_walk *w, unsigned long long *seed, struct census *c)
{
    struct sample s;
    sample_init(&s, seed, below(seed, 12) ? below(seed, 60) : 1500);
    for (uint32_t b = 0; b < s.h.block_count; b++) {
        struct manifest_tensors t;
        CHECK_OK(manifest_block_decode(&s.h, b, s.bytes.data + s.h.blocks[b].offset,
                                       s.h.blocks[b].bytes, &t, NULL));
        CHECK_OK(walk_block(w, &s, b, &t, seed, c));
        manifest_tensors_fini(&t);
    }
    sample_fini(&s);
}

/* A few bytes of a block changed, its digest made to match. */
static void test_damaged(struct manifest_walk *w, unsigned long long *seed, struct census *c)
{
    struct sample s;
    sample_init(&s, seed, 1 + below(seed, 10));
    for (int i = 0; i < 40 && s.h.block_count; i++) {
        struct manifest_block *b = &s.h.blocks[below(seed, s.h.block_count)];
        uint8_t *at = s.bytes.data + b->offset, was[4];
        size_t place = below(seed, b->bytes - 3);
        memcpy(was, at + place, 4);
        for (size_t k = 0; k <= below(seed, 3); k++)
            at[place + k] = (uint8_t)(below(seed, 2) ? 0xff : below(seed, 256));
        b->digest = digest_of(at, b->bytes);
        struct manifest_tensors t;
        uint32_t n = (uint32_t)(b - s.h.blocks);
        enum ckpt_status st = manifest_block_decode(&s.h, n, at, b->bytes, &t, NULL);
        CHECK_EQ(walk_block(w, &s, n, NULL, seed, c), st);
        if (st == CKPT_OK)
            manifest_tensors_fini(&t);
        c->damaged++;
        c->refused += st != CKPT_OK;
        c->accepted += st == CKPT_OK;
        memcpy(at + place, was, 4);
        b->digest = digest_of(at, b->bytes);
        if (i == 0) { /* the digest itself */
            at[place] ^= 1;
            CHECK_EQ(walk_block(w, &s, n, NULL, seed, c), CKPT_CORRUPT);
            at[place] ^= 1;
        }
    }
    sample_fini(&s);
}

/* An expected description is no excuse for the order: "b" renamed "a", behind "a". */
static void test_order(struct manifest_walk *w)
{
    struct decl d = { 0 };
    struct sha256 sha;
    CLEANUP_BUF struct buf bytes = { 0 };
    struct manifest_header in = { .name = { 1, 2, 3 }, .world = 1, .job = "job" }, h;
    char name[] = "a";
    struct decl_tensor t = { .name = name, .dtype = CKPT_DTYPE_F32, .ndim = 1, .shape = { 4 } };
    CHECK_OK(decl_add_tensor(&d, &t, NULL));
    name[0] = 'b';
    CHECK_OK(decl_add_tensor(&d, &t, NULL));
    CHECK_OK(decl_finish(&d, SLOT, NULL));
    manifest_encode(&in, &d, NULL, &bytes, &sha);
    CHECK_OK(manifest_header_decode(bytes.data, bytes.len, &sha, &h, NULL));
    struct manifest_block *b = &h.blocks[0];
    uint8_t *at = bytes.data + b->offset, *other = memchr(at + DESC_NAME_AT + 1, 'b', b->bytes);
    CHECK(other);
    *other = 'a';
    b->digest = digest_of(at, b->bytes);
    struct manifest_known known;
    const struct manifest_tensor *first, *again;
    bool was;
    CHECK_OK(manifest_walk_block(w, &h, 0, at, b->bytes, NULL));
    CHECK_OK(manifest_walk_next(w, NULL, &first, &was, NULL));
    known_of(first, &known);
    CHECK_EQ(manifest_walk_next(w, &known, &again, &was, NULL), CKPT_CORRUPT);
    CHECK(was);
    free(known.bytes);
    manifest_header_fini(&h);
    decl_fini(&d);
}

int main(void)
{
    unsigned long long seed = test_seed(405);
    struct census c = { 0 };
    struct manifest_walk *w = manifest_walk_new();
    CHECK(w);
    for (int i = 0; i < 150 / TEST_TENTH; i++) {
        test_same(w, &seed, &c);
        test_damaged(w, &seed, &c);
    }
    test_order(w);
    manifest_walk_free(w);
    printf("tensors %ld known %ld unknown %ld boxes %ld damaged %ld refused %ld accepted %ld\n",
           c.tensors, c.known, c.unknown, c.boxes, c.damaged, c.refused, c.accepted);
    CHECK(c.known && c.unknown && c.boxes && c.refused && c.accepted);
    TEST_CASES(c.tensors + c.damaged);
    return 0;
}
