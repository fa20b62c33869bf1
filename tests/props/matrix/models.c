/* See models.h. */
#include "props/matrix/models.h"

#include <stdarg.h>

#include "formats/base.h"

#define NO_DIM CKPT_MAX_DIMS

const char *model_name(enum model_kind kind)
{
    static const char *const names[] = { "Llama 7B",           "Llama 7B fused", "Llama 405B",
                                         "Llama 405B stacked", "Mixtral 8x7B",   "DeepSeek 671B" };
    return names[kind];
}

/* What is said of each tensor; shapes before they are scaled. */
struct say {
    enum topo_role role;
    enum topo_stage stage;
    uint32_t layer, dim, edim, expert, experts;
    uint64_t shape[4]; /* up to the first 0 */
    uint32_t kept;     /* leading dimensions that are not scaled */
    uint32_t group[3]; /* of TOPO_FUSED */
};

static uint64_t scaled(const struct model_list *m, uint64_t n)
{
    return max_u64(n / m->scale, 1);
}

static void add_one(struct model_list *m, const struct topo_tensor *t, const char *prefix,
                    enum topo_cls cls, uint32_t dtype)
{
    if (m->count == m->cap) {
        m->cap = m->cap ? 2 * m->cap : 1024;
        m->tensor = reallocarray(m->tensor, m->cap, sizeof(*m->tensor));
        CHECK(m->tensor);
    }
    struct topo_tensor *to = &m->tensor[m->count++];
    *to = *t;
    to->cls = cls;
    to->dtype = dtype;
    int n = snprintf(to->name, sizeof(to->name), "%s%s", prefix, t->name);
    CHECK(n > 0 && (size_t)n < sizeof(to->name));
}

__attribute__((format(printf, 3, 4))) static void add(struct model_list *m, struct say s,
                                                      const char *format, ...)
{
    struct topo_tensor t = { .role = s.role,
                             .stage = s.stage,
                             .layer = s.layer,
                             .layers = m->layers,
                             .dim = s.dim,
                             .edim = s.edim,
                             .expert = s.expert,
                             .experts = s.experts };
    uint64_t volume = 1;
    va_list args;
    va_start(args, format);
    vsnprintf(t.name, sizeof(t.name), format, args);
    va_end(args);
    for (; t.ndim < 4 && s.shape[t.ndim]; t.ndim++) {
        t.shape[t.ndim] = t.ndim < s.kept ? s.shape[t.ndim] : scaled(m, s.shape[t.ndim]);
        t.unit[t.ndim] = 1;
        volume *= t.shape[t.ndim];
    }
    if (s.role == TOPO_FUSED)
        for (t.shape[0] = 0; t.groups < 3 && s.group[t.groups]; t.groups++) {
            t.group[t.groups] = (uint32_t)scaled(m, s.group[t.groups]);
            t.shape[0] += t.group[t.groups];
        }
    m->parameters += volume;
    add_one(m, &t, "", TOPO_PARAM, CKPT_BF16);
    add_one(m, &t, "master.", TOPO_OPTIM, CKPT_F32);
    add_one(m, &t, "exp_avg.", TOPO_OPTIM, CKPT_F32);
    add_one(m, &t, "exp_avg_sq.", TOPO_OPTIM, CKPT_F32);
}

/* The two ways to cut a matrix by tensor parallelism, and a vector that is not cut. */
#define COLUMN(l, ...)                                                       \
    (struct say)                                                             \
    {                                                                        \
        .role = TOPO_SHARD, .layer = (l), .dim = 0, .shape = { __VA_ARGS__ } \
    }
#define ROW(l, ...)                                                          \
    (struct say)                                                             \
    {                                                                        \
        .role = TOPO_SHARD, .layer = (l), .dim = 1, .shape = { __VA_ARGS__ } \
    }
#define WHOLE(l, ...)                                                             \
    (struct say)                                                                  \
    {                                                                             \
        .role = TOPO_WHOLE, .layer = (l), .dim = NO_DIM, .shape = { __VA_ARGS__ } \
    }

static void add_ends(struct model_list *m, uint64_t vocab, uint64_t hidden)
{
    add(m, (struct say){ .role = TOPO_VOCAB, .stage = TOPO_FIRST, .shape = { vocab, hidden } },
        "model.embed_tokens.weight");
    add(m, (struct say){ .stage = TOPO_LAST, .dim = NO_DIM, .shape = { hidden } },
        "model.norm.weight");
    add(m, (struct say){ .role = TOPO_VOCAB, .stage = TOPO_LAST, .shape = { vocab, hidden } },
        "lm_head.weight");
}

