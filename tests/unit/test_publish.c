/* Publish: what it refuses, that it is a pure function, that commit and abort are one.
 * (It covers publish_merge.c and publish_witness.c too.) */
#include <pthread.h>

#include "props/engine_kit.h"
#include "storage/repo/life.h"
#include "storage/repo/reader.h"
#include "storage/store/wrap.h"

static uint64_t cases;

static struct kit_model small_model(void)
{
    struct kit_model m = { 0 };
    kit_model_add(&m, "w", CKPT_DTYPE_F32, 2, (const uint64_t[]){ 12, 8 });
    kit_model_add(&m, "b", CKPT_DTYPE_F32, 1, (const uint64_t[]){ 12 });
    return m;
}

static struct kit_save save_named(uint64_t step)
{
    return (struct kit_save){ .name = { 1, step, step } };
}

static enum ckpt_status publish_it(struct store *s, const struct kit_save *how, uint32_t world,
                                   struct ckpt_err *err)
{
    struct record_commit commit;
    *err = (struct ckpt_err){ 0 };
    cases++;
    return publish(s, KIT_JOB, &how->name, world, &commit, err);
}

static void check_undecided(struct store *s, const struct kit_save *how)
{
    enum publish_state state;
    CHECK_OK(publish_look(s, KIT_JOB, &how->name, &state, NULL, NULL));
    CHECK_EQ(state, PUBLISH_UNDECIDED);
}

static void test_missing_then_whole(struct store *s)
{
    struct kit_model m = small_model();
    struct kit_layout l;
    struct kit_save how = save_named(1);
    struct ckpt_err err = { 0 };
    uint32_t rank;
    kit_layout_rows(&l, &m, 3);
    CHECK_OK(kit_save_part(s, &l, 0, &how, &err));
    CHECK_OK(kit_save_part(s, &l, 2, &how, &err));
    CHECK_EQ(publish_it(s, &how, 3, &err), CKPT_NOT_FOUND);
    CHECK(strstr(err_text(&err), "rank 1"));
    check_undecided(s, &how);
    CHECK_OK(publish_missing(s, KIT_JOB, &how.name, 3, 0, &rank, NULL));
    CHECK_EQ(rank, 1);
    CHECK_OK(kit_save_part(s, &l, 1, &how, &err));
    CHECK_OK(publish_missing(s, KIT_JOB, &how.name, 3, rank, &rank, NULL));
    CHECK_EQ(rank, 3);
    struct record_commit commit;
    CHECK_OK(publish(s, KIT_JOB, &how.name, 3, &commit, &err));
    CHECK_EQ(commit.tensor_count, 2);
    CHECK_EQ(commit.raw_bytes, 12 * 8 * 4 + 12 * 4);
    CHECK_EQ(commit.metric_count, 1);
    /* Crashed between c/ and h/: the next publish puts h/. */
    struct key held = key_held(KIT_JOB, &how.name);
    struct store_stat stat;
    CHECK_OK(store_remove(s, held.text, NULL));
    CHECK_OK(publish_it(s, &how, 3, &err));
    CHECK_OK(store_stat(s, held.text, &stat, NULL));
    /* One rank's parts do not lie here: committed, and not held. */
    struct key part = key_rank_held(KIT_JOB, &how.name, 1);
    CHECK_OK(store_remove(s, held.text, NULL));
    CHECK_OK(store_remove(s, part.text, NULL));
    CHECK_OK(publish_it(s, &how, 3, &err));
    CHECK_EQ(store_stat(s, held.text, &stat, NULL), CKPT_NOT_FOUND);
    struct record_abort why = { .status = CKPT_TIMEOUT, .rank = 1, .by_epoch = 1 };
    CHECK_EQ(publish_abort(s, KIT_JOB, &how.name, &why, &err), CKPT_EXISTS);
    kit_layout_fini(&l);
}

