/* Declaring a state: tensors, objects, and pieces from layouts. */
#include <stdio.h>

#include "formats/key.h"
#include "formats/layout.h"
#include "libckpt/context.h"

enum ckpt_status ckpt_state_new(struct ckpt *c, struct ckpt_state **ret)
{
    enum ckpt_status st = lib_enter(c);
    if (st != CKPT_OK)
        return st;
    struct ckpt_err err = { 0 };
    struct ckpt_state *s = ret ? calloc(1, sizeof(*s)) : NULL;
    if (!s) {
        err_set(&err, ret ? CKPT_NO_MEMORY : CKPT_INVALID, "ckpt_state_new: %s",
                ret ? "out of memory" : "ret is NULL");
        return lib_fail(&err);
    }
    s->ctx = c;
    s->arena_want = c->arena_want;
    memcpy(&s->witness_turn, c->session,
           sizeof(s->witness_turn)); /* random: restarts begin elsewhere */
    pthread_mutex_lock(&c->lock);
    uint32_t used = 0;
    for (const struct ckpt_state *o = c->shared.states; o; o = o->next)
        used++;
    if (used < LIB_STATES_MAX) {
        s->number = c->shared.next_state++;
        s->next = c->shared.states;
        c->shared.states = s;
    }
    pthread_mutex_unlock(&c->lock);
    if (s->number == 0) {
        free(s);
        err_set(&err, CKPT_LIMIT, "a context has at most %d states", LIB_STATES_MAX);
        return lib_fail(&err);
    }
    *ret = s;
    return CKPT_OK;
}

void state_free_memory(struct ckpt_state *s)
{
    bool own = s->ctx->pid == getpid(); /* a forked child must not call the driver */
    if (own && s->flights)
        return; /* a device that hangs may still write there: it stays */
    if (own)
        flight_forget(s);
    audit_free(s);
    if (own)
        slots_forget(s);
    slots_unmap(s);
    for (size_t i = 0; i < s->side_count; i++)
        if (s->sides[i].capacity)
            free(s->sides[i].bytes);
        else if (own)
            room_drop(&s->sides[i].room);
    free(s->sides);
    free(s->at);
    free(s->on);
    free(s->need_bytes);
    free(s->fates);
    free(s->found);
    select_fini(&s->select);
    report_fini(&s->report);
    if (s->fan)
        fanout_plan_fini(s->fan);
    free(s->fan);
    free(s->shared.grants.slot);
    free(s->shared.grants.op);
    decl_fini(&s->decl);
}

/* ckptd need not keep it, but for what is staged.  Lock held. */
static void forget(struct ckpt_state *s)
{
    struct wire_forget body = { .state = s->number };
    wire_begin(s->ctx->compose, WIRE_FORGET, &body);
    enum ckpt_status st = client_queue(s->ctx, s->ctx->compose, -1);
    (void)st; /* out of memory: ckptd then keeps it to the end of the session */
}

bool state_in_use(const struct ckpt_state *s)
{
    return s->shared.busy || s->shared.alone;
}

void state_unlink(struct ckpt_state *s)
{
    struct ckpt_state **p = &s->ctx->shared.states;
    while (*p && *p != s)
        p = &(*p)->next;
    if (*p)
        *p = s->next;
}

/* Lock held. */
static bool is_there(const struct ckpt *c, uint32_t number)
{
    const struct ckpt_state *s = c->shared.states;
    while (s && s->number != number)
        s = s->next;
    return s || c->shared.burying == number;
}

void ckpt_state_free(struct ckpt_state *s)
{
    if (!s)
        return;
    struct ckpt *c = s->ctx;
    uint32_t number = s->number;
    if (c->pid != getpid())
        return; /* ckpt_close of the child frees it */
    pthread_mutex_lock(&c->lock);
    audit_release(c, s, "the state was freed");
    for (size_t i = 0; i < LIB_OPS; i++) {
        struct lib_op *op = &c->shared.ops[i];
        if (op->id && op->state == s) {
            if (!op->copied)
                lib_op_give_up(c, op, CKPT_CANCELLED,
                               "the state was freed while it was being copied");
            op->state = NULL;
        }
    }
    int64_t deadline = lib_now_ns() + LIB_LAND_NS;
    s->shared.pin_on = 0; /* no slice after this one */
    while (state_in_use(s) && (lib_wait_changed(c, deadline) || lib_now_ns() < deadline))
        ; /* at most what is handed over already */
    if (s->shared.announced)
        forget(s);
    s->shared.announced = false;
    /* A device may still write there, now or behind the caller's work: it goes when that ends. */
    s->shared.freed = true;
    pthread_cond_broadcast(&c->changed);
    client_wake(c);
    while (is_there(c, number) && (lib_wait_changed(c, deadline) || lib_now_ns() < deadline))
        ;
    pthread_mutex_unlock(&c->lock);
}

