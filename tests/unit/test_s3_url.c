/* s3:// URLs and the environment behind them. */
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "storage/store/s3_url.h"

#include "check.h"

/* name, value, ..., NULL */
static const char *scripted_env(void *arg, const char *name)
{
    const char *const *pairs = arg;
    for (; pairs[0]; pairs += 2) {
        if (strcmp(pairs[0], name) == 0)
            return pairs[1];
    }
    return NULL;
}

static enum ckpt_status parse(const char *url, const char *const *env, struct s3_place *p,
                              struct ckpt_err *err)
{
    char path[2048];
    snprintf(path, sizeof(path), "%s", url);
    char *query = strchr(path, '?');
    if (query)
        *query++ = 0;
    return s3_place_parse(path, query, scripted_env, (void *)(uintptr_t)env, p, err);
}

static const char *const empty[] = { "HOME", "/nonexistent", NULL };

static int test_places(void)
{
    static const char *const env[] = { "HOME",       "/nonexistent", "AWS_ENDPOINT_URL_S3",
                                       "http://e:1", "AWS_REGION",   "eu-north-1",
                                       NULL };
    static const struct {
        const char *url;
        const char *const *env;
        const char *host, *path, *bucket_path;
        bool tls;
    } cases[] = {
        { "bucket", empty, "bucket.s3.us-east-1.amazonaws.com", "/k", "/", true },
        { "bucket/", empty, "bucket.s3.us-east-1.amazonaws.com", "/k", "/", true },
        { "bucket/a/b//", empty, "bucket.s3.us-east-1.amazonaws.com", "/a/b/k", "/", true },
        { "bucket?region=cn-north-1", empty, "bucket.s3.cn-north-1.amazonaws.com.cn", "/k", "/",
          true },
        { "dot.ted", empty, "s3.us-east-1.amazonaws.com", "/dot.ted/k", "/dot.ted", true },
        { "UPPER", empty, "s3.us-east-1.amazonaws.com", "/UPPER/k", "/UPPER", true },
        { "bucket?style=path", empty, "s3.us-east-1.amazonaws.com", "/bucket/k", "/bucket", true },
        { "bucket/p", env, "e:1", "/bucket/p/k", "/bucket", false },
        { "bucket/p?style=virtual", env, "bucket.e:1", "/p/k", "/", false },
        { "dot.ted?style=virtual", env, "dot.ted.e:1", "/k", "/", false },
        { "bucket?endpoint=https://h:443/base/", env, "h", "/base/bucket/k", "/base/bucket", true },
        { "bucket?endpoint=http%3A%2F%2Fh%3A80", env, "h", "/bucket/k", "/bucket", false },
        { "bucket?endpoint=http://[::1]:9", empty, "[::1]:9", "/bucket/k", "/bucket", false },
    };
    static struct s3_place p;
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        char host[S3_HOST_MAX + 1], path[S3_PATH_MAX + 1];
        struct ckpt_err err = { 0 };
        if (parse(cases[i].url, cases[i].env, &p, &err) != CKPT_OK) {
            fprintf(stderr, "%s: %s\n", cases[i].url, err_text(&err));
            exit(1);
        }
        s3_place_host(&p, p.region, host);
        CHECK_STR(host, cases[i].host);
        CHECK_OK(s3_place_path(&p, "k", path, NULL));
        CHECK_STR(path, cases[i].path);
        CHECK_OK(s3_place_path(&p, "", path, NULL));
        CHECK_STR(path, cases[i].bucket_path);
        CHECK_EQ(p.tls, cases[i].tls);
    }
    return ARRAY_COUNT(cases);
}

static int test_options(void)
{
    static struct s3_place p;
    CHECK_OK(parse("bucket?region=eu-1&ca=/a%20b&payload=signed&connections=64", empty, &p, NULL));
    CHECK_STR(p.region, "eu-1");
    CHECK_STR(p.ca_file, "/a b");
    CHECK_EQ(p.payload, S3_PAYLOAD_SIGNED);
    CHECK_EQ(p.connections, 64);
    CHECK_OK(parse("bucket?payload=unsigned", empty, &p, NULL));
    CHECK_EQ(p.payload, S3_PAYLOAD_UNSIGNED);
    CHECK_EQ(p.connections, S3_CONNECTIONS);
    static const char *const own[] = { "HOME", "/nonexistent", "AWS_CA_BUNDLE", "/ca", NULL };
    CHECK_OK(parse("bucket", own, &p, NULL));
    CHECK_STR(p.ca_file, "/ca");
    static const char *const loops[] = { "http://127.0.0.1:1", "http://localhost",
                                         "http://localhost:5", "https://[::1]:4",
                                         "http://s3.localhost:5" };
    for (size_t i = 0; i < ARRAY_COUNT(loops); i++) {
        char url[80];
        snprintf(url, sizeof(url), "bucket?endpoint=%s", loops[i]);
        CHECK_OK(parse(url, empty, &p, NULL));
        CHECK(p.loopback);
    }
    static const char *const others[] = { "http://localhost.example", "http://notlocalhost",
                                          "http://s3.localhost.example:5" };
    for (size_t i = 0; i < ARRAY_COUNT(others); i++) {
        char url[80];
        snprintf(url, sizeof(url), "bucket?endpoint=%s", others[i]);
        CHECK_OK(parse(url, empty, &p, NULL));
        CHECK(!p.loopback);
    }
    return 7 + ARRAY_COUNT(loops) + ARRAY_COUNT(others);
}

