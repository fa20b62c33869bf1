/* See pace.h. */
#include "libckpt/pace.h"

#include <errno.h>
#include <stdlib.h>

#define WAIT_MAX_NS (INT64_C(3600) * 1000000000) /* the longest pause; keeps sums in range */

enum ckpt_status pace_parse(const char *text, uint64_t *ret, struct ckpt_err *err)
{
    static const char units[] = "KMG";
    char *end = NULL;
    if (!text || !text[0])
        return CKPT_OK;
    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    unsigned shift = 0;
    const char *unit = *end ? strchr(units, *end) : NULL;
    if (unit) {
        shift = 10 * (unsigned)(unit - units + 1);
        end++;
    }
    if (text[0] < '0' || text[0] > '9' || *end || errno || n > UINT64_MAX >> shift)
        return err_set(err, CKPT_INVALID,
                       "\"%.40s\" is no number of bytes a second: digits, then nothing, K, M or G",
                       text);
    *ret = (uint64_t)n << shift;
    return CKPT_OK;
}

int64_t pace_take(struct pace *p, uint64_t bytes, int64_t now_ns)
{
    if (p->bytes_per_s == 0 || bytes == 0)
        return 0;
    if (now_ns < p->next_ns)
        return p->next_ns - now_ns;
    double ns = (double)bytes / (double)p->bytes_per_s * 1e9;
    p->next_ns = now_ns + (ns < (double)WAIT_MAX_NS ? (int64_t)ns : WAIT_MAX_NS);
    return 0;
}
