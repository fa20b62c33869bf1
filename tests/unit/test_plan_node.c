/* What `ckpt plan` predicts for a node (plan_node.c, layout_use.c) against what a restore of
 * the same ranks asks of a counting store: within 2 percent is promised, and it is exact
 * where all heads were looked at.  And load_measure itself, which only reads heads. */
#include "props/engine_kit.h"
#include "storage/store/wrap.h"
#include "tools/plan_node.h"
#include "tools/tool.h"

static const struct ckpt_name name = { 1, 1, 1 };
static long cases;

static void add(struct kit_model *m, const char *tensor, unsigned dtype, uint64_t a, uint64_t b)
{
    const uint64_t shape[2] = { a, b };
    kit_model_add(m, tensor, dtype, b ? 2 : a ? 1 : 0, shape);
}

/* A small transformer of about 40 MiB, and a locked tensor; z: can be coded. */
static void make_model(struct kit_model *m)
{
    add(m, "embed_tokens.weight", CKPT_DTYPE_BF16, 3001, 512);
    add(m, "layers.0.q_proj.weight", CKPT_DTYPE_F32, 1024, 1000);
    add(m, "layers.0.o_proj.weight", CKPT_DTYPE_F32, 1000, 1024);
    add(m, "layers.0.norm.weight", CKPT_DTYPE_F32, 1024, 0);
    add(m, "layers.1.q_proj.weight", CKPT_DTYPE_F32, 1024, 1000);
    add(m, "layers.1.o_proj.weight", CKPT_DTYPE_F32, 1000, 1024);
    add(m, "layers.1.norm.weight", CKPT_DTYPE_F32, 1024, 0);
    add(m, "lm_head.weight", CKPT_DTYPE_BF16, 3001, 512);
    add(m, "zoptim.exp_avg.layers.0.q_proj", CKPT_DTYPE_F32, 1024, 1000);
    add(m, "optim.exp_avg.layers.1.q_proj", CKPT_DTYPE_F32, 1024, 1000);
    add(m, "optim.step", CKPT_DTYPE_I64, 0, 0);
    add(m, "locked", CKPT_DTYPE_U8, 999, 0);
    m->tensors[m->count - 1].kind = DECL_LOCKED;
}

static void save(const char *url, uint32_t world, struct save_codec codec)
{
    struct store *s = kit_store(url);
    struct kit_model m = { 0 };
    struct kit_layout l;
    struct kit_save how = { .name = name, .codec = codec };
    struct record_commit commit;
    make_model(&m);
    kit_layout_rows(&l, &m, world);
    kit_save_parts(s, &l, &how);
    CHECK_OK(publish(s, KIT_JOB, &how.name, world, &commit, NULL));
    kit_layout_fini(&l);
    store_close(s);
}

/* Restores the node's ranks for real; what the store was asked for. */
static uint64_t restore(struct store *s, struct reader *r, const struct layout_list *list,
                        const struct plan_node *n, struct store_counts *counts)
{
    struct decl *decls = calloc(n->ranks, sizeof(*decls));
    const struct decl **consumers = calloc(n->ranks, sizeof(const struct decl *));
    void **slots = calloc(n->ranks, sizeof(*slots));
    void **mine = calloc(n->ranks, sizeof(*mine));
    struct load_work *work = load_work_new(CKPT_SLOT_BYTES);
    struct load_stats stats = { 0 };
    struct plan *plan;
    CHECK(decls && consumers && slots && mine && work);
    for (uint32_t i = 0; i < n->ranks; i++) {
        for (size_t t = 0; t < list->count; t++) {
            struct topology_shard shard;
            CHECK_OK(layout_list_declare(list, t, n->first_rank + i, &decls[i], &shard, NULL));
        }
        CHECK_OK(decl_finish(&decls[i], CKPT_SLOT_BYTES, NULL));
        consumers[i] = &decls[i];
        slots[i] = aligned_alloc(CKPT_BLOCK, CKPT_SLOT_BYTES + CKPT_BLOCK);
        CHECK(slots[i]);
    }
    CHECK_OK(plan_new(r, consumers, n->ranks, CKPT_SLOT_BYTES, PLAN_NO_UNASKED, &plan, NULL));
    uint64_t before = counts->get_bytes;
    for (size_t b = 0; b < plan->batch_count; b++) {
        for (uint32_t u = 0; u < plan->batches[b].use_count; u++)
            mine[u] = slots[plan->batches[b].uses[u].consumer];
        CHECK_OK(load_batch(work, &s, 1, KIT_JOB, &name, &plan->batches[b], mine, &stats, NULL));
    }
    CHECK_EQ(stats.retries, 0);
    uint64_t counted = counts->get_bytes - before;
    CHECK_EQ(counted, stats.read_bytes);
    plan_free(plan);
    load_work_free(work);
    for (uint32_t i = 0; i < n->ranks; i++) {
        decl_fini(&decls[i]);
        free(slots[i]);
    }
    free(decls);
    free(consumers);
    free(slots);
    free(mine);
    return counted;
}

