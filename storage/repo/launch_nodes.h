/* The nodes of a launch (rules I2, H3): each says in the home which ranks run on it and what
 * lies in its own tier; from all of it follows what can be restored although no tier that
 * all can reach holds it.
 *
 *   each node        launch_inventory of its own tier ► launch_put_node
 *   rank 0's daemon  launch_nodes_read until launch_nodes_missing == world
 *                    ► launch_nodes_held: names for the resolver
 *
 * Ranks that come to a node later are told by another record of it.  Blocking calls. */
#pragma once

#include "storage/repo/launch.h"

/* Every (name, rank) of the job whose `.h` lies in this store; of a 16th of the ranks, the newest
 * 16,384.  Nothing of the node and its ranks is filled in. */
enum ckpt_status launch_inventory(struct store *local, const char *job, struct record_node *ret,
                                  struct ckpt_err *err) CKPT_MUST_CHECK;
/* The first record of a node with these ranks stands, putting another is CKPT_OK. */
enum ckpt_status launch_put_node(struct store *home, const char *job, uint64_t epoch,
                                 const struct record_node *n, struct ckpt_err *err) CKPT_MUST_CHECK;

struct launch_nodes {
    struct record_node *nodes;
    struct key *keys; /* of them: each is read once */
    size_t count, cap;
    bool resolved; /* somebody has: a newer launch, if not this one */
    /* All launches there are, as listed when all ranks had been told of; else empty. */
    struct launch_index launches;
};
void launch_nodes_fini(struct launch_nodes *n);
/* Adds what the nodes have put under the epoch since: one listing, and one get for each new
 * record.  A damaged one counts as not there.  Once all ranks are told of, the listing goes on
 * to older launches, for the resolver. */
enum ckpt_status launch_nodes_read(struct store *home, const char *job, uint64_t epoch,
                                   uint32_t world, struct launch_nodes *n, struct ckpt_err *err)
    CKPT_MUST_CHECK;
/* *ret: the first rank that no node names; `world`: all are named. */
enum ckpt_status launch_nodes_missing(const struct launch_nodes *n, uint32_t world, uint32_t *ret,
                                      struct ckpt_err *err) CKPT_MUST_CHECK;
/* Names saved by as many ranks of which each finds all that it declared on the node where it
 * runs now (H3), newest first; roster_fini. */
enum ckpt_status launch_nodes_held(const struct launch_nodes *n, const char *job, uint32_t world,
                                   struct roster *ret, struct ckpt_err *err) CKPT_MUST_CHECK;
/* *ret: the newest commit of the home that could be restored is on its way: `held` (of
 * launch_nodes_held) and the home's h/ have none as new, but all its parts lie on nodes of
 * this launch, which bring them to the home.  `at`: what the home has (commits, helds). */
enum ckpt_status launch_nodes_pending(const char *job, const struct launch_nodes *n,
                                      const struct roster *held, const struct launch_listings *at,
                                      bool *ret, struct ckpt_err *err) CKPT_MUST_CHECK;
