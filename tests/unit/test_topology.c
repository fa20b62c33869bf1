/* Topologies (topology.c, topology_mesh.c, topology_rules.c, topology_names.c).
 *
 * The law: whatever the mesh and the rules, the pieces of all ranks cover each tensor
 * exactly once, replicas folded, a box that R ranks hold is numbered 0..R-1 among them,
 * and the pieces of one rank lie side by side in the array that it is said to have. */
#include "formats/cover.h"
#include "formats/decl.h"
#include "formats/topology.h"

#include "check.h"

#define PIECES_MAX 4096
#define NAMES_MAX  6000

static unsigned long long seed;

static uint64_t below(uint64_t n)
{
    return test_rand(&seed) % n;
}

/* -- lists of tensors ---------------------------------------------------- */

struct list {
    struct topology_tensor tensors[NAMES_MAX];
    char names[NAMES_MAX][96];
    uint64_t shapes[NAMES_MAX][4];
    size_t count;
};
static struct list list;

static struct topology_tensor *add(unsigned dtype, uint64_t a, uint64_t b, uint64_t c,
                                   const char *fmt, ...) CKPT_PRINTF(5, 6);
static struct topology_tensor *add(unsigned dtype, uint64_t a, uint64_t b, uint64_t c,
                                   const char *fmt, ...)
{
    CHECK(list.count < NAMES_MAX);
    size_t i = list.count++;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(list.names[i], sizeof(list.names[i]), fmt, ap);
    va_end(ap);
    list.shapes[i][0] = a, list.shapes[i][1] = b, list.shapes[i][2] = c;
    list.tensors[i] = (struct topology_tensor){ .name = list.names[i],
                                                .dtype = dtype,
                                                .ndim = (a > 0) + (b > 0) + (c > 0),
                                                .shape = list.shapes[i],
                                                .cut_dim = CKPT_DIMS_MAX };
    return &list.tensors[i];
}

struct shape_of {
    uint64_t layers, hidden, ffn, kv, vocabulary, experts;
};

static void add_layer(const struct shape_of *m, const char *in, unsigned dtype, unsigned l)
{
    add(dtype, m->hidden, m->hidden, 0, "%smodel.layers.%u.self_attn.q_proj.weight", in, l);
    add(dtype, m->kv, m->hidden, 0, "%smodel.layers.%u.self_attn.k_proj.weight", in, l);
    add(dtype, m->kv, m->hidden, 0, "%smodel.layers.%u.self_attn.v_proj.weight", in, l);
    add(dtype, m->hidden, m->hidden, 0, "%smodel.layers.%u.self_attn.o_proj.weight", in, l);
    add(dtype, m->hidden, 0, 0, "%smodel.layers.%u.input_layernorm.weight", in, l);
    add(dtype, m->hidden, 0, 0, "%smodel.layers.%u.post_attention_layernorm.weight", in, l);
    for (unsigned e = 0; e < m->experts; e++) {
        add(dtype, m->ffn, m->hidden, 0, "%smodel.layers.%u.mlp.experts.%u.w1.weight", in, l, e);
        add(dtype, m->hidden, m->ffn, 0, "%smodel.layers.%u.mlp.experts.%u.w2.weight", in, l, e);
    }
    if (m->experts)
        add(dtype, m->experts, m->hidden, 0, "%smodel.layers.%u.mlp.gate.weight", in, l);
    if (m->experts)
        return;
    add(dtype, m->ffn, m->hidden, 0, "%smodel.layers.%u.mlp.gate_proj.weight", in, l);
    add(dtype, m->ffn, m->hidden, 0, "%smodel.layers.%u.mlp.up_proj.weight", in, l);
    add(dtype, m->hidden, m->ffn, 0, "%smodel.layers.%u.mlp.down_proj.weight", in, l);
}

/* A transformer with its Adam state, as Hugging Face names it. */
static void add_model(const struct shape_of *m)
{
    static const char *const in[3] = { "", "optimizer.exp_avg.", "optimizer.exp_avg_sq." };
    list.count = 0;
    for (unsigned k = 0; k < 3; k++) {
        unsigned dtype = k ? CKPT_DTYPE_F32 : CKPT_DTYPE_BF16;
        add(dtype, m->vocabulary, m->hidden, 0, "%smodel.embed_tokens.weight", in[k]);
        add(dtype, m->vocabulary, m->hidden, 0, "%slm_head.weight", in[k]);
        add(dtype, m->hidden, 0, 0, "%smodel.norm.weight", in[k]);
        for (unsigned l = 0; l < m->layers; l++)
            add_layer(m, in[k], dtype, l);
    }
    add(CKPT_DTYPE_F32, 0, 0, 0, "optimizer.step");
    add(CKPT_DTYPE_U8, 108, 0, 0, "rng@0")->object = true;
    add(CKPT_DTYPE_U8, 108, 0, 0, "loader")->object = true;
}