static void check_mesh(struct store *s, struct store_counts *counts, const char *mesh,
                       uint32_t node_ranks, bool coded)
{
    struct layout_option option = { .mesh = mesh };
    struct layout_list list;
    struct reader *r;
    uint64_t state = 0, most = 0;
    CHECK_OK(reader_open(&s, 1, KIT_JOB, &name, &r, NULL));
    CHECK_OK(layout_list_init(&list, r, &option, NULL));
    struct plan_spec spec = { .reader = r, .list = &list, .node_ranks = node_ranks };
    uint32_t world = topology_mesh(list.topology)->world;
    for (uint32_t node = 0; node * node_ranks < world; node++) {
        struct plan_node n;
        uint64_t puts = counts->puts;
        CHECK_OK(plan_node(&spec, node, &n, NULL));
        CHECK_EQ(counts->puts, puts);
        uint64_t counted = restore(s, r, &list, &n, counts);
        uint64_t off = counted > n.read_bytes ? counted - n.read_bytes : n.read_bytes - counted;
        if (off * 50 > counted || (n.measured == n.gets && off > 0)) {
            printf("%s, node %u: %llu predicted, %llu counted\n", mesh, node,
                   (unsigned long long)n.read_bytes, (unsigned long long)counted);
            exit(1);
        }
        CHECK(n.need_bytes <= n.raw_bytes && n.need_bytes <= n.state_bytes);
        CHECK(n.state_bytes_most <= n.state_bytes && n.gets >= n.measured && n.gets > 0);
        CHECK(n.state_rank_most >= n.first_rank && n.state_rank_most < n.first_rank + n.ranks);
        CHECK(n.arena_bytes >= n.ranks * 2 * CKPT_SLOT_BYTES);
        CHECK_EQ(plan_node_host_bytes(&n), n.arena_bytes + PLAN_DAEMON_BYTES);
        struct plan_spec half = spec; /* what was not measured is taken for alike */
        struct plan_node guess;
        half.measured_max = (n.gets + 1) / 2;
        CHECK_OK(plan_node(&half, node, &guess, NULL));
        CHECK_EQ(guess.measured, half.measured_max);
        off = counted > guess.read_bytes ? counted - guess.read_bytes : guess.read_bytes - counted;
        CHECK(coded || off * 50 <= counted);
        state += n.state_bytes;
        most = max_u64(most, n.need_bytes);
        cases++;
    }
    CHECK(state >= reader_commit(r)->raw_bytes);
    CHECK(most <= reader_commit(r)->raw_bytes);
    layout_list_fini(&list);
    reader_close(r);
}

static void check_store(const char *url, uint32_t world, struct save_codec codec)
{
    static const struct {
        const char *mesh;
        uint32_t node_ranks;
    } meshes[] = {
        { "dp=1", 1 },        { "tp=2", 2 },        { "tp=3,dp=2,zero=1", 4 },  { "pp=2,tp=2", 1 },
        { "dp=5,zero=3", 2 }, { "dp=7,fsdp=1", 7 }, { "rep=2,dp=3,zero=3", 3 },
    };
    struct store_counts counts = { 0 };
    struct store *s;
    save(url, world, codec);
    CHECK_OK(wrap_count(kit_store(url), &counts, &s, NULL));
    for (size_t i = 0; i < ARRAY_COUNT(meshes); i++)
        check_mesh(s, &counts, meshes[i].mesh, meshes[i].node_ranks, codec.codec != CODEC_STORED);
    store_close(s);
}

