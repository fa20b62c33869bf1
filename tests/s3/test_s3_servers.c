/* Servers that differ, and the ways to them: what the probe finds out, TLS, names, regions,
 * clocks, keys that end; and that no secret shows up anywhere. */
#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/socket.h>
#include <time.h>

#include "s3/fault_kit.h"
#include "storage/store/store_s3.h"
#include "store/scratch.h"

#include "check.h"

#define EXAMPLE_ID     "AKIAIOSFODNN7EXAMPLE"
#define EXAMPLE_SECRET "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
#define EXAMPLE_KEYS   "{'" EXAMPLE_ID "':{'secret':'" EXAMPLE_SECRET "','token':''}}"
#define CANARY_ID      "AKIACANARYCANARY0001"
#define CANARY_SECRET  "canarySecretcanarySecretcanarySecret+/ab"
#define CANARY_TOKEN   "canaryTokencanaryTokencanaryToken//=="

static struct fault_server server;
static char scratch[200];

static struct store *open_url(const char *url)
{
    struct store_options options = { .create = true };
    struct ckpt_err err = { 0 };
    struct store *s;
    if (store_open(url, &options, &s, &err) != CKPT_OK) {
        fprintf(stderr, "open %s: %s\n", url, err_text(&err));
        exit(1);
    }
    return s;
}

static struct store *open_server(const char *options)
{
    char url[300];
    snprintf(url, sizeof(url), "s3://bucket/x?endpoint=http://%s&%s", server.s3, options);
    return open_url(url);
}

static void tell(const char *path, const char *json)
{
    char text[400];
    snprintf(text, sizeof(text), "%s", json);
    for (char *quote = text; (quote = strchr(quote, '\''));)
        *quote = '"';
    fault_server_tell(&server, path, text);
}

static int64_t in_ms(int64_t ms)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec + ms * 1000000;
}

/* A put, and what the text of the store says then. */
static int test_traits(void)
{
    static const struct {
        const char *behaviour, *options, *says;
    } cases[] = {
        { "{}", "", "checked by SHA-256)" },
        { "{}", "payload=unsigned", "checked by CRC32C)" },
        { "{'checks':['md5']}", "payload=unsigned", "checked by MD5)" },
        { "{'checks':[]}", "payload=unsigned", "checked not at all)" },
        { "{'conditional_put':'ignored'}", "", "no conditional writes" },
        { "{'conditional_put':'refused'}", "", "no conditional writes" },
        { "{'ordered_list':false}", "", "unordered lists" },
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        char text[1024];
        tell("/reset", "null");
        tell("/behaviour", cases[i].behaviour);
        struct store *s = open_server(cases[i].options);
        CHECK_OK(store_put_record(s, "c/a", "one", 3, NULL));
        CHECK_OK(store_put_record(s, "c/a", "one", 3, NULL));
        CHECK_EQ(store_put_record(s, "c/a", "two", 3, NULL), CKPT_CONFLICT);
        store_to_text(s, text, sizeof(text));
        if (!strstr(text, cases[i].says)) {
            fprintf(stderr, "%s: %s\n", cases[i].behaviour, text);
            exit(1);
        }
        /* The probe leaves nothing behind, and nobody sees it. */
        struct store_entry page[8];
        size_t count;
        bool more;
        CHECK_OK(store_list(s, "", true, "", page, 8, &count, &more, NULL));
        CHECK(count == 1 && !more);
        CHECK_STR(page[0].key, "c/");
        CHECK_EQ(fault_server_objects(&server), 1);
        store_close(s);
        tell("/behaviour", "{'checks':['md5','crc32c','crc32','sha1','sha256'],"
                           "'conditional_put':true,'ordered_list':true}");
    }
    return ARRAY_COUNT(cases);
}

/* A server that does not give at once what was put is refused; its neighbours are not. */
static int test_not_read_after_write(void)
{
    struct ckpt_err err = { 0 };
    tell("/reset", "null");
    tell("/behaviour", "{'read_after_write':false}");
    struct store *s = open_server("");
    CHECK_EQ(store_put_record(s, "a", "one", 3, &err), CKPT_UNSUPPORTED);
    CHECK(strstr(err.text, "not read back"));
    tell("/behaviour", "{'read_after_write':true}");
    CHECK_OK(store_put_record(s, "a", "one", 3, NULL)); /* asked again, not remembered */
    store_close(s);
    return 2;
}

