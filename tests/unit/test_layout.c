/* Layouts (layout.c, layout_flat.c) against lists of indices: the oracle splits the list of
 * every index as torch.chunk splits a tensor, and each local element must be where it says. */
#include "formats/cover.h"
#include "formats/layout.h"
#include "formats/tile.h"

#include "check.h"

#define PIECES_MAX 512
#define LIST_MAX   64
#define LOCAL_MAX  65536

static unsigned long long seed;
static struct layout_piece pieces[PIECES_MAX];

static uint64_t below(uint64_t n)
{
    return test_rand(&seed) % n;
}

struct list {
    uint64_t at[LIST_MAX];
    uint64_t n;
};

/* Chunk `i` of `parts`, as torch.chunk makes them. */
static struct list chunk(const struct list *of, uint64_t parts, uint64_t i)
{
    struct list ret = { .n = 0 };
    uint64_t size = (of->n + parts - 1) / parts;
    for (uint64_t k = i * size; k < (i + 1) * size && k < of->n; k++)
        ret.at[ret.n++] = of->at[k];
    return ret;
}

static struct list shard(const struct list *of, const struct layout_placement *p, uint64_t parts,
                         uint64_t coord)
{
    struct list ret = { .n = 0 };
    uint64_t factor = p->kind == LAYOUT_SHARD ? 1 : p->split_factor, start = 0;
    for (uint64_t j = 0; j < (p->section_count ? p->section_count : factor); j++) {
        struct list outer = { .n = 0 };
        if (p->section_count) {
            outer.n = p->section[j];
            memcpy(outer.at, of->at + start, outer.n * sizeof(outer.at[0]));
            start += outer.n;
        } else {
            outer = chunk(of, factor, j);
        }
        struct list inner = chunk(&outer, parts, coord);
        for (uint64_t k = 0; k < inner.n; k++)
            ret.at[ret.n++] = inner.at[k];
    }
    return ret;
}

static bool next_at(uint32_t ndim, const uint64_t *len, uint64_t *at)
{
    for (uint32_t d = ndim; d-- > 0;) {
        if (++at[d] < len[d])
            return true;
        at[d] = 0;
    }
    return false;
}

/* Writes, for each element of the pieces, its global number + 1 where the piece
 * says that it lies. */
static uint64_t place(const struct layout_piece *piece, unsigned bytes, uint32_t ndim,
                      const uint64_t *shape, uint64_t *local, uint64_t local_n)
{
    uint64_t at[CKPT_DIMS_MAX] = { 0 }, n = 0;
    CHECK_EQ(piece->box.ndim, ndim);
    CHECK_EQ(piece->offset_bytes % bytes, 0);
    do {
        uint64_t global = 0, where = piece->offset_bytes / bytes;
        for (uint32_t d = 0; d < ndim; d++) {
            global = global * shape[d] + piece->box.off[d] + at[d];
            where += (uint64_t)piece->stride[d] * at[d];
        }
        CHECK(where < local_n && local[where] == 0);
        local[where] = global + 1;
        n++;
    } while (next_at(ndim, piece->box.len, at));
    return n;
}

static uint64_t place_all(const struct layout_out *out, unsigned bytes, uint32_t ndim,
                          const uint64_t *shape, uint64_t *local, uint64_t local_n)
{
    uint64_t n = 0;
    CHECK(local_n <= LOCAL_MAX);
    memset(local, 0, local_n * sizeof(*local));
    for (size_t i = 0; i < out->count; i++) {
        CHECK(i == 0 || out->piece[i].offset_bytes > out->piece[i - 1].offset_bytes);
        n += place(&out->piece[i], bytes, ndim, shape, local, local_n);
    }
    return n;
}

/* The mesh's place in each dimension, as lists of indices (padding counts on behind the
 * shape). */
