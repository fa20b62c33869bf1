/* The model's memory: names and places of its parameters, room for activations, first values. */
#include "tools/examples/train_model.h"

#include <assert.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/examples/train_act.h"

/* ---- layout -------------------------------------------------------------------------------- */

static void add_tensor(struct model *m, const char *name, size_t rows, size_t cols)
{
    struct model_tensor *t = &m->tensors[m->tensor_count++];
    snprintf(t->name, sizeof(t->name), "%s", name);
    t->rows = rows, t->cols = cols;
    t->first = m->param_count;
    t->count = rows * (cols ? cols : 1);
    m->param_count += t->count;
}

static void add_block_tensors(struct model *m, size_t block)
{
    static const struct {
        const char *name;
        unsigned rows, cols; /* in widths */
    } params[BLOCK_PARAMS] = {
        { "norm1.weight", 1, 0 },  { "norm1.bias", 1, 0 },       { "attn.qkv.weight", 1, 3 },
        { "attn.qkv.bias", 3, 0 }, { "attn.proj.weight", 1, 1 }, { "attn.proj.bias", 1, 0 },
        { "norm2.weight", 1, 0 },  { "norm2.bias", 1, 0 },       { "mlp.up.weight", 1, 4 },
        { "mlp.up.bias", 4, 0 },   { "mlp.down.weight", 4, 1 },  { "mlp.down.bias", 1, 0 },
    };
    size_t width = m->config.width;
    for (size_t i = 0; i < BLOCK_PARAMS; i++) {
        char name[48];
        snprintf(name, sizeof(name), "block.%zu.%s", block, params[i].name);
        add_tensor(m, name, params[i].rows * width, params[i].cols * width);
    }
}

static void add_tensors(struct model *m)
{
    struct model_config c = m->config;
    add_tensor(m, "token.weight", MODEL_VOCAB, c.width);
    add_tensor(m, "position.weight", c.context, c.width);
    for (size_t i = 0; i < c.blocks; i++)
        add_block_tensors(m, i);
    add_tensor(m, "final.weight", c.width, 0);
    add_tensor(m, "final.bias", c.width, 0);
}

/* ---- memory -------------------------------------------------------------------------------- */

/* Gives out the next `count` floats at *top; with memory NULL it only counts. */
static float *take(float *memory, size_t *top, size_t count)
{
    float *got = memory ? memory + *top : NULL;
    *top += count;
    return got;
}

static void lay_out_block(struct block_act *b, float *memory, size_t *top, struct model_config c)
{
    size_t tokens = c.batch * c.context, x = tokens * c.width;
    b->in = take(memory, top, x);
    b->norm1 = take(memory, top, x);
    b->stats1 = take(memory, top, 2 * tokens);
    b->qkv = take(memory, top, 3 * x);
    b->weights = take(memory, top, c.heads * tokens * c.context);
    b->mixed = take(memory, top, x);
    b->mid = take(memory, top, x);
    b->norm2 = take(memory, top, x);
    b->stats2 = take(memory, top, 2 * tokens);
    b->up = take(memory, top, 4 * x);
    b->gelu = take(memory, top, 4 * x);
}

/* Returns how many floats all activations need. */
static size_t lay_out(struct model_activations *a, float *memory, struct model_config c)
{
    size_t tokens = c.batch * c.context, x = tokens * c.width, top = 0;
    for (size_t i = 0; i < c.blocks; i++)
        lay_out_block(&a->block[i], memory, &top, c);
    a->out = take(memory, &top, x);
    a->norm = take(memory, &top, x);
    a->stats = take(memory, &top, 2 * tokens);
    a->probs = take(memory, &top, tokens * MODEL_VOCAB);
    a->d_x = take(memory, &top, x);
    a->d_norm = take(memory, &top, x);
    a->d_mixed = take(memory, &top, x);
    a->d_qkv = take(memory, &top, 3 * x);
    a->d_up = take(memory, &top, 4 * x);
    a->d_gelu = take(memory, &top, 4 * x);
    a->d_weights = take(memory, &top, c.context * c.context);
    return top;
}

static struct model_activations *activations_new(struct model_config c)
{
    struct model_activations *a = calloc(1, sizeof(*a));
    if (!a)
        return NULL;
    a->block = calloc(c.blocks, sizeof(*a->block));
    if (a->block)
        a->memory = calloc(lay_out(a, NULL, c), sizeof(float));
    if (!a->memory) {
        free(a->block);
        free(a);
        return NULL;
    }
    lay_out(a, a->memory, c);
    return a;
}

struct model *model_new(struct model_config config)
{
    assert(config.width % config.heads == 0 && config.width <= 4096);
    struct model *m = calloc(1, sizeof(*m));
    if (!m)
        return NULL;
    m->config = config;
    m->tensors = calloc(BLOCKS + config.blocks * BLOCK_PARAMS + 2, sizeof(*m->tensors));
    m->act = activations_new(config);
    if (m->tensors && m->act) {
        add_tensors(m);
        m->params = calloc(m->param_count, sizeof(float));
    }
    if (!m->params) {
        model_free(m);
        return NULL;
    }
    return m;
}

void model_free(struct model *m)
{
    if (!m)
        return;
    if (m->act) {
        free(m->act->memory);
        free(m->act->block);
    }
    free(m->act);
    free(m->params);
    free(m->tensors);
    free(m);
}

/* About normal: the sum of four uniform numbers, scaled to deviation 1. */
static float random_normal(uint64_t *state)
{
    float total = 0.0f;
    for (int i = 0; i < 4; i++) {
        *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        total += (float)(*state >> 40) / 16777216.0f - 0.5f;
    }
    return total * 1.7320508f;
}

/* Deviation of a matrix's first values; -1 for the others.  What blocks add to the stream starts at
 * nothing, and the embedding, which is also the output head, small. */
static float first_deviation(const struct model *m, size_t index)
{
    size_t in_block = index < BLOCKS ? BLOCK_PARAMS : (index - BLOCKS) % BLOCK_PARAMS;
    if (index == TOKEN)
        return 0.02f;
    if (index == POSITION)
        return 0.005f;
    if (in_block == PROJ_W || in_block == DOWN_W)
        return 0.0f;
    return m->tensors[index].cols ? 0.06f : -1.0f;
}

void model_init(struct model *m, uint64_t seed)
{
    uint64_t state = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    for (size_t i = 0; i < m->tensor_count; i++) {
        const struct model_tensor *t = &m->tensors[i];
        bool is_scale = strcmp(strrchr(t->name, '.'), ".weight") == 0;
        float deviation = first_deviation(m, i), fill = is_scale ? 1.0f : 0.0f;
        for (size_t j = 0; j < t->count; j++)
            m->params[t->first + j] = deviation < 0.0f ? fill : deviation * random_normal(&state);
    }
}
