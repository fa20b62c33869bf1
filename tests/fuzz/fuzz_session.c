/* Event sequences for a session machine (ckptd/session.c), eight bytes an event: messages
 * as a hostile client may send them, and ends of jobs as control gives them, which are
 * only of what is out.  The laws of slots hold after each; once the client is dead and
 * everything that was out has come back, nothing of the session is left. */
#include "ckptd/session.h"
#include "fuzz/fuzz.h"

#define EVENT_BYTES 8
#define EVENTS_MAX  64
#define PARTS_MAX   4 /* slots of a save's image */
#define JOBS_MAX    256

/* What control would have out: jobs of crews, and attempts that the committer decides. */
enum work_kind { SEAL, BEGIN, PACK, FINISH, FAIL_PART, DECIDE };
struct work {
    enum work_kind kind;
    uint64_t op;
    uint32_t state, slot, image_slot;
    struct ckpt_name name;
};
static struct {
    struct session s;
    struct session_actions acts;
    struct session_pack packs[SESSION_OPS_MAX][PARTS_MAX];
    struct work work[JOBS_MAX];
    uint32_t work_count;
    int64_t now;
    bool over;
} w;

static void remember(enum work_kind kind, const struct session_action *a)
{
    if (w.work_count == JOBS_MAX)
        return; /* the laws hold; what is lost here is as if its crew hung */
    const struct session_op *op = &w.s.ops[a->op % SESSION_OPS_MAX];
    w.work[w.work_count++] = (struct work){ .kind = kind,
                                            .op = kind == SEAL ? 0 : op->id,
                                            .state = a->op,
                                            .slot = a->slot,
                                            .image_slot = a->image_slot,
                                            .name = op->name };
}

static void decide_later(const struct ckpt_name *name)
{
    for (uint32_t i = 0; i < w.work_count; i++)
        if (w.work[i].kind == DECIDE && name_equal(&w.work[i].name, name))
            return;
    if (w.work_count < JOBS_MAX)
        w.work[w.work_count++] = (struct work){ .kind = DECIDE, .name = *name };
}

static void do_load(const struct session_action *a)
{
    const struct session_op *op = &w.s.ops[a->op];
    uint32_t slot = session_reserve(&w.s, op->id, op->state);
    if (slot != SESSION_NO_SLOT)
        session_fill(&w.s, slot);
}

static void act_on(const struct session_action *a)
{
    switch ((int)a->kind) {
    case ACT_SEAL:
        remember(SEAL, a);
        break;
    case ACT_BEGIN:
        remember(BEGIN, a);
        memset(w.packs[a->op], 0, sizeof(w.packs[a->op]));
        break;
    case ACT_PACK:
        FUZZ_CHECK(w.s.slots[a->slot].owner == SLOT_QUEUED);
        remember(PACK, a);
        break;
    case ACT_FINISH:
        remember(FINISH, a);
        break;
    case ACT_FAIL_PART:
        remember(FAIL_PART, a);
        break;
    case ACT_JOIN:
    case ACT_CANCEL:
        decide_later(&w.s.ops[a->op].name);
        break;
    case ACT_PART_FAILED:
        decide_later(&w.s.finals[a->op].name);
        break;
    case ACT_LOAD:
        do_load(a);
        break;
    case ACT_OVER:
        w.over = true;
        break;
    default:
        break;
    }
}

static void check_laws(void)
{
    for (uint32_t i = 0; i < w.s.slot_count; i++) {
        const struct session_slot *slot = &w.s.slots[i];
        bool held =
            slot->owner == SLOT_CLIENT || slot->owner == SLOT_QUEUED || slot->owner == SLOT_LOADING;
        FUZZ_CHECK(slot->owner <= SLOT_QUARANTINED);
        FUZZ_CHECK(!held || session_op_of(&w.s, slot->op) != UINT32_MAX);
        FUZZ_CHECK(!w.s.dead || slot->owner != SLOT_FREE);
    }
    for (uint32_t i = 0; i < SESSION_OPS_MAX; i++) {
        const struct session_op *op = &w.s.ops[i];
        if (op->phase == OP_NONE || op->phase == OP_LOAD)
            continue;
        FUZZ_CHECK(op->phase <= OP_OVER && op->filled + op->out <= op->image_slots);
        FUZZ_CHECK(op->packed <= op->filled && !(op->staged && op->filled < op->image_slots));
        FUZZ_CHECK(op->status == CKPT_OK || op->text[0]);
    }
}