/* One probe for all handles of a place, and none for readers. */
static int test_probe_once(void)
{
    struct store *s[8], *reader;
    struct store_options options = { .readonly = true };
    char url[200];
    tell("/reset", "null");
    snprintf(url, sizeof(url), "s3://bucket/x?endpoint=http://%s", server.s3);
    CHECK_OK(store_open(url, &options, &reader, NULL));
    struct store_stat stat;
    CHECK_EQ(store_stat(reader, "a", &stat, NULL), CKPT_NOT_FOUND);
    CHECK_EQ(fault_server_count(&server, "requests"), 1);
    for (size_t i = 0; i < ARRAY_COUNT(s); i++)
        s[i] = open_url(url);
    CHECK_EQ(fault_server_count(&server, "requests"), 1); /* opening asks nothing */
    CHECK_OK(store_put_record(s[0], "a", "one", 3, NULL));
    long long first = fault_server_count(&server, "requests");
    for (size_t i = 0; i < ARRAY_COUNT(s); i++)
        CHECK_OK(store_put_record(s[i], "b", "one", 3, NULL));
    CHECK_EQ(fault_server_count(&server, "requests"), first + 8 + 7); /* 412, and a look */
    for (size_t i = 0; i < ARRAY_COUNT(s); i++)
        store_close(s[i]);
    store_close(reader);
    return 4;
}

/* Pages in any order, keys of all kinds, foreign objects in between. */
static int test_lists(void)
{
    static const char *const keys[] = { "l/a b", "l/a+b", "l/a%2Bb", "l/a&b<c>\"'", "l/~",
                                        "l/!",   "l/d/x", "l/d/y",   "l/e-/z",      "l/e/z" };
    int cases = 0;
    for (int ordered = 0; ordered < 2; ordered++) {
        tell("/reset", "null");
        tell("/behaviour", ordered ? "{'ordered_list':true}" : "{'ordered_list':false}");
        struct store *s = open_server("");
        for (size_t i = 0; i < ARRAY_COUNT(keys); i++)
            CHECK_OK(store_put_record(s, keys[i], "x", 1, NULL));
        for (int one_level = 0; one_level < 2; one_level++) {
            for (size_t cap = 1; cap <= 16; cap++, cases++) {
                static struct store_entry page[16];
                char last[STORE_KEY_MAX + 1] = "";
                size_t count, seen = 0;
                bool more = true;
                while (more) {
                    CHECK_OK(store_list(s, "l/", one_level, last, page, cap, &count, &more, NULL));
                    seen += count;
                    if (count)
                        snprintf(last, sizeof(last), "%s", page[count - 1].key);
                }
                CHECK_EQ(seen, one_level ? 9 : ARRAY_COUNT(keys)); /* d/ e-/ e/ */
            }
        }
        store_close(s);
    }
    tell("/behaviour", "{'ordered_list':true}");
    return cases;
}

/* More than one page, from a server without order: all of it, sorted, in bounded memory. */
static int test_long_list(void)
{
    enum { KEYS = 1050, CAP = 256 };
    static struct store_entry page[CAP];
    char key[32], last[STORE_KEY_MAX + 1] = "";
    size_t count, seen = 0;
    bool more = true;
    tell("/reset", "null");
    struct store *s = open_server("");
    for (int i = 0; i < KEYS; i++) {
        snprintf(key, sizeof(key), "n/%d", i);
        CHECK_OK(store_put_record(s, key, "x", 1, NULL));
    }
    tell("/behaviour", "{'ordered_list':false}");
    while (more) {
        CHECK_OK(store_list(s, "n/", false, last, page, CAP, &count, &more, NULL));
        seen += count;
        snprintf(last, sizeof(last), "%s", page[count - 1].key);
    }
    CHECK_EQ(seen, KEYS);
    tell("/behaviour", "{'ordered_list':true}");
    store_close(s);
    return KEYS;
}

