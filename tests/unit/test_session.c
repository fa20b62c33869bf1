/* The session machine (session.c, session_state.c, session_save.c, session_load.c,
 * session_life.c) by event sequences: a random walk with a replay (as after a killed
 * worker) at every step, and the laws that must hold after each event. */
#include <stdio.h>

#include "ckptd/session.h"

#include "check.h"

static long cases;
static struct session s;
static struct session_actions acts;
static struct session_pack packs[SESSION_OPS_MAX][8];
static int64_t now = 1;

static enum ckpt_status step(struct session_event ev)
{
    struct ckpt_err err = { 0 };
    acts.count = 0;
    cases++;
    return session_step(&s, &ev, ++now, &acts, &err);
}

static uint32_t count(uint32_t kind)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < acts.count; i++)
        n += acts.list[i].kind == kind;
    return n;
}

static void begin(uint32_t slots, uint32_t image_slots)
{
    s = (struct session){ .mode = WIRE_TRAIN, .world = 2, .rank = 1, .epoch = 3 };
    snprintf(s.job, sizeof(s.job), "j");
    memset(packs, 0, sizeof(packs));
    CHECK_OK(step((struct session_event){ .kind = SESSION_STATE, .seq = 1, .state = 7 }));
    CHECK_EQ(count(ACT_SEAL), 1);
    CHECK_OK(step((struct session_event){ .kind = SESSION_SEALED,
                                          .state = 0,
                                          .slots = slots,
                                          .image_slots = image_slots,
                                          .bytes = 100 }));
    CHECK_EQ(count(ACT_SEND_STATE), 1);
}

static enum ckpt_status save(uint64_t op, uint64_t at_step, uint32_t try_)
{
    enum ckpt_status st = step((struct session_event){ .kind = SESSION_SAVE,
                                                       .seq = s.seq + 1,
                                                       .op = op,
                                                       .state = 7,
                                                       .step = at_step,
                                                       .try_ = try_ });
    uint32_t at = session_op_of(&s, op);
    if (st == CKPT_OK && at != UINT32_MAX) /* control gives each save zeroed memory */
        memset(packs[at], 0, sizeof(packs[at]));
    return st;
}

static enum ckpt_status full(uint64_t op, uint32_t slot, uint32_t part, bool last)
{
    uint32_t at = session_op_of(&s, op);
    return step((struct session_event){ .kind = SESSION_FULL,
                                        .seq = s.seq + 1,
                                        .op = op,
                                        .state = 7,
                                        .slot = slot,
                                        .image_slot = part,
                                        .flags = last ? WIRE_FULL_LAST : 0,
                                        .packs = at == UINT32_MAX ? NULL : packs[at] });
}

static void packed(uint64_t op, uint32_t slot, enum ckpt_status st)
{
    uint32_t at = session_op_of(&s, op);
    CHECK_OK(step((struct session_event){ .kind = SESSION_PACKED,
                                          .op = op,
                                          .slot = slot,
                                          .image_slot = s.slots[slot].image_slot,
                                          .status = st,
                                          .stored = 5,
                                          .bytes = 5,
                                          .packs = packs[at] }));
}

