/* See s3_call.h. */
#include "storage/store/s3_call.h"

#include <stdio.h>
#include <sys/random.h>
#include <time.h>

#include "storage/store/s3_trouble.h"
#include "storage/store/s3_xml.h"

#define SECOND_NS INT64_C(1000000000)
/* Cancel and deadline are looked at this often. */
#define TICK_MS 100
/* Calls looked at for sending: those that wait do not hold up all that come behind. */
#define WINDOW 4

/* One sending of a call. */
struct
try {
    struct s3_exchange x;
    struct s3_call *call; /* NULL = free */
    uint64_t generation;  /* of the keys it is signed with */
    struct s3_signature signature;
    char path[S3_PATH_MAX + 1];
    char url[S3_TARGET_MAX + S3_HOST_MAX + 16];
    char lines[S3_HTTP_HEADERS_MAX][160];
    char token[S3_SESSION_TOKEN_MAX + 32], authorization[S3_AUTHORIZATION_MAX + 32];
};

struct s3_caller {
    struct s3_site *site;
    struct s3_http *http;
    struct s3_signer signer;
    struct s3_keys keys;
    uint64_t random;
    const char *url; /* of the store, for messages */
    bool attended;
    size_t tries_count;
    struct try **tries; /* each made at first use */
    /* of the run under way */
    const struct s3_limits *limits;
    const char *what;
    char trouble[256]; /* the last failure */
};

static int64_t clock_ns(clockid_t id)
{
    struct timespec now;
    clock_gettime(id, &now);
    return now.tv_sec * SECOND_NS + now.tv_nsec;
}

