/* Inside a rank: states whose every element is a function of name, step and place. */
#include "e2e/kit.h"
#include "formats/dtype.h"

#include "pattern.h"

struct ckpt_open_opts kit_opts(const struct kit_rank *r)
{
    return (struct ckpt_open_opts){ .size = sizeof(struct ckpt_open_opts),
                                    .mode = CKPT_TRAIN,
                                    .job = r->job,
                                    .socket = kit.socket,
                                    .rank = r->rank,
                                    .world = r->world,
                                    .launch = r->token,
                                    .arena_bytes = r->arena_bytes,
                                    .timeout_ms = 40000 };
}

void kit_open_with(struct kit_rank *r, const struct ckpt_open_opts *o)
{
    KIT_OK(ckpt_open(o, &r->c));
    r->point = (struct ckpt_point){ .size = sizeof(r->point) };
    enum ckpt_status st = ckpt_resume(r->c, &r->point);
    CHECK(st == CKPT_OK || st == CKPT_NOT_FOUND);
    if (st != CKPT_OK)
        r->point.size = 0;
}

void kit_open(struct kit_rank *r)
{
    struct ckpt_open_opts o = kit_opts(r);
    kit_open_with(r, &o);
}

void kit_forget(struct kit_rank *r)
{
    ckpt_state_free(r->s);
    r->s = NULL;
    for (size_t i = 0; i < r->count; i++) {
        free(r->memory[i].pieces);
        free(r->buffers[i].base);
    }
    free(r->memory);
    free(r->buffers);
    r->memory = NULL;
    r->buffers = NULL;
    r->count = 0;
}

void kit_close(struct kit_rank *r)
{
    if (r->c)
        kit_forget(r);
    ckpt_close(r->c);
    r->c = NULL;
}

/* -- pieces ---------------------------------------------------------------------------- */

static uint64_t volume(const uint64_t *len, uint32_t ndim)
{
    uint64_t n = 1;
    for (uint32_t d = 0; d < ndim; d++)
        n *= len[d];
    return n;
}

static void dense(struct ckpt_piece *p, uint32_t ndim)
{
    int64_t stride = 1;
    for (uint32_t d = ndim; d-- > 0;) {
        p->stride[d] = stride;
        stride *= (int64_t)p->len[d];
    }
}

/* Part `rank` of n over `world`; the last may be short or empty. */
static uint64_t share(uint64_t n, uint32_t rank, uint32_t world, uint64_t unit, uint64_t *ret_from)
{
    uint64_t each = (n + world - 1) / world;
    each = (each + unit - 1) / unit * unit;
    uint64_t from = each * rank < n ? each * rank : n;
    *ret_from = from;
    return from + each < n ? each : n - from;
}

static void make_box(const struct kit_rank *r, const struct kit_part *p, struct kit_part_memory *m)
{
    struct ckpt_piece *q = m->pieces;
    uint32_t cut = p->how == KIT_COLS && p->ndim ? p->ndim - 1 : 0;
    for (uint32_t d = 0; d < p->ndim; d++)
        q->len[d] = p->shape[d];
    m->piece_count = 1;
    if (p->how == KIT_SAME) {
        q->replica = r->rank;
        q->replica_count = r->world;
    } else if (p->how == KIT_FIRST || p->how == KIT_LAST || p->ndim == 0) {
        m->piece_count = r->rank == (p->how == KIT_LAST ? r->world - 1 : 0);
    } else {
        uint64_t unit = dtype_bits(p->dtype) < 8 ? 4 : 1;
        q->len[cut] = share(p->shape[cut], r->rank, r->world, p->block[cut] ? p->block[cut] : unit,
                            &q->off[cut]);
        m->piece_count = q->len[cut] > 0;
    }
    dense(q, p->ndim);
}

static void make_flat(const struct kit_rank *r, const struct kit_part *p, struct kit_part_memory *m)
{
    struct ckpt_piece whole = { 0 };
    struct ckpt_flat f = { .ndim = p->ndim, .dtype = p->dtype, .boxes = &whole, .box_count = 1 };
    for (uint32_t d = 0; d < p->ndim; d++)
        whole.len[d] = p->shape[d];
    f.count = share(volume(p->shape, p->ndim), r->rank, r->world, dtype_bits(p->dtype) < 8 ? 4 : 1,
                    &f.start);
    KIT_OK(ckpt_flat_pieces(&f, m->pieces, 8, &m->piece_count));
}