/* -- the law ------------------------------------------------------------- */

struct held { /* one piece of one rank */
    struct layout_piece piece;
    uint32_t rank;
};

static int by_box(const void *a, const void *b)
{
    const struct held *x = a, *y = b;
    int order = memcmp(&x->piece.box, &y->piece.box, sizeof(x->piece.box));
    if (order)
        return order;
    return x->piece.replica < y->piece.replica ? -1 : x->piece.replica > y->piece.replica;
}

/* A rank's pieces lie in its array, no two in one place. */
static void check_memory(const struct layout_out *out, const struct topology_shard *s,
                         unsigned bits)
{
    static uint8_t taken[1 << 20];
    uint64_t volume = 1;
    for (uint32_t d = 0; d < s->ndim; d++)
        volume *= s->shape[d];
    if (volume > sizeof(taken))
        return;
    memset(taken, 0, volume);
    for (size_t i = 0; i < out->count; i++) {
        const struct layout_piece *p = &out->piece[i];
        uint64_t at[CKPT_DIMS_MAX] = { 0 };
        for (uint64_t k = 0; k < box_volume(&p->box); k++) {
            uint64_t where = p->offset_bytes * 8 / bits;
            for (uint32_t d = 0; d < p->box.ndim; d++)
                where += at[d] * (uint64_t)p->stride[d];
            CHECK(where < volume && !taken[where]);
            taken[where] = 1;
            for (uint32_t d = p->box.ndim; d-- > 0 && ++at[d] == p->box.len[d];)
                at[d] = 0;
        }
    }
}

static size_t collect(const struct topology *t, size_t tensor, struct held *held, size_t cap)
{
    uint32_t first, lowest = UINT32_MAX;
    static struct layout_piece pieces[PIECES_MAX];
    unsigned bits = dtype_bits(list.tensors[tensor].dtype);
    size_t n = 0;
    for (uint32_t rank = 0; rank < topology_mesh(t)->world; rank++) {
        struct layout_out out = { .piece = pieces, .cap = PIECES_MAX };
        struct topology_shard s;
        CHECK_OK(topology_pieces(t, tensor, rank, &out, &s, NULL));
        CHECK(s.held || out.count == 0);
        lowest = s.held && lowest == UINT32_MAX ? rank : lowest;
        check_memory(&out, &s, bits);
        for (size_t i = 0; i < out.count; i++) {
            CHECK(n < cap);
            held[n++] = (struct held){ pieces[i], rank };
        }
    }
    CHECK(topology_holder(t, tensor, &first));
    CHECK_EQ(first, lowest);
    return n;
}

static void check_tensor(const struct topology *t, size_t tensor)
{
    static struct held held[1 << 16];
    static struct cover_box boxes[1 << 16];
    const struct topology_tensor *x = &list.tensors[tensor];
    size_t n = collect(t, tensor, held, ARRAY_COUNT(held)), unique = 0;
    qsort(held, n, sizeof(*held), by_box);
    for (size_t i = 0; i < n; i++) {
        const struct layout_piece *p = &held[i].piece;
        if (p->replica == 0)
            boxes[unique++] = (struct cover_box){ p->box, held[i].rank };
        else
            CHECK(i > 0 && box_equal(&held[i - 1].piece.box, &p->box) &&
                  held[i - 1].piece.replica + 1 == p->replica);
        if (p->replica + 1 == p->replica_count)
            CHECK(i + 1 == n || !box_equal(&held[i + 1].piece.box, &p->box));
    }
    struct ckpt_err err = { 0 };
    if (cover_check(x->name, x->ndim, x->shape, boxes, unique, &err) != CKPT_OK) {
        char text[256];
        printf("%s: %s\n", topology_to_text(t, tensor, text, sizeof(text)), err_text(&err));
        exit(1);
    }
}

static struct topology *must(const char *mesh, const char *rules)
{
    struct topology_source from = {
        .mesh = mesh, .file = "rules.txt", .rules = rules, .rules_len = rules ? strlen(rules) : 0
    };
    struct topology *t = NULL;
    struct ckpt_err err = { 0 };
    if (topology_new(&from, list.tensors, list.count, &t, &err) != CKPT_OK) {
        printf("%s | %s: %s\n", mesh ? mesh : "-", rules ? rules : "-", err_text(&err));
        exit(1);
    }
    return t;
}

