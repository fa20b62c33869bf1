/* Places of tiles in slots: aligned, disjoint, inside, as full as the rule says,
 * and the same from both functions. */
#include "formats/image.h"
#include "formats/status.h"

#include "check.h"

static uint64_t random_bytes(unsigned long long *seed)
{
    switch (test_rand(seed) % 5) {
    case 0:
        return 1 + test_rand(seed) % 64;
    case 1:
        return 65536 - 2 + test_rand(seed) % 4;
    case 2:
        return CKPT_CHUNK_BYTES_MAX - test_rand(seed) % 3;
    case 3:
        return 1 + test_rand(seed) % 70000;
    default:
        return 1 + test_rand(seed) % CKPT_CHUNK_BYTES_MAX;
    }
}

static void check_order(const struct image *image, const struct image_place *was,
                        const struct image_place *is, uint64_t was_end, uint64_t bytes)
{
    uint64_t align = bytes >= 65536 ? 4096 : 64;
    CHECK_EQ(is->offset % align, 0);
    CHECK(is->offset + bytes <= image->slot_bytes);
    if (is->chunk > 0) {
        CHECK_EQ(is->slot, was->slot);
        CHECK_EQ(is->chunk, was->chunk + 1);
        CHECK(is->offset >= was_end && is->offset - was_end < align);
    } else if (was_end > 0) {
        CHECK_EQ(is->slot, was->slot + 1);
        CHECK_EQ(is->offset, 0);
        CHECK(was->chunk + 1 == CKPT_PACK_CHUNKS_MAX ||
              (was_end + align - 1) / align * align + bytes > image->slot_bytes);
    }
}

static long run_slots(unsigned long long *seed, uint64_t slot_bytes, int tiles)
{
    struct image image = image_init(slot_bytes);
    struct image_place was = { 0 };
    uint64_t was_end = 0, used = 0;
    CHECK_EQ(image_slots(&image), 0);
    for (int i = 0; i < tiles; i++) {
        uint64_t bytes = random_bytes(seed);
        struct image_place is = image_next(&image, bytes);
        CHECK(i > 0 || (is.slot == 0 && is.chunk == 0 && is.offset == 0));
        check_order(&image, &was, &is, was_end, bytes);
        used = is.chunk == 0 ? 0 : used;
        CHECK_EQ(image_offset_next(&used, bytes), is.offset);
        CHECK_EQ(image_slots(&image), is.slot + 1);
        was = is;
        was_end = is.offset + bytes;
    }
    return tiles;
}

static long test_chunk_limit(void)
{
    struct image image = image_init(CKPT_SLOT_BYTES);
    for (uint32_t i = 0; i < CKPT_PACK_CHUNKS_MAX; i++)
        CHECK_EQ(image_next(&image, 1).slot, 0);
    struct image_place next = image_next(&image, 1);
    CHECK_EQ(next.slot, 1);
    CHECK_EQ(next.chunk, 0);
    CHECK_EQ(next.offset, 0);
    return CKPT_PACK_CHUNKS_MAX + 1;
}

static long test_exact_fit(void)
{
    struct image image = image_init(CKPT_SLOT_BYTES_MIN);
    CHECK_EQ(image_next(&image, CKPT_CHUNK_BYTES_MAX).offset, 0);
    CHECK_EQ(image_next(&image, CKPT_CHUNK_BYTES_MAX).offset, CKPT_CHUNK_BYTES_MAX);
    CHECK_EQ(image_next(&image, 1).slot, 1);
    return 3;
}

int main(void)
{
    unsigned long long seed = test_seed(1);
    long n = test_chunk_limit() + test_exact_fit();
    for (int i = 0; i < 200; i++)
        n += run_slots(&seed, CKPT_SLOT_BYTES_MIN + (test_rand(&seed) % 30) * MIB, 300);
    TEST_CASES(n);
    return 0;
}
