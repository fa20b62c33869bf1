/* The drainer machine, by scripted events: which checkpoint is next, how many packs are
 * under way, what trouble, damage, deletion and other nodes do to it; and by random ones:
 * it never has two checkpoints of a tier under way, and gets to the end of them all. */
#include "ckptd/drainer.h"

#include "check.h"

#define SEC INT64_C(1000000000)

static long cases;
static struct drainer d;
static struct drainer_actions out;
static int64_t now;

static struct ckpt_name at(uint64_t step)
{
    return (struct ckpt_name){ 1, step, step };
}

static void give(const struct drainer_event *ev)
{
    out.count = 0;
    CHECK(drainer_step(&d, ev, now, &out));
    cases++;
}

static void begin(uint32_t tiers, uint32_t streams)
{
    now = 100 * SEC;
    drainer_init(&d, tiers, streams, now);
    d.tiers[1].scan_ns = d.tiers[2].scan_ns = INT64_MAX; /* asked for by the test */
}

static void want(uint32_t tier, uint64_t step, bool fresh)
{
    give(&(struct drainer_event){
        .kind = DRAINER_WANT, .tier = tier, .job = "j", .name = at(step), .fresh = fresh });
}

static void tick(int64_t later)
{
    now += later;
    give(&(struct drainer_event){ .kind = DRAINER_TICK });
}

static struct drainer_event done(enum drainer_job what, enum ckpt_status st)
{
    return (struct drainer_event){
        .kind = DRAINER_DONE, .tier = 1, .what = what, .status = st, .text = "why"
    };
}

/* The only action is to run that. */
static void runs(enum drainer_job what, uint64_t step)
{
    CHECK_EQ(out.count, 1);
    CHECK_EQ(out.list[0].kind, DRAINER_RUN);
    CHECK_EQ(out.list[0].what, what);
    if (what != DRAINER_SCAN)
        CHECK_EQ(d.targets[out.list[0].target].name.step, step);
}

static void opened(uint32_t world)
{
    struct drainer_event ev = done(DRAINER_OPEN, CKPT_OK);
    ev.world = world;
    ev.bytes = 1000;
    give(&ev);
}

static void part(uint32_t rank, uint32_t packs, uint32_t total)
{
    struct drainer_event ev = done(DRAINER_PART, CKPT_OK);
    ev.rank = rank;
    ev.packs = packs;
    ev.total = total;
    ev.bytes = 7;
    ev.raw_bytes = 500;
    give(&ev);
}

static void packed(void)
{
    struct drainer_event ev = done(DRAINER_PACK, CKPT_OK);
    ev.bytes = 10;
    give(&ev);
}

static void one_whole(void)
{
    begin(2, 2);
    want(1, 5, true);
    runs(DRAINER_OPEN, 5);
    CHECK_EQ(drainer_lag(&d, 1), 1);
    opened(2);
    runs(DRAINER_PART, 5);
    CHECK_EQ(out.list[0].rank, 0);
    part(0, 3, 4);
    CHECK_EQ(out.count, 2); /* as many as there are streams */
    CHECK(out.list[0].what == DRAINER_PACK && out.list[0].pack == 0 && out.list[1].pack == 1);
    CHECK_EQ(drainer_raw_done(&d.tiers[1]), 125); /* the one of four that was there */
    packed();
    CHECK(out.count == 1 && out.list[0].pack == 2);
    packed();
    CHECK_EQ(out.count, 0);
    packed();
    runs(DRAINER_ACCOUNT, 5);
    CHECK_EQ(d.tiers[1].rank_stored, 7 + 30);
    struct drainer_event ev = done(DRAINER_ACCOUNT, CKPT_OK);
    give(&ev);
    runs(DRAINER_PART, 5);
    CHECK_EQ(out.list[0].rank, 1);
    CHECK_EQ(drainer_raw_done(&d.tiers[1]), 500);
    part(1, 0, 0); /* a rank without packs, or all of them there */
    runs(DRAINER_ACCOUNT, 5);
    give(&ev);
    part(2, 0, 0);
    runs(DRAINER_FINISH, 5);
    CHECK(drainer_busy(&d));
    ev = done(DRAINER_FINISH, CKPT_OK);
    give(&ev);
    CHECK(out.count == 1 && out.list[0].kind == DRAINER_HELD && out.list[0].name.step == 5);
    CHECK(out.list[0].last && strcmp(out.list[0].job, "j") == 0);
    CHECK(!drainer_busy(&d) && drainer_lag(&d, 1) == 0 && d.tiers[1].held_step == 5);
    CHECK_EQ(d.tiers[1].held, 1);
    want(1, 5, false); /* by a scan that listed the tier before */
    ev = done(DRAINER_OPEN, CKPT_EXISTS);
    give(&ev);
    CHECK(out.count == 1 && out.list[0].kind == DRAINER_HELD);
    CHECK_EQ(d.tiers[1].held, 1); /* it was brought there once */
}