/* Perhaps a mesh of experts over the ranks of a stage. */
static size_t random_fold(char *text, size_t cap, uint64_t stage)
{
    uint64_t etp = 1 + below(6), ep = 1 + below(6);
    while (stage % etp != 0)
        etp--;
    while (stage / etp % ep != 0)
        ep--;
    switch (below(3)) {
    case 0:
        return (size_t)snprintf(text, cap, ",etp=%u", (unsigned)etp);
    case 1:
        return (size_t)snprintf(text, cap, ",etp=%u,ep=%u", (unsigned)etp, (unsigned)ep);
    default:
        return (size_t)snprintf(text, cap, ",ep=%u,etp=%u", (unsigned)ep, (unsigned)etp);
    }
}

static void random_mesh(char *text, size_t cap)
{
    static const char *const axes[] = { "tp", "pp", "dp", "ep", "cp", "rep" };
    unsigned order[6] = { 0, 1, 2, 3, 4, 5 };
    bool fold = below(3) == 0;
    uint64_t world = 1, stages = 1;
    size_t len = 0;
    for (unsigned i = 0; i < 6; i++) {
        unsigned k = i + (unsigned)below(6 - i), swap = order[i];
        order[i] = order[k], order[k] = swap;
        uint64_t size = 1 + below(world > 24 ? 1 : 5);
        bool pipeline = axes[order[i]][0] == 'p';
        if (fold && strcmp(axes[order[i]], "ep") == 0)
            continue;
        world *= size;
        stages *= pipeline ? size : 1;
        if (below(4) || size > 1)
            len += (size_t)snprintf(text + len, cap - len, "%s%s=%u", len ? "," : "",
                                    axes[order[i]], (unsigned)size);
    }
    if (len == 0)
        len = (size_t)snprintf(text, cap, "tp=1");
    if (fold)
        len += random_fold(text + len, cap - len, world / stages);
    switch (below(6)) {
    case 0:
        snprintf(text + len, cap - len, ",fsdp=1");
        break;
    case 1:
    case 2:
    case 3:
        snprintf(text + len, cap - len, ",zero=%u,vpp=%u", 1 + (unsigned)below(3),
                 1 + (unsigned)below(3));
        break;
    default:
        break;
    }
}

static void random_rules(char *text, size_t cap)
{
    static const char *const lines[] = {
        "*q_proj.weight tp:*\n",
        "*q_proj.weight tp:-1 dp:0\n",
        "*gate_proj.weight tp:0/3 dp:flat\n",
        "*lm_head.weight pad:0=64 tp:0\n",
        "*.embed_tokens.weight pad:0=70 dp:flat tp:0\n",
        "*k_proj.weight tp:0[3+0+5] # sections\n",
        "*norm* pp:=0 dp:*\n",
        "  optimizer.exp_avg.* rep:0 cp:flat dp:*\r\n",
        "* ep:*\n",
        "*o_proj* tp:1 cp:1 rep:1 dp:1\n",
    };
    size_t len = (size_t)snprintf(text, cap, "# rules\n\n");
    for (size_t i = 0; i < ARRAY_COUNT(lines); i++) {
        if (below(3) == 0)
            len += (size_t)snprintf(text + len, cap - len, "%s", lines[i]);
    }
}

static long test_law(void)
{
    long n = 0;
    for (int i = 0; i < 400; i++) {
        const struct shape_of m = { 1 + below(7),  6 + below(20),
                                    4 + below(30), 8,
                                    1 + below(60), below(3) ? 0 : 1 + below(5) };
        char mesh[160], rules[1024];
        add_model(&m);
        add(CKPT_DTYPE_F4, 4, 32, 0, "model.layers.0.odd");
        add(CKPT_DTYPE_F32, 3, 5, 7, "model.layers.0.mlp.experts.stacked")->cut_dim = 1;
        add(CKPT_DTYPE_F32, 0, 0, 0, "model.layers.0.scalar");
        random_mesh(mesh, sizeof(mesh));
        random_rules(rules, sizeof(rules));
        struct topology_source from = { mesh, "rules.txt", rules, strlen(rules) };
        struct topology *t;
        struct ckpt_err err = { 0 };
        enum ckpt_status st = topology_new(&from, list.tensors, list.count, &t, &err);
        if (st != CKPT_OK) { /* a rule that names what this model lacks; cp and dp both flat */
            if (!strstr(err.text, "matches no tensor") && !strstr(err.text, "two axes")) {
                printf("%s | %s: %s\n", mesh, rules, err.text);
                exit(1);
            }
            continue;
        }
        for (size_t k = 0; k < list.count; k++) {
            if (strcmp(list.names[k], "rng@0") != 0)
                check_tensor(t, k);
            n++;
        }
        topology_free(t);
    }
    CHECK(n > 4000);
    return n;
}

/* -- known models -------------------------------------------------------- */

