/* What fio answers, and that the fio that is here takes our command lines. */
#include <stdio.h>

#include "tools/bench_fio.h"

#include "check.h"

static long cases;

static double parse(const char *text, enum bench_fio_op op)
{
    cases++;
    return bench_fio_parse(text, strlen(text), op);
}

static void test_parse(void)
{
    static const char good[] =
        "fio: a warning\n{\"jobs\":[{\"error\":0,\"write\":{\"io_bytes\":4000,\"runtime\":2000},"
        "\"read\":{\"io_bytes\":9000,\"runtime\":3000}}]}\nmore";
    CHECK_EQ(parse(good, BENCH_WRITE), 2000);
    CHECK_EQ(parse(good, BENCH_READ), 3000);
    CHECK_EQ(parse("", BENCH_WRITE), 0);
    CHECK_EQ(parse("no json", BENCH_WRITE), 0);
    CHECK_EQ(parse("{", BENCH_WRITE), 0);
    CHECK_EQ(parse("{}", BENCH_WRITE), 0);
    CHECK_EQ(parse("{\"jobs\":{}}", BENCH_WRITE), 0);
    CHECK_EQ(parse("{\"jobs\":[{\"write\":{\"io_bytes\":1,\"runtime\":0}}]}", BENCH_WRITE), 0);
    CHECK_EQ(parse("{\"jobs\":[{\"error\":5,\"write\":{\"io_bytes\":1000,\"runtime\":1}}]}",
                   BENCH_WRITE),
             0);
}

static void test_run(void)
{
    char dir[] = "bench-fio-XXXXXX";
    double rate = 0;
    CHECK(mkdtemp(dir));
    struct bench_fio f = { .dir = dir, .file_bytes = 4 * MIB, .files = 2, .depth = 8 };
    CHECK_OK(bench_fio_run(&f, BENCH_WRITE, &rate, NULL));
    CHECK(rate > 0);
    CHECK_OK(bench_fio_run(&f, BENCH_READ, &rate, NULL));
    CHECK(rate > 0 && strstr(f.line, "--nrfiles=2"));
    for (int i = 0; i < 2; i++) {
        char path[64];
        snprintf(path, sizeof(path), "%s/bench.0.%d", dir, i);
        CHECK_EQ(unlink(path), 0);
    }
    CHECK_EQ(rmdir(dir), 0);
    struct ckpt_err err = { 0 };
    CHECK(bench_fio_run(&f, BENCH_READ, &rate, &err) != CKPT_OK);
    cases += 3;
}

int main(void)
{
    test_parse();
    if (bench_fio_there())
        test_run();
    else
        printf("fio is not installed: its command lines were not tried\n");
    TEST_CASES(cases);
    return 0;
}
