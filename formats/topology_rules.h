/* The rules of a layout file, and what is known without one.  For topology.c alone. */
#pragma once

#include "formats/topology.h"

/* What one axis does to a tensor. */
enum topology_how {
    HOW_DEFAULT, /* nothing said */
    HOW_REPLICATE,
    HOW_SHARD,  /* dimension `dim`, in sections if there are any */
    HOW_STRIDE, /* dimension `dim`, in `number` chunks first */
    HOW_FLAT,   /* a flat range of what the other axes leave */
    HOW_LAYER,  /* held by the stage of the layer that the name says */
    HOW_EXPERT, /* held by the part of the expert that the name says */
    HOW_ONLY,   /* held by coordinate `number` alone (negative: from the end) */
};
struct topology_place {
    enum topology_how how;
    int32_t dim; /* negative: from the last */
    int32_t number;
    uint32_t section_count;
    uint64_t *section; /* owned by the rule */
};
struct topology_rule {
    char *pattern; /* owned; shell pattern for the tensor's name */
    unsigned line;
    bool skip;    /* no rank holds such tensors */
    bool matched; /* some tensor */
    int32_t pad_dim;
    uint64_t pad_to; /* 0 = no padding */
    struct topology_place place[TOPOLOGY_AXES];
};
struct topology_rules {
    const char *file; /* borrowed */
    char *mesh;       /* of the `mesh` line; NULL = none; owned */
    unsigned mesh_line;
    struct topology_rule *rules;
    size_t count;
};
enum ckpt_status topology_rules_parse(const char *file, const char *text, size_t len,
                                      struct topology_rules *ret, struct ckpt_err *err)
    CKPT_MUST_CHECK;
void topology_rules_fini(struct topology_rules *r);

/* A number in a name: that of a layer, or of an expert. */
struct topology_number {
    const char *stem; /* what stands in front, in the name */
    size_t stem_len;  /* 0 = there is no such number */
    uint32_t number;
};
struct topology_number topology_layer_of(const char *name);
struct topology_number topology_expert_of(const char *name);
/* True if the name is that of an optimizer's state. */
bool topology_is_optimizer(const char *name);
/* What axis `axis` does to a tensor of which no rule speaks. */
struct topology_place topology_guess(const struct topology_tensor *t, const struct topology_mesh *m,
                                     enum topology_axis axis);
