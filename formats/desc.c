/* Tensor descriptions: what makes sense, and how it is written. */
#include "formats/desc.h"

#include "formats/decl.h"
#include "formats/key.h"

static const unsigned flags_known = DECL_OBJECT | DECL_VOLATILE | DECL_ALIAS | DECL_OPTIONAL;

static enum ckpt_status check_object(const struct desc *t, struct ckpt_err *err)
{
    if (!(t->flags & DECL_OBJECT))
        return CKPT_OK;
    if (t->dtype != CKPT_DTYPE_U8 || t->ndim != 1 || t->kind == DECL_BLOCKED ||
        t->flags & DECL_ALIAS)
        return err_set(err, CKPT_INVALID, "object %s: must be plain u8 with one dimension",
                       t->name);
    if (t->shape[0] < DECL_OBJECT_HEAD || t->shape[0] > CKPT_OBJECT_BYTES_MAX + DECL_OBJECT_HEAD)
        return err_set(err, CKPT_LIMIT, "object %s: %llu bytes, allowed are %d to 1 TiB + %d",
                       t->name, (unsigned long long)t->shape[0], DECL_OBJECT_HEAD,
                       DECL_OBJECT_HEAD);
    return CKPT_OK;
}

static enum ckpt_status check_blocks(const struct desc *t, struct ckpt_err *err)
{
    bool any = false;
    for (uint32_t i = 0; i < t->ndim; i++)
        any |= t->block[i] > 1;
    if (any == (t->kind == DECL_BLOCKED))
        return CKPT_OK;
    return err_set(err, CKPT_INVALID,
                   any ? "tensor %s: has blocks but its kind is not blocked"
                       : "tensor %s: is blocked but has no block above 1",
                   t->name);
}

static enum ckpt_status check_alias(const struct desc *t, struct ckpt_err *err)
{
    if (!(t->flags & DECL_ALIAS) != !t->alias)
        return err_set(err, CKPT_INVALID, "tensor %s: the alias flag and the alias name differ",
                       t->name);
    if (!t->alias)
        return CKPT_OK;
    enum ckpt_status st = tensor_name_check(t->alias, strlen(t->alias), err);
    if (st != CKPT_OK)
        err_prefix(err, "tensor %s: alias", t->name);
    return st;
}

static enum ckpt_status check_type(const struct desc *t, struct ckpt_err *err)
{
    uint64_t bytes;
    unsigned bits = dtype_bits(t->dtype);
    if (!bits)
        return err_set(err, CKPT_INVALID, "tensor %s: unknown dtype %u", t->name, t->dtype);
    if (t->kind > DECL_LOCKED)
        return err_set(err, CKPT_INVALID, "tensor %s: unknown kind %u", t->name, t->kind);
    if (t->flags & ~flags_known)
        return err_set(err, CKPT_INVALID, "tensor %s: unknown flags %#x", t->name, t->flags);
    if (t->ndim > CKPT_DIMS_MAX)
        return err_set(err, CKPT_LIMIT, "tensor %s: %u dimensions, at most %d are possible",
                       t->name, t->ndim, CKPT_DIMS_MAX);
    if (!shape_bytes(t->ndim, t->shape, bits, &bytes))
        return err_set(err, CKPT_LIMIT, "tensor %s: shape is too large", t->name);
    return CKPT_OK;
}

enum ckpt_status desc_check(const struct desc *t, struct ckpt_err *err)
{
    enum ckpt_status st = tensor_name_check(t->name, strlen(t->name), err);
    if (st == CKPT_OK)
        st = check_type(t, err);
    if (st == CKPT_OK)
        st = check_blocks(t, err);
    if (st == CKPT_OK)
        st = check_object(t, err);
    if (st == CKPT_OK)
        st = check_alias(t, err);
    return st;
}

void desc_encode(const struct desc *t, struct buf *out)
{
    size_t name = strlen(t->name), alias = t->alias ? strlen(t->alias) : 0;
    buf_u8(out, t->dtype);
    buf_u8(out, t->kind);
    buf_u16(out, t->flags);
    buf_u8(out, (uint8_t)t->ndim);
    buf_u8(out, 0);
    buf_u16(out, (uint16_t)name);
    buf_u16(out, (uint16_t)alias);
    buf_bytes(out, t->name, name + 1);
    if (alias)
        buf_bytes(out, t->alias, alias + 1);
    for (uint32_t i = 0; i < t->ndim; i++)
        buf_u64(out, t->shape[i]);
    for (uint32_t i = 0; t->kind == DECL_BLOCKED && i < t->ndim; i++)
        buf_u32(out, t->block[i]);
}

/* A name of n bytes with its NUL, in place; NULL (and bad) if it is none. */
static const char *take_name(struct cursor *c, size_t n)
{
    const char *name = (const char *)cursor_bytes(c, n + 1);
    if (name && strnlen(name, n + 1) == n)
        return name;
    cursor_fail(c);
    return NULL;
}

enum ckpt_status desc_decode(struct cursor *c, struct desc *ret, struct ckpt_err *err)
{
    struct desc t = { 0 };
    t.dtype = cursor_u8(c);
    t.kind = cursor_u8(c);
    t.flags = cursor_u16(c);
    t.ndim = cursor_u8(c);
    cursor_zero(c, 1);
    uint16_t name = cursor_u16(c), alias = cursor_u16(c);
    t.name = take_name(c, name);
    t.alias = alias ? take_name(c, alias) : NULL;
    if (t.ndim > CKPT_DIMS_MAX)
        cursor_fail(c);
    for (uint32_t i = 0; cursor_ok(c) && i < t.ndim; i++)
        t.shape[i] = cursor_u64(c);
    for (uint32_t i = 0; cursor_ok(c) && t.kind == DECL_BLOCKED && i < t.ndim; i++)
        t.block[i] = cursor_u32(c);
    if (!cursor_ok(c))
        return err_set(err, CKPT_CORRUPT, "a tensor's description is cut short or malformed");
    enum ckpt_status st = desc_check(&t, err);
    if (st == CKPT_OK)
        *ret = t;
    return st;
}

void desc_encode_box(const struct box *box, struct buf *out)
{
    for (uint32_t i = 0; i < box->ndim; i++)
        buf_u64(out, box->off[i]);
    for (uint32_t i = 0; i < box->ndim; i++)
        buf_u64(out, box->len[i]);
}

void desc_decode_box(struct cursor *c, uint32_t ndim, struct box *ret)
{
    *ret = (struct box){ .ndim = ndim };
    for (uint32_t i = 0; i < ndim; i++)
        ret->off[i] = cursor_u64(c);
    for (uint32_t i = 0; i < ndim; i++)
        ret->len[i] = cursor_u64(c);
}

uint32_t desc_block_of(const void *of, uint32_t count,
                       const char *(*first)(const void *of, uint32_t i), const char *name)
{
    uint32_t low = 0, high = count; /* blocks before low begin at or before name */
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        if (strcmp(first(of, mid), name) <= 0)
            low = mid + 1;
        else
            high = mid;
    }
    return low ? low - 1 : UINT32_MAX;
}
