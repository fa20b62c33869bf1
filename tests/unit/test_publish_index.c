/* An index that another version of ckpt made of the same manifests, in other bytes: publish never
 * replaces it.  (It covers publish_index.c too.) */
#include "props/engine_kit.h"
#include "storage/repo/launch.h"
#include "storage/repo/reader.h"
#include "storage/repo/scrub.h"
#include "unit/before_put.h"

#define WORLD    3
#define RUNS_MAX 64

static uint64_t cases;

/* -- what the other version makes ------------------------------------------------------ */

struct made {
    struct ckpt_name name;
    struct buf *index; /* one segment */
    struct buf commit;
    struct sha256 sha;
};

/* The same boxes, each a run of its own: as good, and longer. */
static void split_runs(struct index_tensor *t)
{
    struct index_run *each = calloc(RUNS_MAX, sizeof(*each));
    uint32_t n = 0;
    CHECK(each);
    for (uint32_t i = 0; i < t->run_count; i++) {
        for (uint32_t k = 0; k < t->runs[i].count; k++, n++) {
            CHECK(n < RUNS_MAX);
            each[n].count = 1;
            each[n].box0 = index_run_box(&t->runs[i], k, &each[n].rank0);
        }
    }
    CHECK(n > t->run_count);
    t->runs = each;
    t->run_count = n;
}

/* Of what this version has published in `from`.  node: goes into the id of rank 0's. */
static void make_other(struct store *from, const struct ckpt_name *name, uint8_t node,
                       struct made *ret)
{
    struct index_rank ranks[WORLD];
    struct index_tensor tensors[2];
    const struct index_tensors all = { tensors, ARRAY_COUNT(tensors) };
    struct reader *r;
    uint32_t count;
    *ret = (struct made){ .name = *name };
    CHECK_OK(reader_open(&from, 1, KIT_JOB, name, &r, NULL));
    CHECK_EQ(reader_tensor_count(r), all.count);
    for (uint32_t i = 0; i < WORLD; i++) {
        const struct index_rank *rank;
        CHECK_OK(reader_rank(r, i, &rank, NULL));
        ranks[i] = *rank;
    }
    ranks[0].node[0] ^= node;
    for (size_t i = 0; i < all.count; i++) {
        const struct index_tensor *t;
        CHECK_OK(reader_tensor_at(r, i, &t, NULL));
        tensors[i] = *t;
        split_runs(&tensors[i]);
    }
    struct record_commit c = *reader_commit(r);
    CHECK_OK(index_encode(name, WORLD, ranks, &all, &ret->index, &count, &c.index_header_bytes,
                          &c.index_sha, NULL));
    CHECK_EQ(count, 1);
    CHECK(!sha256_equal(&c.index_sha, &reader_commit(r)->index_sha));
    ret->sha = c.index_sha;
    record_commit_encode(&c, key_commit(KIT_JOB, name).text, &ret->commit);
    for (size_t i = 0; i < all.count; i++)
        free(tensors[i].runs);
    reader_close(r);
}

static void made_fini(struct made *m)
{
    buf_fini(&m->index[0]);
    free(m->index);
    buf_fini(&m->commit);
}

static void put_index(struct store *s, const struct made *m)
{
    struct key key = key_index(KIT_JOB, &m->name, 0);
    CHECK_OK(repo_put(s, &key, &m->index[0], NULL));
}

static void check_kept(struct store *s, const struct made *m)
{
    CLEANUP_FREE void *bytes = NULL;
    size_t len;
    struct key key = key_index(KIT_JOB, &m->name, 0);
    CHECK_OK(store_get_all(s, key.text, 1 << 24, &bytes, &len, NULL));
    CHECK_EQ(len, m->index[0].len);
    CHECK(memcmp(bytes, m->index[0].data, len) == 0);
    cases++;
}

/* -- it commits just before this one puts its index ------------------------------------ */

struct other {
    const struct made *made;
    bool done;
};

static void other_commits(void *arg, struct store *under, const char *key)
{
    struct other *o = arg;
    struct key commit = key_commit(KIT_JOB, &o->made->name);
    if (o->done || strcmp(key, key_index(KIT_JOB, &o->made->name, 0).text) != 0)
        return;
    o->done = true;
    put_index(under, o->made);
    CHECK_OK(repo_put(under, &commit, &o->made->commit, NULL));
}

/* -- two stores: in one only this version publishes, to learn what the other would ------ */

struct world {
    struct kit_layout l;
    struct kit_save how;
    struct store *apart, *s;
    struct made made;
};

