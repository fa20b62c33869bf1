/* Loading under faults: flipped reads, short objects, packs coded anew under the reader's
 * feet, absent tiers; never wrong bytes (the kit compares every one). */
#include "formats/pack.h"
#include "props/engine_kit.h"
#include "storage/repo/scrub.h"
#include "storage/store/wrap.h"

static uint64_t cases;

static void build(const char *url, struct kit_layout *to, struct save_codec codec)
{
    struct store *s = kit_store(url);
    struct kit_model m = { 0 };
    struct kit_layout from;
    struct kit_save how = { .name = { 1, 1, 1 }, .codec = codec };
    struct record_commit commit;
    kit_model_add(&m, "a", CKPT_DTYPE_F32, 2, (const uint64_t[]){ 2500, 1000 });
    kit_model_add(&m, "b", CKPT_DTYPE_U8, 1, (const uint64_t[]){ 1000 });
    kit_layout_rows(&from, &m, 2);
    kit_save_parts(s, &from, &how);
    CHECK_OK(publish(s, KIT_JOB, &how.name, 2, &commit, NULL));
    kit_layout_fini(&from);
    if (to)
        kit_layout_rows(to, &m, 3);
    store_close(s);
}

static const struct ckpt_name name = { 1, 1, 1 };

/* The nth read flips a bit or ends early: one store mends itself by a second read of a
 * pack; elsewhere it is an error with words or the second store's answer. */
static void test_faults(const struct kit_layout *l, const char *url, enum wrap_fault_kind kind)
{
    uint64_t retried = 0, hits = 0;
    for (uint64_t nth = 1;; nth++) {
        struct wrap_fault_rule rule = { kind, CKPT_CORRUPT, 'g', NULL, nth };
        struct wrap_fault_plan one = { .rules = &rule, .count = 1, .seed = nth }, two = one;
        struct store *s, *backup = kit_store(url);
        struct load_stats stats = { 0 };
        struct ckpt_err err = { 0 };
        CHECK_OK(wrap_fault(kit_store(url), &one, &s, NULL));
        enum ckpt_status st = kit_restore(&s, 1, &name, l, &stats, &err);
        CHECK(st == CKPT_OK || err.text[0]);
        store_close(s);
        CHECK_OK(wrap_fault(kit_store(url), &two, &s, NULL));
        struct store *const tiers[] = { s, backup };
        CHECK_OK(kit_restore(tiers, 2, &name, l, &stats, NULL));
        retried += stats.retries;
        hits += one.hits + two.hits;
        store_close(s);
        store_close(backup);
        cases++;
        if (one.hits == 0)
            break;
    }
    CHECK(hits > 0);
    /* A get that fails may be one for head and body of a pack taken for an image; asking
     * for the head alone then is no retry. */
    CHECK(retried > 0 || kind != FAULT_FLIP);
}

/* Every read of packs is wrong in the first store: all comes from the second. */
static void test_bad_tier(const struct kit_layout *l, const char *url)
{
    struct wrap_fault_rule rule = { FAULT_FLIP, CKPT_OK, 'g', "/0-", 0 };
    struct wrap_fault_plan plan = { .rules = &rule, .count = 1, .seed = 3 };
    struct store *s, *backup = kit_store(url);
    struct load_stats stats = { 0 };
    struct ckpt_err err = { 0 };
    CHECK_OK(wrap_fault(kit_store(url), &plan, &s, NULL));
    struct store *const tiers[] = { s, backup };
    CHECK_EQ(kit_restore(&s, 1, &name, l, &stats, &err), CKPT_CORRUPT);
    CHECK(strstr(err_text(&err), "tensor a") && strstr(err_text(&err), "/0-"));
    stats = (struct load_stats){ 0 };
    CHECK_OK(kit_restore(tiers, 2, &name, l, &stats, &err));
    CHECK_EQ(stats.damaged_tier, 1);
    CHECK(stats.retries > 0);
    /* A tier without anything: found in the other; nowhere: says missing. */
    struct store *empty = kit_store("mem://load-empty");
    struct store *const behind[] = { empty, backup };
    CHECK_OK(kit_restore(behind, 2, &name, l, &stats, &err));
    CHECK_EQ(kit_restore(&empty, 1, &name, l, &stats, &err), CKPT_NOT_FOUND);
    store_close(empty);
    store_close(s);
    store_close(backup);
    cases += 4;
}

/* Two stores of one checkpoint, coded differently (rule S2). */
static void test_mixed_encoding(const struct kit_layout *l)
{
    struct store *raw = kit_store("mem://load-raw"), *coded = kit_store("mem://load-zstd");
    struct wrap_fault_rule rule = { FAULT_FLIP, CKPT_OK, 'g', "-0-", 2 };
    struct wrap_fault_plan plan = { .rules = &rule, .count = 1, .seed = 9 };
    struct store *s;
    struct load_stats stats = { 0 };
    CHECK_OK(wrap_fault(raw, &plan, &s, NULL));
    struct store *const tiers[] = { s, coded };
    CHECK_OK(kit_restore(tiers, 2, &name, l, &stats, NULL));
    CHECK(plan.hits > 0);
    store_close(s);
    store_close(coded);
    cases++;
}

/* One bad read of a pack in the only store: a second read is enough, whichever get it was
 * (an image: head and body at once; a coded pack: that guess, the head, the body). */
