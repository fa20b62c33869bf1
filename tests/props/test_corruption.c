/* Damage over every byte region of every object of a store: verify finds it and names
 * the object; restore gives the right bytes, or fails and names tensor and object.
 *
 * Each byte of each object is flipped once, padding and gaps included; then objects are
 * cut, grown, emptied, overwritten in parts and exchanged.  What no checkpoint refers to
 * (the history of the job) cannot make verify fail, but it must never lead to wrong
 * bytes. */
#include "formats/pack.h"
#include "props/engine_kit.h"
#include "storage/repo/catalog.h"
#include "storage/repo/scrub.h"

#define SAVES   4
#define RANKS   3
#define OBJECTS 80

enum region {
    REGION_RECORD,
    REGION_HISTORY,
    REGION_MANIFEST,
    REGION_INDEX,
    REGION_PACK_HEAD,
    REGION_PACK_TABLE,
    REGION_PACK_FILL, /* zeros that fill the head up */
    REGION_CHUNK,
    REGION_CODED, /* a chunk that zstd made smaller */
    REGION_GAP,
    REGION_TAIL, /* zeros behind the last chunk */
    REGIONS
};
static const char *const region_names[REGIONS] = {
    "records",   "history", "manifests",    "indexes",    "pack heads", "tables",
    "head fill", "chunks",  "coded chunks", "chunk gaps", "tails",
};
enum damage { FLIP, MEND, SMASH, CUT, GROW, EMPTY, FOREIGN, SWAP, REMOVE, DAMAGES };
static const char *const damage_names[DAMAGES] = { "flip",  "mend",    "smash", "cut",   "grow",
                                                   "empty", "foreign", "swap",  "remove" };

struct object {
    char key[STORE_KEY_MAX + 1];
    uint8_t *bytes, *region; /* region[i]: enum region of byte i */
    size_t len;
    unsigned save; /* which checkpoint; SAVES: the history */
};
static struct {
    struct store *s;
    struct object objects[OBJECTS];
    size_t count;
    struct kit_layout layout; /* of the restore */
    struct ckpt_name names[SAVES];
    unsigned step; /* one of so many cases is made */
    uint64_t turn;
    uint64_t cases, right, refused, harmless;
    uint64_t by_region[REGIONS], by_damage[DAMAGES];
} test;

/* --- the store ------------------------------------------------------------------- */

static void put(const char *key, const void *bytes, size_t len)
{
    struct iovec iov = { .iov_len = len };
    memcpy(&iov.iov_base, &bytes, sizeof(bytes));
    CHECK_OK(store_put(test.s, key, &iov, 1, 0, NULL));
}

static void put_buf(struct key key, struct buf *b)
{
    CHECK(!b->failed);
    put(key.text, b->data, b->len);
    b->len = 0;
}

/* A launch that resolved, a tag, a life: what other parts of the program leave. */
static void put_history(void)
{
    CLEANUP_BUF struct buf b = { 0 };
    struct key key = key_claim(KIT_JOB, 1);
    struct record_claim claim = { .token = "launch", .epoch = 1, .world = RANKS };
    record_claim_encode(&claim, key.text, &b);
    put_buf(key, &b);
    key = key_resolved(KIT_JOB, 1);
    struct record_resolved resolved = { .epoch = 1, .kind = RESOLVED_NOTHING };
    record_resolved_encode(&resolved, key.text, &b);
    put_buf(key, &b);
    key = key_tag(KIT_JOB, &test.names[0], "best", 1);
    struct record_tag tag = { .tag = "best", .set = true };
    record_tag_encode(&tag, key.text, &b);
    put_buf(key, &b);
    key = key_life(KIT_JOB, &test.names[0], false, 1);
    struct record_life life = { .life = LIFE_LIVE };
    record_life_encode(&life, key.text, &b);
    put_buf(key, &b);
}

static enum region record_region(const char *key)
{
    return strstr(key, "/c/") || strstr(key, "/h/") ||
                   (strstr(key, "/d/") && strcmp(key + strlen(key) - 2, ".h") == 0)
               ? REGION_RECORD
               : REGION_HISTORY;
}

static void mark(struct object *o, uint64_t from, uint64_t to, enum region region)
{
    CHECK(from <= to && to <= o->len);
    memset(o->region + from, (int)region, to - from);
}