/* The digest that a body goes out with is that of the body. */
static int test_digests(void)
{
    static const struct {
        bool tls;
        enum s3_digest digest;
        const char *hash, *name, *value;
    } cases[] = {
        { true, S3_DIGEST_CRC32C, "UNSIGNED-PAYLOAD", "x-amz-checksum-crc32c", "4waSgw==" },
        { true, S3_DIGEST_MD5, "UNSIGNED-PAYLOAD", "content-md5", "JfnnlDI7RTiF9RgfG2JNCw==" },
        { true, S3_DIGEST_NONE, "UNSIGNED-PAYLOAD", NULL, NULL },
        { true, S3_DIGEST_SHA256,
          "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225", NULL, NULL },
        { false, S3_DIGEST_NONE, "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
          NULL, NULL },
    };
    char bytes[] = "123456789";
    struct iovec iov[3] = { { bytes, 4 }, { bytes + 4, 0 }, { bytes + 4, 5 } };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        static struct s3_place place;
        struct s3_body body;
        place.tls = cases[i].tls;
        s3_body_init(&place, cases[i].digest, iov, 3, &body);
        CHECK_STR(body.payload_hash, cases[i].hash);
        CHECK_EQ(body.header_count, cases[i].name != NULL);
        if (cases[i].name) {
            CHECK_STR(body.headers[0].name, cases[i].name);
            CHECK_STR(body.headers[0].value, cases[i].value);
        }
    }
    return ARRAY_COUNT(cases);
}

/* The environment's proxy is used, but not for this machine. */
static int test_proxy(void)
{
    struct store_stat stat;
    struct ckpt_err err = { 0 };
    setenv("http_proxy", "http://127.0.0.1:1", 1);
    struct store *s = open_server("");
    CHECK_EQ(store_stat(s, "none", &stat, NULL), CKPT_NOT_FOUND);
    store_close(s);
    s = open_url("s3://bucket?endpoint=http://object-store.invalid");
    store_set_limits(s, in_ms(500), NULL);
    CHECK_EQ(store_stat(s, "none", &stat, &err), CKPT_TIMEOUT);
    CHECK(strstr(err.text, "127.0.0.1 port 1"));
    store_close(s);
    /* One that curl does not understand is not repeated: there is a password in it. */
    static const char *const proxies[] = { "moon://user:canary@h:1", "http://user:canary@h:1:2" };
    for (size_t i = 0; i < ARRAY_COUNT(proxies); i++) {
        setenv("http_proxy", proxies[i], 1);
        s = open_url("s3://bucket?endpoint=http://object-store.invalid");
        store_set_limits(s, in_ms(500), NULL);
        memset(&err, 0, sizeof(err));
        CHECK_EQ(store_stat(s, "none", &stat, &err), CKPT_TIMEOUT);
        CHECK(strstr(err.text, "Unsupported proxy") && !strstr(err.text, "canary"));
        store_close(s);
    }
    unsetenv("http_proxy");
    return 2 + (int)ARRAY_COUNT(proxies);
}

/* A handle has the connections that its own URL says, whatever else is open. */
static int test_connections(void)
{
    struct store *s = open_server(""), *one = open_server("connections=1");
    CHECK_EQ(store_s3_of(s)->site->place.connections, S3_CONNECTIONS);
    CHECK_EQ(store_s3_of(one)->site->place.connections, 1);
    store_close(one);
    store_close(s);
    return 1;
}

/* A server of three lines, that answers every request with the same body (but for one
 * that goes on with a list, if there is a second). */
struct canned {
    int fd;
    const char *body, *second;
    size_t cap;    /* of the listing */
    int64_t until; /* its deadline */
    atomic_bool stop;
};

static void *canned_main(void *arg)
{
    struct canned *c = arg;
    int fd;
    while ((fd = accept4(c->fd, NULL, NULL, SOCK_CLOEXEC)) >= 0 && !atomic_load(&c->stop)) {
        char request[4096] = "";
        const char *body = c->body;
        if (read(fd, request, sizeof(request) - 1) > 0) {
            if (c->second && strstr(request, "continuation-token="))
                body = c->second;
            dprintf(fd, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%s",
                    strlen(body), body);
        }
        close(fd);
    }
    if (fd >= 0)
        close(fd);
    return NULL;
}

