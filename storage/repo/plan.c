/* Finds what is needed.  For each piece asked for, the index says by arithmetic which
 * ranks wrote a part of it; only those ranks' manifests are read; tiles follow from the
 * boxes by arithmetic again.
 *
 *   pieces ── index runs ──► wants (rank, tensor, piece) ── manifests ──► hits (chunks)
 *
 * At the end the parts of every piece must add up to the piece: an index that lied by
 * omission is found here and not by a trainer that starts from zeros. */
#include "storage/repo/plan.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>

#include "formats/convert.h"
#include "storage/repo/plan_hit.h"
#include "storage/repo/plan_names.h"

struct want { /* this rank wrote something of this piece */
    const struct index_tensor *saved;
    uint32_t rank, consumer, tensor, piece;
};
struct planner {
    struct reader *r;
    const struct decl *const *consumers;
    size_t count;
    unsigned flags;
    const uint32_t *ranks; /* of the consumers, for messages */
    struct plan_names names;
    struct plan *p;
    struct want *wants;
    size_t want_count, want_cap;
    struct plan_hit *hits;
    size_t hit_count, hit_cap;
    const struct index_tensor **asked;
    size_t asked_count, asked_cap, note_cap;
    uint64_t **got; /* per consumer, per piece: elements found */
};

/* Room for one more. */
static bool grow(void **array, size_t count, size_t *cap, size_t size)
{
    if (count < *cap)
        return true;
    size_t more = *cap ? *cap * 2 : 64;
    void *bigger = realloc(*array, more * size);
    if (!bigger)
        return false;
    *array = bigger;
    *cap = more;
    return true;
}

static enum ckpt_status no_memory(struct ckpt_err *err)
{
    return err_set(err, CKPT_NO_MEMORY, "no memory to plan");
}

/* --- what is asked for against what was saved ----------------------------------- */

static const char *shape_to_text(uint32_t ndim, const uint64_t *shape, char *buf, size_t cap)
{
    size_t n = (size_t)snprintf(buf, cap, "[");
    for (uint32_t i = 0; i < ndim && n < cap; i++)
        n += (size_t)snprintf(buf + n, cap - n, "%s%" PRIu64, i ? ", " : "", shape[i]);
    if (n < cap)
        snprintf(buf + n, cap - n, "]");
    return buf;
}

static enum ckpt_status check_dtype(const struct decl_tensor *t, const struct index_tensor *saved,
                                    bool convert, struct ckpt_err *err)
{
    const char *why = NULL;
    if (t->dtype == saved->dtype)
        return CKPT_OK;
    if (!convert)
        why = "a restore converts only when it is told to";
    else if (!convert_can(saved->dtype, t->dtype))
        why = "there is no conversion between these";
    else if (saved->kind == DECL_LOCKED || t->kind == DECL_LOCKED)
        why = "it is locked, and restored only as it was saved";
    if (!why)
        return CKPT_OK;
    return err_set(err, CKPT_MISMATCH, "tensor %s: asked for as %s, saved as %s: %s", t->name,
                   dtype_name(t->dtype), dtype_name(saved->dtype), why);
}

static enum ckpt_status check_same(const struct decl_tensor *t, const struct index_tensor *saved,
                                   bool convert, struct ckpt_err *err)
{
    char asked[400], was[400];
    enum ckpt_status st = check_dtype(t, saved, convert, err);
    if (st != CKPT_OK)
        return st;
    if ((t->flags & saved->flags & DECL_OBJECT) && t->ndim == 1 && saved->ndim == 1)
        return CKPT_OK; /* any capacity: its length stands in its first bytes */
    if (t->ndim != saved->ndim ||
        memcmp(t->shape, saved->shape, t->ndim * sizeof(t->shape[0])) != 0)
        return err_set(err, CKPT_MISMATCH, "tensor %s: asked for with shape %s, saved with %s",
                       t->name, shape_to_text(t->ndim, t->shape, asked, sizeof(asked)),
                       shape_to_text(saved->ndim, saved->shape, was, sizeof(was)));
    if ((t->flags ^ saved->flags) & DECL_OBJECT)
        return err_set(err, CKPT_MISMATCH, "%s was saved as %s and is asked for as %s", t->name,
                       saved->flags & DECL_OBJECT ? "an object" : "a tensor",
                       t->flags & DECL_OBJECT ? "an object" : "a tensor");
    return CKPT_OK;
}

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

