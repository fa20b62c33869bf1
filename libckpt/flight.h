/* Copies under way on devices, and their order against the caller's stream.
 *
 *   caller's stream   ──kernels──E────────────────────────────wait(last)──optimizer──
 *   our queue                    wait(E) slot slot slot slot
 *                                            │    │    │   └ event, `last` recorded again
 *                                            └────┴────┴── an event in front of and behind each slot
 *
 * A flight is one slot (save) or one message of fragments (restore) whose copies are queued.
 * It lands when its events have happened and what of it lies in host memory is copied too;
 * only then the slot is handed over (FULL, BACK).  Those of a state land in the order they
 * departed in.  Flights exist only for states with something on a device: host memory is
 * copied at once.
 *
 * Host memory of a save on a stream is read when the slot's events have happened: they lie
 * behind the stream's work before the save (it may be pinned memory that the stream fills),
 * and behind the copies of volatile tensors on devices, which are made aside, in pinned host
 * memory, before the stream goes on. */
#pragma once

#include "formats/wire.h"
#include "libckpt/gpu.h"

struct ckpt_state;

struct lib_flight {
    struct lib_flight *next;
    struct gpu_event *begins; /* in front of its copies: those that have not happened yet */
    struct gpu_event *events; /* behind them: the same */
    int64_t begun_ns;         /* seen to run; 0: what the caller queued before is still in front */
    bool load;
    bool aside;              /* no slot: volatile tensors, copied before the stream goes on */
    bool audit;              /* no slot: copied again for the fence (audit.h) */
    bool host_left;          /* saves: host memory is still to be copied */
    bool last;               /* restores: the slot goes back */
    enum ckpt_status status; /* of queueing it; what came to be queued must land all the same */
    struct ckpt_err err;
    struct wire_full full;
    struct wire_back back;
};

/* -- caller's thread; the state is taken and bound, the lock not held -- */
/* Everything queued from now on comes after what is on `stream`, and volatile tensors on
 * devices are copied before later work of it: state.aside, for flight_add_aside whatever this
 * returns.  A restore into host memory waits for the stream here, until the deadline.  CKPT_UNSUPPORTED: a stream for a state without device
 * memory; CKPT_WRONG_STATE: it is being captured. */
enum ckpt_status flight_prepare(struct ckpt_state *s, void *stream, bool load, int64_t deadline_ns,
                                struct ckpt_err *err) CKPT_MUST_CHECK;
/* What was copied aside lands like all else.  Lock held. */
void flight_add_aside(struct ckpt_state *s, uint64_t op);
/* Later work on `stream` waits for the last copy queued on every device of the state. */
enum ckpt_status flight_join(struct ckpt_state *s, void *stream, struct ckpt_err *err)
    CKPT_MUST_CHECK;

/* Copies queued from now on come after what is on `stream`, unless it is being captured. */
enum ckpt_status flight_follow(struct ckpt_state *s, void *stream, struct ckpt_err *err)
    CKPT_MUST_CHECK;

/* -- transfer thread; the lock not held -- */
/* A new one, at the end of the state's; its events exist before any copy is queued. */
enum ckpt_status flight_new(struct ckpt_state *s, struct lib_flight **ret, struct ckpt_err *err)
    CKPT_MUST_CHECK;
/* Marks the end of its copies; call it whatever became of them. */
enum ckpt_status flight_depart(struct ckpt_state *s, struct lib_flight *f, struct ckpt_err *err)
    CKPT_MUST_CHECK;
/* CKPT_BUSY: not yet; else how it ended. */
enum ckpt_status flight_look(struct lib_flight *f, struct ckpt_err *err) CKPT_MUST_CHECK;
/* Its copies run, and not even LIB_LAND_NS are enough for them. */
bool flight_hangs(const struct lib_flight *f);
/* Waits for an event behind copies of a restore whose memory is used again, frees it and makes it
 * NULL, which it may be before.  CKPT_CANCELLED: the restore is over before the copies, and it stays. */
enum ckpt_status flight_settle(struct ckpt_state *s, struct gpu_event **event, struct ckpt_err *err)
    CKPT_MUST_CHECK;
/* Takes the oldest out of the state's and frees it. */
void flight_remove(struct ckpt_state *s);

/* Events of a state that is freed. */
void flight_forget(struct ckpt_state *s);
