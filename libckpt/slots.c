/* The arena on the client's side, and copies between its slots and the caller's memory.
 * The transfer thread alone runs this, without the lock. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "formats/convert.h"
#include "libckpt/context.h"

/* -- arena ---------------------------------------------------------------- */

enum ckpt_status slots_map(struct ckpt_state *s, int fd, const struct wire_state_ok *ok,
                           struct ckpt_err *err)
{
    const int want = F_SEAL_GROW | F_SEAL_SHRINK;
    uint64_t bytes = ok->slots * s->decl.slot_bytes;
    struct stat file;
    if (ok->slot_bytes != s->decl.slot_bytes || ok->slots < 1)
        return err_set(err, CKPT_MISMATCH,
                       "ckptd gave an arena of %u slots of %llu bytes, the state was sealed for "
                       "%llu: start it with the slot size it had",
                       ok->slots, (unsigned long long)ok->slot_bytes,
                       (unsigned long long)s->decl.slot_bytes);
    /* A file that could shrink would kill the trainer by SIGBUS. */
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || (seals & want) != want || fstat(fd, &file) < 0 ||
        (uint64_t)file.st_size != bytes)
        return err_set(err, CKPT_CORRUPT,
                       "ckptd gave an arena that is not a sealed memfd of %llu bytes",
                       (unsigned long long)bytes);
    void *p = wire_map_arena(fd, bytes);
    if (!p)
        return err_errno(err, errno, "mapping the arena of %llu bytes", (unsigned long long)bytes);
    madvise(p, bytes, MADV_POPULATE_WRITE); /* old kernels: touched at the first save instead */
    s->arena = p;
    s->slots = ok->slots;
    s->slot_bytes = ok->slot_bytes;
    s->ram_left = ok->ram_left_bytes;
    if (s->decl.witness_count > 0 && !room_make(&s->tile, CKPT_CHUNK_BYTES_MAX))
        return err_set(err, CKPT_NO_MEMORY, "seal: out of memory");
    struct lib_grants *g = &s->shared.grants;
    g->slot = calloc(ok->slots, sizeof(*g->slot));
    g->op = calloc(ok->slots, sizeof(*g->op));
    if (!g->slot || !g->op)
        return err_set(err, CKPT_NO_MEMORY, "seal: out of memory");
    g->cap = ok->slots;
    return CKPT_OK;
}

/* -- pinning ---------------------------------------------------------------- */

/* What people are told: how it went and what it took. */
static void say_pinned(struct ckpt_state *s, const struct ckpt_err *err)
{
    struct ckpt *c = s->ctx;
    char *text = c->shared.pinning;
    double took = (double)s->pin.ns / 1e9, gib = (double)s->pin.bytes / (1 << 30);
    pthread_mutex_lock(&c->lock);
    if (err)
        snprintf(text, sizeof(c->shared.pinning),
                 "%s, copies are slower: %.200s (after %.3f GiB, %.3f s)",
                 s->pin.bytes ? "pinned in part" : "not pinned", err_text(err), gib, took);
    else
        snprintf(text, sizeof(c->shared.pinning), "%.3f GiB pinned in %.3f s", gib, took);
    pthread_mutex_unlock(&c->lock);
}

/* The arena is pinned in slices of whole slots: no copy may reach from one into the next. */
static uint64_t slice_at(const struct ckpt_state *s, uint64_t at)
{
    uint64_t whole = max_u64(GPU_PIN_SLICE / s->slot_bytes, 1) * s->slot_bytes;
    return min_u64(whole, s->slots * s->slot_bytes - at);
}

static void unpin(struct ckpt_state *s)
{
    struct gpu *g = s->pin.by;
    for (uint64_t at = 0; g && at < s->pin.bytes; at += slice_at(s, at))
        g->ops->unpin(g, s->arena + at, slice_at(s, at));
    s->pin = (struct lib_pin){ 0 };
}

/* The next slice of the arena; the tile comes last. */
static enum ckpt_status pin_more(struct ckpt_state *s, struct gpu *g, struct ckpt_err *err)
{
    uint64_t all = s->slots * s->slot_bytes, more = slice_at(s, s->pin.bytes);
    enum ckpt_status st = CKPT_OK;
    if (more)
        st = g->ops->pin(g, s->arena + s->pin.bytes, more, err);
    if (st != CKPT_OK)
        return st;
    s->pin.bytes += more;
    if (s->pin.bytes == all && s->tile.bytes)
        st = room_pin(&s->tile, g, err);
    s->pin.over = s->pin.bytes == all;
    return st;
}

