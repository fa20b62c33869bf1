/* The cover proof, in two questions.
 *
 * Overlap: cut the set of boxes where no box crosses, along one dimension and
 * then another; a regular split falls apart into single boxes within a few sorts.
 *
 *      +---+---+-----+        cut along dimension 0 at the double line, then
 *      | a | b |  c  |        each half along dimension 1
 *      +===+==++==+==+
 *      |  d   | e | f |
 *      +------+---+---+
 *
 * What has no such cut (pinwheels, and most sets that do overlap) is swept along
 * its sparsest dimension.
 *
 * Hole: disjoint boxes inside the shape leave a hole exactly if their volumes do
 * not add up to the shape's.  The hole is then looked for by halving the shape and
 * following a half whose sum falls short, down to a region that nothing touches. */
#include "formats/cover.h"

#include <assert.h>
#include <inttypes.h>

/* Sets this small are compared pair by pair. */
#define COVER_PAIRS_MAX 8
/* Splits that frameworks make end within 2 * ndim levels; a set that is peeled
 * box by box would need as many levels as boxes, and is swept instead. */
#define COVER_DEPTH_MAX 64
/* A name's share of the message, so that ranks and box always fit. */
#define COVER_NAME_MAX 256
#define COVER_TEXT_MAX 768

struct cover_entry {
    uint64_t off, end; /* along the dimension being sorted */
    const struct cover_box *of;
};
struct cover_search {
    uint32_t ndim;
    struct cover_entry *entry;       /* one a box with volume */
    const struct cover_entry **live; /* scratch of the sweep */
    const struct cover_box *a, *b;   /* the overlap, once found */
};

static bool overlap(struct cover_search *s, const struct cover_box *a, const struct cover_box *b)
{
    for (uint32_t d = 0; d < s->ndim; d++) {
        if (a->box.off[d] >= b->box.off[d] + b->box.len[d] ||
            b->box.off[d] >= a->box.off[d] + a->box.len[d])
            return false;
    }
    s->a = a->rank <= b->rank ? a : b;
    s->b = a->rank <= b->rank ? b : a;
    return true;
}

static bool pairs_overlap(struct cover_search *s, const struct cover_entry *e, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        for (size_t j = 0; j < i; j++) {
            if (overlap(s, e[i].of, e[j].of))
                return true;
        }
    }
    return false;
}

static int by_off(const void *pa, const void *pb)
{
    const struct cover_entry *a = pa;
    const struct cover_entry *b = pb;
    return (a->off > b->off) - (a->off < b->off);
}

/* Sorts by the offset along dimension d.  False, unsorted, if all intervals are
 * the same one. */
static bool sort_along(struct cover_entry *e, size_t n, uint32_t d)
{
    bool same = true, sorted = true;
    for (size_t i = 0; i < n; i++) {
        e[i].off = e[i].of->box.off[d];
        e[i].end = e[i].off + e[i].of->box.len[d];
        same &= e[i].off == e[0].off && e[i].end == e[0].end;
        sorted &= i == 0 || e[i].off >= e[i - 1].off;
    }
    if (!same && !sorted)
        qsort(e, n, sizeof(*e), by_off);
    return !same;
}

/* The length of the first group of sorted intervals that no later one touches. */
static size_t first_group(const struct cover_entry *e, size_t n)
{
    uint64_t end = e[0].end;
    size_t i = 1;
    for (; i < n && e[i].off < end; i++)
        end = max_u64(end, e[i].end);
    return i;
}

/* The dimension along which the fewest boxes lie side by side. */
static uint32_t sparsest(const struct cover_search *s, const struct cover_entry *e, size_t n)
{
    uint32_t best = 0;
    double least = 0;
    for (uint32_t d = 0; d < s->ndim; d++) {
        uint64_t from = UINT64_MAX, to = 0;
        double sum = 0;
        for (size_t i = 0; i < n; i++) {
            const struct box *box = &e[i].of->box;
            from = min_u64(from, box->off[d]);
            to = max_u64(to, box->off[d] + box->len[d]);
            sum += (double)box->len[d];
        }
        double density = sum / (double)(to - from);
        if (d == 0 || density < least) {
            best = d;
            least = density;
        }
    }
    return best;
}

static bool sweep_overlap(struct cover_search *s, struct cover_entry *e, size_t n)
{
    size_t live = 0;
    (void)sort_along(e, n, sparsest(s, e, n));
    for (size_t i = 0; i < n; i++) {
        size_t kept = 0;
        for (size_t j = 0; j < live; j++) {
            if (s->live[j]->end <= e[i].off)
                continue;
            if (overlap(s, s->live[j]->of, e[i].of))
                return true;
            s->live[kept++] = s->live[j];
        }
        s->live[kept++] = &e[i];
        live = kept;
    }
    return false;
}

