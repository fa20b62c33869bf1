/* The committer machine: what is published, what is aborted, and why. */
#include "ckptd/committer.h"

#include "check.h"

static long cases;
static struct committer c;
static struct committer_actions acts;
static const struct ckpt_name name = { .epoch = 2, .step = 120, .attempt = 9 };
static const int64_t S = 1000000000;

static void event(enum committer_event_kind kind, uint32_t rank, enum ckpt_status st,
                  const char *text, int64_t now)
{
    acts.count = 0;
    cases++;
    CHECK_OK(committer_step(&c,
                            &(struct committer_event){ .kind = kind,
                                                       .job = "j",
                                                       .name = name,
                                                       .world = 3,
                                                       .rank = rank,
                                                       .status = st,
                                                       .text = text,
                                                       .deadline_ns = 3600 * S },
                            now, &acts));
}

static void done(enum committer_job what, enum ckpt_status st, uint32_t rank, int64_t now)
{
    acts.count = 0;
    cases++;
    CHECK_OK(committer_step(&c,
                            &(struct committer_event){ .kind = COMMITTER_DONE,
                                                       .job = "j",
                                                       .name = name,
                                                       .done = what,
                                                       .status = st,
                                                       .rank = rank,
                                                       .text = "why" },
                            now, &acts));
}

static void runs(enum committer_job what)
{
    const struct committer_attempt *a = committer_find(&c, "j", &name);
    CHECK(a);
    CHECK_EQ(a->job_out, what);
    CHECK_EQ(acts.count > 0, what != COMMITTER_IDLE);
}

static void decided(enum ckpt_status st, const char *text)
{
    CHECK(acts.count >= 1);
    CHECK_EQ(acts.list[0].kind, COMMITTER_DECIDED);
    CHECK_EQ(acts.list[0].status, st);
    if (text)
        CHECK(strstr(acts.text, text));
}

/* A rank begins while others are on other nodes. */
static void several(uint32_t rank, int64_t deadline_ns)
{
    struct committer_event ev = { .kind = COMMITTER_JOINED,
                                  .job = "j",
                                  .name = name,
                                  .world = 3,
                                  .rank = rank,
                                  .deadline_ns = deadline_ns,
                                  .several = true };
    acts.count = 0;
    CHECK_OK(committer_step(&c, &ev, 1, &acts));
}

static void start(uint32_t joined)
{
    c = (struct committer){ .arrival_ns = 600 * S };
    for (uint32_t r = 0; r < joined; r++)
        event(COMMITTER_JOINED, r, CKPT_OK, NULL, 1);
}

/* One node: parts that are put, fail, or do not come. */
static void test_one_node(void)
{
    /* All parts: published, once. */
    start(3);
    event(COMMITTER_PUT_DONE, 0, CKPT_OK, NULL, 2);
    event(COMMITTER_PUT_DONE, 2, CKPT_OK, NULL, 2);
    event(COMMITTER_PUT_DONE, 2, CKPT_OK, NULL, 2); /* told twice after a replay */
    runs(COMMITTER_IDLE);
    event(COMMITTER_PUT_DONE, 1, CKPT_OK, NULL, 2);
    runs(COMMITTER_PUBLISH);
    done(COMMITTER_PUBLISH, CKPT_OK, 0, 3);
    decided(CKPT_OK, NULL);
    CHECK(!committer_find(&c, "j", &name));
    /* A failed part: aborted at once, with the first reason. */
    start(2);
    event(COMMITTER_FAILED, 2, CKPT_FULL, "rank 2: no space", 5);
    runs(COMMITTER_ABORT);
    event(COMMITTER_FAILED, 1, CKPT_ABORTED, "later", 5);
    done(COMMITTER_ABORT, CKPT_OK, 0, 6);
    decided(CKPT_FULL, "rank 2: no space");
    /* The abort loses against a commit. */
    start(2);
    event(COMMITTER_FAILED, 2, CKPT_CANCELLED, "x", 5);
    done(COMMITTER_ABORT, CKPT_EXISTS, 0, 6);
    decided(CKPT_OK, NULL);
    /* The abort cannot be written: ranks hear at once, the store later. */
    start(2);
    event(COMMITTER_FAILED, 2, CKPT_FULL, "x", 5);
    done(COMMITTER_ABORT, CKPT_FULL, 0, 6);
    decided(CKPT_FULL, "x");
    CHECK(committer_find(&c, "j", &name));
    event(COMMITTER_TICK, 0, CKPT_OK, NULL, 6 + 2 * S);
    runs(COMMITTER_ABORT);
    done(COMMITTER_ABORT, CKPT_OK, 0, 7 + 2 * S);
    CHECK_EQ(acts.count, 0);
    CHECK(!committer_find(&c, "j", &name));
    /* A rank that does not come: named, after the arrival time. */
    start(2);
    event(COMMITTER_TICK, 0, CKPT_OK, NULL, 599 * S);
    runs(COMMITTER_IDLE);
    event(COMMITTER_TICK, 0, CKPT_OK, NULL, 602 * S);
    runs(COMMITTER_ABORT);
    done(COMMITTER_ABORT, CKPT_OK, 0, 602 * S);
    decided(CKPT_TIMEOUT, "rank 2 did not come");
}

