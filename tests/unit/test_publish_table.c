/* The table of a merge (publish_table.c) and what is made of it (publish_index.c): every
 * short cut gives what the long way gives.  The long way: every box of every rank, sorted
 * and folded by index_fold, proved by cover_check. */
#include "formats/cover.h"
#include "storage/repo/publish_table.h"

#include "check.h"

#define RANKS_MAX 96
#define BOXES_MAX 1024

struct census {
    long regular, ragged, grid, scattered, shuffled, strided, holes, overlaps, refused, folded;
};

struct split { /* of one tensor over ranks */
    uint32_t ndim, world;
    uint64_t shape[3];
    struct cover_box boxes[BOXES_MAX]; /* by rank */
    size_t count;
};

static uint64_t below(unsigned long long *seed, uint64_t n)
{
    return test_rand(seed) % n;
}

static int by_rank(const void *a, const void *b)
{
    const struct cover_box *x = a, *y = b;
    return x->rank < y->rank ? -1 : x->rank > y->rank;
}

static void add_box(struct split *s, const struct box *box, uint32_t rank)
{
    CHECK(s->count < BOXES_MAX);
    s->boxes[s->count++] = (struct cover_box){ *box, rank };
}

/* Along one axis, in steps; the last box may be shorter, or there may be a second axis. */
static void split_regular(struct split *s, unsigned long long *seed, struct census *c)
{
    uint32_t axis = (uint32_t)below(seed, s->ndim), other = (axis + 1) % s->ndim;
    uint64_t parts = 1 + below(seed, 40), step = div_up(s->shape[axis], parts);
    bool grid = s->ndim > 1 && below(seed, 3) == 0;
    uint64_t columns = grid ? 1 + below(seed, 4) : 1, width = div_up(s->shape[other], columns);
    uint32_t rank = 0, rank_step = 1 + (uint32_t)below(seed, 3) / 2;
    for (uint64_t y = 0; y < s->shape[axis]; y += step) {
        for (uint64_t x = 0; x < (grid ? s->shape[other] : 1); x += width, rank += rank_step) {
            struct box box = box_whole(s->ndim, s->shape);
            box.off[axis] = y;
            box.len[axis] = min_u64(step, s->shape[axis] - y);
            c->ragged += box.len[axis] < step;
            if (grid) {
                box.off[other] = x;
                box.len[other] = min_u64(width, s->shape[other] - x);
            }
            add_box(s, &box, rank);
        }
    }
    s->world = rank + 1;
    c->grid += grid;
    c->regular += !grid;
    c->strided += rank_step > 1;
}

/* Cut anywhere again and again, dealt to any rank. */
static void split_scattered(struct split *s, unsigned long long *seed, struct census *c)
{
    struct box boxes[24] = { box_whole(s->ndim, s->shape) };
    size_t n = 1;
    for (int tries = 0; tries < 40 && n < ARRAY_COUNT(boxes); tries++) {
        struct box *from = &boxes[below(seed, n)];
        uint32_t d = (uint32_t)below(seed, s->ndim);
        if (from->len[d] < 2)
            continue;
        uint64_t cut = 1 + below(seed, from->len[d] - 1);
        boxes[n] = *from;
        boxes[n].off[d] += cut;
        boxes[n++].len[d] -= cut;
        from->len[d] = cut;
    }
    s->world = 1 + (uint32_t)below(seed, 30);
    for (size_t i = 0; i < n; i++)
        add_box(s, &boxes[i], (uint32_t)below(seed, s->world));
    c->scattered++;
}

static void spoil(struct split *s, unsigned long long *seed, struct census *c)
{
    size_t at = below(seed, s->count);
    if (below(seed, 2)) {
        s->boxes[at] = s->boxes[--s->count];
        c->holes++;
    } else if (s->count < BOXES_MAX) {
        s->boxes[s->count] = s->boxes[at];
        s->boxes[s->count++].rank = s->world - 1;
        c->overlaps++;
    }
}

static void make_split(struct split *s, unsigned long long *seed, struct census *c)
{
    *s = (struct split){ .ndim = 1 + (uint32_t)below(seed, 3) };
    for (uint32_t d = 0; d < s->ndim; d++)
        s->shape[d] = 1 + below(seed, d ? 12 : 60);
    if (below(seed, 4))
        split_regular(s, seed, c);
    else
        split_scattered(s, seed, c);
    if (below(seed, 6) == 0) { /* who holds what is in no order */
        for (size_t i = 0; i < s->count; i++)
            s->boxes[i].rank = (uint32_t)below(seed, s->world);
        c->shuffled++;
    }
    if (below(seed, 5) == 0)
        spoil(s, seed, c);
    qsort(s->boxes, s->count, sizeof(*s->boxes), by_rank);
}