struct llama {
    uint32_t layers, hidden, inner, key, vocab;
};

static void add_attention(struct model_list *m, uint32_t l, const struct llama *c)
{
    add(m, COLUMN(l, c->hidden, c->hidden), "model.layers.%u.self_attn.q_proj.weight", l);
    add(m, COLUMN(l, c->key, c->hidden), "model.layers.%u.self_attn.k_proj.weight", l);
    add(m, COLUMN(l, c->key, c->hidden), "model.layers.%u.self_attn.v_proj.weight", l);
    add(m, ROW(l, c->hidden, c->hidden), "model.layers.%u.self_attn.o_proj.weight", l);
    add(m, WHOLE(l, c->hidden), "model.layers.%u.input_layernorm.weight", l);
    add(m, WHOLE(l, c->hidden), "model.layers.%u.post_attention_layernorm.weight", l);
}

static void add_llama(struct model_list *m, const struct llama *c)
{
    for (uint32_t l = 0; l < c->layers; l++) {
        add_attention(m, l, c);
        add(m, COLUMN(l, c->inner, c->hidden), "model.layers.%u.mlp.gate_proj.weight", l);
        add(m, COLUMN(l, c->inner, c->hidden), "model.layers.%u.mlp.up_proj.weight", l);
        add(m, ROW(l, c->hidden, c->inner), "model.layers.%u.mlp.down_proj.weight", l);
    }
    add_ends(m, c->vocab, c->hidden);
}

static void add_fused(struct model_list *m, const struct llama *c)
{
    for (uint32_t l = 0; l < c->layers; l++) {
        struct say qkv = COLUMN(l, c->hidden + 2 * c->key, c->hidden);
        struct say up = COLUMN(l, 2 * c->inner, c->hidden);
        qkv.role = up.role = TOPO_FUSED;
        qkv.group[0] = c->hidden;
        qkv.group[1] = qkv.group[2] = c->key;
        up.group[0] = up.group[1] = c->inner;
        add(m, qkv, "decoder.layers.%u.self_attention.linear_qkv.weight", l);
        add(m, ROW(l, c->hidden, c->hidden), "decoder.layers.%u.self_attention.linear_proj.weight",
            l);
        add(m, up, "decoder.layers.%u.mlp.linear_fc1.weight", l);
        add(m, ROW(l, c->hidden, c->inner), "decoder.layers.%u.mlp.linear_fc2.weight", l);
        add(m, WHOLE(l, c->hidden), "decoder.layers.%u.input_layernorm.weight", l);
        add(m, WHOLE(l, c->hidden), "decoder.layers.%u.pre_mlp_layernorm.weight", l);
    }
    add_ends(m, c->vocab, c->hidden);
}

/* dim: counted from the layer axis on. */
static void add_stack(struct model_list *m, const char *name, uint32_t dim, uint64_t rows,
                      uint64_t cols)
{
    struct say s = { .role = dim == NO_DIM ? TOPO_WHOLE : TOPO_SHARD,
                     .stage = TOPO_STACK,
                     .dim = dim,
                     .shape = { m->layers, rows, cols },
                     .kept = 1 };
    add(m, s, "decoder.layers.%s", name);
}

static void add_stacked(struct model_list *m, const struct llama *c)
{
    add_stack(m, "attention.q.weight", 1, c->hidden, c->hidden);
    add_stack(m, "attention.k.weight", 1, c->key, c->hidden);
    add_stack(m, "attention.v.weight", 1, c->key, c->hidden);
    add_stack(m, "attention.o.weight", 2, c->hidden, c->hidden);
    add_stack(m, "mlp.gate.weight", 1, c->inner, c->hidden);
    add_stack(m, "mlp.up.weight", 1, c->inner, c->hidden);
    add_stack(m, "mlp.down.weight", 2, c->hidden, c->inner);
    add_stack(m, "norm1.weight", NO_DIM, c->hidden, 0);
    add_stack(m, "norm2.weight", NO_DIM, c->hidden, 0);
    add_ends(m, c->vocab, c->hidden);
}

