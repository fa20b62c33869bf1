/* The share of each rank in the optimizer state, the reduction over micro-batches, and AdamW that
 * gives the same bits whole or in parts.
 * (It covers train_rank.c and train_main.c too.) */
#include <math.h>
#include <string.h>

#include "tools/examples/train_adamw.h"
#include "tools/examples/train_group.h"

#include "check.h"

/* The ranges of all ranks tile every tensor, and some begin in the middle of a matrix row. */
static int test_ranges(void)
{
    int cases = 0, inside_row = 0;
    struct model *m = model_new((struct model_config){ 64, 256, 8, 4, 1 });
    CHECK(m);
    CHECK(m->param_count * 3 * sizeof(float) >= (size_t)32 << 20);
    for (unsigned world = 1; world <= GROUP_RANKS_MAX; world++) {
        struct group g = { .world = world, .param_count = m->param_count };
        for (size_t i = 0; i < m->tensor_count; i++, cases++) {
            const struct model_tensor *t = &m->tensors[i];
            size_t next = 0;
            for (unsigned rank = 0; rank < world; rank++) {
                struct group_range part = adamw_part_in(group_range_of(&g, rank), t);
                CHECK(part.count == 0 || part.first == next);
                next += part.count;
                if (world == 4 && t->cols && part.count && part.first % t->cols)
                    inside_row++;
            }
            CHECK_EQ(next, t->count);
        }
    }
    CHECK(inside_row > 0);
    model_free(m);
    return cases;
}

/* Micro-batch i holds (i + 1) * 1000 + element; any subset or double counting changes the mean. */
static int test_reduce(void)
{
    enum { PARAMS = 37 };
    struct group g;
    int cases = 0;
    CHECK_EQ(group_init(&g, 5, PARAMS), 0);
    for (size_t i = 0; i < GROUP_MICRO_BATCHES; i++) {
        g.shared->loss[i] = (double)(i * i);
        for (size_t j = 0; j < PARAMS; j++)
            group_gradients(&g, i)[j] = (float)((i + 1) * 1000 + j);
    }
    for (size_t i = 0; i < GROUP_VALID_BATCHES; i++)
        g.shared->valid_loss[i] = (double)i;
    for (unsigned rank = 0; rank < 5; rank++) {
        float out[PARAMS];
        struct group_range range = group_range_of(&g, rank);
        group_reduce(&g, range, out);
        for (size_t j = 0; j < range.count; j++, cases++)
            CHECK(out[j] == 4500.0f + (float)(range.first + j));
    }
    CHECK_EQ(cases, PARAMS);
    CHECK(group_loss(&g) == 17.5);
    CHECK(group_valid_loss(&g) == 7.5);
    group_fini(&g);
    return cases + 2;
}

static const struct model_config tiny = {
    .context = 7, .width = 12, .heads = 3, .blocks = 2, .batch = 1
};

/* Three steps by `world` ranks one after the other. */
static struct model *trained_by(unsigned world, unsigned long long seed)
{
    struct model *m = model_new(tiny);
    CHECK(m);
    model_init(m, 1);
    for (unsigned rank = 0; rank < world; rank++) {
        struct group g = { .world = world, .param_count = m->param_count };
        struct adamw a;
        CHECK(adamw_init(&a, group_range_of(&g, rank)));
        for (uint64_t step = 1; step <= 3; step++) {
            for (size_t i = 0; i < a.range.count; i++) {
                unsigned long long at = seed + step * 1000003 + a.range.first + i;
                a.gradients[i] = (float)(test_rand(&at) >> 40) / 16777216.0f - 0.5f;
            }
            adamw_step(&a, m, step);
        }
        adamw_fini(&a);
    }
    return m;
}

static int test_adamw_in_parts(unsigned long long seed)
{
    int cases = 0;
    struct model *whole = trained_by(1, seed);
    for (unsigned world = 2; world <= GROUP_RANKS_MAX; world++, cases++) {
        struct model *parts = trained_by(world, seed);
        CHECK(memcmp(whole->params, parts->params, whole->param_count * sizeof(float)) == 0);
        model_free(parts);
    }
    model_free(whole);
    return cases;
}

/* After bias correction the first step is the learning rate times the gradient's sign, besides
 * the decay of matrices; a zero gradient leaves a bias where it is. */
static int test_adamw_first_step(void)
{
    struct model *m = model_new(tiny), *before = model_new(tiny);
    struct adamw a;
    int cases = 0;
    CHECK(m && before && adamw_init(&a, (struct group_range){ 0, m->param_count }));
    model_init(m, 1);
    model_init(before, 1);
    for (size_t i = 0; i < m->param_count; i++)
        a.gradients[i] = (float)(i % 3) - 1.0f;
    adamw_step(&a, m, 1);
    for (size_t n = 0; n < m->tensor_count; n++) {
        const struct model_tensor *t = &m->tensors[n];
        for (size_t i = t->first; i < t->first + t->count; i++, cases++) {
            float rate = 6e-4f / 5.0f, kept = t->cols ? 1.0f - 0.1f * rate : 1.0f;
            float want = before->params[i] * kept - rate * a.gradients[i];
            CHECK(fabsf(m->params[i] - want) < 1e-6f);
        }
    }
    adamw_fini(&a);
    model_free(m);
    model_free(before);
    return cases;
}

int main(void)
{
    unsigned long long seed = test_seed(3);
    TEST_CASES(test_ranges() + test_reduce() + test_adamw_in_parts(seed) + test_adamw_first_step());
    return 0;
}
