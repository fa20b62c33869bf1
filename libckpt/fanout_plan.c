/* See fanout_plan.h. */
#include "libckpt/fanout_plan.h"

#define ROUND_UNITS 64 /* broadcasts of one group become one kernel */

/* What is at hand while a plan is made. */
struct maker {
    const struct fanout_ask *ask;
    struct fanout_plan *p;
    struct box *shares; /* per rank */
    uint64_t *slabs;    /* per rank: how many units; 0 = it owns nothing */
    struct digest_state digest;
};

void fanout_plan_fini(struct fanout_plan *p)
{
    free(p->units);
    decl_fini(&p->part);
    free(p->of);
    free(p->came);
    *p = (struct fanout_plan){ 0 };
}

static enum ckpt_status no_memory(struct ckpt_err *err)
{
    return err_set(err, CKPT_NO_MEMORY, "out of memory for the plan");
}

/* One run of memory? */
static bool contiguous(const struct box *box, unsigned bits, const struct strided *at)
{
    uint64_t run = bits;
    for (uint32_t d = box->ndim; d-- > 0;) {
        if (box->len[d] > 1 && at->stride_bits[d] != (int64_t)run)
            return false;
        run *= box->len[d];
    }
    return true;
}

static unsigned char *address(const struct box *box, const struct box *held,
                              const struct strided *at)
{
    int64_t bits = 0;
    for (uint32_t d = 0; d < box->ndim; d++)
        bits += (int64_t)(box->off[d] - held->off[d]) * at->stride_bits[d];
    return at->base + bits / 8;
}

static void slab_shape(const struct decl_tensor *t, const struct box *share, uint64_t *ret)
{
    tile_shape_default(share, dtype_bits(t->dtype), FANOUT_UNIT_BYTES,
                       t->kind == DECL_BLOCKED ? t->block : NULL, ret);
    for (uint32_t d = 0; t->kind == DECL_LOCKED && d < share->ndim; d++)
        ret[d] = max_u64(share->len[d], 1); /* comes back as it was saved or not at all */
}

/* Who reads what of the piece; the most units that a rank has of it, 0: it is not dealt. */
static uint64_t deal(struct maker *m, const struct decl_tensor *t, const struct decl_piece *p,
                     const struct strided *at)
{
    unsigned bits = dtype_bits(t->dtype);
    uint64_t most = 0, shape[CKPT_DIMS_MAX];
    struct decl_piece all = *p;
    all.replica_count = m->ask->count;
    for (uint32_t i = 0; i < m->ask->count; i++) {
        m->slabs[i] = 0;
        if (!decl_share(t, &all, i, &m->shares[i]))
            continue;
        slab_shape(t, &m->shares[i], shape);
        m->slabs[i] = tile_count(&m->shares[i], shape);
        most = max_u64(most, m->slabs[i]);
        for (uint64_t k = 0; k < m->slabs[i]; k++) {
            struct box slab = tile_at(&m->shares[i], shape, k);
            if (!contiguous(&slab, bits, at))
                return 0;
        }
    }
    return most;
}

/* Adds to the part of the checkpoint that this rank asks for. */
static enum ckpt_status ask_for(struct maker *m, size_t piece, const struct box *box,
                                struct ckpt_err *err)
{
    struct fanout_plan *p = m->p;
    struct decl_piece copy = m->ask->decl->pieces[piece];
    copy.box = *box;
    size_t n = p->part.piece_count;
    if (!array_room((void **)&p->of, n, &p->of_cap, sizeof(*p->of)))
        return no_memory(err);
    p->of[n] = piece;
    return decl_add_piece(&p->part, &copy, err);
}

static void digest_unit(struct maker *m, const struct decl_tensor *t, const struct fanout_unit *u)
{
    const uint32_t head[] = { t->dtype, t->kind, u->owner, u->box.ndim };
    digest_add(&m->digest, t->name, strlen(t->name) + 1);
    digest_add(&m->digest, head, sizeof(head));
    digest_add(&m->digest, u->box.off, u->box.ndim * sizeof(uint64_t));
    digest_add(&m->digest, u->box.len, u->box.ndim * sizeof(uint64_t));
}