/* Goes through with one that is open. */
static void finish_one(void)
{
    opened(1);
    part(1, 0, 0);
    struct drainer_event ev = done(DRAINER_FINISH, CKPT_OK);
    give(&ev);
}

/* Newest decided first; one begun is finished; what a scan found comes behind. */
/* How far behind, how fast, and when it is there, by the test's clock. */
static void progress(void)
{
    begin(2, 1);
    const struct drainer_tier *t = &d.tiers[1];
    CHECK_EQ(drainer_lag_ns(&d, 1, now), 0);
    want(1, 5, true);
    now += 3 * SEC;
    want(1, 6, true); /* waits for the other, and not so long yet */
    CHECK_EQ(drainer_lag_ns(&d, 1, now), 3 * SEC);
    opened(2);      /* 1000 bytes */
    part(0, 3, 4);  /* of 500; a quarter was there */
    now += 7 * SEC; /* ten since it began */
    CHECK(drainer_rate(t, now) == 0 && drainer_left(t, now) == PROGRESS_UNKNOWN);
    packed(); /* 10 bytes stored stand for 125 */
    CHECK_EQ(drainer_raw_done(t), 250);
    CHECK(drainer_rate(t, now) == 1 && drainer_left(t, now) == 60);
    now += 10 * SEC;
    CHECK(drainer_rate(t, now) == 0.5 && drainer_left(t, now) == 120);
    packed();
    packed();
    CHECK(out.count == 1 && out.list[0].what == DRAINER_ACCOUNT && drainer_raw_done(t) == 500);
    CHECK(drainer_rate(t, now) == 1.5 && drainer_left(t, now) == 500 / (375 / 20.0));
    struct drainer_event ev = done(DRAINER_ACCOUNT, CKPT_OK);
    give(&ev);
    part(1, 0, 4); /* all of it was there: nothing is left, and it went no faster for that */
    CHECK(drainer_rate(t, now) == 1.5 && drainer_left(t, now) == PROGRESS_UNKNOWN);
    give(&ev);
    part(2, 0, 0);
    ev = done(DRAINER_FINISH, CKPT_OK);
    give(&ev);
    CHECK(out.count == 2 && out.list[1].what == DRAINER_OPEN); /* the other one, from the start */
    CHECK(drainer_rate(t, now) == 0 && drainer_left(t, now) == PROGRESS_UNKNOWN);
    CHECK_EQ(drainer_lag_ns(&d, 1, now), 17 * SEC);
    cases += 10;
}

static void order(void)
{
    begin(2, 4);
    want(1, 1, true);
    runs(DRAINER_OPEN, 1);
    want(1, 90, false);
    want(1, 95, false);
    want(1, 2, true);
    want(1, 3, true);
    want(1, 3, true); /* known */
    CHECK_EQ(out.count, 0);
    CHECK_EQ(drainer_lag(&d, 1), 5);
    const uint64_t then[] = { 3, 2, 95, 90 };
    for (size_t i = 0; i < ARRAY_COUNT(then); i++) {
        finish_one();
        CHECK(out.count == 2 && out.list[1].what == DRAINER_OPEN);
        CHECK_EQ(d.targets[out.list[1].target].name.step, then[i]);
    }
    finish_one();
    CHECK(out.count == 1 && !drainer_busy(&d));
}

/* The tier fails: all packs that are out come back, a pause that grows, PART again. */
static void trouble(void)
{
    begin(2, 3);
    want(1, 5, true);
    opened(1);
    for (int64_t pause = 1; pause <= 64; pause *= 2) {
        part(0, 9, 9);
        CHECK_EQ(out.count, 3);
        struct drainer_event bad = done(DRAINER_PACK, CKPT_UNREACHABLE);
        give(&bad);
        CHECK_EQ(out.count, 0);
        CHECK_EQ(d.tiers[1].status, CKPT_UNREACHABLE);
        CHECK_STR(d.tiers[1].text, "why");
        want(1, 6, true); /* one begun is finished */
        CHECK_EQ(out.count, 0);
        give(&bad);
        packed();
        CHECK_EQ(out.count, 0);
        int64_t due = pause < 60 ? pause : 60;
        tick(due * SEC - 1);
        CHECK_EQ(out.count, 0);
        CHECK_EQ(drainer_busy(&d), pause < 8);
        tick(1);
        runs(DRAINER_PART, 5);
    }
    part(0, 1, 9);
    packed();
    CHECK_EQ(d.tiers[1].status, CKPT_OK);
    runs(DRAINER_ACCOUNT, 5);
    CHECK_EQ(d.tiers[1].rank_stored, 17); /* counted anew with each PART */
    struct drainer_event ev = done(DRAINER_ACCOUNT, CKPT_IO);
    give(&ev);
    tick(SEC);
    runs(DRAINER_PART, 5); /* nothing of it is taken for granted */
    part(1, 0, 0);
    ev = done(DRAINER_FINISH, CKPT_IO);
    give(&ev);
    tick(2 * SEC);
    runs(DRAINER_FINISH, 5);
}

