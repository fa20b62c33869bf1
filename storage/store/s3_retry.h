/* When to ask again: what an outcome means, how long to wait, and how many requests an
 * object store in trouble may get from this process.  Pure: time and randomness come in.
 *
 * A retry costs a token, and so does a first try while the store's last answers were
 * failures.  Tokens come back with time (S3_TOKENS_PER_S) and with good answers, up to
 * S3_TOKENS: in a total outage of T seconds all handles together send at most
 *     S3_TOKENS + S3_TOKENS_PER_S * T + (requests under way when it began)
 * however many ask.  Waits are drawn evenly from [0, cap) ("full jitter"), so that those
 * that failed together do not come back together. */
#pragma once

#include "formats/base.h"

enum s3_class {
    S3_GOOD,
    S3_THROTTLED,  /* asked too often: wait longer */
    S3_TRANSIENT,  /* lost, timed out, broken inside: again */
    S3_DAMAGED,    /* the body came there with other bytes than its digest is of: again */
    S3_CREDENTIAL, /* keys ended or are unknown: renew them, once */
    S3_SKEWED,     /* clocks differ: take the server's, once */
    S3_REGION,     /* lives in another region: go there */
    S3_PERMANENT,  /* the same answer would come again */
};

/* What an HTTP library can say, as far as it changes what is done. */
enum s3_wire {
    S3_WIRE_OK,
    S3_WIRE_DNS,
    S3_WIRE_CONNECT,
    S3_WIRE_TLS,       /* broken in the handshake */
    S3_WIRE_TLS_TRUST, /* a certificate that is not to be trusted */
    S3_WIRE_BROKEN,    /* reset, cut off, protocol not kept */
    S3_WIRE_STALLED,   /* no byte for S3_STALL_S, or too slow */
    S3_WIRE_CONFIG,    /* wrong by our own settings: CA file, proxy */
    S3_WIRE_REFUSED,   /* our receiver did not want the body */
    S3_WIRE_FOREIGN,   /* came whole, and is no answer of an object store to the request */
};
#define S3_STALL_S 30

/* A server that sends a byte now and then must not hold a thread for ever.  waited_ns: since
 * the request began, or since a bufferful of its body went out last, so an upload may take as
 * long as it takes.  After patience_ns (of S3_SLOW_S) an answer must have come whole, or have
 * brought S3_SLOW_BYTES for each further second: a quarter of what a poor link gives one of
 * several connections. */
#define S3_SLOW_S     90
#define S3_SLOW_BYTES 16384
bool s3_too_slow(int64_t waited_ns, int64_t patience_ns, uint64_t received);

#define S3_CODE_MAX 63
struct s3_outcome {
    enum s3_wire wire;
    int status;                 /* HTTP; 0 = none came */
    char code[S3_CODE_MAX + 1]; /* <Code> of an error body, "" = none */
};
enum s3_class s3_classify(const struct s3_outcome *outcome);

/* Wait before try number `tries` + 1 (tries >= 1 were made).  random: any 64 bits.
 * retry_after_s: as the server asked, 0 = did not; more than S3_WAIT_MAX is not granted. */
#define S3_WAIT_MAX_S 20
int64_t s3_wait_ns(enum s3_class class_, unsigned tries, uint64_t random, int64_t retry_after_s);

#define S3_TOKENS       50
#define S3_TOKENS_PER_S 1
/* Shared by all handles of a place, under its lock. */
struct s3_budget {
    double tokens;
    int64_t at_ns;     /* when tokens were counted last; 0 = never */
    unsigned failures; /* in a row */
};
/* True: send.  False: *ret_wait_ns until there may be a token. */
bool s3_budget_take(struct s3_budget *b, int64_t now_ns, bool first, int64_t *ret_wait_ns);
/* good: the store answered and works (a NoSuchKey is good, a 503 is not). */
void s3_budget_answer(struct s3_budget *b, bool good);

/* Hedging: when a GET is later than nearly all before it, a second one is sent for the
 * same bytes.  Delays are kept per place, sizes in one class (parts are of one size). */
#define S3_HEDGE_SAMPLES 64
struct s3_hedge {
    int64_t took_ns[S3_HEDGE_SAMPLES];
    uint64_t count; /* ever */
    double credit;  /* hedges that may be sent: 1 for every 20 GETs, at most 4 */
};
void s3_hedge_sample(struct s3_hedge *h, int64_t took_ns);
/* How long a GET may take before it is asked again: twice the 9th decile of the last
 * ones, at least 500 ms; 5 s while fewer than 16 are known. */
int64_t s3_hedge_after_ns(const struct s3_hedge *h);
bool s3_hedge_take(struct s3_hedge *h);
