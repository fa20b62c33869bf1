/* A client of ckptd that speaks raw wire.h, for tests: one rank with one tensor of u32
 * whose values follow from step and place, so that every restored byte can be checked. */
#pragma once

#include "formats/decl.h"
#include "formats/wire.h"

#define TC_SLOT   CKPT_SLOT_BYTES_MIN
#define TC_QUEUED 256

struct tc {
    char socket[128], job[64], token[64], resume[64];
    uint8_t session[16];
    uint32_t rank, world, mode, flags, arrival_ms, numa;
    int fd;
    uint64_t seq, ack, op;
    /* sent and not acknowledged */
    struct {
        uint64_t seq;
        uint32_t len;
        uint8_t bytes[256];
        int fd;
    } queue[TC_QUEUED];
    size_t queued;
    /* HELLO_OK */
    uint64_t epoch;
    struct wire_name point;
    uint32_t ok_flags;
    char why[512];
    /* STATE_OK */
    struct decl decl;
    uint64_t elements; /* of the whole tensor */
    uint8_t *arena;
    uint32_t slots, state;
    uint32_t full_flags; /* of every FULL, beside what is right */
    uint32_t unasked;    /* of the last restore's end */
    /* what goes on */
    int events; /* pipe: one byte per event; -1 = none */
    unsigned relinks;
    struct ckpt_err err;
    char text[512];
};

void tc_init(struct tc *c, const char *socket, const char *job, const char *token, uint32_t rank,
             uint32_t world);
/* Connects and says HELLO; waits at most until the daemon answers. */
enum ckpt_status tc_hello(struct tc *c, bool resumed);
/* Declares `elements` u32, cut evenly over the ranks, and gets the arena. */
enum ckpt_status tc_state(struct tc *c, uint64_t elements, uint64_t arena_bytes);
/* Saves; returns when the op is final, or at `level` if that comes first.  die_after: the
 * process kills itself after so many FULLs (UINT32_MAX = never). */
enum ckpt_status tc_save(struct tc *c, uint64_t step, uint32_t try_, uint32_t level,
                         uint32_t die_after);
/* The end of an op that tc_save left at a lower level. */
enum ckpt_status tc_wait_final(struct tc *c, uint64_t op);
/* Asks for `point` (NULL = the resume point), and does not wait. */
void tc_ask(struct tc *c, const struct wire_name *point, uint32_t flags);
/* Restores `point` (NULL = the resume point) and checks every element against `step`. */
enum ckpt_status tc_load(struct tc *c, const struct wire_name *point, uint64_t step,
                         uint32_t flags);
void tc_bye(struct tc *c);  /* orderly */
void tc_drop(struct tc *c); /* without a word; both free what it holds */
/* Sends bytes as they are (hostile tests); false if the daemon closed. */
bool tc_raw(struct tc *c, const void *bytes, size_t len);
int tc_connect(const char *socket);
enum ckpt_status tc_recv(int fd, struct wire_msg *m, int timeout_ms);
/* Whether these are `count` elements of `step` from place `from` on. */
bool tc_is(const uint32_t *at, uint64_t step, uint64_t from, uint64_t count);
