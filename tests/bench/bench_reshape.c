/* Restoring onto another topology against restoring onto the same, alternated:
 *
 *     bench_reshape [BYTES_IN_MIB [ROUNDS]]      default 4096 and 7
 *
 * 4 ranks save one tensor by rows; then 4 ranks restore it (the same topology), and so
 * do 2, 3 and 8 ranks, and 4 by columns, round after round, in an order that turns.
 * Prints the medians, their ratio to the same topology, and the bytes that the kernel
 * counted for ckptd against those wanted. */
#include <inttypes.h>

#include "bench/reshape_kit.h"

#define ROUNDS_MAX 99

static const struct reshape shapes[] = {
    { .world = 4, .how = KIT_ROWS }, { .world = 2, .how = KIT_ROWS },
    { .world = 3, .how = KIT_ROWS }, { .world = 8, .how = KIT_ROWS },
    { .world = 8, .how = KIT_FLAT }, { .world = 4, .how = KIT_COLS },
};
static const char *const names[] = {
    "4 by rows (the same)", "2 by rows", "3 by rows", "8 by rows", "8 flat", "4 by columns"
};
#define SHAPES ARRAY_COUNT(shapes)

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(const double *from, size_t n)
{
    double sorted[ROUNDS_MAX];
    memcpy(sorted, from, n * sizeof(*sorted));
    qsort(sorted, n, sizeof(*sorted), compare);
    return n % 2 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
}

int main(int argc, char **argv)
{
    uint64_t bytes = (argc > 1 ? strtoull(argv[1], NULL, 10) : 4096) << 20;
    size_t rounds = argc > 2 ? strtoull(argv[2], NULL, 10) : 7;
    static double seconds[SHAPES][ROUNDS_MAX], ratio[SHAPES][ROUNDS_MAX];
    static struct reshape_result last[SHAPES];
    CHECK(bytes >= UINT64_C(1) << 20 && rounds >= 1 && rounds <= ROUNDS_MAX);
    kit.slot_bytes = "32M";
    kit_begin("reshape-bench");
    reshape_save("large", bytes, &shapes[0], 0);
    for (size_t round = 0; round < rounds; round++) {
        for (size_t k = 0; k < SHAPES; k++) {
            size_t i = (round + k) % SHAPES;
            struct reshape how = shapes[i];
            how.unchecked = round > 0;
            last[i] = reshape_restore("large", bytes, &how, 0);
            seconds[i][round] = last[i].seconds;
        }
        for (size_t i = 0; i < SHAPES; i++)
            ratio[i][round] = seconds[0][round] / seconds[i][round];
    }
    for (size_t i = 0; i < SHAPES; i++)
        printf(
            "%-22s %6.3f s  %5.2f GiB/s  speed %4.2f of the same  read %5.3f of what is wanted\n",
            names[i], median(seconds[i], rounds),
            (double)bytes / median(seconds[i], rounds) / (1 << 30), median(ratio[i], rounds),
            (double)last[i].read_bytes / (double)last[i].wanted_bytes);
    kit.cases = (long)(rounds * SHAPES);
    return kit_end();
}
