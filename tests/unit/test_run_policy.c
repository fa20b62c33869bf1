/* When a failed command is started again. */
#include "tools/run_policy.h"

#include "check.h"

static int cases;

static void waits_double_in_vain(void)
{
    struct run_policy p = { .max_restarts = 5, .backoff_s = 1, .backoff_max_s = 6 };
    const double want[] = { 1, 2, 4, 6, 6 };
    double wait;
    for (size_t i = 0; i < ARRAY_COUNT(want); i++) {
        CHECK(run_policy_again(&p, NULL, &wait));
        CHECK(wait == want[i]);
        cases++;
    }
    CHECK(!run_policy_again(&p, NULL, &wait));
    cases++;
}

static void a_checkpoint_starts_anew(void)
{
    struct run_policy p = { .max_restarts = 2, .backoff_s = 3, .backoff_max_s = 100 };
    double wait;
    for (uint64_t i = 0; i < 50; i++) {
        CHECK(run_policy_again(&p, NULL, &wait) && wait == 3);
        CHECK(run_policy_again(&p, NULL, &wait) && wait == 6);
        CHECK(run_policy_again(&p, &i, &wait) && wait == 3);
        cases++;
    }
}

/* What is saved again, or after a step back, is none until it is more than ever before. */
static void only_higher_steps_are_new(void)
{
    struct run_policy p = { .max_restarts = 3, .backoff_s = 1, .backoff_max_s = 100 };
    const uint64_t steps[] = { 100, 100, 90, 101, 100, 101, 99 };
    const double want[] = { 1, 1, 2, 1, 1, 2, 4 };
    double wait;
    for (size_t i = 0; i < ARRAY_COUNT(steps); i++) {
        CHECK(run_policy_again(&p, &steps[i], &wait));
        CHECK(wait == want[i]);
        cases++;
    }
    CHECK(!run_policy_again(&p, &steps[0], &wait));
    cases++;
}

static void none_at_all(void)
{
    struct run_policy p = { .max_restarts = 0, .backoff_s = 0, .backoff_max_s = 0 };
    double wait = 1;
    const uint64_t step = 0;
    CHECK(run_policy_again(&p, &step, &wait) && wait == 0);
    CHECK(!run_policy_again(&p, NULL, &wait));
    cases++;
}

static void backoff_words(void)
{
    static const struct {
        const char *text;
        bool good;
        double first, most;
    } words[] = {
        { "2", true, 2, 60 },      { "0", true, 0, 60 },         { "100", true, 100, 100 },
        { "0.5:4", true, 0.5, 4 }, { "3:3", true, 3, 3 },        { "", false, 0, 0 },
        { "-1", false, 0, 0 },     { "4:3", false, 0, 0 },       { "1:", false, 0, 0 },
        { ":1", false, 0, 0 },     { "1:2:3", false, 0, 0 },     { "1s", false, 0, 0 },
        { "nan", false, 0, 0 },    { "1:inf", false, 0, 0 },     { " 1", false, 0, 0 },
        { "1e9", false, 0, 0 },    { "1:1000000", false, 0, 0 },
    };
    for (size_t i = 0; i < ARRAY_COUNT(words); i++) {
        struct run_policy p = { .backoff_s = 7, .backoff_max_s = 60 };
        CHECK(run_policy_parse_backoff(words[i].text, &p) == words[i].good);
        CHECK(p.backoff_s == (words[i].good ? words[i].first : 7));
        CHECK(p.backoff_max_s == (words[i].good ? words[i].most : 60));
        cases++;
    }
}

int main(void)
{
    waits_double_in_vain();
    a_checkpoint_starts_anew();
    only_higher_steps_are_new();
    none_at_all();
    backoff_words();
    TEST_CASES(cases);
    return 0;
}
