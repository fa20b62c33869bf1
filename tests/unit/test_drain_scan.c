/* Scans of drains: what is found, and what a scan costs.  A checkpoint that is not to go is read by
 * one scan at most: the next one asks for listings alone, however many there are. */
#include "ckptd/jobs.h"
#include "storage/repo/drain.h"
#include "storage/repo/tags.h"
#include "storage/store/wrap.h"

#include "check.h"

#define JOB          "run"
#define OTHER        "run-2"
#define FAR          "every=1000000"
#define FAR_AND_MORE "every=1000000,tagged,last"
#define FOUND        8
#define STEPS        10 /* from one save to the next */
#define MOST         1000

static long cases;
static struct store_counts counts;

struct world {
    struct store *home, *to;
    struct drain d;
    struct drain_passed passed;
    size_t most;
    struct ckpt_name found[FOUND];
    size_t count;
    bool more;
};

static struct store *fresh(const char *what)
{
    static int number;
    char url[64];
    struct store *s, *counted;
    struct record_repo repo;
    snprintf(url, sizeof(url), "mem://scan-%s-%d", what, number++);
    CHECK_OK(store_open(url, NULL, &s, NULL));
    CHECK_OK(repo_open(s, true, &repo, NULL));
    CHECK_OK(wrap_count(s, &counts, &counted, NULL));
    return counted;
}

static uint64_t requests(void)
{
    return counts.gets + counts.stats + counts.lists;
}

static struct ckpt_name name_of(uint64_t step)
{
    return (struct ckpt_name){ 1, step, step };
}

/* A rank's part that lies in the store. */
static void part(struct store *s, const char *job, uint64_t step)
{
    struct record_rank_held h = { .name = name_of(step) };
    struct key key = key_rank_held(job, &h.name, 0);
    CLEANUP_BUF struct buf b = { 0 };
    record_rank_held_encode(&h, key.text, &b);
    CHECK_OK(repo_put(s, &key, &b, NULL));
}

/* What a scan looks at of a checkpoint. */
static void commit(struct store *s, const char *job, uint64_t step, uint64_t parent)
{
    struct record_commit c = { .name = name_of(step),
                               .world = 1,
                               .has_parent = true,
                               .parent = name_of(parent),
                               .index_segments = 1,
                               .index_header_bytes = 4096 };
    struct key key = key_commit(job, &c.name);
    CLEANUP_BUF struct buf b = { 0 };
    record_commit_encode(&c, key.text, &b);
    part(s, job, step);
    CHECK_OK(repo_put(s, &key, &b, NULL));
}

static void saves(struct store *s, const char *job, uint64_t n)
{
    for (uint64_t i = 1; i <= n; i++)
        commit(s, job, i * STEPS, (i - 1) * STEPS);
}

static void setup(struct world *w, uint64_t n)
{
    *w = (struct world){ .home = fresh("home"), .to = fresh("to"), .most = MOST };
    w->d = (struct drain){ .job = JOB,
                           .home = w->home,
                           .sources = &w->home,
                           .source_count = 1,
                           .to = w->to,
                           .passed = &w->passed };
    saves(w->home, JOB, n);
}

static void teardown(struct world *w)
{
    drain_passed_fini(&w->passed);
    store_close(w->home);
    store_close(w->to);
}

/* A whole scan; returns what it asked of the stores. */
static uint64_t scan(struct world *w, const char *text)
{
    struct policy policy;
    uint64_t before = requests();
    CHECK_OK(policy_parse(text, &policy, NULL));
    w->d.policy = &policy;
    drain_passed_begin(&w->passed, &policy, w->most);
    CHECK_OK(drain_scan(&w->d, w->found, FOUND, &w->count, &w->more, NULL));
    drain_passed_end(&w->passed, !w->more);
    cases++;
    return requests() - before;
}

static void found(const struct world *w, size_t count, uint64_t newest)
{
    CHECK_EQ(w->count, count);
    if (count)
        CHECK_EQ(w->found[0].step, newest);
}

/* -- what it costs --------------------------------------------------------------------- */

static uint64_t second_scan(const char *policy, uint64_t n, uint64_t *ret_first)
{
    struct world w;
    setup(&w, n);
    *ret_first = scan(&w, policy);
    found(&w, 0, 0);
    uint64_t gets = counts.gets, cost = scan(&w, policy);
    found(&w, 0, 0);
    CHECK_EQ(counts.gets, gets);
    teardown(&w);
    return cost;
}

