/* The signer: AWS's published signatures, what must not be signed, and laws of the
 * canonical form.  (tests/s3/test_s3_botocore.py compares it with botocore.) */
#include <stdio.h>

#include "storage/store/s3_sign.h"

#include "check.h"

#define S3_ID     "AKIAIOSFODNN7EXAMPLE"
#define S3_SECRET "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
#define S3_TIME   1369353600 /* 2013-05-24 00:00:00 */

#define SUITE_ID     "AKIDEXAMPLE"
#define SUITE_SECRET "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
#define SUITE_TIME   1440938160 /* 2015-08-30 12:36:00 */

struct vector {
    const char *name, *method, *path;
    struct s3_pair query[4], headers[4]; /* up to the first without a name */
    const char *token, *signature;
};

/* The signing test suite of awslabs/aws-c-auth (service "service"), without the cases
 * that fold paths, which S3 does not, and those that send folded headers. */
static const struct vector suite[] = {
    { "get-header-key-duplicate",
      "GET",
      "/",
      { { 0 } },
      { { "My-Header1", "value2" }, { "My-Header1", "value2" }, { "My-Header1", "value1" } },
      "",
      "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea" },
    { "get-header-value-order",
      "GET",
      "/",
      { { 0 } },
      { { "My-Header1", "value4" },
        { "My-Header1", "value1" },
        { "My-Header1", "value3" },
        { "My-Header1", "value2" } },
      "",
      "08c7e5a9acfcfeb3ab6b2185e75ce8b1deb5e634ec47601a50643f830c755c01" },
    { "get-header-value-trim",
      "GET",
      "/",
      { { 0 } },
      { { "My-Header1", " value1" }, { "My-Header2", " \"a   b   c\"" } },
      "",
      "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736" },
    { "get-relative-relative-unnormalized",
      "GET",
      "/example1/example2/../..",
      { { 0 } },
      { { 0 } },
      "",
      "dc33e0856fd4baca4d7aa2146c38958283844764f38c74252a333df5e613003b" },
    { "get-relative-unnormalized",
      "GET",
      "/example/..",
      { { 0 } },
      { { 0 } },
      "",
      "eca7ead57bb5aa5c8e28007acd4ff04e1ff9a0ff3b237ec1554a184887ff9282" },
    { "get-slash-dot-slash-unnormalized",
      "GET",
      "/./",
      { { 0 } },
      { { 0 } },
      "",
      "68714168e6557f8f2de0ef956fc24dc2593a4bd2961f8df51898d8a134695145" },
    { "get-slash-pointless-dot-unnormalized",
      "GET",
      "/./example",
      { { 0 } },
      { { 0 } },
      "",
      "beb03f223f7deae4146464f06e29eebbee9c8afbe15c290cf07aa8b119e14cff" },
    { "get-slash-unnormalized",
      "GET",
      "//",
      { { 0 } },
      { { 0 } },
      "",
      "c88bcd3d312d75078c0cd961d6deae3f4c754924b01669efcfcb439fd5e5b76e" },
    { "get-slashes-unnormalized",
      "GET",
      "//example//",
      { { 0 } },
      { { 0 } },
      "",
      "87cca117541a147f6df867677d98a7d80dff226d2bfca9e4ffa899665623c7e5" },
    { "get-space-unnormalized",
      "GET",
      "/example space/",
      { { 0 } },
      { { 0 } },
      "",
      "652487583200325589f1fba4c7e578f72c47cb61beeca81406b39ddec1366741" },
    { "get-unreserved",
      "GET",
      "/-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
      { { 0 } },
      { { 0 } },
      "",
      "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f" },
    { "get-utf8",
      "GET",
      "/\341\210\264",
      { { 0 } },
      { { 0 } },
      "",
      "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85" },
    { "get-vanilla-empty-query-key",
      "GET",
      "/",
      { { "Param1", "value1" } },
      { { 0 } },
      "",
      "a67d582fa61cc504c4bae71f336f98b97f1ea3c7a6bfe1b6e45aec72011b9aeb" },
    { "get-vanilla-query-order-encoded",
      "GET",
      "/",
      { { "Param-3", "Value3" }, { "Param", "Value2" }, { "\341\210\264", "Value1" } },
      { { 0 } },
      "",
      "371d3713e185cc334048618a97f809c9ffe339c62934c032af5a0e595648fcac" },
    { "get-vanilla-query-order-key-case",
      "GET",
      "/",
      { { "Param2", "value2" }, { "Param1", "value1" } },
      { { 0 } },
      "",
      "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500" },
    { "get-vanilla-query-unreserved",
      "GET",
      "/",
      { { "-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
          "-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz" } },
      { { 0 } },
      "",
      "9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197" },
    { "get-vanilla-utf8-query",
      "GET",
      "/",
      { { "\341\210\264", "bar" } },
      { { 0 } },
      "",
      "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04" },
    { "get-vanilla-with-session-token",
      "GET",
      "/",
      { { 0 } },
      { { 0 } },
      "6e86291e8372ff2a2260956d9b8aae1d763fbf315fa00fa31553b73ebf194267",
      "07ec1639c89043aa0e3e2de82b96708f198cceab042d4a97044c66dd9f74e7f8" },
    { "get-vanilla",
      "GET",
      "/",
      { { 0 } },
      { { 0 } },
      "",
      "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31" },
    { "post-header-key-case",
      "POST",
      "/",
      { { 0 } },
      { { 0 } },
      "",
      "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b" },
    { "post-header-key-sort",
      "POST",
      "/",
      { { 0 } },
      { { "My-Header1", "value1" } },
      "",
      "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c" },
    { "post-header-value-case",
      "POST",
      "/",
      { { 0 } },
      { { "My-Header1", "VALUE1" } },
      "",
      "cdbc9802e29d2942e5e10b5bccfdd67c5f22c7c4e8ae67b53629efa58b974b7d" },
    { "post-vanilla-query",
      "POST",
      "/",
      { { "Param1", "value1" } },
      { { 0 } },
      "",
      "28038455d6de14eafc1f9222cf5aa6f1a96197d7deb8263271d420d138af7f11" },
    { "post-vanilla",
      "POST",
      "/",
      { { 0 } },
      { { 0 } },
      "",
      "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b" },
};

