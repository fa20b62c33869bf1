/* A daemon's status as text. */
#include "tools/page_view.h"

#include <inttypes.h>

#include "formats/text.h"
#include "tools/output.h"

#define CELL_MAX    256
#define COLUMNS_MAX 32

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* Seconds that do not say so. */
static bool is_span(const char *key)
{
    return strcmp(key, "age") == 0 || strcmp(key, "eta") == 0 || strcmp(key, "uptime") == 0;
}

/* A number in the unit that its name says. */
static void number_text(const char *key, double n, char *ret)
{
    char text[OUTPUT_TEXT];
    if (ends_with(key, "rate") && n >= 0)
        output_rate((uint64_t)n, 1, text);
    else if (strstr(key, "bytes") && n >= 0)
        output_bytes((uint64_t)n, text);
    else if (ends_with(key, "time_ns"))
        output_age((int64_t)n, output_now_ns(), text);
    else if (ends_with(key, "_ns"))
        output_seconds(n / 1e9, text);
    else if (ends_with(key, "_ms"))
        output_seconds(n / 1e3, text);
    else if (ends_with(key, "_s") || ends_with(key, "seconds") || is_span(key))
        output_seconds(n, text);
    else
        snprintf(text, sizeof(text), "%.10g", n);
    snprintf(ret, CELL_MAX, "%s", text);
}

static void value_text(const char *key, const json_t *value, char *ret)
{
    *ret = 0;
    if (json_is_number(value)) {
        number_text(key, json_number_value(value), ret);
    } else if (json_is_string(value)) {
        text_clean(json_string_value(value), ret, CELL_MAX);
    } else if (json_is_boolean(value)) {
        snprintf(ret, CELL_MAX, "%s", json_is_true(value) ? "yes" : "no");
    } else if (json_is_object(value) || json_is_array(value)) {
        CLEANUP_FREE char *text = json_dumps(value, JSON_COMPACT);
        text_clean(text ? text : "", ret, CELL_MAX);
    } else {
        snprintf(ret, CELL_MAX, "-");
    }
}

/* "arena_bytes" is "ARENA": the unit is in the cell. */
static void title_text(const char *key, char ret[OUTPUT_TEXT])
{
    static const char *const units[] = { "_bytes", "_time_ns", "_ns", "_ms", "_s", "_seconds" };
    size_t n = strnlen(key, OUTPUT_TEXT - 1);
    for (size_t i = 0; i < ARRAY_COUNT(units); i++) {
        if (n > strlen(units[i]) && n == strlen(key) && ends_with(key, units[i])) {
            n -= strlen(units[i]);
            break;
        }
    }
    for (size_t i = 0; i < n; i++) {
        char c = key[i];
        ret[i] = c == '_' ? ' ' : c >= 'a' && c <= 'z' ? (char)(c - 0x20) : c;
    }
    ret[n] = 0;
    text_clean(ret, ret, OUTPUT_TEXT);
}

static bool is_table(const json_t *value)
{
    return json_is_array(value) && json_is_object(json_array_get(value, 0));
}

static bool has_key(const char *const *keys, size_t count, const char *key)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(keys[i], key) == 0)
            return true;
    }
    return false;
}

/* The columns are the members of all objects that are not lists themselves. */
static size_t pick_columns(const json_t *rows, const char **keys, struct output_column *columns,
                           char titles[][OUTPUT_TEXT])
{
    const char *key;
    json_t *value;
    size_t count = 0;
    for (size_t i = 0; i < json_array_size(rows); i++) {
        json_object_foreach(json_array_get(rows, i), key, value)
        {
            if (count == COLUMNS_MAX || json_is_array(value) || has_key(keys, count, key))
                continue;
            keys[count] = key;
            title_text(key, titles[count]);
            columns[count] =
                (struct output_column){ titles[count],
                                        json_is_number(value) ? OUTPUT_RIGHT : OUTPUT_LEFT };
            count++;
        }
    }
    return count;
}

static enum ckpt_status print_table(const char *name, const json_t *rows, FILE *to,
                                    struct ckpt_err *err)
{
    const char *keys[COLUMNS_MAX];
    struct output_column columns[COLUMNS_MAX];
    char titles[COLUMNS_MAX][OUTPUT_TEXT], text[CELL_MAX];
    size_t count = pick_columns(rows, keys, columns, titles);
    struct output_table t;
    if (count == 0)
        return CKPT_OK;
    output_table_init(&t, columns, count);
    for (size_t i = 0; i < json_array_size(rows); i++) {
        output_row(&t, OUTPUT_PLAIN);
        for (size_t c = 0; c < count; c++) {
            value_text(keys[c], json_object_get(json_array_get(rows, i), keys[c]), text);
            output_cell(&t, c, "%s", text);
        }
    }
    fputc('\n', to);
    output_line(to, "%s", name);
    enum ckpt_status st = output_table_print(&t, to, err);
    output_table_fini(&t);
    return st;
}

/* The lists inside the rows of a list: "sessions: ops of gpt". */
static enum ckpt_status print_inner(const char *name, const json_t *rows, FILE *to,
                                    struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_OK;
    for (size_t i = 0; i < json_array_size(rows) && st == CKPT_OK; i++) {
        const char *key;
        json_t *value;
        json_object_foreach((json_t *)json_array_get(rows, i), key, value)
        {
            char title[CELL_MAX];
            snprintf(title, sizeof(title), "%s[%zu].%s", name, i, key);
            if (st == CKPT_OK && is_table(value))
                st = print_table(title, value, to, err);
        }
    }
    return st;
}

static void print_line(const char *key, const char *inner, const json_t *value, FILE *to)
{
    char text[CELL_MAX], label[CELL_MAX];
    value_text(inner ? inner : key, value, text);
    snprintf(label, sizeof(label), "%s%s%s", key, inner ? "." : "", inner ? inner : "");
    output_line(to, "%-24s %s", label, text);
}

static void print_strings(const char *key, const json_t *list, FILE *to)
{
    for (size_t i = 0; i < json_array_size(list); i++)
        print_line(i ? "" : key, NULL, json_array_get(list, i), to);
}

static void print_plain(const json_t *page, FILE *to)
{
    const char *key, *inner;
    json_t *value, *member;
    json_object_foreach((json_t *)(uintptr_t)page, key, value)
    {
        if (!json_is_object(value) && !json_is_array(value))
            print_line(key, NULL, value, to);
        if (json_is_array(value) && json_array_size(value) == 0)
            output_line(to, "%-24s none", key);
        if (json_is_string(json_array_get(value, 0)))
            print_strings(key, value, to);
        if (!json_is_object(value))
            continue;
        json_object_foreach(value, inner, member) print_line(key, inner, member, to);
    }
}

enum ckpt_status page_view_print(const json_t *page, FILE *to, struct ckpt_err *err)
{
    const char *key;
    json_t *value;
    enum ckpt_status st = CKPT_OK;
    if (!json_is_object(page))
        return err_set(err, CKPT_CORRUPT, "ckptd's status is not a JSON object");
    print_plain(page, to);
    json_object_foreach((json_t *)(uintptr_t)page, key, value)
    {
        if (st == CKPT_OK && is_table(value))
            st = print_table(key, value, to, err);
        if (st == CKPT_OK && is_table(value))
            st = print_inner(key, value, to, err);
    }
    return st;
}
