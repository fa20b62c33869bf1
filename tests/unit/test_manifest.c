/* Manifests: what a declaration says comes back whole, part by part; whatever a
 * digest covers is refused when changed; sizes that lie buy no memory.  Covers
 * manifest.c (writing), manifest_read.c (reading) and manifest_claims.c together. */
#include "formats/manifest.h"
#include "unit/decl_random.h"

#define SLOT (UINT64_C(8) << 20)

struct sample {
    struct decl d;
    struct digest *digests;
    struct manifest_pack *packs;
    struct manifest_seen *seen;
    size_t seen_count;
    struct manifest_header h;
    struct buf bytes;
    struct sha256 sha;
};

static void sample_fini(struct sample *s)
{
    decl_fini(&s->d);
    free(s->digests);
    free(s->packs);
    free(s->seen);
    buf_fini(&s->bytes);
}

static void fill(unsigned long long *seed, void *to, size_t n)
{
    for (size_t i = 0; i < n; i++)
        ((uint8_t *)to)[i] = (uint8_t)test_rand(seed);
}

static void sample_packs(struct sample *s, unsigned long long *seed)
{
    s->packs = calloc(s->d.slot_count + 1, sizeof(*s->packs));
    for (uint32_t i = 0; i < s->d.slot_count; i++) {
        s->packs[i] = (struct manifest_pack){ .slot = i,
                                              .chunks = s->d.slots[i].chunks,
                                              .first_chunk = s->d.slots[i].first_chunk };
        fill(seed, &s->packs[i].id, sizeof(s->packs[i].id));
    }
    s->h.pack_count = s->d.slot_count;
    s->h.packs = s->packs;
}

/* A witness for the first tile of a share of every third piece. */
static void sample_seen(struct sample *s, unsigned long long *seed)
{
    s->seen = calloc(s->d.piece_count + 1, sizeof(*s->seen));
    for (size_t i = 0; i < s->d.piece_count; i += 3) {
        const struct decl_piece *p = &s->d.pieces[i];
        if (!box_volume(&p->box))
            continue;
        struct manifest_seen *seen = &s->seen[s->seen_count++];
        seen->tensor = p->tensor;
        seen->witness.box = tile_at(&p->box, p->tile, 0);
        fill(seed, &seen->witness.digest, sizeof(seen->witness.digest));
    }
}

static void sample_init(struct sample *s, unsigned long long *seed, size_t tensors)
{
    memset(s, 0, sizeof(*s));
    random_decl(seed, &s->d, tensors);
    CHECK_OK(decl_finish(&s->d, SLOT, NULL));
    s->digests = calloc(s->d.chunk_count + 1, sizeof(*s->digests));
    fill(seed, s->digests, s->d.chunk_count * sizeof(*s->digests));
    struct manifest_header *h = &s->h;
    h->name = (struct ckpt_name){ 3, test_rand(seed), test_rand(seed) };
    h->world = 1 + (uint32_t)below(seed, CKPT_RANKS_MAX);
    h->rank = (uint32_t)below(seed, h->world);
    h->try_ = 2;
    h->flags = below(seed, 2) ? MANIFEST_FLAG_VANISHED_OK : 0;
    h->has_parent = below(seed, 2);
    h->parent = h->has_parent ? (struct ckpt_name){ 2, 77, 5 } : (struct ckpt_name){ 0 };
    h->time_ns = -5;
    fill(seed, h->node, sizeof(h->node));
    snprintf(h->job, sizeof(h->job), "job-%llu", (unsigned long long)below(seed, 1000));
    h->metric_count = (uint32_t)below(seed, 3);
    for (uint32_t i = 0; i < h->metric_count; i++) {
        snprintf(h->metrics[i].name, sizeof(h->metrics[i].name), "loss%u", i);
        h->metrics[i].value = (double)below(seed, 1000) / 7;
    }
    sample_packs(s, seed);
    sample_seen(s, seed);
    struct manifest_source from = {
        .d = &s->d, .digests = s->digests, .seen = s->seen, .seen_count = s->seen_count
    };
    manifest_encode_source(h, &from, &s->bytes, &s->sha);
    CHECK(!s->bytes.failed);
}

