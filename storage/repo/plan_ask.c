/* What consumers ask for against what was saved. */
#include <inttypes.h>
#include <stdio.h>

#include "formats/convert.h"
#include "storage/repo/plan_impl.h"

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

/* The tensor that has the bytes: the one of that name, or what it is an alias of.
 * NULL: the checkpoint does not have it. */
static enum ckpt_status find_saved(struct planner *pl, const char *name,
                                   const struct index_tensor **ret, struct ckpt_err *err)
{
    *ret = NULL;
    const struct index_tensor *t;
    enum ckpt_status st = plan_names_find(&pl->renames, name, &t, err);
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

/* --- what is asked for ---------------------------------------------------------- */

/* The checkpoint does not have it, or the patterns leave it out. */
static void owe_nothing(struct planner *pl, const struct asked *a)
{
    const struct decl_tensor *t = &pl->consumers[a->consumer]->tensors[a->tensor];
    for (size_t i = 0; i < t->piece_count; i++)
        pl->got[a->consumer][t->first_piece + i] = UINT64_MAX;
}

static enum ckpt_status add_gap(struct planner *pl, const struct asked *a, struct ckpt_err *err)
{
    const struct decl_tensor *t = &pl->consumers[a->consumer]->tensors[a->tensor];
    if (!(pl->flags & PLAN_PARTIAL) && !(t->flags & DECL_OPTIONAL))
        return err_set(err, CKPT_NOT_FOUND, "tensor %s is not in the checkpoint", t->name);
    struct plan *p = pl->p;
    struct plan_gap *gaps = realloc(p->gaps, (p->gap_count + 1) * sizeof(*gaps));
    if (!gaps)
        return no_memory(err);
    p->gaps = gaps;
    p->gaps[p->gap_count++] = (struct plan_gap){ .consumer = a->consumer, .tensor = a->tensor };
    owe_nothing(pl, a);
    return CKPT_OK;
}

/* What an object's place has beyond the saved one is not owed. */
static void allow_longer(struct planner *pl, const struct asked *a)
{
    const struct decl *d = pl->consumers[a->consumer];
    const struct decl_tensor *t = &d->tensors[a->tensor];
    for (size_t i = 0; i < t->piece_count; i++) {
        const struct box *box = &d->pieces[t->first_piece + i].box;
        uint64_t end = box->off[0] + box->len[0];
        uint64_t from = max_u64(box->off[0], a->saved->shape[0]);
        pl->got[a->consumer][t->first_piece + i] = end > from ? end - from : 0;
    }
}

/* It has no memory of its own: its target is restored, so that must be asked for, too.  Bytes of
 * its own in the checkpoint would be lost. */
static enum ckpt_status check_alias(struct planner *pl, const struct decl_tensor *t,
                                    struct ckpt_err *err)
{
    const struct index_tensor *own, *target = NULL;
    if (!select_wants(pl->renames.select, t->alias))
        return err_set(
            err, CKPT_INVALID,
            "tensor %s is tied to %s, which the patterns leave out: ask for both, or for "
            "neither",
            t->name, t->alias);
    enum ckpt_status st = find_saved(pl, t->name, &own, err);
    if (st == CKPT_OK && own)
        st = find_saved(pl, t->alias, &target, err);
    if (st != CKPT_OK || !own || own == target)
        return st;
    return err_set(err, CKPT_MISMATCH,
                   "tensor %s is tied to %s here, and was saved with bytes of %s: they would be "
                   "lost (leave %s out if they may be)",
                   t->name, t->alias, own->name, t->name);
}

static enum ckpt_status add_note(struct planner *pl, const struct asked *a, struct ckpt_err *err)
{
    const struct decl_tensor *t = &pl->consumers[a->consumer]->tensors[a->tensor];
    struct plan *p = pl->p;
    if (t->dtype == a->saved->dtype && strcmp(t->name, a->saved->name) == 0)
        return CKPT_OK;
    if (!array_room((void **)&p->notes, p->note_count, &pl->note_cap, sizeof(*p->notes)))
        return no_memory(err);
    p->notes[p->note_count++] = (struct plan_note){ a->consumer, a->tensor, a->saved };
    return CKPT_OK;
}

static enum ckpt_status ask_tensor(struct planner *pl, uint32_t consumer, uint32_t tensor,
                                   struct ckpt_err *err)
{
    const struct decl_tensor *t = &pl->consumers[consumer]->tensors[tensor];
    struct asked a = { .consumer = consumer, .tensor = tensor };
    if (!select_wants(pl->renames.select, t->name)) {
        owe_nothing(pl, &a);
        return CKPT_OK;
    }
    if (t->flags & DECL_ALIAS)
        return check_alias(pl, t, err);
    enum ckpt_status st = find_saved(pl, t->name, &a.saved, err);
    if (st != CKPT_OK)
        return st;
    if (!a.saved)
        return add_gap(pl, &a, err);
    if (!array_room((void **)&pl->asked, pl->asked_count, &pl->asked_cap, sizeof(*pl->asked)))
        return no_memory(err);
    pl->asked[pl->asked_count++] = a;
    st = check_same(t, a.saved, pl->flags & PLAN_CONVERT, err);
    if (st == CKPT_OK)
        st = add_note(pl, &a, err);
    if (st == CKPT_OK && (t->flags & DECL_OBJECT))
        allow_longer(pl, &a);
    return st;
}

static int compare_asked(const void *a, const void *b)
{
    const struct asked *x = a, *y = b;
    if (x->saved != y->saved)
        return strcmp(x->saved->name, y->saved->name);
    if (x->consumer != y->consumer)
        return x->consumer < y->consumer ? -1 : 1;
    return x->tensor < y->tensor ? -1 : x->tensor > y->tensor;
}

enum ckpt_status plan_ask_all(struct planner *pl, struct ckpt_err *err)
{
    for (size_t c = 0; c < pl->count; c++) {
        enum ckpt_status st = CKPT_OK;
        for (size_t t = 0; st == CKPT_OK && t < pl->consumers[c]->tensor_count; t++)
            st = ask_tensor(pl, (uint32_t)c, (uint32_t)t, err);
        if (st != CKPT_OK && pl->ranks)
            err_prefix(err, "rank %u", pl->ranks[c]);
        if (st != CKPT_OK)
            return st;
    }
    if (pl->asked_count)
        qsort(pl->asked, pl->asked_count, sizeof(*pl->asked), compare_asked);
    return CKPT_OK;
}