static uint64_t split_lists(const struct layout_mesh *mesh, uint32_t ndim, const uint64_t *shape,
                            struct list *lists)
{
    uint64_t volume = 1;
    for (uint32_t d = 0; d < ndim; d++) {
        uint64_t len = mesh->padded ? mesh->padded[d] : shape[d];
        for (lists[d].n = 0; lists[d].n < len; lists[d].n++)
            lists[d].at[lists[d].n] = lists[d].n;
    }
    for (uint32_t a = 0; a < mesh->ndim; a++) {
        const struct layout_placement *p = &mesh->placement[a];
        if (p->kind != LAYOUT_REPLICATE)
            lists[p->dim] = shard(&lists[p->dim], p, mesh->size[a], mesh->coord[a]);
    }
    for (uint32_t d = 0; d < ndim; d++)
        volume *= lists[d].n;
    return volume;
}

/* The number + 1 of the element that lies at `at` of the local array; 0 = padding. */
static uint64_t element_at(const struct list *lists, uint32_t ndim, const uint64_t *shape,
                           const uint64_t *at)
{
    uint64_t global = 0;
    for (uint32_t d = 0; d < ndim; d++) {
        if (lists[d].at[at[d]] >= shape[d])
            return 0;
        global = global * shape[d] + lists[d].at[at[d]];
    }
    return global + 1;
}

static void check_rank(const struct layout_mesh *mesh, uint32_t ndim, const uint64_t *shape)
{
    static uint64_t local[LOCAL_MAX];
    static struct list lists[CKPT_DIMS_MAX];
    static struct layout_piece cut[PIECES_MAX];
    struct layout_out out = { .piece = pieces, .cap = PIECES_MAX };
    uint64_t local_shape[CKPT_DIMS_MAX], at[CKPT_DIMS_MAX] = { 0 }, filled = 0;
    uint64_t volume = split_lists(mesh, ndim, shape, lists);
    CHECK_OK(layout_mesh(mesh, ndim, shape, 32, &out, local_shape, NULL));
    for (uint32_t d = 0; d < ndim; d++)
        CHECK_EQ(local_shape[d], lists[d].n);
    uint64_t placed = place_all(&out, 4, ndim, shape, local, volume);
    for (uint64_t i = 0; i < volume; i++, next_at(ndim, local_shape, at)) {
        uint64_t want = element_at(lists, ndim, shape, at);
        CHECK_EQ(local[i], want);
        filled += want != 0;
    }
    CHECK_EQ(placed, filled);
    /* A flat range of that array holds exactly what the array holds there. */
    static uint64_t flat[LOCAL_MAX];
    uint64_t start = below(volume + 1), count = below(volume - start + 3);
    struct layout_out part = { .piece = cut, .cap = PIECES_MAX };
    CHECK_OK(layout_cut(pieces, out.count, 32, start, count, &part, NULL));
    CHECK(part.count <= out.count * (ndim ? 2 * ndim - 1 : 1));
    memset(flat, 0, (count + 1) * sizeof(*flat));
    for (size_t i = 0; i < part.count; i++) {
        CHECK_EQ(cut[i].replica_count, pieces[0].replica_count);
        place(&cut[i], 4, ndim, shape, flat, count);
    }
    for (uint64_t i = 0; i < count; i++)
        CHECK_EQ(flat[i], start + i < volume ? local[start + i] : 0);
}

/* All ranks of a mesh; together, replicas folded, they cover the tensor. */
static long check_mesh(struct layout_mesh *mesh, uint32_t ndim, const uint64_t *shape)
{
    static struct cover_box boxes[64 * PIECES_MAX];
    uint32_t coord[CKPT_DIMS_MAX] = { 0 };
    size_t count = 0;
    long ranks = 0;
    mesh->coord = coord;
    for (;; ranks++) {
        struct layout_out out = { .piece = pieces, .cap = PIECES_MAX };
        uint64_t local_shape[CKPT_DIMS_MAX];
        check_rank(mesh, ndim, shape);
        CHECK_OK(layout_mesh(mesh, ndim, shape, 32, &out, local_shape, NULL));
        for (size_t i = 0; i < out.count; i++) {
            CHECK(pieces[i].replica < pieces[i].replica_count);
            CHECK(count < ARRAY_COUNT(boxes));
            if (pieces[i].replica == 0)
                boxes[count++] = (struct cover_box){ pieces[i].box, (uint32_t)ranks };
        }
        uint32_t a = mesh->ndim;
        for (; a > 0 && ++coord[a - 1] == mesh->size[a - 1]; a--)
            coord[a - 1] = 0;
        if (a == 0)
            break;
    }
    CHECK_OK(cover_check("w", ndim, shape, boxes, count, NULL));
    return ranks + 1;
}

