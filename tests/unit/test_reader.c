/* A checkpoint opened for reading (reader.c, reader_manifest.c): what is found, what is not, what
 * is refused. */
#include "props/engine_kit.h"
#include "storage/store/wrap.h"
#include "storage/store/wrap_pass.h"

static uint64_t cases;

static struct store *build(const char *url, uint32_t world, size_t tensors)
{
    struct store *s = kit_store(url);
    struct kit_model m = { 0 };
    struct kit_layout l;
    struct kit_save how = { .name = { 1, 7, 7 } };
    struct record_commit commit;
    for (size_t i = 0; i < tensors; i++) {
        char name[32];
        snprintf(name, sizeof(name), "t%02zu", tensors - i);
        kit_model_add(&m, name, CKPT_DTYPE_U8, 1, (const uint64_t[]){ 40 });
    }
    kit_layout_rows(&l, &m, world);
    kit_save_parts(s, &l, &how);
    CHECK_OK(publish(s, KIT_JOB, &how.name, world, &commit, NULL));
    kit_layout_fini(&l);
    return s;
}

static const struct ckpt_name name = { 1, 7, 7 };

static void test_contents(void)
{
    struct store *s = build("mem://reader", 4, 9);
    struct reader *r;
    const struct index_tensor *t;
    const struct manifest_header *h;
    const struct manifest_tensor *boxes;
    CHECK_OK(reader_open(&s, 1, KIT_JOB, &name, &r, NULL));
    CHECK_EQ(reader_tensor_count(r), 9);
    for (uint64_t i = 0; i < 9; i++) {
        char want[8];
        snprintf(want, sizeof(want), "t%02u", (unsigned)i + 1);
        CHECK_OK(reader_tensor_at(r, i, &t, NULL));
        CHECK_STR(t->name, want);
        const struct index_tensor *same;
        CHECK_OK(reader_tensor(r, want, &same, NULL));
        CHECK(same == t);
        cases++;
    }
    struct ckpt_err err = { 0 };
    CHECK_EQ(reader_tensor(r, "t99", &t, &err), CKPT_NOT_FOUND);
    CHECK_EQ(reader_tensor(r, "a", &t, &err), CKPT_NOT_FOUND);
    CHECK_EQ(reader_boxes(r, 1, "t99", &boxes, &err), CKPT_NOT_FOUND);
    CHECK_EQ(err.status, CKPT_OK); /* no words */
    for (uint32_t rank = 0; rank < 4; rank++) {
        CHECK_OK(reader_manifest(r, rank, &h, NULL));
        CHECK_EQ(h->rank, rank);
        CHECK_OK(reader_boxes(r, rank, "t03", &boxes, NULL));
        CHECK_EQ(boxes->box_count, 1);
        CHECK_EQ(boxes->boxes[0].box.off[0], rank * 10);
        cases++;
    }
    reader_forget(r, 2);
    CHECK_OK(reader_boxes(r, 2, "t01", &boxes, NULL));
    reader_close(r);
    store_close(s);
}

static void test_absent_and_aborted(void)
{
    struct store *s = kit_store("mem://reader");
    const struct ckpt_name other = { 1, 8, 8 };
    struct reader *r;
    struct ckpt_err err = { 0 };
    CHECK_EQ(reader_open(&s, 1, KIT_JOB, &other, &r, &err), CKPT_NOT_FOUND);
    struct record_abort why = { .status = CKPT_TIMEOUT, .rank = 3 };
    CHECK_OK(publish_abort(s, KIT_JOB, &other, &why, NULL));
    CHECK_EQ(reader_open(&s, 1, KIT_JOB, &other, &r, NULL), CKPT_ABORTED);
    CHECK_EQ(reader_open(&s, 1, "../x", &other, &r, NULL), CKPT_BAD_NAME);
    /* Gone for good: c/ beside GONE counts as nothing. */
    struct key key = key_life(KIT_JOB, &name, false, 1);
    struct record_life deleted = { .life = LIFE_DELETED, .time_ns = 1 };
    CLEANUP_BUF struct buf b = { 0 };
    record_life_encode(&deleted, key.text, &b);
    CHECK_OK(repo_put(s, &key, &b, NULL));
    CHECK_OK(reader_open(&s, 1, KIT_JOB, &name, &r, NULL));
    reader_close(r);
    struct key next = key_life(KIT_JOB, &name, false, 2);
    struct record_life gone = { .life = LIFE_GONE, .time_ns = 2 };
    CLEANUP_BUF struct buf b2 = { 0 };
    record_life_encode(&gone, next.text, &b2);
    CHECK_OK(repo_put(s, &next, &b2, NULL));
    CHECK_EQ(reader_open(&s, 1, KIT_JOB, &name, &r, NULL), CKPT_NOT_FOUND);
    store_close(s);
    cases += 5;
}

