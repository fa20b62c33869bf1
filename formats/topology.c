/* From a mesh, rules and a list of tensors to the pieces of a rank.
 *
 * topology_new decides for each tensor what each axis does to it (a choice), once; so the
 * pieces of a rank are arithmetic and need no pattern again. */
#include "formats/topology.h"

#include <assert.h>
#include <fnmatch.h>
#include <inttypes.h>
#include <stdio.h>

#include "formats/decl.h"
#include "formats/topology_rules.h"

#define PIECES_ON_STACK 16

/* A layer's or expert's number among how many. */
struct number {
    uint32_t number, count; /* count 0: the name has none */
};
struct choice {
    bool skip;
    bool expert; /* lies in the experts' grid */
    bool sole;   /* an object of one rank: `only` */
    uint32_t only;
    uint32_t pad_dim;
    uint64_t pad_to; /* 0 = no padding */
    struct number layer_number, expert_number;
    struct topology_place place[TOPOLOGY_AXES]; /* none is HOW_DEFAULT, no dim negative */
};
struct topology {
    struct topology_mesh mesh;
    struct topology_rules rules; /* owns the sections that the choices refer to */
    const struct topology_tensor *tensors;
    struct topology_tensor *owned; /* a copy of the list */
    struct choice *choices;
    size_t count;
};

/* -- numbers in names ---------------------------------------------------- */

struct numbered {
    struct topology_number n;
    size_t tensor;
};

static int by_stem(const void *a, const void *b)
{
    const struct numbered *x = a, *y = b;
    int order = memcmp(x->n.stem, y->n.stem, min_u64(x->n.stem_len, y->n.stem_len));
    if (order != 0)
        return order;
    return x->n.stem_len < y->n.stem_len ? -1 : x->n.stem_len > y->n.stem_len;
}

/* How many layers (or experts) there are: one more than the highest number behind the
 * same stem. */
static enum ckpt_status count_numbers(struct topology *t, bool experts, struct ckpt_err *err)
{
    CLEANUP_FREE struct numbered *list = calloc(t->count + 1, sizeof(*list));
    size_t n = 0, next;
    if (!list)
        return err_set(err, CKPT_NO_MEMORY, "no memory for %zu tensors", t->count);
    for (size_t i = 0; i < t->count; i++) {
        const char *name = t->tensors[i].name;
        list[n].n = experts ? topology_expert_of(name) : topology_layer_of(name);
        list[n].tensor = i;
        n += list[n].n.stem_len > 0;
    }
    qsort(list, n, sizeof(*list), by_stem);
    for (size_t i = 0; i < n; i = next) {
        uint32_t count = 0;
        for (next = i; next < n && by_stem(&list[i], &list[next]) == 0; next++)
            count = list[next].n.number >= count ? list[next].n.number + 1 : count;
        for (size_t k = i; k < next; k++) {
            struct choice *c = &t->choices[list[k].tensor];
            *(experts ? &c->expert_number : &c->layer_number) =
                (struct number){ list[k].n.number, count };
        }
    }
    return CKPT_OK;
}

/* -- choices ------------------------------------------------------------- */

static const struct topology_grid *grid_of(const struct topology *t, const struct choice *c)
{
    return c->expert ? &t->mesh.experts : &t->mesh.ranks;
}

static enum ckpt_status wrong(const struct topology *t, const struct topology_rule *r,
                              const struct topology_tensor *tensor, struct ckpt_err *err,
                              const char *what)
{
    if (r)
        return err_set(err, CKPT_INVALID, "%s line %u: tensor %.200s (%u dimensions): %s",
                       t->rules.file, r->line, tensor->name, tensor->ndim, what);
    return err_set(err, CKPT_INVALID, "tensor %.200s: %s", tensor->name, what);
}

static bool cuts(const struct topology_place *p)
{
    return p->how == HOW_SHARD || p->how == HOW_STRIDE || p->how == HOW_FLAT;
}

