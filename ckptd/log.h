/* The daemon's log: one line per event to stderr, key=value, no secrets.
 *
 *     time=2026-11-21T13:51:35.028Z level=warn pid=71 what="save aborted" job=gpt step=120 ...
 *
 * Each failure is logged once, by whoever handles it. */
#pragma once

#include "formats/base.h"

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* What is less important than `level` is not written. */
void log_set_level(enum log_level level);
/* fmt: the rest of the line, key=value pairs; a value that may hold spaces stands in quotes
 * (why=\"%s\"), and quotes and backslashes within it are escaped. */
void log_line(enum log_level level, const char *what, const char *fmt, ...) CKPT_PRINTF(3, 4);
#define log_error(what, ...) log_line(LOG_LEVEL_ERROR, what, __VA_ARGS__)
#define log_warn(what, ...)  log_line(LOG_LEVEL_WARN, what, __VA_ARGS__)
#define log_info(what, ...)  log_line(LOG_LEVEL_INFO, what, __VA_ARGS__)
#define log_debug(what, ...) log_line(LOG_LEVEL_DEBUG, what, __VA_ARGS__)

/* Lines of level warn and error that this process has written. */
uint64_t log_troubles(void);
/* The last errors, oldest first, for the status page.  Returns how many (<= cap). */
#define LOG_KEPT     16
#define LOG_KEPT_MAX 512
size_t log_last_errors(char (*ret)[LOG_KEPT_MAX], size_t cap);
