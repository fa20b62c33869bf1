/* Models as they are published through changes of topology by name.
 *
 * Planned at full size: both layouts are published from manifests without packs, which proves
 * the cover of every tensor, and ranks of the new layout plan from the old one; each element
 * of each of their pieces must come exactly once.
 *
 * Moved scaled down: every dimension but the numbers of layers and experts is divided (by what
 * the table says), every byte follows from the tensor's name and its place, is saved in the old
 * layout, restored in the new one by all ranks, and compared.  With TEST_SCALE=1 nothing is
 * divided, for machines that have the memory. */
#include "formats/dtype.h"
#include "props/engine_kit.h"
#include "props/matrix/models.h"

#define RANKS_PLANNED 4

struct change {
    const char *words;
    enum model_kind model;
    unsigned scale;
    struct topo from, to;
};

/* A layout by what is not 1 or 0 in it. */
#define LAYOUT(...)                                                                               \
    {                                                                                             \
        .tp = 1, .pp = 1, .vp = 1, .dr = 1, .ds = 1, .ep = 1, .etp = 1, .align = 64, .vpad = 128, \
        .copies = 1, __VA_ARGS__                                                                  \
    }
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Woverride-init"
static const struct change changes[] = {
    { "FSDP2 8 -> FSDP2 16", MODEL_LLAMA_7B, 64, LAYOUT(.ds = 8, .zero = 3),
      LAYOUT(.ds = 16, .zero = 3) },
    { "FSDP2 8 -> FSDP2 6 (uneven)", MODEL_LLAMA_7B, 64, LAYOUT(.ds = 8, .zero = 3),
      LAYOUT(.ds = 6, .zero = 3) },
    { "FSDP1 16 -> TP 4, DP 4, ZeRO-1", MODEL_LLAMA_7B, 64,
      LAYOUT(.ds = 16, .zero = 3, .cut = TOPO_BUCKET),
      LAYOUT(.tp = 4, .ds = 4, .zero = 1, .cut = TOPO_FLAT) },
    { "TP 8 -> TP 2, PP 2", MODEL_LLAMA_7B, 64, LAYOUT(.tp = 8), LAYOUT(.tp = 2, .pp = 2) },
    { "TP 2, PP 2, DP 4, distributed optimizer -> TP 4, DP 3", MODEL_LLAMA_7B_FUSED, 64,
      LAYOUT(.tp = 2, .pp = 2, .ds = 4, .zero = 1, .cut = TOPO_BUCKET),
      LAYOUT(.tp = 4, .ds = 3, .zero = 1, .cut = TOPO_BUCKET) },
    { "ZeRO-3 8 -> 1 rank", MODEL_LLAMA_7B, 64, LAYOUT(.ds = 8, .zero = 3, .cut = TOPO_FLAT),
      LAYOUT(.zero = 0) },
    { "1 rank -> HSDP 2 x 4", MODEL_LLAMA_7B, 64, LAYOUT(.zero = 0),
      LAYOUT(.dr = 2, .ds = 4, .zero = 3) },
    { "TP 8, PP 16, DP 2 -> TP 8, PP 8 (2 virtual), DP 4", MODEL_LLAMA_405B, 256,
      LAYOUT(.tp = 8, .pp = 16, .ds = 2, .zero = 1, .cut = TOPO_FLAT),
      LAYOUT(.tp = 8, .pp = 8, .vp = 2, .ds = 4, .zero = 1, .cut = TOPO_FLAT) },
    { "FSDP2 16 over TP 8 -> FSDP2 96", MODEL_LLAMA_405B, 256,
      LAYOUT(.tp = 8, .ds = 16, .zero = 3, .strided = 1), LAYOUT(.ds = 96, .zero = 3) },
    { "TP 8, PP 14 -> TP 4, PP 6 (3 virtual), layer axis", MODEL_LLAMA_405B_STACKED, 256,
      LAYOUT(.tp = 8, .pp = 14), LAYOUT(.tp = 4, .pp = 6, .vp = 3, .inner = 1) },
    { "EP 8 -> EP 4, ETP 2", MODEL_MIXTRAL_8X7B, 128, LAYOUT(.ds = 8, .ep = 8),
      LAYOUT(.ds = 8, .ep = 4, .etp = 2) },
    { "EP 4, DP 2, ZeRO-1 -> TP 8", MODEL_MIXTRAL_8X7B, 128,
      LAYOUT(.ds = 8, .ep = 4, .zero = 1, .cut = TOPO_FLAT), LAYOUT(.tp = 8, .etp = 8) },
    { "EP 64, PP 4 -> EP 32, PP 8 (2 virtual)", MODEL_DEEPSEEK_671B, 512,
      LAYOUT(.pp = 4, .ds = 64, .ep = 64, .zero = 1, .cut = TOPO_FLAT),
      LAYOUT(.pp = 8, .vp = 2, .ds = 32, .ep = 32, .zero = 1, .cut = TOPO_FLAT) },
    { "EP 16, DP 2, distributed optimizer -> FSDP2 24", MODEL_DEEPSEEK_671B, 512,
      LAYOUT(.ds = 32, .ep = 16, .zero = 1, .cut = TOPO_BUCKET), LAYOUT(.ds = 24, .zero = 3) },
};
#pragma GCC diagnostic pop

