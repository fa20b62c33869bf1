/* A checkpoint opened for reading (reader.c, reader_manifest.c): what is found, what is not, what
 * is refused. */
#include "props/engine_kit.h"
#include "storage/store/wrap.h"

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

int main(void)
{
    test_contents();
    test_ahead();
    test_absent_and_aborted();
    TEST_CASES(cases);
    return 0;
}
