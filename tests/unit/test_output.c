/* What people read: sizes, ages, tables, progress. */
#include "tools/output.h"

#include "check.h"

static long cases;

static void test_bytes(void)
{
    static const struct {
        uint64_t bytes;
        const char *want;
    } table[] = {
        { 0, "0 B" },
        { 999, "999 B" },
        { 1000, "0.98 KiB" },
        { 1024, "1.00 KiB" },
        { 10 * KIB, "10.0 KiB" },
        { 100 * KIB, "100 KiB" },
        { 1023 * KIB, "1.00 MiB" },
        { MIB, "1.00 MiB" },
        { 1536 * MIB, "1.50 GiB" },
        { UINT64_MAX, "16.0 EiB" },
        { 10234, "9.99 KiB" },
        { 10239, "10.0 KiB" },
    };
    char text[OUTPUT_TEXT];
    for (size_t i = 0; i < ARRAY_COUNT(table); i++, cases++)
        CHECK_STR(output_bytes(table[i].bytes, text), table[i].want);
    CHECK_STR(output_rate(GIB, 2, text), "512 MiB/s");
    CHECK_STR(output_rate(GIB, 0, text), "-");
    CHECK_STR(output_rate(UINT64_MAX, 1e-9, text), "-");
    cases += 3;
}

static void test_counts(void)
{
    char text[OUTPUT_TEXT];
    CHECK_STR(output_count(0, "unfinished save", text), "0 unfinished saves");
    CHECK_STR(output_count(1, "unfinished save", text), "1 unfinished save");
    CHECK_STR(output_count(2, "unfinished save", text), "2 unfinished saves");
    cases += 3;
}

static void test_times(void)
{
    static const struct {
        double seconds;
        const char *want;
    } table[] = {
        { -1, "0 ms" },
        { 0.0004, "0 ms" },
        { 0.85, "850 ms" },
        { 0.9996, "1.0 s" },
        { 12.34, "12.3 s" },
        { 59.96, "1 min 00 s" },
        { 245, "4 min 05 s" },
        { 3599.6, "1 h 00 min" },
        { 11520, "3 h 12 min" },
        { 86399, "23 h 59 min" },
        { 86400 * 5 + 7200, "5 d 2 h" },
    };
    char text[OUTPUT_TEXT];
    for (size_t i = 0; i < ARRAY_COUNT(table); i++, cases++)
        CHECK_STR(output_seconds(table[i].seconds, text), table[i].want);
    const int64_t s = 1000000000, now = 2000000 * s;
    CHECK_STR(output_age(0, now, text), "-");
    CHECK_STR(output_age(now, now, text), "0 s ago");
    CHECK_STR(output_age(now + 3 * s, now, text), "in 3 s");
    CHECK_STR(output_age(now - 59 * s, now, text), "59 s ago");
    CHECK_STR(output_age(now - 60 * s, now, text), "1 min ago");
    CHECK_STR(output_age(now - 3600 * s, now, text), "1 h ago");
    CHECK_STR(output_age(now - 47 * 3600 * s, now, text), "47 h ago");
    CHECK_STR(output_age(now - 49 * 3600 * s, now, text), "2 d ago");
    CHECK_STR(output_time(1789 * s + 123456789, text), "1970-01-01T00:29:49.123Z");
    CHECK_STR(output_time(-1, text), "1969-12-31T23:59:59.999Z");
    cases += 10;
}

static void test_parse(void)
{
    uint64_t n = 7;
    CHECK(output_parse_bytes("4G", &n) && n == 4 * GIB);
    CHECK(output_parse_bytes("64MiB", &n) && n == 64 * MIB);
    CHECK(output_parse_bytes("512k", &n) && n == 512 * KIB);
    CHECK(output_parse_bytes("2TB", &n) && n == 2 * TIB);
    CHECK(output_parse_bytes("1000", &n) && n == 1000);
    static const char *const bad[] = {
        "", "G", "-1", " 1", "1x", "1Gx", "4GiBx", "1.5G", "99999999999999999999", "20000000P", "+1"
    };
    n = 7;
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++, cases++)
        CHECK(!output_parse_bytes(bad[i], &n) && n == 7);
    CHECK(output_parse_u64("18446744073709551615", &n) && n == UINT64_MAX);
    CHECK(!output_parse_u64("18446744073709551616", &n));
    CHECK(!output_parse_u64("1 ", &n) && !output_parse_u64("", &n) && !output_parse_u64("-1", &n));
    CHECK(!output_parse_u64("0x10", &n));
    cases += 11;
}

/* What was printed to a file, as text. */
static char *text_of(FILE *f, char *buf, size_t cap)
{
    rewind(f);
    buf[fread(buf, 1, cap - 1, f)] = 0;
    fclose(f);
    return buf;
}

