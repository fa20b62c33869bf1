/* What the planner refuses, what it leaves open, and what it reads.
 * (It covers plan_ask.c, plan_batch.c and plan_iter.c too.) */
#include "props/engine_kit.h"
#include "storage/repo/plan_hit.h"

static uint64_t cases;
static struct store *store;

static struct kit_model model(void)
{
    struct kit_model m = { 0 };
    kit_model_add(&m, "w", CKPT_DTYPE_F32, 2, (const uint64_t[]){ 12, 8 });
    kit_model_add(&m, "locked", CKPT_DTYPE_U8, 1, (const uint64_t[]){ 24 });
    kit_model_add(&m, "scales", CKPT_DTYPE_F32, 1, (const uint64_t[]){ 24 });
    kit_model_add(&m, "big", CKPT_DTYPE_F32, 2, (const uint64_t[]){ 5000, 1000 });
    m.tensors[1].kind = DECL_LOCKED;
    m.tensors[2].kind = DECL_BLOCKED;
    m.tensors[2].block[0] = 4;
    return m;
}

static struct reader *saved(uint32_t world)
{
    struct kit_model m = model();
    struct kit_layout l;
    struct kit_save how = { .name = { 1, world, world } };
    struct record_commit commit;
    struct reader *r;
    kit_layout_rows(&l, &m, world);
    kit_save_parts(store, &l, &how);
    CHECK_OK(publish(store, KIT_JOB, &how.name, world, &commit, NULL));
    CHECK_OK(reader_open(&store, 1, KIT_JOB, &how.name, &r, NULL));
    kit_layout_fini(&l);
    return r;
}

static enum ckpt_status plan_for(struct reader *r, const struct kit_model *m, uint32_t world,
                                 unsigned flags, struct plan **p, struct ckpt_err *err)
{
    struct kit_layout l;
    kit_layout_rows(&l, m, world);
    *err = (struct ckpt_err){ 0 };
    *p = NULL;
    enum ckpt_status st = plan_new(r, l.list, world, KIT_SLOT, flags, p, err);
    kit_layout_fini(&l);
    cases++;
    return st;
}

static void refuse(struct reader *r, const struct kit_model *m, uint32_t world,
                   enum ckpt_status want, const char *word)
{
    struct plan *p;
    struct ckpt_err err;
    CHECK_EQ(plan_for(r, m, world, 0, &p, &err), want);
    if (!strstr(err_text(&err), word)) {
        fprintf(stderr, "\"%s\" lacks \"%s\"\n", err_text(&err), word);
        exit(1);
    }
    CHECK(p == NULL);
}

static void test_refusals(struct reader *r)
{
    struct kit_model m = model();
    m.tensors[0].dtype = CKPT_DTYPE_I32;
    refuse(r, &m, 2, CKPT_MISMATCH, "tensor w: asked for as I32, saved as F32");
    m = model();
    m.tensors[0].shape[1] = 9;
    refuse(r, &m, 2, CKPT_MISMATCH, "[12, 9]");
    m = model();
    m.tensors[0].ndim = 1;
    refuse(r, &m, 2, CKPT_MISMATCH, "tensor w");
    m = model();
    snprintf(m.tensors[0].name, sizeof(m.tensors[0].name), "nobody");
    refuse(r, &m, 2, CKPT_NOT_FOUND, "tensor nobody");
    m = model();
    m.tensors[1].flags = DECL_OBJECT;
    refuse(r, &m, 2, CKPT_MISMATCH, "object");
    m = model();
    refuse(r, &m, 3, CKPT_REFUSED, "tensor locked is locked");
    m.tensors[0] = m.tensors[2]; /* blocked by 4, asked for in cuts of 24 / 5 */
    m.tensors[0].kind = DECL_ELEMENTWISE;
    m.tensors[0].block[0] = 0;
    m.count = 1;
    refuse(r, &m, 5, CKPT_REFUSED, "block of 4");
}

