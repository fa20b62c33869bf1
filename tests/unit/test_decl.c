/* Declarations: encode o decode = identity, tiles fill slots as image.h says, shares
 * of replicas cover, and everything that must be refused is, by name.  Covers decl.c,
 * decl_bytes.c, desc.c and, as its first user, disjoint.c (more: test_cover.c). */
#include "formats/disjoint.h"
#include "unit/decl_random.h"

#define SLOT (UINT64_C(8) << 20)

static void check_same(const struct decl *a, const struct decl *b)
{
    CHECK_EQ(a->tensor_count, b->tensor_count);
    CHECK_EQ(a->piece_count, b->piece_count);
    CHECK_EQ(a->chunk_count, b->chunk_count);
    CHECK_EQ(a->raw_bytes, b->raw_bytes);
    CHECK_EQ(a->hold_bytes, b->hold_bytes);
    CHECK_EQ(a->slot_count, b->slot_count);
    for (size_t i = 0; i < a->tensor_count; i++) {
        const struct decl_tensor *x = &a->tensors[i], *y = &b->tensors[i];
        CHECK_STR(x->name, y->name);
        CHECK(!x->alias == !y->alias && (!x->alias || strcmp(x->alias, y->alias) == 0));
        CHECK(x->dtype == y->dtype && x->kind == y->kind && x->flags == y->flags);
        CHECK(x->ndim == y->ndim && memcmp(x->shape, y->shape, sizeof(x->shape)) == 0);
        CHECK(memcmp(x->block, y->block, sizeof(x->block)) == 0);
        CHECK(x->first_piece == y->first_piece && x->piece_count == y->piece_count);
        CHECK(decl_find(a, x->name) == x);
    }
    for (size_t i = 0; i < a->piece_count; i++) {
        const struct decl_piece *x = &a->pieces[i], *y = &b->pieces[i];
        CHECK(box_equal(&x->box, &y->box) && x->tensor == y->tensor);
        CHECK(x->replica == y->replica && x->replica_count == y->replica_count);
        CHECK(x->writes == y->writes && (!x->writes || box_equal(&x->share, &y->share)));
        CHECK(x->first_chunk == y->first_chunk && x->chunks == y->chunks);
    }
    struct digest sa = decl_signature(a), sb = decl_signature(b);
    CHECK(digest_equal(&sa, &sb));
}

/* The walk visits every tile once, in order, where image.h places it. */
static size_t check_walk(const struct decl *d)
{
    struct image image = image_init(d->slot_bytes);
    uint64_t chunk = 0, bytes = 0;
    for (uint32_t s = 0; s < d->slot_count; s++) {
        struct decl_walk w = decl_walk_slot(d, s);
        struct decl_tile tile;
        uint32_t n = 0;
        CHECK_EQ(d->slots[s].first_chunk, chunk);
        for (; decl_walk_next(&w, &tile); n++) {
            struct image_place place = image_next(&image, tile.bytes);
            CHECK(place.slot == tile.place.slot && place.chunk == tile.place.chunk);
            CHECK_EQ(place.offset, tile.place.offset);
            const struct decl_piece *p = &d->pieces[tile.piece];
            CHECK(p->writes && p->tensor == tile.tensor && box_contains(&p->share, &tile.box));
            CHECK(box_contains(&p->box, &p->share));
            struct box want = tile_at(&p->share, p->tile, tile.chunk - p->first_chunk);
            CHECK(box_equal(&want, &tile.box));
            CHECK_EQ(tile.chunk, chunk++);
            bytes += tile.bytes;
            CHECK(tile.place.offset + tile.bytes <= d->slots[s].used);
        }
        CHECK_EQ(n, d->slots[s].chunks);
    }
    CHECK_EQ(chunk, d->chunk_count);
    CHECK_EQ(bytes, d->raw_bytes);
    CHECK_EQ(image_slots(&image), d->slot_count);
    return chunk;
}

