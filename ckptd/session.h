/* One client's session: what it saves and restores, and who owns which slot.
 *
 * A pure machine: (session, event, now) → changed session and a list of actions.  It
 * makes no system call and allocates nothing, so a simulator can drive it, and it is
 * plain memory without pointers, so a copy of it *is* the ledger: control writes the
 * session to the ledger after each step and only then executes the actions.
 * A worker that starts after another died reads the session back and gives it
 * SESSION_REPLAY, which repeats the actions of everything that is under way.
 *
 *   save   FREE ─GRANT─► CLIENT ─FULL─► QUEUED ─pack durable─► FREE
 *   load   FREE ─reserve─► LOADING ─FRAGS─► CLIENT ─BACK─► FREE
 *   client dead: CLIENT → QUARANTINED; QUEUED, LOADING → QUARANTINED when the crew let go
 *
 *   save op   HOLD ► BEGIN ► COPYING ► FINISH ► COMMIT ► (over)
 *                └──────┴───────┴────────┴─► FAILPUT ► ABORT ► (over)
 */
#pragma once

#include "formats/key.h"
#include "formats/record.h"
#include "formats/wire.h"

#define SESSION_STATES_MAX  32
#define SESSION_OPS_MAX     8  /* saves and loads under way */
#define SESSION_FINALS      64 /* as many as a client remembers */
#define SESSION_SLOTS_MAX   4096
#define SESSION_TEXT_MAX    400
#define SESSION_ACTIONS_MAX (SESSION_SLOTS_MAX + 128)
#define SESSION_DETACHED_NS INT64_C(60000000000) /* a living client must be back by then */
#define SESSION_AWAY_MIN_NS INT64_C(1000000000)  /* between two tries with a home that is away */
#define SESSION_AWAY_MAX_NS INT64_C(10000000000)
#define SESSION_HOLD_NS     INT64_C(10000000000) /* the last place is kept free so long */
#define SESSION_NO_SLOT     UINT32_MAX

