/* Retry rules: classes, waits, the budget of an outage, hedges. */
#include "storage/store/s3_retry.h"
#include "storage/store/store.h"

#include "check.h"

#define SECOND INT64_C(1000000000)

static int test_classes(void)
{
    static const struct {
        enum s3_wire wire;
        int status;
        const char *code;
        enum s3_class want;
    } cases[] = {
        { S3_WIRE_OK, 200, "", S3_GOOD },
        { S3_WIRE_OK, 204, "", S3_GOOD },
        { S3_WIRE_OK, 206, "", S3_GOOD },
        { S3_WIRE_OK, 200, "InternalError", S3_TRANSIENT }, /* an error in spite of its status */
        { S3_WIRE_OK, 200, "Whatever", S3_TRANSIENT },
        { S3_WIRE_OK, 200, "SlowDown", S3_THROTTLED },
        { S3_WIRE_OK, 503, "", S3_THROTTLED },
        { S3_WIRE_OK, 503, "SlowDown", S3_THROTTLED },
        { S3_WIRE_OK, 429, "", S3_THROTTLED },
        { S3_WIRE_OK, 500, "InternalError", S3_TRANSIENT },
        { S3_WIRE_OK, 502, "", S3_TRANSIENT },
        { S3_WIRE_OK, 504, "", S3_TRANSIENT },
        { S3_WIRE_OK, 400, "RequestTimeout", S3_TRANSIENT },
        { S3_WIRE_OK, 400, "BadDigest", S3_DAMAGED },
        { S3_WIRE_OK, 400, "XAmzContentSHA256Mismatch", S3_DAMAGED },
        { S3_WIRE_OK, 400, "IDPCommunicationError", S3_TRANSIENT },
        { S3_WIRE_OK, 409, "ConditionalRequestConflict", S3_TRANSIENT },
        { S3_WIRE_OK, 409, "OperationAborted", S3_TRANSIENT },
        { S3_WIRE_OK, 100, "", S3_TRANSIENT },
        { S3_WIRE_OK, 400, "ExpiredToken", S3_CREDENTIAL },
        { S3_WIRE_OK, 403, "InvalidAccessKeyId", S3_CREDENTIAL },
        { S3_WIRE_OK, 403, "RequestTimeTooSkewed", S3_SKEWED },
        { S3_WIRE_OK, 301, "PermanentRedirect", S3_REGION },
        { S3_WIRE_OK, 307, "", S3_REGION },
        { S3_WIRE_OK, 400, "AuthorizationHeaderMalformed", S3_REGION },
        { S3_WIRE_OK, 403, "AccessDenied", S3_PERMANENT },
        { S3_WIRE_OK, 403, "SignatureDoesNotMatch", S3_PERMANENT },
        { S3_WIRE_OK, 403, "QuotaExceeded", S3_PERMANENT },
        { S3_WIRE_OK, 404, "NoSuchKey", S3_PERMANENT },
        { S3_WIRE_OK, 404, "NoSuchBucket", S3_PERMANENT },
        { S3_WIRE_OK, 412, "PreconditionFailed", S3_PERMANENT },
        { S3_WIRE_OK, 416, "InvalidRange", S3_PERMANENT },
        { S3_WIRE_OK, 501, "NotImplemented", S3_PERMANENT },
        { S3_WIRE_OK, 507, "", S3_PERMANENT },
        { S3_WIRE_BROKEN, 0, "", S3_TRANSIENT },
        { S3_WIRE_BROKEN, 206, "", S3_TRANSIENT },
        { S3_WIRE_BROKEN, 403, "AccessDenied", S3_PERMANENT },
        { S3_WIRE_STALLED, 0, "", S3_TRANSIENT },
        { S3_WIRE_FOREIGN, 200, "", S3_TRANSIENT },
        { S3_WIRE_FOREIGN, 404, "", S3_TRANSIENT },
        { S3_WIRE_DNS, 0, "", S3_TRANSIENT },
        { S3_WIRE_CONNECT, 0, "", S3_TRANSIENT },
        { S3_WIRE_TLS, 0, "", S3_TRANSIENT },
        { S3_WIRE_TLS_TRUST, 0, "", S3_PERMANENT },
        { S3_WIRE_CONFIG, 0, "", S3_PERMANENT },
        { S3_WIRE_REFUSED, 200, "", S3_PERMANENT },
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct s3_outcome o = { .wire = cases[i].wire, .status = cases[i].status };
        snprintf(o.code, sizeof(o.code), "%s", cases[i].code);
        if (s3_classify(&o) != cases[i].want) {
            fprintf(stderr, "case %zu: %d %s\n", i, o.status, o.code);
            exit(1);
        }
    }
    return ARRAY_COUNT(cases);
}

