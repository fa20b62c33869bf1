/* See matrix_case.h. */
#include "props/matrix/matrix_case.h"

#include <sys/mman.h>

#include "formats/base.h"
#include "formats/dtype.h"

static uint64_t dice(unsigned long long *rand, uint64_t sides)
{
    return test_rand(rand) % sides;
}

/* -- models -------------------------------------------------------------------------- */

static void random_shape(struct topo_tensor *t, unsigned long long *rand)
{
    static const uint32_t most[] = { 1, 60, 24, 12, 8, 5, 4, 4, 3 };
    uint32_t kind = (uint32_t)dice(rand, 20);
    t->ndim = kind < 1    ? 0
              : kind < 4  ? 1
              : kind < 12 ? 2
              : kind < 14 ? 3
                          : 4 + (uint32_t)dice(rand, 13);
    if (t->ndim == 0 && dtype_bits(t->dtype) < 8)
        t->ndim = 1;
    uint64_t left = 5000;
    for (uint32_t d = 0; d < t->ndim; d++) {
        uint64_t top = t->ndim < ARRAY_COUNT(most) ? most[t->ndim] : 2;
        t->shape[d] = 1 + dice(rand, min_u64(top, left));
        left /= t->shape[d];
        t->unit[d] = 1;
    }
    if (dtype_bits(t->dtype) < 8) { /* rows and cuts on bytes: 4 elements of 4 or of 6 bits */
        t->shape[t->ndim - 1] = align_up(t->shape[t->ndim - 1], 4);
        t->unit[t->ndim - 1] = 4;
    }
    if (t->ndim && dice(rand, 40) == 0)
        t->shape[dice(rand, t->ndim)] = 0;
}

/* Replicas of it are split among their ranks, and it has several tiles. */
static void make_large(struct topo_tensor *t, unsigned long long *rand)
{
    static const enum topo_stage stages[] = { TOPO_LAYER, TOPO_LAYER, TOPO_STACK, TOPO_ALL };
    struct topo_tensor large = { .dtype = CKPT_C128,
                                 .ndim = 2,
                                 .shape = { 130 + dice(rand, 160), 4096 },
                                 .unit = { 1, 1 },
                                 .cls = t->cls,
                                 .dim = CKPT_MAX_DIMS,
                                 .edim = CKPT_MAX_DIMS,
                                 .layers = 1,
                                 .stage = stages[dice(rand, 4)] };
    if (dice(rand, 3) == 0) { /* never split */
        large.kind = CKPT_LOCKED;
        large.role = TOPO_FIXED;
        large.parts = 1;
    }
    memcpy(large.name, t->name, sizeof(large.name));
    *t = large;
}

static void random_fused(struct topo_tensor *t, unsigned long long *rand)
{
    uint64_t rows = 0;
    t->role = TOPO_FUSED;
    t->dim = 0;
    t->groups = 2 + (uint32_t)dice(rand, 2);
    for (uint32_t g = 0; g < t->groups; g++) {
        t->group[g] = (uint32_t)((1 + dice(rand, 9)) * t->unit[0]);
        rows += t->group[g];
    }
    t->shape[0] = rows;
}

static void random_role(struct topo_tensor *t, unsigned long long *rand)
{
    uint32_t first = t->stage == TOPO_STACK; /* the first dimension that is the ranks' to cut */
    t->dim = t->edim = CKPT_MAX_DIMS;
    if (first >= t->ndim)
        return;
    uint32_t kind = (uint32_t)dice(rand, 8), rest = t->ndim - first;
    if (kind < 3) {
        t->role = TOPO_SHARD;
        t->dim = first + (dice(rand, 2) ? 0 : (uint32_t)dice(rand, rest));
    } else if (kind == 3 && first == 0 && t->kind != CKPT_BLOCKED && t->shape[0] < 100) {
        random_fused(t, rand);
    } else if (kind == 4 && first == 0 && t->ndim > 1 && t->kind != CKPT_BLOCKED) {
        t->role = TOPO_VOCAB;
        t->dim = 0;
    } else if (kind == 5) {
        t->role = TOPO_EXPERTS;
        t->edim = first;
        t->dim = rest > 1 && dice(rand, 4) ? first + 1 + (uint32_t)dice(rand, rest - 1) : t->dim;
    } else if (kind == 6) {
        t->role = TOPO_EXPERT;
        t->experts = 1 + (uint32_t)dice(rand, 8);
        t->expert = (uint32_t)dice(rand, t->experts);
        t->dim = dice(rand, 2) ? first : t->dim;
    }
}

