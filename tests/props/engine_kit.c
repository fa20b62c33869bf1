/* See engine_kit.h. */
#include "props/engine_kit.h"

#include "formats/layout.h"

void *(*kit_calloc)(size_t count, size_t bytes) = calloc;
void *(*kit_aligned)(size_t align, size_t bytes) = aligned_alloc;
uint64_t kit_salt;

static uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Sub-byte or not, a tensor is an array of bytes: its last dimension is counted in them. */
static void in_bytes(uint32_t ndim, const uint64_t *in, unsigned bits, uint64_t *out)
{
    for (uint32_t i = 0; i + 1 < ndim; i++)
        out[i] = in[i];
    out[ndim ? ndim - 1 : 0] = ndim ? in[ndim - 1] * bits / 8 : bits / 8;
}

void kit_bytes(const char *name, const uint64_t *shape, const struct box *box, unsigned bits,
               uint8_t *to)
{
    uint32_t n = box->ndim ? box->ndim : 1;
    uint64_t whole[CKPT_DIMS_MAX], off[CKPT_DIMS_MAX] = { 0 }, len[CKPT_DIMS_MAX];
    uint64_t at[CKPT_DIMS_MAX] = { 0 };
    uint64_t seed = digest_hash(name, strlen(name)) ^ kit_salt;
    uint64_t mask = name[0] == 'z' ? 0x0303030303030303u : UINT64_MAX;
    uint64_t bytes = box_bytes(box, bits);
    in_bytes(box->ndim, shape, bits, whole);
    in_bytes(box->ndim, box->len, bits, len);
    if (box->ndim)
        in_bytes(box->ndim, box->off, bits, off);
    for (uint64_t done = 0; done < bytes;) {
        uint64_t row = 0;
        for (uint32_t d = 0; d < n; d++)
            row = row * whole[d] + off[d] + at[d];
        for (uint64_t i = 0, some; i < len[n - 1]; i += some) {
            uint64_t word = mix(seed + (row + i) / 8) & mask, skip = (row + i) % 8;
            some = min_u64(8 - skip, len[n - 1] - i);
            memcpy(to + done, (const uint8_t *)&word + skip, some);
            done += some;
        }
        for (uint32_t d = n - 1; d-- > 0;) {
            if (++at[d] < len[d])
                break;
            at[d] = 0;
        }
    }
}

/* --- models --------------------------------------------------------------------- */

void kit_model_add(struct kit_model *m, const char *name, unsigned dtype, uint32_t ndim,
                   const uint64_t *shape)
{
    CHECK(m->count < ARRAY_COUNT(m->tensors));
    struct kit_tensor *t = &m->tensors[m->count++];
    *t = (struct kit_tensor){ .dtype = dtype, .ndim = ndim };
    snprintf(t->name, sizeof(t->name), "%s", name);
    if (ndim)
        memcpy(t->shape, shape, ndim * sizeof(*shape));
}

static void random_tensor(struct kit_tensor *t, unsigned long long *rand, struct kit_census *census)
{
    static const unsigned dtypes[] = { CKPT_DTYPE_F32, CKPT_DTYPE_BF16, CKPT_DTYPE_U8,
                                       CKPT_DTYPE_F64, CKPT_DTYPE_U4,   CKPT_DTYPE_F8_E4M3 };
    t->dtype = dtypes[test_rand(rand) % ARRAY_COUNT(dtypes)];
    t->ndim = (uint32_t)(test_rand(rand) % 4);
    if (t->ndim == 0 && dtype_bits(t->dtype) < 8)
        t->ndim = 1;
    for (uint32_t i = 0; i < t->ndim; i++)
        t->shape[i] = 1 + test_rand(rand) % 14;
    census->scalar += t->ndim == 0;
    if (t->ndim && test_rand(rand) % 12 == 0) {
        t->shape[0] = 0;
        census->empty++;
    }
    if (t->ndim == 2 && test_rand(rand) % 24 == 0) {
        t->shape[0] = 2048 + test_rand(rand) % 700;
        t->shape[1] = 2048;
        census->large++;
    }
    if (dtype_bits(t->dtype) < 8) {
        t->shape[t->ndim - 1] *= 2;
        census->subbyte++;
    }
    unsigned dice = (unsigned)(test_rand(rand) % 10);
    if (dice == 0 && t->ndim) {
        t->kind = DECL_BLOCKED;
        t->block[0] = 3;
        census->blocked++;
    } else if (dice == 1) {
        t->kind = DECL_LOCKED;
        census->locked++;
    }
    for (uint32_t i = 0; t->kind == DECL_BLOCKED && i < t->ndim; i++)
        t->block[i] = t->block[i] ? t->block[i] : 1;
}

