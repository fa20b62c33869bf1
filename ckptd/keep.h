/* The worker's line to the keeper, and what goes over it. */
#pragma once

#include "formats/base.h"

enum keep_kind { KEEP_LEDGER = 1, KEEP_ARENA, KEEP_DECL, KEEP_PIDFD };
/* The worker's end. */
struct keep {
    int fd; /* to the keeper; end of file = it is dead */
};
/* The keeper holds a copy of `fd` from now on; false: it is dead, or cannot. */
bool keep_add(const struct keep *k, const uint8_t session[16], enum keep_kind kind, uint32_t index,
              int fd);
/* Drops one entry; kind 0: all of the session. */
void keep_drop(const struct keep *k, const uint8_t session[16], enum keep_kind kind,
               uint32_t index);
/* The worker can serve: from now on its death is not the end. */
void keep_ready(const struct keep *k);

/* -- the message itself; within one program, so it has no version -- */
enum keep_verb { KEEP_ADD = 1, KEEP_REMOVE, KEEP_READY };
struct keep_msg {
    uint32_t verb, kind, index, reserved;
    uint8_t session[16];
};
/* The keeper's end: takes the next message without waiting; false when there is none.
 * *ret_fd: the descriptor that came along, the caller's to close; untouched if none. */
bool keep_recv(int sock, struct keep_msg *ret, int *ret_fd);