/* Lists p/ of such a server; the first key goes to `key`. */
static enum ckpt_status list_canned(struct canned c, size_t *ret_count, char key[64],
                                    struct ckpt_err *err)
{
    struct sockaddr_in at = { .sin_family = AF_INET };
    socklen_t len = sizeof(at);
    static struct store_entry page[8];
    pthread_t thread;
    char url[100];
    bool more;
    c.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK(bind(c.fd, (struct sockaddr *)&at, len) == 0 && listen(c.fd, 8) == 0);
    CHECK(getsockname(c.fd, (struct sockaddr *)&at, &len) == 0);
    CHECK_EQ(pthread_create(&thread, NULL, canned_main, &c), 0);
    snprintf(url, sizeof(url), "s3://bucket/x?endpoint=http://127.0.0.1:%d", ntohs(at.sin_port));
    struct store *s = open_url(url);
    store_set_limits(s, c.until ? c.until : in_ms(60000), NULL);
    enum ckpt_status st = store_list(s, "p/", true, "", page, c.cap, ret_count, &more, err);
    snprintf(key, 64, "%.63s", st == CKPT_OK && *ret_count ? page[0].key : "");
    store_close(s);
    atomic_store(&c.stop, true);
    shutdown(c.fd, SHUT_RDWR);
    pthread_join(thread, NULL);
    close(c.fd);
    return st;
}

#define LIST(inside) "<ListBucketResult>" inside "</ListBucketResult>"
#define KEY(key)     "<Contents><Key>" key "</Key><Size>1</Size></Contents>"

/* Lists that lie: refused, or without what cannot be.  What is no list at all is none of an
 * object store: it is waited for one. */
static int test_lying_lists(void)
{
    static const struct {
        const char *body;
        enum ckpt_status st;
        size_t count;
    } cases[] = {
        { LIST(""), CKPT_OK, 0 },
        { LIST(KEY("x/p/a") KEY("x/p/b")), CKPT_OK, 2 },
        { LIST(KEY("x/p/b") KEY("x/p/a")), CKPT_OK, 2 }, /* out of order: all is read, and sorted */
        { LIST(KEY("x/p/a") KEY("x/p/a")), CKPT_OK, 1 },
        { LIST(KEY("x/q/a") KEY("y") KEY("") KEY("x/p/")), CKPT_OK, 0 },
        { LIST(KEY("x/p/a%00b") KEY("x/p/a%") KEY("x/p/a%2") KEY("x/p/%2e%2e") KEY("x/p/%0a")),
          CKPT_OK, 0 },
        { LIST("<Contents><Size>-1</Size><Key>x/p/a</Key></Contents>"), CKPT_OK, 1 },
        { LIST("<CommonPrefixes><Prefix>x/p/d/</Prefix></CommonPrefixes>"
               "<CommonPrefixes><Prefix>x/p/d</Prefix></CommonPrefixes>"),
          CKPT_OK, 1 },
        { LIST(KEY("x/p/a") "<IsTruncated>true</IsTruncated>"), CKPT_CORRUPT, 0 },
        { LIST(KEY("x/p/a") "<IsTruncated>true</IsTruncated>"
                            "<NextContinuationToken>same</NextContinuationToken>"),
          CKPT_CORRUPT, 0 },
        { "<ListBucketResult>" KEY("x/p/a"), CKPT_CORRUPT, 0 },
        { "<html><body>Log in to our network</body></html>", CKPT_TIMEOUT, 0 },
        { "<!DOCTYPE html>\n<html><ListBucketResult/></html>", CKPT_TIMEOUT, 0 },
        { "<Other></Other>", CKPT_TIMEOUT, 0 },
        { "\xff\xfe\x01", CKPT_TIMEOUT, 0 },
        { "", CKPT_TIMEOUT, 0 },
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        size_t count = 0;
        struct ckpt_err err = { 0 };
        char key[64];
        struct canned c = { .body = cases[i].body, .cap = 8 };
        c.until = cases[i].st == CKPT_TIMEOUT ? in_ms(300) : 0;
        enum ckpt_status st = list_canned(c, &count, key, &err);
        if (st != cases[i].st || count != cases[i].count ||
            (st == CKPT_TIMEOUT && !strstr(err.text, "want a login"))) {
            fprintf(stderr, "%s: %s, %zu: %s\n", cases[i].body, status_name(st), count, err.text);
            exit(1);
        }
    }
    return ARRAY_COUNT(cases);
}

#define MORE "<IsTruncated>true</IsTruncated><NextContinuationToken>2</NextContinuationToken>"

