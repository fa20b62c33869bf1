/* Stores over stores.  Each takes ownership of `inner` (closed with it), on
 * success only. */
#pragma once

#include "storage/store/store.h"

/* Counts calls and bytes per operation, for status and tests. */
struct store_counts {
    _Atomic uint64_t puts, gets, stats, lists, removes, syncs;
    _Atomic uint64_t put_bytes, get_bytes, get_ranges;
    _Atomic uint64_t errors;
};
enum ckpt_status wrap_count(struct store *inner, struct store_counts *counts, struct store **ret,
                            struct ckpt_err *err) CKPT_MUST_CHECK;

/* Injects faults by rule; shared by all dups of the handle (thread-safe). */
enum wrap_fault_kind {
    FAULT_FAIL,       /* the operation fails with `status`, nothing happens */
    FAULT_LOST_REPLY, /* it happens, then fails with `status` */
    FAULT_FLIP,       /* get: one bit of what was read is flipped (which: from seed) */
    FAULT_SHORT,      /* get: as if the object ended early (CKPT_CORRUPT) */
    FAULT_STALL,      /* waits until the deadline or cancel */
};
struct wrap_fault_rule {
    enum wrap_fault_kind kind;
    enum ckpt_status status;
    char op;           /* 'p'ut 'g'et 's'tat 'l'ist 'r'emove s'y'nc; 0 = any */
    const char *match; /* substring of the key; NULL = any */
    uint64_t nth;      /* the nth matching call from 1; 0 = every one */
};
struct wrap_fault_plan {
    const struct wrap_fault_rule *rules;
    size_t count;
    uint64_t seed;
    _Atomic uint64_t hits;        /* faults injected, to be checked by the test */
    _Atomic uint64_t matched[16]; /* calls seen, per rule */
};
enum ckpt_status wrap_fault(struct store *inner, struct wrap_fault_plan *plan, struct store **ret,
                            struct ckpt_err *err) CKPT_MUST_CHECK;

/* After each put reads back and compares (tests, and stores of doubtful honesty);
 * different = CKPT_CORRUPT. */
enum ckpt_status wrap_verify(struct store *inner, struct store **ret, struct ckpt_err *err)
    CKPT_MUST_CHECK;
