/* The cover proof against counting every element, and at the size of a large job.
 * Every refusal's witness box is read back and checked element by element. */
#include "formats/cover.h"

#include "check.h"

#define BOXES_MAX (1 << 17)

static unsigned long long seed;
static struct cover_box boxes[BOXES_MAX];
static size_t count;
static long holes, overlaps, covers;

static uint64_t below(uint64_t n)
{
    return test_rand(&seed) % n;
}

static void add(const struct box *box)
{
    CHECK(count < BOXES_MAX);
    boxes[count] = (struct cover_box){ .box = *box, .rank = (uint32_t)count };
    count++;
}

static void shuffle(void)
{
    for (size_t i = count; i > 1; i--) {
        size_t j = below(i);
        struct cover_box keep = boxes[i - 1];
        boxes[i - 1] = boxes[j];
        boxes[j] = keep;
    }
}

/* Five boxes around a centre: no straight cut exists. */
static bool add_pinwheel(const struct box *in)
{
    uint64_t y = in->len[0], x = in->len[1];
    if (in->ndim < 2 || y < 3 || x < 3)
        return false;
    uint64_t a = 1 + below(y - 2), b = 1 + below(x - 2); /* cuts, a < c, b < d */
    uint64_t c = a + 1 + below(y - a - 1), d = b + 1 + below(x - b - 1);
    const uint64_t part[5][4] = {
        { 0, a, 0, d }, { 0, c, d, x }, { c, y, b, x }, { a, y, 0, b }, { a, c, b, d }
    };
    for (int i = 0; i < 5; i++) {
        struct box box = *in;
        box.off[0] += part[i][0];
        box.len[0] = part[i][1] - part[i][0];
        box.off[1] += part[i][2];
        box.len[1] = part[i][3] - part[i][2];
        add(&box);
    }
    return true;
}

/* A random exact tiling. */
static void add_tiling(const struct box *in, int depth)
{
    uint32_t d = in->ndim ? (uint32_t)below(in->ndim) : 0;
    if (depth == 0 || in->ndim == 0 || in->len[d] < 2) {
        add(in);
        return;
    }
    if (below(4) == 0 && add_pinwheel(in))
        return;
    struct box low = *in, high = *in;
    low.len[d] = 1 + below(in->len[d] - 1);
    high.off[d] += low.len[d];
    high.len[d] -= low.len[d];
    add_tiling(&low, depth - 1);
    add_tiling(&high, depth - 1);
}

/* One change that may or may not break the cover. */
static void mutate(const uint64_t *shape)
{
    struct box *box = &boxes[below(count)].box;
    uint32_t d = box->ndim ? (uint32_t)below(box->ndim) : 0;
    switch (below(5)) {
    case 0:
        boxes[below(count)] = boxes[count - 1];
        count -= count > 1;
        break;
    case 1:
        add(box);
        break;
    case 2:
        if (box->ndim && box->len[d] > 0)
            box->len[d]--;
        break;
    case 3:
        if (box->ndim && box->off[d] + box->len[d] < shape[d])
            box->len[d]++;
        break;
    default:
        if (box->ndim && box->off[d] > 0)
            box->off[d]--;
        break;
    }
}

static bool holds(const struct box *box, const uint64_t *at)
{
    for (uint32_t d = 0; d < box->ndim; d++) {
        if (at[d] < box->off[d] || at[d] >= box->off[d] + box->len[d])
            return false;
    }
    return true;
}

static int holders(const uint64_t *at)
{
    int n = 0;
    for (size_t i = 0; i < count; i++)
        n += holds(&boxes[i].box, at);
    return n;
}

static bool next_at(const struct box *in, uint64_t *at)
{
    for (uint32_t d = in->ndim; d-- > 0;) {
        if (++at[d] < in->off[d] + in->len[d])
            return true;
        at[d] = in->off[d];
    }
    return false;
}