/* Amazon S3 API Reference, "Examples: Signature Calculations". */
struct s3_vector {
    struct vector v;
    const char *payload;
};
static const struct s3_vector documented[] = {
    { { "get-range",
        "GET",
        "/test.txt",
        { { 0 } },
        { { "Range", "bytes=0-9" } },
        "",
        "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41" },
      "" },
    { { "put",
        "PUT",
        "/test$file.text",
        { { 0 } },
        { { "Date", "Fri, 24 May 2013 00:00:00 GMT" },
          { "x-amz-storage-class", "REDUCED_REDUNDANCY" } },
        "",
        "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd" },
      "Welcome to Amazon S3." },
    { { "get-lifecycle",
        "GET",
        "/",
        { { "lifecycle", NULL } },
        { { 0 } },
        "",
        "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543" },
      "" },
    { { "list",
        "GET",
        "/",
        { { "prefix", "J" }, { "max-keys", "2" } },
        { { 0 } },
        "",
        "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7" },
      "" },
};

static struct s3_keys keys_of(const char *id, const char *secret, const char *token)
{
    struct s3_keys keys = { .expires_s = INT64_MAX, .generation = 1 };
    snprintf(keys.id, sizeof(keys.id), "%s", id);
    snprintf(keys.secret, sizeof(keys.secret), "%s", secret);
    snprintf(keys.token, sizeof(keys.token), "%s", token);
    return keys;
}

static struct s3_signer signer_of(const char *region, const char *service)
{
    struct s3_signer signer;
    CHECK_OK(s3_signer_init(&signer, region, service, NULL));
    return signer;
}

