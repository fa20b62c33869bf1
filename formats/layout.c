/* Layouts as people name them, cut into boxes.
 *
 * A mesh works on each dimension alone: what a rank holds along a dimension is an
 * ordered list of segments (one, unless strided), and its pieces are the product of
 * the lists.
 *
 * A flat range of a box is a head, whole rows and a tail, where head and tail are
 * flat ranges of one row, hence at most 2 * ndim - 1 pieces:
 *
 *      . . . . # # #     head
 *      # # # # # # #     rows
 *      # # # # # # #
 *      # # . . . . .     tail
 */
#include "formats/layout.h"

#include <assert.h>
#include <inttypes.h>

/* Segments along one dimension; more is no layout but an attack. */
#define LAYOUT_SEGMENTS_MAX (UINT32_C(1) << 20)
/* Boxes below this are not worth splitting among replicas (G4). */
#define LAYOUT_SHARE_BYTES_MIN (8 * MIB)

struct segment {
    uint64_t off, len; /* in the tensor's dimension */
    uint64_t local;    /* where it lies in the local dimension */
};
struct segments {
    struct segment *at;
    size_t count, cap;
    uint64_t total;
};
/* A place in a list of segments that only moves forward. */
struct segment_cursor {
    const struct segments *of;
    size_t i;
};

static bool on_byte(uint64_t elements, unsigned bits)
{
    return elements % 8 * bits % 8 == 0;
}

/* Segments that continue each other become one. */
static enum ckpt_status segments_add(struct segments *s, uint64_t off, uint64_t len,
                                     struct ckpt_err *err)
{
    struct segment *last = s->count ? &s->at[s->count - 1] : NULL;
    if (last && last->off + last->len == off) {
        last->len += len;
        s->total += len;
        return CKPT_OK;
    }
    if (s->count == LAYOUT_SEGMENTS_MAX)
        return err_set(err, CKPT_LIMIT, "a dimension in more than %u segments",
                       LAYOUT_SEGMENTS_MAX);
    if (s->count == s->cap) {
        size_t cap = s->cap ? 2 * s->cap : 4;
        struct segment *at = realloc(s->at, cap * sizeof(*at));
        if (!at)
            return err_set(err, CKPT_NO_MEMORY, "segments of a layout");
        s->at = at;
        s->cap = cap;
    }
    s->at[s->count++] = (struct segment){ .off = off, .len = len, .local = s->total };
    s->total += len;
    return CKPT_OK;
}

/* Adds the part [from, to) of the cursor's local dimension to `s`. */
static enum ckpt_status segments_add_part(struct segments *s, struct segment_cursor *cursor,
                                          uint64_t from, uint64_t to, struct ckpt_err *err)
{
    while (from < to) {
        const struct segment *seg = &cursor->of->at[cursor->i];
        uint64_t end = seg->local + seg->len;
        if (from >= end) {
            cursor->i++;
            continue;
        }
        uint64_t len = min_u64(end, to) - from;
        enum ckpt_status st = segments_add(s, seg->off + (from - seg->local), len, err);
        if (st != CKPT_OK)
            return st;
        from += len;
    }
    return CKPT_OK;
}

/* Chunks the dimension into `factor` and each of those into `parts`, and keeps
 * chunk `coord` of each.  Chunks are as torch.chunk makes them: of
 * ceil(length / parts), the last ones short or empty. */
static enum ckpt_status segments_shard(struct segments *s, uint32_t factor, uint32_t parts,
                                       uint32_t coord, struct ckpt_err *err)
{
    struct segments kept = { 0 };
    struct segment_cursor cursor = { .of = s };
    uint64_t outer = div_up(s->total, factor);
    enum ckpt_status st = CKPT_OK;
    for (uint64_t start = 0; start < s->total && st == CKPT_OK; start += outer) {
        uint64_t len = min_u64(outer, s->total - start);
        uint64_t inner = div_up(len, parts);
        uint64_t from = min_u64(inner * coord, len);
        uint64_t to = min_u64(from + inner, len);
        st = segments_add_part(&kept, &cursor, start + from, start + to, err);
    }
    struct segments *drop = st == CKPT_OK ? s : &kept;
    free(drop->at);
    if (st == CKPT_OK)
        *s = kept;
    return st;
}