/* Contiguous re-splits read what is needed and little more. */
static void test_amplification(const char *url)
{
    struct store *s = kit_store(url);
    struct layout_option option = { .mesh = "dp=2,fsdp=1" };
    struct layout_list list;
    struct plan_node n;
    struct reader *r;
    CHECK_OK(reader_open(&s, 1, KIT_JOB, &name, &r, NULL));
    CHECK_OK(layout_list_init(&list, r, &option, NULL));
    struct plan_spec spec = {
        .reader = r, .list = &list, .node_ranks = 2, .arena_bytes = 100 * MIB
    };
    CHECK_OK(plan_node(&spec, 0, &n, NULL));
    CHECK(n.read_bytes >= n.need_bytes && n.read_bytes * 100 <= n.need_bytes * 105);
    CHECK_EQ(n.arena_bytes, 200 * MIB);
    bool *wanted = calloc(list.count, sizeof(*wanted));
    CHECK(wanted);
    wanted[layout_list_find(&list, "layers.0.norm.weight")] = true;
    spec.wanted = wanted;
    CHECK_OK(plan_node(&spec, 0, &n, NULL));
    CHECK_EQ(n.state_bytes, 4096);
    CHECK_EQ(n.need_bytes, 4096);
    free(wanted);
    layout_list_fini(&list);
    reader_close(r);
    store_close(s);
    cases += 2;
}

/* A locked tensor that a rule cuts is refused; so are other ways to be wrong. */
static void test_refuses(const char *url)
{
    static const struct {
        const char *mesh, *rules, *words;
        enum ckpt_status st;
    } bad[] = {
        { "tp=2", "locked tp:0\n", "locked is locked", CKPT_REFUSED },
        { "tp=2", "nothing tp:0\n", "rules line 1: \"nothing\" matches no tensor", CKPT_INVALID },
        { NULL, "* tp:*\n", "no mesh", CKPT_INVALID },
        { "tp=x", NULL, "not AXIS=SIZE", CKPT_INVALID },
    };
    struct store *s = kit_store(url);
    struct reader *r;
    CHECK_OK(reader_open(&s, 1, KIT_JOB, &name, &r, NULL));
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        struct layout_option option = { .mesh = bad[i].mesh, .path = "rules" };
        struct layout_list list = { 0 };
        struct plan_node n;
        struct ckpt_err err = { 0 };
        option.text = bad[i].rules ? strdup(bad[i].rules) : NULL;
        option.len = bad[i].rules ? strlen(bad[i].rules) : 0;
        enum ckpt_status st = layout_list_init(&list, r, &option, &err);
        struct plan_spec spec = { .reader = r, .list = &list, .node_ranks = 2 };
        if (st == CKPT_OK)
            st = plan_node(&spec, 0, &n, &err);
        CHECK_EQ(st, bad[i].st);
        if (!strstr(err.text, bad[i].words)) {
            printf("%s\n", err.text);
            exit(1);
        }
        layout_list_fini(&list);
        layout_option_fini(&option);
        cases++;
    }
    reader_close(r);
    store_close(s);
}

static void test_options(void)
{
    struct layout_option o = { 0 };
    struct ckpt_err err = { 0 };
    CHECK(!layout_option_given(&o));
    CHECK_OK(layout_option_add(&o, "tp=2,dp=3", NULL));
    CHECK_EQ(layout_option_add(&o, "tp=4", &err), CKPT_INVALID);
    CHECK(strstr(err.text, "two meshes"));
    err = (struct ckpt_err){ 0 };
    CHECK_EQ(layout_option_add(&o, "/nowhere/rules", &err), CKPT_NOT_FOUND);
    CHECK(strstr(err.text, "/nowhere/rules"));
    CHECK_EQ(layout_option_add(&o, "/", NULL), CKPT_INVALID);
    layout_option_fini(&o);
    cases += 4;
}

int main(void)
{
    check_store("mem://plan-stored", 3, (struct save_codec){ CODEC_STORED, 0 });
    check_store("mem://plan-one", 1, (struct save_codec){ CODEC_STORED, 0 });
    check_store("mem://plan-coded", 4, (struct save_codec){ CODEC_ZSTD, 1 });
    test_amplification("mem://plan-stored");
    test_refuses("mem://plan-stored");
    test_options();
    TEST_CASES(cases);
    return 0;
}
