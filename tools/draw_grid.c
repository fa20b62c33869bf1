/* From boxes to bands, and bands to lines of text. */
#include "tools/draw.h"

/* -- bands --------------------------------------------------------------- */

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static bool is_cut(uint32_t d, const uint64_t *shape, const struct draw_part *parts, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (parts[i].box.len[d] != shape[d])
            return true;
    }
    return false;
}

/* Which dimensions are drawn. */
static void choose_dims(struct draw_grid *g, uint32_t ndim, const uint64_t *shape,
                        const struct draw_part *parts, size_t count)
{
    uint32_t cut[2], n = 0;
    g->row_dim = g->column_dim = ndim;
    if (ndim == 2) {
        g->row_dim = 0;
        g->column_dim = 1;
        return;
    }
    for (uint32_t d = 0; d < ndim; d++) {
        if (!is_cut(d, shape, parts, count))
            continue;
        if (n == 2) {
            g->too_many = true;
            return;
        }
        cut[n++] = d;
    }
    if (n == 2)
        g->row_dim = cut[0];
    if (n > 0)
        g->column_dim = cut[n - 1];
    else if (ndim > 0)
        g->column_dim = ndim - 1;
}

/* Leaves out the middle when there are too many. */
static size_t make_bands(const uint64_t *at, size_t n, struct draw_band *bands)
{
    size_t count = 0, all = n - 1;
    bool fits = all <= DRAW_BANDS_MAX;
    size_t head = fits ? all : DRAW_BANDS_MAX - 2;
    for (size_t i = 0; i < head; i++)
        bands[count++] = (struct draw_band){ .from = at[i], .to = at[i + 1] };
    if (fits)
        return count;
    bands[count++] = (struct draw_band){ .from = at[head], .to = at[all - 1], .gap = true };
    bands[count++] = (struct draw_band){ .from = at[all - 1], .to = at[all] };
    return count;
}

static enum ckpt_status cut_bands(uint32_t d, uint32_t ndim, const uint64_t *shape,
                                  const struct draw_part *parts, size_t count,
                                  struct draw_band *bands, size_t *ret_count, struct ckpt_err *err)
{
    if (d >= ndim) {
        bands[0] = (struct draw_band){ .to = 1 };
        *ret_count = 1;
        return CKPT_OK;
    }
    CLEANUP_FREE uint64_t *at = calloc(2 * count + 2, sizeof(*at));
    size_t n = 0, unique = 0;
    if (!at)
        return err_set(err, CKPT_NO_MEMORY, "no memory to draw %zu parts", count);
    at[n++] = 0;
    at[n++] = shape[d];
    for (size_t i = 0; i < count; i++) {
        at[n++] = parts[i].box.off[d];
        at[n++] = parts[i].box.off[d] + parts[i].box.len[d];
    }
    qsort(at, n, sizeof(*at), by_value);
    for (size_t i = 0; i < n; i++) {
        if (unique == 0 || at[i] != at[unique - 1])
            at[unique++] = at[i];
    }
    if (unique == 1) /* a length of 0 */
        at[unique++] = at[0];
    *ret_count = make_bands(at, unique, bands);
    return CKPT_OK;
}

static size_t part_at(const struct draw_grid *g, const struct draw_part *parts, size_t count,
                      uint64_t row, uint64_t column)
{
    for (size_t i = 0; i < count; i++) {
        const struct box *b = &parts[i].box;
        if (g->row_dim < b->ndim &&
            (row < b->off[g->row_dim] || row - b->off[g->row_dim] >= b->len[g->row_dim]))
            continue;
        if (g->column_dim < b->ndim && (column < b->off[g->column_dim] ||
                                        column - b->off[g->column_dim] >= b->len[g->column_dim]))
            continue;
        return i;
    }
    return SIZE_MAX;
}

enum ckpt_status draw_grid_init(struct draw_grid *g, uint32_t ndim, const uint64_t *shape,
                                const struct draw_part *parts, size_t count, struct ckpt_err *err)
{
    *g = (struct draw_grid){ .ndim = ndim };
    choose_dims(g, ndim, shape, parts, count);
    if (g->too_many)
        return CKPT_OK;
    enum ckpt_status st =
        cut_bands(g->row_dim, ndim, shape, parts, count, g->rows, &g->row_count, err);
    if (st == CKPT_OK)
        st = cut_bands(g->column_dim, ndim, shape, parts, count, g->columns, &g->column_count, err);
    if (st != CKPT_OK)
        return st;
    for (size_t r = 0; r < g->row_count; r++) {
        for (size_t c = 0; c < g->column_count; c++)
            g->cell[r][c] = part_at(g, parts, count, g->rows[r].from, g->columns[c].from);
    }
    return CKPT_OK;
}

bool draw_same(const struct draw_grid *g, const struct draw_part *parts, size_t row_a,
               size_t column_a, size_t row_b, size_t column_b)
{
    if (row_a >= g->row_count || row_b >= g->row_count || column_a >= g->column_count ||
        column_b >= g->column_count)
        return false;
    if (g->rows[row_a].gap != g->rows[row_b].gap ||
        g->columns[column_a].gap != g->columns[column_b].gap)
        return false;
    if (g->rows[row_a].gap || g->columns[column_a].gap)
        return true; /* what is left out has no borders inside */
    size_t a = g->cell[row_a][column_a], b = g->cell[row_b][column_b];
    if (a == SIZE_MAX || b == SIZE_MAX)
        return a == b;
    return parts[a].owner == parts[b].owner;
}

