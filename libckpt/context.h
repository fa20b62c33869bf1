/* Inside of the library: a context, its states and its operations.
 *
 *  caller's threads                        transfer thread (one per context)
 *    ckpt_save() ── op, SAVE queued ──┐       socket ◄──► ckptd
 *    ckpt_fence() waits for `changed` ├────►  GRANT: copies tiles into the slot, FULL
 *    ckpt_wait()  waits for `changed` │       FRAGS: copies fragments to tensors, BACK
 *                                     └────►  reconnects when ckptd's worker died
 *
 * One lock guards everything marked `shared`; it is never held while copying or in a
 * system call that may block.  The transfer thread alone reads and writes the socket
 * after ckpt_open, and alone touches arenas. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

#include "formats/decl.h"
#include "formats/record.h"
#include "formats/report.h"
#include "formats/select.h"
#include "formats/wire.h"
#include "libckpt/audit.h"
#include "libckpt/ckpt.h"
#include "libckpt/devices.h"
#include "libckpt/fanout.h"
#include "libckpt/flight.h"
#include "libckpt/guard.h"
#include "libckpt/pace.h"
#include "libckpt/respawn.h"

#ifndef LIB_LAND_NS                     /* a test may be less patient */
#define LIB_LAND_NS INT64_C(5000000000) /* longer, and a device is taken to hang */
#endif
#define LIB_OPS         64                  /* operations whose fate is remembered */
#define LIB_STATES_MAX  8                   /* at a time */
#define LIB_CONVERTING  8                   /* parts that are converted ahead of a device */
#define LIB_STEPS       64                  /* steps whose save() calls are counted */
#define LIB_PROGRESS_NS INT64_C(1000000000) /* between two words about it that only inform */

/* A client message that the daemon has not acknowledged; kept for a reconnect. */
struct lib_out {
    struct lib_out *next;
    uint64_t seq;
    int fd; /* owned; -1 = none */
    bool sent;
    uint32_t len;
    uint8_t bytes[]; /* the whole message */
};

struct lib_op {
    uint64_t id; /* 0 = unused */
    bool load;
    bool begun;  /* the daemon answered SAVE or LOAD */
    bool copied; /* the caller's memory is free again */
    bool final;  /* nothing more comes */
    bool told;   /* the daemon said how it ended, or was told that we gave it up */
    bool held;   /* a caller waits for it: its place in the table is not given away */
    bool committed;
    uint32_t level;
    uint32_t next_slot; /* number in the image that the next grant fills */
    enum ckpt_status status;
    char text[512];
    uint64_t step;
    struct ckpt_state *state; /* NULL once nothing of it is used */
    struct wire_name name;
    uint64_t done_bytes, total_bytes;
    uint32_t missing, unasked;
    int64_t begun_ns;
};

/* Arena slots that the daemon gave us to fill, in order. */
struct lib_grants {
    uint32_t *slot;
    uint64_t *op;
    uint32_t head, count, cap;
};

/* A tensor or object that is copied before save() returns: its own memory. */
struct lib_side {
    size_t tensor;
    uint8_t *bytes;   /* of the buffer, as long as `len` */
    struct room room; /* a tensor's: where they lie */
    uint64_t len;
    uint64_t capacity; /* objects: what the user may put; 0 = a volatile tensor */
    uint64_t used;     /* objects: beyond this `bytes` is zero */
    uint64_t reach;    /* objects: where what a restore brought ends; 0 = nothing came */
    unsigned on;       /* the device that the buffer of the save under way is on; 0 = host */
    void *from;        /* with `on`: that buffer */
};

/* Where a tensor's buffer was found.  Asking the driver for thousands of them takes milliseconds of
 * the caller's thread: a save takes one that is at the same address on trust, if it was on a device,
 * and the transfer thread asks before it queues copies from there. */
struct lib_found {
    const void *base; /* NULL: not on a device */
    uint8_t on;
    bool asked; /* for the save under way */
};

/* What a restore does to one tensor. */
struct lib_fate {
    uint64_t held_bytes; /* all pieces; objects and ties: 0 */
    uint64_t came_bytes; /* as declared; objects: as they were saved */
    uint64_t overflowed; /* elements, when it was converted */
    bool wanted;         /* the patterns do not leave it out */
};