/* Nobody ends the job's training, so its newest is not its last. */
static void costs_listings(void)
{
    static const char *const policies[] = { FAR, "none", "tagged", "last", FAR_AND_MORE };
    for (size_t i = 0; i < ARRAY_COUNT(policies); i++) {
        uint64_t first[2];
        uint64_t few = second_scan(policies[i], 5, &first[0]);
        CHECK_EQ(second_scan(policies[i], 200, &first[1]), few);
        CHECK_EQ(first[1] - first[0], strstr(policies[i], "every") ? 195 : 0);
    }
}

/* One that is new is read; those that were, are not. */
static void reads_new_ones(void)
{
    struct world w;
    setup(&w, 100);
    scan(&w, FAR);
    uint64_t nothing = scan(&w, FAR);
    commit(w.home, JOB, 1010, 1000);
    CHECK_EQ(scan(&w, FAR), nothing + 1);
    CHECK_EQ(scan(&w, FAR), nothing);
    commit(w.home, JOB, 2000000, 1010);
    scan(&w, FAR);
    found(&w, 1, 2000000);
    scan(&w, FAR); /* until it is held */
    found(&w, 1, 2000000);
    teardown(&w);
}

/* Of what other nodes have saved, or this one has dropped, nothing is asked one by one: n commits
 * in the home, of `held` of which a part lies in the node's own store. */
static uint64_t scan_apart(uint64_t n, uint64_t held)
{
    struct world w;
    struct store *node = fresh("node");
    setup(&w, n);
    w.d.sources = &node;
    for (uint64_t i = 1; i <= held; i++)
        part(node, JOB, i * STEPS);
    uint64_t cost = scan(&w, "all");
    found(&w, held, held * STEPS);
    store_close(node);
    teardown(&w);
    return cost;
}

static void asks_what_lies_here(void)
{
    CHECK_EQ(scan_apart(200, 0), scan_apart(5, 0));
    CHECK_EQ(scan_apart(200, 3), scan_apart(5, 3));
}

/* What is begun in the tier is found by its listings, sixteen, where the policy does not take all. */
static void finds_what_is_begun(void)
{
    struct world w;
    setup(&w, 100);
    uint64_t lists = counts.lists;
    scan(&w, "all");
    uint64_t all = counts.lists - lists, none = scan(&w, "none");
    found(&w, 0, 0);
    CHECK_EQ(none, all + 16);
    part(w.to, JOB, 50);
    part(w.to, JOB, 70);
    part(w.to, JOB, 71);                  /* no commit of the home */
    CHECK_EQ(scan(&w, "none"), none + 4); /* each is read, and lies here */
    found(&w, 2, 70);
    /* In the home there is something of all that is committed. */
    w.d.to = w.home;
    scan(&w, "none");
    found(&w, 0, 0);
    teardown(&w);
}

/* -- what may change ------------------------------------------------------------------- */

static void another_policy(void)
{
    struct world w;
    setup(&w, 100);
    scan(&w, FAR);
    scan(&w, "every=500");
    found(&w, 2, 1000);
    CHECK_EQ(w.passed.count, 98);
    scan(&w, FAR);
    found(&w, 0, 0);
    CHECK_EQ(w.passed.count, 100);
    scan(&w, "all");
    CHECK(w.count == FOUND && w.more && w.found[0].step == 1000);
    teardown(&w);
}

static void tags_and_last(void)
{
    struct world w;
    const struct ckpt_name name = name_of(50);
    setup(&w, 20);
    scan(&w, FAR_AND_MORE);
    found(&w, 0, 0);
    CHECK_OK(tags_set(w.home, JOB, &name, "keep", NULL));
    scan(&w, FAR_AND_MORE);
    found(&w, 1, 50);
    CHECK_OK(tags_unset(w.home, JOB, &name, "keep", NULL));
    scan(&w, FAR_AND_MORE);
    found(&w, 0, 0);
    w.d.last = true;
    scan(&w, FAR_AND_MORE);
    found(&w, 1, 200);
    commit(w.home, JOB, 210, 200); /* then that is the last one */
    scan(&w, FAR_AND_MORE);
    found(&w, 1, 210);
    teardown(&w);
}