/* -- text ---------------------------------------------------------------- */

#define WIDTH_MIN 32 /* of a drawing */
#define MARGIN    12 /* columns in front, for the rows' numbers */

/* What stands in a cell; in the first one of an area alone. */
static const char *cell_label(const struct draw_grid *g, const struct draw_part *parts, size_t r,
                              size_t c)
{
    if ((r > 0 && draw_same(g, parts, r, c, r - 1, c)) ||
        (c > 0 && draw_same(g, parts, r, c, r, c - 1)))
        return "";
    if (g->rows[r].gap || g->columns[c].gap)
        return "...";
    return g->cell[r][c] == SIZE_MAX ? "nobody" : parts[g->cell[r][c]].label;
}

/* Cells of this row, from c on, that are drawn as one. */
static size_t run_length(const struct draw_grid *g, const struct draw_part *parts, size_t r,
                         size_t c)
{
    size_t n = 1;
    while (draw_same(g, parts, r, c, r, c + n))
        n++;
    return n;
}

/* As wide as labels and the numbers above need. */
static void column_widths(const struct draw_grid *g, const struct draw_part *parts, size_t *width)
{
    for (size_t c = 0; c < g->column_count; c++)
        width[c] = (size_t)snprintf(NULL, 0, "%llu", (unsigned long long)g->columns[c].from) + 1;
    for (size_t r = 0; r < g->row_count; r++) {
        for (size_t c = 0; c < g->column_count; c++) {
            size_t have = 0, n = run_length(g, parts, r, c);
            size_t want = strlen(cell_label(g, parts, r, c)) + 2;
            for (size_t k = c; k < c + n; k++)
                have += width[k] + (k > c);
            if (have < want)
                width[c + n - 1] += want - have;
        }
    }
    for (size_t c = 0; c < g->column_count; c++) /* few columns look better wider */
        width[c] = max_u64(width[c], WIDTH_MIN / g->column_count);
}

/* The sign at a corner, by which of its four arms are drawn. */
static const char *corner(bool up, bool down, bool left, bool right)
{
    static const char *const signs[16] = { " ", "╴", "╶", "─", "╷", "┐", "┌", "┬",
                                           "╵", "┘", "└", "┴", "│", "┤", "├", "┼" };
    return signs[(up ? 8 : 0) + (down ? 4 : 0) + (right ? 2 : 0) + (left ? 1 : 0)];
}

/* Edges: above cell (r, c), and to its left; r, c up to the count. */
static bool edge_above(const struct draw_grid *g, const struct draw_part *parts, size_t r, size_t c)
{
    if (c >= g->column_count)
        return false;
    return r == 0 || r == g->row_count || !draw_same(g, parts, r - 1, c, r, c);
}

static bool edge_left(const struct draw_grid *g, const struct draw_part *parts, size_t r, size_t c)
{
    if (r >= g->row_count)
        return false;
    return c == 0 || c == g->column_count || !draw_same(g, parts, r, c - 1, r, c);
}

static void border_line(const struct draw_grid *g, const struct draw_part *parts, size_t r,
                        const size_t *width, FILE *to)
{
    bool any = false;
    for (size_t c = 0; c < g->column_count; c++)
        any |= edge_above(g, parts, r, c);
    if (!any)
        return;
    if (g->row_dim < g->ndim)
        fprintf(to, "%*llu ", MARGIN - 1,
                (unsigned long long)(r < g->row_count ? g->rows[r].from : g->rows[r - 1].to));
    else
        fprintf(to, "%*s", MARGIN, "");
    for (size_t c = 0; c <= g->column_count; c++) {
        bool left = c > 0 && edge_above(g, parts, r, c - 1), right = edge_above(g, parts, r, c);
        bool up = r > 0 && edge_left(g, parts, r - 1, c), down = edge_left(g, parts, r, c);
        fputs(corner(up, down, left, right), to);
        for (size_t k = 0; c < g->column_count && k < width[c]; k++)
            fputs(right ? "─" : " ", to);
    }
    fputs("\n", to);
}

static void cell_line(const struct draw_grid *g, const struct draw_part *parts, size_t r,
                      const size_t *width, FILE *to)
{
    fprintf(to, "%*s", MARGIN, "");
    for (size_t c = 0; c < g->column_count;) {
        size_t n = run_length(g, parts, r, c), have = 0;
        for (size_t k = c; k < c + n; k++)
            have += width[k] + (k > c);
        fprintf(to, "│ %-*s", (int)have - 1, cell_label(g, parts, r, c));
        c += n;
    }
    fputs("│\n", to);
}

void draw_text(const struct draw_grid *g, const struct draw_part *parts, FILE *to)
{
    size_t width[DRAW_BANDS_MAX] = { 0 };
    if (g->too_many)
        return;
    column_widths(g, parts, width);
    fprintf(to, "%*s", MARGIN, "");
    for (size_t c = 0; c < g->column_count && g->column_dim < g->ndim; c++)
        fprintf(to, "%-*llu ", (int)width[c], (unsigned long long)g->columns[c].from);
    if (g->column_dim < g->ndim)
        fprintf(to, "%llu", (unsigned long long)g->columns[g->column_count - 1].to);
    fputs("\n", to);
    for (size_t r = 0; r < g->row_count; r++) {
        border_line(g, parts, r, width, to);
        cell_line(g, parts, r, width, to);
    }
    border_line(g, parts, g->row_count, width, to);
}