/* The tensor that has the bytes: the one of that name, or what it is an alias of.
 * NULL: the checkpoint does not have it. */
static enum ckpt_status find_saved(struct planner *pl, const char *name,
                                   const struct index_tensor **ret, struct ckpt_err *err)
{
    *ret = NULL;
    const struct index_tensor *t;
    enum ckpt_status st = plan_names_find(&pl->names, name, &t, err);
    if (st != CKPT_OK || !t)
        return st;
    if (t->alias) {
        const char *target = t->alias;
        st = reader_tensor(pl->r, target, &t, err);
        if (st == CKPT_NOT_FOUND || (st == CKPT_OK && t->alias))
            return err_set(err, CKPT_CORRUPT, "tensor %s is tied to %s, which has no bytes", name,
                           target);
    }
    if (st == CKPT_OK)
        *ret = t;
    return st == CKPT_NOT_FOUND ? CKPT_OK : st;
}

/* --- wants ---------------------------------------------------------------------- */

static enum ckpt_status add_want(struct planner *pl, const struct want *w, struct ckpt_err *err)
{
    if (!grow((void **)&pl->wants, pl->want_count, &pl->want_cap, sizeof(*pl->wants)))
        return no_memory(err);
    pl->wants[pl->want_count++] = *w;
    return CKPT_OK;
}

/* Every box of one run that meets the piece. */
static enum ckpt_status want_run(struct planner *pl, struct want *w, const struct index_run *run,
                                 const struct box *box, struct ckpt_err *err)
{
    uint32_t first, last;
    char asked[400], was[400];
    if (!index_run_hits(run, box, &first, &last))
        return CKPT_OK;
    for (uint32_t i = first; i <= last; i++) {
        struct box saved = index_run_box(run, i, &w->rank);
        if (w->rank >= reader_commit(pl->r)->world)
            return err_set(err, CKPT_CORRUPT, "tensor %s: the index names a rank that never was",
                           w->saved->name);
        if (w->saved->kind == DECL_LOCKED && !box_equal(&saved, box))
            return err_set(err, CKPT_REFUSED,
                           "tensor %s is locked: saved as %s, asked for as %s; it can only be "
                           "restored in the layout in which it was saved",
                           w->saved->name, box_to_text(&saved, was, sizeof(was)),
                           box_to_text(box, asked, sizeof(asked)));
        enum ckpt_status st = add_want(pl, w, err);
        if (st != CKPT_OK)
            return st;
    }
    return CKPT_OK;
}

static enum ckpt_status want_piece(struct planner *pl, struct want *w, struct ckpt_err *err)
{
    const struct decl *d = pl->consumers[w->consumer];
    const struct box *box = &plan_piece(d, w->tensor, w->piece)->box;
    if (box_volume(box) == 0)
        return CKPT_OK;
    enum ckpt_status st = CKPT_OK;
    if (w->saved->kind == DECL_BLOCKED)
        st = check_blocked(&d->tensors[w->tensor], w->saved, box, err);
    for (uint32_t i = 0; st == CKPT_OK && i < w->saved->run_count; i++)
        st = want_run(pl, w, &w->saved->runs[i], box, err);
    return st;
}

/* The checkpoint does not have it, or the patterns leave it out. */
static void owe_nothing(struct planner *pl, const struct want *w)
{
    const struct decl_tensor *t = &pl->consumers[w->consumer]->tensors[w->tensor];
    for (size_t i = 0; i < t->piece_count; i++)
        pl->got[w->consumer][t->first_piece + i] = UINT64_MAX;
}