static void check_header(const struct sample *s, const struct manifest_header *h)
{
    const struct manifest_header *want = &s->h;
    CHECK(name_equal(&h->name, &want->name) && name_equal(&h->parent, &want->parent));
    CHECK(h->has_parent == want->has_parent && h->flags == want->flags);
    CHECK(h->rank == want->rank && h->world == want->world && h->try_ == want->try_);
    CHECK(h->time_ns == want->time_ns && memcmp(h->node, want->node, 16) == 0);
    CHECK_STR(h->job, want->job);
    CHECK_EQ(h->raw_bytes, s->d.raw_bytes);
    CHECK_EQ(h->chunk_count, s->d.chunk_count);
    CHECK_EQ(h->tensor_count, s->d.tensor_count);
    CHECK_EQ(h->metric_count, want->metric_count);
    for (uint32_t i = 0; i < h->metric_count; i++) {
        CHECK_STR(h->metrics[i].name, want->metrics[i].name);
        CHECK(memcmp(&h->metrics[i].value, &want->metrics[i].value, 8) == 0);
    }
    CHECK_EQ(h->pack_count, s->d.slot_count);
    CHECK(memcmp(h->packs, s->packs, h->pack_count * sizeof(*h->packs)) == 0);
    CHECK_EQ(h->header_bytes, manifest_header_peek(s->bytes.data, s->bytes.len));
    for (uint64_t i = 0; i < h->chunk_count; i++) {
        uint32_t k = manifest_pack_of(h, i);
        CHECK(i >= h->packs[k].first_chunk && i < h->packs[k].first_chunk + h->packs[k].chunks);
    }
    CHECK_EQ(manifest_pack_of(h, h->chunk_count), UINT32_MAX);
}

/* One decoded tensor against the declaration. */
static size_t check_tensor(const struct sample *s, const struct manifest_tensor *t)
{
    const struct decl_tensor *want = decl_find(&s->d, t->name);
    size_t boxes = 0, witnesses = 0;
    CHECK(want && want->dtype == t->dtype && want->kind == t->kind && want->flags == t->flags);
    CHECK(want->ndim == t->ndim && memcmp(want->shape, t->shape, sizeof(t->shape)) == 0);
    CHECK(memcmp(want->block, t->block, sizeof(t->block)) == 0);
    CHECK(!want->alias == !t->alias && (!t->alias || strcmp(t->alias, want->alias) == 0));
    for (size_t i = 0; i < want->piece_count; i++) {
        const struct decl_piece *p = &s->d.pieces[want->first_piece + i];
        if (!p->writes)
            continue;
        CHECK(boxes < t->box_count);
        const struct manifest_box *b = &t->boxes[boxes++];
        CHECK(box_equal(&b->box, &p->share));
        CHECK(b->first_chunk == p->first_chunk && b->chunks == p->chunks);
        CHECK(memcmp(b->tile, p->tile, t->ndim * sizeof(*b->tile)) == 0);
        CHECK(memcmp(b->digests, s->digests + p->first_chunk, 16 * p->chunks) == 0);
    }
    for (size_t i = 0; i < s->seen_count; i++) {
        if (s->seen[i].tensor != (size_t)(want - s->d.tensors))
            continue;
        CHECK(witnesses < t->witness_count);
        const struct manifest_witness *w = &t->witnesses[witnesses++];
        CHECK(box_equal(&w->box, &s->seen[i].witness.box));
        CHECK(digest_equal(&w->digest, &s->seen[i].witness.digest));
    }
    CHECK_EQ(boxes, t->box_count);
    CHECK_EQ(witnesses, t->witness_count);
    return boxes + witnesses;
}

