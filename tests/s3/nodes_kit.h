/* Nodes of a cluster in one process and one thread: each runs the daemon's own jobs and machines
 * (committer, drainer) for one rank, over a private tier in memory and a home that all share.
 * Time is simulated, so who comes when is the test's choice, and every run asks the same.
 *
 *   nodes_open ─► nodes_launch ─► nodes_save, nodes_drain (again and again) ─► nodes_close
 *
 * What is counted is what the home is asked: calls of its handles, and, when it is an object
 * store, what its client sent for them (once each: what was sent again is not counted). */
#pragma once

#include "ckptd/jobs.h"
#include "props/engine_kit.h"
#include "storage/store/wrap.h"

#define NODES_TICK_NS   INT64_C(125000000)
#define NODES_SECOND_NS INT64_C(1000000000)

enum nodes_phase {
    NODES_LAUNCH,   /* claim or find, tell, gather, resolve or look */
    NODES_BEGIN,    /* may this save begin? */
    NODES_MANIFEST, /* the part is told of */
    NODES_POLL,     /* are all parts there?  what was decided? */
    NODES_PUBLISH,
    NODES_DRAIN,  /* packs and `.h` go to the home */
    NODES_FINISH, /* are all packs there?  h/ */
    NODES_PHASES
};
struct nodes_cost {
    uint64_t requests, sent, put_bytes, get_bytes;
    uint64_t jobs; /* of the phase: polls, for those that poll */
};

/* A node and its rank, which has the same number. */
struct node {
    uint32_t number;
    struct jobs_work w, drains; /* the second is held back by the tier's rate, as drains are */
    struct tiers_setup setup;
    struct committer *committer;
    struct drainer *drainer;
    struct drainer_action todo; /* of the drainer; what = IDLE: none */
    struct drain_part part;     /* that is being put */
    bool put, decided, held;    /* of the save under way */
    struct nodes_cost cost[NODES_PHASES];
};
struct nodes {
    struct node *list;
    uint32_t count;
    struct store *home;         /* bare: what a test asks itself is counted for nobody */
    struct store_counts counts; /* of all the nodes' handles */
    struct kit_layout layout;
    struct config config;
    struct save_work *save;
    struct drain_work *drain;
    uint8_t *slot;
    uint64_t epoch;
    int64_t now;
};
/* The home is an empty prefix of an S3 store, or a place in memory. */
void nodes_open(struct nodes *n, const char *home_url, const struct kit_model *m, uint32_t count);
void nodes_close(struct nodes *n);
void nodes_forget_cost(struct nodes *n);
struct nodes_cost nodes_total(const struct nodes *n, enum nodes_phase phase);

/* A start of the job: every node tells, rank 0's resolves, the others read that.  It must go on
 * from `from` (NULL: from nothing). */
void nodes_launch(struct nodes *n, const char *token, const struct ckpt_name *from);
/* One checkpoint up to its commit.  The parts come by quarters of the nodes, one behind the other
 * by `apart_ns`; rank 0's is among the first. */
void nodes_save(struct nodes *n, const struct kit_save *how, int64_t apart_ns);
/* Up to its h/; the node `late` (UINT32_MAX = none) begins so much later. */
void nodes_drain(struct nodes *n, const struct ckpt_name *name, uint32_t late, int64_t late_ns);
/* One node alone that has all ranks saves the same into its only store, which is returned. */
struct store *nodes_alone(struct nodes *n, const char *url, const struct kit_save *how);
