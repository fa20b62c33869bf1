/* Drawings as an SVG page: to scale, one colour for each holder. */
#include <stdarg.h>

#include "formats/text.h"
#include "tools/draw.h"

#define PAGE_WIDTH  860
#define LEFT        24
#define DRAW_WIDTH  520
#define DRAW_HEIGHT 150 /* of a square matrix; flat ones are lower */
#define ROW_HEIGHT  34  /* of what has one row */

/* -- text into the page -------------------------------------------------- */

static void put(struct draw_svg *s, const char *fmt, ...) CKPT_PRINTF(2, 3);
static void put(struct draw_svg *s, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n >= 0 && s->len + (size_t)n + 1 > s->cap) {
        size_t cap = 2 * (s->len + (size_t)n + 1);
        char *more = realloc(s->body, cap);
        s->failed |= !more;
        if (more) {
            s->body = more;
            s->cap = cap;
        }
    }
    if (n >= 0 && s->len + (size_t)n + 1 <= s->cap)
        s->len += (size_t)vsnprintf(s->body + s->len, s->cap - s->len, fmt, again);
    va_end(again);
}

/* Names come from a store: nothing in them may be markup, nor what text_clean takes away. */
static void put_escaped(struct draw_svg *s, const char *text)
{
    CLEANUP_FREE char *clean = strdup(text);
    s->failed |= !clean;
    if (clean)
        text_clean(clean, clean, strlen(clean) + 1);
    for (const char *c = clean; c && *c; c++) {
        if (strchr("&<>\"", *c))
            put(s, "&#%d;", *c);
        else
            put(s, "%c", *c);
    }
}

static void words(struct draw_svg *s, const char *class, unsigned height, const char *text)
{
    s->y += height;
    put(s, "<text class=\"%s\" x=\"%d\" y=\"%u\">", class, LEFT, s->y);
    put_escaped(s, text);
    put(s, "</text>\n");
}

void draw_svg_heading(struct draw_svg *s, const char *text)
{
    words(s, "h", 32, text);
}

void draw_svg_words(struct draw_svg *s, const char *text)
{
    words(s, "w", 20, text);
}

/* -- a tensor ------------------------------------------------------------ */

struct frame {
    double x, y, width, height;
    double row_from, row_span, column_from, column_span;
};

static double row_y(const struct frame *f, uint64_t at)
{
    return f->y + f->height * ((double)at - f->row_from) / f->row_span;
}

static double column_x(const struct frame *f, uint64_t at)
{
    return f->x + f->width * ((double)at - f->column_from) / f->column_span;
}

static struct frame frame_of(const struct draw_grid *g, unsigned y)
{
    const struct draw_band *last_row = &g->rows[g->row_count - 1];
    const struct draw_band *last_column = &g->columns[g->column_count - 1];
    struct frame f = { .x = LEFT, .y = y, .width = DRAW_WIDTH, .height = ROW_HEIGHT };
    f.row_span = last_row->to > 0 ? (double)last_row->to : 1;
    f.column_span = last_column->to > 0 ? (double)last_column->to : 1;
    if (g->row_count > 1)
        f.height = DRAW_HEIGHT;
    return f;
}

/* Golden angle: neighbours in number are far apart in colour. */
static void put_colour(struct draw_svg *s, uint32_t owner)
{
    put(s, "hsl(%u,62%%,%u%%)", owner * 137u % 360u, 74 - owner / 24 % 3 * 8);
}

static void put_cell(struct draw_svg *s, const struct frame *f, const struct draw_grid *g,
                     const struct draw_part *parts, size_t r, size_t c)
{
    double x = column_x(f, g->columns[c].from), y = row_y(f, g->rows[r].from);
    double width = column_x(f, g->columns[c].to) - x, height = row_y(f, g->rows[r].to) - y;
    size_t part = g->cell[r][c];
    bool gap = g->rows[r].gap || g->columns[c].gap;
    put(s, "<rect x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\" fill=\"", x, y, width,
        height);
    if (gap || part == SIZE_MAX)
        put(s, "%s", gap ? "#eee" : "#fff");
    else
        put_colour(s, parts[part].owner);
    put(s, "\"/>\n");
}

static void put_line(struct draw_svg *s, double x0, double y0, double x1, double y1)
{
    put(s, "<line x1=\"%.2f\" y1=\"%.2f\" x2=\"%.2f\" y2=\"%.2f\"/>\n", x0, y0, x1, y1);
}

