/* Random declarations for the tests of everything that stands on them. */
#pragma once

#include "formats/decl.h"

#include "check.h"

static inline uint64_t below(unsigned long long *seed, uint64_t n)
{
    return test_rand(seed) % n;
}

/* Cuts `box` into at most `cap` disjoint boxes along multiples of `unit`. */
static inline size_t random_split(unsigned long long *seed, struct box box, const uint32_t *unit,
                                  struct box *ret, size_t cap)
{
    size_t n = 1;
    ret[0] = box;
    for (size_t tries = 0; n < cap && box.ndim && tries < cap; tries++) {
        struct box *from = &ret[below(seed, n)];
        uint32_t d = (uint32_t)below(seed, box.ndim), u = unit[d] ? unit[d] : 1;
        uint64_t parts = from->len[d] / u;
        if (parts < 2)
            continue;
        uint64_t cut = (1 + below(seed, parts - 1)) * u;
        ret[n] = *from;
        ret[n].off[d] += cut;
        ret[n].len[d] -= cut;
        from->len[d] = cut;
        n++;
    }
    return n;
}

static inline void random_pieces(unsigned long long *seed, struct decl *d,
                                 const struct decl_tensor *t)
{
    struct box parts[12];
    uint32_t unit[CKPT_DIMS_MAX];
    unsigned bits = dtype_bits(t->dtype);
    for (uint32_t i = 0; i < t->ndim; i++)
        unit[i] = t->block[i] > 1 ? t->block[i] : (bits % 8 && i + 1 == t->ndim ? 8 : 1);
    size_t n = random_split(seed, box_whole(t->ndim, t->shape), unit, parts, 1 + below(seed, 12));
    for (size_t i = 0; i < n; i++) {
        uint32_t replicas = below(seed, 3) ? 1 : 1 + (uint32_t)below(seed, 5);
        struct decl_piece p = { .box = parts[i],
                                .replica = (uint32_t)below(seed, replicas),
                                .replica_count = replicas };
        if (below(seed, 3) == 0)
            continue; /* another rank holds it */
        for (uint32_t k = 0; k < t->ndim; k++)
            p.stride[k] = 1;
        for (uint32_t k = t->ndim; k-- > 1;)
            p.stride[k - 1] = p.stride[k] * (int64_t)p.box.len[k];
        CHECK_OK(decl_add_piece(d, &p, NULL));
    }
}

/* One tensor of random kind, dtype and shape (a few MiB at most); not an alias. */
static inline struct decl_tensor random_tensor(unsigned long long *seed, char *name)
{
    struct decl_tensor t = { .name = name, .ndim = (uint32_t)below(seed, 5) };
    do
        t.dtype = (uint8_t)(1 + below(seed, 25));
    while (!dtype_bits(t.dtype) || (!t.ndim && dtype_bits(t.dtype) % 8));
    uint64_t room = 1 + below(seed, UINT64_C(3) << below(seed, 22));
    for (uint32_t i = 0; i < t.ndim; i++) {
        t.shape[i] = 1 + below(seed, room);
        room = room / t.shape[i] ? room / t.shape[i] : 1;
    }
    if (t.ndim && below(seed, 16) == 0)
        t.shape[below(seed, t.ndim)] = 0;
    if (t.ndim && dtype_bits(t.dtype) % 8)
        t.shape[t.ndim - 1] *= 8;
    t.kind = (uint8_t)below(seed, 3);
    if (t.kind == DECL_BLOCKED && (!t.ndim || dtype_bits(t.dtype) % 8))
        t.kind = DECL_ELEMENTWISE;
    if (t.kind == DECL_BLOCKED)
        t.block[below(seed, t.ndim)] = 2 + (uint32_t)below(seed, 30);
    if (below(seed, 8) == 0)
        t.flags |= DECL_VOLATILE;
    return t;
}

/* Objects, aliases, scalars, empty tensors, replicas, locked and blocked ones. */
static inline void random_decl(unsigned long long *seed, struct decl *d, size_t tensors)
{
    char name[64], target[64] = "";
    struct decl_tensor last = { 0 };
    for (size_t i = 0; i < tensors; i++) {
        snprintf(name, sizeof(name), "layer.%llu/t%zu", (unsigned long long)below(seed, 40), i);
        struct decl_tensor t = random_tensor(seed, name);
        uint64_t what = below(seed, 8);
        if (what == 0) {
            t = (struct decl_tensor){ .name = name,
                                      .dtype = CKPT_DTYPE_U8,
                                      .ndim = 1,
                                      .flags = DECL_OBJECT,
                                      .shape = { DECL_OBJECT_HEAD + below(seed, 5000) } };
        } else if (what == 1 && target[0]) {
            t = last;
            t.name = name;
            t.alias = target;
            t.flags = DECL_ALIAS;
        }
        CHECK_OK(decl_add_tensor(d, &t, NULL));
        if (t.alias)
            continue;
        random_pieces(seed, d, &t);
        if (!(t.flags & DECL_OBJECT)) {
            last = t;
            snprintf(target, sizeof(target), "%s", name);
        }
    }
}
