/* When a command that failed is started again: a pure decision.
 *
 * A restart that brought a new checkpoint is worth its price, however many there were;
 * those that bring none are counted, and each waits twice as long as the one before. */
#pragma once

#include "formats/base.h"

struct run_policy {
    uint64_t max_restarts; /* in a row without a new checkpoint */
    double backoff_s, backoff_max_s;
    uint64_t in_vain; /* starts in a row that brought none; 0 at first */
};
/* After a start that failed.  False: enough.  Else *ret_wait: seconds until the next. */
bool run_policy_again(struct run_policy *p, bool new_checkpoint, double *ret_wait);
/* "2" or "2:60" (seconds, first and most); false for anything else. */
bool run_policy_parse_backoff(const char *text, struct run_policy *p);
