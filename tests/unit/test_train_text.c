/* The example trainer's text: which windows a step reads, the split, the entropy, odd paths. */
#include <math.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/examples/train_text.h"

#include "check.h"

enum { ROW = 33, ROWS = 8, FILE_BYTES = 50000 };

static char dir[] = "/tmp/test_train_text.XXXXXX";

static void write_file(const char *name, char fill, size_t bytes)
{
    char path[256];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    FILE *file = fopen(path, "we");
    CHECK(file);
    for (size_t i = 0; i < bytes; i++)
        fputc(fill ? fill : (int)(i * i / 77 % 251), file);
    CHECK(fclose(file) == 0);
}

/* Files in the order of their names; links and directories do not count. */
static int test_directory(void)
{
    struct text t;
    char path[256];
    write_file("b", 'b', FILE_BYTES);
    CHECK(!text_load(&t, "/nonexistent/text"));
    write_file("short", 's', 10);
    snprintf(path, sizeof(path), "%s/short", dir);
    CHECK(!text_load(&t, path));
    CHECK(unlink(path) == 0);
    write_file("a", 'a', FILE_BYTES);
    snprintf(path, sizeof(path), "%s/c", dir);
    CHECK(symlink("a", path) == 0);
    CHECK(text_load(&t, dir));
    CHECK_EQ(t.train_count + t.valid_count, 2 * FILE_BYTES);
    CHECK_EQ(t.valid_count, 2 * FILE_BYTES / 10);
    CHECK_EQ(t.bytes[FILE_BYTES - 1], 'a');
    CHECK_EQ(t.bytes[FILE_BYTES], 'b');
    CHECK(text_unigram_entropy(&t) == 0.0); /* one letter only */
    t.bytes[t.train_count] = 'x';
    memset(t.bytes + t.train_count, 'y', t.valid_count / 2);
    CHECK(fabs(text_unigram_entropy(&t) - log(2.0)) < 1e-12);
    text_fini(&t);
    return 9;
}

static void read_rows(const struct text *t, uint64_t seed, uint64_t step, size_t first, size_t rows,
                      uint8_t *out)
{
    text_read_train(t, (struct text_rows){ seed, step, first, rows, ROW }, out);
}

/* Rows follow from seed, step and row number alone: the same one by one as at once, others with
 * another seed, step or row; and all of them from the training part. */
static int test_rows(void)
{
    int cases = 0;
    struct text t;
    char path[256];
    uint8_t at_once[ROWS * ROW], single[ROW], other[ROW];
    write_file("mixed", 0, FILE_BYTES);
    snprintf(path, sizeof(path), "%s/mixed", dir);
    CHECK(text_load(&t, path));
    memset(t.bytes + t.train_count, 0xff, t.valid_count); /* a byte the training part lacks */
    for (uint64_t step = 1; step <= 200; step++) {
        read_rows(&t, 5, step, 0, ROWS, at_once);
        CHECK(!memchr(at_once, 0xff, sizeof(at_once)));
        for (size_t i = 0; i < ROWS; i++, cases++) {
            read_rows(&t, 5, step, i, 1, single);
            CHECK(memcmp(single, at_once + i * ROW, ROW) == 0);
            read_rows(&t, 5, step + 1, i, 1, other);
            CHECK(memcmp(single, other, ROW) != 0);
            read_rows(&t, 6, step, i, 1, other);
            CHECK(memcmp(single, other, ROW) != 0);
            CHECK(i == 0 || memcmp(single, at_once, ROW) != 0);
        }
    }
    for (size_t i = 0; i < 32; i++, cases++) {
        text_read_valid(&t, i, 32, ROW, single);
        CHECK(memchr(single, 0xff, 1) && single[ROW - 1] == 0xff);
    }
    text_fini(&t);
    return cases;
}

int main(void)
{
    CHECK(mkdtemp(dir));
    int cases = test_directory() + test_rows();
    for (const char *const *name = (const char *const[]){ "a", "b", "c", "mixed", NULL }; *name;
         name++) {
        char path[256];
        snprintf(path, sizeof(path), "%s/%s", dir, *name);
        unlink(path);
    }
    rmdir(dir);
    TEST_CASES(cases);
    return 0;
}
