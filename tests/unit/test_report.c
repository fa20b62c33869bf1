/* A restore's report: there and back, every cut, every wrong field. */
#include "formats/dtype.h"
#include "formats/report.h"

#include "check.h"

static long cases;

static void encode_sample(struct buf *b)
{
    struct report_note notes[] = { { 1, true, 0, NULL },
                                   { 4, false, CKPT_DTYPE_F32, NULL },
                                   { 9, false, CKPT_DTYPE_F16, (char[]){ "old.name" } } };
    char *names[] = { (char[]){ "left" }, (char[]){ "over" } };
    const struct report r = { notes, 3, names, 2, 77 };
    report_encode(&r, b);
    CHECK(!b->failed);
}

static void test_there_and_back(void)
{
    CLEANUP_BUF struct buf b = { 0 };
    CLEANUP_BUF struct buf again = { 0 };
    struct report r = { 0 };
    encode_sample(&b);
    CHECK_OK(report_decode(b.data, b.len, 10, &r, NULL));
    CHECK(r.note_count == 3 && r.unasked_count == 2 && r.unasked_total == 77);
    CHECK(report_find(&r, 1)->missing && !report_find(&r, 1)->saved);
    CHECK_EQ(report_find(&r, 4)->dtype, CKPT_DTYPE_F32);
    CHECK_STR(report_find(&r, 9)->saved, "old.name");
    CHECK(!report_find(&r, 0) && !report_find(&r, 5) && !report_find(&r, 10));
    CHECK_STR(r.unasked[1], "over");
    report_encode(&r, &again);
    CHECK(again.len == b.len && memcmp(again.data, b.data, b.len) == 0);
    report_fini(&r);
    CHECK(!report_find(&r, 1));
    CHECK_EQ(report_decode(b.data, b.len, 9, &r, NULL), CKPT_CORRUPT); /* tensor 9 of 9 */
    cases += 3;
}

static void test_wrong(void)
{
    CLEANUP_BUF struct buf b = { 0 };
    struct report r = { 0 };
    encode_sample(&b);
    for (size_t cut = 0; cut < b.len; cut++, cases++)
        CHECK_EQ(report_decode(b.data, cut, 10, &r, NULL), CKPT_CORRUPT);
    /* Where, and what is put there. */
    const struct {
        size_t at;
        uint8_t byte;
    } wrong[] = {
        { 0, 4 },    /* one note more than there are */
        { 2, 0xff }, /* very many */
        { 4, 3 },    /* a name more */
        { 8, 1 },    /* fewer in all than are named */
        { 16, 4 },   /* not rising */
        { 16, 10 },  /* no such tensor */
        { 20, 2 },   /* missing: neither yes nor no */
        { 21, 99 },  /* no dtype */
        { 22, 1 },   /* reserved */
        { 24, 1 },   /* a longer name */
        { 48, 0x07 } /* a name with a control sign */
    };
    for (size_t i = 0; i < ARRAY_COUNT(wrong); i++, cases++) {
        uint8_t *bytes = malloc(b.len);
        CHECK(bytes);
        memcpy(bytes, b.data, b.len);
        bytes[wrong[i].at] = wrong[i].byte;
        if (report_decode(bytes, b.len, 10, &r, NULL) != CKPT_CORRUPT)
            fprintf(stderr, "byte %zu\n", wrong[i].at);
        CHECK_EQ(report_decode(bytes, b.len, 10, &r, NULL), CKPT_CORRUPT);
        free(bytes);
    }
}

int main(void)
{
    test_there_and_back();
    test_wrong();
    TEST_CASES(cases);
    return 0;
}
