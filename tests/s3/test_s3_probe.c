/* What a server can do is found out by trying, and that meets trouble, too: whatever goes wrong at
 * whichever of its requests, a put is done or fails with what is true of the caller's object, and
 * what was found out is right. */
#include <stdio.h>

#include "s3/fault_kit.h"
#include "storage/store/store.h"

#include "check.h"

#define PLACE "s3://bucket/x?endpoint=http://"

static struct fault_server server;

static struct store *open_cold(void)
{
    char url[200];
    struct store *s;
    snprintf(url, sizeof(url), PLACE "%s", server.s3);
    CHECK_OK(store_open(url, NULL, &s, NULL));
    return s;
}

static void set_rules(const char *rules)
{
    char text[300];
    snprintf(text, sizeof(text), "%s", rules);
    for (char *quote = text; (quote = strchr(quote, '\''));)
        *quote = '"';
    fault_server_tell(&server, "/faults", text);
}

static bool is_there(struct store *s, const char *key)
{
    void *bytes;
    size_t len;
    enum ckpt_status st = store_get_all(s, key, 6, &bytes, &len, NULL);
    CHECK(st == CKPT_OK || st == CKPT_NOT_FOUND);
    if (st != CKPT_OK)
        return false;
    CHECK(len == 6 && memcmp(bytes, "commit", 6) == 0);
    free(bytes);
    return true;
}

/* A first put, the n-th of its requests that match `which` hit.  False: there are not so many. */
static bool put_hit(const char *fault, const char *which, int n)
{
    static int number;
    char rules[200], key[64], text[1024];
    struct ckpt_err err = { 0 };
    struct store *s = open_cold();
    long long before = fault_server_count(&server, "faults");
    snprintf(key, sizeof(key), "c/%d", number++);
    snprintf(rules, sizeof(rules), "[{'fault':'%s',%s,'skip':%d}]", fault, which, n);
    set_rules(rules);
    enum ckpt_status st = store_put_record(s, key, "commit", 6, &err);
    bool hit = fault_server_count(&server, "faults") > before;
    set_rules("[]");
    store_to_text(s, text, sizeof(text));
    bool right = strstr(text, "checked by SHA-256)") && is_there(s, key);
    /* Failed: nothing is known, nothing is there, and the next one finds out. */
    bool failed = st == CKPT_UNREACHABLE && !strstr(text, "checked") && !is_there(s, key);
    if (st == CKPT_OK ? !right : !failed) {
        fprintf(stderr, "%s: %s: %s\n%s\n", rules, status_name(st), err_text(&err), text);
        exit(1);
    }
    CHECK_OK(store_put_record(s, key, "commit", 6, NULL));
    CHECK_EQ(store_put_record(s, key, "other!", 6, NULL), CKPT_CONFLICT);
    store_close(s);
    return hit;
}

static int test_each_request(void)
{
    static const struct {
        const char *fault, *which;
    } faults[] = {
        { "lost", "'method':'PUT'" },
        { "lost", "'method':'GET'" },
        { "precondition", "'method':'PUT'" },
        { "precondition", "'method':'GET'" },
        { "precondition", "'method':'DELETE'" },
        { "page", "'method':'PUT'" },
        { "page", "'method':'GET'" },
        { "page", "'method':'DELETE'" },
        { "no_key", "'method':'PUT','key':'.*probe.*'" },
        { "timeout", "'method':'PUT'" },
        { "internal", "'key':'.*'" },
    };
    int cases = 0;
    for (size_t i = 0; i < ARRAY_COUNT(faults); i++) {
        int n = 0;
        while (put_hit(faults[i].fault, faults[i].which, n))
            n++;
        CHECK(n >= 4);
        cases += n;
    }
    return cases;
}

/* A server that has no time (and does not even look at the body) says nothing about digests: it
 * is asked again. */
static int test_busy(void)
{
    static const char *const rules[] = {
        "[{'fault':'slowdown','method':'PUT','key':'.*/w','count':3,'early':1}]",
        "[{'fault':'error','status':429,'code':'X','method':'PUT','key':'.*/w','count':3,'early':1}]",
        "[{'fault':'error','status':408,'code':'X','method':'PUT','key':'.*/w','count':3,'early':1}]",
        "[{'fault':'timeout','method':'PUT','key':'.*/w','count':3,'early':1}]",
        "[{'fault':'reset','method':'PUT','key':'.*/w','count':3,'early':1}]",
        "[{'fault':'internal','method':'PUT','key':'.*/w','count':3,'early':1}]",
    };
    for (size_t i = 0; i < ARRAY_COUNT(rules); i++) {
        char text[1024];
        struct store *s = open_cold();
        long long before = fault_server_count(&server, "faults");
        set_rules(rules[i]);
        CHECK_OK(store_put_record(s, "busy", "commit", 6, NULL));
        long long hits = fault_server_count(&server, "faults") - before;
        set_rules("[]");
        store_to_text(s, text, sizeof(text));
        if (hits != 3 || !strstr(text, "checked by SHA-256)")) {
            fprintf(stderr, "%s: %s\n", rules[i], text);
            exit(1);
        }
        store_close(s);
    }
    return ARRAY_COUNT(rules);
}

int main(void)
{
    setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE", 1);
    setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", 1);
    unsetenv("AWS_SESSION_TOKEN");
    fault_server_start(&server, NULL);
    int n = test_each_request() + test_busy();
    fault_server_stop(&server);
    TEST_CASES(n);
    return 0;
}
