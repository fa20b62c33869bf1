/* Of merged manifests: the proof of the cover, and the index. */
#include <assert.h>

#include "formats/cover.h"
#include "storage/repo/publish_merge.h"

static enum ckpt_status no_memory(struct ckpt_err *err)
{
    return err_set(err, CKPT_NO_MEMORY, "no memory to merge manifests");
}

/* --- cover ---------------------------------------------------------------------- */

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

/* --- index ---------------------------------------------------------------------- */

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
