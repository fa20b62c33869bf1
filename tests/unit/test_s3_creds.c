/* Keys that end: renewed before, by one caller, while the others go on; what a refusal by
 * the server does; and what happens while the source is away.  (The sources themselves:
 * test_s3_creds_sources.c.) */
#include <stdio.h>
#include <time.h>

#include "fakes/aws_world.h"
#include "storage/store/s3_creds.h"

#include "check.h"

#define NOW  1700000000 /* 2023-11-14T22:13:20Z */
#define HOUR 3600
#define URL  "http://169.254.170.2/k"

static struct world w;
static char body[300];

/* From now on the container endpoint gives these keys; expires_s 0: without an end. */
static void serve(const char *id, int64_t expires_s)
{
    char when[64] = "null", text[32];
    struct tm tm;
    time_t t = (time_t)expires_s;
    gmtime_r(&t, &tm);
    strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm);
    if (expires_s)
        snprintf(when, sizeof(when), "\"%s\"", text);
    snprintf(body, sizeof(body),
             "{\"AccessKeyId\":\"%s\",\"SecretAccessKey\":\"CANARY-%s\",\"Token\":\"CANARY\","
             "\"Expiration\":%s}",
             id, id, when);
    world_reply(&w, "GET", URL, 200, body);
}

static struct s3_creds *start(void)
{
    world_init(&w);
    world_set(&w, "AWS_EC2_METADATA_DISABLED", "true");
    world_set(&w, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/k");
    return world_creds(&w, NULL);
}

static void finish(struct s3_creds *creds)
{
    s3_creds_unref(creds);
    world_fini(&w);
}

/* Gets keys at a time and expects id, generation, and how often was fetched in all. */
static void expect(struct s3_creds *creds, int64_t now_s, struct s3_keys *keys, const char *id,
                   unsigned generation, int fetches)
{
    struct ckpt_err err = { 0 };
    enum ckpt_status st = s3_creds_get(creds, now_s, NULL, keys, &err);
    if (st != CKPT_OK)
        fprintf(stderr, "%s\n", err.text);
    CHECK_OK(st);
    CHECK_STR(keys->id, id);
    CHECK_EQ(keys->generation, generation);
    CHECK_EQ(w.count, fetches);
}

static void expect_failure(struct s3_creds *creds, int64_t now_s, enum ckpt_status st,
                           const char *words, int fetches)
{
    struct s3_keys keys = { .id = "untouched" };
    struct ckpt_err err = { 0 };
    CHECK_EQ(s3_creds_get(creds, now_s, NULL, &keys, &err), st);
    CHECK_STR(keys.id, "untouched");
    world_check_text(err.text);
    if (!strstr(err.text, words))
        fprintf(stderr, "%s\n", err.text);
    CHECK(strstr(err.text, words));
    CHECK_EQ(w.count, fetches);
}

static int test_renewal(void)
{
    struct s3_creds *creds = start();
    struct s3_keys keys = { .generation = 0 }, late = keys;
    char text[300];
    serve("A", NOW + HOUR);
    s3_creds_to_text(creds, text, sizeof(text));
    CHECK_STR(text, "none yet");
    expect(creds, NOW, &keys, "A", 1, 1);
    CHECK_EQ(keys.expires_s, NOW + HOUR);
    expect(creds, NOW + HOUR - 601, &keys, "A", 1, 1);
    /* Ten minutes before the end; the source has no new ones yet: once a minute. */
    expect(creds, NOW + HOUR - 600, &keys, "A", 1, 2);
    expect(creds, NOW + HOUR - 541, &keys, "A", 1, 2);
    serve("B", NOW + 2 * HOUR);
    expect(creds, NOW + HOUR - 540, &keys, "B", 2, 3);
    CHECK_STR(keys.secret, "CANARY-B");
    CHECK_EQ(keys.expires_s, NOW + 2 * HOUR);
    expect(creds, NOW + HOUR, &keys, "B", 2, 3);
    expect(creds, NOW + HOUR, &late, "B", 2, 3); /* who did not ask in between */
    s3_creds_to_text(creds, text, sizeof(text));
    CHECK_STR(text, "the container's credential endpoint, until 2023-11-15T00:13:20Z");
    finish(creds);
    return 8;
}

/* Keys that live for a minute are renewed after three quarters of it. */
static int test_short_lived(void)
{
    struct s3_creds *creds = start();
    struct s3_keys keys = { .generation = 0 };
    serve("A", NOW + 60);
    expect(creds, NOW, &keys, "A", 1, 1);
    expect(creds, NOW + 44, &keys, "A", 1, 1);
    serve("B", NOW + 120);
    expect(creds, NOW + 45, &keys, "B", 2, 2);
    finish(creds);
    return 3;
}

static int test_source_away(void)
{
    struct s3_creds *creds = start();
    struct s3_keys keys = { .generation = 0 };
    expect_failure(creds, NOW, CKPT_UNREACHABLE, "nobody is there", 3);
    expect_failure(creds, NOW + 1, CKPT_UNREACHABLE, "nobody is there", 3); /* not asked again */
    serve("A", NOW + HOUR);
    expect(creds, NOW + 2, &keys, "A", 1, 4);
    world_reply(&w, "GET", URL, 500, "");
    /* Away while the keys still hold: nobody notices, and it is asked once a minute. */
    expect(creds, NOW + HOUR - 300, &keys, "A", 1, 7);
    expect(creds, NOW + HOUR - 299, &keys, "A", 1, 7);
    expect(creds, NOW + HOUR - 240, &keys, "A", 1, 10);
    expect(creds, NOW + HOUR - 6, &keys, "A", 1, 13);
    /* Away when they end: every request fails at once, one in two seconds asks. */
    expect_failure(creds, NOW + HOUR + 55, CKPT_UNREACHABLE, "HTTP 500", 16);
    expect_failure(creds, NOW + HOUR + 56, CKPT_UNREACHABLE, "HTTP 500", 16);
    expect_failure(creds, NOW + HOUR + 57, CKPT_UNREACHABLE, "HTTP 500", 19);
    serve("B", NOW + 2 * HOUR);
    expect(creds, NOW + HOUR + 59, &keys, "B", 2, 20);
    finish(creds);
    return 11;
}

/* Who had keys once and finds no source any more: it is away, not unconfigured. */
static int test_source_vanished(void)
{
    struct s3_creds *creds = start();
    struct s3_keys keys = { .generation = 0 };
    serve("A", NOW + HOUR);
    expect(creds, NOW, &keys, "A", 1, 1);
    world_set(&w, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", NULL);
    expect_failure(creds, NOW + HOUR, CKPT_UNREACHABLE, "no AWS credentials found", 1);
    finish(creds);
    return 1;
}

static int test_refused(void)
{
    struct s3_creds *creds = start();
    struct s3_keys keys = { .generation = 0 };
    char text[300];
    serve("A", 0);
    expect(creds, NOW, &keys, "A", 1, 1);
    expect(creds, NOW + 1000 * HOUR, &keys, "A", 1, 1); /* they have no end */
    s3_creds_invalidate(creds, 0);
    s3_creds_invalidate(creds, 2);
    expect(creds, NOW, &keys, "A", 1, 1);
    s3_creds_invalidate(creds, 1);
    s3_creds_to_text(creds, text, sizeof(text));
    CHECK(strstr(text, "refused by the server"));
    serve("B", 0);
    expect(creds, NOW, &keys, "B", 2, 2);
    s3_creds_invalidate(creds, 1); /* a late one, about the keys before */
    expect(creds, NOW, &keys, "B", 2, 2);
    /* The source gives the same ones: an error, and after a pause the server may look again. */
    s3_creds_invalidate(creds, 2);
    expect_failure(creds, NOW, CKPT_DENIED, "they have not changed", 3);
    s3_creds_invalidate(creds, 2);
    expect_failure(creds, NOW + 14, CKPT_DENIED, "they have not changed", 3);
    expect(creds, NOW + 15, &keys, "B", 2, 4);
    s3_creds_invalidate(creds, 2);
    expect_failure(creds, NOW + 16, CKPT_DENIED, "they have not changed", 5);
    serve("C", 0);
    expect(creds, NOW + 31, &keys, "C", 3, 6);
    finish(creds);
    return 10;
}

/* Keys in a file that the server refuses: what asked has failed, what comes next asks the server
 * with them, or with newer ones. */
static int test_refused_fixed(void)
{
    struct s3_creds *creds = start();
    struct s3_keys keys = { .generation = 0 };
    world_credentials(&w, "[default]\naws_access_key_id=A\naws_secret_access_key=CANARY\n");
    expect(creds, NOW, &keys, "A", 1, 0);
    for (int64_t i = 0; i < 3; i++) {
        s3_creds_invalidate(creds, 1);
        expect_failure(creds, NOW + i, CKPT_DENIED, "they have not changed", 0);
        expect(creds, NOW + i, &keys, "A", 1, 0);
    }
    s3_creds_invalidate(creds, 1);
    world_credentials(&w, "[default]\naws_access_key_id=B\naws_secret_access_key=CANARY\n");
    expect(creds, NOW + 3, &keys, "B", 2, 0);
    finish(creds);
    return 4;
}

/* The clock here is ahead, or the source gives old keys: the server has to decide. */
static int test_ended_on_arrival(void)
{
    struct s3_creds *creds = start();
    struct s3_keys keys = { .generation = 0 };
    serve("A", NOW - HOUR);
    expect(creds, NOW, &keys, "A", 1, 1);
    expect(creds, NOW + 1, &keys, "A", 1, 1);
    s3_creds_invalidate(creds, 1);
    expect_failure(creds, NOW + 2, CKPT_DENIED, "they have not changed", 2);
    finish(creds);
    return 3;
}

/* Files are read anew after a refusal: who rotates keys needs no restart. */
static int test_rotated_file(void)
{
    struct s3_creds *creds = start();
    struct s3_keys keys = { .generation = 0 };
    world_credentials(&w, "[default]\naws_access_key_id=A\naws_secret_access_key=CANARY\n");
    expect(creds, NOW, &keys, "A", 1, 0);
    world_credentials(&w, "[default]\naws_access_key_id=B\naws_secret_access_key=CANARY\n");
    expect(creds, NOW, &keys, "A", 1, 0);
    s3_creds_invalidate(creds, 1);
    expect(creds, NOW, &keys, "B", 2, 0);
    finish(creds);
    return 3;
}

/* ---- threads ---- */

struct asker {
    pthread_t thread;
    struct s3_creds *creds;
    int64_t now_s;
    atomic_bool cancel;
    bool may_cancel;
    enum ckpt_status st;
    struct s3_keys keys;
    atomic_bool done;
};

static void *ask_once(void *arg)
{
    struct asker *a = arg;
    const struct s3_limits limits = { 0, a->may_cancel ? &a->cancel : NULL };
    a->st = s3_creds_get(a->creds, a->now_s, &limits, &a->keys, NULL);
    atomic_store(&a->done, true);
    return NULL;
}

static void start_asking(struct asker *a, struct s3_creds *creds, int64_t now_s, bool may_cancel)
{
    memset(a, 0, sizeof(*a));
    a->creds = creds;
    a->now_s = now_s;
    a->may_cancel = may_cancel;
    CHECK_EQ(pthread_create(&a->thread, NULL, ask_once, a), 0);
}

static void wait_for_gate(int waiting)
{
    const struct timespec slice = { .tv_nsec = 1000000 };
    while (atomic_load(&w.waiting) != waiting)
        nanosleep(&slice, NULL);
}

/* While one renews good keys, the others go on; when there are none, they wait for it. */
static int test_one_renews(void)
{
    enum { MANY = 12 };
    static struct asker first, others[MANY];
    struct s3_creds *creds = start();
    struct s3_keys keys = { .generation = 0 };
    serve("A", NOW + HOUR);
    atomic_store(&w.gate, true);
    for (int i = 0; i < MANY; i++)
        start_asking(&others[i], creds, NOW, false);
    wait_for_gate(1);
    for (int i = 0; i < MANY; i++)
        CHECK(!atomic_load(&others[i].done));
    atomic_store(&w.gate, false);
    for (int i = 0; i < MANY; i++) {
        CHECK_EQ(pthread_join(others[i].thread, NULL), 0);
        CHECK_OK(others[i].st);
        CHECK_STR(others[i].keys.id, "A");
    }
    CHECK_EQ(w.count, 1);
    atomic_store(&w.gate, true);
    start_asking(&first, creds, NOW + HOUR - 100, false);
    wait_for_gate(1);
    expect(creds, NOW + HOUR - 100, &keys, "A", 1, 2); /* does not wait */
    serve("B", NOW + 2 * HOUR);
    atomic_store(&w.gate, false);
    CHECK_EQ(pthread_join(first.thread, NULL), 0);
    CHECK_STR(first.keys.id, "B");
    finish(creds);
    return MANY + 2;
}

/* Who is cancelled ends; that is no failure of the others, who go on looking. */
static int test_cancelled(void)
{
    static struct asker first, second, third;
    struct s3_creds *creds = start();
    serve("A", NOW + HOUR);
    atomic_store(&w.gate, true);
    start_asking(&first, creds, NOW, true);
    wait_for_gate(1);
    start_asking(&second, creds, NOW, false);
    start_asking(&third, creds, NOW, true);
    atomic_store(&third.cancel, true);
    CHECK_EQ(pthread_join(third.thread, NULL), 0);
    CHECK_EQ(third.st, CKPT_CANCELLED);
    CHECK(!atomic_load(&first.done) && !atomic_load(&second.done));
    atomic_store(&first.cancel, true);
    CHECK_EQ(pthread_join(first.thread, NULL), 0);
    CHECK_EQ(first.st, CKPT_CANCELLED);
    wait_for_gate(1); /* the second one now */
    atomic_store(&w.gate, false);
    CHECK_EQ(pthread_join(second.thread, NULL), 0);
    CHECK_OK(second.st);
    finish(creds);
    return 3;
}

/* A source that is silent is away, whatever its own patience is called: TIMEOUT would be taken for
 * the deadline of who asks, and nobody would look elsewhere. */
static int test_silent(void)
{
    struct s3_creds *creds = start();
    struct s3_keys keys = { .generation = 0 };
    const struct s3_limits far = { INT64_MAX, NULL };
    world_reply_failure(&w, "GET", URL, CKPT_TIMEOUT);
    CHECK_EQ(s3_creds_get(creds, NOW, &far, &keys, NULL), CKPT_UNREACHABLE);
    CHECK_EQ(w.count, 3);
    expect_failure(creds, NOW + 1, CKPT_UNREACHABLE, "container", 3); /* remembered as that */
    serve("A", NOW + HOUR);
    expect(creds, NOW + 2, &keys, "A", 1, 4);
    finish(creds);
    return 3;
}

static int test_deadline(void)
{
    struct s3_creds *creds = start();
    struct s3_keys keys = { .generation = 0 };
    const struct s3_limits over = { 1, NULL };
    serve("A", NOW + HOUR);
    CHECK_EQ(s3_creds_get(creds, NOW, &over, &keys, NULL), CKPT_TIMEOUT);
    CHECK_EQ(w.count, 0);
    expect(creds, NOW, &keys, "A", 1, 1); /* not a failure to be remembered */
    CHECK_OK(s3_creds_get(creds, NOW, &over, &keys, NULL));
    finish(creds);
    /* The metadata service had no time to answer: that does not make it a machine without. */
    creds = start();
    world_set(&w, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", NULL);
    world_set(&w, "AWS_EC2_METADATA_DISABLED", NULL);
    keys.generation = 0;
    CHECK_EQ(s3_creds_get(creds, NOW, &over, &keys, NULL), CKPT_TIMEOUT);
    finish(creds);
    return 4;
}

static int test_refs(void)
{
    struct s3_creds *creds = start(), *again = s3_creds_ref(creds);
    struct s3_keys keys = { .generation = 0 };
    CHECK(again == creds);
    serve("A", NOW + HOUR);
    s3_creds_unref(creds);
    expect(again, NOW, &keys, "A", 1, 1);
    s3_creds_unref(NULL);
    finish(again);
    CHECK_OK(s3_creds_new(NULL, &creds, NULL));
    s3_creds_unref(creds);
    return 2;
}

int main(void)
{
    int n = test_renewal() + test_short_lived() + test_source_away() + test_source_vanished();
    n += test_refused() + test_refused_fixed() + test_ended_on_arrival() + test_rotated_file() +
         test_one_renews();
    n += test_cancelled() + test_silent() + test_deadline() + test_refs();
    TEST_CASES(n);
    return 0;
}
