/* The law, for every layout a trainer can choose: what was saved in one and is restored in
 * another is what the oracle says, byte for byte, and nothing else was touched.  Here through
 * the engine in this process, with a store in memory, or in a directory.
 *
 *     test_matrix            2,000 pairs, from TEST_SEED
 *     TEST_PAIRS=10000000 test_matrix      the long run: about 70 pairs a second
 *     test_matrix --pair S   the one pair of seed S again */
#include <malloc.h>
#include <unistd.h>

#include "formats/dtype.h"
#include "props/engine_kit.h"
#include "props/matrix/matrix_case.h"

struct totals {
    unsigned long long pairs, coded, in_dir, apart;
    struct matrix_census census;
};

/* -- a side as the engine sees it ------------------------------------------------------- */

static unsigned long long pair_seed;

static void said(enum ckpt_status st, const struct ckpt_err *err)
{
    if (st == CKPT_OK)
        return;
    fprintf(stderr, "%s: %s; again: --pair %llu\n", status_name(st), err_text(err), pair_seed);
    exit(1);
}

static void declare(struct decl *d, const struct topo_tensor *t, const struct topo_hold *h)
{
    struct topo_tensor copy = *t;
    struct decl_tensor dt = { .name = copy.name,
                              .alias = (char *)(uintptr_t)t->tied,
                              .dtype = (uint8_t)t->dtype,
                              .kind = (uint8_t)t->kind,
                              .flags = t->tied ? DECL_ALIAS : 0,
                              .ndim = t->ndim };
    memcpy(dt.shape, t->shape, sizeof(dt.shape));
    memcpy(dt.block, t->block, sizeof(dt.block));
    struct ckpt_err err = { 0 };
    said(decl_add_tensor(d, &dt, &err), &err);
    for (size_t i = 0; i < h->count; i++) {
        const struct ckpt_piece *from = &h->piece[i];
        struct decl_piece p = { .box.ndim = t->ndim,
                                .offset_bytes = from->offset_bytes,
                                .replica = from->replica,
                                .replica_count = from->replica_count };
        memcpy(p.box.off, from->off, sizeof(p.box.off));
        memcpy(p.box.len, from->len, sizeof(p.box.len));
        memcpy(p.stride, from->stride, sizeof(p.stride));
        said(decl_add_piece(d, &p, &err), &err);
    }
}

static struct strided *places_of(const struct decl *d, const struct matrix_side *s, uint32_t rank,
                                 const size_t *tensor)
{
    struct strided *at = calloc(d->piece_count + 1, sizeof(*at));
    CHECK(at);
    for (size_t i = 0; i < d->piece_count; i++) {
        const struct decl_piece *p = &d->pieces[i];
        size_t blob = s->hold[rank][tensor[p->tensor]].blob;
        at[i].base = s->blob[rank][blob] + p->offset_bytes;
        for (uint32_t k = 0; k < p->box.ndim; k++)
            at[i].stride_bits[k] = p->stride[k] * dtype_bits(d->tensors[p->tensor].dtype);
    }
    return at;
}

static void layout_of(struct kit_layout *l, const struct matrix_side *s, size_t tensors)
{
    *l = (struct kit_layout){ .world = s->world };
    l->d = calloc(s->world, sizeof(*l->d));
    l->list = calloc(s->world, sizeof(struct decl *));
    l->at = calloc(s->world, sizeof(*l->at));
    CHECK(l->d && l->list && l->at);
    struct ckpt_err err = { 0 };
    for (uint32_t r = 0; r < s->world; r++) {
        size_t tensor[MATRIX_TENSORS];
        for (size_t i = 0; i < tensors; i++) {
            tensor[l->d[r].tensor_count] = i;
            if (!matrix_omits(s, tensors, r, i))
                declare(&l->d[r], &s->tensor[i], &s->hold[r][i]);
        }
        said(decl_finish(&l->d[r], KIT_SLOT, &err), &err);
        l->list[r] = &l->d[r];
        l->at[r] = places_of(&l->d[r], s, r, tensor);
    }
}

static void layout_drop(struct kit_layout *l)
{
    for (uint32_t r = 0; r < l->world; r++)
        free(l->at[r]);
    free(l->at);
    kit_layout_fini(l);
}

/* -- pairs ------------------------------------------------------------------------------- */

/* Node by node, each with a plan of its own: what one of them wants of a chunk may be any part. */
static enum ckpt_status restore_nodes(struct store *s, const struct ckpt_name *name,
                                      const struct kit_layout *l, uint32_t node_ranks,
                                      struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_OK;
    for (uint32_t r = 0; st == CKPT_OK && r < l->world; r += node_ranks) {
        struct load_stats stats = { 0 };
        const struct kit_layout node = { .d = l->d + r,
                                         .list = l->list + r,
                                         .at = l->at + r,
                                         .world = (uint32_t)min_u64(node_ranks, l->world - r) };
        st = kit_restore(&s, 1, name, &node, &stats, err);
    }
    return st;
}

