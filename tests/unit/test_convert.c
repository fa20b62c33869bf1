/* Conversions against an exact reference: every value of every small type is a whole number
 * of its smallest step, so "nearest, ties to even" is decided by comparing integers of 128
 * bits, or by the two neighbours of a value as exact doubles; nothing of the code under test
 * (convert.c, convert_block.c) is used.  All values upward, all pairs of small types, all borders and their neighbours
 * downward from F32 and F64, both compilations, and whatever the thread has set for floats. */
#include <fenv.h>
#include <math.h>

#include "formats/convert.h"
#include "formats/convert_block.h"
#include "formats/dtype.h"

#include "check.h"

/* What the types are, said once more and differently than in convert_block.c. */
static const struct kind {
    unsigned code, bits, exponent, mantissa;
    int bias;
    bool ieee; /* the highest exponent is infinity and NaN */
    bool fnuz; /* 0x80 is NaN, all others are numbers */
    double largest;
} kinds[] = {
    { CKPT_DTYPE_F16, 16, 5, 10, 15, true, false, 65504.0 },
    { CKPT_DTYPE_BF16, 16, 8, 7, 127, true, false, 0x1.fep127 },
    { CKPT_DTYPE_F8_E5M2, 8, 5, 2, 15, true, false, 57344.0 },
    { CKPT_DTYPE_F8_E4M3, 8, 4, 3, 7, false, false, 448.0 },
    { CKPT_DTYPE_F8_E5M2FNUZ, 8, 5, 2, 16, false, true, 57344.0 },
    { CKPT_DTYPE_F8_E4M3FNUZ, 8, 4, 3, 8, false, true, 240.0 },
};
static long cases;
static unsigned long long seed;

/* -- the reference ------------------------------------------------------------------ */

/* The value of a code: an exact double. */
static double value_of(const struct kind *k, unsigned code)
{
    unsigned low = code & ((1U << (k->bits - 1)) - 1);
    int e = (int)(low >> k->mantissa);
    unsigned m = low & ((1U << k->mantissa) - 1);
    double sign = code >> (k->bits - 1) ? -1.0 : 1.0;
    if (k->fnuz && code == 0x80)
        return NAN;
    if (k->ieee && e == (1 << k->exponent) - 1)
        return m ? NAN : sign * INFINITY;
    if (!k->ieee && !k->fnuz && low == (1U << (k->bits - 1)) - 1)
        return NAN;
    if (e == 0)
        return sign * ldexp((double)m, 1 - k->bias - (int)k->mantissa);
    return sign * ldexp((double)(m + (1U << k->mantissa)), e - k->bias - (int)k->mantissa);
}

/* Non-negative finite values of a type, ascending; their index is their code. */
static unsigned finite_count(const struct kind *k)
{
    unsigned n = 0;
    while (n < 1U << (k->bits - 1) && isfinite(value_of(k, n)))
        n++;
    CHECK(value_of(k, n - 1) == k->largest);
    return n;
}

/* a + b, exact or not, against c, exactly: for neighbours a < b the sum is exact in the
 * 64 bits of long double's mantissa. */
static int compare_middle(double a, double b, double v)
{
    long double middle = ((long double)a + (long double)b) / 2.0L;
    return (long double)v < middle ? -1 : (long double)v > middle;
}

/* The code that a finite or infinite value rounds to, and whether it overflows. */
static unsigned round_to(const struct kind *k, unsigned finite, double v, bool *ret_over)
{
    unsigned sign = signbit(v) ? 1U << (k->bits - 1) : 0, lo = 0, hi = finite - 1;
    double a = fabs(v), step = value_of(k, hi) - value_of(k, hi - 1);
    unsigned inf = k->ieee ? finite : k->fnuz ? 0x80 : 0x7f;
    *ret_over = false;
    if (isinf(v))
        return k->fnuz ? inf : inf | sign;
    int beyond =
        a > value_of(k, hi) ? compare_middle(value_of(k, hi), value_of(k, hi) + step, a) : -1;
    if (beyond > 0 || (beyond == 0 && hi % 2)) { /* the next code would be even */
        *ret_over = true;
        return (k->ieee ? inf : hi) | sign;
    }
    if (a >= value_of(k, hi))
        return hi | sign;
    while (hi - lo > 1) {
        unsigned mid = (lo + hi) / 2;
        if (value_of(k, mid) <= a)
            lo = mid;
        else
            hi = mid;
    }
    int c = compare_middle(value_of(k, lo), value_of(k, hi), a);
    unsigned code = c < 0 || (c == 0 && lo % 2 == 0) ? lo : hi;
    if (a == value_of(k, lo))
        code = lo;
    return k->fnuz && code == 0 ? 0 : code | sign;
}

