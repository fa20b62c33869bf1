/* Finds what is needed.  For each piece asked for, the index says by arithmetic which
 * ranks wrote a part of it; only those ranks' manifests are read, one after the other,
 * and of each only the blocks with tensors that are wanted; tiles follow from the boxes
 * by arithmetic again.
 *
 *   pieces ── index runs ──► wants, by rank ── manifest of a rank ──► its boxes, by chunk
 *     ──► hits of a box (tiles) ──► batches
 *
 * Memory: 4 bytes a want (a rank wrote something of a piece), one manifest, and the plan.
 * At the end the parts of every piece must add up to the piece: an index that lied by
 * omission is found here and not by a trainer that starts from zeros. */
#include "storage/repo/plan.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>

#include "storage/repo/plan_impl.h"

static enum ckpt_status no_memory(struct ckpt_err *err)
{
    return err_set(err, CKPT_NO_MEMORY, "no memory to plan");
}

/* --- parts ---------------------------------------------------------------------- */

static enum ckpt_status check_blocked(const struct decl_tensor *t, const struct index_tensor *saved,
                                      const struct box *box, struct ckpt_err *err)
{
    char text[400];
    for (uint32_t i = 0; i < box->ndim; i++) {
        uint64_t block = saved->block[i] ? saved->block[i] : 1;
        uint64_t end = box->off[i] + box->len[i];
        if (box->off[i] % block || (end % block && end != saved->shape[i]))
            return err_set(err, CKPT_REFUSED,
                           "tensor %s: %s cuts dimension %u inside a block of %" PRIu64
                           ": it may only be cut on block borders",
                           t->name, box_to_text(box, text, sizeof(text)), i, block);
    }
    return CKPT_OK;
}

static enum ckpt_status add_part(struct planner *pl, const struct asked *a, uint32_t piece,
                                 struct ckpt_err *err)
{
    struct plan *p = pl->p;
    const struct decl *d = pl->consumers[a->consumer];
    const struct box *box = &plan_piece(d, a->tensor, piece)->box;
    uint8_t dtype = a->saved->dtype;
    enum ckpt_status st = CKPT_OK;
    if (box_volume(box) == 0)
        return CKPT_OK;
    if (a->saved->kind == DECL_BLOCKED)
        st = check_blocked(&d->tensors[a->tensor], a->saved, box, err);
    if (st != CKPT_OK)
        return st;
    if (p->part_count == UINT32_MAX ||
        !array_room((void **)&p->parts, p->part_count, &pl->part_cap, sizeof(*p->parts)))
        return no_memory(err);
    p->parts[p->part_count++] =
        (struct plan_part){ .saved = a->saved,
                            .consumer = a->consumer,
                            .tensor = a->tensor,
                            .piece = piece,
                            .dtype = dtype == d->tensors[a->tensor].dtype ? 0 : dtype,
                            .box = *box };
    return CKPT_OK;
}

static enum ckpt_status list_parts(struct planner *pl, struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_OK;
    for (size_t i = 0; st == CKPT_OK && i < pl->asked_count; i++) {
        const struct asked *a = &pl->asked[i];
        size_t pieces = pl->consumers[a->consumer]->tensors[a->tensor].piece_count;
        for (uint32_t k = 0; st == CKPT_OK && k < pieces; k++)
            st = add_part(pl, a, k, err);
    }
    return st;
}

/* --- wants ---------------------------------------------------------------------- */

/* This rank wrote something of the part.  Counted first; dealt when there is room. */
static void add_want(struct planner *pl, uint32_t rank, size_t part)
{
    if (pl->wants)
        pl->wants[pl->wants_end[rank]++] = (uint32_t)part;
    else
        pl->wants_end[rank + 1]++;
}

