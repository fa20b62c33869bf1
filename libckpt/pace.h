/* A limit on how fast copies are begun, so that a snapshot leaves the link to others.
 *
 * What is begun in any interval of T seconds is at most T x rate and one piece more (here: a
 * slot).  Time that is not used is not saved up: after a pause copies go at the rate, and in
 * no burst.  No clock of its own; one thread. */
#pragma once

#include "formats/base.h"

struct pace {
    uint64_t bytes_per_s; /* 0 = no limit */
    int64_t next_ns;      /* nothing is begun before */
};

/* A rate for people: decimal digits, then nothing, K, M or G (1024 each); 0 = no limit.  NULL or
 * "" leaves *ret. */
enum ckpt_status pace_parse(const char *text, uint64_t *ret, struct ckpt_err *err) CKPT_MUST_CHECK;
/* May a piece be begun now?  0: yes, and it is counted; else how many ns to wait. */
int64_t pace_take(struct pace *p, uint64_t bytes, int64_t now_ns);
