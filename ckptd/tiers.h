/* The stores of a node in their roles, nearest first: where packs are saved (--local, else
 * the home), the home if that is another place, and those that are only drained to
 * (--remote).  One struct for each thread, with handles of its own; a place that is not
 * needed, or cannot be reached, is not opened: so a remote store that hangs holds up
 * nobody who can do without it. */
#pragma once

#include "ckptd/config.h"
#include "storage/store/wrap_throttle.h"

#define TIERS_MAX 8

/* Shared by all threads; borrowed by their tiers. */
struct tiers_setup {
    const struct config *config;
    char node[33];
    uint32_t count; /* of places */
    uint32_t home;  /* which of them decides: 0 or 1 */
    const char *urls[TIERS_MAX];
    struct store *opened[2]; /* 0 and the home: open from the start */
    struct store_throttle throttle[TIERS_MAX];
};
/* Opens the place where packs are saved and the home, and makes them repositories.  Remote
 * ones may come and go.
 * again: for sessions that another worker had, whose saves go on while the home is out of reach
 * (H5).  A home that is no disk of this node is then not made, and need not answer. */
enum ckpt_status tiers_setup_open(struct tiers_setup *t, const struct config *config,
                                  const uint8_t node[16], bool again, struct ckpt_err *err)
    CKPT_MUST_CHECK;
void tiers_setup_close(struct tiers_setup *t);

struct tiers {
    struct tiers_setup *setup;
    bool held_back;             /* by the rate that is set for a place */
    struct store *s[TIERS_MAX]; /* NULL: not open */
};
/* held_back: for drains; what saves put is never behind them. */
enum ckpt_status tiers_init(struct tiers *t, struct tiers_setup *setup, bool held_back,
                            struct ckpt_err *err) CKPT_MUST_CHECK;
void tiers_fini(struct tiers *t);
/* The handle of one place; opens it, and makes it a repository, when it is not open yet. */
enum ckpt_status tiers_get(struct tiers *t, uint32_t tier, struct store **ret, struct ckpt_err *err)
    CKPT_MUST_CHECK;
/* Handles of those that can be opened, nearest first, without `but`; near: only those that
 * are open from the start.  which[i]: number of the i-th.  Returns how many. */
uint32_t tiers_some(struct tiers *t, bool near, uint32_t but, struct store *ret[TIERS_MAX],
                    uint32_t which[TIERS_MAX]);
/* Limits of all open handles: deadline (0 = none) and cancel flag. */
void tiers_limit(struct tiers *t, int64_t deadline_ns, const atomic_bool *cancel);
