/* Boxes against brute force: every element of small shapes is looked at. */
#include "formats/box.h"

#include "check.h"

/* The linker sends every call of memcpy here, so that a test can count them. */
void *__real_memcpy(void *dst, const void *src, size_t n);
void *__wrap_memcpy(void *dst, const void *src, size_t n);
static long memcpy_calls;

void *__wrap_memcpy(void *dst, const void *src, size_t n)
{
    memcpy_calls++;
    return __real_memcpy(dst, src, n);
}

static unsigned long long seed;

static uint64_t below(uint64_t n)
{
    return test_rand(&seed) % n;
}

static struct box random_box(uint32_t ndim, const uint64_t *shape)
{
    struct box box = { .ndim = ndim };
    for (uint32_t d = 0; d < ndim; d++) {
        box.off[d] = below(shape[d] + 1);
        box.len[d] = below(shape[d] - box.off[d] + 1);
        if (below(3) == 0) {
            box.off[d] = 0;
            box.len[d] = shape[d];
        }
    }
    return box;
}

static bool box_has(const struct box *box, const uint64_t *at)
{
    for (uint32_t d = 0; d < box->ndim; d++) {
        if (at[d] < box->off[d] || at[d] >= box->off[d] + box->len[d])
            return false;
    }
    return true;
}

/* The next element of a shape, row-major; false after the last. */
static bool next_at(uint32_t ndim, const uint64_t *shape, uint64_t *at)
{
    for (uint32_t d = ndim; d-- > 0;) {
        if (++at[d] < shape[d])
            return true;
        at[d] = 0;
    }
    return false;
}

static uint64_t random_shape(uint32_t ndim, uint64_t most, uint64_t *shape)
{
    uint64_t volume = 1;
    for (uint32_t d = 0; d < ndim; d++)
        volume *= shape[d] = 1 + below(most);
    return volume;
}

static void check_sets(uint32_t ndim, const uint64_t *shape)
{
    struct box a = random_box(ndim, shape), b = random_box(ndim, shape), common;
    struct box whole = box_whole(ndim, shape);
    bool met = box_intersect(&a, &b, &common);
    uint64_t at[CKPT_DIMS_MAX] = { 0 };
    uint64_t in_a = 0, in_both = 0;
    CHECK_OK(box_check(&a, shape, 8, NULL));
    CHECK(box_contains(&whole, &a) && box_contains(&a, &a));
    do {
        bool both = box_has(&a, at) && box_has(&b, at);
        in_a += box_has(&a, at);
        in_both += both;
        CHECK_EQ(met && box_has(&common, at), both);
    } while (next_at(ndim, shape, at));
    CHECK_EQ(box_volume(&a), in_a);
    CHECK_EQ(met, in_both > 0);
    if (in_a > 0)
        CHECK_EQ(box_contains(&b, &a), in_both == in_a);
    CHECK_EQ(box_equal(&a, &b), memcmp(&a, &b, sizeof(a)) == 0);
}

static long test_sets(void)
{
    long n = 0;
    for (; n < 4000; n++) {
        uint64_t shape[CKPT_DIMS_MAX];
        uint32_t ndim = (uint32_t)below(5);
        random_shape(ndim, 5, shape);
        check_sets(ndim, shape);
    }
    return n;
}

/* A random memory order for `box`: dense, padded or permuted; a source may also
 * run backwards or repeat.  Returns the bytes spanned; the base lies at
 * *ret_first within them. */
static uint64_t random_strides(const struct box *box, unsigned bits, bool source,
                               struct strided *at, uint64_t *ret_first)
{
    uint32_t order[CKPT_DIMS_MAX];
    uint64_t span = bits / 8;
    *ret_first = 0;
    for (uint32_t d = 0; d < box->ndim; d++)
        order[d] = d;
    bool permute = below(2), pad = below(2);
    for (uint32_t d = box->ndim; permute && d > 1; d--) {
        uint32_t other = (uint32_t)below(d), keep = order[d - 1];
        order[d - 1] = order[other];
        order[other] = keep;
    }
    for (uint32_t i = box->ndim; i-- > 0;) {
        uint32_t d = order[i];
        uint64_t len = max_u64(box->len[d], 1);
        uint64_t stride = span + (pad ? below(3) * (bits / 8) : 0);
        at->stride_bits[d] = (int64_t)(stride * 8);
        if (source && below(6) == 0) {
            at->stride_bits[d] = 0;
            continue;
        }
        if (source && below(6) == 0) {
            at->stride_bits[d] = -at->stride_bits[d];
            *ret_first += stride * (len - 1);
        }
        span = stride * len;
    }
    return span;
}

static const unsigned char *element(const struct strided *at, const struct box *box,
                                    const uint64_t *global)
{
    int64_t bits = 0;
    for (uint32_t d = 0; d < box->ndim; d++)
        bits += (int64_t)(global[d] - box->off[d]) * at->stride_bits[d];
    return at->base + bits / 8;
}

