/* The chain of sources, and the keys that it found, kept until they have to be renewed.
 *
 *     fetched            renew_s              expires_s - LAST_MOMENT_S
 *        |------ as is -----|--- one renews, ----|--- nobody goes on ---
 *                               others go on          without new ones   */
#include "storage/store/s3_creds.h"

#include <assert.h>
#include <openssl/crypto.h>
#include <pthread.h>
#include <stdio.h>
#include <time.h>

#include "storage/store/s3_creds_source.h"
#include "storage/store/s3_settings.h"

#define RENEW_BEFORE_S  600 /* at most; a quarter of their life for short-lived keys */
#define LAST_MOMENT_S   5   /* a request may still be on its way */
#define RENEW_PAUSE_S   60  /* between two tries to renew keys that are still good */
#define RETRY_PAUSE_S   2   /* between two tries when there are none: all handles ask at once */
#define REFUSED_PAUSE_S 15  /* the same when the source repeats what the server refused */

struct s3_creds {
    /* Fixed by s3_creds_new. */
    char *profile, *region;
    s3_env_fn *env;
    void *env_arg;
    s3_fetch_fn *fetch;
    void *fetch_arg;

    atomic_uint refs;
    pthread_mutex_t lock;
    pthread_cond_t changed; /* by CLOCK_MONOTONIC */
    struct {                /* under lock */
        struct s3_found found;
        bool renewing; /* one caller is at it, without the lock */
        bool refused;  /* the server did not accept found.keys */
        bool repeated; /* and the source, asked again, gave the same ones */
        int64_t renew_s;
        int64_t not_before_s; /* no try before: a failure is answered from `failure` */
        struct ckpt_err failure;
    } shared;
};

/* ---- sources ---- */

const char *s3_search_env(const struct s3_search *search, const char *name)
{
    return s3_env_get(search->env, search->env_arg, name);
}

static int64_t monotonic_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

static enum ckpt_status check_limits(const struct s3_limits *limits, const char *what,
                                     struct ckpt_err *err)
{
    if (limits->cancel && atomic_load(limits->cancel))
        return err_set(err, CKPT_CANCELLED, "%s: cancelled", what);
    if (limits->deadline_ns && monotonic_ns() >= limits->deadline_ns)
        return err_set(err, CKPT_TIMEOUT, "%s: no answer before the deadline", what);
    return CKPT_OK;
}

enum ckpt_status s3_search_fetch(const struct s3_search *search, const char *what,
                                 struct s3_fetch_request *request, struct s3_fetch_answer *ret,
                                 struct ckpt_err *err)
{
    enum { TRIES = 3, PAUSE_NS = 150000000 };
    struct ckpt_err why = { 0 };
    enum ckpt_status st = CKPT_OK;
    request->limits = search->limits;
    for (int i = 0; i < TRIES; i++) {
        const struct timespec pause = { .tv_nsec = i * PAUSE_NS };
        if (i > 0)
            nanosleep(&pause, NULL);
        st = check_limits(&search->limits, what, err);
        if (st != CKPT_OK)
            return st;
        memset(&why, 0, sizeof(why));
        st = search->fetch(search->fetch_arg, request, ret, &why);
        if (st == CKPT_OK && ret->status != 429 && ret->status < 500)
            return CKPT_OK;
        if (st != CKPT_OK && st != CKPT_UNREACHABLE && st != CKPT_TIMEOUT)
            break;
    }
    if (st == CKPT_OK)
        return err_set(err, CKPT_UNREACHABLE, "%s answered with HTTP %d", what, ret->status);
    return err_set(err, st, "%s: %s", what, err_text(&why));
}

enum ckpt_status s3_search_token_file(const char *path, char *ret, size_t cap, struct ckpt_err *err)
{
    FILE *file = fopen(path, "re");
    if (!file) { /* never NOT_FOUND: it is configured */
        enum ckpt_status st = err_errno(err, errno, "token file %s", path);
        return st == CKPT_NOT_FOUND ? CKPT_INVALID : st;
    }
    setvbuf(file, NULL, _IONBF, 0);
    size_t len = fread(ret, 1, cap, file);
    bool failed = ferror(file) != 0;
    fclose(file);
    while (len > 0 && len < cap && (ret[len - 1] == '\n' || ret[len - 1] == '\r'))
        len--;
    for (size_t i = 0; i < len; i++)
        failed = failed || ret[i] < ' ' || ret[i] >= 0x7f;
    if (failed || len == 0 || len >= cap)
        return err_set(err, CKPT_DENIED,
                       "token file %s does not hold one line of 1 to %zu printable characters",
                       path, cap - 1);
    ret[len] = '\0';
    return CKPT_OK;
}

