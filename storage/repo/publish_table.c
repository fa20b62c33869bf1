/* The table of a merge: every tensor once, and the boxes of all ranks as runs.
 *
 * Ranks of a large job say nearly the same, so what comes is compared first with what
 * came before at the same place: the description byte for byte (manifest_known), the
 * box with the next one of the tensor's last run. */
#include "storage/repo/publish_table.h"

#define INDEX_FLAGS (DECL_OBJECT | DECL_ALIAS) /* what is a fact of the checkpoint */

static enum ckpt_status no_memory(struct ckpt_err *err)
{
    return err_set(err, CKPT_NO_MEMORY, "no memory to merge manifests");
}

/* --- tensors -------------------------------------------------------------------- */

static size_t *slot_of(const struct merge *m, const char *name)
{
    size_t mask = m->slot_cap - 1;
    for (size_t i = digest_hash(name, strlen(name)) & mask;; i = (i + 1) & mask) {
        if (!m->slots[i] || strcmp(m->tensors[m->slots[i] - 1].desc.name, name) == 0)
            return &m->slots[i];
    }
}

static bool grow_slots(struct merge *m)
{
    if (m->tensor_count * 2 < m->slot_cap)
        return true;
    size_t *old = m->slots;
    size_t cap = m->slot_cap ? m->slot_cap * 2 : 1024;
    size_t *slots = calloc(cap, sizeof(*slots));
    if (!slots)
        return false;
    m->slots = slots;
    m->slot_cap = cap;
    for (size_t i = 0; i < m->tensor_count; i++)
        *slot_of(m, m->tensors[i].desc.name) = i + 1;
    free(old);
    return true;
}

const struct merge_tensor *merge_find(const struct merge *m, const char *name)
{
    size_t at = m->slot_cap ? *slot_of(m, name) : 0;
    return at ? &m->tensors[at - 1] : NULL;
}

/* What ranks must say alike of a tensor; NULL: they do. */
static const char *disagreement(const struct index_tensor *a, const struct desc *b)
{
    if (a->dtype != b->dtype)
        return "dtype";
    if (a->ndim != b->ndim || memcmp(a->shape, b->shape, a->ndim * sizeof(a->shape[0])) != 0)
        return "shape";
    if (a->kind != b->kind)
        return "kind";
    if (a->flags != (b->flags & INDEX_FLAGS))
        return "whether it is an object or an alias";
    if (a->kind == DECL_BLOCKED && memcmp(a->block, b->block, a->ndim * sizeof(a->block[0])) != 0)
        return "blocks";
    if ((a->alias != NULL) != (b->alias != NULL) || (a->alias && strcmp(a->alias, b->alias) != 0))
        return "alias";
    return NULL;
}

static enum ckpt_status check_agreement(const struct merge_tensor *t, const struct desc *desc,
                                        uint32_t rank, struct ckpt_err *err)
{
    const char *what = disagreement(&t->desc, desc);
    if (!what)
        return CKPT_OK;
    return err_set(err, CKPT_MISMATCH, "tensor %s: ranks %u and %u do not agree on its %s",
                   t->desc.name, t->rank, rank, what);
}

static bool remember(struct merge_tensor *t, const struct desc *desc)
{
    struct buf b = { 0 };
    desc_encode(desc, &b);
    if (b.failed) {
        buf_fini(&b);
        return false;
    }
    t->known = (struct manifest_known){ .bytes = b.data, .len = b.len, .desc = *desc };
    t->known.desc.name = t->desc.name; /* not the caller's */
    t->known.desc.alias = t->desc.alias;
    return true;
}

static void tensor_fini(struct merge_tensor *t)
{
    free(t->desc.name);
    free(t->desc.alias);
    free(t->desc.runs);
    free(t->known.bytes);
    free(t->runs);
    free(t->words);
    *t = (struct merge_tensor){ 0 };
}

static enum ckpt_status tensor_init(struct merge_tensor *t, uint32_t rank, const struct desc *desc,
                                    struct ckpt_err *err)
{
    *t = (struct merge_tensor){ .rank = rank };
    DESC_COPY(&t->desc, desc);
    t->desc.flags &= INDEX_FLAGS;
    t->desc.name = strdup(desc->name);
    t->desc.alias = desc->alias ? strdup(desc->alias) : NULL;
    if (t->desc.name && (!desc->alias || t->desc.alias) && remember(t, desc))
        return CKPT_OK;
    tensor_fini(t);
    return no_memory(err);
}

