/* Walks a recorded log: after each event, states that a cut there may leave are drawn,
 * written out, recovered and verified (oracle.h).  A state that was recovered before, with
 * the same asked of it, is not recovered again. */
#pragma once

#include "crash/oracle.h"

struct walk_counts {
    uint64_t cuts, exhaustive, drawn, recovered;
};
struct walk {
    const struct disk_log *log;
    char dir[256];      /* where states are written */
    struct store *good; /* what damage is mended from; may be NULL */
    unsigned long long rand;
    uint64_t all_max; /* a cut that leaves no more states than this is tried in all of them, */
    uint64_t draws;   /* others in so many */
    size_t from;      /* no cuts before this event */
    size_t every;     /* one of so many events is cut behind, and each mark */
    /* No cuts but where the workload was told something. */
    bool marks_only;
    /* Wherever it was told something, the kernel then has written everything back: fewer
     * states, so that all of them can be tried. */
    bool settles;
    /* Only states that the cut before did not have: its event happened, or more is asked. */
    bool fresh_only;
    /* This sync does nothing; SIZE_MAX = none.  Then only states are drawn that miss
     * something of what it had to keep, until a later sync makes that good. */
    size_t swallow;
    bool *useful; /* per event: a sync that had something to do; may be NULL */
    struct walk_counts counts;
};
void walk(struct walk *w);
void walk_counts_add(struct walk_counts *to, const struct walk_counts *from);
/* The memory of recovered states; forks inherit it. */
void walk_seen_init(void);
void walk_seen_fini(void);