static struct box random_around(const struct box *what, const uint64_t *shape)
{
    struct box box = { .ndim = what->ndim };
    for (uint32_t d = 0; d < what->ndim; d++) {
        uint64_t end = what->off[d] + what->len[d];
        bool tight = below(2);
        box.off[d] = tight ? what->off[d] : below(what->off[d] + 1);
        box.len[d] = (tight ? end : end + below(shape[d] - end + 1)) - box.off[d];
    }
    return box;
}

/* Copies and compares: elements of `what` arrive, every other byte stays. */
static void check_copy(unsigned bits)
{
    uint64_t shape[CKPT_DIMS_MAX], src_first, dst_first;
    uint32_t ndim = (uint32_t)below(5);
    random_shape(ndim, 5, shape);
    struct box what = random_box(ndim, shape);
    struct box src_box = random_around(&what, shape), dst_box = random_around(&what, shape);
    struct strided src, dst;
    uint64_t src_bytes = random_strides(&src_box, bits, true, &src, &src_first);
    uint64_t dst_bytes = random_strides(&dst_box, bits, false, &dst, &dst_first);
    CLEANUP_FREE unsigned char *from = malloc(src_bytes);
    CLEANUP_FREE unsigned char *to = malloc(dst_bytes);
    CLEANUP_FREE unsigned char *want = malloc(dst_bytes);
    CHECK(from && to && want);
    for (uint64_t i = 0; i < src_bytes; i++)
        from[i] = (unsigned char)test_rand(&seed);
    for (uint64_t i = 0; i < dst_bytes; i++)
        to[i] = want[i] = (unsigned char)test_rand(&seed);
    src.base = from + src_first;
    dst.base = want;
    uint64_t at[CKPT_DIMS_MAX] = { 0 };
    do {
        if (box_has(&what, at)) {
            uint64_t offset = (uint64_t)(element(&dst, &dst_box, at) - want);
            memcpy(want + offset, element(&src, &src_box, at), bits / 8);
        }
    } while (next_at(ndim, shape, at));
    dst.base = to;
    box_copy(&what, bits, &dst_box, &dst, &src_box, &src);
    CHECK(memcmp(to, want, dst_bytes) == 0);
}

static long test_copy(void)
{
    static const unsigned widths[] = { 8, 16, 24, 32, 64, 128 };
    long n = 0;
    for (; n < 20000; n++)
        check_copy(widths[below(ARRAY_COUNT(widths))]);
    return n;
}

/* Sub-byte: as the same copy of bytes, each holding `pack` elements. */
static void check_copy_sub_byte(unsigned bits)
{
    unsigned per = bits == 6 ? 4 : 2; /* elements in `unit` bytes */
    unsigned unit = per * bits / 8;
    uint64_t shape[3] = { 1 + below(4), 1 + below(4), 1 + below(6) };
    struct box what = random_box(3, shape), fine = what;
    struct box whole = box_whole(3, shape), whole_fine = whole;
    unsigned char from[4 * 4 * 6 * 3], a[sizeof(from)], b[sizeof(from)];
    fine.off[2] *= per;
    fine.len[2] *= per;
    whole_fine.len[2] *= per;
    for (size_t i = 0; i < sizeof(from); i++) {
        from[i] = (unsigned char)test_rand(&seed);
        a[i] = b[i] = 0;
    }
    struct strided src = dense_at(&whole, unit * 8, from), dst = dense_at(&what, unit * 8, a);
    box_copy(&what, unit * 8, &what, &dst, &whole, &src);
    src = dense_at(&whole_fine, bits, from);
    dst = dense_at(&fine, bits, b);
    CHECK_OK(box_check(&fine, whole_fine.len, bits, NULL));
    CHECK_EQ(box_bytes(&fine, bits), box_volume(&what) * unit);
    box_copy(&fine, bits, &fine, &dst, &whole_fine, &src);
    CHECK(memcmp(a, b, sizeof(a)) == 0);
}

static long test_copy_sub_byte(void)
{
    long n = 0;
    for (; n < 2000; n++)
        check_copy_sub_byte(n % 2 ? 4 : 6);
    return n;
}

static enum ckpt_status check_1d(uint64_t shape, uint64_t off, uint64_t len, unsigned bits)
{
    struct box box = { .ndim = 1, .off = { off }, .len = { len } };
    return box_check(&box, &shape, bits, NULL);
}

