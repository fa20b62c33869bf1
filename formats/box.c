/* Box arithmetic and the one strided host copy.
 *
 * Volumes: a checked shape has fewer than 2^62 bits with its zero lengths counted
 * as one, so no product of lengths, no offset and no stride of a checked box
 * overflows 63 bits, and the code below box_check does not look again. */
#include "formats/box.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>

#include "formats/bulk.h"

#define BOX_BITS_MAX (UINT64_C(1) << 62)

bool shape_bytes(uint32_t ndim, const uint64_t *shape, unsigned bits, uint64_t *ret_bytes)
{
    uint64_t product = bits;
    bool empty = false;
    for (uint32_t d = 0; d < ndim; d++) {
        empty |= shape[d] == 0;
        if (__builtin_mul_overflow(product, max_u64(shape[d], 1), &product))
            return false;
    }
    if (product >= BOX_BITS_MAX)
        return false;
    *ret_bytes = empty ? 0 : div_up(product, 8);
    return true;
}

struct box box_whole(uint32_t ndim, const uint64_t *shape)
{
    struct box box = { .ndim = ndim };
    assert(ndim <= CKPT_DIMS_MAX);
    for (uint32_t d = 0; d < ndim; d++)
        box.len[d] = shape[d];
    return box;
}

static bool on_byte(uint64_t elements, unsigned bits)
{
    return elements % 8 * bits % 8 == 0;
}

/* A box without volume has no bytes, hence no borders to check. */
static enum ckpt_status check_byte_borders(const struct box *box, unsigned bits,
                                           struct ckpt_err *err)
{
    if (bits % 8 == 0 || box_volume(box) == 0)
        return CKPT_OK;
    if (box->ndim == 0)
        return err_set(err, CKPT_INVALID, "a scalar of %u bits does not fill a byte", bits);
    uint32_t last = box->ndim - 1;
    if (on_byte(box->off[last], bits) && on_byte(box->len[last], bits))
        return CKPT_OK;
    return err_set(err, CKPT_INVALID,
                   "dimension %u: [%" PRIu64 ":+%" PRIu64
                   "] of %u-bit elements does not start and end on a byte",
                   last, box->off[last], box->len[last], bits);
}

enum ckpt_status box_check(const struct box *box, const uint64_t *shape, unsigned bits,
                           struct ckpt_err *err)
{
    uint64_t bytes;
    if (box->ndim > CKPT_DIMS_MAX)
        return err_set(err, CKPT_LIMIT, "%u dimensions, at most %d are supported", box->ndim,
                       CKPT_DIMS_MAX);
    if (bits == 0 || bits > 128)
        return err_set(err, CKPT_INVALID, "elements of %u bits", bits);
    if (!shape_bytes(box->ndim, shape, bits, &bytes))
        return err_set(err, CKPT_LIMIT, "the shape holds more than 2^62 bits");
    for (uint32_t d = 0; d < box->ndim; d++) {
        if (box->off[d] > shape[d] || box->len[d] > shape[d] - box->off[d])
            return err_set(err, CKPT_INVALID,
                           "dimension %u: [%" PRIu64 ":+%" PRIu64
                           "] does not lie inside the length %" PRIu64,
                           d, box->off[d], box->len[d], shape[d]);
    }
    return check_byte_borders(box, bits, err);
}

uint64_t box_volume(const struct box *box)
{
    uint64_t volume = 1;
    for (uint32_t d = 0; d < box->ndim; d++)
        volume *= box->len[d];
    return volume;
}

uint64_t box_bytes(const struct box *box, unsigned bits)
{
    uint64_t total = box_volume(box) * bits;
    assert(total % 8 == 0);
    return total / 8;
}

bool box_equal(const struct box *a, const struct box *b)
{
    size_t used = a->ndim * sizeof(a->off[0]);
    return a->ndim == b->ndim && memcmp(a->off, b->off, used) == 0 &&
           memcmp(a->len, b->len, used) == 0;
}

