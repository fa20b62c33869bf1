/* Plans one node's restore.
 *
 * The bytes that it would read are measured with the loader's own choice of ranges
 * (load_measure), for so many packs that their heads cost little; what the others cost is
 * taken to be in the same proportion to their raw bytes. */
#include "tools/plan_node.h"

#include <sys/mman.h>

struct node_work {
    struct decl *decls; /* one a rank */
    const struct decl **consumers;
    uint32_t ranks;
    struct plan *plan;
    struct load_work *load;
    void **slots; /* addresses that stand for the consumers' slots; nothing is mapped */
    uint8_t *reserved;
    size_t reserved_bytes;
    struct part *parts; /* every box of the node's ranks */
    size_t part_count, part_cap;
};
/* One box, by hash: the same box on several ranks is needed once. */
struct part {
    uint64_t tensor, hash, bytes;
};

/* -- what the ranks hold ------------------------------------------------- */

static enum ckpt_status note_parts(struct node_work *w, const struct decl *d, size_t tensor,
                                   struct ckpt_err *err)
{
    const struct decl_tensor *t = &d->tensors[d->tensor_count - 1];
    for (size_t i = 0; i < t->piece_count; i++) {
        const struct box *box = &d->pieces[t->first_piece + i].box;
        if (w->part_count == w->part_cap) {
            size_t cap = w->part_cap ? 2 * w->part_cap : 1024;
            struct part *more = reallocarray(w->parts, cap, sizeof(*more));
            if (!more)
                return err_set(err, CKPT_NO_MEMORY, "no memory to plan");
            w->parts = more;
            w->part_cap = cap;
        }
        uint64_t words[2 * CKPT_DIMS_MAX];
        memcpy(words, box->off, box->ndim * sizeof(uint64_t));
        memcpy(words + box->ndim, box->len, box->ndim * sizeof(uint64_t));
        w->parts[w->part_count++] =
            (struct part){ .tensor = tensor,
                           .hash = digest_hash(words, 2 * box->ndim * sizeof(uint64_t)),
                           .bytes = box_bytes(box, dtype_bits(t->dtype)) };
    }
    return CKPT_OK;
}

static uint64_t shard_bytes(const struct topology_shard *s, unsigned bits)
{
    struct box whole = box_whole(s->ndim, s->shape);
    uint64_t volume = box_volume(&whole);
    return volume / 8 * bits + (volume % 8 * bits + 7) / 8;
}

static enum ckpt_status declare_rank(const struct plan_spec *spec, struct node_work *w,
                                     uint32_t rank, struct plan_node *n, struct ckpt_err *err)
{
    struct decl *d = &w->decls[rank - n->first_rank];
    uint64_t state = 0;
    for (size_t i = 0; i < spec->list->count; i++) {
        struct topology_shard shard;
        if (spec->wanted && !spec->wanted[i])
            continue;
        enum ckpt_status st = layout_list_declare(spec->list, i, rank, d, &shard, err);
        if (st == CKPT_OK && shard.held)
            st = note_parts(w, d, i, err);
        if (st != CKPT_OK)
            return st;
        if (shard.held)
            state += shard_bytes(&shard, dtype_bits(spec->list->tensors[i]->dtype));
    }
    n->state_bytes += state;
    if (state > n->state_bytes_most || rank == n->first_rank) {
        n->state_bytes_most = state;
        n->state_rank_most = rank;
    }
    uint64_t arena = spec->arena_bytes ? spec->arena_bytes : align_up(state, CKPT_SLOT_BYTES);
    n->arena_bytes += max_u64(arena, 2 * CKPT_SLOT_BYTES);
    return decl_finish(d, CKPT_SLOT_BYTES, err);
}

static int by_part(const void *a, const void *b)
{
    const struct part *x = a, *y = b;
    if (x->tensor != y->tensor)
        return x->tensor < y->tensor ? -1 : 1;
    return x->hash < y->hash ? -1 : x->hash > y->hash;
}

static uint64_t need_bytes(struct node_work *w)
{
    uint64_t bytes = 0;
    if (w->part_count > 0)
        qsort(w->parts, w->part_count, sizeof(*w->parts), by_part);
    for (size_t i = 0; i < w->part_count; i++) {
        if (i == 0 || by_part(&w->parts[i - 1], &w->parts[i]) != 0)
            bytes += w->parts[i].bytes;
    }
    return bytes;
}

/* -- what it reads ------------------------------------------------------- */

static uint64_t batch_raw_bytes(const struct plan_batch *b)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < b->chunk_count; i++)
        bytes += b->chunks[i].raw_bytes;
    return bytes;
}