/* What the ranks hold adds up to the model, replicas folded; the largest share of a rank. */
static uint64_t add_up(const struct topology *t, uint64_t *ret_most)
{
    static struct layout_piece pieces[PIECES_MAX];
    uint64_t total = 0, most = 0;
    for (uint32_t rank = 0; rank < topology_mesh(t)->world; rank++) {
        uint64_t mine = 0;
        for (size_t i = 0; i < list.count; i++) {
            struct layout_out out = { .piece = pieces, .cap = PIECES_MAX };
            struct topology_shard s;
            CHECK_OK(topology_pieces(t, i, rank, &out, &s, NULL));
            for (size_t k = 0; k < out.count; k++) {
                uint64_t bytes = box_bytes(&pieces[k].box, dtype_bits(list.tensors[i].dtype));
                mine += bytes;
                total += pieces[k].replica == 0 ? bytes : 0;
            }
        }
        most = max_u64(most, mine);
    }
    *ret_most = most;
    return total;
}

static uint64_t model_bytes(void)
{
    uint64_t total = 0;
    for (size_t i = 0; i < list.count; i++) {
        struct box whole = box_whole(list.tensors[i].ndim, list.tensors[i].shape);
        total += box_bytes(&whole, dtype_bits(list.tensors[i].dtype));
    }
    return total;
}

static long test_models(void)
{
    static const struct shape_of dense_7b = { 32, 4096, 11008, 4096, 32000, 0 };
    static const struct shape_of dense_405b = { 126, 16384, 53248, 1024, 128256, 0 };
    static const struct shape_of experts_8x7b = { 32, 4096, 14336, 1024, 32000, 8 };
    static const struct {
        const struct shape_of *model;
        const char *mesh;
    } cases[] = {
        { &dense_7b, "dp=8" },
        { &dense_7b, "dp=8,zero=1" },
        { &dense_7b, "dp=6,zero=3" },
        { &dense_7b, "tp=8" },
        { &dense_7b, "tp=4,dp=4,pp=2,zero=1" },
        { &dense_7b, "pp=5,tp=3" },
        { &dense_7b, "dp=64,fsdp=1" },
        { &dense_405b, "tp=8,pp=16,dp=1" },
        { &dense_405b, "tp=8,pp=7,dp=2,vpp=3,zero=1" },
        { &dense_405b, "tp=16,rep=2,dp=4,fsdp=1" },
        { &experts_8x7b, "tp=2,ep=8,dp=2" },
        { &experts_8x7b, "ep=4,pp=4,dp=2,zero=1" },
        { &experts_8x7b, "tp=4,ep=3,cp=2,dp=2,zero=3" },
        { &experts_8x7b, "tp=4,dp=4,pp=2,etp=1,ep=8,zero=1" },
        { &experts_8x7b, "tp=2,pp=4,cp=2,dp=3,etp=2,ep=3,fsdp=1" },
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        uint64_t most;
        add_model(cases[i].model);
        struct topology *t = must(cases[i].mesh, NULL);
        CHECK_EQ(add_up(t, &most), model_bytes());
        CHECK(most * topology_mesh(t)->world >= model_bytes());
        topology_free(t);
    }
    /* A 7B under ZeRO-1 over 8: all of bf16, an eighth of the state. */
    uint64_t most, parameters = 6738415616;
    add_model(&dense_7b);
    struct topology *t = must("dp=8,zero=1", NULL);
    add_up(t, &most);
    CHECK(most >= parameters * 3 && most < parameters * 3 + (1 << 22));
    topology_free(t);
    return ARRAY_COUNT(cases);
}

/* -- what each name becomes ---------------------------------------------- */

static void holds(const struct topology *t, const char *name, uint32_t rank, const char *want)
{
    struct layout_piece pieces[16];
    struct layout_out out = { .piece = pieces, .cap = 16 };
    struct topology_shard s;
    char text[512] = "-";
    size_t i = 0, len = 0;
    while (i < list.count && strcmp(list.names[i], name) != 0)
        i++;
    CHECK(i < list.count);
    CHECK_OK(topology_pieces(t, i, rank, &out, &s, NULL));
    for (size_t k = 0; k < out.count && len < sizeof(text) - 100; k++) {
        box_to_text(&pieces[k].box, text + len, sizeof(text) - len);
        len += strlen(text + len);
        if (pieces[k].replica_count > 1)
            len += (size_t)snprintf(text + len, sizeof(text) - len, " %u/%u", pieces[k].replica,
                                    pieces[k].replica_count);
    }
    if (!s.held)
        snprintf(text, sizeof(text), "none");
    if (strcmp(text, want) != 0) {
        printf("%s, rank %u: %s, expected %s\n", name, rank, text, want);
        exit(1);
    }
}