static int test_identity(unsigned long long *seed)
{
    size_t chunks = 0, aliases = 0, objects = 0, slots = 0;
    for (int round = 0; round < 150; round++) {
        struct decl d = { 0 }, back = { 0 };
        struct buf bytes = { 0 }, again = { 0 };
        random_decl(seed, &d, below(seed, 40));
        CHECK_OK(decl_finish(&d, SLOT, NULL));
        decl_encode(&d, &bytes);
        CHECK(!bytes.failed);
        CHECK_OK(decl_decode(bytes.data, bytes.len, SLOT, &back, NULL));
        check_same(&d, &back);
        decl_encode(&back, &again);
        CHECK(again.len == bytes.len && memcmp(again.data, bytes.data, bytes.len) == 0);
        chunks += check_walk(&d);
        slots += d.slot_count;
        for (size_t i = 0; i < d.tensor_count; i++) {
            aliases += d.tensors[i].alias != NULL;
            objects += (d.tensors[i].flags & DECL_OBJECT) != 0;
        }
        buf_fini(&bytes);
        buf_fini(&again);
        decl_fini(&d);
        decl_fini(&back);
    }
    CHECK(chunks > 1000 && aliases > 50 && objects > 50 && slots > 150);
    printf("%zu tiles in %zu slots, %zu aliases, %zu objects\n", chunks, slots, aliases, objects);
    return 150;
}

/* One tensor with one piece; returns the status of add and finish together. */
static enum ckpt_status declare(struct decl *d, struct decl_tensor t, const struct decl_piece *p,
                                size_t n, struct ckpt_err *err)
{
    enum ckpt_status st = decl_add_tensor(d, &t, err);
    for (size_t i = 0; st == CKPT_OK && i < n; i++)
        st = decl_add_piece(d, &p[i], err);
    return st == CKPT_OK ? decl_finish(d, SLOT, err) : st;
}

static char name_w[] = "w", name_v[] = "v", name_u[] = "u";

static struct decl_tensor matrix(uint64_t rows, uint64_t cols)
{
    return (struct decl_tensor){
        .name = name_w, .dtype = CKPT_DTYPE_F32, .ndim = 2, .shape = { rows, cols }
    };
}

static struct decl_piece rows_of(uint64_t row, uint64_t rows, uint64_t cols)
{
    return (struct decl_piece){ .box = { .ndim = 2, .off = { row, 0 }, .len = { rows, cols } },
                                .stride = { (int64_t)cols, 1 },
                                .replica_count = 1 };
}

/* Over all replicas of a box, each element is written once. */
/* Brute force: the witnesses are the tiles of replicated pieces outside the own share, each
 * once, in order. */
static uint64_t check_witnesses(const struct decl *d)
{
    uint64_t n = 0;
    for (size_t i = 0; i < d->piece_count; i++) {
        const struct decl_piece *p = &d->pieces[i];
        uint64_t tiles = box_volume(&p->box) ? tile_count(&p->box, p->tile) : 0;
        for (uint64_t k = 0; k < tiles; k++) {
            struct box tile = tile_at(&p->box, p->tile, k), common;
            if (p->writes && box_intersect(&tile, &p->share, &common)) {
                CHECK(box_equal(&tile, &common));
                continue;
            }
            if (d->tensors[p->tensor].flags & DECL_OBJECT)
                continue;
            CHECK(n < d->witness_count);
            struct decl_witness w = decl_witness_at(d, n++);
            CHECK(w.piece == i && w.tensor == p->tensor && box_equal(&w.box, &tile));
            CHECK_EQ(w.bytes, box_bytes(&tile, dtype_bits(d->tensors[p->tensor].dtype)));
            CHECK(w.bytes <= CKPT_CHUNK_BYTES_MAX);
        }
    }
    CHECK_EQ(d->witness_count, n);
    return n;
}