static enum ckpt_status check_placement(const struct layout_mesh *mesh, uint32_t axis,
                                        uint32_t ndim, struct ckpt_err *err)
{
    const struct layout_placement *p = &mesh->placement[axis];
    if (mesh->size[axis] == 0 || mesh->coord[axis] >= mesh->size[axis])
        return err_set(err, CKPT_INVALID, "mesh axis %u: coordinate %u of %u", axis,
                       mesh->coord[axis], mesh->size[axis]);
    if (p->kind == LAYOUT_REPLICATE)
        return CKPT_OK;
    if (p->kind != LAYOUT_SHARD && p->kind != LAYOUT_SHARD_STRIDED)
        return err_set(err, CKPT_INVALID, "mesh axis %u: unknown placement %u", axis,
                       (unsigned)p->kind);
    if (p->dim >= ndim)
        return err_set(err, CKPT_INVALID, "mesh axis %u shards dimension %u of %u", axis, p->dim,
                       ndim);
    if (p->kind == LAYOUT_SHARD_STRIDED &&
        (p->split_factor == 0 || p->split_factor > CKPT_RANKS_MAX))
        return err_set(err, CKPT_INVALID, "mesh axis %u: split factor %u", axis, p->split_factor);
    return CKPT_OK;
}

static enum ckpt_status check_mesh(const struct layout_mesh *mesh, uint32_t ndim,
                                   const uint64_t *shape, unsigned bits, struct ckpt_err *err)
{
    uint64_t bytes, ranks = 1;
    if (ndim > CKPT_DIMS_MAX || mesh->ndim > CKPT_DIMS_MAX)
        return err_set(err, CKPT_LIMIT, "%u dimensions on a mesh of %u axes, at most %d each", ndim,
                       mesh->ndim, CKPT_DIMS_MAX);
    if (bits == 0 || bits > 128)
        return err_set(err, CKPT_INVALID, "elements of %u bits", bits);
    if (!shape_bytes(ndim, shape, bits, &bytes))
        return err_set(err, CKPT_LIMIT, "the shape holds more than 2^62 bits");
    for (uint32_t axis = 0; axis < mesh->ndim; axis++) {
        enum ckpt_status st = check_placement(mesh, axis, ndim, err);
        if (st != CKPT_OK)
            return st;
        if (__builtin_mul_overflow(ranks, mesh->size[axis], &ranks) || ranks > CKPT_RANKS_MAX)
            return err_set(err, CKPT_LIMIT, "a mesh of more than %u ranks", CKPT_RANKS_MAX);
    }
    return CKPT_OK;
}

static enum ckpt_status shard_all(const struct layout_mesh *mesh, uint32_t ndim,
                                  const uint64_t *shape, struct segments *dim, struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_OK;
    for (uint32_t d = 0; d < ndim && st == CKPT_OK; d++) {
        if (shape[d] > 0)
            st = segments_add(&dim[d], 0, shape[d], err);
    }
    for (uint32_t axis = 0; axis < mesh->ndim && st == CKPT_OK; axis++) {
        const struct layout_placement *p = &mesh->placement[axis];
        if (p->kind == LAYOUT_REPLICATE)
            continue;
        uint32_t factor = p->kind == LAYOUT_SHARD_STRIDED ? p->split_factor : 1;
        st = segments_shard(&dim[p->dim], factor, mesh->size[axis], mesh->coord[axis], err);
    }
    return st;
}

/* The number of pieces; SIZE_MAX if that many do not exist in memory. */
static size_t product_count(uint32_t ndim, const struct segments *dim)
{
    size_t count = 1;
    bool huge = false;
    for (uint32_t d = 0; d < ndim; d++) {
        if (dim[d].count == 0)
            return 0;
        huge |= __builtin_mul_overflow(count, dim[d].count, &count);
    }
    return huge ? SIZE_MAX : count;
}

static enum ckpt_status check_last(uint32_t ndim, const struct segments *dim, unsigned bits,
                                   struct ckpt_err *err)
{
    if (ndim == 0 && bits % 8 != 0)
        return err_set(err, CKPT_INVALID, "a scalar of %u bits does not fill a byte", bits);
    for (size_t i = 0; ndim > 0 && i < dim[ndim - 1].count; i++) {
        const struct segment *seg = &dim[ndim - 1].at[i];
        if (!on_byte(seg->off, bits) || !on_byte(seg->len, bits))
            return err_set(err, CKPT_INVALID,
                           "dimension %u: a shard [%" PRIu64 ":%" PRIu64
                           "] of %u-bit elements does not start and end on a byte",
                           ndim - 1, seg->off, seg->off + seg->len, bits);
    }
    return CKPT_OK;
}