static void test_good_save(void)
{
    begin(2, 3);
    CHECK_OK(save(1, 120, 0));
    CHECK_EQ(count(ACT_BEGIN), 1);
    CHECK_OK(step((struct session_event){ .kind = SESSION_BEGUN, .op = 1 }));
    CHECK_EQ(count(ACT_SEND_GRANT), 2); /* both slots, though three are wanted */
    CHECK_EQ(count(ACT_JOIN), 1);
    CHECK_OK(full(1, 0, 0, false));
    CHECK_OK(full(1, 1, 1, false));
    CHECK_EQ(count(ACT_SEND_GRANT), 0);
    CHECK_OK(step((struct session_event){ .kind = SESSION_FULL, .seq = s.seq, .op = 1 }));
    CHECK_EQ(acts.count, 0); /* a repeat has no effect, whatever it says */
    packed(1, 1, CKPT_OK);
    CHECK_EQ(count(ACT_SEND_GRANT), 1);
    CHECK_EQ(count(ACT_SEND_OP), 1); /* how far it is */
    CHECK_EQ(s.ops[0].done_bytes, 5);
    CHECK_OK(full(1, 1, 2, true));
    CHECK_EQ(s.ops[0].level, WIRE_LEVEL_STAGED);
    CHECK_EQ(count(ACT_FINISH), 0);
    packed(1, 0, CKPT_OK);
    packed(1, 1, CKPT_OK);
    CHECK_EQ(count(ACT_FINISH), 1);
    CHECK_OK(step((struct session_event){ .kind = SESSION_FINISHED, .op = 1 }));
    CHECK_EQ(count(ACT_PUT), 1);
    CHECK_OK(step((struct session_event){ .kind = SESSION_DECIDED, .op = 1 }));
    CHECK_EQ(count(ACT_SEND_FINAL), 1);
    CHECK_EQ(s.finals[0].level, WIRE_LEVEL_LOCAL);
    CHECK(!session_busy(&s));
    CHECK_EQ(session_count(&s, 0, SLOT_FREE), 2);
}

/* The same attempt twice: one of them would wait for ever, as an attempt is decided once. */
static void test_same_attempt(void)
{
    begin(2, 1);
    CHECK_OK(save(1, 120, 0));
    struct session before = s;
    CHECK_EQ(save(2, 120, 0), CKPT_INVALID);
    CHECK(memcmp(&before, &s, sizeof(s)) == 0 && acts.count == 0);
    CHECK_OK(save(2, 120, 1)); /* another try of the step waits for the first */
    CHECK_EQ(s.ops[1].phase, OP_HOLD);
    CHECK_OK(step((struct session_event){ .kind = SESSION_BEGUN, .op = 1, .status = CKPT_EXISTS }));
    CHECK_OK(save(3, 120, 0)); /* it is over: the number may come again */
}

static void test_wrong_messages(void)
{
    begin(2, 2);
    struct session before = s;
    CHECK(save(0, 1, 0) != CKPT_OK);
    CHECK(full(1, 0, 0, false) != CKPT_OK);
    CHECK(step((struct session_event){
              .kind = SESSION_SAVE, .seq = s.seq + 2, .op = 1, .state = 7 }) != CKPT_OK);
    CHECK(step((struct session_event){
              .kind = SESSION_SAVE, .seq = s.seq + 1, .op = 1, .state = 8 }) != CKPT_OK);
    CHECK(memcmp(&before, &s, sizeof(s)) == 0); /* a refused message changes nothing */
    CHECK_OK(save(1, 1, 0));
    CHECK(full(1, 0, 0, false) != CKPT_OK); /* not granted yet */
    CHECK_OK(step((struct session_event){ .kind = SESSION_BEGUN, .op = 1 }));
    CHECK(full(1, 2, 0, false) != CKPT_OK); /* no such slot */
    CHECK(full(1, 0, 2, false) != CKPT_OK); /* no such part */
    CHECK(full(1, 0, 0, true) != CKPT_OK);  /* not the last */
    CHECK_OK(full(1, 0, 0, false));
    CHECK(full(1, 0, 1, true) != CKPT_OK);  /* not the client's any more */
    CHECK(full(1, 1, 0, true) != CKPT_OK);  /* that part is there */
    CHECK(full(1, 1, 1, false) != CKPT_OK); /* it is the last */
    CHECK_OK(full(1, 1, 1, true));
    CHECK(full(1, 1, 1, true) != CKPT_OK);
    CHECK(save(1, 2, 0) != CKPT_OK); /* ids rise */
    uint64_t seq = s.seq;
    s.seq--; /* the ledger of before: the same FULL again is no double */
    CHECK_EQ(packs[0][1].full_seq, seq);
}

