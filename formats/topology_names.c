/* What the names of parameters say: Llama and other models of Hugging Face, Megatron-LM,
 * GPT-2, mixtures of experts.
 *
 * Words are whole components of a name ("model.layers.3.self_attn.q_proj.weight" has six);
 * a word may itself consist of several ("attention.dense"). */
#include "formats/decl.h"
#include "formats/topology_rules.h"

#define NUMBER_MAX (UINT32_C(1) << 20)

static bool is_border(char c)
{
    return c == 0 || c == '.' || c == '/';
}

/* Where `word` stands as whole components of the name; NULL if nowhere. */
static const char *find_word(const char *name, const char *word)
{
    size_t len = strlen(word);
    for (const char *at = strstr(name, word); at; at = strstr(at + 1, word)) {
        if ((at == name || is_border(at[-1])) && is_border(at[len]))
            return at;
    }
    return NULL;
}

static bool has_any(const char *name, const char *const *words)
{
    for (; *words; words++) {
        if (find_word(name, *words))
            return true;
    }
    return false;
}

/* -- layers and experts -------------------------------------------------- */

/* The number that follows one of the words as a component of its own. */
static struct topology_number number_after(const char *name, const char *const *words)
{
    for (; *words; words++) {
        const char *at = find_word(name, *words);
        size_t len = strlen(*words);
        if (!at || !at[len] || at[len + 1] < '0' || at[len + 1] > '9')
            continue;
        char *end;
        unsigned long number = strtoul(at + len + 1, &end, 10);
        if (is_border(*end) && number < NUMBER_MAX)
            return (struct topology_number){ name, (size_t)(at - name) + len, (uint32_t)number };
    }
    return (struct topology_number){ 0 };
}

struct topology_number topology_layer_of(const char *name)
{
    static const char *const words[] = { "layers", "layer", "h", "blocks", "block", NULL };
    return number_after(name, words);
}

struct topology_number topology_expert_of(const char *name)
{
    static const char *const words[] = { "experts", "local_experts", "expert", NULL };
    return number_after(name, words);
}

/* -- optimizers ---------------------------------------------------------- */

bool topology_is_optimizer(const char *name)
{
    static const char *const words[] = { "optimizer",  "optim",           "adam",       "exp_avg",
                                         "exp_avg_sq", "adamw",           "momentum",   "master",
                                         "fp32_param", "momentum_buffer", "main_param", NULL };
    return has_any(name, words);
}

/* -- tensor parallelism -------------------------------------------------- */

/* What tp does to a matrix [out, in] of that name.  bias: a vector of that name is split. */
static const struct name_rule {
    const char *word;
    int8_t dim;
    uint8_t stride;
    bool bias;
} name_rules[] = {
    /* columns: each rank computes part of the outputs */
    { "q_proj", 0, 1, true },
    { "k_proj", 0, 1, true },
    { "v_proj", 0, 1, true },
    { "qkv_proj", 0, 1, true },
    { "query_key_value", 0, 1, true },
    { "linear_qkv", 0, 1, true },
    { "wq", 0, 1, true },
    { "wk", 0, 1, true },
    { "wv", 0, 1, true },
    { "gate_proj", 0, 1, true },
    { "up_proj", 0, 1, true },
    { "gate_up_proj", 0, 2, true },
    { "w1", 0, 1, true },
    { "w3", 0, 1, true },
    { "linear_fc1", 0, 1, true },
    { "dense_h_to_4h", 0, 1, true },
    { "fc1", 0, 1, true },
    { "fc_in", 0, 1, true },
    /* the vocabulary */
    { "embed_tokens", 0, 1, true },
    { "word_embeddings", 0, 1, true },
    { "tok_embeddings", 0, 1, true },
    { "wte", 0, 1, true },
    { "lm_head", 0, 1, true },
    { "output_layer", 0, 1, true },
    { "embed_out", 0, 1, true },
    /* rows: each rank computes part of the sums */
    { "o_proj", 1, 1, false },
    { "wo", 1, 1, false },
    { "down_proj", 1, 1, false },
    { "w2", 1, 1, false },
    { "linear_proj", 1, 1, false },
    { "linear_fc2", 1, 1, false },
    { "attention.dense", 1, 1, false },
    { "dense_4h_to_h", 1, 1, false },
    { "fc2", 1, 1, false },
    { "fc_out", 1, 1, false },
    { "out_proj", 1, 1, false },
    /* GPT-2 keeps matrices as [in, out] */
    { "c_attn", 1, 3, true },
    { "c_fc", 1, 1, true },
    { "c_proj", 0, 1, false },
    /* never split */
    { "gate", -1, 1, false },
    { "router", -1, 1, false },
};