void kit_model_random(struct kit_model *m, unsigned long long *rand, struct kit_census *census)
{
    *m = (struct kit_model){ .count = 1 + test_rand(rand) % 9 };
    for (size_t i = 0; i < m->count; i++) {
        struct kit_tensor *t = &m->tensors[i];
        snprintf(t->name, sizeof(t->name), "layer.%llu.w%zu", test_rand(rand) % 100, i);
        random_tensor(t, rand, census);
    }
    if (test_rand(rand) % 3 == 0) {
        struct kit_tensor *t = &m->tensors[m->count++];
        *t = (struct kit_tensor){
            .name = "rng", .dtype = CKPT_DTYPE_U8, .ndim = 1, .shape = { 100 }, .flags = DECL_OBJECT
        };
        census->object++;
    }
    if (m->tensors[0].kind == DECL_ELEMENTWISE && test_rand(rand) % 3 == 0) {
        struct kit_tensor *t = &m->tensors[m->count++];
        *t = m->tensors[0];
        snprintf(t->name, sizeof(t->name), "tied");
        memcpy(t->alias, m->tensors[0].name, sizeof(t->alias));
        t->flags |= DECL_ALIAS;
        census->alias++;
    }
}

/* --- layouts -------------------------------------------------------------------- */

static void add_piece(struct decl *d, const struct box *box, uint32_t r, uint32_t of)
{
    struct decl_piece p = { .box = *box, .replica = r, .replica_count = of };
    uint64_t stride = 1;
    for (uint32_t i = box->ndim; i-- > 0;) {
        p.stride[i] = (int64_t)stride;
        stride *= box->len[i] ? box->len[i] : 1;
    }
    struct ckpt_err err = { 0 };
    if (decl_add_piece(d, &p, &err) != CKPT_OK) {
        fprintf(stderr, "%s\n", err_text(&err));
        exit(1);
    }
}

/* A cut of `len` that keeps blocks and bytes whole. */
static uint64_t cut_at(const struct kit_tensor *t, uint32_t dim, uint64_t off, uint64_t len,
                       unsigned long long *rand)
{
    uint64_t unit = t->kind == DECL_BLOCKED ? t->block[dim] : 1;
    if (dtype_bits(t->dtype) < 8 && dim + 1 == t->ndim)
        unit *= 2;
    uint64_t at = off + test_rand(rand) % (len + 1);
    at = at / unit * unit;
    return at < off ? 0 : at - off;
}

static void scatter(struct kit_layout *l, const struct kit_tensor *t, const struct box *box,
                    int depth, unsigned long long *rand)
{
    uint64_t cut = 0;
    uint32_t dim = box->ndim ? (uint32_t)(test_rand(rand) % box->ndim) : 0;
    if (depth > 0 && box->ndim && box_volume(box))
        cut = cut_at(t, dim, box->off[dim], box->len[dim], rand);
    if (cut == 0 || cut == box->len[dim]) {
        uint32_t rank = (uint32_t)(test_rand(rand) % l->world);
        if (test_rand(rand) % 4 || l->world < 2) {
            add_piece(&l->d[rank], box, 0, 1);
        } else { /* two replicas */
            add_piece(&l->d[rank], box, 0, 2);
            add_piece(&l->d[(rank + 1) % l->world], box, 1, 2);
        }
        return;
    }
    struct box part = *box;
    part.len[dim] = cut;
    scatter(l, t, &part, depth - 1, rand);
    part.off[dim] += cut;
    part.len[dim] = box->len[dim] - cut;
    scatter(l, t, &part, depth - 1, rand);
}

static void split_rows(struct kit_layout *l, const struct kit_tensor *t, const struct box *whole)
{
    uint64_t unit = t->kind == DECL_BLOCKED ? t->block[0] : 1;
    if (dtype_bits(t->dtype) < 8 && t->ndim == 1)
        unit *= 2;
    uint64_t rows = div_up(div_up(whole->len[0], l->world), unit) * unit;
    for (uint32_t r = 0; r < l->world; r++) {
        struct box box = *whole;
        box.off[0] = min_u64(r * rows, whole->len[0]);
        box.len[0] = min_u64(rows, whole->len[0] - box.off[0]);
        if (box.len[0] || t->kind != DECL_BLOCKED) /* an empty one may lie off the borders */
            add_piece(&l->d[r], &box, 0, 1);
    }
}