static enum ckpt_status measure(const struct plan_spec *spec, struct node_work *w,
                                const struct plan_batch *b, uint64_t *ret, struct ckpt_err *err)
{
    size_t tier_count;
    struct store *const *tiers = reader_tiers(spec->reader, &tier_count);
    for (uint32_t i = 0; i < b->use_count; i++)
        w->slots[i] = w->reserved + (size_t)b->uses[i].consumer * (CKPT_SLOT_BYTES + CKPT_BLOCK);
    return load_measure(w->load, tiers[0], reader_job(spec->reader),
                        &reader_commit(spec->reader)->name, b, w->slots, ret, err);
}

/* Measures evenly spaced batches, and takes the rest for alike. */
static enum ckpt_status measure_all(const struct plan_spec *spec, struct node_work *w,
                                    struct plan_node *n, struct ckpt_err *err)
{
    const struct plan *p = w->plan;
    uint64_t raw = 0, read = 0;
    size_t max = spec->measured_max ? spec->measured_max : PLAN_MEASURED_MAX;
    size_t count = p->batch_count < max ? p->batch_count : max;
    for (size_t i = 0; i < count; i++) {
        const struct plan_batch *b = &p->batches[i * p->batch_count / count];
        uint64_t bytes;
        enum ckpt_status st = measure(spec, w, b, &bytes, err);
        if (st != CKPT_OK)
            return st;
        read += bytes;
        raw += batch_raw_bytes(b);
    }
    n->gets = p->batch_count;
    n->measured = count;
    n->read_bytes = read;
    if (count < p->batch_count && raw > 0)
        n->read_bytes = (uint64_t)((double)read * ((double)p->read_bytes / (double)raw));
    return CKPT_OK;
}

/* -- a node -------------------------------------------------------------- */

static enum ckpt_status work_init(struct node_work *w, uint32_t ranks, struct ckpt_err *err)
{
    w->ranks = ranks;
    w->decls = calloc(ranks, sizeof(*w->decls));
    w->consumers = calloc(ranks, sizeof(const struct decl *));
    w->slots = calloc(ranks, sizeof(*w->slots));
    w->load = load_work_new(CKPT_SLOT_BYTES);
    w->reserved_bytes = (size_t)ranks * (CKPT_SLOT_BYTES + CKPT_BLOCK);
    void *map = mmap(NULL, w->reserved_bytes, PROT_NONE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map != MAP_FAILED)
        w->reserved = map;
    if (!w->decls || !w->consumers || !w->slots || !w->load || !w->reserved)
        return err_set(err, CKPT_NO_MEMORY, "no memory to plan a node of %u ranks", ranks);
    for (uint32_t i = 0; i < ranks; i++)
        w->consumers[i] = &w->decls[i];
    return CKPT_OK;
}

static void work_fini(struct node_work *w)
{
    plan_free(w->plan);
    load_work_free(w->load);
    for (uint32_t i = 0; w->decls && i < w->ranks; i++)
        decl_fini(&w->decls[i]);
    if (w->reserved)
        munmap(w->reserved, w->reserved_bytes);
    free(w->decls);
    free(w->consumers);
    free(w->slots);
    free(w->parts);
}

enum ckpt_status plan_node(const struct plan_spec *spec, uint32_t node, struct plan_node *ret,
                           struct ckpt_err *err)
{
    uint32_t world = topology_mesh(spec->list->topology)->world;
    struct plan_node n = { .node = node, .first_rank = node * spec->node_ranks };
    n.ranks = (uint32_t)min_u64(spec->node_ranks, world - n.first_rank);
    struct node_work w = { 0 };
    enum ckpt_status st = work_init(&w, n.ranks, err);
    for (uint32_t r = 0; st == CKPT_OK && r < n.ranks; r++)
        st = declare_rank(spec, &w, n.first_rank + r, &n, err);
    if (st == CKPT_OK)
        st = plan_new(spec->reader, w.consumers, n.ranks, CKPT_SLOT_BYTES, PLAN_NO_UNASKED, &w.plan,
                      err);
    if (st == CKPT_OK)
        st = measure_all(spec, &w, &n, err);
    if (st == CKPT_OK) {
        n.need_bytes = need_bytes(&w);
        n.raw_bytes = w.plan->read_bytes;
        n.manifests = w.plan->manifests_hit;
        *ret = n;
    }
    work_fini(&w);
    return st;
}

uint64_t plan_node_host_bytes(const struct plan_node *n)
{
    return n->arena_bytes + PLAN_DAEMON_BYTES;
}