static enum ckpt_status add_gap(struct planner *pl, const struct want *w, struct ckpt_err *err)
{
    const struct decl_tensor *t = &pl->consumers[w->consumer]->tensors[w->tensor];
    if (!(pl->flags & PLAN_PARTIAL) && !(t->flags & DECL_OPTIONAL))
        return err_set(err, CKPT_NOT_FOUND, "tensor %s is not in the checkpoint", t->name);
    struct plan *p = pl->p;
    struct plan_gap *gaps = realloc(p->gaps, (p->gap_count + 1) * sizeof(*gaps));
    if (!gaps)
        return no_memory(err);
    p->gaps = gaps;
    p->gaps[p->gap_count++] = (struct plan_gap){ .consumer = w->consumer, .tensor = w->tensor };
    owe_nothing(pl, w);
    return CKPT_OK;
}

/* What an object's place has beyond the saved one is not owed. */
static void allow_longer(struct planner *pl, const struct want *w)
{
    const struct decl *d = pl->consumers[w->consumer];
    const struct decl_tensor *t = &d->tensors[w->tensor];
    for (size_t i = 0; i < t->piece_count; i++) {
        const struct box *box = &d->pieces[t->first_piece + i].box;
        uint64_t end = box->off[0] + box->len[0];
        uint64_t from = max_u64(box->off[0], w->saved->shape[0]);
        pl->got[w->consumer][t->first_piece + i] = end > from ? end - from : 0;
    }
}

/* It has no memory of its own: its target is restored.  Bytes of its own in the checkpoint
 * would be lost. */
static enum ckpt_status check_alias(struct planner *pl, const struct decl_tensor *t,
                                    struct ckpt_err *err)
{
    const struct index_tensor *own, *target = NULL;
    enum ckpt_status st = find_saved(pl, t->name, &own, err);
    if (st == CKPT_OK && own)
        st = find_saved(pl, t->alias, &target, err);
    if (st != CKPT_OK || !own || !target || own == target || (pl->flags & PLAN_PARTIAL))
        return st;
    return err_set(err, CKPT_MISMATCH,
                   "tensor %s is tied to %s here, and was saved with bytes of %s: they would be "
                   "lost",
                   t->name, t->alias, own->name);
}

static enum ckpt_status add_note(struct planner *pl, const struct want *w, struct ckpt_err *err)
{
    const struct decl_tensor *t = &pl->consumers[w->consumer]->tensors[w->tensor];
    struct plan *p = pl->p;
    if (t->dtype == w->saved->dtype && strcmp(t->name, w->saved->name) == 0)
        return CKPT_OK;
    if (!grow((void **)&p->notes, p->note_count, &pl->note_cap, sizeof(*p->notes)))
        return no_memory(err);
    p->notes[p->note_count++] = (struct plan_note){ w->consumer, w->tensor, w->saved };
    return CKPT_OK;
}

/* The checkpoint's tensor for it, if it has one; then it counts as asked for. */
static enum ckpt_status ask_saved(struct planner *pl, const struct decl_tensor *t, struct want *w,
                                  struct ckpt_err *err)
{
    enum ckpt_status st = find_saved(pl, t->name, &w->saved, err);
    if (st != CKPT_OK || !w->saved)
        return st;
    if (!grow((void **)&pl->asked, pl->asked_count, &pl->asked_cap, sizeof(*pl->asked)))
        return no_memory(err);
    pl->asked[pl->asked_count++] = w->saved;
    return CKPT_OK;
}

