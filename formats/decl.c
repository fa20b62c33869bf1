/* Declared state: collects tensors and pieces, proves them sane, derives shares,
 * tiles and slots.  The bytes that carry it to the daemon are in decl_bytes.c. */
#include "formats/decl.h"

#include <assert.h>

#include "formats/desc.h"
#include "formats/disjoint.h"
#include "formats/layout.h"

void decl_fini(struct decl *d)
{
    if (!d)
        return;
    for (size_t i = 0; i < d->tensor_count; i++) {
        free(d->tensors[i].name);
        free(d->tensors[i].alias);
    }
    free(d->tensors);
    free(d->pieces);
    free(d->slots);
    free(d->by_name);
    *d = (struct decl){ 0 };
}

/* --- adding ------------------------------------------------------------------- */

static enum ckpt_status grow(void **array, size_t *cap, size_t count, size_t size,
                             struct ckpt_err *err)
{
    if (array_room(array, count, cap, size))
        return CKPT_OK;
    return err_set(err, CKPT_NO_MEMORY, "no memory for a declaration of more than %zu entries",
                   count);
}

enum ckpt_status decl_add_desc(struct decl *d, const struct desc *desc, struct ckpt_err *err)
{
    assert(!d->finished);
    enum ckpt_status st = desc_check(desc, err);
    if (st != CKPT_OK)
        return st;
    if (d->tensor_count >= CKPT_TENSORS_MAX)
        return err_set(err, CKPT_LIMIT, "tensor %s: a rank has at most %u tensors", desc->name,
                       CKPT_TENSORS_MAX);
    st = grow((void **)&d->tensors, &d->tensor_cap, d->tensor_count, sizeof(*d->tensors), err);
    if (st != CKPT_OK)
        return st;
    CLEANUP_FREE char *name = strdup(desc->name);
    CLEANUP_FREE char *alias = desc->alias ? strdup(desc->alias) : NULL;
    if (!name || (desc->alias && !alias))
        return err_set(err, CKPT_NO_MEMORY, "no memory for tensor %s", desc->name);
    struct decl_tensor *t = &d->tensors[d->tensor_count++];
    *t = (struct decl_tensor){ .first_piece = d->piece_count };
    DESC_COPY(t, desc);
    t->name = TAKE_PTR(name);
    t->alias = TAKE_PTR(alias);
    for (uint32_t i = t->ndim; i < CKPT_DIMS_MAX; i++)
        t->shape[i] = t->block[i] = 0;
    return CKPT_OK;
}

enum ckpt_status decl_add_tensor(struct decl *d, const struct decl_tensor *t, struct ckpt_err *err)
{
    struct desc desc = { .name = t->name, .alias = t->alias };
    DESC_COPY(&desc, t);
    return decl_add_desc(d, &desc, err);
}

/* A blocked tensor is cut on borders of its blocks or at its end. */
static enum ckpt_status check_cuts(const struct decl_tensor *t, const struct box *box,
                                   struct ckpt_err *err)
{
    for (uint32_t i = 0; i < t->ndim; i++) {
        uint64_t block = t->block[i] ? t->block[i] : 1, end = box->off[i] + box->len[i];
        if (box->off[i] % block || (end % block && end != t->shape[i]))
            return err_set(err, CKPT_INVALID,
                           "dimension %u is cut off the border of its blocks of %llu", i,
                           (unsigned long long)block);
    }
    return CKPT_OK;
}

/* Sub-byte elements are addressable only as dense rows that begin on bytes. */
static enum ckpt_status check_strides(const struct decl_tensor *t, const struct decl_piece *p,
                                      struct ckpt_err *err)
{
    unsigned bits = dtype_bits(t->dtype);
    for (uint32_t i = 0; bits % 8 && i < t->ndim; i++) {
        bool last = i + 1 == t->ndim;
        if (p->box.len[i] > 1 &&
            (last ? p->stride[i] != 1 : p->stride[i] % 8 * (int64_t)bits % 8 != 0))
            return err_set(err, CKPT_INVALID,
                           "stride %lld in dimension %u does not lie on bytes for %s",
                           (long long)p->stride[i], i, dtype_name(t->dtype));
    }
    return CKPT_OK;
}