static int test_replicas(unsigned long long *seed)
{
    uint64_t witnesses = 0;
    int split = 0, whole = 0, first[4] = { 0 }, locked[4] = { 0 };
    for (int round = 0; round < 200; round++) {
        uint32_t count = 1 + (uint32_t)below(seed, 4);
        uint64_t rows = 1 + below(seed, 6000), volume = 0;
        struct decl_tensor t = matrix(rows, 1024);
        char name[32];
        snprintf(name, sizeof(name), "r%d", round);
        t.name = name;
        t.kind = below(seed, 4) ? DECL_ELEMENTWISE : DECL_LOCKED;
        struct box share[4];
        int writers = 0;
        for (uint32_t r = 0; r < count; r++) {
            struct decl d = { 0 };
            struct decl_piece p = rows_of(0, rows, 1024);
            p.replica = r;
            p.replica_count = count;
            CHECK_OK(declare(&d, t, &p, 1, NULL));
            CHECK_EQ(d.hold_bytes, rows * 4096);
            witnesses += check_witnesses(&d);
            struct box other;
            CHECK(!d.pieces[0].writes || (decl_share(&d.tensors[0], &d.pieces[0], r, &other) &&
                                          box_equal(&other, &d.pieces[0].share)));
            if (d.pieces[0].writes) {
                first[r] += writers == 0;
                locked[r] += t.kind == DECL_LOCKED;
                share[writers++] = d.pieces[0].share;
                volume += box_volume(&d.pieces[0].share);
            }
            decl_fini(&d);
        }
        CHECK_EQ(volume, rows * 1024);
        struct box common;
        for (int i = 0; i < writers; i++) {
            for (int k = 0; k < i; k++)
                CHECK(!box_intersect(&share[i], &share[k], &common));
        }
        CHECK(t.kind != DECL_LOCKED || writers == 1);
        *(count > 1 && writers > 1 ? &split : &whole) += 1;
    }
    CHECK(split > 10 && whole > 10 && first[1] > 5 && first[2] > 5);
    CHECK(locked[1] > 2 && locked[2] > 2);
    CHECK(witnesses > 500);
    return 200;
}

/* An object that all ranks hold is written whole by one of them, however large it is. */
static int test_shared_objects(void)
{
    static const uint64_t bytes[] = { 100, 8 * MIB - 1, 8 * MIB, 16 * MIB, 100 * MIB };
    int n = 0;
    for (size_t i = 0; i < ARRAY_COUNT(bytes); i++) {
        for (uint32_t world = 2; world <= 8; world *= 2, n++) {
            struct decl_tensor t = { .name = name_w,
                                     .dtype = CKPT_DTYPE_U8,
                                     .flags = DECL_OBJECT | DECL_VOLATILE,
                                     .ndim = 1,
                                     .shape = { DECL_OBJECT_HEAD + bytes[i] } };
            struct decl_piece p = { .box = box_whole(1, t.shape), .stride = { 1 } };
            uint32_t writers = 0;
            p.replica_count = world;
            for (p.replica = 0; p.replica < world; p.replica++) {
                struct decl d = { 0 };
                CHECK_OK(declare(&d, t, &p, 1, NULL));
                CHECK_EQ(d.raw_bytes, d.pieces[0].writes ? t.shape[0] : 0);
                CHECK_EQ(d.witness_count, 0);
                writers += d.pieces[0].writes;
                decl_fini(&d);
            }
            CHECK_EQ(writers, 1);
        }
    }
    return n;
}

