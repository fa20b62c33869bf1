/* The fault matrix of the S3 store: whatever the server does, an operation completes with
 * the right bytes or fails with words that a user can act on; nothing torn is visible. */
#include <pthread.h>
#include <stdio.h>
#include <time.h>

#include "s3/fault_kit.h"
#include "storage/store/store.h"

#include "check.h"

#define PACK ((size_t)10 << 20) /* three parts of a get */

static struct fault_server server;
static char url[200];
static char *pack, *got;

static struct store *open_url(const char *text)
{
    struct store_options options = { .create = true };
    struct ckpt_err err = { 0 };
    struct store *s;
    if (store_open(text, &options, &s, &err) != CKPT_OK) {
        fprintf(stderr, "open %s: %s\n", text, err_text(&err));
        exit(1);
    }
    return s;
}

static int64_t in_ms(int64_t ms)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec + ms * 1000000;
}

static enum ckpt_status put(struct store *s, const char *key, size_t len, unsigned flags,
                            struct ckpt_err *err)
{
    struct iovec iov[2] = { { pack, len / 3 }, { pack + len / 3, len - len / 3 } };
    return store_put(s, key, iov, 2, flags, err);
}

/* Ranges over all of the object, two of them side by side and one far behind. */
static enum ckpt_status get(struct store *s, const char *key, struct ckpt_err *err)
{
    CLEANUP_FREE char *to = malloc(PACK); /* threads ask at the same time */
    CHECK(to);
    struct store_range ranges[3] = { { 4096, 9 << 20, to },
                                     { 4096 + (9 << 20), 1000, to + (9 << 20) },
                                     { PACK - 500000, 500000, to + (9 << 20) + 2000 } };
    memset(to, 0x55, PACK);
    enum ckpt_status st = store_get(s, key, ranges, 3, err);
    if (st == CKPT_OK) {
        CHECK(memcmp(to, pack + 4096, (9 << 20) + 1000) == 0);
        CHECK(memcmp(to + (9 << 20) + 2000, pack + PACK - 500000, 500000) == 0);
    }
    return st;
}

static char new_pack[32], new_record[32]; /* keys of the case */

static enum ckpt_status run(struct store *s, char op, struct ckpt_err *err)
{
    struct store_stat stat;
    struct store_entry page[8];
    size_t count = 0;
    bool more;
    int64_t now;
    enum ckpt_status st;
    switch (op) {
    case 'p':
        return put(s, new_pack, PACK, 0, err);
    case 'r':
        return put(s, new_record, 3000, STORE_IF_ABSENT, err);
    case 'R': /* there already, with these bytes */
        return put(s, "old/record", 3000, STORE_IF_ABSENT, err);
    case 'g':
        return get(s, "old/pack", err);
    case 's':
        st = store_stat(s, "old/pack", &stat, err);
        CHECK(st != CKPT_OK || stat.bytes == PACK);
        return st;
    case 'l':
        st = store_list(s, "old/", false, "", page, 8, &count, &more, err);
        CHECK(st != CKPT_OK || (count == 2 && !more && strcmp(page[1].key, "old/record") == 0));
        return st;
    case 'd':
        return store_remove(s, "old/away", err);
    default:
        return store_now(s, &now, err);
    }
}

/* Whole and right, or not there at all. */
static void check_whole(struct store *s, const char *key, size_t len, bool must)
{
    void *bytes;
    size_t n;
    struct ckpt_err err = { 0 };
    enum ckpt_status st = store_get_all(s, key, PACK, &bytes, &n, &err);
    if (st == CKPT_NOT_FOUND && !must)
        return;
    if (st != CKPT_OK) {
        fprintf(stderr, "%s: %s\n", key, err_text(&err));
        exit(1);
    }
    CHECK_EQ(n, len);
    CHECK(memcmp(bytes, pack, len) == 0);
    free(bytes);
}

struct fault_case {
    const char *ops, *rules;
    enum ckpt_status st;
    const char *words; /* in the error's text */
};