static void mark_pack(struct object *o)
{
    uint32_t count = pack_head_peek(o->bytes, o->len), head_bytes = pack_head_bytes(count);
    struct pack_chunk chunks[64];
    struct pack_head head = { .chunks = chunks };
    CHECK(count > 0 && count <= ARRAY_COUNT(chunks));
    CHECK_OK(pack_head_decode(o->bytes, o->len, count, &head, NULL));
    mark(o, 0, o->len, REGION_TAIL);
    mark(o, 0, 128, REGION_PACK_HEAD);
    mark(o, 128, 128 + 32 * count, REGION_PACK_TABLE);
    mark(o, 128 + 32 * count, head_bytes, REGION_PACK_FILL);
    uint64_t end = head_bytes;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t at = head_bytes + chunks[i].offset;
        mark(o, end, at, REGION_GAP);
        end = at + chunks[i].stored_bytes;
        mark(o, at, end, chunks[i].codec == CODEC_STORED ? REGION_CHUNK : REGION_CODED);
    }
}

static void mark_regions(struct object *o)
{
    const char *last = strrchr(o->key, '/') + 1;
    struct key_data_parts parts = { .kind = KEY_OTHER };
    if (strstr(o->key, "/d/"))
        key_parse_data(last, &parts);
    if (parts.kind == KEY_PACK)
        mark_pack(o);
    else if (parts.kind == KEY_MANIFEST)
        mark(o, 0, o->len, REGION_MANIFEST);
    else if (parts.kind == KEY_INDEX)
        mark(o, 0, o->len, REGION_INDEX);
    else
        mark(o, 0, o->len, record_region(o->key));
}

static enum ckpt_status take(void *arg, const struct store_entry *e)
{
    CHECK(test.count < OBJECTS);
    struct object *o = &test.objects[test.count++];
    void *bytes;
    (void)arg;
    memcpy(o->key, e->key, sizeof(o->key));
    CHECK_OK(store_get_all(test.s, o->key, SIZE_MAX / 2, &bytes, &o->len, NULL));
    o->bytes = bytes;
    o->region = malloc(o->len);
    CHECK(o->region);
    mark_regions(o);
    o->save = SAVES;
    for (unsigned i = 0; i < SAVES && o->region[0] != REGION_HISTORY; i++) {
        char text[NAME_TEXT];
        name_to_text(&test.names[i], text);
        o->save = strstr(o->key, text) ? i : o->save;
    }
    CHECK((o->save == SAVES) == (o->region[0] == REGION_HISTORY));
    return CKPT_OK;
}

/* The last save has the bytes of the first, the others have bytes of their own. */
static uint64_t salt_of(unsigned save)
{
    return save % (SAVES - 1);
}

/* Equal shapes on all ranks and in all saves, so that objects of equal size abound.  The
 * third save is coded, the others are images. */
static void build(void)
{
    struct kit_model m = { 0 };
    struct kit_layout saved;
    kit_model_add(&m, "a.weight", CKPT_DTYPE_F32, 2, (const uint64_t[]){ 12, 9 });
    kit_model_add(&m, "b.bias", CKPT_DTYPE_BF16, 1, (const uint64_t[]){ 75 });
    kit_model_add(&m, "z.table", CKPT_DTYPE_U8, 2, (const uint64_t[]){ 9, 100 });
    kit_model_add(&m, "d.state", CKPT_DTYPE_U8, 2, (const uint64_t[]){ 9, 7 });
    kit_layout_rows(&saved, &m, RANKS);
    for (unsigned i = 0; i < SAVES; i++) {
        test.names[i] = (struct ckpt_name){ 1, i + 1, i + 1 };
        struct kit_save how = { .name = test.names[i], .codec = { CODEC_STORED, 0 } };
        struct record_commit commit;
        if (i == 2)
            how.codec = (struct save_codec){ CODEC_ZSTD, 1 };
        kit_salt = salt_of(i);
        kit_save_parts(test.s, &saved, &how);
        CHECK_OK(publish(test.s, KIT_JOB, &how.name, RANKS, &commit, NULL));
    }
    kit_layout_fini(&saved);
    kit_layout_rows(&test.layout, &m, 2);
    put_history();
    CHECK_OK(repo_list(test.s, KIT_JOB "/", false, take, NULL, NULL));
}

/* --- one case -------------------------------------------------------------------- */

struct found {
    const char *key;
    bool named;
};

static void finding(void *arg, const struct scrub_finding *f)
{
    struct found *found = arg;
    CHECK(f->text[0]);
    found->named |= f->kind != SCRUB_EXTRA && strcmp(f->key, found->key) == 0;
}

static void fail(const struct object *o, enum damage how, size_t at, const char *law,
                 const struct ckpt_err *err)
{
    fprintf(stderr, "%s at byte %zu of %s (%s): %s: %s\n", damage_names[how], at, o->key,
            region_names[o->region[at < o->len ? at : o->len - 1]], law, err_text(err));
    exit(1);
}

static enum ckpt_status verify(unsigned save, struct found *found, struct ckpt_err *err)
{
    const struct scrub_callbacks cb = { .finding = finding, .arg = found };
    struct scrub_report report;
    return scrub_verify(test.s, KIT_JOB, &test.names[save], CKPT_SLOT_BYTES_MAX, &cb, &report, err);
}