/* Rank 1 saves by another layout: a hole and an overlap. */
static void test_cover(struct store *s)
{
    struct kit_model m = small_model();
    struct kit_layout three, two;
    struct ckpt_err err = { 0 };
    kit_layout_rows(&three, &m, 3);
    kit_layout_rows(&two, &m, 2);
    struct kit_save hole = save_named(2), overlap = save_named(3);
    struct kit_layout mixed = three;
    mixed.world = 2; /* ranks 0 and 1 of three: the last third is missing */
    kit_save_parts(s, &mixed, &hole);
    CHECK_EQ(publish_it(s, &hole, 2, &err), CKPT_COVER);
    CHECK(strstr(err_text(&err), "no rank holds"));
    check_undecided(s, &hole);
    CHECK_OK(kit_save_part(s, &two, 0, &overlap, &err));   /* rows 0..5 */
    CHECK_OK(kit_save_part(s, &mixed, 1, &overlap, &err)); /* rows 4..7 */
    CHECK_EQ(publish_it(s, &overlap, 2, &err), CKPT_COVER);
    CHECK(strstr(err_text(&err), "ranks 0 and 1"));
    kit_layout_fini(&three);
    kit_layout_fini(&two);
}

/* Nine ranks that each say that they alone hold a scalar: refused, by two of them. */
static void test_scalar_of_all(struct store *s)
{
    struct kit_model m = { 0 };
    struct kit_layout l, alone;
    struct ckpt_err err = { 0 };
    struct kit_save how = save_named(50);
    kit_model_add(&m, "step", CKPT_DTYPE_I64, 0, (const uint64_t[]){ 0 });
    kit_layout_rows(&l, &m, 9);
    for (uint32_t r = 1; r < l.world; r++) {
        kit_layout_rows(&alone, &m, 1);
        decl_fini(&l.d[r]);
        l.d[r] = alone.d[0];
        alone.world = 0; /* its only declaration is the other's now */
        kit_layout_fini(&alone);
    }
    kit_save_parts(s, &l, &how);
    CHECK_EQ(publish_it(s, &how, l.world, &err), CKPT_COVER);
    CHECK(strstr(err_text(&err), "tensor step") && strstr(err_text(&err), "both hold []"));
    check_undecided(s, &how);
    kit_layout_fini(&l);
}

static void test_mismatch(struct store *s)
{
    struct kit_model m = small_model(), other = small_model();
    struct kit_layout a, b;
    struct ckpt_err err = { 0 };
    struct kit_save how = save_named(4);
    other.tensors[0].dtype = CKPT_DTYPE_I32;
    kit_layout_rows(&a, &m, 2);
    kit_layout_rows(&b, &other, 2);
    CHECK_OK(kit_save_part(s, &a, 0, &how, &err));
    CHECK_OK(kit_save_part(s, &b, 1, &how, &err));
    CHECK_EQ(publish_it(s, &how, 2, &err), CKPT_MISMATCH);
    CHECK(strstr(err_text(&err), "tensor w") && strstr(err_text(&err), "ranks 0 and 1"));
    kit_layout_fini(&b);
    /* A manifest of another attempt, copied under this one's key; another world. */
    struct kit_save from = save_named(5), to = save_named(6);
    kit_save_parts(s, &a, &from);
    CHECK_EQ(publish_it(s, &from, 1, &err), CKPT_MISMATCH);
    CHECK_OK(kit_save_part(s, &a, 0, &to, &err));
    struct key good = key_manifest(KIT_JOB, &from.name, 1),
               bad = key_manifest(KIT_JOB, &to.name, 1);
    CLEANUP_FREE void *bytes = NULL;
    size_t len;
    CHECK_OK(store_get_all(s, good.text, SIZE_MAX / 2, &bytes, &len, NULL));
    CHECK_OK(store_put_record(s, bad.text, bytes, len, NULL));
    CHECK_EQ(publish_it(s, &to, 2, &err), CKPT_MISMATCH);
    CHECK(strstr(err_text(&err), "another attempt"));
    kit_layout_fini(&a);
}

/* A manifest whose digests are all right, of three boxes that share two chunks: the sum of
 * what is claimed once is as it must be. */
