/* See topology.h. */
#include "props/matrix/model_topology.h"

#include "formats/base.h"
#include "formats/dtype.h"

/* A rank's place. */
struct seat {
    uint32_t stage, a, d, t; /* pp, dr, ds, tp */
    uint32_t x, e, u;        /* edp, ep, etp */
    uint32_t edp;
};

/* A rank's part of a tensor before it is cut flat: boxes, and where each begins in the local
 * array of shape `local`. */
struct shard {
    struct ckpt_piece box[TOPO_PIECES]; /* off, len and replica */
    uint64_t at[TOPO_PIECES][CKPT_MAX_DIMS];
    size_t count;
    uint64_t local[CKPT_MAX_DIMS];
    uint32_t flat_parts, flat_part; /* of it; 1, 0 = all */
};

struct axes {
    uint32_t n, size[8], coord[8];
    struct ckpt_placement place[8];
};

static uint32_t stage_ranks(const struct topo *o)
{
    return o->dr * o->ds * o->tp;
}

uint32_t topo_world(const struct topo *o)
{
    return o->pp * stage_ranks(o) + o->idle;
}

static bool expert_role(const struct topo_tensor *t)
{
    return t->role == TOPO_EXPERTS || t->role == TOPO_EXPERT;
}

bool topo_zero_cuts(const struct topo *o, const struct topo_tensor *t)
{
    static const uint32_t from[] = { [TOPO_PARAM] = 3, [TOPO_GRAD] = 2, [TOPO_OPTIM] = 1 };
    return t->role != TOPO_FIXED && !t->tied && o->zero >= from[t->cls];
}

bool topo_flat_cuts(const struct topo *o, const struct topo_tensor *t)
{
    return topo_zero_cuts(o, t) && o->cut != TOPO_BOX && t->kind != CKPT_BLOCKED;
}

bool topo_in_bucket(const struct topo *o, const struct topo_tensor *t)
{
    bool whole = t->dim >= t->ndim && (expert_role(t) ? o->etp : o->tp) > 1;
    bool stages = o->pp > 1 && (t->stage == TOPO_ENDS || t->stage == TOPO_ALL);
    return topo_flat_cuts(o, t) && o->cut == TOPO_BUCKET && !whole && !stages;
}

uint64_t topo_vocab_rows(const struct topo *o, const struct topo_tensor *t)
{
    return align_up(t->shape[0], (uint64_t)o->tp * o->vpad);
}

static bool seat_of(const struct topo *o, uint32_t rank, struct seat *s)
{
    uint32_t per_stage = stage_ranks(o);
    if (rank >= o->pp * per_stage)
        return false;
    uint32_t q = o->inner ? rank / o->pp : rank % per_stage;
    *s = (struct seat){ .stage = o->inner ? rank % o->pp : rank / per_stage,
                        .a = q / (o->ds * o->tp),
                        .d = q / o->tp % o->ds,
                        .t = q % o->tp,
                        .x = q / (o->ep * o->etp),
                        .e = q / o->etp % o->ep,
                        .u = q % o->etp,
                        .edp = per_stage / (o->ep * o->etp) };
    return true;
}

static void add_axis(struct axes *m, uint32_t size, uint32_t coord, struct ckpt_placement place)
{
    CHECK(m->n < ARRAY_COUNT(m->size));
    m->size[m->n] = size;
    m->coord[m->n] = coord;
    m->place[m->n++] = place;
}

static const struct ckpt_placement replicate = { .place = CKPT_REPLICATE };

static struct ckpt_placement cut_along(uint32_t dim)
{
    return (struct ckpt_placement){ .place = CKPT_SHARD, .dim = dim };
}

static struct ckpt_placement cut_strided(uint32_t dim, uint32_t factor)
{
    return (
        struct ckpt_placement){ .place = CKPT_SHARD_STRIDED, .dim = dim, .split_factor = factor };
}