static unsigned nan_of(const struct kind *k, bool sign)
{
    unsigned top = 1U << (k->bits - 1);
    if (k->fnuz)
        return 0x80;
    if (!k->ieee)
        return 0x7f | (sign ? top : 0);
    return ((1U << k->exponent) - 1) << k->mantissa | 1U << (k->mantissa - 1) | (sign ? top : 0);
}

/* -- the code under test -------------------------------------------------------------- */

static unsigned get(const struct kind *k, const void *at)
{
    uint8_t b;
    uint16_t w;
    memcpy(&b, at, sizeof(b));
    memcpy(&w, at, k->bits / 8);
    return k->bits == 8 ? b : w;
}

static float f32_of(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof(f));
    return f;
}
static uint32_t bits_of(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof(bits));
    return bits;
}
static double f64_of(uint64_t bits)
{
    double d;
    memcpy(&d, &bits, sizeof(d));
    return d;
}
static uint64_t bits64_of(double d)
{
    uint64_t bits;
    memcpy(&bits, &d, sizeof(bits));
    return bits;
}

/* One element each, so that a count of overflows is of it. */
static void check_down(const struct kind *k, unsigned finite, double v, bool narrow)
{
    uint8_t out[2];
    bool over;
    float f = (float)v;
    unsigned want = round_to(k, finite, v, &over);
    if (narrow) {
        CHECK_EQ(convert_run(k->code, out, CKPT_DTYPE_F32, &f, 1), over);
        CHECK_EQ(get(k, out), want);
        cases++;
    }
    CHECK_EQ(convert_run(k->code, out, CKPT_DTYPE_F64, &v, 1), over);
    if (get(k, out) != want)
        fprintf(stderr, "%a to %s: %#x, expected %#x\n", v, dtype_name(k->code), get(k, out), want);
    CHECK_EQ(get(k, out), want);
    cases++;
}

/* -- upward: every code of every small type ---------------------------------------------- */

static void test_up(const struct kind *k)
{
    for (unsigned code = 0; code < 1U << k->bits; code++) {
        uint16_t in = (uint16_t)code, back = 0;
        float f;
        double d, v = value_of(k, code);
        CHECK_EQ(convert_run(CKPT_DTYPE_F32, &f, k->code, &in, 1), 0);
        CHECK_EQ(convert_run(CKPT_DTYPE_F64, &d, k->code, &in, 1), 0);
        bool sign = code >> (k->bits - 1);
        if (isnan(v)) {
            CHECK_EQ(bits_of(f), (sign ? 0x80000000u : 0) | 0x7fc00000u);
            CHECK_EQ(bits64_of(d), (sign ? UINT64_C(1) << 63 : 0) | UINT64_C(0x7ff8000000000000));
        } else {
            CHECK_EQ(bits_of(f), bits_of((float)v));
            CHECK_EQ(bits64_of(d), bits64_of(v));
        }
        unsigned want = isnan(v) ? nan_of(k, sign) : code;
        CHECK_EQ(convert_run(k->code, &back, CKPT_DTYPE_F32, &f, 1), 0); /* and round again */
        CHECK_EQ(get(k, &back), want);
        CHECK_EQ(convert_run(k->code, &back, CKPT_DTYPE_F64, &d, 1), 0);
        CHECK_EQ(get(k, &back), want);
        cases += 4;
    }
}

/* -- between small types: every code -------------------------------------------------------- */

static void test_across(const struct kind *from, const struct kind *to)
{
    unsigned finite = finite_count(to);
    for (unsigned code = 0; code < 1U << from->bits; code++) {
        uint16_t in = (uint16_t)code, out = 0;
        double v = value_of(from, code);
        bool over = false, sign = code >> (from->bits - 1);
        unsigned want = isnan(v) ? nan_of(to, sign) : round_to(to, finite, v, &over);
        CHECK_EQ(convert_run(to->code, &out, from->code, &in, 1), over);
        if (get(to, &out) != want)
            fprintf(stderr, "%s %#x to %s\n", dtype_name(from->code), code, dtype_name(to->code));
        CHECK_EQ(get(to, &out), want);
        cases++;
    }
}

/* -- downward ----------------------------------------------------------------------------------- */

