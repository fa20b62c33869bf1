/* The index: expand o fold = identity in any order of input, regular splits are few
 * runs, asking a run equals asking its boxes, and damage is found.  Covers index.c,
 * index_fold.c and index_read.c together. */
#include "formats/index.h"
#include "unit/decl_random.h"

static int by_bytes(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(struct index_from));
}

static void shuffle(unsigned long long *seed, struct index_from *boxes, size_t n)
{
    for (size_t i = n; i > 1; i--) {
        size_t k = below(seed, i);
        struct index_from swap = boxes[k];
        boxes[k] = boxes[i - 1];
        boxes[i - 1] = swap;
    }
}

/* Structs are compared as bytes: without padding that differs. */
static struct index_from from_box(const struct box *box, uint32_t rank)
{
    struct index_from f;
    memset(&f, 0, sizeof(f));
    f.box.ndim = box->ndim;
    memcpy(f.box.off, box->off, box->ndim * sizeof(uint64_t));
    memcpy(f.box.len, box->len, box->ndim * sizeof(uint64_t));
    f.rank = rank;
    return f;
}

/* Folds in this and in a shuffled order, expands, compares; returns the runs. */
static size_t check_fold(unsigned long long *seed, const struct index_from *boxes, size_t n,
                         uint32_t ndim, struct index_run *runs)
{
    struct index_from *work = calloc(n + 1, sizeof(*work)), *back = calloc(n + 1, sizeof(*back));
    struct index_run *again = calloc(n + 1, sizeof(*again));
    memcpy(work, boxes, n * sizeof(*work));
    memset(runs, 0, n * sizeof(*runs));
    size_t count = index_fold(work, n, ndim, runs), total = 0;
    for (size_t r = 0; r < count; r++) {
        CHECK(runs[r].count == 1 || runs[r].step >= runs[r].box0.len[runs[r].axis]);
        for (uint32_t i = 0; i < runs[r].count; i++) {
            uint32_t rank;
            struct box box = index_run_box(&runs[r], i, &rank);
            CHECK(total < n);
            back[total++] = from_box(&box, rank);
        }
    }
    CHECK_EQ(total, n);
    memcpy(work, boxes, n * sizeof(*work));
    shuffle(seed, work, n);
    CHECK_EQ(index_fold(work, n, ndim, again), count);
    for (size_t r = 0; r < count; r++) {
        const struct index_run *x = &runs[r], *y = &again[r];
        CHECK(x->count == y->count && x->rank0 == y->rank0 && x->rank_step == y->rank_step);
        CHECK(x->axis == y->axis && x->step == y->step && x->last_len == y->last_len);
        CHECK(box_equal(&x->box0, &y->box0));
    }
    memcpy(work, boxes, n * sizeof(*work));
    qsort(work, n, sizeof(*work), by_bytes);
    qsort(back, n, sizeof(*back), by_bytes);
    CHECK(memcmp(work, back, n * sizeof(*work)) == 0);
    free(work);
    free(back);
    free(again);
    return count;
}

/* A box of about half of what is there, anywhere, sometimes empty or outside. */
static struct box random_want(unsigned long long *seed, uint32_t ndim, const uint64_t *shape)
{
    struct box want = { .ndim = ndim };
    for (uint32_t d = 0; d < ndim; d++) {
        want.off[d] = below(seed, shape[d] + 1);
        want.len[d] = below(seed, shape[d] - want.off[d] + 1);
    }
    return want;
}

static size_t check_hits(const struct index_run *run, const struct box *want)
{
    uint32_t first = 7, last = 7, lo = UINT32_MAX, hi = 0, rank;
    struct box common;
    for (uint32_t i = 0; i < run->count; i++) {
        struct box box = index_run_box(run, i, &rank);
        if (box_intersect(&box, want, &common)) {
            lo = lo == UINT32_MAX ? i : lo;
            hi = i;
        }
    }
    bool hit = index_run_hits(run, want, &first, &last);
    CHECK(hit == (lo != UINT32_MAX));
    CHECK(hit ? first == lo && last == hi : first == 7 && last == 7);
    return hit;
}