static const struct fault_case cases[] = {
    { "prRgsldn", "[{'fault':'slowdown'}]", CKPT_OK, NULL },
    { "prRgsldn", "[{'fault':'internal','count':2}]", CKPT_OK, NULL },
    { "prRgsldn", "[{'fault':'unavailable'}]", CKPT_OK, NULL },
    { "prRgsldn", "[{'fault':'timeout'}]", CKPT_OK, NULL },
    { "prRgsldn", "[{'fault':'reset'}]", CKPT_OK, NULL },
    { "prRgsldn", "[{'fault':'garbage'}]", CKPT_OK, NULL },
    { "prRgsldn", "[{'fault':'lost'}]", CKPT_OK, NULL },
    { "prRgsldn", "[{'fault':'ok_error'}]", CKPT_OK, NULL },
    { "prRgsldn", "[{'fault':'lost'},{'fault':'slowdown'},{'fault':'reset'}]", CKPT_OK, NULL },
    { "prR", "[{'fault':'conflict','method':'PUT'}]", CKPT_OK, NULL },
    { "pr", "[{'fault':'reset_upload','method':'PUT'}]", CKPT_OK, NULL },
    { "pr", "[{'fault':'slowdown','method':'PUT','early':1}]", CKPT_OK, NULL },
    { "rR", "[{'fault':'lost','method':'PUT'},{'fault':'lost','method':'GET'}]", CKPT_OK, NULL },
    { "gslR", "[{'fault':'truncate'}]", CKPT_OK, NULL },
    { "gslR", "[{'fault':'reset_body'}]", CKPT_OK, NULL },
    { "g", "[{'fault':'short','count':2}]", CKPT_OK, NULL },
    { "l", "[{'fault':'short','count':2}]", CKPT_OK, NULL },
    { "g", "[{'fault':'long'}]", CKPT_OK, NULL },
    { "gs", "[{'fault':'ignore_range','count':-1}]", CKPT_OK, NULL },
    { "g", "[{'fault':'wrong_range','count':2}]", CKPT_OK, NULL },
    { "gl", "[{'fault':'no_length'}]", CKPT_OK, NULL },
    { "R", "[{'fault':'no_length','method':'GET'}]", CKPT_OK, NULL },
    { "prRgsldn", "[{'fault':'page'}]", CKPT_OK, NULL },
    { "gsldn", "[{'fault':'page','status':404}]", CKPT_OK, NULL },
    { "R", "[{'fault':'page','method':'GET'}]", CKPT_OK, NULL },
    { "s", "[{'fault':'ignore_range'},{'fault':'page','method':'HEAD'}]", CKPT_OK, NULL },
    { "prgsldn", "[{'fault':'page','count':-1}]", CKPT_TIMEOUT, "want a login" },
    { "gsldn", "[{'fault':'page','status':404,'count':-1}]", CKPT_TIMEOUT, "want a login" },
    { "prRgsldn", "[{'fault':'denied'}]", CKPT_DENIED, "access denied" },
    { "prRgsldn", "[{'fault':'denied','early':1}]", CKPT_DENIED, "access denied" },
    { "prRgsldn", "[{'fault':'no_bucket'}]", CKPT_UNREACHABLE, "bucket does not exist" },
    { "prR", "[{'fault':'quota','method':'PUT'}]", CKPT_FULL, "quota" },
    { "prR", "[{'fault':'full','method':'PUT'}]", CKPT_FULL, "room" },
    { "r", "[{'fault':'precondition'}]", CKPT_OK, NULL }, /* 412, nothing there: again */
    { "rR", "[{'fault':'precondition','method':'PUT','count':3}]", CKPT_OK, NULL },
    { "prRgsldn", "[{'fault':'expired','count':-1}]", CKPT_DENIED, "" },
    { "pgl", "[{'fault':'slowdown','count':-1}]", CKPT_TIMEOUT, "SlowDown" },
    { "rsd", "[{'fault':'reset','count':-1}]", CKPT_TIMEOUT, "last seen" },
    { "pRn", "[{'fault':'stall','count':-1}]", CKPT_TIMEOUT, "deadline" },
    { "gl", "[{'fault':'stall_body','count':-1}]", CKPT_TIMEOUT, "deadline" },
    { "g", "[{'fault':'wrong_range','count':-1}]", CKPT_TIMEOUT, "no answer to the request" },
};

