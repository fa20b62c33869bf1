/* The table of numbers: conventions that monitoring relies on. */
#include "formats/meter.h"

#include "check.h"

static long cases;

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

static void check_row(const struct meter *m)
{
    char name[METER_TEXT];
    static const char small[] = "abcdefghijklmnopqrstuvwxyz_";
    CHECK(m->name && m->name[0] != '_' && strspn(m->name, small) == strlen(m->name));
    CHECK(m->scope < METER_SCOPES);
    CHECK(strncmp(meter_prometheus(m, name), "ckpt_", 5) == 0);
    CHECK(strlen(name) < METER_TEXT - 1);
    /* What grows, and nothing else, says so; units are the base ones. */
    CHECK_EQ(ends_with(name, "_total"), m->kind == METER_COUNTER);
    CHECK(!ends_with(m->name, "_total") && !ends_with(m->name, "_count") &&
          !ends_with(m->name, "_sum") && !ends_with(m->name, "_ns") && !ends_with(m->name, "_ms"));
    size_t len = strlen(m->help);
    CHECK(len > 10 && m->help[len - 1] == '.' && !strpbrk(m->help, "\\\n\""));
    cases++;
}

int main(void)
{
    char a[METER_TEXT], b[METER_TEXT];
    for (size_t i = 0; i < METER_COUNT; i++) {
        check_row(&meters[i]);
        CHECK(meter_find(meters[i].scope, meters[i].name) == &meters[i]);
        for (size_t k = 0; k < i; k++)
            CHECK(strcmp(meter_prometheus(&meters[i], a), meter_prometheus(&meters[k], b)) != 0);
    }
    CHECK(!meter_find(METER_NODE, "no_such"));
    CHECK(!meter_find(METER_TIER, "uptime_seconds")); /* it is the node's */
    CHECK_STR(meter_prometheus(&meters[METER_NODE_PACKS], a), "ckpt_packs_total");
    CHECK_STR(meter_prometheus(&meters[METER_TIER_LAG], a), "ckpt_tier_lag");
    CHECK_STR(meter_prometheus(&meters[METER_JOB_STEP], a), "ckpt_job_step");
    CHECK_STR(meter_prometheus(&meters[METER_KEPT_LOST_STEPS], a), "ckpt_job_tier_rpo_steps");
    CHECK_STR(meter_prometheus(&meters[METER_RANK_LEFT], a), "ckpt_rank_left_bytes");
    TEST_CASES(cases);
    return 0;
}