/* Reads "[0:4, 1:2]" back. */
static struct box parse_box(const char *text, uint32_t ndim)
{
    struct box box = { .ndim = ndim };
    const char *p = strchr(text, '[');
    CHECK(p);
    p++;
    for (uint32_t d = 0; d < ndim; d++) {
        char *end;
        box.off[d] = strtoull(p, &end, 10);
        CHECK(*end == ':');
        box.len[d] = strtoull(end + 1, &end, 10) - box.off[d];
        CHECK(box.len[d] > 0);
        p = end + (*end == ',' ? 2 : 0);
        CHECK(d + 1 == ndim ? *p == ']' : *p != ']');
    }
    return box;
}

/* Every element of the witness is held by nobody, or by the ranks named. */
static void check_witness(const char *text, uint32_t ndim)
{
    struct box box = parse_box(text, ndim);
    unsigned a, b;
    bool hole = strstr(text, "no rank holds") != NULL;
    if (!hole && strstr(text, "twice")) {
        CHECK_EQ(sscanf(text, "tensor w: rank %u", &a), 1);
        b = a;
    } else if (!hole) {
        CHECK_EQ(sscanf(text, "tensor w: ranks %u and %u both hold", &a, &b), 2);
        CHECK(a < b);
    }
    uint64_t at[CKPT_DIMS_MAX];
    memcpy(at, box.off, sizeof(at));
    do {
        int by_named = 0;
        for (size_t i = 0; i < count && !hole; i++)
            by_named += (boxes[i].rank == a || boxes[i].rank == b) && holds(&boxes[i].box, at);
        CHECK(hole ? holders(at) == 0 : by_named >= 2);
    } while (next_at(&box, at));
    holes += hole;
    overlaps += !hole;
}

/* What counting says: 0 exact, 1 a hole, 2 an overlap (bits). */
static int count_all(uint32_t ndim, const uint64_t *shape)
{
    struct box whole = box_whole(ndim, shape);
    uint64_t at[CKPT_DIMS_MAX] = { 0 };
    int found = 0;
    do {
        int n = holders(at);
        found |= (n == 0) | (n > 1) << 1;
    } while (next_at(&whole, at));
    return found;
}

static void check_small(uint32_t ndim, const uint64_t *shape)
{
    struct ckpt_err err = { 0 };
    int expected = count_all(ndim, shape);
    enum ckpt_status st = cover_check("w", ndim, shape, boxes, count, &err);
    if (expected == 0) {
        CHECK_EQ(st, CKPT_OK);
        covers++;
        return;
    }
    CHECK_EQ(st, CKPT_COVER);
    CHECK_EQ(err.status, CKPT_COVER);
    CHECK(expected & (strstr(err.text, "no rank") ? 1 : 2));
    check_witness(err.text, ndim);
}

static long test_small(void)
{
    long n = 0;
    for (; n < 6000; n++) {
        uint32_t ndim = (uint32_t)below(4);
        uint64_t shape[CKPT_DIMS_MAX] = { 0 };
        for (uint32_t d = 0; d < ndim; d++)
            shape[d] = 1 + below(ndim == 3 ? 7 : 14);
        struct box whole = box_whole(ndim, shape);
        count = 0;
        add_tiling(&whole, (int)below(8));
        for (uint64_t k = below(3); k > 0; k--)
            mutate(shape);
        shuffle();
        check_small(ndim, shape);
    }
    CHECK(holes > 500 && overlaps > 500 && covers > 500);
    return n;
}

/* Boxes thrown at random: mostly wrong in many ways at once. */
static long test_noise(void)
{
    long n = 0;
    for (; n < 2000; n++) {
        uint32_t ndim = 1 + (uint32_t)below(3);
        uint64_t shape[CKPT_DIMS_MAX];
        for (uint32_t d = 0; d < ndim; d++)
            shape[d] = 1 + below(6);
        count = 0;
        for (uint64_t k = below(24); k > 0; k--) {
            struct box box = { .ndim = ndim };
            for (uint32_t d = 0; d < ndim; d++) {
                box.off[d] = below(shape[d] + 1);
                box.len[d] = below(shape[d] - box.off[d] + 1);
            }
            add(&box);
        }
        check_small(ndim, shape);
    }
    return n;
}