static void test_partial(struct reader *r)
{
    struct kit_model m = model();
    struct plan *p;
    struct ckpt_err err;
    snprintf(m.tensors[0].name, sizeof(m.tensors[0].name), "nobody");
    CHECK_OK(plan_for(r, &m, 2, PLAN_PARTIAL, &p, &err));
    CHECK_EQ(p->gap_count, 2); /* one a consumer */
    CHECK_EQ(p->gaps[1].consumer, 1);
    CHECK_EQ(p->gaps[1].tensor, 0);
    CHECK_EQ(p->unasked_count, 1);
    CHECK_STR(p->unasked[0], "w");
    plan_free(p);
    m.tensors[0].flags = DECL_OPTIONAL;
    CHECK_OK(plan_for(r, &m, 2, PLAN_NO_UNASKED, &p, &err));
    CHECK_EQ(p->gap_count, 2);
    CHECK_EQ(p->unasked_count, 0);
    plan_free(p);
}

/* Bytes, batches and places add up. */
static void check_plan(const struct plan *p, uint32_t world, uint64_t total)
{
    uint64_t sum = 0, read = 0;
    for (uint32_t c = 0; c < world; c++)
        sum += p->consumer_bytes[c];
    CHECK_EQ(sum, total);
    for (size_t i = 0; i < p->batch_count; i++) {
        const struct plan_batch *b = &p->batches[i];
        uint32_t frags = 0;
        CHECK(b->chunk_count && b->use_count && b->frag_count);
        for (uint32_t k = 0; k < b->use_count; k++) {
            CHECK(b->uses[k].slot_used <= KIT_SLOT && b->uses[k].slot_used > 0);
            CHECK(k == 0 || b->uses[k].consumer > b->uses[k - 1].consumer);
        }
        for (uint32_t k = 0; k < b->chunk_count; k++) {
            CHECK(b->chunks[k].index < b->pack.chunks);
            CHECK(k == 0 || b->chunks[k].index > b->chunks[k - 1].index);
            CHECK_EQ(b->chunks[k].first_frag, frags);
            frags += b->chunks[k].frag_count;
            read += b->chunks[k].raw_bytes;
        }
        CHECK_EQ(frags, b->frag_count);
        if (i > 0)
            CHECK(b->rank > b[-1].rank ||
                  (b->rank == b[-1].rank && b->pack.slot >= b[-1].pack.slot));
    }
    CHECK_EQ(read, p->read_bytes);
}

static void test_sums(struct reader *r, uint32_t from)
{
    struct kit_model m = model();
    uint64_t total = 12 * 8 * 4 + 24 + 24 * 4 + 5000 * 1000 * 4;
    m.tensors[1] = m.tensors[3]; /* without the locked one */
    m.count = 3;
    for (uint32_t world = 1; world <= 6; world += world == 1 ? 1 : 2) {
        struct plan *p;
        struct ckpt_err err;
        if (plan_for(r, &m, world, 0, &p, &err) != CKPT_OK) {
            fprintf(stderr, "%s\n", err_text(&err));
            exit(1);
        }
        check_plan(p, world, total - 24);
        CHECK(p->manifests_hit <= from);
        if (world == from) /* the same layout: every byte once */
            CHECK_EQ(p->read_bytes, total - 24);
        plan_free(p);
    }
}

/* So many tiny pieces of one chunk that they take more than one slot. */
static void test_tiny_pieces(void)
{
    enum { N = 140000 };
    struct kit_model m = { 0 };
    struct kit_layout from, to = { .world = 1 };
    struct kit_save how = { .name = { 1, 99, 99 } };
    struct record_commit commit;
    struct decl d = { 0 };
    const struct decl *list[] = { &d };
    char tensor[] = "tiny";
    struct decl_tensor t = { .name = tensor, .dtype = CKPT_DTYPE_U8, .ndim = 1, .shape = { N } };
    kit_model_add(&m, tensor, CKPT_DTYPE_U8, 1, (const uint64_t[]){ N });
    kit_layout_rows(&from, &m, 1);
    kit_save_parts(store, &from, &how);
    CHECK_OK(publish(store, KIT_JOB, &how.name, 1, &commit, NULL));
    CHECK_OK(decl_add_tensor(&d, &t, NULL));
    for (uint64_t i = 0; i < N; i++) {
        struct decl_piece p = { .box = { .ndim = 1, .off = { i }, .len = { 1 } },
                                .stride = { 1 },
                                .replica_count = 1 };
        CHECK_OK(decl_add_piece(&d, &p, NULL));
    }
    CHECK_OK(decl_finish(&d, KIT_SLOT, NULL));
    to.d = &d;
    to.list = list;
    struct load_stats stats = { 0 };
    CHECK_OK(kit_restore(&store, 1, &how.name, &to, &stats, NULL));
    CHECK_EQ(stats.raw_bytes, 2 * N); /* two batches read the chunk */
    decl_fini(&d);
    kit_layout_fini(&from);
    cases++;
}