static long test_names(void)
{
    static const struct shape_of m = { 8, 16, 24, 8, 20, 0 };
    add_model(&m);
    add(CKPT_DTYPE_F32, 16, 0, 0, "model.layers.3.self_attn.o_proj.bias");
    add(CKPT_DTYPE_F32, 16, 0, 0, "model.layers.3.self_attn.q_proj.bias");
    add(CKPT_DTYPE_F32, 48, 16, 0, "model.layers.3.mlp.gate_up_proj.weight");
    add(CKPT_DTYPE_F32, 4, 6, 0, "unknown")->cut_dim = 1;
    add(CKPT_DTYPE_F32, 8, 6, 5, "model.layers.1.mlp.experts.w1");
    add(CKPT_DTYPE_U8, 8, 0, 0, "quantized.q_proj")->kind = DECL_LOCKED;
    struct topology *t = must("tp=2,pp=2,dp=2,zero=1", NULL);
    holds(t, "model.layers.3.self_attn.q_proj.weight", 1, "[8:16, 0:16] 0/2");
    holds(t, "model.layers.3.self_attn.q_proj.weight", 5, "[8:16, 0:16] 1/2");
    holds(t, "model.layers.3.self_attn.q_proj.weight", 3, "none");
    holds(t, "model.layers.4.self_attn.q_proj.weight", 3, "[8:16, 0:16] 0/2");
    holds(t, "model.layers.3.self_attn.o_proj.weight", 1, "[0:16, 8:16] 0/2");
    holds(t, "model.layers.3.self_attn.o_proj.bias", 1, "[0:16] 2/4");
    holds(t, "model.layers.3.self_attn.q_proj.bias", 1, "[8:16] 0/2");
    holds(t, "model.layers.3.mlp.gate_up_proj.weight", 1, "[12:24, 0:16] 0/2[36:48, 0:16] 0/2");
    holds(t, "model.layers.3.input_layernorm.weight", 0, "[0:16] 0/4");
    holds(t, "model.embed_tokens.weight", 0, "[0:10, 0:16] 0/2");
    holds(t, "model.embed_tokens.weight", 2, "none");
    holds(t, "lm_head.weight", 2, "[0:10, 0:16] 0/2");
    holds(t, "lm_head.weight", 0, "none");
    holds(t, "model.norm.weight", 0, "none");
    holds(t, "unknown", 1, "[0:4, 3:6] 0/4");
    holds(t, "quantized.q_proj", 1, "[0:8] 2/8");
    holds(t, "optimizer.step", 7, "[] 7/8");
    holds(t, "optimizer.exp_avg.model.layers.0.self_attn.q_proj.weight", 4, "[4:8, 0:16]");
    holds(t, "rng@0", 0, "[0:108]");
    holds(t, "rng@0", 1, "none");
    topology_free(t);
    t = must("pp=2,ep=4,vpp=2", NULL); /* stage 0: layers 0 1 4 5 */
    holds(t, "model.layers.5.self_attn.q_proj.weight", 0, "[0:16, 0:16] 0/4");
    holds(t, "model.layers.3.self_attn.q_proj.weight", 0, "none");
    holds(t, "model.layers.1.mlp.experts.w1", 2, "[2:4, 0:6, 0:5]");
    topology_free(t);
    t = must("dp=3,tp=2,fsdp=1", NULL); /* dp runs fastest; FSDP of what tp leaves */
    holds(t, "model.layers.0.self_attn.q_proj.weight", 4, "[11:14, 0:16]");
    holds(t, "model.layers.0.self_attn.o_proj.weight", 2, "[12:16, 0:8]");
    topology_free(t);
    t = must("tp=2,dp=2,zero=3", "*embed_tokens* pad:0=24\nmodel.norm.weight skip\n");
    holds(t, "model.embed_tokens.weight", 1, "[12:18, 0:16]");
    holds(t, "model.embed_tokens.weight", 3, "[18:20, 0:16]"); /* 18..23, padded from 20 */
    holds(t, "model.norm.weight", 0, "none");
    struct topology *first = must("tp=2,dp=2", "*0.self_attn.q_proj* tp:*\n"
                                               "*q_proj.weight tp:1 dp:0\n");
    holds(first, "model.layers.0.self_attn.q_proj.weight", 3, "[8:16, 0:16] 1/2");
    holds(first, "model.layers.1.self_attn.q_proj.weight", 3, "[8:16, 8:16]");
    topology_free(first);
    uint32_t rank;
    size_t norm = 0;
    while (strcmp(list.names[norm], "model.norm.weight") != 0)
        norm++;
    CHECK(!topology_holder(t, norm, &rank));
    topology_free(t);
    return 31;
}

/* -- refusals ------------------------------------------------------------ */

