/* The text to learn: bytes of files, split into a part to train on and a part held out.
 *
 * Which windows a step trains on is a function of the seed and the step alone, so a resumed run
 * reads what the interrupted one would have read, whatever the number of ranks. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct text {
    uint8_t *bytes; /* the training part, then the held-out part */
    size_t train_count, valid_count;
    uint64_t digest; /* of all bytes: a checkpoint says what it was trained on */
    char source[256];
};

/* Loads a file, or all regular files of a directory in the order of their names (links are left
 * out, they would repeat text).  path NULL: the licenses every Debian has, else the C sources this
 * program was built from.  False: said why on stderr. */
bool text_load(struct text *t, const char *path);
void text_fini(struct text *t);

/* Fills `rows` rows of `row_bytes` bytes: sequences first_row... of this step. */
struct text_rows {
    uint64_t seed, step;
    size_t first_row, rows, row_bytes;
};
void text_read_train(const struct text *t, struct text_rows want, uint8_t *ret_bytes);
/* The same from the held-out part, evenly spread: row i of `of` rows in all. */
void text_read_valid(const struct text *t, size_t i, size_t of, size_t row_bytes,
                     uint8_t *ret_bytes);

/* Entropy in nats of how often each byte occurs in the held-out part: no model that ignores context
 * can have a lower loss on it. */
double text_unigram_entropy(const struct text *t);

/* FNV-1a, continued from `digest` (start with TEXT_DIGEST_START). */
#define TEXT_DIGEST_START UINT64_C(0xcbf29ce484222325)
uint64_t text_digest(uint64_t digest, const void *bytes, size_t count);