/* `skip` is the dimension of the last cut: its groups have no further one. */
static bool group_overlap(struct cover_search *s, struct cover_entry *e, size_t n, uint32_t skip,
                          unsigned depth)
{
    /* Without a dimension any two are the same one element: there is nothing to cut. */
    if (n <= COVER_PAIRS_MAX || s->ndim == 0)
        return pairs_overlap(s, e, n);
    for (uint32_t d = 0; d < s->ndim && depth < COVER_DEPTH_MAX; d++) {
        if (d == skip || !sort_along(e, n, d) || first_group(e, n) == n)
            continue;
        for (size_t at = 0, group; at < n; at += group) {
            group = first_group(e + at, n - at);
            if (group_overlap(s, e + at, group, d, depth + 1))
                return true;
        }
        return false;
    }
    return sweep_overlap(s, e, n);
}

/* Of `n` entries those that meet `region` come first; the rest stay behind them. */
static size_t keep_meeting(struct cover_entry *e, size_t n, const struct box *region)
{
    size_t kept = 0;
    struct box common;
    for (size_t i = 0; i < n; i++) {
        if (!box_intersect(&e[i].of->box, region, &common))
            continue;
        struct cover_entry swap = e[kept];
        e[kept++] = e[i];
        e[i] = swap;
    }
    return kept;
}

static uint64_t volume_inside(const struct cover_entry *e, size_t n, const struct box *region)
{
    uint64_t volume = 0;
    struct box common;
    for (size_t i = 0; i < n; i++) {
        if (box_intersect(&e[i].of->box, region, &common))
            volume += box_volume(&common);
    }
    return volume;
}

/* Box borders strictly inside `region` along d; written to `ret` unless NULL. */
static size_t borders_inside(const struct cover_entry *e, size_t n, const struct box *region,
                             uint32_t d, uint64_t *ret)
{
    size_t count = 0;
    uint64_t from = region->off[d], to = from + region->len[d];
    for (size_t i = 0; i < n; i++) {
        uint64_t border[2] = { e[i].of->box.off[d], e[i].of->box.off[d] + e[i].of->box.len[d] };
        for (int k = 0; k < 2; k++) {
            if (border[k] <= from || border[k] >= to)
                continue;
            if (ret)
                ret[count] = border[k];
            count++;
        }
    }
    return count;
}

static int by_value(const void *pa, const void *pb)
{
    uint64_t a = *(const uint64_t *)pa;
    uint64_t b = *(const uint64_t *)pb;
    return (a > b) - (a < b);
}

/* Halves `region` at the median border of the dimension that has most of them and
 * keeps a half that is not full. */
static void halve(const struct cover_entry *e, size_t n, uint64_t *borders, struct box *region)
{
    uint32_t best = 0;
    size_t most = 0;
    for (uint32_t d = 0; d < region->ndim; d++) {
        size_t count = borders_inside(e, n, region, d, NULL);
        if (count > most) {
            most = count;
            best = d;
        }
    }
    assert(most > 0); /* else a box would fill the region */
    borders_inside(e, n, region, best, borders);
    qsort(borders, most, sizeof(*borders), by_value);
    struct box low = *region;
    low.len[best] = borders[most / 2] - region->off[best];
    if (volume_inside(e, n, &low) < box_volume(&low)) {
        *region = low;
        return;
    }
    region->off[best] += low.len[best];
    region->len[best] -= low.len[best];
}

static bool meets_but_for(const struct box *a, const struct box *b, uint32_t but)
{
    for (uint32_t d = 0; d < a->ndim; d++) {
        if (d != but && (a->off[d] >= b->off[d] + b->len[d] || b->off[d] >= a->off[d] + a->len[d]))
            return false;
    }
    return true;
}

/* Extends an untouched region until boxes or the shape stop it, so that people
 * read the whole box that is missing. */
static void grow(const struct cover_entry *e, size_t n, const uint64_t *shape, struct box *region)
{
    for (uint32_t d = 0; d < region->ndim; d++) {
        uint64_t from = 0, to = shape[d];
        for (size_t i = 0; i < n; i++) {
            const struct box *box = &e[i].of->box;
            if (!meets_but_for(box, region, d))
                continue;
            if (box->off[d] < region->off[d])
                from = max_u64(from, box->off[d] + box->len[d]);
            else
                to = min_u64(to, box->off[d]);
        }
        region->off[d] = from;
        region->len[d] = to - from;
    }
}

