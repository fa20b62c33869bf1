/* The element types as a table indexed by code. */
#include "formats/dtype.h"

static const struct {
    unsigned bits;
    const char *name;
} table[] = {
#define X(name_, code, bits_, text) [code] = { .bits = bits_, .name = text },
    CKPT_DTYPES(X)
#undef X
};

unsigned dtype_bits(unsigned code)
{
    return code < ARRAY_COUNT(table) ? table[code].bits : 0;
}

const char *dtype_name(unsigned code)
{
    return dtype_bits(code) ? table[code].name : "?";
}

unsigned dtype_parse(const char *name, size_t len)
{
    for (unsigned code = 1; code < ARRAY_COUNT(table); code++) {
        if (dtype_bits(code) && strlen(table[code].name) == len &&
            memcmp(table[code].name, name, len) == 0)
            return code;
    }
    return 0;
}