static void test_holds(void)
{
    begin(4, 1);
    CHECK_OK(save(1, 5, 0));
    CHECK_OK(save(2, 5, 1)); /* the same step: waits for the fate of the first */
    CHECK_EQ(count(ACT_BEGIN), 0);
    CHECK_OK(step((struct session_event){ .kind = SESSION_BEGUN, .op = 1 }));
    CHECK_OK(full(1, 0, 0, true));
    packed(1, 0, CKPT_OK);
    CHECK_OK(step((struct session_event){ .kind = SESSION_FINISHED, .op = 1 }));
    CHECK_OK(step((struct session_event){ .kind = SESSION_DECIDED, .op = 1 }));
    CHECK_EQ(count(ACT_BEGIN), 1);
    CHECK_OK(step((struct session_event){ .kind = SESSION_BEGUN, .op = 2, .status = CKPT_EXISTS }));
    CHECK_EQ(count(ACT_PART_FAILED), 0);
    CHECK(!session_busy(&s));
    for (uint64_t op = 3; op < 3 + SESSION_OPS_MAX; op++)
        CHECK_OK(save(op, op, 0));
    CHECK_OK(save(99, 99, 0)); /* no room: BUSY, and the other ranks hear of it */
    CHECK_EQ(count(ACT_PART_FAILED), 1);
    CHECK_EQ(count(ACT_SEND_FINAL), 1);
}

static void test_failures(void)
{
    begin(2, 2);
    CHECK_OK(save(1, 5, 0));
    CHECK_OK(step((struct session_event){ .kind = SESSION_BEGUN, .op = 1 }));
    CHECK_OK(full(1, 0, 0, false));
    packed(1, 0, CKPT_FULL);
    CHECK_EQ(count(ACT_FAIL_PART), 1);
    CHECK_EQ(count(ACT_SEND_FINAL), 1);
    CHECK_OK(full(1, 1, 1, true)); /* crossed on the way: no offence */
    CHECK_OK(step((struct session_event){ .kind = SESSION_FAILED_PUT, .op = 1 }));
    CHECK_EQ(count(ACT_PART_FAILED), 1);
    CHECK_OK(step((struct session_event){ .kind = SESSION_DECIDED, .op = 1, .status = CKPT_FULL }));
    CHECK(!session_busy(&s));
    CHECK_EQ(session_count(&s, 0, SLOT_FREE), 2);
    /* Dead with one slot queued and one its own: both are quarantined, in time. */
    CHECK_OK(save(2, 6, 0));
    CHECK_OK(step((struct session_event){ .kind = SESSION_BEGUN, .op = 2 }));
    CHECK_OK(full(2, 0, 0, false));
    CHECK_OK(step((struct session_event){ .kind = SESSION_DEAD, .text = "died" }));
    CHECK_EQ(count(ACT_DROP_ARENA), 0);
    CHECK_EQ(count(ACT_FAIL_PART), 1);
    CHECK_EQ(session_count(&s, 0, SLOT_QUARANTINED), 1);
    CHECK(strstr(s.ops[0].text, "rank 1 died while copying step 6"));
    packed(2, 0, CKPT_OK);
    CHECK_EQ(count(ACT_DROP_ARENA), 1);
    CHECK_EQ(count(ACT_OVER), 0);
    CHECK_OK(step((struct session_event){ .kind = SESSION_FAILED_PUT, .op = 2 }));
    CHECK_OK(
        step((struct session_event){ .kind = SESSION_DECIDED, .op = 2, .status = CKPT_ABORTED }));
    CHECK(count(ACT_OVER) > 0);
    CHECK_EQ(session_count(&s, 0, SLOT_FREE), 0);
    CHECK(save(3, 7, 0) != CKPT_OK);
}

static void finished(enum ckpt_status st)
{
    CHECK_OK(step((struct session_event){ .kind = SESSION_FINISHED, .op = 1, .status = st }));
}

static void home_away(enum ckpt_status st)
{
    CHECK_OK(step(
        (struct session_event){ .kind = SESSION_FINISHED, .op = 1, .status = st, .away = true }));
}

static void tick(int64_t later_ns)
{
    now += later_ns;
    CHECK_OK(step((struct session_event){ .kind = SESSION_TICK }));
}

static void begin_finish(void)
{
    begin(2, 1);
    CHECK_OK(save(1, 120, 0));
    CHECK_OK(step((struct session_event){ .kind = SESSION_BEGUN, .op = 1 }));
    CHECK_OK(full(1, 0, 0, true));
    packed(1, 0, CKPT_OK);
    CHECK_EQ(count(ACT_FINISH), 1);
}