static enum ckpt_status check_piece(const struct decl_tensor *t, const struct decl_piece *p,
                                    struct ckpt_err *err)
{
    if (t->flags & DECL_ALIAS)
        return err_set(err, CKPT_INVALID, "an alias has no pieces of its own");
    if (p->box.ndim != t->ndim)
        return err_set(err, CKPT_MISMATCH, "a piece has %u dimensions, the tensor %u", p->box.ndim,
                       t->ndim);
    if (!p->replica_count || p->replica_count > CKPT_RANKS_MAX || p->replica >= p->replica_count)
        return err_set(err, CKPT_INVALID, "replica %u of %u is not possible", p->replica,
                       p->replica_count);
    enum ckpt_status st = box_check(&p->box, t->shape, dtype_bits(t->dtype), err);
    if (st != CKPT_OK)
        return st;
    st = check_strides(t, p, err);
    if (st != CKPT_OK)
        return st;
    return check_cuts(t, &p->box, err);
}

enum ckpt_status decl_add_piece(struct decl *d, const struct decl_piece *p, struct ckpt_err *err)
{
    assert(!d->finished && d->tensor_count);
    struct decl_tensor *t = &d->tensors[d->tensor_count - 1];
    enum ckpt_status st = check_piece(t, p, err);
    if (st == CKPT_OK && d->piece_count >= DECL_PIECES_MAX)
        st = err_set(err, CKPT_LIMIT, "a rank has at most %u pieces", DECL_PIECES_MAX);
    if (st == CKPT_OK)
        st = grow((void **)&d->pieces, &d->piece_cap, d->piece_count, sizeof(*d->pieces), err);
    if (st != CKPT_OK) {
        err_prefix(err, "tensor %s", t->name);
        return st;
    }
    struct decl_piece *to = &d->pieces[d->piece_count++];
    *to = (struct decl_piece){ .box = p->box,
                               .offset_bytes = p->offset_bytes,
                               .replica = p->replica,
                               .replica_count = p->replica_count,
                               .tensor = d->tensor_count - 1 };
    memcpy(to->stride, p->stride, t->ndim * sizeof(*p->stride));
    t->piece_count++;
    return CKPT_OK;
}

/* --- finishing ---------------------------------------------------------------- */

static int by_name(const void *a, const void *b, void *tensors)
{
    const struct decl_tensor *t = tensors;
    return strcmp(t[*(const size_t *)a].name, t[*(const size_t *)b].name);
}

static enum ckpt_status sort_names(struct decl *d, struct ckpt_err *err)
{
    d->by_name = calloc(d->tensor_count + 1, sizeof(*d->by_name));
    if (!d->by_name)
        return err_set(err, CKPT_NO_MEMORY, "no memory to sort %zu tensors", d->tensor_count);
    for (size_t i = 0; i < d->tensor_count; i++)
        d->by_name[i] = i;
    qsort_r(d->by_name, d->tensor_count, sizeof(*d->by_name), by_name, d->tensors);
    for (size_t i = 1; i < d->tensor_count; i++) {
        const char *name = d->tensors[d->by_name[i]].name;
        if (strcmp(name, d->tensors[d->by_name[i - 1]].name) == 0)
            return err_set(err, CKPT_INVALID, "tensor %s is declared twice", name);
    }
    return CKPT_OK;
}

const struct decl_tensor *decl_find(const struct decl *d, const char *name)
{
    size_t low = 0, high = d->by_name ? d->tensor_count : 0;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        const struct decl_tensor *t = &d->tensors[d->by_name[mid]];
        int cmp = strcmp(name, t->name);
        if (cmp == 0)
            return t;
        if (cmp < 0)
            high = mid;
        else
            low = mid + 1;
    }
    return NULL;
}

