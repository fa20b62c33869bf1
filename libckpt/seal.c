/* Sealing: the declaration is validated and told to the daemon, the arena comes back;
 * and for each operation the sealed state is pointed at the caller's buffers. */
#include <stdio.h>

#include "libckpt/context.h"

/* How many bytes tensor `t`'s buffer must have for its pieces; refuses pieces that
 * reach below its start. */
static enum ckpt_status buffer_need(const struct decl *d, const struct decl_tensor *t,
                                    uint64_t *ret, struct ckpt_err *err)
{
    unsigned bits = dtype_bits(t->dtype);
    uint64_t need = 0;
    for (size_t i = 0; i < t->piece_count; i++) {
        const struct decl_piece *p = &d->pieces[t->first_piece + i];
        __int128 low = (__int128)p->offset_bytes * 8, high = low + bits;
        if (box_volume(&p->box) == 0)
            continue;
        for (uint32_t k = 0; k < t->ndim; k++) {
            __int128 reach = (__int128)(p->box.len[k] - 1) * p->stride[k] * (int64_t)bits;
            *(reach < 0 ? &low : &high) += reach;
        }
        if (low < 0 || high > ((__int128)1 << 62))
            return err_set(err, CKPT_INVALID,
                           "tensor \"%s\", piece %zu: offset %llu and its strides reach outside "
                           "any buffer",
                           t->name, i, (unsigned long long)p->offset_bytes);
        need = max_u64(need, (uint64_t)((high + 7) / 8));
    }
    *ret = need;
    return CKPT_OK;
}

static enum ckpt_status make_side(struct ckpt_state *s, size_t tensor, struct ckpt_err *err)
{
    const struct decl_tensor *t = &s->decl.tensors[tensor];
    struct lib_side *side = &s->sides[s->side_count];
    *side = (struct lib_side){ .tensor = tensor };
    side->len = s->need_bytes[tensor];
    side->capacity = t->flags & DECL_OBJECT ? t->shape[0] - DECL_OBJECT_HEAD : 0;
    /* An object's is not touched before it is used; a tensor's may be what a device copies to. */
    if (side->capacity)
        side->bytes = calloc(side->len / CKPT_BLOCK + 1, CKPT_BLOCK);
    else if (room_make(&side->room, max_u64(side->len, 1)))
        side->bytes = side->room.bytes;
    if (!side->bytes)
        return err_set(err, CKPT_NO_MEMORY, "tensor \"%s\": no memory for its copy of %llu bytes",
                       t->name, (unsigned long long)side->len);
    if (!side->capacity)
        memset(side->bytes, 0, side->len);
    s->side_count++;
    return CKPT_OK;
}

static int by_number(const void *a, const void *b)
{
    size_t x = ((const struct lib_side *)a)->tensor, y = ((const struct lib_side *)b)->tensor;
    return (x > y) - (x < y);
}

enum ckpt_status state_make_side(struct ckpt_state *s, size_t tensor, struct ckpt_err *err)
{
    enum ckpt_status st = make_side(s, tensor, err);
    if (st == CKPT_OK)
        qsort(s->sides, s->side_count, sizeof(*s->sides), by_number);
    return st;
}

static uint64_t held_bytes(const struct decl *d, const struct decl_tensor *t)
{
    uint64_t bytes = 0;
    if (t->flags & DECL_OBJECT)
        return 0;
    for (size_t i = 0; i < t->piece_count; i++)
        bytes += box_bytes(&d->pieces[t->first_piece + i].box, dtype_bits(t->dtype));
    return bytes;
}