static enum ckpt_status want_tensor(struct planner *pl, uint32_t consumer, uint32_t tensor,
                                    struct ckpt_err *err)
{
    const struct decl_tensor *t = &pl->consumers[consumer]->tensors[tensor];
    struct want w = { .consumer = consumer, .tensor = tensor };
    if (!select_wants(pl->names.select, t->name)) {
        owe_nothing(pl, &w);
        return CKPT_OK;
    }
    if (t->flags & DECL_ALIAS)
        return check_alias(pl, t, err);
    enum ckpt_status st = ask_saved(pl, t, &w, err);
    if (st != CKPT_OK)
        return st;
    if (!w.saved)
        return add_gap(pl, &w, err);
    st = check_same(t, w.saved, pl->flags & PLAN_CONVERT, err);
    if (st == CKPT_OK)
        st = add_note(pl, &w, err);
    if (st == CKPT_OK && (t->flags & DECL_OBJECT))
        allow_longer(pl, &w);
    for (; st == CKPT_OK && w.piece < t->piece_count; w.piece++)
        st = want_piece(pl, &w, err);
    return st;
}

static int compare_wants(const void *a, const void *b)
{
    const struct want *x = a, *y = b;
    if (x->rank != y->rank)
        return x->rank < y->rank ? -1 : 1;
    if (x->saved != y->saved)
        return strcmp(x->saved->name, y->saved->name);
    if (x->consumer != y->consumer)
        return x->consumer < y->consumer ? -1 : 1;
    if (x->tensor != y->tensor)
        return x->tensor < y->tensor ? -1 : 1;
    return x->piece < y->piece ? -1 : x->piece > y->piece;
}

/* --- hits ----------------------------------------------------------------------- */

static enum ckpt_status hit_box(struct planner *pl, const struct want *w,
                                const struct manifest_tensor *saved, const struct manifest_box *box,
                                struct ckpt_err *err)
{
    const struct box *want = &plan_piece(pl->consumers[w->consumer], w->tensor, w->piece)->box;
    struct tile_iter it = tile_iter_init(&box->box, box->tile, want);
    size_t piece = pl->consumers[w->consumer]->tensors[w->tensor].first_piece + w->piece;
    struct box tile, common;
    uint64_t i;
    while (tile_iter_next(&it, &i, &tile, &common)) {
        if (!grow((void **)&pl->hits, pl->hit_count, &pl->hit_cap, sizeof(*pl->hits)))
            return no_memory(err);
        uint64_t volume = box_volume(&common);
        pl->hits[pl->hit_count++] = (struct plan_hit){ .ordinal = box->first_chunk + i,
                                                       .rank = w->rank,
                                                       .consumer = w->consumer,
                                                       .tensor = w->tensor,
                                                       .piece = w->piece,
                                                       .tile = i,
                                                       .box = box,
                                                       .saved = saved };
        pl->got[w->consumer][piece] += volume;
        pl->p->consumer_bytes[w->consumer] += box_bytes(&common, dtype_bits(saved->dtype));
    }
    return CKPT_OK;
}

/* What the manifest says must be what the index says, or a tile's bytes would be laid
 * out as something else. */
static enum ckpt_status check_manifest_tensor(const struct want *w, const struct manifest_tensor *t,
                                              struct ckpt_err *err)
{
    if (t->dtype == w->saved->dtype && t->ndim == w->saved->ndim &&
        memcmp(t->shape, w->saved->shape, t->ndim * sizeof(t->shape[0])) == 0)
        return CKPT_OK;
    return err_set(err, CKPT_CORRUPT, "tensor %s: rank %u's manifest and the index disagree",
                   t->name, w->rank);
}

