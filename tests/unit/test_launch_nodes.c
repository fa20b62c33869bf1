/* What nodes say of themselves, and what a resolver makes of it: restorable is what every rank
 * finds on its node, and nothing else; against a plain search over random clusters, too. */
#include "storage/repo/launch_nodes.h"
#include "storage/store/wrap.h"
#include "unit/history_fixture.h"

#define NODES 4
#define NAMES 6

/* A node of the cluster in memory: its ranks, and what lies there. */
struct machine {
    uint8_t node[16];
    uint32_t ranks[FX_WORLD + 2], rank_count;
    struct record_holding holdings[64];
    uint32_t count;
};

static void put(struct store *s, uint64_t epoch, struct machine *m)
{
    struct record_node n = {
        .holdings = m->holdings, .count = m->count, .ranks = m->ranks, .rank_count = m->rank_count
    };
    memcpy(n.node, m->node, 16);
    CHECK_OK(launch_put_node(s, FX_JOB, epoch, &n, NULL));
}

static struct machine machine(uint8_t id)
{
    return (struct machine){ .node = { id } };
}

static void runs(struct machine *m, uint32_t rank)
{
    m->ranks[m->rank_count++] = rank;
}

static void holds(struct machine *m, struct ckpt_name name, uint32_t rank, bool whole)
{
    m->holdings[m->count++] = (struct record_holding){ .name = name, .rank = rank, .whole = whole };
}

static size_t held_count(const struct launch_nodes *n, uint32_t world)
{
    CLEANUP_ROSTER struct roster held = { 0 };
    CHECK_OK(launch_nodes_held(n, FX_JOB, world, &held, NULL));
    return held.count;
}

static int test_inventory(void)
{
    struct store *s = fx_open();
    fx_commit(s, 1, 10);
    struct ckpt_name half = fx_name(1, 20);
    CHECK_OK(fx_part(s, &half, 1, false, NULL));
    struct record_node n;
    CHECK_OK(launch_inventory(s, FX_JOB, &n, NULL));
    CHECK_EQ(n.count, 3);
    unsigned of_half = 0, whole = 0;
    for (uint32_t i = 0; i < n.count; i++) {
        of_half += name_equal(&n.holdings[i].name, &half) && n.holdings[i].rank == 1;
        whole += n.holdings[i].whole;
    }
    CHECK_EQ(of_half, 1);
    CHECK_EQ(whole, 3);
    record_node_fini(&n);
    /* A damaged account is one that says nothing. */
    struct iovec iov = { (char[]){ "junk" }, 4 };
    CHECK_OK(store_put(s, key_rank_held(FX_JOB, &half, 1).text, &iov, 1, 0, NULL));
    CHECK_OK(launch_inventory(s, FX_JOB, &n, NULL));
    whole = 0;
    for (uint32_t i = 0; i < n.count; i++)
        whole += n.holdings[i].whole;
    CHECK(n.count == 3 && whole == 2);
    record_node_fini(&n);
    CHECK_OK(launch_inventory(s, "empty", &n, NULL));
    CHECK_EQ(n.count, 0);
    record_node_fini(&n);
    CHECK_EQ(launch_inventory(s, "../x", &n, NULL), CKPT_BAD_NAME);
    store_close(s);
    return 8;
}

/* Ranks that come later are told of by another record; telling again changes nothing; what
 * cannot be read counts as not there. */
