/* What a plan does not keep because it follows from what it keeps. */
#include <assert.h>

#include "storage/repo/plan.h"

struct box plan_tile(const struct plan_batch *b, const struct plan_chunk *c)
{
    struct box tile = { .ndim = b->parts[b->frags[c->first_frag].part].box.ndim };
    const uint64_t *words = b->words + c->tile;
    for (uint32_t i = 0; i < tile.ndim; i++) {
        tile.off[i] = words[i];
        tile.len[i] = words[tile.ndim + i];
    }
    return tile;
}

const struct index_tensor *plan_saved(const struct plan_batch *b, const struct plan_chunk *c)
{
    return b->parts[b->frags[c->first_frag].part].saved;
}

struct plan_iter plan_iter_init(const struct plan_batch *b, uint32_t consumer)
{
    return (struct plan_iter){ .batch = b, .consumer = consumer };
}

bool plan_iter_next(struct plan_iter *it)
{
    const struct plan_batch *b = it->batch;
    for (; it->frag < b->frag_count; it->frag++) {
        const struct plan_frag *f = &b->frags[it->frag];
        it->part = &b->parts[f->part];
        if (it->consumer != PLAN_ALL && it->part->consumer != it->consumer)
            continue;
        while (it->frag - b->chunks[it->chunk].first_frag >= b->chunks[it->chunk].frag_count)
            it->chunk++;
        struct box tile = plan_tile(b, &b->chunks[it->chunk]);
        it->slot_offset = f->slot_offset;
        it->frag++;
        bool meet = box_intersect(&tile, &it->part->box, &it->common);
        assert(meet); /* or there would be no fragment */
        return meet;
    }
    return false;
}
