/* The words of a retention policy, and its rules at their edges.  (It covers keep_apply.c
 * too; whole policies over whole histories are in test_prune.c.) */
#include <math.h>

#include "storage/repo/keep_policy.h"

#include "check.h"

#define SECOND INT64_C(1000000000)
#define HOUR   (3600 * SECOND)
#define DAY    (24 * HOUR)

static const struct {
    const char *text;
    const char *says; /* NULL: it is good */
} words[] = {
    { "last=1", NULL },
    { "last=18446744073709551615", NULL },
    { "last=3,every=1000,within=36h,hourly=24,daily=7,weekly=4,tag=rel-*,best=loss", NULL },
    { "tag=a,tag=b,best=loss,best=acc:max", NULL },
    { "best=a:b:max:3", NULL },
    { "last=0", "a number" },
    { "last=", "a number" },
    { "last=-1", "a number" },
    { "last= 1", "a number" },
    { "last=1x", "a number" },
    { "last=18446744073709551616", "a number" },
    { "every=0", "steps" },
    { "within=7", "duration" },
    { "within=0s", "duration" },
    { "within=d", "duration" },
    { "within=1y", "duration" },
    { "within=36501d", "duration" },
    { "within=99999999999999999999w", "duration" },
    { "best=", "METRIC" },
    { "best=:max", "METRIC" },
    { "best=:3", "METRIC" },
    { "tag=", "pattern" },
    { "last=1,last=2", "twice" },
    { "daily=1,last=3,daily=1", "twice" },
    { "newest=3", "no rule" },
    { "last", "RULE=VALUE" },
    { "last=3,", NULL },
    { ",last=3", "RULE=VALUE" },
};

static int test_words(void)
{
    char text[512];
    for (size_t i = 0; i < ARRAY_COUNT(words); i++) {
        struct keep_policy p = { 0 }, again = { 0 };
        struct ckpt_err err = { 0 };
        enum ckpt_status st = keep_policy_parse(words[i].text, &p, &err);
        if (st != (words[i].says ? CKPT_INVALID : CKPT_OK) ||
            (words[i].says && !strstr(err.text, words[i].says)))
            fprintf(stderr, "\"%s\": %s\n", words[i].text, err.text);
        CHECK_EQ(st, words[i].says ? CKPT_INVALID : CKPT_OK);
        CHECK(!words[i].says || strstr(err.text, words[i].says));
        if (st != CKPT_OK)
            continue;
        keep_policy_to_text(&p, text, sizeof(text)); /* what is said can be read again */
        CHECK_OK(keep_policy_parse(text, &again, NULL));
        CHECK_EQ(again.count, p.count);
        CHECK(memcmp(again.rules, p.rules, sizeof(p.rules)) == 0);
    }
    struct keep_policy p = { 0 };
    char long_rule[400];
    memset(long_rule, 'x', sizeof(long_rule));
    long_rule[sizeof(long_rule) - 1] = 0;
    CHECK_EQ(keep_policy_parse(long_rule, &p, NULL), CKPT_INVALID);
    memcpy(long_rule, "tag=", 4);
    long_rule[4 + CKPT_JOB_NAME_MAX] = 0;
    CHECK_OK(keep_policy_parse(long_rule, &p, NULL));
    long_rule[4 + CKPT_JOB_NAME_MAX] = 'x';
    long_rule[5 + CKPT_JOB_NAME_MAX] = 0;
    CHECK_EQ(keep_policy_parse(long_rule, &p, NULL), CKPT_INVALID);
    for (size_t i = 1; i < KEEP_RULES_MAX; i++)
        CHECK_OK(keep_policy_add(&p, "tag", "a", NULL));
    CHECK_EQ(keep_policy_add(&p, "tag", "a", NULL), CKPT_LIMIT);
    keep_policy_to_text(&p, text, 10); /* cut, never beyond */
    CHECK(strlen(text) == 9);
    return ARRAY_COUNT(words) + 6;
}

