/* The dtype table: codes that never change, names that round-trip. */
#include "formats/dtype.h"

#include "check.h"

static long test_round_trip(void)
{
    long n = 0;
    for (unsigned code = 0; code < 1000; code++) {
        unsigned bits = dtype_bits(code);
        const char *name = dtype_name(code);
        if (bits == 0) {
            CHECK_STR(name, "?");
            continue;
        }
        CHECK(bits <= 128 && bits % 2 == 0);
        CHECK_EQ(dtype_parse(name, strlen(name)), code);
        n++;
    }
    CHECK_EQ(n, 25);
    return n;
}

static long test_fixed(void)
{
    CHECK_EQ(dtype_bits(CKPT_DTYPE_BF16), 16);
    CHECK_EQ(dtype_bits(CKPT_DTYPE_F4), 4);
    CHECK_EQ(dtype_bits(CKPT_DTYPE_F6_E3M2), 6);
    CHECK_EQ(dtype_bits(CKPT_DTYPE_C128), 128);
    CHECK_EQ(CKPT_DTYPE_BOOL, 1);
    CHECK_EQ(CKPT_DTYPE_I4, 25);
    CHECK_EQ(dtype_parse("F32xyz", 3), CKPT_DTYPE_F32);
    CHECK_EQ(dtype_parse("F8_E4M3FNUZ", 7), CKPT_DTYPE_F8_E4M3);
    CHECK_EQ(dtype_parse("f32", 3), 0);
    CHECK_EQ(dtype_parse("", 0), 0);
    CHECK_EQ(dtype_bits(0), 0);
    CHECK_EQ(dtype_bits(26), 0);
    CHECK_EQ(dtype_bits(0xffffffffu), 0);
    return 13;
}

int main(void)
{
    TEST_CASES(test_round_trip() + test_fixed());
    return 0;
}