static void test_second_read(const struct kit_layout *l, const char *url, uint64_t gets)
{
    for (uint64_t nth = 1; nth <= gets; nth++) {
        struct wrap_fault_rule rule = { FAULT_FLIP, CKPT_OK, 'g', "/0-0-", nth };
        struct wrap_fault_plan plan = { .rules = &rule, .count = 1, .seed = nth };
        struct store *s;
        struct load_stats stats = { 0 };
        CHECK_OK(wrap_fault(kit_store(url), &plan, &s, NULL));
        CHECK_OK(kit_restore(&s, 1, &name, l, &stats, NULL));
        CHECK_EQ(plan.hits, 1);
        CHECK_EQ(stats.damaged_tier, 0);
        store_close(s);
        cases++;
    }
}

static enum ckpt_status find_pack(void *arg, const struct store_entry *e)
{
    struct key_data_parts parts = { 0 };
    if (key_parse_data(strrchr(e->key, '/') + 1, &parts) == KEY_PACK && parts.rank == 0 &&
        parts.slot == 0)
        memcpy(arg, e->key, STORE_KEY_MAX + 1);
    return CKPT_OK;
}

/* Packs that somebody made with care: every sum right but one thing. */
static void test_forged(const struct kit_layout *l, const char *url)
{
    struct store *s = kit_store(url);
    char key[STORE_KEY_MAX + 1] = "";
    void *was;
    size_t len;
    CHECK_OK(repo_list(s, KIT_JOB "/d/", false, find_pack, key, NULL));
    CHECK_OK(store_get_all(s, key, SIZE_MAX / 2, &was, &len, NULL));
    for (int what = 0; what < 5; what++) {
        CLEANUP_FREE uint8_t *bytes = malloc(len);
        CLEANUP_FREE struct pack_chunk *chunks = calloc(CKPT_PACK_CHUNKS_MAX, sizeof(*chunks));
        struct pack_head head = { .chunks = chunks };
        struct load_stats stats = { 0 };
        struct ckpt_err err = { 0 };
        struct scrub_report report;
        memcpy(bytes, was, len);
        CHECK_OK(pack_head_decode(bytes, len, pack_head_peek(bytes, len), &head, NULL));
        uint8_t *first = bytes + pack_head_bytes(head.chunk_count) + chunks[0].offset;
        if (what == 0) { /* other bytes with their own sum */
            first[5] ^= 1;
            chunks[0].crc = crc32c(first, chunks[0].stored_bytes);
        }
        chunks[0].crc ^= what == 1; /* right bytes, wrong sum */
        head.slot += what == 2;
        head.rank += what == 3;
        head.job_hash += what == 4;
        pack_head_encode(&head, bytes);
        const struct iovec iov = { bytes, len };
        CHECK_OK(store_put(s, key, &iov, 1, 0, NULL));
        CHECK_EQ(kit_restore(&s, 1, &name, l, &stats, &err), CKPT_CORRUPT);
        CHECK(strstr(err_text(&err), key));
        CHECK_EQ(scrub_verify(s, KIT_JOB, &name, CKPT_SLOT_BYTES_MAX, NULL, &report, NULL),
                 CKPT_CORRUPT);
        cases++;
    }
    const struct iovec iov = { was, len };
    CHECK_OK(store_put(s, key, &iov, 1, 0, NULL));
    free(was);
    store_close(s);
}

/* The same layout again is read in few ranges and no byte twice. */
static void test_same_layout_reads_once(void)
{
    struct kit_model m = { 0 };
    struct kit_layout l;
    struct store_counts counts = { 0 };
    struct store *s;
    struct load_stats stats = { 0 };
    kit_model_add(&m, "a", CKPT_DTYPE_F32, 2, (const uint64_t[]){ 2500, 1000 });
    kit_model_add(&m, "b", CKPT_DTYPE_U8, 1, (const uint64_t[]){ 1000 });
    kit_layout_rows(&l, &m, 2);
    CHECK_OK(wrap_count(kit_store("mem://load-raw"), &counts, &s, NULL));
    CHECK_OK(kit_restore(&s, 1, &name, &l, &stats, NULL));
    CHECK_EQ(stats.raw_bytes, 2500 * 1000 * 4 + 1000);
    CHECK(stats.read_bytes < stats.raw_bytes + 64 * KIB);
    CHECK(counts.get_ranges < 40);
    CHECK_EQ(stats.retries, 0);
    kit_layout_fini(&l);
    store_close(s);
    cases++;
}

int main(void)
{
    struct kit_layout l;
    build("mem://load-raw", &l, (struct save_codec){ CODEC_STORED, 0 });
    build("mem://load-zstd", NULL, (struct save_codec){ CODEC_ZSTD, 1 });
    test_faults(&l, "mem://load-raw", FAULT_FLIP);
    test_faults(&l, "mem://load-zstd", FAULT_FLIP);
    test_faults(&l, "mem://load-raw", FAULT_SHORT);
    test_faults(&l, "mem://load-raw", FAULT_FAIL);
    test_bad_tier(&l, "mem://load-raw");
    test_second_read(&l, "mem://load-raw", 1);
    test_second_read(&l, "mem://load-zstd", 3);
    test_forged(&l, "mem://load-raw");
    test_forged(&l, "mem://load-zstd");
    test_mixed_encoding(&l);
    test_same_layout_reads_once();
    struct kit_model m = { 0 };
    struct kit_layout same;
    kit_model_add(&m, "a", CKPT_DTYPE_F32, 2, (const uint64_t[]){ 2500, 1000 });
    kit_model_add(&m, "b", CKPT_DTYPE_U8, 1, (const uint64_t[]){ 1000 });
    kit_layout_rows(&same, &m, 2); /* straight into the slots */
    test_second_read(&same, "mem://load-raw", 1);
    test_forged(&same, "mem://load-raw");
    kit_layout_fini(&same);
    kit_layout_fini(&l);
    TEST_CASES(cases);
    return 0;
}