enum slot_owner {
    SLOT_FREE = 0,
    SLOT_CLIENT,
    SLOT_QUEUED,
    SLOT_LOADING,
    SLOT_QUARANTINED,
};
struct session_slot {
    uint64_t op;         /* id; 0 = none */
    uint32_t image_slot; /* which part of the save is in it */
    uint8_t owner;       /* enum slot_owner; changed in session*.c alone */
    bool away;           /* QUEUED: in no job; goes out again when the op's away_ns has come */
    uint8_t reserved[2];
};
enum session_state_phase { STATE_NONE = 0, STATE_SEALING, STATE_READY, STATE_REFUSED };
struct session_state {
    uint32_t phase;        /* enum session_state_phase */
    uint32_t number;       /* the client's */
    uint32_t first, slots; /* its part of session.slots */
    uint32_t image_slots;  /* slots of one save */
    uint32_t status;       /* REFUSED: enum ckpt_status */
    uint32_t numa;         /* of wire_state */
    bool used;             /* a save or load was begun on it */
    bool dropped;          /* the arena is gone (dead client) */
    bool leaving;          /* FORGET came: goes when nothing needs it */
    uint64_t decl_bytes, want_bytes, raw_bytes, chunk_count, ram_left_bytes;
    char text[SESSION_TEXT_MAX]; /* REFUSED */
};
enum session_phase {
    OP_NONE = 0,
    OP_HOLD,    /* an earlier try of this step is undecided, or all other places are taken */
    OP_BEGIN,   /* job out: is the launch current, is the step committed? */
    OP_COPYING, /* slots go back and forth; `staged` once all are in */
    OP_FINISH,  /* job out: sync, manifest, .h; or away_ns is waited for (H5) */
    OP_COMMIT,  /* waits for the committer */
    OP_FAILPUT, /* job out: failed manifest */
    OP_ABORT,   /* failed; waits for the committer */
    OP_OVER,    /* decided; waits for slots at the crew */
    OP_LOAD,
};
struct session_op {
    uint64_t id;
    uint32_t phase; /* enum session_phase */
    uint32_t state; /* index in states */
    uint32_t try_, flags, level, status;
    uint64_t step;
    struct ckpt_name name;   /* of the attempt, or of the point that is loaded */
    struct ckpt_name parent; /* of the attempt, with has_parent: the same on all ranks */
    bool has_parent;
    int64_t begun_ns, deadline_ns, staged_ns, time_ns;
    int64_t away_ns, away_pause_ns; /* the home is away: when FINISH, or the slots that are
                                       `away`, go out again; 0 = nothing waits */
    uint32_t image_slots, out, filled, packed; /* out: granted and not back */
    uint32_t queued;                           /* slots at the crew */
    bool job_out;                              /* begin, finish or failed-manifest */
    bool home_late;                            /* the home is not waited for (H5) */
    bool staged;                               /* all slots of this save came in */
    bool told;                                 /* the client knows how it ended */
    bool decided;                              /* the committer has spoken */
    bool has_witness;                          /* G4: what this rank holds of a tile of others */
    uint64_t witness;
    struct digest witness_digest;
    uint64_t done_bytes, total_bytes, stored_bytes;
    uint32_t missing, unasked; /* loads: as in wire_op */
    char text[SESSION_TEXT_MAX];
};
/* How ops ended: kept a while, because a client that was away missed the message. */
struct session_final {
    uint64_t id;
    uint32_t level, status;
    struct ckpt_name name;
    uint64_t done_bytes, total_bytes;
    uint32_t missing, unasked;
    bool awaits; /* committed, and a tier may still get it: not the last word */
    char text[SESSION_TEXT_MAX];
};
struct session {
    uint8_t id[16];
    uint32_t mode, rank, world, pid, uid;
    uint32_t flags; /* enum wire_hello_ok_flags */
    char job[CKPT_JOB_NAME_MAX + 1];
    char token[RECORD_TOKEN_MAX + 1];
    char why[SESSION_TEXT_MAX];
    uint64_t epoch;
    struct ckpt_name point;       /* with WIRE_HAS_POINT */
    struct ckpt_name last_commit; /* of this epoch; step UINT64_MAX = none */
    uint64_t seq;                 /* of the last client message that took effect */
    uint64_t last_op;             /* ids rise */
    uint64_t progress;
    int64_t detached_ns; /* 0 = attached */
    bool dead, progress_put;
    bool restoring; /* EPOCH came, its restore is not done */
    bool new_epoch; /* EPOCH came, and no save since */
    uint32_t next_final;
    struct session_state states[SESSION_STATES_MAX];
    struct session_op ops[SESSION_OPS_MAX];
    struct session_final finals[SESSION_FINALS];
    uint64_t saves_begun, saves_committed, saves_failed;
    uint32_t slot_count; /* slots below are in use up to here */
    struct session_slot slots[SESSION_SLOTS_MAX];
};
/* What is known of each slot of a save's image; lies beside the session in the ledger. */
struct session_pack {
    struct digest id;
    uint64_t stored_bytes;
    uint64_t full_seq; /* of the FULL that handed it over: tells a repeat from a double */
};

enum session_event_kind {
    /* from the client, numbered */
    SESSION_STATE = 1, /* state, bytes = of the declaration, want */
    SESSION_SAVE,      /* op, state, step, try_, flags, deadline_ms, time_ns */
    SESSION_FULL,      /* op, state, slot, image_slot, flags; packs; witness, id */
    SESSION_FAIL,      /* op, status, text */
    SESSION_LOAD,      /* op, state, flags, name */
    SESSION_BACK,      /* op, state, slot */
    SESSION_CANCEL,    /* op */
    SESSION_FORGET,    /* state */
    SESSION_NOTE,      /* a message without effect on the machine (RESTORED, PROGRESS) */
    SESSION_BYE,
    /* from elsewhere */
    SESSION_ATTACH,
    SESSION_DETACH,
    SESSION_DEAD,       /* text: how */
    SESSION_SEALED,     /* state index; status, text, or slots, image_slots, bytes, chunks */
    SESSION_FORGOTTEN,  /* state index: its memory is gone */
    SESSION_BEGUN,      /* op; status */
    SESSION_PACKED,     /* op, slot (of the session), image_slot; status, id, stored; packs */
    SESSION_FINISHED,   /* op; status */
    SESSION_FAILED_PUT, /* op */
    SESSION_DECIDED,    /* op; status, text */
    SESSION_LOADED,     /* op; status, text, name, missing, unasked: a load is over */
    SESSION_REMOTE,     /* name; status: a tier holds it; NOT_PLANNED: none will */
    SESSION_EPOCH,      /* name.epoch: a rollback made a new one */
    SESSION_STOP,       /* ckptd stops: what is not staged fails */
    SESSION_TICK,
    SESSION_REPLAY,
};
struct session_event {
    enum session_event_kind kind;
    uint64_t seq; /* client messages: above 0 */
    uint64_t op;
    uint32_t state, slot, image_slot, flags, numa;
    uint32_t try_, deadline_ms, slots, image_slots, missing, unasked;
    enum ckpt_status status;
    bool away;        /* FINISHED, PACKED: only the home fails, and may come back (H5); BEGUN: it
                         was not asked */
    const char *text; /* NULL = the status's sentence */
    uint64_t step, bytes, want, chunks, stored;
    int64_t time_ns;
    struct ckpt_name name;
    bool has_parent; /* BEGUN */
    struct ckpt_name parent;
    struct digest id;           /* PACKED: of the pack; FULL: of the witness's tile */
    uint64_t witness;           /* FULL */
    struct session_pack *packs; /* of the op, image_slots of them */
};

