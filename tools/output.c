/* Sizes, ages, tables, JSON and progress for people and scripts. */
#include "tools/output.h"

#include <inttypes.h>
#include <math.h>
#include <time.h>

#include "formats/text.h"

#define PROGRESS_AFTER_S 2.0
#define PROGRESS_TTY_S   0.2
#define PROGRESS_PLAIN_S 10.0

/* -- numbers ------------------------------------------------------------- */

char *output_bytes(uint64_t bytes, char ret[OUTPUT_TEXT])
{
    static const char *const units[] = { "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
    if (bytes < 1000) {
        snprintf(ret, OUTPUT_TEXT, "%" PRIu64 " B", bytes);
        return ret;
    }
    double value = (double)bytes / 1024;
    size_t unit = 0;
    /* 999.5 would print as "1000". */
    for (; value >= 999.5 && unit + 1 < ARRAY_COUNT(units); unit++)
        value /= 1024;
    int digits = value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
    snprintf(ret, OUTPUT_TEXT, "%.*f %s", digits, value, units[unit]);
    return ret;
}

char *output_rate(uint64_t bytes, double seconds, char ret[OUTPUT_TEXT])
{
    if (!(seconds > 0) || (double)bytes / seconds >= 0x1p63) {
        snprintf(ret, OUTPUT_TEXT, "-");
        return ret;
    }
    output_bytes((uint64_t)((double)bytes / seconds), ret);
    size_t len = strlen(ret);
    snprintf(ret + len, OUTPUT_TEXT - len, "/s");
    return ret;
}

char *output_seconds(double seconds, char ret[OUTPUT_TEXT])
{
    if (!(seconds > 0))
        seconds = 0;
    if (seconds < 0.9995)
        snprintf(ret, OUTPUT_TEXT, "%.0f ms", seconds * 1e3);
    else if (seconds < 59.95)
        snprintf(ret, OUTPUT_TEXT, "%.1f s", seconds);
    else if (seconds < 3599.5)
        snprintf(ret, OUTPUT_TEXT, "%d min %02d s", (int)lround(seconds) / 60,
                 (int)lround(seconds) % 60);
    else if (seconds < 86400)
        snprintf(ret, OUTPUT_TEXT, "%d h %02d min", (int)lround(seconds) / 3600,
                 (int)lround(seconds) / 60 % 60);
    else
        snprintf(ret, OUTPUT_TEXT, "%.0f d %d h", floor(seconds / 86400),
                 (int)(fmod(seconds, 86400) / 3600));
    return ret;
}

char *output_age(int64_t then_ns, int64_t now_ns, char ret[OUTPUT_TEXT])
{
    if (then_ns <= 0) {
        snprintf(ret, OUTPUT_TEXT, "-");
        return ret;
    }
    double seconds = ((double)now_ns - (double)then_ns) / 1e9;
    const char *after = seconds < 0 ? "" : " ago";
    const char *before = seconds < 0 ? "in " : "";
    double s = fabs(seconds);
    if (s < 60)
        snprintf(ret, OUTPUT_TEXT, "%s%d s%s", before, (int)s, after);
    else if (s < 3600)
        snprintf(ret, OUTPUT_TEXT, "%s%d min%s", before, (int)s / 60, after);
    else if (s < 2 * 86400.0)
        snprintf(ret, OUTPUT_TEXT, "%s%d h%s", before, (int)s / 3600, after);
    else
        snprintf(ret, OUTPUT_TEXT, "%s%.0f d%s", before, floor(s / 86400), after);
    return ret;
}

char *output_time(int64_t time_ns, char ret[OUTPUT_TEXT])
{
    int64_t second = time_ns / 1000000000;
    int64_t rest = time_ns % 1000000000;
    if (rest < 0) {
        rest += 1000000000;
        second--;
    }
    time_t t = (time_t)second;
    struct tm tm;
    size_t len = gmtime_r(&t, &tm) ? strftime(ret, OUTPUT_TEXT, "%Y-%m-%dT%H:%M:%S", &tm) : 0;
    snprintf(ret + len, OUTPUT_TEXT - len, ".%03dZ", (int)(rest / 1000000));
    return ret;
}

char *output_count(uint64_t n, const char *one, char ret[OUTPUT_TEXT])
{
    snprintf(ret, OUTPUT_TEXT, "%" PRIu64 " %s%s", n, one, n == 1 ? "" : "s");
    return ret;
}

bool output_parse_u64(const char *text, uint64_t *ret)
{
    if (*text < '0' || *text > '9')
        return false;
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno || *end)
        return false;
    *ret = value;
    return true;
}

bool output_parse_bytes(const char *text, uint64_t *ret)
{
    static const char units[] = "kmgtp";
    if (*text < '0' || *text > '9')
        return false;
    char *end;
    errno = 0;
    uint64_t value = strtoull(text, &end, 10);
    if (errno)
        return false;
    if (*end) {
        const char *unit = strchr(units, *end | 0x20);
        if (!unit)
            return false;
        uint64_t factor = UINT64_C(1) << (10 * (unit - units + 1));
        if (__builtin_mul_overflow(value, factor, &value))
            return false;
        end++;
        if (strcmp(end, "iB") == 0 || strcmp(end, "B") == 0)
            end += strlen(end);
    }
    if (*end)
        return false;
    *ret = value;
    return true;
}

