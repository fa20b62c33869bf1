/* Saving a part: order of puts, packs as they must lie, retries. */
#include "formats/pack.h"
#include "props/engine_kit.h"
#include "storage/store/wrap.h"

static uint64_t cases;

static struct kit_model model(void)
{
    struct kit_model m = { 0 };
    kit_model_add(&m, "big", CKPT_DTYPE_F32, 2, (const uint64_t[]){ 3000, 1000 }); /* 12 MB */
    kit_model_add(&m, "small", CKPT_DTYPE_U8, 1, (const uint64_t[]){ 77 });
    return m;
}

static enum ckpt_status find_packs(void *arg, const struct store_entry *e)
{
    struct store_entry *list = arg;
    struct key_data_parts parts = { 0 };
    if (key_parse_data(strrchr(e->key, '/') + 1, &parts) == KEY_PACK)
        list[parts.slot] = *e;
    return CKPT_OK;
}

/* An image: offsets as the slot has them, gaps zero although the slot had rubbish there. */
static void test_image(void)
{
    struct store *s = kit_store("mem://save");
    struct kit_model m = model();
    struct kit_layout l;
    struct kit_save how = { .name = { 1, 1, 1 } };
    struct store_entry packs[4] = { 0 };
    kit_layout_rows(&l, &m, 1);
    CHECK_EQ(l.d[0].slot_count, 2);
    kit_save_parts(s, &l, &how);
    CHECK_OK(repo_list(s, KIT_JOB "/d/", false, find_packs, packs, NULL));
    for (uint32_t slot = 0; slot < 2; slot++) {
        uint32_t n = l.d[0].slots[slot].chunks;
        CLEANUP_FREE void *bytes = NULL;
        CLEANUP_FREE struct pack_chunk *chunks = calloc(n, sizeof(*chunks));
        struct pack_head head = { .chunks = chunks };
        size_t len;
        CHECK_OK(store_get_all(s, packs[slot].key, SIZE_MAX / 2, &bytes, &len, NULL));
        CHECK_OK(pack_head_decode(bytes, len, n, &head, NULL));
        CHECK_EQ(len, pack_head_bytes(n) + head.body_bytes);
        CHECK(head.flags & PACK_FLAG_IMAGE);
        const uint8_t *body = (uint8_t *)bytes + pack_head_bytes(n);
        uint64_t end = 0;
        for (uint32_t i = 0; i <= n; i++) {
            uint64_t to = i < n ? chunks[i].offset : head.body_bytes;
            for (; end < to; end++)
                CHECK_EQ(body[end], 0);
            if (i == n)
                break;
            CHECK(chunks[i].raw_bytes < 65536 || chunks[i].offset % CKPT_BLOCK == 0);
            CHECK_EQ(crc32c(body + chunks[i].offset, chunks[i].stored_bytes), chunks[i].crc);
            end = chunks[i].offset + chunks[i].stored_bytes;
        }
        cases++;
    }
    kit_layout_fini(&l);
    store_close(s);
}

/* Twice the same: same keys, same bytes, adopted.  Other bytes: CONFLICT. */
static void test_retry(void)
{
    struct store *s = kit_store("mem://save-retry");
    struct kit_model m = model();
    struct kit_layout l;
    struct kit_save how = { .name = { 1, 1, 1 } };
    struct ckpt_err err = { 0 };
    kit_layout_rows(&l, &m, 1);
    CHECK_OK(kit_save_part(s, &l, 0, &how, &err));
    CHECK_OK(kit_save_part(s, &l, 0, &how, &err));
    how.codec = (struct save_codec){ CODEC_ZSTD, 1 }; /* coded anew: still the same part */
    CHECK_OK(kit_save_part(s, &l, 0, &how, &err));
    how.has_parent = true;
    CHECK_EQ(kit_save_part(s, &l, 0, &how, &err), CKPT_CONFLICT);
    CHECK(strstr(err_text(&err), "rank 0"));
    kit_layout_fini(&l);
    store_close(s);
    cases += 4;
}

static bool there(struct store *s, const char *key)
{
    struct store_stat stat;
    return store_stat(s, key, &stat, NULL) == CKPT_OK;
}

/* Each operation of a save fails once: no `.h` without its packs synced, no manifest
 * without `.h`, and the next try succeeds. */
static void test_failures(void)
{
    struct kit_model m = model();
    struct kit_layout l;
    kit_layout_rows(&l, &m, 1);
    static const char ops[] = { 'p', 'y' };
    for (size_t op = 0; op < ARRAY_COUNT(ops); op++) {
        uint64_t hits = 1;
        for (uint64_t nth = 1; hits; nth++) {
            char url[40];
            snprintf(url, sizeof(url), "mem://save-fail-%c%llu", ops[op], (unsigned long long)nth);
            struct wrap_fault_rule rule = { FAULT_FAIL, CKPT_FULL, ops[op], NULL, nth };
            struct wrap_fault_plan plan = { .rules = &rule, .count = 1 };
            struct kit_save how = { .name = { 1, 1, 1 } };
            struct store *bare = kit_store(url), *s;
            struct ckpt_err err = { 0 };
            CHECK_OK(wrap_fault(kit_store(url), &plan, &s, NULL));
            enum ckpt_status st = kit_save_part(s, &l, 0, &how, &err);
            hits = plan.hits;
            CHECK_EQ(st, hits ? CKPT_FULL : CKPT_OK);
            CHECK(hits || nth > 1); /* there is at least one of each */
            struct key manifest = key_manifest(KIT_JOB, &how.name, 0);
            struct key held = key_rank_held(KIT_JOB, &how.name, 0);
            if (hits && (ops[op] == 'y' || nth < 4)) /* two packs, then `.h` */
                CHECK(!there(bare, held.text));
            if (hits)
                CHECK(!there(bare, manifest.text));
            CHECK_OK(kit_save_part(bare, &l, 0, &how, &err));
            CHECK(there(bare, manifest.text) && there(bare, held.text));
            store_close(s);
            store_close(bare);
            cases++;
        }
    }
    kit_layout_fini(&l);
}

int main(void)
{
    test_image();
    test_retry();
    test_failures();
    TEST_CASES(cases);
    return 0;
}
