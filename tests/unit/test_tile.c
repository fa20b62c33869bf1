/* Tiles against brute force: they partition the box, keep the limits and are
 * found by arithmetic exactly where a search finds them. */
#include "formats/tile.h"

#include "check.h"

static unsigned long long seed;

static uint64_t below(uint64_t n)
{
    return test_rand(&seed) % n;
}

static struct box random_box(uint32_t ndim, uint64_t most)
{
    struct box box = { .ndim = ndim };
    for (uint32_t d = 0; d < ndim; d++) {
        box.off[d] = below(10);
        box.len[d] = below(20) ? 1 + below(most) : 0;
    }
    return box;
}

/* Every pair of tiles is disjoint, all lie inside, volumes add up. */
static void check_partition(const struct box *box, const uint64_t *tile)
{
    uint64_t n = tile_count(box, tile), volume = 0;
    struct box common;
    for (uint64_t i = 0; i < n; i++) {
        struct box a = tile_at(box, tile, i);
        CHECK(box_contains(box, &a));
        volume += box_volume(&a);
        for (uint64_t j = 0; j < i && n < 60; j++) {
            struct box b = tile_at(box, tile, j);
            CHECK(!box_intersect(&a, &b, &common));
        }
    }
    CHECK_EQ(volume, box_volume(box));
    CHECK_EQ(n == 0, volume == 0);
}

static void check_iter(const struct box *box, const uint64_t *tile)
{
    struct box want = random_box(box->ndim, 15), expected;
    struct tile_iter it = tile_iter_init(box, tile, &want);
    for (uint64_t i = 0; i < tile_count(box, tile); i++) {
        struct box at = tile_at(box, tile, i), got, common;
        uint64_t number;
        if (!box_intersect(&at, &want, &expected))
            continue;
        CHECK(tile_iter_next(&it, &number, &got, &common));
        CHECK_EQ(number, i);
        CHECK(box_equal(&got, &at) && box_equal(&common, &expected));
    }
    uint64_t number;
    CHECK(!tile_iter_next(&it, &number, &want, &expected));
    CHECK(!tile_iter_next(&it, &number, &want, &expected));
}

static long test_random_tiles(void)
{
    long n = 0;
    for (; n < 4000; n++) {
        uint32_t ndim = (uint32_t)below(5);
        struct box box = random_box(ndim, 8);
        uint64_t tile[CKPT_DIMS_MAX];
        for (uint32_t d = 0; d < ndim; d++)
            tile[d] = 1 + below(10);
        CHECK_OK(tile_check(&box, 32, tile, NULL));
        check_partition(&box, tile);
        check_iter(&box, tile);
    }
    return n;
}

/* The law of the default: within the limit, cuts only in one dimension besides
 * the leading units, and a row more would not fit. */
static void check_default(const struct box *box, unsigned bits, uint64_t bytes_max,
                          const uint32_t *block)
{
    uint64_t tile[CKPT_DIMS_MAX], total = bits;
    uint32_t d = box->ndim;
    tile_shape_default(box, bits, bytes_max, block, tile);
    for (uint32_t i = 0; i < box->ndim; i++) {
        CHECK(tile[i] >= 1 && tile[i] <= max_u64(box->len[i], 1));
        if (block && block[i] > 1)
            CHECK(tile[i] % block[i] == 0 || tile[i] == max_u64(box->len[i], 1));
        total *= tile[i];
    }
    CHECK(total <= bytes_max * 8);
    CHECK_OK(tile_check(box, bits, tile, NULL));
    while (d > 0 && tile[d - 1] >= box->len[d - 1])
        d--;
    for (uint32_t i = 0; i + 1 < d; i++)
        CHECK(tile[i] <= (block ? max_u64(block[i], 1) : 1));
    if (d > 0) {
        uint64_t unit = block ? max_u64(block[d - 1], 1) : 1;
        while (d == box->ndim && unit * bits % 8)
            unit *= 2;
        CHECK(total / tile[d - 1] * min_u64(tile[d - 1] + unit, box->len[d - 1]) > bytes_max * 8 ||
              (tile[d - 1] + unit) > box->len[d - 1]);
    }
    check_partition(box, tile);
}