/* Common entry of the declaring calls: a state that is not sealed yet. */
static enum ckpt_status enter_declaring(struct ckpt_state *s, struct ckpt_err *err)
{
    if (!s) {
        lib_clear_error();
        return err_set(err, CKPT_INVALID, "the state is NULL");
    }
    enum ckpt_status st = lib_enter(s->ctx);
    if (st != CKPT_OK)
        return err_set(err, st, "%s", ckpt_error());
    if (s->closed)
        return err_set(err, CKPT_WRONG_STATE, "the state is sealed: nothing can be declared now");
    return CKPT_OK;
}

static void piece_of(const struct ckpt_piece *p, uint32_t ndim, struct decl_piece *ret)
{
    memset(ret, 0, sizeof(*ret));
    ret->box.ndim = ndim;
    for (uint32_t d = 0; d < ndim; d++) {
        ret->box.off[d] = p->off[d];
        ret->box.len[d] = p->len[d];
        ret->stride[d] = p->stride[d];
    }
    ret->offset_bytes = p->offset_bytes;
    ret->replica = p->replica;
    ret->replica_count = p->replica_count ? p->replica_count : 1;
}

/* Forgets the last tensor, whose pieces were refused: a tensor is declared whole or not. */
static void undo_tensor(struct decl *d)
{
    struct decl_tensor *t = &d->tensors[--d->tensor_count];
    d->piece_count = t->first_piece;
    free(t->name);
    free(t->alias);
}

struct tensor_call {
    struct ckpt_state *s;
    const struct ckpt_tensor_desc *desc;
    const struct ckpt_piece *pieces;
    size_t count;
};

static enum ckpt_status declare(void *arg, struct ckpt_err *err)
{
    struct ckpt_state *s = ((struct tensor_call *)arg)->s;
    const struct ckpt_tensor_desc *desc = ((struct tensor_call *)arg)->desc;
    const struct ckpt_piece *pieces = ((struct tensor_call *)arg)->pieces;
    size_t count = ((struct tensor_call *)arg)->count;
    struct decl_tensor t = { .dtype = (uint8_t)desc->dtype,
                             .kind = (uint8_t)desc->kind,
                             .flags = (uint16_t)(desc->flags & (CKPT_VOLATILE | CKPT_OPTIONAL)),
                             .ndim = desc->ndim };
    if (!desc->name || desc->dtype > UINT8_MAX || desc->kind > UINT8_MAX ||
        desc->ndim > CKPT_DIMS_MAX || (desc->ndim && !desc->shape) || (count && !pieces))
        return err_set(err, CKPT_INVALID, "tensor \"%s\": dtype %u, kind %u, %u dimensions",
                       desc->name ? desc->name : "(null)", desc->dtype, desc->kind, desc->ndim);
    if (desc->flags & ~(uint32_t)(CKPT_VOLATILE | CKPT_OPTIONAL))
        return err_set(err, CKPT_INVALID, "tensor \"%s\": unknown flags %#x", desc->name,
                       desc->flags);
    CLEANUP_FREE char *name = strdup(desc->name);
    CLEANUP_FREE char *alias = desc->alias ? strdup(desc->alias) : NULL;
    if (!name || (desc->alias && !alias))
        return err_set(err, CKPT_NO_MEMORY, "tensor \"%s\": out of memory", desc->name);
    t.name = name;
    t.alias = alias;
    if (alias)
        t.flags |= DECL_ALIAS;
    for (uint32_t d = 0; d < desc->ndim; d++) {
        t.shape[d] = desc->shape[d];
        t.block[d] = desc->block ? desc->block[d] : 0;
    }
    enum ckpt_status st = decl_add_tensor(&s->decl, &t, err);
    if (st != CKPT_OK)
        return st;
    for (size_t i = 0; st == CKPT_OK && i < count; i++) {
        struct decl_piece p;
        piece_of(&pieces[i], desc->ndim, &p);
        st = decl_add_piece(&s->decl, &p, err);
        if (st != CKPT_OK)
            err_prefix(err, "rank %u, piece %zu", s->ctx->rank, i);
    }
    if (st != CKPT_OK)
        undo_tensor(&s->decl);
    return st;
}

enum ckpt_status ckpt_tensor(struct ckpt_state *s, const struct ckpt_tensor_desc *desc,
                             const struct ckpt_piece *pieces, size_t count)
{
    struct ckpt_err err = { 0 };
    struct ckpt_tensor_desc d = { 0 };
    enum ckpt_status st = enter_declaring(s, &err);
    if (st == CKPT_OK)
        st = lib_take_struct(&d, sizeof(d), desc, offsetof(struct ckpt_tensor_desc, block),
                             "ckpt_tensor_desc", &err);
    struct tensor_call call = { s, &d, pieces, count };
    if (st == CKPT_OK)
        st = lib_guarded(s->ctx, declare, &call, &err);
    return st == CKPT_OK ? CKPT_OK : lib_fail(&err);
}

