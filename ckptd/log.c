/* Log lines.  Written whole by one write, so that keeper and worker do not mix. */
#include "ckptd/log.h"

#include <stdio.h>
#include <time.h>

#include "formats/text.h"

#define QUOTES_MAX 16 /* in one format */

static enum log_level level_max = LOG_LEVEL_INFO;
static char kept[LOG_KEPT][LOG_KEPT_MAX]; /* control thread only */
static size_t kept_count;

void log_set_level(enum log_level level)
{
    level_max = level;
}

/* "time=2026-11-21T13:51:35.028Z " */
static size_t put_time(char *ret, size_t cap)
{
    struct timespec now;
    struct tm utc;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    size_t n = strftime(ret, cap, "time=%FT%T", &utc);
    return n + (size_t)snprintf(ret + n, cap - n, ".%03ldZ ", now.tv_nsec / 1000000);
}

/* vsnprintf of a format that the compilers cannot look at: a part of one they have seen. */
static int (*const measure)(char *, size_t, const char *, va_list) = vsnprintf;

/* Where the format's own quotes come to lie in what it prints; all others are part of
 * somebody's text. */
static size_t own_quotes(const char *fmt, va_list ap, size_t at[QUOTES_MAX])
{
    char part[512];
    size_t count = 0;
    for (const char *p = strchr(fmt, '"'); p && count < QUOTES_MAX; p = strchr(p + 1, '"')) {
        va_list copy;
        size_t len = min_u64((size_t)(p - fmt), sizeof(part) - 1);
        memcpy(part, fmt, len);
        part[len] = 0;
        va_copy(copy, ap);
        int n = measure(NULL, 0, part, copy);
        va_end(copy);
        at[count++] = n < 0 ? 0 : (size_t)n;
    }
    return count;
}

/* Appends text to the line: a quote or backslash in a value is escaped, and what text_clean
 * takes away, by which a client could forge lines, is replaced.  A value that is cut off is
 * closed.  Returns the line's length, below cap. */
static size_t put_text(char *line, size_t at, size_t cap, const char *text, const size_t *quotes,
                       size_t quote_count)
{
    size_t len = strlen(text), next = 0, taken;
    for (size_t i = 0; i < len; i += taken) {
        uint32_t code = 0;
        size_t n = text_next(text + i, len - i, &code);
        bool own = next < quote_count && quotes[next] == i;
        bool escape = !own && (text[i] == '"' || text[i] == '\\');
        bool shown = n && text_shown(code);
        taken = n ? n : 1;
        if (at + taken + 2 >= cap) /* this, an escape, and a quote at the end */
            break;
        next += own;
        if (escape)
            line[at++] = '\\';
        memcpy(line + at, shown ? text + i : "?", shown ? n : 1);
        at += shown ? n : 1;
    }
    if (next % 2 == 1)
        line[at++] = '"';
    line[at] = 0;
    return at;
}

void log_line(enum log_level level, const char *what, const char *fmt, ...)
{
    static const char *const names[] = { "error", "warn", "info", "debug" };
    char line[2048], text[2048];
    size_t quotes[QUOTES_MAX];
    if (level > level_max)
        return;
    va_list ap;
    va_start(ap, fmt);
    size_t count = own_quotes(fmt, ap, quotes);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    size_t n = put_time(line, sizeof(line));
    n += (size_t)snprintf(line + n, sizeof(line) - n, "level=%s pid=%d what=\"%s\" ", names[level],
                          (int)getpid(), what);
    n = put_text(line, n, sizeof(line) - 1, text, quotes, count);
    if (level <= LOG_LEVEL_WARN)
        snprintf(kept[kept_count++ % LOG_KEPT], LOG_KEPT_MAX, "%.*s", LOG_KEPT_MAX - 1, line);
    line[n++] = '\n';
    ssize_t rc = write(STDERR_FILENO, line, n);
    (void)rc; /* nobody to tell */
}

uint64_t log_troubles(void)
{
    return kept_count;
}

size_t log_last_errors(char (*ret)[LOG_KEPT_MAX], size_t cap)
{
    size_t have = min_u64(kept_count, LOG_KEPT), n = min_u64(have, cap);
    for (size_t i = 0; i < n; i++)
        memcpy(ret[i], kept[(kept_count - n + i) % LOG_KEPT], LOG_KEPT_MAX);
    return n;
}