/* The last chunk of each box once more, alone: refused, as is anything it overlaps. */
static void check_claimed_again(struct manifest_claims *claims, const struct manifest_tensors *t)
{
    for (size_t i = 0; i < t->count; i++) {
        if (!t->tensors[i].box_count)
            continue;
        struct manifest_box box = t->tensors[i].boxes[t->tensors[i].box_count - 1];
        struct manifest_tensor again = { .name = "again", .boxes = &box, .box_count = 1 };
        struct manifest_tensors one = { .tensors = &again, .count = 1 };
        struct ckpt_err err = { 0 };
        box.first_chunk += box.chunks - 1;
        box.chunks = 1;
        CHECK_EQ(manifest_claims_add(claims, &one, &err), CKPT_CORRUPT);
        CHECK(strstr(err.text, "another box's too"));
    }
}

static int test_identity(unsigned long long *seed)
{
    size_t parts = 0, many_blocks = 0;
    for (int round = 0; round < 80; round++) {
        struct sample s;
        sample_init(&s, seed, round % 10 == 9 ? 1500 : below(seed, 40));
        struct manifest_header h;
        CHECK_OK(manifest_header_decode(s.bytes.data, s.bytes.len, &s.sha, &h, NULL));
        check_header(&s, &h);
        size_t tensors = 0;
        uint64_t end = h.header_bytes;
        struct manifest_claims claims;
        CHECK_OK(manifest_claims_init(&claims, &h, NULL));
        for (uint32_t b = 0; b < h.block_count; b++) {
            struct manifest_tensors t;
            CHECK_EQ(h.blocks[b].offset, end);
            end += h.blocks[b].bytes;
            CHECK_OK(manifest_block_decode(&h, b, s.bytes.data + h.blocks[b].offset,
                                           h.blocks[b].bytes, &t, NULL));
            for (size_t i = 0; i < t.count; i++) {
                parts += check_tensor(&s, &t.tensors[i]);
                CHECK_EQ(manifest_block_of(&h, t.tensors[i].name), b);
            }
            tensors += t.count;
            CHECK_EQ(manifest_claims_finish(&claims, NULL),
                     claims.claimed < h.chunk_count ? CKPT_CORRUPT : CKPT_OK);
            CHECK_OK(manifest_claims_add(&claims, &t, NULL));
            if (claims.claimed)
                check_claimed_again(&claims, &t);
            manifest_tensors_fini(&t);
        }
        CHECK_EQ(end, s.bytes.len);
        CHECK_OK(manifest_claims_finish(&claims, NULL));
        manifest_claims_fini(&claims);
        CHECK_EQ(tensors, s.d.tensor_count);
        CHECK_EQ(manifest_block_of(&h, "!"), UINT32_MAX);
        many_blocks += h.block_count > 2;
        manifest_header_fini(&h);
        sample_fini(&s);
    }
    CHECK(parts > 1000 && many_blocks >= 5);
    return 80;
}

static int test_failed(void)
{
    struct manifest_header h = { .name = { 1, 2, 3 }, .world = 4, .rank = 3 }, back;
    struct buf bytes = { 0 };
    struct sha256 sha;
    h.flags = MANIFEST_FLAG_FAILED;
    h.fail_status = CKPT_FULL;
    snprintf(h.job, sizeof(h.job), "j");
    snprintf(h.fail_text, sizeof(h.fail_text), "disk full on node 7");
    manifest_encode_failed(&h, &bytes, &sha);
    CHECK_OK(manifest_header_decode(bytes.data, bytes.len, &sha, &back, NULL));
    CHECK_EQ(back.fail_status, CKPT_FULL);
    CHECK_STR(back.fail_text, "disk full on node 7");
    CHECK_EQ(back.header_bytes, bytes.len);
    CHECK_EQ(back.block_count + back.pack_count, 0);
    manifest_header_fini(&back);
    manifest_header_fini(NULL);
    manifest_tensors_fini(NULL);
    manifest_claims_fini(NULL);
    buf_fini(&bytes);
    return 1;
}

