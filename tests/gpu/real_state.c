/* See real_state.h. */
#include "gpu/real_state.h"

#include <stdio.h>

#include "bench/gpu_kit.h"
#include "formats/base.h"
#include "formats/dtype.h"

#include "check.h"

#define BIG_ONES     3
#define SMALL_BYTES  (UINT64_C(1) << 16)
#define ALIGN        64
#define SLOW_UNITS   (UINT64_C(1) << 16) /* at most so many are copied one by one on purpose */
#define SLOWER_UNITS 1024

static uint64_t below(unsigned long long *rng, uint64_t n)
{
    return test_rand(rng) % n;
}

static uint64_t volume(const uint64_t *len, uint32_t ndim)
{
    uint64_t n = 1;
    for (uint32_t d = 0; d < ndim; d++)
        n *= len[d];
    return n;
}

/* -- tensors ---------------------------------------------------------------------- */

/* About `units` of them in random dimensions; the last one is often the longest. */
static void draw_shape(struct real_tensor *t, unsigned long long *rng, uint64_t units)
{
    t->ndim = 1 + (uint32_t)below(rng, REAL_DIMS);
    for (uint32_t d = 0; d + 1 < t->ndim; d++) {
        t->len[d] = 1 + below(rng, min_u64(units, 60));
        units = max_u64(1, units / t->len[d]);
    }
    t->len[t->ndim - 1] = units;
    uint32_t other = (uint32_t)below(rng, t->ndim);
    uint64_t len = t->len[other];
    t->len[other] = units;
    t->len[t->ndim - 1] = len;
}

static void draw_tensor(struct real_tensor *t, unsigned long long *rng, size_t i, uint64_t largest)
{
    t->dtype = CKPT_BOOL + (uint32_t)below(rng, CKPT_I4);
    unsigned bits = dtype_bits(t->dtype);
    t->unit_bytes = bits % 8 ? bits : bits / 8;
    t->unit_elements = bits % 8 ? 8 : 1;
    t->flags = below(rng, 4) == 0 ? CKPT_VOLATILE : 0;
    snprintf(t->name, sizeof(t->name), "t%zu", i);
    uint64_t most = i < BIG_ONES ? largest : SMALL_BYTES;
    draw_shape(t, rng, 1 + below(rng, most / t->unit_bytes));
    if (i % 8 == 4) /* no element */
        t->len[below(rng, t->ndim)] = 0;
    if (i % 8 == 5) /* one */
        draw_shape(t, rng, 1);
    if (i % 8 == 5 && t->unit_elements == 1)
        t->ndim = 0;
}

void real_draw(struct real_state *ret, unsigned long long *rng, uint64_t largest)
{
    struct real_state st = { .count = 6 + below(rng, REAL_TENSORS - 5) };
    for (size_t i = 0; i < st.count; i++)
        draw_tensor(&st.tensor[i], rng, i, largest);
    *ret = st;
}

/* -- where they lie --------------------------------------------------------------- */

/* Cuts the tensor into boxes. */
static void draw_boxes(struct real_place *p, const struct real_tensor *t, unsigned long long *rng)
{
    p->count = 1;
    memcpy(p->piece[0].len, t->len, sizeof(t->len));
    for (size_t cuts = below(rng, REAL_PIECES); t->ndim && cuts > 0; cuts--) {
        struct real_piece *whole = &p->piece[below(rng, p->count)], *rest = &p->piece[p->count];
        uint32_t d = (uint32_t)below(rng, t->ndim);
        if (whole->len[d] < 2)
            continue;
        uint64_t cut = 1 + below(rng, whole->len[d] - 1);
        *rest = *whole;
        rest->off[d] += cut;
        rest->len[d] -= cut;
        whole->len[d] = cut;
        p->count++;
    }
}

/* The dimensions from the innermost out: the last one first, or any one. */
static void draw_order(uint32_t *order, uint32_t ndim, bool any_first, unsigned long long *rng)
{
    for (uint32_t k = 0; k < ndim; k++)
        order[k] = ndim - 1 - k;
    for (uint32_t k = any_first ? 0 : 1; k + 1 < ndim && below(rng, 2); k++) {
        uint32_t other = k + (uint32_t)below(rng, ndim - k), d = order[k];
        order[k] = order[other];
        order[other] = d;
    }
}

/* Strides of an array of these lengths; returns how far it reaches. */
static uint64_t draw_strides(const struct real_tensor *t, const uint64_t *len, int64_t *ret_stride,
                             unsigned long long *rng)
{
    uint32_t order[REAL_DIMS];
    bool free_first = t->unit_elements == 1 && volume(len, t->ndim) <= SLOW_UNITS;
    uint64_t next = free_first && below(rng, 4) == 0 ? 1 + below(rng, 3) : 1, reach = 1;
    draw_order(order, t->ndim, free_first, rng);
    for (uint32_t k = 0; k < t->ndim; k++) {
        uint32_t d = order[k];
        ret_stride[d] = (int64_t)next;
        reach += len[d] ? (len[d] - 1) * next : 0;
        next = next * max_u64(1, len[d]) + (below(rng, 3) == 0 ? below(rng, 5) : 0);
    }
    return reach;
}

