/* Syncs that do nothing: of those of every place in the engine one must be noticed, or it
 * is not needed there. */
#pragma once

#include "crash/walk.h"

/* Of each sync of the workload in like->log that had something to do, in turn, the effect
 * is swallowed; then the same for what only a process that goes on after a killed one
 * needs (below the empty directory `base`).  Prints what noticed it, and by what line of
 * the engine they were asked for.  Returns how many places no loss shows to be needed. */
uint64_t swallow_each(const struct walk *like, const char *base);
