/* Merges manifests, one at a time. */
#include "storage/repo/publish_merge.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>

#include "formats/cover.h"

#define FAILED_BYTES_MAX (UINT64_C(64) << 10)
#define INDEX_FLAGS      (DECL_OBJECT | DECL_ALIAS) /* what is a fact of the checkpoint */

static enum ckpt_status no_memory(struct ckpt_err *err)
{
    return err_set(err, CKPT_NO_MEMORY, "no memory to merge manifests");
}

static bool grow(void **array, size_t count, size_t *cap, size_t size)
{
    if (count < *cap)
        return true;
    size_t more = *cap ? *cap * 2 : 8;
    void *bigger = realloc(*array, more * size);
    if (!bigger)
        return false;
    *array = bigger;
    *cap = more;
    return true;
}

/* --- whose it is ---------------------------------------------------------------- */

static enum ckpt_status check_identity(const struct merge *m, uint32_t rank,
                                       const struct manifest_header *h, struct ckpt_err *err)
{
    const char *what = NULL;
    if (strcmp(h->job, m->job) != 0)
        what = "another job";
    else if (!name_equal(&h->name, &m->name))
        what = "another attempt";
    else if (h->rank != rank)
        what = "another rank";
    else if (h->world != m->world)
        what = "another world size";
    if (what)
        return err_set(err, CKPT_MISMATCH,
                       "the manifest under rank %u of %u is of %s: job %s, rank %u of %u", rank,
                       m->world, what, h->job, h->rank, h->world);
    if (rank > 0 && (h->try_ != m->commit.try_ || h->has_parent != m->commit.has_parent ||
                     (h->has_parent && !name_equal(&h->parent, &m->commit.parent))))
        return err_set(err, CKPT_MISMATCH, "ranks 0 and %u do not agree on the try or the parent",
                       rank);
    return CKPT_OK;
}

/* --- the table of tensors ------------------------------------------------------- */

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

static void copy_desc(struct index_tensor *to, const struct manifest_tensor *from)
{
    to->dtype = from->dtype;
    to->kind = from->kind;
    to->flags = from->flags & INDEX_FLAGS;
    to->ndim = from->ndim;
    memcpy(to->shape, from->shape, sizeof(to->shape));
    memcpy(to->block, from->block, sizeof(to->block));
}

/* Ranks list their tensors in the same order, mostly: the one behind the last found. */
static enum ckpt_status find_or_add(struct merge *m, uint32_t rank, const struct manifest_tensor *t,
                                    size_t *ret, struct ckpt_err *err)
{
    if (m->hint < m->tensor_count && strcmp(m->tensors[m->hint].desc.name, t->name) == 0) {
        *ret = m->hint++;
        return CKPT_OK;
    }
    if (!grow_slots(m) ||
        !grow((void **)&m->tensors, m->tensor_count, &m->tensor_cap, sizeof(*m->tensors)))
        return no_memory(err);
    size_t *slot = slot_of(m, t->name);
    if (!*slot) {
        if (m->tensor_count == CKPT_TENSORS_MAX)
            return err_set(err, CKPT_LIMIT, "more than %u tensors in one checkpoint",
                           CKPT_TENSORS_MAX);
        struct merge_tensor *fresh = &m->tensors[m->tensor_count];
        *fresh = (struct merge_tensor){ .rank = rank };
        fresh->desc.name = strdup(t->name);
        fresh->desc.alias = t->alias ? strdup(t->alias) : NULL;
        m->tensor_count++; /* merge_fini frees what was copied */
        if (!fresh->desc.name || (t->alias && !fresh->desc.alias))
            return no_memory(err);
        copy_desc(&fresh->desc, t);
        *slot = m->tensor_count;
    }
    *ret = *slot - 1;
    m->hint = *slot;
    return CKPT_OK;
}

/* What ranks must say alike of a tensor; NULL: they do. */
static const char *disagreement(const struct index_tensor *a, const struct manifest_tensor *b)
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

