/* Draining by hand: what arrives is whole by every sum; what is there is never put again;
 * what is deleted, or another home's, does not arrive; damage does not travel.
 * (It covers drain_pack.c and recode.c, too.) */
#include "props/drain_kit.h"
#include "storage/repo/adopt.h"
#include "storage/repo/catalog.h"
#include "storage/repo/launch.h"
#include "storage/repo/life.h"
#include "storage/repo/life_log.h"
#include "storage/repo/scrub.h"

static long cases;

static struct store *fresh(const char *what)
{
    static int number;
    char url[64];
    struct record_repo repo;
    snprintf(url, sizeof(url), "mem://drain-%s-%d", what, number++);
    struct store *s = kit_store(url);
    CHECK_OK(repo_open(s, true, &repo, NULL));
    return s;
}

static void make_model(struct kit_model *m)
{
    *m = (struct kit_model){ 0 };
    kit_model_add(m, "a.weight", CKPT_DTYPE_F32, 2, (const uint64_t[]){ 2900, 700 });
    kit_model_add(m, "z.zeros", CKPT_DTYPE_F32, 2, (const uint64_t[]){ 3000, 800 });
    kit_model_add(m, "b.bias", CKPT_DTYPE_BF16, 1, (const uint64_t[]){ 77 });
    kit_model_add(m, "d.step", CKPT_DTYPE_I64, 0, NULL);
}

/* A launch's records, as far as a drain looks at them. */
static void put_launch(struct store *s, uint64_t epoch, uint8_t who)
{
    struct launch_who w = { .job = KIT_JOB, .token = "t", .world = 2, .time_ns = 1 };
    char token[16];
    struct record_resolved r;
    struct lineage_wish wish = { .below = epoch };
    uint64_t got;
    snprintf(token, sizeof(token), "t%u-%u", (unsigned)epoch, who);
    w.token = token;
    w.nonce[0] = who;
    CHECK_OK(launch_claim(s, &w, &got, NULL));
    CHECK_EQ(got, epoch);
    CHECK_OK(launch_resolve(s, KIT_JOB, epoch, &wish, &r, NULL));
    record_resolved_fini(&r);
}

/* One checkpoint of a job of two ranks. */
static struct ckpt_name save(struct store *s, struct kit_layout *l, uint64_t epoch, uint64_t step,
                             enum codec_id codec)
{
    struct kit_save how = { .name = { epoch, step, step * 7 + epoch }, .codec = { codec, 1 } };
    struct record_commit commit;
    kit_salt = epoch * 1000 + step;
    kit_save_parts(s, l, &how);
    CHECK_OK(publish(s, KIT_JOB, &how.name, l->world, &commit, NULL));
    return how.name;
}

static bool there(struct store *s, struct key key)
{
    struct store_stat stat;
    return store_stat(s, key.text, &stat, NULL) == CKPT_OK;
}

/* Whole, and readable from there alone. */
static void check_there(struct store *to, const struct ckpt_name *name, const struct kit_layout *l)
{
    struct load_stats stats = { 0 };
    kit_salt = name->epoch * 1000 + name->step;
    CHECK_OK(drain_kit_verify(to, KIT_JOB, name));
    CHECK_OK(kit_restore(&to, 1, name, l, &stats, NULL));
    CHECK(there(to, key_held(KIT_JOB, name)) && there(to, key_commit(KIT_JOB, name)));
    cases++;
}

struct world {
    struct store *from, *to;
    struct kit_model m;
    struct kit_layout l;
    struct tally tally;
    struct drain_kit k;
    struct ckpt_name name;
};

/* over: a source that another world has made and keeps; NULL = one of its own. */
static void setup_over(struct world *w, const struct world *over, enum codec_id saved,
                       enum codec_id codec)
{
    *w = (struct world){ .name = { 1, 10, 71 } };
    w->to = tally_over(fresh("to"), &w->tally);
    make_model(&w->m);
    kit_layout_rows(&w->l, &w->m, 2);
    if (over) {
        CHECK_OK(store_dup(over->from, &w->from, NULL));
    } else {
        w->from = fresh("from");
        put_launch(w->from, 1, 1);
        w->name = save(w->from, &w->l, 1, 10, saved);
    }
    drain_kit_init(&w->k, w->from, w->to, &w->name);
    w->k.d.codec = (struct drain_codec){ codec, 1 };
}

static void setup(struct world *w, enum codec_id saved, enum codec_id codec)
{
    setup_over(w, NULL, saved, codec);
}

