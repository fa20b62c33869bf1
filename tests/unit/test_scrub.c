/* Damage to objects of a checkpoint: verify finds it, a second store stands in for it, and
 * repair mends it.  (Damage to each byte, and restoring without a second store:
 * props/test_corruption.c.)
 * (It covers scrub_check.c too.) */
#include "props/engine_kit.h"
#include "storage/repo/scrub.h"
#include "storage/store/wrap.h"
#include "unit/before_put.h"

#define CASES 1200

struct object {
    char key[STORE_KEY_MAX + 1];
    uint8_t *bytes;
    size_t len;
};
struct snapshot {
    struct object o[256];
    size_t count;
    struct store *s;
};

static enum ckpt_status take(void *arg, const struct store_entry *e)
{
    struct snapshot *snap = arg;
    struct object *o = &snap->o[snap->count++];
    void *bytes;
    CHECK(snap->count <= ARRAY_COUNT(snap->o));
    memcpy(o->key, e->key, sizeof(o->key));
    CHECK_OK(store_get_all(snap->s, o->key, SIZE_MAX / 2, &bytes, &o->len, NULL));
    o->bytes = bytes;
    return CKPT_OK;
}

static void snapshot(struct snapshot *snap, struct store *s)
{
    *snap = (struct snapshot){ .s = s };
    CHECK_OK(repo_list(s, KIT_JOB "/", false, take, snap, NULL));
    CHECK(snap->count > 10);
}

static void put(struct store *s, const char *key, const void *bytes, size_t len)
{
    struct iovec iov = { .iov_len = len };
    memcpy(&iov.iov_base, &bytes, sizeof(bytes));
    CHECK_OK(store_put(s, key, &iov, 1, 0, NULL));
}

static void snapshot_free(struct snapshot *snap)
{
    for (size_t i = 0; i < snap->count; i++)
        free(snap->o[i].bytes);
}

/* Two checkpoints of one job, images and coded packs, several ranks. */
static void build(struct store *s, struct kit_layout *l, unsigned long long *rand)
{
    struct kit_model m = { 0 };
    kit_model_add(&m, "a.weight", CKPT_DTYPE_F32, 2, (const uint64_t[]){ 60, 33 });
    kit_model_add(&m, "b.bias", CKPT_DTYPE_BF16, 1, (const uint64_t[]){ 77 });
    kit_model_add(&m, "c.table", CKPT_DTYPE_F64, 2, (const uint64_t[]){ 300, 100 });
    kit_model_add(&m, "d.step", CKPT_DTYPE_I64, 0, NULL);
    (void)rand;
    kit_layout_rows(l, &m, 3);
    for (uint64_t i = 1; i <= 2; i++) {
        struct kit_save how = { .name = { 1, i, i }, .codec = { CODEC_STORED, 0 } };
        struct record_commit commit;
        if (i == 2)
            how.codec = (struct save_codec){ CODEC_ZSTD, 1 };
        kit_save_parts(s, l, &how);
        CHECK_OK(publish(s, KIT_JOB, &how.name, l->world, &commit, NULL));
    }
    kit_layout_fini(l);
    kit_layout_rows(l, &m, 2); /* restored by two ranks */
}

static const char *damage(struct store *s, const struct snapshot *snap, size_t i,
                          unsigned long long *rand)
{
    const struct object *o = &snap->o[i];
    CLEANUP_FREE uint8_t *bytes = malloc(o->len + 64);
    memcpy(bytes, o->bytes, o->len);
    switch (test_rand(rand) % 8) {
    default: {
        size_t at = test_rand(rand) % o->len;
        bytes[at] ^= (uint8_t)(1u << (test_rand(rand) % 8));
        put(s, o->key, bytes, o->len);
        return "flip";
    }
    case 3:
        put(s, o->key, bytes, test_rand(rand) % o->len);
        return "truncate";
    case 4: {
        size_t more = 1 + test_rand(rand) % 63;
        memset(bytes + o->len, 0, more);
        put(s, o->key, bytes, o->len + more);
        return "extend";
    }
    case 5:
        put(s, o->key, bytes, 0);
        return "empty";
    case 6: { /* another object under this key */
        const struct object *other = &snap->o[test_rand(rand) % snap->count];
        if (other->len == o->len && memcmp(other->bytes, o->bytes, o->len) == 0)
            return NULL;
        put(s, o->key, other->bytes, other->len);
        return "swap";
    }
    case 7:
        if (strstr(o->key, "/h/")) /* absent h/ is a state that a crash leaves */
            return NULL;
        CHECK_OK(store_remove(s, o->key, NULL));
        return "remove";
    }
}

