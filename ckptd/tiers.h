/* The stores of a node in their roles, nearest first: where packs are saved (--local, else
 * the home), the home if that is another place, and those that are only drained to
 * (--remote).  One struct for each thread, with handles of its own; a place that is not
 * needed, or cannot be reached, is not opened: so a remote store that hangs holds up
 * nobody who can do without it. */
#pragma once

#include "ckptd/config.h"
#include "formats/record.h"
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
    struct record_repo repo; /* of the home */
    struct store_throttle throttle[TIERS_MAX];
};
/* Opens the place where packs are saved and the home, and makes them repositories.  Remote
 * ones may come and go.
 * again: for sessions that another worker had, whose saves go on while the home is out of reach
 * (H5).  A home that is no disk of this node is then not made, and need not answer; *io_home, what
 * an earlier worker was told of it, stays as it is. */
enum ckpt_status tiers_setup_open(struct tiers_setup *t, const struct config *config,
                                  const uint8_t node[16], bool again, struct record_repo *io_home,
                                  struct ckpt_err *err) CKPT_MUST_CHECK;
void tiers_setup_close(struct tiers_setup *t);

struct tiers {
    struct tiers_setup *setup;
    bool held_back;             /* by the rate that is set for a place */
    struct store *s[TIERS_MAX]; /* NULL: not open */
    int64_t away_ns[TIERS_MAX]; /* it could not be reached: until then tiers_ask asks it last */
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
/* Asks place after place for what the nearest one should have, a round behind the other: the near
 * ones; all; and at last those that could not be reached a moment ago, when none of the others
 * has it.  Who asks begins with the tiers alone:
 *
 *     struct tiers_ask a = { .t = &w->tiers };
 *     while (tiers_ask_next(&a))
 *         tiers_ask_answer(&a, ask(a.stores, a.count, &away, &why), away, &why);
 *     return tiers_ask_end(&a, err); */
struct tiers_ask {
    struct tiers *t;
    struct store *stores[TIERS_MAX]; /* of this round, nearest first */
    uint32_t which[TIERS_MAX], count;
    unsigned round;
    uint32_t asked, failed; /* bits of tiers: so far; and could not be reached */
    int64_t begun_ns;
    bool answered;
    enum ckpt_status status;
    struct ckpt_err why;
};
bool tiers_ask_next(struct tiers_ask *a);
/* away: bit i: stores[i] could not be reached. */
void tiers_ask_answer(struct tiers_ask *a, enum ckpt_status st, uint32_t away,
                      const struct ckpt_err *why);
/* What the last round said, or what weighed more. */
enum ckpt_status tiers_ask_end(const struct tiers_ask *a, struct ckpt_err *err) CKPT_MUST_CHECK;
/* Bits of stores as bits of tiers. */
uint32_t tiers_ask_bits(const struct tiers_ask *a, uint32_t bits);
/* Limits of all open handles: deadline (0 = none) and cancel flag. */
void tiers_limit(struct tiers *t, int64_t deadline_ns, const atomic_bool *cancel);