/* Room for another tensor, and the slot that `name` has or would have. */
static enum ckpt_status slot_for(struct merge *m, const char *name, size_t **ret,
                                 struct ckpt_err *err)
{
    if (!grow_slots(m) ||
        !array_room((void **)&m->tensors, m->tensor_count, &m->tensor_cap, sizeof(*m->tensors)))
        return no_memory(err);
    *ret = slot_of(m, name);
    if (!**ret && m->tensor_count == CKPT_TENSORS_MAX)
        return err_set(err, CKPT_LIMIT, "more than %u tensors in one checkpoint", CKPT_TENSORS_MAX);
    return CKPT_OK;
}

const struct manifest_known *merge_expected(const struct merge *m)
{
    return m->hint < m->tensor_count ? &m->tensors[m->hint].known : NULL;
}

static enum ckpt_status find_or_add(struct merge *m, uint32_t rank, const struct manifest_tensor *t,
                                    size_t *ret, struct ckpt_err *err)
{
    struct desc desc = { .name = t->name, .alias = t->alias };
    size_t *slot;
    DESC_COPY(&desc, t);
    enum ckpt_status st = slot_for(m, t->name, &slot, err);
    if (st != CKPT_OK)
        return st;
    if (!*slot) {
        st = tensor_init(&m->tensors[m->tensor_count], rank, &desc, err);
        if (st != CKPT_OK)
            return st;
        *slot = ++m->tensor_count;
    }
    *ret = *slot - 1;
    return check_agreement(&m->tensors[*ret], &desc, rank, err);
}

/* --- boxes ---------------------------------------------------------------------- */

struct box merge_run_box(const struct merge_tensor *t, size_t run, uint32_t i, uint32_t *ret_rank)
{
    const struct merge_run *r = &t->runs[run];
    uint32_t ndim = t->desc.ndim;
    struct box box = { .ndim = ndim };
    if (ndim) {
        memcpy(box.off, t->words + run * 2 * ndim, ndim * sizeof(uint64_t));
        memcpy(box.len, t->words + run * 2 * ndim + ndim, ndim * sizeof(uint64_t));
        box.off[r->axis] += i * r->step;
    }
    *ret_rank = r->rank0 + i * r->rank_step;
    return box;
}

/* True if the box is what comes next in the last run; then it is counted in.  Compares
 * with the words of the first box: this runs once for each box of a checkpoint. */
static bool extend_run(struct merge_tensor *t, const struct box *box, uint32_t rank)
{
    size_t ndim = box->ndim;
    if (t->run_count == 0 || ndim == 0)
        return false;
    struct merge_run *r = &t->runs[t->run_count - 1];
    const uint64_t *off = t->words + (t->run_count - 1) * 2 * ndim, *len = off + ndim;
    uint32_t last_rank = r->rank0 + (r->count - 1) * r->rank_step;
    uint64_t done = (r->count - 1) * r->step; /* from the first box to the last, along r->axis */
    uint32_t axis = UINT32_MAX;
    for (uint32_t d = 0; d < ndim; d++) {
        uint64_t last = off[d] + (d == r->axis ? done : 0);
        if (box->len[d] != len[d] || (box->off[d] != last && axis != UINT32_MAX))
            return false;
        if (box->off[d] != last)
            axis = d;
    }
    if (axis == UINT32_MAX || rank <= last_rank)
        return false;
    uint64_t last = off[axis] + (axis == r->axis ? done : 0), step = box->off[axis] - last;
    if (box->off[axis] < last ||
        (r->count > 1 && (axis != r->axis || step != r->step || rank - last_rank != r->rank_step)))
        return false;
    r->axis = axis;
    r->step = step;
    r->rank_step = rank - last_rank;
    r->count++;
    return true;
}

static enum ckpt_status add_box(struct merge_tensor *t, const struct box *box, uint32_t rank,
                                struct ckpt_err *err)
{
    t->box_count++;
    if (extend_run(t, box, rank))
        return CKPT_OK;
    size_t ndim = t->desc.ndim;
    if (t->run_count == t->run_cap) {
        size_t cap = t->run_cap ? t->run_cap * 2 : 2;
        uint64_t *words = realloc(t->words, (cap * 2 * ndim + 1) * sizeof(*words));
        if (!words)
            return no_memory(err);
        t->words = words;
        struct merge_run *runs = realloc(t->runs, cap * sizeof(*runs));
        if (!runs)
            return no_memory(err);
        t->runs = runs;
        t->run_cap = cap;
    }
    memcpy(t->words + t->run_count * 2 * ndim, box->off, ndim * sizeof(uint64_t));
    memcpy(t->words + t->run_count * 2 * ndim + ndim, box->len, ndim * sizeof(uint64_t));
    t->runs[t->run_count++] = (struct merge_run){ .rank0 = rank, .count = 1 };
    return CKPT_OK;
}