/* Refused once may be for the moment; what is pinned stays. */
static void pin_slice(struct ckpt_state *s, struct gpu *g)
{
    struct ckpt_err err = { 0 };
    int64_t begun = lib_now_ns();
    s->pin.by = g;
    enum ckpt_status st = pin_more(s, g, &err);
    if (st != CKPT_OK)
        st = pin_more(s, g, &err);
    s->pin.ns += lib_now_ns() - begun;
    if (st != CKPT_OK) {
        say_pinned(s, &err);
        s->pin.over = true;
    } else if (s->pin.over) {
        say_pinned(s, NULL);
    }
}

void slots_pin(struct ckpt_state *s)
{
    struct gpu *g = s->pin.by;
    for (unsigned i = 1; !g && i < DEVICES_MAX; i++)
        if (s->devices >> i & 1)
            g = devices_gpu(s->ctx->devices, i);
    while (g && s->arena && !s->pin.over)
        pin_slice(s, g);
}

/* What of a slot comes from devices. */
static uint64_t device_bytes(const struct ckpt_state *s, uint32_t slot)
{
    struct decl_walk w = decl_walk_slot(&s->decl, slot);
    struct decl_tile tile;
    uint64_t bytes = 0;
    while (decl_walk_next(&w, &tile))
        if (s->on[tile.piece])
            bytes += box_bytes(&tile.box, dtype_bits(s->decl.tensors[tile.tensor].dtype));
    return bytes;
}

void slots_filled(struct ckpt_state *s, const struct wire_full *full, int64_t ns)
{
    struct ckpt *c = s->ctx;
    if (full->arena_slot == UINT32_MAX || full->arena_slot * s->slot_bytes < s->pin.bytes)
        return;
    double rate = (double)device_bytes(s, full->slot) / ((double)max_u64((uint64_t)ns, 1) / 1e9);
    pthread_mutex_lock(&c->lock);
    if (rate > c->shared.unpinned) /* what waits for the caller's own work is slower */
        c->shared.unpinned = rate;
    pthread_mutex_unlock(&c->lock);
}

bool slots_pin_early(struct ckpt *c)
{
    pthread_mutex_lock(&c->lock);
    struct ckpt_state *s = c->shared.states;
    while (s && (!s->shared.pin_on || !s->arena || s->pin.over))
        s = s->next;
    if (s) {
        struct gpu *g = s->pin.by ? s->pin.by : devices_gpu(c->devices, s->shared.pin_on);
        s->shared.alone++;
        pthread_mutex_unlock(&c->lock);
        pin_slice(s, g);
        pthread_mutex_lock(&c->lock);
        s->shared.alone--;
        pthread_cond_broadcast(&c->changed);
    }
    pthread_mutex_unlock(&c->lock);
    return s != NULL;
}

void slots_unmap(struct ckpt_state *s)
{
    uint64_t bytes = s->slots * s->slot_bytes;
    if (!s->arena)
        return;
    if (s->ctx->pid == getpid()) { /* a forked child has something else there: MADV_DONTFORK */
        unpin(s);
        munmap(s->arena, bytes);
        room_drop(&s->tile);
    }
    s->arena = NULL;
    struct lib_grants *g = &s->shared.grants;
    free(g->slot);
    free(g->op);
    g->slot = NULL;
    g->op = NULL;
    g->head = g->cap = 0; /* the count is others' to see: there is none left */
}

/* -- restoring: fragments to tensors -------------------------------------- */

bool slots_read_frag(struct cursor *tail, struct wire_frag *f, struct box *box)
{
    cursor_copy(tail, f, sizeof(*f));
    if (!cursor_ok(tail) || f->ndim > CKPT_DIMS_MAX)
        return false;
    memset(box, 0, sizeof(*box));
    box->ndim = f->ndim;
    for (uint32_t d = 0; d < f->ndim; d++)
        box->off[d] = cursor_u64(tail);
    for (uint32_t d = 0; d < f->ndim; d++)
        box->len[d] = cursor_u64(tail);
    return cursor_ok(tail);
}

/* What fragments name: of a part, its pieces. */
static const struct decl *asked_decl(const struct ckpt_state *s)
{
    return s->fan ? &s->fan->part : &s->decl;
}

static struct gpu *piece_gpu(const struct ckpt_state *s, size_t piece)
{
    return devices_gpu(s->ctx->devices, s->on[piece]);
}

/* Where converted elements go. */
struct put_call {
    struct ckpt_state *s;
    size_t piece;
    unsigned bits;
};

