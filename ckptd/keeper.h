/* The keeper: parent of the worker.  It holds descriptors and nothing else (listener,
 * lock, and what workers ask it to keep), never reads a client, and forks a new worker
 * when one dies.  A new worker inherits the table and the descriptors by fork.
 *
 * keep, then act: what the worker has sent is read before the next worker starts, also
 * if the sender is dead by then, because it lies in the socket's queue. */
#pragma once

#include "ckptd/keep.h"

#define KEEPER_ENTRIES_MAX 16384

struct keep_entry {
    uint8_t session[16];
    uint32_t kind, index;
    int fd;
};
struct keep_table {
    struct keep_entry *entries;
    size_t count, cap;
};
/* SIGHUP: `reload` makes the settings of later workers; what it returns, a descriptor or -1, goes
 * to the one that runs.
 *
 * Runs until a worker exits by itself (returns its status), one dies before it was ready,
 * or SIGTERM/SIGINT, which the worker gets too.  `worker` runs in the child. */
int keeper_run(int (*worker)(void *arg, const struct keep *k, const struct keep_table *kept),
               void *arg, int (*reload)(void *arg), void *reload_arg);
