/* Drawings: draw_grid.c against pictures written by hand, draw_svg.c for being well-formed
 * whatever the names, and both for anything that people can cut. */
#include "formats/layout.h"
#include "tools/draw.h"

#include "check.h"

static long cases;

static struct draw_part part(uint32_t ndim, uint64_t off0, uint64_t len0, uint64_t off1,
                             uint64_t len1, uint32_t owner)
{
    struct draw_part p = { .box = { .ndim = ndim, .off = { off0, off1 }, .len = { len0, len1 } },
                           .owner = owner };
    snprintf(p.label, sizeof(p.label), "%u", owner);
    return p;
}

static void drawn(uint32_t ndim, const uint64_t *shape, const struct draw_part *parts, size_t n,
                  const char *want)
{
    struct draw_grid g;
    char *text = NULL;
    size_t len = 0;
    FILE *to = open_memstream(&text, &len);
    CHECK(to);
    CHECK_OK(draw_grid_init(&g, ndim, shape, parts, n, NULL));
    draw_text(&g, parts, to);
    fclose(to);
    if (strcmp(text, want) != 0) {
        printf("drawn:\n%sexpected:\n%s", text, want);
        exit(1);
    }
    free(text);
    cases++;
}

static void test_text(void)
{
    const uint64_t matrix[2] = { 4, 6 }, vector[1] = { 10 };
    const struct draw_part flat[] = { part(2, 0, 1, 0, 6, 0), part(2, 1, 1, 0, 3, 0),
                                      part(2, 1, 1, 3, 3, 1), part(2, 2, 2, 0, 6, 1) };
    drawn(2, matrix, flat, 4,
          "            0                3                6\n"
          "          0 ┌─────────────────────────────────┐\n"
          "            │ 0                               │\n"
          "          1 │                ┌────────────────┤\n"
          "            │                │ 1              │\n"
          "          2 ├────────────────┘                │\n"
          "            │ 1                               │\n"
          "          4 └─────────────────────────────────┘\n");
    const struct draw_part columns[] = { part(2, 0, 4, 0, 3, 7), part(2, 0, 4, 3, 3, 8) };
    drawn(2, matrix, columns, 2,
          "            0                3                6\n"
          "          0 ┌────────────────┬────────────────┐\n"
          "            │ 7              │ 8              │\n"
          "          4 └────────────────┴────────────────┘\n");
    const struct draw_part hole[] = { part(1, 0, 4, 0, 0, 1), part(1, 6, 4, 0, 0, 1) };
    drawn(1, vector, hole, 2,
          "            0          4          6          10\n"
          "            ┌──────────┬──────────┬──────────┐\n"
          "            │ 1        │ nobody   │ 1        │\n"
          "            └──────────┴──────────┴──────────┘\n");
    const struct draw_part scalar[] = { part(0, 0, 0, 0, 0, 3) };
    drawn(0, NULL, scalar, 1,
          "            \n"
          "            ┌────────────────────────────────┐\n"
          "            │ 3                              │\n"
          "            └────────────────────────────────┘\n");
}

/* More parts than bands: the middle is left out, and said so. */
static void test_many(void)
{
    struct draw_part parts[40];
    struct draw_grid g;
    const uint64_t shape[1] = { 400 };
    for (uint32_t i = 0; i < 40; i++)
        parts[i] = part(1, 10 * i, 10, 0, 0, i);
    CHECK_OK(draw_grid_init(&g, 1, shape, parts, 40, NULL));
    CHECK_EQ(g.column_count, DRAW_BANDS_MAX);
    CHECK(g.columns[DRAW_BANDS_MAX - 2].gap && g.columns[DRAW_BANDS_MAX - 1].to == 400);
    CHECK_EQ(g.cell[0][DRAW_BANDS_MAX - 1], 39);
    char *text = NULL;
    size_t len = 0;
    FILE *to = open_memstream(&text, &len);
    CHECK(to);
    draw_text(&g, parts, to);
    fclose(to);
    CHECK(strstr(text, "│ 9 ") && strstr(text, "│ ... ") && strstr(text, "│ 39 "));
    CHECK(!strstr(text, "│ 20 "));
    free(text);
    const uint64_t cube[3] = { 4, 4, 4 };
    struct draw_part corner = { .box = { .ndim = 3, .len = { 2, 2, 2 } } };
    CHECK_OK(draw_grid_init(&g, 3, cube, &corner, 1, NULL));
    CHECK(g.too_many);
    corner.box.len[1] = 4;
    CHECK_OK(draw_grid_init(&g, 3, cube, &corner, 1, NULL));
    CHECK(!g.too_many && g.row_dim == 0 && g.column_dim == 2);
    cases += 3;
}