static long census_padded, census_sections;

static void random_sections(struct layout_placement *p, uint64_t section[4], const uint64_t *shape)
{
    uint64_t left = shape[p->dim];
    p->kind = LAYOUT_SHARD;
    p->section = section;
    p->section_count = 1 + (uint32_t)below(4);
    for (uint32_t i = 0; i < p->section_count; i++) {
        section[i] = i + 1 < p->section_count ? below(left + 1) : left;
        left -= section[i];
    }
}

static long test_mesh(void)
{
    long n = 0;
    for (int i = 0; i < 3000; i++) {
        uint32_t ndim = (uint32_t)below(4), size[3];
        uint64_t shape[CKPT_DIMS_MAX];
        struct layout_placement placement[3] = { 0 };
        struct layout_mesh mesh = { .ndim = (uint32_t)below(4),
                                    .size = size,
                                    .placement = placement };
        for (uint32_t d = 0; d < ndim; d++)
            shape[d] = below(25) ? 1 + below(ndim == 3 ? 9 : 24) : 0;
        for (uint32_t a = 0; a < mesh.ndim; a++) {
            size[a] = 1 + (uint32_t)below(4);
            placement[a].kind = ndim ? (enum layout_kind)below(3) : LAYOUT_REPLICATE;
            placement[a].dim = ndim ? (uint32_t)below(ndim) : 7;
            placement[a].split_factor = 1 + (uint32_t)below(4);
        }
        uint64_t padded[3], section[4];
        for (uint32_t d = 0; d < ndim; d++)
            padded[d] = shape[d] + below(5) * below(2);
        if (below(3) == 0)
            mesh.padded = padded;
        if (mesh.ndim > 0 && ndim > 0 && below(3) == 0)
            random_sections(&placement[0], section, (mesh.padded ? padded : shape));
        census_padded += mesh.padded != NULL;
        census_sections += placement[0].section_count > 0;
        n += check_mesh(&mesh, ndim, shape);
    }
    CHECK(census_padded > 100 && census_sections > 100);
    return n;
}

/* The table of PyTorch's own documentation of _StridedShard. */
static long test_documented(void)
{
    static const uint64_t first_row[4] = { 0, 4, 2, 6 };
    const uint64_t shape[2] = { 8, 8 };
    const uint32_t size[2] = { 2, 2 };
    const struct layout_placement placement[2] = {
        { .kind = LAYOUT_SHARD_STRIDED, .split_factor = 2 }, { .kind = LAYOUT_SHARD }
    };
    for (uint32_t rank = 0; rank < 4; rank++) {
        const uint32_t coord[2] = { rank / 2, rank % 2 };
        struct layout_mesh mesh = { 2, size, coord, placement, NULL };
        struct layout_out out = { .piece = pieces, .cap = 1 };
        uint64_t local_shape[2];
        CHECK_OK(layout_mesh(&mesh, 2, shape, 16, &out, local_shape, NULL));
        CHECK_EQ(out.count, 1);
        CHECK_EQ(pieces[0].box.off[0], first_row[rank]);
        CHECK_EQ(pieces[0].box.len[0], 2);
        CHECK_EQ(local_shape[1], 8);
    }
    /* The strided axis alone holds two boxes. */
    const uint32_t coord[1] = { 1 };
    struct layout_mesh mesh = { 1, size, coord, placement, NULL };
    struct layout_out out = { .piece = pieces, .cap = 2 };
    uint64_t local_shape[2];
    CHECK_OK(layout_mesh(&mesh, 2, shape, 16, &out, local_shape, NULL));
    CHECK_EQ(out.count, 2);
    CHECK_EQ(pieces[1].box.off[0], 6);
    CHECK_EQ(pieces[1].offset_bytes, 2 * 8 * 2);
    return 5;
}