/* Normalizes and checks what one axis does. */
static enum ckpt_status settle(const struct topology *t, const struct topology_rule *r, size_t i,
                               enum topology_axis axis, struct ckpt_err *err)
{
    const struct topology_tensor *tensor = &t->tensors[i];
    struct choice *c = &t->choices[i];
    struct topology_place *p = &c->place[axis];
    if (cuts(p) && tensor->ndim == 0) { /* a scalar is never cut, whatever the pattern says */
        *p = (struct topology_place){ .how = HOW_REPLICATE };
        return CKPT_OK;
    }
    if (p->how == HOW_SHARD || p->how == HOW_STRIDE) {
        p->dim += p->dim < 0 ? (int32_t)tensor->ndim : 0;
        if (p->dim < 0 || p->dim >= (int32_t)tensor->ndim)
            return wrong(t, r, tensor, err, "it has no such dimension");
    }
    if (p->how == HOW_LAYER && c->layer_number.count == 0)
        return wrong(t, r, tensor, err, "its name has no layer's number");
    if (p->how == HOW_EXPERT && c->expert_number.count == 0)
        return wrong(t, r, tensor, err, "its name has no expert's number");
    if (p->how == HOW_ONLY) {
        int32_t size = (int32_t)grid_of(t, c)->size[axis];
        p->number += p->number < 0 ? size : 0;
        if (p->number < 0 || p->number >= size)
            return wrong(t, r, tensor, err, "the axis is not that long");
    }
    return CKPT_OK;
}

static enum ckpt_status settle_pad(const struct topology *t, const struct topology_rule *r,
                                   size_t i, struct ckpt_err *err)
{
    const struct topology_tensor *tensor = &t->tensors[i];
    int32_t dim = r->pad_dim + (r->pad_dim < 0 ? (int32_t)tensor->ndim : 0);
    if (dim < 0 || dim >= (int32_t)tensor->ndim)
        return wrong(t, r, tensor, err, "it has no such dimension to pad");
    if (r->pad_to < tensor->shape[dim])
        return wrong(t, r, tensor, err, "it is larger than the padded size");
    t->choices[i].pad_dim = (uint32_t)dim;
    t->choices[i].pad_to = r->pad_to;
    return CKPT_OK;
}

/* Rules in order: each axis takes the first that speaks of it. */
static enum ckpt_status apply_rules(struct topology *t, size_t i, struct ckpt_err *err)
{
    struct choice *c = &t->choices[i];
    enum ckpt_status st = CKPT_OK;
    for (size_t k = 0; st == CKPT_OK && k < t->rules.count; k++) {
        struct topology_rule *r = &t->rules.rules[k];
        if (fnmatch(r->pattern, t->tensors[i].name, 0) != 0)
            continue;
        r->matched = true;
        c->skip |= r->skip;
        if (t->tensors[i].object)
            continue;
        if (r->pad_to && !c->pad_to)
            st = settle_pad(t, r, i, err);
        for (int axis = 0; st == CKPT_OK && axis < TOPOLOGY_AXES; axis++) {
            if (r->place[axis].how == HOW_DEFAULT || c->place[axis].how != HOW_DEFAULT)
                continue;
            c->place[axis] = r->place[axis];
            st = settle(t, r, i, (enum topology_axis)axis, err);
        }
    }
    return st;
}

/* An expert's tensor is one to which ep does something. */
static bool is_expert(const struct topology *t, const struct topology_tensor *tensor)
{
    struct topology_place p = { .how = HOW_DEFAULT };
    for (size_t k = 0; p.how == HOW_DEFAULT && k < t->rules.count; k++) {
        if (fnmatch(t->rules.rules[k].pattern, tensor->name, 0) == 0)
            p = t->rules.rules[k].place[TOPOLOGY_EP];
    }
    if (p.how == HOW_DEFAULT)
        p = topology_guess(tensor, &t->mesh, TOPOLOGY_EP);
    if (tensor->object || (cuts(&p) && tensor->ndim == 0))
        return false;
    return p.how != HOW_REPLICATE;
}

/* The rank that an object "NAME@RANK" belongs to. */
static bool sole_rank(const char *name, uint32_t *ret)
{
    const char *at = strrchr(name, '@');
    if (!at || at[1] < '0' || at[1] > '9')
        return false;
    char *end;
    unsigned long rank = strtoul(at + 1, &end, 10);
    if (*end || rank >= CKPT_RANKS_MAX)
        return false;
    *ret = (uint32_t)rank;
    return true;
}

static enum ckpt_status choose(struct topology *t, size_t i, struct ckpt_err *err)
{
    const struct topology_tensor *tensor = &t->tensors[i];
    struct choice *c = &t->choices[i];
    int flats = 0;
    c->expert = t->mesh.folded && is_expert(t, tensor);
    enum ckpt_status st = apply_rules(t, i, err);
    for (int axis = 0; st == CKPT_OK && axis < TOPOLOGY_AXES; axis++) {
        if (c->place[axis].how == HOW_DEFAULT) {
            c->place[axis] = topology_guess(tensor, &t->mesh, (enum topology_axis)axis);
            st = settle(t, NULL, i, (enum topology_axis)axis, err);
        }
        flats += c->place[axis].how == HOW_FLAT;
    }
    if (st == CKPT_OK && flats > 1)
        return wrong(t, NULL, tensor, err, "two axes cut it flat; one can");
    if (tensor->object)
        c->sole = sole_rank(tensor->name, &c->only);
    return st;
}

