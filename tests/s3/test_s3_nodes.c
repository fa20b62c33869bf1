/* What a checkpoint of N nodes asks of their home, and that it grows with N and not faster: N
 * nodes, one rank each, packs in private tiers, the home on a real object store (with_rgw.py) or,
 * without an endpoint, in memory, where the same requests are counted one level higher.
 *
 *   usage: test_s3_nodes            CKPT_DEEP=1: up to 64 nodes on the object store, else 4 */
#include <inttypes.h>

#include "s3/nodes_kit.h"

enum { NODES_MAX = 64, COUNTS = 7 }; /* 1, 2, 4 ... 64 */

/* Of one run: what the second checkpoint, which has a parent, cost, and the start behind it. */
struct result {
    uint32_t nodes;
    struct nodes_cost total[NODES_PHASES], cost[NODES_MAX][NODES_PHASES];
};
static const char *const phase_names[NODES_PHASES] = { "launch",  "begin", "manifest", "poll",
                                                       "publish", "drain", "finish" };
static char home[200] = "mem://nodes-home-";

static struct kit_save save_of(const struct nodes *n, uint64_t step)
{
    struct kit_save how = { .name = { .epoch = n->epoch, .step = step } };
    how.name.attempt = attempt_of(KIT_JOB, n->epoch, n->count, step, 0);
    return how;
}

/* ---- what must be right, however cheap ---- */

static void same_object(struct store *a, struct store *b, const struct key *key)
{
    void *bytes[2];
    size_t len[2];
    CHECK_OK(store_get_all(a, key->text, 1 << 24, &bytes[0], &len[0], NULL));
    CHECK_OK(store_get_all(b, key->text, 1 << 24, &bytes[1], &len[1], NULL));
    CHECK(len[0] == len[1] && memcmp(bytes[0], bytes[1], len[0]) == 0);
    free(bytes[0]);
    free(bytes[1]);
}

/* The commit and what it vouches for are those of one node that has all ranks. */
static void check_commit(struct nodes *n, const struct kit_save *first, const struct kit_save *how)
{
    struct store *alone = nodes_alone(n, "mem://alone", first);
    store_close(alone);
    alone = nodes_alone(n, "mem://alone", how);
    struct key commit = key_commit(KIT_JOB, &how->name), index = key_index(KIT_JOB, &how->name, 0);
    same_object(n->home, alone, &commit);
    same_object(n->home, alone, &index);
    kit_store_drop(alone);
}

/* From the home alone, in another layout; h/ says that it may be believed. */
static void check_restorable(struct nodes *n, const struct kit_model *m,
                             const struct ckpt_name *name)
{
    struct load_stats stats = { 0 };
    struct store_stat stat;
    struct kit_layout to;
    CHECK_OK(store_stat(n->home, key_held(KIT_JOB, name).text, &stat, NULL));
    kit_layout_rows(&to, m, 3);
    CHECK_OK(kit_restore(&n->home, 1, name, &to, &stats, NULL));
    kit_layout_fini(&to);
}

/* ---- a run ---- */

static void take_result(const struct nodes *n, struct result *r)
{
    r->nodes = n->count;
    for (int p = 0; p < NODES_PHASES; p++) {
        r->total[p] = nodes_total(n, p);
        for (uint32_t i = 0; i < n->count; i++)
            r->cost[i][p] = n->list[i].cost[p];
    }
}

/* `late`: the node that drains later than the others; none has that number: all at one time. */
static void run(uint32_t count, uint32_t late, struct result *ret)
{
    struct kit_model m = { 0 };
    struct nodes n;
    char url[400], name[16];
    for (int i = 0; i < 6; i++) {
        snprintf(name, sizeof(name), "w%d", i);
        kit_model_add(&m, name, CKPT_DTYPE_F32, 2, (const uint64_t[]){ 2 * NODES_MAX, 32 });
    }
    static int number;
    const char *endpoint = getenv("CKPT_TEST_S3");
    snprintf(url, sizeof(url), "%s%d%s%s", home, number++, home[0] == 's' ? "?endpoint=" : "",
             home[0] == 's' ? endpoint : "");
    nodes_open(&n, url, &m, count);
    nodes_launch(&n, "first", NULL);
    struct kit_save first = save_of(&n, 10), second = save_of(&n, 20);
    second.has_parent = true;
    second.parent = first.name;
    nodes_save(&n, &first, 0);
    nodes_drain(&n, &first.name, UINT32_MAX, 0);
    nodes_forget_cost(&n);
    nodes_save(&n, &second, NODES_SECOND_NS);
    nodes_drain(&n, &second.name, late < count ? late : UINT32_MAX, 30 * NODES_SECOND_NS);
    nodes_launch(&n, "second", &second.name);
    take_result(&n, ret);
    check_restorable(&n, &m, &second.name);
    check_commit(&n, &first, &second);
    nodes_close(&n);
}

