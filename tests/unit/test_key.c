/* Keys and names: exact texts, the order of listings, and everything that is no name.
 * Covers key.c and key_check.c alike. */
#include "formats/key.h"

#include "check.h"

#define NAME "fffffffffffffff8-fffffffffffffb4f-0123456789abcdef"

static const struct ckpt_name name = { 7, 1200, UINT64_C(0x0123456789abcdef) };

static int test_words(void)
{
    char longest[CKPT_JOB_NAME_MAX + 2];
    static const char *const good[] = { "a", "0", "Z9._-", "ckpt.repo2", "ckpt", "a..b" };
    static const char *const bad[] = { "",    ".",   "..",       "-a",        "_a", "a/b",
                                       "a b", "a\n", "\xc3\xa9", "ckpt.repo", "a%", "a\\b" };
    for (size_t i = 0; i < ARRAY_COUNT(good); i++) {
        CHECK_OK(job_name_check(good[i], NULL));
        CHECK_OK(tag_check(good[i], NULL));
    }
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        struct ckpt_err err = { 0 };
        CHECK_EQ(job_name_check(bad[i], &err), CKPT_BAD_NAME);
        CHECK(strstr(err.text, "job"));
        CHECK_EQ(tag_check(bad[i], NULL), CKPT_BAD_NAME);
    }
    memset(longest, 'x', sizeof(longest));
    longest[CKPT_JOB_NAME_MAX] = 0;
    CHECK_OK(job_name_check(longest, NULL));
    memcpy(longest + CKPT_JOB_NAME_MAX, "x", 2);
    CHECK_EQ(job_name_check(longest, NULL), CKPT_BAD_NAME);
    return 2 * ARRAY_COUNT(good) + 3 * ARRAY_COUNT(bad) + 2;
}

static enum ckpt_status tensor_check(const char *text)
{
    size_t n = strlen(text);
    CLEANUP_FREE char *exact = malloc(n + 1); /* no NUL inside the bounds that are given */
    memcpy(exact, text, n + 1);
    return tensor_name_check(exact, n, NULL);
}

static int test_tensor_names(void)
{
    static const char *const good[] = {
        "w",
        "model.layers.0/mlp/w",
        "a b",
        ".hidden",
        "...",
        "a/.b",
        "\xc2\xa0",
        "\xc3\xa9",
        "\xe2\x82\xac",
        "\xed\x9f\xbf",
        "\xee\x80\x80",
        "\xf0\x9f\x98\x80",
        "\xf4\x8f\xbf\xbf",
        "\xef\xbf\xbf",
        "a\\b",
    };
    static const char *const bad[] = {
        "",
        "/a",
        "a/",
        "a//b",
        "/",
        ".",
        "..",
        "a/../b",
        "./a",
        "a/.",
        "a\tb",
        "\x7f",
        "\xc2\x80",
        "\xc2\x9f", /* C1 controls */
        "\x80",
        "\xbf",
        "a\xff", /* no first byte */
        "\xc0\x80",
        "\xc1\xbf", /* overlong */
        "\xe0\x9f\xbf",
        "\xf0\x8f\xbf\xbf",
        "\xed\xa0\x80",
        "\xed\xbf\xbf", /* surrogates */
        "\xf4\x90\x80\x80",
        "\xf5\x80\x80\x80",
        "\xf9\x80\x80\x80",
        "\xf8\x88\x80\x80\x80",
        "\xc3",
        "\xe2\x82",
        "\xf0\x9f\x98",
        "\xc3(",
        "\xe2(\xac", /* cut short or not continued */
    };
    char longest[CKPT_TENSOR_NAME_MAX + 1];
    for (size_t i = 0; i < ARRAY_COUNT(good); i++)
        CHECK_OK(tensor_check(good[i]));
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++)
        CHECK_EQ(tensor_check(bad[i]), CKPT_BAD_NAME);
    CHECK_EQ(tensor_name_check("a\0b", 3, NULL), CKPT_BAD_NAME);
    memset(longest, 'x', sizeof(longest));
    CHECK_OK(tensor_name_check(longest, CKPT_TENSOR_NAME_MAX, NULL));
    CHECK_EQ(tensor_name_check(longest, CKPT_TENSOR_NAME_MAX + 1, NULL), CKPT_BAD_NAME);
    return ARRAY_COUNT(good) + ARRAY_COUNT(bad) + 3;
}