/* H5: a staged save waits for a home that is away, soon at first, and until its deadline. */
static void test_home_away(void)
{
    static const enum ckpt_status away[] = { CKPT_UNREACHABLE, CKPT_TIMEOUT, CKPT_IO };
    const int64_t least = SESSION_AWAY_MIN_NS, most = SESSION_AWAY_MAX_NS;
    begin_finish();
    int64_t pause = least;
    for (int i = 0; i < 8; i++) {
        home_away(away[i % 3]);
        CHECK_EQ(acts.count, 0);
        CHECK_EQ(s.ops[0].phase, OP_FINISH);
        tick(pause - 10);
        CHECK_EQ(count(ACT_FINISH), 0);
        tick(10);
        CHECK_EQ(count(ACT_FINISH), 1);
        CHECK(s.ops[0].job_out);
        tick(2 * pause); /* while it is out */
        CHECK_EQ(count(ACT_FINISH), 0);
        pause = 2 * pause < most ? 2 * pause : most;
    }
    finished(CKPT_OK);
    CHECK_EQ(count(ACT_PUT), 1);
    /* The worker dies while it waits. */
    begin_finish();
    home_away(CKPT_UNREACHABLE);
    CHECK_OK(step((struct session_event){ .kind = SESSION_REPLAY }));
    CHECK_EQ(count(ACT_FINISH), 1);
    tick(most);
    CHECK_EQ(count(ACT_FINISH), 0);
    /* Others decide meanwhile. */
    begin_finish();
    home_away(CKPT_UNREACHABLE);
    CHECK_OK(
        step((struct session_event){ .kind = SESSION_DECIDED, .op = 1, .status = CKPT_ABORTED }));
    CHECK_EQ(count(ACT_SEND_FINAL), 1);
    CHECK(!session_busy(&s));
    tick(most);
    CHECK_EQ(count(ACT_FINISH), 0);
    /* Not for ever, and not for what waiting does not mend. */
    begin_finish();
    now = s.ops[0].deadline_ns;
    home_away(CKPT_UNREACHABLE);
    CHECK_EQ(count(ACT_FAIL_PART), 1);
    begin_finish();
    finished(CKPT_TIMEOUT); /* of the node's own disk */
    CHECK_EQ(count(ACT_FAIL_PART), 1);
    begin_finish();
    finished(CKPT_DENIED);
    CHECK_EQ(count(ACT_FAIL_PART), 1);
}

static void pack_away(uint32_t slot)
{
    CHECK_OK(step((struct session_event){ .kind = SESSION_PACKED,
                                          .op = 1,
                                          .slot = slot,
                                          .image_slot = slot,
                                          .status = CKPT_UNREACHABLE,
                                          .away = true,
                                          .packs = packs[0] }));
}

/* H5: so does what is filled, in its slots, where the home is where packs go. */
static void test_home_away_packs(void)
{
    for (int end = 0; end < 5; end++) {
        begin(2, 2);
        CHECK_OK(save(1, 120, 0));
        CHECK_OK(step((struct session_event){ .kind = SESSION_BEGUN, .op = 1 }));
        CHECK_OK(full(1, 0, 0, false));
        CHECK_OK(full(1, 1, 1, true));
        pack_away(0);
        pack_away(1);
        CHECK_EQ(acts.count, 0);
        CHECK_EQ(s.ops[0].queued, 2);
        CHECK_EQ(s.ops[0].away_pause_ns, SESSION_AWAY_MIN_NS); /* one pause for both */
        tick(SESSION_AWAY_MIN_NS / 2);
        CHECK_EQ(acts.count, 0);
        struct session before = s;
        packed(1, 0, CKPT_OK); /* of no job */
        CHECK(memcmp(&before, &s, sizeof(s)) == 0);
        if (end == 0) { /* it is back */
            tick(SESSION_AWAY_MIN_NS);
            CHECK_EQ(count(ACT_PACK), 2);
            packed(1, 0, CKPT_OK);
            CHECK_EQ(s.ops[0].away_pause_ns, 0);
            packed(1, 1, CKPT_OK);
            CHECK_EQ(count(ACT_FINISH), 1);
            continue;
        }
        if (end == 1) { /* not in time */
            now = s.ops[0].deadline_ns;
            tick(SESSION_AWAY_MIN_NS);
            CHECK_EQ(count(ACT_PACK), 2);
            pack_away(0);
            CHECK_EQ(count(ACT_FAIL_PART), 1);
            pack_away(1);
        } else if (end == 2) { /* the worker dies meanwhile */
            CHECK_OK(step((struct session_event){ .kind = SESSION_REPLAY }));
            CHECK_EQ(count(ACT_PACK), 2);
            packed(1, 1, CKPT_IO);
            packed(1, 0, CKPT_OK);
        } else if (end == 3) { /* others decide */
            CHECK_OK(step((struct session_event){
                .kind = SESSION_DECIDED, .op = 1, .status = CKPT_ABORTED }));
            CHECK(!session_busy(&s));
        } else { /* one of the two fails for good */
            tick(SESSION_AWAY_MIN_NS);
            pack_away(0);
            packed(1, 1, CKPT_IO);
            CHECK_EQ(count(ACT_FAIL_PART), 1);
        }
        CHECK_EQ(session_count(&s, 0, SLOT_FREE), 2);
        tick(SESSION_AWAY_MAX_NS);
        CHECK_EQ(count(ACT_PACK), 0);
    }
}

