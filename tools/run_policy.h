/* When a command that failed is started again: a pure decision.
 *
 * A start that brought a new checkpoint is worth its price, however many there were; those
 * that bring none are counted, and each waits twice as long as the one before.  New is a
 * higher step than all starts before it saved: to save again where one resumed, or what was
 * lost by a step back, is no progress. */
#pragma once

#include "formats/base.h"

struct run_policy {
    uint64_t max_restarts; /* in a row without a new checkpoint */
    double backoff_s, backoff_max_s;
    uint64_t in_vain; /* starts in a row that brought none; 0 at first */
    bool saved;       /* a start committed something; false at first */
    uint64_t highest; /* step of all of that; with `saved` */
};
/* After a start that failed.  step: the highest that it and those before committed; NULL: none.
 * False: enough.  Else *ret_wait: seconds until the next. */
bool run_policy_again(struct run_policy *p, const uint64_t *step, double *ret_wait);
/* "2" or "2:60" (seconds, first and most); false for anything else. */
bool run_policy_parse_backoff(const char *text, struct run_policy *p);