static long test_replicas(void)
{
    const uint64_t shape[1] = { 10 };
    const uint32_t size[3] = { 2, 5, 3 }, coord[3] = { 1, 2, 2 };
    const struct layout_placement placement[3] = { { .kind = LAYOUT_REPLICATE },
                                                   { .kind = LAYOUT_SHARD },
                                                   { .kind = LAYOUT_REPLICATE } };
    struct layout_mesh mesh = { 3, size, coord, placement, NULL };
    struct layout_out out = { .piece = pieces, .cap = 1 };
    uint64_t local_shape[1];
    CHECK_OK(layout_mesh(&mesh, 1, shape, 16, &out, local_shape, NULL));
    CHECK_EQ(pieces[0].replica, 5);
    CHECK_EQ(pieces[0].replica_count, 6);
    CHECK_EQ(pieces[0].box.off[0], 4);
    return 1;
}

/* Embedding of 10 words padded to 16 for four ranks: the third has 2 of its 4 rows, the
 * last none, and all have room for 4. */
static long test_padded(void)
{
    const uint64_t shape[2] = { 10, 3 }, padded[2] = { 16, 3 };
    const uint64_t rows[4] = { 4, 4, 2, 0 };
    const struct layout_placement place = { .kind = LAYOUT_SHARD };
    for (uint32_t rank = 0; rank < 4; rank++) {
        const uint32_t size = 4;
        struct layout_mesh mesh = { 1, &size, &rank, &place, padded };
        struct layout_out out = { .piece = pieces, .cap = 1 };
        uint64_t local_shape[2];
        CHECK_OK(layout_mesh(&mesh, 2, shape, 16, &out, local_shape, NULL));
        CHECK_EQ(local_shape[0], 4);
        CHECK_EQ(out.count, rows[rank] > 0);
        if (out.count)
            CHECK_EQ(pieces[0].box.len[0], rows[rank]);
        if (rank != 2)
            continue;
        /* Half of the padded array's elements each to two data-parallel ranks: the second
         * half is padding alone. */
        struct layout_piece cut[2];
        struct layout_out half = { .piece = cut, .cap = 2 };
        CHECK_OK(layout_cut(pieces, 1, 16, 6, 6, &half, NULL));
        CHECK_EQ(half.count, 0);
        CHECK_OK(layout_cut(pieces, 1, 16, 4, 6, &half, NULL));
        CHECK_EQ(half.count, 1);
        CHECK_EQ(cut[0].box.off[0], 9);
        CHECK_EQ(cut[0].box.off[1], 1);
        CHECK_EQ(cut[0].offset_bytes, 0);
    }
    /* Padded columns: each row has a gap, and a range may begin in one. */
    const uint64_t wide[2] = { 4, 6 }, room[2] = { 4, 8 };
    const uint32_t size = 2, coord = 1;
    const struct layout_placement columns = { .kind = LAYOUT_SHARD, .dim = 1 };
    struct layout_mesh mesh = { 1, &size, &coord, &columns, room };
    struct layout_out out = { .piece = pieces, .cap = 4 };
    uint64_t local_shape[2];
    CHECK_OK(layout_mesh(&mesh, 2, wide, 16, &out, local_shape, NULL));
    CHECK_EQ(pieces[0].stride[0], 4);
    CHECK_EQ(pieces[0].box.len[1], 2);
    const uint64_t small[2] = { 4, 9 };
    CHECK_EQ(layout_mesh(&mesh, 2, small, 16, &out, local_shape, NULL), CKPT_INVALID);
    return 6;
}

