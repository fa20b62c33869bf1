/* Flat ranges: a part of a rank's local array, by elements of its memory.
 *
 * A range of a dense box is a head, whole rows and a tail, where head and tail are
 * ranges of one row, hence at most 2 * ndim - 1 pieces:
 *
 *      . . . . # # #     head
 *      # # # # # # #     rows
 *      # # # # # # #
 *      # # . . . . .     tail
 *
 * Rows may lie further apart than they are long (padding, or other pieces between
 * them): then a range may also begin or end between two rows. */
#include <inttypes.h>

#include "formats/layout.h"

#define FLAT_BITS_MAX (UINT64_C(1) << 62)

static bool on_byte(uint64_t elements, unsigned bits)
{
    return elements % 8 * bits % 8 == 0;
}

/* Cutting one piece.  Positions are elements from the start of the local array. */
struct flat_cut {
    const struct layout_piece *from;
    uint64_t span[CKPT_DIMS_MAX + 1]; /* of one step's worth of the dimensions from d on */
    struct box box;                   /* dimensions before the current one are fixed */
    uint64_t start;                   /* of the range */
    unsigned bits;
    bool inside_byte; /* a border fell inside a byte */
    struct layout_out *out;
};

/* Emits [from, to) of dimension d, whole in the dimensions after it; its first element
 * lies at `at`. */
static void flat_emit(struct flat_cut *c, uint32_t d, uint64_t from, uint64_t to, uint64_t at)
{
    struct layout_piece piece = *c->from;
    uint32_t ndim = piece.box.ndim;
    for (uint32_t k = 0; k < ndim; k++) {
        bool fixed = k < d;
        piece.box.off[k] = fixed ? c->box.off[k] : c->from->box.off[k] + (k == d ? from : 0);
        piece.box.len[k] = fixed ? 1 : k == d ? to - from : c->from->box.len[k];
    }
    uint64_t place = at - c->start;
    c->inside_byte |= !on_byte(place, c->bits) || !on_byte(box_volume(&piece.box), c->bits);
    if (ndim > 0)
        c->inside_byte |= !on_byte(piece.box.off[ndim - 1], c->bits) ||
                          !on_byte(piece.box.len[ndim - 1], c->bits);
    piece.offset_bytes = place * c->bits / 8;
    if (c->out->count < c->out->cap)
        c->out->piece[c->out->count] = piece;
    c->out->count++;
}

/* What of dimension d and after, whose memory begins at `base`, lies in [from, to).  At
 * most one level per dimension: in the last one a step is one element. */
static void flat_range(struct flat_cut *c, uint32_t d, uint64_t base, uint64_t from, uint64_t to)
{
    uint64_t step = (uint64_t)c->from->stride[d], span = c->span[d + 1];
    uint64_t lo = from > base ? from - base : 0, hi = to > base ? to - base : 0;
    uint64_t first = lo < span ? 0 : (lo - span) / step + 1;
    uint64_t end = min_u64(div_up(hi, step), c->from->box.len[d]);
    if (first >= end)
        return;
    bool head = first * step < lo || (first + 1 == end && first * step + span > hi);
    if (head) {
        c->box.off[d] = c->from->box.off[d] + first;
        flat_range(c, d + 1, base + first * step, from, to);
        first++;
    }
    bool tail = first < end && (end - 1) * step + span > hi;
    uint64_t last = tail ? end - 1 : end;
    if (first < last)
        flat_emit(c, d, first, last, base + first * step);
    if (tail) {
        c->box.off[d] = c->from->box.off[d] + last;
        flat_range(c, d + 1, base + last * step, from, to);
    }
}

/* Row-major, perhaps with gaps: each step of a dimension is at least as long as what the
 * dimensions after it span.  Sets the spans. */
static enum ckpt_status check_rows(struct flat_cut *c, size_t number, struct ckpt_err *err)
{
    const struct layout_piece *p = c->from;
    uint64_t span = 1;
    c->span[p->box.ndim] = 1;
    for (uint32_t d = p->box.ndim; d-- > 0;) {
        uint64_t more;
        if (p->stride[d] < 0 || (uint64_t)p->stride[d] < span)
            return err_set(err, CKPT_INVALID,
                           "piece %zu: stride %" PRId64 " of dimension %u is less than the %" PRIu64
                           " elements of one step: a flat range wants row-major memory",
                           number, p->stride[d], d, span);
        if (__builtin_mul_overflow(p->box.len[d] - 1, (uint64_t)p->stride[d], &more) ||
            __builtin_add_overflow(span, more, &span) || span > FLAT_BITS_MAX)
            return err_set(err, CKPT_LIMIT, "piece %zu spans more than 2^62 bits", number);
        c->span[d] = span;
    }
    return CKPT_OK;
}