/* Damage is the checkpoint's fault: others come first, it is looked at once more, and comes again
 * much later. */
static void damaged(void)
{
    begin(2, 2);
    want(1, 5, true);
    CHECK(d.targets[out.list[0].target].fresh); /* nobody has to look whether it is begun */
    want(1, 4, false);
    opened(1);
    part(0, 5, 5);
    struct drainer_event ev = done(DRAINER_PACK, CKPT_CORRUPT);
    give(&ev);
    CHECK_EQ(out.count, 0);
    packed(); /* the last of those under way */
    runs(DRAINER_OPEN, 4);
    CHECK(!d.targets[out.list[0].target].fresh);
    finish_one();
    CHECK_EQ(out.count, 1);
    CHECK_EQ(drainer_lag(&d, 1), 1);
    CHECK(drainer_busy(&d)); /* perhaps it only looked so */
    tick(DRAINER_DOUBT_NS - SEC);
    CHECK_EQ(out.count, 0);
    tick(SEC);
    runs(DRAINER_OPEN, 5);
    CHECK(!d.targets[out.list[0].target].fresh); /* a part of it lies there */
    ev = done(DRAINER_OPEN, CKPT_CORRUPT);
    give(&ev);
    CHECK_EQ(out.count, 0);
    CHECK(!drainer_busy(&d)); /* nobody waits for that */
    tick(DRAINER_BAD_NS - SEC);
    CHECK_EQ(out.count, 0);
    tick(SEC);
    runs(DRAINER_OPEN, 5);
    ev = done(DRAINER_OPEN, CKPT_CONFLICT);
    give(&ev);
    CHECK_EQ(out.count, 0);
    CHECK_EQ(d.tiers[1].status, CKPT_CONFLICT);
}

static void ends_early(void)
{
    const struct {
        enum drainer_job what;
        enum ckpt_status st;
        enum drainer_action_kind kind;
    } rows[] = { { DRAINER_OPEN, CKPT_EXISTS, DRAINER_HELD },
                 { DRAINER_OPEN, CKPT_NOT_PLANNED, DRAINER_NOT_PLANNED },
                 { DRAINER_OPEN, CKPT_ABORTED, DRAINER_NOT_PLANNED },
                 { DRAINER_PART, CKPT_ABORTED, DRAINER_NOT_PLANNED },
                 { DRAINER_FINISH, CKPT_ABORTED, DRAINER_NOT_PLANNED } };
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        begin(3, 2);
        want(1, 5, true);
        want(2, 5, true);
        if (rows[i].what != DRAINER_OPEN)
            opened(1);
        if (rows[i].what == DRAINER_FINISH)
            part(1, 0, 0);
        struct drainer_event ev = done(rows[i].what, rows[i].st);
        give(&ev);
        CHECK(out.count == 1 && out.list[0].kind == rows[i].kind);
        CHECK(!out.list[0].last); /* the other tier may still get it */
        CHECK_EQ(drainer_lag(&d, 1), 0);
        CHECK_EQ(d.tiers[1].status, CKPT_OK);
        ev = done(DRAINER_OPEN, CKPT_NOT_PLANNED);
        ev.tier = 2;
        give(&ev);
        CHECK(out.count == 1 && out.list[0].last);
    }
}