/* Every value, every middle of two values, and the doubles and floats next to both. */
static void test_down(const struct kind *k)
{
    unsigned finite = finite_count(k);
    double step = k->largest - value_of(k, finite - 2);
    for (unsigned code = 0; code < finite; code++) {
        double v = value_of(k, code);
        double next = code + 1 < finite ? value_of(k, code + 1) : k->largest + step;
        double middle = (double)(((long double)v + next) / 2);
        for (int sign = -1; sign <= 1; sign += 2) {
            check_down(k, finite, sign * v, true);
            check_down(k, finite, sign * middle, true);
            check_down(k, finite, sign * (double)nextafterf((float)middle, INFINITY), true);
            check_down(k, finite, sign * (double)nextafterf((float)middle, 0), true);
            check_down(k, finite, sign * nextafter(middle, INFINITY), false);
            check_down(k, finite, sign * nextafter(middle, 0), false);
            if (code > 0)
                check_down(k, finite, sign * nextafter(v, 0), false);
            check_down(k, finite, sign * nextafter(v, INFINITY), false);
        }
    }
    const double far[] = { INFINITY,        -INFINITY,        1e300,    -1e300,
                           0x1p-1074,       -0x1p-1074,       0x1p-149, 0x1.fffffep127,
                           0x1.fffffffp127, 0x1.ffffffffp127, -0x1p128, 1e-300 };
    for (size_t i = 0; i < ARRAY_COUNT(far); i++)
        check_down(k, finite, far[i], isinf(far[i]) || fabs(far[i]) <= 0x1.fffffep127);
    const uint32_t nans[] = { 0x7f800001, 0xff800001, 0x7fc00000, 0xffffffff, 0x7fabcdef };
    for (size_t i = 0; i < ARRAY_COUNT(nans); i++) {
        uint64_t wide = (uint64_t)(nans[i] >> 31) << 63 | UINT64_C(0x7ff0000000000001) << 0;
        uint16_t out = 0;
        CHECK_EQ(convert_run(k->code, &out, CKPT_DTYPE_F32, &nans[i], 1), 0);
        CHECK_EQ(get(k, &out), nan_of(k, nans[i] >> 31));
        CHECK_EQ(convert_run(k->code, &out, CKPT_DTYPE_F64, &wide, 1), 0);
        CHECK_EQ(get(k, &out), nan_of(k, nans[i] >> 31));
        cases += 2;
    }
}

static void test_random_down(const struct kind *k, long rounds)
{
    unsigned finite = finite_count(k);
    for (long i = 0; i < rounds; i++) {
        uint32_t bits = (uint32_t)test_rand(&seed);
        if (i % 2) /* where the type is */
            bits = (bits & 0x807fffff) |
                   (uint32_t)(127 - k->bias - (int)k->mantissa - 2 +
                              (int)(test_rand(&seed) % (2 * (unsigned)k->bias + 16))) %
                           255
                       << 23;
        if (!isnan(f32_of(bits)))
            check_down(k, finite, (double)f32_of(bits), true);
        double d = f64_of((test_rand(&seed) & ~(UINT64_C(0x7ff) << 52)) |
                          (uint64_t)(1023 + (int)(bits >> 23 & 0xff) - 127) << 52);
        check_down(k, finite, d, false);
    }
}

/* -- F64 and F32: the processor does the same by itself ------------------------------------------- */

static void check_narrow(uint64_t bits)
{
    double d = f64_of(bits), back;
    float f, want = (float)d;
    bool over = isfinite(d) && isinf(want);
    CHECK_EQ(convert_run(CKPT_DTYPE_F32, &f, CKPT_DTYPE_F64, &d, 1), over);
    if (isnan(d)) {
        CHECK_EQ(bits_of(f), (bits >> 63 ? 0x80000000u : 0) | 0x7fc00000u);
        return;
    }
    CHECK_EQ(bits_of(f), bits_of(want));
    CHECK_EQ(convert_run(CKPT_DTYPE_F64, &back, CKPT_DTYPE_F32, &f, 1), 0);
    CHECK_EQ(bits64_of(back), bits64_of((double)want));
    cases += 2;
}

static void test_doubles(long rounds)
{
    for (unsigned e = 0; e < 2048; e++) {
        const uint64_t low[] = {
            0,          1,          UINT64_C(1) << 28,       (UINT64_C(1) << 28) + 1,
            3ull << 28, 1ull << 29, (UINT64_C(1) << 52) - 1, (1ull << 51) | 1
        };
        for (size_t i = 0; i < ARRAY_COUNT(low); i++) {
            check_narrow((uint64_t)e << 52 | low[i]);
            check_narrow(UINT64_C(1) << 63 | (uint64_t)e << 52 | low[i]);
        }
    }
    for (long i = 0; i < rounds; i++) {
        uint64_t bits = test_rand(&seed);
        check_narrow(bits);
        check_narrow((bits & ~(UINT64_C(0x7ff) << 52)) | (800 + bits % 400) << 52);
    }
}