static int test_texts(void)
{
    static const uint8_t node[16] = { 0xab, 0xcd };
    struct digest id = { { 1, 2, 0xff } };
    CHECK_STR(key_launches("j").text, "j/l/");
    CHECK_STR(key_launch("j", 7).text, "j/l/fffffffffffffff8/");
    CHECK_STR(key_claim("j", 7).text, "j/l/fffffffffffffff8/claim");
    CHECK_STR(key_resolved("j", 7).text, "j/l/fffffffffffffff8/resolved");
    CHECK_STR(key_restored("j", 7).text, "j/l/fffffffffffffff8/restored");
    CHECK_STR(key_progress("j", 7).text, "j/l/fffffffffffffff8/progress");
    static const uint32_t ranks[2] = { 1, 2 };
    CHECK_STR(key_node("j", 7, node, ranks, 2).text,
              "j/l/fffffffffffffff8/node-abcd0000000000000000000000000000-9cb99f86ae035f85");
    CHECK(strcmp(key_node("j", 7, node, ranks, 1).text, key_node("j", 7, node, ranks, 2).text) !=
          0);
    CHECK_STR(key_owners("j").text, "j/o/");
    CHECK_STR(key_owner("j", 7, node).text,
              "j/o/fffffffffffffff8/abcd0000000000000000000000000000");
    CHECK_STR(key_bad("j", 0, UINT32_MAX).text, "j/l/ffffffffffffffff/bad-4294967295");
    CHECK_STR(key_commits("j").text, "j/c/");
    CHECK_STR(key_commit("j", &name).text, "j/c/" NAME);
    CHECK_STR(key_helds("j").text, "j/h/");
    CHECK_STR(key_held("j", &name).text, "j/h/" NAME);
    CHECK_STR(key_data("j", 15, &name).text, "j/d/f/" NAME "/");
    CHECK_STR(key_data_shard("j", 3).text, "j/d/3/");
    CHECK_STR(strstr(key_manifest("j", &name, 12).text, NAME), NAME "/12.m");
    CHECK_STR(strstr(key_rank_held("j", &name, 12).text, NAME), NAME "/12.h");
    CHECK_STR(strstr(key_pack("j", &name, 12, 3, &id).text, NAME),
              NAME "/12-3-0102ff00000000000000000000000000");
    CHECK_STR(strstr(key_index("j", &name, 4).text, NAME), NAME "/i4");
    CHECK_STR(key_tags("j").text, "j/t/");
    CHECK_STR(key_tags_of("j", &name).text, "j/t/" NAME "/");
    CHECK_STR(key_tag("j", &name, "best", 1).text, "j/t/" NAME "/best/fffffffffffffffe");
    CHECK_STR(key_lives("j").text, "j/x/");
    CHECK_STR(key_life_of("j", &name, false).text, "j/x/" NAME "/");
    CHECK_STR(key_life_of("j", &name, true).text, "j/x/" NAME ".h/");
    CHECK_STR(key_life("j", &name, false, 0).text, "j/x/" NAME "/ffffffffffffffff");
    CHECK_STR(key_life("j", &name, true, UINT64_MAX).text, "j/x/" NAME ".h/0000000000000000");
    return 26;
}

/* The longest of each kind fits, at the limits of every part. */
static int test_longest(void)
{
    char word[CKPT_JOB_NAME_MAX + 1];
    struct ckpt_name n = { UINT64_MAX, UINT64_MAX, UINT64_MAX };
    struct digest id = { { 0 } };
    memset(word, 'x', sizeof(word) - 1);
    word[sizeof(word) - 1] = 0;
    CHECK_EQ(strlen(key_tag(word, &n, word, 0).text), 128 + 3 + 50 + 1 + 128 + 1 + 16);
    CHECK_EQ(strlen(key_pack(word, &n, CKPT_RANKS_MAX - 1, UINT32_MAX, &id).text),
             128 + 5 + 50 + 1 + 7 + 1 + 10 + 1 + 32);
    CHECK_EQ(strlen(key_life(word, &n, true, 0).text), 128 + 3 + 50 + 3 + 16);
    return 3;
}

/* Law: parse o print = identity, and newer sorts before older. */
static long test_names(void)
{
    unsigned long long seed = test_seed(3);
    long cases = 0;
    for (; cases < 2000; cases++) {
        struct ckpt_name a = { test_rand(&seed) >> (cases % 64), test_rand(&seed) >> (cases % 61),
                               test_rand(&seed) };
        struct ckpt_name b = cases % 2 ? a : (struct ckpt_name){ a.epoch, test_rand(&seed), 0 };
        struct ckpt_name back;
        char at[NAME_TEXT], bt[NAME_TEXT];
        if (cases % 2)
            b.epoch = test_rand(&seed);
        name_to_text(&a, at);
        name_to_text(&b, bt);
        CHECK(name_parse(at, strlen(at), &back) && name_equal(&a, &back));
        bool newer = a.epoch > b.epoch || (a.epoch == b.epoch && a.step > b.step);
        if (a.epoch != b.epoch || a.step != b.step)
            CHECK_EQ(strcmp(at, bt) < 0, newer);
        char number[17];
        uint64_t n;
        key_number(a.step, number);
        CHECK(key_number_parse(number, &n) && n == a.step);
    }
    return cases;
}