static void add_mixtral(struct model_list *m, const struct llama *c)
{
    for (uint32_t l = 0; l < c->layers; l++) {
        add_attention(m, l, c);
        struct say gate = WHOLE(l, 8, c->hidden);
        gate.kept = 1;
        add(m, gate, "model.layers.%u.block_sparse_moe.gate.weight", l);
        for (uint32_t e = 0; e < 8; e++) {
            struct say up = COLUMN(l, c->inner, c->hidden), down = ROW(l, c->hidden, c->inner);
            up.role = down.role = TOPO_EXPERT;
            up.expert = down.expert = e;
            up.experts = down.experts = 8;
            add(m, up, "model.layers.%u.block_sparse_moe.experts.%u.w1.weight", l, e);
            add(m, down, "model.layers.%u.block_sparse_moe.experts.%u.w2.weight", l, e);
            add(m, up, "model.layers.%u.block_sparse_moe.experts.%u.w3.weight", l, e);
        }
    }
    add_ends(m, c->vocab, c->hidden);
}

static void add_latent_attention(struct model_list *m, uint32_t l)
{
    add(m, WHOLE(l, 1536, 7168), "model.layers.%u.self_attn.q_a_proj.weight", l);
    add(m, WHOLE(l, 1536), "model.layers.%u.self_attn.q_a_layernorm.weight", l);
    add(m, COLUMN(l, 24576, 1536), "model.layers.%u.self_attn.q_b_proj.weight", l);
    add(m, WHOLE(l, 576, 7168), "model.layers.%u.self_attn.kv_a_proj_with_mqa.weight", l);
    add(m, WHOLE(l, 512), "model.layers.%u.self_attn.kv_a_layernorm.weight", l);
    add(m, COLUMN(l, 32768, 512), "model.layers.%u.self_attn.kv_b_proj.weight", l);
    add(m, ROW(l, 7168, 16384), "model.layers.%u.self_attn.o_proj.weight", l);
    add(m, WHOLE(l, 7168), "model.layers.%u.input_layernorm.weight", l);
    add(m, WHOLE(l, 7168), "model.layers.%u.post_attention_layernorm.weight", l);
}

static void add_gated(struct model_list *m, uint32_t l, const char *what, uint64_t inner)
{
    add(m, COLUMN(l, inner, 7168), "model.layers.%u.mlp.%sgate_proj.weight", l, what);
    add(m, COLUMN(l, inner, 7168), "model.layers.%u.mlp.%sup_proj.weight", l, what);
    add(m, ROW(l, 7168, inner), "model.layers.%u.mlp.%sdown_proj.weight", l, what);
}

static void add_deepseek(struct model_list *m)
{
    for (uint32_t l = 0; l < 61; l++) {
        add_latent_attention(m, l);
        if (l < 3) {
            add_gated(m, l, "", 18432);
            continue;
        }
        struct say gate = WHOLE(l, 256, 7168), bias = WHOLE(l, 256);
        struct say up = { TOPO_EXPERTS, TOPO_LAYER, l, 1, .shape = { 256, 2048, 7168 }, .kept = 1 };
        struct say down = {
            TOPO_EXPERTS, TOPO_LAYER, l, 2, .shape = { 256, 7168, 2048 }, .kept = 1
        };
        gate.kept = bias.kept = 1;
        add(m, gate, "model.layers.%u.mlp.gate.weight", l);
        add(m, bias, "model.layers.%u.mlp.gate.e_score_correction_bias", l);
        add(m, up, "model.layers.%u.mlp.experts.w1", l);
        add(m, down, "model.layers.%u.mlp.experts.w2", l);
        add(m, up, "model.layers.%u.mlp.experts.w3", l);
        add_gated(m, l, "shared_experts.", 2048);
    }
    add_ends(m, 129280, 7168);
}

void model_list_init(struct model_list *m, enum model_kind kind, unsigned scale)
{
    static const struct llama small = { 32, 4096, 11008, 4096, 32000 };
    static const struct llama large = { 126, 16384, 53248, 1024, 128256 };
    static const struct llama mixtral = { 32, 4096, 14336, 1024, 32000 };
    *m = (struct model_list){ .scale = scale };
    switch (kind) {
    case MODEL_LLAMA_7B:
        m->layers = small.layers;
        add_llama(m, &small);
        break;
    case MODEL_LLAMA_7B_FUSED:
        m->layers = small.layers;
        add_fused(m, &small);
        break;
    case MODEL_LLAMA_405B:
        m->layers = large.layers;
        add_llama(m, &large);
        break;
    case MODEL_LLAMA_405B_STACKED:
        m->layers = large.layers;
        add_stacked(m, &large);
        break;
    case MODEL_MIXTRAL_8X7B:
        m->layers = mixtral.layers;
        add_mixtral(m, &mixtral);
        break;
    case MODEL_DEEPSEEK_671B:
        m->layers = 61;
        add_deepseek(m);
        break;
    }
}

void model_list_fini(struct model_list *m)
{
    free(m->tensor);
}