/* -- long runs, odd addresses, both compilations, settings of the thread ---------------------------- */

static void test_runs(void)
{
    enum { N = 5 * CONVERT_BLOCK + 77 };
    static uint8_t in[8 * N + 8], out[8 * N + 8], one[8];
    const unsigned codes[] = { CKPT_DTYPE_F64,         CKPT_DTYPE_F32,        CKPT_DTYPE_BF16,
                               CKPT_DTYPE_F16,         CKPT_DTYPE_F8_E5M2,    CKPT_DTYPE_F8_E4M3,
                               CKPT_DTYPE_F8_E5M2FNUZ, CKPT_DTYPE_F8_E4M3FNUZ };
    for (size_t a = 0; a < ARRAY_COUNT(codes); a++) {
        for (size_t b = 0; b < ARRAY_COUNT(codes); b++) {
            size_t from = dtype_bits(codes[a]) / 8, to = dtype_bits(codes[b]) / 8;
            CHECK_EQ(convert_can(codes[a], codes[b]), a != b);
            for (size_t i = 0; i < sizeof(in); i++)
                in[i] = (uint8_t)test_rand(&seed);
            memset(out, 0xee, sizeof(out));
            uint64_t over = convert_run(codes[b], out + 1, codes[a], in + 3, N), sum = 0;
            for (size_t i = 0; i < N; i++) {
                sum += convert_run(codes[b], one, codes[a], in + 3 + i * from, 1);
                CHECK(memcmp(one, out + 1 + i * to, to) == 0);
                cases++;
            }
            CHECK_EQ(over, sum);
            CHECK(out[0] == 0xee && out[1 + N * to] == 0xee);
        }
    }
    CHECK(!convert_can(CKPT_DTYPE_F32, CKPT_DTYPE_I32) &&
          !convert_can(CKPT_DTYPE_U8, CKPT_DTYPE_F32));
    CHECK(!convert_can(CKPT_DTYPE_F4, CKPT_DTYPE_F32) &&
          !convert_can(CKPT_DTYPE_F32, CKPT_DTYPE_C64));
    CHECK(!convert_can(CKPT_DTYPE_F8_E8M0, CKPT_DTYPE_F32) && !convert_can(0, 12) &&
          !convert_can(12, 999));
}

#if defined(__x86_64__)
#include <xmmintrin.h>

/* Block against block: what one compilation makes of all bit patterns that matter. */
static void test_same(void)
{
    static uint8_t in[8 * CONVERT_BLOCK];
    static uint32_t bits[2][CONVERT_BLOCK];
    static uint64_t out[2][CONVERT_BLOCK];
    if (!__builtin_cpu_supports("avx2"))
        return;
    for (unsigned code = 0; code < CONVERT_CODECS_MAX; code++) {
        const struct convert_codec *a = &convert_codecs_any[code], *b = &convert_codecs_avx2[code];
        CHECK(!a->decode == !b->decode);
        for (int round = 0; a->decode && round < 200; round++) {
            for (size_t i = 0; i < sizeof(in); i++)
                in[i] = (uint8_t)test_rand(&seed);
            CHECK_EQ(a->decode(bits[0], in, CONVERT_BLOCK), b->decode(bits[1], in, CONVERT_BLOCK));
            CHECK(memcmp(bits[0], bits[1], sizeof(bits[0])) == 0);
            CHECK_EQ(a->narrow(bits[0], in, CONVERT_BLOCK), b->narrow(bits[1], in, CONVERT_BLOCK));
            CHECK(memcmp(bits[0], bits[1], sizeof(bits[0])) == 0);
            const uint32_t *raw = (const uint32_t *)(const void *)in;
            CHECK_EQ(a->encode(out[0], raw, CONVERT_BLOCK), b->encode(out[1], raw, CONVERT_BLOCK));
            CHECK(memcmp(out[0], out[1], CONVERT_BLOCK * dtype_bits(code) / 8) == 0);
            cases++;
        }
    }
}

