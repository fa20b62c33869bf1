/* Log lines.  Written whole by one write, so that keeper and worker do not mix. */
#include "ckptd/log.h"

#include <stdio.h>

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

void log_line(enum log_level level, const char *what, const char *fmt, ...)
{
    static const char *const names[] = { "error", "warn", "info", "debug" };
    char line[2048];
    if (level > level_max)
        return;
    int n = snprintf(line, sizeof(line) - 1, "level=%s pid=%d what=\"%s\" ", names[level],
                     (int)getpid(), what);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line + n, sizeof(line) - 1 - (size_t)n, fmt, ap);
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