/* The next fragment is where this tile and a piece of the consumer meet. */
static uint64_t check_fragment(const struct plan_batch *b, struct plan_iter *it,
                               const struct box *tile, const struct kit_layout *to)
{
    uint32_t number = it->frag;
    CHECK(plan_iter_next(it));
    const struct plan_part *p = it->part;
    const struct decl *d = to->list[p->consumer];
    const struct decl_piece *piece = plan_piece(d, p->tensor, p->piece);
    struct box common;
    CHECK(p == &b->parts[b->frags[number].part]);
    CHECK_EQ(it->slot_offset, b->frags[number].slot_offset);
    CHECK(strcmp(p->saved->name, d->tensors[p->tensor].name) == 0 && p->dtype == 0);
    CHECK(box_equal(&p->box, &piece->box));
    CHECK(box_intersect(tile, &piece->box, &common));
    CHECK(box_equal(&common, &it->common));
    return box_volume(&common);
}

/* Consumer by consumer the same fragments come as all together, into places of their
 * slots that do not overlap. */
static void check_consumers(const struct plan_batch *b)
{
    uint32_t seen = 0;
    for (uint32_t i = 0; i < b->use_count; i++) {
        struct plan_iter it = plan_iter_init(b, b->uses[i].consumer);
        uint64_t end = 0;
        for (; plan_iter_next(&it); seen++) {
            CHECK_EQ(it.part->consumer, b->uses[i].consumer);
            CHECK(it.slot_offset >= end);
            end = it.slot_offset + box_bytes(&it.common, dtype_bits(it.part->saved->dtype));
        }
        CHECK(end > 0);
        CHECK_EQ(end, b->uses[i].slot_used);
    }
    CHECK_EQ(seen, b->frag_count);
}

/* Random models and layouts: every chunk is read once for all consumers together, and the
 * fragments of each consumer are its pieces, each element once. */
static void check_fragments(const struct plan *p, const struct kit_layout *to)
{
    uint64_t volume = 0, want = 0;
    uint32_t last_rank = 0, last_slot = 0, last_index = 0;
    for (size_t i = 0; i < p->batch_count; i++) {
        const struct plan_batch *b = &p->batches[i];
        struct plan_iter it = plan_iter_init(b, PLAN_ALL);
        uint32_t seen = 0;
        check_consumers(b);
        for (uint32_t k = 0; k < b->chunk_count; k++) {
            const struct plan_chunk *c = &b->chunks[k];
            bool first = i == 0 && k == 0;
            CHECK(first || b->rank > last_rank ||
                  (b->rank == last_rank && b->pack.slot > last_slot) ||
                  (b->rank == last_rank && b->pack.slot == last_slot && c->index > last_index));
            last_rank = b->rank;
            last_slot = b->pack.slot;
            last_index = c->index;
            struct box tile = plan_tile(b, c);
            CHECK_EQ(c->raw_bytes, box_bytes(&tile, dtype_bits(plan_saved(b, c)->dtype)));
            for (uint32_t f = 0; f < c->frag_count; f++, seen++)
                volume += check_fragment(b, &it, &tile, to);
        }
        CHECK(!plan_iter_next(&it));
        CHECK_EQ(seen, b->frag_count);
    }
    for (uint32_t r = 0; r < to->world; r++) {
        for (size_t i = 0; i < to->list[r]->piece_count; i++)
            want += box_volume(&to->list[r]->pieces[i].box);
    }
    CHECK_EQ(volume, want);
}

