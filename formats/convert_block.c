/* Single elements, and loops over them without branches, of which the compiler makes
 * vectors.  CONVERT_CODECS names the table of this compilation (see CMakeLists.txt).
 *
 * What all rounding here comes to: the code of a float, without its sign, counts the values
 * of the type from 0 upwards, subnormals included; so a mantissa that rounds up carries into
 * the exponent by itself, and the largest finite value into infinity. */
#include "formats/convert_block.h"

#ifndef CONVERT_CODECS
#define CONVERT_CODECS convert_codecs_any
#endif

#define F32_INF  UINT32_C(0x7f800000)
#define F32_NAN  UINT32_C(0x7fc00000)
#define F32_ONE  UINT32_C(0x00800000) /* the mantissa's implicit bit */
#define F64_INF  UINT64_C(0x7ff0000000000000)
#define F64_NAN  UINT64_C(0x7ff8000000000000)
#define F64_ONE  UINT64_C(0x0010000000000000)
#define F64_SIGN UINT64_C(0x8000000000000000)

/* Elements of any alignment in memory of any type. */
typedef uint8_t u8_in __attribute__((may_alias));
typedef uint16_t u16_in __attribute__((may_alias, aligned(1)));
typedef uint32_t u32_in __attribute__((may_alias, aligned(1)));

/* A type of at most 16 bits.  Codes are without their sign: `max` is the largest finite one,
 * `inf` what an infinity becomes and `over` what an overflow becomes. */
struct small {
    unsigned bits, mantissa, bias;
    uint32_t max, over, inf, nan;
    bool one_zero; /* FNUZ: -0 is the NaN */
};
static const struct small bf16 = { 16, 7, 127, 0x7f7f, 0x7f80, 0x7f80, 0x7fc0, false };
static const struct small f16 = { 16, 10, 15, 0x7bff, 0x7c00, 0x7c00, 0x7e00, false };
static const struct small e5m2 = { 8, 2, 15, 0x7b, 0x7c, 0x7c, 0x7e, false };
static const struct small e4m3 = { 8, 3, 7, 0x7e, 0x7e, 0x7f, 0x7f, false };
static const struct small e5m2fnuz = { 8, 2, 16, 0x7f, 0x7f, 0x80, 0x80, true };
static const struct small e4m3fnuz = { 8, 3, 8, 0x7f, 0x7f, 0x80, 0x80, true };

#define INLINE static inline __attribute__((always_inline))

/* -- one element ------------------------------------------------------------------ */

INLINE uint32_t float_bits(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof(bits));
    return bits;
}

/* x >> s to the nearest, ties to even; 1 <= s <= 31. */
INLINE uint32_t shift_even(uint32_t x, uint32_t s)
{
    return (x + ((UINT32_C(1) << (s - 1)) - 1) + ((x >> s) & 1)) >> s;
}

/* Finite codes above `max` are infinity, then NaN; a NaN of FNUZ is the negative zero. */
INLINE uint32_t decode_small(uint32_t v, const struct small *k)
{
    uint32_t sign_at = k->bits - 1, code = v & ((UINT32_C(1) << sign_at) - 1);
    uint32_t sign = v >> sign_at << 31;
    /* A subnormal is its mantissa times a power of two: exact, and normal as F32. */
    float unit = __builtin_ldexpf(1.0F, 1 - (int)k->bias - (int)k->mantissa);
    uint32_t tiny = float_bits((float)(int32_t)code * unit);
    uint32_t normal = (code << (23 - k->mantissa)) + ((127 - k->bias) << 23);
    uint32_t bits = code >> k->mantissa ? normal : tiny;
    if (k->bias == 127) /* BF16: the upper half of F32 */
        bits = code << 16;
    if (k->one_zero)
        return v == k->nan ? sign | F32_NAN : sign | bits;
    uint32_t beyond = code == k->inf && k->inf != k->nan ? F32_INF : F32_NAN;
    return sign | (code > k->max ? beyond : bits);
}

INLINE uint32_t encode_small(uint32_t v, const struct small *k, uint32_t *over)
{
    uint32_t sign = v >> 31, a = v & 0x7fffffff;
    uint32_t exponent = a >> 23, least = 128 - k->bias; /* exponent of the smallest normal */
    uint32_t at = exponent ? exponent : 1;
    uint32_t mantissa = (a & (F32_ONE - 1)) | (exponent ? F32_ONE : 0);
    uint32_t below = at < least ? least - at : 0; /* subnormal there: cut so much more */
    uint32_t s = 23 - k->mantissa + below;
    s = s > 31 ? 31 : s; /* all gone, ties included: 24 bits of 31 */
    uint32_t x = at < least ? mantissa : a - ((least - 1) << 23);
    uint32_t code = shift_even(x, s);
    bool beyond = code > k->max;
    *over += beyond && a < F32_INF;
    code = beyond ? k->over : code;
    code = a >= F32_INF ? k->inf : code;
    code = a > F32_INF ? k->nan : code;
    if (k->one_zero) /* 0x80 is the NaN, with or without a sign; zero has none */
        sign = code ? sign : 0;
    return code | sign << (k->bits - 1);
}

/* To odd: the result is exact, or its last bit is set.  An overflow is the largest finite
 * value, which is odd, and overflows in every smaller type. */
