/* The daemon's machines (session*.c, committer.c, node_restore.c) and what executes their
 * actions (control*.c) in simulated clusters: one seed, one history of ranks, workers and
 * stores with everything that can go wrong; the laws are looked at all the time.  The store
 * and what jobs do in it are a model; test_cluster runs the jobs themselves.
 *
 *     test_sim                        5,000 seeds (200,000 with CKPT_DEEP=1; with
 *                                     AddressSanitizer a tenth)
 *     test_sim --seeds N [--from S]   as many as you like
 *     test_sim SEED                   one, with a trace */
#include "sim/model.h"

const struct sim_suite sim_suite = { .name = "sim",
                                     .nodes = 2,
                                     .world = 4,
                                     .slot_bytes = MODEL_SLOT_BYTES,
                                     .seeds = 5000,
                                     .seeds_deep = 200000,
                                     .processes = 1 };

bool sim_home_waits;

void sim_store_check_end(void)
{
    /* Everything was looked at when it was decided. */
}

void sim_store_opened(const struct sim_rank *r)
{
    (void)r;
}

bool sim_store_resumable(const struct sim_launch *l)
{
    (void)l;
    return true;
}

void sim_store_plan(int64_t until_ns)
{
    (void)until_ns;
    sim_remote = sim_rand(2) == 0;
    sim_home_waits = sim_node_count > 1;
}

void sim_store_fault(uint32_t kind, uint32_t node)
{
    (void)kind;
    (void)node;
}

void sim_store_operate(uint32_t act, uint64_t number)
{
    (void)act;
    (void)number;
}

bool sim_store_busy(void)
{
    return false;
}

int main(int argc, char **argv)
{
    return sim_main(argc, argv);
}