static int test_random(unsigned long long *seed)
{
    struct index_from boxes[64];
    struct index_run runs[64];
    int cases = 0;
    size_t hits = 0, long_runs = 0;
    for (int round = 0; round < 3000; round++) {
        uint32_t ndim = (uint32_t)below(seed, 4), unit[CKPT_DIMS_MAX] = { 0 };
        uint64_t shape[CKPT_DIMS_MAX] = { 0 };
        struct box parts[64];
        for (uint32_t d = 0; d < ndim; d++)
            shape[d] = 1 + below(seed, 12);
        size_t n = random_split(seed, box_whole(ndim, shape), unit, parts, 1 + below(seed, 64));
        size_t all = n;
        for (size_t i = n = 0; i < all; i++) { /* some are missing, some overlap */
            if (below(seed, 6))
                parts[n++] = parts[i];
            else if (ndim && parts[i].off[0] && below(seed, 2))
                parts[i].off[0]--, parts[n++] = parts[i];
        }
        for (size_t i = 0; i < n; i++)
            boxes[i] = from_box(&parts[i],
                                (uint32_t)below(seed, 3) ? (uint32_t)i : (uint32_t)below(seed, 9));
        size_t count = check_fold(seed, boxes, n, ndim, runs);
        for (size_t r = 0; r < count; r++) {
            struct box want = random_want(seed, ndim, shape);
            hits += check_hits(&runs[r], &want);
            long_runs += runs[r].count > 2;
            cases++;
        }
    }
    printf("%zu hits, %zu long runs\n", hits, long_runs);
    CHECK(hits > 1000 && long_runs > 50);
    return cases;
}

/* Splits along an axis as torch.chunk does: ceil(n / parts), later ones short or none. */
static bool chunk_of(uint64_t n, uint64_t parts, uint64_t i, uint64_t *off, uint64_t *len)
{
    uint64_t size = div_up(n, parts), end = min_u64(n, (i + 1) * size);
    *off = min_u64(n, i * size);
    *len = end - *off;
    return *len;
}

static const struct {
    const char *text;
    uint64_t rows, cols;
    uint32_t dp, tp;
    bool strided; /* both axes split the rows */
    size_t runs;
} splits[] = {
    { "FSDP even", 16384, 64, 1024, 1, false, 1 },
    { "FSDP uneven", 10007, 64, 1024, 1, false, 1 },
    { "FSDP with ranks that hold nothing", 129, 3, 1024, 1, false, 1 },
    { "one row a rank", 1024, 3, 1024, 1, false, 1 },
    { "TP over columns, FSDP over rows", 8192, 640, 256, 8, false, 8 },
    { "TP over columns, few rows", 8192, 640, 4, 64, false, 4 },
    { "FSDP inside TP, both over rows", 8192, 4, 128, 8, true, 8 },
    { "one rank", 5, 5, 1, 1, false, 1 },
    { "16,384 ranks: TP over columns, FSDP over rows", 65536, 640, 2048, 8, false, 8 },
    { "16,384 ranks: FSDP inside TP, both over rows", 65536, 4, 2048, 8, true, 8 },
    { "16,384 ranks: FSDP uneven", 1000003, 64, 16384, 1, false, 1 },
};