/* The product of the lists in local order.  `like` carries what all share. */
static void write_product(uint32_t ndim, const struct segments *dim, unsigned bits,
                          const struct layout_piece *like, struct layout_out *out)
{
    size_t at[CKPT_DIMS_MAX] = { 0 };
    for (size_t n = 0; n < out->count; n++) {
        struct layout_piece piece = *like;
        uint64_t elements = 0;
        for (uint32_t d = 0; d < ndim; d++) {
            const struct segment *seg = &dim[d].at[at[d]];
            piece.box.off[d] = seg->off;
            piece.box.len[d] = seg->len;
            elements += seg->local * (uint64_t)like->stride[d];
        }
        piece.offset_bytes = elements * bits / 8;
        out->piece[n] = piece;
        for (uint32_t d = ndim; d-- > 0;) {
            if (++at[d] < dim[d].count)
                break;
            at[d] = 0;
        }
    }
}

static enum ckpt_status limit_error(const struct layout_out *out, struct ckpt_err *err)
{
    return err_set(err, CKPT_LIMIT, "a layout of %zu pieces, room for %zu", out->count, out->cap);
}

static enum ckpt_status mesh_pieces(const struct layout_mesh *mesh, uint32_t ndim,
                                    const struct segments *dim, unsigned bits,
                                    struct layout_out *out, uint64_t *local_shape,
                                    struct ckpt_err *err)
{
    struct layout_piece like = { .box.ndim = ndim, .replica_count = 1 };
    size_t count = product_count(ndim, dim);
    enum ckpt_status st = count > 0 ? check_last(ndim, dim, bits, err) : CKPT_OK;
    if (st != CKPT_OK)
        return st;
    out->count = count;
    if (count > out->cap)
        return limit_error(out, err);
    for (uint32_t axis = 0; axis < mesh->ndim; axis++) {
        if (mesh->placement[axis].kind != LAYOUT_REPLICATE)
            continue;
        like.replica = like.replica * mesh->size[axis] + mesh->coord[axis];
        like.replica_count *= mesh->size[axis];
    }
    for (uint32_t d = 0; d < ndim; d++)
        local_shape[d] = dim[d].total;
    dense_strides(ndim, local_shape, 1, like.stride);
    write_product(ndim, dim, bits, &like, out);
    return CKPT_OK;
}

enum ckpt_status layout_mesh(const struct layout_mesh *mesh, uint32_t ndim, const uint64_t *shape,
                             unsigned bits, struct layout_out *out, uint64_t *ret_local_shape,
                             struct ckpt_err *err)
{
    struct segments dim[CKPT_DIMS_MAX] = { 0 };
    enum ckpt_status st = check_mesh(mesh, ndim, shape, bits, err);
    if (st != CKPT_OK)
        return st;
    st = shard_all(mesh, ndim, shape, dim, err);
    if (st == CKPT_OK)
        st = mesh_pieces(mesh, ndim, dim, bits, out, ret_local_shape, err);
    for (uint32_t d = 0; d < ndim; d++)
        free(dim[d].at);
    return st;
}

/* Cutting one range: pieces leave in flat order, so what has left so far is the
 * place of the next in the flat buffer. */
struct flat_cut {
    const struct box *box;
    struct box piece; /* dimensions before the current one are fixed */
    uint64_t done;    /* elements */
    unsigned bits;
    bool inside_byte; /* a border fell inside a byte */
    struct layout_out *out;
};

/* Emits rows [from, to) of dimension d, whole in the dimensions after it. */
static void flat_emit(struct flat_cut *c, uint32_t d, uint64_t from, uint64_t to)
{
    struct layout_piece piece = { .box = c->piece, .replica_count = 1 };
    uint32_t ndim = c->box->ndim;
    for (uint32_t k = d; k < ndim; k++) {
        piece.box.off[k] = c->box->off[k] + (k == d ? from : 0);
        piece.box.len[k] = k == d ? to - from : c->box->len[k];
    }
    c->inside_byte |= !on_byte(box_volume(&piece.box), c->bits);
    if (ndim > 0)
        c->inside_byte |= !on_byte(piece.box.off[ndim - 1], c->bits) ||
                          !on_byte(piece.box.len[ndim - 1], c->bits);
    dense_strides(ndim, piece.box.len, 1, piece.stride);
    piece.offset_bytes = c->done * c->bits / 8;
    c->done += box_volume(&piece.box);
    if (c->out->count < c->out->cap)
        c->out->piece[c->out->count] = piece;
    c->out->count++;
}

/* The flat range [from, to) of the box's dimensions d and after.  At most one
 * level per dimension: in the last one every range is whole rows. */
static void flat_range(struct flat_cut *c, uint32_t d, uint64_t from, uint64_t to)
{
    uint64_t row = 1;
    for (uint32_t k = d + 1; k < c->box->ndim; k++)
        row *= c->box->len[k];
    uint64_t first = from / row, last = to / row;
    uint64_t head = from % row, tail = to % row;
    bool one_row = head > 0 && first == last;
    c->piece.len[d] = 1;
    if (head > 0) {
        c->piece.off[d] = c->box->off[d] + first++;
        flat_range(c, d + 1, head, one_row ? tail : row);
    }
    if (first < last)
        flat_emit(c, d, first, last);
    if (tail > 0 && !one_row) {
        c->piece.off[d] = c->box->off[d] + last;
        c->piece.len[d] = 1;
        flat_range(c, d + 1, 0, tail);
    }
}

