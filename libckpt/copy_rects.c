/* See copy_rects.h. */
#include "libckpt/copy_rects.h"

#include <assert.h>

struct loop {
    uint64_t count;
    int64_t dense, tensor; /* bytes from one repetition to the next */
};
struct plan {
    struct copy_rect rect; /* the first */
    struct loop loop[CKPT_DIMS_MAX];
    uint32_t n; /* outermost first */
};

static int64_t whole_bytes(int64_t bits)
{
    assert(bits % 8 == 0);
    return bits / 8;
}

static unsigned char *first_element(const struct box *what, const struct box *held,
                                    const struct strided *tensor)
{
    int64_t bits = 0;
    assert(box_contains(held, what));
    for (uint32_t d = 0; d < what->ndim; d++)
        bits += (int64_t)(what->off[d] - held->off[d]) * tensor->stride_bits[d];
    return tensor->base + whole_bytes(bits);
}

/* Loops from the innermost dimension out, merged where one continues the other. */
static struct plan plan_of(const struct box *what, unsigned bits, const struct box *held,
                           const struct strided *tensor)
{
    struct plan p = { .rect = { .tensor = first_element(what, held, tensor), .rows = 1 } };
    struct loop merged[CKPT_DIMS_MAX]; /* innermost first */
    uint64_t run_bits = bits, dense_bits = bits;
    for (uint32_t d = what->ndim; d-- > 0;) {
        uint64_t len = what->len[d];
        int64_t stride = tensor->stride_bits[d];
        struct loop *inner = p.n ? &merged[p.n - 1] : NULL;
        if (len == 1)
            continue;
        if (!inner && stride == (int64_t)run_bits)
            run_bits *= len;
        else if (inner && whole_bytes(stride) == inner->tensor * (int64_t)inner->count)
            inner->count *= len;
        else
            merged[p.n++] =
                (struct loop){ len, whole_bytes((int64_t)dense_bits), whole_bytes(stride) };
        dense_bits *= len;
    }
    p.rect.width = (uint64_t)whole_bytes((int64_t)run_bits);
    for (uint32_t i = 0; i < p.n; i++)
        p.loop[i] = merged[p.n - 1 - i];
    return p;
}

static bool can_pitch(const struct loop *l, uint64_t width)
{
    return l->tensor >= (int64_t)width && l->tensor <= COPY_PITCH_MAX && l->dense <= COPY_PITCH_MAX;
}

/* Takes the longest loop that may be the rows out of the others. */
static void plan_take_rows(struct plan *p)
{
    uint32_t best = p->n;
    for (uint32_t i = 0; i < p->n; i++)
        if (can_pitch(&p->loop[i], p->rect.width) &&
            (best == p->n || p->loop[i].count >= p->loop[best].count))
            best = i;
    if (best == p->n)
        return;
    p->rect.rows = p->loop[best].count;
    p->rect.dense_pitch = (uint64_t)p->loop[best].dense;
    p->rect.tensor_pitch = (uint64_t)p->loop[best].tensor;
    for (uint32_t i = best + 1; i < p->n; i++)
        p->loop[i - 1] = p->loop[i];
    p->n--;
}

enum ckpt_status copy_rects(const struct box *what, unsigned bits, const struct box *held,
                            const struct strided *tensor, copy_rects_call each, void *arg,
                            struct ckpt_err *err)
{
    uint64_t at[CKPT_DIMS_MAX] = { 0 };
    if (box_volume(what) == 0)
        return CKPT_OK;
    struct plan p = plan_of(what, bits, held, tensor);
    plan_take_rows(&p);
    for (;;) {
        enum ckpt_status st = each(arg, &p.rect, err);
        uint32_t d = p.n;
        if (st != CKPT_OK)
            return st;
        while (d > 0 && ++at[d - 1] == p.loop[d - 1].count) {
            d--;
            p.rect.dense -= (uint64_t)p.loop[d].dense * (at[d] - 1);
            p.rect.tensor -= p.loop[d].tensor * (int64_t)(at[d] - 1);
            at[d] = 0;
        }
        if (d == 0)
            return CKPT_OK;
        p.rect.dense += (uint64_t)p.loop[d - 1].dense;
        p.rect.tensor += p.loop[d - 1].tensor;
    }
}