/* The part that is converted in next, when it is free. */
static enum ckpt_status take_part(struct ckpt_state *s, unsigned at, struct ckpt_err *err)
{
    struct lib_convert *c = &s->convert;
    c->at = at;
    c->part = c->room.bytes + at * CONVERT_ROOM;
    return flight_settle(s, &c->behind[at], err);
}

/* To a device: its copies are queued, and the next part is converted meanwhile. */
static enum ckpt_status queue_part(const struct put_call *p, const struct box *part,
                                   const void *bytes, struct ckpt_err *err)
{
    struct lib_convert *c = &p->s->convert;
    struct gpu *g = piece_gpu(p->s, p->piece);
    enum ckpt_status st = g->ops->event_new(g, &c->behind[c->at], err);
    if (st != CKPT_OK)
        return st;
    st = g->ops->copy_in(g, bytes, part, p->bits, &p->s->decl.pieces[p->piece].box,
                         &p->s->at[p->piece], err);
    enum ckpt_status gone = g->ops->record(g, c->behind[c->at], st == CKPT_OK ? err : NULL);
    st = st == CKPT_OK ? gone : st;
    return st == CKPT_OK ? take_part(p->s, (c->at + 1) % LIB_CONVERTING, err) : st;
}

static enum ckpt_status put_part(void *arg, const struct box *part, const void *bytes,
                                 struct ckpt_err *err)
{
    const struct put_call *p = arg;
    struct gpu *g = piece_gpu(p->s, p->piece);
    if (p->s->on[p->piece])
        return queue_part(p, part, bytes, err);
    return g->ops->copy_in(g, bytes, part, p->bits, &p->s->decl.pieces[p->piece].box,
                           &p->s->at[p->piece], err);
}

static enum ckpt_status put_converted(struct ckpt_state *s, const struct wire_frag *f, size_t piece,
                                      const struct box *box, const uint8_t *from,
                                      struct ckpt_err *err)
{
    unsigned to = s->decl.tensors[f->tensor].dtype;
    struct put_call call = { s, piece, dtype_bits(to) };
    struct lib_convert *c = &s->convert;
    if (!room_make(&c->room, LIB_CONVERTING * CONVERT_ROOM))
        return err_set(err, CKPT_NO_MEMORY, "restore: no memory to convert in");
    if (s->on[piece] && !c->pin_asked)
        (void)room_pin(&c->room, piece_gpu(s, piece), NULL);
    c->pin_asked |= s->on[piece] != 0;
    enum ckpt_status st = take_part(s, c->at, err);
    if (st != CKPT_OK)
        return st;
    return convert_box(box, to, f->dtype, from, &c->part, put_part, &call,
                       &s->fates[f->tensor].overflowed, err);
}

void slots_forget(struct ckpt_state *s)
{
    struct lib_convert *c = &s->convert;
    for (unsigned i = 0; i < LIB_CONVERTING; i++)
        if (c->behind[i])
            c->behind[i]->gpu->ops->event_free(c->behind[i]);
    room_drop(&c->room);
    *c = (struct lib_convert){ 0 };
}

/* Our own daemon's word is checked all the same: a wrong one must not scribble over the
 * trainer's memory. */
static enum ckpt_status check_frag(const struct ckpt_state *s, const struct wire_frag *f,
                                   const struct box *box, struct ckpt_err *err)
{
    const struct decl *d = asked_decl(s);
    if (f->tensor >= d->tensor_count || f->piece >= d->tensors[f->tensor].piece_count)
        return err_set(err, CKPT_CORRUPT, "restore: ckptd named tensor %u, piece %u", f->tensor,
                       f->piece);
    const struct decl_tensor *t = &d->tensors[f->tensor];
    if (f->dtype && (!(s->load_flags & CKPT_RESTORE_CONVERT) || !convert_can(f->dtype, t->dtype)))
        return err_set(err, CKPT_CORRUPT, "restore: ckptd sent tensor \"%s\" as dtype %u, not %s",
                       t->name, f->dtype, dtype_name(t->dtype));
    if (!s->fates[f->tensor].wanted)
        return err_set(err, CKPT_CORRUPT, "restore: ckptd sent tensor \"%s\", which is left out",
                       t->name);
    unsigned bits = dtype_bits(f->dtype ? f->dtype : t->dtype);
    if (box->ndim != t->ndim || box_check(box, t->shape, dtype_bits(t->dtype), NULL) != CKPT_OK ||
        !box_contains(&d->pieces[t->first_piece + f->piece].box, box) ||
        f->offset > s->slot_bytes || box_bytes(box, bits) > s->slot_bytes - f->offset)
        return err_set(err, CKPT_CORRUPT, "restore: ckptd sent a fragment outside tensor \"%s\"",
                       t->name);
    return CKPT_OK;
}