static enum ckpt_status add_unit(struct maker *m, size_t piece, uint32_t owner,
                                 const struct box *box, struct ckpt_err *err)
{
    struct fanout_plan *p = m->p;
    const struct decl_piece *held = &m->ask->decl->pieces[piece];
    const struct decl_tensor *t = &m->ask->decl->tensors[held->tensor];
    enum ckpt_status st = CKPT_OK;
    if (!array_room((void **)&p->units, p->count, &p->cap, sizeof(*p->units)))
        return no_memory(err);
    struct fanout_unit *u = &p->units[p->count++];
    *u = (struct fanout_unit){ .piece = piece,
                               .owner = owner,
                               .box = *box,
                               .bytes = box_bytes(box, dtype_bits(t->dtype)),
                               .at = address(box, &held->box, &m->ask->at[piece]),
                               .part_piece = SIZE_MAX };
    p->bytes += u->bytes;
    digest_unit(m, t, u);
    if (owner != m->ask->rank)
        return CKPT_OK;
    u->part_piece = p->part.piece_count;
    p->bytes_mine += u->bytes;
    st = ask_for(m, piece, box, err);
    return st;
}

/* Everybody's units of a piece, in turns. */
static enum ckpt_status add_units(struct maker *m, size_t piece, uint64_t most,
                                  struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_OK;
    uint64_t shape[CKPT_DIMS_MAX];
    const struct decl *d = m->ask->decl;
    const struct decl_tensor *t = &d->tensors[d->pieces[piece].tensor];
    for (uint64_t k = 0; k < most; k++)
        for (uint32_t i = 0; st == CKPT_OK && i < m->ask->count; i++) {
            if (k >= m->slabs[i])
                continue;
            slab_shape(t, &m->shares[i], shape);
            struct box slab = tile_at(&m->shares[i], shape, k);
            st = add_unit(m, piece, i, &slab, err);
        }
    return st;
}

static enum ckpt_status plan_tensor(struct maker *m, const struct decl_tensor *t,
                                    struct ckpt_err *err)
{
    const struct fanout_ask *ask = m->ask;
    bool may = !(t->flags & (DECL_OBJECT | DECL_OPTIONAL)) && select_wants(ask->select, t->name);
    enum ckpt_status st = decl_add_tensor(&m->p->part, t, err);
    for (size_t i = 0; st == CKPT_OK && i < t->piece_count; i++) {
        size_t piece = t->first_piece + i;
        const struct decl_piece *p = &ask->decl->pieces[piece];
        bool here = may && p->replica_count == ask->count && ask->on[piece] == ask->device &&
                    box_volume(&p->box) > 0;
        uint64_t most = here ? deal(m, t, p, &ask->at[piece]) : 0;
        if (most > 0)
            st = add_units(m, piece, most, err);
        else
            st = ask_for(m, piece, &p->box, err);
    }
    return st;
}

static enum ckpt_status plan_all(struct maker *m, struct ckpt_err *err)
{
    const struct decl *d = m->ask->decl;
    enum ckpt_status st = CKPT_OK;
    digest_begin(&m->digest);
    for (size_t i = 0; st == CKPT_OK && i < d->tensor_count; i++)
        st = plan_tensor(m, &d->tensors[i], err);
    m->p->digest = digest_end(&m->digest);
    if (st == CKPT_OK && m->p->count == 0)
        return err_set(err, CKPT_UNSUPPORTED,
                       "no tensor is declared as held by all %u ranks and lies densely on the "
                       "communicator's device",
                       m->ask->count);
    if (st == CKPT_OK)
        st = decl_finish(&m->p->part, d->slot_bytes, err);
    if (st == CKPT_OK && !(m->p->came = calloc(m->p->part.piece_count + 1, sizeof(uint64_t))))
        st = no_memory(err);
    return st;
}

enum ckpt_status fanout_plan_make(const struct fanout_ask *ask, struct fanout_plan *ret,
                                  struct ckpt_err *err)
{
    struct fanout_plan p = { 0 };
    struct maker m = { .ask = ask, .p = &p };
    m.shares = calloc(ask->count, sizeof(*m.shares));
    m.slabs = calloc(ask->count, sizeof(*m.slabs));
    enum ckpt_status st = m.shares && m.slabs ? plan_all(&m, err) : no_memory(err);
    free(m.shares);
    free(m.slabs);
    if (st == CKPT_OK)
        *ret = p;
    else
        fanout_plan_fini(&p);
    return st;
}

size_t fanout_plan_round(const struct fanout_plan *p, size_t first)
{
    size_t end = first + 1;
    uint64_t bytes = p->units[first].bytes;
    while (end < p->count && end - first < ROUND_UNITS &&
           bytes + p->units[end].bytes <= FANOUT_UNIT_BYTES)
        bytes += p->units[end++].bytes;
    return end;
}