/* q of 8 rows, k and v of 4: rank 1 of 2 holds q[4:8], k[2:4], v[2:4], dense. */
static long test_fused(void)
{
    const uint64_t shape[2] = { 16, 5 }, section[3] = { 8, 4, 4 }, short_[2] = { 8, 4 };
    const uint32_t size = 2, coord = 1;
    struct layout_placement place = { .kind = LAYOUT_SHARD,
                                      .section = section,
                                      .section_count = 3 };
    struct layout_mesh mesh = { 1, &size, &coord, &place, NULL };
    struct layout_out out = { .piece = pieces, .cap = 3 };
    uint64_t local_shape[2];
    CHECK_OK(layout_mesh(&mesh, 2, shape, 16, &out, local_shape, NULL));
    CHECK_EQ(out.count, 3);
    CHECK_EQ(local_shape[0], 8);
    CHECK_EQ(pieces[0].box.off[0], 4);
    CHECK_EQ(pieces[1].box.off[0], 10);
    CHECK_EQ(pieces[2].box.off[0], 14);
    CHECK_EQ(pieces[2].offset_bytes, 6 * 5 * 2);
    /* A ZeRO range over the fused shard, from inside q to inside v. */
    struct layout_piece cut[9];
    struct layout_out part = { .piece = cut, .cap = 9 };
    CHECK_OK(layout_cut(pieces, 3, 16, 18, 14, &part, NULL));
    CHECK_EQ(part.count, 3); /* q[7][3:5], k[10:12], v[14][0:2] */
    CHECK_EQ(cut[2].box.off[0], 14);
    CHECK_EQ(cut[2].box.len[1], 2);
    CHECK_EQ(cut[2].offset_bytes, 12 * 2);
    place.section = short_, place.section_count = 2;
    CHECK_EQ(layout_mesh(&mesh, 2, shape, 16, &out, local_shape, NULL), CKPT_INVALID);
    place.kind = LAYOUT_SHARD_STRIDED, place.split_factor = 1;
    CHECK_EQ(layout_mesh(&mesh, 2, shape, 16, &out, local_shape, NULL), CKPT_INVALID);
    return 4;
}

/* Eight stacked layers of experts: over 2 stages with 2 virtual stages each, 2 ranks of
 * expert parallelism, and the experts' rows over 2 more. */
static long test_stacked(void)
{
    const uint64_t shape[4] = { 8, 6, 4, 3 };
    const uint32_t size[3] = { 2, 2, 2 }, coord[3] = { 1, 1, 0 };
    const struct layout_placement place[3] = {
        { .kind = LAYOUT_SHARD_STRIDED, .dim = 0, .split_factor = 2 },
        { .kind = LAYOUT_SHARD, .dim = 1 },
        { .kind = LAYOUT_SHARD, .dim = 2 },
    };
    struct layout_mesh mesh = { 3, size, coord, place, NULL };
    struct layout_out out = { .piece = pieces, .cap = 2 };
    uint64_t local_shape[4];
    CHECK_OK(layout_mesh(&mesh, 4, shape, 16, &out, local_shape, NULL));
    CHECK_EQ(out.count, 2);
    CHECK_EQ(pieces[0].box.off[0], 2);
    CHECK_EQ(pieces[1].box.off[0], 6);
    CHECK_EQ(pieces[1].box.off[1], 3);
    CHECK_EQ(pieces[1].box.len[2], 2);
    CHECK_EQ(pieces[1].offset_bytes, 2 * 3 * 2 * 3 * 2);
    return 1;
}