static long test_mesh_refuses(void)
{
    static const struct {
        const char *text, *words;
    } bad[] = {
        { "", "looks like tp=4,pp=2,dp=8" }, { "tp", "not AXIS=SIZE" },
        { "tp=", "not AXIS=SIZE" },          { "tp=2x", "not AXIS=SIZE" },
        { "tp=-2", "not AXIS=SIZE" },        { "tp=99999999999999999999", "not AXIS=SIZE" },
        { "tp=2,,dp=2", "not AXIS=SIZE" },   { "tp=2,", "not AXIS=SIZE" },
        { "tpp=2", "unknown axis \"tpp\"" }, { "tp=2,tp=2", "tp is there twice" },
        { "dp=0", "one rank or more" },      { "tp=1048577", "more than 1048576 ranks" },
        { "tp=2048,dp=1024", "more than" },  { "dp=2,zero=4", "0, 1, 2 or 3" },
        { "dp=2,fsdp=2", "0 or 1" },         { "pp=2,vpp=0", "1 or more" },
        { "fsdp=1,zero=1", "exclude" },      { "dp=4,etp=3", "etp=3 times ep=1 does not divide" },
        { "etp=2,etp=2", "etp is there" },   { "etp=0", "one rank or more" },
        { "pp=8,etp=2", "the 1 ranks" },     { "dp=8,etp=4,ep=4", "etp=4 times ep=4" },
        { "edp=2", "unknown axis" },         { "dp=8,etp=1048576,ep=1048576", "does not divide" },
        { "etp=1048577", "more than" },
    };
    struct topology_mesh m;
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        struct ckpt_err err = { 0 };
        enum ckpt_status st = topology_mesh_parse(bad[i].text, &m, &err);
        CHECK(st == CKPT_INVALID || st == CKPT_LIMIT);
        CHECK(strstr(err.text, bad[i].words));
    }
    uint32_t coord[TOPOLOGY_AXES];
    CHECK_OK(topology_mesh_parse(" dp=3, tp=2 ,pp=4", &m, NULL));
    CHECK_EQ(m.world, 24);
    topology_coords(&m, false, 17, coord);
    CHECK(coord[TOPOLOGY_DP] == 2 && coord[TOPOLOGY_TP] == 1 && coord[TOPOLOGY_PP] == 2);
    return ARRAY_COUNT(bad) + 1;
}

/* With etp the ranks of a stage are experts' by another numbering: etp, ep, and what is left. */
static long test_folded_coords(void)
{
    static const char *const meshes[] = { "tp=4,dp=4,pp=2,etp=1,ep=8", "tp=4,pp=2,dp=4,etp=2,ep=4",
                                          "ep=4,tp=2,cp=2,dp=6,pp=3,etp=3",
                                          "pp=3,rep=2,dp=2,tp=3,etp=6", "etp=1" };
    long n = 0;
    for (size_t i = 0; i < ARRAY_COUNT(meshes); i++) {
        struct topology_mesh m;
        CHECK_OK(topology_mesh_parse(meshes[i], &m, NULL));
        uint32_t q[32] = { 0 }; /* ranks of each stage so far */
        for (uint32_t rank = 0; rank < m.world; rank++, n++) {
            uint32_t c[TOPOLOGY_AXES], d[TOPOLOGY_AXES];
            topology_coords(&m, false, rank, d);
            CHECK_EQ(topology_rank(&m, false, d), rank);
            topology_coords(&m, true, rank, c);
            CHECK_EQ(topology_rank(&m, true, c), rank);
            CHECK_EQ(c[TOPOLOGY_PP], d[TOPOLOGY_PP]);
            uint32_t etp = m.experts.size[TOPOLOGY_TP], ep = m.experts.size[TOPOLOGY_EP];
            uint32_t number = q[c[TOPOLOGY_PP]]++;
            if (meshes[i][0] == 'e' && ep > 1) /* ep first */
                CHECK(c[TOPOLOGY_EP] == number % ep && c[TOPOLOGY_TP] == number / ep % etp);
            else
                CHECK(c[TOPOLOGY_TP] == number % etp && c[TOPOLOGY_EP] == number / etp % ep);
            CHECK_EQ(c[TOPOLOGY_DP], number / (etp * ep));
            CHECK(c[TOPOLOGY_CP] == 0 && c[TOPOLOGY_REP] == 0);
        }
        CHECK(m.folded && m.experts.size[TOPOLOGY_DP] * m.experts.size[TOPOLOGY_TP] *
                                  m.experts.size[TOPOLOGY_EP] * m.experts.size[TOPOLOGY_PP] ==
                              m.world);
    }
    return n;
}

