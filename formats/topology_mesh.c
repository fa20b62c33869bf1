/* Meshes as people write them: 'tp=4,pp=2,dp=8', and a rank's place in one. */
#include <inttypes.h>
#include <stdio.h>

#include "formats/topology.h"

#define ETP TOPOLOGY_AXES /* a word of meshes; behind them it is TP of the experts' grid */

static const char *const axis_names[TOPOLOGY_AXES + 1] = {
    [TOPOLOGY_PP] = "pp",   [TOPOLOGY_EP] = "ep", [TOPOLOGY_TP] = "tp", [TOPOLOGY_CP] = "cp",
    [TOPOLOGY_REP] = "rep", [TOPOLOGY_DP] = "dp", [ETP] = "etp",
};

/* Axes as they are written. */
struct mesh_words {
    int axis[TOPOLOGY_AXES + 1];
    uint32_t size[TOPOLOGY_AXES + 1];
    uint32_t count;
};

const char *topology_axis_name(enum topology_axis axis)
{
    return axis_names[axis];
}

static enum ckpt_status set_property(struct topology_mesh *m, const char *key, uint64_t value,
                                     bool *ret_known, struct ckpt_err *err)
{
    *ret_known = true;
    if (strcmp(key, "vpp") == 0) {
        m->vpp = (uint32_t)value;
        return value >= 1 && value <= CKPT_RANKS_MAX
                   ? CKPT_OK
                   : err_set(err, CKPT_INVALID, "mesh: vpp=%" PRIu64 ": 1 or more", value);
    }
    if (strcmp(key, "zero") == 0) {
        m->zero = (uint32_t)value;
        return value <= 3
                   ? CKPT_OK
                   : err_set(err, CKPT_INVALID, "mesh: zero=%" PRIu64 ": 0, 1, 2 or 3", value);
    }
    if (strcmp(key, "fsdp") == 0) {
        m->fsdp = value == 1;
        return value <= 1 ? CKPT_OK
                          : err_set(err, CKPT_INVALID, "mesh: fsdp=%" PRIu64 ": 0 or 1", value);
    }
    *ret_known = false;
    return CKPT_OK;
}

static enum ckpt_status add_word(struct mesh_words *w, const char *key, uint64_t value,
                                 struct ckpt_err *err)
{
    int axis = 0;
    while (axis <= ETP && strcmp(axis_names[axis], key) != 0)
        axis++;
    if (axis > ETP)
        return err_set(err, CKPT_INVALID,
                       "mesh: unknown axis \"%.40s\"; known are tp, pp, dp, ep, etp, cp, rep, and "
                       "the settings vpp, zero, fsdp",
                       key);
    for (uint32_t i = 0; i < w->count; i++) {
        if (w->axis[i] == axis)
            return err_set(err, CKPT_INVALID, "mesh: %s is there twice", key);
    }
    if (value == 0)
        return err_set(err, CKPT_INVALID, "mesh: %s=0: an axis has one rank or more", key);
    if (value > CKPT_RANKS_MAX)
        return err_set(err, CKPT_LIMIT, "mesh: more than %u ranks", CKPT_RANKS_MAX);
    w->axis[w->count] = axis;
    w->size[w->count++] = (uint32_t)value;
    return CKPT_OK;
}

/* One "key=value" of `len` bytes. */
static enum ckpt_status parse_entry(const char *at, size_t len, struct topology_mesh *m,
                                    struct mesh_words *w, struct ckpt_err *err)
{
    char text[64];
    while (len > 0 && *at == ' ')
        at++, len--;
    while (len > 0 && at[len - 1] == ' ')
        len--;
    int n = snprintf(text, sizeof(text), "%.*s", (int)min_u64(len, sizeof(text)), at);
    char *equals = strchr(text, '=');
    if (n <= 0 || (size_t)n >= sizeof(text) || !equals || equals[1] < '0' || equals[1] > '9')
        return err_set(err, CKPT_INVALID,
                       "mesh: \"%.60s\" is not AXIS=SIZE; a mesh looks like tp=4,pp=2,dp=8", text);
    char *end;
    errno = 0;
    unsigned long long value = strtoull(equals + 1, &end, 10);
    if (errno || *end)
        return err_set(err, CKPT_INVALID, "mesh: \"%.60s\" is not AXIS=SIZE", text);
    *equals = 0;
    bool known;
    enum ckpt_status st = set_property(m, text, value, &known, err);
    return known ? st : add_word(w, text, value, err);
}

static void grid_init(struct topology_grid *g)
{
    *g = (struct topology_grid){ 0 };
    for (int axis = 0; axis < TOPOLOGY_AXES; axis++)
        g->size[axis] = 1;
}