static void expect(uint32_t ndim, const uint64_t *shape, const char *text)
{
    struct ckpt_err err = { 0 };
    shuffle();
    enum ckpt_status st = cover_check("w", ndim, shape, boxes, count, &err);
    if (!text) {
        CHECK_OK(st);
        return;
    }
    CHECK_EQ(st, CKPT_COVER);
    if (*text)
        CHECK_STR(err.text, text);
    else
        check_witness(err.text, ndim);
}

/* Exact; one box missing; one held by a second rank.  Returns the cases. */
static long check_broken(uint32_t ndim, const uint64_t *shape)
{
    char want[512], text[256];
    struct cover_box last;
    expect(ndim, shape, NULL);
    last = boxes[--count];
    snprintf(want, sizeof(want), "tensor w: no rank holds %s",
             box_to_text(&last.box, text, sizeof(text)));
    expect(ndim, shape, want);
    boxes[count++] = last;
    last = boxes[count / 2];
    uint32_t doubled = last.rank;
    last.rank = CKPT_RANKS_MAX;
    boxes[count++] = last;
    snprintf(want, sizeof(want), "tensor w: ranks %u and %u both hold %s", doubled, last.rank,
             box_to_text(&last.box, text, sizeof(text)));
    expect(ndim, shape, want);
    for (size_t i = 0; i < count; i++) {
        if (boxes[i].rank == CKPT_RANKS_MAX)
            boxes[i] = boxes[--count];
    }
    return 3;
}

static void add_grid(const uint64_t *parts, const uint64_t *shape, uint32_t ndim, bool uneven)
{
    uint64_t at[CKPT_DIMS_MAX] = { 0 };
    struct box grid = box_whole(ndim, parts);
    count = 0;
    do {
        struct box box = { .ndim = ndim };
        for (uint32_t d = 0; d < ndim; d++) {
            uint64_t chunk = div_up(shape[d], parts[d]);
            box.off[d] = min_u64(at[d] * chunk, shape[d]);
            box.len[d] = min_u64(chunk, shape[d] - box.off[d]);
            CHECK(uneven || box.len[d] == chunk);
        }
        add(&box);
    } while (next_at(&grid, at));
}

static void add_row_part(uint64_t row, uint64_t from, uint64_t to)
{
    struct box box = { .ndim = 2, .off = { row, from }, .len = { 1, to - from } };
    if (from < to)
        add(&box);
}

/* A flat range split among ranks: partial row, whole rows, partial row. */
static void add_flat(uint64_t rows, uint64_t cols, uint64_t ranks)
{
    count = 0;
    for (uint64_t r = 0; r < ranks; r++) {
        uint64_t from = rows * cols * r / ranks, to = rows * cols * (r + 1) / ranks;
        uint64_t first = div_up(from, cols), last = to / cols;
        if (first > last) {
            add_row_part(last, from % cols, to % cols);
            continue;
        }
        if (from % cols)
            add_row_part(first - 1, from % cols, cols);
        struct box box = { .ndim = 2, .off = { first, 0 }, .len = { last - first, cols } };
        if (first < last)
            add(&box);
        add_row_part(last, 0, to % cols);
    }
}