static struct {
    const char *text; /* must appear in the error */
    enum ckpt_status status;
    struct decl_tensor t;
    struct decl_piece p[2];
    size_t n;
} refusals[] = {
    { "", CKPT_BAD_NAME, { .name = (char[]){ "" }, .dtype = 12 }, { { .replica = 0 } }, 0 },
    { "", CKPT_BAD_NAME, { .name = (char[]){ "a/../b" }, .dtype = 12 }, { { .replica = 0 } }, 0 },
    { "w: unknown dtype", CKPT_INVALID, { .name = name_w, .dtype = 99 }, { { .replica = 0 } }, 0 },
    { "w: unknown kind",
      CKPT_INVALID,
      { .name = name_w, .dtype = 12, .kind = 3 },
      { { .replica = 0 } },
      0 },
    { "w: unknown flags",
      CKPT_INVALID,
      { .name = name_w, .dtype = 12, .flags = 16 },
      { { .replica = 0 } },
      0 },
    { "w: 17 dim",
      CKPT_LIMIT,
      { .name = name_w, .dtype = 12, .ndim = 17 },
      { { .replica = 0 } },
      0 },
    { "w: shape",
      CKPT_LIMIT,
      { .name = name_w, .dtype = 12, .ndim = 2, .shape = { 1ull << 40, 1ull << 40 } },
      { { .replica = 0 } },
      0 },
    { "w: has blocks",
      CKPT_INVALID,
      { .name = name_w, .dtype = 12, .ndim = 1, .shape = { 8 }, .block = { 4 } },
      { { .replica = 0 } },
      0 },
    { "w: is blocked",
      CKPT_INVALID,
      { .name = name_w, .dtype = 12, .kind = 1, .ndim = 1, .shape = { 8 } },
      { { .replica = 0 } },
      0 },
    { "object w",
      CKPT_INVALID,
      { .name = name_w, .dtype = 12, .flags = DECL_OBJECT, .ndim = 1, .shape = { 8 } },
      { { .replica = 0 } },
      0 },
    { "object w: 1099511627785",
      CKPT_LIMIT,
      { .name = name_w,
        .dtype = 2,
        .flags = DECL_OBJECT,
        .ndim = 1,
        .shape = { (1ull << 40) + 9 } },
      { { .replica = 0 } },
      0 },
    { "object w: 7",
      CKPT_LIMIT,
      { .name = name_w, .dtype = 2, .flags = DECL_OBJECT, .ndim = 1, .shape = { 7 } },
      { { .replica = 0 } },
      0 },
    { "w: the alias",
      CKPT_INVALID,
      { .name = name_w, .dtype = 12, .flags = DECL_ALIAS },
      { { .replica = 0 } },
      0 },
    { "w: the alias",
      CKPT_INVALID,
      { .name = name_w, .dtype = 12, .alias = name_v },
      { { .replica = 0 } },
      0 },
    { "w: alias",
      CKPT_BAD_NAME,
      { .name = name_w, .dtype = 12, .flags = DECL_ALIAS, .alias = (char[]){ "/" } },
      { { .replica = 0 } },
      0 },
    { "w: its alias v is not",
      CKPT_INVALID,
      { .name = name_w, .dtype = 12, .flags = DECL_ALIAS, .alias = name_v },
      { { .replica = 0 } },
      0 },
    { "w: its alias w is itself",
      CKPT_INVALID,
      { .name = name_w, .dtype = 12, .flags = DECL_ALIAS, .alias = name_w },
      { { .replica = 0 } },
      0 },
    { "w: an alias has no pieces",
      CKPT_INVALID,
      { .name = name_w, .dtype = 12, .flags = DECL_ALIAS, .alias = name_v },
      { { .replica_count = 1 } },
      1 },
    { "w: a piece has 0",
      CKPT_MISMATCH,
      { .name = name_w, .dtype = 12, .ndim = 1, .shape = { 8 } },
      { { .replica_count = 1 } },
      1 },
    { "w: replica 0 of 0", CKPT_INVALID, { .name = name_w, .dtype = 12 }, { { .replica = 0 } }, 1 },
    { "w: replica 2 of 2",
      CKPT_INVALID,
      { .name = name_w, .dtype = 12 },
      { { .replica = 2, .replica_count = 2 } },
      1 },
    { "w: ",
      CKPT_INVALID,
      { .name = name_w, .dtype = 12, .ndim = 1, .shape = { 8 } },
      { { .replica_count = 1, .box = { .ndim = 1, .off = { 5 }, .len = { 4 } } } },
      1 },
    { "w: dimension 0 is cut",
      CKPT_INVALID,
      { .name = name_w, .dtype = 12, .kind = 1, .ndim = 1, .shape = { 10 }, .block = { 4 } },
      { { .replica_count = 1, .box = { .ndim = 1, .off = { 4 }, .len = { 3 } } } },
      1 },
    { "w: dimension 0 is cut",
      CKPT_INVALID,
      { .name = name_w, .dtype = 12, .kind = 1, .ndim = 1, .shape = { 10 }, .block = { 4 } },
      { { .replica_count = 1, .box = { .ndim = 1, .off = { 2 }, .len = { 8 } } } },
      1 },
    { "w: stride",
      CKPT_INVALID,
      { .name = name_w, .dtype = CKPT_DTYPE_F4, .ndim = 2, .shape = { 8, 8 } },
      { { .replica_count = 1, .box = { .ndim = 2, .len = { 8, 8 } }, .stride = { 8, 2 } } },
      1 },
    { "w: stride",
      CKPT_INVALID,
      { .name = name_w, .dtype = CKPT_DTYPE_F4, .ndim = 2, .shape = { 8, 8 } },
      { { .replica_count = 1, .box = { .ndim = 2, .len = { 8, 8 } }, .stride = { 9, 1 } } },
      1 },
    { "w: two pieces of this rank both hold [0:1]",
      CKPT_COVER,
      { .name = name_w, .dtype = 12, .ndim = 1, .shape = { 8 } },
      { { .replica_count = 1, .box = { .ndim = 1, .len = { 4 } } },
        { .replica_count = 1, .box = { .ndim = 1, .len = { 1 } } } },
      2 },
    { "w: two pieces",
      CKPT_COVER,
      { .name = name_w, .dtype = 12 },
      { { .replica_count = 1 }, { .replica_count = 1 } },
      2 },
    { "at most 16777216 tiles",
      CKPT_LIMIT,
      { .name = name_w, .dtype = 12, .ndim = 2, .shape = { 1u << 27, 1u << 20 } },
      { { .replica_count = 1, .box = { .ndim = 2, .len = { 1u << 27, 1u << 20 } } } },
      1 },
    { "manifest",
      CKPT_LIMIT,
      { .name = name_w, .dtype = 12, .ndim = 2, .shape = { 1u << 23, 1u << 20 } },
      { { .replica_count = 1, .box = { .ndim = 2, .len = { 1u << 23, 1u << 20 } } } },
      1 },
};

