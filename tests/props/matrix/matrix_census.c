/* What the cases were made of. */
#include "formats/base.h"
#include "formats/dtype.h"
#include "props/matrix/matrix_case.h"

static uint32_t stage_ranks(const struct topo *o)
{
    return o->dr * o->ds * o->tp;
}

static bool expert_role(const struct topo_tensor *t)
{
    return t->role == TOPO_EXPERTS || t->role == TOPO_EXPERT;
}

static uint64_t volume(const struct topo_tensor *t, const uint64_t *len)
{
    uint64_t n = 1;
    for (uint32_t d = 0; d < t->ndim; d++)
        n *= len[d];
    return n;
}

static void count_stage(const struct topo *o, const struct topo_tensor *t, struct matrix_census *c)
{
    c->item[MATRIX_PP] += t->stage == TOPO_LAYER && o->pp > 1;
    c->item[MATRIX_STACK] += t->stage == TOPO_STACK && o->pp > 1;
    c->item[MATRIX_VP] += t->stage == TOPO_LAYER && o->pp > 1 && o->vp > 1 && t->layers > o->pp;
    c->item[MATRIX_VP_STACK] +=
        t->stage == TOPO_STACK && o->pp > 1 && o->vp > 1 && t->shape[0] > o->pp;
    c->item[MATRIX_PP_INNER] += t->stage != TOPO_ALL && o->pp > 1 && o->inner;
}

static void count_role(const struct topo *o, const struct topo_tensor *t, struct matrix_census *c)
{
    bool cut = t->dim < t->ndim && o->tp > 1 && !expert_role(t);
    c->item[MATRIX_TP] += cut;
    c->item[MATRIX_FUSED] += cut && t->role == TOPO_FUSED;
    c->item[MATRIX_VOCAB] += cut && t->role == TOPO_VOCAB && topo_vocab_rows(o, t) > t->shape[0];
    c->item[MATRIX_EP] += t->role == TOPO_EXPERTS && o->ep > 1;
    c->item[MATRIX_EP_ONE] += t->role == TOPO_EXPERT && o->ep > 1;
    c->item[MATRIX_ETP] += expert_role(t) && o->ep > 1 && o->etp > 1 && t->dim < t->ndim;
    if (!cut || t->role != TOPO_SHARD)
        return;
    uint64_t n = div_up(t->shape[t->dim], t->unit[t->dim]);
    c->item[MATRIX_UNEVEN] += n % o->tp != 0;
    c->item[MATRIX_EMPTY_SHARD] += n && div_up(n, div_up(n, o->tp)) < o->tp;
}

static void count_zero(const struct topo *o, const struct topo_tensor *t, struct matrix_census *c)
{
    uint32_t parts = expert_role(t) ? stage_ranks(o) / (o->ep * o->etp) : o->ds;
    bool flat = topo_flat_cuts(o, t);
    c->item[MATRIX_DATA] += parts > 1;
    if (!topo_zero_cuts(o, t) || parts < 2 || volume(t, t->shape) == 0)
        return;
    c->item[MATRIX_HYBRID] += o->dr > 1 && !expert_role(t);
    c->item[MATRIX_ZERO_1] += t->cls == TOPO_OPTIM && o->zero == 1;
    c->item[MATRIX_ZERO_2] += t->cls == TOPO_GRAD && o->zero == 2;
    c->item[MATRIX_ZERO_3] += t->cls == TOPO_PARAM && o->zero == 3;
    c->item[MATRIX_ZERO_EXPERTS] += expert_role(t);
    c->item[MATRIX_BOX] += !flat && t->ndim;
    c->item[MATRIX_FLAT] += flat && !topo_in_bucket(o, t);
    c->item[MATRIX_BUCKET] += topo_in_bucket(o, t);
    c->item[MATRIX_FUSED_FLAT] += flat && o->tp > 1 && t->role == TOPO_FUSED;
    bool strided = !flat && o->strided && o->tp > 1 && !expert_role(t) && t->dim < t->ndim &&
                   t->dim == (t->stage == TOPO_STACK);
    c->item[MATRIX_STRIDED] += strided;
    c->item[MATRIX_STRIDED_UNEVEN] +=
        strided && div_up(t->shape[t->dim], t->unit[t->dim]) % (o->tp * o->ds) != 0;
}

static void count_memory(const struct topo *o, const struct topo_tensor *t,
                         const struct topo_memory *m, bool restore, struct matrix_census *c)
{
    bool turned = false, gaps = m->first > 1, wide = m->wide < t->ndim;
    if (volume(t, t->shape) < 2)
        return;
    c->item[MATRIX_UNALIGNED] += m->lead * 8 % dtype_bits(t->dtype) != 0;
    if (topo_flat_cuts(o, t))
        return;
    for (uint32_t d = 0; d < t->ndim; d++) {
        turned |= m->perm[d] != d && t->shape[d] > 1;
        gaps |= m->gap[d] > 0;
    }
    c->item[restore ? MATRIX_TURNED_TO : MATRIX_TURNED_FROM] += turned;
    c->item[restore ? MATRIX_GAPS_TO : MATRIX_GAPS_FROM] += gaps;
    for (uint32_t d = 0; d < t->ndim; d++)
        c->item[MATRIX_BACKWARDS] += (m->negative >> d & 1) && t->shape[d] > 1 && d != m->wide;
    c->item[MATRIX_WIDE] += wide && t->shape[m->wide] > 1;
}

