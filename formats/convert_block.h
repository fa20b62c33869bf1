/* Between convert.c and the loops over single elements (convert_block.c), which are compiled
 * twice: as every processor of the architecture can run them, and with AVX2. */
#pragma once

#include "formats/dtype.h"

#define CONVERT_BLOCK 1024 /* elements at most in one call */

/* Any alignment of the typed side; `bits` are F32's.  They return the overflows. */
typedef uint32_t (*convert_decode)(uint32_t *restrict bits, const void *restrict from, size_t n);
typedef uint32_t (*convert_encode)(void *restrict to, const uint32_t *restrict bits, size_t n);
struct convert_codec {
    convert_decode decode; /* exact; F64: rounded to odd */
    convert_encode encode; /* rounded to the nearest, ties to even */
    convert_decode narrow; /* F64: to the nearest, for what ends as F32 */
};
/* Indexed by dtype code; without functions: no type to convert. */
#define CONVERT_CODECS_MAX 32
extern const struct convert_codec convert_codecs_any[CONVERT_CODECS_MAX];
#if defined(__x86_64__)
extern const struct convert_codec convert_codecs_avx2[CONVERT_CODECS_MAX];
#endif