static enum ckpt_status check_locked(const struct plan_part *p, const struct index_run *run,
                                     uint32_t i, struct ckpt_err *err)
{
    char asked[400], was[400];
    uint32_t rank;
    if (p->saved->kind != DECL_LOCKED)
        return CKPT_OK;
    struct box saved = index_run_box(run, i, &rank);
    if (box_equal(&saved, &p->box))
        return CKPT_OK;
    return err_set(err, CKPT_REFUSED,
                   "tensor %s is locked: saved as %s, asked for as %s; it can only be restored in "
                   "the layout in which it was saved",
                   p->saved->name, box_to_text(&saved, was, sizeof(was)),
                   box_to_text(&p->box, asked, sizeof(asked)));
}

/* Every box of one run that meets the part. */
static enum ckpt_status want_run(struct planner *pl, size_t part, const struct index_run *run,
                                 struct ckpt_err *err)
{
    const struct plan_part *p = &pl->p->parts[part];
    uint32_t first, last;
    if (!index_run_hits(run, &p->box, &first, &last))
        return CKPT_OK;
    for (uint32_t i = first; i <= last; i++) {
        uint32_t rank = index_run_rank(run, i);
        if (rank >= reader_commit(pl->r)->world)
            return err_set(err, CKPT_CORRUPT, "tensor %s: the index names a rank that never was",
                           p->saved->name);
        enum ckpt_status st = check_locked(p, run, i, err);
        if (st != CKPT_OK)
            return st;
        add_want(pl, rank, part);
    }
    return CKPT_OK;
}

static enum ckpt_status want_parts(struct planner *pl, struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_OK;
    for (size_t i = 0; st == CKPT_OK && i < pl->p->part_count; i++) {
        const struct index_tensor *saved = pl->p->parts[i].saved;
        for (uint32_t k = 0; st == CKPT_OK && k < saved->run_count; k++)
            st = want_run(pl, i, &saved->runs[k], err);
    }
    return st;
}

/* By rank, otherwise in the order of parts: counted, then dealt. */
static enum ckpt_status want_all(struct planner *pl, struct ckpt_err *err)
{
    uint32_t world = reader_commit(pl->r)->world;
    pl->wants_end = calloc((size_t)world + 1, sizeof(*pl->wants_end));
    if (!pl->wants_end)
        return no_memory(err);
    enum ckpt_status st = want_parts(pl, err);
    if (st != CKPT_OK)
        return st;
    for (uint32_t rank = 0; rank < world; rank++)
        pl->wants_end[rank + 1] += pl->wants_end[rank];
    pl->wants = malloc((pl->wants_end[world] + 1) * sizeof(*pl->wants));
    return pl->wants ? want_parts(pl, err) : no_memory(err);
}

/* --- hits ----------------------------------------------------------------------- */

static enum ckpt_status add_hit(struct planner *pl, uint32_t part, uint64_t tile,
                                const struct box *common, struct ckpt_err *err)
{
    const struct plan_part *p = &pl->p->parts[part];
    const struct decl_tensor *t = &pl->consumers[p->consumer]->tensors[p->tensor];
    uint64_t bytes = box_bytes(common, dtype_bits(p->saved->dtype));
    if (!array_room((void **)&pl->hits, pl->hit_count, &pl->hit_cap, sizeof(*pl->hits)))
        return no_memory(err);
    pl->hits[pl->hit_count++] = (struct plan_hit){ tile, part, (uint32_t)bytes };
    pl->got[p->consumer][t->first_piece + p->piece] += box_volume(common);
    return CKPT_OK;
}

/* The tiles of the box that the piece needs. */
static enum ckpt_status hit_box(struct planner *pl, const struct wanted_box *w,
                                struct ckpt_err *err)
{
    const struct box *box = &pl->p->parts[w->part].box;
    struct box tile, common;
    uint64_t number;
    if (w->box->chunks == 1) /* most boxes of a large job */
        return box_intersect(&w->box->box, box, &common) ? add_hit(pl, w->part, 0, &common, err)
                                                         : CKPT_OK;
    struct tile_iter it = tile_iter_init(&w->box->box, w->box->tile, box);
    enum ckpt_status st = CKPT_OK;
    while (st == CKPT_OK && tile_iter_next(&it, &number, &tile, &common))
        st = add_hit(pl, w->part, number, &common, err);
    return st;
}