static void teardown(struct world *w)
{
    drain_kit_fini(&w->k);
    kit_layout_fini(&w->l);
    tally_fini(&w->tally);
    store_close(w->from);
    store_close(w->to);
}

static void expect(struct world *w, enum ckpt_status want, const char *words)
{
    struct ckpt_err err = { 0 };
    enum ckpt_status st = drain_kit_drive(&w->k, &err);
    if (st != want || !strstr(err.text, words))
        fprintf(stderr, "%s: %s; wanted %s with \"%s\"\n", status_name(st), err.text,
                status_name(want), words);
    CHECK(st == want && strstr(err.text, words));
    cases++;
}

/* -- what arrives ---------------------------------------------------------------------- */

static uint64_t stored_bytes(struct store *s, const struct ckpt_name *name)
{
    struct catalog c;
    uint64_t bytes = 0;
    CHECK_OK(catalog_read(s, KIT_JOB, CATALOG_ALL | CATALOG_SIZES, &c, NULL));
    for (size_t i = 0; i < c.count; i++)
        if (name_equal(&c.entries[i].name, name))
            bytes = c.entries[i].stored_bytes;
    catalog_fini(&c);
    return bytes;
}

static void arrives(void)
{
    const enum codec_id codecs[][2] = { { CODEC_STORED, CODEC_STORED },
                                        { CODEC_STORED, CODEC_ZSTD },
                                        { CODEC_ZSTD, CODEC_STORED },
                                        { CODEC_ZSTD, CODEC_ZSTD } };
    for (size_t i = 0; i < ARRAY_COUNT(codecs); i++) {
        struct world w;
        setup(&w, codecs[i][0], codecs[i][1]);
        expect(&w, CKPT_OK, "");
        check_there(w.to, &w.name, &w.l);
        uint64_t here = stored_bytes(w.from, &w.name), far = stored_bytes(w.to, &w.name);
        if (codecs[i][0] == codecs[i][1] || codecs[i][0] == CODEC_ZSTD)
            CHECK_EQ(here, far); /* byte for byte */
        else
            CHECK(far < here * 8 / 10); /* the zeros are coded, and the noise is not worse */
        expect(&w, CKPT_EXISTS, "");
        CHECK_EQ(tally_more(&w.tally, "", 1), 0);
        CHECK(w.k.packs > 2);
        teardown(&w);
    }
}

/* Cut off behind every step, and gone on with from the start: nothing is put twice. */
static void goes_on(void)
{
    struct world base;
    setup(&base, CODEC_STORED, CODEC_STORED);
    for (int64_t cut = 0;; cut++) {
        struct world w;
        setup_over(&w, &base, CODEC_STORED, CODEC_ZSTD);
        w.k.steps = cut;
        enum ckpt_status st = drain_kit_drive(&w.k, NULL);
        CHECK(st == CKPT_OK || st == CKPT_CANCELLED);
        CHECK_EQ(there(w.to, key_held(KIT_JOB, &w.name)), st == CKPT_OK);
        w.k.steps = INT64_MAX;
        if (st != CKPT_OK)
            expect(&w, CKPT_OK, "");
        check_there(w.to, &w.name, &w.l);
        CHECK_EQ(tally_more(&w.tally, "", 1), 0);
        teardown(&w);
        if (st == CKPT_OK)
            break;
    }
    teardown(&base);
}

/* -- a store that fails ---------------------------------------------------------------- */

#define EACH (TEST_TENTH > 1 ? 3 : 1) /* one of so many calls is tried */

/* The n-th call of a kind fails, or happens and says that it failed: for every n. */
static void nth_fails(const struct world *base, char op, enum wrap_fault_kind kind,
                      enum ckpt_status says)
{
    uint64_t n = 1;
    for (bool hit = true; hit; n += EACH) {
        const struct wrap_fault_rule rule = { .kind = kind, .status = says, .op = op, .nth = n };
        struct wrap_fault_plan plan = { .rules = &rule, .count = 1, .seed = n };
        struct world w;
        setup_over(&w, base, CODEC_STORED, CODEC_STORED);
        CHECK_OK(wrap_fault(w.to, &plan, &w.to, NULL));
        w.k.d.to = w.to;
        enum ckpt_status st = drain_kit_drive(&w.k, NULL);
        hit = atomic_load(&plan.hits) > 0;
        CHECK_EQ(st != CKPT_OK, hit);
        CHECK(st == CKPT_OK || st == CKPT_UNREACHABLE);
        atomic_store(&plan.matched[0], UINT32_MAX); /* no more of them */
        struct ckpt_err err = { 0 };
        st = drain_kit_drive(&w.k, &err);
        if (st != CKPT_OK && st != CKPT_EXISTS)
            fprintf(stderr, "op %c, n %d: %s: %s\n", op, (int)n, status_name(st), err_text(&err));
        CHECK(st == CKPT_OK || st == CKPT_EXISTS);
        check_there(w.to, &w.name, &w.l);
        for (size_t i = 0; i < w.tally.count; i++) /* records may be put again: they are equal */
            CHECK(!tally_is_pack(w.tally.keys[i].key) || w.tally.keys[i].puts == 1);
        teardown(&w);
    }
    CHECK(n > 4);
}

