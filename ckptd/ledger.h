/* The ledger of a session: what the next worker needs if this one is killed at any
 * instruction.  One sparse memfd, which the keeper holds too:
 *
 *   head            magic, version, sizes, which half is valid
 *   half 0, half 1  the session (session.h); a commit writes the other half, then flips
 *   op 0 ... op 7   per save: metrics, packs, sums of its chunks
 *
 * A flip is one aligned store after everything that it makes valid, so whoever maps the
 * memfd after a kill finds the session as it was after the last complete commit.  What
 * lies in the op areas is believed only as far as the session says. */
#pragma once

#include "ckptd/session.h"
#include "formats/digest.h"

struct ledger {
    int fd;
    uint8_t *base; /* head and both halves */
};
/* A save's area, mapped. */
struct ledger_op {
    uint8_t *base;
    size_t bytes;
    uint32_t *metric_count;
    struct record_metric *metrics; /* RECORD_METRICS_MAX */
    struct session_pack *packs;    /* image_slots */
    struct digest *digests;        /* chunks */
    uint32_t *crcs;                /* chunks */
};
enum ckpt_status ledger_new(const char *name, struct ledger *ret, struct ckpt_err *err)
    CKPT_MUST_CHECK;
/* Maps a ledger that another worker left (takes fd on success) and reads the session. */
enum ckpt_status ledger_open(int fd, struct ledger *ret, struct session *ret_session,
                             struct ckpt_err *err) CKPT_MUST_CHECK;
void ledger_close(struct ledger *l);
/* After this the session survives the worker's death as it is now. */
void ledger_commit(struct ledger *l, const struct session *s);
/* An empty area for ops[index], whatever an earlier save, or a worker that was killed
 * before it could void it, has left there. */
enum ckpt_status ledger_op_new(const struct ledger *l, uint32_t index, uint32_t image_slots,
                               uint64_t chunks, struct ledger_op *ret, struct ckpt_err *err)
    CKPT_MUST_CHECK;
/* Maps the area of a save that is under way. */
enum ckpt_status ledger_op_open(const struct ledger *l, uint32_t index, uint32_t image_slots,
                                uint64_t chunks, struct ledger_op *ret, struct ckpt_err *err)
    CKPT_MUST_CHECK;
/* Unmaps; with `void_it` also gives the memory back and makes it zero. */
void ledger_op_close(const struct ledger *l, uint32_t index, struct ledger_op *op, bool void_it);