static long test_cut_refuses(void)
{
    struct layout_piece p = { .box = { .ndim = 2, .len = { 4, 6 } }, .stride = { 6, 1 } }, room[3];
    struct layout_out out = { .piece = room, .cap = 3 };
    CHECK_OK(layout_cut(&p, 1, 16, 0, 24, &out, NULL));
    p.stride[0] = 5; /* rows overlap */
    CHECK_EQ(layout_cut(&p, 1, 16, 0, 24, &out, NULL), CKPT_INVALID);
    p.stride[0] = -6;
    CHECK_EQ(layout_cut(&p, 1, 16, 0, 24, &out, NULL), CKPT_INVALID);
    p.stride[0] = INT64_MAX;
    CHECK_EQ(layout_cut(&p, 1, 16, 0, 24, &out, NULL), CKPT_LIMIT);
    p.stride[0] = 6, p.offset_bytes = 3;
    CHECK_EQ(layout_cut(&p, 1, 16, 0, 24, &out, NULL), CKPT_INVALID);
    p.offset_bytes = UINT64_MAX;
    CHECK_EQ(layout_cut(&p, 1, 16, 0, 24, &out, NULL), CKPT_INVALID);
    p.offset_bytes = (UINT64_C(1) << 59) - 2;
    CHECK_EQ(layout_cut(&p, 1, 16, 0, 24, &out, NULL), CKPT_LIMIT);
    p.offset_bytes = 0;
    CHECK_EQ(layout_cut(&p, 1, 16, UINT64_MAX, 2, &out, NULL), CKPT_INVALID);
    CHECK_EQ(layout_cut(&p, 1, 0, 0, 2, &out, NULL), CKPT_INVALID);
    CHECK_EQ(layout_cut(&p, 1, 4, 1, 4, &out, NULL), CKPT_INVALID);
    CHECK_OK(layout_cut(&p, 1, 4, 2, 4, &out, NULL));
    CHECK_EQ(out.count, 1);
    return 10;
}

static enum ckpt_status mesh_1d(uint64_t shape, struct layout_placement p, uint32_t size,
                                uint32_t coord, unsigned bits)
{
    struct layout_mesh mesh = { 1, &size, &coord, &p, NULL };
    struct layout_out out = { .piece = pieces, .cap = 3, .count = 77 };
    uint64_t local_shape[1];
    return layout_mesh(&mesh, 1, &shape, bits, &out, local_shape, NULL);
}

static long test_mesh_refuses(void)
{
    struct layout_placement p = { .kind = LAYOUT_SHARD };
    CHECK_EQ(mesh_1d(8, p, 2, 2, 8), CKPT_INVALID);
    CHECK_EQ(mesh_1d(8, p, 0, 0, 8), CKPT_INVALID);
    CHECK_EQ(mesh_1d(8, p, 2, 0, 0), CKPT_INVALID);
    CHECK_EQ(mesh_1d(UINT64_C(1) << 62, p, 2, 0, 8), CKPT_LIMIT);
    CHECK_EQ(mesh_1d(8, p, CKPT_RANKS_MAX + 1, 0, 8), CKPT_LIMIT);
    CHECK_EQ(mesh_1d(8, p, CKPT_RANKS_MAX, 9, 8), CKPT_OK);
    CHECK_EQ(mesh_1d(6, p, 2, 1, 4), CKPT_INVALID); /* 3 half bytes */
    CHECK_EQ(mesh_1d(5, p, 2, 1, 4), CKPT_INVALID); /* starts inside a byte */
    CHECK_EQ(mesh_1d(8, p, 2, 1, 4), CKPT_OK);
    CHECK_EQ(mesh_1d((UINT64_C(1) << 58) + 1, p, 3, 2, 8), CKPT_OK);
    p.dim = 1;
    CHECK_EQ(mesh_1d(8, p, 2, 1, 8), CKPT_INVALID);
    p = (struct layout_placement){ .kind = (enum layout_kind)3 };
    CHECK_EQ(mesh_1d(8, p, 2, 1, 8), CKPT_INVALID);
    p = (struct layout_placement){ .kind = LAYOUT_SHARD_STRIDED };
    CHECK_EQ(mesh_1d(8, p, 2, 1, 8), CKPT_INVALID);
    p.split_factor = UINT32_MAX;
    CHECK_EQ(mesh_1d(8, p, 2, 1, 8), CKPT_INVALID);
    p.split_factor = 4;
    CHECK_EQ(mesh_1d(8, p, 2, 1, 8), CKPT_LIMIT); /* four boxes, room for three */
    CHECK_EQ(mesh_1d(8, p, 1, 0, 8), CKPT_OK);    /* they continue each other: one */
    p.split_factor = 3;
    CHECK_EQ(mesh_1d(8, p, 2, 1, 8), CKPT_OK);
    return 17;
}

