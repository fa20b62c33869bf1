/* What libckpt and ckptd say to each other over a unix SOCK_SEQPACKET socket.
 *
 * One message = wire_head + one fixed struct of its type + a tail (text or an array).
 * Structs have explicit sizes, no padding, little-endian (both ends are one machine,
 * but the bytes are hostile all the same).  Big bodies (a declaration, a status page)
 * travel as write-sealed memfds by SCM_RIGHTS.
 *
 *   client                                   daemon
 *   HELLO {job, rank, launch, session} ────►  (rank 0: resolves the launch)
 *          ◄──────────────────────── HELLO_OK {epoch, resume point, ack} | REFUSED
 *   STATE {declaration fd} ────────────────►
 *          ◄──────────────────────── STATE_OK {slots, arena fd}
 *   SAVE {op, step} ───────────────────────►
 *          ◄──────────────────────── OP {op, level none}        (or its refusal)
 *          ◄──────────────────────── GRANT {op, arena slot} ... (as slots get free)
 *   FULL {op, arena slot, pack number} ────►  (the daemon owns the slot again)
 *          ◄──────────────────────── OP {op, level staged} ... OP {op, level local}
 *   LOAD {op, point, patterns, part fd?} ──►
 *          ◄──────────────────────── REPORT {op, what is not plain}   (if anything is)
 *          ◄──────────────────────── FRAGS {op, arena slot, fragments} ...
 *   BACK {op, arena slot} ─────────────────►
 *          ◄──────────────────────── OP {op, done}
 *   LIST {token, point, patterns} ─────────►
 *          ◄──────────────────────── LISTED {token, tensors and objects}
 *   FORGET {state} ────────────────────────►
 *
 * Reliability.  Client messages carry seq = 1, 2, ... within a session (a random
 * 16-byte id that the client chose).  The daemon acknowledges the highest seq whose
 * effect is in its ledger (head.ack of any message it sends).  After the worker died
 * the client reconnects, says HELLO with the same session and repeats everything
 * above the ack of HELLO_OK; a message whose seq is not above the daemon's is a
 * repeat and ignored.  After HELLO_OK on a resumed session the daemon sends GRANT for
 * every slot that is the client's and OP for every save that is not final.  A LOAD
 * under way is not resumed: the daemon answers OP {DAEMON_GONE} and the client asks
 * again (restoring twice into the same memory is harmless).  A LIST likewise, but there the
 * client sees by itself that the connection is a new one.
 * seq 0: outside the numbering (HELLO, STATUS, BYE). */
#pragma once

#include "formats/box.h"
#include "formats/key.h"

#define WIRE_MAGIC     UINT32_C(0x31504b43) /* "CKP1" */
#define WIRE_VERSION   4
#define WIRE_BYTES_MAX (64 << 10) /* a whole message */
#define WIRE_FDS_MAX   2
#define WIRE_DECL_MAX  (UINT64_C(1) << 30) /* bytes of a declaration */

enum wire_type {
    /* client to daemon */
    WIRE_HELLO = 1,
    WIRE_STATE = 2,
    WIRE_SAVE = 3,
    WIRE_FULL = 4,
    WIRE_FAIL = 5, /* the client's part of a save failed */
    WIRE_LOAD = 6,
    WIRE_BACK = 7,
    WIRE_RESTORED = 8, /* this rank restored everything, or could not */
    WIRE_PROGRESS = 9,
    WIRE_CANCEL = 10,
    WIRE_STATUS = 11, /* any connection, no HELLO needed */
    WIRE_FORGET = 13, /* a sealed state is not used any more */
    WIRE_LIST = 14,   /* what is in a checkpoint */
    WIRE_BYE = 12,    /* orderly end: nothing of this session is under way for the client */
    /* daemon to client */
    WIRE_HELLO_OK = 65,
    WIRE_REFUSED = 66, /* HELLO or STATE was refused; tail: text */
    WIRE_STATE_OK = 67,
    WIRE_GRANT = 68,
    WIRE_OP = 69,
    WIRE_FRAGS = 70,
    WIRE_STATUS_OK = 71, /* fd: memfd with JSON text */
    WIRE_ACK = 72,       /* nothing but head.ack */
    WIRE_REPORT = 73,    /* of a load: fd: memfd with report_encode bytes */
    WIRE_LISTED = 74,    /* fd: memfd with descriptions */
};