static void each_fails(void)
{
    struct world base;
    setup(&base, CODEC_STORED, CODEC_STORED);
    nth_fails(&base, 'p', FAULT_FAIL, CKPT_UNREACHABLE);
    nth_fails(&base, 'p', FAULT_LOST_REPLY, CKPT_UNREACHABLE);
    nth_fails(&base, 's', FAULT_FAIL, CKPT_UNREACHABLE);
    nth_fails(&base, 'l', FAULT_FAIL, CKPT_UNREACHABLE);
    nth_fails(&base, 'y', FAULT_FAIL, CKPT_UNREACHABLE);
    /* "Already there" of one object is not the checkpoint that is held there. */
    nth_fails(&base, 'p', FAULT_FAIL, CKPT_EXISTS);
    nth_fails(&base, 's', FAULT_FAIL, CKPT_EXISTS);
    teardown(&base);
}

/* A tenth of all calls fail, over a long drain. */
static void at_random(unsigned long long seed)
{
    struct wrap_fault_rule rules[16];
    for (size_t i = 0; i < ARRAY_COUNT(rules); i++)
        rules[i] = (struct wrap_fault_rule){ .kind = i % 3 ? FAULT_FAIL : FAULT_LOST_REPLY,
                                             .status = i % 2 ? CKPT_IO : CKPT_UNREACHABLE };
    struct kit_model m = { 0 };
    struct kit_layout l;
    struct tally tally = { 0 };
    struct ckpt_name names[8];
    struct store *from = fresh("from"), *to = tally_over(fresh("to"), &tally);
    kit_model_add(&m, "a", CKPT_DTYPE_F32, 2, (const uint64_t[]){ 4000, 1000 });
    kit_layout_rows(&l, &m, 2);
    put_launch(from, 1, 1);
    for (size_t i = 0; i < ARRAY_COUNT(names); i++)
        names[i] = save(from, &l, 1, i + 1, CODEC_STORED);
    uint64_t faults = 0, tries = 0;
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        for (enum ckpt_status st = CKPT_IO; st != CKPT_OK && st != CKPT_EXISTS; tries++) {
            CHECK(tries < 4000);
            /* In each try, the calls that will fail are drawn anew. */
            uint64_t at = 0;
            for (size_t k = 0; k < ARRAY_COUNT(rules); k++) {
                do
                    at++;
                while (test_rand(&seed) % 10);
                rules[k].nth = at;
            }
            struct wrap_fault_plan plan = { .rules = rules, .count = ARRAY_COUNT(rules) };
            struct store *dup, *bad;
            CHECK_OK(store_dup(((struct wrap *)to)->inner, &dup, NULL));
            CHECK_OK(wrap_fault(tally_over(dup, &tally), &plan, &bad, NULL));
            struct drain_kit k;
            drain_kit_init(&k, from, bad, &names[i]);
            st = drain_kit_drive(&k, NULL);
            CHECK(st == CKPT_OK || st == CKPT_EXISTS || st == CKPT_IO || st == CKPT_UNREACHABLE);
            faults += atomic_load(&plan.hits);
            drain_kit_fini(&k);
            store_close(bad);
        }
        check_there(to, &names[i], &l);
    }
    CHECK(faults > 50);
    for (size_t i = 0; i < tally.count; i++)
        CHECK(!tally_is_pack(tally.keys[i].key) || tally.keys[i].puts == 1);
    printf("%d faults in %d tries\n", (int)faults, (int)tries);
    tally_fini(&tally);
    kit_layout_fini(&l);
    store_close(from);
    store_close(to);
}

/* -- damage ---------------------------------------------------------------------------- */

static char damaged_key[STORE_KEY_MAX + 1];

static enum ckpt_status first_pack(void *arg, const struct store_entry *e)
{
    (void)arg;
    if (!tally_is_pack(e->key))
        return CKPT_OK;
    snprintf(damaged_key, sizeof(damaged_key), "%s", e->key);
    return CKPT_CANCELLED;
}

