/* One large tensor through a small arena and onto other topologies: every process stays
 * within its bound, and ckptd reads what is needed and little more, by the kernel's count.
 * CKPT_DEEP=1: 4 GiB through 64 MiB. */
#include <inttypes.h>

#include "bench/reshape_kit.h"

#define MIB (UINT64_C(1) << 20)
/* ThreadSanitizer's own memory is most of what could be measured there. */
#ifdef __SANITIZE_THREAD__
#define BOUND(bytes) UINT64_MAX
#else
#define BOUND(bytes) (bytes)
#endif

static void check_memory(const char *what, uint64_t arenas, const struct reshape_result *r)
{
    uint64_t worker = reshape_peak(kit_worker()), keeper = reshape_peak(kit.keeper);
    printf("    %s: worker %" PRIu64 " MiB (arenas %" PRIu64 "), keeper %" PRIu64
           ", a rank %" PRIu64 " beside tensor and arena\n",
           what, worker / MIB, arenas / MIB, keeper / MIB, r->rank_peak / MIB);
    CHECK(worker > 0 && worker <= BOUND(arenas + 256 * MIB));
    CHECK(keeper > 0 && keeper <= BOUND(64 * MIB));
    CHECK(r->rank_peak <= BOUND(64 * MIB));
    kit.cases++;
}

static void test_small_arena(uint64_t bytes, uint64_t arena)
{
    const struct reshape one = { .world = 1, .how = KIT_ROWS },
                         three = { .world = 3, .how = KIT_ROWS },
                         columns = { .world = 2, .how = KIT_COLS };
    reshape_save("giant", bytes, &one, arena);
    struct reshape_result r = reshape_restore("giant", bytes, &one, arena);
    check_memory("one rank", arena, &r);
    CHECK_EQ(r.wanted_bytes, bytes);
    r = reshape_restore("giant", bytes, &three, arena);
    check_memory("three ranks", 3 * arena, &r);
    r = reshape_restore("giant", bytes, &columns, arena);
    check_memory("two by columns", 3 * arena, &r);
    kit_verify("giant", 1);
}

/* What ranks of one node want of what four ranks saved by rows. */
static void test_bytes(uint64_t bytes)
{
    static const struct {
        const char *what;
        struct reshape how;
        double most;
    } rows[] = {
        { "4 ranks, as saved", { .world = 4, .how = KIT_ROWS }, 1.05 },
        { "3 ranks by rows", { .world = 3, .how = KIT_ROWS }, 1.05 },
        { "8 ranks by rows", { .world = 8, .how = KIT_ROWS }, 1.05 },
        { "5 ranks, flat", { .world = 5, .how = KIT_FLAT }, 1.05 },
        { "a node with 1 of 3 by rows", { .world = 3, .how = KIT_ROWS, .readers = 1 }, 1.05 },
        { "4 ranks by columns", { .world = 4, .how = KIT_COLS }, 1.05 },
        /* Tiles are rows: who wants a quarter of each reads all. */
        { "a node with 1 of 4 by columns", { .world = 4, .how = KIT_COLS, .readers = 1 }, 4.2 },
    };
    reshape_save("bytes", bytes, &rows[0].how, 0);
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        struct reshape_result r = reshape_restore("bytes", bytes, &rows[i].how, 0);
        double ratio = (double)r.read_bytes / (double)r.wanted_bytes;
        if (r.read_bytes == 0)
            TEST_SKIP("the kernel counts no bytes read from this file system");
        printf("    %-30s read %.3f of what is wanted\n", rows[i].what, ratio);
        CHECK(ratio <= rows[i].most);
        CHECK(r.wanted_bytes > 0 && (rows[i].how.readers || r.wanted_bytes == bytes));
        kit.cases++;
    }
}

int main(void)
{
    bool deep = getenv("CKPT_DEEP") != NULL;
    kit_begin("reshape");
    test_small_arena((deep ? 4096 : TEST_TENTH > 1 ? 96 : 192) * MIB, (deep ? 64 : 16) * MIB);
    kit_stop();
    kit_start();
    test_bytes((deep ? 1024 : TEST_TENTH > 1 ? 256 : 512) * MIB);
    return kit_end();
}
