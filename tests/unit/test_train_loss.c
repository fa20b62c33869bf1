/* The file of losses: what a resume keeps, and that every bit comes back. */
#include <stdio.h>
#include <unistd.h>

#include "tools/examples/train_loss.h"

#include "check.h"

static char path[] = "/tmp/test_train_loss.XXXXXX";

static void put_content(const char *text)
{
    FILE *file = fopen(path, "we");
    CHECK(file);
    fputs(text, file);
    CHECK(fclose(file) == 0);
}

/* What is left of `before` when a run resumes after `step`. */
static void check_kept(const char *before, unsigned step, const char *after)
{
    char left[256] = "";
    put_content(before);
    FILE *file = loss_open(path, step);
    CHECK(file);
    CHECK(fclose(file) == 0);
    file = fopen(path, "re");
    CHECK(file);
    left[fread(left, 1, sizeof(left) - 1, file)] = 0;
    fclose(file);
    CHECK_STR(left, after);
}

static int test_cut(void)
{
    check_kept("", 0, "");
    check_kept("1 0x1p+0\n2 0x1p+1\n", 0, "");
    check_kept("1 0x1p+0\n2 0x1p+1\n", 1, "1 0x1p+0\n");
    check_kept("1 0x1p+0\n2 0x1p+1\n", 2, "1 0x1p+0\n2 0x1p+1\n");
    check_kept("1 0x1p+0\n2 0x1p+1\n", 9, "1 0x1p+0\n2 0x1p+1\n");
    check_kept("1 0x1p+0\n2 0x1", 2, "1 0x1p+0\n"); /* torn */
    check_kept("1 0x1p+0\nnonsense\n2 0x1p+1\n", 2, "1 0x1p+0\n");
    CHECK(!loss_open("/nonexistent/losses", 0));
    return 8;
}

static int test_bits(void)
{
    const double losses[] = { 1.0 / 3.0, 5.545177444479562, 1e-300, 0.0 };
    put_content("");
    FILE *file = loss_open(path, 0);
    CHECK(file);
    for (unsigned i = 0; i < 4; i++)
        CHECK(loss_add(file, i + 1, losses[i]));
    FILE *seen = fopen(path, "re"); /* before the close: lines are out at once */
    CHECK(seen);
    for (unsigned i = 0; i < 4; i++) {
        unsigned step;
        double loss;
        CHECK_EQ(fscanf(seen, "%u %la", &step, &loss), 2);
        CHECK_EQ(step, i + 1);
        CHECK(loss == losses[i]);
    }
    fclose(seen);
    fclose(file);
    return 4;
}

int main(void)
{
    int fd = mkstemp(path);
    CHECK(fd >= 0);
    close(fd);
    int cases = test_cut() + test_bits();
    unlink(path);
    TEST_CASES(cases);
    return 0;
}