static enum ckpt_status prepare(struct ckpt_state *s, struct ckpt_err *err)
{
    const struct decl *d = &s->decl;
    s->at = calloc(d->piece_count + 1, sizeof(*s->at));
    s->on = calloc(d->piece_count + 1, sizeof(*s->on));
    s->need_bytes = calloc(d->tensor_count + 1, sizeof(*s->need_bytes));
    s->sides = calloc(d->tensor_count + 1, sizeof(*s->sides));
    s->fates = calloc(d->tensor_count + 1, sizeof(*s->fates));
    s->found = calloc(d->tensor_count + 1, sizeof(*s->found));
    if (!s->at || !s->on || !s->need_bytes || !s->sides || !s->fates || !s->found)
        return err_set(err, CKPT_NO_MEMORY, "seal: out of memory");
    for (size_t i = 0; i < d->tensor_count; i++) {
        enum ckpt_status st = buffer_need(d, &d->tensors[i], &s->need_bytes[i], err);
        if (st == CKPT_OK)
            s->fates[i].held_bytes = held_bytes(d, &d->tensors[i]);
        if (st == CKPT_OK && (d->tensors[i].flags & (DECL_VOLATILE | DECL_OBJECT)))
            st = make_side(s, i, err);
        if (st != CKPT_OK)
            return st;
    }
    return CKPT_OK;
}

enum ckpt_status state_announce(struct ckpt_state *s, struct ckpt_err *err)
{
    struct buf CLEANUP_BUF bytes = { 0 };
    decl_encode(&s->decl, &bytes);
    if (bytes.failed)
        return err_set(err, CKPT_NO_MEMORY, "seal: out of memory for the declaration");
    int fd = wire_memfd("ckpt-decl", bytes.data, bytes.len, err);
    if (fd < 0)
        return err->status;
    struct wire_state body = {
        .state = s->number, .numa = s->numa, .decl_bytes = bytes.len, .arena_bytes = s->arena_want
    };
    wire_begin(s->ctx->compose, WIRE_STATE, &body);
    s->shared.announced = true;
    s->shared.answered = false;
    s->shared.err = (struct ckpt_err){ 0 };
    enum ckpt_status st = client_queue(s->ctx, s->ctx->compose, fd);
    return st == CKPT_OK ? CKPT_OK : err_set(err, st, "seal: out of memory");
}

static enum ckpt_status wait_answer(struct ckpt_state *s, int64_t deadline, struct ckpt_err *err)
{
    struct ckpt *c = s->ctx;
    while (!s->shared.answered && !c->shared.broken)
        if (!lib_wait_changed(c, deadline) && !s->shared.answered)
            return err_set(err, CKPT_TIMEOUT, "seal: ckptd gave no memory within the time limit");
    if (c->shared.broken && !s->shared.answered)
        return err_set(err, c->shared.err.status, "%s", err_text(&c->shared.err));
    if (s->shared.err.status != CKPT_OK)
        return err_set(err, s->shared.err.status, "%s", err_text(&s->shared.err));
    c->shared.info.state_bytes = s->decl.raw_bytes;
    c->shared.info.arena_bytes = s->slots * s->slot_bytes;
    c->shared.info.ram_left_bytes = s->ram_left;
    s->sealed = true;
    return CKPT_OK;
}

static enum ckpt_status finish(void *arg, struct ckpt_err *err)
{
    struct ckpt_state *s = arg;
    pthread_mutex_lock(&s->ctx->lock);
    uint64_t slot_bytes = s->ctx->shared.slot_bytes;
    pthread_mutex_unlock(&s->ctx->lock);
    enum ckpt_status st = decl_finish(&s->decl, slot_bytes, err);
    return st == CKPT_OK ? prepare(s, err) : st;
}

/* The arena of a caller that works with a device already is pinned by it from now on, beside what
 * the caller does next, and the copies aside at once: they are his thread's, and a save is not to
 * pin them.  Else the first operation with device memory pins. */
static void pin_early(struct ckpt_state *s, unsigned on)
{
    struct ckpt *c = s->ctx;
    for (size_t i = 0; i < s->side_count; i++)
        if (s->sides[i].room.bytes && s->sides[i].len)
            (void)room_pin(&s->sides[i].room, devices_gpu(c->devices, on), NULL);
    pthread_mutex_lock(&c->lock);
    s->shared.pin_on = on;
    pthread_mutex_unlock(&c->lock);
    client_wake(c);
}