static uint64_t bytes_of(const struct kit_part *p, const struct kit_part_memory *m)
{
    uint64_t n = 0;
    if (p->object)
        return p->shape[0];
    for (size_t i = 0; i < m->piece_count; i++) {
        uint64_t end = m->pieces[i].offset_bytes +
                       (volume(m->pieces[i].len, p->ndim) * dtype_bits(p->dtype) + 7) / 8;
        n = end > n ? end : n;
    }
    return n;
}

enum ckpt_status kit_declare_part(struct kit_rank *r, const struct kit_part *p,
                                  struct kit_part_memory *m, uint64_t *ret_bytes)
{
    m->pieces = calloc(8, sizeof(*m->pieces));
    m->piece_count = 0;
    *ret_bytes = 0;
    if (!p->object && !p->alias && volume(p->shape, p->ndim) > 0)
        (p->how == KIT_FLAT ? make_flat : make_box)(r, p, m);
    *ret_bytes = bytes_of(p, m);
    if (p->object)
        return ckpt_object(r->s, p->name, p->shape[0], p->scope);
    struct ckpt_tensor_desc d = { .size = sizeof(d),
                                  .name = p->name,
                                  .dtype = p->dtype,
                                  .kind = p->kind,
                                  .flags = p->flags,
                                  .ndim = p->ndim,
                                  .shape = p->shape,
                                  .block = p->kind == CKPT_BLOCKED ? p->block : NULL,
                                  .alias = p->alias };
    return ckpt_tensor(r->s, &d, m->pieces, m->piece_count);
}

void kit_declare(struct kit_rank *r, const struct kit_part *parts, size_t count)
{
    kit_forget(r);
    r->parts = parts;
    r->memory = calloc(count, sizeof(*r->memory));
    r->buffers = calloc(count, sizeof(*r->buffers));
    CHECK(r->memory && r->buffers);
    KIT_OK(ckpt_state_new(r->c, &r->s));
    for (size_t i = 0; i < count; i++) {
        uint64_t bytes;
        KIT_OK(kit_declare_part(r, &parts[i], &r->memory[i], &bytes));
        r->buffers[i] = (struct ckpt_buffer){ .base = calloc(1, bytes + 1), .bytes = bytes };
        CHECK(r->buffers[i].base);
        r->count = i + 1;
    }
    KIT_OK(ckpt_seal(r->s, 40000));
}

/* -- elements ---------------------------------------------------------------------------- */

static uint64_t seed_of(const char *name, uint64_t step)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325) ^ (step * UINT64_C(0x9e3779b97f4a7c15));
    for (; *name; name++)
        h = (h ^ (uint8_t)*name) * UINT64_C(0x100000001b3);
    return h | 1;
}

TEST_UNSEEN static uint64_t value_at(uint64_t seed, uint64_t at)
{
    uint64_t z = (at + 1) * seed;
    return z ^ z >> 29;
}

/* Elements of whole bytes, little-endian, from place `from` on. */
struct run {
    uint64_t seed, from;
    unsigned bytes;
};

TEST_UNSEEN static void make_run(void *to, uint64_t at, size_t n, const void *arg)
{
    const struct run *r = arg;
    const unsigned bytes = r->bytes;
    uint64_t seed = r->seed, place = r->from + at / bytes;
    uint8_t *b = to;
    uint32_t *words = to;
    for (size_t k = 0; k < n / bytes; k++) {
        uint64_t value = value_at(seed, place + k);
        if (bytes == 4) /* most of all states */
            words[k] = (uint32_t)value;
        for (unsigned i = 0; bytes != 4 && i < bytes; i++)
            b[k * bytes + i] = (uint8_t)(value >> 8 * (i % 8));
    }
}

static bool run(uint8_t *base, uint64_t count, const struct run *r, bool set)
{
    return pattern_walk(base, count * r->bytes, make_run, r, set);
}

/* One element of less than a byte: set, or compared.  Lower bits first. */
static bool element(uint8_t *base, uint64_t at, unsigned bits, uint64_t value, bool set)
{
    bool same = true;
    for (unsigned k = 0; k < bits; k++) {
        uint64_t bit = at * bits + k;
        uint8_t mask = (uint8_t)(1 << bit % 8), want = value >> k & 1 ? mask : 0;
        same &= (base[bit / 8] & mask) == want;
        if (set)
            base[bit / 8] = (uint8_t)((base[bit / 8] & ~mask) | want);
    }
    return same;
}