/* Decodes everything; CKPT_OK only if header and all blocks are. */
static enum ckpt_status decode_all(const uint8_t *bytes, size_t len, const struct sha256 *sha)
{
    struct manifest_header h;
    enum ckpt_status st = manifest_header_decode(bytes, len, sha, &h, NULL);
    if (st != CKPT_OK)
        return st;
    for (uint32_t b = 0; st == CKPT_OK && b < h.block_count; b++) {
        struct manifest_tensors t;
        if (h.blocks[b].offset + h.blocks[b].bytes > len) {
            st = CKPT_CORRUPT;
            break;
        }
        /* An exact copy, so that a sanitizer sees every byte too far. */
        CLEANUP_FREE uint8_t *copy = malloc(h.blocks[b].bytes);
        memcpy(copy, bytes + h.blocks[b].offset, h.blocks[b].bytes);
        st = manifest_block_decode(&h, b, copy, h.blocks[b].bytes, &t, NULL);
        if (st == CKPT_OK)
            manifest_tensors_fini(&t);
    }
    manifest_header_fini(&h);
    return st;
}

/* Makes the digests right again after a change: of the one block of a small
 * manifest, whose table entry ends the header, then of the header. */
static void reseal(struct buf *b, uint32_t header_bytes, size_t first_len)
{
    struct digest sum = digest_of(b->data + header_bytes, b->len - header_bytes);
    memcpy(b->data + header_bytes - 16 - 2 - first_len - 16, sum.b, 16);
    sum = digest_of(b->data, header_bytes - 16);
    memcpy(b->data + header_bytes - 16, sum.b, 16);
}

static int test_hostile(unsigned long long *seed)
{
    int cases = 0, refused = 0, sane = 0;
    for (int round = 0; round < 10; round++) {
        struct sample s;
        do
            sample_init(&s, seed, 1 + below(seed, 5)), refused = 0;
        while (s.d.chunk_count > 500 && (sample_fini(&s), true));
        struct manifest_header h;
        CHECK_OK(manifest_header_decode(s.bytes.data, s.bytes.len, &s.sha, &h, NULL));
        CHECK_EQ(h.block_count, 1);
        size_t first_len = strlen(h.blocks[0].first);
        uint32_t header_bytes = h.header_bytes;
        manifest_header_fini(&h);
        for (size_t len = 0; len < s.bytes.len; len++, cases++) {
            CLEANUP_FREE uint8_t *cut = malloc(len ? len : 1);
            memcpy(cut, s.bytes.data, len);
            CHECK(decode_all(cut, len, &s.sha) != CKPT_OK);
        }
        CLEANUP_FREE uint8_t *keep = malloc(s.bytes.len);
        memcpy(keep, s.bytes.data, s.bytes.len);
        for (int flip = 0; flip < 1500; flip++, cases++) {
            size_t at = below(seed, s.bytes.len);
            s.bytes.data[at] ^= (uint8_t)(1u << below(seed, 8));
            CHECK(decode_all(s.bytes.data, s.bytes.len, &s.sha) != CKPT_OK);
            CHECK(decode_all(s.bytes.data, s.bytes.len, NULL) != CKPT_OK);
            reseal(&s.bytes, header_bytes, first_len);
            *(decode_all(s.bytes.data, s.bytes.len, NULL) == CKPT_OK ? &sane : &refused) += 1;
            memcpy(s.bytes.data, keep, s.bytes.len);
        }
        CHECK(refused > 50);
        sample_fini(&s);
    }
    CHECK(sane > 50);
    return cases;
}