static enum ckpt_status find_hole(struct cover_entry *e, size_t n, const uint64_t *shape,
                                  struct box *region)
{
    CLEANUP_FREE uint64_t *borders = malloc((2 * n + 1) * sizeof(*borders));
    if (!borders)
        return CKPT_NO_MEMORY;
    for (size_t live = n; (live = keep_meeting(e, live, region)) > 0;)
        halve(e, live, borders, region);
    grow(e, n, shape, region);
    return CKPT_OK;
}

static bool is_empty(const struct box *box)
{
    for (uint32_t d = 0; d < box->ndim; d++) {
        if (box->len[d] == 0)
            return true;
    }
    return false;
}

static bool is_inside(const struct box *box, const uint64_t *shape)
{
    for (uint32_t d = 0; d < box->ndim; d++) {
        if (box->off[d] > shape[d] || box->len[d] > shape[d] - box->off[d])
            return false;
    }
    return true;
}

/* Lists the boxes with volume; refuses what does not lie in the shape. */
static enum ckpt_status collect(struct cover_search *s, const char *name, const uint64_t *shape,
                                const struct cover_box *boxes, size_t count, size_t *ret_n,
                                struct ckpt_err *err)
{
    char text[COVER_TEXT_MAX];
    size_t n = 0;
    for (size_t i = 0; i < count; i++) {
        const struct box *box = &boxes[i].box;
        if (box->ndim != s->ndim)
            return err_set(err, CKPT_COVER,
                           "tensor %.*s: rank %u holds a box of %u dimensions, not %u",
                           COVER_NAME_MAX, name, boxes[i].rank, box->ndim, s->ndim);
        if (is_empty(box))
            continue;
        if (!is_inside(box, shape))
            return err_set(err, CKPT_COVER, "tensor %.*s: rank %u holds %s outside of the shape",
                           COVER_NAME_MAX, name, boxes[i].rank,
                           box_to_text(box, text, sizeof(text)));
        s->entry[n++].of = &boxes[i];
    }
    *ret_n = n;
    return CKPT_OK;
}

static enum ckpt_status refuse_overlap(const struct cover_search *s, const char *name,
                                       struct ckpt_err *err)
{
    char text[COVER_TEXT_MAX];
    struct box common;
    bool met = box_intersect(&s->a->box, &s->b->box, &common);
    assert(met);
    box_to_text(&common, text, sizeof(text));
    if (s->a->rank == s->b->rank)
        return err_set(err, CKPT_COVER, "tensor %.*s: rank %u holds %s twice", COVER_NAME_MAX, name,
                       s->a->rank, text);
    return err_set(err, CKPT_COVER, "tensor %.*s: ranks %u and %u both hold %s", COVER_NAME_MAX,
                   name, s->a->rank, s->b->rank, text);
}

static enum ckpt_status refuse_hole(struct cover_search *s, size_t n, const char *name,
                                    const uint64_t *shape, struct ckpt_err *err)
{
    char text[COVER_TEXT_MAX];
    struct box hole = box_whole(s->ndim, shape);
    enum ckpt_status st = find_hole(s->entry, n, shape, &hole);
    if (st != CKPT_OK)
        return err_set(err, st, "tensor %.*s: cover proof", COVER_NAME_MAX, name);
    return err_set(err, CKPT_COVER, "tensor %.*s: no rank holds %s", COVER_NAME_MAX, name,
                   box_to_text(&hole, text, sizeof(text)));
}

enum ckpt_status cover_check(const char *name, uint32_t ndim, const uint64_t *shape,
                             struct cover_box *boxes, size_t count, struct ckpt_err *err)
{
    uint64_t bytes;
    if (ndim > CKPT_DIMS_MAX || !shape_bytes(ndim, shape, 1, &bytes))
        return err_set(err, CKPT_LIMIT, "tensor %.*s: the shape exceeds the limits", COVER_NAME_MAX,
                       name);
    CLEANUP_FREE struct cover_entry *entry = calloc(count + 1, sizeof(*entry));
    CLEANUP_FREE const struct cover_entry **live = calloc(count + 1, sizeof(const void *));
    if (!entry || !live)
        return err_set(err, CKPT_NO_MEMORY, "tensor %.*s: cover proof of %zu boxes", COVER_NAME_MAX,
                       name, count);
    struct cover_search s = { .ndim = ndim, .entry = entry, .live = live };
    size_t n = 0;
    enum ckpt_status st = collect(&s, name, shape, boxes, count, &n, err);
    if (st != CKPT_OK)
        return st;
    if (group_overlap(&s, entry, n, UINT32_MAX, 0))
        return refuse_overlap(&s, name, err);
    struct box whole = box_whole(ndim, shape);
    if (volume_inside(entry, n, &whole) != box_volume(&whole))
        return refuse_hole(&s, n, name, shape, err);
    return CKPT_OK;
}