static size_t count_of(const struct s3_pair pairs[4])
{
    size_t n = 0;
    while (n < 4 && pairs[n].name)
        n++;
    return n;
}

static struct s3_request request_of(const struct vector *v, const char *host, int64_t time_s)
{
    return (struct s3_request){ .method = v->method,
                                .host = host,
                                .path = v->path,
                                .query = v->query,
                                .query_count = count_of(v->query),
                                .headers = v->headers,
                                .header_count = count_of(v->headers),
                                .payload_hash = S3_EMPTY_PAYLOAD,
                                .time_s = time_s };
}

static const char *signature_in(const struct s3_signature *s)
{
    const char *at = strstr(s->authorization, "Signature=");
    CHECK(at);
    return at + strlen("Signature=");
}

static int test_suite(void)
{
    struct s3_signer signer = signer_of("us-east-1", "service");
    for (size_t i = 0; i < ARRAY_COUNT(suite); i++) {
        struct s3_keys keys = keys_of(SUITE_ID, SUITE_SECRET, suite[i].token);
        struct s3_request r = request_of(&suite[i], "example.amazonaws.com", SUITE_TIME);
        struct s3_signature s;
        CHECK_OK(s3_sign(&signer, &keys, &r, &s, NULL));
        if (strcmp(signature_in(&s), suite[i].signature) != 0)
            fprintf(stderr, "vector %s\n", suite[i].name);
        CHECK_STR(signature_in(&s), suite[i].signature);
    }
    return (int)ARRAY_COUNT(suite);
}

static int test_documented(void)
{
    struct s3_signer signer = signer_of("us-east-1", "s3");
    struct s3_keys keys = keys_of(S3_ID, S3_SECRET, "");
    struct s3_signature s;
    for (size_t i = 0; i < ARRAY_COUNT(documented); i++) {
        const struct s3_vector *d = &documented[i];
        char hash[65];
        struct s3_request r = request_of(&d->v, "examplebucket.s3.amazonaws.com", S3_TIME);
        s3_payload_hash(&(struct iovec){ (char *)(uintptr_t)d->payload, strlen(d->payload) }, 1,
                        hash);
        r.payload_hash = hash;
        CHECK_OK(s3_sign(&signer, &keys, &r, &s, NULL));
        CHECK_STR(s.date, "20130524T000000Z");
        CHECK_STR(signature_in(&s), d->v.signature);
    }
    CHECK_STR(s.target, "/?max-keys=2&prefix=J");
    CHECK_STR(s.authorization,
              "AWS4-HMAC-SHA256 Credential=" S3_ID "/20130524/us-east-1/s3/aws4_request, "
              "SignedHeaders=host;x-amz-content-sha256;x-amz-date, "
              "Signature=34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7");
    return (int)ARRAY_COUNT(documented);
}

/* By botocore 1.43: names that are a prefix of others, a secret longer than a block of
 * SHA-256, a token, a port, a path that must be encoded. */
static int test_botocore(void)
{
    static const struct s3_pair query[] = { { "x", "b" }, { "x-1", "a" }, { "uploads", NULL } };
    static const struct s3_pair headers[] = { { "X-Amz-Meta-Test-Two", "2" },
                                              { "x-amz-meta-test", "1  1\t1 " },
                                              { "x-amz-meta-test.a", "3" },
                                              { "If-None-Match", "*" } };
    struct s3_signer signer = signer_of("eu-central-1", "s3");
    struct s3_keys keys = keys_of(S3_ID, S3_SECRET S3_SECRET S3_SECRET, "session/token+=");
    struct s3_request r = {
        "PUT",  "h.example.org:9000", "/b/step=10/a b+c", query, 3, headers, 4, S3_UNSIGNED_PAYLOAD,
        S3_TIME
    };
    struct s3_signature s;
    CHECK_OK(s3_sign(&signer, &keys, &r, &s, NULL));
    CHECK_STR(s.target, "/b/step%3D10/a%20b%2Bc?uploads=&x=b&x-1=a");
    CHECK_STR(s.authorization,
              "AWS4-HMAC-SHA256 Credential=" S3_ID "/20130524/eu-central-1/s3/aws4_request, "
              "SignedHeaders=host;if-none-match;x-amz-content-sha256;x-amz-date;x-amz-meta-test;"
              "x-amz-meta-test-two;x-amz-meta-test.a;x-amz-security-token, "
              "Signature=0995d13ec7a9ee3e39fbca1d0bac0965e0ce5197a63b4583b6a861d7e7e27a83");
    return 1;
}

