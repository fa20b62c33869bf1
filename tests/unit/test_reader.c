/* A checkpoint opened for reading: what is found, what is not, what is refused. */
#include "props/engine_kit.h"

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

int main(void)
{
    test_contents();
    test_absent_and_aborted();
    TEST_CASES(cases);
    return 0;
}
