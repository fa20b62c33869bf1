/* Meshes, and shares among replicas.
 *
 * A mesh works on each dimension alone: what a rank holds along a dimension is an
 * ordered list of segments (one, unless strided or in sections), and its pieces are the
 * product of the lists.  Padding is cut off at the end: what is left of a segment lies
 * where it lay, so the local array keeps its room. */
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
/* Which of how many parts is kept. */
struct part {
    uint32_t parts, coord;
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

/* Keeps chunk `coord` of `parts` of [start, start + len).  Chunks are as torch.chunk makes
 * them: of ceil(length / parts), the last ones short or empty. */
static enum ckpt_status keep_chunk(struct segments *kept, struct segment_cursor *cursor,
                                   const struct part *part, uint64_t start, uint64_t len,
                                   struct ckpt_err *err)
{
    uint64_t each = div_up(len, part->parts);
    uint64_t from = min_u64(each * part->coord, len);
    uint64_t to = min_u64(from + each, len);
    return segments_add_part(kept, cursor, start + from, start + to, err);
}

/* Chunks the dimension into its sections, else into split_factor chunks, and of each of
 * those keeps one chunk. */
static enum ckpt_status segments_shard(struct segments *s, const struct layout_placement *p,
                                       const struct part *part, struct ckpt_err *err)
{
    struct segments kept = { 0 };
    struct segment_cursor cursor = { .of = s };
    uint32_t factor = p->kind == LAYOUT_SHARD_STRIDED ? p->split_factor : 1;
    uint64_t outer = div_up(s->total, factor), start = 0, len;
    enum ckpt_status st = CKPT_OK;
    for (uint32_t i = 0; start < s->total && st == CKPT_OK; i++, start += len) {
        len = p->section_count ? p->section[i] : min_u64(outer, s->total - start);
        st = keep_chunk(&kept, &cursor, part, start, len, err);
    }
    struct segments *drop = st == CKPT_OK ? s : &kept;
    free(drop->at);
    if (st == CKPT_OK)
        *s = kept;
    return st;
}

/* Drops what lies at or beyond `end`; the local dimension keeps its length. */
static void segments_clip(struct segments *s, uint64_t end)
{
    size_t count = 0;
    for (size_t i = 0; i < s->count; i++) {
        struct segment seg = s->at[i];
        if (seg.off >= end)
            continue;
        seg.len = min_u64(seg.len, end - seg.off);
        s->at[count++] = seg;
    }
    s->count = count;
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
    if (p->section_count && (!p->section || p->kind != LAYOUT_SHARD))
        return err_set(err, CKPT_INVALID, "mesh axis %u: sections belong to a plain shard", axis);
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
    if (!shape_bytes(ndim, mesh->padded ? mesh->padded : shape, bits, &bytes))
        return err_set(err, CKPT_LIMIT, "the shape holds more than 2^62 bits");
    for (uint32_t d = 0; mesh->padded && d < ndim; d++) {
        if (mesh->padded[d] < shape[d])
            return err_set(err, CKPT_INVALID,
                           "dimension %u: %" PRIu64 " padded is less than %" PRIu64, d,
                           mesh->padded[d], shape[d]);
    }
    for (uint32_t axis = 0; axis < mesh->ndim; axis++) {
        enum ckpt_status st = check_placement(mesh, axis, ndim, err);
        if (st != CKPT_OK)
            return st;
        if (__builtin_mul_overflow(ranks, mesh->size[axis], &ranks) || ranks > CKPT_RANKS_MAX)
            return err_set(err, CKPT_LIMIT, "a mesh of more than %u ranks", CKPT_RANKS_MAX);
    }
    return CKPT_OK;
}

/* Sections add up to what the axes before left of the dimension. */
static enum ckpt_status check_sections(const struct layout_placement *p, uint32_t axis,
                                       uint64_t total, struct ckpt_err *err)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < p->section_count; i++) {
        if (__builtin_add_overflow(sum, p->section[i], &sum))
            sum = UINT64_MAX;
    }
    if (p->section_count && sum != total)
        return err_set(err, CKPT_INVALID,
                       "mesh axis %u: the sections add up to %" PRIu64 ", dimension %u has %" PRIu64
                       " here",
                       axis, sum, p->dim, total);
    return CKPT_OK;
}

static enum ckpt_status shard_all(const struct layout_mesh *mesh, uint32_t ndim,
                                  const uint64_t *shape, struct segments *dim, struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_OK;
    for (uint32_t d = 0; d < ndim && st == CKPT_OK; d++) {
        uint64_t len = mesh->padded ? mesh->padded[d] : shape[d];
        if (len > 0)
            st = segments_add(&dim[d], 0, len, err);
    }
    for (uint32_t axis = 0; axis < mesh->ndim && st == CKPT_OK; axis++) {
        const struct layout_placement *p = &mesh->placement[axis];
        if (p->kind == LAYOUT_REPLICATE)
            continue;
        const struct part part = { mesh->size[axis], mesh->coord[axis] };
        st = check_sections(p, axis, dim[p->dim].total, err);
        if (st == CKPT_OK)
            st = segments_shard(&dim[p->dim], p, &part, err);
    }
    for (uint32_t d = 0; mesh->padded && d < ndim; d++)
        segments_clip(&dim[d], shape[d]);
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
        return err_set(err, CKPT_LIMIT, "a layout of %zu pieces, room for %zu", count, out->cap);
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