static void split_flat(struct kit_layout *l, const struct kit_tensor *t, const struct box *whole)
{
    unsigned bits = dtype_bits(t->dtype);
    uint64_t volume = box_volume(whole), each = div_up(volume, l->world);
    each += bits < 8 ? each % 2 : 0;
    for (uint32_t r = 0; r < l->world; r++) {
        struct layout_piece pieces[2 * CKPT_DIMS_MAX];
        struct layout_out out = { .piece = pieces, .cap = ARRAY_COUNT(pieces) };
        uint64_t start = min_u64(r * each, volume);
        CHECK_OK(layout_flat(whole, 1, bits, start, min_u64(each, volume - start), &out, NULL));
        for (size_t i = 0; i < out.count; i++)
            add_piece(&l->d[r], &pieces[i].box, 0, 1);
    }
}

/* world = a x b; one axis shards a dimension, the other replicates or shards another. */
static void split_mesh(struct kit_layout *l, const struct kit_tensor *t, unsigned long long *rand)
{
    uint32_t a = l->world % 2 ? 1 : 2;
    const uint32_t size[2] = { a, l->world / a };
    const struct layout_placement place[2] = {
        { .kind = LAYOUT_SHARD, .dim = 0 },
        { .kind = test_rand(rand) % 2 ? LAYOUT_REPLICATE : LAYOUT_SHARD, .dim = 0 },
    };
    for (uint32_t r = 0; r < l->world; r++) {
        const uint32_t coord[2] = { r / size[1], r % size[1] };
        const struct layout_mesh mesh = {
            .ndim = 2, .size = size, .coord = coord, .placement = place
        };
        struct layout_piece pieces[64];
        struct layout_out out = { .piece = pieces, .cap = ARRAY_COUNT(pieces) };
        uint64_t local[CKPT_DIMS_MAX];
        CHECK_OK(layout_mesh(&mesh, t->ndim, t->shape, dtype_bits(t->dtype), &out, local, NULL));
        for (size_t i = 0; i < out.count; i++)
            add_piece(&l->d[r], &pieces[i].box, pieces[i].replica, pieces[i].replica_count);
    }
}

/* One tensor's pieces on all ranks. */
static void lay_tensor(struct kit_layout *l, const struct kit_tensor *t, unsigned long long *rand,
                       struct kit_census *census)
{
    struct box whole = box_whole(t->ndim, t->shape);
    bool free_cuts = t->kind == DECL_ELEMENTWISE && t->ndim > 0 && dtype_bits(t->dtype) >= 8;
    switch (t->kind == DECL_LOCKED ? 0 : test_rand(rand) % 6) {
    case 0:
        add_piece(&l->d[digest_hash(t->name, strlen(t->name)) % l->world], &whole, 0, 1);
        census->whole++;
        return;
    case 1:
        for (uint32_t r = 0; r < l->world; r++)
            add_piece(&l->d[r], &whole, r, l->world);
        census->replicated++;
        return;
    case 2:
        if (t->ndim) {
            split_rows(l, t, &whole);
            census->grid++;
            return;
        }
        break;
    case 3:
        if (t->kind == DECL_ELEMENTWISE && t->ndim) {
            split_flat(l, t, &whole);
            census->flat++;
            return;
        }
        break;
    case 4:
        if (free_cuts) {
            split_mesh(l, t, rand);
            census->mesh++;
            return;
        }
        break;
    default:
        break;
    }
    scatter(l, t, &whole, 4, rand);
    census->scattered++;
}

static void add_tensor(struct decl *d, const struct kit_tensor *t)
{
    struct kit_tensor copy = *t;
    struct decl_tensor dt = { .name = copy.name,
                              .alias = copy.alias[0] ? copy.alias : NULL,
                              .dtype = (uint8_t)t->dtype,
                              .kind = (uint8_t)t->kind,
                              .flags = (uint16_t)t->flags,
                              .ndim = t->ndim };
    memcpy(dt.shape, t->shape, sizeof(dt.shape));
    memcpy(dt.block, t->block, sizeof(dt.block));
    struct ckpt_err err = { 0 };
    if (decl_add_tensor(d, &dt, &err) != CKPT_OK) {
        fprintf(stderr, "%s\n", err_text(&err));
        exit(1);
    }
}