/* ---- laws ---- */

static uint64_t most(const struct result *r, int phase)
{
    uint64_t ret = 0;
    for (uint32_t i = 1; i < r->nodes; i++)
        ret = max_u64(ret, r->cost[i][phase].requests);
    return ret;
}

static void print(const char *what, const struct result *r, int count)
{
    printf("%s: requests of all, of rank 0's node, and the most of another\n nodes", what);
    for (int p = 0; p < NODES_PHASES; p++)
        printf("%17s", phase_names[p]);
    printf("  KiB up, down\n");
    for (int i = 0; i < count; i++) {
        uint64_t up = 0, down = 0;
        printf("%6u", r[i].nodes);
        for (int p = 0; p < NODES_PHASES; p++) {
            printf("%8" PRIu64 "%5" PRIu64 "%4" PRIu64, r[i].total[p].requests,
                   r[i].cost[0][p].requests, most(&r[i], p));
            up += r[i].total[p].put_bytes;
            down += r[i].total[p].get_bytes;
        }
        printf("%8" PRIu64 "%6" PRIu64 "\n", up >> 10, down >> 10);
    }
}

/* What each node asks, to the request. */
static void check_nodes(const struct result *r)
{
    const uint64_t n = r->nodes;
    for (uint32_t i = 0; i < n; i++) {
        const struct nodes_cost *c = r->cost[i];
        uint64_t polls = c[NODES_POLL].jobs, looks = c[NODES_FINISH].jobs;
        CHECK_EQ(c[NODES_MANIFEST].requests, 1);
        CHECK_EQ(c[NODES_BEGIN].requests, r->cost[0][NODES_BEGIN].requests);
        CHECK_EQ(c[NODES_DRAIN].requests, 4 + 13 + 1); /* of one rank with one pack */
        CHECK(polls <= 8);
        if (i == 0) {
            /* Each part is found once; a look for one that is missing also looks if it is worth
             * waiting for. */
            CHECK_EQ(c[NODES_POLL].requests, n > 1 ? n + 2 * (polls - 1) : 0);
            CHECK_EQ(c[NODES_FINISH].requests, 2 * n + 5 * looks + 3);
            continue;
        }
        CHECK_EQ(c[NODES_POLL].requests, polls);
        CHECK_EQ(c[NODES_PUBLISH].requests, 0);
        CHECK_EQ(c[NODES_LAUNCH].requests, r->cost[1][NODES_LAUNCH].requests);
        if (i >= looks) /* else it took its turn */
            CHECK_EQ(c[NODES_FINISH].requests, 4 * looks);
        CHECK(c[NODES_FINISH].requests <= 4 * looks + 2 * n + 8);
    }
}

/* What they ask together; r[k] is of 2^k nodes. */
static void check_growth(const struct result *r, int count)
{
    const uint64_t clock = home[0] == 's';
    for (int k = 0; k < count; k++) {
        const uint64_t n = r[k].nodes;
        const struct nodes_cost *total = r[k].total, *before = r[k > 1 ? k - 1 : k].total;
        CHECK_EQ(total[NODES_PUBLISH].requests, r[0].total[NODES_PUBLISH].requests + n - 1);
        if (k > 0) /* what does not grow, and one for each node */
            CHECK_EQ(r[k].cost[0][NODES_LAUNCH].requests - n,
                     r[1].cost[0][NODES_LAUNCH].requests - 2);
        for (int p = 0; p < NODES_PHASES; p++) {
            /* A start asks for the server's time, too, which is no call that is counted. */
            CHECK_EQ(total[p].sent, total[p].requests + (p == NODES_LAUNCH ? clock : 0));
            CHECK(total[p].requests <= 2 * before[p].requests + 32);
        }
        check_nodes(&r[k]);
    }
}

int main(void)
{
    static struct result r[3][COUNTS];
    static const char *const what[] = { "all drain at one time", "the last node drains 30 s later",
                                        "rank 0's node drains 30 s later" };
    const char *endpoint = getenv("CKPT_TEST_S3"), *bucket = getenv("CKPT_TEST_BUCKET");
    bool s3 = endpoint && bucket;
    if (s3)
        snprintf(home, sizeof(home), "s3://%s/nodes-", bucket);
    int count = !s3 || getenv("CKPT_DEEP") ? COUNTS : 3;
    for (int k = 0; k < count; k++) {
        uint32_t n = UINT32_C(1) << k;
        run(n, UINT32_MAX, &r[0][k]);
        if (!s3) { /* the same requests, for nothing */
            run(n, n - 1, &r[1][k]);
            run(n, 0, &r[2][k]);
        }
    }
    const int kinds = s3 ? 1 : 3;
    for (int i = 0; i < kinds; i++) {
        print(what[i], r[i], count);
        check_growth(r[i], count);
    }
    TEST_CASES(kinds * count);
    return 0;
}