/* What is read ahead is checked like all else, and left to be asked for again when it does
 * not come: by each name afterwards the right boxes are found. */
static void test_ahead(void)
{
    static const char *const names[] = { "a", "t01", "t02", "t05", "t09", "zz" };
    static const enum wrap_fault_kind kinds[] = { FAULT_FLIP, FAULT_FAIL, FAULT_SHORT };
    for (size_t k = 0; k <= ARRAY_COUNT(kinds); k++) {
        struct store *inner = build(k % 2 ? "mem://ahead1" : "mem://ahead0", 2, 9), *s;
        struct store_counts counts = { 0 };
        struct store *counted;
        /* gets of a manifest: its header, then the one ahead */
        struct wrap_fault_rule rule = {
            .kind = kinds[k % 3], .status = CKPT_IO, .op = 'g', .match = ".m", .nth = 2
        };
        struct wrap_fault_plan plan = { .rules = &rule, .count = k < 3, .seed = 1 };
        struct reader *r;
        const struct manifest_tensor *t;
        CHECK_OK(wrap_count(inner, &counts, &counted, NULL));
        CHECK_OK(wrap_fault(counted, &plan, &s, NULL));
        CHECK_OK(reader_open(&s, 1, KIT_JOB, &name, &r, NULL));
        CHECK_OK(reader_ahead(r, 1, names, ARRAY_COUNT(names), NULL));
        CHECK_EQ(plan.hits, k < 3);
        uint64_t gets = counts.gets;
        for (size_t i = 1; i + 1 < ARRAY_COUNT(names); i++) {
            CHECK_OK(reader_boxes(r, 1, names[i], &t, NULL));
            CHECK_STR(t->name, names[i]);
            CHECK_EQ(t->boxes[0].box.off[0], 20);
            cases++;
        }
        CHECK_EQ(reader_boxes(r, 1, "zz", &t, NULL), CKPT_NOT_FOUND);
        CHECK_EQ(counts.gets - gets, k < 3);
        CHECK_OK(reader_ahead(r, 1, names, ARRAY_COUNT(names), NULL)); /* all there */
        CHECK_EQ(counts.gets - gets, k < 3);
        reader_close(r);
        store_close(s);
    }
}

/* -- a manifest that claims more than there is ------------------------------------------ */

#define FORGED_BLOCKS 100

/* Rank 1's, with blocks that are not there behind the true one; its sums are right. */
static void forge_manifest(struct store *s, struct index_rank *ret)
{
    struct key key = key_manifest(KIT_JOB, &name, 1);
    CLEANUP_FREE uint8_t *bytes = NULL;
    size_t len;
    CLEANUP_BUF struct buf b = { 0 };
    struct manifest_header h;
    CHECK_OK(store_get_all(s, key.text, 1 << 24, (void **)&bytes, &len, NULL));
    CHECK_OK(manifest_header_decode(bytes, len, NULL, &h, NULL));
    CHECK_EQ(h.block_count, 1);
    buf_bytes(&b, bytes, h.header_bytes - sizeof(struct digest));
    for (uint32_t i = 0; i < FORGED_BLOCKS; i++) {
        char first[16];
        snprintf(first, sizeof(first), "u%03u", i);
        buf_u32(&b, MANIFEST_BLOCK_BYTES_MAX);
        buf_u32(&b, 1);
        buf_zero(&b, 8 + sizeof(struct digest));
        buf_str(&b, first);
    }
    ret->header_bytes = (uint32_t)(b.len + sizeof(struct digest));
    buf_patch_u32(&b, 12, ret->header_bytes);
    buf_patch_u32(&b, 56, 1 + FORGED_BLOCKS);
    buf_patch_u64(&b, 128, h.tensor_count + FORGED_BLOCKS);
    struct digest sum = digest_of(b.data, b.len);
    buf_bytes(&b, sum.b, sizeof(sum.b));
    ret->sha = sha256_of(b.data, b.len);
    buf_bytes(&b, bytes + h.header_bytes, len - h.header_bytes);
    ret->bytes = b.len;
    CHECK(!b.failed);
    const struct iovec iov = { b.data, b.len };
    CHECK_OK(store_put(s, key.text, &iov, 1, 0, NULL));
    manifest_header_fini(&h);
}

