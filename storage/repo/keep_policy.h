/* Which checkpoints of a job to keep: rules, as people write them, and the pure decision
 * over a list of checkpoints.  No I/O, no clock.
 *
 *   last=N            the N newest
 *   every=STEPS       each whose step is a multiple of STEPS
 *   within=DURATION   each that is not older ("90m", "36h", "7d", "2w"), abandoned or not
 *   hourly=N          of each of the N latest hours (days, weeks) that have a checkpoint
 *   daily=N           the newest; hours and days of UTC, weeks from Monday
 *   weekly=N
 *   tag=GLOB          each with a tag that fits the shell pattern, abandoned or not
 *   best=METRIC[:min|:max][:N]   the N (1) with the lowest (min) or highest value
 *
 * A checkpoint stays if any rule keeps it.  Rules that count see only what `counts`: a
 * checkpoint that cannot be restored must not stand for one that can. */
#pragma once

#include "formats/record.h"

#define KEEP_RULES_MAX  32
#define KEEP_TEXT       160 /* of a rule's words, with NUL */
#define KEEP_REASON_MAX 320 /* of all reasons for one checkpoint, with NUL */

enum keep_kind {
    KEEP_LAST,
    KEEP_EVERY,
    KEEP_WITHIN,
    KEEP_HOURLY,
    KEEP_DAILY,
    KEEP_WEEKLY,
    KEEP_TAG,
    KEEP_BEST,
};
struct keep_rule {
    enum keep_kind kind;
    uint64_t n;           /* how many, or STEPS */
    int64_t within_ns;    /* KEEP_WITHIN */
    bool highest;         /* KEEP_BEST */
    char name[KEEP_TEXT]; /* KEEP_TAG: the pattern; KEEP_BEST: the metric */
    char text[KEEP_TEXT]; /* "last=3", for people */
};
struct keep_policy {
    struct keep_rule rules[KEEP_RULES_MAX];
    size_t count;
};

/* Adds one rule: word "last" and value "3".  CKPT_INVALID says what is wrong; rules but
 * tag and best stand once. */
enum ckpt_status keep_policy_add(struct keep_policy *p, const char *word, const char *value,
                                 struct ckpt_err *err) CKPT_MUST_CHECK;
/* "last=3,daily=7": rules with commas between them, added to *p. */
enum ckpt_status keep_policy_parse(const char *text, struct keep_policy *p, struct ckpt_err *err)
    CKPT_MUST_CHECK;
/* The same back; cut at cap. */
void keep_policy_to_text(const struct keep_policy *p, char *buf, size_t cap);
/* True if a rule asks for the checkpoints' metrics. */
bool keep_policy_needs_metrics(const struct keep_policy *p);
/* "45s", "90m", "36h", "7d", "2w" to nanoseconds, up to 100 years. */
bool keep_duration_parse(const char *text, int64_t *ret_ns);

/* One checkpoint.  Lists are ordered newest first: epoch, then step. */
struct keep_item {
    struct ckpt_name name;
    int64_t time_ns; /* of its commit, by the store's clock */
    bool counts;     /* on the newest lineage, whole, and to be trusted */
    const char *const *tags;
    size_t tag_count;
    const struct record_metric *metrics; /* NULL: unknown */
    uint32_t metric_count;
    /* out: */
    bool keep;
    char why[KEEP_REASON_MAX]; /* every rule that keeps it; "" if none does */
};
/* Decides for all items.  CKPT_NO_MEMORY only. */
enum ckpt_status keep_policy_apply(const struct keep_policy *p, int64_t now_ns,
                                   struct keep_item *items, size_t count, struct ckpt_err *err)
    CKPT_MUST_CHECK;