enum ckpt_status s3_source_env(const struct s3_search *search, struct s3_found *ret,
                               struct ckpt_err *err)
{
    const char *id = s3_search_env(search, "AWS_ACCESS_KEY_ID");
    const char *secret = s3_search_env(search, "AWS_SECRET_ACCESS_KEY");
    if (!id && !secret)
        return err_set(err, CKPT_NOT_FOUND, "AWS_ACCESS_KEY_ID is not set");
    if (!id || !secret)
        return err_set(err, CKPT_INVALID,
                       "of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY only "
                       "one is set");
    enum ckpt_status st =
        s3_answer_keys("the environment", id, secret, s3_search_env(search, "AWS_SESSION_TOKEN"),
                       NULL, &ret->keys, err);
    if (st == CKPT_OK)
        snprintf(ret->from, sizeof(ret->from), "environment");
    ret->fixed = st == CKPT_OK;
    return st == CKPT_DENIED ? CKPT_INVALID : st;
}

/* ---- the search ---- */

/* Asks one source after the other; collects why each has nothing. */
static enum ckpt_status ask_sources(const struct s3_search *search, bool profile_first,
                                    struct s3_found *ret, struct ckpt_err *err)
{
    static s3_source_fn *const sources[] = { s3_source_env, s3_source_profile,
                                             s3_source_web_identity, s3_source_container,
                                             s3_source_instance };
    char looked[sizeof(err->text) - 64] = "";
    size_t len = 0;
    for (size_t i = profile_first ? 1 : 0; i < ARRAY_COUNT(sources); i++) {
        struct ckpt_err why = { 0 };
        enum ckpt_status st = sources[i](search, ret, &why);
        if (st == CKPT_OK)
            return st;
        if (st != CKPT_NOT_FOUND)
            return err_set(err, st, "AWS credentials: %s", err_text(&why));
        if (len < sizeof(looked))
            len += (size_t)snprintf(looked + len, sizeof(looked) - len, "%s%s", len ? "; " : "",
                                    why.text);
    }
    return err_set(err, CKPT_DENIED, "no AWS credentials found: %s", looked);
}

static enum ckpt_status prepare(const struct s3_creds *creds, struct s3_search *search,
                                struct s3_settings *settings, struct ckpt_err *err)
{
    const struct s3_creds_options options = { .profile = creds->profile,
                                              .env = creds->env,
                                              .env_arg = creds->env_arg };
    enum ckpt_status st = s3_settings_read(&options, settings, err);
    search->profile =
        s3_profile_name(creds->profile, creds->env, creds->env_arg, &search->profile_named);
    search->region = creds->region ? creds->region : settings->region;
    search->sts = settings->sts_endpoint;
    search->ca_file = settings->ca_file;
    return st;
}

/* Without the lock. */
static enum ckpt_status look(const struct s3_creds *creds, int64_t now_s,
                             const struct s3_limits *limits, struct s3_found *ret,
                             struct ckpt_err *err)
{
    struct s3_profiles *profiles = NULL;
    struct s3_search search = { .env = creds->env,
                                .env_arg = creds->env_arg,
                                .fetch = creds->fetch,
                                .fetch_arg = creds->fetch_arg,
                                .now_s = now_s };
    struct s3_settings settings;
    if (limits)
        search.limits = *limits;
    enum ckpt_status st = prepare(creds, &search, &settings, err);
    if (st == CKPT_OK)
        st = s3_profiles_load(creds->env, creds->env_arg, &profiles, err);
    search.profiles = profiles;
    if (st == CKPT_OK)
        st = ask_sources(&search, creds->profile != NULL, ret, err);
    s3_profiles_free(profiles);
    return st;
}

/* ---- keeping ---- */

static bool same_keys(const struct s3_keys *a, const struct s3_keys *b)
{
    return strcmp(a->id, b->id) == 0 && strcmp(a->secret, b->secret) == 0 &&
           strcmp(a->token, b->token) == 0;
}

static bool usable(const struct s3_creds *creds, int64_t now_s)
{
    return creds->shared.found.keys.generation && !creds->shared.refused &&
           now_s < creds->shared.found.keys.expires_s - LAST_MOMENT_S;
}