static int compare_hits(const void *a, const void *b)
{
    const struct plan_hit *x = a, *y = b;
    if (x->tile != y->tile)
        return x->tile < y->tile ? -1 : 1;
    return x->part < y->part ? -1 : x->part > y->part;
}

/* All that is wanted of one box. */
static enum ckpt_status hit_wanted(struct planner *pl, const struct wanted_box *w, size_t count,
                                   struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_OK;
    pl->hit_count = 0;
    for (size_t i = 0; st == CKPT_OK && i < count; i++)
        st = hit_box(pl, &w[i], err);
    if (st != CKPT_OK)
        return st;
    if (count > 1 && pl->hit_count > 1) /* those of one piece come by tile */
        qsort(pl->hits, pl->hit_count, sizeof(*pl->hits), compare_hits);
    return plan_batcher_add(&pl->batcher, pl->p->parts[w->part].saved, w->box, pl->hits,
                            pl->hit_count, err);
}

/* What the manifest says must be what the index says, or a tile's bytes would be laid
 * out as something else. */
static enum ckpt_status check_manifest_tensor(const struct index_tensor *saved, uint32_t rank,
                                              const struct manifest_tensor *t, struct ckpt_err *err)
{
    if (t->dtype == saved->dtype && t->ndim == saved->ndim &&
        memcmp(t->shape, saved->shape, t->ndim * sizeof(t->shape[0])) == 0)
        return CKPT_OK;
    return err_set(err, CKPT_CORRUPT, "tensor %s: rank %u's manifest and the index disagree",
                   t->name, rank);
}

static enum ckpt_status find_boxes(struct planner *pl, uint32_t rank, uint32_t part,
                                   struct ckpt_err *err)
{
    const struct index_tensor *saved = pl->p->parts[part].saved;
    const struct manifest_tensor *t;
    enum ckpt_status st = reader_boxes(pl->r, rank, saved->name, &t, err);
    if (st == CKPT_NOT_FOUND)
        return err_set(err, CKPT_CORRUPT, "tensor %s: rank %u's manifest does not have it",
                       saved->name, rank);
    if (st == CKPT_OK)
        st = check_manifest_tensor(saved, rank, t, err);
    for (uint32_t i = 0; st == CKPT_OK && i < t->box_count; i++) {
        if (!array_room((void **)&pl->boxes, pl->box_count, &pl->box_cap, sizeof(*pl->boxes)))
            return no_memory(err);
        pl->boxes[pl->box_count++] = (struct wanted_box){ .box = &t->boxes[i], .part = part };
    }
    return st;
}

static int compare_boxes(const void *a, const void *b)
{
    const struct wanted_box *x = a, *y = b;
    if (x->box->first_chunk != y->box->first_chunk)
        return x->box->first_chunk < y->box->first_chunk ? -1 : 1;
    if (x->box != y->box)
        return x->box < y->box ? -1 : 1;
    return x->part < y->part ? -1 : x->part > y->part;
}

static enum ckpt_status read_ahead(struct planner *pl, uint32_t rank, const uint32_t *wants,
                                   size_t n, struct ckpt_err *err)
{
    const struct index_tensor *last = NULL;
    pl->name_count = 0;
    for (size_t i = 0; i < n; i++) {
        const struct index_tensor *saved = pl->p->parts[wants[i]].saved;
        if (saved == last)
            continue;
        last = saved;
        if (!array_room((void **)&pl->names, pl->name_count, &pl->name_cap, sizeof(*pl->names)))
            return no_memory(err);
        pl->names[pl->name_count++] = saved->name;
    }
    return reader_ahead(pl->r, rank, pl->names, pl->name_count, err);
}