/* The chain of sums from the commit on leads to the forged manifest. */
static void forge(struct store *s)
{
    struct reader *r;
    struct index_rank ranks[2];
    struct index_tensor tensors[9];
    struct index_tensors all = { tensors, ARRAY_COUNT(tensors) };
    struct buf *segments;
    uint32_t count;
    CLEANUP_BUF struct buf b = { 0 };
    CHECK_OK(reader_open(&s, 1, KIT_JOB, &name, &r, NULL));
    for (uint32_t i = 0; i < 2; i++) {
        const struct index_rank *rank;
        CHECK_OK(reader_rank(r, i, &rank, NULL));
        ranks[i] = *rank;
    }
    for (size_t i = 0; i < all.count; i++) {
        const struct index_tensor *t;
        CHECK_OK(reader_tensor_at(r, i, &t, NULL));
        tensors[i] = *t;
    }
    forge_manifest(s, &ranks[1]);
    struct record_commit c = *reader_commit(r);
    CHECK_OK(index_encode(&name, 2, ranks, &all, &segments, &count, &c.index_header_bytes,
                          &c.index_sha, NULL));
    CHECK_EQ(count, 1);
    struct iovec iov = { segments[0].data, segments[0].len };
    CHECK_OK(store_put(s, key_index(KIT_JOB, &name, 0).text, &iov, 1, 0, NULL));
    struct key key = key_commit(KIT_JOB, &name);
    record_commit_encode(&c, key.text, &b);
    iov = (struct iovec){ b.data, b.len };
    CHECK_OK(store_put(s, key.text, &iov, 1, 0, NULL));
    reader_close(r);
    buf_fini(&segments[0]);
    free(segments);
}

static uint64_t asked_gets, asked_most; /* bytes of one get, whether they came or not */

static enum ckpt_status ask(struct store *s, const char *key, const struct store_range *ranges,
                            size_t count, struct ckpt_err *err)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < count; i++)
        bytes += ranges[i].bytes;
    asked_gets++;
    asked_most = max_u64(asked_most, bytes);
    return wrap_pass_get(s, key, ranges, count, err);
}

/* What is read ahead is bounded, and what the bound leaves out takes nothing from the rest. */
static void test_ahead_forged(void)
{
    static const struct store_ops ops = { .scheme = "asked",
                                          .get = ask,
                                          .stat = wrap_pass_stat,
                                          .list = wrap_pass_list,
                                          .close = wrap_pass_close };
    static const char *const sound[] = { "t01", "t02", "t03", "t04", "t05",
                                         "t06", "t07", "t08", "t09" };
    char texts[FORGED_BLOCKS][8];
    const char *names[9 + FORGED_BLOCKS];
    struct store *s = build("mem://forged", 2, 9);
    struct wrap *w;
    struct reader *r;
    const struct manifest_header *h;
    const struct manifest_tensor *t;
    memcpy(names, sound, sizeof(sound));
    for (size_t i = 0; i < FORGED_BLOCKS; i++) {
        snprintf(texts[i], sizeof(texts[i]), "u%03zu", i);
        names[9 + i] = texts[i];
    }
    forge(s);
    CHECK_OK(wrap_new(sizeof(*w), &ops, s, &w, NULL));
    struct store *asked = &w->base;
    CHECK_OK(reader_open(&asked, 1, KIT_JOB, &name, &r, NULL));
    CHECK_OK(reader_manifest(r, 1, &h, NULL));
    CHECK_EQ(h->block_count, 1 + FORGED_BLOCKS);
    asked_most = 0;
    CHECK_OK(reader_ahead(r, 1, names, ARRAY_COUNT(names), NULL));
    CHECK(asked_most > 0 && asked_most <= READER_AHEAD_MAX);
    uint64_t gets = asked_gets;
    for (size_t i = 0; i < ARRAY_COUNT(sound); i++) {
        CHECK_OK(reader_boxes(r, 1, sound[i], &t, NULL));
        CHECK_STR(t->name, sound[i]);
        cases++;
    }
    CHECK_EQ(asked_gets, gets);
    CHECK_EQ(reader_boxes(r, 1, "u007", &t, NULL), CKPT_CORRUPT);
    reader_close(r);
    store_close(asked);
    cases += 2;
}

int main(void)
{
    test_contents();
    test_ahead();
    test_ahead_forged();
    test_absent_and_aborted();
    TEST_CASES(cases);
    return 0;
}
