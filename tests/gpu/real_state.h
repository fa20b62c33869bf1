/* A random state for tests on devices: tensors of any type, of 0 to 4 dimensions, of no element, one,
 * or up to some MiB; each in random memory (in order, transposed, reversed, with gaps, in several
 * boxes apart or as slices of one array), on a device or in host memory; and what its bytes are at a
 * step, by position.
 *
 * Lengths, offsets and strides are counted in units: an element, or 8 of them in the last dimension
 * where an element is no whole bytes. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libckpt/ckpt.h"

#define REAL_DIMS    4
#define REAL_PIECES  4
#define REAL_TENSORS 24

/* What is the same wherever it lies. */
struct real_tensor {
    char name[8];
    uint32_t dtype, flags, ndim;
    unsigned unit_bytes, unit_elements;
    uint64_t len[REAL_DIMS];
};
struct real_state {
    size_t count;
    struct real_tensor tensor[REAL_TENSORS];
};
/* Where it lies: an image has the tensors' buffers one behind the other. */
struct real_piece {
    uint64_t off[REAL_DIMS], len[REAL_DIMS], first; /* first: of its first unit in the buffer */
    int64_t stride[REAL_DIMS];
};
struct real_place {
    int device; /* -1: host memory */
    size_t count;
    struct real_piece piece[REAL_PIECES];
    uint64_t bytes, at; /* at: in the image */
};
struct real_memory {
    struct real_place place[REAL_TENSORS];
    uint64_t bytes; /* of an image */
};

/* largest: bytes of the largest tensors, about. */
void real_draw(struct real_state *ret, unsigned long long *rng, uint64_t largest);
/* On the devices 0 to devices - 1, perhaps also in host memory.  fill: only what can be restored into. */
void real_lay(const struct real_state *st, struct real_memory *ret, unsigned long long *rng,
              int devices, bool fill);
void real_declare(const struct real_state *st, const struct real_memory *m, struct ckpt_state *s);
/* Bytes that are those of no step. */
void real_noise(unsigned char *image, uint64_t bytes, uint64_t seed);
/* Every element as it is at `step`; what lies between them stays. */
void real_paint(const struct real_state *st, const struct real_memory *m, uint64_t step,
                unsigned char *image);