/* -- layouts ------------------------------------------------------------------------------- */

static void said(enum ckpt_status st, const struct ckpt_err *err)
{
    if (st == CKPT_OK)
        return;
    fprintf(stderr, "%s: %s\n", status_name(st), err_text(err));
    exit(1);
}

static void declare(struct decl *d, const struct topo_tensor *t, const struct topo_hold *h)
{
    struct topo_tensor copy = *t;
    struct ckpt_err err = { 0 };
    struct decl_tensor dt = { .name = copy.name, .dtype = (uint8_t)t->dtype, .ndim = t->ndim };
    if (h->count == 0)
        return;
    memcpy(dt.shape, t->shape, sizeof(dt.shape));
    said(decl_add_tensor(d, &dt, &err), &err);
    for (size_t i = 0; i < h->count; i++) {
        struct decl_piece p = { .box.ndim = t->ndim,
                                .replica = h->piece[i].replica,
                                .replica_count = h->piece[i].replica_count };
        memcpy(p.box.off, h->piece[i].off, sizeof(p.box.off));
        memcpy(p.box.len, h->piece[i].len, sizeof(p.box.len));
        memcpy(p.stride, h->piece[i].stride, sizeof(p.stride));
        said(decl_add_piece(d, &p, &err), &err);
    }
}

static void layout_of(struct kit_layout *l, const struct topo *o, const struct model_list *m)
{
    struct topo_hold *hold = calloc(m->count, sizeof(*hold));
    struct topo_memory *memory = calloc(m->count, sizeof(*memory));
    uint64_t *bytes = calloc(2 * m->count, sizeof(*bytes));
    *l = (struct kit_layout){ .world = topo_world(o) };
    l->d = calloc(l->world, sizeof(*l->d));
    l->list = calloc(l->world, sizeof(struct decl *));
    CHECK(hold && memory && bytes && l->d && l->list);
    for (size_t i = 0; i < m->count; i++)
        memory[i] = topo_dense(m->tensor[i].ndim);
    for (uint32_t r = 0; r < l->world; r++) {
        struct ckpt_err err = { 0 };
        topo_hold(o, m->tensor, m->count, memory, r, hold, bytes);
        for (size_t i = 0; i < m->count; i++)
            declare(&l->d[r], &m->tensor[i], &hold[i]);
        said(decl_finish(&l->d[r], KIT_SLOT, &err), &err);
        l->list[r] = &l->d[r];
    }
    free(hold);
    free(memory);
    free(bytes);
}

/* -- at full size ------------------------------------------------------------------------------ */

/* A rank's manifest as if it had saved. */
static void only_manifest(struct store *s, const struct kit_layout *l, uint32_t rank,
                          const struct kit_save *how)
{
    const struct decl *d = &l->d[rank];
    struct ckpt_err err = { 0 };
    struct manifest_header h;
    CLEANUP_FREE struct digest *digests = calloc(d->chunk_count + 1, sizeof(*digests));
    CLEANUP_FREE struct manifest_pack *packs = calloc(d->slot_count + 1, sizeof(*packs));
    CHECK(digests && packs);
    kit_header(&h, l, rank, how);
    for (uint32_t i = 0; i < d->slot_count; i++)
        packs[i] = (struct manifest_pack){ .slot = i,
                                           .chunks = d->slots[i].chunks,
                                           .first_chunk = d->slots[i].first_chunk };
    h.pack_count = d->slot_count;
    h.packs = packs;
    const struct manifest_source from = { .d = d, .digests = digests };
    said(save_finish(s, &h, &from, d->raw_bytes, &err), &err);
}

static void publish_plan(struct store *s, const struct kit_layout *l, uint64_t step,
                         struct ckpt_name *ret)
{
    const struct kit_save how = { .name = { 1, step, step } };
    struct record_commit commit;
    struct ckpt_err err = { 0 };
    for (uint32_t r = 0; r < l->world; r++)
        only_manifest(s, l, r, &how);
    said(publish(s, KIT_JOB, &how.name, l->world, &commit, &err), &err);
    *ret = how.name;
}

/* Every element of every piece comes once: fragments of a piece lie in it, do not overlap (they
 * are of different tiles of a proved cover), and have its volume in all. */
