/* What runs on the recording disk: launches, saves, publishing, deletion, gc, repair, dropping
 * copies. */
#pragma once

#include "crash/oracle.h"

#define PHASE_DAMAGE "damage" /* what is done here is no part of the engine's work */

/* Records the whole workload below the empty directory `base`, in base/disk.  Returns
 * the store that damage is mended from. */
struct store *workload_record(const char *base);
/* A first process launches and saves, and is killed after `kill_at` operations; a second
 * one goes on with what is visible.  Returns false if the first one was through before;
 * *ret_second is the event at which the second one starts. */
/* (Ends with workload_forget(base), which empties it.) */
bool workload_record_killed(const char *base, size_t kill_at, size_t *ret_second);
void workload_forget(const char *base);
