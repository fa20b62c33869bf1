/* Which checkpoints go to a tier: a pure decision on what is known of one checkpoint, so
 * that every daemon, before and after a restart, decides the same.
 *
 *   all             every one (default)
 *   every=STEPS     the first at or behind each multiple of STEPS, on its branch
 *   tagged          what has a tag
 *   last            the newest of a job that nobody trains any more
 *   none            nothing but what the others of the list name
 * Several, with commas between them: any of them suffices. */
#pragma once

#include "formats/record.h"

struct policy {
    bool some; /* false: all */
    uint64_t every_steps;
    bool tagged, last;
};
/* CKPT_INVALID says what is expected. */
enum ckpt_status policy_parse(const char *text, struct policy *ret, struct ckpt_err *err)
    CKPT_MUST_CHECK;
/* True if it takes a checkpoint whatever the commit says. */
bool policy_takes(const struct policy *p, bool tagged, bool last);
/* last: it is the newest of its job, and no launch trains. */
bool policy_wants(const struct policy *p, const struct record_commit *commit, bool tagged,
                  bool last);