static int test_regular(unsigned long long *seed)
{
    for (size_t s = 0; s < ARRAY_COUNT(splits); s++) {
        uint32_t dp = splits[s].dp, tp = splits[s].tp, n = 0;
        struct index_from *boxes = calloc(dp * tp, sizeof(*boxes));
        struct index_run *runs = calloc(dp * tp, sizeof(*runs));
        uint64_t shape[CKPT_DIMS_MAX] = { splits[s].rows, splits[s].cols };
        for (uint32_t rank = 0; rank < dp * tp; rank++) {
            struct box b = box_whole(2, shape);
            uint64_t off = 0;
            if (splits[s].strided) {
                if (!chunk_of(b.len[0], tp, rank % tp, &off, &b.len[0]))
                    continue;
            } else if (!chunk_of(b.len[1], tp, rank % tp, &b.off[1], &b.len[1])) {
                continue;
            }
            if (!chunk_of(b.len[0], dp, rank / tp, &b.off[0], &b.len[0]))
                continue;
            b.off[0] += off;
            boxes[n++] = from_box(&b, rank);
        }
        size_t count = check_fold(seed, boxes, n, 2, runs);
        if (count != splits[s].runs)
            fprintf(stderr, "%s\n", splits[s].text);
        CHECK_EQ(count, splits[s].runs);
        for (int i = 0; i < 50; i++) {
            struct box want = random_want(seed, 2, shape);
            for (size_t r = 0; r < count; r++)
                check_hits(&runs[r], &want);
        }
        free(boxes);
        free(runs);
    }
    return (int)ARRAY_COUNT(splits);
}

/* A short box ends its run even where the next one keeps step. */
static int test_short_inside(unsigned long long *seed)
{
    static const uint64_t lens[4] = { 4, 3, 4, 4 };
    struct index_from boxes[4];
    struct index_run runs[4];
    for (uint32_t i = 0; i < 4; i++) {
        struct box b = { .ndim = 1, .off = { 4 * i }, .len = { lens[i] } };
        boxes[i] = from_box(&b, i);
    }
    CHECK_EQ(check_fold(seed, boxes, 4, 1, runs), 2);
    return 1;
}

/* A square of four: two runs either way, so the lowest axis. */
static int test_equals(unsigned long long *seed)
{
    struct index_from boxes[4];
    struct index_run runs[4];
    for (uint32_t i = 0; i < 4; i++) {
        struct box b = { .ndim = 2, .off = { 4 * (i / 2), 4 * (i % 2) }, .len = { 4, 4 } };
        boxes[i] = from_box(&b, i);
    }
    CHECK_EQ(check_fold(seed, boxes, 4, 2, runs), 2);
    CHECK(runs[0].axis == 0 && runs[1].axis == 0 && runs[0].rank_step == 2);
    return 1;
}

struct sample {
    uint32_t world;
    struct index_rank *ranks;
    struct index_tensors tensors;
    struct ckpt_name name;
    struct buf *segments;
    uint32_t count, header_bytes;
    struct sha256 sha;
};

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct index_tensor *)a)->name, ((const struct index_tensor *)b)->name);
}

static void sample_tensor(unsigned long long *seed, uint32_t world, size_t i,
                          struct index_tensor *t)
{
    char name[32];
    struct box parts[64];
    struct index_from from[64];
    uint32_t unit[CKPT_DIMS_MAX] = { 0 };
    snprintf(name, sizeof(name), "w%zu", i);
    struct decl_tensor d = random_tensor(seed, name);
    d.kind = DECL_ELEMENTWISE;
    d.dtype = CKPT_DTYPE_F32;
    memset(d.block, 0, sizeof(d.block));
    *t = (struct index_tensor){ .name = strdup(name), .dtype = d.dtype, .ndim = d.ndim };
    memcpy(t->shape, d.shape, sizeof(t->shape));
    if (i % 7 == 3) {
        t->flags = DECL_ALIAS;
        t->alias = strdup("w0");
        return;
    }
    struct box whole = box_whole(d.ndim, d.shape);
    if (!box_volume(&whole))
        return;
    size_t n = random_split(seed, whole, unit, parts, 1 + below(seed, 64));
    for (size_t k = 0; k < n; k++)
        from[k] = from_box(&parts[k], (uint32_t)(k % world));
    t->runs = calloc(n, sizeof(*t->runs));
    t->run_count = (uint32_t)index_fold(from, n, d.ndim, t->runs);
}