/* A trainer may flush subnormals to zero and round as it likes; its threads inherit that. */
static void test_settings(void)
{
    unsigned before = _mm_getcsr();
    const uint16_t tiny = 1;
    const uint32_t tiny32 = 1;
    const double odd = 1.0 + 0x1p-24 + 0x1p-50;
    uint32_t out;
    uint64_t wide;
    for (unsigned mode = 0; mode < 4; mode++) {
        _mm_setcsr((before & ~0x6000u) | 0x8040u | mode << 13); /* FTZ, DAZ, rounding */
        uint64_t over = convert_run(CKPT_DTYPE_F32, &out, CKPT_DTYPE_BF16, &tiny, 1);
        uint32_t bf = out;
        over += convert_run(CKPT_DTYPE_F32, &out, CKPT_DTYPE_F16, &tiny, 1);
        uint32_t half = out;
        over += convert_run(CKPT_DTYPE_F64, &wide, CKPT_DTYPE_F32, &tiny32, 1);
        over += convert_run(CKPT_DTYPE_F32, &out, CKPT_DTYPE_F64, &odd, 1);
        _mm_setcsr(before);
        CHECK_EQ(over, 0);
        CHECK_EQ(bf, 0x10000);
        CHECK_EQ(half, bits_of(0x1p-24F));
        CHECK_EQ(wide, bits64_of(0x1p-149));
        CHECK_EQ(out, bits_of(1.0F + 0x1p-23F));
        cases++;
    }
}
#else
static void test_same(void)
{
}
static void test_settings(void)
{
}
#endif

/* -- boxes -------------------------------------------------------------------------------------------- */

struct target {
    const struct box *held;
    struct strided at;
    uint64_t parts;
};

static enum ckpt_status put(void *arg, const struct box *part, const void *bytes,
                            struct ckpt_err *err)
{
    struct target *t = arg;
    struct strided from = dense_at(part, 32, (void *)(uintptr_t)bytes);
    if (++t->parts == 1000)
        return err_set(err, CKPT_DEVICE, "enough");
    box_copy(part, 32, t->held, &t->at, part, &from);
    return CKPT_OK;
}

/* A fragment into a transposed array: each element lands where it belongs. */
static void test_boxes(void)
{
    static uint8_t memory[CONVERT_ROOM] __attribute__((aligned(8)));
    void *room = memory;
    const struct box what = { 3, { 2, 5, 1 }, { 37, 91, 53 } };
    const struct box held = { 3, { 0, 5, 0 }, { 40, 91, 60 } };
    uint64_t n = box_volume(&what), over = 0;
    uint16_t *in = malloc(n * sizeof(*in));
    float *out = calloc(box_volume(&held), sizeof(*out));
    CHECK(in && out);
    for (uint64_t i = 0; i < n; i++)
        in[i] = (uint16_t)(0x3f80 + i % 1000);
    struct target t = { .held = &held, .at = { .base = (unsigned char *)out } };
    t.at.stride_bits[0] = 32;
    t.at.stride_bits[1] = 32 * 40;
    t.at.stride_bits[2] = 32 * 40 * 91;
    CHECK_OK(convert_box(&what, CKPT_DTYPE_F32, CKPT_DTYPE_BF16, in, &room, put, &t, &over, NULL));
    CHECK(t.parts > 1);
    for (uint64_t i = 0; i < n; i++) {
        uint64_t x = i / (91 * 53) + 2, y = i / 53 % 91, z = i % 53 + 1;
        CHECK_EQ(bits_of(out[x + 40 * y + 40 * 91 * z]), (uint32_t)in[i] << 16);
        cases++;
    }
    CHECK_EQ(bits_of(out[0]), 0);
    t.parts = 999;
    struct ckpt_err err = { 0 };
    CHECK_EQ(convert_box(&what, CKPT_DTYPE_F32, CKPT_DTYPE_BF16, in, &room, put, &t, &over, &err),
             CKPT_DEVICE);
    const struct box none = { 2, { 0, 0 }, { 0, 4 } }, scalar = { 0 };
    t.parts = 0;
    CHECK_OK(convert_box(&none, CKPT_DTYPE_F32, CKPT_DTYPE_BF16, in, &room, put, &t, &over, NULL));
    CHECK_EQ(t.parts, 0);
    t.held = &scalar;
    CHECK_OK(
        convert_box(&scalar, CKPT_DTYPE_F32, CKPT_DTYPE_BF16, in, &room, put, &t, &over, NULL));
    CHECK_EQ(bits_of(out[0]), 0x3f800000);
    free(in);
    free(out);
}

int main(void)
{
    seed = test_seed(7001);
    for (size_t i = 0; i < ARRAY_COUNT(kinds); i++) {
        test_up(&kinds[i]);
        test_down(&kinds[i]);
        test_random_down(&kinds[i], 40000 / TEST_TENTH);
        for (size_t j = 0; j < ARRAY_COUNT(kinds); j++)
            if (i != j)
                test_across(&kinds[i], &kinds[j]);
    }
    test_doubles(200000 / TEST_TENTH);
    test_runs();
    test_same();
    test_settings();
    test_boxes();
    TEST_CASES(cases);
    return 0;
}
