/* The forward and backward pass of the GPT, written out by hand.
 *
 *     x = token + position
 *     per block:  x = x + proj(attention(qkv(norm1(x))))
 *                 x = x + down(gelu(up(norm2(x))))
 *     logits = norm(x) * token^T
 *
 * The backward pass walks the same lines in reverse.  Names: `d_y` is the gradient of y. */
#include <math.h>
#include <string.h>

#include "tools/examples/train_act.h"
#include "tools/examples/train_math.h"

static size_t token_count(const struct model *m)
{
    return m->config.batch * m->config.context;
}

/* ---- linear layers: y = x W + b with W [in][out] ------------------------------------------- */

struct linear {
    size_t weight, bias; /* where in the array of parameters */
    size_t in, out;
};

static struct linear linear_of(const struct model *m, size_t block, enum block_param weight)
{
    const struct model_tensor *w = &m->tensors[BLOCKS + block * BLOCK_PARAMS + weight];
    return (struct linear){ w->first, param_at_block(m, block, weight + 1), w->rows, w->cols };
}

static void linear_forward(const struct model *m, struct linear l, float *y, const float *x)
{
    size_t tokens = token_count(m);
    math_fill_rows(y, m->params + l.bias, tokens, l.out);
    math_matmul_add(y, l.out, mat_of(x, l.in), mat_of(m->params + l.weight, l.out),
                    (struct mat_size){ tokens, l.out, l.in });
}

/* Writes d_x, adds to the gradients of weight and bias. */
static void linear_backward(const struct model *m, struct linear l, float *grads, float *d_x,
                            const float *d_y, const float *x)
{
    size_t tokens = token_count(m);
    memset(d_x, 0, tokens * l.in * sizeof(float));
    math_matmul_add(d_x, l.in, mat_of(d_y, l.out), mat_transposed(m->params + l.weight, l.out),
                    (struct mat_size){ tokens, l.in, l.out });
    math_matmul_add(grads + l.weight, l.out, mat_transposed(x, l.in), mat_of(d_y, l.out),
                    (struct mat_size){ l.in, l.out, tokens });
    math_add_column_sums(grads + l.bias, d_y, tokens, l.out);
}

static struct norm norm_at(const struct model *m, size_t weight, size_t bias, float *stats)
{
    return (struct norm){ m->params + weight, m->params + bias, stats, token_count(m),
                          m->config.width };
}
static struct norm block_norm(const struct model *m, size_t block, enum block_param weight,
                              float *stats)
{
    return norm_at(m, param_at_block(m, block, weight), param_at_block(m, block, weight + 1),
                   stats);
}
static struct norm final_norm(const struct model *m)
{
    return norm_at(m, param_at_final(m, FINAL_W), param_at_final(m, FINAL_B), m->act->stats);
}

/* ---- attention ----------------------------------------------------------------------------- */

/* One head of one sequence: where its parts begin, all with rows 3 width (or width) apart. */
struct head {
    size_t qkv;     /* offset of the query in qkv and d_qkv; key and value follow at +width */
    size_t mixed;   /* offset of the output */
    size_t weights; /* offset of the attention weights */
    size_t depth;   /* floats of one query */
    float scale;
};

static struct head head_at(const struct model *m, size_t sequence, size_t head)
{
    struct model_config c = m->config;
    size_t depth = c.width / c.heads, row = sequence * c.context;
    return (struct head){ row * 3 * c.width + head * depth, row * c.width + head * depth,
                          (sequence * c.heads + head) * c.context * c.context, depth,
                          1.0f / sqrtf((float)depth) };
}

/* mixed = softmax(query key^T, causal) value */
static void head_forward(const struct model *m, struct block_act *b, struct head h)
{
    size_t width = m->config.width, context = m->config.context, step = 3 * width;
    const float *query = b->qkv + h.qkv, *key = query + width, *value = key + width;
    float *weights = b->weights + h.weights;
    memset(weights, 0, context * context * sizeof(float));
    math_matmul_add(weights, context, mat_of(query, step), mat_transposed(key, step),
                    (struct mat_size){ context, context, h.depth });
    for (size_t i = 0; i < context; i++)
        math_softmax(weights + i * context, i + 1, context, h.scale);
    math_matmul_add(b->mixed + h.mixed, width, mat_of(weights, context), mat_of(value, step),
                    (struct mat_size){ context, h.depth, context });
}