enum ckpt_status ckpt_seal(struct ckpt_state *s, int timeout_ms)
{
    struct ckpt_err err = { 0 };
    unsigned on = 0;
    enum ckpt_status st = lib_enter_state(s);
    if (st != CKPT_OK)
        return st;
    if (timeout_ms < 0)
        st = err_set(&err, CKPT_INVALID, "ckpt_seal: negative timeout");
    else if (s->closed)
        st = err_set(&err, CKPT_WRONG_STATE,
                     "ckpt_seal: it was called before; if that failed, declare a new state");
    if (st == CKPT_OK) {
        s->closed = true;
        st = lib_guarded(s->ctx, finish, s, &err);
    }
    if (st == CKPT_OK && devices_in_use(s->ctx->devices, &on))
        s->numa = devices_numa(s->ctx->devices, on);
    if (st == CKPT_OK) {
        pthread_mutex_lock(&s->ctx->lock);
        st = state_announce(s, &err);
        if (st == CKPT_OK)
            st = wait_answer(s, lib_now_ns() + (int64_t)timeout_ms * 1000000, &err);
        pthread_mutex_unlock(&s->ctx->lock);
    }
    if (st == CKPT_OK && on)
        pin_early(s, on);
    err.status = st;
    return st == CKPT_OK ? CKPT_OK : lib_fail(&err);
}

/* -- pointing at buffers -------------------------------------------------- */

static int by_tensor(const void *key, const void *side)
{
    size_t a = *(const size_t *)key, b = ((const struct lib_side *)side)->tensor;
    return (a > b) - (a < b);
}

struct lib_side *state_side(struct ckpt_state *s, size_t tensor)
{
    if (s->side_count == 0)
        return NULL;
    return bsearch(&tensor, s->sides, s->side_count, sizeof(*s->sides), by_tensor);
}

static enum ckpt_status check_buffer(struct ckpt_state *s, size_t i, const struct ckpt_buffer *b,
                                     const struct lib_side *side, bool load, struct ckpt_err *err)
{
    const struct decl_tensor *t = &s->decl.tensors[i];
    bool object = t->flags & DECL_OBJECT;
    uint64_t need = object ? 0 : s->need_bytes[i];
    if (object && !load && b->bytes > side->capacity)
        return err_set(err, CKPT_INVALID, "object \"%s\": %llu bytes, declared for at most %llu",
                       t->name, (unsigned long long)b->bytes, (unsigned long long)side->capacity);
    if (b->bytes < need || (!b->base && (need || b->bytes)))
        return err_set(err, CKPT_INVALID, "tensor \"%s\": its buffer has %llu bytes%s, %llu needed",
                       t->name, (unsigned long long)b->bytes, b->base ? "" : " at NULL",
                       (unsigned long long)need);
    return CKPT_OK;
}

/* Copies what may change before the fence. */
static void copy_aside(struct lib_side *side, const struct ckpt_buffer *b, bool object)
{
    if (!object) {
        if (side->len)
            memcpy(side->bytes, b->base, side->len);
        return;
    }
    for (int i = 0; i < DECL_OBJECT_HEAD; i++)
        side->bytes[i] = (uint8_t)(b->bytes >> (8 * i));
    if (b->bytes)
        memcpy(side->bytes + DECL_OBJECT_HEAD, b->base, b->bytes);
    if (side->used > b->bytes) /* only what was there before: a capacity may be large */
        memset(side->bytes + DECL_OBJECT_HEAD + b->bytes, 0, side->used - b->bytes);
    side->used = b->bytes;
}

/* A restore fills it, perhaps only in part: an object may have been saved with a smaller
 * capacity. */
