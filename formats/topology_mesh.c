/* Meshes as people write them: 'tp=4,pp=2,dp=8', and a rank's place in one. */
#include <inttypes.h>
#include <stdio.h>

#include "formats/topology.h"

static const char *const axis_names[TOPOLOGY_AXES] = {
    [TOPOLOGY_PP] = "pp", [TOPOLOGY_EP] = "ep",   [TOPOLOGY_TP] = "tp",
    [TOPOLOGY_CP] = "cp", [TOPOLOGY_REP] = "rep", [TOPOLOGY_DP] = "dp",
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

static enum ckpt_status set_axis(struct topology_mesh *m, const char *key, uint64_t value,
                                 struct ckpt_err *err)
{
    int axis = 0;
    while (axis < TOPOLOGY_AXES && strcmp(axis_names[axis], key) != 0)
        axis++;
    if (axis == TOPOLOGY_AXES)
        return err_set(err, CKPT_INVALID,
                       "mesh: unknown axis \"%.40s\"; known are tp, pp, dp, ep, cp, rep, and the "
                       "settings vpp, zero, fsdp",
                       key);
    for (uint32_t i = 0; i < m->order_count; i++) {
        if (m->order[i] == (enum topology_axis)axis)
            return err_set(err, CKPT_INVALID, "mesh: %s is there twice", key);
    }
    if (value == 0)
        return err_set(err, CKPT_INVALID, "mesh: %s=0: an axis has one rank or more", key);
    if (value > CKPT_RANKS_MAX || value * m->world > CKPT_RANKS_MAX)
        return err_set(err, CKPT_LIMIT, "mesh: more than %u ranks", CKPT_RANKS_MAX);
    m->size[axis] = (uint32_t)value;
    m->order[m->order_count++] = (enum topology_axis)axis;
    m->world *= (uint32_t)value;
    return CKPT_OK;
}

/* One "key=value" of `len` bytes. */
static enum ckpt_status parse_entry(const char *at, size_t len, struct topology_mesh *m,
                                    struct ckpt_err *err)
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
    return known ? st : set_axis(m, text, value, err);
}

enum ckpt_status topology_mesh_parse(const char *text, struct topology_mesh *ret,
                                     struct ckpt_err *err)
{
    struct topology_mesh m = { .world = 1, .vpp = 1 };
    for (int axis = 0; axis < TOPOLOGY_AXES; axis++)
        m.size[axis] = 1;
    for (const char *at = text;; at++) {
        size_t len = strcspn(at, ",");
        enum ckpt_status st = parse_entry(at, len, &m, err);
        if (st != CKPT_OK)
            return st;
        at += len;
        if (!*at)
            break;
    }
    if (m.fsdp && m.zero > 0)
        return err_set(err, CKPT_INVALID, "mesh: fsdp=1 and zero=%u exclude each other", m.zero);
    *ret = m;
    return CKPT_OK;
}

void topology_coords(const struct topology_mesh *m, uint32_t rank, uint32_t ret[TOPOLOGY_AXES])
{
    memset(ret, 0, TOPOLOGY_AXES * sizeof(ret[0]));
    for (uint32_t i = 0; i < m->order_count; i++) {
        ret[m->order[i]] = rank % m->size[m->order[i]];
        rank /= m->size[m->order[i]];
    }
}
