/* Strided copies as rectangles: what they copy together is what box_copy copies, for random
 * shapes, strides and element sizes; dense copies are one run, pitched ones one rectangle. */
#include "libckpt/copy_rects.h"

#include "check.h"

#define ROOM (1 << 20)

static unsigned char memory[2 * ROOM], slot[ROOM], want[ROOM];
static size_t rects;
static struct copy_rect last;

static enum ckpt_status copy(void *arg, const struct copy_rect *r, struct ckpt_err *err)
{
    (void)arg, (void)err;
    CHECK(r->width > 0 && r->rows > 0);
    CHECK(r->rows == 1 || (r->dense_pitch >= r->width && r->tensor_pitch >= r->width &&
                           r->tensor_pitch <= (uint64_t)COPY_PITCH_MAX));
    for (uint64_t i = 0; i < r->rows; i++) {
        unsigned char *to = slot + r->dense + i * r->dense_pitch;
        for (uint64_t k = 0; k < r->width; k++) {
            CHECK(to[k] == 0xA5); /* each byte once */
            to[k] = (r->tensor + i * r->tensor_pitch)[k];
        }
    }
    rects++;
    last = *r;
    return CKPT_OK;
}

static enum ckpt_status refuse(void *arg, const struct copy_rect *r, struct ckpt_err *err)
{
    (void)arg, (void)r;
    rects++;
    return err_set(err, CKPT_DEVICE, "no");
}

/* Copies both ways of doing it; how many rectangles. */
static size_t compare(const struct box *what, unsigned bits, const struct box *held,
                      const struct strided *at)
{
    struct ckpt_err err = { 0 };
    struct strided dense = dense_at(what, bits, want);
    size_t bytes = box_bytes(what, bits);
    CHECK(bytes <= ROOM);
    memset(slot, 0xA5, bytes);
    rects = 0;
    CHECK_OK(copy_rects(what, bits, held, at, copy, NULL, &err));
    box_copy(what, bits, what, &dense, held, at);
    CHECK(bytes == 0 || memcmp(slot, want, bytes) == 0);
    return rects;
}

static void random_case(unsigned long long *seed)
{
    static const unsigned sizes[] = { 4, 8, 16, 32, 64 };
    unsigned bits = sizes[test_rand(seed) % ARRAY_COUNT(sizes)];
    struct box held = { .ndim = (uint32_t)(test_rand(seed) % 5) }, what = held;
    bits = held.ndim ? bits : 8;
    struct strided at = { .base = memory + ROOM };
    uint32_t order[5] = { 0, 1, 2, 3, 4 };
    int64_t stride = bits;
    for (uint32_t d = 0; d < held.ndim; d++) {
        uint64_t unit = bits < 8 && d + 1 == held.ndim ? 2 : 1;
        held.off[d] = test_rand(seed) % 9 * unit;
        held.len[d] = (1 + test_rand(seed) % 7) * unit;
        what.off[d] = held.off[d] + test_rand(seed) % (held.len[d] / unit) * unit;
        what.len[d] =
            (1 + test_rand(seed) % ((held.off[d] + held.len[d] - what.off[d]) / unit)) * unit;
    }
    for (uint32_t d = held.ndim; bits >= 8 && d > 1; d--) { /* any order of dimensions */
        uint32_t k = (uint32_t)(test_rand(seed) % d), t = order[d - 1];
        order[d - 1] = order[k];
        order[k] = t;
    }
    for (uint32_t d = held.ndim; d-- > 0;) {
        unsigned how = (unsigned)(test_rand(seed) % 8);
        uint32_t dim = order[d];
        bool bytes = bits >= 8 || d + 1 < held.ndim;
        at.stride_bits[dim] = !bytes || how > 2 ? stride
                              : how == 0        ? -stride
                              : how == 1        ? 0
                                                : stride + 8 * (int64_t)bits;
        if (how == 2 && bytes)
            stride += 8 * (int64_t)bits;
        stride *= (int64_t)held.len[dim];
        stride = (stride + 7) / 8 * 8;
    }
    compare(&what, bits, &held, &at);
}

int main(void)
{
    unsigned long long seed = test_seed(8);
    long cases = 0;
    for (size_t i = 0; i < sizeof(memory); i++)
        memory[i] = (unsigned char)(test_rand(&seed) % 0xA5);
    for (; cases < 20000 / TEST_TENTH; cases++)
        random_case(&seed);

    struct ckpt_err err = { 0 };
    struct box held = { .ndim = 3, .len = { 8, 10, 12 } };
    struct strided at = dense_at(&held, 32, memory + ROOM);
    CHECK_EQ(compare(&held, 32, &held, &at), 1); /* dense: one run */
    CHECK(last.rows == 1 && last.width == 8 * 10 * 12 * 4);
    struct box rows = { .ndim = 3, .off = { 2 }, .len = { 3, 10, 12 } };
    CHECK_EQ(compare(&rows, 32, &held, &at), 1);
    CHECK(last.rows == 1);
    struct box middle = { .ndim = 3, .off = { 1, 2, 0 }, .len = { 7, 5, 12 } };
    CHECK_EQ(compare(&middle, 32, &held, &at), 1); /* pitched */
    CHECK(last.rows == 7 && last.width == 5 * 12 * 4 && last.tensor_pitch == 480);
    struct box cube = { .ndim = 3, .off = { 1, 2, 3 }, .len = { 7, 5, 4 } };
    CHECK_EQ(compare(&cube, 32, &held, &at), 5); /* the longest loop is the rows */
    CHECK(last.rows == 7 && last.width == 16);
    struct strided turned = { .base = memory + ROOM, .stride_bits = { 32, 8 * 32, 80 * 32 } };
    CHECK_EQ(compare(&held, 32, &held, &turned), 8 * 10);
    struct strided spread = { .base = memory + ROOM, .stride_bits = { 0, 12 * 32, 32 } };
    CHECK_EQ(compare(&held, 32, &held, &spread), 8); /* a broadcast: row by row */
    struct box none = { .ndim = 1, .len = { 0 } };
    CHECK_EQ(compare(&none, 32, &none, &at), 0);
    CHECK_EQ(copy_rects(&cube, 32, &held, &at, refuse, NULL, &err), CKPT_DEVICE);
    CHECK_EQ(rects, 1); /* the first failure ends it */
    struct box two = { .ndim = 2, .len = { 3, 4 } };
    struct strided far = { .base = memory, .stride_bits = { (COPY_PITCH_MAX + 1) * 8, 8 } };
    rects = 0;
    CHECK_EQ(copy_rects(&two, 8, &two, &far, refuse, NULL, &err), CKPT_DEVICE);
    TEST_CASES(cases + 9);
    return 0;
}
