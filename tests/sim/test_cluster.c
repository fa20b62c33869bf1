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
                                     .seeds_deep = 50000,
                                     .processes = 2 };

enum { FAULT_CUT, FAULT_NODE, FAULT_POWER, FAULT_SLOW };

bool sim_near, sim_far, sim_home_waits;
struct policy sim_policy;

void sim_store_plan(int64_t until_ns)
{
    bool alone = sim_node_count == 1;
    sim_far = sim_rand(2) == 0;
    sim_near = sim_rand(alone ? 2 : 3) == 0;
    sim_remote = sim_far || sim_near;
    sim_policy = (struct policy){ .some = sim_rand(4) == 0, .every_steps = 3 };
    sim_home_waits = !alone && !sim_near;
    if (alone && !sim_near)
        places[PLACE_HOME].owner = 0;
    operator_plan(until_ns);
}

void sim_store_config(uint32_t node, struct config *ret)
{
    (void)node;
    *ret = (struct config){ .store = "home",
                            .log_level = LOG_LEVEL_INFO,
                            .local = sim_near ? "near" : NULL,
                            .crew = 2 + (unsigned)sim_rand(3),
                            .slot_bytes = sim_suite.slot_bytes,
                            .stop_s = 90,
                            .remotes = { "far" },
                            .remote_count = sim_far,
                            .remote_policy = sim_policy,
                            .remote_streams = 1 + (unsigned)sim_rand(3) };
}

static void ranks_die(uint32_t node)
{
    for (uint32_t i = 0; i < sim_rank_count; i++)
        if (sim_ranks[i].node == node)
            sim_rank_die(i);
}

/* What lies on the disk stays, but for names that were not synced. */
static void cut_power(uint32_t node)
{
    sim_saw(SEEN_power_cut);
    ranks_die(node);
    sim_node_lose(node);
    sim_nodes[node].lost = true; /* also when nothing ran there */
    place_unsync(PLACE_NEAR + node);
    if (places[PLACE_HOME].owner == (int32_t)node)
        place_unsync(PLACE_HOME);
}

/* Another machine takes its place, with an empty disk. */
static void replace(uint32_t node)
{
    if (places[PLACE_HOME].owner == (int32_t)node)
        return; /* then there is nothing left */
    sim_note("node %u is lost", node);
    sim_saw(SEEN_node_lost);
    ranks_die(node);
    sim_node_lose(node);
    sim_nodes[node].lost = true;
    place_lose(PLACE_NEAR + node);
    truth_disk_lost(node);
    sim_nodes[node].disk++;
    sim_saw(SEEN_node_replaced);
}

void sim_store_fault(uint32_t kind, uint32_t node)
{
    uint32_t place = sim_far && sim_rand(3) == 0 ? PLACE_FAR : PLACE_HOME;
    int64_t until = sim.now + sim_between(SIM_S, 600 * SIM_S);
    switch (kind) {
    case FAULT_CUT:
        sim_note("node %u is cut off from %s until %.0f s", node, place_name(place),
                 (double)until / 1e9);
        place_cut(node, place, until);
        break;
    case FAULT_NODE:
        replace(node);
        break;
    case FAULT_POWER:
        cut_power(node);
        break;
    case FAULT_SLOW:
        sim_note("%s is slow until %.0f s", place_name(place), (double)until / 1e9);
        sim_saw(SEEN_store_throttled);
        places[place].slow_until = until;
        break;
    default:
        break;
    }
}

void sim_store_operate(uint32_t act, uint64_t number)
{
    operator_act(act, number);
}

bool sim_store_busy(void)
{
    return operator_busy();
}

int main(int argc, char **argv)
{
    return sim_main(argc, argv);
}