static enum ckpt_status check_target(const struct decl *d, const struct decl_tensor *t,
                                     struct ckpt_err *err)
{
    if (!t->alias)
        return CKPT_OK;
    const struct decl_tensor *target = decl_find(d, t->alias);
    if (!target)
        return err_set(err, CKPT_INVALID, "tensor %s: its alias %s is not declared", t->name,
                       t->alias);
    if (target->alias)
        return err_set(err, CKPT_INVALID, "tensor %s: its alias %s is itself an alias", t->name,
                       t->alias);
    if (target->dtype != t->dtype || target->ndim != t->ndim || target->flags & DECL_OBJECT ||
        memcmp(target->shape, t->shape, sizeof(t->shape)) != 0)
        return err_set(err, CKPT_MISMATCH, "tensor %s: differs from its alias %s in dtype or shape",
                       t->name, t->alias);
    return CKPT_OK;
}

static enum ckpt_status check_overlap(const struct decl *d, const struct decl_tensor *t,
                                      const struct box **boxes, uint64_t *budget,
                                      struct ckpt_err *err)
{
    size_t n = 0;
    struct box common;
    char text[1024];
    for (size_t i = 0; i < t->piece_count; i++) {
        const struct box *box = &d->pieces[t->first_piece + i].box;
        if (box_volume(box))
            boxes[n++] = box;
    }
    enum ckpt_status st = disjoint_check(boxes, n, budget, &common);
    if (st == CKPT_COVER)
        return err_set(err, st, "tensor %s: two pieces of this rank both hold %s", t->name,
                       box_to_text(&common, text, sizeof(text)));
    if (st != CKPT_OK)
        return err_set(err, st, "tensor %s: its %zu pieces are too irregular to be proved apart",
                       t->name, t->piece_count);
    return CKPT_OK;
}

static enum ckpt_status check_overlaps(const struct decl *d, struct ckpt_err *err)
{
    size_t most = 0;
    for (size_t i = 0; i < d->tensor_count; i++)
        most = max_u64(most, d->tensors[i].piece_count);
    if (most < 2)
        return CKPT_OK;
    CLEANUP_FREE const struct box **boxes = calloc(most, sizeof(*boxes));
    if (!boxes)
        return err_set(err, CKPT_NO_MEMORY, "no memory to compare %zu pieces", most);
    uint64_t budget = disjoint_budget(d->piece_count);
    for (size_t i = 0; i < d->tensor_count; i++) {
        enum ckpt_status st = check_overlap(d, &d->tensors[i], boxes, &budget, err);
        if (st != CKPT_OK)
            return st;
    }
    return CKPT_OK;
}

static void put_u64(uint8_t *to, uint64_t v)
{
    for (unsigned i = 0; i < 8; i++)
        to[i] = (uint8_t)(v >> (8 * i));
}

/* Equal on all ranks that hold the same box, and different between tensors, so that
 * small tensors spread over their replicas. */
static uint64_t share_hash(const struct decl_tensor *t, const struct box *box)
{
    uint8_t bytes[CKPT_TENSOR_NAME_MAX + 16 * CKPT_DIMS_MAX];
    size_t n = strlen(t->name);
    memcpy(bytes, t->name, n);
    for (uint32_t i = 0; i < box->ndim; i++) {
        put_u64(bytes + n, box->off[i]);
        put_u64(bytes + n + 8, box->len[i]);
        n += 16;
    }
    return digest_hash(bytes, n);
}

bool decl_share(const struct decl_tensor *t, const struct decl_piece *p, uint32_t replica,
                struct box *ret)
{
    uint64_t hash = share_hash(t, &p->box);
    /* A locked tensor comes back only as the boxes that were saved; and the replicas of an object
     * need not hold the same bytes, of the same length: parts of several would be nobody's. */
    if (t->kind == DECL_LOCKED || (t->flags & DECL_OBJECT)) {
        *ret = p->box;
        return hash % p->replica_count == replica;
    }
    return layout_share(&p->box, dtype_bits(t->dtype), p->tile, hash, replica, p->replica_count,
                        ret);
}