/* What of the arena is pinned for copies; of the transfer thread. */
struct lib_pin {
    struct gpu *by; /* the device that made the calls; NULL: nothing is */
    uint64_t bytes; /* of the arena, from its start */
    int64_t ns;
    bool over; /* all is, and the tile, or it was refused */
};

/* Where elements are converted on their way to tensors: parts of a room in turn, as devices copy
 * out of those before.  Of the transfer thread. */
struct lib_convert {
    struct room room;
    bool pin_asked;
    unsigned at;                              /* the part in use */
    void *part;                               /* the same: CONVERT_ROOM bytes */
    struct gpu_event *behind[LIB_CONVERTING]; /* the last copy out of each; NULL: it is free */
};

struct ckpt_state {
    struct ckpt *ctx;
    struct ckpt_state *next;
    uint32_t number;
    struct decl decl; /* finished at seal; read-only from then on */
    bool closed;      /* ckpt_seal was called: nothing more is declared */
    bool sealed;
    uint64_t arena_want;
    uint32_t numa; /* 1 + the node that the arena is best on; 0: any */
    /* set by the transfer thread before `sealed`, constant until free: */
    uint8_t *arena;
    uint32_t slots;
    uint64_t slot_bytes, ram_left;
    struct lib_pin pin;
    struct lib_flight *flights; /* of the transfer thread: oldest first */
    struct lib_flight *aside;   /* of the save that is being asked for, not among them yet */
    struct room tile;           /* for one, with witnesses */
    uint64_t witness_turn;      /* counts the saves, from anywhere (G4) */
    /* of the operation under way; set by the caller before it is begun: */
    struct strided *at; /* per piece of the declaration: where it lies */
    uint8_t *on;        /* and on which device (devices.h) */
    uint64_t devices;   /* a bit for each CUDA device among them */
    bool look_for_devices;
    bool prepared;           /* an operation was: `devices` is right, and each has its `last` */
    bool host_memory;        /* some of it is the caller's host memory */
    struct gpu_event *last;  /* one for each device ever used: behind the last copy there */
    uint64_t *need_bytes;    /* per tensor: length the buffer must have */
    struct lib_found *found; /* per tensor; of the transfer thread, too, while copies are queued */
    struct lib_fate *fates;  /* per tensor: of the restore under way, or the last one */
    struct select select;    /* the same: what of it, under which names */
    struct report report;    /* what ckptd says of it; written by the transfer thread under lock */
    uint32_t load_flags;     /* enum ckpt_restore_flags */
    bool restored;           /* the last restore ended well: there is a report */
    struct fanout_plan *fan; /* what of it is asked for; NULL = everything; set under lock */
    struct lib_convert convert;
    struct lib_side *sides; /* sorted by tensor */
    size_t side_count;
    struct lib_audit audit;
    struct { /* under ctx->lock */
        struct lib_grants grants;
        uint64_t copying; /* op that needs the caller's memory; 0 = none */
        uint32_t busy;    /* uses of that memory or the arena: by the transfer thread, in flight */
        uint32_t alone;   /* uses of the arena alone, by the transfer thread: it maps, it pins */
        unsigned pin_on;  /* the device to pin by, known since the seal; 0: not then */
        bool queueing;    /* the transfer thread queues copies just now */
        bool freed;       /* by the caller; the transfer thread takes it when it is in no use */
        uint64_t queued;  /* op whose copies are all queued, at least */
        struct ckpt_err failed; /* what became of a flight of the load under way */
        bool announced;         /* STATE was queued: again after a fresh start of ckptd */
        bool answered;          /* STATE_OK or REFUSED came */
        struct ckpt_err err;    /* REFUSED */
    } shared;
};

