/* Copying more than a cache can keep. */
#pragma once

#include "formats/base.h"

/* As memcpy, without pulling the destination through the caches: what is not read again
 * soon is written to memory directly, which saves the read of each line before it is
 * overwritten and leaves the caches to the others.  Short runs are plain memcpy. */
void bulk_copy(void *restrict to, const void *restrict from, size_t bytes);

/* The same for `count` runs of `bytes` each, which lie `to_step` and `from_step` bytes apart
 * (>= bytes at the destination): many runs of a page count as one large copy. */
void bulk_copy_runs(void *restrict to, size_t to_step, const void *restrict from,
                    ptrdiff_t from_step, size_t bytes, size_t count);
