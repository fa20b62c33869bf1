/* The default socket's path: one place for every spelling of one store. */
#include "formats/sockpath.h"

#include "check.h"

static long cases;

static void store_is(const char *store, const char *want)
{
    char got[256];
    CHECK_OK(sockpath_store(store, "/w/d", got, sizeof(got), NULL));
    CHECK_STR(got, want);
    cases++;
}

static void test_runtime(void)
{
    char got[SOCKPATH_MAX];
    CHECK_OK(sockpath_runtime(0, NULL, got, NULL));
    CHECK_STR(got, "/run/ckpt");
    CHECK_OK(sockpath_runtime(1000, NULL, got, NULL));
    CHECK_STR(got, "/tmp/ckpt-1000");
    CHECK_OK(sockpath_runtime(1000, "/run/user/1000", got, NULL));
    CHECK_STR(got, "/run/user/1000/ckpt");
    CHECK_OK(sockpath_runtime(0, "/x", got, NULL));
    CHECK_STR(got, "/x/ckpt");
    CHECK_OK(sockpath_runtime(1000, "relative", got, NULL));
    CHECK_STR(got, "/tmp/ckpt-1000");
    cases += 5;
    for (size_t n = 1; n < 120; n++) {
        char xdg[128] = "/";
        memset(xdg + 1, 'a', n);
        struct ckpt_err err = { 0 };
        enum ckpt_status st = sockpath_socket(1, xdg, "/s", got, &err);
        if (n + 1 + 5 + 22 < SOCKPATH_MAX)
            CHECK(st == CKPT_OK && strlen(got) == n + 1 + 5 + 22);
        else
            CHECK(st == CKPT_LIMIT && err.text[0]);
        cases++;
    }
}

int main(void)
{
    store_is("/p", "/p");
    store_is("/p/", "/p");
    store_is("//p//q/./r/", "/p/q/r");
    store_is("dir:///p", "/p");
    store_is("p", "/w/d/p");
    store_is("./p/q", "/w/d/p/q");
    store_is("/", "/");
    store_is("dir:///p?shared=1", "dir:///p?shared=1");
    store_is("mem://name", "mem://name");
    test_runtime();
    char a[SOCKPATH_MAX], b[SOCKPATH_MAX];
    CHECK_OK(sockpath_socket(1, NULL, "/p", a, NULL));
    CHECK(strncmp(a, "/tmp/ckpt-1/", 12) == 0 && strlen(a) == 12 + 16 + 5);
    CHECK_OK(sockpath_socket(1, NULL, "/q", b, NULL));
    CHECK(strcmp(a, b) != 0);
    CHECK_OK(sockpath_socket(11, "/x", "/p", a, NULL));
    CHECK_OK(sockpath_socket(1, "/x", "1/p", b, NULL));
    CHECK(strcmp(a, b) != 0);
    char tiny[4];
    CHECK_EQ(sockpath_store("/abc", "/", tiny, sizeof(tiny), NULL), CKPT_LIMIT);
    CHECK_EQ(sockpath_store("x://", "/", tiny, sizeof(tiny), NULL), CKPT_LIMIT);
    CHECK_EQ(sockpath_store("", "/", tiny, sizeof(tiny), NULL), CKPT_INVALID);
    TEST_CASES(cases + 6);
    return 0;
}
