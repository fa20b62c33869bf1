/* safetensors headers: what we write we read, what lies is refused. */
#include <stdio.h>

#include "formats/dtype.h"
#include "formats/foreign/safetensors.h"

#include "check.h"

static long cases;

/* A file of this JSON and `data` bytes; returns the whole. */
static struct buf file_of(const char *json, size_t data)
{
    struct buf b = { 0 };
    buf_u64(&b, strlen(json));
    buf_bytes(&b, json, strlen(json));
    buf_zero(&b, data);
    return b;
}

static enum ckpt_status parse_text(const char *json, size_t data, struct ckpt_err *err)
{
    struct buf b = file_of(json, data);
    struct safetensors s = { 0 };
    enum ckpt_status st = safetensors_parse(b.data, b.len, b.len, &s, err);
    if (st == CKPT_OK)
        safetensors_fini(&s);
    CHECK(s.tensors == NULL && s.notes == NULL);
    buf_fini(&b);
    cases++;
    return st;
}

#define T(name, dtype, shape, begin, end)                                                        \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" begin "," end \
    "]}"

static void test_refusals(void)
{
    static const struct {
        const char *json;
        size_t data;
        enum ckpt_status want;
        const char *words;
    } bad[] = {
        { "", 0, CKPT_CORRUPT, "no header" },
        { "[]", 0, CKPT_CORRUPT, "no header" },
        { "{", 0, CKPT_CORRUPT, "no header" },
        { "{x", 0, CKPT_CORRUPT, "damaged" },
        { "{} x", 0, CKPT_CORRUPT, "damaged" },
        { "{\"a\":1}", 0, CKPT_CORRUPT, "no dtype" },
        { "{\"a\":{\"dtype\":7}}", 0, CKPT_CORRUPT, "no dtype" },
        { "{" T("a", "F31", "[1]", "0", "4") "}", 4, CKPT_UNSUPPORTED, "F31" },
        { "{" T("a", "F32", "7", "0", "4") "}", 4, CKPT_CORRUPT, "no shape" },
        { "{" T("a", "F32", "[-1]", "0", "4") "}", 4, CKPT_CORRUPT, "dimension 0" },
        { "{" T("a", "F32", "[1.0]", "0", "4") "}", 4, CKPT_CORRUPT, "dimension 0" },
        { "{" T("a", "U8", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]", "0", "1") "}", 1, CKPT_LIMIT,
          "17 dimensions" },
        { "{" T("a", "F32", "[1]", "0", "3") "}", 3, CKPT_CORRUPT, "do not amount" },
        { "{" T("a", "F32", "[1]", "0", "8") "}", 8, CKPT_CORRUPT, "do not amount" },
        { "{" T("a", "F32", "[1]", "4", "0") "}", 4, CKPT_CORRUPT, "no range" },
        { "{" T("a", "F32", "[1]", "-4", "0") "}", 4, CKPT_CORRUPT, "no range" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4, CKPT_CORRUPT,
          "no range" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,4]}}", 4, CKPT_CORRUPT,
          "no range" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, CKPT_CORRUPT, "no range" },
        { "{" T("a", "F32", "[1]", "0", "4") "}", 3, CKPT_CORRUPT, "cut short" },
        { "{" T("a", "F32", "[1]", "4", "8") "}", 4, CKPT_CORRUPT, "cut short" },
        { "{" T("a", "F32", "[1]", "0", "4") "}", 5, CKPT_CORRUPT, "belong to no tensor" },
        { "{}", 1, CKPT_CORRUPT, "belong to no tensor" },
        { "{" T("a", "F32", "[1]", "4", "8") "}", 8, CKPT_CORRUPT, "leave a hole" },
        { "{" T("a", "U8", "[4]", "0", "4") "," T("b", "U8", "[4]", "2", "6") "}", 6, CKPT_CORRUPT,
          "overlap" },
        { "{" T("a", "U8", "[4]", "0", "4") "," T("a", "U8", "[4]", "4", "8") "}", 8, CKPT_CORRUPT,
          "damaged" },
        /* Sizes whose product wraps to the right one. */
        { "{" T("a", "U8", "[4294967296,4294967296]", "0", "0") "}", 0, CKPT_CORRUPT,
          "do not amount" },
        { "{" T("a", "F64", "[2305843009213693952]", "0", "0") "}", 0, CKPT_CORRUPT,
          "do not amount" },
        { "{" T("a", "U8", "[99999999999999999999]", "0", "0") "}", 0, CKPT_CORRUPT, "damaged" },
        { "{" T("a", "F4", "[3]", "0", "1") "}", 1, CKPT_CORRUPT, "do not amount" },
        { "{" T("a", "F4", "[3]", "0", "2") "}", 2, CKPT_CORRUPT, "do not amount" },
        { "{" T("", "U8", "[1]", "0", "1") "}", 1, CKPT_BAD_NAME, "" },
        { "{" T("..", "U8", "[1]", "0", "1") "}", 1, CKPT_BAD_NAME, "" },
        { "{" T("a/../../b", "U8", "[1]", "0", "1") "}", 1, CKPT_BAD_NAME, "" },
        { "{" T("/etc/passwd", "U8", "[1]", "0", "1") "}", 1, CKPT_BAD_NAME, "" },
        { "{" T("a\\nb", "U8", "[1]", "0", "1") "}", 1, CKPT_BAD_NAME, "" },
        { "{" T("a\\u0000b", "U8", "[1]", "0", "1") "}", 1, CKPT_CORRUPT, "damaged" },
        { "{" T("a\xff", "U8", "[1]", "0", "1") "}", 1, CKPT_CORRUPT, "damaged" },
        { "{\"__metadata__\":7}", 0, CKPT_CORRUPT, "__metadata__" },
        { "{\"__metadata__\":[]}", 0, CKPT_CORRUPT, "__metadata__" },
        { "{\"__metadata__\":{\"a\":7}}", 0, CKPT_CORRUPT, "not a string" },
    };
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        struct ckpt_err err = { 0 };
        enum ckpt_status st = parse_text(bad[i].json, bad[i].data, &err);
        if (st != bad[i].want || !strstr(err.text, bad[i].words))
            fprintf(stderr, "case %zu (%s): %s \"%s\"\n", i, bad[i].json, status_name(st),
                    err.text);
        CHECK_EQ(st, bad[i].want);
        CHECK(strstr(err.text, bad[i].words));
    }
}