static int test_payload_hash(void)
{
    char whole[65], parts[65];
    char text[] = "Welcome to Amazon S3.";
    struct iovec iov[] = { { text, 7 }, { text, 0 }, { text + 7, sizeof(text) - 1 - 7 } };
    s3_payload_hash(NULL, 0, whole);
    CHECK_STR(whole, S3_EMPTY_PAYLOAD);
    s3_payload_hash(&(struct iovec){ text, sizeof(text) - 1 }, 1, whole);
    s3_payload_hash(iov, 3, parts);
    CHECK_STR(whole, parts);
    CHECK_STR(whole, "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072");
    return 3;
}

static int test_target(void)
{
    static const struct {
        const char *path, *target;
    } paths[] = {
        { "/", "/" },
        { "/step=10/a b+c", "/step%3D10/a%20b%2Bc" },
        { "/\xc3\xbc/%25x", "/%C3%BC/%2525x" },
        { "/a//b/./c/../d/", "/a//b/./c/../d/" },
        { "/~._-!*'();:@&$,?#[]", "/~._-%21%2A%27%28%29%3B%3A%40%26%24%2C%3F%23%5B%5D" },
        { "/\x01\x7f\xff", "/%01%7F%FF" },
    };
    const struct s3_pair query[] = { { "uploads", NULL },
                                     { "prefix", "a/b c" },
                                     { "prefix-2", "" },
                                     { "prefix", "a/b" },
                                     { "a=b&c", "\xe2\x82" } };
    char target[S3_TARGET_MAX + 1];
    for (size_t i = 0; i < ARRAY_COUNT(paths); i++) {
        CHECK_OK(s3_target(paths[i].path, NULL, 0, target, sizeof(target), NULL));
        CHECK_STR(target, paths[i].target);
    }
    CHECK_OK(s3_target("/k", query, ARRAY_COUNT(query), target, sizeof(target), NULL));
    CHECK_STR(target, "/k?a%3Db%26c=%E2%82&prefix=a%2Fb&prefix=a%2Fb%20c&prefix-2=&uploads=");
    CHECK_EQ(s3_target("k", NULL, 0, target, sizeof(target), NULL), CKPT_INVALID);
    CHECK_EQ(s3_target("", NULL, 0, target, sizeof(target), NULL), CKPT_INVALID);
    CHECK_OK(s3_target("/k", query, 1, target, sizeof("/k?uploads="), NULL));
    for (size_t cap = 1; cap < sizeof("/k?uploads="); cap++)
        CHECK_EQ(s3_target("/k", query, 1, target, cap, NULL), CKPT_LIMIT);
    return (int)ARRAY_COUNT(paths) + 5;
}

/* Decoding gives the path back; what is left are unreserved characters; and the order in
 * which parameters and headers are given does not show. */