static enum ckpt_status add_tensor(struct merge *m, uint32_t rank, const struct manifest_tensor *t,
                                   struct ckpt_err *err)
{
    size_t at = 0;
    enum ckpt_status st = find_or_add(m, rank, t, &at, err);
    if (st != CKPT_OK)
        return st;
    struct merge_tensor *to = &m->tensors[at];
    const char *what = disagreement(&to->desc, t);
    if (what)
        return err_set(err, CKPT_MISMATCH, "tensor %s: ranks %u and %u do not agree on its %s",
                       t->name, to->rank, rank, what);
    for (uint32_t i = 0; i < t->box_count && st == CKPT_OK; i++)
        st = add_box(to, &t->boxes[i].box, rank, err);
    for (uint32_t i = 0; i < t->witness_count && st == CKPT_OK; i++) {
        if (!grow((void **)&m->witnesses, m->witness_count, &m->witness_cap, sizeof(*m->witnesses)))
            return no_memory(err);
        m->witnesses[m->witness_count++] =
            (struct merge_witness){ .tensor = at, .rank = rank, .seen = t->witnesses[i] };
    }
    return st;
}

/* --- all manifests -------------------------------------------------------------- */

static enum ckpt_status add_manifest(struct merge *m, const struct feed_part *part,
                                     struct ckpt_err *err)
{
    const struct manifest_header *h = &part->from.header;
    enum ckpt_status st = part->body;
    m->hint = 0;
    if (st != CKPT_OK)
        return err_set(err, st, "%s", err_text(&part->body_err));
    for (uint32_t b = 0; b < h->block_count; b++) {
        const struct manifest_tensors *t = &part->blocks[b];
        for (size_t i = 0; i < t->count && st == CKPT_OK; i++)
            st = add_tensor(m, part->rank, &t->tensors[i], err);
    }
    if (st != CKPT_OK)
        return st;
    m->ranks[part->rank] = part->entry;
    m->commit.raw_bytes += h->raw_bytes;
    m->commit.pack_count += h->pack_count;
    m->commit.chunk_count += h->chunk_count;
    return CKPT_OK;
}

/* Rank 0 speaks for all in what belongs to no tensor. */
static void take_identity(struct merge *m, const struct manifest_header *h)
{
    m->commit = (struct record_commit){ .name = m->name,
                                        .world = m->world,
                                        .try_ = h->try_,
                                        .has_parent = h->has_parent,
                                        .parent = h->parent,
                                        .vanished_allowed = h->flags & MANIFEST_FLAG_VANISHED_OK,
                                        .time_ns = h->time_ns,
                                        .metric_count = h->metric_count };
    memcpy(m->commit.metrics, h->metrics, sizeof(m->commit.metrics));
}

static enum ckpt_status take_failure(struct merge *m, const struct manifest_header *h,
                                     struct ckpt_err *err)
{
    m->fail_status = h->fail_status;
    m->fail_rank = h->rank;
    return err_set(err, CKPT_ABORTED, "rank %u could not save its part: %s", h->rank,
                   h->fail_text[0] ? h->fail_text : status_sentence(h->fail_status));
}

static enum ckpt_status add_part(struct merge *m, const struct feed_part *part,
                                 struct ckpt_err *err)
{
    const struct manifest_header *h = &part->from.header;
    if (part->status != CKPT_OK)
        return err_set(err, part->status, "%s", err_text(&part->err));
    if (part->rank == 0)
        take_identity(m, h);
    enum ckpt_status st = check_identity(m, part->rank, h, err);
    if (st == CKPT_OK && h->flags & MANIFEST_FLAG_FAILED)
        st = take_failure(m, h, err);
    return st == CKPT_OK ? add_manifest(m, part, err) : st;
}

static enum ckpt_status add_all(struct merge *m, struct store *s, uint32_t *ret_rank,
                                struct ckpt_err *err)
{
    struct feed *feed;
    enum ckpt_status st = feed_open(s, m->job, &m->name, m->world, &feed, err);
    if (st != CKPT_OK)
        return st;
    for (*ret_rank = 0; st == CKPT_OK && *ret_rank < m->world; (*ret_rank)++)
        st = add_part(m, feed_next(feed), err);
    feed_close(feed);
    return st;
}

/* A rank is missing; if one behind it has failed, nobody needs to wait for it.  Only
 * manifests as small as those of failed parts are looked at. */