/* What only the arithmetic finds (sections that do not add up) is found at once. */
static enum ckpt_status try_rank_0(const struct topology *t, size_t i, struct ckpt_err *err)
{
    struct layout_piece piece[PIECES_ON_STACK];
    struct layout_out out = { .piece = piece, .cap = ARRAY_COUNT(piece) };
    struct topology_shard shard;
    struct ckpt_err why = { 0 };
    enum ckpt_status st = topology_pieces(t, i, 0, &out, &shard, &why);
    if (st == CKPT_OK || (st == CKPT_LIMIT && out.count > out.cap))
        return CKPT_OK;
    return err_set(err, st, "%s%s%s", t->rules.count ? t->rules.file : "",
                   t->rules.count ? ": " : "", err_text(&why));
}

static enum ckpt_status choose_all(struct topology *t, struct ckpt_err *err)
{
    enum ckpt_status st = count_numbers(t, false, err);
    if (st == CKPT_OK)
        st = count_numbers(t, true, err);
    for (size_t i = 0; st == CKPT_OK && i < t->count; i++)
        st = choose(t, i, err);
    for (size_t k = 0; st == CKPT_OK && k < t->rules.count; k++) {
        const struct topology_rule *r = &t->rules.rules[k];
        if (!r->matched)
            return err_set(err, CKPT_INVALID, "%s line %u: \"%.200s\" matches no tensor",
                           t->rules.file, r->line, r->pattern);
    }
    for (size_t i = 0; st == CKPT_OK && i < t->count; i++)
        st = try_rank_0(t, i, err);
    return st;
}

static enum ckpt_status take_mesh(struct topology *t, const struct topology_source *from,
                                  struct ckpt_err *err)
{
    if (from->mesh)
        return topology_mesh_parse(from->mesh, &t->mesh, err);
    if (!t->rules.mesh)
        return err_set(err, CKPT_INVALID,
                       "no mesh: neither one like tp=4,dp=2 was given nor has %s a `mesh` line",
                       t->rules.file);
    enum ckpt_status st = topology_mesh_parse(t->rules.mesh, &t->mesh, err);
    if (st != CKPT_OK)
        err_prefix(err, "%s line %u", t->rules.file, t->rules.mesh_line);
    return st;
}

enum ckpt_status topology_new(const struct topology_source *from,
                              const struct topology_tensor *tensors, size_t count,
                              struct topology **ret, struct ckpt_err *err)
{
    struct topology *t = calloc(1, sizeof(*t));
    if (!t)
        return err_set(err, CKPT_NO_MEMORY, "no memory for a topology");
    enum ckpt_status st =
        topology_rules_parse(from->file, from->rules, from->rules_len, &t->rules, err);
    if (st == CKPT_OK)
        st = take_mesh(t, from, err);
    if (st == CKPT_OK) {
        t->owned = calloc(count + 1, sizeof(*t->owned));
        t->choices = calloc(count + 1, sizeof(*t->choices));
        if (!t->owned || !t->choices)
            st = err_set(err, CKPT_NO_MEMORY, "no memory for %zu tensors", count);
    }
    if (st == CKPT_OK) {
        memcpy(t->owned, tensors, count * sizeof(*tensors));
        t->tensors = t->owned;
        t->count = count;
        st = choose_all(t, err);
    }
    if (st == CKPT_OK)
        *ret = t;
    else
        topology_free(t);
    return st;
}

void topology_free(struct topology *t)
{
    if (!t)
        return;
    topology_rules_fini(&t->rules);
    free(t->owned);
    free(t->choices);
    free(t);
}

const struct topology_mesh *topology_mesh(const struct topology *t)
{
    return &t->mesh;
}

/* -- pieces -------------------------------------------------------------- */

/* Which of `parts` has number n.number of n.count: dealt in `rounds` rounds (virtual
 * stages), in each of which every part gets one chunk. */
static uint32_t part_of(struct number n, uint32_t rounds, uint32_t parts)
{
    uint32_t round = (uint32_t)div_up(n.count, rounds);
    uint32_t start = n.number / round * round;
    uint32_t len = (uint32_t)min_u64(round, n.count - start);
    return (n.number - start) / (uint32_t)div_up(len, parts);
}

/* The axes that cut or copy, as a mesh; the others say whether the rank has any part. */
struct rank_cut {
    uint32_t size[TOPOLOGY_AXES], coord[TOPOLOGY_AXES];
    struct layout_placement placement[TOPOLOGY_AXES];
    uint32_t axes;
    uint32_t flat_parts, flat_coord; /* 0 parts: not flat */
    bool held;
};