/* Tiles of the piece outside of this rank's share; fewer than 2^32.  Objects are left out:
 * programs put clocks and host names into what they call shared. */
static uint64_t others_tiles(const struct decl_tensor *t, const struct decl_piece *p)
{
    if ((t->flags & DECL_OBJECT) || box_volume(&p->box) == 0)
        return 0;
    return tile_count(&p->box, p->tile) - p->chunks;
}

static enum ckpt_status derive_piece(struct decl *d, const struct decl_tensor *t,
                                     struct decl_piece *p, struct ckpt_err *err)
{
    unsigned bits = dtype_bits(t->dtype);
    tile_shape_default(&p->box, bits, CKPT_CHUNK_BYTES_MAX,
                       t->kind == DECL_BLOCKED ? t->block : NULL, p->tile);
    enum ckpt_status st = tile_check(&p->box, bits, p->tile, err);
    if (st != CKPT_OK)
        return st;
    p->share = p->box;
    p->writes = box_volume(&p->box) && decl_share(t, p, p->replica, &p->share);
    p->first_chunk = d->chunk_count;
    p->chunks = p->writes ? tile_count(&p->share, p->tile) : 0;
    p->writes = p->chunks > 0;
    d->witness_count += others_tiles(t, p);
    d->chunk_count += p->chunks;
    d->hold_bytes += box_bytes(&p->box, bits);
    if (p->writes)
        d->raw_bytes += box_bytes(&p->share, bits);
    if (d->chunk_count > DECL_CHUNKS_MAX || d->hold_bytes > DECL_BYTES_MAX)
        return err_set(err, CKPT_LIMIT, "a rank holds at most %u tiles and %llu bytes",
                       DECL_CHUNKS_MAX, (unsigned long long)DECL_BYTES_MAX);
    return CKPT_OK;
}

static enum ckpt_status derive_tensor(struct decl *d, struct decl_tensor *t, struct ckpt_err *err)
{
    uint64_t table = 0;
    for (size_t i = 0; i < t->piece_count; i++) {
        struct decl_piece *p = &d->pieces[t->first_piece + i];
        enum ckpt_status st = derive_piece(d, t, p, err);
        if (st != CKPT_OK) {
            err_prefix(err, "tensor %s", t->name);
            return st;
        }
        table += 16 + 24 * (uint64_t)t->ndim + p->chunks * sizeof(struct digest);
    }
    if (table > DECL_TABLE_BYTES_MAX)
        return err_set(err, CKPT_LIMIT,
                       "tensor %s: %zu pieces in this many tiles do not fit into a manifest",
                       t->name, t->piece_count);
    return CKPT_OK;
}

/* Appends one tile to the last slot or opens the next. */
static enum ckpt_status place_tile(struct decl *d, size_t *slot_cap, struct image *image,
                                   const struct decl_slot *at, uint64_t bytes, struct ckpt_err *err)
{
    struct image_place place = image_next(image, bytes);
    if (place.chunk == 0) {
        if (d->slot_count == DECL_SLOTS_MAX)
            return err_set(err, CKPT_LIMIT, "a rank writes at most %u slots: take larger ones",
                           DECL_SLOTS_MAX);
        enum ckpt_status st =
            grow((void **)&d->slots, slot_cap, d->slot_count, sizeof(*d->slots), err);
        if (st != CKPT_OK)
            return st;
        d->slots[d->slot_count++] = *at;
    }
    struct decl_slot *slot = &d->slots[d->slot_count - 1];
    slot->chunks = place.chunk + 1;
    slot->used = place.offset + bytes;
    return CKPT_OK;
}