int64_t output_now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

double output_monotonic(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* Without memory a long line is cut, not lost. */
void output_line(FILE *to, const char *fmt, ...)
{
    char cut[2048];
    CLEANUP_FREE char *whole = NULL;
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(cut, sizeof(cut), fmt, ap);
    if (n >= (int)sizeof(cut) && vasprintf(&whole, fmt, again) < 0)
        whole = NULL;
    va_end(again);
    va_end(ap);
    char *text = whole ? whole : cut;
    fprintf(to, "%s\n", n < 0 ? "" : text_clean(text, text, strlen(text) + 1));
}

/* -- tables -------------------------------------------------------------- */

void output_table_init(struct output_table *t, const struct output_column *columns, size_t count)
{
    *t = (struct output_table){ .columns = columns, .column_count = count };
}

void output_table_fini(struct output_table *t)
{
    for (size_t i = 0; i < t->row_count * t->column_count; i++)
        free(t->cells[i]);
    free(t->cells);
    free(t->tones);
    *t = (struct output_table){ 0 };
}

static bool more_rows(struct output_table *t)
{
    if (t->row_count < t->row_cap)
        return true;
    size_t cap = t->row_cap ? t->row_cap * 2 : 32;
    char **cells = reallocarray(t->cells, cap, t->column_count * sizeof(*cells));
    if (cells)
        t->cells = cells;
    enum output_tone *tones = reallocarray(t->tones, cap, sizeof(*tones));
    if (tones)
        t->tones = tones;
    if (!cells || !tones)
        return false;
    t->row_cap = cap;
    return true;
}

void output_row(struct output_table *t, enum output_tone tone)
{
    if (t->failed || !more_rows(t)) {
        t->failed = true;
        return;
    }
    memset(&t->cells[t->row_count * t->column_count], 0, t->column_count * sizeof(*t->cells));
    t->tones[t->row_count++] = tone;
}

void output_cell(struct output_table *t, size_t column, const char *fmt, ...)
{
    if (t->failed)
        return;
    char *text = NULL;
    va_list ap;
    va_start(ap, fmt);
    int n = vasprintf(&text, fmt, ap);
    va_end(ap);
    if (n < 0) {
        t->failed = true;
        return;
    }
    text_clean(text, text, (size_t)n + 1);
    char **cell = &t->cells[(t->row_count - 1) * t->column_count + column];
    free(*cell);
    *cell = text;
}

/* Characters of UTF-8, which is what a terminal shows a cell of. */
static int text_width(const char *text)
{
    int width = 0;
    for (; *text; text++)
        width += ((unsigned char)*text & 0xc0) != 0x80;
    return width;
}

static int column_width(const struct output_table *t, size_t column)
{
    int width = text_width(t->columns[column].title);
    for (size_t row = 0; row < t->row_count; row++) {
        const char *cell = t->cells[row * t->column_count + column];
        int w = cell ? text_width(cell) : 0;
        width = w > width ? w : width;
    }
    return width;
}

static void print_cell(const struct output_table *t, size_t column, int width, const char *cell,
                       bool last, FILE *to)
{
    int pad = width - text_width(cell);
    if (t->columns[column].align == OUTPUT_RIGHT)
        fprintf(to, "%*s%s", pad, "", cell);
    else
        fprintf(to, "%s%*s", cell, last ? 0 : pad, "");
    fputs(last ? "\n" : "  ", to);
}

/* A line ends with its last cell that has something in it: no blanks behind it. */
static void print_row(const struct output_table *t, const int *widths, char *const *cells, FILE *to)
{
    size_t n = t->column_count;
    while (n > 1 && !(cells[n - 1] && cells[n - 1][0]))
        n--;
    for (size_t c = 0; c < n; c++)
        print_cell(t, c, widths[c], cells[c] ? cells[c] : "", c + 1 == n, to);
}

static const char *tone_code(enum output_tone tone)
{
    static const char *const codes[] = { "", "\033[2m", "\033[32m", "\033[31m" };
    return codes[tone];
}

static enum { COLOUR_AUTO, COLOUR_ALWAYS, COLOUR_NEVER } colour_when;

bool output_set_colour(const char *when)
{
    static const char *const words[] = { "auto", "always", "never" };
    for (size_t i = 0; i < ARRAY_COUNT(words); i++) {
        if (strcmp(when, words[i]) == 0) {
            colour_when = (int)i;
            return true;
        }
    }
    return false;
}

static bool coloured(FILE *to)
{
    const char *no = getenv("NO_COLOR");
    if (colour_when != COLOUR_AUTO)
        return colour_when == COLOUR_ALWAYS;
    return isatty(fileno(to)) && !(no && *no);
}

void output_pin_colour(FILE *to)
{
    colour_when = coloured(to) ? COLOUR_ALWAYS : COLOUR_NEVER;
}

enum ckpt_status output_table_print(const struct output_table *t, FILE *to, struct ckpt_err *err)
{
    CLEANUP_FREE int *widths = calloc(t->column_count, sizeof(*widths));
    if (t->failed || !widths)
        return err_set(err, CKPT_NO_MEMORY, "no memory to print a table");
    bool colour = coloured(to);
    for (size_t c = 0; c < t->column_count; c++)
        widths[c] = column_width(t, c);
    for (size_t c = 0; c < t->column_count; c++)
        print_cell(t, c, widths[c], t->columns[c].title, c + 1 == t->column_count, to);
    for (size_t row = 0; row < t->row_count; row++) {
        bool toned = colour && t->tones[row] != OUTPUT_PLAIN;
        fputs(toned ? tone_code(t->tones[row]) : "", to);
        print_row(t, widths, t->cells + row * t->column_count, to);
        fputs(toned ? "\033[0m" : "", to);
    }
    return CKPT_OK;
}

/* -- JSON ---------------------------------------------------------------- */

enum ckpt_status output_flush(struct ckpt_err *err)
{
    if (fflush(stdout) != 0 || ferror(stdout))
        return err_errno(err, errno ? errno : EIO, "cannot write the answer to standard output");
    return CKPT_OK;
}

json_t *output_string(const char *text)
{
    CLEANUP_FREE char *valid = text ? text_valid(text) : NULL;
    if (!text)
        return json_null();
    return valid ? json_string(valid) : NULL;
}

void output_member(json_t *to, const char *name, json_t *value)
{
    CLEANUP_FREE char *key = text_valid(name);
    while (key && json_object_get(to, key)) {
        char *longer = NULL;
        if (asprintf(&longer, "%s\ufffd", key) < 0)
            longer = NULL;
        free(key);
        key = longer;
    }
    if (key)
        json_object_set_new(to, key, value);
    else
        json_decref(value);
}

/* DEL is the one control character that jansson leaves as it is. */
static void put_json(const char *text)
{
    for (; *text; text++) {
        if (*text == 0x7f)
            fputs("\\u007F", stdout);
        else
            putchar(*text);
    }
    putchar('\n');
}

enum ckpt_status output_json(json_t *value, struct ckpt_err *err)
{
    const size_t how =
        JSON_INDENT(2) | JSON_ENCODE_ANY | JSON_ENSURE_ASCII | JSON_REAL_PRECISION(17);
    CLEANUP_FREE char *text = value ? json_dumps(value, how) : NULL;
    json_decref(value);
    if (!text)
        return err_set(err, CKPT_NO_MEMORY, "no memory for the answer as JSON");
    put_json(text);
    return output_flush(err);
}

json_t *output_attempt(uint64_t attempt)
{
    return json_sprintf("%016" PRIx64, attempt);
}

json_t *output_point(const char *job, const struct ckpt_name *name)
{
    return json_pack("{s:o, s:I, s:I, s:o}", "job", output_string(job), "step",
                     (json_int_t)name->step, "epoch", (json_int_t)name->epoch, "attempt",
                     output_attempt(name->attempt));
}

/* -- progress ------------------------------------------------------------ */

struct output_progress output_progress_start(const char *what)
{
    double now = output_monotonic();
    return (struct output_progress){
        .what = what, .to = stderr, .tty = isatty(STDERR_FILENO), .started = now, .last = now
    };
}

/* True when it is time for a line; then counts as shown. */
static bool progress_due(struct output_progress *p, double now)
{
    double pause = !p->shown ? PROGRESS_AFTER_S : p->tty ? PROGRESS_TTY_S : PROGRESS_PLAIN_S;
    if (now - p->started < PROGRESS_AFTER_S || now - p->last < pause)
        return false;
    p->shown = true;
    p->last = now;
    return true;
}

void output_progress_step(struct output_progress *p, uint64_t done, uint64_t total, double now)
{
    if (!progress_due(p, now))
        return;
    char a[OUTPUT_TEXT], b[OUTPUT_TEXT], rate[OUTPUT_TEXT], eta[OUTPUT_TEXT];
    double elapsed = now - p->started;
    double left = done ? elapsed * (double)(total > done ? total - done : 0) / (double)done : 0;
    int percent = total ? (int)(100.0 * (double)min_u64(done, total) / (double)total) : 100;
    fprintf(p->to, "%s%s: %s of %s (%d %%), %s, %s left%s", p->tty ? "\r\033[K" : "", p->what,
            output_bytes(done, a), output_bytes(total, b), percent,
            output_rate(done, elapsed, rate), done ? output_seconds(left, eta) : "unknown time",
            p->tty ? "" : "\n");
    fflush(p->to);
}

void output_progress_wait(struct output_progress *p, const char *phase, double now)
{
    char text[OUTPUT_TEXT];
    if (!progress_due(p, now))
        return;
    fprintf(p->to, "%s%s: %s, %s%s", p->tty ? "\r\033[K" : "", p->what, phase,
            output_seconds(now - p->started, text), p->tty ? "" : "\n");
    fflush(p->to);
}

void output_progress_end(struct output_progress *p)
{
    if (p->shown && p->tty)
        fputs("\r\033[K", p->to);
    p->shown = false;
}
