/* Worlds so large that ranges of ranks are merged by threads of their own: what is
 * refused, and that it is the same as in a small world. */
#include <assert.h>

#include "props/engine_kit.h"
#include "storage/repo/publish_merge.h"
#include "storage/store/wrap.h"

#define WORLD 100

static uint64_t cases;

static struct kit_model model(void)
{
    struct kit_model m = { 0 };
    kit_model_add(&m, "w", CKPT_DTYPE_F32, 2, (const uint64_t[]){ 300, 8 });
    kit_model_add(&m, "b", CKPT_DTYPE_F32, 1, (const uint64_t[]){ 120 });
    return m;
}

static enum ckpt_status publish_it(struct store *s, const char *job, const struct kit_save *how,
                                   uint32_t world, struct ckpt_err *err)
{
    struct record_commit commit;
    *err = (struct ckpt_err){ 0 };
    cases++;
    return publish(s, job, &how->name, world, &commit, err);
}

static void save_but(struct store *s, const struct kit_layout *l, const struct kit_save *how,
                     uint32_t but)
{
    for (uint32_t rank = 0; rank < l->world; rank++) {
        if (rank != but)
            CHECK_OK(kit_save_part(s, l, rank, how, NULL));
    }
}

static void expect(enum ckpt_status is, enum ckpt_status want, const struct ckpt_err *err,
                   const char *word)
{
    if (is == want && strstr(err_text(err), word))
        return;
    fprintf(stderr, "%s, \"%s\"; expected %s with \"%s\"\n", status_name(is), err_text(err),
            status_name(want), word);
    exit(1);
}

static void test_missing_and_failed(struct store *s, const struct kit_layout *l)
{
    struct kit_save how = { .name = { 1, 1, 1 } };
    struct ckpt_err err;
    struct manifest_header h;
    save_but(s, l, &how, 60);
    enum ckpt_status st = publish_it(s, KIT_JOB, &how, WORLD, &err);
    expect(st, CKPT_NOT_FOUND, &err, "rank 60");
    CHECK_OK(kit_save_part(s, l, 60, &how, &err));
    CHECK_OK(publish_it(s, KIT_JOB, &how, WORLD, &err));
    how.name = (struct ckpt_name){ 1, 2, 2 };
    for (uint32_t rank = 0; rank < 55; rank++) /* most never come, one says that it failed */
        CHECK_OK(kit_save_part(s, l, rank, &how, &err));
    kit_header(&h, l, 90, &how);
    h.flags = MANIFEST_FLAG_FAILED;
    h.fail_status = CKPT_FULL;
    snprintf(h.fail_text, sizeof(h.fail_text), "the disk is full");
    CHECK_OK(save_failed(s, &h, &err));
    st = publish_it(s, KIT_JOB, &how, WORLD, &err);
    expect(st, CKPT_ABORTED, &err, "rank 90 could not save its part: the disk is full");
}

/* One rank of another opinion, near and far from borders of ranges. */
static void test_disagreement(struct store *s, const struct kit_layout *l)
{
    static const uint32_t odd[] = { 1, 24, 25, 26, 74, 99 };
    struct kit_model other = model(), wider = model();
    struct kit_layout a, b;
    other.tensors[1].dtype = CKPT_DTYPE_I32;
    wider.tensors[0].shape[1] = 9;
    kit_layout_rows(&a, &other, WORLD);
    kit_layout_rows(&b, &wider, WORLD);
    for (uint32_t i = 0; i < ARRAY_COUNT(odd); i++) {
        struct kit_save how = { .name = { 1, 10 + i, 10 + i } };
        struct ckpt_err err;
        char word[64];
        save_but(s, l, &how, odd[i]);
        CHECK_OK(kit_save_part(s, i % 2 ? &a : &b, odd[i], &how, &err));
        enum ckpt_status st = publish_it(s, KIT_JOB, &how, WORLD, &err);
        snprintf(word, sizeof(word), "and %u do not agree on its %s", odd[i],
                 i % 2 ? "dtype" : "shape");
        expect(st, CKPT_MISMATCH, &err, odd[i] == 25 ? "do not agree on its" : word);
        expect(st, CKPT_MISMATCH, &err, i % 2 ? "tensor b" : "tensor w");
    }
    kit_layout_fini(&a);
    kit_layout_fini(&b);
}

static void test_origin(struct store *s, const struct kit_layout *l)
{
    struct kit_save how = { .name = { 1, 20, 20 } }, child = how;
    struct ckpt_err err;
    child.has_parent = true;
    child.parent = (struct ckpt_name){ 1, 1, 1 };
    for (uint32_t rank = 0; rank < WORLD; rank++)
        CHECK_OK(kit_save_part(s, l, rank, rank < 50 ? &how : &child, &err));
    enum ckpt_status st = publish_it(s, KIT_JOB, &how, WORLD, &err);
    expect(st, CKPT_MISMATCH, &err, "ranks 0 and 50 do not agree on the try or the parent");
}

static void copy_manifest(struct store *s, const struct key *from, const struct key *to)
{
    CLEANUP_FREE void *bytes = NULL;
    size_t len;
    CHECK_OK(store_get_all(s, from->text, SIZE_MAX / 2, &bytes, &len, NULL));
    CHECK_OK(store_put_record(s, to->text, bytes, len, NULL));
}