/* What is listed no more is forgotten: memory does not grow with all that ever was. */
static void forgets(void)
{
    struct world w;
    setup(&w, 100);
    scan(&w, FAR);
    CHECK_EQ(w.passed.count, 100);
    for (uint64_t i = 1; i <= 60; i++) {
        struct ckpt_name name = name_of(i * STEPS);
        CHECK_OK(store_remove(w.home, key_commit(JOB, &name).text, NULL));
    }
    uint64_t gets = counts.gets;
    scan(&w, FAR);
    CHECK_EQ(w.passed.count, 40);
    CHECK_EQ(counts.gets, gets);
    teardown(&w);
}

/* What finds no room is read each time, and no more than that. */
static void room(void)
{
    struct world w;
    setup(&w, 100);
    w.most = 70;
    scan(&w, FAR);
    for (int i = 0; i < 3; i++) {
        uint64_t gets = counts.gets;
        scan(&w, FAR);
        CHECK_EQ(w.passed.count, 70);
        CHECK_EQ(counts.gets - gets, 30);
    }
    w.most = MOST;
    scan(&w, FAR);
    CHECK_EQ(w.passed.count, 100);
    teardown(&w);
}

/* A scan that ends early has not read in vain, and has forgotten nothing. */
static void ends_early(void)
{
    const struct wrap_fault_rule rule = {
        .kind = FAULT_FAIL, .status = CKPT_TIMEOUT, .op = 'g', .match = "/c/", .nth = 41
    };
    struct wrap_fault_plan plan = { .rules = &rule, .count = 1 };
    struct world w;
    struct policy policy;
    struct store *dup, *failing;
    setup(&w, 100);
    CHECK_OK(policy_parse(FAR, &policy, NULL));
    CHECK_OK(store_dup(w.home, &dup, NULL));
    CHECK_OK(wrap_fault(dup, &plan, &failing, NULL));
    struct drain d = w.d;
    d.home = failing;
    d.policy = &policy;
    drain_passed_begin(&w.passed, &policy, w.most);
    CHECK_EQ(drain_scan(&d, w.found, FOUND, &w.count, &w.more, NULL), CKPT_TIMEOUT);
    drain_passed_end(&w.passed, false);
    CHECK_EQ(w.passed.count, 40);
    uint64_t gets = counts.gets;
    scan(&w, FAR);
    CHECK_EQ(counts.gets - gets, 60);
    drain_passed_begin(&w.passed, &policy, w.most);
    drain_passed_end(&w.passed, false);
    CHECK_EQ(w.passed.count, 100);
    store_close(failing);
    teardown(&w);
}

/* -- as ckptd's job -------------------------------------------------------------------- */

static uint64_t job_gets(struct world *w, struct drain_passed *passed)
{
    static const struct config config = { .store = "mem://" };
    struct tiers_setup places = { .config = &config, .count = 2 };
    struct jobs_work work = { .home = w->home, .local = w->home };
    work.tiers = (struct tiers){ .setup = &places, .s = { w->home, w->to } };
    struct job *j = job_new(JOB_DRAIN);
    CHECK(j != NULL);
    j->drain.what = DRAINER_SCAN;
    j->drain.tier = 1;
    j->drain.passed = passed;
    CHECK_OK(policy_parse(FAR, &j->drain.policy, NULL));
    uint64_t gets = counts.gets;
    j->base.run(&j->base, &work);
    CHECK_OK(j->status);
    CHECK(j->drain.found_count == 0 && !j->drain.more);
    job_free(j);
    cases++;
    return counts.gets - gets;
}

/* All jobs of the home share one memory, and their names do not meet there. */
static void all_jobs(void)
{
    struct world w;
    setup(&w, 30);
    saves(w.home, OTHER, 20);
    CHECK_EQ(job_gets(&w, &w.passed), 50);
    CHECK_EQ(w.passed.count, 50);
    CHECK_EQ(job_gets(&w, &w.passed), 0);
    CHECK_EQ(job_gets(&w, NULL), 50);
    teardown(&w);
}

int main(void)
{
    costs_listings();
    asks_what_lies_here();
    reads_new_ones();
    finds_what_is_begun();
    another_policy();
    tags_and_last();
    forgets();
    room();
    ends_early();
    all_jobs();
    TEST_CASES(cases);
    return 0;
}
