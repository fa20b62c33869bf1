/* Inside of the drain: what drain.c and drain_scan.c both ask. */
#pragma once

#include "storage/repo/drain.h"

/* The home's commit and its bytes (the caller frees them).  CKPT_ABORTED: there is none. */
enum ckpt_status drain_read_commit(const struct drain *d, struct record_commit *ret, void **bytes,
                                   size_t *len, struct ckpt_err *err) CKPT_MUST_CHECK;
/* *ret: the object is there. */
enum ckpt_status drain_is_there(struct store *s, struct key key, bool *ret, struct ckpt_err *err)
    CKPT_MUST_CHECK;