static int test_no_names(void)
{
    struct ckpt_name n = name;
    uint64_t number = 5;
    CHECK(name_parse(NAME "/12.m", 50, &n));
    CHECK(!name_parse(NAME, 49, &n) && !name_parse(NAME "0", 51, &n) && !name_parse("", 0, &n));
    for (size_t i = 0; i < 50; i++) { /* no byte may be another kind */
        char text[] = NAME;
        text[i] = text[i] == '-' ? '0' : 'F';
        CHECK(!name_parse(text, 50, &n));
        text[i] = 0;
        CHECK(!name_parse(text, 50, &n));
    }
    CHECK(name_equal(&n, &name));
    struct ckpt_name other = name;
    other.attempt++;
    CHECK(!name_equal(&other, &name));
    CHECK(!key_number_parse("fffffffffffffff", &number));
    CHECK(!key_number_parse("fffffffffffffffff", &number));
    CHECK(!key_number_parse("ffffffffffffffFf", &number));
    CHECK(!key_number_parse("", &number));
    CHECK_EQ(number, 5);
    return 4 + 100 + 7;
}

static int test_attempts(void)
{
    uint64_t a = attempt_of("job", 1, 2, 3, 4);
    CHECK(a == UINT64_C(0x9a71340d2de5d7fb)); /* on disk in names: never changes */
    CHECK(a == attempt_of("job", 1, 2, 3, 4));
    CHECK(a != attempt_of("jo", 1, 2, 3, 4) && a != attempt_of("job", 2, 2, 3, 4));
    CHECK(a != attempt_of("job", 1, 3, 3, 4) && a != attempt_of("job", 1, 2, 4, 4));
    CHECK(a != attempt_of("job", 1, 2, 3, 5));
    return 5;
}

static int test_shards(void)
{
    unsigned hits[16] = { 0 };
    for (uint32_t r = 0; r < 4096; r++) {
        CHECK(key_shard(r) < 16);
        hits[key_shard(r)]++;
    }
    for (unsigned h = 0; h < 16; h++)
        CHECK(hits[h] > 128);
    CHECK_EQ(key_shard(0), 2); /* on disk: never changes */
    CHECK_EQ(key_shard(1), 4);
    return 18;
}

static int test_parse_data(void)
{
    struct key_data_parts p = { .name = name };
    CHECK_EQ(key_parse_data("12.m", &p), KEY_MANIFEST);
    CHECK(p.rank == 12 && name_equal(&p.name, &name));
    CHECK_EQ(key_parse_data("1048575.h", &p), KEY_RANK_HELD);
    CHECK_EQ(p.rank, 1048575);
    CHECK_EQ(key_parse_data("0-4294967295-0102ff00000000000000000000000000", &p), KEY_PACK);
    CHECK(p.rank == 0 && p.slot == UINT32_MAX && p.id.b[2] == 0xff);
    CHECK_EQ(key_parse_data("i0", &p), KEY_INDEX);
    CHECK_EQ(p.k, 0);
    static const char *const none[] = {
        "",
        "12",
        "12.",
        "12.mm",
        "012.m",
        "+1.m",
        "-1.m",
        " 1.m",
        "1048576.m",
        "4294967296.m",
        "99999999999999999999999.m",
        "i",
        "i01",
        "i4294967296",
        "i1x",
        "1-2",
        "1-2-",
        "1-2-0102ff0000000000000000000000000",
        "1-2-0102ff000000000000000000000000000",
        "1-2-0102FF00000000000000000000000000",
        "1-02-0102ff00000000000000000000000000",
        "1-2.m",
        "m",
        ".m",
    };
    for (size_t i = 0; i < ARRAY_COUNT(none); i++) {
        CHECK_EQ(key_parse_data(none[i], &p), KEY_OTHER);
        CHECK(p.kind == KEY_OTHER && p.rank == 0 && name_equal(&p.name, &name));
    }
    return 8 + 2 * ARRAY_COUNT(none);
}

/* Every byte at every place of a long name: control characters hide nowhere. */
static int test_tensor_name_bytes(void)
{
    char text[32];
    for (size_t at = 0; at < 27; at++) {
        for (unsigned byte = 0; byte < 0x80; byte++) {
            memset(text, 'x', 27);
            text[at] = (char)byte;
            bool edge = byte == '/' && (at == 0 || at == 26);
            bool good = byte >= 0x20 && byte != 0x7f && !edge;
            CHECK_EQ(tensor_name_check(text, 27, NULL) == CKPT_OK, good);
        }
    }
    return 27 * 0x80;
}

int main(void)
{
    long cases = test_words() + test_tensor_names() + test_tensor_name_bytes() + test_texts() +
                 test_longest();
    cases += test_names() + test_no_names() + test_attempts() + test_shards() + test_parse_data();
    TEST_CASES(cases);
    return 0;
}