/* How a pair goes from one side to the other. */
struct way {
    const char *url;
    struct save_codec codec;
    uint32_t node_ranks; /* of the side that is restored to */
};

/* Saves from one side and restores to the other; false after saying what failed. */
static bool through_engine(const struct way *way, size_t tensors, const struct matrix_side *from,
                           const struct matrix_side *to)
{
    const struct store_options options = { .create = true, .io = "threads" };
    struct kit_save how = { .name = { 1, 7, 7 }, .codec = way->codec };
    struct kit_layout saved, wanted;
    struct record_commit commit;
    struct ckpt_err err = { 0 };
    struct store *s;
    CHECK_OK(store_open(way->url, &options, &s, NULL));
    layout_of(&saved, from, tensors);
    layout_of(&wanted, to, tensors);
    kit_save_parts(s, &saved, &how);
    enum ckpt_status st = publish(s, KIT_JOB, &how.name, from->world, &commit, &err);
    if (st == CKPT_OK)
        st = restore_nodes(s, &how.name, &wanted, way->node_ranks, &err);
    if (st != CKPT_OK)
        fprintf(stderr, "publish and restore: %s: %s\n", status_name(st), err_text(&err));
    layout_drop(&saved);
    layout_drop(&wanted);
    kit_store_drop(s);
    return st == CKPT_OK;
}

static bool one_pair(struct matrix_oracle *oracle, unsigned long long seed, bool large,
                     struct totals *t)
{
    unsigned long long rand = pair_seed = seed;
    struct matrix_model m;
    struct topo from_topo, to_topo;
    struct matrix_side from, to;
    char dir[64] = "/tmp/matrix-XXXXXX", url[96];
    matrix_model_random(&m, large, &rand);
    matrix_topo_random(&from_topo, MATRIX_RANKS, &rand);
    matrix_topo_random(&to_topo, MATRIX_RANKS, &rand);
    matrix_side_init(&from, &m, &from_topo, false, &rand);
    matrix_side_init(&to, &m, &to_topo, true, &rand);
    bool zstd = test_rand(&rand) % 3 == 0, on_disk = test_rand(&rand) % 128 == 0;
    bool apart = test_rand(&rand) % 3 == 0;
    struct way way = { .url = url, .node_ranks = to.world };
    if (zstd)
        way.codec = (struct save_codec){ CODEC_ZSTD, 1 };
    if (apart)
        way.node_ranks = 1 + (uint32_t)(test_rand(&rand) % to.world);
    snprintf(url, sizeof(url), "mem://matrix");
    if (on_disk) {
        CHECK(mkdtemp(dir));
        snprintf(url, sizeof(url), "%s/s", dir);
    }
    matrix_oracle_make(oracle, seed, seed, m.count, &from, &to);
    bool good = through_engine(&way, m.count, &from, &to);
    good = good && matrix_oracle_check(oracle, seed, &to);
    if (on_disk) {
        char command[96];
        snprintf(command, sizeof(command), "rm -rf %s", dir);
        CHECK_EQ(system(command), 0);
    }
    if (!good)
        matrix_say(stderr, m.count, &from, &to);
    matrix_count(&m, &from, &to, &t->census);
    t->coded += zstd;
    t->in_dir += on_disk;
    t->apart += way.node_ranks < to.world;
    t->pairs++;
    matrix_side_fini(&from);
    matrix_side_fini(&to);
    return good;
}

/* The seed alone says so. */
static bool is_large(unsigned long long seed)
{
    return seed % 96 == 0;
}

int main(int argc, char **argv)
{
    struct matrix_oracle oracle;
    struct totals t = { 0 };
    const char *n = getenv("TEST_PAIRS");
    bool deep = getenv("CKPT_DEEP"), one = argc == 3 && strcmp(argv[1], "--pair") == 0;
    unsigned long long pairs = (deep ? 8000 : 2000) / TEST_TENTH, rand;
    if (n)
        pairs = strtoull(n, NULL, 0);
    rand = one ? 0 : test_seed(202605);
    /* Working memory comes and goes with each pair: it need not be new pages each time. */
    mallopt(M_MMAP_THRESHOLD, 32 << 20);
    mallopt(M_TRIM_THRESHOLD, 512 << 20);
    matrix_oracle_start(&oracle);
    for (unsigned long long i = 0; i < (one ? 1 : pairs); i++) {
        unsigned long long seed = one ? strtoull(argv[2], NULL, 0) : test_rand(&rand);
        if (!one_pair(&oracle, seed, is_large(seed), &t)) {
            fprintf(stderr, "pair %llu; again: %s --pair %llu\n", i, argv[0], seed);
            return 1;
        }
    }
    matrix_oracle_end(&oracle);
    matrix_census_check(&t.census, pairs >= 1000 && !one);
    printf("%llu coded, %llu in a directory, %llu node by node\n", t.coded, t.in_dir, t.apart);
    CHECK(one || pairs < 1000 || (t.coded && t.in_dir && t.apart));
    TEST_CASES(t.pairs);
    return 0;
}
