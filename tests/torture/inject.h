/* Fails the n-th call of one C library function.  The test's binary is linked with
 * --wrap for each of them (tests/CMakeLists.txt), so this sees every call that the
 * engine makes, and nothing is done to the process that the engine could tell. */
#pragma once

#include "check.h"

enum inject_site {
    INJECT_MALLOC,
    INJECT_CALLOC,
    INJECT_REALLOC,
    INJECT_ALIGNED_ALLOC,
    INJECT_STRDUP,
    INJECT_OPENAT,
    INJECT_PREAD,
    INJECT_PWRITE,
    INJECT_FALLOCATE,
    INJECT_FTRUNCATE,
    INJECT_FDATASYNC,
    INJECT_FSYNC,
    INJECT_RENAMEAT,
    INJECT_LINKAT,
    INJECT_MKDIRAT,
    INJECT_UNLINKAT,
    INJECT_FSTATAT,
    INJECT_FSTAT,
    INJECT_FCNTL,
    INJECT_FLOCK,
    INJECT_FDOPENDIR,
    INJECT_READDIR,
    INJECT_GETRANDOM,
    INJECT_CQE, /* the result of a completion of io_uring */
    INJECT_SITES,
};
#define INJECT_SHORT (-1) /* in the place of an errno: pread and pwrite move less */

extern const char *const inject_names[INJECT_SITES];
/* From now on call number nth (from 0) of `site` fails with `error`. */
void inject_arm(enum inject_site site, unsigned long nth, int error);
/* Ends it; returns how often it failed (0 or 1). */
unsigned inject_disarm(void);
/* Blocks of memory that are allocated now. */
long inject_live(void);
/* Allocations that are counted and never fail: for the test's own. */
void *inject_spared_calloc(size_t count, size_t bytes);
void *inject_spared_aligned(size_t align, size_t bytes);
