/* What people and scripts see: sizes, ages, tables, JSON, progress.
 *
 * Results go to stdout, everything else to stderr.  Colour only on a terminal (and not
 * with NO_COLOR), unless --color says otherwise.  Names and messages that come from a store
 * may hold any bytes: lines, cells and strings below take them as they are, and nothing else
 * prints them. */
#pragma once

#include <jansson.h>
#include <stdio.h>

#include "formats/base.h"
#include "formats/key.h"

#define OUTPUT_TEXT 32 /* room for any of the short texts below */

/* "1.23 GiB": three digits, binary units. */
char *output_bytes(uint64_t bytes, char ret[OUTPUT_TEXT]);
/* "1.23 GiB/s"; "-" when no time has passed. */
char *output_rate(uint64_t bytes, double seconds, char ret[OUTPUT_TEXT]);
/* "850 ms", "12.3 s", "4 min 05 s", "3 h 12 min", "5 d 3 h" */
char *output_seconds(double seconds, char ret[OUTPUT_TEXT]);
/* "5 min ago", "in 3 s" (clocks differ), "-" for time 0. */
char *output_age(int64_t then_ns, int64_t now_ns, char ret[OUTPUT_TEXT]);
/* "2026-11-21T12:57:00.123Z" */
char *output_time(int64_t time_ns, char ret[OUTPUT_TEXT]);
/* "4G", "64MiB", "512k", "1000": binary units, so 4G = 4 GiB. */
bool output_parse_bytes(const char *text, uint64_t *ret);
/* A whole decimal number; false for anything else. */
bool output_parse_u64(const char *text, uint64_t *ret);
/* "1 object", "2 objects" */
char *output_count(uint64_t n, const char *one, char ret[OUTPUT_TEXT]);
/* Wall clock and monotonic clock. */
int64_t output_now_ns(void);
double output_monotonic(void);

/* "auto", "always", "never": for all that is printed from now on; false for anything else. */
bool output_set_colour(const char *when);
/* auto becomes what it is for `to`, for text that gets there by a detour. */
void output_pin_colour(FILE *to);

/* Prints one line and its end.  It stays one line and drives no terminal, whatever the
 * arguments hold (text_clean). */
void output_line(FILE *to, const char *fmt, ...) CKPT_PRINTF(2, 3);

/* -- tables -------------------------------------------------------------- */

enum output_align { OUTPUT_LEFT, OUTPUT_RIGHT };
enum output_tone { OUTPUT_PLAIN, OUTPUT_DIM, OUTPUT_GOOD, OUTPUT_BAD };
struct output_column {
    const char *title;
    enum output_align align;
};
/* A table that is printed when it is complete, each column as wide as its widest cell
 * (counted in characters of UTF-8). */
struct output_table {
    const struct output_column *columns;
    size_t column_count;
    char **cells; /* row by row; owned */
    enum output_tone *tones;
    size_t row_count, row_cap;
    bool failed; /* out of memory: rows are missing */
};
void output_table_init(struct output_table *t, const struct output_column *columns, size_t count);
/* Adds an empty row. */
void output_row(struct output_table *t, enum output_tone tone);
/* Sets cell `column` of the last row (cleaned). */
void output_cell(struct output_table *t, size_t column, const char *fmt, ...) CKPT_PRINTF(3, 4);
enum ckpt_status output_table_print(const struct output_table *t, FILE *to, struct ckpt_err *err)
    CKPT_MUST_CHECK;
void output_table_fini(struct output_table *t);

/* -- JSON ---------------------------------------------------------------- */

/* A string of any bytes, valid as text_valid makes it; NULL is null. */
json_t *output_string(const char *text);
/* Adds a member whose name comes from elsewhere, valid in the same way; a name that is taken
 * already gets as many U+FFFD at its end as it needs to be another.  Takes `value`. */
void output_member(json_t *to, const char *name, json_t *value);
/* Prints and frees `value` (NULL: out of memory), in ASCII: everything else is escaped.
 * CKPT_IO when stdout is full. */
enum ckpt_status output_json(json_t *value, struct ckpt_err *err) CKPT_MUST_CHECK;
/* Flushes stdout: an answer that did not get out is a failure. */
enum ckpt_status output_flush(struct ckpt_err *err) CKPT_MUST_CHECK;
/* An attempt as JSON and people write it: 16 hex digits (64 bits do not fit a JSON
 * integer everywhere). */
json_t *output_attempt(uint64_t attempt);
/* {"job", "step", "epoch", "attempt"} */
json_t *output_point(const char *job, const struct ckpt_name *name);

/* -- progress ------------------------------------------------------------ */

/* One line on stderr for anything longer than two seconds: rewritten in place on a
 * terminal, otherwise a plain line every ten seconds. */
struct output_progress {
    const char *what;
    FILE *to;
    bool tty, shown;
    double started, last;
};
struct output_progress output_progress_start(const char *what);
/* `now`: output_monotonic(), an argument so that tests own the time. */
void output_progress_step(struct output_progress *p, uint64_t done, uint64_t total, double now);
/* The same where nobody knows how much is done: "what: phase, 12.0 s". */
void output_progress_wait(struct output_progress *p, const char *phase, double now);
void output_progress_end(struct output_progress *p);