static void add_axis(struct rank_cut *c, const struct topology_place *p, uint32_t size,
                     uint32_t coord)
{
    c->size[c->axes] = size;
    c->coord[c->axes] = coord;
    c->placement[c->axes++] = (struct layout_placement){
        .kind = p->how == HOW_REPLICATE ? LAYOUT_REPLICATE
                : p->how == HOW_STRIDE  ? LAYOUT_SHARD_STRIDED
                                        : LAYOUT_SHARD,
        .dim = (uint32_t)p->dim,
        .split_factor = p->how == HOW_STRIDE ? (uint32_t)p->number : 0,
        .section = p->section,
        .section_count = p->section_count,
    };
}

static void place_axis(const struct topology *t, const struct choice *choice,
                       enum topology_axis axis, uint32_t coord, struct rank_cut *c)
{
    const struct topology_place *p = &choice->place[axis];
    uint32_t size = grid_of(t, choice)->size[axis];
    switch (p->how) {
    case HOW_ONLY:
        c->held &= coord == (uint32_t)p->number;
        return;
    case HOW_LAYER:
        c->held &= coord == part_of(choice->layer_number, t->mesh.vpp, size);
        return;
    case HOW_EXPERT:
        c->held &= coord == part_of(choice->expert_number, 1, size);
        return;
    case HOW_FLAT:
        c->flat_parts = size > 1 ? size : 0;
        c->flat_coord = coord;
        return;
    case HOW_DEFAULT:
    case HOW_REPLICATE:
    case HOW_SHARD:
    case HOW_STRIDE:
        add_axis(c, p, size, coord);
        return;
    }
}

static struct rank_cut rank_cut(const struct topology *t, const struct choice *choice,
                                uint32_t rank)
{
    struct rank_cut c = { .held = !choice->skip && (!choice->sole || choice->only == rank) };
    uint32_t coord[TOPOLOGY_AXES];
    topology_coords(&t->mesh, choice->expert, rank, coord);
    for (int axis = 0; c.held && !choice->sole && axis < TOPOLOGY_AXES; axis++)
        place_axis(t, choice, (enum topology_axis)axis, coord[axis], &c);
    return c;
}

/* The flat axis' part of the local array whose pieces are `local`. */
static enum ckpt_status cut_flat(const struct rank_cut *c, const struct layout_out *local,
                                 unsigned bits, struct layout_out *out, struct topology_shard *s,
                                 struct ckpt_err *err)
{
    uint64_t volume = 1;
    for (uint32_t d = 0; d < s->ndim; d++)
        volume *= s->shape[d];
    uint64_t each = div_up(volume, c->flat_parts);
    if (bits % 8 != 0)
        each = align_up(each, 8); /* whole bytes */
    uint64_t start = min_u64(each * c->flat_coord, volume);
    uint64_t count = min_u64(each, volume - start);
    s->flat = true;
    s->ndim = 1;
    s->shape[0] = count;
    return layout_cut(local->piece, local->count, bits, start, count, out, err);
}

static enum ckpt_status pieces_of(const struct topology *t, size_t i, const struct rank_cut *c,
                                  struct layout_out *out, struct topology_shard *s,
                                  struct ckpt_err *err)
{
    const struct topology_tensor *tensor = &t->tensors[i];
    const struct choice *choice = &t->choices[i];
    unsigned bits = dtype_bits(tensor->dtype);
    uint64_t padded[CKPT_DIMS_MAX];
    struct layout_mesh mesh = {
        .ndim = c->axes, .size = c->size, .coord = c->coord, .placement = c->placement
    };
    if (choice->pad_to) {
        memcpy(padded, tensor->shape, tensor->ndim * sizeof(padded[0]));
        padded[choice->pad_dim] = choice->pad_to;
        mesh.padded = padded;
    }
    s->ndim = tensor->ndim;
    if (!c->flat_parts)
        return layout_mesh(&mesh, tensor->ndim, tensor->shape, bits, out, s->shape, err);
    struct layout_piece few[PIECES_ON_STACK];
    CLEANUP_FREE struct layout_piece *many = NULL;
    struct layout_out local = { .piece = few, .cap = ARRAY_COUNT(few) };
    struct ckpt_err small = { 0 };
    enum ckpt_status st =
        layout_mesh(&mesh, tensor->ndim, tensor->shape, bits, &local, s->shape, &small);
    if (st == CKPT_LIMIT && local.count > local.cap && local.count < SIZE_MAX / sizeof(*many)) {
        many = malloc(local.count * sizeof(*many));
        if (!many)
            return err_set(err, CKPT_NO_MEMORY, "no memory for %zu pieces", local.count);
        local = (struct layout_out){ .piece = many, .cap = local.count };
        st = layout_mesh(&mesh, tensor->ndim, tensor->shape, bits, &local, s->shape, err);
    } else if (st != CKPT_OK) {
        return err_set(err, st, "%s", err_text(&small));
    }
    return st == CKPT_OK ? cut_flat(c, &local, bits, out, s, err) : st;
}