bool box_contains(const struct box *outer, const struct box *inner)
{
    if (outer->ndim != inner->ndim)
        return false;
    for (uint32_t d = 0; d < outer->ndim; d++) {
        if (inner->off[d] < outer->off[d] ||
            inner->off[d] + inner->len[d] > outer->off[d] + outer->len[d])
            return false;
    }
    return true;
}

bool box_intersect(const struct box *a, const struct box *b, struct box *ret)
{
    struct box common = { .ndim = a->ndim };
    assert(a->ndim == b->ndim);
    for (uint32_t d = 0; d < a->ndim; d++) {
        uint64_t off = max_u64(a->off[d], b->off[d]);
        uint64_t end = min_u64(a->off[d] + a->len[d], b->off[d] + b->len[d]);
        if (off >= end)
            return false;
        common.off[d] = off;
        common.len[d] = end - off;
    }
    *ret = common;
    return true;
}

void dense_strides(uint32_t ndim, const uint64_t *len, unsigned bits, int64_t *ret_bits)
{
    uint64_t stride = bits;
    for (uint32_t d = ndim; d-- > 0;) {
        ret_bits[d] = (int64_t)stride;
        stride *= max_u64(len[d], 1);
    }
}

struct strided dense_at(const struct box *box, unsigned bits, void *base)
{
    struct strided at = { .base = base };
    dense_strides(box->ndim, box->len, bits, at.stride_bits);
    return at;
}

char *box_to_text(const struct box *box, char *buf, size_t cap)
{
    size_t at = (size_t)snprintf(buf, cap, "[");
    for (uint32_t d = 0; d < box->ndim && at < cap; d++)
        at += (size_t)snprintf(buf + at, cap - at, "%s%" PRIu64 ":%" PRIu64, d ? ", " : "",
                               box->off[d], box->off[d] + box->len[d]);
    if (at < cap)
        snprintf(buf + at, cap - at, "]");
    return buf;
}

/* A copy reduced to what the loops need: `run` contiguous bytes, repeated over
 * `n` loops, the innermost last. */
struct copy_loop {
    uint64_t count;
    int64_t dst, src; /* bytes from one repetition to the next */
};
struct copy_plan {
    unsigned char *dst;
    const unsigned char *src;
    size_t run;
    uint32_t n;
    struct copy_loop loop[CKPT_DIMS_MAX];
};

static int64_t whole_bytes(int64_t bits)
{
    assert(bits % 8 == 0);
    return bits / 8;
}

/* The address of the first element of `what`.  A single term may not be a whole
 * number of bytes, the sum is. */
static unsigned char *address_of(const struct strided *at, const struct box *holder,
                                 const struct box *what)
{
    int64_t bits = 0;
    for (uint32_t d = 0; d < what->ndim; d++) {
        assert(what->off[d] >= holder->off[d]);
        assert(what->off[d] + what->len[d] <= holder->off[d] + holder->len[d]);
        bits += (int64_t)(what->off[d] - holder->off[d]) * at->stride_bits[d];
    }
    return at->base + whole_bytes(bits);
}

/* Keeps the loops sorted by the destination's stride, largest first, so that two
 * arrays of the same memory order merge whatever that order is and writes go
 * forward.  Loops of equal stride keep their order. */
static void plan_add_loop(struct copy_plan *plan, struct copy_loop loop)
{
    uint32_t i = plan->n++;
    assert(loop.dst > 0);
    for (; i > 0 && plan->loop[i - 1].dst < loop.dst; i--)
        plan->loop[i] = plan->loop[i - 1];
    plan->loop[i] = loop;
}

/* Folds inner loops that continue each other on both sides into one, and the
 * innermost into the run. */
