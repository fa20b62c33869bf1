/* The status table (status.c): fixed numbers and classes; errors (err.c) keep their first cause. */
#include "formats/base.h"

#include "check.h"

static int test_numbers_are_fixed(void)
{
    CHECK_EQ(CKPT_OK, 0);
    CHECK_EQ(CKPT_SUPERSEDED, 11);
    CHECK_EQ(CKPT_CORRUPT, 28);
    CHECK_EQ(CKPT_BUG, 29);
    CHECK(!status_known(30));
    CHECK_EQ(status_class(CKPT_FULL), CKPT_CLASS_STORE);
    CHECK_EQ(status_class((enum ckpt_status)77), CKPT_CLASS_BUG);
    CHECK_STR(status_name(CKPT_NOT_FOUND), "NOT_FOUND");
    return 7;
}

static int test_first_cause_wins(void)
{
    struct ckpt_err err = { 0 };
    CHECK_EQ(err_errno(&err, ENOSPC, "write %s", "a/b"), CKPT_FULL);
    CHECK_EQ(err_set(&err, CKPT_IO, "later"), CKPT_IO);
    CHECK_STR(err.text, "write a/b: No space left on device");
    err_prefix(&err, "save of step %d", 7);
    CHECK_STR(err.text, "save of step 7: write a/b: No space left on device");
    CHECK_EQ(err.status, CKPT_FULL);
    CHECK_EQ(err_set(NULL, CKPT_IO, "nobody listens"), CKPT_IO);
    return 6;
}

int main(void)
{
    TEST_CASES(test_numbers_are_fixed() + test_first_cause_wins());
    return 0;
}