static int test_refusals(void)
{
    for (size_t i = 0; i < ARRAY_COUNT(refusals); i++) {
        struct decl d = { 0 };
        struct ckpt_err err = { 0 };
        enum ckpt_status st = declare(&d, refusals[i].t, refusals[i].p, refusals[i].n, &err);
        if (st != refusals[i].status || !strstr(err_text(&err), refusals[i].text))
            fprintf(stderr, "refusal %zu: %s: %s\n", i, status_name(st), err_text(&err));
        CHECK_EQ(st, refusals[i].status);
        CHECK(strstr(err_text(&err), refusals[i].text));
        decl_fini(&d);
    }
    return (int)ARRAY_COUNT(refusals);
}

static int test_pairs_refused(void)
{
    struct decl d = { 0 };
    struct ckpt_err err = { 0 };
    struct decl_tensor t = { .name = name_w, .dtype = CKPT_DTYPE_F32 };
    CHECK_OK(decl_add_tensor(&d, &t, &err));
    CHECK_EQ(declare(&d, t, NULL, 0, &err), CKPT_INVALID);
    CHECK(strstr(err.text, "w is declared twice"));
    decl_fini(&d);

    /* An alias of an alias, and one of another shape. */
    struct decl_tensor v = {
        .name = name_v, .dtype = CKPT_DTYPE_F32, .flags = DECL_ALIAS, .alias = name_w
    };
    struct decl_tensor u = {
        .name = name_u, .dtype = CKPT_DTYPE_F32, .flags = DECL_ALIAS, .alias = name_v
    };
    err = (struct ckpt_err){ 0 };
    CHECK_OK(decl_add_tensor(&d, &t, &err));
    CHECK_OK(decl_add_tensor(&d, &v, &err));
    CHECK_EQ(declare(&d, u, NULL, 0, &err), CKPT_INVALID);
    CHECK(strstr(err.text, "u: its alias v is itself an alias"));
    decl_fini(&d);
    err = (struct ckpt_err){ 0 };
    v.ndim = 1;
    v.shape[0] = 3;
    CHECK_OK(decl_add_tensor(&d, &t, &err));
    CHECK_EQ(declare(&d, v, NULL, 0, &err), CKPT_MISMATCH);
    decl_fini(&d);
    v.ndim = 0;
    v.dtype = CKPT_DTYPE_I32;
    CHECK_OK(decl_add_tensor(&d, &t, &err));
    CHECK_EQ(declare(&d, v, NULL, 0, &err), CKPT_MISMATCH);
    decl_fini(&d);
    CHECK_OK(decl_add_tensor(&d, &t, &err));
    CHECK_EQ(decl_finish(&d, SLOT + 1, NULL), CKPT_LIMIT);
    CHECK_EQ(decl_finish(&d, SLOT / 2, NULL), CKPT_LIMIT);
    decl_fini(&d);
    return 5;
}