/* Random boxes that continue each other along dimension 0; returns the elements. */
static uint64_t random_rows(struct box *boxes, size_t n, uint32_t ndim, const uint64_t *shape)
{
    uint64_t total = 0;
    for (size_t i = 0; i < n; i++) {
        boxes[i] = (struct box){ .ndim = ndim };
        for (uint32_t d = 0; d < ndim; d++) {
            boxes[i].len[d] = d > 0 && i > 0 ? boxes[0].len[d] : below(shape[d] + 1);
            boxes[i].off[d] = below(shape[d] - boxes[i].len[d] + 1);
        }
        total += box_volume(&boxes[i]);
    }
    return total;
}

static void check_flat(const struct box *boxes, size_t n, const uint64_t *shape, uint64_t total)
{
    static uint64_t local[LOCAL_MAX];
    uint32_t ndim = boxes[0].ndim;
    uint64_t start = below(total + 1), count = below(total - start + 1), flat = 0;
    struct layout_out out = { .piece = pieces, .cap = PIECES_MAX };
    CHECK_OK(layout_flat(boxes, n, 16, start, count, &out, NULL));
    CHECK(out.count <= n * (ndim ? 2 * ndim - 1 : 1));
    CHECK_EQ(place_all(&out, 2, ndim, shape, local, count), count);
    for (size_t i = 0; i < n; i++) {
        uint64_t at[CKPT_DIMS_MAX] = { 0 };
        for (uint64_t k = box_volume(&boxes[i]); k > 0; k--, flat++) {
            uint64_t global = 0;
            for (uint32_t d = 0; d < ndim; d++)
                global = global * shape[d] + boxes[i].off[d] + at[d];
            if (flat >= start && flat < start + count)
                CHECK_EQ(local[flat - start], global + 1);
            next_at(ndim, boxes[i].len, at);
        }
    }
}

static long test_flat(void)
{
    long n = 0;
    for (; n < 8000; n++) {
        struct box boxes[4];
        uint64_t shape[CKPT_DIMS_MAX];
        uint32_t ndim = (uint32_t)below(5);
        size_t count = ndim ? 1 + below(4) : 1;
        for (uint32_t d = 0; d < ndim; d++)
            shape[d] = 1 + below(7);
        check_flat(boxes, count, shape, random_rows(boxes, count, ndim, shape));
    }
    return n;
}

static long test_flat_refuses(void)
{
    struct layout_out out = { .piece = pieces, .cap = 2 };
    struct box boxes[1] = { { .ndim = 2, .len = { 4, 6 } } };
    CHECK_EQ(layout_flat(boxes, 1, 8, 0, 25, &out, NULL), CKPT_INVALID);
    CHECK_EQ(layout_flat(boxes, 1, 8, 2, UINT64_MAX, &out, NULL), CKPT_INVALID);
    CHECK_EQ(layout_flat(boxes, 1, 8, 25, 0, &out, NULL), CKPT_INVALID);
    CHECK_EQ(layout_flat(boxes, 1, 8, 20, 5, &out, NULL), CKPT_INVALID);
    CHECK_EQ(layout_flat(boxes, 1, 8, 1, 22, &out, NULL), CKPT_LIMIT);
    CHECK_EQ(out.count, 3);
    CHECK_EQ(layout_flat(boxes, 1, 4, 1, 2, &out, NULL), CKPT_INVALID);
    CHECK_OK(layout_flat(boxes, 1, 4, 2, 6, &out, NULL));
    CHECK_EQ(out.count, 2);
    CHECK_EQ(pieces[1].offset_bytes, 2);
    CHECK_OK(layout_flat(NULL, 0, 8, 0, 0, &out, NULL));
    CHECK_EQ(out.count, 0);
    boxes[0].len[0] = UINT64_C(1) << 61;
    CHECK_EQ(layout_flat(boxes, 1, 8, 0, 1, &out, NULL), CKPT_LIMIT);
    boxes[0].ndim = 17;
    CHECK_EQ(layout_flat(boxes, 1, 8, 0, 1, &out, NULL), CKPT_LIMIT);
    return 11;
}