enum ckpt_status merge_add_tensor(struct merge *m, uint32_t rank, const struct manifest_tensor *t,
                                  bool expected, struct ckpt_err *err)
{
    size_t at = m->hint;
    enum ckpt_status st = expected ? CKPT_OK : find_or_add(m, rank, t, &at, err);
    if (st != CKPT_OK)
        return st;
    m->hint = at + 1;
    for (uint32_t i = 0; i < t->box_count && st == CKPT_OK; i++)
        st = add_box(&m->tensors[at], &t->boxes[i].box, rank, err);
    for (uint32_t i = 0; i < t->witness_count && st == CKPT_OK; i++) {
        if (!array_room((void **)&m->witnesses, m->witness_count, &m->witness_cap,
                        sizeof(*m->witnesses)))
            return no_memory(err);
        m->witnesses[m->witness_count++] =
            (struct merge_witness){ .tensor = at, .rank = rank, .seen = t->witnesses[i] };
    }
    return st;
}

/* --- joining -------------------------------------------------------------------- */

/* Box by box at the seam, the rest of a run at once. */
static enum ckpt_status join_run(struct merge_tensor *to, const struct merge_tensor *from,
                                 size_t run, struct ckpt_err *err)
{
    const struct merge_run *r = &from->runs[run];
    enum ckpt_status st = CKPT_OK;
    for (uint32_t i = 0; st == CKPT_OK && i < r->count; i++) {
        uint32_t rank;
        struct box box = merge_run_box(from, run, i, &rank);
        st = add_box(to, &box, rank, err);
        struct merge_run *last = st == CKPT_OK ? &to->runs[to->run_count - 1] : NULL;
        bool alike = last && last->axis == r->axis && last->step == r->step &&
                     last->rank_step == r->rank_step && last->count > 1;
        if (alike) {
            last->count += r->count - i - 1;
            to->box_count += r->count - i - 1;
            break;
        }
    }
    return st;
}

static enum ckpt_status join_tensor(struct merge *m, struct merge_tensor *from, size_t *ret,
                                    struct ckpt_err *err)
{
    size_t *slot;
    enum ckpt_status st = slot_for(m, from->desc.name, &slot, err);
    if (st != CKPT_OK)
        return st;
    if (!*slot) {
        m->tensors[m->tensor_count] = *from;
        *from = (struct merge_tensor){ 0 };
        *slot = ++m->tensor_count;
        *ret = *slot - 1;
        return CKPT_OK;
    }
    *ret = *slot - 1;
    struct desc desc = { .name = from->desc.name, .alias = from->desc.alias };
    DESC_COPY(&desc, &from->desc);
    st = check_agreement(&m->tensors[*ret], &desc, from->rank, err);
    for (size_t i = 0; st == CKPT_OK && i < from->run_count; i++)
        st = join_run(&m->tensors[*ret], from, i, err);
    return st;
}

enum ckpt_status merge_join(struct merge *m, struct merge *part, struct ckpt_err *err)
{
    CLEANUP_FREE size_t *places = malloc((part->tensor_count + 1) * sizeof(*places));
    if (!places)
        return no_memory(err);
    for (size_t i = 0; i < part->tensor_count; i++) {
        enum ckpt_status st = join_tensor(m, &part->tensors[i], &places[i], err);
        if (st != CKPT_OK)
            return st;
    }
    for (size_t i = 0; i < part->witness_count; i++) {
        if (!array_room((void **)&m->witnesses, m->witness_count, &m->witness_cap,
                        sizeof(*m->witnesses)))
            return no_memory(err);
        m->witnesses[m->witness_count] = part->witnesses[i];
        m->witnesses[m->witness_count++].tensor = places[part->witnesses[i].tensor];
    }
    m->commit.raw_bytes += part->commit.raw_bytes;
    m->commit.pack_count += part->commit.pack_count;
    m->commit.chunk_count += part->commit.chunk_count;
    return CKPT_OK;
}

void merge_table_fini(struct merge *m)
{
    for (size_t i = 0; i < m->tensor_count; i++)
        tensor_fini(&m->tensors[i]);
    free(m->tensors);
    free(m->slots);
    free(m->witnesses);
}