static void check_verify(const struct object *o, enum damage how, size_t at)
{
    struct found found = { .key = o->key };
    struct ckpt_err err = { 0 };
    enum ckpt_status st = verify(o->save, &found, &err);
    if (how == REMOVE && strstr(o->key, "/c/")) {
        if (st != CKPT_NOT_FOUND)
            fail(o, how, at, "verify of nothing", &err);
    } else if (st != CKPT_CORRUPT) {
        fail(o, how, at, "verify did not find it", &err);
    } else if (!found.named) {
        fail(o, how, at, "verify names another object", &err);
    }
}

/* Wrong bytes end the test in kit_restore. */
static void check_restore(const struct object *o, enum damage how, size_t at, unsigned save)
{
    struct ckpt_err err = { 0 };
    struct load_stats stats = { 0 };
    kit_salt = salt_of(save);
    enum ckpt_status st = kit_restore(&test.s, 1, &test.names[save], &test.layout, &stats, &err);
    test.right += st == CKPT_OK;
    test.refused += st != CKPT_OK;
    if (st == CKPT_OK)
        return;
    if (o->save == SAVES ? !err.text[0] : !strstr(err.text, o->key))
        fail(o, how, at, "restore does not name the object", &err);
    if (o->region[0] == REGION_PACK_HEAD && !strstr(err.text, "tensor "))
        fail(o, how, at, "restore does not name the tensor", &err);
}

/* The history: lists must come out or say what is wrong. */
static void check_lists(const struct object *o, enum damage how, size_t at)
{
    struct catalog c;
    struct ckpt_err err = { 0 };
    enum ckpt_status st =
        catalog_read(test.s, KIT_JOB, CATALOG_ALL | CATALOG_SIZES | CATALOG_TAGS, &c, &err);
    if (st == CKPT_OK)
        catalog_fini(&c);
    else if (!err.text[0])
        fail(o, how, at, "a list fails without words", &err);
    test.harmless += st == CKPT_OK;
}

/* `bytes` lie under the object's key, or nothing does; afterwards all is as it was. */
static void look(const struct object *o, enum damage how, size_t at)
{
    unsigned save = o->save == SAVES ? 0 : o->save;
    if (o->save == SAVES)
        check_lists(o, how, at);
    else
        check_verify(o, how, at);
    check_restore(o, how, at, save);
    test.by_region[o->region[at < o->len ? at : o->len - 1]]++;
    test.by_damage[how]++;
    test.cases++;
    if (test.cases % 64 == 0) { /* the other checkpoint is none the worse for it */
        struct found none = { .key = "" };
        struct ckpt_err err = { 0 };
        if (verify((save + 1) % SAVES, &none, &err) != CKPT_OK)
            fail(o, how, at, "it harms another checkpoint", &err);
    }
}

static void with_bytes(const struct object *o, enum damage how, size_t at, const void *bytes,
                       size_t len)
{
    if (test.turn++ % test.step && how != EMPTY && how != FOREIGN)
        return;
    put(o->key, bytes, len);
    look(o, how, at);
    put(o->key, o->bytes, o->len);
}

/* --- all cases ------------------------------------------------------------------- */

static void damage_bytes(const struct object *o, unsigned long long *rand)
{
    CLEANUP_FREE uint8_t *bytes = malloc(o->len);
    CHECK(bytes);
    memcpy(bytes, o->bytes, o->len);
    for (size_t at = 0; at < o->len; at++) {
        bytes[at] ^= (uint8_t)(1u << test_rand(rand) % 8);
        with_bytes(o, FLIP, at, bytes, o->len);
        bytes[at] = o->bytes[at];
    }
    /* A torn or overwritten sector: some bytes in a row. */
    for (size_t at = 0; at < o->len; at += 1 + o->len / 40) {
        size_t n = 1 + test_rand(rand) % (o->len - at < 512 ? o->len - at : 512);
        memset(bytes + at, test_rand(rand) & 1 ? 0 : 0xff, n);
        if (memcmp(bytes, o->bytes, o->len) != 0)
            with_bytes(o, SMASH, at, bytes, o->len);
        memcpy(bytes + at, o->bytes + at, n);
    }
}

/* Bytes that were wrong before their sums were made, as from bad memory: only the digests
 * in the manifest tell. */
static void damage_chunk(const struct object *o, uint8_t *bytes, size_t at)
{
    uint32_t count = pack_head_peek(bytes, o->len), head_bytes = pack_head_bytes(count);
    struct pack_chunk chunks[64];
    struct pack_head head = { .chunks = chunks };
    CHECK_OK(pack_head_decode(bytes, o->len, count, &head, NULL));
    bytes[at] ^= 0x10;
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *chunk = bytes + head_bytes + chunks[i].offset;
        chunks[i].crc = crc32c(chunk, chunks[i].stored_bytes);
    }
    pack_head_encode(&head, bytes);
    with_bytes(o, MEND, at, bytes, o->len);
}