/* The parts cover the box, lie on its tiles and differ by one row of tiles. */
static void check_share(const struct box *box, unsigned bits, const uint64_t *tile, uint32_t count)
{
    static struct cover_box boxes[64];
    uint64_t hash = test_rand(&seed), most = 0, least = UINT64_MAX, grid_most = 0;
    struct box local = *box;
    size_t n = 0;
    memset(local.off, 0, sizeof(local.off));
    for (uint32_t d = 0; d < box->ndim; d++)
        grid_most = max_u64(grid_most, div_up(box->len[d], tile[d]));
    for (uint32_t r = 0; r < count; r++) {
        struct box part;
        if (!layout_share(box, bits, tile, hash, r, count, &part))
            continue;
        uint64_t tiles = tile_count(&part, tile);
        most = max_u64(most, tiles);
        least = min_u64(least, tiles);
        CHECK(box_contains(box, &part));
        for (uint32_t d = 0; d < box->ndim; d++) {
            part.off[d] -= box->off[d];
            CHECK_EQ(part.off[d] % tile[d], 0);
        }
        boxes[n++] = (struct cover_box){ part, r };
        if (box_bytes(box, bits) < 8 * MIB)
            CHECK_EQ(r, hash % count);
    }
    CHECK_OK(cover_check("w", box->ndim, local.len, boxes, n, NULL));
    if (box_volume(box) == 0)
        CHECK_EQ(n, 0);
    else if (box_bytes(box, bits) < 8 * MIB)
        CHECK_EQ(n, 1);
    else
        CHECK_EQ(n, min_u64(grid_most, count));
    CHECK(n == 0 || (most - least) * min_u64(grid_most, count) <= tile_count(box, tile));
}

static long test_share(void)
{
    long n = 0;
    for (; n < 3000; n++) {
        struct box box = { .ndim = (uint32_t)below(4) };
        uint64_t tile[CKPT_DIMS_MAX];
        for (uint32_t d = 0; d < box.ndim; d++) {
            box.off[d] = below(100);
            box.len[d] = below(30) ? 1 + below(box.ndim == 1 ? 100 * MIB : 4000) : 0;
        }
        if (box.ndim == 3)
            box.len[below(3)] %= 50;
        tile_shape_default(&box, 16, below(2) ? 4 * MIB : MIB, NULL, tile);
        check_share(&box, 16, tile, 1 + (uint32_t)below(16));
    }
    return n;
}

/* The first dimension with enough tiles is cut, not the one with most. */
static long test_share_first(void)
{
    struct box box = { .ndim = 2, .len = { 4096, 4096 } }, part;
    const uint64_t tile[2] = { 1024, 256 };
    CHECK(layout_share(&box, 16, tile, 0, 1, 4, &part));
    CHECK_EQ(part.off[0], 1024);
    CHECK_EQ(part.len[0], 1024);
    CHECK_EQ(part.len[1], 4096);
    CHECK(layout_share(&box, 16, tile, 0, 1, 5, &part));
    CHECK_EQ(part.len[0], 4096);
    CHECK_EQ(part.off[1], 4 * 256);
    CHECK(layout_share(&box, 16, tile, 3, 1, 5, &part)); /* part (1 - 3) mod 5 = 3 */
    CHECK_EQ(part.off[1], (4 + 3 + 3) * 256);
    return 3;
}

int main(void)
{
    seed = test_seed(6);
    TEST_CASES(test_mesh() + test_documented() + test_replicas() + test_mesh_refuses() +
               test_padded() + test_fused() + test_stacked() + test_cut_refuses() + test_flat() +
               test_flat_refuses() + test_share() + test_share_first());
    return 0;
}