static enum ckpt_status check_piece(const struct layout_piece *p, size_t number, unsigned bits,
                                    struct ckpt_err *err)
{
    uint64_t bytes;
    if (p->box.ndim > CKPT_DIMS_MAX)
        return err_set(err, CKPT_LIMIT, "box %zu: %u dimensions, at most %d", number, p->box.ndim,
                       CKPT_DIMS_MAX);
    if (!shape_bytes(p->box.ndim, p->box.len, bits, &bytes))
        return err_set(err, CKPT_LIMIT, "box %zu holds more than 2^62 bits", number);
    if (p->offset_bytes >= FLAT_BITS_MAX / 8 || p->offset_bytes * 8 % bits != 0)
        return err_set(err, CKPT_INVALID, "piece %zu begins at byte %" PRIu64 ": no element does",
                       number, p->offset_bytes);
    return CKPT_OK;
}

static enum ckpt_status cut_piece(struct flat_cut *c, size_t number, uint64_t count,
                                  struct ckpt_err *err)
{
    const struct layout_piece *p = c->from;
    enum ckpt_status st = check_piece(p, number, c->bits, err);
    if (st != CKPT_OK || box_volume(&p->box) == 0)
        return st;
    uint64_t base = p->offset_bytes * 8 / c->bits, end = c->start + count;
    st = check_rows(c, number, err);
    if (st != CKPT_OK)
        return st;
    if (c->span[0] > FLAT_BITS_MAX / c->bits - base)
        return err_set(err, CKPT_LIMIT, "piece %zu spans more than 2^62 bits", number);
    c->box = (struct box){ .ndim = p->box.ndim };
    if (p->box.ndim > 0)
        flat_range(c, 0, base, c->start, end);
    else if (base >= c->start && base < end)
        flat_emit(c, 0, 0, 0, base);
    return CKPT_OK;
}

static enum ckpt_status check_range(unsigned bits, uint64_t start, uint64_t count,
                                    struct ckpt_err *err)
{
    uint64_t end;
    if (bits == 0 || bits > 128)
        return err_set(err, CKPT_INVALID, "elements of %u bits", bits);
    if (__builtin_add_overflow(start, count, &end))
        return err_set(err, CKPT_INVALID,
                       "flat range [%" PRIu64 ":+%" PRIu64 "] ends behind 2^64 elements", start,
                       count);
    return CKPT_OK;
}

enum ckpt_status layout_cut(const struct layout_piece *local, size_t n, unsigned bits,
                            uint64_t start, uint64_t count, struct layout_out *out,
                            struct ckpt_err *err)
{
    enum ckpt_status st = check_range(bits, start, count, err);
    struct flat_cut c = { .start = start, .bits = bits, .out = out };
    if (st != CKPT_OK)
        return st;
    out->count = 0;
    for (size_t i = 0; i < n; i++) {
        c.from = &local[i];
        st = cut_piece(&c, i, count, err);
        if (st != CKPT_OK)
            return st;
    }
    if (c.inside_byte)
        return err_set(err, CKPT_INVALID,
                       "flat range [%" PRIu64 ":+%" PRIu64 "] of %u-bit elements cuts a byte",
                       start, count, bits);
    if (out->count > out->cap)
        return err_set(err, CKPT_LIMIT, "a layout of %zu pieces, room for %zu", out->count,
                       out->cap);
    return CKPT_OK;
}

enum ckpt_status layout_pile(struct layout_piece *pieces, size_t n, unsigned bits,
                             uint64_t *ret_elements, struct ckpt_err *err)
{
    uint64_t total = 0;
    if (bits == 0 || bits > 128)
        return err_set(err, CKPT_INVALID, "elements of %u bits", bits);
    for (size_t i = 0; i < n; i++) {
        struct layout_piece *p = &pieces[i];
        p->offset_bytes = 0;
        enum ckpt_status st = check_piece(p, i, bits, err);
        if (st != CKPT_OK)
            return st;
        if (!on_byte(total, bits))
            return err_set(err, CKPT_INVALID, "box %zu of %u-bit elements begins inside a byte", i,
                           bits);
        dense_strides(p->box.ndim, p->box.len, 1, p->stride);
        p->offset_bytes = total * bits / 8;
        total += box_volume(&p->box);
        if (total > FLAT_BITS_MAX / bits)
            return err_set(err, CKPT_LIMIT, "the shard holds more than 2^62 bits");
    }
    *ret_elements = total;
    return CKPT_OK;
}

enum ckpt_status layout_flat(const struct box *boxes, size_t n, unsigned bits, uint64_t start,
                             uint64_t count, struct layout_out *out, struct ckpt_err *err)
{
    CLEANUP_FREE struct layout_piece *pieces = calloc(n + 1, sizeof(*pieces));
    uint64_t total = 0;
    if (!pieces)
        return err_set(err, CKPT_NO_MEMORY, "a flat range over %zu boxes", n);
    for (size_t i = 0; i < n; i++)
        pieces[i] = (struct layout_piece){ .box = boxes[i], .replica_count = 1 };
    enum ckpt_status st = layout_pile(pieces, n, bits, &total, err);
    if (st == CKPT_OK && (start > total || count > total - start))
        return err_set(err, CKPT_INVALID,
                       "flat range [%" PRIu64 ":+%" PRIu64 "] of a shard of %" PRIu64 " elements",
                       start, count, total);
    return st == CKPT_OK ? layout_cut(pieces, n, bits, start, count, out, err) : st;
}