/* d_weights becomes the gradient of the scores before scaling and softmax. */
static void softmax_backward(float *d_weights, const float *weights, size_t context, float scale)
{
    for (size_t i = 0; i < context; i++, d_weights += context, weights += context) {
        float along = math_dot(d_weights, weights, context);
        for (size_t j = 0; j < context; j++)
            d_weights[j] = weights[j] * (d_weights[j] - along) * scale;
    }
}

static void head_backward(const struct model *m, const struct block_act *b, struct head h)
{
    struct model_activations *a = m->act;
    size_t width = m->config.width, context = m->config.context, step = 3 * width;
    const float *query = b->qkv + h.qkv, *key = query + width, *value = key + width;
    const float *weights = b->weights + h.weights, *d_mixed = a->d_mixed + h.mixed;
    float *d_query = a->d_qkv + h.qkv, *d_key = d_query + width, *d_value = d_key + width;
    struct mat_size square = { context, context, h.depth }, tall = { context, h.depth, context };

    memset(a->d_weights, 0, context * context * sizeof(float));
    math_matmul_add(a->d_weights, context, mat_of(d_mixed, width), mat_transposed(value, step),
                    square);
    math_matmul_add(d_value, step, mat_transposed(weights, context), mat_of(d_mixed, width), tall);
    softmax_backward(a->d_weights, weights, context, h.scale);
    math_matmul_add(d_query, step, mat_of(a->d_weights, context), mat_of(key, step), tall);
    math_matmul_add(d_key, step, mat_transposed(a->d_weights, context), mat_of(query, step), tall);
}

static void attention_forward(const struct model *m, struct block_act *b)
{
    memset(b->mixed, 0, token_count(m) * m->config.width * sizeof(float));
    for (size_t i = 0; i < m->config.batch; i++)
        for (size_t head = 0; head < m->config.heads; head++)
            head_forward(m, b, head_at(m, i, head));
}

static void attention_backward(const struct model *m, const struct block_act *b)
{
    memset(m->act->d_qkv, 0, token_count(m) * 3 * m->config.width * sizeof(float));
    for (size_t i = 0; i < m->config.batch; i++)
        for (size_t head = 0; head < m->config.heads; head++)
            head_backward(m, b, head_at(m, i, head));
}

/* ---- blocks -------------------------------------------------------------------------------- */

/* `out` is where the next block (or the final norm) reads its input. */
static void block_forward(const struct model *m, size_t block, float *out)
{
    struct block_act *b = &m->act->block[block];
    size_t x_count = token_count(m) * m->config.width;
    math_norm(b->norm1, b->in, block_norm(m, block, NORM1_W, b->stats1));
    linear_forward(m, linear_of(m, block, QKV_W), b->qkv, b->norm1);
    attention_forward(m, b);
    linear_forward(m, linear_of(m, block, PROJ_W), b->mid, b->mixed);
    math_add(b->mid, b->in, x_count);

    math_norm(b->norm2, b->mid, block_norm(m, block, NORM2_W, b->stats2));
    linear_forward(m, linear_of(m, block, UP_W), b->up, b->norm2);
    math_gelu(b->gelu, b->up, 4 * x_count);
    linear_forward(m, linear_of(m, block, DOWN_W), out, b->gelu);
    math_add(out, b->mid, x_count);
}

/* act->d_x holds the gradient of the block's output on entry, of its input on return. */
static void block_backward(const struct model *m, size_t block, float *grads)
{
    struct model_activations *a = m->act;
    struct block_act *b = &a->block[block];
    linear_backward(m, linear_of(m, block, DOWN_W), grads, a->d_gelu, a->d_x, b->gelu);
    math_gelu_back(a->d_up, a->d_gelu, b->up, token_count(m) * 4 * m->config.width);
    linear_backward(m, linear_of(m, block, UP_W), grads, a->d_norm, a->d_up, b->norm2);
    math_norm_back(a->d_x, grads + param_at_block(m, block, NORM2_W),
                   grads + param_at_block(m, block, NORM2_B), a->d_norm, b->mid,
                   block_norm(m, block, NORM2_W, b->stats2));

    linear_backward(m, linear_of(m, block, PROJ_W), grads, a->d_mixed, a->d_x, b->mixed);
    attention_backward(m, b);
    linear_backward(m, linear_of(m, block, QKV_W), grads, a->d_norm, a->d_qkv, b->norm1);
    math_norm_back(a->d_x, grads + param_at_block(m, block, NORM1_W),
                   grads + param_at_block(m, block, NORM1_B), a->d_norm, b->in,
                   block_norm(m, block, NORM1_W, b->stats1));
}