/* Ranks, or rank 0, on other nodes. */
static void test_other_nodes(void)
{
    /* Parts on other nodes: asked for with growing pauses, then published. */
    start(2);
    event(COMMITTER_PUT_DONE, 0, CKPT_OK, NULL, 2);
    event(COMMITTER_PUT_DONE, 1, CKPT_OK, NULL, 2);
    runs(COMMITTER_MISSING);
    done(COMMITTER_MISSING, CKPT_OK, 2, 2);
    runs(COMMITTER_IDLE);
    event(COMMITTER_TICK, 0, CKPT_OK, NULL, 2 + S);
    runs(COMMITTER_MISSING);
    done(COMMITTER_MISSING, CKPT_OK, 3, 2 + S);
    runs(COMMITTER_PUBLISH);
    done(COMMITTER_PUBLISH, CKPT_IO, 0, 2 + S); /* undecided: again later */
    runs(COMMITTER_IDLE);
    event(COMMITTER_TICK, 0, CKPT_OK, NULL, 20 * S);
    runs(COMMITTER_PUBLISH);
    done(COMMITTER_PUBLISH, CKPT_COVER, 0, 20 * S); /* no commit without cover */
    runs(COMMITTER_ABORT);
    done(COMMITTER_ABORT, CKPT_OK, 0, 20 * S);
    decided(CKPT_COVER, "why");
    /* Another node has given the attempt up: told, and no job of ours. */
    c = (struct committer){ .arrival_ns = 600 * S };
    several(0, 3600 * S);
    event(COMMITTER_PUT_DONE, 0, CKPT_OK, NULL, 2);
    runs(COMMITTER_MISSING);
    done(COMMITTER_MISSING, CKPT_OK, 2, 2);
    CHECK_EQ(c.attempts[0].missing, 2);
    event(COMMITTER_TICK, 0, CKPT_OK, NULL, 2 + COMMITTER_POLL_FIRST_NS);
    runs(COMMITTER_MISSING);
    done(COMMITTER_MISSING, CKPT_ABORTED, 0, 1 * S);
    decided(CKPT_ABORTED, "why");
    CHECK(!c.attempts[0].used);
    /* When other nodes' ranks began is not known: they have until the deadline, and the one
     * that is missing then is named. */
    c = (struct committer){ .arrival_ns = 600 * S };
    several(0, 3600 * S);
    event(COMMITTER_PUT_DONE, 0, CKPT_OK, NULL, 2);
    done(COMMITTER_MISSING, CKPT_OK, 2, 2);
    event(COMMITTER_TICK, 0, CKPT_OK, NULL, 700 * S);
    runs(COMMITTER_MISSING);
    done(COMMITTER_MISSING, CKPT_OK, 2, 701 * S);
    event(COMMITTER_TICK, 0, CKPT_OK, NULL, 3601 * S);
    runs(COMMITTER_ABORT);
    done(COMMITTER_ABORT, CKPT_OK, 0, 3601 * S);
    decided(CKPT_TIMEOUT, "rank 2 did not finish");
    /* Rank 0 elsewhere: its node decides, we look. */
    c = (struct committer){ .arrival_ns = 600 * S };
    event(COMMITTER_JOINED, 1, CKPT_OK, NULL, 1);
    event(COMMITTER_PUT_DONE, 1, CKPT_OK, NULL, 2);
    runs(COMMITTER_LOOK);
    done(COMMITTER_LOOK, CKPT_BUSY, 0, 2);
    runs(COMMITTER_IDLE);
    event(COMMITTER_TICK, 0, CKPT_OK, NULL, 5 * S);
    done(COMMITTER_LOOK, CKPT_ABORTED, 0, 5 * S);
    decided(CKPT_ABORTED, "why");
}

int main(void)
{
    test_one_node();
    test_other_nodes();
    /* A full table. */
    c = (struct committer){ .arrival_ns = S, .end = COMMITTER_ATTEMPTS_MAX };
    for (size_t i = 0; i < COMMITTER_ATTEMPTS_MAX; i++)
        c.attempts[i].used = true;
    CHECK_EQ(committer_step(
                 &c,
                 &(struct committer_event){ .kind = COMMITTER_JOINED, .job = "j", .name = name }, 1,
                 &acts),
             CKPT_BUSY);
    TEST_CASES(cases);
    return 0;
}