/* What experts hold and what the others do. */
static long test_folded(void)
{
    static const struct shape_of m = { 2, 16, 24, 8, 20, 8 };
    static const char w1[] = "model.layers.0.mlp.experts.3.w1.weight";
    char text[200];
    size_t expert = 0, dense = 0, scale;
    add_model(&m);
    while (strcmp(list.names[expert], "model.layers.1.mlp.experts.7.w2.weight") != 0)
        expert++;
    while (strcmp(list.names[dense], "model.layers.1.self_attn.q_proj.weight") != 0)
        dense++;
    add(CKPT_DTYPE_F32, 8, 6, 5, "model.layers.1.mlp.experts.stacked");
    add(CKPT_DTYPE_F32, 8, 6, 5, "moe");
    scale = list.count;
    add(CKPT_DTYPE_F32, 0, 0, 0, "model.layers.1.mlp.experts.3.scale");
    struct topology *t = must("tp=4,dp=2,pp=2,etp=1,ep=4,zero=1", NULL);
    holds(t, w1, 0, "none"); /* experts 2 and 3 are of ep 1: ranks 1 and 5 of the stage */
    holds(t, w1, 1, "[0:24, 0:16] 0/2");
    holds(t, w1, 5, "[0:24, 0:16] 1/2");
    holds(t, w1, 9, "none"); /* of the other stage */
    holds(t, "optimizer.exp_avg.model.layers.0.mlp.experts.3.w1.weight", 5, "[12:24, 0:16]");
    holds(t, "model.layers.0.self_attn.q_proj.weight", 1, "[4:8, 0:16] 0/2");
    holds(t, "optimizer.exp_avg.model.layers.0.self_attn.q_proj.weight", 5, "[6:8, 0:16]");
    holds(t, "model.layers.0.mlp.gate.weight", 5, "[0:8, 0:16] 3/8");
    holds(t, "model.layers.1.mlp.experts.stacked", 10, "[4:6, 0:6, 0:5] 0/2");
    CHECK(strcmp(topology_to_text(t, expert, text, sizeof(text)),
                 "pp layer 1 of 2, etp dim 1, ep expert 7 of 8, edp copies") == 0);
    CHECK(strcmp(topology_to_text(t, dense, text, sizeof(text)),
                 "tp dim 0, dp copies, pp layer 1 of 2") == 0);
    topology_free(t);
    /* What rules say of ep makes an expert's tensor, or none; tp and dp are its etp and edp. */
    t = must("tp=2,dp=4,etp=4,ep=2", "moe ep:0 tp:-1\n*.stacked ep:*\n*7.w2* dp:=-1\n"
                                     "*experts.3.w1* tp:0[6+18] dp:0\n");
    holds(t, "moe", 6, "[4:8, 0:6, 4:5]");
    holds(t, "moe", 7, "-"); /* five columns over four: 2, 2, 1 and none */
    holds(t, "model.layers.1.mlp.experts.stacked", 6, "[0:8, 0:6, 0:5] 3/8");
    holds(t, "model.layers.1.mlp.experts.7.w2.weight", 6, "[0:16, 12:18]");
    holds(t, w1, 1, "[2:4, 0:16][11:16, 0:16]");
    topology_free(t);
    t = must("tp=2,dp=4,ep=2", "*experts.3.w1* tp:0[6+18] dp:0\n"); /* the same file without */
    holds(t, w1, 1, "[3:6, 0:16]");
    topology_free(t);
    t = must("tp=2,dp=4,etp=2,ep=2,zero=3", "*.scale ep:0\n"); /* a scalar is never cut */
    CHECK(strcmp(topology_to_text(t, scale, text, sizeof(text)), "tp copies, dp copies") == 0);
    topology_free(t);
    return 17;
}