static void test_claimed_twice(struct store *s)
{
    struct kit_model m = small_model();
    struct kit_layout l;
    struct ckpt_err err = { 0 };
    struct kit_save how = save_named(900);
    struct digest digests[2] = { { { 1 } }, { { 2 } } };
    struct manifest_pack pack = { .chunks = 2 };
    struct manifest_header h;
    struct sha256 sha;
    CLEANUP_BUF struct buf b = { 0 };
    kit_model_add(&m, "c", CKPT_DTYPE_F32, 1, (const uint64_t[]){ 12 });
    kit_layout_rows(&l, &m, 1);
    kit_header(&h, &l, 0, &how);
    h.packs = &pack;
    h.pack_count = 1;
    CHECK_EQ(l.d[0].piece_count, 3);
    CHECK_EQ(l.d[0].chunk_count, 3);
    l.d[0].chunk_count = 2;
    for (size_t i = 0; i < 3; i++)
        l.d[0].pieces[l.d[0].tensors[l.d[0].by_name[i]].first_piece].first_chunk = i % 2;
    const struct manifest_source from = { .d = &l.d[0], .digests = digests };
    manifest_encode_source(&h, &from, &b, &sha);
    CHECK(!b.failed);
    CHECK_OK(store_put_record(s, key_manifest(KIT_JOB, &how.name, 0).text, b.data, b.len, NULL));
    CHECK_EQ(publish_it(s, &how, 1, &err), CKPT_CORRUPT);
    CHECK(strstr(err_text(&err), "another box's too"));
    check_undecided(s, &how);
    kit_layout_fini(&l);
}

static void test_failed_part(struct store *s)
{
    struct kit_model m = small_model();
    struct kit_layout l;
    struct ckpt_err err = { 0 };
    struct kit_save how = save_named(7);
    struct manifest_header h;
    kit_layout_rows(&l, &m, 4);
    CHECK_OK(kit_save_part(s, &l, 0, &how, &err));
    kit_header(&h, &l, 2, &how); /* ranks 1 and 3 never come */
    h.flags = MANIFEST_FLAG_FAILED;
    h.fail_status = CKPT_FULL;
    snprintf(h.fail_text, sizeof(h.fail_text), "the disk is full");
    CHECK_OK(save_failed(s, &h, &err));
    CHECK_EQ(publish_it(s, &how, 4, &err), CKPT_ABORTED);
    CHECK(strstr(err_text(&err), "rank 2") && strstr(err_text(&err), "disk is full"));
    enum publish_state state;
    struct record_abort why;
    CHECK_OK(publish_look(s, KIT_JOB, &how.name, &state, &why, NULL));
    CHECK_EQ(state, PUBLISH_ABORTED);
    CHECK_EQ(why.status, CKPT_FULL);
    CHECK_EQ(why.rank, 2);
    /* A late part cannot bring it back; the same part again is another manifest. */
    CHECK_OK(kit_save_part(s, &l, 1, &how, &err));
    CHECK_OK(kit_save_part(s, &l, 3, &how, &err));
    CHECK_EQ(kit_save_part(s, &l, 2, &how, &err), CKPT_CONFLICT);
    CHECK_EQ(publish_it(s, &how, 4, &err), CKPT_ABORTED);
    CHECK_OK(publish_abort(s, KIT_JOB, &how.name, &why, NULL));
    kit_layout_fini(&l);
}

/* A server's "already there" is no commit that somebody has seen. */
static void test_abort_unsure(void)
{
    const struct wrap_fault_rule rule = { .status = CKPT_EXISTS, .op = 'p' };
    struct wrap_fault_plan plan = { .rules = &rule, .count = 1 };
    struct kit_save how = save_named(30);
    struct record_abort why = { .status = CKPT_TIMEOUT, .rank = 1, .by_epoch = 1 };
    enum publish_state state;
    struct store *s;
    CHECK_OK(wrap_fault(kit_store("mem://publish-unsure"), &plan, &s, NULL));
    CHECK_EQ(publish_abort(s, KIT_JOB, &how.name, &why, NULL), CKPT_UNREACHABLE);
    CHECK_OK(publish_look(s, KIT_JOB, &how.name, &state, NULL, NULL));
    CHECK_EQ(state, PUBLISH_UNDECIDED);
    store_close(s);
    cases++;
}