static int test_empty(void)
{
    struct decl d = { 0 }, back = { 0 };
    struct buf bytes = { 0 };
    CHECK_OK(decl_finish(&d, SLOT, NULL));
    CHECK_EQ(d.slot_count, 0);
    CHECK(!decl_find(&d, "x"));
    decl_encode(&d, &bytes);
    CHECK_OK(decl_decode(bytes.data, bytes.len, SLOT, &back, NULL));
    CHECK_EQ(back.tensor_count, 0);
    buf_fini(&bytes);
    decl_fini(&d);
    decl_fini(&back);
    decl_fini(NULL);
    return 1;
}

static void signature(struct decl_tensor t, struct digest *ret)
{
    struct decl d = { 0 };
    char other[] = "zz";
    struct decl_tensor z = { .name = other, .dtype = CKPT_DTYPE_I8 };
    bool swap = t.flags & DECL_VOLATILE; /* order and volatility do not matter */
    CHECK_OK(decl_add_tensor(&d, swap ? &z : &t, NULL));
    CHECK_OK(decl_add_tensor(&d, swap ? &t : &z, NULL));
    CHECK_OK(decl_finish(&d, SLOT, NULL));
    *ret = decl_signature(&d);
    decl_fini(&d);
}

static int test_signature(void)
{
    struct digest base, got;
    struct decl_tensor t = matrix(4, 6), u;
    signature(t, &base);
    u = t, u.flags = DECL_VOLATILE;
    signature(u, &got);
    CHECK(digest_equal(&base, &got));
    u = t, u.shape[1] = 7;
    signature(u, &got);
    CHECK(!digest_equal(&base, &got));
    u = t, u.dtype = CKPT_DTYPE_I32;
    signature(u, &got);
    CHECK(!digest_equal(&base, &got));
    u = t, u.kind = DECL_LOCKED;
    signature(u, &got);
    CHECK(!digest_equal(&base, &got));
    u = t, u.kind = DECL_BLOCKED, u.block[0] = 2;
    signature(u, &base);
    u.block[0] = 4;
    signature(u, &got);
    CHECK(!digest_equal(&base, &got));
    u = t, u.name = name_v;
    signature(u, &got);
    CHECK(!digest_equal(&base, &got));
    return 5;
}

/* Truncations and flips are refused by the digest; with the digest made right
 * again, the decoder itself must refuse or yield something sane. */