struct object_call {
    struct ckpt_state *s;
    const char *name;
    uint64_t capacity;
    enum ckpt_object_scope scope;
};

static enum ckpt_status declare_object(void *arg, struct ckpt_err *err)
{
    struct ckpt_state *s = ((struct object_call *)arg)->s;
    const char *name = ((struct object_call *)arg)->name;
    uint64_t capacity = ((struct object_call *)arg)->capacity;
    enum ckpt_object_scope scope = ((struct object_call *)arg)->scope;
    char full[CKPT_TENSOR_NAME_MAX + 16];
    if (!name || capacity > CKPT_OBJECT_BYTES_MAX || (unsigned)scope > CKPT_OBJECT_SOLE)
        return err_set(err, CKPT_INVALID, "object \"%s\": capacity %llu, scope %u",
                       name ? name : "(null)", (unsigned long long)capacity, (unsigned)scope);
    /* The name itself: with "@RANK" behind it, "" and "a/" would pass. */
    enum ckpt_status st = tensor_name_check(name, strlen(name), err);
    if (st != CKPT_OK)
        return st;
    int n = scope == CKPT_OBJECT_RANK ? snprintf(full, sizeof(full), "%s@%u", name, s->ctx->rank)
                                      : snprintf(full, sizeof(full), "%s", name);
    if (n < 0 || (size_t)n >= sizeof(full))
        return err_set(err, CKPT_BAD_NAME, "object name of %zu bytes: at most %d", strlen(name),
                       CKPT_TENSOR_NAME_MAX);
    struct decl_tensor t = { .name = full,
                             .dtype = CKPT_DTYPE_U8,
                             .flags = DECL_OBJECT | DECL_VOLATILE,
                             .ndim = 1,
                             .shape = { DECL_OBJECT_HEAD + capacity } };
    struct decl_piece p = { .stride = { 1 }, .replica_count = 1 };
    p.box = box_whole(1, t.shape);
    if (scope == CKPT_OBJECT_SHARED) {
        p.replica = s->ctx->rank;
        p.replica_count = s->ctx->world;
    }
    st = decl_add_tensor(&s->decl, &t, err);
    if (st != CKPT_OK)
        return st;
    st = decl_add_piece(&s->decl, &p, err);
    if (st != CKPT_OK)
        undo_tensor(&s->decl);
    return st;
}

enum ckpt_status ckpt_object(struct ckpt_state *s, const char *name, uint64_t capacity,
                             enum ckpt_object_scope scope)
{
    struct ckpt_err err = { 0 };
    enum ckpt_status st = enter_declaring(s, &err);
    struct object_call call = { s, name, capacity, scope };
    if (st == CKPT_OK)
        st = lib_guarded(s->ctx, declare_object, &call, &err);
    return st == CKPT_OK ? CKPT_OK : lib_fail(&err);
}

/* -- layouts -------------------------------------------------------------- */

static enum ckpt_status give_pieces(const struct layout_out *out, uint32_t ndim,
                                    struct ckpt_piece *pieces)
{
    for (size_t i = 0; i < out->count; i++) {
        const struct layout_piece *from = &out->piece[i];
        struct ckpt_piece *to = &pieces[i];
        memset(to, 0, sizeof(*to));
        for (uint32_t d = 0; d < ndim; d++) {
            to->off[d] = from->box.off[d];
            to->len[d] = from->box.len[d];
            to->stride[d] = from->stride[d];
        }
        to->offset_bytes = from->offset_bytes;
        to->replica = from->replica;
        to->replica_count = from->replica_count;
    }
    return CKPT_OK;
}

struct mesh_call {
    struct layout_mesh m;
    uint32_t ndim, dtype;
    const uint64_t *shape;
    struct layout_out *out;
};

/* Without a context: a failed assert is this call's alone. */
static enum ckpt_status lay_mesh(void *arg, struct ckpt_err *err)
{
    const struct mesh_call *m = arg;
    uint64_t local[CKPT_DIMS_MAX];
    return layout_mesh(&m->m, m->ndim, m->shape, dtype_bits(m->dtype), m->out, local, err);
}

struct flat_call {
    const struct ckpt_flat *flat;
    struct layout_piece *local; /* box_count of them */
    struct layout_out *out;
};

