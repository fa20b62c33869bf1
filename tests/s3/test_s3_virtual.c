/* Virtual-host style: the bucket stands in the name of the host, which is signed.  Against a
 * server that takes nothing else and checks every signature: bucket.s3.localhost, which libcurl
 * finds on this machine without a name server. */
#include <stdio.h>

#include "s3/fault_kit.h"
#include "storage/store/store_s3.h"
#include "store/contract.h"
#include "store/scratch.h"

#include "check.h"

#define BUCKETS "--bucket", "bucket", "--bucket", "dot.ted", "--domain", "s3.localhost"

static char scratch[200];

static struct store *open_url(const char *url)
{
    struct ckpt_err err = { 0 };
    struct store *s;
    if (store_open(url, NULL, &s, &err) != CKPT_OK) {
        fprintf(stderr, "open %s: %s\n", url, err_text(&err));
        exit(1);
    }
    return s;
}

static enum ckpt_status open_it(const struct contract *c, bool readonly, struct store **ret,
                                struct ckpt_err *err)
{
    struct store_options options = { .create = true, .readonly = readonly };
    return store_open(c->url, &options, ret, err);
}

static const char *port_of(const struct fault_server *f)
{
    return strchr(f->s3, ':') + 1;
}

/* All that a store does, once, for buckets and places that the whole contract has not met. */
static int use(const char *url)
{
    struct store *s = open_url(url);
    struct store_entry page[4];
    struct store_range range = { 2, 3, (char[3]){ 0 } };
    size_t count;
    bool more;
    CHECK_OK(store_put_record(s, "a b/one", "0123456", 7, NULL));
    CHECK_EQ(store_put_record(s, "a b/one", "other", 5, NULL), CKPT_CONFLICT);
    CHECK_OK(store_get(s, "a b/one", &range, 1, NULL));
    CHECK(memcmp(range.base, "234", 3) == 0);
    CHECK_OK(store_list(s, "a b/", false, "", page, 4, &count, &more, NULL));
    CHECK(count == 1 && !more);
    CHECK_STR(page[0].key, "a b/one");
    CHECK_OK(store_remove(s, "a b/one", NULL));
    CHECK_OK(store_list(s, "", false, "", page, 4, &count, &more, NULL));
    CHECK_EQ(count, 0);
    store_close(s);
    return 1;
}

static int test_plain(void)
{
    static const char *const args[] = { BUCKETS, "--virtual", NULL };
    struct fault_server server;
    char url[200];
    fault_server_start(&server, args);
    snprintf(url, sizeof(url), "s3://bucket?endpoint=http://s3.localhost:%s&style=virtual",
             port_of(&server));
    struct contract c = { .name = "virtual", .open = open_it, .url = url, .processes = true };
    int n = contract_run(&c);
    snprintf(url, sizeof(url), "s3://dot.ted?endpoint=http://s3.localhost:%s&style=virtual",
             port_of(&server));
    n += use(url);
    fault_server_stop(&server);
    return n;
}

/* What that server says to the other style, and to a host that is not below its name. */
static int test_wrong(void)
{
    static const struct {
        const char *host, *style;
    } cases[] = { { "s3.localhost", "path" }, { "localhost", "virtual" } };
    static const char *const args[] = { BUCKETS, "--virtual", NULL };
    struct fault_server server;
    fault_server_start(&server, args);
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        char url[200];
        struct ckpt_err err = { 0 };
        snprintf(url, sizeof(url), "s3://bucket?endpoint=http://%s:%s&style=%s", cases[i].host,
                 port_of(&server), cases[i].style);
        struct store *s = open_url(url);
        CHECK_EQ(store_put_record(s, "a", "x", 1, &err), CKPT_IO);
        CHECK(strstr(err.text, "no virtual host"));
        store_close(s);
    }
    fault_server_stop(&server);
    return ARRAY_COUNT(cases);
}

/* A certificate for *.s3.localhost is good for bucket.s3.localhost and not for
 * dot.ted.s3.localhost: that bucket is reached by path. */
static int test_tls(void)
{
    char certificate[300], key[300], command[500], url[600];
    struct ckpt_err err = { 0 };
    struct store *s;
    snprintf(command, sizeof(command), "%s/make_ca %s", S3_TESTS, scratch);
    CHECK_EQ(system(command), 0);
    snprintf(certificate, sizeof(certificate), "%s/server.pem", scratch);
    snprintf(key, sizeof(key), "%s/server.key", scratch);
    const char *args[] = { BUCKETS, "--tls", certificate, key, NULL };
    static const char *const styles[] = { "bucket?style=virtual", "dot.ted?style=path",
                                          "dot.ted?connections=2" };
    struct fault_server server;
    fault_server_start(&server, args);
    for (size_t i = 0; i < ARRAY_COUNT(styles); i++) {
        snprintf(url, sizeof(url), "s3://%s&endpoint=https://s3.localhost:%s&ca=%s/ca.pem",
                 styles[i], port_of(&server), scratch);
        use(url);
    }
    snprintf(url, sizeof(url), "s3://dot.ted?style=virtual&endpoint=https://s3.localhost:%s",
             port_of(&server));
    CHECK_EQ(store_open(url, NULL, &s, &err), CKPT_INVALID);
    CHECK(strstr(err.text, "style=path"));
    fault_server_stop(&server);
    return ARRAY_COUNT(styles) + 1;
}

int main(void)
{
    setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE", 1);
    setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", 1);
    unsetenv("AWS_SESSION_TOKEN");
    scratch_make(scratch);
    int n = test_plain() + test_wrong() + test_tls();
    scratch_remove(scratch);
    TEST_CASES(n);
    return 0;
}