static long test_large(void)
{
    uint64_t shape[3] = { 16384 * 4, 7, 3 };
    uint64_t line[1] = { 16384 }, square[2] = { 128, 128 }, cube[3] = { 32, 32, 64 };
    long n = 0;
    add_grid(line, shape, 1, false);
    n += check_broken(1, shape);
    uint64_t plane[2] = { 12800, 128 * 3 };
    add_grid(square, plane, 2, false);
    n += check_broken(2, plane);
    uint64_t odd[2] = { 12800 - 77, 128 * 30 - 13 };
    add_grid(square, odd, 2, true);
    expect(2, odd, NULL);
    uint64_t block[3] = { 64, 96, 640 };
    add_grid(cube, block, 3, false);
    CHECK_EQ(count, 65536);
    n += check_broken(3, block);
    uint64_t flat[2] = { 30011, 8192 };
    add_flat(flat[0], flat[1], 16384);
    n += check_broken(2, flat);
    uint64_t wide[2] = { 1000, 999983 };
    add_flat(wide[0], wide[1], 16384);
    expect(2, wide, NULL);
    /* A replica nobody declared: one rank holds everything as well. */
    struct box whole = box_whole(2, wide);
    add(&whole);
    expect(2, wide, "");
    return n + 3;
}

/* Rows beside columns: every sweep has half of all boxes side by side, cuts make it
 * two sorts.  A proof that swept this would need 2^30 comparisons. */
static long test_two_ways(void)
{
    const uint64_t n = 32768, shape[2] = { n, 2 * n };
    count = 0;
    for (uint64_t i = 0; i < n; i++) {
        struct box row = { .ndim = 2, .off = { i, 0 }, .len = { 1, n } };
        struct box column = { .ndim = 2, .off = { 0, n + i }, .len = { n, 1 } };
        add(&row);
        add(&column);
    }
    return check_broken(2, shape);
}

/* Covers without a straight cut, and one that can only be peeled box by box. */
static long test_hard(void)
{
    uint64_t shape[2] = { 120 * 6, 120 * 6 };
    count = 0;
    for (uint64_t i = 0; i < 120 * 120; i++) {
        struct box box = { .ndim = 2, .off = { i / 120 * 6, i % 120 * 6 }, .len = { 6, 6 } };
        CHECK(add_pinwheel(&box));
    }
    CHECK_EQ(count, 72000);
    expect(2, shape, NULL);
    boxes[100].box.len[0]++;
    expect(2, shape, "");
    /* Dominoes laid in steps: no cut anywhere, rows of 2 shifted by 1. */
    uint64_t brick[2] = { 200, 401 };
    count = 0;
    for (uint64_t y = 0; y < 200; y++) {
        for (uint64_t x = 0; x < 401; x += x == 0 && y % 2 ? 1 : 2) {
            struct box box = { .ndim = 2,
                               .off = { y, x },
                               .len = { 1, x == 0 && y % 2 ? 1 : min_u64(2, 401 - x) } };
            add(&box);
        }
    }
    expect(2, brick, NULL);
    /* A spiral of slabs: each cut frees one box. */
    struct box rest = { .ndim = 2, .len = { 4000, 4000 } };
    uint64_t spiral[2] = { 4000, 4000 };
    count = 0;
    for (int i = 0; i < 7000; i++) {
        uint32_t d = (uint32_t)i % 2;
        struct box slab = rest;
        slab.len[d] = 1;
        rest.len[d]--;
        if (i / 2 % 2)
            slab.off[d] += rest.len[d];
        else
            rest.off[d]++;
        add(&slab);
    }
    add(&rest);
    expect(2, spiral, NULL);
    for (size_t i = 0; i < count; i++) {
        if (box_equal(&boxes[i].box, &rest))
            boxes[i--] = boxes[--count];
    }
    expect(2, spiral, "tensor w: no rank holds [1750:2250, 1750:2250]");
    return 5;
}

static enum ckpt_status check_one(uint32_t ndim, const uint64_t *shape, struct box box)
{
    struct ckpt_err err = { 0 };
    struct cover_box one = { .box = box, .rank = 3 };
    return cover_check("w", ndim, shape, &one, 1, &err);
}