static void sample_init(struct sample *s, unsigned long long *seed, size_t tensors)
{
    memset(s, 0, sizeof(*s));
    s->world = 1 + (uint32_t)below(seed, 3000);
    s->name = (struct ckpt_name){ 1, 2, test_rand(seed) };
    s->ranks = calloc(s->world, sizeof(*s->ranks));
    for (uint32_t r = 0; r < s->world; r++) {
        s->ranks[r].header_bytes = 176 + (uint32_t)below(seed, 1000);
        s->ranks[r].bytes = s->ranks[r].header_bytes + below(seed, 100000);
        for (unsigned i = 0; i < 32; i++)
            s->ranks[r].sha.b[i] = (uint8_t)test_rand(seed);
        for (unsigned i = 0; i < 16; i++)
            s->ranks[r].node[i] = (uint8_t)test_rand(seed);
    }
    s->tensors.tensors = calloc(tensors + 1, sizeof(*s->tensors.tensors));
    s->tensors.count = tensors;
    for (size_t i = 0; i < tensors; i++)
        sample_tensor(seed, s->world, i, &s->tensors.tensors[i]);
    qsort(s->tensors.tensors, tensors, sizeof(*s->tensors.tensors), by_name);
}

static void sample_encode(struct sample *s)
{
    CHECK_OK(index_encode(&s->name, s->world, s->ranks, &s->tensors, &s->segments, &s->count,
                          &s->header_bytes, &s->sha, NULL));
}

static void sample_fini(struct sample *s)
{
    for (uint32_t i = 0; i < s->count; i++)
        buf_fini(&s->segments[i]);
    free(s->segments);
    free(s->ranks);
    index_tensors_fini(&s->tensors);
}

static void check_tensor(const struct index_tensor *a, const struct index_tensor *b)
{
    CHECK_STR(a->name, b->name);
    CHECK(!a->alias == !b->alias && (!a->alias || strcmp(a->alias, b->alias) == 0));
    CHECK(a->dtype == b->dtype && a->kind == b->kind && a->flags == b->flags);
    CHECK(a->ndim == b->ndim && memcmp(a->shape, b->shape, sizeof(a->shape)) == 0);
    CHECK_EQ(a->run_count, b->run_count);
    for (uint32_t i = 0; i < a->run_count; i++) {
        const struct index_run *x = &a->runs[i], *y = &b->runs[i];
        CHECK(x->count == y->count && x->rank0 == y->rank0 && x->rank_step == y->rank_step);
        CHECK(x->axis == y->axis && x->step == y->step && x->last_len == y->last_len);
        CHECK(box_equal(&x->box0, &y->box0));
    }
}

/* Decodes all of it; compares with the sample when there is one. */
static enum ckpt_status decode_all(const struct sample *s, const struct sha256 *sha, bool compare)
{
    struct index_header h;
    struct index_rank ranks[INDEX_RANKS_PER_BLOCK];
    size_t at = 0;
    enum ckpt_status st = index_header_decode(s->segments[0].data, s->header_bytes, sha, &h, NULL);
    if (st != CKPT_OK)
        return st;
    CHECK(!compare || h.segment_count == s->count);
    for (uint32_t i = 0; i < h.segment_count && compare; i++)
        CHECK_EQ(h.segment_bytes[i], s->segments[i].len);
    for (uint32_t b = 0; st == CKPT_OK && b < h.rank_block_count; b++) {
        const struct index_block *k = &h.rank_blocks[b];
        uint32_t n;
        if (k->segment >= s->count || k->offset + k->bytes > s->segments[k->segment].len)
            st = CKPT_CORRUPT;
        else
            st = index_rank_block_decode(&h, b, s->segments[k->segment].data + k->offset, k->bytes,
                                         ranks, &n, NULL);
        for (uint32_t i = 0; st == CKPT_OK && compare && i < n; i++) {
            const struct index_rank *want = &s->ranks[b * INDEX_RANKS_PER_BLOCK + i];
            CHECK(sha256_equal(&ranks[i].sha, &want->sha));
            CHECK(ranks[i].header_bytes == want->header_bytes && ranks[i].bytes == want->bytes);
            CHECK(memcmp(ranks[i].node, want->node, sizeof(want->node)) == 0);
        }
    }
    for (uint32_t b = 0; st == CKPT_OK && b < h.block_count; b++) {
        const struct index_block *k = &h.blocks[b];
        struct index_tensors t;
        if (k->segment >= s->count || k->offset + k->bytes > s->segments[k->segment].len) {
            st = CKPT_CORRUPT;
            break;
        }
        CLEANUP_FREE uint8_t *copy = malloc(k->bytes);
        memcpy(copy, s->segments[k->segment].data + k->offset, k->bytes);
        st = index_block_decode(&h, b, copy, k->bytes, &t, NULL);
        if (st != CKPT_OK)
            break;
        for (size_t i = 0; i < t.count && compare; i++) {
            CHECK_EQ(index_block_of(&h, t.tensors[i].name), b);
            check_tensor(&t.tensors[i], &s->tensors.tensors[at++]);
        }
        index_tensors_fini(&t);
    }
    CHECK(!compare || at == s->tensors.count);
    index_header_fini(&h);
    return st;
}