/* Changes one byte of the first pack; at: from the start, or (negative) the end. */
static void damage(struct store *s, int64_t at)
{
    void *bytes;
    size_t len;
    CHECK_OK(repo_list(s, KIT_JOB "/d/", false, first_pack, NULL, NULL));
    CHECK_OK(store_get_all(s, damaged_key, SIZE_MAX / 2, &bytes, &len, NULL));
    ((uint8_t *)bytes)[at < 0 ? (int64_t)len + at : at] ^= 0x40;
    const struct iovec iov = { bytes, len };
    CHECK_OK(store_put(s, damaged_key, &iov, 1, 0, NULL));
    free(bytes);
}

static void copy_store(struct store *from, struct store *to);

static enum ckpt_status copy_each(void *arg, const struct store_entry *e)
{
    struct store *const *pair = arg;
    void *bytes;
    size_t len;
    CHECK_OK(store_get_all(pair[0], e->key, SIZE_MAX / 2, &bytes, &len, NULL));
    const struct iovec iov = { bytes, len };
    CHECK_OK(store_put(pair[1], e->key, &iov, 1, 0, NULL));
    free(bytes);
    return CKPT_OK;
}

static void copy_store(struct store *from, struct store *to)
{
    struct store *pair[] = { from, to };
    CHECK_OK(repo_list(from, KIT_JOB "/", false, copy_each, pair, NULL));
}

static void does_not_travel(void)
{
    const int64_t places[] = { 3, 40, 5000, 9000 };
    for (size_t i = 0; i < ARRAY_COUNT(places); i++) {
        for (int coded = 0; coded < 2; coded++) {
            struct world w;
            struct store *other = fresh("other"), *both[2];
            setup(&w, CODEC_STORED, coded ? CODEC_ZSTD : CODEC_STORED);
            copy_store(w.from, other);
            damage(w.from, places[i]);
            expect(&w, CKPT_CORRUPT, damaged_key);
            CHECK(!there(w.to, key_held(KIT_JOB, &w.name)));
            CHECK_EQ(tally_more(&w.tally, damaged_key, 0), 0);
            both[0] = w.from; /* another place has it right */
            both[1] = other;
            w.k.d.sources = both;
            w.k.d.source_count = 2;
            expect(&w, CKPT_OK, "");
            check_there(w.to, &w.name, &w.l);
            /* and from there the first one is mended */
            uint64_t mended = 0;
            struct drain mend = w.k.d;
            mend.sources = &w.to;
            mend.source_count = 1;
            mend.to = w.from;
            mend.codec.codec = CODEC_STORED;
            CHECK_OK(drain_mend(&mend, w.k.w, &mended, NULL));
            CHECK_EQ(mended, 1);
            check_there(w.from, &w.name, &w.l);
            CHECK_OK(drain_mend(&mend, w.k.w, &mended, NULL));
            CHECK_EQ(mended, 0);
            teardown(&w);
            store_close(other);
        }
    }
}

/* Coded chunks have their CRC alone; that of stored ones may be right, and the bytes not. */
static void sums_and_digests(void)
{
    struct world w;
    setup(&w, CODEC_ZSTD, CODEC_STORED);
    damage(w.from, 5000);
    expect(&w, CKPT_CORRUPT, "CRC32C differs");
    teardown(&w);
    setup(&w, CODEC_STORED, CODEC_STORED);
    void *bytes;
    size_t len;
    CHECK_OK(repo_list(w.from, KIT_JOB "/d/", false, first_pack, NULL, NULL));
    CHECK_OK(store_get_all(w.from, damaged_key, SIZE_MAX / 2, &bytes, &len, NULL));
    uint32_t count = pack_head_peek(bytes, len);
    struct pack_chunk *chunks = calloc(count, sizeof(*chunks));
    struct pack_head head = { .chunks = chunks };
    CHECK_OK(pack_head_decode(bytes, len, count, &head, NULL));
    uint8_t *chunk = (uint8_t *)bytes + pack_head_bytes(count) + chunks[0].offset;
    chunk[7] ^= 1;
    chunks[0].crc = crc32c(chunk, chunks[0].stored_bytes);
    pack_head_encode(&head, bytes);
    const struct iovec iov = { bytes, len };
    CHECK_OK(store_put(w.from, damaged_key, &iov, 1, 0, NULL));
    expect(&w, CKPT_CORRUPT, "does not follow from its chunks");
    /* a pack of another slot under this name */
    head.slot++;
    pack_head_encode(&head, bytes);
    CHECK_OK(store_put(w.from, damaged_key, &iov, 1, 0, NULL));
    expect(&w, CKPT_CORRUPT, "another pack");
    CHECK(!there(w.to, key_held(KIT_JOB, &w.name)));
    free(bytes);
    free(chunks);
    teardown(&w);
}