static void test_random(void)
{
    unsigned long long seed = test_seed(16384);
    struct kit_census census = { 0 };
    uint64_t planned = 0;
    for (uint64_t i = 0; i < 60; i++) {
        struct kit_model m;
        struct kit_layout from, to;
        struct kit_save how = { .name = { 3, i, i } };
        struct record_commit commit;
        struct reader *r;
        struct plan *p;
        kit_model_random(&m, &seed, &census);
        kit_layout_random(&from, &m, 1 + (uint32_t)(i % 5), &seed, &census);
        kit_layout_random(&to, &m, 1 + (uint32_t)(i / 5 % 4), &seed, &census);
        kit_save_parts(store, &from, &how);
        CHECK_OK(publish(store, KIT_JOB, &how.name, from.world, &commit, NULL));
        CHECK_OK(reader_open(&store, 1, KIT_JOB, &how.name, &r, NULL));
        if (plan_new(r, to.list, to.world, KIT_SLOT, 0, &p, NULL) == CKPT_OK) {
            check_fragments(p, &to);
            plan_free(p);
            planned++;
        } /* else a locked tensor, or a blocked one that is cut elsewhere */
        reader_close(r);
        kit_layout_fini(&from);
        kit_layout_fini(&to);
        cases++;
    }
    printf("planned %llu of 60\n", (unsigned long long)planned);
    CHECK(planned >= 10);
}

/* A manifest in which two boxes claim one chunk cannot be committed; should one lie in a
 * store all the same, it is refused and not read twice. */
static void test_claims(void)
{
    const struct digest digests[4] = { 0 };
    struct manifest_pack pack = { .chunks = 4 };
    const struct manifest_header h = { .packs = &pack, .pack_count = 1, .chunk_count = 4 };
    char name[] = "w";
    const struct index_tensor saved = {
        .name = name, .dtype = CKPT_DTYPE_U8, .ndim = 1, .shape = { 8 }
    };
    struct manifest_box a = {
        .box = { .ndim = 1, .len = { 4 } }, .tile = { 2 }, .chunks = 2, .digests = digests
    };
    struct plan_part part = { .saved = &saved, .box = { .ndim = 1, .len = { 8 } } };
    struct plan_hit hit = { .bytes = 2 };
    struct plan_batcher b;
    struct plan p = { 0 };
    uint64_t consumer_bytes[1] = { 0 };
    struct ckpt_err err = { 0 };
    p.consumer_bytes = consumer_bytes;
    p.parts = &part;
    CHECK(plan_batcher_init(&b, 1, KIT_SLOT, &p));
    plan_batcher_rank(&b, 3, &h);
    CHECK_OK(plan_batcher_add(&b, &saved, &a, &hit, 1, &err));
    a.first_chunk = 1;
    CHECK_EQ(plan_batcher_add(&b, &saved, &a, &hit, 1, &err), CKPT_CORRUPT);
    CHECK(strstr(err_text(&err), "two boxes of rank 3 claim chunk 1"));
    plan_batcher_rank(&b, 4, &h); /* another rank counts anew */
    a.first_chunk = 0;
    CHECK_OK(plan_batcher_add(&b, &saved, &a, &hit, 1, &err));
    a.first_chunk = 4;
    err = (struct ckpt_err){ 0 };
    CHECK_EQ(plan_batcher_add(&b, &saved, &a, &hit, 1, &err), CKPT_CORRUPT);
    CHECK(strstr(err_text(&err), "has no pack for chunk 4"));
    CHECK_EQ(p.batch_count, 2);
    plan_batcher_fini(&b);
    free(p.batches);
    cases += 4;
}

int main(void)
{
    store = kit_store("mem://plan");
    struct reader *r = saved(2);
    test_refusals(r);
    test_partial(r);
    test_sums(r, 2);
    reader_close(r);
    r = saved(4);
    test_sums(r, 4);
    reader_close(r);
    test_tiny_pieces();
    test_random();
    test_claims();
    store_close(store);
    TEST_CASES(cases);
    return 0;
}
