/* Which passes of prune a node begins: whether they decide, which stores they look at, and when they
 * collect.  What a pass does is in test_prune, test_life and test_life_copy; control's jobs are
 * caught here, and end as the test says.  What fails in a pass and is not in the way of the rest.
 * (It covers control_prune.c and prune_jobs.c.) */
#include "ckptd/control.h"
#include "storage/repo/adopt.h"
#include "storage/store/wrap.h"
#include "unit/history_fixture.h"

#define JOB  "run"
#define HOUR INT64_C(3600000000000)

void __wrap_control_submit(struct control *c, struct crew *crew, struct job *j);

static struct job *out; /* the last that was submitted */

void __wrap_control_submit(struct control *c, struct crew *crew, struct job *j)
{
    CHECK(c->prunes == crew && !out);
    out = j;
}

static char *no_variable(const char *name)
{
    (void)name;
    return NULL;
}

struct node {
    struct control *c;
    struct config *config;
    struct session *s; /* rank 0's */
    struct client rank0;
};

enum { NEAR, HOME, FAR, FARTHER, TIERS };

/* A node with a directory of its own, in front of three stores. */
static void setup(struct node *n, const char *keep, const char *keep_too)
{
    static char crew[1];
    const char *argv[12] = { "ckptd",    "--store", "/home",    "--local", "/near",
                             "--remote", "/far",    "--remote", "/farther" };
    int argc = 9;
    struct config_errors errors = { 0 };
    if (keep)
        argv[argc++] = keep;
    if (keep_too)
        argv[argc++] = keep_too;
    const struct config_input in = { .argc = argc,
                                     .argv = (char *const *)(uintptr_t)argv,
                                     .getenv_ = no_variable,
                                     .default_file = "/proc/nowhere" };
    *n = (struct node){ .c = calloc(1, sizeof(*n->c)), .s = calloc(1, sizeof(*n->s)) };
    CHECK(n->c && n->s);
    CHECK_OK(config_load(&in, &n->config, &errors));
    n->c->config = n->config;
    n->c->tiers.count = TIERS;
    n->c->tiers.home = HOME;
    n->c->prunes = (struct crew *)crew;
    n->c->now = 1000 * HOUR;
    n->s->mode = WIRE_TRAIN;
    snprintf(n->s->job, sizeof(n->s->job), "%s", JOB);
    n->rank0 = (struct client){ .open = true, .s = n->s };
}

static void teardown(struct node *n)
{
    CHECK(!out);
    config_free(n->config);
    free(n->c);
    free(n->s);
}

static void trains(struct node *n, bool here)
{
    n->c->clients[0] = here ? &n->rank0 : NULL;
    n->c->client_end = 1;
}

/* Ends the pass that is out; looked: it came as far as gc. */
static void end(struct node *n, bool looked)
{
    struct job *j = out;
    CHECK(j != NULL);
    out = NULL;
    j->prune.looked = looked;
    control_prune_done(n->c, j);
    job_free(j);
}

/* A pass that decides, or not; does it collect? */
static bool collects(struct node *n, bool decides, bool looked)
{
    trains(n, decides);
    control_prune_want(n->c, JOB);
    CHECK(out && (out->prune.policy != NULL) == decides);
    bool collect = out->prune.collect;
    end(n, looked && collect);
    return collect;
}

/* A wish that waits becomes one that decides when rank 0 is back. */
static int test_wishes(void)
{
    struct node n;
    setup(&n, "--keep=last=3", "--keep-local=last=2");
    trains(&n, true);
    control_prune_want(n.c, "another");
    trains(&n, false);
    control_prune_want(n.c, JOB);
    trains(&n, true);
    control_prune_want(n.c, JOB);
    trains(&n, false);
    control_prune_want(n.c, JOB);
    CHECK_EQ(n.c->prune_line.count, 1);
    end(&n, false);
    CHECK(out && strcmp(out->prune.job, JOB) == 0 && out->prune.policy &&
          out->prune.copies[NEAR].policy);
    end(&n, false);
    /* The place is free again, and what was wished there is not remembered. */
    control_prune_want(n.c, JOB);
    CHECK(out && !out->prune.policy);
    end(&n, false);
    CHECK(!control_prune_busy(n.c));
    teardown(&n);
    return 4;
}