/* The n wants of one rank.  A part is there once for each of its boxes that it meets. */
static enum ckpt_status hit_rank(struct planner *pl, uint32_t rank, const uint32_t *wants, size_t n,
                                 struct ckpt_err *err)
{
    const struct manifest_header *manifest;
    enum ckpt_status st = read_ahead(pl, rank, wants, n, err);
    if (st == CKPT_OK)
        st = reader_manifest(pl->r, rank, &manifest, err);
    pl->box_count = 0;
    for (size_t i = 0; st == CKPT_OK && i < n; i++) {
        if (i == 0 || wants[i - 1] != wants[i])
            st = find_boxes(pl, rank, wants[i], err);
    }
    if (st != CKPT_OK)
        return st;
    if (pl->box_count > 1)
        qsort(pl->boxes, pl->box_count, sizeof(*pl->boxes), compare_boxes);
    plan_batcher_rank(&pl->batcher, rank, manifest);
    size_t group;
    for (size_t i = 0; st == CKPT_OK && i < pl->box_count; i += group) {
        for (group = 1; i + group < pl->box_count && pl->boxes[i + group].box == pl->boxes[i].box;)
            group++;
        st = hit_wanted(pl, &pl->boxes[i], group, err);
    }
    pl->p->manifests_hit++;
    return st;
}

/* A manifest goes only after the next one: the one after that fits into its memory, which
 * otherwise would go back to the kernel and come again page by page. */
static enum ckpt_status hit_all(struct planner *pl, struct ckpt_err *err)
{
    uint32_t world = reader_commit(pl->r)->world;
    enum ckpt_status st = CKPT_OK;
    size_t at = 0;
    uint32_t before = UINT32_MAX;
    for (uint32_t rank = 0; st == CKPT_OK && rank < world; rank++) {
        if (at == pl->wants_end[rank])
            continue;
        st = hit_rank(pl, rank, &pl->wants[at], pl->wants_end[rank] - at, err);
        at = pl->wants_end[rank];
        if (before != UINT32_MAX)
            reader_forget(pl->r, before);
        before = rank;
    }
    if (before != UINT32_MAX)
        reader_forget(pl->r, before);
    return st;
}

static enum ckpt_status check_whole(const struct planner *pl, struct ckpt_err *err)
{
    char text[400];
    for (size_t c = 0; c < pl->count; c++) {
        const struct decl *d = pl->consumers[c];
        for (size_t i = 0; i < d->piece_count; i++) {
            if (pl->got[c][i] == UINT64_MAX || pl->got[c][i] == box_volume(&d->pieces[i].box))
                continue;
            return err_set(err, CKPT_CORRUPT,
                           "tensor %s: the checkpoint's parts of %s do not add up to it",
                           d->tensors[d->pieces[i].tensor].name,
                           box_to_text(&d->pieces[i].box, text, sizeof(text)));
        }
    }
    return CKPT_OK;
}

/* --- what nobody asked for ------------------------------------------------------ */

/* Both lists are sorted by name. */
static enum ckpt_status list_unasked(struct planner *pl, struct ckpt_err *err)
{
    struct plan *p = pl->p;
    size_t cap = 0, at = 0;
    for (uint64_t i = 0; i < reader_tensor_count(pl->r); i++) {
        const struct index_tensor *t;
        enum ckpt_status st = reader_tensor_at(pl->r, i, &t, err);
        if (st != CKPT_OK)
            return st;
        bool asked = at < pl->asked_count && pl->asked[at].saved == t;
        while (at < pl->asked_count && pl->asked[at].saved == t)
            at++;
        if (t->alias || asked || !plan_names_wanted(&pl->renames, t->name))
            continue;
        if (!array_room((void **)&p->unasked, p->unasked_count, &cap, sizeof(*p->unasked)))
            return no_memory(err);
        p->unasked[p->unasked_count] = strdup(t->name);
        if (!p->unasked[p->unasked_count])
            return no_memory(err);
        p->unasked_count++;
    }
    return CKPT_OK;
}

