/* Log lines.  Written whole by one write, so that keeper and worker do not mix. */
#include "ckptd/log.h"

#include <stdio.h>
#include <time.h>

static enum log_level level_max = LOG_LEVEL_INFO;
static char kept[LOG_KEPT][LOG_KEPT_MAX]; /* control thread only */
static size_t kept_count;

void log_set_level(enum log_level level)
{
    level_max = level;
}

/* Control characters would let a client forge lines. */
static void clean(char *line)
{
    for (char *p = line; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            *p = '?';
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

void log_line(enum log_level level, const char *what, const char *fmt, ...)
{
    static const char *const names[] = { "error", "warn", "info", "debug" };
    char line[2048];
    if (level > level_max)
        return;
    size_t n = put_time(line, sizeof(line));
    n += (size_t)snprintf(line + n, sizeof(line) - 1 - n, "level=%s pid=%d what=\"%s\" ",
                          names[level], (int)getpid(), what);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line + n, sizeof(line) - 1 - n, fmt, ap);
    va_end(ap);
    clean(line);
    if (level <= LOG_LEVEL_WARN)
        snprintf(kept[kept_count++ % LOG_KEPT], LOG_KEPT_MAX, "%.*s", LOG_KEPT_MAX - 1, line);
    size_t len = strlen(line);
    line[len] = '\n';
    ssize_t rc = write(STDERR_FILENO, line, len + 1);
    (void)rc; /* nobody to tell */
}

size_t log_last_errors(char (*ret)[LOG_KEPT_MAX], size_t cap)
{
    size_t have = min_u64(kept_count, LOG_KEPT), n = min_u64(have, cap);
    for (size_t i = 0; i < n; i++)
        memcpy(ret[i], kept[(kept_count - n + i) % LOG_KEPT], LOG_KEPT_MAX);
    return n;
}
