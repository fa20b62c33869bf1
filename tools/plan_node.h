/* What a restore onto another topology would cost one node, before it is done: the plan
 * that ckptd would make for the node's ranks, without reading more than heads of packs. */
#pragma once

#include "storage/repo/load.h"
#include "tools/layout_use.h"

#define PLAN_MEASURED_MAX 1024 /* packs whose heads are read, a node: enough for 2 % */
#define PLAN_DAEMON_BYTES (UINT64_C(256) << 20) /* ckptd beside its arenas */

struct plan_spec {
    struct reader *reader;
    const struct layout_list *list;
    const bool *wanted; /* of each tensor of the list; NULL = all */
    uint32_t node_ranks;
    uint64_t arena_bytes; /* a rank's; 0 = as much as its state */
    size_t measured_max;  /* 0 = PLAN_MEASURED_MAX */
};
struct plan_node {
    uint32_t node, first_rank, ranks;
    uint64_t state_bytes;      /* buffers of all its ranks, padding included */
    uint64_t state_bytes_most; /* of one rank ... */
    uint32_t state_rank_most;  /* ... which */
    uint64_t need_bytes;       /* what its ranks hold, each box once */
    uint64_t raw_bytes;        /* of the chunks that have a part of that */
    uint64_t read_bytes;       /* predicted: asked of the store, heads of packs included */
    uint64_t arena_bytes;      /* staging memory of its ranks */
    uint32_t manifests;        /* of saved ranks that were looked at */
    size_t gets, measured;     /* reads of packs; how many of them were measured */
};
/* Plans node number ret->node.  Errors of plan_new: CKPT_REFUSED for a locked tensor that
 * the layout cuts, and so on. */
enum ckpt_status plan_node(const struct plan_spec *spec, uint32_t node, struct plan_node *ret,
                           struct ckpt_err *err) CKPT_MUST_CHECK;
/* Memory of the host while the node restores: arenas and ckptd.  The state itself is on
 * the devices, or comes on top. */
uint64_t plan_node_host_bytes(const struct plan_node *n);
