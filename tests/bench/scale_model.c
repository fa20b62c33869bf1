/* Names and shapes after the published configuration of Llama 3.1 405B. */
#include "bench/scale_model.h"

#include <inttypes.h>
#include <stdio.h>

#include "formats/layout.h"

#define WIDTH      UINT64_C(16384)
#define FFN        UINT64_C(53248)
#define KV         UINT64_C(1024)
#define VOCABULARY UINT64_C(128256)
#define STATES     3 /* of the optimizer */

static const char *const state_prefix[STATES] = { "optimizer.master.", "optimizer.exp_avg.",
                                                  "optimizer.exp_avg_sq." };

/* --- the model ------------------------------------------------------------------ */

struct part { /* of a layer */
    const char *name;
    enum scale_cut cut;
    uint64_t rows, columns; /* 0 columns: one dimension */
};
static const struct part parts[] = {
    { "self_attn.q_proj", SCALE_ROWS, WIDTH, WIDTH },
    { "self_attn.k_proj", SCALE_ROWS, KV, WIDTH },
    { "self_attn.v_proj", SCALE_ROWS, KV, WIDTH },
    { "self_attn.o_proj", SCALE_COLUMNS, WIDTH, WIDTH },
    { "mlp.gate_proj", SCALE_ROWS, FFN, WIDTH },
    { "mlp.up_proj", SCALE_ROWS, FFN, WIDTH },
    { "mlp.down_proj", SCALE_COLUMNS, WIDTH, FFN },
    { "input_layernorm", SCALE_WHOLE, WIDTH, 0 },
    { "post_attention_layernorm", SCALE_WHOLE, WIDTH, 0 },
};

static struct scale_param *add(struct scale_model *m, const struct part *of, uint32_t layer,
                               uint32_t shrink)
{
    struct scale_param *p = &m->params[m->count++];
    *p = (struct scale_param){ .cut = of->cut,
                               .ndim = of->columns ? 2 : 1,
                               .shape = { of->rows / shrink, of->columns / shrink },
                               .layer = layer };
    return p;
}

enum ckpt_status scale_model_init(struct scale_model *m, uint32_t layers, uint32_t shrink)
{
    static const struct part embedding = { "", SCALE_ROWS, VOCABULARY, WIDTH };
    static const struct part norm = { "", SCALE_WHOLE, WIDTH, 0 };
    *m = (struct scale_model){ .layers = layers };
    m->params = calloc(layers * ARRAY_COUNT(parts) + 3, sizeof(*m->params));
    if (!m->params)
        return CKPT_NO_MEMORY;
    struct scale_param *p = add(m, &embedding, 0, shrink);
    snprintf(p->name, sizeof(p->name), "model.embed_tokens.weight");
    for (uint32_t i = 0; i < layers; i++) {
        for (size_t k = 0; k < ARRAY_COUNT(parts); k++) {
            p = add(m, &parts[k], i, shrink);
            snprintf(p->name, sizeof(p->name), "model.layers.%u.%s.weight", i, parts[k].name);
        }
    }
    p = add(m, &norm, layers - 1, shrink);
    snprintf(p->name, sizeof(p->name), "model.norm.weight");
    p = add(m, &embedding, layers - 1, shrink);
    snprintf(p->name, sizeof(p->name), "lm_head.weight");
    return CKPT_OK;
}

void scale_model_fini(struct scale_model *m)
{
    free(m->params);
    *m = (struct scale_model){ 0 };
}

/* --- layouts -------------------------------------------------------------------- */

bool scale_layout_parse(const char *text, struct scale_layout *ret)
{
    struct scale_layout l = { .kind = SCALE_FSDP };
    int end = 0;
    if (sscanf(text, "fsdp:%" SCNu32 "%n", &l.world, &end) != 1) {
        l.kind = SCALE_MESH;
        if (sscanf(text, "tp=%" SCNu32 ",pp=%" SCNu32 ",dp=%" SCNu32 "%n", &l.tp, &l.pp, &l.dp,
                   &end) != 3)
            return false;
        uint64_t world = (uint64_t)l.tp * l.pp * l.dp;
        l.world = world <= CKPT_RANKS_MAX ? (uint32_t)world : 0;
    }
    if (text[end] || !l.world || l.world > CKPT_RANKS_MAX)
        return false;
    *ret = l;
    return true;
}

struct maker {
    const struct scale_model *m;
    const struct scale_layout *l;
    struct decl *d;
    uint32_t tp, dp, stage; /* of the rank */
    uint32_t replica, replica_count;
    struct ckpt_err *err;
};

static enum ckpt_status add_tensor(struct maker *k, const char *prefix, const struct scale_param *p,
                                   unsigned dtype)
{
    char name[128];
    snprintf(name, sizeof(name), "%s%s", prefix, p->name);
    struct decl_tensor t = { .name = name, .dtype = (uint8_t)dtype, .ndim = p->ndim };
    memcpy(t.shape, p->shape, p->ndim * sizeof(uint64_t));
    return decl_add_tensor(k->d, &t, k->err);
}

static enum ckpt_status add_box(struct maker *k, const struct box *box)
{
    struct decl_piece p = {
        .box = *box, .stride = { 1 }, .replica = k->replica, .replica_count = k->replica_count
    };
    if (box->ndim == 2) {
        p.stride[0] = (int64_t)box->len[1];
        p.stride[1] = 1;
    }
    return box_volume(box) ? decl_add_piece(k->d, &p, k->err) : CKPT_OK;
}

