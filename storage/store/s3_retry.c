/* See s3_retry.h. */
#include "storage/store/s3_retry.h"

#define SECOND_NS INT64_C(1000000000)
#define MS_NS     INT64_C(1000000)

/* Codes that say more than their HTTP status.  AWS's, and those of radosgw and MinIO. */
static const struct {
    const char *code;
    enum s3_class class_;
} codes[] = {
    { "SlowDown", S3_THROTTLED },
    { "SlowDownRead", S3_THROTTLED },
    { "SlowDownWrite", S3_THROTTLED },
    { "Throttling", S3_THROTTLED },
    { "ThrottlingException", S3_THROTTLED },
    { "RequestLimitExceeded", S3_THROTTLED },
    { "TooManyRequests", S3_THROTTLED },
    { "ServiceUnavailable", S3_THROTTLED },
    { "InternalError", S3_TRANSIENT },
    { "RequestTimeout", S3_TRANSIENT },
    { "OperationAborted", S3_TRANSIENT },
    { "ConditionalRequestConflict", S3_TRANSIENT },
    { "IncompleteBody", S3_TRANSIENT },
    { "IDPCommunicationError", S3_TRANSIENT }, /* STS's */
    { "BadDigest", S3_DAMAGED },
    { "XAmzContentSHA256Mismatch", S3_DAMAGED },
    { "XAmzContentChecksumMismatch", S3_DAMAGED },
    { "ExpiredToken", S3_CREDENTIAL },
    { "TokenRefreshRequired", S3_CREDENTIAL },
    { "InvalidToken", S3_CREDENTIAL },
    { "InvalidAccessKeyId", S3_CREDENTIAL },
    { "RequestTimeTooSkewed", S3_SKEWED },
    { "RequestExpired", S3_SKEWED },
    { "AuthorizationHeaderMalformed", S3_REGION },
    { "PermanentRedirect", S3_REGION },
    { "TemporaryRedirect", S3_REGION },
    { "IllegalLocationConstraintException", S3_REGION },
    { "QuotaExceeded", S3_PERMANENT },
    { "XMinioStorageFull", S3_PERMANENT },
};

static enum s3_class class_of_status(int status)
{
    if (status >= 200 && status < 300)
        return S3_GOOD;
    if (status == 301 || status == 302 || status == 307 || status == 308)
        return S3_REGION;
    if (status == 429 || status == 503)
        return S3_THROTTLED;
    if (status == 408 || status == 409)
        return S3_TRANSIENT;
    if (status == 501 || status == 505 || status == 507)
        return S3_PERMANENT; /* not built, no room */
    return status >= 500 || status < 200 ? S3_TRANSIENT : S3_PERMANENT;
}

static enum s3_class class_of_wire(enum s3_wire wire)
{
    switch (wire) {
    case S3_WIRE_TLS_TRUST:
    case S3_WIRE_CONFIG:
    case S3_WIRE_REFUSED:
        return S3_PERMANENT;
    case S3_WIRE_OK:
    case S3_WIRE_DNS:
    case S3_WIRE_CONNECT:
    case S3_WIRE_TLS:
    case S3_WIRE_BROKEN:
    case S3_WIRE_STALLED:
    case S3_WIRE_FOREIGN:
        break;
    }
    return S3_TRANSIENT;
}

enum s3_class s3_classify(const struct s3_outcome *outcome)
{
    if (outcome->wire == S3_WIRE_FOREIGN) /* whatever its status says */
        return S3_TRANSIENT;
    /* An error that came whole says more than the connection that broke behind it. */
    for (size_t i = 0; i < ARRAY_COUNT(codes); i++) {
        if (strcmp(outcome->code, codes[i].code) == 0)
            return codes[i].class_;
    }
    if (outcome->status >= 300)
        return class_of_status(outcome->status);
    if (outcome->code[0])
        return S3_TRANSIENT; /* an error in spite of its status */
    if (outcome->wire != S3_WIRE_OK)
        return class_of_wire(outcome->wire);
    return class_of_status(outcome->status);
}

bool s3_too_slow(int64_t waited_ns, int64_t patience_ns, uint64_t received)
{
    uint64_t earned_s = received / S3_SLOW_BYTES;
    return waited_ns > patience_ns && (uint64_t)(waited_ns - patience_ns) / SECOND_NS >= earned_s;
}

int64_t s3_wait_ns(enum s3_class class_, unsigned tries, uint64_t random, int64_t retry_after_s)
{
    int64_t cap = class_ == S3_THROTTLED ? 500 * MS_NS : 100 * MS_NS;
    for (unsigned i = 1; i < tries && cap < S3_WAIT_MAX_S * SECOND_NS; i++)
        cap *= 2;
    if (cap > S3_WAIT_MAX_S * SECOND_NS)
        cap = S3_WAIT_MAX_S * SECOND_NS;
    int64_t wait = (int64_t)((double)(random >> 11) * 0x1p-53 * (double)cap);
    int64_t asked = retry_after_s > S3_WAIT_MAX_S ? S3_WAIT_MAX_S : retry_after_s;
    /* What the server asks for comes first, and the jitter behind it. */
    return wait + (asked > 0 ? asked * SECOND_NS : 0);
}

static void refill(struct s3_budget *b, int64_t now_ns)
{
    if (b->at_ns == 0)
        b->tokens = S3_TOKENS;
    else if (now_ns > b->at_ns)
        b->tokens += (double)(now_ns - b->at_ns) / SECOND_NS * S3_TOKENS_PER_S;
    if (b->tokens > S3_TOKENS)
        b->tokens = S3_TOKENS;
    if (now_ns > b->at_ns)
        b->at_ns = now_ns;
}

bool s3_budget_take(struct s3_budget *b, int64_t now_ns, bool first, int64_t *ret_wait_ns)
{
    refill(b, now_ns);
    if (first && b->failures == 0)
        return true;
    if (b->tokens >= 1) {
        b->tokens -= 1;
        return true;
    }
    *ret_wait_ns = (int64_t)((1 - b->tokens) / S3_TOKENS_PER_S * SECOND_NS) + MS_NS;
    return false;
}

void s3_budget_answer(struct s3_budget *b, bool good)
{
    if (!good) {
        b->failures += b->failures < 1000;
        return;
    }
    b->failures = 0;
    b->tokens = b->tokens + 1 > S3_TOKENS ? S3_TOKENS : b->tokens + 1;
}

void s3_hedge_sample(struct s3_hedge *h, int64_t took_ns)
{
    h->took_ns[h->count++ % S3_HEDGE_SAMPLES] = took_ns;
    h->credit = h->credit + 0.05 > 4 ? 4 : h->credit + 0.05;
}

int64_t s3_hedge_after_ns(const struct s3_hedge *h)
{
    size_t n = (size_t)min_u64(h->count, S3_HEDGE_SAMPLES);
    if (n < 16)
        return 5 * SECOND_NS;
    /* The 9th decile: as many are above it as a tenth of all. */
    int64_t best = 0;
    for (size_t i = 0; i < n; i++) {
        size_t above = 0;
        for (size_t j = 0; j < n; j++)
            above += h->took_ns[j] > h->took_ns[i];
        if (above >= n / 10 && h->took_ns[i] > best)
            best = h->took_ns[i];
    }
    return best * 2 > 500 * MS_NS ? best * 2 : 500 * MS_NS;
}

bool s3_hedge_take(struct s3_hedge *h)
{
    if (h->credit < 1)
        return false;
    h->credit -= 1;
    return true;
}