struct ckpt {
    pid_t pid; /* of the process that opened */
    pthread_t thread;
    bool thread_running;
    int wake_fd; /* eventfd: the transfer thread has something to do */
    struct devices *devices;
    /* constant after open: */
    char *job, *store, *socket, *launch, *resume, *ckptd;
    bool may_start; /* the socket was not named: a private ckptd may be started */
    uint8_t session[16];
    enum ckpt_mode mode;
    uint32_t rank, world;
    int timeout_ms;
    uint64_t arena_want;
    bool private_daemon;
    uint32_t hello_flags;
    enum audit_when audit_when;
    /* of the transfer thread (and of ckpt_open before it starts): */
    int fd;
    int starter; /* pidfd of a ckptd that is being started; -1: none is */
    struct respawn respawn;
    bool fresh;                /* no answer has come to this session's HELLO yet */
    struct pace pace;          /* of saves */
    int64_t pace_ns;           /* the next slot waits until then; 0: none does */
    struct wire_msg *in, *out; /* scratch of the transfer thread */
    struct wire_msg *compose;  /* scratch of callers, under lock */
    pthread_mutex_t lock;
    pthread_cond_t changed; /* CLOCK_MONOTONIC */
    struct {
        bool stop, ended; /* is to end; the transfer thread has */
        bool broken;      /* for good: `err` says why */
        bool linked;      /* HELLO_OK on the present socket */
        struct ckpt_err err;
        uint64_t next_seq, next_op;
        struct lib_out *outs, **outs_tail;
        struct ckpt_state *states;
        uint32_t next_state;
        uint32_t burying; /* the number of one that is not among them now and not gone yet; 0 */
        uint64_t last_committed_op;
        struct lib_op ops[LIB_OPS];
        struct {
            uint64_t step;
            uint32_t tries;
        } steps[LIB_STEPS]; /* rule I6: counts save() calls */
        uint32_t step_at, tries_floor;
        uint64_t epoch;         /* of the branch that this process is on */
        bool behind;            /* ckptd started afresh, and the launch has gone back without us */
        uint32_t ok_flags;      /* wire_hello_ok flags */
        struct wire_name point; /* the launch's resume point, with WIRE_HAS_POINT */
        struct wire_name head;  /* where this run of steps began: it, or after a rollback */
        bool has_head, saved;   /* saved: something, since then */
        int64_t unlinked_ns;    /* since when there is no daemon; with !linked */
        bool progress_sent;
        int64_t progress_ns; /* when */
        struct {             /* one ckpt_list at a time */
            uint64_t token;
            bool asked, answered;
            struct ckpt_err err; /* what it was refused with */
            const void *bytes;   /* a mapping */
            size_t len;
        } list;
        uint8_t node[16];
        uint32_t slot_bytes;
        char why[512];
        char pinning[300]; /* how pinning the arena went; "" = it was not needed */
        double unpinned;   /* bytes a second of the fastest slot that was copied without */
        struct ckpt_info info;
    } shared; /* under lock */
};

/* -- context.c -- */
/* Refuses NULL, a forked child, a broken context; fills the thread's error. */
enum ckpt_status lib_enter(struct ckpt *c) CKPT_MUST_CHECK;
enum ckpt_status lib_enter_state(struct ckpt_state *s) CKPT_MUST_CHECK;
/* Refuses NULL and a forked child only: for waits, which also end on a broken context. */
enum ckpt_status lib_enter_wait(struct ckpt *c, int timeout_ms) CKPT_MUST_CHECK;
/* Copies a caller's struct, which may be shorter (an older program) or longer (a newer
 * one: what we do not know must be zero) than ours.  `given` is its first field. */
enum ckpt_status lib_take_struct(void *ret, size_t ours, const void *from, size_t least,
                                 const char *what, struct ckpt_err *err) CKPT_MUST_CHECK;
/* Records `err` as this thread's last error and returns its status. */
enum ckpt_status lib_fail(const struct ckpt_err *err);
void lib_clear_error(void);
int64_t lib_now_ns(void);
/* Waits on `changed` until the deadline (CLOCK_MONOTONIC ns); false when it passed. */
bool lib_wait_changed(struct ckpt *c, int64_t deadline_ns);
/* Marks the context broken (first cause wins) and wakes everybody; lock held. */
void lib_break(struct ckpt *c, const struct ckpt_err *err);
struct lib_op *lib_op_find(struct ckpt *c, uint64_t id); /* lock held; NULL */
/* A new op in the table; lock held. */
struct lib_op *lib_op_new(struct ckpt *c, struct ckpt_state *s, bool load);
/* The same for a message that does not follow from anything we asked, or a broken rule of
 * our own: breaks the context with CKPT_BUG, never aborts the trainer.  Lock held. */
