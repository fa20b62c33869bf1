/* Drawing: what a terminal shows after it is what was to be drawn, whatever was there before;
 * and only what changed is sent.  The terminal is a small one of our own. */
#include "tools/screen.h"

#include "check.h"

#define ROWS 6
#define COLS 12

static long cases;

struct terminal {
    char cells[ROWS][COLS + 1];
    size_t row, column, bytes;
};

static size_t escape(struct terminal *t, const char *p)
{
    unsigned row = 0, column = 0;
    int n = 0;
    if (sscanf(p, "\033[%u;%uH%n", &row, &column, &n) == 2 && n > 0) {
        CHECK(row >= 1 && row <= ROWS && column == 1);
        t->row = row - 1;
        t->column = 0;
        return (size_t)n;
    }
    if (strncmp(p, "\033[2J", 4) == 0) {
        memset(t->cells, 0, sizeof(t->cells));
        return 4;
    }
    if (strncmp(p, "\033[K", 3) == 0) {
        t->cells[t->row][t->column] = 0;
        return 3;
    }
    size_t len = strcspn(p, "m");
    CHECK(strncmp(p, "\033[", 2) == 0 && len < 8 && p[len] == 'm');
    return len + 1;
}

static void show(struct terminal *t, const char *bytes, size_t len)
{
    t->bytes = len;
    for (size_t i = 0; i < len;) {
        if (bytes[i] == '\033') {
            i += escape(t, bytes + i);
            continue;
        }
        CHECK(bytes[i] >= ' ' && t->column < COLS);
        t->cells[t->row][t->column++] = bytes[i++];
    }
}

static void draw(struct screen *s, struct terminal *t, const char *text)
{
    size_t len = 0;
    CLEANUP_FREE char *bytes = screen_draw(s, text, &len);
    CHECK(bytes);
    show(t, bytes, len);
}

static void check_rows(const struct terminal *t, const char *text)
{
    for (size_t row = 0; row < ROWS; row++) {
        size_t len = strcspn(text, "\n");
        CHECK_EQ(strlen(t->cells[row]), min_u64(len, COLS));
        CHECK(strncmp(t->cells[row], text, min_u64(len, COLS)) == 0);
        text += len + (text[len] == '\n');
    }
    cases++;
}

static void random_text(unsigned long long *seed, char *ret)
{
    unsigned lines = test_rand(seed) % (ROWS + 3);
    for (unsigned i = 0; i < lines; i++) {
        unsigned len = test_rand(seed) % 3 ? test_rand(seed) % (2 * COLS) : 0;
        char c = (char)('a' + test_rand(seed) % 3);
        memset(ret, c, len);
        ret += len;
        *ret++ = '\n';
    }
    *ret = 0;
}

static void clipped(const char *line, unsigned columns, const char *want)
{
    char ret[128];
    screen_clip(line, strlen(line), columns, ret);
    CHECK_STR(ret, want);
    cases++;
}

int main(void)
{
    unsigned long long seed = test_seed(7);
    struct screen s = { .rows = ROWS, .columns = COLS };
    struct terminal t = { 0 };
    draw(&s, &t, "one\ntwo\n\nfour");
    check_rows(&t, "one\ntwo\n\nfour");
    draw(&s, &t, "one\ntwo\n\nfour");
    CHECK_EQ(t.bytes, 0);
    draw(&s, &t, "one\n2\n\nfour");
    check_rows(&t, "one\n2\n\nfour");
    CHECK(t.bytes > 0 && t.bytes < 20); /* that line alone */
    draw(&s, &t, "");
    check_rows(&t, "");
    for (int i = 0; i < 2000; i++) {
        char text[(ROWS + 3) * (2 * COLS + 1) + 1];
        random_text(&seed, text);
        draw(&s, &t, text);
        check_rows(&t, text);
    }
    clipped("abcdef", 3, "abc");
    clipped("abc", 3, "abc");
    clipped("", 3, "");
    clipped("abc", 0, "");
    clipped("\033[31mabcdef\033[0m", 3, "\033[31mabc\033[0m");
    clipped("a\033[2;31mb\033[0mcd", 2, "a\033[2;31mb\033[0m");
    clipped("\xc3\xa4\xc3\xb6\xc3\xbc", 2, "\xc3\xa4\xc3\xb6");
    clipped("ab\033", 9, "ab\033");
    clipped("ab\033[", 9, "ab\033[");
    clipped("ab\033[31", 1, "a\033[31");
    screen_fini(&s);
    TEST_CASES(cases);
    return 0;
}