/* --- whole ---------------------------------------------------------------------- */

static enum ckpt_status plan_all(struct planner *pl, struct ckpt_err *err)
{
    enum ckpt_status st = plan_ask_all(pl, err);
    if (st == CKPT_OK)
        st = list_parts(pl, err);
    if (st == CKPT_OK)
        st = want_all(pl, err);
    if (st == CKPT_OK)
        st = hit_all(pl, err);
    if (st == CKPT_OK)
        st = check_whole(pl, err);
    if (st == CKPT_OK)
        plan_batcher_finish(&pl->batcher);
    if (st == CKPT_OK && !(pl->flags & PLAN_NO_UNASKED))
        st = list_unasked(pl, err);
    return st;
}

static bool planner_init(struct planner *pl, uint64_t slot_bytes)
{
    pl->p = calloc(1, sizeof(*pl->p));
    pl->got = calloc(pl->count + 1, sizeof(*pl->got));
    if (!pl->p || !pl->got)
        return false;
    pl->p->consumer_bytes = calloc(pl->count + 1, sizeof(uint64_t));
    bool ok = pl->p->consumer_bytes != NULL &&
              plan_batcher_init(&pl->batcher, pl->count, slot_bytes, pl->p);
    for (size_t c = 0; ok && c < pl->count; c++) {
        assert(pl->consumers[c]->finished);
        pl->got[c] = calloc(pl->consumers[c]->piece_count + 1, sizeof(uint64_t));
        ok = pl->got[c] != NULL;
    }
    return ok;
}

static void planner_fini(struct planner *pl)
{
    for (size_t c = 0; pl->got && c < pl->count; c++)
        free(pl->got[c]);
    free(pl->got);
    free(pl->wants);
    free(pl->wants_end);
    free((void *)(uintptr_t)pl->names);
    free(pl->boxes);
    free(pl->hits);
    free(pl->asked);
    plan_names_fini(&pl->renames);
    plan_batcher_fini(&pl->batcher);
    plan_free(pl->p);
}

enum ckpt_status plan_make(struct reader *r, const struct plan_ask *ask, struct plan **ret,
                           struct ckpt_err *err)
{
    struct planner pl = { .r = r,
                          .consumers = ask->consumers,
                          .count = ask->count,
                          .flags = ask->flags,
                          .ranks = ask->ranks };
    assert(ask->slot_bytes >= CKPT_CHUNK_BYTES_MAX && ask->slot_bytes % CKPT_BLOCK == 0);
    enum ckpt_status st = plan_names_init(&pl.renames, r, ask->select, err);
    if (st == CKPT_OK)
        st = planner_init(&pl, ask->slot_bytes) ? plan_all(&pl, err) : no_memory(err);
    if (st == CKPT_OK)
        *ret = TAKE_PTR(pl.p);
    planner_fini(&pl);
    return st;
}

enum ckpt_status plan_new(struct reader *r, const struct decl *const *consumers, size_t count,
                          uint64_t slot_bytes, unsigned flags, struct plan **ret,
                          struct ckpt_err *err)
{
    const struct plan_ask ask = {
        .consumers = consumers, .count = count, .slot_bytes = slot_bytes, .flags = flags
    };
    return plan_make(r, &ask, ret, err);
}

void plan_free(struct plan *p)
{
    if (!p)
        return;
    if (p->batch_count) { /* all batches lie in the arrays of the first */
        free(p->batches[0].chunks);
        free(p->batches[0].frags);
        free(p->batches[0].uses);
        free(p->batches[0].words);
    }
    free(p->parts);
    for (size_t i = 0; i < p->unasked_count; i++)
        free(p->unasked[i]);
    free(p->unasked);
    free(p->gaps);
    free(p->notes);
    free(p->consumer_bytes);
    free(p->batches);
    free(p);
}