static int test_laws(void)
{
    enum { ROUNDS = 400, PAIRS = 6 };
    unsigned long long seed = test_seed(11);
    struct s3_signer signer = signer_of("us-east-1", "s3");
    struct s3_keys keys = keys_of(S3_ID, S3_SECRET, "token");
    for (int round = 0; round < ROUNDS; round++) {
        char path[64] = "/", text[PAIRS][2][8] = { 0 }, header[PAIRS][16];
        struct s3_pair query[PAIRS], headers[PAIRS];
        size_t n = 1 + test_rand(&seed) % 60;
        for (size_t i = 1; i < n; i++)
            path[i] = (char)(1 + test_rand(&seed) % 255);
        for (int i = 0; i < PAIRS; i++) {
            for (int k = 0; k < 6; k++)
                text[i][k / 3][k % 3] = "-.~%ab=& /\xc3"[test_rand(&seed) % 11];
            query[i] = (struct s3_pair){ text[i][0], text[i][1] };
            snprintf(header[i], sizeof(header[i]), "%s%c%d", i % 2 ? "x-amz-A" : "X-Amz-a",
                     i < 3 ? '-' : '.', i);
            headers[i] = (struct s3_pair){ header[i], "  v  w " };
        }
        struct s3_request r = { "PUT",  "h:80",  path,  query,
                                PAIRS,  headers, PAIRS, S3_UNSIGNED_PAYLOAD,
                                S3_TIME };
        struct s3_signature first, again;
        CHECK_OK(s3_sign(&signer, &keys, &r, &first, NULL));
        size_t at = 0;
        for (size_t i = 0; i < n; i++) {
            unsigned c = (unsigned char)first.target[at++];
            if (c == '%') {
                CHECK_EQ(sscanf(first.target + at, "%2X", &c), 1);
                at += 2;
            }
            CHECK_EQ(c, (unsigned char)path[i]);
        }
        CHECK_EQ(first.target[at], '?');
        CHECK_EQ(strspn(first.target, "/?&=%-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                      "abcdefghijklmnopqrstuvwxyz"),
                 strlen(first.target));
        for (size_t i = PAIRS - 1; i > 0; i--) {
            size_t j = test_rand(&seed) % (i + 1);
            struct s3_pair q = query[i], h = headers[i];
            query[i] = query[j], query[j] = q;
            headers[i] = headers[j], headers[j] = h;
        }
        CHECK_OK(s3_sign(&signer, &keys, &r, &again, NULL));
        CHECK_STR(again.target, first.target);
        CHECK_STR(again.authorization, first.authorization);
    }
    return ROUNDS;
}

/* The key of the day is kept, and never used for other keys, days, or regions. */
static int test_signing_key(void)
{
    struct vector get = { "get", "GET", "/k", { { 0 } }, { { 0 } }, "", "" };
    struct s3_request r = request_of(&get, "h", S3_TIME + 86399), tomorrow = r;
    struct s3_keys mine = keys_of("A", "secret-a", ""), other = keys_of("B", "secret-b", "");
    struct s3_signer signer = signer_of("us-east-1", "s3"), fresh;
    struct s3_signature s, want;
    other.generation = 2;
    tomorrow.time_s++;
    const struct {
        const struct s3_keys *keys;
        const struct s3_request *request;
    } order[] = { { &mine, &r },        { &mine, &r },         { &other, &r }, { &mine, &r },
                  { &mine, &tomorrow }, { &other, &tomorrow }, { &other, &r } };
    for (size_t i = 0; i < ARRAY_COUNT(order); i++) {
        fresh = signer_of("us-east-1", "s3");
        CHECK_OK(s3_sign(&fresh, order[i].keys, order[i].request, &want, NULL));
        CHECK_OK(s3_sign(&signer, order[i].keys, order[i].request, &s, NULL));
        CHECK_STR(s.authorization, want.authorization);
    }
    CHECK_STR(s.date, "20130524T235959Z");
    signer.key[0] ^= 1; /* shows that the key is the kept one, else nothing above says so */
    CHECK_OK(s3_sign(&signer, &other, &r, &s, NULL));
    CHECK(strcmp(s.authorization, want.authorization) != 0);
    CHECK_OK(s3_signer_init(&signer, "eu-west-1", "s3", NULL));
    CHECK_OK(s3_sign(&signer, &other, &r, &s, NULL));
    fresh = signer_of("eu-west-1", "s3");
    CHECK_OK(s3_sign(&fresh, &other, &r, &want, NULL));
    CHECK_STR(s.authorization, want.authorization);
    other.generation = mine.generation = 0; /* keys without a number are never kept */
    CHECK_OK(s3_sign(&signer, &other, &r, &s, NULL));
    CHECK_OK(s3_sign(&signer, &mine, &r, &s, NULL));
    fresh = signer_of("eu-west-1", "s3");
    CHECK_OK(s3_sign(&fresh, &mine, &r, &want, NULL));
    CHECK_STR(s.authorization, want.authorization);
    return (int)ARRAY_COUNT(order) + 3;
}

/* Each refusal names its cause, and quotes nothing of what it got. */
static int test_refused(void)
{
    const struct s3_pair canary[] = { { "x-amz-meta-a", "CANARY\n" } };
    const struct s3_pair ours[] = { { "X-Amz-Date", "1" },
                                    { "HOST", "h" },
                                    { "Authorization", "CANARY" },
                                    { "x-amz-security-token", "CANARY" },
                                    { "X-Amz-Content-SHA256", "1" },
                                    { "", "1" },
                                    { "a b", "1" },
                                    { "a:", "1" } };
    const struct s3_request good = { .method = "GET",
                                     .host = "h",
                                     .path = "/k",
                                     .payload_hash = S3_UNSIGNED_PAYLOAD,
                                     .time_s = S3_TIME };
    struct s3_request bad[18];
    size_t n = 0;
    for (; n < ARRAY_COUNT(ours); n++) {
        bad[n] = good;
        bad[n].headers = &ours[n], bad[n].header_count = 1;
    }
    for (size_t i = n; i < ARRAY_COUNT(bad); i++)
        bad[i] = good;
    bad[n].headers = canary, bad[n++].header_count = 1;
    bad[n++].method = "";
    bad[n++].method = "GET ";
    bad[n++].host = "";
    bad[n++].host = "h\r\nCANARY";
    bad[n++].path = "CANARY";
    bad[n++].payload_hash = "CANARY";
    bad[n++].payload_hash = "";
    bad[n++].time_s = -1;
    bad[n++].time_s = INT64_C(253402300800);
    CHECK_EQ(n, ARRAY_COUNT(bad));
    struct s3_keys keys = keys_of("id", "secret", "");
    struct s3_signer signer = signer_of("us-east-1", "s3");
    struct s3_signature s;
    CHECK_OK(s3_sign(&signer, &keys, &good, &s, NULL));
    for (size_t i = 0; i < n; i++) {
        struct ckpt_err err = { 0 };
        CHECK_EQ(s3_sign(&signer, &keys, &bad[i], &s, &err), CKPT_INVALID);
        CHECK(err.text[0] && !strstr(err.text, "CANARY"));
    }
    const struct s3_keys bad_keys[] = { keys_of("", "secret", ""), keys_of("id", "", ""),
                                        keys_of("id\n", "secret", ""),
                                        keys_of("id", "secret", "CANARY\r") };
    for (size_t i = 0; i < ARRAY_COUNT(bad_keys); i++) {
        struct ckpt_err err = { 0 };
        CHECK_EQ(s3_sign(&signer, &bad_keys[i], &good, &s, &err), CKPT_INVALID);
        CHECK(err.text[0] && !strstr(err.text, "CANARY"));
    }
    return (int)(n + ARRAY_COUNT(bad_keys));
}

/* At each limit it works, one beyond it does not. */
static int test_limits(void)
{
    static char path[S3_TARGET_MAX + 2], secret[S3_SECRET_MAX + 1], token[S3_SESSION_TOKEN_MAX + 1];
    static char region[S3_REGION_MAX + 2], name[130];
    static struct s3_pair pairs[S3_SIGN_PAIRS_MAX + 1], wide[S3_SIGN_PAIRS_MAX];
    struct s3_request r = { .method = "GET",
                            .host = "h",
                            .path = path,
                            .query = pairs,
                            .headers = pairs,
                            .payload_hash = S3_UNSIGNED_PAYLOAD,
                            .time_s = S3_TIME };
    struct s3_signer signer;
    struct s3_signature s;
    memset(region, 'r', S3_REGION_MAX + 1);
    CHECK_EQ(s3_signer_init(&signer, region, "s3", NULL), CKPT_INVALID);
    CHECK_EQ(s3_signer_init(&signer, "", "s3", NULL), CKPT_INVALID);
    CHECK_EQ(s3_signer_init(&signer, "us east", "s3", NULL), CKPT_INVALID);
    CHECK_EQ(s3_signer_init(&signer, "us-east-1", "", NULL), CKPT_INVALID);
    region[S3_REGION_MAX] = '\0';
    CHECK_OK(s3_signer_init(&signer, region, "s3", NULL));
    memset(secret, 's', S3_SECRET_MAX);
    memset(token, 't', S3_SESSION_TOKEN_MAX);
    struct s3_keys keys = keys_of("id", secret, token);
    memset(path, '/', S3_TARGET_MAX + 1);
    CHECK_EQ(s3_sign(&signer, &keys, &r, &s, NULL), CKPT_LIMIT);
    path[S3_TARGET_MAX] = '\0';
    CHECK_OK(s3_sign(&signer, &keys, &r, &s, NULL));
    path[1] = '\0';
    for (size_t i = 0; i < ARRAY_COUNT(pairs); i++)
        pairs[i] = (struct s3_pair){ "a", NULL };
    r.query_count = r.header_count = S3_SIGN_PAIRS_MAX;
    CHECK_OK(s3_sign(&signer, &keys, &r, &s, NULL));
    r.query_count++;
    CHECK_EQ(s3_sign(&signer, &keys, &r, &s, NULL), CKPT_LIMIT);
    r.query_count = 0, r.header_count++;
    CHECK_EQ(s3_sign(&signer, &keys, &r, &s, NULL), CKPT_LIMIT);
    memset(name, 'n', 128);
    char names[S3_SIGN_PAIRS_MAX][129];
    for (size_t i = 0; i < S3_SIGN_PAIRS_MAX; i++) {
        snprintf(names[i], sizeof(names[i]), "%02zu%.126s", i, name);
        wide[i] = (struct s3_pair){ names[i], "v" };
    }
    r.headers = wide, r.header_count = 10;
    CHECK_OK(s3_sign(&signer, &keys, &r, &s, NULL));
    r.header_count = S3_SIGN_PAIRS_MAX;
    CHECK_EQ(s3_sign(&signer, &keys, &r, &s, NULL), CKPT_LIMIT);
    name[128] = 'n';
    wide[0].name = name, r.header_count = 1;
    CHECK_EQ(s3_sign(&signer, &keys, &r, &s, NULL), CKPT_INVALID);
    return 13;
}

static int test_wiped(void)
{
    static const struct s3_keys no_keys;
    static const struct s3_signer no_signer;
    struct s3_keys keys = keys_of("id", "secret", "token");
    struct s3_signer signer = signer_of("us-east-1", "s3");
    memset(signer.key, 1, sizeof(signer.key));
    s3_keys_fini(&keys);
    s3_signer_fini(&signer);
    CHECK(memcmp(&keys, &no_keys, sizeof(keys)) == 0);
    CHECK(memcmp(&signer, &no_signer, sizeof(signer)) == 0);
    s3_keys_fini(NULL);
    s3_signer_fini(NULL);
    return 2;
}

int main(void)
{
    int n =
        test_suite() + test_documented() + test_botocore() + test_payload_hash() + test_target();
    n += test_laws() + test_signing_key() + test_refused() + test_limits() + test_wiped();
    TEST_CASES(n);
    return 0;
}
