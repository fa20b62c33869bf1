/* Host memory of the library's own that devices copy from or to: pages of its own, as they are
 * pinned, and none that a forked child gets.  Of one thread at a time. */
#pragma once

#include "libckpt/gpu.h"

struct room {
    uint8_t *bytes; /* NULL: none */
    uint64_t len;
    struct gpu *pinned_by; /* NULL: it is not pinned, copies are slower */
};

/* Makes what is not there yet; false: no memory. */
bool room_make(struct room *r, uint64_t len);
/* Pins what is not pinned yet, if that can be. */
enum ckpt_status room_pin(struct room *r, struct gpu *g, struct ckpt_err *err);
/* No copy is under way there; in the process that made it. */
void room_drop(struct room *r);