static int test_reading(void)
{
    struct store *s = fx_open();
    struct launch_nodes n = { 0 };
    struct machine a = machine(1), b = machine(2);
    uint32_t missing = 99;
    CHECK_OK(launch_nodes_read(s, FX_JOB, 1, 2, &n, NULL));
    CHECK_OK(launch_nodes_missing(&n, 2, &missing, NULL));
    CHECK(n.count == 0 && missing == 0 && !n.resolved);
    runs(&a, 0);
    put(s, 1, &a);
    put(s, 1, &a);
    put(s, 2, &b); /* another launch */
    CHECK_OK(launch_nodes_read(s, FX_JOB, 1, 2, &n, NULL));
    CHECK_OK(launch_nodes_missing(&n, 2, &missing, NULL));
    CHECK(n.count == 1 && missing == 1);
    CHECK_OK(store_put_record(s, key_node(FX_JOB, 1, b.node, a.ranks, 1).text, "junk", 4, NULL));
    CHECK_OK(launch_nodes_read(s, FX_JOB, 1, 2, &n, NULL));
    CHECK_EQ(n.count, 1);
    runs(&a, 1); /* the worker was killed and tells of all again */
    put(s, 1, &a);
    CHECK_OK(launch_nodes_read(s, FX_JOB, 1, 2, &n, NULL));
    CHECK_OK(launch_nodes_missing(&n, 2, &missing, NULL));
    CHECK(n.count == 2 && missing == 2);
    CHECK_OK(store_put_record(s, key_resolved(FX_JOB, 1).text, "junk", 4, NULL));
    CHECK_OK(launch_nodes_read(s, FX_JOB, 1, 2, &n, NULL));
    CHECK(n.resolved);
    launch_nodes_fini(&n);
    store_close(s);
    return 5;
}

static int test_held(void)
{
    struct store *s = fx_open();
    struct launch_nodes n = { 0 };
    struct machine a = machine(1), b = machine(2);
    struct ckpt_name both = fx_name(1, 10), moved = fx_name(1, 20), part = fx_name(1, 30);
    struct ckpt_name wider = { .epoch = 1, .step = 40 };
    wider.attempt = attempt_of(FX_JOB, 1, FX_WORLD + 1, 40, 0);
    runs(&a, 0);
    runs(&b, 1);
    holds(&a, both, 0, true);
    holds(&b, both, 1, true);
    holds(&a, moved, 1, true); /* the ranks have changed places since */
    holds(&b, moved, 0, true);
    holds(&a, part, 0, true);
    holds(&b, part, 1, false); /* a replica elsewhere wrote some of it */
    holds(&a, wider, 0, true); /* and rank 2 was somewhere else */
    holds(&b, wider, 1, true);
    put(s, 3, &a);
    put(s, 3, &b);
    CHECK_OK(launch_nodes_read(s, FX_JOB, 3, 2, &n, NULL));
    CLEANUP_ROSTER struct roster held = { 0 };
    CHECK_OK(launch_nodes_held(&n, FX_JOB, FX_WORLD, &held, NULL));
    CHECK_EQ(held.count, 1);
    CHECK(name_equal(&held.entries[0].name, &both));
    CHECK_EQ(held_count(&n, FX_WORLD + 1), 0); /* another world size */
    CHECK_EQ(held_count(&n, 1), 0);
    /* A rank that two nodes name is nowhere. */
    struct machine liar = machine(9);
    runs(&liar, 1);
    holds(&liar, both, 1, true);
    put(s, 3, &liar);
    CHECK_OK(launch_nodes_read(s, FX_JOB, 3, 2, &n, NULL));
    CHECK_EQ(held_count(&n, FX_WORLD), 0);
    launch_nodes_fini(&n);
    store_close(s);
    return 5;
}

static bool pending(struct store *s, const struct launch_nodes *n)
{
    CLEANUP_ROSTER struct roster held = { 0 };
    struct launch_listings at = { 0 };
    bool ret = false;
    CHECK_OK(launch_nodes_held(n, FX_JOB, FX_WORLD, &held, NULL));
    CHECK_OK(roster_commits(s, FX_JOB, &at.commits, NULL));
    CHECK_OK(roster_helds(s, FX_JOB, &at.helds, NULL));
    CHECK_OK(launch_nodes_pending(FX_JOB, n, &held, &at, &ret, NULL));
    launch_listings_fini(&at);
    return ret;
}

static void unhold(struct store *s, const struct ckpt_name *name)
{
    CHECK_OK(store_remove(s, key_held(FX_JOB, name).text, NULL));
}

