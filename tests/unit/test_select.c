/* Patterns and renames: a matcher by brute force beside them, refusals that name the
 * pattern, bytes there and back, and bytes of a stranger. */
#include "formats/select.h"

#include "check.h"

static long cases;
static unsigned long long seed;

/* By definition: a star is nothing, or one byte and the star again. */
static bool plain_match(const char *p, const char *s)
{
    if (!*p)
        return !*s;
    if (*p == '*')
        return plain_match(p + 1, s) || (*s && plain_match(p, s + 1));
    return *s && (*p == '?' || *p == *s) && plain_match(p + 1, s + 1);
}

static void random_word(char *ret, size_t most, const char *signs)
{
    size_t n = test_rand(&seed) % (most + 1);
    for (size_t i = 0; i < n; i++)
        ret[i] = signs[test_rand(&seed) % strlen(signs)];
    ret[n] = 0;
}

static void test_match(void)
{
    long hits = 0;
    for (int i = 0; i < 200000; i++) {
        char p[9], s[9];
        random_word(p, 7, "ab.**?");
        random_word(s, 8, "aab.");
        bool want = plain_match(p, s);
        if (select_match(p, s) != want)
            fprintf(stderr, "\"%s\" \"%s\"\n", p, s);
        CHECK_EQ(select_match(p, s), want);
        hits += want;
        cases++;
    }
    CHECK(hits > 10000);
}

static void test_wants(void)
{
    struct select s = { 0 };
    CHECK(select_wants(NULL, "a") && select_wants(&s, "a") && select_is_all(&s));
    CHECK_OK(select_add(&s, SELECT_EXCEPT, "*.bias", NULL, NULL));
    CHECK(select_wants(&s, "a.weight") && !select_wants(&s, "a.bias"));
    CHECK_OK(select_add(&s, SELECT_ONLY, "layers.?.*", NULL, NULL));
    CHECK_OK(select_add(&s, SELECT_ONLY, "head", NULL, NULL));
    CHECK(select_wants(&s, "layers.1.w") && select_wants(&s, "head"));
    CHECK(!select_wants(&s, "layers.10.w") && !select_wants(&s, "layers.1.bias"));
    CHECK(!select_wants(&s, "embed") && !select_wants(&s, "headers"));
    select_fini(&s);
    cases += 9;
}

static void check_rename(const struct select *s, const char *from, const char *want)
{
    char to[CKPT_TENSOR_NAME_MAX + 1];
    CHECK_OK(select_rename(s, from, to, NULL));
    CHECK_STR(to, want);
    cases++;
}

static void test_rename(void)
{
    struct select s = { 0 };
    CHECK_OK(select_add(&s, SELECT_RENAME, "model.*", "module.model.*", NULL));
    CHECK_OK(select_add(&s, SELECT_RENAME, "*.l*.w", "x.*/*", NULL));
    CHECK_OK(select_add(&s, SELECT_RENAME, "a", "b", NULL));
    CHECK_OK(select_add(&s, SELECT_RENAME, "b", "a", NULL)); /* an exchange is no loop */
    CHECK_OK(select_add(&s, SELECT_RENAME, "wh?t", "what", NULL));
    check_rename(&s, "model.embed", "module.model.embed");
    check_rename(&s, "model.l1.w", "module.model.l1.w"); /* the first rule that matches */
    check_rename(&s, "q.l1.l2.w", "x.q/1.l2");           /* each star as little as possible */
    check_rename(&s, "a", "b");
    check_rename(&s, "b", "a");
    check_rename(&s, "model", "model");
    check_rename(&s, "what", "what"); /* `?` is itself there */
    check_rename(&s, "wh?t", "what");
    check_rename(NULL, "x", "x");
    CHECK(select_renames(&s, "model.x") && !select_renames(&s, "other"));
    select_fini(&s);
    cases++;
}

/* What the stars stand for, put back into the pattern, is the name. */
static void test_stars(void)
{
    long hits = 0;
    for (int i = 0; i < 100000; i++) {
        struct select s = { 0 };
        char p[9], name[10], to[CKPT_TENSOR_NAME_MAX + 1];
        random_word(p, 7, "ab.**");
        random_word(name, 8, "aab.");
        if (!*p || !*name || !plain_match(p, name))
            continue;
        CHECK_OK(select_add(&s, SELECT_RENAME, p, p, NULL));
        struct ckpt_err err = { 0 };
        enum ckpt_status st = select_rename(&s, name, to, &err);
        CHECK(st == CKPT_OK || st == CKPT_BAD_NAME); /* "." is no name */
        if (st == CKPT_OK)
            CHECK_STR(to, name);
        select_fini(&s);
        hits++;
    }
    CHECK(hits > 5000);
    cases += hits;
}

#define REFUSED(call, status, word)                                             \
    do {                                                                        \
        struct ckpt_err err = { 0 };                                            \
        CHECK_EQ(call, status);                                                 \
        if (!strstr(err_text(&err), word))                                      \
            fprintf(stderr, "\"%s\", expected \"%s\"\n", err_text(&err), word); \
        CHECK(strstr(err_text(&err), word));                                    \
        cases++;                                                                \
    } while (0)