/* `n`: number of the case; its objects are its own.  cold: the faults are there before anything
 * was put, and so meet the first requests of finding out what the server can do. */
static void run_case(const struct fault_case *c, char op, bool cold, int n)
{
    char rules[200];
    struct ckpt_err err = { 0 };
    struct store *s = open_url(url); /* nothing is known of the server yet */
    long long before = fault_server_count(&server, "faults");
    snprintf(new_pack, sizeof(new_pack), "new/%d/pack", n);
    snprintf(new_record, sizeof(new_record), "new/%d/record", n);
    if (!cold)
        CHECK_OK(put(s, "warm", 1, 0, NULL));
    snprintf(rules, sizeof(rules), "%s", c->rules);
    for (char *quote = rules; (quote = strchr(quote, '\''));)
        *quote = '"';
    fault_server_tell(&server, "/faults", rules);
    store_set_limits(s, in_ms(c->st == CKPT_TIMEOUT ? 700 : 60000), NULL);
    enum ckpt_status st = run(s, op, &err);
    store_set_limits(s, 0, NULL);
    if (st != c->st || (st != CKPT_OK && !strstr(err_text(&err), c->words)) ||
        fault_server_count(&server, "faults") == before) {
        fprintf(stderr, "%c%s %s: %s: %s\n", op, cold ? ", cold," : "", c->rules, status_name(st),
                err_text(&err));
        exit(1);
    }
    fault_server_tell(&server, "/faults", "[]");
    store_close(s);
    s = open_url(url); /* one that was not told that its keys are no good */
    check_whole(s, "old/record", 3000, true);
    check_whole(s, new_pack, PACK, op == 'p' && st == CKPT_OK);
    check_whole(s, new_record, 3000, op == 'r' && st == CKPT_OK);
    store_close(s);
}

static int test_matrix(void)
{
    /* On ordinary days every second operation of a row is enough. */
    const size_t often = getenv("CKPT_DEEP") ? 1 : TEST_TENTH > 1 ? 4 : 2;
    int n = 0;
    struct store *s = open_url(url);
    CHECK_OK(put(s, "old/pack", PACK, 0, NULL));
    CHECK_OK(put(s, "old/record", 3000, 0, NULL));
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        for (const char *op = cases[i].ops; *op; op++) {
            if (((size_t)(op - cases[i].ops) + i) % min_u64(often, strlen(cases[i].ops)))
                continue;
            store_close(s);
            run_case(&cases[i], *op, false, ++n);
            if (strchr("prR", *op)) /* readers find nothing out */
                run_case(&cases[i], *op, true, ++n);
            s = open_url(url);
        }
    }
    check_whole(s, "old/pack", PACK, true);
    store_close(s);
    return n;
}

/* Accepted, the answer lost, and the retry meets what the first try wrote: one commit. */
static int test_lost_commit(void)
{
    struct store *s = open_url(url);
    fault_server_tell(&server, "/reset", "null");
    CHECK_OK(put(s, "warm", 1, 0, NULL));
    fault_server_tell(&server, "/faults",
                      "[{\"fault\":\"lost\",\"method\":\"PUT\",\"key\":\"c/1\"}]");
    CHECK_OK(store_put_record(s, "c/1", "commit", 6, NULL));
    CHECK_EQ(store_put_record(s, "c/1", "other!", 6, NULL), CKPT_CONFLICT);
    /* The same, and between the two another one wins the key. */
    struct store *other;
    CHECK_OK(store_dup(s, &other, NULL));
    CHECK_OK(store_put_record(other, "c/2", "theirs", 6, NULL));
    CHECK_EQ(store_put_record(s, "c/2", "ours!!", 6, NULL), CKPT_CONFLICT);
    store_close(other);
    store_close(s);
    return 3;
}