/* Rank 50 digests what rank 10 wrote: rightly, wrongly, and what no rank wrote alone. */
static void test_witnesses(struct store *s, const struct kit_layout *l)
{
    static const struct {
        uint64_t row, rows;
        enum ckpt_status want;
        const char *word;
    } seen[] = {
        { 30, 3, CKPT_OK, "" },
        { 30, 3, CKPT_CORRUPT, "tensor w: replicas differ: ranks 50 and 10" },
        { 30, 2, CKPT_MISMATCH, "which is no tile of what rank 10 wrote" },
        { 29, 3, CKPT_COVER, "no rank holds" },
    };
    for (uint32_t i = 0; i < ARRAY_COUNT(seen); i++) {
        uint8_t bytes[3 * 8 * 4];
        struct manifest_seen one = {
            .witness.box = { .ndim = 2, .off = { seen[i].row, 0 }, .len = { seen[i].rows, 8 } }
        };
        struct kit_save how = {
            .name = { 1, 30 + i, 30 + i }, .seen = &one, .seen_count = 1, .seen_rank = 50
        };
        struct ckpt_err err;
        kit_bytes("w", (const uint64_t[]){ 300, 8 }, &one.witness.box, 32, bytes);
        bytes[0] ^= i == 1;
        one.witness.digest = digest_of(bytes, seen[i].rows * 8 * 4);
        kit_save_parts(s, l, &how);
        enum ckpt_status st = publish_it(s, KIT_JOB, &how, WORLD, &err);
        expect(st, seen[i].want, &err, seen[i].word);
    }
}

/* The right bytes in the wrong place, in small and large worlds. */
static void test_strangers(struct store *s, uint32_t world)
{
    struct kit_model m = model();
    struct kit_layout l;
    struct kit_save how = { .name = { 2, world, 1 } }, later = { .name = { 2, world, 2 } };
    struct ckpt_err err;
    kit_layout_rows(&l, &m, world);
    kit_save_parts(s, &l, &how);
    for (uint32_t rank = 0; rank < world; rank++) {
        struct key from = key_manifest(KIT_JOB, &how.name, rank);
        struct key to = key_manifest("other", &how.name, rank);
        copy_manifest(s, &from, &to);
    }
    enum ckpt_status st = publish_it(s, "other", &how, world, &err);
    expect(st, CKPT_MISMATCH, &err, "another job: job kit");
    save_but(s, &l, &later, 1);
    struct key from = key_manifest(KIT_JOB, &later.name, 0),
               to = key_manifest(KIT_JOB, &later.name, 1);
    copy_manifest(s, &from, &to);
    st = publish_it(s, KIT_JOB, &later, world, &err);
    expect(st, CKPT_MISMATCH, &err, "another rank");
    st = publish_it(s, KIT_JOB, &how, world - 1, &err);
    expect(st, CKPT_MISMATCH, &err, "another world size");
    kit_layout_fini(&l);
}

/* Threads read: a store that fails, damages or cuts one get short makes no commit of it. */
static void test_trouble(const struct kit_layout *l)
{
    static const enum wrap_fault_kind kinds[] = { FAULT_FAIL, FAULT_FLIP, FAULT_SHORT };
    struct kit_save how = { .name = { 1, 1, 1 } };
    for (uint64_t nth = 1; nth < 3 * WORLD; nth += 7 * TEST_TENTH) {
        struct wrap_fault_rule rule = {
            .kind = kinds[nth % 3], .status = CKPT_IO, .op = 'g', .match = ".m", .nth = nth
        };
        struct wrap_fault_plan plan = { .rules = &rule, .count = 1, .seed = nth };
        struct ckpt_err err;
        char url[40];
        snprintf(url, sizeof(url), "mem://world%llu", (unsigned long long)nth);
        struct store *inner = kit_store(url), *s;
        kit_save_parts(inner, l, &how);
        CHECK_OK(wrap_fault(inner, &plan, &s, NULL));
        enum ckpt_status st = publish_it(s, KIT_JOB, &how, WORLD, &err);
        CHECK_EQ(st == CKPT_OK, plan.hits == 0);
        CHECK(plan.hits == 0 || st == CKPT_IO || st == CKPT_CORRUPT);
        CHECK(plan.hits == 0 || strstr(err_text(&err), "manifest of rank"));
        CHECK_OK(publish_it(s, KIT_JOB, &how, WORLD, &err)); /* it was but the moment */
        store_close(s);
    }
}

int main(void)
{
    struct store *s = kit_store("mem://publish-world");
    struct kit_model m = model();
    struct kit_layout l;
    static_assert(WORLD >= MERGE_SPLIT_WORLD, "large enough for threads");
    kit_layout_rows(&l, &m, WORLD);
    test_missing_and_failed(s, &l);
    test_disagreement(s, &l);
    test_origin(s, &l);
    test_witnesses(s, &l);
    test_strangers(s, 3);
    test_strangers(s, 80);
    test_trouble(&l);
    kit_layout_fini(&l);
    store_close(s);
    TEST_CASES(cases);
    return 0;
}
