/* The one map from statuses to exit codes, and suggestions. */
#include "tools/tool.h"

#include "check.h"

static long cases;

/* Fixed: scripts of others depend on these. */
static void test_exit_codes(void)
{
    static const struct {
        enum ckpt_status st;
        int code;
    } table[] = {
        { CKPT_OK, 0 },        { CKPT_CORRUPT, 1 },     { CKPT_COVER, 1 },
        { CKPT_ABORTED, 1 },   { CKPT_CANCELLED, 1 },   { CKPT_INVALID, 2 },
        { CKPT_BAD_NAME, 2 },  { CKPT_LIMIT, 2 },       { CKPT_NO_LAUNCH, 2 },
        { CKPT_NOT_FOUND, 3 }, { CKPT_IO, 4 },          { CKPT_FULL, 4 },
        { CKPT_DENIED, 4 },    { CKPT_UNREACHABLE, 4 }, { CKPT_DAEMON_GONE, 4 },
        { CKPT_TIMEOUT, 4 },   { CKPT_NO_MEMORY, 4 },   { CKPT_UNSUPPORTED, 4 },
        { CKPT_BUG, 4 },       { CKPT_DEVICE, 4 },      { CKPT_CONFLICT, 5 },
        { CKPT_REFUSED, 5 },   { CKPT_VANISHED, 5 },    { CKPT_SUPERSEDED, 5 },
        { CKPT_EXISTS, 5 },    { CKPT_MISMATCH, 5 },    { CKPT_NOT_PLANNED, 5 },
        { CKPT_BUSY, 5 },      { CKPT_WRONG_STATE, 5 }, { CKPT_LAUNCH_REUSED, 5 },
    };
    for (size_t i = 0; i < ARRAY_COUNT(table); i++, cases++)
        CHECK_EQ(tool_exit_code(table[i].st), table[i].code);
    unsigned known = 0;
    while (status_known(known))
        known++;
    CHECK_EQ(known, ARRAY_COUNT(table)); /* a new status needs a line here */
}

static void test_nearest(void)
{
    static const char *const words[] = { "verify", "restore", "show" };
    CHECK_STR(tool_nearest("verrify", words, 3), "verify");
    CHECK_STR(tool_nearest("restor", words, 3), "restore");
    CHECK_STR(tool_nearest("shwo", words, 3), "show");
    CHECK(tool_nearest("xyz123", words, 3) == NULL);
    CHECK(tool_nearest("show", words, 0) == NULL);
    char longest[300];
    memset(longest, 'a', sizeof(longest) - 1);
    longest[sizeof(longest) - 1] = 0;
    tool_nearest(longest, words, 3);
    cases += 6;
}

int main(void)
{
    test_exit_codes();
    test_nearest();
    TEST_CASES(cases);
    return 0;
}