static void test_vanished(struct store *s)
{
    struct kit_model m = small_model(), less = small_model();
    struct kit_layout l, fewer;
    struct ckpt_err err = { 0 };
    for (int i = 0; i < 6; i++) {
        char name[16];
        snprintf(name, sizeof(name), "extra%d", i);
        kit_model_add(&m, name, CKPT_DTYPE_U8, 1, (const uint64_t[]){ 8 });
    }
    kit_layout_rows(&l, &m, 2);
    kit_layout_rows(&fewer, &less, 2);
    struct kit_save parent = save_named(10), child = save_named(11), allowed = save_named(12);
    kit_save_parts(s, &l, &parent);
    CHECK_OK(publish_it(s, &parent, 2, &err));
    child.has_parent = allowed.has_parent = true;
    child.parent = allowed.parent = parent.name;
    kit_save_parts(s, &fewer, &child);
    CHECK_EQ(publish_it(s, &child, 2, &err), CKPT_VANISHED);
    CHECK(strstr(err_text(&err), "extra0") && strstr(err_text(&err), "extra4"));
    CHECK(!strstr(err_text(&err), "extra5"));
    check_undecided(s, &child);
    allowed.flags = MANIFEST_FLAG_VANISHED_OK;
    kit_save_parts(s, &fewer, &allowed);
    CHECK_OK(publish_it(s, &allowed, 2, &err));
    kit_layout_fini(&l);
    kit_layout_fini(&fewer);
}

/* Rank 1 digests what rank 0 wrote: its own view of the same bytes. */
static void test_witness(struct store *s)
{
    struct kit_model m = small_model();
    struct kit_layout l;
    struct ckpt_err err = { 0 };
    kit_layout_rows(&l, &m, 2);
    struct box tile = { .ndim = 2, .off = { 0, 0 }, .len = { 6, 8 } };
    uint8_t bytes[6 * 8 * 4];
    kit_bytes("w", m.tensors[0].shape, &tile, 32, bytes);
    struct manifest_seen seen = { .tensor = 0,
                                  .witness = { tile, digest_of(bytes, sizeof(bytes)) } };
    struct kit_save how = save_named(20);
    how.seen = &seen;
    how.seen_count = 1;
    how.seen_rank = 1;
    kit_save_parts(s, &l, &how);
    CHECK_OK(publish_it(s, &how, 2, &err));
    how.name = save_named(21).name;
    seen.witness.digest.b[3] ^= 1;
    kit_save_parts(s, &l, &how);
    CHECK_EQ(publish_it(s, &how, 2, &err), CKPT_CORRUPT);
    CHECK(strstr(err_text(&err), "tensor w") && strstr(err_text(&err), "replicas differ"));
    check_undecided(s, &how);
    kit_layout_fini(&l);
}

static void test_deleted(struct store *s)
{
    struct kit_model m = small_model();
    struct kit_layout l;
    struct ckpt_err err = { 0 };
    struct kit_save how = save_named(30);
    kit_layout_rows(&l, &m, 2);
    kit_save_parts(s, &l, &how);
    struct key key = key_life(KIT_JOB, &how.name, false, 1);
    struct record_life gone = { .life = LIFE_GONE, .time_ns = 1 };
    CLEANUP_BUF struct buf b = { 0 };
    record_life_encode(&gone, key.text, &b);
    CHECK_OK(repo_put(s, &key, &b, NULL));
    CHECK_EQ(publish_it(s, &how, 2, &err), CKPT_ABORTED);
    check_undecided(s, &how);
    kit_layout_fini(&l);
}

/* Each operation of publish fails once: nothing is decided before the index is synced,
 * and the next publish goes on. */