static enum ckpt_status hit_wants(struct planner *pl, struct ckpt_err *err)
{
    const struct want *before = NULL;
    const struct manifest_tensor *t = NULL;
    for (size_t i = 0; i < pl->want_count; i++) {
        const struct want *w = &pl->wants[i];
        if (before && compare_wants(before, w) == 0)
            continue; /* two boxes of one rank meet the same piece */
        enum ckpt_status st = CKPT_OK;
        if (!before || before->rank != w->rank || before->saved != w->saved) {
            st = reader_boxes(pl->r, w->rank, w->saved->name, &t, err);
            if (st == CKPT_NOT_FOUND)
                return err_set(err, CKPT_CORRUPT, "tensor %s: rank %u's manifest does not have it",
                               w->saved->name, w->rank);
            if (st == CKPT_OK)
                st = check_manifest_tensor(w, t, err);
        }
        pl->p->manifests_hit += !before || before->rank != w->rank;
        for (uint32_t b = 0; st == CKPT_OK && b < t->box_count; b++)
            st = hit_box(pl, w, t, &t->boxes[b], err);
        if (st != CKPT_OK)
            return st;
        before = w;
    }
    return CKPT_OK;
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

static int compare_addresses(const void *a, const void *b)
{
    uintptr_t x = (uintptr_t) * (void *const *)a, y = (uintptr_t) * (void *const *)b;
    return x < y ? -1 : x > y;
}

static enum ckpt_status list_unasked(struct planner *pl, struct ckpt_err *err)
{
    struct plan *p = pl->p;
    size_t cap = 0;
    if (pl->asked_count)
        qsort(pl->asked, pl->asked_count, sizeof(*pl->asked), compare_addresses);
    for (uint64_t i = 0; i < reader_tensor_count(pl->r); i++) {
        const struct index_tensor *t;
        enum ckpt_status st = reader_tensor_at(pl->r, i, &t, err);
        if (st != CKPT_OK)
            return st;
        if (t->alias || (pl->asked_count && bsearch(&t, pl->asked, pl->asked_count,
                                                    sizeof(*pl->asked), compare_addresses)))
            continue;
        if (!plan_names_wanted(&pl->names, t->name))
            continue;
        if (!grow((void **)&p->unasked, p->unasked_count, &cap, sizeof(*p->unasked)))
            return no_memory(err);
        p->unasked[p->unasked_count] = strdup(t->name);
        if (!p->unasked[p->unasked_count])
            return no_memory(err);
        p->unasked_count++;
    }
    return CKPT_OK;
}

/* --- whole ---------------------------------------------------------------------- */

static enum ckpt_status plan_all(struct planner *pl, uint64_t slot_bytes, struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_OK;
    for (size_t c = 0; c < pl->count; c++) {
        for (size_t t = 0; st == CKPT_OK && t < pl->consumers[c]->tensor_count; t++)
            st = want_tensor(pl, (uint32_t)c, (uint32_t)t, err);
        if (st != CKPT_OK && pl->ranks)
            err_prefix(err, "rank %u", pl->ranks[c]);
        if (st != CKPT_OK)
            return st;
    }
    if (pl->want_count)
        qsort(pl->wants, pl->want_count, sizeof(*pl->wants), compare_wants);
    st = hit_wants(pl, err);
    if (st == CKPT_OK)
        st = check_whole(pl, err);
    if (st == CKPT_OK)
        st = plan_batches(pl->r, pl->consumers, pl->count, slot_bytes, pl->hits, pl->hit_count,
                          pl->p, err);
    if (st == CKPT_OK && !(pl->flags & PLAN_NO_UNASKED))
        st = list_unasked(pl, err);
    return st;
}

static bool planner_init(struct planner *pl)
{
    pl->p = calloc(1, sizeof(*pl->p));
    pl->got = calloc(pl->count + 1, sizeof(*pl->got));
    if (!pl->p || !pl->got)
        return false;
    pl->p->consumer_bytes = calloc(pl->count + 1, sizeof(uint64_t));
    bool ok = pl->p->consumer_bytes != NULL;
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
    free(pl->hits);
    free(pl->asked);
    plan_names_fini(&pl->names);
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
    enum ckpt_status st = plan_names_init(&pl.names, r, ask->select, err);
    if (st == CKPT_OK)
        st = planner_init(&pl) ? plan_all(&pl, ask->slot_bytes, err) : no_memory(err);
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
    }
    for (size_t i = 0; i < p->unasked_count; i++)
        free(p->unasked[i]);
    free(p->unasked);
    free(p->gaps);
    free(p->notes);
    free(p->consumer_bytes);
    free(p->batches);
    free(p);
}