static int test_hostile(unsigned long long *seed)
{
    int cases = 0, sane = 0;
    for (int round = 0; round < 12; round++) {
        struct decl d = { 0 }, back;
        struct buf bytes = { 0 };
        random_decl(seed, &d, 1 + below(seed, 6));
        CHECK_OK(decl_finish(&d, SLOT, NULL));
        decl_encode(&d, &bytes);
        for (size_t len = 0; len < bytes.len; len++, cases++) {
            /* An exact copy, so that a sanitizer sees every byte too far. */
            CLEANUP_FREE uint8_t *cut = malloc(len ? len : 1);
            memcpy(cut, bytes.data, len);
            CHECK(decl_decode(cut, len, SLOT, &back, NULL) != CKPT_OK);
            if (len > 16) {
                struct digest sum = digest_of(cut, len - 16);
                memcpy(cut + len - 16, sum.b, 16);
                CHECK(decl_decode(cut, len, SLOT, &back, NULL) != CKPT_OK);
            }
        }
        for (int flip = 0; flip < 400; flip++, cases++) {
            size_t at = below(seed, bytes.len - 16);
            uint8_t was = bytes.data[at];
            bytes.data[at] ^= (uint8_t)(1u << below(seed, 8));
            CHECK_EQ(decl_decode(bytes.data, bytes.len, SLOT, &back, NULL), CKPT_CORRUPT);
            struct digest old, sum = digest_of(bytes.data, bytes.len - 16);
            memcpy(old.b, bytes.data + bytes.len - 16, 16);
            memcpy(bytes.data + bytes.len - 16, sum.b, 16);
            if (decl_decode(bytes.data, bytes.len, SLOT, &back, NULL) == CKPT_OK) {
                check_walk(&back);
                decl_fini(&back);
                sane++;
            }
            memcpy(bytes.data + bytes.len - 16, old.b, 16);
            bytes.data[at] = was;
        }
        buf_fini(&bytes);
        decl_fini(&d);
    }
    CHECK(sane > 10);
    return cases;
}

static enum ckpt_status reseal_decode(struct buf *b)
{
    struct decl back;
    struct digest sum = digest_of(b->data, b->len - 16);
    memcpy(b->data + b->len - 16, sum.b, 16);
    enum ckpt_status st = decl_decode(b->data, b->len, SLOT, &back, NULL);
    if (st == CKPT_OK)
        decl_fini(&back);
    return st;
}

/* Nonsense whose digest is right. */
static int test_nonsense(void)
{
    char text[] = "ab";
    struct decl_tensor t = { .name = text, .dtype = CKPT_DTYPE_F32 };
    struct decl d = { 0 };
    struct buf b = { 0 };
    CHECK_OK(declare(&d, t, NULL, 0, NULL));
    decl_encode(&d, &b);
    CHECK_OK(reseal_decode(&b));
    b.data[27] = 0; /* a NUL inside the name */
    CHECK_EQ(reseal_decode(&b), CKPT_CORRUPT);
    b.data[27] = 'b';
    b.data[28] = 'c'; /* no NUL behind it */
    CHECK_EQ(reseal_decode(&b), CKPT_CORRUPT);
    b.data[28] = 0;
    b.data[8] = 2;
    CHECK_EQ(reseal_decode(&b), CKPT_UNSUPPORTED);
    b.data[8] = 1;
    b.data[10] = 1;
    CHECK_EQ(reseal_decode(&b), CKPT_CORRUPT);
    b.data[10] = 0;
    buf_zero(&b, 1); /* one byte too many */
    CHECK_EQ(reseal_decode(&b), CKPT_CORRUPT);
    buf_fini(&b);
    decl_fini(&d);
    return 5;
}

/* A long box that a later one meets beyond short ones between; and a budget. */
static int test_disjoint(void)
{
    struct box boxes[9], common;
    const struct box *list[9];
    uint64_t budget = disjoint_budget(9);
    for (uint64_t i = 0; i < 9; i++) {
        boxes[i] = (struct box){ .ndim = 2, .off = { 20 + i, 0 }, .len = { 1, 1 } };
        list[i] = &boxes[i];
    }
    CHECK_OK(disjoint_check(list, 9, &budget, &common));
    boxes[0] = (struct box){ .ndim = 2, .off = { 0, 0 }, .len = { 10, 1 } };
    boxes[1] = (struct box){ .ndim = 2, .off = { 1, 1 }, .len = { 1, 1 } };
    CHECK_OK(disjoint_check(list, 9, &budget, &common));
    boxes[2] = (struct box){ .ndim = 2, .off = { 5, 0 }, .len = { 1, 1 } };
    CHECK_EQ(disjoint_check(list, 9, &budget, &common), CKPT_COVER);
    CHECK(box_equal(&common, &boxes[2]));
    budget = 0;
    CHECK_EQ(disjoint_check(list, 9, &budget, &common), CKPT_LIMIT);
    struct box cross[2] = { { .ndim = 2, .len = { 2, 2 } },
                            { .ndim = 2, .off = { 1, 2 }, .len = { 1, 2 } } };
    const struct box *two[2] = { &cross[0], &cross[1] };
    CHECK_EQ(disjoint_check(two, 2, &budget, &common), CKPT_LIMIT);
    return 5;
}