/* The save in the last place begins when another one has ended, or when the home is away. */
static void test_last_place(void)
{
    begin_finish();
    for (uint64_t op = 2; op < SESSION_OPS_MAX; op++) {
        CHECK_OK(save(op, 120 + op, 0));
        CHECK_EQ(count(ACT_BEGIN), 1);
    }
    struct session before = s;
    CHECK_OK(save(SESSION_OPS_MAX, 200, 0));
    CHECK_EQ(acts.count, 0);
    CHECK_OK(save(SESSION_OPS_MAX + 1, 201, 0)); /* has none */
    CHECK_EQ(count(ACT_SEND_FINAL) + count(ACT_PART_FAILED), 2);
    finished(CKPT_OK);
    CHECK_EQ(count(ACT_BEGIN), 0);
    CHECK_OK(step((struct session_event){ .kind = SESSION_DECIDED, .op = 1 }));
    CHECK_EQ(count(ACT_BEGIN), 1);
    s = before;
    home_away(CKPT_UNREACHABLE); /* seen before it comes */
    CHECK_OK(save(SESSION_OPS_MAX, 200, 0));
    CHECK_EQ(count(ACT_BEGIN), 1);
    s = before;
    CHECK_OK(save(SESSION_OPS_MAX, 200, 0));
    home_away(CKPT_UNREACHABLE); /* and behind */
    CHECK_EQ(count(ACT_BEGIN), 1);
    s = before;
    CHECK_OK(save(SESSION_OPS_MAX, 200, 0));
    tick(SESSION_HOLD_NS - 10);
    CHECK_EQ(count(ACT_BEGIN), 0);
    tick(10); /* what hangs there does not say so */
    CHECK_EQ(count(ACT_BEGIN), 1);
    s = before;
    CHECK_OK(step((struct session_event){ .kind = SESSION_BEGUN, .op = 2, .away = true }));
    CHECK_OK(save(SESSION_OPS_MAX, 200, 0)); /* nor is one held behind a save that began unasked */
    CHECK_EQ(count(ACT_BEGIN), 1);
}

static void test_dead_after_staged(void)
{
    begin(2, 1);
    CHECK_OK(save(1, 5, 0));
    CHECK_OK(step((struct session_event){ .kind = SESSION_BEGUN, .op = 1 }));
    CHECK_OK(full(1, 0, 0, true));
    CHECK_OK(step((struct session_event){ .kind = SESSION_DEAD }));
    CHECK_EQ(count(ACT_DROP_ARENA), 0); /* the crew reads it */
    packed(1, 0, CKPT_OK);
    CHECK_EQ(count(ACT_FINISH), 1); /* it goes on without the client */
    CHECK_EQ(count(ACT_DROP_ARENA), 1);
}

/* -- forgetting -- */