INLINE uint32_t decode_double(uint64_t v, bool odd, uint32_t *over)
{
    uint32_t sign = (uint32_t)(v >> 63) << 31;
    uint64_t a = v & ~F64_SIGN, exponent = a >> 52, least = 1023 - 126;
    uint64_t mantissa = (a & (F64_ONE - 1)) | (exponent ? F64_ONE : 0);
    uint64_t at = exponent ? exponent : 1;
    uint64_t s = 29 + (at < least ? least - at : 0);
    s = s > 63 ? 63 : s;
    uint64_t x = at < least ? mantissa : a - ((least - 1) << 52);
    uint64_t cut = x & ((UINT64_C(1) << s) - 1);
    uint64_t to_odd = x >> s | (cut != 0);
    uint64_t to_even = (x + ((UINT64_C(1) << (s - 1)) - 1) + ((x >> s) & 1)) >> s;
    uint64_t code = odd ? to_odd : to_even;
    bool beyond = code >= F32_INF;
    *over += !odd && beyond && a < F64_INF;
    code = beyond ? (odd ? F32_INF - 1 : F32_INF) : code;
    code = a >= F64_INF ? F32_INF : code;
    code = a > F64_INF ? F32_NAN : code;
    return sign | (uint32_t)code;
}

INLINE uint64_t double_bits(double d)
{
    uint64_t bits;
    memcpy(&bits, &d, sizeof(bits));
    return bits;
}

INLINE uint64_t encode_double(uint32_t v)
{
    uint64_t sign = (uint64_t)(v >> 31) << 63;
    uint32_t a = v & 0x7fffffff;
    uint64_t tiny = double_bits((double)(int32_t)a * 0x1p-149); /* exact, and normal */
    uint64_t normal = ((uint64_t)a << 29) + ((uint64_t)(1023 - 127) << 52);
    uint64_t bits = a < F32_ONE ? tiny : normal;
    bits = a >= F32_INF ? F64_INF : bits;
    bits = a > F32_INF ? F64_NAN : bits;
    return sign | bits;
}

INLINE uint32_t quiet(uint32_t v)
{
    return (v & 0x7fffffff) > F32_INF ? (v & 0x80000000) | F32_NAN : v;
}

/* -- blocks ------------------------------------------------------------------------ */

#define SMALL_BLOCKS(kind, element)                                                             \
    static uint32_t decode_##kind(uint32_t *restrict bits, const void *restrict from, size_t n) \
    {                                                                                           \
        const element *in = from;                                                               \
        for (size_t i = 0; i < n; i++)                                                          \
            bits[i] = decode_small(in[i], &kind);                                               \
        return 0;                                                                               \
    }                                                                                           \
    static uint32_t encode_##kind(void *restrict to, const uint32_t *restrict bits, size_t n)   \
    {                                                                                           \
        element *out = to;                                                                      \
        uint32_t over = 0;                                                                      \
        for (size_t i = 0; i < n; i++)                                                          \
            out[i] = (element)encode_small(bits[i], &kind, &over);                              \
        return over;                                                                            \
    }
SMALL_BLOCKS(bf16, u16_in)
SMALL_BLOCKS(f16, u16_in)
SMALL_BLOCKS(e5m2, u8_in)
SMALL_BLOCKS(e4m3, u8_in)
SMALL_BLOCKS(e5m2fnuz, u8_in)
SMALL_BLOCKS(e4m3fnuz, u8_in)

static uint32_t decode_f32(uint32_t *restrict bits, const void *restrict from, size_t n)
{
    memcpy(bits, from, n * sizeof(*bits));
    return 0;
}

static uint32_t encode_f32(void *restrict to, const uint32_t *restrict bits, size_t n)
{
    u32_in *out = to;
    for (size_t i = 0; i < n; i++)
        out[i] = quiet(bits[i]);
    return 0;
}

INLINE uint32_t decode_doubles(uint32_t *restrict bits, const uint8_t *from, size_t n, bool odd)
{
    uint32_t over = 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t v;
        memcpy(&v, from + i * sizeof(v), sizeof(v));
        bits[i] = decode_double(v, odd, &over);
    }
    return over;
}

static uint32_t decode_f64(uint32_t *restrict bits, const void *restrict from, size_t n)
{
    return decode_doubles(bits, from, n, true);
}

static uint32_t narrow_f64(uint32_t *restrict bits, const void *restrict from, size_t n)
{
    return decode_doubles(bits, from, n, false);
}

static uint32_t encode_f64(void *restrict to, const uint32_t *restrict bits, size_t n)
{
    uint8_t *out = to;
    for (size_t i = 0; i < n; i++) {
        uint64_t v = encode_double(bits[i]);
        memcpy(out + i * sizeof(v), &v, sizeof(v));
    }
    return 0;
}

const struct convert_codec CONVERT_CODECS[CONVERT_CODECS_MAX] = {
    [CKPT_DTYPE_F64] = { decode_f64, encode_f64, narrow_f64 },
    [CKPT_DTYPE_F32] = { decode_f32, encode_f32, decode_f32 },
    [CKPT_DTYPE_BF16] = { decode_bf16, encode_bf16, decode_bf16 },
    [CKPT_DTYPE_F16] = { decode_f16, encode_f16, decode_f16 },
    [CKPT_DTYPE_F8_E5M2] = { decode_e5m2, encode_e5m2, decode_e5m2 },
    [CKPT_DTYPE_F8_E4M3] = { decode_e4m3, encode_e4m3, decode_e4m3 },
    [CKPT_DTYPE_F8_E5M2FNUZ] = { decode_e5m2fnuz, encode_e5m2fnuz, decode_e5m2fnuz },
    [CKPT_DTYPE_F8_E4M3FNUZ] = { decode_e4m3fnuz, encode_e4m3fnuz, decode_e4m3fnuz },
};