/* Every tag that is opened is closed, and nothing of a name is markup. */
static void check_svg(const char *path)
{
    static char text[1 << 20];
    FILE *from = fopen(path, "re");
    CHECK(from);
    size_t len = fread(text, 1, sizeof(text) - 1, from);
    fclose(from);
    text[len] = 0;
    CHECK(strncmp(text, "<svg ", 5) == 0 && strstr(text, "</svg>\n"));
    CHECK(!strstr(text, "<b>") && !strstr(text, "nan") && !strstr(text, "inf"));
    long open = 0;
    for (const char *at = text; *at; at++) {
        open += at[0] == '<' && at[1] != '/';
        open -= (at[0] == '<' && at[1] == '/') || (at[0] == '/' && at[1] == '>');
        CHECK(open >= 0 && *at != '\033');
    }
    CHECK_EQ(open, 0);
}

static void test_svg(void)
{
    static const char path[] = "/tmp/ckpt-test-draw.svg";
    struct draw_svg s = { 0 };
    struct ckpt_err err = { 0 };
    unsigned long long seed = test_seed(3);
    draw_svg_heading(&s, "a<b>&\"c\033");
    for (int i = 0; i < 200; i++) {
        struct draw_part parts[16];
        struct layout_piece pieces[16];
        struct draw_grid g;
        uint64_t shape[2] = { test_rand(&seed) % 9, test_rand(&seed) % 9 };
        uint32_t n = 1 + (uint32_t)(test_rand(&seed) % 5);
        size_t count = 0;
        struct box whole = box_whole(2, shape);
        uint64_t each = div_up(shape[0] * shape[1], n);
        for (uint32_t r = 0; r < n && each > 0; r++) {
            struct layout_out out = { .piece = pieces, .cap = 16 };
            uint64_t start = min_u64(each * r, shape[0] * shape[1]);
            CHECK_OK(layout_flat(&whole, 1, 8, start, min_u64(each, shape[0] * shape[1] - start),
                                 &out, NULL));
            for (size_t k = 0; k < out.count; k++) {
                parts[count] = (struct draw_part){ .box = pieces[k].box, .owner = r };
                snprintf(parts[count++].label, DRAW_LABEL, "%u", r);
            }
        }
        CHECK_OK(draw_grid_init(&g, 2, shape, parts, count, NULL));
        draw_svg_tensor(&s, "<b>", &g, parts);
        cases++;
    }
    CHECK_OK(draw_svg_write(&s, path, NULL));
    check_svg(path);
    unlink(path);
    CHECK_EQ(draw_svg_write(&s, "/nowhere/x.svg", &err), CKPT_NOT_FOUND);
    CHECK(strstr(err.text, "/nowhere/x.svg"));
    CHECK_EQ(draw_svg_write(&s, "/dev/full", NULL), CKPT_FULL);
    s.failed = true;
    CHECK_EQ(draw_svg_write(&s, path, NULL), CKPT_NO_MEMORY);
    draw_svg_fini(&s);
    cases += 4;
}

int main(void)
{
    test_text();
    test_many();
    test_svg();
    TEST_CASES(cases);
    return 0;
}