static void test_legal(void)
{
    static const struct {
        const char *json;
        size_t data;
    } good[] = {
        { "{}", 0 },
        { "{}      ", 0 },
        { "{\"__metadata__\":{}}", 0 },
        { "{\"__metadata__\":{\"a\":\"b\"}}", 0 },
        { "{" T("scalar", "F32", "[]", "0", "4") "}", 4 },
        { "{" T("empty", "F32", "[0,7]", "0", "0") "}", 0 },
        { "{" T("half", "F4", "[4]", "0", "2") "}", 2 },
        { "{" T("six", "F6_E2M3", "[4]", "0", "3") "}", 3 },
        { "{" T("b", "U8", "[2]", "2", "4") "," T("a", "U8", "[2]", "0", "2") "}", 4 },
        { "{" T("x", "U8", "[2]", "0", "2") "," T("empty", "U8", "[0]", "0",
                                                  "0") "," T("last", "U8", "[0]", "2", "2") "}",
          2 },
    };
    for (size_t i = 0; i < ARRAY_COUNT(good); i++) {
        struct ckpt_err err = { 0 };
        enum ckpt_status st = parse_text(good[i].json, good[i].data, &err);
        if (st != CKPT_OK)
            fprintf(stderr, "%s: %s\n", good[i].json, err.text);
        CHECK_EQ(st, CKPT_OK);
    }
}

/* The size of the header is a stranger's number. */
static void test_header_size(void)
{
    static const uint64_t sizes[] = {
        0, 1, 3, 100, SAFETENSORS_HEADER_MAX + 1, UINT64_MAX, UINT64_MAX - 7
    };
    for (size_t i = 0; i < ARRAY_COUNT(sizes); i++) {
        struct buf b = file_of("{}", 0);
        buf_patch_u64(&b, 0, sizes[i]);
        struct safetensors s;
        CHECK_EQ(safetensors_parse(b.data, b.len, b.len, &s, NULL), CKPT_CORRUPT);
        /* A file that claims to be longer than the bytes that are there. */
        CHECK_EQ(safetensors_parse(b.data, b.len, UINT64_MAX, &s, NULL), CKPT_CORRUPT);
        buf_fini(&b);
        cases += 2;
    }
    for (size_t len = 0; len < 10; len++, cases++) {
        struct buf b = file_of("{}", 0);
        struct safetensors s;
        CHECK_EQ(safetensors_parse(b.data, len, len, &s, NULL), CKPT_CORRUPT);
        buf_fini(&b);
    }
}

static unsigned random_dtype(unsigned long long *seed)
{
    for (;;) {
        unsigned dtype = (unsigned)(test_rand(seed) % 30);
        if (safetensors_knows(dtype))
            return dtype;
    }
}