static long test_rules_refuse(void)
{
    static const struct {
        const char *rules, *words;
    } bad[] = {
        { "*q_proj*\n", "rules.txt line 1: a pattern alone says nothing" },
        { "\n\n* tp\n", "line 3: AXIS:PLACE" },
        { "* xp:0\n", "line 1: unknown axis" },
        { "* etp:0\n", "etp is said as tp" },
        { "* tp:0 tp:1\n", "the axis is there twice" },
        { "* tp:\n", "a place is" },
        { "* tp:0x\n", "a place is" },
        { "* tp:16\n", "a place is" },
        { "* tp:0/0\n", "a place is" },
        { "* tp:0/\n", "a place is" },
        { "* tp:0[3+]\n", "a place is" },
        { "* tp:0[3\n", "a place is" },
        { "* tp:0[3]x\n", "a place is" },
        { "* tp:=\n", "a place is" },
        { "* tp:=x\n", "a place is" },
        { "* tp:99999999999999999999\n", "a place is" },
        { "* pad:0\n", "padding is said once" },
        { "* pad:0=0\n", "padding is said once" },
        { "*q_proj* pad:0=30 pad:0=30\n", "padding is said once" },
        { "*q_proj* pad:0=3\n", "larger than the padded size" },
        { "*q_proj* pad:2=30\n", "no such dimension to pad" },
        { "*layernorm* tp:1\n", "line 1: tensor model.layers.0.input_layernorm.weight" },
        { "*q_proj* tp:-3\n", "no such dimension" },
        { "*q_proj* tp:0[3+4]\n", "the sections add up to 7" },
        { "*q_proj* tp:flat dp:flat\n", "two axes cut it flat" },
        { "*embed* pp:layer\n", "no layer's number" },
        { "*q_proj* ep:expert\n", "no expert's number" },
        { "*q_proj* pp:=1\n", "the axis is not that long" },
        { "*q_proj* pp:=-2\n", "the axis is not that long" },
        { "*r_proj* tp:0\n", "line 1: \"*r_proj*\" matches no tensor" },
        { "mesh\n", "one mesh is wanted" },
        { "mesh tp=2\nmesh tp=4\n", "line 2: one mesh" },
        { "mesh tp=2 dp=2\n", "one mesh is wanted" },
    };
    static const struct shape_of m = { 2, 16, 24, 8, 20, 0 };
    add_model(&m);
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        struct topology_source from = { "tp=2,dp=2", "rules.txt", bad[i].rules,
                                        strlen(bad[i].rules) };
        struct topology *t = NULL;
        struct ckpt_err err = { 0 };
        CHECK_EQ(topology_new(&from, list.tensors, list.count, &t, &err), CKPT_INVALID);
        if (!strstr(err.text, bad[i].words)) {
            printf("%s: %s\n", bad[i].rules, err.text);
            exit(1);
        }
    }
    return ARRAY_COUNT(bad);
}

static long test_limits(void)
{
    static char text[TOPOLOGY_FILE_MAX + 2];
    struct topology *t = NULL;
    struct ckpt_err err = { 0 };
    struct topology_source from = { "tp=2", "rules.txt", text, sizeof(text) - 1 };
    list.count = 0;
    add(CKPT_DTYPE_F32, 4, 0, 0, "w");
    memset(text, '\n', sizeof(text));
    CHECK_EQ(topology_new(&from, list.tensors, list.count, &t, &err), CKPT_LIMIT);
    from.rules_len--;
    CHECK_OK(topology_new(&from, list.tensors, list.count, &t, &err));
    topology_free(t);
    err = (struct ckpt_err){ 0 };
    memset(text, 'x', 5000);
    CHECK_EQ(topology_new(&from, list.tensors, list.count, &t, &err), CKPT_LIMIT);
    CHECK(strstr(err.text, "longer than 4096"));
    err = (struct ckpt_err){ 0 };
    memset(text, '\n', 5000);
    text[4] = 0;
    CHECK_EQ(topology_new(&from, list.tensors, list.count, &t, &err), CKPT_INVALID);
    CHECK(strstr(err.text, "line 5: a NUL byte"));
    err = (struct ckpt_err){ 0 };
    for (size_t i = 0; i <= TOPOLOGY_RULES_MAX; i++)
        memcpy(text + 7 * i, "* tp:*\n", 7);
    CHECK_EQ(topology_new(&from, list.tensors, list.count, &t, &err), CKPT_LIMIT);
    CHECK(strstr(err.text, "more than 4096 rules"));
    err = (struct ckpt_err){ 0 };
    from = (struct topology_source){ 0 };
    CHECK_EQ(topology_new(&from, list.tensors, list.count, &t, &err), CKPT_INVALID);
    CHECK(strstr(err.text, "no mesh"));
    err = (struct ckpt_err){ 0 };
    from.rules = "mesh qp=2\n", from.rules_len = 10;
    CHECK_EQ(topology_new(&from, list.tensors, list.count, &t, &err), CKPT_INVALID);
    CHECK(strstr(err.text, "layout line 1: mesh: unknown axis"));
    from.rules = "mesh dp=4\nw dp:0", from.rules_len = 16; /* no newline at the end */
    CHECK_OK(topology_new(&from, list.tensors, list.count, &t, NULL));
    char words[64];
    CHECK_STR(topology_to_text(t, 0, words, sizeof(words)), "dp dim 0");
    CHECK_STR(topology_to_text(t, 0, words, 5), "dp d");
    topology_free(t);
    return 8;
}

int main(void)
{
    seed = test_seed(11);
    TEST_CASES(test_law() + test_models() + test_names() + test_mesh_refuses() +
               test_folded_coords() + test_folded() + test_rules_refuse() + test_limits());
    return 0;
}