/* Large and regular is a sort; large and crooked is refused, not computed for hours. */
static int test_large(void)
{
    struct decl d = { 0 };
    struct ckpt_err err = { 0 };
    char name[32];
    for (uint32_t i = 0; i < 100000; i++) {
        struct decl_tensor t = { .name = name, .dtype = CKPT_DTYPE_BF16 };
        snprintf(name, sizeof(name), "t%u", i * 7919 % 100000);
        CHECK_OK(decl_add_tensor(&d, &t, &err));
    }
    struct decl_tensor t = matrix(400, 1000);
    CHECK_OK(decl_add_tensor(&d, &t, &err));
    for (uint64_t i = 0; i < 100000; i++) { /* columns of four, in a scattered order */
        uint64_t k = i * 7919 % 100000;
        struct decl_piece p = {
            .box = { .ndim = 2, .off = { k / 1000 * 4, k % 1000 }, .len = { 4, 1 } },
            .replica_count = 1
        };
        CHECK_OK(decl_add_piece(&d, &p, &err));
    }
    CHECK_OK(decl_finish(&d, SLOT, &err));
    CHECK_EQ(d.chunk_count, 100000);
    CHECK(decl_find(&d, "t4711"));
    check_walk(&d);
    decl_fini(&d);
    return 1;
}

/* Pinwheels have no clean cut; they are proved apart all the same, and one more box
 * in the eye of any of them is found. */
static int test_pinwheels(void)
{
    for (int extra = 0; extra < 2; extra++) {
        struct decl d = { 0 };
        struct ckpt_err err = { 0 };
        struct decl_tensor t = matrix(300, 300);
        CHECK_OK(decl_add_tensor(&d, &t, &err));
        for (uint64_t i = 0; i < 10000; i++) {
            uint64_t y = i / 100 * 3, x = i % 100 * 3;
            struct box arms[5] = {
                { .ndim = 2, .off = { y, x }, .len = { 1, 2 } },
                { .ndim = 2, .off = { y, x + 2 }, .len = { 2, 1 } },
                { .ndim = 2, .off = { y + 2, x + 1 }, .len = { 1, 2 } },
                { .ndim = 2, .off = { y + 1, x }, .len = { 2, 1 } },
                { .ndim = 2, .off = { y + 1, x + 1 }, .len = { 1, extra && i == 4711 ? 2 : 1 } },
            };
            for (int k = 0; k < 5; k++) {
                struct decl_piece p = { .box = arms[k], .replica_count = 1 };
                CHECK_OK(decl_add_piece(&d, &p, &err));
            }
        }
        CHECK_EQ(decl_finish(&d, SLOT, &err), extra ? CKPT_COVER : CKPT_OK);
        CHECK(!extra || strstr(err.text, "[142:143, 35:36]"));
        decl_fini(&d);
    }
    return 2;
}

int main(void)
{
    unsigned long long seed = test_seed(20260101);
    int cases = test_identity(&seed) + test_replicas(&seed) + test_refusals();
    cases += test_shared_objects();
    cases += test_pairs_refused() + test_empty() + test_signature();
    cases += test_hostile(&seed) + test_large() + test_pinwheels();
    cases += test_nonsense() + test_disjoint();
    TEST_CASES(cases);
    return 0;
}