/* The caller's boxes as pieces; true if any says how it lies. */
static bool take_boxes(const struct flat_call *f)
{
    bool placed = false;
    for (size_t i = 0; i < f->flat->box_count; i++) {
        const struct ckpt_piece *from = &f->flat->boxes[i];
        struct layout_piece *to = &f->local[i];
        to->box.ndim = f->flat->ndim;
        to->offset_bytes = from->offset_bytes;
        to->replica = from->replica;
        to->replica_count = from->replica_count ? from->replica_count : 1;
        for (uint32_t d = 0; d < f->flat->ndim; d++) {
            to->box.off[d] = from->off[d];
            to->box.len[d] = from->len[d];
            to->stride[d] = from->stride[d];
            placed |= from->stride[d] != 0;
        }
    }
    return placed;
}

static enum ckpt_status lay_flat(void *arg, struct ckpt_err *err)
{
    const struct flat_call *call = arg;
    const struct ckpt_flat *f = call->flat;
    unsigned bits = dtype_bits(f->dtype);
    if (!take_boxes(call)) {
        uint64_t total;
        enum ckpt_status st = layout_pile(call->local, f->box_count, bits, &total, err);
        if (st != CKPT_OK)
            return st;
        if (f->start > total || f->count > total - f->start)
            return err_set(err, CKPT_INVALID, "flat range [%llu:+%llu] of a shard of %llu elements",
                           (unsigned long long)f->start, (unsigned long long)f->count,
                           (unsigned long long)total);
    }
    return layout_cut(call->local, f->box_count, bits, f->start, f->count, call->out, err);
}

enum ckpt_status ckpt_mesh_pieces(const struct ckpt_mesh *mesh, uint32_t ndim,
                                  const uint64_t *shape, uint32_t dtype, struct ckpt_piece *pieces,
                                  size_t cap, size_t *ret_count)
{
    struct ckpt_err err = { 0 };
    lib_clear_error();
    struct layout_placement place[CKPT_DIMS_MAX];
    if (!mesh || !ret_count || mesh->ndim > CKPT_DIMS_MAX || ndim > CKPT_DIMS_MAX ||
        (mesh->ndim && (!mesh->size || !mesh->coord || !mesh->placement)) || (ndim && !shape) ||
        (cap && !pieces)) {
        err_set(&err, CKPT_INVALID, "mesh: NULL, or more than %d axes or dimensions",
                CKPT_DIMS_MAX);
        return lib_fail(&err);
    }
    for (uint32_t i = 0; i < mesh->ndim; i++)
        place[i] = (struct layout_placement){ .kind = (enum layout_kind)mesh->placement[i].place,
                                              .dim = mesh->placement[i].dim,
                                              .split_factor = mesh->placement[i].split_factor,
                                              .section = mesh->placement[i].section,
                                              .section_count = mesh->placement[i].section_count };
    CLEANUP_FREE struct layout_piece *room = calloc(cap ? cap : 1, sizeof(*room));
    if (!room) {
        err_set(&err, CKPT_NO_MEMORY, "mesh: out of memory for %zu pieces", cap);
        return lib_fail(&err);
    }
    struct layout_out out = { .piece = room, .cap = cap };
    struct mesh_call call = { .m = { .ndim = mesh->ndim,
                                     .size = mesh->size,
                                     .coord = mesh->coord,
                                     .placement = place,
                                     .padded = mesh->padded },
                              .ndim = ndim,
                              .dtype = dtype,
                              .shape = shape,
                              .out = &out };
    enum ckpt_status st = guard_run(lay_mesh, &call, &err);
    if (st == CKPT_OK || st == CKPT_LIMIT)
        *ret_count = out.count;
    return st == CKPT_OK ? give_pieces(&out, ndim, pieces) : lib_fail(&err);
}

enum ckpt_status ckpt_flat_pieces(const struct ckpt_flat *flat, struct ckpt_piece *pieces,
                                  size_t cap, size_t *ret_count)
{
    struct ckpt_err err = { 0 };
    lib_clear_error();
    if (!flat || !ret_count || flat->ndim > CKPT_DIMS_MAX || (flat->box_count && !flat->boxes) ||
        (cap && !pieces)) {
        err_set(&err, CKPT_INVALID, "flat: NULL, or more than %d dimensions", CKPT_DIMS_MAX);
        return lib_fail(&err);
    }
    CLEANUP_FREE struct layout_piece *room = calloc(cap ? cap : 1, sizeof(*room));
    CLEANUP_FREE struct layout_piece *local = calloc(flat->box_count + 1, sizeof(*local));
    if (!room || !local) {
        err_set(&err, CKPT_NO_MEMORY, "flat: out of memory for %zu pieces", cap);
        return lib_fail(&err);
    }
    struct layout_out out = { .piece = room, .cap = cap };
    struct flat_call call = { flat, local, &out };
    enum ckpt_status st = guard_run(lay_flat, &call, &err);
    if (st == CKPT_OK || st == CKPT_LIMIT)
        *ret_count = out.count;
    return st == CKPT_OK ? give_pieces(&out, flat->ndim, pieces) : lib_fail(&err);
}