static int test_times(void)
{
    struct node n;
    setup(&n, "--keep=last=3", "--keep-local=last=2");
    CHECK(collects(&n, true, false)); /* in vain: it did not come so far */
    CHECK(collects(&n, false, true)); /* looked here alone */
    CHECK(collects(&n, true, true));
    CHECK(!collects(&n, true, true));
    CHECK(!collects(&n, false, true));
    n.c->now += HOUR - 1;
    CHECK(!collects(&n, true, true));
    n.c->now += 1;
    CHECK(collects(&n, true, true));
    teardown(&n);
    return 7;
}

/* With a policy for the node's own directory alone nothing is decided, and that is collected. */
static int test_local_alone(void)
{
    struct node n;
    setup(&n, NULL, "--keep-local=last=2");
    for (int decides = 0; decides < 2; decides++) {
        trains(&n, decides);
        control_prune_want(n.c, JOB);
        CHECK(out && !out->prune.policy && out->prune.copies[NEAR].policy);
        CHECK(!out->prune.copies[FAR].policy);
        CHECK_EQ(out->prune.collect, decides == 0);
        end(&n, out->prune.collect);
    }
    teardown(&n);
    return 4;
}

/* What becomes of stores that all nodes reach is decided where rank 0 is; nothing is collected. */
static int test_remote_alone(void)
{
    struct node n;
    setup(&n, "--keep-remote=last=2", NULL);
    trains(&n, false);
    control_prune_want(n.c, JOB);
    CHECK(!out && !control_prune_busy(n.c));
    trains(&n, true);
    control_prune_want(n.c, JOB);
    CHECK(out && !out->prune.policy && !out->prune.collect);
    for (uint32_t i = 0; i < TIERS_MAX; i++)
        CHECK((out->prune.copies[i].policy != NULL) == (i == FAR || i == FARTHER));
    end(&n, false);
    teardown(&n);
    setup(&n, "--keep-remote=last=2", "--keep-local=last=3");
    for (int decides = 0; decides < 2; decides++) {
        trains(&n, decides);
        control_prune_want(n.c, JOB);
        CHECK(out && out->prune.copies[NEAR].policy->rules[0].n == 3);
        CHECK((out->prune.copies[FAR].policy != NULL) == decides);
        end(&n, false);
    }
    teardown(&n);
    return 4;
}

/* The home is the node's own disk: what is said of --local is not meant for it. */
static int test_no_directory(void)
{
    struct node n;
    setup(&n, "--keep-remote=last=2", "--keep-local=last=3");
    n.c->tiers.home = 0;
    trains(&n, true);
    control_prune_want(n.c, JOB);
    CHECK(out && !out->prune.copies[0].policy && out->prune.copies[1].policy);
    end(&n, false);
    teardown(&n);
    return 1;
}

/* The home's own copies: decided where rank 0 is, or on the node whose disk the home is, which goes
 * on when the job has ended; nothing is collected. */
static int test_store_alone(void)
{
    for (int round = 0; round < 3; round++) { /* elsewhere; this disk; one directory of all nodes */
        struct node n;
        const uint32_t home = round == 0 ? HOME : NEAR;
        setup(&n, "--keep-store=last=2", NULL);
        n.c->tiers.home = home;
        if (round == 2)
            n.config->store = "dir:///home?shared=1";
        for (int here = 0; here < 2; here++) {
            trains(&n, here);
            control_prune_want(n.c, JOB);
            CHECK((out != NULL) == (here || round == 1));
            CHECK(!out || (!out->prune.policy && !out->prune.collect));
            for (uint32_t i = 0; out && i < TIERS_MAX; i++)
                CHECK((out->prune.copies[i].policy != NULL) == (i == home));
            if (out)
                end(&n, false);
        }
        teardown(&n);
    }
    return 6;
}

static struct keep_policy *rules(const char *text)
{
    struct keep_policy *p = calloc(1, sizeof(*p));
    CHECK(p);
    CHECK_OK(keep_policy_parse(text, p, NULL));
    return p;
}

static size_t data_in(struct store *s)
{
    CLEANUP_ROSTER struct roster data = { 0 };
    CHECK_OK(roster_data(s, FX_JOB, &data, NULL));
    return data.count;
}

/* As drains do; a node's own directory has no records of commits. */
static void bring(struct store *home, struct store *to, const struct ckpt_name *name, bool records)
{
    const struct key keys[] = { key_held(FX_JOB, name), key_commit(FX_JOB, name) };
    bool there;
    fx_parts(to, name);
    for (size_t i = 0; i < (records ? 2 : 1); i++)
        CHECK_OK(adopt_record(home, to, &keys[i], &there, NULL));
}

