/* What can go wrong, as one table.
 *
 * Every fallible function of the project returns one of these.  Callers branch
 * on the class (status_class); the words for people travel in struct ckpt_err.
 * Numbers are fixed: they cross the wire and are part of the public API. */
#pragma once

#ifdef __cplusplus
extern "C" {
#endif

/* Who must act, and whether training may go on. */
enum ckpt_class {
    CKPT_CLASS_OK,
    CKPT_CLASS_CALLER,  /* the call was wrong: raise */
    CKPT_CLASS_BUSY,    /* not now: wait or go on; training continues */
    CKPT_CLASS_STORE,   /* storage or daemon in trouble; training continues */
    CKPT_CLASS_DEVICE,  /* GPU in trouble; this save or restore failed */
    CKPT_CLASS_CORRUPT, /* bytes are not what they were; never used */
    CKPT_CLASS_BUG,     /* an assertion of ours failed; the context is broken */
};

/* X(name, number, class, sentence) */
#define CKPT_STATUSES(X)                                                      \
    X(OK, 0, OK, "success")                                                   \
    X(INVALID, 1, CALLER, "an argument is not valid")                         \
    X(BAD_NAME, 2, CALLER, "a name is not valid")                             \
    X(LIMIT, 3, CALLER, "a documented limit is exceeded")                     \
    X(MISMATCH, 4, CALLER, "shape, dtype or layout do not match")             \
    X(NOT_FOUND, 5, CALLER, "no such thing")                                  \
    X(EXISTS, 6, CALLER, "already there")                                     \
    X(NOT_PLANNED, 7, CALLER, "policy does not send this save to that level") \
    X(WRONG_STATE, 8, CALLER, "not possible in this state")                   \
    X(NO_LAUNCH, 9, CALLER, "no launch id")                                   \
    X(LAUNCH_REUSED, 10, CALLER, "launch id reused by another process")       \
    X(SUPERSEDED, 11, CALLER, "a newer launch of this job has taken over")    \
    X(COVER, 12, CALLER, "boxes leave a hole or overlap")                     \
    X(VANISHED, 13, CALLER, "tensors of the parent checkpoint are missing")   \
    X(REFUSED, 14, CALLER, "refused by a rule that protects data")            \
    X(UNSUPPORTED, 15, CALLER, "not supported here")                          \
    X(TIMEOUT, 16, BUSY, "deadline passed")                                   \
    X(BUSY, 17, BUSY, "busy")                                                 \
    X(CANCELLED, 18, BUSY, "cancelled")                                       \
    X(ABORTED, 19, BUSY, "the save was given up")                             \
    X(NO_MEMORY, 20, BUSY, "out of memory")                                   \
    X(IO, 21, STORE, "input or output failed")                                \
    X(FULL, 22, STORE, "no space left")                                       \
    X(DENIED, 23, STORE, "permission denied or read-only")                    \
    X(CONFLICT, 24, STORE, "different content under a write-once name")       \
    X(UNREACHABLE, 25, STORE, "not reachable")                                \
    X(DAEMON_GONE, 26, STORE, "ckptd is gone")                                \
    X(DEVICE, 27, DEVICE, "the device failed")                                \
    X(CORRUPT, 28, CORRUPT, "damaged data found")                             \
    X(BUG, 29, BUG, "internal error")

enum ckpt_status {
#define X(name, number, class_, sentence) CKPT_##name = number,
    CKPT_STATUSES(X)
#undef X
};

/* The class of a status; an unknown number is a BUG. */
enum ckpt_class status_class(enum ckpt_status st);
/* "NOT_FOUND", and its sentence.  Static strings, never NULL. */
const char *status_name(enum ckpt_status st);
const char *status_sentence(enum ckpt_status st);
/* True if `number` is a status of the table (a number from the wire may not be). */
int status_known(unsigned number);

#ifdef __cplusplus
}
#endif
