/* A declaration as bytes (FORMAT.md, "Declaration bytes"), and its signature. */
#include <assert.h>

#include "formats/decl.h"
#include "formats/desc.h"

static const char magic[8] = "CKPTDECL";

static void encode_tensor(const struct decl *d, const struct decl_tensor *t, struct buf *out)
{
    struct desc desc = { .name = t->name, .alias = t->alias };
    DESC_COPY(&desc, t);
    desc_encode(&desc, out);
    buf_u32(out, (uint32_t)t->piece_count);
    for (size_t k = 0; k < t->piece_count; k++) {
        const struct decl_piece *p = &d->pieces[t->first_piece + k];
        desc_encode_box(&p->box, out);
        buf_u32(out, p->replica);
        buf_u32(out, p->replica_count);
    }
}

void decl_encode(const struct decl *d, struct buf *out)
{
    size_t start = out->len;
    buf_bytes(out, magic, sizeof(magic));
    buf_u16(out, DECL_VERSION);
    buf_zero(out, 2);
    buf_u32(out, (uint32_t)d->tensor_count);
    for (size_t i = 0; i < d->tensor_count; i++)
        encode_tensor(d, &d->tensors[i], out);
    if (out->failed)
        return;
    struct digest sum = digest_of(out->data + start, out->len - start);
    buf_bytes(out, sum.b, sizeof(sum.b));
}

static enum ckpt_status short_bytes(struct ckpt_err *err)
{
    return err_set(err, CKPT_CORRUPT, "declaration: cut short or malformed");
}

static enum ckpt_status decode_piece(struct cursor *c, struct decl *d, uint32_t ndim,
                                     struct ckpt_err *err)
{
    struct decl_piece p = { 0 };
    desc_decode_box(c, ndim, &p.box);
    /* This side has no memory of the piece: it counts as dense. */
    int64_t stride = 1;
    for (uint32_t i = ndim; i-- > 0;) {
        p.stride[i] = stride;
        stride = (int64_t)((uint64_t)stride * p.box.len[i]);
    }
    p.replica = cursor_u32(c);
    p.replica_count = cursor_u32(c);
    if (!cursor_ok(c))
        return short_bytes(err);
    return decl_add_piece(d, &p, err);
}

static enum ckpt_status decode_tensor(struct cursor *c, struct decl *d, struct ckpt_err *err)
{
    struct desc desc;
    enum ckpt_status st = desc_decode(c, &desc, err);
    if (st != CKPT_OK)
        return st;
    uint32_t pieces = cursor_u32(c);
    if (!cursor_ok(c))
        return short_bytes(err);
    st = decl_add_desc(d, &desc, err);
    for (uint32_t i = 0; st == CKPT_OK && i < pieces; i++)
        st = decode_piece(c, d, desc.ndim, err);
    return st;
}

static enum ckpt_status decode_body(struct cursor *c, struct decl *d, struct ckpt_err *err)
{
    const uint8_t *m = cursor_bytes(c, sizeof(magic));
    if (!m || memcmp(m, magic, sizeof(magic)) != 0)
        return err_set(err, CKPT_CORRUPT, "declaration: not one");
    uint16_t version = cursor_u16(c);
    if (cursor_ok(c) && version != DECL_VERSION)
        return err_set(err, CKPT_UNSUPPORTED, "declaration: version %u, this side speaks %d",
                       version, DECL_VERSION);
    cursor_zero(c, 2);
    uint32_t tensors = cursor_u32(c);
    if (!cursor_ok(c))
        return short_bytes(err);
    for (uint32_t i = 0; i < tensors; i++) {
        enum ckpt_status st = decode_tensor(c, d, err);
        if (st != CKPT_OK)
            return st;
    }
    return cursor_done(c) ? CKPT_OK : short_bytes(err);
}

enum ckpt_status decl_decode(const void *bytes, size_t len, uint64_t slot_bytes, struct decl *ret,
                             struct ckpt_err *err)
{
    struct decl d = { 0 };
    if (len < sizeof(struct digest))
        return short_bytes(err);
    size_t body = len - sizeof(struct digest);
    struct digest sum = digest_of(bytes, body);
    if (memcmp(sum.b, (const uint8_t *)bytes + body, sizeof(sum.b)) != 0)
        return err_set(err, CKPT_CORRUPT, "declaration: its digest does not match");
    struct cursor c = cursor_over(bytes, body);
    enum ckpt_status st = decode_body(&c, &d, err);
    if (st == CKPT_OK)
        st = decl_finish(&d, slot_bytes, err);
    if (st == CKPT_OK)
        *ret = d;
    else
        decl_fini(&d);
    return st;
}

/* --- signature ---------------------------------------------------------------- */

static size_t put(uint8_t *to, size_t at, const void *from, size_t n)
{
    memcpy(to + at, from, n);
    return at + n;
}

static size_t put_number(uint8_t *to, size_t at, uint64_t v)
{
    for (unsigned i = 0; i < 8; i++)
        to[at + i] = (uint8_t)(v >> (8 * i));
    return at + 8;
}

/* digest' = H(digest | what ranks must agree on), so no memory is needed. */
static struct digest sign_tensor(const struct digest *before, const struct decl_tensor *t)
{
    uint8_t bytes[sizeof(struct digest) + 2 * (CKPT_TENSOR_NAME_MAX + 1) + 32 + 16 * CKPT_DIMS_MAX];
    const char *alias = t->alias ? t->alias : "";
    size_t n = put(bytes, 0, before->b, sizeof(before->b));
    n = put(bytes, n, t->name, strlen(t->name) + 1);
    n = put(bytes, n, alias, strlen(alias) + 1);
    n = put_number(bytes, n, t->dtype);
    n = put_number(bytes, n, t->kind);
    n = put_number(bytes, n, t->flags & DECL_OBJECT);
    n = put_number(bytes, n, t->ndim);
    for (uint32_t i = 0; i < t->ndim; i++) {
        n = put_number(bytes, n, t->shape[i]);
        n = put_number(bytes, n, t->block[i] ? t->block[i] : 1);
    }
    return digest_of(bytes, n);
}

struct digest decl_signature(const struct decl *d)
{
    assert(d->finished);
    struct digest sum = { 0 };
    for (size_t i = 0; i < d->tensor_count; i++)
        sum = sign_tensor(&sum, &d->tensors[d->by_name[i]]);
    return sum;
}