/* A page with 200 in the place of a removal has removed nothing, and neither has one with 404. */
static int test_removed(void)
{
    static const char *const rules[] = {
        "[{\"fault\":\"page\",\"method\":\"DELETE\"}]",
        "[{\"fault\":\"page\",\"method\":\"DELETE\",\"status\":404}]",
    };
    struct store *s = open_url(url);
    for (size_t i = 0; i < ARRAY_COUNT(rules); i++) {
        fault_server_tell(&server, "/reset", "null");
        CHECK_OK(put(s, "away", 10, 0, NULL));
        fault_server_tell(&server, "/faults", rules[i]);
        CHECK_OK(store_remove(s, "away", NULL));
        CHECK_EQ(fault_server_count(&server, "faults"), 1);
        CHECK_EQ(fault_server_objects(&server), 0);
    }
    store_close(s);
    return ARRAY_COUNT(rules);
}

/* What nobody asked for need not be read to its end. */
static int test_endless(void)
{
    struct store *s = open_url(url);
    void *bytes;
    size_t n;
    fault_server_tell(&server, "/reset", "null");
    CHECK_OK(put(s, "old/pack", PACK, 0, NULL));
    fault_server_tell(&server, "/faults", "[{\"fault\":\"endless\",\"count\":-1}]");
    CHECK_EQ(store_get_all(s, "none", PACK, &bytes, &n, NULL), CKPT_NOT_FOUND);
    CHECK_EQ(fault_server_count(&server, "faults"), 1);
    fault_server_tell(&server, "/faults", "[{\"fault\":\"endless\"}]");
    CHECK_OK(get(s, "old/pack", NULL));
    CHECK_EQ(fault_server_count(&server, "faults"), 2);
    fault_server_tell(&server, "/faults", "[]");
    store_close(s);
    return 2;
}

static void *cancel_main(void *arg)
{
    nanosleep(&(struct timespec){ .tv_nsec = 200000000 }, NULL);
    atomic_store((atomic_bool *)arg, true);
    return NULL;
}

static int test_cancel(void)
{
    static const char ops[] = "prgsldn";
    for (const char *op = ops; *op; op++) {
        struct store *s = open_url(url);
        struct ckpt_err err = { 0 };
        atomic_bool cancel = false;
        pthread_t thread;
        fault_server_tell(&server, "/reset", "null");
        CHECK_OK(put(s, "old/pack", PACK, 0, NULL));
        fault_server_tell(&server, "/faults", "[{\"fault\":\"stall\",\"count\":-1}]");
        store_set_limits(s, 0, &cancel);
        CHECK_EQ(pthread_create(&thread, NULL, cancel_main, &cancel), 0);
        CHECK_EQ(run(s, *op, &err), CKPT_CANCELLED);
        pthread_join(thread, NULL);
        fault_server_tell(&server, "/faults", "[]");
        store_close(s);
    }
    return (int)sizeof(ops) - 1;
}

struct asker {
    struct store *s;
    char op;
    int64_t until_ns;
    int calls;
};

static void *ask_main(void *arg)
{
    struct asker *a = arg;
    while (in_ms(0) < a->until_ns) {
        store_set_limits(a->s, in_ms(50), NULL); /* and then the next one, without a pause */
        CHECK(run(a->s, a->op, NULL) != CKPT_OK);
        a->calls++;
    }
    return NULL;
}