static void count_kind(const struct topo_tensor *t, const struct topo_hold *h, const struct topo *o,
                       struct matrix_census *c)
{
    unsigned bits = dtype_bits(t->dtype);
    bool cut = false;
    for (size_t i = 0; i < h->count; i++) {
        const struct ckpt_piece *p = &h->piece[i];
        uint64_t bytes = volume(t, p->len) * bits / 8;
        cut |= volume(t, p->len) < volume(t, t->shape);
        c->item[MATRIX_REPLICAS] += p->replica_count > 1;
        c->item[MATRIX_SHARES] += p->replica_count > 1 && bytes >= 8 * MIB;
        c->item[MATRIX_TILES] += bytes > 4 * MIB;
    }
    c->item[MATRIX_BLOCKED_CUT] += cut && t->kind == CKPT_BLOCKED;
    c->item[MATRIX_SUB_BYTE] += cut && bits < 8;
    c->item[MATRIX_FP8] += cut && t->dtype >= CKPT_F8_E4M3 && t->dtype <= CKPT_F8_E5M2FNUZ;
    c->item[MATRIX_LOCKED_COPIES] += h->count && t->kind == CKPT_LOCKED && o->copies > 1;
}

/* Bytes of a rank's buckets that are of no tensor. */
static bool bucket_gaps(const struct matrix_side *s, size_t tensors, uint32_t rank)
{
    uint64_t bytes = 0;
    for (size_t b = tensors; b < s->blobs[rank]; b++)
        bytes += s->bytes[rank][b];
    for (size_t i = 0; i < tensors; i++)
        for (size_t k = 0; s->hold[rank][i].blob >= tensors && k < s->hold[rank][i].count; k++)
            bytes -= volume(&s->tensor[i], s->hold[rank][i].piece[k].len) *
                     dtype_bits(s->tensor[i].dtype) / 8;
    return bytes > 0;
}

static void count_side(const struct matrix_side *s, size_t tensors, bool restore,
                       struct matrix_census *c)
{
    for (uint32_t r = 0; r < s->world; r++) {
        bool nothing = true;
        for (size_t i = 0; i < tensors; i++) {
            count_kind(&s->tensor[i], &s->hold[r][i], &s->topo, c);
            c->item[MATRIX_OMITTED] += matrix_omits(s, tensors, r, i);
            nothing &= s->hold[r][i].count == 0;
        }
        c->item[MATRIX_IDLE] += nothing;
        c->item[MATRIX_BUCKET_GAP] += bucket_gaps(s, tensors, r);
    }
    for (size_t i = 0; i < tensors; i++) {
        const struct topo_tensor *t = &s->tensor[i];
        if (t->tied)
            continue;
        count_memory(&s->topo, t, &s->memory[i], restore, c);
        if (t->role == TOPO_FIXED)
            continue;
        count_stage(&s->topo, t, c);
        count_role(&s->topo, t, c);
        count_zero(&s->topo, t, c);
    }
}

void matrix_count(const struct matrix_model *m, const struct matrix_side *from,
                  const struct matrix_side *to, struct matrix_census *c)
{
    count_side(from, m->count, false, c);
    count_side(to, m->count, true, c);
    for (size_t i = 0; i < m->count; i++) {
        const struct topo_tensor *t = &m->tensor[i];
        c->dims[t->ndim]++;
        c->dtypes[t->dtype]++;
        c->item[MATRIX_EMPTY] += volume(t, t->shape) == 0;
        c->item[MATRIX_SCALAR] += t->ndim == 0;
        c->item[MATRIX_BLOCKED] += t->kind == CKPT_BLOCKED;
        c->item[MATRIX_LOCKED] += t->kind == CKPT_LOCKED;
        c->item[MATRIX_TIED] += t->tied && to->tensor[i].tied;
        c->item[MATRIX_UNTIED] += t->tied && !to->tensor[i].tied;
    }
    c->item[MATRIX_GROWN] += to->world > from->world;
    c->item[MATRIX_SHRUNK] += to->world < from->world;
    c->item[MATRIX_EQUAL] += to->world == from->world;
}

void matrix_census_check(const struct matrix_census *c, bool complete)
{
    static const char *const words[] = {
#define X(name, text) text,
        MATRIX_CENSUS(X)
#undef X
    };
    unsigned long long least = 1;
    for (size_t i = 0; i < MATRIX_ITEMS; i++) {
        printf("%9llu  %s\n", c->item[i], words[i]);
        least = min_u64(least, c->item[i]);
    }
    printf("dimensions:");
    for (uint32_t d = 0; d <= CKPT_MAX_DIMS; d++) {
        printf(" %u:%llu", d, c->dims[d]);
        least = min_u64(least, c->dims[d]);
    }
    printf("\ndtypes:");
    for (uint32_t t = 1; t <= CKPT_I4; t++) {
        printf(" %s:%llu", dtype_name(t), c->dtypes[t]);
        least = min_u64(least, c->dtypes[t]);
    }
    printf("\n");
    fflush(stdout);
    CHECK(!complete || least > 0);
}