static int test_waits(void)
{
    unsigned long long seed = test_seed(20261121);
    for (unsigned tries = 1; tries < 40; tries++) {
        int64_t cap = tries < 12 ? SECOND / 10 << (tries - 1) : S3_WAIT_MAX_S * SECOND;
        cap = cap > S3_WAIT_MAX_S * SECOND ? S3_WAIT_MAX_S * SECOND : cap;
        int64_t least = INT64_MAX, most = 0;
        for (int i = 0; i < 2000; i++) {
            int64_t w = s3_wait_ns(S3_TRANSIENT, tries, test_rand(&seed), 0);
            CHECK(w >= 0 && w < cap);
            least = w < least ? w : least;
            most = w > most ? w : most;
        }
        CHECK(least < cap / 50 && most > cap / 50 * 49); /* full jitter: all of [0, cap) */
    }
    CHECK(s3_wait_ns(S3_THROTTLED, 1, UINT64_MAX, 0) > s3_wait_ns(S3_TRANSIENT, 1, UINT64_MAX, 0));
    CHECK(s3_wait_ns(S3_THROTTLED, 1, 0, 3) == 3 * SECOND);
    CHECK(s3_wait_ns(S3_THROTTLED, 1, 0, 86400) == S3_WAIT_MAX_S * SECOND);
    CHECK(s3_wait_ns(S3_THROTTLED, 1, 0, -5) == 0);
    return 39 + 4;
}

/* Many that never stop asking, nobody answers: the bound holds at every moment. */
static int test_outage(void)
{
    struct s3_budget b = { 0 };
    int64_t start = 5 * SECOND, wait = 0;
    unsigned long long sent = 0, seed = test_seed(7);
    CHECK(s3_budget_take(&b, start, true, &wait)); /* in good times a first try is free */
    s3_budget_answer(&b, false);
    for (int64_t t = 0; t < 600 * SECOND; t += SECOND / 50) {
        for (int asker = 0; asker < 20; asker++) {
            wait = 0;
            if (s3_budget_take(&b, start + t, test_rand(&seed) % 2, &wait)) {
                sent++;
                s3_budget_answer(&b, false);
            } else {
                CHECK(wait > 0 && wait <= SECOND / S3_TOKENS_PER_S + SECOND / 100);
            }
            CHECK((double)sent <= S3_TOKENS + S3_TOKENS_PER_S * (double)t / SECOND);
        }
    }
    CHECK(sent >= S3_TOKENS + S3_TOKENS_PER_S * 599);
    s3_budget_answer(&b, true); /* one good answer: no more queueing for first tries */
    for (int i = 0; i < 1000; i++)
        CHECK(s3_budget_take(&b, start + 600 * SECOND, true, &wait));
    return 600 * 50;
}

static int test_budget_mends(void)
{
    struct s3_budget b = { 0 };
    int64_t wait;
    for (int i = 0; i < S3_TOKENS; i++)
        CHECK(s3_budget_take(&b, SECOND, false, &wait));
    CHECK(!s3_budget_take(&b, SECOND, false, &wait));
    CHECK(!s3_budget_take(&b, SECOND / 2, false, &wait)); /* a clock that goes back gives none */
    s3_budget_answer(&b, true);
    CHECK(s3_budget_take(&b, SECOND, false, &wait));
    CHECK(!s3_budget_take(&b, SECOND, false, &wait));
    /* A long time gives the whole bucket and no more. */
    for (int i = 0; i < S3_TOKENS; i++)
        CHECK(s3_budget_take(&b, SECOND * 100000, false, &wait));
    CHECK(!s3_budget_take(&b, SECOND * 100000, false, &wait));
    return 6;
}

static int test_hedges(void)
{
    struct s3_hedge h = { 0 };
    CHECK_EQ(s3_hedge_after_ns(&h), 5 * SECOND);
    CHECK(!s3_hedge_take(&h));
    for (int i = 1; i <= 100; i++)
        s3_hedge_sample(&h, i * SECOND / 10);
    /* The last 64 are 3.7 to 10 s; a tenth of them is above 9.4. */
    CHECK_EQ(s3_hedge_after_ns(&h), 2 * 94 * SECOND / 10);
    int taken = 0;
    while (s3_hedge_take(&h))
        taken++;
    CHECK_EQ(taken, 4); /* 100 GETs would be worth 5, but they are not saved up */
    for (int i = 0; i < S3_HEDGE_SAMPLES; i++)
        s3_hedge_sample(&h, 1000);
    CHECK_EQ(s3_hedge_after_ns(&h), SECOND / 2);
    return 6;
}

static int test_too_slow(void)
{
    const int64_t patience = S3_SLOW_S * SECOND;
    CHECK(!s3_too_slow(0, patience, 0));
    CHECK(!s3_too_slow(patience, patience, 0));
    CHECK(s3_too_slow(patience + 1, patience, 0));
    CHECK(s3_too_slow(patience + 1, patience, S3_SLOW_BYTES - 1));
    CHECK(!s3_too_slow(patience + 1, patience, S3_SLOW_BYTES));
    /* A poor link's part of a get, and the largest object at a quarter of its rate. */
    for (uint64_t s = 1; s <= STORE_OBJECT_MAX / S3_SLOW_BYTES; s += 1 + s / 3) {
        CHECK(!s3_too_slow((int64_t)s * SECOND, patience, s * 4 * S3_SLOW_BYTES));
        CHECK(!s3_too_slow((int64_t)s * SECOND, patience, s * S3_SLOW_BYTES));
        CHECK(s3_too_slow((int64_t)s * SECOND + patience, patience, s * S3_SLOW_BYTES));
    }
    CHECK(!s3_too_slow(INT64_MAX, patience, UINT64_MAX));
    return 6;
}

int main(void)
{
    TEST_CASES(test_classes() + test_waits() + test_outage() + test_budget_mends() + test_hedges() +
               test_too_slow());
    return 0;
}