static enum ckpt_status put_frag(struct ckpt_state *s, const struct wire_frag *f,
                                 const struct box *box, const uint8_t *slot, struct ckpt_err *err)
{
    enum ckpt_status st = check_frag(s, f, box, err);
    if (st != CKPT_OK)
        return st;
    const struct decl_tensor *t = &asked_decl(s)->tensors[f->tensor];
    size_t piece = t->first_piece + f->piece;
    if (s->fan)
        piece = s->fan->of[piece];
    unsigned bits = dtype_bits(t->dtype);
    struct lib_side *side = state_side(s, f->tensor);
    if (side && (t->flags & DECL_OBJECT))
        side->reach = max_u64(side->reach, box->off[0] + box->len[0]);
    s->fates[f->tensor].came_bytes += box_bytes(box, bits);
    if (f->dtype)
        return put_converted(s, f, piece, box, slot + f->offset, err);
    struct gpu *g = piece_gpu(s, piece);
    return g->ops->copy_in(g, slot + f->offset, box, bits, &s->decl.pieces[piece].box,
                           &s->at[piece], err);
}

enum ckpt_status slots_take(struct ckpt_state *s, const struct wire_msg *m,
                            const struct wire_frags *w, struct ckpt_err *err)
{
    size_t len;
    const uint8_t *bytes = wire_tail_of(m, &len);
    struct cursor tail = cursor_over(bytes, len);
    enum ckpt_status st = CKPT_OK;
    for (uint32_t i = 0; st == CKPT_OK && i < w->count; i++) {
        struct wire_frag f;
        struct box box;
        if (!slots_read_frag(&tail, &f, &box))
            return err_set(err, CKPT_CORRUPT, "restore: ckptd sent a cut message");
        st = put_frag(s, &f, &box, s->arena + w->arena_slot * s->slot_bytes, err);
    }
    if (st == CKPT_OK && !cursor_done(&tail))
        return err_set(err, CKPT_CORRUPT, "restore: ckptd sent more than %u fragments", w->count);
    return st;
}

/* -- saving: tiles to slots ----------------------------------------------- */

/* Copies a box of a piece to dense bytes, if it lies where this part looks. */
static enum ckpt_status copy_out(struct ckpt_state *s, enum slots_part part, size_t tensor,
                                 size_t piece, const struct box *box, uint8_t *to,
                                 struct ckpt_err *err)
{
    struct gpu *g = piece_gpu(s, piece);
    if ((part == SLOTS_DEVICES) != (s->on[piece] != 0))
        return CKPT_OK;
    return g->ops->copy_out(g, to, box, dtype_bits(s->decl.tensors[tensor].dtype),
                            &s->decl.pieces[piece].box, &s->at[piece], err);
}

enum ckpt_status slots_fill_room(struct ckpt_state *s, uint32_t slot, enum slots_part part,
                                 uint8_t *to, struct ckpt_err *err)
{
    struct decl_walk w = decl_walk_slot(&s->decl, slot);
    struct decl_tile tile;
    enum ckpt_status st = CKPT_OK;
    while (st == CKPT_OK && decl_walk_next(&w, &tile))
        st = copy_out(s, part, tile.tensor, tile.piece, &tile.box, to + tile.place.offset, err);
    return st;
}

enum ckpt_status slots_fill(struct ckpt_state *s, const struct wire_full *full,
                            enum slots_part part, struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_OK;
    if (full->arena_slot != UINT32_MAX)
        st = slots_fill_room(s, full->slot, part, s->arena + full->arena_slot * s->slot_bytes, err);
    if (st != CKPT_OK || !(full->flags & WIRE_FULL_WITNESS))
        return st;
    struct decl_witness w = decl_witness_at(&s->decl, full->witness);
    return copy_out(s, part, w.tensor, w.piece, &w.box, s->tile.bytes, err);
}

void slots_choose_witness(struct ckpt_state *s, struct wire_full *full)
{
    if (!(full->flags & WIRE_FULL_LAST) || s->decl.witness_count == 0)
        return;
    full->flags |= WIRE_FULL_WITNESS;
    full->witness = s->witness_turn++ % s->decl.witness_count;
}

void slots_digest_witness(const struct ckpt_state *s, struct wire_full *full)
{
    if (!(full->flags & WIRE_FULL_WITNESS))
        return;
    struct decl_witness w = decl_witness_at(&s->decl, full->witness);
    struct digest digest = digest_of(s->tile.bytes, w.bytes);
    memcpy(full->digest, digest.b, sizeof(full->digest));
}