static void test_table(void)
{
    static const struct output_column columns[] = { { "NAME", OUTPUT_LEFT },
                                                    { "N", OUTPUT_RIGHT },
                                                    { "REST", OUTPUT_LEFT } };
    struct output_table t;
    char buf[1024];
    output_table_init(&t, columns, 3);
    output_row(&t, OUTPUT_PLAIN);
    output_cell(&t, 0, "a");
    output_cell(&t, 1, "%d", 12345);
    output_cell(&t, 2, "first");
    output_cell(&t, 2, "x\033[31m\n%s", "y"); /* replaces; cannot drive the terminal */
    output_row(&t, OUTPUT_BAD);
    output_cell(&t, 0, "lä\xc3\xa4nger");
    FILE *f = tmpfile();
    CHECK_OK(output_table_print(&t, f, NULL));
    CHECK_STR(text_of(f, buf, sizeof(buf)), "NAME         N  REST\n"
                                            "a        12345  x?[31m?y\n"
                                            "lä\xc3\xa4nger\n");
    output_table_fini(&t);
    /* More rows than the first allocation. */
    output_table_init(&t, columns, 3);
    for (int i = 0; i < 1000; i++) {
        output_row(&t, OUTPUT_PLAIN);
        output_cell(&t, 0, "%d", i);
    }
    CHECK_EQ(t.row_count, 1000);
    CHECK_STR(t.cells[999 * 3], "999");
    output_table_fini(&t);
    cases += 3;
}

/* One line, whatever the arguments hold and however long they are. */
static void test_line(void)
{
    static char big[100000], out[sizeof(big) + 64];
    FILE *to = tmpfile();
    output_line(to, "%s has %d \"%s\"", "a\nb", 3, "\xc2\x9b\x9b\u202e\xe2\x82");
    CHECK_STR(text_of(to, out, sizeof(out)), "a?b has 3 \"?????\"\n");
    memset(big, 'x', sizeof(big) - 1);
    big[sizeof(big) - 2] = '\x1b';
    to = tmpfile();
    output_line(to, "%s|", big);
    text_of(to, out, sizeof(out));
    CHECK_EQ(strlen(out), sizeof(big) + 1);
    CHECK_STR(out + sizeof(big) - 4, "xx?|\n");
    cases += 3;
}

static void test_progress(void)
{
    char buf[2048];
    struct output_progress p = output_progress_start("reading");
    p.to = tmpfile();
    p.tty = false;
    p.started = p.last = 100;
    output_progress_step(&p, GIB, 4 * GIB, 101.9); /* too early */
    CHECK(!p.shown);
    output_progress_step(&p, GIB, 4 * GIB, 102);
    output_progress_step(&p, GIB, 4 * GIB, 105); /* plain lines come every ten seconds */
    output_progress_step(&p, 4 * GIB, 4 * GIB, 112);
    output_progress_end(&p);
    CHECK_STR(text_of(p.to, buf, sizeof(buf)),
              "reading: 1.00 GiB of 4.00 GiB (25 %), 512 MiB/s, 6.0 s left\n"
              "reading: 4.00 GiB of 4.00 GiB (100 %), 341 MiB/s, 0 ms left\n");
    p = output_progress_start("reading");
    p.to = tmpfile();
    p.tty = true;
    p.started = p.last = 0;
    output_progress_step(&p, 0, 0, 3);
    output_progress_step(&p, 0, 0, 3.1);
    output_progress_end(&p);
    CHECK_STR(text_of(p.to, buf, sizeof(buf)),
              "\r\033[Kreading: 0 B of 0 B (100 %), 0 B/s, unknown time left\r\033[K");
    p = output_progress_start("saving");
    p.to = tmpfile();
    p.tty = false;
    p.started = p.last = 0;
    output_progress_wait(&p, "copying", 1);
    output_progress_wait(&p, "copying", 2.5);
    CHECK_STR(text_of(p.to, buf, sizeof(buf)), "saving: copying, 2.5 s\n");
    cases += 7;
}

static void test_json(void)
{
    struct ckpt_name name = { .epoch = 3, .step = 120, .attempt = UINT64_MAX };
    json_t *o = output_point("gpt", &name);
    char *text = json_dumps(o, JSON_COMPACT);
    CHECK_STR(text, "{\"job\":\"gpt\",\"step\":120,\"epoch\":3,\"attempt\":\"ffffffffffffffff\"}");
    free(text);
    json_decref(o);
    CHECK_EQ(output_json(NULL, NULL), CKPT_NO_MEMORY);
    cases += 2;
}

/* Nothing is lost because it is no UTF-8, nor because two names become the same. */
static void test_json_bytes(void)
{
    json_t *o =
        json_pack("{s:o, s:o}", "cut", output_string("a\xe2\x82"), "none", output_string(NULL));
    output_member(o, "l\xff", json_integer(1));
    output_member(o, "l\xfe", json_integer(2));
    output_member(o, "l\xfe", json_integer(3));
    output_member(o, "cut", json_integer(4));
    CLEANUP_FREE char *text = json_dumps(o, JSON_COMPACT);
    CHECK(text);
    CHECK_STR(text, "{\"cut\":\"a\ufffd\ufffd\",\"none\":null,\"l\ufffd\":1,\"l\ufffd\ufffd\":2,"
                    "\"l\ufffd\ufffd\ufffd\":3,\"cut\ufffd\":4}");
    json_decref(o);
    cases += 6;
}

int main(void)
{
    test_bytes();
    test_counts();
    test_times();
    test_parse();
    test_table();
    test_line();
    test_progress();
    test_json();
    test_json_bytes();
    TEST_CASES(cases);
    return 0;
}