/* Other nodes' parts are missing: it waits aside, 1 to 10 s, and others get the tier. */
static void other_nodes(void)
{
    begin(2, 2);
    want(1, 5, true);
    opened(2);
    part(2, 0, 0);
    const int64_t pauses[] = { 1, 2, 4, 8, 10, 10 };
    for (size_t i = 0; i < ARRAY_COUNT(pauses); i++) {
        struct drainer_event ev = done(DRAINER_FINISH, CKPT_BUSY);
        give(&ev);
        CHECK_EQ(out.count, 0);
        CHECK_EQ(d.tiers[1].status, CKPT_OK); /* no trouble */
        CHECK(!drainer_busy(&d));
        if (i == 0) {
            want(1, 4, false);
            runs(DRAINER_OPEN, 4);
            finish_one();
        }
        tick(pauses[i] * SEC - 1);
        CHECK_EQ(out.count, 0);
        tick(1);
        runs(DRAINER_FINISH, 5);
    }
    struct drainer_event ev = done(DRAINER_FINISH, CKPT_OK);
    give(&ev);
    CHECK_EQ(out.list[0].kind, DRAINER_HELD);
}

/* All others wait for the node that has rank 0's part: it looks more often, keeps what it has
 * seen, and is waited for. */
static void last_word(void)
{
    struct drainer_event ev = done(DRAINER_FINISH, CKPT_BUSY);
    begin(2, 2);
    want(1, 5, true);
    opened(1);
    part(1, 0, 0);
    const int64_t pauses[] = { 1, 2, 2 };
    for (uint32_t i = 0; i < ARRAY_COUNT(pauses); i++) {
        ev.wait = (struct drain_wait){ .looks = i + 1, .from = 7 * i, .ours = true };
        give(&ev);
        CHECK(drainer_busy(&d));
        tick(pauses[i] * SEC - 1);
        CHECK_EQ(out.count, 0);
        tick(1);
        runs(DRAINER_FINISH, 5);
        const struct drain_wait *kept = &d.targets[out.list[0].target].wait;
        CHECK(kept->looks == i + 1 && kept->from == 7 * i && kept->ours);
    }
    ev.wait.looks = DRAINER_OURS_LOOKS;
    give(&ev);
    CHECK(!drainer_busy(&d)); /* the others may be lost */
    tick(2 * SEC);
    runs(DRAINER_FINISH, 5);
}

static void scanning(void)
{
    begin(2, 2);
    d.tiers[1].scan_ns = now;
    tick(0);
    runs(DRAINER_SCAN, 0);
    CHECK(drainer_busy(&d));
    struct drainer_event ev = { .kind = DRAINER_SCANNED, .tier = 1, .status = CKPT_UNREACHABLE };
    give(&ev);
    CHECK_EQ(d.tiers[1].status, CKPT_UNREACHABLE);
    tick(SEC);
    runs(DRAINER_SCAN, 0);
    ev.status = CKPT_OK;
    give(&ev);
    CHECK_EQ(d.tiers[1].status, CKPT_OK);
    tick(DRAINER_SCAN_NS - SEC);
    CHECK_EQ(out.count, 0);
    give(&(struct drainer_event){ .kind = DRAINER_RESCAN });
    runs(DRAINER_SCAN, 0);
    ev.more = true; /* the table was too small */
    give(&ev);
    tick(DRAINER_PAUSE_MAX_NS);
    runs(DRAINER_SCAN, 0);
    /* More than the table holds: a scan will find the rest. */
    begin(2, 2);
    for (uint64_t i = 0; i < DRAINER_TARGETS_MAX; i++)
        want(1, i + 1, true);
    out.count = 0;
    CHECK(!drainer_step(
        &d,
        &(struct drainer_event){ .kind = DRAINER_WANT, .tier = 1, .job = "j", .name = at(9999) },
        now, &out));
    CHECK_EQ(d.tiers[1].scan_ns, now + DRAINER_PAUSE_MAX_NS);
}

static void repairs(void)
{
    begin(2, 2);
    want(0, 5, false);
    runs(DRAINER_REPAIR, 5);
    want(0, 5, false);
    CHECK_EQ(out.count, 0);
    struct drainer_event ev = done(DRAINER_REPAIR, CKPT_OK);
    ev.tier = 0;
    ev.bytes = 1;
    give(&ev);
    CHECK(out.count == 1 && out.list[0].kind == DRAINER_REPAIRED);
    want(0, 5, false);
    ev.bytes = 0;
    give(&ev);
    CHECK(out.count == 1 && out.list[0].kind == DRAINER_NEEDLESS);
    want(0, 6, false);
    ev.status = CKPT_CORRUPT;
    give(&ev);
    tick(SEC);
    CHECK_EQ(out.count, 0);
}

