/* Replicas that differ: each digests a tile of what another one writes; here both
 * digests meet. */
#include <stdio.h>

#include "storage/repo/publish_merge.h"

/* Who wrote the box in which the witness's tile lies: by arithmetic, as readers ask. */
static bool find_writer(const struct merge *m, struct merge_witness *w)
{
    const struct merge_tensor *t = &m->tensors[w->tensor];
    for (size_t i = 0; i < t->run_count; i++) {
        const struct merge_run *r = &t->runs[i];
        struct index_run run = {
            .count = r->count, .rank_step = r->rank_step, .axis = r->axis, .step = r->step
        };
        uint32_t first, last;
        run.box0 = merge_run_box(t, i, 0, &run.rank0);
        run.last_len = run.box0.ndim ? run.box0.len[run.axis] : 0;
        if (!index_run_hits(&run, &w->seen.box, &first, &last))
            continue;
        struct box box = index_run_box(&run, first, &w->writer);
        if (box_contains(&box, &w->seen.box))
            return true;
    }
    return false;
}

static int compare_writers(const void *a, const void *b)
{
    const struct merge_witness *x = a, *y = b;
    return x->writer < y->writer ? -1 : x->writer > y->writer;
}

/* The digest that the writer gave the tile; NULL if it has no such tile. */
static const struct digest *digest_of_tile(const struct manifest_tensor *t, const struct box *want)
{
    for (uint32_t i = 0; i < t->box_count; i++) {
        const struct manifest_box *b = &t->boxes[i];
        struct tile_iter it = tile_iter_init(&b->box, b->tile, want);
        struct box tile, common;
        uint64_t n;
        while (tile_iter_next(&it, &n, &tile, &common)) {
            if (box_equal(&tile, want))
                return &b->digests[n];
        }
    }
    return NULL;
}

static enum ckpt_status compare_one(const struct merge_witness *w, const struct manifest_tensor *t,
                                    struct ckpt_err *err)
{
    char text[400];
    box_to_text(&w->seen.box, text, sizeof(text));
    const struct digest *wrote = digest_of_tile(t, &w->seen.box);
    if (!wrote)
        return err_set(err, CKPT_MISMATCH,
                       "tensor %s: rank %u digested %s, which is no tile of what rank %u wrote",
                       t->name, w->rank, text, w->writer);
    if (digest_equal(wrote, &w->seen.digest))
        return CKPT_OK;
    return err_set(err, CKPT_CORRUPT,
                   "tensor %s: replicas differ: ranks %u and %u hold different bytes at %s "
                   "(memory, computation or a link of one of them is broken)",
                   t->name, w->rank, w->writer, text);
}

static enum ckpt_status compare_in(const struct merge *m, const struct merge_witness *w,
                                   const struct merge_manifest *from, struct ckpt_err *err)
{
    const char *name = m->tensors[w->tensor].desc.name;
    uint32_t block = manifest_block_of(&from->header, name);
    struct manifest_tensors t;
    if (block == UINT32_MAX)
        return err_set(err, CKPT_CORRUPT, "rank %u's manifest changed", w->writer);
    const struct manifest_block *b = &from->header.blocks[block];
    if (b->offset > from->len || b->bytes > from->len - b->offset)
        return err_set(err, CKPT_CORRUPT, "rank %u's manifest is cut short", w->writer);
    enum ckpt_status st = manifest_block_decode(
        &from->header, block, (const uint8_t *)from->bytes + b->offset, b->bytes, &t, err);
    if (st != CKPT_OK)
        return st;
    for (size_t i = 0; i < t.count && st == CKPT_OK; i++) {
        if (strcmp(t.tensors[i].name, name) == 0)
            st = compare_one(w, &t.tensors[i], err);
    }
    manifest_tensors_fini(&t);
    return st;
}

enum ckpt_status merge_check_witnesses(struct merge *m, struct store *s, struct ckpt_err *err)
{
    char text[400];
    for (size_t i = 0; i < m->witness_count; i++) {
        struct merge_witness *w = &m->witnesses[i];
        if (!find_writer(m, w))
            return err_set(err, CKPT_COVER, "tensor %s: no rank holds %s, which rank %u digested",
                           m->tensors[w->tensor].desc.name,
                           box_to_text(&w->seen.box, text, sizeof(text)), w->rank);
    }
    if (m->witness_count)
        qsort(m->witnesses, m->witness_count, sizeof(*m->witnesses), compare_writers);
    enum ckpt_status st = CKPT_OK;
    size_t n = 0;
    for (size_t i = 0; i < m->witness_count && st == CKPT_OK; i = n) {
        struct merge_manifest from; /* one manifest at a time, for all its witnesses */
        st = merge_read(s, m->job, &m->name, m->witnesses[i].writer, &from, err);
        if (st != CKPT_OK)
            return st;
        for (n = i; n < m->witness_count && m->witnesses[n].writer == m->witnesses[i].writer; n++) {
            if (st == CKPT_OK)
                st = compare_in(m, &m->witnesses[n], &from, err);
        }
        merge_manifest_fini(&from);
    }
    return st;
}
