/* How fast something under way is, and how long the rest of it will take at that: of one rank's
 * save or restore, of a job's, of a tier that is drained to.  Arithmetic alone. */
#pragma once

#include "formats/base.h"

#define PROGRESS_UNKNOWN (-1.0)

/* Bytes a second since it began; 0 before any time has passed. */
double progress_rate(uint64_t done_bytes, int64_t since_ns);
/* Seconds; PROGRESS_UNKNOWN when nothing is left or nothing moves. */
double progress_left(uint64_t done_bytes, uint64_t total_bytes, double rate);