static void stops(void)
{
    begin(2, 2);
    want(1, 5, true);
    opened(1);
    part(0, 9, 9);
    give(&(struct drainer_event){ .kind = DRAINER_STOP });
    struct drainer_event ev = done(DRAINER_PACK, CKPT_CANCELLED);
    give(&ev);
    packed();
    CHECK_EQ(out.count, 0);
    want(1, 6, true);
    tick(100 * SEC);
    CHECK_EQ(out.count, 0);
    CHECK_EQ(d.tiers[1].status, CKPT_OK); /* to be stopped is no trouble */
    begin(1, 2);                          /* nothing but the near tier: nothing to do */
    want(1, 5, true);
    CHECK_EQ(out.count, 0);
}

/* -- at random ------------------------------------------------------------------------- */

struct flying {
    enum drainer_job what;
    uint32_t tier;
};
static struct flying fly[256];
static size_t flying;
static uint64_t held, ended;

static void take(void)
{
    for (uint32_t i = 0; i < out.count; i++) {
        const struct drainer_action *a = &out.list[i];
        held += a->kind == DRAINER_HELD;
        ended += a->kind == DRAINER_NOT_PLANNED;
        if (a->kind != DRAINER_RUN)
            continue;
        CHECK(flying < ARRAY_COUNT(fly));
        fly[flying++] = (struct flying){ a->what, a->tier };
        size_t of_tier = 0, packs = 0;
        for (size_t k = 0; k < flying; k++) {
            bool same = fly[k].tier == a->tier && fly[k].what != DRAINER_SCAN;
            of_tier += same;
            packs += same && fly[k].what == DRAINER_PACK;
        }
        CHECK(a->what == DRAINER_SCAN || of_tier == 1 || (packs == of_tier && packs <= d.streams));
    }
}

static void land(unsigned long long *rand)
{
    static const enum ckpt_status bad[] = { CKPT_IO,      CKPT_UNREACHABLE, CKPT_TIMEOUT,
                                            CKPT_CORRUPT, CKPT_CONFLICT,    CKPT_NO_MEMORY };
    size_t i = test_rand(rand) % flying;
    struct flying f = fly[i];
    fly[i] = fly[--flying];
    struct drainer_event ev = { .kind = f.what == DRAINER_SCAN ? DRAINER_SCANNED : DRAINER_DONE,
                                .tier = f.tier,
                                .what = f.what };
    uint64_t r = test_rand(rand) % 100;
    if (r < 15)
        ev.status = bad[test_rand(rand) % ARRAY_COUNT(bad)];
    else if (r < 20 && f.what == DRAINER_OPEN)
        ev.status = r < 18 ? CKPT_NOT_PLANNED : CKPT_EXISTS;
    else if (r < 30 && f.what == DRAINER_FINISH)
        ev.status = r < 22 ? CKPT_ABORTED : CKPT_BUSY;
    ev.world = 3;
    ev.rank = (uint32_t)(d.tiers[f.tier].rank + test_rand(rand) % 2);
    if (ev.rank > 3)
        ev.rank = 3;
    ev.packs = (uint32_t)(test_rand(rand) % 9);
    ev.total = ev.packs + 2;
    give(&ev);
    take();
}

static void at_random(unsigned long long seed)
{
    uint64_t wanted = 0;
    begin(3, 3);
    for (int i = 0; i < 40000; i++) {
        uint64_t r = test_rand(&seed) % 100;
        if (r < 2 && wanted < 400) {
            out.count = 0;
            wanted += drainer_step(&d,
                                   &(struct drainer_event){ .kind = DRAINER_WANT,
                                                            .tier = 1 + (uint32_t)(r & 1),
                                                            .job = "j",
                                                            .name = at((uint64_t)i + 1),
                                                            .fresh = i % 3 },
                                   now, &out);
            take();
        } else if (r < 30 || flying == 0) {
            tick((int64_t)(test_rand(&seed) % (uint64_t)(5 * SEC)));
            take();
        } else {
            land(&seed);
        }
    }
    for (int i = 0; i < 4000 && drainer_lag(&d, 1) + drainer_lag(&d, 2) > 0; i++) {
        while (flying > 0)
            land(&seed);
        tick(DRAINER_BAD_NS);
        take();
    }
    CHECK_EQ(drainer_lag(&d, 1) + drainer_lag(&d, 2), 0);
    CHECK_EQ(held + ended, wanted);
    CHECK(held > 100 && ended > 10);
    printf("%d held, %d ended early\n", (int)held, (int)ended);
}

int main(void)
{
    unsigned long long seed = test_seed(4711);
    one_whole();
    progress();
    order();
    trouble();
    damaged();
    ends_early();
    other_nodes();
    last_word();
    scanning();
    repairs();
    stops();
    at_random(seed);
    CHECK_STR(drainer_job_name(DRAINER_FINISH), "finish");
    TEST_CASES(cases);
    return 0;
}
