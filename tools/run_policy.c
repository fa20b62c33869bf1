/* See run_policy.h. */
#include "tools/run_policy.h"

#include <math.h>

bool run_policy_again(struct run_policy *p, const uint64_t *step, double *ret_wait)
{
    bool is_new = step && (!p->saved || *step > p->highest);
    p->in_vain = is_new ? 0 : p->in_vain + 1;
    if (is_new)
        p->highest = *step;
    p->saved |= is_new;
    if (p->in_vain > p->max_restarts)
        return false;
    double wait = p->backoff_s;
    for (uint64_t i = 1; i < p->in_vain && wait < p->backoff_max_s; i++)
        wait *= 2;
    *ret_wait = wait < p->backoff_max_s ? wait : p->backoff_max_s;
    return true;
}

static bool parse_seconds(const char *text, char end, const char **ret_rest, double *ret)
{
    char *rest;
    if (*text < '0' || *text > '9')
        return false;
    *ret = strtod(text, &rest);
    *ret_rest = rest;
    return *rest == end && isfinite(*ret) && *ret <= 86400;
}

bool run_policy_parse_backoff(const char *text, struct run_policy *p)
{
    double first, most;
    const char *rest;
    bool one = parse_seconds(text, 0, &rest, &first);
    if (!one && (!parse_seconds(text, ':', &rest, &first) ||
                 !parse_seconds(rest + 1, 0, &rest, &most) || most < first))
        return false;
    p->backoff_s = first;
    p->backoff_max_s = one ? (first > p->backoff_max_s ? first : p->backoff_max_s) : most;
    return true;
}