static void empty_side(struct lib_side *side, bool object)
{
    side->reach = 0;
    if (object) {
        memset(side->bytes, 0, DECL_OBJECT_HEAD + side->used);
        side->used = side->capacity; /* what a restore leaves there is not known */
    }
}

/* A tensor with negative or zero strides can be read, not filled. */
static enum ckpt_status check_target(const struct ckpt_state *s, const struct decl_tensor *t,
                                     struct ckpt_err *err)
{
    for (size_t i = 0; i < t->piece_count; i++) {
        const struct decl_piece *p = &s->decl.pieces[t->first_piece + i];
        for (uint32_t d = 0; d < t->ndim; d++)
            if (p->box.len[d] > 1 && p->stride[d] <= 0 && box_volume(&p->box) > 0)
                return err_set(err, CKPT_UNSUPPORTED,
                               "tensor \"%s\", piece %zu: restoring needs strides above 0, "
                               "dimension %u has %lld",
                               t->name, i, d, (long long)p->stride[d]);
    }
    return CKPT_OK;
}

static void point_pieces(struct ckpt_state *s, const struct decl_tensor *t, uint8_t *base,
                         unsigned on)
{
    int64_t bits = dtype_bits(t->dtype);
    for (size_t i = 0; i < t->piece_count; i++) {
        size_t piece = t->first_piece + i;
        const struct decl_piece *p = &s->decl.pieces[piece];
        s->at[piece].base = base ? base + p->offset_bytes : NULL;
        s->on[piece] = (uint8_t)on;
        for (uint32_t d = 0; d < t->ndim; d++)
            s->at[piece].stride_bits[d] = p->stride[d] * bits;
    }
}

/* The device that a buffer is on; 0 = host. */
static enum ckpt_status find_buffer(struct ckpt_state *s, size_t i, const struct ckpt_buffer *b,
                                    bool trust, unsigned *ret, struct ckpt_err *err)
{
    struct lib_found *f = &s->found[i];
    f->asked = !trust || !f->base || f->base != b->base;
    if (!f->asked) {
        *ret = f->on;
        return CKPT_OK;
    }
    *f = (struct lib_found){ .asked = true };
    if (!s->look_for_devices || b->bytes == 0)
        return CKPT_OK;
    enum ckpt_status st = devices_find(s->ctx->devices, b->base, ret, err);
    if (st == CKPT_OK && *ret) {
        f->base = b->base;
        f->on = (uint8_t)*ret;
    }
    return st;
}

static enum ckpt_status confirm(struct ckpt_state *s, size_t tensor, struct ckpt_err *err)
{
    struct lib_found *f = &s->found[tensor];
    unsigned on = 0;
    if (f->asked)
        return CKPT_OK;
    enum ckpt_status st = devices_find(s->ctx->devices, f->base, &on, err);
    if (st == CKPT_OK && on != f->on)
        st = err_set(err, CKPT_ABORTED,
                     "tensor \"%s\": other memory has come to the address that its buffer on a "
                     "device had at the save before: save again",
                     s->decl.tensors[tensor].name);
    f->asked = st == CKPT_OK;
    return st;
}

enum ckpt_status state_confirm(struct ckpt_state *s, const struct wire_full *full,
                               struct ckpt_err *err)
{
    struct decl_walk w = decl_walk_slot(&s->decl, full->slot);
    struct decl_tile tile;
    enum ckpt_status st = CKPT_OK;
    while (st == CKPT_OK && full->arena_slot != UINT32_MAX && decl_walk_next(&w, &tile))
        st = confirm(s, tile.tensor, err);
    if (st == CKPT_OK && full->flags & WIRE_FULL_WITNESS)
        st = confirm(s, decl_witness_at(&s->decl, full->witness).tensor, err);
    return st;
}

void state_doubt(struct ckpt_state *s)
{
    memset(s->found, 0, s->decl.tensor_count * sizeof(*s->found));
}