/* What ranks [from, to) say of the tensor. */
static void merge_ranks(struct merge *m, const struct split *s, const char *name, uint32_t from,
                        uint32_t to)
{
    static struct manifest_box boxes[BOXES_MAX];
    struct manifest_tensor t = {
        .name = name, .dtype = CKPT_DTYPE_F32, .ndim = s->ndim, .boxes = boxes
    };
    memcpy(t.shape, s->shape, sizeof(s->shape));
    for (size_t i = 0; i < s->count;) {
        uint32_t rank = s->boxes[i].rank;
        t.box_count = 0;
        for (; i < s->count && s->boxes[i].rank == rank; i++)
            boxes[t.box_count++] = (struct manifest_box){ .box = s->boxes[i].box };
        if (rank >= from && rank < to)
            CHECK_OK(merge_add_tensor(m, rank, &t, false, NULL));
    }
}

static void merge_begin(struct merge *m, uint32_t world)
{
    *m = (struct merge){ .job = "job", .name = { 1, 2, 3 }, .world = world };
    m->ranks = calloc(world, sizeof(*m->ranks));
    CHECK(m->ranks);
}

/* In up to five ranges that are joined. */
static void merge_split(struct merge *m, const struct split *s, unsigned long long *seed)
{
    uint32_t ranges = 1 + (uint32_t)below(seed, 5);
    merge_begin(m, s->world);
    for (uint32_t i = 0; i < ranges; i++) {
        struct merge part = { .job = m->job, .name = m->name, .world = m->world };
        uint32_t from = s->world * i / ranges, to = s->world * (i + 1) / ranges;
        merge_ranks(&part, s, "b", from, to);
        if (i % 2 == 0)
            merge_ranks(&part, s, "a", from, to);
        else
            merge_ranks(m, s, "a", from, to); /* known to the whole already */
        CHECK_OK(merge_join(m, &part, NULL));
        merge_table_fini(&part);
    }
}

static void check_runs(const struct merge_tensor *t, const struct split *s, struct census *c)
{
    static struct index_from boxes[BOXES_MAX];
    static struct index_run runs[BOXES_MAX];
    CHECK_EQ(t->box_count, s->count);
    for (size_t i = 0; i < s->count; i++)
        boxes[i] = (struct index_from){ s->boxes[i].box, s->boxes[i].rank };
    size_t n = index_fold(boxes, s->count, s->ndim, runs);
    CHECK_EQ(t->desc.run_count, n);
    for (size_t i = 0; i < n; i++) {
        const struct index_run *a = &t->desc.runs[i], *b = &runs[i];
        CHECK(a->count == b->count && a->rank0 == b->rank0 && a->rank_step == b->rank_step &&
              a->axis == b->axis && a->step == b->step && a->last_len == b->last_len &&
              box_equal(&a->box0, &b->box0));
    }
    c->folded += n < s->count;
}

static void one_case(unsigned long long *seed, struct census *c)
{
    static struct split s;
    static struct cover_box boxes[BOXES_MAX];
    struct merge m;
    struct ckpt_err err = { 0 }, want = { 0 };
    make_split(&s, seed, c);
    memcpy(boxes, s.boxes, sizeof(boxes));
    enum ckpt_status proved = cover_check("b", s.ndim, s.shape, boxes, s.count, &want);
    merge_split(&m, &s, seed);
    CHECK_EQ(m.tensor_count, s.count ? 2 : 0);
    CHECK_EQ(merge_finish(&m, &err), s.count ? proved : CKPT_OK);
    c->refused += proved != CKPT_OK;
    for (size_t i = 0; i < m.tensor_count && proved == CKPT_OK; i++)
        check_runs(&m.tensors[i], &s, c);
    merge_fini(&m);
}