static long test_default(void)
{
    static const unsigned widths[] = { 4, 6, 8, 16, 32, 128 };
    long n = 0;
    for (; n < 4000; n++) {
        uint32_t ndim = (uint32_t)below(5), block[CKPT_DIMS_MAX];
        struct box box = random_box(ndim, 9);
        unsigned bits = widths[below(ARRAY_COUNT(widths))];
        bits = ndim == 0 ? 8 : bits;
        if (bits < 8) {
            box.off[ndim - 1] *= 4;
            box.len[ndim - 1] *= 4;
        }
        for (uint32_t d = 0; d < ndim; d++)
            block[d] = (uint32_t)below(3);
        check_default(&box, bits, 256 + below(3000), below(2) ? block : NULL);
    }
    return n;
}

static long test_fixed(void)
{
    struct box box = { .ndim = 2, .len = { 8192, 4096 } };
    uint64_t tile[CKPT_DIMS_MAX];
    tile_shape_default(&box, 16, 4 * MIB, NULL, tile);
    CHECK_EQ(tile[0], 512);
    CHECK_EQ(tile[1], 4096);
    CHECK_EQ(tile_count(&box, tile), 16);
    uint32_t block[2] = { 128, 128 };
    box.len[1] = 4096 + 64;
    tile_shape_default(&box, 8, 4 * MIB, block, tile);
    CHECK_EQ(tile[0], 896);
    CHECK_EQ(tile[1], 4160);
    box.len[0] = 0;
    tile_shape_default(&box, 8, 4 * MIB, NULL, tile);
    CHECK(tile[0] >= 1 && tile_count(&box, tile) == 0);
    box = (struct box){ .ndim = 3, .len = { 3, 5, 9 * MIB } };
    tile_shape_default(&box, 8, 4 * MIB, NULL, tile);
    CHECK_EQ(tile[2], 4 * MIB);
    CHECK(tile[0] == 1 && tile[1] == 1);
    box.ndim = 0;
    CHECK_EQ(tile_count(&box, tile), 1);
    CHECK_EQ(tile_at(&box, tile, 0).ndim, 0);
    return 10;
}

static long test_hostile(void)
{
    struct box box = { .ndim = 2, .len = { UINT64_C(1) << 20, UINT64_C(1) << 20 } };
    uint64_t tile[2] = { 0, 1 };
    CHECK_EQ(tile_check(&box, 8, tile, NULL), CKPT_INVALID);
    tile[0] = 1;
    CHECK_EQ(tile_check(&box, 8, tile, NULL), CKPT_LIMIT); /* 2^40 tiles */
    tile[0] = UINT64_MAX;
    tile[1] = UINT64_MAX;
    CHECK_EQ(tile_check(&box, 8, tile, NULL), CKPT_LIMIT); /* 2^40 bytes */
    tile[0] = 1;
    CHECK_OK(tile_check(&box, 8, tile, NULL));
    tile[0] = 4;
    CHECK_OK(tile_check(&box, 8, tile, NULL));
    tile[0] = 5;
    CHECK_EQ(tile_check(&box, 8, tile, NULL), CKPT_LIMIT);
    tile[0] = 4;
    tile[1] = 1023;
    CHECK_EQ(tile_check(&box, 4, tile, NULL), CKPT_INVALID);
    tile[0] = UINT64_C(1) << 8;
    tile[1] = 1;
    CHECK_EQ(tile_check(&box, 8, tile, NULL), CKPT_LIMIT); /* exactly 2^32 tiles */
    box.len[0]--;
    CHECK_EQ(tile_check(&box, 8, tile, NULL), CKPT_LIMIT);
    box.len[0] -= 256;
    CHECK_OK(tile_check(&box, 8, tile, NULL));
    return 10;
}

int main(void)
{
    seed = test_seed(4);
    TEST_CASES(test_random_tiles() + test_default() + test_fixed() + test_hostile());
    return 0;
}