static void test_failures(void)
{
    struct kit_model m = small_model();
    struct kit_layout l;
    static const char ops[] = { 'p', 'y', 'g' };
    kit_layout_rows(&l, &m, 2);
    for (size_t op = 0; op < ARRAY_COUNT(ops); op++) {
        uint64_t hits = 1;
        for (uint64_t nth = 1; hits; nth++) {
            char url[48];
            snprintf(url, sizeof(url), "mem://pub-fail-%c%llu", ops[op], (unsigned long long)nth);
            struct wrap_fault_rule rule = { FAULT_FAIL, CKPT_IO, ops[op], NULL, nth };
            struct wrap_fault_plan plan = { .rules = &rule, .count = 1 };
            struct kit_save how = save_named(1);
            struct store *bare = kit_store(url), *s;
            struct ckpt_err err;
            enum publish_state state;
            kit_save_parts(bare, &l, &how);
            CHECK_OK(wrap_fault(kit_store(url), &plan, &s, NULL));
            enum ckpt_status st = publish_it(s, &how, 2, &err);
            hits = plan.hits;
            CHECK_EQ(st, hits ? CKPT_IO : CKPT_OK);
            CHECK(hits || nth > 1);
            CHECK_OK(publish_look(bare, KIT_JOB, &how.name, &state, NULL, NULL));
            if (hits && ops[op] == 'y') /* names of the index before the commit's */
                CHECK_EQ(state, PUBLISH_UNDECIDED);
            CHECK_OK(publish_it(bare, &how, 2, &err));
            store_close(s);
            store_close(bare);
        }
    }
    kit_layout_fini(&l);
}

/* Bytes behind a manifest are refused, and a manifest changed after the commit is not
 * believed although its own sums are right. */
static void test_manifest_changed(struct store *s)
{
    struct kit_model m = small_model();
    struct kit_layout l;
    struct ckpt_err err = { 0 };
    struct kit_save how = save_named(40), other = save_named(41);
    kit_layout_rows(&l, &m, 2);
    kit_save_parts(s, &l, &how);
    kit_save_parts(s, &l, &other);
    struct key key = key_manifest(KIT_JOB, &how.name, 1);
    uint8_t *bytes;
    size_t len;
    CHECK_OK(store_get_all(s, key.text, SIZE_MAX / 2, (void **)&bytes, &len, NULL));
    struct iovec iov = { bytes, len + 1 };
    CHECK_OK(store_put(s, key.text, &iov, 1, 0, NULL));
    CHECK_EQ(publish_it(s, &how, 2, &err), CKPT_CORRUPT);
    iov.iov_len = len;
    CHECK_OK(store_put(s, key.text, &iov, 1, 0, NULL));
    CHECK_OK(publish_it(s, &how, 2, &err));
    free(bytes);
    CHECK_OK(store_remove(s, key.text, NULL));
    how.has_parent = true; /* another manifest of the same part, right in itself */
    how.parent = other.name;
    CHECK_OK(kit_save_part(s, &l, 1, &how, &err));
    struct reader *r;
    const struct manifest_header *h;
    CHECK_OK(reader_open(&s, 1, KIT_JOB, &how.name, &r, NULL));
    CHECK_OK(reader_manifest(r, 0, &h, NULL));
    CHECK_EQ(reader_manifest(r, 1, &h, NULL), CKPT_CORRUPT);
    reader_close(r);
    kit_layout_fini(&l);
    cases++;
}

/* --- races ---------------------------------------------------------------------- */

struct racer {
    pthread_t thread;
    struct store *s;
    const struct kit_save *how;
    uint32_t world;
    bool aborts;
    enum ckpt_status st;
    struct record_commit commit;
};

static void *race(void *arg)
{
    struct racer *r = arg;
    struct record_abort why = { .status = CKPT_TIMEOUT, .rank = UINT32_MAX, .by_epoch = 2 };
    r->st = r->aborts ? publish_abort(r->s, KIT_JOB, &r->how->name, &why, NULL)
                      : publish(r->s, KIT_JOB, &r->how->name, r->world, &r->commit, NULL);
    return NULL;
}