/* Of what ranks must agree on, each is named, within a range and between two. */
static void test_disagreement(void)
{
    static const struct {
        const char *word;
        struct manifest_tensor t;
    } others[] = {
        { "dtype", { .name = "w", .dtype = CKPT_DTYPE_I32, .ndim = 1, .shape = { 8 } } },
        { "shape", { .name = "w", .dtype = CKPT_DTYPE_F32, .ndim = 1, .shape = { 9 } } },
        { "shape", { .name = "w", .dtype = CKPT_DTYPE_F32, .ndim = 2, .shape = { 8, 1 } } },
        { "kind",
          { .name = "w",
            .dtype = CKPT_DTYPE_F32,
            .ndim = 1,
            .shape = { 8 },
            .kind = DECL_LOCKED } },
        { "alias",
          { .name = "w",
            .alias = "v",
            .dtype = CKPT_DTYPE_F32,
            .ndim = 1,
            .shape = { 8 },
            .flags = DECL_ALIAS } },
    };
    const struct manifest_tensor plain = {
        .name = "w", .dtype = CKPT_DTYPE_F32, .ndim = 1, .shape = { 8 }
    };
    for (size_t i = 0; i < ARRAY_COUNT(others) * 2; i++) {
        struct merge m, part;
        struct ckpt_err err = { 0 };
        bool joined = i % 2;
        merge_begin(&m, 9);
        merge_begin(&part, 9);
        CHECK_OK(merge_add_tensor(&m, 3, &plain, false, NULL));
        enum ckpt_status st =
            merge_add_tensor(joined ? &part : &m, 7, &others[i / 2].t, false, &err);
        if (joined) {
            CHECK_OK(st);
            st = merge_join(&m, &part, &err);
        }
        CHECK_EQ(st, CKPT_MISMATCH);
        CHECK(strstr(err_text(&err), "tensor w: ranks 3 and 7") &&
              strstr(err_text(&err), others[i / 2].word));
        merge_fini(&m);
        merge_fini(&part);
    }
}

/* A run with gaps is not the box from its first to its last: [0:2] and [4:6] is one run, and
 * so is [4:6] and [6:8], which together hold as much as [0:8] has. */
static void test_gaps(void)
{
    static const uint64_t off[] = { 0, 4, 4, 6 };
    struct merge m;
    struct ckpt_err err = { 0 };
    merge_begin(&m, 4);
    for (uint32_t rank = 0; rank < 4; rank++) {
        struct manifest_box box = { .box = { .ndim = 1, .off = { off[rank] }, .len = { 2 } } };
        const struct manifest_tensor t = { .name = "w",
                                           .dtype = CKPT_DTYPE_F32,
                                           .ndim = 1,
                                           .shape = { 8 },
                                           .boxes = &box,
                                           .box_count = 1 };
        CHECK_OK(merge_add_tensor(&m, rank, &t, false, NULL));
    }
    CHECK_EQ(m.tensors[0].run_count, 2);
    CHECK_EQ(merge_finish(&m, &err), CKPT_COVER);
    CHECK(strstr(err_text(&err), "ranks 1 and 2 both hold"));
    merge_fini(&m);
}

/* A witness goes on to speak of its tensor when tables are joined. */
static void test_witnesses(void)
{
    struct manifest_witness seen = { .box = { .ndim = 1, .len = { 8 } } };
    struct manifest_tensor t = {
        .name = "first", .dtype = CKPT_DTYPE_F32, .ndim = 1, .shape = { 8 }
    };
    struct merge m, part;
    merge_begin(&m, 9);
    merge_begin(&part, 9);
    CHECK_OK(merge_add_tensor(&m, 0, &t, false, NULL));
    t.name = "second";
    t.witnesses = &seen;
    t.witness_count = 1;
    CHECK_OK(merge_add_tensor(&part, 5, &t, false, NULL));
    CHECK_OK(merge_join(&m, &part, NULL));
    CHECK_EQ(m.witness_count, 1);
    CHECK_EQ(m.witnesses[0].rank, 5);
    CHECK_STR(m.tensors[m.witnesses[0].tensor].desc.name, "second");
    merge_fini(&m);
    merge_fini(&part);
}

int main(void)
{
    unsigned long long seed = test_seed(20261121);
    struct census c = { 0 };
    long cases = 6000 / TEST_TENTH;
    for (long i = 0; i < cases; i++)
        one_case(&seed, &c);
    printf("regular %ld ragged %ld grid %ld scattered %ld shuffled %ld strided %ld holes %ld "
           "overlaps %ld refused %ld folded %ld\n",
           c.regular, c.ragged, c.grid, c.scattered, c.shuffled, c.strided, c.holes, c.overlaps,
           c.refused, c.folded);
    CHECK(c.regular && c.ragged && c.grid && c.scattered && c.shuffled && c.strided && c.holes &&
          c.overlaps && c.refused && c.folded);
    test_disagreement();
    test_gaps();
    test_witnesses();
    TEST_CASES(cases + 12);
    return 0;
}