static enum ckpt_status forget(uint32_t number)
{
    return step(
        (struct session_event){ .kind = SESSION_FORGET, .seq = s.seq + 1, .state = number });
}

static void forgotten(uint32_t at)
{
    CHECK_OK(step((struct session_event){ .kind = SESSION_FORGOTTEN, .state = at }));
}

static enum ckpt_status seal(uint32_t number, uint32_t at, uint32_t slots)
{
    enum ckpt_status st =
        step((struct session_event){ .kind = SESSION_STATE, .seq = s.seq + 1, .state = number });
    if (st == CKPT_OK && count(ACT_SEAL))
        CHECK_OK(step((struct session_event){
            .kind = SESSION_SEALED, .state = at, .slots = slots, .image_slots = 1 }));
    return st;
}

/* What is staged goes on, what is not fails, and the place is free when all is quiet. */
static void test_forget(void)
{
    begin(2, 1);
    CHECK_OK(save(1, 5, 0));
    CHECK_OK(step((struct session_event){ .kind = SESSION_BEGUN, .op = 1 }));
    CHECK_OK(full(1, 0, 0, true));
    CHECK_OK(save(2, 6, 0));
    CHECK_OK(step((struct session_event){ .kind = SESSION_BEGUN, .op = 2 }));
    CHECK_OK(forget(7));
    CHECK_EQ(count(ACT_FORGET), 0);
    CHECK_EQ(count(ACT_FAIL_PART), 1); /* step 6 */
    CHECK_EQ(s.ops[0].status, CKPT_OK);
    forgotten(0); /* not yet */
    CHECK_EQ(s.states[0].phase, STATE_READY);
    struct session before = s;
    CHECK(save(3, 7, 0) != CKPT_OK); /* it is not there any more */
    CHECK(forget(7) != CKPT_OK);
    CHECK(seal(7, 0, 1) != CKPT_OK); /* but its number is */
    CHECK(memcmp(&before, &s, sizeof(s)) == 0);
    CHECK_OK(step((struct session_event){ .kind = SESSION_FAILED_PUT, .op = 2 }));
    CHECK_OK(step((struct session_event){ .kind = SESSION_DECIDED, .op = 2, .status = CKPT_IO }));
    CHECK_EQ(count(ACT_FORGET), 0);
    packed(1, 0, CKPT_OK);
    CHECK_EQ(count(ACT_FORGET), 0); /* the manifest needs the declaration */
    CHECK_OK(step((struct session_event){ .kind = SESSION_FINISHED, .op = 1 }));
    CHECK_OK(step((struct session_event){ .kind = SESSION_REPLAY })); /* the worker dies here */
    CHECK_EQ(count(ACT_FORGET), 0);
    CHECK_OK(step((struct session_event){ .kind = SESSION_ATTACH }));
    CHECK_EQ(count(ACT_SEND_STATE), 0);
    CHECK_OK(step((struct session_event){ .kind = SESSION_DECIDED, .op = 1 }));
    CHECK(count(ACT_FORGET) > 0);
    CHECK_OK(step((struct session_event){ .kind = SESSION_REPLAY })); /* or here */
    CHECK_EQ(count(ACT_FORGET), 1);
    forgotten(0);
    CHECK_EQ(s.states[0].phase, STATE_NONE);
    CHECK_EQ(s.slot_count, 0);
    CHECK_OK(forget(7)); /* of a state that found no place: nothing */
    CHECK_OK(seal(7, 0, 3));
    CHECK_EQ(s.slot_count, 3);
    CHECK_OK(forget(7)); /* nothing is under way: at once */
    CHECK_EQ(count(ACT_FORGET), 1);
    CHECK_OK(step((struct session_event){ .kind = SESSION_DEAD }));
    CHECK_EQ(count(ACT_DROP_ARENA), 1);
    CHECK_EQ(count(ACT_FORGET), 0); /* the session goes as a whole */
    CHECK_EQ(count(ACT_OVER), 1);
}