static enum ckpt_status step(const struct session_event *ev)
{
    static struct session before;
    struct ckpt_err err = { 0 };
    bool message = ev->kind <= SESSION_NOTE;
    size_t used = offsetof(struct session, slots) + w.s.slot_count * sizeof(w.s.slots[0]);
    if (message)
        memcpy(&before, &w.s, used);
    w.acts.count = 0;
    enum ckpt_status st = session_step(&w.s, ev, w.now, &w.acts, &err);
    if (st != CKPT_OK) { /* refused: said why, changed nothing, does nothing */
        FUZZ_CHECK(message && err.text[0] && w.acts.count == 0);
        FUZZ_CHECK(memcmp(&before, &w.s, used) == 0);
        return st;
    }
    FUZZ_CHECK(w.acts.count <= SESSION_ACTIONS_MAX);
    for (uint32_t i = 0; i < w.acts.count; i++)
        act_on(&w.acts.list[i]);
    check_laws();
    return CKPT_OK;
}

/* -- what comes back ------------------------------------------------------------------- */

static enum ckpt_status result(uint8_t how)
{
    static const enum ckpt_status all[] = { CKPT_OK, CKPT_OK,     CKPT_OK,     CKPT_IO,
                                            CKPT_OK, CKPT_EXISTS, CKPT_ABORTED };
    return all[how % ARRAY_COUNT(all)];
}

static void sealed(const struct work *job, uint8_t how)
{
    step(&(struct session_event){ .kind = SESSION_SEALED,
                                  .state = job->state,
                                  .status = how % 7 == 3 ? CKPT_NO_MEMORY : CKPT_OK,
                                  .slots = how % 31 == 5 ? SESSION_SLOTS_MAX : 2 + how % 3,
                                  .image_slots = how / 8 % (PARTS_MAX + 1),
                                  .bytes = 100 });
}

static void decided(const struct ckpt_name *name, enum ckpt_status st)
{
    for (uint32_t i = 0; i < SESSION_OPS_MAX; i++) {
        const struct session_op *op = &w.s.ops[i];
        if (op->phase == OP_NONE || op->phase == OP_LOAD || !name_equal(&op->name, name))
            continue;
        /* Nothing is committed before this rank's part is there. */
        bool whole = op->phase == OP_COMMIT;
        step(&(struct session_event){ .kind = SESSION_DECIDED,
                                      .op = op->id,
                                      .status = whole ? st : CKPT_ABORTED,
                                      .text = "decided" });
        return;
    }
}

static void come_back(uint32_t which, uint8_t how)
{
    static const enum session_event_kind kinds[] = { [BEGIN] = SESSION_BEGUN,
                                                     [PACK] = SESSION_PACKED,
                                                     [FINISH] = SESSION_FINISHED,
                                                     [FAIL_PART] = SESSION_FAILED_PUT };
    if (w.work_count == 0)
        return;
    struct work job = w.work[which % w.work_count];
    w.work[which % w.work_count] = w.work[--w.work_count];
    if (job.kind == SEAL) {
        sealed(&job, how);
    } else if (job.kind == DECIDE) {
        decided(&job.name, result(how));
    } else {
        uint32_t at = session_op_of(&w.s, job.op);
        FUZZ_CHECK(at != UINT32_MAX); /* an op stays while anything of it is out */
        step(&(struct session_event){ .kind = kinds[job.kind],
                                      .op = job.op,
                                      .slot = job.slot,
                                      .image_slot = job.image_slot,
                                      .status = result(how),
                                      .text = "a job",
                                      .stored = 5,
                                      .bytes = 5,
                                      .packs = w.packs[at] });
    }
}

/* The worker died: what was out is lost, and the machine asks for it again. */
static void replay(void)
{
    w.work_count = 0;
    step(&(struct session_event){ .kind = SESSION_REPLAY });
}

/* -- what the client says ---------------------------------------------------------------- */

/* A number that is mostly the right one. */
static uint64_t near(uint64_t right, uint8_t how)
{
    return how < 224 ? right : how < 240 ? right + how % 4 - 1 : how < 248 ? how % 3 : UINT64_MAX;
}