/* What was wrong once on the way is read again. */
static void on_the_way(void)
{
    struct world base;
    setup(&base, CODEC_STORED, CODEC_STORED);
    for (uint64_t n = 1; n < 40; n += EACH) {
        const struct wrap_fault_rule rule = { .kind = FAULT_FLIP, .op = 'g', .nth = n };
        struct wrap_fault_plan plan = { .rules = &rule, .count = 1, .seed = n };
        struct world w;
        setup_over(&w, &base, CODEC_STORED, CODEC_STORED);
        struct store *dup, *bad;
        CHECK_OK(store_dup(w.from, &dup, NULL));
        CHECK_OK(wrap_fault(dup, &plan, &bad, NULL));
        struct store *const one[] = { bad };
        w.k.d.sources = one;
        enum ckpt_status st = drain_kit_drive(&w.k, NULL);
        if (st == CKPT_CORRUPT) /* a record or manifest of the only source: again later */
            st = drain_kit_drive(&w.k, NULL);
        CHECK_OK(st);
        check_there(w.to, &w.name, &w.l);
        store_close(bad);
        teardown(&w);
    }
    teardown(&base);
}

/* -- what must not arrive -------------------------------------------------------------- */

static void mark(struct store *s, const struct ckpt_name *name, bool copy, enum life life)
{
    struct record_life r = { .life = life, .time_ns = 1 };
    uint64_t n;
    enum life now;
    CHECK_OK(life_look(s, KIT_JOB, name, copy, &now, &n, NULL, NULL));
    struct key key = key_life(KIT_JOB, name, copy, n + 1);
    CLEANUP_BUF struct buf b = { 0 };
    record_life_encode(&r, key.text, &b);
    CHECK_OK(repo_put(s, &key, &b, NULL));
}

struct marking { /* when a key of this kind is put */
    const char *at;
    struct store *s;
    const struct ckpt_name *name;
    bool copy, done;
    enum life life;
};

static void mark_before(void *arg, const char *key)
{
    struct marking *m = arg;
    if (m->done || !strstr(key, m->at))
        return;
    m->done = true;
    mark(m->s, m->name, m->copy, m->life);
}

/* DELETED and GONE, in the home, in the tier, of the tier's copy: before, in the middle, and
 * between c/ and h/. */
static void stops_at_deletion(void)
{
    const char *const moments[] = { NULL, "/d/", "/c/" };
    for (size_t i = 0; i < 3 * 3 * 2; i++) {
        struct world w;
        setup(&w, CODEC_STORED, CODEC_STORED);
        int where = (int)(i / 3 % 3);
        struct marking m = { .at = moments[i % 3],
                             .s = where == 0 ? w.from : ((struct wrap *)w.to)->inner,
                             .name = &w.name,
                             .copy = where == 2,
                             .life = i / 9 ? LIFE_GONE : LIFE_DELETED };
        if (m.at) {
            w.tally.before_put = mark_before;
            w.tally.arg = &m;
        } else {
            mark(m.s, m.name, m.copy, m.life);
        }
        expect(&w, CKPT_ABORTED, m.life == LIFE_GONE ? "gone" : "deleted");
        CHECK(!there(w.to, key_held(KIT_JOB, &w.name)));
        CHECK_EQ(there(w.to, key_commit(KIT_JOB, &w.name)), m.at && m.at[1] == 'c');
        if (m.life == LIFE_DELETED) { /* brought back: goes on where it was */
            mark(m.s, m.name, m.copy, LIFE_LIVE);
            expect(&w, CKPT_OK, "");
            check_there(w.to, &w.name, &w.l);
            CHECK_EQ(tally_more(&w.tally, "/d/", 1), 0);
        }
        teardown(&w);
    }
}

static void not_committed(void)
{
    struct world w;
    setup(&w, CODEC_STORED, CODEC_STORED);
    w.k.d.name.step = 11;
    expect(&w, CKPT_ABORTED, "not committed");
    const struct record_abort why = { .status = CKPT_CANCELLED, .rank = 0, .by_epoch = 1 };
    CHECK_OK(publish_abort(w.from, KIT_JOB, &w.k.d.name, &why, NULL));
    expect(&w, CKPT_ABORTED, "not committed");
    CHECK_EQ(w.tally.puts, 0);
    teardown(&w);
}