/* The smallest key is on the last page: nobody said so, but the first was not in order. */
static int test_order_not_kept(void)
{
    struct canned c = { .body = LIST(KEY("x/p/c") KEY("x/p/b") MORE),
                        .second = LIST(KEY("x/p/a")),
                        .cap = 1 };
    char key[64];
    size_t count;
    CHECK_OK(list_canned(c, &count, key, NULL));
    CHECK_STR(key, "p/a");
    return 1;
}

static int test_region_and_clock(void)
{
    tell("/reset", "null");
    tell("/region", "{'region':'eu-north-1'}");
    struct store *s = open_server("region=us-east-1");
    char text[1024];
    CHECK_OK(store_put_record(s, "a", "one", 3, NULL));
    store_to_text(s, text, sizeof(text));
    CHECK(strstr(text, "region eu-north-1"));
    store_close(s);
    tell("/region", "{'region':'us-east-1'}");
    static const char *const offsets[] = { "{'offset_s':4000}", "{'offset_s':-86400}" };
    for (size_t i = 0; i < ARRAY_COUNT(offsets); i++) {
        int64_t now;
        tell("/clock", offsets[i]);
        s = open_server("");
        CHECK_OK(store_put_record(s, i ? "b" : "c", "one", 3, NULL));
        CHECK_OK(store_now(s, &now, NULL));
        int64_t differs = now / 1000000000 - time(NULL);
        CHECK(i ? differs < -86000 && differs > -87000 : differs > 3900 && differs < 4100);
        store_close(s);
    }
    tell("/clock", "{'offset_s':0}");
    return 3;
}

static void write_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    CHECK(f && fputs(text, f) >= 0 && fclose(f) == 0);
}

/* Keys that end in the middle of the work: the file has newer ones by then. */
static int test_keys_renewed(void)
{
    char file[256], url[300];
    struct ckpt_err err = { 0 };
    snprintf(file, sizeof(file), "%s/credentials", scratch);
    write_file(file, "[p]\naws_access_key_id=AKIDOLD\naws_secret_access_key=old\n");
    setenv("AWS_SHARED_CREDENTIALS_FILE", file, 1);
    setenv("AWS_CONFIG_FILE", "/nonexistent", 1);
    tell("/reset", "null");
    tell("/keys", "{'AKIDOLD':{'secret':'old','token':''}}");
    snprintf(url, sizeof(url), "s3://bucket/x?endpoint=http://%s&profile=p", server.s3);
    struct store *s = open_url(url);
    CHECK_OK(store_put_record(s, "a", "one", 3, NULL));
    tell("/keys", "{'AKIDNEW':{'secret':'new','token':''}}");
    write_file(file, "[p]\naws_access_key_id=AKIDNEW\naws_secret_access_key=new\n");
    CHECK_OK(store_put_record(s, "b", "one", 3, NULL));
    tell("/keys", "{'AKIDNEWER':{'secret':'newer','token':''}}");
    CHECK_EQ(store_put_record(s, "c", "one", 3, &err), CKPT_DENIED);
    CHECK(strstr(err.text, "credentials"));
    store_close(s);
    unsetenv("AWS_SHARED_CREDENTIALS_FILE");
    tell("/keys", EXAMPLE_KEYS);
    return 3;
}

/* Each way that cannot be gone says what to do about it. */
static int test_ways(void)
{
    static const struct {
        const char *url;
        enum ckpt_status st;
        const char *words;
    } cases[] = {
        { "s3://bucket?endpoint=http://no-such-host.invalid", CKPT_TIMEOUT, "resolve host" },
        { "s3://bucket?endpoint=http://127.0.0.1:1", CKPT_TIMEOUT, "port 1" },
        { "s3://bucket?endpoint=https://%s", CKPT_TIMEOUT, "SSL" },
        { "s3://nobucket?endpoint=http://%s", CKPT_UNREACHABLE, "bucket does not exist" },
        { "s3://bucket?endpoint=http://%s&ca=/none", CKPT_NOT_FOUND, "no such object" },
    };
    tell("/reset", "null");
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        char url[300];
        struct store_stat stat;
        struct ckpt_err err = { 0 };
        snprintf(url, sizeof(url), "%.*s%s%s", (int)strcspn(cases[i].url, "%"), cases[i].url,
                 strchr(cases[i].url, '%') ? server.s3 : "",
                 strchr(cases[i].url, '%') ? strchr(cases[i].url, '%') + 2 : "");
        struct store *s = open_url(url);
        store_set_limits(s, in_ms(cases[i].st == CKPT_TIMEOUT ? 1000 : 60000), NULL);
        enum ckpt_status st = store_stat(s, "a", &stat, &err);
        if (st != cases[i].st || !strstr(err.text, cases[i].words)) {
            fprintf(stderr, "%s: %s: %s\n", url, status_name(st), err.text);
            exit(1);
        }
        store_close(s);
    }
    return ARRAY_COUNT(cases);
}