/* Layers are shared out evenly over the chunks of all stages, chunk c on stage c % pp. */
static bool has_layer(const struct topo *o, const struct topo_tensor *t, uint32_t stage)
{
    uint32_t chunks = o->pp * o->vp;
    for (uint32_t c = stage; c < chunks; c += o->pp)
        if (t->layer >= t->layers * c / chunks && t->layer < t->layers * (c + 1) / chunks)
            return true;
    return false;
}

static bool stage_axis(const struct topo *o, const struct topo_tensor *t, uint32_t stage,
                       struct axes *m)
{
    switch (t->stage) {
    case TOPO_LAYER:
        return has_layer(o, t, stage);
    case TOPO_STACK:
        add_axis(m, o->pp, stage, cut_strided(0, o->vp));
        return true;
    case TOPO_FIRST:
        return stage == 0;
    case TOPO_LAST:
        return stage == o->pp - 1;
    case TOPO_ENDS:
        add_axis(m, min_u64(o->pp, 2), stage > 0, replicate);
        return stage == 0 || stage == o->pp - 1;
    case TOPO_ALL:
        break;
    }
    add_axis(m, o->pp, stage, replicate);
    return true;
}

/* One axis of data-parallel ranks: n of them, this is number i. */
static void data_axis(const struct topo *o, const struct topo_tensor *t, uint32_t n, uint32_t i,
                      struct axes *m, struct shard *s)
{
    uint32_t dim = t->stage == TOPO_STACK;
    if (topo_flat_cuts(o, t)) {
        s->flat_parts = n;
        s->flat_part = i;
    } else if (topo_zero_cuts(o, t) && dim < t->ndim) {
        add_axis(m, n, i, cut_along(dim));
    } else {
        add_axis(m, n, i, replicate);
    }
}

static void dense_axes(const struct topo *o, const struct topo_tensor *t, const struct seat *at,
                       struct axes *m, struct shard *s)
{
    bool cut = t->role != TOPO_WHOLE && t->dim < t->ndim;
    struct ckpt_placement tensor = cut ? cut_along(t->dim) : replicate;
    bool boxes = topo_zero_cuts(o, t) && !topo_flat_cuts(o, t);
    add_axis(m, o->dr, at->a, replicate);
    if (cut && boxes && o->strided && t->dim == (t->stage == TOPO_STACK)) {
        add_axis(m, o->ds, at->d, cut_strided(t->dim, o->tp));
        add_axis(m, o->tp, at->t, tensor);
        return;
    }
    add_axis(m, o->tp, at->t, tensor);
    data_axis(o, t, o->ds, at->d, m, s);
}

static bool expert_axes(const struct topo *o, const struct topo_tensor *t, const struct seat *at,
                        struct axes *m, struct shard *s)
{
    if (t->role == TOPO_EXPERTS)
        add_axis(m, o->ep, at->e, cut_along(t->edim));
    else if (t->expert / div_up(t->experts, o->ep) != at->e)
        return false;
    add_axis(m, o->etp, at->u, t->dim < t->ndim ? cut_along(t->dim) : replicate);
    data_axis(o, t, at->edp, at->x, m, s);
    return true;
}

/* -- boxes ------------------------------------------------------------------------- */

/* What ckpt_mesh_pieces is asked about: the tensor, or, where dimensions are cut by more than one
 * element, a grid of those units. */
struct grid {
    uint32_t dtype;
    uint64_t whole[CKPT_MAX_DIMS], shape[CKPT_MAX_DIMS], unit[CKPT_MAX_DIMS];
};

static struct grid grid_of(const struct topo_tensor *t, const struct axes *m, uint64_t rows)
{
    struct grid g = { .dtype = t->dtype };
    bool units = false;
    for (uint32_t i = 0; i < m->n; i++)
        if (m->place[i].place != CKPT_REPLICATE && t->unit[m->place[i].dim] > 1)
            units = true;
    if (units)
        g.dtype = CKPT_U8;
    for (uint32_t d = 0; d < t->ndim; d++) {
        g.whole[d] = d ? t->shape[d] : rows;
        g.unit[d] = units ? t->unit[d] : 1;
        g.shape[d] = div_up(g.whole[d], g.unit[d]);
    }
    return g;
}