static void layout_init(struct kit_layout *l, uint32_t world)
{
    *l = (struct kit_layout){ .world = world };
    l->d = calloc(world, sizeof(*l->d));
    l->list = calloc(world, sizeof(struct decl *));
    CHECK(l->d && l->list);
}

static void layout_finish(struct kit_layout *l)
{
    for (uint32_t r = 0; r < l->world; r++) {
        struct ckpt_err err = { 0 };
        if (decl_finish(&l->d[r], KIT_SLOT, &err) != CKPT_OK) {
            fprintf(stderr, "%s\n", err_text(&err));
            exit(1);
        }
        l->list[r] = &l->d[r];
    }
}

void kit_layout_random(struct kit_layout *l, const struct kit_model *m, uint32_t world,
                       unsigned long long *rand, struct kit_census *census)
{
    layout_init(l, world);
    for (size_t i = 0; i < m->count; i++) {
        for (uint32_t r = 0; r < world; r++)
            add_tensor(&l->d[r], &m->tensors[i]);
        if (!m->tensors[i].alias[0])
            lay_tensor(l, &m->tensors[i], rand, census);
    }
    layout_finish(l);
}

void kit_layout_rows(struct kit_layout *l, const struct kit_model *m, uint32_t world)
{
    layout_init(l, world);
    for (size_t i = 0; i < m->count; i++) {
        struct box whole = box_whole(m->tensors[i].ndim, m->tensors[i].shape);
        for (uint32_t r = 0; r < world; r++)
            add_tensor(&l->d[r], &m->tensors[i]);
        if (m->tensors[i].flags & DECL_ALIAS)
            continue;
        if (m->tensors[i].ndim)
            split_rows(l, &m->tensors[i], &whole);
        else
            add_piece(&l->d[0], &whole, 0, 1);
    }
    layout_finish(l);
}

void kit_layout_fini(struct kit_layout *l)
{
    for (uint32_t r = 0; r < l->world; r++)
        decl_fini(&l->d[r]);
    free(l->d);
    free(l->list);
}

/* --- save ----------------------------------------------------------------------- */

static uint8_t *aligned(size_t bytes)
{
    uint8_t *p = kit_aligned(CKPT_BLOCK, align_up(bytes + 1, CKPT_BLOCK));
    CHECK(p);
    return p;
}

/* Of the largest slot: most have little in them. */
static uint64_t slot_room(const struct decl *d)
{
    uint64_t most = 0;
    for (uint32_t i = 0; i < d->slot_count; i++)
        most = max_u64(most, align_up(d->slots[i].used, CKPT_BLOCK));
    return min_u64(most, KIT_SLOT);
}

/* As a client leaves it: rubbish between the tiles. */
static void fill_slot(const struct decl *d, const struct strided *at, uint32_t slot,
                      uint8_t *memory)
{
    memset(memory, 0xee, min_u64(align_up(d->slots[slot].used, CKPT_BLOCK), KIT_SLOT));
    struct decl_walk w = decl_walk_slot(d, slot);
    struct decl_tile tile;
    while (decl_walk_next(&w, &tile)) {
        const struct decl_tensor *t = &d->tensors[tile.tensor];
        unsigned bits = dtype_bits(t->dtype);
        struct strided to = dense_at(&tile.box, bits, memory + tile.place.offset);
        if (at)
            box_copy(&tile.box, bits, &tile.box, &to, &d->pieces[tile.piece].box, &at[tile.piece]);
        else
            kit_bytes(t->name, t->shape, &tile.box, bits, to.base);
    }
}

void kit_header(struct manifest_header *h, const struct kit_layout *l, uint32_t rank,
                const struct kit_save *how)
{
    *h = (struct manifest_header){ .name = how->name,
                                   .rank = rank,
                                   .world = l->world,
                                   .has_parent = how->has_parent,
                                   .parent = how->parent,
                                   .time_ns = 1700000000,
                                   .job = KIT_JOB,
                                   .flags = (uint16_t)(rank == 0 ? how->flags : 0) };
    if (how->per_node)
        h->node[0] = (uint8_t)(rank / how->per_node);
    if (rank == 0) {
        h->metric_count = 1;
        snprintf(h->metrics[0].name, sizeof(h->metrics[0].name), "loss");
        h->metrics[0].value = 1.5;
    }
}