/* Somebody waits for the answer of a place that is not there, or is no S3: told within seconds,
 * by name.  One that has answered once is waited for. */
struct doubt {
    const char *scheme, *host; /* NULL: of a server of ours */
    const char *words;
    bool answered, pages;
    pthread_t thread;
    enum ckpt_status st;
    struct ckpt_err err;
};

static void *ask_attended(void *arg)
{
    struct doubt *d = arg;
    struct fault_server own;
    struct store_options options = { .attended = true };
    struct store *s, *other;
    struct store_stat stat;
    char url[300];
    if (d->answered || d->pages)
        fault_server_start(&own, NULL);
    if (d->pages)
        fault_server_tell(&own, "/faults", "[{\"fault\":\"page\",\"count\":-1}]");
    snprintf(url, sizeof(url), "s3://bucket?endpoint=%s://%s", d->scheme,
             d->answered || d->pages ? own.s3
             : d->host               ? d->host
                                     : server.s3);
    CHECK_OK(store_open(url, &options, &s, NULL));
    CHECK_OK(store_dup(s, &other, NULL));
    if (d->answered) {
        CHECK_EQ(store_stat(s, "a", &stat, NULL), CKPT_NOT_FOUND);
        fault_server_stop(&own);
    }
    store_set_limits(other, in_ms(d->answered ? 5500 : 60000), NULL);
    d->st = store_stat(other, "a", &stat, &d->err);
    if (d->pages)
        fault_server_stop(&own);
    store_close(other);
    store_close(s);
    return NULL;
}

static int test_attended(void)
{
    struct doubt doubts[] = {
        { "http", "no-such-host.invalid", "no-such-host.invalid", .answered = false },
        { "http", "127.0.0.1:1", "127.0.0.1:1", .answered = false },
        { "https", NULL, "TLS", .answered = false },
        { "http", NULL, "check the endpoint", .pages = true },
        { "http", NULL, "last seen", .answered = true },
    };
    for (size_t i = 0; i < ARRAY_COUNT(doubts); i++)
        CHECK(pthread_create(&doubts[i].thread, NULL, ask_attended, &doubts[i]) == 0);
    for (size_t i = 0; i < ARRAY_COUNT(doubts); i++) {
        struct doubt *d = &doubts[i];
        CHECK(pthread_join(d->thread, NULL) == 0);
        if (d->st != (d->answered ? CKPT_TIMEOUT : CKPT_UNREACHABLE) ||
            !strstr(d->err.text, d->words)) {
            fprintf(stderr, "%s, %s: %s\n", d->words, status_name(d->st), d->err.text);
            exit(1);
        }
    }
    return ARRAY_COUNT(doubts);
}

static void make_authority(void)
{
    char command[500];
    snprintf(command, sizeof(command), "%s/make_ca %s", S3_TESTS, scratch);
    CHECK_EQ(system(command), 0);
}