/* The dense strides of a piece say where in the local array it begins. */
static void origin_of(const struct grid *g, const struct ckpt_piece *p, uint32_t ndim, uint64_t *at)
{
    uint64_t left = p->offset_bytes * 8 / dtype_bits(g->dtype);
    for (uint32_t d = 0; d < ndim; d++) {
        at[d] = left / (uint64_t)p->stride[d];
        left %= (uint64_t)p->stride[d];
    }
    CHECK_EQ(left, 0);
}

/* From units to elements; what a padded shape has more than the tensor falls away: false if that
 * is all. */
static bool in_elements(const struct topo_tensor *t, const struct grid *g, uint64_t first_row,
                        struct ckpt_piece *p, uint64_t *at, uint64_t *local)
{
    for (uint32_t d = 0; d < t->ndim; d++) {
        p->off[d] *= g->unit[d];
        at[d] *= g->unit[d];
        p->len[d] = min_u64(p->len[d] * g->unit[d], g->whole[d] - p->off[d]);
        local[d] = max_u64(local[d], at[d] + p->len[d]);
    }
    if (t->ndim == 0)
        return true;
    p->off[0] += first_row;
    p->len[0] = p->off[0] < t->shape[0] ? min_u64(p->len[0], t->shape[0] - p->off[0]) : 0;
    return p->len[0] > 0;
}

/* Adds what the axes leave of `rows` rows of the tensor, from row first_row on. */
static void cut_rows(const struct topo_tensor *t, const struct axes *m, uint64_t first_row,
                     uint64_t rows, struct shard *s)
{
    struct grid g = grid_of(t, m, rows);
    uint64_t local[CKPT_MAX_DIMS] = { 0 }, base = s->local[0];
    struct ckpt_piece piece[TOPO_PIECES];
    struct ckpt_mesh mesh = {
        .ndim = m->n, .size = m->size, .coord = m->coord, .placement = m->place
    };
    size_t count;
    enum ckpt_status st = ckpt_mesh_pieces(&mesh, t->ndim, g.shape, g.dtype, piece, 4, &count);
    if (st == CKPT_LIMIT) /* few have more */
        st = ckpt_mesh_pieces(&mesh, t->ndim, g.shape, g.dtype, piece, TOPO_PIECES, &count);
    CHECK_OK(st);
    for (size_t i = 0; i < count; i++) {
        CHECK(s->count < TOPO_PIECES);
        uint64_t *at = s->at[s->count];
        origin_of(&g, &piece[i], t->ndim, at);
        bool some = in_elements(t, &g, first_row, &piece[i], at, local);
        if (t->ndim)
            at[0] += base;
        s->box[s->count] = piece[i];
        s->box[s->count].offset_bytes = 0; /* boxes alone: dense, one behind the other */
        memset(s->box[s->count].stride, 0, sizeof(s->box[0].stride));
        s->count += some;
    }
    for (uint32_t d = 0; d < t->ndim; d++)
        s->local[d] = (d ? 0 : base) + max_u64(local[d], d ? s->local[d] : 0);
}

static void fixed_boxes(const struct topo *o, const struct topo_tensor *t, uint32_t rank,
                        struct shard *s)
{
    uint32_t world = topo_world(o), copies = (uint32_t)min_u64(o->copies, world);
    for (uint32_t i = 0; i < t->parts; i++) {
        uint32_t turn = (rank + 2 * world - o->shift % world - i % world) % world;
        struct axes m = { 0 };
        add_axis(&m, t->parts, i, t->ndim ? cut_along(0) : replicate);
        if (turn >= copies)
            continue;
        size_t added = s->count;
        cut_rows(t, &m, 0, t->ndim ? t->shape[0] : 1, s);
        for (; added < s->count; added++) {
            s->box[added].replica = turn;
            s->box[added].replica_count = copies;
        }
    }
}

