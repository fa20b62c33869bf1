/* What people see holds no control and what JSON gets is UTF-8, whatever the bytes were; and
 * nothing that can be shown is lost. */
#include <iconv.h>

#include "formats/text.h"

#include "check.h"

static void test_known(void)
{
    static const struct {
        const char *text, *clean, *valid;
    } table[] = {
        { "", "", "" },
        { "plain ~", "plain ~", "plain ~" },
        { "läyers/\"odd\"", "läyers/\"odd\"", "läyers/\"odd\"" },
        { "a\x1b[31m\x7f\tb", "a?[31m??b", "a\x1b[31m\x7f\tb" },
        { "line\nforged", "line?forged", "line\nforged" },
        { "\xc2\x9b"
          "31m\xc2\x80\xc2\x9f\xc2\xa0",
          "?31m??\xc2\xa0",
          "\xc2\x9b"
          "31m\xc2\x80\xc2\x9f\xc2\xa0" },
        { "\x9b"
          "31m",
          "?31m",
          "\xef\xbf\xbd"
          "31m" },
        { "\u202agpt\u202e\u2066\u2069", "?gpt???", "\u202agpt\u202e\u2066\u2069" },
        { "\u2027\u2028\u2029\u202f\u2065\u206a", "\u2027??\u202f\u2065\u206a",
          "\u2027\u2028\u2029\u202f\u2065\u206a" },
        /* Marks of direction and joiners change nothing beyond their neighbours. */
        { "\u200e\u200d\ufeff\U0001f680", "\u200e\u200d\ufeff\U0001f680",
          "\u200e\u200d\ufeff\U0001f680" },
        { "cut \xe2\x82", "cut ??", "cut \xef\xbf\xbd\xef\xbf\xbd" },
        { "\xc0\xaf\xed\xa0\x80\xff", "??????",
          "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" },
    };
    for (size_t i = 0; i < ARRAY_COUNT(table); i++) {
        char clean[64];
        CLEANUP_FREE char *valid = text_valid(table[i].text);
        CHECK(valid);
        CHECK_STR(text_clean(table[i].text, clean, sizeof(clean)), table[i].clean);
        CHECK_STR(valid, table[i].valid);
    }
    char buf[8];
    CHECK_STR(text_clean("0123456789", buf, sizeof(buf)), "0123456");
    CHECK_STR(text_clean("012345\xe2\x82\xac", buf, sizeof(buf)), "012345");
    CHECK_STR(text_clean("x", buf, 1), "");
}

/* -- laws ---------------------------------------------------------------- */

/* A text with what must become of it, made of pieces of which each stands for itself. */
struct sample {
    char text[4096], clean[4096], valid[3 * 4096];
};

static size_t encode(uint32_t code, char ret[5])
{
    size_t n = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    static const uint8_t lead[5] = { 0, 0, 0xc0, 0xe0, 0xf0 };
    for (size_t i = n; i-- > 1; code >>= 6)
        ret[i] = (char)(0x80 | (code & 0x3f));
    ret[0] = (char)(lead[n] | code);
    ret[n] = 0;
    return n;
}

static bool must_go(uint32_t code)
{
    static const struct {
        uint32_t from, to;
    } gone[] = { { 0, 0x1f }, { 0x7f, 0x9f }, { 0x2028, 0x202e }, { 0x2066, 0x2069 } };
    for (size_t i = 0; i < ARRAY_COUNT(gone); i++)
        if (code >= gone[i].from && code <= gone[i].to)
            return true;
    return false;
}

static uint32_t random_code(unsigned long long *seed)
{
    static const uint32_t edges[] = { 0x20,   0x7e,   0x7f,   0x80,   0x9f,   0xa0,    0x7ff,
                                      0x800,  0x2027, 0x2028, 0x202e, 0x202f, 0x2065,  0x2066,
                                      0x2069, 0x206a, 0xd7ff, 0xe000, 0xffff, 0x10000, 0x10ffff };
    static const uint32_t below[] = { 0x80, 0x100, 0x3000, 0x110000 };
    if (test_rand(seed) % 4 == 0)
        return edges[test_rand(seed) % ARRAY_COUNT(edges)];
    for (;;) {
        uint32_t code = (uint32_t)(test_rand(seed) % below[test_rand(seed) % ARRAY_COUNT(below)]);
        if (code != 0 && !(code >= 0xd800 && code <= 0xdfff))
            return code;
    }
}