static void client_says(const uint8_t b[EVENT_BYTES])
{
    struct session_event ev = { .kind = SESSION_STATE + b[0] % SESSION_NOTE,
                                .seq = near(w.s.seq + 1, b[1]),
                                .state = (uint32_t)near(1 + b[2] % 2, b[3]),
                                .slot = (uint32_t)near(b[4] % 5, b[5]),
                                .image_slot = b[6] % (PARTS_MAX + 1),
                                .flags = b[7] & 1,
                                .bytes = 10,
                                .step = b[4] % 4,
                                .try_ = b[6] % 2,
                                .deadline_ms = b[7],
                                .text = b[7] & 2 ? "its words" : NULL,
                                .status = b[7] & 4 ? CKPT_IO : CKPT_OK };
    bool begins = ev.kind == SESSION_SAVE || ev.kind == SESSION_LOAD;
    ev.op = near(begins ? w.s.last_op + 1 : w.s.last_op - b[2] / 2 % 3, b[3]);
    uint32_t at = session_op_of(&w.s, ev.op);
    static struct session_pack none[PARTS_MAX + 1];
    ev.packs = at == UINT32_MAX ? none : w.packs[at];
    if (step(&ev) != CKPT_OK && b[5] & 1)
        step(&(struct session_event){ .kind = SESSION_DEAD, .text = "broke the protocol" });
}

static void unload(uint8_t which)
{
    uint32_t i = which % max_u64(w.s.slot_count, 1);
    const struct session_slot *slot = &w.s.slots[i];
    uint32_t op = slot->owner == SLOT_FREE ? UINT32_MAX : session_op_of(&w.s, slot->op);
    if (op == UINT32_MAX || w.s.ops[op].phase != OP_LOAD)
        return;
    uint32_t more = session_reserve(&w.s, slot->op, w.s.ops[op].state);
    w.acts.count = 0;
    if (more != SESSION_NO_SLOT)
        session_unload(&w.s, more, &w.acts);
    for (uint32_t k = 0; k < w.acts.count; k++)
        act_on(&w.acts.list[k]);
}

static void loaded(uint8_t how)
{
    for (uint32_t i = 0; i < SESSION_OPS_MAX; i++)
        if (w.s.ops[i].phase == OP_LOAD) {
            step(&(struct session_event){ .kind = SESSION_LOADED,
                                          .op = w.s.ops[i].id,
                                          .status = result(how),
                                          .text = "loaded" });
            return;
        }
}

static void one_event(const uint8_t b[EVENT_BYTES])
{
    static const enum session_event_kind plain[] = { SESSION_BYE,    SESSION_ATTACH, SESSION_DETACH,
                                                     SESSION_EPOCH,  SESSION_STOP,   SESSION_TICK,
                                                     SESSION_ATTACH, SESSION_DEAD };
    w.now += (int64_t)b[7] * b[7] * 10000000;
    switch (b[0] >> 4) {
    case 15:
        if (b[1] & 1)
            replay();
        else
            step(&(struct session_event){ .kind = plain[b[2] % ARRAY_COUNT(plain)],
                                          .name.epoch = w.s.epoch + 1 });
        break;
    case 14:
        loaded(b[1]);
        break;
    case 13:
        unload(b[1]);
        break;
    case 12:
    case 11:
    case 10:
    case 9:
    case 8:
    case 7:
        come_back(b[1], b[2]);
        break;
    default:
        client_says(b);
        break;
    }
    for (uint32_t i = 0; i < SESSION_STATES_MAX; i++)
        FUZZ_CHECK(session_count(&w.s, i, SLOT_FREE) <= w.s.states[i].slots);
}

/* The client dies and everything comes back: then nothing is under way any more. */
static void end(void)
{
    step(&(struct session_event){ .kind = SESSION_DEAD, .text = "ended" });
    for (unsigned i = 0; i < 4 * JOBS_MAX && w.work_count > 0; i++)
        come_back(0, 0);
    FUZZ_CHECK(w.work_count == 0 && !session_busy(&w.s) && w.over);
    FUZZ_CHECK(session_phase_name(OP_OVER)[0] && session_phase_name(999)[0]);
}

void fuzz_one(const uint8_t *bytes, size_t len)
{
    memset(&w, 0, sizeof(w));
    w.now = 1;
    w.s.mode = len && bytes[0] == 255 ? WIRE_READ : WIRE_TRAIN;
    w.s.world = 2;
    w.s.epoch = 3;
    w.s.last_commit.step = UINT64_MAX;
    memcpy(w.s.job, "j", 2);
    for (size_t i = 0; i < EVENTS_MAX && (i + 1) * EVENT_BYTES <= len && w.work_count < JOBS_MAX;
         i++)
        one_event(bytes + i * EVENT_BYTES);
    if (w.work_count < JOBS_MAX)
        end();
}

void fuzz_fix(uint8_t *bytes, size_t len)
{
    (void)bytes; /* there are no sums in it */
    (void)len;
}