/* The resolver says so instead, and has written nothing. */
static void waits(struct store *s, const struct launch_nodes *n, const struct ckpt_name *name)
{
    bool waits = false;
    for (uint32_t rank = 0; rank < FX_WORLD; rank++) /* its packs are not in the home */
        CHECK_OK(store_remove(s, key_rank_held(FX_JOB, name, rank).text, NULL));
    CLEANUP_ROSTER struct roster held = { 0 };
    struct lineage_wish wish = { 0 };
    struct record_resolved r = { 0 };
    CHECK_OK(launch_nodes_held(n, FX_JOB, FX_WORLD, &held, NULL));
    const struct launch_reach reach = { .also = &held, .nodes = n, .ret_pending = &waits };
    CHECK_OK(launch_resolve_with(s, FX_JOB, 3, &wish, &reach, &r, NULL));
    CHECK(waits);
    CHECK_EQ(launch_resolved(s, FX_JOB, 3, &r, NULL), CKPT_NOT_FOUND);
    CHECK_EQ(launch_resolved(s, FX_JOB, 2, &r, NULL), CKPT_NOT_FOUND);
}

/* Waited for is what nodes of the launch can still bring, when nothing as new is there. */
static int test_pending(void)
{
    struct store *s = fx_open();
    struct launch_nodes n = { 0 };
    struct machine a = machine(1), b = machine(2);
    struct ckpt_name old = fx_commit(s, 1, 10), new = fx_commit(s, 1, 20);
    unhold(s, &new);
    runs(&a, 0);
    runs(&b, 1);
    holds(&a, new, 0, false);
    put(s, 2, &a);
    put(s, 2, &b);
    CHECK_OK(launch_nodes_read(s, FX_JOB, 2, 2, &n, NULL));
    CHECK(!pending(s, &n)); /* rank 1's part is lost: `old` it is */
    launch_nodes_fini(&n);
    holds(&b, new, 1, false);
    put(s, 3, &a);
    put(s, 3, &b);
    CHECK_OK(launch_nodes_read(s, FX_JOB, 3, 2, &n, NULL));
    CHECK(pending(s, &n));
    waits(s, &n, &new);
    unhold(s, &old);
    CHECK(pending(s, &n));
    struct buf buf = { 0 };
    struct record_held h = { .name = new, .world = FX_WORLD };
    record_held_encode(&h, key_held(FX_JOB, &new).text, &buf);
    fx_put(s, key_held(FX_JOB, &new), &buf);
    CHECK(!pending(s, &n)); /* it has come */
    launch_nodes_fini(&n);
    unhold(s, &new);
    a.holdings[0].whole = b.holdings[0].whole = true;
    put(s, 4, &a);
    put(s, 4, &b);
    CHECK_OK(launch_nodes_read(s, FX_JOB, 4, 2, &n, NULL));
    CHECK(!pending(s, &n)); /* each rank has its own at hand */
    launch_nodes_fini(&n);
    store_close(s);
    return 5;
}

static uint32_t below(uint64_t *state, uint32_t n)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(*state >> 33) % n;
}

static bool has(const struct machine *m, const struct ckpt_name *name, uint32_t rank)
{
    for (uint32_t i = 0; i < m->count; i++)
        if (m->holdings[i].whole && m->holdings[i].rank == rank &&
            name_equal(&m->holdings[i].name, name))
            return true;
    return false;
}

/* Law: a name is held exactly if each rank's one node has that rank's whole part. */
static int test_against_search(uint64_t seed)
{
    struct store *s = fx_open();
    struct launch_nodes n = { 0 };
    struct machine m[NODES] = { machine(1), machine(2), machine(3), machine(4) };
    uint32_t at[FX_WORLD];
    uint64_t state = seed;
    for (uint32_t r = 0; r < FX_WORLD; r++) {
        at[r] = below(&state, NODES);
        runs(&m[at[r]], r);
    }
    for (uint32_t i = 0; i < NAMES; i++)
        for (uint32_t k = 0; k < NODES; k++)
            for (uint32_t r = 0; r < FX_WORLD; r++)
                if (below(&state, 3) > 0)
                    holds(&m[k], fx_name(1, i), r, below(&state, 6) > 0);
    for (uint32_t k = 0; k < NODES; k++)
        put(s, 5, &m[k]);
    CHECK_OK(launch_nodes_read(s, FX_JOB, 5, 2, &n, NULL));
    CLEANUP_ROSTER struct roster held = { 0 };
    CHECK_OK(launch_nodes_held(&n, FX_JOB, FX_WORLD, &held, NULL));
    for (uint32_t i = 0; i < NAMES; i++) {
        struct ckpt_name name = fx_name(1, i);
        bool all = true;
        for (uint32_t r = 0; r < FX_WORLD; r++)
            all &= has(&m[at[r]], &name, r);
        if (all != (roster_find(&held, &name) != NULL))
            fprintf(stderr, "seed %llu\n", (unsigned long long)seed);
        CHECK_EQ(all, roster_find(&held, &name) != NULL);
    }
    launch_nodes_fini(&n);
    store_close(s);
    return NAMES;
}

