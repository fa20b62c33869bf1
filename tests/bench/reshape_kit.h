/* A checkpoint of one large tensor, restored by ranks that cut it otherwise: what the
 * kernel says that ckptd read, what each process took at most, and how long it took.
 * The test looks at bytes and memory, the benchmark also at time. */
#pragma once

#include "e2e/kit.h"

struct reshape {
    uint32_t world;
    enum kit_how how;
    uint32_t readers; /* 0: all ranks; else only the first so many, as readers (one node's share) */
    bool unchecked;   /* the bytes that came are not looked at */
};
struct reshape_result {
    double seconds;        /* ckpt_restore, the slowest rank */
    uint64_t wanted_bytes; /* what the ranks hold */
    uint64_t read_bytes;   /* by ckptd from the device: /proc/PID/io */
    uint64_t rank_peak;    /* of the rank that took most: beyond its tensor and arena */
};

/* `bytes`: of the tensor, a multiple of 64 KiB; rows of 16 KiB. */
void reshape_save(const char *job, uint64_t bytes, const struct reshape *how, uint64_t arena_bytes);
/* Checks every byte. */
struct reshape_result reshape_restore(const char *job, uint64_t bytes, const struct reshape *how,
                                      uint64_t arena_bytes);
/* VmHWM of a process. */
uint64_t reshape_peak(pid_t pid);
