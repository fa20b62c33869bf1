/* Element types: one table of code, name, width.
 * Codes are on disk and on the wire; they never change.  Names are those of
 * safetensors, so that export needs no second table. */
#pragma once

#include "formats/base.h"

/* X(name, code, bits, safetensors name) */
#define CKPT_DTYPES(X)                   \
    X(BOOL, 1, 8, "BOOL")                \
    X(U8, 2, 8, "U8")                    \
    X(I8, 3, 8, "I8")                    \
    X(U16, 4, 16, "U16")                 \
    X(I16, 5, 16, "I16")                 \
    X(U32, 6, 32, "U32")                 \
    X(I32, 7, 32, "I32")                 \
    X(U64, 8, 64, "U64")                 \
    X(I64, 9, 64, "I64")                 \
    X(F16, 10, 16, "F16")                \
    X(BF16, 11, 16, "BF16")              \
    X(F32, 12, 32, "F32")                \
    X(F64, 13, 64, "F64")                \
    X(C64, 14, 64, "C64")                \
    X(C128, 15, 128, "C128")             \
    X(F8_E4M3, 16, 8, "F8_E4M3")         \
    X(F8_E5M2, 17, 8, "F8_E5M2")         \
    X(F8_E8M0, 18, 8, "F8_E8M0")         \
    X(F8_E4M3FNUZ, 19, 8, "F8_E4M3FNUZ") \
    X(F8_E5M2FNUZ, 20, 8, "F8_E5M2FNUZ") \
    X(F4, 21, 4, "F4")                   \
    X(F6_E2M3, 22, 6, "F6_E2M3")         \
    X(F6_E3M2, 23, 6, "F6_E3M2")         \
    X(U4, 24, 4, "U4")                   \
    X(I4, 25, 4, "I4")

enum ckpt_dtype {
#define X(name, code, bits, text) CKPT_DTYPE_##name = code,
    CKPT_DTYPES(X)
#undef X
};

/* Bits per element; 0 if `code` is not in the table. */
unsigned dtype_bits(unsigned code);
/* The safetensors name, or "?" */
const char *dtype_name(unsigned code);
/* The code of a safetensors name; 0 if unknown. */
unsigned dtype_parse(const char *name, size_t len);
