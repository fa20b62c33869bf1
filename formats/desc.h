/* Description of a tensor, the same bytes in declarations, manifests and the index:
 *
 *   0  u8 dtype, u8 kind, u16 flags      6  u16 name bytes, u16 alias bytes (0: none)
 *   4  u8 ndim, u8 zero                 10  name, NUL, [alias, NUL], u64 shape[ndim],
 *                                           u32 block[ndim] (blocked tensors only)
 *
 * Names carry their NUL, so a decoded description points into the bytes. */
#pragma once

#include "formats/cursor.h"

#define DESC_NAME_AT   10 /* where the name begins */
#define DESC_BYTES_MIN 12 /* of an encoded description: a name of one byte, no dimension */

struct desc {
    const char *name;
    const char *alias; /* NULL without DECL_ALIAS */
    uint8_t dtype, kind;
    uint16_t flags;
    uint32_t ndim;
    uint64_t shape[CKPT_DIMS_MAX]; /* zero from ndim on */
    uint32_t block[CKPT_DIMS_MAX];
};

/* Everything but the names, between any two structs that have these fields. */
#define DESC_COPY(to, from)                                      \
    do {                                                         \
        (to)->dtype = (from)->dtype;                             \
        (to)->kind = (from)->kind;                               \
        (to)->flags = (from)->flags;                             \
        (to)->ndim = (from)->ndim;                               \
        memcpy((to)->shape, (from)->shape, sizeof((to)->shape)); \
        memcpy((to)->block, (from)->block, sizeof((to)->block)); \
    } while (0)

/* Name, dtype, kind, flags, shape, blocks, alias: each alone and together. */
enum ckpt_status desc_check(const struct desc *t, struct ckpt_err *err) CKPT_MUST_CHECK;
/* `t` is checked. */
void desc_encode(const struct desc *t, struct buf *out);
/* Reads and checks; `ret` borrows the bytes.  CKPT_CORRUPT for bytes that are no
 * description, otherwise what desc_check says. */
enum ckpt_status desc_decode(struct cursor *c, struct desc *ret, struct ckpt_err *err)
    CKPT_MUST_CHECK;

/* Offsets, then lengths. */
struct box;
void desc_encode_box(const struct box *box, struct buf *out);
void desc_decode_box(struct cursor *c, uint32_t ndim, struct box *ret);

/* Tensors lie sorted in blocks, in manifests and in the index.  Of `count` blocks, the one
 * that holds `name` if any does; UINT32_MAX if none can.  first: the name that block i of
 * `of` begins with. */
uint32_t desc_block_of(const void *of, uint32_t count,
                       const char *(*first)(const void *of, uint32_t i), const char *name);