static long test_hostile(void)
{
    uint64_t big[2] = { UINT64_C(1) << 31, UINT64_C(1) << 31 }, bytes = 7;
    struct box box = { .ndim = CKPT_DIMS_MAX + 1 };
    struct ckpt_err err = { 0 };
    CHECK_EQ(box_check(&box, big, 8, NULL), CKPT_LIMIT);
    CHECK_EQ(check_1d(10, UINT64_MAX, 2, 8), CKPT_INVALID);
    CHECK_EQ(check_1d(10, 2, UINT64_MAX, 8), CKPT_INVALID);
    CHECK_EQ(check_1d(10, 11, 0, 8), CKPT_INVALID);
    CHECK_EQ(check_1d(10, 10, 0, 8), CKPT_OK);
    CHECK_EQ(check_1d(10, 9, 2, 8), CKPT_INVALID);
    CHECK_EQ(check_1d(10, 0, 10, 0), CKPT_INVALID);
    CHECK_EQ(check_1d(10, 0, 10, 129), CKPT_INVALID);
    CHECK_EQ(check_1d(UINT64_C(1) << 59, 0, 1, 8), CKPT_LIMIT);
    CHECK_EQ(check_1d((UINT64_C(1) << 59) - 1, 0, 1, 8), CKPT_OK);
    CHECK_EQ(check_1d(UINT64_MAX, 0, 1, 4), CKPT_LIMIT);
    CHECK_EQ(check_1d(10, 1, 2, 4), CKPT_INVALID);
    CHECK_EQ(check_1d(10, 2, 3, 4), CKPT_INVALID);
    CHECK_EQ(check_1d(10, 1, 0, 4), CKPT_OK);
    CHECK_EQ(check_1d(12, 4, 8, 6), CKPT_OK);
    CHECK_EQ(check_1d(12, 2, 8, 6), CKPT_INVALID);
    box.ndim = 0;
    CHECK_EQ(box_check(&box, NULL, 4, NULL), CKPT_INVALID);
    CHECK_EQ(box_check(&box, NULL, 16, NULL), CKPT_OK);
    box.ndim = 2;
    big[1] = UINT64_C(1) << 33;
    CHECK_EQ(box_check(&box, big, 8, NULL), CKPT_LIMIT);
    CHECK(!shape_bytes(2, big, 8, &bytes));
    CHECK_EQ(bytes, 7);
    big[0] = 0;
    CHECK(shape_bytes(2, big, 8, &bytes));
    CHECK_EQ(bytes, 0);
    big[1] = UINT64_C(1) << 61; /* an empty shape whose strides would not fit */
    CHECK(!shape_bytes(2, big, 8, &bytes));
    big[1] = UINT64_C(1) << 33;
    box.off[1] = big[1];
    box.len[1] = 1;
    CHECK_EQ(box_check(&box, big, 8, &err), CKPT_INVALID);
    CHECK(strstr(err.text, "dimension 1"));
    return 26;
}

static long test_text(void)
{
    struct box box = { .ndim = 2, .off = { 0, 128 }, .len = { 4096, 128 } };
    char buf[64];
    CHECK_STR(box_to_text(&box, buf, sizeof(buf)), "[0:4096, 128:256]");
    CHECK_EQ(strlen(box_to_text(&box, buf, 10)), 9);
    CHECK_EQ(strlen(box_to_text(&box, buf, 18)), 17);
    CHECK_EQ(strlen(box_to_text(&box, buf, 1)), 0);
    box.ndim = 0;
    CHECK_STR(box_to_text(&box, buf, sizeof(buf)), "[]");
    return 5;
}

static long calls_of(const struct box *what, const struct box *dst_box, const struct strided *dst,
                     const struct box *src_box, const struct strided *src)
{
    long before = memcpy_calls;
    box_copy(what, 32, dst_box, dst, src_box, src);
    return memcpy_calls - before;
}

/* What is dense on both sides is one memcpy, in row-major or any other order;
 * rows of a wider array are one each. */
static long test_dense_is_one_call(void)
{
    static unsigned char from[4096], to[4096];
    struct box box = { .ndim = 3, .len = { 4, 5, 6 } };
    struct box wide = { .ndim = 3, .len = { 8, 5, 7 } };
    struct box rows = { .ndim = 3, .off = { 2, 0, 0 }, .len = { 3, 5, 7 } };
    struct strided a = dense_at(&box, 32, from), b = dense_at(&box, 32, to);
    CHECK_EQ(calls_of(&box, &box, &b, &box, &a), 1);
    struct strided wide_at = dense_at(&wide, 32, from);
    CHECK_EQ(calls_of(&box, &box, &b, &wide, &wide_at), 4 * 5);
    b = dense_at(&rows, 32, to);
    CHECK_EQ(calls_of(&rows, &rows, &b, &wide, &wide_at), 1);
    for (int d = 0; d < 3; d++)
        a.stride_bits[d] = b.stride_bits[d] = (const int64_t[]){ 32, 128, 640 }[d];
    b.base = to;
    CHECK_EQ(calls_of(&box, &box, &b, &box, &a), 1);
    return 4;
}

static long test_strides(void)
{
    uint64_t len[3] = { 2, 0, 5 };
    int64_t stride[3];
    dense_strides(3, len, 16, stride);
    CHECK_EQ(stride[2], 16);
    CHECK_EQ(stride[1], 80);
    CHECK_EQ(stride[0], 80);
    return 3;
}

int main(void)
{
    seed = test_seed(3);
    TEST_CASES(test_sets() + test_copy() + test_copy_sub_byte() + test_hostile() + test_text() +
               test_strides() + test_dense_is_one_call());
    return 0;
}