/* A header that says how much follows, with nothing behind it. */
static int test_lies(void)
{
    static const struct {
        size_t at;
        uint32_t value;
    } lies[] = { { 52, UINT32_MAX }, { 56, UINT32_MAX },  { 60, UINT32_MAX }, { 44, 0 },
                 { 40, 9 },          { 128, UINT32_MAX }, { 12, 200 },        { 10, 0xffff },
                 { 136, 99 },        { 144, 1 } };
    struct manifest_header h = { .name = { 1, 2, 3 }, .world = 4, .rank = 3 }, back;
    struct decl d = { 0 };
    snprintf(h.job, sizeof(h.job), "j");
    CHECK_OK(decl_finish(&d, SLOT, NULL));
    for (size_t i = 0; i < ARRAY_COUNT(lies); i++) {
        struct buf bytes = { 0 };
        struct sha256 sha;
        manifest_encode(&h, &d, NULL, &bytes, &sha);
        CHECK_OK(manifest_header_decode(bytes.data, bytes.len, &sha, &back, NULL));
        manifest_header_fini(&back);
        buf_patch_u32(&bytes, lies[i].at, lies[i].value);
        struct digest sum = digest_of(bytes.data, bytes.len - 16);
        memcpy(bytes.data + bytes.len - 16, sum.b, 16);
        CHECK(manifest_header_decode(bytes.data, bytes.len, NULL, &back, NULL) != CKPT_OK);
        buf_fini(&bytes);
    }
    decl_fini(&d);
    return (int)ARRAY_COUNT(lies);
}

/* Nonsense whose digests are right: each patch is refused for its own reason.
 * Offsets are those of a manifest with tensor "a" (8 floats, one box) and its alias
 * "b"; see FORMAT.md. */
#define SMALL_HEADER 256
#define SMALL_BYTES  370

static const struct {
    size_t at, width;
    uint64_t value;
    const char *text;
} nonsense[] = {
    { 40, 4, 4, "rank and world" },
    { 44, 4, 0, "rank and world" },
    { 44, 4, 1 << 21, "rank and world" },
    { 120, 8, 2, "do not add up" },
    { 128, 8, 3, "do not add up" },
    { 176, 2, 0, "" },
    { 185, 4, 0, "pack table" },
    { 185, 4, 16385, "pack table" },
    { 209, 4, 0, "block table" },
    { 213, 4, 100, "block table" },
    { 213, 4, 2, "differ" },
    { 213, 4, 0, "more boxes" },
    { 217, 4, 1, "differ" },
    { 205, 4, 113, "wrong size" },
    { 237, 2, 0, "" },
    { 178, 1, '/', "job" },
    { 239, 1, 'b', "not sorted" },
    { 256, 1, 99, "description" },
    { 260, 1, 17, "description" },
    { 261, 1, 1, "description" },
    { 264, 2, 9, "description" },
    { 267, 1, 'x', "description" },
    { 276, 4, 2, "more boxes" },
    { 280, 4, 1, "more boxes" },
    { 284, 8, 1, "outside" },
    { 292, 8, 0, "outside" },
    { 292, 8, 9, "outside" },
    { 300, 8, 0, "tiles" },
    { 300, 8, 4, "tiles" },
    { 316, 8, 2, "tiles" },
    { 308, 8, 1, "beyond" },
    { 308, 8, UINT64_MAX, "beyond" },
    { 342, 2, 0, "description" },
    { 350, 1, 'a', "not sorted" },
    { 362, 4, 1, "more boxes" },
};

