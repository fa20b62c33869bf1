/* Fence audit: did anything change the state between a save and its fence?
 *
 *   save ── copies, tile by tile ── a digest each ── last slot is kept back
 *   fence ── the same copies again, into one room ── digests compared ── last slot goes to ckptd
 *
 * What differs is named and the save is given up, because nobody can know of which moment its
 * bytes are.  Such tensors are volatile from then on (copied aside by later saves), as long as
 * those fit into AUDIT_ASIDE_BYTES.  So that a change is seen however early it comes, the copies
 * of an audited save come before later work of the caller's stream, and ckpt_save waits for them
 * (host memory) or for their queueing (devices), at most AUDIT_BLOCK_NS.
 *
 * When: the first save of each state, until one has passed; CKPT_SAVE_AUDIT; CKPT_AUDIT (1: every
 * save, 0: none).  The fence is ckpt_fence_stream, the next save or restore, behind what is on the
 * stream that these name; ckpt_fence or ckpt_wait in the thread that saved, which name none: what a
 * stream has still to run is not seen; or, if none comes, AUDIT_HOLD_NS (or half of the save's time).
 * What cannot be audited (no memory, a device that fails, a context that is closed, a stream that does
 * not reach its fence within AUDIT_STREAM_NS) is handed over as it is, and ckpt_info says so.
 *
 * Cost: one more copy of what the rank writes and two digests of it, one room of a slot's size,
 * 16 bytes a tile.  The transfer thread compares one slot at a time, between messages. */
#pragma once

#include <pthread.h>

#include "formats/digest.h"
#include "formats/wire.h"
#include "libckpt/room.h"

struct ckpt;
struct ckpt_state;
struct lib_flight;
struct lib_op;
struct ckpt_save_opts;

#ifndef AUDIT_BLOCK_NS /* a test may be less patient */
#define AUDIT_BLOCK_NS  INT64_C(5000000000)
#define AUDIT_STREAM_NS INT64_C(60000000000)
#endif
#define AUDIT_HOLD_NS     INT64_C(60000000000)
#define AUDIT_ASIDE_BYTES (UINT64_C(64) << 20)

enum audit_when { AUDIT_FIRST, AUDIT_NEVER, AUDIT_ALWAYS };
enum audit_stage {
    AUDIT_OFF,
    AUDIT_NOTING,    /* slots are being filled, and digested */
    AUDIT_HELD,      /* all are; the last one waits for the fence */
    AUDIT_COMPARING, /* copied again, slot by slot */
};
struct lib_audit {
    uint64_t op;          /* of the save; set by the caller before it is begun */
    struct digest *noted; /* per chunk; NULL: no audit ever began */
    uint8_t *drifted;     /* per tensor: 1 = changed, 2 = and is copied aside by now */
    struct room room;     /* with COMPARING */
    uint32_t next_slot;
    int64_t begun_ns;
    struct { /* under ctx->lock */
        enum audit_stage stage;
        bool asked, passed;
        pthread_t saver;
        int64_t hold_ns, hold_until_ns;
        struct wire_full held;
    } shared;
};

/* CKPT_AUDIT; CKPT_INVALID if it is neither 0 nor 1. */
enum ckpt_status audit_when_of_env(enum audit_when *ret, struct ckpt_err *err) CKPT_MUST_CHECK;

/* -- caller's thread -- */
/* Before the save is asked for; lock held. */
void audit_begin(struct ckpt_state *s, const struct lib_op *op, const struct ckpt_save_opts *o);
/* What drifted is copied aside from now on; the state is taken, the lock not held. */
enum ckpt_status audit_adopt(struct ckpt_state *s, struct ckpt_err *err) CKPT_MUST_CHECK;
/* The copies of an audited save come before later work on the stream; lock held. */
enum ckpt_status audit_await_copies(struct ckpt_state *s, struct ckpt_err *err) CKPT_MUST_CHECK;
/* A fence is here; lock held.  No audit under way: nothing. */
void audit_ask(struct ckpt_state *s);
bool audit_pending(const struct ckpt_state *s);

/* -- transfer thread -- */
/* A slot of the save is filled. */
void audit_note(struct ckpt_state *s, const struct wire_full *full);
/* Keeps back a last slot; false: it may go.  Lock held. */
bool audit_hold(struct ckpt_state *s, const struct wire_full *full);
/* The slot is kept back: a repeated grant of it means nothing.  Lock held. */
bool audit_holds(const struct ckpt_state *s, uint32_t arena_slot);
/* Compares a slot of any state; false: there is nothing to do. */
bool audit_any(struct ckpt *c);
/* The copies of a slot have landed, or failed; lock held, dropped meanwhile. */
void audit_landed(struct ckpt *c, struct ckpt_state *s, enum ckpt_status st, struct ckpt_err *err);
/* Lets go what is kept back, as it is; lock held. */
void audit_release(struct ckpt *c, struct ckpt_state *s, const char *why);

void audit_free(struct ckpt_state *s);