/* All elements of a piece in row-major order of its (dense) local copy. */
static bool walk(const struct kit_part *p, const struct ckpt_piece *q, uint8_t *base, uint64_t step,
                 bool set)
{
    uint64_t n = volume(q->len, p->ndim), seed = seed_of(p->name, step), at[4] = { 0 };
    uint64_t row = p->ndim ? q->len[p->ndim - 1] : 1;
    unsigned bits = dtype_bits(p->dtype);
    bool same = true;
    for (uint64_t i = 0; i < n; i += row) {
        uint64_t global = 0;
        for (uint32_t d = 0; d < p->ndim; d++)
            global = global * p->shape[d] + q->off[d] + at[d];
        if (bits >= 8)
            same &= run(base + q->offset_bytes + i * (bits / 8), row,
                        &(struct run){ seed, global, bits / 8 }, set);
        for (uint64_t k = 0; k < row && bits < 8; k++)
            same &= element(base + q->offset_bytes, i + k, bits, value_at(seed, global + k), set);
        for (uint32_t d = p->ndim > 1 ? p->ndim - 1 : 0; d-- > 0;) {
            if (++at[d] < q->len[d])
                break;
            at[d] = 0;
        }
    }
    return same;
}

static uint64_t object_length(const struct kit_part *p, uint64_t step)
{
    return p->shape[1] ? p->shape[1] - step % 2 : 0;
}

static bool object(const struct kit_rank *r, size_t i, uint64_t step, bool set)
{
    const struct kit_part *p = &r->parts[i];
    struct ckpt_buffer *b = &r->buffers[i];
    uint64_t len = object_length(p, step);
    uint64_t seed = seed_of(p->name, step + (p->scope == CKPT_OBJECT_RANK ? r->rank * 1000 : 0));
    if (set)
        b->bytes = len;
    bool same = b->bytes == len;
    return same && run(b->base, len, &(struct run){ seed, 0, 1 }, set);
}

bool kit_part_is(const struct kit_rank *r, size_t i, uint64_t step)
{
    const struct kit_part *p = &r->parts[i];
    bool same = true;
    if (p->object)
        return object(r, i, step, false);
    for (size_t k = 0; k < r->memory[i].piece_count; k++)
        same &= walk(p, &r->memory[i].pieces[k], r->buffers[i].base, step, false);
    return same;
}

void kit_fill(struct kit_rank *r, uint64_t step)
{
    for (size_t i = 0; i < r->count; i++) {
        if (r->parts[i].object)
            object(r, i, step, true);
        for (size_t k = 0; k < r->memory[i].piece_count; k++)
            walk(&r->parts[i], &r->memory[i].pieces[k], r->buffers[i].base, step, true);
    }
}

void kit_scribble(struct kit_rank *r)
{
    for (size_t i = 0; i < r->count; i++) {
        if (r->parts[i].object)
            r->buffers[i].bytes = r->parts[i].shape[0];
        memset(r->buffers[i].base, 0xa5, r->buffers[i].bytes);
    }
}

void kit_check(const struct kit_rank *r, uint64_t step)
{
    for (size_t i = 0; i < r->count; i++)
        if (!kit_part_is(r, i, step)) {
            fprintf(stderr, "rank %u of %u: \"%s\" is not as of step %llu\n", r->rank, r->world,
                    r->parts[i].name, (unsigned long long)step);
            exit(1);
        }
}

/* -- saving and restoring ------------------------------------------------------------------ */

enum ckpt_status kit_save_with(struct kit_rank *r, const struct ckpt_save_opts *o, uint64_t *ret_op)
{
    KIT_OK(ckpt_fence(r->s, 60000));
    kit_fill(r, o->step);
    return ckpt_save(r->s, o, r->buffers, r->count, NULL, ret_op);
}

enum ckpt_status kit_save(struct kit_rank *r, uint64_t step, uint64_t *ret_op)
{
    struct ckpt_save_opts o = { .size = sizeof(o), .step = step };
    return kit_save_with(r, &o, ret_op);
}

enum ckpt_status kit_save_local(struct kit_rank *r, uint64_t step)
{
    uint64_t op = 0;
    enum ckpt_status st = kit_save(r, step, &op);
    return st == CKPT_OK ? ckpt_wait(r->c, op, CKPT_LEVEL_LOCAL, 60000) : st;
}

void kit_restore(struct kit_rank *r)
{
    CHECK(r->point.size);
    kit_scribble(r);
    KIT_OK(ckpt_restore(r->s, NULL, r->buffers, r->count, NULL, NULL));
    kit_check(r, r->point.step);
}