static int test_best_words(void)
{
    static const struct {
        const char *text, *name;
        bool highest;
        uint64_t n;
    } cases[] = {
        { "loss", "loss", false, 1 },
        { "loss:min", "loss", false, 1 },
        { "acc:max", "acc", true, 1 },
        { "acc:max:7", "acc", true, 7 },
        { "loss:2", "loss", false, 2 },
        { "a:b", "a:b", false, 1 },
        { "val:loss:max:2", "val:loss", true, 2 },
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct keep_policy p = { 0 };
        CHECK_OK(keep_policy_add(&p, "best", cases[i].text, NULL));
        CHECK_STR(p.rules[0].name, cases[i].name);
        CHECK_EQ(p.rules[0].highest, cases[i].highest);
        CHECK_EQ(p.rules[0].n, cases[i].n);
        CHECK(keep_policy_needs_metrics(&p));
    }
    struct keep_policy none = { 0 };
    CHECK_OK(keep_policy_parse("last=1,tag=x", &none, NULL));
    CHECK(!keep_policy_needs_metrics(&none));
    return ARRAY_COUNT(cases) + 1;
}

static int test_durations(void)
{
    static const struct {
        const char *text;
        int64_t ns; /* -1: refused */
    } cases[] = {
        { "0s", 0 },
        { "1s", SECOND },
        { "90m", 90 * 60 * SECOND },
        { "36h", 36 * HOUR },
        { "7d", 7 * DAY },
        { "2w", 14 * DAY },
        { "36500d", 36500 * DAY },
        { "36501d", -1 },
        { "", -1 },
        { "s", -1 },
        { "5", -1 },
        { "-5s", -1 },
        { "1.5h", -1 },
        { "5 s", -1 },
        { "00s", -1 },
        { "1ms", -1 },
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        int64_t ns = -1;
        CHECK_EQ(keep_duration_parse(cases[i].text, &ns), cases[i].ns >= 0);
        CHECK_EQ(ns, cases[i].ns);
    }
    return ARRAY_COUNT(cases);
}

/* One rule over checkpoints at the given times; "1" for each that is kept. */
static void apply(const char *rules, int64_t now_ns, const int64_t *times, size_t count,
                  const double *losses, char *ret, char why[KEEP_REASON_MAX])
{
    struct keep_policy p = { 0 };
    struct keep_item items[8] = { 0 };
    struct record_metric metrics[8];
    CHECK(count <= 8);
    for (size_t i = 0; i < count; i++) {
        items[i] = (struct keep_item){ .name = { 1, 100 - i, i }, .counts = true };
        items[i].time_ns = times[i];
        if (!losses)
            continue;
        metrics[i] = (struct record_metric){ "loss", losses[i] };
        items[i].metrics = &metrics[i];
        items[i].metric_count = 1;
    }
    CHECK_OK(keep_policy_parse(rules, &p, NULL));
    CHECK_OK(keep_policy_apply(&p, now_ns, items, count, NULL));
    for (size_t i = 0; i < count; i++) {
        ret[i] = items[i].keep ? '1' : '0';
        CHECK_EQ(items[i].keep, items[i].why[0] != 0);
    }
    ret[count] = 0;
    memcpy(why, items[0].why, KEEP_REASON_MAX);
}