static void test_refusals(void)
{
    struct select s = { 0 };
    char longer[CKPT_TENSOR_NAME_MAX + 2], ret[CKPT_TENSOR_NAME_MAX + 1];
    memset(longer, 'q', sizeof(longer) - 1);
    longer[sizeof(longer) - 1] = 0;
    REFUSED(select_add(&s, SELECT_ONLY, "", NULL, &err), CKPT_INVALID, "only: an empty");
    REFUSED(select_add(&s, SELECT_EXCEPT, longer, NULL, &err), CKPT_LIMIT, "except \"qqq");
    REFUSED(select_add(&s, SELECT_RENAME, "a", "", &err), CKPT_INVALID, "rename to");
    REFUSED(select_add(&s, SELECT_RENAME, "a", NULL, &err), CKPT_INVALID, "rename to");
    REFUSED(select_add(&s, SELECT_RENAME, "a.*", "b", &err), CKPT_INVALID, "1 stars become 0");
    REFUSED(select_add(&s, SELECT_RENAME, "a", "b*", &err), CKPT_INVALID, "\"a\" to \"b*\"");
    REFUSED(select_add(&s, SELECT_RENAME, "*********", "*********", &err), CKPT_LIMIT,
            "more than 8");
    CHECK_OK(select_add(&s, SELECT_RENAME, "a", "b", NULL));
    REFUSED(select_add(&s, SELECT_RENAME, "a", "c", &err), CKPT_INVALID, "\"a\": twice");
    REFUSED(select_add(&s, SELECT_RENAME, "c", "b", &err), CKPT_INVALID, "\"a\" and \"c\" both");
    CHECK_EQ(s.count, 1);
    CHECK_OK(select_add(&s, SELECT_RENAME, "w*", "ww*", NULL));
    longer[CKPT_TENSOR_NAME_MAX] = 0;
    longer[0] = 'w';
    REFUSED(select_rename(&s, longer, ret, &err), CKPT_LIMIT, "longer than 1024");
    CHECK_OK(select_add(&s, SELECT_RENAME, "v*", "*", NULL));
    REFUSED(select_rename(&s, "v", ret, &err), CKPT_BAD_NAME, "renaming v by \"v*\"");
    for (unsigned i = 0; s.count < SELECT_RULES_MAX; i++) {
        char name[16];
        snprintf(name, sizeof(name), "n%u", i);
        CHECK_OK(select_add(&s, SELECT_ONLY, name, NULL, NULL));
    }
    REFUSED(select_add(&s, SELECT_ONLY, "last", NULL, &err), CKPT_LIMIT,
            "\"last\": more than 1024");
    select_fini(&s);
    longer[1000] = 0;
    CLEANUP_BUF struct buf b = { 0 };
    for (unsigned i = 0; i < 49; i++)
        CHECK_OK(select_add(&s, SELECT_ONLY, longer, NULL, NULL));
    CHECK_OK(select_encode(&s, &b, NULL));
    CHECK_OK(select_add(&s, SELECT_ONLY, longer, NULL, NULL));
    REFUSED(select_encode(&s, &b, &err), CKPT_LIMIT, "at most 49152");
    select_fini(&s);
}

static void test_bytes(void)
{
    struct select s = { 0 }, back = { 0 };
    CLEANUP_BUF struct buf b = { 0 };
    CLEANUP_BUF struct buf again = { 0 };
    CHECK_OK(select_add(&s, SELECT_ONLY, "a*", NULL, NULL));
    CHECK_OK(select_add(&s, SELECT_RENAME, "x.*", "y.*", NULL));
    CHECK_OK(select_add(&s, SELECT_EXCEPT, "b", NULL, NULL));
    CHECK_OK(select_encode(&s, &b, NULL));
    CHECK_OK(select_decode(b.data, b.len, &back, NULL));
    CHECK_OK(select_encode(&back, &again, NULL));
    CHECK(b.len == again.len && memcmp(b.data, again.data, b.len) == 0);
    CHECK(back.count == 3 && back.only == 1 && back.renames == 1);
    select_fini(&back);
    CHECK_OK(select_decode(NULL, 0, &back, NULL));
    CHECK(select_is_all(&back));
    for (size_t cut = 1; cut < b.len; cut++) { /* ends of rules are ends of a shorter list */
        struct select some = { 0 };
        enum ckpt_status st = select_decode(b.data, cut, &some, NULL);
        CHECK(st == CKPT_CORRUPT || (st == CKPT_OK && some.count < 3));
        select_fini(&some);
        cases++;
    }
    REFUSED(select_decode((const uint8_t *)"\x04\x01\x00"
                                           "a",
                          4, &back, &err),
            CKPT_CORRUPT, "malformed");
    REFUSED(select_decode((const uint8_t *)"\x01\x00\x00", 3, &back, &err), CKPT_INVALID, "empty");
    REFUSED(select_decode(b.data, SELECT_BYTES_MAX + 1, &back, &err), CKPT_CORRUPT, "49153");
    select_fini(&s);
}

int main(void)
{
    seed = test_seed(7101);
    test_match();
    test_wants();
    test_rename();
    test_stars();
    test_refusals();
    test_bytes();
    TEST_CASES(cases);
    return 0;
}