/* A header that is whole, but not the one that the index vouches for. */
static void damage_header(const struct object *o, uint8_t *bytes, size_t at)
{
    uint32_t n = manifest_header_peek(bytes, o->len);
    bytes[at] ^= 1;
    if (at >= n - sizeof(struct digest) || manifest_header_peek(bytes, o->len) != n)
        return;
    struct digest sum = digest_of(bytes, n - sizeof(sum));
    memcpy(bytes + n - sizeof(sum), sum.b, sizeof(sum));
    with_bytes(o, MEND, at, bytes, o->len);
}

static void damage_mended(const struct object *o)
{
    CLEANUP_FREE uint8_t *bytes = malloc(o->len);
    CHECK(bytes);
    for (size_t at = 0; at < o->len; at++) {
        memcpy(bytes, o->bytes, o->len);
        if (o->region[at] == REGION_CHUNK)
            damage_chunk(o, bytes, at);
        else if (o->region[at] == REGION_MANIFEST)
            damage_header(o, bytes, at);
    }
}

static void damage_length(const struct object *o, unsigned long long *rand)
{
    CLEANUP_FREE uint8_t *bytes = calloc(1, o->len + 8192);
    CHECK(bytes);
    memcpy(bytes, o->bytes, o->len);
    for (size_t len = o->len - 1; len > 0; len -= len < 40 ? 1 : 1 + test_rand(rand) % (len / 20))
        with_bytes(o, CUT, len, bytes, len);
    for (size_t more = 1; more <= 8192; more *= 2)
        with_bytes(o, GROW, o->len, bytes, o->len + more);
    with_bytes(o, EMPTY, 0, bytes, 0);
    for (size_t i = 0; i < o->len; i++)
        bytes[i] = (uint8_t)test_rand(rand);
    with_bytes(o, FOREIGN, 0, bytes, o->len);
    with_bytes(o, FOREIGN, 0, "{\"weight_map\": {}}\n", 19);
    memset(bytes, 0, o->len);
    with_bytes(o, FOREIGN, 0, bytes, o->len);
}

/* Every other object under this key, those of equal size in particular. */
static uint64_t damage_swap(const struct object *o)
{
    uint64_t equal = 0;
    for (size_t i = 0; i < test.count; i++) {
        const struct object *other = &test.objects[i];
        if (other->len == o->len && memcmp(other->bytes, o->bytes, o->len) == 0)
            continue;
        equal += other->len == o->len;
        with_bytes(o, SWAP, 0, other->bytes, other->len);
    }
    return equal;
}

static void damage_remove(const struct object *o)
{
    /* Without h/ a checkpoint is not held here: a state that a crash leaves. */
    if (strstr(o->key, "/h/"))
        return;
    CHECK_OK(store_remove(test.s, o->key, NULL));
    look(o, REMOVE, 0);
    put(o->key, o->bytes, o->len);
}

static void show(const char *const *names, const uint64_t *counts, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        printf("%s%s %llu", i ? ", " : "", names[i], (unsigned long long)counts[i]);
        CHECK(counts[i] > 0);
    }
    printf("\n");
}

/* Under a sanitizer everything takes many times as long. */
static unsigned step(void)
{
    return TEST_TENTH > 1 ? 60 : 1;
}

int main(void)
{
    unsigned long long rand = test_seed(4711);
    uint64_t equal = 0;
    test.s = kit_store("mem://corruption");
    test.step = step();
    build();
    for (size_t i = 0; i < test.count; i++) {
        const struct object *o = &test.objects[i];
        damage_bytes(o, &rand);
        damage_mended(o);
        damage_length(o, &rand);
        equal += damage_swap(o);
        damage_remove(o);
    }
    for (unsigned i = 0; i < SAVES; i++) {
        struct found none = { .key = "" };
        CHECK_OK(verify(i, &none, NULL));
    }
    for (size_t i = 0; i < test.count; i++) {
        free(test.objects[i].bytes);
        free(test.objects[i].region);
    }
    kit_layout_fini(&test.layout);
    store_close(test.s);
    show(region_names, test.by_region, REGIONS);
    show(damage_names, test.by_damage, DAMAGES);
    printf("%zu objects, %llu swaps of equal size, %llu restored right, %llu refused\n", test.count,
           (unsigned long long)equal, (unsigned long long)test.right,
           (unsigned long long)test.refused);
    CHECK(equal > 20 && test.right && test.refused && test.harmless);
    CHECK(test.cases * test.step >= 20000);
    TEST_CASES(test.cases);
    return 0;
}