/* A node with more parts than it may name names the newest of each rank. */
static int test_inventory_full(void)
{
    const uint32_t most = RECORD_HOLDINGS_MAX / 16;
    struct store *s = fx_open();
    for (uint32_t i = 0; i <= most; i++) {
        const struct ckpt_name name = { .epoch = 1, .step = i + 1, .attempt = i };
        const struct record_rank_held r = { .name = name, .whole = true };
        struct key key = key_rank_held(FX_JOB, &name, 0);
        struct buf b = { 0 };
        record_rank_held_encode(&r, key.text, &b);
        fx_put(s, key, &b);
    }
    struct record_node n;
    CHECK_OK(launch_inventory(s, FX_JOB, &n, NULL));
    CHECK_EQ(n.count, most);
    for (uint32_t i = 0; i < n.count; i++)
        CHECK(n.holdings[i].name.step > 1);
    record_node_fini(&n);
    store_close(s);
    return 1;
}

static uint64_t requests(const struct store_counts *n)
{
    return n->puts + n->gets + n->stats + n->lists + n->removes + n->syncs;
}

/* One launch of the past, with all that is told of it. */
static void lived(struct store *s, uint64_t step)
{
    char token[16];
    snprintf(token, sizeof(token), "past-%" PRIu64, step);
    uint64_t epoch = fx_resolve(s, token);
    struct record_step r = { .epoch = epoch, .step = step };
    CHECK_OK(launch_put_step(s, FX_JOB, RECORD_RESTORED, &r, NULL));
    CHECK_OK(launch_put_step(s, FX_JOB, RECORD_PROGRESS, &r, NULL));
    fx_commit(s, epoch, step);
}

static uint64_t claim(struct store *s, const char *token)
{
    uint64_t epoch = 0;
    const struct launch_who who = { .job = FX_JOB, .token = token, .world = FX_WORLD };
    CHECK_OK(launch_claim(s, &who, &epoch, NULL));
    return epoch;
}

/* Older launches are listed with the nodes once these are complete, and the resolver does not
 * list them again: what an older one does behind that listing is found all the same. */
static int test_launches_listed(void)
{
    struct store *s = fx_open();
    struct launch_nodes n = { 0 };
    struct machine a = machine(1), b = machine(2);
    uint64_t one = claim(s, "one"), two = claim(s, "two");
    runs(&a, 0);
    runs(&b, 1);
    put(s, two, &a);
    CHECK_OK(launch_nodes_read(s, FX_JOB, two, FX_WORLD, &n, NULL));
    CHECK(n.count == 1 && n.launches.count == 0);
    put(s, two, &b);
    CHECK_OK(launch_nodes_read(s, FX_JOB, two, FX_WORLD, &n, NULL));
    CHECK(n.count == 2 && n.launches.count == 2); /* two claims */
    const struct lineage_wish wish = { 0 };
    const struct launch_reach reach = { .launches = &n.launches };
    struct record_resolved r;
    CHECK_OK(launch_resolve(s, FX_JOB, one, &wish, &r, NULL));
    record_resolved_fini(&r);
    fx_commit(s, one, 10);
    CHECK_OK(launch_resolve_with(s, FX_JOB, two, &wish, &reach, &r, NULL));
    CHECK(r.kind == RESOLVED_POINT && r.name.epoch == one && r.name.step == 10);
    record_resolved_fini(&r);
    /* The same again, by what is listed now: the own one is found. */
    CHECK_OK(launch_nodes_read(s, FX_JOB, two, FX_WORLD, &n, NULL));
    CHECK(n.resolved && n.launches.count == 4);
    fx_commit(s, one, 20);
    CHECK_OK(launch_resolve_with(s, FX_JOB, two, &wish, &reach, &r, NULL));
    CHECK_EQ(r.name.step, 10);
    record_resolved_fini(&r);
    launch_nodes_fini(&n);
    store_close(s);
    return 4;
}