/* H1: the same epoch was decided in two places. */
static void two_homes(void)
{
    struct world w;
    setup(&w, CODEC_STORED, CODEC_STORED);
    put_launch(w.to, 1, 2);
    expect(&w, CKPT_CONFLICT, "two homes");
    CHECK(!there(w.to, key_commit(KIT_JOB, &w.name)));
    teardown(&w);
    /* So were its checkpoints: one of the same name that lies there is not this one. */
    setup(&w, CODEC_STORED, CODEC_STORED);
    expect(&w, CKPT_OK, "");
    struct key key = key_commit(KIT_JOB, &w.name);
    CLEANUP_FREE void *bytes = NULL;
    struct record_commit commit;
    struct buf b = { 0 };
    size_t len;
    CHECK_OK(repo_get(w.to, &key, &bytes, &len, NULL));
    CHECK_OK(record_commit_decode(bytes, len, key.text, &commit, NULL));
    expect(&w, CKPT_EXISTS, "");
    commit.time_ns++;
    record_commit_encode(&commit, key.text, &b);
    const struct iovec iov = { b.data, b.len };
    CHECK_OK(store_put(w.to, key.text, &iov, 1, 0, NULL));
    buf_fini(&b);
    expect(&w, CKPT_CONFLICT, "two homes");
    teardown(&w);
    /* A claim that led to nothing here is no home. */
    setup(&w, CODEC_STORED, CODEC_STORED);
    struct launch_who who = { .job = KIT_JOB, .token = "dead", .world = 2, .time_ns = 1 };
    uint64_t epoch;
    CHECK_OK(launch_claim(w.from, &who, &epoch, NULL));
    CHECK_EQ(epoch, 2);
    put_launch(w.to, 1, 1); /* as here */
    put_launch(w.to, 2, 9);
    CHECK_OK(adopt_check_epoch(w.from, w.to, KIT_JOB, 2, NULL));
    cases++;
    teardown(&w);
}

/* -- several nodes, and a home elsewhere ----------------------------------------------- */

static void move(struct store *from, struct store *to, struct key key)
{
    void *bytes;
    size_t len;
    CHECK_OK(store_get_all(from, key.text, SIZE_MAX / 2, &bytes, &len, NULL));
    const struct iovec iov = { bytes, len };
    CHECK_OK(store_put(to, key.text, &iov, 1, 0, NULL));
    CHECK_OK(store_remove(from, key.text, NULL));
    free(bytes);
}

static enum ckpt_status remove_other_rank(void *arg, const struct store_entry *e)
{
    struct key_data_parts parts = { 0 };
    const struct {
        struct store *s;
        uint32_t keep;
    } *a = arg;
    if (key_parse_data(strrchr(e->key, '/') + 1, &parts) != KEY_OTHER && parts.rank != a->keep)
        CHECK_OK(store_remove(a->s, e->key, NULL));
    return CKPT_OK;
}

/* Packs in two nodes' own tiers, records in a home: each node brings its part, to the home
 * and to a tier beyond; only the last one to come can put h/. */
static void nodes_apart(void)
{
    struct world w;
    setup(&w, CODEC_STORED, CODEC_ZSTD);
    struct store *home = fresh("home"), *node[2];
    struct ckpt_name name = w.name;
    for (uint32_t n = 0; n < 2; n++) {
        node[n] = fresh("node");
        copy_store(w.from, node[n]);
        struct {
            struct store *s;
            uint32_t keep;
        } arg = { node[n], n };
        CHECK_OK(repo_list(node[n], KIT_JOB "/d/", false, remove_other_rank, &arg, NULL));
        move(node[n], home, key_manifest(KIT_JOB, &name, n));
        CHECK_OK(store_remove(node[n], key_held(KIT_JOB, &name).text, NULL));
        CHECK_OK(store_remove(node[n], key_commit(KIT_JOB, &name).text, NULL));
    }
    move(w.from, home, key_index(KIT_JOB, &name, 0));
    move(w.from, home, key_commit(KIT_JOB, &name));
    CHECK_OK(adopt_launches(w.from, home, KIT_JOB, NULL));
    struct store *const targets[] = { home, w.to };
    for (size_t t = 0; t < 2; t++) {
        for (uint32_t n = 0; n < 2; n++) {
            struct store *const from[] = { node[n], home };
            w.k.d.home = home;
            w.k.d.sources = from;
            w.k.d.source_count = 2;
            w.k.d.to = targets[t];
            struct ckpt_name found[4];
            size_t count;
            bool more;
            CHECK_OK(drain_scan(&w.k.d, found, 4, &count, &more, NULL));
            CHECK(count == 1 && name_equal(&found[0], &name) && !more);
            w.k.wait = (struct drain_wait){ 0 };
            expect(&w, CKPT_BUSY, n == 0 ? "rank 1" : "the node of rank 0 has not said yet");
            CHECK_EQ(w.k.wait.ours, n == 0);
            CHECK(!there(targets[t], key_held(KIT_JOB, &name)));
        }
        /* Rank 0's node says it; when that is lost, and its part is there, rank 1's in its turn. */
        struct store *const from[] = { node[t], home };
        w.k.d.sources = from;
        expect(&w, CKPT_OK, "");
        check_there(targets[t], &name, &w.l);
    }
    CHECK_EQ(tally_more(&w.tally, "", 1), 0);
    for (uint32_t n = 0; n < 2; n++)
        store_close(node[n]);
    store_close(home);
    teardown(&w);
}