static void plan_merge(struct copy_plan *plan)
{
    uint32_t kept = 0; /* the merged loops, innermost first, at the array's end */
    struct copy_loop merged[CKPT_DIMS_MAX];
    for (uint32_t i = plan->n; i-- > 0;) {
        struct copy_loop loop = plan->loop[i];
        struct copy_loop *inner = kept ? &merged[kept - 1] : NULL;
        if (!inner && loop.dst == (int64_t)plan->run && loop.src == (int64_t)plan->run)
            plan->run *= loop.count;
        else if (inner && loop.dst == inner->dst * (int64_t)inner->count &&
                 loop.src == inner->src * (int64_t)inner->count)
            inner->count *= loop.count;
        else
            merged[kept++] = loop;
    }
    for (uint32_t i = 0; i < kept; i++)
        plan->loop[i] = merged[kept - 1 - i];
    plan->n = kept;
}

/* Runs of one size known to the compiler become plain loads and stores. */
static inline __attribute__((always_inline)) void
copy_runs(unsigned char *dst, const unsigned char *src, size_t run, const struct copy_loop *loop)
{
    for (uint64_t i = 0; i < loop->count; i++) {
        memcpy(dst, src, run);
        dst += loop->dst;
        src += loop->src;
    }
}

static void copy_innermost(unsigned char *dst, const unsigned char *src, size_t run,
                           const struct copy_loop *loop)
{
    switch (run) {
    case 1:
        copy_runs(dst, src, 1, loop);
        break;
    case 2:
        copy_runs(dst, src, 2, loop);
        break;
    case 4:
        copy_runs(dst, src, 4, loop);
        break;
    case 8:
        copy_runs(dst, src, 8, loop);
        break;
    case 16:
        copy_runs(dst, src, 16, loop);
        break;
    default:
        bulk_copy_runs(dst, (size_t)loop->dst, src, loop->src, run, loop->count);
        break;
    }
}

static void plan_run(const struct copy_plan *plan)
{
    uint64_t at[CKPT_DIMS_MAX] = { 0 };
    unsigned char *dst = plan->dst;
    const unsigned char *src = plan->src;
    uint32_t inner = plan->n - 1;
    for (;;) {
        copy_innermost(dst, src, plan->run, &plan->loop[inner]);
        uint32_t d = inner;
        for (; d > 0; d--) {
            const struct copy_loop *loop = &plan->loop[d - 1];
            dst += loop->dst;
            src += loop->src;
            if (++at[d - 1] < loop->count)
                break;
            dst -= loop->dst * (int64_t)loop->count;
            src -= loop->src * (int64_t)loop->count;
            at[d - 1] = 0;
        }
        if (d == 0)
            return;
    }
}

void box_copy(const struct box *what, unsigned bits, const struct box *dst_box,
              const struct strided *dst, const struct box *src_box, const struct strided *src)
{
    uint32_t loops = what->ndim;
    assert(what->ndim == dst_box->ndim && what->ndim == src_box->ndim);
    if (box_volume(what) == 0)
        return;
    struct copy_plan plan = { .dst = address_of(dst, dst_box, what),
                              .src = address_of(src, src_box, what),
                              .run = bits / 8 };
    if (bits % 8 != 0) { /* the last dimension is dense, and a run of whole bytes */
        assert(loops > 0);
        loops--;
        assert(dst->stride_bits[loops] == bits && src->stride_bits[loops] == bits);
        plan.run = (size_t)whole_bytes((int64_t)(what->len[loops] * bits));
    }
    for (uint32_t d = 0; d < loops; d++) {
        if (what->len[d] > 1)
            plan_add_loop(&plan, (struct copy_loop){ .count = what->len[d],
                                                     .dst = whole_bytes(dst->stride_bits[d]),
                                                     .src = whole_bytes(src->stride_bits[d]) });
    }
    plan_merge(&plan);
    if (plan.n == 0)
        bulk_copy(plan.dst, plan.src, plan.run);
    else
        plan_run(&plan);
}