static int test_identity(unsigned long long *seed)
{
    for (int round = 0; round < 40; round++) {
        struct sample s;
        sample_init(&s, seed, round == 0 ? 0 : round % 10 == 9 ? 400 : below(seed, 30));
        sample_encode(&s);
        CHECK_OK(decode_all(&s, &s.sha, true));
        sample_fini(&s);
    }
    index_header_fini(NULL);
    index_tensors_fini(NULL);
    return 40;
}

/* More than one segment: blocks are found wherever they lie. */
static int test_segments(unsigned long long *seed)
{
    struct sample s;
    sample_init(&s, seed, 14);
    for (size_t i = 0; i < s.tensors.count; i++) {
        struct index_tensor *t = &s.tensors.tensors[i];
        uint32_t n = 80000;
        if (t->alias)
            continue;
        free(t->runs);
        t->ndim = 1;
        memset(t->shape, 0, sizeof(t->shape));
        t->shape[0] = 3 * n;
        t->runs = calloc(n, sizeof(*t->runs));
        t->run_count = n;
        for (uint32_t k = 0; k < n; k++)
            t->runs[k] =
                (struct index_run){ .count = 1,
                                    .rank0 = k % s.world,
                                    .box0 = { .ndim = 1, .off = { 3 * k }, .len = { 2 } } };
    }
    sample_encode(&s);
    CHECK(s.count == 2);
    CHECK_OK(decode_all(&s, &s.sha, true));
    sample_fini(&s);
    return 1;
}

static int test_hostile(unsigned long long *seed)
{
    int cases = 0, refused = 0, sane = 0;
    for (int round = 0; round < 6; round++) {
        struct sample s;
        sample_init(&s, seed, 1 + below(seed, 5));
        s.world = 1 + (uint32_t)below(seed, 5);
        for (size_t i = 0; i < s.tensors.count; i++) { /* ranks must fit the smaller world */
            struct index_tensor *t = &s.tensors.tensors[i];
            for (uint32_t k = 0; k < t->run_count; k++)
                t->runs[k].rank0 = t->runs[k].rank_step = 0;
        }
        sample_encode(&s);
        CHECK_OK(decode_all(&s, &s.sha, true));
        struct buf *b = &s.segments[0];
        size_t whole = b->len, first_len = 0;
        struct index_header h;
        CHECK_OK(index_header_decode(b->data, s.header_bytes, &s.sha, &h, NULL));
        first_len = strlen(h.blocks[0].first);
        index_header_fini(&h);
        for (size_t len = 0; len < whole; len++, cases++) {
            b->len = len;
            CLEANUP_FREE uint8_t *cut = malloc(len ? len : 1);
            memcpy(cut, b->data, len);
            struct sha256 sha = sha256_of(cut, min_u64(len, s.header_bytes));
            if (len < s.header_bytes)
                CHECK(index_header_decode(cut, len, &sha, &h, NULL) != CKPT_OK);
            else
                CHECK(decode_all(&s, &s.sha, false) != CKPT_OK);
        }
        b->len = whole;
        CLEANUP_FREE uint8_t *keep = malloc(whole);
        memcpy(keep, b->data, whole);
        for (int flip = 0; flip < 1500; flip++, cases++) {
            size_t at = below(seed, whole);
            b->data[at] ^= (uint8_t)(1u << below(seed, 8));
            CHECK(decode_all(&s, &s.sha, false) != CKPT_OK);
            /* The digest of the one tensor block stands before its name, last in the header. */
            size_t ranks = s.header_bytes + (size_t)s.world * 60;
            struct digest sum = digest_of(b->data + ranks, whole - ranks);
            if (at >= ranks)
                memcpy(b->data + s.header_bytes - first_len - 2 - 16, sum.b, 16);
            *(decode_all(&s, NULL, false) == CKPT_OK ? &sane : &refused) += 1;
            memcpy(b->data, keep, whole);
        }
        sample_fini(&s);
    }
    CHECK(refused > 500 && sane > 50);
    return cases;
}