/* Under the lock: takes what was found. */
static enum ckpt_status take_found(struct s3_creds *creds, int64_t now_s, struct s3_found *found,
                                   struct ckpt_err *err)
{
    struct s3_keys *old = &creds->shared.found.keys;
    bool same = old->generation && same_keys(old, &found->keys);
    if (same && creds->shared.refused && !creds->shared.repeated) {
        /* Keys that are written down will not change by waiting: this request has failed, the
         * next one may ask the server.  Whoever hands out keys is left alone for a while. */
        creds->shared.repeated = true; /* after the pause the server is asked again */
        creds->shared.not_before_s = now_s + (found->fixed ? 0 : REFUSED_PAUSE_S);
        return err_set(err, CKPT_DENIED,
                       "the server does not accept the AWS credentials, and they have not changed "
                       "since (%s)",
                       found->from);
    }
    found->keys.generation = old->generation + (same ? 0 : 1);
    /* Keys that seem to have ended: either this clock is wrong or the source is; the
     * server decides, and a refusal brings us back here. */
    if (found->keys.expires_s <= now_s + LAST_MOMENT_S)
        found->keys.expires_s = now_s + RENEW_PAUSE_S + LAST_MOMENT_S;
    int64_t life = found->keys.expires_s - now_s;
    if (!same || found->keys.expires_s != old->expires_s)
        creds->shared.renew_s =
            found->keys.expires_s - (int64_t)min_u64(RENEW_BEFORE_S, (uint64_t)life / 4);
    creds->shared.found = *found;
    creds->shared.refused = creds->shared.repeated = false;
    creds->shared.not_before_s = same ? now_s + RENEW_PAUSE_S : 0;
    return CKPT_OK;
}

/* Called and returns under the lock; looks without it. */
static enum ckpt_status renew_into(struct s3_creds *creds, int64_t now_s,
                                   const struct s3_limits *limits, struct s3_found *found,
                                   struct ckpt_err *err)
{
    struct ckpt_err why = { 0 };
    creds->shared.renewing = true;
    pthread_mutex_unlock(&creds->lock);
    enum ckpt_status st = look(creds, now_s, limits, found, &why);
    pthread_mutex_lock(&creds->lock);
    creds->shared.renewing = false;
    pthread_cond_broadcast(&creds->changed);
    enum ckpt_status over = limits ? check_limits(limits, "", NULL) : CKPT_OK;
    if (st == CKPT_OK) {
        st = take_found(creds, now_s, found, &why);
    } else if (over != CKPT_OK) { /* this caller's trouble, nobody else's */
        memset(&creds->shared.failure, 0, sizeof(creds->shared.failure));
        return err_set(err, over, "%s", why.text);
    } else {
        if (st == CKPT_TIMEOUT) /* the source's; TIMEOUT is the word for the caller's deadline */
            st = why.status = CKPT_UNREACHABLE;
        /* Who had keys once is in the right place: the source is away, for now. */
        if (st == CKPT_DENIED && creds->shared.found.keys.generation &&
            strncmp(why.text, "no AWS", 6) == 0)
            st = why.status = CKPT_UNREACHABLE;
        creds->shared.not_before_s = now_s + (usable(creds, now_s) ? RENEW_PAUSE_S : RETRY_PAUSE_S);
    }
    creds->shared.failure = why;
    return st == CKPT_OK ? CKPT_OK : err_set(err, st, "%s", why.text);
}

static enum ckpt_status renew(struct s3_creds *creds, int64_t now_s, const struct s3_limits *limits,
                              struct ckpt_err *err)
{
    struct s3_found *found = calloc(1, sizeof(*found));
    if (!found)
        return err_set(err, CKPT_NO_MEMORY, "out of memory for AWS credentials");
    enum ckpt_status st = renew_into(creds, now_s, limits, found, err);
    s3_keys_fini(&found->keys);
    free(found);
    return st;
}

/* Under the lock: until the one who renews is done. */
static enum ckpt_status wait_for_other(struct s3_creds *creds, const struct s3_limits *limits,
                                       struct ckpt_err *err)
{
    enum { SLICE_NS = 50000000 };
    while (creds->shared.renewing) {
        struct timespec until;
        int64_t slice_ns = monotonic_ns() + SLICE_NS;
        enum ckpt_status st = limits ? check_limits(limits, "AWS credentials", err) : CKPT_OK;
        if (st != CKPT_OK)
            return st;
        until.tv_sec = slice_ns / 1000000000;
        until.tv_nsec = slice_ns % 1000000000;
        pthread_cond_timedwait(&creds->changed, &creds->lock, &until);
    }
    return CKPT_OK;
}