static enum ckpt_status place_tiles(struct decl *d, struct ckpt_err *err)
{
    struct image image = image_init(d->slot_bytes);
    size_t slot_cap = 0;
    for (size_t i = 0; i < d->piece_count; i++) {
        const struct decl_piece *p = &d->pieces[i];
        unsigned bits = dtype_bits(d->tensors[p->tensor].dtype);
        for (uint64_t k = 0; k < p->chunks; k++) {
            struct box box = tile_at(&p->share, p->tile, k);
            struct decl_slot at = { .first_chunk = p->first_chunk + k, .piece = i, .tile = k };
            enum ckpt_status st = place_tile(d, &slot_cap, &image, &at, box_bytes(&box, bits), err);
            if (st != CKPT_OK)
                return st;
        }
    }
    return CKPT_OK;
}

enum ckpt_status decl_finish(struct decl *d, uint64_t slot_bytes, struct ckpt_err *err)
{
    assert(!d->finished);
    if (slot_bytes < CKPT_SLOT_BYTES_MIN || slot_bytes > CKPT_SLOT_BYTES_MAX ||
        slot_bytes % CKPT_BLOCK)
        return err_set(err, CKPT_LIMIT, "slot of %llu bytes: allowed are 8 to 128 MiB",
                       (unsigned long long)slot_bytes);
    d->slot_bytes = slot_bytes;
    enum ckpt_status st = sort_names(d, err);
    for (size_t i = 0; st == CKPT_OK && i < d->tensor_count; i++)
        st = check_target(d, &d->tensors[i], err);
    if (st != CKPT_OK)
        return st;
    st = check_overlaps(d, err);
    for (size_t i = 0; st == CKPT_OK && i < d->tensor_count; i++)
        st = derive_tensor(d, &d->tensors[i], err);
    if (st == CKPT_OK)
        st = place_tiles(d, err);
    d->finished = st == CKPT_OK;
    return st;
}

struct decl_witness decl_witness_at(const struct decl *d, uint64_t i)
{
    assert(d->finished && i < d->witness_count);
    const struct decl_piece *p = d->pieces;
    for (uint64_t n; i >= (n = others_tiles(&d->tensors[p->tensor], p)); p++)
        i -= n;
    uint64_t number = 0;
    struct box box = tile_at(&p->box, p->tile, number);
    /* The tiles of all shares are those of the box: one lies in ours whole or not at all. */
    while ((p->writes && box_contains(&p->share, &box)) || i-- > 0)
        box = tile_at(&p->box, p->tile, ++number);
    return (struct decl_witness){
        .tensor = p->tensor,
        .piece = (size_t)(p - d->pieces),
        .box = box,
        .bytes = (uint32_t)box_bytes(&box, dtype_bits(d->tensors[p->tensor].dtype)),
    };
}

/* --- walking ------------------------------------------------------------------ */

struct decl_walk decl_walk_slot(const struct decl *d, uint32_t slot)
{
    assert(d->finished && slot < d->slot_count);
    return (struct decl_walk){
        .d = d, .slot = slot, .piece = d->slots[slot].piece, .tile = d->slots[slot].tile
    };
}

bool decl_walk_next(struct decl_walk *w, struct decl_tile *ret)
{
    const struct decl *d = w->d;
    if (w->done == d->slots[w->slot].chunks)
        return false;
    while (w->tile == d->pieces[w->piece].chunks) {
        w->piece++;
        w->tile = 0;
    }
    const struct decl_piece *p = &d->pieces[w->piece];
    struct box box = tile_at(&p->share, p->tile, w->tile);
    uint64_t bytes = box_bytes(&box, dtype_bits(d->tensors[p->tensor].dtype));
    struct image_place place = { .slot = w->slot,
                                 .chunk = w->done,
                                 .offset = image_offset_next(&w->used, bytes) };
    *ret = (struct decl_tile){ .tensor = p->tensor,
                               .piece = w->piece,
                               .chunk = p->first_chunk + w->tile,
                               .box = box,
                               .bytes = (uint32_t)bytes,
                               .place = place };
    w->done++;
    w->tile++;
    return true;
}
