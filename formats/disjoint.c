/* Boxes that do not overlap: guillotine cuts first, a sweep for what is left. */
#include "formats/disjoint.h"

#define PAIRS_UP_TO 6  /* so few are compared pair by pair */
#define DEPTH_MAX   64 /* nesting of cuts before the sweep takes over */

struct proof {
    uint64_t *budget;
    struct box *ret_common;
};

uint64_t disjoint_budget(size_t n)
{
    return (UINT64_C(1) << 24) + 256 * (uint64_t)n;
}

static bool spend(struct proof *p, uint64_t work)
{
    if (*p->budget < work)
        return false;
    *p->budget -= work;
    return true;
}

static int by_offset(const void *a, const void *b, void *dim)
{
    uint64_t x = (*(const struct box *const *)a)->off[*(const uint32_t *)dim];
    uint64_t y = (*(const struct box *const *)b)->off[*(const uint32_t *)dim];
    return (x > y) - (x < y);
}

static uint64_t end_of(const struct box *box, uint32_t dim)
{
    return box->off[dim] + box->len[dim];
}

/* Compares each box with those that begin before it ends; sorted along `dim`. */
static enum ckpt_status sweep(struct proof *p, const struct box **boxes, size_t n, uint32_t dim)
{
    for (size_t i = 0; i < n; i++) {
        for (size_t j = i + 1; j < n; j++) {
            if (boxes[i]->ndim && boxes[j]->off[dim] >= end_of(boxes[i], dim))
                break;
            if (!spend(p, 1))
                return CKPT_LIMIT;
            if (box_intersect(boxes[i], boxes[j], p->ret_common))
                return CKPT_COVER;
        }
    }
    return CKPT_OK;
}

/* The first place after `from` where a cut along `dim` separates the sorted boxes;
 * n if there is none. */
static size_t next_cut(const struct box **boxes, size_t n, size_t from, uint32_t dim)
{
    uint64_t end = end_of(boxes[from], dim);
    for (size_t i = from + 1; i < n; i++) {
        if (boxes[i]->off[dim] >= end)
            return i;
        end = max_u64(end, end_of(boxes[i], dim));
    }
    return n;
}

static enum ckpt_status prove(struct proof *p, const struct box **boxes, size_t n, unsigned depth);

static enum ckpt_status prove_parts(struct proof *p, const struct box **boxes, size_t n,
                                    uint32_t dim, unsigned depth)
{
    for (size_t from = 0; from < n;) {
        size_t to = next_cut(boxes, n, from, dim);
        /* A part of one begins the next search at once, so cuts cost n in all. */
        enum ckpt_status st = prove(p, boxes + from, to - from, depth);
        if (st != CKPT_OK)
            return st;
        /* Parts were reordered inside, never across: the borders still stand. */
        from = to;
    }
    return CKPT_OK;
}

static bool dim_varies(const struct box **boxes, size_t n, uint32_t dim)
{
    for (size_t i = 1; i < n; i++) {
        if (boxes[i]->off[dim] != boxes[0]->off[dim])
            return true;
    }
    return false;
}

static enum ckpt_status prove(struct proof *p, const struct box **boxes, size_t n, unsigned depth)
{
    uint32_t dim = 0, ndim = n ? boxes[0]->ndim : 0;
    if (n < 2)
        return CKPT_OK;
    for (; n > PAIRS_UP_TO && depth < DEPTH_MAX && dim < ndim; dim++) {
        if (!spend(p, n))
            return CKPT_LIMIT;
        if (!dim_varies(boxes, n, dim))
            continue;
        qsort_r(boxes, n, sizeof(*boxes), by_offset, &dim);
        if (next_cut(boxes, n, 0, dim) < n)
            return prove_parts(p, boxes, n, dim, depth + 1);
    }
    dim = 0;
    while (dim + 1 < ndim && !dim_varies(boxes, n, dim))
        dim++;
    if (ndim)
        qsort_r(boxes, n, sizeof(*boxes), by_offset, &dim);
    return sweep(p, boxes, n, dim);
}

enum ckpt_status disjoint_check(const struct box **boxes, size_t n, uint64_t *budget,
                                struct box *ret_common)
{
    struct proof p = { .budget = budget, .ret_common = ret_common };
    return prove(&p, boxes, n, 0);
}