static size_t held_in(struct store *s)
{
    CLEANUP_ROSTER struct roster held = { 0 };
    CHECK_OK(roster_helds(s, FX_JOB, &held, NULL));
    return held.count;
}

/* Each store as its own policy says, in one pass; and one store that fails, which nobody can ask
 * what it holds, keeps all the others from dropping anything. */
static int test_each_store(void)
{
    for (int fails = 0; fails < 2; fails++) {
        static struct tiers_setup setup = { .count = TIERS, .home = HOME };
        struct store *s[TIERS], *inner;
        struct wrap_fault_rule rule = { .kind = FAULT_FAIL, .status = CKPT_UNREACHABLE };
        struct wrap_fault_plan plan = { .rules = &rule, .count = fails };
        struct jobs_work w = { .tiers = { .setup = &setup } };
        struct job *j = job_new(JOB_PRUNE);
        CHECK(j != NULL);
        for (int i = 0; i < TIERS; i++)
            s[i] = fx_open();
        fx_resolve(s[HOME], "one");
        for (uint64_t step = 1; step <= 9; step++) {
            struct ckpt_name name = fx_commit(s[HOME], 1, step);
            for (int i = 0; i < TIERS; i++)
                if (i != HOME)
                    bring(s[HOME], s[i], &name, i != NEAR);
        }
        inner = s[FARTHER];
        CHECK_OK(wrap_fault(inner, &plan, &s[FARTHER], NULL));
        for (int i = 0; i < TIERS; i++)
            w.tiers.s[i] = s[i];
        w.local = s[NEAR];
        w.home = s[HOME];
        snprintf(j->prune.job, sizeof(j->prune.job), "%s", FX_JOB);
        j->prune.copies[NEAR].policy = rules("last=6");
        j->prune.copies[FAR].policy = rules("last=3");
        j->prune.copies[FARTHER].policy = rules("last=4");
        j->prune.copies[HOME].policy = rules("last=5");
        j->base.run(&j->base, &w);
        CHECK_EQ(j->status, fails ? CKPT_UNREACHABLE : CKPT_OK);
        rule.status = CKPT_OK;
        CHECK_EQ(held_in(s[HOME]), fails ? 9 : 5);
        CHECK_EQ(data_in(s[NEAR]), fails ? 9 : 6);
        CHECK_EQ(data_in(s[FAR]), fails ? 9 : 3);
        if (!fails)
            CHECK_EQ(data_in(s[FARTHER]), 8); /* 1 to 4 are in no other any more */
        CHECK_EQ(j->prune.copies[FAR].report.dropped, fails ? 0 : 6);
        job_free(j);
        for (int i = 0; i < TIERS; i++)
            store_close(s[i]);
    }
    return 2;
}

/* The node's own directory was a home before: nothing can be collected in it, and what is not to
 * be kept there goes all the same. */
static int test_not_in_the_way(void)
{
    static struct tiers_setup setup = { .count = 2, .home = 1 };
    struct store *home = fx_open(), *here = fx_open();
    struct record_repo repo;
    struct jobs_work w = { .tiers = { .setup = &setup, .s = { here, home } } };
    struct job *j = job_new(JOB_PRUNE);
    CHECK(j != NULL);
    w.local = here;
    w.home = home;
    CHECK_OK(repo_open(home, true, &repo, NULL));
    fx_resolve(home, "one");
    fx_resolve(here, "another");
    for (uint64_t step = 1; step <= 5; step++) {
        struct ckpt_name name = fx_commit(home, 1, step);
        fx_parts(here, &name);
        if (step == 1) {
            fx_life(home, &name, 1, LIFE_DELETED, 1);
            fx_life(home, &name, 2, LIFE_GONE, 1);
        }
    }
    snprintf(j->prune.job, sizeof(j->prune.job), "%s", FX_JOB);
    j->prune.copies[0].policy = rules("last=2");
    j->prune.collect = true;
    j->base.run(&j->base, &w);
    CHECK_EQ(j->status, CKPT_CONFLICT);
    CHECK(strstr(err_text(&j->err), "two homes"));
    CHECK_EQ(j->prune.copies[0].report.dropped, 2);
    job_free(j);
    store_close(home);
    store_close(here);
    return 1;
}

int main(void)
{
    TEST_CASES(test_wishes() + test_times() + test_local_alone() + test_remote_alone() +
               test_no_directory() + test_store_alone() + test_each_store() +
               test_not_in_the_way());
    return 0;
}