/* A store that several nodes write to: each brings what it saved, by the manifests. */
static void by_node(void)
{
    struct world w;
    const uint8_t nobody[16] = { 9, 9 };
    setup(&w, CODEC_STORED, CODEC_STORED);
    w.k.d.node = nobody;
    expect(&w, CKPT_BUSY, "rank 0");
    CHECK(w.k.packs == 0 && !w.k.wait.ours);
    const uint8_t kit_node[16] = { 0 };
    w.k.d.node = kit_node;
    expect(&w, CKPT_OK, "");
    check_there(w.to, &w.name, &w.l);
    teardown(&w);
}

/* Requests of one node that has two of the ranks, up to where it waits for the others. */
static uint64_t asked(uint32_t world, uint32_t node)
{
    struct store_counts counts = { 0 };
    struct store *home, *to;
    struct kit_model m = { 0 };
    struct kit_layout l;
    struct drain_kit k;
    struct record_commit commit;
    const uint8_t id[16] = { (uint8_t)node };
    const struct kit_save how = { .name = { 1, 10, 71 }, .per_node = 2 };
    CHECK_OK(wrap_count(fresh("shared"), &counts, &home, NULL));
    CHECK_OK(wrap_count(fresh("to"), &counts, &to, NULL));
    kit_model_add(&m, "w", CKPT_DTYPE_F32, 2, (const uint64_t[]){ 64, 16 });
    kit_layout_rows(&l, &m, world);
    put_launch(home, 1, 1);
    kit_save_parts(home, &l, &how);
    CHECK_OK(publish(home, KIT_JOB, &how.name, world, &commit, NULL));
    drain_kit_init(&k, home, to, &how.name);
    k.d.node = id;
    uint64_t before = counts.gets + counts.puts + counts.stats + counts.lists;
    CHECK_EQ(drain_kit_drive(&k, NULL), CKPT_BUSY);
    CHECK(k.packs == 2 && k.wait.ours == (node == 0));
    uint64_t after = counts.gets + counts.puts + counts.stats + counts.lists;
    drain_kit_fini(&k);
    kit_layout_fini(&l);
    store_close(home);
    store_close(to);
    cases++;
    return after - before;
}

/* The index says whose ranks are whose: those of others cost a node no request. */
static void of_others(void)
{
    for (uint32_t node = 0; node < 2; node++)
        CHECK_EQ(asked(16, node), asked(32, node));
}

/* A part that a node did not send before it was deleted is not waited for (D6). */
static void deleted_meanwhile(void)
{
    struct world w;
    const uint8_t nobody[16] = { 9, 9 };
    setup(&w, CODEC_STORED, CODEC_STORED);
    w.k.d.node = nobody;
    expect(&w, CKPT_BUSY, "rank 0");
    CHECK_EQ(drain_finish(&w.k.d, &w.k.wait, NULL), CKPT_BUSY);
    mark(w.from, &w.name, false, LIFE_DELETED);
    CHECK_EQ(drain_finish(&w.k.d, &w.k.wait, NULL), CKPT_ABORTED);
    CHECK(!there(w.to, key_commit(KIT_JOB, &w.name)));
    cases++;
    teardown(&w);
}

/* -- which ------------------------------------------------------------------------------ */