bool lib_assert_failed(struct ckpt *c, const char *what, const char *file, int line);
/* guard_run for a call on this context, which is broken when an assert failed in it.  Lock
 * not held. */
enum ckpt_status lib_guarded(struct ckpt *c, guard_call call, void *arg, struct ckpt_err *err)
    CKPT_MUST_CHECK;
#define LIB_ASSERT(c, cond) ((cond) || lib_assert_failed((c), #cond, __FILE__, __LINE__))
/* Frees the states and the devices' queues: calls of the driver, which may not come back, so of the
 * transfer thread where there is one. */
void lib_let_go(struct ckpt *c);
/* Ends an op with a status; lock held. */
void lib_op_end(struct ckpt *c, struct lib_op *op, enum ckpt_status st, const char *text);

/* Ends an op on our side and tells the daemon (FAIL, or CANCEL for a load), so that no
 * other rank waits for us; lock held. */
void lib_op_give_up(struct ckpt *c, struct lib_op *op, enum ckpt_status st, const char *text);
/* Until when to wait for the daemon: one that is gone may come back, but training does not
 * wait long for it; a restore (final) does.  Lock held. */
int64_t lib_patience(const struct ckpt *c, bool final, int64_t deadline_ns);
/* Waits until the daemon answered SAVE or LOAD (final: until it is over); what it refused
 * is the result.  Lock held. */
enum ckpt_status lib_op_wait(struct ckpt *c, struct lib_op *op, bool final, int64_t deadline_ns,
                             struct ckpt_err *err) CKPT_MUST_CHECK;

/* -- client.c: messages and the link to the daemon -- */
/* Numbers and queues a message (fd taken, also on failure) and wakes the transfer
 * thread; lock held. */
enum ckpt_status client_queue(struct ckpt *c, struct wire_msg *m, int fd) CKPT_MUST_CHECK;
void client_wake(struct ckpt *c);
/* Says HELLO on c->fd and waits for the answer; fills shared from it.  *ret_refused: the
 * daemon answered with a refusal. */
enum ckpt_status client_hello(struct ckpt *c, bool resumed, int64_t deadline_ns, bool *ret_refused,
                              struct ckpt_err *err) CKPT_MUST_CHECK;
/* Sends what is queued; CKPT_BUSY when the socket is full. */
enum ckpt_status client_flush(struct ckpt *c, struct ckpt_err *err) CKPT_MUST_CHECK;
void client_acked(struct ckpt *c, uint64_t ack); /* lock held */
/* True while a FULL for this slot of this op waits for its acknowledgement. */
bool client_full_unacked(struct ckpt *c, uint64_t op, uint32_t state, uint32_t slot);
void client_drop_queue(struct ckpt *c); /* lock held */

/* -- transfer.c -- */
enum ckpt_status transfer_start(struct ckpt *c, struct ckpt_err *err) CKPT_MUST_CHECK;
/* False: the thread hangs, in the driver or a system call; what it uses must stay. */
bool transfer_stop(struct ckpt *c);
/* Waits for ckptd, which is away: until `fd` (-1: nothing) has news.  What was granted needs no
 * ckptd: it is copied and handed over meanwhile.  CKPT_TIMEOUT; CKPT_CANCELLED: the context
 * ends.  Of the transfer thread, and of ckpt_open before that runs. */
enum ckpt_status transfer_pause(struct ckpt *c, int fd, int64_t deadline_ns) CKPT_MUST_CHECK;

/* -- transfer_copies.c: what the transfer thread has copied; of that thread -- */
/* Fills, or queues, the next granted slot of any state; false: there is none. */
bool copies_fill_any(struct ckpt *c);
/* A slot's copies have ended: it goes to the daemon, or the save has failed.  Lock held. */
void copies_hand_over(struct ckpt *c, const struct wire_full *full, enum ckpt_status st,
                      struct ckpt_err *err);
