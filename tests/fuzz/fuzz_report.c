/* A restore's report, as the daemon sends it. */
#include "formats/report.h"
#include "fuzz/fuzz.h"

#define TENSORS 40

void fuzz_one(const uint8_t *bytes, size_t len)
{
    struct report r;
    struct ckpt_err err = { 0 };
    CLEANUP_BUF struct buf again = { 0 };
    size_t found = 0;
    if (report_decode(bytes, len, TENSORS, &r, &err) != CKPT_OK) {
        FUZZ_CHECK(err.text[0]);
        return;
    }
    for (size_t i = 0; i < TENSORS; i++)
        found += report_find(&r, i) != NULL;
    FUZZ_CHECK(found == r.note_count && !report_find(&r, TENSORS));
    report_encode(&r, &again);
    fuzz_same(&again, bytes, len);
    report_fini(&r);
}

void fuzz_fix(uint8_t *bytes, size_t len)
{
    (void)bytes; /* nothing is summed */
    (void)len;
}