/* Points tensor `i` at its buffer, or at the copy that is made of it: at once in host
 * memory, in the order of the stream on a device (flight.h). */
static enum ckpt_status bind_buffer(struct ckpt_state *s, size_t i, const struct ckpt_buffer *b,
                                    bool load, struct ckpt_err *err)
{
    const struct decl_tensor *t = &s->decl.tensors[i];
    bool object = t->flags & DECL_OBJECT;
    struct lib_side *side = state_side(s, i);
    bool aside = side && (!load || object);
    unsigned on = 0;
    enum ckpt_status st = find_buffer(s, i, b, !load && !side, &on, err);
    if (st != CKPT_OK)
        return st;
    if (on && object)
        return err_set(err, CKPT_UNSUPPORTED,
                       "object \"%s\" lies on a device: objects are bytes in host memory", t->name);
    s->devices |= on ? UINT64_C(1) << on : 0;
    s->host_memory |= !on && !aside && b->bytes > 0;
    if (side && load)
        empty_side(side, object);
    else if (side && !on)
        copy_aside(side, b, object);
    if (side) {
        side->on = load ? 0 : on;
        side->from = b->base;
    }
    point_pieces(s, t, aside ? side->bytes : b->base, aside ? 0 : on);
    return CKPT_OK;
}

enum ckpt_status state_bind(struct ckpt_state *s, const struct ckpt_buffer *buffers, size_t count,
                            bool load, struct ckpt_err *err)
{
    const struct decl *d = &s->decl;
    if (count != d->tensor_count || (count && !buffers))
        return err_set(err, CKPT_INVALID,
                       "%zu buffers for %zu declared tensors and objects: give one for each, in "
                       "order of declaration",
                       count, d->tensor_count);
    for (size_t i = 0; i < count; i++) {
        enum ckpt_status st = check_buffer(s, i, &buffers[i], state_side(s, i), load, err);
        if (st == CKPT_OK && load)
            st = check_target(s, &d->tensors[i], err);
        if (st != CKPT_OK)
            return st;
    }
    if (load)
        report_reset(s);
    s->look_for_devices = devices_possible(s->ctx->devices);
    s->prepared = false;
    s->devices = 0;
    s->host_memory = false;
    for (size_t i = 0; i < count; i++) {
        enum ckpt_status st = bind_buffer(s, i, &buffers[i], load, err);
        if (st != CKPT_OK)
            return st;
    }
    return CKPT_OK;
}

uint64_t state_object_bytes(const struct lib_side *side)
{
    uint64_t len = 0;
    for (int k = 0; k < DECL_OBJECT_HEAD; k++)
        len |= (uint64_t)side->bytes[k] << (8 * k);
    return len;
}

enum ckpt_status state_take_objects(struct ckpt_state *s, struct ckpt_buffer *buffers,
                                    struct ckpt_err *err)
{
    for (size_t i = 0; i < s->side_count; i++) {
        const struct lib_side *side = &s->sides[i];
        const struct decl_tensor *t = &s->decl.tensors[side->tensor];
        struct ckpt_buffer *b = &buffers[side->tensor];
        if (!(t->flags & DECL_OBJECT) || !side->reach)
            continue; /* not in the checkpoint: the caller's bytes stay as they are */
        uint64_t len = state_object_bytes(side);
        if (len > side->capacity)
            return err_set(err, CKPT_MISMATCH,
                           "object \"%s\": has %llu bytes, it was declared for at most %llu",
                           t->name, (unsigned long long)len, (unsigned long long)side->capacity);
        if (len > b->bytes)
            return err_set(err, CKPT_INVALID,
                           "object \"%s\": its buffer has %llu bytes, %llu needed", t->name,
                           (unsigned long long)b->bytes, (unsigned long long)len);
        if (len)
            memcpy(b->base, side->bytes + DECL_OBJECT_HEAD, len);
        b->bytes = len;
    }
    return CKPT_OK;
}