static void small_init(struct sample *s)
{
    char a[] = "a", b[] = "b";
    struct decl_tensor t = { .name = a, .dtype = CKPT_DTYPE_F32, .ndim = 1, .shape = { 8 } };
    struct decl_piece p = { .box = { .ndim = 1, .len = { 8 } }, .stride = { 1 } };
    p.replica_count = 1;
    memset(s, 0, sizeof(*s));
    CHECK_OK(decl_add_tensor(&s->d, &t, NULL));
    CHECK_OK(decl_add_piece(&s->d, &p, NULL));
    t.name = b;
    t.alias = a;
    t.flags = DECL_ALIAS;
    CHECK_OK(decl_add_tensor(&s->d, &t, NULL));
    CHECK_OK(decl_finish(&s->d, SLOT, NULL));
    s->digests = calloc(1, sizeof(*s->digests));
    s->packs = calloc(1, sizeof(*s->packs));
    s->packs[0].chunks = 1;
    s->h.packs = s->packs;
    s->h.pack_count = 1;
    s->h.world = 4;
    memcpy(s->h.job, "j", 2);
    manifest_encode(&s->h, &s->d, s->digests, &s->bytes, &s->sha);
    CHECK_EQ(s->bytes.len, SMALL_BYTES);
    CHECK_EQ(manifest_header_peek(s->bytes.data, s->bytes.len), SMALL_HEADER);
}

static enum ckpt_status decode_small(const struct buf *b, struct ckpt_err *err)
{
    struct manifest_header h;
    struct manifest_tensors t;
    enum ckpt_status st = manifest_header_decode(b->data, b->len, NULL, &h, err);
    if (st != CKPT_OK)
        return st;
    st = manifest_block_decode(&h, 0, b->data + SMALL_HEADER, b->len - SMALL_HEADER, &t, err);
    if (st == CKPT_OK)
        manifest_tensors_fini(&t);
    manifest_header_fini(&h);
    return st;
}

static int test_nonsense(void)
{
    for (size_t i = 0; i < ARRAY_COUNT(nonsense); i++) {
        struct sample s;
        struct ckpt_err err = { 0 };
        small_init(&s);
        CHECK_OK(decode_small(&s.bytes, NULL));
        for (size_t k = 0; k < nonsense[i].width; k++)
            s.bytes.data[nonsense[i].at + k] = (uint8_t)(nonsense[i].value >> (8 * k));
        reseal(&s.bytes, SMALL_HEADER, 1);
        enum ckpt_status st = decode_small(&s.bytes, &err);
        if (st == CKPT_OK || !strstr(err.text, nonsense[i].text))
            fprintf(stderr, "nonsense at %zu: %s: %s\n", nonsense[i].at, status_name(st), err.text);
        CHECK(st == CKPT_CORRUPT && strstr(err.text, nonsense[i].text));
        sample_fini(&s);
    }
    return (int)ARRAY_COUNT(nonsense);
}

static int test_alias_with_boxes(void)
{
    struct sample s;
    struct ckpt_err err = { 0 };
    small_init(&s);
    buf_patch_u32(&s.bytes, 213, 2); /* two boxes in the block: one more, of the alias */
    buf_patch_u32(&s.bytes, 362, 1);
    reseal(&s.bytes, SMALL_HEADER, 1);
    CHECK_EQ(decode_small(&s.bytes, &err), CKPT_CORRUPT);
    if (!strstr(err.text, "alias"))
        fprintf(stderr, "%s\n", err.text);
    CHECK(strstr(err.text, "alias with boxes"));
    sample_fini(&s);
    return 1;
}

/* Another manifest that is whole is not the one the index means; blocks and slots
 * out of order are refused. */
static int test_order(unsigned long long *seed)
{
    struct sample s;
    struct manifest_header h;
    struct ckpt_err err = { 0 };
    sample_init(&s, seed, 1500);
    s.sha.b[0] ^= 1;
    CHECK_EQ(manifest_header_decode(s.bytes.data, s.bytes.len, &s.sha, &h, &err), CKPT_CORRUPT);
    CHECK(strstr(err.text, "SHA-256"));
    CHECK_OK(manifest_header_decode(s.bytes.data, s.bytes.len, NULL, &h, NULL));
    uint32_t n = h.header_bytes;
    char *name = memmem(s.bytes.data, n, h.blocks[1].first, strlen(h.blocks[1].first));
    CHECK(h.block_count > 1 && h.pack_count > 1 && name);
    uint8_t *slot = memmem(s.bytes.data, n, &h.packs[1].id, sizeof(h.packs[1].id));
    manifest_header_fini(&h);
    for (int what = 0; what < 2; what++) {
        err = (struct ckpt_err){ 0 };
        what ? (void)(*name = '!') : (void)(slot[-8] = 0);
        struct digest sum = digest_of(s.bytes.data, n - 16);
        memcpy(s.bytes.data + n - 16, sum.b, 16);
        CHECK_EQ(manifest_header_decode(s.bytes.data, s.bytes.len, NULL, &h, &err), CKPT_CORRUPT);
        CHECK(strstr(err.text, what ? "not sorted" : "pack table"));
        slot[-8] = 1;
    }
    sample_fini(&s);
    return 3;
}