static void add(struct sample *s, const char *text, const char *clean, const char *valid)
{
    size_t a = strlen(s->text), b = strlen(s->clean), c = strlen(s->valid);
    snprintf(s->text + a, sizeof(s->text) - a, "%s", text);
    snprintf(s->clean + b, sizeof(s->clean) - b, "%s", clean);
    snprintf(s->valid + c, sizeof(s->valid) - c, "%s", valid);
}

static void add_character(struct sample *s, unsigned long long *seed)
{
    char bytes[5];
    uint32_t code = random_code(seed);
    encode(code, bytes);
    add(s, bytes, must_go(code) ? "?" : bytes, bytes);
}

/* None of them can become a character with what stands around them. */
static void add_broken(struct sample *s, unsigned long long *seed)
{
    static const char *const broken[] = { "\xc0",     "\xc1\x80",     "\xf5",         "\xff",
                                          "\xe0\x80", "\xed\xbf\xbf", "\xf4\x90\x80", "\x80",
                                          "\xbf\xbf", "\xf0\x8f\xbf" };
    const char *text = broken[test_rand(seed) % ARRAY_COUNT(broken)];
    add(s, text, "", "");
    for (; *text; text++)
        add(s, "", "?", "\xef\xbf\xbd");
}

/* A character that ends too early. */
static void add_cut(struct sample *s, unsigned long long *seed)
{
    char bytes[5];
    size_t n = encode(0x80 + (uint32_t)(test_rand(seed) % 0x700), bytes);
    if (test_rand(seed) % 2)
        n = encode(0x10000 + (uint32_t)(test_rand(seed) % 0x1000), bytes);
    bytes[1 + test_rand(seed) % (n - 1)] = 0;
    add(s, bytes, "", "");
    for (const char *b = bytes; *b; b++)
        add(s, "", "?", "\xef\xbf\xbd");
    add(s, ".", ".", ".");
}

static void check_pieces(unsigned long long *seed)
{
    struct sample s = { { 0 }, { 0 }, { 0 } };
    char clean[sizeof(s.text)];
    for (size_t n = test_rand(seed) % 200; n > 0; n--) {
        switch (test_rand(seed) % 4) {
        case 0:
            add_broken(&s, seed);
            break;
        case 1:
            add_cut(&s, seed);
            break;
        default:
            add_character(&s, seed);
        }
    }
    CLEANUP_FREE char *valid = text_valid(s.text);
    CHECK(valid);
    CHECK_STR(valid, s.valid);
    CHECK_STR(text_clean(s.text, clean, sizeof(clean)), s.clean);
    CHECK_STR(text_clean(s.text, s.text, strlen(s.text) + 1), s.clean); /* in its place */
}

/* The characters, by somebody else's reading; fails when it is no UTF-8. */
static size_t decode(const char *text, uint32_t *ret, size_t cap)
{
    iconv_t c = iconv_open("UCS-4LE", "UTF-8");
    CHECK(c != (iconv_t)-1);
    char *in = (char *)(uintptr_t)text, *out = (char *)ret;
    size_t in_left = strlen(text), out_left = cap * sizeof(*ret);
    CHECK_EQ(iconv(c, &in, &in_left, &out, &out_left), 0);
    iconv_close(c);
    return cap - out_left / sizeof(*ret);
}

/* Any bytes at all, cut anywhere. */
static void check_bytes(unsigned long long *seed)
{
    char text[200] = "", clean[200], again[200], cut[200];
    static uint32_t codes[3 * 200];
    size_t len = test_rand(seed) % sizeof(text);
    for (size_t i = 0; i < len; i++)
        text[i] = (char)(1 + test_rand(seed) % 255);
    text_clean(text, clean, sizeof(clean));
    size_t n = decode(clean, codes, ARRAY_COUNT(codes));
    for (size_t i = 0; i < n; i++)
        CHECK(!must_go(codes[i]));
    CHECK(strlen(clean) <= strlen(text));
    CHECK_STR(text_clean(clean, again, sizeof(again)), clean);
    size_t cap = 1 + test_rand(seed) % sizeof(cut);
    memset(cut, 'x', sizeof(cut));
    text_clean(text, cut, cap);
    CHECK(strlen(cut) < cap && strncmp(clean, cut, strlen(cut)) == 0);
    (void)decode(cut, codes, ARRAY_COUNT(codes));
    CLEANUP_FREE char *valid = text_valid(text);
    CHECK(valid);
    (void)decode(valid, codes, ARRAY_COUNT(codes));
}

int main(void)
{
    unsigned long long seed = test_seed(20261122);
    const int rounds = 20000 / TEST_TENTH;
    test_known();
    for (int i = 0; i < rounds; i++) {
        check_pieces(&seed);
        check_bytes(&seed);
    }
    TEST_CASES(2 * rounds);
    return 0;
}