/* What a start asks of the home.  A node without rank 0: four requests, and one for each time
 * it looks.  Rank 0's node: one for each node, and what depends neither on their number nor on the launches
 * before. */
static int test_requests(uint32_t nodes, uint64_t past)
{
    struct store_counts counts = { 0 };
    struct store *s;
    struct launch_nodes n = { 0 };
    struct launch_who who = { .job = FX_JOB, .token = "t", .world = nodes };
    struct lineage_wish wish = { 0 };
    struct record_resolved r;
    uint64_t epoch, floor = 0;
    uint32_t missing;
    bool pending = false;
    CLEANUP_ROSTER struct roster held = { 0 };
    CHECK_OK(wrap_count(fx_open(), &counts, &s, NULL));
    for (uint64_t i = 1; i <= past; i++)
        lived(s, 10 * i);
    uint64_t before = requests(&counts);
    CHECK_OK(launch_claim(s, &who, &epoch, NULL));
    uint64_t rank0 = requests(&counts) - before, others = 0;
    for (uint32_t i = 0; i < nodes; i++) {
        struct machine m = machine((uint8_t)(i + 1));
        runs(&m, i);
        holds(&m, fx_name(1, 10), i, true);
        before = requests(&counts);
        CHECK_OK(launch_find(s, FX_JOB, "t", &floor, &epoch, NULL));
        put(s, epoch, &m);
        others = requests(&counts) - before;
        CHECK_EQ(others, 3); /* list, get; put */
    }
    before = requests(&counts);
    CHECK_OK(launch_nodes_read(s, FX_JOB, epoch, nodes, &n, NULL));
    CHECK_OK(launch_nodes_missing(&n, nodes, &missing, NULL));
    CHECK_EQ(missing, nodes);
    uint64_t gather = requests(&counts) - before;
    CHECK_EQ(gather, 1 + nodes);
    CHECK_OK(
        launch_nodes_read(s, FX_JOB, epoch, nodes, &n, NULL)); /* looked again: nothing is new */
    CHECK_EQ(requests(&counts) - before, gather + 1);
    before = requests(&counts);
    CHECK_OK(launch_nodes_held(&n, FX_JOB, nodes, &held, NULL));
    const struct launch_reach reach = {
        .also = &held, .launches = &n.launches, .nodes = &n, .ret_pending = &pending
    };
    CHECK_OK(launch_resolve_with(s, FX_JOB, epoch, &wish, &reach, &r, NULL));
    CHECK(!pending && (r.kind == RESOLVED_POINT) == (past > 0));
    uint64_t resolve = requests(&counts) - before;
    record_resolved_fini(&r);
    before = requests(&counts);
    CHECK_OK(launch_resolved(s, FX_JOB, epoch, &r, NULL));
    others += requests(&counts) - before - 1; /* one of them was the look */
    CHECK(others <= 4);
    printf("%u nodes, %u launches before: rank 0's node claims with %u requests, gathers with %u, "
           "resolves with %u; each other takes %u\n",
           nodes, (unsigned)past, (unsigned)rank0, (unsigned)gather, (unsigned)resolve,
           (unsigned)others);
    CHECK(rank0 <= 4);
    CHECK(gather + resolve <= 9 + nodes); /* and an object store is asked for its clock */
    record_resolved_fini(&r);
    launch_nodes_fini(&n);
    store_close(s);
    return (int)(rank0 + resolve);
}

int main(void)
{
    int cases =
        test_inventory() + test_reading() + test_held() + test_pending() + test_launches_listed();
    int few = test_requests(2, 0);
    CHECK_EQ(test_requests(64, 0), few); /* however many nodes */
    few = test_requests(2, 2);
    CHECK_EQ(test_requests(64, 2), few);
    CHECK_EQ(test_requests(2, 40), few); /* however long the history */
    cases += 12 + test_inventory_full();
    for (uint64_t seed = 1; seed <= 300; seed++)
        cases += test_against_search(seed);
    TEST_CASES(cases);
    return 0;
}