/* A profile that says "virtual" says so of all buckets; some have no name for it. */
static int test_profile_style(void)
{
    static const struct {
        const char *style, *bucket, *host;
    } cases[] = {
        { "virtual", "bucket?endpoint=https://h", "bucket.h" },
        { "virtual", "dot.ted?endpoint=https://h", "h" },
        { "virtual", "dot.ted?endpoint=http://h", "dot.ted.h" },
        { "virtual", "UPPER?endpoint=http://h", "h" },
        { "virtual", "bucket?endpoint=https://h&style=path", "h" },
        { "path", "bucket", "s3.us-east-1.amazonaws.com" },
        { "path", "bucket?endpoint=https://h&style=virtual", "bucket.h" },
        { "auto", "bucket?endpoint=https://h", "h" },
        { "auto", "bucket", "bucket.s3.us-east-1.amazonaws.com" },
    };
    static struct s3_place p;
    char file[] = "/tmp/ckpt-test-s3-url-XXXXXX", host[S3_HOST_MAX + 1];
    int fd = mkostemp(file, O_CLOEXEC);
    CHECK(fd >= 0);
    const char *const env[] = { "HOME", "/nonexistent", "AWS_CONFIG_FILE", file, NULL };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        CHECK(ftruncate(fd, 0) == 0 && lseek(fd, 0, SEEK_SET) == 0);
        CHECK(dprintf(fd, "[default]\ns3 =\n  addressing_style = %s\n", cases[i].style) > 0);
        CHECK_OK(parse(cases[i].bucket, env, &p, NULL));
        s3_place_host(&p, p.region, host);
        CHECK_STR(host, cases[i].host);
    }
    close(fd);
    unlink(file);
    return ARRAY_COUNT(cases);
}

static int test_refusals(void)
{
    static const char *const bad[] = {
        "",
        "/",
        "ab",
        "-ab",
        ".ab",
        "b\xc3\xa4ume",
        "b cket",
        "bucket/../x",
        "bucket//x",
        "bucket/a\\b",
        "bucket?color=red",
        "bucket?region",
        "bucket?region=",
        "bucket?region=A B",
        "bucket?region=a&region=b",
        "bucket?region=a%0ab",
        "bucket?style=round",
        "dot.ted?style=virtual",
        "dot.ted?style=virtual&endpoint=https://h",
        "under_score?style=virtual&endpoint=http://h",
        "UPPER?style=virtual&endpoint=http://h",
        "bucket?payload=maybe",
        "bucket?connections=0",
        "bucket?connections=65",
        "bucket?connections=-1",
        "bucket?connections=1x",
        "bucket?endpoint=ftp://h",
        "bucket?endpoint=h",
        "bucket?endpoint=http://",
        "bucket?endpoint=http://h/?q",
        "bucket?endpoint=http://h%0d%0aX-Y:1",
        "bucket?endpoint=http://h\xff",
    };
    static struct s3_place p;
    struct ckpt_err err;
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        memset(&err, 0, sizeof(err));
        if (parse(bad[i], empty, &p, &err) != CKPT_INVALID || !err.text[0]) {
            fprintf(stderr, "not refused: %s\n", bad[i]);
            exit(1);
        }
    }
    /* What may be a secret is not repeated. */
    static const char *const secrets[] = { "AKIACANARY:secretcanary@bucket/x",
                                           "bucket?endpoint=http://u:secretcanary@h",
                                           "bucket?secret=secretcanary" };
    for (size_t i = 0; i < ARRAY_COUNT(secrets); i++) {
        memset(&err, 0, sizeof(err));
        CHECK_EQ(parse(secrets[i], empty, &p, &err), CKPT_INVALID);
        CHECK(!strstr(err.text, "canary") && !strstr(err.text, "CANARY"));
    }
    return ARRAY_COUNT(bad) + ARRAY_COUNT(secrets);
}

/* Prefix and key together are one key for the server. */
static int test_lengths(void)
{
    static struct s3_place p;
    char url[STORE_KEY_MAX + 32] = "bucket/", path[S3_PATH_MAX + 1], key[STORE_KEY_MAX + 1];
    for (int i = 0; i < 1000; i++)
        url[7 + i] = i % 100 == 99 ? '/' : 'p';
    url[7 + 999] = 0;
    CHECK_OK(parse(url, empty, &p, NULL));
    memset(key, 'k', sizeof(key));
    key[24] = 0;
    CHECK_OK(s3_place_path(&p, key, path, NULL));
    key[24] = 'k';
    key[25] = 0;
    CHECK_EQ(s3_place_path(&p, key, path, NULL), CKPT_LIMIT);
    memset(url + 7, 'p', 200);
    for (size_t i = 7 + 200; i < 7 + STORE_KEY_MAX; i++)
        url[i] = i % 100 == 99 ? '/' : 'p';
    url[7 + STORE_KEY_MAX] = 0;
    CHECK_EQ(parse(url, empty, &p, NULL), CKPT_INVALID);
    return 4;
}

int main(void)
{
    TEST_CASES(test_places() + test_options() + test_profile_style() + test_refusals() +
               test_lengths());
    return 0;
}