/* Also while it is being sealed, and while it is being restored. */
static void test_forget_early(void)
{
    begin(2, 1);
    CHECK_OK(step((struct session_event){ .kind = SESSION_STATE, .seq = s.seq + 1, .state = 8 }));
    CHECK_OK(forget(8));
    CHECK_EQ(count(ACT_FORGET), 0);
    CHECK_OK(step((struct session_event){ .kind = SESSION_SEALED, .state = 1, .slots = 2 }));
    CHECK_EQ(count(ACT_SEND_STATE), 0);
    CHECK_EQ(count(ACT_FORGET), 1);
    forgotten(1);
    CHECK_EQ(s.slot_count, 2);
    CHECK_OK(step(
        (struct session_event){ .kind = SESSION_LOAD, .seq = s.seq + 1, .op = 1, .state = 7 }));
    uint32_t slot = session_reserve(&s, 1, 0);
    session_loading(&s, 1, 5, 9); /* shown by the status page */
    session_loading(&s, 2, 6, 6); /* of one that is not there */
    CHECK_EQ(s.ops[session_op_of(&s, 1)].done_bytes, 5);
    CHECK_EQ(s.ops[session_op_of(&s, 1)].total_bytes, 9);
    CHECK_OK(forget(7));
    CHECK_EQ(count(ACT_LOAD_GONE), 1);
    CHECK_EQ(count(ACT_FORGET), 0); /* the crew fills a slot of it */
    acts.count = 0;
    session_unload(&s, slot, &acts);
    CHECK_EQ(count(ACT_FORGET), 1);
    forgotten(0);
    CHECK_EQ(session_room(&s), SESSION_SLOTS_MAX);
}

/* States that come and go at random never share a slot, and no room is lost. */
static void test_forget_places(unsigned long long *rnd)
{
    uint32_t number = 8;
    begin(2, 1);
    for (int i = 0; i < 400; i++) {
        uint32_t at = (uint32_t)(test_rand(rnd) % SESSION_STATES_MAX), used = 0;
        if (s.states[at].phase == STATE_READY && test_rand(rnd) % 2) {
            CHECK_OK(forget(s.states[at].number));
            forgotten(at);
        }
        uint32_t to = 0;
        while (to < SESSION_STATES_MAX && s.states[to].phase != STATE_NONE)
            to++;
        uint32_t room = session_room(&s);
        uint32_t slots = 1 + (uint32_t)(test_rand(rnd) % min_u64(300, max_u64(room, 1)));
        CHECK_OK(seal(number++, to, slots));
        CHECK_EQ(count(ACT_NO_STATE), to == SESSION_STATES_MAX);
        CHECK(to == SESSION_STATES_MAX || room == 0 || s.states[to].phase == STATE_READY);
        if (to < SESSION_STATES_MAX && s.states[to].phase == STATE_REFUSED) {
            CHECK_OK(forget(s.states[to].number));
            forgotten(to);
        }
        static uint8_t taken[SESSION_SLOTS_MAX];
        memset(taken, 0, sizeof(taken));
        for (uint32_t t = 0; t < SESSION_STATES_MAX; t++)
            for (uint32_t k = 0; s.states[t].phase == STATE_READY && k < s.states[t].slots; k++) {
                CHECK(!taken[s.states[t].first + k]++);
                used = (uint32_t)max_u64(used, s.states[t].first + k + 1);
            }
        CHECK_EQ(used, s.slot_count);
    }
}

static void check_laws(void)
{
    for (uint32_t i = 0; i < SESSION_OPS_MAX; i++) {
        const struct session_op *op = &s.ops[i];
        uint32_t queued = 0, out = 0;
        if (op->phase == OP_NONE)
            continue;
        for (uint32_t k = 0; k < s.slot_count; k++) {
            queued += s.slots[k].op == op->id && s.slots[k].owner == SLOT_QUEUED;
            out += s.slots[k].op == op->id && s.slots[k].owner == SLOT_CLIENT;
        }
        CHECK_EQ(queued, op->queued);
        CHECK_EQ(out, op->out);
        CHECK(op->packed <= op->filled && op->filled <= op->image_slots);
        CHECK(op->out + op->filled <= op->image_slots || op->status != CKPT_OK);
    }
}

/* Jobs that are out, as a crew would hold them. */
static struct {
    uint32_t kind, slot, image_slot;
    uint64_t op;
} jobs[256];
static uint32_t job_count;