/* ---- both ends ----------------------------------------------------------------------------- */

static const uint8_t *row_of(const struct model *m, const uint8_t *text, size_t sequence)
{
    return text + sequence * (m->config.context + 1);
}

static void embed(const struct model *m, const uint8_t *text, float *x)
{
    size_t width = m->config.width;
    for (size_t i = 0; i < m->config.batch; i++) {
        for (size_t t = 0; t < m->config.context; t++, x += width) {
            size_t byte = row_of(m, text, i)[t];
            memcpy(x, m->params + param_at(m, TOKEN) + byte * width, width * sizeof(float));
            math_add(x, m->params + param_at(m, POSITION) + t * width, width);
        }
    }
}

static void embed_backward(const struct model *m, const uint8_t *text, float *grads)
{
    size_t width = m->config.width;
    const float *d_x = m->act->d_x;
    for (size_t i = 0; i < m->config.batch; i++) {
        for (size_t t = 0; t < m->config.context; t++, d_x += width) {
            size_t byte = row_of(m, text, i)[t];
            math_add(grads + param_at(m, TOKEN) + byte * width, d_x, width);
            math_add(grads + param_at(m, POSITION) + t * width, d_x, width);
        }
    }
}

/* The probability of every byte after every token, and the mean loss of what came. */
static double predict(const struct model *m, const uint8_t *text)
{
    struct model_activations *a = m->act;
    size_t tokens = token_count(m), context = m->config.context, width = m->config.width;
    double loss = 0.0;
    memset(a->probs, 0, tokens * MODEL_VOCAB * sizeof(float));
    math_matmul_add(a->probs, MODEL_VOCAB, mat_of(a->norm, width),
                    mat_transposed(m->params + param_at(m, TOKEN), width),
                    (struct mat_size){ tokens, MODEL_VOCAB, width });
    for (size_t i = 0; i < tokens; i++) {
        float *probs = a->probs + i * MODEL_VOCAB;
        uint8_t came = row_of(m, text, i / context)[i % context + 1];
        math_softmax(probs, MODEL_VOCAB, MODEL_VOCAB, 1.0f);
        loss -= log((double)probs[came] + 1e-30);
    }
    return loss / (double)tokens;
}

/* From the mean loss to the gradient of the residual stream, in act->d_x. */
static void predict_backward(const struct model *m, const uint8_t *text, float *grads)
{
    struct model_activations *a = m->act;
    size_t tokens = token_count(m), context = m->config.context, width = m->config.width;
    float *d_logits = a->probs; /* softmax minus the truth, in place */
    for (size_t i = 0; i < tokens; i++)
        d_logits[i * MODEL_VOCAB + row_of(m, text, i / context)[i % context + 1]] -= 1.0f;
    for (size_t i = 0; i < tokens * MODEL_VOCAB; i++)
        d_logits[i] /= (float)tokens;

    memset(a->d_norm, 0, tokens * width * sizeof(float));
    math_matmul_add(a->d_norm, width, mat_of(d_logits, MODEL_VOCAB),
                    mat_of(m->params + param_at(m, TOKEN), width),
                    (struct mat_size){ tokens, width, MODEL_VOCAB });
    math_matmul_add(grads + param_at(m, TOKEN), width, mat_transposed(d_logits, MODEL_VOCAB),
                    mat_of(a->norm, width), (struct mat_size){ MODEL_VOCAB, width, tokens });
    memset(a->d_x, 0, tokens * width * sizeof(float));
    math_norm_back(a->d_x, grads + param_at_final(m, FINAL_W), grads + param_at_final(m, FINAL_B),
                   a->d_norm, a->out, final_norm(m));
}

double model_forward(struct model *m, const uint8_t *text)
{
    struct model_activations *a = m->act;
    size_t blocks = m->config.blocks;
    embed(m, text, a->block[0].in);
    for (size_t i = 0; i < blocks; i++)
        block_forward(m, i, i + 1 < blocks ? a->block[i + 1].in : a->out);
    math_norm(a->norm, a->out, final_norm(m));
    return predict(m, text);
}

void model_backward(struct model *m, const uint8_t *text, float *grads)
{
    predict_backward(m, text, grads);
    for (size_t i = m->config.blocks; i-- > 0;)
        block_backward(m, i, grads);
    embed_backward(m, text, grads);
}