static enum ckpt_status find_failed(struct merge *m, struct store *s, uint32_t from,
                                    struct ckpt_err *err)
{
    for (uint32_t rank = from; rank < m->world; rank++) {
        struct key key = key_manifest(m->job, &m->name, rank);
        struct store_stat stat;
        struct merge_manifest part;
        if (store_stat(s, key.text, &stat, NULL) != CKPT_OK || stat.bytes > FAILED_BYTES_MAX ||
            merge_read(s, m->job, &m->name, rank, &part, NULL) != CKPT_OK)
            continue;
        enum ckpt_status st = CKPT_OK;
        if (part.header.flags & MANIFEST_FLAG_FAILED && name_equal(&part.header.name, &m->name) &&
            part.header.rank == rank && strcmp(part.header.job, m->job) == 0)
            st = take_failure(m, &part.header, err);
        merge_manifest_fini(&part);
        if (st != CKPT_OK)
            return st;
    }
    return CKPT_OK;
}

enum ckpt_status merge_all(struct merge *m, struct store *s, const char *job,
                           const struct ckpt_name *name, uint32_t world, struct ckpt_err *err)
{
    *m = (struct merge){ .job = job, .name = *name, .world = world };
    if (world == 0 || world > CKPT_RANKS_MAX)
        return err_set(err, CKPT_LIMIT, "a world of %u ranks", world);
    m->ranks = calloc(world, sizeof(*m->ranks));
    if (!m->ranks)
        return no_memory(err);
    struct ckpt_err why = { 0 };
    uint32_t rank = 0;
    enum ckpt_status st = add_all(m, s, &rank, &why);
    if (st == CKPT_NOT_FOUND) {
        enum ckpt_status failed = find_failed(m, s, rank, err);
        if (failed != CKPT_OK)
            return failed;
    }
    return st == CKPT_OK ? st : err_set(err, st, "%s", err_text(&why));
}

/* --- cover and index ------------------------------------------------------------ */

/* One box for a run that has no gaps, unless `each`. */
static enum ckpt_status cover_tensor(const struct merge_tensor *t, bool each, struct ckpt_err *err)
{
    size_t n = each ? t->box_count : t->run_count, at = 0;
    CLEANUP_FREE struct cover_box *boxes = malloc((n + 1) * sizeof(*boxes));
    if (!boxes)
        return no_memory(err);
    for (size_t i = 0; i < t->run_count; i++) {
        for (uint32_t k = 0; k < (each ? t->runs[i].count : 1); k++, at++)
            boxes[at].box = merge_run_box(t, i, k, &boxes[at].rank);
        if (!each && t->runs[i].count > 1)
            boxes[at - 1].box.len[t->runs[i].axis] *= t->runs[i].count;
    }
    return cover_check(t->desc.name, t->desc.ndim, t->desc.shape, boxes, n, err);
}

static bool runs_have_gaps(const struct merge_tensor *t)
{
    for (size_t i = 0; i < t->run_count; i++) {
        const struct merge_run *r = &t->runs[i];
        if (r->count > 1 && t->words[i * 2 * t->desc.ndim + t->desc.ndim + r->axis] != r->step)
            return true;
    }
    return false;
}

static enum ckpt_status prove_cover(const struct merge *m, const struct merge_tensor *t,
                                    struct ckpt_err *err)
{
    if (t->desc.alias) {
        const struct merge_tensor *to = merge_find(m, t->desc.alias);
        bool same = to && !to->desc.alias && to->desc.dtype == t->desc.dtype &&
                    to->desc.ndim == t->desc.ndim &&
                    memcmp(to->desc.shape, t->desc.shape, t->desc.ndim * sizeof(uint64_t)) == 0;
        if (same && t->box_count == 0)
            return CKPT_OK;
        return err_set(err, CKPT_MISMATCH,
                       "tensor %s is tied to %s, which is not a tensor of the same dtype and shape",
                       t->desc.name, t->desc.alias);
    }
    if (runs_have_gaps(t))
        return cover_tensor(t, true, err);
    enum ckpt_status st = cover_tensor(t, false, NULL);
    /* Box by box once more, for a message that names the right ranks. */
    return st == CKPT_OK ? st : cover_tensor(t, true, err);
}

/* The split of most tensors: one run, or one and a shorter box behind it.  That is what
 * folding would make of it; true if so. */