struct wire_head {
    uint32_t magic;
    uint16_t version;
    uint16_t type;
    uint32_t bytes; /* the whole message, head included */
    uint32_t fds;   /* how many come along */
    uint64_t seq;   /* client: number of this message; daemon: 0 */
    uint64_t ack;   /* daemon: highest seq in the ledger; client: 0 */
};

enum wire_mode { WIRE_TRAIN = 1, WIRE_READ = 2 };
enum wire_hello_flags {
    WIRE_HELLO_RESUMED = 1, /* a reconnect of a session that already had HELLO_OK */
    WIRE_HELLO_SOLO = 2,    /* a launch of its own: refused while a trainer is attached */
    WIRE_HELLO_NODES = 4,   /* its launcher says that other ranks are on other nodes */
};
/* fd 0: the client's pidfd.  tail: job, launch, resume (each u16 length + bytes). */
struct wire_hello {
    uint8_t session[16];
    uint32_t mode, flags;
    uint32_t pid;
    uint32_t rank, world;
    uint32_t arrival_ms; /* how long to wait for the other ranks and the resolver; 0 = default */
    uint64_t epoch;      /* where the session was before it had to start over; 0 = it is new */
};
struct wire_name {
    uint64_t epoch, step, attempt;
};
enum wire_hello_ok_flags {
    WIRE_HAS_POINT = 1,
    WIRE_STAGED_IS_PROCESS = 2, /* ckptd shares the trainer's fate: level staged (process) */
    WIRE_STOP = 4,              /* crash-loop rule: a human must look; training should not start */
    WIRE_HAS_REMOTE = 8,        /* local is not the last word on a save: tiers may get it */
};
/* tail: why (text). */
struct wire_hello_ok {
    uint64_t epoch;
    struct wire_name point; /* resume from here, with WIRE_HAS_POINT */
    uint32_t flags;
    uint32_t slot_bytes;
    uint8_t node[16];
};
/* tail: text. */
struct wire_refused {
    uint32_t status; /* enum ckpt_status */
    uint32_t type;   /* of what was refused */
    uint32_t state;
    uint32_t reserved;
};
/* fd 0: memfd with decl_encode bytes, sealed against write, grow and shrink. */
struct wire_state {
    uint32_t state; /* number chosen by the client, from 1 */
    uint32_t numa;  /* 1 + the node that the arena is best on; 0: any */
    uint64_t decl_bytes;
    uint64_t arena_bytes; /* wanted; 0 = 1 x the state, at least 2 slots */
};
/* What is staged of it goes on; what is not fails.  The arena and the declaration go when
 * nothing needs them any more, and then the number may come again. */
struct wire_forget {
    uint32_t state;
    uint32_t reserved;
};
/* fd 0: the arena: memfd of slots * slot_bytes, sealed against grow and shrink. */
struct wire_state_ok {
    uint32_t state;
    uint32_t slots;
    uint64_t slot_bytes;
    uint64_t ram_left_bytes; /* after admission, for the message at seal */
};
enum wire_save_flags {
    WIRE_SAVE_VANISHED_OK = 1,
};
/* tail: metrics: metric_count of {name (u16 length + bytes), f64}. */
struct wire_save {
    uint64_t op; /* chosen by the client, rising within the session */
    uint64_t step;
    uint32_t state;
    uint32_t try_; /* counts save() calls for this step in this epoch (I6) */
    uint32_t flags;
    uint32_t metric_count;
    int64_t time_ns;      /* user's wall clock */
    uint32_t deadline_ms; /* of the whole save, 0 = default */
    uint32_t reserved;
};
struct wire_grant {
    uint64_t op;
    uint32_t state;
    uint32_t arena_slot;
};
enum wire_full_flags {
    WIRE_FULL_LAST = 1,    /* the rank's last slot of this save */
    WIRE_FULL_WITNESS = 2, /* with LAST: witness and digest say what this rank holds (G4) */
};
/* A rank that writes nothing sends one FULL with arena_slot = UINT32_MAX and LAST. */
struct wire_full {
    uint64_t op;
    uint32_t state;
    uint32_t arena_slot;
    uint32_t slot; /* number in the rank's image (decl_slot): which tiles it holds */
    uint32_t flags;
    uint64_t witness;   /* number of a tile that others write (decl_witness_at) */
    uint8_t digest[16]; /* of its dense bytes as they are here */
};
/* tail: text. */
struct wire_fail {
    uint64_t op;
    uint32_t status;
    uint32_t reserved;
};
enum wire_load_flags {
    WIRE_LOAD_RESUME = 1,   /* the launch's resume point; `point`: what it is, or 0 */
    WIRE_LOAD_PARTIAL = 2,  /* tensors that are not there are reported, not refused */
    WIRE_LOAD_ROLLBACK = 4, /* TRAIN: the point becomes the head: a new epoch (I6) */
    WIRE_LOAD_CONVERT = 8,  /* fragments may come in another floating-point type */
};
/* With part_bytes, fd 0: memfd with decl_encode bytes, sealed as STATE's: the same tensors, of
 * which only these pieces are wanted now; fragments name pieces of it.  tail: select_encode
 * bytes. */
