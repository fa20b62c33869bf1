/* See progress.h. */
#include "ckptd/progress.h"

double progress_rate(uint64_t done_bytes, int64_t since_ns)
{
    return since_ns > 0 ? (double)done_bytes / ((double)since_ns / 1e9) : 0;
}

double progress_left(uint64_t done_bytes, uint64_t total_bytes, double rate)
{
    if (rate <= 0 || done_bytes >= total_bytes)
        return PROGRESS_UNKNOWN;
    return (double)(total_bytes - done_bytes) / rate;
}