static bool shard_of(const struct topo *o, const struct topo_tensor *t, uint32_t rank,
                     struct shard *s)
{
    struct axes m = { 0 };
    struct seat at;
    s->count = 0; /* the arrays are as large as the largest case: not cleared each time */
    s->flat_parts = 1;
    s->flat_part = 0;
    memset(s->local, 0, sizeof(s->local));
    if (t->tied)
        return false;
    if (t->role == TOPO_FIXED) {
        fixed_boxes(o, t, rank, s);
        return s->count > 0;
    }
    if (!seat_of(o, rank, &at) || !stage_axis(o, t, at.stage, &m))
        return false;
    if (!expert_role(t))
        dense_axes(o, t, &at, &m, s);
    else if (!expert_axes(o, t, &at, &m, s))
        return false;
    uint64_t rows = t->ndim ? t->shape[0] : 1, row = 0;
    if (t->role == TOPO_VOCAB)
        rows = topo_vocab_rows(o, t);
    for (uint32_t g = 0; g < t->groups; row += t->group[g++])
        cut_rows(t, &m, row, t->group[g], s);
    if (t->groups == 0)
        cut_rows(t, &m, 0, rows, s);
    return true;
}

/* -- memory ------------------------------------------------------------------------- */

struct topo_memory topo_dense(uint32_t ndim)
{
    struct topo_memory m = { .first = 1, .wide = CKPT_MAX_DIMS };
    for (uint32_t d = 0; d < ndim; d++)
        m.perm[d] = d;
    return m;
}

/* Bytes from the start of the memory that the pieces need. */
static uint64_t bytes_needed(const struct topo_tensor *t, const struct topo_hold *h)
{
    uint64_t need = 0, bits = dtype_bits(t->dtype);
    for (size_t i = 0; i < h->count; i++) {
        uint64_t last = 0;
        for (uint32_t d = 0; d < t->ndim; d++)
            if (h->piece[i].stride[d] > 0)
                last += (h->piece[i].len[d] - 1) * (uint64_t)h->piece[i].stride[d];
        need = max_u64(need, h->piece[i].offset_bytes + div_up((last + 1) * bits, 8));
    }
    return need;
}

static void lay_boxes(const struct topo_tensor *t, const struct shard *s,
                      const struct topo_memory *m, struct topo_hold *h)
{
    int64_t stride[CKPT_MAX_DIMS] = { 0 }, start = 0;
    uint64_t step = m->first;
    for (uint32_t k = t->ndim; k-- > 0;) {
        uint32_t d = m->perm[k];
        bool backwards = m->negative >> d & 1;
        if (d == m->wide)
            continue;
        stride[d] = backwards ? -(int64_t)step : (int64_t)step;
        start += backwards ? (int64_t)((s->local[d] - 1) * step) : 0;
        step = step * s->local[d] + m->gap[d];
    }
    h->count = s->count;
    for (size_t i = 0; i < s->count; i++) {
        struct ckpt_piece *p = &h->piece[i];
        int64_t first = start;
        *p = s->box[i];
        for (uint32_t d = 0; d < t->ndim; d++) {
            p->stride[d] = stride[d];
            first += (int64_t)s->at[i][d] * stride[d];
        }
        p->offset_bytes = m->lead + (uint64_t)first * dtype_bits(t->dtype) / 8;
    }
}

static uint64_t box_elements(const struct topo_tensor *t, const uint64_t *len)
{
    uint64_t n = 1;
    for (uint32_t d = 0; d < t->ndim; d++)
        n *= len[d];
    return n;
}

/* At most 2n - 1 pieces a box. */
static size_t flat_room(const struct topo_tensor *t, const struct shard *s)
{
    return min_u64(TOPO_PIECES, s->count * (2 * (uint64_t)t->ndim + 1));
}

/* Elements [start, start + count) of the local array, the first of them `lead` bytes into the
 * memory.  Padded rows are the last of the array: no piece is of them. */