/* A total outage: many ask all the time, and the server hears little of it. */
static int outage(const char *rules)
{
    enum { ASKERS = 8, SECONDS = 2 };
    struct asker askers[ASKERS];
    pthread_t threads[ASKERS];
    struct store *s = open_url(url);
    fault_server_tell(&server, "/reset", "null");
    CHECK_OK(put(s, "old/pack", PACK, 0, NULL));
    fault_server_tell(&server, "/faults", rules);
    int64_t start = in_ms(0);
    for (int i = 0; i < ASKERS; i++) {
        askers[i] = (struct asker){ .op = "prgsldng"[i], .until_ns = in_ms(SECONDS * 1000) };
        CHECK_OK(store_dup(s, &askers[i].s, NULL));
        CHECK_EQ(pthread_create(&threads[i], NULL, ask_main, &askers[i]), 0);
    }
    for (int i = 0; i < ASKERS; i++) {
        pthread_join(threads[i], NULL);
        store_close(askers[i].s);
    }
    long long hits = fault_server_count(&server, "faults");
    long long allowed = 50 + (in_ms(0) - start) / 1000000000 + 1 + 3 * ASKERS;
    printf("outage: %lld requests, %lld allowed\n", hits, allowed);
    CHECK(hits > ASKERS && hits <= allowed);
    fault_server_tell(&server, "/faults", "[]");
    store_set_limits(s, in_ms(60000), NULL);
    CHECK_OK(get(s, "old/pack", NULL)); /* and back at once when it is over */
    store_close(s);
    return 2;
}

/* Without a deadline it ends all the same, and says why. */
static int test_patience(void)
{
    struct ckpt_err err = { 0 };
    if (!getenv("CKPT_DEEP"))
        return 0; /* takes S3_PATIENCE_S */
    struct store *s = open_url(url);
    fault_server_tell(&server, "/faults", "[{\"fault\":\"slowdown\",\"count\":-1}]");
    CHECK_EQ(run(s, 'r', &err), CKPT_UNREACHABLE);
    CHECK(strstr(err.text, "SlowDown"));
    fault_server_tell(&server, "/faults", "[]");
    store_close(s);
    return 1;
}

/* A GET that is late beyond all others gets a second one, and that one's bytes count. */
static int test_hedge(void)
{
    struct store *s = open_url(url);
    fault_server_tell(&server, "/reset", "null");
    CHECK_OK(put(s, "old/pack", PACK, 0, NULL));
    for (int i = 0; i < 12; i++)
        CHECK_OK(get(s, "old/pack", NULL)); /* 36 GETs: what is usual, and credit */
    fault_server_tell(&server, "/faults", "[{\"fault\":\"stall_body\",\"method\":\"GET\"}]");
    store_set_limits(s, in_ms(20000), NULL); /* alone it would take S3_STALL_S */
    CHECK_OK(get(s, "old/pack", NULL));
    CHECK_EQ(fault_server_count(&server, "faults"), 1);
    fault_server_tell(&server, "/faults", "[]");
    store_close(s);
    return 1;
}

struct replacer {
    struct store *s;
    atomic_bool stop;
};

static void *replace_main(void *arg)
{
    struct replacer *r = arg;
    char *bytes = malloc(PACK);
    CHECK(bytes);
    for (int i = 0; !atomic_load(&r->stop); i++) {
        struct iovec iov = { bytes, PACK };
        memset(bytes, 'a' + i % 26, PACK);
        CHECK_OK(store_put(r->s, "live", &iov, 1, 0, NULL));
    }
    free(bytes);
    return NULL;
}

/* Parts of one get, one after the other, while the object is replaced all the time. */
static int test_one_version(void)
{
    enum { READS = 4 };
    char serial[220];
    struct replacer r = { 0 };
    pthread_t thread;
    int read = 0;
    snprintf(serial, sizeof(serial), "%s&connections=1", url);
    struct store *s = open_url(serial);
    struct iovec iov = { got, PACK };
    memset(got, 'x', PACK);
    CHECK_OK(store_put(s, "live", &iov, 1, 0, NULL));
    r.s = open_url(url);
    CHECK_EQ(pthread_create(&thread, NULL, replace_main, &r), 0);
    for (int i = 0; i < READS; i++) {
        struct store_range whole = { 0, PACK, got };
        /* The second part is held up until the object is another one. */
        fault_server_tell(
            &server, "/faults",
            "[{\"fault\":\"stall_body\",\"method\":\"GET\",\"skip\":1,\"seconds\":0.5}]");
        enum ckpt_status st = store_get(s, "live", &whole, 1, NULL);
        CHECK(st == CKPT_OK || st == CKPT_IO); /* IO: replaced faster than it can be read */
        read += st == CKPT_OK;
        CHECK(st != CKPT_OK || memcmp(got, got + 1, PACK - 1) == 0);
    }
    fault_server_tell(&server, "/faults", "[]");
    atomic_store(&r.stop, true);
    pthread_join(thread, NULL);
    store_close(r.s);
    store_close(s);
    printf("one version: %d of %d gets\n", read, READS);
    return READS;
}