enum ckpt_status kit_save_part(struct store *s, const struct kit_layout *l, uint32_t rank,
                               const struct kit_save *how, struct ckpt_err *err)
{
    const struct decl *d = &l->d[rank];
    struct save_work *w = save_work_new(KIT_SLOT);
    CLEANUP_FREE uint8_t *memory = aligned(slot_room(d));
    CLEANUP_FREE struct digest *digests = kit_calloc(d->chunk_count + 1, sizeof(*digests));
    CLEANUP_FREE uint32_t *crcs = kit_calloc(d->chunk_count + 1, sizeof(*crcs));
    CLEANUP_FREE struct manifest_pack *packs = kit_calloc(d->slot_count + 1, sizeof(*packs));
    CHECK(digests && crcs && packs);
    if (!w)
        return err_set(err, CKPT_NO_MEMORY, "no working memory to save with");
    struct manifest_header h;
    kit_header(&h, l, rank, how);
    h.pack_count = d->slot_count;
    h.packs = packs;
    uint64_t stored = 0;
    enum ckpt_status st = CKPT_OK;
    for (uint32_t i = 0; st == CKPT_OK && i < d->slot_count; i++) {
        struct save_slot in = { .job = KIT_JOB,
                                .name = how->name,
                                .rank = rank,
                                .d = d,
                                .slot = i,
                                .memory = memory,
                                .codec = how->codec };
        struct save_packed packed = { 0 };
        fill_slot(d, l->at ? l->at[rank] : NULL, i, memory);
        save_digest(&in, digests + d->slots[i].first_chunk, crcs + d->slots[i].first_chunk);
        st = save_pack(s, w, &in, digests + d->slots[i].first_chunk, crcs + d->slots[i].first_chunk,
                       &packed, err);
        packs[i] =
            (struct manifest_pack){ i, d->slots[i].chunks, packed.id, d->slots[i].first_chunk };
        stored += packed.stored_bytes;
    }
    struct manifest_source from = { .d = d, .digests = digests };
    if (rank == how->seen_rank) {
        from.seen = how->seen;
        from.seen_count = how->seen_count;
    }
    if (st == CKPT_OK)
        st = save_finish(s, &h, &from, stored, err);
    save_work_free(w);
    return st;
}

void kit_save_parts(struct store *s, const struct kit_layout *l, const struct kit_save *how)
{
    for (uint32_t r = 0; r < l->world; r++) {
        struct ckpt_err err = { 0 };
        if (kit_save_part(s, l, r, how, &err) != CKPT_OK) {
            fprintf(stderr, "saving rank %u: %s\n", r, err_text(&err));
            exit(1);
        }
    }
}

/* --- restore -------------------------------------------------------------------- */

/* Dense memory for every piece of every consumer, filled with what no restore leaves. */
static struct strided **pieces_new(const struct kit_layout *l)
{
    struct strided **all = kit_calloc(l->world, sizeof(*all));
    CHECK(all);
    for (uint32_t c = 0; c < l->world; c++) {
        const struct decl *d = l->list[c];
        all[c] = kit_calloc(d->piece_count + 1, sizeof(**all));
        CHECK(all[c]);
        for (size_t i = 0; i < d->piece_count; i++) {
            unsigned bits = dtype_bits(d->tensors[d->pieces[i].tensor].dtype);
            uint64_t bytes = box_bytes(&d->pieces[i].box, bits);
            all[c][i] = dense_at(&d->pieces[i].box, bits, aligned(bytes));
            memset(all[c][i].base, 0x5a, bytes);
        }
    }
    return all;
}

static void pieces_free(const struct kit_layout *l, struct strided **all)
{
    for (uint32_t c = 0; c < l->world; c++) {
        for (size_t i = 0; i < l->list[c]->piece_count; i++)
            free(all[c][i].base);
        free(all[c]);
    }
    free(all);
}

static void take_frags(const struct kit_layout *l, const struct plan_batch *b, void *const *slots,
                       struct strided **all)
{
    struct plan_iter it = plan_iter_init(b, PLAN_ALL);
    uint32_t seen = 0;
    for (; plan_iter_next(&it); seen++) {
        const struct plan_part *p = it.part;
        const struct decl *d = l->list[p->consumer];
        size_t piece = d->tensors[p->tensor].first_piece + p->piece;
        unsigned bits = dtype_bits(d->tensors[p->tensor].dtype);
        uint32_t u = 0;
        while (b->uses[u].consumer != p->consumer)
            u++;
        CHECK(it.slot_offset + box_bytes(&it.common, bits) <= b->uses[u].slot_used);
        struct strided from = dense_at(&it.common, bits, (uint8_t *)slots[u] + it.slot_offset);
        box_copy(&it.common, bits, &d->pieces[piece].box, &all[p->consumer][piece], &it.common,
                 &from);
    }
    CHECK_EQ(seen, b->frag_count);
}

