/* Cursor and buffer: exact bytes, sticky errors, hostile lengths, patches. */
#include "formats/cursor.h"

#include "check.h"

static int test_layout(void)
{
    CLEANUP_BUF struct buf b = { 0 };
    static const uint8_t want[] = { 0x11, 0x33, 0x22, 0x77, 0x66, 0x55, 0x44, 8,   7,    6,
                                    5,    4,    3,    2,    1,    2,    0,    'h', 'i',  0,
                                    0,    0,    0,    0,    0,    0,    0,    0,   0xf0, 0x3f };
    buf_u8(&b, 0x11);
    buf_u16(&b, 0x2233);
    buf_u32(&b, 0x44556677);
    buf_u64(&b, 0x0102030405060708);
    buf_str(&b, "hi");
    buf_zero(&b, 3);
    buf_f64(&b, 1.0);
    CHECK_EQ(b.len, sizeof(want));
    CHECK(memcmp(b.data, want, sizeof(want)) == 0);
    struct cursor c = cursor_over(b.data, b.len);
    char text[3];
    CHECK_EQ(cursor_u8(&c), 0x11);
    CHECK_EQ(cursor_u16(&c), 0x2233);
    CHECK_EQ(cursor_u32(&c), 0x44556677);
    CHECK(cursor_u64(&c) == 0x0102030405060708);
    cursor_str(&c, text, sizeof(text));
    CHECK_STR(text, "hi");
    cursor_zero(&c, 3);
    CHECK(!cursor_done(&c));
    CHECK(cursor_f64(&c) == 1.0);
    CHECK(cursor_done(&c) && cursor_left(&c) == 0);
    return 11;
}

static int test_errors_are_sticky(void)
{
    uint8_t bytes[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };
    for (size_t len = 0; len < 8; len++) {
        struct cursor c = cursor_over(bytes, len);
        CHECK_EQ(cursor_u64(&c), 0);
        CHECK(!cursor_ok(&c));
        CHECK_EQ(cursor_u8(&c), 0); /* although a byte may be left */
        CHECK(cursor_bytes(&c, 0) == NULL);
        CHECK(!cursor_done(&c));
    }
    struct cursor c = cursor_over(bytes, 8);
    CHECK(cursor_bytes(&c, SIZE_MAX) == NULL);
    c = cursor_over(bytes, 8);
    cursor_fail(&c);
    CHECK_EQ(cursor_u32(&c), 0);
    uint8_t to[9];
    memset(to, 0xff, sizeof(to));
    c = cursor_over(bytes, 8);
    cursor_copy(&c, to, 9);
    CHECK(!cursor_ok(&c) && to[0] == 0 && to[8] == 0);
    c = cursor_over(NULL, 0);
    CHECK(cursor_done(&c));
    return 8 * 5 + 4;
}

static bool str_reads(const void *bytes, size_t len, size_t cap)
{
    char text[8] = "xxxxxxx";
    struct cursor c = cursor_over(bytes, len);
    cursor_str(&c, text, cap);
    CHECK(cursor_ok(&c) || text[0] == 0);
    CHECK_EQ(text[7], 0);
    return cursor_ok(&c);
}

static int test_strings(void)
{
    CHECK(str_reads("\3\0abc", 5, 4));
    CHECK(!str_reads("\3\0abc", 5, 3));  /* no room for the NUL */
    CHECK(!str_reads("\3\0abc", 4, 8));  /* cut short */
    CHECK(!str_reads("\3\0a\0c", 5, 8)); /* NUL inside */
    CHECK(str_reads("\0\0", 2, 1));
    CHECK(!str_reads("\1", 1, 8));
    CHECK(!str_reads("\377\377abc", 5, 8));
    return 7;
}

static int test_zeros(void)
{
    uint8_t bytes[4] = { 0, 0, 0, 1 };
    struct cursor c = cursor_over(bytes, 4);
    cursor_zero(&c, 3);
    CHECK(cursor_ok(&c));
    cursor_zero(&c, 1);
    CHECK(!cursor_ok(&c));
    c = cursor_over(bytes, 3);
    cursor_zero(&c, 4);
    CHECK(!cursor_ok(&c));
    return 3;
}

static int test_growth_and_patches(void)
{
    CLEANUP_BUF struct buf b = { 0 };
    for (uint32_t i = 0; i < 10000; i++)
        buf_u32(&b, i);
    CHECK(!b.failed && b.len == 40000);
    buf_patch_u32(&b, 4 * 77, 0xdeadbeef);
    buf_patch_u64(&b, 40000 - 8, 0x1122334455667788);
    struct cursor c = cursor_over(b.data, b.len);
    for (uint32_t i = 0; i < 9998; i++)
        CHECK_EQ(cursor_u32(&c), i == 77 ? 0xdeadbeef : i);
    CHECK(cursor_u64(&c) == 0x1122334455667788);
    CHECK(cursor_done(&c));
    return 10000;
}

static int test_no_memory(void)
{
    CLEANUP_BUF struct buf b = { 0 };
    buf_u8(&b, 1);
    CHECK(buf_extend(&b, SIZE_MAX - 8) == NULL);
    CHECK(b.failed);
    buf_u8(&b, 2); /* stays failed, although there is room */
    CHECK_EQ(b.len, 1);
    buf_patch_u32(&b, 0, 5);
    CHECK(buf_extend(&b, 1) == NULL);
    buf_fini(&b);
    CHECK(b.data == NULL && !b.failed);
    buf_fini(NULL);
    return 5;
}

/* A buffer over memory of the right size never moves. */
static int test_fixed_memory(void)
{
    uint8_t memory[8];
    struct buf b = { .data = memory, .cap = sizeof(memory) };
    buf_u64(&b, 1);
    CHECK(b.data == memory && b.len == 8);
    return 1;
}

int main(void)
{
    TEST_CASES(test_layout() + test_errors_are_sticky() + test_strings() + test_zeros() +
               test_growth_and_patches() + test_no_memory() + test_fixed_memory());
    return 0;
}