enum session_action_kind {
    ACT_SEND_OP = 1, /* op (index) */
    ACT_SEND_FINAL,  /* final (index) */
    ACT_SEND_GRANT,  /* op, slot */
    ACT_SEND_STATE,  /* state (index): STATE_OK or REFUSED */
    ACT_SEAL,        /* state: job */
    ACT_BEGIN,       /* op: job */
    ACT_PACK,        /* op, slot, image_slot: job */
    ACT_FINISH,      /* op: job */
    ACT_FAIL_PART,   /* op: job */
    ACT_JOIN,        /* op: tell the committer */
    ACT_PUT,         /* op: the manifest is there */
    ACT_PART_FAILED, /* final: tell the committer (name, status, text) */
    ACT_CANCEL,      /* op: ask the committer to abort */
    ACT_LOAD,        /* op: join a restore */
    ACT_LOAD_GONE,   /* op: leaves its restore */
    ACT_BACK,        /* op, slot: a slot came back */
    ACT_OP_END,      /* op: its memory in the ledger is void */
    ACT_DROP_ARENA,  /* state */
    ACT_FORGET,      /* state (index): its memory may go; said again until FORGOTTEN */
    ACT_NO_STATE,    /* id: REFUSED for the client's number, which has no place */
    ACT_OVER,        /* nothing is left: forget the session */
};
struct session_action {
    uint32_t kind; /* enum session_action_kind */
    uint32_t op;   /* index in ops, finals or states, as the kind says */
    uint32_t slot; /* index in session.slots */
    uint32_t image_slot;
    uint64_t id; /* LOAD_GONE, BACK: the op's, which may be over by then; NO_STATE: number */
};
struct session_actions {
    uint32_t count;
    struct session_action list[SESSION_ACTIONS_MAX];
};

/* Appends to out.  A status that is not CKPT_OK means that the client broke the
 * protocol (err says how): nothing was changed; the caller gives SESSION_DEAD. */
enum ckpt_status session_step(struct session *s, const struct session_event *ev, int64_t now,
                              struct session_actions *out, struct ckpt_err *err) CKPT_MUST_CHECK;

/* Restore's side of slot ownership.  reserve: FREE → LOADING; SESSION_NO_SLOT when
 * none is free.  fill: LOADING → CLIENT.  unload: LOADING → FREE (or QUARANTINED). */
uint32_t session_reserve(struct session *s, uint64_t op, uint32_t state);
void session_fill(struct session *s, uint32_t slot);
/* How far a restore is: shown, and nothing follows from it. */
void session_loading(struct session *s, uint64_t op, uint64_t done_bytes, uint64_t total_bytes);
void session_unload(struct session *s, uint32_t slot, struct session_actions *out);

/* Index of a state by the client's number, of an op by id; UINT32_MAX if there is none. */
uint32_t session_state_of(const struct session *s, uint32_t number);
uint32_t session_op_of(const struct session *s, uint64_t id);
uint32_t session_count(const struct session *s, uint32_t state, enum slot_owner owner);
/* How many slots the next arena may have. */
uint32_t session_room(const struct session *s);
/* True when a state that is to be forgotten is needed by nothing of the session. */
bool session_may_forget(const struct session *s, uint32_t state);
/* True while something of it is not decided yet or lies in its arena. */
bool session_busy(const struct session *s);
const char *session_phase_name(uint32_t phase);