static void check_pieces(const struct kit_layout *l, struct strided **all)
{
    for (uint32_t c = 0; c < l->world; c++) {
        const struct decl *d = l->list[c];
        for (size_t i = 0; i < d->piece_count; i++) {
            const struct decl_tensor *t = &d->tensors[d->pieces[i].tensor];
            unsigned bits = dtype_bits(t->dtype);
            uint64_t bytes = box_bytes(&d->pieces[i].box, bits);
            CLEANUP_FREE uint8_t *want = aligned(bytes);
            kit_bytes(t->name, t->shape, &d->pieces[i].box, bits, want);
            if (memcmp(want, all[c][i].base, bytes) != 0) {
                fprintf(stderr, "WRONG BYTES in %s, consumer %u\n", t->name, c);
                exit(1);
            }
        }
    }
}

/* Of the largest slot of any batch. */
static uint64_t batch_room(const struct plan *p)
{
    uint64_t most = 0;
    for (size_t i = 0; i < p->batch_count; i++)
        for (uint32_t k = 0; k < p->batches[i].use_count; k++)
            most = max_u64(most, p->batches[i].uses[k].slot_used);
    return most;
}

static enum ckpt_status load_all(struct reader *r, const struct kit_layout *l, const struct plan *p,
                                 struct strided **all, struct load_stats *stats,
                                 struct ckpt_err *err)
{
    struct load_work *w = load_work_new(KIT_SLOT);
    void **slots = kit_calloc(l->world + 1, sizeof(*slots));
    CHECK(slots);
    for (uint32_t i = 0; i < l->world; i++)
        slots[i] = aligned(batch_room(p));
    size_t tier_count;
    struct store *const *tiers = reader_tiers(r, &tier_count);
    enum ckpt_status st =
        w ? CKPT_OK : err_set(err, CKPT_NO_MEMORY, "no working memory to load with");
    for (size_t i = 0; st == CKPT_OK && i < p->batch_count; i++) {
        st = load_batch(w, tiers, tier_count, KIT_JOB, &reader_commit(r)->name, &p->batches[i],
                        slots, stats, err);
        if (st == CKPT_OK)
            take_frags(l, &p->batches[i], slots, all);
    }
    for (uint32_t i = 0; i < l->world; i++)
        free(slots[i]);
    free(slots);
    load_work_free(w);
    return st;
}

enum ckpt_status kit_restore(struct store *const *tiers, size_t tier_count,
                             const struct ckpt_name *name, const struct kit_layout *l,
                             struct load_stats *stats, struct ckpt_err *err)
{
    struct reader *r;
    struct plan *p = NULL;
    enum ckpt_status st = reader_open(tiers, tier_count, KIT_JOB, name, &r, err);
    if (st != CKPT_OK)
        return st;
    st = plan_new(r, l->list, l->world, KIT_SLOT, 0, &p, err);
    if (st == CKPT_OK) {
        struct strided **all = l->at ? l->at : pieces_new(l);
        st = load_all(r, l, p, all, stats, err);
        if (st == CKPT_OK && !l->at)
            check_pieces(l, all);
        if (!l->at)
            pieces_free(l, all);
    }
    plan_free(p);
    reader_close(r);
    return st;
}

struct store *kit_store(const char *url)
{
    struct store *s;
    struct ckpt_err err = { 0 };
    if (store_open(url, NULL, &s, &err) != CKPT_OK) {
        fprintf(stderr, "%s\n", err_text(&err));
        exit(1);
    }
    return s;
}

void kit_store_drop(struct store *s)
{
    struct store_entry entries[64];
    size_t count;
    bool more;
    do {
        CHECK_OK(store_list(s, "", false, "", entries, ARRAY_COUNT(entries), &count, &more, NULL));
        for (size_t i = 0; i < count; i++)
            CHECK_OK(store_remove(s, entries[i].key, NULL));
    } while (more);
    store_close(s);
}