static uint64_t check_plan(const struct plan *p, const struct decl *d)
{
    CLEANUP_FREE uint64_t *come = calloc(d->piece_count + 1, sizeof(*come));
    uint64_t bytes = 0;
    CHECK(come);
    for (size_t b = 0; b < p->batch_count; b++) {
        struct plan_iter it = plan_iter_init(&p->batches[b], PLAN_ALL);
        while (plan_iter_next(&it)) {
            size_t piece = d->tensors[it.part->tensor].first_piece + it.part->piece;
            CHECK(box_contains(&d->pieces[piece].box, &it.common));
            come[piece] += box_volume(&it.common);
        }
    }
    for (size_t i = 0; i < d->piece_count; i++) {
        CHECK_EQ(come[i], box_volume(&d->pieces[i].box));
        bytes += box_bytes(&d->pieces[i].box, dtype_bits(d->tensors[d->pieces[i].tensor].dtype));
    }
    CHECK_EQ(p->consumer_bytes[0], bytes);
    return bytes;
}

static void plan_full(const struct change *c, uint64_t *ret_parameters, uint64_t *ret_bytes)
{
    const struct store_options options = { .create = true };
    struct model_list m;
    struct kit_layout from, to;
    struct ckpt_name name, other;
    struct ckpt_err err = { 0 };
    struct reader *r;
    struct store *s;
    model_list_init(&m, c->model, 1);
    said(store_open("mem://models", &options, &s, &err), &err);
    layout_of(&from, &c->from, &m);
    layout_of(&to, &c->to, &m);
    publish_plan(s, &from, 1, &name);
    publish_plan(s, &to, 2, &other); /* for its cover alone */
    said(reader_open(&s, 1, KIT_JOB, &name, &r, &err), &err);
    CHECK_EQ(reader_tensor_count(r), m.count);
    *ret_bytes = 0;
    for (uint32_t i = 0; i < min_u64(RANKS_PLANNED, to.world); i++) {
        struct plan *p;
        const struct decl *d = &to.d[(to.world - 1) * (uint64_t)i / (RANKS_PLANNED - 1)];
        said(plan_new(r, &d, 1, KIT_SLOT, PLAN_NO_UNASKED, &p, &err), &err);
        *ret_bytes += check_plan(p, d);
        plan_free(p);
    }
    *ret_parameters = m.parameters;
    reader_close(r);
    kit_layout_fini(&from);
    kit_layout_fini(&to);
    kit_store_drop(s);
    model_list_fini(&m);
}

/* -- every byte --------------------------------------------------------------------------------- */

static uint64_t move_scaled(const struct change *c, unsigned scale)
{
    const struct store_options options = { .create = true };
    const struct kit_save how = { .name = { 1, 1, 1 } };
    struct model_list m;
    struct kit_layout from, to;
    struct record_commit commit;
    struct load_stats stats = { 0 };
    struct ckpt_err err = { 0 };
    struct store *s;
    uint64_t bytes = 0;
    model_list_init(&m, c->model, scale);
    said(store_open("mem://models", &options, &s, &err), &err);
    layout_of(&from, &c->from, &m);
    layout_of(&to, &c->to, &m);
    kit_save_parts(s, &from, &how);
    said(publish(s, KIT_JOB, &how.name, from.world, &commit, &err), &err);
    said(kit_restore(&s, 1, &how.name, &to, &stats, &err), &err);
    for (uint32_t r = 0; r < to.world; r++)
        bytes += to.d[r].hold_bytes;
    CHECK(bytes >= 14 * m.parameters);
    kit_layout_fini(&from);
    kit_layout_fini(&to);
    kit_store_drop(s);
    model_list_fini(&m);
    return bytes;
}

int main(void)
{
    const char *scale = getenv("TEST_SCALE");
    printf("%-20s %-56s %7s %7s %10s %6s %9s\n", "model", "change", "from", "to", "parameters",
           "scale", "moved MiB");
    size_t step = TEST_TENTH > 1 ? 5 : 1, done = 0;
    for (size_t i = 0; i < ARRAY_COUNT(changes); i += step) {
        const struct change *c = &changes[i];
        uint64_t parameters, planned;
        unsigned by = c->scale / (getenv("CKPT_DEEP") ? 2 : 1);
        if (scale)
            by = (unsigned)strtoul(scale, NULL, 0);
        plan_full(c, &parameters, &planned);
        uint64_t moved = move_scaled(c, by);
        printf("%-20s %-56s %7u %7u %9.1fB %6u %9.1f\n", model_name(c->model), c->words,
               topo_world(&c->from), topo_world(&c->to), (double)parameters / 1e9, by,
               (double)moved / (double)MIB);
        fflush(stdout);
        CHECK(planned > 0 && moved > 0);
        done++;
    }
    TEST_CASES(done);
    return 0;
}