/* Edges of periods: the last moment of one and the first of the next; before 1970. */
static int test_periods(void)
{
    static const int64_t monday = 18 * 7 * DAY - 3 * DAY; /* a Monday, 00:00 */
    const struct {
        const char *rules;
        int64_t times[5];
        const char *kept, *why;
    } cases[] = {
        { "hourly=1", { 2 * HOUR, 2 * HOUR - 1, HOUR, HOUR - 1, 0 }, "10000", "1970-01-01 02" },
        { "hourly=2", { 2 * HOUR, 2 * HOUR - 1, HOUR, HOUR - 1, 0 }, "11000", "1970-01-01 02" },
        { "hourly=3", { 2 * HOUR, 2 * HOUR - 1, HOUR, HOUR - 1, 0 }, "11010", "1970-01-01 02" },
        { "daily=2", { DAY, DAY - 1, 5, 4, -1 }, "11000", "day 1970-01-02" },
        { "daily=3", { DAY, DAY - 1, 5, -1, -DAY }, "11010", "day 1970-01-02" },
        { "weekly=2",
          { monday, monday - 1, monday - 2, monday - 7 * DAY, monday - 7 * DAY - 1 },
          "11000",
          "week of 1970-05-04" },
        { "weekly=3",
          { monday, monday - 1, monday - 2, monday - 7 * DAY, monday - 7 * DAY - 1 },
          "11001",
          "week of 1970-05-04" },
        /* Clocks went back: the latest periods count, whatever the order. */
        { "daily=1", { 0, 5 * DAY, DAY, 2 * DAY, 3 * DAY }, "01000", "" },
        { "within=1d", { 9 * DAY, 8 * DAY, 8 * DAY - 1, 99 * DAY, 0 }, "11010", "within=1d" },
        { "last=2,every=49", { 0, 0, 0, 0, 0 }, "11100", "last=2: number 1" },
    };
    char kept[9], why[KEEP_REASON_MAX];
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        apply(cases[i].rules, 9 * DAY, cases[i].times, 5, NULL, kept, why);
        if (strcmp(kept, cases[i].kept) != 0 || !strstr(why, cases[i].why))
            fprintf(stderr, "case %zu: %s: %s\n", i, cases[i].rules, why);
        CHECK_STR(kept, cases[i].kept);
        CHECK(strstr(why, cases[i].why));
    }
    return ARRAY_COUNT(cases);
}

static int test_best(void)
{
    static const int64_t times[5];
    const struct {
        const char *rules;
        double losses[5];
        const char *kept;
    } cases[] = {
        { "best=loss", { 3, 2, 1, 2, 3 }, "00100" },
        { "best=loss:max:2", { 3, 2, 1, 2, 3 }, "10001" },
        { "best=loss:2", { 2, 2, 2, 2, 2 }, "11000" },
        { "best=loss:9", { NAN, 1, NAN, INFINITY, -INFINITY }, "01011" },
        { "best=loss", { NAN, NAN, NAN, NAN, NAN }, "00000" },
        { "best=loss", { 0.0, -0.0, 1, 1, 1 }, "10000" },
        { "best=other", { 1, 2, 3, 4, 5 }, "00000" },
    };
    char kept[9], why[KEEP_REASON_MAX];
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        apply(cases[i].rules, 0, times, 5, cases[i].losses, kept, why);
        CHECK_STR(kept, cases[i].kept);
    }
    return ARRAY_COUNT(cases);
}

/* Reasons that are too many are cut, not written beyond. */
static int test_reasons(void)
{
    struct keep_policy p = { 0 };
    char tag[CKPT_JOB_NAME_MAX + 1];
    const char *tags[] = { tag };
    struct keep_item item = { .counts = true, .tags = tags, .tag_count = 1 };
    memset(tag, 'a', sizeof(tag) - 1);
    tag[sizeof(tag) - 1] = 0;
    for (size_t i = 0; i < KEEP_RULES_MAX; i++)
        CHECK_OK(keep_policy_add(&p, "tag", "a*", NULL));
    CHECK_OK(keep_policy_apply(&p, 0, &item, 1, NULL));
    CHECK(item.keep && strlen(item.why) == KEEP_REASON_MAX - 1);
    CHECK_OK(keep_policy_apply(&p, 0, &item, 0, NULL));
    return 2;
}

int main(void)
{
    TEST_CASES(test_words() + test_best_words() + test_durations() + test_periods() + test_best() +
               test_reasons());
    return 0;
}