/* Nonsense whose digests are right.  Offsets are those of an index of four ranks and
 * the tensor "a" of 8 floats, split evenly: one run; see FORMAT.md. */
#define SMALL_HEADER 157
#define SMALL_BLOCK  397
#define SMALL_BYTES  469

static const struct {
    size_t at, width;
    uint64_t value;
    const char *text;
} nonsense[] = {
    { 0, 1, 'X', "not an index" },    { 10, 1, 1, "header" },
    { 12, 4, 158, "header" },         { 40, 4, 0, "limits" },
    { 40, 4, 1 << 21, "limits" },     { 40, 4, 3, "rank table" },
    { 44, 4, 2, "tables differ" },    { 44, 4, 0, "segments" },
    { 44, 4, 5000, "segments" },      { 48, 4, 2, "more blocks" },
    { 52, 4, 9, "more blocks" },      { 52, 4, 0, "add up" },
    { 56, 8, 2, "add up" },           { 64, 1, 1, "header" },
    { 126, 4, 1, "beyond the last" }, { 126, 4, 2, "skip" },
    { 130, 4, 0, "block table" },     { 130, 4, 71, "wrong size" },
    { 134, 4, 0, "too small" },       { 104, 4, 1, "rank table" },
    { 156, 1, 'b', "not sorted" },    { 397, 1, 77, "description" },
    { 417, 4, 2, "more runs" },       { 417, 4, 0, "left over" },
    { 421, 4, 0, "no sense" },        { 421, 4, 5, "no sense" },
    { 425, 4, 1, "no sense" },        { 429, 4, 2, "no sense" },
    { 433, 4, 1, "no sense" },        { 437, 8, 1, "no sense" },
    { 437, 8, 3, "no sense" },        { 437, 8, 1ull << 63, "no sense" },
    { 445, 8, 0, "no sense" },        { 445, 8, 3, "no sense" },
    { 453, 8, 1, "no sense" },        { 461, 8, 0, "no sense" },
    { 461, 8, 9, "no sense" },
};

static void small_init(struct sample *s)
{
    struct index_from from[4];
    memset(s, 0, sizeof(*s));
    s->world = 4;
    s->ranks = calloc(4, sizeof(*s->ranks));
    s->tensors.tensors = calloc(1, sizeof(*s->tensors.tensors));
    s->tensors.count = 1;
    struct index_tensor *t = &s->tensors.tensors[0];
    *t = (struct index_tensor){ .name = strdup("a"), .dtype = CKPT_DTYPE_F32, .ndim = 1 };
    t->shape[0] = 8;
    t->runs = calloc(4, sizeof(*t->runs));
    for (uint32_t r = 0; r < 4; r++)
        from[r] =
            (struct index_from){ .box = { .ndim = 1, .off = { 2 * r }, .len = { 2 } }, .rank = r };
    t->run_count = (uint32_t)index_fold(from, 4, 1, t->runs);
    CHECK_EQ(t->run_count, 1);
    sample_encode(s);
    CHECK_EQ(s->header_bytes, SMALL_HEADER);
    CHECK_EQ(s->segments[0].len, SMALL_BYTES);
}