/* encode, then parse, gives the same tensors and notes. */
static void test_round_trip(unsigned long long *seed)
{
    for (int round = 0; round < 200; round++, cases++) {
        struct safetensors out = { 0 }, in = { 0 };
        size_t n = test_rand(seed) % 20;
        for (size_t i = 0; i < n; i++) {
            char name[64];
            uint64_t shape[3] = { test_rand(seed) % 5, 1 + test_rand(seed) % 9, 8 };
            snprintf(name, sizeof(name), "läyer/%zu.\"w\\%llu", i, test_rand(seed) % 10);
            CHECK_OK(safetensors_add(&out, name, random_dtype(seed), 3, shape, NULL));
        }
        for (size_t i = 0; i < (size_t)round % 3; i++) {
            char key[16];
            snprintf(key, sizeof(key), "k%zu", i);
            CHECK_OK(safetensors_add_note(&out, key, "v \"\n", NULL));
        }
        struct buf b = { 0 };
        CHECK_OK(safetensors_encode(&out, &b, NULL));
        CHECK_EQ(b.len % 8, 0);
        CHECK_EQ(b.len, out.data_begin);
        /* The header alone is enough to parse. */
        CHECK_OK(safetensors_parse(b.data, b.len, b.len + out.data_bytes, &in, NULL));
        CHECK_EQ(in.count, out.count);
        CHECK_EQ(in.note_count, out.note_count);
        CHECK_EQ(in.data_begin, out.data_begin);
        CHECK_EQ(in.data_bytes, out.data_bytes);
        for (size_t i = 0; i < n; i++) {
            const struct safetensors_tensor *a = &out.tensors[i];
            const struct safetensors_tensor *p = NULL;
            for (size_t k = 0; k < n; k++)
                p = strcmp(in.tensors[k].name, a->name) == 0 ? &in.tensors[k] : p;
            CHECK(p != NULL);
            CHECK_EQ(p->dtype, a->dtype);
            CHECK_EQ(p->begin, a->begin);
            CHECK_EQ(p->bytes, a->bytes);
            CHECK(memcmp(p->shape, a->shape, sizeof(a->shape)) == 0);
        }
        for (size_t i = 0; i < out.note_count; i++) {
            CHECK_STR(in.notes[i].key, out.notes[i].key);
            CHECK_STR(in.notes[i].value, out.notes[i].value);
        }
        safetensors_fini(&in);
        safetensors_fini(&out);
        buf_fini(&b);
    }
}

/* Changed bytes never crash, and never lead outside the file. */
static void test_mutations(unsigned long long *seed)
{
    static const char json[] = "{\"__metadata__\":{\"format\":\"pt\"}," T(
        "a", "F32", "[2,3]", "0", "24") "," T("b", "U8", "[8]", "24", "32") "}";
    size_t accepted = 0;
    for (int round = 0; round < 20000; round++, cases++) {
        struct buf b = file_of(json, 32);
        for (unsigned long long i = 0; i <= test_rand(seed) % 3; i++)
            b.data[test_rand(seed) % (b.len - 32)] = (uint8_t)test_rand(seed);
        struct safetensors s;
        if (safetensors_parse(b.data, b.len, b.len, &s, NULL) == CKPT_OK) {
            accepted++;
            for (size_t i = 0; i < s.count; i++)
                CHECK(s.data_begin + s.tensors[i].begin + s.tensors[i].bytes <= b.len);
            safetensors_fini(&s);
        }
        buf_fini(&b);
    }
    CHECK(accepted > 0);
}

static void test_add_refusals(void)
{
    struct safetensors s = { 0 };
    uint64_t odd[1] = { 3 }, huge[2] = { UINT64_MAX, 2 }, half[1] = { UINT64_C(1) << 58 };
    CHECK_EQ(safetensors_add(&s, "a", CKPT_DTYPE_C128, 1, odd, NULL), CKPT_UNSUPPORTED);
    CHECK_EQ(safetensors_add(&s, "a", CKPT_DTYPE_U4, 1, odd, NULL), CKPT_UNSUPPORTED);
    CHECK_EQ(safetensors_add(&s, "a", CKPT_DTYPE_I4, 1, odd, NULL), CKPT_UNSUPPORTED);
    CHECK_EQ(safetensors_add(&s, "a", 0, 1, odd, NULL), CKPT_UNSUPPORTED);
    CHECK_EQ(safetensors_add(&s, "a", CKPT_DTYPE_F4, 1, odd, NULL), CKPT_LIMIT);
    CHECK_EQ(safetensors_add(&s, "a", CKPT_DTYPE_U8, 2, huge, NULL), CKPT_LIMIT);
    CHECK_EQ(safetensors_add(&s, "__metadata__", CKPT_DTYPE_U8, 1, odd, NULL), CKPT_BAD_NAME);
    CHECK_EQ(s.count, 0);
    for (int i = 0; i < 16; i++)
        CHECK_OK(safetensors_add(&s, "a", CKPT_DTYPE_U8, 1, half, NULL));
    CHECK_EQ(safetensors_add(&s, "a", CKPT_DTYPE_U8, 1, half, NULL), CKPT_LIMIT);
    safetensors_fini(&s);
    cases += 9;
}

int main(void)
{
    unsigned long long seed = test_seed(3);
    test_refusals();
    test_legal();
    test_header_size();
    test_round_trip(&seed);
    test_mutations(&seed);
    test_add_refusals();
    TEST_CASES(cases);
    return 0;
}
