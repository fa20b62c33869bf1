/* Meshes in words against the same layouts by number: what a topology gives a rank of a
 * published model is what model_topology.c says, which oracle.py proves by arithmetic of its
 * own. */
#include "formats/dtype.h"
#include "formats/topology.h"
#include "props/matrix/models.h"

#define LAYOUT(...)                                                                               \
    {                                                                                             \
        .tp = 1, .pp = 1, .vp = 1, .dr = 1, .ds = 1, .ep = 1, .etp = 1, .align = 64, .vpad = 128, \
        .copies = 1, __VA_ARGS__                                                                  \
    }
#define PAD(rows) "*embed_tokens* pad:0=" rows "\n*lm_head* pad:0=" rows "\n"
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Woverride-init"
static const struct same {
    enum model_kind model;
    const char *mesh, *rules;
    struct topo layout;
} sames[] = {
    { MODEL_LLAMA_7B, "dp=6,fsdp=1", NULL, LAYOUT(.ds = 6, .zero = 3) },
    { MODEL_LLAMA_7B, "tp=4,dp=3,pp=2,zero=1", PAD("32256"),
      LAYOUT(.tp = 4, .ds = 3, .pp = 2, .zero = 1, .cut = TOPO_FLAT) },
    { MODEL_LLAMA_7B, "pp=2,tp=2,vpp=4", NULL, LAYOUT(.tp = 2, .pp = 2, .vp = 4, .inner = 1) },
    { MODEL_MIXTRAL_8X7B, "dp=8,etp=1,ep=8", NULL, LAYOUT(.ds = 8, .ep = 8) },
    { MODEL_MIXTRAL_8X7B, "dp=8,etp=2,ep=4", NULL, LAYOUT(.ds = 8, .ep = 4, .etp = 2) },
    { MODEL_MIXTRAL_8X7B, "tp=8,etp=8", PAD("32768"), LAYOUT(.tp = 8, .etp = 8) },
    { MODEL_MIXTRAL_8X7B, "dp=8,etp=1,ep=4,zero=1", NULL,
      LAYOUT(.ds = 8, .ep = 4, .zero = 1, .cut = TOPO_FLAT) },
    { MODEL_MIXTRAL_8X7B, "tp=2,dp=8,pp=2,etp=4,ep=2,zero=1", PAD("32000"),
      LAYOUT(.tp = 2, .ds = 8, .pp = 2, .ep = 2, .etp = 4, .zero = 1, .cut = TOPO_FLAT) },
    { MODEL_MIXTRAL_8X7B, "pp=2,tp=4,dp=4,etp=1,ep=8,zero=3", PAD("32256"),
      LAYOUT(.tp = 4, .ds = 4, .pp = 2, .ep = 8, .inner = 1, .zero = 3, .cut = TOPO_FLAT) },
    { MODEL_MIXTRAL_8X7B, "tp=2,dp=6,etp=3,ep=2,fsdp=1", PAD("32000"),
      LAYOUT(.tp = 2, .ds = 6, .ep = 2, .etp = 3, .zero = 3) },
    { MODEL_DEEPSEEK_671B, "tp=2,dp=8,etp=2,ep=8,zero=1",
      "*experts.w[13] tp:1\n*experts.w2 tp:2\n*q_b_proj* tp:0\n*kv_b_proj* tp:0\n" PAD("129280"),
      LAYOUT(.tp = 2, .ds = 8, .ep = 8, .etp = 2, .zero = 1, .cut = TOPO_FLAT) },
};
#pragma GCC diagnostic pop

static uint64_t compared, apart;

static void check_piece(const struct layout_piece *p, const struct ckpt_piece *want, uint32_t ndim)
{
    CHECK_EQ(p->box.ndim, ndim);
    CHECK_EQ(p->offset_bytes, want->offset_bytes);
    CHECK_EQ(p->replica_count, max_u64(want->replica_count, 1));
    for (uint32_t d = 0; d < ndim; d++) {
        CHECK_EQ(p->box.off[d], want->off[d]);
        CHECK_EQ(p->box.len[d], want->len[d]);
        CHECK_EQ(p->stride[d], want->stride[d]);
    }
    compared++;
}

static void check_rank(const struct topology *t, const struct model_list *m, uint32_t rank,
                       const struct topo_hold *hold)
{
    for (size_t i = 0; i < m->count; i++) {
        struct layout_piece pieces[TOPO_PIECES];
        struct layout_out out = { .piece = pieces, .cap = TOPO_PIECES };
        struct topology_shard shard;
        struct ckpt_err err = { 0 };
        CHECK_OK(topology_pieces(t, i, rank, &out, &shard, &err));
        if (out.count != hold[i].count)
            printf("%s, rank %u: %zu pieces, not %zu\n", m->tensor[i].name, rank, out.count,
                   hold[i].count);
        CHECK_EQ(out.count, hold[i].count);
        apart += out.count == 0;
        for (size_t k = 0; k < out.count; k++)
            check_piece(&pieces[k], &hold[i].piece[k], m->tensor[i].ndim);
    }
}

static void check_same(const struct same *s)
{
    struct model_list m;
    model_list_init(&m, s->model, 1);
    struct topology_tensor *tensors = calloc(m.count, sizeof(*tensors));
    struct topo_hold *hold = calloc(m.count, sizeof(*hold));
    struct topo_memory *memory = calloc(m.count, sizeof(*memory));
    uint64_t *bytes = calloc(2 * m.count, sizeof(*bytes));
    struct topology_source from = { .mesh = s->mesh,
                                    .rules = s->rules,
                                    .rules_len = s->rules ? strlen(s->rules) : 0 };
    struct topology *t = NULL;
    struct ckpt_err err = { 0 };
    CHECK(tensors && hold && memory && bytes);
    for (size_t i = 0; i < m.count; i++) {
        memory[i] = topo_dense(m.tensor[i].ndim);
        tensors[i] = (struct topology_tensor){ .name = m.tensor[i].name,
                                               .dtype = m.tensor[i].dtype,
                                               .ndim = m.tensor[i].ndim,
                                               .shape = m.tensor[i].shape,
                                               .cut_dim = CKPT_DIMS_MAX };
    }
    if (topology_new(&from, tensors, m.count, &t, &err) != CKPT_OK)
        printf("%s: %s\n", s->mesh, err_text(&err));
    CHECK(t);
    CHECK_EQ(topology_mesh(t)->world, topo_world(&s->layout));
    for (uint32_t rank = 0; rank < topo_world(&s->layout); rank++) {
        topo_hold(&s->layout, m.tensor, m.count, memory, rank, hold, bytes);
        check_rank(t, &m, rank, hold);
    }
    printf("%-40s %6u ranks %8zu tensors\n", s->mesh, topology_mesh(t)->world, m.count);
    topology_free(t);
    free(tensors);
    free(hold);
    free(memory);
    free(bytes);
    model_list_fini(&m);
}

int main(void)
{
    for (size_t i = 0; i < ARRAY_COUNT(sames); i++)
        check_same(&sames[i]);
    printf("%llu pieces, %llu times none\n", (unsigned long long)compared,
           (unsigned long long)apart);
    CHECK(compared > 0 && apart > 0);
    TEST_CASES(ARRAY_COUNT(sames));
    return 0;
}
