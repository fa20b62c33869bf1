/* The example trainer's model: every gradient against finite differences, causality, and the product
 * kernel against the schoolbook.
 * (It covers train_pass.c too.) */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tools/examples/train_math.h"
#include "tools/examples/train_model.h"

#include "check.h"

/* Odd sizes on purpose: nothing is a multiple of the product's tiles. */
static const struct model_config tiny = {
    .context = 7, .width = 12, .heads = 3, .blocks = 2, .batch = 2
};
enum { TEXT_BYTES = 2 * (7 + 1) };

static float small_random(unsigned long long *state)
{
    return (float)(test_rand(state) >> 40) / 8388608.0f - 1.0f;
}

/* Larger parameters than model_init gives, so that every path bends the loss visibly. */
static struct model *random_model(unsigned long long *state)
{
    struct model *m = model_new(tiny);
    CHECK(m);
    model_init(m, 1);
    for (size_t i = 0; i < m->param_count; i++)
        m->params[i] += 0.3f * small_random(state);
    return m;
}

static void random_text(unsigned long long *state, uint8_t text[static TEXT_BYTES])
{
    for (size_t i = 0; i < TEXT_BYTES; i++)
        text[i] = (uint8_t)(test_rand(state) % 5 + 'a');
}

/* The slope of the loss along `direction`, by a central difference. */
static double slope(struct model *m, const uint8_t *text, const float *direction, float h)
{
    double side[2];
    float *kept = malloc(m->param_count * sizeof(float));
    CHECK(kept);
    memcpy(kept, m->params, m->param_count * sizeof(float));
    for (int i = 0; i < 2; i++) {
        for (size_t j = 0; j < m->param_count; j++)
            m->params[j] = kept[j] + (i ? h : -h) * direction[j];
        side[i] = model_forward(m, text);
    }
    memcpy(m->params, kept, m->param_count * sizeof(float));
    free(kept);
    return (side[1] - side[0]) / (2.0 * (double)h);
}

/* For each tensor, along random directions inside it: gradient . direction = slope of the loss. */
static int test_gradients(unsigned long long *state)
{
    enum { DIRECTIONS = 3 };
    int cases = 0;
    uint8_t text[TEXT_BYTES];
    random_text(state, text);
    struct model *m = random_model(state);
    float *grads = calloc(m->param_count, sizeof(float));
    float *direction = calloc(m->param_count, sizeof(float));
    CHECK(grads && direction);
    model_forward(m, text);
    model_backward(m, text, grads);
    for (size_t i = 0; i < m->tensor_count; i++) {
        const struct model_tensor *t = &m->tensors[i];
        for (int n = 0; n < DIRECTIONS; n++, cases++) {
            double along = 0.0, size = 0.0;
            memset(direction, 0, m->param_count * sizeof(float));
            for (size_t j = t->first; j < t->first + t->count; j++) {
                direction[j] = small_random(state);
                along += (double)direction[j] * (double)grads[j];
                size += (double)grads[j] * (double)grads[j];
            }
            double measured = slope(m, text, direction, 2e-3f);
            if (fabs(along - measured) > 0.01 * sqrt(size) + 2e-4) {
                fprintf(stderr, "%s: gradient %g, measured %g\n", t->name, along, measured);
                CHECK(!"gradient and finite difference differ");
            }
            CHECK(size > 0.0);
        }
    }
    free(direction);
    free(grads);
    model_free(m);
    return cases;
}

/* Gradients accumulate, and doing the same twice gives the same bits. */
static int test_backward_repeats(unsigned long long *state)
{
    uint8_t text[TEXT_BYTES];
    random_text(state, text);
    struct model *m = random_model(state);
    float *once = calloc(m->param_count, sizeof(float));
    float *again = calloc(m->param_count, sizeof(float));
    CHECK(once && again);
    double loss = model_forward(m, text);
    model_backward(m, text, once);
    CHECK(model_forward(m, text) == loss);
    model_backward(m, text, again);
    CHECK(memcmp(once, again, m->param_count * sizeof(float)) == 0);
    model_forward(m, text);
    model_backward(m, text, again);
    for (size_t i = 0; i < m->param_count; i++)
        CHECK(fabsf(again[i] - 2.0f * once[i]) <= 1e-5f + 1e-5f * fabsf(once[i]));
    free(once);
    free(again);
    model_free(m);
    return 3;
}

/* With all parameters 0 every byte is equally likely. */
static int test_losses(void)
{
    uint8_t text[TEXT_BYTES] = "abcdefgxabcdefg";
    struct model *m = model_new(tiny);
    CHECK(m);
    CHECK(fabs(model_forward(m, text) - log(256.0)) < 1e-5);
    model_free(m);
    return 1;
}