struct wire_load {
    uint64_t op;
    struct wire_name point;
    uint32_t state;
    uint32_t flags;
    uint64_t part_bytes; /* 0 = all of the state */
};
/* One fragment: a dense box in the slot that belongs into one piece of the state. */
struct wire_frag {
    uint32_t tensor, piece; /* ordinals: tensor in the declaration, piece within the tensor */
    uint64_t offset;        /* in the arena slot */
    uint32_t ndim;
    uint32_t dtype; /* of the bytes in the slot; 0 = as declared (else only with CONVERT) */
    /* then off[ndim], len[ndim] as u64, global coordinates */
};
enum wire_frags_flags {
    WIRE_FRAGS_MORE = 1, /* another message for the same slot follows */
};
/* tail: count fragments. */
struct wire_frags {
    uint64_t op;
    uint32_t state, arena_slot;
    uint32_t count, flags;
    uint64_t done_bytes, total_bytes; /* of this rank's restore */
};
/* Before the load's last OP.  fd 0: memfd with report_encode bytes. */
struct wire_report {
    uint64_t op;
    uint64_t bytes;
};
enum wire_list_flags {
    WIRE_LIST_RESUME = 1,  /* the launch's resume point */
    WIRE_LIST_OBJECTS = 2, /* objects only */
};
/* One at a time.  tail: select_encode bytes (renames: none). */
struct wire_list {
    uint64_t token; /* comes back in LISTED */
    struct wire_name point;
    uint32_t flags, reserved;
};
/* status OK: fd 0: memfd of `bytes`: u64 count, then so many descriptions (desc.h), by name.
 * Else tail: text. */
struct wire_listed {
    uint64_t token, bytes;
    struct wire_name point; /* whose they are */
    uint32_t status, reserved;
};
struct wire_back {
    uint64_t op;
    uint32_t state, arena_slot;
};
/* tail: text when status != OK. */
struct wire_restored {
    uint64_t op;
    struct wire_name point;
    uint32_t status;
    uint32_t reserved;
};
struct wire_progress {
    uint64_t step; /* UINT64_MAX: finished */
};
struct wire_cancel {
    uint64_t op;
};
/* How safe a save is.  Ordered; PROCESS satisfies no wait for STAGED. */
enum wire_level {
    WIRE_LEVEL_NONE = 0,
    WIRE_LEVEL_PROCESS = 1, /* staged (process) */
    WIRE_LEVEL_STAGED = 2,
    WIRE_LEVEL_LOCAL = 3, /* committed in the home */
    WIRE_LEVEL_REPLICATED = 4,
    WIRE_LEVEL_REMOTE = 5,
    WIRE_LEVEL_DONE = 6, /* loads: everything was sent and is back */
};
enum wire_op_flags {
    WIRE_OP_FINAL = 1, /* nothing more comes for this op */
};
/* Where an op stands.  status != OK: failed, tail: text; otherwise `level` is reached.
 * Sent at each change; for a save also the answer to SAVE. */
struct wire_op {
    uint64_t op;
    uint32_t level, status;
    uint32_t flags, reserved;
    uint64_t done_bytes, total_bytes; /* saves: durable, of what; sent as packs are put */
    struct wire_name name;            /* of the attempt */
    uint32_t missing;                 /* loads: tensors asked for that are not there */
    uint32_t unasked;                 /* loads: there, and no rank asked; UINT32_MAX = not known */
};