static struct ckpt_name name_of_object(const struct object *o)
{
    struct ckpt_name name = { 1, 1, 1 }, second = { 1, 2, 2 };
    char text[NAME_TEXT];
    name_to_text(&second, text);
    return strstr(o->key, text) ? second : name;
}

static uint64_t test_damage(struct store *s, const struct snapshot *snap,
                            const struct kit_layout *l, struct store *good,
                            unsigned long long *rand)
{
    uint64_t cases = 0, repaired = 0;
    while (cases < CASES) {
        size_t i = test_rand(rand) % snap->count;
        const struct object *o = &snap->o[i];
        const char *how = damage(s, snap, i, rand);
        if (!how)
            continue;
        struct ckpt_name name = name_of_object(o);
        struct ckpt_err err = { 0 };
        struct scrub_report report;
        struct load_stats stats = { 0 };
        bool gone = strcmp(how, "remove") == 0 && strstr(o->key, "/c/");
        enum ckpt_status st =
            scrub_verify(s, KIT_JOB, &name, CKPT_SLOT_BYTES_MAX, NULL, &report, &err);
        if (st != (gone ? CKPT_NOT_FOUND : CKPT_CORRUPT)) {
            fprintf(stderr, "verify did not see: %s of %s: %s %s\n", how, o->key, status_name(st),
                    err_text(&err));
            exit(1);
        }
        /* With a second store behind it every byte is there. */
        struct store *const tiers[] = { s, good };
        err = (struct ckpt_err){ 0 };
        if (kit_restore(tiers, 2, &name, l, &stats, &err) != CKPT_OK) {
            fprintf(stderr, "two tiers, %s of %s: %s\n", how, o->key, err_text(&err));
            exit(1);
        }
        err = (struct ckpt_err){ 0 };
        if (cases % 4 == 0) {
            st = scrub_repair(s, good, KIT_JOB, &name, NULL, &report, &err);
            if (st != CKPT_OK || report.repaired != 1) {
                fprintf(stderr, "repair, %s of %s: %s %s\n", how, o->key, status_name(st),
                        err_text(&err));
                exit(1);
            }
            CHECK_OK(scrub_verify(s, KIT_JOB, &name, CKPT_SLOT_BYTES_MAX, NULL, &report, NULL));
            repaired++;
        }
        put(s, o->key, o->bytes, o->len);
        cases++;
    }
    printf("damage: %llu repaired\n", (unsigned long long)repaired);
    CHECK(repaired);
    return cases;
}

static void count_extra(void *arg, const struct scrub_finding *f)
{
    unsigned *n = arg;
    CHECK_EQ(f->kind, SCRUB_EXTRA);
    ++*n;
}

static uint64_t test_extra(struct store *s)
{
    const struct ckpt_name name = { 1, 1, 1 };
    struct key dir = key_data(KIT_JOB, 3, &name);
    struct digest id = { { 1, 2, 3 } };
    struct key pack = key_pack(KIT_JOB, &name, 0, 0, &id);
    char foreign[STORE_KEY_MAX];
    struct scrub_report report;
    unsigned found = 0;
    struct scrub_callbacks cb = { .finding = count_extra, .arg = &found };
    snprintf(foreign, sizeof(foreign), "%snotes.txt", dir.text);
    put(s, foreign, "x", 1);
    put(s, pack.text, "y", 1);
    CHECK_OK(scrub_verify(s, KIT_JOB, &name, CKPT_SLOT_BYTES_MAX, &cb, &report, NULL));
    CHECK_EQ(found, 2);
    CHECK_EQ(report.extra, 2);
    CHECK(report.chunks > 0 && report.objects > 0);
    CHECK_OK(store_remove(s, foreign, NULL));
    CHECK_OK(store_remove(s, pack.text, NULL));
    return 2;
}