static void take_jobs(void)
{
    for (uint32_t i = 0; i < acts.count; i++) {
        const struct session_action *a = &acts.list[i];
        bool job = a->kind == ACT_BEGIN || a->kind == ACT_PACK || a->kind == ACT_FINISH ||
                   a->kind == ACT_FAIL_PART || a->kind == ACT_PUT;
        uint64_t id = a->kind == ACT_PART_FAILED ? s.finals[a->op].id : 0;
        if (!job && a->kind != ACT_PART_FAILED)
            continue;
        CHECK(job_count < ARRAY_COUNT(jobs));
        jobs[job_count].kind = a->kind;
        jobs[job_count].op = id ? id : s.ops[a->op].id;
        jobs[job_count].slot = a->slot;
        jobs[job_count++].image_slot = a->image_slot;
    }
}

static void end_a_job(unsigned long long *rnd)
{
    uint32_t i = (uint32_t)(test_rand(rnd) % job_count);
    uint32_t at = session_op_of(&s, jobs[i].op);
    enum ckpt_status st = test_rand(rnd) % 12 ? CKPT_OK : CKPT_IO;
    struct session_event ev = { .op = jobs[i].op,
                                .slot = jobs[i].slot,
                                .status = st,
                                .image_slot = jobs[i].image_slot,
                                .packs = at == UINT32_MAX ? NULL : packs[at] };
    ev.kind = jobs[i].kind == ACT_BEGIN       ? SESSION_BEGUN
              : jobs[i].kind == ACT_PACK      ? SESSION_PACKED
              : jobs[i].kind == ACT_FINISH    ? SESSION_FINISHED
              : jobs[i].kind == ACT_FAIL_PART ? SESSION_FAILED_PUT
                                              : SESSION_DECIDED;
    if (jobs[i].kind == ACT_PART_FAILED)
        ev.status = CKPT_ABORTED;
    jobs[i] = jobs[--job_count];
    CHECK_OK(step(ev));
    take_jobs();
}

static void walk(unsigned long long *rnd)
{
    uint64_t next_op = 1;
    uint32_t granted_part[8] = { 0 };
    begin(3, 4);
    job_count = 0;
    for (int i = 0; i < 120; i++) {
        unsigned what = (unsigned)(test_rand(rnd) % 10);
        if (what < 2) {
            CHECK_OK(save(next_op, next_op / 2, (uint32_t)(next_op % 2)));
            next_op++;
            take_jobs();
        } else if (what < 5) {
            for (uint32_t k = 0; k < s.slot_count; k++) {
                uint32_t at = session_op_of(&s, s.slots[k].op);
                if (s.slots[k].owner != SLOT_CLIENT)
                    continue;
                granted_part[k] = s.ops[at].filled;
                CHECK_OK(full(s.ops[at].id, k, granted_part[k], granted_part[k] == 3));
                take_jobs();
                break;
            }
        } else if (what < 9 && job_count > 0) {
            end_a_job(rnd);
        } else if (test_rand(rnd) % 3 == 0) { /* the worker was killed: all jobs are lost */
            CHECK_OK(step((struct session_event){ .kind = SESSION_REPLAY }));
            job_count = 0;
            take_jobs();
        }
        check_laws();
    }
    CHECK_OK(step((struct session_event){ .kind = SESSION_DEAD }));
    take_jobs();
    while (job_count > 0)
        end_a_job(rnd);
    CHECK(!session_busy(&s)); /* every wait ends */
    CHECK(s.states[0].dropped);
    CHECK_EQ(session_count(&s, 0, SLOT_QUARANTINED), 3);
}

int main(void)
{
    unsigned long long rnd = test_seed(11);
    test_good_save();
    test_same_attempt();
    test_wrong_messages();
    test_holds();
    test_failures();
    test_home_away();
    test_home_away_packs();
    test_last_place();
    test_dead_after_staged();
    test_forget();
    test_forget_early();
    for (int i = 0; i < 20; i++)
        test_forget_places(&rnd);
    for (int i = 0; i < 2000; i++)
        walk(&rnd);
    TEST_CASES(cases);
    return 0;
}
