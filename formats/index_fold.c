/* Folding equal boxes into runs, and asking runs by arithmetic.
 *
 *     rank 0  rank 1  rank 2  rank 3            one run: count 4, rank0 0, rank_step 1,
 *   | box0   |  +step | +2step |short |   -->   axis 0, step, last_len
 */
#include <assert.h>

#include "formats/index.h"

static int compare(uint64_t a, uint64_t b)
{
    return (a > b) - (a < b);
}

struct order {
    uint32_t ndim, axis;
};

/* By everything but the axis, then along the axis: a group of boxes that may form
 * runs is contiguous.  Total, so the caller's order does not matter. */
static int by_axis(const void *a, const void *b, void *ctx)
{
    const struct index_from *x = a, *y = b;
    const struct order *o = ctx;
    int cmp = 0;
    for (uint32_t d = 0; cmp == 0 && d < o->ndim; d++) {
        if (d != o->axis)
            cmp = compare(x->box.off[d], y->box.off[d]);
    }
    for (uint32_t d = 0; cmp == 0 && d < o->ndim; d++) {
        if (d != o->axis)
            cmp = compare(x->box.len[d], y->box.len[d]);
    }
    if (cmp == 0 && o->ndim)
        cmp = compare(x->box.off[o->axis], y->box.off[o->axis]);
    if (cmp == 0 && o->ndim)
        cmp = compare(x->box.len[o->axis], y->box.len[o->axis]);
    return cmp ? cmp : compare(x->rank, y->rank);
}

static bool same_row(const struct index_from *a, const struct index_from *b, uint32_t axis)
{
    for (uint32_t d = 0; d < a->box.ndim; d++) {
        if (d != axis && (a->box.off[d] != b->box.off[d] || a->box.len[d] != b->box.len[d]))
            return false;
    }
    return true;
}

/* Can `next` be box number run->count of the run?  The second box sets the steps. */
static bool continues(const struct index_run *run, const struct index_from *last,
                      const struct index_from *next)
{
    uint32_t axis = run->axis;
    uint64_t len = run->box0.len[axis], step = next->box.off[axis] - last->box.off[axis];
    if (!same_row(last, next, axis) || last->box.len[axis] != len || next->box.len[axis] > len)
        return false;
    if (next->rank < last->rank || step < len)
        return false;
    return run->count == 1 || (step == run->step && next->rank - last->rank == run->rank_step);
}

/* The longest run from `from` on along the axis; returns its length. */
static size_t take_run(const struct index_from *from, size_t n, uint32_t ndim, uint32_t axis,
                       struct index_run *ret)
{
    *ret = (struct index_run){ .count = 1, .rank0 = from->rank, .box0 = from->box };
    if (!ndim)
        return 1;
    ret->axis = axis;
    ret->last_len = from->box.len[axis];
    while (ret->count < n && continues(ret, &from[ret->count - 1], &from[ret->count])) {
        const struct index_from *last = &from[ret->count - 1], *next = &from[ret->count];
        ret->step = next->box.off[axis] - last->box.off[axis];
        ret->rank_step = next->rank - last->rank;
        ret->last_len = next->box.len[axis];
        ret->count++;
    }
    if (ret->count == 1)
        ret->axis = 0, ret->last_len = 0;
    return ret->count;
}

/* Callers mostly come in the order of ranks, which is often the order wanted. */
static bool sorted(const struct index_from *boxes, size_t n, struct order *order)
{
    for (size_t i = 1; i < n; i++) {
        if (by_axis(&boxes[i - 1], &boxes[i], order) > 0)
            return false;
    }
    return true;
}

static size_t fold_along(struct index_from *boxes, size_t n, uint32_t ndim, uint32_t axis,
                         struct index_run *runs)
{
    struct order order = { .ndim = ndim, .axis = axis };
    size_t count = 0;
    if (!sorted(boxes, n, &order))
        qsort_r(boxes, n, sizeof(*boxes), by_axis, &order);
    for (size_t i = 0; i < n; count++)
        i += take_run(&boxes[i], n - i, ndim, axis, &runs[count]);
    return count;
}

static bool axis_varies(const struct index_from *boxes, size_t n, uint32_t axis)
{
    for (size_t i = 1; i < n; i++) {
        if (boxes[i].box.off[axis] != boxes[0].box.off[axis])
            return true;
    }
    return false;
}

/* Along the axis that needs fewest runs; of equals, the first.  Tried from the last axis
 * on: rows are what is split most, so the best is mostly tried last and need not be
 * folded again.  (Sorting moves pointers: glibc does not swap elements this large.) */
size_t index_fold(struct index_from *boxes, size_t n, uint32_t ndim, struct index_run *runs)
{
    size_t best = n, now = SIZE_MAX;
    uint32_t best_axis = 0, now_axis = 0;
    for (uint32_t axis = ndim; axis-- > 0 && best > 1;) {
        if (!axis_varies(boxes, n, axis))
            continue;
        now = fold_along(boxes, n, ndim, axis, runs);
        now_axis = axis;
        if (now <= best) {
            best = now;
            best_axis = axis;
        }
    }
    /* The last try is not always the best one; nothing varies in a single box. */
    if (now == SIZE_MAX || now_axis != best_axis)
        now = fold_along(boxes, n, ndim, best_axis, runs);
    return now;
}

uint32_t index_run_rank(const struct index_run *run, uint32_t i)
{
    assert(i < run->count);
    return run->rank0 + i * run->rank_step;
}

struct box index_run_box(const struct index_run *run, uint32_t i, uint32_t *ret_rank)
{
    struct box box = run->box0;
    assert(i < run->count);
    if (run->count > 1) {
        box.off[run->axis] += i * run->step;
        if (i == run->count - 1)
            box.len[run->axis] = run->last_len;
    }
    *ret_rank = index_run_rank(run, i);
    return box;
}

bool index_run_hits(const struct index_run *run, const struct box *want, uint32_t *ret_first,
                    uint32_t *ret_last)
{
    struct box common, probe = *want;
    uint32_t axis = run->axis;
    if (run->count == 1) {
        if (!box_intersect(&run->box0, want, &common))
            return false;
        *ret_first = *ret_last = 0;
        return true;
    }
    /* Across the axis all boxes are alike. */
    probe.off[axis] = run->box0.off[axis];
    probe.len[axis] = run->box0.len[axis];
    if (!want->len[axis] || !box_intersect(&run->box0, &probe, &common))
        return false;
    uint64_t off = run->box0.off[axis], len = run->box0.len[axis];
    uint64_t from = want->off[axis], to = from + want->len[axis];
    if (to <= off)
        return false;
    uint64_t first = from < off + len ? 0 : (from - off - len) / run->step + 1;
    uint64_t last = min_u64((to - 1 - off) / run->step, run->count - 1);
    if (first == run->count - 1 && off + first * run->step + run->last_len <= from)
        return false;
    if (first > last)
        return false;
    *ret_first = (uint32_t)first;
    *ret_last = (uint32_t)last;
    return true;
}