static void setup(struct world *w, const char *apart, const char *url)
{
    struct kit_model m = { 0 };
    struct record_commit commit;
    kit_model_add(&m, "w", CKPT_DTYPE_F32, 2, (const uint64_t[]){ 12, 8 });
    kit_model_add(&m, "b", CKPT_DTYPE_F32, 1, (const uint64_t[]){ 12 });
    *w = (struct world){ .how = { .name = { 1, 7, 7 } },
                         .apart = kit_store(apart),
                         .s = kit_store(url) };
    kit_layout_rows(&w->l, &m, WORLD);
    kit_save_parts(w->apart, &w->l, &w->how);
    CHECK_OK(publish(w->apart, KIT_JOB, &w->how.name, WORLD, &commit, NULL));
    make_other(w->apart, &w->how.name, 0, &w->made);
    kit_save_parts(w->s, &w->l, &w->how);
}

static void teardown(struct world *w)
{
    made_fini(&w->made);
    kit_layout_fini(&w->l);
    store_close(w->apart);
    store_close(w->s);
}

/* What was committed meanwhile is the checkpoint, for who comes second too. */
static void committed_meanwhile(void)
{
    struct world w;
    struct record_commit commit;
    struct load_stats stats = { 0 };
    struct other other = { .made = &w.made };
    setup(&w, "mem://index-1-apart", "mem://index-1");
    struct store *s = before_put(w.s, other_commits, &other);
    CHECK_OK(publish(s, KIT_JOB, &w.how.name, WORLD, &commit, NULL));
    CHECK(other.done);
    CHECK(sha256_equal(&commit.index_sha, &w.made.sha));
    check_kept(w.s, &w.made);
    CHECK_OK(kit_restore(&w.s, 1, &w.how.name, &w.l, &stats, NULL));
    store_close(s);
    teardown(&w);
}

static void check_undecided(struct store *s, const struct ckpt_name *name)
{
    enum publish_state state;
    CHECK_OK(publish_look(s, KIT_JOB, name, &state, NULL, NULL));
    CHECK_EQ(state, PUBLISH_UNDECIDED);
}

/* Nobody knows yet whether it will be: refused and kept, and in no launch's way. */
static void not_committed(void)
{
    struct world w;
    struct record_commit commit;
    struct launch_listings at;
    setup(&w, "mem://index-2-apart", "mem://index-2");
    const struct ckpt_name *name = &w.how.name;
    put_index(w.s, &w.made);
    CHECK_EQ(publish(w.s, KIT_JOB, name, WORLD, &commit, NULL), CKPT_CONFLICT);
    check_kept(w.s, &w.made);
    check_undecided(w.s, name);
    CHECK_OK(launch_decide(w.s, KIT_JOB, 2, &at, NULL));
    CHECK_EQ(at.commits.count, 0);
    launch_listings_fini(&at);
    check_kept(w.s, &w.made);
    check_undecided(w.s, name);
    /* It goes on. */
    struct key key = key_commit(KIT_JOB, name);
    CHECK_OK(repo_put(w.s, &key, &w.made.commit, NULL));
    CHECK_OK(publish(w.s, KIT_JOB, name, WORLD, &commit, NULL));
    CHECK(sha256_equal(&commit.index_sha, &w.made.sha));
    check_kept(w.s, &w.made);
    teardown(&w);
}

static void count_manifests(void *arg, const struct scrub_finding *f)
{
    if (strstr(f->text, "not the manifest that the index vouches for"))
        ++*(unsigned *)arg;
}

/* A rank's node is what its manifest says, and not another with all sums right. */
static void another_node(void)
{
    struct world w;
    struct scrub_report report;
    setup(&w, "mem://index-3-apart", "mem://index-3");
    struct key commit = key_commit(KIT_JOB, &w.how.name);
    for (uint8_t node = 0; node < 2; node++, cases++) {
        struct store *s = kit_store(node ? "mem://index-4" : "mem://index-5");
        struct made made;
        unsigned found = 0;
        const struct scrub_callbacks cb = { .finding = count_manifests, .arg = &found };
        kit_save_parts(s, &w.l, &w.how);
        make_other(w.apart, &w.how.name, node, &made);
        put_index(s, &made);
        CHECK_OK(repo_put(s, &commit, &made.commit, NULL));
        CHECK_EQ(scrub_verify(s, KIT_JOB, &w.how.name, CKPT_SLOT_BYTES_MAX, &cb, &report, NULL),
                 CKPT_CORRUPT); /* the commit is another version's in any case */
        CHECK_EQ(found, node);
        made_fini(&made);
        store_close(s);
    }
    teardown(&w);
}

int main(void)
{
    committed_meanwhile();
    not_committed();
    another_node();
    TEST_CASES(cases);
    return 0;
}