static void random_kind(struct topo_tensor *t, unsigned long long *rand)
{
    unsigned kind = (unsigned)dice(rand, 12);
    if (kind == 0) {
        t->kind = CKPT_LOCKED;
        t->role = TOPO_FIXED;
        t->stage = TOPO_ALL;
        t->parts = t->ndim ? 1 + (uint32_t)dice(rand, 3) : 1;
        t->dim = t->edim = CKPT_MAX_DIMS;
        return;
    }
    if (kind == 1 && t->ndim) {
        t->kind = CKPT_BLOCKED;
        for (uint32_t d = 0; d < t->ndim; d++) {
            t->unit[d] *= (d == 0) + 1 + (uint32_t)dice(rand, 3);
            t->block[d] = t->unit[d];
        }
    }
    random_role(t, rand);
}

static void random_stage(struct topo_tensor *t, uint32_t layers, unsigned long long *rand)
{
    static const enum topo_stage rare[] = { TOPO_FIRST, TOPO_LAST, TOPO_ENDS, TOPO_ALL };
    unsigned kind = (unsigned)dice(rand, 6);
    t->layers = layers;
    t->layer = (uint32_t)dice(rand, layers);
    t->stage = kind < 2 ? TOPO_LAYER : kind < 4 && t->ndim ? TOPO_STACK : rare[dice(rand, 4)];
}

static void random_tensor(struct topo_tensor *t, size_t number, uint32_t layers,
                          unsigned long long *rand)
{
    static const char *const parts[] = { "attention", "mlp", "norm", "experts", "router", "ssm" };
    static const char *const leaves[] = { "weight", "bias", "scale", "qkv", "up_proj" };
    *t = (struct topo_tensor){ .cls = (enum topo_cls)dice(rand, 3) };
    t->dtype = 1 + (uint32_t)dice(rand, CKPT_I4);
    if (number % 3 == 1) /* so that buckets have several members */
        t->dtype = CKPT_BF16;
    random_shape(t, rand);
    random_stage(t, layers, rand);
    random_kind(t, rand);
    int n = snprintf(t->name, sizeof(t->name), "%s", dice(rand, 2) ? "model" : "decoder.stack");
    for (uint64_t depth = dice(rand, 3); depth > 0; depth--)
        n += snprintf(t->name + n, sizeof(t->name) - (size_t)n, ".%s.%u",
                      parts[dice(rand, ARRAY_COUNT(parts))], t->layer);
    snprintf(t->name + n, sizeof(t->name) - (size_t)n, ".%s.%zu",
             leaves[dice(rand, ARRAY_COUNT(leaves))], number);
}

void matrix_model_random(struct matrix_model *m, bool large, unsigned long long *rand)
{
    uint32_t layers = 1 + (uint32_t)dice(rand, 7);
    m->count = 2 + dice(rand, 7);
    for (size_t i = 0; i < m->count; i++)
        random_tensor(&m->tensor[i], i, layers, rand);
    if (large)
        make_large(&m->tensor[0], rand);
    if (m->tensor[0].kind != CKPT_ELEMENTWISE || dice(rand, 4))
        return;
    struct topo_tensor *t = &m->tensor[m->count++];
    *t = m->tensor[0];
    t->tied = m->tensor[0].name;
    snprintf(t->name, sizeof(t->name), "tied");
}

/* -- layouts -------------------------------------------------------------------------- */

static uint32_t divisor(uint32_t n, unsigned long long *rand)
{
    uint32_t d = 1 + (uint32_t)dice(rand, n);
    while (n % d)
        d--;
    return d;
}

void matrix_topo_random(struct topo *o, uint32_t ranks_max, unsigned long long *rand)
{
    uint32_t left = 1 + (uint32_t)max_u64(dice(rand, ranks_max), dice(rand, ranks_max));
    *o = (struct topo){ .dr = 1, .pp = 1 };
    if (dice(rand, 2))
        o->pp += (uint32_t)dice(rand, min_u64(left, 4));
    left /= o->pp;
    o->tp = 1 + (uint32_t)dice(rand, min_u64(left, left < 8 ? 3 : 4));
    o->ds = left / o->tp;
    if (o->ds % 2 == 0 && dice(rand, 2)) {
        o->dr = 2;
        o->ds /= 2;
    }
    uint32_t stage = o->dr * o->ds * o->tp;
    o->ep = divisor(stage, rand);
    o->etp = divisor(stage / o->ep, rand);
    o->vp = 1 + (uint32_t)dice(rand, 3);
    o->zero = (uint32_t)dice(rand, 4);
    o->cut = (enum topo_cut)dice(rand, 3);
    o->strided = dice(rand, 2);
    o->inner = dice(rand, 2);
    o->idle = o->pp * stage < ranks_max && dice(rand, 4) == 0;
    o->align = (uint32_t)(4 << dice(rand, 4));
    o->vpad = 1 + (uint32_t)dice(rand, 7);
    o->shift = (uint32_t)dice(rand, 16);
    o->copies = 1 + (uint32_t)dice(rand, 3);
}

