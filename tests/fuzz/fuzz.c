/* Between libFuzzer and the targets: the mutator that mends sums in half of the cases. */
#include "fuzz/fuzz.h"

static volatile uint8_t sink;

void fuzz_touch(const void *bytes, size_t len)
{
    const uint8_t *at = bytes;
    uint8_t sum = 0;
    for (size_t i = 0; i < len; i++)
        sum = (uint8_t)(sum + at[i]);
    sink = sum;
}

void fuzz_same(const struct buf *again, const void *bytes, size_t len)
{
    FUZZ_CHECK(!again->failed);
    FUZZ_CHECK(again->len == len);
    FUZZ_CHECK(memcmp(again->data, bytes, len) == 0);
}

void fuzz_fix_trailer(uint8_t *bytes, size_t len)
{
    if (len < sizeof(struct digest))
        return;
    size_t body = len - sizeof(struct digest);
    struct digest sum = digest_of(bytes, body);
    memcpy(bytes + body, sum.b, sizeof(sum.b));
}

void fuzz_put_u32(uint8_t *at, uint32_t v)
{
    for (unsigned i = 0; i < 4; i++)
        at[i] = (uint8_t)(v >> 8 * i);
}

uint32_t fuzz_get_u32(const uint8_t *at)
{
    struct cursor c = cursor_over(at, 4);
    return cursor_u32(&c);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    fuzz_one(bytes, len);
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *bytes, size_t len, size_t cap, unsigned seed)
{
    len = LLVMFuzzerMutate(bytes, len, cap);
    if (seed & 1)
        fuzz_fix(bytes, len);
    return len;
}