static enum ckpt_status decode_small(const struct buf *b, struct ckpt_err *err)
{
    struct index_header h;
    struct index_tensors t;
    enum ckpt_status st = index_header_decode(b->data, SMALL_HEADER, NULL, &h, err);
    if (st != CKPT_OK)
        return st;
    st = index_block_decode(&h, 0, b->data + SMALL_BLOCK, b->len - SMALL_BLOCK, &t, err);
    if (st == CKPT_OK)
        index_tensors_fini(&t);
    index_header_fini(&h);
    return st;
}

static int test_nonsense(void)
{
    for (size_t i = 0; i < ARRAY_COUNT(nonsense); i++) {
        struct sample s;
        struct ckpt_err err = { 0 };
        small_init(&s);
        CHECK_OK(decode_small(&s.segments[0], NULL));
        uint8_t *data = s.segments[0].data;
        for (size_t k = 0; k < nonsense[i].width; k++)
            data[nonsense[i].at + k] = (uint8_t)(nonsense[i].value >> (8 * k));
        struct digest sum = digest_of(data + SMALL_BLOCK, SMALL_BYTES - SMALL_BLOCK);
        memcpy(data + 138, sum.b, sizeof(sum.b));
        enum ckpt_status st = decode_small(&s.segments[0], &err);
        if (st == CKPT_OK || !strstr(err.text, nonsense[i].text))
            fprintf(stderr, "nonsense at %zu: %s: %s\n", nonsense[i].at, status_name(st), err.text);
        CHECK(st == CKPT_CORRUPT && strstr(err.text, nonsense[i].text));
        sample_fini(&s);
    }
    return (int)ARRAY_COUNT(nonsense);
}

/* Blocks out of order, with the caller's trust (no SHA-256 to check against). */
static int test_order(unsigned long long *seed)
{
    struct sample s;
    struct index_header h;
    struct ckpt_err err = { 0 };
    sample_init(&s, seed, 400);
    sample_encode(&s);
    CHECK_OK(index_header_decode(s.segments[0].data, s.header_bytes, &s.sha, &h, NULL));
    CHECK(h.block_count > 1);
    char *name =
        memmem(s.segments[0].data, s.header_bytes, h.blocks[1].first, strlen(h.blocks[1].first));
    index_header_fini(&h);
    CHECK(name);
    *name = '!';
    CHECK_EQ(index_header_decode(s.segments[0].data, s.header_bytes, NULL, &h, &err), CKPT_CORRUPT);
    CHECK(strstr(err.text, "not sorted"));
    sample_fini(&s);
    return 1;
}

/* The last tensor of a block is named behind the first of the next one: nobody would find
 * it there. */
static int test_order_of_blocks(unsigned long long *seed)
{
    struct sample s;
    struct index_header h;
    struct index_tensors t;
    struct ckpt_err err = { 0 };
    sample_init(&s, seed, 400);
    sample_encode(&s);
    uint8_t *data = s.segments[0].data;
    CHECK_OK(index_header_decode(data, s.header_bytes, &s.sha, &h, NULL));
    struct index_block *b = &h.blocks[0];
    CHECK(h.block_count > 1 && b->segment == 0);
    CHECK_OK(index_block_decode(&h, 0, data + b->offset, b->bytes, &t, NULL));
    const char *last = t.tensors[t.count - 1].name;
    uint8_t *name = memmem(data + b->offset, b->bytes, last, strlen(last) + 1);
    index_tensors_fini(&t);
    CHECK(name);
    *name = '~';
    b->digest = digest_of(data + b->offset, b->bytes);
    CHECK_EQ(index_block_decode(&h, 0, data + b->offset, b->bytes, &t, &err), CKPT_CORRUPT);
    CHECK(strstr(err.text, "not sorted"));
    index_header_fini(&h);
    sample_fini(&s);
    return 1;
}

int main(void)
{
    unsigned long long seed = test_seed(20260103);
    int cases = test_random(&seed) + test_regular(&seed) + test_short_inside(&seed) +
                test_equals(&seed) + test_identity(&seed);
    cases += test_segments(&seed) + test_hostile(&seed);
    cases += test_nonsense() + test_order(&seed) + test_order_of_blocks(&seed);
    TEST_CASES(cases);
    return 0;
}