/* A commit whose own sums are right but which no set of manifests leads to. */
static uint64_t test_forged_commit(struct store *s)
{
    const struct ckpt_name name = { 1, 1, 1 };
    struct key key = key_commit(KIT_JOB, &name);
    struct record_commit commit;
    struct scrub_report report;
    struct ckpt_err err = { 0 };
    CLEANUP_FREE void *bytes = NULL;
    CLEANUP_BUF struct buf b = { 0 };
    size_t len;
    CHECK_OK(store_get_all(s, key.text, 1 << 20, &bytes, &len, NULL));
    CHECK_OK(record_commit_decode(bytes, len, key.text, &commit, NULL));
    commit.raw_bytes++;
    record_commit_encode(&commit, key.text, &b);
    put(s, key.text, b.data, b.len);
    CHECK_EQ(scrub_verify(s, KIT_JOB, &name, CKPT_SLOT_BYTES_MAX, NULL, &report, &err),
             CKPT_CORRUPT);
    put(s, key.text, bytes, len);
    CHECK_OK(scrub_verify(s, KIT_JOB, &name, CKPT_SLOT_BYTES_MAX, NULL, &report, NULL));
    return 1;
}

/* The first pack of a rank of checkpoint 1. */
static const struct object *pack_of(const struct snapshot *snap, uint32_t rank)
{
    const struct ckpt_name name = { 1, 1, 1 };
    struct key dir = key_data(KIT_JOB, key_shard(rank), &name);
    for (size_t i = 0; i < snap->count; i++) {
        struct key_data_parts parts = { 0 };
        if (strncmp(snap->o[i].key, dir.text, strlen(dir.text)) == 0 &&
            key_parse_data(snap->o[i].key + strlen(dir.text), &parts) == KEY_PACK &&
            parts.rank == rank)
            return &snap->o[i];
    }
    CHECK(!"a pack");
    return NULL;
}

static void put_all(struct store *s, const struct snapshot *snap)
{
    for (size_t i = 0; i < snap->count; i++)
        put(s, snap->o[i].key, snap->o[i].bytes, snap->o[i].len);
}

/* A home whose packs are on their way: what has not come is not damaged, what was there and is
 * not any more is, and trouble in looking is neither. */
static uint64_t test_awaited(struct store *s, const struct snapshot *snap, struct store *good)
{
    enum { HELD = 1, ACCOUNT = 2, PACK = 4, OTHER_PACK = 8, OTHER_FLIPPED = 16 };
    static const struct {
        unsigned removed;
        bool account_fails;
        enum ckpt_status status;
        unsigned awaited, missing, damaged;
    } cases[] = {
        { HELD | ACCOUNT, false, CKPT_OK, 0, 0, 0 },
        { HELD | ACCOUNT | PACK, false, CKPT_BUSY, 1, 0, 0 },
        { HELD | PACK, false, CKPT_CORRUPT, 0, 1, 0 },
        { ACCOUNT | PACK, false, CKPT_CORRUPT, 0, 2, 0 },
        { HELD | ACCOUNT | PACK | OTHER_PACK, false, CKPT_CORRUPT, 1, 1, 0 },
        { HELD | ACCOUNT | PACK | OTHER_FLIPPED, false, CKPT_CORRUPT, 1, 0, 1 },
        { HELD | ACCOUNT | PACK, true, CKPT_IO, 0, 0, 0 },
    };
    const struct ckpt_name name = { 1, 1, 1 };
    const struct object *pack = pack_of(snap, 0), *other = pack_of(snap, 1);
    struct key held = key_held(KIT_JOB, &name), account = key_rank_held(KIT_JOB, &name, 0);
    struct wrap_fault_rule rule = {
        .kind = FAULT_FAIL, .status = CKPT_IO, .op = 's', .match = account.text
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct scrub_report report = { 0 };
        struct wrap_fault_plan plan = { &rule, cases[i].account_fails, .seed = 1 };
        struct store *inner, *faulty;
        CHECK_OK(store_dup(s, &inner, NULL));
        CHECK_OK(wrap_fault(inner, &plan, &faulty, NULL));
        if (cases[i].removed & HELD)
            CHECK_OK(store_remove(s, held.text, NULL));
        if (cases[i].removed & ACCOUNT)
            CHECK_OK(store_remove(s, account.text, NULL));
        if (cases[i].removed & PACK)
            CHECK_OK(store_remove(s, pack->key, NULL));
        if (cases[i].removed & OTHER_PACK)
            CHECK_OK(store_remove(s, other->key, NULL));
        if (cases[i].removed & OTHER_FLIPPED) {
            other->bytes[other->len / 2] ^= 1;
            put(s, other->key, other->bytes, other->len);
            other->bytes[other->len / 2] ^= 1;
        }
        CHECK_EQ(scrub_verify(faulty, KIT_JOB, &name, CKPT_SLOT_BYTES_MAX, NULL, &report, NULL),
                 cases[i].status);
        if (!cases[i].account_fails)
            CHECK(report.awaited == cases[i].awaited && report.missing == cases[i].missing &&
                  report.damaged == cases[i].damaged);
        store_close(faulty);
        /* A second store brings it. */
        CHECK_OK(scrub_repair(s, good, KIT_JOB, &name, NULL, &report, NULL));
        CHECK_OK(scrub_verify(s, KIT_JOB, &name, CKPT_SLOT_BYTES_MAX, NULL, &report, NULL));
        put_all(s, snap);
    }
    return ARRAY_COUNT(cases);
}