static void run_race(struct store *s, const struct kit_layout *l, uint64_t step, unsigned aborters)
{
    struct racer racers[16] = { 0 };
    struct kit_save how = save_named(step);
    kit_save_parts(s, l, &how);
    for (unsigned i = 0; i < 16; i++) {
        racers[i].how = &how;
        racers[i].world = l->world;
        racers[i].aborts = i < aborters;
        CHECK_OK(store_dup(s, &racers[i].s, NULL));
        CHECK_EQ(pthread_create(&racers[i].thread, NULL, race, &racers[i]), 0);
    }
    for (unsigned i = 0; i < 16; i++) {
        CHECK_EQ(pthread_join(racers[i].thread, NULL), 0);
        store_close(racers[i].s);
    }
    enum publish_state state;
    CHECK_OK(publish_look(s, KIT_JOB, &how.name, &state, NULL, NULL));
    CHECK(state != PUBLISH_UNDECIDED);
    for (unsigned i = 0; i < 16; i++) {
        bool committed = state == PUBLISH_COMMITTED;
        if (racers[i].aborts)
            CHECK_EQ(racers[i].st, committed ? CKPT_EXISTS : CKPT_OK);
        else
            CHECK_EQ(racers[i].st, committed ? CKPT_OK : CKPT_ABORTED);
        if (!racers[i].aborts && committed)
            CHECK(sha256_equal(&racers[i].commit.index_sha, &racers[15].commit.index_sha));
    }
    cases++;
}

static void test_races(struct store *s)
{
    struct kit_model m = small_model();
    struct kit_layout l;
    kit_layout_rows(&l, &m, 3);
    for (uint64_t i = 0; i < 20; i++)
        run_race(s, &l, 100 + i, i % 2 ? 8 : 0);
    kit_layout_fini(&l);
}

/* The same parts in two stores: the same bytes under c/ and i0. */
static void test_pure(void)
{
    unsigned long long rand = 5;
    struct kit_census census = { 0 };
    for (int i = 0; i < 20; i++) {
        char urls[2][32];
        struct kit_model m;
        struct kit_layout l;
        void *bytes[2][2];
        size_t len[2][2];
        struct kit_save how = save_named(1);
        kit_model_random(&m, &rand, &census);
        kit_layout_random(&l, &m, 4, &rand, &census);
        for (int k = 0; k < 2; k++) {
            struct ckpt_err err;
            snprintf(urls[k], sizeof(urls[k]), "mem://pure%d-%d", i, k);
            struct store *s = kit_store(urls[k]);
            kit_save_parts(s, &l, &how);
            CHECK_OK(publish_it(s, &how, 4, &err));
            struct key c = key_commit(KIT_JOB, &how.name), x = key_index(KIT_JOB, &how.name, 0);
            CHECK_OK(store_get_all(s, c.text, 1 << 24, &bytes[k][0], &len[k][0], NULL));
            CHECK_OK(store_get_all(s, x.text, 1 << 24, &bytes[k][1], &len[k][1], NULL));
            store_close(s);
        }
        for (int k = 0; k < 2; k++) {
            CHECK_EQ(len[0][k], len[1][k]);
            CHECK(memcmp(bytes[0][k], bytes[1][k], len[0][k]) == 0);
            free(bytes[0][k]);
            free(bytes[1][k]);
        }
        kit_layout_fini(&l);
    }
}

int main(void)
{
    struct store *s = kit_store("mem://publish");
    test_missing_then_whole(s);
    test_cover(s);
    test_scalar_of_all(s);
    test_mismatch(s);
    test_claimed_twice(s);
    test_failed_part(s);
    test_abort_unsure();
    test_vanished(s);
    test_witness(s);
    test_deleted(s);
    test_failures();
    test_manifest_changed(s);
    test_races(s);
    test_pure();
    store_close(s);
    TEST_CASES(cases);
    return 0;
}
