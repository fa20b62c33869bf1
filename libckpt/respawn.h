/* When a daemon that does not last may be started again: after 0.1 s, then each time after twice
 * as long, up to 10 s.  One that lasted longer than that beyond its pause has served: after it the
 * pauses begin anew.  All zero: none was started yet.  No clock of its own; one thread. */
#pragma once

#include "formats/base.h"

#ifndef RESPAWN_LEAST_NS /* a test may have more time */
#define RESPAWN_LEAST_NS INT64_C(100000000)
#endif
#define RESPAWN_MOST_NS INT64_C(10000000000)

struct respawn {
    int64_t next_ns, pause_ns;
};

bool respawn_due(const struct respawn *r, int64_t now_ns);
/* It is started now. */
void respawn_note(struct respawn *r, int64_t now_ns);