static bool fold_regular(const struct merge_tensor *t, struct index_run *ret)
{
    const struct merge_run *r = t->runs;
    uint32_t ndim = t->desc.ndim, rank;
    if (t->run_count == 0 || t->run_count > 2 || ndim == 0 || r->count < 2)
        return false;
    struct index_run run = {
        .count = r->count, .rank_step = r->rank_step, .axis = r->axis, .step = r->step
    };
    run.box0 = merge_run_box(t, 0, 0, &run.rank0);
    run.last_len = run.box0.len[run.axis];
    if (run.step < run.last_len)
        return false;
    if (t->run_count == 2) {
        struct box last = merge_run_box(t, 1, 0, &rank), want = run.box0;
        run.last_len = last.len[run.axis];
        want.off[run.axis] += run.count * run.step;
        want.len[run.axis] = run.last_len;
        if (r[1].count != 1 || run.last_len >= run.box0.len[run.axis] || !box_equal(&want, &last) ||
            rank != run.rank0 + run.count * run.rank_step)
            return false;
        run.count++;
    }
    *ret = run;
    return true;
}

static enum ckpt_status fold_boxes(const struct merge_tensor *t, struct index_run *runs,
                                   size_t *ret, struct ckpt_err *err)
{
    CLEANUP_FREE struct index_from *boxes = malloc((t->box_count + 1) * sizeof(*boxes));
    size_t n = 0;
    if (!boxes)
        return no_memory(err);
    for (size_t i = 0; i < t->run_count; i++) {
        for (uint32_t k = 0; k < t->runs[i].count; k++, n++)
            boxes[n].box = merge_run_box(t, i, k, &boxes[n].rank);
    }
    *ret = index_fold(boxes, n, t->desc.ndim, runs);
    return CKPT_OK;
}

static enum ckpt_status make_runs(struct merge_tensor *t, struct ckpt_err *err)
{
    struct index_run one;
    bool regular = fold_regular(t, &one);
    size_t n = 1;
    CLEANUP_FREE struct index_run *runs =
        malloc(((regular ? 0 : t->box_count) + 1) * sizeof(*runs));
    if (!runs)
        return no_memory(err);
    enum ckpt_status st = CKPT_OK;
    if (regular)
        runs[0] = one;
    else
        st = fold_boxes(t, runs, &n, err);
    if (st != CKPT_OK)
        return st;
    struct index_run *fit = realloc(runs, (n + 1) * sizeof(*runs));
    if (!fit)
        return no_memory(err);
    runs = NULL;
    t->desc.runs = fit;
    t->desc.run_count = (uint32_t)n;
    return CKPT_OK;
}

static int compare_tensors(const void *a, const void *b)
{
    return strcmp(((const struct index_tensor *)a)->name, ((const struct index_tensor *)b)->name);
}

static enum ckpt_status encode_index(struct merge *m, struct ckpt_err *err)
{
    struct index_tensors sorted = { .count = m->tensor_count };
    CLEANUP_FREE struct index_tensor *tensors = malloc((m->tensor_count + 1) * sizeof(*tensors));
    if (!tensors)
        return no_memory(err);
    for (size_t i = 0; i < m->tensor_count; i++)
        tensors[i] = m->tensors[i].desc;
    qsort(tensors, m->tensor_count, sizeof(*tensors), compare_tensors);
    sorted.tensors = tensors;
    m->commit.tensor_count = m->tensor_count;
    enum ckpt_status st =
        index_encode(&m->name, m->world, m->ranks, &sorted, &m->segments, &m->segment_count,
                     &m->commit.index_header_bytes, &m->commit.index_sha, err);
    m->commit.index_segments = m->segment_count;
    return st;
}

enum ckpt_status merge_finish(struct merge *m, struct ckpt_err *err)
{
    for (size_t i = 0; i < m->tensor_count; i++) {
        enum ckpt_status st = prove_cover(m, &m->tensors[i], err);
        if (st == CKPT_OK)
            st = make_runs(&m->tensors[i], err);
        if (st != CKPT_OK)
            return st;
    }
    return encode_index(m, err);
}

void merge_fini(struct merge *m)
{
    for (size_t i = 0; i < m->tensor_count; i++) {
        free(m->tensors[i].desc.name);
        free(m->tensors[i].desc.alias);
        free(m->tensors[i].desc.runs);
        free(m->tensors[i].runs);
        free(m->tensors[i].words);
    }
    for (uint32_t i = 0; i < m->segment_count; i++)
        buf_fini(&m->segments[i]);
    free(m->segments);
    free(m->tensors);
    free(m->slots);
    free(m->witnesses);
    free(m->ranks);
    *m = (struct merge){ 0 };
}