enum ckpt_status topology_pieces(const struct topology *t, size_t tensor, uint32_t rank,
                                 struct layout_out *out, struct topology_shard *ret,
                                 struct ckpt_err *err)
{
    assert(tensor < t->count && rank < t->mesh.world);
    struct rank_cut c = rank_cut(t, &t->choices[tensor], rank);
    struct topology_shard s = { .held = c.held };
    out->count = 0;
    if (!c.held) {
        *ret = s;
        return CKPT_OK;
    }
    enum ckpt_status st = pieces_of(t, tensor, &c, out, &s, err);
    if (st == CKPT_OK)
        *ret = s;
    else
        err_prefix(err, "tensor %.200s", t->tensors[tensor].name);
    return st;
}

bool topology_holder(const struct topology *t, size_t tensor, uint32_t *ret_rank)
{
    const struct choice *c = &t->choices[tensor];
    uint32_t coord[TOPOLOGY_AXES] = { 0 };
    for (int axis = 0; axis < TOPOLOGY_AXES; axis++) {
        const struct topology_place *p = &c->place[axis];
        uint32_t size = grid_of(t, c)->size[axis];
        if (p->how == HOW_ONLY)
            coord[axis] = (uint32_t)p->number;
        else if (p->how == HOW_LAYER)
            coord[axis] = part_of(c->layer_number, t->mesh.vpp, size);
        else if (p->how == HOW_EXPERT)
            coord[axis] = part_of(c->expert_number, 1, size);
    }
    *ret_rank = c->sole ? c->only : topology_rank(&t->mesh, c->expert, coord);
    return !c->skip && *ret_rank < t->mesh.world;
}

/* -- words --------------------------------------------------------------- */

static size_t place_text(const struct choice *c, const struct topology_place *p, char *ret,
                         size_t cap)
{
    switch (p->how) {
    case HOW_DEFAULT:
    case HOW_REPLICATE:
        return (size_t)snprintf(ret, cap, "copies");
    case HOW_SHARD:
        return (size_t)snprintf(ret, cap, p->section_count ? "dim %d in %u sections" : "dim %d",
                                p->dim, p->section_count);
    case HOW_STRIDE:
        return (size_t)snprintf(ret, cap, "dim %d in %d chunks", p->dim, p->number);
    case HOW_FLAT:
        return (size_t)snprintf(ret, cap, "flat");
    case HOW_LAYER:
        return (size_t)snprintf(ret, cap, "layer %u of %u", c->layer_number.number,
                                c->layer_number.count);
    case HOW_EXPERT:
        return (size_t)snprintf(ret, cap, "expert %u of %u", c->expert_number.number,
                                c->expert_number.count);
    case HOW_ONLY:
        return (size_t)snprintf(ret, cap, "only %d", p->number);
    }
    return 0;
}

char *topology_to_text(const struct topology *t, size_t tensor, char *ret, size_t cap)
{
    const struct choice *c = &t->choices[tensor];
    size_t len = 0;
    assert(cap > 0);
    ret[0] = 0;
    if (c->skip || c->sole) {
        snprintf(ret, cap, c->skip ? "left out" : "rank %u", c->only);
        return ret;
    }
    bool own = c->expert && t->mesh.folded; /* etp, edp; and pp stands beside the grid */
    if (own && t->mesh.ranks.size[TOPOLOGY_PP] > 1) {
        len = (size_t)snprintf(ret, cap, "pp ");
        len += place_text(c, &c->place[TOPOLOGY_PP], ret + len, cap - len);
    }
    for (uint32_t i = 0; i < grid_of(t, c)->order_count && len < cap; i++) {
        enum topology_axis axis = grid_of(t, c)->order[i];
        const char *e = own && axis != TOPOLOGY_EP ? "e" : "";
        len += (size_t)snprintf(ret + len, cap - len, "%s%s%s ", len ? ", " : "", e,
                                topology_axis_name(axis));
        if (len < cap)
            len += place_text(c, &c->place[axis], ret + len, cap - len);
    }
    return ret;
}