static struct model *with_context(const struct model *like, size_t context)
{
    struct model_config config = like->config;
    config.context = context, config.batch = 1;
    struct model *m = model_new(config);
    CHECK(m);
    for (size_t i = 0; i < m->tensor_count; i++) /* only the positions are fewer */
        memcpy(m->params + m->tensors[i].first, like->params + like->tensors[i].first,
               m->tensors[i].count * sizeof(float));
    return m;
}

/* The loss of k + 1 predictions less that of the first k alone is the loss of the last one; over
 * all bytes that could come last, the probabilities this makes must sum to 1.  They do not if an
 * earlier prediction sees a later byte. */
static int test_no_look_ahead(unsigned long long *state)
{
    int cases = 0;
    uint8_t text[TEXT_BYTES];
    struct model *all = random_model(state);
    random_text(state, text);
    for (size_t k = 1; k < tiny.context; k++, cases++) {
        struct model *first = with_context(all, k), *longer = with_context(all, k + 1);
        double known = (double)k * model_forward(first, text), total = 0.0;
        for (int last = 0; last < MODEL_VOCAB; last++) {
            text[k + 1] = (uint8_t)last;
            total += exp(known - (double)(k + 1) * model_forward(longer, text));
        }
        CHECK(fabs(total - 1.0) < 1e-4);
        model_free(first);
        model_free(longer);
    }
    model_free(all);
    return cases;
}

static double element(struct mat a, size_t i, size_t j)
{
    return (double)a.at[i * a.row_step + j * a.col_step];
}

/* C + A B for random sizes and all four ways to lay out A and B, against plain loops. */
static int test_product(unsigned long long *state)
{
    enum { SIDE_MAX = 300, CASES = 40 };
    size_t floats = (size_t)SIDE_MAX * SIDE_MAX;
    float *a = malloc(floats * sizeof(float)), *b = malloc(floats * sizeof(float));
    float *c = malloc(floats * sizeof(float));
    CHECK(a && b && c);
    for (size_t i = 0; i < floats; i++)
        a[i] = small_random(state), b[i] = small_random(state);
    for (int n = 0; n < CASES; n++) {
        /* Some are larger than the blocks the product works in, in every dimension. */
        size_t max = n % 8 ? 40 : SIDE_MAX, min = n % 8 ? 1 : SIDE_MAX - 30;
        struct mat_size s = { min + test_rand(state) % (max - min + 1),
                              min + test_rand(state) % (max - min + 1),
                              min + test_rand(state) % (max - min + 1) };
        struct mat left = n & 1 ? mat_of(a, SIDE_MAX) : mat_transposed(a, SIDE_MAX);
        struct mat right = n & 2 ? mat_of(b, SIDE_MAX) : mat_transposed(b, SIDE_MAX);
        for (size_t i = 0; i < floats; i++)
            c[i] = (float)(i % 7);
        math_matmul_add(c, SIDE_MAX, left, right, s);
        for (size_t i = 0; i < SIDE_MAX; i++) {
            for (size_t j = 0; j < SIDE_MAX; j++) {
                double want = (double)((i * SIDE_MAX + j) % 7);
                for (size_t k = 0; i < s.rows && j < s.cols && k < s.inner; k++)
                    want += element(left, i, k) * element(right, k, j);
                CHECK(fabs((double)c[i * SIDE_MAX + j] - want) < 1e-3);
            }
        }
    }
    free(a);
    free(b);
    free(c);
    return CASES;
}

/* Softmax against libm, also where exp() would overflow or vanish. */
static int test_softmax(unsigned long long *state)
{
    enum { N = 37, CASES = 200 };
    for (int n = 0; n < CASES; n++) {
        float x[N];
        double want[N], total = 0.0, top = -1e30;
        size_t live = 1 + test_rand(state) % N;
        float spread = n % 3 == 0 ? 300.0f : 4.0f;
        for (size_t i = 0; i < N; i++)
            x[i] = spread * small_random(state);
        for (size_t i = 0; i < live; i++)
            top = fmax(top, (double)x[i]);
        for (size_t i = 0; i < live; i++)
            total += want[i] = exp(0.5 * ((double)x[i] - top));
        math_softmax(x, live, N, 0.5f);
        for (size_t i = 0; i < N; i++)
            CHECK(fabs((double)x[i] - (i < live ? want[i] / total : 0.0)) < 2e-6);
    }
    return CASES;
}

int main(void)
{
    unsigned long long state = test_seed(7);
    int cases = test_gradients(&state) + test_backward_repeats(&state) + test_losses();
    cases += test_no_look_ahead(&state) + test_product(&state) + test_softmax(&state);
    TEST_CASES(cases);
    return 0;
}