static void lay_flat(const struct topo_tensor *t, const struct shard *s, uint64_t start,
                     uint64_t count, uint64_t lead, struct topo_hold *h)
{
    uint64_t have = 0;
    for (size_t i = 0; i < s->count; i++)
        have += box_elements(t, s->box[i].len);
    start = min_u64(start, have);
    struct ckpt_flat f = { .ndim = t->ndim,
                           .dtype = t->dtype,
                           .boxes = s->box,
                           .box_count = s->count,
                           .start = start,
                           .count = min_u64(count, have - start) };
    h->count = 0;
    if (f.count)
        CHECK_OK(ckpt_flat_pieces(&f, h->piece, flat_room(t, s), &h->count));
    for (size_t i = 0; i < h->count; i++) {
        h->piece[i].offset_bytes += lead;
        h->piece[i].replica = s->box[0].replica;
        h->piece[i].replica_count = s->box[0].replica_count;
    }
}

static bool same_bucket(const struct topo_tensor *a, const struct topo_tensor *b)
{
    return a->cls == b->cls && a->dtype == b->dtype && expert_role(a) == expert_role(b);
}

/* The bucket that begins with tensor `first`: all like it lie behind one another, each from a
 * multiple of `align` elements on; the ranks have equal parts of the whole. */
static void lay_bucket(const struct topo *o, const struct topo_tensor *t, size_t count,
                       uint32_t rank, size_t first, size_t blob, struct topo_hold *hold,
                       uint64_t *ret_bytes)
{
    struct shard s;
    uint64_t total = 0, each = 0, bits = dtype_bits(t[first].dtype);
    for (int pass = 0; pass < 2; pass++) {
        uint64_t at = 0;
        for (size_t i = first; i < count; i++) {
            if (!topo_in_bucket(o, &t[i]) || !same_bucket(&t[first], &t[i]) ||
                !shard_of(o, &t[i], rank, &s))
                continue;
            uint64_t from = align_up(at, o->align), mine = each * s.flat_part;
            uint64_t n = box_elements(&t[i], s.local);
            at = from + n;
            total = align_up(at, (uint64_t)o->align * s.flat_parts);
            hold[i].blob = blob;
            if (pass == 0) {
                each = total / s.flat_parts;
                continue;
            }
            uint64_t start = max_u64(from, mine), end = min_u64(at, mine + each);
            if (start < end)
                lay_flat(&t[i], &s, start - from, end - start, (start - mine) * bits / 8, &hold[i]);
        }
    }
    *ret_bytes = each * bits / 8;
}

/* Number i of n parts of the local array. */
static void lay_range(const struct topo_tensor *t, const struct shard *s,
                      const struct topo_memory *m, struct topo_hold *h)
{
    uint64_t unit = t->ndim ? t->unit[t->ndim - 1] : 1;
    uint64_t total = box_elements(t, s->local);
    uint64_t each = align_up(div_up(total, s->flat_parts), unit);
    uint64_t start = min_u64(each * s->flat_part, total);
    lay_flat(t, s, start, min_u64(each, total - start), m->lead, h);
}

size_t topo_hold(const struct topo *o, const struct topo_tensor *t, size_t count,
                 const struct topo_memory *memory, uint32_t rank, struct topo_hold *hold,
                 uint64_t *ret_bytes)
{
    size_t blobs = count;
    struct shard s;
    for (size_t i = 0; i < count; i++) {
        hold[i].count = 0;
        hold[i].blob = i;
        ret_bytes[i] = 0;
    }
    for (size_t i = 0; i < count; i++) {
        if (hold[i].blob != i || !shard_of(o, &t[i], rank, &s))
            continue;
        if (topo_in_bucket(o, &t[i])) {
            lay_bucket(o, t, count, rank, i, blobs, hold, &ret_bytes[blobs]);
            blobs++;
            continue;
        }
        if (topo_flat_cuts(o, &t[i]))
            lay_range(&t[i], &s, &memory[i], &hold[i]);
        else
            lay_boxes(&t[i], &s, &memory[i], &hold[i]);
        ret_bytes[i] = hold[i].count ? bytes_needed(&t[i], &hold[i]) + memory[i].slack : 0;
    }
    return blobs;
}
