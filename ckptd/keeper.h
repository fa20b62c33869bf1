/* The keeper: parent of the worker.  It holds descriptors and nothing else (listener,
 * lock, and what workers ask it to keep), never reads a client, and forks a new worker
 * when one dies.  A new worker inherits the table and the descriptors by fork.
 *
 * keep, then act: what the worker has sent is read before the next worker starts, also
 * if the sender is dead by then, because it lies in the socket's queue. */
#pragma once

#include "formats/base.h"

#define KEEPER_ENTRIES_MAX 16384

enum keep_kind { KEEP_LEDGER = 1, KEEP_ARENA, KEEP_DECL, KEEP_PIDFD };
struct keep_entry {
    uint8_t session[16];
    uint32_t kind, index;
    int fd;
};
struct keep_table {
    struct keep_entry *entries;
    size_t count, cap;
};
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

/* Runs until a worker exits by itself (returns its status), one dies before it was ready,
 * or SIGTERM/SIGINT, which the worker gets too.  `worker` runs in the child. */
int keeper_run(int (*worker)(void *arg, const struct keep *k, const struct keep_table *kept),
               void *arg);
