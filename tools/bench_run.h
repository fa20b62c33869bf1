/* One training rank's life for `ckpt bench`: open, seal, restore, save twice, close,
 * through the public API against a ckptd of its own, each part timed. */
#pragma once

#include <sys/types.h>

#include "formats/base.h"

#define BENCH_TENSOR_BYTES (UINT64_C(64) << 20)
#define BENCH_JOB          "bench"

struct bench_run {
    const char *dir; /* scratch directory of the bench; exists */
    uint64_t bytes;
    uint8_t *memory; /* the state: incompressible, touched */
    uint64_t hash;   /* of it */
    pid_t daemon;
    char store[4096], socket[108];
    uint64_t step;
};
struct bench_times {   /* seconds */
    double seal;       /* arena got and touched */
    double restore;    /* 0 without a checkpoint */
    double first;      /* the launch's first save, ckpt_save to local; the rest is of its second */
    double blocked;    /* in ckpt_save and a fence that follows at once */
    double late_fence; /* in ckpt_save and a fence after the copy has ended */
    double local;      /* ckpt_save to local */
};
enum ckpt_status bench_run_init(struct bench_run *b, const char *dir, uint64_t bytes,
                                struct ckpt_err *err) CKPT_MUST_CHECK;
/* A launch: seal, restore the newest checkpoint if there is one (checked against the
 * hash), save twice.  late: the second save's fence comes after the copy. */
enum ckpt_status bench_run_launch(struct bench_run *b, bool late, struct bench_times *ret,
                                  struct ckpt_err *err) CKPT_MUST_CHECK;
/* One-thread memcpy of as many bytes into touched pages. */
double bench_run_memcpy(const struct bench_run *b);
/* Peak resident memory of a process, 0 if unknown; and of the daemon's processes, one
 * after the other (at most cap). */
uint64_t bench_peak_rss(pid_t pid);
size_t bench_run_daemons(const struct bench_run *b, pid_t *ret, size_t cap);
/* Stops the daemon. */
void bench_run_fini(struct bench_run *b);
