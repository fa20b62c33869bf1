/* Converts what comes in: convert_pipe FROM TO <in >out, for comparisons with other programs.
 * The number of overflows goes to stderr. */
#include "formats/convert.h"
#include "formats/dtype.h"

#include "check.h"

int main(int argc, char **argv)
{
    static uint8_t in[8 << 16], out[8 << 16];
    CHECK_EQ(argc, 3);
    unsigned from = dtype_parse(argv[1], strlen(argv[1])),
             to = dtype_parse(argv[2], strlen(argv[2]));
    CHECK(convert_can(from, to));
    size_t n, over = 0;
    while ((n = fread(in, dtype_bits(from) / 8, 1 << 16, stdin)) > 0) {
        over += convert_run(to, out, from, in, n);
        CHECK_EQ(fwrite(out, dtype_bits(to) / 8, n, stdout), n);
    }
    fprintf(stderr, "%zu\n", over);
    return 0;
}
