/* Injects faults by rule.  A call is counted by every rule it matches; the first
 * rule that is due decides.  Counting is atomic, so dups in other threads share
 * one plan. */
#include <assert.h>
#include <time.h>

#include "storage/store/wrap.h"
#include "storage/store/wrap_pass.h"

struct wrap_fault {
    struct wrap wrap;
    struct wrap_fault_plan *plan;
};

static bool kind_applies(enum wrap_fault_kind kind, char op)
{
    return (kind != FAULT_FLIP && kind != FAULT_SHORT) || op == 'g';
}

/* The rule that is due for this call, or NULL. */
static const struct wrap_fault_rule *due(struct store *s, char op, const char *key,
                                         uint64_t *ret_hit)
{
    struct wrap_fault_plan *plan = ((struct wrap_fault *)s)->plan;
    const struct wrap_fault_rule *first = NULL;
    for (size_t i = 0; i < plan->count; i++) {
        const struct wrap_fault_rule *rule = &plan->rules[i];
        if ((rule->op && rule->op != op) || !kind_applies(rule->kind, op))
            continue;
        if (rule->match && !strstr(key, rule->match))
            continue;
        uint64_t n = atomic_fetch_add(&plan->matched[i], 1) + 1;
        if (!first && (rule->nth == 0 || rule->nth == n))
            first = rule;
    }
    if (first)
        *ret_hit = atomic_fetch_add(&plan->hits, 1);
    return first;
}

static enum ckpt_status stall(struct store *s, struct ckpt_err *err)
{
    assert(s->deadline_ns || s->cancel); /* a test that would hang for ever */
    for (;;) {
        enum ckpt_status st = store_check(s, "stalled by fault injection", err);
        if (st != CKPT_OK)
            return st;
        nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
    }
}

static enum ckpt_status injected(const struct wrap_fault_rule *rule, const char *key,
                                 struct ckpt_err *err)
{
    return err_set(err, rule->status, "%s: injected fault (%s)", key, status_name(rule->status));
}

/* What happens before the call: true if it must not be made. */
static bool before(struct store *s, const struct wrap_fault_rule *rule, const char *key,
                   enum ckpt_status *ret, struct ckpt_err *err)
{
    if (!rule)
        return false;
    if (rule->kind == FAULT_STALL)
        return *ret = stall(s, err), true;
    if (rule->kind == FAULT_FAIL)
        return *ret = injected(rule, key, err), true;
    if (rule->kind == FAULT_SHORT)
        return *ret = err_set(err, CKPT_CORRUPT, "get %s: ends early (injected fault)", key), true;
    return false;
}

/* What happens after it. */
static enum ckpt_status after(const struct wrap_fault_rule *rule, const char *key,
                              enum ckpt_status st, struct ckpt_err *err)
{
    return rule && rule->kind == FAULT_LOST_REPLY && st == CKPT_OK ? injected(rule, key, err) : st;
}

static void flip(const struct store_range *ranges, size_t count, uint64_t at)
{
    uint64_t bits = 0;
    for (size_t i = 0; i < count; i++)
        bits += ranges[i].bytes * 8;
    if (bits == 0)
        return;
    at %= bits;
    size_t i = 0;
    for (; at >= ranges[i].bytes * 8; i++)
        at -= ranges[i].bytes * 8;
    ((unsigned char *)ranges[i].base)[at / 8] ^= (unsigned char)(1u << at % 8);
}

/* splitmix64: which bit, from seed and the number of the fault. */
static uint64_t mix(uint64_t z)
{
    z += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* One call under the rules: `call` is made unless the rule that is due forbids it. */
#define UNDER_RULES(s, op, key, err, call)                            \
    ({                                                                \
        uint64_t hit_ = 0;                                            \
        enum ckpt_status st_ = CKPT_OK;                               \
        const struct wrap_fault_rule *rule_ = due(s, op, key, &hit_); \
        if (!before(s, rule_, key, &st_, err))                        \
            st_ = after(rule_, key, call, err);                       \
        st_;                                                          \
    })

static enum ckpt_status fault_put(struct store *s, const char *key, const struct iovec *iov,
                                  int count, unsigned flags, struct ckpt_err *err)
{
    return UNDER_RULES(s, 'p', key, err, wrap_pass_put(s, key, iov, count, flags, err));
}

static enum ckpt_status fault_get(struct store *s, const char *key,
                                  const struct store_range *ranges, size_t count,
                                  struct ckpt_err *err)
{
    uint64_t hit = 0;
    enum ckpt_status st = CKPT_OK;
    const struct wrap_fault_rule *rule = due(s, 'g', key, &hit);
    if (before(s, rule, key, &st, err))
        return st;
    st = after(rule, key, wrap_pass_get(s, key, ranges, count, err), err);
    if (rule && rule->kind == FAULT_FLIP && st == CKPT_OK)
        flip(ranges, count, mix(((struct wrap_fault *)s)->plan->seed + hit));
    return st;
}

static enum ckpt_status fault_stat(struct store *s, const char *key, struct store_stat *ret,
                                   struct ckpt_err *err)
{
    struct store_stat stat;
    enum ckpt_status st = UNDER_RULES(s, 's', key, err, wrap_pass_stat(s, key, &stat, err));
    if (st == CKPT_OK)
        *ret = stat;
    return st;
}

static enum ckpt_status fault_list(struct store *s, const char *prefix, bool one_level,
                                   const char *from, struct store_entry *entries, size_t cap,
                                   size_t *ret_count, bool *ret_more, struct ckpt_err *err)
{
    return UNDER_RULES(
        s, 'l', prefix, err,
        wrap_pass_list(s, prefix, one_level, from, entries, cap, ret_count, ret_more, err));
}

static enum ckpt_status fault_remove(struct store *s, const char *key, struct ckpt_err *err)
{
    return UNDER_RULES(s, 'r', key, err, wrap_pass_remove(s, key, err));
}

static enum ckpt_status fault_sync(struct store *s, const char *prefix, struct ckpt_err *err)
{
    return UNDER_RULES(s, 'y', prefix, err, wrap_pass_sync(s, prefix, err));
}

static enum ckpt_status fault_dup(const struct store *s, struct store **ret, struct ckpt_err *err)
{
    const struct wrap_fault *w = (const struct wrap_fault *)s;
    struct store *inner;
    enum ckpt_status st = store_dup(w->wrap.inner, &inner, err);
    if (st != CKPT_OK)
        return st;
    st = wrap_fault(inner, w->plan, ret, err);
    if (st != CKPT_OK)
        store_close(inner);
    return st;
}

static const struct store_ops fault_ops = {
    .scheme = "fault",
    .put = fault_put,
    .get = fault_get,
    .stat = fault_stat,
    .list = fault_list,
    .remove = fault_remove,
    .sync = fault_sync,
    .now = wrap_pass_now,
    .dup = fault_dup,
    .to_text = wrap_pass_to_text,
    .close = wrap_pass_close,
};

enum ckpt_status wrap_fault(struct store *inner, struct wrap_fault_plan *plan, struct store **ret,
                            struct ckpt_err *err)
{
    assert(plan->count <= ARRAY_COUNT(plan->matched));
    struct wrap *w;
    enum ckpt_status st = wrap_new(sizeof(struct wrap_fault), &fault_ops, inner, &w, err);
    if (st != CKPT_OK)
        return st;
    ((struct wrap_fault *)w)->plan = plan;
    *ret = &w->base;
    return CKPT_OK;
}
