/* A directory of a test's own, gone when it is done. */
#pragma once

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "check.h"

static inline int scratch_remove_one(const char *path, const struct stat *st, int flag,
                                     struct FTW *ftw)
{
    (void)st, (void)flag, (void)ftw;
    return remove(path);
}
static inline void scratch_remove(const char *path)
{
    nftw(path, scratch_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}
/* Below $TMPDIR or /tmp; `path` has room for 200 bytes. */
static inline void scratch_make(char path[200])
{
    const char *tmp = getenv("TMPDIR");
    snprintf(path, 200, "%s/ckpt-test-XXXXXX", tmp && tmp[0] ? tmp : "/tmp");
    CHECK(mkdtemp(path));
}
