/* Drawings of a tensor: which rank has which part of it.
 *
 *      0        32       64
 *    0 ┌────────┬────────┐
 *      │ 0 4    │ 1 5    │      ranks 0 and 4 hold the upper left quarter
 *   16 ├────────┼────────┤
 *      │ 2 6    │ 3 7    │
 *   32 └────────┴────────┘
 *
 * A tensor is cut into bands along the dimensions in which it is cut, two at most: the
 * first goes down, the second to the right (of a matrix always rows and columns). */
#pragma once

#include <stdio.h>

#include "formats/box.h"

#define DRAW_BANDS_MAX 12 /* along one dimension; what is between is left out */
#define DRAW_LABEL     40

/* A part and who has it.  Parts of the same owner that touch are drawn as one. */
struct draw_part {
    struct box box;
    uint32_t owner; /* same number, same label */
    char label[DRAW_LABEL];
};
struct draw_band {
    uint64_t from, to;
    bool gap; /* several bands that are left out */
};
struct draw_grid {
    struct draw_band rows[DRAW_BANDS_MAX], columns[DRAW_BANDS_MAX];
    size_t row_count, column_count;
    /* Number of the part in each cell; SIZE_MAX: none; of a gap: whatever lies there. */
    size_t cell[DRAW_BANDS_MAX][DRAW_BANDS_MAX];
    uint32_t ndim;
    uint32_t row_dim, column_dim; /* ndim: there is no such dimension */
    bool too_many;                /* cut in more than two dimensions: not drawn */
};
/* Parts do not overlap. */
enum ckpt_status draw_grid_init(struct draw_grid *g, uint32_t ndim, const uint64_t *shape,
                                const struct draw_part *parts, size_t count, struct ckpt_err *err)
    CKPT_MUST_CHECK;
/* True if the two cells are drawn as one. */
bool draw_same(const struct draw_grid *g, const struct draw_part *parts, size_t row_a,
               size_t column_a, size_t row_b, size_t column_b);
void draw_text(const struct draw_grid *g, const struct draw_part *parts, FILE *to);

/* A page of drawings, one below the other. */
struct draw_svg {
    char *body; /* owned; grows */
    size_t len, cap;
    unsigned y;
    bool failed; /* no memory: something is missing */
};
/* Lines of words at the head of the page. */
void draw_svg_heading(struct draw_svg *s, const char *text);
void draw_svg_words(struct draw_svg *s, const char *text);
/* One tensor under its title. */
void draw_svg_tensor(struct draw_svg *s, const char *title, const struct draw_grid *g,
                     const struct draw_part *parts);
/* Writes the page; CKPT_IO, CKPT_NO_MEMORY. */
enum ckpt_status draw_svg_write(const struct draw_svg *s, const char *path, struct ckpt_err *err)
    CKPT_MUST_CHECK;
void draw_svg_fini(struct draw_svg *s);