/* Each box for itself, one behind the other, perhaps held from its end. */
static uint64_t lay_apart(struct real_place *p, const struct real_tensor *t,
                          unsigned long long *rng, bool fill)
{
    uint64_t end = below(rng, 4);
    for (size_t i = 0; i < p->count; i++) {
        struct real_piece *piece = &p->piece[i];
        uint64_t units = volume(piece->len, t->ndim);
        piece->first = end;
        end += draw_strides(t, piece->len, piece->stride, rng) + below(rng, 4);
        if (fill || !t->ndim || !units || units > SLOWER_UNITS || t->unit_elements > 1 ||
            below(rng, 3))
            continue;
        uint32_t d = (uint32_t)below(rng, t->ndim);
        piece->first += (piece->len[d] - 1) * (uint64_t)piece->stride[d];
        piece->stride[d] = -piece->stride[d];
    }
    return end;
}

/* All boxes are slices of one array. */
static uint64_t lay_slices(struct real_place *p, const struct real_tensor *t,
                           unsigned long long *rng)
{
    int64_t stride[REAL_DIMS] = { 0 };
    uint64_t begin = below(rng, 4), reach = draw_strides(t, t->len, stride, rng);
    for (size_t i = 0; i < p->count; i++) {
        struct real_piece *piece = &p->piece[i];
        memcpy(piece->stride, stride, sizeof(stride));
        piece->first = begin;
        for (uint32_t d = 0; d < t->ndim; d++)
            piece->first += piece->off[d] * (uint64_t)stride[d];
    }
    return begin + reach + below(rng, 4);
}

/* The first one has elements and lies on a device. */
void real_lay(const struct real_state *st, struct real_memory *ret, unsigned long long *rng,
              int devices, bool fill)
{
    bool mixed = below(rng, 2); /* with host memory, for which every fence makes the host wait */
    memset(ret, 0, sizeof(*ret));
    for (size_t i = 0; i < st->count; i++) {
        const struct real_tensor *t = &st->tensor[i];
        struct real_place *p = &ret->place[i];
        p->device = i && mixed && below(rng, 4) == 0 ? -1 : (int)below(rng, (uint64_t)devices);
        draw_boxes(p, t, rng);
        p->bytes =
            t->unit_bytes * (below(rng, 2) ? lay_slices(p, t, rng) : lay_apart(p, t, rng, fill));
        p->bytes = volume(t->len, t->ndim) ? p->bytes : 0;
        p->at = ret->bytes;
        ret->bytes += align_up(p->bytes, ALIGN);
    }
}

void real_declare(const struct real_state *st, const struct real_memory *m, struct ckpt_state *s)
{
    for (size_t i = 0; i < st->count; i++) {
        const struct real_tensor *t = &st->tensor[i];
        const struct real_place *p = &m->place[i];
        struct ckpt_piece pieces[REAL_PIECES] = { 0 };
        uint64_t shape[REAL_DIMS];
        struct ckpt_tensor_desc d = { .size = sizeof(d),
                                      .name = t->name,
                                      .dtype = t->dtype,
                                      .flags = t->flags,
                                      .ndim = t->ndim,
                                      .shape = shape };
        for (uint32_t k = 0; k < t->ndim; k++) {
            bool last = k + 1 == t->ndim;
            shape[k] = t->len[k] * (last ? t->unit_elements : 1);
            for (size_t n = 0; n < p->count; n++) {
                pieces[n].off[k] = p->piece[n].off[k] * (last ? t->unit_elements : 1);
                pieces[n].len[k] = p->piece[n].len[k] * (last ? t->unit_elements : 1);
                pieces[n].stride[k] = p->piece[n].stride[k] * (last ? 1 : t->unit_elements);
            }
        }
        for (size_t n = 0; n < p->count; n++)
            pieces[n].offset_bytes = p->piece[n].first * t->unit_bytes;
        gpu_kit_ok(ckpt_tensor(s, &d, pieces, p->count), "ckpt_tensor");
    }
}

/* -- bytes ------------------------------------------------------------------------ */

static uint64_t mixed(uint64_t z)
{
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

void real_noise(unsigned char *image, uint64_t bytes, uint64_t seed)
{
    unsigned long long rng = ~seed;
    for (uint64_t at = 0; at < bytes; at += 8) {
        unsigned long long x = test_rand(&rng);
        memcpy(image + at, &x, min_u64(8, bytes - at));
    }
}

/* The unit at place `index` of the whole tensor. */
static void paint_unit(unsigned char *to, unsigned bytes, uint64_t key, uint64_t index)
{
    uint64_t x[2] = { mixed(key + index * UINT64_C(0x9e3779b97f4a7c15)), 0 };
    if (bytes > sizeof(x[0]))
        x[1] = mixed(~x[0]);
    memcpy(to, x, bytes);
}

static void paint_piece(const struct real_tensor *t, const struct real_piece *p, uint64_t key,
                        unsigned char *buffer)
{
    uint64_t at[REAL_DIMS] = { 0 }, n = volume(p->len, t->ndim);
    for (uint64_t i = 0; i < n; i++) {
        uint64_t index = 0;
        int64_t unit = (int64_t)p->first;
        for (uint32_t d = 0; d < t->ndim; d++) {
            index = index * t->len[d] + p->off[d] + at[d];
            unit += (int64_t)at[d] * p->stride[d];
        }
        paint_unit(buffer + unit * t->unit_bytes, t->unit_bytes, key, index);
        for (uint32_t d = t->ndim; d-- > 0 && ++at[d] == p->len[d];)
            at[d] = 0;
    }
}

void real_paint(const struct real_state *st, const struct real_memory *m, uint64_t step,
                unsigned char *image)
{
    for (size_t i = 0; i < st->count; i++)
        for (size_t n = 0; n < m->place[i].count; n++)
            paint_piece(&st->tensor[i], &m->place[i].piece[n], mixed(step * REAL_TENSORS + i + 1),
                        image + m->place[i].at);
}