static enum ckpt_status check_flat(const struct box *boxes, size_t n, unsigned bits,
                                   uint64_t *ret_total, struct ckpt_err *err)
{
    uint64_t total = 0, bytes;
    if (bits == 0 || bits > 128)
        return err_set(err, CKPT_INVALID, "elements of %u bits", bits);
    for (size_t i = 0; i < n; i++) {
        const struct box *box = &boxes[i];
        if (box->ndim > CKPT_DIMS_MAX)
            return err_set(err, CKPT_LIMIT, "box %zu: %u dimensions, at most %d", i, box->ndim,
                           CKPT_DIMS_MAX);
        if (!shape_bytes(box->ndim, box->len, bits, &bytes))
            return err_set(err, CKPT_LIMIT, "box %zu holds more than 2^62 bits", i);
        for (uint32_t d = 0; d < box->ndim; d++) {
            if (box->ndim != boxes[0].ndim || (d > 0 && box->len[d] != boxes[0].len[d]))
                return err_set(err, CKPT_INVALID,
                               "box %zu does not continue box 0 along dimension 0", i);
        }
        total += box_volume(box);
        if (total >= UINT64_C(1) << 62)
            return err_set(err, CKPT_LIMIT, "the shard holds more than 2^62 elements");
    }
    *ret_total = total;
    return CKPT_OK;
}

enum ckpt_status layout_flat(const struct box *boxes, size_t n, unsigned bits, uint64_t start,
                             uint64_t count, struct layout_out *out, struct ckpt_err *err)
{
    uint64_t total = 0, base = 0;
    enum ckpt_status st = check_flat(boxes, n, bits, &total, err);
    if (st != CKPT_OK)
        return st;
    if (start > total || count > total - start)
        return err_set(err, CKPT_INVALID,
                       "flat range [%" PRIu64 ":+%" PRIu64 "] of a shard of %" PRIu64 " elements",
                       start, count, total);
    struct flat_cut c = { .bits = bits, .out = out };
    out->count = 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t volume = box_volume(&boxes[i]);
        uint64_t from = max_u64(start, base), to = min_u64(start + count, base + volume);
        c.box = &boxes[i];
        c.piece = (struct box){ .ndim = boxes[i].ndim };
        if (from < to && boxes[i].ndim == 0)
            flat_emit(&c, 0, 0, 0);
        else if (from < to)
            flat_range(&c, 0, from - base, to - base);
        base += volume;
    }
    assert(c.done == count);
    if (c.inside_byte)
        return err_set(err, CKPT_INVALID,
                       "flat range [%" PRIu64 ":+%" PRIu64 "] of %u-bit elements cuts a byte",
                       start, count, bits);
    return out->count > out->cap ? limit_error(out, err) : CKPT_OK;
}

/* The dimension to share along, and its number of tiles. */
static uint32_t share_dim(const struct box *box, const uint64_t *tile, uint32_t count,
                          uint64_t *ret_tiles)
{
    uint32_t best = 0;
    uint64_t most = 0;
    for (uint32_t d = 0; d < box->ndim && most < count; d++) {
        uint64_t tiles = div_up(box->len[d], tile[d]);
        if (tiles > most) {
            most = tiles;
            best = d;
        }
    }
    *ret_tiles = most;
    return best;
}

bool layout_share(const struct box *box, unsigned bits, const uint64_t *tile, uint64_t hash,
                  uint32_t r, uint32_t count, struct box *ret)
{
    assert(count > 0 && r < count);
    uint64_t tiles = 1;
    uint32_t part = (uint32_t)((r + count - hash % count) % count); /* 0 = chosen by hash */
    uint32_t d = 0;
    if (box_bytes(box, bits) >= LAYOUT_SHARE_BYTES_MIN)
        d = share_dim(box, tile, count, &tiles);
    uint64_t parts = min_u64(tiles, count);
    if (part >= parts || box_volume(box) == 0)
        return false;
    *ret = *box;
    if (parts == 1)
        return true;
    uint64_t each = tiles / parts, more = tiles % parts;
    uint64_t first = each * part + min_u64(part, more);
    uint64_t end = first + each + (part < more);
    ret->off[d] += first * tile[d];
    ret->len[d] = min_u64(end * tile[d], box->len[d]) - first * tile[d];
    return true;
}