/* Ten percent of everything goes wrong, in every way. */
static int test_random_faults(void)
{
    static const char *const faults[] = { "slowdown", "internal",     "reset",      "lost",
                                          "truncate", "reset_upload", "reset_body", "garbage",
                                          "ok_error", "conflict",     "short",      "timeout" };
    const int rounds = getenv("CKPT_DEEP") ? 400 : 20;
    char rules[2000] = "[", key[32];
    size_t at = 1;
    for (size_t i = 0; i < ARRAY_COUNT(faults); i++)
        at += (size_t)snprintf(rules + at, sizeof(rules) - at,
                               "%s{\"fault\":\"%s\",\"count\":-1,\"probability\":%s%s}",
                               i ? "," : "", faults[i], "0.009",
                               strcmp(faults[i], "conflict") == 0 ? ",\"method\":\"PUT\"" : "");
    snprintf(rules + at, sizeof(rules) - at, "]");
    struct store *s = open_url(url);
    fault_server_tell(&server, "/reset", "null");
    CHECK_OK(put(s, "old/pack", PACK, 0, NULL));
    CHECK_OK(put(s, "old/record", 3000, 0, NULL));
    fault_server_tell(&server, "/faults", rules);
    for (int i = 0; i < rounds; i++) {
        snprintf(key, sizeof(key), "new/%d", i);
        CHECK_OK(put(s, key, 100000 + (size_t)i, i % 2 ? STORE_IF_ABSENT : 0, NULL));
        CHECK_OK(put(s, key, 100000 + (size_t)i, STORE_IF_ABSENT, NULL));
        CHECK_OK(get(s, "old/pack", NULL));
        CHECK_OK(run(s, "sln"[i % 3], NULL));
    }
    printf("random: %lld faults in %lld requests\n", fault_server_count(&server, "faults"),
           fault_server_count(&server, "requests"));
    CHECK(fault_server_count(&server, "faults") > 10);
    fault_server_tell(&server, "/faults", "[]");
    for (int i = 0; i < rounds; i++) {
        snprintf(key, sizeof(key), "new/%d", i);
        check_whole(s, key, 100000 + (size_t)i, true);
    }
    store_close(s);
    return rounds * 5;
}

int main(void)
{
    unsigned long long seed = test_seed(20261121);
    pack = malloc(PACK);
    got = malloc(PACK);
    CHECK(pack && got);
    for (size_t i = 0; i < PACK; i += 8) {
        unsigned long long z = test_rand(&seed);
        memcpy(pack + i, &z, 8);
    }
    fault_server_start(&server, NULL);
    setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE", 1);
    setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", 1);
    unsetenv("AWS_SESSION_TOKEN");
    snprintf(url, sizeof(url), "s3://bucket/pre/fix?endpoint=http://%s&region=us-east-1",
             server.s3);
    int n = test_matrix() + test_lost_commit() + test_removed() + test_endless() + test_cancel() +
            outage("[{\"fault\":\"slowdown\",\"count\":-1}]") +
            outage("[{\"fault\":\"reset\",\"count\":-1}]") + test_hedge() + test_patience() +
            test_one_version() + test_random_faults();
    fault_server_stop(&server);
    free(pack);
    free(got);
    TEST_CASES(n);
    return 0;
}