/* A repair that dies at its nth operation: no record is missing for a moment, since gc would give
 * up what has no c/, and a resolver would pass over what has no h/.  False: it came to the end. */
static bool killed_at(struct store *s, struct store *good, const char *record, uint64_t nth)
{
    const struct ckpt_name name = { 1, 1, 1 };
    struct wrap_fault_rule rule = { .kind = FAULT_FAIL, .status = CKPT_FULL, .nth = nth };
    struct wrap_fault_plan plan = { .rules = &rule, .count = 1 };
    struct scrub_report report;
    struct store_stat stat;
    struct store *inner, *faulty;
    CHECK_OK(store_dup(s, &inner, NULL));
    CHECK_OK(wrap_fault(inner, &plan, &faulty, NULL));
    put(s, record, "damaged", 7);
    enum ckpt_status st = scrub_repair(faulty, good, KIT_JOB, &name, NULL, &report, NULL);
    CHECK(st == CKPT_OK || plan.hits);
    CHECK_OK(store_stat(s, record, &stat, NULL));
    store_close(faulty);
    CHECK_OK(scrub_repair(s, good, KIT_JOB, &name, NULL, &report, NULL));
    CHECK_OK(scrub_verify(s, KIT_JOB, &name, CKPT_SLOT_BYTES_MAX, NULL, &report, NULL));
    return plan.hits > 0;
}

static uint64_t test_killed(struct store *s, struct store *good)
{
    const struct ckpt_name name = { 1, 1, 1 };
    const struct key records[] = { key_commit(KIT_JOB, &name), key_held(KIT_JOB, &name),
                                   key_manifest(KIT_JOB, &name, 0),
                                   key_rank_held(KIT_JOB, &name, 0) };
    uint64_t cases = 0;
    for (size_t i = 0; i < ARRAY_COUNT(records); i++)
        for (uint64_t nth = 1; killed_at(s, good, records[i].text, nth); nth++)
            cases++;
    return cases;
}

/* c/ is missing, and while it is mended somebody gives the save up. */
static void somebody_gives_up(void *arg, struct store *under, const char *key)
{
    const struct key *commit = arg;
    if (strcmp(key, commit->text) == 0)
        CHECK_OK(store_put_record(under, key, "given up", 8, NULL));
}

static uint64_t test_decided_meanwhile(struct store *s, const struct snapshot *snap,
                                       struct store *good)
{
    const struct ckpt_name name = { 1, 1, 1 };
    struct key key = key_commit(KIT_JOB, &name);
    struct scrub_report report;
    struct store *racing = before_put(s, somebody_gives_up, &key);
    struct store_stat stat;
    CHECK_OK(store_remove(s, key.text, NULL));
    CHECK_EQ(scrub_repair(racing, good, KIT_JOB, &name, NULL, &report, NULL), CKPT_CONFLICT);
    CHECK_OK(store_stat(s, key.text, &stat, NULL));
    CHECK_EQ(stat.bytes, 8);
    store_close(racing);
    put_all(s, snap);
    return 1;
}

int main(void)
{
    unsigned long long rand = test_seed(77);
    struct store *s = kit_store("mem://scrub"), *good = kit_store("mem://scrub-good");
    struct kit_layout l;
    struct snapshot snap;
    build(s, &l, &rand);
    snapshot(&snap, s);
    for (size_t i = 0; i < snap.count; i++)
        put(good, snap.o[i].key, snap.o[i].bytes, snap.o[i].len);
    uint64_t cases = test_extra(s) + test_awaited(s, &snap, good);
    cases += test_forged_commit(s) + test_killed(s, good);
    cases += test_decided_meanwhile(s, &snap, good);
    cases += test_damage(s, &snap, &l, good, &rand);
    snapshot_free(&snap);
    kit_layout_fini(&l);
    store_close(s);
    store_close(good);
    TEST_CASES(cases);
    return 0;
}