static uint64_t next_random(struct s3_caller *c)
{
    uint64_t z = (c->random += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

void s3_caller_free(struct s3_caller *c)
{
    if (!c)
        return;
    s3_http_free(c->http);
    for (size_t i = 0; i < c->tries_count; i++)
        free(c->tries[i]);
    free(c->tries);
    s3_keys_fini(&c->keys);
    s3_signer_fini(&c->signer);
    free(c);
}

enum ckpt_status s3_caller_new(struct s3_site *site, const char *url, bool attended,
                               struct s3_caller **ret, struct ckpt_err *err)
{
    const struct s3_place *place = &site->place;
    struct s3_caller *c = calloc(1, sizeof(*c));
    struct try **tries = calloc(place->connections, sizeof(struct try *));
    if (!c || !tries) {
        free(c);
        free(tries);
        return err_set(err, CKPT_NO_MEMORY, "no memory to open %s", url);
    }
    *c = (struct s3_caller){ .site = site, .url = url, .attended = attended, .tries = tries };
    c->tries_count = place->connections;
    c->random = (uint64_t)clock_ns(CLOCK_MONOTONIC);
    /* Without the system's randomness the clock will do: it spreads waits, no more. */
    if (getrandom(&c->random, sizeof(c->random), GRND_NONBLOCK) < 0)
        c->random ^= (uint64_t)(uintptr_t)c;
    struct s3_http_options options = { .ca_file = place->ca_file[0] ? place->ca_file : NULL,
                                       .no_proxy = place->loopback,
                                       .connections = place->connections,
                                       .share = site->share };
    enum ckpt_status st = s3_http_new(&options, &c->http, err);
    if (st != CKPT_OK)
        s3_caller_free(c);
    else
        *ret = c;
    return st;
}

static struct try *try_get(struct s3_caller *c)
{
    for (size_t i = 0; i < c->tries_count; i++) {
        if (!c->tries[i])
            c->tries[i] = calloc(1, sizeof(struct try));
        if (!c->tries[i] || !c->tries[i]->call)
            return c->tries[i];
    }
    return NULL;
}

/* Errors that come with status 200 are small documents of their own; an object has an ETag. */
static bool is_error(const struct s3_answer *a, const void *bytes, size_t len)
{
    return !a->etag[0] && len < S3_ERROR_BODY_MAX && memmem(bytes, len, "<Error>", 7);
}

static bool take(struct s3_exchange *x, uint64_t at, const void *bytes, size_t len)
{
    struct s3_call *call = x->arg;
    struct s3_answer *a = &x->answer;
    if (at == 0 && is_error(a, bytes, len)) {
        call->odd = true;
        memcpy(a->error, bytes, len);
        a->error_len = len;
        a->error[len] = 0;
        return false;
    }
    return call->take(call, &x->answer, at, bytes, len);
}

static size_t pairs_count(const struct s3_pair pairs[S3_CALL_PAIRS])
{
    size_t n = 0;
    while (n < S3_CALL_PAIRS && pairs[n].name)
        n++;
    return n;
}

/* The headers to be signed and sent: the call's, and Range. */
static size_t headers_of(const struct s3_call *call, struct s3_pair ret[S3_CALL_PAIRS + 1])
{
    size_t n = pairs_count(call->headers);
    memcpy(ret, call->headers, n * sizeof(*ret));
    if (call->range[0])
        ret[n++] = (struct s3_pair){ "range", call->range };
    return n;
}

/* Region and keys as they are now; the signer's key of the day follows by itself. */
static enum ckpt_status refresh(struct s3_caller *c, int64_t now_s, struct ckpt_err *err)
{
    char region[S3_REGION_MAX + 1];
    s3_site_region(c->site, region);
    if (strcmp(region, c->signer.region) != 0) {
        enum ckpt_status st = s3_signer_init(&c->signer, region, "s3", err);
        if (st != CKPT_OK)
            return st;
    }
    return s3_creds_get(c->site->creds, now_s, c->limits, &c->keys, err);
}

static enum ckpt_status sign(struct s3_caller *c, struct try *t, const char *host, int64_t now_s,
                             struct ckpt_err *err)
{
    struct s3_call *call = t->call;
    enum ckpt_status st = s3_place_path(&c->site->place, call->key, t->path, err);
    if (st != CKPT_OK)
        return st;
    struct s3_pair headers[S3_CALL_PAIRS + 1];
    size_t header_count = headers_of(call, headers);
    struct s3_request request = { .method = s3_method_name(call->method),
                                  .host = host,
                                  .path = t->path,
                                  .query = call->query,
                                  .query_count = pairs_count(call->query),
                                  .headers = headers,
                                  .header_count = header_count,
                                  .payload_hash =
                                      call->payload_hash ? call->payload_hash : S3_EMPTY_PAYLOAD,
                                  .time_s = now_s };
    return s3_sign(&c->signer, &c->keys, &request, &t->signature, err);
}

/* The header lines of a signed try. */
static void dress(const struct s3_caller *c, struct try *t, const char *host)
{
    const struct s3_call *call = t->call;
    size_t n = 0;
    snprintf(t->url, sizeof(t->url), "%s://%s%s", c->site->place.tls ? "https" : "http", host,
             t->signature.target);
    snprintf(t->lines[n++], sizeof(t->lines[0]), "Host: %.140s", host);
    snprintf(t->lines[n++], sizeof(t->lines[0]), "X-Amz-Date: %s", t->signature.date);
    snprintf(t->lines[n++], sizeof(t->lines[0]), "X-Amz-Content-Sha256: %s",
             call->payload_hash ? call->payload_hash : S3_EMPTY_PAYLOAD);
    struct s3_pair headers[S3_CALL_PAIRS + 1];
    size_t header_count = headers_of(call, headers);
    for (size_t i = 0; i < header_count; i++)
        snprintf(t->lines[n++], sizeof(t->lines[0]), "%s: %s", headers[i].name, headers[i].value);
    size_t lines = n;
    for (n = 0; n < lines; n++)
        t->x.headers[n] = t->lines[n];
    snprintf(t->authorization, sizeof(t->authorization), "Authorization: %s",
             t->signature.authorization);
    t->x.headers[n++] = t->authorization;
    if (c->keys.token[0]) {
        snprintf(t->token, sizeof(t->token), "X-Amz-Security-Token: %s", c->keys.token);
        t->x.headers[n++] = t->token;
    }
    t->x.headers[n] = NULL;
}

static void count_sent(struct s3_caller *c, const struct s3_call *call, bool hedge)
{
    pthread_mutex_lock(&c->site->shared.lock);
    struct s3_counts *n = &c->site->shared.counts;
    n->requests++;
    n->puts += call->method == S3_PUT;
    n->gets += call->method == S3_GET && call->key[0];
    n->lists += call->method == S3_GET && !call->key[0];
    n->others += call->method == S3_HEAD || call->method == S3_DELETE;
    n->retries += !hedge && call->own.tries > 0;
    n->hedges += hedge;
    pthread_mutex_unlock(&c->site->shared.lock);
}

static enum ckpt_status send_try(struct s3_caller *c, struct try *t, struct s3_call *call,
                                 bool hedge, struct ckpt_err *err)
{
    char host[S3_HOST_MAX + 1];
    int64_t now_s = clock_ns(CLOCK_REALTIME) / SECOND_NS + s3_site_skew_s(c->site);
    enum ckpt_status st = refresh(c, now_s, err);
    if (st != CKPT_OK)
        return st;
    s3_place_host(&c->site->place, c->signer.region, host);
    t->call = call;
    call->odd = false;
    st = sign(c, t, host, now_s, err);
    if (st == CKPT_OK) {
        dress(c, t, host);
        t->generation = c->keys.generation;
        t->x.method = call->method;
        t->x.url = t->url;
        t->x.iov = call->iov;
        t->x.iov_count = call->iov_count;
        t->x.take = call->take ? take : NULL;
        t->x.arg = call;
        t->x.fresh = hedge;
        st = s3_http_start(c->http, &t->x, err);
    }
    if (st != CKPT_OK) {
        t->call = NULL;
        return st;
    }
    count_sent(c, call, hedge);
    call->own.running++;
    call->ret.repeated = call->own.tries > 0;
    call->own.tries += !hedge;
    call->own.sent_ns = t->x.started_ns;
    return CKPT_OK;
}

static void stop_tries(struct s3_caller *c, const struct s3_call *call)
{
    for (size_t i = 0; i < c->tries_count; i++) {
        struct try *t = c->tries[i];
        if (!t || !t->call || (call && t->call != call))
            continue;
        s3_http_stop(c->http, &t->x);
        t->call->own.running--;
        t->call = NULL;
    }
}

static int64_t patience_ns(const struct s3_caller *c, enum s3_wire wire)
{
    bool doubt = wire == S3_WIRE_DNS || wire == S3_WIRE_CONNECT || wire == S3_WIRE_TLS ||
                 wire == S3_WIRE_FOREIGN;
    if (!c->attended || !doubt)
        return S3_PATIENCE_S * SECOND_NS;
    pthread_mutex_lock(&c->site->shared.lock);
    bool answered = c->site->shared.answered;
    pthread_mutex_unlock(&c->site->shared.lock);
    return (answered ? S3_PATIENCE_S : S3_PATIENCE_ATTENDED_S) * SECOND_NS;
}

/* Notes a failure now; true if there were enough of them for long enough. */
static bool out_of_patience(struct s3_call *call, int64_t patience, int64_t now)
{
    if (call->own.failed_ns == 0)
        call->own.failed_ns = now;
    return call->own.tries >= 3 && now - call->own.failed_ns >= patience;
}

/* Keys that could not be had just now are waited for like a server that is down. */
static enum ckpt_status put_off(struct s3_caller *c, struct s3_call *call, enum ckpt_status st,
                                struct ckpt_err *mine, struct ckpt_err *err)
{
    int64_t now = clock_ns(CLOCK_MONOTONIC);
    if (st != CKPT_UNREACHABLE || out_of_patience(call, S3_PATIENCE_S * SECOND_NS, now))
        return err_set(err, st, "%s", err_text(mine));
    snprintf(c->trouble, sizeof(c->trouble), "%.250s", err_text(mine));
    call->own.tries++;
    call->own.not_before_ns = now + s3_wait_ns(S3_TRANSIENT, call->own.tries, next_random(c), 0);
    return CKPT_OK;
}

/* Sends `call` if it is time and the budget allows. */
static enum ckpt_status try_send(struct s3_caller *c, struct s3_call *call, int64_t now,
                                 bool *ret_full, struct ckpt_err *err)
{
    struct ckpt_err mine = { 0 };
    int64_t wait;
    if (call->own.done || call->own.running || call->own.not_before_ns > now)
        return CKPT_OK;
    struct try *t = try_get(c);
    *ret_full = !t;
    if (!t)
        return CKPT_OK;
    pthread_mutex_lock(&c->site->shared.lock);
    bool may = s3_budget_take(&c->site->shared.budget, now, call->own.tries == 0, &wait);
    pthread_mutex_unlock(&c->site->shared.lock);
    if (!may) {
        call->own.not_before_ns = now + wait;
        return CKPT_OK;
    }
    enum ckpt_status st = send_try(c, t, call, false, &mine);
    return st == CKPT_OK ? CKPT_OK : put_off(c, call, st, &mine, err);
}

/* The longest-running GET that is late gets company. */
static void try_hedge(struct s3_caller *c, int64_t now)
{
    struct s3_call *late = NULL;
    for (size_t i = 0; i < c->tries_count; i++) {
        struct s3_call *call = c->tries[i] ? c->tries[i]->call : NULL;
        if (call && call->hedge && !call->own.hedged && call->own.running == 1 &&
            (!late || call->own.sent_ns < late->own.sent_ns))
            late = call;
    }
    struct try *t = late ? try_get(c) : NULL;
    if (!t)
        return;
    pthread_mutex_lock(&c->site->shared.lock);
    struct s3_hedge *h = &c->site->shared.hedge;
    bool go = now - late->own.sent_ns > s3_hedge_after_ns(h) && s3_hedge_take(h);
    pthread_mutex_unlock(&c->site->shared.lock);
    if (!go)
        return;
    late->own.hedged = true;
    int64_t sent = late->own.sent_ns;
    if (send_try(c, t, late, true, NULL) == CKPT_OK)
        late->own.sent_ns = sent;
}

static void note_answer(struct s3_caller *c, const struct s3_call *call, const struct try *t,
                        enum s3_class class_)
{
    bool good = class_ != S3_THROTTLED && class_ != S3_TRANSIENT && class_ != S3_DAMAGED &&
                (t->x.answer.status != 0 || class_ == S3_GOOD);
    pthread_mutex_lock(&c->site->shared.lock);
    s3_budget_answer(&c->site->shared.budget, good);
    c->site->shared.answered |= t->x.answer.status != 0 && t->x.answer.wire != S3_WIRE_FOREIGN;
    struct s3_counts *n = &c->site->shared.counts;
    n->throttled += class_ == S3_THROTTLED;
    if (class_ == S3_GOOD && call->hedge) {
        n->get_bytes += t->x.answer.received;
        s3_hedge_sample(&c->site->shared.hedge, clock_ns(CLOCK_MONOTONIC) - t->x.started_ns);
    }
    for (int i = 0; class_ == S3_GOOD && i < call->iov_count; i++)
        n->put_bytes += call->iov[i].iov_len;
    pthread_mutex_unlock(&c->site->shared.lock);
}

/* The region that the answer names, if it is another one. */
static bool follow_region(struct s3_caller *c, struct s3_call *call, const struct s3_answer *a)
{
    char region[64];
    struct s3_signer probe;
    snprintf(region, sizeof(region), "%s", a->region);
    if (!region[0])
        s3_xml_find(a->error, a->error_len, "Error", "Region", region, sizeof(region));
    if (call->own.moved == 2 || strcmp(region, c->signer.region) == 0 ||
        s3_signer_init(&probe, region, "s3", NULL) != CKPT_OK)
        return false;
    call->own.moved++;
    s3_site_set_region(c->site, region);
    return true;
}

/* What can be put right at once, once. */
static bool put_right(struct s3_caller *c, struct s3_call *call, const struct try *t,
                      enum s3_class class_)
{
    const struct s3_answer *a = &t->x.answer;
    if (class_ == S3_CREDENTIAL && !call->own.renewed) {
        call->own.renewed = true;
        s3_creds_invalidate(c->site->creds, t->generation);
        pthread_mutex_lock(&c->site->shared.lock);
        c->site->shared.counts.renewed++;
        pthread_mutex_unlock(&c->site->shared.lock);
        return true;
    }
    if (class_ == S3_SKEWED && !call->own.reclocked && a->date_s) {
        call->own.reclocked = true;
        s3_site_set_skew(c->site, a->date_s - clock_ns(CLOCK_REALTIME) / SECOND_NS);
        return true;
    }
    return class_ == S3_REGION && follow_region(c, call, a);
}

static enum ckpt_status give_up(struct s3_caller *c, struct s3_call *call,
                                const struct s3_outcome *outcome, const struct s3_answer *answer,
                                struct ckpt_err *err)
{
    struct s3_context context = { .what = c->what,
                                  .key = call->key,
                                  .url = c->url,
                                  .place = &c->site->place,
                                  .region = c->signer.region,
                                  .now_s = clock_ns(CLOCK_REALTIME) / SECOND_NS };
    return s3_trouble(&context, outcome, answer, err);
}

static void keep_answer(struct s3_call *call, const struct s3_answer *a, enum s3_class class_)
{
    call->ret.status = a->status;
    call->ret.class_ = class_;
    memcpy(call->ret.etag, a->etag, sizeof(call->ret.etag));
    call->ret.length = a->length;
    call->ret.total = a->total;
    call->ret.received = a->received;
    call->ret.date_s = a->date_s;
    call->ret.modified_s = a->modified_s;
}

/* What is no object store (a network that wants a login, a web console) answers with pages, and
 * then nothing was stored, removed or looked for.  S3 names the version in each good answer about
 * an object, explains a missing one by <Error>, and has nothing to say to a removal: 204, of other
 * servers 200, without a body. */
static bool is_foreign(const struct s3_call *call, const struct s3_answer *a)
{
    if (a->status == 404)
        return a->error_len > 0 && !memmem(a->error, a->error_len, "<Error", 6);
    bool ended = a->wire == S3_WIRE_OK || a->wire == S3_WIRE_REFUSED;
    if (!ended || a->status < 200 || a->status >= 300)
        return false;
    if (call->method == S3_DELETE)
        return a->error_len > 0;
    if (call->odd || call->key[0])
        return call->odd || !a->etag[0];
    return a->wire == S3_WIRE_OK && call->check && !call->check(call, a);
}

static bool is_repeated(const struct s3_call *call, enum s3_class class_)
{
    return !call->once && (class_ == S3_THROTTLED || class_ == S3_TRANSIENT ||
                           (class_ == S3_DAMAGED && !call->lie));
}

/* What a try that is over means for its call. */
static enum ckpt_status judge(struct s3_caller *c, struct try *t, struct s3_call *call,
                              struct ckpt_err *err)
{
    struct s3_answer *a = &t->x.answer;
    struct s3_outcome outcome;
    s3_outcome_read(a, &outcome);
    if (!outcome.code[0] && is_foreign(call, a)) {
        snprintf(a->trouble, sizeof(a->trouble),
                 "HTTP %d that is no answer to the request: does the network want a login, or is "
                 "that no object store?",
                 a->status);
        outcome.wire = a->wire = S3_WIRE_FOREIGN;
    }
    enum s3_class class_ = s3_classify(&outcome);
    if (class_ == S3_GOOD && a->received < call->expect) {
        class_ = S3_TRANSIENT; /* whole by HTTP, and yet not what was asked for */
        snprintf(a->trouble, sizeof(a->trouble), "%llu bytes came instead of %llu",
                 (unsigned long long)a->received, (unsigned long long)call->expect);
        outcome.wire = S3_WIRE_BROKEN;
    }
    note_answer(c, call, t, class_);
    keep_answer(call, a, class_);
    if (class_ == S3_GOOD) {
        call->own.done = true;
        stop_tries(c, call);
        return CKPT_OK;
    }
    s3_outcome_text(&outcome, a, c->trouble, sizeof(c->trouble));
    if (call->own.running > 0)
        return CKPT_OK; /* its twin may still do it */
    if (put_right(c, call, t, class_)) {
        call->own.not_before_ns = 0;
        return CKPT_OK;
    }
    int64_t now = clock_ns(CLOCK_MONOTONIC), patience = patience_ns(c, outcome.wire);
    if (!is_repeated(call, class_) || out_of_patience(call, patience, now))
        return give_up(c, call, &outcome, a, err);
    int64_t wait = s3_wait_ns(class_, call->own.tries, next_random(c), a->retry_after_s);
    int64_t last = call->own.failed_ns + patience; /* the last try is made when it ends */
    call->own.hedged = false;
    call->own.not_before_ns = now < last && now + wait > last ? last : now + wait;
    return CKPT_OK;
}

static enum ckpt_status check_limits(const struct s3_caller *c, const char *key,
                                     struct ckpt_err *err)
{
    const char *why = c->trouble[0] ? "; last seen: " : "";
    if (c->limits->cancel && atomic_load(c->limits->cancel))
        return err_set(err, CKPT_CANCELLED, "%s %s in %s: cancelled%s%s", c->what, key, c->url, why,
                       c->trouble);
    if (c->limits->deadline_ns && clock_ns(CLOCK_MONOTONIC) >= c->limits->deadline_ns)
        return err_set(err, CKPT_TIMEOUT, "%s %s in %s: the deadline has passed%s%s", c->what, key,
                       c->url, why, c->trouble);
    return CKPT_OK;
}

/* Sends what can be sent of [low, low + window); *ret_wait_ms until there may be more. */
static enum ckpt_status send_some(struct s3_caller *c, struct s3_call *calls, size_t low,
                                  size_t count, int *ret_wait_ms, struct ckpt_err *err)
{
    int64_t now = clock_ns(CLOCK_MONOTONIC), soonest = now + TICK_MS * INT64_C(1000000);
    size_t end = (size_t)min_u64(count, low + c->tries_count * WINDOW);
    bool full = false;
    for (size_t i = low; i < end && !full; i++) {
        enum ckpt_status st = try_send(c, &calls[i], now, &full, err);
        if (st != CKPT_OK)
            return st;
        if (!calls[i].own.done && !calls[i].own.running && calls[i].own.not_before_ns > now &&
            calls[i].own.not_before_ns < soonest)
            soonest = calls[i].own.not_before_ns;
    }
    try_hedge(c, now);
    *ret_wait_ms = (int)((soonest - now + 999999) / 1000000);
    return CKPT_OK;
}

static enum ckpt_status run(struct s3_caller *c, struct s3_call *calls, size_t count,
                            struct ckpt_err *err)
{
    for (size_t low = 0;;) {
        int wait_ms;
        while (low < count && calls[low].own.done)
            low++;
        if (low == count)
            return CKPT_OK;
        enum ckpt_status st = check_limits(c, calls[low].key, err);
        if (st == CKPT_OK)
            st = send_some(c, calls, low, count, &wait_ms, err);
        if (st != CKPT_OK)
            return st;
        struct s3_exchange *x = s3_http_next(c->http, wait_ms);
        if (!x)
            continue;
        struct try *t = (struct try *)x; /* its first member */
        struct s3_call *call = t->call;
        t->call = NULL;
        call->own.running--;
        st = judge(c, t, call, err);
        if (st != CKPT_OK)
            return st;
    }
}

enum ckpt_status s3_caller_run(struct s3_caller *c, const struct s3_limits *limits,
                               const char *what, struct s3_call *calls, size_t count,
                               struct ckpt_err *err)
{
    c->limits = limits;
    c->what = what;
    c->trouble[0] = 0;
    enum ckpt_status st = run(c, calls, count, err);
    stop_tries(c, NULL);
    return st;
}
