/* What runs on the recording disk: launches, saves, publishing, deletion, gc, repair. */
#pragma once

#include "crash/oracle.h"

/* Records the whole workload below the empty directory `base`, in base/disk.  Returns
 * the store that damage is mended from. */
struct store *workload_record(const char *base);
