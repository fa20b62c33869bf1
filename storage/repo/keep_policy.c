/* The words of a retention policy. */
#include "storage/repo/keep_policy.h"

#include <inttypes.h>
#include <stdio.h>

#define SECOND_NS INT64_C(1000000000)
#define AGE_MAX_S (INT64_C(100) * 365 * 24 * 3600)

static const struct {
    const char *word;
    const char *value; /* what is wanted, for people */
} kinds[] = {
    [KEEP_LAST] = { "last", "a number" },
    [KEEP_EVERY] = { "every", "a number of steps" },
    [KEEP_WITHIN] = { "within", "a duration: 90m, 36h, 7d, 2w" },
    [KEEP_HOURLY] = { "hourly", "a number" },
    [KEEP_DAILY] = { "daily", "a number" },
    [KEEP_WEEKLY] = { "weekly", "a number" },
    [KEEP_TAG] = { "tag", "a pattern of at most 128 characters" },
    [KEEP_BEST] = { "best", "METRIC[:min|:max][:N]" },
};

/* Decimal digits and nothing else, at least 1. */
static bool positive(const char *at, size_t len, uint64_t *ret)
{
    uint64_t n = 0;
    for (size_t i = 0; i < len; i++)
        if (at[i] < '0' || at[i] > '9' || __builtin_mul_overflow(n, 10, &n) ||
            __builtin_add_overflow(n, (uint64_t)(at[i] - '0'), &n))
            return false;
    *ret = n;
    return n > 0;
}

bool keep_duration_parse(const char *text, int64_t *ret_ns)
{
    static const struct {
        char unit;
        int64_t seconds;
    } units[] = { { 's', 1 }, { 'm', 60 }, { 'h', 3600 }, { 'd', 86400 }, { 'w', 604800 } };
    size_t len = strlen(text);
    uint64_t n = 0;
    if (len < 2)
        return false;
    for (size_t i = 0; i < ARRAY_COUNT(units); i++) {
        if (text[len - 1] != units[i].unit)
            continue;
        bool zero = len == 2 && text[0] == '0';
        if (!zero && !positive(text, len - 1, &n))
            return false;
        if (n > (uint64_t)(AGE_MAX_S / units[i].seconds))
            return false;
        *ret_ns = (int64_t)n * units[i].seconds * SECOND_NS;
        return true;
    }
    return false;
}

/* METRIC[:min|:max][:N]; a metric's name may hold ':' only where neither follows. */
static bool parse_best(const char *value, struct keep_rule *r)
{
    size_t len = strlen(value);
    const char *colon = memrchr(value, ':', len);
    r->n = 1;
    if (colon && positive(colon + 1, len - (size_t)(colon + 1 - value), &r->n)) {
        len = (size_t)(colon - value);
        colon = memrchr(value, ':', len);
    }
    if (colon && value + len - colon == 4) {
        r->highest = memcmp(colon, ":max", 4) == 0;
        if (r->highest || memcmp(colon, ":min", 4) == 0)
            len = (size_t)(colon - value);
    }
    if (len == 0 || len > RECORD_METRIC_NAME_MAX)
        return false;
    memcpy(r->name, value, len);
    r->name[len] = 0;
    return true;
}

static bool parse_value(const char *value, struct keep_rule *r)
{
    switch (r->kind) {
    case KEEP_WITHIN:
        return keep_duration_parse(value, &r->within_ns) && r->within_ns > 0;
    case KEEP_TAG:
        snprintf(r->name, sizeof(r->name), "%s", value);
        return *value && strlen(value) <= CKPT_JOB_NAME_MAX;
    case KEEP_BEST:
        return parse_best(value, r);
    case KEEP_LAST:
    case KEEP_EVERY:
    case KEEP_HOURLY:
    case KEEP_DAILY:
    case KEEP_WEEKLY:
        break;
    }
    return positive(value, strlen(value), &r->n);
}

static enum ckpt_status find_kind(const char *word, enum keep_kind *ret, struct ckpt_err *err)
{
    for (size_t i = 0; i < ARRAY_COUNT(kinds); i++) {
        if (strcmp(word, kinds[i].word) == 0) {
            *ret = (enum keep_kind)i;
            return CKPT_OK;
        }
    }
    return err_set(err, CKPT_INVALID,
                   "\"%.40s\" is no rule: last, every, within, hourly, daily, weekly, tag, best",
                   word);
}

enum ckpt_status keep_policy_add(struct keep_policy *p, const char *word, const char *value,
                                 struct ckpt_err *err)
{
    struct keep_rule r = { 0 };
    enum ckpt_status st = find_kind(word, &r.kind, err);
    if (st != CKPT_OK)
        return st;
    if (!parse_value(value, &r))
        return err_set(err, CKPT_INVALID, "keep %s \"%.100s\": %s is wanted", word, value,
                       kinds[r.kind].value);
    for (size_t i = 0; i < p->count && r.kind != KEEP_TAG && r.kind != KEEP_BEST; i++)
        if (p->rules[i].kind == r.kind)
            return err_set(err, CKPT_INVALID, "keep %s is given twice", word);
    if (p->count == KEEP_RULES_MAX)
        return err_set(err, CKPT_LIMIT, "more than %d rules", KEEP_RULES_MAX);
    snprintf(r.text, sizeof(r.text), "%s=%s", word, value);
    p->rules[p->count++] = r;
    return CKPT_OK;
}

enum ckpt_status keep_policy_parse(const char *text, struct keep_policy *p, struct ckpt_err *err)
{
    for (const char *at = text; *at;) {
        char rule[KEEP_TEXT];
        size_t len = strcspn(at, ",");
        if (len >= sizeof(rule))
            return err_set(err, CKPT_INVALID, "keep \"%.40s...\" is too long", at);
        memcpy(rule, at, len);
        rule[len] = 0;
        char *value = strchr(rule, '=');
        if (!value)
            return err_set(err, CKPT_INVALID, "keep \"%s\": RULE=VALUE is wanted, as in last=3",
                           rule);
        *value = 0;
        enum ckpt_status st = keep_policy_add(p, rule, value + 1, err);
        if (st != CKPT_OK)
            return st;
        at += len + (at[len] == ',');
    }
    return CKPT_OK;
}

void keep_policy_to_text(const struct keep_policy *p, char *buf, size_t cap)
{
    size_t len = 0;
    if (cap)
        buf[0] = 0;
    for (size_t i = 0; i < p->count && len < cap; i++)
        len += (size_t)snprintf(buf + len, cap - len, "%s%s", i ? "," : "", p->rules[i].text);
}

bool keep_policy_needs_metrics(const struct keep_policy *p)
{
    for (size_t i = 0; i < p->count; i++)
        if (p->rules[i].kind == KEEP_BEST)
            return true;
    return false;
}
