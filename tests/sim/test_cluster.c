/* A cluster: one to eight nodes, each a whole worker with the real engine, one home, and a
 * tier beyond it, in one thread from a seed (cluster.h).  Nodes are cut off, lost with
 * their disks and replaced, lose power; launches run beside each other, come back when they
 * were given up, change size; two jobs share everything; an operator deletes meanwhile.
 * The laws are in cluster_truth.c (what is decided) and sim_check.c (sessions and slots).
 *
 *     test_cluster                        2,000 seeds (50,000 with CKPT_DEEP=1; with
 *                                         AddressSanitizer a tenth)
 *     test_cluster --seeds N [--from S]   as many as you like
 *     test_cluster SEED                   one, with a trace */
#include "sim/cluster.h"

const struct sim_suite sim_suite = { .name = "cluster",
                                     .cluster = true,
                                     .nodes = SIM_NODES,
                                     .world = SIM_WORLD,
                                     .slot_bytes = SIM_SLOT_WORDS * sizeof(uint64_t),
                                     .seeds = 2000,
                                     .seeds_deep = 50000 };

bool sim_near;

void sim_store_config(uint32_t node, struct config *ret)
{
    (void)node;
    *ret = (struct config){ .store = "home",
                            .local = sim_near ? "near" : NULL,
                            .crew = 2 + (unsigned)sim_rand(3),
                            .slot_bytes = sim_suite.slot_bytes,
                            .stop_s = 90,
                            .remotes = { "far" },
                            .remote_count = sim_remote,
                            .remote_streams = 1 + (unsigned)sim_rand(3) };
}

int main(int argc, char **argv)
{
    return sim_main(argc, argv);
}