_Static_assert(sizeof(struct wire_head) == 32, "wire layout");
_Static_assert(sizeof(struct wire_hello) == 48, "wire layout");
_Static_assert(sizeof(struct wire_name) == 24, "wire layout");
_Static_assert(sizeof(struct wire_hello_ok) == 56, "wire layout");
_Static_assert(sizeof(struct wire_refused) == 16, "wire layout");
_Static_assert(sizeof(struct wire_state) == 24, "wire layout");
_Static_assert(sizeof(struct wire_forget) == 8, "wire layout");
_Static_assert(sizeof(struct wire_state_ok) == 24, "wire layout");
_Static_assert(sizeof(struct wire_save) == 48, "wire layout");
_Static_assert(sizeof(struct wire_grant) == 16, "wire layout");
_Static_assert(sizeof(struct wire_full) == 48, "wire layout");
_Static_assert(sizeof(struct wire_fail) == 16, "wire layout");
_Static_assert(sizeof(struct wire_load) == 48, "wire layout");
_Static_assert(sizeof(struct wire_frag) == 24, "wire layout");
_Static_assert(sizeof(struct wire_frags) == 40, "wire layout");
_Static_assert(sizeof(struct wire_back) == 16, "wire layout");
_Static_assert(sizeof(struct wire_report) == 16, "wire layout");
_Static_assert(sizeof(struct wire_list) == 40, "wire layout");
_Static_assert(sizeof(struct wire_listed) == 48, "wire layout");
_Static_assert(sizeof(struct wire_restored) == 40, "wire layout");
_Static_assert(sizeof(struct wire_op) == 72, "wire layout");

/* The size of a type's fixed struct; SIZE_MAX for an unknown type. */
size_t wire_body_bytes(unsigned type);
const char *wire_type_name(unsigned type);
const char *wire_level_name(unsigned level); /* "staged (process)", ... */

/* A message being built or received: owned by the caller, no allocation. */
struct wire_msg {
    union {
        struct wire_head head;
        uint8_t bytes[WIRE_BYTES_MAX];
    };
    int fds[WIRE_FDS_MAX]; /* received ones are the caller's to close */
    uint32_t fd_count;
    uint32_t len;
};
/* Starts a message: head, body copied. */
void wire_begin(struct wire_msg *m, enum wire_type type, const void *body);
/* Appends to the tail; false when the message would grow too long (unchanged). */
bool wire_tail(struct wire_msg *m, const void *bytes, size_t n);
bool wire_tail_str(struct wire_msg *m, const char *s); /* u16 length + bytes */
/* The fixed struct and the tail of a checked message. */
const void *wire_body(const struct wire_msg *m);
const uint8_t *wire_tail_of(const struct wire_msg *m, size_t *ret_len);
/* Checks a received message: magic, version, known type, lengths, fd count.  CKPT_CORRUPT
 * says what is wrong; CKPT_UNSUPPORTED for another version. */
enum ckpt_status wire_check(const struct wire_msg *m, struct ckpt_err *err) CKPT_MUST_CHECK;
/* The tail as text of at most cap - 1 bytes (control characters replaced). */
void wire_text(const struct wire_msg *m, char *ret, size_t cap);

/* sendmsg / recvmsg of one message on a non-blocking or blocking socket.
 * send: CKPT_BUSY when it would block; CKPT_DAEMON_GONE when the peer is gone.
 * recv: CKPT_BUSY when there is nothing; DAEMON_GONE at the end; already checked. */
enum ckpt_status wire_send(int fd, const struct wire_msg *m, struct ckpt_err *err) CKPT_MUST_CHECK;
enum ckpt_status wire_recv(int fd, struct wire_msg *m, struct ckpt_err *err) CKPT_MUST_CHECK;
/* Closes received fds that nobody took. */
void wire_close_fds(struct wire_msg *m);
/* A memfd with these bytes, sealed against write, grow, shrink and further seals;
 * -1 with err. */
int wire_memfd(const char *name, const void *bytes, size_t len, struct ckpt_err *err);
/* Maps a received body after checking its seals and size; caller munmaps. */
enum ckpt_status wire_memfd_map(int fd, size_t len, const void **ret, struct ckpt_err *err)
    CKPT_MUST_CHECK;

/* Maps an arena for both sides to use: on a border of huge pages, so that those of the
 * memfd are huge in the page table too; not inherited by fork.  NULL with errno. */
#define WIRE_HUGE_PAGE (UINT64_C(2) << 20)
void *wire_map_arena(int fd, uint64_t bytes);