/* Under the lock. */
static enum ckpt_status get_usable(struct s3_creds *creds, int64_t now_s,
                                   const struct s3_limits *limits, struct ckpt_err *err)
{
    enum ckpt_status st = CKPT_OK;
    for (;;) {
        if (usable(creds, now_s)) {
            bool due = now_s >= creds->shared.renew_s && now_s >= creds->shared.not_before_s;
            if (!due || creds->shared.renewing)
                return CKPT_OK;
            /* A failure is kept for when it matters; these keys still hold. */
            st = renew(creds, now_s, limits, NULL);
            if (st == CKPT_OK || usable(creds, now_s))
                return CKPT_OK;
        }
        if (creds->shared.renewing) {
            st = wait_for_other(creds, limits, err);
            if (st != CKPT_OK)
                return st;
            continue;
        }
        if (creds->shared.failure.status != CKPT_OK && now_s < creds->shared.not_before_s)
            return err_set(err, creds->shared.failure.status, "%s", creds->shared.failure.text);
        st = renew(creds, now_s, limits, err);
        if (st != CKPT_OK)
            return st;
    }
}

enum ckpt_status s3_creds_get(struct s3_creds *creds, int64_t now_s, const struct s3_limits *limits,
                              struct s3_keys *keys, struct ckpt_err *err)
{
    pthread_mutex_lock(&creds->lock);
    enum ckpt_status st = get_usable(creds, now_s, limits, err);
    if (st == CKPT_OK && keys->generation != creds->shared.found.keys.generation)
        *keys = creds->shared.found.keys;
    else if (st == CKPT_OK)
        keys->expires_s = creds->shared.found.keys.expires_s;
    pthread_mutex_unlock(&creds->lock);
    return st;
}

void s3_creds_invalidate(struct s3_creds *creds, uint64_t generation)
{
    pthread_mutex_lock(&creds->lock);
    if (generation && generation == creds->shared.found.keys.generation && !creds->shared.refused) {
        creds->shared.refused = true;
        creds->shared.not_before_s = 0;
    }
    pthread_mutex_unlock(&creds->lock);
}

void s3_creds_to_text(struct s3_creds *creds, char *buf, size_t cap)
{
    char until[64] = "";
    struct tm tm;
    pthread_mutex_lock(&creds->lock);
    const struct s3_found *found = &creds->shared.found;
    time_t expires = (time_t)found->keys.expires_s;
    if (found->keys.expires_s != INT64_MAX && gmtime_r(&expires, &tm))
        strftime(until, sizeof(until), ", until %Y-%m-%dT%H:%M:%SZ", &tm);
    if (found->keys.generation)
        snprintf(buf, cap, "%s%s%s", found->from, until,
                 creds->shared.refused ? ", refused by the server" : "");
    else
        snprintf(buf, cap, "none yet");
    pthread_mutex_unlock(&creds->lock);
}

/* ---- life ---- */

static bool copy_text(const char *text, char **ret)
{
    *ret = text && text[0] ? strdup(text) : NULL;
    return *ret || !text || !text[0];
}

static bool init_locks(struct s3_creds *creds)
{
    pthread_condattr_t attr;
    if (pthread_condattr_init(&attr) != 0)
        return false;
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    bool made = pthread_cond_init(&creds->changed, &attr) == 0;
    pthread_condattr_destroy(&attr);
    if (made && pthread_mutex_init(&creds->lock, NULL) != 0) {
        pthread_cond_destroy(&creds->changed);
        made = false;
    }
    return made;
}

enum ckpt_status s3_creds_new(const struct s3_creds_options *options, struct s3_creds **ret,
                              struct ckpt_err *err)
{
    static const struct s3_creds_options none;
    const struct s3_creds_options *o = options ? options : &none;
    struct s3_creds *creds = calloc(1, sizeof(*creds));
    if (!creds || !copy_text(o->profile, &creds->profile) ||
        !copy_text(o->region, &creds->region) || !init_locks(creds)) {
        if (creds) {
            free(creds->profile);
            free(creds->region);
        }
        free(creds);
        return err_set(err, CKPT_NO_MEMORY, "out of memory for AWS credentials");
    }
    creds->env = o->env;
    creds->env_arg = o->env_arg;
    creds->fetch = o->fetch ? o->fetch : s3_fetch_curl;
    creds->fetch_arg = o->fetch_arg;
    atomic_init(&creds->refs, 1);
    *ret = creds;
    return CKPT_OK;
}

struct s3_creds *s3_creds_ref(struct s3_creds *creds)
{
    unsigned before = atomic_fetch_add(&creds->refs, 1);
    assert(before > 0);
    return creds;
}

void s3_creds_unref(struct s3_creds *creds)
{
    if (!creds || atomic_fetch_sub(&creds->refs, 1) != 1)
        return;
    pthread_cond_destroy(&creds->changed);
    pthread_mutex_destroy(&creds->lock);
    s3_keys_fini(&creds->shared.found.keys);
    free(creds->profile);
    free(creds->region);
    free(creds);
}