static void grid_add(struct topology_grid *g, enum topology_axis axis, uint32_t size)
{
    g->size[axis] = size;
    g->order[g->order_count++] = axis;
}

/* What etp and ep leave of a stage is data parallelism of experts. */
static enum ckpt_status fold(struct topology_mesh *m, struct ckpt_err *err)
{
    struct topology_grid *e = &m->experts;
    uint32_t stage = m->world / m->ranks.size[TOPOLOGY_PP];
    uint64_t experts = (uint64_t)e->size[TOPOLOGY_TP] * e->size[TOPOLOGY_EP];
    if (stage % experts != 0)
        return err_set(err, CKPT_INVALID,
                       "mesh: etp=%u times ep=%u does not divide the %u ranks of a stage",
                       e->size[TOPOLOGY_TP], e->size[TOPOLOGY_EP], stage);
    grid_add(e, TOPOLOGY_DP, (uint32_t)(stage / experts));
    e->size[TOPOLOGY_PP] = m->ranks.size[TOPOLOGY_PP];
    return CKPT_OK;
}

static enum ckpt_status lay_grids(const struct mesh_words *w, struct topology_mesh *m,
                                  struct ckpt_err *err)
{
    uint64_t world = 1;
    for (uint32_t i = 0; i < w->count; i++)
        m->folded |= w->axis[i] == ETP;
    for (uint32_t i = 0; i < w->count; i++) {
        if (w->axis[i] == ETP)
            grid_add(&m->experts, TOPOLOGY_TP, w->size[i]);
        else if (m->folded && w->axis[i] == TOPOLOGY_EP)
            grid_add(&m->experts, TOPOLOGY_EP, w->size[i]);
        else if ((world *= w->size[i]) <= CKPT_RANKS_MAX)
            grid_add(&m->ranks, (enum topology_axis)w->axis[i], w->size[i]);
        else
            return err_set(err, CKPT_LIMIT, "mesh: more than %u ranks", CKPT_RANKS_MAX);
    }
    m->world = (uint32_t)world;
    if (m->folded)
        return fold(m, err);
    m->experts = m->ranks;
    return CKPT_OK;
}

enum ckpt_status topology_mesh_parse(const char *text, struct topology_mesh *ret,
                                     struct ckpt_err *err)
{
    struct topology_mesh m = { .vpp = 1 };
    struct mesh_words words = { 0 };
    grid_init(&m.ranks);
    grid_init(&m.experts);
    for (const char *at = text;; at++) {
        size_t len = strcspn(at, ",");
        enum ckpt_status st = parse_entry(at, len, &m, &words, err);
        if (st != CKPT_OK)
            return st;
        at += len;
        if (!*at)
            break;
    }
    if (m.fsdp && m.zero > 0)
        return err_set(err, CKPT_INVALID, "mesh: fsdp=1 and zero=%u exclude each other", m.zero);
    enum ckpt_status st = lay_grids(&words, &m, err);
    if (st == CKPT_OK)
        *ret = m;
    return st;
}

/* How many ranks lie between neighbours of a pipeline. */
static uint32_t stage_stride(const struct topology_mesh *m)
{
    uint32_t stride = 1;
    for (uint32_t i = 0; i < m->ranks.order_count && m->ranks.order[i] != TOPOLOGY_PP; i++)
        stride *= m->ranks.size[m->ranks.order[i]];
    return stride;
}

void topology_coords(const struct topology_mesh *m, bool expert, uint32_t rank,
                     uint32_t ret[TOPOLOGY_AXES])
{
    const struct topology_grid *g = expert ? &m->experts : &m->ranks;
    memset(ret, 0, TOPOLOGY_AXES * sizeof(ret[0]));
    if (expert && m->folded) { /* the rank's number in its stage goes on */
        uint32_t stride = stage_stride(m), stages = m->ranks.size[TOPOLOGY_PP];
        ret[TOPOLOGY_PP] = rank / stride % stages;
        rank = rank / stride / stages * stride + rank % stride;
    }
    for (uint32_t i = 0; i < g->order_count; i++) {
        ret[g->order[i]] = rank % g->size[g->order[i]];
        rank /= g->size[g->order[i]];
    }
}

uint32_t topology_rank(const struct topology_mesh *m, bool expert,
                       const uint32_t coord[TOPOLOGY_AXES])
{
    const struct topology_grid *g = expert ? &m->experts : &m->ranks;
    uint32_t rank = 0;
    for (uint32_t i = g->order_count; i-- > 0;)
        rank = rank * g->size[g->order[i]] + coord[g->order[i]];
    if (expert && m->folded) {
        uint32_t stride = stage_stride(m), stages = m->ranks.size[TOPOLOGY_PP];
        rank = (rank / stride * stages + coord[TOPOLOGY_PP]) * stride + rank % stride;
    }
    return rank;
}