static long test_edges(void)
{
    uint64_t shape[2] = { 4, 0 }, huge[2] = { UINT64_MAX, UINT64_MAX }, some[2] = { 4, 4 };
    struct box empty = { .ndim = 2, .off = { 2, 0 }, .len = { 1, 0 } };
    struct box out = { .ndim = 2, .off = { 2, UINT64_MAX }, .len = { 1, 2 } };
    CHECK_OK(cover_check("w", 2, shape, NULL, 0, NULL));
    CHECK_OK(check_one(2, shape, empty));
    CHECK_EQ(check_one(2, some, empty), CKPT_COVER);
    CHECK_EQ(check_one(2, some, out), CKPT_COVER);
    CHECK_EQ(check_one(2, huge, empty), CKPT_LIMIT);
    struct ckpt_err err = { 0 };
    struct cover_box past = { .box = { .ndim = 2, .off = { 0, 1 }, .len = { 4, 4 } }, .rank = 8 };
    CHECK_EQ(cover_check("w", 2, some, &past, 1, &err), CKPT_COVER);
    CHECK_STR(err.text, "tensor w: rank 8 holds [0:4, 1:5] outside of the shape");
    /* The hole is named whole although a border of others halves it. */
    struct cover_box right[2] = { { .box = { .ndim = 2, .off = { 0, 1 }, .len = { 2, 3 } } },
                                  { .box = { .ndim = 2, .off = { 2, 1 }, .len = { 2, 3 } } } };
    err = (struct ckpt_err){ 0 };
    CHECK_EQ(cover_check("w", 2, some, right, 2, &err), CKPT_COVER);
    CHECK_STR(err.text, "tensor w: no rank holds [0:4, 0:1]");
    CHECK_EQ(check_one(1, some, empty), CKPT_COVER);
    CHECK_OK(check_one(0, NULL, (struct box){ 0 }));
    CHECK_EQ(cover_check("w", 0, NULL, NULL, 0, NULL), CKPT_COVER);
    err = (struct ckpt_err){ 0 };
    CHECK_EQ(cover_check("layers.0.w", 2, some, NULL, 0, &err), CKPT_COVER);
    CHECK_STR(err.text, "tensor layers.0.w: no rank holds [0:4, 0:4]");
    struct cover_box twice[2] = { { .box = box_whole(2, some), .rank = 9 },
                                  { .box = box_whole(2, some), .rank = 9 } };
    err = (struct ckpt_err){ 0 };
    CHECK_EQ(cover_check("w", 2, some, twice, 2, &err), CKPT_COVER);
    CHECK_STR(err.text, "tensor w: rank 9 holds [0:4, 0:4] twice");
    twice[0].rank = 5;
    twice[0].box.len[0] = 3;
    err = (struct ckpt_err){ 0 };
    CHECK_EQ(cover_check("w", 2, some, twice, 2, &err), CKPT_COVER);
    CHECK_STR(err.text, "tensor w: ranks 5 and 9 both hold [0:3, 0:4]");
    return 16;
}

/* Scalars: one rank holds all of it, or it is refused, however many others do too. */
static long test_scalars(void)
{
    static const size_t counts[] = { 2, 8, 9, 64, 1000, BOXES_MAX };
    for (size_t i = 0; i < ARRAY_COUNT(counts); i++) {
        struct ckpt_err err = { 0 };
        unsigned a, b;
        count = 0;
        while (count < counts[i])
            add(&(struct box){ 0 });
        CHECK_EQ(cover_check("w", 0, NULL, boxes, count, &err), CKPT_COVER);
        CHECK_EQ(sscanf(err.text, "tensor w: ranks %u and %u both hold []", &a, &b), 2);
        CHECK(a < b && b < counts[i] && strstr(err.text, " both hold []"));
    }
    return ARRAY_COUNT(counts);
}

int main(void)
{
    seed = test_seed(5);
    long n = test_small();
    printf("%ld covers, %ld holes, %ld overlaps\n", covers, holes, overlaps);
    n +=
        test_noise() + test_large() + test_two_ways() + test_hard() + test_edges() + test_scalars();
    TEST_CASES(n);
    return 0;
}
