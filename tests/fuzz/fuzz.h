/* What every fuzz target has: one function that takes hostile bytes and one that makes
 * sums and digests right again.
 *
 * Half of all mutated inputs go through fuzz_fix, so that the code behind a checksum is
 * reached as often as the checksum itself.  What the corpus keeps has right sums; the
 * other half of its mutants has not. */
#pragma once

#include <stdio.h>

#include "formats/cursor.h"
#include "formats/digest.h"

/* A law that must hold for every input; the fuzzer saves the input that breaks it. */
#define FUZZ_CHECK(cond)                                                           \
    do {                                                                           \
        if (!(cond)) {                                                             \
            fprintf(stderr, "%s:%d: law broken: %s\n", __FILE__, __LINE__, #cond); \
            abort();                                                               \
        }                                                                          \
    } while (0)

/* The two parts of a target. */
void fuzz_one(const uint8_t *bytes, size_t len);
void fuzz_fix(uint8_t *bytes, size_t len);

/* Reads every byte of it, so that the sanitizers see each one that is not ours. */
void fuzz_touch(const void *bytes, size_t len);
/* What was decoded gives these very bytes again. */
void fuzz_same(const struct buf *again, const void *bytes, size_t len);
/* Puts the XXH3 digest of everything before them into the last 16 bytes. */
void fuzz_fix_trailer(uint8_t *bytes, size_t len);
/* Little-endian numbers at a place that was checked. */
void fuzz_put_u32(uint8_t *at, uint32_t v);
uint32_t fuzz_get_u32(const uint8_t *at);

/* libFuzzer's side. */
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);
size_t LLVMFuzzerMutate(uint8_t *bytes, size_t len, size_t cap);
size_t LLVMFuzzerCustomMutator(uint8_t *bytes, size_t len, size_t cap, unsigned seed);