static void cut(struct box *box, uint32_t dim, uint32_t i, uint32_t parts_count)
{
    uint64_t n = box->len[dim], step = div_up(n, parts_count);
    box->off[dim] = min_u64(i * step, n);
    box->len[dim] = min_u64(step, n - box->off[dim]);
}

static enum ckpt_status fsdp_param(struct maker *k, const struct scale_param *p, uint32_t rank)
{
    struct box box = box_whole(p->ndim, p->shape);
    cut(&box, 0, rank, k->l->world);
    enum ckpt_status st = add_tensor(k, "", p, CKPT_DTYPE_BF16);
    if (st == CKPT_OK)
        st = add_box(k, &box);
    for (size_t i = 0; st == CKPT_OK && i < STATES; i++) {
        st = add_tensor(k, state_prefix[i], p, CKPT_DTYPE_F32);
        if (st == CKPT_OK)
            st = add_box(k, &box);
    }
    return st;
}

static struct box mesh_box(const struct maker *k, const struct scale_param *p)
{
    struct box box = box_whole(p->ndim, p->shape);
    if (p->cut != SCALE_WHOLE)
        cut(&box, p->cut == SCALE_COLUMNS, k->tp, k->l->tp);
    return box;
}

static bool on_stage(const struct maker *k, const struct scale_param *p)
{
    return (uint64_t)p->layer * k->l->pp / k->m->layers == k->stage;
}

static enum ckpt_status mesh_param(struct maker *k, const struct scale_param *p)
{
    struct box box = mesh_box(k, p);
    k->replica = k->dp;
    k->replica_count = k->l->dp;
    if (p->cut == SCALE_WHOLE) {
        k->replica = k->dp * k->l->tp + k->tp;
        k->replica_count *= k->l->tp;
    }
    enum ckpt_status st = add_tensor(k, "", p, CKPT_DTYPE_BF16);
    return st == CKPT_OK ? add_box(k, &box) : st;
}

/* The part of this rank's flat buffer, [from, to) of its stage, that lies in `p`, which
 * begins at `start`. */
static enum ckpt_status flat_param(struct maker *k, const struct scale_param *p, uint64_t start,
                                   uint64_t from, uint64_t to, const char *prefix)
{
    struct box box = mesh_box(k, p);
    uint64_t end = start + box_volume(&box), low = max_u64(from, start), high = min_u64(to, end);
    struct layout_piece pieces[3];
    struct layout_out out = { .piece = pieces, .cap = ARRAY_COUNT(pieces) };
    if (low >= high)
        return CKPT_OK;
    k->replica = p->cut == SCALE_WHOLE ? k->tp : 0;
    k->replica_count = p->cut == SCALE_WHOLE ? k->l->tp : 1;
    enum ckpt_status st = layout_flat(&box, 1, 32, low - start, high - low, &out, k->err);
    if (st == CKPT_OK)
        st = add_tensor(k, prefix, p, CKPT_DTYPE_F32);
    for (size_t i = 0; st == CKPT_OK && i < out.count; i++)
        st = add_box(k, &pieces[i].box);
    return st;
}

static enum ckpt_status mesh_flat(struct maker *k, const char *prefix)
{
    const struct scale_model *m = k->m;
    uint64_t total = 0, start = 0;
    for (size_t i = 0; i < m->count; i++) {
        struct box box = mesh_box(k, &m->params[i]);
        total += on_stage(k, &m->params[i]) ? box_volume(&box) : 0;
    }
    uint64_t step = div_up(total, k->l->dp), from = min_u64(k->dp * step, total);
    uint64_t to = min_u64(from + step, total);
    enum ckpt_status st = CKPT_OK;
    for (size_t i = 0; st == CKPT_OK && i < m->count; i++) {
        struct box box = mesh_box(k, &m->params[i]);
        if (!on_stage(k, &m->params[i]))
            continue;
        st = flat_param(k, &m->params[i], start, from, to, prefix);
        start += box_volume(&box);
    }
    return st;
}

static enum ckpt_status make(struct maker *k, uint32_t rank)
{
    const struct scale_model *m = k->m;
    enum ckpt_status st = CKPT_OK;
    if (k->l->kind == SCALE_FSDP) {
        k->replica_count = 1;
        for (size_t i = 0; st == CKPT_OK && i < m->count; i++)
            st = fsdp_param(k, &m->params[i], rank);
        return st;
    }
    k->tp = rank % k->l->tp;
    k->dp = rank / k->l->tp % k->l->dp;
    k->stage = rank / k->l->tp / k->l->dp;
    for (size_t i = 0; st == CKPT_OK && i < m->count; i++) {
        if (on_stage(k, &m->params[i]))
            st = mesh_param(k, &m->params[i]);
    }
    for (size_t i = 0; st == CKPT_OK && i < STATES; i++)
        st = mesh_flat(k, state_prefix[i]);
    return st;
}

enum ckpt_status scale_decl(const struct scale_model *m, const struct scale_layout *l,
                            uint32_t rank, uint64_t slot_bytes, struct decl *ret,
                            struct ckpt_err *err)
{
    struct decl d = { 0 };
    struct maker k = { .m = m, .l = l, .d = &d, .err = err };
    enum ckpt_status st = make(&k, rank);
    if (st == CKPT_OK)
        st = decl_finish(&d, slot_bytes, err);
    if (st == CKPT_OK)
        *ret = d;
    else
        decl_fini(&d);
    return st;
}