/* Takes down one that has landed, if any; else *ret_left: some are still in the air. */
bool copies_land_any(struct ckpt *c, bool *ret_left);
/* Before an arena goes: a device may still be writing into it, or is yet to, behind the caller's
 * own work.  Lock held, dropped meanwhile; false: it does not end, and the context is broken, or
 * the context ends. */
bool copies_land_all(struct ckpt *c, struct ckpt_state *s);
/* The thread ends: what is under way is waited for, as nobody else looks. */
void copies_land_last(struct ckpt *c);
/* A state that the caller has freed goes, when nothing uses it: the driver is called for that, which
 * may take long or for ever.  False: there is none.  Lock held, dropped meanwhile. */
bool copies_bury_one(struct ckpt *c);
/* The slot of a restore is free again; lock held. */
void copies_give_back(struct ckpt *c, const struct wire_back *back);

/* -- slots.c: copies between slots and the caller's memory; lock not held -- */
/* Maps the arena that came with STATE_OK, after checking it. */
enum ckpt_status slots_map(struct ckpt_state *s, int fd, const struct wire_state_ok *ok,
                           struct ckpt_err *err) CKPT_MUST_CHECK;
/* Unmaps it, with no grant left; of the transfer thread, or when that no longer runs or never saw
 * it. */
void slots_unmap(struct ckpt_state *s);
/* Copies the tiles of a FULL that lie in host memory, or queues the copies of those on
 * devices; with its last slot also the tile of others whose turn it is (G4). */
enum slots_part { SLOTS_HOST, SLOTS_DEVICES };
enum ckpt_status slots_fill(struct ckpt_state *s, const struct wire_full *full,
                            enum slots_part part, struct ckpt_err *err) CKPT_MUST_CHECK;
/* The same for the tiles alone, into any memory of a slot's size. */
enum ckpt_status slots_fill_room(struct ckpt_state *s, uint32_t slot, enum slots_part part,
                                 uint8_t *to, struct ckpt_err *err) CKPT_MUST_CHECK;
/* Whose turn it is, when a save's last slot is begun; its digest, when all is copied. */
void slots_choose_witness(struct ckpt_state *s, struct wire_full *full);
void slots_digest_witness(const struct ckpt_state *s, struct wire_full *full);
/* Pins what is not pinned yet of arena and tile for copies from and to devices, up to the first slice
 * that is refused twice; what is not pinned is copied slower. */
void slots_pin(struct ckpt_state *s);
/* What a slot has of devices was copied in this time: if it is not pinned, that is what people are
 * told. */
void slots_filled(struct ckpt_state *s, const struct wire_full *full, int64_t ns);
/* A slice of any state whose device is known since it was sealed, while the caller builds its
 * model; false: there is nothing to do. */
bool slots_pin_early(struct ckpt *c);
/* The next fragment of a FRAGS; false: the message is cut. */
bool slots_read_frag(struct cursor *tail, struct wire_frag *f, struct box *box);
/* Copies fragments to the tensors, or queues that. */
enum ckpt_status slots_take(struct ckpt_state *s, const struct wire_msg *m,
                            const struct wire_frags *w, struct ckpt_err *err) CKPT_MUST_CHECK;
/* The memory that was converted in; no copy is under way. */
void slots_forget(struct ckpt_state *s);

/* -- report_api.c -- */
/* Sets the patterns of the next restore; before it is begun. */
enum ckpt_status report_select(struct ckpt_state *s, const struct ckpt_restore_opts *o,
                               struct ckpt_err *err) CKPT_MUST_CHECK;
/* Before each try: nothing came yet. */
void report_reset(struct ckpt_state *s);
/* All that is owed came?  A lost fragment would leave old bytes in a tensor without anybody
 * noticing.  Lock held. */
enum ckpt_status report_check(const struct ckpt_state *s, struct ckpt_err *err) CKPT_MUST_CHECK;
/* REPORT for a load of this state; lock held. */
enum ckpt_status report_take(struct ckpt_state *s, struct wire_msg *m, struct ckpt_err *err)
    CKPT_MUST_CHECK;