static void put_borders(struct draw_svg *s, const struct frame *f, const struct draw_grid *g,
                        const struct draw_part *parts, size_t r, size_t c)
{
    double x0 = column_x(f, g->columns[c].from), x1 = column_x(f, g->columns[c].to);
    double y0 = row_y(f, g->rows[r].from), y1 = row_y(f, g->rows[r].to);
    if (r == 0 || !draw_same(g, parts, r - 1, c, r, c))
        put_line(s, x0, y0, x1, y0);
    if (c == 0 || !draw_same(g, parts, r, c - 1, r, c))
        put_line(s, x0, y0, x0, y1);
    if (r + 1 == g->row_count)
        put_line(s, x0, y1, x1, y1);
    if (c + 1 == g->column_count)
        put_line(s, x1, y0, x1, y1);
}

/* The label goes into the largest cell of its area, if that is large enough. */
static void put_label(struct draw_svg *s, const struct frame *f, const struct draw_grid *g,
                      const struct draw_part *parts, size_t r, size_t c)
{
    double x0 = column_x(f, g->columns[c].from), x1 = column_x(f, g->columns[c].to);
    double y0 = row_y(f, g->rows[r].from), y1 = row_y(f, g->rows[r].to);
    bool gap = g->rows[r].gap || g->columns[c].gap;
    const char *label = gap                         ? "..."
                        : g->cell[r][c] == SIZE_MAX ? "nobody"
                                                    : parts[g->cell[r][c]].label;
    for (size_t i = 0; i < g->row_count; i++) {
        for (size_t k = 0; k < g->column_count; k++) {
            double area = (row_y(f, g->rows[i].to) - row_y(f, g->rows[i].from)) *
                          (column_x(f, g->columns[k].to) - column_x(f, g->columns[k].from));
            bool before = i < r || (i == r && k < c);
            double mine = (x1 - x0) * (y1 - y0);
            if (draw_same(g, parts, r, c, i, k) && (area > mine || (before && area >= mine)))
                return;
        }
    }
    if (x1 - x0 < 7 * (double)strlen(label) || y1 - y0 < 12)
        return;
    put(s, "<text class=\"l\" x=\"%.2f\" y=\"%.2f\">", (x0 + x1) / 2, (y0 + y1) / 2 + 4);
    put_escaped(s, label);
    put(s, "</text>\n");
}

/* Dimensions beside the drawing. */
static void put_size(struct draw_svg *s, const struct frame *f, const struct draw_grid *g)
{
    double x = f->x + f->width + 12;
    if (g->row_dim < g->ndim)
        put(s, "<text class=\"w\" x=\"%.2f\" y=\"%.2f\">dim %u: %llu down</text>\n", x, f->y + 14,
            g->row_dim, (unsigned long long)g->rows[g->row_count - 1].to);
    if (g->column_dim < g->ndim)
        put(s, "<text class=\"w\" x=\"%.2f\" y=\"%.2f\">dim %u: %llu across</text>\n", x, f->y + 32,
            g->column_dim, (unsigned long long)g->columns[g->column_count - 1].to);
}

void draw_svg_tensor(struct draw_svg *s, const char *title, const struct draw_grid *g,
                     const struct draw_part *parts)
{
    words(s, "t", 34, title);
    if (g->too_many) {
        draw_svg_words(s, "cut in more than two dimensions: not drawn");
        return;
    }
    struct frame f = frame_of(g, s->y + 10);
    for (size_t r = 0; r < g->row_count; r++) {
        for (size_t c = 0; c < g->column_count; c++)
            put_cell(s, &f, g, parts, r, c);
    }
    for (size_t r = 0; r < g->row_count; r++) {
        for (size_t c = 0; c < g->column_count; c++) {
            put_borders(s, &f, g, parts, r, c);
            put_label(s, &f, g, parts, r, c);
        }
    }
    put_size(s, &f, g);
    s->y += 10 + (unsigned)f.height;
}

/* -- the page ------------------------------------------------------------ */

enum ckpt_status draw_svg_write(const struct draw_svg *s, const char *path, struct ckpt_err *err)
{
    if (s->failed)
        return err_set(err, CKPT_NO_MEMORY, "no memory for the drawing");
    FILE *to = fopen(path, "we");
    if (!to)
        return err_errno(err, errno, "cannot write %s", path);
    fprintf(
        to,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%u\">\n"
        "<style>text{font-family:sans-serif;fill:#222}.h{font-size:18px;font-weight:bold}"
        ".w{font-size:13px;fill:#555}.t{font-size:14px;font-weight:bold}"
        ".l{font-size:12px;text-anchor:middle}line{stroke:#222;stroke-width:1}rect{shape-rendering:crispEdges}</style>\n"
        "<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n%s</svg>\n",
        PAGE_WIDTH, s->y + 30, s->body ? s->body : "");
    int why = ferror(to) ? errno : 0;
    if (fclose(to) != 0 && !why)
        why = errno;
    return why ? err_errno(err, why, "cannot write %s", path) : CKPT_OK;
}

void draw_svg_fini(struct draw_svg *s)
{
    free(s->body);
    *s = (struct draw_svg){ 0 };
}