/* Gives the header its own digest again and decodes it; the text of the refusal. */
static void refused_header(struct buf *b, const char *text)
{
    struct manifest_header h;
    struct ckpt_err err = { 0 };
    struct digest sum = digest_of(b->data, b->len - 16);
    memcpy(b->data + b->len - 16, sum.b, 16);
    CHECK_EQ(manifest_header_decode(b->data, b->len, NULL, &h, &err), CKPT_CORRUPT);
    if (!strstr(err.text, text))
        fprintf(stderr, "expected \"%s\": %s\n", text, err.text);
    CHECK(strstr(err.text, text));
}

/* What no writer writes: bytes in a failed part, words of failure in a good one, a metric
 * without a name (the commit made of it could not be read). */
static int test_meaning(void)
{
    struct manifest_header h = { .world = 1, .flags = MANIFEST_FLAG_FAILED, .job = "j" };
    struct buf b = { 0 };
    struct sha256 sha;
    h.fail_status = CKPT_IO;
    snprintf(h.fail_text, sizeof(h.fail_text), "disk");
    manifest_encode_failed(&h, &b, &sha);
    buf_patch_u64(&b, 112, 1);
    refused_header(&b, "holds something");
    buf_patch_u64(&b, 112, 0);
    memset(b.data + 10, 0, 2);
    memset(b.data + 136, 0, 2);
    refused_header(&b, "words of failure");
    b.len = 0;
    h.metric_count = 1;
    manifest_encode_failed(&h, &b, &sha);
    refused_header(&b, "metric");
    buf_fini(&b);
    return 3;
}

/* The last tensor of a block is named behind the first of the next one: nobody would find
 * it there. */
static int test_order_of_blocks(unsigned long long *seed)
{
    struct sample s;
    struct manifest_header h;
    struct manifest_tensors t;
    struct ckpt_err err = { 0 };
    sample_init(&s, seed, 1500);
    CHECK_OK(manifest_header_decode(s.bytes.data, s.bytes.len, NULL, &h, NULL));
    struct manifest_block *b = &h.blocks[0];
    uint8_t *bytes = s.bytes.data + b->offset;
    CHECK(h.block_count > 1);
    CHECK_OK(manifest_block_decode(&h, 0, bytes, b->bytes, &t, NULL));
    size_t at = (size_t)(t.tensors[t.count - 1].name - (const char *)bytes);
    manifest_tensors_fini(&t);
    bytes[at] = '~';
    b->digest = digest_of(bytes, b->bytes);
    CHECK_EQ(manifest_block_decode(&h, 0, bytes, b->bytes, &t, &err), CKPT_CORRUPT);
    CHECK(strstr(err.text, "not sorted"));
    manifest_header_fini(&h);
    sample_fini(&s);
    return 1;
}

int main(void)
{
    unsigned long long seed = test_seed(20260102);
    int cases = test_identity(&seed) + test_failed() + test_hostile(&seed) + test_lies();
    cases += test_nonsense() + test_alias_with_boxes() + test_order(&seed);
    cases += test_meaning() + test_order_of_blocks(&seed);
    TEST_CASES(cases);
    return 0;
}