static void random_memory(struct topo_memory *m, const struct topo_tensor *t, bool restore,
                          unsigned long long *rand)
{
    bool bytes = dtype_bits(t->dtype) >= 8;
    uint32_t free_dims = t->ndim - (t->ndim && !bytes); /* that may lie as they like */
    *m = topo_dense(t->ndim);
    m->slack = (uint32_t)dice(rand, 20);
    if (dice(rand, 2)) /* as frameworks keep them */
        return;
    m->lead = (uint32_t)dice(rand, 24);
    for (uint32_t d = free_dims; d > 1 && dice(rand, 2); d--) {
        uint32_t other = (uint32_t)dice(rand, d), kept = m->perm[d - 1];
        m->perm[d - 1] = m->perm[other];
        m->perm[other] = kept;
    }
    if (bytes)
        m->first = 1 + (uint32_t)dice(rand, 2);
    for (uint32_t d = 0; d < t->ndim && t->ndim < 7; d++)
        m->gap[d] = (uint32_t)(dice(rand, 3) * (bytes ? 1 : 4));
    if (restore || free_dims == 0)
        return;
    if (dice(rand, 3) == 0)
        m->negative = (uint32_t)dice(rand, UINT64_C(1) << free_dims);
    if (dice(rand, 8) == 0)
        m->wide = (uint32_t)dice(rand, free_dims);
}

/* Topology, tensors and how they lie are there: what all ranks hold, and the memories. */
static void side_hold(struct matrix_side *s, const struct matrix_model *m)
{
    const struct topo *o = &s->topo;
    s->world = topo_world(o);
    CHECK(s->world <= MATRIX_RANKS);
    s->hold = calloc(s->world, sizeof(*s->hold));
    CHECK(s->hold);
    for (uint32_t r = 0; r < s->world; r++) {
        s->blobs[r] = topo_hold(o, s->tensor, m->count, s->memory, r, s->hold[r], s->bytes[r]);
        for (size_t b = 0; b < s->blobs[r]; b++)
            s->total += s->bytes[r][b];
    }
    s->memories =
        mmap(NULL, s->total + 1, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(s->memories != MAP_FAILED);
    memset(s->memories, MATRIX_FILL, s->total);
    uint8_t *at = s->memories;
    for (uint32_t r = 0; r < s->world; r++) {
        for (size_t b = 0; b < s->blobs[r]; at += s->bytes[r][b++])
            s->blob[r][b] = at;
    }
}

void matrix_side_init(struct matrix_side *s, const struct matrix_model *m, const struct topo *o,
                      bool restore, unsigned long long *rand)
{
    *s = (struct matrix_side){ .topo = *o };
    for (size_t i = 0; i < m->count; i++) {
        s->tensor[i] = m->tensor[i];
        random_memory(&s->memory[i], &m->tensor[i], restore, rand);
        if (restore && dice(rand, 2))
            s->tensor[i].tied = NULL;
    }
    side_hold(s, m);
}

void matrix_side_like(struct matrix_side *s, const struct matrix_model *m,
                      const struct matrix_side *restored)
{
    *s = (struct matrix_side){ .topo = restored->topo };
    memcpy(s->tensor, restored->tensor, sizeof(s->tensor));
    memcpy(s->memory, restored->memory, sizeof(s->memory));
    side_hold(s, m);
}

void matrix_side_fini(struct matrix_side *s)
{
    free(s->hold);
    munmap(s->memories, s->total + 1);
}

bool matrix_omits(const struct matrix_side *s, size_t count, uint32_t rank, size_t tensor)
{
    /* The last one may be tied to the first: both, then. */
    bool tie = s->tensor[count - 1].tied && (tensor == 0 || tensor == count - 1);
    bool empty = false; /* rank 0 says that it is there */
    for (uint32_t d = 0; d < s->tensor[tensor].ndim; d++)
        empty |= s->tensor[tensor].shape[d] == 0;
    return s->hold[rank][tensor].count == 0 && !tie && (!empty || rank) && (rank + tensor) % 2;
}