static int test_tls(void)
{
    static const struct {
        const char *certificate, *ca;
        enum ckpt_status st;
        const char *words;
    } cases[] = {
        { "server", "&ca=%s/ca.pem", CKPT_OK, "" },
        { "server", "", CKPT_UNREACHABLE, "ca=FILE" },
        { "server", "&ca=%s/other.pem", CKPT_UNREACHABLE, "ca=FILE" },
        { "wrong", "&ca=%s/ca.pem", CKPT_UNREACHABLE, "ca=FILE" },
        { "server", "&ca=%s/none.pem", CKPT_UNREACHABLE, "CA file" },
    };
    make_authority();
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        char certificate[300], key[300], ca[300] = "", url[600], text[1024];
        snprintf(certificate, sizeof(certificate), "%s/%s.pem", scratch, cases[i].certificate);
        snprintf(key, sizeof(key), "%s/%s.key", scratch, cases[i].certificate);
        const char *args[] = { "--tls", certificate, key, NULL };
        struct fault_server tls;
        struct ckpt_err err = { 0 };
        fault_server_start(&tls, args);
        const char *slash = strchr(cases[i].ca, '/');
        if (slash)
            snprintf(ca, sizeof(ca), "&ca=%s%s", scratch, slash);
        snprintf(url, sizeof(url), "s3://bucket?endpoint=https://%s%s", tls.s3, ca);
        struct store *s = open_url(url);
        enum ckpt_status st = store_put_record(s, "a", "one", 3, &err);
        if (st != cases[i].st || (st != CKPT_OK && !strstr(err.text, cases[i].words))) {
            fprintf(stderr, "%s: %s: %s\n", url, status_name(st), err_text(&err));
            exit(1);
        }
        store_to_text(s, text, sizeof(text));
        CHECK(st != CKPT_OK || strstr(text, "CRC32C")); /* the body is not hashed for nothing */
        store_close(s);
        fault_server_stop(&tls);
    }
    return ARRAY_COUNT(cases);
}

static void check_discreet(const char *text)
{
    if (strcasestr(text, "canary")) {
        fprintf(stderr, "a secret: %s\n", text);
        exit(1);
    }
}

/* Keys of one's own through every kind of trouble: no error, no text shows them. */
static int test_canary(void)
{
    static const char *const rules[] = {
        "[]",
        "[{'fault':'denied','count':-1}]",
        "[{'fault':'expired','count':-1}]",
        "[{'fault':'no_bucket','count':-1}]",
        "[{'fault':'reset','count':-1}]",
        "[{'fault':'error','status':403,'code':'SignatureDoesNotMatch','message':'no','count':-1}]",
        "[{'fault':'error','status':301,'code':'PermanentRedirect','count':-1}]",
        "[{'fault':'garbage','count':-1}]",
    };
    static const char *const names[] = { "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY",
                                         "AWS_SESSION_TOKEN" };
    char saved[2][128];
    for (int i = 0; i < 2; i++)
        snprintf(saved[i], sizeof(saved[i]), "%s", getenv(names[i]));
    setenv(names[0], CANARY_ID, 1);
    setenv(names[1], CANARY_SECRET, 1);
    setenv(names[2], CANARY_TOKEN, 1);
    tell("/reset", "null");
    tell("/keys", "{'" CANARY_ID "':{'secret':'" CANARY_SECRET "','token':'" CANARY_TOKEN "'}}");
    for (size_t i = 0; i <= ARRAY_COUNT(rules); i++) {
        if (i == ARRAY_COUNT(rules)) /* and unknown to the server altogether */
            tell("/keys", "{'AKIDOTHER':{'secret':'x','token':''}}");
        tell("/faults", i < ARRAY_COUNT(rules) ? rules[i] : "[]");
        struct ckpt_err err = { 0 };
        char text[1024];
        struct store *s = open_server("");
        store_set_limits(s, in_ms(600), NULL);
        enum ckpt_status st = store_put_record(s, "a", "one", 3, &err);
        CHECK_EQ(st == CKPT_OK, i == 0);
        check_discreet(err_text(&err));
        store_to_text(s, text, sizeof(text));
        check_discreet(text);
        store_close(s);
    }
    setenv(names[0], saved[0], 1);
    setenv(names[1], saved[1], 1);
    unsetenv(names[2]);
    tell("/keys", EXAMPLE_KEYS);
    return ARRAY_COUNT(rules) + 1;
}

int main(void)
{
    setenv("AWS_ACCESS_KEY_ID", EXAMPLE_ID, 1);
    setenv("AWS_SECRET_ACCESS_KEY", EXAMPLE_SECRET, 1);
    unsetenv("AWS_SESSION_TOKEN");
    scratch_make(scratch);
    fault_server_start(&server, NULL);
    int n = test_traits() + test_not_read_after_write() + test_probe_once() + test_lists() +
            test_long_list() + test_lying_lists() + test_order_not_kept() + test_digests() +
            test_proxy() + test_connections() + test_region_and_clock() + test_keys_renewed() +
            test_ways() + test_attended() + test_tls() + test_canary();
    fault_server_stop(&server);
    scratch_remove(scratch);
    TEST_CASES(n);
    return 0;
}
