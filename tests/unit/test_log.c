/* The log's lines (ckptd/log.c): whatever a client makes a value say, a line stays one line
 * of key=value pairs. */
#include <fcntl.h>

#include "ckptd/log.h"

#include "check.h"

static char line[8192];
static long cases;

/* What log_line wrote since `before`, without its time and pid. */
static const char *said(int fd, off_t before)
{
    ssize_t n = pread(fd, line, sizeof(line) - 1, before);
    CHECK(n > 0 && line[n - 1] == '\n');
    CHECK(memchr(line, '\n', (size_t)n - 1) == NULL && strncmp(line, "time=", 5) == 0);
    line[n - 1] = 0;
    const char *what = strstr(line, "what=");
    CHECK(what != NULL);
    cases++;
    return what;
}

/* Keys by scanning as a reader of logs would: spaces outside of quotes part them. */
static unsigned count_pairs(const char *s)
{
    unsigned n = 1;
    bool quoted = false;
    for (; *s; s++) {
        if (*s == '\\' && quoted && s[1])
            s++;
        else if (*s == '"')
            quoted = !quoted;
        else if (*s == ' ' && !quoted)
            n++;
    }
    CHECK(!quoted);
    return n;
}

int main(void)
{
    static const char *const texts[] = { "",        "plain",  "two words", "\"",
                                         "\\",      "\\\"",   "a\" b=\"c", "line\nlevel=error",
                                         "\x1b[2J", "100%s%n" };
    static char longest[4000];
    char name[] = "/tmp/test-log-XXXXXX";
    int fd = mkstemp(name);
    CHECK(fd >= 0 && unlink(name) == 0);
    CHECK(dup2(fd, STDERR_FILENO) >= 0);
    CHECK(fcntl(fd, F_SETFL, O_APPEND) == 0);

    off_t at = lseek(fd, 0, SEEK_END);
    log_warn("it broke", "a=%d why=\"%s\" b=%u", 1, "say \"no\" \\ here", 2U);
    CHECK(strcmp(said(fd, at), "what=\"it broke\" a=1 why=\"say \\\"no\\\" \\\\ here\" b=2") == 0);
    errno = ENOSPC;
    at = lseek(fd, 0, SEEK_END);
    log_error("x", "why=\"%m\"");
    CHECK(strcmp(said(fd, at), "what=\"x\" why=\"No space left on device\"") == 0);
    for (size_t i = 0; i < ARRAY_COUNT(texts); i++) {
        at = lseek(fd, 0, SEEK_END);
        log_warn("x", "a=\"%s\" b=\"%s\" c=%d", texts[i], texts[i], 7);
        const char *what = said(fd, at);
        CHECK(count_pairs(what) == 4 && strstr(what, " c=7"));
    }
    at = lseek(fd, 0, SEEK_END);
    log_warn("x", "a=\"%s\" b=\"%s\"", "\xc2\x9b\u202e\x9b\"", "l\u00e4\xe2\x82");
    CHECK_STR(said(fd, at), "what=\"x\" a=\"???\\\"\" b=\"l\u00e4??\"");
    /* Cut off anywhere, the value is closed. */
    for (size_t n = 1850; n < 2100; n++) {
        memset(longest, n % 3 ? 'x' : n % 2 ? '"' : '\\', n);
        longest[n] = 0;
        at = lseek(fd, 0, SEEK_END);
        log_warn("x", "a=\"%s\" c=%d", longest, 7);
        CHECK(strlen(said(fd, at)) < 2048);
        (void)count_pairs(line);
    }
    char kept[LOG_KEPT][LOG_KEPT_MAX];
    CHECK_EQ(log_last_errors(kept, LOG_KEPT), LOG_KEPT);
    log_set_level(LOG_LEVEL_ERROR);
    at = lseek(fd, 0, SEEK_END);
    log_warn("not said", "a=%d", 1);
    CHECK_EQ(lseek(fd, 0, SEEK_END), at);
    TEST_CASES(cases);
    return 0;
}
