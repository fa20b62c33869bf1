/* The worker's line to the keeper, and what goes over it. */
#pragma once

#include "formats/base.h"

enum kept_kind { KEEP_LEDGER = 1, KEEP_ARENA, KEEP_DECL, KEEP_PIDFD };
/* The worker's end. */
struct keep {
    int fd; /* to the keeper; end of file = it is dead */
};
/* The keeper holds a copy of `fd` from now on; false: it is dead, or cannot. */
bool keep_add(const struct keep *k, const uint8_t session[16], enum kept_kind kind, uint32_t index,
              int fd);
/* Drops one entry; kind 0: all of the session. */
void keep_drop(const struct keep *k, const uint8_t session[16], enum kept_kind kind,
               uint32_t index);
/* The worker can serve: from now on its death is not the end. */
void keep_ready(const struct keep *k);

/* The other way: takes the message that is there, the only kind there is: settings that were
 * read again, as a file.  Returns its descriptor, the caller's to close; -1: none came. */
int keep_settings(const struct keep *k);

/* -- the message itself; within one program, so it has no version -- */
enum keep_verb { KEEP_ADD = 1, KEEP_REMOVE, KEEP_READY, KEEP_SETTINGS };
struct keep_msg {
    uint32_t verb, kind, index, reserved;
    uint8_t session[16];
};
/* The keeper's end: settings for the worker that runs; one that cannot hear them is about to be
 * replaced by one that has them. */
void keep_send_settings(int sock, int fd);
/* Takes the next message without waiting; false when there is none.
 * *ret_fd: the descriptor that came along, the caller's to close; untouched if none. */
bool keep_recv(int sock, struct keep_msg *ret, int *ret_fd);