static struct topology_place shard(int32_t dim, uint32_t stride)
{
    return (struct topology_place){ .how = stride > 1 ? HOW_STRIDE : HOW_SHARD,
                                    .dim = dim,
                                    .number = (int32_t)stride };
}

static struct topology_place guess_tp(const struct topology_tensor *t)
{
    const struct topology_place whole = { .how = HOW_REPLICATE };
    static const char *const experts[] = { "experts", "local_experts", NULL };
    if (t->ndim > 2 && has_any(t->name, experts))
        return whole; /* stacked experts: which dimension is which differs */
    for (size_t i = 0; i < ARRAY_COUNT(name_rules); i++) {
        const struct name_rule *r = &name_rules[i];
        if (!find_word(t->name, r->word))
            continue;
        if (t->ndim == 2 && r->dim >= 0)
            return shard(r->dim, r->stride);
        if (t->ndim == 1 && r->bias)
            return shard(0, r->stride);
        return whole;
    }
    return t->ndim >= 2 && t->cut_dim < t->ndim ? shard((int32_t)t->cut_dim, 1) : whole;
}

/* -- the other axes ------------------------------------------------------ */

static struct topology_place guess_pp(const struct topology_tensor *t)
{
    static const char *const first[] = { "embed_tokens", "word_embeddings",     "tok_embeddings",
                                         "wte",          "position_embeddings", "wpe",
                                         "embedding",    "embeddings",          NULL };
    static const char *const last[] = { "lm_head",    "output_layer",    "embed_out",  "ln_f",
                                        "final_norm", "final_layernorm", "model.norm", NULL };
    if (topology_layer_of(t->name).stem_len > 0)
        return (struct topology_place){ .how = HOW_LAYER };
    if (has_any(t->name, first))
        return (struct topology_place){ .how = HOW_ONLY };
    if (has_any(t->name, last))
        return (struct topology_place){ .how = HOW_ONLY, .number = -1 };
    return (struct topology_place){ .how = HOW_REPLICATE };
}

static struct topology_place guess_ep(const struct topology_tensor *t)
{
    if (topology_expert_of(t->name).stem_len > 0)
        return (struct topology_place){ .how = HOW_EXPERT };
    if (t->ndim > 2 && find_word(t->name, "experts"))
        return shard(0, 1);
    return (struct topology_place){ .how = HOW_REPLICATE };
}

static struct topology_place guess_dp(const struct topology_tensor *t,
                                      const struct topology_mesh *m)
{
    if (m->fsdp && t->ndim > 0)
        return shard(0, 1);
    if (m->zero == 3 || (m->zero > 0 && topology_is_optimizer(t->name)))
        return (struct topology_place){ .how = t->ndim > 0 ? HOW_FLAT : HOW_REPLICATE };
    return (struct topology_place){ .how = HOW_REPLICATE };
}

struct topology_place topology_guess(const struct topology_tensor *t, const struct topology_mesh *m,
                                     enum topology_axis axis)
{
    const struct topology_place whole = { .how = HOW_REPLICATE };
    if (t->object)
        return whole;
    if (axis == TOPOLOGY_PP)
        return guess_pp(t);
    if (axis == TOPOLOGY_EP)
        return t->kind == DECL_ELEMENTWISE || topology_expert_of(t->name).stem_len > 0 ? guess_ep(t)
                                                                                       : whole;
    if (t->kind != DECL_ELEMENTWISE)
        return whole; /* not to be cut anywhere */
    if (axis == TOPOLOGY_TP)
        return guess_tp(t);
    return axis == TOPOLOGY_DP ? guess_dp(t, m) : whole;
}
