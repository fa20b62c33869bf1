/* Which checkpoints a policy sends on. */
#include "storage/repo/policy.h"

#include "check.h"

static long cases;

static struct policy parsed(const char *text)
{
    struct policy p;
    struct ckpt_err err = { 0 };
    CHECK_OK(policy_parse(text, &p, &err));
    cases++;
    return p;
}

static void refused(const char *text, const char *words)
{
    struct policy p = { .every_steps = 77 };
    struct ckpt_err err = { 0 };
    CHECK_EQ(policy_parse(text, &p, &err), CKPT_INVALID);
    CHECK(strstr(err.text, words));
    CHECK_EQ(p.every_steps, 77);
    cases++;
}

static bool wants(const char *policy, uint64_t parent, uint64_t step, bool tagged, bool last)
{
    const struct policy p = parsed(policy);
    const struct record_commit c = { .name = { 2, step, 1 },
                                     .has_parent = parent != UINT64_MAX,
                                     .parent = { 2, parent, 1 } };
    return policy_wants(&p, &c, tagged, last);
}

#define NONE UINT64_MAX

int main(void)
{
    CHECK(wants("all", 1, 2, false, false));
    CHECK(wants("tagged,all", 1, 2, false, false));
    CHECK(!wants("none", 1, 2, true, true));
    CHECK(wants("tagged", 1, 2, true, false) && !wants("tagged", 1, 2, false, true));
    CHECK(wants("last", 1, 2, false, true) && !wants("last", 1, 2, true, false));
    CHECK(wants("tagged,last", 1, 2, false, true) && wants("last,tagged", 1, 2, true, false));
    /* The first at or behind each multiple, whatever the distance of saves. */
    uint64_t sent = 0, before = NONE;
    for (uint64_t step = 30; step <= 3000; step += 30) {
        bool go = wants("every=1000", before, step, false, false);
        CHECK_EQ(go, step == 30 || step == 1020 || step == 2010 || step == 3000);
        sent += go;
        before = step;
    }
    CHECK_EQ(sent, 4);
    CHECK(wants("every=1000", 1500, 900, false, false)); /* a parent of another branch */
    CHECK(wants("every=1000,tagged", 1, 2, true, false));
    CHECK(!wants("every=1000,tagged", 1, 2, false, false));
    CHECK(wants("every=1", 1, 2, false, false));
    refused("", "all, none");
    refused("al", "no policy");
    refused("every", "no policy");
    refused("every=", "no policy");
    refused("every=0", "from 1");
    refused("every=x", "from 1");
    refused("every=99999999999999999999", "from 1");
    refused("tagged,", "no policy");
    refused("tagged,,last", "no policy");
    TEST_CASES(cases);
    return 0;
}