static void put_tag(struct store *s, const struct ckpt_name *name)
{
    struct record_tag r = { .tag = "keep", .set = true, .time_ns = 1 };
    struct key key = key_tag(KIT_JOB, name, "keep", 1);
    CLEANUP_BUF struct buf b = { 0 };
    record_tag_encode(&r, key.text, &b);
    CHECK_OK(repo_put(s, &key, &b, NULL));
}

/* H4: a drain that was cut off, of what the policy does not send any more, is finished. */
static void finishes_what_is_begun(void)
{
    struct world w;
    struct policy none;
    struct ckpt_name found[8];
    size_t count;
    bool more;
    setup(&w, CODEC_STORED, CODEC_STORED);
    CHECK_OK(policy_parse("none", &none, NULL));
    w.k.d.policy = &none;
    expect(&w, CKPT_NOT_PLANNED, "policy");
    w.k.d.policy = NULL;
    w.k.steps = 3; /* one pack */
    expect(&w, CKPT_CANCELLED, "");
    CHECK_EQ(w.k.packs, 1);
    w.k.d.policy = &none;
    w.k.steps = INT64_MAX;
    w.k.d.fresh = true; /* not asked: a scan is to find it */
    expect(&w, CKPT_NOT_PLANNED, "policy");
    w.k.d.fresh = false;
    CHECK_OK(drain_scan(&w.k.d, found, 8, &count, &more, NULL));
    CHECK(count == 1 && name_equal(&found[0], &w.k.d.name));
    expect(&w, CKPT_OK, "");
    CHECK(there(w.to, key_held(KIT_JOB, &w.k.d.name)));
    CHECK_OK(drain_scan(&w.k.d, found, 8, &count, &more, NULL));
    CHECK_EQ(count, 0);
    teardown(&w);
}

static void scans(void)
{
    struct world w;
    setup(&w, CODEC_STORED, CODEC_STORED);
    struct ckpt_name names[6], found[8];
    for (size_t i = 0; i < 6; i++)
        names[i] = save(w.from, &w.l, 1, 20 + i, CODEC_STORED);
    size_t count;
    bool more;
    struct drain *d = &w.k.d;
    CHECK_OK(drain_scan(d, found, 8, &count, &more, NULL));
    CHECK(count == 7 && !more);
    for (size_t i = 0; i < 6; i++) /* newest first */
        CHECK(name_equal(&found[i], &names[5 - i]));
    CHECK_OK(drain_scan(d, found, 3, &count, &more, NULL));
    CHECK(count == 3 && more && name_equal(&found[0], &names[5]));
    w.k.d.name = names[4];
    expect(&w, CKPT_OK, "");
    mark(w.from, &names[3], false, LIFE_DELETED);
    CHECK_OK(drain_scan(d, found, 8, &count, &more, NULL));
    CHECK_EQ(count, 5); /* without the held and the deleted one */
    CHECK(name_equal(&found[0], &names[5]) && name_equal(&found[1], &names[2]));
    struct policy none, tagged, last;
    CHECK_OK(policy_parse("none", &none, NULL));
    CHECK_OK(policy_parse("tagged", &tagged, NULL));
    CHECK_OK(policy_parse("last", &last, NULL));
    d->policy = &none;
    CHECK_OK(drain_scan(d, found, 8, &count, &more, NULL));
    CHECK_EQ(count, 0);
    d->name = names[1];
    expect(&w, CKPT_NOT_PLANNED, "policy");
    put_tag(w.from, &names[1]);
    d->policy = &tagged;
    CHECK_OK(drain_scan(d, found, 8, &count, &more, NULL));
    CHECK(count == 1 && name_equal(&found[0], &names[1]));
    CHECK(there(w.to, key_tag(KIT_JOB, &names[1], "keep", 1))); /* brought on the way */
    expect(&w, CKPT_OK, "");
    d->policy = &last;
    CHECK_OK(drain_scan(d, found, 8, &count, &more, NULL));
    CHECK_EQ(count, 0); /* somebody trains */
    d->last = true;
    CHECK_OK(drain_scan(d, found, 8, &count, &more, NULL));
    CHECK(count == 1 && name_equal(&found[0], &names[5]));
    cases += 8;
    teardown(&w);
}

int main(void)
{
    unsigned long long seed = test_seed(20261121);
    arrives();
    goes_on();
    each_fails();
    at_random(seed);
    does_not_travel();
    sums_and_digests();
    on_the_way();
    stops_at_deletion();
    not_committed();
    two_homes();
    nodes_apart();
    by_node();
    of_others();
    deleted_meanwhile();
    finishes_what_is_begun();
    scans();
    TEST_CASES(cases);
    return 0;
}