/* -- list_api.c; lock held -- */
void list_take(struct ckpt *c, struct wire_msg *m);
void list_lost(struct ckpt *c); /* the connection is gone: nobody answers */

/* -- connect.c -- */
/* True if the launcher (torchrun, Open MPI, MPICH) says that fewer ranks than `world` run on
 * this node. */
bool connect_several_nodes(uint32_t world);
/* Connects to the daemon's socket; starts a private daemon when nobody listens and the
 * socket was not named by the caller.  Fills c->fd and c->private_daemon.
 * CKPT_UNREACHABLE when there is none.  What was started is waited for until the deadline
 * at most, kept in c->starter while it has not ended, and no other is started meanwhile.  The
 * next one comes ever later (respawn.h); others' are connected to at any time. */
enum ckpt_status connect_daemon(struct ckpt *c, int64_t deadline_ns, struct ckpt_err *err)
    CKPT_MUST_CHECK;
/* Lets go of c->starter; one that runs on is left alone. */
void connect_fini(struct ckpt *c);
/* The launch token (rule I1); malloc'ed. */
enum ckpt_status connect_launch(const struct ckpt_open_opts *o, char **ret, struct ckpt_err *err)
    CKPT_MUST_CHECK;

/* Where the daemon is: c->socket, c->store and c->ckptd, made absolute once, so that a
 * later chdir or setenv changes nothing. */
enum ckpt_status connect_place(struct ckpt *c, const struct ckpt_open_opts *o, struct ckpt_err *err)
    CKPT_MUST_CHECK;

/* -- seal.c -- */
/* Points every piece at the caller's buffers; checks count and lengths.  load: volatile
 * tensors are filled in place; otherwise they and objects are copied aside now. */
enum ckpt_status state_bind(struct ckpt_state *s, const struct ckpt_buffer *buffers, size_t count,
                            bool load, struct ckpt_err *err) CKPT_MUST_CHECK;
/* Asks for the buffers of a slot whose place was taken on trust; CKPT_ABORTED: one is elsewhere. */
enum ckpt_status state_confirm(struct ckpt_state *s, const struct wire_full *full,
                               struct ckpt_err *err) CKPT_MUST_CHECK;
/* Nothing is taken on trust by the next save. */
void state_doubt(struct ckpt_state *s);
/* After a load: objects go to the caller's buffers, their lengths to .bytes. */
enum ckpt_status state_take_objects(struct ckpt_state *s, struct ckpt_buffer *buffers,
                                    struct ckpt_err *err) CKPT_MUST_CHECK;
/* Queues STATE for a sealed declaration; lock held. */
enum ckpt_status state_announce(struct ckpt_state *s, struct ckpt_err *err) CKPT_MUST_CHECK;
/* Memory for the copy aside of a tensor or object; of nothing under way. */
enum ckpt_status state_make_side(struct ckpt_state *s, size_t tensor, struct ckpt_err *err)
    CKPT_MUST_CHECK;
/* The copy aside of a volatile tensor or object, or NULL. */
struct lib_side *state_side(struct ckpt_state *s, size_t tensor);
/* What the head of an object's bytes says: how many follow. */
uint64_t state_object_bytes(const struct lib_side *side);
void state_free_memory(struct ckpt_state *s);
/* By the transfer thread or a device.  Lock held. */
bool state_in_use(const struct ckpt_state *s);
/* Takes it out of the context's; lock held. */
void state_unlink(struct ckpt_state *s);

/* -- save_api.c -- */
/* Takes a sealed, idle state for a new op on `stream`, which is `held`; lock held. */
enum ckpt_status state_take(struct ckpt_state *s, bool load, void *stream, int64_t deadline_ns,
                            struct lib_op **ret, struct ckpt_err *err) CKPT_MUST_CHECK;
/* Waits until nothing of `s` touches the caller's memory; lock held. */
enum ckpt_status state_wait_idle(struct ckpt_state *s, int64_t deadline_ns, struct ckpt_err *err)
    CKPT_MUST_CHECK;
